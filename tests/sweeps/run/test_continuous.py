"""Mode continuous from the specification to the cube."""

import json
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from batchcube.calibration.coefficients import locate
from batchcube.engine import continuous, simulate_many, simulate_records
from batchcube.engine.continuous.ticks import TICKS_PER_S
from batchcube.errors import InputError
from batchcube.results.cube import read_cube
from batchcube.results.labelled import of_single
from batchcube.results.summary import refusals
from batchcube.results.variables import REGISTRY
from batchcube.sweeps.progress import Silent, tell_notes
from batchcube.sweeps.run import simulate
from batchcube.sweeps.run.assemble import in_percent
from batchcube.sweeps.run.draws import Draws
from batchcube.sweeps.run.execution import estimate, run_sweep
from batchcube.sweeps.run.laws import unmeasured_costs
from batchcube.sweeps.run.preparing import prepare
from batchcube.sweeps.run.single import simulate_one
from batchcube.sweeps.seeds import stream
from batchcube.sweeps.spec.document import Sweep
from batchcube.sweeps.spec.service import drawn_steps, load
from batchcube.sweeps.spec.settings import CoefficientsLaw
from helpers.command_line import Answer
from helpers.specifications import CONTINUOUS as BASE
from helpers.specifications import STEP_LAW, TOKENS, laid

DOCS = Path(__file__).parents[3] / "docs"
BY_BIN = {"mode": "continuous", "largest_batch": 16, "bins": 3, "admission": "by_bin"}
# Every option of the policy, over two rates.
POLICIES: dict[str, Any] = {
    "static": {},
    "memory": {"policy": {"memory": {"rule": "exact", "overflow_probability": 0.1}}},
    "margin": {"policy": {"memory": {"rule": "margin", "margin_fraction": 0.2}, "smallest_batch": 2}},
    "sla": {"policy": {"sla": {"target_s": 0.024, "tolerance_s": 0.001}, "estimates": {"weight": 0.5}}},
    "both": {"policy": {"memory": {}, "sla": {"target_s": 0.024, "tolerance_s": 0.001, "variant": "heuristic"}}},
    "separate": {"server": {"replica": {"prefill": "separate", "token_budget": 2048, "block_tokens": 1}}},
    "by bin": {"policy": {"admission": "by_bin", "bins": 3, "bin_choice": "longest_queue"}},
    "shortest queue": {"server": {"servers": 2, "routing": "shortest_queue"}},
    "in lockstep": {"server": {"servers": 2, "lockstep": True}},
    "replica by bin": {"server": {"servers": 2, "routing": "by_bin"}, "policy": {"bins": 3}},
}
SWEEP: dict[str, Any] = {
    **BASE,
    "workload": {**BASE["workload"], "arrivals": {"process": "poisson"}},
    "axes": {
        "policy": {"points": POLICIES},
        "arrival_rate_per_s": {"path": "workload.arrivals.rate_per_s", "values": [6.0, 12.0]},
    },
}


def sweep(tables: dict[str, Any] = SWEEP, **changes: Any) -> Sweep:
    return Sweep.model_validate({**deepcopy(tables), **changes}, "sweep.toml")


def data_of(cube: xr.Dataset) -> xr.Dataset:
    return cube.drop_attrs(deep=False)


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    return run_sweep(sweep(), workers=1)


# What only the data show --------------------------------------------------------------------------------------------

EQUAL = {
    "workload.lengths": {
        "distribution": "constant",
        "value": 20,
        "prompt": {"distribution": "constant", "value": 30},
    },
    "workload.predictor": {"kind": "oracle"},
}


@pytest.mark.parametrize("seconds", [0.0, 1e-12, 3e-12, 1.001e-12, 4.04e-11, 5e-11, 5.05e-11, 1.0])
def test_coefficients_that_whole_picoseconds_keep_are_allowed(seconds: float) -> None:
    service = {"law": "steps", "c0_s": 0.1, "c3_s_per_prefill_token": seconds}
    (point,) = prepare(sweep(laid(BASE, {"server.service": service}))).points
    kept = point.setup.replica.law.prefill_token[0] / TICKS_PER_S
    assert kept == pytest.approx(seconds, rel=0.01)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"policy.sla": {"target_s": 0.0194, "tolerance_s": 0.001}},
            "policy.sla.target_s = 0.0194: must be, with tolerance_s = 0.001, at least 0.0205101, a decode step "
            "of one request that reads 101.0 tokens: a single request misses it",
        ),
        (
            {**EQUAL, "server.replica": {"kv_capacity_tokens": 63}},
            "server.replica.kv_capacity_tokens = 63: must be at least 64, what the median request takes, prompt + "
            "output - 1 = 49 tokens in blocks of 16: 100 % of the requests could never be served",
        ),
        (
            {**EQUAL, "server.replica": {"kv_capacity_tokens": 48, "block_tokens": 1}},
            "server.replica.kv_capacity_tokens = 48: must be at least 49, what the median request takes, prompt + ",
        ),
        (
            {**EQUAL, "server.replica": {"kv_capacity_tokens": 900, "token_budget": 29, "prefill": "separate"}},
            'server.replica.token_budget = 29 with prefill = "separate": must be at least 30, to hold the prompts of '
            "half of the requests whole: 100 % of the requests could never be served",
        ),
        (
            {**EQUAL, "server.service": {"law": "steps", "c0_s": 1e5}},
            "server.service: a request of 50 tokens could take 5e+06 s: must be at most 1.15e+06 s",
        ),
        (
            {
                "workload.lengths": {
                    "distribution": "constant",
                    "value": 40,
                    "prompt": BASE["workload"]["lengths"]["prompt"],
                },
                "workload.predictor": {"kind": "oracle"},
                "server.routing": "by_bin",
                "server.servers": 2,
                "policy.bins": 4,
            },
            'server.routing = "by_bin": requests fall into 1 of the 4 bins only: must be at least server.servers = 2',
        ),
        (
            {"workload.arrivals.rate_per_s": 1e-5},
            "workload.requests = 120 with workload.arrivals.rate_per_s = 1e-05: arrive, or are served, within about "
            "1.2e+07 s: must be at most 2305843 s",
        ),
    ],
)
def test_what_only_the_data_show_is_refused_in_a_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        run_sweep(Sweep.model_validate(laid(BASE, settings), "sweep.toml"))
    assert str(caught.value).startswith(f"sweep.toml: {line}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "path", "values"),
    [
        ({"server.routing": "shortest_queue"}, "server.servers", [1, 2]),
        ({"server.routing": "by_bin", "policy.bins": 3}, "server.servers", [1, 2]),
        ({"policy.admission": "by_bin"}, "policy.bins", [1, 3]),
    ],
)
def test_an_option_may_mean_nothing_at_some_points_of_an_axis(
    settings: dict[str, Any], path: str, values: list[int]
) -> None:
    axes = {"x": {"path": path, "values": values}}
    cube = run_sweep(sweep({**laid(BASE, settings), "axes": axes}, replications=1), backend="reference")
    assert (cube["completed"] == 120).all()
    axes["x"]["values"] = values[:1]
    with pytest.raises(InputError, match=r"= \".*\": needs (server.servers|policy.bins) > 1"):
        sweep({**laid(BASE, settings), "axes": axes})


