"""The command `batchcube served`: a cube of what a real server did."""

from pathlib import Path
from typing import Annotated

import typer

from batchcube.errors import InputError, printable

from .help import examples
from .options import OverwriteOption

app = typer.Typer()


@app.command(
    "served",
    epilog=examples(
        "batchcube served out/served -o served.nc",
        "batchcube figure serving-over-time served.nc -o over-time.png",
    ),
)
def served(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="folder that the scheduler inside vLLM wrote")],
    output: Annotated[Path, typer.Option("--output", "-o", help="cube to write, .nc; its requests beside it, .jsonl")],
    overwrite: OverwriteOption = False,
) -> None:
    """Make a cube of what a server did, with the variables of one simulated replication, but measured.

    Its specification names the requests that were served: `batchcube rerun` simulates them.
    """
    from batchcube.results.cube import write_cube

    from ..claim import claimed
    from ..serving.cube import served_cube

    if output.suffix != ".nc":
        raise InputError("must end in .nc", file=output)
    trace = output.with_suffix(".jsonl")
    with claimed(output, trace, overwrite=overwrite):
        cube = served_cube(log, trace)
        print(printable(write_cube(cube, output)))
