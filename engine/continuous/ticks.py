"""Time in steps: whole ticks of a picosecond, in int64.

Every coefficient of the step law is a whole number of them, so that a step takes a whole number of ticks without
rounding anything, and the sum over any number of steps has a closed form that is exact.
"""

from batchcube.errors import InputError

from ..ticks import NEVER

TICKS_PER_S = 10**12
TICKS_PER_MICROSECOND = 10**6
"""Controllers count in microseconds, as at the request level."""
TICKS_PER_NANOSECOND = 1000
"""Reports count in whole nanoseconds: their squares then fit the sums, and their logarithms the histograms."""
LATEST = 2**61
"""Last instant, 26 days: twice that still fits int64."""
LATEST_ARRIVAL_S = LATEST / TICKS_PER_S / 2
"""Seconds: whoever comes then has as long to be served."""


def ticks(seconds: float | None, name: str) -> int:
    """Return seconds as whole ticks, NEVER for none.

    InputError with their name if negative, not finite, or beyond `LATEST`.
    """
    if seconds is None:
        return NEVER
    value = float(seconds) * TICKS_PER_S
    if not 0 <= value <= LATEST:
        raise InputError(f"must be from 0 to {LATEST // TICKS_PER_S} s", path=name, value=f"{seconds} s")
    return round(value)


def too_late() -> InputError:
    """Return the error of a clock that passed the last instant."""
    return InputError(f"the requests take longer than {LATEST // TICKS_PER_S} s, the longest that can be simulated")
