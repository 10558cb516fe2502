"""Nobody has to read what a command says: closed streams and pipes that end change neither its work nor its status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchcube.results.cube import read_cube
from batchcube.results.differences import EXACT, compare_cubes
from helpers.specifications import RATES, SMALL

COMMANDS = (
    "--help",
    "variables",
    "figures",
    "specs",
    "data list",
    "check small.toml",
    "show small.nc",
    "compare small.nc small.nc",
    "figure per-bin-statistics small.nc -o small.png --select bins=2 --select arrival_rate_per_s=0.1",
)


def shell(folder: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-uo", "pipefail", "-c", script.replace("batchcube", f"{sys.executable} -m batchcube")]
    surroundings = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=surroundings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    (folder / "small.toml").write_text(
        SMALL.replace("A small sweep", "\N{GREEK SMALL LETTER ALPHA}") + RATES, encoding="utf-8"
    )
    made = shell(folder, "batchcube run small.toml -o small.nc -q")
    assert made.returncode == 0, made.stderr
    return folder


@pytest.mark.parametrize(
    ("command", "ending"),
    [*((command, "2>&1 | true") for command in COMMANDS), ("show small.nc", "2>&- >&- <&-"), ("--help", "| true")],
)
def test_a_command_succeeds_whoever_reads_it(folder: Path, command: str, ending: str) -> None:
    done = shell(folder, f"batchcube {command} {ending}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_work_is_done_although_nobody_listens(folder: Path) -> None:
    for number, ending in enumerate(("2>&1 | true", "2>&- >&- <&-")):
        cube = folder / f"{number}.nc"
        assert shell(folder, f"batchcube run small.toml -o {cube} {ending}").returncode == 0
        rows = compare_cubes(read_cube(folder / "small.nc"), read_cube(cube))
        assert set(rows["status"]) == {EXACT}


@pytest.mark.parametrize("ending", ["2>&1 | true", "2>&-"])
def test_a_mistake_stays_one(folder: Path, ending: str) -> None:
    assert shell(folder, f"batchcube check missing.toml {ending}").returncode == 2


def test_what_is_said_on_a_closed_stream_does_not_come_out_of_the_other(folder: Path) -> None:
    assert shell(folder, "batchcube run small.toml -o other.nc 2>&-").stdout == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_said_once(folder: Path) -> None:
    done = shell(folder, "batchcube check small.toml >/dev/full")
    assert (done.returncode, done.stderr) == (2, "batchcube: cannot write: No space left on device\n")


def test_characters_that_a_stream_lacks_are_spelled_out(folder: Path) -> None:
    done = shell(folder, "batchcube check small.toml", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "small.toml: \\u03b1" in done.stdout
