"""Count everything in the batches of a replication: each count by its definition, all requests at once."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ops import segment_sum

from ...dialect import nearest
from ...histogram import BUCKETS, bucket_of
from ...moments import LOW
from ...policies.service import own_ticks, piece_of
from ...statistics import (
    ALWAYS,
    ARRIVED,
    BATCH,
    BATCHES,
    BINS,
    DECISION,
    LARGEST,
    LEVEL,
    LOST,
    MEASURED,
    MEASURED_BATCH,
    SERVED,
    SIGNAL,
    TOTALS,
    WHEN_TOGETHER,
    WIDE,
    WINDOWS,
    WORK,
    Arrival,
    Batch,
    Count,
    Decision,
    Limits,
    Lost,
    Request,
    Together,
    Work,
    latency,
    wait,
)
from ...tally import Tally
from ...ticks import NEVER
from ...windows import rest_of_window, window_at
from .program import ProgramKey
from .replication import Batches, Replication, bin_at, last_arrival


class Served(NamedTuple):
    """What became of each position."""

    there: Array
    """Somebody was served here; the rest means nothing where not."""
    start: Array
    completion: Array
    own: Array
    """Ticks from start to completion."""
    number: Array
    bin: Array
    size: Array


class Decided(NamedTuple):
    """The decision under which each batch started."""

    decision: Decision
    """(batch,) each."""
    learned: Array
    """(batch,) whether a smoothed signal was at hand."""


class Place(NamedTuple):
    """Where things happen that are counted side by side: every field an array of them."""

    there: Array
    """Whether any of them happened."""
    instant: Array
    bin: Array


class Seen(NamedTuple):
    """Many of what a catalogue counts over: every field an array of them."""

    what: Any
    """One of the tuples of `statistics.py`."""
    there: Array
    """Whether it happened."""
    place: Place
    requests: "Seen | None" = None
    """The requests of `Together`, by position, for counts that have no closed form."""


def serve_positions(replication: Replication, batches: Batches, key: ProgramKey) -> Served:
    """Hand each batch's times to its members."""
    position = jnp.arange(key.requests)
    of = jnp.minimum(batches.of, key.batches - 1)
    size, start, service = batches.size[of], batches.start[of], batches.service[of]
    # What is left of a bin belongs to no batch, or lies behind the end of its last.
    inside = (size > 0) & (position - batches.low[of] < size)
    there = (position < replication.requests) & (batches.of < key.batches) & inside
    own = own_ticks(size, replication.length, service, replication.setup.service) if key.own_completion else service
    return Served(there, start, start + own, own, of, batches.bin[of], size)


def limits_of(replication: Replication) -> Limits:
    """Return what holds for the whole replication."""
    reporting, arrival, half = replication.setup.reporting, replication.arrival, replication.requests // 2
    return Limits(
        warmup=reporting.warmup,
        since=arrival[jnp.clip(reporting.warmup, 0, jnp.maximum(replication.requests - 1, 0))],
        until=NEVER,
        half=half,
        half_arrived=arrival[half],
        all_arrived=last_arrival(replication),
        request_sla=reporting.request_sla,
        token_sla=reporting.token_sla,
        capacity=replication.setup.control.memory.capacity,
        tokens=not replication.setup.service.timed,
        unit=1,
        window=reporting.window,
        windows=reporting.windows,
    )


def count(
    replication: Replication, batches: Batches, served: Served, decided: Decided | None, key: ProgramKey
) -> Tally:
    """Count everything."""
    limits = limits_of(replication)
    each = see(replication, batches, served, decided, limits, key)
    # Scattered stores are dear: where requests complete together, what a batch adds up to is stored.
    stored = each if key.own_completion else {**each, **add_up(batches, each, limits, served, key)}
    moments, histograms = count_times(batches, each, limits, served, key)
    clean = each[MEASURED_BATCH].there

    def windows_of(place: Place) -> Array:
        window = window_at(jnp.where(place.there, place.instant, 0), limits.window)
        return jnp.where(place.there & (window < limits.windows), window, -1)

    totals = fill(TOTALS, 1, each, lambda place: jnp.where(place.there, 0, -1), limits, served, key)[0]
    filled: dict[str, Any] = {
        "totals": totals.at[BATCHES.at("first_arrival")].set(limits.since),
        "moments": moments,
        "histograms": histograms,
        "sizes": scatter(key.largest_batch + 1, jnp.where(clean, batches.size, -1), 1 * clean),
        "bins": fill(BINS, key.bins, stored, lambda place: jnp.where(place.there, place.bin, -1), limits, served, key),
        "windows": fill(WINDOWS, key.windows, stored, windows_of, limits, served, key),
        "classes": jnp.zeros((0, 0), jnp.int64),
    }
    return Tally(**filled)


