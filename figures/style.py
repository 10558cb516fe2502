"""How every figure looks: page geometry, palette, interval bands, theory lines, and marks of what is not steady."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any, NamedTuple

import matplotlib.style
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from batchcube.errors import printable
from batchcube.results.overload import CANNOT_TELL, OVERLOADED, STEADY
from batchcube.results.statistics import Interval
from batchcube.results.text import papers_of, shortened

SINGLE_COLUMN_MM = 85.0
DOUBLE_COLUMN_MM = 178.0

# Colours that differ in lightness (CIE L* 29, 71, 42, 62, 50, 21, 0), so that they stay apart in grey, and for readers
# who do not see red, green or blue: of all choices from the palettes of Okabe and Ito, Tol, and ColorBrewer the one
# whose nearest two are farthest apart (L* by 8 or more, and 17 or more in CIE Lab under each kind of vision).
_BLUE, _GOLD, _PURPLE, _SKY = "#004488", "#E69F00", "#AA3377", "#6699CC"
_GREEN, _BROWN, _BLACK = "#228833", "#661100", "#000000"
COLOURS = (_BLUE, _GOLD, _PURPLE, _SKY, _GREEN, _BROWN, _BLACK)
"""Colours of lines, in their order."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
MOST_LINES = len(_MARKERS)
"""Lines that differ by their markers."""
GREY = "#555555"
_MOST_TEXT = 6000  # characters
_MOST_LINES = 6  # of the caption below a figure
OF_WHOLE = "Of the whole cube:"
"""After this a caption has notes that are not about what is drawn alone."""
_MORE = "`batchcube show` has more to say."
_NOTEBOOK_DPI = 150
_LETTER = 0.5  # of the size of a text: about how wide its letters are, spaces included
_BELOW_A_PANEL = 0.45  # inches of its row that its ticks and the label of its x axis take
_DASHED = (0, (5, 2.5))
_DASH_DOT = (0, (6, 2, 1, 2))
# Points that are not known to be steady: how their markers are filled, and the line that joins them to others.
_UNSTEADY: dict[str, tuple[dict[str, Any], Any]] = {
    OVERLOADED: ({"markerfacecolor": "white"}, ":"),
    CANNOT_TELL: ({"fillstyle": "left", "markerfacecoloralt": "white"}, (0, (2.5, 1.2))),
}
_SAID = {OVERLOADED: "overloaded: not a steady state", CANNOT_TELL: "cannot tell whether overloaded"}

_RC: dict[str, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "legend.columnspacing": 1.4,
    "legend.borderpad": 0.0,
    "legend.borderaxespad": 0.0,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.0,
    "lines.markeredgewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "savefig.dpi": 300,
    # Titles, labels and notes are anybody's: a dollar in them is a dollar. No text here is mathematics.
    "text.parse_math": False,
    # Hinted, letters are as wide as the resolution has it, and a line that fits on a screen does not on paper.
    "text.hinting": "no_hinting",
    # Text stays text, and ids do not depend on the run, so that the same cube gives the same file.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "batchcube",
}


_FOR_PAPER: ContextVar[bool] = ContextVar("for_paper", default=False)
# What figures call by symbols, as mathematics has them.
_SYMBOLS = {
    "B_min": r"$B_{\mathrm{min}}$",
    "B_max": r"$B_{\mathrm{max}}$",
    "b_mem": r"$b_{\mathrm{mem}}$",
    "b_SLA": r"$b_{\mathrm{SLA}}$",
    "b_t": "$b_t$",
    "c_max": r"$c_{\mathrm{max}}$",
    "ε_M": r"$\varepsilon_M$",
    "α/2": r"$\alpha/2$",
    "τ(b)": r"$\tau(b)$",
    "p_e": "$p_e$",
}


@contextmanager
def styled(*, paper: bool = False) -> Iterator[None]:
    """Draw inside with the figures' settings, whatever the user's matplotlibrc says.

    For a `paper` figures have no title, subtitle and caption, and their symbols are typeset.
    """
    token = _FOR_PAPER.set(paper)
    try:
        with matplotlib.style.context(["default", _RC]):
            yield
    finally:
        _FOR_PAPER.reset(token)


class Look(NamedTuple):
    """The colour and marker of one line."""

    colour: str
    marker: str


