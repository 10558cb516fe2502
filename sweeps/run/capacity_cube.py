"""The cube of capacities: what every search came to, and what is said of those without an answer."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from batchcube.results.provenance import MadeBy
from batchcube.results.summary import MANY_REFUSED
from batchcube.results.variables import RELATIVE_ERROR

from ..spec.document import Sweep
from ..spec.grid import where
from .assemble import in_percent, with_provenance
from .searching import Answer, Searches


def capacity_cube(sweep: Sweep, searches: Searches, made_by: Sequence[MadeBy]) -> xr.Dataset:
    """Build the cube of searches that all have their answers."""
    plan, settings = searches.plan, searches.settings
    shape, replications = sweep.grid.shape, sweep.replications
    table = [[searches.answers[k, r] for r in range(replications)] for k in range(len(plan.points))]
    arrays = {
        "capacity_requests_per_s": np.array([[answer.found.rate for answer in row] for row in table]),
        "capacity_held_requests_per_s": np.array([[answer.found.held for answer in row] for row in table]),
        "capacity_unbracketed": np.array([[answer.found.unbracketed for answer in row] for row in table], np.int64),
        "capacity_statistic": np.array([[answer.statistic for answer in row] for row in table]),
    }
    unanswered = _unanswered(sweep, table)
    notes = [*plan.notes, *unanswered, *_wavering(sweep, table)]
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
    flags = {"unmeasured_costs": plan.unmeasured_costs.reshape(shape)}
    cube = with_provenance(sweep, plan, flags | every, replications, made_by, notes)
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
    cube["capacity_unbracketed"].attrs |= {
        "flag_values": np.array([-1, 0, 1], np.int64),
        "flag_meanings": "misses_at_the_lowest_rate found meets_at_the_highest_rate",
    }
    return cube


def _unanswered(sweep: Sweep, table: Sequence[Sequence[Answer]]) -> list[str]:
    """Say which replications of which points have no answer, and why."""
    places: dict[str, list[int]] = {}
    for k, row in enumerate(table):
        for flag, what in (
            (-1, "miss the criteria already at {}/s, the lowest rate looked at"),
            (1, "still meet the criteria at {}/s, the highest rate looked at"),
        ):
            edges = [answer.found.edge for answer in row if answer.found.unbracketed == flag]
            if edges:
                rates = " to ".join(dict.fromkeys(f"{edge:.6g}" for edge in (min(edges), max(edges))))
                places.setdefault(f"{len(edges)} of {len(row)} replications {what.format(rates)}", []).append(k)
    notes = _with_places(sweep, places)
    flags = {answer.found.unbracketed for row in table for answer in row}
    if 0 in flags and len(flags) > 1:
        notes.append("replications without an answer have no capacity (NaN): means leave them out and have no interval")
    return notes


def _wavering(sweep: Sweep, table: Sequence[Sequence[Answer]]) -> list[str]:
    """Say where there may be several answers: at how many points, and where in most replications."""
    wavering = [sum(not answer.monotone for answer in row) for row in table]
    most = max(wavering)
    if not most:
        return []
    text = (
        f"in {most} of {sweep.replications} replications the criteria hold again above a rate at which they fail: "
        "their capacity is one crossing of several"
    )
    if not sweep.grid.axes:
        return [text]
    at = where(sweep.grid.axes, list(np.ndindex(sweep.grid.shape))[wavering.index(most)])
    points = sum(count > 0 for count in wavering)
    return [f"{text} (at {at}; {points} of {len(table)} points have such replications)"]


def _with_places(sweep: Sweep, places: Mapping[str, Sequence[int]]) -> list[str]:
    """Return notes with the points that each is true of, given by their numbers."""
    if not sweep.grid.axes:
        return list(places)
    at = [where(sweep.grid.axes, position) for position in np.ndindex(sweep.grid.shape)]
    return [
        f"{text} ({'every point' if len(points) == len(at) else 'at ' + '; '.join(at[k] for k in points)})"
        for text, points in places.items()
    ]
