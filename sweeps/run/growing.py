"""Cubes that grow: joined with others of the same sweep, or extended by the points and replications they lack."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from batchcube.errors import InputError, printable
from batchcube.results import costs, overload
from batchcube.results.cube import read_cube, refuse_changed
from batchcube.results.disk import cube_file
from batchcube.results.joining import SAME, first_difference, made_by_all, parts_of, placed
from batchcube.results.provenance import batchcube_version, named_together, parse_made_from
from batchcube.results.variables import REPLICATION

from ..claim import folder_of
from ..files import require_new
from ..progress import Progress
from ..spec.document import Sweep, is_deterministic, laid_over, overriding, remade
from ..spec.grid import Axis
from ..spec.settings import Point
from .assemble import coordinate_of, tell_missing, tell_not_whole
from .execution import run_sweep
from .outputs import require_own_files, require_own_grid, same_sweep
from .preparing import notes_on_all
from .store import SUFFIX, Store

_KINDS = {
    "plan": "holds the answer of a plan, of which no part can be joined",
    "capacity_criteria": "holds capacities, which a search made: search again with all the points",
    "precision_looks": "was made with a wanted precision, which decided on its replications: run all the points again",
}


class Held(NamedTuple):
    """A finished cube, and the sweep that it is of."""

    file: Path
    cube: xr.Dataset
    sweep: Sweep


def read_held(file: Path) -> Held:
    """Read a cube that a run made; raises InputError for others, and where it is not all its specification says."""
    return _held(file, _read(file))


def _read(file: Path) -> xr.Dataset:
    """Read a cube that a run made; raises InputError for others."""
    cube = read_cube(file, refuse_changed(file))
    for name, why in _KINDS.items():
        if name in cube.attrs:
            raise InputError(why, file=file)
    return cube


def _held(file: Path, cube: xr.Dataset) -> Held:
    """Find the sweep of a cube; raises InputError where the cube is not all its specification says."""
    sweep, _ = remade(*parse_made_from(cube), str(file))
    require_own_grid(cube, sweep, file)
    return Held(file, cube, sweep)


def join(files: Sequence[Path], output: Path, *, overwrite: bool = False) -> xr.Dataset:
    """Write the cube of several cubes of one sweep, which differ in the values of axes or in replications.

    Its specification has the values of all, so that it can be run on and made again; `parts` says of each when and by
    what it was made. Raises InputError, naming the file and what differs, for cubes of different sweeps, versions or
    seeds, for different numbers at the same point, and where together they are no whole grid.
    """
    if len(files) < 2:
        raise InputError("needs two cubes or more", path="join")
    with Store(cube_file(output)) as store:
        require_new(output, overwrite=overwrite)
        cube = _joined([read_held(file) for file in files])
        store.put(cube)
        return cube


def extend(
    file: Path,
    settings: Iterable[str] | Mapping[str, Any] = (),
    *,
    replications: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    backend: str = "numba",
    trust_paths: bool = False,
) -> xr.Dataset | None:
    """Simulate what a cube lacks of more values of its axes, or of more replications, and write it all; return it.

    `settings` give values or points of axes, those that it has or more, as `Sweep.from_toml` takes them. What is new is
    run as a sweep of its own, in the folder NAME.extended beside the cube, and continues when it was stopped. None
    where the cube holds all of it already. Raises InputError as a run does, for settings of anything but axes, and for
    a cube that names files outside its folder, unless `trust_paths`.
    """
    if not settings and replications is None:
        raise InputError("needs `settings` axes.NAME.values=[...] or `replications`", path="extend")
    if not file.exists():
        read_held(file)  # which says what is wrong
    # Nobody else writes there from the moment it is read.
    with Store(file) as store:
        cube = _read(file)
        require_own_files(file, cube, trust_paths=trust_paths)
        held = _held(file, cube)
        whole, defaults = _extended(held, settings)
        if (replications or 1) > 1 and all(map(is_deterministic, whole.grid.points)):
            raise InputError("has one replication, because nothing in it is random", file=file)
        kept = folder_of(file)
        if whole.grid.axes != held.sweep.grid.axes and any(kept.glob(f"*{SUFFIX}")):
            raise InputError("is what a stopped run of this cube keeps: finish it with batchcube run", file=kept)
        more = file.with_name(f"{file.name}.extended") / "more.nc"
        options: dict[str, Any] = {"workers": workers, "progress": progress, "backend": backend}
        grown = held
        for axis in whole.grid.axes:
            there = {label for each in grown.sweep.grid.axes if each.name == axis.name for label in each.labels}
            new = [label for label in axis.labels if label not in there]
            if new:
                part = _only(grown.sweep, axis, new, defaults).repeated(grown.cube.sizes[REPLICATION])
                made = run_sweep(part, more, overwrite=_holds_another(more, part), **options)
                store.put(_joined([grown, Held(more, made, part)]))
                more.unlink()
                grown = read_held(file)
        more.unlink(missing_ok=True)
        with suppress(OSError):
            more.parent.rmdir()
    if replications is not None and replications > grown.cube.sizes[REPLICATION]:
        return run_sweep(grown.sweep.repeated(replications), file, **options)
    return None if grown is held else grown.cube


def _extended(held: Held, settings: Iterable[str] | Mapping[str, Any]) -> tuple[Sweep, dict[str, Any]]:
    """Return the sweep of a cube with more values of its axes, and the defaults that it rests on."""
    file, given = held.file, list(overriding(settings))
    if (made := held.cube.attrs["batchcube_version"]) != batchcube_version():
        raise InputError(f"was made by version {made}, this is {batchcube_version()}", file=file)
    for override in given:
        keys = override.path.split(".")
        if keys[0] != "axes" or len(keys) < 3 or keys[1] not in {axis.name for axis in held.sweep.grid.axes}:
            raise InputError(
                "must be values or points of an axis that the cube has: " + override.instead.format("NAME"),
                path=override.said,
            )
    document, _ = laid_over(held.sweep.document, str(file), Path.cwd(), given)
    _, defaults = parse_made_from(held.cube)
    asked, _ = remade(document, defaults, str(file))
    return _union({str(file): held.sweep, "`settings`": asked}), defaults


def _holds_another(file: Path, sweep: Sweep) -> bool:
    """Say whether a file that was left behind is of another sweep."""
    try:
        return file.exists() and same_sweep(file, sweep) is None
    except InputError:
        return True


def _joined(parts: Sequence[Held]) -> xr.Dataset:
    """Return the cube of all parts."""
    first = parts[0]
    whole = _union({str(part.file): part.sweep for part in parts})
    of_files = any(_names_files(axis) for axis in whole.grid.axes if _grows(axis, parts))
    for part in parts[1:]:
        for name in SAME:
            theirs, ours = part.cube.attrs.get(name), first.cube.attrs.get(name)
            if theirs != ours and not (of_files and name == "input_sha256"):
                raise InputError(f"{name} = {theirs!r}, of {first.file} {ours!r}", file=part.file)
    numbers = sorted({number for part in parts for number in part.cube[REPLICATION].values.tolist()})
    if missing := sorted(set(range(numbers[-1] + 1)) - set(numbers)):
        raise InputError(f"replication {missing[0]} is in none of the cubes, and together they must have all from 0 on")
    coords = {axis.name: _coordinate(axis, whole, first.cube) for axis in whole.grid.axes}
    coords[REPLICATION] = xr.Variable(REPLICATION, np.array(numbers), first.cube[REPLICATION].attrs)
    cube = placed([part.cube for part in parts], coords)
    if len(numbers) > 1 or whole.replications > 1:
        whole = whole.repeated(len(numbers))
    cubes = [part.cube for part in parts]
    text = whole.text()
    # What is true of a part need not be of the whole.
    own = [{costs.warning(part.cube), *notes_on_all(part.sweep)} for part in parts]
    notes = [line for part, said in zip(parts, own, strict=True) for line in _notes(part.cube) if line not in said]
    notes = [*filter(None, [costs.warning(cube)]), *notes, *notes_on_all(whole)]
    cube.attrs = {
        **{name: value for name, value in first.cube.attrs.items() if not name.endswith("_sha256")},
        "specification": text,
        "specification_defaults": json.dumps(whole.defaults()),
        "specification_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "replications": len(numbers),
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": named_together(str(each.attrs.get("git_commit", "")) for each in cubes),
        "input_sha256": ",".join(
            sorted({one for each in cubes for one in str(each.attrs.get("input_sha256", "")).split(",") if one})
        ),
        "notes": "\n".join(dict.fromkeys(notes)),
        "parts": json.dumps([one for each in cubes for one in parts_of(each)]),
        **made_by_all(cubes),
        **{name: table for name in ("service_coefficients", "policies") if (table := _tables(cubes, name))},
    }
    tell_not_whole(cube)
    tell_missing(cube)
    overload.tell(cube)
    return cube


def _notes(cube: xr.Dataset) -> list[str]:
    return str(cube.attrs.get("notes", "")).splitlines()


def _tables(cubes: Sequence[xr.Dataset], name: str) -> str:
    """Return the tables that cubes have under a name as one, as text; "" where none has."""
    tables = [json.loads(str(cube.attrs[name])) for cube in cubes if name in cube.attrs]
    return json.dumps({key: value for table in tables for key, value in table.items()}) if tables else ""


def _coordinate(axis: Axis, whole: Sweep, like: xr.Dataset) -> xr.Variable:
    attrs = {**like[axis.name].attrs, "units": coordinate_of(axis, whole).units}
    return xr.Variable(axis.name, np.array(axis.labels), attrs)


def _grows(axis: Axis, parts: Sequence[Held]) -> bool:
    return any(part.cube.sizes[axis.name] < len(axis.labels) for part in parts)


def _names_files(axis: Axis) -> bool:
    return any(path.rpartition(".")[2] in ("path", "coefficients") for path in axis.paths)


# Specifications -----------------------------------------------------------------------------------------------------


def _union(sweeps: Mapping[str, Sweep]) -> Sweep:
    """Return the sweep with the values of all, by the names of their files; it has the most replications stated.

    Raises InputError where two are of other sweeps than that: it says which setting differs.
    """
    (name, first), *others = sweeps.items()
    document = deepcopy(first.document)
    for other, sweep in others:
        for what in ("name", "title", "description", "seed"):
            if getattr(sweep, what) != getattr(first, what):
                raise InputError(
                    f"{what} = {getattr(sweep, what)!r}, of {printable(name)} {getattr(first, what)!r}", file=other
                )
        axes, theirs = ([axis.name for axis in one.grid.axes] for one in (first, sweep))
        if axes != theirs:
            raise InputError(
                f"has the axes {', '.join(theirs) or 'none'}, {printable(name)} {', '.join(axes) or 'none'}", file=other
            )
    for position, axis in enumerate(first.grid.axes):
        alike = [sweep.grid.axes[position] for sweep in sweeps.values()]
        for other, one in zip(sweeps, alike, strict=True):
            if (one.labelled, one.labelled or one.paths) != (axis.labelled, axis.labelled or axis.paths):
                raise InputError(f"{axis.name} is {', '.join(one.paths)}, not {', '.join(axis.paths)}", file=other)
        if any(one.labels != axis.labels for one in alike):
            document["axes"][axis.name] = _axis_of(axis.name, list(sweeps.values()), alike)
    document["replications"] = max(sweep.document["replications"] for sweep in sweeps.values())
    whole, _ = remade(document, first.defaults(), name)
    for other, sweep in sweeps.items():
        _require_same_points(whole, sweep, other)
    return whole


def _axis_of(name: str, sweeps: Sequence[Sweep], axes: Sequence[Axis]) -> dict[str, Any]:
    """Return the table of an axis that has the values of all: in order, where the first has numbers in order."""
    table = {key: value for key, value in sweeps[0].document["axes"][name].items() if key in ("path", "title")}
    if axes[0].labelled:
        points: dict[str, Any] = {}
        for sweep in sweeps:
            points |= {
                label: made for label, made in sweep.document["axes"][name]["points"].items() if label not in points
            }
        return {**table, "points": points}
    values = {
        label: value
        for axis in axes
        for label, made in zip(axis.labels, axis.sets, strict=True)
        for value in made.values()
    }
    numbers = [label for label in axes[0].labels if isinstance(label, int | float)]
    if numbers == sorted(numbers) != []:
        values = dict(sorted(values.items(), key=lambda item: float(item[0])))
    return {**table, "values": list(values.values())}


def _require_same_points(whole: Sweep, part: Sweep, name: str) -> None:
    """Raise InputError where a part's points are not what the whole has with the same values."""
    places = [
        [axis.labels.index(label) for label in own.labels]
        for axis, own in zip(whole.grid.axes, part.grid.axes, strict=True)
    ]
    shape = [len(axis.labels) for axis in whole.grid.axes]
    for point, place in zip(part.grid.points, product(*places), strict=True):
        like = whole.grid.points[int(np.ravel_multi_index(place, shape)) if shape else 0]
        if point != like:
            raise InputError(f"is of another sweep: {first_difference(_tables_of(like), _tables_of(point))}", file=name)


def _tables_of(point: Point) -> dict[str, Any]:
    return {section: settings.model_dump(mode="json") for section, settings in point._asdict().items()}


def _only(sweep: Sweep, axis: Axis, labels: Sequence[object], defaults: Mapping[str, Any]) -> Sweep:
    """Return a sweep with some values of an axis of a larger one only."""
    document = deepcopy(sweep.document)
    table = document["axes"][axis.name]
    for key in ("start", "stop", "step", "num", "values"):
        table.pop(key, None)
    chosen = {label: made for label, made in zip(axis.labels, axis.sets, strict=True) if label in labels}
    if axis.labelled:
        table["points"] = {
            str(label): {".".join(map(str, path)): value for path, value in made.items()}
            for label, made in chosen.items()
        }
    else:
        table["values"] = [value for made in chosen.values() for value in made.values()]
    return remade(document, defaults, sweep.source)[0]