def see(
    replication: Replication,
    batches: Batches,
    served: Served,
    decided: Decided | None,
    limits: Limits,
    key: ProgramKey,
) -> dict[str, Seen]:
    """Return everything that happened, by what it is."""
    position, setup = jnp.arange(key.requests), replication.setup
    arrived = position < replication.requests
    lost = Lost(replication.request, replication.prompt, replication.output)
    happened, completion = batches.size > 0, batches.start + batches.service
    at_arrival = Place(arrived, replication.came, bin_at(position, replication.start))
    at_completion = Place(served.there, served.completion, served.bin)
    at_start = Place(happened, batches.start, batches.bin)
    at_end = Place(happened, completion, batches.bin)
    pace = (batches.service - setup.service.prefill) / jnp.maximum(batches.longest, 1)
    request = Request(
        number=replication.request,
        arrival=replication.came,
        start=served.start,
        first_token=served.start + setup.service.prefill,
        completion=served.completion,
        prompt=replication.prompt,
        output=replication.output,
        pace=pace[served.number],
        begun=replication.came,
    )
    batch = Batch(
        size=batches.size,
        start=batches.start,
        service=batches.service,
        completion=completion,
        longest=batches.longest,
        lengths=sum_members(replication.length, served, key),
        tokens=batches.tokens,
        extrapolated=setup.service.extrapolated[batches.size, piece_of(batches.longest, setup.service)],
    )
    # Members are in arrival order: if the first is past the warm-up, all are.
    clean = happened & (replication.request[batches.low] >= limits.warmup)
    measured = served.there & (replication.request >= limits.warmup)
    seen = {
        ARRIVED: Seen(Arrival(jnp.ones_like(position)), arrived, at_arrival),
        LOST: Seen(lost, ~served.there & arrived, at_arrival),
        SERVED: Seen(request, served.there, at_completion),
        MEASURED: Seen(request, measured, at_completion),
        BATCH: Seen(batch, happened, at_start),
        MEASURED_BATCH: Seen(batch, clean, at_start),
    }
    if key.own_completion:
        work = Work(served.start, served.own, replication.output)
        seen[WORK] = Seen(work, served.there, at_completion)
    else:
        work = Work(batches.start, batches.service, sum_members(replication.output, served, key))
        seen[WORK] = Seen(work, happened, at_end)
    if decided is not None:
        decision, learned = decided
        seen[DECISION] = Seen(decision, happened, at_start)
        seen[SIGNAL] = Seen(decision, happened & (learned > 0), at_start)
    return seen


def add_up(batches: Batches, each: dict[str, Seen], limits: Limits, served: Served, key: ProgramKey) -> dict[str, Seen]:
    """Return the requests of each batch, all and the measured, as what they add up to."""
    place = each[WORK].place
    added: dict[str, Seen] = {}
    for over in (SERVED, MEASURED):
        request, there = each[over].what, each[over].there
        is_late = latency(request) > limits.request_sla
        parts = jnp.stack([jnp.ones_like(is_late), request.output, is_late, wait(request), latency(request)], axis=1)
        requests, outputs, late, waits, latencies = sum_members(jnp.where(there[:, None], parts, 0), served, key).T
        together = Together(
            requests=requests,
            start=batches.start,
            completion=place.instant,
            outputs=outputs,
            late=late,
            pace=request.pace[batches.low],
            waits=waits,
            latencies=latencies,
        )
        added[over] = Seen(together, place.there, place, each[over])
    return added


def side_by_side(everything: dict[str, Seen]) -> Iterator[tuple[Place, dict[str, Seen]]]:
    """Return each place, which is one object, with what is seen there."""
    for place in {id(seen.place): seen.place for seen in everything.values()}.values():
        yield place, {over: seen for over, seen in everything.items() if seen.place is place}


