"""The work of a plan: simulations as its races ask for them, kept as they are finished."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from batchcube.engine import Shape, simulate_many

from ..progress import Silent
from ..run.draws import Draws
from ..run.preparing import Prepared, PreparedPoint, prepare
from ..run.scheduler import Crew, Gain, Scheduler, Task
from ..run.searching import scalable
from ..run.store import Part, Store
from ..spec.grid import Axis, Grid
from ..stopping import Stop
from ..workloads.arrivals import AtRate
from ..workloads.settings import FloatArray
from .question import Question
from .race import Decider, Decision
from .values import KEPT, Values, Wanted, vectors

REQUESTS_OF_A_TASK = 200_000
"""Simulated in some tenths of a second."""
SECONDS_BETWEEN_LINES = 20.0
AT_ONCE = 1000.0
"""Times the rate that is more than anything serves."""
FEW = 4
"""Replications of what need not be exact."""
Say = Callable[[str], None]


class Together(NamedTuple):
    """Settings on some replicas, prepared together: plain data, so that a task may be done in another process."""

    backend: str
    seed: int
    points: Mapping[int, PreparedPoint]
    """By number of the setting."""


def simulate_settings(together: Together, settings: Sequence[int], replication: int) -> FloatArray:
    """Simulate settings on a replication and return what is kept of each, (setting, value); raises InputError."""
    draws = Draws(together.seed, replication)
    points = [together.points[setting] for setting in settings]
    with np.errstate(all="ignore"):
        jobs = [draws.job(point) for point in points]
        caps = [point.setup.largest_batch for point in points]
        bins = max(len(point.edges) - 1 for point in points)
        shape = Shape(bins, max(caps), points[0].setup.windows, len(points[0].point.workload.class_names))
        return vectors(simulate_many(jobs, shape, together.backend), caps)


class _Said(Silent):
    """Progress of a plan, which says in lines of its own how far it is."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def tell_workers(self, workers: str) -> None:
        """Say how many workers there are."""
        self._say(f"on {workers}")


class Simulating:
    """Simulates what a decision asks for, look after look."""

    def __init__(
        self, question: Question, prepared: Prepared, gpus_each: Sequence[int], backend: str, say: Say
    ) -> None:
        self.question, self.backend, self._say = question, backend, say
        self.values = Values()
        self.decision: Decision | None = None
        self._begun = self._said = time.monotonic()
        self._before = 0
        self._requests = max(one.requests for one in prepared.points)
        self.decider = Decider(question, gpus_each, self.values, say, self._is_over_budget)
        self._steps = self.decider.decide()
        self._prepared: dict[int, dict[int, Together]] = {}
        """By replicas and setting."""
        # All settings are prepared on two replicas: their mistakes are told with their places.
        self._keep(2, range(len(prepared.points)), prepared)
        self._tasks: deque[Task] = deque()
        self._under_way = self._looked = self._of_look = 0

    def add(self, parts: Sequence[Part]) -> None:
        """Add what was finished before."""
        settings = len(self.question.sweep.grid.points)
        for part in parts:
            for point, row in zip(part.points, part.report["values"], strict=True):
                replicas, setting = divmod(point, settings)
                self.values.add([setting], replicas, part.replication, row[None])
        self._before = self.values.simulations

    def work(self, store: Store | None, stop: Stop, crew: Crew) -> Decision:
        """Simulate until the question is decided."""
        self._at_once = crew.at_once
        Scheduler(self, store, stop, _Said(self._say)).run(crew)
        assert self.decision is not None
        return self.decision

    def most_served(self, setting: int, replicas: int) -> float:
        """Return the requests per second that a setting serves when all are there at once; NaN where none scales."""
        (point,) = _prepared_together(self.question, replicas, [setting]).points
        if point.recorded is None and not isinstance(point.point.workload.arrivals, AtRate):
            return math.nan
        loaded = {setting: scalable(point).at(AT_ONCE * self.question.rate)}
        alone = Together(self.backend, self.question.sweep.seed, loaded)
        place = KEPT["throughput_requests_per_s"].start
        return float(np.mean([simulate_settings(alone, [setting], number)[0, place] for number in range(FEW)]))

    def tell(self, store: Store) -> str:
        """Say how much is kept."""
        return store.tell_simulations()

    def next_task(self) -> Task | None:
        """Return the next simulations of a look; those of the next one when all of it are there."""
        while not self._tasks and not self._under_way and self.decision is None:
            try:
                self._deal(next(self._steps))
            except StopIteration as stop:
                self.decision = stop.value
        if not self._tasks:
            return None
        self._under_way += 1
        return self._tasks.popleft()

    def take(self, task: Task, result: FloatArray) -> Gain:
        """Take what simulations gave."""
        settings, replicas, replication = task.note
        self._under_way -= 1
        self.values.add(settings, replicas, replication, result)
        self._looked += len(settings)
        if time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            self._say(f"{self._looked} of {self._of_look} simulations of this look")
        points = tuple(replicas * len(self.question.sweep.grid.points) + setting for setting in settings)
        return Gain([Part(replication, points, {"values": result})], 0, 0)

    def give_up(self) -> None:
        """Do nothing: no task takes long."""

    def _deal(self, wanted: Sequence[Wanted]) -> None:
        """Make tasks of what is wanted."""
        self._of_look, self._looked = sum(len(one.settings) for one in wanted), 0
        # So many that no thread waits for another.
        most = max(1, min(REQUESTS_OF_A_TASK // self._requests, -(-self._of_look // (4 * self._at_once))))
        for one in wanted:
            groups: dict[int, list[int]] = {}
            for setting in one.settings:
                groups.setdefault(id(self._together(one, setting)), []).append(setting)
            for group in groups.values():
                together = self._together(one, group[0])
                for start in range(0, len(group), most):
                    some = tuple(group[start : start + most])
                    note = (some, one.replicas, one.replication)
                    self._tasks.append(Task(simulate_settings, together, (some, one.replication), note))

    def _together(self, wanted: Wanted, setting: int) -> Together:
        """Return what a setting is prepared in, together with all that are wanted beside it."""
        there = self._prepared.setdefault(wanted.replicas, {})
        if setting not in there:
            numbers = [number for number in wanted.settings if number not in there]
            self._keep(wanted.replicas, numbers, _prepared_together(self.question, wanted.replicas, numbers))
        return there[setting]

    def _keep(self, replicas: int, numbers: Sequence[int], prepared: Prepared) -> None:
        """Keep settings that are prepared together: what they draw is told apart by numbers that hold among them."""
        points = dict(zip(numbers, prepared.points, strict=True))
        together = Together(self.backend, self.question.sweep.seed, points)
        self._prepared.setdefault(replicas, {}).update(dict.fromkeys(numbers, together))

    def _is_over_budget(self, more: int) -> bool:
        """Say whether so many more simulations exceed the budget, each as fast as those so far."""
        requests = (self.values.simulations + more) * self._requests
        passed = time.monotonic() - self._begun
        each = passed / max(self.values.simulations - self._before, 1)
        return requests > self.question.budget or passed + more * each > self.question.budget_s


def _prepared_together(question: Question, replicas: int, numbers: Sequence[int]) -> Prepared:
    """Return some settings on so many replicas, prepared; raises InputError for what only the data show."""
    labels = tuple(question.called(number) for number in numbers)
    # What an error says of a point: the setting in words.
    axis = Axis("setting", "setting", "", (), labels, ({},) * len(numbers), labelled=True)
    return prepare(replace(question.sweep, grid=Grid((axis,), tuple(question.on(replicas, numbers)))))
