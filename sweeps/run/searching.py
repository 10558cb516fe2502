"""The work of a search for capacities: a search for every point over all its replications, some at a time in step.

A task looks at one rate of some points in one replication, or in several on a device; once all replications have
answered, each search goes on to its next rate. Whether a criterion holds at a rate is asked of the mean over the
replications, as each alone has met its own bursts: the mean of capacities that each found for itself is far too large
where they are few. Overload is asked first, with requests that come evenly.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
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
from .bisection import PROBES, Found, Search, bisect, bracket_and_bisect, fill, is_monotone
from .criteria import Criterion, never_in_time
from .draws import Draws
from .preparing import Prepared, PreparedPoint
from .scheduler import Executor, Gain, Scheduler, Task, deal, threads
from .simulate import Simulator
from .store import Part, Store

ROUNDING = 1e-12
"""By how much a mean of ratios may exceed 1 for want of digits."""
LEAST_GROUPS = 8
"""Groups that points are dealt to: what is finished is kept."""
MOST_DRAWS = 32
"""Replications whose arrays are kept for the next rate; the others are drawn again."""


class Scalable(NamedTuple):
    """A point of the grid at any arrival rate."""

    prepared: PreparedPoint
    natural: float
    """Mean rate of a recorded trace at rate_scale = 1, requests per second; 1 where arrivals are drawn."""
    start: float
    """Rate that the specification sets, requests per second."""

    def at(self, rate: float) -> PreparedPoint:
        """Return the point at a rate; points that share arrivals share them at a common rate."""
        workload = self.prepared.point.workload
        if workload.trace is not None:
            changed: dict[str, Any] = {"trace": workload.trace.model_copy(update={"rate_scale": rate / self.natural})}
        else:
            assert workload.arrivals is not None
            changed = {"arrivals": workload.arrivals.model_copy(update={"rate_per_s": rate})}
        point = self.prepared.point._replace(workload=workload.model_copy(update=changed))
        keys = self.prepared.keys._replace(arrivals=(self.prepared.keys.unit_arrivals, rate))
        return self.prepared._replace(point=point, keys=keys)


def scalable(prepared: PreparedPoint) -> Scalable:
    """Return a point at any rate; raises InputError for a trace whose requests all arrive at once."""
    workload = prepared.point.workload
    if prepared.recorded is None:
        assert isinstance(workload.arrivals, AtRate)  # `_problem` refuses the others
        return Scalable(prepared, 1.0, workload.arrivals.rate_per_s)
    arrival = prepared.recorded.arrival_s
    span = float(arrival[-1] - arrival[0])
    assert workload.trace is not None
    if not span > 0:
        raise InputError("its requests all arrive at once: there is no rate to scale", file=workload.trace.path)
    natural = (len(arrival) - 1) / span
    return Scalable(prepared, natural, natural * workload.trace.rate_scale)


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
        return halvings + (2 if explicit else 3) + len(PROBES) + (2 if self.growth < 1.0 else 0)


class Answer(NamedTuple):
    """What became of one point, as one replication has it."""

    found: Found
    rate: float
    """The replication's part in the capacity: their mean is that, and they scatter as it does; NaN without one."""
    served: float
    """Requests per second that the servers serve when they always have work; infinite where that is no limit."""
    statistic: float
    """Value of the first criterion at the rate that held; NaN without one."""
    ended_by: int
    """Number of the criterion that ends the search, that of the last one more for overload; -1 without an answer."""
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
    evenly: bool
    """Whether the requests are to come at even distances: how bursty they are has no part in what servers can do."""
    may_end: bool
    """Whether a rate too low for the engine's clock is an answer: only a search's own halving leads there."""


class Seen(NamedTuple):
    """What a task answers."""

    ratios: tuple[float, ...]
    """Of each criterion, in units of what is allowed."""
    statistic: float
    """Of the first criterion."""
    missed: float
    """Share of the requests past the warm-up that was never served, or cut off."""
    growth: float
    """Of the backlog, as a share of the arrivals meanwhile."""
    served: float
    """Requests per second that the servers serve, if they always have work."""


