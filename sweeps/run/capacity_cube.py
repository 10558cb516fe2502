"""The cube of capacities: what every search came to, and what is said of those without an answer."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from batchcube.results.provenance import MadeBy
from batchcube.results.text import in_percent
from batchcube.results.variables import MANY_REFUSED, RELATIVE_ERROR

from ..spec.document import Sweep
from ..spec.grid import where
from .assemble import with_provenance
from .searching import Answer, Searches


def capacity_cube(sweep: Sweep, searches: Searches, made_by: Sequence[MadeBy]) -> xr.Dataset:
    """Build the cube of searches that all have their answers."""
    prepared, settings = searches.prepared, searches.settings
    shape, replications = sweep.grid.shape, sweep.replications
    table = [[searches.answers[k, r] for r in range(replications)] for k in range(len(prepared.points))]
    arrays = {
        "capacity_requests_per_s": np.array([[answer.rate for answer in row] for row in table]),
        "capacity_held_requests_per_s": np.array([[answer.found.held for answer in row] for row in table]),
        "capacity_unbracketed": np.array([[answer.found.unbracketed for answer in row] for row in table], np.int64),
        "capacity_statistic": np.array([[answer.statistic for answer in row] for row in table]),
        "capacity_served_requests_per_s": np.array([[answer.served for answer in row] for row in table]),
    }
    ended_by = np.array([row[0].ended_by for row in table], np.int64).reshape(shape)
    unanswered = _unanswered(sweep, table)
    notes = [*prepared.notes, *unanswered, *_wavering(sweep, table), *_never_full(sweep, searches, table)]
    missed = max(answer.missed for row in table for answer in row)
    if missed:
        notes.append(
            f"up to {in_percent(missed)} of a replication's requests were never served (turned away, or left in a "
            "bin), or had their answers cut off: shares count them as missed, times as late for ever; means are of the "
            f"others, and hold no limit where more than {in_percent(MANY_REFUSED)} were turned away or cut off"
        )
    visited = [answer for row in table for answer in row]
    in_range = settings.low is not None and settings.high is not None
    every = {name: array.reshape((*shape, replications)) for name, array in arrays.items()}
    flags = {"unmeasured_costs": prepared.unmeasured_costs.reshape(shape), "capacity_ended_by": ended_by}
    cube = with_provenance(sweep, prepared, flags | every, replications, made_by, notes)
    cube.attrs |= {
        "capacity_criteria": json.dumps([criterion._asdict() for criterion in settings.criteria]),
        "capacity_low_per_s": min(a.lowest for a in visited) if settings.low is None else settings.low,
        "capacity_high_per_s": max(a.highest for a in visited) if settings.high is None else settings.high,
        "capacity_tolerance": settings.tolerance,
        "capacity_growth": settings.growth,
        # Otherwise both ends are the rates that the search came to by itself.
        "capacity_range_given": int(in_range),
        "capacity_notes_unanswered": "\n".join(unanswered),
    }
    # All searches narrow down alike, so that their answers may be off alike: intervals are widened by it.
    errors = [answer.found.relative_error for row in table for answer in row if not answer.found.unbracketed]
    cube["capacity_requests_per_s"].attrs[RELATIVE_ERROR] = max(errors, default=0.0)
    cube["capacity_statistic"].attrs["units"] = settings.criteria[0].unit
    cube["capacity_ended_by"].attrs |= {
        "flag_values": np.arange(-1, len(settings.criteria) + 1),
        "flag_meanings": " ".join(["none", *(criterion.name for criterion in settings.criteria), "overload"]),
    }
    cube["capacity_unbracketed"].attrs |= {
        "flag_values": np.array([-1, 0, 1, 2], np.int64),
        "flag_meanings": "misses_at_the_lowest_rate found meets_at_the_highest_rate runs_too_short_to_tell",
    }
    return cube


def _unanswered(sweep: Sweep, table: Sequence[Sequence[Answer]]) -> list[str]:
    """Say which points have no answer, and why."""
    places: dict[str, list[int]] = {}
    for k, row in enumerate(table):
        for flag, what in (
            (-1, "the criteria are missed already at {}/s, the lowest rate tried"),
            (1, "the criteria still hold at {}/s, the highest rate tried"),
            (2, "at {}/s the criteria hold, and the backlog grows all the same: take more workload.requests"),
        ):
            if row[0].found.unbracketed == flag:
                places.setdefault(what.format(f"{row[0].found.edge:.6g}"), []).append(k)
    return _with_places(sweep, places)


def _wavering(sweep: Sweep, table: Sequence[Sequence[Answer]]) -> list[str]:
    """Say where there may be several answers."""
    places = [k for k, row in enumerate(table) if not row[0].monotone]
    text = "the criteria hold again above a rate at which they fail: the capacity is one crossing of several"
    return _with_places(sweep, {text: places}) if places else []


def _never_full(sweep: Sweep, searches: Searches, table: Sequence[Sequence[Answer]]) -> list[str]:
    """Say at which points overload was to end the search, and no rate was found that is too much for the servers."""
    if searches.settings.growth >= 1.0:
        return []
    finite = [point.point.server.servers != "infinite" for point in searches.prepared.points]
    places = [k for k, row in enumerate(table) if finite[k] and not np.isfinite(row[0].served)]
    text = "too few requests to see what the servers can do: overload does not end the search"
    return _with_places(sweep, {text: places}) if places else []


def _with_places(sweep: Sweep, places: Mapping[str, Sequence[int]]) -> list[str]:
    """Return notes with the points that each is true of, given by their numbers."""
    if not sweep.grid.axes:
        return list(places)
    at = [where(sweep.grid.axes, position) for position in np.ndindex(sweep.grid.shape)]
    return [
        f"{text} ({'every point' if len(points) == len(at) else 'at ' + '; '.join(at[k] for k in points)})"
        for text, points in places.items()
    ]
