"""Book one batch: every number of the report is counted here, as the batch starts (its completion is already known)."""

from typing import NamedTuple

import numpy as np

from ...histogram import bucket_of
from ...numba.jit import inline
from ...policies.service import own_ticks, piece_of, tokens_after
from ...ticks import NEVER
from ...windows import rest_of_window, window_at
from ..tally import (
    ARRIVAL_REST,
    ARRIVALS,
    BATCHES,
    BIN_BATCHES,
    BIN_LATENCY_0,
    BIN_LATENCY_1,
    BIN_LONGEST,
    BIN_MEMBERS,
    BIN_REQUESTS,
    BIN_WAIT_0,
    BIN_WAIT_1,
    COMPLETIONS,
    COUNT,
    LATE_REQUESTS,
    LATENCY,
    LEAST,
    LOW,
    MISSED,
    MOST,
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
)


@inline
def add_product(moments, a, b, weight):
    """Add weight * a * b to the sum of squares, for a and b below 2^62 and weights below 2^21.

    A limb gains less than 2^33 times the weight: 2^30 of it in all, unless somebody carries.
    """
    a_low, a_high, b_low, b_high = a & LOW, a >> 32, b & LOW, b >> 32
    bottom = np.uint64(a_low) * np.uint64(b_low)
    middle, top = a_low * b_high + a_high * b_low, a_high * b_high
    moments[SQUARE_0] += weight * np.int64(bottom & np.uint64(LOW))
    moments[SQUARE_1] += weight * (np.int64(bottom >> np.uint64(32)) + (middle & LOW))
    moments[SQUARE_2] += weight * ((middle >> 32) + (top & LOW))
    moments[SQUARE_3] += weight * (top >> 32)


@inline
def add_value(moments, histogram, value, weight, in_ticks):
    """Count `weight` times a value; `in_ticks` is the same value as a float, for the histogram."""
    moments[COUNT] += weight
    moments[SUM_0] += weight * (value & LOW)
    moments[SUM_1] += weight * (value >> 32)
    add_product(moments, value, value, weight)
    moments[LEAST] = min(moments[LEAST], value)
    moments[MOST] = max(moments[MOST], value)
    histogram[np.uint64(bucket_of(in_ticks))] += np.int32(weight)


@inline
def add_shifted(moments, count, shift, total, square_low, square_high, widest):
    """Count values shift + e, given the sum of e, the limbs of the sum of e², and the largest e (the least is 0)."""
    moments[COUNT] += count
    moments[SUM_0] += count * (shift & LOW) + (total & LOW)
    moments[SUM_1] += count * (shift >> 32) + (total >> 32)
    add_product(moments, shift, shift, count)
    add_product(moments, shift, total, 2)
    moments[SQUARE_0] += square_low
    moments[SQUARE_1] += square_high
    moments[LEAST] = min(moments[LEAST], shift)
    moments[MOST] = max(moments[MOST], shift + widest)


@inline
def add_descending(histogram, members, arrival, end):
    """Count the times from each arrival to `end`; they fall from first to last: equal ends, one bucket for all."""
    count = len(members)
    longest, shortest = bucket_of(end - arrival[members[0]]), bucket_of(end - arrival[members[count - 1]])
    if longest == shortest:
        histogram[np.uint64(longest)] += np.int32(count)
        return
    for m in range(count):
        histogram[np.uint64(bucket_of(end - arrival[members[m]]))] += np.int32(1)


@inline
def book_together(members, start, completion, arrival, tally):
    """Count wait and latency of requests that complete together; return the sums of both.

    Members are in arrival order. Every wait is the last member's plus how much earlier the request came, and so is
    every latency: one loop over these head starts, free of branches and scattered stores, serves both.
    """
    waits, latencies = tally.moments[WAIT], tally.moments[LATENCY]
    wait_histogram, latency_histogram = tally.histograms[WAIT], tally.histograms[LATENCY]
    count = len(members)
    last = arrival[members[count - 1]]
    widest = last - arrival[members[0]]
    wait, latency = start - last, completion - last
    total = square_low = square_high = np.uint64(0)
    if widest <= LOW:
        for m in range(count):
            earlier = np.uint64(last - arrival[members[m]])
            total += earlier
            square_low += (earlier * earlier) & np.uint64(LOW)
            square_high += (earlier * earlier) >> np.uint64(32)
        low, high = np.int64(square_low), np.int64(square_high)
        add_shifted(waits, count, wait, np.int64(total), low, high, widest)
        add_shifted(latencies, count, latency, np.int64(total), low, high, widest)
        add_descending(wait_histogram, members, arrival, start)
        add_descending(latency_histogram, members, arrival, completion)
    else:
        for m in range(count):
            earlier = last - arrival[members[m]]
            total += np.uint64(earlier)
            add_value(waits, wait_histogram, wait + earlier, 1, wait + earlier)
            add_value(latencies, latency_histogram, latency + earlier, 1, latency + earlier)
    return count * wait + np.int64(total), count * latency + np.int64(total)


