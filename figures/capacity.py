"""The largest arrival rate at which an SLA holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from xarray import Dataset

from batchcube.results.overload import OVERLOADED, STEADY
from batchcube.results.variables import GOODPUT, REGISTRY

from . import style
from .curves import line_names, line_places
from .reading import Figured, Select, View, number_of, view
from .settings import axes_left, compared_axis

CAPACITY = "capacity_requests_per_s"
# By the flag of a search that found no answer.
_UNANSWERED = {
    -1: "miss the criteria already at the lowest rate",
    1: "still meet the criteria at the highest rate",
    2: "meet the criteria in runs too short to tell whether their backlog grows",
}


def capacity(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    printed: Any = None,
    width_mm: float = style.SINGLE_COLUMN_MM,
) -> Figure:
    """Draw the largest arrival rate at which the SLA holds, a row per policy, a panel per value of a second axis.

    `printed` are values of a paper to draw beside: names of rows with a number for every panel, as
    `static=3,5.4;dynamic=3.3,6.6`.
    """
    flag = "capacity_unbracketed"
    if CAPACITY not in cube:
        raise figured.refuses(f"the cube has no variable {CAPACITY}; `batchcube capacity` makes a cube that has it")
    left = axes_left(cube, select)
    compared = lines or compared_axis(cube, left)
    groups = [path for name, paths in left.items() if name != compared for path in paths]
    given = searched(cube)
    seen = view(figured, given, select, needs=[CAPACITY, flag], lines_named=compared, panels=groups)
    names = line_names(seen)
    count = len(seen.panels.values) if seen.panels else 1
    beside = _printed_values(figured, printed, names, count)
    height = 12 + 6 * len(names)
    figure, axes = style.panels(count, 1, width_mm=width_mm, height_mm=height)
    unanswered: dict[str, list[str]] = {}
    hollow = False
    for place, panel in enumerate(axes[:, 0]):
        where = [seen.panels.names()[place]] if seen.panels else []
        for row, (name, at) in enumerate(zip(names, line_places(seen, place), strict=True)):
            missing = np.isnan(seen.array(CAPACITY, **at))
            interval = seen.interval(CAPACITY, **at)
            queue = OVERLOADED if missing.any() else STEADY  # hollow where some have no answer
            style.dot(panel, float(row), interval, queue, name, style.look(row, name))
            if name in beside:
                style.printed(panel, [beside[name][place]], [float(row)], f"{name}, as printed", "black")
            if missing.all():
                room = panel.get_yaxis_transform()
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
                panel.text(0.02, row, "no answer", transform=room, va="center", color=style.GREY, size=8, bbox=box)
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
    if beside:
        marks.append(style.printed_handle("as printed", "black"))
    if hollow:
        marks.append(style.mark_handle("some replications without an answer", OVERLOADED))
    said = [f"Left out of the means: replications that {what}, {'; '.join(rows)}." for what, rows in unanswered.items()]
    caption = search_caption(seen, *said)
    return style.finish(figure, "Capacity under the SLA", seen.subtitle(), [], marks, caption)


def _printed_values(figured: Figured, printed: Any, names: Sequence[str], panels: int) -> dict[str, list[float]]:
    """Return the numbers that `printed` names, one for every panel."""
    found = {}
    for group in str(printed).split(";") if printed is not None else ():
        name, _, spelled = group.partition("=")
        try:
            found[name.strip()] = [number_of(part) for part in spelled.split(",")]
        except ValueError:
            found[name.strip()] = []
        if name.strip() not in names or len(found[name.strip()]) != panels:
            raise figured.refuses(
                f"printed = {printed}: must be names of rows ({', '.join(names)}) with {panels} numbers each, as "
                "static=3,5.4;dynamic=3.3,6.6"
            )
    return found


def search_caption(seen: View, *said: str) -> str:
    """Return the line under a figure of capacities: what the intervals are, the criteria, the range, the notes."""
    about = seen.cube.attrs
    kind = "prediction intervals of one replication" if seen.of_single else "t intervals over replications"
    sentences = [
        "One replication: no interval can be given."
        if seen.replications == 1
        else f"Searched over {seen.replications} replications together; intervals are 95 % {kind} (jackknife), "
        "widened by what the search leaves open."
    ]
    criteria = [_criterion(criterion) for criterion in json.loads(str(about.get("capacity_criteria", "[]")))]
    if criteria:
        growth = float(about.get("capacity_growth", 1.0))
        steady = [f"servers that keep up with {100 * (1 - growth):g} % of the arrivals"] if growth < 1 else []
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
    return " ".join(part for part in (*sentences, *said, style.OF_WHOLE if notes else "", *notes) if part)


def _criterion(criterion: Mapping[str, Any]) -> str:
    """Write one criterion of a search with its limit and unit."""
    variable = REGISTRY[str(criterion["variable"])]
    name = variable.long_name
    if criterion.get("quantile") is not None:
        name = f"p{100 * float(criterion['quantile']):g} {name.removeprefix('quantile of the ')}"
    unit = "" if variable.units == "1" else f" {variable.units}"
    within = "≥" if criterion["variable"] == GOODPUT else "≤"
    return f"{name} {within} {float(criterion['limit']):g}{unit}"


def searched(cube: Dataset) -> Dataset:
    """Return a cube; one of capacities with the variable that `view` asks of every cube."""
    if CAPACITY not in cube or "requests" in cube:
        return cube
    return cube.assign(requests=xr.zeros_like(cube[CAPACITY], np.int64))
