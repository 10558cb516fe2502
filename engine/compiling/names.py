"""What a function refers to beside its locals: globals, attributes of modules, and what it closes over."""

import dis
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

_LIBRARIES = sys.stdlib_module_names | {"batchcube", "numpy", "numba", "jax"}


class Names(NamedTuple):
    """Names that code, and the functions in it, look up."""

    globals: set[str]
    attributes: set[str]


def names_of(code: types.CodeType) -> Names:
    """Return the names that code looks up; an attribute is no global, whatever it is called."""
    found = Names(set(), set())
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            found.globals.add(instruction.argval)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            found.attributes.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner = names_of(constant)
            found.globals.update(inner.globals)
            found.attributes.update(inner.attributes)
    return found


def is_own(module: str | None) -> bool:
    """Say whether a module is somebody's own: not Python's, batchcube's or of a library that compiled code knows."""
    return str(module).partition(".")[0] not in _LIBRARIES


def referred_by(function: Callable[..., Any]) -> dict[str, Any]:
    """Return what a function refers to, by name; `module.name` of what it finds in a module of somebody's own."""
    names, scope = names_of(function.__code__), function.__globals__
    found = {name: scope[name] for name in sorted(names.globals & scope.keys())}
    modules = [(name, value) for name, value in found.items() if isinstance(value, types.ModuleType)]
    seen: list[types.ModuleType] = []
    while modules:
        within, module = modules.pop()
        if is_own(module.__name__) and module not in seen:
            seen.append(module)
            there = {f"{within}.{name}": vars(module)[name] for name in sorted(names.attributes & vars(module).keys())}
            found |= there
            modules += [(name, value) for name, value in there.items() if isinstance(value, types.ModuleType)]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue  # a name that has no value yet
    return found
