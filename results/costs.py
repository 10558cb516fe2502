"""Costs that nobody measured: flagged in a cube, and told before anything that is made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .variables import COSTS, REGISTRY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import xarray as xr
    from numpy.typing import NDArray

FLAGS = "unmeasured_costs"
NOT_MEASURED = "neither measured nor given"
# What people call the times that may rest on such a cost, and a variable of each.
_RESTING = {"time to first token": "ttft_mean_s", "time between tokens": "tbt_mean_s"}


def flags_of(points: Sequence[Iterable[str]]) -> NDArray[np.int64]:
    """Return the flags (point,) of the costs that are not known, given by their names in `COSTS`."""
    bits = {name: 1 << bit for bit, name in enumerate(COSTS)}
    return np.array([sum(bits[name] for name in names) for names in points], np.int64)


def names_of(flags: NDArray[np.int64]) -> list[str]:
    """Return the names of the costs that any of the flags stands for."""
    together = int(np.bitwise_or.reduce(flags, axis=None))
    return [name for bit, name in enumerate(COSTS) if together >> bit & 1]


def flag_attributes() -> dict[str, str | NDArray[np.int64]]:
    """Return the attributes that say what the flags mean, as the CF conventions have them."""
    return {"flag_masks": flags_of([[name] for name in COSTS]), "flag_meanings": " ".join(COSTS)}


def unmeasured(cube: xr.Dataset) -> list[str]:
    """Return the names of the costs that are unknown at any point of a cube."""
    return names_of(cube[FLAGS].values) if FLAGS in cube else []


def missing(cube: xr.Dataset, variable: str) -> list[str]:
    """Return the names of the unknown costs, at any point of a cube, that a variable rests on."""
    return [name for name in unmeasured(cube) if name in REGISTRY[variable].rests_on]


def is_missing(cube: xr.Dataset, variable: str) -> xr.DataArray | bool:
    """Say at which points of a cube an unknown cost is one that a variable rests on."""
    (flags,) = flags_of([REGISTRY[variable].rests_on])
    return (cube[FLAGS] & flags) != 0 if FLAGS in cube else False


def warning(cube: xr.Dataset) -> str:
    """Return the sentence to begin with about the costs of a cube that are not known, "" where all are."""
    return warning_of(cube[FLAGS].values) if FLAGS in cube else ""


def warning_of(flags: NDArray[np.int64]) -> str:
    """Return the sentence of `warning` for the flags (point,) of a cube that is yet to be made."""
    names = names_of(flags)
    if not names:
        return ""
    points = int(np.count_nonzero(flags))
    at = "" if points == flags.size else f" at {points} of {flags.size} points"
    listed = ", ".join(f"{name} ({COSTS[name]})" for name in names)
    empty = [label for label, of in _RESTING.items() if set(REGISTRY[of].rests_on) & set(names)]
    said = f"; no {' and no '.join(empty)} can be told" if empty else ""
    short = "times are too short by it, rates that a limit allows too high"
    return f"{NOT_MEASURED}, counted as 0{at}: {listed}; {short}{said}"
