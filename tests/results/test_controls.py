import numpy as np
import pytest
import xarray as xr
from scipy import stats

from batchcube.errors import InputError
from batchcube.results import controls, labelled, statistics
from batchcube.results.summary import interval, summary_table
from batchcube.results.variables import CONTROLS
from helpers.queues import latencies, mean_waits


def regression(y, columns, confidence=0.95, single=False):
    """Return estimate and half width by plain least squares, with matrices."""
    design = np.column_stack([np.ones(len(y)), *columns])
    inverse = np.linalg.inv(design.T @ design)
    rest = y - design @ (inverse @ design.T @ y)
    freedom = len(y) - design.shape[1]
    spread = rest @ rest / freedom
    weight, own = inverse[0] @ design.T, np.einsum("ri,ij,rj->r", design, inverse, design)
    variance = max(spread * inverse[0, 0], ((weight * rest / (1.0 - own)) ** 2).sum())
    half = stats.t.ppf(0.5 + 0.5 * confidence, freedom) * np.sqrt(variance + spread * single)
    return (inverse @ design.T @ y)[0], half


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("single", [False, True])
def test_it_is_the_regression_at_the_known_means(count, single):
    rng = np.random.default_rng([1, count])
    beside = 0.05 * rng.normal(size=(count, 4, 30)) + 0.02
    beside[-1] += 0.5 * beside[0]
    y = 7.0 + beside.sum(axis=0) * [[1.0], [3.0], [-20.0], [0.0]]
    # Spread that grows with a control: leaving out a replication then says more than the regression does.
    y = y + rng.normal(size=y.shape) * (0.1 + 20.0 * np.abs(beside[0]) * [[0.0], [1.0], [1.0], [0.0]])
    y[1, 3] = np.nan
    found = controls.mean_interval(y, *beside, confidence=0.9, single=single)
    plain = statistics.mean_interval(y, confidence=0.9, single=single)
    for point in range(4):
        kept = ~np.isnan(y[point])
        expected, half = regression(y[point, kept], beside[:, point, kept], 0.9, single)
        assert found.estimate[point] == pytest.approx(expected, rel=1e-12)
        assert found.high[point] - found.estimate[point] == pytest.approx(half, rel=1e-9)
        assert found.estimate[point] - found.low[point] == pytest.approx(half, rel=1e-9)
        assert found.narrowed[point] == pytest.approx(2 * half / (plain.high - plain.low)[point], rel=1e-9)
    np.testing.assert_array_equal(found.n, [30, 29, 30, 30])


def test_the_axis_of_replications_may_be_any():
    rng = np.random.default_rng(2)
    y, beside = rng.normal(size=(5, 40, 2)), rng.normal(size=(5, 40, 2))
    found = controls.mean_interval(y, beside, axis=1)
    other = controls.mean_interval(np.moveaxis(y, 1, 2), np.moveaxis(beside, 1, 2))
    for mine, its in zip(found, other, strict=True):
        np.testing.assert_array_equal(mine, its)


def same(found, plain):
    for name in ("estimate", "low", "high", "n"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))
    assert (found.narrowed == 1.0).all()


def test_what_has_no_line_through_it_has_its_plain_interval():
    rng = np.random.default_rng(3)
    beside = rng.normal(size=40)
    share = 0.5 + 0.1 * beside
    used = controls.mean_interval(share, beside, bounds=(0.0, 1.0))
    assert used.narrowed < 1e-6
    assert used.estimate == pytest.approx(0.5, abs=1e-12)
    at_an_end = np.where(np.arange(40) == 5, 1.0, share)
    for y, options in (
        (at_an_end, {"bounds": (0.0, 1.0)}),
        (np.where(np.arange(40) == 5, 0.0, share), {"bounds": (0.0, np.inf)}),
        (np.full(40, 0.3), {}),
        (share, {"error": 0.01}),
        (np.full(40, np.nan), {}),
    ):
        same(controls.mean_interval(y, beside, **options), statistics.mean_interval(y, **options))
    assert controls.mean_interval(at_an_end, beside).narrowed != 1.0
    few = controls.FEWEST - 1
    same(controls.mean_interval(share[:few], beside[:few]), statistics.mean_interval(share[:few]))
    assert controls.mean_interval(share[: few + 1], beside[: few + 1]).narrowed < 1.0
    # Only the replications that have a value count.
    lost = np.where(np.arange(40) < few, share, np.nan)
    same(controls.mean_interval(lost, beside), statistics.mean_interval(lost))


