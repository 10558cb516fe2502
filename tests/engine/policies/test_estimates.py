from collections import deque
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcube.engine.compiling.jit import jit
from batchcube.engine.policies.estimates import (
    FINER,
    LARGEST_WINDOW,
    LONGEST_SIGNAL,
    NOTHING,
    SMALLEST_WEIGHT,
    UNIT,
    Observation,
    observe,
    read,
    smoothing,
    start_means,
    update,
)
from batchcube.engine.ticks import LARGEST_BATCH, LARGEST_REQUEST

observations = st.lists(
    st.tuples(
        st.floats(0, 1e9),
        st.integers(1, LARGEST_BATCH),
        st.integers(1, LARGEST_REQUEST),
        st.integers(1, LARGEST_REQUEST**2),
    ),
    min_size=1,
    max_size=40,
)


def run(settings, rows):
    """Feed a list of batches; yield (running, the batches seen so far as integers)."""
    running, held, seen = start_means(), deque(), []
    for row in rows:
        new = observe(*row)
        held.append(new)
        oldest = held.popleft() if len(held) > settings.observations else NOTHING
        running = update(running, new, oldest, settings)
        seen.append(new)
        yield running, seen


def test_one_batch_is_described_by_means_over_its_requests():
    assert observe(2.5, 4, 10, 30) == Observation(2560, 4096, 2560, 7680)


@pytest.mark.parametrize("settings", [smoothing(), smoothing("window", observations=3)])
@given(rows=observations)
def test_the_first_observation_sets_the_mean(settings, rows):
    running, seen = next(iter(run(settings, rows)))
    for field in Observation._fields:
        assert read(getattr(running.total, field), running, settings) == getattr(seen[0], field) / UNIT


@given(observations, st.floats(0.01, 1.0))
def test_ema_follows_its_formula_to_its_unit(rows, weight):
    """x̄ <- w·x + (1-w)·x̄, to one unit in each step; what each step forgets, it forgets of the rounding too."""
    settings = smoothing("ema", weight)
    exact, w = None, Fraction(weight)
    for running, seen in run(settings, rows):
        x = Fraction(seen[-1].signal, UNIT)
        exact = x if exact is None else w * x + (1 - w) * exact
        held = Fraction(running.total.signal, UNIT * FINER)
        assert abs(held - exact) <= Fraction(1, UNIT * FINER) / w


@jit
def steps_to_reach(settings, first, then, most):
    """Return how many observations of `then` after one of `first` bring all means to it."""
    running = update(start_means(), first, NOTHING, settings)
    for step in range(most):
        if (
            read(running.total.signal, running, settings) * 1024 == then.signal
            and read(running.total.batch, running, settings) * 1024 == then.batch
            and read(running.total.tokens, running, settings) * 1024 == then.tokens
            and read(running.total.squares, running, settings) * 1024 == then.squares
        ):
            return step
        running = update(running, then, NOTHING, settings)
    return most


@pytest.mark.parametrize("weight", [SMALLEST_WEIGHT, 1e-4, 0.001, 0.2, 0.99, 1.0])
@pytest.mark.parametrize(
    ("first", "then"),
    [
        (observe(1.0, 1, 2, 2), observe(2.0, 2, 6, 18)),
        (observe(1e6, 256, 1, 1), observe(0.0, 255, 10**4, 10**7)),
        (observe(0.0, 1, 2, 4), observe(LONGEST_SIGNAL, LARGEST_BATCH, LARGEST_REQUEST, LARGEST_REQUEST**2)),
    ],
)
def test_a_mean_arrives_whatever_its_weight(weight, first, then):
    """The distance, in the mean's unit, falls to 1/w units within ln(distance·w)/w steps or so, then by one a step."""
    farthest = max(abs(a - b) for a, b in zip(first, then, strict=True)) * FINER
    most = (max(np.log(farthest * weight), 0.0) + 2.0) / weight
    assert steps_to_reach(smoothing("ema", weight), first, then, 10**9) <= most


