"""Simulate single steps: jobs in, tallies and records out, on any backend."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..simulation import JOBS_AT_ONCE, Report, Shape
from ..statistics import CONTINUOUS
from ..tally import Tally, row_of
from ..ticks import NEVER
from .fleet import BY_BIN, Fleet, looks_at_queues
from .model import NOBODY, REJECTED, SERVED, Job, Records, answered, never_fits
from .promises import count_promises, summarise_classes
from .report import summarise_steps
from .ticks import too_late

NAME = "continuous batching"
CATALOGUE = CONTINUOUS
STEPWISE = True
BACKENDS: tuple[str, ...] = ("numba", "reference")


class Totals(NamedTuple):
    """What one replication did in all."""

    steps: int
    decode_tokens: int
    """Tokens emitted by decodes; the other tokens were emitted by prefills."""
    prefill_tokens: int
    """Prefilled, those again after a preemption too."""
    prefills: int
    """Prefills that were done: each emits a token."""
    preemptions: int
    busy: int
    """Ticks in steps, of all replicas."""
    peak_blocks: int
    """Most in use on any replica."""


def totals_of(tally: Tally) -> Totals:
    """Return what the tally of one replication says that it did."""
    return Totals(*(int(tally.totals[CONTINUOUS.at(name)]) for name in Totals._fields))


def fill(jobs: Sequence[Job], shape: Shape, tally: Tally, records: Sequence[Records], backend: str) -> None:
    """Fill empty tallies, leading axis job, and the records of every job if there are any.

    Raises InputError where the clock runs out, ArithmeticError when requests or tokens were lost on the way.
    """
    run_one = _run_compiled if backend == "numba" else _run_reference
    for run, job in enumerate(jobs):
        row, told = row_of(tally, run), records[run] if records else new_records(job)
        # Who waits for an answer has an arrival only when it comes about.
        requests = answered(job.requests, job.setup.replica)._replace(arrival=told.arrival)
        cut = np.where(told.status == SERVED, job.requests.output - requests.output, 0)
        job = job._replace(requests=requests)
        run_one(job, row, told)
        _check_conservation(job, told, row)
        count_promises(job, told, cut, row)


def summarise(tally: Tally, jobs: Sequence[Job]) -> Report:
    """Return the report of full tallies, leading axis job; ArithmeticError when values were lost on the way."""
    report = summarise_steps(tally, jobs)
    return report | summarise_classes(tally.classes, jobs, report["makespan_s"])


def jobs_at_once(job: Job, shape: Shape, backend: str) -> int:
    """Return how many jobs like one are best simulated at once."""
    return JOBS_AT_ONCE


def _run_compiled(job: Job, tally: Tally, records: Records) -> None:
    """Simulate in a Numba kernel; compiled code is loaded on first use only."""
    from .numba.fleet import run_fleet
    from .numba.following import run_following

    if len(job.requests.follows) or job.setup.fleet.lockstep:
        run_following(job, records, tally)
    else:
        run_fleet(job, records, tally, *way_of(job, records))
    if tally.totals[CONTINUOUS.at("overrun")]:
        raise too_late()


def _run_reference(job: Job, tally: Tally, records: Records) -> None:
    """Simulate in plain Python."""
    from .reference import simulate_reference

    simulate_reference(job, records, tally)


def new_records(job: Job) -> Records:
    """Return records of nothing but who is turned away, and the arrivals that are known."""
    requests = job.requests
    records = Records(*(np.full(len(requests.arrival), -1, np.int64) for _ in Records._fields))
    records.preemptions[:] = records.cached[:] = 0
    records.status[:] = np.where(never_fits(requests, job.setup.replica), REJECTED, SERVED)
    waits = requests.follows != NOBODY
    return records._replace(arrival=np.where(waits, NEVER, requests.arrival) if len(waits) else requests.arrival)


def way_of(job: Job, records: Records) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Send requests to replicas where that needs no look at the queues.

    Returns the requests in the order of arrival, replica by replica, and where each replica's begin (replica + 1,).
    """
    fleet: Fleet = job.setup.fleet
    accepted = np.flatnonzero(records.status == SERVED)
    if looks_at_queues(fleet):
        return accepted[:0], np.zeros(fleet.replicas + 1, np.int64)
    to = np.arange(len(accepted)) % fleet.replicas
    if fleet.routing == BY_BIN:
        to = job.bin_of[accepted].astype(np.int64) * fleet.replicas // fleet.bins
    records.replica[accepted] = to
    counts = np.bincount(to, minlength=fleet.replicas)
    order = accepted if fleet.replicas == 1 else accepted[np.argsort(to, kind="stable")]
    return order, np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def _check_conservation(job: Job, records: Records, tally: Tally) -> None:
    """Refuse a result in which something was lost.

    Every request is served whole, or rejected; the KV cache is never overdrawn, and empty in the end.
    """
    requests, blocks = job.requests, job.setup.replica.blocks
    served = records.status == SERVED
    lost = int((records.last_token[served] < 0).sum())
    ordered = (records.scheduled[served] <= records.first_token[served]) & (
        records.first_token[served] <= records.last_token[served]
    )
    totals = totals_of(tally)
    emitted, wanted = totals.decode_tokens + totals.prefills, int(requests.output[served].sum())
    again = int(records.preemptions.sum())
    kept = int(tally.totals[CONTINUOUS.at("kept")])
    if (
        lost
        or not ordered.all()
        or emitted != wanted
        or totals.preemptions != again
        or kept
        or totals.peak_blocks > blocks
    ):
        raise ArithmeticError(
            f"conservation is broken: {lost} requests lost, {emitted} tokens emitted, {wanted} wanted, "
            f"{totals.preemptions} preemptions of {again}, {totals.peak_blocks} blocks in use of {blocks}, "
            f"{kept} left in use"
        )
