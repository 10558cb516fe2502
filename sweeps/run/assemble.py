"""Put the replications of a grid together: the cube of it all."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from batchcube.engine.histogram import bucket_edges, bucket_middles
from batchcube.engine.statistics import QUANTILES
from batchcube.results.build import Buckets, Coordinate, build_cube
from batchcube.results.cube import fits
from batchcube.results.pieces import read_later, values_of
from batchcube.results.provenance import MadeBy, provenance
from batchcube.results.text import in_percent, in_ranges
from batchcube.results.unserved import AMONG
from batchcube.results.variables import BUCKETED, LENGTH_UNITS, REGISTRY, REPLICATION

from ..spec import policies
from ..spec import service as coefficients
from ..spec.document import Sweep
from ..spec.grid import Axis, setting_paths
from ..spec.settings import draws_service
from ..theory.expected import Expected
from .parts import CUT, used, widen
from .preparing import Prepared, calibrated
from .reports import SUMMED, Reports

Arrays = dict[str, NDArray[Any] | xr.Variable]
_MISSED = "shares over a limit count them as missed, times and their quantiles are of the others"
_MISSING = "are missing: they were in shards that were not merged"
_ADDED = " adds them"
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


def assemble(prepared: Prepared, reports: Reports, theory: Sequence[Expected], made_by: Sequence[MadeBy]) -> xr.Dataset:
    """Build the cube of replications; reports that are in memory go into it.

    Where they are not, it is read from their files when somebody asks for values, unless it fits into memory.
    """
    sweep, numbers = prepared.sweep, sorted(reports)
    shape, points, count = sweep.grid.shape, len(prepared.points), len(numbers)
    reports.forget()
    later = not reports.are_held
    arrays, offsets = (_later if later else _stacked)(prepared, reports, numbers)
    buckets: dict[str, Buckets] = {}
    for dim in BUCKETED:
        name = f"{dim.removesuffix('_bucket')}_histogram"
        if name in arrays:
            unit = prepared.simulation.CATALOGUE.clock.units_per_s
            buckets[dim] = _buckets(offsets[name], arrays[name].shape[-1], unit)
    edges_of = np.full((2, points, prepared.bins), np.nan)
    for k, point in enumerate(prepared.points):
        edges_of[0, k, : len(point.edges) - 1] = point.edges[:-1]
        edges_of[1, k, : len(point.edges) - 1] = point.edges[1:]
    arrays["bin_lower_edge"], arrays["bin_upper_edge"] = edges_of.reshape((2, *shape, prepared.bins))
    effective = np.array([len(point.edges) - 1 for point in prepared.points], np.int64)
    bins = np.broadcast_to(effective.reshape((*shape, 1)), (*shape, count))
    arrays["effective_bins"] = bins if later else bins.copy()
    arrays["unmeasured_costs"] = prepared.unmeasured_costs.reshape(shape)
    notes = list(prepared.notes)
    notes += _not_whole(reports.sums)
    if not prepared.simulation.STEPWISE:
        for k, name in enumerate(("throughput_requests_per_s", "throughput_limit_requests_per_s", "latency_s")):
            values = np.array([said[k] for said in theory], np.float64)
            arrays[f"theory_{name}"] = values.reshape(shape)
        if reports.extrapolated > 0:
            notes.append("some batches lie outside the measured table; their times follow the fitted law")
    cube = with_provenance(
        sweep,
        prepared,
        arrays,
        count,
        made_by,
        notes,
        quantiles=QUANTILES,
        buckets=buckets,
        length_units=_length_units(sweep),
        classes=prepared.points[0].point.workload.class_names,
    )
    # Some may be missing between those that there are.
    cube = cube.assign_coords({REPLICATION: (REPLICATION, np.array(numbers), cube[REPLICATION].attrs)})
    return cube.load() if later and fits(cube) else cube


def _stacked(prepared: Prepared, reports: Reports, numbers: Sequence[int]) -> tuple[Arrays, dict[str, int]]:
    """Return the arrays (*axes, replication, ...) of reports in memory, and from where on histograms are used."""
    shape, points, count = prepared.sweep.grid.shape, len(prepared.points), len(numbers)
    taken = reports.taken(numbers)
    arrays: Arrays = {}
    offsets: dict[str, int] = {}
    for name in [name for name in taken[0] if not name.endswith("/from")]:
        column = [report.pop(name) for report in taken]
        if name in CUT:
            wide, low = widen(column, [int(report[f"{name}/from"]) for report in taken])
            before = np.zeros((len(wide), _places_before(low, name)), wide.dtype)
            full, offsets[name] = np.concatenate([before, wide], axis=1).reshape(count, points, -1), low
        else:
            full = np.stack(column)
        del column
        if not REGISTRY[name].replicated:
            arrays[name] = full[0].reshape((*shape, *full.shape[2:]))
        else:
            arrays[name] = np.ascontiguousarray(np.moveaxis(full, 0, 1)).reshape((*shape, count, *full.shape[2:]))
    return arrays, offsets


def _later(prepared: Prepared, reports: Reports, numbers: Sequence[int]) -> tuple[Arrays, dict[str, int]]:
    """Return the same of reports in files, as variables that are read when somebody asks for their values."""
    axes, shape = [axis.name for axis in prepared.sweep.grid.axes], prepared.sweep.grid.shape
    first = reports[numbers[0]]
    arrays: Arrays = {}
    offsets: dict[str, int] = {}
    for name in [name for name in first if not name.endswith("/from")]:
        registered, tail = REGISTRY[name], first[name].shape[1:]
        if not registered.replicated:
            arrays[name] = first[name].reshape((*shape, *tail))
            continue
        if name in CUT:
            low, high = reports.spans.get(name, (0, 1))
            offsets[name], tail = low, (_places_before(low, name) + high - low,)
        full = (*shape, len(numbers), *tail)
        like = xr.Variable(registered.dims(axes), np.broadcast_to(np.zeros((), registered.dtype), full))
        arrays[name] = read_later(like, partial(_read, name, reports, numbers, shape, tail, offsets.get(name, 0)))
    return arrays, offsets


def _read(
    name: str,
    reports: Reports,
    numbers: Sequence[int],
    shape: tuple[int, ...],
    tail: tuple[int, ...],
    low: int,
    key: tuple[int | slice, ...],
) -> NDArray[Any]:
    """Return what is asked for of a variable (*shape, replication, *tail), replication after replication."""
    chosen = key[len(shape)]
    places = np.arange(len(numbers))[chosen]
    if not places.size:
        return np.broadcast_to(np.zeros((), REGISTRY[name].dtype), (*shape, len(numbers), *tail))[key]
    rest = (*key[: len(shape)], *key[len(shape) + 1 :])
    found = []
    for place in np.atleast_1d(places).tolist():
        report = reports[numbers[place]]
        values = report[name]
        if name in CUT:
            values, span = np.zeros((len(values), *tail), values.dtype), used(report, name)
            if span is not None:
                start, size = span[0] - low + _places_before(low, name), span[1] - span[0]
                begun = span[0] - int(report[f"{name}/from"])
                values[:, start : start + size] = report[name][:, begun : begun + size]
        found.append(values.reshape((*shape, *tail))[rest])
    if isinstance(chosen, int | np.integer):
        return found[0]
    axis = sum(isinstance(at, slice) for at in key[: len(shape)])
    return np.stack(found, axis).astype(REGISTRY[name].dtype, copy=False)


def _places_before(low: int, name: str) -> int:
    """Return how many places stand before the first one used: sizes of batches begin at 0, buckets have that of 0."""
    return low if name == "batch_size_histogram" else min(low, 1)


def with_provenance(
    sweep: Sweep,
    prepared: Prepared,
    arrays: Mapping[str, NDArray[Any] | xr.Variable],
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


def _not_whole(sums: Mapping[str, int]) -> list[str]:
    """Return the notes about requests that were not served, or not whole, if there are any."""
    shares = {name: sums[name] / max(sum(sums[of] for of in AMONG[name]), 1) for name in _NOT_WHOLE if name in sums}
    return [f"{in_percent(share)} {_NOT_WHOLE[name]}" for name, share in shares.items() if share]


def tell_not_whole(cube: xr.Dataset, parts: Sequence[xr.Dataset] = (), sums: Mapping[str, int] | None = None) -> None:
    """Replace the notes of the parts of a cube about requests not served whole by those about them all.

    These are the requests of some `parts` and those that `sums` counts, of the cube when there is neither.
    """
    notes = str(cube.attrs["notes"]).splitlines()
    said = [number for number, note in enumerate(notes) if note.endswith(tuple(_NOT_WHOLE.values()))]
    if said:
        kept = [note for note in notes if not note.endswith(tuple(_NOT_WHOLE.values()))]
        counts = Counter(sums or {})
        for part in parts or [cube]:
            for name in (name for name in SUMMED if name in part):
                counts[name] += sum(int(piece.values.sum()) for _, piece in values_of(part[name].variable))
        cube.attrs["notes"] = "\n".join([*kept[: said[0]], *_not_whole(counts), *kept[said[0] :]])


def tell_missing(cube: xr.Dataset, wanted: int = 0, without: str = "", command: str = "") -> None:
    """Have the notes of a cube say which replications are missing among those that it holds, or of all `wanted`.

    Of all that were wanted, they say `without` which shards it is, and the command that adds them.
    """
    numbers = cube[REPLICATION].values
    missing = sorted(set(range(max(int(numbers.max()), wanted))) - set(numbers.tolist()))
    notes = [note for note in str(cube.attrs["notes"]).splitlines() if not note.endswith((_MISSING, _ADDED))]
    if missing and without:
        are = f"{len(numbers)} of {wanted} replications, without {in_ranges(missing)}"
        notes.append(f"{are}: {without} missing; {command}{_ADDED}")
    elif missing:
        notes.append(f"replications {in_ranges(missing)} {_MISSING}")
    cube.attrs["notes"] = "\n".join(notes)


def _buckets(low: int, size: int, units_per_s: int) -> Buckets:
    """Return the buckets of a histogram of so many places, used from bucket `low` on: that of 0 stands before."""
    here = np.arange(size) + max(low - 1, 0)
    here[0] = 0
    edges = bucket_edges() / units_per_s
    buckets = Buckets(bucket_middles()[here] / units_per_s, edges[:-1][here], edges[1:][here])
    buckets.upper_s[0] = 0.0
    return buckets


def coordinate_of(axis: Axis, sweep: Sweep) -> Coordinate:
    """Return an axis as the cube labels it."""
    units = "1" if axis.labelled else setting_paths()[axis.paths[0]][0]
    if not axis.labelled and units == "1" and axis.paths[0].startswith("workload.lengths."):
        name = axis.paths[0].rpartition(".")[2]
        if name in ("mean", "low", "high", "value"):
            units = _length_units(sweep)
    return Coordinate(axis.name, list(axis.labels), ",".join(axis.paths), units, axis.long_name, axis.meaning)


def _length_units(sweep: Sweep) -> str:
    """Return the unit of the lengths of requests, both where points differ."""
    units = {"s" if point.workload.in_seconds else "tokens" for point in sweep.grid.points}
    return units.pop() if len(units) == 1 else LENGTH_UNITS
