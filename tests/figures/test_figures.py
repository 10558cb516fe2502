"""Figures are tested on the data in their artists against batchcube.results.statistics."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from batchcube.figures.registry import calibration_names, draw, names, save
from batchcube.results.overload import judge
from batchcube.results.statistics import mean_interval, paired_difference
from helpers.artists import bands, check_curve, drawn_y, legend_labels, lines, said, texts, whiskers
from helpers.serving_cubes import MAKERS, REPLICATIONS

# What each figure is drawn from: axes of the example cube, options.
EXAMPLES = {
    "throughput-vs-bins": (("bins", "rate"), {"select": {"arrival_rate_per_s": 24.0}}),
    "throughput-vs-rate": (("bins", "rate"), {}),
    "latency-vs-rate": (("bins", "rate", "servers"), {}),
    "throughput-vs-predictor-error": (("bins", "error"), {}),
    "sla-violation-over-time": (("mode",), {}),
    "batch-size-distribution": (("mode",), {}),
    "per-bin-statistics": (("mode",), {}),
    "static-vs-dynamic": (("mode", "rate"), {}),
    "controller-step": (("sla",), {}),
    "modes-compared": (("mode",), {}),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_figure_is_drawn_and_saved_in_every_format(name, make_cube, tmp_path):
    axes, options = EXAMPLES[name]
    cube = make_cube(axes=axes, replications=3)
    figure = draw(name, cube, **options)
    for ending, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        path = save(figure, cube, tmp_path / f"figure{ending}")
        assert path.read_bytes().startswith(start)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".pdf", ".png", ".svg"]
    for panel in figure.axes:
        if panel.axison:
            assert panel.get_xlabel() or panel.get_ylabel() or figure.get_supylabel()
    assert any("3 replications of 400 requests" in text.replace("\n", " ") for text in texts(figure))


@pytest.mark.parametrize("name", MAKERS)
def test_every_figure_of_serving_is_drawn_saved_and_described(name, tmp_path):
    maker, options = MAKERS[name]
    cube = maker()
    figure = draw(name, cube, **options)
    for ending, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        assert save(figure, cube, tmp_path / f"figure{ending}").read_bytes().startswith(start)
    (entry,) = [entry for entry in names() if entry.name == name]
    assert entry.shows.endswith(".")
    assert entry.needs
    assert {"select", "width_mm"} <= set(entry.options)
    assert f"{REPLICATIONS} replications" in said(figure)
    assert "Example" in said(figure)
    for panel in figure.axes:
        assert panel.get_xlabel() or panel.get_ylabel() or panel.get_title(loc="left")


def test_every_name_has_an_example_and_a_description():
    described = names()
    assert [entry.name for entry in described] == [*EXAMPLES, *MAKERS, *calibration_names(), "simulated-vs-measured"]
    # Those of serving and of calibrations, which no preset makes or few do, have tests of their own.
    for entry in described[: len(EXAMPLES)]:
        assert entry.shows.endswith(".")
        assert entry.needs
        assert entry.presets
        assert {"select", "width_mm"} <= set(entry.options)


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
    said = " ".join(texts(draw("latency-vs-rate", cube))).replace("\n", " ")
    assert "Lowest arrival rate (requests/s) that is overloaded: 1 bin 24, 2 bins 24" in said


def test_wide_latencies_are_drawn_on_a_logarithmic_scale(make_cube):
    cube = make_cube(axes=("bins", "rate"))
    assert draw("latency-vs-rate", cube).axes[0].get_yscale() == "linear"
    cube["latency_mean_s"][:, -1] *= 100.0
    assert draw("latency-vs-rate", cube).axes[0].get_yscale() == "log"


def test_throughput_vs_bins(make_cube):
    cube = make_cube(axes=("bins", "rate"))
    figure = draw("throughput-vs-bins", cube, select={"arrival_rate_per_s": "8"})
    part = cube.sel(arrival_rate_per_s=8.0)
    check_curve(figure.axes[0], "simulated", [1, 2, 4], part["busy_throughput_requests_per_s"].values)
    assert "Example; arrival_rate_per_s\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}8" in texts(figure)
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
    check_curve(panel, "arrival_rate_per_s = 12", [1, 2, 4], values)


def test_batch_sizes_are_shares_of_batches(make_cube):
    cube = make_cube(axes=("mode",))
    cube["batch_size_histogram"][2, 1, 3] += 40  # one replication differs, so that the interval has a width
    figure = draw("batch-size-distribution", cube)
    counts = cube["batch_size_histogram"].isel(mode=2).values
    expected = mean_interval((counts / counts.sum(axis=-1, keepdims=True)).T, bounds=(0.0, 1.0))
    panel = figure.axes[2]
    (bars,) = panel.patches
    np.testing.assert_allclose(bars.get_data().values, expected.estimate)
    np.testing.assert_allclose(bars.get_data().edges[:-1], cube["batch_size"].values - 0.5)
    used = expected.estimate > 0
    seen = whiskers(panel, "multi_bin_only")
    np.testing.assert_allclose(seen[:, 0], cube["batch_size"].values[used])
    np.testing.assert_allclose(seen[:, [1, 3]], np.stack([expected.low, expected.high], axis=-1)[used])
    mean = cube["batch_size_mean"].isel(mode=2).values.mean()
    np.testing.assert_allclose(lines(panel)["mean"].get_xdata(), mean)
    assert panel.get_title(loc="left") == f"multi_bin_only: mean {mean:.1f}"


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
    said = " ".join(texts(figure)).replace("\n", " ")
    assert "6 replications of 400 requests; intervals are 95 % prediction intervals of one replication" in said
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
    cube["overloaded"][2] = True
    cube["overloaded"][3, 1] = True
    panel = draw("modes-compared", cube).axes[0]
    faces = {label: line.get_markerfacecolor() for label, line in lines(panel).items()}
    assert faces.pop("multi_bin_only") == "white"
    assert "white" not in faces.values()
    # One replication of six is neither overload nor a steady state.
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


@pytest.mark.parametrize("name", EXAMPLES)
def test_one_replication_gets_no_interval(name, make_cube):
    axes, options = EXAMPLES[name]
    figure = draw(name, make_cube(axes=axes, replications=1), **options)
    for panel in figure.axes:
        assert not [c for c in panel.collections if c.get_label().endswith("95 % interval")]
        assert any(np.isfinite(np.asarray(line.get_ydata(), float)).any() for line in panel.get_lines())
    assert "95 % interval" not in legend_labels(figure)
    said = " ".join(texts(figure)).replace("\n", " ")
    assert "One replication of 400 requests: no interval can be given." in said


@pytest.mark.parametrize("name", MAKERS)
def test_one_replication_of_serving_gets_no_interval(name):
    maker, options = MAKERS[name]
    cube = maker(replications=2).isel(replication=[0])
    figure = draw(name, cube, **options)
    for panel in figure.axes:
        assert not [c for c in panel.collections if c.get_label().endswith("95 % interval")]
        assert not [patch for patch in panel.patches if patch.get_hatch()]
    assert not [label for label in legend_labels(figure) if "interval" in label]
    assert "no interval can be given" in said(figure)


def test_lines_differ_by_colour_and_by_marker(make_cube):
    panel = draw("per-bin-statistics", make_cube(axes=("mode",))).axes[0]
    looks = [(to_hex(line.get_color()), line.get_marker()) for line in panel.get_lines()]
    assert len({colour for colour, _ in looks}) == len(looks) == 5
    assert len({marker for _, marker in looks}) == 5


def test_notes_of_the_cube_are_told(make_cube):
    cube = make_cube(axes=("bins", "rate"), notes="1 bin of 4 was removed.\nTable left in 3 batches.")
    said = " ".join(texts(draw("throughput-vs-rate", cube))).replace("\n", " ")
    assert said.endswith("Of the whole cube: 1 bin of 4 was removed. Table left in 3 batches.")


def test_text_is_large_enough_to_print(make_cube):
    for name, (axes, options) in EXAMPLES.items():
        if name not in ("throughput-vs-rate", "modes-compared"):
            continue
        figure = draw(name, make_cube(axes=axes), **options)
        assert figure.get_figwidth() * 25.4 == pytest.approx(85 if name == "throughput-vs-rate" else 178)
        for panel in figure.axes:
            labels = [panel.xaxis.label, panel.yaxis.label, *panel.get_xticklabels(), *panel.get_yticklabels()]
            assert min(label.get_fontsize() for label in labels) >= 8
        assert min(text.get_fontsize() for text in figure.texts) >= 7


def test_an_open_last_bin_is_a_bin(make_cube):
    cube = make_cube(axes=("mode",))
    cube["bin_upper_edge"][..., -1] = np.inf
    figure = draw("per-bin-statistics", cube, select={"mode": "multi_bin_only"})
    assert len(lines(figure.axes[0])["simulated"].get_xdata()) == 4
    (edges,) = [c for c in figure.axes[5].collections if c.get_label() == "bin's edges"]
    np.testing.assert_allclose(edges.get_segments()[-1][:, 1], [cube["bin_lower_edge"].values[2, -1], 1100.0])


@pytest.mark.parametrize("value", [np.inf, 1.7e308])
@pytest.mark.parametrize("name", ["throughput-vs-rate", "latency-vs-rate"])
def test_theory_at_the_end_of_floats_is_drawn(make_cube, tmp_path, name, value):
    axes, options = EXAMPLES[name]
    cube = make_cube(axes=axes, replications=2)
    for variable in (known for known in cube.data_vars if known.startswith("theory")):
        cube[variable].values[0] = value
    save(draw(name, cube, **options), cube, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
