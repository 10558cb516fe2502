"""Continuous batching: time between tokens, steps, a run over time, capacity, gains, and Algorithms 1 and 2 of [DB]."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from xarray import Dataset

from batchcube.results.cube import axis_names, parse_specification
from batchcube.results.labelled import error_of
from batchcube.results.overload import CANNOT_TELL, OVERLOADED, STEADY, worse
from batchcube.results.statistics import Interval, paired_ratio
from batchcube.results.text import suggestion
from batchcube.results.variables import REGISTRY

from . import style
from .curves import line_handles, line_names, line_places, mark_handles, quantity_label, x_axis
from .reading import LARGEST_BATCH, MODE, RATE, FigureAxis, Figured, Select, View, view
from .windows import (
    TIME,
    Course,
    band_marks,
    course,
    draw_courses,
    draw_over_time,
    run_handles,
    said_of_windows,
)

# What a specification that leaves these settings out means.
DEFAULTS: dict[str, Any] = {
    "policy.smallest_batch": 1,
    "policy.sla.variant": "paper",
    "policy.sla.alpha": 16,
    "policy.memory.overflow_probability": 0.05,
}
_RULE = "policy.memory.rule"
_TARGET = "policy.sla.target_s"
_MEMORY_BOUND, _SLA_BOUND = "window_batch_memory_bound_mean", "window_batch_sla_bound_mean"
_STATISTICS = {"mean": None, "p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
_HELD = "A window without a decision keeps the bound of the one before."
# By the flag of a search that found no answer.
_UNANSWERED = {
    -1: "miss the criteria already at the lowest rate",
    1: "still meet the criteria at the highest rate",
}
# What is said of two points that are compared.
_EITHER = {
    OVERLOADED: "either is overloaded: not a steady state",
    CANNOT_TELL: "cannot tell whether either is overloaded",
}
_CAPACITY = "capacity_requests_per_s"
_GREY = "#555555"
_DASHED, _DOTTED = (0, (5, 2.5)), (0, (1, 1.5))


# Against the arrival rate and the batch size --------------------------------------------------------------------------


def tbt_vs_rate(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    statistic: str = "mean",
    printed: Any = None,
    width_mm: float = style.SINGLE_COLUMN_MM,
) -> Figure:
    """Draw the time between tokens against the arrival rate, one line per policy, with the SLA ([DB] Fig. 4).

    `printed` are points of a paper to draw beside: names with `rate:ms`, as `static=4:44,5.4:51.1;dynamic=4:36.9`.
    """
    figured.check("statistic", statistic, tuple(_STATISTICS))
    others = _printed_points(figured, printed)
    probability = _STATISTICS[statistic]
    variable = "tbt_mean_s" if probability is None else "tbt_quantile_s"
    seen = view(figured, cube, select, needs=[variable], x=RATE, lines=_policies(cube), lines_named=lines)
    assert seen.x is not None
    part = {} if probability is None else {"quantile": _quantile(seen, probability)}
    figure, axes = style.panels(width_mm=width_mm, height_mm=62)
    panel = axes[0, 0]
    for i, (name, at) in enumerate(zip(line_names(seen), line_places(seen), strict=True)):
        interval = _times(seen.interval(variable, **at, **part), 1e3)
        style.line(panel, seen.x.positions, interval, seen.queue(**at), name, style.look(i, name))
    given = []
    for marker, (name, points) in zip(_PRINTED_MARKERS, others.items(), strict=False):
        look = {"color": "black", "marker": marker, "linestyle": "none", "markersize": 5, "markerfacecolor": "none"}
        given += panel.plot(*zip(*points, strict=True), label=f"{name}, as printed", zorder=4, **look)
    x_axis(panel, seen.x)
    panel.set_ylabel(f"{statistic} time between tokens (ms)")
    targets = _each(seen, _TARGET)
    for target in targets:
        style.limit(panel, 1e3 * target, "SLA target")
    style.from_zero(panel)
    marks = mark_handles(seen)
    if targets:
        marks.insert(0, style.limit_handle(f"SLA target of the controller ({_listed(targets, 1e3)} ms)"))
    over = (
        "Over all tokens but the first of each request."
        if "preemptions" in seen.cube
        else "Over requests, each with the decoding time per token of its batch."
    )
    title = "Time between tokens against arrival rate"
    return style.finish(figure, title, seen.subtitle(), [*line_handles(seen), *given], marks, seen.caption(over))


_PRINTED_MARKERS = ("x", "+", "1", "2")


def _printed_points(figured: Figured, printed: Any) -> dict[str, list[tuple[float, float]]]:
    """Return the points (rate, ms) that `printed` names."""
    points: dict[str, list[tuple[float, float]]] = {}
    for group in str(printed).split(";") if printed is not None else ():
        name, _, spelled = group.partition("=")
        try:
            pairs = [tuple(float(part) for part in pair.split(":")) for pair in spelled.split(",")]
            points[name.strip()] = [(rate, ms) for rate, ms in pairs]
        except ValueError:
            raise figured.refuses(
                f"printed = {printed}: must be names with rate:ms, as static=4:44,5.4:51.1;dynamic=4:36.9"
            ) from None
    if len(points) > len(_PRINTED_MARKERS):
        raise figured.refuses(f"printed: must be at most {len(_PRINTED_MARKERS)} names, not {len(points)}")
    return points


def step_throughput(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    x: str = "batch_size_mean",
    width_mm: float = style.DOUBLE_COLUMN_MM,
) -> Figure:
    """Draw throughput b / tau(b) and the time of a step tau(b) against the batch size b ([DB] Fig. 3).

    `x` is the mean batch size of the steps (batch_size_mean) or the largest one allowed (largest_batch).
    """
    figured.check("x", x, ("batch_size_mean", "largest_batch"))
    needs = ["tbt_mean_s", "throughput_tokens_per_s", "batch_size_mean"]
    seen = view(figured, cube, select, needs=needs, x=LARGEST_BATCH, lines=_policies(cube), lines_named=lines)
    assert seen.x is not None
    figure, axes = style.panels(1, 2, width_mm=width_mm, height_mm=62)
    throughput, step = axes[0]
    laws: dict[tuple[float, float], None] = {}
    for i, (name, at) in enumerate(zip(line_names(seen), line_places(seen), strict=True)):
        points = [_settings(seen, {**at, seen.x.name: k}) for k in range(len(seen.x.values))]
        size = np.asarray(
            seen.interval("batch_size_mean", **at).estimate
            if x == "batch_size_mean"
            else [_largest(seen, point) for point in points]
        )
        order = np.argsort(size)
        look = style.look(i, name)
        for panel, variable, scale in ((throughput, "throughput_tokens_per_s", 1.0), (step, "tbt_mean_s", 1e3)):
            interval = _times(seen.interval(variable, **at), scale)
            style.line(panel, size[order], _part(interval, order), None, name, look)
        found = {_step_law(point) for point in points}
        law = found.pop() if len(found) == 1 else None
        if law is not None and law not in laws:
            laws[law] = None
            fine = np.linspace(min(1.0, float(size.min())), float(size.max()), 200)
            tau = law[0] + law[1] * fine
            style.theory(throughput, fine, fine / tau, name, look.colour)
            style.theory(step, fine, 1e3 * tau, name, look.colour)
    limits = _each(seen, "report.token_sla_s")
    for limit in limits:
        style.limit(step, 1e3 * limit, "limit between tokens")
    for panel in axes[0]:
        panel.set_xlabel("mean batch size b (requests)" if x == "batch_size_mean" else "largest batch b (requests)")
        panel.set_xlim(left=0)
        style.from_zero(panel)
    throughput.set_ylabel(quantity_label("throughput_tokens_per_s"))
    step.set_ylabel("mean time between tokens\nτ(b) (ms)")
    marks: list[Artist] = []
    if laws:
        marks.append(style.theory_handle("c0 + c1 b of the specification: decoding alone"))
    marks += [style.limit_handle(f"limit between tokens ({_listed(limits, 1e3)} ms)")] if limits else []
    marks += band_marks(seen)
    # An unbounded queue is what keeps batches full: overload is the point here, not a fault.
    said = "Points are not marked as overloaded, as batches are full only while requests wait. " + (
        "b is a mean over steps and τ(b) one over tokens: the end of the run, where batches empty, weighs less in τ(b)."
        if x == "batch_size_mean"
        else "Throughput is that of the whole run, with its end, where batches are smaller than b."
    )
    title = "Throughput and time of a step against batch size"
    return style.finish(figure, title, seen.subtitle(), line_handles(seen), marks, seen.caption(said))


def _step_law(settings: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return c0 and c1 in s where the specification states them as numbers."""
    if settings.get("server.service.law") != "steps":
        return None
    c0, c1 = (settings.get(f"server.service.{name}", 0.0) for name in ("c0_s", "c1_s_per_request"))
    return (float(c0), float(c1)) if None not in (c0, c1) and c0 + c1 > 0 else None


