"""Lines over the arrival rate, on the data in the artists."""

import numpy as np
import pytest

from batchcube.figures.registry import draw, save
from batchcube.results.overload import judge
from helpers.artists import check_curve, legend_labels, lines, said, texts


def test_throughput_vs_rate_shows_means_intervals_overload_and_theory(make_cube):
    cube = make_cube(axes=("bins", "rate"))
    panel = draw("throughput-vs-rate", cube).axes[0]
    x = cube["arrival_rate_per_s"].values
    for i, label in enumerate(("1 bin", "2 bins", "4 bins")):
        values = cube["throughput_requests_per_s"].isel(bins=i).values
        check_curve(panel, label, x, values, judge(cube).isel(bins=i).values)
        theory = lines(panel)[f"{label}, theory"]
        assert theory.is_dashed()
        np.testing.assert_allclose(theory.get_ydata(), cube["theory_throughput_requests_per_s"].isel(bins=i))
    limit = next(line for line in panel.get_lines() if "c_max" in line.get_label())
    np.testing.assert_allclose(limit.get_ydata(), 32.0)
    assert panel.get_xlabel() == "arrival rate (requests/s)"
    assert panel.get_ylabel() == "throughput (requests/s)"


def test_legend_explains_every_mark(make_cube):
    labels = legend_labels(draw("throughput-vs-rate", make_cube(axes=("bins", "rate"))))
    assert labels[:3] == ["1 bin", "2 bins", "4 bins"]
    assert "overloaded: not a steady state" in labels
    assert "cannot tell whether overloaded" in labels
    assert "95 % interval" in labels
    assert any("arXiv 2412.04504" in label and label.startswith("theory") for label in labels)


def test_a_cube_without_overload_or_theory_has_no_such_marks(make_cube):
    cube = make_cube(axes=("bins", "rate")).sel(arrival_rate_per_s=[4.0, 8.0])
    for name in ("theory_throughput_requests_per_s", "theory_throughput_limit_requests_per_s", "theory_latency_s"):
        cube[name] = cube[name] * np.nan
    for name in ("throughput-vs-rate", "latency-vs-rate"):
        figure = draw(name, cube)
        assert set(lines(figure.axes[0])) == {"1 bin", "2 bins", "4 bins"}
        assert legend_labels(figure) == ["1 bin", "2 bins", "4 bins", "95 % interval"]
        assert not any("overloaded" in text for text in texts(figure))


def test_notes_of_the_cube_are_told(make_cube):
    cube = make_cube(axes=("bins", "rate"), notes="1 bin of 4 was removed.\nTable left in 3 batches.")
    told = said(draw("throughput-vs-rate", cube))
    assert told.endswith("Of the whole cube: 1 bin of 4 was removed. Table left in 3 batches.")


def test_latency_has_a_panel_per_number_of_servers(make_cube):
    cube = make_cube(axes=("bins", "rate", "servers"))
    cube["latency_mean_s"][:, :, 1] *= 2.0
    figure = draw("latency-vs-rate", cube)
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["1 server", "infinitely many servers"]
    for place, panel in enumerate(figure.axes):
        part = cube.isel(servers=place, bins=2)
        check_curve(
            panel,
            "4 bins",
            cube["arrival_rate_per_s"].values,
            part["latency_mean_s"].values,
            judge(cube).isel(servers=place, bins=2).values,
        )
        theory = lines(panel)["4 bins, theory"].get_ydata()
        np.testing.assert_allclose(theory, part["theory_latency_s"])
        assert panel.get_ylabel() == "mean latency (s)"


def test_latency_says_from_which_rate_on_it_is_overloaded(make_cube):
    cube = make_cube(axes=("bins", "rate"))
    told = said(draw("latency-vs-rate", cube))
    assert "Lowest arrival rate (requests/s) that is overloaded: 1 bin 24, 2 bins 24" in told


def test_wide_latencies_are_drawn_on_a_logarithmic_scale(make_cube):
    cube = make_cube(axes=("bins", "rate"))
    assert draw("latency-vs-rate", cube).axes[0].get_yscale() == "linear"
    cube["latency_mean_s"][:, -1] *= 100.0
    assert draw("latency-vs-rate", cube).axes[0].get_yscale() == "log"


@pytest.mark.parametrize("value", [np.inf, 1.7e308])
@pytest.mark.parametrize(
    ("name", "axes"), [("throughput-vs-rate", ("bins", "rate")), ("latency-vs-rate", ("bins", "rate", "servers"))]
)
def test_theory_at_the_end_of_floats_is_drawn(make_cube, tmp_path, name, axes, value):
    cube = make_cube(axes=axes, replications=2)
    for variable in (known for known in cube.data_vars if known.startswith("theory")):
        cube[variable].values[0] = value
    save(draw(name, cube), cube, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
