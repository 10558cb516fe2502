"""Time between tokens and of a step, on the data in the artists."""

import json

import numpy as np
import pytest

from batchcube.figures.registry import draw
from batchcube.results.statistics import mean_interval
from helpers.artists import bands, legend_labels, lines, refusal, said
from helpers.serving_cubes import AXES, POLICIES, at_rates, at_sizes, over_time


@pytest.mark.parametrize(("statistic", "place"), [("mean", None), ("p50", 0), ("p90", 1), ("p95", 2), ("p99", 3)])
def test_tbt_vs_rate_shows_a_statistic_in_ms_with_the_sla(statistic, place):
    cube = at_rates()
    figure = draw("tbt-vs-rate", cube, statistic=statistic)
    (panel,) = figure.axes
    assert panel.get_ylabel() == f"{statistic} time between tokens (ms)"
    for i, policy in enumerate(POLICIES):
        values = cube["tbt_mean_s"] if place is None else cube["tbt_quantile_s"].isel(quantile=place)
        expected = mean_interval(1e3 * values.isel(policy=i).values)
        y = lines(panel)[policy].get_ydata()
        if policy == "static":
            np.testing.assert_array_equal(np.isnan(y), [False, False, False, True])
            hollow = lines(panel)["static, overloaded"]
            assert hollow.get_markerfacecolor() == "white"
            y = np.where(np.isnan(y), hollow.get_ydata(), y)
        np.testing.assert_allclose(lines(panel)[policy].get_xdata(), AXES["rate"].values)
        np.testing.assert_allclose(y, expected.estimate)
        np.testing.assert_allclose(bands(panel)[policy][1:], [expected.low, expected.high])
    # The target that one labelled point sets.
    np.testing.assert_allclose(lines(panel)["SLA target"].get_ydata(), 50.0)
    assert "SLA target of the controller (50 ms)" in legend_labels(figure)
    assert "overloaded: not a steady state" in legend_labels(figure)


def test_tbt_vs_rate_without_a_controller_has_no_target():
    figure = draw("tbt-vs-rate", at_rates(), select={"policy": ["static", "memory"]})
    assert "SLA target" not in lines(figure.axes[0])
    alone = draw("tbt-vs-rate", at_rates(), select={"policy": "both"})
    np.testing.assert_allclose(lines(alone.axes[0])["SLA target"].get_ydata(), 50.0)
    assert "Example; policy: both" in said(alone)


def test_tbt_vs_rate_works_on_cubes_of_whole_batches(make_cube):
    cube = make_cube(axes=("mode", "rate"))
    figure = draw("tbt-vs-rate", cube)
    y = lines(figure.axes[0])["dynamic_only"].get_ydata()
    expected = 1e3 * cube["tbt_mean_s"].sel(mode="dynamic_only").mean("replication").values
    np.testing.assert_allclose(y[:2], expected[:2])
    assert "decoding time per token of its batch" in said(figure)


def test_tbt_vs_rate_refuses():
    assert "statistic = p42: must be one of mean, p50, p90, p95, p99" in refusal(
        "tbt-vs-rate", at_rates(), statistic="p42"
    )
    cube = at_rates().isel(quantile=[0, 3])
    assert "statistic = p95: the cube has mean, p50, p99" in refusal("tbt-vs-rate", cube, statistic="p95")
    message = refusal("tbt-vs-rate", over_time())
    assert "the cube has no variable tbt_mean_s" in message
    assert "needs two or more values of workload.arrivals.rate_per_s" in refusal(
        "tbt-vs-rate", at_rates(), select={"arrival_rate_per_s": 4}
    )


@pytest.mark.parametrize("x", ["batch_size_mean", "largest_batch"])
def test_step_throughput_shows_both_panels_with_the_law(x):
    cube = at_sizes()
    figure = draw("step-throughput", cube, x=x)
    size = cube["batch_size_mean"].mean("replication").values if x == "batch_size_mean" else AXES["largest"].values
    for panel, variable, scale in zip(figure.axes, ("throughput_tokens_per_s", "tbt_mean_s"), (1.0, 1e3), strict=True):
        expected = mean_interval(scale * cube[variable].values)
        np.testing.assert_allclose(lines(panel)["simulated"].get_xdata(), size)
        np.testing.assert_allclose(lines(panel)["simulated"].get_ydata(), expected.estimate)
        np.testing.assert_allclose(bands(panel)["simulated"][1:], [expected.low, expected.high])
    law = lines(figure.axes[1])["simulated, theory"]
    np.testing.assert_allclose(law.get_ydata(), 30.0 + 0.22 * np.asarray(law.get_xdata()))
    rate = lines(figure.axes[0])["simulated, theory"]
    b = np.asarray(rate.get_xdata())
    np.testing.assert_allclose(rate.get_ydata(), b / (0.03 + 0.00022 * b))
    np.testing.assert_allclose(lines(figure.axes[1])["limit between tokens"].get_ydata(), 55.0)


def test_step_throughput_of_another_law_has_no_theory():
    cube = at_sizes(("rule", "largest"))
    specification = json.loads(cube.attrs["specification"])
    specification["server"]["service"] = {"coefficients": "somebodys"}
    cube.attrs["specification"] = json.dumps(specification)
    figure = draw("step-throughput", cube)
    assert not [label for panel in figure.axes for label in lines(panel) if label.endswith("theory")]
    assert {"literal", "exact"} <= set(lines(figure.axes[0]))


def test_step_throughput_sorts_by_batch_size():
    cube = at_sizes()
    cube["batch_size_mean"].values[:] = cube["batch_size_mean"].values[::-1].copy()
    x = lines(draw("step-throughput", cube).axes[0])["simulated"].get_xdata()
    assert (np.diff(x) > 0).all()


def test_step_throughput_refuses():
    message = refusal("step-throughput", at_rates().assign(at_sizes().isel(largest_batch=0, drop=True)))
    assert "needs two or more values of policy.largest_batch" in message
    assert message.endswith("`batchcube run dynamic-fig3` makes a cube that has it")
    assert "x = steps: must be one of batch_size_mean, largest_batch" in refusal(
        "step-throughput", at_sizes(), x="steps"
    )


def test_tbt_vs_rate_draws_printed_points():
    figure = draw("tbt-vs-rate", at_rates(), printed="static=4:44,5.4:51.1;dynamic=4:36.9")
    drawn = lines(figure.axes[0])
    np.testing.assert_array_equal(drawn["static, as printed"].get_xydata(), [[4, 44], [5.4, 51.1]])
    assert drawn["static, as printed"].get_color() == drawn["static"].get_color()
    np.testing.assert_array_equal(drawn["dynamic, as printed"].get_xydata(), [[4, 36.9]])
    assert "dynamic, as printed" in legend_labels(figure)
    far = draw("tbt-vs-rate", at_rates(), printed="static=4:44,5.4:300")
    np.testing.assert_array_equal(lines(far.axes[0])["static, as printed"].get_xydata(), [[4, 44]])
    assert "Printed, and beyond the panel: 300 ms at 5.4/s (static)." in said(far)
    low, high = far.axes[0].get_ylim()
    assert 0 < low < 34 < 63 < high < 100
    with pytest.raises(ValueError, match=r"printed = 4;5: must be names with rate:ms"):
        draw("tbt-vs-rate", at_rates(), printed="4;5")
    with pytest.raises(ValueError, match="must be at most 4 names, not 5"):
        draw("tbt-vs-rate", at_rates(), printed=";".join(f"{name}=1:2" for name in "abcde"))
