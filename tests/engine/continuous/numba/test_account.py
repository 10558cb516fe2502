"""Gaps between tokens are counted in closed form, exactly, however large and many they are."""

from typing import NamedTuple

import numpy as np
import pytest

from batchcube.engine.batches.tally import LEAST, exact_sums
from batchcube.engine.continuous.model import NEVER
from batchcube.engine.continuous.numba.account import book_gaps
from batchcube.engine.continuous.numba.leaps import countable
from batchcube.engine.continuous.tally import BUCKET_ENDS, GAP, LATE_TOKENS, QUANTITIES, TOTAL_FIELDS
from batchcube.engine.histogram import BUCKETS, bucket_of
from batchcube.engine.numba.jit import jit


class Books(NamedTuple):
    totals: np.ndarray
    moments: np.ndarray
    histograms: np.ndarray


class Ends(NamedTuple):
    bucket_ends: np.ndarray


@jit
def book(first, growing, steps, weight, token_sla, times, ends, books):
    for _ in range(times):
        book_gaps(first, growing, steps, weight, token_sla, ends, books)


def new_books() -> Books:
    moments = np.zeros((len(QUANTITIES), 9), np.int64)
    moments[:, LEAST] = NEVER
    histograms = np.zeros((len(QUANTITIES), BUCKETS), np.int64)
    return Books(np.zeros(len(TOTAL_FIELDS), np.int64), moments, histograms)


@pytest.mark.parametrize(
    ("first", "growing", "steps", "weight", "times"),
    [
        (30 * 10**9, 0, 1, 1, 1),
        (30 * 10**9, 40_000, 700, 61, 3),
        (999, 1, 5000, 3, 1),
        (10**12, 10**9, 2000, 256, 2),
        (2**61 - 1, 0, 1, 2**20, 4),
        # Sums that are carried or lost: two million gaps whose lower limbs are all ones.
        (2**40 - 1, 0, 1, 2**11, 2**20),
    ],
)
def test_gaps_are_counted_as_one_by_one(first, growing, steps, weight, times) -> None:
    books = new_books()
    limit = first + growing * (steps // 3)
    book(first, growing, steps, weight, limit, times, Ends(BUCKET_ENDS), books)
    gaps = [first + growing * k for k in range(steps)]
    count, total, squares, least, most = exact_sums(books.moments[GAP])
    assert count == weight * times * steps
    assert total == weight * times * sum(gaps)
    assert squares == weight * times * sum(gap * gap for gap in gaps)
    assert (least, most) == (gaps[0], gaps[-1])
    assert books.totals[LATE_TOKENS] == weight * times * sum(gap > limit for gap in gaps)
    expected = np.zeros(BUCKETS, np.int64)
    for gap in gaps:
        expected[bucket_of(gap // 1000)] += weight * times
    np.testing.assert_array_equal(books.histograms[GAP], expected)


def test_leaps_are_cut_to_what_can_be_counted() -> None:
    assert countable(30 * 10**9, 40_000, 64, 2000) == 2000
    for first, growing, decoding, steps in ((2**50, 2**40, 2**9, 2**20), (10, 2**33, 2**20, 2**21), (2**58, 0, 4, 64)):
        cut = countable(first, growing, decoding, steps)
        assert 1 <= cut < steps
        assert decoding * cut * (first + cut * growing) <= 2**61 or cut == 1
        assert growing * cut**3 <= 2**61 or cut == 1
