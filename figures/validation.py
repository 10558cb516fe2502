"""Simulated against measured: distributions of what users feel, and how full the server was."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from xarray import Dataset

from . import style
from .reading import Figured

_PANELS = {
    "ttft_s": "time to first token (s)",
    "tpot_s": "time per output token (s)",
    "e2e_s": "end-to-end latency (s)",
}
_COURSES = {"admitted": "admitted requests", "waiting": "waiting requests"}
_LOOKS: dict[str, tuple[str, Any]] = {"measured": ("black", "-"), "simulated": (style.look(1).colour, "--")}


def simulated_vs_measured(validation: Dataset, figured: Figured, *, width_mm: float = style.DOUBLE_COLUMN_MM) -> Figure:
    """Draw distributions of TTFT, TPOT and end-to-end latency, and admitted and waiting requests over time."""
    judged = validation["judged"].values.astype(bool)
    if not judged.any():
        raise figured.refuses("the validation judges no request")
    figure, axes = style.panels(2, 3, width_mm=width_mm, height_mm=46)
    for panel, (quantity, label) in zip(axes[0], _PANELS.items(), strict=True):
        for side, (colour, line) in _LOOKS.items():
            values = validation[f"{side}_{quantity}"].values[judged]
            values = np.sort(values[np.isfinite(values)])
            share = np.arange(1, values.size + 1) / max(values.size, 1)
            panel.step(values, share, where="post", color=colour, linestyle=line, linewidth=1.3, label=side)
        panel.set_xlabel(label)
        panel.set_ylim(0, 1.02)
    axes[0, 0].set_ylabel("share of requests")
    time = validation["time_s"].values
    for panel, (course, label) in zip(axes[1, :2], _COURSES.items(), strict=True):
        for side, (colour, line) in _LOOKS.items():
            values = validation[f"{side}_{course}"].values
            panel.plot(time, values, color=colour, linestyle=line, linewidth=1.3, label=side)
        panel.set_xlabel("time (s)")
        panel.set_ylabel(label)
        style.from_zero(panel)
    _request_by_request(validation, axes[1, 2], judged)
    lines: list[Artist] = [
        Line2D([], [], color=colour, linestyle=line, linewidth=1.3, label=side)
        for side, (colour, line) in _LOOKS.items()
    ]
    said = (
        *str(validation.attrs.get("warnings", "")).splitlines(),
        *(validation.attrs.get(k) for k in ("name", "source")),
    )
    subtitle = "; ".join(str(one) for one in said if one)
    caption = (
        f"Upper panels and the last: {int(judged.sum())} of {judged.size} requests, {validation.attrs['judged']}. "
        "Admitted: from first admission to last token, preempted or not."
    )
    return style.finish(figure, "Simulated against measured", subtitle, lines, [], caption)


def _request_by_request(validation: Dataset, panel: Axes, judged: NDArray[np.bool_]) -> None:
    measured, simulated = (validation[f"{side}_e2e_s"].values[judged] for side in _LOOKS)
    top = 1.05 * float(np.nanmax([measured, simulated]))
    panel.plot([0, top], [0, top], color="#999999", linewidth=0.8, label="equal")
    style_of: dict[str, Any] = {"color": _LOOKS["simulated"][0], "marker": "o", "markersize": 2, "linestyle": "none"}
    panel.plot(measured, simulated, label="requests", **style_of)
    panel.set_xlim(0, top)
    panel.set_ylim(0, top)
    panel.set_xlabel("end-to-end latency measured (s)")
    panel.set_ylabel("simulated (s)")