@inline
def book_apart(members, size, start, service, trace, law, tally):
    """Count requests that each complete at their own length; return the sums of wait and latency."""
    wait_total = latency_total = 0
    for m in range(len(members)):
        i = members[m]
        own = own_ticks(size, trace.length[i], service, law)
        wait = start - trace.arrival[i]
        latency = wait + own
        add_value(tally.moments[WAIT], tally.histograms[WAIT], wait, 1, wait)
        add_value(tally.moments[LATENCY], tally.histograms[LATENCY], latency, 1, latency)
        add_value(tally.moments[SERVICE], tally.histograms[SERVICE], own, 1, own)
        wait_total += wait
        latency_total += latency
    return wait_total, latency_total


@inline
def first_at_or_after(arrival, instant):
    """Return the first request that arrives at an instant or later."""
    low, high = 0, len(arrival)
    while low < high:
        middle = (low + high) >> 1
        if arrival[middle] < instant:
            low = middle + 1
        else:
            high = middle
    return low


@inline
def count_arrivals(arrival, reporting, windows):
    """Count the arrivals of every window, and how much of it each has seen."""
    first = 0
    for window in range(reporting.windows):
        last = first_at_or_after(arrival, (window + 1) * reporting.window)
        rest = 0
        inside = arrival[first:last]
        for i in range(len(inside)):
            rest += rest_of_window(inside[i], window, reporting.window)
        windows[window, ARRIVALS] = last - first
        windows[window, ARRIVAL_REST] = rest
        first = last


class Span(NamedTuple):
    """What the members of a batch add up to."""

    longest: int
    longest_output: int
    lengths: int
    outputs: int
    tokens: int
    """Sum of p + o."""
    squares: int
    """Sum of (p + o)²."""


@inline
def span_of(members, trace, timed):
    """Add up the members of a batch; without tokens there is only the length."""
    longest = longest_output = lengths = outputs = tokens = squares = 0
    length, output, prompt = trace.length, trace.output, trace.prompt
    if timed:
        for m in range(len(members)):
            i = members[m]
            longest = max(longest, length[i])
            lengths += length[i]
        return Span(longest, 0, lengths, 0, 0, 0)
    for m in range(len(members)):
        i = members[m]
        total = prompt[i] + output[i]
        longest = max(longest, length[i])
        longest_output = max(longest_output, output[i])
        lengths += length[i]
        outputs += output[i]
        tokens += total
        squares += total * total
    return Span(longest, longest_output, lengths, outputs, tokens, squares)


@inline
def book(members, j, start, service, span, trace, setup, tally):
    """Count one batch of bin j whose service begins at `start`."""
    reporting, law, totals = setup.reporting, setup.service, tally.totals[0]
    size, completion = len(members), start + service
    totals["completed"] += size
    totals["last_completion"] = max(totals["last_completion"], completion)
    # Nearly every batch lies inside whole: a division for each was seen to cost those of 8 up to a tenth of their time.
    if start >= totals["first_arrival"]:
        totals["served"] += size
        totals["served_tokens"] += span.outputs
    elif setup.policy.own_completion:
        book_served_apart(members, start, service, trace, law, totals)
    elif completion > totals["first_arrival"]:
        totals["served"] += size
        totals["served_tokens"] += tokens_after(totals["first_arrival"], start, service, span.outputs)
    totals["occupied"] += max(completion - max(start, totals["first_arrival"]), 0)
    late = count_late(members, size, start, completion, trace, setup)
    book_windows(members, start, completion, late, trace, setup, tally)
    book_backlog(size, completion, trace.arrival, totals)
    # Members are in arrival order: those of the warm-up come first.
    warm, outputs = 0, span.outputs
    while warm < size and members[warm] < reporting.warmup:
        outputs -= trace.output[members[warm]]
        warm += 1
    if warm > 0:
        late = count_late(members[warm:], size, start, completion, trace, setup)
    if warm < size:
        book_requests(members[warm:], size, j, start, service, span.longest, outputs, late, trace, setup, tally)
    if warm > 0:
        return
    totals["batches"] += 1
    totals["members"] += size
    totals["busy"] += service
    totals["length"] += span.lengths
    totals["padded"] += size * span.longest
    totals["overflows"] += span.tokens > setup.control.memory.capacity
    totals["peak_tokens"] = max(totals["peak_tokens"], span.tokens)
    totals["extrapolated"] += law.extrapolated[size, piece_of(span.longest, law)]
    tally.sizes[size] += 1
    row = tally.bins[j]
    row[BIN_BATCHES] += 1
    row[BIN_MEMBERS] += size
    row[BIN_LONGEST] += span.longest


