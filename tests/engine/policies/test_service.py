import math

import numpy as np
import pytest
from hypothesis import given as given_any
from hypothesis import settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from batchcube.engine.compiling.jit import jit
from batchcube.engine.policies.service import (
    BATCH_FACTORS,
    batch_factor,
    formula,
    given,
    longest_service,
    measured,
    own_ticks,
    piece_of,
    service_ticks,
)

SIZES, LENGTHS = np.array([2, 5, 16]), np.array([10, 40, 200])
SECONDS = np.array([[0.30, 0.91, 3.2], [0.33, 1.10, 3.9], [0.52, 1.70, 5.5]])


@pytest.mark.parametrize(
    ("h", "expected"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 1.5, 2.5, 4.5]),
        ("saturating", [1, 1.25, 1.375, 1.4375]),
        ("power", [1, math.sqrt(2), 2, math.sqrt(8)]),
    ],
)
def test_batch_factors_at_1_2_4_8(h, expected):
    np.testing.assert_allclose(batch_factor([1, 2, 4, 8], h, 0.5), expected, rtol=1e-15)


def test_an_unknown_law_is_refused():
    with pytest.raises(ValueError, match="law = 'cubic': must be one of constant, linear, saturating, power"):
        batch_factor([1], "cubic")


@given_any(
    st.sampled_from(BATCH_FACTORS),
    st.integers(0, 10**6),
    st.integers(1, 10**5),
    st.floats(0, 1),
    st.integers(1, 64),
    st.integers(1, 5000),
)
def test_formulas_are_a0_plus_a1_times_length_times_h(h, a0, a1, gamma, b, length):
    law = formula(a0 / 1e6, a1 / 1e6, h, gamma, largest_batch=64)
    expected = a0 + a1 * length * float(batch_factor(b, h, gamma))
    assert abs(service_ticks(b, length, law) - expected) <= 0.5 + 1e-9 * expected
    assert law.extrapolated.sum() == 0
    assert law.prefill == a0


def test_the_decode_law_by_hand():
    """30 ms + 0.22 ms · b per token is `linear` with a1 = 30.22 ms, γ = 0.22 / 30.22: 49.8 ms for 90 requests."""
    law = formula(0.5, 0.03022, "linear", 0.22 / 30.22, largest_batch=100)
    assert service_ticks(90, 1000, law) == 500_000 + 49_800_000
    assert service_ticks(1, 1000, law) == 500_000 + 30_220_000


@given_any(st.floats(0, 1e-6), st.integers(1, 9), st.integers(0, 3))
def test_a_batch_takes_at_least_one_tick(a1, b, length):
    assert service_ticks(b, length, formula(0.0, a1, largest_batch=9)) >= 1


@given_any(st.integers(1, 2**52), st.integers(1, 8))
def test_given_times_are_taken_as_they_are(ticks, b):
    law = given(largest_batch=8)
    assert law.timed
    assert service_ticks(b, ticks, law) == ticks


@pytest.fixture(scope="module")
def table():
    return measured(SIZES, LENGTHS, SECONDS, formula(0.1, 0.02, "linear", 0.05, largest_batch=20))


def test_a_table_is_met_where_it_was_measured(table):
    for b, row in zip(SIZES, SECONDS, strict=True):
        for length, seconds in zip(LENGTHS, row, strict=True):
            assert service_ticks(b, length, table) == round(seconds * 1e6)


def test_inside_its_grid_a_table_is_interpolated_bilinearly(table):
    surface = RegularGridInterpolator((SIZES, LENGTHS), SECONDS * 1e6)
    for b in range(2, 17):
        for length in range(10, 201):
            assert abs(service_ticks(b, length, table) - surface((b, length))) <= 1  # knot and slope, each rounded
            assert table.extrapolated[b, piece_of(length, table)] == 0


def test_a_bilinear_value_by_hand(table):
    """Batch of 3: a third of the way from 2 to 5, at 25 tokens half of the way from 10 to 40."""
    expected = ((0.30 + 0.91) / 2 * 2 + (0.33 + 1.10) / 2) / 3
    assert service_ticks(3, 25, table) == pytest.approx(expected * 1e6, abs=1)


