"""The work of a search for capacities: searches of all points in all replications, some at a time in step.

A task looks at one rate of some searches of one replication, or of several on a device; its answers say which rate each
of them looks at next.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.engine import check, jobs_at_once
from batchcube.engine.simulation import JOBS_AT_ONCE, Job
from batchcube.errors import InputError

from ..progress import Progress
from ..stopping import Stop
from ..workloads.arrivals import AtRate
from ..workloads.settings import FloatArray
from .bisection import PROBES, Found, Search, bisect, bracket_and_bisect, is_monotone
from .criteria import Criterion, never_in_time
from .draws import Draws
from .plan import Plan, PointPlan
from .scheduler import Executor, Gain, Scheduler, Task, deal, threads
from .simulate import Simulator
from .store import Part, Store


class Scalable(NamedTuple):
    """A point of the grid at any arrival rate."""

    plan: PointPlan
    natural: float
    """Mean rate of a recorded trace at rate_scale = 1, requests per second; 1 where arrivals are drawn."""
    start: float
    """Rate that the specification sets, requests per second."""

    def at(self, rate: float) -> PointPlan:
        """Return the point at a rate; points that share arrivals share them at a common rate."""
        workload = self.plan.point.workload
        if workload.trace is not None:
            changed: dict[str, Any] = {"trace": workload.trace.model_copy(update={"rate_scale": rate / self.natural})}
        else:
            assert workload.arrivals is not None
            changed = {"arrivals": workload.arrivals.model_copy(update={"rate_per_s": rate})}
        point = self.plan.point._replace(workload=workload.model_copy(update=changed))
        keys = self.plan.keys._replace(arrivals=(self.plan.keys.unit_arrivals, rate))
        return self.plan._replace(point=point, keys=keys)


def scalable(plan: PointPlan) -> Scalable:
    """Return a point at any rate; raises InputError for a trace whose requests all arrive at once."""
    workload = plan.point.workload
    if plan.recorded is None:
        assert isinstance(workload.arrivals, AtRate)  # `_problem` refuses the others
        return Scalable(plan, 1.0, workload.arrivals.rate_per_s)
    arrival = plan.recorded.arrival_s
    span = float(arrival[-1] - arrival[0])
    assert workload.trace is not None
    if not span > 0:
        raise InputError("its requests all arrive at once: there is no rate to scale", file=workload.trace.path)
    natural = (len(arrival) - 1) / span
    return Scalable(plan, natural, natural * workload.trace.rate_scale)


class SearchSettings(NamedTuple):
    """How every search is done."""

    criteria: tuple[Criterion, ...]
    low: float | None
    high: float | None
    tolerance: float
    growth: float

    def begin(self, start: float) -> Search:
        """Begin a search."""
        if self.low is not None and self.high is not None:
            return bisect(self.low, self.high, self.tolerance)
        return bracket_and_bisect(start, self.tolerance)

    @property
    def expected_rates(self) -> int:
        """About how many rates a search looks at."""
        explicit = self.low is not None and self.high is not None
        ratio = self.high / self.low if self.low is not None and self.high is not None else 2.0
        halvings = math.ceil(math.log2(max(1.0, math.log(ratio) / math.log1p(self.tolerance))))
        return halvings + (2 if explicit else 3) + len(PROBES)


class Answer(NamedTuple):
    """What became of one point in one replication."""

    found: Found
    statistic: float
    """Value of the first criterion at the rate that held; NaN without one."""
    monotone: bool
    lowest: float
    highest: float
    """Of the rates that were looked at."""
    missed: float
    """Largest share of the requests past the warm-up that was never served, or cut off, at one of them."""


class Searching(NamedTuple):
    """What all tasks share: plain data."""

    simulator: Simulator
    points: tuple[Scalable, ...]
    settings: SearchSettings


class Look(NamedTuple):
    """What a task is asked: a point at a rate, in a replication."""

    draws: Draws
    number: int
    """Of the point."""
    rate: float
    may_end: bool
    """Whether a rate too low for the engine's clock is an answer: only a search's own halving leads there."""


class Seen(NamedTuple):
    """What a task answers."""

    holds: bool
    statistic: float
    """Of the first criterion."""
    missed: float
    """Share of the requests past the warm-up that was never served, or cut off."""


class PointSearch:
    """A search under way, of one point in one replication."""

    def __init__(self, draws: Draws, number: int, search: Search) -> None:
        self.draws, self.number, self.search = draws, number, search
        self.rate = next(search)
        self.visited: dict[float, bool] = {}
        self.statistics: dict[float, float] = {}
        self.missed = 0.0
        self.answer: Answer | None = None

    @property
    def is_lowest(self) -> bool:
        """Whether the next rate is below all that were looked at."""
        return bool(self.visited) and self.rate < min(self.visited)

    def tell(self, seen: Seen | None) -> None:
        """Go on to the next rate, or to the answer."""
        if seen is not None:
            self.missed = max(self.missed, seen.missed)
            self.visited[self.rate], self.statistics[self.rate] = seen.holds, seen.statistic
        try:
            self.rate = self.search.send(None if seen is None else seen.holds)
        except StopIteration as stop:
            found: Found = stop.value
            value = self.statistics[found.held] if found.unbracketed == 0 else math.nan
            rates = min(self.visited), max(self.visited)
            self.answer = Answer(found, value, is_monotone(self.visited), *rates, self.missed)


def look(searching: Searching, looks: Sequence[Look], together: int) -> list[Seen | None]:
    """Simulate, and say of each look whether all criteria hold; None where the clock ends before the last arrival.

    A device simulates `together` jobs, the last of them several times: its programs are compiled for a number of jobs,
    and searches end one after the other. Raises InputError where a job cannot be simulated or a criterion has no value.
    """
    plans = [searching.points[one.number].at(one.rate) for one in looks]
    jobs = {k: job for k, one in enumerate(looks) if (job := _job(one, plans[k])) is not None}
    seen: list[Seen | None] = [None] * len(looks)
    if not jobs:
        return seen
    every = list(jobs.values())
    if searching.simulator.on_device:
        every += [every[-1]] * (together - len(every))
    report = searching.simulator.simulate(every, [plans[k] for k in jobs])
    report = {name: values[: len(jobs)] for name, values in report.items()}
    holds, statistic = _judge(searching.settings, report)
    missed = never_in_time(report) / (report["measured"] + report["missed"])
    for k, *answer in zip(jobs, holds.tolist(), statistic.tolist(), missed.tolist(), strict=True):
        seen[k] = Seen(*answer)
    return seen


def _job(one: Look, plan: PointPlan) -> Job | None:
    """Return the job of a point; None where the engine's clock would end before the last of its arrivals."""
    try:
        with np.errstate(all="ignore"):
            job = one.draws.job(plan)
            check(job)
    except InputError:
        if one.may_end:
            return None
        raise
    return job


