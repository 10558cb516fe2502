"""A replication draws by seed, replication and purpose alone, each array once, and all points share it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from batchcube.results.variables import CONTROLS
from batchcube.sweeps.run import draws as drawing
from batchcube.sweeps.run.draws import Draws
from batchcube.sweeps.run.preparing import PreparedPoint, prepare
from batchcube.sweeps.seeds import stream
from batchcube.sweeps.spec.document import Sweep
from helpers.specifications import BINS, SECONDS, STEPS, Tables, laid

PROMPTS = {"distribution": "uniform", "low": 100.0, "high": 300.0}
UNIFORM = {"distribution": "uniform", "low": 50.0, "high": 150.0, "prompt": PROMPTS}
DRAWN = laid(BINS, {"workload.lengths": UNIFORM, "workload.predictor": {"kind": "lognormal", "sigma": 0.5}})
"""A workload of which everything is drawn: arrivals, prompts and outputs, and what a predictor says of them."""


def plans(tables: Tables, settings: Tables | None = None) -> tuple[PreparedPoint, ...]:
    return prepare(Sweep.model_validate(laid(tables, settings or {}), "sweep.toml")).points


def along(path: str, values: list[Any]) -> tuple[PreparedPoint, ...]:
    """Prepare one point for each value of a setting."""
    axes = {"axes": {"x": {"path": path, "values": values}}}
    above, _, last = path.rpartition(".")
    table: Any = DRAWN
    for key in above.split("."):
        table = table.get(key, {})
    return plans(DRAWN, {path: None, **axes} if last in table else axes)


def arrays(job: Any) -> dict[str, np.ndarray]:
    """Return what is random in a job of whole batches."""
    return {
        "arrivals": job.trace.arrival,
        "outputs": job.trace.output,
        "prompts": job.trace.prompt,
        "bins": job.bins.of,
    }


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> set[str]:
    return {name for name in one if np.array_equal(one[name], other[name])}


# On what it depends -------------------------------------------------------------------------------------------------

ALL = {"arrivals", "outputs", "prompts", "bins"}


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"policy.batch_size": 9}, ALL),
        ({"policy.mode": "multi_bin_only", "policy.service_order": "shortest_first"}, ALL),
        ({"server.servers": 3}, ALL),
        ({"server.service.a1_s_per_token": 0.5}, ALL),
        ({"report": {"windows": 7, "warmup_fraction": 0.5}}, ALL),
        ({"replications": 50, "name": "other"}, ALL),
        ({"workload.arrivals.rate_per_s": 2.0}, ALL - {"arrivals"}),
        ({"workload.arrivals": {"process": "gamma", "rate_per_s": 1.0, "cv": 2.0}}, ALL - {"arrivals"}),
        ({"workload.predictor.sigma": 0.1}, ALL - {"bins"}),
        ({"policy.bins": 3}, ALL - {"bins"}),
        ({"workload.lengths.high": 250.0}, {"arrivals"}),
        ({"workload.lengths": {"distribution": "exponential", "mean": 90.0, "prompt": PROMPTS}}, {"arrivals"}),
    ],
)
def test_a_setting_changes_what_it_is_about_and_nothing_else(settings: Tables, kept: set[str]) -> None:
    (plan,), (changed,) = plans(DRAWN), plans(DRAWN, settings)
    found = same(arrays(Draws(1, 3).job(plan)), arrays(Draws(1, 3).job(changed)))
    # Outputs and prompts are one purpose: outputs that take as many random numbers as before leave the prompts.
    assert kept <= found <= kept | {"prompts"}


@pytest.mark.parametrize(("seed", "replication"), [(1, 4), (2, 3), (3, 1)])
def test_another_seed_or_replication_draws_everything_anew(seed: int, replication: int) -> None:
    (plan,) = plans(DRAWN)
    assert same(arrays(Draws(1, 3).job(plan)), arrays(Draws(seed, replication).job(plan))) == set()


def test_neither_other_points_nor_their_order_change_what_a_point_draws() -> None:
    points = along("policy.bins", [2, 3, 4])
    alone = [arrays(Draws(1, 0).job(plan)) for plan in points]
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 1]):
        together = Draws(1, 0)
        for k in order:
            assert same(arrays(together.job(points[k])), alone[k]) == ALL


def test_both_kinds_of_batching_meet_the_same_requests() -> None:
    (batches,), (steps,) = plans(DRAWN), plans(STEPS, {"workload": DRAWN["workload"]})
    whole, single = Draws(1, 0).job(batches), Draws(1, 0).job(steps)
    np.testing.assert_array_equal(single.requests.output, whole.trace.output)
    np.testing.assert_array_equal(single.requests.prompt, whole.trace.prompt)
    # Microseconds and picoseconds, each rounded once.
    np.testing.assert_allclose(single.requests.arrival / 10**6, whole.trace.arrival, rtol=0, atol=0.5 + 1e-6)


def test_a_rate_only_stretches_the_arrivals() -> None:
    slow, fast = (Draws(1, 0).job(plan).trace.arrival for plan in along("workload.arrivals.rate_per_s", [0.5, 2.0]))
    np.testing.assert_allclose(slow, 4 * fast, rtol=0, atol=4 * 0.5 + 0.5)


def test_coefficients_are_drawn_for_a_replication_and_shared_by_its_points() -> None:
    service = {"coefficients": "qwen3-0.6b-cpu-transformers", "draw": True}
    one, two = plans(
        DRAWN,
        {"server.service": service, "policy.bins": None, "axes": {"bins": {"path": "policy.bins", "values": [1, 2]}}},
    )
    slopes = [
        [Draws(seed, k).job(plan).setup.service.slope[4, 0] for plan in (one, two)]
        for seed, k in ((1, 0), (1, 1), (2, 0))
    ]
    assert [a == b for a, b in slopes] == [True] * 3
    assert len({a for a, _ in slopes}) == 3
    assert slopes[0][0] != one.setup.service.slope[4, 0]


def test_what_a_predictor_gets_wrong_has_nothing_to_do_with_what_was_drawn() -> None:
    """Correlation of the logarithms over 2000 requests: 0 ± 0.022; 1 if both came from one stream."""
    settings = {
        "workload.requests": 2000,
        "workload.lengths": {"distribution": "lognormal", "mean": 500.0, "cv": 1.0},
        "policy.service_order": "shortest_first",
    }
    (plan,) = plans(DRAWN, settings)
    trace = Draws(0, 0).job(plan).trace
    error = np.log(trace.predicted / trace.output)
    assert abs(np.corrcoef(error, np.log(trace.output))[0, 1]) < 5 / np.sqrt(2000)
    arrivals = np.diff(trace.arrival)
    assert abs(np.corrcoef(arrivals, trace.output[1:])[0, 1]) < 5 / np.sqrt(2000)


# Drawn once ---------------------------------------------------------------------------------------------------------


def test_points_that_share_an_array_share_its_memory() -> None:
    draws = Draws(1, 0)
    one, two = (arrays(draws.job(plan)) for plan in along("workload.arrivals.rate_per_s", [1.0, 2.0]))
    assert {name for name in one if np.shares_memory(one[name], two[name])} == ALL - {"arrivals"}
    draws = Draws(1, 0)
    one, two = (arrays(draws.job(plan)) for plan in along("policy.bins", [2, 3]))
    assert {name for name in one if np.shares_memory(one[name], two[name])} == ALL - {"bins"}


@pytest.fixture
def purposes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the purposes of all streams that are begun from here on."""
    begun: list[str] = []

    def recorded(seed: int, replication: int, purpose: str) -> np.random.Generator:
        begun.append(purpose)
        return stream(seed, replication, purpose)

    monkeypatch.setattr(drawing, "stream", recorded)
    return begun


