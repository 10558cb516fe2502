"""All replicas, and the way of requests to them."""

from ...numba.jit import inline, jit
from ...policies.admission import start_admission
from ..model import NEVER, REJECTED, ROUTINGS
from ..tally import FIRST_ARRIVAL, KEPT, LATE
from .account import book_requests
from .queues import enqueue
from .replica import advance
from .workspace import IN_STEP, NOW, RUNNING, TOKENS, USED, WAITING, part_of, store

SHORTEST_QUEUE = ROUTINGS.index("shortest_queue")


@inline
def first_arrival(requests, records, reporting):
    """Return the arrival of the first measured request, of the last request where none is."""
    count = len(requests.arrival)
    for i in range(reporting.warmup, count):
        if records.status[i] != REJECTED:
            return requests.arrival[i]
    return requests.arrival[count - 1]


@inline
def shortest(now, replicas, workspace):
    """Return the replica with the fewest requests, the first of them on a tie."""
    best, fewest = 0, NEVER
    for r in range(replicas):
        state = workspace.state[r]
        # Those that its step under way completes are still there.
        here = state[WAITING] + (state[IN_STEP] if state[NOW] > now else state[RUNNING])
        if here < fewest:
            best, fewest = r, here
    return best


@jit
def run_fleet(requests, bin_of, setup, records, tally, workspace, order, begin):
    """Serve or reject every request.

    Requests order[begin[r]:begin[r + 1]] are sent to replica r, known beforehand; where the way depends on the queues,
    there are none, and everybody is sent on arrival.
    """
    replica, fleet, reporting = setup
    arrival, replicas = requests.arrival, fleet.replicas
    for r in range(replicas):
        store(start_admission(replica.control), part_of(workspace, r))
    start = tally.totals[FIRST_ARRIVAL] = first_arrival(requests, records, reporting)
    rounds = len(arrival) if fleet.routing == SHORTEST_QUEUE else 0
    for i in range(rounds + 1):
        until = arrival[i] if i < rounds else NEVER
        if i < rounds and records.status[i] == REJECTED:
            continue
        for r in range(replicas):
            mine = order[begin[r] : begin[r + 1]]
            advance(requests, bin_of, setup, records, start, tally, part_of(workspace, r), mine, until)
            if tally.totals[LATE]:
                return
        if i < rounds:
            r = shortest(until, replicas, workspace)
            part = part_of(workspace, r)
            part.state[NOW] = max(part.state[NOW], until)
            enqueue(part, i, bin_of[i] if fleet.by_bin else 0)
            records.replica[i] = r
    for r in range(replicas):
        tally.totals[KEPT] += abs(workspace.state[r, TOKENS]) + abs(workspace.state[r, USED])
    book_requests(requests, bin_of, records, reporting, tally)
