"""`batchcube report`: files and folders in, one page out; what cannot be reported on is one line."""

from pathlib import Path

import pytest

from batchcube.figures import report
from batchcube.results.claims import write_rows
from batchcube.results.cube import write_cube
from helpers.command_line import Answer
from helpers.cubes import make_cube
from helpers.reports import ROWS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_cube(make_cube(("bins",)), tmp_path / "sweep.nc")
    (tmp_path / "comparison.csv").write_text(write_rows(ROWS))
    return tmp_path


def test_a_folder_is_its_cubes_and_its_comparison(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = Answer(capsys, "report", folder, "-o", folder / "made" / "report.html")
    assert (said.status, said.out) == (0, f"{folder}/made/report.html\n")
    text = (folder / "made" / "report.html").read_text()
    assert "4 rows: 1 yes, 1 no, 1 cannot tell, 1 no verdict." in text
    # A comparison knows what made its cubes.
    assert "<code>batchcube reproduce dynamic</code>" in text
    assert f"batchcube show {folder}/sweep.nc" not in text
    assert f'data-file="{folder}/sweep.nc"' in text


def test_what_is_no_cube_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty").mkdir()
    (folder / "notes.nc").write_text("nothing")
    assert Answer(capsys, "report", folder / "empty").mistake.endswith(
        "holds no cube (.nc, .zarr) and no comparison.csv"
    )
    assert "is no NetCDF file" in Answer(capsys, "report", folder / "notes.nc").mistake
    assert "must end in .html" in Answer(capsys, "report", folder / "sweep.nc", "-o", folder / "a.png").mistake


def test_without_the_extra_one_line_says_what_to_install(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    mistake = Answer(capsys, "report", folder / "sweep.nc").mistake
    assert mistake == "report: Altair and vl-convert not installed: pip install '.[report]' in the clone"
