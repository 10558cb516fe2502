"""What a cube must be, whoever made it: attributes, axes, coordinates and variables."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from batchcube.errors import InputError, found_in

from .axes import AXIS_NAME, axis_names
from .provenance import json_of, parse_specification
from .variables import BUCKETED, FIRST_LOOK, REGISTRY, RELATIVE_ERROR, REPLICATION, Variable, edge_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr
    from numpy.typing import NDArray

CHECKSUMS = CONTENT, VARIABLES = "content_sha256", "variables_sha256"
"""The attributes that `write_cube` adds."""
# What attributes must be where a cube has them: a foreign file may hold anything.
_ABOUT: dict[str, type] = {
    **dict.fromkeys(("title", "description", "notes", "batchcube_version"), str),
    **dict.fromkeys(("specification", "specification_defaults", "specification_sha256"), str),
    **dict.fromkeys(("input_sha256", "git_commit", "created_utc"), str),
    **dict.fromkeys(CHECKSUMS, str),
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
    for name in ("specification_defaults", VARIABLES):
        json_of(attrs, name, dict)
    versions = json_of(attrs, "versions", dict)
    if not all(isinstance(version, str) for version in versions.values()):
        raise InputError("must hold text only", path="attribute versions")
    coefficients = json_of(attrs, "service_coefficients", dict)
    if not all(isinstance(kept, dict) and isinstance(kept.get("sha256"), str) for kept in coefficients.values()):
        raise InputError("each must have its sha256", path="attribute service_coefficients")
    if not all(
        isinstance(part, dict) and isinstance(part.get("holds"), dict) for part in json_of(attrs, "parts", list)
    ):
        raise InputError("each must say what it holds", path="attribute parts")
    policies = json_of(attrs, "policies", dict)
    if not all(isinstance(kept, dict) and set(kept) == {"origin", "sha256"} for kept in policies.values()):
        raise InputError("each must have its origin and its sha256", path="attribute policies")
    if "plan" in attrs:
        from .planned import is_plan  # which scipy comes with

        if not is_plan(json_of(attrs, "plan", dict)):
            raise InputError("must hold the answer of a plan", path="attribute plan")
    for criterion in json_of(attrs, "capacity_criteria", list):
        if not _is_criterion(criterion):
            raise InputError("must hold variables with their quantile and limit", path="attribute capacity_criteria")


def _require(attrs: Mapping[Any, Any], name: str, kind: type, of: str = "") -> None:
    value: Any = attrs.get(name)
    numbers = {int: (int, np.integer), float: (int, float, np.integer, np.floating)}
    fits = isinstance(value, numbers.get(kind, kind)) and not isinstance(value, bool | np.bool_)
    if not fits or (kind is float and not abs(value) <= sys.float_info.max):
        raise InputError(f"must be {_CALLED[kind]}", path=f"{of}attribute {name}")


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
    if not AXIS_NAME.fullmatch(name):
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


def check_values(variable: Variable, array: NDArray[Any]) -> None:
    """Raise InputError naming the variable where an array holds values that it cannot have; NaN stands for nothing."""
    low, high = variable.bounds
    # Rounding may leave a fraction a few ulps outside [0, 1]: 1e-9 lets that pass and nothing else.
    slack = 1e-9
    with np.errstate(invalid="ignore"):
        outside = array.dtype.kind != "b" and bool(np.any((array < low - slack) | (array > high + slack)))
    if outside:
        raise InputError(f"holds values outside [{low:g}, {high:g}]", path=variable.name)
