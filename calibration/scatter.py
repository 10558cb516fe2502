"""What a step law leaves to chance: a server's own time, which runs a little faster and slower than ours.

A server whose steps take now more, now less than the law says is one that follows the law on a clock of its own. So
a replay gets such steps by moving its arrivals onto a random clock, and what came of it back: the engine needs nothing.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A server's time runs at least at this part of ours, and at most as much faster: on average it runs alike.
_LEAST_PACE = 0.2
_MOST_PIECES = 6000


class Scatter(NamedTuple):
    """How far steps are off a law, and times to first token beyond that."""

    step: float
    """Standard deviation of one step as a fraction of it, independent from step to step."""
    drift: float
    """Standard deviation of a speed that stays for some time, as a fraction of it: what the law does not follow."""
    step_s: float
    """Seconds of a step."""
    drift_lasts_s: tuple[float, float]
    """Seconds after which a drift is forgotten, at least and at most: each draw has one, all magnitudes alike."""
    ttft_s: float
    """Standard deviation of the time to first token that no step explains."""


class OwnTime(NamedTuple):
    """Times of ours and a server's own at the same instants, both increasing; beyond the last they go on alike."""

    ours_s: Floats
    own_s: Floats

    def own(self, ours_s: Floats) -> Floats:
        """Return the server's time at times of ours."""
        return np.asarray(np.interp(ours_s, self.ours_s, self.own_s) + np.maximum(ours_s - self.ours_s[-1], 0.0))

    def ours(self, own_s: Floats) -> Floats:
        """Return our time at times of the server."""
        return np.asarray(np.interp(own_s, self.own_s, self.ours_s) + np.maximum(own_s - self.own_s[-1], 0.0))


def draw_time(scatter: Scatter, end_s: float, rng: np.random.Generator) -> OwnTime:
    """Draw a server's own time until ``end_s`` of ours."""
    from scipy.signal import lfilter

    pieces = int(np.clip(np.ceil(end_s / scatter.step_s), 2, _MOST_PIECES))
    ours = np.linspace(0.0, end_s, pieces + 1)
    width = ours[1]
    faster = rng.normal(0.0, scatter.step * np.sqrt(scatter.step_s / width), pieces)
    if scatter.drift:
        least, most = scatter.drift_lasts_s
        lasts = least if most == least else float(np.exp(rng.uniform(np.log(least), np.log(most))))
        kept = np.exp(-width / lasts)
        steps = rng.standard_normal(pieces)
        steps[1:] *= np.sqrt(1.0 - kept * kept)
        faster += scatter.drift * lfilter([1.0], [1.0, -kept], steps)
    paces = 1.0 + np.clip(faster, _LEAST_PACE - 1.0, 1.0 - _LEAST_PACE)
    own = np.concatenate(([0.0], np.cumsum(width * paces)))
    return OwnTime(ours, own)
