"""Statistics over replications by named dimensions: the functions of `statistics` on cubes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import xarray as xr

from batchcube.errors import InputError

from . import controls as controlled
from . import statistics
from .pieces import pieces
from .precision import level
from .variables import FIRST_LOOK, REGISTRY, RELATIVE_ERROR, REPLICATION, SINGLE, edge_names

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence


class _Kind(TypedDict):
    """What kind of interval a variable has."""

    confidence: float
    single: bool
    error: float


def mean_interval(
    da: xr.DataArray,
    dim: str = REPLICATION,
    confidence: float = 0.95,
    controls: Sequence[xr.DataArray] = (),
) -> xr.Dataset:
    """Return mean, low, high and n over `dim`; without that dimension the value itself, n = 1 and a NaN interval.

    With `controls`, those of the cube (`controls.held`), without what they explain, and `narrowed`, the width over that
    of the plain interval.

    The interval of a registered variable is clipped to the values that variable can have. Where a cube drew its
    coefficients anew for every replication, here and below, intervals are those of a single replication; where a search
    found the values, they are widened by its tolerance; where replications were added until intervals were narrow, they
    are at the level that has the confidence at that moment (`precision`).
    """
    interval = controlled.mean_interval if controls else statistics.mean_interval
    apply = partial(interval, bounds=_bounds_of(da), **_kind_of(da, confidence))
    return _reduced("mean", apply, [da, *controls], dim, _attrs(da))


def paired_difference(
    da: xr.DataArray,
    along: str,
    baseline: object,
    dim: str = REPLICATION,
    confidence: float = 0.95,
    controls: Sequence[xr.DataArray] = (),
) -> xr.Dataset:
    """Return the difference to the baseline coordinate along an axis, low, high and n, paired by replication.

    The baseline itself is left out of the result. `controls` are those of `mean_interval`. InputError when there is no
    such axis or coordinate.
    """
    parts = [part for of in (da, *controls) for part in _against(of, along, baseline)]
    attrs = _attrs(da) | {"baseline": f"{along} = {baseline}"}
    apply: Callable[..., statistics.Interval | controlled.Controlled]
    apply = partial(statistics.paired_difference, **_kind_of(da, confidence))
    if controls:
        apply = partial(controlled.paired_difference, bounds=_bounds_of(da), **_kind_of(da, confidence))
    return _reduced("difference", apply, parts, dim, attrs)


def difference_of(one: xr.DataArray, other: xr.DataArray, confidence: float = 0.95) -> statistics.Interval:
    """Return the difference of a variable at two points, each (replication,), paired by replication."""
    return statistics.paired_difference(one.values, other.values, **_kind_of(one, confidence))


def paired_ratio(
    da: xr.DataArray, along: str, baseline: object, dim: str = REPLICATION, confidence: float = 0.95
) -> xr.Dataset:
    """Return the ratio of means to the baseline coordinate along an axis, low, high and n, paired by replication.

    The baseline itself is left out of the result. InputError when there is no such axis or coordinate.
    """
    others, reference = _against(da, along, baseline)
    attrs = _attrs(da) | {"units": "1", "baseline": f"{along} = {baseline}"}
    apply = partial(statistics.paired_ratio, **_kind_of(da, confidence))
    return _reduced("ratio", apply, [others, reference], dim, attrs)


def pooled_quantile(
    cube: xr.Dataset, q: float, dim: str = REPLICATION, confidence: float = 0.95, name: str = "latency_histogram"
) -> xr.Dataset:
    """Return the latency quantile of all requests of all replications, low, high and n, from the histograms of a cube.

    `name` is that of the histogram of another time. The attribute `relative_error` states what the buckets allow.
    InputError when the cube holds no histograms.
    """
    if name not in cube:
        raise InputError("the cube holds none (report.histograms was false)", path=name)
    counts = cube[name]
    (bucket,) = REGISTRY[name].extra
    middle, lower, upper = (cube[edge].values for edge in (bucket, *edge_names(bucket)))
    order = [other for other in counts.dims if other not in (dim, bucket)]
    apply = partial(
        statistics.pooled_quantile,
        representative=middle,
        lower=lower,
        upper=upper,
        q=q,
        confidence=level_of(counts, confidence),
        single=of_single(counts),
    )
    found = _by_pieces(apply, [counts.variable], [*order, dim, bucket], within=2)
    attrs = {
        "units": "s",
        "long_name": f"{100 * q:g} % quantile of the latency of all requests",
        "relative_error": statistics.bucket_error(middle, lower, upper),
    }
    return _dataset("quantile", found, order, counts, attrs)


def of_single(da: xr.DataArray) -> bool:
    """Say whether the intervals of a variable are those of a single replication; see `statistics`."""
    return bool(da.attrs.get("interval_of", "") == SINGLE)


def error_of(da: xr.DataArray) -> float:
    """Return the largest relative error of a variable's values: half of the tolerance of a search, 0 of the others."""
    return float(da.attrs.get(RELATIVE_ERROR, 0.0))


