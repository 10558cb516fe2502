import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcube.engine.ticks import LATEST, NEVER, TICKS_PER_S, from_seconds


def test_seconds_are_rounded_once_to_the_nearest_tick():
    ticks = from_seconds([0.0, 1.0, 0.1 + 0.2, 1.4e-6, 1.6e-6, -2.0])
    assert ticks.dtype == np.int64
    assert ticks.tolist() == [0, 1_000_000, 300_000, 1, 2, -2_000_000]


@given(st.integers(-LATEST // 4, LATEST // 4))
def test_whole_ticks_survive_the_way_through_seconds(ticks):
    assert int(from_seconds(ticks / TICKS_PER_S)) == ticks


@pytest.mark.parametrize("seconds", [np.nan, np.inf, -np.inf, 5e9, -5e9, LATEST / TICKS_PER_S * 1.001])
def test_what_cannot_be_held_is_refused(seconds):
    with pytest.raises(ValueError, match="a time is not finite or beyond 4503599627 s, the longest"):
        from_seconds([0.0, seconds])


def test_the_last_instant_is_allowed_and_before_never():
    assert from_seconds(LATEST / TICKS_PER_S) == LATEST < NEVER
