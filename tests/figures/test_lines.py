"""Any number over any axis, times with their limits, and where the time goes, on the data in the artists."""

import json

import numpy as np
import pytest

from batchcube.figures.registry import draw
from batchcube.results.labelled import pooled_quantile
from batchcube.results.precision import record
from batchcube.results.statistics import mean_interval
from helpers.artists import bands, check_curve, drawn_y, legend_labels, lines, refusal, said, whiskers
from helpers.serving_cubes import at_rates, capacities


@pytest.fixture(scope="module")
def cube(make_cube):
    return make_cube(axes=("bins", "rate"))


def limited(cube, **limits):
    return cube.assign_attrs(specification=json.dumps({"report": limits}))


def test_lines_draw_any_variable_over_any_axis(cube):
    panel = draw("lines", cube, y="utilisation", x="bins", select={"arrival_rate_per_s": [8, 12]}).axes[0]
    for rate in (8.0, 12.0):
        values = cube["utilisation"].sel(arrival_rate_per_s=rate).values
        check_curve(panel, f"arrival rate {rate:g}/s", [1, 2, 4], values)
    assert panel.get_xlabel() == "number of bins"
    assert panel.get_ylabel() == "utilisation"


def test_the_label_of_a_panel_is_not_longer_than_it_is_high(cube):
    name = "token_sla_violation_fraction"
    figure = draw("lines", cube.assign({name: cube[name].copy(data=cube["utilisation"].values)}), y=name)
    figure.draw_without_rendering()
    (panel,) = figure.axes
    assert "\n" in panel.get_ylabel()
    label = panel.yaxis.label.get_window_extent()
    assert label.height <= 1.05 * panel.get_window_extent().height
    assert figure.bbox.x0 <= label.x0


def test_over_the_rate_where_nothing_is_said(cube):
    figure = draw("lines", cube)
    panel = figure.axes[0]
    assert panel.get_xlabel() == "arrival rate (requests/s)"
    assert panel.get_ylabel() == "p99 latency (s)"
    assert {"1 bin", "2 bins", "4 bins"} <= set(lines(panel))
    assert figure.texts[0].get_text() == "P99 latency against arrival rate"


@pytest.mark.parametrize("spelled", ["latency_p97_s", "latency_quantile_s[0.97]", "latency_p97_ms"])
def test_any_quantile_of_the_latency_is_that_of_all_requests(cube, spelled):
    panel = draw("lines", cube, y=spelled).axes[0]
    expected = pooled_quantile(cube, 0.97).sel(bins=2)
    scale = 1e3 if spelled.endswith("ms") else 1.0
    np.testing.assert_allclose(drawn_y(panel, "2 bins"), scale * expected["quantile"].values)
    _, low, high = bands(panel)["2 bins"]
    np.testing.assert_allclose(low, scale * expected["low"].values)
    np.testing.assert_allclose(high, scale * expected["high"].values)
    assert "over all requests of all replications" in said(draw("lines", cube, y=spelled))


@pytest.mark.parametrize(("slo", "scale"), [(None, "linear"), (500.0, "log")])
def test_an_interval_without_an_upper_end_leaves_the_panel(cube, slo, scale):
    apart = cube.copy(deep=True)
    # One replication far above the others, at one point: the share below the p99 of all is hardly known.
    counts = apart["latency_histogram"].values
    counts[1, 2, 0] = np.roll(counts[1, 2, 0], round(np.log(8.0) / np.log(1.0 + 2.0 / 128)))
    found = pooled_quantile(apart, 0.99).sel(bins=2)
    assert np.flatnonzero(found["high"] == np.inf).tolist() == [2]
    figure = draw("lines", apart, y="latency_p99_s", slo=slo)
    panel = figure.axes[0]
    assert panel.get_yscale() == scale
    x, *_ = bands(panel)["2 bins"]
    assert found["arrival_rate_per_s"].values[2] not in x
    (whisker,) = [row for row in whiskers(panel, "2 bins") if row[3] >= panel.get_ylim()[1]]
    np.testing.assert_allclose(whisker[:2], [found["arrival_rate_per_s"][2], found["low"][2]])
    assert panel.get_ylim()[1] > np.nanmax(found["quantile"].values)
    assert "give no upper end a whisker reaches out of the panel" in said(figure)


def test_only_replications_with_a_value_are_counted(cube):
    of_few = cube.copy(deep=True)
    of_few["wait_mean_s"][1, 2, 0] = np.nan
    assert "Means of 5 to 6 replications of" in said(draw("lines", of_few, y="wait_mean_s"))
    assert "Means of 6 replications of" in said(draw("lines", of_few, y="throughput_requests_per_s"))


def test_quantiles_of_all_requests_are_at_the_level_of_the_looks(cube):
    looked = cube.copy(deep=True)
    record(looked, ["2%"], [3], "")
    _, low, high = bands(draw("lines", looked, y="latency_p90_s").axes[0])["2 bins"]
    expected = pooled_quantile(looked, 0.9).sel(bins=2)
    np.testing.assert_allclose([low, high], [expected["low"], expected["high"]])
    plain = pooled_quantile(cube, 0.9).sel(bins=2)
    assert (expected["high"] - expected["low"] > plain["high"] - plain["low"]).any()


