"""Gains over a baseline, on the data in the artists."""

import numpy as np
import pytest
from matplotlib.contour import QuadContourSet

from batchcube.figures.registry import draw
from batchcube.results.statistics import paired_ratio
from helpers.artists import legend_labels, lines, refusal, said
from helpers.serving_cubes import capacities, gains


def test_gain_map_shows_paired_ratios():
    cube = gains()
    figure = draw("gain-map", cube, baseline="static", against="both")
    panel, bar = figure.axes
    values = (
        cube["throughput_tokens_per_s"].transpose("output_cv", "policy", "arrival_rate_per_s", "replication").values
    )
    ratio = paired_ratio(values[:, 2], values[:, 0])
    gain, low, high = (100.0 * (part - 1.0) for part in ratio[:3])
    (mesh,) = [c for c in panel.collections if type(c).__name__ == "QuadMesh"]
    np.testing.assert_allclose(np.asarray(mesh.get_array()), gain)
    largest = np.abs(gain).max()
    np.testing.assert_allclose([mesh.norm.vmin, mesh.norm.vmax], [-largest, largest])
    unsure = {(int(p.get_x() + 0.5), int(p.get_y() + 0.5)) for p in panel.patches if p.get_hatch()}
    assert unsure == {(column, row) for row, column in np.argwhere((low <= 0) & (high >= 0))}
    assert 0 < len(unsure) < gain.size
    shown = {tuple(text.get_position()): text.get_text() for text in panel.texts}
    assert shown[3, 2] == f"{gain[2, 3]:+.1f}"
    assert shown[0, 0] == f"{gain[0, 0]:+.1f}".replace("-", "\N{MINUS SIGN}")
    assert [label.get_text() for label in panel.get_xticklabels()] == ["2", "4", "6", "8"]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["0.2", "0.5", "1"]
    assert panel.get_xlabel() == "arrival rate (requests/s)"
    assert bar.get_ylabel() == "relative gain (%)"
    assert "Gain in token throughput: both over static" in said(figure)
    assert "95 % interval holds 0" in legend_labels(figure)


def test_every_printed_gain_has_a_line_of_its_own():
    figure = draw("gain-map", gains(), against="both", printed="1,5")
    handles = {handle.get_label(): handle for legend in figure.legends for handle in legend.legend_handles}
    looks = [handles[f"printed gain of {level} %"].get_linestyle() for level in (1, 5)]
    assert len(set(looks)) == 2


@pytest.mark.parametrize("printed", [5, 5.0, "5", [5.0], "5,40"])
def test_gain_map_draws_the_printed_gain_where_it_lies(printed):
    figure = draw("gain-map", gains(), against="both", printed=printed)
    (contour,) = [c for c in figure.axes[0].collections if isinstance(c, QuadContourSet)]
    np.testing.assert_allclose(contour.levels, [5.0])
    # Over the middles of the cells, the rise goes first along the spread, then along the rate.
    assert contour.get_paths()[0].vertices[:, 0].min() >= 1.0
    assert "printed gain of 5 %" in legend_labels(figure)
    assert ("No line for the printed gain of 40 %" in said(figure)) == (printed == "5,40")


def test_gain_map_takes_any_quantity_axis_and_capacities():
    cube = gains()
    figure = draw("gain-map", cube, quantity="latency_mean_s", against="memory", x="output_cv")
    panel, bar = figure.axes
    assert panel.get_xlabel() == "spread of output lengths"
    assert bar.get_ylabel() == "relative change (%)"
    assert "Change in mean latency: memory over static" in said(figure)
    searched = capacities(("policy", "rate", "cv"))
    options = {"quantity": "capacity_requests_per_s", "against": "both"}
    grey = draw("gain-map", searched, **options)
    (mesh,) = [c for c in grey.axes[0].collections if type(c).__name__ == "QuadMesh"]
    np.testing.assert_array_equal(np.argwhere(np.ma.getmaskarray(mesh.get_array())), [[2, 3]])
    assert "Grey: no ratio" in said(grey)
    assert "Replications without a value in both are left out." in said(grey)
    assert "Searched from 0.5 to 32 requests/s." in said(grey)


def test_gain_map_marks_overload():
    cube = gains()
    growth = cube["backlog_growth_fraction"]
    growth.values[2, 3, 1] = 0.5
    growth.values[2, 2, 1, 0] = 0.5
    options = {"against": "both", "quantity": "latency_mean_s"}
    panel = draw("gain-map", cube, **options).axes[0]
    np.testing.assert_allclose(lines(panel)["overloaded"].get_xydata(), [[3.36, 1.34]])
    np.testing.assert_allclose(lines(panel)["cannot tell"].get_xydata(), [[2.36, 1.34]])
    assert {"either is overloaded: not a steady state", "cannot tell whether either is overloaded"} <= set(
        legend_labels(draw("gain-map", cube, **options))
    )
    grows = 0.0 * growth + 0.5
    everywhere = cube.assign(backlog_growth_fraction=grows, queue_growth_fraction=grows)
    assert "Either is overloaded at every point." in said(draw("gain-map", everywhere, **options))
    # Throughput means the same under overload.
    assert "overloaded" not in lines(draw("gain-map", cube, against="both").axes[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "against: choose one of memory, both"),
        ({"against": "statik"}, "against = statik: must be one of static, memory, both"),
        ({"against": "static"}, "against = static: is the baseline; must be one of memory, both"),
        ({"baseline": "none"}, "baseline = none: must be one of static, memory, both"),
        ({"against": "both", "printed": "much"}, "printed = much: must be a gain in %, or several"),
        ({"against": "both", "x": "policy"}, "x = policy: must be one of arrival_rate_per_s, output_cv"),
        (
            {"quantity": "tbt_mean_s"},
            "quantity = tbt_mean_s: must be one of latency_mean_s, requests, steps, throughput",
        ),
        ({"select": {"output_cv": 0.5}}, "needs an axis of policies and two more, and the cube varies policy, arrival"),
    ],
)
def test_gain_map_refuses(options, message):
    assert message in refusal("gain-map", gains(), **options)


def test_gain_map_without_a_baseline_to_divide_by():
    cube = gains()
    cube["throughput_tokens_per_s"].values[0] = 0.0
    assert "there is no relative change" in refusal("gain-map", cube, against="both")
