"""The command `batchcube report`: cubes and comparisons as one page to look at."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from batchcube.errors import InputError, printable
from batchcube.results.disk import ZARR

from .help import examples

app = typer.Typer()


@app.command(
    "report",
    epilog=examples(
        "batchcube report out/sweep.nc -o report.html",
        "batchcube report out/sweep.nc out/capacity.nc -o both.html",
        "batchcube report out/dynamic -o dynamic.html",
    ),
)
def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="CUBE...",
            help="cubes, calibrations, measurements, validations, comparison.csv, or folders of them",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="page to write or replace, .html")] = Path(
        "report.html"
    ),
) -> None:
    """Write one page of HTML that opens offline: the answer in words, figures one can touch, numbers and their origin.

    Means and intervals go into it, not replications. It needs the extra `report`.
    """
    from batchcube.figures.report import report_file
    from batchcube.results.claims import Row, read_comparison

    report_file(output)
    from batchcube.figures.report.page import write_report
    from batchcube.figures.report.sections import read

    files = [file for source in sources for file in _files(source)]
    rows: list[Row] = [row for file in files if file.suffix == ".csv" for row in read_comparison(file)]
    makers = {row.cube: row.again for row in rows}
    subjects = [read(file, makers.get(file.name, "")) for file in files if file.suffix != ".csv"]
    command = shlex.join(["batchcube", "report", *map(str, sources), "-o", str(output)])
    print(printable(write_report(subjects, output, comparison=rows, command=command)))


def _files(source: Path) -> list[Path]:
    """Return a file, or the cubes and the comparison of a folder; Zarr is a file."""
    if not source.is_dir() or source.suffix == ZARR:
        return [source]
    comparison = source / "comparison.csv"
    found = [*sorted([*source.glob("*.nc"), *source.glob(f"*{ZARR}")]), *([comparison] if comparison.exists() else [])]
    if not found:
        raise InputError("holds no cube (.nc, .zarr) and no comparison.csv", file=source)
    return found
