"""The kernel: the reference, with as many identical steps at once as the closed form allows.

While nobody can be admitted, preempted, prefilled or done, every step has the same decodes, and step k of n takes
c0 + c1 D + c2 (R + D k) for D decodes that read R tokens in the first: the sum is exact in whole ticks. All decodes
grow by one token a step, so what each has is kept as an offset against one counter (`grown`), and a leap touches none.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..compiled.jit import inline, jit
from ..policies.admission import decide_cap, is_steady, see_finished, see_step, start_admission
from ..policies.estimates import Seen, observe
from .model import LATEST, REJECTED, TICKS_PER_MICROSECOND, Replica, Requests

NOBODY = -1
# Numbers that the parts of the kernel share and change.
GROWN, OFFSETS, DECODING, USED, TAIL, PREFILLING, RETURNED, RUNNING = range(8)
STEPS, DECODE_TOKENS, PREFILL_TOKENS, PREFILLS, PREEMPTIONS, BUSY, PEAK, LATE, FIELDS = range(8, 17)


class Space(NamedTuple):
    """The arrays that the kernel works in; (request,) but for `state`, `heap`, `phase` and `done`."""

    state: NDArray[np.int64]
    resident: NDArray[np.int64]
    """Tokens in the KV cache; less `grown` while the request decodes."""
    to_prefill: NDArray[np.int64]
    generated: NDArray[np.int64]
    """Tokens emitted, up to date while the request does not decode."""
    finish: NDArray[np.int64]
    """Value of `grown` at which a decoding request is done; NOBODY while it does not decode."""
    before: NDArray[np.int64]
    """Running requests in the order of admission, linked both ways."""
    after: NDArray[np.int64]
    returned: NDArray[np.int64]
    """Preempted requests, the next to be admitted last."""
    heap: NDArray[np.int64]
    """Decoding requests, the one that is done first on top."""
    place: NDArray[np.int64]
    """Where in the heap each is."""
    phase: NDArray[np.int64]
    """Decoding requests by `resident` less `grown`, modulo the block."""
    done: NDArray[np.int64]
    """Requests whose prefill ends in this step."""
    seen: NDArray[np.int64]
    """(2, observation, 4) what the windows of the controllers still hold: decode steps, finished requests."""
    steady: bool
    """Whether the cap stays while nothing finishes and nobody comes."""


def make_space(requests: Requests, replica: Replica) -> Space:
    """Make the arrays for one replication."""
    count = len(requests.arrival)
    running = min(int(replica.control.largest), count) + 1
    state = np.zeros(FIELDS, np.int64)
    state[[TAIL, PREFILLING]] = NOBODY

    def every(value: int = 0) -> NDArray[np.int64]:
        return np.full(count, value, np.int64)

    return Space(
        state=state,
        resident=every(),
        to_prefill=every(),
        generated=every(),
        finish=every(NOBODY),
        before=every(NOBODY),
        after=every(NOBODY),
        returned=every(),
        heap=np.zeros(running, np.int64),
        place=every(),
        phase=np.zeros(replica.block_tokens, np.int64),
        done=np.zeros(running, np.int64),
        seen=np.zeros((2, replica.control.smoothing.observations, 4), np.int64),
        steady=is_steady(replica.control),
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


# Requests that come and go -------------------------------------------------------------------------------------------


@inline
def blocks_for(tokens, size):
    """Return the blocks that hold so many tokens of one request."""
    return (tokens + size - 1) // size


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
def leave(space, i):
    """Take a request out of the running ones."""
    before, after = space.before[i], space.after[i]
    if before != NOBODY:
        space.after[before] = after
    if after != NOBODY:
        space.before[after] = before
    else:
        space.state[TAIL] = before
    space.state[RUNNING] -= 1


@inline
def start_decoding(space, i, output, size):
    """Let a request decode from the next step on."""
    state = space.state
    space.resident[i] -= state[GROWN]
    space.finish[i] = state[GROWN] + output - space.generated[i]
    state[OFFSETS] += space.resident[i]
    space.phase[space.resident[i] % size] += 1
    last = state[DECODING]
    space.heap[last], space.place[i] = i, last
    state[DECODING] = last + 1
    rise(space, last)


@inline
def stop_decoding(space, i, output, size):
    """Let a request decode no more, done or preempted; what it has becomes its own again."""
    state = space.state
    space.phase[space.resident[i] % size] -= 1
    state[OFFSETS] -= space.resident[i]
    space.resident[i] += state[GROWN]
    space.generated[i] = output - (space.finish[i] - state[GROWN])
    last, at = state[DECODING] - 1, space.place[i]
    state[DECODING] = last
    if at != last:
        exchange(space, at, last)
        rise(space, at)
        sink(space, at, last)
    space.finish[i] = NOBODY


@inline
def preempt(space, requests, records, size):
    """Send the latest admitted request back to the head of the queue; its KV cache is lost."""
    state = space.state
    i = state[TAIL]
    if space.finish[i] != NOBODY:
        stop_decoding(space, i, requests.output[i], size)
    else:
        state[PREFILLING] = NOBODY
    leave(space, i)
    state[USED] -= blocks_for(space.resident[i], size)
    space.resident[i] = space.to_prefill[i] = 0
    space.returned[state[RETURNED]] = i
    state[RETURNED] += 1
    state[PREEMPTIONS] += 1
    records.preemptions[i] += 1


# Growth of the decodes -----------------------------------------------------------------------------------------------


@inline
def growth(space, steps, size):
    """Return the blocks that all decodes need for so many steps more."""
    state = space.state
    cycles = steps // size
    need = cycles * state[DECODING]
    for k in range(cycles * size, steps):
        # A request needs a block when those it has are full.
        need += space.phase[(-(state[GROWN] + k)) % size]
    return need


@inline
def steps_that_fit(space, steps, free, size):
    """Return how many of so many steps all decodes have room for."""
    decoding = space.state[DECODING]
    if (steps // size + 1) * decoding <= free:
        return steps
    fitting = free // decoding * size
    free -= free // decoding * decoding
    while fitting < steps:
        free -= space.phase[(-(space.state[GROWN] + fitting)) % size]
        if free < 0:
            break
        fitting += 1
    return min(fitting, steps)


@inline
def lasting(first, rise_by, steps):
    """Return the ticks of so many steps, the first of `first` ticks and each `rise_by` longer than the one before."""
    return steps * first + rise_by * (steps * (steps - 1) // 2)


@inline
def steps_until(first, rise_by, ticks, most):
    """Return the fewest steps, at most `most`, that take `ticks` or longer."""
    if lasting(first, rise_by, most) < ticks:
        return most
    # A guess from the real solution, then exact.
    steps = ticks / first
    if rise_by > 0:
        half = first - 0.5 * rise_by
        steps = (math.sqrt(half * half + 2.0 * rise_by * ticks) - half) / rise_by
    guess = min(max(int(steps), 1), most)
    while guess > 1 and lasting(first, rise_by, guess - 1) >= ticks:
        guess -= 1
    while guess < most and lasting(first, rise_by, guess) < ticks:
        guess += 1
    return guess


@inline
def waiting_none(space, head, count, arrival, now):
    """Say whether nobody waits, and somebody is still to come."""
    return space.state[RETURNED] == 0 and head < count and arrival[head] > now


# What controllers see ------------------------------------------------------------------------------------------------


@inline
def exchanged(seen, number, new):
    """Keep an observation, and return the one that leaves a full window; zeros before that."""
    row = seen[number % seen.shape[0]]
    oldest = Seen(row[0], row[1], row[2], row[3])
    row[0], row[1], row[2], row[3] = new.signal, new.batch, new.tokens, new.squares
    return oldest


# The replica ---------------------------------------------------------------------------------------------------------


@jit
def run_steps(requests, replica, records, space):
    """Step until every request is served or rejected."""
    state, law, size = space.state, replica.law, replica.block_tokens
    arrival, prompt, output = requests.arrival, requests.prompt, requests.output
    count = arrival.shape[0]
    control = replica.control
    admission = start_admission(control)
    now = 0
    head = 0  # first request that was never admitted
    seen_steps = seen_finished = 0
    while True:
        while head < count and records.status[head] == REJECTED:
            head += 1
        if state[RUNNING] == 0 and state[RETURNED] == 0:
            if head == count:
                return
            now = max(now, arrival[head])

        # What runs in this step.
        waiting = state[RETURNED] + (1 if head < count and arrival[head] <= now else 0)
        admission = decide_cap(admission, waiting, state[RUNNING], control)
        preempted = False
        budget = replica.token_budget
        chunks = attention = finished = 0
        grown_blocks = 0
        if replica.chunked:
            while state[USED] + growth(space, 1, size) > replica.blocks:
                preempt(space, requests, records, size)
                preempted = True
            grown_blocks = growth(space, 1, size)
            budget -= state[DECODING]
            i = state[PREFILLING]
            if i != NOBODY and budget > 0:
                chunk = min(space.to_prefill[i], budget)
                more = blocks_for(space.resident[i] + chunk, size) - blocks_for(space.resident[i], size)
                if state[USED] + grown_blocks + more > replica.blocks:
                    preempt(space, requests, records, size)
                    preempted = True
                else:
                    state[USED] += more
                    space.resident[i] += chunk
                    space.to_prefill[i] -= chunk
                    chunks, attention, budget = chunk, chunk * space.resident[i], budget - chunk
                    if space.to_prefill[i] == 0:
                        space.done[0], finished = i, 1
                        state[PREFILLING] = NOBODY
        while not preempted and state[RUNNING] < admission.cap and budget > 0:
            if state[RETURNED] > 0:
                i = space.returned[state[RETURNED] - 1]
            elif head < count and arrival[head] <= now:
                i = head
            else:
                break
            need = prompt[i] + space.generated[i]
            chunk = min(need, budget) if replica.chunked else need
            more = blocks_for(chunk, size)
            if chunk > budget or state[USED] + grown_blocks + more > replica.blocks:
                break
            if state[RETURNED] > 0:
                state[RETURNED] -= 1
            else:
                head += 1
                while head < count and records.status[head] == REJECTED:
                    head += 1
            join(space, i)
            if records.scheduled[i] < 0:
                records.scheduled[i] = now
            state[USED] += more
            space.resident[i] = chunk
            space.to_prefill[i] = need - chunk
            chunks, attention, budget = chunks + chunk, attention + chunk * chunk, budget - chunk
            if need == chunk:
                space.done[finished] = i
                finished += 1
            else:
                state[PREFILLING] = i

        # How many steps at once, and how long they take.
        decoding = state[DECODING]
        steps = 1
        if not replica.chunked:
            if chunks > 0:
                decoding = 0
            else:
                while state[USED] + growth(space, 1, size) > replica.blocks:
                    preempt(space, requests, records, size)
                    preempted = True
                decoding = state[DECODING]
        reads = state[OFFSETS] + decoding * (state[GROWN] + 1)
        first = law.step
        if decoding > 0:
            first += law.request * decoding + law.kv_token * reads
        if chunks > 0:
            first += law.prefill_token * chunks + law.prefill_attention * attention
        elif not preempted and space.steady:
            steps = space.finish[space.heap[0]] - state[GROWN]
            steps = steps_that_fit(space, steps, replica.blocks - state[USED], size)
            # The next to come could be admitted at once, or wake Algorithm 1.
            open_to_all = state[RUNNING] < admission.cap and budget > 0
            if (open_to_all or control.memory.enabled) and waiting_none(space, head, count, arrival, now):
                steps = steps_until(first, law.kv_token * decoding, arrival[head] - now, steps)
        duration = lasting(first, law.kv_token * decoding, steps)

        # Time passes, tokens are emitted, finished requests leave.
        now += duration
        if now > LATEST:
            state[LATE] = 1
            return
        state[STEPS] += steps
        state[BUSY] += duration
        state[DECODE_TOKENS] += decoding * steps
        state[PREFILL_TOKENS] += chunks
        state[PREFILLS] += finished
        if decoding > 0:
            state[USED] += growth(space, steps, size)
            state[GROWN] += steps
        gone = gone_tokens = gone_squares = 0
        state[PEAK] = max(state[PEAK], state[USED])
        while decoding > 0 and state[DECODING] > 0 and space.finish[space.heap[0]] <= state[GROWN]:
            i = space.heap[0]
            stop_decoding(space, i, output[i], size)
            leave(space, i)
            state[USED] -= blocks_for(space.resident[i], size)
            records.last_token[i] = now
            tokens = prompt[i] + output[i]
            gone, gone_tokens, gone_squares = gone + 1, gone_tokens + tokens, gone_squares + tokens * tokens
        for k in range(finished):
            i = space.done[k]
            space.generated[i] += 1
            if records.first_token[i] < 0:
                records.first_token[i] = now
            if space.generated[i] == output[i]:
                leave(space, i)
                state[USED] -= blocks_for(space.resident[i], size)
                records.last_token[i] = now
                tokens = prompt[i] + output[i]
                gone, gone_tokens, gone_squares = gone + 1, gone_tokens + tokens, gone_squares + tokens * tokens
            else:
                start_decoding(space, i, output[i], size)
        if decoding > 0 and control.sla.enabled:
            new = observe(duration / TICKS_PER_MICROSECOND, decoding, 0, 0)
            admission = see_step(admission, new, exchanged(space.seen[0], seen_steps, new), control)
            seen_steps += 1
        if gone > 0 and control.memory.enabled:
            new = observe(0.0, gone, gone_tokens, gone_squares)
            admission = see_finished(admission, new, exchanged(space.seen[1], seen_finished, new), control)
            seen_finished += 1
