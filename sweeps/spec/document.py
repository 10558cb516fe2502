"""A sweep as users write it: TOML in, a validated grid out, one line for each kind of mistake."""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import date, time
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from batchcube.documents import DEEPEST, is_deep, read_file, value_of
from batchcube.errors import InputError, did_you_mean, found_in, printable, quoted
from batchcube.results.names import reserved_names
from batchcube.results.text import counted

from ..workloads.arrivals import AtOnce, Closed, Deterministic
from ..workloads.lengths import Constant
from ..workloads.settings import Settings
from . import vllm
from .defaults import NO_OTHERS, Defaults, differences, in_force
from .grid import AxisSettings, Grid, build_grid, read_axes
from .messages import Mistake, errors_of, mistakes, show_value
from .messages import Path as Place
from .settings import SECTIONS, Point, PolicySettings, Report, Server, Workload, draws_service

LARGEST_FILE = 1_000_000
"""Bytes of a specification; the standard library takes seconds to parse a million of the worst kinds."""
MOST_PARTS = 200
"""Parts of a dotted key; the standard library's time grows with their square."""
_DOTTED = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+)++""")
NAME = r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*$"
"""What names a file in the folder where it is written, and is not hidden there."""


class Header(Settings):
    """What a sweep is called, and how often it is repeated."""

    name: str = Field(
        default="sweep",
        min_length=1,
        max_length=100,
        pattern=NAME,
        description="short name; files are called by it",
    )
    title: str = Field(default="", description="one line about the sweep")
    description: str = Field(default="", description="what the sweep shows, and what it assumes")
    seed: int = Field(default=1, ge=0, lt=2**63, description="seed of all random numbers")
    replications: int = Field(default=20, ge=1, le=1_000_000, description="independent repetitions of every point")
    workload: dict[str, Any] = Field(default_factory=dict)
    policy: dict[str, Any] = Field(default_factory=dict)
    server: dict[str, Any] = Field(default_factory=dict)
    report: dict[str, Any] = Field(default_factory=dict)
    axes: dict[str, Any] = Field(default_factory=dict)


class Document(Header):
    """Describe a whole specification to editors; validation goes section by section instead, for every grid point."""

    workload: Workload = Field(description="requests")  # type: ignore[assignment]
    policy: PolicySettings = Field(description="how batches are formed")  # type: ignore[assignment]
    server: Server = Field(description="what serves them, and how fast")  # type: ignore[assignment]
    report: Report = Field(default_factory=Report, description="what is measured")  # type: ignore[assignment]
    axes: dict[str, AxisSettings] = Field(default_factory=dict, description="what varies: one table per axis")


@dataclass(frozen=True, repr=False)
class Sweep:
    """A validated sweep: every point of its grid makes sense."""

    name: str
    title: str
    description: str
    seed: int
    replications: int
    grid: Grid
    document: dict[str, Any]
    """The specification as given, file paths made absolute: enough to make this sweep again."""
    source: str
    """File or name that messages start with."""
    told: tuple[str, ...] = ()
    """What was said in the words of others, and is what here, a line each."""

    @classmethod
    def from_toml(cls, path: str | PathLike[str], overrides: Iterable[str] | Mapping[str, Any] = ()) -> "Sweep":
        """Read a sweep from a TOML file, or a preset by its name, with settings laid over it.

        `overrides` are texts ``path=value``, or values by their dotted paths.
        Raises InputError with one line for each kind of mistake.
        """
        return cls.from_document(*read_document(path), overriding(overrides))

    @classmethod
    def model_validate(
        cls, data: Mapping[str, Any], source: str = "specification", defaults: Defaults = NO_OTHERS
    ) -> "Sweep":
        """Build a sweep from nested dictionaries; `defaults`, by dotted path, stand in for those of this version.

        Raises InputError with one line for each kind of mistake.
        """
        return cls.from_document(dict(data), source, Path.cwd(), (), defaults)

    @classmethod
    def from_document(
        cls,
        document: dict[str, Any],
        source: str,
        folder: Path,
        overrides: Iterable["_Override"] = (),
        defaults: Defaults = NO_OTHERS,
    ) -> "Sweep":
        """Build a sweep from the tables of a file, whose paths start from a folder, with settings laid over them.

        Raises InputError, whose lines begin with `source`, with one line for each kind of mistake.
        """
        document, told = laid_over(document, source, folder, overrides)
        if wrong := list(_unwritable(document)):
            raise errors_of(wrong, source)
        try:
            header = Header.model_validate(document)
        except ValidationError as error:
            raise errors_of(mistakes(Header, document, error), source) from None
        axes, wrong = read_axes(header.axes, document)
        if wrong:
            # Without its axes the rest would be blamed for what it is not.
            raise errors_of(wrong, source)
        with found_in(file=source):
            grid, wrong = build_grid(document, axes, defaults)
        wrong += _mode_problems(grid) + _class_problems(grid) + _replication_problems(grid)
        if wrong:
            raise errors_of(wrong, source)
        # Stated, so that a longer run of the same file differs in this number only.
        document["replications"] = header.replications
        replications = 1 if all(map(is_deterministic, grid.points)) else header.replications
        return cls(
            header.name,
            header.title or header.name,
            header.description,
            header.seed,
            replications,
            grid,
            json.loads(json.dumps(document)),
            source,
            told,
        )

    def __repr__(self) -> str:
        points = f"{counted(len(self.grid.points), 'point')} x {counted(self.replications, 'replication')}"
        varied = ", ".join(f"{len(axis.labels)} {axis.name}" for axis in self.grid.axes)
        return printable(f"<Sweep {self.name}: {points}{f' ({varied})' if varied else ''}>")

    def worded(self, document: Mapping[str, Any]) -> "Sweep":
        """Return this sweep in the words of another specification that means the same, but for the replications."""
        return replace(self, document={**document, "replications": self.document["replications"]})

    def repeated(self, replications: int) -> "Sweep":
        """Return this sweep with another number of replications."""
        return replace(self, document={**self.document, "replications": replications}, replications=replications)

    def text(self) -> str:
        """Return the whole specification as JSON, from which `model_validate` makes the same sweep."""
        return json.dumps(self.document, ensure_ascii=False)

    def defaults(self) -> dict[str, Any]:
        """Return the defaults that the sweep rests on, by dotted path: every setting that some point leaves out."""
        return in_force(point._asdict() for point in self.grid.points)

    def parts(self) -> dict[str, str]:
        """Return everything that decides what a replication is, by name, as text; how a file words it is not part."""
        parts = {name: json.dumps(getattr(self, name)) for name in ("name", "title", "description", "seed")}
        parts["axes"] = json.dumps([(axis.name, axis.long_name, axis.labels) for axis in self.grid.axes])
        for name in SECTIONS:
            # Points share what no axis touches.
            shared = {id(settings): settings for settings in (getattr(point, name) for point in self.grid.points)}
            written = {key: settings.model_dump_json() for key, settings in shared.items()}
            distinct = {text: number for number, text in enumerate(dict.fromkeys(written.values()))}
            numbers = [distinct[written[id(getattr(point, name))]] for point in self.grid.points]
            parts[name] = json.dumps([numbers, list(distinct)])
        return parts

    def identity(self) -> str:
        """Return the SHA-256 of everything that decides what a replication is: all but the number of replications."""
        return hashlib.sha256(json.dumps(self.parts()).encode()).hexdigest()


def remade(specification: Mapping[str, Any], defaults: Defaults, source: str) -> tuple[Sweep, str]:
    """Return the sweep that a cube was made from, with the defaults that it was made with.

    Beside it, in one line, how these differ from those of this version; "" where they do not.
    Raises InputError for a specification or a default that this version does not take.
    """
    sweep = Sweep.model_validate(specification, source)
    ours = sweep.defaults()
    if others := {path: value for path, value in defaults.items() if path in ours and ours[path] != value}:
        sweep = Sweep.model_validate(specification, source, others)
    return sweep, differences(defaults, ours)


def is_deterministic(point: Point) -> bool:
    """Say whether every replication of a point would be the same one."""
    workload = point.workload
    trace, lengths = workload.trace, workload.lengths
    if draws_service(point):
        return False
    if trace is not None:
        return trace.resample == "none" and not workload.predictor.draws
    if lengths is None or workload.predictor.draws:
        return False
    drawn = [lengths, lengths.prompt, getattr(workload.arrivals, "think_s", None)]
    if workload.sessions is not None:
        drawn += [workload.sessions.turns, workload.sessions.think_s]
    fixed = all(part is None or isinstance(part, Constant) for part in drawn)
    return fixed and isinstance(workload.arrivals, AtOnce | Deterministic | Closed)


def _mode_problems(grid: Grid) -> list[Mistake]:
    if len({point.simulation for point in grid.points}) > 1:
        text = 'must be "continuous" at every point or at none: what a cube of single steps holds is another thing'
        return [Mistake(("policy", "mode"), text)]
    return []


def _class_problems(grid: Grid) -> list[Mistake]:
    if len({point.workload.class_names for point in grid.points}) > 1:
        text = "must have the same names, in the same order, at every point: they are a dimension of the cube"
        return [Mistake(("workload", "classes"), text)]
    return []


def _replication_problems(grid: Grid) -> list[Mistake]:
    draws = {draws_service(point) for point in grid.points}
    if len(draws) > 1:
        text = "must be the same at every point: where coefficients are drawn, intervals mean something else"
        return [Mistake(("server", "service", "draw"), text)]
    fixed = [is_deterministic(point) for point in grid.points]
    if any(f and point.workload.trace is not None for f, point in zip(fixed, grid.points, strict=True)) and not all(
        fixed
    ):
        text = (
            "this point has nothing random, others have: replications would be copies and their interval a fiction; "
            'set resample = "parts", "circular" or "blocks"'
        )
        return [Mistake(("workload", "trace", "resample"), text, "none")]
    return []


# Reading ------------------------------------------------------------------------------------------------------------


def read_document(path: str | PathLike[str]) -> tuple[dict[str, Any], str, Path]:
    """Return the tables of a TOML file or preset, the name for messages, and the folder its file paths start from.

    Raises InputError for a file that is missing, unreadable, or no TOML.
    """
    from .. import presets

    file = Path(path)
    name = str(path)
    if not file.suffix and not file.exists():
        if name not in presets.names():
            raise InputError(f"no such file, and no preset of that name; {presets.hint(name)}", file=name)
        return parse_toml(presets.read(name), name), name, Path.cwd()
    try:
        content = read_file(file, LARGEST_FILE)
    except InputError as error:
        near = did_you_mean(name, [*presets.names(), *map(str, file.parent.glob("*.toml"))])
        raise error.advised(near) if near and not file.exists() else error from None
    return parse_toml(content, name), name, file.resolve().parent


def parse_toml(content: bytes, source: str) -> dict[str, Any]:
    """Parse TOML; raises InputError with the line and column of the first mistake."""
    if content.startswith(b"\x89HDF"):
        raise InputError("is NetCDF, no TOML; batchcube show prints a cube, rerun makes it again", file=source)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise InputError(
            f"is no TOML: byte 0x{byte:02x} at offset {error.start} is not UTF-8 text", file=source
        ) from None
    if any(key[0].count(".") > MOST_PARTS for key in _DOTTED.finditer(text)):
        raise InputError("is nested too deeply for a specification", file=source)
    try:
        return tomllib.loads(text.replace("\r\n", "\n"))
    except RecursionError:
        raise InputError("is nested too deeply for a specification", file=source) from None
    except ValueError as error:
        message = quoted(error)
        place = re.search(r" \(at (line \d+, column \d+|end of document)\)$", message)
        if place:
            message = f"{place[1]}: {message[: place.start()]}"
        raise InputError(f"is no TOML: {message}", file=source) from None


def _refuse_depth(document: Mapping[str, Any], source: str) -> None:
    if is_deep(document):
        raise InputError(f"is nested deeper than {DEEPEST} levels: no specification is", file=source)


def _unwritable(tree: Any, path: Place = ()) -> Iterator[Mistake]:
    """Yield the values that no setting takes and no cube can hold: dates and times of TOML."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _unwritable(value, (*path, key))
    elif isinstance(tree, list | tuple):
        for position, value in enumerate(tree):
            yield from _unwritable(value, (*path, position))
    elif isinstance(tree, date | time):
        yield Mistake(path, "is a date or time: no setting takes one (seconds are a number, text is in quotes)", tree)