def _quantile(seen: View, probability: float) -> int:
    """Return where a quantile lies in the cube."""
    known = seen.cube["quantile"].values
    places = np.flatnonzero(np.isclose(known, probability))
    if not places.size:
        has = ", ".join(f"p{100 * q:g}" for q in known)
        raise seen.figured.refuses(f"statistic = p{100 * probability:g}: the cube has mean, {has}")
    return int(places[0])


# Over time ------------------------------------------------------------------------------------------------------------


def serving_over_time(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    width_mm: float = style.DOUBLE_COLUMN_MM,
) -> Figure:
    """Draw arrivals, waiting and running requests, KV tokens, the cap b_t and its bounds, preemptions, over time."""
    target = "window_batch_target_mean"
    rows = {
        "arrivals": "arrivals\n(requests/s)",
        "window_queue_length_mean": "waiting\n(requests)",
        "window_running_mean": "running\n(requests)",
        "window_kv_tokens_mean": "KV cache\n(tokens)",
        target: "cap b_t\n(requests)",
        "window_preemptions": "preemptions\n(per window)",
    }
    needs = ["window_running_mean", "window_arrivals", "window_width_s", _MEMORY_BOUND, _SLA_BOUND, *list(rows)[1:]]
    seen = view(figured, cube, select, needs=needs, lines=_policies(cube), lines_named=lines)
    rows = {name: label for name, label in rows.items() if name == "arrivals" or np.isfinite(seen.array(name)).any()}
    # A bound that no setting asks for is B_max, and tells nothing.
    bounds = {"policy.memory": (_MEMORY_BOUND, _DASHED, "b_mem"), "policy.sla": (_SLA_BOUND, _DOTTED, "b_SLA")}
    shown = {setting: bound for setting, bound in bounds.items() if any(_sets(s, setting) for s in _of_lines(seen))}
    capacities = _each(seen, "server.replica.kv_capacity_tokens")
    far: list[float] = []

    def beside(panel: Axes, variable: str) -> None:
        if variable == target:
            for setting, (bound, dashes, label) in shown.items():
                _draw_bound(seen, panel, setting, bound, dashes, label)
        if variable == "window_preemptions":
            panel.set_ylim(top=max(1.0, panel.get_ylim()[1]))
        if variable == "window_kv_tokens_mean":
            style.big_numbers(panel)
            top = panel.get_ylim()[1]
            for capacity in capacities:
                # A limit far above all lines would press them flat.
                if capacity > 4.0 * top:
                    far.append(capacity)
                else:
                    style.limit(panel, capacity, "KV capacity")

    figure = draw_over_time(seen, rows, width_mm, beside)
    marks = band_marks(seen)
    if target in rows:
        marks += [Line2D([], [], color="black", linestyle=dashes, label=label) for _, dashes, label in shown.values()]
    if len(far) < len(capacities):
        marks.append(style.limit_handle("KV capacity of a replica"))
    above = f"The KV capacity of a replica, {_listed(far)} tokens, lies above its panel." if far else ""
    title = "Continuous batching over time"
    caption = seen.caption(said_of_windows(seen), above)
    return style.finish(figure, title, seen.subtitle(), run_handles(seen), marks, caption)


