"""Search the capacity: the largest arrival rate at which criteria on latency hold, replication by replication.

Every rate meets the same requests and the same unit arrivals, stretched (common random numbers), so that a replication
has one capacity of its own: policies are compared in pairs, and the mean has an interval like any other variable.
"""

import json
import math
import os
import re
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import count, groupby, islice
from pathlib import Path
from threading import Event, Lock
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from batchcube.engine import Shape, check, jobs_at_once, simulate_many
from batchcube.engine.batches.report import QUANTILES
from batchcube.engine.simulation import JOBS_AT_ONCE, Job
from batchcube.errors import InputError
from batchcube.results.costs import NOT_MEASURED
from batchcube.results.cube import build_cube
from batchcube.results.overload import GROWTH
from batchcube.results.provenance import MadeBy, batchcube_version, provenance
from batchcube.results.text import all_of, did_you_mean, one_of
from batchcube.results.variables import REGISTRY, RELATIVE_ERROR

from ..files import require_output
from ..progress import Progress, Silent
from ..spec import service as coefficients
from ..spec.document import Sweep
from ..spec.grid import where
from ..spec.settings import CoefficientsLaw, Point, draws_service
from ..stopping import SECONDS_BETWEEN_LOOKS, Stop, stopping
from ..workloads.arrivals import Deterministic, Gamma, Poisson
from ..workloads.settings import FloatArray
from .draws import Draws
from .execution import (
    ADVICE,
    SECONDS_BETWEEN_SAVES,
    Stopped,
    coordinate_of,
    in_percent,
    require_backend,
    same_sweep,
)
from .plan import Plan, PointPlan, calibrated, deal, make_plan, unmeasured_costs
from .store import Part, Store

TOLERANCE = 0.005
# The growth of the backlog is held against `GROWTH`: where nothing but overload ends the search, capacities come out
# too large by about that much. The flag `overloaded` would not do: with a few thousand requests it forgives a growth of
# 10 % and more, as it must never call a steady run overloaded.
MOST_DOUBLINGS = 20
PROBES = (0.8, 0.95, 1.05, 1.25)
"""Multiples of the answer at which it is asked again: bisection alone never meets a second crossing."""
RATE_PATHS = ("workload.arrivals.rate_per_s", "workload.trace.rate_scale")
SLOWEST, FASTEST = 1e-9, 1e9
"""Arrival rates that a specification may set, requests per second."""


# Criteria -----------------------------------------------------------------------------------------------------------


class Criterion(NamedTuple):
    """A limit that a statistic of a replication must not exceed."""

    variable: str
    quantile: float | None
    limit: float
    """In the variable's unit: seconds, or a fraction."""

    def values(self, report: Mapping[str, NDArray[Any]]) -> FloatArray:
        """Return the statistic (job,) of a report with leading axis job; InputError where there is none.

        A request that is never served is late for ever: a quantile among such is infinite, and so are mean and maximum
        where nobody is served.
        """
        if self.variable not in report:
            raise InputError(f"{self.variable}: is not measured by this policy; choose another criterion")
        values = report[self.variable]
        found = np.asarray(values if self.quantile is None else values[:, QUANTILES.index(self.quantile)], np.float64)
        if self.variable not in _FRACTIONS:
            found = np.where(report["measured"] == 0, np.inf, found)  # nobody past the warm-up was served
        if np.isnan(found).any():
            raise InputError(f"{self.variable}: has no value where nothing was measured; choose another criterion")
        if self.quantile is not None:
            among_all = np.ceil(self.quantile * (report["measured"] + report["missed"]))
            found = np.where(among_all > report["measured"], np.inf, found)
        return found

    @property
    def unit(self) -> str:
        """Unit of the limit and the statistic."""
        return "1" if self.variable in _FRACTIONS else "s"


_TIMES = ("latency", "wait", "ttft", "tpot", "tbt")
_STATISTICS = {
    "mean": ("mean_s", None),
    "max": ("max_s", None),
    **{f"p{round(100 * q)}": ("quantile_s", q) for q in QUANTILES},
}
_PER_SECOND = {"ms": 1000.0, "s": 1.0}
_FRACTIONS = {
    "request_sla_violation_fraction": "request_sla_s",
    "token_sla_violation_fraction": "token_sla_s",
}
_OF_TOKENS = ("ttft_", "tpot_", "tbt_", "token_sla_")


