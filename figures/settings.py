"""What the specification of a cube says: which of its axes are policies, and the settings of each line of a figure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from xarray import Dataset

from batchcube.results.axes import axis_names
from batchcube.results.provenance import parse_made_from

from .curves import line_places
from .reading import MODE, Figured, Select, View

SLA_TARGET = "policy.sla.target_s"


class PointSettings(NamedTuple):
    """The settings at one place of a cube, by dotted path."""

    stated: Mapping[str, Any]
    """What the specification says; None where it varies inside the place."""
    defaults: Mapping[str, Any]
    """What the cube was made with where the specification says nothing."""

    def value(self, path: str) -> Any:
        """Return one setting, None where it varies or nothing is known of it."""
        return self.stated[path] if path in self.stated else self.defaults.get(path)

    def has(self, table: str) -> bool:
        """Say whether a table of settings is stated, whatever it holds."""
        return any(path == table or path.startswith(f"{table}.") for path in self.stated)

    def number(self, path: str, figured: Figured) -> float:
        """Return one setting that is a number; InputError where the specification does not tell it."""
        value = self.value(path)
        if not isinstance(value, int | float):
            raise figured.lacks(f"its specification sets no {path} for one line or all")
        return float(value)


def settings_at(seen: View, at: Mapping[str, int]) -> PointSettings:
    """Return the settings at one place of the cube."""
    specification, defaults = parse_made_from(seen.cube)
    axes = specification.pop("axes", None)
    stated = dict(_leaves(specification))
    for name in axis_names(seen.whole):
        paths = str(seen.whole[name].attrs["path"]).split(",")
        values = seen.cube[name].values
        if values.ndim and name not in at:
            stated |= dict.fromkeys(paths)
            continue
        value = (values[at[name]] if values.ndim else values).item()
        axis = axes.get(name) if isinstance(axes, Mapping) else None
        points = axis.get("points") if isinstance(axis, Mapping) else None
        if isinstance(points, Mapping):
            stated |= dict(_leaves(points.get(str(value), {})))
        elif len(paths) == 1:
            stated[paths[0]] = value
    return PointSettings(stated, defaults)


def settings_of_lines(seen: View) -> list[PointSettings]:
    """Return the settings of every line."""
    return [settings_at(seen, at) for at in line_places(seen)]


def numbers_of_lines(seen: View, path: str) -> list[float]:
    """Return the different numbers that the lines have for a setting, in order."""
    values = {settings.value(path) for settings in settings_of_lines(seen)}
    return sorted(float(value) for value in values if isinstance(value, int | float))


def kv_capacities(seen: View) -> list[float]:
    """Return the different numbers of tokens that the KV caches of the lines hold, in order."""
    at = "server.replica."
    found = numbers_of_lines(seen, f"{at}kv_capacity_tokens")
    for settings in settings_of_lines(seen):
        blocks, size = settings.value(f"{at}num_gpu_blocks"), settings.value(f"{at}block_tokens")
        if isinstance(blocks, int | float) and isinstance(size, int | float):
            found.append((blocks - 1.0) * size)
    return sorted(set(found))


def listed(values: Collection[float], scale: float = 1.0) -> str:
    """Write the values of a setting in order, each times `scale`."""
    return ", ".join(f"{scale * value:,.6g}" for value in sorted(values))


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a table with dotted or nested keys."""
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def policy_axes(cube: Dataset) -> list[tuple[str, ...]]:
    """Return the paths of the axes that may be lines: mode, then labels of any kind, then numbers of the policy."""
    paths = {name: tuple(str(cube[name].attrs["path"]).split(",")) for name in axis_names(cube)}
    labels = [of for name, of in paths.items() if cube[name].dtype.kind not in "iuf"]
    numbers = [of for name, of in paths.items() if of not in labels and of[0].startswith(("policy.", "server."))]
    return [MODE, *labels, *numbers]


def axes_left(cube: Dataset, select: Select) -> dict[str, tuple[str, ...]]:
    """Return name and paths of the axes that keep two or more values after the selection."""
    left = {}
    for name in axis_names(cube):
        wanted = (select or {}).get(name, cube[name].values)
        if isinstance(wanted, list | tuple | np.ndarray) and len(set(map(str, wanted))) > 1:
            left[name] = tuple(str(cube[name].attrs["path"]).split(","))
    return left


def compared_axis(cube: Dataset, left: Mapping[str, Sequence[str]]) -> str | None:
    """Return the axis whose values are compared: that of the modes, else labels, else the first of the policy."""
    for wanted in policy_axes(cube):
        for name, paths in left.items():
            if tuple(paths) == wanted or (wanted == MODE and MODE[0] in paths):
                return name
    return next(iter(left), None)
