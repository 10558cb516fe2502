"""Count what happens: steps and gaps between tokens as they pass, requests when all is done."""

import numpy as np

from ...compiling.jit import inline
from ...histogram import bucket_of
from ...moments import COUNT, LEAST, LOW, MOST, SUM_0, SUM_1
from ...numba.adders import adder, adder_of_decisions, adder_of_times, adder_together
from ...numba.moments import add_product, carry
from ...statistics import (
    ARRIVED,
    CONTINUOUS,
    GAP,
    LOST,
    MEASURED,
    MEASURED_STEP,
    MOVE,
    SERVED,
    STEP,
    Arrival,
    Gap,
    Limits,
    Lost,
    Move,
    Request,
    Steps,
)
from ...windows import window_at
from ..model import REJECTED
from ..ticks import TICKS_PER_NANOSECOND
from .leaps import growth, lasting
from .workspace import PREFILLED, RUNNING, STAYING, STAYING_TOKENS, TOKENS, USED, WINDOW

add_arrival, add_lost = adder(CONTINUOUS, ARRIVED), adder(CONTINUOUS, LOST)
add_served, add_measured = adder(CONTINUOUS, SERVED), adder(CONTINUOUS, MEASURED)
add_times = adder_of_times(CONTINUOUS, MEASURED, lambda _: True)
add_move, add_decision = adder(CONTINUOUS, MOVE), adder_of_decisions(CONTINUOUS)
# Steps that are alike are counted at once as far as there are closed forms, the rest one by one.
add_steps, add_measured_steps = adder_together(CONTINUOUS, STEP), adder_together(CONTINUOUS, MEASURED_STEP)
add_step = adder(CONTINUOUS, STEP, only=lambda count: count.together is None)
add_measured_step = adder(CONTINUOUS, MEASURED_STEP, only=lambda count: count.together is None)
ONE_BY_ONE = any(count.over in (STEP, MEASURED_STEP) and count.together is None for count in CONTINUOUS.counts)
# `count_gaps` has a way of its own for the late ones.
LATE_TOKENS, TBT = CONTINUOUS.at("late_tokens"), CONTINUOUS.time("tbt")
add_gap = adder(CONTINUOUS, GAP, only=lambda count: count.name != "late_tokens")
GAPS_ONE_BY_ONE = any(count.over == GAP and count.name != "late_tokens" for count in CONTINUOUS.counts)
FIRST_ARRIVAL, OVERRUN, KEPT = (CONTINUOUS.at(name) for name in ("first_arrival", "overrun", "kept"))


@inline
def first_arrival(requests, records, reporting):
    """Return the arrival of the first measured request, of the last request where none is."""
    count = len(requests.arrival)
    for i in range(reporting.warmup, count):
        if records.status[i] != REJECTED:
            return requests.arrival[i]
    return requests.arrival[count - 1]


@inline
def start_counting(since, until, judged, requests, reporting, tally):
    """Return what is known of the whole replication, whose makespan goes from `since` to `until`, as in `Limits`."""
    arrival = requests.arrival
    tally.totals[FIRST_ARRIVAL] = since
    return Limits(
        reporting.warmup,
        since,
        until,
        judged.half,
        arrival[judged.half],
        arrival[judged.last],
        reporting.request_sla,
        reporting.token_sla,
        0.0,
        True,
        TICKS_PER_NANOSECOND,
        reporting.window,
        reporting.windows,
    )


