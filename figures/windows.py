"""Lines over time, in windows of equal width: the part that figures over time share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from batchcube.results.overload import WORDS
from batchcube.results.statistics import Interval

from . import style
from .curves import line_names, line_places
from .reading import View

Course = tuple[NDArray[np.floating], Interval]
TIME = "time since the start (s)"


def draw_over_time(
    seen: View, rows: dict[str, str], width_mm: float, beside: Callable[[Axes, str], None] | None = None
) -> Figure:
    """Draw one panel per row (variable: label) over a common time axis, one line per value of the line axis.

    `beside` adds to the panel of a variable what the vertical axis must have room for.
    """
    figure, axes = style.panels(len(rows), 1, width_mm=width_mm, height_mm=30)
    for panel, (variable, label) in zip(axes[:, 0], rows.items(), strict=True):
        drawn = [course(seen, variable, at) for at in line_places(seen)]
        # Where all lines saw the same requests, one line says it better than five on top of each other.
        draw_courses(seen, panel, drawn[:1] if variable == "arrivals" and _all_same(drawn) else drawn)
        if beside is not None:
            beside(panel, variable)
        style.from_zero(panel)
        panel.set_ylabel(label)
        if panel is not axes[-1, 0]:
            panel.sharex(axes[-1, 0])
            panel.tick_params(labelbottom=False)
    _end_where_nothing_happens(list(axes[:, 0]))
    axes[-1, 0].set_xlabel(TIME)
    figure.align_ylabels(list(axes[:, 0]))
    return figure


def _end_where_nothing_happens(axes: Sequence[Axes]) -> None:
    """End the time axis behind the last window in which any line is above zero."""
    last, end = 0.0, 0.0
    for panel in axes:
        for line in panel.get_lines():
            x, y = (np.asarray(values, dtype=float) for values in line.get_data())
            if x.size < 2 or line.get_transform() != panel.transData:
                continue
            end = max(end, float(x[-1]))
            alive = np.flatnonzero(np.isfinite(y) & (y > 0.0))
            last = max(last, float(x[min(alive[-1] + 1, x.size - 1)]) if alive.size else 0.0)
    if 0.0 < last < 0.9 * end:
        axes[-1].set_xlim(0, last)


def draw_courses(seen: View, panel: Axes, drawn: Sequence[Course]) -> None:
    """Draw one line over time per value of the line axis, or a grey one that all of them share."""
    names = line_names(seen)
    looks = [style.look(i, name) for i, name in enumerate(names)] if len(drawn) == len(names) else [style.SHARED]
    for i, ((time, interval), look) in enumerate(zip(drawn, looks, strict=True)):
        count = time.size
        # Every few windows a marker, each line at its own, tells lines apart without colour.
        every = max(1, count // 8)
        style.line(
            panel,
            time,
            interval,
            None,
            names[i],
            look,
            mark_every=(i * every // len(names), every),
        )
    panel.set_xlim(left=0)


def course(seen: View, variable: str, at: dict[str, int]) -> Course:
    """Return the windows' middles and a variable's interval in them, each (window,)."""
    width = float(seen.array("window_width_s", **at))
    time = (np.arange(seen.cube.sizes["window"]) + 0.5) * width
    if variable == "arrivals":
        return time, seen.mean(seen.array("window_arrivals", **at) / width, (0.0, np.inf))
    return time, seen.interval(variable, **at)


def _all_same(courses: Sequence[Course]) -> bool:
    first_time, first = courses[0]
    return all(
        np.array_equal(time, first_time) and np.array_equal(interval.estimate, first.estimate, equal_nan=True)
        for time, interval in courses[1:]
    )


def run_handles(seen: View) -> list[Artist]:
    """Return the legend's lines; a run that is not steady as a whole is named so, its windows are what they are."""
    handles: list[Artist] = []
    if seen.lines:
        for i, (name, at) in enumerate(zip(line_names(seen), line_places(seen), strict=True)):
            word = WORDS[str(seen.queue(**at))]
            handles.append(style.line_handle(f"{name} ({word})" if word else name, style.look(i, name)))
    return handles


def band_marks(seen: View) -> list[Artist]:
    """Return the legend's entry of the bands, none for a single replication."""
    return [style.band_handle()] if seen.replications > 1 else []


def said_of_windows(seen: View) -> str:
    """Say how wide the windows are, and that a single line is overloaded or may be."""
    widths = np.unique(seen.array("window_width_s").round(6))
    width = f"{widths[0]:.4g}" if widths.size == 1 else f"{widths[0]:.4g} to {widths[-1]:.4g}"
    word = WORDS[str(seen.queue())] if seen.lines is None else ""
    return f"Each point is a window of {width} s." + (f" The run is {word}." if word else "")
