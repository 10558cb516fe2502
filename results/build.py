"""The one constructor of cubes: plain arrays get names, coordinates, units and definitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from batchcube.errors import InputError

from .axes import AXIS_NAME
from .costs import FLAGS, flag_attributes
from .form import check_values
from .names import lookup, reserved_names
from .provenance import CONVENTIONS, batchcube_version
from .variables import (
    BUCKETED,
    EXTRA_DIMENSIONS,
    LENGTH_UNITS,
    REGISTRY,
    REPLICATION,
    SINGLE,
    edge_names,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


class Coordinate(NamedTuple):
    """Describe one axis of a sweep: its coordinate values and the dotted path of the setting they are given to.

    A zipped axis has string labels as values and comma-joined paths.
    """

    name: str
    values: Sequence[object] | NDArray[np.generic]
    path: str
    units: str = "1"
    long_name: str = ""
    """What it is called, in few words; its name when left out."""
    definition: str = ""
    """What the setting is, in full."""


class Buckets(NamedTuple):
    """Hold the buckets of a histogram of times: representative value and both edges, each `(bucket,)`, in seconds."""

    representative_s: NDArray[np.float64]
    lower_s: NDArray[np.float64]
    upper_s: NDArray[np.float64]


def _coordinate_values(axis: Coordinate) -> NDArray[np.generic]:
    if not AXIS_NAME.fullmatch(axis.name):
        raise InputError("a name is letters, digits and _, and starts with a letter", path=f"axis {axis.name!r}")
    if axis.name in reserved_names():
        raise InputError("this name is taken by cubes, intervals or tables", path=f"axis {axis.name}")
    values = list(axis.values)
    if not values:
        raise InputError("has no values", path=f"axis {axis.name}")
    array: NDArray[np.generic]
    if all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in values):
        array = np.array(values, dtype=np.int64)
    elif all(
        isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool) for value in values
    ):
        array = np.array(values, dtype=np.float64)
        if np.isnan(array).any():
            raise InputError("holds NaN", path=f"axis {axis.name}")
    else:
        array = np.array([_label(value) for value in values])
    if len(np.unique(array)) != len(array):
        raise InputError("a value occurs twice", path=f"axis {axis.name}")
    return array


def _label(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"  # as TOML writes them
    return str(value)


def build_cube(
    axes: Sequence[Coordinate],
    arrays: Mapping[str, NDArray[np.generic] | xr.Variable],
    *,
    replications: int,
    attrs: Mapping[str, str | int | float],
    first_replication: int = 0,
    quantiles: Sequence[float] = (),
    buckets: Mapping[str, Buckets] | None = None,
    length_units: str = "tokens",
    coefficients_drawn: bool = False,
    classes: Sequence[str] = (),
) -> xr.Dataset:
    """Build the labelled cube of a sweep from plain arrays.

    `arrays` maps registered names to arrays shaped `(*axes, replication, *extra)`, without `replication` where the
    registry says so. Extra dimensions `bin`, `window` and `batch_size` are numbered from 0 and take their size from the
    arrays; `buckets` are those of the dimensions `latency_bucket` and `tbt_bucket`. Batch sizes and buckets beyond the
    used range are dropped, the bucket of exact zeros always stays. `quantiles` are those of the arrays that have them.
    Arrays that are too large for memory are given as variables of xarray that are read later (`pieces.read_later`), cut
    to the used range. `attrs` come from `provenance`. `length_units` is the unit of request lengths, "tokens" or "s",
    "tokens or s" where points differ; `classes` are the names of the classes of requests. With `coefficients_drawn`
    every replication has service coefficients of its own: see `statistics` on their intervals.
    Raises InputError naming the axis or variable: unknown or taken names, wrong shapes or dtypes, impossible values.
    """
    coordinates = {axis.name: _coordinate_values(axis) for axis in axes}
    if len(coordinates) != len(axes):
        raise InputError("a name occurs twice", path=f"axes {', '.join(axis.name for axis in axes)}")
    if replications < 1:
        raise InputError("must be >= 1", path="replications", value=replications)
    if length_units not in ("tokens", "s", LENGTH_UNITS):
        allowed = f"must be 'tokens', 's' or {LENGTH_UNITS!r}"
        raise InputError(allowed, path="length_units", value=repr(length_units))
    sizes = {REPLICATION: replications, "quantile": len(quantiles), "class": len(classes)}
    bucketed = dict(buckets or {})
    for dim, given in bucketed.items():
        if dim not in BUCKETED:
            raise InputError(f"{dim} is no dimension of buckets, must be one of {', '.join(BUCKETED)}", path="buckets")
        sizes[dim] = len(given.representative_s)
        if not len(given.lower_s) == len(given.upper_s) == len(given.representative_s) > 0:
            raise InputError(f"the three arrays of {dim} must be of one length > 0", path="buckets")
    for dim in ("bin", "window", "batch_size"):
        lengths = {
            name: np.shape(array)[-1]
            for name, array in arrays.items()
            if name in REGISTRY and REGISTRY[name].extra == (dim,) and np.ndim(array) > 0
        }
        if lengths:
            sizes[dim] = next(iter(lengths.values()))
    axis_sizes = {name: len(values) for name, values in coordinates.items()}
    data = check_arrays(arrays, axis_sizes, sizes)

    # Without requests there are no quantiles; 0 stays so that the first bucket and batch size always exist.
    for dim, given in bucketed.items():
        for name, counts in data.items():
            if REGISTRY[name].extra != (dim,) or isinstance(counts, xr.Variable):
                continue
            keep = _used_range(counts)
            data[name] = counts[..., keep]
            bucketed[dim] = Buckets(*(np.asarray(edge, dtype=np.float64)[keep] for edge in given))
    batch_sizes = data.get("batch_size_histogram")
    if isinstance(batch_sizes, np.ndarray):
        keep = _used_range(batch_sizes)
        data["batch_size_histogram"] = batch_sizes[..., : keep[-1] + 1]
        sizes["batch_size"] = int(keep[-1]) + 1

    coords: dict[str, xr.Variable] = {}
    for axis in axes:
        labels = {"path": axis.path, "units": axis.units, "long_name": axis.long_name or axis.name.replace("_", " ")}
        labels |= {"definition": axis.definition} if axis.definition else {}
        coords[axis.name] = xr.Variable(axis.name, coordinates[axis.name], labels)
    number = np.arange(first_replication, first_replication + replications, dtype=np.int64)
    about = {"units": "1", "long_name": "replication; its random numbers depend on the seed and this number only"}
    coords[REPLICATION] = xr.Variable(REPLICATION, number, about)
    used = {dim for name in data for dim in REGISTRY[name].extra}
    for dim in (dim for dim in EXTRA_DIMENSIONS if dim in used):
        about = {"units": "1", "long_name": EXTRA_DIMENSIONS[dim]}
        if dim == "quantile":
            coords[dim] = xr.Variable(dim, np.asarray(quantiles, dtype=np.float64), about)
        elif dim == "class":
            coords[dim] = xr.Variable(dim, np.array(classes, dtype=np.str_), about)
        elif dim in BUCKETED:
            # check_arrays has refused a histogram without its buckets
            coords[dim] = xr.Variable(dim, bucketed[dim].representative_s, about | {"units": "s"})
            for name, side, edge in zip(edge_names(dim), ("lower", "upper"), bucketed[dim][1:], strict=True):
                coords[name] = xr.Variable(dim, edge, {"units": "s", "long_name": f"{side} edge of the bucket"})
        else:
            coords[dim] = xr.Variable(dim, np.arange(sizes[dim], dtype=np.int64), about)
    variables: dict[str, xr.Variable] = {}
    for name in (name for name in REGISTRY if name in data):  # one order, whatever the order of `arrays`
        variable = REGISTRY[name]
        units = length_units if variable.units == LENGTH_UNITS else variable.units
        labels = {"units": units, "long_name": variable.long_name, "definition": variable.definition}
        if variable.replicated and coefficients_drawn:
            labels["interval_of"] = SINGLE
        array = data[name]
        if isinstance(array, xr.Variable):
            variables[name] = array.copy(deep=False)
        else:
            variables[name] = xr.Variable(variable.dims(coordinates), array)
        variables[name].attrs = labels
    if FLAGS in variables:
        variables[FLAGS].attrs |= flag_attributes()
    about_all = {"Conventions": CONVENTIONS, "batchcube_version": batchcube_version(), **attrs}
    return xr.Dataset(variables, coords, about_all)


def _used_range(counts: NDArray[np.generic]) -> NDArray[np.intp]:
    """Return 0 and the indices from the first to the last non-zero entry along the last axis."""
    used = np.flatnonzero(counts.any(axis=tuple(range(counts.ndim - 1))))
    if not len(used):
        return np.array([0])
    inside = np.arange(used[0], used[-1] + 1)
    return inside if inside[0] == 0 else np.concatenate([[0], inside])


def check_arrays(
    arrays: Mapping[str, NDArray[np.generic] | xr.Variable], axes: Mapping[str, int], sizes: Mapping[str, int]
) -> dict[str, NDArray[np.generic] | xr.Variable]:
    """Return the arrays in their registered dtypes after checking names, shapes, dtypes and bounds.

    Of those that are read later, given as variables of xarray, the values are not looked at.

    `axes` are the sizes of the axes in order, `sizes` those of `replication` and the extra dimensions. Raises
    InputError naming the variable: unknown, of another shape, of a lossy dtype, or outside its bounds.
    """
    checked: dict[str, NDArray[np.generic] | xr.Variable] = {}
    for name, given in arrays.items():
        variable = lookup(name)
        later = hasattr(given, "dims")
        array: Any = given if later else np.asarray(given)
        dims = variable.dims(axes)
        known = {**axes, **sizes}
        absent = [dim for dim in dims if dim not in known]
        if absent:
            raise InputError(f"needs the dimension {absent[0]}, whose coordinate was not given", path=name)
        shape = tuple(known[dim] for dim in dims)
        if array.shape != shape:
            expected = ", ".join(f"{dim}: {size}" for dim, size in zip(dims, shape, strict=True))
            raise InputError(f"has shape {array.shape}, must be {shape} ({expected})", path=name)
        if not np.can_cast(array.dtype, variable.dtype, "safe"):
            raise InputError(f"has dtype {array.dtype}, must be {variable.dtype}", path=name)
        if later:
            checked[name] = array
            continue
        check_values(variable, array)
        checked[name] = array.astype(variable.dtype, copy=False)
    return checked
