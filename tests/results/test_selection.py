from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sim_tools.ovs.indifference_zone import KN

from batchcube.errors import InputError
from batchcube.results.selection import (
    AT_LIMIT,
    BEATEN,
    CANNOT_TELL,
    FAILED,
    FAILS,
    HOLDS,
    IN_RACE,
    looks,
)
from batchcube.results.selection import (
    select as select_within,
)

select = partial(select_within, indifference=0.02)

RUNS = 300
PLANNED = looks(8, 512)


def noise(run, systems, replications=PLANNED[-1], skew=None):
    """Return values of mean 1 that systems share half of, as with common random numbers: normal, or lognormal."""
    rng = np.random.default_rng([run, 11])
    z = np.sqrt(0.5) * (rng.normal(size=replications) + rng.normal(size=(systems, replications)))
    return 1.0 + 0.05 * z if skew is None else np.exp(skew * z - skew**2 / 2)


def no_limits(values):
    return np.empty((0, *np.shape(values)))


def at_most(share, runs=RUNS):
    return share + 4.5 * np.sqrt(share * (1 - share) / runs)


# ---- how often it is right


@pytest.mark.parametrize(
    ("means", "skew"),
    [
        ([1.0, 1.021, 1.021, 1.021, 1.021], None),
        ([1.05, 1.3, 1.0, 1.2, 1.1, 1.025], None),
        ([1.0, 1.021, 1.021, 1.021, 1.021], 0.3),
        ([1.05, 1.3, 1.0, 1.2, 1.1, 1.025], 0.3),  # skewness 0.9
    ],
)
def test_the_best_is_found_as_often_as_promised(means, skew):
    means = np.array(means)
    wrong = decided = 0
    for run in range(RUNS):
        values = means[:, None] * noise(run, len(means), skew=skew)
        found = select(values, no_limits(values), PLANNED)
        decided += found.is_decided
        wrong += found.is_decided and means[found.best] > 1.02 * means.min()
        wrong += found.states[means.argmin()] == BEATEN
    assert wrong / RUNS <= at_most(0.05)
    assert decided == RUNS or skew


def test_the_best_that_holds_its_limits_is_found_as_often_as_promised():
    means = np.array([0.8, 0.9, 1.0, 1.1])
    limits = np.array([[1.05, 0.9, 0.5, 0.5], [0.5, 0.9, 0.9, 0.5]])  # the first fails one of them
    right = wrong_verdicts = uncovered = 0
    for run in range(RUNS):
        both = noise(run, 12).reshape(3, 4, -1)
        found = select(means[:, None] * both[0], limits[..., None] * both[1:], PLANNED)
        right += found.is_decided and found.best == 1
        wrong_verdicts += np.any(np.where(limits <= 1.0, found.verdicts == FAILS, found.verdicts == HOLDS))
        uncovered += not np.all((found.ratios.low <= limits) & (limits <= found.ratios.high))
    assert right / RUNS >= 1 - at_most(0.05)
    assert wrong_verdicts / RUNS <= at_most(0.025)
    assert uncovered / RUNS <= at_most(0.025)


@pytest.mark.parametrize("skew", [None, 0.3, 0.5])  # skewness 0, 0.9 and 1.75
def test_intervals_hold_all_their_means_at_once_when_the_race_stops_on_them(skew):
    # All means lie on the limit, and every look is one more chance to be wrong: the worst case there is.
    limits = np.full((2, 3), 1.0)
    uncovered = 0
    for run in range(RUNS):
        ratios = limits[..., None] * noise(run, 6, skew=skew).reshape(2, 3, -1)
        found = select(np.ones(ratios.shape[1:]), ratios, PLANNED)
        uncovered += not np.all((found.ratios.low <= limits) & (limits <= found.ratios.high))
    assert uncovered / RUNS <= at_most(0.025 if skew is None else 0.05)


# ---- the oracle: KN of sim-tools 1.3, whose variances are mixed up beyond two systems (here all are equal)


class Recorded:
    """Replay values to a procedure of sim-tools, which asks for one at a time."""

    def __init__(self, values):
        self.values, self.asked = values, np.zeros(len(values), dtype=int)

    def register_observer(self, observer):
        self.observer = observer

    def simulate(self, design):
        self.observer.feedback(self, design, self.values[design, self.asked[design]])
        self.asked[design] += 1


@pytest.mark.parametrize("means", [[1.05, 1.0], [1.0, 1.03], [1.2, 1.05, 1.0, 1.1]])
def test_the_same_system_is_chosen_as_by_the_procedure_of_kim_and_nelson(means):
    ours = theirs = 0
    for run in range(100):
        values = np.array(means)[:, None] * noise(run, len(means), 4096)
        recorded = Recorded(values)
        chosen = KN(recorded, len(means), delta=0.02, alpha=0.025, n_0=8, obj="min").solve()
        found = select(values, no_limits(values), PLANNED, alpha=0.025)
        assert found.best == chosen[0] == np.argmin(means)
        ours += found.replications.sum()
        theirs += recorded.asked.sum()
    assert ours < 1.1 * theirs


