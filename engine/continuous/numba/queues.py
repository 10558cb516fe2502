"""Requests that wait, run, decode and leave: queues, the order of admission, and the heap of those that decode."""

import math

from ...compiling.jit import inline
from ...policies.order import Candidate, is_sooner
from ..model import NOBODY
from ..ticks import TICKS_PER_MICROSECOND
from .blocks import line_up, step_out
from .pool import fill, free, release
from .priorities import insert, without_first
from .workspace import (
    AFTER,
    BEFORE,
    COUNT,
    DECODED,
    DECODING,
    EMITTED,
    ENDED,
    FIRST,
    GENERATED,
    GROWN,
    HEAD,
    LAST,
    MEASURED_DECODING,
    OFFSETS,
    PLACE,
    PREFILLING,
    RESIDENT,
    RETURNED,
    RUNNING,
    SERVING,
    STAYED,
    STAYING,
    STAYING_TOKENS,
    TAIL,
    TO_PREFILL,
    TURN,
    WAITING,
)

# The heap of decoding requests ---------------------------------------------------------------------------------------


@inline
def put(workspace, i, at):
    """Put a request at a place of the heap."""
    workspace.lists[DECODING, at], workspace.request[i, PLACE] = i, at


@inline
def rise(workspace, i, at):
    """Put a request where it belongs, from a free place upwards."""
    while at > 0:
        above = workspace.lists[DECODING, (at - 1) >> 1]
        if workspace.finish[above] <= workspace.finish[i]:
            break
        put(workspace, above, at)
        at = (at - 1) >> 1
    put(workspace, i, at)


@inline
def sink(workspace, i, at, count):
    """Put a request where it belongs among the first `count`, from a free place downwards."""
    while 2 * at + 1 < count:
        child = 2 * at + 1
        if child + 1 < count:
            # Added, not asked: which of them is done first cannot be predicted.
            child += (
                workspace.finish[workspace.lists[DECODING, child + 1]]
                < workspace.finish[workspace.lists[DECODING, child]]
            )
        below = workspace.lists[DECODING, child]
        if workspace.finish[i] <= workspace.finish[below]:
            break
        put(workspace, below, at)
        at = child
    put(workspace, i, at)


@inline
def start_decoding(workspace, i, output, warmup, size):
    """Let a request decode from the next step on."""
    state = workspace.state
    workspace.request[i, RESIDENT] -= state[GROWN]
    workspace.finish[i] = state[GROWN] + output - workspace.request[i, GENERATED]
    state[OFFSETS] += workspace.request[i, RESIDENT]
    state[MEASURED_DECODING] += i >= warmup
    workspace.phase[workspace.request[i, RESIDENT] % size] += 1
    if workspace.caching:
        line_up(workspace.cache, i, workspace.request[i, RESIDENT] % size)
    rise(workspace, i, state[DECODING])
    state[DECODING] += 1


@inline
def stop_decoding(workspace, i, output, warmup, size):
    """Let a request decode no more, done or preempted; what it has becomes its own again."""
    state = workspace.state
    workspace.phase[workspace.request[i, RESIDENT] % size] -= 1
    if workspace.caching:
        step_out(workspace.cache, i, workspace.request[i, RESIDENT] % size)
    state[OFFSETS] -= workspace.request[i, RESIDENT]
    state[MEASURED_DECODING] -= i >= warmup
    workspace.request[i, RESIDENT] += state[GROWN]
    generated = output - (workspace.finish[i] - state[GROWN])
    if generated > workspace.request[i, GENERATED]:
        workspace.request[i, GENERATED], workspace.request[i, EMITTED] = generated, state[DECODED]
    state[DECODING] -= 1
    # The last of the heap takes its place.
    at, last = workspace.request[i, PLACE], workspace.lists[DECODING, state[DECODING]]
    if at > 0 and workspace.finish[last] < workspace.finish[i]:
        rise(workspace, last, at)
    elif last != i:
        sink(workspace, last, at, state[DECODING])
    workspace.finish[i] = NOBODY


# Waiting requests ----------------------------------------------------------------------------------------------------


@inline
def enqueue(workspace, i, j, requests, replica):
    """Put a request at the end of a queue, or where its priority has its place."""
    row = workspace.queue[j]
    if replica.by_priority:
        row[FIRST] = insert(workspace, requests, row[FIRST], i)
    else:
        workspace.request[i, AFTER] = NOBODY
        if row[COUNT] == 0:
            row[FIRST] = i
        else:
            workspace.request[row[LAST], AFTER] = i
        row[LAST] = i
    row[COUNT] += 1
    workspace.state[WAITING] += 1


