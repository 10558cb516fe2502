"""Named axes and the grid of points they span."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache
from itertools import product
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError

from batchcube.engine.policies.registry import Policy, registered
from batchcube.errors import near, one_of
from batchcube.results.names import reserved_names

from ..workloads.settings import Settings
from . import vllm
from .defaults import NO_OTHERS, Defaults, with_defaults
from .known_server import explained, with_limits
from .messages import Mistake, Path, known_paths, mistakes, show_path, show_value
from .rules import Problem, problems
from .settings import SECTIONS, Point

LARGEST_GRID = 100_000
"""Points of a sweep: so many take a minute to check, and half a gigabyte to plan."""
Scalar = bool | int | float | str


class AxisSettings(Settings):
    """One axis of a sweep: a setting and its values, a range, or labelled sets of settings."""

    path: str | None = Field(
        default=None, min_length=1, description='dotted path of the setting that varies: "policy.bins"'
    )
    values: Annotated[tuple[Any, ...], Field(strict=False, min_length=1)] | None = Field(
        default=None, description="values of the setting, numbers or text"
    )
    start: int | float | None = Field(default=None, description="first value of a range")
    stop: int | float | None = Field(default=None, description="last value of a range")
    num: Annotated[int, Field(ge=1, le=LARGEST_GRID)] | None = Field(
        default=None, description="number of values of a range"
    )
    step: int | float | None = Field(default=None, description="distance of values of a range")
    points: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] | None = Field(
        default=None, description="label -> settings, dotted or nested, merged over those of the file"
    )
    title: str | None = Field(default=None, min_length=1, description="long name shown on figures")


class Axis(NamedTuple):
    """A validated axis: what each of its positions sets, and what it is called."""

    name: str
    long_name: str
    """What it is called, in few words."""
    meaning: str
    """What the setting is, in full; "" where several are set."""
    paths: tuple[str, ...]
    """Settings the axis touches."""
    labels: tuple[Scalar, ...]
    """Coordinate values."""
    sets: tuple[dict[Path, Any], ...]
    """For each position, the settings it makes."""
    labelled: bool
    """Whether the coordinate is a label of several settings."""

    def place(self, position: int, path: Path) -> Path:
        """Return where in the specification ``path`` is set at ``position``."""
        if self.labelled:
            return ("axes", self.name, "points", str(self.labels[position]), *path)
        return ("axes", self.name, "values", position)


class Grid(NamedTuple):
    """All points of a sweep, the last axis fastest."""

    axes: tuple[Axis, ...]
    points: tuple[Point, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of positions of each axis."""
        return tuple(len(axis.labels) for axis in self.axes)


class _Wrong(Exception):  # noqa: N818 - a way out of one axis, never seen outside
    def __init__(self, *found: Mistake) -> None:
        self.found = found


def setting_paths() -> dict[str, tuple[str, str]]:
    """Return every settings path an axis may name, with its unit and its meaning."""
    return _setting_paths(tuple(found.policy for found in registered().values()))


@cache
def _setting_paths(policies: tuple[Policy, ...]) -> dict[str, tuple[str, str]]:
    """Return the settings paths while these policies are registered."""
    found: dict[str, tuple[str, str]] = {}
    for section, model in SECTIONS.items():
        for below, holder, field in known_paths(model):
            found.setdefault(f"{section}.{below}", (unit_of(field), holder.model_fields[field].description or ""))
    return found


_UNITS = (
    ("_s_per_token", "s/token"),
    ("_s_per_kv_token", "s/token"),
    ("_s_per_prefill_token", "s/token"),
    ("_s_per_prefill_attention", "s/token2"),
    ("_s_per_prefill_step", "s"),
    ("_s_per_request", "s/request"),
    ("token_budget", "tokens"),
    ("token_threshold", "tokens"),
    ("max_model_len", "tokens"),
    ("_bytes_per_token", "byte/token"),
    ("_per_s", "1/s"),
    ("_s", "s"),
    ("_tokens", "tokens"),
    ("_bytes", "byte"),
)


def unit_of(name: str) -> str:
    """Return the unit a setting's name ends with; "1" where it names none."""
    return next((unit for ending, unit in _UNITS if name.endswith(ending)), "1")


# One axis -----------------------------------------------------------------------------------------------------------


