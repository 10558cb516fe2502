"""How a plan is decided: configurations race on a number of GPUs, at fewer and fewer until none holds its limits.

The systems of a race, in the word of `results.selection`, are the configurations in it. All of it is one generator,
which asks for simulations and is told when they are there; see docs/planning.md.
"""

import json
import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from batchcube.results import overload
from batchcube.results.selection import FAILED, FIRST, IN_RACE, Selection, looks, select
from batchcube.results.statistics import Interval
from batchcube.results.text import counted
from batchcube.results.variables import REPLICATION

from ..workloads.settings import FloatArray
from .question import Question
from .serving import gpus_each, of_a_server
from .values import ARRIVED, Values, Wanted

MOST = 256
"""Replications of a configuration at most."""
COMPARED = 4 * FIRST
"""Replications at which configurations are compared first. A cap that is reached in every tenth replication, and harms
there, may have done no harm in the first look, and is not to win by it: there those leave that fail, and no others."""
_OF_FIRST, _OF_QUEUE = 0.25, 0.1
"""Shares of the error of a race: of its first look, and of what is said of queues."""
_MORE, _GAIN = 1.5, 0.1
"""With so many times the GPUs the least of the largest ratios comes nearer to 1 by this share, or more seem to make no
difference; so the most are looked at."""
PROMISING = 32
"""Configurations that are looked at to find the number of GPUs to begin with."""


class Race(NamedTuple):
    """What is known of configurations on a number of GPUs."""

    gpus: int
    numbers: NDArray[np.int64]
    """`(system,)`, of the configurations: those that are not known to fail on more GPUs."""
    replicas: NDArray[np.int64]
    """`(system,)`."""
    found: Selection
    same: NDArray[np.int64]
    """`(system,)` number of the configuration simulated in its place, as both were the same before; or its own."""
    alpha: float
    """Chance of error that it was allowed."""
    queue: str
    """Of the best: whether it stays within bounds; "" without a best."""
    grows: NDArray[np.bool_]
    """`(system,)`, whether it fails as its queue is known to grow."""

    @property
    def best(self) -> int | None:
        """Number of the configuration that is best."""
        return None if self.found.best is None else int(self.numbers[self.found.best])

    @property
    def largest(self) -> FloatArray:
        """`(system,)`, the mean of a system's largest ratio."""
        ratios = self.found.ratios.estimate
        largest: FloatArray = np.where(np.isnan(ratios), np.inf, ratios).max(axis=0)
        return largest

    @property
    def least(self) -> float:
        """The least of these."""
        return float(self.largest.min())


@dataclass
class Decision:
    """What the races came to."""

    configurations: int
    """How many there are."""
    races: dict[int, Race]
    """By GPUs."""
    gpus: int
    """On which a configuration holds; the most that were tried where none does."""
    ended_early: bool
    """Whether the budget ended a race."""
    is_hopeless: bool
    """Whether no configuration holds, and more GPUs seem to make no difference."""

    @property
    def race(self) -> Race:
        """The race that decided."""
        return self.races[self.gpus]

    @property
    def nearest(self) -> Race:
        """The race that came nearest to what is asked, the one on the fewest GPUs of those that came as near."""
        first, *more = (self.races[gpus] for gpus in sorted(self.races))
        for race in more:
            first = race if _gains(first.least, race.least) else first
        return first

    def alpha(self, gpus: int) -> float:
        """Return the chance of error of the race on so many GPUs, and of all on more that kept others from it."""
        absent = set(range(self.configurations)) - set(self.races[gpus].numbers.tolist())
        used = [self.races[gpus]]
        for other, race in self.races.items():
            if other > gpus and absent & set(race.numbers[race.found.states == FAILED].tolist()):
                used.append(race)
        return sum(race.alpha for race in used)


Steps = Generator[list[Wanted], None, Decision]


