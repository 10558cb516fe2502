"""One simulation at one rate, of those that a search for capacities makes: what is asked of it, and what it shows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.engine import check
from batchcube.engine.simulation import JOBS_AT_ONCE, Job
from batchcube.errors import InputError
from batchcube.results.overload import STEADY_GROWTH

from ..workloads.arrivals import AtRate
from ..workloads.settings import FloatArray
from .bisection import fill
from .criteria import Criterion, never_in_time
from .draws import Draws
from .preparing import Prepared, PreparedPoint
from .scalable import Scalable, scalable
from .simulate import Simulator


class Shared(NamedTuple):
    """What all trials share: plain data."""

    simulator: Simulator
    points: tuple[Scalable, ...]
    criteria: tuple[Criterion, ...]


class Trial(NamedTuple):
    """What is asked: a point at a rate, in a replication."""

    draws: Draws
    number: int
    """Of the point."""
    rate: float
    evenly: bool
    """Whether the requests are to come at even distances: how bursty they are has no part in what servers can do."""
    may_end: bool
    """Whether a rate too low for the engine's clock is an answer: only a search's own halving leads there."""


class Seen(NamedTuple):
    """What a trial shows."""

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


def try_out(shared: Shared, trials: Sequence[Trial], together: int) -> list[Seen | None]:
    """Simulate, and say what each trial shows; None where the clock ends before the last arrival.

    A device simulates `together` jobs, the last of them several times: its programs are compiled for a number of jobs,
    and searches end one after the other. Raises InputError where a job cannot be simulated or a criterion has no value.
    """
    prepared_points = [shared.points[one.number].at(one.rate) for one in trials]
    jobs = {k: job for k, one in enumerate(trials) if (job := _job(one, prepared_points[k])) is not None}
    seen: list[Seen | None] = [None] * len(trials)
    if not jobs:
        return seen
    every = list(jobs.values())
    if shared.simulator.on_device:
        every += [every[-1]] * (together - len(every))
    report = shared.simulator.simulate(every, [prepared_points[k] for k in jobs])
    report = {name: values[: len(jobs)] for name, values in report.items()}
    criteria = shared.criteria
    values = [criterion.values(report) for criterion in criteria]
    ratios = [one.ratios(mine) for one, mine in zip(criteria, values, strict=True)]
    statistic = values[0] if values else np.full(len(jobs), math.nan)
    missed = never_in_time(report) / (report["measured"] + report["missed"])
    # Nothing grows where there are too few requests to tell.
    backlog = np.nan_to_num(report["backlog_growth_fraction"])
    growth = np.nan_to_num(report.get("queue_growth_fraction", backlog))
    servers = [prepared_points[k].point.server.servers for k in jobs]
    served = _served(report, np.array([trials[k].rate for k in jobs]), servers)
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
    shared = Shared(Simulator(prepared, backend, JOBS_AT_ONCE), (scalable(point),), ())
    draws = [Draws(prepared.sweep.seed, r) for r in range(replications)]
    filling = fill(shared.points[0].start)
    rate = next(filling)
    while True:
        seen = try_out(shared, [Trial(one, 0, rate, evenly=True, may_end=True) for one in draws], replications)
        known = [one for one in seen if one is not None]
        if len(known) < replications:
            return math.nan
        try:
            rate = filling.send(mean_growth(known))
        except StopIteration as stop:
            served = served_when_full(known)
            return float(1.0 / np.mean(1.0 / served)) if served is not None and stop.value else math.nan


def mean_growth(seen: Sequence[Seen]) -> float:
    """Return the growth of the queue in the mean over the replications."""
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


def _job(one: Trial, prepared: PreparedPoint) -> Job | None:
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