def test_controls_that_say_nothing_new_are_left_out():
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(2, 30))
    y = 2.0 + first + 0.3 * rng.normal(size=30)
    alone = controls.mean_interval(y, first)
    constant, missing = np.full(30, 0.25), np.where(np.arange(30) == 7, np.nan, second)
    with_others = controls.mean_interval(y, constant, first, missing, 3.0 * first, np.full(30, np.nan))
    for mine, its in zip(with_others, alone, strict=True):
        assert mine == pytest.approx(its, rel=1e-12)
    assert controls.mean_interval(y, first, second).low != alone.low
    same(controls.mean_interval(y, constant), statistics.mean_interval(y))
    # A control of a single replication passes through its value: the others are as without it.
    one = controls.mean_interval(y, np.where(np.arange(30) == 7, 1.0, 0.0))
    assert one.estimate == pytest.approx(np.delete(y, 7).mean(), rel=1e-12)
    assert np.isfinite(one.low)


def test_estimates_and_ends_are_possible_values():
    rng = np.random.default_rng(5)
    beside = rng.normal(size=30)
    y = np.clip(0.985 + 0.004 * (beside - beside.max() - 0.5), 0.0, 1.0)
    found = controls.mean_interval(y, beside - 9.0, bounds=(0.0, 1.0))
    assert found.estimate == found.low == found.high == 1.0


def test_differences_are_without_what_both_drew():
    rng = np.random.default_rng(6)
    shared, mine, its = 0.1 * rng.normal(size=(3, 200, 30))
    x = 5.0 + 3.0 * shared + 2.0 * mine + 0.1 * rng.normal(size=shared.shape)
    y = 4.0 + 1.0 * shared - 2.0 * its + 0.1 * rng.normal(size=shared.shape)
    found = controls.paired_difference(x, y, shared, shared, mine, its)
    assert found.narrowed.max() < 0.85
    assert abs(found.estimate.mean() - 1.0) < 4.5 * found.estimate.std() / np.sqrt(200)
    expected, half = regression(x[0] - y[0], [shared[0], mine[0], its[0]])
    assert found.estimate[0] == pytest.approx(expected)
    assert found.high[0] - found.estimate[0] == pytest.approx(half)
    x[1, 2] = 0.0
    kept = controls.paired_difference(x, y, shared, shared, mine, its, bounds=(0.0, np.inf))
    assert kept.narrowed[1] == 1.0
    assert kept.narrowed[0] == found.narrowed[0]


# ---- coverage


def coverage(found, truth):
    return float(np.mean((found.low <= truth) & (truth <= found.high)))