def memory_erratum(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    width_mm: float = style.DOUBLE_COLUMN_MM,
) -> Figure:
    """Draw b_mem over time and the overflow fraction of the rules of Algorithm 1, as printed and corrected ([DB])."""
    overflow = "memory_overflow_fraction"
    needs = [overflow, _MEMORY_BOUND, "window_width_s"]
    seen = view(figured, cube, select, needs=needs, lines=((_RULE,),), lines_needed=True)
    if not np.isfinite(seen.array(_MEMORY_BOUND)).any():
        raise figured.lacks("the cube has no memory bound over time: no mode with policy.memory was run")
    figure, axes = style.panels(1, 2, width_mm=width_mm, height_mm=62)
    left, right = axes[0]
    left.get_gridspec().set_width_ratios([1.7, 1.0])
    draw_courses(seen, left, _held(seen, _MEMORY_BOUND, "policy.memory"))
    largest = _each(seen, LARGEST_BATCH[0])
    for value in largest:
        style.limit(left, value, "B_max")
    style.from_zero(left)
    left.set_xlabel(TIME)
    left.set_ylabel("memory bound b_mem (requests)")
    names = line_names(seen)
    for i, (name, at) in enumerate(zip(names, line_places(seen), strict=True)):
        interval = _part(seen.interval(overflow, **at), None)
        queue = np.atleast_1d(seen.queue(**at))
        style.line(right, np.array([float(i)]), interval, queue, name, style.look(i, name))
    allowed = _each(seen, "policy.memory.overflow_probability")
    for value in allowed:
        style.limit(right, value, "allowed overflow")
    style.name_ticks(right, names)
    right.set_xlim(-0.5, len(names) - 0.5)
    style.from_zero(right)
    right.set_ylabel("overflow fraction (share of batches)")
    marks: list[Artist] = [style.limit_handle(f"left: B_max = {_listed(largest)}")] if largest else []
    marks.append(style.limit_handle(f"right: allowed, ε_M = {_listed(allowed)}"))
    marks += mark_handles(seen)
    literal = (
        "literal is Algorithm 1 of arXiv 2503.05248 as printed: its reserve makes the constraint vacuous."
        if "literal" in names
        else ""
    )
    title = "Memory bound of Algorithm 1, as printed and corrected"
    caption = seen.caption(said_of_windows(seen), _HELD, literal)
    return style.finish(figure, title, seen.subtitle(), run_handles(seen), marks, caption)


