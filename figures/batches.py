"""How large batches are."""

from __future__ import annotations

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from xarray import Dataset

from batchcube.results.overload import WORDS

from . import style
from .curves import line_names, line_places
from .reading import BINS, MODE, PREDICTOR, VARIANT, Figured, Select, view

_MOST_BARS = 40


def batch_size_distribution(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    width_mm: float = style.SINGLE_COLUMN_MM,
) -> Figure:
    """Draw the share of batches (mode continuous: of steps) of each size, a panel per policy, with the mean size."""
    needs = ["batch_size_histogram", "batch_size_mean"]
    axes_of = (MODE, BINS, PREDICTOR, VARIANT)
    seen = view(figured, cube, select, needs=needs, lines=axes_of, lines_named=lines)
    names = line_names(seen)
    steps = "steps" in seen.cube
    figure, axes = style.panels(len(names), 1, width_mm=width_mm, height_mm=50 if len(names) == 1 else 27)
    used = np.flatnonzero(seen.array("batch_size_histogram").sum(axis=-1).reshape(-1, cube.sizes["batch_size"]).any(0))
    largest = int(used[-1]) if used.size else 1
    # As many sizes in a bar as make bars of some width.
    together = -(-largest // _MOST_BARS)
    for i, (panel, name, at) in enumerate(zip(axes[:, 0], names, line_places(seen), strict=True)):
        counts = _grouped(seen.array("batch_size_histogram", **at).astype(float)[: largest + 1], together)
        total = counts.sum(axis=0)
        # A replication without batches has no distribution.
        share = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
        edges = np.arange(counts.shape[0] + 1) * together + 0.5
        interval = seen.mean(share, (0.0, 1.0))
        style.bars(panel, edges, interval, name, style.look(i, name))
        mean = float(seen.interval("batch_size_mean", **at).estimate)
        style.mean_mark(panel, mean)
        word = WORDS[str(seen.queue(**at))]
        queue = f", {word}" if word else ""
        panel.set_title(f"{name}{queue}: mean {mean:.1f}" if seen.lines else f"mean {mean:.1f}{queue}")
        panel.yaxis.set_major_locator(MaxNLocator(3))
        style.from_zero(panel, interval.estimate)
        style.integer_ticks(panel)
    for panel in axes[:, 0]:
        panel.set_xlim(0.4, largest + 0.6)
        if panel is not axes[-1, 0]:
            panel.tick_params(labelbottom=False)
    axes[-1, 0].set_xlabel("running requests" if steps else "batch size (requests)")
    what = "steps" if steps else "batches"
    figure.supylabel(f"share of {what}", size=8)
    handles: list[Artist] = [style.whisker_handle("black")] if seen.replications > 1 else []
    handles.append(style.mean_handle())
    said = f"Each bar is of {together} sizes." if together > 1 else ""
    title = "Distribution of running requests over steps" if steps else "Distribution of batch sizes"
    return style.finish(figure, title, seen.subtitle(), [], handles, seen.caption(said))


def _grouped(counts: NDArray[np.float64], together: int) -> NDArray[np.float64]:
    """Add up the counts (size from 0, replication) of every few sizes from 1 on; what has no size is left out."""
    counts = counts[1:]
    missing = -len(counts) % together
    padded = np.pad(counts, ((0, missing), (0, 0)))
    return np.asarray(padded.reshape(-1, together, counts.shape[1]).sum(axis=1))
