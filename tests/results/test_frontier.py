import numpy as np
import pytest
import xarray as xr
from scipy import special, stats

from batchcube.errors import InputError
from batchcube.results import frontier
from batchcube.results.frontier import NOT, POSSIBLY, SURELY, of_arrays, of_cube
from batchcube.results.precision import level, record

# Of two objectives, less is better: the third is beaten by the second, the last by all but the first.
MEANS = np.array([[1.0, 2.0, 2.1, 3.0, 3.1], [3.0, 2.0, 2.1, 1.0, 3.1]])
RUNS = 300


def noise(run, shape, scale):
    rng = np.random.default_rng([run, 23])
    return scale * (rng.normal(size=shape[-1]) + rng.normal(size=shape))


def truth(means):
    worse = [
        [(means[:, j] <= means[:, i]).all() and (means[:, j] < means[:, i]).any() for j in range(means.shape[1])]
        for i in range(means.shape[1])
    ]
    return np.array(worse).any(axis=1)


@pytest.mark.parametrize("scale", [0.002, 0.05, 0.2])
def test_no_statement_is_wrong_more_often_than_alpha(scale):
    dominated = truth(MEANS)
    assert dominated.tolist() == [False, False, True, False, True]
    wrong = said = 0
    for run in range(RUNS):
        found = of_arrays(MEANS[..., None] + noise(run, (2, 5, 10), scale)).states
        wrong += np.any(np.where(dominated, found == SURELY, found == NOT))
        said += np.mean(found != POSSIBLY)
    assert wrong / RUNS <= 0.05 + 4.5 * np.sqrt(0.05 * 0.95 / RUNS)
    if scale == 0.002:
        assert said == RUNS


def test_a_bound_is_simultaneous_over_objectives_and_ordered_pairs():
    values = np.array([[5.0], [4.0]])[..., None] + noise(1, (2, 1, 12), 0.3)
    values = np.concatenate([values, values + noise(2, (2, 1, 12), 0.1) + 0.1], axis=1)
    pairs = values[:, 1] - values[:, 0]
    least = max(stats.ttest_1samp(pair, 0.0, alternative="greater").pvalue for pair in pairs)
    assert of_arrays(values, 3.99 * least).states[1] == POSSIBLY
    assert of_arrays(values, 4.01 * least).beaten_by.tolist() == [-1, 0]


def test_what_is_the_same_in_every_replication_is_known():
    prices = np.array([1.0, 2.0, 2.0])[:, None] * np.ones(2)
    times = np.array([3.0, 3.0, 4.0])[:, None] * np.ones(2)
    assert of_arrays([prices, times]).states.tolist() == [SURELY, NOT, NOT]
    assert of_arrays([prices[1:], times[1:]]).states.tolist() == [SURELY, NOT]
    assert of_arrays([prices[:1], times[:1]]).states.tolist() == [SURELY]


def test_equal_systems_are_all_on_it():
    values = np.tile(np.random.default_rng(0).normal(size=(2, 1, 8)), (1, 3, 1))
    assert of_arrays(values).states.tolist() == [SURELY] * 3


def test_a_single_replication_tells_nothing_but_what_is_equal():
    assert of_arrays([[[1.0], [2.0]], [[1.0], [2.0]]]).states.tolist() == [POSSIBLY, POSSIBLY]
    assert of_arrays([[[1.0], [1.0]], [[2.0], [2.0]]]).states.tolist() == [SURELY, SURELY]


def test_never_served_is_worse_than_any_number_and_missing_values_tell_nothing():
    values = np.array([[[1.0, 1.1], [1.0, np.inf]], [[2.0, 2.1], [2.0, 2.1]]])
    assert of_arrays(values).states.tolist() == [SURELY, NOT]
    values[0, 1, 1] = np.nan
    assert of_arrays(values).states.tolist() == [POSSIBLY, POSSIBLY]


def test_intervals_of_a_single_replication_do_not_narrow():
    values = np.array([[1.0, 1.5], [1.0, 1.5]])[..., None] + noise(3, (2, 2, 200), 0.3)
    assert of_arrays(values).states.tolist() == [SURELY, NOT]
    assert of_arrays(values, single=True).states.tolist() == [POSSIBLY, POSSIBLY]