def parse_criterion(text: str) -> Criterion:
    """Read a criterion, ``tbt_mean_ms=50`` or ``request_sla_violation_fraction=0.01``; raises InputError."""
    name, _, spelled = (part.strip() for part in text.partition("="))
    parts = re.fullmatch(r"([a-z]+)_([a-z0-9]+)_([a-z]+)", name)
    if name not in _FRACTIONS and not (
        parts and parts[1] in _TIMES and parts[2] in _STATISTICS and parts[3] in _PER_SECOND
    ):
        known = [f"{time}_{statistic}_{unit}" for time in _TIMES for statistic in _STATISTICS for unit in _PER_SECOND]
        near = did_you_mean(name, [*known, *_FRACTIONS])
        raise InputError(
            f"--sla {text}: must be NAME_STAT_UNIT=LIMIT with NAME {one_of(_TIMES)}, STAT {one_of(_STATISTICS)}, "
            f"UNIT {one_of(_PER_SECOND)}; or one of {', '.join(f'{name}=LIMIT' for name in _FRACTIONS)}"
            f"{near and f'; {near}'}"
        )
    try:
        limit = float(spelled)
    except ValueError:
        limit = math.nan
    if parts is None or name in _FRACTIONS:
        if not 0.0 <= limit < 1.0:
            raise InputError(f"--sla {text}: the limit must be a number >= 0 and < 1")
        return Criterion(name, None, limit)
    if not 0.0 < limit < math.inf:
        raise InputError(f"--sla {text}: the limit must be a number > 0")
    ending, quantile = _STATISTICS[parts[2]]
    return Criterion(f"{parts[1]}_{ending}", quantile, limit / _PER_SECOND[parts[3]])


# One search ---------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """What a search came to."""

    held: float
    """Largest rate that was seen to hold below one that fails, requests per second; NaN without any."""
    failed: float
    """Smallest rate above that one that was seen to fail; NaN without any."""
    unbracketed: int
    """0; -1 where the lowest rate already fails, 1 where the highest still holds."""
    edge: float
    """Lowest or highest rate looked at, where it was the answer's undoing; NaN otherwise."""

    @property
    def rate(self) -> float:
        """The capacity: the middle of what the crossing was narrowed down to."""
        return 0.5 * (self.held + self.failed)

    @property
    def relative_error(self) -> float:
        """How far the capacity may be from the crossing, as a share of it."""
        return (self.failed - self.held) / (self.failed + self.held)


Search = Generator[float, bool | None, Found]
"""Yields rates and is sent whether the criteria hold there; None for a rate too low for the engine's clock."""


def bisect(low: float, high: float, tolerance: float) -> Search:
    """Search between two rates that are the only ones allowed."""
    if not (yield low):
        return Found(math.nan, math.nan, -1, low)
    if (yield high):
        return Found(math.nan, math.nan, 1, high)
    return (yield from _narrow(low, high, tolerance, (low, high)))


def bracket_and_bisect(start: float, tolerance: float) -> Search:
    """Search from a rate that is likely near, by doubling or halving it until the answer lies between two."""
    lowest = min(start, max(start / 2**MOST_DOUBLINGS, SLOWEST))
    highest = max(start, min(start * 2**MOST_DOUBLINGS, FASTEST))
    if (yield start):
        low, high = start, min(2.0 * start, highest)
        while (yield high):
            if high >= highest:
                return Found(math.nan, math.nan, 1, high)
            low, high = high, min(2.0 * high, highest)
    else:
        low, high = max(0.5 * start, lowest), start
        while not (holds := (yield low)):
            if holds is None or low <= lowest:
                return Found(math.nan, math.nan, -1, high if holds is None else low)
            low, high = max(0.5 * low, lowest), low
    return (yield from _narrow(low, high, tolerance, (lowest, highest)))


def _narrow(low: float, high: float, tolerance: float, allowed: tuple[float, float]) -> Search:
    """Halve the logarithm of high / low, and look around the answer for another crossing."""
    while high > low * (1.0 + tolerance):
        middle = math.sqrt(low * high)
        if not low < middle < high:
            break  # neighbouring floats
        if (yield middle):
            low = middle
        else:
            high = middle
    for factor in PROBES:
        if allowed[0] <= low * factor <= allowed[1]:
            yield low * factor
    return Found(low, high, 0, math.nan)


