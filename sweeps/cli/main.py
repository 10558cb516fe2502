"""The command line. Everything heavy is imported by the command that needs it, so that --help is there at once."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from batchcube.errors import InputError, printable

from . import calibrate as cli_calibrate
from . import capacity as cli_capacity
from . import complete
from .help import examples

if TYPE_CHECKING:
    import xarray as xr

    from ..papers.comparison import Reproduction
    from ..spec.document import Sweep

# typer carries click under different names from version to version; its own exception leads to click's.
_MISTAKE: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="batchcube",
    help="Simulate LLM batching policies over whole parameter grids, into labelled cubes and figures.",
    epilog="Start with: batchcube specs, then batchcube run NAME -o OUT.nc, batchcube show OUT.nc",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help="List, fetch and locate public data sets.")
app.add_typer(data, name="data")
reproduce = typer.Typer(help="Run what the papers claim, and compare: cubes, figures and comparison.csv in a folder.")
app.add_typer(reproduce, name="reproduce")
app.add_typer(cli_calibrate.app, name="calibrate")


MANY_POINTS = 5_000
"""As many take seconds to check: it is said how far that is."""

SpecArgument = Annotated[
    str,
    typer.Argument(
        metavar="SPEC", help="TOML file, or the name of a preset (batchcube specs)", autocompletion=complete.preset
    ),
]
CubeArgument = Annotated[Path, typer.Argument(metavar="CUBE", help="cube written by batchcube (NetCDF)")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="lay a setting over the specification; may be repeated"),
]
ReplicationsOption = Annotated[int | None, typer.Option("--replications", "-n", help="instead of the specification's")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="instead of the specification's")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="threads; all cores when left out")]
BackendOption = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="what simulates, with the same results: numba on CPUs; jax on GPUs; "
        "reference in plain Python, slow, the specification",
        show_default=True,
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="replace what is there instead of continuing it")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="print the version")] = False
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("batchcube"))
    elif context.invoked_subcommand is None:
        print(context.get_help())


FolderOption = Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="folder to write to")]
QuickOption = Annotated[bool, typer.Option("--quick", help="a tenth of the requests, few replications; labelled so")]


def _sweep(spec: str, settings: list[str] | None, replications: int | None, seed: int | None) -> "Sweep":
    from ..spec.document import Sweep

    overrides = list(settings or [])
    overrides += [] if replications is None else [f"replications={replications}"]
    overrides += [] if seed is None else [f"seed={seed}"]
    return Sweep.from_toml(spec, overrides)


def _run(sweep: "Sweep", output: Path, workers: int | None, *, backend: str, quiet: bool, overwrite: bool) -> None:
    from ..progress import shown, tell_notes
    from ..run.execution import run_sweep
    from ..stopping import stoppable

    with stoppable(), shown(quiet=quiet) as progress:
        cube = run_sweep(sweep, output, workers=workers, progress=progress, overwrite=overwrite, backend=backend)
    if not quiet:
        if cube.sizes["replication"] > sweep.replications:
            print(
                f"{printable(output)}: has more replications than {sweep.replications} already: nothing was run",
                file=sys.stderr,
            )
        sizes = ", ".join(f"{name} {size}" for name, size in cube.sizes.items())
        print(f"{printable(output)}: {sizes}", file=sys.stderr)
        tell_notes(cube)


@app.command(
    epilog=examples(
        "batchcube run sweep.toml -o out/sweep.nc",
        "batchcube run sweep.toml -o out/sweep.nc --replications 100",
        "batchcube run sweep.toml --set policy.batch_size=32 --set axes.bins.values=[1,2,4]",
    )
)
def run(
    spec: SpecArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="cube to write; NAME.nc when left out")] = None,
    settings: SetOption = None,
    replications: ReplicationsOption = None,
    seed: SeedOption = None,
    workers: WorkersOption = None,
    backend: BackendOption = "numba",
    quiet: QuietOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Run a sweep and write its cube.

    A run that was stopped continues when it is given again; with more replications an existing cube of the same sweep
    is extended, and what it holds stays as it is.
    """
    sweep = _sweep(spec, settings, replications, seed)
    to = output or Path(f"{sweep.name}.nc")
    _run(sweep, to, workers, backend=backend, quiet=quiet, overwrite=overwrite)


