"""The commands of cubes that grow: `extend` by points or replications, `join` with others of the same sweep."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from batchcube.errors import printable

from .help import examples
from .options import (
    BackendOption,
    CubeArgument,
    QuietOption,
    TrustPathsOption,
    WorkersOption,
    tell_cube,
)

app = typer.Typer()


@app.command(
    "extend",
    epilog=examples(
        "batchcube extend out/sweep.nc --set axes.arrival_rate_per_s.values=[7.5,9]",
        "batchcube extend out/sweep.nc --set 'axes.mode.points.small={policy.batch_size=8}'",
        "batchcube extend out/sweep.nc --replications 100",
    ),
)
def extend(
    cube: CubeArgument,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="more values or points of an axis; may be repeated"),
    ] = None,
    replications: Annotated[
        int | None, typer.Option("--replications", "-n", min=1, help="as many as it is to have")
    ] = None,
    workers: WorkersOption = None,
    backend: BackendOption = "numba",
    quiet: QuietOption = False,
    trust_paths: TrustPathsOption = False,
) -> None:
    """Simulate what a cube lacks, and write all of it: more values of its axes, more replications.

    What it holds stays as it is; what is new is what a run of the whole would have found. An extension that was stopped
    continues when it is given again.
    """
    from ..progress import shown
    from ..run import growing
    from ..stopping import stoppable

    with stoppable(), shown(quiet=quiet) as progress:
        grown = growing.extend(
            cube,
            settings or (),
            replications=replications,
            workers=workers,
            progress=progress,
            backend=backend,
            trust_paths=trust_paths,
        )
    if not quiet and grown is None:
        print(f"{printable(cube)}: holds all of it already: nothing was run", file=sys.stderr)
    elif not quiet and grown is not None:
        tell_cube(cube, grown)


@app.command(
    "join",
    epilog=examples(
        "batchcube join monday.nc tuesday.nc -o out/both.nc",
        "batchcube join rates-1.nc rates-2.nc rates-3.nc -o out/rates.nc",
    ),
)
def join(
    cubes: Annotated[list[Path], typer.Argument(metavar="CUBE...", help="cubes of one sweep")],
    output: Annotated[Path, typer.Option("--output", "-o", help="cube to write")],
    quiet: QuietOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what is there")] = False,
) -> None:
    """Write the cube of several, which differ in the values of an axis or in replications only.

    Its specification has the values of all: `rerun` makes all of it, `run` and `extend` go on from it. Where parts have
    the same points they must be equal, and together they must have every point. `merge` is for shards of one run.
    """
    from ..run import growing

    joined = growing.join(cubes, output, overwrite=overwrite)
    if not quiet:
        tell_cube(output, joined)
