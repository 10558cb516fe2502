"""Book what happens: steps and gaps between tokens as they pass, requests when all is done."""

import numpy as np

from ...batches.numba.account import add_product, add_value
from ...batches.tally import COUNT, LEAST, LOW, MOST, SQUARE_0, SQUARE_1, SQUARE_2, SQUARE_3, SUM_0, SUM_1
from ...histogram import bucket_of
from ...numba.jit import inline
from ...policies.estimates import UNIT, read
from ...windows import rest_of_window, window_at
from ..model import REJECTED, TICKS_PER_NANOSECOND
from ..tally import (
    BACKLOG_END,
    BACKLOG_HALF,
    BIN_LATENCY_0,
    BIN_LATENCY_1,
    BIN_REQUESTS,
    BIN_WAIT_0,
    BIN_WAIT_1,
    BUSY,
    COMPLETED,
    DECODE_TOKENS,
    FIRST_ARRIVAL,
    GAP,
    LAST_COMPLETION,
    LATE_REQUESTS,
    LATE_TOKENS,
    LATENCY,
    MEASURED,
    MEASURED_STEPS,
    MISSED,
    MISSED_GAPS,
    OCCUPIED,
    PREEMPTIONS,
    PROMPTS,
    REJECTIONS,
    RUNNING_SUM,
    SERVED_REQUESTS,
    SERVED_TOKENS,
    SERVICE,
    STEPS,
    TPOT,
    TTFT,
    W_ARRIVALS,
    W_COMPLETIONS,
    W_KV_TOKENS,
    W_LATE_REQUESTS,
    W_MEMORY_BOUND,
    W_PREEMPTIONS,
    W_QUEUE,
    W_QUEUE_REST,
    W_REJECTIONS,
    W_RUNNING,
    W_RUNNING_REST,
    W_RUNNING_SUM,
    W_SIGNAL,
    W_SIGNALS,
    W_SLA_BOUND,
    W_STEPS,
    W_TARGET,
    WAIT,
)
from .leaps import lasting
from .workspace import RUNNING, TOKENS, WINDOW


@inline
def carry(moments):
    """Carry what is above 32 bits to the next limb: gaps are too many to leave that to the end."""
    for low, high in ((SUM_0, SUM_1), (SQUARE_0, SQUARE_1), (SQUARE_1, SQUARE_2), (SQUARE_2, SQUARE_3)):
        moments[high] += moments[low] >> 32
        moments[low] &= LOW


