"""What happens over time, on the data in the artists."""

import json

import numpy as np
import pytest

from batchcube.figures.registry import draw
from batchcube.results.statistics import mean_interval
from helpers.artists import check_curve, legend_labels, lines, refusal, said
from helpers.serving_cubes import POLICIES, WINDOWS, over_time


def test_over_time_uses_the_middle_of_the_windows(make_cube):
    cube = make_cube(axes=("mode",))
    cube["window_arrivals"][3] += 1
    figure = draw("sla-violation-over-time", cube)
    width = cube["window_width_s"].values
    part = cube.isel(mode=3)
    time = (np.arange(10) + 0.5) * width[3]
    arrivals = part["window_arrivals"].values / width[3]
    names = ("window_request_sla_violation_fraction", "window_queue_length_mean")
    for panel, values in zip(figure.axes, (arrivals, *(part[name].values for name in names)), strict=True):
        check_curve(panel, "dynamic_only", time, np.swapaxes(values, -1, 0))
    assert figure.axes[-1].get_xlabel() == "time since the start (s)"
    assert all("(" in panel.get_ylabel() for panel in figure.axes)


def test_arrivals_that_all_lines_share_are_drawn_once(make_cube):
    cube = make_cube(axes=("mode",))
    for name in ("window_arrivals", "window_width_s"):
        cube[name][:] = cube[name].isel(mode=0)
    figure = draw("sla-violation-over-time", cube)
    assert [len(panel.lines) for panel in figure.axes] == [1, cube.sizes["mode"], cube.sizes["mode"]]


def test_a_cube_without_a_controller_is_refused_before_a_value_is_asked_for(make_cube):
    cube = make_cube(axes=("bins", "rate"))
    cube["window_signal_mean_s"][:] = np.nan
    with pytest.raises(ValueError, match="no controller signal"):
        draw("controller-step", cube)


def test_a_bound_that_is_the_target_has_no_panel_of_its_own(make_cube):
    cube = make_cube(axes=("sla",))
    np.testing.assert_array_equal(cube["window_batch_target_mean"], cube["window_batch_sla_bound_mean"])
    figure = draw("controller-step", cube)
    labels = [panel.get_ylabel() for panel in figure.axes]
    assert labels[1] == "target b = b_SLA\n(requests)"
    assert not [label for label in labels if label.startswith("b_SLA")]


def test_time_ends_where_nothing_happens_any_more(make_cube):
    cube = make_cube(axes=("mode",))
    width = float(cube["window_width_s"][0])
    last = draw("sla-violation-over-time", cube).axes[-1].get_xlim()[1]
    assert last > 9 * width
    for name in ("window_arrivals", "window_request_sla_violation_fraction", "window_queue_length_mean"):
        cube[name][..., 4:] = 0
    assert draw("sla-violation-over-time", cube).axes[-1].get_xlim() == (0.0, pytest.approx(4.5 * width))


def test_of_bursts_one_replication_is_drawn_and_said(make_cube):
    cube = make_cube(axes=("mode",), first_replication=2)
    bursts = {"workload": {"arrivals": {"process": "on_off"}}, "report": {"request_sla_s": 10.0}}
    bursty = cube.assign_attrs(specification=json.dumps(bursts))
    figure = draw("sla-violation-over-time", bursty)
    queue = cube["window_queue_length_mean"].isel(mode=3)
    np.testing.assert_allclose(lines(figure.axes[2])["dynamic_only"].get_ydata(), queue.isel(replication=0))
    assert "Replication 2 alone, as bursts lie elsewhere in each" in said(figure)
    assert "SLA violation over time (latency limit 10 s)" in said(figure)
    assert figure.axes[1].get_ylabel() == "over 10 s\n(share of requests)"
    asked = draw("sla-violation-over-time", bursty, select={"replication": cube["replication"].values.tolist()})
    np.testing.assert_allclose(lines(asked.axes[2])["dynamic_only"].get_ydata(), queue.mean("replication"))
    assert "alone" not in said(asked)


def test_controller_step_overlays_both_variants_and_the_target(make_cube):
    cube = make_cube(axes=("sla",))
    cube.attrs["specification"] = json.dumps({"policy": {"sla": {"target_s": 0.05}}})
    cube["window_batch_sla_bound_mean"][1] += 7.0
    figure = draw("controller-step", cube)
    time = (np.arange(10) + 0.5) * float(cube["window_width_s"][0])
    for variant, place in (("paper", 0), ("heuristic", 1)):
        for panel, name in (
            (1, "window_batch_target_mean"),
            (2, "window_batch_sla_bound_mean"),
            (3, "window_signal_mean_s"),
            (4, "window_request_sla_violation_fraction"),
        ):
            check_curve(figure.axes[panel], variant, time, cube[name].isel(sla_variant=place).values.T)
    np.testing.assert_allclose(lines(figure.axes[3])["SLA target"].get_ydata(), 0.05)
    assert "SLA target of the controller" in legend_labels(figure)


def test_serving_over_time_has_a_panel_per_quantity():
    cube = over_time()
    figure = draw("serving-over-time", cube)
    shown = (
        "window_arrivals",
        "window_queue_length_mean",
        "window_running_mean",
        "window_kv_tokens_mean",
        "window_batch_target_mean",
        "window_preemptions",
    )
    assert len(figure.axes) == len(shown)
    time = 5.0 * (np.arange(WINDOWS) + 0.5)
    for panel, variable in zip(figure.axes[1:], shown[1:], strict=True):
        for i, policy in enumerate(POLICIES):
            expected = mean_interval(cube[variable].isel(policy=i).values.T)
            np.testing.assert_allclose(lines(panel)[policy].get_xdata(), time)
            np.testing.assert_allclose(lines(panel)[policy].get_ydata(), expected.estimate)
    (arrivals,) = figure.axes[0].get_lines()
    np.testing.assert_allclose(arrivals.get_ydata(), 20 / 5.0)
    np.testing.assert_allclose(lines(figure.axes[3])["KV capacity"].get_ydata(), 60000.0)
    assert figure.axes[3].get_ylim()[1] > 60000.0
    assert figure.axes[5].get_ylim()[1] >= 1.0


def test_the_cap_has_the_bounds_that_each_policy_sets():
    cube = over_time()
    figure = draw("serving-over-time", cube)
    bounds = {label for label in lines(figure.axes[4]) if ", b_" in label}
    assert bounds == {"memory, b_mem", "both, b_mem", "both, b_SLA"}
    expected = cube["window_batch_sla_bound_mean"].sel(policy="both").mean("replication")
    np.testing.assert_allclose(lines(figure.axes[4])["both, b_SLA"].get_ydata(), expected)
    assert {"b_mem", "b_SLA"} <= set(legend_labels(figure))
    static = draw("serving-over-time", cube, select={"policy": "static"})
    assert not {"b_mem", "b_SLA"} & set(legend_labels(static))


def test_a_far_capacity_is_said_and_not_drawn():
    cube = over_time()
    cube["window_kv_tokens_mean"].values[:] /= 100.0
    figure = draw("serving-over-time", cube)
    assert "KV capacity" not in lines(figure.axes[3])
    assert "The KV capacity of a replica, 60,000 tokens, lies above its panel." in said(figure)


def test_serving_over_time_refuses_whole_batches(make_cube):
    message = refusal("serving-over-time", make_cube(axes=("mode",)))
    assert "the cube has no variable window_running_mean" in message
    assert "`batchcube run continuous-rate`" in message
