"""Algorithm 2 of [DB]: the worked trace of docs/model.md, section 7, and what each variant may never do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcube.engine.compiling.jit import jit
from batchcube.engine.policies.sla import SIGNALS, VARIANTS, Range, narrow, no_sla, sla_batch, sla_search

SMALLEST, LARGEST = 1.0, 256.0


def follow(target_ms, steps, *, variant="paper", step_ms=lambda k, b: 30 + 0.22 * b, alpha=16, delta=4):
    """Return the batch sizes chosen when each step takes `step_ms` and is seen at once."""
    sla = sla_search(variant, "tbt", target_ms / 1000, 0.001, alpha, delta)
    span, batches = Range(SMALLEST, LARGEST), [float((1 + 256) // 2)]
    for k in range(steps):
        batch = batches[-1]
        span = narrow(span, step_ms(k, batch) * 1000, batch, SMALLEST, LARGEST, sla)
        batches.append(sla_batch(span, SMALLEST, LARGEST))
    return batches


def test_worked_trace_with_50_ms():
    assert follow(50, 5) == [128, 64, 98, 79, 90, 90]


def test_worked_trace_with_80_ms():
    assert follow(80, 3) == [128, 192, 224, 224]


def test_the_trace_stays_where_the_target_is_met():
    batches = follow(50, 100)
    assert set(batches[10:]) == {90}
    assert abs(30 + 0.22 * 90 - 50) <= 1


def test_never_binding_it_settles_half_a_width_below_the_largest_batch():
    assert set(follow(1e6, 200)[50:]) == {LARGEST - 16 / 2}


def test_infeasible_it_settles_half_a_width_above_the_smallest_batch():
    assert set(follow(1.5, 200)[50:]) == {SMALLEST + 16 / 2}


def test_paper_one_step_of_each_branch_by_hand():
    sla = sla_search("paper", "tbt", 50e-3, 1e-3, 16, 4)
    span = Range(60.0, 120.0)
    assert narrow(span, 51_001, 90.0, 1.0, 256.0, sla) == (56, 90)  # late: high = max(90, 76), low = 60 - 4
    assert narrow(span, 51_001, 70.0, 1.0, 256.0, sla) == (56, 76)
    assert narrow(span, 48_999, 90.0, 1.0, 256.0, sla) == (90, 124)  # early: low = min(90, 104), high = 120 + 4
    assert narrow(span, 48_999, 110.0, 1.0, 256.0, sla) == (104, 124)
    assert narrow(span, 51_000, 90.0, 1.0, 256.0, sla) == (82, 98)  # in between: 90 ± 8
    assert narrow(span, 49_000, 90.5, 1.0, 256.0, sla) == (82.5, 98.5)
    assert narrow(Range(2.0, 120.0), 51_001, 90.0, 1.0, 256.0, sla).low == 1
    assert narrow(Range(2.0, 255.0), 48_999, 90.0, 1.0, 256.0, sla).high == 256
    odd = sla_search("paper", "tbt", 50e-3, 1e-3, 15, 4)
    assert narrow(span, 50_000, 90.0, 1.0, 256.0, odd) == (83, 97)  # in between: 90 ± floor(15 / 2)


def test_heuristic_one_step_of_each_branch_by_hand():
    sla = sla_search("heuristic", "tbt", 50e-3, 1e-3)
    span = Range(60.0, 120.0)
    assert narrow(span, 51_001, 90.0, 1.0, 256.0, sla) == (72, 90)
    assert narrow(span, 51_001, 50.0, 1.0, 256.0, sla) == (50, 50)  # low = max(60, 40) above high = 50
    assert narrow(span, 48_999, 90.0, 1.0, 256.0, sla) == (90, 138)
    assert narrow(span, 50_000, 100.0, 1.0, 256.0, sla) == (70, 130)
    assert narrow(span, 50_000, 20.0, 1.0, 256.0, sla) == (1, 50)


def test_heuristic_gets_stuck_above_what_is_feasible_after_a_load_step():
    """From step 100 on every step takes twice as long: b = 38 would do, yet b_low cannot fall."""

    def step_ms(k, b):
        return (30 + 0.22 * b) / (2 if k < 100 else 1)

    heuristic = follow(50, 300, variant="heuristic", step_ms=step_ms)
    paper = follow(50, 300, step_ms=step_ms)
    assert heuristic[100] > 200
    assert heuristic[-1] == heuristic[-50]
    assert step_ms(299, heuristic[-1]) > 50 + 10
    assert abs(step_ms(299, paper[-1]) - 50) <= 1


ranges = st.tuples(st.floats(1, 256), st.floats(1, 256)).map(sorted)
signals, batches = st.floats(0, 2e5), st.integers(1, 256).map(float)
searches = st.builds(
    sla_search,
    st.sampled_from(VARIANTS),
    st.just("tbt"),
    st.floats(0.001, 0.1),
    st.floats(0, 0.01),
    st.integers(0, 64),
    st.integers(0, 16),
)


@given(ranges, signals, batches, searches)
def test_the_range_stays_inside_the_smallest_and_the_largest_batch(ends, signal, batch, sla):
    span = narrow(Range(*ends), signal, batch, SMALLEST, LARGEST, sla)
    assert SMALLEST <= span.low <= LARGEST
    assert SMALLEST <= span.high <= LARGEST
    chosen = sla_batch(span, SMALLEST, LARGEST)
    assert SMALLEST <= chosen <= LARGEST
    assert chosen == int(chosen)


@given(ranges, st.booleans(), batches)
def test_heuristic_never_lowers_b_low_outside_the_band_unless_b_high_forces_it(ends, late, batch):
    sla = sla_search("heuristic", "tbt", 0.05, 0.001)
    before = Range(*ends)
    after = narrow(before, 60_000.0 if late else 40_000.0, batch, SMALLEST, LARGEST, sla)
    assert after.low == after.high or after.low >= before.low
    assert after.low <= after.high
    assert after.high <= before.high if late else after.high >= before.high


@given(ranges, batches)
def test_heuristic_keeps_the_width_inside_the_band_unless_it_meets_an_end(ends, batch):
    before = Range(*ends)
    after = narrow(before, 50_000.0, batch, SMALLEST, LARGEST, sla_search("heuristic", "tbt", 0.05, 0.001))
    if after.low > SMALLEST and after.high < LARGEST:
        assert after.high - after.low == pytest.approx(before.high - before.low)
        assert (after.high + after.low) / 2 == pytest.approx(batch)


@jit
def narrow_all(low, high, signal, batch, sla, out):
    for i in range(len(low)):
        span = narrow(Range(low[i], high[i]), signal[i], batch[i], 1.0, 256.0, sla)
        out[i, 0], out[i, 1], out[i, 2] = span.low, span.high, sla_batch(span, 1.0, 256.0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_arrays_scalars_and_compiled_code_give_the_same(variant):
    rng = np.random.default_rng(7)
    low, high = np.sort(rng.uniform(1, 256, (2, 5000)), axis=0)
    signal, batch = rng.uniform(40_000, 60_000, 5000), rng.integers(1024, 256 * 1024, 5000) / 1024
    sla = sla_search(variant, "tbt", 0.05, 0.003, 15, 4)
    out = np.empty((5000, 3))
    narrow_all(low, high, signal, batch, sla, out)
    span = narrow(Range(low, high), signal, batch, 1.0, 256.0, sla)
    np.testing.assert_array_equal(out, np.stack([*span, sla_batch(span, 1.0, 256.0)], axis=1))
    for i in range(5000):
        one = narrow(Range(float(low[i]), float(high[i])), float(signal[i]), float(batch[i]), 1.0, 256.0, sla)
        assert out[i].tolist() == [*one, sla_batch(one, 1.0, 256.0)]


def test_settings():
    sla = sla_search("heuristic", "latency", 2.0, 0.5)
    assert (sla.enabled, VARIANTS[sla.variant], SIGNALS[sla.signal]) == (True, "heuristic", "latency")
    assert (sla.target, sla.tolerance, sla.alpha, sla.delta) == (2e6, 5e5, 16.0, 4.0)
    assert not no_sla().enabled
    with pytest.raises(ValueError, match=r"policy.sla.variant = 'best': must be one of paper, heuristic"):
        sla_search("best", "tbt", 1, 0)
    with pytest.raises(
        ValueError, match=r"policy.sla.signal = 'ttft': must be one of tbt, batch_time, latency, token_gap"
    ):
        sla_search("paper", "ttft", 1, 0)
