import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchcube.engine.policies.controller import Both
from batchcube.engine.policies.estimates import observe, smoothing
from batchcube.engine.policies.memory import RULES, memory_bound
from batchcube.engine.policies.sla import VARIANTS, sla_search
from batchcube.engine.policies.target import fixed_target, is_steady
from helpers.batches import make_control
from helpers.controllers import ByHand

SLA = sla_search("paper", "tbt", 0.05, 0.001)


def test_before_the_first_batch_the_search_is_in_the_middle():
    hand = ByHand(make_control(1, 256, sla=SLA))
    target = hand.target
    assert (target.batch, target.sla_bound, target.memory_bound) == (128, 128, 256)
    assert hand.state.second.span == (1, 256)


def test_before_the_first_batch_memory_is_bounded_by_the_samples_moments():
    control = make_control(1, 256, memory=memory_bound("exact", 40_000), mean=412.9, variance=30**2 + 150**2)
    target = ByHand(control).target
    assert (target.batch, target.sla_bound, target.memory_bound) == (91, 256, 91)


def test_a_fixed_target_never_moves():
    control = fixed_target(1, 17, np.ones(1), np.ones(1))
    hand = ByHand(control)
    for _ in range(5):
        assert hand.target.batch == 17
        hand.batch(observe(1e9, 17, 10**6, 10**11), waiting=3)


def test_the_worked_trace_through_the_whole_controller():
    """τ = 30 + 0.22 b ms seen at once (a window of one), D = 50 ms: 128, 64, 98, 79, 90, 90."""
    control = make_control(1, 256, sla=SLA, estimates=smoothing("window", observations=1))
    hand, batches = ByHand(control), []
    for _ in range(6):
        batches.append(hand.target.batch)
        hand.batch(observe((30 + 0.22 * hand.target.batch) * 1000, hand.target.batch, 1, 1), waiting=10)
    assert batches == [128, 64, 98, 79, 90, 90]


def test_the_memory_bound_follows_the_batches_that_finished_only_while_requests_wait():
    """Requests of 100 tokens each, capacity 1000: 10 of them, whatever the sample had promised."""
    memory = memory_bound("exact", 1000)
    control = make_control(1, 64, memory=memory, mean=50.0, variance=0.0)
    hand, new = ByHand(control), observe(1.0, 4, 400, 40_000)
    assert hand.target.batch == 20
    idle, busy = hand.batch(new, waiting=0), ByHand(control).batch(new, waiting=1)
    assert (idle.batch, busy.batch) == (20, 10)
    assert idle.running == busy.running  # what was seen is not lost
    assert hand.batch(new, waiting=1).batch == 10


def test_the_memory_bound_follows_how_much_requests_vary():
    """100 ± 50 tokens where the sample had promised 100: 100 b + 1.645 · 50 sqrt(b) <= 1000 allows 7.7."""
    control = make_control(1, 64, memory=memory_bound("exact", 1000), mean=100.0, variance=0.0)
    hand = ByHand(control)
    assert hand.target.memory_bound == 10
    assert hand.batch(observe(1.0, 2, 200, 50**2 + 150**2), waiting=1).memory_bound == 7


def test_before_the_first_batch_the_buffer_is_that_of_the_middle():
    """θ sqrt(32 · 400) = 186.1 tokens leave 16.3 requests of 50; at B_max, sqrt(64 · 400) would leave 14.7."""
    control = make_control(1, 64, memory=memory_bound("buffer", 1000), mean=50.0, variance=400.0)
    assert ByHand(control).target.memory_bound == 16


def test_the_smaller_bound_decides():
    memory = memory_bound("exact", 1000)
    control = make_control(2, 64, sla=SLA, memory=memory, mean=20.0, variance=0.0)
    hand = ByHand(control)
    assert (hand.target.memory_bound, hand.target.sla_bound, hand.target.batch) == (50, 33, 33)
    target = hand.batch(observe(10_000, 8, 1600, 320_000), waiting=1)  # early, 200 tokens each
    assert (target.memory_bound, target.batch) == (5, 5)
    assert target.sla_bound == (8 + 64) // 2


def test_each_controller_starts_from_its_own_sample():
    memory = memory_bound("exact", 1000)
    control = make_control(1, 64, memory=memory, bins=2, variance=0.0)._replace(
        prior_tokens=np.array([100.0, 50.0]), prior_squares=np.array([10_000.0, 2500.0])
    )
    assert [ByHand(control, k).target.batch for k in (0, 1)] == [10, 20]


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
    hand = ByHand(control)
    for _ in range(10):
        target = hand.target
        assert smallest <= target.batch <= largest
        assert target.batch == min(target.memory_bound, target.sla_bound)
        size = data.draw(st.integers(1, target.batch))
        tokens = data.draw(st.integers(1, 200))
        new = observe(data.draw(st.floats(0, 1e6)), size, size * tokens, size * tokens * tokens)
        hand.batch(new, data.draw(st.integers(0, 3)))


