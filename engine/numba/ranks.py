"""Where the quantiles of histograms lie: one pass over the counts, which NumPy would make several times as long."""

import math

try:
    from ..compiling.jit import jit
except ImportError:  # no Numba: the other backends do without it, and take their time

    def jit(function):  # type: ignore[misc]
        """Leave it as it is."""
        return function


@jit
def quantile_buckets(histograms, quantiles, counts, buckets):
    """Fill counts (row,) and buckets (row, quantile): the bucket of the ceil(qn)-th smallest value, -1 without values.

    `histograms` is (row, bucket); `quantiles` rise.
    """
    for row in range(len(histograms)):
        histogram = histograms[row]
        total = 0
        for bucket in range(len(histogram)):
            total += histogram[bucket]
        counts[row] = total
        bucket, seen = -1, 0
        for q in range(len(quantiles)):
            wanted = max(math.ceil(quantiles[q] * total), 1)
            while total > 0 and seen < wanted:
                bucket += 1
                seen += histogram[bucket]
            buckets[row, q] = bucket