def test_nobody_completes_after_the_batch_even_where_the_fitted_law_falls_below_the_table(table):
    at_the_end = service_ticks(16, 200, table)
    assert own_ticks(16, 200, at_the_end, table) == at_the_end
    assert own_ticks(16, 10, at_the_end, table) == service_ticks(16, 10, table) < at_the_end
    low = measured(SIZES, LENGTHS, SECONDS, formula(0.1, 0.001, largest_batch=20))
    beyond = service_ticks(16, 201, low)
    assert service_ticks(16, 200, low) > beyond
    assert own_ticks(16, 200, beyond, low) == beyond


@pytest.mark.parametrize(("b", "length"), [(1, 50), (17, 50), (20, 10), (5, 1), (5, 9), (5, 201), (16, 1000), (1, 1)])
def test_outside_its_grid_the_fitted_law_stands_in_and_says_so(table, b, length):
    assert table.extrapolated[b, piece_of(length, table)] == 1
    assert service_ticks(b, length, table) == pytest.approx((0.1 + 0.02 * length * (1 + 0.05 * (b - 1))) * 1e6, abs=1)


def test_the_first_token_is_never_later_than_a_measured_batch(table):
    assert table.prefill == 100_000
    slow_start = measured(SIZES, LENGTHS, SECONDS, formula(0.4, 0.02, largest_batch=20))
    assert slow_start.prefill == service_ticks(2, 10, slow_start) == 300_000


def test_a_table_larger_than_any_batch_is_cut():
    cut = measured(SIZES, LENGTHS, SECONDS, formula(0.1, 0.02, largest_batch=7))
    full = measured(SIZES, LENGTHS, SECONDS, formula(0.1, 0.02, largest_batch=20))
    assert cut.base.shape[0] == 8
    for b in range(8):
        assert [service_ticks(b, x, cut) for x in range(250)] == [service_ticks(b, x, full) for x in range(250)]


@jit
def serve_all(b, length, law, out):
    for i in range(len(b)):
        out[i] = service_ticks(b[i], length[i], law)


@pytest.mark.parametrize("whole_lengths", [True, False])
def test_arrays_scalars_and_compiled_code_give_the_same(table, whole_lengths):
    rng = np.random.default_rng(8)
    b = rng.integers(1, 21, 5000)
    length = rng.integers(0, 400, 5000) if whole_lengths else rng.uniform(0, 400, 5000)
    for law in (table, formula(0.1, 0.0321, "power", 0.3, largest_batch=20)):
        out = np.empty(5000, np.int64)
        serve_all(b, length, law, out)
        if len(law.knots) > 1:
            np.testing.assert_array_equal(out, service_ticks(b, length, law))
        assert out.tolist() == [service_ticks(*row, law) for row in zip(b.tolist(), length.tolist(), strict=True)]


@settings(max_examples=30)
@given_any(st.integers(1, 400))
def test_the_longest_service_bounds_every_batch(length):
    law = measured(SIZES, LENGTHS, SECONDS, formula(0.1, 0.02, "linear", 0.05, largest_batch=20))
    worst = max(service_ticks(b, x, law) for b in range(1, 21) for x in range(1, length + 1))
    assert worst <= longest_service(law, length) + 1


@pytest.mark.parametrize(
    ("a0", "a1", "gamma"),
    [(-0.1, 0.1, 0.0), (0.1, -0.1, 0.0), (0.1, 0.1, -1.0), (0.1, np.nan, 0.0), (0.1, 1e300, 0.0), (0.1, 4e6, 0.0)],
)
def test_laws_that_cannot_be_are_refused(a0, a1, gamma):
    law = formula(a0, a1, "linear", gamma, largest_batch=8)
    message = "server.service: batch times must be finite, not negative and not fall with length"
    with pytest.raises(ValueError, match=message):
        longest_service(law, 2000)