# Under continuous batching, a step at a time ([DB] III; docs/model.md, section 10).

AT_ONCE = smoothing("ema", 1.0)


def test_the_memory_bound_is_never_below_the_requests_that_run():
    """Requests of 100 tokens and 1000 of capacity: 10, but 12 run; when 7 do, 10 again."""
    control = make_control(1, 64, memory=memory_bound("exact", 1000), mean=100.0, variance=0.0)
    hand = ByHand(control)
    assert (hand.target.memory_bound, hand.target.sla_bound, hand.target.batch) == (10, 64, 10)
    crowded = hand.decide(3, 12)
    assert (crowded.memory_bound, crowded.batch) == (12, 12)
    assert hand.decide(3, 7).memory_bound == 10
    assert hand.decide(3, 80).memory_bound == 64


def test_the_buffer_is_kept_for_the_bound_held_at_the_requests_that_run():
    """θ = 1.6449, v = 400: at b = 16 a buffer of 131.6 tokens leaves 17 requests of 50; at b = 64, 263.2 leave 14."""
    control = make_control(1, 64, memory=memory_bound("buffer", 1000), mean=50.0, variance=400.0)
    hand = ByHand(control)
    assert hand.target.memory_bound == 16  # at the middle of the range, 32: 186.1 tokens leave 16.3
    assert hand.decide(1, 1).memory_bound == 17
    assert hand.decide(1, 64).memory_bound == 64
    assert hand.decide(1, 1).memory_bound == 14


def test_finished_requests_teach_their_mean_and_how_much_they_vary():
    """100 ± 50 tokens: 100 b + 1.645 · 50 sqrt(b) <= 1000 allows 7.7."""
    control = make_control(1, 64, memory=memory_bound("exact", 1000), mean=100.0, variance=0.0)
    assert ByHand(control).see_finished(observe(0.0, 2, 200, 50**2 + 150**2)).decide(1, 1).memory_bound == 7


@pytest.mark.parametrize(("waiting", "running"), [(0, 5), (5, 0), (0, 0)])
def test_algorithm_1_acts_only_where_requests_both_wait_and_run(waiting, running):
    control = make_control(1, 64, memory=memory_bound("exact", 1000), mean=100.0, variance=0.0)
    hand = ByHand(control).see_finished(observe(0.0, 4, 800, 160_000))
    assert hand.decide(waiting, running).memory_bound == 10
    assert hand.decide(1, 1).memory_bound == 5


def test_algorithm_2_sees_decode_steps_and_nobody_who_runs_is_sent_away():
    """D = 50 ms: from the middle of [1, 256], a late step of 128 gives b_low = 1, b_high = 128: 64; 100 run on."""
    sla = sla_search("paper", "tbt", 0.05, 0.001)
    control = make_control(1, 256, sla=sla, estimates=AT_ONCE)
    hand = ByHand(control)
    start = hand.target
    assert (start.memory_bound, start.sla_bound, start.batch) == (256, 128, 128)
    hand.see_step(observe(58_160.0, 128, 0, 0))
    assert hand.target.batch == 128  # moved at the next decision only
    assert hand.decide(1, 20).batch == 64
    assert hand.state.second == ((1, 128), 64)
    assert hand.decide(1, 100).batch == 100  # in a step without decodes
    assert hand.target.sla_bound == 64


def test_the_smaller_bound_decides_within_the_range_of_what_may_run():
    sla = sla_search("paper", "tbt", 0.05, 0.001)
    control = make_control(4, 64, sla=sla, memory=memory_bound("exact", 1000), mean=100.0, variance=0.0)
    hand = ByHand(control)
    assert (hand.target.memory_bound, hand.target.sla_bound, hand.target.batch) == (10, 34, 10)
    assert hand.see_finished(observe(0.0, 1, 500, 250_000)).decide(1, 1).batch == 4  # 2 of 500 tokens, but B_min
    hand = ByHand(control)
    hand.state = Both(hand.state.first, hand.state.second._replace(bound=6.0))
    assert hand.decide(1, 1).batch == 6


def test_steps_may_be_taken_at_once_where_nothing_that_happens_in_them_moves_the_cap():
    assert is_steady(make_control(1, 8))
    for rule, steady in (("exact", True), ("margin", True), ("buffer", False), ("literal", False)):
        assert is_steady(make_control(1, 8, memory=memory_bound(rule, 100))) is steady
    assert not is_steady(make_control(1, 8, sla=sla_search("paper", "tbt", 0.05, 0.001)))
