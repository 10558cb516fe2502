"""How figures look: colours that stay apart, captions of a few lines, figures for papers."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from batchcube.figures import style
from batchcube.figures.registry import draw, save
from helpers.artists import legend_labels, refusal, said, texts
from helpers.serving_cubes import over_time

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
VISION = {
    "usual": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour, vision):
    """Return CIE L*a*b* of a colour as somebody sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(np.asarray(vision) @ linear, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_colours_stay_apart_in_grey_and_for_all_readers():
    for a, b in itertools.combinations(style.COLOURS, 2):
        grey = abs(lab(a, VISION["usual"])[0] - lab(b, VISION["usual"])[0])
        assert grey >= 8.0, (a, b)
        for name, vision in VISION.items():
            assert np.linalg.norm(lab(a, vision) - lab(b, vision)) >= 17.0, (a, b, name)
    assert max(lab(colour, VISION["usual"])[0] for colour in style.COLOURS) < 75, "dark enough on white"


def test_a_caption_has_few_lines_and_the_papers_stay(make_cube):
    notes = "\n".join(f"note {k} that says something of the cube at some length" for k in range(30))
    cube = make_cube(axes=("bins", "rate"), title="As in [MB] Fig. 3", notes=notes)
    figure = draw("throughput-vs-rate", cube)
    caption = figure.texts[-1].get_text()
    assert len(caption.splitlines()) <= 6
    assert "`batchcube show` has more to say." in caption.replace("\n", " ")
    assert "[MB] is Multi-Bin Batching (arXiv 2412.04504)." in caption.replace("\n", " ")
    assert "Note 29" not in caption
    assert "Note 29" in figure.said


@pytest.mark.parametrize(
    ("figure", "options", "of_times"),
    [
        ("latency-vs-rate", {}, True),
        ("serving-times", {"x": "arrival_rate_per_s"}, True),
        ("lines", {"x": "arrival_rate_per_s", "y": "wait_quantile_s[0.99]"}, True),
        ("modes-compared", {"select": {"arrival_rate_per_s": 8.0}}, True),
        ("lines", {"x": "arrival_rate_per_s", "y": "goodput_fraction"}, False),
        ("throughput-vs-rate", {}, False),
    ],
)
def test_whom_times_leave_out_is_said_below_them(make_cube, figure, options, of_times):
    cube = make_cube(axes=("mode", "rate"))
    told = "of the requests were never served: times and their quantiles are of what was served."
    assert told not in draw(figure, cube, **options).said
    cube["missed"][{"arrival_rate_per_s": 1, "mode": 0}] = 100
    caption = draw(figure, cube, **options).said
    assert (f"p to 20 % {told}" in caption) is of_times
    # Of the points that are drawn.
    others = draw(figure, cube, **{**options, "select": {"arrival_rate_per_s": [4.0, 12.0]}}) if not options else None
    assert others is None or told not in others.said


@pytest.mark.parametrize(("columns", "width"), [(1, 85.0), (2, 178.0)])
def test_a_figure_for_a_paper_has_its_caption_beside_it(make_cube, tmp_path, columns, width):
    cube = make_cube(axes=("bins", "rate"))
    figure = draw("throughput-vs-rate", cube, paper=columns)
    assert texts(figure) == []
    assert figure.get_figwidth() * 25.4 == pytest.approx(width)
    assert "2 bins" in legend_labels(figure)
    (tmp_path / "figure.txt").write_text("notes of one's own")
    for ending in ("pdf", "png", "svg"):
        path = save(figure, cube, tmp_path / f"figure.{ending}")
        assert path.stat().st_size > 1000
    beside = (tmp_path / "figure.caption.txt").read_text()
    usual = draw("throughput-vs-rate", cube)
    assert beside == f"{usual.said}\n"
    assert beside.startswith("Throughput against arrival rate\n\nExample\n\nMeans of 6 replications of 400 requests;")
    assert "Means of 6 replications" in said(usual)
    save(usual, cube, tmp_path / "usual.png")
    assert not (tmp_path / "usual.caption.txt").exists()
    assert (tmp_path / "figure.txt").read_text() == "notes of one's own"


def test_symbols_are_typeset_for_a_paper_alone():
    cube = over_time(("target",))
    figure = draw("controller-bounds", cube, paper=2)
    labels = legend_labels(figure)
    assert r"$B_{\mathrm{min}}$, $B_{\mathrm{max}}$ = 1, 128" in labels
    assert figure.axes[0].get_ylabel() == r"SLA bound $b_{\mathrm{SLA}}$ (requests)"
    assert figure.axes[0].yaxis.label.get_parse_math()
    usual = draw("controller-bounds", cube)
    assert "B_min, B_max = 1, 128" in legend_labels(usual)
    assert not any("$" in text.get_text() for text in usual.findobj(Text))


def test_a_paper_has_one_or_two_columns(make_cube):
    assert "paper = 3: must be 1 or 2 columns" in refusal("throughput-vs-rate", make_cube(), paper=3)
