"""The state of a policy, nested named tuples of numbers, in a row of floats and back."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

from ..compiling.jit import inline
from ..policies.controller import Controller, controller_of
from ..policies.target import Control, start_state

Structure = tuple[type, tuple["Structure", ...]] | None
"""The types of nested named tuples; None for a number."""

_structures: dict[Controller | None, Structure] = {}


class Packing(NamedTuple):
    """How a state is kept."""

    load: Callable[[Any], Any]
    """Read the state from a row."""
    store: Callable[[Any, Any], None]
    """Write the state into a row."""


def structure_of(state: Any) -> Structure:
    """Return the types of nested named tuples."""
    return (type(state), tuple(map(structure_of, state))) if isinstance(state, tuple) else None


def structure_for(control: Control) -> Structure:
    """Return the structure of the controllers' state."""
    further = controller_of(control.further)
    if further not in _structures:
        _structures[further] = structure_of(start_state(control))
    return _structures[further]


def floats_of(structure: Structure) -> int:
    """Return how many numbers a state holds."""
    return 1 if structure is None else sum(map(floats_of, structure[1]))


@cache
def packing(structure: Structure) -> Packing:
    """Write out how a state is read and written: its types differ from field to field, so that no loop compiles."""
    names: dict[str, Any] = {"__name__": __name__}
    places = iter(range(floats_of(structure)))

    def build(structure: Structure) -> str:
        if structure is None:
            return f"row[{next(places)}]"
        name = f"Type{len(names)}"
        names[name] = structure[0]
        return f"{name}({', '.join(map(build, structure[1]))})"

    def paths(structure: Structure, at: str) -> Iterator[str]:
        if structure is None:
            yield at
        else:
            for number, part in enumerate(structure[1]):
                yield from paths(part, f"{at}[{number}]")

    writes = "".join(f"    row[{k}] = {path}\n" for k, path in enumerate(paths(structure, "state")))
    exec(f"def load(row):\n    return {build(structure)}\n\n\ndef store(row, state):\n{writes}    return\n", names)
    return Packing(inline(names["load"]), inline(names["store"]))