def test_a_small_weight_follows_its_formula():
    """After 1/w equal observations, (1 - w)^(1/w) of the distance is left: 0.0001 used never to start."""
    settings = smoothing("ema", 1e-4)
    running = update(start_means(), observe(100.0, 1, 2, 2), NOTHING, settings)
    for _ in range(10_000):
        running = update(running, observe(101.0, 2, 4, 8), NOTHING, settings)
    left = (1 - 1e-4) ** 10_000
    assert read(running.total.signal, running, settings) == pytest.approx(101 - left, abs=0.01)
    assert read(running.total.batch, running, settings) == pytest.approx(2 - left, abs=0.01)


@given(observations, st.integers(1, 12))
def test_window_is_the_exact_mean_of_the_last_n(rows, n):
    settings = smoothing("window", observations=n)
    for running, seen in run(settings, rows):
        last = seen[-n:]
        for field in Observation._fields:
            total = sum(getattr(new, field) for new in last)
            assert getattr(running.total, field) == total
            assert read(total, running, settings) == total / (UNIT * len(last))


def test_weight_one_forgets_at_once():
    for running, seen in run(smoothing("ema", 1.0), [(5.0, 2, 8, 40), (7.0, 3, 30, 300), (1.0, 1, 1, 1)]):
        assert running.total == Observation(*(FINER * value for value in seen[-1]))


def test_before_any_observation_nothing_is_held():
    assert start_means() == (0, NOTHING)


def test_vast_signals_are_held():
    assert observe(1e300, 1, 1, 1).signal == LONGEST_SIGNAL * UNIT


@jit
def learn_all(settings, rows, history, out):
    running = start_means()
    for i in range(len(rows)):
        new = observe(rows[i, 0] / 3, rows[i, 1], rows[i, 2], rows[i, 3])
        slot = i % settings.observations
        oldest = Observation(history[slot, 0], history[slot, 1], history[slot, 2], history[slot, 3])
        history[slot, 0], history[slot, 1], history[slot, 2], history[slot, 3] = new
        running = update(running, new, oldest, settings)
        for field in range(4):
            out[i, field] = read(running.total[field], running, settings)


@pytest.mark.parametrize("settings", [smoothing("ema", 0.3), smoothing("window", observations=LARGEST_WINDOW)])
def test_compiled_code_learns_the_same_up_to_the_largest_values(settings):
    rng = np.random.default_rng(5)
    rows = np.stack([rng.integers(0, 3 * 2**40, 3000), rng.integers(1, 2**16, 3000)] * 2, axis=1)
    rows[:, 2] = LARGEST_REQUEST * rows[:, 1]
    rows[1000:, 2] -= rng.integers(0, 2**30, 2000) % rows[1000:, 1]
    rows[:, 3] = LARGEST_REQUEST * rows[:, 2]
    out = np.empty((3000, 4))
    learn_all(settings, rows, np.zeros((settings.observations, 4), np.int64), out)
    in_python = [
        [read(total, running, settings) for total in running.total]
        for running, _ in run(settings, [(r[0] / 3, *r[1:]) for r in rows.tolist()])
    ]
    np.testing.assert_array_equal(out, in_python)
    assert (out[:1000, 3] == LARGEST_REQUEST**2).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "mean"}, "policy.estimates.kind = 'mean': must be one of ema, window"),
        ({"weight": 9e-7}, r"policy.estimates.weight = 9e-07: must be in \[1e-06, 1\]"),
        ({"weight": 1.5}, r"policy.estimates.weight = 1.5: must be in \[1e-06, 1\]"),
        ({"observations": 0}, "policy.estimates.observations = 0: must be in 1..2000"),
        ({"observations": 2001}, "policy.estimates.observations = 2001: must be in 1..2000"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        smoothing(**settings)