def _judge(settings: SearchSettings, report: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.bool_], FloatArray]:
    """Return whether all criteria hold (job,), and the statistic of the first of them."""
    values = [criterion.values(report) for criterion in settings.criteria]
    holds = np.logical_and.reduce(
        [criterion.holds(mine) for mine, criterion in zip(values, settings.criteria, strict=True)]
    )
    # Nothing grows where there are too few requests to tell.
    holds &= ~(report["backlog_growth_fraction"] > settings.growth)
    return holds, values[0]


@dataclass
class _Group:
    """Searches that look at their rates together."""

    searches: list[PointSearch]
    together: int
    """How many they were."""
    requests: int
    """How many of those announced to the progress they have left."""


class Searches:
    """The work of a search for capacities: every point in every replication, in groups that go in step."""

    def __init__(self, plan: Plan, settings: SearchSettings, backend: str) -> None:
        self.plan, self.settings = plan, settings
        self.points, self.replications = len(plan.points), plan.sweep.replications
        self.answers: dict[tuple[int, int], Answer] = {}
        """By point and replication."""
        simulator = Simulator(plan, backend, JOBS_AT_ONCE)
        if simulator.on_device:
            job = Draws(plan.sweep.seed, 0).job(max(plan.points, key=lambda point: point.requests))
            simulator = simulator._replace(jobs_at_once=jobs_at_once(job, simulator.shape(plan.points), backend))
        self._searching = Searching(simulator, tuple(map(scalable, plan.points)), settings)
        self._groups: Iterator[_Group] = iter(())
        self._waiting: deque[_Group] = deque()
        """Groups that know which rates they look at next."""
        self._undone: dict[int, int] = {}
        """Searches left, by replication."""

    def add(self, parts: Iterable[Part]) -> None:
        """Add the answers of searches that were finished before."""
        for part in parts:
            answers = answers_of(part.report)
            self.answers.update({(k, part.replication): one for k, one in zip(part.points, answers, strict=True)})

    def work(
        self, store: Store | None, stop: Stop, progress: Progress, executor: Executor | None, workers: int
    ) -> bool:
        """Search every point in every replication that has no answer, and say whether there was any to search."""
        scheduler = Scheduler(self, store, stop, progress)
        left = {r: [k for k in range(self.points) if (k, r) not in self.answers] for r in range(self.replications)}
        left = {r: mine for r, mine in left.items() if mine}
        self._undone = {r: len(mine) for r, mine in left.items()}
        progress.start(self.points, len(left), sum(self._expected(k) for mine in left.values() for k in mine))
        self._groups = self._deal(left, workers)
        at_once = min(2, workers) if self._searching.simulator.on_device else workers
        with ExitStack() as opened:
            scheduler.run(executor or opened.enter_context(threads(at_once, stop)), at_once)
        return bool(left)

    def tell(self, store: Store) -> str:
        """Say how many replications are kept."""
        return store.tell(self.points, self.replications)

    def next_task(self) -> Task | None:
        """Return the next look of a group that waits for it, or the first one of another."""
        group = self._waiting.popleft() if self._waiting else next(self._groups, None)
        if group is None:
            return None
        looks = [
            Look(one.draws, one.number, one.rate, self.settings.low is None and one.is_lowest) for one in group.searches
        ]
        return Task(look, (self._searching, looks, group.together), group)

    def take(self, task: Task, result: list[Seen | None]) -> Gain:
        """Take what was seen: searches go on to their next rates, or have their answers."""
        group: _Group = task.note
        simulated = 0
        for one, seen in zip(group.searches, result, strict=True):
            one.tell(seen)
            if seen is not None:
                simulated += self.plan.points[one.number].requests
        answered = {(one.number, one.draws.replication): one.answer for one in group.searches if one.answer is not None}
        self.answers |= answered
        complete = 0
        for _, replication in answered:
            self._undone[replication] -= 1
            complete += self._undone[replication] == 0
        group.searches = [one for one in group.searches if one.answer is None]
        if group.searches:
            simulated = min(simulated, group.requests)
            self._waiting.append(group)
        else:
            simulated = group.requests
        group.requests -= simulated
        return Gain(parts_of(answered), simulated, complete)

    def give_up(self) -> None:
        """Do nothing: no task takes long."""

    def _expected(self, number: int) -> int:
        """Return about how many requests the search of a point simulates."""
        return self.settings.expected_rates * self.plan.points[number].requests

    def _deal(self, left: Mapping[int, Sequence[int]], workers: int) -> Iterator[_Group]:
        """Yield groups of what is left: replications that lack the same points go together."""
        most, on_device = self._searching.simulator.jobs_at_once, self._searching.simulator.on_device
        # Few replications: several threads share one. A device takes as many as it holds.
        blocks = 1 if on_device else -(-4 * workers // max(1, len(left)))
        together = max(1, most // self.points) if on_device else 1
        for points, group in groupby(left, key=lambda r: left[r]):
            while numbers := list(islice(group, together)):
                draws = [Draws(self.plan.sweep.seed, number) for number in numbers]
                for block in deal(len(points), blocks):
                    every = [(one, k) for one in draws for k in points[block.start : block.stop]]
                    for start in range(0, len(every), most):
                        yield self._group(every[start : start + most])

    def _group(self, members: Sequence[tuple[Draws, int]]) -> _Group:
        starts = [self._searching.points[k].start for _, k in members]
        searches = [
            PointSearch(draws, k, self.settings.begin(start)) for (draws, k), start in zip(members, starts, strict=True)
        ]
        return _Group(searches, len(searches), sum(self._expected(k) for _, k in members))


def parts_of(answers: Mapping[tuple[int, int], Answer]) -> list[Part]:
    """Return answers, by point and replication, as parts to be kept."""
    parts = []
    for number, group in groupby(sorted(answers, key=lambda at: at[::-1]), key=lambda at: at[1]):
        places = list(group)
        mine = [answers[at] for at in places]
        report = {name: np.array([getattr(one.found, name) for one in mine]) for name in Found._fields}
        report |= {name: np.array([getattr(one, name) for one in mine]) for name in Answer._fields if name != "found"}
        parts.append(Part(number, tuple(k for k, _ in places), report))
    return parts


def answers_of(report: Mapping[str, NDArray[Any]]) -> list[Answer]:
    """Return what `parts_of` made of answers as they were."""
    found = [Found(*values) for values in zip(*(report[name].tolist() for name in Found._fields), strict=True)]
    rest = zip(*(report[name].tolist() for name in Answer._fields if name != "found"), strict=True)
    return [Answer(one, *values) for one, values in zip(found, rest, strict=True)]
