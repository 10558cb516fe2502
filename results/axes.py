"""The axes of a cube, and its points by the values on them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from batchcube.errors import InputError, printable, suggestion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr

AXIS_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def axis_names(cube: xr.Dataset) -> list[str]:
    """Return the names of the axes of a cube, in order: the dimensions whose coordinate says which setting it gives."""
    # Dataset.dims has no order of its own that survives a file; the coordinates and variables have.
    names = [str(name) for name, found in cube.variables.items() if name in cube.sizes and "path" in found.attrs]
    for name in cube.data_vars:
        order = [str(dim) for dim in cube.variables[name].dims if dim in names]
        if len(order) == len(names):
            return order
    return names


def axis_of(cube: xr.Dataset, path: str) -> str | None:
    """Return the name of the axis that gives this setting (`policy.bins`), None when the cube has no such axis."""
    return next((name for name in axis_names(cube) if path in str(cube.variables[name].attrs["path"]).split(",")), None)


def as_written(value: object) -> str:
    """Write a value of an axis as a specification does."""
    if isinstance(value, float | np.floating):
        return "infinite" if value == np.inf else f"{value:g}"
    return printable(value)


def place_of(values: Sequence[object], wanted: object) -> int | None:
    """Return where a value lies on an axis, None where it does not; text is read as a number where these are."""
    for place, value in enumerate(values):
        if value == wanted or as_written(value) == str(wanted):
            return place
        try:
            if isinstance(value, int | float) and np.isclose(value, float(wanted), rtol=1e-9, atol=0.0):  # type: ignore[arg-type]
                return place
        except (TypeError, ValueError):
            continue
    return None


def select_points(cube: xr.Dataset, select: Mapping[str, object]) -> xr.Dataset:
    """Return a cube of the chosen values of some axes, {axis: value or values}; every axis stays, if with one value.

    Raises InputError, which says what there is, for an axis or a value that the cube does not have.
    """
    axes, chosen = axis_names(cube), {}
    for name, wanted in select.items():
        if name not in axes:
            raise InputError(f"no such axis; the cube has {', '.join(axes) or 'none'}", path="`select`", value=name)
        values = cube[name].values.tolist()
        places: dict[int, None] = {}
        for one in wanted if isinstance(wanted, list | tuple) else [wanted]:
            place = place_of(values, one)
            if place is None:
                hint = suggestion(one, map(as_written, values))
                raise InputError(hint, path="`select`", value=f"{name}={one}")
            places[place] = None
        if not places:
            raise InputError("needs a value", path="`select`", value=name)
        chosen[name] = list(places)
    return cube.isel(chosen)