@inline
def book_served_apart(members, start, service, trace, law, totals):
    """Count requests that each complete at their own length, and their tokens, from the first arrival on."""
    since = totals["first_arrival"]
    if start + service <= since:
        return
    for m in range(len(members)):
        i = members[m]
        own = own_ticks(len(members), trace.length[i], service, law)
        totals["served"] += start + own > since
        totals["served_tokens"] += tokens_after(since, start, own, trace.output[i])


@inline
def book_requests(members, size, j, start, service, longest, outputs, late, trace, setup, tally):
    """Count the measured requests of a batch of `size`."""
    reporting, law, totals = setup.reporting, setup.service, tally.totals[0]
    count = len(members)
    if setup.policy.own_completion:
        waits, latencies = book_apart(members, size, start, service, trace, law, tally)
    else:
        waits, latencies = book_together(members, start, start + service, trace.arrival, tally)
        add_value(tally.moments[SERVICE], tally.histograms[SERVICE], service, count, service)
    totals["measured"] += count
    totals["late_requests"] += late
    totals["output_tokens"] += outputs
    if not law.timed:
        tbt = (service - law.prefill) / longest
        add_value(tally.moments[TBT], tally.histograms[TBT], np.int64(round(tbt * TBT_UNIT)), count, tbt)
        if tbt > reporting.token_sla:
            totals["late_tokens"] += outputs
    row = tally.bins[j]
    row[BIN_REQUESTS] += count
    row[BIN_WAIT_0] += waits & LOW
    row[BIN_WAIT_1] += waits >> 32
    row[BIN_LATENCY_0] += latencies & LOW
    row[BIN_LATENCY_1] += latencies >> 32


@inline
def count_late(members, size, start, completion, trace, setup):
    """Count those of a batch of `size` that are over the latency limit."""
    limit, late = setup.reporting.request_sla, 0
    if limit == NEVER:
        return 0
    if setup.policy.own_completion:
        for m in range(len(members)):
            i = members[m]
            own = own_ticks(size, trace.length[i], completion - start, setup.service)
            late += start + own - trace.arrival[i] > limit
        return late
    # Members are in arrival order: the late ones come first.
    while late < len(members) and completion - trace.arrival[members[late]] > limit:
        late += 1
    return late


@inline
def book_windows(members, start, completion, late, trace, setup, tally):
    """Count a batch in the windows in which it starts and completes."""
    reporting, law = setup.reporting, setup.service
    size, width = len(members), reporting.window
    window = window_at(start, width)
    if window < reporting.windows:
        row = tally.windows[window]
        row[STARTED] += size
        row[BATCHES] += 1
        row[START_REST] += size * rest_of_window(start, window, width)
    if not setup.policy.own_completion:
        window = window_at(completion, width)
        if window < reporting.windows:
            row = tally.windows[window]
            row[COMPLETIONS] += size
            row[LATE_REQUESTS] += late
        return
    for m in range(size):
        i = members[m]
        done = start + own_ticks(size, trace.length[i], completion - start, law)
        window = window_at(done, width)
        if window < reporting.windows:
            tally.windows[window, COMPLETIONS] += 1
            tally.windows[window, LATE_REQUESTS] += done - trace.arrival[i] > reporting.request_sla


@inline
def book_missed(members, trace, reporting, tally):
    """Count requests that are never served."""
    totals = tally.totals[0]
    for m in range(len(members)):
        i = members[m]
        if i >= reporting.warmup:
            totals["missed"] += 1
            totals["missed_tokens"] += trace.output[i]
        window = window_at(trace.arrival[i], reporting.window)
        if window < reporting.windows:
            tally.windows[window, MISSED] += 1


@inline
def book_backlog(size, completion, arrival, totals):
    """Count down the requests not yet completed when half, and when all, have arrived."""
    if completion <= arrival[len(arrival) // 2]:
        totals["backlog_half"] -= size
    if completion <= arrival[-1]:
        totals["backlog_end"] -= size


@inline
def open_books(trace, setup, tally):
    """Count what is known before the first batch."""
    requests = len(trace.arrival)
    totals = tally.totals[0]
    totals["first_arrival"] = trace.arrival[min(setup.reporting.warmup, requests - 1)]
    totals["backlog_half"] = requests // 2 + 1
    totals["backlog_end"] = requests
    count_arrivals(trace.arrival, setup.reporting, tally.windows)


@inline
def record(members, j, number, start, service, trace, setup, records):
    """Write what became of each request, where the caller asked for it."""
    if len(records.start) == 0:
        return
    size = len(members)
    for m in range(size):
        i = members[m]
        own = own_ticks(size, trace.length[i], service, setup.service)
        records.start[i] = start
        records.completion[i] = start + (own if setup.policy.own_completion else service)
        records.batch[i] = number
        records.bin[i] = j
        records.size[i] = size