def _with_absolute_paths(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Anchor every file path of the settings in ``folder``, so that the sweep runs from anywhere."""

    def absolute(value: Any) -> Any:
        if isinstance(value, str) and value and not value.startswith("dataset:") and "\0" not in value:
            return str(folder / value)
        return value

    def walk(table: Any) -> None:
        if isinstance(table, dict):
            for key, value in table.items():
                name = key.rpartition(".")[2]
                if name == "path" or (name == "coefficients" and str(value).endswith(".json")):
                    table[key] = absolute(value)
                else:
                    walk(value)
        elif isinstance(table, list):
            for entry in table:
                walk(entry)

    walk(document.get("workload"))
    walk(document.get("server"))
    axes = document.get("axes")
    for axis in axes.values() if isinstance(axes, dict) else ():
        if not isinstance(axis, dict):
            continue
        walk(axis.get("points"))
        path, values = axis.get("path"), axis.get("values")
        if isinstance(path, str) and path.endswith(".path") and isinstance(values, list):
            axis["values"] = [absolute(value) for value in values]
        if isinstance(path, str) and path.endswith(".coefficients") and isinstance(values, list):
            axis["values"] = [absolute(value) if str(value).endswith(".json") else value for value in values]
    return document


def files_of(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the files that a specification names anywhere, but for shipped coefficients and datasets."""
    tables: list[Any] = [document]
    while tables:
        table = tables.pop()
        if isinstance(table, list):
            tables += table
        if not isinstance(table, dict):
            continue
        # An axis names a setting by its path, and has values for it or says where they start.
        of_axis = table.get("path") if "values" in table or "start" in table else None
        named = [(of_axis, value) for value in table["values"]] if isinstance(table.get("values"), list) else []
        for key, value in [*table.items(), *named]:
            name = str(key).rpartition(".")[2]
            if not isinstance(value, str):
                tables.append(value)
            elif value.startswith("dataset:"):
                continue
            elif (name == "path" and value != of_axis) or (name == "coefficients" and value.endswith(".json")):
                yield value


class _Override(NamedTuple):
    """A setting to lay over a document."""

    path: str
    value: Any
    said: str
    """How it was given, for messages."""
    instead: str
    """How the values of an axis are given."""
    told: str
    """What is said of a path in the words of others."""


def overriding(given: Iterable[str] | Mapping[str, Any]) -> Iterator[_Override]:
    """Yield what texts ``path=value`` say (the value is TOML, or text where it is no TOML), or values by path."""
    if isinstance(given, Mapping):
        for path, value in given.items():
            said = f"`settings` {path} = {show_value(value)}"
            yield _Override(vllm.path_here(path), value, said, '"axes.{}.values"', vllm.told(path))
        return
    for text in given:
        path, equals, spelled = text.partition("=")
        if not equals:
            raise InputError("must be path=value, for instance policy.bins=4", path="`settings`", value=text)
        path, said = path.strip(), f"`settings` {text}"
        yield _Override(
            vllm.path_here(path), _counted(spelled), said, "`settings` axes.{}.values=[...]", vllm.told(path)
        )


def _counted(spelled: str) -> Any:
    """Return what a text says, ``1e6`` as the whole number that it is."""
    value = value_of(spelled)
    is_whole = isinstance(value, float) and "e" in spelled.lower() and abs(value) < 2**53 and value.is_integer()
    return int(value) if is_whole else value


def laid_over(
    document: dict[str, Any], source: str, folder: Path, overrides: Iterable[_Override]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the tables of a file, whose paths start from a folder, with settings laid over them.

    Beside them, what was said in the words of others, a line each.
    Raises InputError for tables that are nested too deeply, for a setting that cannot be laid there, and for what must
    be a table and is none.
    """
    _refuse_depth(document, source)
    document = _with_absolute_paths(deepcopy(document), folder)
    told = vllm.rename(document, source)
    for override in overrides:
        document = _lay_over(document, override)
        told += [override.told] if override.told else []
    tables = ((name, document[name]) for name in (*SECTIONS, "axes") if name in document)
    if wrong := [Mistake((name,), "must be a table", table) for name, table in tables if not isinstance(table, dict)]:
        raise errors_of(wrong, source)
    return document, tuple(dict.fromkeys(told))


def _lay_over(document: dict[str, Any], override: _Override) -> dict[str, Any]:
    """Lay one setting over the document."""
    path, value, said, instead, _ = override
    keys = path.split(".")
    if not all(keys):
        raise InputError("must have a dotted path, for instance policy.bins", path=said)
    _refuse_depth({"": value}, f"`settings` {path}")
    axes = document.get("axes")
    for name, axis in axes.items() if isinstance(axes, dict) else ():
        if isinstance(axis, dict) and axis.get("path") == path:
            raise InputError(f"axes.{name} sets it at every point; use {instead.format(name)}", path=said)
    if keys[0] == "axes" and keys[-1] == "values" and len(keys) == 3:
        axis = axes.get(keys[1]) if isinstance(axes, dict) else None
        if isinstance(axis, dict):
            for other in ("start", "stop", "num", "step"):
                axis.pop(other, None)
    table = document
    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            raise InputError(f"{key} = {show_value(inner)} is no table", path=said)
        table = inner
    table[keys[-1]] = value
    return _with_absolute_paths(document, Path.cwd())


def varied(document: Mapping[str, Any], vary: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return the tables of a specification in which settings take several values, instead of what it says of them.

    `vary` are values by dotted path. Each becomes an axis, called by the end of its path, or by all of it where the end
    is the name of something else.
    """
    made = deepcopy(dict(document))
    ends = [path.rpartition(".")[2] for path in vary]
    stated = made.get("axes", {})
    if not isinstance(stated, dict):
        # Told as a mistake of the file.
        return made
    axes = {name: axis for name, axis in stated.items() if _path_of(axis) not in vary}
    taken = {*axes, *reserved_names()}
    for path, values in vary.items():
        _remove(made, path.split("."))
        end = path.rpartition(".")[2]
        name = path.replace(".", "_") if ends.count(end) > 1 or end in taken else end
        axes[name] = {"path": path, "values": list(values)}
    return made | {"axes": axes}


def _path_of(axis: Any) -> Any:
    return axis.get("path") if isinstance(axis, dict) else None


def _remove(table: Any, keys: Sequence[str]) -> None:
    """Remove a setting of nested tables, if it is there."""
    for key in keys[:-1]:
        table = table.get(key) if isinstance(table, dict) else None
    if isinstance(table, dict):
        table.pop(keys[-1], None)


# Schema -------------------------------------------------------------------------------------------------------------


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a specification, for editors that complete TOML."""
    schema = Document.model_json_schema()
    schema["$schema"] = "http://json-schema.org/draft-07/schema#"
    schema["title"] = "batchcube sweep"

    def relax(node: Any) -> None:
        if isinstance(node, dict):
            # An axis may set anything, so nothing can be demanded of the file itself, but the tags of unions.
            if isinstance(node.get("required"), list):
                node["required"] = [name for name in node["required"] if "const" in node["properties"].get(name, {})]
                if not node["required"]:
                    del node["required"]
            # Written with $defs by pydantic and read with definitions by draft-07 editors: both follow $ref.
            for value in node.values():
                relax(value)
        elif isinstance(node, list):
            for value in node:
                relax(value)

    relax(schema)
    return schema


def schema_text() -> str:
    """Return the published JSON schema as the text of its file."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


__all__ = ["Sweep", "json_schema", "parse_toml", "read_document", "schema_text"]
