"""Ratios of counts, where there may be nothing to divide by."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def divide(a: Any, b: Any) -> NDArray[np.float64]:
    """Divide, with NaN where there is nothing to divide by."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    out = np.full(np.broadcast(a, b).shape, np.nan)
    np.divide(a, b, out=out, where=b != 0)
    return out


def share_missed(late: Any, served: Any, missed: Any) -> NDArray[np.float64]:
    """Return the share over a limit: what was never served has missed it, and counts among all."""
    return divide(late + missed, served + missed)


def only_if(known: NDArray[np.bool_], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values, with NaN where they mean nothing."""
    return np.where(known, values, np.nan)


def column(of_each_run: NDArray[Any]) -> NDArray[Any]:
    """Return values (run,) such that they meet others (run, bin) or (run, window)."""
    return of_each_run[:, None]