def is_monotone(visited: Mapping[float, bool]) -> bool:
    """Say whether the criteria hold up to some rate and fail above it, at the rates that were looked at."""
    holds = [visited[rate] for rate in sorted(visited)]
    return holds == sorted(holds, reverse=True)


# What is searched ---------------------------------------------------------------------------------------------------


class _Scalable(NamedTuple):
    """A point of the grid at any arrival rate."""

    plan: PointPlan
    natural: float
    """Mean rate of a recorded trace at rate_scale = 1, requests per second; 1 where arrivals are drawn."""
    start: float
    """Rate that the specification sets, requests per second."""

    def at(self, rate: float, arrivals_key: int) -> PointPlan:
        """Return the point at a rate; the key is that of all points with these arrivals at this rate."""
        workload = self.plan.point.workload
        if workload.trace is not None:
            changed: dict[str, Any] = {"trace": workload.trace.model_copy(update={"rate_scale": rate / self.natural})}
        else:
            assert workload.arrivals is not None
            changed = {"arrivals": workload.arrivals.model_copy(update={"rate_per_s": rate})}
        point = self.plan.point._replace(workload=workload.model_copy(update=changed))
        return self.plan._replace(point=point, keys=self.plan.keys._replace(arrivals=arrivals_key))


def _scalable(plan: PointPlan) -> _Scalable:
    workload = plan.point.workload
    if plan.recorded is None:
        assert isinstance(workload.arrivals, Poisson | Deterministic | Gamma)  # `_problem` refuses the others
        return _Scalable(plan, 1.0, workload.arrivals.rate_per_s)
    arrival = plan.recorded.arrival_s
    span = float(arrival[-1] - arrival[0])
    assert workload.trace is not None
    if not span > 0:
        raise InputError(f"{workload.trace.path}: its requests all arrive at once: there is no rate to scale")
    natural = (len(arrival) - 1) / span
    return _Scalable(plan, natural, natural * workload.trace.rate_scale)


def _require_searchable(sweep: Sweep, criteria: Sequence[Criterion]) -> None:
    """Refuse a sweep whose rate cannot be searched, or in which a criterion is never measured."""
    for axis in sweep.grid.axes:
        for path in RATE_PATHS:
            if path in axis.paths:
                raise InputError(
                    f"{sweep.source}: axes.{axis.name}: sets {path}, which the search for the capacity sets itself; "
                    "remove it from the axis"
                )
    for position, point in zip(np.ndindex(sweep.grid.shape), sweep.grid.points, strict=True):
        problem = _problem(point, criteria)
        if problem:
            at = f" (at {where(sweep.grid.axes, position)})" if sweep.grid.axes else ""
            raise InputError(f"{sweep.source}: {problem}{at}")


def _problem(point: Point, criteria: Sequence[Criterion]) -> str | None:
    """Say why a point has no capacity that could be searched, None where it has."""
    arrivals = point.workload.arrivals
    if arrivals is not None and not arrivals.scales_with_rate:
        return (
            f'workload.arrivals.process = "{arrivals.process}": its arrivals do not stretch with one rate, which is '
            "what is searched; use poisson, deterministic or gamma, or a recorded trace"
        )
    for variable, _, _ in criteria:
        if variable in _FRACTIONS and getattr(point.report, _FRACTIONS[variable]) is None:
            return f"{variable}: needs report.{_FRACTIONS[variable]}, beyond which it counts as a violation"
        if variable.startswith(_OF_TOKENS) and point.workload.in_seconds:
            return f'{variable}: needs tokens, and workload.lengths.unit is "seconds"'
        if variable.startswith("tpot_") and not point.simulation.STEPWISE:
            return f'{variable}: is measured with policy.mode = "continuous" only; use tbt'
        unknown = [name for name in unmeasured_costs(point) if name in REGISTRY[variable].rests_on]
        if unknown:
            law = point.server.service
            of = f" by coefficients {law.coefficients}" if isinstance(law, CoefficientsLaw) else " in server.service"
            advice = "take other coefficients" if isinstance(law, CoefficientsLaw) else "give it (0: it costs nothing)"
            return f"{variable}: rests on {all_of(unknown)}, {NOT_MEASURED}{of}; {advice}, or choose another criterion"
    return None


