"""Sweeps over recorded traces: windows, what the file refuses, and a file that changes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchcube.errors import InputError
from batchcube.results.precision import Precision, level, looked_at
from batchcube.results.provenance import batchcube_version
from batchcube.sweeps.run.draws import Draws
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.run.preparing import prepare
from batchcube.sweeps.run.simulate import require_backend
from batchcube.sweeps.run.store import Part, Store
from batchcube.sweeps.spec.document import Sweep
from helpers.samples import SAMPLES

NUMBA = require_backend("numba")
PRECISE = Precision(("latency_mean_s=0.01%",))


def trace_sweep(path: Path, **trace: Any) -> dict[str, Any]:
    return {
        "replications": 4,
        "workload": {"trace": {"path": str(path), **trace}},
        "policy": {"mode": "multi_bin_only", "bins": 2, "batch_size": 4},
        "server": {"service": {"law": "constant", "a1_s_per_token": 0.01}},
    }


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    arrival = np.cumsum(rng.exponential(1.0, 200)).round(3)
    rows = zip(arrival, rng.integers(1, 50, 200), rng.integers(1, 300, 200), strict=True)
    file = tmp_path / "trace.csv"
    file.write_text("arrival_s,prompt_tokens,output_tokens\n" + "\n".join(f"{a},{p},{o}" for a, p, o in rows))
    return file


def test_a_trace_as_it_is_has_one_replication_and_says_so(trace: Path) -> None:
    cube = run_sweep(Sweep.model_validate(trace_sweep(trace)))
    assert cube.sizes["replication"] == 1
    assert "one replication and no interval" in cube.attrs["notes"]
    assert len(cube.attrs["input_sha256"]) == 64
    assert int(cube["requests"][0]) == 200


def test_a_resampled_trace_has_replications_that_differ_and_share_windows_across_scales(trace: Path) -> None:
    tables = trace_sweep(trace, resample="circular")
    tables["workload"]["requests"] = 100
    tables["axes"] = {"rate_scale": {"path": "workload.trace.rate_scale", "values": [1.0, 2.0]}}
    checked = Sweep.model_validate(tables)
    cube = run_sweep(checked)
    assert len(np.unique(cube["latency_mean_s"].isel(rate_scale=0))) == 4
    prepared = prepare(checked)
    one, two = (Draws(1, 2).job(point).trace for point in prepared.points)
    np.testing.assert_array_equal(one.output, two.output)
    np.testing.assert_allclose(one.arrival, 2 * two.arrival, atol=2)


def test_successive_parts_of_a_trace_are_replications(trace: Path) -> None:
    tables = trace_sweep(trace, resample="parts")
    tables["workload"]["requests"] = 40
    prepared = prepare(Sweep.model_validate(tables))
    outputs = np.loadtxt(trace, delimiter=",", skiprows=1)[:, 2]
    drawn = [Draws(1, replication).job(prepared.points[0]).trace.output for replication in range(4)]
    np.testing.assert_array_equal(np.concatenate(drawn), outputs[:160])
    cube = run_sweep(Sweep.model_validate(tables))
    assert "intervals are those of batch means" in cube.attrs["notes"]
    assert "too narrow" not in cube.attrs["notes"]
    with pytest.raises(InputError) as caught:
        run_sweep(Sweep.model_validate({**tables, "replications": 6}, "sweep.toml"))
    assert str(caught.value) == (
        "sweep.toml: replications = 6: the trace has 5 parts of workload.requests, one for each replication"
    )


def test_parts_end_what_a_precision_asks_for(trace: Path) -> None:
    tables = trace_sweep(trace, resample="parts")
    tables["workload"]["requests"] = 20
    cube = run_sweep(Sweep.model_validate(tables), precision=PRECISE)
    assert cube.attrs["precision_looks"] == "8, 10"
    assert cube.attrs["precision_reached"] == 0
    assert cube.attrs["precision_level"] == level(8)
    again = Precision((cube.attrs["precision_wanted"],), looked_at(cube)[-1])
    repeated = Sweep.model_validate(tables).repeated(looked_at(cube)[0])
    np.testing.assert_array_equal(run_sweep(repeated, precision=again)["latency_mean_s"], cube["latency_mean_s"])


def test_few_parts_are_no_precision(trace: Path) -> None:
    tables = trace_sweep(trace, resample="parts")
    tables["workload"]["requests"] = 33
    with pytest.raises(InputError) as caught:
        run_sweep(Sweep.model_validate(tables, "sweep.toml"), precision=PRECISE)
    assert str(caught.value) == (
        "sweep.toml: `precision`: looks begin at 8 replications, and the trace has 6 parts of workload.requests"
    )


def test_edges_of_a_prefix_see_the_prefix_only(trace: Path) -> None:
    tables = trace_sweep(trace)
    tables["policy"]["edges"] = {"sample": "prefix", "prefix_requests": 10}
    outputs = np.loadtxt(trace, delimiter=",", skiprows=1)[:10, 2]
    edges = prepare(Sweep.model_validate(tables)).points[0].edges
    np.testing.assert_array_equal(edges, np.quantile(outputs, [0, 0.5, 1]))


@pytest.mark.parametrize(
    ("section", "settings", "message"),
    [
        ("workload", {"requests": 1000}, "workload.requests = 1000: must be at most 200"),
        ("policy", {"edges": {"sample": "prefix", "prefix_requests": 300}}, "policy.edges.prefix_requests = 300: must"),
        ("report", {"warmup_requests": 200}, "report.warmup_requests = 200: must be < 200"),
        (
            "policy",
            {"mode": "dynamic_only", "bins": 1, "largest_batch": 8, "memory": {"capacity_tokens": 5}},
            "policy.memory: 5 tokens of capacity: must be at least",
        ),
    ],
)
def test_what_only_the_data_show_is_refused_in_a_line(
    trace: Path, section: str, settings: dict[str, Any], message: str
) -> None:
    tables = trace_sweep(trace)
    tables.setdefault(section, {}).update(settings)
    if section == "policy" and "memory" in settings:
        del tables["policy"]["batch_size"]
    with pytest.raises(InputError) as caught:
        run_sweep(Sweep.model_validate(tables, "sweep.toml"))
    assert str(caught.value).startswith(f"sweep.toml: {message}")


def simulated_on(path: Path, requests: int) -> None:
    """Run windows of a trace, and find four that differ."""
    tables = trace_sweep(path, resample="circular")
    tables["workload"]["requests"] = requests
    cube = run_sweep(Sweep.model_validate(tables))
    assert (cube["completed"] == requests).all()
    assert len(np.unique(cube["latency_mean_s"])) == 4


def test_a_sweep_runs_on_the_real_azure_trace(shared_data: Path) -> None:
    simulated_on(shared_data / "azure_llm_2023" / "AzureLLMInferenceTrace_conv.csv", 1000)


def test_a_sweep_runs_on_a_sample_in_its_layout() -> None:
    simulated_on(SAMPLES / "azure.csv", 100)


def test_intervals_from_one_trace_are_told(tmp_path: Path) -> None:
    rows = "\n".join(f"{0.5 * i},10,{1 + i % 50}" for i in range(100))
    file = tmp_path / "trace.csv"
    file.write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}\n")

    def notes(**settings: Any) -> str:
        document = {
            "name": "windows",
            "title": "windows",
            "workload": {"requests": 60, "trace": {"path": str(file), "format": "csv", **settings}},
            "policy": {"mode": "fifo_greedy", "batch_size": 4},
            "server": {"service": {"law": "constant", "a0_s": 0.1, "a1_s_per_token": 0.001}},
        }
        return str(run_sweep(Sweep.model_validate(document)).attrs["notes"])

    assert "they are too narrow (2 to 5 times in the traces that were measured)" in notes(resample="circular")
    assert "too narrow" not in notes(resample="none")


def test_a_changed_trace_file_is_neither_continued_nor_extended(tmp_path: Path) -> None:
    trace, file = tmp_path / "trace.csv", tmp_path / "cube.nc"
    rows = [f"{i},10,{1 + i % 7}" for i in range(50)]
    trace.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]))
    tables = {
        "workload": {"trace": {"path": str(trace), "resample": "circular"}, "requests": 20},
        "policy": {"mode": "fifo_fixed", "batch_size": 2},
        "server": {"service": {"law": "constant", "a1_s_per_token": 0.1}},
        "replications": 2,
    }
    made = run_sweep(Sweep.model_validate(tables), file)
    checksum = str(made.attrs["input_sha256"])
    with Store(tmp_path / "other.nc") as store:
        run = Sweep.model_validate(tables).identity()
        store.open({"run": run, "version": batchcube_version(), "input_sha256": checksum}, NUMBA, range(2))
        store.save([Part(0, (0,), {"requests": np.zeros(1, np.int64)})])
    trace.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows[:-1], "49,10,99"]))
    more = Sweep.model_validate({**tables, "replications": 3})
    with pytest.raises(InputError, match=r"cube\.nc: was made from a file, or with a policy, that has changed since"):
        run_sweep(more, file)
    with pytest.raises(InputError, match="holds a stopped run of another sweep, version or trace file"):
        run_sweep(more, tmp_path / "other.nc")
    assert run_sweep(more, file, overwrite=True).sizes["replication"] == 3
