"""Which points no other one beats: surely, possibly, or not on the frontier of two or three objectives."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from xarray import Dataset

from batchcube.results import labelled
from batchcube.results.axes import as_written, axis_names
from batchcube.results.frontier import NOT, POSSIBLY, SURELY, more_is_better, of_cube
from batchcube.results.overload import OVERLOADED, is_told, judge
from batchcube.results.variables import REGISTRY

from . import style
from .curves import latency_scale
from .lines import Quantity, quantity_of
from .reading import RATE, Figured, Select, View, selected, view
from .settings import axes_left, compared_axis

_MARKS: dict[str, dict[str, Any]] = {
    SURELY: {},
    POSSIBLY: {"fillstyle": "left", "markerfacecoloralt": "white"},
    NOT: {"markerfacecolor": "white", "alpha": 0.55},
}
_SAID = {SURELY: "surely on the frontier", POSSIBLY: "possibly on it", NOT: "not on it"}
_MOST_NAMED = 10


def frontier(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    x: str | None = None,
    y: str | None = None,
    third: str | None = None,
    width_mm: float = style.SINGLE_COLUMN_MM,
) -> Figure:
    """Draw all points over two objectives, and say which no other one beats: surely, possibly, or not.

    `x` and `y` are variables, or quantiles as ttft_p99_s, `third` one that counts too (the caption says which
    are wanted large); `lines` is the axis whose values have colours of their own.
    """
    steps = "tpot_mean_s" in cube
    x = x or ("tpot_mean_s" if steps else "throughput_requests_per_s")
    y = y or ("ttft_mean_s" if steps else "latency_mean_s")
    objectives = list(dict.fromkeys(name for name in (x, y, third) if name is not None))
    quantities = {name: quantity_of(figured, cube, name, pools=False) for name in objectives}
    names = [quantity.variable for quantity in quantities.values()]
    select, chosen_rate = _at_one_rate(figured, cube, select)
    left = axes_left(cube, select)
    if not left:
        raise figured.refuses("there is only one point: nothing to compare")
    compared = lines or compared_axis(cube, left)
    seen = view(figured, cube, select, needs=names, lines_named=compared, every=True)
    assert seen.lines is not None
    over = (seen.cube["queue"] == OVERLOADED).values
    axes = axis_names(seen.cube)
    found = of_cube(seen.cube, [_steady_only(seen, q, name, over) for name, q in quantities.items()])
    figure, grid = style.panels(width_mm=width_mm, height_mm=68)
    panel = grid[0, 0]
    across, up = (quantities[name] for name in (x, y))
    means = {q: labelled.mean_interval(_values(seen, q)) for q in (across, up)}
    value, low, high = (
        {q: means[q][part].transpose(*axes).values * q.scale for q in means} for part in ("mean", "low", "high")
    )
    states = found["state"].transpose(*axes).values
    counts = dict.fromkeys(_MARKS, 0)
    named: list[tuple[float, float, str]] = []
    by = axes.index(seen.lines.name)
    for at in np.ndindex(states.shape):
        name = seen.lines.names()[at[by]]
        look = style.look(at[by], name)
        if over[at]:
            continue
        state = str(states[at])
        counts[state] += 1
        point = (float(value[across][at]), float(value[up][at]))
        if state != NOT:
            for q, draw in ((across, panel.hlines), (up, panel.vlines)):
                ends = float(low[q][at]), float(high[q][at])
                other = point[1] if q is across else point[0]
                if np.isfinite(ends).all():
                    draw(other, *ends, color=look.colour, linewidth=0.8, alpha=0.7, label=f"{name}, 95 % interval")
        looks: dict[str, Any] = {"color": look.colour, "marker": look.marker, "linestyle": "none", "markersize": 5}
        label = f"{name}, {_SAID[state]}"
        panel.plot([point[0]], [point[1]], label=label, zorder=3, **looks | _MARKS[state])
        if state == SURELY:
            others = [seen.cube[axis].values[at[k]].item() for k, axis in enumerate(axes) if k != by]
            named.append((*point, ", ".join(map(as_written, others))))
    _name_points(panel, named)
    _fit(panel, value[across][~over], value[up][~over], up)
    panel.set_xlabel(across.label)
    panel.set_ylabel(up.label)
    marks: list[Artist] = [
        Line2D([], [], color=style.GREY, marker="o", linestyle="none", label=_SAID[state], **looks)
        for state, looks in _MARKS.items()
        if counts[state]
    ]
    if seen.replications > 1:
        marks.append(style.whisker_handle())
    handles: list[Artist] = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle="none", label=name)
        for name, look in ((name, style.look(i, name)) for i, name in enumerate(seen.lines.names()))
    ]
    wanted = " and ".join(
        f"{'more' if more_is_better(q.variable) else 'less'} {_called(q)}" for q in quantities.values()
    )
    rest = [axis for axis in axes if axis != seen.lines.name]
    caption = seen.caption(
        f"Better is {wanted}; statements on the frontier hold together with 95 %.",
        f"Numbers beside points: {', '.join(rest)}." if named and rest else "",
        f"{int(over.sum())} overloaded points are left out." if over.any() else "",
        chosen_rate,
    )
    return style.finish(figure, "Frontier", seen.subtitle(), handles, marks, caption)


def _called(quantity: Quantity) -> str:
    return REGISTRY[quantity.variable].long_name if quantity.quantile is None else quantity.label.rpartition(" (")[0]


def _at_one_rate(figured: Figured, cube: Dataset, select: Select) -> tuple[Select, str]:
    """Return the selection with one rate of it, the largest at which the fewest of its points are overloaded.

    A rate is no setting that one may choose to do better.
    """
    rates = [name for name, paths in axes_left(cube, select).items() if set(paths) & set(RATE)]
    if not rates or not is_told(cube):
        return select, ""
    there, _ = selected(figured, cube, select)
    queue = judge(there)
    over = (queue == OVERLOADED).sum([dim for dim in queue.dims if dim != rates[0]]).values
    rate = there[rates[0]]
    which = "largest" if rate.dtype.kind in "iuf" else "last"
    said = f"The rate is the {which} at which the fewest points are overloaded."
    return {**(select or {}), rates[0]: rate.values[np.flatnonzero(over == over.min())[-1]].item()}, said


def _values(seen: View, quantity: Quantity) -> xr.DataArray:
    """Return what each replication has of a quantity, in the unit of its variable."""
    values = seen.cube[quantity.variable]
    return values if quantity.quantile is None else values.sel(quantile=quantity.quantile, method="nearest", drop=True)


def _steady_only(seen: View, quantity: Quantity, name: str, over: Any) -> xr.DataArray:
    """Return a quantity, by name, whose values are worst of all where the queue keeps growing."""
    values = _values(seen, quantity).astype(float)
    where = xr.DataArray(over, dims=seen.cube["queue"].dims)
    return values.where(~where, -np.inf if more_is_better(name) else np.inf).rename(name).assign_attrs(values.attrs)


def _name_points(panel: Any, named: list[tuple[float, float, str]]) -> None:
    """Write the settings beside points, where they are few; those of points that lie on each other together."""
    together: dict[tuple[float, float], list[str]] = {}
    for across, up, text in named if len(named) <= _MOST_NAMED else ():
        place = next((known for known in together if np.allclose(known, (across, up), rtol=0.01)), (across, up))
        if text not in together.setdefault(place, []):
            together[place].append(text)
    for place, texts in together.items():
        said = " / ".join(filter(None, texts))
        panel.annotate(said, place, xytext=(4, 4), textcoords="offset points", size=7, color=style.GREY)


def _fit(panel: Any, across: Any, up: Any, quantity: Quantity) -> None:
    """Fit the axes to the points: intervals of few replications may reach far beyond."""
    if quantity.time:
        latency_scale([panel], up)
    for values, ends in ((across, panel.set_xlim), (up, panel.set_ylim)):
        known = values[np.isfinite(values)]
        if not known.size:
            continue
        if values is up and panel.get_yscale() == "log":
            ends(0.8 * known.min(), 1.3 * known.max())
            continue
        room = 0.12 * (float(np.ptp(known)) or abs(float(known[0])) or 1.0)
        ends(known.min() - room, known.max() + room)
