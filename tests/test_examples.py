"""The examples run as they are, and say what their comments promise."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


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
