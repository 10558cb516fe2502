"""Every number of the report, from the batches of a replication: each count by its definition, all requests at once."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.ops import segment_sum

from ...dialect import nearest
from ...histogram import BUCKETS, bucket_of
from ...policies.service import own_ticks, piece_of, tokens_after
from ...ticks import NEVER
from ...windows import rest_of_window, window_at
from ..tally import LOW, TBT_UNIT, TOTALS
from .program import ProgramKey
from .replication import Batches, Replication, last_arrival


class Decisions(NamedTuple):
    """The decision under which each batch started: (batch,) each."""

    target: Array
    memory_bound: Array
    sla_bound: Array
    learned: Array
    """A smoothed signal was at hand."""
    signal: Array
    """It, in 1/1024 tick."""


class Counts(NamedTuple):
    """A `Tally` of one replication, its totals as a plain array in the order of TOTALS."""

    totals: Array
    moments: Array
    histograms: Array
    sizes: Array
    bins: Array
    windows: Array


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


class Looked(NamedTuple):
    """What several counts need to know: (position,) the first five, (batch,) the others."""

    measured: Array
    """Served and past the warm-up."""
    missed: Array
    """Never served."""
    wait: Array
    latency: Array
    late: Array
    """Latency above D_request."""
    happened: Array
    clean: Array
    """All members are past the warm-up."""
    counted: Array
    """How many members are."""
    completion: Array
    tbt: Array
    """Ticks per token."""


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


def look_at(replication: Replication, batches: Batches, served: Served, key: ProgramKey) -> Looked:
    """Work out what the counts below have in common."""
    reporting = replication.setup.reporting
    happened = batches.size > 0
    measured = served.there & (replication.request >= reporting.warmup)
    latency = served.completion - replication.came
    return Looked(
        measured=measured,
        missed=~served.there & (jnp.arange(key.requests) < replication.requests),
        wait=served.start - replication.came,
        latency=latency,
        late=latency > reporting.request_sla,
        happened=happened,
        # Members are in arrival order: if the first is past the warm-up, all are.
        clean=happened & (replication.request[batches.low] >= reporting.warmup),
        counted=sum_members(1 * measured, served, key),
        completion=batches.start + batches.service,
        tbt=(batches.service - replication.setup.service.prefill) / jnp.maximum(batches.longest, 1),
    )


def account(
    replication: Replication, batches: Batches, served: Served, decisions: Decisions | None, key: ProgramKey
) -> Counts:
    """Count everything (docs/model.md, section 9)."""
    looked = look_at(replication, batches, served, key)
    counted_moments, histograms = count_times(batches, served, looked, key)
    return Counts(
        totals=count_totals(replication, batches, served, looked, key),
        moments=counted_moments,
        histograms=histograms,
        sizes=scatter(key.largest_batch + 1, jnp.where(looked.clean, batches.size, -1), 1 * looked.clean),
        bins=count_bins(batches, served, looked, key),
        windows=count_windows(replication, batches, served, looked, decisions, key),
    )


def count_totals(replication: Replication, batches: Batches, served: Served, looked: Looked, key: ProgramKey) -> Array:
    """Fill the totals, in the order of TOTALS."""
    reporting, law, there, clean = replication.setup.reporting, replication.setup.service, served.there, looked.clean
    outputs = jnp.where(looked.measured, replication.output, 0)
    missed = looked.missed & (replication.request >= reporting.warmup)
    first_arrival = replication.arrival[jnp.clip(reporting.warmup, 0, jnp.maximum(replication.requests - 1, 0))]
    late_batch = looked.tbt > reporting.token_sla
    if key.own_completion:
        done = 1 * (there & (served.completion > first_arrival))
        made = jnp.where(there, tokens_after(first_arrival, served.start, served.own, replication.output), 0)
    else:
        done = jnp.where(looked.happened & (looked.completion > first_arrival), batches.size, 0)
        made = tokens_after(first_arrival, batches.start, batches.service, sum_members(replication.output, served, key))
        made = jnp.where(looked.happened, made, 0)
    occupied = jnp.maximum(looked.completion - jnp.maximum(batches.start, first_arrival), 0)
    extrapolated = law.extrapolated[batches.size, piece_of(batches.longest, law)]
    completed = jnp.sum(there)

    def over_batches(values: Array, which: Array = looked.happened) -> Array:
        return jnp.sum(jnp.where(which, values, 0))

    def done_by(instant: Array) -> Array:
        return over_batches(jnp.where(looked.completion <= instant, batches.size, 0))

    totals = {
        "completed": completed,
        "unserved": replication.requests - completed,
        "measured": jnp.sum(looked.measured),
        "first_arrival": first_arrival,
        "last_completion": jnp.max(jnp.where(looked.happened, looked.completion, 0)),
        "output_tokens": jnp.sum(outputs),
        "late_requests": jnp.sum(looked.measured & looked.late),
        "late_tokens": 0 if key.timed else jnp.sum(jnp.where(late_batch[served.number], outputs, 0)),
        "missed": jnp.sum(missed),
        "missed_tokens": jnp.sum(jnp.where(missed, replication.output, 0)),
        "served": jnp.sum(done),
        "served_tokens": jnp.sum(made),
        "occupied": over_batches(occupied),
        "batches": jnp.sum(clean),
        "members": over_batches(batches.size, clean),
        "busy": over_batches(batches.service, clean),
        "length": jnp.sum(jnp.where(there & clean[served.number], replication.length, 0)),
        "padded": over_batches(batches.size * batches.longest, clean),
        "overflows": jnp.sum(clean & (batches.tokens > replication.setup.control.memory.capacity)),
        "peak_tokens": jnp.max(jnp.where(clean, batches.tokens, 0)),
        "extrapolated": over_batches(extrapolated, clean),
        "backlog_half": replication.requests // 2 + 1 - done_by(replication.arrival[replication.requests // 2]),
        "backlog_end": replication.requests - done_by(last_arrival(replication)),
    }
    return jnp.stack([jnp.asarray(totals[name], jnp.int64) for name in TOTALS.names or ()])


def count_times(batches: Batches, served: Served, looked: Looked, key: ProgramKey) -> tuple[Array, Array]:
    """Fill moments and histograms of latency, wait, service and TBT, in the order of QUANTITIES."""
    each = 1 * looked.measured
    service = (served.own, each) if key.own_completion else (batches.service, looked.counted)
    # Values with their weights; TBT is a ratio, kept in finer units, and there is none without tokens.
    in_ticks = [(looked.latency, each), (looked.wait, each), service]
    if key.timed:
        in_ticks.append((jnp.zeros(1, jnp.int64), jnp.zeros(1, jnp.int64)))
    else:
        in_ticks.append((looked.tbt, looked.counted))
    rows = [*in_ticks[:-1], (nearest(in_ticks[-1][0] * TBT_UNIT), in_ticks[-1][1])]
    return (
        jnp.stack([moments(value, weight) for value, weight in rows]),
        jnp.stack([histogram(value, weight) for value, weight in in_ticks]),
    )


def scatter(size: int, at: Array, values: Array) -> Array:
    """Add values (..., field) into rows 0..size-1; what lies outside is left out."""
    empty = jnp.zeros((size, *values.shape[1:]), values.dtype)
    return empty.at[jnp.where((at >= 0) & (at < size), at, size)].add(values, mode="drop")


def sum_members(values: Array, served: Served, key: ProgramKey) -> Array:
    """Add up the values of each batch's members: (position, ...) to (batch, ...)."""
    return segment_sum(values, jnp.where(served.there, served.number, key.batches), key.batches)


