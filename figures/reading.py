"""What a figure reads from a cube: axes found by their settings path, selection, means with their intervals."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from batchcube.errors import InputError, printable, suggestion
from batchcube.results import costs
from batchcube.results.axes import as_written, axis_names, place_of
from batchcube.results.labelled import error_of, level_of, of_single
from batchcube.results.overload import NOTES, judge
from batchcube.results.pieces import any_of, read_later
from batchcube.results.statistics import Interval, mean_interval, paired_difference
from batchcube.results.text import all_of, counted_range, shortened, told_apart
from batchcube.results.unserved import left_out
from batchcube.results.variables import RATE_PATHS, REGISTRY, REPLICATION, is_time

from . import style

Select = Mapping[str, Any] | None
_QUEUE = "queue"
LARGEST = 1e100
"""Beyond it, limits and ticks overflow."""

BINS = ("policy.bins",)
MODE = ("policy.mode",)
RATE = RATE_PATHS
ERROR = ("workload.predictor.error_probability",)
PREDICTOR = ("workload.predictor.kind", "workload.predictor.matrix")
SERVERS = ("server.servers",)
VARIANT = ("policy.sla.variant",)
LARGEST_BATCH = ("policy.largest_batch",)


# Short titles of the axes that figures are about; a setting's own description may be a sentence.
_TITLES = {
    BINS[0]: "number of bins",
    RATE[0]: "arrival rate (requests/s)",
    RATE[1]: "arrival rate (multiples of the trace's)",
    ERROR[0]: "error probability of each neighbouring bin",
}


# How names of axes end that have a unit, the longest first.
_UNITS = {"_per_s": "/s", "_tokens": " tokens", "_bytes": " bytes", "_ms": " ms", "_s": " s"}


class FigureAxis(NamedTuple):
    """One axis of the sweep as a figure sees it."""

    name: str
    paths: tuple[str, ...]
    values: tuple[Any, ...]
    positions: NDArray[np.float64]
    """The values themselves, or 0, 1, ... where they are labels."""
    title: str
    """Long name with its unit."""
    numeric: bool

    def names(self) -> list[str]:
        """Return what to call each value in a legend."""
        if self.numeric or SERVERS[0] in self.paths:
            return [self.in_words(value) for value in self.values]
        return told_apart([as_written(value) for value in self.values])

    def in_words(self, value: Any) -> str:
        """Say which value of the axis is meant: 4 bins, arrival rate 3/s, target 0.05 s, policy: both."""
        text = as_written(value)
        if SERVERS[0] in self.paths:
            return _servers(value)
        if not self.numeric:
            return shortened(f"{self.name.replace('_', ' ')}: {text}")
        if BINS[0] in self.paths and MODE[0] not in self.paths:
            return f"{text} bin" if value == 1 else f"{text} bins"
        for ending, unit in _UNITS.items():
            if self.name.endswith(ending):
                return f"{self.name.removesuffix(ending).replace('_', ' ')} {text}{unit}"
        return f"{self.name.replace('_', ' ')} {text}"


class Figured(NamedTuple):
    """What errors say of a figure: its name, the presets whose cubes it can draw, and the options it was given."""

    name: str
    presets: tuple[str, ...]
    options: Mapping[str, Any] = {}

    def command(self, cube: xr.Dataset, chosen: Mapping[str, Any]) -> str:
        """Return the command that draws the figure with its options, some values chosen besides."""
        words = ["batchcube", "figure", self.name, str(cube.encoding.get("source", "CUBE.nc"))]
        given = {name: value for name, value in self.options.items() if name != "select" and value is not None}
        words += [f"{name}={value}" for name, value in given.items()]
        for axis, value in {**(self.options.get("select") or {}), **chosen}.items():
            several = isinstance(value, list | tuple | np.ndarray)
            words += ["--select", f"{axis}={json.dumps(list(value)) if several else as_written(value)}"]
        return shlex.join([*words, "-o", f"{self.name}.png"])

    def lacks(self, what: str) -> InputError:
        """Return the error of a cube that lacks `what`."""
        made = " or ".join(f"`batchcube run {preset}`" for preset in self.presets)
        return InputError(f"{what}; {made} makes a cube that has it", path=f"figure {self.name}")

    def check(self, option: str, value: str, allowed: Sequence[str]) -> None:
        """Raise InputError when an option's value is none of those allowed."""
        if value not in allowed:
            raise self.refuses(f"{option} = {value}: {suggestion(value, allowed)}")

    def refuses(self, what: str) -> InputError:
        """Return the error of an option that cannot be followed."""
        return InputError(what, path=f"figure {self.name}")


