"""Dynamic batches: `dynamic_only`, `multi_bin_dynamic`, `fifo_greedy` (docs/model.md, sections 3, 6-8).

Time steps from one completion or idle-server arrival to the next; while all servers are busy, arrivals only queue.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...compiling.jit import inline, jit
from ...numba.adders import adder_of_decisions
from ...numba.heap import pop, push
from ...numba.state import Structure, floats_of, packing, structure_for
from ...policies.controller import Controller, Heads, View, controller_of
from ...policies.estimates import UNIT, Observation, RunningMeans, observe, start_means, update
from ...policies.order import Candidate, Order, is_sooner, order_of
from ...policies.service import own_ticks, service_ticks
from ...policies.sla import BATCH_TIME, TBT
from ...policies.target import Target, decider, finished_of, last_of, steps_of
from ...statistics import BATCHES
from ...ticks import NEVER, TICKS_PER_MICROSECOND
from ...windows import window_at
from ..model import Bins, Setup
from .count import count_batch, record, span_of, start_counting

add_decision = adder_of_decisions(BATCHES)


class DynamicWorkspace(NamedTuple):
    """Working memory of a kernel."""

    bins: NDArray[np.int64]
    """(bin, 2) where each queue begins in `order`, and how many wait."""
    running: NDArray[np.int64]
    """(batch, 7) heap of batches in service: completion, number, bin, and what each will teach, an `Observation`."""
    whole: NDArray[np.int64]
    """(controller, 6) the running means, and the integer of each `Target`."""
    real: NDArray[np.float64]
    """(controller, 2) floats of each `Target`."""
    state: NDArray[np.float64]
    """(controller, number) state of the controllers."""
    history: NDArray[np.int64]
    """(controller, observation, 4) what a window still holds."""
    observed: NDArray[np.int64]
    """(controller,) batches seen."""


HEAD, COUNT = range(2)


def dynamic_workspace(bins: Bins, setup: Setup, numbers: int) -> DynamicWorkspace:
    """Allocate working memory, for controllers with so many `numbers`; pages that are never touched cost nothing."""
    count = len(bins.start) - 1
    controllers = count if setup.policy.per_bin else 1
    return DynamicWorkspace(
        bins=np.zeros((count, 2), np.int64),
        running=np.empty((min(setup.policy.servers, len(bins.of)) + 1, 7), np.int64),
        whole=np.zeros((controllers, 6), np.int64),
        real=np.zeros((controllers, 2), np.float64),
        state=np.zeros((controllers, numbers), np.float64),
        history=np.zeros((controllers, setup.control.smoothing.observations, 4), np.int64),
        observed=np.zeros(controllers, np.int64),
    )


@inline
def means_of(k, workspace):
    """Read the running means that controller k sees."""
    whole = workspace.whole[k]
    return RunningMeans(whole[0], Observation(whole[1], whole[2], whole[3], whole[4]))


@inline
def target_of(k, workspace):
    """Read what controller k has decided."""
    return Target(means_of(k, workspace), workspace.real[k, 0], workspace.real[k, 1], workspace.whole[k, 5])


@inline
def keep(k, target, workspace):
    """Keep what controller k has decided."""
    whole, real, total = workspace.whole[k], workspace.real[k], target.running.total
    whole[0], whole[1], whole[2], whole[3] = target.running.seen, total.signal, total.batch, total.tokens
    whole[4], whole[5] = total.squares, target.batch
    real[0], real[1] = target.memory_bound, target.sla_bound


@inline
def view_of(k, now, queued, running, means, new, trace, order, setup, workspace):
    """Return what controller k sees once a batch has finished, with the running means after it."""
    control, queues = setup.control, workspace.bins
    heads = Heads(queues[:, HEAD], order, trace.arrival, trace.prompt, trace.predicted, now, TICKS_PER_MICROSECOND)
    return View(
        queued > 0,
        queued,
        running,
        0,
        queues[:, COUNT],
        heads,
        k if setup.policy.per_bin else -1,
        control.smallest,
        control.largest,
        steps_of(means, control.smoothing),
        finished_of(means, control.prior_tokens[k], control.prior_squares[k], control.smoothing),
        last_of(new, new),
    )


@inline
def signal_of(members, start, service, longest_output, trace, setup):
    """Return the signal τ of a batch, in ticks."""
    chosen = setup.control.sla.signal
    if chosen == TBT:
        return service / max(longest_output, 1)
    if chosen == BATCH_TIME:
        return np.float64(service)
    size = len(members)
    latencies = 0
    for m in range(size):
        i = members[m]
        own = own_ticks(size, trace.length[i], service, setup.service) if setup.policy.own_completion else service
        latencies += start + own - trace.arrival[i]
    return np.float64(latencies // size)


@inline
def choose_bin(key, trace, order, queues, previous, settings):
    """Return the bin that a free server takes from: of those in which requests wait, the first by its key."""
    best, least = -1, np.inf
    for j in range(len(queues)):
        if queues[j, COUNT] > 0:
            i = order[queues[j, HEAD]]
            arrival, prompt = trace.arrival[i] / TICKS_PER_MICROSECOND, trace.prompt[i] * 1.0
            seen = Candidate(j, queues[j, COUNT], i * 1.0, arrival, prompt, trace.predicted[i], 0.0, previous, 0)
            value = key(seen, settings) * 1.0
            if best < 0 or is_sooner(value, least):
                best, least = j, value
    return best


@inline
def exchanged(k, new, control, workspace):
    """Keep an observation of controller k, and return the one that leaves a full window; zeros before that."""
    row = workspace.history[k, workspace.observed[k] % control.smoothing.observations]
    workspace.observed[k] += 1
    oldest = Observation(row[0], row[1], row[2], row[3])
    row[0], row[1], row[2], row[3] = new.signal, new.batch, new.tokens, new.squares
    return oldest


@cache
def dynamic_kernel(further: Controller | None, structure: Structure, bin_choice: Order) -> Callable[..., None]:
    """Return the kernel that has an order and the papers' controllers compiled in, and a further one if there is one.

    `structure` is that of the controllers' state. A kernel simulates one replication into an empty tally; it fills
    `records` unless they have length 0.
    """
    start_all, decide_all = decider(further)
    load, store = packing(structure)
    key = bin_choice.key

    @jit
    def run_dynamic(trace, bins, setup, tally, records, workspace):
        limits = start_counting(trace, setup, bins, tally)
        policy, control, order = setup.policy, setup.control, bins.order
        arrival, queues, running = trace.arrival, workspace.bins, workspace.running
        for j in range(len(queues)):
            queues[j, HEAD], queues[j, COUNT] = bins.start[j], 0
        for k in range(len(workspace.observed)):
            means = start_means()
            view = view_of(k, 0, 0, 0, means, means.total, trace, order, setup, workspace)
            state, target = start_all(means, view, control)
            store(workspace.state[k], state)
            keep(k, target, workspace)
        requests = len(arrival)
        arrived = waiting = number = busy = serving = 0
        previous = -1
        while arrived < requests or busy > 0:
            now = running[0, 0] if busy > 0 else NEVER
            if busy < policy.servers and arrived < requests:
                now = min(now, arrival[arrived])
            # (1) Completions; those who arrived before this instant are already waiting.
            while arrived < requests and arrival[arrived] < now:
                queues[bins.of[arrived], COUNT] += 1
                arrived, waiting = arrived + 1, waiting + 1
            while busy > 0 and running[0, 0] == now:
                pop(running, busy)
                busy -= 1
                done = running[busy]
                k = done[2] if policy.per_bin else 0
                new = Observation(done[3], done[4], done[5], done[6])
                oldest = exchanged(k, new, control, workspace)
                means = update(means_of(k, workspace), new, oldest, control.smoothing)
                queued = queues[k, COUNT] if policy.per_bin else waiting
                view = view_of(k, now, queued, serving, means, new, trace, order, setup, workspace)
                state, target = decide_all(load(workspace.state[k]), means, view, control)
                store(workspace.state[k], state)
                keep(k, target, workspace)
                serving -= new.batch // UNIT
            # (2) Arrivals.
            while arrived < requests and arrival[arrived] == now:
                queues[bins.of[arrived], COUNT] += 1
                arrived, waiting = arrived + 1, waiting + 1
            # (3) Dispatch until none can.
            while waiting > 0 and busy < policy.servers:
                j = choose_bin(key, trace, order, queues, previous, policy.bin_choice)
                target = target_of(j if policy.per_bin else 0, workspace)
                low = queues[j, HEAD]
                size = min(queues[j, COUNT], target.batch)
                high = low + size
                members = order[low:high]
                span = span_of(members, trace, setup.service.timed)
                service = service_ticks(size, span.longest, setup.service)
                count_batch(members, j, now, service, span, trace, setup, limits, tally)
                add_decision(1, target, control.smoothing, limits, tally, j, window_at(now, limits.window), now)
                record(members, j, number, now, service, trace, setup, records)
                signal = signal_of(members, now, service, span.longest_output, trace, setup)
                seen = observe(signal, size, span.tokens, span.squares)
                row = running[busy]
                row[0], row[1], row[2] = now + service, number, j
                row[3], row[4], row[5], row[6] = seen.signal, seen.batch, seen.tokens, seen.squares
                push(running, busy)
                queues[j, HEAD], queues[j, COUNT], previous = high, queues[j, COUNT] - size, j
                busy, waiting, serving, number = busy + 1, waiting - size, serving + size, number + 1

    return run_dynamic


def run_dynamic(trace: Any, bins: Any, setup: Any, tally: Any, records: Any) -> None:
    """Simulate one replication into an empty tally; fill `records` unless they have length 0."""
    further = controller_of(setup.control.further)
    structure = structure_for(setup.control)
    workspace = dynamic_workspace(bins, setup, floats_of(structure))
    dynamic_kernel(further, structure, order_of(setup.policy.bin_choice))(trace, bins, setup, tally, records, workspace)
