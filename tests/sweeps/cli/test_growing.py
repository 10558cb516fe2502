import json
from pathlib import Path

import pytest

from batchcube.results.cube import read_cube
from batchcube.results.differences import agree, compare_cubes
from helpers.command_line import Answer


def test_extend_and_join_come_to_the_same_and_are_made_again_whole(
    spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One command extends a cube in place, the other joins it with a run of what it lacks."""
    axis = "axes.bins.values"
    assert Answer(capsys, "run", spec, "-q", "-o", "a.nc").status == 0
    assert Answer(capsys, "run", spec, "-q", "-o", "b.nc", "--set", f"{axis}=[3]").status == 0
    answer = Answer(capsys, "join", "a.nc", "b.nc", "-o", "joined.nc")
    assert answer.status == 0
    assert "joined.nc: bins 4, arrival_rate_per_s 2, replication 3" in answer.err
    answer = Answer(capsys, "extend", "a.nc", "--set", f"{axis}=[1, 3]")
    assert answer.status == 0
    assert "a.nc: bins 4, arrival_rate_per_s 2, replication 3" in answer.err
    joined = read_cube("joined.nc")
    assert agree(compare_cubes(joined, read_cube("a.nc")))
    assert len(json.loads(joined.attrs["parts"])) == 2
    assert "nothing was run" in Answer(capsys, "extend", "a.nc", "--set", f"{axis}=[1, 3]").err
    assert Answer(capsys, "rerun", "joined.nc", "-o", "again.nc", "-q").status == 0
    assert agree(compare_cubes(joined, read_cube("again.nc")))
    assert Answer(capsys, "extend", "joined.nc", "-n", "4", "-q").err == ""
    assert read_cube("joined.nc").sizes["replication"] == 4
    assert sorted(path.name for path in Path().glob("*.nc*")) == ["a.nc", "again.nc", "b.nc", "joined.nc"]


def test_what_cannot_grow_is_refused_in_a_line(
    cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "needs --set axes.NAME.values" in Answer(capsys, "extend", cube).mistake
    assert "must be values or points of an axis" in Answer(capsys, "extend", cube, "--set", "policy.bins=2").mistake
    assert "must be >= 1" in Answer(capsys, "extend", cube, "--set", "axes.bins.values=[0]").mistake
    assert "needs two cubes" in Answer(capsys, "join", cube, "-o", "c.nc").mistake
    assert "no such file" in Answer(capsys, "join", cube, "b.nc", "-o", "c.nc").mistake
    assert "is there already" in Answer(capsys, "join", cube, cube, "-o", cube).mistake
    assert list(tmp_path.iterdir()) == []