def fill(
    into: str,
    rows: int,
    everything: dict[str, Seen],
    row_of: Callable[[Place], Array],
    limits: Limits,
    served: Served,
    key: ProgramKey,
) -> Array:
    """Return the counts into totals, bins or windows: (row, column)."""
    at: list[int] = []
    columns: list[Array] = []
    for place, here in side_by_side(everything):
        row = row_of(place)
        added_at: list[int] = []
        added: list[Array] = []
        for over, seen in here.items():
            for count in BATCHES.over(over, into):
                values = jnp.where(seen.there, value_of(count, seen, limits, served, key), 0)
                first = BATCHES.at(count.name, into)
                if count.reducer == LARGEST:  # a maximum is of one thing only, so that it can be added below
                    largest = jnp.zeros(rows, jnp.int64).at[jnp.where(row < 0, rows, row)].max(values, mode="drop")
                    at.append(first)
                    columns.append(largest[:, None])
                    continue
                parts = [values]
                if count.reducer == WIDE:
                    parts = [values & LOW, values >> 32]
                elif count.reducer == LEVEL:
                    instant = jnp.where(row < 0, 0, place.instant)
                    parts = [values, values * rest_of_window(instant, row, limits.window)]
                added_at += range(first, first + len(parts))
                added += [jnp.asarray(part, jnp.int64) for part in parts]
        if added:
            stacked = jnp.stack(added, axis=1)
            total = jnp.sum(stacked, axis=0)[None] if rows == 1 and into == TOTALS else scatter(rows, row, stacked)
            at += added_at
            columns.append(total)
    filled = jnp.zeros((rows, BATCHES.width(into)), jnp.int64)
    filled = filled.at[:, np.array(at)].add(jnp.concatenate(columns, axis=1))
    wide = [BATCHES.at(count.name, into) for count in BATCHES.counts if (count.into, count.reducer) == (into, WIDE)]
    carried = jnp.where(np.isin(np.arange(BATCHES.width(into)), wide), filled >> 32, 0)
    return filled - (carried << 32) + jnp.roll(carried, 1, axis=1)


def value_of(count: Count, seen: Seen, limits: Limits, served: Served, key: ProgramKey) -> Any:
    """Evaluate the expression of a count; what has no closed form is added up over the requests of each batch."""
    if seen.requests is None:
        return count.of(seen.what, limits)
    if count.together is not None:
        return count.together(seen.what, limits)
    one_by_one = seen.requests
    return sum_members(jnp.where(one_by_one.there, count.of(one_by_one.what, limits), 0), served, key)


def count_times(
    batches: Batches, each: dict[str, Seen], limits: Limits, served: Served, key: ProgramKey
) -> tuple[Array, Array]:
    """Fill moments and histograms of the times of requests, in the order of the catalogue."""
    requests, measured = each[MEASURED].what, each[MEASURED].there
    # One of each batch, as many times as it has measured requests, for what they share.
    some = Request(*(values[batches.low] for values in requests))
    counted = sum_members(1 * measured, served, key)
    alike = (ALWAYS,) if key.own_completion else (ALWAYS, WHEN_TOGETHER)
    filled: dict[str, tuple[Array, Array]] = {}
    for shared, seen, weight in ((True, some, counted), (False, requests, 1 * measured)):
        times = [time for time in BATCHES.times if (time.alike in alike) == shared]
        values = [time.of(seen, limits) for time in times]
        fine = jnp.stack(
            [nearest(x * time.finer) if time.finer > 1 else x for time, x in zip(times, values, strict=True)]
        )
        buckets = jnp.stack([bucket_of(value) for value in values])
        whens = [time.when(seen, limits) if time.when else True for time in times]
        weights = jnp.stack([jnp.where(when, weight, 0) for when in whens])
        rows = zip(jax.vmap(moments)(fine, weights), jax.vmap(histogram)(buckets, weights), strict=True)
        filled |= zip((time.name for time in times), rows, strict=True)
    in_order = [filled[time.name] for time in BATCHES.times]
    return jnp.stack([row for row, _ in in_order]), jnp.stack([counts for _, counts in in_order])


def scatter(size: int, at: Array, values: Array) -> Array:
    """Add values (..., field) into rows 0..size-1; what lies outside is left out."""
    empty = jnp.zeros((size, *values.shape[1:]), values.dtype)
    return empty.at[jnp.where((at >= 0) & (at < size), at, size)].add(values, mode="drop")


def sum_members(values: Array, served: Served, key: ProgramKey) -> Array:
    """Add up the values of each batch's members: (position, ...) to (batch, ...)."""
    return segment_sum(values, jnp.where(served.there, served.number, key.batches), key.batches)


def moments(value: Array, weight: Array) -> Array:
    """Return a row of moments: see `moments.py`."""
    low, high = value & LOW, value >> 32
    unsigned = jnp.astype(low, jnp.uint64)
    bottom, middle, top = unsigned * unsigned, 2 * low * high, high * high
    least_limb = jnp.astype(bottom & jnp.uint64(LOW), jnp.int64)
    carried = jnp.astype(bottom >> jnp.uint64(32), jnp.int64)
    sums = (1, low, high, least_limb, carried + (middle & LOW), (middle >> 32) + (top & LOW), top >> 32)
    counted = weight > 0
    added = jnp.sum(jnp.stack([weight * part for part in sums]), axis=1)
    extremes = jnp.min(jnp.where(counted, value, NEVER)), jnp.max(jnp.where(counted, value, 0))
    return jnp.append(added, jnp.stack(extremes))


def histogram(bucket: Array, weight: Array) -> Array:
    """Count values, given as the log-spaced buckets that they fall into."""
    return scatter(BUCKETS, jnp.where(weight > 0, bucket, -1), jnp.astype(weight, jnp.int32))