@dataclass(frozen=True)
class View:
    """A cube cut down to the axes that one figure draws."""

    figured: Figured
    whole: xr.Dataset
    cube: xr.Dataset
    x: FigureAxis | None
    lines: FigureAxis | None
    panels: FigureAxis | None
    chosen: tuple[str, ...]
    drawn: tuple[str, ...]
    """Variables."""

    def array(self, variable: str, **at: int) -> NDArray[Any]:
        """Return a variable's numbers at positions of some axes; dims in the order axes, others, replication."""
        return self.laid_out(self.cube[variable].isel(at))

    def laid_out(self, found: xr.DataArray) -> NDArray[Any]:
        """Return numbers with their dims in that order."""
        last = [dim for dim in ("replication",) if dim in found.dims]
        axes = [axis.name for axis in (self.panels, self.lines, self.x) if axis is not None and axis.name in found.dims]
        rest = [dim for dim in found.dims if dim not in last and dim not in axes]
        return np.asarray(found.transpose(*axes, *rest, *last).values)

    def interval(self, variable: str, **at: int) -> Interval:
        """Return mean and 95 % t interval over replications."""
        error = error_of(self.cube[variable])
        return self.mean(self.array(variable, **at), REGISTRY[variable].bounds, error=error)

    def mean(self, values: NDArray[Any], bounds: tuple[float, float], *, error: float = 0.0) -> Interval:
        """Return mean and 95 % t interval of values (..., replication), each off by a relative `error` at most."""
        return mean_interval(values, -1, self.level, bounds, single=self.of_single, error=error)

    def difference(self, values: NDArray[Any], baseline: NDArray[Any]) -> Interval:
        """Return the paired difference and its 95 % t interval of values (..., replication)."""
        return paired_difference(values, baseline, -1, self.level, single=self.of_single)

    @property
    def level(self) -> float:
        """The level of intervals that hold in 95 % of the cases, however it was decided when to stop."""
        return level_of(self.cube["requests"])

    @property
    def of_single(self) -> bool:
        """Whether intervals are those of a single replication: each has service coefficients of its own."""
        return of_single(self.cube["requests"])

    def queue(self, **at: int) -> NDArray[np.str_]:
        """Return what the queue of each point does, by `overload.judge`: steady, overloaded or cannot tell."""
        return self.array(_QUEUE, **at)

    @property
    def replications(self) -> int:
        """The number of replications."""
        return int(self.cube.sizes["replication"])

    def _with_values(self) -> str:
        """Say how many replications have a value of what is drawn: of a class, or of times, some may have none."""
        counts = [self.replications]
        for name in self.drawn:
            if (seen := self.cube[name]).dtype.kind == "f" and REPLICATION in seen.dims:
                counts += np.unique(seen.notnull().sum(REPLICATION)).tolist()
        return counted_range(filter(None, counts[1:] or counts), "replication")

    def unit(self, variable: str) -> str:
        """Return the unit that a variable states."""
        return shortened(printable(self.cube[variable].attrs["units"]))

    def subtitle(self) -> str:
        """Return what is not measured, the cube's title, and what was selected from it."""
        # A setting and its value stay on one line.
        chosen = [shortened(one).replace(" ", "\N{NO-BREAK SPACE}") for one in self.chosen]
        names = costs.unmeasured(self.cube)
        first = f"Not measured, counted as 0: {', '.join(names)}" if names else ""
        return "; ".join(part for part in (first, str(self.cube.attrs.get("title", "")), *chosen) if part)

    def caption(self, *sentences: str) -> str:
        """Return the line under the figure: replications, requests, what the intervals are, what must be said."""
        requests = np.asarray(self.cube["requests"].values)
        low, high = int(requests.min()), int(requests.max())
        count = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        if self.replications == 1:
            said = f"One replication of {count} requests: no interval can be given."
        else:
            intervals = (
                "intervals are 95 % prediction intervals of one replication: each drew its service coefficients from "
                "what the calibration leaves open."
                if self.of_single
                else "intervals are 95 % t intervals over replications."
            )
            said = f"Means of {self._with_values()} of {count} requests; {intervals}"
        left = left_out(self.cube) if any(map(is_time, self.drawn)) else ""
        # Overload is marked in the figure itself and explained in its legend.
        lines = str(self.cube.attrs.get("notes", "")).splitlines()
        notes = [_sentence(note) for note in lines if note not in NOTES.values()]
        parts = (said, _sentence(left), *sentences, style.OF_WHOLE if notes else "", *notes)
        return " ".join(part for part in parts if part)


