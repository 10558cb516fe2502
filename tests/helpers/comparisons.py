"""What `batchcube reproduce` writes and prints, checked for all papers alike."""

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path

from batchcube.results.cube import read_cube, select_points
from batchcube.results.summary import summary_table
from batchcube.sweeps.cli.options import selection_of


def check_origins(rows: Sequence[dict[str, str]]) -> None:
    """Check that every row names a cube, points of it, and a command that shows them."""
    shown: dict[tuple[str, ...], list[str]] = {}
    for command in dict.fromkeys(row["command"] for row in rows):
        *points, variable = shlex.split(command)
        assert points[:2] == ["batchcube", "show"]
        shown.setdefault(tuple(points), []).append(variable)
    # Each cube is read, and points of it are chosen, once for all that is shown of them.
    cubes = {path: read_cube(path) for path in dict.fromkeys(points[2] for points in shown)}
    for points, variables in shown.items():
        select = selection_of([value for flag, value in itertools.pairwise(points) if flag == "--select"])
        table = summary_table(select_points(cubes[points[2]], select), variables)
        found = table["mean"].notna().groupby(table["variable"]).any()
        assert all(found[variable] for variable in variables), (points, found)
    for row in rows:
        assert row["cube"] == Path(shlex.split(row["command"])[2]).name


def check_screen(text: str) -> None:
    """Check that lines fit 80 columns, but for those with a path."""
    long = [line for line in text.splitlines() if len(line) > 80 and "/" not in line]
    assert not long, long
