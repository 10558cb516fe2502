from pathlib import Path

import pytest

from helpers.command_line import Answer


def test_a_figure_is_drawn(cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "bins.png"
    arguments = ["--select", "arrival_rate_per_s=0.2", "width_mm=100"]
    assert Answer(capsys, "figure", "throughput-vs-bins", cube, "-o", picture, *arguments).status == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_one_figure_may_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    one = Answer(capsys, "figures", "lines").out
    assert one.startswith("lines: ")
    assert "frontier" not in one
    assert Answer(capsys, "figures", "lins").mistake == "figure lins: no such figure; did you mean lines?"
