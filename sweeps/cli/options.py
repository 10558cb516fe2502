"""Arguments and options that several commands share."""

import os
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from batchcube.documents import value_of
from batchcube.errors import InputError, printable, quoted

from . import complete

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr

    from batchcube.calibration.logs import LogFormat, Reading

    from ..run.shards import Shard
    from ..spec.document import Sweep

SpecArgument = Annotated[
    str,
    typer.Argument(
        metavar="SPEC", help="TOML file, or the name of a preset (batchcube specs)", autocompletion=complete.preset
    ),
]
CubeArgument = Annotated[Path, typer.Argument(metavar="CUBE", help="cube written by batchcube (NetCDF, or .zarr)")]
SelectOption = Annotated[
    list[str] | None,
    typer.Option("--select", metavar="AXIS=VALUE", help="keep a value of an axis, or [several]; may be repeated"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="lay a setting over the specification; may be repeated"),
]
ReplicationsOption = Annotated[int | None, typer.Option("--replications", "-n", help="instead of the specification's")]
PrecisionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--precision",
        metavar="[NAME=]WIDTH",
        help="add replications until intervals are so narrow: 2% (all that `show` prints), NAME=1%, NAME=0.005; "
        "may be repeated",
    ),
]
MaxReplicationsOption = Annotated[
    int | None, typer.Option("--max-replications", help="with --precision: where it gives up; 1000 when left out")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="instead of the specification's")]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="threads, or workers of --executor; all cores, or all of it, when left out"),
]
ExecutorOption = Annotated[
    str | None,
    typer.Option(
        "--executor",
        metavar="NAME",
        help="who simulates instead of threads: dask://HOST:PORT, a cluster whose scheduler listens there; dask, "
        "--workers processes here (needs the extra distributed)",
    ),
]
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
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="NUMBER/ALL",
        help="do this part of it only, for batchcube merge: 3/64, or env or env/64 in an array of SLURM or Kubernetes",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="replace what is there instead of continuing it")]
TrustPathsOption = Annotated[
    bool, typer.Option("--trust-paths", help="read files that the cube names outside its folder, too")
]
# Of the log of a real server.
LogArgument = Annotated[
    Path, typer.Argument(metavar="LOG", help="request log, of a server or a benchmark tool (docs/logs.md)")
]
LogFormatOption = Annotated[
    str | None, typer.Option("--format", metavar="NAME", help="of the log; by its content when left out")
]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="PART=NAME", help="column of a log of one's own, arrival=t:ms; may be repeated"),
]
ConcurrencyOption = Annotated[
    int | None,
    typer.Option("--concurrency", min=1, help="requests that a closed loop kept under way, for a log without arrivals"),
]
MostRunningOption = Annotated[
    int | None, typer.Option("--max-num-seqs", min=1, help="requests that may run at once; 256 when nothing says")
]
BudgetOption = Annotated[
    int | None,
    typer.Option("--token-budget", "--max-num-batched-tokens", min=1, help="tokens of a step; 2048 when nothing says"),
]
KvTokensOption = Annotated[
    int | None, typer.Option("--kv-tokens", min=1, help="KV cache in tokens; never full when nothing says")
]
BlockOption = Annotated[
    int | None, typer.Option("--block-tokens", "--block-size", min=1, help="tokens of a KV block; 16 when nothing says")
]
PrefillOption = Annotated[
    str | None, typer.Option("--prefill", help="chunked (vLLM V1) or separate (V0); chunked when nothing says")
]
ReplicasOption = Annotated[
    int | None,
    typer.Option("--replicas", "--data-parallel-size", min=1, help="engines behind one endpoint; 1 when nothing says"),
]
RoutingOption = Annotated[
    str | None, typer.Option("--routing", help="replica that a request goes to; least_loaded, as of vLLM, by default")
]
LockstepOption = Annotated[
    bool | None,
    typer.Option("--lockstep/--no-lockstep", help="replicas step at once, as engines of a model with experts do"),
]
AsyncOption = Annotated[
    bool | None,
    typer.Option("--async-scheduling/--no-async-scheduling", help="a step is scheduled when the one before begins"),
]
ServerOption = Annotated[
    list[str] | None,
    typer.Option("--server", metavar="NAME=VALUE", help="another setting of the server; may be repeated"),
]
ServerConfigOption = Annotated[
    Path | None,
    typer.Option("--server-config", metavar="FILE", help="dump of vLLM's settings (JSON); options come first"),
]
ServerLogOption = Annotated[
    Path | None,
    typer.Option("--server-log", metavar="FILE", help="vLLM's start-up log, or its metrics as text: KV cache and more"),
]

_NAMED = {"settings": "--set", "spec": "SPEC", "cubes": "CUBE"}
"""What the command line calls arguments whose options have other names, or that are none."""


