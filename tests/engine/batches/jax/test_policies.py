"""Every policy on thousands of arguments, edges and ties among them: plain Python, Numba and JAX give the same bits.

Arguments reach JAX as traced data, all rows at once: constants would be folded by the compiler, by other means.
"""

from collections.abc import Callable
from typing import Any

import jax
import numba
import numpy as np
import pytest

from batchcube.engine.histogram import BUCKETS, bucket_of
from batchcube.engine.policies.controller import Both, Heads, View
from batchcube.engine.policies.estimates import UNIT, Observation, RunningMeans, Smoothing, observe, read, update
from batchcube.engine.policies.memory import Memory, MemoryState, fits, largest_fitting, memory_batch
from batchcube.engine.policies.order import NAMED, Candidate, Named, named_key, rank_of
from batchcube.engine.policies.service import Service, own_ticks, piece_of, service_ticks
from batchcube.engine.policies.sla import (
    Range,
    Sla,
    SlaState,
    clamp,
    narrow,
    narrow_heuristic,
    narrow_paper,
    sla_batch,
)
from batchcube.engine.policies.target import Control, decider, finished_of, last_of, steps_of
from batchcube.engine.ticks import LARGEST_BATCH, LARGEST_REQUEST, LATEST, NEVER
from batchcube.engine.windows import rest_of_window, window_at

ROWS = 4000


def agree(function: Callable[..., tuple[Any, ...]], *columns: Any) -> list[np.ndarray]:
    """Run a function of scalars on rows of arguments in every backend; return its values once they are the same."""
    columns = tuple(np.asarray(column) for column in columns)
    assert {column.dtype for column in columns} <= {np.dtype(np.int64), np.dtype(np.float64)}
    rows = list(zip(*(list(column) if column.ndim > 1 else column.tolist() for column in columns), strict=True))
    compiled = numba.njit(error_model="numpy")(function)
    with jax.enable_x64(True):
        traced = [np.asarray(values) for values in jax.jit(jax.vmap(function))(*columns)]
    in_python = zip(*(function(*row) for row in rows), strict=True)
    in_numba = zip(*(compiled(*row) for row in rows), strict=True)
    for field, (plain, machine, values) in enumerate(zip(in_python, in_numba, traced, strict=True)):
        assert values.dtype in (np.int64, np.float64, np.bool_)
        wanted = np.array(plain, values.dtype)
        assert np.array_equal(wanted, np.array(plain))  # the type of the traced values holds them all
        np.testing.assert_array_equal(as_bits(values), as_bits(wanted), err_msg=f"JAX, value {field}")
        np.testing.assert_array_equal(
            as_bits(np.array(machine, values.dtype)), as_bits(wanted), err_msg=f"Numba, value {field}"
        )
    return traced


def as_bits(values: np.ndarray) -> np.ndarray:
    return values.view(np.int64) if values.dtype == np.float64 else values


def integers(rng: np.random.Generator, low: int, high: int) -> np.ndarray:
    """Draw integers of every size: the ends, the neighbourhood of the lower one, and all between."""
    wide = low + np.floor(np.exp2(rng.uniform(0, np.log2(high - low + 1), ROWS))).astype(np.int64) - 1
    near = low + rng.integers(0, min(6, high - low + 1), ROWS)
    return np.choose(rng.integers(0, 4, ROWS), [wide, near, rng.integers(low, high + 1, ROWS), np.full(ROWS, high)])


