"""What happens over time, in windows of equal width."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from xarray import Dataset

from batchcube.results.overload import WORDS
from batchcube.results.statistics import Interval

from . import style
from .curves import line_names, line_places
from .reading import BINS, MODE, PREDICTOR, VARIANT, Figured, Select, View, view

Course = tuple[NDArray[np.floating], Interval]
TIME = "time since the start (s)"
_NO_SIGNAL = "the cube has no controller signal over time: no mode with policy.sla was run"
_NO_VIOLATIONS = "the cube has no SLA violations over time: report.request_sla_s was not set"


def sla_violation_over_time(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    width_mm: float = style.DOUBLE_COLUMN_MM,
) -> Figure:
    """Draw arrival rate, share of requests over the SLA and queue length over time."""
    variable = "window_request_sla_violation_fraction"
    needs = ["window_arrivals", "window_width_s", variable, "window_queue_length_mean"]
    if variable in cube and not bool(cube[variable].notnull().any()):
        raise figured.lacks(_NO_VIOLATIONS)
    seen = view(figured, cube, select, needs=needs, lines=(MODE, VARIANT, BINS, PREDICTOR), lines_named=lines)
    if not np.isfinite(seen.array(variable)).any():
        raise figured.lacks(_NO_VIOLATIONS)
    rows = {
        "arrivals": "arrivals\n(requests/s)",
        variable: "SLA violations\n(share of requests)",
        "window_queue_length_mean": "queue length\n(requests)",
    }
    figure = draw_over_time(seen, rows, width_mm)
    caption = seen.caption(said_of_windows(seen))
    return style.finish(
        figure, "SLA violation over time", seen.subtitle(), run_handles(seen), band_marks(seen), caption
    )


def controller_step(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    width_mm: float = style.DOUBLE_COLUMN_MM,
) -> Figure:
    """Draw how the SLA controller follows a change of load: b_target, b_SLA, signal and violations over time."""
    rows = {
        "arrivals": "arrivals\n(requests/s)",
        "window_batch_target_mean": "target b\n(requests)",
        "window_batch_sla_bound_mean": "b_SLA\n(requests)",
        "window_signal_mean_s": "signal\n(s)",
        "window_request_sla_violation_fraction": "SLA violations\n(share of requests)",
    }
    needs = ["window_arrivals", "window_width_s", *list(rows)[1:]]
    if "window_signal_mean_s" in cube and not bool(cube["window_signal_mean_s"].notnull().any()):
        raise figured.lacks(_NO_SIGNAL)
    seen = view(figured, cube, select, needs=needs, lines=(VARIANT, MODE), lines_named=lines)
    if not np.isfinite(seen.array("window_signal_mean_s")).any():
        raise figured.lacks(_NO_SIGNAL)
    violations = "window_request_sla_violation_fraction"
    if not np.isfinite(seen.array(violations)).any():
        del rows[violations]
    figure = draw_over_time(seen, rows, width_mm)
    marks = band_marks(seen)
    target = seen.setting("policy.sla.target_s")
    if isinstance(target, int | float):
        panel = figure.axes[list(rows).index("window_signal_mean_s")]
        style.limit(panel, float(target), "SLA target")
        marks.append(style.limit_handle("SLA target of the controller"))
    title = "SLA controller under a change of load"
    return style.finish(figure, title, seen.subtitle(), run_handles(seen), marks, seen.caption(said_of_windows(seen)))


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
    axes[-1, 0].set_xlabel(TIME)
    figure.align_ylabels(list(axes[:, 0]))
    return figure


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
