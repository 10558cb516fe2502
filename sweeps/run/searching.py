"""The work of a search for capacities: a search for every point over all its replications, some at a time in step.

A task looks at one rate of some points in one replication, or in several on a device; once all replications have
answered, each search goes on to its next rate. Whether a criterion holds at a rate is asked of the mean over the
replications, as each alone has met its own bursts: the mean of capacities that each found for itself is far too large
where they are few. Overload is asked first, with requests that come evenly.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.engine import check, jobs_at_once
from batchcube.engine.simulation import JOBS_AT_ONCE, Job
from batchcube.errors import InputError
from batchcube.results.overload import STEADY_GROWTH

from ..workloads.arrivals import AtRate
from ..workloads.settings import FloatArray
from .bisection import PROBES, Found, Search, bisect, bracket_and_bisect, fill, is_monotone
from .criteria import Criterion, never_in_time
from .draws import Draws
from .executors import Hands
from .preparing import Prepared, PreparedPoint
from .scheduler import Gain, Task, deal
from .shards import Dealing, Shard
from .simulate import Simulator
from .store import AnyPart, Part, Store

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
    criteria: tuple[Criterion, ...]


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
    """Of the first criterion; NaN without one."""
    missed: float
    """Share of the requests past the warm-up that was never served, or cut off."""
    growth: float
    """Of the queue, as a share of the arrivals meanwhile."""
    filling: float
    """Of the batches that run, as a share of the arrivals meanwhile."""
    served: float
    """Requests per second that the servers serve, if they always have work, and their batches are filled."""


_SINGLE = len(Seen._fields) - 1
"""Values of what was seen that are not of each criterion."""
_Place = tuple[int, int, float, bool]
"""Of a look: its point, replication and rate, and whether the requests come evenly."""


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
        self.growth: dict[float, float] = {}
        """Mean growth of the backlog by rate, where it was simulated."""
        self.is_unseen = False
        """Whether it was asked what the servers can do, and the runs are too short to show it."""
        self.missed = 0.0
        self.told = 0
        """How many rates were looked at."""
        self.answers: list[Answer] | None = None

    @property
    def is_lowest(self) -> bool:
        """Whether the next rate is below all that were looked at."""
        return bool(self.visited) and self.rate < min(self.visited)

    def tell(self, seen: Sequence[Seen | None]) -> None:
        """Go on to the next rate, or to the answers, with what was seen in each replication."""
        self.told += 1
        known = [one for one in seen if one is not None]
        whole = len(known) == len(seen)
        if self.filling is not None:
            try:
                self.rate = self.filling.send(_mean_growth(known))
            except StopIteration as stop:
                self.filling = None
                served = served_when_full(known) if stop.value else None
                self.is_unseen = served is None
                if served is not None:
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
            self.growth[self.rate] = float(np.mean([one.growth + one.filling for one in known]))
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
        # Limits may hold for so long while more and more run, or wait: what will become of them is not seen.
        if self.is_unseen and found.unbracketed == 0 and self.growth[found.held] > STEADY_GROWTH + self.settings.growth:
            found = Found(math.nan, math.nan, 2, found.held)
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
    criteria = searching.criteria
    values = [criterion.values(report) for criterion in criteria]
    ratios = [one.ratios(mine) for one, mine in zip(criteria, values, strict=True)]
    statistic = values[0] if values else np.full(len(jobs), math.nan)
    missed = never_in_time(report) / (report["measured"] + report["missed"])
    # Nothing grows where there are too few requests to tell.
    backlog = np.nan_to_num(report["backlog_growth_fraction"])
    growth = np.nan_to_num(report.get("queue_growth_fraction", backlog))
    servers = [prepared_points[k].point.server.servers for k in jobs]
    served = _served(report, np.array([looks[k].rate for k in jobs]), servers)
    singles = np.array([statistic, missed, growth, backlog - growth, served])
    for place, k in enumerate(jobs):
        seen[k] = Seen(tuple(float(one[place]) for one in ratios), *singles[:, place].tolist())
    return seen


def served_at_most(prepared: Prepared, backend: str, replications: int) -> float:
    """Return the requests a second that the first point serves at most, as a search finds them; NaN where it cannot.

    That is so for runs that are too short to fill the servers, and arrivals that do not scale.
    """
    point = prepared.points[0]
    if point.recorded is None and not isinstance(point.point.workload.arrivals, AtRate):
        return math.nan
    searching = Searching(Simulator(prepared, backend, JOBS_AT_ONCE), (scalable(point),), ())
    draws = [Draws(prepared.sweep.seed, r) for r in range(replications)]
    filling = fill(searching.points[0].start)
    rate = next(filling)
    while True:
        seen = look(searching, [Look(one, 0, rate, evenly=True, may_end=True) for one in draws], replications)
        known = [one for one in seen if one is not None]
        if len(known) < replications:
            return math.nan
        try:
            rate = filling.send(_mean_growth(known))
        except StopIteration as stop:
            served = served_when_full(known)
            return float(1.0 / np.mean(1.0 / served)) if served is not None and stop.value else math.nan


def _mean_growth(seen: Sequence[Seen]) -> float:
    return float(np.mean([one.growth for one in seen]))


def _served(report: Mapping[str, NDArray[Any]], rate: FloatArray, servers: Sequence[Any]) -> FloatArray:
    """Return how many requests a second (job,) are served by servers (job,) that always have work; 0 where unseen.

    Of those that come evenly, at a rate that is too high, what is not left over, where that is as many as run at once:
    of those that were first in a batch the short ones are done first. Whole batches, which may be few, are counted over
    the time in which servers are busy.
    """
    if "steps" not in report:
        return np.asarray(report["throughput_requests_per_s"] / report["utilisation"], np.float64)
    share = 1.0 - report["backlog_growth_fraction"]
    run = report["batch_size_mean"] * np.array(servers, np.float64)
    return np.where(share * report["requests"] / 2 >= run, rate * share, 0.0)


def served_when_full(seen: Sequence[Seen]) -> FloatArray | None:
    """Return the requests a second (replication,) that servers serve which always have work.

    None where some had none, or where batches are still being filled: what they will serve nobody has seen.
    """
    served = np.array([one.served for one in seen])
    filling = float(np.mean([one.filling for one in seen]))
    return served if filling <= STEADY_GROWTH and (served > 0.0).all() else None


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
    """The work of a search for capacities: every point over all replications, in groups that go in step.

    What is kept is what every look showed: it leads searches that were stopped, or dealt to shards, to where they were.
    """

    def __init__(self, prepared: Prepared, settings: SearchSettings, backend: str) -> None:
        self.prepared, self.settings = prepared, settings
        self.points, self.replications = len(prepared.points), prepared.sweep.replications
        self.answers: dict[tuple[int, int], Answer] = {}
        """By point and replication."""
        simulator = Simulator(prepared, backend, JOBS_AT_ONCE)
        if simulator.on_device:
            job = Draws(prepared.sweep.seed, 0).job(max(prepared.points, key=lambda point: point.requests))
            simulator = simulator._replace(jobs_at_once=jobs_at_once(job, simulator.shape(prepared.points), backend))
        self._searching = Searching(simulator, tuple(map(scalable, prepared.points)), settings.criteria)
        self.left = [PointSearch(point, number, settings) for number, point in enumerate(self._searching.points)]
        """Searches that have no answers."""
        self._known: dict[_Place, Seen | None] = {}
        """What was seen before."""
        self._dealt: frozenset[tuple[int, int]] | None = None
        """Replications and points that are to be looked at, where not all are."""
        self._groups: Iterator[_Group] = iter(())
        self._waiting: deque[_Group] = deque()
        """Groups that have looks to give away."""
        self._draws: dict[int, Draws] = {}
        """By replication."""
        self._asked = self._answered = 0
        """Points that are to have an answer, or to be looked at by a shard, and those that have it."""

    def add(self, parts: Iterable[AnyPart]) -> None:
        """Add what was seen before."""
        for part in parts:
            self._known.update(seen_of(part))

    def go_on(self) -> None:
        """Lead searches as far as what was seen before leads."""
        for one in self.left:
            while one.answers is None and all(self._place(one, r) in self._known for r in range(self.replications)):
                one.tell([self._known[self._place(one, r)] for r in range(self.replications)])
            self._answer(one)
        self.left = [one for one in self.left if one.answers is None]

    @property
    def round(self) -> int:
        """Number of the looks that are next, from 1."""
        return 1 + min(one.told for one in self.left)

    def deal(self, shard: Shard) -> bool:
        """Look at no more than a shard's cells of this round, and say whether any is left."""
        dealt = self._dealing().of(shard)
        self._dealt = frozenset((r, k) for r, points in dealt.items() for k in points)
        return any((r, one.number) in self._dealt for one in self.left for r in self._unseen(one))

    def missing(self, shards: int) -> list[int]:
        """Return the numbers of those, of so many shards, that were dealt what was not seen."""
        cells = [(r, one.number) for one in self.left for r in self._unseen(one)]
        return self._dealing().whose(cells, shards)

    def _dealing(self) -> Dealing:
        numbers = [one.number for one in self.left]
        return Dealing(range(self.replications), numbers, [self.prepared.points[k].requests for k in numbers])

    def _unseen(self, one: PointSearch) -> list[int]:
        """Return the replications whose next look was not seen before."""
        return [r for r in range(self.replications) if self._place(one, r) not in self._known]

    @staticmethod
    def _place(one: PointSearch, replication: int) -> _Place:
        return one.number, replication, one.rate, one.filling is not None

    def _answer(self, one: PointSearch) -> None:
        """Keep the answers of a search that has them."""
        self.answers |= {(one.number, r): answer for r, answer in enumerate(one.answers or ())}

    def work(self, hands: Hands) -> bool:
        """Search every point that has no answer, or what is dealt of this round; say whether there was any."""
        groups = list(self._deal(hands.workers))
        self._asked = sum(len(group.searches) for group in groups)
        hands.progress.start(self._asked, self.replications if groups else 0, sum(group.requests for group in groups))
        self._groups = iter(groups)
        hands.run(self, min(2, hands.workers) if self._searching.simulator.on_device else hands.workers)
        return bool(groups)

    def tell(self, store: Store) -> str:
        """Say how much is kept."""
        return store.tell_simulations()

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
        return Task(look, self._searching, (looks, group.together), (group, looks))

    def take(self, task: Task, result: list[Seen | None]) -> Gain:
        """Take what was seen; once it is all replications, searches go on to their next rates or have their answers."""
        group, looks = task.note
        group.under_way -= 1
        group.seen |= {(one.number, one.draws.replication): seen for one, seen in zip(looks, result, strict=True)}
        parts = parts_of(looks, result, len(self.settings.criteria))
        if group.looks or group.under_way:
            return Gain(parts, 0, 0)
        simulated = sum(
            self.prepared.points[number].requests for (number, _), seen in group.seen.items() if seen is not None
        )
        before = self._answered
        if self._dealt is not None:
            self._answered += len(group.searches)
        while self._dealt is None and group.searches and not group.looks:
            for one in group.searches:
                one.tell([group.seen[one.number, r] for r in range(self.replications)])
                self._answer(one)
                self._answered += one.answers is not None
            group.searches = [one for one in group.searches if one.answers is None]
            self._ask(group)
        # As points are finished over all replications, those are said to be complete by and by.
        complete = (self.replications * self._answered) // self._asked - (self.replications * before) // self._asked
        if group.looks:
            simulated = min(simulated, group.requests)
            self._waiting.append(group)
        else:
            simulated = group.requests
        group.requests -= simulated
        return Gain(parts, simulated, complete)

    def give_up(self) -> None:
        """Do nothing: no task takes long."""

    def _expected(self, one: PointSearch) -> int:
        """Return about how many requests the search of a point has yet to simulate."""
        requests = self.prepared.points[one.number].requests
        if self._dealt is not None:
            return requests * sum((r, one.number) in self._dealt for r in self._unseen(one))
        return max(1, self.settings.expected_rates - one.told) * requests * self.replications

    def _deal(self, workers: int) -> Iterator[_Group]:
        """Yield groups of what is left: as many points together as leave work for all workers."""
        simulator = self._searching.simulator
        most = max(1, simulator.jobs_at_once // (self.replications if simulator.on_device else 1))
        blocks = 1 if simulator.on_device else max(LEAST_GROUPS, -(-4 * workers // self.replications))
        for block in deal(len(self.left), max(blocks, -(-len(self.left) // most))) if self.left else ():
            searches = self.left[block.start : block.stop]
            together = min(simulator.jobs_at_once, len(searches) * self.replications)
            group = _Group(searches, together, sum(map(self._expected, searches)), deque(), {})
            self._ask(group)
            if group.looks:
                yield group

    def _ask(self, group: _Group) -> None:
        """Write down which looks a group has to do next: a task each replication, or as many jobs as a device holds."""
        group.seen = {}
        tasks: list[list[Look]] = []
        for r in range(self.replications):
            mine = []
            for one in group.searches:
                if (place := self._place(one, r)) in self._known:
                    group.seen[one.number, r] = self._known[place]
                elif self._dealt is None or (r, one.number) in self._dealt:
                    may_end = self.settings.low is None and one.is_lowest
                    mine.append(Look(self._draws_of(r), one.number, one.rate, one.filling is not None, may_end))
            tasks.append(mine)
        if self._searching.simulator.on_device:
            every, size = list(chain.from_iterable(tasks)), group.together
            tasks = [every[start : start + size] for start in range(0, len(every), size)]
        group.looks = deque(filter(None, tasks))

    def _draws_of(self, replication: int) -> Draws:
        """Return the draws of a replication, kept where not too many are."""
        found = self._draws.get(replication) or Draws(self.prepared.sweep.seed, replication)
        if len(self._draws) < MOST_DRAWS:
            self._draws[replication] = found
        return found


def parts_of(looks: Sequence[Look], seen: Sequence[Seen | None], criteria: int) -> list[Part]:
    """Return what looks showed as parts to be kept, one for each replication: their report is (look, value)."""
    found: dict[int, dict[int, list[float]]] = {}
    for one, shown in zip(looks, seen, strict=True):
        values = [math.nan] * (_SINGLE + criteria) if shown is None else [*shown[1:], *shown.ratios]
        row = [one.rate, float(one.evenly), float(shown is not None), *values]
        found.setdefault(one.draws.replication, {})[one.number] = row
    return [Part(r, tuple(rows), {"looks": np.array(list(rows.values()))}) for r, rows in found.items()]


def seen_of(part: AnyPart) -> Iterator[tuple[_Place, Seen | None]]:
    """Yield what `parts_of` made a part of."""
    for number, (rate, evenly, is_known, *values) in zip(part.points, part.report["looks"].tolist(), strict=True):
        seen = Seen(tuple(values[_SINGLE:]), *values[:_SINGLE]) if is_known else None
        yield (number, part.replication, rate, bool(evenly)), seen