@app.command(epilog=examples("batchcube check sweep.toml", "batchcube check sweep.toml --set policy.batch_size=32"))
def check(
    spec: SpecArgument,
    settings: SetOption = None,
    replications: ReplicationsOption = None,
    seed: SeedOption = None,
) -> None:
    """Validate a specification and say how large it is."""
    from ..progress import Counting
    from ..run.execution import estimate

    sweep = _sweep(spec, settings, replications, seed)
    points = len(sweep.grid.points)
    with Counting(points, "checking", quiet=points < MANY_POINTS) as counting:
        size = estimate(sweep, lambda: counting.advance("points"))
    print(f"{printable(sweep.source)}: {printable(sweep.title)}")
    for axis in sweep.grid.axes:
        shown = ", ".join(f"{label:.6g}" if isinstance(label, float) else printable(label) for label in axis.labels)
        about = f" ({axis.paths[0]})" if len(axis.paths) == 1 else ""
        print(f"  {axis.name}{about}: {shown}")
    print(f"  {size.points} points x {sweep.replications} replications = {size.requests:,} requests")
    print(f"  about {size.cube_bytes / 1e6:,.1f} MB of results and {size.peak_bytes / 1e6:,.0f} MB of memory")


app.command(epilog=cli_capacity.EPILOG)(cli_capacity.capacity)


@app.command(epilog=examples("batchcube specs", "batchcube specs multi-bin-fig3 -o my-sweep.toml"))
def specs(
    name: Annotated[str | None, typer.Argument(help="preset to print", autocompletion=complete.preset)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="file to copy the preset to (.toml)")] = None,
) -> None:
    """List the presets, or print one to copy and change."""
    from .. import presets

    if name is None:
        import tomllib

        if output is not None:
            raise InputError("needs the name of a preset to copy", path="--output")
        width = max((len(known) for known in presets.names()), default=0)
        for known in presets.names():
            print(f"{known:<{width}}  {tomllib.loads(presets.read(known).decode()).get('title', '')}")
        return
    if name not in presets.names():
        raise InputError(f"no preset of that name; {presets.hint(name)}", path=name)
    text = presets.read(name).decode()
    if output is None:
        print(text, end="")
        return
    if output.suffix != ".toml":
        raise InputError("must end in .toml", file=output)
    _write_new(output, text)


def _read_and_tell(cube: Path) -> "xr.Dataset":
    """Read a cube to be shown, and say first if it was changed."""
    from batchcube.results.cube import changed, read_cube

    loaded = read_cube(cube)
    if doubt := changed(loaded):
        print(f"{printable(cube)}: {doubt}")
    return loaded


def _write_new(path: Path, text: str) -> None:
    """Write a text file that must not be there yet."""
    made = False
    try:
        with path.open("x", encoding="utf-8") as file:
            made = True
            file.write(text)
    except FileExistsError:
        raise InputError("is there already", file=path) from None
    except OSError as error:
        if made:
            path.unlink(missing_ok=True)
        raise InputError(f"cannot be written: {error.strerror}", file=path) from None


@app.command(
    epilog=examples(
        "batchcube show out/sweep.nc",
        "batchcube show out/sweep.nc -v latency_mean_s -v throughput_requests_per_s --all",
    )
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
    all_rows: Annotated[bool, typer.Option("--all", help="every point, however many")] = False,
) -> None:
    """Print a cube as a table with confidence intervals."""
    from rich.console import Console

    from batchcube.results.summary import print_summary

    print_summary(_read_and_tell(cube), Console(), variables, all_rows=all_rows)


@app.command()
def figures() -> None:
    """List the figures and what each needs."""
    from batchcube.figures import registry

    for figure in registry.names():
        print(f"{figure.name}: {figure.shows}")
        presets = f"; presets: {', '.join(figure.presets)}" if figure.presets else ""
        print(f"    needs {figure.needs}{presets}; options: {', '.join(figure.options)}")


