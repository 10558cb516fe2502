"""Book one batch: every number of the report is counted here, as the batch starts (its completion is already known)."""

import numpy as np

from ..histogram import bucket_of
from ..model import Bins, Records, Reporting, Setup, Trace
from ..policies.service import piece_of, service_ticks
from ..tally import (
    ARRIVAL_REST,
    ARRIVALS,
    BATCHES,
    BIN_BATCHES,
    BIN_LATENCY_0,
    BIN_LONGEST,
    BIN_MEMBERS,
    BIN_REQUESTS,
    BIN_WAIT_0,
    COMPLETIONS,
    COUNT,
    LATE_REQUESTS,
    LATENCY,
    LEAST,
    MOST,
    REST_BITS,
    SERVICE,
    SQUARE_0,
    SQUARE_1,
    SQUARE_2,
    SQUARE_3,
    START_REST,
    STARTED,
    SUM_0,
    SUM_1,
    TBT,
    TBT_UNIT,
    WAIT,
    Tally,
)
from .jit import inline

LOW = 0xFFFFFFFF


@inline
def add_value(moments, histogram, value, weight, in_ticks):  # type: ignore[no-untyped-def]
    """Count `weight` times a value; `in_ticks` is the same value as a float, for the histogram."""
    low, high = value & LOW, value >> 32
    bottom, middle, top = np.uint64(low) * np.uint64(low), 2 * low * high, high * high
    moments[COUNT] += weight
    moments[SUM_0] += weight * low
    moments[SUM_1] += weight * high
    moments[SQUARE_0] += weight * np.int64(bottom & np.uint64(LOW))
    moments[SQUARE_1] += weight * (np.int64(bottom >> np.uint64(32)) + (middle & LOW))
    moments[SQUARE_2] += weight * ((middle >> 32) + (top & LOW))
    moments[SQUARE_3] += weight * (top >> 32)
    moments[LEAST] = min(moments[LEAST], value)
    moments[MOST] = max(moments[MOST], value)
    histogram[bucket_of(in_ticks)] += np.int32(weight)


@inline
def rest_of_window(instant, window, width):  # type: ignore[no-untyped-def]
    """Return the part of the window that remains at an instant, in 2^-20 of its width."""
    return np.int64(((window + 1) * width - instant) * (1.0 / width) * (1 << REST_BITS))


@inline
def count_arrivals(arrival, reporting, windows):  # type: ignore[no-untyped-def]
    """Count the arrivals of every window, and how much of it each has seen."""
    width = reporting.window
    i = 0
    for window in range(reporting.windows):
        end = (window + 1) * width
        first = i
        rest = 0
        while i < len(arrival) and arrival[i] < end:
            rest += rest_of_window(arrival[i], window, width)
            i += 1
        windows[window, ARRIVALS] = i - first
        windows[window, ARRIVAL_REST] = rest


@inline
def span_of(order, low, high, trace):  # type: ignore[no-untyped-def]
    """Return longest length, longest output, sum of lengths, sum of outputs, sum of tokens, and sum of their squares."""
    longest = longest_output = lengths = outputs = tokens = squares = 0
    for m in range(low, high):
        i = order[m]
        longest = max(longest, trace.length[i])
        longest_output = max(longest_output, trace.output[i])
        lengths += trace.length[i]
        outputs += trace.output[i]
        total = trace.prompt[i] + trace.output[i]
        tokens += total
        squares += total * total
    return longest, longest_output, lengths, outputs, tokens, squares


