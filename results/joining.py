"""Cubes of one experiment made one."""

from __future__ import annotations

import json
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from batchcube.errors import InputError, printable

from .axes import as_written, axis_names
from .cube import fits
from .form import CHECKSUMS, NARROWED
from .pieces import put_together, values_of
from .provenance import named_together, parse_specification, versions_together
from .text import counted
from .variables import BUCKETED, EXTRA_DIMENSIONS, REGISTRY, REPLICATION, edge_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Part = tuple[xr.Variable, Mapping[str, NDArray[np.intp]]]

# What a part says of itself in a cube that is joined of several.
_SAID = ("created_utc", "batchcube_version", "git_commit", "backend", "backend_device", "versions", "content_sha256")
# Attributes that must be equal for two cubes to be parts of one experiment.
SAME = ("batchcube_version", "seed", "input_sha256")


def first_difference(a: object, b: object, path: str = "") -> str | None:
    """Return in words the first value in which two nested dictionaries differ; None where they do not."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            inner = f"{path}.{key}" if path else str(key)
            if key not in a or key not in b:
                return f"{inner} is set in only one of them"
            found = first_difference(a[key], b[key], inner)
            if found:
                return found
        return None
    return None if a == b else f"{path} = {a!r} against {b!r}"


def _stated_replications(specification: dict[str, object]) -> int | None:
    """Take out of a specification how many replications it states, None where it states none; InputError for others."""
    stated = specification.pop("replications", None)
    if stated is not None and (not isinstance(stated, int) or isinstance(stated, bool)):
        raise InputError("must be a whole number", path="specification: replications", value=stated)
    return stated


def extend_cube(old: xr.Dataset, new: xr.Dataset) -> xr.Dataset:
    """Return the cube of both: the replications of `old` as they are, and those of `new`.

    The specifications may differ in `replications` only; the one with more replications is kept, and must state as many
    as the result has, if it states any. Histograms and bins are padded to the larger range. Backends, their devices and
    the versions of packages are those of both.
    Raises InputError naming the first difference: specification, seed, trace, version, axes, variables, or replications
    that both have.
    """
    specifications = [parse_specification(str(cube.attrs["specification"])) for cube in (old, new)]
    stated = [_stated_replications(specification) for specification in specifications]
    difference = first_difference(specifications[0], specifications[1])
    if difference:
        raise InputError(f"the cubes are of different sweeps: {difference}")
    for name in SAME:
        if old.attrs.get(name) != new.attrs.get(name):
            raise InputError(
                f"the cubes are of different sweeps: {name} = {old.attrs.get(name)!r} against {new.attrs.get(name)!r}"
            )
    axes = axis_names(old)
    if axes != axis_names(new) or any(not np.array_equal(old[name], new[name]) for name in axes):
        raise InputError("the cubes have different axes")
    if set(old.data_vars) != set(new.data_vars):
        only = sorted(map(str, set(old.data_vars) ^ set(new.data_vars)))
        raise InputError(f"the cubes have different variables: {', '.join(only)}")
    common = np.intersect1d(old[REPLICATION], new[REPLICATION])
    if len(common):
        raise InputError(f"both cubes have replication {common[0]}")

    numbers = np.union1d(old[REPLICATION], new[REPLICATION])
    coords = {name: old[name].variable for name in axes}
    joined = placed([old, new], coords | {REPLICATION: xr.Variable(REPLICATION, numbers, old[REPLICATION].attrs)})

    total = joined.sizes[REPLICATION]
    longer = 0 if (stated[0] or 0) > (stated[1] or 0) else 1
    if stated[longer] not in (None, total):
        raise InputError(f"the specification states replications = {stated[longer]}, the joined cube has {total}")
    kept = old if longer == 0 else new
    notes = [line for cube in (old, new) for line in str(cube.attrs.get("notes", "")).splitlines()]
    joined.attrs = {
        **new.attrs,
        **{name: kept.attrs[name] for name in kept.attrs if name.startswith("specification")},
        # Who looked to decide when to stop has looked, whatever was added since.
        **{name: old.attrs[name] for name in NARROWED if name in old.attrs},
        "replications": total,
        "notes": "\n".join(dict.fromkeys(notes)),
        **made_by_all([old, new]),
        **({"parts": json.dumps([*parts_of(old), *parts_of(new)])} if "parts" in old.attrs else {}),
    }
    for name in CHECKSUMS:
        joined.attrs.pop(name, None)
    return joined


def parts_of(cube: xr.Dataset) -> list[dict[str, object]]:
    """Return what a cube was joined of, or what it says of itself: when and by what it was made, and what it holds."""
    if "parts" in cube.attrs:
        parts: list[dict[str, object]] = json.loads(str(cube.attrs["parts"]))
        return parts
    numbers = cube[REPLICATION].values.tolist()
    holds = {name: list(map(as_written, cube[name].values.tolist())) for name in axis_names(cube)}
    said = {name: str(cube.attrs[name]) for name in _SAID if name in cube.attrs}
    return [{**said, "holds": {**holds, REPLICATION: [numbers[0], numbers[-1]]}}]


def parts_in_words(cube: xr.Dataset) -> str:
    """Say of how many cubes one was joined, and what each brought that others did not; "" where it was not joined."""
    if "parts" not in cube.attrs:
        return ""
    held: list[dict[str, object]] = [dict(part["holds"]) for part in json.loads(str(cube.attrs["parts"]))]
    alike = {name for name in held[0] if all(holds.get(name) == held[0][name] for holds in held)} if held else set()
    said = [", ".join(f"{name} {_ends(at)}" for name, at in holds.items() if name not in alike) for holds in held]
    brought = "; ".join(printable(one) for one in said if one)
    return f"joined of {counted(len(held), 'cube')}{': ' * bool(brought)}{brought}"


def _ends(values: object) -> str:
    """Return values as they are said: all of a few, else the first and the last."""
    listed = [str(value) for value in values] if isinstance(values, list) else [str(values)]
    if len(listed) > 3:
        return f"{listed[0]} to {listed[-1]}"
    return ", ".join(listed)


def made_by_all(cubes: Sequence[xr.Dataset]) -> dict[str, str]:
    """Return the attributes that say what simulated the points of several cubes."""
    together = {
        name: named_together(str(cube.attrs.get(name, "")) for cube in cubes) for name in ("backend", "backend_device")
    }
    versions = versions_together([json.loads(str(cube.attrs.get("versions", "{}"))) for cube in cubes])
    return {**together, "versions": json.dumps(versions)}


def placed(parts: Sequence[xr.Dataset], coords: Mapping[str, xr.Variable]) -> xr.Dataset:
    """Return the points of all parts in one dataset over `coords`: every axis, and the replications.

    Histograms and bins are padded to the largest range. It has no attributes. One that is too large for memory is read
    from its parts where somebody asks for its values.
    Raises InputError for a variable that some parts lack, for one that differs where parts have the same points, and
    for points that none has.
    """
    rest = _widest(parts, coords)
    values = {dim: variable.values for dim, variable in {**coords, **rest}.items() if variable.dims == (dim,)}
    shared = [dim for dim in values if all(dim in part.dims for part in parts)]
    places = [{dim: _places(part[dim].values, values[dim]) for dim in shared} for part in parts]
    _require_whole(places, coords)
    variables: dict[str, xr.Variable] = {}
    for name in map(str, parts[0].data_vars):
        first = parts[0][name]
        dims = sorted(map(str, first.dims), key=lambda dim: dim not in coords)  # stable
        if any(name not in part or set(part[name].dims) != set(dims) for part in parts):
            raise InputError("is not in all of the cubes", path=name)
        mine = [
            (part[name].variable, {dim: place[dim] for dim in dims}) for part, place in zip(parts, places, strict=True)
        ]
        for one, other in combinations(mine, 2):
            _require_same(name, one, other, [dim for dim in dims if dim in coords])
        missing = REGISTRY[name].missing if name in REGISTRY else np.nan if first.dtype.kind == "f" else 0
        variables[name] = put_together(mine, {dim: values[dim].size for dim in dims}, missing)
    found = xr.Dataset(variables, {**coords, **rest})
    return found.load() if fits(found) else found


def _require_same(name: str, one: Part, other: Part, axes: Sequence[str]) -> None:
    """Raise InputError where two parts of a variable differ at points that both have."""
    shared = {dim: np.intersect1d(one[1][dim], other[1][dim], return_indices=True)[1:] for dim in one[1]}
    if not all(shared[dim][0].size for dim in axes):
        return
    first, second = (
        part.isel({dim: shared[dim][number] for dim in axes}) for number, (part, _) in enumerate((one, other))
    )
    # Beyond the ranges that they share stands nothing.
    sizes = {dim: first.sizes[dim] for dim in axes}
    extra = [dim for dim in one[1] if dim not in axes]
    sizes |= {dim: 1 + int(max(one[1][dim].max(), other[1][dim].max())) for dim in extra}
    missing = REGISTRY[name].missing if name in REGISTRY else np.nan if first.dtype.kind == "f" else 0
    both = [
        put_together([(part, {dim: places[dim] for dim in extra})], sizes, missing)
        for part, places in ((first, one[1]), (second, other[1]))
    ]
    for place, piece in values_of(both[0]):
        beside = both[1].isel(place).transpose(*piece.dims).values
        if not np.array_equal(piece.values, beside, equal_nan=piece.dtype.kind == "f"):
            raise InputError("differs between the cubes at the points that they both have", path=name)


def _places(values: NDArray[np.generic], among: NDArray[np.generic]) -> NDArray[np.intp]:
    known = {value: place for place, value in enumerate(among.tolist())}
    return np.array([known[value] for value in values.tolist()], dtype=np.intp)


def _require_whole(places: Sequence[Mapping[str, NDArray[np.intp]]], coords: Mapping[str, xr.Variable]) -> None:
    """Raise InputError, naming one, where there are points that no part has."""
    known = np.zeros([coord.size for coord in coords.values()], bool)
    for place in places:
        known[np.ix_(*(place[dim] for dim in coords))] = True
    holes = np.argwhere(~known)
    if len(holes):
        at = zip(coords.items(), holes[0].tolist(), strict=True)
        point = ", ".join(f"{dim} = {as_written(coord.values[k].item())}" for (dim, coord), k in at)
        raise InputError(f"none of the cubes has {point}, and together they must have every point of a grid")


def _widest(cubes: Sequence[xr.Dataset], given: Mapping[str, xr.Variable]) -> dict[str, xr.Variable]:
    """Return the coordinates of bins, windows, batch sizes and buckets, over all that any cube has; not those given."""
    rest = {str(name): each.variable for name, each in cubes[0].coords.items() if name not in given}
    for dim in (dim for dim in EXTRA_DIMENSIONS if all(dim in part.dims for part in cubes)):
        first = cubes[0][dim]
        if all(np.array_equal(first, part[dim]) for part in cubes):
            continue
        union = np.unique(np.concatenate([part[dim].values for part in cubes]))
        for name in edge_names(dim) if dim in BUCKETED else ():
            known = {v: e for part in cubes for v, e in zip(part[dim].values, part[name].values, strict=True)}
            rest[name] = xr.Variable(dim, np.array([known[value] for value in union]), rest[name].attrs)
        rest[dim] = xr.Variable(dim, union, first.attrs)
    return rest
