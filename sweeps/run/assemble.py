"""Put the replications of a grid together: the cube of it all."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from batchcube.engine.histogram import bucket_edges, bucket_middles
from batchcube.engine.statistics import QUANTILES
from batchcube.results.cube import Buckets, Coordinate, build_cube
from batchcube.results.provenance import MadeBy, provenance
from batchcube.results.text import in_percent, in_ranges
from batchcube.results.variables import BUCKETED, REGISTRY, REPLICATION

from ..spec import policies
from ..spec import service as coefficients
from ..spec.document import Sweep
from ..spec.grid import Axis, setting_paths
from ..spec.settings import draws_service
from ..theory.expected import Expected
from .parts import CUT, widen
from .preparing import Prepared, calibrated
from .store import Report

_MISSED = "shares over a limit count them as missed, times and their quantiles are of the others"
_MISSING = "are missing: they were in shards that were not merged"
# What the notes say of those who are not served, or not whole, by the variable that counts them.
_NOT_WHOLE = {
    name: f"of the requests {what} (variable {name}): {so}"
    for name, what, so in (
        ("rejected", "could never fit into a replica and were turned away", _MISSED),
        ("unserved", "were left in their bins, in no batch", _MISSED),
        (
            "truncated",
            "had their answers cut by max_model_len",
            "shares over a limit count them as missed, times and their quantiles are of what was answered",
        ),
    )
}


def assemble(
    prepared: Prepared, reports: list[Report], theory: Sequence[Expected], first: int, made_by: Sequence[MadeBy]
) -> xr.Dataset:
    """Build the cube of consecutive replications, each a report (point, ...)."""
    sweep = prepared.sweep
    shape, points, count = sweep.grid.shape, len(prepared.points), len(reports)
    arrays: dict[str, NDArray[Any]] = {}
    offsets: dict[str, int] = {}
    for name in [name for name in reports[0] if not name.endswith("/from")]:
        column = [report.pop(name) for report in reports]
        if name in CUT:
            starts = [int(report[f"{name}/from"]) for report in reports]
            wide, offsets[name] = widen(column, starts)
            full = wide.reshape(count, points, -1)
        else:
            full = np.stack(column)
        del column
        if not REGISTRY[name].replicated:
            arrays[name] = full[0].reshape((*shape, *full.shape[2:]))
        else:
            arrays[name] = np.ascontiguousarray(np.moveaxis(full, 0, 1)).reshape((*shape, count, *full.shape[2:]))
    buckets: dict[str, Buckets] = {}
    for dim in BUCKETED:
        name = f"{dim.removesuffix('_bucket')}_histogram"
        if name in arrays:
            unit = prepared.simulation.CATALOGUE.clock.units_per_s
            arrays[name], buckets[dim] = _bucketed(arrays[name], offsets[name], unit)
    sizes = arrays["batch_size_histogram"]
    arrays["batch_size_histogram"] = np.concatenate(
        [np.zeros((*sizes.shape[:-1], offsets["batch_size_histogram"]), sizes.dtype), sizes], axis=-1
    )
    edges_of = np.full((2, points, prepared.bins), np.nan)
    for k, point in enumerate(prepared.points):
        edges_of[0, k, : len(point.edges) - 1] = point.edges[:-1]
        edges_of[1, k, : len(point.edges) - 1] = point.edges[1:]
    arrays["bin_lower_edge"], arrays["bin_upper_edge"] = edges_of.reshape((2, *shape, prepared.bins))
    effective = np.array([len(point.edges) - 1 for point in prepared.points], np.int64)
    arrays["effective_bins"] = np.repeat(effective[:, None], count, axis=1).reshape((*shape, count))
    arrays["unmeasured_costs"] = prepared.unmeasured_costs.reshape(shape)
    notes = list(prepared.notes)
    notes += _not_whole(arrays)
    if not prepared.simulation.STEPWISE:
        for k, name in enumerate(("throughput_requests_per_s", "throughput_limit_requests_per_s", "latency_s")):
            values = np.array([said[k] for said in theory], np.float64)
            arrays[f"theory_{name}"] = values.reshape(shape)
        if np.nanmax(arrays["extrapolated_batch_fraction"], initial=0.0) > 0:
            notes.append("some batches lie outside the measured table; their times follow the fitted law")
    seconds = {prepared.length == "seconds" for prepared in prepared.points}
    if len(seconds) > 1:
        notes.append("lengths are tokens at some points and seconds at others")
    return with_provenance(
        sweep,
        prepared,
        arrays,
        count,
        made_by,
        notes,
        first_replication=first,
        quantiles=QUANTILES,
        buckets=buckets,
        length_units="s" if seconds == {True} else "tokens",
        classes=prepared.points[0].point.workload.class_names,
    )


def with_provenance(
    sweep: Sweep,
    prepared: Prepared,
    arrays: Mapping[str, NDArray[Any]],
    replications: int,
    made_by: Sequence[MadeBy],
    notes: Sequence[str],
    **options: Any,
) -> xr.Dataset:
    """Build a cube that says where it comes from; `options` are those of `build_cube`.

    The sweep is what the cube is said to be of, and may count more than was prepared.
    """
    attrs = provenance(
        title=sweep.title,
        specification=sweep.text(),
        defaults=sweep.defaults(),
        seed=sweep.seed,
        replications=replications,
        made_by=made_by,
        input_sha256=prepared.input_sha256,
        trace_rows_dropped=prepared.rows_dropped,
        notes=notes,
    )
    laws = calibrated(prepared.points)
    kept = {"service_coefficients": coefficients.record(laws, steps=prepared.simulation.STEPWISE)} if laws else {}
    kept |= policies.record(prepared.point.policy for prepared in prepared.points)
    return build_cube(
        [coordinate_of(axis, sweep) for axis in sweep.grid.axes],
        arrays,
        replications=replications,
        attrs={**attrs, "description": sweep.description, **kept},
        coefficients_drawn=any(draws_service(prepared.point) for prepared in prepared.points),
        **options,
    )


def _not_whole(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return the notes about requests that were not served, or not whole, if there are any."""
    requests = float(arrays["requests"].sum())
    shares = {name: float(arrays[name].sum()) / requests for name in _NOT_WHOLE if name in arrays}
    return [f"{in_percent(share)} {_NOT_WHOLE[name]}" for name, share in shares.items() if share]


