"""What is too large for memory: cubes of arrays that are read later, and gone through piece by piece.

A cube like any other: arrays that are read later are read where somebody asks for their values, each time anew. Whoever
selects, transposes or reduces all of a variable at once needs memory for it, whoever goes through `pieces` does not.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from .disk import MOST_TOGETHER
from .variables import LENGTH_UNITS, REPLICATION

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Key = tuple[int | slice, ...]

MOST_BYTES = 2**26
"""Of a piece. What is computed from one takes several times as much."""
_SMALLEST_CHUNK, LARGEST_CHUNK = 2**16, 2**20
_PART = 4
"""Pieces of several variables at once are of fewer points."""


def cut(shape: Sequence[int], bytes_each: int, most_bytes: int) -> tuple[int, ...]:
    """Return how large the pieces of an array are, of so many bytes at most: its last dimensions as whole as can be."""
    sizes = list(shape)
    for dim in range(len(sizes)):
        rest = math.prod(sizes[dim + 1 :]) * bytes_each
        sizes[dim] = max(1, min(sizes[dim], most_bytes // max(rest, 1)))
    return tuple(sizes)


def pieces(
    sizes: Mapping[Hashable, int], bytes_each: int, *, chunks: Mapping[Hashable, int] | None = None
) -> Iterator[dict[Hashable, slice]]:
    """Yield slices of dimensions that cover them, one after the other in the order in which arrays have their elements.

    `bytes_each` is what one place of these dimensions takes; a piece takes `MOST_BYTES` at most, if it is more than one
    place. Where they can, pieces end where `chunks`, that lie together in a file, do.
    """
    slices = []
    for (dim, size), step in zip(sizes.items(), cut(tuple(sizes.values()), bytes_each, MOST_BYTES), strict=True):
        chunk = (chunks or {}).get(dim, 1)
        aligned = step // chunk * chunk if chunk <= step < size else step
        slices.append([slice(start, min(start + aligned, size)) for start in range(0, max(size, 1), aligned)])
    for places in itertools.product(*slices):
        yield dict(zip(sizes, places, strict=True))


def together(dataset: xr.Dataset) -> int:
    """Return how many replications of a dataset are written together: a piece of each variable, and not too many."""
    count = dataset.sizes.get(REPLICATION, 1)
    bytes_of = [variable.nbytes for variable in dataset.variables.values() if REPLICATION in variable.dims]
    largest, all_of_it = max(bytes_of, default=1), max(sum(bytes_of), 1)
    return max(1, min(count, MOST_BYTES * count // max(largest, 1), MOST_TOGETHER * count // all_of_it))


def chunks(variable: xr.Variable, at_once: int) -> tuple[int, ...]:
    """Return in which chunks a file has a variable, of which so many replications are written at once.

    Each is of replications that are written at once. All replications of the points of a chunk are a `_PART`th of a
    piece.
    """
    sizes = dict(variable.sizes)
    most_bytes = LARGEST_CHUNK
    if REPLICATION in sizes:
        most_bytes = min(most_bytes, max(_SMALLEST_CHUNK, MOST_BYTES // _PART * at_once // max(sizes[REPLICATION], 1)))
        sizes[REPLICATION] = at_once
    return cut([sizes[dim] for dim in variable.dims], variable.dtype.itemsize, most_bytes)


def values_of(variable: xr.Variable) -> Iterator[tuple[dict[Hashable, slice], xr.Variable]]:
    """Yield a variable piece by piece in memory, each with its place: replications are first, before all dimensions.

    So each replication is whole before the next begins, and whoever has them one after the other has the same pieces'
    elements in the same order.
    """
    sizes: dict[Hashable, int] = dict(variable.sizes)
    if REPLICATION in sizes:
        sizes = {REPLICATION: sizes.pop(REPLICATION), **sizes}
    for place in pieces(sizes, variable.dtype.itemsize, chunks=variable.encoding.get("preferred_chunks", {})):
        piece = variable if variable.nbytes <= MOST_BYTES else variable.isel(place)
        yield place, xr.Variable(variable.dims, piece.values).transpose(*sizes)


def points_of(
    cube: xr.Dataset, names: Iterable[str], axes: Sequence[str]
) -> Iterator[tuple[tuple[slice, ...], xr.Dataset]]:
    """Yield some variables of a cube, points by points in memory, each time with the places on these axes."""
    chosen = cube[[name for name in names if name in cube]]
    sizes: dict[Hashable, int] = {name: cube.sizes[name] for name in axes}
    points = math.prod(sizes.values())
    each = sum(8 * variable.size for variable in chosen.data_vars.values()) // max(points, 1)
    largest = max(chosen.data_vars.values(), key=lambda variable: variable.size)
    for place in pieces(sizes, each, chunks=largest.encoding.get("preferred_chunks")):
        yield tuple(place.values()), chosen.isel(place).compute()


def any_of(array: xr.DataArray, holds: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> bool:
    """Say whether any value of an array is such that this `holds`."""
    return any(bool(holds(piece.values).any()) for _, piece in values_of(array.variable))


def has_values(array: xr.DataArray) -> bool:
    """Say whether an array holds anything but NaN."""
    return any_of(array, lambda values: ~np.isnan(values) if values.dtype.kind == "f" else np.ones(values.shape, bool))


def read_later(like: xr.Variable, read: Callable[[Key], NDArray[Any]]) -> xr.Variable:
    """Return a variable like another one, whose values are what is read, each time that somebody asks for them.

    `read` takes a number or slice for each dimension.
    """
    return xr.Variable(
        like.dims, indexing.LazilyIndexedArray(_ReadLater(like.shape, like.dtype, read)), like.attrs, like.encoding
    )


def put_together(
    parts: Sequence[tuple[xr.Variable, Mapping[str, NDArray[np.intp]]]], sizes: Mapping[str, int], missing: object
) -> xr.Variable:
    """Return a variable that is made of parts when it is read, with what stands for nothing where there is none.

    `sizes` are those of its dimensions, in order, which all parts have. With each part comes where its values belong on
    those dimensions of which it has but some, or has them in another order. Of parts that overlap the last one counts.
    """
    first = parts[0][0]
    dims = tuple(sizes)
    among = [
        {dim: _inverse(places[dim], sizes[dim]) if dim in places else np.arange(sizes[dim]) for dim in dims}
        for _, places in parts
    ]

    def read(key: Key) -> NDArray[Any]:
        wanted = {dim: np.atleast_1d(np.arange(sizes[dim])[at]) for dim, at in zip(dims, key, strict=True)}
        found = np.full([len(places) for places in wanted.values()], missing, first.dtype)
        for (variable, _), known in zip(parts, among, strict=True):
            mine = {dim: known[dim][places] for dim, places in wanted.items()}
            if all((places >= 0).any() for places in mine.values()):
                at = np.ix_(*(np.flatnonzero(places >= 0) for places in mine.values()))
                some = variable.isel({dim: _as_slice(places[places >= 0]) for dim, places in mine.items()})
                found[at] = some.transpose(*dims).values
        return found[tuple(0 if isinstance(at, int | np.integer) else slice(None) for at in key)]

    whole = np.broadcast_to(np.zeros((), first.dtype), tuple(sizes.values()))
    return read_later(xr.Variable(dims, whole, _of_all([variable.attrs for variable, _ in parts])), read)


def _of_all(attrs: Sequence[Mapping[Any, Any]]) -> dict[Any, Any]:
    """Return what the parts of a variable say of it, the first of them first; units are those of all."""
    said = {name: value for one in reversed(attrs) for name, value in one.items()}
    units = {one.get("units") for one in attrs}
    return said if len(units) == 1 else {**said, "units": LENGTH_UNITS}


def _inverse(places: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Return which value of a part lies at each of so many places, -1 where none does."""
    found = np.full(size, -1)
    found[places] = np.arange(len(places))
    return found


