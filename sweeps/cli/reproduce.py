"""The commands below `batchcube reproduce`: what the papers claim, beside what is simulated."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .help import examples
from .options import BackendOption, ExecutorOption, OverwriteOption, QuietOption, ReplicationsOption, WorkersOption

if TYPE_CHECKING:
    from ..papers.reproduction import Reproduction

app = typer.Typer(help="Run what the papers claim, and compare: cubes, figures and comparison.csv in a folder.")

FolderOption = Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="folder to write to")]
QuickOption = Annotated[bool, typer.Option("--quick", help="a tenth of the requests, few replications; labelled so")]


@app.command(
    "multi-bin",
    epilog=examples("batchcube reproduce multi-bin", "batchcube reproduce multi-bin -o out/mb --quick"),
)
def reproduce_multi_bin(
    output: FolderOption = None,
    replications: ReplicationsOption = None,
    quick: QuickOption = False,
    workers: WorkersOption = None,
    executor: ExecutorOption = None,
    backend: BackendOption = "numba",
    quiet: QuietOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Reproduce Figures 3, 4, 6, 8, 9 and 11 of Multi-Bin Batching (arXiv 2412.04504); out/multi-bin by default.

    Cubes that are there already are used again.
    """
    from ..papers.multi_bin import reproduce_multi_bin as reproduced

    to = _reproduction(
        "multi-bin", output, replications, workers, backend=backend, quick=quick, quiet=quiet, overwrite=overwrite
    )
    _reproduce(to, reproduced, executor, workers)


@app.command(
    "modes",
    epilog=examples("batchcube reproduce modes", "batchcube reproduce modes --trace my-trace.csv -o out/mine"),
)
def reproduce_modes(
    trace: Annotated[
        str | None, typer.Option("--trace", metavar="FILE", help="recorded trace; the Azure trace when left out")
    ] = None,
    output: FolderOption = None,
    replications: ReplicationsOption = None,
    quick: QuickOption = False,
    workers: WorkersOption = None,
    executor: ExecutorOption = None,
    backend: BackendOption = "numba",
    quiet: QuietOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Compare five batching modes on Poisson, bursty and recorded arrivals; out/modes by default.

    Says where the combination of bins and dynamic batches is best, and where dynamic batches beat static ones. Cubes
    that are there already are used again.
    """
    from ..papers.modes import reproduce_modes as reproduced

    to = _reproduction(
        "modes", output, replications, workers, backend=backend, quick=quick, quiet=quiet, overwrite=overwrite
    )
    if trace is not None:
        to.command += f" --trace {shlex.quote(trace)}"
    _reproduce(to, lambda to: reproduced(to, trace), executor, workers)


@app.command(
    "dynamic",
    epilog=examples("batchcube reproduce dynamic", "batchcube reproduce dynamic -o out/db --quick"),
)
def reproduce_dynamic(
    output: FolderOption = None,
    replications: ReplicationsOption = None,
    quick: QuickOption = False,
    workers: WorkersOption = None,
    executor: ExecutorOption = None,
    backend: BackendOption = "numba",
    quiet: QuietOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Reproduce Tables I and II and Figures 3 and 4 of arXiv 2503.05248, and show two errata; out/dynamic by default.

    The paper leaves most settings open: they are fitted through its static columns only, and the dynamic columns are
    predicted, at stated settings and over a range of them. Continuous batching runs with numba or reference. Cubes that
    are there already are used again.
    """
    from ..papers.dynamic import reproduce_dynamic as reproduced

    to = _reproduction(
        "dynamic", output, replications, workers, backend=backend, quick=quick, quiet=quiet, overwrite=overwrite
    )
    _reproduce(to, reproduced, executor, workers)


def _reproduction(
    name: str,
    output: Path | None,
    replications: int | None,
    workers: int | None,
    *,
    backend: str,
    quick: bool,
    quiet: bool,
    overwrite: bool,
) -> "Reproduction":
    from rich.console import Console

    from ..papers.reproduction import Reproduction
    from ..progress import shown

    folder = output or Path("out") / (f"{name}-quick" if quick else name)
    command = ["batchcube", "reproduce", name, "-o", str(folder)]
    command += ["-n", str(replications)] if replications is not None else []
    return Reproduction(
        folder,
        Console(),
        replications=replications,
        quick=quick,
        workers=workers,
        overwrite=overwrite,
        backend=backend,
        command=shlex.join([*command, *(["--quick"] if quick else [])]),
        progress=lambda: shown(quiet=quiet),
    )


def _reproduce(
    to: "Reproduction", reproduced: "Callable[[Reproduction], None]", executor: str | None, workers: int | None
) -> None:
    """Run a comparison into its folder, which nobody else writes meanwhile."""
    from batchcube.results.disk import output_file

    from ..claim import Claim
    from ..run.executors import connected
    from ..stopping import stoppable

    with stoppable(), Claim(output_file(to.comparison)), connected(executor, workers) as to.executor:
        reproduced(to)
