"""Means with their intervals as a dataset that people can read: a row a point, digits as sure as they are."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from batchcube.errors import printable

from . import notebook
from .text import UNITS, counted

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "variable"
"""Attribute with the name of what they are of, with its quantile, if any, as it is printed."""
CONFIDENCE = "confidence"
"""Attribute with their confidence."""
MOST_ROWS = 60
_KINDS = ("mean", "ratio", "difference")
_COLUMNS = {"low", "high", "n", "narrowed"}


class Intervals(xr.Dataset):  # type: ignore[no-untyped-call]
    """A dataset as `summary.interval` returns it, which prints, and shows in notebooks, as a table.

    What is computed from it prints as any other dataset does.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        if not (kind := _kind(self)):
            return super().__repr__()
        header, rows, words = _header(self, kind), list(_rows(self, kind)), _words(self, kind)
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) if k in words else cell.rjust(width) for k, (cell, width) in enumerate(of))
            for row in (header, *rows)
            if (of := list(zip(row, widths, strict=True)))
        ]
        return "\n".join([_title(self, kind), *lines, *_left_out(self)])

    def _repr_html_(self) -> str:
        if not (kind := _kind(self)):
            return super()._repr_html_()
        table = notebook.table(_header(self, kind), _rows(self, kind), words=_words(self, kind))
        return "".join([notebook.line(_title(self, kind)), table, *map(notebook.line, _left_out(self))])


def digits(width: float) -> int:
    """Return the decimals that show two digits of an interval's width."""
    return int(np.clip(1 - np.floor(np.log10(width)), 0, 9))


def _kind(found: xr.Dataset) -> str:
    """Return what the intervals are of; nothing where somebody has made something else of them."""
    kinds = [kind for kind in _KINDS if kind in found.data_vars]
    is_whole = len(kinds) == 1 and {"low", "high", "n"} <= set(found.data_vars) <= {*kinds, *_COLUMNS}
    return kinds[0] if is_whole and {VARIABLE, CONFIDENCE} <= set(found.attrs) else ""


def _title(found: xr.Dataset, kind: str) -> str:
    about = found[kind].attrs
    name, bracket, quantile = str(found.attrs[VARIABLE]).partition("[")
    units = "requests/s" if name.endswith("_requests_per_s") else str(about.get("units", "1"))
    unit = "" if kind == "ratio" else UNITS.get(units, units)
    of = f"{about.get('long_name', name)}{bracket and ' '}{bracket}{quantile}{f' ({unit})' if unit else ''}"
    to = {"ratio": f", ratio to {about.get('baseline')}", "difference": f", difference to {about.get('baseline')}"}
    fixed = [f"{name} = {_plain(value.item())}" for name, value in found.coords.items() if not value.dims]
    at = f", at {', '.join(fixed)}" if fixed else ""
    return printable(f"{of}{to.get(kind, '')}{at}: {_replications(found)}")


def _replications(found: xr.Dataset) -> str:
    counts = np.unique(found["n"].values)
    if counts.size and counts.max() <= 1:
        return "one replication, no interval"
    over = counted(int(counts[0]), "replication") if counts.size == 1 else "replications"
    return f"{100 * found.attrs[CONFIDENCE]:g} % intervals over {over}"


def _header(found: xr.Dataset, kind: str) -> list[str]:
    more = [name for name in ("n", "narrowed") if name in _shown(found)]
    return [*map(str, found[kind].dims), kind, "low", "high", *more]


def _shown(found: xr.Dataset) -> set[str]:
    """Return which further columns there are; the replications only where points differ in them."""
    return ({"n"} if np.unique(found["n"].values).size > 1 else set()) | ({"narrowed"} & set(map(str, found.data_vars)))


def _words(found: xr.Dataset, kind: str) -> set[int]:
    """Return the numbers of the columns whose labels are no numbers."""
    return {number for number, dim in enumerate(found[kind].dims) if found[dim].dtype.kind in "OUS"}


def _rows(found: xr.Dataset, kind: str) -> Iterator[list[str]]:
    dims, more = found[kind].dims, [name for name in ("n", "narrowed") if name in _shown(found)]
    arrays = {name: found[name].transpose(*dims).values for name in (kind, "low", "high", *more)}
    for number, at in enumerate(product(*(range(found.sizes[dim]) for dim in dims))):
        if number == MOST_ROWS:
            return
        value, low, high = (float(arrays[name][at]) for name in (kind, "low", "high"))
        places = digits(high - low) if high > low else None
        labels = [_plain(found[dim].values[index]) for dim, index in zip(dims, at, strict=True)]
        yield [*labels, *(_number(one, places) for one in (value, low, high)), *(_plain(arrays[n][at]) for n in more)]


def _left_out(found: xr.Dataset) -> list[str]:
    rows = int(np.prod([found.sizes[dim] for dim in found["n"].dims], dtype=np.int64))
    return [f"… {counted(rows - MOST_ROWS, 'more row')}: .to_dataframe() has all"] if rows > MOST_ROWS else []


def _number(value: float, places: int | None) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:.6g}" if places is None else f"{value:.{places}f}"


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else printable(value)
