"""Replicas whose requests come when others end, or that step together: all of them in the order of time."""

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numpy as np

from ...compiling.jit import inline, jit
from ...numba.heap import pop, push
from ...numba.state import Structure, floats_of, packing, structure_for
from ...policies.controller import Controller, controller_of
from ...policies.order import Order, order_of
from ...policies.target import decider
from ...statistics import CONTINUOUS
from ...tally import new_tally, row_of
from ...ticks import NEVER
from ..fleet import BY_BIN, COUNTED_EVERY, counts_loads, looks_at_queues
from ..following import ARRIVES, ENDS, followers, follows_of, judged_by, makespan_begins
from ..model import NOBODY, REJECTED, Job
from .count import KEPT, OVERRUN, count_requests, start_counting
from .fleet import count_all, way_to
from .lockstep import PLANNED, step_together
from .queues import enqueue
from .replica import advance, view_of, with_rules
from .workspace import ENDED, NOW, RUNNING, STEPS, TOKENS, USED, WAITING, make_workspace, means_of, part_of

_BITS = 32
_NUMBER = 2**_BITS - 1
"""A request has one thing ahead of it at most: its number, with the kind of it in the bits above."""


@inline
def put(agenda, size, instant, kind, i):
    """Put what happens to a request onto the agenda, which held `size` before; return how many it holds.

    The agenda is a heap: what is ahead, ends and arrivals that are known by now, in rows of when and what. At one
    instant ends come before arrivals, then by number.
    """
    agenda[size, 0], agenda[size, 1] = instant, i | kind << _BITS
    push(agenda, size)
    return size + 1


@inline
def makespan(requests, records, warmup, after):
    """Return when the makespan begins and until when it goes, by the arrivals that are known."""
    since, until, closed = NEVER, NEVER, len(after.anybody) > 0
    for i in range(warmup, len(requests.arrival)):
        if records.status[i] != REJECTED:
            since = min(since, makespan_begins(i, requests, closed))
    if since == NEVER:
        since = requests.arrival[len(requests.arrival) - 1]
    if closed:
        until = requests.arrival[after.anybody[-1]] - requests.delay[after.anybody[-1]]
    return min(since, until), until


