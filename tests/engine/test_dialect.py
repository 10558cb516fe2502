import math

import jax
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcube.engine.compiling.jit import jit
from batchcube.engine.dialect import floor, maximum, minimum, nearest, settle, sqrt, where, whole

NUMBERS = np.concatenate(
    [
        [0.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 1e-300, 1e15 + 0.5, 2.0**52 + 1, -(2.0**52) - 1],
        np.arange(-20, 20) / 2048,
        np.random.default_rng(1).normal(0, 1000, 2000),
    ]
)


@jit
def every_word(a, b, out):
    for i in range(len(a)):
        out[i, 0] = where(a[i] < b[i], a[i], 7.0)
        out[i, 1] = minimum(a[i], b[i])
        out[i, 2] = maximum(a[i], b[i])
        out[i, 3] = floor(a[i])
        out[i, 4] = sqrt(abs(a[i]))
        out[i, 5] = nearest(a[i])
        out[i, 6] = whole(floor(a[i]))
        out[i, 7] = settle(a[i])


def in_words(a, b, absolute):
    return [
        where(a < b, a, 7.0),
        minimum(a, b),
        maximum(a, b),
        floor(a),
        sqrt(absolute),
        nearest(a),
        whole(floor(a)),
        settle(a),
    ]


def test_every_word_means_the_same_for_scalars_arrays_and_compiled_code():
    a, b = NUMBERS, np.roll(NUMBERS, 17)
    compiled = np.empty((len(a), 8))
    every_word(a, b, compiled)
    on_arrays = np.stack(in_words(a, b, np.abs(a)), axis=1).astype(np.float64)
    on_scalars = np.array([in_words(x, y, abs(x)) for x, y in zip(a.tolist(), b.tolist(), strict=True)], np.float64)
    with jax.enable_x64(True):
        traced = jax.jit(in_words)(a, b, np.abs(a))
        traced_scalars = jax.jit(jax.vmap(in_words))(a, b, np.abs(a))
    np.testing.assert_array_equal(compiled, on_arrays)
    np.testing.assert_array_equal(compiled, on_scalars)
    np.testing.assert_array_equal(np.stack(traced, axis=1), on_arrays)
    np.testing.assert_array_equal(np.stack(traced_scalars, axis=1), on_arrays)
    assert [values.dtype for values in traced] == [np.asarray(values).dtype for values in in_words(a, b, np.abs(a))]


def test_scalar_types():
    assert isinstance(floor(2.5), float)
    assert isinstance(nearest(2.5), int)
    assert isinstance(whole(2.0), int)
    assert nearest(np.array([2.5, 3.5])).dtype == np.int64
    assert nearest(np.array([2.5, 3.5])).tolist() == [2, 4]
    assert (nearest(2.5), nearest(3.5), nearest(-0.5)) == (2, 4, 0)
    assert (floor(-0.5), floor(3.0)) == (-1.0, 3.0)


@given(st.booleans(), st.integers(), st.integers())
def test_where_takes_plain_booleans(condition, yes, no):
    assert where(condition, yes, no) == (yes if condition else no)
    assert where(np.bool_(condition), yes, no) == (yes if condition else no)


@given(st.floats(-1e9, 1e9))
def test_settle_is_within_half_a_step_and_settles_once(x):
    settled = settle(x)
    assert abs(settled - x) <= 0.5 / 1024
    assert settled * 1024 == math.floor(settled * 1024)
    assert settle(settled) == settled


def factors():
    """Draw two factors and a settled summand, many times."""
    drawn = np.random.default_rng(2).uniform(0, 100, (5000, 3)).tolist()
    return [(a, b, round(c * 1024) / 1024) for a, b, c in drawn]


@pytest.mark.parametrize("fastmath", [False, {"contract"}])
def test_settle_makes_contraction_harmless(fastmath):
    """`contract` lets the compiler fuse a*b+c; the settled form must not move, while the bare form may."""

    @numba.njit(fastmath=fastmath, error_model="numpy")
    def settled(a, b, c):
        return settle(a * b) + c

    for a, b, c in factors():
        assert settled(a, b, c) == settle(a * b) + c


def test_settle_makes_contraction_harmless_when_traced():
    a, b, c = np.array(factors()).T
    with jax.enable_x64(True):
        found = jax.jit(lambda a, b, c: settle(a * b) + c)(a, b, c)
    assert found.tolist() == [settle(a * b) + c for a, b, c in factors()]
