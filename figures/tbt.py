"""Continuous batching: the time between tokens and of a step, against the arrival rate and the batch size."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from xarray import Dataset

from . import style
from .curves import line_handles, line_names, line_places, mark_handles, quantity_label, x_axis
from .reading import LARGEST_BATCH, RATE, Figured, Select, View, number_of, view
from .settings import SLA_TARGET, PointSettings, listed, numbers_of_lines, policy_axes, settings_at
from .windows import band_marks

_STATISTICS = {"mean": None, "p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
_MOST_PRINTED = 4
# Printed points more than so many times as high as all lines stand in the caption.
_FAR = 1.5


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
    seen = view(figured, cube, select, needs=[variable], x=RATE, lines=policy_axes(cube), lines_named=lines)
    assert seen.x is not None
    part = {} if probability is None else {"quantile": _quantile(seen, probability)}
    figure, axes = style.panels(width_mm=width_mm, height_mm=62)
    panel = axes[0, 0]
    for i, (name, at) in enumerate(zip(line_names(seen), line_places(seen), strict=True)):
        interval = seen.interval(variable, **at, **part).scaled(1e3)
        style.line(panel, seen.x.positions, interval, seen.queue(**at), name, style.look(i, name))
    given: list[Artist] = []
    names = line_names(seen)
    shown = np.concatenate([np.ravel(line.get_ydata()) for line in panel.get_lines()]).astype(float)
    highest = _FAR * float(np.nanmax(shown))
    far = []
    for k, (name, points) in enumerate(others.items()):
        # In the colour of the line that is held against it.
        colour = style.look(names.index(name) if name in names else k, name).colour
        near = [(rate, ms) for rate, ms in points if ms <= highest]
        far += [(name, rate, ms) for rate, ms in points if ms > highest]
        rates, times = zip(*near, strict=True) if near else ((), ())
        style.printed(panel, rates, times, f"{name}, as printed", colour)
        given.append(style.printed_handle(f"{name}, as printed", colour))
    x_axis(panel, seen.x)
    panel.set_ylabel(f"{statistic} time between tokens (ms)")
    targets = numbers_of_lines(seen, SLA_TARGET)
    for target in targets:
        style.limit(panel, 1e3 * target, "SLA target")
    if others:
        # What is compared fills the panel.
        drawn = np.concatenate([np.ravel(line.get_ydata()) for line in panel.get_lines()]).astype(float)
        room = 0.15 * float(np.nanmax(drawn) - np.nanmin(drawn))
        panel.set_ylim(np.nanmin(drawn) - room, np.nanmax(drawn) + room)
    else:
        style.from_zero(panel)
    marks = mark_handles(seen)
    if targets:
        marks.insert(0, style.limit_handle(f"SLA target of the controller ({listed(targets, 1e3)} ms)"))
    over = (
        "Over all tokens but the first of each request."
        if "preemptions" in seen.cube
        else "Over requests, each with the decoding time per token of its batch."
    )
    outside = ", ".join(f"{ms:g} ms at {rate:g}/s ({name})" for name, rate, ms in far)
    beyond = f"Printed, and beyond the panel: {outside}." if far else ""
    title = "Time between tokens against arrival rate"
    return style.finish(
        figure, title, seen.subtitle(), [*line_handles(seen), *given], marks, seen.caption(over, beyond)
    )


def _printed_points(figured: Figured, printed: Any) -> dict[str, list[tuple[float, float]]]:
    """Return the points (rate, ms) that `printed` names."""
    points: dict[str, list[tuple[float, float]]] = {}
    for group in str(printed).split(";") if printed is not None else ():
        name, _, spelled = group.partition("=")
        try:
            pairs = [tuple(number_of(part) for part in pair.split(":")) for pair in spelled.split(",")]
            points[name.strip()] = [(rate, ms) for rate, ms in pairs]
        except ValueError:
            raise figured.refuses(
                f"printed = {printed}: must be names with rate:ms, as static=4:44,5.4:51.1;dynamic=4:36.9"
            ) from None
    if len(points) > _MOST_PRINTED:
        raise figured.refuses(f"printed: must be at most {_MOST_PRINTED} names, not {len(points)}")
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
    seen = view(figured, cube, select, needs=needs, x=LARGEST_BATCH, lines=policy_axes(cube), lines_named=lines)
    assert seen.x is not None
    figure, axes = style.panels(1, 2, width_mm=width_mm, height_mm=62)
    throughput, step = axes[0]
    laws: dict[tuple[float, float], None] = {}
    for i, (name, at) in enumerate(zip(line_names(seen), line_places(seen), strict=True)):
        points = [settings_at(seen, {**at, seen.x.name: k}) for k in range(len(seen.x.values))]
        size = np.asarray(
            seen.interval("batch_size_mean", **at).estimate
            if x == "batch_size_mean"
            else [point.number(LARGEST_BATCH[0], figured) for point in points]
        )
        order = np.argsort(size)
        look = style.look(i, name)
        for panel, variable, scale in ((throughput, "throughput_tokens_per_s", 1.0), (step, "tbt_mean_s", 1e3)):
            interval = seen.interval(variable, **at).scaled(scale).at(order)
            style.line(panel, size[order], interval, None, name, look)
        found = {_step_law(point) for point in points}
        law = found.pop() if len(found) == 1 else None
        if law is not None and law not in laws:
            laws[law] = None
            fine = np.linspace(min(1.0, float(size.min())), float(size.max()), 200)
            tau = law[0] + law[1] * fine
            style.theory(throughput, fine, fine / tau, name, look.colour)
            style.theory(step, fine, 1e3 * tau, name, look.colour)
    limits = numbers_of_lines(seen, "report.token_sla_s")
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
    marks += [style.limit_handle(f"limit between tokens ({listed(limits, 1e3)} ms)")] if limits else []
    marks += band_marks(seen)
    # An unbounded queue is what keeps batches full: overload is the point here, not a fault.
    said = "Points are not marked as overloaded, as batches are full only while requests wait. " + (
        "b is a mean over steps and τ(b) one over tokens: the end of the run, where batches empty, weighs less in τ(b)."
        if x == "batch_size_mean"
        else "Throughput is that of the whole run, with its end, where batches are smaller than b."
    )
    title = "Throughput and time of a step against batch size"
    return style.finish(figure, title, seen.subtitle(), line_handles(seen), marks, seen.caption(said))


def _step_law(settings: PointSettings) -> tuple[float, float] | None:
    """Return c0 and c1 in s where the specification states them as numbers."""
    if settings.value("server.service.law") != "steps":
        return None
    c0, c1 = (settings.stated.get(f"server.service.{name}", 0.0) for name in ("c0_s", "c1_s_per_request"))
    return (float(c0), float(c1)) if None not in (c0, c1) and c0 + c1 > 0 else None


def _quantile(seen: View, probability: float) -> int:
    """Return where a quantile lies in the cube."""
    known = seen.cube["quantile"].values
    places = np.flatnonzero(np.isclose(known, probability))
    if not places.size:
        has = ", ".join(f"p{100 * q:g}" for q in known)
        raise seen.figured.refuses(f"statistic = p{100 * probability:g}: the cube has mean, {has}")
    return int(places[0])
