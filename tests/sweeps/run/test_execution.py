import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import numpy as np
import pytest
import xarray as xr

from batchcube.engine import Job, Shape, simulate, simulate_many
from batchcube.engine.run import Described
from batchcube.errors import InputError
from batchcube.results.cube import read_cube
from batchcube.sweeps.progress import Silent
from batchcube.sweeps.run import execution, replicating
from batchcube.sweeps.run import simulate as simulating
from batchcube.sweeps.run.draws import Draws
from batchcube.sweeps.run.execution import estimate, run_sweep
from batchcube.sweeps.run.preparing import prepare
from batchcube.sweeps.run.scheduler import deal
from batchcube.sweeps.run.simulate import require_backend
from batchcube.sweeps.spec.document import Sweep
from batchcube.sweeps.theory.bins import uniform_throughput

SWEEP: dict[str, Any] = {
    "name": "small",
    "replications": 3,
    "workload": {
        "requests": 300,
        "arrivals": {"process": "poisson"},
        "lengths": {"distribution": "uniform", "unit": "seconds", "low": 1.0, "high": 20.0},
    },
    "policy": {"mode": "multi_bin_only", "batch_size": 4},
    "server": {"service": {"law": "given"}},
    "axes": {
        "bins": {"path": "policy.bins", "values": [1, 2, 4]},
        "arrival_rate_per_s": {"path": "workload.arrivals.rate_per_s", "values": [0.1, 0.2]},
    },
}
TOKENS: dict[str, Any] = {
    "replications": 2,
    "workload": {
        "requests": 200,
        "arrivals": {"process": "poisson", "rate_per_s": 2.0},
        "lengths": {
            "distribution": "lognormal",
            "mean": 100.0,
            "cv": 0.8,
            "prompt": {"distribution": "constant", "value": 50.0},
        },
        "predictor": {"kind": "lognormal", "sigma": 0.3},
    },
    "server": {"service": {"law": "linear", "a0_s": 0.1, "a1_s_per_token": 0.01, "gamma": 0.01}},
    "report": {"request_sla_s": 5.0, "token_sla_s": 0.02, "windows": 10},
    "axes": {
        "mode": {
            "points": {
                "fifo_fixed": {"policy": {"mode": "fifo_fixed", "batch_size": 8, "max_wait_s": 4.0}},
                "fifo_greedy": {"policy": {"mode": "fifo_greedy", "batch_size": 8}},
                "multi_bin_only": {
                    "policy": {"mode": "multi_bin_only", "bins": 3, "batch_size": 8, "service_order": "shortest_first"}
                },
                "dynamic_only": {
                    "policy": {
                        "mode": "dynamic_only",
                        "largest_batch": 64,
                        "memory": {"capacity_tokens": 4000},
                        "sla": {"target_s": 0.012, "tolerance_s": 0.001},
                    }
                },
                "multi_bin_dynamic": {
                    "policy": {
                        "mode": "multi_bin_dynamic",
                        "bins": 3,
                        "largest_batch": 64,
                        "memory": {"capacity_tokens": 4000, "rule": "margin", "margin_fraction": 0.1},
                    }
                },
            }
        }
    },
}

NUMBA = require_backend("numba")


def sweep(tables: dict[str, Any], **changes: Any) -> Sweep:
    return Sweep.model_validate({**deepcopy(tables), **changes})


def data_of(cube: xr.Dataset) -> xr.Dataset:
    return cube.drop_attrs(deep=False)


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    with np.errstate(all="raise"):
        return run_sweep(sweep(SWEEP), workers=1)


def test_a_cube_has_the_axes_and_says_how_to_make_it_again(cube: xr.Dataset) -> None:
    assert dict(cube["latency_mean_s"].sizes) == {"bins": 3, "arrival_rate_per_s": 2, "replication": 3}
    assert cube["bins"].attrs["path"] == "policy.bins"
    assert cube["arrival_rate_per_s"].attrs["units"] == "1/s"
    assert (cube["requests"] == 300).all()
    assert cube["effective_bins"].isel(arrival_rate_per_s=0, replication=0).values.tolist() == [1, 2, 4]
    again = run_sweep(Sweep.model_validate(json.loads(cube.attrs["specification"])))
    xr.testing.assert_identical(data_of(again), data_of(cube))