@pytest.mark.parametrize(
    "replica",
    [
        {"kv_capacity_tokens": 49, "block_tokens": 1},
        {"kv_capacity_tokens": 64, "token_budget": 30, "prefill": "separate"},
        {"kv_capacity_tokens": 64, "token_budget": 16},
    ],
)
def test_a_replica_with_room_for_the_last_token_but_one_serves_everybody(replica: dict[str, Any]) -> None:
    made = run_sweep(sweep(laid(BASE, {**EQUAL, "server.replica": replica}), replications=1))
    assert (made["completed"] == 120).all()
    assert "turned away" not in made.attrs["notes"]


def test_a_replica_that_holds_some_requests_is_allowed_though_the_mean_one_does_not_fit() -> None:
    made = run_sweep(sweep(laid(BASE, {"server.replica.kv_capacity_tokens": 130}), replications=1))
    assert (made["completed"] > 10).all()
    assert (made["rejected"] > 10).all()


def test_of_a_recorded_trace_all_that_may_be_simulated_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    rows = [f"{i},{30 if i < 50 else 10},20" for i in range(100)]
    file.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]))

    def plan(**settings: Any) -> None:
        workload = {"trace": {"path": str(file), **settings}, "requests": 50, "predictor": {"kind": "oracle"}}
        replica = {"kv_capacity_tokens": 48, "block_tokens": 1}
        prepare(sweep(laid({**BASE, "workload": workload}, {"server.replica": replica})))

    with pytest.raises(
        InputError, match=r"^sweep\.toml: server\.replica\.kv_capacity_tokens = 48: must be at least 49"
    ):
        plan()
    plan(resample="circular")


def test_the_memory_controller_knows_whole_blocks() -> None:
    settings = {"server.replica.kv_capacity_tokens": 2015, "policy.memory": {"rule": "margin", "margin_fraction": 0.5}}
    (point,) = prepare(sweep(laid(BASE, settings))).points
    replica = point.setup.replica
    assert replica.control.memory.capacity == replica.blocks * replica.block_tokens == 2000.0
    assert replica.control.memory.margin == 1000.0


@pytest.mark.parametrize(("target_s", "allowed"), [(0.0204, True), (0.0202, False)])
def test_a_target_counts_the_reading_of_a_prompt_and_the_tolerance(target_s: float, allowed: bool) -> None:
    # 0.0205 s and 31 tokens of 1e-5 s each: 0.02081 s; the dead band reaches to 0.0005 s above the target.
    service = {**STEP_LAW, "c2_s_per_kv_token": 1e-5}
    settings = {**EQUAL, "server.service": service, "policy.sla": {"target_s": target_s, "tolerance_s": 0.0005}}
    if allowed:
        prepare(sweep(laid(BASE, settings)))
        return
    with pytest.raises(InputError) as caught:
        prepare(sweep(laid(BASE, settings)))
    assert str(caught.value) == (
        "sweep.toml: policy.sla.target_s = 0.0202: must be, with tolerance_s = 0.0005, at least 0.02081, a decode step "
        "of one request that reads 31.0 tokens: a single request misses it"
    )


def test_a_target_that_a_single_request_just_meets_is_allowed() -> None:
    tables = laid(BASE, {"policy.sla": {"target_s": 0.0205, "tolerance_s": 0.001}, "replications": 1})
    assert (run_sweep(Sweep.model_validate(tables))["completed"] == 120).all()


# The sample is of two requests; a replication has longer ones.
LONGER = {
    "policy": {**BY_BIN, "edges": {"sample_size": 2}},
    "axes": {"c0": {"path": "server.service.c0_s", "values": [0.02, 3500.0]}},
}


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_what_shows_while_running_names_the_specification_and_the_point(backend: str) -> None:
    tables = laid(BASE, {**LONGER, "server.service.c0_s": None})
    with pytest.raises(InputError, match=r"^sweep\.toml: a request of \d+ tokens could take .* s \(at c0 = 3500\.0\)$"):
        run_sweep(sweep(tables, replications=5), backend=backend)
    with pytest.raises(InputError, match=r"^sweep\.toml: a request of \d+ tokens could take .* s$"):
        run_sweep(sweep(laid(BASE, {**LONGER, "axes": {}, "server.service.c0_s": 3500.0})), backend=backend)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_clock_that_runs_out_names_the_specification_and_the_point(workers: int) -> None:
    service = {"law": "steps", "c0_s": 2000.0}
    tables = laid(BASE, {**EQUAL, "server.service": service, "workload.requests": None, "policy.largest_batch": None})
    tables["axes"] = {
        "count": {"path": "workload.requests", "values": [10, 1500]},
        "cap": {"path": "policy.largest_batch", "values": [16]},
    }
    with pytest.raises(InputError) as caught:
        run_sweep(sweep(tables, replications=2), workers=workers)
    assert str(caught.value) == (
        "sweep.toml: the requests take longer than 2305843 s, the longest that can be simulated (at count = 1500, cap "
        "= 16)"
    )


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        return np.zeros(2) + np.zeros(3)

    monkeypatch.setattr(simulate, "simulate_many", broken)
    with pytest.raises(ValueError, match="could not be broadcast") as caught:
        run_sweep(sweep(BASE, replications=1))
    assert not isinstance(caught.value, InputError)


