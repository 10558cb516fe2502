"""Whom times leave out: requests that were never served have none, and answers that were cut off end early."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .text import in_percent
from .variables import REPLICATION

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

AMONG = {
    "rejected": ("requests",),
    "unserved": ("requests",),
    "missed": ("measured", "missed"),
    "truncated": ("measured", "missed"),
}
"""Of how many requests those are a share that a variable counts: the warm-up is part of some."""
COUNTS = ("measured", "missed", "truncated")
"""The variables that say how many there are."""


def shares_of(cube: xr.Dataset, name: str) -> NDArray[np.float64]:
    """Return which share of the requests of each point a variable of `AMONG` counts, over its replications."""
    counts = {
        of: cube[of].sum([dim for dim in cube[of].dims if dim == REPLICATION]).values for of in {name, *AMONG[name]}
    }
    shares: NDArray[np.float64] = counts[name] / np.maximum(sum(counts[of] for of in AMONG[name]), 1)
    return shares


def left_out(cube: xr.Dataset) -> str:
    """Say how many requests have no time, or one of half an answer, at the point where they are most; "" without any.

    Quantiles over the other ones are below those of all who came, and no statistic of a time shows it.
    """
    if not {"measured", "missed"} <= set(cube.data_vars):
        return ""
    shares = {name: shares_of(cube, name) for name in COUNTS[1:] if name in cube}
    most = {name: float(np.max(share)) for name, share in shares.items()}
    said = [
        f"{in_percent(most[name])} of the requests {what}"
        for name, what in (("missed", "were never served"), ("truncated", "had their answers cut off"))
        if most.get(name)
    ]
    if not said:
        return ""
    several = "up to " if shares["missed"].size > 1 else ""
    return f"{' and '.join(several + one for one in said)}: times and their quantiles are of what was served"