def test_values_are_those_of_the_engine_on_the_same_draws(cube: xr.Dataset) -> None:
    prepared = prepare(sweep(SWEEP))
    for number, position in enumerate(np.ndindex(3, 2)):
        for replication in range(3):
            report = simulate(Draws(1, replication).job(prepared.points[number]), backend="reference").report
            here = cube.isel(bins=position[0], arrival_rate_per_s=position[1], replication=replication)
            for name in ("latency_mean_s", "wait_max_s", "batches", "padding_waste", "latency_quantile_s"):
                np.testing.assert_array_equal(here[name], report[name])
            assert int(here["latency_histogram"].sum()) == 300
            sizes = report["batch_size_histogram"]
            np.testing.assert_array_equal(here["batch_size_histogram"], sizes[: here.sizes["batch_size"]])
            mean = np.average(here["latency_bucket"], weights=here["latency_histogram"])
            assert mean == pytest.approx(float(here["latency_mean_s"]), rel=0.01)


def test_the_number_of_workers_changes_nothing(cube: xr.Dataset) -> None:
    xr.testing.assert_identical(data_of(run_sweep(sweep(SWEEP), workers=2)), data_of(cube))
    one, many = (run_sweep(sweep(TOKENS), workers=n) for n in (1, 5))
    xr.testing.assert_identical(data_of(one), data_of(many))


def test_more_replications_leave_the_earlier_ones_as_they_are(cube: xr.Dataset) -> None:
    more = run_sweep(sweep(SWEEP, replications=5), workers=2).isel(replication=slice(0, 3))
    for name in cube.data_vars:
        common = {dim: cube[dim] for dim in cube[name].dims if dim != "replication"}
        np.testing.assert_array_equal(more[name].sel(common), cube[name])


# Backends -----------------------------------------------------------------------------------------------------------


def test_reference_and_kernels_give_the_same_cube() -> None:
    compiled, reference = (run_sweep(sweep(TOKENS), backend=backend) for backend in ("numba", "reference"))
    xr.testing.assert_identical(data_of(compiled), data_of(reference))


@pytest.mark.usefixtures("unoptimised_programs")
def test_jax_extends_what_numba_began_with_the_same_numbers(tmp_path: Path) -> None:
    tables = deepcopy(TOKENS)
    points = tables["axes"]["mode"]["points"]
    # Each mode takes seconds to compile, and the tests of the engine have them all.
    tables["axes"]["mode"]["points"] = {name: points[name] for name in ("multi_bin_only", "multi_bin_dynamic")}
    run_sweep(sweep(tables), tmp_path / "cube.nc")
    both = run_sweep(sweep(tables, replications=4), tmp_path / "cube.nc", backend="jax")
    xr.testing.assert_identical(data_of(both), data_of(run_sweep(sweep(tables, replications=4))))
    assert both.attrs["backend"] == "numba, jax"
    assert {"numba", "jax", "jaxlib"} <= json.loads(both.attrs["versions"]).keys()