def test_jax_is_refused_in_a_line_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^backend = 'jax': continuous batching runs with numba or reference$"):
        run_sweep(sweep(BASE), tmp_path / "new" / "cube.nc", backend="jax")
    assert list(tmp_path.iterdir()) == []


# Running ------------------------------------------------------------------------------------------------------------


def test_the_reference_and_the_kernels_give_the_same_cube(cube: xr.Dataset) -> None:
    reference = run_sweep(sweep(), backend="reference", workers=2)
    xr.testing.assert_identical(data_of(reference), data_of(cube))
    assert reference.attrs["backend"] == "reference"


def test_the_number_of_threads_changes_nothing(cube: xr.Dataset) -> None:
    xr.testing.assert_identical(data_of(run_sweep(sweep(), workers=3)), data_of(cube))


def test_values_are_those_of_the_engine_on_the_same_draws(cube: xr.Dataset) -> None:
    plan = prepare(sweep())
    assert plan.simulation.STEPWISE
    for number, position in enumerate(np.ndindex(len(POLICIES), 2)):
        job = Draws(1, 2).job(plan.points[number])
        assert job.shape == (len(plan.points[number].edges) - 1, 16, 10, 0)
        report = simulate_many([job], job.shape, "numba")
        here = cube.isel(policy=position[0], arrival_rate_per_s=position[1], replication=2)
        for name in ("latency_mean_s", "tpot_variance_s2", "tbt_quantile_s", "preemptions", "window_running_mean"):
            np.testing.assert_array_equal(here[name], report[name][0])
        assert int(here["tbt_histogram"].sum()) == int(report["tbt_histogram"].sum())
        assert int(here["latency_histogram"].sum()) == int(here["measured"])
        assert float(here["tbt_mean_s"]) == pytest.approx(
            np.average(here["tbt_bucket"], weights=here["tbt_histogram"]), rel=0.01
        )
        assert (here["tbt_bucket_lower_s"] <= here["tbt_bucket"]).all()
        assert (here["tbt_bucket"] <= here["tbt_bucket_upper_s"]).all()


KINDS = ("latency", "wait", "service", "ttft", "tpot", "tbt")
HELD = {
    *(f"{kind}_{name}" for kind in KINDS for name in ("mean_s", "variance_s2", "min_s", "max_s", "quantile_s")),
    *("latency_histogram", "tbt_histogram", "batch_size_histogram"),
    *("requests", "completed", "rejected", "measured", "missed", "truncated", "steps", "preemptions"),
    *("throughput_requests_per_s", "throughput_tokens_per_s", "makespan_s", "utilisation", "overloaded"),
    *("batch_size_mean", "request_sla_violation_fraction", "token_sla_violation_fraction"),
    *("kv_peak_tokens", "recomputed_token_fraction", "backlog_growth_fraction"),
    *("goodput_fraction", "goodput_requests_per_s"),
    *("prefix_cache_hit_fraction", "kv_occupied_fraction"),
    *(
        "unmeasured_costs",
        "effective_bins",
        "bin_lower_edge",
        "bin_upper_edge",
        "bin_requests",
        "bin_wait_mean_s",
        "bin_latency_mean_s",
    ),
    *("window_width_s", "window_arrivals", "window_completions", "window_request_sla_violation_fraction"),
    *("window_queue_length_mean", "window_running_mean", "window_batch_size_mean", "window_kv_tokens_mean"),
    *("window_preemptions", "window_batch_target_mean", "window_batch_memory_bound_mean"),
    *("window_batch_sla_bound_mean", "window_signal_mean_s"),
}


def test_a_cube_holds_what_steps_give_and_nothing_of_whole_batches(cube: xr.Dataset) -> None:
    assert set(cube.data_vars) == HELD
    for name in HELD:
        assert cube[name].dtype == np.dtype(REGISTRY[name].dtype)
        assert cube[name].dims == REGISTRY[name].dims(["policy", "arrival_rate_per_s"])
    assert cube.attrs["overload_test"] == continuous.OVERLOAD_TEST
    assert (cube["completed"] + cube["rejected"] == cube["requests"]).all()
    assert (cube["window_width_s"].sel(arrival_rate_per_s=6.0) == 120 / 6.0 / 10).all()
    assert cube["effective_bins"].isel(replication=0, arrival_rate_per_s=0).values.tolist() == [1] * 6 + [3, 1, 3]
    # Every option makes a difference.
    assert len(np.unique(cube["latency_mean_s"].sel(arrival_rate_per_s=12.0).mean("replication"))) == len(POLICIES)
    preempted = cube["preemptions"].sum(["replication", "arrival_rate_per_s"])
    assert preempted.sel(policy="static") > preempted.sel(policy="margin")
    cap = cube["window_batch_target_mean"]
    assert cap.sel(policy="static").min() == cap.sel(policy="static").max() == 16
    assert cap.sel(policy="memory").min() < 16


