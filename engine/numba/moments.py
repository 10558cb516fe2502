"""Exact moments and histograms inside kernels: see `engine/moments.py`."""

import numpy as np

from ..compiling.jit import inline
from ..histogram import bucket_of
from ..moments import (
    COUNT,
    LEAST,
    LOW,
    MOST,
    SQUARE_0,
    SQUARE_1,
    SQUARE_2,
    SQUARE_3,
    SUM_0,
    SUM_1,
)


@inline
def add_product(moments, a, b, weight):
    """Add weight * a * b to the sum of squares, for a and b below 2^62 and weights below 2^21.

    A limb gains less than 2^33 times the weight: 2^30 of it in all, unless somebody carries.
    """
    a_low, a_high, b_low, b_high = a & LOW, a >> 32, b & LOW, b >> 32
    bottom = np.uint64(a_low) * np.uint64(b_low)
    middle, top = a_low * b_high + a_high * b_low, a_high * b_high
    moments[SQUARE_0] += weight * np.int64(bottom & np.uint64(LOW))
    moments[SQUARE_1] += weight * (np.int64(bottom >> np.uint64(32)) + (middle & LOW))
    moments[SQUARE_2] += weight * ((middle >> 32) + (top & LOW))
    moments[SQUARE_3] += weight * (top >> 32)


@inline
def add_value(moments, histogram, value, weight, in_ticks):
    """Count `weight` times a value; `in_ticks` is the same value as a float, for the histogram."""
    moments[COUNT] += weight
    moments[SUM_0] += weight * (value & LOW)
    moments[SUM_1] += weight * (value >> 32)
    add_product(moments, value, value, weight)
    moments[LEAST] = min(moments[LEAST], value)
    moments[MOST] = max(moments[MOST], value)
    histogram[np.uint64(bucket_of(in_ticks))] += np.int32(weight)


@inline
def add_shifted(moments, count, shift, total, square_low, square_high, widest):
    """Count values shift + e, given the sum of e, the limbs of the sum of e², and the largest e (the least is 0)."""
    moments[COUNT] += count
    moments[SUM_0] += count * (shift & LOW) + (total & LOW)
    moments[SUM_1] += count * (shift >> 32) + (total >> 32)
    add_product(moments, shift, shift, count)
    add_product(moments, shift, total, 2)
    moments[SQUARE_0] += square_low
    moments[SQUARE_1] += square_high
    moments[LEAST] = min(moments[LEAST], shift)
    moments[MOST] = max(moments[MOST], shift + widest)


@inline
def carry(moments):
    """Carry what is above 32 bits to the next limb: gaps are too many to leave that to the end."""
    for low, high in ((SUM_0, SUM_1), (SQUARE_0, SQUARE_1), (SQUARE_1, SQUARE_2), (SQUARE_2, SQUARE_3)):
        moments[high] += moments[low] >> 32
        moments[low] &= LOW