@inline
def next_in_line(workspace, requests, fleet, turn, key):
    """Return who is admitted next, somebody waiting: a preempted request, or the first of the bin being served.

    `key` is that of the order in which bins are served.
    """
    state, queues = workspace.state, workspace.queue
    if state[RETURNED] != NOBODY:
        return state[RETURNED]
    j = 0
    if fleet.by_bin:
        j = state[SERVING]
        if j == NOBODY or state[TURN] == 0 or queues[j, COUNT] == 0:
            previous, j, least = j, NOBODY, math.inf
            for k in range(len(queues)):
                if queues[k, COUNT] > 0:
                    i = queues[k, FIRST]
                    arrival, prompt = requests.arrival[i] / TICKS_PER_MICROSECOND, requests.prompt[i] * 1.0
                    seen = Candidate(
                        k, queues[k, COUNT], i * 1.0, arrival, prompt, requests.predicted[i], 0.0, previous, 0
                    )
                    value = key(seen, fleet.bin_choice) * 1.0
                    if j == NOBODY or is_sooner(value, least):
                        j, least = k, value
            state[SERVING], state[TURN] = j, turn
    return queues[j, FIRST]


@inline
def dequeue(workspace, requests, replica, fleet):
    """Take the one that is next in line out of the queue."""
    state = workspace.state
    state[WAITING] -= 1
    if state[RETURNED] != NOBODY:
        state[RETURNED] = workspace.request[state[RETURNED], AFTER]
        return
    row = workspace.queue[state[SERVING] if fleet.by_bin else 0]
    if replica.by_priority:
        row[FIRST] = without_first(workspace, requests, row[FIRST])
    else:
        row[FIRST] = workspace.request[row[FIRST], AFTER]
    row[COUNT] -= 1
    state[TURN] -= 1


# Running requests ----------------------------------------------------------------------------------------------------


@inline
def join(workspace, i):
    """Put a request at the end of the running ones."""
    tail = workspace.state[TAIL]
    workspace.request[i, BEFORE], workspace.request[i, AFTER] = tail, NOBODY
    if tail != NOBODY:
        workspace.request[tail, AFTER] = i
    else:
        workspace.state[HEAD] = i
    workspace.state[TAIL] = i
    workspace.state[RUNNING] += 1


@inline
def leave(workspace, i, size):
    """Take a request out of the running ones, and what it has out of the cache."""
    before, after = workspace.request[i, BEFORE], workspace.request[i, AFTER]
    if before != NOBODY:
        workspace.request[before, AFTER] = after
    else:
        workspace.state[HEAD] = after
    if after != NOBODY:
        workspace.request[after, BEFORE] = before
    else:
        workspace.state[TAIL] = before
    workspace.state[RUNNING] -= 1
    release(workspace, i, size)


@inline
def complete(workspace, i, replica):
    """Let a request leave that the step ends, or stay until it does; who follows it will hear of it."""
    if replica.async_scheduling:
        workspace.lists[STAYING, workspace.state[STAYING]] = i
        workspace.state[STAYING] += 1
        workspace.state[STAYING_TOKENS] += workspace.request[i, RESIDENT]
    else:
        leave(workspace, i, replica.block_tokens)
    workspace.lists[ENDED, workspace.state[ENDED]] = i
    workspace.state[ENDED] += 1


@inline
def let_go(workspace, size):
    """Let those leave whom the step under way has ended."""
    state = workspace.state
    for k in range(state[STAYING]):
        fill(workspace, workspace.lists[STAYING, k])
        leave(workspace, workspace.lists[STAYING, k], size)
    state[STAYING] = state[STAYING_TOKENS] = 0
    free(workspace)


@inline
def remove(members, count, i):
    """Take a number out of the first `count` of an array, in which it is; the others keep their order."""
    k = count - 1
    while members[k] != i:
        k -= 1
    for later in range(k + 1, count):
        members[later - 1] = members[later]


@inline
def preempt(workspace, i, requests, replica, warmup):
    """Take a running request out; its KV cache is lost. Returns whether it waits: the step under way may end it."""
    state, size = workspace.state, replica.block_tokens
    waits = True
    if workspace.finish[i] != NOBODY:
        stop_decoding(workspace, i, requests.output[i], warmup, size)
    elif workspace.request[i, TO_PREFILL] > 0:
        remove(workspace.lists[PREFILLING], state[PREFILLING], i)
        state[PREFILLING] -= 1
    else:
        remove(workspace.lists[STAYING], state[STAYING], i)
        state[STAYING] -= 1
        state[STAYING_TOKENS] -= workspace.request[i, RESIDENT]
        state[STAYED] += 1
        waits = False
    leave(workspace, i, size)
    free(workspace)
    workspace.request[i, RESIDENT] = workspace.request[i, TO_PREFILL] = 0
    if waits and replica.by_priority:
        enqueue(workspace, i, 0, requests, replica)
    elif waits:
        workspace.request[i, AFTER] = state[RETURNED]
        state[RETURNED] = i
        state[WAITING] += 1
    return waits
