"""Gaps between tokens are counted in closed form, exactly, however large and many they are."""

from typing import NamedTuple

import numpy as np
import pytest

from batchcube.engine.compiling.jit import jit
from batchcube.engine.continuous.numba.count import count_gaps
from batchcube.engine.continuous.numba.leaps import countable
from batchcube.engine.continuous.numba.workspace import BUCKET_ENDS
from batchcube.engine.histogram import BUCKETS, bucket_of
from batchcube.engine.moments import exact_sums
from batchcube.engine.simulation import Shape
from batchcube.engine.statistics import CONTINUOUS
from batchcube.engine.tally import new_tally, row_of


class Ends(NamedTuple):
    bucket_ends: np.ndarray


class Only(NamedTuple):
    token_sla: int


@jit
def count(first, growing, steps, weight, limits, times, ends, tally):
    for _ in range(times):
        count_gaps(first, growing, steps, weight, limits, ends, tally)


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
    tally, q = row_of(new_tally(CONTINUOUS, 1, Shape(1, 1, 1)), 0), CONTINUOUS.time("tbt")
    limit = first + growing * (steps // 3)
    count(first, growing, steps, weight, Only(limit), times, Ends(BUCKET_ENDS), tally)
    gaps = [first + growing * k for k in range(steps)]
    counted, total, squares, least, most = exact_sums(tally.moments[q])
    assert counted == weight * times * steps
    assert total == weight * times * sum(gaps)
    assert squares == weight * times * sum(gap * gap for gap in gaps)
    assert (least, most) == (gaps[0], gaps[-1])
    assert tally.totals[CONTINUOUS.at("late_tokens")] == weight * times * sum(gap > limit for gap in gaps)
    expected = np.zeros(BUCKETS, np.int64)
    for gap in gaps:
        expected[bucket_of(gap // 1000)] += weight * times
    np.testing.assert_array_equal(tally.histograms[q], expected)


def test_leaps_are_cut_to_what_can_be_counted() -> None:
    assert countable(30 * 10**9, 40_000, 64, 2000) == 2000
    for first, growing, decoding, steps in ((2**50, 2**40, 2**9, 2**20), (10, 2**33, 2**20, 2**21), (2**58, 0, 4, 64)):
        cut = countable(first, growing, decoding, steps)
        assert 1 <= cut < steps
        assert decoding * cut * (first + cut * growing) <= 2**61 or cut == 1
        assert growing * cut**3 <= 2**61 or cut == 1