_PRINTED: dict[str, Any] = {"marker": "x", "linestyle": "none", "markersize": 5, "markeredgewidth": 0.8}
_MODES = {
    "fifo_fixed": Look(_BLACK, "o"),
    "fifo_greedy": Look(_PURPLE, "v"),
    "multi_bin_only": Look(_BLUE, "s"),
    "dynamic_only": Look(_GOLD, "^"),
    "multi_bin_dynamic": Look(_GREEN, "D"),
}


SHARED = Look(GREY, "None")
"""One line that stands for all, where all are the same."""


def look(index: int, name: str = "") -> Look:
    """Return the look of line `index`; a batching mode looks the same in every figure.

    A name that starts with a mode ("multi_bin_only 4 bins") has the mode's colour and a marker of its own.
    """
    mode, space, _ = name.partition(" ")
    if space and mode in _MODES:
        return Look(_MODES[mode].colour, _MARKERS[index % len(_MARKERS)])
    return _MODES.get(name, Look(COLOURS[index % len(COLOURS)], _MARKERS[index % len(_MARKERS)]))


class Drawn(Figure):
    """A figure that a notebook shows by itself, once, with nothing of pyplot behind it."""

    said: str = ""
    """Title, subtitle and the whole caption, a paragraph each."""
    for_paper: bool = False
    """Whether it is drawn without them."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with styled():
            self.savefig(buffer, format="png", dpi=_NOTEBOOK_DPI)
        return buffer.getvalue()


def panels(rows: int = 1, columns: int = 1, *, width_mm: float, height_mm: float) -> tuple[Figure, NDArray[Any]]:
    """Return a figure `width_mm` wide with (rows, columns) axes, each row `height_mm` high."""
    figure = Drawn(figsize=(_inches(width_mm), _inches(rows * height_mm)))
    FigureCanvasAgg(figure)
    figure.set_layout_engine(ConstrainedLayoutEngine(h_pad=0.03, w_pad=0.04))
    return figure, np.asarray(figure.subplots(rows, columns, squeeze=False))


def finish(
    figure: Figure, title: str, subtitle: str, lines: Sequence[Artist], marks: Sequence[Artist], caption: str
) -> Figure:
    """Add title and legends above the panels and the caption below, making the page taller by what they need.

    The legend of the lines comes first, below it that of the marks (theory, interval, overload). Of a caption of many
    lines the first are shown. A figure for a paper has the legends alone: its text is kept in `Drawn.said`.
    """
    assert isinstance(figure, Drawn)
    width, height = figure.get_size_inches()
    edge = _inches(1.5)
    papers = papers_of(f"{title} {subtitle} {caption}")
    title, subtitle, caption = printable(title), printable(subtitle), printable(caption)
    figure.said = "\n\n".join(part for part in (title, subtitle, f"{caption} {papers}".strip()) if part)
    figure.for_paper = _FOR_PAPER.get()
    if figure.for_paper:
        title = subtitle = caption = papers = ""
        for artist in figure.findobj(Text):
            _typeset(artist)
    _break_labels(figure, height)
    above: list[tuple[float, str, float, str]] = []
    top = edge
    for text, size, weight in ((title, 9.0, "bold"), (subtitle, 8.0, "normal")):
        for words in _wrapped(figure, text, size, weight, width - 2 * edge):
            above.append((top, words, size, weight))
            top += 1.3 * size / 72
    legends: list[tuple[float, Legend]] = []
    for handles in (lines, marks):
        legend = _legend(figure, handles, width - 2 * edge)
        if legend is not None:
            legends.append((top + _inches(1.0), legend))
            top += legend.get_window_extent().height / figure.dpi + _inches(1.0)
    top += _inches(1.0)
    below = _caption_lines(figure, caption, papers, width - 2 * edge)
    bottom = len(below) * 1.3 * 7.0 / 72 + (edge + _inches(0.5) if below else 0.0)
    total = top + height + bottom
    figure.set_size_inches(width, total)
    for offset, text, size, weight in above:
        figure.text(edge / width, 1 - offset / total, text, size=size, weight=weight, va="top", ha="left")
    for offset, legend in legends:
        legend.set_bbox_to_anchor((edge / width, 1 - offset / total))
    if below:
        figure.text(edge / width, edge / total, "\n".join(below), size=7, va="bottom", ha="left", linespacing=1.25)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0.0, bottom / total, 1.0 - edge / width, height / total))
    return figure


def _caption_lines(figure: Figure, caption: str, papers: str, width: float) -> list[str]:
    """Break a caption into lines, then `papers`; of notes on the whole cube those that a few lines have room for.

    Two lines of notes have room in any case.
    """
    own, whole, notes = caption.partition(OF_WHOLE)
    lines = _wrapped(figure, f"{caption} {papers}".strip(), 7.0, "normal", width)
    most = max(_MOST_LINES, len(_wrapped(figure, f"{own}{papers}", 7.0, "normal", width)) + 2)
    while len(lines) > most and notes:
        notes = notes.rpartition(". ")[0]
        told = f"{whole}{notes}. " if notes else ""
        lines = _wrapped(figure, f"{own}{told}{_MORE} {papers}".strip(), 7.0, "normal", width)
    return lines


def _typeset(text: Text) -> None:
    """Set the symbols of a text as mathematics; one with a dollar of its own stays as it is."""
    said = text.get_text()
    if "$" in said or not any(symbol in said for symbol in _SYMBOLS):
        return
    for symbol, typeset in _SYMBOLS.items():
        said = re.sub(rf"(?<!\w){re.escape(symbol)}(?!\w)", typeset.replace("\\", r"\\"), said)
    text.set_text(said)
    text.set_parse_math(True)


def line(
    axes: Axes,
    x: NDArray[Any],
    interval: Interval,
    queue: NDArray[np.str_] | None,
    label: str,
    look: Look,
    *,
    mark_every: int | tuple[int, int] = 1,
) -> None:
    """Draw means with their interval band; `queue` (x,) says which points are steady, None that it does not matter.

    Points that are overloaded are hollow and joined by dots, those that cannot be told are half filled and joined by
    dashes. The steady line carries `label`, the others `label, overloaded` and `label, cannot tell`, the band `label,
    95 % interval`; each line has every x, and NaN in y where another one draws.
    """
    mean = np.asarray(interval.estimate, dtype=float)
    queue = np.full(mean.shape, STEADY) if queue is None else queue
    style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markevery": mark_every, "zorder": 3}
    axes.plot(x, np.where(queue == STEADY, mean, np.nan), label=label, linestyle="-", **style)
    drawn = queue == STEADY
    for state, (filled, dashes) in reversed(_UNSTEADY.items()):
        here = queue == state
        drawn |= here
        if not here.any():
            continue
        # As far as the neighbours that are drawn already: no stretch between two points is drawn twice.
        near = here.copy()
        near[1:] |= here[:-1]
        near[:-1] |= here[1:]
        style["markevery"] = [int(i) for i in np.flatnonzero(here)]
        y = np.where(near & drawn, mean, np.nan)
        axes.plot(x, y, label=f"{label}, {state}", linestyle=dashes, **style, **filled)
    band(axes, x, interval, label, look)


OPEN = 1e3
"""Length of an open whisker, in units of the largest number of its line."""


def band(axes: Axes, x: NDArray[Any], interval: Interval, label: str, look: Look) -> None:
    """Fill between the interval's ends (x,), or draw whiskers where a point has no neighbour to fill to.

    An interval that is open above (`high` infinite) is a whisker of `OPEN` times what is drawn: the panel has to end
    before.
    """
    low, high = np.asarray(interval.low, dtype=float), np.asarray(interval.high, dtype=float)
    is_open = np.isfinite(low) & np.isposinf(high)
    known = np.isfinite(low) & (np.isfinite(high) | is_open)
    if not known.any():
        return
    name = f"{label}, 95 % interval"
    closed = np.where(is_open, np.nan, high)
    axes.fill_between(x, low, closed, color=look.colour, alpha=0.22, linewidth=0, label=name, zorder=2)
    whiskers = known if known.size <= 12 else is_open
    if whiskers.any():
        ends = np.where(is_open, OPEN * np.nanmax([closed, interval.estimate]), high)
        axes.vlines(x[whiskers], low[whiskers], ends[whiskers], color=look.colour, linewidth=0.9, zorder=2, label=name)


def dot(axes: Axes, position: float, interval: Interval, queue: str, label: str, look: Look) -> None:
    """Draw one value as a dot on row `position` with a whisker over its interval, filled as the points of a `line`."""
    mean, low, high = (float(part) for part in interval[:3])
    if np.isfinite(low) and np.isfinite(high):
        name = f"{label}, 95 % interval"
        axes.hlines(position, low, high, color=look.colour, linewidth=1.4, zorder=2, label=name)
    style: dict[str, Any] = {"marker": look.marker, "markersize": 5, **filling(queue)}
    axes.plot([mean], [position], color=look.colour, linestyle="none", zorder=3, label=label, **style)


def printed(axes: Axes, x: Sequence[float], y: Sequence[float], label: str, colour: str) -> None:
    """Draw what a paper prints as thin crosses that leave what lies below them to be seen."""
    axes.plot(x, y, color=colour, label=label, zorder=4, **_PRINTED)


def printed_handle(label: str, colour: str) -> Line2D:
    """Return the legend's entry of `printed`."""
    return Line2D([], [], color=colour, label=label, **_PRINTED)