@cache
def following_kernel(
    further: Controller | None, structure: Structure, bin_choice: Order, lockstep: bool
) -> Callable[..., None]:
    """Return the kernel like `fleet.fleet_kernel`, for requests that come when others end, or replicas in `lockstep`.

    Steps are taken on the replica whose next one begins first, as long as nothing that others bring about can come
    before. Called with `rehearsal`, it stops when all is known that says when the makespan begins and ends: at the
    first arrival past the warm-up; in a closed loop, when the last request has a user.
    """
    start_all, decide_all = decider(further)
    load, store = packing(structure)
    key = bin_choice.key

    @jit
    def run_following(requests, bin_of, setup, records, tally, workspace, agenda, after, judged, rehearsal, plans):
        given, fleet, reporting = setup
        law, control, replica = given.law, given.control, with_rules(given, True)
        arrival, replicas = requests.arrival, fleet.replicas
        for r in range(replicas):
            part = part_of(workspace, r, workspace.caching, True)
            view = view_of(0, requests, control, part)
            store(part.kept, start_all(means_of(STEPS, part), view, control)[0])
        since, until = makespan(requests, records, reporting.warmup, after)
        limits = start_counting(since, until, judged, requests, reporting, tally)
        sent = workspace.numbers[:0]
        ahead = turn = released = counted = 0
        for i in range(len(arrival)):
            if requests.follows[i] == NOBODY:
                ahead = put(agenda, ahead, arrival[i], ARRIVES, i)
        while True:
            r, start, others = 0, NEVER, NEVER
            for one in range(replicas):
                state = workspace.state[one]
                if state[RUNNING] + state[WAITING] > 0:
                    if state[NOW] < start:
                        r, start, others = one, state[NOW], start
                    else:
                        others = min(others, state[NOW])
            coming = agenda[0, 0] if ahead > 0 else NEVER
            if counts_loads(fleet):
                # Until then nothing changes.
                due = min(start, coming) // COUNTED_EVERY * COUNTED_EVERY
                if due > counted:
                    count_all(due, workspace)
                    counted = due
            if ahead > 0 and coming <= start:
                pop(agenda, ahead)
                ahead -= 1
                kind, i = agenda[ahead, 1] >> _BITS, agenda[ahead, 1] & _NUMBER
                if kind == ENDS:
                    for k in range(after.begin[i], after.begin[i + 1]):
                        j = after.of[k]
                        arrival[j] = coming + requests.delay[j]
                        ahead = put(agenda, ahead, arrival[j], ARRIVES, j)
                    if after.begin[i] == after.begin[i + 1] and released < len(after.anybody):
                        j = after.anybody[released]
                        released += 1
                        arrival[j] = coming + requests.delay[j]
                        ahead = put(agenda, ahead, arrival[j], ARRIVES, j)
                        if rehearsal and released == len(after.anybody):
                            return
                    continue
                if records.status[i] == REJECTED:
                    ahead = put(agenda, ahead, coming, ENDS, i)
                    continue
                if rehearsal and i >= reporting.warmup and len(after.anybody) == 0:
                    return
                r = turn % replicas
                if looks_at_queues(fleet):
                    r = way_to(coming, turn, replica.blocks, fleet, workspace)
                elif fleet.routing == BY_BIN:
                    r = bin_of[i] * replicas // fleet.bins
                turn += 1
                part = part_of(workspace, r, workspace.caching, True)
                part.state[NOW] = max(part.state[NOW], coming)
                enqueue(part, i, bin_of[i] if fleet.by_bin else 0, requests, replica)
                records.replica[i] = r
                continue
            if start == NEVER:
                break
            first, last = 0, replicas
            if lockstep:
                step_together(
                    start, plans, requests, law, control, replica, fleet, records, limits, tally, workspace, decide_all,
                    load, store, key,
                )  # fmt: skip
            else:
                first, last = r, r + 1
                until = min(coming, max(others, start + 1))
                if counts_loads(fleet):
                    until = min(until, (start // COUNTED_EVERY + 1) * COUNTED_EVERY)
                part = part_of(workspace, r, workspace.caching, True)
                advance(
                    requests, bin_of, law, control, replica, fleet, records, limits, tally, part, sent, until,
                    decide_all, load, store, key,
                )  # fmt: skip
            if tally.totals[OVERRUN]:
                return
            for r in range(first, last):
                for k in range(workspace.state[r, ENDED]):
                    i = workspace.lists[r, ENDED, k]
                    ahead = put(agenda, ahead, records.last_token[i], ENDS, i)
                workspace.state[r, ENDED] = 0
        for r in range(replicas):
            tally.totals[KEPT] += abs(workspace.state[r, TOKENS]) + abs(workspace.state[r, USED])
        count_requests(requests, bin_of, records, limits, tally)

    return run_following


def run_following(job: Job, records: Any, tally: Any) -> None:
    """Serve or reject every request of a replication; see `fleet.run_fleet`.

    When the makespan begins and ends is not known before it does where requests follow others: a rehearsal tells.
    """
    control, fleet, whom = job.setup.replica.control, job.setup.fleet, follows_of(job.requests)
    count, follow_others = len(whom), len(job.requests.follows) > 0
    structure, order = structure_for(control), order_of(fleet.bin_choice)
    kernel = following_kernel(controller_of(control.further), structure, order, fleet.lockstep)
    # As for `fleet.run_fleet`: parts that were compiled for one kernel are then found by the other.
    requests: Any = cast("Any", job.requests)._replace(content=())
    if not follow_others:
        # The kernel writes arrivals as they come about: as they were given.
        requests = requests._replace(follows=whom, delay=np.zeros_like(whom), arrival=requests.arrival.copy())
    after, judged = followers(job.requests), judged_by(job.requests)
    scratch = records._replace(**{name: getattr(records, name).copy() for name in records._fields if name != "arrival"})
    for rehearsal in (True, False) if follow_others else (False,):
        kernel(
            requests,
            job.bin_of,
            job.setup,
            scratch if rehearsal else records,
            row_of(new_tally(CONTINUOUS, 1, job.shape), 0) if rehearsal else tally,
            make_workspace(job, floats_of(structure)),
            np.zeros((count, 2), np.int64),
            after,
            judged,
            rehearsal,
            np.zeros((fleet.replicas, PLANNED), np.int64),
        )