def _require_range(low: float | None, high: float | None, tolerance: float, growth: float) -> None:
    if (low is None) != (high is None):
        raise InputError("--low and --high: give both, or neither to start from the rate of the specification")
    if low is not None and high is not None and not SLOWEST <= low < high <= FASTEST:
        raise InputError(f"--low {low:g} --high {high:g}: must be rates from {SLOWEST:g} to {FASTEST:g}, low < high")
    if not 0.0 <= growth <= 1.0:
        raise InputError(f"--growth {growth:g}: must be from 0 to 1, a share of the arrivals")
    if not 0.0 < tolerance < 1.0:
        raise InputError(f"--tolerance {tolerance:g}: must be > 0 and < 1")


def _only_totals(sweep: Sweep) -> Sweep:
    """Return a sweep that counts no time windows, whose width would depend on the rate; nothing else looks at them."""
    points = [
        point._replace(report=point.report.model_copy(update={"windows": 1, "histograms": False}))
        for point in sweep.grid.points
    ]
    return replace(sweep, grid=sweep.grid._replace(points=tuple(points)))


# Running ------------------------------------------------------------------------------------------------------------


class _Settings(NamedTuple):
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


class _Answer(NamedTuple):
    """What became of one point in one replication."""

    found: Found
    statistic: float
    """Value of the first criterion at the rate that held; NaN without one."""
    monotone: bool
    lowest: float
    highest: float
    """Of the rates that were looked at."""
    missed: float
    """Largest share of the requests past the warm-up that was never served at one of them."""


class _One:
    """A search under way, of one point in one replication."""

    def __init__(self, draws: Draws, point: _Scalable, search: Search) -> None:
        self.draws, self.point, self.search = draws, point, search
        self.rate = next(search)
        self.visited: dict[float, bool] = {}
        self.statistics: dict[float, float] = {}
        self.missed = 0.0
        self.answer: _Answer | None = None

    def tell(self, holds: bool | None, statistic: float = math.nan, missed: float = 0.0) -> None:
        """Go on to the next rate, or to the answer."""
        self.missed = max(self.missed, missed)
        if holds is not None:
            self.visited[self.rate], self.statistics[self.rate] = holds, statistic
        try:
            self.rate = self.search.send(holds)
        except StopIteration as stop:
            found: Found = stop.value
            value = self.statistics[found.held] if found.unbracketed == 0 else math.nan
            rates = min(self.visited), max(self.visited)
            self.answer = _Answer(found, value, is_monotone(self.visited), *rates, self.missed)


class _Task(NamedTuple):
    """What a thread does at once: some points of some replications, all in step."""

    draws: list[Draws]
    points: Sequence[int]


