"""One long run: an interval of its mean by batch means, and how much of its beginning to leave out.

For what `simulate` says of each request, a log, or the windows of a cube:

    served = batchcube.simulate(sweep).requests.dropna()
    latency = (served["completion_s"] - served["arrival_s"]).to_numpy()
    found = batch_means(latency[mser5(latency):])

A recorded trace is cut into parts by ``workload.trace.resample = "parts"``, each a replication: the same method, with
intervals as those of any cube.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from batchcube.errors import InputError

from . import overload
from .axes import axis_names
from .pieces import points_of
from .statistics import Interval, mean_interval
from .variables import REPLICATION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

BATCHES = 20
"""Few and long: more than 30 gain nothing (Schmeiser), and short ones are correlated."""
FEWEST_WINDOWS = 10
"""Below so many they say nothing of the beginning."""
BIAS = 0.01
"""Share of a mean that what is left of a beginning may make up before it is said."""
_QUEUE = "window_queue_length_mean"
LATE = "the warm-up is shorter than the windows suggest (MSER-5)"


def batch_means(values: ArrayLike, batches: int = BATCHES, confidence: float = 0.95) -> Interval:
    """Return the mean of a run's successive values with the t interval of the means of non-overlapping batches.

    `values` are in the order of time; the first ones that do not fill a batch are left out. Right where a batch is much
    longer than what one value says of those after it: the interval comes out too narrow otherwise, and NaN where a
    batch would have fewer than 10 values.
    Source: Schmeiser, Operations Research 30 (1982) 556-568. Raises InputError for fewer than two batches, and values
    that are not `(value,)` or NaN.
    """
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1 or not given.size or np.isnan(given).any():
        raise InputError("must be (value,), without NaN", path="values")
    if batches < 2:
        raise InputError("must be >= 2", path="batches", value=batches)
    size = given.size // batches
    if size < 10:
        unknown = np.array(np.nan)
        return Interval(np.array(given.mean()), unknown, unknown, np.array(batches))
    return mean_interval(
        given[given.size - size * batches :].reshape(batches, size).mean(axis=1), confidence=confidence
    )


def mser5(values: ArrayLike, batch: int = 5) -> int:
    """Return how many of a run's first values to leave out, so that the error of the mean of the others is the least.

    MSER: of all cuts in the first half the one with the least standard error of what is left, found among the means of
    `batch` successive values. Source: White, Simulation 69 (1997) 323-334. Raises InputError for other than `(value,)`.
    """
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1 or batch < 1:
        raise InputError("must be (value,), and a batch 1 or more", path="values")
    means = given[: given.size // batch * batch].reshape(-1, batch).mean(axis=1)
    count = len(means)
    if count < 4:
        return 0
    # Of all that is left after each cut: number, mean and sum of squares about it.
    left = np.arange(count, 0, -1)
    centred = means - means.mean()
    sums, squares = (np.cumsum(part[::-1])[::-1] for part in (centred, centred**2))
    spread = np.maximum(squares - sums**2 / left, 0.0) / left.astype(np.float64) ** 2
    return int(spread[: count // 2 + 1].argmin()) * batch


def warmup_note(cube: xr.Dataset, queue: xr.DataArray) -> str:
    """Return the note on points whose warm-up is shorter than the windows suggest; "" where none is.

    `queue` is what `overload.judge` said.

    A point counts where the replications bear it out, and where it matters: the queue in the windows to be left out as
    well differs from that in those after them, by their paired 99 % interval, and without them the mean changes by
    `BIAS` or more.
    """
    if not {"requests", "measured", "missed"} <= set(cube):
        return ""
    axes = axis_names(cube)
    kept = np.empty([cube.sizes[name] for name in axes])
    for places, points in points_of(cube, ("measured", "missed", "requests"), axes):
        share = (points["measured"] + points["missed"]) / points["requests"]
        kept[places] = share.mean(REPLICATION).transpose(*axes).values
    late: list[float] = []
    for at, waiting in _settling(cube, queue):
        windows = waiting.shape[1]
        left_out, cut = int(np.ceil((1.0 - kept[at]) * windows)), mser5(waiting.mean(axis=0), 1)
        if left_out < cut:
            beside = waiting[:, left_out:cut].mean(axis=1) - waiting[:, cut:].mean(axis=1)
            apart = mean_interval(beside, confidence=0.99)
            before, after = waiting[:, left_out:].mean(), waiting[:, cut:].mean()
            if (apart.low > 0.0 or apart.high < 0.0) and abs(after - before) >= BIAS * after:
                late.append(cut / windows)
    if not late:
        return ""
    at_points = "" if kept.size == 1 else f" at {len(late)} of {kept.size} points"
    return f"{LATE}{at_points}: leave out the first {100 * max(late):.0f} % (report.warmup_fraction = {max(late):.2g})"


def _settling(cube: xr.Dataset, judged: xr.DataArray) -> Iterator[tuple[tuple[int, ...], NDArray[np.float64]]]:
    """Yield the steady points, each with its queue in the windows of arrivals, (replication, window)."""
    if not {_QUEUE, "window_arrivals"} <= set(cube):
        return
    axes = axis_names(cube)
    steady = (judged == overload.STEADY).transpose(*axes).values
    if not steady.any():
        return
    for places, points in points_of(cube, (_QUEUE, "window_arrivals"), axes):
        queue, arrivals = (
            points[name].transpose(*axes, REPLICATION, "window").values.astype(np.float64)
            for name in (_QUEUE, "window_arrivals")
        )
        for at in np.ndindex(steady[places].shape):
            mean = arrivals[at].mean(axis=0)
            usual = np.flatnonzero(mean >= 0.5 * np.median(mean[mean > 0])) if mean.any() else np.array([0])
            of_arrivals = queue[at][:, : int(usual[-1])]
            if steady[places][at] and of_arrivals.shape[1] >= FEWEST_WINDOWS and np.isfinite(of_arrivals).all():
                yield tuple(place.start + i for place, i in zip(places, at, strict=True)), of_arrivals
