"""The answer in words: what a cube says, before any figure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from batchcube.errors import printable
from batchcube.results import overload
from batchcube.results.axes import axis_names
from batchcube.results.frontier import POSSIBLY, SURELY
from batchcube.results.labelled import difference_of
from batchcube.results.overload import CANNOT_TELL, OVERLOADED, STEADY
from batchcube.results.planned import as_parts
from batchcube.results.summary import queues_in_words
from batchcube.results.text import counted
from batchcube.results.variables import GOODPUT, REPLICATION

from .grids import CAPACITY, requests_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import xarray as xr

    from batchcube.results.statistics import Interval

    from .grids import Frontier, Grid, Quantity

_MOST_LINES = 8


class _Aim(NamedTuple):
    """A variable by which points are ranked."""

    name: str
    words: str
    largest: bool


# The first that a cube has is the main variable.
_AIMS = (
    _Aim("goodput_requests_per_s", "goodput", True),
    _Aim("throughput_requests_per_s", "throughput", True),
    _Aim("throughput_tokens_per_s", "token throughput", True),
)
_THEN = (_Aim(GOODPUT, "share of requests within all limits", True), _Aim("latency_mean_s", "mean latency", False))


def is_search(cube: xr.Dataset) -> bool:
    """Say whether a cube is of a search for capacities."""
    return CAPACITY in cube


class Said(NamedTuple):
    """A sentence, and what it lists."""

    text: str
    parts: tuple[str, ...] = ()
    main: bool = False
    """Whether it is the answer, where there is room for one sentence only."""


def answers_of(cube: xr.Dataset, grid: Grid) -> list[Said]:
    """Return the answer of a cube in sentences: of a search its capacities, else what is steady and what is best."""
    return _capacities(cube, grid) if is_search(cube) else _sweep(cube, grid)


def plan_in_words(plan: Mapping[str, Any]) -> list[Said]:
    """Return the answer of a plan, the headline first."""
    said: list[Said] = []
    for label, text in as_parts(plan):
        if label or not said:
            said.append(Said(f"{label[0].upper()}{label[1:]}: {text}" if label else text, main=not said))
        else:
            said[-1] = said[-1]._replace(parts=(*said[-1].parts, text))
    return said


def best_point(cube: xr.Dataset, grid: Grid) -> int:
    """Return the number of the point that is best by the main variable, among the steady ones where there are some."""
    if is_search(cube):
        return int(np.nanargmax(np.nan_to_num(_quantity(grid, CAPACITY).mean, nan=-np.inf)))
    aims = _aims(cube, grid)
    return _ranked(aims[0], grid)[0] if aims else 0


def _aims(cube: xr.Dataset, grid: Grid) -> list[_Aim]:
    keys = {quantity.key for quantity in grid.quantities}
    return [aim for aim in _AIMS if aim.name in keys][:1] + [aim for aim in _THEN if aim.name in keys]


def _quantity(grid: Grid, key: str) -> Quantity:
    return next(quantity for quantity in grid.quantities if quantity.key == key)


def _ranked(aim: _Aim, grid: Grid) -> list[int]:
    """Return the points from the best on: the steady ones, or all where none is."""
    values = _quantity(grid, aim.name).mean
    open_to = np.isfinite(values)
    if grid.queue is not None and (open_to & (grid.queue == STEADY)).any():
        open_to &= grid.queue == STEADY
    order = np.argsort(-values if aim.largest else values, kind="stable")
    return [int(point) for point in order if open_to[point]] or [0]


def _sweep(cube: xr.Dataset, grid: Grid) -> list[Said]:
    said = [Said(_size(cube, grid))]
    if grid.judged is not None:
        lines = queues_in_words(cube, grid.judged)[1:]
        listed = tuple(lines) if 1 < len(lines) <= _MOST_LINES else ()
        told = _queues(grid) + (f" {lines[0][0].upper()}{lines[0][1:]}." if len(lines) == 1 else "")
        said.append(Said(told, listed))
    best = [Said(_best(cube, grid, aim)) for aim in _aims(cube, grid)]
    return [*said, *(one._replace(main=not k) for k, one in enumerate(best))]


def _size(cube: xr.Dataset, grid: Grid) -> str:
    over = " × ".join(f"{len(axis['labels'])} of {axis['name']}" for axis in grid.axes if len(axis["labels"]) > 1)
    requests = requests_of(cube)
    each = f"{counted(cube.sizes[REPLICATION], 'replication')} each" + (f" of {requests} requests" if requests else "")
    return f"{counted(grid.points, 'point')}{f' ({over})' if over else ''}, {each}."


def _queues(grid: Grid) -> str:
    assert grid.queue is not None
    counts = {state: int((grid.queue == state).sum()) for state in (STEADY, OVERLOADED, CANNOT_TELL)}
    words = {STEADY: "steady", OVERLOADED: "overloaded", CANNOT_TELL: "cannot be told"}
    if grid.points == 1:
        return f"The queue: {next(words[state] for state, count in counts.items() if count)}."
    if counts[STEADY] == grid.points:
        return f"All {grid.points} queues are steady."
    told = ", ".join(f"{count or 'none'} {words[state]}" for state, count in counts.items() if count or state == STEADY)
    return f"Of {grid.points} queues {told}. Latencies of queues that are not steady depend on how long one looked."


def _best(cube: xr.Dataset, grid: Grid, aim: _Aim) -> str:
    order, quantity = _ranked(aim, grid), _quantity(grid, aim.name)
    unit = quantity.title.rpartition("(")[2].rstrip(")") if quantity.title.endswith(")") else ""
    value = " ".join(filter(None, (quantity.text[order[0]], unit)))
    if grid.points == 1:
        return f"{aim.words[0].upper()}{aim.words[1:]}: {value}."
    steady = grid.queue is not None and grid.queue[order[0]] == STEADY
    among = "Of the steady points" if steady else "Of all points"
    label = "largest" if aim.largest else "smallest"
    first = f"{among}, {aim.words} is {label} at {grid.label(order[0])}: {value}"
    same = [point for point in order[1:] if quantity.mean[point] == quantity.mean[order[0]]]
    if same:
        first += f", as at {grid.label(same[0])}" if len(same) == 1 else f", as at {len(same)} other points"
    rest = [point for point in order[1:] if point not in same]
    if not rest:
        return f"{first}."
    difference = _difference(cube, aim.name, order[0], rest[0])
    second = grid.label(rest[0])
    if np.isnan(difference.low):
        return f"{first}; next is {second}."
    low, high = float(difference.low), float(difference.high)
    said = "apart from it for certain" if low > 0.0 or high < 0.0 else "which cannot be told from it"
    between = f"{float(difference.estimate):+.3g} [{low:+.3g}, {high:+.3g}]"
    return f"{first}; next is {second}, {said} (paired difference {between}, 95 %, knows nothing of the choice)."


def frontier_in_words(frontiers: Sequence[Frontier], grid: Grid, trade: Sequence[str]) -> list[Said]:
    """Return which points no other one beats in the two quantities that are held against each other first."""
    for found in frontiers:
        if {found.across, found.up} == set(trade):
            sure, possible = (np.flatnonzero(found.states == state) for state in (SURELY, POSSIBLY))
            names = " and ".join(_quantity(grid, key).title.partition(" (")[0] for key in trade)
            among = " of its arrival rate" if any(axis["is_rate"] for axis in grid.axes) else ""
            text = f"On the frontier of {names}, where no other point{among} is better in one and as good in the other"
            told = f"{text}: {len(sure) or 'none'} surely, {len(possible) or 'none'} possibly."
            return [Said(told, tuple(map(grid.label, sure.tolist())) if len(sure) <= _MOST_LINES else ())]
    return []


def _difference(cube: xr.Dataset, name: str, first: int, second: int) -> Interval:
    names = axis_names(cube)
    shape = [cube.sizes[axis] for axis in names]
    places = (dict(zip(names, np.unravel_index(point, shape), strict=True)) for point in (first, second))
    one, other = (cube[name].isel(place) for place in places)
    return difference_of(one, other)


def _capacities(cube: xr.Dataset, grid: Grid) -> list[Said]:
    found = _quantity(grid, CAPACITY)
    said = [Said(_size(cube, grid)), Said(f"Capacity is the largest rate at which {criteria_of(cube)}.")]
    said += [Said(f"{line[0].upper()}{line[1:]}.") for line in _unanswered(cube)]
    if not np.isfinite(found.mean).any():
        return [*said, Said("No replication has a capacity within the rates that were tried.", main=True)]
    if grid.points == 1:
        return [*said, Said(f"Capacity: {found.text[0]} requests/s.", main=True)]
    order = np.argsort(-np.nan_to_num(found.mean, nan=-np.inf), kind="stable")
    lines = [f"{grid.label(int(k))}: {found.text[k]} requests/s" for k in order]
    text = f"Capacity is largest at {lines[0]}."
    if len(lines) > _MOST_LINES:
        return [*said, Said(text, main=True), Said(f"It is smallest at {lines[-1]}.")]
    return [*said, Said(text, main=True), Said("All, the largest first:", tuple(lines))]


def _unanswered(cube: xr.Dataset) -> list[str]:
    """Return what is said of the replications that have no capacity."""
    return [printable(line) for line in str(cube.attrs.get("capacity_notes_unanswered", "")).splitlines()]


def criteria_of(cube: xr.Dataset) -> str:
    """Return in words what has to hold at the rates of a search."""
    told = []
    for criterion in json.loads(str(cube.attrs.get("capacity_criteria", "[]"))):
        quantile = "" if criterion["quantile"] is None else f"[{criterion['quantile']:g}]"
        sign = "≥" if criterion["variable"] == GOODPUT else "≤"
        told.append(f"{printable(criterion['variable'])}{quantile} {sign} {criterion['limit']:g}")
    growth = float(cube.attrs.get("capacity_growth", overload.STEADY_GROWTH))
    return " and ".join([*told, f"the backlog grows by at most {100 * growth:g} % of the arrivals"])
