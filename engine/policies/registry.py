"""Policies from outside: found among the installed packages, or registered in Python.

A package names its policies in the entry point group `batchcube.policies`; a script calls `register`. Each is a
`Controller` or an `Order` whose settings are a NamedTuple of numbers and bools, with what each means beside its type:
`Annotated[float, "requests added after a batch in time"]`.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import FunctionType
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from batchcube.errors import InputError

from ..compiling.names import is_own, referred_by
from ..dialect import compiles, policies_of, policy
from .controller import Controller
from .order import NAMED, Order
from .text import text_digest

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
    """Of what it does; see `text`."""


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

    Raises InputError for what is no policy, a name that is taken by the package, settings that are not numbers,
    functions that call what compiled code cannot, and values that have changed since it was registered.
    """
    if not isinstance(policy, Policy):
        raise InputError("must be a Controller or an Order", path="`policy`", value=repr(policy))
    if not policy.name.isidentifier() or policy.name in RESERVED:
        raise InputError("must be letters, digits and _, and no policy of batchcube", value=repr(policy.name))
    for setting in settings_of(policy):
        if setting.kind not in NUMBERS or setting.name in ("name", "signal"):
            allowed = "must be a number, true or false, and not called name or signal"
            raise InputError(allowed, path=f"{policy.name}.{setting.name}", value=setting.kind)
    for function in _functions_of(policy):
        for part in policies_of(function):
            for name, called in referred_by(part).items():
                if isinstance(called, FunctionType) and is_own(called.__module__) and not compiles(called):
                    lacking = f"{part.__name__} calls {name}, which must be decorated with @policy"
                    raise InputError(lacking, path=policy.name)
    sha256 = _digest(policy)
    before = _registered.get(policy.name)
    if before is not None and _parts_of(before.policy) == _parts_of(policy):
        _require_same(before, sha256)
    policy.claim()
    _registered[policy.name] = Registered(policy, origin or _file_of(policy) or "Python", sha256)


def require_current(known: Registered) -> None:
    """Make the settings those of a registered policy; raises InputError where it does not do what it did then."""
    _require_same(known, _digest(known.policy))
    known.policy.claim()


def _require_same(known: Registered, sha256: str) -> None:
    """Raise InputError for functions whose values have changed: what is compiled of them has the old ones."""
    if known.sha256 != sha256:
        raise InputError(
            f"a value that {known.policy.name} refers to has changed since it was registered: define its functions "
            "again (the cell, or the module), and register it"
        )


def arrive(known: Registered) -> Registered:
    """Register a policy that comes from another process, and return it as it is here.

    Raises InputError where it was found in a module of this process, and the module's text is another one than there.
    """
    functions = _functions_of(known.policy)
    for part in {part: None for function in functions for part in policies_of(function)}:
        policy(part)  # compiled code may call it here, too
    register(replace(known.policy), known.origin)
    here = _registered[known.policy.name]
    if here.sha256 != known.sha256:
        if all(map(_is_of_module, functions)):
            raise InputError(f"the policy {known.policy.name} is another text on a worker: install the same everywhere")
        # What a script or a notebook defines, or a function makes, is sent along, and its text may not be here.
        here = _registered[known.policy.name] = here._replace(sha256=known.sha256)
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


def _parts_of(policy: Policy) -> tuple[Any, ...]:
    return policy.settings, *_functions_of(policy)


def _is_of_module(function: Callable[..., Any]) -> bool:
    """Say whether a function is found in a module of this process by its name."""
    found: Any = None if function.__module__.endswith("main__") else sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function


def _digest(policy: Policy) -> str:
    also = (policy.steady,) if isinstance(policy, Controller) else ()
    return text_digest((*_functions_of(policy), *also), policy.settings)


def _file_of(policy: Policy) -> str | None:
    """Return the file that a policy is written in; None where there is none."""
    file = inspect.getsourcefile(_functions_of(policy)[0])
    return str(Path(file).resolve()) if file is not None and Path(file).is_file() else None


@cache
def _load_packages() -> None:
    for entry in entry_points(group=GROUP):
        policy = entry.load()
        if policy.name in _registered and _registered[policy.name].policy is not policy:
            continue  # registered in Python meanwhile
        package = entry.dist
        register(policy, None if package is None else f"{package.name} {package.version}")
