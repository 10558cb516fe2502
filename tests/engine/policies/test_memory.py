import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchcube.engine.compiling.jit import jit
from batchcube.engine.policies.memory import (
    RULES,
    UNLIMITED,
    fits,
    largest_fitting,
    memory_batch,
    memory_bound,
    no_memory_bound,
)

means = st.integers(1, 5000).map(float)
variances = st.integers(0, 10**7).map(float)
capacities = st.integers(1, 300_000).map(float)
risks = st.sampled_from([0.5, 0.2, 0.05, 0.001])


@pytest.mark.parametrize(
    ("capacity", "mean", "variance", "expected"),
    [
        (40_000, 412.9, 30**2 + 150**2, 91),
        (100_000, 572.9, 200**2 + 250**2, 162),
        (1000, 100, 0, 10),  # nothing varies: all of the capacity
        (999, 100, 0, 9),
        (300, 100, 0, 3),  # in floats sqrt(3)² is below 3
        (500, 100, 0, 5),  # ... and sqrt(5)² above 5
        (99, 100, 0, 0),
        (math.nextafter(1400, 0), 100, 0, 13),  # in floats sqrt(η / m)² is 14
        (45_595, 330, 20**2, 136),  # 137 of them need 45210 + 1.64485 sqrt(137) 20 = 45595.05
    ],
)
def test_exact_worked_examples(capacity, mean, variance, expected):
    memory = memory_bound("exact", capacity, 0.05)
    assert largest_fitting(float(mean), float(variance), memory) == expected
    assert memory_batch(float(mean), float(variance), 7.0, 1.0, 1000.0, memory) == max(expected, 1)


@given(capacities, means, variances, risks)
def test_exact_is_the_largest_batch_that_fits(capacity, mean, variance, risk):
    memory = memory_bound("exact", capacity, risk)
    assume(capacity / mean < 2000)

    def need(batch):
        deviation = memory.quantile * math.sqrt(batch * variance)
        return batch * mean + round(deviation * 1024) / 1024  # deviations are kept to 1/1024 of a token

    brute = 0
    while need(brute + 1) <= capacity:
        brute += 1
    assert largest_fitting(mean, variance, memory) == brute


@given(st.floats(1, 2.0**21), st.floats(0, 2.0**40), st.floats(1, UNLIMITED))
def test_exact_fits_and_the_next_does_not_whatever_the_scale(mean, variance, capacity):
    memory = memory_bound("exact", capacity)
    batch = largest_fitting(mean, variance, memory)
    assert batch == 0 or fits(batch, mean, variance, memory)
    if batch < 2**20:
        assert not fits(batch + 1, mean, variance, memory)


@given(capacities, means, variances, st.integers(1, 500))
def test_buffer_and_margin_by_their_formulas(capacity, mean, variance, previous):
    buffer = memory_bound("buffer", capacity, 0.05)
    held = round(buffer.quantile * math.sqrt(previous * variance) * 1024) / 1024
    expected = math.floor((capacity - held) / mean)
    assert memory_batch(mean, variance, float(previous), 1.0, 500.0, buffer) == min(max(expected, 1), 500)
    margin = memory_bound("margin", capacity, margin_tokens=0.1 * capacity)
    expected = math.floor((capacity - 0.1 * capacity) / mean)
    assert memory_batch(mean, variance, float(previous), 1.0, 500.0, margin) == min(max(expected, 1), 500)


def test_buffer_by_hand():
    """θ = 1.6449, sqrt(100 · 400) = 200: L0 = 328.97 and (10000 - 328.97) / 50 = 193.4."""
    assert memory_batch(50.0, 400.0, 100.0, 1.0, 1000.0, memory_bound("buffer", 10_000)) == 193
    assert memory_batch(50.0, 400.0, 100.0, 1.0, 1000.0, memory_bound("margin", 10_000, margin_tokens=500)) == 190


@given(capacities, means, st.integers(100, 10**7).map(float), st.integers(2, 300))
def test_literal_grows_to_the_largest_batch_whatever_the_capacity(capacity, mean, variance, largest):
    assume(variance >= (0.65 * mean) ** 2)  # θσ is then at least one more request
    memory = memory_bound("literal", capacity)
    batch = 1.0
    for _ in range(largest):
        following = memory_batch(mean, variance, batch, 1.0, float(largest), memory)
        assert following > batch or batch == largest
        batch = following
    assert batch == largest


def test_literal_by_hand():
    """(θσ + μ) / m with θ = 1.6449, σ = sqrt(100 · 400) = 200, μ = 100 · 50: 106.6."""
    assert memory_batch(50.0, 400.0, 100.0, 1.0, 1000.0, memory_bound("literal", 10_000)) == 106


@given(st.floats(1, 2.0**21), variances, st.integers(1, 2**16))
def test_literal_without_a_reserve_loses_nobody(mean, variance, previous):
    """With θ = 0, (θσ + μ) / m is the batch before, also where 100 requests of 100/3 tokens are 3333.33 of them."""
    memory = memory_bound("literal", 10_000, 0.5)
    assert memory_batch(100 / 3, 0.0, 100.0, 1.0, 1000.0, memory) == 100
    assert memory_batch(mean, variance, float(previous), 1.0, 2.0**16, memory) == previous


@given(st.sampled_from(RULES), capacities, means, variances, st.integers(1, 300), st.integers(1, 300), st.data())
def test_every_rule_stays_in_its_range_and_is_whole(rule, capacity, mean, variance, a, b, data):
    smallest, largest = float(min(a, b)), float(max(a, b))
    previous = data.draw(st.integers(int(smallest), int(largest)))
    memory = memory_bound(rule, capacity, 0.05, 10.0)
    batch = memory_batch(mean, variance, float(previous), smallest, largest, memory)
    assert smallest <= batch <= largest
    assert batch == int(batch)


@given(capacities, means, variances)
def test_more_memory_never_lowers_the_bound(capacity, mean, variance):
    a, b = (largest_fitting(mean, variance, memory_bound("exact", c)) for c in (capacity, capacity + mean))
    assert a <= b


@jit
def bound_all(mean, variance, previous, memory, out):
    for i in range(len(mean)):
        out[i] = memory_batch(mean[i], variance[i], previous[i], 1.0, 400.0, memory)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("capacity", [3000.0, 200_000.0, 1e12])
def test_arrays_scalars_and_compiled_code_give_the_same(rule, capacity):
    rng = np.random.default_rng(6)
    mean, variance = rng.uniform(1, 4000, 4000), rng.uniform(0, 1e6, 4000)
    previous = rng.integers(1, 401, 4000).astype(float)
    memory = memory_bound(rule, capacity, 0.05, 50.0)
    out = np.empty(4000)
    bound_all(mean, variance, previous, memory, out)
    np.testing.assert_array_equal(out, memory_batch(mean, variance, previous, 1.0, 400.0, memory))
    rows = zip(mean.tolist(), variance.tolist(), previous.tolist(), strict=True)
    assert out.tolist() == [memory_batch(*row, 1.0, 400.0, memory) for row in rows]


def test_settings():
    memory = memory_bound("margin", 1000, 0.05, 20)
    assert memory.quantile == pytest.approx(1.6448536, abs=1e-7)
    assert (memory.enabled, memory.capacity, memory.margin) == (True, 1000.0, 20.0)
    assert (no_memory_bound().enabled, no_memory_bound().capacity) == (False, UNLIMITED)
    assert no_memory_bound(5.0).capacity == 5.0
    with pytest.raises(ValueError, match=r"policy.memory.rule = 'safe': must be one of exact, buffer, margin, literal"):
        memory_bound("safe", 1000)