def _range(settings: AxisSettings, at: Path) -> tuple[Scalar, ...]:
    start, stop, step, num = settings.start, settings.stop, settings.step, settings.num
    if start is None or stop is None or (step is None) == (num is None):
        raise _Wrong(Mistake(at, "a range needs start, stop, and either num or step"))
    if any(abs(x) > 1e15 for x in (start, stop, step or 0)):
        raise _Wrong(Mistake(at, "a range must stay within 1e15"))
    if step is not None:
        if step == 0 or (stop - start) / step < 0:
            raise _Wrong(Mistake((*at, "step"), "must lead from start to stop", step))
        # The stop is meant to be included although 0.1 + 0.1 + 0.1 is not 0.3.
        steps = (stop - start) / step + 1e-9
        if steps >= LARGEST_GRID:
            raise _Wrong(Mistake((*at, "step"), f"gives more than {LARGEST_GRID} values", step))
        count = math.floor(steps) + 1
    else:
        assert num is not None
        count = num
        if count == 1 and start != stop:
            raise _Wrong(Mistake((*at, "num"), "must be at least 2 to go from start to stop", num))
        step = (stop - start) / max(count - 1, 1)
    values: list[Scalar] = []
    for i in range(count):
        value = start + i * step
        if isinstance(start, int) and isinstance(stop, int) and float(value).is_integer():
            values.append(int(value))
        else:
            values.append(float(f"{value:.12g}"))
    return tuple(values)