def theory(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], label: str, colour: str) -> bool:
    """Draw a dashed theory line where `y` (x,) is finite and say whether there was any."""
    y = np.asarray(y, dtype=float)
    if not np.isfinite(y).any():
        return False
    # Darker than the line it belongs to and above it, so that it shows where both agree.
    dark = [0.5 * part for part in to_rgb(colour)]
    axes.plot(x, y, color=dark, linestyle=_DASHED, linewidth=1.0, label=f"{label}, theory", zorder=3.5)
    return True


def bars(axes: Axes, edges: NDArray[np.float64], interval: Interval, label: str, look: Look) -> None:
    """Draw shares (bar,) between their edges (bar + 1,), each with a whisker over its interval."""
    axes.stairs(interval.estimate, edges, fill=True, color=look.colour, alpha=0.65, linewidth=0.6, label=label)
    known = np.isfinite(interval.low) & np.isfinite(interval.high) & (interval.estimate > 0)
    name = f"{label}, 95 % interval"
    middle = 0.5 * (edges[:-1] + edges[1:])
    if known.any():
        width = 0.9 if known.size <= 16 else 0.5
        axes.vlines(middle[known], interval.low[known], interval.high[known], color=_BLACK, linewidth=width, label=name)


def mean_mark(axes: Axes, value: float) -> None:
    """Mark a mean on the horizontal axis with a black triangle at the top of the panel."""
    style: dict[str, Any] = {"color": _BLACK, "marker": "v", "linestyle": "none", "clip_on": False}
    axes.plot([value], [1.0], transform=axes.get_xaxis_transform(), label="mean", **style)


