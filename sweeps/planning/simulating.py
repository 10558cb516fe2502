"""The work of a plan: simulations as its races ask for them, kept as they are finished."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from batchcube.engine import Shape, simulate_many

from ..progress import Silent
from ..run.draws import Draws
from ..run.executors import Hands
from ..run.preparing import Prepared, PreparedPoint, prepare
from ..run.scheduler import Gain, Task
from ..run.shards import Dealing, Shard
from ..run.store import AnyPart, Part, Store
from ..run.trial import served_at_most
from ..spec.grid import Axis, Grid
from ..workloads.settings import FloatArray
from .question import Question
from .race import Decider, Decision
from .values import Values, Wanted, vectors

REQUESTS_OF_A_TASK = 200_000
"""Simulated in some tenths of a second."""
SECONDS_BETWEEN_LINES = 20.0
FEW = 4
"""Replications of what need not be exact."""
Say = Callable[[str], None]


_Cell = tuple[int, int]
"""Replication and point: a configuration on so many replicas."""


class Together(NamedTuple):
    """Configurations on some replicas, prepared together: plain data, so that a task may be done in another process."""

    backend: str
    seed: int
    points: Mapping[int, PreparedPoint]
    """By number of the configuration."""


def simulate_configurations(together: Together, numbers: Sequence[int], replication: int) -> FloatArray:
    """Simulate a replication of some and return what is kept of each, (configuration, value); raises InputError."""
    draws = Draws(together.seed, replication)
    points = [together.points[number] for number in numbers]
    with np.errstate(all="ignore"):
        jobs = [draws.job(point) for point in points]
        caps = [point.setup.largest_batch for point in points]
        bins = max(len(point.edges) - 1 for point in points)
        shape = Shape(bins, max(caps), points[0].setup.windows, len(points[0].point.workload.class_names))
        return vectors(simulate_many(jobs, shape, together.backend), caps)


class Said(Silent):
    """Progress of a plan, which says in lines of its own how far it is."""

    def __init__(self, say: Say) -> None:
        self._say = say

    def say(self, text: str) -> None:
        """Say what was seen."""
        self._say(text)

    def tell_workers(self, workers: str) -> None:
        """Say how many workers there are."""
        self._say(f"on {workers}")


class Simulating:
    """Simulates what a decision asks for, look after look, or what a shard is dealt of one look.

    A decision is told of a look when all of it is there, and so is the same whoever simulated what, and when.
    """

    def __init__(self, question: Question, prepared: Prepared, backend: str, say: Say) -> None:
        self.question, self.backend, self._say = question, backend, say
        self.values = Values()
        """What looks that are over asked for."""
        self.decision: Decision | None = None
        self.round = 0
        """Number of the look that is at work, from 1."""
        self.simulated = 0
        """How many simulations were done here."""
        self._begun = self._said = time.monotonic()
        self._requests = [one.requests for one in prepared.points]
        """By configuration."""
        self.decider = Decider(question, self.values, say, self._is_over_budget, self.most_served)
        self._steps = self.decider.decide()
        self._look: Sequence[Wanted] = ()
        self._known: dict[_Cell, FloatArray] = {}
        """What was simulated of the look at work, and perhaps of those to come."""
        self._dealt: frozenset[_Cell] | None = None
        """What is to be done of the look, where that is not all of it."""
        self._prepared: dict[int, dict[int, Together]] = {}
        """By replicas and configuration."""
        self._served: dict[tuple[int, int], float] = {}
        """What a configuration serves at most, in requests per second, by its number and replicas."""
        # All configurations are prepared on two replicas: their mistakes are told with their places.
        self._keep(2, range(len(prepared.points)), prepared)
        self._tasks: deque[Task] = deque()
        self._open: Counter[int] = Counter()
        """How many configurations of a look are left to simulate, by replication."""
        self._under_way = self._looked = self._of_look = 0

    def add(self, parts: Iterable[AnyPart]) -> None:
        """Add what was finished before."""
        for part in parts:
            cells = ((part.replication, point) for point in part.points)
            self._known.update(zip(cells, part.report["values"], strict=True))

    def go_on(self) -> None:
        """Lead the decision as far as what was simulated leads: to a look that lacks something, or to its end."""
        while self.decision is None and not self._left():
            for one in self._look:
                rows = [self._known.pop(cell) for cell in self._cells(one)]
                self.values.add(one.numbers, one.replicas, one.replication, np.array(rows))
            try:
                self._look = next(self._steps)
                self.round += 1
            except StopIteration as stop:
                self._look, self.decision = (), stop.value

    def deal(self, shard: Shard) -> bool:
        """Do no more than a shard's cells of this look, and say whether any is left."""
        self._dealt = frozenset((r, point) for r, points in self._dealing().of(shard).items() for point in points)
        return bool(self._left())

    def missing(self, shards: int) -> list[int]:
        """Return the numbers of those, of so many shards, that were dealt what is not finished."""
        return self._dealing().whose((cell for one in self._left() for cell in self._cells(one)), shards)

    def _dealing(self) -> Dealing:
        cells = [cell for one in self._look for cell in self._cells(one)]
        points = sorted({point for _, point in cells})
        requests = [self._requests[point % len(self._requests)] for point in points]
        return Dealing(sorted({replication for replication, _ in cells}), points, requests)

    def _cells(self, wanted: Wanted) -> list[_Cell]:
        """Return what is wanted by replication and point, which is a configuration on so many replicas."""
        first = wanted.replicas * len(self._requests)
        return [(wanted.replication, first + number) for number in wanted.numbers]

    def _left(self) -> list[Wanted]:
        """Return what is to be done of the look and not finished."""
        left = []
        for one in self._look:
            cells = zip(one.numbers, self._cells(one), strict=True)
            mine = [k for k, cell in cells if cell not in self._known and (self._dealt is None or cell in self._dealt)]
            if mine:
                left.append(one._replace(numbers=tuple(mine)))
        return left

    def work(self, hands: Hands) -> bool:
        """Simulate until the question is decided, or what is dealt of a look; say whether that was anything."""
        self._at_once = hands.workers
        left = self._left()
        points = {point for one in left for _, point in self._cells(one)}
        requests = sum(self._requests[number] for one in left for number in one.numbers)
        hands.progress.start(len(points), len({one.replication for one in left}), requests)
        self._deal(left)
        hands.run(self, hands.workers)
        return self.simulated > 0

    def most_served(self, number: int, replicas: int) -> float:
        """Return the requests per second that a configuration serves at most; NaN where that cannot be told."""
        place = number, replicas
        if place not in self._served:
            prepared = _prepared_together(self.question, replicas, [number])
            self._served[place] = served_at_most(prepared, self.backend, FEW)
        return self._served[place]

    def tell(self, store: Store) -> str:
        """Say how much is kept."""
        return store.tell_simulations()

    def next_task(self) -> Task | None:
        """Return the next simulations of a look; those of the next one when all of it are there."""
        if not self._tasks and not self._under_way and self._dealt is None:
            self.go_on()
            self._deal(self._left())
        if not self._tasks:
            return None
        self._under_way += 1
        return self._tasks.popleft()

    def take(self, task: Task, result: FloatArray) -> Gain:
        """Take what simulations gave."""
        wanted: Wanted = task.note
        self._under_way -= 1
        self._looked += len(wanted.numbers)
        self._open[wanted.replication] -= len(wanted.numbers)
        self.simulated += len(wanted.numbers)
        if time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            self._say(f"{self._looked} of {self._of_look} simulations of this look")
        part = Part(wanted.replication, tuple(point for _, point in self._cells(wanted)), {"values": result})
        self.add([part])
        requests = sum(self._requests[number] for number in wanted.numbers)
        return Gain([part], requests, int(not self._open[wanted.replication]))

    def give_up(self) -> None:
        """Do nothing: no task takes long."""

    def _deal(self, wanted: Sequence[Wanted]) -> None:
        """Make tasks of what is wanted."""
        self._of_look, self._looked = sum(len(one.numbers) for one in wanted), 0
        # So many that no thread waits for another.
        most = max(1, min(REQUESTS_OF_A_TASK // max(self._requests), -(-self._of_look // (4 * self._at_once))))
        self._open = Counter()
        for one in wanted:
            self._open[one.replication] += len(one.numbers)
            groups: dict[int, list[int]] = {}
            for number in one.numbers:
                groups.setdefault(id(self._together(one, number)), []).append(number)
            for group in groups.values():
                together = self._together(one, group[0])
                for start in range(0, len(group), most):
                    some = one._replace(numbers=tuple(group[start : start + most]))
                    task = Task(simulate_configurations, together, (some.numbers, some.replication), some)
                    self._tasks.append(task)

    def _together(self, wanted: Wanted, number: int) -> Together:
        """Return what a configuration is prepared in, together with all that are wanted beside it."""
        there = self._prepared.setdefault(wanted.replicas, {})
        if number not in there:
            new = [one for one in wanted.numbers if one not in there]
            self._keep(wanted.replicas, new, _prepared_together(self.question, wanted.replicas, new))
        return there[number]

    def _keep(self, replicas: int, numbers: Sequence[int], prepared: Prepared) -> None:
        """Keep what is prepared together: what it draws is told apart by numbers that hold among these."""
        points = dict(zip(numbers, prepared.points, strict=True))
        together = Together(self.backend, self.question.sweep.seed, points)
        self._prepared.setdefault(replicas, {}).update(dict.fromkeys(numbers, together))

    def _is_over_budget(self, wanted: Sequence[Wanted]) -> bool:
        """Say whether simulations exceed the budget, each that is yet to be done as fast as those so far."""
        cells = [cell for one in wanted for cell in self._cells(one)]
        requests = (self.values.simulations + len(cells)) * max(self._requests)
        passed = time.monotonic() - self._begun
        seconds = passed * (1 + sum(cell not in self._known for cell in cells) / max(self.simulated, 1))
        return requests > self.question.budget or seconds > self.question.budget_s


def _prepared_together(question: Question, replicas: int, numbers: Sequence[int]) -> Prepared:
    """Return some configurations on so many replicas, prepared; raises InputError for what only the data show."""
    labels = tuple(question.called(number) for number in numbers)
    # What an error says of a point: the configuration in words.
    axis = Axis("configuration", "configuration", "", (), labels, ({},) * len(numbers), labelled=True)
    return prepare(replace(question.sweep, grid=Grid((axis,), tuple(question.on(replicas, numbers)))))
