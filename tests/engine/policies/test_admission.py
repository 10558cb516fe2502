"""The cap under continuous batching, a step at a time by hand ([DB] III; docs/model.md, section 10)."""

import pytest

from batchcube.engine.policies.admission import (
    decide_cap,
    is_steady,
    see_finished,
    see_step,
    start_admission,
)
from batchcube.engine.policies.estimates import Observation, observe, smoothing
from batchcube.engine.policies.memory import memory_bound
from batchcube.engine.policies.sla import sla_search
from helpers.batches import make_control

NOTHING = Observation(0, 0, 0, 0)
AT_ONCE = smoothing("ema", 1.0)


def test_the_memory_bound_is_never_below_the_requests_that_run():
    """Requests of 100 tokens and 1000 of capacity: 10, but 12 run; when 7 do, 10 again."""
    control = make_control(1, 64, memory=memory_bound("exact", 1000), mean=100.0, variance=0.0)
    start = start_admission(control)
    assert (start.memory_bound, start.sla_bound, start.cap) == (10, 64, 10)
    crowded = decide_cap(start, 3, 12, control)
    assert (crowded.memory_bound, crowded.cap) == (12, 12)
    assert decide_cap(crowded, 3, 7, control).memory_bound == 10
    assert decide_cap(start, 3, 80, control).memory_bound == 64


def test_the_buffer_is_kept_for_the_bound_held_at_the_requests_that_run():
    """θ = 1.6449, v = 400: at b = 16 a buffer of 131.6 tokens leaves 17 requests of 50; at b = 64, 263.2 leave 14."""
    control = make_control(1, 64, memory=memory_bound("buffer", 1000), mean=50.0, variance=400.0)
    start = start_admission(control)
    assert start.memory_bound == 16  # at the middle of the range, 32: 186.1 tokens leave 16.3
    assert decide_cap(start, 1, 1, control).memory_bound == 17
    held = decide_cap(start, 1, 64, control)
    assert held.memory_bound == 64
    assert decide_cap(held, 1, 1, control).memory_bound == 14


def test_finished_requests_teach_their_mean_and_how_much_they_vary():
    """100 ± 50 tokens: 100 b + 1.645 · 50 sqrt(b) <= 1000 allows 7.7."""
    control = make_control(1, 64, memory=memory_bound("exact", 1000), mean=100.0, variance=0.0)
    finished = see_finished(start_admission(control), observe(0.0, 2, 200, 50**2 + 150**2), NOTHING, control)
    assert decide_cap(finished, 1, 1, control).memory_bound == 7


@pytest.mark.parametrize(("waiting", "running"), [(0, 5), (5, 0), (0, 0)])
def test_algorithm_1_acts_only_where_requests_both_wait_and_run(waiting, running):
    control = make_control(1, 64, memory=memory_bound("exact", 1000), mean=100.0, variance=0.0)
    finished = see_finished(start_admission(control), observe(0.0, 4, 800, 160_000), NOTHING, control)
    assert decide_cap(finished, waiting, running, control).memory_bound == 10
    assert decide_cap(finished, 1, 1, control).memory_bound == 5


def test_algorithm_2_sees_decode_steps_and_nobody_who_runs_is_sent_away():
    """D = 50 ms: from the middle of [1, 256], a late step of 128 gives b_low = 1, b_high = 128: 64; 100 run on."""
    sla = sla_search("paper", "tbt", 0.05, 0.001)
    control = make_control(1, 256, sla=sla, estimates=AT_ONCE)
    start = start_admission(control)
    assert (start.memory_bound, start.sla_bound, start.cap) == (256, 128, 128)
    late = see_step(start, observe(58_160.0, 128, 0, 0), NOTHING, control)
    assert (late.span, late.sla_bound) == ((1, 128), 64)
    assert late.cap == 128  # moved at the next decision only
    assert decide_cap(late, 1, 20, control).cap == 64
    assert decide_cap(late, 1, 100, control).cap == 100
    assert decide_cap(late, 1, 100, control).sla_bound == 64


def test_the_smaller_bound_decides_within_the_range():
    sla = sla_search("paper", "tbt", 0.05, 0.001)
    control = make_control(4, 64, sla=sla, memory=memory_bound("exact", 1000), mean=100.0, variance=0.0)
    start = start_admission(control)
    assert (start.memory_bound, start.sla_bound, start.cap) == (10, 34, 10)
    finished = see_finished(start, observe(0.0, 1, 500, 250_000), NOTHING, control)
    assert decide_cap(finished, 1, 1, control).cap == 4  # 2 of 500 tokens, but B_min
    assert decide_cap(start._replace(sla_bound=6.0), 1, 1, control).cap == 6


def test_steps_may_be_taken_at_once_where_nothing_that_happens_in_them_moves_the_cap():
    assert is_steady(make_control(1, 8))
    for rule, steady in (("exact", True), ("margin", True), ("buffer", False), ("literal", False)):
        assert is_steady(make_control(1, 8, memory=memory_bound(rule, 100))) is steady
    assert not is_steady(make_control(1, 8, sla=sla_search("paper", "tbt", 0.05, 0.001)))
