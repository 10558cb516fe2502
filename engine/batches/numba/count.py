"""Count one batch as it starts: its completion is already known."""

from typing import NamedTuple

import numpy as np

from ...compiling.jit import inline
from ...histogram import bucket_of
from ...moments import LOW
from ...numba.adders import adder, adder_of_times, adder_together
from ...numba.moments import add_shifted, add_value
from ...policies.service import own_ticks, piece_of
from ...statistics import (
    ALWAYS,
    ARRIVED,
    BATCH,
    BATCHES,
    EACH,
    LOST,
    MEASURED,
    MEASURED_BATCH,
    SERVED,
    WHEN_TOGETHER,
    WINDOWS,
    WORK,
    Arrival,
    Batch,
    Limits,
    Lost,
    Request,
    Together,
    Work,
)
from ...ticks import NEVER
from ...windows import rest_of_window, window_at

add_lost = adder(BATCHES, LOST)
add_work, add_work_within = adder(BATCHES, WORK), adder_together(BATCHES, WORK, all_of_them=True)
add_batch, add_measured_batch = adder(BATCHES, BATCH), adder(BATCHES, MEASURED_BATCH)
# Requests that complete together are counted at once as far as there are closed forms, the rest one by one.
add_served, add_measured = adder(BATCHES, SERVED), adder(BATCHES, MEASURED)
add_served_together, add_measured_together = adder_together(BATCHES, SERVED), adder_together(BATCHES, MEASURED)
add_served_rest = adder(BATCHES, SERVED, only=lambda count: count.together is None)
add_measured_rest = adder(BATCHES, MEASURED, only=lambda count: count.together is None)
# Times that all requests of a batch share, those that it takes completing together to share, and every other one.
# `count_waits_and_latencies` has a way of its own for two of them.
FUSED = ("wait", "latency")
add_shared_times = adder_of_times(BATCHES, MEASURED, lambda time: time.alike == ALWAYS)
add_times = adder_of_times(BATCHES, MEASURED, lambda time: time.alike != ALWAYS)
add_times_when_together = adder_of_times(BATCHES, MEASURED, lambda time: time.alike == WHEN_TOGETHER)
add_times_rest = adder_of_times(BATCHES, MEASURED, lambda time: time.alike == EACH and time.name not in FUSED)
SERVED_REST = any(count.over == SERVED and count.together is None for count in BATCHES.counts)
MEASURED_REST = any(count.over == MEASURED and count.together is None for count in BATCHES.counts) or any(
    time.over == MEASURED and time.alike == EACH and time.name not in FUSED for time in BATCHES.times
)
# `count_arrivals` has a way of its own for two counts.
ARRIVALS, QUEUE = BATCHES.at("arrivals", WINDOWS), BATCHES.at("queue", WINDOWS)
add_arrival_rest = adder(BATCHES, ARRIVED, only=lambda count: count.name not in ("arrivals", "queue"))
ARRIVED_REST = any(count.over == ARRIVED and count.name not in ("arrivals", "queue") for count in BATCHES.counts)
FIRST_ARRIVAL = BATCHES.at("first_arrival")
WAIT, LATENCY = BATCHES.time("wait"), BATCHES.time("latency")