# ---- by hand


def test_a_pair_is_decided_by_the_t_bound_of_its_differences():
    rng = np.random.default_rng(3)
    shared = rng.normal(size=8)
    values = np.array([10.0 + shared, 10.5 + shared + 0.1 * rng.normal(size=8)])
    found = select(values, no_limits(values), [8], alpha=0.1)
    expected = stats.ttest_rel(values[0], values[1]).confidence_interval(0.8)  # 10 % on each side
    np.testing.assert_allclose([found.difference.low, found.difference.high], expected)
    assert (found.best, found.runner_up, found.is_decided) == (0, 1, True)
    assert found.states.tolist() == [IN_RACE, BEATEN]


def test_an_interval_of_a_ratio_is_simultaneous_over_criteria_systems_and_looks():
    ratios = np.random.default_rng(4).normal(0.9, 0.1, (2, 3, 8))
    found = select(np.ones((3, 8)), ratios, [8, 16], alpha=0.1)
    # Half of 10 % for limits, shared by 2 looks and 6 intervals; the end on the side of the long tail lies further out.
    t, error = stats.t.isf(0.05 / 24, 7), stats.sem(ratios, axis=-1)
    skewness = stats.skew(ratios, axis=-1, bias=False)
    more = np.abs(skewness) * (1 + 2 * t**2) / (6 * np.sqrt(8))
    mean = ratios.mean(axis=-1)
    np.testing.assert_allclose(found.ratios.low, mean - error * (t + np.where(skewness < 0, more, 0)))
    np.testing.assert_allclose(found.ratios.high, mean + error * (t + np.where(skewness > 0, more, 0)))
    np.testing.assert_allclose(found.ratios.estimate, ratios.mean(axis=-1))


def test_the_assurance_is_the_highest_with_which_the_look_would_have_decided():
    values = np.random.default_rng(5).normal([[1.0], [1.01]], 0.04, (2, 16))
    ratios = np.random.default_rng(6).normal(0.9, 0.06, (1, 2, 16))
    found = select(values, ratios, [16], alpha=1e-6)
    assert found.best is None
    assert found.assurance == 0.0
    found = select(values, ratios, [16], alpha=0.03)
    assert not found.is_decided
    assert 0.2 < found.assurance < 0.97
    assert select(values, ratios, [16], alpha=1.001 - found.assurance).is_decided
    assert not select(values, ratios, [16], alpha=0.999 - found.assurance).is_decided


def test_requests_that_were_never_served_fail_at_once():
    ratios = np.full((1, 2, 8), 0.5)
    ratios[0, 0, 3] = np.inf
    found = select([[1.0] * 8, [2.0] * 8], ratios, [8, 16])
    assert found.verdicts.tolist() == [[FAILS, HOLDS]]
    assert found.states.tolist() == [FAILED, IN_RACE]
    assert (found.best, found.is_decided, found.runner_up) == (1, True, None)


def test_an_infinite_objective_is_beaten_at_once():
    found = select([[np.inf, *[1.0] * 7], [2.0] * 8], np.empty((0, 2, 8)), [8])
    assert (found.best, found.is_decided, found.runner_up) == (1, True, None)
    assert found.states.tolist() == [BEATEN, IN_RACE]


def test_equal_systems_end_at_the_first_look():
    values = np.tile(np.random.default_rng(1).normal(5.0, 1.0, 16), (3, 1))
    found = select(values, no_limits(values), [8, 16])
    assert found.is_decided
    assert found.replications.tolist() == [8, 8, 8]
    assert (found.difference.low, found.difference.high) == (0.0, 0.0)


def test_a_share_of_which_none_was_seen_holds_where_so_many_requests_would_have_shown_it():
    none, of_one = np.zeros((1, 8)), [[1.0 / (100 * 0.001)]]  # 100 requests a replication, 1 in 1000 may be late
    found = select(none, none[None], [8], alpha=0.05, of_one=of_one)
    assert found.verdicts == CANNOT_TELL
    # One limit, one look, two sides, and nothing to compare: the chance of error is 0.025.
    assert found.ratios.high == pytest.approx(-np.log(0.025) / 800 / 0.001)
    found = select(np.zeros((1, 64)), np.zeros((1, 1, 64)), [64], alpha=0.05, of_one=of_one)
    assert (found.verdicts, found.best) == (HOLDS, 0)
    every = np.full((1, 8), 1.0 / 0.999)  # all are late where all but 1 in 1000 may be
    found = select(every, every[None], [8], alpha=0.05, of_one=[[1.0 / (100 * 0.999)]])
    assert (found.verdicts, found.ratios.low < 1.0) == (CANNOT_TELL, True)
    # Of times nothing changes.
    assert select(none, none[None], [8], alpha=0.05).verdicts == HOLDS