def limit(axes: Axes, value: float, label: str) -> None:
    """Draw a dash-dotted black line across the panel at `value`."""
    axes.axhline(value, color=_BLACK, linestyle=_DASH_DOT, linewidth=0.9, label=label, zorder=2.5)


def zero(axes: Axes, *, vertical: bool = False) -> None:
    """Draw the line of no difference."""
    (axes.axvline if vertical else axes.axhline)(0.0, color=GREY, linewidth=0.8, zorder=1.5, label="no difference")


def line_handle(label: str, look: Look) -> Line2D:
    """Return the legend's entry of a line."""
    return Line2D([], [], color=look.colour, marker=look.marker, label=label)


def theory_handle(source: str) -> Line2D:
    """Return the legend's entry of the dashed lines, naming their source."""
    return Line2D([], [], color=_BLACK, linestyle=_DASHED, linewidth=1.0, label=source)


def limit_handle(source: str) -> Line2D:
    """Return the legend's entry of the dash-dotted line, naming its source."""
    return Line2D([], [], color=_BLACK, linestyle=_DASH_DOT, linewidth=0.9, label=source)


def band_handle() -> Patch:
    """Return the legend's entry of the interval bands."""
    return Patch(facecolor=GREY, alpha=0.3, linewidth=0, label="95 % interval")


def whisker_handle(colour: str = GREY) -> Line2D:
    """Return the legend's entry of intervals drawn as whiskers."""
    return Line2D([], [], color=colour, linewidth=1.4, label="95 % interval")


def mean_handle() -> Line2D:
    """Return the legend's entry of `mean_mark`."""
    return Line2D([], [], color=_BLACK, marker="v", linestyle="none", label="mean")


def filling(queue: str) -> dict[str, Any]:
    """Return how the marker of a point is filled: whole where it is steady."""
    return _UNSTEADY[queue][0] if queue in _UNSTEADY else {}


