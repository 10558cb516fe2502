"""What simulations of a plan gave: a vector of values for each configuration, number of replicas and replication."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.engine.continuous import CATALOGUE
from batchcube.engine.statistics import QUANTILES
from batchcube.results.variables import REGISTRY

from ..workloads.settings import FloatArray

AT_CAP = "at_cap"
"""Share of the steps that ran as many requests as may run."""
OUTPUT = "output_tokens_mean"
"""Output tokens of a measured request."""
ARRIVED = "arrived_in_two_windows"
"""Numbers of arrivals in two windows that have the mean and the variance of those in all of them; NaN with one."""


class Wanted(NamedTuple):
    """Simulations that a decision needs next: of configurations, on so many replicas each, in a replication."""

    numbers: tuple[int, ...]
    """Of the configurations."""
    replicas: int
    replication: int


def _kept() -> dict[str, slice]:
    """Return where in a vector each variable of a report is that a plan keeps: totals and quantiles."""
    found, end = {}, 0
    for name in sorted(CATALOGUE.variables):
        variable = REGISTRY.get(name)
        if variable is not None and variable.replicated and variable.extra in ((), ("quantile",)):
            width = len(QUANTILES) if variable.extra else 1
            found[name] = slice(end, end + width)
            end += width
    return {**found, AT_CAP: slice(end, end + 1), OUTPUT: slice(end + 1, end + 2), ARRIVED: slice(end + 2, end + 4)}


KEPT = _kept()
WIDTH = KEPT[ARRIVED].stop


def vectors(report: Mapping[str, NDArray[Any]], caps: Sequence[int]) -> FloatArray:
    """Return what is kept of a report, (job, value); `caps` (job,) are the most requests that may run."""
    jobs = len(caps)
    found = np.full((jobs, WIDTH), np.nan)
    for name, place in KEPT.items():
        if name in report:
            found[:, place] = np.reshape(report[name], (jobs, -1))
    arrived = report["window_arrivals"]
    if arrived.shape[1] > 1:
        apart = arrived.std(axis=1, keepdims=True) * np.array([-1.0, 1.0])
        found[:, KEPT[ARRIVED]] = arrived.mean(axis=1, keepdims=True) + apart
    steps = report["batch_size_histogram"]
    full = np.array([steps[job, cap] if cap < steps.shape[1] else 0 for job, cap in enumerate(caps)])
    found[:, KEPT[AT_CAP].start] = full / np.maximum(steps.sum(axis=1), 1)
    # All but the first token end a time between tokens.
    with np.errstate(invalid="ignore", divide="ignore"):
        found[:, KEPT[OUTPUT].start] = 1.0 + report["tbt_histogram"].sum(axis=1) / report["measured"]
    return found


class Values:
    """What was simulated so far."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, int], dict[int, FloatArray]] = {}
        """By configuration and replicas, then replication."""
        self.simulations = 0

    def add(self, numbers: Iterable[int], replicas: int, replication: int, rows: FloatArray) -> None:
        """Add vectors (configuration, value)."""
        for number, row in zip(numbers, rows, strict=True):
            self._found.setdefault((number, replicas), {})[replication] = row
            self.simulations += 1

    def missing(self, numbers: Sequence[int], replicas: int, count: int) -> list[Wanted]:
        """Return what is not there of the first replications of configurations."""
        wanted = []
        for replication in range(count):
            left = tuple(k for k in numbers if replication not in self._found.get((k, replicas), {}))
            if left:
                wanted.append(Wanted(left, replicas, replication))
        return wanted

    def report(self, numbers: NDArray[np.int64], replicas: NDArray[np.int64], count: int) -> dict[str, NDArray[Any]]:
        """Return first replications of configurations as a report with leading axis (configuration x replication)."""
        every = self._rows(numbers, replicas, count)
        return {
            name: every[:, place] if place.stop - place.start > 1 else every[:, place.start]
            for name, place in KEPT.items()
        }

    def of(self, name: str, numbers: NDArray[np.int64], replicas: NDArray[np.int64], count: int) -> FloatArray:
        """Return a variable, (configuration, replication)."""
        return self._rows(numbers, replicas, count)[:, KEPT[name].start].reshape(len(numbers), count)

    def _rows(self, numbers: NDArray[np.int64], replicas: NDArray[np.int64], count: int) -> FloatArray:
        pairs = zip(numbers.tolist(), replicas.tolist(), strict=True)
        return np.array([self._found[pair][r] for pair in pairs for r in range(count)])