def tell_not_whole(cube: xr.Dataset) -> None:
    """Replace the notes of the parts of a cube about requests not served whole by those about them all."""
    notes = str(cube.attrs["notes"]).splitlines()
    said = [number for number, note in enumerate(notes) if note.endswith(tuple(_NOT_WHOLE.values()))]
    if said:
        kept = [note for note in notes if not note.endswith(tuple(_NOT_WHOLE.values()))]
        counts = {name: cube[name].values for name in ("requests", *_NOT_WHOLE) if name in cube}
        cube.attrs["notes"] = "\n".join([*kept[: said[0]], *_not_whole(counts), *kept[said[0] :]])


def tell_missing(cube: xr.Dataset) -> None:
    """Have the notes of a cube say which replications are missing among those that it holds."""
    numbers = cube[REPLICATION].values
    missing = sorted(set(range(int(numbers.max()))) - set(numbers.tolist()))
    notes = [note for note in str(cube.attrs["notes"]).splitlines() if not note.endswith(_MISSING)]
    notes += [f"replications {in_ranges(missing)} {_MISSING}"] if missing else []
    cube.attrs["notes"] = "\n".join(notes)


def _bucketed(counts: NDArray[Any], low: int, units_per_s: int) -> tuple[NDArray[Any], Buckets]:
    """Return a histogram that begins at bucket `low` with the bucket of exact zeros before it, and its buckets."""
    here = np.arange(low, low + counts.shape[-1])
    if low > 0:
        counts = np.concatenate([np.zeros((*counts.shape[:-1], 1), counts.dtype), counts], axis=-1)
        here = np.concatenate([[0], here])
    edges = bucket_edges() / units_per_s
    buckets = Buckets(bucket_middles()[here] / units_per_s, edges[:-1][here], edges[1:][here])
    buckets.upper_s[0] = 0.0
    return counts, buckets


def coordinate_of(axis: Axis, sweep: Sweep) -> Coordinate:
    """Return an axis as the cube labels it."""
    units = "1" if axis.labelled else setting_paths()[axis.paths[0]][0]
    if axis.paths[0].startswith("workload.lengths.") and not axis.labelled and units == "1":
        name = axis.paths[0].rpartition(".")[2]
        in_seconds = all(point.workload.in_seconds for point in sweep.grid.points)
        if name in ("mean", "low", "high", "value"):
            units = "s" if in_seconds else "token"
    return Coordinate(axis.name, list(axis.labels), ",".join(axis.paths), units, axis.long_name, axis.meaning)