@cache
def _options() -> dict[str, str]:
    """Return what the command line calls arguments: the options of all commands, {"rate": "--rate"}, and `_NAMED`."""
    from .main import command

    commands = [command()]
    for one in commands:
        commands += getattr(one, "commands", {}).values()
    options = {option for one in commands for param in one.params for option in param.opts if option.startswith("--")}
    return {option[2:].replace("-", "_"): option for option in options} | _NAMED


def shown(param: Any) -> str:
    """Return what help calls an option, without its short name, or an argument."""
    return str(param.opts[0] if param.param_type_name == "option" else param.metavar or param.name.upper())


def in_options(text: str) -> str:
    """Return a message with the arguments that it names, in backticks, as its options: `rate`, --rate."""
    return re.sub("`([a-z_]+)`", lambda found: _options().get(found[1], found[0]), text)


def tell(mistake: object) -> None:
    """Print what is wrong, or may be, in what a user gave: a line on standard error."""
    print(printable(in_options(str(mistake))), file=sys.stderr, flush=True)


def tell_cube(file: Path, cube: "xr.Dataset", *, notes: bool = True) -> None:
    """Print where a cube is and how large, and its notes."""
    from ..progress import tell_notes

    sizes = ", ".join(f"{name} {size}" for name, size in cube.sizes.items())
    print(f"{printable(file)}: {sizes}", file=sys.stderr)
    if notes:
        tell_notes(cube)


def given_settings(server: list[str] | None, **options: object) -> dict[str, object]:
    """Return the settings of a server that options give, `server` those NAME=VALUE; raises InputError for bad ones."""
    from batchcube.calibration.servers import NAMES

    given = {name: value for name, value in options.items() if value is not None}
    for text in server or []:
        name, equals, value = (part.strip() for part in text.partition("="))
        name = NAMES.get(name, name)
        if not (name and equals and value) or name in given:
            raise InputError("must be NAME=VALUE, each setting given once", path="`server`", value=text)
        given[name] = value
    return given


def assignment(flag: str, text: str) -> tuple[str, Any]:
    """Return name and value of an option NAME=VALUE, the value as TOML has it, or plain text."""
    key, equals, spelled = text.partition("=")
    if not equals or not key.strip():
        raise InputError("must be name=value", path=f"{flag} {quoted(text)}")
    return key.strip(), value_of(spelled)


def selection_of(select: list[str] | None) -> dict[str, Any]:
    """Return what --select keeps, {axis: value or values}."""
    return dict(assignment("--select", text) for text in select or [])


def shard_of(shard: str | None, *, overwrite: bool) -> "Shard | None":
    """Return the shard that --shard names; raises InputError for others, and with --overwrite."""
    if shard is None:
        return None
    from ..run import shards

    if overwrite:
        raise InputError("does not go with --shard: remove what is there first", path="--overwrite")
    return shards.shard_of(shard, os.environ)


def do_shard(
    context: typer.Context, do: "Callable[..., str]", workers: int | None, executor: str | None, *, quiet: bool
) -> None:
    """Do a shard of a command and say what it came to; `do` is told who simulates, the progress and the command."""
    from ..progress import print_lines, shown
    from ..run.executors import connected
    from ..stopping import stoppable

    with stoppable(), connected(executor, workers) as where, shown(quiet=quiet) as progress:
        done = do(workers=workers, executor=where, progress=progress, again=_again(context))
    print_lines(quiet=quiet)(done)


def _again(context: typer.Context) -> str:
    """Return the command line that a command was given, but for its output and what differs from shard to shard."""
    words = []
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if source is None or source.name != "COMMANDLINE" or option.name in ("output", "shard", "workers", "quiet"):
            continue
        value = context.params[option.name or ""]
        name = max(option.opts, key=len) if option.param_type_name == "option" else None
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [*([name] if name else []), *([] if one is True else [str(one)])]
    return shlex.join(["batchcube", str(context.info_name), *words])


def sweep_of(spec: str, settings: list[str] | None, replications: int | None, seed: int | None) -> "Sweep":
    """Return the sweep of a specification, with what options lay over it."""
    from ..spec.document import Sweep

    overrides = list(settings or [])
    overrides += [] if replications is None else [f"replications={replications}"]
    overrides += [] if seed is None else [f"seed={seed}"]
    sweep = Sweep.from_toml(spec, overrides)
    for line in sweep.told:
        tell(f"{sweep.source}: {line}")
    return sweep


def reading_of(format: str | None, columns: list[str] | None, concurrency: int | None) -> "Reading":
    """Return how a log is read; raises InputError for columns that are not PART=NAME, each once."""
    from batchcube.calibration.logs import Reading

    named: dict[str, str] = {}
    for column in columns or []:
        part, equals, name = column.partition("=")
        if not (equals and name) or part in named:
            raise InputError("must be PART=NAME, each PART once", path="`column`", value=column)
        named[part] = name
    return Reading(cast("LogFormat | None", format), named or None, concurrency)
