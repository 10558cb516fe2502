"""Throughput and latency against the arrival rate."""

from __future__ import annotations

from matplotlib.figure import Figure
from xarray import Dataset

from batchcube.results.overload import OVERLOADED

from . import style
from .curves import (
    LATENCY_THEORY,
    THROUGHPUT_THEORY,
    THROUGHPUTS,
    draw_curves,
    draw_limit,
    latency_scale,
    line_handles,
    line_names,
    line_places,
    mark_handles,
)
from .reading import BINS, MODE, PREDICTOR, RATE, SERVERS, VARIANT, Figured, Select, View, view

_LINES = (BINS, MODE, PREDICTOR, VARIANT)


def throughput_vs_rate(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    quantity: str = "throughput_requests_per_s",
    width_mm: float = style.SINGLE_COLUMN_MM,
) -> Figure:
    """Draw throughput against the arrival rate, one line per number of bins or mode ([MB] Fig. 3 and 9a)."""
    figured.check("quantity", quantity, THROUGHPUTS)
    seen = view(figured, cube, select, needs=[quantity], x=RATE, lines=_LINES, lines_named=lines)
    figure, axes = style.panels(width_mm=width_mm, height_mm=62)
    panel = axes[0, 0]
    token = quantity == "throughput_tokens_per_s"
    theory = draw_curves(seen, panel, quantity, theory="" if token else "theory_throughput_requests_per_s")
    limit = not token and theory and draw_limit(seen, panel)
    style.from_zero(panel)
    marks = mark_handles(seen, theory=[THROUGHPUT_THEORY] if theory else [], limit=limit)
    caption = seen.caption(_first_overloads(seen))
    title = "Throughput against arrival rate"
    return style.finish(figure, title, seen.subtitle(), line_handles(seen), marks, caption)


def latency_vs_rate(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    width_mm: float | None = None,
) -> Figure:
    """Draw mean latency against the arrival rate, a panel per number of servers ([MB] Fig. 4, 6 and 9b)."""
    needs = ["latency_mean_s"]
    seen = view(figured, cube, select, needs=needs, x=RATE, lines=_LINES, lines_named=lines, panels=SERVERS)
    count = len(seen.panels.values) if seen.panels else 1
    columns = min(count, 2)
    width_mm = width_mm or (style.SINGLE_COLUMN_MM if columns == 1 else style.DOUBLE_COLUMN_MM)
    figure, axes = style.panels(-(-count // columns), columns, width_mm=width_mm, height_mm=62)
    theory = False
    for place, panel in enumerate(axes.flat):
        if place >= count:
            panel.set_axis_off()
            continue
        theory |= draw_curves(seen, panel, "latency_mean_s", theory="theory_latency_s", panel=place)
        if seen.panels:
            panel.set_title(seen.panels.names()[place])
    drawn = list(axes.flat)[:count]
    latency_scale(drawn, seen.interval("latency_mean_s").estimate)
    for panel in drawn:
        if panel.get_yscale() == "linear":
            style.from_zero(panel)
    marks = mark_handles(seen, theory=[LATENCY_THEORY] if theory else [])
    caption = seen.caption(_first_overloads(seen))
    title = "Mean latency against arrival rate"
    return style.finish(figure, title, seen.subtitle(), line_handles(seen), marks, caption)


def _first_overloads(seen: View) -> str:
    """Say from which rate on each line is overloaded."""
    assert seen.x is not None
    said = []
    for place in range(len(seen.panels.values) if seen.panels else 1):
        where = f"{seen.panels.names()[place]}: " if seen.panels else ""
        firsts = []
        for name, at in zip(line_names(seen), line_places(seen, place), strict=True):
            overloaded = seen.queue(**at) == OVERLOADED
            if overloaded.any():
                firsts.append(f"{name + ' ' if seen.lines else ''}{seen.x.positions[int(overloaded.argmax())]:.4g}")
        if firsts:
            said.append(where + ", ".join(firsts))
    return f"Lowest {seen.x.title} that is overloaded: {'; '.join(said)}." if said else ""
