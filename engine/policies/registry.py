"""Policies from outside: found among the installed packages, or registered in Python.

A package names its policies in the entry point group `batchcube.policies`; a script calls `register`. Each is a
`Controller` or an `Order` whose settings are a NamedTuple of numbers and bools, with what each means beside its type:
`Annotated[float, "requests added after a batch in time"]`.
"""

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from batchcube.errors import InputError

from ..dialect import policies_of, policy
from .controller import Controller
from .order import NAMED, Order

GROUP = "batchcube.policies"
RESERVED = ("memory", "sla", *NAMED)
NUMBERS = (bool, int, float)
Policy = Controller | Order


class Registered(NamedTuple):
    """A policy from outside."""

    policy: Policy
    origin: str
    """The package and its version, or the file."""
    sha256: str
    """Of the file that it is written in."""


class Setting(NamedTuple):
    """One field of a policy's settings."""

    name: str
    type: Any
    """With all that it is annotated with."""
    default: Any
    """`...` where one must be given."""
    meaning: str

    @property
    def kind(self) -> Any:
        """Its type alone."""
        return get_args(self.type)[0] if get_origin(self.type) is Annotated else self.type


_registered: dict[str, Registered] = {}


def register(policy: Policy, origin: str | None = None) -> None:
    """Make a policy known by its name; one registered before under this name is replaced.

    Raises InputError for what is no policy, a name that is taken by the package, and settings that are not numbers.
    """
    if not isinstance(policy, Policy):
        raise InputError("must be a Controller or an Order", path="`policy`", value=repr(policy))
    if not policy.name.isidentifier() or policy.name in RESERVED:
        raise InputError("must be letters, digits and _, and no policy of batchcube", value=repr(policy.name))
    for setting in settings_of(policy):
        if setting.kind not in NUMBERS or setting.name in ("name", "signal"):
            allowed = "must be a number, true or false, and not called name or signal"
            raise InputError(allowed, path=f"{policy.name}.{setting.name}", value=setting.kind)
    source, sha256 = _source_of(policy)
    _registered[policy.name] = Registered(policy, origin or source, sha256)


def arrive(known: Registered) -> Registered:
    """Register a policy that comes from another process, and return it as it is here.

    Raises InputError where it was found in a module of this process, and the module's text is another one than there.
    """
    functions = _functions_of(known.policy)
    for part in {part: None for function in functions for part in policies_of(function)}:
        policy(part)  # compiled code may call it here, too
    register(replace(known.policy), known.origin)
    here = _registered[known.policy.name]
    # What a script or a notebook defines is sent along, and its file may not be here.
    if here.sha256 != known.sha256 and not all(function.__module__.endswith("main__") for function in functions):
        raise InputError(f"the policy {known.policy.name} is another text on a worker: install the same everywhere")
    return here


def registered() -> dict[str, Registered]:
    """Return all policies from outside by name: those of installed packages, and those that were registered."""
    _load_packages()
    return dict(sorted(_registered.items()))


def names(kind: type) -> tuple[str, ...]:
    """Return the names of those that are a `Controller`, or an `Order`."""
    return tuple(name for name, found in registered().items() if isinstance(found.policy, kind))


def settings_of(policy: Policy) -> list[Setting]:
    """Return the settings of a policy."""
    hints = get_type_hints(policy.settings, include_extras=True)
    defaults = getattr(policy.settings, "_field_defaults", {})
    return [
        Setting(name, hints[name], defaults.get(name, ...), next(_texts(hints[name]), ""))
        for name in getattr(policy.settings, "_fields", ())
    ]


def summary_of(policy: Policy) -> str:
    """Return what a policy does in one line: the first of its function's docstring."""
    function = _functions_of(policy)[0]
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _functions_of(policy: Policy) -> tuple[Callable[..., Any], ...]:
    """Return what a policy is made of, what decides first."""
    return (policy.decide, policy.init) if isinstance(policy, Controller) else (policy.key,)


def _texts(hint: Any) -> Any:
    return (part for part in get_args(hint)[1:] if isinstance(part, str))


def _source_of(policy: Policy) -> tuple[str, str]:
    """Return the file that a policy is written in and its hash; where there is none, the hash of its code."""
    function = _functions_of(policy)[0]
    file = inspect.getsourcefile(function)
    if file is not None and Path(file).is_file():
        return str(Path(file).resolve()), hashlib.sha256(Path(file).read_bytes()).hexdigest()
    code = (function.__code__.co_code, function.__code__.co_names, function.__code__.co_consts)
    return "Python", hashlib.sha256(repr(code).encode()).hexdigest()


@cache
def _load_packages() -> None:
    for entry in entry_points(group=GROUP):
        policy = entry.load()
        if policy.name in _registered and _registered[policy.name].policy is not policy:
            continue  # registered in Python meanwhile
        package = entry.dist
        register(policy, None if package is None else f"{package.name} {package.version}")