def test_without_histograms_neither_is_kept() -> None:
    tables = laid(BASE, {"report.histograms": False, "replications": 1})
    made = run_sweep(Sweep.model_validate(tables))
    assert HELD - set(made.data_vars) == {"latency_histogram", "tbt_histogram"}
    assert "tbt_bucket" not in made.dims
    assert estimate(Sweep.model_validate(tables)).cube_bytes < estimate(sweep(BASE, replications=1)).cube_bytes


def test_one_request_takes_what_the_law_says() -> None:
    lengths = {"distribution": "constant", "value": 5.0, "prompt": {"distribution": "constant", "value": 300.0}}
    tables = laid(
        BASE, {"workload.lengths": lengths, "workload.requests": 1, "workload.arrivals": {"process": "at_once"}}
    )
    made = run_sweep(Sweep.model_validate(laid(tables, {"replications": 1, "workload.predictor": None})))
    attention = 256 * 256 + 44 * 300
    first = 2 * 0.02 + 300 * 5e-5 + attention * 1e-8
    later = 4 * (0.02 + 0.0005) + (301 + 302 + 303 + 304) * 1e-7
    assert float(made["ttft_mean_s"].item()) == pytest.approx(first, abs=1e-9)
    assert float(made["latency_mean_s"].item()) == pytest.approx(first + later, abs=1e-9)
    assert float(made["tpot_mean_s"].item()) == pytest.approx(later / 4, abs=1e-9)
    assert int(made["steps"].item()) == 6
    assert int(made["tbt_histogram"].sum()) == 4
    assert float(made["kv_peak_tokens"].item()) == 304


def test_windows_of_requests_that_all_arrive_at_once_span_their_work() -> None:
    tables = laid(BASE, {"workload.arrivals": {"process": "at_once"}, "workload.requests": 2000})
    made = run_sweep(Sweep.model_validate({**tables, "replications": 1}))
    span = 10 * float(made["window_width_s"])
    assert 0.7 < span / float(made["makespan_s"].item()) < 1.3


def test_rates_share_their_random_numbers() -> None:
    plan = prepare(sweep())
    draws = Draws(1, 0)
    jobs = [draws.job(point) for point in plan.points]
    assert all(isinstance(job, continuous.Job) for job in jobs)
    slow, fast, memory = (jobs[k].requests for k in (0, 1, 2))
    assert slow.prompt is fast.prompt
    assert slow.output is memory.output
    assert slow.arrival is memory.arrival
    np.testing.assert_allclose(slow.arrival, 2.0 * fast.arrival, atol=2)
    assert slow.arrival[-1] == pytest.approx(20.0 * TICKS_PER_S, rel=0.4)
    names = list(POLICIES)
    by_bin, routed = (jobs[2 * names.index(name)] for name in ("by bin", "replica by bin"))
    assert by_bin.bin_of is routed.bin_of
    assert np.bincount(by_bin.bin_of).min() > 20
    assert jobs[0].bin_of.max() == 0
    other = Draws(1, 1).job(plan.points[0])
    assert not np.array_equal(other.requests.prompt, slow.prompt)


def test_the_requests_are_those_of_whole_batches() -> None:
    policy, server = {"mode": "fifo_greedy", "batch_size": 4}, {"service": TOKENS["server"]["service"]}
    whole = prepare(sweep({**BASE, "policy": policy, "server": server})).points[0]
    trace, requests = Draws(1, 0).job(whole).trace, Draws(1, 0).job(prepare(sweep(BASE)).points[0]).requests
    np.testing.assert_array_equal(trace.prompt, requests.prompt)
    np.testing.assert_array_equal(trace.output, requests.output)
    np.testing.assert_allclose(trace.arrival * 1e6, requests.arrival, atol=1e6)


def test_requests_that_never_fit_are_counted_and_told(cube: xr.Dataset) -> None:
    assert (cube["rejected"].sel(policy="static") == 0).all()
    tables = laid(BASE, {"server.replica.kv_capacity_tokens": 320})
    made = run_sweep(Sweep.model_validate(tables))
    assert (made["rejected"] > 0).any()
    for replication in range(3):
        job = Draws(1, replication).job(prepare(Sweep.model_validate(tables)).points[0])
        too_large = (job.requests.prompt + job.requests.output - 1 > 320).sum()
        assert int(made["rejected"][replication]) == too_large
    percent = 100.0 * float(made["rejected"].sum()) / 360
    said = f"{percent:.2g} % of the requests could never fit into a replica and were turned away (variable rejected): "
    (note,) = [note for note in made.attrs["notes"].splitlines() if note.startswith(said)]
    assert "shares over a limit count them as missed" in note
    assert "turned away" not in run_sweep(sweep(BASE)).attrs["notes"]


def test_many_prompts_that_leave_no_room_for_an_answer_are_said_loudly(capsys: pytest.CaptureFixture[str]) -> None:
    lengths = {"workload.lengths.prompt": {"distribution": "uniform", "low": 1.0, "high": 100.0}}
    limited = {**lengths, "report.request_sla_s": 1e6, "server.replica.max_model_len": 81}
    made = run_sweep(sweep(laid(BASE, limited), replications=1))
    job = Draws(1, 0).job(prepare(sweep(laid(BASE, limited), replications=1)).points[0])
    refused = int((job.requests.prompt >= 81).sum())
    assert int(made["rejected"][0]) == refused > 0
    # Nobody is late but those who are refused, and those whose answers are cut off.
    cut = int(made["truncated"][0])
    assert float(made["request_sla_violation_fraction"][0]) == pytest.approx((refused + cut) / 120)
    tell_notes(made)
    (loud, *notes) = capsys.readouterr().err.splitlines()
    assert loud.startswith(f"warning: up to {100 * refused / 120:.2g} % of the requests are turned away")
    assert any("turned away" in note for note in notes)
    assert refusals(run_sweep(sweep(BASE))) == ""


