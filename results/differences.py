"""Two cubes beside each other: which values are the same, and how far apart the others are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from batchcube.errors import InputError

from .axes import axis_names
from .pieces import values_of

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

EXACT, WITHIN, DIFFERS = "exact", "within tolerance", "differs"
ONLY_FIRST, ONLY_SECOND = "only in first", "only in second"
SHAPE, UNITS = "other shape", "other units"
# What decides the numbers; when and where a cube was made does not.
_ATTRIBUTES = ("specification", "seed", "replications", "input_sha256", "batchcube_version")


def compare_cubes(a: xr.Dataset, b: xr.Dataset, tolerance: float = 0.0) -> pd.DataFrame:
    """Return one row per coordinate, variable and deciding attribute of two cubes, saying whether they agree.

    Columns: `name`, `kind` (coordinate, variable, attribute), `status`, `max_abs` and `max_rel`, the largest
    differences (NaN where numbers cannot be compared). NaN equals NaN. `tolerance` is relative to the larger magnitude
    of each pair; 0 asks for equal values. Raises InputError for a negative tolerance.
    """
    if not tolerance >= 0.0:
        raise InputError("must be >= 0", path="`tolerance`", value=tolerance)
    rows: list[tuple[str, str, str, float, float]] = []
    if axis_names(a) != axis_names(b):
        rows.append(("(order of the axes)", "coordinate", DIFFERS, np.nan, np.nan))
    for kind, first, second in (("coordinate", a.coords, b.coords), ("variable", a.data_vars, b.data_vars)):
        for name in [*first, *(name for name in second if name not in first)]:
            if name not in second or name not in first:
                rows.append((str(name), kind, ONLY_FIRST if name in first else ONLY_SECOND, np.nan, np.nan))
            else:
                rows.append((str(name), kind, *_difference(a[name], b[name], tolerance)))
    for name in _ATTRIBUTES:
        if name in a.attrs or name in b.attrs:
            same = name in a.attrs and name in b.attrs and bool(a.attrs[name] == b.attrs[name])
            rows.append((name, "attribute", EXACT if same else DIFFERS, np.nan, np.nan))
    return pd.DataFrame(rows, columns=["name", "kind", "status", "max_abs", "max_rel"])


def agree(table: pd.DataFrame) -> bool:
    """Return whether all coordinates and variables of a comparison agree; attributes may differ."""
    numbers = table[table["kind"] != "attribute"]
    return bool(numbers["status"].isin([EXACT, WITHIN]).all())


def shapes_in_words(table: pd.DataFrame, a: xr.Dataset, b: xr.Dataset) -> str:
    """Say how many arrays of two cubes have other shapes, and along what; "" where none has."""
    count = int((table["status"] == SHAPE).sum())
    sizes = [
        f"{name} {a.sizes[name]} against {b.sizes[name]}"
        for name in a.sizes
        if name in b.sizes and a.sizes[name] != b.sizes[name]
    ]
    along = f" ({', '.join(sizes)})" if sizes else ""
    return f"of other shapes: {count} of the coordinates and variables{along}" if count else ""


def _difference(a: xr.DataArray, b: xr.DataArray, tolerance: float) -> tuple[str, float, float]:
    if a.dims != b.dims or a.shape != b.shape:
        return SHAPE, np.nan, np.nan
    numeric = a.dtype.kind in "biuf" and b.dtype.kind in "biuf"
    found = [
        _of_values(piece.values, b.variable.isel(place).transpose(*piece.dims).values, tolerance, numeric=numeric)
        for place, piece in values_of(a.variable)
    ]
    states, *largest = zip(*found, strict=True)
    worst = next(state for state in (DIFFERS, WITHIN, EXACT) if state in states)
    if worst != DIFFERS and a.attrs.get("units") != b.attrs.get("units"):
        return UNITS, np.nan, np.nan
    if not numeric:
        return worst, np.nan, np.nan
    absolute, relative = (max(each) for each in largest)
    return WITHIN if worst == EXACT and a.dtype != b.dtype else worst, absolute, relative


def _of_values(a: NDArray[Any], b: NDArray[Any], tolerance: float, *, numeric: bool) -> tuple[str, float, float]:
    same = a == b
    if not numeric:
        return (EXACT if bool(np.all(same)) else DIFFERS), np.nan, np.nan
    if bool(np.all(same)):
        return EXACT, 0.0, 0.0
    first, second = a.astype(np.float64), b.astype(np.float64)
    nan = np.isnan(first) & np.isnan(second)
    if bool(np.all(same | nan)):
        return EXACT, 0.0, 0.0
    return _distance(first, second, nan, tolerance)


def _distance(
    first: NDArray[np.float64], second: NDArray[np.float64], nan: NDArray[np.bool_], tolerance: float
) -> tuple[str, float, float]:
    with np.errstate(invalid="ignore", divide="ignore"):
        absolute = np.where((first == second) | nan, 0.0, np.abs(first - second))
        size = np.maximum(np.abs(first), np.abs(second))
        relative = np.where(absolute == 0.0, 0.0, absolute / size)
    # A number against NaN has no distance; it differs whatever the tolerance.
    absolute, relative = np.nan_to_num(absolute, nan=np.inf), np.nan_to_num(relative, nan=np.inf)
    furthest = float(relative.max(initial=0.0))
    return (WITHIN if furthest <= tolerance else DIFFERS), float(absolute.max(initial=0.0)), furthest
