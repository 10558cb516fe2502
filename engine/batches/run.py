"""Simulate whole batches: jobs in, tallies and records out, on any backend."""

from collections.abc import Sequence

import numpy as np

from ..simulation import JOBS_AT_ONCE, Report, Shape
from ..statistics import BATCHES
from ..tally import Tally, row_of
from . import report
from .model import Job, Records
from .promises import count_promises, looks_at_tokens

NAME = "static and dynamic batching"
STEPWISE = False
CATALOGUE = BATCHES
_NO_RECORDS = Records(*(np.empty(0, np.int64) for _ in Records._fields))


def new_records(job: Job) -> Records:
    """Return records of nothing."""
    return Records(*(np.full(len(job.trace.arrival), -1, np.int64) for _ in Records._fields))


def fill(jobs: Sequence[Job], shape: Shape, tally: Tally, records: Sequence[Records], backend: str) -> None:
    """Fill empty tallies, leading axis job, and the records of every job if there are any."""
    if not records and any(looks_at_tokens(job.setup.reporting) for job in jobs):
        records = [new_records(job) for job in jobs]
    if backend == "jax":
        from .jax.driver import run_replications

        run_replications(jobs, shape, tally, records)
    run_one = _run_compiled if backend == "numba" else _run_reference
    for run, job in enumerate(jobs):
        row, told = row_of(tally, run), records[run] if records else _NO_RECORDS
        if backend != "jax":
            run_one(job, row, told)
        count_promises(job, told, row)


def summarise(tally: Tally, jobs: Sequence[Job]) -> Report:
    """Return the report of full tallies, leading axis job; ArithmeticError when requests were lost or invented."""
    return report.summarise_batches(tally, [job.setup for job in jobs], [len(job.trace.arrival) for job in jobs])


def jobs_at_once(job: Job, shape: Shape, backend: str) -> int:
    """Return how many jobs like one are best simulated at once."""
    if backend != "jax":
        return JOBS_AT_ONCE
    from .jax.driver import replications_for

    return replications_for(job, shape)


def _run_compiled(job: Job, tally: Tally, records: Records) -> None:
    """Simulate in a Numba kernel; compiled code is loaded on first use only."""
    trace, bins, setup = job
    if setup.policy.static:
        from .numba.static import run_static

        run_static(trace, bins, setup, tally, records)
    else:
        from .numba.dynamic import run_dynamic

        run_dynamic(trace, bins, setup, tally, records)


def _run_reference(job: Job, tally: Tally, records: Records) -> None:
    """Simulate in plain Python."""
    from .count import count_reference
    from .reference import simulate_reference

    found, batches = simulate_reference(*job)
    count_reference(job.trace, job.bins, job.setup, found, batches, tally)
    if len(records.start):
        for column, values in zip(records, found, strict=True):
            column[:] = values
