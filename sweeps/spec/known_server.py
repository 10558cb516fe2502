"""The server that coefficients know: its limits stand in for what a specification leaves out, in mode continuous."""

from collections.abc import Iterator
from typing import Any

from batchcube.calibration.coefficients import LoggedServer
from batchcube.results.text import all_of

from ..workloads.settings import Settings
from .defaults import checked
from .messages import show_path
from .rules import Problem
from .service import load
from .settings import CoefficientsLaw, Point, ReplicaSettings

_CACHE = ("kv_capacity_tokens", "num_gpu_blocks")
_NOTHING = ReplicaSettings()


def taken(point: Point) -> dict[str, Any]:
    """Return what a point has from its coefficients, by dotted path: what it leaves out, where its default is another.

    Raises InputError for coefficients that cannot be read, and for a limit that the setting cannot have.
    """
    law = point.server.service
    if not (point.simulation.STEPWISE and isinstance(law, CoefficientsLaw)):
        return {}
    known = load(law.coefficients).replica
    found: dict[str, Any] = {}
    for section, settings, name, value in () if known is None else _said(known, point):
        field = type(settings).model_fields[name]
        path = f"{section}.{name}"
        if name not in settings.model_fields_set and value != field.default:
            found[path] = checked(field, f"coefficients {law.coefficients}: {path}", value)
    return found


def _said(known: LoggedServer, point: Point) -> Iterator[tuple[str, Settings, str, Any]]:
    """Yield what coefficients say of a server: the section, its settings, the name there, and the value."""
    _, policy, server, _ = point
    yield "policy", policy, "largest_batch", known.most_running
    yield "server", server, "servers", known.replicas
    # With one replica nothing is routed, and nobody waits for others.
    if known.replicas > 1 and (server.servers if "servers" in server.model_fields_set else known.replicas) != 1:
        yield "server", server, "routing", known.routing
        yield "server", server, "lockstep", known.lockstep
    replica = server.replica if server.replica is not None and "replica" in server.model_fields_set else _NOTHING
    for name in ReplicaSettings.model_fields:
        if name in LoggedServer.model_fields and name not in _CACHE:
            yield "server.replica", replica, name, getattr(known, name)
    if not replica.model_fields_set.intersection(_CACHE):
        yield "server.replica", replica, "kv_capacity_tokens", known.held_tokens


def with_limits(point: Point) -> Point:
    """Return a point with what its coefficients say of the server where it says nothing: as defaults of its own.

    Raises InputError for coefficients that cannot be read, and for a limit that the setting cannot have.
    """
    values: dict[str, dict[str, Any]] = {"policy": {}, "server": {}, "server.replica": {}}
    for path, value in taken(point).items():
        section, _, name = path.rpartition(".")
        values[section][name] = value
    if values["server.replica"]:
        values["server"]["replica"] = _filled(point.server.replica or _NOTHING, values["server.replica"])
    policy, server = _filled(point.policy, values["policy"]), _filled(point.server, values["server"])
    return point._replace(policy=policy, server=server)


def _filled(settings: Any, values: dict[str, Any]) -> Any:
    """Return settings with values in place of defaults; unlike a copy with changes, they stay known as left out."""
    if not values:
        return settings
    return type(settings).model_construct(_fields_set=set(settings.model_fields_set), **{**dict(settings), **values})


def explained(problem: Problem, point: Point) -> Problem:
    """Return a problem that says which of the values that it speaks of come from coefficients."""
    at = show_path(problem.path)
    paths = [path for path in taken(point) if path == at or path in problem.text]
    if not paths:
        return problem
    law = point.server.service
    assert isinstance(law, CoefficientsLaw)
    return problem._replace(text=f"{problem.text} ({all_of(paths)} from coefficients {law.coefficients})")