def mark_handle(label: str, queue: str) -> Line2D:
    """Return a legend's entry of grey points whose queue does `queue`."""
    return Line2D([], [], color=GREY, marker="o", linestyle="none", label=label, **filling(queue))


def queue_handles(queue: NDArray[np.str_]) -> list[Artist]:
    """Return the legend's entries of the points that are not known to be steady, each only where there are some."""
    return [
        Line2D([], [], color=GREY, marker="o", linestyle=dashes, label=_SAID[state], **filled)
        for state, (filled, dashes) in _UNSTEADY.items()
        if (queue == state).any()
    ]


def integer_ticks(axes: Axes) -> None:
    """Put the horizontal ticks on whole numbers."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def name_ticks(axes: Axes, names: Sequence[str]) -> None:
    """Name the places 0, 1, ... of the horizontal axis, slanted where the names would touch."""
    page = axes.get_figure(root=True)
    assert page is not None
    room_mm = 25.4 * page.get_figwidth() * axes.get_position().width
    # A letter of 8 points is about 1.6 mm wide.
    crowded = 1.6 * sum(len(name) + 2 for name in names) > room_mm
    axes.set_xticks(range(len(names)), names, rotation=30 if crowded else 0, ha="right" if crowded else "center")


def from_zero(axes: Axes, values: NDArray[Any] | None = None) -> None:
    """Start a linear vertical axis at zero, with room above the largest value.

    With the `values` that matter, intervals that reach far above all of them are cut off.
    """
    if axes.get_yscale() != "linear":
        return
    top = axes.get_ylim()[1]
    if values is not None and np.isfinite(values).any():
        top = min(top, 1.6 * float(np.nanmax(values[np.isfinite(values)])))
    axes.set_ylim(0, 1.06 * top)


def short_numbers(axes: Axes) -> None:
    """Put few ticks on the horizontal axis of a narrow panel, without trailing zeros."""
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}")))


def big_numbers(axes: Axes) -> None:
    """Write the vertical axis's large counts with k and M."""
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))


def _inches(mm: float) -> float:
    return mm / 25.4


def _legend(figure: Figure, handles: Sequence[Artist], width: float) -> Legend | None:
    """Place a legend of as few rows as fit into `width` inches."""
    for rows in range(1, len(handles) + 1):
        legend = figure.legend(handles=list(handles), loc="upper left", ncols=-(-len(handles) // rows))
        for text in legend.get_texts() if _FOR_PAPER.get() else ():
            _typeset(text)
        if rows == len(handles) or legend.get_window_extent().width <= width * figure.dpi:
            legend.set_in_layout(False)
            return legend
        legend.remove()
    return None


def _break_labels(figure: Figure, height: float) -> None:
    """Break labels of y axes that would be longer than their panel is high, of a figure of so many inches."""
    for axes in figure.axes:
        spec, label = axes.get_subplotspec(), axes.yaxis.label
        if spec is None or not label.get_text():
            continue
        ratios = np.asarray(spec.get_gridspec().get_height_ratios(), np.float64)
        mine = float(ratios[spec.rowspan.start : spec.rowspan.stop].sum() / ratios.sum())
        room = mine * height - (_BELOW_A_PANEL if axes.get_xlabel() else 0.0)
        size = float(label.get_fontsize())
        lines = (_wrapped(figure, line, size, "normal", room) for line in label.get_text().split("\n"))
        label.set_text("\n".join(chain.from_iterable(lines)))


def _wrapped(figure: Figure, text: str, size: float, weight: str, width: float) -> list[str]:
    """Break `text` into lines no wider than `width` inches; what would fill more than a page is left out."""
    ruler = figure.text(0, 0, "", size=size, weight=weight)

    def fits(words: list[str]) -> bool:
        ruler.set_text(" ".join(words))
        return bool(ruler.get_window_extent().width <= width * figure.dpi)

    words = shortened(text, _MOST_TEXT).split(" ") if text else []
    lines: list[str] = []
    while words:
        # Measuring takes time: from about as many words as have room.
        ends = np.cumsum([len(word) + 1 for word in words])
        count = max(1, int(np.searchsorted(ends, width * 72 / (_LETTER * size))))
        while count < len(words) and fits(words[: count + 1]):
            count += 1
        while count > 1 and not fits(words[:count]):
            count -= 1
        lines.append(" ".join(words[:count]))
        words = words[count:]
    ruler.remove()
    return lines