@inline
def start_counting(trace, setup, bins, tally):
    """Count what is known before the first batch; return what is known of the whole replication."""
    arrival, reporting = trace.arrival, setup.reporting
    requests = len(arrival)
    since = arrival[min(reporting.warmup, requests - 1)]
    tally.totals[FIRST_ARRIVAL] = since
    limits = Limits(
        reporting.warmup,
        since,
        NEVER,
        requests // 2,
        arrival[requests // 2],
        arrival[requests - 1],
        reporting.request_sla,
        reporting.token_sla,
        setup.control.memory.capacity,
        not setup.service.timed,
        1,
        reporting.window,
        reporting.windows,
    )
    count_arrivals(arrival, bins, limits, tally)
    return limits


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
def count_arrivals(arrival, bins, limits, tally):
    """Count the arrivals, window by window: they are in order."""
    first = 0
    for window in range(limits.windows):
        last = first_at_or_after(arrival, (window + 1) * limits.window)
        rest = 0
        inside = arrival[first:last]
        for i in range(len(inside)):
            rest += rest_of_window(inside[i], window, limits.window)
        row = tally.windows[window]
        row[ARRIVALS] += last - first
        row[QUEUE] += last - first
        row[QUEUE + 1] += rest
        first = last
    if ARRIVED_REST:
        for i in range(len(arrival)):
            window = window_at(arrival[i], limits.window)
            add_arrival_rest(Arrival(1), limits, tally, bins.of[i], window, arrival[i])


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
def request_of(i, start, own, pace, trace, law):
    """Return what one request of a batch shows."""
    arrival, first = trace.arrival[i], start + law.prefill
    return Request(np.int64(i), arrival, start, first, start + own, trace.prompt[i], trace.output[i], pace, arrival)


@inline
def count_batch(members, j, start, service, span, trace, setup, limits, tally):
    """Count one batch of bin j whose service begins at `start`."""
    law, size, completion = setup.service, len(members), start + service
    pace = (service - law.prefill) / span.longest
    extrapolated = law.extrapolated[size, piece_of(span.longest, law)]
    batch = Batch(size, start, service, completion, span.longest, span.lengths, span.tokens, extrapolated)
    window = window_at(start, limits.window)
    add_batch(batch, limits, tally, j, window, start)
    # Members are in arrival order: those of the warm-up come first.
    warm, outputs = 0, span.outputs
    while warm < size and members[warm] < limits.warmup:
        outputs -= trace.output[members[warm]]
        warm += 1
    # Nearly every batch lies inside whole: a division for each was seen to cost those of 8 up to a tenth of their time.
    work = Work(start, service, span.outputs)
    if start >= limits.since:
        add_work_within(work, limits, tally, j, window, start)
    elif not setup.policy.own_completion:
        add_work(work, limits, tally, j, window, start)
    if setup.policy.own_completion:
        count_apart(members, j, start, service, pace, trace, law, limits, tally)
    else:
        late = count_late(members, completion, trace.arrival, limits)
        count_served_together(members, j, start, service, pace, span.outputs, late, trace, law, limits, tally)
        if warm > 0:
            late = count_late(members[warm:], completion, trace.arrival, limits)
        if warm < size:
            count_measured_together(members[warm:], j, start, service, pace, outputs, late, trace, law, limits, tally)
    if warm < size:
        some = request_of(members[warm], start, service, pace, trace, law)
        add_shared_times(some, limits, tally, size - warm)
    if warm == 0:
        add_measured_batch(batch, limits, tally, j, window, start)
        tally.sizes[size] += 1


@inline
def count_served_together(members, j, start, service, pace, outputs, late, trace, law, limits, tally):
    """Count the requests of a batch that complete together, warm-up or not."""
    completion = start + service
    window = window_at(completion, limits.window)
    group = Together(len(members), start, completion, outputs, late, pace, 0, 0)
    add_served_together(group, limits, tally, j, window, completion)
    if SERVED_REST:
        for m in range(len(members)):
            request = request_of(members[m], start, service, pace, trace, law)
            add_served_rest(request, limits, tally, j, window, completion)


@inline
def count_measured_together(members, j, start, service, pace, outputs, late, trace, law, limits, tally):
    """Count measured requests that complete together."""
    completion = start + service
    window = window_at(completion, limits.window)
    waits, latencies = count_waits_and_latencies(members, start, completion, trace.arrival, tally)
    group = Together(len(members), start, completion, outputs, late, pace, waits, latencies)
    add_measured_together(group, limits, tally, j, window, completion)
    some = request_of(members[0], start, service, pace, trace, law)
    add_times_when_together(some, limits, tally, len(members))
    if MEASURED_REST:
        for m in range(len(members)):
            request = request_of(members[m], start, service, pace, trace, law)
            add_measured_rest(request, limits, tally, j, window, completion)
            add_times_rest(request, limits, tally, 1)


@inline
def count_apart(members, j, start, service, pace, trace, law, limits, tally):
    """Count the requests of a batch of which each completes at its own length."""
    for m in range(len(members)):
        i = members[m]
        own = own_ticks(len(members), trace.length[i], service, law)
        request = request_of(i, start, own, pace, trace, law)
        window = window_at(request.completion, limits.window)
        add_served(request, limits, tally, j, window, request.completion)
        if start < limits.since:
            add_work(Work(start, own, request.output), limits, tally, j, window, request.completion)
        if i >= limits.warmup:
            add_measured(request, limits, tally, j, window, request.completion)
            add_times(request, limits, tally, 1)


@inline
def count_late(members, completion, arrival, limits):
    """Count those over the latency limit: members are in arrival order, and the late ones come first."""
    late = 0
    if limits.request_sla == NEVER:
        return late
    while late < len(members) and completion - arrival[members[late]] > limits.request_sla:
        late += 1
    return late


@inline
def add_descending(waits, latencies, members, arrival, start, completion):
    """Count the times from each arrival to both ends; they fall from first to last: equal ends, one bucket for all.

    Both in one loop where both have several: one chain of additions to memory then does not wait for the other.
    """
    count = len(members)
    first, last = arrival[members[0]], arrival[members[count - 1]]
    wait, latency = bucket_of(start - first), bucket_of(completion - first)
    same_wait, same_latency = wait == bucket_of(start - last), latency == bucket_of(completion - last)
    if same_wait:
        waits[np.uint64(wait)] += np.int32(count)
    if same_latency:
        latencies[np.uint64(latency)] += np.int32(count)
    if same_wait and same_latency:
        return
    if same_latency:
        for m in range(count):
            waits[np.uint64(bucket_of(start - arrival[members[m]]))] += np.int32(1)
    elif same_wait:
        for m in range(count):
            latencies[np.uint64(bucket_of(completion - arrival[members[m]]))] += np.int32(1)
    else:
        for m in range(count):
            arrived = arrival[members[m]]
            waits[np.uint64(bucket_of(start - arrived))] += np.int32(1)
            latencies[np.uint64(bucket_of(completion - arrived))] += np.int32(1)


@inline
def count_waits_and_latencies(members, start, completion, arrival, tally):
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
        add_descending(wait_histogram, latency_histogram, members, arrival, start, completion)
    else:
        for m in range(count):
            earlier = last - arrival[members[m]]
            total += np.uint64(earlier)
            add_value(waits, wait_histogram, wait + earlier, 1, wait + earlier)
            add_value(latencies, latency_histogram, latency + earlier, 1, latency + earlier)
    return count * wait + np.int64(total), count * latency + np.int64(total)


@inline
def count_lost(members, j, trace, limits, tally):
    """Count requests of bin j that are never served."""
    for m in range(len(members)):
        i = members[m]
        arrived = trace.arrival[i]
        lost = Lost(np.int64(i), trace.prompt[i], trace.output[i])
        add_lost(lost, limits, tally, j, window_at(arrived, limits.window), arrived)


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