def view(
    figured: Figured,
    cube: xr.Dataset,
    select: Select,
    *,
    needs: Sequence[str],
    x: Sequence[str] = (),
    x_needed: bool = True,
    lines: Sequence[Sequence[str]] = (),
    lines_needed: bool = False,
    lines_named: str | None = None,
    panels: Sequence[str] = (),
    every: bool = False,
) -> View:
    """Find the axes of a figure by their settings paths and cut the cube down to them.

    `needs` are the variables of the figure, the first of them the one it cannot do without. Where it draws `every`
    axis, none must be selected.

    Axes of one value are dropped. Where there are no `lines`, a further axis of few values becomes them; of all others
    a value must be selected. Raises InputError naming the figure and what is missing, or all that must be selected with
    a command that works.
    """
    missing = [name for name in (*needs, "requests") if name not in cube.data_vars]
    if missing and "plan" in cube.attrs:
        raise figured.refuses(
            f"the answer of a plan has no variable {', '.join(missing)}; batchcube report draws what it has"
        )
    if missing:
        raise figured.lacks(f"the cube has no variable {', '.join(missing)}")
    cut, chosen = selected(figured, cube, select)
    cut = _drawable(cut)
    axes = {axis.name: axis for axis in _axes(cut)}
    drawn_x = _first(axes, [x], set())
    if x and x_needed and drawn_x is None:
        raise figured.lacks(f"needs two or more values of {' or '.join(x)}, and {_axes_of(axes)}")
    used = {drawn_x.name} if drawn_x else set()
    drawn_panels = _first(axes, [panels], used)
    used |= {drawn_panels.name} if drawn_panels else set()
    if lines_named is not None:
        if lines_named not in axes or lines_named in used:
            raise figured.refuses(
                f"lines = {lines_named}: {_allowed(sorted(set(axes) - used), 'axes to draw as lines')}"
            )
        drawn_lines: FigureAxis | None = axes[lines_named]
    else:
        drawn_lines = _first(axes, lines, used)
    if lines_needed and drawn_lines is None:
        wanted = " or ".join(path for paths in lines for path in paths)
        raise figured.lacks(f"needs two or more values of {wanted}, and {_axes_of(axes)}")
    used |= {drawn_lines.name} if drawn_lines else set()
    left = [axis for name, axis in axes.items() if name not in used]
    if left and lines and drawn_lines is None:
        # Rather policies beside each other than rates.
        free = [axis for axis in left if len(axis.values) <= style.MOST_LINES]
        free.sort(key=lambda axis: bool(set(axis.paths) & set(RATE)))
        drawn_lines = free[0] if free else None
        left = [axis for axis in left if axis is not drawn_lines]
    if left and not every:
        raise figured.refuses(_to_choose(figured, cube, left))
    for name in needs:
        unknown = costs.missing(cut, name)
        if unknown:
            raise figured.refuses(f"{name} rests on {all_of(unknown)}, {costs.NOT_MEASURED}")
    if not any_of(cut[needs[0]], np.isfinite):
        nothing = f"{needs[0]} is NaN everywhere in this cube"
        # What was asked for by its name no preset need have either.
        raise figured.refuses(nothing) if needs[0] in figured.options.values() else figured.lacks(nothing)
    cut = cut.assign({_QUEUE: judge(cut)})
    return View(figured, cube, cut, drawn_x, drawn_lines, drawn_panels, tuple(chosen), tuple(needs))


