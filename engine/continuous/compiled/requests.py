"""Requests that wait, run, decode and leave: queues, the order of admission, and the heap of those that decode."""

from ...compiled.jit import inline
from ...policies.bin_choice import EMPTY, rank
from .leaps import blocks_for
from .space import (
    COUNT,
    DECODING,
    EMITTED,
    FIRST,
    GROWN,
    LAST,
    MEASURED_DECODING,
    NOBODY,
    OFFSETS,
    PREFILLING,
    RETURNED,
    RUNNING,
    SERVING,
    TAIL,
    TOKENS,
    TURN,
    USED,
    WAITING,
)

# The heap of decoding requests ---------------------------------------------------------------------------------------


@inline
def sooner(space, a, b):
    """Say whether the request at place a is done before the one at place b."""
    return space.finish[space.heap[a]] < space.finish[space.heap[b]]


@inline
def exchange(space, a, b):
    """Exchange two places of the heap."""
    first, second = space.heap[a], space.heap[b]
    space.heap[a], space.heap[b] = second, first
    space.place[first], space.place[second] = b, a


@inline
def rise(space, at):
    """Move a request up to where it belongs."""
    while at > 0 and sooner(space, at, (at - 1) >> 1):
        exchange(space, at, (at - 1) >> 1)
        at = (at - 1) >> 1


@inline
def sink(space, at, count):
    """Move a request down to where it belongs among the first `count`."""
    while True:
        child = 2 * at + 1
        if child >= count:
            return
        if child + 1 < count and sooner(space, child + 1, child):
            child += 1
        if not sooner(space, child, at):
            return
        exchange(space, at, child)
        at = child


@inline
def start_decoding(space, i, output, warmup, size):
    """Let a request decode from the next step on."""
    state = space.state
    space.resident[i] -= state[GROWN]
    space.finish[i] = state[GROWN] + output - space.generated[i]
    state[OFFSETS] += space.resident[i]
    state[MEASURED_DECODING] += i >= warmup
    space.phase[space.resident[i] % size] += 1
    last = state[DECODING]
    space.heap[last], space.place[i] = i, last
    state[DECODING] = last + 1
    rise(space, last)


@inline
def stop_decoding(space, i, output, warmup, size):
    """Let a request decode no more, done or preempted; what it has becomes its own again."""
    state = space.state
    space.phase[space.resident[i] % size] -= 1
    state[OFFSETS] -= space.resident[i]
    state[MEASURED_DECODING] -= i >= warmup
    space.resident[i] += state[GROWN]
    space.generated[i] = output - (space.finish[i] - state[GROWN])
    space.emitted[i] = max(space.emitted[i], state[EMITTED])
    last, at = state[DECODING] - 1, space.place[i]
    state[DECODING] = last
    if at != last:
        exchange(space, at, last)
        rise(space, at)
        sink(space, at, last)
    space.finish[i] = NOBODY


# Running requests ----------------------------------------------------------------------------------------------------


@inline
def join(space, i):
    """Put a request at the end of the running ones."""
    tail = space.state[TAIL]
    space.before[i], space.after[i] = tail, NOBODY
    if tail != NOBODY:
        space.after[tail] = i
    space.state[TAIL] = i
    space.state[RUNNING] += 1


@inline
def leave(space, i, size):
    """Take a request out of the running ones, and what it has out of the cache."""
    before, after = space.before[i], space.after[i]
    if before != NOBODY:
        space.after[before] = after
    if after != NOBODY:
        space.before[after] = before
    else:
        space.state[TAIL] = before
    space.state[RUNNING] -= 1
    space.state[USED] -= blocks_for(space.resident[i], size)
    space.state[TOKENS] -= space.resident[i]


@inline
def preempt(space, requests, warmup, size):
    """Send the latest admitted request back to the head of the queue and return it; its KV cache is lost."""
    state = space.state
    i = state[TAIL]
    if space.finish[i] != NOBODY:
        stop_decoding(space, i, requests.output[i], warmup, size)
    else:
        state[PREFILLING] = NOBODY
    leave(space, i, size)
    space.resident[i] = space.to_prefill[i] = 0
    space.after[i] = state[RETURNED]
    state[RETURNED] = i
    state[WAITING] += 1
    return i


# Waiting requests ----------------------------------------------------------------------------------------------------


@inline
def enqueue(space, i, j):
    """Put a request at the end of a queue."""
    row = space.queue[j]
    space.after[i] = NOBODY
    if row[COUNT] == 0:
        row[FIRST] = i
    else:
        space.after[row[LAST]] = i
    row[LAST] = i
    row[COUNT] += 1
    space.state[WAITING] += 1


@inline
def next_in_line(space, fleet, turn):
    """Return who is admitted next, somebody waiting: a preempted request, or the first of the bin being served."""
    state, queues = space.state, space.queue
    if state[RETURNED] != NOBODY:
        return state[RETURNED]
    j = 0
    if fleet.by_bin:
        j = state[SERVING]
        if j == NOBODY or state[TURN] == 0 or queues[j, COUNT] == 0:
            previous, best = j, EMPTY
            for k in range(len(queues)):
                value = rank(fleet.bin_choice, k, queues[k, FIRST], queues[k, COUNT], previous, len(queues))
                if value < best:
                    j, best = k, value
            state[SERVING], state[TURN] = j, turn
    return queues[j, FIRST]


@inline
def dequeue(space, fleet):
    """Take the one that is next in line out of the queue."""
    state = space.state
    state[WAITING] -= 1
    if state[RETURNED] != NOBODY:
        state[RETURNED] = space.after[state[RETURNED]]
        return
    row = space.queue[state[SERVING] if fleet.by_bin else 0]
    row[FIRST] = space.after[row[FIRST]]
    row[COUNT] -= 1
    state[TURN] -= 1
