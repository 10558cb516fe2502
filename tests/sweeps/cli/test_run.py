import json
import re
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from batchcube.results.cube import read_cube, write_cube
from batchcube.results.provenance import batchcube_version
from helpers.command_line import Answer


def test_run_writes_a_cube_and_continues_it(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = Answer(capsys, "run", spec)
    assert answer.status == 0
    assert "6 points x 3 replications" in answer.err
    assert "small.nc: bins 3, arrival_rate_per_s 2, replication 3" in answer.err
    first = read_cube("small.nc")
    assert Answer(capsys, "run", spec, "-n", "4", "-q").err == ""
    longer = read_cube("small.nc")
    xr.testing.assert_equal(longer["latency_mean_s"].isel(replication=[0, 1, 2]), first["latency_mean_s"])
    assert longer.sizes["replication"] == 4


def test_run_lays_settings_over(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "axes.bins.values=[1, 3]", "--set", "policy.batch_size=2", "--seed", "7"]
    assert Answer(capsys, "run", spec, "-o", "other.nc", *settings, "--workers", "1", "-q").status == 0
    other = read_cube("other.nc")
    assert other["bins"].values.tolist() == [1, 3]
    assert other.attrs["seed"] == 7
    assert json.loads(other.attrs["specification"])["policy"]["batch_size"] == 2


def test_run_to_a_precision_and_again(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["--precision", "latency_mean_s=30%", "--precision", "utilisation=0.5", "--max-replications", "30"]
    answer = Answer(capsys, "run", spec, *wanted)
    assert answer.status == 0
    assert "look at 8 replications: " in answer.err
    assert "nothing was run" not in answer.err
    found = read_cube("small.nc")
    assert found.attrs["precision_wanted"] == "latency_mean_s=30%, utilisation=0.5"
    assert "note: replications were added in looks (at 8" in answer.err
    assert "replications were added in looks (at 8" in " ".join(Answer(capsys, "show", "small.nc").out.split())
    assert Answer(capsys, "rerun", "small.nc", "-o", tmp_path / "again.nc", "-q").status == 0
    again = read_cube(tmp_path / "again.nc")
    xr.testing.assert_equal(again, found)
    for name in ("precision_wanted", "precision_looks", "precision_level", "precision_reached", "specification"):
        assert again.attrs[name] == found.attrs[name]
    assert again["utilisation"].attrs == found["utilisation"].attrs


def test_run_refuses_a_precision_that_makes_no_sense(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert Answer(capsys, "run", spec, "--precision", "two").mistake.startswith("--precision two: must be a width")
    only = Answer(capsys, "run", spec, "--max-replications", "20").mistake
    assert only == "--max-replications 20: goes with a precision only"
    assert not Path("small.nc").exists()


def test_check_of_many_points_says_how_far_it_is(
    spec: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Answer(capsys, "check", spec).err == ""
    monkeypatch.setattr("batchcube.sweeps.cli.run.MANY_POINTS", 6)
    assert re.fullmatch(r"checking points: 6 of 6, took \d+\.\d s\n", Answer(capsys, "check", spec).err)


def test_check_says_how_large_a_sweep_is(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = Answer(capsys, "check", spec).out
    assert "A small sweep" in out
    assert "bins (policy.bins): 1, 2, 4" in out
    assert "6 points x 3 replications = 720 requests" in out
    assert not Path("small.nc").exists()


def test_rerun_gives_the_same_data_and_compare_says_so(
    cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again, other = tmp_path / "again.nc", tmp_path / "other.nc"
    assert Answer(capsys, "rerun", cube, "-o", again, "-q").status == 0
    same = Answer(capsys, "compare", cube, again)
    assert same.status == 0
    assert "exactly the same" in same.out
    assert "latency_mean_s" not in same.out
    assert "latency_mean_s" in Answer(capsys, "compare", cube, again, "--all").out
    assert Answer(capsys, "run", cube.with_suffix(".toml"), "-o", other, "-q", "--seed", "2").status == 0
    different = Answer(capsys, "compare", cube, other)
    assert different.status == 1
    assert "latency_mean_s" in different.out
    assert " quantile coordinate" not in different.out


def made_otherwise(cube: Path, to: Path, version: str, **defaults: Any) -> Path:
    """Write a cube as another version would have, with other defaults."""
    changed = read_cube(cube)
    recorded = json.loads(changed.attrs["specification_defaults"])
    changed.attrs |= {"specification_defaults": json.dumps({**recorded, **defaults}), "batchcube_version": version}
    write_cube(changed, to)
    return to


def test_rerun_says_what_this_version_would_do_otherwise_and_takes_the_defaults_of_the_cube(
    cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again.nc"
    old = made_otherwise(cube, tmp_path / "old.nc", "0.0.9", **{"report.windows": 7, "policy.old": 3})
    answer = Answer(capsys, "rerun", old, "-o", again, "-q")
    assert answer.status == 0
    assert answer.err == (
        f"{old}: was made by version 0.0.9, this is {batchcube_version()}; defaults taken from the cube: "
        "report.windows = 7 (50 in this one); settings that this version does not have: policy.old = 3\n"
    )
    assert read_cube(again).sizes["window"] == 7
    same = Answer(capsys, "rerun", cube, "-o", tmp_path / "same.nc", "-q")
    assert (same.status, same.err) == (0, "")


def test_rerun_refuses_what_this_version_cannot_do(
    cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = made_otherwise(cube, tmp_path / "old.nc", "0.0.9", **{"report.windows": 0})
    version, refused = Answer(capsys, "rerun", old, "-o", tmp_path / "again.nc", "-q").err.splitlines()
    assert version == f"{old}: was made by version 0.0.9, this is {batchcube_version()}"
    assert refused.startswith(f"batchcube: {old}: default report.windows = 0: this version cannot take it")
    assert not (tmp_path / "again.nc").exists()


def test_rerun_reads_no_file_that_a_default_names(
    cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = made_otherwise(cube, tmp_path / "old.nc", batchcube_version(), **{"workload.arrivals.path": "/etc/passwd"})
    answer = Answer(capsys, "rerun", old, "-o", tmp_path / "again.nc", "-q")
    assert "names /etc/passwd, which is not in its folder" in answer.mistake