def controller_bounds(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    width_mm: float = style.DOUBLE_COLUMN_MM,
) -> Figure:
    """Draw b_SLA over time with B_min, B_max, and where Algorithm 2 settles instead: half of alpha inside ([DB])."""
    needs = [_SLA_BOUND, "window_width_s"]
    lacking = "the cube has no SLA bound over time: no mode with policy.sla was run"
    if _SLA_BOUND in cube and not bool(cube[_SLA_BOUND].notnull().any()):
        raise figured.lacks(lacking)
    seen = view(figured, cube, select, needs=needs, lines=((_TARGET,), *_policies(cube)), lines_named=lines)
    ends: set[float] = set()
    settled: set[float] = set()
    for settings in _of_lines(seen):
        if not _sets(settings, "policy.sla"):
            continue
        low, high = float(_setting(settings, "policy.smallest_batch")), _largest(seen, settings)
        ends |= {low, high}
        if _setting(settings, "policy.sla.variant") == "paper":
            half = float(_setting(settings, "policy.sla.alpha")) / 2.0
            settled |= {low + half, high - half}
    if not ends:
        raise figured.lacks(lacking)
    figure, axes = style.panels(width_mm=width_mm, height_mm=75)
    panel = axes[0, 0]
    drawn = _held(seen, _SLA_BOUND, "policy.sla")
    draw_courses(seen, panel, drawn)
    for value in sorted(ends):
        panel.axhline(value, color="black", linewidth=0.9, label="B_min, B_max", zorder=2.5)
    for value in sorted(settled):
        style.limit(panel, value, "B_min + α/2, B_max − α/2")
    style.from_zero(panel)
    panel.set_xlabel(TIME)
    panel.set_ylabel("SLA bound b_SLA (requests)")
    marks: list[Artist] = [Line2D([], [], color="black", linewidth=0.9, label=f"B_min, B_max = {_listed(ends)}")]
    if settled:
        marks.append(style.limit_handle(f"B_min + α/2, B_max − α/2 = {_listed(settled)}"))
    marks += band_marks(seen)
    last = []
    for name, (_, interval) in zip(line_names(seen), drawn, strict=True):
        if np.isfinite(interval.estimate[-1]):
            last.append(f"{name + ': ' if seen.lines else ''}{interval.estimate[-1]:.1f}")
    said = f"Mean in the last window: {', '.join(last)}."
    title = "Where the SLA controller of Algorithm 2 settles"
    caption = seen.caption(said_of_windows(seen), _HELD, said)
    handles = [
        handle
        for handle, (_, interval) in zip(run_handles(seen), drawn, strict=False)
        if np.isfinite(interval.estimate).any()
    ]
    return style.finish(figure, title, seen.subtitle(), handles, marks, caption)


