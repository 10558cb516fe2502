"""How many identical steps can be taken at once, and how long they last: closed forms that are exact in whole ticks.

While nobody can be admitted, preempted, prefilled or done, every step has the same decodes, and step k of n takes
decode(D) + slope(D) (R + D k) for D decodes that read R tokens in the first. All decodes grow by one token a step, so
what each has is kept as an offset against one counter (`GROWN`), and a leap touches none.
"""

import math

from ...compiling.jit import inline
from .workspace import DECODING, FULL, GROWN


@inline
def growth(workspace, steps, size):
    """Return the blocks that all decodes need for so many steps more."""
    # Divisions take their time.
    cycles = steps // size if steps >= size else 0
    need, phase = cycles * workspace.state[DECODING], workspace.state[FULL]
    for _ in range(steps - cycles * size):
        # A request needs a block when those it has are full.
        need += workspace.phase[phase]
        phase = (phase if phase > 0 else size) - 1
    return need


@inline
def grow(workspace, steps, size):
    """Let so many decode steps pass."""
    state = workspace.state
    state[GROWN] += steps
    phase = state[FULL] - steps
    state[FULL] = phase if phase >= 0 else -state[GROWN] % size


@inline
def steps_that_fit(workspace, steps, free, size):
    """Return how many of so many steps all decodes have room for."""
    decoding, phase = workspace.state[DECODING], workspace.state[FULL]
    if (steps + size) * decoding <= free * size:
        return steps
    cycles = free // decoding
    fitting, free = cycles * size, free - cycles * decoding
    while fitting < steps:
        free -= workspace.phase[phase]
        if free < 0:
            break
        phase = (phase if phase > 0 else size) - 1
        fitting += 1
    return min(fitting, steps)


@inline
def lasting(first, rise, steps):
    """Return the ticks of so many steps, the first of `first` ticks and each `rise` longer than the one before."""
    return steps * first + rise * (steps * (steps - 1) // 2)


@inline
def steps_until(first, rise, ticks, most):
    """Return the fewest steps, at most `most`, that take `ticks` or longer."""
    if lasting(first, rise, most) < ticks:
        return most
    # A guess from the real solution, then exact.
    steps = ticks / first
    if rise > 0:
        half = first - 0.5 * rise
        steps = (math.sqrt(half * half + 2.0 * rise * ticks) - half) / rise
    guess = min(max(int(steps), 1), most)
    while guess > 1 and lasting(first, rise, guess - 1) >= ticks:
        guess -= 1
    while guess < most and lasting(first, rise, guess) < ticks:
        guess += 1
    return guess


@inline
def countable(first, rise, decoding, steps):
    """Return how many of so many steps at once leave every product of `count_gaps` within int64."""
    while steps > 1 and (
        1.0 * decoding * steps * (first + 1.0 * steps * rise) > 2.0**61 or 1.0 * rise * steps * steps * steps > 2.0**61
    ):
        steps >>= 1
    return steps
