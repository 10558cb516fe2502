"""What is prepared from settings, against numbers worked out by hand."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchcube.engine.continuous.ticks import TICKS_PER_S as STEP_TICKS_PER_S
from batchcube.engine.policies.bins import exponential_edges
from batchcube.engine.ticks import TICKS_PER_S
from batchcube.errors import InputError
from batchcube.sweeps.run.draws import Draws
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.run.preparing import PreparedPoint, prepare
from batchcube.sweeps.spec.document import Sweep
from helpers.specifications import laid

QUEUE: dict[str, Any] = {
    "replications": 4,
    "workload": {
        "requests": 50_000,
        "arrivals": {"process": "poisson", "rate_per_s": 5e5},
        "lengths": {"distribution": "exponential", "mean": 1e-6, "unit": "seconds"},
    },
    "policy": {"mode": "fifo_greedy", "batch_size": 1},
    "server": {"service": {"law": "given"}},
}
TOKENS: dict[str, Any] = {
    "workload": {
        "requests": 100,
        "arrivals": {"process": "poisson", "rate_per_s": 1.0},
        "lengths": {"distribution": "constant", "value": 100.0, "prompt": {"distribution": "constant", "value": 300.0}},
    },
    "policy": {"mode": "fifo_greedy", "batch_size": 4},
    "server": {"service": {"law": "constant", "a1_s_per_token": 1e-8}},
}


def sweep(tables: dict[str, Any], settings: dict[str, Any]) -> Sweep:
    """Make a sweep of tables with settings laid over them."""
    return Sweep.model_validate(laid(tables, settings), "sweep.toml")


# Whole microseconds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "settings", "line"),
    [
        (
            QUEUE,
            {},
            "workload.lengths: service times of 1e-06 s on average would be rounded to 1.3",
        ),
        (
            QUEUE,
            {"workload.lengths": {"distribution": "constant", "value": 1.4e-6, "unit": "seconds"}},
            "workload.lengths: service times of 1.4e-06 s on average would be rounded to 1e-06, in whole microseconds, "
            "at least one: must be at least 0.0001, the smallest mean that is always kept within 1 %, or whole",
        ),
        (
            QUEUE,
            {"workload.lengths": {"distribution": "constant", "value": 1.02e-5, "unit": "seconds"}},
            "workload.lengths: service times of 1.02e-05 s on average would be rounded to 1e-05, in whole microseconds",
        ),
        (
            TOKENS,
            {"server.service.a1_s_per_token": 2e-9},
            "server.service: batches of one request of 2e-07 s on average would be rounded to 1e-06, in whole",
        ),
        (
            TOKENS,
            {"server.service": {"law": "linear", "a1_s_per_token": 6e-9, "gamma": 0.1, "length": "total"}},
            "server.service: batches of one request of 2.4e-06 s on average would be rounded to 2e-06, in whole",
        ),
    ],
)
def test_service_times_that_whole_microseconds_change_are_refused(
    tables: dict[str, Any], settings: dict[str, Any], line: str
) -> None:
    with pytest.raises(InputError) as caught:
        prepare(sweep(tables, settings))
    assert str(caught.value).startswith(f"sweep.toml: {line}")


@pytest.mark.parametrize(
    ("tables", "settings"),
    [
        (QUEUE, {"workload.lengths.mean": 1e-4}),
        (QUEUE, {"workload.lengths": {"distribution": "constant", "value": 3e-6, "unit": "seconds"}}),
        (TOKENS, {}),
        (TOKENS, {"server.service": {"law": "constant", "a1_s_per_token": 5e-9, "length": "total"}}),
    ],
)
def test_service_times_that_whole_microseconds_keep_are_allowed(
    tables: dict[str, Any], settings: dict[str, Any]
) -> None:
    prepare(sweep(tables, settings))


def test_a_queue_of_the_smallest_service_times_has_the_load_that_was_asked_for() -> None:
    """M/M/1 at load 1/2: work and span of n requests both vary by 1 / n of their square."""
    cube = run_sweep(sweep(QUEUE, {"workload.lengths.mean": 1e-4, "workload.arrivals.rate_per_s": 5e3}))
    error = 0.5 * np.sqrt(2 / 50_000 / 4)
    assert abs(float(cube["utilisation"].mean()) - 0.5) < 4.5 * error


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"server.service.a0_s": 4e-7},
            "server.service.a0_s = 4e-07: would be rounded to 0, in whole microseconds: must be 0, or at least 5e-05, "
            "the smallest value that is always kept within 1 %, or whole microseconds itself",
        ),
        (
            {"policy.mode": "fifo_fixed", "policy.max_wait_s": 1.5e-6},
            "policy.max_wait_s = 1.5e-06: would be rounded to 2e-06, in whole microseconds",
        ),
        (
            {"report.request_sla_s": 2e-7},
            "report.request_sla_s = 2e-07: would be rounded to 0, in whole microseconds",
        ),
    ],
)
def test_settings_that_whole_microseconds_change_are_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        sweep(TOKENS, settings)
    assert str(caught.value).startswith(f"sweep.toml: {line}")


# A recorded trace of four requests, by hand --------------------------------------------------------------------------

ROWS = "arrival_s,prompt_tokens,output_tokens\n0,5,10\n20,15,20\n50,50,100\n100,100,300\n"
STEPS: dict[str, Any] = {
    "policy": {"mode": "continuous", "largest_batch": 4},
    "server": {"service": {"law": "steps", "c0_s": 0.01}, "replica": {"kv_capacity_tokens": 1000}},
}
CONTROLLED = {"mode": "multi_bin_dynamic", "bins": 2, "largest_batch": 64, "memory": {"capacity_tokens": 1500}}


@pytest.fixture
def recorded(tmp_path: Path) -> dict[str, Any]:
    """Tables of a sweep over the trace: static batches of 2 in 2 bins, cut at 60 output tokens."""
    file = tmp_path / "trace.csv"
    file.write_text(ROWS)
    return {
        "workload": {"trace": {"path": str(file)}},
        "policy": {"mode": "multi_bin_only", "bins": 2, "batch_size": 2},
        "server": {"service": {"law": "constant", "a1_s_per_token": 0.01}},
        "report": {"windows": 10},
    }


def planned(tables: dict[str, Any], settings: dict[str, Any] | None = None) -> PreparedPoint:
    """Prepare the single point of a sweep."""
    (point,) = prepare(sweep(tables, settings or {})).points
    return point


def drawn(tables: dict[str, Any], settings: dict[str, Any] | None = None) -> Any:
    """Draw the job of a single point's first replication."""
    return Draws(0, 0).job(planned(tables, settings))


