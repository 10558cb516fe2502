"""What `batchcube reproduce` writes and prints, checked for all papers alike."""

import csv
import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path

from batchcube.results.axes import select_points
from batchcube.results.cube import read_cube
from batchcube.results.summary import interval, summary_table
from batchcube.sweeps.cli.options import selection_of

Table = list[dict[str, str]]


def table(folder: Path) -> Table:
    """Return the rows that were written."""
    with (folder / "comparison.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_origins(rows: Sequence[dict[str, str]]) -> None:
    """Check that every row names a cube, points of it, and a command that shows them."""
    shown: dict[str, dict[str, list[list[str]]]] = {}
    for command, cube in dict.fromkeys((row["command"], row["cube"]) for row in rows):
        *points, variable = shlex.split(command)
        assert points[:2] == ["batchcube", "show"]
        assert Path(points[2]).name == cube
        shown.setdefault(points[2], {}).setdefault(variable, []).append(points[3:])
    # Each cube is read, and the means of a variable are taken, once for all points that are shown of it.
    for path, variables in shown.items():
        held = read_cube(path)
        for variable, selections in variables.items():
            means = interval(held, variable)[["mean"]]
            for flags in selections:
                select = selection_of([value for flag, value in itertools.pairwise(flags) if flag == "--select"])
                assert select_points(means, select)["mean"].notnull().any(), (path, flags, variable)
        # The last of them as the command does it.
        assert summary_table(select_points(held, select), [variable])["mean"].notna().any(), (path, flags, variable)


def check_screen(text: str) -> None:
    """Check that lines fit 80 columns, but for those with a path."""
    long = [line for line in text.splitlines() if len(line) > 80 and "/" not in line]
    assert not long, long
