import numpy as np
import pytest
import xarray as xr

from batchcube.errors import InputError
from batchcube.results import labelled, statistics
from batchcube.results.precision import Wanted, asked, level, looked_at, parse, record, schedule
from batchcube.results.variables import FIRST_LOOK

RUNS = 8000
USUAL = (("latency_mean_s", None), ("latency_quantile_s", 0.95), ("utilisation", None), ("preemptions", None))


def stopped(first, width, draw, most=1000):
    """Return the share of runs whose interval holds the mean 1 where it is narrow enough first, and the last look."""
    rng = np.random.default_rng([first, 5])
    values = draw(rng, (RUNS, 0))
    holds, waiting = np.zeros(RUNS, dtype=bool), np.arange(RUNS)
    for count in schedule(first, most):
        values = np.concatenate([values, draw(rng, (len(values), count - values.shape[1]))], axis=1)
        found = statistics.mean_interval(values, confidence=level(first))
        ends = (found.high - found.estimate <= width * found.estimate) | (count == most)
        holds[waiting[ends]] = ((found.low <= 1.0) & (found.high >= 1.0))[ends]
        waiting, values = waiting[~ends], values[~ends]
        if not len(waiting):
            break
    return holds.mean(), count


@pytest.mark.parametrize("first", [8, 20])
@pytest.mark.parametrize("width", [0.2, 0.09, 0.06, 0.04, 0.02])
def test_intervals_hold_in_95_of_100_runs_at_the_moment_of_stopping(first, width):
    covered, _ = stopped(first, width, lambda rng, shape: rng.normal(1.0, 0.1, shape))
    error = 4.5 * np.sqrt(0.95 * 0.05 / RUNS)
    assert 0.95 - error <= covered <= level(first) + error


def test_plain_intervals_do_not():
    # What the level is for: the same runs, stopped by plain intervals.
    rng = np.random.default_rng(6)
    values, plain = rng.normal(1.0, 0.1, (RUNS, 2000)), np.full(RUNS, np.nan)
    for count in schedule(8, 2000):
        found = statistics.mean_interval(values[:, :count])
        ends = np.isnan(plain) & (found.high - found.low <= 0.1)
        plain[ends] = ((found.low <= 1.0) & (found.high >= 1.0))[ends]
        if not np.isnan(plain).any():
            break
    assert plain.mean() < 0.945


@pytest.mark.parametrize(("skewness", "least"), [(1.0, 0.92), (2.0, 0.86)])
def test_how_far_skewed_values_may_go(skewness, least):
    # Worst of the widths, where one stops at the third look or so; said in docs/statistics.md.
    shape = 4.0 / skewness**2
    covered = [
        stopped(8, width, lambda rng, size: 0.8 + 0.2 * rng.gamma(shape, 1.0 / shape, size), 500)[0]
        for width in (0.05, 0.07, 0.1)
    ]
    assert least < min(covered) < 0.95


def test_the_level_falls_to_the_confidence_and_is_the_same_every_time():
    found = [level(first) for first in (8, 20, 100)]
    assert found == sorted(found, reverse=True)
    assert found[0] < 0.966
    assert 0.95 < found[2] < 0.953
    level.cache_clear()
    assert level(20) == found[1]
    assert level(20, 0.99) > 0.99


def test_looks_grow_by_half_to_the_last():
    assert list(schedule(8, 50)) == [8, 12, 18, 27, 41, 50]
    assert list(schedule(20, 10)) == [10]


def test_what_a_precision_asks_for():
    assert parse(["2%"], USUAL) == (
        Wanted("latency_mean_s", None, 0.02, True, False),
        Wanted("latency_quantile_s", 0.95, 0.02, True, False),
        Wanted("utilisation", None, 0.02, False, False),  # points of a share
    )
    found = parse(["latency_mean_s=0.5", "latency_quantile_s[0.99] = 1 %", "5%"], USUAL)
    assert found[:2] == (
        Wanted("latency_mean_s", None, 0.5, False),
        Wanted("latency_quantile_s", 0.99, 0.01, True),
    )
    assert parse(["latency_p99_s=1%", "tbt_p50_ms=5"], USUAL) == (
        Wanted("latency_quantile_s", 0.99, 0.01, True),
        Wanted("tbt_quantile_s", 0.5, 0.005, False),
    )
    assert [wanted.label for wanted in found[2:]] == ["latency_quantile_s[0.95]", "utilisation"]
    assert asked([], None) is None
    assert asked(["2%"], None).most == 1000


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["2"], "`precision` 2: must be a percentage, given once: such as 2%"),
        (["2%", "3%"], "must be a percentage, given once"),
        (["0%"], "must be a width above 0"),
        (["latency_mean_s=much"], "must be a width above 0"),
        (["latency=2%"], "latency: no such variable"),
        (["latency_mean_s[0.9]=2%"], "this variable has no quantiles"),
        (["bin_lower_edge=2%"], "is the same in every replication"),
        (["latency_mean_s=2%", "latency_mean_s=1%"], "is asked for twice"),
        (["latency_p99_s=2%", "latency_quantile_s[0.99]=1%"], "is asked for twice"),
    ],
)
def test_mistakes_are_named(texts, message):
    with pytest.raises(InputError, match=message):
        parse(texts, USUAL)
    with pytest.raises(InputError, match="goes with a precision only"):
        asked([], 100)


def test_intervals_of_a_cube_carry_the_looks(make_cube):
    plain = make_cube(replications=12)
    cube = plain.copy()
    for name in cube.data_vars:
        cube[name].attrs = dict(plain[name].attrs)
    record(cube, ["2%", "utilisation=0.1"], [8, 12], "")
    assert looked_at(cube) == (8, 12)
    assert looked_at(plain) == ()
    assert (cube.attrs["precision_reached"], cube.attrs["precision_level"]) == (1, level(8))
    wide, narrow = (labelled.mean_interval(a["latency_mean_s"]) for a in (cube, plain))
    xr.testing.assert_equal(wide, labelled.mean_interval(plain["latency_mean_s"], confidence=level(8)))
    assert bool((wide["low"] < narrow["low"]).all())
    wide, narrow = (labelled.paired_difference(a["latency_mean_s"], "bins", 1) for a in (cube, plain))
    assert bool((wide["low"] < narrow["low"]).all())
    assert cube.attrs["notes"].splitlines()[-1].startswith("replications were added in looks (at 8, 12)")
    record(cube, ["1%"], [8, 12, 18], "latency_mean_s ± 3 %")
    assert cube.attrs["notes"].count("replications were added in looks") == 1
    assert cube.attrs["notes"].endswith("this was not reached: latency_mean_s ± 3 %")
    assert FIRST_LOOK not in plain["latency_mean_s"].attrs
