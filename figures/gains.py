"""What one policy gains over another, as a map over two axes."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from xarray import Dataset

from batchcube.errors import suggestion
from batchcube.results.labelled import error_of, level_of
from batchcube.results.overload import CANNOT_TELL, OVERLOADED, STEADY, worse
from batchcube.results.statistics import paired_ratio
from batchcube.results.variables import REGISTRY

from . import style
from .capacity import CAPACITY, search_caption, searched
from .reading import RATE, FigureAxis, Figured, Select, View, number_of, view
from .settings import axes_left, compared_axis, listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

# Of the lines of printed gains, which differ in nothing else.
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 1.5, 1, 1.5)))
# What is said of two points that are compared.
_EITHER = {
    OVERLOADED: "either is overloaded: not a steady state",
    CANNOT_TELL: "cannot tell whether either is overloaded",
}


class _Gain(NamedTuple):
    """What one policy gains over another in cells (row, column)."""

    word: str
    """"gain", or "change": more latency is no gain."""
    base: str
    other: str
    percent: NDArray[np.float64]
    known: NDArray[np.bool_]
    unsure: NDArray[np.bool_]
    """Where the interval holds 0."""
    left_out: bool
    """Whether some replications have no value of both."""
    either: NDArray[np.str_]
    """What the queues of both are together, where that matters."""

    @property
    def marked(self) -> list[str]:
        """The states that some cells have, and not all."""
        states = ((state, self.either == state) for state in _EITHER)
        return [state for state, here in states if here.any() and not here.all()]


def gain_map(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    x: str | None = None,
    quantity: str = "throughput_tokens_per_s",
    baseline: Any = None,
    against: Any = None,
    printed: Any = None,
    width_mm: float | None = None,
) -> Figure:
    """Draw the relative gain of one policy over another as a map over two axes, with the line of a printed gain.

    `lines` is the axis of the policies, `against` the one whose gain over `baseline` is drawn, `x` the horizontal axis,
    `printed` a gain in %, or several.
    """
    figured.check("quantity", quantity, _single_numbers(cube))
    levels = _levels(figured, printed)
    left = axes_left(cube, select)
    compared = lines or compared_axis(cube, left)
    others = [name for name in left if name != compared]
    if compared is None or len(others) < 2:
        has = ", ".join(left) or "none"
        raise figured.lacks(f"needs an axis of policies and two more, and the cube varies {has}")
    if x is not None and x not in others:
        raise figured.refuses(f"x = {x}: {suggestion(x, others)}")
    rates = [name for name in others if set(left[name]) & set(RATE)]
    across = x or (rates or others)[0]
    up = next(name for name in others if name != across)
    given = searched(cube)
    seen = view(figured, given, select, needs=[quantity], x=left[across], lines_named=compared, panels=left[up])
    assert seen.x is not None
    assert seen.panels is not None
    assert seen.lines is not None
    gain = _gain(figured, seen, quantity, *_pair(figured, seen.lines, baseline, against))
    rows, columns = gain.percent.shape
    width_mm = width_mm or (style.SINGLE_COLUMN_MM if columns <= 6 else style.DOUBLE_COLUMN_MM)
    figure, axes = style.panels(width_mm=width_mm, height_mm=max(48.0, 18.0 + 8.0 * rows))
    panel = axes[0, 0]
    _paint(figure, panel, gain, numbers=width_mm / columns >= 10.0)
    crossed = _cross(panel, gain, levels)
    _name_places(panel, seen.x, seen.panels)
    title = f"{gain.word.capitalize()} in {REGISTRY[quantity].long_name}: {gain.other} over {gain.base}"
    sentences = _sentences(gain, [level for level in levels if level not in crossed], paired=seen.replications > 1)
    caption = search_caption(seen, *sentences) if CAPACITY in cube else seen.caption(*sentences)
    return style.finish(figure, title, seen.subtitle(), [], _marks(gain, crossed), caption)


# Numbers ------------------------------------------------------------------------------------------------------------


def _gain(figured: Figured, seen: View, quantity: str, base: int, other: int) -> _Gain:
    """Return the gain of one of the compared policies over another."""
    values = seen.array(quantity).astype(float)
    of = seen.cube[quantity]
    ratio = paired_ratio(
        values[:, other], values[:, base], confidence=level_of(of), single=seen.of_single, error=error_of(of)
    )
    percent, low, high = (100.0 * (part - 1.0) for part in ratio[:3])
    known = np.isfinite(percent)
    if not known.any():
        raise figured.refuses(f"{quantity} of the baseline is 0 everywhere: there is no relative change")
    queue = seen.queue()
    either = worse(queue[:, base], queue[:, other])
    if not REGISTRY[quantity].steady_state:
        # Throughput under overload is what it is.
        either[:] = STEADY
    assert seen.lines is not None
    names = seen.lines.names()
    return _Gain(
        word="gain" if quantity.startswith(("throughput", "capacity")) else "change",
        base=names[base],
        other=names[other],
        percent=percent,
        known=known,
        unsure=known & ~((low > 0) | (high < 0)) if seen.replications > 1 else np.zeros_like(known),
        left_out=bool((known & (ratio.n < seen.replications)).any()),
        either=either,
    )


# Map ----------------------------------------------------------------------------------------------------------------


def _paint(figure: Figure, panel: Axes, gain: _Gain, *, numbers: bool) -> None:
    """Colour the cells, hatch those that are unsure, mark queues, and write the numbers where there is room."""
    percent, known = gain.percent, gain.known
    # Where nothing is known the grey of the panel shows.
    panel.set_facecolor("#BBBBBB")
    panel.grid(visible=False)
    largest = float(np.abs(percent[known]).max()) or 1.0
    colours, norm = colormaps["PuOr_r"], Normalize(-largest, largest)
    rows, columns = percent.shape
    edges = (np.arange(size + 1) - 0.5 for size in (columns, rows))
    mesh = panel.pcolormesh(*edges, np.ma.masked_invalid(percent), cmap=colours, norm=norm, zorder=1)
    bar = figure.colorbar(mesh, ax=panel, label=f"relative {gain.word} (%)")
    # The colours are those of the whole range on both sides of 0, the bar shows the part that occurs.
    bar.ax.set_ylim(min(0.0, float(percent[known].min())), max(0.0, float(percent[known].max())) or 0.05 * largest)
    for row, column in np.argwhere(gain.unsure):
        panel.add_patch(_hatched((column - 0.5, row - 0.5)))
    for state in gain.marked:
        at_row, at_column = np.nonzero(gain.either == state)
        corner: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 3, **style.filling(state)}
        panel.plot(at_column + 0.36, at_row + 0.34, color=style.GREY, label=state, zorder=4, **corner)
    for row, column in np.argwhere(known & numbers):
        colour = colours(norm(percent[row, column]))
        light = np.dot(colour[:3], (0.299, 0.587, 0.114)) > 0.5
        panel.text(
            column,
            row,
            _signed(percent[row, column]),
            ha="center",
            va="center",
            size=7,
            color="black" if light else "white",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8},
            zorder=3,
        )


def _cross(panel: Axes, gain: _Gain, levels: Sequence[float]) -> dict[float, Any]:
    """Draw the lines of printed gains that occur; return them, each with its dashes."""
    occurs = gain.percent[gain.known]
    crossed = {
        level: _DASHES[place % len(_DASHES)]
        for place, level in enumerate(levels)
        if occurs.min() < level < occurs.max()
    }
    if not crossed:
        return {}
    rows, columns = gain.percent.shape
    grid = (np.arange(columns), np.arange(rows), np.ma.masked_invalid(gain.percent))
    looks: dict[str, Any] = {"colors": "black", "linewidths": 1.4, "linestyles": [*crossed.values()], "zorder": 2}
    drawn = panel.contour(*grid, levels=[*crossed], corner_mask=False, **looks)
    return {level: crossed[level] for level, parts in zip(crossed, drawn.allsegs, strict=True) if any(map(len, parts))}


def _marks(gain: _Gain, crossed: Mapping[float, Any]) -> list[Artist]:
    """Return what the legend explains."""
    marks: list[Artist] = [
        Line2D([], [], label=f"printed {gain.word} of {level:g} %", color="black", linewidth=1.4, linestyle=dashes)
        for level, dashes in crossed.items()
    ]
    if gain.unsure.any():
        marks.append(
            Patch(facecolor="none", edgecolor=style.GREY, hatch="////", linewidth=0, label="95 % interval holds 0")
        )
    return marks + [style.mark_handle(_EITHER[state], state) for state in gain.marked]


# Sentences ----------------------------------------------------------------------------------------------------------


def _sentences(gain: _Gain, missed: Sequence[float], *, paired: bool) -> list[str]:
    """Return what the caption says of the map, and of the printed gains that it has no line of."""
    known, occurs = gain.known, gain.percent[gain.known]
    sentences = [
        f"{gain.word.capitalize()}: mean of {gain.other} over mean of {gain.base}, minus 1, paired by replication "
        f"(common random numbers){'; intervals are those of Fieller' if paired else ''}.",
        "Either is overloaded at every point." if (gain.either == OVERLOADED).all() else "",
        "Whether either is overloaded cannot be told at any point." if (gain.either == CANNOT_TELL).all() else "",
        "" if known.all() else "Grey: no ratio, as one of both is unknown, or the baseline 0.",
        "Replications without a value in both are left out." if gain.left_out else "",
    ]
    if missed:
        span = f"{_signed(occurs.min())} to {_signed(occurs.max())} %"
        sentences.append(f"No line for the printed {gain.word} of {listed(missed)} %: what occurs here is {span}.")
    return sentences


# Options ------------------------------------------------------------------------------------------------------------


def _single_numbers(cube: Dataset) -> list[str]:
    """Return the variables of a cube that hold one number for every replication."""
    return [
        name
        for name, variable in REGISTRY.items()
        if name in cube and variable.replicated and not variable.extra and cube[name].dtype.kind in "iuf"
    ]


def _levels(figured: Figured, printed: Any) -> list[float]:
    """Return the printed gains, one or several, given as numbers or text."""
    parts = printed.split(",") if isinstance(printed, str) else np.ravel([] if printed is None else printed).tolist()
    try:
        return sorted({number_of(part) for part in parts})
    except (TypeError, ValueError):
        raise figured.refuses(f"printed = {printed}: must be a gain in %, or several") from None


def _pair(figured: Figured, axis: FigureAxis, baseline: Any, against: Any) -> tuple[int, int]:
    """Return the places of the baseline (default: the first) and of what is compared with it (default: the other)."""
    base = 0 if baseline is None else _place(figured, axis, "baseline", baseline)
    if against is None and len(axis.values) == 2:
        return base, 1 - base
    others = [value for place, value in enumerate(axis.values) if place != base]
    if against is None:
        raise figured.refuses(f"against: choose one of {', '.join(map(_text, others))}")
    other = _place(figured, axis, "against", against)
    if other == base:
        raise figured.refuses(f"against = {against}: is the baseline; must be one of {', '.join(map(_text, others))}")
    return base, other


def _place(figured: Figured, axis: FigureAxis, option: str, wanted: Any) -> int:
    """Return where a value of an option lies on an axis."""
    for place, value in enumerate(axis.values):
        if value == wanted or _text(value) == _text(wanted):
            return place
    raise figured.refuses(f"{option} = {wanted}: {suggestion(wanted, map(_text, axis.values))}")


def _name_places(panel: Axes, across: FigureAxis, up: FigureAxis) -> None:
    """Name the cells of a map, every few where there are many."""
    panel.set_xlabel(across.title)
    panel.set_ylabel(fill(up.title, 32))
    for axis, named, room in ((panel.xaxis, across, 12), (panel.yaxis, up, 16)):
        names = [_text(value) for value in named.values]
        every = -(-len(names) // room)
        if axis is panel.xaxis and every == 1:
            style.name_ticks(panel, names)
        else:
            axis.set_ticks(range(0, len(names), every), names[::every])
    panel.tick_params(length=0)


def _hatched(corner: tuple[float, float]) -> Rectangle:
    return Rectangle(corner, 1.0, 1.0, fill=False, hatch="////", edgecolor=style.GREY, linewidth=0, zorder=1.5)


def _signed(value: float) -> str:
    rounded = round(float(value), 1)
    return f"{rounded:+.1f}".replace("-", "\N{MINUS SIGN}") if rounded else "0.0"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
