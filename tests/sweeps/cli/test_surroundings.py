"""The command line where the surroundings lack something: a home, a display, a Numba that loads."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

SMALL = [
    "run", "multi-bin-fig3", "-q", "-n", "1", "--set", "workload.requests=200", "--set", "axes.bins.values=[1]",
    "--set", "axes.arrival_rate_per_s.values=[4.0,5.0]",
]  # fmt: skip
FIGURE = ["figure", "throughput-vs-rate", "r.nc", "-o", "r.png"]
TRACE = """
name = "trace"
replications = 1
[workload.trace]
path = "~/mine.csv"
[policy]
mode = "fifo_fixed"
batch_size = 4
[server.service]
coefficients = "~/mine.json"
"""

COMMANDS = """
import json, sys
from batchcube.sweeps.cli.main import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as left:
        print("status", left.code, file=sys.stderr)
"""


class Said(NamedTuple):
    """What commands said on standard error, and the exit status of each."""

    lines: list[str]
    statuses: list[int]


def in_a_process(folder: Path, commands: list[list[str]], before: str = "", **environment: str) -> Said:
    """Give commands to one process, after some statements.

    Of the tests' environment nothing is there but the path, and where bytecode is kept: else all is compiled anew.
    """
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPYCACHEPREFIX") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", before + COMMANDS, json.dumps(commands)],
        cwd=folder,
        env={**kept, "TMPDIR": str(folder), **environment},
        capture_output=True,
        text=True,
    )
    lines = done.stderr.splitlines()
    statuses = [int(line.removeprefix("status ")) for line in lines if line.startswith("status ")]
    assert len(statuses) == len(commands), done.stderr
    return Said([line for line in lines if not line.startswith("status ")], statuses)


def test_a_notebooks_backend_is_left_alone(tmp_path: Path) -> None:
    commands = [[*SMALL, "--backend", "reference", "-o", "r.nc"], FIGURE]
    said = in_a_process(tmp_path, commands, HOME=str(tmp_path), MPLBACKEND="module://nobody.has_this")
    assert said == ([], [0, 0])
    assert (tmp_path / "r.png").is_file()


NOBODY = """
import pwd
def unknown(uid):
    raise KeyError(uid)
pwd.getpwuid = unknown
"""


@pytest.mark.skipif(os.name != "posix", reason="the list of users is a POSIX matter")
def test_a_user_whom_the_system_does_not_know_and_who_has_no_home(tmp_path: Path) -> None:
    commands = [
        [*SMALL, "--backend", "reference", "-o", "r.nc"],
        ["show", "r.nc"],
        FIGURE,
        ["data", "list"],
        ["check", "trace.toml", "--set", 'server.service={law="constant",a1_s_per_token=0.1}'],
        ["check", "trace.toml"],
    ]
    (tmp_path / "trace.toml").write_text(TRACE)
    said = in_a_process(tmp_path, commands, NOBODY)
    ours = [line for line in said.lines if line.startswith("batchcube: ")]
    others = [line for line in said.lines if line not in ours]
    assert said.statuses == [0, 0, 0, 2, 2, 2], said.lines
    assert "batchcube: the user's cache is not known: set BATCHCUBE_DATA to a folder for datasets" in ours
    assert all("Matplotlib created a temporary cache" in line for line in others), others
    assert (tmp_path / "r.png").is_file()


def test_a_numpy_that_numba_refuses(tmp_path: Path) -> None:
    stub = tmp_path / "stub" / "numba"
    stub.mkdir(parents=True)
    refusal = "Numba needs NumPy 2.0 or less. Got NumPy 99.0."
    (stub / "__init__.py").write_text(f"raise ImportError({refusal!r})\n")
    commands = [
        ["specs"],
        ["check", "multi-bin-fig3"],
        [*SMALL, "--backend", "reference", "-o", "r.nc"],
        ["show", "r.nc"],
        FIGURE,
        [*SMALL, "-o", "n.nc"],
    ]
    said = in_a_process(tmp_path, commands, HOME=str(tmp_path), PYTHONPATH=str(stub.parent))
    assert said.statuses == [0, 0, 0, 0, 0, 2], said.lines
    assert said.lines == [f"batchcube: --backend numba: {refusal} (--backend reference runs without numba)"]
    assert not (tmp_path / "n.nc").exists()