def test_first_beliefs_are_the_moments_of_each_bin(recorded: dict[str, Any]) -> None:
    """Prompt + output: 15 and 35 in the first bin, 150 and 400 in the second."""
    control = planned(recorded, {"policy": CONTROLLED}).setup.control
    assert control.prior_tokens.tolist() == [25, 275]
    assert control.prior_squares.tolist() == [(15**2 + 35**2) / 2, (150**2 + 400**2) / 2]
    both = planned(recorded, {"policy": {**CONTROLLED, "controller_scope": "global"}}).setup.control
    assert both.prior_tokens.tolist() == [150, 150]
    assert both.prior_squares.tolist() == [(15**2 + 35**2 + 150**2 + 400**2) / 4] * 2
    seen = {"sample": "prefix", "prefix_requests": 2}
    early = planned(recorded, {"policy": {**CONTROLLED, "controller_scope": "global", "edges": seen}}).setup.control
    assert early.prior_tokens.tolist() == [25, 25]


def test_under_continuous_batching_one_controller_believes_what_all_bins_say(recorded: dict[str, Any]) -> None:
    policy = {"mode": "continuous", "bins": 2, "largest_batch": 4, "admission": "by_bin", "memory": {}}
    control = planned(recorded, {"policy": policy, "server": STEPS["server"]}).setup.replica.control
    assert control.prior_tokens.tolist() == [150]
    assert control.prior_squares.tolist() == [(15**2 + 35**2 + 150**2 + 400**2) / 4]


def test_a_bin_that_the_sample_does_not_hit_believes_what_all_of_it_says(recorded: dict[str, Any]) -> None:
    edges = {"kind": "explicit", "values": [0.0, 60.0, 1e6, 2e6]}
    control = planned(recorded, {"policy": {**CONTROLLED, "bins": 3, "edges": edges}}).setup.control
    assert control.prior_tokens.tolist() == [25, 275, 150]