class PointSearch:
    """A search under way, of one point over all its replications."""

    def __init__(self, point: Scalable, number: int, settings: SearchSettings) -> None:
        self.number, self.settings = number, settings
        self.search = settings.begin(point.start)
        servers = point.prepared.point.server.servers
        self.filling = fill(point.start) if settings.growth < 1.0 and servers != "infinite" else None
        self.rate = next(self.filling or self.search)
        self.load = np.zeros(1)
        """(replication,) by how much a rate of 1 is more than may come; 0 where anything may."""
        self.visited: dict[float, bool] = {}
        self.ratios: dict[float, FloatArray] = {}
        """(criterion, replication) by rate, where it was simulated."""
        self.statistics: dict[float, list[float]] = {}
        self.missed = 0.0
        self.answers: list[Answer] | None = None

    @property
    def is_lowest(self) -> bool:
        """Whether the next rate is below all that were looked at."""
        return bool(self.visited) and self.rate < min(self.visited)

    def tell(self, seen: Sequence[Seen | None]) -> None:
        """Go on to the next rate, or to the answers, with what was seen in each replication."""
        known = [one for one in seen if one is not None]
        whole = len(known) == len(seen)
        if self.filling is not None:
            try:
                self.rate = self.filling.send(float(np.mean([one.growth for one in known])))
            except StopIteration as stop:
                self.filling = None
                served = np.array([one.served for one in known])
                if stop.value and (served > 0.0).all():
                    self.load = (1.0 - self.settings.growth) / served
                self.load = self.load + np.zeros(len(seen))
                self._go(next(self.search))
            return
        holds: bool | None = None
        if whole:
            ratios = np.array([one.ratios for one in known]).T
            holds = bool((ratios.mean(axis=1) <= 1.0 + ROUNDING).all())
            self.missed = max(self.missed, *(one.missed for one in known))
            self.visited[self.rate], self.ratios[self.rate] = holds, ratios
            self.statistics[self.rate] = [one.statistic for one in known]
        try:
            self._go(self.search.send(holds))
        except StopIteration as stop:
            self._end(stop.value, len(seen))

    def _go(self, rate: float) -> None:
        """Go on to a rate, and past those that are more than the servers can do."""
        try:
            while rate * self.load.mean() > 1.0:
                self.visited[rate] = False
                rate = self.search.send(False)
            self.rate = rate
        except StopIteration as stop:
            self._end(stop.value, self.load.size)

    def _end(self, found: Found, replications: int) -> None:
        self.load = self.load + np.zeros(replications)
        rates, ended_by = np.full(replications, math.nan), -1
        statistics = [math.nan] * replications
        if found.unbracketed == 0:
            rates = found.rate + self._scatter(found)
            statistics = self.statistics[found.held]
            at = self.ratios.get(found.failed)
            ended_by = len(self.settings.criteria) if at is None else int(at.mean(axis=1).argmax())
        limited = self.load > 0.0
        served = np.where(limited, (1.0 - self.settings.growth) / np.where(limited, self.load, 1.0), math.inf)
        monotone, lowest, highest = is_monotone(self.visited), min(self.visited), max(self.visited)
        self.answers = [
            Answer(found, *mine, ended_by, monotone, lowest, highest, self.missed)
            for mine in zip(rates.tolist(), served.tolist(), statistics, strict=True)
        ]

    def _scatter(self, found: Found) -> FloatArray:
        """Return by how much the replications' parts differ from the answer: a jackknife, what it is without each."""
        without = np.array([self._crossing(found.held, r) for r in range(self.load.size)])
        apart: FloatArray = (self.load.size - 1) * (without.mean() - without)
        return apart

    def _crossing(self, held: float, left_out: int) -> float:
        """Return the rate up to which all criteria hold in the other replications, between those looked at."""
        others = np.arange(self.load.size) != left_out
        if not others.any():
            return 0.0
        rates = np.array(sorted(self.ratios))
        # m / (1 + m), as statistics may be infinite: within (0, 1), and 1/2 at the limit.
        mean = np.array([self.ratios[rate][:, others].mean(axis=1).max() for rate in rates])
        share = np.where(np.isinf(mean), 1.0, mean / (1.0 + np.where(np.isinf(mean), 0.0, mean)))
        start = int(np.searchsorted(rates, held))
        while start > 0 and share[start] > 0.5:
            start -= 1
        while start + 1 < rates.size and share[start + 1] <= 0.5:
            start += 1
        load = float(self.load[others].mean())
        most = 1.0 / load if load > 0.0 else math.inf
        if share[start] > 0.5:
            return min(float(rates[start]), most)
        if start + 1 == rates.size:
            return most if math.isfinite(most) else float(rates[start])
        part = (0.5 - share[start]) / (share[start + 1] - share[start])
        return min(float(rates[start] * (rates[start + 1] / rates[start]) ** part), most)