@inline
def count_gaps(first, growing, steps, weight, limits, workspace, tally):
    """Count gaps between tokens, `weight` of each: the first of `first` ticks, each `growing` longer than before."""
    if weight == 0 or steps == 0:
        return
    moments, histogram = tally.moments[TBT], tally.histograms[TBT]
    last = first + growing * (steps - 1)
    total = lasting(first, growing, steps)
    moments[COUNT] += weight * steps
    moments[SUM_0] += weight * (total & LOW)
    moments[SUM_1] += weight * (total >> 32)
    if steps == 1:
        add_product(moments, first, first, weight)
    else:
        # Σ (f + k r)² = n f² + f r n (n - 1) + r² Σ k²
        add_product(moments, first, weight * steps * first, 1)
        add_product(moments, first, weight * growing * (steps * (steps - 1)), 1)
        add_product(moments, weight * growing, growing * ((steps - 1) * steps * (2 * steps - 1) // 6), 1)
    carry(moments)
    moments[LEAST] = min(moments[LEAST], first)
    moments[MOST] = max(moments[MOST], last)
    if last > limits.token_sla:
        in_time = 0 if first > limits.token_sla else (limits.token_sla - first) // growing + 1
        tally.totals[LATE_TOKENS] += weight * (steps - in_time)
    bucket = np.int64(bucket_of(first // TICKS_PER_NANOSECOND))
    counted, ends = 0, workspace.bucket_ends
    while last >= ends[bucket]:
        shorter = (ends[bucket] - first + growing - 1) // growing
        histogram[bucket] += weight * (shorter - counted)
        counted, bucket = shorter, bucket + 1
    histogram[bucket] += weight * (steps - counted)
    if GAPS_ONE_BY_ONE:
        for k in range(steps):
            add_gap(Gap(weight, first + growing * k), limits, tally, 0, 0, 0)


@inline
def count_move(now, running, asked, found, limits, workspace, tally):
    """Count a request that leaves the queue to run (1), or goes back to it (-1); what it found of what it asked."""
    add_move(Move(running, asked, found), limits, tally, 0, workspace.state[WINDOW], now)


@inline
def count_steps(now, first, growing, steps, decoding, work, grown, stored, size, limits, workspace, tally):
    """Count steps that are all alike and begin in one window; `grown` is what the blocks in use grow by."""
    state = workspace.state
    # Those that the step before ends had their room when this one was scheduled, but do not run in it.
    running, tokens, window = state[RUNNING] - state[STAYING], state[TOKENS] - state[STAYING_TOKENS], state[WINDOW]
    # The chunks are in the cache already, the tokens of the decodes are not.
    kv_tokens = steps * tokens + decoding * (steps * (steps + 1) // 2)
    seen = Steps(
        steps,
        now,
        lasting(first, growing, steps),
        running,
        decoding,
        state[PREFILLED],
        work.tokens,
        state[USED] + grown,
        kv_tokens,
        stored,
    )
    add_steps(seen, limits, tally, 0, window, now)
    if limits.since <= now < limits.until:
        add_measured_steps(seen, limits, tally, 0, window, now)
        tally.sizes[running] += steps
    if ONE_BY_ONE:
        for k in range(steps):
            begins, lasts = now + lasting(first, growing, k), first + growing * k
            blocks = state[USED] + (growth(workspace, k + 1, size) if decoding > 0 else 0)
            kv_tokens = tokens + decoding * (k + 1)
            one = Steps(1, begins, lasts, running, decoding, state[PREFILLED], work.tokens, blocks, kv_tokens, 0)
            add_step(one, limits, tally, 0, window, begins)
            if limits.since <= begins < limits.until:
                add_measured_step(one, limits, tally, 0, window, begins)


@inline
def count_requests(requests, bin_of, records, limits, tally):
    """Count what became of every request."""
    arrival, prompt, output = requests.arrival, requests.prompt, requests.output
    for i in range(len(arrival)):
        arrived, last, j = arrival[i], records.last_token[i], bin_of[i]
        window = window_at(arrived, limits.window)
        accepted = records.status[i] != REJECTED
        add_arrival(Arrival(1 * accepted), limits, tally, j, window, arrived)
        if not accepted:
            add_lost(Lost(i, prompt[i], output[i]), limits, tally, j, window, arrived)
            continue
        begun = arrived - (requests.delay[i] if len(requests.delay) > 0 else 0)
        start, first = records.scheduled[i], records.first_token[i]
        request = Request(i, arrived, start, first, last, prompt[i], output[i], 0.0, begun)
        window = window_at(last, limits.window)
        add_served(request, limits, tally, j, window, last)
        if i >= limits.warmup:
            add_measured(request, limits, tally, j, window, last)
            add_times(request, limits, tally, 1)
