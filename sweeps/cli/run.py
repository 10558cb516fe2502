"""The commands that simulate a sweep: `run`, `check` before it, and `rerun` of what made a cube."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchcube.errors import InputError, printable

from .capacity import search
from .help import examples
from .options import (
    BackendOption,
    CubeArgument,
    ExecutorOption,
    MaxReplicationsOption,
    OverwriteOption,
    PrecisionOption,
    QuietOption,
    ReplicationsOption,
    SeedOption,
    SetOption,
    ShardOption,
    SpecArgument,
    TrustPathsOption,
    WorkersOption,
    do_shard,
    shard_of,
    sweep_of,
    tell_cube,
)

if TYPE_CHECKING:
    from batchcube.results.precision import Precision

    from ..spec.document import Sweep

app = typer.Typer()

MANY_POINTS = 5_000
"""As many take seconds to check: it is said how far that is."""


@app.command(
    "run",
    epilog=examples(
        "batchcube run sweep.toml -o out/sweep.nc",
        "batchcube run sweep.toml -o out/sweep.nc --replications 100",
        "batchcube run sweep.toml --precision 2% --precision latency_p99_s=5% --max-replications 500",
        "batchcube run sweep.toml --set policy.batch_size=32 --set axes.bins.values=[1,2,4]",
        "sbatch --wait --array=0-63 --wrap 'batchcube run sweep.toml -o out.nc --shard env' && batchcube merge out.nc",
        "batchcube run sweep.toml --executor dask://10.0.0.1:8786",
    ),
)
def run(
    context: typer.Context,
    spec: SpecArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="cube to write; NAME.nc when left out")] = None,
    settings: SetOption = None,
    replications: ReplicationsOption = None,
    precision: PrecisionOption = None,
    max_replications: MaxReplicationsOption = None,
    seed: SeedOption = None,
    workers: WorkersOption = None,
    executor: ExecutorOption = None,
    backend: BackendOption = "numba",
    shard: ShardOption = None,
    quiet: QuietOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Run a sweep and write its cube.

    A run that was stopped continues when it is given again; with more replications an existing cube of the same sweep
    is extended, and what it holds stays as it is. With --precision replications are added, to all points alike, until
    half the width of every 95 % interval is at most that part of its mean (points, of shares), or there are
    --max-replications; those of the specification are what the first look is at.

    With --shard 3/64 a machine does its part of the run, and batchcube merge writes the cube of all: the same as that
    of a single machine. Shards need no more in common than the folder of the output, in any order, once or more often.
    """
    from batchcube.results.precision import asked

    sweep = sweep_of(spec, settings, replications, seed)
    to = output or Path(f"{sweep.name}.nc")
    wanted = asked(precision or (), max_replications)
    if part := shard_of(shard, overwrite=overwrite):
        from ..run.execution import run_shard

        do = partial(run_shard, sweep, to, part, backend=backend, precision=wanted)
        do_shard(context, do, workers, executor, quiet=quiet)
        return
    _run(sweep, to, workers, executor, backend=backend, quiet=quiet, overwrite=overwrite, precision=wanted)


@app.command(
    "check", epilog=examples("batchcube check sweep.toml", "batchcube check sweep.toml --set policy.batch_size=32")
)
def check(
    spec: SpecArgument,
    settings: SetOption = None,
    replications: ReplicationsOption = None,
    seed: SeedOption = None,
) -> None:
    """Validate a specification and say how large it is."""
    from batchcube.results.text import counted

    from ..progress import Counting
    from ..run.execution import estimate

    sweep = sweep_of(spec, settings, replications, seed)
    points = len(sweep.grid.points)
    with Counting(points, "checking points", quiet=points < MANY_POINTS) as counting:
        size = estimate(sweep, counting.advance)
    print(f"{printable(sweep.source)}: {printable(sweep.title)}")
    for axis in sweep.grid.axes:
        shown = ", ".join(f"{label:.6g}" if isinstance(label, float) else printable(label) for label in axis.labels)
        about = f" ({axis.paths[0]})" if len(axis.paths) == 1 else ""
        print(f"  {axis.name}{about}: {shown}")
    repeated = counted(sweep.replications, "replication")
    print(f"  {counted(size.points, 'point')} x {repeated} = {counted(size.requests, 'request')}")
    print(f"  about {size.cube_bytes / 1e6:,.1f} MB of results and {size.peak_bytes / 1e6:,.0f} MB of memory")


