"""Whom times leave out: requests that were never served have none, and answers that were cut off end early."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .text import in_percent
from .variables import REPLICATION

if TYPE_CHECKING:
    import xarray as xr

COUNTS = ("measured", "missed", "truncated")
"""The variables that say how many there are."""


def left_out(cube: xr.Dataset) -> str:
    """Say how many requests have no time, or one of half an answer, at the point where they are most; "" without any.

    Quantiles over the other ones are below those of all who came, and no statistic of a time shows it.
    """
    if not {"measured", "missed"} <= set(cube.data_vars):
        return ""
    counts = {
        name: cube[name].sum([dim for dim in cube[name].dims if dim == REPLICATION]).values
        for name in COUNTS
        if name in cube
    }
    every = np.maximum(counts["measured"] + counts["missed"], 1)
    most = {name: float(np.max(counts[name] / every)) for name in COUNTS[1:] if name in counts}
    said = [
        f"{in_percent(most[name])} of the requests {what}"
        for name, what in (("missed", "were never served"), ("truncated", "had their answers cut off"))
        if most.get(name)
    ]
    if not said:
        return ""
    several = "up to " if every.size > 1 else ""
    return f"{' and '.join(several + one for one in said)}: times and their quantiles are of what was served"
