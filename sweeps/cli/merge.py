"""The command `batchcube merge`: what shards made, as one cube."""

from pathlib import Path
from typing import Annotated

import typer

from .help import examples
from .options import QuietOption, tell, tell_cube

app = typer.Typer()

MISSING, NEXT_ROUND = 1, 3
"""Exit statuses."""


@app.command(
    "merge",
    epilog=examples(
        "batchcube merge out.nc",
        "while sbatch --wait --array=0-63 --wrap 'batchcube run sweep.toml --precision 2% -o out.nc --shard env'; "
        "batchcube merge out.nc; [ $? -eq 3 ]; do :; done",
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

    Nothing is simulated, but for the end of a plan. Shards must be whole, of one specification, version and seed, and
    all there. With --allow-missing the cube lacks the replications that are not there at all points; a run of the same
    specification adds them.

    Exit status 1 when shards are missing, 3 when results call for another round of them; the command that makes them is
    printed. What is written is printed as by the command, with the same status: 1 where nothing has an answer.
    """
    from ..merging import merge as merged
    from ..planning.answer import Answer
    from ..progress import shown
    from ..run.shards import MissingShardsError, NextRoundError
    from ..stopping import stoppable
    from .capacity import tell_capacity
    from .plan import tell_answer

    try:
        with stoppable(), shown(quiet=quiet) as progress:
            found = merged(output, progress=progress, allow_missing=allow_missing)
    except (MissingShardsError, NextRoundError) as error:
        tell(f"batchcube: {error}")
        raise typer.Exit(MISSING if isinstance(error, MissingShardsError) else NEXT_ROUND) from None
    if isinstance(found, Answer):
        tell_answer(found)
    elif "capacity_criteria" in found.attrs:
        tell_capacity(found, output, quiet=quiet)
    elif not quiet:
        tell_cube(output, found)
