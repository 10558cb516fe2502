"""How large batches are."""

from __future__ import annotations

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from xarray import Dataset

from batchcube.results.overload import WORDS

from . import style
from .curves import line_names, line_places
from .reading import BINS, MODE, PREDICTOR, VARIANT, Figured, Select, view


def batch_size_distribution(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    width_mm: float = style.SINGLE_COLUMN_MM,
) -> Figure:
    """Draw the share of batches of each size, a panel per mode or number of bins, with the mean size."""
    needs = ["batch_size_histogram", "batch_size_mean"]
    seen = view(figured, cube, select, needs=needs, lines=(MODE, BINS, PREDICTOR, VARIANT), lines_named=lines)
    names = line_names(seen)
    figure, axes = style.panels(len(names), 1, width_mm=width_mm, height_mm=50 if len(names) == 1 else 27)
    size = np.asarray(seen.cube["batch_size"].values, dtype=float)
    largest = 1.0
    for i, (panel, name, at) in enumerate(zip(axes[:, 0], names, line_places(seen), strict=True)):
        counts = seen.array("batch_size_histogram", **at).astype(float)
        total = counts.sum(axis=0)
        # A replication without batches has no distribution.
        share = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
        style.bars(panel, size, seen.mean(share, (0.0, 1.0)), name, style.look(i, name))
        mean = float(seen.interval("batch_size_mean", **at).estimate)
        style.mean_mark(panel, mean)
        word = WORDS[str(seen.queue(**at))]
        queue = f", {word}" if word else ""
        panel.set_title(f"{name}{queue}: mean {mean:.1f}" if seen.lines else f"mean {mean:.1f}{queue}")
        panel.yaxis.set_major_locator(MaxNLocator(3))
        style.from_zero(panel)
        style.integer_ticks(panel)
        used = np.flatnonzero(counts.sum(axis=-1))
        largest = max(largest, float(size[used[-1]]) if used.size else 1.0)
    for panel in axes[:, 0]:
        panel.set_xlim(0.4, largest + 0.6)
        if panel is not axes[-1, 0]:
            panel.tick_params(labelbottom=False)
    axes[-1, 0].set_xlabel("batch size (requests)")
    figure.supylabel("share of batches", size=8)
    handles: list[Artist] = [style.whisker_handle("black")] if seen.replications > 1 else []
    handles.append(style.mean_handle())
    return style.finish(figure, "Distribution of batch sizes", seen.subtitle(), [], handles, seen.caption())
