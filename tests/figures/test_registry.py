"""All figures: drawn by name, saved, described."""

import numpy as np
import pytest

from batchcube.figures.registry import calibration_names, draw, names, save
from helpers.artists import legend_labels, said, texts
from helpers.serving_cubes import MAKERS, REPLICATIONS

# What each figure is drawn from: axes of the example cube, options.
EXAMPLES = {
    "lines": (("bins", "rate"), {"y": "latency_p90_s"}),
    "serving-times": (("mode", "rate"), {"statistic": "p90"}),
    "time-split": (("bins", "rate"), {}),
    "frontier": (("mode", "rate"), {}),
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


@pytest.mark.parametrize("name", EXAMPLES)
def test_one_replication_gets_no_interval(name, make_cube):
    axes, options = EXAMPLES[name]
    figure = draw(name, make_cube(axes=axes, replications=1), **options)
    for panel in figure.axes:
        assert not [c for c in panel.collections if c.get_label().endswith("95 % interval")]
        assert any(np.isfinite(np.asarray(line.get_ydata(), float)).any() for line in panel.get_lines())
    assert "95 % interval" not in legend_labels(figure)
    told = said(figure)
    assert "One replication of 400 requests: no interval can be given." in told


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
