"""Modes side by side, on the data in the artists."""

import numpy as np
import pytest

from batchcube.figures.registry import draw
from batchcube.results.overload import judge
from batchcube.results.statistics import mean_interval, paired_difference
from helpers.artists import bands, check_curve, drawn_y, lines, said, texts, whiskers


def test_static_vs_dynamic_pairs_over_the_rate(make_cube):
    cube = make_cube(axes=("mode", "rate"))
    figure = draw("static-vs-dynamic", cube)
    x = cube["arrival_rate_per_s"].values
    violations, throughput, violation_gap, throughput_gap = figure.axes
    for top, bottom, name in (
        (violations, violation_gap, "request_sla_violation_fraction"),
        (throughput, throughput_gap, "throughput_requests_per_s"),
    ):
        values = {mode: cube[name].sel(mode=mode).values for mode in cube["mode"].values}
        queue = {mode: judge(cube).sel(mode=mode).values for mode in values}
        for static, dynamic in (("fifo_fixed", "dynamic_only"), ("multi_bin_only", "multi_bin_dynamic")):
            check_curve(top, static, x, values[static], queue[static])
            check_curve(top, dynamic, x, values[dynamic], queue[dynamic])
            label = f"{dynamic} − {static}"
            expected = paired_difference(values[dynamic], values[static])
            np.testing.assert_allclose(drawn_y(bottom, label), expected.estimate, atol=1e-12)
            _, low, high = bands(bottom)[label]
            np.testing.assert_allclose(low, expected.low, atol=1e-12)
            np.testing.assert_allclose(high, expected.high, atol=1e-12)
    assert violations.get_ylabel() == "SLA violations\n(share of requests)"


def test_drawn_coefficients_give_prediction_intervals_of_levels_and_differences(make_cube):
    cube = make_cube(axes=("mode", "rate"), coefficients_drawn=True)
    figure = draw("static-vs-dynamic", cube)
    static, dynamic = (
        cube["throughput_requests_per_s"].sel(mode=mode).values for mode in ("fifo_fixed", "dynamic_only")
    )
    _, throughput, _, throughput_gap = figure.axes
    for panel, label, expected in (
        (throughput, "dynamic_only", mean_interval(dynamic, single=True)),
        (throughput_gap, "dynamic_only − fifo_fixed", paired_difference(dynamic, static, single=True)),
    ):
        np.testing.assert_allclose(drawn_y(panel, label), expected.estimate, atol=1e-12)
        _, low, high = bands(panel)[label]
        np.testing.assert_allclose(low, expected.low, atol=1e-12)
        np.testing.assert_allclose(high, expected.high, atol=1e-12)
    told = said(figure)
    assert "6 replications of 400 requests; intervals are 95 % prediction intervals of one replication" in told
    usual = " ".join(texts(draw("static-vs-dynamic", make_cube(axes=("mode", "rate"))))).replace("\n", " ")
    assert "intervals are 95 % t intervals over replications." in usual
    shares = draw("batch-size-distribution", make_cube(axes=("mode",), coefficients_drawn=True))
    assert "prediction intervals" in " ".join(texts(shares)).replace("\n", " ")


def test_static_vs_dynamic_at_one_rate_is_drawn_as_dots(make_cube):
    cube = make_cube(axes=("mode",))
    figure = draw("static-vs-dynamic", cube)
    values = cube["throughput_requests_per_s"]
    expected = paired_difference(values.sel(mode="multi_bin_dynamic"), values.sel(mode="multi_bin_only"))
    dot = lines(figure.axes[3])["multi_bin_dynamic"]
    np.testing.assert_allclose(dot.get_xdata(), expected.estimate, atol=1e-12)


def test_modes_compared_shows_levels_and_paired_differences(make_cube):
    cube = make_cube(axes=("mode", "rate"))
    figure = draw("modes-compared", cube, select={"arrival_rate_per_s": 12}, baseline="fifo_greedy")
    part = cube.sel(arrival_rate_per_s=12.0)
    quantities = [
        part["throughput_requests_per_s"].values,
        part["request_sla_violation_fraction"].values,
        part["latency_quantile_s"].sel(quantile=0.5).values,
        part["latency_quantile_s"].sel(quantile=0.99).values,
    ]
    modes = list(cube["mode"].values)
    rows = [mode for mode in modes if mode != "fifo_greedy"]
    for column, values in enumerate(quantities):
        levels, gaps = figure.axes[column], figure.axes[column + 4]
        for place, mode in enumerate(modes):
            expected = mean_interval(values[place])
            np.testing.assert_allclose(lines(levels)[mode].get_xdata(), expected.estimate)
            np.testing.assert_allclose(whiskers(levels, mode), [[expected.low, place, expected.high, place]])
        assert set(lines(gaps)) == {*rows, "no difference"}
        for row, mode in enumerate(rows):
            expected = paired_difference(values[modes.index(mode)], values[1])
            np.testing.assert_allclose(lines(gaps)[mode].get_xdata(), expected.estimate, atol=1e-12)
            seen = whiskers(gaps, mode)[0]
            np.testing.assert_allclose(seen, [expected.low, row, expected.high, row], atol=1e-12)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == modes
    assert figure.axes[3].get_xlabel() == "p99 latency\n(s)"
    assert figure.axes[7].get_xlabel() == "minus fifo_greedy\n(s)"


def test_overloaded_modes_are_hollow_dots(make_cube):
    cube = make_cube(axes=("mode",))
    cube["theory_throughput_requests_per_s"][2] = 7.0
    cube["backlog_growth_fraction"][3] = 0.05
    panel = draw("modes-compared", cube).axes[0]
    faces = {label: line.get_markerfacecolor() for label, line in lines(panel).items()}
    assert faces.pop("multi_bin_only") == "white"
    assert "white" not in faces.values()
    # What still grows below the limit is neither overloaded nor in a steady state.
    half = [label for label, line in lines(panel).items() if line.get_fillstyle() == "left"]
    assert half == ["dynamic_only"]


def test_modes_without_an_sla_have_no_violation_panel(make_cube):
    cube = make_cube(axes=("mode",))
    cube["request_sla_violation_fraction"] *= np.nan
    figure = draw("modes-compared", cube)
    assert len(figure.axes) == 6
    assert any("No SLA was set" in text for text in texts(figure))
    with pytest.raises(ValueError, match=r"figure static-vs-dynamic: the cube has no SLA violations.*batchcube run"):
        draw("static-vs-dynamic", cube)