@pytest.mark.parametrize(
    ("path", "values", "drawn"),
    [
        ("policy.batch_size", [2, 4, 8], ["arrivals", "lengths", "predictor"]),
        ("workload.arrivals.rate_per_s", [1.0, 2.0, 3.0], ["arrivals", "lengths", "predictor"]),
        ("workload.lengths.high", [150.0, 160.0], ["arrivals", "lengths", "lengths", "predictor", "predictor"]),
        ("workload.predictor.sigma", [0.1, 0.2], ["arrivals", "lengths", "predictor", "predictor"]),
    ],
)
def test_each_array_is_drawn_once_for_all_points(
    purposes: list[str], path: str, values: list[Any], drawn: list[str]
) -> None:
    draws, points = Draws(1, 0), along(path, values)
    for _ in range(2):
        for plan in points:
            draws.job(plan)
    assert sorted(purposes) == drawn


def test_threads_that_ask_together_get_the_same_arrays(purposes: list[str]) -> None:
    draws, threads = Draws(1, 0), 8
    points = along("policy.batch_size", list(range(1, threads + 1)))
    start = Barrier(threads)

    def ask(plan: PreparedPoint) -> dict[str, np.ndarray]:
        start.wait()
        return arrays(draws.job(plan))

    with ThreadPoolExecutor(threads) as pool:
        first, *others = pool.map(ask, points)
    assert sorted(purposes) == ["arrivals", "lengths", "predictor"]
    for other in others:
        assert all(np.shares_memory(first[name], other[name]) for name in ALL)