@pytest.mark.parametrize(
    ("settings", "span_s"),
    [
        ({}, 100.0),
        ({"workload.trace.rate_scale": 4.0}, 25.0),
        ({"workload.requests": 2}, 50.0),
        ({"workload.requests": 8, "workload.trace.resample": "blocks", "workload.trace.rate_scale": 0.5}, 400.0),
        ({"report.horizon_s": 7.0, "workload.trace.rate_scale": 4.0}, 7.0),
    ],
)
def test_windows_of_a_trace_span_its_arrivals_at_the_rate_it_is_played_at(
    recorded: dict[str, Any], settings: dict[str, Any], span_s: float
) -> None:
    assert planned(recorded, settings).setup.reporting.window == span_s / 10 * TICKS_PER_S
    del recorded["policy"], recorded["server"]
    continuous = {**recorded, **STEPS}
    assert planned(continuous, settings).setup.reporting.window == span_s / 10 * STEP_TICKS_PER_S


def test_arrivals_of_a_trace_are_divided_by_its_rate_scale(recorded: dict[str, Any]) -> None:
    scaled = {"workload.trace.rate_scale": 4.0}
    assert drawn(recorded, scaled).trace.arrival.tolist() == [0, 5_000_000, 12_500_000, 25_000_000]
    del recorded["policy"], recorded["server"]
    steps = drawn({**recorded, **STEPS}, scaled)
    assert steps.requests.arrival.tolist() == [0, 5 * 10**12, 125 * 10**11, 25 * 10**12]
    assert (steps.requests.prompt.tolist(), steps.requests.output.tolist()) == ([5, 15, 50, 100], [10, 20, 100, 300])


@pytest.mark.parametrize(("length", "predicted"), [("output", [10, 20, 100, 300]), ("total", [15, 35, 150, 400])])
def test_the_shortest_batch_is_found_by_what_a_batch_is_dominated_by(
    recorded: dict[str, Any], length: str, predicted: list[int]
) -> None:
    settings = {"policy.service_order": "shortest_first", "server.service.length": length}
    trace = drawn(recorded, settings).trace
    assert trace.predicted.tolist() == trace.length.tolist() == predicted


def test_the_shortest_batch_of_service_times_is_found_in_ticks() -> None:
    lengths = {"distribution": "uniform", "unit": "seconds", "low": 1.0, "high": 20.0}
    policy = {"mode": "fifo_fixed", "batch_size": 2, "service_order": "shortest_first"}
    trace = drawn(QUEUE, {"workload.lengths": lengths, "workload.requests": 50, "policy": policy}).trace
    np.testing.assert_allclose(trace.predicted, trace.length, atol=0.5)


@pytest.mark.parametrize(
    ("edges", "inner"),
    [
        ({}, 60.0),  # the median of 10, 20, 100, 300
        ({"kind": "uniform"}, 155.0),
        ({"kind": "exponential"}, 107.5 * np.log(1.5)),  # mean 107.5, H_2 = 1.5
        ({"kind": "explicit", "values": [0.0, 99.5, 1e3]}, 99.5),
        ({"sample": "prefix", "prefix_requests": 2}, 15.0),
    ],
)
def test_bins_are_cut_where_the_settings_say(recorded: dict[str, Any], edges: dict[str, Any], inner: float) -> None:
    plan = planned(recorded, {"policy.edges": edges})
    assert plan.edges[1] == pytest.approx(inner, rel=1e-12)
    bins = drawn(recorded, {"policy.edges": edges}).bins
    assert bins.of.tolist() == [int(output >= inner) for output in (10, 20, 100, 300)]


def test_known_distributions_are_cut_by_their_parameters_and_not_by_a_sample() -> None:
    policy = {"mode": "multi_bin_only", "bins": 2, "batch_size": 4}
    uniform = {"distribution": "uniform", "unit": "seconds", "low": 1.0, "high": 20.0}
    settings = {"workload.lengths": uniform, "policy": {**policy, "edges": {"kind": "uniform"}}}
    assert planned(QUEUE, settings).edges.tolist() == [1.0, 10.5, 20.0]
    exponential = {"distribution": "exponential", "unit": "seconds", "mean": 10.0}
    settings = {"workload.lengths": exponential, "policy": {**policy, "edges": {"kind": "exponential"}}}
    np.testing.assert_array_equal(planned(QUEUE, settings).edges, exponential_edges(0.1, 4, 2))