def _as_slice(places: NDArray[np.intp]) -> NDArray[np.intp] | slice:
    """Return places as a slice where they follow each other: files are read faster so."""
    if len(places) and (np.diff(places) == 1).all():
        return slice(int(places[0]), int(places[-1]) + 1)
    return places


class Kept:
    """Keeps variables that were read in memory, the last ones that somebody asked for, of so many bytes at most."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes, self._held = most_bytes, 0
        self._arrays: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()

    def whole(self, name: Hashable, variable: xr.Variable) -> NDArray[Any] | None:
        """Return the values of a variable, read if they are not kept; None where it is more than a piece.

        They are not to be changed.
        """
        if (found := self._arrays.get(name)) is not None:
            self._arrays.move_to_end(name)
        elif variable.nbytes <= min(MOST_BYTES, self._most_bytes):
            found = self._arrays[name] = np.asarray(variable.values)
            self._held += found.nbytes
            while self._held > self._most_bytes:
                _, gone = self._arrays.popitem(last=False)
                self._held -= gone.nbytes
        return found


class _ReadLater(BackendArray):
    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], read: Callable[[Key], NDArray[Any]]) -> None:
        self.shape, self.dtype, self._read = shape, dtype, read

    def __getitem__(self, key: indexing.ExplicitIndexer) -> NDArray[Any]:
        found: NDArray[Any] = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self._read
        )
        return found
