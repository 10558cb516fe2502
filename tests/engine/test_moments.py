"""Exact sums: whatever the size of the values, mean and variance are those of the integers, rounded once."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcube.engine.compiling.jit import jit
from batchcube.engine.histogram import BUCKETS
from batchcube.engine.moments import LEAST, exact_moments, exact_sums
from batchcube.engine.numba.moments import add_shifted, add_value
from batchcube.engine.simulation import Shape
from batchcube.engine.statistics import BATCHES
from batchcube.engine.tally import new_tally
from batchcube.engine.ticks import MOST_REQUESTS

values = st.integers(0, 2**52 - 1)


def empty_row():
    row = np.zeros(9, np.int64)
    row[LEAST] = 2**62
    return row


def sums_of(numbers):
    return len(numbers), sum(numbers), sum(x * x for x in numbers), min(numbers), max(numbers)


@jit
def add_all(row, histogram, numbers, weights):
    for i in range(len(numbers)):
        add_value(row, histogram, numbers[i], weights[i], numbers[i])


@given(st.lists(st.tuples(values, st.integers(1, 2**16)), min_size=1, max_size=30))
def test_weighted_values_add_up_exactly(pairs):
    row, histogram = empty_row(), np.zeros(BUCKETS, np.int32)
    add_all(row, histogram, *(np.array(column, np.int64) for column in zip(*pairs, strict=True)))
    count = sum(w for _, w in pairs)
    total, squares = sum(w * x for x, w in pairs), sum(w * x * x for x, w in pairs)
    assert exact_sums(row) == (count, total, squares, min(pairs)[0], max(pairs)[0])
    assert histogram.sum() == count
    mean, variance = exact_moments(row)
    assert mean == float(Fraction(total, count))
    assert variance == float(Fraction(squares, count) - Fraction(total, count) ** 2)


@jit
def shift_all(row, shift, count, total, low, high, widest):
    add_shifted(row, count, shift, total, low, high, widest)


@given(st.integers(0, 2**51), st.lists(st.integers(0, 2**32 - 1), max_size=60))
def test_values_above_a_common_one_add_up_exactly(shift, above):
    above = [*above, 0]
    row = empty_row()
    squares = [x * x for x in above]
    low, high = sum(s & 0xFFFFFFFF for s in squares), sum(s >> 32 for s in squares)
    shift_all(row, shift, len(above), sum(above), low, high, max(above))
    assert exact_sums(row) == sums_of([shift + x for x in above])


def test_a_long_run_of_the_largest_values_does_not_overflow():
    rows = np.full(8000, 2**52 - 1)
    row, histogram = empty_row(), np.zeros(BUCKETS, np.int32)
    add_all(row, histogram, rows, np.full(8000, 2**16))
    n, x = 8000 * 2**16, 2**52 - 1
    assert 0.97 * MOST_REQUESTS < n < MOST_REQUESTS
    assert exact_sums(row) == (n, n * x, n * x * x, x, x)
    assert exact_moments(row)[1] == 0


def test_close_values_far_from_zero_keep_their_variance():
    """In floats, sums of squares near 2^100 would lose all of it."""
    numbers = [2**50, 2**50 + 1, 2**50 + 2]
    row = empty_row()
    add_all(row, np.zeros(BUCKETS, np.int32), np.array(numbers), np.ones(3, np.int64))
    mean, variance = exact_moments(row)
    assert mean == 2**50 + 1
    assert variance == float(Fraction(2, 3))


def test_rows_keep_their_shape_and_nothing_seen_is_nan():
    rows = np.stack([[empty_row()] * 3] * 2)
    add_all(rows[1, 2], np.zeros(BUCKETS, np.int32), np.array([4, 6]), np.array([1, 1]))
    mean, variance = exact_moments(rows)
    assert mean.shape == variance.shape == (2, 3)
    assert (mean[1, 2], variance[1, 2]) == (5, 1)
    assert np.isnan(mean).sum() == np.isnan(variance).sum() == 5


@pytest.mark.parametrize("runs", [1, 3])
def test_a_new_tally_is_empty(runs):
    tally = new_tally(BATCHES, runs, Shape(4, 8, 5))
    assert {part.shape[0] for part in tally} == {runs}
    assert tally.sizes.shape == (runs, 9)
    assert tally.bins.shape[1] == 4
    assert tally.windows.shape[1] == 5
    assert not tally.bins.any()
    assert not tally.windows.any()
    assert exact_sums(tally.moments[0, 0]) == (0, 0, 0, 2**62, 0)