@pytest.mark.parametrize(("requests", "limit"), [(100, 0.0002), (500, 0.0002), (100, 0.001)])
def test_rare_late_requests_do_not_hold_by_chance(requests, limit):
    planned, wrong = looks(32, 256), 0
    rng = np.random.default_rng(requests)
    for _ in range(RUNS):
        late = rng.binomial(requests, 2.0 * limit, (1, planned[-1])) / requests / limit
        for count in planned:
            seen = late[:, :count]
            found = select(seen, seen[None], planned, alpha=0.025, of_one=1.0 / (requests * limit))
            if found.is_decided:
                break
        wrong += found.verdicts.item() == HOLDS
    assert wrong / RUNS <= at_most(0.025 / 2)


def test_the_assurance_of_a_share_of_which_none_was_seen_is_that_of_so_many_requests():
    none, of_one = np.zeros((2, 64)), 1.0 / (100 * 0.001)
    values = none + np.array([[1.0], [1.001]]) + 0.1 * np.random.default_rng(1).normal(size=(2, 64))
    found = select(values, none[None], [64, 128], alpha=0.05, of_one=of_one)
    assert found.best is not None
    assert not found.is_decided
    plain = select(values, none[None], [64, 128], alpha=0.05)
    assert found.assurance <= plain.assurance


def test_a_system_at_its_limit_is_left_and_the_next_is_chosen():
    rng = np.random.default_rng(2)
    ratios = np.array([[1.0, 0.5]])[..., None] + 0.005 * rng.normal(size=(1, 2, 64))
    values = np.array([[1.0], [2.0]]) + 0.01 * rng.normal(size=(2, 64))
    found = select(values, ratios, looks(8, 64))
    assert found.states.tolist() == [AT_LIMIT, IN_RACE]
    assert found.verdicts.tolist() == [[CANNOT_TELL, HOLDS]]
    assert (found.best, found.is_decided) == (1, True)
    alone = select(values[:1], ratios[:, :1], looks(8, 64))
    assert (alone.best, alone.is_decided) == (None, True)


def test_a_better_system_that_may_hold_is_not_passed_over():
    rng = np.random.default_rng(2)
    ratios = np.array([[0.95, 0.5]])[..., None] + 0.2 * rng.normal(size=(1, 2, 8))
    found = select(np.array([[1.0], [2.0]]) + 0.01 * rng.normal(size=(2, 8)), ratios, [8, 512])
    assert found.verdicts.tolist() == [[CANNOT_TELL, HOLDS]]
    assert (found.best, found.is_decided) == (1, False)
    assert found.in_race.all()


def test_nothing_holds():
    ratios = np.full((1, 2, 8), 1.5)
    found = select(np.ones((2, 8)), ratios, [8, 16])
    assert (found.best, found.is_decided, found.runner_up) == (None, True, None)
    assert found.states.tolist() == [FAILED, FAILED]
    assert np.isnan(found.difference.estimate)


def test_systems_out_of_the_race_need_no_more_values():
    values = np.array([1.0, 1.015, 3.0])[:, None] * noise(1, 3)
    whole = select(values, no_limits(values), PLANNED)
    assert whole.is_decided
    for count in PLANNED:
        found = select(values[:, :count], no_limits(values[:, :count]), PLANNED)
        if found.is_decided:
            break
        values[~found.in_race, count:] = np.nan
    assert found.replications.tolist() == whole.replications.tolist()
    assert found.best == whole.best
    assert found.replications[2] < found.replications[0]


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 2))
def test_the_answer_does_not_depend_on_the_order_of_systems(seed, systems, criteria):
    rng = np.random.default_rng(seed)
    values, ratios = rng.normal(1.0, 0.1, (systems, 16)), rng.normal(0.9, 0.1, (criteria, systems, 16))
    order = rng.permutation(systems)
    found, other = select(values, ratios, [8, 16]), select(values[order], ratios[:, order], [8, 16])
    assert found.states[order].tolist() == other.states.tolist()
    assert found.verdicts[:, order].tolist() == other.verdicts.tolist()
    assert found.is_decided == other.is_decided
    assert (found.best is None) == (other.best is None)
    assert found.best is None or order[other.best] == found.best


def test_looks_double():
    assert looks(8, 50) == (8, 16, 32, 50)
    assert looks(8, 8) == (8,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": np.ones(8)}, "objective: must be"),
        ({"ratios": np.ones((2, 8))}, "ratios: must be"),
        ({"planned": []}, "planned: must be"),
        ({"planned": [8, 8]}, "planned: must be"),
        ({"planned": [16]}, "objective: must have 16 replications or more"),
        ({"alpha": 0.0}, "alpha = 0.0: must lie between 0 and 1"),
        ({"indifference": 1.0}, "indifference = 1.0: must lie between 0 and 1"),
        ({"objective": np.full((2, 8), np.nan)}, "objective: values of a system in the race are missing"),
    ],
)
def test_mistakes_are_named(change, message):
    given = {"objective": np.ones((2, 8)), "ratios": np.ones((1, 2, 8)), "planned": [8]} | change
    with pytest.raises(InputError, match=message):
        select(**given)
    with pytest.raises(InputError, match="first = 2: must be >= 3"):
        looks(2)
    with pytest.raises(InputError, match="most = 7: must be >= the first look"):
        looks(8, 7)
