"""One search: which rates to ask for, given whether the criteria hold at those before."""

import math
from collections.abc import Generator, Mapping
from typing import NamedTuple

MOST_DOUBLINGS = 20
PROBES = (0.8, 0.95, 1.05, 1.25)
"""Multiples of the answer at which it is asked again: bisection alone never meets a second crossing."""
SLOWEST, FASTEST = 1e-9, 1e9
"""Arrival rates that a specification may set, requests per second."""


class Found(NamedTuple):
    """What a search came to."""

    held: float
    """Largest rate that was seen to hold below one that fails, requests per second; NaN without any."""
    failed: float
    """Smallest rate above that one that was seen to fail; NaN without any."""
    unbracketed: int
    """0; -1 where the lowest rate already fails, 1 where the highest still holds, 2 where runs are too short."""
    edge: float
    """Rate that was the answer's undoing: the lowest or highest tried, or one that held; NaN otherwise."""

    @property
    def rate(self) -> float:
        """The capacity: the middle of what the crossing was narrowed down to."""
        return 0.5 * (self.held + self.failed)

    @property
    def relative_error(self) -> float:
        """How far the capacity may be from the crossing, as a share of it."""
        return (self.failed - self.held) / (self.failed + self.held)


Search = Generator[float, bool | None, Found]
"""Yields rates and is sent whether the criteria hold there; None for a rate too low for the engine's clock."""


def bisect(low: float, high: float, tolerance: float) -> Search:
    """Search between two rates that are the only ones allowed."""
    if not (yield low):
        return Found(math.nan, math.nan, -1, low)
    if (yield high):
        return Found(math.nan, math.nan, 1, high)
    return (yield from _narrow(low, high, tolerance, (low, high)))


def bracket_and_bisect(start: float, tolerance: float) -> Search:
    """Search from a rate that is likely near, by doubling or halving it until the answer lies between two."""
    lowest = min(start, max(start / 2**MOST_DOUBLINGS, SLOWEST))
    highest = max(start, min(start * 2**MOST_DOUBLINGS, FASTEST))
    if (yield start):
        low, high = start, min(2.0 * start, highest)
        while (yield high):
            if high >= highest:
                return Found(math.nan, math.nan, 1, high)
            low, high = high, min(2.0 * high, highest)
    else:
        low, high = max(0.5 * start, lowest), start
        while not (holds := (yield low)):
            if holds is None or low <= lowest:
                return Found(math.nan, math.nan, -1, high if holds is None else low)
            low, high = max(0.5 * low, lowest), low
    return (yield from _narrow(low, high, tolerance, (lowest, highest)))


def _narrow(low: float, high: float, tolerance: float, allowed: tuple[float, float]) -> Search:
    """Halve the logarithm of high / low, and try around the answer for another crossing."""
    while high > low * (1.0 + tolerance):
        middle = math.sqrt(low * high)
        if not low < middle < high:
            break  # neighbouring floats
        if (yield middle):
            low = middle
        else:
            high = middle
    for factor in PROBES:
        if allowed[0] <= low * factor <= allowed[1]:
            yield low * factor
    return Found(low, high, 0, math.nan)


MOST_FILLINGS = 32
LEAST_GROWTH, MOST_GROWTH = 1 / 6, 1 / 2
"""Shares of the arrivals that are left over where servers have always work, and serve many all the same."""

Filling = Generator[float, float, bool]
"""Yields rates and is sent by what share of the arrivals the backlog grows; returns whether servers were full."""


def fill(start: float) -> Filling:
    """Search for a rate that servers cannot keep up with, from one that is likely near."""
    rate = start
    for _ in range(MOST_FILLINGS):
        growth = yield rate
        if LEAST_GROWTH <= growth <= MOST_GROWTH:
            return True
        # What is served, and a third more.
        following = rate * (4.0 if growth < LEAST_GROWTH else (1.0 - growth) * 4 / 3)
        if not SLOWEST <= following <= FASTEST:
            break
        rate = following
    return growth > MOST_GROWTH


def is_monotone(visited: Mapping[float, bool]) -> bool:
    """Say whether the criteria hold up to some rate and fail above it, at the rates that were tried."""
    holds = [visited[rate] for rate in sorted(visited)]
    return holds == sorted(holds, reverse=True)
