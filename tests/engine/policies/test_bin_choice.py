import pytest
from hypothesis import given
from hypothesis import strategies as st

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