def test_arrays_beyond_the_limit_are_drawn_again_and_are_the_same(
    purposes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    points = along("workload.lengths.high", [150.0, 250.0])
    kept = [arrays(Draws(1, 0).job(plan)) for plan in points]
    monkeypatch.setattr(drawing, "MOST_BYTES", 1)
    del purposes[:]
    draws = Draws(1, 0)
    for _ in range(2):
        for plan, before in zip(points, kept, strict=True):
            assert same(arrays(draws.job(plan)), before) == ALL
    assert purposes.count("lengths") > 2


def test_who_asks_for_an_array_that_could_not_be_drawn_is_told_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> np.random.Generator:
        raise RuntimeError("no such stream")

    monkeypatch.setattr(drawing, "stream", broken)
    draws = Draws(1, 0)
    for plan in along("policy.batch_size", [2, 4]):
        with pytest.raises(RuntimeError, match="no such stream"):
            draws.job(plan)


# What was drawn, over what is drawn on average ----------------------------------------------------------------------


def test_what_was_drawn_is_told_over_its_mean() -> None:
    (plan,) = plans(DRAWN)
    draws = Draws(1, 3)
    trace = draws.job(plan).trace
    gaps = np.diff(trace.arrival) / 10**6
    expected = (gaps.mean() / 1.0, trace.prompt.mean() / 200.0, trace.output.mean() / 100.0)
    assert [*draws.ratios(plan)] == [*CONTROLS]
    np.testing.assert_allclose([*draws.ratios(plan).values()], expected, rtol=1e-6)
    (seconds,) = plans(SECONDS, {"workload.arrivals.rate_per_s": 4.0})
    faster = Draws(1, 3)
    trace = faster.job(seconds).trace
    gap, prompt, output = faster.ratios(seconds).values()
    assert np.isnan(prompt)
    assert output == pytest.approx(trace.length.mean() / 10**6 / 10.5, rel=1e-6)
    assert gap == pytest.approx(draws.ratios(plan)["drawn_gap_ratio"], rel=1e-12), "a rate only stretches"


@pytest.mark.parametrize("process", [{"process": "poisson"}, {"process": "gamma", "cv": 2.0}])
@pytest.mark.parametrize("tables", [DRAWN, STEPS])
def test_over_replications_the_mean_of_what_was_drawn_is_one(tables: Tables, process: Tables) -> None:
    lengths = {
        "distribution": "lognormal",
        "mean": 3.0,
        "cv": 1.5,
        "prompt": {"distribution": "exponential", "mean": 2},
    }
    sessions = {"sessions": {"turns": {"distribution": "uniform", "low": 1, "high": 4}}} if tables is STEPS else {}
    workload = {"arrivals": {"rate_per_s": 3.0, **process}, "lengths": lengths, "requests": 50, **sessions}
    (plan,) = plans({**tables, "workload": workload})
    found = []
    for replication in range(1000):
        draws = Draws(5, replication)
        draws.job(plan)
        found.append([*draws.ratios(plan).values()])
    errors = np.std(found, axis=0) / np.sqrt(len(found))
    assert (errors > 0.0).all()
    assert (np.abs(np.mean(found, axis=0) - 1.0) < 4.5 * errors).all()


@pytest.mark.parametrize(
    ("arrivals", "known"),
    [
        ({"process": "deterministic", "rate_per_s": 1.0}, 1.0),
        ({"process": "at_once"}, np.nan),
        ({"process": "step", "times_s": [0.0, 5.0], "rates_per_s": [1.0, 2.0]}, np.nan),
        (
            {"process": "on_off", "rate_per_s": 1.0, "on_off_ratio": 3.0, "mean_on_s": 1.0, "mean_off_s": 1.0},
            np.nan,
        ),
        ({"process": "gamma_windows", "shapes": [0.5], "scales_s": [1.0]}, np.nan),
    ],
)
def test_only_what_has_an_exact_mean_is_told(arrivals: Tables, known: float) -> None:
    (plan,) = plans(
        DRAWN, {"workload.arrivals": arrivals, "workload.lengths.prompt": {"distribution": "constant", "value": 0.0}}
    )
    draws = Draws(1, 0)
    draws.job(plan)
    gap, prompt, output = draws.ratios(plan).values()
    np.testing.assert_equal(gap, known)
    assert np.isnan(prompt), "there is nothing to divide by"
    assert output > 0.0


def test_a_recorded_trace_a_closed_loop_and_a_lone_request_have_no_gap(recorded: Tables) -> None:
    (plan,) = plans(recorded, {"workload.trace.resample": "circular"})
    draws = Draws(1, 0)
    draws.job(plan)
    assert np.isnan([*draws.ratios(plan).values()]).all()
    closed = {"workload.arrivals": {"process": "closed", "users": 3}, "workload.lengths": UNIFORM}
    for settings in (closed, {"workload.requests": 1, "workload.lengths": UNIFORM}):
        (plan,) = plans(STEPS, settings)
        draws = Draws(1, 0)
        draws.job(plan)
        gap, prompt, output = draws.ratios(plan).values()
        assert np.isnan(gap)
        assert prompt > 0.0 < output


# Windows of a recorded trace ----------------------------------------------------------------------------------------

ARRIVALS = [0, 10, 30, 70, 150]
OUTPUTS = [10, 20, 30, 40, 50]
MEAN_GAP = 37.5


@pytest.fixture
def recorded(tmp_path: Path) -> Tables:
    """Tables of a sweep over a recorded trace of five requests, which its output tokens tell apart."""
    rows = "".join(f"{a},{2 * o},{o}\n" for a, o in zip(ARRIVALS, OUTPUTS, strict=True))
    (tmp_path / "trace.csv").write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}")
    return laid(BINS, {"workload": {"trace": {"path": str(tmp_path / "trace.csv")}}})


