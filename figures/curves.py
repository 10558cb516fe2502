"""Lines of one quantity over one axis: the part that most figures share."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from batchcube.results.variables import REGISTRY

from . import style
from .reading import FigureAxis, View, titled

THROUGHPUTS = ("throughput_requests_per_s", "busy_throughput_requests_per_s", "throughput_tokens_per_s")

# Those that a figure calls otherwise than the registry does.
_QUANTITIES = {
    "throughput_requests_per_s": "throughput (requests/s)",
    "busy_throughput_requests_per_s": "throughput of busy servers\n(requests/s)",
    "throughput_tokens_per_s": "throughput (tokens/s)",
}
THROUGHPUT_THEORY = "theory (arXiv 2412.04504, Prop. 4.1)"
LIMIT_THEORY = "limit c_max = B / E[length] (same source)"
LATENCY_THEORY = "theory (arXiv 2412.04504, Lemma 5.1)"


def quantity_label(variable: str) -> str:
    """Return a variable's axis label with its unit."""
    known = REGISTRY[variable]
    units = "requests/s" if variable.endswith("_requests_per_s") else known.units
    return _QUANTITIES.get(variable) or titled(known.long_name, units)


def line_names(view: View) -> list[str]:
    """Return the name of each line; one line that varies nothing is called simulated."""
    return view.lines.names() if view.lines else ["simulated"]


def line_places(view: View, panel: int | None = None) -> list[dict[str, int]]:
    """Return where each line of a panel lies in the cube."""
    at = {} if view.panels is None or panel is None else {view.panels.name: panel}
    if view.lines is None:
        return [at]
    return [{**at, view.lines.name: i} for i in range(len(view.lines.values))]


def line_handles(view: View) -> list[Artist]:
    """Return the legend's entries of the lines, none for a single one."""
    names = line_names(view)
    return [style.line_handle(name, style.look(i, name)) for i, name in enumerate(names)] if view.lines else []


def mark_handles(
    view: View, *, theory: Iterable[str] = (), limit: bool = False, whiskers: bool = False
) -> list[Artist]:
    """Return the legend's entries after the lines: theory, interval and what is not steady, each only where drawn."""
    handles: list[Artist] = [style.theory_handle(source) for source in theory]
    if limit:
        handles.append(style.limit_handle(LIMIT_THEORY))
    if view.replications > 1:
        handles.append(style.whisker_handle() if whiskers else style.band_handle())
    return [*handles, *style.queue_handles(view.queue())]


def draw_curves(view: View, axes: Axes, variable: str, *, theory: str = "", panel: int | None = None) -> bool:
    """Draw one line per value of the view's line axis over its x axis; say whether any theory was drawn."""
    assert view.x is not None
    drawn = False
    for i, (name, at) in enumerate(zip(line_names(view), line_places(view, panel), strict=True)):
        look = style.look(i, name)
        style.line(axes, view.x.positions, view.interval(variable, **at), view.queue(**at), name, look)
        if theory in view.cube:
            drawn |= style.theory(axes, view.x.positions, view.array(theory, **at), name, look.colour)
    x_axis(axes, view.x)
    axes.set_ylabel(quantity_label(variable))
    return drawn


def draw_limit(view: View, axes: Axes) -> bool:
    """Draw the throughput that no number of bins exceeds, where the cube holds one; say whether it does."""
    name = "theory_throughput_limit_requests_per_s"
    if name not in view.cube:
        return False
    values = view.array(name).ravel()
    limits = np.unique(values[np.isfinite(values)].round(9))
    for value in limits:
        style.limit(axes, float(value), LIMIT_THEORY)
    return bool(limits.size)


def x_axis(axes: Axes, axis: FigureAxis) -> None:
    """Label the horizontal axis; labels and few numbers get a tick each, powers are spaced evenly."""
    axes.set_xlabel(axis.title)
    x = axis.positions
    if not axis.numeric:
        style.name_ticks(axes, axis.names())
        axes.set_xlim(x[0] - 0.4, x[-1] + 0.4)
        return
    if x.min() > 0 and x.max() / x.min() >= 16 and x.size <= 8:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(x, [f"{v:g}" for v in x])
    elif x.size <= 6:
        axes.set_xticks(x, [f"{v:g}" for v in x])


def latency_scale(axes: Iterable[Axes], values: NDArray[np.float64]) -> None:
    """Use a logarithmic scale in all panels when the latencies span more than a factor of 20."""
    known = values[np.isfinite(values) & (values > 0)]
    if known.size and known.max() > 20 * known.min():
        for panel in axes:
            panel.set_yscale("log")
            low, high = panel.get_ylim()
            subs = (1.0, 2.0, 5.0) if high > 8 * low else (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
            panel.yaxis.set_major_locator(LogLocator(subs=subs))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            panel.yaxis.set_minor_locator(NullLocator())
