"""The front door of continuous batching: one replication with records, or a block of replications without."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..backends import require_numba
from ..batches.tally import Shape
from .model import (
    REJECTED,
    ROUTINGS,
    SERVED,
    Fleet,
    Records,
    Replica,
    Requests,
    StepJob,
    StepSetup,
    check,
    make_fleet,
    make_step_reporting,
    never_fits,
    too_late,
)
from .report import summarise_steps
from .tally import KEPT, LATE, StepTally, Totals, new_step_tally

BACKENDS = ("numba", "reference")


class StepOutcome(NamedTuple):
    """What one replication gave."""

    records: Records
    totals: Totals


def simulate_steps(requests: Requests, replica: Replica, backend: str = "numba") -> StepOutcome:
    """Simulate one replica under continuous batching, and say what became of each request.

    Records hold, for each request (request,), ticks of 1 ps: see `Records`. Raises ValueError for input that does not
    fit together, ArithmeticError when requests or tokens were lost on the way.
    """
    setup = StepSetup(replica, make_fleet(), make_step_reporting(horizon_s=1.0, windows=1))
    records, tally = simulate_job(StepJob(requests, np.zeros(len(requests.arrival), np.int32), setup), backend)
    return StepOutcome(records, Totals(*tally.totals[: len(Totals._fields)].tolist()))


def simulate_job(job: StepJob, backend: str = "numba") -> tuple[Records, StepTally]:
    """Simulate one replication; return what became of each request, and the tally.

    Raises ValueError and ArithmeticError like `simulate_steps`.
    """
    shape = Shape(job.setup.fleet.bins, int(job.setup.replica.control.largest), job.setup.reporting.windows)
    tally = new_step_tally(1, shape)
    row = StepTally(*(part[0] for part in tally))
    return _simulate(job, row, backend), row


def simulate_many_steps(jobs: Sequence[StepJob], shape: Shape, backend: str = "numba") -> dict[str, NDArray[Any]]:
    """Simulate a block of replications; return the variables of a cube by name, leading axis job.

    `shape` is common to the block, so that blocks can be stacked: bins beyond a job's own stay empty. Raises ValueError
    for input that does not fit together, ArithmeticError when conservation is broken.
    """
    tally = new_step_tally(len(jobs), shape)
    for number, job in enumerate(jobs):
        _simulate(job, StepTally(*(part[number] for part in tally)), backend)
    return summarise_steps(tally, [job.setup for job in jobs])


def _simulate(job: StepJob, tally: StepTally, backend: str) -> Records:
    if backend not in BACKENDS:
        raise ValueError(f"backend = {backend!r}: must be one of {', '.join(BACKENDS)}")
    check(job)
    records = new_records(job)
    order, begin = way_of(job, records)
    if backend == "reference":
        from .reference import simulate_reference

        simulate_reference(job, records, tally)
    else:
        require_numba()
        from .numba.fleet import run_fleet
        from .numba.workspace import make_workspace

        run_fleet(job.requests, job.bin_of, job.setup, records, tally, make_workspace(job), order, begin)
        if tally.totals[LATE]:
            raise too_late()
    _check_conservation(job, records, tally)
    return records


def new_records(job: StepJob) -> Records:
    """Return records of nothing but who is turned away."""
    records = Records(*(np.full(len(job.requests.arrival), -1, np.int64) for _ in Records._fields))
    records.preemptions[:] = 0
    records.status[:] = np.where(never_fits(job.requests, job.setup.replica), REJECTED, SERVED)
    return records


def way_of(job: StepJob, records: Records) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Send requests to replicas where that needs no look at the queues.

    Returns the requests in the order of arrival, replica by replica, and where each replica's begin (replica + 1,).
    """
    fleet: Fleet = job.setup.fleet
    accepted = np.flatnonzero(records.status == SERVED)
    word = ROUTINGS[fleet.routing]
    if word == "shortest_queue":
        return accepted[:0], np.zeros(fleet.replicas + 1, np.int64)
    to = np.arange(len(accepted)) % fleet.replicas
    if word == "by_bin":
        to = job.bin_of[accepted].astype(np.int64) * fleet.replicas // fleet.bins
    records.replica[accepted] = to
    counts = np.bincount(to, minlength=fleet.replicas)
    order = accepted if fleet.replicas == 1 else accepted[np.argsort(to, kind="stable")]
    return order, np.concatenate(([0], np.cumsum(counts))).astype(np.int64)


def _check_conservation(job: StepJob, records: Records, tally: StepTally) -> None:
    """Refuse a result in which something was lost.

    Every request is served whole, or rejected; the KV cache is never overdrawn, and empty in the end.
    """
    requests, blocks = job.requests, job.setup.replica.blocks
    served = records.status == SERVED
    lost = int((records.last_token[served] < 0).sum())
    ordered = (records.scheduled[served] <= records.first_token[served]) & (
        records.first_token[served] <= records.last_token[served]
    )
    totals = Totals(*tally.totals[: len(Totals._fields)].tolist())
    emitted, wanted = totals.decode_tokens + totals.prefills, int(requests.output[served].sum())
    again = int(records.preemptions.sum())
    kept = int(tally.totals[KEPT])
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