def test_a_plan_knows_the_requests_of_its_sample(recorded: dict[str, Any]) -> None:
    plan = planned(recorded, {"report.warmup_fraction": 0.6})
    assert (plan.requests, plan.setup.largest_batch, plan.mean_prompt, plan.longest) == (4, 2, 42.5, 300)
    assert plan.setup.reporting.warmup == 2
    # 0.29 of 100 is 29, though 0.29 * 100 in binary floating point is 28.999999999999996.
    for fraction, requests, left_out in ((0.29, 100, 29), (0.57, 1000, 570), (0.999, 100, 99), (1e-5, 100, 0)):
        settings = {"report.warmup_fraction": fraction, "workload.requests": requests}
        assert planned(TOKENS, settings).setup.reporting.warmup == left_out
    assert planned(recorded, {"report.warmup_requests": 3}).setup.reporting.warmup == 3
    assert planned(recorded, {"policy": CONTROLLED}).setup.largest_batch == 64
    assert planned({**TOKENS, **STEPS}).setup.largest_batch == 4


@pytest.mark.parametrize(
    ("settings", "span_s"),
    [
        ({"workload.arrivals.rate_per_s": 0.5}, 200.0),
        # 100 requests at once: 25 batches of 4, on 2 servers, each of 0.01 · 100 · (1 + 0.1 · 3) = 1.3 s.
        (
            {
                "workload.arrivals": {"process": "at_once"},
                "server": {"servers": 2, "service": {"law": "linear", "a1_s_per_token": 0.01, "gamma": 0.1}},
            },
            25 / 2 * 1.3,
        ),
        # Steps of 4: 300 + 50 tokens read by each decode in the middle of 100 steps of c0 + 4 (c1 + 350 c2), for each
        # of 25 such groups; and 300 tokens of prefill, with an attention of 300² / 2, for each of 100 requests.
        (
            {
                "workload.arrivals": {"process": "at_once"},
                "policy": STEPS["policy"],
                "server": {
                    "service": {
                        "law": "steps",
                        "c0_s": 0.03,
                        "c1_s_per_request": 1e-3,
                        "c2_s_per_kv_token": 1e-5,
                        "c3_s_per_prefill_token": 1e-4,
                        "c4_s_per_prefill_attention": 1e-6,
                    },
                    "replica": {"kv_capacity_tokens": 10**6},
                },
            },
            25 * 100 * (0.03 + 4 * (1e-3 + 350 * 1e-5)) + 100 * (300 * 1e-4 + 45_000 * 1e-6),
        ),
        # The same with room for 2.5 requests of 400 tokens, and twice the replicas.
        (
            {
                "workload.arrivals": {"process": "at_once"},
                "policy": STEPS["policy"],
                "server": {
                    "servers": 2,
                    "service": {"law": "steps", "c0_s": 0.03, "c1_s_per_request": 1e-3},
                    "replica": {"kv_capacity_tokens": 1000, "block_tokens": 1},
                },
            },
            (100 / 2.5 * 100 * (0.03 + 2.5 * 1e-3)) / 2,
        ),
    ],
)
def test_windows_of_drawn_requests_span_their_arrivals_or_their_work(settings: dict[str, Any], span_s: float) -> None:
    setup = planned(TOKENS, {"server.service.a1_s_per_token": 0.01, "report.windows": 10, **settings}).setup
    ticks_per_s = STEP_TICKS_PER_S if "replica" in settings.get("server", {}) else TICKS_PER_S
    assert setup.reporting.window == pytest.approx(span_s / 10 * ticks_per_s, rel=1e-6)


