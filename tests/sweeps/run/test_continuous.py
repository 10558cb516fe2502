"""Mode continuous from the specification to the cube."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from batchcube.engine import continuous, simulate_many
from batchcube.engine.continuous.ticks import TICKS_PER_S
from batchcube.results.cube import read_cube
from batchcube.results.variables import REGISTRY
from batchcube.sweeps.progress import Silent
from batchcube.sweeps.run.draws import Draws
from batchcube.sweeps.run.execution import estimate, run_sweep
from batchcube.sweeps.run.preparing import prepare
from batchcube.sweeps.spec.document import Sweep
from helpers.command_line import Answer
from helpers.specifications import CONTINUOUS as BASE
from helpers.specifications import TOKENS, laid
from helpers.step_sweeps import POLICIES, sweep

DOCS = Path(__file__).parents[3] / "docs"


def data_of(cube: xr.Dataset) -> xr.Dataset:
    return cube.drop_attrs(deep=False)


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    return run_sweep(sweep(), workers=1)


# Running ------------------------------------------------------------------------------------------------------------


def test_the_reference_and_the_kernels_give_the_same_cube(cube: xr.Dataset) -> None:
    reference = run_sweep(sweep(), backend="reference", workers=2)
    xr.testing.assert_identical(data_of(reference), data_of(cube))
    assert reference.attrs["backend"] == "reference"


def test_the_number_of_threads_changes_nothing(cube: xr.Dataset) -> None:
    xr.testing.assert_identical(data_of(run_sweep(sweep(), workers=3)), data_of(cube))


def test_values_are_those_of_the_engine_on_the_same_draws(cube: xr.Dataset) -> None:
    prepared = prepare(sweep())
    assert prepared.simulation.STEPWISE
    for number, position in enumerate(np.ndindex(len(POLICIES), 2)):
        job = Draws(1, 2).job(prepared.points[number])
        assert job.shape == (len(prepared.points[number].edges) - 1, 16, 10, 0)
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
    *("throughput_requests_per_s", "throughput_tokens_per_s", "makespan_s", "utilisation"),
    *("batch_size_mean", "step_tokens_mean", "request_sla_violation_fraction", "token_sla_violation_fraction"),
    *("kv_peak_tokens", "recomputed_token_fraction", "backlog_growth_fraction", "queue_growth_fraction"),
    *("goodput_fraction", "goodput_requests_per_s"),
    *("prefix_cache_hit_fraction", "kv_occupied_fraction"),
    *("drawn_gap_ratio", "drawn_prompt_ratio", "drawn_output_ratio"),
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
    *("drawn_gap_ratio", "drawn_prompt_ratio", "drawn_output_ratio"),
    *("window_batch_sla_bound_mean", "window_signal_mean_s"),
}


def test_a_cube_holds_what_steps_give_and_nothing_of_whole_batches(cube: xr.Dataset) -> None:
    assert set(cube.data_vars) == HELD
    for name in HELD:
        assert cube[name].dtype == np.dtype(REGISTRY[name].dtype)
        assert cube[name].dims == REGISTRY[name].dims(["policy", "arrival_rate_per_s"])
    assert (cube["completed"] + cube["rejected"] == cube["requests"]).all()
    assert (cube["window_width_s"].sel(arrival_rate_per_s=6.0) == 120 / 6.0 / 10).all()
    assert cube["effective_bins"].isel(replication=0, arrival_rate_per_s=0).values.tolist() == [1] * 6 + [3, 1, 1, 3]
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
    prepared = prepare(sweep())
    draws = Draws(1, 0)
    jobs = [draws.job(point) for point in prepared.points]
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
    other = Draws(1, 1).job(prepared.points[0])
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