def look(searching: Searching, looks: Sequence[Look], together: int) -> list[Seen | None]:
    """Simulate, and say what each look shows; None where the clock ends before the last arrival.

    A device simulates `together` jobs, the last of them several times: its programs are compiled for a number of jobs,
    and searches end one after the other. Raises InputError where a job cannot be simulated or a criterion has no value.
    """
    prepared_points = [searching.points[one.number].at(one.rate) for one in looks]
    jobs = {k: job for k, one in enumerate(looks) if (job := _job(one, prepared_points[k])) is not None}
    seen: list[Seen | None] = [None] * len(looks)
    if not jobs:
        return seen
    every = list(jobs.values())
    if searching.simulator.on_device:
        every += [every[-1]] * (together - len(every))
    report = searching.simulator.simulate(every, [prepared_points[k] for k in jobs])
    report = {name: values[: len(jobs)] for name, values in report.items()}
    values = [criterion.values(report) for criterion in searching.settings.criteria]
    ratios = np.array([one.ratios(mine) for one, mine in zip(searching.settings.criteria, values, strict=True)]).T
    missed = never_in_time(report) / (report["measured"] + report["missed"])
    # Nothing grows where there are too few requests to tell.
    growth = np.nan_to_num(report["backlog_growth_fraction"])
    served = _served(report, np.array([looks[k].rate for k in jobs]))
    every_seen = zip(ratios.tolist(), *(one.tolist() for one in (values[0], missed, growth, served)), strict=True)
    for k, (mine, *others) in zip(jobs, every_seen, strict=True):
        seen[k] = Seen(tuple(mine), *others)
    return seen


def _served(report: Mapping[str, NDArray[Any]], rate: FloatArray) -> FloatArray:
    """Return how many requests a second (job,) are served by servers that always have work.

    Of those that come evenly, at a rate that is too high, what is not left over; whole batches, which may be few, are
    counted over the time in which servers are busy.
    """
    if "steps" in report:
        return rate * (1.0 - report["backlog_growth_fraction"])
    found: FloatArray = report["throughput_requests_per_s"] / report["utilisation"]
    return found


def _job(one: Look, prepared: PreparedPoint) -> Job | None:
    """Return the job of a point; None where the engine's clock would end before the last of its arrivals."""
    try:
        with np.errstate(all="ignore"):
            job = one.draws.job(prepared, evenly_at=one.rate if one.evenly else None)
            check(job)
    except InputError:
        if one.may_end:
            return None
        raise
    return job


@dataclass
class _Group:
    """Searches that look at their rates together."""

    searches: list[PointSearch]
    together: int
    """Jobs of a task on a device."""
    requests: int
    """How many of those announced to the progress they have left."""
    looks: deque[list[Look]]
    """Of tasks that are yet to be done before they go on."""
    seen: dict[tuple[int, int], Seen | None]
    """By point and replication, since they went on."""
    under_way: int = 0
    """Tasks."""


