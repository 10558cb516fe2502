"""The commands that print cubes: as a table, what differs between two, and what variables mean."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchcube.errors import printable

from . import complete
from .help import examples
from .options import CubeArgument, SelectOption, selection_of

if TYPE_CHECKING:
    import xarray as xr

app = typer.Typer()


@app.command(
    "show",
    epilog=examples(
        "batchcube show out/sweep.nc",
        "batchcube show out/sweep.nc -v latency_mean_s -v throughput_requests_per_s --all",
        "batchcube show out/sweep.nc --select bins=4 --select 'arrival_rate_per_s=[8, 12]'",
    ),
)
def show(
    cube: CubeArgument,
    variables: Annotated[
        list[str] | None,
        typer.Option(
            "--variable",
            "--variables",
            "-v",
            metavar="NAME",
            help="variable to show, or one quantile of it, NAME[0.99]; may be repeated",
            autocompletion=complete.variable,
        ),
    ] = None,
    select: SelectOption = None,
    all_rows: Annotated[bool, typer.Option("--all", help="every point, however many")] = False,
    wide: Annotated[
        bool, typer.Option("--wide", help="every usual variable, in lines as long as they need be")
    ] = False,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls", help="intervals without what the luck of arrivals and lengths explains, and how much narrower"
        ),
    ] = False,
) -> None:
    """Print a cube as a table with confidence intervals; of a plan its answer, unless an option asks for the table.

    Lines are as wide as the terminal, or 80 characters in a file or pipe, or as COLUMNS says. Of the usual variables
    the last have to go where there is no room; those that -v names go into further tables.
    """
    import json

    from rich.console import Console

    from batchcube.results.axes import select_points
    from batchcube.results.planned import in_words
    from batchcube.results.summary import print_summary

    loaded = _read_and_tell(cube)
    if "plan" in loaded.attrs and not (variables or select or all_rows or wide or controls):
        print(in_words(json.loads(str(loaded.attrs["plan"]))))
        return
    chosen = select_points(loaded, selection_of(select))
    print_summary(chosen, Console(), variables, all_rows=all_rows, wide=wide, controls=controls)


@app.command("compare", epilog=examples("batchcube compare out/sweep.nc out/again.nc"))
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="cube")],
    b: Annotated[Path, typer.Argument(metavar="B", help="cube")],
    tolerance: Annotated[float, typer.Option("--tolerance", min=0.0, help="relative difference to let pass")] = 0.0,
    all_rows: Annotated[bool, typer.Option("--all", help="also what is the same")] = False,
) -> None:
    """Compare two cubes; exit status 1 when they differ."""
    from batchcube.results.differences import EXACT, SHAPE, agree, compare_cubes, shapes_in_words

    first, second = _read_and_tell(a), _read_and_tell(b)
    table = compare_cubes(first, second, tolerance)
    shown = table if all_rows else table[~table["status"].isin([EXACT, SHAPE])]
    if len(shown):
        print(shown.assign(name=shown["name"].map(printable)).to_string(index=False, na_rep="-"))
    if shapes := shapes_in_words(table, first, second):
        print(printable(shapes))
    same = int((table["status"] == EXACT).sum())
    print(f"{same} of {len(table)} coordinates, variables and attributes are exactly the same")
    if not agree(table):
        raise typer.Exit(1)


@app.command("variables")
def variables(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="only these variables", autocompletion=complete.variable),
    ] = None,
) -> None:
    """List the variables of a cube and what they mean."""
    from rich.console import Console

    from batchcube.results.names import variables_table

    Console().print(variables_table(names or None))


def _read_and_tell(cube: Path) -> "xr.Dataset":
    """Read a cube to be shown, and say first if it was changed."""
    from batchcube.results.cube import read_cube

    return read_cube(cube, lambda doubt: print(f"{printable(cube)}: {doubt}"))