@inline
def book(low, high, j, start, service, longest, lengths, outputs, tokens, trace, bins, setup, tally):  # type: ignore[no-untyped-def]
    """Count one batch: members order[low:high] of bin j, service begun at `start`."""
    reporting, law, totals = setup.reporting, setup.service, tally.totals[0]
    size = high - low
    completion = start + service
    totals["completed"] += size
    totals["last_completion"] = max(totals["last_completion"], completion)

    # Members are in arrival order: those of the warm-up come first.
    first = low
    while first < high and bins.order[first] < reporting.warmup:
        first += 1
        outputs -= trace.output[bins.order[first - 1]]
    measured = high - first
    decode = service - law.prefill
    tbt = decode / longest
    own = setup.policy.own_completion
    latency_of, latency_histogram = tally.moments[LATENCY], tally.histograms[LATENCY]
    wait_of, wait_histogram = tally.moments[WAIT], tally.histograms[WAIT]
    service_of, service_histogram = tally.moments[SERVICE], tally.histograms[SERVICE]
    late = 0
    waits = latencies = 0
    for m in range(first, high):
        i = bins.order[m]
        arrival = trace.arrival[i]
        done = start + service_ticks(size, trace.length[i], law) if own else completion
        wait, latency = start - arrival, done - arrival
        add_value(latency_of, latency_histogram, latency, 1, latency)
        add_value(wait_of, wait_histogram, wait, 1, wait)
        late += latency > reporting.request_sla
        waits += wait
        latencies += latency
        if own:
            add_value(service_of, service_histogram, done - start, 1, done - start)
    if measured > 0:
        if not own:
            add_value(service_of, service_histogram, service, measured, service)
        add_value(tally.moments[TBT], tally.histograms[TBT], np.int64(round(tbt * TBT_UNIT)), measured, tbt)
        totals["measured"] += measured
        totals["late_requests"] += late
        totals["output_tokens"] += outputs
        if tbt > reporting.token_sla:
            totals["late_tokens"] += outputs
        row = tally.bins[j]
        row[BIN_REQUESTS] += measured
        row[BIN_WAIT_0] += waits & LOW
        row[BIN_WAIT_0 + 1] += waits >> 32
        row[BIN_LATENCY_0] += latencies & LOW
        row[BIN_LATENCY_0 + 1] += latencies >> 32
    if measured == size:
        totals["batches"] += 1
        totals["members"] += size
        totals["busy"] += service
        totals["length"] += lengths
        totals["padded"] += size * longest
        totals["overflows"] += tokens > setup.control.memory.capacity
        totals["peak_tokens"] = max(totals["peak_tokens"], tokens)
        totals["extrapolated"] += law.extrapolated[size, piece_of(longest, law)]
        tally.sizes[size] += 1
        tally.bins[j, BIN_BATCHES] += 1
        tally.bins[j, BIN_MEMBERS] += size
        tally.bins[j, BIN_LONGEST] += longest
    book_windows(low, high, start, completion, trace, bins, setup, tally)
    book_backlog(size, completion, trace.arrival, totals)


@inline
def book_windows(low, high, start, completion, trace, bins, setup, tally):  # type: ignore[no-untyped-def]
    """Count a batch in the windows in which it starts and completes."""
    reporting, law = setup.reporting, setup.service
    size, width = high - low, reporting.window
    window = start // width
    if window < reporting.windows:
        row = tally.windows[window]
        row[STARTED] += size
        row[BATCHES] += 1
        row[START_REST] += size * rest_of_window(start, window, width)
    if not setup.policy.own_completion:
        window = completion // width
        if window < reporting.windows:
            row = tally.windows[window]
            row[COMPLETIONS] += size
            # Arrival order again: the late ones come first.
            for m in range(low, high):
                if completion - trace.arrival[bins.order[m]] <= reporting.request_sla:
                    break
                row[LATE_REQUESTS] += 1
        return
    for m in range(low, high):
        i = bins.order[m]
        done = start + service_ticks(size, trace.length[i], law)
        window = done // width
        if window < reporting.windows:
            tally.windows[window, COMPLETIONS] += 1
            tally.windows[window, LATE_REQUESTS] += done - trace.arrival[i] > reporting.request_sla


@inline
def book_backlog(size, completion, arrival, totals):  # type: ignore[no-untyped-def]
    """Count down the requests not yet completed when half, and when all, have arrived."""
    if completion <= arrival[len(arrival) // 2]:
        totals["backlog_half"] -= size
    if completion <= arrival[-1]:
        totals["backlog_end"] -= size


@inline
def open_books(trace, setup, tally):  # type: ignore[no-untyped-def]
    """Count what is known before the first batch."""
    requests = len(trace.arrival)
    totals = tally.totals[0]
    totals["first_arrival"] = trace.arrival[min(setup.reporting.warmup, requests - 1)]
    totals["backlog_half"] = requests // 2 + 1
    totals["backlog_end"] = requests
    count_arrivals(trace.arrival, setup.reporting, tally.windows)


@inline
def record(low, high, j, number, start, service, trace, bins, setup, records):  # type: ignore[no-untyped-def]
    """Write what became of each request, where the caller asked for it."""
    size = high - low
    for m in range(low, high):
        i = bins.order[m]
        done = start + service
        if setup.policy.own_completion:
            done = start + service_ticks(size, trace.length[i], setup.service)
        records.start[i] = start
        records.completion[i] = done
        records.batch[i] = number
        records.bin[i] = j
        records.size[i] = size
