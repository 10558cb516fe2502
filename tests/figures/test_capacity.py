"""Capacities, on the data in the artists."""

import numpy as np

from batchcube.figures.capacity import _criterion
from batchcube.figures.registry import draw
from batchcube.results.statistics import mean_interval
from batchcube.sweeps.cli.capacity import _in_words
from helpers.artists import legend_labels, lines, refusal, said, whiskers
from helpers.serving_cubes import AXES, POLICIES, at_rates, capacities


def test_capacity_shows_dots_by_policy_and_a_panel_per_value():
    cube = capacities()
    figure = draw("capacity", cube)
    assert [panel.get_title(loc="left") for panel in figure.axes] == [f"output cv {v:g}" for v in AXES["cv"].values]
    for place, panel in enumerate(figure.axes):
        assert [label.get_text() for label in panel.get_yticklabels()] == list(POLICIES)
        for row, policy in enumerate(POLICIES):
            values = cube["capacity_requests_per_s"].values[row, place]
            if np.isnan(values).all():
                assert [text.get_text() for text in panel.texts] == ["no answer"]
                continue
            expected = mean_interval(values)
            dot = lines(panel)[policy]
            np.testing.assert_allclose(dot.get_xdata(), expected.estimate)
            np.testing.assert_allclose(whiskers(panel, policy)[0], [expected.low, row, expected.high, row])
            assert (dot.get_markerfacecolor() == "white") == bool(np.isnan(values).any())


def test_capacity_names_what_has_no_answer_and_the_criteria():
    unanswered = "4 of 4 replications still meet the criteria at 32/s"
    cube = capacities(notes=f"{unanswered}\nbins were removed")
    cube.attrs["capacity_notes_unanswered"] = unanswered
    figure = draw("capacity", cube)
    text = said(figure)
    assert unanswered not in text
    assert "replications that miss the criteria already at the lowest rate, output cv 0.2, static (1 of 4)." in text
    assert "replications that still meet the criteria at the highest rate, output cv 1, both (4 of 4)." in text
    assert "with mean time between tokens ≤ 0.05 s and p99 latency ≤ 60 s and servers that keep up with 98 % of" in text
    assert "Searched from 0.5 to 32 requests/s." in text
    assert text.endswith("Of the whole cube: Bins were removed.")
    assert "some replications without an answer" in legend_labels(figure)
    whole = draw("capacity", capacities(), select={"policy": "memory"})
    assert "Left out" not in said(whole)
    assert [label.get_text() for label in whole.axes[0].get_yticklabels()] == [
        "output cv 0.2",
        "output cv 0.5",
        "output cv 1",
    ]


def test_capacity_of_drawn_coefficients_has_prediction_intervals():
    cube = capacities(drawn=True)
    figure = draw("capacity", cube)
    expected = mean_interval(cube["capacity_requests_per_s"].values[1, 1], single=True)
    np.testing.assert_allclose(whiskers(figure.axes[1], "memory")[0][[0, 2]], [expected.low, expected.high])
    assert "prediction intervals of one replication" in said(figure)


def test_capacity_of_one_point_and_of_lines_by_name():
    point = draw("capacity", capacities(), select={"policy": "memory", "output_cv": 0.5})
    assert len(lines(point.axes[0])) == 1
    turned = draw("capacity", capacities(), lines="output_cv")
    assert [panel.get_title(loc="left") for panel in turned.axes] == list(POLICIES)


def test_capacity_refuses():
    assert "`batchcube capacity` makes a cube that has it" in refusal("capacity", at_rates())
    cube = capacities(("policy", "cv", "largest"))
    assert "choose one value of largest_batch (8, 32, 128), for instance: batchcube figure capacity" in refusal(
        "capacity", cube
    )


def test_the_goodput_is_a_least_and_a_time_a_most() -> None:
    goodput = {"variable": "goodput_fraction", "quantile": None, "limit": 0.95}
    written = (_criterion(goodput), _in_words(goodput))
    assert written == ("goodput, share of requests ≥ 0.95", "goodput_fraction >= 0.95")
    wait = {"variable": "wait_mean_s", "quantile": None, "limit": 2.0}
    assert _in_words(wait) == "wait_mean_s <= 2"


def test_printed_capacities_stand_beside_their_rows():
    figure = draw("capacity", capacities(), printed="static=3,4,5;both=7,8,9")
    for place, panel in enumerate(figure.axes):
        drawn = lines(panel)
        np.testing.assert_array_equal(drawn["static, as printed"].get_xydata(), [[3 + place, 0]])
        np.testing.assert_array_equal(drawn["both, as printed"].get_xydata(), [[7 + place, 2]])
        assert "memory, as printed" not in drawn
    assert "as printed" in legend_labels(figure)
    for wrong in ("nobody=1,2,3", "static=1,2", "static=a,b,c", "static=1,nan,3", "static"):
        assert "must be names of rows (static, memory, both) with 3 numbers each" in refusal(
            "capacity", capacities(), printed=wrong
        )
