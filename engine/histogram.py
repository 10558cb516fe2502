"""Log-spaced buckets: 64 to each doubling, so that a bucket's middle is within 0.8 % of every value in it.

Bucket 0 holds exact zeros (and anything below one tick); the rest are read off the bits of a float64.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dialect import bits, maximum, policy

PER_DOUBLING = 64
SHIFT = 46  # 52 bits of mantissa less the 6 that tell 64 buckets apart
OFFSET = (1023 << 6) - 1  # the bucket of 1.0 is number 1
DOUBLINGS = 53
BUCKETS = 1 + DOUBLINGS * PER_DOUBLING
RELATIVE_ERROR = 0.5 / PER_DOUBLING


@policy
def bucket_of(value: Any) -> Any:
    """Return the bucket of a value in ticks."""
    return maximum((bits(value) >> SHIFT) - OFFSET, 0)


def bucket_edges() -> NDArray[np.float64]:
    """Return the buckets' lower edges and the last upper edge, in ticks: (BUCKETS + 1,)."""
    position = np.arange(BUCKETS)
    edges = 2.0 ** (position // PER_DOUBLING) * (1.0 + (position % PER_DOUBLING) / PER_DOUBLING)
    return np.concatenate(([0.0], edges))


def bucket_middles() -> NDArray[np.float64]:
    """Return the value that stands for each bucket, in ticks: (BUCKETS,)."""
    edges = bucket_edges()
    middles: NDArray[np.float64] = (edges[:-1] + edges[1:]) / 2.0
    middles[0] = 0.0
    return middles