def _to_choose(figured: Figured, cube: xr.Dataset, left: Sequence[FigureAxis]) -> str:
    """Say of which axes a value must be chosen, what there is, and a command that works."""
    said = all_of(f"{axis.name} ({', '.join(map(as_written, axis.values))})" for axis in left)
    middle = {axis.name: axis.values[len(axis.values) // 2] for axis in left}
    return f"choose one value of {said}, for instance: {figured.command(cube, middle)}"


def _drawable(cube: xr.Dataset) -> xr.Dataset:
    """Return a cube in which numbers that no axis can reach are infinite: those are not drawn."""

    def bounded(found: xr.Variable) -> xr.Variable:
        def read(key: tuple[int | slice, ...]) -> NDArray[Any]:
            values = found[key].values
            return np.where(np.abs(values) > LARGEST, np.inf, values)

        return read_later(found, read)

    return cube.assign(
        {name: bounded(found.variable) for name, found in cube.data_vars.items() if found.dtype.kind == "f"}
    )


def _axes(cube: xr.Dataset) -> list[FigureAxis]:
    """Return the cube's sweep axes: the dimensions whose coordinate states a settings path."""
    found = []
    for name in axis_names(cube):
        coordinate = cube[name]
        numeric = coordinate.dtype.kind in "iuf" and bool((np.abs(coordinate.values) <= LARGEST).all())
        values = tuple(coordinate.values.tolist())
        positions = np.asarray(coordinate.values if numeric else np.arange(coordinate.size), dtype=float)
        paths = tuple(str(coordinate.attrs["path"]).split(","))
        found.append(FigureAxis(name, paths, values, positions, title_of(coordinate), numeric))
    return found


def title_of(coordinate: xr.DataArray) -> str:
    """Return what an axis of a cube is called on figures, with its unit."""
    attrs = coordinate.attrs
    return _TITLES.get(str(attrs["path"])) or titled(str(attrs["long_name"]), str(attrs["units"]))


def selected(figured: Figured, cube: xr.Dataset, select: Select) -> tuple[xr.Dataset, list[str]]:
    """Apply the selection (one value drops the axis, several restrict it) and drop axes of one value.

    Axes of numbers are in ascending order then. Replications can be selected too; a single one stays, as one
    replication. What was chosen is returned in words.
    """
    chosen: list[str] = []
    numbers = cube["replication"].values
    known = {
        **{axis.name: axis for axis in _axes(cube)},
        "replication": FigureAxis("replication", (), tuple(numbers.tolist()), numbers.astype(float), "", True),
    }
    for name, wanted in (select or {}).items():
        if name not in known:
            raise figured.refuses(f"`select` {name}: {_allowed(sorted(known), 'axes of this cube')}")
        axis = known[name]
        several = isinstance(wanted, list | tuple | np.ndarray)
        places = list(dict.fromkeys(_place(figured, axis, value) for value in (wanted if several else [wanted])))
        if not places:
            raise figured.refuses(
                f"`select` {name}: needs a value, one of {', '.join(as_written(v) for v in axis.values)}"
            )
        cube = cube.isel({name: places if several or name == "replication" else places[0]})
        if not several:
            chosen.append(axis.in_words(axis.values[places[0]]))
    for axis in _axes(cube):
        if len(axis.values) == 1:
            chosen.append(axis.in_words(axis.values[0]))
            cube = cube.isel({axis.name: 0})
        elif cube[axis.name].dtype.kind in "iuf" and axis.values != tuple(sorted(axis.values)):
            cube = cube.isel({axis.name: np.argsort(axis.values)})
    return cube, chosen


def _place(figured: Figured, axis: FigureAxis, wanted: Any) -> int:
    """Return where a value lies on an axis; text is read as a number where the axis has numbers."""
    place = place_of(axis.values, wanted)
    if place is not None:
        return place
    raise figured.refuses(f"`select` {axis.name}={wanted}: {suggestion(wanted, map(as_written, axis.values))}")


def _first(axes: Mapping[str, FigureAxis], wanted: Sequence[Sequence[str]], used: set[str]) -> FigureAxis | None:
    """Return the axis over the first of the wanted paths, one that varies nothing else before a zipped one."""
    for paths in wanted:
        for path in paths:
            holding = [axis for axis in axes.values() if path in axis.paths and axis.name not in used]
            # A zip of mode and bins is an axis over modes, not over numbers of bins.
            if path != MODE[0]:
                holding = [axis for axis in holding if MODE[0] not in axis.paths]
            if holding:
                return min(holding, key=lambda axis: len(axis.paths))
    return None


def _axes_of(axes: Mapping[str, FigureAxis]) -> str:
    if not axes:
        return "the cube has no axis of two or more values"
    return "the cube varies only " + ", ".join(f"{name} ({', '.join(axis.paths)})" for name, axis in axes.items())


def _allowed(names: Sequence[str], what: str) -> str:
    return f"{what}: {', '.join(names) or 'none'}"


def titled(name: str, unit: str) -> str:
    """Return the title of an axis, with its unit where it has one."""
    return shortened(printable(name if unit in ("", "1") else f"{name} ({unit})"))


def number_of(given: Any) -> float:
    """Return the number that an option gives; ValueError or TypeError for none, InputError for one beyond any axis."""
    number = float(given)
    if not abs(number) <= LARGEST:
        raise InputError("is no number that an axis reaches", value=str(given))
    return number


def _sentence(note: str) -> str:
    return note[:1].upper() + note[1:].rstrip(".") + "." if note else ""


def _servers(value: Any) -> str:
    text = as_written(value)
    if text == "infinite":
        return "infinitely many servers"
    return "1 server" if text == "1" else f"{text} servers"