def test_quantiles_without_histograms_are_those_of_the_replications(cube):
    figure = draw("lines", cube, y="ttft_p90_s")
    place = cube["quantile"].values.tolist().index(0.9)
    expected = mean_interval(cube["ttft_quantile_s"].sel(bins=4).isel(quantile=place).values)
    np.testing.assert_allclose(drawn_y(figure.axes[0], "4 bins"), expected.estimate)
    assert "means of the replications' own quantiles" in said(figure)
    assert "y = ttft_p42_s: the cube has p50, p90, p95, p99" in refusal("lines", cube, y="ttft_p42_s")


def test_the_limit_is_the_specifications_or_ones_own(cube):
    figure = draw("lines", limited(cube, ttft_sla_s=2.5), y="ttft_p90_ms")
    np.testing.assert_allclose(lines(figure.axes[0])["limit"].get_ydata(), 2500.0)
    assert "limit: 2,500 ms" in legend_labels(figure)
    own = draw("lines", cube, y="ttft_p90_s", slo="1.5,4")
    drawn = [line.get_ydata()[0] for line in own.axes[0].get_lines() if line.get_label() == "limit"]
    assert drawn == [1.5, 4.0]
    assert "limit" not in lines(draw("lines", cube, y="ttft_p90_s").axes[0])
    for wrong in ("much", "nan", "1,inf", "-1", "1e300"):
        said = f"slo = {wrong}: must be a number >= 0, or several with commas"
        assert said in refusal("lines", cube, slo=wrong)


def test_the_controllers_target_limits_the_time_between_tokens():
    figure = draw("lines", at_rates(), y="tbt_mean_ms")
    drawn = {line.get_ydata()[0] for line in figure.axes[0].get_lines() if line.get_label() == "limit"}
    assert drawn == {55.0}, "report.token_sla_s comes first"


def test_what_cannot_be_drawn_is_refused(cube):
    assert "x = speed: must be one of bins, arrival_rate_per_s" in refusal("lines", cube, x="speed")
    assert "y = latency_mean: did you mean latency_mean_s" in refusal("lines", cube, y="latency_mean")
    assert "must be a variable of the cube" in refusal("lines", cube, y="zzz")
    for number in (3, 2.5, True, [1, 2]):
        assert f"y = {number}: must be a variable of the cube" in refusal("lines", cube, y=number)
        assert f"x = {number}: must be one of bins" in refusal("lines", cube, x=number)
    assert "the cube has no variable tpot_mean_s" in refusal("lines", cube, y="tpot_mean_s")
    bins = {"bins": 1, "arrival_rate_per_s": 8}
    assert "needs two or more values of an axis" in refusal("lines", cube, select=bins)


def test_capacities_are_drawn_as_any_other_number():
    found = capacities()
    figure = draw("lines", found)
    panel = figure.axes[0]
    assert panel.get_ylabel() == "capacity (requests/s)"
    expected = mean_interval(found["capacity_requests_per_s"].values[1])
    assert "Capacity: largest arrival rate with mean time between tokens" in said(figure)
    assert not [label for label in legend_labels(figure) if "overloaded" in label]
    np.testing.assert_allclose(lines(panel)["memory"].get_ydata(), expected.estimate)


def test_serving_times_have_a_panel_and_a_limit_each(make_cube):
    cube = limited(make_cube(axes=("mode", "rate")), ttft_sla_s=3.0, request_sla_s=20.0)
    figure = draw("serving-times", cube, statistic="mean")
    first, latency = figure.axes
    assert [panel.get_ylabel() for panel in (first, latency)] == ["mean time to first token (s)", "mean latency (s)"]
    for panel, variable, limit in ((first, "ttft_mean_s", 3.0), (latency, "latency_mean_s", 20.0)):
        check_curve(panel, "dynamic_only", [4, 8, 12, 24], cube[variable].sel(mode="dynamic_only").values)
        np.testing.assert_allclose(lines(panel)["limit"].get_ydata(), limit)
    assert "limit set by the specification" in legend_labels(figure)
    for other in ("most", 99):
        assert f"statistic = {other}: must be one of mean, p50" in refusal("serving-times", cube, statistic=other)


def test_the_parts_of_the_time_add_up_to_the_latency(cube):
    figure = draw("time-split", cube)
    for panel, bins in zip(figure.axes, (1, 2, 4), strict=False):
        tops = {}
        for container in panel.containers:
            tops[container.get_label()] = [bar.get_y() + bar.get_height() for bar in container]
        mean = {name: cube[name].sel(bins=bins).mean("replication").values for name in ("wait_mean_s", "ttft_mean_s")}
        np.testing.assert_allclose(tops["wait"], mean["wait_mean_s"])
        np.testing.assert_allclose(tops["prefill"], mean["ttft_mean_s"])
        latency = mean_interval(cube["latency_mean_s"].sel(bins=bins).values)
        np.testing.assert_allclose(tops["decode"], latency.estimate)
        ends = whiskers(panel, f"{bins} bin" if bins == 1 else f"{bins} bins")
        np.testing.assert_allclose(ends[:, [1, 3]], np.stack([latency.low, latency.high], axis=-1))
    assert len({panel.get_ylim() for panel in figure.axes[:3]}) == 1
    assert legend_labels(figure)[:3] == ["wait", "prefill", "decode"]
