"""What is too much for memory while a run goes on, and the cube of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from batchcube.errors import InputError
from batchcube.results import cube as cubes
from batchcube.results import pieces
from batchcube.results.cube import read_cube, refuse_changed
from batchcube.results.differences import EXACT, compare_cubes
from batchcube.results.precision import Precision
from batchcube.results.provenance import MadeBy
from batchcube.sweeps.run import assemble, reports, scheduler
from batchcube.sweeps.run.execution import merge_run, run_shard, run_sweep
from batchcube.sweeps.run.reports import Reports
from batchcube.sweeps.run.shards import Shard
from batchcube.sweeps.run.store import Part, PartsFile, Store, keep
from batchcube.sweeps.spec.document import Sweep
from helpers.specifications import RATES, SMALL, STEPS, TOKENS, laid

SWEEPS = {
    "batches": SMALL + RATES,
    "steps": laid(
        STEPS,
        {
            "workload.requests": 30,
            "policy.largest_batch": None,
            "axes.most": {"path": "policy.largest_batch", "values": [1, 4]},
        },
    ),
    "one point, no histograms": laid(TOKENS, {"report.histograms": False}),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything be too much for memory."""
    monkeypatch.setattr(cubes, "AT_ONCE", 0)
    monkeypatch.setattr(pieces, "MOST_BYTES", 2_000)
    monkeypatch.setattr(pieces, "MOST_TOGETHER", 20_000)
    monkeypatch.setattr(reports, "MOST_TOGETHER", 0)
    monkeypatch.setattr(scheduler, "MOST_UNSAVED", 0)
    monkeypatch.setattr(assemble, "_stacked", None)


def made_of(name: str, replications: int) -> Sweep:
    tables = SWEEPS[name]
    if isinstance(tables, str):
        Path("small.toml").write_text(tables)
        return Sweep.from_toml("small.toml", [f"replications={replications}"])
    return Sweep.model_validate({**tables, "replications": replications})


def run(name: str, replications: int, output: str, **options: Any) -> xr.Dataset:
    return run_sweep(made_of(name, replications), output, workers=1, backend="reference", **options)


def same(output: str, whole: xr.Dataset) -> None:
    """Bit for bit, attributes too."""
    with read_cube(output, refuse_changed(output)) as found:
        table = compare_cubes(found.load(), whole)
        assert (table["status"] == EXACT).all(), table[table["status"] != EXACT]
        assert found.attrs["notes"] == whole.attrs["notes"]
        assert found.attrs["variables_sha256"] == whole.attrs["variables_sha256"]


@pytest.mark.parametrize("name", SWEEPS)
def test_a_run_that_does_not_fit_into_memory_gives_the_same_cube(name: str, request: pytest.FixtureRequest) -> None:
    run(name, 5, "whole.nc")
    whole = read_cube("whole.nc")
    request.getfixturevalue("small_memory")
    with run(name, 5, "cube.nc"):
        same("cube.nc", whole)
    # One that is there already is gone on from.
    with run(name, 2, "grown.nc"):
        pass
    with run(name, 5, "grown.nc"):
        same("grown.nc", whole)


def test_shards_and_looks_that_do_not_fit_into_memory_give_the_same_cube(request: pytest.FixtureRequest) -> None:
    run("batches", 4, "whole.nc")
    precise = Precision(("latency_mean_s=15%",), 20)
    run("batches", 4, "precise.nc", precision=precise)
    whole, looked = read_cube("whole.nc"), read_cube("precise.nc")
    assert int(looked.attrs["replications"]) > 8
    request.getfixturevalue("small_memory")
    for number in (2, 3, 1):
        run_shard(made_of("batches", 4), "cube.nc", Shard(number, 3), backend="reference")
    with merge_run("cube.nc"):
        same("cube.nc", whole)
    with run("batches", 4, "narrow.nc", precision=precise):
        same("narrow.nc", looked)


def test_reports_are_held_up_to_a_limit_and_read_where_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    each = 8 * 100
    monkeypatch.setattr(reports, "MOST_TOGETHER", 3 * each)
    found = Reports()
    with Store(Path("cube.nc")) as store:
        store.open({}, MadeBy("reference", "", "1"), range(10))
        found.store = store
        for number in range(10):
            part = Part(number, tuple(range(100)), {"requests": np.full(100, number)})
            store.save([part])
            found.add(number, [part])
        assert not found.are_held
        assert sum(array.nbytes for report in found._held.values() for array in report.values()) <= 3 * each
        for number in (0, 9, 4, 0):
            np.testing.assert_array_equal(found[number]["requests"], np.full(100, number))
            assert len(found._read) <= 3
        assert list(found) == list(range(10))
        assert found.sums["requests"] == 100 * sum(range(10))


def test_a_file_of_parts_holds_them_as_they_are_and_is_found_out_where_it_is_not() -> None:
    report = {"a": np.arange(6.0).reshape(2, 3), "a/from": np.array(7), "none": np.zeros((2, 0)), "b": np.ones(2, bool)}
    first = keep(Path(), "x.", {"of": "it"}, [Part(3, (1, 0), report), Part(4, (2,), {"c": np.array([1], np.uint8)})])
    again = PartsFile.opened(first.path)
    assert again is not None
    assert again.about == {"of": "it"}
    assert [(part.replication, part.points) for part in again.parts] == [(3, (1, 0)), (4, (2,))]
    assert again.parts[0].report.keys() == report.keys()
    for name, array in again.parts[0].report.items():
        np.testing.assert_array_equal(array, report[name], strict=True)
    assert keep(Path(), "x.", {"of": "it"}, again.parts).path == first.path  # the same parts, the same file
    content = first.path.read_bytes()
    for place in (0, len(content) // 2, len(content) - 1):
        first.path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert PartsFile.opened(first.path) is None
    first.path.write_bytes(content[:10])
    with pytest.raises(InputError, match="was cut short while it was in use"):
        _ = again.parts[0].report
    first.path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        _ = again.parts[0].report
