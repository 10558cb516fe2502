"""What the number of bins, their order and the predictor's mistakes do."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from xarray import Dataset

from . import style
from .curves import (
    THROUGHPUT_THEORY,
    THROUGHPUTS,
    draw_curves,
    draw_limit,
    line_handles,
    line_names,
    line_places,
    mark_handles,
)
from .reading import BINS, ERROR, MODE, PREDICTOR, VARIANT, Figured, Select, View, view


def throughput_vs_bins(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    quantity: str = "busy_throughput_requests_per_s",
    width_mm: float = style.SINGLE_COLUMN_MM,
) -> Figure:
    """Draw throughput against the number of bins with Theorem 4.2 of [MB] and its limit c_max where they apply."""
    figured.check("quantity", quantity, THROUGHPUTS)
    seen = view(figured, cube, select, needs=[quantity], x=BINS, lines=(MODE, PREDICTOR, VARIANT), lines_named=lines)
    return _throughput(seen, "Throughput against number of bins", quantity, width_mm)


def throughput_vs_predictor_error(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    quantity: str = "busy_throughput_requests_per_s",
    width_mm: float = style.SINGLE_COLUMN_MM,
) -> Figure:
    """Draw throughput against the probability that the predictor names a neighbouring bin ([MB] Fig. 8)."""
    figured.check("quantity", quantity, THROUGHPUTS)
    seen = view(figured, cube, select, needs=[quantity], x=ERROR, lines=(BINS, MODE), lines_named=lines)
    return _throughput(seen, "Throughput against predictor error", quantity, width_mm)


def _throughput(seen: View, title: str, quantity: str, width_mm: float) -> Figure:
    figure, axes = style.panels(width_mm=width_mm, height_mm=62)
    panel = axes[0, 0]
    token = quantity == "throughput_tokens_per_s"
    theory = draw_curves(seen, panel, quantity, theory="" if token else "theory_throughput_requests_per_s")
    limit = not token and draw_limit(seen, panel)
    marks = mark_handles(seen, theory=[THROUGHPUT_THEORY] if theory else [], limit=limit)
    return style.finish(figure, title, seen.subtitle(), line_handles(seen), marks, seen.caption())


_BY_BIN = {
    "share": "share of requests",
    "bin_batches": "batches",
    "bin_batch_size_mean": "mean batch size\n(requests)",
    "bin_wait_mean_s": "mean wait (s)",
    "bin_latency_mean_s": "mean latency (s)",
    "bin_length_max_mean": "longest of a batch",
}


def per_bin_statistics(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    width_mm: float = style.DOUBLE_COLUMN_MM,
) -> Figure:
    """Draw requests, batches, batch size, wait, latency and longest request of every bin."""
    needs = ["bin_requests", "bin_lower_edge", "bin_upper_edge", *list(_BY_BIN)[1:]]
    seen = view(figured, cube, select, needs=needs, lines=(MODE, BINS, PREDICTOR, VARIANT), lines_named=lines)
    figure, axes = style.panels(2, 3, width_mm=width_mm, height_mm=46)
    edges = False
    for panel, (variable, label) in zip(axes.flat, _BY_BIN.items(), strict=True):
        for i, (name, at) in enumerate(zip(line_names(seen), line_places(seen), strict=True)):
            held = _bins_held(seen, at)
            number = np.arange(1.0, held + 1)
            values = seen.array("bin_requests" if variable == "share" else variable, **at)[:held].astype(float)
            if variable == "share":
                values = values / values.sum(axis=0)
            queue = np.full(held, seen.queue(**at))
            look = style.look(i, name)
            style.line(panel, number, seen.mean(values, (0.0, np.inf)), queue, name, look)
            if variable == "bin_length_max_mean" and seen.lines is None:
                low, high = (seen.array(f"bin_{end}_edge", **at)[:held] for end in ("lower", "upper"))
                high = np.where(np.isinf(high), 1.1 * np.nanmax(values), high)  # an open last bin
                panel.vlines(number, low, high, color="#999999", linewidth=4, alpha=0.5, zorder=1, label="bin's edges")
                edges = True
        unit = f"\n({seen.unit(variable)})" if variable == "bin_length_max_mean" else ""
        panel.set_ylabel(label + unit)
        panel.set_xlabel("bin, shortest requests first")
        style.from_zero(panel)
        panel.margins(x=0.08)
        style.integer_ticks(panel)
    style.big_numbers(axes[0, 1])
    said = "Grey bars: the range of predicted lengths of the bin." if edges else ""
    return style.finish(
        figure, "Bins one by one", seen.subtitle(), line_handles(seen), mark_handles(seen), seen.caption(said)
    )


def _bins_held(seen: View, at: dict[str, int]) -> int:
    """Return how many bins this point of the cube has: the bins further on are NaN."""
    return max(1, int(np.count_nonzero(~np.isnan(seen.array("bin_upper_edge", **at)))))
