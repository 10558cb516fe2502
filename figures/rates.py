"""Throughput and latency against the arrival rate."""

from __future__ import annotations

from matplotlib.figure import Figure
from xarray import Dataset

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
from .reading import BINS, MODE, RATE, SERVERS, VARIANT, Figured, Select, View, view

_LINES = (BINS, MODE, VARIANT)


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
    panel.set_ylim(bottom=0)
    handles = line_handles(seen) + mark_handles(seen, theory=[THROUGHPUT_THEORY] if theory else [], limit=limit)
    return style.finish(
        figure, "Throughput against arrival rate", seen.subtitle(), handles, seen.caption(_first_overloads(seen))
    )


def latency_vs_rate(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    width_mm: float = style.DOUBLE_COLUMN_MM,
) -> Figure:
    """Draw mean latency against the arrival rate, a panel per number of servers ([MB] Fig. 4, 6 and 9b)."""
    needs = ["latency_mean_s"]
    seen = view(figured, cube, select, needs=needs, x=RATE, lines=_LINES, lines_named=lines, panels=SERVERS)
    count = len(seen.panels.values) if seen.panels else 1
    columns = min(count, 2)
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
            panel.set_ylim(bottom=0)
    handles = line_handles(seen) + mark_handles(seen, theory=[LATENCY_THEORY] if theory else [])
    return style.finish(
        figure, "Mean latency against arrival rate", seen.subtitle(), handles, seen.caption(_first_overloads(seen))
    )


def _first_overloads(seen: View) -> str:
    """Say at which rate each line is overloaded first."""
    assert seen.x is not None
    said = []
    for place in range(len(seen.panels.values) if seen.panels else 1):
        where = f"{seen.panels.names()[place]}: " if seen.panels else ""
        firsts = []
        for name, at in zip(line_names(seen), line_places(seen, place), strict=True):
            overloaded = seen.overloaded(**at)
            if overloaded.any():
                firsts.append(f"{name} {seen.x.positions[int(overloaded.argmax())]:g}")
        if firsts:
            said.append(where + ", ".join(firsts))
    return f"First overloaded {seen.x.title}: {'; '.join(said)}." if said else ""
