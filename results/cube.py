"""Cubes: the one constructor, and writing and reading, as NetCDF-4 or Zarr."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tomllib
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from batchcube.documents import DEEPEST, is_deep, parse_json
from batchcube.errors import InputError, found_in, printable, suggestion

from .costs import FLAGS, flag_attributes
from .pieces import Kept, read_later, values_of
from .provenance import CONVENTIONS, batchcube_version
from .storage import open_dataset, write_dataset
from .variables import (
    BUCKETED,
    EXTRA_DIMENSIONS,
    FIRST_LOOK,
    LENGTH_UNITS,
    REGISTRY,
    RELATIVE_ERROR,
    REPLICATION,
    SINGLE,
    check_arrays,
    check_values,
    edge_names,
    reserved_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence
    from hashlib import _Hash as Digest
    from pathlib import Path

    from numpy.typing import NDArray

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
AT_ONCE = 2**28
"""Bytes up to which a cube is read into memory."""
CHECKSUMS = _CONTENT, _VARIABLES = ("content_sha256", "variables_sha256")
"""The attributes that `write_cube` adds."""
_CHANGED = "was changed after it was written: its content has another checksum"
# What attributes must be where a cube has them: a foreign file may hold anything.
_ABOUT: dict[str, type] = {
    **dict.fromkeys(("title", "description", "notes", "batchcube_version"), str),
    **dict.fromkeys(("specification", "specification_defaults", "specification_sha256"), str),
    **dict.fromkeys(("input_sha256", "git_commit", "created_utc"), str),
    **dict.fromkeys((_CONTENT, _VARIABLES), str),
    **dict.fromkeys(("backend", "backend_device", "versions", "service_coefficients", "policies"), str),
    **dict.fromkeys(("plan", "plan_identity", "parts"), str),
    **dict.fromkeys(("seed", "replications"), int),
}
# What a run that stops when its intervals are narrow adds, and never in part.
NARROWED: dict[str, type] = {
    **dict.fromkeys(("precision_wanted", "precision_looks"), str),
    "precision_reached": int,
    "precision_level": float,
}
# What a search for capacities adds, and never in part.
_SEARCHED: dict[str, type] = {
    "capacity_criteria": str,
    "capacity_notes_unanswered": str,
    "capacity_range_given": int,
    **dict.fromkeys(("capacity_low_per_s", "capacity_high_per_s", "capacity_tolerance", "capacity_growth"), float),
}
_ANSWERS = ("capacity_requests_per_s", "capacity_unbracketed")
_CALLED = {str: "text", int: "a whole number", float: "a number"}


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
    if not _NAME.fullmatch(axis.name):
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


def write_cube(
    cube: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    ready: Callable[[], None] = lambda: None,
    tell: Callable[[xr.Dataset], None] | None = None,
) -> Path:
    """Write a cube, compressed, complete or not at all, and return its path; see `write_dataset`.

    `tell` is given the cube as it was written, its variables to be read, and may give it other attributes.
    The attribute `content_sha256` is of all it holds: by it `read_cube` tells what was changed after this.
    """
    check_form(cube, str(path))
    digests = {str(name): _begun(name, variable) for name, variable in cube.variables.items()}

    def seen(name: Hashable, values: NDArray[Any]) -> None:
        if name in REGISTRY:
            with found_in(file=str(path)):
                check_values(REGISTRY[str(name)], values)
        _add(digests[str(name)], values)

    def last(written: Callable[[], xr.Dataset]) -> dict[str, str]:
        told = cube
        if tell is not None:
            tell(told := written())
        found = json.dumps({name: digest.hexdigest() for name, digest in sorted(digests.items())})
        return {
            **{name: value for name, value in told.attrs.items() if cube.attrs.get(name) is not value},
            _VARIABLES: found,
            _CONTENT: _content_sha256({**told.attrs, _VARIABLES: found}),
        }

    return write_dataset(cube, path, ready=ready, seen=seen, last=last)


def _content_sha256(attrs: Mapping[Any, Any]) -> str:
    """Return the SHA-256 of the attributes of a cube but this one: one of them has those of all variables."""
    return hashlib.sha256(_plain({name: attrs[name] for name in attrs if name != _CONTENT})).hexdigest()


def _begun(name: Hashable, variable: xr.Variable) -> Digest:
    """Return the SHA-256 of a variable without its values, which are to be added in the order of `values_of`."""
    kind = variable.dtype.str if variable.dtype.kind in "biuf" else "text"
    about = f"{name} {variable.dims} {variable.shape} {kind}"
    return hashlib.sha256(about.encode() + _plain(variable.attrs))


def _add(digest: Digest, values: NDArray[Any]) -> None:
    if values.dtype.kind in "biuf":
        digest.update(np.ascontiguousarray(values).reshape(-1).data)
    else:
        digest.update("".join(json.dumps(str(value)) for value in values.flat).encode())


def _plain(attrs: Mapping[Any, Any]) -> bytes:
    """Return attributes as bytes that are the same in memory and from a file, in which lists of one are numbers."""
    return json.dumps({str(name): np.atleast_1d(value).tolist() for name, value in sorted(attrs.items())}).encode()


def check_form(cube: xr.Dataset, source: str) -> None:
    """Raise InputError, one line that starts with `source`, when a dataset is not a cube of this package.

    What passes can be trusted: attributes are what `provenance` and `build_cube` make of them, axes and other
    dimensions have coordinates without gaps, and every registered variable has its dimensions, its dtype and its unit.
    That its values are possible is looked at where they are read.
    """
    if "batchcube_version" not in cube.attrs:
        raise InputError("is no batchcube cube: it has no attribute batchcube_version", file=source)
    if REPLICATION not in cube.dims or REPLICATION not in cube.coords:
        raise InputError(f"is no batchcube cube: it has no dimension {REPLICATION}", file=source)
    with found_in(file=source):
        _check_about(cube.attrs)
        axes = axis_names(cube)
        for name in axes:
            if name in REGISTRY:
                raise InputError("has the name of a variable", path=f"axis {name}")
            _check_axis(cube[name])
        known = [str(name) for name in cube.data_vars if name in REGISTRY]  # others somebody added, or a newer version
        for name in known:
            _check_variable(name, cube.variables[name], axes)
        absent = [name for name in _ANSWERS if name not in known]
        if absent and "capacity_criteria" in cube.attrs:
            raise InputError(f"is of a search for capacities and holds no {absent[0]}")
        used = {REPLICATION, *(dim for name in known for dim in REGISTRY[name].extra)}
        for dim in used:
            _check_dimension(cube, dim)
    if not known:
        raise InputError("is no batchcube cube: it holds none of the registered variables", file=source)


def _check_about(attrs: Mapping[Any, Any]) -> None:
    added = {
        **(_SEARCHED if "capacity_criteria" in attrs else {}),
        **(NARROWED if "precision_looks" in attrs else {}),
    }
    needed = {"specification", *added}
    for name, kind in (_ABOUT | added).items():
        if name in attrs:
            _require(attrs, name, kind)
        elif name in needed:
            raise InputError(f"has no attribute {name}")
    if not re.fullmatch(r"\d{1,9}(, \d{1,9})*", attrs.get("precision_looks", "1")):
        raise InputError("must be numbers of replications", path="attribute precision_looks")
    parse_specification(attrs["specification"])
    for name in ("specification_defaults", _VARIABLES):
        _json_of(attrs, name, dict)
    versions = _json_of(attrs, "versions", dict)
    if not all(isinstance(version, str) for version in versions.values()):
        raise InputError("must hold text only", path="attribute versions")
    coefficients = _json_of(attrs, "service_coefficients", dict)
    if not all(isinstance(kept, dict) and isinstance(kept.get("sha256"), str) for kept in coefficients.values()):
        raise InputError("each must have its sha256", path="attribute service_coefficients")
    if not all(
        isinstance(part, dict) and isinstance(part.get("holds"), dict) for part in _json_of(attrs, "parts", list)
    ):
        raise InputError("each must say what it holds", path="attribute parts")
    policies = _json_of(attrs, "policies", dict)
    if not all(isinstance(kept, dict) and set(kept) == {"origin", "sha256"} for kept in policies.values()):
        raise InputError("each must have its origin and its sha256", path="attribute policies")
    if "plan" in attrs:
        from .planned import is_plan  # which scipy comes with

        if not is_plan(_json_of(attrs, "plan", dict)):
            raise InputError("must hold the answer of a plan", path="attribute plan")
    for criterion in _json_of(attrs, "capacity_criteria", list):
        if not _is_criterion(criterion):
            raise InputError("must hold variables with their quantile and limit", path="attribute capacity_criteria")


def _require(attrs: Mapping[Any, Any], name: str, kind: type, of: str = "") -> None:
    value: Any = attrs.get(name)
    numbers = {int: (int, np.integer), float: (int, float, np.integer, np.floating)}
    fits = isinstance(value, numbers.get(kind, kind)) and not isinstance(value, bool | np.bool_)
    if not fits or (kind is float and not abs(value) <= sys.float_info.max):
        raise InputError(f"must be {_CALLED[kind]}", path=f"{of}attribute {name}")


def _json_of(attrs: Mapping[Any, Any], name: str, kind: type) -> Any:
    """Return what an attribute of JSON holds, nothing where it is not there."""
    with found_in(path=f"attribute {name}"):
        found = parse_json(attrs[name]) if name in attrs else kind()
        if not isinstance(found, kind):
            raise InputError(f"must be a {'table' if kind is dict else 'list'} in JSON")
        return found


def _is_criterion(criterion: object) -> bool:
    if not isinstance(criterion, dict) or set(criterion) != {"variable", "quantile", "limit"}:
        return False
    variable, quantile, limit = criterion["variable"], criterion["quantile"], criterion["limit"]
    if not isinstance(variable, str) or variable not in REGISTRY:
        return False
    if REGISTRY[variable].extra != ("quantile",):
        known = quantile is None
    else:
        known = isinstance(quantile, float) and 0 < quantile < 1
    return known and isinstance(limit, int | float) and 0 <= limit < np.inf


def _check_axis(axis: xr.DataArray) -> None:
    name, values = str(axis.name), axis.values
    if not _NAME.fullmatch(name):
        raise InputError("a name is letters, digits and _, and starts with a letter", path=f"axis {name}")
    for label in ("path", "units", "long_name"):
        _require(axis.attrs, label, str, f"axis {name}: its ")
    if values.dtype.kind not in "iufU" and not all(isinstance(value, str) for value in values):
        raise InputError("must hold numbers or labels", path=f"axis {name}")
    _require_all_different(f"axis {name}", values)


def _check_variable(name: str, found: xr.Variable, axes: Sequence[str]) -> None:
    variable = REGISTRY[name]
    if found.dims != variable.dims(axes):
        dims = ", ".join(map(str, found.dims))
        raise InputError(f"{name} has dimensions ({dims}), must be ({', '.join(variable.dims(axes))})")
    if found.dtype != np.dtype(variable.dtype):
        raise InputError(f"{name} has dtype {found.dtype}, must be {variable.dtype}")
    for label, kind in (("units", str), ("interval_of", str), (RELATIVE_ERROR, float), (FIRST_LOOK, int)):
        if label == "units" or label in found.attrs:
            _require(found.attrs, label, kind, f"{name}: its ")
    if found.attrs.get(FIRST_LOOK, 2) < 2:
        raise InputError(f"its attribute {FIRST_LOOK}", path=name, allowed="must be 2 or more")
    if not 0 <= found.attrs.get(RELATIVE_ERROR, 0) < 1:
        raise InputError(f"its attribute {RELATIVE_ERROR}", path=name, allowed="must be from 0 to below 1")


def _check_dimension(cube: xr.Dataset, dim: str) -> None:
    names = [dim, *(edge_names(dim) if dim in BUCKETED else ())]
    for name in names:
        if name not in cube.coords or cube[name].dims != (dim,):
            raise InputError(f"the dimension {dim} has no such coordinate", path=name)
        if dim == "class":
            if not all(isinstance(value, str) for value in cube[name].values):
                raise InputError("must hold names", path=name)
        elif cube[name].dtype.kind not in ("f" if dim == "quantile" or dim in BUCKETED else "iu"):
            raise InputError("must hold numbers", path=name)
    values = cube[dim].values
    _require_all_different(dim, values)
    if dim == "quantile" and not ((values > 0) & (values < 1)).all():
        raise InputError("must hold probabilities above 0 and below 1", path="quantile")
    if dim in BUCKETED:
        lower, upper = (cube[name].values for name in edge_names(dim))
        edges = np.stack([lower, values, upper])
        if not np.isfinite(edges).all() or (np.diff(edges, axis=0) < 0).any() or (np.diff(edges, axis=1) < 0).any():
            raise InputError("its buckets must be in order, each between its edges", path=dim)


def _require_all_different(what: str, values: NDArray[np.generic]) -> None:
    if not values.size:
        raise InputError("has no values", path=what)
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise InputError("holds NaN", path=what)
    if len(np.unique(values)) != len(values):
        raise InputError("a value occurs twice", path=what)


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


def fits(cube: xr.Dataset) -> bool:
    """Say whether a cube is one that is read into memory."""
    return cube.nbytes <= AT_ONCE


def read_cube(path: str | os.PathLike[str], doubt: Callable[[str], None] | None = None) -> xr.Dataset:
    """Read a cube; InputError, one line naming the file, when it is missing, damaged or no cube.

    One of more than `AT_ONCE` bytes is opened only: each of its variables is read, piece by piece, where somebody asks
    for its values, and looked at as a whole before the first time; of those that are a piece as many are kept in memory
    as `AT_ONCE` bytes are. It is best closed after use (`with`).
    `doubt` is called with a sentence about a cube that is not as `write_cube` left it, at once or then. This finds
    accidents and edits; whoever means to deceive can compute the checksums anew.
    """
    opened = cube = open_dataset(path, "a cube", at_once=AT_ONCE)
    later = not fits(cube)
    with ExitStack() as failing:
        failing.callback(opened.close)
        check_form(cube if later else cube.load(), str(path))
        looking = _Looking(cube, path, doubt)
        for name, variable in cube.variables.items():
            if name in cube.coords or not later:
                looking.at(name, variable)
        if later:
            cube = cube.assign({name: looking.later(name, cube.variables[name]) for name in cube.data_vars})
            cube.set_close(opened.close)
            failing.pop_all()
    for name in (*axis_names(cube), *(["class"] if "class" in cube.coords else [])):
        if cube[name].dtype.kind not in "iuf":
            cube[name] = (name, cube[name].values.astype(np.str_), cube[name].attrs)
    return cube


def refuse_changed(path: str | os.PathLike[str], advice: str = "") -> Callable[[str], None]:
    """Return what raises InputError, naming the file, with each doubt that `read_cube` has."""

    def refuse(doubt: str) -> None:
        raise InputError(f"{doubt}; {advice}" if advice else doubt, file=path)

    return refuse


class _Looking:
    """Looks at what is in a file of a cube: whether its values are possible, and as they were written."""

    def __init__(self, cube: xr.Dataset, path: str | os.PathLike[str], doubt: Callable[[str], None] | None) -> None:
        self._path, self._doubt = path, doubt
        self._kept = Kept(AT_ONCE)
        self._written: dict[str, str] = json.loads(cube.attrs.get(_VARIABLES, "{}"))
        if _CONTENT not in cube.attrs:
            self._tell("has no checksum of its content: it may have been changed after it was made")
        elif cube.attrs[_CONTENT] != _content_sha256(cube.attrs) or set(self._written) != set(cube.variables):
            self._tell(_CHANGED)

    def at(self, name: Hashable, variable: xr.Variable) -> None:
        """Look at a variable."""
        digest = _begun(name, variable)
        for _, piece in values_of(variable):
            if name in REGISTRY:
                with found_in(file=self._path):
                    check_values(REGISTRY[str(name)], piece.values)
            if self._doubt is not None:
                _add(digest, piece.values)
        if self._doubt is not None and self._written.get(str(name)) != digest.hexdigest():
            self._tell(_CHANGED)

    def later(self, name: Hashable, variable: xr.Variable) -> xr.Variable:
        """Return the variable, at which is looked before it is read first."""
        looked = False

        def read(key: tuple[int | slice, ...]) -> NDArray[Any]:
            nonlocal looked
            whole = self._kept.whole(name, variable)
            if not looked:
                self.at(name, variable if whole is None else variable.copy(data=whole))
                looked = True
            return np.asarray(variable[key].values) if whole is None else np.array(whole[key])

        return read_later(variable, read)

    def _tell(self, sentence: str) -> None:
        """Tell of a doubt, if it is the first."""
        if self._doubt is not None:
            doubt, self._doubt = self._doubt, None
            doubt(sentence)


def parse_specification(text: str) -> dict[str, object]:
    """Return the specification kept in a cube, TOML or JSON, as nested dictionaries; InputError when it is neither."""
    deeper = f"is nested deeper than {DEEPEST} levels"
    try:
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = tomllib.loads(text)
    except ValueError as error:
        raise InputError(f"is neither TOML nor JSON: {error}", path="specification") from error
    except RecursionError:
        raise InputError(deeper, path="specification") from None
    if not isinstance(parsed, dict):
        raise InputError("must be a table of settings", path="specification")
    if is_deep(parsed):
        raise InputError(deeper, path="specification")
    return parsed


def parse_made_from(cube: xr.Dataset) -> tuple[dict[str, object], dict[str, object]]:
    """Return the specification kept in a cube, and the defaults of what it leaves out, by dotted path."""
    specification = parse_specification(str(cube.attrs["specification"]))
    return specification, _json_of(cube.attrs, "specification_defaults", dict)