def _held(seen: View, variable: str, setting: str) -> list[Course]:
    """Return a bound over time for every line; between two decisions of a replication it stays as it is.

    A line without the setting has no such bound: what a cube holds there is B_max, or nothing.
    """
    held = []
    for settings, at in zip(_of_lines(seen), line_places(seen), strict=True):
        values = seen.array(variable, **at)  # (window, replication)
        if not _sets(settings, setting):
            values = np.full_like(values, np.nan)
        windows = np.arange(values.shape[0])[:, None]
        last = np.maximum.accumulate(np.where(np.isfinite(values), windows, 0), axis=0)
        values = np.take_along_axis(values, last, axis=0)
        largest = settings.get(LARGEST_BATCH[0])
        bounds = (0.0, float(largest) if isinstance(largest, int | float) else np.inf)
        held.append((course(seen, variable, at)[0], seen.mean(values, bounds)))
    return held


def _draw_bound(seen: View, panel: Axes, setting: str, variable: str, dashes: Any, label: str) -> None:
    """Draw one bound of the cap over time for the lines that have it, darker than their cap, without a band."""
    for i, (name, at) in enumerate(zip(line_names(seen), line_places(seen), strict=True)):
        if not _sets(_settings(seen, at), setting):
            continue
        time, interval = course(seen, variable, at)
        dark = [0.5 * part for part in to_rgb(style.look(i, name).colour)]
        panel.plot(time, interval.estimate, color=dark, linestyle=dashes, label=f"{name}, {label}", zorder=3.5)


# Capacity and gains ---------------------------------------------------------------------------------------------------