def test_bounds_are_wider_where_looks_said_when_to_stop(example_cube):
    count = 8
    statements = 2 * 2 * 1
    between = 0.5 * sum(
        special.stdtrit(count - 1, 1.0 - chance)
        for chance in (0.05 / statements, 0.5 * (1.0 - level(count, 1.0 - 0.1 / statements)))
    )
    spread = np.arange(count) - (count - 1) / 2
    error = spread.std(ddof=1) / np.sqrt(count)
    values = np.zeros((2, 2, count))
    values[:, 1] = between * error + spread
    assert of_arrays(values).states.tolist() == [SURELY, NOT]
    assert of_arrays(values, first_look=count).states.tolist() == [POSSIBLY, POSSIBLY]
    cube = example_cube.isel(bins=slice(2), arrival_rate_per_s=[0], replication=np.arange(count) % 6).copy(deep=True)
    for number, name in enumerate(("latency_mean_s", "wait_mean_s")):
        cube[name].values = values[number].reshape(2, 1, count)
    assert of_cube(cube, ["latency_mean_s", "wait_mean_s"])["state"].values.ravel().tolist() == [SURELY, NOT]
    record(cube, ["2%"], [count], "")
    assert of_cube(cube, ["latency_mean_s", "wait_mean_s"])["state"].values.ravel().tolist() == [POSSIBLY, POSSIBLY]


def test_points_of_a_cube(example_cube):
    axes = ("bins", "arrival_rate_per_s")
    price = xr.DataArray([1.0, 2.0, 4.0], dims="bins", name="price")
    found = of_cube(example_cube, ["throughput_requests_per_s", "latency_mean_s", price])
    assert found["state"].dims == axes
    assert set(np.unique(found["state"])) <= {SURELY, POSSIBLY, NOT}
    assert found["price"].dims == axes
    np.testing.assert_allclose(found["latency_mean_s"], example_cube["latency_mean_s"].mean("replication"))
    flat = [example_cube[name].values.reshape(12, -1) for name in ("throughput_requests_per_s", "latency_mean_s")]
    values = np.stack([-flat[0], flat[1], np.repeat([1.0, 2.0, 4.0], 4)[:, None] * np.ones(6)])
    assert found["state"].values.ravel().tolist() == of_arrays(values).states.tolist()
    assert (found["state"] != POSSIBLY).any()


def test_quantiles_of_replications_are_objectives_too(example_cube):
    found = of_cube(example_cube, ["latency_p90_ms", "wait_mean_s"])
    place = example_cube["quantile"].values.tolist().index(0.9)
    one = example_cube["latency_quantile_s"].isel(quantile=place)
    np.testing.assert_allclose(found["latency_p90_ms"], 1000.0 * one.mean("replication"))
    assert found["latency_p90_ms"].attrs["units"] == "ms"
    values = [one.values, example_cube["wait_mean_s"].values]
    expected = of_arrays(np.stack([value.reshape(12, -1) for value in values])).states
    assert found["state"].values.ravel().tolist() == expected.tolist()


def test_what_is_wanted_to_be_large():
    assert [
        name
        for name in ("throughput_tokens_per_s", "ttft_mean_s", "prefix_cache_hit_fraction", "price")
        if frontier.more_is_better(name)
    ] == ["throughput_tokens_per_s", "prefix_cache_hit_fraction"]


def test_mistakes_are_named(example_cube):
    for objectives, message in (
        (["latency_mean_s"], "objectives: a frontier needs two or more"),
        (["latency_mean_s", "latency_quantile_s"], "latency_quantile_s: must have no dimensions but"),
        (["latency_mean_s", "no_such"], "no_such: no such variable"),
        (["latency_mean_s", "latency_p42_s"], "latency_p42_s: the cube has p50, p90, p95, p99"),
        (["latency_mean_s", "steps"], "steps: the cube does not hold this variable"),
    ):
        with pytest.raises(InputError, match=message):
            of_cube(example_cube, objectives)
    with pytest.raises(InputError, match="values: must be"):
        of_arrays([[1.0]])
    with pytest.raises(InputError, match="alpha = 2"):
        of_arrays([[[1.0]]], alpha=2)


def test_a_tolerance_of_a_search_is_no_difference(make_cube):
    """Capacities of 1.92 and 2.09 requests/s, each off by 4.3 % at most, are not told apart; 1.76 and 2.09 are."""
    values = np.array([[1.76, 1.92, 2.09]])[..., None] * np.ones(8)
    prices = np.ones((1, 3, 8))
    both = np.concatenate([-values, prices])
    assert of_arrays(both).states.tolist() == [NOT, NOT, SURELY]
    assert of_arrays(both, errors=[0.043, 0.0]).states.tolist() == [NOT, POSSIBLY, POSSIBLY]

    cube = make_cube(axes=("bins",))
    cube["throughput_requests_per_s"].values[:] = values[0, :, :6]
    price = xr.DataArray(np.ones(3), dims="bins", coords={"bins": cube["bins"]}, name="price")
    assert of_cube(cube, ["throughput_requests_per_s", price])["state"].values.tolist() == [NOT, NOT, SURELY]
    cube["throughput_requests_per_s"].attrs["relative_error"] = 0.043
    states = of_cube(cube, ["throughput_requests_per_s", price])["state"].values.tolist()
    assert states == [NOT, POSSIBLY, POSSIBLY]
