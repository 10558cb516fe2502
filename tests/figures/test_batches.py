"""Batch sizes, on the data in the artists."""

import numpy as np

from batchcube.figures.registry import draw
from batchcube.results.statistics import mean_interval
from helpers.artists import lines, said, whiskers
from helpers.serving_cubes import REPLICATIONS, at_rates


def test_batch_sizes_are_shares_of_batches(make_cube):
    cube = make_cube(axes=("mode",))
    cube["batch_size_histogram"][2, 1, 3] += 40  # one replication differs, so that the interval has a width
    figure = draw("batch-size-distribution", cube)
    counts = cube["batch_size_histogram"].isel(mode=2).values
    expected = mean_interval((counts / counts.sum(axis=-1, keepdims=True)).T, bounds=(0.0, 1.0))
    panel = figure.axes[2]
    (bars,) = panel.patches
    # From 1 on: there is no batch of 0.
    used = expected.estimate[1:] > 0
    drawn = bars.get_data().values
    np.testing.assert_allclose(drawn, expected.estimate[1 : drawn.size + 1])
    np.testing.assert_allclose(bars.get_data().edges[:-1], cube["batch_size"].values[1 : drawn.size + 1] - 0.5)
    expected = expected.at(slice(1, None))
    seen = whiskers(panel, "multi_bin_only")
    np.testing.assert_allclose(seen[:, 0], cube["batch_size"].values[1:][used])
    np.testing.assert_allclose(seen[:, [1, 3]], np.stack([expected.low, expected.high], axis=-1)[used])
    mean = cube["batch_size_mean"].isel(mode=2).values.mean()
    np.testing.assert_allclose(lines(panel)["mean"].get_xdata(), mean)
    assert panel.get_title(loc="left") == f"multi_bin_only: mean {mean:.1f}"


def test_many_sizes_share_bars_whose_heights_add_up(make_cube):
    cube = make_cube(axes=("mode",))
    counts = np.zeros((5, 6, 200), np.int64)
    counts[..., 1:151] = np.arange(1, 151)
    cube = cube.drop_vars(["batch_size_histogram", "batch_size"]).assign(
        batch_size_histogram=(("mode", "replication", "batch_size"), counts, cube["batch_size_histogram"].attrs)
    )
    figure = draw("batch-size-distribution", cube.assign_coords(batch_size=np.arange(200)))
    (bars,) = figure.axes[0].patches
    values, edges, _ = bars.get_data()
    assert values.size <= 40
    np.testing.assert_allclose(values.sum(), 1.0)
    np.testing.assert_allclose(np.diff(edges), 4.0)
    np.testing.assert_allclose(values[0], (1 + 2 + 3 + 4) / (150 * 151 / 2))
    assert "Each bar is of 4 sizes." in said(figure)


def test_of_continuous_batching_steps_are_counted():
    cube = at_rates()
    sizes = np.zeros((3, 4, REPLICATIONS, 20), np.int64)
    sizes[..., 3], sizes[..., 7] = 30, 10
    cube = cube.assign(
        batch_size_histogram=(("policy", "arrival_rate_per_s", "replication", "batch_size"), sizes),
        batch_size_mean=cube["tbt_mean_s"] * 0.0 + 4.0,
    ).assign_coords(batch_size=np.arange(20))
    figure = draw("batch-size-distribution", cube, select={"arrival_rate_per_s": 4.0})
    assert figure.get_supylabel() == "share of steps"
    assert figure.axes[-1].get_xlabel() == "running requests"
    # Intervals do not set the scale.
    assert figure.axes[0].get_ylim()[1] < 1.3