def level_of(da: xr.DataArray, confidence: float = 0.95) -> float:
    """Return the level at which intervals of a variable have a confidence: above it where looks said when to stop."""
    return level(int(da.attrs[FIRST_LOOK]), confidence) if FIRST_LOOK in da.attrs else confidence


def _kind_of(da: xr.DataArray, confidence: float) -> _Kind:
    return {"confidence": level_of(da, confidence), "single": of_single(da), "error": error_of(da)}


def _bounds_of(da: xr.DataArray) -> tuple[float, float]:
    variable = REGISTRY.get(str(da.name))
    return variable.bounds if variable else (-np.inf, np.inf)


def _against(da: xr.DataArray, along: str, baseline: object) -> tuple[xr.DataArray, xr.DataArray]:
    if along not in da.dims or along not in da.coords:
        raise InputError(f"is no axis of {da.name}; its dimensions are {', '.join(map(str, da.dims))}", path=along)
    labels = da[along].values.tolist()
    if baseline not in labels:
        raise InputError(f"no such point; the axis has {', '.join(map(str, labels))}", path=along, value=baseline)
    at = labels.index(baseline)
    return da.isel({along: [i for i in range(len(labels)) if i != at]}), da.isel({along: at}, drop=True)


def _attrs(da: xr.DataArray) -> dict[str, object]:
    return {str(key): da.attrs[key] for key in ("units", "long_name") if key in da.attrs}


def _reduced(
    label: str,
    apply: Callable[..., statistics.Interval | controlled.Controlled],
    parts: list[xr.DataArray],
    dim: str,
    attrs: Mapping[str, object],
) -> xr.Dataset:
    order = [name for name in parts[0].dims if name != dim]
    return _dataset(label, _by_pieces(apply, [part.variable for part in parts], [*order, dim]), order, parts[0], attrs)


def _by_pieces(
    apply: Callable[..., statistics.Interval | controlled.Controlled],
    parts: Sequence[xr.Variable],
    order: Sequence[Hashable],
    within: int = 1,
) -> statistics.Interval | controlled.Controlled:
    """Return what is found of variables whose dimensions are brought into an order, with some of them in memory.

    The last `within` dimensions are reduced, by what is applied, and never cut.
    """
    sizes = {dim: max(part.sizes.get(dim, 1) for part in parts) for dim in order}
    kept = {dim: sizes[dim] for dim in order[: len(order) - within]}
    each = 8 * int(np.prod([sizes[dim] for dim in order[len(order) - within :]], dtype=np.int64))
    found = None
    for place in pieces(kept, each, chunks=parts[0].encoding.get("preferred_chunks")):
        shape = {dim: place[dim].stop - place[dim].start if dim in place else size for dim, size in sizes.items()}
        arrays = []
        for part in parts:
            here = part.isel({dim: at for dim, at in place.items() if dim in part.dims})
            absent = {dim: size for dim, size in shape.items() if dim not in here.dims}
            laid_out = xr.DataArray(here.values, dims=here.dims).expand_dims(absent).transpose(*order)
            # Sums depend on how arrays lie in memory: not on where they were cut.
            arrays.append(np.ascontiguousarray(laid_out.values))
        some = apply(*arrays)
        found = found or some._replace(
            **{name: np.empty(tuple(kept.values()), piece.dtype) for name, piece in some._asdict().items()}
        )
        for whole, piece in zip(found, some, strict=True):
            whole[tuple(place.values())] = piece
    assert found is not None  # there is at least one piece
    return found


def _dataset(
    label: str,
    found: statistics.Interval | controlled.Controlled,
    dims: Sequence[Hashable],
    like: xr.DataArray,
    attrs: Mapping[str, object],
) -> xr.Dataset:
    values = {label if name == "estimate" else name: value for name, value in found._asdict().items()}
    coords = {name: coord for name, coord in like.coords.items() if set(coord.dims) <= set(dims)}
    result = xr.Dataset({name: (dims, np.asarray(value)) for name, value in values.items()}, coords)
    for name in (label, "low", "high"):
        result[name].attrs = dict(attrs)
    result["n"].attrs = {"units": "count", "long_name": "replications used"}
    if "narrowed" in result:
        result["narrowed"].attrs = {"units": "1", "long_name": "width over that of the plain interval"}
    return result