class Searches:
    """The work of a search for capacities: every point over all replications, in groups that go in step."""

    def __init__(self, prepared: Prepared, settings: SearchSettings, backend: str) -> None:
        self.prepared, self.settings = prepared, settings
        self.points, self.replications = len(prepared.points), prepared.sweep.replications
        self.answers: dict[tuple[int, int], Answer] = {}
        """By point and replication."""
        simulator = Simulator(prepared, backend, JOBS_AT_ONCE)
        if simulator.on_device:
            job = Draws(prepared.sweep.seed, 0).job(max(prepared.points, key=lambda point: point.requests))
            simulator = simulator._replace(jobs_at_once=jobs_at_once(job, simulator.shape(prepared.points), backend))
        self._searching = Searching(simulator, tuple(map(scalable, prepared.points)), settings)
        self._groups: Iterator[_Group] = iter(())
        self._waiting: deque[_Group] = deque()
        """Groups that have looks to give away."""
        self._draws: dict[int, Draws] = {}
        """By replication."""
        self._asked = self._answered = 0
        """Points that are to have an answer, and those that have."""

    def add(self, parts: Iterable[Part]) -> None:
        """Add the answers of searches that were finished before."""
        for part in parts:
            answers = answers_of(part.report)
            self.answers.update({(k, part.replication): one for k, one in zip(part.points, answers, strict=True)})

    def work(
        self, store: Store | None, stop: Stop, progress: Progress, executor: Executor | None, workers: int
    ) -> bool:
        """Search every point that has no answer, and say whether there was any to search."""
        scheduler = Scheduler(self, store, stop, progress)
        # What was kept of a point may lack some of its replications.
        left = [k for k in range(self.points) if any((k, r) not in self.answers for r in range(self.replications))]
        self._asked = len(left)
        progress.start(self.points, self.replications if left else 0, sum(map(self._expected, left)))
        self._groups = self._deal(left, workers)
        at_once = min(2, workers) if self._searching.simulator.on_device else workers
        with ExitStack() as opened:
            scheduler.run(executor or opened.enter_context(threads(at_once, stop)), at_once)
        return bool(left)

    def tell(self, store: Store) -> str:
        """Say how many replications are kept."""
        return store.tell(self.points, self.replications)

    def next_task(self) -> Task | None:
        """Return the next looks of a group that waits for it, or the first ones of another."""
        group = self._waiting[0] if self._waiting else next(self._groups, None)
        if group is None:
            return None
        if not self._waiting:
            self._waiting.append(group)
        looks = group.looks.popleft()
        if not group.looks:
            self._waiting.popleft()
        group.under_way += 1
        return Task(look, (self._searching, looks, group.together), (group, looks))

    def take(self, task: Task, result: list[Seen | None]) -> Gain:
        """Take what was seen; once it is all replications, searches go on to their next rates or have their answers."""
        group, looks = task.note
        group.under_way -= 1
        group.seen |= {(one.number, one.draws.replication): seen for one, seen in zip(looks, result, strict=True)}
        if group.looks or group.under_way:
            return Gain([], 0, 0)
        for one in group.searches:
            one.tell([group.seen[one.number, r] for r in range(self.replications)])
        simulated = sum(
            self.prepared.points[number].requests for (number, _), seen in group.seen.items() if seen is not None
        )
        answered = {(one.number, r): answer for one in group.searches for r, answer in enumerate(one.answers or ())}
        self.answers |= answered
        before = len(group.searches)
        group.searches = [one for one in group.searches if one.answers is None]
        complete = self.replications * self._answered // self._asked
        self._answered += before - len(group.searches)
        # As points are finished over all replications, those are said to be complete by and by.
        complete = self.replications * self._answered // self._asked - complete
        if group.searches:
            simulated = min(simulated, group.requests)
            self._ask(group)
            self._waiting.append(group)
        else:
            simulated = group.requests
        group.requests -= simulated
        return Gain(parts_of(answered), simulated, complete)

    def give_up(self) -> None:
        """Do nothing: no task takes long."""

    def _expected(self, number: int) -> int:
        """Return about how many requests the search of a point simulates."""
        return self.settings.expected_rates * self.prepared.points[number].requests * self.replications

    def _deal(self, left: Sequence[int], workers: int) -> Iterator[_Group]:
        """Yield groups of what is left: as many points together as leave work for all workers."""
        simulator = self._searching.simulator
        most = max(1, simulator.jobs_at_once // (self.replications if simulator.on_device else 1))
        blocks = 1 if simulator.on_device else max(LEAST_GROUPS, -(-4 * workers // self.replications))
        for block in deal(len(left), max(blocks, -(-len(left) // most))) if left else ():
            points = left[block.start : block.stop]
            searches = [PointSearch(self._searching.points[k], k, self.settings) for k in points]
            together = min(simulator.jobs_at_once, len(points) * self.replications)
            group = _Group(searches, together, sum(map(self._expected, points)), deque(), {})
            self._ask(group)
            yield group

    def _ask(self, group: _Group) -> None:
        """Write down which looks a group has to do next: a task each replication, or as many jobs as a device holds."""
        group.seen = {}
        every = [
            Look(
                self._draws_of(r),
                one.number,
                one.rate,
                one.filling is not None,
                self.settings.low is None and one.is_lowest,
            )
            for r in range(self.replications)
            for one in group.searches
        ]
        size = group.together if self._searching.simulator.on_device else len(group.searches)
        group.looks = deque(every[start : start + size] for start in range(0, len(every), size))

    def _draws_of(self, replication: int) -> Draws:
        """Return the draws of a replication, kept where not too many are."""
        found = self._draws.get(replication) or Draws(self.prepared.sweep.seed, replication)
        if len(self._draws) < MOST_DRAWS:
            self._draws[replication] = found
        return found


def parts_of(answers: Mapping[tuple[int, int], Answer]) -> list[Part]:
    """Return answers, by point and replication, as parts to be kept."""
    parts = []
    for number, group in groupby(sorted(answers, key=lambda at: at[::-1]), key=lambda at: at[1]):
        places = list(group)
        mine = [answers[at] for at in places]
        report = {f"found_{name}": np.array([getattr(one.found, name) for one in mine]) for name in Found._fields}
        report |= {name: np.array([getattr(one, name) for one in mine]) for name in Answer._fields if name != "found"}
        parts.append(Part(number, tuple(k for k, _ in places), report))
    return parts


def answers_of(report: Mapping[str, NDArray[Any]]) -> list[Answer]:
    """Return what `parts_of` made of answers as they were."""
    found = [
        Found(*values) for values in zip(*(report[f"found_{name}"].tolist() for name in Found._fields), strict=True)
    ]
    rest = zip(*(report[name].tolist() for name in Answer._fields if name != "found"), strict=True)
    return [Answer(one, *values) for one, values in zip(found, rest, strict=True)]