class Decider:
    """Decides a question by simulations that it asks for."""

    def __init__(
        self,
        question: Question,
        values: Values,
        say: Callable[[str], None],
        over_budget: Callable[[Sequence[Wanted]], bool],
        most_served: Callable[[int, int], float],
    ) -> None:
        self.question, self.values, self.say = question, values, say
        points = question.sweep.grid.points
        self.gpus_each = np.array([gpus_each(point) for point in points], np.int64)
        """`(configuration,)` GPUs of a replica."""
        self._least = np.array([of_a_server(point) for point in points], np.int64)
        """`(configuration,)` replicas at least: so many as step together, and then no more."""
        self._most = np.where(self._least > 1, self._least, question.replicas_max)
        self._over_budget = over_budget
        self._most_served = most_served
        count = MOST if question.parts is None else min(MOST, question.parts)
        self._planned = looks(min(COMPARED, count), count)
        self._overloaded: set[tuple[int, int]] = set()
        """Configurations on replicas whose queue is known to grow."""
        self._stopped = self._seems_hopeless = False
        shapes = np.unique([self.gpus_each, self._least, self._most], axis=1).T.tolist()
        self.levels = sorted({count * each for each, least, most in shapes for count in range(least, most + 1)})
        self.rounds: list[dict[str, Any]] = []

    def replicas_on(self, gpus: int) -> NDArray[np.int64]:
        """Return the replicas (configuration,) that so many GPUs hold, 0 where not one."""
        replicas = np.minimum(gpus // self.gpus_each, self._most)
        return np.where(replicas < self._least, 0, replicas)

    def decide(self) -> Steps:
        """Race at the number of GPUs that seems to be the least, then below or above it until it is."""
        level = yield from self._guess()
        share = 1.0 - self.question.confidence
        races: dict[int, Race] = {}
        # The most that are too few, and the fewest that hold.
        low, high, step = -1, len(self.levels), 1
        is_hopeless = False
        while high - low > 1 and not self._stopped:
            gpus = self.levels[level]
            left = self._left(gpus, races)
            # Who fits there may have failed on more.
            if len(left):
                if races and self._stops(self._missing(left, self.replicas_on(gpus), FIRST)):
                    break
                # Half of what is left of the error, so that all races together keep to it.
                share = share / 2.0 if len(self.levels) > 1 else share
                races[gpus] = yield from self._race(gpus, left, share)
            low, high = (level, high) if gpus not in races or races[gpus].best is None else (low, level)
            if high < len(self.levels):
                level = high - 1 if low < 0 else (low + high) // 2
                continue
            if self._seems_hopeless or not _helps(races):
                is_hopeless = not (yield from self._most_help(races))
            if is_hopeless:
                break
            level, step = min(level + step, len(self.levels) - 1), 2 * step
        holding = [gpus for gpus, race in races.items() if race.best is not None]
        return Decision(len(self.gpus_each), races, min(holding, default=max(races)), self._stopped, is_hopeless)

    # Where to begin -------------------------------------------------------------------------------------------------

    def _guess(self) -> Generator[list[Wanted], None, int]:
        """Return the level at which a configuration seems to hold, and at none below; by a single replication."""
        every = np.arange(len(self.gpus_each))
        on = np.clip(self.question.start, self._least, self._most)
        self.say(f"looking at {counted(len(every), 'configuration')} for the GPUs that they need")
        yield from self._need(every, on, 1)
        ratio = self.ratios(every, on, 1).max(axis=0)[:, 0]
        # What replicas serve that have more than enough to do is what they can serve.
        served = self.values.of("throughput_requests_per_s", every, on, 1)[:, 0] / on
        needed = self.gpus_each * np.ceil(self.question.rate / np.maximum(served, 1e-9))
        chosen = np.sort(np.lexsort((ratio, needed))[:PROMISING])
        last = len(self.levels) - 1
        if (ratio <= 1.0).any():
            low, high = -1, int(np.searchsorted(self.levels, (self.gpus_each * on)[ratio <= 1.0].min()))
            chosen = np.union1d(chosen, every[ratio <= 1.0][:PROMISING])
        else:
            high, step = min(int(np.searchsorted(self.levels, needed.min())), last), 1
            low = high - 1
            before = math.inf
            the_most_hold = False
            while (least := (yield from self._least_ratio(chosen, high))) > 1.0:
                if high == last:
                    return last
                # Where it is not the load that is too high, more replicas may not help; shares of late requests are
                # all of them until they do, and so the most replicas are asked.
                more = self.levels[high] >= _MORE * self.levels[low]
                if more and not _gains(before, least) and not the_most_hold:
                    the_most_hold = (yield from self._least_ratio(chosen, last)) <= 1.0
                    self._seems_hopeless = not the_most_hold
                if self._seems_hopeless:
                    return high
                low, high, step, before = high, min(high + step, last), 2 * step, least
        while high - low > 1:
            middle = (low + high) // 2
            if (yield from self._least_ratio(chosen, middle)) <= 1.0:
                high = middle
            else:
                low = middle
        return high

    def _least_ratio(self, numbers: NDArray[np.int64], level: int) -> Generator[list[Wanted], None, float]:
        """Return the least of largest ratios, in a single replication; infinity where no replica is there."""
        replicas = self.replicas_on(self.levels[level])
        there = numbers[replicas[numbers] > 0]
        if not len(there):
            return math.inf
        yield from self._need(there, replicas, 1)
        return float(self.ratios(there, replicas[there], 1).max(axis=0).min())

    def _most_help(self, races: dict[int, Race]) -> Generator[list[Wanted], None, bool]:
        """Say whether the most GPUs come nearer than the last race, each configuration in as many replications.

        Where a share of the replications has more load than any but many GPUs serve, only those help.
        """
        *_, race = races.values()
        most = self.levels[-1]
        replicas = self.replicas_on(most)
        # Who was the same as another in the race is so on more.
        there = np.setdiff1d(self._left(most, races), race.numbers[race.same != race.numbers])
        seen = np.full(len(replicas), FIRST)
        seen[race.numbers] = race.found.replications
        seen = seen[there]
        wanted = [one for count in np.unique(seen) for one in self._missing(there[seen == count], replicas, int(count))]
        if self._stops(wanted):
            return True
        if wanted:
            self.say(f"more GPUs seem to make no difference: looking at {counted(most, 'GPU')}")
            yield wanted
        _, ratios = self._table(there, most, seen)
        return _gains(race.least, float(np.nanmean(ratios, axis=2).max(axis=0).min()))

    # A race ---------------------------------------------------------------------------------------------------------

    def _race(self, gpus: int, systems: NDArray[np.int64], alpha: float) -> Generator[list[Wanted], None, Race]:
        replicas = self.replicas_on(gpus)[systems]
        while True:
            found, same = yield from self._looks(systems, gpus, alpha)
            if found.best is None:
                return self._raced(gpus, systems, found, same, alpha, "")
            best = int(systems[found.best])
            # Of any system, at any look; of its growth or of its load.
            chance = _OF_QUEUE * alpha / (2 * len(systems) * len(self._planned))
            queue = yield from self._queue(best, int(replicas[found.best]), int(found.replications[found.best]), chance)
            if queue != overload.OVERLOADED:
                return self._raced(gpus, systems, found, same, alpha, queue)
            self.say(f"{self.question.called(best)} keeps its limits for so long, but its queue grows: it fails")
            alike = systems[same == same[found.best]]
            self._overloaded |= {(number, int(replicas[found.best])) for number in alike.tolist()}

    def _raced(
        self, gpus: int, systems: NDArray[np.int64], found: Selection, same: NDArray[np.int64], alpha: float, queue: str
    ) -> Race:
        replicas = self.replicas_on(gpus)[systems]
        grows = np.array([at in self._overloaded for at in zip(systems.tolist(), replicas.tolist(), strict=True)])
        return Race(gpus, systems, replicas, found, systems[same], alpha, queue, grows)

    def _left(self, gpus: int, races: dict[int, Race]) -> NDArray[np.int64]:
        """Return the configurations that are not known to fail on more GPUs, and of which a replica is there."""
        failed = {
            int(number)
            for other, race in races.items()
            for number, state in zip(race.numbers, race.found.states, strict=True)
            if other > gpus and state == FAILED
        }
        there = self.replicas_on(gpus) > 0
        return np.array([k for k in range(len(there)) if there[k] and k not in failed], np.int64)

    def _looks(
        self, systems: NDArray[np.int64], gpus: int, alpha: float
    ) -> Generator[list[Wanted], None, tuple[Selection, NDArray[np.int64]]]:
        """Look at all, then again and again at those that do not fail, until it is known which is best, or none holds.

        Or until the budget ends. Returns beside it whom each system (system,) is the same as: its own place, or that of
        one that was the same in every replication so far. Only that one is simulated further, and stands for both.
        """
        same = np.arange(len(systems))
        yield from self._need(systems, self.replicas_on(gpus), FIRST)
        objective, ratios = self._table(systems, gpus, np.full(len(systems), FIRST))
        of_one = self._of_one(systems, self.replicas_on(gpus)[systems])
        first = self._select(objective, ratios, of_one, (FIRST,), _OF_FIRST * alpha)
        left = np.flatnonzero(first.states != FAILED)
        self._tell(first, gpus, FIRST, len(left))
        if not len(left):
            return first, same
        same[left] = left[_alike(objective[left], ratios[:, left])]
        found: Selection | None = None
        for count in self._planned:
            going = left if found is None else left[found.in_race]
            wanted = self._missing(systems[np.unique(same[going])], self.replicas_on(gpus), count)
            if self._stops(wanted):
                break
            if wanted:
                yield wanted
            seen = np.full(len(left), count) if found is None else np.where(found.in_race, count, found.replications)
            objective, ratios = self._table(systems[same[left]], gpus, seen)
            share = 1.0 - _OF_FIRST - _OF_QUEUE
            found = self._select(objective, ratios, of_one[:, left], self._planned, share * alpha)
            self._tell(found, gpus, count, int((found.states == IN_RACE).sum()))
            if found.is_decided:
                break
            mine = np.flatnonzero(found.in_race)
            same[left[mine]] = left[mine][_alike(objective[mine], ratios[:, mine])]
        if found is None:
            return first._replace(is_decided=False, assurance=0.0), same
        return _together(first, found, left, (_OF_FIRST + _OF_QUEUE) * alpha), same

    def _select(
        self, objective: FloatArray, ratios: FloatArray, of_one: FloatArray, planned: Sequence[int], alpha: float
    ) -> Selection:
        zone = self.question.indifference
        return select(objective, ratios, planned, alpha=alpha, indifference=zone, of_one=of_one)

    def _of_one(self, numbers: NDArray[np.int64], replicas: NDArray[np.int64]) -> FloatArray:
        """Return by how much a request moves the ratio of a replication, (criterion, system)."""
        came = self.values.of("measured", numbers, replicas, FIRST) + self.values.of("missed", numbers, replicas, FIRST)
        requests = np.maximum(came.mean(axis=1), 1.0)
        every = [criterion.of_one(requests) for criterion in self.question.criteria]
        return np.reshape(every, (len(every), len(numbers)))

    def _table(self, numbers: NDArray[np.int64], gpus: int, seen: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        """Return objective (system, replication) and ratios (criterion, system, replication) of those seen (system,).

        NaN stands for replications of those who had left the race.
        """
        most = int(seen.max())
        ratios = np.full((len(self.question.criteria), len(numbers), most), np.nan)
        objective = np.full((len(numbers), most), np.nan)
        for count in np.unique(seen):
            rows = np.flatnonzero(seen == count)
            ratios[:, rows, :count] = self.ratios(numbers[rows], self.replicas_on(gpus)[numbers[rows]], count)
            objective[rows, :count] = self._objective(numbers[rows], gpus, count, ratios[:, rows, :count])
        return objective, ratios

    def ratios(self, numbers: NDArray[np.int64], replicas: NDArray[np.int64], count: int) -> FloatArray:
        """Return each statistic over its limit, (criterion, system, replication); inf where a queue grows."""
        report = self.values.report(numbers, replicas, count)
        every = [criterion.ratios(criterion.values(report)) for criterion in self.question.criteria]
        found: FloatArray = np.reshape(every, (len(every), len(numbers), count))
        for row, at in enumerate(zip(numbers.tolist(), replicas.tolist(), strict=True)):
            if at in self._overloaded:
                found[:, row] = np.inf
        return found

    def _objective(self, numbers: NDArray[np.int64], gpus: int, count: int, ratios: FloatArray) -> FloatArray:
        """Return what is to be least, (system, replication)."""
        name = self.question.objective
        if name is None:
            largest: FloatArray = ratios.max(axis=0)
            return largest
        values = self.values.of(name, numbers, self.replicas_on(gpus)[numbers], count)
        return -values if self.question.wants_more else values

    def _queue(self, number: int, replicas: int, count: int, chance: float) -> Generator[list[Wanted], None, str]:
        """Say whether the queue of a configuration stays within bounds, by more replications where it cannot be told.

        Where none are left, by what it serves that always has work. `chance` is that of an error, of each interval at
        each look.
        """
        while True:
            found = self.judged(number, replicas, count, confidence=1.0 - chance)
            more = [look for look in self._planned if look > count]
            if found != overload.CANNOT_TELL:
                return found
            if not more:
                over = self._most_served(number, replicas) <= self.question.rate
                return overload.OVERLOADED if over else overload.CANNOT_TELL
            wanted = self.values.missing([number], replicas, more[0])
            if self._over_budget(wanted):
                self._stopped = True
                return found
            count = more[0]
            if wanted:
                yield wanted

    def judged(self, number: int, replicas: int, count: int, confidence: float = 0.95) -> str:
        """Say what the queue of a configuration does in its first replications; see `overload.judge`."""
        report = self.values.report(np.array([number]), np.array([replicas]), count)
        (point,) = self.question.on(replicas, [number])
        tables = {name: getattr(point, name).model_dump(mode="json") for name in ("workload", "policy", "server")}
        variables: dict[str, Any] = {name: (REPLICATION, values) for name, values in report.items() if values.ndim == 1}
        if not np.isnan(report[ARRIVED]).any():
            variables["window_arrivals"] = ((REPLICATION, "window"), report[ARRIVED])
        cube = xr.Dataset(variables, attrs={"specification": json.dumps(tables)})
        return str(overload.judge(cube, confidence=confidence).item())

    # Simulations ----------------------------------------------------------------------------------------------------

    def _need(
        self, numbers: Iterable[int], replicas: NDArray[np.int64], count: int
    ) -> Generator[list[Wanted], None, None]:
        """Ask for what is not there of first replications of configurations, on `replicas` (configuration,) each."""
        wanted = self._missing(numbers, replicas, count)
        if wanted:
            yield wanted

    def _missing(self, numbers: Iterable[int], replicas: NDArray[np.int64], count: int) -> list[Wanted]:
        """Return what is not there of that."""
        wanted: list[Wanted] = []
        chosen = [int(number) for number in numbers]
        for each in sorted({int(replicas[number]) for number in chosen}):
            mine = [number for number in chosen if replicas[number] == each]
            wanted += self.values.missing(mine, each, count)
        return wanted

    def _stops(self, wanted: Sequence[Wanted]) -> bool:
        """Say whether the budget does not hold another look."""
        self._stopped = self._stopped or self._over_budget(wanted)
        return self._stopped

    def _tell(self, found: Selection, gpus: int, count: int, left: int) -> None:
        self.rounds.append({"gpus": gpus, "replications": count, "configurations": len(found.states), "left": left})
        of = f"{int((found.states == FAILED).sum())} of {counted(len(found.states), 'configuration')}"
        self.say(f"{counted(gpus, 'GPU')}, {count} replications: {of} failed, {left} {IN_RACE}")


def _gains(before: float, least: float) -> bool:
    """Say whether the least of the largest ratios came nearer to what is asked."""
    return before - least >= _GAIN * abs(least - 1.0)


def _helps(races: dict[int, Race]) -> bool:
    """Say whether the last of races on ever more GPUs came nearer than that on so many times fewer, if there is one."""
    *others, most = races
    before = [gpus for gpus in others if most >= _MORE * gpus]
    least = races[most].least
    # Where queues grow more GPUs always help.
    return not before or math.isinf(least) or _gains(races[before[-1]].least, least)


def _alike(objective: FloatArray, ratios: FloatArray) -> NDArray[np.int64]:
    """Return for every system (system,) the first that has the same values in all replications."""
    first: dict[bytes, int] = {}
    seen = [values.tobytes() + ratios[:, place].tobytes() for place, values in enumerate(objective)]
    return np.array([first.setdefault(one, place) for place, one in enumerate(seen)], np.int64)


def _together(first: Selection, found: Selection, left: NDArray[np.int64], spent: float) -> Selection:
    """Return what is known of all systems: of those that were left after the first look by what was `found` later."""

    def merged(before: NDArray[Any], after: NDArray[Any]) -> NDArray[Any]:
        result = np.array(before)
        result[..., left] = after
        return result

    states = np.array(first.states, dtype=object)
    states[left] = found.states
    verdicts = np.array(first.verdicts, dtype=object)
    verdicts[:, left] = found.verdicts
    return found._replace(
        replications=merged(first.replications, found.replications),
        verdicts=verdicts.astype(str),
        ratios=Interval(*(merged(before, after) for before, after in zip(first.ratios, found.ratios, strict=True))),
        objective=merged(first.objective, found.objective),
        states=states.astype(str),
        best=None if found.best is None else int(left[found.best]),
        assurance=max(found.assurance - spent, 0.0),
        runner_up=None if found.runner_up is None else int(left[found.runner_up]),
    )