def reals(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Draw floats of every size: the ends, whole ones and halves, and all between."""
    wide = np.minimum(low + np.exp2(rng.uniform(-10, np.log2(high - low), ROWS)), high)
    coarse = np.clip(np.round(2.0 * wide) / 2.0, low, high)
    uniform = rng.uniform(low, high, ROWS)
    return np.choose(rng.integers(0, 5, ROWS), [wide, coarse, uniform, np.full(ROWS, low), np.full(ROWS, high)])


def any_of(rng: np.random.Generator, *values: Any) -> np.ndarray:
    return rng.choice(np.array(values), ROWS)


def laws(rng: np.random.Generator, longest: int) -> tuple[np.ndarray, ...]:
    """Draw service laws with five pieces, the last of which may begin NEVER: knots, base and slope."""
    knots = np.sort(np.stack([integers(rng, 1, longest) for _ in range(4)], axis=1), axis=1)
    knots = np.concatenate([np.zeros((ROWS, 1), np.int64), knots], axis=1)
    knots[rng.random(ROWS) < 0.3, 3:] = NEVER
    base = rng.integers(0, 2**20, (ROWS, 9, 5)) * rng.integers(0, 3, (ROWS, 9, 5))
    slope = rng.uniform(0, 2.0**52 / longest / 4, (ROWS, 9, 5)) * rng.choice([0.0, 1e-9, 1.0], (ROWS, 9, 5))
    return knots, base, slope


@pytest.mark.parametrize("longest", [LARGEST_REQUEST, 2**40])
def test_service(longest):
    def in_service(size, length, predicted, batch_ticks, knots, base, slope):
        law = Service(knots, base, slope, base, 0, False)
        ticks = service_ticks(size, length, law)
        own = own_ticks(size, length, batch_ticks, law)
        return piece_of(length, law), ticks, own, service_ticks(size, predicted, law)

    rng = np.random.default_rng(1)
    knots, base, slope = laws(rng, longest)
    length = np.where(rng.random(ROWS) < 0.3, knots[np.arange(ROWS), rng.integers(0, 3, ROWS)], 0)
    length = np.where(length > 0, length - rng.integers(0, 2, ROWS), integers(rng, 0, longest))
    predicted = np.where(rng.random(ROWS) < 0.5, length + rng.random(ROWS), reals(rng, 0.0, float(longest)))
    batch_ticks = integers(rng, 1, 2**51)
    pieces, ticks, own, forecast = agree(
        in_service, integers(rng, 0, 8), length, predicted, batch_ticks, knots, base, slope
    )
    assert set(pieces) == {0, 1, 2, 3, 4}
    assert ticks.min() == forecast.min() == 1
    assert 0 < (own < ticks).sum() < ROWS


def test_orders():
    def ranked(which, at, size, request, previous, arrival, service):
        seen = Candidate(at, size, request * 1.0, arrival, 0.0, service, service, previous, size)
        return named_key(seen, Named(which)), rank_of(named_key(seen, Named(which))), rank_of(arrival - service)

    rng = np.random.default_rng(3)
    bins = integers(rng, 1, 40)
    at = rng.integers(0, bins)
    previous = np.where(rng.random(ROWS) < 0.3, at, rng.integers(-1, bins))
    key, rank, other = agree(
        ranked,
        rng.integers(0, len(NAMED), ROWS),
        at,
        integers(rng, 0, 2**29),
        integers(rng, 0, 2**29),
        previous,
        reals(rng, 0.0, 2.0**52),
        any_of(rng, 0.0, 0.5, 3e15),
    )
    for number in (key, other):
        assert number.min() < 0 < np.median(number)
    assert (np.argsort(key, kind="stable") == np.argsort(rank, kind="stable")).all()


def seen(rng: np.random.Generator, most: int) -> tuple[np.ndarray, ...]:
    """Draw the four fields of an `Observation`."""
    return tuple(integers(rng, 0, most) for _ in range(4))


def test_observations():
    rng = np.random.default_rng(4)
    size = integers(rng, 1, LARGEST_BATCH)
    signal = np.where(rng.random(ROWS) < 0.1, 1e300, integers(rng, 0, 2**42) / integers(rng, 1, 2**21))
    tokens = size * integers(rng, 0, LARGEST_REQUEST) - rng.integers(0, size)
    tokens = np.maximum(tokens, 0)
    squares = tokens * integers(rng, 0, LARGEST_REQUEST)
    held, *_ = agree(lambda *arguments: tuple(observe(*arguments)), signal, size, tokens, squares)
    assert held.max() == 2**50


def test_estimates():
    def taught(kind, weight, observations, count, *fields):
        settings = Smoothing(kind, weight, observations)
        running = RunningMeans(count, Observation(fields[0], fields[1], fields[2], fields[3]))
        new, oldest = (
            Observation(fields[4], fields[5], fields[6], fields[7]),
            Observation(fields[8], fields[9], fields[10], fields[11]),
        )
        after = update(running, new, oldest, settings)
        total = after.total
        return (
            after.seen,
            total.signal,
            total.batch,
            total.tokens,
            total.squares,
            read(total.signal, after, settings),
            read(fields[3], running, settings),
        )

    rng = np.random.default_rng(5)
    observations = integers(rng, 1, 2000)
    held, *_ = agree(
        taught,
        any_of(rng, 0, 1),
        np.where(rng.random(ROWS) < 0.2, 1.0, rng.uniform(1e-6, 1.0, ROWS)),
        observations,
        np.where(rng.random(ROWS) < 0.3, observations, integers(rng, 0, 2000)),
        *seen(rng, 2**61),
        *seen(rng, 2**52),
        *seen(rng, 2**52),
    )
    assert (held <= observations).all()
    assert 0.1 < (held == observations).mean() < 0.9


def memories(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Draw rule, capacity, quantile and margin."""
    return (
        any_of(rng, 0, 1, 2, 3),
        reals(rng, 1.0, 2.0**40),
        any_of(rng, -1.2815515655446004, 0.0, 1.6448536269514722, 3.719016485455709),
        any_of(rng, 0.0, 20.0, 1e6),
    )


def moments(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw mean and variance of the tokens of a request."""
    return reals(rng, 1.0, float(LARGEST_REQUEST)), reals(rng, 0.0, float(LARGEST_REQUEST**2))


def test_memory():
    def bounds(mean, variance, previous, smallest, largest, batch, rule, capacity, quantile, margin):
        memory = Memory(True, rule, capacity, quantile, margin)
        return (
            fits(batch, mean, variance, memory),
            largest_fitting(mean, variance, memory),
            memory_batch(mean, variance, previous, smallest, largest, memory),
        )

    rng = np.random.default_rng(6)
    largest = integers(rng, 1, LARGEST_BATCH) * 1.0
    smallest, previous, batch = (np.ceil(largest * rng.random(ROWS)) for _ in range(3))
    rule, capacity, *rest = memories(rng)
    mean, variance = moments(rng)
    # Where the batch fills the capacity to the last token, rounding decides.
    exactly = rng.random(ROWS) < 0.4
    mean, variance = np.where(exactly, np.round(mean), mean), np.where(exactly, 0.0, variance)
    capacity = np.where(exactly, batch * np.maximum(mean, 1.0), capacity)
    fit, _, bound = agree(
        bounds, np.maximum(mean, 1.0), variance, previous, smallest, largest, batch, rule, capacity, *rest
    )
    assert 0.2 < fit.mean() < 0.8
    assert ((smallest < bound) & (bound < largest)).sum() > 0


def searches(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Draw variant, signal, target, tolerance, alpha and delta."""
    return (
        any_of(rng, 0, 1),
        any_of(rng, 0, 1, 2),
        integers(rng, 0, 10**7) * 1.0,
        any_of(rng, 0.0, 0.5, 10_000.0),
        any_of(rng, 1.0, 3.0, 16.0, 2.5),
        any_of(rng, 0.0, 1.0, 4.0, 0.3),
    )


def ranges(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Draw B_min <= b_low <= b_high <= B_max, the outer two first."""
    largest = integers(rng, 1, LARGEST_BATCH) * 1.0
    smallest = np.ceil(largest * rng.random(ROWS))
    inner = np.stack([smallest + (largest - smallest) * any_of(rng, 0.0, 0.25, 0.3, 0.5, 1.0) for _ in range(2)])
    return smallest, largest, *np.sort(inner, axis=0)


def test_sla():
    def moved(smallest, largest, low, high, signal, batch, *settings):
        sla = Sla(True, settings[0], settings[1], settings[2], settings[3], settings[4], settings[5])
        span = Range(low, high)
        after = narrow(span, signal, batch, smallest, largest, sla)
        paper = narrow_paper(span, signal > 5.0, signal < 3.0, batch, smallest, largest, sla)
        heuristic = narrow_heuristic(span, signal > 5.0, signal < 3.0, batch, smallest, largest, sla)
        return (
            after.low,
            after.high,
            sla_batch(after, smallest, largest),
            paper.low,
            paper.high,
            heuristic.low,
            heuristic.high,
            clamp(batch, low, high),
        )

    rng = np.random.default_rng(7)
    smallest, largest, low, high = ranges(rng)
    settings = searches(rng)
    target, tolerance = settings[2], settings[3]
    signal = target + tolerance * any_of(rng, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)  # on the edges, often
    batch = np.clip(any_of(rng, 1.0, 17.0, 200.125) * any_of(rng, 0.1, 1.0, 3.0), smallest, largest)
    after_low, after_high, middle, *_ = agree(moved, smallest, largest, low, high, signal, batch, *settings)
    for end, before in ((after_low, low), (after_high, high)):
        assert ((smallest <= end) & (end <= largest)).all()
        assert (end < before).any()
        assert (end > before).any()
    assert ((smallest <= middle) & (middle <= largest)).all()


def observed(rng: np.random.Generator, most: np.ndarray) -> np.ndarray:
    """Draw observations up to a number of tokens, mostly with a variance: (row, field)."""
    signal, batch, tokens = rng.integers(1, most, (3, ROWS))
    squares = np.minimum(tokens / UNIT * tokens * rng.uniform(0.95, 1.6, ROWS), LARGEST_REQUEST**2 * UNIT)
    return np.stack([signal, batch, tokens, squares.astype(np.int64)], axis=1)


@pytest.mark.parametrize("memory_enabled", [False, True])
@pytest.mark.parametrize("sla_enabled", [False, True])
def test_the_controller(sla_enabled, memory_enabled):
    start_all, decide_all = decider(None)

    def flat(state, target):
        return (
            state.first.bound,
            state.second.span.low,
            state.second.span.high,
            state.second.bound,
            target.memory_bound,
            target.sla_bound,
            target.batch,
        )

    flat = numba.extending.register_jitable(flat)

    def decided(ends, search, bound, smoothed, counted, total, new, finished, prior, prior_squares, counts, controller):
        smallest, largest, low, high, memory_low = ends[0], ends[1], ends[2], ends[3], ends[4]
        control = Control(
            smallest,
            largest,
            Sla(sla_enabled, counted[0], counted[1], search[0], search[1], search[2], search[3]),
            Memory(memory_enabled, counted[2], bound[0], bound[1], bound[2]),
            Smoothing(counted[3], smoothed, counted[4]),
            prior,
            prior_squares,
            (),
        )
        running = RunningMeans(counted[5], Observation(total[0], total[1], total[2], total[3]))
        view = View(
            counts[0] > 0,
            counts[0],
            counts[1],
            counts[2],
            counts,
            Heads(counts, counts, prior, prior, prior, 0, 1),
            controller,
            smallest,
            largest,
            steps_of(running, control.smoothing),
            finished_of(running, prior[controller], prior_squares[controller], control.smoothing),
            last_of(
                Observation(new[0], new[1], new[2], new[3]),
                Observation(finished[0], finished[1], finished[2], finished[3]),
            ),
        )
        state = Both(MemoryState(memory_low), SlaState(Range(low, high), low))
        begun, at_start = start_all(running, view, control)
        moved, after = decide_all(state, running, view, control)
        return (*flat(begun, at_start), *flat(moved, after))

    rng = np.random.default_rng(8)
    smallest, largest, low, high = ranges(rng)
    variant, signal, *search = searches(rng)
    rule, *bound = memories(rng)
    tokens, variance = moments(rng)
    most = any_of(rng, 10**4, 10**6, LARGEST_REQUEST * UNIT)
    kind, observations = any_of(rng, 0, 1), integers(rng, 1, 40)
    count = np.where(rng.random(ROWS) < 0.4, observations, np.minimum(integers(rng, 0, 40), observations))
    held = np.where(kind == 0, np.minimum(count, 1), count)[:, None]
    new, finished, old = (observed(rng, most) for _ in range(3))
    new[rng.random(ROWS) < 0.2, 1] = 0  # a step without decodes
    running = integers(rng, 0, LARGEST_BATCH)
    staying = np.where(rng.random(ROWS) < 0.5, running, 0)
    found = agree(
        decided,
        np.stack([smallest, largest, low, high, np.floor((low + high) / 2)], axis=1),
        np.stack(search, axis=1),
        np.stack(bound, axis=1),
        np.where(rng.random(ROWS) < 0.2, 1.0, rng.uniform(0.01, 1.0, ROWS)),
        np.stack([variant, signal, rule, kind, observations, count, np.floor(low).astype(np.int64)], axis=1),
        old * held,
        new,
        finished,
        np.stack([tokens, tokens[::-1]], axis=1),
        np.stack([tokens**2 + variance, tokens[::-1] ** 2], axis=1),
        np.stack([any_of(rng, 0, 1, 7), running, staying], axis=1),
        any_of(rng, 0, 1),
    )
    at_start, after = found[6], found[13]
    assert (at_start == largest).all() == (not (sla_enabled or memory_enabled))
    assert ((np.maximum(smallest, np.minimum(staying, largest)) <= after) & (after <= largest)).all()
    shown = new[:, 1] > 0
    assert not sla_enabled or (found[8][shown] != low[shown]).any()
    assert (found[8][~shown] == low[~shown]).all()


def test_buckets():
    rng = np.random.default_rng(9)
    whole = np.where(rng.random(ROWS) < 0.5, integers(rng, 0, LATEST), 2 ** rng.integers(0, 52, ROWS) - 1)
    real = np.where(rng.random(ROWS) < 0.5, reals(rng, 0.0, 2.0**52), whole / integers(rng, 1, 2**21))
    found, of_ratios = agree(lambda ticks, ratio: (bucket_of(ticks), bucket_of(ratio)), whole, real)
    assert (found.min(), of_ratios.min()) == (0, 0)
    assert BUCKETS // 2 < found.max() < BUCKETS


def test_windows():
    def placed(instant, width):
        window = window_at(instant, width)
        return window, rest_of_window(instant, window, width)

    rng = np.random.default_rng(10)
    width = integers(rng, 1, 2**45)
    edge = np.minimum(integers(rng, 0, 2000) * width, LATEST // width * width) + rng.integers(-1, 2, ROWS)
    instant = np.where(rng.random(ROWS) < 0.7, np.clip(edge, 0, LATEST), integers(rng, 0, LATEST))
    window, rest = agree(placed, instant, width)
    np.testing.assert_array_equal(window, instant // width)
    assert (rest.min(), rest.max()) == (0, 2**20)
