"""Exact moments: count, sum, sum of squares, least and most of integers, in a row of nine.

Sums are kept in limbs of 32 bits, which cannot overflow below MOST_REQUESTS values; where more are counted, what is
above 32 bits is carried on the way.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COUNT, SUM_0, SUM_1, SQUARE_0, SQUARE_1, SQUARE_2, SQUARE_3, LEAST, MOST = range(9)
LOW = 0xFFFFFFFF
"""The lower limb of a sum: `value & LOW`; what is above it is `value >> 32`."""


def empty_moments(*shape: int) -> NDArray[np.int64]:
    """Return rows (*shape, 9) of nothing."""
    moments = np.zeros((*shape, 9), np.int64)
    moments[..., LEAST] = 2**62
    return moments


def add_exactly(row: NDArray[np.int64], values: Sequence[int]) -> None:
    """Count values, in plain Python."""
    if values:
        total, squares = sum(values), sum(value * value for value in values)
        row[[COUNT, SUM_0, SUM_1]] += [len(values), total & LOW, total >> 32]
        row[SQUARE_0 : SQUARE_3 + 1] += [squares & LOW, squares >> 32 & LOW, squares >> 64 & LOW, squares >> 96]
        row[[LEAST, MOST]] = min(int(row[LEAST]), *values), max(int(row[MOST]), *values)


def exact_sums(row: NDArray[np.int64]) -> tuple[int, int, int, int, int]:
    """Return count, sum, sum of squares, least and most of one row of moments, exactly."""
    count, sum_0, sum_1, *squares, least, most = row.tolist()
    return count, sum_0 + (sum_1 << 32), sum(limb << (32 * k) for k, limb in enumerate(squares)), least, most


def exact_moments(rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and variance (over n) of rows of moments (..., 9), rounded only once at the end."""
    flat = rows.reshape(-1, rows.shape[-1])
    mean, variance = np.full(len(flat), np.nan), np.full(len(flat), np.nan)
    for r, row in enumerate(flat):
        count, total, squares, _, _ = exact_sums(row)
        if count:
            mean[r] = total / count
            variance[r] = (count * squares - total * total) / (count * count)
    return mean.reshape(rows.shape[:-1]), variance.reshape(rows.shape[:-1])
