"""Batching modes side by side, with differences paired by replication."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from xarray import Dataset

from batchcube.errors import suggestion
from batchcube.results.overload import worse
from batchcube.results.pieces import any_of
from batchcube.results.statistics import Interval

from . import style
from .curves import mark_handles, x_axis
from .reading import MODE, RATE, FigureAxis, Figured, Select, View, view

_VIOLATIONS = ("request_sla_violation_fraction", "token_sla_violation_fraction")
_PAIRED = "Differences are paired by replication (common random numbers)."
# Which dynamic mode answers which static one: without bins, and with bins.
_PAIRS = (("fifo_fixed", "dynamic_only"), ("multi_bin_only", "multi_bin_dynamic"))


class _Quantity(NamedTuple):
    label: str
    unit: str
    values: NDArray[Any]
    """(mode, [rate,] replication)"""
    bounds: tuple[float, float] = (0.0, np.inf)


def modes_compared(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    baseline: str = "fifo_fixed",
    width_mm: float = style.DOUBLE_COLUMN_MM,
) -> Figure:
    """Draw throughput, SLA violations, p50 and p99 latency of every mode, and its paired difference from a baseline."""
    needs = ["throughput_requests_per_s", "latency_quantile_s"]
    seen = view(figured, cube, select, needs=needs, lines=(MODE,), lines_needed=True)
    assert seen.lines is not None
    modes = seen.lines.names()
    if baseline not in modes:
        raise figured.refuses(f"baseline = {baseline}: {suggestion(baseline, modes)}")
    quantities = [_throughput(seen), *_violations(seen), _quantile(seen, 0.5), _quantile(seen, 0.99)]
    figure, axes = style.panels(2, len(quantities), width_mm=width_mm, height_mm=16 + 6 * len(modes))
    base = modes.index(baseline)
    queue = seen.queue()
    for column, quantity in enumerate(quantities):
        levels = [seen.mean(values, quantity.bounds) for values in quantity.values]
        differences = [seen.difference(values, quantity.values[base]) for values in quantity.values]
        either = worse(queue, queue[base])
        _dots(axes[0, column], modes, modes, levels, queue, named=column == 0)
        others = [i for i in range(len(modes)) if i != base]
        _dots(
            axes[1, column],
            modes,
            [modes[i] for i in others],
            [differences[i] for i in others],
            either[others],
            named=column == 0,
        )
        style.zero(axes[1, column], vertical=True)
        axes[0, column].set_xlabel(f"{quantity.label}\n({quantity.unit})")
        axes[1, column].set_xlabel(f"minus {baseline}\n({quantity.unit})")
    caption = seen.caption(_PAIRED, _no_sla(quantities))
    marks = mark_handles(seen, whiskers=True)
    return style.finish(figure, "Modes compared", seen.subtitle(), [], marks, caption)


def static_vs_dynamic(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    width_mm: float = style.DOUBLE_COLUMN_MM,
) -> Figure:
    """Draw SLA violations and throughput of static and dynamic batching, and dynamic minus static paired.

    Compares dynamic_only with fifo_fixed and multi_bin_dynamic with multi_bin_only, over the arrival rate where the
    cube has that axis.
    """
    needs = ["throughput_requests_per_s"]
    seen = view(figured, cube, select, needs=needs, lines=(MODE,), lines_needed=True, x=RATE, x_needed=False)
    assert seen.lines is not None
    modes = seen.lines.names()
    pairs = [pair for pair in _PAIRS if set(pair) <= set(modes)]
    if not pairs:
        wanted = " or ".join(f"{static} and {dynamic}" for static, dynamic in _PAIRS)
        raise figured.lacks(f"needs the modes {wanted}, and the cube has {', '.join(modes)}")
    violations = _violations(seen)
    if not violations:
        raise figured.lacks("the cube has no SLA violations: neither report.request_sla_s nor token_sla_s was set")
    quantities = [*violations, _throughput(seen)]
    drawn = [mode for pair in pairs for mode in pair]
    height = 46.0 if seen.x else 16.0 + 6.0 * len(drawn)
    figure, axes = style.panels(2, len(quantities), width_mm=width_mm, height_mm=height)
    queue = dict(zip(modes, seen.queue(), strict=True))
    for column, quantity in enumerate(quantities):
        values = dict(zip(modes, quantity.values, strict=True))
        levels = {mode: seen.mean(values[mode], quantity.bounds) for mode in drawn}
        differences = {f"{b} − {a}": (b, seen.difference(values[b], values[a])) for a, b in pairs}
        either = {b: worse(queue[a], queue[b]) for a, b in pairs}
        top, bottom = axes[0, column], axes[1, column]
        unit = f"({quantity.unit})"
        if seen.x:
            _over_rate(top, seen.x, [(mode, mode, levels[mode], queue[mode]) for mode in drawn])
            _over_rate(bottom, seen.x, [(name, b, gap, either[b]) for name, (b, gap) in differences.items()])
            style.zero(bottom)
            top.set_ylabel(f"{quantity.label}\n{unit}")
            bottom.set_ylabel(f"dynamic − static\n{unit}")
        else:
            _dots(top, drawn, drawn, list(levels.values()), np.array([queue[m] for m in drawn]), named=column == 0)
            rows = [b for b, _ in differences.values()]
            gaps = [gap for _, gap in differences.values()]
            _dots(bottom, rows, rows, gaps, np.array([either[b] for b in rows]), named=column == 0)
            style.zero(bottom, vertical=True)
            top.set_xlabel(f"{quantity.label} {unit}")
            bottom.set_xlabel(f"dynamic − static {unit}")
    lines = [style.line_handle(mode, style.look(i, mode)) for i, mode in enumerate(drawn)] if seen.x else []
    marks = mark_handles(seen, whiskers=seen.x is None)
    pairing = "; ".join(f"{dynamic} minus {static}" for static, dynamic in pairs)
    caption = seen.caption(f"Lower panels: {pairing}.", _PAIRED)
    return style.finish(figure, "Static against dynamic batching", seen.subtitle(), lines, marks, caption)


def _throughput(seen: View) -> _Quantity:
    return _Quantity("throughput", "requests/s", seen.array("throughput_requests_per_s"))


def _violations(seen: View) -> list[_Quantity]:
    """Return the SLA violations that the cube has: of requests, or else of tokens."""
    for variable, unit in zip(_VIOLATIONS, ("share of requests", "share of tokens"), strict=True):
        if variable in seen.cube and any_of(seen.cube[variable], np.isfinite):
            return [_Quantity("SLA violations", unit, seen.array(variable), (0.0, 1.0))]
    return []


def _quantile(seen: View, probability: float) -> _Quantity:
    place = int(np.abs(seen.cube["quantile"].values - probability).argmin())
    probability = float(seen.cube["quantile"].values[place])
    return _Quantity(f"p{100 * probability:g} latency", "s", seen.array("latency_quantile_s", quantile=place))


def _no_sla(quantities: list[_Quantity]) -> str:
    if any(quantity.label == "SLA violations" for quantity in quantities):
        return ""
    return "No SLA was set, so there are no violations."


def _dots(
    axes: Axes,
    modes: list[str],
    rows: list[str],
    intervals: list[Interval],
    queues: NDArray[np.str_],
    *,
    named: bool,
) -> None:
    """Draw one row per mode, the first on top."""
    for row, (mode, interval, queue) in enumerate(zip(rows, intervals, queues, strict=True)):
        style.dot(axes, float(row), interval, str(queue), mode, style.look(modes.index(mode), mode))
    axes.set_yticks(range(len(rows)), rows if named else [""] * len(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    style.short_numbers(axes)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.12)


def _over_rate(axes: Axes, x: FigureAxis, lines: list[tuple[str, str, Interval, NDArray[np.str_]]]) -> None:
    """Draw lines (name, mode whose look it has, interval, queues) over the arrival rate."""
    for i, (name, mode, interval, queue) in enumerate(lines):
        style.line(axes, x.positions, interval, queue, name, style.look(i, mode))
    x_axis(axes, x)
