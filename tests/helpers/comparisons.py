"""What `batchcube reproduce` writes and prints, checked for all papers alike."""

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from batchcube.results.cube import read_cube, select_points
from batchcube.results.summary import summary_table
from batchcube.sweeps.cli.options import selection_of


def check_origins(rows: Sequence[dict[str, str]]) -> None:
    """Check that every row names a cube, points of it, and a command that shows them."""
    cubes: dict[str, xr.Dataset] = {}
    commands = dict.fromkeys(row["command"] for row in rows)
    assert "" not in commands
    for command in commands:
        words = shlex.split(command)
        assert words[:2] == ["batchcube", "show"]
        if words[2] not in cubes:
            cubes[words[2]] = read_cube(words[2])
        select = selection_of([value for flag, value in itertools.pairwise(words) if flag == "--select"])
        table = summary_table(select_points(cubes[words[2]], select), [words[-1]])
        assert table["mean"].notna().any(), command
    for row in rows:
        assert row["cube"] == Path(shlex.split(row["command"])[2]).name


def check_screen(text: str) -> None:
    """Check that lines fit 80 columns, but for those with a path."""
    long = [line for line in text.splitlines() if len(line) > 80 and "/" not in line]
    assert not long, long
