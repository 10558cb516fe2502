"""The settings of a real server: said on the command line, by the server's own files, or by coefficients."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from batchcube.calibration.coefficients import Coefficients, LoggedServer, is_of_gpus
from batchcube.calibration.prediction import Server
from batchcube.calibration.servers import CACHED_TOKENS, PARALLEL, Stated
from batchcube.engine.continuous import make_fleet, make_law, make_replica
from batchcube.errors import InputError, found_in

from ..spec.messages import mistakes

# More tokens than any KV cache: it then binds nobody.
UNBOUND_TOKENS = 2**40
_CACHE = ("capacity_tokens", "num_gpu_blocks", CACHED_TOKENS)
_OF_FLEET = ("replicas", "routing", "lockstep")
# vLLM's defaults of these are not the same everywhere.
_VARY = ("most_running", "token_budget", "async_scheduling")


def server_of(settings: LoggedServer) -> Server:
    """Build a server from settings, its step law still to be given; raises InputError for settings that do not fit."""
    values = settings.model_dump()
    fleet = {name: values.pop(name) for name in _OF_FLEET}
    if settings.held_tokens is None:
        values["capacity_tokens"] = UNBOUND_TOKENS
    with found_in(path="server"):
        return Server(make_replica(make_law(1.0), **values), make_fleet(**fleet))


def server_settings(
    known: Coefficients | None, given: Mapping[str, Any], stated: Sequence[Stated] = ()
) -> LoggedServer:
    """Return a server's settings: those given, but None, then the last stated, those of coefficients, vLLM's defaults.

    Raises InputError for a value out of range.
    """
    kept: dict[str, Any] = {} if known is None or known.replica is None else known.replica.model_dump()
    for layer in (*(one.values for one in stated), {name: v for name, v in given.items() if v is not None}):
        # Who says how large the cache is says it for all ways of saying it.
        if any(name in layer for name in _CACHE):
            kept = {name: value for name, value in kept.items() if name not in _CACHE}
        # Blocks of another size are fewer or more: the cache stays what it was.
        elif "block_tokens" in layer and kept.get("num_gpu_blocks") and "block_tokens" in kept:
            kept[CACHED_TOKENS] = kept.pop("num_gpu_blocks") * kept["block_tokens"]
        kept |= layer
    cached = kept.pop(CACHED_TOKENS, None)
    try:
        settings = LoggedServer.model_validate(kept)
    except ValidationError as error:
        raise mistakes(LoggedServer, kept, error)[0].error().at(path="server") from None
    if cached is None:
        return settings
    return settings.model_copy(update={"num_gpu_blocks": cached // settings.block_tokens})


def parallel_of(
    prior: Coefficients | None, stated: Sequence[Stated], given: Mapping[str, int | None]
) -> dict[str, int]:
    """Return how many GPUs a replica has, in the words of `PARALLEL`, as a prior, files and options say; {} if none do.

    Raises InputError where two of them say something else: a law is of a model on so many GPUs.
    """
    options = {name: count for name, count in given.items() if count is not None}
    who: list[tuple[str, dict[str, int]]] = []
    if prior is not None and is_of_gpus(prior):
        of = {name: int(prior.provenance.get(name, 1)) for name in PARALLEL.values()}
        who.append((f"coefficients {prior.name}", of))
    who += [(one.source, one.parallel) for one in stated]
    who += [(f"`{name}`", {name: count}) for name, count in options.items()]
    found: dict[str, tuple[str, int]] = {}
    for source, says in who:
        for name, count in says.items():
            first, before = found.setdefault(name, (source, count))
            if count != before:
                raise InputError(f"{before} by {first}, and {count} by {source}", path=name)
    return {name: count for name, (_, count) in found.items()}


def origins(stated: Sequence[Stated], given: Mapping[str, Any], settings: LoggedServer) -> Iterator[str]:
    """Say, a line each, which settings were taken from which file, what else the files say, and what is assumed."""
    later = {name for name, value in given.items() if value is not None}
    said: list[str] = []
    for one in reversed(stated):
        if later & set(_CACHE):
            later |= set(_CACHE)
        taken = {name: value for name, value in one.values.items() if name not in later}
        later |= set(taken)
        lines = [", ".join(f"{name} = {value}" for name, value in (taken | one.parallel).items()), *one.remarks]
        said = [*(f"{one.source}: {line}" for line in lines if line), *said]
    yield from said
    assumed = [f"{name} = {getattr(settings, name)}" for name in _VARY if name not in settings.model_fields_set]
    if assumed:
        yield f"not said by anything, and assumed: {', '.join(assumed)}; vLLM's defaults depend on its GPU and version"


def remarks_on(settings: LoggedServer) -> list[str]:
    """Return what must be known of how a server with these settings is simulated, a line each."""
    if settings.replicas == 1 or settings.routing != "least_loaded":
        return []
    return [
        "least_loaded is vLLM's balancer with one API server (--api-server-count 1): by default it has as many as "
        "engines, each of which knows its own requests at once and those of the others 0.1 s later"
    ]


def stated_by(config: Path | None, log: Path | None) -> list[Stated]:
    """Read what a server's files state of it, what it said itself last; raises InputError for a bad file."""
    from batchcube.calibration.servers import read_server_config, read_server_log

    found = [] if config is None else [read_server_config(config)]
    return found if log is None else [*found, read_server_log(log)]