Calls = list[tuple[int, Shape]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What a device is asked for: jobs and shapes. Cores stand in for it, and nothing is compiled."""
    asked: Calls = []

    def simulate_on_cores(jobs: Sequence[Job], shape: Shape, backend: str) -> dict[str, Any]:
        assert backend == "jax"
        asked.append((len(jobs), shape))
        return simulate_many(jobs, shape, "numba")

    monkeypatch.setattr(simulating, "simulate_many", simulate_on_cores)
    monkeypatch.setattr(
        simulating, "describe", lambda backend, simulation: Described(f"device of {backend}", "jax 1.0, numpy 2.0")
    )
    return asked


def most_jobs(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(replicating, "jobs_at_once", lambda job, shape, backend: count)


@pytest.mark.parametrize(
    ("most", "asked"),
    [
        (100, [18]),  # all of it
        (17, [12, 6]),  # whole replications, the last group is smaller
        (6, [6, 6, 6]),
        (5, [3] * 6),  # not even one: blocks of points, all of a size
        (4, [3] * 6),
        (1, [1] * 18),
    ],
)
@pytest.mark.parametrize("workers", [1, 3])
def test_a_device_is_given_as_much_as_it_takes(
    cube: xr.Dataset, calls: Calls, monkeypatch: pytest.MonkeyPatch, most: int, asked: list[int], workers: int
) -> None:
    most_jobs(monkeypatch, most)
    xr.testing.assert_identical(data_of(run_sweep(sweep(SWEEP), workers=workers, backend="jax")), data_of(cube))
    assert sorted((jobs for jobs, _ in calls), reverse=True) == asked


def test_a_device_is_asked_for_one_shape_only(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    most_jobs(monkeypatch, 2)
    tables = deepcopy(SWEEP)
    del tables["policy"]["batch_size"]
    tables["axes"]["batch"] = {"path": "policy.batch_size", "values": [2, 8]}
    run_sweep(sweep(tables), backend="jax")
    assert {shape[:2] for _, shape in calls} == {(4, 8)}


def test_traces_that_do_not_fit_into_memory_are_not_drawn_at_once(
    cube: xr.Dataset, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    most_jobs(monkeypatch, 100)
    monkeypatch.setattr(replicating, "MOST_BYTES_OF_TRACES", 1)
    xr.testing.assert_identical(data_of(run_sweep(sweep(SWEEP), backend="jax")), data_of(cube))
    assert [jobs for jobs, _ in calls] == [6, 6, 6]


def test_a_cube_says_what_simulated_it(tmp_path: Path, calls: Calls) -> None:
    def said(made: xr.Dataset) -> tuple[str, str]:
        return made.attrs["backend"], made.attrs["backend_device"]

    file = tmp_path / "cube.nc"
    assert said(run_sweep(sweep(SWEEP, replications=2), file, backend="jax")) == ("jax", "device of jax")
    assert json.loads(read_cube(file).attrs["versions"])["jax"] == "1.0"
    both = run_sweep(sweep(SWEEP), file, backend="jax")
    assert said(both) == ("jax", "device of jax")
    assert len(calls) == 2


def test_a_cube_of_one_backend_is_extended_with_another(tmp_path: Path, cube: xr.Dataset) -> None:
    file = tmp_path / "cube.nc"
    run_sweep(sweep(SWEEP, replications=2), file)
    both = run_sweep(sweep(SWEEP), file, backend="reference")
    xr.testing.assert_identical(data_of(both), data_of(cube))
    assert read_cube(file).attrs["backend"] == "numba, reference"


def test_an_unknown_backend_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^`backend` gpu: must be one of numba, jax, reference$"):
        run_sweep(sweep(SWEEP), tmp_path / "new" / "cube.nc", backend="gpu")
    assert list(tmp_path.iterdir()) == []


def test_draws_that_do_not_fit_into_memory_are_drawn_again(cube: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchcube.sweeps.run.draws.MOST_BYTES", 1000)
    xr.testing.assert_identical(data_of(run_sweep(sweep(SWEEP), workers=2)), data_of(cube))


def test_edges_come_from_a_sample_of_their_own() -> None:
    few, many = (prepare(sweep(SWEEP, workload={**SWEEP["workload"], "requests": n})) for n in (10, 1000))
    edges = few.points[-1].edges
    np.testing.assert_array_equal(edges, many.points[-1].edges)
    np.testing.assert_allclose(edges, [1.0, 5.75, 10.5, 15.25, 20.0], atol=0.1)


def test_bins_that_nothing_hits_are_removed_and_told() -> None:
    tables = deepcopy(TOKENS)
    del tables["axes"]
    tables["workload"]["lengths"] = {"distribution": "mixture", "weights": [3, 1]} | {
        "components": [{"distribution": "constant", "value": v} for v in (10.0, 20.0)]
    }
    tables["workload"]["predictor"] = {"kind": "oracle"}
    tables["policy"] = {"mode": "multi_bin_only", "bins": 4, "batch_size": 4}
    cube = run_sweep(Sweep.model_validate(tables))
    assert (cube["effective_bins"] < 4).all()
    assert "no request can fall into" in cube.attrs["notes"]
    assert (cube["bin_requests"].sum("bin") == 200).all()


def test_all_modes_run_with_tokens_predictions_and_controllers() -> None:
    cube = run_sweep(sweep(TOKENS))
    assert cube["mode"].values.tolist() == list(TOKENS["axes"]["mode"]["points"])
    assert (cube["completed"] == 200).all()
    dynamic = cube["memory_overflow_fraction"].notnull().all("replication").values
    assert dynamic.tolist() == [False, False, False, True, True]
    assert cube["window_batch_target_mean"].sel(mode="dynamic_only").notnull().any()
    assert cube["request_sla_violation_fraction"].notnull().all()
    assert cube.sizes["window"] == 10


def test_an_axis_may_have_one_point_that_sets_nothing() -> None:
    fixed = {"mode": "fifo_fixed", "batch_size": 8}
    cube = run_sweep(sweep(TOKENS, policy=fixed, axes={"cap": {"points": {"static": {}}}}))
    assert cube["cap"].values.tolist() == ["static"]


def test_overflows_are_counted_where_no_memory_bound_acts() -> None:
    tables = deepcopy(TOKENS)
    tables["report"]["memory_capacity_tokens"] = 4000
    fixed = run_sweep(Sweep.model_validate(tables))["memory_overflow_fraction"]
    assert fixed.notnull().all()
    tables["report"]["memory_capacity_tokens"] = 1
    del tables["axes"]["mode"]["points"]["dynamic_only"], tables["axes"]["mode"]["points"]["multi_bin_dynamic"]
    assert (run_sweep(Sweep.model_validate(tables))["memory_overflow_fraction"] == 1.0).all()


def test_theory_is_that_of_the_point(cube: xr.Dataset) -> None:
    theory = cube["theory_throughput_requests_per_s"].isel(arrival_rate_per_s=0)
    expected = [uniform_throughput(k, 4, 1.0, 20.0) for k in (1, 2, 4)]
    np.testing.assert_allclose(theory, expected, rtol=2e-3)
    assert (cube["theory_throughput_limit_requests_per_s"] > cube["theory_throughput_requests_per_s"]).all()
    assert cube["theory_latency_s"].isnull().all()


def test_infinitely_many_servers_follow_lemma_5_1() -> None:
    tables = deepcopy(SWEEP)
    tables["workload"] |= {"requests": 20000}
    tables["server"]["servers"] = "infinite"
    tables["policy"]["tail"] = "drop"
    cube = run_sweep(Sweep.model_validate({**tables, "replications": 8}))
    error = cube["latency_mean_s"].std("replication", ddof=1) / np.sqrt(8)
    difference = abs(cube["latency_mean_s"].mean("replication") - cube["theory_latency_s"])
    assert (difference < 4.5 * error).all()
    assert cube["theory_throughput_requests_per_s"].isnull().all()


def test_a_measured_table_is_read_and_leaving_it_is_told(tmp_path: Path) -> None:
    table = tmp_path / "times.csv"
    rows = [f"{b},{n},{0.1 + 0.01 * n * (1 + 0.1 * b)}" for b in (1, 2, 4) for n in (10, 100, 1000)]
    table.write_text("batch_size,length_tokens,seconds\n" + "\n".join(rows))
    tables = deepcopy(TOKENS)
    del tables["axes"]
    tables["server"] = {"service": {"law": "table", "path": str(table)}}
    tables["policy"] = {"mode": "fifo_greedy", "batch_size": 8}
    cube = run_sweep(Sweep.model_validate(tables))
    assert (cube["extrapolated_batch_fraction"] > 0).any()
    assert "outside the measured table" in cube.attrs["notes"]
    rows = [f"{b},{n},{0.2 + 0.02 * n * (1 + 0.1 * b)}" for b in (1, 2, 4) for n in (10, 100, 1000)]
    table.write_text("batch_size,length_tokens,seconds\n" + "\n".join(rows))
    changed = run_sweep(Sweep.model_validate(tables))
    assert (changed["service_mean_s"] > 1.5 * cube["service_mean_s"]).all()


def test_windows_of_requests_that_all_arrive_at_once_span_their_work() -> None:
    tables = deepcopy(SWEEP)
    tables["axes"] = {"bins": {"path": "policy.bins", "values": [1, 2]}}
    tables["workload"]["arrivals"] = {"process": "at_once"}
    tables["workload"]["requests"] = 4000
    cube = run_sweep(Sweep.model_validate(tables))
    assert (cube["wait_min_s"] == 0).all()
    np.testing.assert_allclose(50 * cube["window_width_s"], 1000 * 10.5, rtol=0.01)
    tables["report"] = {"horizon_s": 1000.0}
    assert (run_sweep(Sweep.model_validate(tables))["window_width_s"] == 20.0).all()


# Files --------------------------------------------------------------------------------------------------------------


def test_a_cube_is_extended_and_a_complete_one_is_left_alone(tmp_path: Path, cube: xr.Dataset) -> None:
    file = tmp_path / "cube.nc"
    run_sweep(sweep(SWEEP, replications=2), file)
    longer = run_sweep(sweep(SWEEP), file)
    assert longer.attrs["replications"] == 3
    for name in cube.data_vars:
        np.testing.assert_array_equal(longer[name], cube[name])
    stamp = file.stat().st_mtime_ns
    assert run_sweep(sweep(SWEEP, replications=1), file).sizes["replication"] == 3
    assert file.stat().st_mtime_ns == stamp
    assert [entry.name for entry in tmp_path.iterdir()] == ["cube.nc"]


def test_another_sweep_in_the_file_is_refused_unless_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "cube.nc"
    run_sweep(sweep(SWEEP), file)
    with pytest.raises(InputError, match=r"holds another sweep \(seed differs\)"):
        run_sweep(sweep(SWEEP, seed=2), file)
    assert run_sweep(sweep(SWEEP, seed=2), file, overwrite=True).attrs["seed"] == 2
    file.write_text("no cube")
    with pytest.raises(InputError, match="is no NetCDF file"):
        run_sweep(sweep(SWEEP), file)


def test_a_stopped_run_keeps_what_is_finished_and_continues(
    tmp_path: Path, cube: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupt(Silent):
        def start(self, points: int, replications: int, requests: int) -> None:
            self.replications = replications

        def finish_replications(self, count: int) -> None:
            raise KeyboardInterrupt

    file = tmp_path / "cube.nc"
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep(SWEEP), file, workers=1, progress=Interrupt(), backend="reference")
    assert [entry.name for entry in tmp_path.iterdir()] == ["cube.nc.partial"]
    with pytest.raises(InputError, match="holds a stopped run of another sweep"):
        run_sweep(sweep(SWEEP, seed=2), file)
    again = Interrupt()
    monkeypatch.setattr(Interrupt, "finish_replications", lambda self, count: None)
    continued = run_sweep(sweep(SWEEP), file, progress=again)
    assert again.replications <= 2
    assert continued.attrs["backend"] == "reference, numba"
    xr.testing.assert_identical(data_of(continued), data_of(cube))
    assert [entry.name for entry in tmp_path.iterdir()] == ["cube.nc"]
    xr.testing.assert_equal(data_of(read_cube(file)), data_of(cube))


def test_a_stopped_run_keeps_what_was_under_way_on_a_device(
    tmp_path: Path, cube: xr.Dataset, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, both_are_there = Event(), Barrier(2, timeout=60)

    class Interrupt(Silent):
        def finish_replications(self, count: int) -> None:
            stopped.set()
            raise KeyboardInterrupt

    class NothingIsLeft(Silent):
        def start(self, points: int, replications: int, requests: int) -> None:
            assert replications == 0

    simulate_now = simulating.simulate_many

    def simulate_one_before_and_one_after(jobs: Sequence[Job], shape: Shape, backend: str) -> dict[str, Any]:
        both_are_there.wait()
        if len(jobs) == 6:
            assert stopped.wait(60)
        return simulate_now(jobs, shape, backend)

    monkeypatch.setattr(simulating, "simulate_many", simulate_one_before_and_one_after)
    most_jobs(monkeypatch, 12)
    file = tmp_path / "cube.nc"
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep(SWEEP), file, workers=2, progress=Interrupt(), backend="jax")
    continued = run_sweep(sweep(SWEEP), file, progress=NothingIsLeft())
    xr.testing.assert_identical(data_of(continued), data_of(cube))
    assert continued.attrs["backend"] == "jax"


def test_an_output_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: is a file, must be a folder"):
        run_sweep(sweep(SWEEP), tmp_path / "file" / "cube.nc")
    with pytest.raises(InputError, match="is a folder"):
        run_sweep(sweep(SWEEP), tmp_path)


def test_missing_folders_are_made(tmp_path: Path) -> None:
    run_sweep(sweep(SWEEP), tmp_path / "new" / "folder" / "cube.nc")
    assert read_cube(tmp_path / "new" / "folder" / "cube.nc").sizes["replication"] == 3


def test_sizes_are_estimated() -> None:
    size = estimate(sweep(SWEEP))
    assert (size.points, size.requests) == (6, 6 * 300 * 3)
    assert 0 < size.cube_bytes < size.peak_bytes


def test_a_run_that_the_machine_cannot_hold_is_refused_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "memory_bytes", lambda: 2e8)
    monkeypatch.setattr(simulating, "simulate_many", None)
    with pytest.raises(InputError) as caught:
        run_sweep(sweep(SWEEP), tmp_path / "cube.nc")
    assert re.fullmatch(
        r"specification: needs about 0\.3 GB of memory, and this machine has 0\.2: take fewer points, replications, "
        r"requests or report\.windows, or report\.histograms = false",
        str(caught.value),
    )
    assert list(tmp_path.iterdir()) == []


def test_the_machine_has_memory() -> None:
    assert 1e8 < execution.memory_bytes() < 1e15 or execution.memory_bytes() == np.inf


@pytest.mark.slow
@pytest.mark.parametrize(
    ("requests", "replications"), [(20, 5000), (1_000_000, 2)], ids=["many replications", "many requests"]
)
def test_the_memory_that_is_estimated_is_the_memory_that_a_run_takes(
    tmp_path: Path, requests: int, replications: int
) -> None:
    tables = {name: table for name, table in SWEEP.items() if name != "axes"}
    arrivals = {"process": "poisson", "rate_per_s": 0.1}
    workload = {**SWEEP["workload"], "arrivals": arrivals, "requests": requests}
    tables |= {"replications": replications, "workload": workload, "policy": {**SWEEP["policy"], "bins": 2}}
    script = (
        "import json, resource, sys\n"
        "from batchcube.sweeps.run.execution import run_sweep\n"
        "from batchcube.sweeps.spec.document import Sweep\n"
        "run_sweep(Sweep.model_validate(json.loads(sys.argv[1])), 'cube.nc')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, json.dumps(tables)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    taken = int(ran.stdout) * 1024
    assert 0.6 < estimate(Sweep.model_validate(tables)).peak_bytes / taken < 1.6


def test_blocks_cover_every_point_once() -> None:
    for count in (1, 5, 16):
        for parts in (0, 1, 3, 99):
            assert [k for block in deal(count, parts) for k in block] == list(range(count))


def test_every_file_that_a_sweep_reads_leaves_its_checksum(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    cells = "\n".join(f"{b},{n},{0.01 * n * (1 + 0.1 * b)}" for b in (1, 4) for n in (10, 100))
    table.write_text(f"batch_size,length_tokens,seconds\n{cells}\n")
    bars = tmp_path / "bars.csv"
    bars.write_text("low,high,count\n1,50,3\n50,100,1\n")
    document = {
        "name": "files",
        "title": "files",
        "replications": 1,
        "workload": {
            "requests": 40,
            "arrivals": {"process": "poisson", "rate_per_s": 1.0},
            "lengths": {
                "distribution": "histogram",
                "path": str(bars),
                "low_column": "low",
                "high_column": "high",
                "count_column": "count",
            },
        },
        "policy": {"mode": "fifo_greedy", "batch_size": 4},
        "server": {"service": {"law": "table", "path": str(table)}},
    }
    said = str(run_sweep(Sweep.model_validate(document)).attrs["input_sha256"]).split(",")
    assert sorted(said) == sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in (table, bars))


def test_what_comes_out_is_told_while_a_run_goes_on(cube: xr.Dataset) -> None:
    told: list[str] = []

    class Told(Silent):
        def show(self, text: str) -> None:
            told.append(text)

    made = run_sweep(sweep(SWEEP), progress=Told(), workers=1)
    count = made.sizes["replication"]
    assert [text.split(":")[0] for text in told] == [
        f"in {number} replication{'s' * (number > 1)}" for number in range(1, count + 1)
    ]
    latency = made["latency_mean_s"].mean("replication").values
    assert told[-1].endswith(f"mean latency {latency.min():.3g} to {latency.max():.3g} s")