def test_answers_that_are_cut_are_counted_and_told() -> None:
    tables = laid(BASE, {"server.replica.max_model_len": 150, "server.replica.kv_capacity_tokens": 10_000})
    made = run_sweep(sweep(tables))
    numba = run_sweep(sweep(tables), backend="numba")
    cut = 0
    for replication in range(3):
        requests = Draws(1, replication).job(prepare(sweep(tables)).points[0]).requests
        long = (requests.prompt + requests.output > 150) & (requests.prompt < 150)
        assert int(made["truncated"][replication]) == int(numba["truncated"][replication]) == long.sum()
        cut += int(long.sum())
    assert 0 < cut < 360
    assert f"{in_percent(cut / 360)} of the requests had their answers cut by max_model_len" in made.attrs["notes"]
    assert "cut by" not in run_sweep(sweep(BASE)).attrs["notes"]


def test_priorities_of_a_recorded_trace(tmp_path: Path) -> None:
    """One runs at a time; those who wait come in by their priority."""
    file = tmp_path / "trace.csv"
    rows = [(0.0, 5), (0.001, 3), (0.002, 1), (0.003, 2)]
    text = "".join(f"{at},10,20,{rank}\n" for at, rank in rows)
    file.write_text("arrival_s,prompt_tokens,output_tokens,priority\n" + text)
    tables = {**BASE, "workload": {"trace": {"path": str(file), "unit": "s"}}}
    tables = laid(tables, {"policy": {"mode": "continuous", "largest_batch": 1}})
    by_priority = laid(tables, {"server.replica.scheduling_policy": "priority"})
    assert simulate_one(sweep(tables), {}).requests["start_s"].argsort().tolist() == [0, 1, 2, 3]
    assert simulate_one(sweep(by_priority), {}).requests["start_s"].argsort().tolist() == [0, 2, 3, 1]
    file.write_text(file.read_text().replace("priority", "rank"))
    with pytest.raises(InputError, match=r'scheduling_policy = "priority": the trace says no priorities'):
        prepare(sweep(by_priority))
    named = laid(by_priority, {"workload.trace.columns": {"priority": "rank"}})
    assert simulate_one(sweep(named), {}).requests["start_s"].argsort().tolist() == [0, 2, 3, 1]


def test_caching_of_prompts_that_have_nothing_in_common_is_told() -> None:
    caching = laid(BASE, {"server.replica.enable_prefix_caching": True})
    said = "workload: says nothing of what prompts contain"
    assert said in "\n".join(prepare(sweep(caching)).notes)
    sessions = {"workload.sessions": {"turns": {"distribution": "constant", "value": 3}}}
    assert said not in "\n".join(prepare(sweep(laid(caching, sessions))).notes)


def test_the_note_on_requests_turned_away_is_about_the_whole_sweep(tmp_path: Path) -> None:
    tables = laid(BASE, {"server.replica.kv_capacity_tokens": None})
    tables["axes"] = {"capacity": {"path": "server.replica.kv_capacity_tokens", "values": [128, 160, 2000]}}
    file = tmp_path / "cube.nc"
    for replications in (1, 4):
        made = run_sweep(sweep(tables, replications=replications), file)
        percent = 100.0 * float(made["rejected"].sum() / made["requests"].sum())
        assert 10 < percent < 90
        (note,) = [note for note in read_cube(file).attrs["notes"].splitlines() if "turned away" in note]
        assert note.startswith(f"{percent:.0f} % of the requests could never fit")
    again = run_sweep(sweep(tables, replications=4))
    # The second in which they were made is all that may differ.
    xr.testing.assert_identical(made.assign_attrs(created_utc=again.attrs["created_utc"]), again)


def test_overload_is_said() -> None:
    made = run_sweep(
        Sweep.model_validate(laid(BASE, {"workload.arrivals.rate_per_s": 1000.0, "workload.requests": 1000}))
    )
    assert made["overloaded"].all()
    assert "some points are overloaded" in made.attrs["notes"]


def test_bins_that_nothing_hits_are_removed_and_told() -> None:
    lengths = {"distribution": "constant", "value": 40.0, "prompt": {"distribution": "constant", "value": 10.0}}
    tables = laid(BASE, {"workload.lengths": lengths, "workload.predictor": None, "policy": BY_BIN})
    made = run_sweep(Sweep.model_validate(tables))
    assert (made["effective_bins"] == 1).all()
    assert "no request can fall into 2 of the 3 bins" in made.attrs["notes"]
    fifo = run_sweep(Sweep.model_validate(laid(tables, {"policy": BASE["policy"]})))
    xr.testing.assert_equal(made["latency_mean_s"], fifo["latency_mean_s"])


def test_hashes_of_a_recorded_trace_are_found_in_the_cache(tmp_path: Path) -> None:
    """Prompts of 64 tokens, of which all but the last 16 are alike: 3 of 4 blocks are found, but for the first time."""
    file = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": float(k), "input_length": 64, "output_length": 2, "hash_ids": [7, 8 + k], "chat_id": k}
        for k in range(50)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tables = laid(
        {**BASE, "workload": {"trace": {"path": str(file), "hash_tokens": 48}}},
        {
            "server.replica.enable_prefix_caching": True,
            "axes": {"caching": {"path": "server.replica.enable_prefix_caching", "values": [False, True]}},
        },
    )
    del tables["server"]["replica"]["enable_prefix_caching"]
    cube = run_sweep(sweep(tables, replications=1), backend="reference", workers=1)
    assert np.isnan(cube["prefix_cache_hit_fraction"].isel(caching=0)).all()
    assert float(cube["prefix_cache_hit_fraction"].isel(caching=1).item()) == pytest.approx(49 * 48 / (50 * 64))
    assert not any("hash_ids" in note for note in cube.attrs["notes"])
    tables["server"]["replica"]["block_tokens"] = 32
    with pytest.raises(InputError, match="block_tokens = 32: must divide the 48 tokens of a block of hash_ids"):
        prepare(sweep(tables))


