import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcube.engine.numba.jit import jit
from batchcube.engine.policies.bin_choice import CHOICES, EMPTY, rank


def chosen(choice, heads, waiting, previous):
    """Return the bin served: the lowest rank, the lower bin on a tie; None when nothing waits."""
    bins = len(waiting)
    ranks = [rank(CHOICES.index(choice), j, heads[j], waiting[j], previous, bins) for j in range(bins)]
    return None if min(ranks) == EMPTY else ranks.index(min(ranks))


@pytest.mark.parametrize(
    ("choice", "heads", "waiting", "previous", "expected"),
    [
        ("oldest_head", [5, 2, 9], [3, 1, 7], -1, 1),
        ("oldest_head", [5, 2, 9], [3, 0, 7], 1, 0),
        ("round_robin", [5, 2, 9], [3, 1, 7], -1, 0),
        ("round_robin", [5, 2, 9], [3, 1, 7], 0, 1),
        ("round_robin", [5, 2, 9], [3, 0, 7], 0, 2),
        ("round_robin", [5, 2, 9], [3, 1, 7], 2, 0),
        ("round_robin", [5, 2, 9], [3, 0, 0], 0, 0),  # once around, back to itself
        ("longest_queue", [5, 2, 9], [3, 1, 7], 2, 2),
        ("longest_queue", [5, 2, 9], [3, 7, 7], 1, 1),  # a tie: the lower bin
    ],
)
def test_examples(choice, heads, waiting, previous, expected):
    assert chosen(choice, heads, waiting, previous) == expected


@given(st.sampled_from(CHOICES), st.lists(st.integers(0, 5), min_size=1, max_size=6), st.data())
def test_never_an_empty_bin(choice, waiting, data):
    heads = data.draw(st.permutations(range(len(waiting))))
    previous = data.draw(st.integers(-1, len(waiting) - 1))
    j = chosen(choice, heads, waiting, previous)
    if not any(waiting):
        assert j is None
        return
    assert waiting[j] > 0
    full = [k for k, count in enumerate(waiting) if count]
    if choice == "oldest_head":
        assert heads[j] == min(heads[k] for k in full)
    elif choice == "longest_queue":
        assert waiting[j] == max(waiting)


@given(st.integers(1, 6))
def test_round_robin_serves_all_in_turn(bins):
    previous, served = -1, []
    for _ in range(2 * bins):
        previous = chosen("round_robin", [0] * bins, [1] * bins, previous)
        served.append(previous)
    assert served == [*range(bins)] * 2


@jit
def rank_all(table, out):
    for i in range(len(table)):
        out[i] = rank(table[i, 0], table[i, 1], table[i, 2], table[i, 3], table[i, 4], 6)


def test_arrays_scalars_and_compiled_code_give_the_same():
    rng = np.random.default_rng(11)
    columns = [rng.integers(*ends, 3000) for ends in ((0, 3), (0, 6), (0, 2**31), (0, 5), (-1, 6))]
    out = np.empty(3000, np.int64)
    rank_all(np.stack(columns, axis=1), out)
    np.testing.assert_array_equal(out, rank(*columns, 6))
    assert out.tolist() == [rank(*row, 6) for row in np.stack(columns, axis=1).tolist()]
