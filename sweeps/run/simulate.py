"""Simulate prepared points on replications: what tasks are made of, wherever they are done."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from itertools import chain, cycle
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.engine import MissingBackendError, Shape, Simulation, batches, check, describe, simulate_many
from batchcube.engine.simulation import Job
from batchcube.errors import InputError
from batchcube.results.provenance import MadeBy
from batchcube.results.variables import CONTROLS

from .draws import Draws
from .parts import cut
from .preparing import Prepared, PreparedPoint, refusal
from .store import Part, Report

SECONDS_OF_A_TASK = 1.0
"""A task that takes longer gives back what it has, and what is left becomes another."""


def require_backend(backend: str, simulation: Simulation[Any] = batches) -> MadeBy:
    """Return what a backend is and runs on; raises InputError where there is none for a simulation, or not here."""
    try:
        return MadeBy(backend, *describe(backend, simulation))
    except (MissingBackendError, RuntimeError) as error:  # RuntimeError: a device that is not fit for use
        raise InputError(" ".join(str(error).split())) from None


class Simulator(NamedTuple):
    """A prepared sweep and what simulates it: plain data, so that a task may be done in another process."""

    prepared: Prepared
    backend: str
    jobs_at_once: int
    """What one call of the engine is given."""

    @property
    def on_device(self) -> bool:
        """Whether a device takes many jobs at once, one call after the other; cores each take a part of the work."""
        return self.backend == "jax"

    def shape(self, prepared_points: Sequence[PreparedPoint]) -> Shape:
        """Return the shape of a call: the least for cores; devices compile for one, so that all calls ask for it."""
        largest = max(
            prepared.setup.largest_batch for prepared in (self.prepared.points if self.on_device else prepared_points)
        )
        classes = len(prepared_points[0].point.workload.class_names)
        return Shape(self.prepared.bins, largest, prepared_points[0].setup.windows, classes)

    def simulate(self, jobs: Sequence[Job], prepared_points: Sequence[PreparedPoint]) -> Report:
        """Simulate jobs of these points, leading axis job; raises InputError."""
        with np.errstate(all="ignore"):
            return simulate_many(jobs, self.shape(prepared_points), self.backend)

    def job(self, draws: Draws, number: int) -> Job:
        """Return a point's job of one replication; InputError naming the point where it cannot be made."""
        try:
            with np.errstate(all="ignore"):
                return draws.job(self.prepared.points[number])
        except InputError as error:
            raise self._refusal(error, number) from None

    def report(self, draws: Sequence[Draws], numbers: Sequence[int], drawing: Executor | None = None) -> Report:
        """Simulate points on replications, replication by replication, drawn on an executor if there is one.

        Raises InputError, naming the point that is to blame, where an input cannot be simulated.
        """

        def drawn(replication: Draws) -> list[Job]:
            return [self.job(replication, number) for number in numbers]

        # A single one has tasks beside it that draw others.
        each = map(drawn, draws) if drawing is None or len(draws) == 1 else drawing.map(drawn, draws)
        jobs = list(chain.from_iterable(each))
        try:
            return self.simulate(jobs, [self.prepared.points[number] for number in numbers])
        except InputError as error:
            raise self._refusal(error, self._culprit(jobs, numbers)) from None

    def _refusal(self, error: InputError, number: int | None) -> InputError:
        """Return an error as a line about the sweep, and about its point where that is known."""
        grid = self.prepared.sweep.grid
        at = None if number is None else tuple(int(k) for k in np.unravel_index(number, grid.shape))
        return refusal(self.prepared.sweep, error, at)

    def _culprit(self, jobs: Sequence[Job], numbers: Sequence[int]) -> int | None:
        """Return the point that is to blame for an error of jobs, replication by replication."""
        if len(numbers) == 1:
            return numbers[0]
        # The clock may run out only on the way: then what was simulated is simulated once more, one by one.
        for again in (False, True):
            for number, job in zip(cycle(numbers), jobs, strict=False):
                try:
                    check(job)
                    if again:
                        self.simulate([job], [self.prepared.points[number]])
                except InputError:
                    return number
        return None


def simulate_parts(
    simulator: Simulator, draws: Sequence[Draws], numbers: Sequence[int], drawing: Executor | None = None
) -> list[Part]:
    """Simulate points on replications: all of them, or as many of the first as take `SECONDS_OF_A_TASK`."""
    begun = time.monotonic()
    points = max(1, simulator.jobs_at_once // len(draws))
    parts: list[Part] = []
    for start in range(0, len(numbers), points):
        some = tuple(numbers[start : start + points])
        report = simulator.report(draws, some, drawing)
        for row, one in enumerate(draws):
            rows = slice(row * len(some), (row + 1) * len(some))
            mine = {name: array[rows] for name, array in report.items()}
            ratios = [one.ratios(simulator.prepared.points[number]) for number in some]
            mine |= {name: np.array([of[name] for of in ratios]) for name in CONTROLS}
            parts.append(Part(one.replication, some, cut(mine, simulator.prepared)))
        if time.monotonic() - begun > SECONDS_OF_A_TASK:
            break
    return parts


def bytes_of(jobs: Sequence[Job]) -> int:
    """Return how much memory the arrays of jobs take; what they share counts once."""
    return sum({id(array): array.nbytes for array in _arrays(jobs)}.values())


def _arrays(value: Any) -> Iterator[NDArray[Any]]:
    """Yield all arrays in nested tuples and lists."""
    if isinstance(value, np.ndarray):
        yield value
    for part in value if isinstance(value, tuple | list) else ():
        yield from _arrays(part)
