"""Put the parts of a replication together: reports of some points each."""

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchcube.results.variables import REGISTRY

from .preparing import Prepared
from .store import AnyPart, Part, Report

CUT = ("latency_histogram", "tbt_histogram", "batch_size_histogram")
"""Arrays of varying length: cut to the part that is used, which begins at an index that is kept beside it."""


def cut(report: Report, prepared: Prepared) -> Report:
    """Return what of a block's report goes into the cube, in the cube's units, cut to what is used."""
    report = dict(report)
    if not prepared.points[0].point.report.histograms:
        for name in ("latency_histogram", "tbt_histogram"):
            report.pop(name, None)
    for name in CUT:
        if name in report:
            used = np.flatnonzero(report[name].any(axis=0))
            low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
            dtype = REGISTRY[name].dtype
            report[name] = np.ascontiguousarray(report[name][:, low:high].astype(dtype))
            report[f"{name}/from"] = np.array(low, np.int64)
    return report


def used(report: Report, name: str) -> tuple[int, int] | None:
    """Return from which index to before which one an array of varying length has numbers; None where it has none."""
    low = int(report[f"{name}/from"])
    places = np.flatnonzero(report[name].any(axis=0))
    return (low + int(places[0]), low + int(places[-1]) + 1) if len(places) else None


def join(parts: Sequence[AnyPart]) -> Report:
    """Join the parts of a replication, points in the order of the grid."""
    back = np.argsort([k for part in parts for k in part.points])
    report = _stack([part.report for part in parts])
    # Copies: what they were read from goes.
    return {name: array.copy() if name.endswith("/from") else array[back] for name, array in report.items()}


def without(part: AnyPart, points: Container[int]) -> Part:
    """Return what a part holds of other points than these."""
    rows = [row for row, k in enumerate(part.points) if k not in points]
    report = {name: array if name.endswith("/from") else array[rows] for name, array in part.report.items()}
    return Part(part.replication, tuple(part.points[row] for row in rows), report)


def _stack(reports: Sequence[Report]) -> Report:
    """Join reports along the points."""
    if len(reports) == 1:
        return dict(reports[0])
    joined: Report = {}
    for name in reports[0]:
        if name in CUT:
            joined[name], low = widen([r[name] for r in reports], [int(r[f"{name}/from"]) for r in reports])
            joined[f"{name}/from"] = np.array(low, np.int64)
        elif not name.endswith("/from"):
            joined[name] = np.concatenate([r[name] for r in reports])
    return joined


def widen(arrays: Sequence[NDArray[Any]], starts: Sequence[int]) -> tuple[NDArray[Any], int]:
    """Join arrays (point, used range), each from its own start on, into one over all their ranges."""
    low = min(starts)
    high = max(start + a.shape[1] for a, start in zip(arrays, starts, strict=True))
    wide = np.zeros((sum(len(a) for a in arrays), high - low), arrays[0].dtype)
    row = 0
    for array, start in zip(arrays, starts, strict=True):
        wide[row : row + len(array), start - low : start - low + array.shape[1]] = array
        row += len(array)
    return wide, low
