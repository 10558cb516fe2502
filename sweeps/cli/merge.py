"""The command `batchcube merge`: what shards made, as one cube."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from batchcube.errors import InputError, printable

from .help import examples
from .options import QuietOption

app = typer.Typer()

MISSING, NEXT_ROUND = 1, 3
"""Exit statuses."""


@app.command(
    "merge",
    epilog=examples(
        "batchcube merge out.nc",
        "until batchcube merge out.nc; do sbatch --wait --array=0-63 --wrap "
        "'batchcube run sweep.toml --precision 2% -o out.nc --shard env/64' || break; done",
    ),
)
def merge(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="the output that shards were given")],
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="of a run: write the replications that are complete, and mark the others"),
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Write what a command would have written, of what its shards made (--shard).

    Nothing is simulated. Shards must be whole, of one specification, version and seed, and all there. With
    --allow-missing the cube lacks the replications that are not there at all points; a run of the same specification
    adds them.

    Exit status 1 when shards are missing, 3 when results call for another round of them; the command that makes them is
    printed.
    """
    from ..progress import shown, tell_notes
    from ..run.capacity import merge_capacity
    from ..run.execution import merge_run
    from ..run.shards import MissingShardsError, NextRoundError, Shards
    from ..stopping import stoppable

    is_run = Shards(output).about()["asked"]["command"] == "run"
    if allow_missing and not is_run:
        raise InputError("goes with shards of a run only: answers rest on all of them", path="--allow-missing")
    try:
        with stoppable(), shown(quiet=quiet) as progress:
            if is_run:
                cube = merge_run(output, progress=progress, allow_missing=allow_missing)
            else:
                cube = merge_capacity(output)
    except (MissingShardsError, NextRoundError) as error:
        print(f"batchcube: {error}", file=sys.stderr)
        raise typer.Exit(MISSING if isinstance(error, MissingShardsError) else NEXT_ROUND) from None
    if not is_run:
        from rich.console import Console

        from .capacity import print_capacity

        print_capacity(cube, Console())
    if not quiet:
        sizes = ", ".join(f"{name} {size}" for name, size in cube.sizes.items())
        print(f"{printable(output)}: {sizes}", file=sys.stderr)
        if is_run:
            tell_notes(cube)
