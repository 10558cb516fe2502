"""Bounds of Algorithms 1 and 2, on the data in the artists."""

import json

import numpy as np

from batchcube.figures.registry import draw
from batchcube.results.statistics import mean_interval
from helpers.artists import bands, legend_labels, lines, refusal, said
from helpers.serving_cubes import AXES, POLICIES, over_time, rules


def test_memory_erratum_shows_the_bound_and_the_overflow():
    cube = rules()
    figure = draw("memory-erratum", cube)
    left, right = figure.axes
    for place, rule in enumerate(("literal", "exact")):
        expected = mean_interval(cube["window_batch_memory_bound_mean"].isel(rule=place).values.T, bounds=(0, 128))
        np.testing.assert_allclose(lines(left)[rule].get_ydata(), expected.estimate)
        np.testing.assert_allclose(bands(left)[rule][1:], [expected.low, expected.high])
        share = mean_interval(cube["memory_overflow_fraction"].isel(rule=place).values, bounds=(0.0, 1.0))
        np.testing.assert_allclose(lines(right)[rule].get_xydata(), [[place, share.estimate]])
    np.testing.assert_allclose(lines(left)["B_max"].get_ydata(), 128.0)
    np.testing.assert_allclose(lines(right)["allowed overflow"].get_ydata(), 0.05)
    assert [label.get_text() for label in right.get_xticklabels()] == ["literal", "exact"]
    assert "right: allowed, ε_M = 0.05" in legend_labels(figure)
    assert "literal is Algorithm 1 of arXiv 2503.05248 as printed" in said(figure)


def test_a_window_without_a_decision_keeps_the_bound():
    cube = rules()
    bound = cube["window_batch_memory_bound_mean"].values
    bound[1, 0, 4:] = np.nan
    bound[1, 1, :2] = np.nan
    held = bound[1].copy()
    held[0, 4:] = held[0, 3]
    y = lines(draw("memory-erratum", cube).axes[0])["exact"].get_ydata()
    np.testing.assert_allclose(y, mean_interval(held.T).estimate)


def test_memory_erratum_refuses():
    message = refusal("memory-erratum", over_time(("rule",)))
    assert "no variable memory_overflow_fraction" in message
    cube = rules()
    cube["window_batch_memory_bound_mean"].values[:] = np.nan
    assert "no memory bound over time" in refusal("memory-erratum", cube)
    assert "needs two or more values of policy.memory.rule" in refusal(
        "memory-erratum", rules(), select={"rule": "exact"}
    )


def test_controller_bounds_show_the_ends_and_where_it_settles():
    cube = over_time(("target",))
    figure = draw("controller-bounds", cube)
    (panel,) = figure.axes
    for place, target in enumerate(AXES["target"].values):
        values = cube["window_batch_sla_bound_mean"].isel(target_s=place).values.T
        expected = mean_interval(values, bounds=(0, 128))
        np.testing.assert_allclose(lines(panel)[f"target {target:g} s"].get_ydata(), expected.estimate)
    marks = {
        label: sorted({line.get_ydata()[0] for line in panel.get_lines() if line.get_label() == label})
        for label in lines(panel)
    }
    np.testing.assert_allclose(marks["B_min, B_max"], [1, 128])
    np.testing.assert_allclose(marks["B_min + α/2, B_max − α/2"], [9, 120])
    assert "B_min + α/2, B_max − α/2 = 9, 120" in legend_labels(figure)
    last = cube["window_batch_sla_bound_mean"].values[1, :, -1].mean()
    assert f"target 0.05 s: {last:.1f}" in said(figure)


def test_controller_bounds_follow_the_settings_of_the_cube():
    cube = over_time(("target",))
    specification = json.loads(cube.attrs["specification"])
    specification["policy"] |= {"smallest_batch": 4, "sla": {"alpha": 8}}
    cube.attrs["specification"] = json.dumps(specification)
    assert "B_min + α/2, B_max − α/2 = 8, 124" in legend_labels(draw("controller-bounds", cube))
    specification["policy"]["sla"]["variant"] = "heuristic"
    cube.attrs["specification"] = json.dumps(specification)
    assert "B_min + α/2, B_max − α/2" not in lines(draw("controller-bounds", cube).axes[0])


def test_controller_bounds_leave_out_policies_without_a_controller():
    figure = draw("controller-bounds", over_time())
    assert [label for label in legend_labels(figure) if label in POLICIES] == ["both"]
    assert np.isnan(lines(figure.axes[0])["static"].get_ydata()).all()


def test_controller_bounds_refuse():
    cube = over_time(("target",))
    assert "no SLA bound over time" in refusal(
        "controller-bounds", over_time(), select={"policy": ["static", "memory"]}
    )
    bare = cube.assign_attrs(specification="{}")
    assert "its specification sets no policy.largest_batch" in refusal("controller-bounds", bare)
    cube["window_batch_sla_bound_mean"].values[:] = np.nan
    message = refusal("controller-bounds", cube)
    assert "no SLA bound over time" in message
    assert "`batchcube run controller-step`" in message