def test_a_turn_finds_the_turns_before_it_in_the_cache() -> None:
    """All but the token emitted last is there of the turn before, in full blocks."""
    sessions = {"turns": {"distribution": "constant", "value": 3}}
    tables = laid(
        BASE,
        {
            "workload.sessions": sessions,
            "workload.requests": 60,
            "server.replica": {"kv_capacity_tokens": 10**6, "enable_prefix_caching": True},
        },
    )
    (point,) = prepare(sweep(tables)).points
    job = Draws(1, 0).job(point)
    _, (records,) = simulate_records([job], job.shape, "reference")
    before = (job.requests.prompt + job.requests.output - 1) // 16 * 16
    found = np.where(np.arange(60) % 3 == 0, 0, np.roll(before, 1))
    assert records.cached.tolist() == found.tolist()


def test_a_recorded_trace_runs_and_needs_prompts(tmp_path: Path) -> None:
    def write(prompt: int) -> dict[str, Any]:
        file = tmp_path / f"trace{prompt}.csv"
        rows = [f"{0.25 * i},{prompt + i % 70},{1 + i % 40}" for i in range(200)]
        file.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]))
        workload = {"trace": {"path": str(file), "resample": "circular"}, "requests": 100}
        return {**BASE, "workload": {**workload, "predictor": {"kind": "oracle"}}}

    made = run_sweep(sweep(write(1)))
    assert (made["completed"] == 100).all()
    assert len(np.unique(made["latency_mean_s"])) == 3
    text = r": \d+ of \d+ prompts have no tokens: mode continuous needs prompts of at least 1"
    with pytest.raises(InputError, match=f"workload.trace{text}"):
        run_sweep(sweep(write(0)))
    columns = {"path": str(tmp_path / "trace0.csv"), "column": "output_tokens", "prompt_column": "prompt_tokens"}
    drawn = laid(BASE, {"workload.lengths": {"distribution": "empirical", **columns}})
    with pytest.raises(InputError, match=f"workload.lengths{text}"):
        run_sweep(sweep(drawn))
    columns["path"] = str(tmp_path / "trace1.csv")
    assert (
        run_sweep(sweep(laid(drawn, {"workload.lengths": {"distribution": "empirical", **columns}})))["completed"]
        == 120
    ).all()


@pytest.mark.parametrize(
    "prompt",
    [
        {"distribution": "exponential", "mean": 3.0},
        {"distribution": "lognormal", "mean": 3.0, "cv": 3.0},
        {"distribution": "histogram", "edges": [0, 2, 5], "counts": [1, 1]},
    ],
)
def test_drawn_prompts_have_at_least_a_token_and_their_mean(prompt: dict[str, Any]) -> None:
    mixture = {"distribution": "mixture", "weights": [1.0], "components": [{**BASE["workload"]["lengths"]}]}
    mixture["components"][0]["prompt"] = prompt
    for lengths in ({**BASE["workload"]["lengths"], "prompt": prompt}, mixture):
        plan = prepare(sweep(laid(BASE, {"workload.lengths": lengths, "workload.requests": 20_000})))
        job = Draws(1, 0).job(plan.points[0])
        assert isinstance(job, continuous.Job)
        tokens = job.requests.prompt
        assert tokens.min() == 1
        assert abs(tokens.mean() - prompt.get("mean", 2.0)) < 4.5 * tokens.std() / np.sqrt(tokens.size)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"distribution": "constant", "value": 0}, "value = 0.0: must be a whole number of tokens, 1 or more"),
        ({"distribution": "exponential", "mean": 0.3}, "mean = 0.3: must be >= 1: every length is at least 1 token"),
        ({"distribution": "uniform", "low": 0, "high": 4}, "low = 0.0: must be a whole number of tokens, 1 or more"),
    ],
)
def test_prompts_without_tokens_are_refused(prompt: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"workload.lengths.prompt.{message} in mode continuous")):
        Sweep.model_validate(laid(BASE, {"workload.lengths.prompt": prompt}))


def test_axes_of_step_settings_have_their_units() -> None:
    tables = deepcopy(BASE)
    del tables["server"]["replica"]["kv_capacity_tokens"], tables["server"]["replica"]["token_budget"]
    tables["server"]["service"] = {"law": "steps", "c0_s": 0.02}
    tables["axes"] = {
        "capacity": {"path": "server.replica.kv_capacity_tokens", "values": [1000, 2000]},
        "budget": {"path": "server.replica.token_budget", "values": [64]},
        "c1": {"path": "server.service.c1_s_per_request", "values": [0.001]},
        "c4": {"path": "server.service.c4_s_per_prefill_attention", "values": [0.0, 1e-9]},
    }
    made = run_sweep(sweep(tables, replications=1))
    units = [made[name].attrs["units"] for name in ("capacity", "budget", "c1", "c4")]
    assert units == ["token", "token", "s/request", "s/token2"]
    assert (made["latency_mean_s"].isel(c4=1) >= made["latency_mean_s"].isel(c4=0)).all()


# Files --------------------------------------------------------------------------------------------------------------


