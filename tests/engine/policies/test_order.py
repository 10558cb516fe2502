import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcube.engine.compiling.jit import jit
from batchcube.engine.policies.order import CHOICES, NAMED, NO_RANK, Candidate, Named, is_sooner, named_key, rank_of


def chosen(choice, heads, waiting, previous):
    """Return the bin served: the lowest rank, the lower bin on a tie; None when nothing waits."""
    settings = Named(NAMED.index(choice))
    seen = [
        Candidate(j, count, float(head), 0.0, 0.0, 0.0, 0.0, previous, 0)
        for j, (head, count) in enumerate(zip(heads, waiting, strict=True))
    ]
    ranks = [rank_of(named_key(candidate, settings)) if candidate.size else NO_RANK for candidate in seen]
    return None if min(ranks) == NO_RANK else ranks.index(min(ranks))


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


def test_formed_batches_go_by_formation_or_by_predicted_service():
    batches = [Candidate(0, 8, 5, 0.0, 0.0, 0.0, service, -1, number) for number, service in enumerate((9.0, 3.0, 3.0))]
    for name, wanted in (("first_formed", [0, 1, 2]), ("shortest_first", [1, 2, 0])):
        ranks = [rank_of(named_key(batch, Named(NAMED.index(name)))) for batch in batches]
        assert sorted(range(3), key=ranks.__getitem__) == wanted


@jit
def rank_all(numbers, out):
    for i in range(len(numbers)):
        out[i] = rank_of(numbers[i])


def test_ranks_are_in_the_order_of_numbers_in_plain_and_in_compiled_code():
    numbers = [-np.inf, -1e300, -2.5, -2.0, -5e-324, -0.0, 0.0, 5e-324, 1.0, 2.0**53, 1e300, np.inf, np.nan]
    ranks = [rank_of(number) for number in numbers]
    assert ranks == sorted(ranks)
    assert [ranks.count(rank) for rank in ranks] == [1, 1, 1, 1, 1, 2, 2, 1, 1, 1, 1, 1, 1]
    assert max(ranks) < NO_RANK
    out = np.empty(len(numbers), np.int64)
    rank_all(np.array(numbers), out)
    assert out.tolist() == ranks


def test_what_is_no_number_comes_last_whatever_its_sign():
    for nothing in (np.nan, -np.nan):
        assert rank_of(np.inf) < rank_of(nothing) == rank_of(np.nan) < NO_RANK


@jit
def sooner_all(numbers, out):
    for i in range(len(numbers)):
        for j in range(len(numbers)):
            out[i, j] = is_sooner(numbers[i], numbers[j])


def test_a_kernel_that_compares_keys_agrees_with_their_ranks():
    numbers = np.array([-np.inf, -2.5, -0.0, 0.0, 5e-324, 1.0, np.inf, np.nan, -np.nan])
    out = np.zeros((len(numbers), len(numbers)), np.bool_)
    sooner_all(numbers, out)
    ranks = [rank_of(number) for number in numbers]
    assert out.tolist() == [[one < other for other in ranks] for one in ranks]