def moments(value: Array, weight: Array) -> Array:
    """Return a row of moments: see `tally.py`."""
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


def count_bins(batches: Batches, served: Served, looked: Looked, key: ProgramKey) -> Array:
    """Fill the counts of every bin, in the order of BIN_FIELDS."""
    waits = sum_members(jnp.where(looked.measured, looked.wait, 0), served, key)
    latencies = sum_members(jnp.where(looked.measured, looked.latency, 0), served, key)
    fields = (
        looked.counted,
        1 * looked.clean,
        jnp.where(looked.clean, batches.size, 0),
        waits & LOW,
        waits >> 32,
        latencies & LOW,
        latencies >> 32,
        jnp.where(looked.clean, batches.longest, 0),
    )
    return scatter(key.bins, jnp.where(looked.happened, batches.bin, -1), jnp.stack(fields, axis=1))


def count_windows(
    replication: Replication,
    batches: Batches,
    served: Served,
    looked: Looked,
    decisions: Decisions | None,
    key: ProgramKey,
) -> Array:
    """Fill the counts of every time window, in the order of WINDOW_FIELDS."""
    width, windows = replication.setup.reporting.window, replication.setup.reporting.windows

    def within(instant: Array, there: Array) -> Array:
        window = window_at(jnp.where(there, instant, 0), width)
        return jnp.where(there & (window < windows), window, -1)

    came = within(replication.arrival, jnp.arange(key.requests) < replication.requests)
    arrivals = jnp.stack(
        [jnp.ones_like(came), rest_of_window(jnp.where(came < 0, 0, replication.arrival), came, width)], 1
    )
    if key.own_completion:
        left = within(served.completion, served.there)
        completions = jnp.stack([1 * served.there, 1 * (served.there & looked.late)], 1)
    else:
        left = within(looked.completion, looked.happened)
        completions = jnp.stack([batches.size, sum_members(1 * looked.late, served, key)], 1)
    began = within(batches.start, looked.happened)
    rest = batches.size * rest_of_window(jnp.where(began < 0, 0, batches.start), began, width)
    nothing = jnp.zeros_like(rest)
    starts = [batches.size, jnp.ones_like(rest), rest]
    if decisions is None:
        starts += [nothing] * 6
    else:
        starts += [
            decisions.target,
            decisions.memory_bound,
            decisions.sla_bound,
            decisions.learned,
            jnp.where(decisions.learned > 0, decisions.signal & LOW, 0),
            jnp.where(decisions.learned > 0, decisions.signal >> 32, 0),
        ]
    by_arrival = scatter(key.windows, came, arrivals)
    missed = scatter(key.windows, within(replication.came, looked.missed), 1 * looked.missed[:, None])
    by_completion = scatter(key.windows, left, completions)
    by_start = scatter(key.windows, began, jnp.stack(starts, axis=1))
    # arrivals, completions, late requests, started, batches, rests of arrivals and starts, decisions, missed
    return jnp.concatenate(
        [by_arrival[:, :1], by_completion, by_start[:, :2], by_arrival[:, 1:], by_start[:, 2:], missed], axis=1
    )