@app.command(
    "rerun",
    epilog=examples("batchcube rerun out/sweep.nc -o out/again.nc && batchcube compare out/sweep.nc out/again.nc"),
)
def rerun(
    cube: CubeArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="cube to write")],
    workers: WorkersOption = None,
    executor: ExecutorOption = None,
    backend: BackendOption = "numba",
    quiet: QuietOption = False,
    overwrite: OverwriteOption = False,
    trust_paths: TrustPathsOption = False,
) -> None:
    """Run again what made a cube: a sweep, or a search for capacities.

    A cube names the files it was made from. It may be anybody's: those outside its folder are read on request only.
    """
    from batchcube.results.cube import read_cube, refuse_changed
    from batchcube.results.precision import Precision, looked_at
    from batchcube.results.provenance import batchcube_version, parse_made_from
    from batchcube.results.text import in_ranges

    from ..run.outputs import require_own_files, require_own_grid
    from ..spec.document import remade

    loaded = read_cube(cube, refuse_changed(cube, "it is not run again"))
    if "plan" in loaded.attrs:
        raise InputError("holds the answer of a plan: ask again with batchcube plan", file=cube)
    specification, defaults = parse_made_from(loaded)
    require_own_files(cube, loaded, trust_paths=trust_paths)
    made, here = str(loaded.attrs.get("batchcube_version", "?")), batchcube_version()
    otherwise = [f"was made by version {made}, this is {here}"] if made != here else []
    try:
        sweep, differing = remade(specification, defaults, str(cube))
        otherwise += [differing] if differing else []
        require_own_grid(loaded, sweep, cube)
        if missing := sorted(set(range(sweep.replications)) - set(loaded["replication"].values.tolist())):
            otherwise.append(f"lacks replications {in_ranges(missing)}, which are made as well")
    finally:
        # A setting that is no more is told as a mistake: the version says why.
        if otherwise:
            print(f"{printable(cube)}: {printable('; '.join(otherwise))}", file=sys.stderr)
    if "capacity_criteria" in loaded.attrs:
        from ..run.capacity import asked_of

        asked = asked_of(loaded)
        search(sweep, asked, output, workers, executor, backend=backend, quiet=quiet, overwrite=overwrite)
        return
    precision = None
    if looked := looked_at(loaded):
        precision = Precision(tuple(str(loaded.attrs["precision_wanted"]).split(", ")), looked[-1])
        sweep = sweep.repeated(looked[0])
    _run(sweep, output, workers, executor, backend=backend, quiet=quiet, overwrite=overwrite, precision=precision)


def _run(
    sweep: "Sweep",
    output: Path,
    workers: int | None,
    executor: str | None,
    *,
    backend: str,
    quiet: bool,
    overwrite: bool,
    precision: "Precision | None",
) -> None:
    from ..progress import shown
    from ..run.execution import run_sweep
    from ..run.executors import connected
    from ..stopping import stoppable

    with stoppable(), connected(executor, workers) as where, shown(quiet=quiet) as progress:
        cube = run_sweep(
            sweep,
            output,
            workers=workers,
            progress=progress,
            overwrite=overwrite,
            backend=backend,
            executor=where,
            precision=precision,
        )
    if not quiet:
        if precision is None and cube.sizes["replication"] > sweep.replications:
            print(
                f"{printable(output)}: has more replications than {sweep.replications} already: nothing was run",
                file=sys.stderr,
            )
        tell_cube(output, cube)
