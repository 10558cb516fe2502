"""The work of a search for capacities: a search for every point over all its replications, some at a time in step.

A task tries one rate of some points in one replication, or in several on a device; once all replications have
answered, each search goes on to its next rate. Whether a criterion holds at a rate is asked of the mean over the
replications, as each alone has met its own bursts: the mean of capacities that each found for itself is far too large
where they are few. Overload is asked first, with requests that come evenly.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from batchcube.engine import jobs_at_once
from batchcube.engine.simulation import JOBS_AT_ONCE
from batchcube.results.overload import STEADY_GROWTH

from ..workloads.settings import FloatArray
from .bisection import PROBES, Found, Search, bisect, bracket_and_bisect, fill, is_monotone
from .criteria import Criterion
from .draws import Draws
from .executors import Hands
from .preparing import Prepared
from .scalable import Scalable, scalable
from .scheduler import Gain, Task, deal
from .shards import Dealing, Shard
from .simulate import Simulator
from .store import AnyPart, Part, Store
from .trial import Seen, Shared, Trial, mean_growth, served_when_full, try_out

ROUNDING = 1e-12
"""By how much a mean of ratios may exceed 1 for want of digits."""
LEAST_GROUPS = 8
"""Groups that points are dealt to: what is finished is kept."""
MOST_DRAWS = 32
"""Replications whose arrays are kept for the next rate; the others are drawn again."""


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
        """About how many rates a search tries."""
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
    """Of the rates that were tried."""
    missed: float
    """Largest share of the requests past the warm-up that was never served, or cut off, at one of them."""


_SINGLE = len(Seen._fields) - 1
"""Values of what was seen that are not of each criterion."""
_Place = tuple[int, int, float, bool]
"""Of a trial: its point, replication and rate, and whether the requests come evenly."""


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
        """How many rates were tried."""
        self.answers: list[Answer] | None = None

    @property
    def is_lowest(self) -> bool:
        """Whether the next rate is below all that were tried."""
        return bool(self.visited) and self.rate < min(self.visited)

    def tell(self, seen: Sequence[Seen | None]) -> None:
        """Go on to the next rate, or to the answers, with what was seen in each replication."""
        self.told += 1
        known = [one for one in seen if one is not None]
        whole = len(known) == len(seen)
        if self.filling is not None:
            try:
                self.rate = self.filling.send(mean_growth(known))
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
        """Return the rate up to which all criteria hold in the other replications, between those tried."""
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


@dataclass
class _Group:
    """Searches that try their rates together."""

    searches: list[PointSearch]
    together: int
    """Jobs of a task on a device."""
    requests: int
    """How many of those announced to the progress they have left."""
    trials: deque[list[Trial]]
    """Of tasks that are yet to be done before they go on."""
    seen: dict[tuple[int, int], Seen | None]
    """By point and replication, since they went on."""
    under_way: int = 0
    """Tasks."""


class Searches:
    """The work of a search for capacities: every point over all replications, in groups that go in step.

    What is kept is what every trial showed: searches that were stopped, or dealt to shards, go on from it.
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
        self._shared = Shared(simulator, tuple(map(scalable, prepared.points)), settings.criteria)
        self.left = [PointSearch(point, number, settings) for number, point in enumerate(self._shared.points)]
        """Searches that have no answers."""
        self._known: dict[_Place, Seen | None] = {}
        """What was seen before."""
        self._dealt: frozenset[tuple[int, int]] | None = None
        """Replications and points that are to be tried, where not all are."""
        self._groups: Iterator[_Group] = iter(())
        self._waiting: deque[_Group] = deque()
        """Groups that have trials to give away."""
        self._draws: dict[int, Draws] = {}
        """By replication."""
        self._asked = self._answered = 0
        """Points that are to have an answer, or to be tried by a shard, and those that have it."""

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
        """Number of the trials that are next, from 1."""
        return 1 + min(one.told for one in self.left)

    def deal(self, shard: Shard) -> bool:
        """Try no more than a shard's cells of this round, and say whether any is left."""
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
        """Return the replications whose next trial was not seen before."""
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
        hands.run(self, min(2, hands.workers) if self._shared.simulator.on_device else hands.workers)
        return bool(groups)

    def tell(self, store: Store) -> str:
        """Say how much is kept."""
        return store.tell_simulations()

    def next_task(self) -> Task | None:
        """Return the next trials of a group that waits for it, or the first ones of another."""
        group = self._waiting[0] if self._waiting else next(self._groups, None)
        if group is None:
            return None
        if not self._waiting:
            self._waiting.append(group)
        trials = group.trials.popleft()
        if not group.trials:
            self._waiting.popleft()
        group.under_way += 1
        return Task(try_out, self._shared, (trials, group.together), (group, trials))

    def take(self, task: Task, result: list[Seen | None]) -> Gain:
        """Take what was seen; once it is all replications, searches go on to their next rates or have their answers."""
        group, trials = task.note
        group.under_way -= 1
        group.seen |= {(one.number, one.draws.replication): seen for one, seen in zip(trials, result, strict=True)}
        parts = parts_of(trials, result, len(self.settings.criteria))
        if group.trials or group.under_way:
            return Gain(parts, 0, 0)
        simulated = sum(
            self.prepared.points[number].requests for (number, _), seen in group.seen.items() if seen is not None
        )
        before = self._answered
        if self._dealt is not None:
            self._answered += len(group.searches)
        while self._dealt is None and group.searches and not group.trials:
            for one in group.searches:
                one.tell([group.seen[one.number, r] for r in range(self.replications)])
                self._answer(one)
                self._answered += one.answers is not None
            group.searches = [one for one in group.searches if one.answers is None]
            self._ask(group)
        # As points are finished over all replications, those are said to be complete by and by.
        complete = (self.replications * self._answered) // self._asked - (self.replications * before) // self._asked
        if group.trials:
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
        simulator = self._shared.simulator
        most = max(1, simulator.jobs_at_once // (self.replications if simulator.on_device else 1))
        blocks = 1 if simulator.on_device else max(LEAST_GROUPS, -(-4 * workers // self.replications))
        for block in deal(len(self.left), max(blocks, -(-len(self.left) // most))) if self.left else ():
            searches = self.left[block.start : block.stop]
            together = min(simulator.jobs_at_once, len(searches) * self.replications)
            group = _Group(searches, together, sum(map(self._expected, searches)), deque(), {})
            self._ask(group)
            if group.trials:
                yield group

    def _ask(self, group: _Group) -> None:
        """Write down which trials a group does next: a task each replication, or as many jobs as a device holds."""
        group.seen = {}
        tasks: list[list[Trial]] = []
        for r in range(self.replications):
            mine = []
            for one in group.searches:
                if (place := self._place(one, r)) in self._known:
                    group.seen[one.number, r] = self._known[place]
                elif self._dealt is None or (r, one.number) in self._dealt:
                    may_end = self.settings.low is None and one.is_lowest
                    mine.append(Trial(self._draws_of(r), one.number, one.rate, one.filling is not None, may_end))
            tasks.append(mine)
        if self._shared.simulator.on_device:
            every, size = list(chain.from_iterable(tasks)), group.together
            tasks = [every[start : start + size] for start in range(0, len(every), size)]
        group.trials = deque(filter(None, tasks))

    def _draws_of(self, replication: int) -> Draws:
        """Return the draws of a replication, kept where not too many are."""
        found = self._draws.get(replication) or Draws(self.prepared.sweep.seed, replication)
        if len(self._draws) < MOST_DRAWS:
            self._draws[replication] = found
        return found


def parts_of(trials: Sequence[Trial], seen: Sequence[Seen | None], criteria: int) -> list[Part]:
    """Return what trials showed as parts to be kept, one for each replication: their report is (trial, value)."""
    found: dict[int, dict[int, list[float]]] = {}
    for one, shown in zip(trials, seen, strict=True):
        values = [math.nan] * (_SINGLE + criteria) if shown is None else [*shown[1:], *shown.ratios]
        row = [one.rate, float(one.evenly), float(shown is not None), *values]
        found.setdefault(one.draws.replication, {})[one.number] = row
    return [Part(r, tuple(rows), {"trials": np.array(list(rows.values()))}) for r, rows in found.items()]


def seen_of(part: AnyPart) -> Iterator[tuple[_Place, Seen | None]]:
    """Yield what `parts_of` made a part of."""
    for number, (rate, evenly, is_known, *values) in zip(part.points, part.report["trials"].tolist(), strict=True):
        seen = Seen(tuple(values[_SINGLE:]), *values[:_SINGLE]) if is_known else None
        yield (number, part.replication, rate, bool(evenly)), seen