def capacity(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    width_mm: float = style.SINGLE_COLUMN_MM,
) -> Figure:
    """Draw the largest arrival rate at which the SLA holds, a row per policy, a panel per value of a second axis."""
    flag = "capacity_unbracketed"
    if _CAPACITY not in cube:
        raise figured.refuses(f"the cube has no variable {_CAPACITY}; `batchcube capacity` makes a cube that has it")
    left = _axes_left(cube, select)
    compared = lines or _compared(cube, left)
    groups = [path for name, paths in left.items() if name != compared for path in paths]
    given = _searched(cube)
    seen = view(figured, given, select, needs=[_CAPACITY, flag], lines_named=compared, panels=groups)
    names = line_names(seen)
    count = len(seen.panels.values) if seen.panels else 1
    height = 12 + 6 * len(names)
    figure, axes = style.panels(count, 1, width_mm=width_mm, height_mm=height)
    unanswered: dict[str, list[str]] = {}
    hollow = False
    for place, panel in enumerate(axes[:, 0]):
        where = [seen.panels.names()[place]] if seen.panels else []
        for row, (name, at) in enumerate(zip(names, line_places(seen, place), strict=True)):
            missing = np.isnan(seen.array(_CAPACITY, **at))
            interval = seen.interval(_CAPACITY, **at)
            queue = OVERLOADED if missing.any() else STEADY  # hollow where some have no answer
            style.dot(panel, float(row), interval, queue, name, style.look(row, name))
            if missing.all():
                room = panel.get_yaxis_transform()
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
                panel.text(0.02, row, "no answer", transform=room, va="center", color=_GREY, size=8, bbox=box)
            hollow |= bool(missing.any() and not missing.all())
            flags = seen.array(flag, **at)
            for side, what in _UNANSWERED.items():
                found = int((flags == side).sum())
                if found:
                    row_name = ", ".join([*where, *([name] if seen.lines else [])])
                    unanswered.setdefault(what, []).append(f"{row_name} ({found} of {flags.size})".strip())
        panel.set_yticks(range(len(names)), names if seen.lines else [""])
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.tick_params(axis="y", length=0)
        panel.margins(x=0.12)
        if seen.panels:
            panel.set_title(seen.panels.names()[place])
        if panel is not axes[-1, 0]:
            panel.sharex(axes[-1, 0])
            panel.tick_params(labelbottom=False)
    axes[-1, 0].set_xlabel("capacity (requests/s)")
    marks: list[Artist] = [style.whisker_handle()] if seen.replications > 1 else []
    if hollow:
        marks.append(_mark("some replications without an answer", OVERLOADED))
    said = [f"Left out of the means: replications that {what}, {'; '.join(rows)}." for what, rows in unanswered.items()]
    caption = _search_caption(seen, *said)
    return style.finish(figure, "Capacity under the SLA", seen.subtitle(), [], marks, caption)


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
    left = _axes_left(cube, select)
    compared = lines or _compared(cube, left)
    others = [name for name in left if name != compared]
    if compared is None or len(others) < 2:
        has = ", ".join(left) or "none"
        raise figured.lacks(f"needs an axis of policies and two more, and the cube varies {has}")
    if x is not None and x not in others:
        raise figured.refuses(f"x = {x}: {suggestion(x, others)}")
    rates = [name for name in others if set(left[name]) & set(RATE)]
    across = x or (rates or others)[0]
    up = next(name for name in others if name != across)
    given = _searched(cube)
    seen = view(figured, given, select, needs=[quantity], x=left[across], lines_named=compared, panels=left[up])
    assert seen.x is not None
    assert seen.panels is not None
    assert seen.lines is not None
    base, other = _pair(figured, seen.lines, baseline, against)
    values = seen.array(quantity).astype(float)
    error = error_of(seen.cube[quantity])
    ratio = paired_ratio(values[:, other], values[:, base], single=seen.of_single, error=error)
    gain, low, high = (100.0 * (part - 1.0) for part in ratio[:3])
    known = np.isfinite(gain)
    if not known.any():
        raise figured.refuses(f"{quantity} of the baseline is 0 everywhere: there is no relative change")
    # More latency is no gain.
    word = "gain" if quantity.startswith(("throughput", "capacity")) else "change"
    rows, columns = gain.shape
    width_mm = width_mm or (style.SINGLE_COLUMN_MM if columns <= 6 else style.DOUBLE_COLUMN_MM)
    figure, axes = style.panels(width_mm=width_mm, height_mm=max(48.0, 18.0 + 8.0 * rows))
    panel = axes[0, 0]
    # Where nothing is known the grey of the panel shows.
    panel.set_facecolor("#BBBBBB")
    panel.grid(visible=False)
    largest = float(np.abs(gain[known]).max()) or 1.0
    colours, norm = colormaps["PuOr_r"], Normalize(-largest, largest)
    edges = (np.arange(size + 1) - 0.5 for size in (columns, rows))
    mesh = panel.pcolormesh(*edges, np.ma.masked_invalid(gain), cmap=colours, norm=norm, zorder=1)
    bar = figure.colorbar(mesh, ax=panel, label=f"relative {word} (%)")
    # The colours are those of the whole range on both sides of 0, the bar shows the part that occurs.
    bar.ax.set_ylim(min(0.0, float(gain[known].min())), max(0.0, float(gain[known].max())) or 0.05 * largest)
    unsure = known & ~((low > 0) | (high < 0)) if seen.replications > 1 else np.zeros_like(known)
    for row, column in np.argwhere(unsure):
        panel.add_patch(_hatched((column - 0.5, row - 0.5)))
    queue = seen.queue()
    either = worse(queue[:, base], queue[:, other])
    if not REGISTRY[quantity].steady_state:
        # Throughput under overload is what it is.
        either[:] = STEADY
    marked = [state for state in _EITHER if (either == state).any() and not (either == state).all()]
    for state in marked:
        at_row, at_column = np.nonzero(either == state)
        corner: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 3, **style.filling(state)}
        panel.plot(at_column + 0.36, at_row + 0.34, color=_GREY, label=state, zorder=4, **corner)
    if width_mm / columns >= 10.0:
        for row, column in np.argwhere(known):
            light = np.dot(colours(norm(gain[row, column]))[:3], (0.299, 0.587, 0.114)) > 0.5
            box = {"facecolor": colours(norm(gain[row, column])), "edgecolor": "none", "pad": 0.8}
            colour = "black" if light else "white"
            panel.text(
                column,
                row,
                _signed(gain[row, column]),
                ha="center",
                va="center",
                size=7,
                color=colour,
                bbox=box,
                zorder=3,
            )
    crossed = [level for level in levels if gain[known].min() < level < gain[known].max()]
    if crossed:
        grid = (np.arange(columns), np.arange(rows), np.ma.masked_invalid(gain))
        looks: dict[str, Any] = {"colors": "black", "linewidths": 1.6, "zorder": 2}
        drawn = panel.contour(*grid, levels=crossed, corner_mask=False, **looks)
        crossed = [level for level, parts in zip(crossed, drawn.allsegs, strict=True) if any(map(len, parts))]
    _name_places(panel, seen.x, seen.panels)
    marks: list[Artist] = []
    if crossed:
        marks.append(Line2D([], [], color="black", linewidth=1.6, label=f"printed {word} of {_listed(crossed)} %"))
    if unsure.any():
        marks.append(Patch(facecolor="none", edgecolor=_GREY, hatch="////", linewidth=0, label="95 % interval holds 0"))
    marks += [_mark(_EITHER[state], state) for state in marked]
    first, second = (seen.lines.names()[place] for place in (base, other))
    sentences = [
        f"{word.capitalize()}: mean of {second} over mean of {first}, minus 1, paired by replication (common random "
        f"numbers){'; intervals are those of Fieller' if seen.replications > 1 else ''}.",
        "Either is overloaded at every point." if (either == OVERLOADED).all() else "",
        "Whether either is overloaded cannot be told at any point." if (either == CANNOT_TELL).all() else "",
        "" if known.all() else "Grey: no ratio, as one of both is unknown, or the baseline 0.",
        "Replications without a value in both are left out." if (known & (ratio.n < seen.replications)).any() else "",
    ]
    missed = [level for level in levels if level not in crossed]
    if missed:
        span = f"{_signed(gain[known].min())} to {_signed(gain[known].max())} %"
        sentences.append(f"No line for the printed {word} of {_listed(missed)} %: what occurs here is {span}.")
    title = f"{word.capitalize()} in {REGISTRY[quantity].long_name}: {second} over {first}"
    caption = _search_caption(seen, *sentences) if _CAPACITY in cube else seen.caption(*sentences)
    return style.finish(figure, title, seen.subtitle(), [], marks, caption)


