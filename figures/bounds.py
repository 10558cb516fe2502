"""The bounds that Algorithms 1 and 2 of [DB] put on the batch size: as printed and corrected, and where they settle."""

from __future__ import annotations

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from xarray import Dataset

from batchcube.results.pieces import any_of

from . import style
from .curves import line_names, line_places, mark_handles
from .reading import LARGEST_BATCH, Figured, Select, View, view
from .settings import SLA_TARGET, listed, numbers_of_lines, policy_axes, settings_of_lines
from .windows import TIME, Course, band_marks, course, draw_courses, run_handles, said_of_windows

_RULE = ("policy.memory.rule",)
_MEMORY_BOUND, _SLA_BOUND = "window_batch_memory_bound_mean", "window_batch_sla_bound_mean"
_HELD = "A window without a decision keeps the bound of the one before."


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
    seen = view(figured, cube, select, needs=needs, lines=(_RULE,), lines_needed=True)
    if not any_of(seen.cube[_MEMORY_BOUND], np.isfinite):
        raise figured.lacks("the cube has no memory bound over time: no mode with policy.memory was run")
    figure, axes = style.panels(1, 2, width_mm=width_mm, height_mm=62)
    left, right = axes[0]
    left.get_gridspec().set_width_ratios([1.7, 1.0])
    draw_courses(seen, left, _held(seen, _MEMORY_BOUND, "policy.memory"))
    largest = numbers_of_lines(seen, LARGEST_BATCH[0])
    for value in largest:
        style.limit(left, value, "B_max")
    style.from_zero(left)
    left.set_xlabel(TIME)
    left.set_ylabel("memory bound b_mem (requests)")
    names = line_names(seen)
    for i, (name, at) in enumerate(zip(names, line_places(seen), strict=True)):
        interval = seen.interval(overflow, **at).at(None)
        queue = np.atleast_1d(seen.queue(**at))
        style.line(right, np.array([float(i)]), interval, queue, name, style.look(i, name))
    allowed = numbers_of_lines(seen, "policy.memory.overflow_probability")
    for value in allowed:
        style.limit(right, value, "allowed overflow")
    style.name_ticks(right, names)
    right.set_xlim(-0.5, len(names) - 0.5)
    style.from_zero(right)
    right.set_ylabel("overflow fraction (share of batches)")
    marks: list[Artist] = [style.limit_handle(f"left: B_max = {listed(largest)}")] if largest else []
    marks += [style.limit_handle(f"right: allowed, ε_M = {listed(allowed)}")] if allowed else []
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
    seen = view(figured, cube, select, needs=needs, lines=((SLA_TARGET,), *policy_axes(cube)), lines_named=lines)
    ends: set[float] = set()
    settled: set[float] = set()
    for settings in settings_of_lines(seen):
        if not settings.has("policy.sla"):
            continue
        low, high = (settings.number(f"policy.{end}_batch", figured) for end in ("smallest", "largest"))
        ends |= {low, high}
        if settings.value("policy.sla.variant") == "paper":
            half = settings.number("policy.sla.alpha", figured) / 2.0
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
    marks: list[Artist] = [Line2D([], [], color="black", linewidth=0.9, label=f"B_min, B_max = {listed(ends)}")]
    if settled:
        marks.append(style.limit_handle(f"B_min + α/2, B_max − α/2 = {listed(settled)}"))
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
    for settings, at in zip(settings_of_lines(seen), line_places(seen), strict=True):
        values = seen.array(variable, **at)  # (window, replication)
        if not settings.has(setting):
            values = np.full_like(values, np.nan)
        windows = np.arange(values.shape[0])[:, None]
        last = np.maximum.accumulate(np.where(np.isfinite(values), windows, 0), axis=0)
        values = np.take_along_axis(values, last, axis=0)
        largest = settings.value(LARGEST_BATCH[0])
        bounds = (0.0, float(largest) if isinstance(largest, int | float) else np.inf)
        held.append((course(seen, variable, at)[0], seen.mean(values, bounds)))
    return held
