"""Static batches: `multi_bin_only` and `fifo_fixed` ([MB] Algorithm 1; docs/model.md, section 3).

Nothing that happens at the servers changes which requests form a batch, or when. So there is no walk over arrivals:
each bin knows when its next batch forms, and batches are served in that order.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...compiling.jit import inline, jit
from ...numba.heap import pop, push
from ...policies.order import Candidate, Order, order_of, rank_of
from ...policies.service import service_ticks
from ...ticks import NEVER, TICKS_PER_MICROSECOND
from ..model import INFINITE, Bins, Setup, deadline_of
from .count import count_batch, count_lost, record, span_of, start_counting

# Why a batch forms, in the order in which those of one instant do.
FULL, WAITED, ENDED = 0, 1, 2


class StaticWorkspace(NamedTuple):
    """Working memory of a kernel."""

    bins: NDArray[np.int64]
    """(bin, 5) head of the bin in `order`, and its next batch: instant, cause, tie-breaker, end in `order`."""
    free: NDArray[np.int64]
    """(server,) when each server is free; one entry, always 0, when there are infinitely many."""
    formed: NDArray[np.int64]
    """(batch, 5) heap of formed batches, where they are ranked: rank, number formed, bin, low, high."""


HEAD, INSTANT, CAUSE, TIE, END = range(5)


def static_workspace(bins: Bins, setup: Setup) -> StaticWorkspace:
    """Allocate working memory; pages of the heap that are never touched cost nothing."""
    count = len(bins.start) - 1
    waiting = len(bins.of) + 1 if setup.policy.ranked else 1
    servers = 1 if setup.policy.servers == INFINITE else setup.policy.servers
    return StaticWorkspace(
        np.zeros((count, 5), np.int64), np.zeros(servers, np.int64), np.empty((waiting, 5), np.int64)
    )


@inline
def next_formed(j, head, end, trace, order, policy):
    """Return when bin j next forms a batch, why, the tie-breaker, and where the batch ends in `order`."""
    last = trace.arrival[-1]
    if head == end:
        return NEVER, ENDED, j, end
    deadline = deadline_of(trace.arrival[order[head]], policy)
    if end - head >= policy.batch_size:
        closing = order[head + policy.batch_size - 1]
        if trace.arrival[closing] <= deadline:
            return trace.arrival[closing], FULL, np.int64(closing), head + policy.batch_size
    if deadline <= last or (policy.drop_tail and deadline < NEVER):
        high = head + 1
        while high < end and trace.arrival[order[high]] <= deadline:
            high += 1
        return deadline, WAITED, j, high
    if policy.drop_tail:
        return NEVER, ENDED, j, end
    return last, ENDED, j, end


@inline
def plan(j, trace, bins, policy, queues):
    """Note the next batch of bin j."""
    instant, cause, tie, end = next_formed(j, queues[j, HEAD], bins.start[j + 1], trace, bins.order, policy)
    queues[j, INSTANT], queues[j, CAUSE], queues[j, TIE], queues[j, END] = instant, cause, tie, end


@inline
def first_of(queues):
    """Return the bin whose next batch forms first."""
    best = 0
    for j in range(1, len(queues)):
        for field in (INSTANT, CAUSE, TIE):
            if queues[j, field] != queues[best, field]:
                if queues[j, field] < queues[best, field]:
                    best = j
                break
    return best


@inline
def serve(low, high, j, number, start, trace, bins, setup, limits, tally, records):
    """Run one batch from `start`; return its completion."""
    members = bins.order[low:high]
    span = span_of(members, trace, setup.service.timed)
    service = service_ticks(len(members), span.longest, setup.service)
    count_batch(members, j, start, service, span, trace, setup, limits, tally)
    record(members, j, number, start, service, trace, setup, records)
    return start + service


@inline
def candidate_of(j, members, number, trace, law):
    """Return what an order sees of a formed batch."""
    longest, i = 0.0, members[0]
    for m in range(len(members)):
        longest = max(longest, trace.predicted[members[m]])
    arrival, service = trace.arrival[i] / TICKS_PER_MICROSECOND, service_ticks(len(members), longest, law)
    prompt, service_us = trace.prompt[i] * 1.0, service / TICKS_PER_MICROSECOND
    return Candidate(j, len(members), i * 1.0, arrival, prompt, longest, service_us, -1, number)


@inline
def earliest(free):
    """Return the server that is free first, the lowest on a tie (np.argmin is a call, and slower)."""
    best = 0
    for server in range(1, len(free)):
        if free[server] < free[best]:
            best = server
    return best


@cache
def static_kernel(service_order: Order) -> Callable[..., None]:
    """Return the kernel that has an order compiled in.

    A kernel simulates one replication into an empty tally; it fills `records` unless they have length 0.
    """
    key = service_order.key

    @jit
    def run_static(trace, bins, setup, tally, records, workspace):
        limits = start_counting(trace, setup, bins, tally)
        policy, queues, free, formed = setup.policy, workspace.bins, workspace.free, workspace.formed
        for j in range(len(queues)):
            queues[j, HEAD] = bins.start[j]
            plan(j, trace, bins, policy, queues)
        number = formations = formed_at = waiting = 0
        finite = policy.servers < INFINITE
        while True:
            j = first_of(queues)
            now = queues[j, INSTANT]
            server = earliest(free)
            start = max(formed_at, free[server])
            if waiting > 0 and start < now:
                # All that form at the last instant are in: the server takes the first of the batches that wait.
                pop(formed, waiting)
                waiting -= 1
                k, low, high = formed[waiting, 2], formed[waiting, 3], formed[waiting, 4]
            elif now == NEVER:
                break
            else:
                k, low, high = j, queues[j, HEAD], queues[j, END]
                queues[j, HEAD] = high
                plan(j, trace, bins, policy, queues)
                formations, formed_at = formations + 1, now
                if policy.ranked:
                    row = formed[waiting]
                    seen = candidate_of(j, bins.order[low:high], formations - 1, trace, setup.service)
                    row[0], row[1] = rank_of(key(seen, policy.service_order)), formations
                    row[2], row[3], row[4] = j, low, high
                    push(formed, waiting)
                    waiting += 1
                    continue
                start = max(now, free[server])
            done = serve(low, high, k, number, start, trace, bins, setup, limits, tally, records)
            free[server] = done if finite else 0
            number += 1
        for j in range(len(queues)):
            count_lost(bins.order[queues[j, HEAD] : bins.start[j + 1]], j, trace, limits, tally)

    return run_static


def run_static(trace: Any, bins: Any, setup: Any, tally: Any, records: Any) -> None:
    """Simulate one replication into an empty tally; fill `records` unless they have length 0."""
    kernel = static_kernel(order_of(setup.policy.service_order))
    kernel(trace, bins, setup, tally, records, static_workspace(bins, setup))
