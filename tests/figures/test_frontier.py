"""The frontier, on the data in the artists."""

import numpy as np
import pytest

from batchcube.figures.registry import draw
from batchcube.results.frontier import of_cube
from helpers.artists import legend_labels, lines, refusal, said

STATES = {"surely": "surely on the frontier", "possibly": "possibly on it", "not": "not on it"}


@pytest.fixture(scope="module")
def cube(make_cube):
    cube = make_cube(axes=("mode", "rate"))
    # One that all others beat.
    cube["latency_mean_s"][1] *= 2.0
    cube["ttft_mean_s"][1] *= 2.0
    return cube


def test_points_are_drawn_by_what_is_known_of_them(cube):
    figure = draw("frontier", cube, x="latency_mean_s", y="ttft_mean_s", select={"arrival_rate_per_s": 8})
    at = cube.sel(arrival_rate_per_s=8.0)
    found = of_cube(at, ["latency_mean_s", "ttft_mean_s"])
    assert {"not"} < set(found["state"].values.tolist())
    drawn = lines(figure.axes[0])
    for mode, state in zip(cube["mode"].values, found["state"].values, strict=True):
        point = drawn[f"{mode}, {STATES[state]}"].get_xydata()[0]
        mean = [at[name].sel(mode=mode).mean("replication").item() for name in ("latency_mean_s", "ttft_mean_s")]
        np.testing.assert_allclose(point, mean)
    hollow = drawn[f"{cube['mode'].values[1]}, not on it"]
    assert hollow.get_markerfacecolor() == "white"
    assert "not on it" in legend_labels(figure)


def test_quantiles_are_those_of_the_replications(cube):
    figure = draw("frontier", cube, x="latency_p90_ms", y="ttft_p99_s", select={"arrival_rate_per_s": 8})
    at = cube.sel(arrival_rate_per_s=8.0)
    states = of_cube(at, ["latency_p90_ms", "ttft_p99_s"])["state"].values
    drawn = lines(figure.axes[0])
    for mode, state in zip(cube["mode"].values, states, strict=True):
        own = at.sel(mode=mode).mean("replication")
        mean = [1e3 * own["latency_quantile_s"].sel(quantile=0.9), own["ttft_quantile_s"].sel(quantile=0.99)]
        np.testing.assert_allclose(drawn[f"{mode}, {STATES[state]}"].get_xydata()[0], mean)
    assert "less p90 latency and less p99 time to first token" in said(figure)


def test_without_a_rate_the_largest_is_taken_at_which_the_fewest_are_overloaded(cube):
    figure = draw("frontier", cube)
    assert "arrival rate 12/s" in said(figure)
    assert "The rate is the largest at which the fewest points are overloaded." in said(figure)
    assert figure.axes[0].get_xlabel() == "throughput (requests/s)"
    assert "more throughput and less mean latency" in said(figure)


def test_of_several_rates_that_are_selected_one_is_taken(cube):
    chosen = said(draw("frontier", cube, select={"arrival_rate_per_s": [8, 4]}))
    assert "arrival rate 8/s" in chosen
    assert "The rate is the largest at which the fewest points are overloaded." in chosen
    # Wherever on its axis it stands.
    mixed = cube.isel(arrival_rate_per_s=[2, 0, 3, 1])
    assert "arrival rate 12/s" in said(draw("frontier", mixed))


def test_overloaded_points_are_left_out(cube):
    figure = draw("frontier", cube, select={"arrival_rate_per_s": [8, 24], "mode": ["fifo_fixed", "dynamic_only"]})
    assert "overloaded points are left out" not in said(figure), "one rate is chosen"
    figure = draw("frontier", cube, select={"arrival_rate_per_s": 24})
    assert "5 overloaded points are left out." in said(figure)


def test_the_frontier_refuses(cube):
    assert "only one point" in refusal("frontier", cube, select={"arrival_rate_per_s": 8, "mode": "fifo_fixed"})
    assert "y = latency_p42_s: the cube has p50, p90, p95, p99" in refusal("frontier", cube, y="latency_p42_s")
    assert "y = zzz: must be a variable of the cube" in refusal("frontier", cube, y="zzz")