def windows(tables: Tables, settings: Tables, replications: int = 40) -> list[tuple[list[int], list[float]]]:
    """Return output tokens and arrivals in seconds of each replication."""
    (plan,) = plans(tables, settings)
    traces = [Draws(1, k).job(plan).trace for k in range(replications)]
    assert all((trace.prompt == 2 * trace.output).all() for trace in traces)
    return [(trace.output.tolist(), (trace.arrival / 10**6).tolist()) for trace in traces]


def test_without_resampling_every_replication_is_the_trace(recorded: Tables) -> None:
    assert windows(recorded, {}, 3) == [(OUTPUTS, ARRIVALS)] * 3
    assert windows(recorded, {"workload.requests": 3}, 1) == [(OUTPUTS[:3], ARRIVALS[:3])]


def test_circular_windows_begin_anywhere_and_go_around_the_end(recorded: Tables) -> None:
    met = set()
    for outputs, arrivals in windows(recorded, {"workload.trace.resample": "circular"}):
        start = OUTPUTS.index(outputs[0])
        met.add(start)
        assert outputs == OUTPUTS[start:] + OUTPUTS[:start]
        later = [a + ARRIVALS[-1] + MEAN_GAP for a in ARRIVALS[:start]]
        assert arrivals == [a - ARRIVALS[start] for a in (*ARRIVALS[start:], *later)]
    # Each of five starts is missed by 40 replications with probability 0.0001.
    assert met == set(range(5))


def test_windows_of_blocks_keep_neighbours_and_the_gaps_before_them(recorded: Tables) -> None:
    gaps = dict(zip(OUTPUTS, (MEAN_GAP, *np.diff(ARRIVALS).tolist()), strict=True))
    settings = {"workload.trace.resample": "blocks", "workload.trace.block_requests": 2, "workload.requests": 8}
    met = set()
    for outputs, arrivals in windows(recorded, settings):
        assert all(b == a + 10 for a, b in zip(outputs[::2], outputs[1::2], strict=True))
        met.update(outputs[::2])
        np.testing.assert_allclose(np.diff(arrivals), [gaps[o] for o in outputs[1:]], rtol=0, atol=1e-6)
    assert met == set(OUTPUTS[:-1])


@pytest.mark.parametrize("resample", ["circular", "blocks"])
def test_a_window_is_the_same_for_every_rate_policy_and_kind_of_batching(recorded: Tables, resample: str) -> None:
    settings = {"workload.trace.resample": resample}
    for k in range(5):
        (plan,), (other,) = plans(recorded, settings), plans(recorded, {**settings, "policy.batch_size": 3})
        window, too = Draws(1, k).job(plan).trace, Draws(1, k).job(other).trace
        np.testing.assert_array_equal(window.output, too.output)
        np.testing.assert_array_equal(window.arrival, too.arrival)
        (faster,) = plans(recorded, {**settings, "workload.trace.rate_scale": 4.0})
        scaled = Draws(1, k).job(faster).trace
        np.testing.assert_array_equal(window.output, scaled.output)
        np.testing.assert_array_equal(window.arrival, 4 * scaled.arrival)
        (steps,) = plans(STEPS, {"workload": laid(recorded, settings)["workload"]})
        np.testing.assert_array_equal(window.output, Draws(1, k).job(steps).requests.output)


def test_another_seed_cuts_another_window(recorded: Tables) -> None:
    (plan,) = plans(recorded, {"workload.trace.resample": "circular"})
    starts = [[Draws(seed, k).job(plan).trace.output[0] for k in range(20)] for seed in (1, 2)]
    assert starts[0] != starts[1]