def _search_caption(seen: View, *said: str) -> str:
    """Return the line under a figure of capacities: what the intervals are, the criteria, the range, the notes."""
    about = seen.cube.attrs
    kind = "prediction intervals of one replication" if seen.of_single else "t intervals over replications"
    sentences = [
        "One replication: no interval can be given."
        if seen.replications == 1
        else f"Means of {seen.replications} replications, each searched by itself; intervals are 95 % {kind}, "
        "widened by what the search leaves open."
    ]
    criteria = [_criterion(criterion) for criterion in json.loads(str(about.get("capacity_criteria", "[]")))]
    if criteria:
        growth = float(about.get("capacity_growth", 1.0))
        steady = [f"a backlog that grows by at most {100 * growth:g} % of the arrivals"] if growth < 1 else []
        sentences.append(f"Capacity: largest arrival rate with {' and '.join([*criteria, *steady])}.")
    if {"capacity_low_per_s", "capacity_high_per_s"} <= set(about):
        low, high = (float(about[f"capacity_{end}_per_s"]) for end in ("low", "high"))
        sentences.append(f"Searched from {low:.4g} to {high:.4g} requests/s.")
    # What has no answer is said for what is drawn, not again for the whole cube.
    told = str(about.get("capacity_notes_unanswered", "")).splitlines()
    notes = [
        note[:1].upper() + note[1:].rstrip(".") + "."
        for note in str(about.get("notes", "")).splitlines()
        if note and note not in told
    ]
    return " ".join(part for part in (*sentences, *said, "Of the whole cube:" if notes else "", *notes) if part)


def _criterion(criterion: Mapping[str, Any]) -> str:
    """Write one criterion of a search with its limit and unit."""
    variable = REGISTRY[str(criterion["variable"])]
    name = variable.long_name
    if criterion.get("quantile") is not None:
        name = f"p{100 * float(criterion['quantile']):g} {name.removeprefix('quantile of the ')}"
    unit = "" if variable.units == "1" else f" {variable.units}"
    return f"{name} ≤ {float(criterion['limit']):g}{unit}"


def _searched(cube: Dataset) -> Dataset:
    """Return a cube; one of capacities with the variables that `view` asks of every cube: a capacity is no overload."""
    if _CAPACITY not in cube:
        return cube
    stand_ins = {"requests": np.int64, "overloaded": np.bool_}
    like = cube[_CAPACITY]
    return cube.assign({name: xr.zeros_like(like, dtype) for name, dtype in stand_ins.items() if name not in cube})


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
        levels = sorted({float(part) for part in parts})
    except (TypeError, ValueError):
        levels = [np.nan]
    if not np.isfinite(levels).all():
        raise figured.refuses(f"printed = {printed}: must be a gain in %, or several")
    return levels


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
    return Rectangle(corner, 1.0, 1.0, fill=False, hatch="////", edgecolor=_GREY, linewidth=0, zorder=1.5)


