import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcube.engine.policies.bins import (
    assign_bins,
    distinct_edges,
    equal_mass_edges,
    exponential_edges,
    uniform_edges,
)

EDGES = np.array([1.0, 4.0, 10.0, 20.0])
edge_lists = st.lists(st.integers(0, 30), min_size=2, max_size=7).map(lambda e: np.array(sorted(e), float))


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [(-5, 0), (0.9, 0), (1, 0), (3.999, 0), (4, 1), (9.999, 1), (10, 2), (19.9, 2), (20, 2), (1e9, 2)],
)
def test_bins_are_closed_on_the_left_and_take_what_lies_outside(predicted, expected):
    assert assign_bins([predicted], EDGES).tolist() == [expected]


@given(edge_lists, st.lists(st.integers(-5, 40), min_size=1))
def test_a_request_is_in_the_bin_after_all_inner_edges_that_it_reaches(edges, predicted):
    assert assign_bins(predicted, edges).tolist() == [int(np.sum(x >= edges[1:-1])) for x in predicted]


@given(st.integers(1, 8), st.integers(1, 40))
def test_equal_mass_bins_hold_equally_many(bins, each):
    lengths = np.random.default_rng(bins).permutation(bins * each).astype(float)
    edges = equal_mass_edges(lengths, bins)
    assert len(edges) == bins + 1
    assert (edges[0], edges[-1]) == (lengths.min(), lengths.max())
    np.testing.assert_allclose(edges, [(bins * each - 1) * i / bins for i in range(bins + 1)], rtol=1e-14)
    assert np.abs(np.bincount(assign_bins(lengths, edges), minlength=bins) - each).max() <= 1


def test_uniform_edges_are_equally_wide():
    np.testing.assert_allclose(uniform_edges(1.0, 20.0, 4), [1.0, 5.75, 10.5, 15.25, 20.0], rtol=1e-15)


def test_exponential_edges_by_hand():
    """[MB] Lemma A.1 for B = 4, µ = 1/2.

    L_1 = H_4 = 25/12, L_2 = 1 + log L_1; l_1 = log(L_2)/µ, l_2 = l_1 + log(L_1)/µ.
    """
    harmonic = 25 / 12
    second = 1 + math.log(harmonic)
    expected = [0.0, 2 * math.log(second), 2 * (math.log(second) + math.log(harmonic)), math.inf]
    np.testing.assert_allclose(exponential_edges(0.5, 4, 3), expected, rtol=1e-14)
    # H_4 = 2.0833, log = 0.73397; L_2 = 1.73397, log = 0.55041.
    np.testing.assert_allclose(exponential_edges(0.5, 4, 3)[1:3], [1.10083, 2.56877], atol=2e-5)
    np.testing.assert_array_equal(exponential_edges(0.1, 200, 1), [0.0, math.inf])


def test_exponential_edges_scale_with_the_mean():
    np.testing.assert_allclose(exponential_edges(0.1, 200, 4) * 0.1, exponential_edges(1.0, 200, 4), rtol=1e-14)


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ([1, 2, 3], [1, 2, 3]),
        ([1, 2, 2, 3], [1, 2, 3]),
        ([1, 1, 2, 3], [1, 2, 3]),
        ([1, 2, 3, 3], [1, 2, 3, 3]),  # the last bin is hit by the value 3
        ([5, 5, 5], [5, 5]),
        ([5, 5], [5, 5]),
    ],
)
def test_bins_without_width_are_dropped(edges, expected):
    assert distinct_edges(np.array(edges, float)).tolist() == expected


@given(st.lists(st.integers(1, 6), min_size=1, max_size=40), st.integers(1, 8))
def test_dropping_bins_leaves_only_bins_that_are_hit_and_moves_nobody_apart(sample, bins):
    edges = equal_mass_edges(sample, bins)
    kept = distinct_edges(edges)
    of, of_kept = assign_bins(sample, edges), assign_bins(sample, kept)
    for a in range(len(sample)):
        same, same_kept = of == of[a], of_kept == of_kept[a]
        np.testing.assert_array_equal(same, same_kept)
    assert (np.diff(kept)[:-1] > 0).all()
    assert len(kept) >= 2
