"""The command `batchcube capacity`: the largest arrival rate that a service-level objective allows."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchcube.errors import printable

from .help import examples
from .options import (
    BackendOption,
    ExecutorOption,
    OverwriteOption,
    QuietOption,
    ReplicationsOption,
    SeedOption,
    SetOption,
    ShardOption,
    SpecArgument,
    WorkersOption,
    do_shard,
    shard_of,
    sweep_of,
    tell,
    tell_cube,
)

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console

    from ..spec.document import Sweep

app = typer.Typer()


@app.command(
    "capacity",
    epilog=examples(
        "batchcube capacity sweep.toml --slo tbt_mean_ms=50 -o out/capacity.nc",
        "batchcube capacity sweep.toml --slo latency_p95_s=10 --slo ttft_p99_ms=800 --low 1 --high 200",
        "batchcube capacity sweep.toml --slo request_sla_violation_fraction=0.01 --set report.request_sla_s=20",
        "batchcube capacity sweep.toml --slo goodput=0.95 --set report.ttft_sla_s=1 --set report.tpot_sla_s=0.05",
    ),
)
def capacity(
    context: typer.Context,
    spec: SpecArgument,
    slo: Annotated[
        list[str],
        typer.Option(
            "--slo",
            metavar="NAME_STAT_UNIT=LIMIT",
            help="what must hold; may be repeated, all must. NAME: latency, wait, ttft, tpot, tbt; STAT: mean, max, "
            "p50, p90, p95, p99; UNIT: ms, s. Or request_sla_violation_fraction=LIMIT, "
            "token_sla_violation_fraction=LIMIT; or goodput=SHARE, the least part of all requests within the limits of "
            "report and of their class",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="cube to write; NAME-capacity.nc when left out")
    ] = None,
    low: Annotated[float | None, typer.Option("--low", help="lowest rate to try, requests/s")] = None,
    high: Annotated[float | None, typer.Option("--high", help="highest rate to try, requests/s")] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="relative width to narrow the answer down to", show_default=True)
    ] = 0.005,
    growth: Annotated[
        float,
        typer.Option(
            "--growth",
            help="share of the arrivals that the servers need not keep up with: the backlog grows by it; 1 lets "
            "overload count",
            show_default=True,
        ),
    ] = 0.0,
    settings: SetOption = None,
    replications: ReplicationsOption = None,
    seed: SeedOption = None,
    workers: WorkersOption = None,
    executor: ExecutorOption = None,
    backend: BackendOption = "numba",
    shard: ShardOption = None,
    quiet: QuietOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Search the largest arrival rate at which every --slo holds, and write it as a cube.

    Every point is searched by bisection with the same random numbers at every rate; an --slo holds where the mean over
    the replications keeps it. The answer has an interval, and policies are compared in pairs. The search starts from
    the arrival rate of SPEC and doubles or halves it, at most 20 times; with --low and --high it stays between them.
    An axis of rates is left out.

    A rate that the servers cannot keep up with does not count, even where every --slo holds: under a cap on the batch
    size the time between tokens can stay within its limit while the queue grows without end. --growth says which share
    of the arrivals may be left over.

    With --shard a machine does its part of what is next: all rates that searches are at. batchcube merge takes what all
    parts showed and says whether there is another round, or writes the cube.

    Exit status 1 when no point has an answer; the cube is written all the same.
    """
    from batchcube.results.disk import cube_file

    from ..run.capacity import settings_of, without_rates
    from ..run.criteria import in_other_units

    sweep, said = without_rates(sweep_of(spec, settings, replications, seed))
    asked: dict[str, Any] = {"criteria": slo, "low": low, "high": high, "tolerance": tolerance, "growth": growth}
    to = output or Path(f"{sweep.name}-capacity.nc")
    # A mistake is one line, and comes first.
    settings_of(sweep, **asked)
    cube_file(to)
    for doubt in (*([f"{sweep.source}: {said}"] if said else []), *in_other_units(slo)):
        tell(doubt)
    if part := shard_of(shard, overwrite=overwrite):
        from ..run.capacity import shard_capacity

        do = partial(shard_capacity, sweep, asked, to, part, backend=backend)
        do_shard(context, do, workers, executor, quiet=quiet)
        return
    search(sweep, asked, to, workers, executor, backend=backend, quiet=quiet, overwrite=overwrite)