def test_normal_values_are_covered():
    """The regression alone covers 95 % exactly; the larger of both errors 96.7 % at 20, and less and less more."""
    rng = np.random.default_rng(7)
    for n, most in ((20, 0.97), (60, 0.962)):
        beside = rng.normal(size=(2, 8000, n))
        found = controls.mean_interval(3.0 + beside.sum(axis=0) + rng.normal(size=(8000, n)), *beside)
        assert 0.95 - 4.5 * np.sqrt(0.95 * 0.05 / 8000) < coverage(found, 3.0) < most
        assert abs(found.estimate.mean() - 3.0) < 4.5 * found.estimate.std() / np.sqrt(8000)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_runs_of_a_queue_hold_their_exact_mean_as_often_as_plain_intervals_do(load):
    """1,200 intervals of 30 runs of 200 requests; means of such runs are skewed, so plain ones hold less than 95 %."""
    requests, n, trials = 200, 30, 1200
    truth = mean_waits(load, requests).mean() + 1.0
    parts = [latencies(np.random.default_rng([8, k]), load, (n * trials // 25, requests)) for k in range(25)]
    means, gaps, services = (np.concatenate([part[k] for part in parts]) for k in range(3))
    y = means.mean(axis=1)
    assert abs(y.mean() - truth) < 4.5 * y.std() / np.sqrt(len(y))
    y, gaps, services = (of.reshape(trials, n) for of in (y, gaps, services))
    plain, found = statistics.mean_interval(y), controls.mean_interval(y, gaps - 1.0, services - 1.0)
    held = coverage(found, truth)
    assert 0.95 - 5 * np.sqrt(0.95 * 0.05 / trials) - 0.02 * (load > 0.5) < held < 0.965
    assert held > coverage(plain, truth) - 0.01
    assert found.narrowed.mean() < 0.85
    # Values are not linear in what was drawn: the bias is a small part of the error of an estimate.
    assert abs(found.estimate.mean() - truth) < 0.15 * found.estimate.std()


# ---- cubes


@pytest.fixture(scope="module")
def cube(make_cube):
    """Forty replications whose latencies depend on the gaps and outputs that each drew."""
    made = make_cube(replications=40)
    gap, output = made["drawn_gap_ratio"] - 1.0, made["drawn_output_ratio"] - 1.0
    made["latency_mean_s"] = (made["latency_mean_s"] * (1.0 - 3.0 * gap + 2.0 * output)).assign_attrs(
        made["latency_mean_s"].attrs
    )
    return made


def test_intervals_of_a_cube_are_narrower_with_its_controls(cube):
    beside = controls.held(cube)
    assert [control.name for control in beside] == ["drawn_gap_ratio", "drawn_output_ratio"]
    found = interval(cube, "latency_mean_s", controls=True)
    assert list(found.data_vars) == ["mean", "low", "high", "n", "narrowed"]
    plain = interval(cube, "latency_mean_s")
    assert "narrowed" not in plain
    np.testing.assert_allclose((found.high - found.low) / (plain.high - plain.low), found["narrowed"])
    assert (found["narrowed"] < 0.9).all()
    by_hand = controls.mean_interval(
        cube["latency_mean_s"].values, *(control.values for control in beside), bounds=(0.0, np.inf)
    )
    np.testing.assert_array_equal(found["mean"], by_hand.estimate)
    quantile = interval(cube, "latency_quantile_s[0.95]", controls=True)
    assert quantile["narrowed"].dims == cube["latency_mean_s"].dims[:-1]
    difference = interval(cube, "latency_mean_s", difference_to={"bins": 1}, controls=True)
    assert (difference["narrowed"] != 1.0).all()
    some = labelled.paired_difference(cube["latency_mean_s"], "bins", 1, controls=beside)
    assert some.equals(difference)
    with pytest.raises(InputError, match="controls: is for means and differences, not for ratios"):
        interval(cube, "latency_mean_s", ratio_to={"bins": 1}, controls=True)


def test_a_cube_without_controls_has_plain_intervals(make_cube):
    made = make_cube(replications=40).drop_vars(CONTROLS)
    xr.testing.assert_equal(interval(made, "latency_mean_s", controls=True), interval(made, "latency_mean_s"))
    assert "narrowed" not in summary_table(made, controls=True)


def test_a_table_says_how_wide_intervals_are_of_plain_ones(cube):
    table = summary_table(cube, ["latency_mean_s", "unserved"], controls=True)
    latency = table[table["variable"] == "latency_mean_s"]
    np.testing.assert_array_equal(
        latency["narrowed"], interval(cube, "latency_mean_s", controls=True)["narrowed"].values.ravel()
    )
    assert (table[table["variable"] == "unserved"]["narrowed"] == 1.0).all()