def test_a_cube_is_extended_and_shown_and_compared(
    tmp_path: Path, cube: xr.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    file, other = tmp_path / "cube.nc", tmp_path / "other.nc"
    run_sweep(sweep(replications=1), file)
    longer = run_sweep(sweep(), file, backend="reference")
    xr.testing.assert_identical(data_of(longer), data_of(cube))
    assert longer.attrs["backend"] == "numba, reference"
    xr.testing.assert_equal(data_of(read_cube(file)), data_of(cube))
    run_sweep(sweep(), other)
    assert Answer(capsys, "compare", str(file), str(other)).status == 0
    shown = " ".join(Answer(capsys, "show", str(file)).out.replace("_ ", "_").split())
    for name in ("ttft_mean_s", "tpot_mean_s", "preemptions"):
        assert name in shown


def test_a_stopped_run_continues(tmp_path: Path, cube: xr.Dataset) -> None:
    class Interrupt(Silent):
        def finish_replications(self, count: int) -> None:
            raise KeyboardInterrupt

    class Rest(Silent):
        def start(self, points: int, replications: int, requests: int) -> None:
            self.replications = replications

    file, rest = tmp_path / "cube.nc", Rest()
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep(), file, workers=1, progress=Interrupt())
    assert [entry.name for entry in tmp_path.iterdir()] == ["cube.nc.partial"]
    continued = run_sweep(sweep(), file, progress=rest)
    assert rest.replications < 3
    xr.testing.assert_identical(data_of(continued), data_of(cube))
    assert [entry.name for entry in tmp_path.iterdir()] == ["cube.nc"]


def test_a_cube_says_how_to_make_it_again(cube: xr.Dataset) -> None:
    again = run_sweep(Sweep.model_validate(json.loads(cube.attrs["specification"])))
    xr.testing.assert_identical(data_of(again), data_of(cube))


# Tables -------------------------------------------------------------------------------------------------------------

STRAIGHT = {
    "law": "steps",
    "c0_s": 0.02,
    "c1_s_per_request": 1e-3,
    "c2_s_per_kv_token": 1e-6,
    "c3_s_per_prefill_token": 2e-4,
    "c4_s_per_prefill_attention": 0.0,
}
TABLES = {
    "law": "steps",
    "c4_s_per_prefill_attention": 0.0,
    "decode": {"requests": [0, 2, 5], "s": [0.02, 0.022, 0.025], "s_per_kv_token": [1e-6, 1e-6, 1e-6]},
    "prefill": {"tokens": [0, 10, 40], "s": [0.0, 2e-3, 8e-3]},
}


def test_a_straight_law_given_as_tables_makes_the_same_cube_and_says_where_they_end() -> None:
    straight, tables = (run_sweep(sweep(laid(BASE, {"server.service": law}))) for law in (STRAIGHT, TABLES))
    assert not tables["unmeasured_costs"].any()
    for name in tables.data_vars:
        xr.testing.assert_equal(tables[name], straight[name])
    assert "extrapolated" not in straight.attrs["notes"]
    assert "server.service.decode ends at 5 requests, up to 16 may run: the times of larger" in tables.attrs["notes"]
    assert "server.service.prefill ends at 40 tokens, a step may have" in tables.attrs["notes"]


def test_a_table_states_the_terms_that_it_stands_for() -> None:
    few = {name: TABLES[name] for name in ("law", "decode")}
    (point,) = sweep(laid(BASE, {"server.service": few})).grid.points
    assert unmeasured_costs(point) == ("c3_s_per_prefill_token", "c4_s_per_prefill_attention")


def test_drawn_tables_are_scaled_and_shifted_as_their_errors_say(tmp_path: Path) -> None:
    errors = {
        "of": ["c0_s", "speed", "prefill", "c5_s_per_prefill_step"],
        "covariance": np.diag([1e-4**2, 0.02**2, 0.01**2, 1e-4**2]).tolist(),
        "degrees_of_freedom": 1000,
    }
    law = {**{name: TABLES[name] for name in ("decode", "prefill")}, "c5_s_per_prefill_step": 0.01, "errors": errors}

    def bend(content: Any) -> None:
        content["step_law"] = law | {"quality": content["step_law"]["quality"]}

    settings = CoefficientsLaw(coefficients=written(tmp_path / "bent.json", bend), draw=True)
    rng = np.random.default_rng(2)
    laws = [drawn_steps(settings, rng) for _ in range(2000)]
    decode = np.array([law.decode for law in laws]) / TICKS_PER_S
    assert (np.diff(decode, axis=1) >= 0).all()
    near = {"rel": 5 / np.sqrt(2 * 2000)}
    assert decode[:, 5].std() == pytest.approx(np.hypot(0.02 * 0.025, 1e-4), **near)
    prefill = np.array([law.prefill[1] for law in laws]) / TICKS_PER_S
    assert prefill.std() == pytest.approx(2e-3 * np.hypot(0.02, 0.01), **near)
    constant = np.array([law.prefill_step for law in laws]) / TICKS_PER_S
    assert constant.std() == pytest.approx(np.hypot(0.02 * 0.01, 1e-4), **near)
    # One draw of the speed for all of it.
    assert np.corrcoef(decode[:, 5] - decode[:, 2], prefill)[0, 1] == pytest.approx(2 / np.sqrt(5), abs=0.03)
    errors["covariance"][1][1] = 0.3**2
    wide = CoefficientsLaw(coefficients=written(tmp_path / "wide.json", bend), draw=True)
    with pytest.raises(InputError, match=r"speed may be off by 0\.3 of it: draws could be negative"):
        drawn_steps(wide, rng)


# Coefficients -------------------------------------------------------------------------------------------------------

VLLM = {"coefficients": "qwen3-0.6b-cpu-vllm"}
SLOW = laid(BASE, {"workload.arrivals.rate_per_s": 0.2, "server.service": VLLM})


def written(path: Path, change: Callable[[Any], None]) -> str:
    """A file of the shipped coefficients with one thing changed."""
    content = json.loads(locate(VLLM["coefficients"]).read_bytes())
    change(content)
    path.write_text(json.dumps(content))
    return str(path)