def test_controllers_have_the_settings_of_the_policy(recorded: dict[str, Any]) -> None:
    sla = {"target_s": 0.05, "tolerance_s": 0.002, "alpha": 9, "delta": 3}
    memory = {"max_bytes": 9e6, "model_bytes": 1e6, "kv_bytes_per_token": 1e4, "rule": "margin", "margin_fraction": 0.1}
    estimates = {"kind": "window", "observations": 7}
    policy = {**CONTROLLED, "smallest_batch": 3, "sla": sla, "memory": memory, "estimates": estimates}
    control = planned(recorded, {"policy": policy}).setup.control
    assert (control.smallest, control.largest) == (3, 64)
    assert (control.memory.enabled, control.memory.capacity, control.memory.margin) == (True, 800, 80)
    assert (control.sla.target, control.sla.tolerance, control.sla.alpha, control.sla.delta) == (5e4, 2e3, 9, 3)
    assert (control.smoothing.kind, control.smoothing.observations) == (1, 7)
    counted = planned(recorded, {"report.memory_capacity_tokens": 500}).setup.control
    assert (counted.memory.enabled, counted.memory.capacity, counted.largest) == (False, 500, 2)
    # Under continuous batching the capacity is that of the whole blocks.
    steps = deepcopy(STEPS)
    steps["policy"]["memory"] = {"rule": "margin", "margin_fraction": 0.1}
    held = planned({**TOKENS, **steps}).setup.replica.control.memory
    assert (held.capacity, held.margin) == (992, pytest.approx(99.2))


def test_a_target_that_a_single_request_misses_is_refused() -> None:
    """A decode reads the prompt of 300 and its own token: 10 + 301 · 0.01 = 13.01 ms."""
    steps = deepcopy(STEPS)
    steps["server"]["service"]["c2_s_per_kv_token"] = 1e-5
    steps["policy"]["sla"] = {"target_s": 0.013, "tolerance_s": 0.0}
    with pytest.raises(InputError, match=r"policy\.sla\.target_s = 0\.013: must be, with tolerance_s = 0"):
        planned({**TOKENS, **steps})
    steps["policy"]["sla"]["tolerance_s"] = 1e-5
    assert planned({**TOKENS, **steps}).setup.largest_batch == 4


# Which draws points share -------------------------------------------------------------------------------------------

BINNED: dict[str, Any] = {
    **TOKENS,
    "workload": {**TOKENS["workload"], "lengths": {"distribution": "uniform", "low": 50.0, "high": 150.0}},
    "policy": {"mode": "multi_bin_only", "bins": 2, "batch_size": 4},
    "server": {"service": {"law": "constant", "a1_s_per_token": 0.01}},
}


@pytest.mark.parametrize(
    ("path", "values", "shared"),
    [
        ("workload.arrivals.rate_per_s", [1.0, 2.0], "unit_arrivals lengths trace prediction bins service"),
        ("policy.bins", [2, 3], "unit_arrivals arrivals lengths trace prediction service"),
        ("policy.batch_size", [2, 4], "unit_arrivals arrivals lengths trace prediction bins"),
        ("server.service.length", ["output", "total"], "unit_arrivals arrivals lengths prediction bins"),
        ("workload.lengths.high", [150.0, 160.0], "unit_arrivals arrivals service"),
        ("workload.requests", [50, 60], "service"),
    ],
)
def test_points_share_the_draws_that_a_setting_does_not_touch(path: str, values: list[Any], shared: str) -> None:
    settings = {path: None, "axes": {"values": {"path": path, "values": values}}}
    one, two = (plan.keys._asdict() for plan in prepare(sweep(BINNED, settings)).points)
    assert {name for name in one if one[name] == two[name]} == set(shared.split())


@pytest.mark.parametrize(("predictor", "shared"), [("oracle", True), ("lognormal", True), ("adjacent", False)])
def test_predictions_of_bins_depend_on_the_bins(predictor: str, shared: bool) -> None:
    more = {"oracle": {}, "lognormal": {"sigma": 0.3}, "adjacent": {"error_probability": 0.1}}
    settings = {
        "workload.predictor": {"kind": predictor, **more[predictor]},
        "policy.bins": None,
        "axes": {"values": {"path": "policy.bins", "values": [2, 3]}},
    }
    one, two = (plan.keys for plan in prepare(sweep(BINNED, settings)).points)
    assert (one.prediction == two.prediction) is shared


def test_rates_of_a_recorded_trace_share_the_window(recorded: dict[str, Any]) -> None:
    axes = {"values": {"path": "workload.trace.rate_scale", "values": [1.0, 2.0]}}
    one, two = (plan.keys._asdict() for plan in prepare(sweep(recorded, {"axes": axes})).points)
    assert {name for name in one if one[name] != two[name]} == {"arrivals"}
