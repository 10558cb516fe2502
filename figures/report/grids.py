"""What of a cube goes into a report: means and intervals at every point, and over time, small enough to embed."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from batchcube.errors import printable
from batchcube.results import overload
from batchcube.results.axes import as_written, axis_names, place_of
from batchcube.results.frontier import first_look_of, more_is_better, of_arrays
from batchcube.results.labelled import mean_interval, of_single
from batchcube.results.pieces import any_of, has_values
from batchcube.results.summary import cells, default_variables, summary_table
from batchcube.results.text import UNITS, shortened, told_apart
from batchcube.results.variables import REGISTRY, REPLICATION

from ..reading import RATE, title_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

CAPACITY = "capacity_requests_per_s"
_NUMBERS = 40_000
"""Numbers of a cube that are embedded at most, of points and of windows each: some 300 kB."""
# What theory says of a variable, where a cube has both.
_THEORY = {
    "throughput_requests_per_s": "theory_throughput_requests_per_s",
    "busy_throughput_requests_per_s": "theory_throughput_requests_per_s",
    "latency_mean_s": "theory_latency_s",
}
# Of windows, those that are looked at first.
_OVER_TIME = (
    "window_queue_length_mean",
    "window_running_mean",
    "window_batch_size_mean",
    "window_request_sla_violation_fraction",
    "window_completions",
    "window_batch_target_mean",
    "window_signal_mean_s",
    "window_kv_tokens_mean",
    "window_preemptions",
)
# Of these any two are held against each other: work that one wants more of, and times it costs.
_OBJECTIVES = (
    *("throughput_tokens_per_s", "throughput_requests_per_s", "goodput_requests_per_s"),
    *("latency_mean_s", "ttft_mean_s", "tpot_mean_s"),
)
_MOST_COMPARED = 500
"""Points of a frontier: each is compared with each other one."""
LEFT_OUT = "overloaded"
"""What a point is that no frontier is asked about."""


class Quantity(NamedTuple):
    """A variable, or one of its quantiles, as a report shows it: numbers (point,), in the order of the axes."""

    key: str
    """As `batchcube show -v` takes it: ``latency_quantile_s[0.99]``."""
    title: str
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    text: list[str]
    """Mean with interval as `batchcube show` writes them, without the marks of queues."""
    theory: NDArray[np.float64] | None = None


class Grid(NamedTuple):
    """The points of a cube, with what was counted there; a cube without axes has one point."""

    axes: list[dict[str, Any]]
    judged: xr.DataArray | None
    """What the queue of each point does, over the axes; None where a cube does not say."""
    quantities: list[Quantity]
    left_out: int
    """Quantities that the cube has and that are not here, for want of room."""

    @property
    def queue(self) -> NDArray[np.str_] | None:
        """What the queue of each point does (point,); None where a cube does not say."""
        return None if self.judged is None else self.judged.values.ravel()

    @property
    def points(self) -> int:
        """The number of points."""
        return int(np.prod([len(axis["labels"]) for axis in self.axes], dtype=np.int64))

    def label(self, point: int) -> str:
        """Return a point in words: its value on each axis of several values."""
        places = np.unravel_index(point, [len(axis["labels"]) for axis in self.axes]) if self.axes else ()
        named = zip(self.axes, places, strict=True)
        return ", ".join(f"{axis['name']} = {axis['labels'][i]}" for axis, i in named if len(axis["labels"]) > 1)


def grid_of(cube: xr.Dataset, share: float = 1.0) -> Grid:
    """Return the points of a cube with means and 95 % intervals, the usual variables first.

    ``share`` is the part of the room for numbers that it may take.
    """
    names = axis_names(cube)
    axes = [_axis(cube, name) for name in names]
    points = int(np.prod([cube.sizes[name] for name in names], dtype=np.int64))
    keys = _keys(cube)
    kept = keys[: max(6, int(share * _NUMBERS / (4 * points)))]
    judged = overload.judge(cube).transpose(*names)
    quantities = _quantities(cube, kept, judged)
    return Grid(axes, judged if overload.is_told(cube) else None, quantities, len(keys) - len(kept))


def point_of(cube: xr.Dataset, at: Mapping[str, object]) -> int:
    """Return the number of the point with these values, the first of axes that are not named or do not have theirs."""
    names = axis_names(cube)
    places = [place_of(cube[name].values.tolist(), at.get(name)) or 0 for name in names]
    return int(np.ravel_multi_index(places, [cube.sizes[name] for name in names])) if names else 0


def _axis(cube: xr.Dataset, name: str) -> dict[str, Any]:
    coordinate = cube[name]
    numeric = coordinate.dtype.kind in "iuf" and bool(np.isfinite(coordinate.values).all())
    labels = told_apart([as_written(value) for value in coordinate.values.tolist()])
    return {
        "name": name,
        "title": title_of(coordinate),
        "numeric": numeric,
        "values": [float(value) for value in coordinate.values] if numeric else labels,
        "labels": labels,
        "path": shortened(printable(coordinate.attrs["path"])),
        "is_rate": _is_rate(coordinate),
        "definition": printable(coordinate.attrs.get("definition", "")),
    }


def _is_rate(coordinate: xr.DataArray) -> bool:
    return bool(set(str(coordinate.attrs["path"]).split(",")) & set(RATE))


def _keys(cube: xr.Dataset) -> list[tuple[str, float | None]]:
    """Return the variables of a cube that have one number a point, or one for each quantile, the usual ones first."""
    plain = {
        name for name, variable in REGISTRY.items() if variable.replicated and variable.extra in ((), ("quantile",))
    }
    plain -= {"capacity_unbracketed"}
    usual = default_variables(cube)
    rest = [name for name in REGISTRY if name not in usual and not name.endswith(("_variance_s2", "_min_s", "_max_s"))]
    keys: list[tuple[str, float | None]] = []
    # A plan is about its limits first.
    for name in dict.fromkeys([CAPACITY, "plan_largest_ratio", *usual, *rest]):
        # That a search has no answer is one.
        if name in plain and name in cube and (name == CAPACITY or has_values(cube[name])):
            quantiles = cube["quantile"].values.tolist() if REGISTRY[name].extra else [None]
            keys += [(name, quantile) for quantile in quantiles]
    return keys


def _quantities(cube: xr.Dataset, keys: list[tuple[str, float | None]], judged: xr.DataArray) -> list[Quantity]:
    table = summary_table(cube, list(dict.fromkeys(name for name, _ in keys)), queue=judged)
    mean, low, high = (table[column].to_numpy(np.float64) for column in ("mean", "ci_low", "ci_high"))
    text = [_unmarked(cell) for cell in cells(table)]
    variables = table["variable"].to_numpy()
    found = []
    for name, quantile in keys:
        rows = np.flatnonzero(variables == name)
        if quantile is not None:
            rows = rows[table["quantile"].to_numpy()[rows] == quantile]
        long_name = REGISTRY[name].long_name
        title = long_name if quantile is None else long_name.replace("quantile", f"{100 * quantile:g} % quantile", 1)
        theory = _THEORY.get(name, "")
        found.append(
            Quantity(
                key=name if quantile is None else f"{name}[{quantile:g}]",
                title=titled(title, _unit(cube, name)),
                mean=mean[rows],
                low=low[rows],
                high=high[rows],
                text=[text[row] for row in rows],
                theory=_at_points(cube, theory) if theory in cube and has_values(cube[theory]) else None,
            )
        )
    return found


def _unit(cube: xr.Dataset, name: str) -> str:
    return "requests/s" if name.endswith("requests_per_s") else str(cube[name].attrs["units"])


def _unmarked(cell: str) -> str:
    for mark in filter(None, overload.MARKS.values()):
        cell = cell.removesuffix(f" {mark}")
    return cell


def _at_points(cube: xr.Dataset, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = cube[name].transpose(*axis_names(cube)).values.astype(np.float64).ravel()
    return values


class Courses(NamedTuple):
    """Variables over time: means with intervals in windows (point, window), and the middle of the windows (same)."""

    time_s: NDArray[np.float64]
    quantities: list[Quantity]


def courses_of(cube: xr.Dataset, share: float = 1.0) -> Courses | None:
    """Return what a cube has over time, as much as there is room for; None where it has one window or none."""
    names = axis_names(cube)
    if cube.sizes.get("window", 1) < 2 or "window_width_s" not in cube:
        return None
    points = int(np.prod([cube.sizes[name] for name in names], dtype=np.int64))
    windows = cube.sizes["window"]
    most = int(share * _NUMBERS / (3 * points * windows))
    have = [
        name
        for name in _OVER_TIME
        if name in cube and has_values(cube[name]) and any_of(cube[name], lambda values: values != 0)
    ]
    quantities = []
    for name in have[:most]:
        found = mean_interval(cube[name])
        mean, low, high = (
            found[part].transpose(*names, "window").values.reshape(points, windows) for part in ("mean", "low", "high")
        )
        title = titled(REGISTRY[name].long_name, _unit(cube, name))
        quantities.append(Quantity(name, title, mean, low, high, []))
    if not quantities:
        return None
    # Windows after the last thing that happens anywhere would only take room.
    last = max(np.flatnonzero(np.nan_to_num(quantity.mean).any(axis=0))[-1] for quantity in quantities)
    quantities = [
        quantity._replace(**{end: getattr(quantity, end)[:, : last + 1] for end in ("mean", "low", "high")})
        for quantity in quantities
    ]
    width = _at_points(cube, "window_width_s")
    return Courses(width[:, None] * (np.arange(last + 1) + 0.5), quantities)


class Frontier(NamedTuple):
    """What is known of the frontier of two quantities."""

    across: str
    up: str
    states: NDArray[np.str_]
    """`(point,)`: "surely", "possibly" or "not" on it, among the points of the same arrival rate, or `LEFT_OUT`."""


def frontiers_of(cube: xr.Dataset, grid: Grid) -> list[Frontier]:
    """Return the frontiers of any two objectives that a cube has; none where nothing can be told.

    A rate is no setting that one may choose to do better: only points of one rate are compared. Queues that keep
    growing are worse than any other.
    """
    names = axis_names(cube)
    rates = [name for name in names if _is_rate(cube[name])]
    compared = int(np.prod([cube.sizes[name] for name in names if name not in rates], dtype=np.int64))
    if not 1 < compared <= _MOST_COMPARED or cube.sizes[REPLICATION] < 2:
        return []
    keys = {quantity.key for quantity in grid.quantities}
    over = None if grid.judged is None else grid.judged.values == overload.OVERLOADED
    values, single = {}, {}
    for name in _OBJECTIVES:
        if name in keys:
            values[name], single[name] = _costs(cube, name, over), of_single(cube[name])
    look = first_look_of(cube)
    # Points that are compared with each other are those of one place on the axes of rates.
    order = [*(names.index(name) for name in rates), *(k for k, name in enumerate(names) if name not in rates)]
    groups = {name: each.transpose(*order, -1).reshape(-1, compared, each.shape[-1]) for name, each in values.items()}
    shape = [cube.sizes[names[k]] for k in order]
    found = []
    for pair in combinations(groups, 2):
        known = any(single[name] for name in pair)
        both = np.stack([groups[name] for name in pair], axis=1)
        states = np.array([of_arrays(group, single=known, first_look=look).states for group in both], dtype="<U10")
        states = states.reshape(shape).transpose(np.argsort(order))
        if over is not None:
            states[over] = LEFT_OUT
        found.append(Frontier(*pair, states.ravel()))
    return found


def _costs(cube: xr.Dataset, name: str, over: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Return an objective at all points, (*axes, replication), less is better; of queues that grow it is infinite."""
    dims = (*axis_names(cube), REPLICATION)
    column = cube[name].transpose(*dims, missing_dims="ignore")
    shape = [cube.sizes[dim] if dim in column.dims else 1 for dim in dims]
    whole = np.broadcast_to(column.values.reshape(shape), [cube.sizes[dim] for dim in dims])
    values: NDArray[np.float64] = whole.astype(np.float64)
    values = -values if more_is_better(name) else values
    return values if over is None else np.where(over[..., None], np.inf, values)


def requests_of(cube: xr.Dataset) -> str:
    """Return how many requests a replication has, in words."""
    if "requests" not in cube or REPLICATION not in cube["requests"].dims:
        return ""
    low, high = int(cube["requests"].min()), int(cube["requests"].max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def titled(name: str, units: str) -> str:
    """Return a name with its unit, as a title; a name that says it already is left alone."""
    unit = "" if "per second" in name else UNITS.get(units, units)
    return shortened(printable(f"{name} ({unit})" if unit else name), 90)


def rounded(values: NDArray[np.float64], digits: int = 6) -> list[Any]:
    """Return numbers as JSON takes them, with so many digits; None where there is none."""
    if values.ndim > 1:
        return [rounded(row, digits) for row in values]
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in values.tolist()]