def _leaves(tree: Mapping[str, Any], prefix: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the settings of a table with dotted or nested keys."""
    for key, value in tree.items():
        path = (*prefix, *key.split("."))
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, path)
        else:
            yield path, value


def cannot_vary(path: str) -> str | None:
    """Say why no axis can set a path, None where one can."""
    known = setting_paths()
    if path in known:
        is_fixed = path.count(".") == 0 or path in ("report.windows", "report.histograms")
        return "must be the same over the whole grid" if is_fixed else None
    if elsewhere := vllm.hint(path.rpartition(".")[2]):
        return f"no such setting; {elsewhere}"
    close = near(path, known)
    # A right name in the wrong place is a common slip: policy.servers.
    close += [p for p in known if p.rpartition(".")[2] == path.rpartition(".")[2] and p not in close][:3]
    hint = f"; did you mean {one_of(close)}?" if close else f"; it starts with {one_of(SECTIONS)}"
    return f"no such setting{hint}"


def _require_known(path: str, at: Path, value: Any) -> None:
    if (problem := cannot_vary(path)) is not None:
        raise _Wrong(Mistake(at, problem, value))


def _require_unset(path: str, name: str, base: Mapping[str, Any]) -> None:
    """Refuse a value in the file that the axis would replace at every point."""
    table: Any = base
    for part in path.split("."):
        if not isinstance(table, Mapping) or part not in table:
            return
        table = table[part]
    raise _Wrong(Mistake(tuple(path.split(".")), f"axes.{name} sets it at every point; remove it here", table))


def _require_distinct(labels: Sequence[Scalar], at: Path) -> None:
    seen: dict[Scalar, int] = {}
    for i, label in enumerate(labels):
        first = seen.setdefault(label, i)
        if first != i:
            raise _Wrong(Mistake((*at, "values", i), f"is there already as values[{first}]", label))


def _value_axis(name: str, settings: AxisSettings, base: Mapping[str, Any]) -> Axis:
    at: Path = ("axes", name)
    path = settings.path
    if path is None:
        raise _Wrong(Mistake((*at, "path"), 'is missing: the setting that varies, e.g. "policy.bins"'))
    _require_known(path, (*at, "path"), path)
    _require_unset(path, name, base)
    if settings.values is None:
        values = _range(settings, at)
    else:
        if any(x is not None for x in (settings.start, settings.stop, settings.num, settings.step)):
            raise _Wrong(Mistake(at, "give values, or start, stop and num or step, not both"))
        values = settings.values
    for i, value in enumerate(values):
        if not isinstance(value, bool | int | float | str):
            text = "must be a number, text, true or false; use labelled points for anything else"
            raise _Wrong(Mistake((*at, "values", i), text, value))
        if isinstance(value, float) and not math.isfinite(value):
            raise _Wrong(Mistake((*at, "values", i), "must be a finite number", value))
    # "infinite" is a number of servers among others.
    numeric = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    labels: tuple[Scalar, ...] = values
    if numeric:
        if len(numeric) != sum(v != "infinite" for v in values):
            raise _Wrong(Mistake((*at, "values"), "must be all numbers or all text", values))
        if any(isinstance(v, int) and abs(v) > 2**53 for v in numeric):
            raise _Wrong(Mistake((*at, "values"), "must not exceed 2^53", values))
        labels = tuple(math.inf if v == "infinite" else v for v in values)
    elif any(isinstance(v, bool) for v in values):
        if not all(isinstance(v, bool) for v in values):
            raise _Wrong(Mistake((*at, "values"), "must be all numbers or all text", values))
        labels = tuple("true" if v else "false" for v in values)
    _require_distinct(labels, at)
    parts = tuple(path.split("."))
    meaning = setting_paths()[path][1]
    # Descriptions begin with what the setting is called.
    long_name = settings.title or re.split(r"[;:]| \(", meaning)[0] or path
    return Axis(name, long_name, meaning, (path,), labels, tuple({parts: value} for value in values), labelled=False)


def _labelled_axis(name: str, settings: AxisSettings) -> Axis:
    at: Path = ("axes", name, "points")
    assert settings.points is not None
    others = ("path", "values", "start", "stop", "num", "step")
    given = [other for other in others if getattr(settings, other) is not None]
    if given:
        raise _Wrong(Mistake(("axes", name, given[0]), "does not go with labelled points"))
    paths: dict[str, None] = {}
    sets = []
    for label, tree in settings.points.items():
        if not label.strip() or not label.isprintable():
            raise _Wrong(Mistake((*at, label), "a label must be printable and not empty"))
        made = dict(_leaves(tree))
        for path in made:
            _require_known(".".join(map(str, path)), (*at, label, *path), made[path])
            paths[".".join(map(str, path))] = None
        sets.append(made)
    long_name = settings.title or name.replace("_", " ")
    return Axis(name, long_name, "", tuple(paths), tuple(settings.points), tuple(sets), labelled=True)


def read_axes(tables: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[list[Axis], list[Mistake]]:
    """Return the axes of a specification, and what is wrong with them."""
    axes: list[Axis] = []
    wrong: list[Mistake] = []
    for name, table in tables.items():
        at: Path = ("axes", name)
        try:
            if not (name.isascii() and name.isidentifier()) or name in reserved_names():
                allowed = "letters, digits and _, and no name that cubes, intervals or tables use"
                raise _Wrong(Mistake(at, f"cannot be the name of an axis: {allowed}"))
            settings = AxisSettings.model_validate(table)
            axis = _labelled_axis(name, settings) if settings.points is not None else _value_axis(name, settings, base)
            for other in axes:
                shared = [
                    p
                    for p in axis.paths
                    for q in other.paths
                    if f"{p}.".startswith(f"{q}.") or f"{q}.".startswith(f"{p}.")
                ]
                if shared:
                    raise _Wrong(Mistake(at, f"{shared[0]} is set by axes.{other.name} already"))
            axes.append(axis)
        except ValidationError as error:
            wrong += mistakes(AxisSettings, table, error, at)
        except _Wrong as error:
            wrong += error.found
    size = math.prod(len(axis.labels) for axis in axes)
    if size > LARGEST_GRID:
        wrong.append(Mistake(("axes",), f"span {size} points: must be at most {LARGEST_GRID}"))
    return axes, wrong


# All points ---------------------------------------------------------------------------------------------------------


class _Section:
    """Validates one section of the settings once for each combination of the axes that touch it."""

    def __init__(self, name: str, base: Any, axes: Sequence[Axis], defaults: Defaults) -> None:
        self.name, self.base, self.defaults = name, base, defaults
        self.model = SECTIONS[name]
        self.touching = [
            k for k, axis in enumerate(axes) if any(path[0] == name for made in axis.sets for path in made)
        ]
        self.axes = axes
        self.cache: dict[tuple[int, ...], Any] = {}
        self.wrong: list[Mistake] = []

    def at(self, position: tuple[int, ...]) -> Any:
        """Return the validated section at a grid position; None where it is wrong."""
        key = tuple(position[k] for k in self.touching)
        if key not in self.cache:
            self.cache[key] = self._validate(key)
        return self.cache[key]

    def _validate(self, key: tuple[int, ...]) -> Any:
        if not isinstance(self.base, dict):
            self.wrong.append(Mistake((self.name,), "must be a table", self.base))
            return None
        data = deepcopy(self.base)
        for k, position in zip(self.touching, key, strict=True):
            for path, value in self.axes[k].sets[position].items():
                if path[0] == self.name:
                    _put(data, path[1:], value)
        try:
            made = self.model.model_validate(data)
            return with_defaults(self.name, made, self.defaults) if self.defaults else made
        except ValidationError as error:
            place = dict(zip(self.touching, key, strict=True))
            for mistake in mistakes(self.model, data, error, (self.name,)):
                self.wrong.append(_blame(mistake, self.axes, place))
            return None

    def overridden(self) -> list[Mistake]:
        """Return what is wrong with values of the file that an axis replaces, each looked at by itself.

        Such a value is put back beside what the points set. Only its own value counts: that a point makes its setting
        one of another kind, or that two such values do not go together, is why the points replace them.
        """
        if not isinstance(self.base, dict):
            return []
        found: list[Mistake] = []
        for k in self.touching:
            sets = self.axes[k].sets if self.axes[k].labelled else self.axes[k].sets[:1]
            replaced = {
                there
                for made in sets
                for path in made
                if path[0] == self.name and (there := _present(self.base, path[1:])) is not None
            }
            for made in sets if replaced else ():
                data = deepcopy(self.base)
                others = [self.axes[j].sets[0] for j in self.touching if j != k]
                for path, value in (item for table in (*others, made) for item in table.items()):
                    if path[0] == self.name and not any(path[1 : len(there) + 1] == there for there in replaced):
                        _put(data, path[1:], value)
                try:
                    self.model.model_validate(data)
                except ValidationError as error:
                    found += [
                        mistake
                        for mistake in mistakes(self.model, data, error, (self.name,))
                        if mistake.has_value and any(mistake.path[1 : len(there) + 1] == there for there in replaced)
                    ]
        return found


def _put(table: dict[str, Any], path: Path, value: Any) -> None:
    """Set one value of nested tables, making those on the way."""
    for part in path[:-1]:
        if not isinstance(table.get(str(part)), dict):
            table[str(part)] = {}
        table = table[str(part)]
    table[str(path[-1])] = deepcopy(value)


def _present(table: Any, path: Path) -> Path | None:
    """Return the path of what is there already where ``path`` would be set: the value itself, or one in its way."""
    for depth, part in enumerate(path):
        if not isinstance(table, Mapping):
            return path[:depth]
        if part not in table:
            return None
        table = table[part]
    return path


def _blame(mistake: Mistake, axes: Sequence[Axis], place: Mapping[int, int]) -> Mistake:
    """Point at the axis that made the wrong setting, where one did."""
    for k, position in place.items():
        for path in axes[k].sets[position]:
            if mistake.path[: len(path)] == path:
                return mistake._replace(path=axes[k].place(position, mistake.path))
    return mistake


def _value_at(point: Point, path: Path) -> Any:
    value: Any = point._asdict()
    for part in path:
        value = value[part] if isinstance(value, dict) or isinstance(part, int) else getattr(value, part)
    return value


def build_grid(
    base: Mapping[str, Any], axes: Sequence[Axis], defaults: Defaults = NO_OTHERS
) -> tuple[Grid, list[Mistake]]:
    """Return every point of the grid, validated, or what is wrong with them, each mistake once.

    `defaults` stand in for those of this version; raises InputError for one that it cannot take.
    """
    sections = [_Section(name, base.get(name, {}), axes, defaults) for name in SECTIONS]
    wrong: dict[str, Mistake] = {}
    idle: dict[tuple[Path, Any], list[Mistake]] = {}
    points: list[Point] = []
    # Points share what no axis touches.
    limited: dict[tuple[int, int], Point] = {}
    for position in product(*(range(len(axis.labels)) for axis in axes)):
        parts = [section.at(position) for section in sections]
        if any(part is None for part in parts):
            continue
        point = Point(*parts)
        shared = (id(point.policy), id(point.server))
        if shared not in limited:
            limited[shared] = with_limits(point)
        point = point._replace(policy=limited[shared].policy, server=limited[shared].server)
        for problem in problems(point):
            mistake = _explain(explained(problem, point), point, axes, position)
            if problem.idle:
                idle.setdefault((problem.path, _value_at(point, problem.path)), []).append(mistake)
            else:
                wrong.setdefault(str(mistake.error()), mistake)
        points.append(point)
    for (path, value), alike in idle.items():
        if len(alike) == sum(_value_at(point, path) == value for point in points):
            wrong.setdefault(str(alike[0].error()), alike[0])
    found = [mistake for section in sections for mistake in (*section.wrong, *section.overridden())]
    distinct = {str(mistake.error()): mistake for mistake in (*found, *wrong.values())}
    return Grid(tuple(axes), tuple(points)), list(distinct.values())


def _explain(problem: Problem, point: Point, axes: Sequence[Axis], position: tuple[int, ...]) -> Mistake:
    mistake = Mistake(problem.path, problem.text)
    if problem.shown:
        mistake = mistake._replace(value=_value_at(point, problem.path))
    return _blame(mistake, axes, dict(enumerate(position)))


def where(axes: Sequence[Axis], position: tuple[int, ...]) -> str:
    """Return a grid position in words: ``bins = 4, mode = "fifo_fixed"``."""
    labels = (f"{axis.name} = {show_value(axis.labels[i])}" for axis, i in zip(axes, position, strict=True))
    return ", ".join(labels) or "the only point"


__all__ = ["Axis", "AxisSettings", "Grid", "build_grid", "read_axes", "setting_paths", "show_path", "where"]