class _Run:
    """Deals replications and blocks of points out to threads and collects their answers."""

    def __init__(
        self, plan: Plan, settings: _Settings, store: Store | None, stop: Stop, progress: Progress, backend: str
    ) -> None:
        self.plan, self.settings, self.progress, self.backend = plan, settings, progress, backend
        self.store, self.stop = store, stop
        self.points = [_scalable(point) for point in plan.points]
        self.on_device = backend == "jax"
        self.jobs_at_once = JOBS_AT_ONCE
        if self.on_device:
            job = Draws(plan.sweep.seed, 0).job(max(plan.points, key=lambda point: point.requests))
            self.jobs_at_once = jobs_at_once(job, self._shape(plan.points), backend)
        self.answers: dict[tuple[int, int], _Answer] = {}
        """By point and replication."""
        self._unsaved: list[tuple[int, int]] = []
        self._stop = Event()
        self._lock = Lock()
        self._simulated = 0
        self._fresh_keys = count(-1, -1)  # the planner's own are >= 0

    def take(self, parts: Iterable[Part]) -> None:
        """Add the answers of searches that were finished before."""
        for part in parts:
            answers = _answers_of(part.report)
            self.answers.update({(k, part.replication): one for k, one in zip(part.points, answers, strict=True)})

    def work(self, workers: int) -> bool:
        """Search every point in every replication that has no answer, and say whether there was any to search.

        What a stop finds finished is saved.
        """
        sweep, points = self.plan.sweep, range(len(self.points))
        left = {r: [k for k in points if (k, r) not in self.answers] for r in range(sweep.replications)}
        left = {r: mine for r, mine in left.items() if mine}
        requests = sum(self.points[k].plan.requests for mine in left.values() for k in mine)
        self._tell_kept()
        self.progress.start(len(points), len(left), self.settings.expected_rates * requests)
        # Few replications: several threads share one. A device takes as many as it holds.
        blocks = 1 if self.on_device else -(-4 * workers // max(1, len(left)))
        together = max(1, self.jobs_at_once // len(points)) if self.on_device else 1
        threads = min(2, workers) if self.on_device else workers
        tasks = self._tasks(left, blocks, together)
        undone = {r: len(mine) for r, mine in left.items()}
        running: dict[Future[None], _Task] = {}
        pool = ThreadPoolExecutor(threads, thread_name_prefix="batchcube")
        saved = time.monotonic()
        with self.stop.held():
            try:
                while True:
                    self.stop.check()
                    while len(running) < 2 * threads and (task := next(tasks, None)) is not None:
                        running[pool.submit(self._search, task)] = task
                    if not running:
                        break
                    done, _ = wait(running, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
                    for future in done:
                        task = running.pop(future)
                        future.result()
                        for draws in task.draws:
                            undone[draws.replication] -= len(task.points)
                        complete = sum(undone[draws.replication] == 0 for draws in task.draws)
                        if complete:
                            self.progress.finish_replications(complete)
                    self._tell()
                    if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                        self._save()
                        saved = time.monotonic()
                # The cube is yet to be built and written, and may find no room.
                self._save()
            except BaseException:
                self._stop.set()
                self._keep()
                pool.shutdown(wait=False, cancel_futures=True)
                self.stop.wait_for(list(running))
                self._keep()
                raise
            finally:
                pool.shutdown(wait=not self.stop.abandoned)
        return bool(left)

    def _tasks(self, left: Mapping[int, Sequence[int]], blocks: int, together: int) -> Iterator[_Task]:
        """Yield tasks of what is left: replications that lack the same points go together."""
        for points, group in groupby(left, key=lambda r: left[r]):
            while numbers := list(islice(group, together)):
                draws = [Draws(self.plan.sweep.seed, number) for number in numbers]
                for block in deal(len(points), blocks):
                    yield _Task(draws, points[block.start : block.stop])

    def _save(self) -> None:
        if self.store is None:
            return
        with self._lock:
            unsaved, self._unsaved = self._unsaved, []
            answers = {at: self.answers[at] for at in unsaved}
        try:
            self.store.save(_parts_of(answers))
        except BaseException:
            with self._lock:
                self._unsaved += unsaved
            raise
        self._tell_kept()

    def _tell_kept(self) -> None:
        if self.store is not None:
            self.stop.kept = self.store.tell(len(self.points), self.plan.sweep.replications)

    def _keep(self) -> None:
        """Save on the way out: what cannot be saved is told, and does not hide what led here."""
        try:
            self._save()
        except OSError as error:
            self._tell_kept()
            self.stop.kept += f" The rest of what was finished could not be written: {error.strerror}."

    def _shape(self, plans: Sequence[PointPlan]) -> Shape:
        # Devices compile for a shape, so that all calls ask for one.
        largest = max(plan.setup.largest_batch for plan in (self.plan.points if self.on_device else plans))
        return Shape(self.plan.bins, largest, 1)

    def _search(self, task: _Task) -> None:
        """Take all searches of a task to their ends, in step: one rate each at a time; runs in a thread of the pool."""
        searches = {
            (k, draws.replication): _One(draws, self.points[k], self.settings.begin(self.points[k].start))
            for draws in task.draws
            for k in task.points
        }
        quota = self.settings.expected_rates * sum(one.point.plan.requests for one in searches.values())
        waiting = list(searches.values())
        together = min(self.jobs_at_once, len(waiting))
        while waiting:
            for start in range(0, len(waiting), together):
                if self._stop.is_set():
                    raise Stopped
                quota -= self._look(waiting[start : start + together], together, quota)
            waiting = [one for one in waiting if one.answer is None]
            answered = {at: one.answer for at, one in searches.items() if one.answer is not None}
            searches = {at: one for at, one in searches.items() if at not in answered}
            with self._lock:
                self.answers |= answered
                self._unsaved += answered
        with self._lock:
            self._simulated += quota

    def _look(self, searches: Sequence[_One], together: int, quota: int) -> int:
        """Simulate the next rate of at most `together` searches; return how much of the progress left that was."""
        drawn: list[tuple[_One, PointPlan, Job]] = []
        keys: dict[tuple[int, float], int] = {}
        with np.errstate(all="ignore"):
            for one in searches:
                # Points that share arrivals share them at a common rate.
                key = keys.setdefault((one.point.plan.keys.unit_arrivals, one.rate), next(self._fresh_keys))
                plan = one.point.at(one.rate, key)
                job = self._draw(one, plan)
                if job is None:
                    one.tell(None)
                else:
                    drawn.append((one, plan, job))
            if not drawn:
                return 0
            jobs = [job for _, _, job in drawn]
            if self.on_device:
                # Programs are compiled for a number of jobs, and searches end one after the other.
                jobs += [jobs[-1]] * (together - len(jobs))
            report = simulate_many(jobs, self._shape([plan for _, plan, _ in drawn]), self.backend)
        report = {name: values[: len(drawn)] for name, values in report.items()}
        holds, statistic = self._judge(report)
        missed = report["missed"] / (report["measured"] + report["missed"])
        answers = zip(drawn, holds.tolist(), statistic.tolist(), missed.tolist(), strict=True)
        for (one, _, _), good, value, share in answers:
            one.tell(good, value, share)
        counted = min(sum(plan.requests for _, plan, _ in drawn), quota)
        with self._lock:
            self._simulated += counted
        return counted

    def _draw(self, one: _One, plan: PointPlan) -> Job | None:
        """Return the job of a point; None where the engine's clock would end before the last of its arrivals."""
        try:
            job = one.draws.job(plan)
            check(job)
        except InputError:
            # Only the search's own halving leads there; anything else is the user's to know.
            if self.settings.low is None and one.visited and one.rate < min(one.visited):
                return None
            raise
        return job

    def _judge(self, report: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.bool_], FloatArray]:
        """Return whether all criteria hold (job,), and the statistic of the first of them."""
        values = [criterion.values(report) for criterion in self.settings.criteria]
        holds = np.logical_and.reduce(
            [mine <= criterion.limit for mine, criterion in zip(values, self.settings.criteria, strict=True)]
        )
        # Nothing grows where there are too few requests to tell.
        holds &= ~(report["backlog_growth_fraction"] > self.settings.growth)
        return holds, values[0]

    def _tell(self) -> None:
        with self._lock:
            simulated, self._simulated = self._simulated, 0
        if simulated:
            self.progress.advance(simulated)


def _parts_of(answers: Mapping[tuple[int, int], _Answer]) -> list[Part]:
    """Return answers, by point and replication, as parts to be kept."""
    parts = []
    for number, group in groupby(sorted(answers, key=lambda at: at[::-1]), key=lambda at: at[1]):
        places = list(group)
        mine = [answers[at] for at in places]
        report = {name: np.array([getattr(one.found, name) for one in mine]) for name in Found._fields}
        report |= {name: np.array([getattr(one, name) for one in mine]) for name in _Answer._fields if name != "found"}
        parts.append(Part(number, tuple(k for k, _ in places), report))
    return parts


def _answers_of(report: Mapping[str, NDArray[Any]]) -> list[_Answer]:
    """Return what `_parts_of` made of answers as they were."""
    found = [Found(*values) for values in zip(*(report[name].tolist() for name in Found._fields), strict=True)]
    rest = zip(*(report[name].tolist() for name in _Answer._fields if name != "found"), strict=True)
    return [_Answer(one, *values) for one, values in zip(found, rest, strict=True)]


def find_capacity(
    sweep: Sweep,
    criteria: Iterable[Criterion | str],
    low: float | None = None,
    high: float | None = None,
    *,
    tolerance: float = TOLERANCE,
    growth: float = GROWTH,
    output: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    backend: str = "numba",
) -> xr.Dataset:
    """Search the capacity of every point and replication of a sweep and return the cube.

    The capacity is the largest arrival rate, in requests per second, at which every criterion holds (a `Criterion`, or
    text as for `parse_criterion`) and `backlog_growth_fraction` is at most `growth`, 1 for any. It is the middle
    between a rate that holds (`capacity_held_requests_per_s`) and one that fails, apart by the relative `tolerance` at
    most, between `low` and `high` or, without them, from the rate of the specification by at most 20 doublings or
    halvings; its attribute `relative_error` widens intervals. For a recorded trace it is the scale times the mean rate
    of the trace. The cube does not depend on the number of `workers`, threads, nor on the `backend`. Without an answer
    the capacity is NaN, and `capacity_unbracketed` and the notes say why.
    With `output` the cube is also written there, a search that was stopped continues where it was, and a cube of the
    same search with as many replications is returned as it is, unless `overwrite` begins afresh.
    Raises InputError for a sweep with an axis over the rate or arrivals that do not scale with one, and for criteria
    that it does not measure.
    """
    wanted = tuple(parse_criterion(text) if isinstance(text, str) else text for text in criteria)
    if not wanted:
        raise InputError("--sla: at least one criterion is needed, for instance tbt_mean_ms=50")
    _require_range(low, high, tolerance, growth)
    _require_searchable(sweep, wanted)
    made_by = require_backend(backend, sweep.grid.points[0].simulation)
    settings = _Settings(wanted, low, high, tolerance, growth)
    with stopping() as stop, ExitStack() as opened:
        target = None if output is None else require_output(Path(output))
        store = None if target is None else opened.enter_context(Store(target))
        if target is not None and store is not None and target.exists() and not overwrite:
            old = _same_search(target, sweep, settings)
            if old.sizes["replication"] >= sweep.replications:
                with suppress(InputError):  # parts of another search are none of this one's business
                    identity = _identity(sweep, settings, str(old.attrs.get("input_sha256", "")))
                    store.open(identity, made_by, range(old.sizes["replication"], old.sizes["replication"]))
                return old
        plan = make_plan(_only_totals(sweep))
        run = _Run(plan, settings, store, stop, progress or Silent(), backend)
        if store is not None:
            identity = _identity(sweep, settings, plan.input_sha256)
            run.take(store.open(identity, made_by, range(sweep.replications), overwrite=overwrite))
        searched = run.work(workers or os.cpu_count() or 1)
        makers = [*(store.makers if store is not None else ()), *([made_by] if searched else ())]
        cube = _cube(sweep, run, makers)
        if store is not None:
            store.put(cube)
            with stop.held():
                stop.kept = f"{target} is complete."
                store.forget(range(sweep.replications))
        return cube


def _identity(sweep: Sweep, settings: _Settings, input_sha256: str) -> dict[str, str]:
    """Return what makes the answers of a search: with all of it the same, they are the same."""
    return {
        "search": json.dumps(settings),
        "sweep": sweep.identity(),
        "version": batchcube_version(),
        "input_sha256": input_sha256,
    }


def _same_search(target: Path, sweep: Sweep, settings: _Settings) -> xr.Dataset:
    """Return the cube that is there already; raises InputError unless the same search made it."""
    cube = same_sweep(target, sweep, capacities=True)
    if asked_of(cube) != {**settings._asdict(), "criteria": list(settings.criteria)}:
        raise InputError(f"{target}: holds another search; {ADVICE}")
    return cube


def asked_of(cube: xr.Dataset) -> dict[str, Any]:
    """Return the arguments of `find_capacity` that made a cube, beside its sweep."""
    about = cube.attrs
    given = bool(about["capacity_range_given"])
    return {
        "criteria": [Criterion(**criterion) for criterion in json.loads(str(about["capacity_criteria"]))],
        "low": float(about["capacity_low_per_s"]) if given else None,
        "high": float(about["capacity_high_per_s"]) if given else None,
        "tolerance": float(about["capacity_tolerance"]),
        "growth": float(about["capacity_growth"]),
    }


# The cube -----------------------------------------------------------------------------------------------------------


def _cube(sweep: Sweep, run: _Run, made_by: Sequence[MadeBy]) -> xr.Dataset:
    plan, settings = run.plan, run.settings
    shape, replications = sweep.grid.shape, sweep.replications
    table = [[run.answers[k, r] for r in range(replications)] for k in range(len(plan.points))]
    arrays = {
        "capacity_requests_per_s": np.array([[answer.found.rate for answer in row] for row in table]),
        "capacity_held_requests_per_s": np.array([[answer.found.held for answer in row] for row in table]),
        "capacity_unbracketed": np.array([[answer.found.unbracketed for answer in row] for row in table], np.int64),
        "capacity_statistic": np.array([[answer.statistic for answer in row] for row in table]),
    }
    flags = plan.unmeasured_costs.reshape(shape)
    unanswered = _unanswered(sweep, table)
    notes = [*plan.notes, *unanswered, *_wavering(sweep, table)]
    missed = max(answer.missed for row in table for answer in row)
    if missed:
        notes.append(
            f"up to {in_percent(missed)} of a replication's requests were never served (turned away, or left in a "
            "bin): shares count them as missed, quantiles as late for ever; means and maxima are of the others alone"
        )
    attrs = provenance(
        title=sweep.title,
        specification=sweep.text(),
        defaults=sweep.defaults(),
        seed=sweep.seed,
        replications=replications,
        made_by=made_by,
        overload_test=plan.simulation.OVERLOAD_TEST,
        input_sha256=plan.input_sha256,
        trace_rows_dropped=plan.rows_dropped,
        notes=notes,
    )
    laws = calibrated(plan.points)
    kept = {"service_coefficients": coefficients.record(laws, steps=plan.simulation.STEPWISE)} if laws else {}
    visited = [answer for row in table for answer in row]
    in_range = settings.low is not None and settings.high is not None
    about: dict[str, str | int | float] = {
        "capacity_criteria": json.dumps([criterion._asdict() for criterion in settings.criteria]),
        "capacity_low_per_s": min(a.lowest for a in visited) if settings.low is None else settings.low,
        "capacity_high_per_s": max(a.highest for a in visited) if settings.high is None else settings.high,
        "capacity_tolerance": settings.tolerance,
        "capacity_growth": settings.growth,
        # Otherwise both ends are the rates that the search came to by itself.
        "capacity_range_given": int(in_range),
        "capacity_notes_unanswered": "\n".join(unanswered),
    }
    cube = build_cube(
        [coordinate_of(axis, sweep) for axis in sweep.grid.axes],
        {"unmeasured_costs": flags} | {name: array.reshape((*shape, replications)) for name, array in arrays.items()},
        replications=replications,
        attrs={**attrs, "description": sweep.description, **kept, **about},
        coefficients_drawn=any(draws_service(point.point) for point in plan.points),
    )
    # All searches narrow down alike, so that their answers may be off alike: intervals are widened by it.
    errors = [answer.found.relative_error for row in table for answer in row if not answer.found.unbracketed]
    cube["capacity_requests_per_s"].attrs[RELATIVE_ERROR] = max(errors, default=0.0)
    cube["capacity_statistic"].attrs["units"] = settings.criteria[0].unit
    cube["capacity_unbracketed"].attrs |= {
        "flag_values": np.array([-1, 0, 1], np.int64),
        "flag_meanings": "misses_at_the_lowest_rate found meets_at_the_highest_rate",
    }
    return cube


def _unanswered(sweep: Sweep, table: Sequence[Sequence[_Answer]]) -> list[str]:
    """Say which replications of which points have no answer, and why."""
    places: dict[str, list[int]] = {}
    for k, row in enumerate(table):
        for flag, what in (
            (-1, "miss the criteria already at {}/s, the lowest rate looked at"),
            (1, "still meet the criteria at {}/s, the highest rate looked at"),
        ):
            edges = [answer.found.edge for answer in row if answer.found.unbracketed == flag]
            if edges:
                rates = " to ".join(dict.fromkeys(f"{edge:.6g}" for edge in (min(edges), max(edges))))
                places.setdefault(f"{len(edges)} of {len(row)} replications {what.format(rates)}", []).append(k)
    notes = _with_places(sweep, places)
    flags = {answer.found.unbracketed for row in table for answer in row}
    if 0 in flags and len(flags) > 1:
        notes.append("replications without an answer have no capacity (NaN): means leave them out and have no interval")
    return notes


def _wavering(sweep: Sweep, table: Sequence[Sequence[_Answer]]) -> list[str]:
    """Say where there may be several answers: at how many points, and where in most replications."""
    wavering = [sum(not answer.monotone for answer in row) for row in table]
    most = max(wavering)
    if not most:
        return []
    text = (
        f"in {most} of {sweep.replications} replications the criteria hold again above a rate at which they fail: "
        "their capacity is one crossing of several"
    )
    if not sweep.grid.axes:
        return [text]
    at = where(sweep.grid.axes, list(np.ndindex(sweep.grid.shape))[wavering.index(most)])
    points = sum(count > 0 for count in wavering)
    return [f"{text} (at {at}; {points} of {len(table)} points have such replications)"]


def _with_places(sweep: Sweep, places: Mapping[str, Sequence[int]]) -> list[str]:
    """Return notes with the points that each is true of, given by their numbers."""
    if not sweep.grid.axes:
        return list(places)
    at = [where(sweep.grid.axes, position) for position in np.ndindex(sweep.grid.shape)]
    return [
        f"{text} ({'every point' if len(points) == len(at) else 'at ' + '; '.join(at[k] for k in points)})"
        for text, points in places.items()
    ]