@inline
def book_gaps(first, growing, steps, weight, token_sla, workspace, tally):
    """Count gaps between tokens, `weight` of each: the first of `first` ticks, each `growing` longer than before."""
    if weight == 0 or steps == 0:
        return
    moments, histogram = tally.moments[GAP], tally.histograms[GAP]
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
    if last > token_sla:
        in_time = 0 if first > token_sla else (token_sla - first) // growing + 1
        tally.totals[LATE_TOKENS] += weight * (steps - in_time)
    bucket = np.int64(bucket_of(first // TICKS_PER_NANOSECOND))
    counted, ends = 0, workspace.bucket_ends
    while last >= ends[bucket]:
        shorter = (ends[bucket] - first + growing - 1) // growing
        histogram[bucket] += weight * (shorter - counted)
        counted, bucket = shorter, bucket + 1
    histogram[bucket] += weight * (steps - counted)


@inline
def book_move(now, running, reporting, workspace, tally):
    """Count a request that leaves the queue to run (1), or goes back to it (-1)."""
    window = workspace.state[WINDOW]
    if window < reporting.windows:
        row = tally.windows[window]
        rest = running * rest_of_window(now, window, reporting.window)
        row[W_QUEUE] -= running
        row[W_QUEUE_REST] -= rest
        row[W_RUNNING] += running
        row[W_RUNNING_REST] += rest


@inline
def book_preemption(i, now, reporting, records, workspace, tally):
    """Count a request that was preempted."""
    records.preemptions[i] += 1
    tally.totals[PREEMPTIONS] += 1
    book_move(now, -1, reporting, workspace, tally)
    if workspace.state[WINDOW] < reporting.windows:
        tally.windows[workspace.state[WINDOW], W_PREEMPTIONS] += 1


@inline
def book_steps(now, first, growing, steps, decoding, prefills, target, control, reporting, start, workspace, tally):
    """Count steps that are all alike and begin in one window; `start` is the arrival of the first measured request.

    Each emits the tokens of its decodes and of the prefills that end in it; only the last may end after `start` if they
    begin before.
    """
    totals, running = tally.totals, workspace.state[RUNNING]
    duration = lasting(first, growing, steps)
    totals[STEPS] += steps
    totals[DECODE_TOKENS] += decoding * steps
    totals[BUSY] += duration
    if now >= start:
        totals[MEASURED_STEPS] += steps
        totals[SERVED_TOKENS] += steps * (decoding + prefills)
        totals[RUNNING_SUM] += steps * running
        totals[OCCUPIED] += duration
        tally.sizes[running] += steps
    elif now + duration > start:
        totals[OCCUPIED] += now + duration - start
        totals[SERVED_TOKENS] += decoding + prefills
    if workspace.state[WINDOW] < reporting.windows:
        row = tally.windows[workspace.state[WINDOW]]
        row[W_STEPS] += steps
        row[W_RUNNING_SUM] += steps * running
        # The chunks are in the cache already, the tokens of the decodes are not.
        row[W_KV_TOKENS] += steps * workspace.state[TOKENS] + decoding * (steps * (steps + 1) // 2)
        row[W_TARGET] += steps * target.batch
        row[W_MEMORY_BOUND] += steps * np.int64(target.memory_bound)
        row[W_SLA_BOUND] += steps * np.int64(target.sla_bound)
        if target.running.seen > 0:
            signal = read(target.running.total.signal, target.running, control.smoothing)
            row[W_SIGNALS] += steps
            row[W_SIGNAL] += steps * np.int64(signal * UNIT)


@inline
def book_time(quantity, ticks, tally):
    """Count a time of one request, in whole nanoseconds."""
    value = ticks // TICKS_PER_NANOSECOND
    add_value(tally.moments[quantity], tally.histograms[quantity], value, 1, value)


@inline
def book_requests(requests, bin_of, records, reporting, tally):
    """Count what became of every request, and how many waited and ran over time."""
    arrival, output, totals = requests.arrival, requests.output, tally.totals
    count, width = len(arrival), reporting.window
    half = count // 2
    start = totals[FIRST_ARRIVAL]
    for i in range(count):
        arrived, last = arrival[i], records.last_token[i]
        window = window_at(arrived, width)
        accepted = records.status[i] != REJECTED
        if window < reporting.windows:
            tally.windows[window, W_ARRIVALS] += 1
            if not accepted:
                tally.windows[window, W_REJECTIONS] += 1
            else:
                tally.windows[window, W_QUEUE] += 1
                tally.windows[window, W_QUEUE_REST] += rest_of_window(arrived, window, width)
        if not accepted:
            totals[REJECTIONS] += 1
            if i >= reporting.warmup:
                totals[MISSED] += 1
                totals[MISSED_GAPS] += output[i] - 1
            continue
        latency = last - arrived
        totals[COMPLETED] += 1
        totals[PROMPTS] += requests.prompt[i]
        totals[LAST_COMPLETION] = max(totals[LAST_COMPLETION], last)
        totals[BACKLOG_HALF] += i <= half and last > arrival[half]
        totals[BACKLOG_END] += last > arrival[count - 1]
        if last > start:
            totals[SERVED_REQUESTS] += 1
        window = window_at(last, width)
        if window < reporting.windows:
            row = tally.windows[window]
            row[W_COMPLETIONS] += 1
            row[W_LATE_REQUESTS] += latency > reporting.request_sla
            row[W_RUNNING] -= 1
            row[W_RUNNING_REST] -= rest_of_window(last, window, width)
        if i < reporting.warmup:
            continue
        totals[MEASURED] += 1
        totals[LATE_REQUESTS] += latency > reporting.request_sla
        wait = records.scheduled[i] - arrived
        book_time(LATENCY, latency, tally)
        book_time(WAIT, wait, tally)
        book_time(SERVICE, last - records.scheduled[i], tally)
        book_time(TTFT, records.first_token[i] - arrived, tally)
        if output[i] > 1:
            book_time(TPOT, (last - records.first_token[i]) // (output[i] - 1), tally)
        row = tally.bins[bin_of[i]]
        row[BIN_REQUESTS] += 1
        row[BIN_WAIT_0] += (wait // TICKS_PER_NANOSECOND) & LOW
        row[BIN_WAIT_1] += (wait // TICKS_PER_NANOSECOND) >> 32
        row[BIN_LATENCY_0] += (latency // TICKS_PER_NANOSECOND) & LOW
        row[BIN_LATENCY_1] += (latency // TICKS_PER_NANOSECOND) >> 32
