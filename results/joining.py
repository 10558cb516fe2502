"""Cubes of one experiment made one."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from batchcube.errors import InputError

from .cube import CHECKSUMS, axis_names, parse_specification
from .provenance import named_together, versions_together
from .variables import BUCKETED, EXTRA_DIMENSIONS, REGISTRY, REPLICATION, edge_names

# Attributes that must be equal for two cubes to be parts of one experiment.
_SAME = ("batchcube_version", "seed", "input_sha256", "trace_rows_dropped")


def _first_difference(a: object, b: object, path: str = "") -> str | None:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            inner = f"{path}.{key}" if path else str(key)
            if key not in a or key not in b:
                return f"{inner} is set in only one of them"
            found = _first_difference(a[key], b[key], inner)
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
    difference = _first_difference(specifications[0], specifications[1])
    if difference:
        raise InputError(f"the cubes are of different sweeps: {difference}")
    for name in _SAME:
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

    parts = _padded(old, new)
    numbers = np.concatenate([part[REPLICATION].values for part in parts])
    order = np.argsort(numbers)
    coords = {name: part.variable for name, part in parts[0].coords.items()}
    coords[REPLICATION] = xr.Variable(REPLICATION, numbers[order], old[REPLICATION].attrs)
    variables: dict[str, xr.Variable] = {}
    for name in map(str, old.data_vars):
        first, second = (part[name].variable for part in parts)
        if REPLICATION in first.dims:
            at = first.dims.index(REPLICATION)
            both = np.concatenate([first.values, second.transpose(*first.dims).values], axis=at)
            variables[name] = xr.Variable(first.dims, both.take(order, axis=at), old[name].attrs)
        elif not parts[0][name].equals(parts[1][name]):
            raise InputError("differs between the cubes, and is no matter of replications", path=name)
        else:
            variables[name] = first
    joined = xr.Dataset(variables, coords)

    total = joined.sizes[REPLICATION]
    longer = 0 if (stated[0] or 0) > (stated[1] or 0) else 1
    if stated[longer] not in (None, total):
        raise InputError(f"the specification states replications = {stated[longer]}, the joined cube has {total}")
    kept = old if longer == 0 else new
    notes = [line for cube in (old, new) for line in str(cube.attrs.get("notes", "")).splitlines()]
    joined.attrs = {
        **new.attrs,
        **{name: kept.attrs[name] for name in kept.attrs if name.startswith("specification")},
        "replications": total,
        "notes": "\n".join(dict.fromkeys(notes)),
        **_made_by_both(old, new),
    }
    for name in CHECKSUMS:
        joined.attrs.pop(name, None)
    return joined


def _made_by_both(old: xr.Dataset, new: xr.Dataset) -> dict[str, str]:
    """Return the attributes that say what simulated the replications of two cubes."""
    both = {
        name: named_together(str(cube.attrs.get(name, "")) for cube in (old, new))
        for name in ("backend", "backend_device")
    }
    versions = versions_together([json.loads(str(cube.attrs.get("versions", "{}"))) for cube in (old, new)])
    return {**both, "versions": json.dumps(versions)}


def _padded(old: xr.Dataset, new: xr.Dataset) -> list[xr.Dataset]:
    """Return both cubes on the union of their bins, windows, batch sizes and buckets, counts padded with 0."""
    parts = [old, new]
    for dim in EXTRA_DIMENSIONS:
        if dim not in old.dims or np.array_equal(old[dim], new[dim]):
            continue
        union = np.union1d(old[dim], new[dim])
        edges = {}
        if dim in BUCKETED:
            for name in edge_names(dim):
                known = dict(zip(old[dim].values, old[name].values, strict=True))
                known |= dict(zip(new[dim].values, new[name].values, strict=True))
                edges[name] = (dim, np.array([known[value] for value in union]), old[name].attrs)
        fill = {name: variable.missing for name, variable in REGISTRY.items() if name in old}
        parts = [part.drop_vars(list(edges)).reindex({dim: union}, fill_value=fill) for part in parts]
        for index, part in enumerate(parts):
            part[dim].attrs = dict(old[dim].attrs)
            parts[index] = part.assign_coords(edges)
    return parts
