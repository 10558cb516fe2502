"""All replicas, and the way of requests to them."""

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numpy as np

from ...compiling.jit import inline, jit
from ...numba.state import Structure, floats_of, packing, structure_for
from ...policies.controller import Controller, controller_of
from ...policies.order import Order, order_of
from ...policies.target import decider
from ...ticks import NEVER
from ..fleet import COUNTED_EVERY, SHORTEST_QUEUE, counts_loads, first_asked, load_of, looks_at_queues
from ..following import judged_by
from ..model import REJECTED, Job
from .count import KEPT, OVERRUN, count_requests, first_arrival, start_counting
from .queues import enqueue
from .replica import advance, has_rules, view_of, with_rules
from .workspace import IN_STEP, NOW, RUNNING, STEPS, TOKENS, USED, WAITING, make_workspace, means_of, part_of


@inline
def running_at(now, state):
    """Return how many run: those that the step under way completes still do."""
    return state[IN_STEP] if state[NOW] > now else state[RUNNING]


@inline
def count_all(now, workspace):
    """Tell the front who is where."""
    for r in range(len(workspace.counts)):
        state, known = workspace.state[r], workspace.counts[r]
        known[0], known[1], known[2] = state[WAITING], running_at(now, state), state[USED]


@inline
def way_to(now, turn, blocks, fleet, workspace):
    """Return the replica that a request goes to, and count it there; it is the `turn`-th that is not turned away.

    Each replica has so many `blocks`.
    """
    best = first = first_asked(turn, fleet)
    least = np.inf
    for k in range(fleet.replicas):
        r = (first + k) % fleet.replicas
        state, known = workspace.state[r], workspace.counts[r]
        load = (state[WAITING] + running_at(now, state)) * 1.0
        if fleet.routing != SHORTEST_QUEUE:
            load = load_of(known[0], known[1], known[2], blocks, fleet)
        if load < least:
            best, least = r, load
    workspace.counts[best, 0] += 1
    return best


@cache
def fleet_kernel(
    further: Controller | None, structure: Structure, bin_choice: Order, rules: bool
) -> Callable[..., None]:
    """Return the kernel that has an order and the papers' controllers compiled in, and a further one if there is one.

    `structure` is that of the controllers' state; `rules` are those of `replica.has_rules`. A kernel serves or rejects
    every request. Requests order[begin[r]:begin[r + 1]] are sent to replica r, known beforehand; where the way depends
    on the queues, there are none, and everybody is sent on arrival.
    """
    start_all, decide_all = decider(further)
    load, store = packing(structure)
    key = bin_choice.key

    @jit
    def run_fleet(requests, bin_of, setup, records, tally, workspace, order, begin, judged):
        given, fleet, reporting = setup
        law, control, replica = given.law, given.control, with_rules(given, rules)
        arrival, replicas = requests.arrival, fleet.replicas
        for r in range(replicas):
            part = part_of(workspace, r, rules and workspace.caching, False)
            view = view_of(0, requests, control, part)
            store(part.kept, start_all(means_of(STEPS, part), view, control)[0])
        limits = start_counting(first_arrival(requests, records, reporting), NEVER, judged, requests, reporting, tally)
        rounds = len(arrival) if looks_at_queues(fleet) else 0
        counted = turn = 0
        for i in range(rounds + 1):
            if i < rounds and records.status[i] == REJECTED:
                continue
            until = arrival[i] if i < rounds else NEVER
            due = until // COUNTED_EVERY * COUNTED_EVERY
            counting = i < rounds and counts_loads(fleet) and due > counted
            for last in range(0 if counting else 1, 2):
                for r in range(replicas):
                    mine = order[begin[r] : begin[r + 1]]
                    part = part_of(workspace, r, rules and workspace.caching, False)
                    advance(
                        requests, bin_of, law, control, replica, fleet, records, limits, tally, part, mine,
                        until if last else due, decide_all, load, store, key,
                    )  # fmt: skip
                    if tally.totals[OVERRUN]:
                        return
                if not last:
                    count_all(due, workspace)
                    counted = due
            if i < rounds:
                r = way_to(until, turn, replica.blocks, fleet, workspace)
                turn += 1
                part = part_of(workspace, r, rules and workspace.caching, False)
                part.state[NOW] = max(part.state[NOW], until)
                enqueue(part, i, bin_of[i] if fleet.by_bin else 0, requests, replica)
                records.replica[i] = r
        for r in range(replicas):
            tally.totals[KEPT] += abs(workspace.state[r, TOKENS]) + abs(workspace.state[r, USED])
        count_requests(requests, bin_of, records, limits, tally)

    return run_fleet


def run_fleet(job: Job, records: Any, tally: Any, order: Any, begin: Any, *, leaps: bool = True) -> None:
    """Serve or reject every request of a replication; fill its records, and the empty tally.

    Without `leaps`, steps that are alike are taken one by one: to measure and test what leaps are worth.
    """
    control = job.setup.replica.control
    structure = structure_for(control)
    workspace = make_workspace(job, floats_of(structure))
    if not leaps:
        workspace = workspace._replace(steady=False)
    further, order_of_bins = controller_of(control.further), order_of(job.setup.fleet.bin_choice)
    kernel = fleet_kernel(further, structure, order_of_bins, has_rules(job.setup.replica))
    judged = judged_by(job.requests)
    # Content is in the workspace; in the requests it would go through every part of the kernel.
    requests: Any = cast("Any", job.requests)._replace(content=())
    kernel(requests, job.bin_of, job.setup, records, tally, workspace, order, begin, judged)