def search(
    sweep: "Sweep",
    asked: dict[str, Any],
    to: Path,
    workers: int | None,
    executor: str | None,
    *,
    backend: str,
    quiet: bool,
    overwrite: bool,
) -> None:
    """Search as `asked` of `find_capacity`, write the cube and print it; exit status 1 when nothing has an answer."""
    from ..progress import shown
    from ..run.capacity import find_capacity
    from ..run.executors import connected
    from ..stopping import stoppable

    with stoppable(), connected(executor, workers) as where, shown(quiet=quiet) as progress:
        cube = find_capacity(
            sweep,
            **asked,
            output=to,
            workers=workers,
            progress=progress,
            overwrite=overwrite,
            backend=backend,
            executor=where,
        )
    tell_capacity(cube, to, quiet=quiet)


def tell_capacity(cube: "xr.Dataset", file: Path, *, quiet: bool) -> None:
    """Print what was found and where it is written; exit status 1 when nothing has an answer."""
    from rich.console import Console

    print_capacity(cube, Console())
    if not quiet:
        tell_cube(file, cube, notes=False)
    if (cube["capacity_unbracketed"] != 0).all():
        print("batchcube: no point has a capacity in what was searched; the notes say why", file=sys.stderr)
        raise typer.Exit(1)


def print_capacity(cube: "xr.Dataset", console: "Console", confidence: float = 0.95) -> None:
    """Print a row for each point: capacity, interval, what the servers can do, and what ended the search."""
    import json

    import numpy as np
    from rich.markup import escape

    from batchcube.results import labelled
    from batchcube.results.axes import axis_names
    from batchcube.results.summary import notes_of, print_warning
    from batchcube.results.tables import columns_of, print_table

    axes = axis_names(cube)
    capacities = cube["capacity_requests_per_s"].transpose(*axes, "replication")
    found = labelled.mean_interval(capacities, confidence=confidence)
    limits = "; ".join(_in_words(criterion) for criterion in json.loads(str(cube.attrs["capacity_criteria"])))
    left = float(cube.attrs["capacity_growth"])
    growth = "" if left >= 1.0 else f"; servers keep up with {100 * (1.0 - left):g} % of the arrivals"
    print_warning(cube, console)
    console.print(f"[bold]{escape(printable(cube.attrs.get('title', 'capacity')))}[/bold]")
    console.print(f"capacity in requests/s with {escape(limits)}{growth}", highlight=False)
    rows = []
    ended_by = cube["capacity_ended_by"].transpose(*axes).values
    served = cube["capacity_served_requests_per_s"].mean("replication").transpose(*axes).values
    ends = [_in_words(criterion).split(" ")[0] for criterion in json.loads(str(cube.attrs["capacity_criteria"]))]
    for position in np.ndindex(capacities.shape[:-1]):
        labels = [_plain(cube[name].values[i]) for name, i in zip(axes, position, strict=True)]
        mean, low, high = (float(found[name].values[position]) for name in ("mean", "low", "high"))
        row = (
            *labels,
            "-" if np.isnan(mean) else _plain(mean),
            "-" if np.isnan(low) else f"{_plain(low)} to {_plain(high)}",
            _plain(float(served[position])) if np.isfinite(served[position]) else "-",
            "no answer" if ended_by[position] < 0 else [*ends, "overload"][ended_by[position]],
        )
        rows.append(row)
    names = (*axes, "capacity", f"{100 * confidence:g} % interval", "servers can do", "ended by")
    words = {"ended by", *(name for name in axes if cube[name].dtype.kind not in "iuf")}
    console.print()
    print_table(console, columns_of(names, rows, words=words, goes=("servers can do",)))
    console.print()
    for line in notes_of(cube):
        console.print(f"note: {escape(printable(line))}", highlight=False)


def _in_words(criterion: "dict[str, str | float | None]") -> str:
    """Return a criterion as a reader writes it: ``latency_quantile_s[0.95] <= 10``."""
    from batchcube.results.variables import GOODPUT

    quantile = "" if criterion["quantile"] is None else f"[{criterion['quantile']:g}]"
    within = ">=" if criterion["variable"] == GOODPUT else "<="
    return f"{criterion['variable']}{quantile} {within} {criterion['limit']:g}"


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else printable(value)
