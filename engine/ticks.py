"""Time inside the engine: whole ticks of one microsecond, in int64.

Times are rounded once, where they enter. Every later sum is exact, so backends that add in a different order, or
contract a*b+c, still agree bit for bit.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchcube.errors import InputError

TICKS_PER_S = 1_000_000
TICKS_PER_MICROSECOND = 1
NEVER = 2**62
"""Later than any time a simulation can reach."""
LATEST = 2**52
"""Last representable instant (142 years). With the three limits below it keeps every sum inside int64."""
LARGEST_BATCH = 2**16
MOST_REQUESTS = 2**29
LARGEST_REQUEST = 2**21
"""Most tokens (prompt and output) of one request."""


def from_seconds(seconds: ArrayLike) -> NDArray[np.int64]:
    """Round seconds to ticks; raise InputError for anything not finite or beyond `LATEST`."""
    ticks = np.asarray(seconds, dtype=np.float64) * TICKS_PER_S
    ticks = np.rint(ticks, out=ticks) if ticks.ndim else np.rint(ticks)
    # Two comparisons with the extremes refuse NaN as well, and take half the time of looking at every entry.
    if ticks.size and not (np.min(ticks) >= -LATEST and np.max(ticks) <= LATEST):
        raise InputError(f"a time is not finite or beyond {LATEST // TICKS_PER_S} s, the longest that can be simulated")
    return ticks.astype(np.int64)