@app.command(
    epilog=examples(
        "batchcube figure throughput-vs-bins out/sweep.nc -o bins.pdf",
        "batchcube figure latency-vs-rate out/sweep.nc -o rate.png --select bins=4 --option width_mm=120",
    )
)
def figure(
    name: Annotated[str, typer.Argument(help="figure to draw (batchcube figures)")],
    cube: CubeArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write: .png, .pdf or .svg")],
    select: Annotated[
        list[str] | None, typer.Option("--select", metavar="AXIS=VALUE", help="keep these values of an axis")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="option of the figure")
    ] = None,
) -> None:
    """Draw a figure from a cube."""
    from batchcube.figures import registry
    from batchcube.results.cube import changed

    options = dict(_assignment("--option", text) for text in option or [])
    if select:
        options["select"] = dict(_assignment("--select", text) for text in select)
    loaded = registry.read(name, cube)
    if "specification" in loaded.attrs and (doubt := changed(loaded)):
        print(f"{printable(cube)}: {doubt}", file=sys.stderr)
    registry.save(registry.draw(name, loaded, **options), loaded, output)


def _assignment(flag: str, text: str) -> tuple[str, Any]:
    import tomllib

    key, equals, spelled = text.partition("=")
    if not equals or not key.strip():
        raise InputError("must be name=value", path=f"{flag} {text}")
    try:
        return key.strip(), tomllib.loads(f"value = {spelled.strip()}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), spelled.strip()


@app.command(
    epilog=examples(
        "batchcube validate requests.jsonl --coefficients my-server.json",
        "batchcube validate requests.jsonl --coefficients my-server.json --figure overlay.png -o validation.nc",
    )
)
def validate(
    log: cli_calibrate.LogArgument,
    coefficients: Annotated[str, typer.Option("--coefficients", metavar="NAME", help="with a step law; name or .json")],
    skip: Annotated[
        int | None,
        typer.Option("--skip", min=0, help="first requests to leave out of the errors; those fitted to when left out"),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="NetCDF file to write")] = None,
    overlay: Annotated[
        Path | None, typer.Option("--figure", help="figure to write: simulated against measured (.png, .pdf, .svg)")
    ] = None,
    max_num_seqs: cli_calibrate.MostRunningOption = None,
    token_budget: cli_calibrate.BudgetOption = None,
    kv_tokens: cli_calibrate.KvTokensOption = None,
    block_tokens: cli_calibrate.BlockOption = None,
    prefill: cli_calibrate.PrefillOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Replay the request log of a real server under continuous batching, and compare what users felt.

    Prints the errors of time to first token, time per output token and end-to-end latency, of throughput, and of how
    many requests were admitted and waited. Limits that are not given are those the coefficients were fitted with. Those
    that the log contradicts are refused, or said where preemptions may explain it.
    """
    from rich.console import Console

    from ..calibrate.report import print_errors
    from ..calibrate.validate import replica_settings
    from ..calibrate.validate import validate as validated
    from ..files import require_new, require_output
    from ..spec.service import load

    known = load(coefficients)
    settings = replica_settings(known, max_num_seqs, token_budget, kv_tokens, block_tokens, prefill)
    outputs = [file for file in (output, overlay) if file is not None]
    require_new(*outputs, overwrite=overwrite)
    for file in outputs:
        require_output(file)
    errors, dataset = validated(log, known, settings, skip)
    print_errors(errors, dataset, Console())
    if output is not None:
        from batchcube.results.validation import write_validation

        print(printable(write_validation(dataset, output)))
    if overlay is not None:
        from batchcube.figures import registry

        drawn = registry.draw("simulated-vs-measured", dataset)
        print(printable(registry.save(drawn, dataset, overlay)))


@app.command(
    epilog=examples("batchcube rerun out/sweep.nc -o out/again.nc && batchcube compare out/sweep.nc out/again.nc")
)
def rerun(
    cube: CubeArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="cube to write")],
    workers: WorkersOption = None,
    backend: BackendOption = "numba",
    quiet: QuietOption = False,
    overwrite: OverwriteOption = False,
    trust_paths: Annotated[
        bool, typer.Option("--trust-paths", help="read files that the cube names outside its folder, too")
    ] = False,
) -> None:
    """Run again what made a cube: a sweep, or a search for capacities.

    A cube names the files it was made from. It may be anybody's: those outside its folder are read on request only.
    """
    import json

    from batchcube.results.cube import changed, parse_made_from, read_cube
    from batchcube.results.provenance import batchcube_version

    from ..files import require_inside
    from ..spec.document import files_of, remade
    from ..spec.service import require_unchanged

    loaded = read_cube(cube)
    if doubt := changed(loaded):
        raise InputError(f"{doubt}; it is not run again", file=cube)
    specification, defaults = parse_made_from(loaded)
    coefficients = str(loaded.attrs.get("service_coefficients", "{}"))
    if not trust_paths:
        recorded = (name for name in json.loads(coefficients) if name.endswith(".json"))
        require_inside(cube, [*files_of(specification), *files_of(defaults), *recorded])
    require_unchanged(coefficients)
    made, here = str(loaded.attrs.get("batchcube_version", "?")), batchcube_version()
    otherwise = [f"was made by version {made}, this is {here}"] if made != here else []
    try:
        sweep, differing = remade(specification, defaults, str(cube))
        otherwise += [differing] if differing else []
    finally:
        # A setting that is no more is told as a mistake: the version says why.
        if otherwise:
            print(f"{printable(cube)}: {printable('; '.join(otherwise))}", file=sys.stderr)
    if "capacity_criteria" in loaded.attrs:
        from ..run.capacity import asked_of

        asked = asked_of(loaded)
        cli_capacity.search(sweep, asked, output, workers, backend=backend, quiet=quiet, overwrite=overwrite)
        return
    _run(sweep, output, workers, backend=backend, quiet=quiet, overwrite=overwrite)


@app.command(epilog=examples("batchcube compare out/sweep.nc out/again.nc"))
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="cube")],
    b: Annotated[Path, typer.Argument(metavar="B", help="cube")],
    tolerance: Annotated[float, typer.Option("--tolerance", min=0.0, help="relative difference to let pass")] = 0.0,
    all_rows: Annotated[bool, typer.Option("--all", help="also what is the same")] = False,
) -> None:
    """Compare two cubes; exit status 1 when they differ."""
    from batchcube.results.compare import EXACT, agree, compare_cubes

    table = compare_cubes(_read_and_tell(a), _read_and_tell(b), tolerance)
    different = table if all_rows else table[table["status"] != EXACT]
    if len(different):
        print(different.assign(name=different["name"].map(printable)).to_string(index=False, na_rep="-"))
    same = int((table["status"] == EXACT).sum())
    print(f"{same} of {len(table)} coordinates, variables and attributes are exactly the same")
    if not agree(table):
        raise typer.Exit(1)


@app.command()
def variables(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="only these variables", autocompletion=complete.variable),
    ] = None,
) -> None:
    """List the variables of a cube and what they mean."""
    from rich.console import Console

    from batchcube.results.variables import variables_table

    Console().print(variables_table(names or None))


@app.command(epilog=examples("batchcube schema > batchcube.schema.json"))
def schema() -> None:
    """Print the JSON schema of specifications."""
    from ..spec.document import schema_text

    print(schema_text(), end="")


@data.command("list")
def data_list() -> None:
    """List the data sets: name, size, licence, and whether it is here."""
    from ..workloads import datasets

    for name, dataset in datasets.DATASETS.items():
        here = "here" if (datasets.cache_folder() / dataset.file_name).exists() else "not here"
        size = f"{dataset.size_bytes / 1e6:.1f} MB"
        print(f"{name:<26} {size:>9}  {dataset.licence:<10} {here}")


@data.command("fetch", epilog=examples("batchcube data fetch azure-conv-2023"))
def data_fetch(name: Annotated[str, typer.Argument(help="data set (batchcube data list)")]) -> None:
    """Download a data set, check its checksum, and print where it is."""
    from ..workloads import datasets

    print(datasets.fetch(name))


@data.command(
    "path", epilog=examples("batchcube run SPEC --set workload.trace.path=$(batchcube data path azure-conv-2023)")
)
def data_path(name: Annotated[str, typer.Argument(help="data set (batchcube data list)")]) -> None:
    """Print where a fetched data set is."""
    from ..workloads import datasets

    print(datasets.locate(name))


@reproduce.command(
    "multi-bin",
    epilog=examples("batchcube reproduce multi-bin", "batchcube reproduce multi-bin -o out/mb --quick"),
)
def reproduce_multi_bin(
    output: FolderOption = None,
    replications: ReplicationsOption = None,
    quick: QuickOption = False,
    workers: WorkersOption = None,
    backend: BackendOption = "numba",
    quiet: QuietOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Reproduce Figures 3, 4, 6, 8, 9 and 11 of Multi-Bin Batching (arXiv 2412.04504); out/multi-bin by default.

    Cubes that are there already are used again.
    """
    from ..papers.multi_bin import reproduce_multi_bin as reproduced
    from ..stopping import stoppable

    to = _reproduction(
        "multi-bin", output, replications, workers, backend=backend, quick=quick, quiet=quiet, overwrite=overwrite
    )
    with stoppable():
        reproduced(to)


@reproduce.command(
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
    backend: BackendOption = "numba",
    quiet: QuietOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Compare five batching modes on Poisson, bursty and recorded arrivals; out/modes by default.

    Says where the combination of bins and dynamic batches is best, and where dynamic batches beat static ones. Cubes
    that are there already are used again.
    """
    from ..papers.modes import reproduce_modes as reproduced
    from ..stopping import stoppable

    to = _reproduction(
        "modes", output, replications, workers, backend=backend, quick=quick, quiet=quiet, overwrite=overwrite
    )
    with stoppable():
        reproduced(to, trace)


@reproduce.command(
    "dynamic",
    epilog=examples("batchcube reproduce dynamic", "batchcube reproduce dynamic -o out/db --quick"),
)
def reproduce_dynamic(
    output: FolderOption = None,
    replications: ReplicationsOption = None,
    quick: QuickOption = False,
    workers: WorkersOption = None,
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
    from ..stopping import stoppable

    to = _reproduction(
        "dynamic", output, replications, workers, backend=backend, quick=quick, quiet=quiet, overwrite=overwrite
    )
    with stoppable():
        reproduced(to)


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

    from ..papers.comparison import Reproduction
    from ..progress import shown

    console = Console()
    return Reproduction(
        output or Path("out") / (f"{name}-quick" if quick else name),
        # A file has no width of its own.
        console if console.is_terminal else Console(width=max(console.width, 120)),
        replications=replications,
        quick=quick,
        workers=workers,
        overwrite=overwrite,
        backend=backend,
        progress=lambda: shown(quiet=quiet),
    )


FAULT = (
    "batchcube: this is a fault of batchcube, not of what it was given: please report it with the command and this text"
)


def _fail(message: str) -> NoReturn:
    for line in message.split("\n"):
        print(f"batchcube: {printable(line)}", file=sys.stderr)
    sys.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    A user's mistake is one line on standard error and exit status 2; a fault of ours a traceback, one line below it
    that says so, and exit status 1.
    """
    from .streams import open_streams

    if arguments is None:
        open_streams()
    # All figures go to files. A notebook leaves its own backend to the processes that it starts, and where that is not
    # installed Matplotlib does not even load.
    os.environ["MPLBACKEND"] = "agg"
    try:
        status = app(arguments, standalone_mode=False)
        sys.stdout.flush()
    except InputError as error:
        _fail(str(error))
    except _MISTAKE as error:
        _fail(" ".join(error.format_message().split()) or "no command; see batchcube --help")
    except OSError as error:
        if error.strerror is None:
            _fail(" ".join(str(error).split()))
        _fail(f"{error.filename or 'cannot write'}: {error.strerror}")
    except typer.Abort:  # Ctrl-C where nothing is kept
        sys.exit(130)
    except MemoryError:
        _fail("not enough memory; batchcube check SPEC says how much a sweep takes")
    except Exception as error:
        error.add_note(FAULT)
        raise
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
