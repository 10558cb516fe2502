"""The work of a run: replications of all points, in tasks of some points of some replications."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from batchcube.engine import jobs_at_once
from batchcube.results.names import usual
from batchcube.results.text import counted
from batchcube.results.variables import REGISTRY

from ..progress import Progress, Silent
from .draws import Draws
from .executors import Hands, threads
from .parts import without
from .preparing import Prepared
from .reports import Reports
from .scheduler import Gain, Task, deal
from .shards import Dealing, Shard
from .simulate import Simulator, bytes_of, simulate_parts
from .store import AnyPart, Part, Store

MOST_BYTES_OF_TRACES = 4_000_000_000
"""Traces that one task hands to a device at once."""
HEADLINES = 2
"""Of the usual variables so many are shown while a run goes on."""


class Replications:
    """The work of a run, or of a look of it."""

    def __init__(self, prepared: Prepared, backend: str, wanted: Sequence[int], finished: Reports) -> None:
        """Do the replications wanted; what they come to goes to those that are finished."""
        self.prepared, self.backend, self.wanted = prepared, backend, wanted
        self.points, self.replications = len(prepared.points), len(wanted)
        self.finished = finished
        self._complete: set[int] = set()
        """Those that are among them."""
        self._parts: dict[int, list[AnyPart]] = {}
        """What is finished of the others."""
        self._dealt: Mapping[int, Sequence[int]] | None = None
        """Points by replication, where not all are to be done."""
        # Points that share bins and arrivals follow each other, so that what was drawn is used while it is kept.
        keys = [(p.keys.trace, p.keys.bins, p.keys.arrivals) for p in prepared.points]
        self._order = sorted(range(len(prepared.points)), key=lambda k: keys[k])
        self._tasks: Iterator[Task] = iter(())
        self._open: dict[int, int] = {}
        """How many points are left to do, by replication."""
        self._continued: list[Task] = []
        """What is left of tasks that came back before their end."""
        self._drawing: ThreadPoolExecutor | None = None
        self._progress: Progress = Silent()
        names = [name for name, _ in usual(stepwise=prepared.simulation.STEPWISE)][:HEADLINES]
        self._sums: dict[str, NDArray[np.float64]] = dict.fromkeys(names, np.zeros(self.points))
        """Of complete replications, (point,)."""

    @property
    def is_complete(self) -> bool:
        """Whether all that is wanted is finished."""
        return len(self._complete) == len(self.wanted)

    def add(self, parts: Iterable[AnyPart]) -> int:
        """Add finished parts, and return how many replications are complete with them.

        Of what is there already nothing is added.
        """
        complete = 0
        for part in parts:
            if part.replication in self._complete:
                continue
            mine = self._parts.setdefault(part.replication, [])
            known = {k for one in mine for k in one.points}
            mine.append(without(part, known) if known.intersection(part.points) else part)
            if sum(len(one.points) for one in mine) == self.points:
                report = self.finished.add(part.replication, self._parts.pop(part.replication))
                self._complete.add(part.replication)
                self._sums = {name: total + report[name] for name, total in self._sums.items()}
                complete += 1
        return complete

    def so_far(self) -> str:
        """Say what the complete replications come to: from the least mean of a point to the largest."""
        told = []
        for name, total in self._sums.items():
            means = total[np.isfinite(total)] / len(self._complete)
            if means.size:
                low, high = (f"{end:,.0f}" if end >= 999.5 else f"{end:.3g}" for end in (means.min(), means.max()))
                unit = {"s-1": "/s"}.get(REGISTRY[name].units, f" {REGISTRY[name].units}")
                told.append(f"{REGISTRY[name].long_name} {low if low == high else f'{low} to {high}'}{unit}")
        return f"in {counted(len(self._complete), 'replication')}: {', '.join(told)}"

    def deal(self, shard: Shard) -> bool:
        """Do no more than a shard's cells, and say whether any is left."""
        self._dealt = self._dealing().of(shard)
        return any(self._left().values())

    def missing(self, shards: int) -> list[int]:
        """Return the numbers of those, of so many shards, that were dealt what is not finished."""
        cells = ((r, k) for r, points in self._left().items() for k in points)
        return self._dealing().whose(cells, shards)

    def _dealing(self) -> Dealing:
        return Dealing(self.wanted, self._order, [self.prepared.points[k].requests for k in self._order])

    def _left(self) -> dict[int, list[int]]:
        """Return what is to be done and not finished: points by replication."""
        dealt = dict.fromkeys(self.wanted, self._order) if self._dealt is None else self._dealt
        done = {r: {k for part in parts for k in part.points} for r, parts in self._parts.items()}
        return {
            r: [k for k in points if k not in done.get(r, ())] for r, points in dealt.items() if r not in self._complete
        }

    def work(self, hands: Hands) -> bool:
        """Simulate what no part holds, and say whether that was anything."""
        self._progress, self.finished.store = hands.progress, hands.store
        every = {r: points for r, points in self._left().items() if points}
        self._open = {r: len(points) for r, points in every.items()}
        left = {r: points for r, points in every.items() if len(points) < self.points}
        numbers = [*left, *(r for r in every if r not in left)]
        requests = self.prepared.requests * (len(numbers) - len(left))
        requests += sum(self.prepared.points[k].requests for points in left.values() for k in points)
        hands.progress.start(self.points, len(numbers), requests)
        with ExitStack() as opened:
            # Two tasks keep a device busy: one draws the next traces, on all threads, while the device has the other.
            at_once = hands.workers
            if self.backend == "jax" and hands.crew is None:
                at_once = min(2, at_once)
                self._drawing = opened.enter_context(threads(hands.workers, hands.stop, "batchcube-draws"))
            if numbers:
                self._tasks = self._deal(numbers, left, hands.workers)
            hands.run(self, at_once)
        return bool(numbers)

    def tell(self, store: Store) -> str:
        """Say how much is kept."""
        if self._dealt is not None:
            return store.tell_simulations()
        # Those of the looks before are kept too.
        return store.tell(self.points, {*self.finished, *self.wanted})

    def next_task(self) -> Task | None:
        """Return what is left of a task, or the next one."""
        return self._continued.pop() if self._continued else next(self._tasks, None)

    def take(self, task: Task, result: list[Part]) -> Gain:
        """Take parts, and see to what the task has left."""
        draws, points, _ = task.arguments
        done = sum(len(part.points) for part in result) // len(draws)
        if done < len(points):
            self._continued.append(self._task(task.shared, draws, points[done:]))
        requests = sum(self.prepared.points[k].requests for part in result for k in part.points)
        if self.add(result):
            self._progress.show(self.so_far())
        for part in result:
            self._open[part.replication] -= len(part.points)
        # Of those that are dealt to several shards, what is this one's.
        return Gain(result, requests, sum(not self._open[draw.replication] for draw in draws))

    def give_up(self) -> None:
        """Draw nothing more."""
        if self._drawing is not None:
            self._drawing.shutdown(wait=False, cancel_futures=True)

    def _deal(self, numbers: Sequence[int], left: Mapping[int, Sequence[int]], workers: int) -> Iterator[Task]:
        """Yield the tasks: of what is left of replications that were begun, then of others."""
        first = Draws(self.prepared.sweep.seed, numbers[0])
        simulator, together, blocks = self._sizes(first, len(numbers), workers)
        every = chain([first], (Draws(self.prepared.sweep.seed, r) for r in numbers[1:]))
        del first  # its arrays are its task's alone
        for points in left.values():
            one = next(every)
            for block in deal(len(points), len(blocks)):
                yield self._task(simulator, [one], points[block.start : block.stop])
        while group := list(islice(every, together)):
            for block in blocks:
                yield self._task(simulator, group, self._order[block.start : block.stop])

    def _task(self, simulator: Simulator, draws: Sequence[Draws], points: Sequence[int]) -> Task:
        return Task(simulate_parts, simulator, (draws, points, self._drawing))

    def _sizes(self, first: Draws, replications: int, workers: int) -> tuple[Simulator, int, list[range]]:
        """Return how many jobs a call simulates, of how many replications a task is, and the blocks of points."""
        prepared_points = self.prepared.points
        one = Simulator(self.prepared, self.backend, 1)
        largest = one.job(first, max(range(self.points), key=lambda k: prepared_points[k].requests))
        jobs = jobs_at_once(largest, one.shape(prepared_points), self.backend)
        simulator = one._replace(jobs_at_once=jobs)
        if not one.on_device:
            # Few replications: several threads share one, and what it draws.
            return simulator, 1, list(deal(self.points, -(-4 * workers // replications)))
        # Equal parts, but for the last: jobs in other numbers may have to be compiled for.
        if jobs < self.points:
            size = -(-self.points // -(-self.points // jobs))
            return simulator, 1, [range(start, min(start + size, self.points)) for start in range(0, self.points, size)]
        drawn = bytes_of([one.job(first, k) for k in range(self.points)])
        most = max(1, min(jobs // self.points, MOST_BYTES_OF_TRACES // drawn))
        return simulator, -(-replications // -(-replications // most)), [range(self.points)]
