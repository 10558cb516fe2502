"""Any number of a cube over any of its axes: times by their quantiles with their limits, and where the time goes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from xarray import Dataset

from batchcube.errors import InputError, did_you_mean, suggestion
from batchcube.results.axes import axis_names
from batchcube.results.labelled import pooled_quantile
from batchcube.results.names import Statistic, statistic_of
from batchcube.results.overload import OVERLOADED, STEADY
from batchcube.results.statistics import Interval
from batchcube.results.variables import REGISTRY

from . import style
from .capacity import CAPACITY, search_caption, searched
from .curves import latency_scale, line_handles, line_names, line_places, mark_handles, quantity_label, x_axis
from .reading import RATE, Figured, Select, View, number_of, view
from .settings import SLA_TARGET, axes_left, listed, numbers_of_lines, policy_axes
from .windows import band_marks

# Times of requests and tokens: what they are called, and the settings that limit them, the first that is set.
_TIMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "latency": ("latency", ("report.request_sla_s",)),
    "wait": ("wait", ()),
    "service": ("service time", ()),
    "ttft": ("time to first token", ("report.ttft_sla_s",)),
    "tpot": ("time per output token", ("report.tpot_sla_s",)),
    "tbt": ("time between tokens", ("report.token_sla_s", SLA_TARGET)),
}
# Those whose distributions a cube may keep, so that all requests are pooled.
_POOLED = ("latency", "tbt")
_STATISTICS = ("mean", "p50", "p90", "p95", "p99")


class Quantity(NamedTuple):
    """What is drawn: a variable, or a quantile of a time."""

    variable: str
    label: str
    scale: float = 1.0
    time: str = ""
    """Of `_TIMES`, empty for what is no time."""
    quantile: float | None = None
    pooled: bool = False
    """Whether the quantile is that of all requests of all replications, from their histograms."""

    def interval(self, seen: View, **at: int) -> Interval:
        """Return the estimate with its 95 % interval: over replications of means, or of the pooled quantile."""
        if self.quantile is None:
            return seen.interval(self.variable, **at).scaled(self.scale)
        if not self.pooled:
            place = int(np.flatnonzero(np.isclose(seen.cube["quantile"].values, self.quantile))[0])
            return seen.interval(self.variable, **at, quantile=place).scaled(self.scale)
        found = pooled_quantile(seen.cube[[self.variable]].isel(at), self.quantile, name=self.variable)
        parts = (found[part] for part in ("quantile", "low", "high", "n"))
        return Interval(*map(seen.laid_out, parts)).scaled(self.scale)

    def limits(self, seen: View) -> list[float]:
        """Return the limits that the specification sets to it, in the unit of the axis."""
        for path in _TIMES[self.time][1] if self.time else ():
            if found := numbers_of_lines(seen, path):
                return [self.scale * limit for limit in found]
        return []


def quantity_of(figured: Figured, cube: Dataset, name: str, *, pools: bool = True) -> Quantity:
    """Return what `name` means: a variable, `latency_quantile_s[0.99]`, or a time as `latency_p99_s`, `tbt_mean_ms`.

    A quantile is that of all requests where the cube has their histogram and it `pools`, else the replications' own.
    """
    try:
        meant = statistic_of(name)
    except InputError:
        meant = Statistic("")
    variable, quantile, scale = meant
    time, _, statistic = variable.removesuffix("_s").rpartition("_")
    if time in _TIMES and (quantile is not None or statistic in ("mean", "min", "max")):
        statistic = statistic if quantile is None else f"p{100 * quantile:g}"
        label = f"{statistic} {_TIMES[time][0]} ({'ms' if scale == 1e3 else 's'})"
        if quantile is None:
            return _held(figured, cube, Quantity(variable, label, scale, time))
        if pools and time in _POOLED and f"{time}_histogram" in cube:
            return Quantity(f"{time}_histogram", label, scale, time, quantile, pooled=True)
        known = cube["quantile"].values if "quantile" in cube.coords else np.array([])
        found = _held(figured, cube, Quantity(variable, label, scale, time, quantile))
        if not np.isclose(known, quantile).any():
            raise figured.refuses(f"y = {name}: the cube has {', '.join(f'p{100 * q:g}' for q in known) or 'none'}")
        return found
    numbers = [one for one, known in REGISTRY.items() if one in cube and known.replicated and not known.extra]
    if name not in numbers:
        times = [f"{time}_p99_s" for time in _TIMES if f"{time}_quantile_s" in cube]
        allowed = "must be a variable of the cube (`batchcube variables` says what there is)"
        allowed += f", or a time as {times[0]}" if times else ""
        raise figured.refuses(f"y = {name}: {did_you_mean(name, [*numbers, *times]) or allowed}")
    return Quantity(name, quantity_label(name))


def _held(figured: Figured, cube: Dataset, quantity: Quantity) -> Quantity:
    if quantity.variable not in cube:
        raise figured.refuses(f"the cube has no variable {quantity.variable}")
    return quantity


def lines(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    x: str | None = None,
    y: str | None = None,
    lines: str | None = None,
    slo: Any = None,
    width_mm: float = style.SINGLE_COLUMN_MM,
) -> Figure:
    """Draw any variable, or a quantile of a time, over any axis, one line per value of another, with the limit set.

    `x` is an axis, `y` a variable or a time as `ttft_p99_s` and `tbt_mean_ms`, `slo` a limit in the unit of `y`.
    """
    quantity = quantity_of(figured, cube, y or _usual(cube))
    seen = _seen(figured, searched(cube), select, [quantity.variable], x, lines)
    assert seen.x is not None
    figure, axes = style.panels(width_mm=width_mm, height_mm=62)
    limits = _draw(seen, axes[0, 0], quantity, slo)
    marks = [*_limit_marks(limits, quantity), *band_marks(seen), *style.queue_handles(_marked(seen, quantity))]
    name = quantity.label.rpartition(" (")[0] or quantity.label
    title = f"{name[:1].upper()}{name[1:]} against {seen.x.title.rpartition(' (')[0] or seen.x.title}"
    said = _said_of([quantity])
    caption = search_caption(seen, said) if CAPACITY in cube else seen.caption(said)
    return style.finish(figure, title.replace("\n", " "), seen.subtitle(), line_handles(seen), marks, caption)


def serving_times(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    x: str | None = None,
    lines: str | None = None,
    statistic: str = "p99",
    width_mm: float = style.DOUBLE_COLUMN_MM,
) -> Figure:
    """Draw time to first token, per output token, and latency against the rate or another axis, with their limits.

    `statistic` is mean or any quantile the cube has, as p99; `x` an axis.
    """
    if not re.fullmatch(r"mean|p\d+(\.\d+)?", statistic):
        raise figured.refuses(f"statistic = {statistic}: {suggestion(statistic, _STATISTICS)}")
    times = [time for time in ("ttft", "tpot", "latency") if f"{time}_mean_s" in cube]
    if not times:
        raise figured.lacks("the cube has no variable latency_mean_s")
    quantities = [quantity_of(figured, cube, f"{time}_{statistic}_s") for time in times]
    seen = _seen(figured, cube, select, [quantity.variable for quantity in quantities], x, lines)
    figure, axes = style.panels(1, len(times), width_mm=width_mm, height_mm=58)
    limited = False
    for panel, quantity in zip(axes[0], quantities, strict=True):
        limited |= bool(_draw(seen, panel, quantity, None))
    marks = [*([style.limit_handle("limit set by the specification")] if limited else []), *mark_handles(seen)]
    title = f"What users feel: {'mean' if statistic == 'mean' else statistic} times"
    caption = seen.caption(_said_of(quantities))
    return style.finish(figure, title, seen.subtitle(), line_handles(seen), marks, caption)


# What a latency is made of, from the ground up: looks that differ in grey too.
_PARTS = {"wait": ("#D9D9D9", ""), "prefill": (style.COLOURS[3], "///"), "decode": (style.COLOURS[0], "")}


def time_split(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    x: str | None = None,
    lines: str | None = None,
    width_mm: float | None = None,
) -> Figure:
    """Draw where the time of a request goes, wait, prefill and decode, as stacked bars over an axis.

    `x` is an axis; there is a panel per value of another one.
    """
    needs = ["latency_mean_s", "wait_mean_s", "ttft_mean_s"]
    seen = _seen(figured, cube, select, needs, x, lines)
    assert seen.x is not None
    names = line_names(seen)
    columns = min(len(names), 2 if len(names) in (2, 4) else 3)
    width_mm = width_mm or (style.SINGLE_COLUMN_MM if columns == 1 else style.DOUBLE_COLUMN_MM)
    rows = -(-len(names) // columns)
    figure, axes = style.panels(rows, columns, width_mm=width_mm, height_mm=52)
    place = np.arange(len(seen.x.values), dtype=float)
    highest = 0.0
    queues = seen.queue()
    for panel, name, at in zip(axes.flat, names, line_places(seen), strict=False):
        parts = _split(seen, at)
        bottom = np.zeros_like(place)
        for part, (colour, hatch) in _PARTS.items():
            looks: dict[str, Any] = {"color": colour, "edgecolor": "white", "linewidth": 0.4, "hatch": hatch}
            panel.bar(place, parts[part], 0.8, bottom=bottom, label=part, **looks)
            bottom = bottom + parts[part]
        total = seen.interval("latency_mean_s", **at)
        known = np.isfinite(total.low) & np.isfinite(total.high)
        label = f"{name}, 95 % interval"
        if known.any():
            panel.vlines(place[known], total.low[known], total.high[known], color="black", linewidth=0.9, label=label)
        for k, queue in enumerate(seen.queue(**at)):
            if queue != STEADY:
                panel.plot([place[k]], [bottom[k]], **_grey_mark(str(queue)))
        style.name_ticks(panel, [f"{value:g}" if seen.x.numeric else str(value) for value in seen.x.values])
        highest = max(highest, float(np.nanmax(bottom, initial=0.0)))
        if seen.lines:
            panel.set_title(name)
        panel.set_xlabel(seen.x.title)
    for panel in axes.flat[len(names) :]:
        panel.set_visible(False)
    for panel in axes.flat:
        # Intervals of few replications may be many times as long as the bars.
        panel.set_ylim(0, 1.25 * highest or 1.0)
    for row in axes:
        row[0].set_ylabel("mean time of a request (s)")
    handles: list[Artist] = [
        Patch(facecolor=colour, edgecolor="white", hatch=hatch, linewidth=0.4, label=part)
        for part, (colour, hatch) in _PARTS.items()
    ]
    marks = [*([style.whisker_handle("black")] if seen.replications > 1 else []), *style.queue_handles(queues)]
    said = (
        "Wait: from arrival until the request is first served; prefill: from there to its first token; decode: from "
        "there to its last, preemptions included. Intervals are those of the whole."
    )
    return style.finish(figure, "Where the time goes", seen.subtitle(), handles, marks, seen.caption(said))


def _split(seen: View, at: dict[str, int]) -> dict[str, NDArray[np.float64]]:
    """Return the mean of each part of the latency at every x."""
    latency, wait, first = (
        seen.interval(name, **at).estimate for name in ("latency_mean_s", "wait_mean_s", "ttft_mean_s")
    )
    return {"wait": wait, "prefill": first - wait, "decode": latency - first}


def _grey_mark(queue: str) -> dict[str, Any]:
    style_of = {"marker": "o", "linestyle": "none", "color": style.GREY, "label": queue, "zorder": 4}
    return style_of | style.filling(queue)


def _usual(cube: Dataset) -> str:
    """Return what is drawn of a cube where nothing is said."""
    if CAPACITY in cube:
        return CAPACITY
    for name in ("ttft_p99_s", "latency_p99_s"):
        if f"{name.partition('_')[0]}_quantile_s" in cube and ("steps" in cube or name.startswith("latency")):
            return name
    return "throughput_requests_per_s" if "throughput_requests_per_s" in cube else next(map(str, cube.data_vars))


def _seen(
    figured: Figured, cube: Dataset, select: Select, needs: Sequence[str], x: str | None, lines: str | None
) -> View:
    """Return the cube over an axis: that of `x`, else of the rate, else the numbers of most values."""
    left = axes_left(cube, select)
    if x is not None and x not in axis_names(cube):
        raise figured.refuses(f"x = {x}: {suggestion(x, axis_names(cube))}")
    rates = [name for name, paths in left.items() if set(paths) & set(RATE)]
    # Rather numbers than labels.
    free = sorted(left, key=lambda name: (name == lines, cube[name].dtype.kind not in "iuf", -cube.sizes[name]))
    across = x or next(iter([*rates, *free]), None)
    paths = str(cube[across].attrs["path"]).split(",") if across else ["an axis"]
    return view(figured, cube, select, needs=needs, x=paths, lines=policy_axes(cube), lines_named=lines)


def _draw(seen: View, panel: Axes, quantity: Quantity, slo: Any) -> list[float]:
    """Draw a quantity over the x axis with its limits, and return these."""
    assert seen.x is not None
    places = line_places(seen)
    limits = quantity.limits(seen) if slo is None else _numbers(seen.figured, "slo", slo)
    intervals = [quantity.interval(seen, **at) for at in places]
    values = np.concatenate([*(interval.estimate for interval in intervals), np.asarray(limits)])
    for i, (name, at, interval) in enumerate(zip(line_names(seen), places, intervals, strict=True)):
        style.line(panel, seen.x.positions, interval, _marked(seen, quantity, **at), name, style.look(i, name))
    x_axis(panel, seen.x)
    panel.set_ylabel(quantity.label)
    for limit in limits:
        style.limit(panel, limit, "limit")
    if quantity.time:
        latency_scale([panel], values)
    style.from_zero(panel, values)
    if any(np.isposinf(interval.high).any() for interval in intervals):
        # Whiskers of intervals that are open above reach out of the panel.
        panel.set_ylim(top=1.1 * max(_largest(values), *(_largest(interval.high) for interval in intervals)))
    return limits


def _largest(values: NDArray[np.float64]) -> float:
    return float(values.max(initial=0.0, where=np.isfinite(values)))


def _marked(seen: View, quantity: Quantity, **at: int) -> NDArray[np.str_]:
    """Return how the queues of points are marked: of what is the same under overload, those that are for certain."""
    queue = seen.queue(**at)
    if quantity.time or REGISTRY[quantity.variable].steady_state:
        return queue
    return np.where(queue == OVERLOADED, OVERLOADED, STEADY)


def _limit_marks(limits: Sequence[float], quantity: Quantity) -> list[Artist]:
    unit = quantity.label.rpartition("(")[2].rstrip(")") if quantity.time else ""
    return [style.limit_handle(f"limit: {listed(limits)} {unit}".strip())] if limits else []


def _numbers(figured: Figured, option: str, given: Any) -> list[float]:
    """Return numbers from 0 on, given as such or as text, several with commas."""
    try:
        found = sorted({number_of(part) for part in (given.split(",") if isinstance(given, str) else np.ravel(given))})
    except (TypeError, ValueError):
        found = [-1.0]
    if min(found, default=-1.0) < 0.0:
        raise figured.refuses(f"{option} = {given}: must be a number >= 0, or several with commas")
    return found


def _said_of(quantities: Sequence[Quantity]) -> str:
    """Say of which requests quantiles are."""
    if not any(quantity.quantile for quantity in quantities):
        return ""
    pooled = [_TIMES[quantity.time][0] for quantity in quantities if quantity.pooled]
    single = [_TIMES[quantity.time][0] for quantity in quantities if quantity.quantile and not quantity.pooled]
    said = []
    if pooled:
        said.append(
            f"Quantiles of the {' and '.join(pooled)} are over all requests of all replications, with intervals by "
            "Woodruff; where the replications give no upper end a whisker reaches out of the panel."
        )
    if single:
        said.append(f"Those of the {' and '.join(single)} are means of the replications' own quantiles.")
    return " ".join(said)
