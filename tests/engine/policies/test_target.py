import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchcube.engine.policies.estimates import Observation, observe, smoothing
from batchcube.engine.policies.memory import RULES, memory_bound
from batchcube.engine.policies.sla import VARIANTS, sla_search
from batchcube.engine.policies.target import fixed_target, learn, start_target
from helpers.batches import make_control

NOTHING = Observation(0, 0, 0, 0)
SLA = sla_search("paper", "tbt", 0.05, 0.001)


def test_before_the_first_batch_the_search_is_in_the_middle():
    target = start_target(0, make_control(1, 256, sla=SLA))
    assert (target.batch, target.sla_bound, target.memory_bound) == (128, 128, 256)
    assert target.span == (1, 256)


def test_before_the_first_batch_memory_is_bounded_by_the_samples_moments():
    control = make_control(1, 256, memory=memory_bound("exact", 40_000), mean=412.9, variance=30**2 + 150**2)
    target = start_target(0, control)
    assert (target.batch, target.sla_bound, target.memory_bound) == (91, 256, 91)


def test_a_fixed_target_never_moves():
    control = fixed_target(1, 17, np.ones(1), np.ones(1))
    target = start_target(0, control)
    for _ in range(5):
        assert target.batch == 17
        target = learn(target, observe(1e9, 17, 10**6, 10**11), NOTHING, 3, 0, control)


def test_the_worked_trace_through_the_whole_controller():
    """τ = 30 + 0.22 b ms seen at once (a window of one), D = 50 ms: 128, 64, 98, 79, 90, 90."""
    control = make_control(1, 256, sla=SLA, estimates=smoothing("window", observations=1))
    target, batches, oldest = start_target(0, control), [], NOTHING
    for _ in range(6):
        batches.append(target.batch)
        new = observe((30 + 0.22 * target.batch) * 1000, target.batch, 1, 1)
        target, oldest = learn(target, new, oldest, 10, 0, control), new
    assert batches == [128, 64, 98, 79, 90, 90]


def test_the_memory_bound_follows_the_batches_that_finished_only_while_requests_wait():
    """Requests of 100 tokens each, capacity 1000: 10 of them, whatever the sample had promised."""
    memory = memory_bound("exact", 1000)
    control = make_control(1, 64, memory=memory, mean=50.0, variance=0.0)
    start = start_target(0, control)
    new = observe(1.0, 4, 400, 40_000)
    assert start.batch == 20
    idle = learn(start, new, NOTHING, 0, 0, control)
    busy = learn(start, new, NOTHING, 1, 0, control)
    assert (idle.batch, busy.batch) == (20, 10)
    assert idle.running == busy.running  # what was seen is not lost
    assert learn(idle, new, NOTHING, 1, 0, control).batch == 10


def test_the_memory_bound_follows_how_much_requests_vary():
    """100 ± 50 tokens where the sample had promised 100: 100 b + 1.645 · 50 sqrt(b) <= 1000 allows 7.7."""
    control = make_control(1, 64, memory=memory_bound("exact", 1000), mean=100.0, variance=0.0)
    start = start_target(0, control)
    assert start.memory_bound == 10
    assert learn(start, observe(1.0, 2, 200, 50**2 + 150**2), NOTHING, 1, 0, control).memory_bound == 7


def test_before_the_first_batch_the_buffer_is_that_of_the_middle():
    """θ sqrt(32 · 400) = 186.1 tokens leave 16.3 requests of 50; at B_max, sqrt(64 · 400) would leave 14.7."""
    control = make_control(1, 64, memory=memory_bound("buffer", 1000), mean=50.0, variance=400.0)
    assert start_target(0, control).memory_bound == 16


def test_the_smaller_bound_decides():
    memory = memory_bound("exact", 1000)
    control = make_control(2, 64, sla=SLA, memory=memory, mean=20.0, variance=0.0)
    target = start_target(0, control)
    assert (target.memory_bound, target.sla_bound, target.batch) == (50, 33, 33)
    target = learn(target, observe(10_000, 8, 1600, 320_000), NOTHING, 1, 0, control)  # early, 200 tokens each
    assert (target.memory_bound, target.batch) == (5, 5)
    assert target.sla_bound == (8 + 64) // 2


def test_each_controller_starts_from_its_own_sample():
    memory = memory_bound("exact", 1000)
    control = make_control(1, 64, memory=memory, bins=2, variance=0.0)._replace(
        prior_tokens=np.array([100.0, 50.0]), prior_squares=np.array([10_000.0, 2500.0])
    )
    assert [start_target(k, control).batch for k in (0, 1)] == [10, 20]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=40)
@given(data=st.data())
def test_the_target_stays_in_its_range(rule, variant, data):
    smallest = data.draw(st.integers(1, 60))
    largest = data.draw(st.integers(smallest, 60))
    control = make_control(
        smallest, largest, sla=sla_search(variant, "tbt", 0.05, 0.01), memory=memory_bound(rule, 900)
    )
    target = start_target(0, control)
    for _ in range(10):
        assert smallest <= target.batch <= largest
        assert target.batch == min(target.memory_bound, target.sla_bound)
        size = data.draw(st.integers(1, target.batch))
        tokens = data.draw(st.integers(1, 200))
        new = observe(data.draw(st.floats(0, 1e6)), size, size * tokens, size * tokens * tokens)
        target = learn(target, new, NOTHING, data.draw(st.integers(0, 3)), 0, control)