def _mark(label: str, queue: str) -> Line2D:
    return Line2D([], [], color=_GREY, marker="o", linestyle="none", label=label, **style.filling(queue))


# What the figures share -----------------------------------------------------------------------------------------------


def _policies(cube: Dataset) -> list[tuple[str, ...]]:
    """Return the paths of the axes that may be lines: mode, then labels of any kind, then numbers of the policy."""
    paths = {name: tuple(str(cube[name].attrs["path"]).split(",")) for name in axis_names(cube)}
    labels = [of for name, of in paths.items() if cube[name].dtype.kind not in "iuf"]
    numbers = [of for name, of in paths.items() if of not in labels and of[0].startswith(("policy.", "server."))]
    return [MODE, *labels, *numbers]


def _axes_left(cube: Dataset, select: Select) -> dict[str, tuple[str, ...]]:
    """Return name and paths of the axes that keep two or more values after the selection."""
    left = {}
    for name in axis_names(cube):
        wanted = (select or {}).get(name, cube[name].values)
        if isinstance(wanted, list | tuple | np.ndarray) and len(set(map(str, wanted))) > 1:
            left[name] = tuple(str(cube[name].attrs["path"]).split(","))
    return left


def _compared(cube: Dataset, left: Mapping[str, Sequence[str]]) -> str | None:
    """Return the axis whose values are compared: that of the modes, else labels, else the first of the policy."""
    for wanted in _policies(cube):
        for name, paths in left.items():
            if tuple(paths) == wanted or (wanted == MODE and MODE[0] in paths):
                return name
    return next(iter(left), None)


def _of_lines(seen: View) -> list[dict[str, Any]]:
    """Return the settings of every line."""
    return [_settings(seen, at) for at in line_places(seen)]


def _settings(seen: View, at: Mapping[str, int]) -> dict[str, Any]:
    """Return dotted path -> value of the specification at one place of the cube, None where it varies inside it."""
    specification = parse_specification(str(seen.cube.attrs["specification"]))
    axes = specification.pop("axes", None)
    found = dict(_leaves(specification))
    for name in axis_names(seen.whole):
        paths = str(seen.whole[name].attrs["path"]).split(",")
        values = seen.cube[name].values
        if values.ndim and name not in at:
            found |= dict.fromkeys(paths)
            continue
        value = (values[at[name]] if values.ndim else values).item()
        axis = axes.get(name) if isinstance(axes, Mapping) else None
        points = axis.get("points") if isinstance(axis, Mapping) else None
        if isinstance(points, Mapping):
            found |= dict(_leaves(points.get(str(value), {})))
        elif len(paths) == 1:
            found[paths[0]] = value
    return found


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a table with dotted or nested keys."""
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _setting(settings: Mapping[str, Any], path: str) -> Any:
    """Return one of the settings, what leaving it out means, or None where it varies."""
    return settings.get(path, DEFAULTS.get(path))


def _sets(settings: Mapping[str, Any], table: str) -> bool:
    """Say whether a table of settings is there, whatever it holds."""
    return any(path == table or path.startswith(f"{table}.") for path in settings)


def _largest(seen: View, settings: Mapping[str, Any]) -> float:
    """Return B_max; InputError where the specification does not tell it."""
    value = settings.get(LARGEST_BATCH[0])
    if not isinstance(value, int | float):
        raise seen.figured.lacks(f"its specification sets no {LARGEST_BATCH[0]} for one line or all")
    return float(value)


def _each(seen: View, path: str) -> list[float]:
    """Return the different numbers that the lines have for a setting, in order."""
    values = {_setting(settings, path) for settings in _of_lines(seen)}
    return sorted(float(value) for value in values if isinstance(value, int | float))


def _listed(values: Sequence[float] | set[float], scale: float = 1.0) -> str:
    return ", ".join(f"{scale * value:,.6g}" for value in sorted(values))


def _signed(value: float) -> str:
    rounded = round(float(value), 1)
    return f"{rounded:+.1f}".replace("-", "\N{MINUS SIGN}") if rounded else "0.0"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _part(interval: Interval, places: Any) -> Interval:
    return Interval(interval.estimate[places], interval.low[places], interval.high[places], interval.n[places])


def _times(interval: Interval, factor: float) -> Interval:
    return Interval(interval.estimate * factor, interval.low * factor, interval.high * factor, interval.n)