def test_coefficients_give_their_law_of_steps() -> None:
    law = load(VLLM["coefficients"]).step_law
    assert law is not None
    (point,) = prepare(sweep(SLOW)).points
    built = point.setup.replica.law
    assert built.decode[0] == round(law.c0_s * 1e12)
    assert built.prefill_attention == round(law.c4_s_per_prefill_attention * 1e12)
    made = run_sweep(sweep(SLOW))
    notes = made.attrs["notes"]
    assert "step times of qwen3-0.6b-cpu-vllm (measured)" in notes
    assert "neither measured" not in notes
    (kept,) = json.loads(made.attrs["service_coefficients"])[VLLM["coefficients"]]["laws"]
    assert kept == {"asked": "steps", "draw": False, "law": law.model_dump()}
    assert not of_single(made["latency_mean_s"])


def test_what_nothing_measured_and_what_is_extrapolated_is_told() -> None:
    service = {"coefficients": "ml-energy-llama-3.1-8b-h100"}
    tables = laid(BASE, {"server.service": service, "policy.largest_batch": 2000, "server.replica.token_budget": 2048})
    notes = prepare(Sweep.model_validate(tables)).notes
    assert notes[0].startswith("neither measured nor given, counted as 0: c2_s_per_kv_token (KV tokens read), c3_s_per")
    assert any("up to 2000 requests at once" in note and "extrapolated" in note for note in notes)


@pytest.mark.parametrize(
    ("change", "draw", "line"),
    [
        (lambda content: content.pop("step_law"), False, "hold no law of single steps, mode continuous needs it"),
        (
            lambda content: content["step_law"].update(errors=None),
            True,
            "nothing is known of the errors of a step's coefficients",
        ),
        (
            lambda content: content["step_law"]["errors"]["covariance"][0].__setitem__(0, 1.0),
            True,
            "c0_s is less than four of its standard errors: draws could be negative",
        ),
        (
            # A step takes no time but for its requests: their term is then the one that must be known well.
            lambda content: content["step_law"].update(c0_s=None, c1_s_per_request=0.002),
            True,
            "c1_s_per_request is less than four of its standard errors: draws could be negative",
        ),
        (
            lambda content: content["step_law"].update(c4_s_per_prefill_attention=1.3e-12),
            False,
            "step_law.c4_s_per_prefill_attention = 1.3e-12: would be rounded to 1e-12, in whole picoseconds: must be "
            "0, or at least 5e-11, the smallest value that is always kept within 1 %, or whole picoseconds itself",
        ),
    ],
)
def test_coefficients_that_cannot_be_used_are_refused_in_a_line(
    tmp_path: Path, change: Callable[[Any], None], draw: bool, line: str
) -> None:
    file = written(tmp_path / "mine.json", change)
    tables = laid(SLOW, {"server.service": {"coefficients": file, "draw": draw}})
    with pytest.raises(InputError) as caught:
        run_sweep(Sweep.model_validate(tables, "sweep.toml"))
    where = "server.service.draw: " if draw else ""
    assert str(caught.value) == f"sweep.toml: {where}coefficients {file}: {line}"


def test_a_target_below_a_single_request_of_coefficients_is_refused() -> None:
    tables = laid(SLOW, {"policy.sla": {"target_s": 0.07, "tolerance_s": 0.001}})
    with pytest.raises(
        InputError,
        match=r"policy\.sla\.target_s = 0\.07: must be, .* 0\.07998, a decode step .* reads 101\.0 tokens",
    ):
        run_sweep(Sweep.model_validate(tables))


def test_replications_draw_coefficients_of_their_own_and_points_share_them() -> None:
    tables = laid(SLOW, {"server.service": {**VLLM, "draw": True}, "policy.largest_batch": None})
    tables["axes"] = {"cap": {"path": "policy.largest_batch", "values": [4, 16]}}
    checked = sweep(tables)
    plan = prepare(checked)
    laws = []
    for replication in range(3):
        draws = Draws(checked.seed, replication)
        one, other = (draws.job(point).setup.replica.law for point in plan.points)
        assert str(one) == str(other)
        laws.append(one)
    assert len({int(law.decode[0]) for law in laws}) == 3
    settings = CoefficientsLaw(**VLLM, draw=True)
    expected = drawn_steps(settings, stream(checked.seed, 2, "coefficients"))
    assert str(laws[2]) == str(expected)
    made = run_sweep(checked)
    assert of_single(made["latency_mean_s"])
    assert "drawn anew for every replication" in made.attrs["notes"]
    fixed = run_sweep(sweep(laid(tables, {"server.service": VLLM})))
    assert (fixed["latency_mean_s"] != made["latency_mean_s"]).all()
    xr.testing.assert_equal(fixed["window_arrivals"], made["window_arrivals"])
    longer = run_sweep(sweep(tables, replications=5), workers=2)
    xr.testing.assert_equal(longer["latency_mean_s"].isel(replication=slice(0, 3)), made["latency_mean_s"])


def test_drawn_coefficients_scatter_as_their_covariance_says() -> None:
    settings = CoefficientsLaw(**VLLM, draw=True)
    law = load(VLLM["coefficients"]).step_law
    assert law is not None
    assert law.errors is not None
    rng = np.random.default_rng(1)
    laws = [drawn_steps(settings, rng) for _ in range(4000)]
    draws = np.array([[law.decode[0], law.decode_further, law.prefill_token[0]] for law in laws]) / TICKS_PER_S
    assert (draws >= 0).all()
    # The terms that are far from 0; variance of a t distribution is n / (n - 2) times that of the normal one.
    covariance = np.array(law.errors.covariance)[np.ix_([0, 1, 3], [0, 1, 3])]
    scale = np.sqrt(np.diag(covariance))
    wide = law.errors.degrees_of_freedom / (law.errors.degrees_of_freedom - 2)
    np.testing.assert_allclose(
        np.cov(draws.T) / np.outer(scale, scale), wide * covariance / np.outer(scale, scale), atol=0.1
    )
    values = [law.c0_s, law.c1_s_per_request, law.c3_s_per_prefill_token]
    np.testing.assert_allclose(draws.mean(axis=0), values, atol=4 * scale.max() / np.sqrt(4000))
