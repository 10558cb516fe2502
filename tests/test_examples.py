"""The examples run as they are, and say what their comments promise."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def run(script: str, *arguments: str, folder: Path) -> str:
    finished = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / script), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_one_replication(tmp_path: Path) -> None:
    text = run("one_replication.py", folder=tmp_path)
    assert len([line for line in text.splitlines() if line.strip()[:1].isdigit()]) == 10
    assert "request by request: True" in text


def test_sweep_in_python(tmp_path: Path) -> None:
    text = run("sweep_in_python.py", str(tmp_path), folder=tmp_path)
    assert text.count("theory") == 3
    assert text.count("paired by replication") == 2
    assert (tmp_path / "bins.nc").stat().st_size > 0
    assert (tmp_path / "bins.png").read_bytes().startswith(b"\x89PNG")


def cells_of(notebook: Path) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return cells


def code_of(notebook: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in cells_of(notebook) if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_is_kept_without_what_it_shows(notebook: Path) -> None:
    # The site runs them as it is built, and shows what comes out.
    cells = cells_of(notebook)
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert all(cell["metadata"] == {} for cell in cells)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_stops_where_a_command_fails_and_writes_below_out(notebook: Path) -> None:
    code = code_of(notebook)
    assert [line for cell in code for line in cell.splitlines() if re.match(r"\s*(\w+ *= *)?!", line)] == []
    shell = [cell for cell in code if cell.startswith("%%bash\n")]
    written = [name for cell in shell for name in re.findall(r"(?:-o|--report|--figure) (\S+)", cell)]
    assert [name for name in written if not name.startswith("out/")] == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_code_fits_beside_the_text_of_the_site(notebook: Path) -> None:
    assert [line for cell in code_of(notebook) for line in cell.splitlines() if len(line) > 88] == []


def test_there_is_a_notebook_for_each_reader() -> None:
    assert [notebook.stem for notebook in NOTEBOOKS] == ["first_sweep", "from_log_to_plan", "is_the_claim_true"]
