"""Count everything in the batches of a replication: each count by its definition, all requests at once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
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


class Seen(NamedTuple):
    """Many of what a catalogue counts over, and where: every field an array of them."""

    what: Any
    """One of the tuples of `statistics.py`."""
    there: Array
    """Whether it happened."""
    instant: Array
    bin: Array
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

    def windows_of(seen: Seen) -> Array:
        window = window_at(jnp.where(seen.there, seen.instant, 0), limits.window)
        return jnp.where(seen.there & (window < limits.windows), window, -1)

    totals = fill(TOTALS, 1, each, lambda seen: jnp.where(seen.there, 0, -1), limits, served, key)[0]
    filled: dict[str, Any] = {
        "totals": totals.at[BATCHES.at("first_arrival")].set(limits.since),
        "moments": moments,
        "histograms": histograms,
        "sizes": scatter(key.largest_batch + 1, jnp.where(clean, batches.size, -1), 1 * clean),
        "bins": fill(BINS, key.bins, stored, lambda seen: jnp.where(seen.there, seen.bin, -1), limits, served, key),
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
    arrived, bin_of = position < replication.requests, bin_at(position, replication.start)
    lost = Lost(replication.request, replication.prompt, replication.output)
    happened, completion = batches.size > 0, batches.start + batches.service
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
        ARRIVED: Seen(Arrival(jnp.ones_like(position)), arrived, replication.came, bin_of),
        LOST: Seen(lost, ~served.there & arrived, replication.came, bin_of),
        SERVED: Seen(request, served.there, served.completion, served.bin),
        MEASURED: Seen(request, measured, served.completion, served.bin),
        BATCH: Seen(batch, happened, batches.start, batches.bin),
        MEASURED_BATCH: Seen(batch, clean, batches.start, batches.bin),
    }
    if key.own_completion:
        work = Work(served.start, served.own, replication.output)
        seen[WORK] = Seen(work, served.there, served.completion, served.bin)
    else:
        work = Work(batches.start, batches.service, sum_members(replication.output, served, key))
        seen[WORK] = Seen(work, happened, completion, batches.bin)
    if decided is not None:
        decision, learned = decided
        seen[DECISION] = Seen(decision, happened, batches.start, batches.bin)
        seen[SIGNAL] = Seen(decision, happened & (learned > 0), batches.start, batches.bin)
    return seen


def add_up(batches: Batches, each: dict[str, Seen], limits: Limits, served: Served, key: ProgramKey) -> dict[str, Seen]:
    """Return the requests of each batch, all and the measured, as what they add up to."""
    happened, completion = batches.size > 0, batches.start + batches.service
    added: dict[str, Seen] = {}
    for over in (SERVED, MEASURED):
        request, there = each[over].what, each[over].there

        def total(values: Array, there: Array = there) -> Array:
            return sum_members(jnp.where(there, values, 0), served, key)

        together = Together(
            requests=batches.size if over == SERVED else total(jnp.ones_like(request.number)),
            start=batches.start,
            completion=completion,
            outputs=total(request.output),
            late=total(latency(request) > limits.request_sla),
            pace=request.pace[batches.low],
            waits=total(wait(request)),
            latencies=total(latency(request)),
        )
        added[over] = Seen(together, happened, completion, batches.bin, each[over])
    return added


def fill(
    into: str,
    rows: int,
    everything: dict[str, Seen],
    row_of: Callable[[Seen], Array],
    limits: Limits,
    served: Served,
    key: ProgramKey,
) -> Array:
    """Return the counts into totals, bins or windows: (row, column)."""
    filled = jnp.zeros((rows, BATCHES.width(into)), jnp.int64)
    for over, seen in everything.items():
        row = row_of(seen)
        at: list[int] = []
        added: list[Array] = []
        for count in BATCHES.over(over, into):
            values = jnp.where(seen.there, value_of(count, seen, limits, served, key), 0)
            first = BATCHES.at(count.name, into)
            if count.reducer == LARGEST:
                largest = jnp.zeros(rows, jnp.int64).at[jnp.where(row < 0, rows, row)].max(values, mode="drop")
                filled = filled.at[:, first].max(largest)
                continue
            parts = [values]
            if count.reducer == WIDE:
                parts = [values & LOW, values >> 32]
            elif count.reducer == LEVEL:
                instant = jnp.where(row < 0, 0, seen.instant)
                parts = [values, values * rest_of_window(instant, row, limits.window)]
            at += range(first, first + len(parts))
            added += [jnp.asarray(part, jnp.int64) for part in parts]
        if added:
            stacked = jnp.stack(added, axis=1)
            total = jnp.sum(stacked, axis=0)[None] if rows == 1 and into == TOTALS else scatter(rows, row, stacked)
            filled = filled.at[:, jnp.array(at)].add(total)
    for count in BATCHES.counts:
        if (count.into, count.reducer) == (into, WIDE):
            low = BATCHES.at(count.name, into)
            filled = filled.at[:, low + 1].add(filled[:, low] >> 32).at[:, low].set(filled[:, low] & LOW)
    return filled


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
    rows = []
    for time in BATCHES.times:
        shared = time.alike == ALWAYS or (time.alike == WHEN_TOGETHER and not key.own_completion)
        seen, weight = (some, counted) if shared else (requests, 1 * measured)
        if time.when is not None:
            weight = jnp.where(time.when(seen, limits), weight, 0)
        value = time.of(seen, limits)
        fine = value if time.finer == 1 else nearest(value * time.finer)
        rows.append((moments(fine, weight), histogram(value, weight)))
    return jnp.stack([row for row, _ in rows]), jnp.stack([buckets for _, buckets in rows])


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
    return jnp.stack(
        [jnp.sum(jnp.where(counted, weight * part, 0)) for part in sums]
        + [jnp.min(jnp.where(counted, value, NEVER)), jnp.max(jnp.where(counted, value, 0))]
    )


def histogram(in_ticks: Array, weight: Array) -> Array:
    """Count values into the log-spaced buckets."""
    at = jnp.where(weight > 0, bucket_of(in_ticks), -1)
    return scatter(BUCKETS, at, jnp.astype(weight, jnp.int32))
