"""Free servers take what waits: `dynamic_only`, `multi_bin_dynamic`, `fifo_greedy` (docs/model.md, sections 3, 6-8).

Time steps from one completion or idle-server arrival to the next; while all servers are busy, arrivals only queue.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...numba.heap import pop, push
from ...numba.jit import inline, jit
from ...policies.bin_choice import EMPTY, rank
from ...policies.estimates import UNIT, Observation, RunningMeans, observe, read
from ...policies.service import own_ticks, service_ticks
from ...policies.sla import Range
from ...policies.target import Target, learn, start_target
from ...ticks import NEVER
from ...windows import window_at
from ..model import Bins, Setup
from ..tally import LOW, MEMORY_BOUND, SIGNAL_0, SIGNAL_1, SIGNALS, SLA_BOUND, TARGET
from .account import book, open_books, record, span_of


class DynamicWorkspace(NamedTuple):
    """Working memory of `run_dynamic`."""

    bins: NDArray[np.int64]
    """(bin, 2) where each queue begins and ends in `order`."""
    running: NDArray[np.int64]
    """(batch, 7) heap of batches in service: completion, number, bin, and what each will teach, a `Observation`."""
    whole: NDArray[np.int64]
    """(controller, 6) integers of each `Target`."""
    real: NDArray[np.float64]
    """(controller, 4) floats of each `Target`."""
    history: NDArray[np.int64]
    """(controller, observation, 4) what a window still holds."""
    observed: NDArray[np.int64]
    """(controller,) batches seen."""


HEAD, TAIL = range(2)


def dynamic_workspace(bins: Bins, setup: Setup) -> DynamicWorkspace:
    """Allocate working memory; pages of the heap that are never touched cost nothing."""
    count = len(bins.start) - 1
    controllers = count if setup.policy.per_bin else 1
    return DynamicWorkspace(
        bins=np.zeros((count, 2), np.int64),
        running=np.empty((min(setup.policy.servers, len(bins.of)) + 1, 7), np.int64),
        whole=np.zeros((controllers, 6), np.int64),
        real=np.zeros((controllers, 4), np.float64),
        history=np.zeros((controllers, setup.control.smoothing.observations, 4), np.int64),
        observed=np.zeros(controllers, np.int64),
    )


@inline
def load(k, workspace):
    """Read the state of controller k."""
    whole, real = workspace.whole[k], workspace.real[k]
    running = RunningMeans(whole[0], Observation(whole[1], whole[2], whole[3], whole[4]))
    return Target(running, Range(real[0], real[1]), real[2], real[3], whole[5])


@inline
def store(k, target, workspace):
    """Keep the state of controller k."""
    whole, real, total = workspace.whole[k], workspace.real[k], target.running.total
    whole[0], whole[1], whole[2], whole[3] = target.running.seen, total.signal, total.batch, total.tokens
    whole[4], whole[5] = total.squares, target.batch
    real[0], real[1], real[2], real[3] = target.span.low, target.span.high, target.memory_bound, target.sla_bound


@inline
def signal_of(members, start, service, longest_output, trace, setup):
    """Return the signal τ of a batch, in ticks."""
    choice = setup.control.sla.signal
    if choice == 0:
        return service / max(longest_output, 1)
    if choice == 1:
        return np.float64(service)
    size = len(members)
    latencies = 0
    for m in range(size):
        i = members[m]
        own = own_ticks(size, trace.length[i], service, setup.service) if setup.policy.own_completion else service
        latencies += start + own - trace.arrival[i]
    return np.float64(latencies // size)


@inline
def choose_bin(order, queues, previous, policy):
    """Return the bin that a free server takes from."""
    best, best_rank = 0, EMPTY
    for j in range(len(queues)):
        waiting = queues[j, TAIL] - queues[j, HEAD]
        first = np.int64(order[queues[j, HEAD]]) if waiting > 0 else EMPTY
        value = rank(policy.bin_choice, j, first, waiting, previous, len(queues))
        if value < best_rank:
            best, best_rank = j, value
    return best


@inline
def learn_from(batch, waiting, control, per_bin, workspace):
    """Teach the controller what a finished batch, a row of the heap, has shown."""
    j = batch[2]
    k = j if per_bin else 0
    slot = workspace.observed[k] % control.smoothing.observations
    workspace.observed[k] += 1
    old = workspace.history[k, slot]
    oldest = Observation(old[0], old[1], old[2], old[3])
    old[0], old[1], old[2], old[3] = batch[3], batch[4], batch[5], batch[6]
    queued = workspace.bins[j, TAIL] - workspace.bins[j, HEAD] if per_bin else waiting
    new = Observation(batch[3], batch[4], batch[5], batch[6])
    store(k, learn(load(k, workspace), new, oldest, queued, k, control), workspace)


@inline
def book_target(target, start, control, reporting, windows):
    """Count the decision under which a batch starts."""
    window = window_at(start, reporting.window)
    if window < reporting.windows:
        row = windows[window]
        row[TARGET] += target.batch
        row[MEMORY_BOUND] += np.int64(target.memory_bound)
        row[SLA_BOUND] += np.int64(target.sla_bound)
        if target.running.seen > 0:
            row[SIGNALS] += 1
            signal = np.int64(read(target.running.total.signal, target.running, control.smoothing) * UNIT)
            row[SIGNAL_0] += signal & LOW
            row[SIGNAL_1] += signal >> 32


@jit
def run_dynamic(trace, bins, setup, tally, records, workspace):
    """Simulate one replication into an empty tally; fill `records` unless they have length 0."""
    open_books(trace, setup, tally)
    policy, control, order = setup.policy, setup.control, bins.order
    arrival, queues, running = trace.arrival, workspace.bins, workspace.running
    for j in range(len(queues)):
        queues[j, HEAD] = queues[j, TAIL] = bins.start[j]
    for k in range(len(workspace.observed)):
        store(k, start_target(k, control), workspace)
    requests = len(arrival)
    arrived = waiting = number = busy = 0
    previous = -1
    while arrived < requests or busy > 0:
        now = running[0, 0] if busy > 0 else NEVER
        if busy < policy.servers and arrived < requests:
            now = min(now, arrival[arrived])
        # (1) Completions; those who arrived before this instant are already waiting.
        while arrived < requests and arrival[arrived] < now:
            queues[bins.of[arrived], TAIL] += 1
            arrived, waiting = arrived + 1, waiting + 1
        while busy > 0 and running[0, 0] == now:
            pop(running, busy)
            busy -= 1
            learn_from(running[busy], waiting, control, policy.per_bin, workspace)
        # (2) Arrivals.
        while arrived < requests and arrival[arrived] == now:
            queues[bins.of[arrived], TAIL] += 1
            arrived, waiting = arrived + 1, waiting + 1
        # (3) Dispatch until none can.
        while waiting > 0 and busy < policy.servers:
            j = choose_bin(order, queues, previous, policy)
            target = load(j if policy.per_bin else 0, workspace)
            low = queues[j, HEAD]
            size = min(queues[j, TAIL] - low, target.batch)
            high = low + size
            members = order[low:high]
            span = span_of(members, trace, setup.service.timed)
            service = service_ticks(size, span.longest, setup.service)
            book(members, j, now, service, span, trace, setup, tally)
            book_target(target, now, control, setup.reporting, tally.windows)
            record(members, j, number, now, service, trace, setup, records)
            signal = signal_of(members, now, service, span.longest_output, trace, setup)
            seen = observe(signal, size, span.tokens, span.squares)
            row = running[busy]
            row[0], row[1], row[2] = now + service, number, j
            row[3], row[4], row[5], row[6] = seen.signal, seen.batch, seen.tokens, seen.squares
            push(running, busy)
            queues[j, HEAD], previous = high, j
            busy, waiting, number = busy + 1, waiting - size, number + 1
    tally.totals[0]["unserved"] = requests - tally.totals[0]["completed"]
