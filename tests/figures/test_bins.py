"""What bins do, on the data in the artists."""

import numpy as np
from matplotlib.colors import to_hex

from batchcube.figures.registry import draw
from helpers.artists import check_curve, lines, texts


def test_throughput_vs_bins(make_cube):
    cube = make_cube(axes=("bins", "rate"))
    figure = draw("throughput-vs-bins", cube, select={"arrival_rate_per_s": "8"})
    part = cube.sel(arrival_rate_per_s=8.0)
    check_curve(figure.axes[0], "simulated", [1, 2, 4], part["busy_throughput_requests_per_s"].values)
    assert "Example; arrival\N{NO-BREAK SPACE}rate\N{NO-BREAK SPACE}8/s" in texts(figure)
    tokens = draw("throughput-vs-bins", cube, select={"arrival_rate_per_s": 8}, quantity="throughput_tokens_per_s")
    check_curve(tokens.axes[0], "simulated", [1, 2, 4], part["throughput_tokens_per_s"].values)
    assert tokens.axes[0].get_ylabel() == "throughput (tokens/s)"
    assert set(lines(tokens.axes[0])) == {"simulated"}  # theory is about requests


def test_throughput_vs_predictor_error(make_cube):
    cube = make_cube(axes=("bins", "error"))
    panel = draw("throughput-vs-predictor-error", cube).axes[0]
    values = cube["busy_throughput_requests_per_s"].sel(bins=2).values
    check_curve(panel, "2 bins", [0.0, 0.1, 0.3], values)


def test_lines_can_be_another_axis(make_cube):
    cube = make_cube(axes=("bins", "rate"))
    panel = draw("throughput-vs-bins", cube, lines="arrival_rate_per_s").axes[0]
    values = cube["busy_throughput_requests_per_s"].sel(arrival_rate_per_s=12.0).values
    check_curve(panel, "arrival rate 12/s", [1, 2, 4], values)


def test_per_bin_statistics_show_the_bins_that_a_point_has(make_cube):
    cube = make_cube(axes=("mode",))
    for name in ("bin_lower_edge", "bin_upper_edge"):
        cube[name][0, 1:] = np.nan  # fifo_fixed has one bin
    figure = draw("per-bin-statistics", cube)
    shown = ("bin_batches", "bin_batch_size_mean", "bin_wait_mean_s", "bin_latency_mean_s", "bin_length_max_mean")
    for panel, name in zip(figure.axes[1:], shown, strict=True):
        check_curve(panel, "multi_bin_dynamic", [1, 2, 3, 4], cube[name].isel(mode=4).values.T)
        assert len(lines(panel)["fifo_fixed"].get_xdata()) == 1
    requests = cube["bin_requests"].isel(mode=4).values
    check_curve(figure.axes[0], "multi_bin_dynamic", [1, 2, 3, 4], (requests / requests.sum(axis=-1, keepdims=True)).T)
    assert figure.axes[5].get_ylabel().endswith("(tokens)")


def test_per_bin_statistics_of_one_point_show_the_edges(make_cube):
    cube = make_cube(axes=("mode",))
    panel = draw("per-bin-statistics", cube, select={"mode": "multi_bin_only"}).axes[5]
    (edges,) = [c for c in panel.collections if c.get_label() == "bin's edges"]
    ends = np.array([segment[:, 1] for segment in edges.get_segments()])
    np.testing.assert_allclose(ends[:, 0], cube["bin_lower_edge"].isel(mode=2))
    np.testing.assert_allclose(ends[:, 1], cube["bin_upper_edge"].isel(mode=2))


def test_an_open_last_bin_is_a_bin(make_cube):
    cube = make_cube(axes=("mode",))
    cube["bin_upper_edge"][..., -1] = np.inf
    figure = draw("per-bin-statistics", cube, select={"mode": "multi_bin_only"})
    assert len(lines(figure.axes[0])["simulated"].get_xdata()) == 4
    (edges,) = [c for c in figure.axes[5].collections if c.get_label() == "bin's edges"]
    np.testing.assert_allclose(edges.get_segments()[-1][:, 1], [cube["bin_lower_edge"].values[2, -1], 1100.0])


def test_lines_differ_by_colour_and_by_marker(make_cube):
    panel = draw("per-bin-statistics", make_cube(axes=("mode",))).axes[0]
    looks = [(to_hex(line.get_color()), line.get_marker()) for line in panel.get_lines()]
    assert len({colour for colour, _ in looks}) == len(looks) == 5
    assert len({marker for _, marker in looks}) == 5
