"""Batch sizes, on the data in the artists."""

import numpy as np

from batchcube.figures.registry import draw
from batchcube.results.statistics import mean_interval
from helpers.artists import lines, whiskers


def test_batch_sizes_are_shares_of_batches(make_cube):
    cube = make_cube(axes=("mode",))
    cube["batch_size_histogram"][2, 1, 3] += 40  # one replication differs, so that the interval has a width
    figure = draw("batch-size-distribution", cube)
    counts = cube["batch_size_histogram"].isel(mode=2).values
    expected = mean_interval((counts / counts.sum(axis=-1, keepdims=True)).T, bounds=(0.0, 1.0))
    panel = figure.axes[2]
    (bars,) = panel.patches
    np.testing.assert_allclose(bars.get_data().values, expected.estimate)
    np.testing.assert_allclose(bars.get_data().edges[:-1], cube["batch_size"].values - 0.5)
    used = expected.estimate > 0
    seen = whiskers(panel, "multi_bin_only")
    np.testing.assert_allclose(seen[:, 0], cube["batch_size"].values[used])
    np.testing.assert_allclose(seen[:, [1, 3]], np.stack([expected.low, expected.high], axis=-1)[used])
    mean = cube["batch_size_mean"].isel(mode=2).values.mean()
    np.testing.assert_allclose(lines(panel)["mean"].get_xdata(), mean)
    assert panel.get_title(loc="left") == f"multi_bin_only: mean {mean:.1f}"
