"""The engine's front door: one replication with records, or a block of replications without."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .model import Bins, Records, Setup, Trace, check
from .report import summarise
from .tally import Shape, Tally, new_tally

BACKENDS = ("numba", "reference")


class Job(NamedTuple):
    """One replication to simulate."""

    trace: Trace
    bins: Bins
    setup: Setup


class Outcome(NamedTuple):
    """What one replication gave."""

    report: dict[str, Any]
    """The variables of a cube for this replication, by name; scalars and small arrays."""
    records: Records
    """What became of each request."""


def simulate(trace: Trace, bins: Bins, setup: Setup, backend: str = "numba") -> Outcome:
    """Simulate one replication and say what became of each request.

    Records hold, for each request (request,): start and completion in ticks of 1 µs, batch number, bin and batch size,
    -1 where it was never served. Raises ValueError for input that does not fit together.
    """
    shape = Shape(len(bins.start) - 1, setup.policy.batch_size, setup.reporting.windows)
    tally = new_tally(1, shape)
    records = Records(*(np.full(len(trace.arrival), -1, np.int64) for _ in Records._fields))
    _run(Job(trace, bins, setup), _row(tally, 0), records, backend)
    report = summarise(tally, [setup], [len(trace.arrival)])
    return Outcome({name: value[0] for name, value in report.items()}, records)


def simulate_many(jobs: Sequence[Job], shape: Shape, backend: str = "numba") -> dict[str, NDArray[Any]]:
    """Simulate a block of replications; return the variables of a cube by name, leading axis job.

    `shape` is common to the block, so that blocks can be stacked: bins beyond a job's own stay empty. Raises ValueError
    for input that does not fit together, ArithmeticError when conservation is broken.
    """
    tally = new_tally(len(jobs), shape)
    for run, job in enumerate(jobs):
        _run(job, _row(tally, run), _NO_RECORDS, backend)
    return summarise(tally, [job.setup for job in jobs], [len(job.trace.arrival) for job in jobs])


_NO_RECORDS = Records(*(np.empty(0, np.int64) for _ in Records._fields))


def _row(tally: Tally, run: int) -> Tally:
    return Tally(*(part[run] for part in tally))


def _run(job: Job, tally: Tally, records: Records, backend: str) -> None:
    """Fill an empty tally row, and the records unless they have length 0."""
    check(*job)
    trace, bins, setup = job
    match backend:
        case "numba":
            # Compiled code is loaded on first use only.
            if setup.policy.released:
                from .compiled.released import release_space, run_released

                run_released(trace, bins, setup, tally, records, release_space(bins, setup))
            else:
                from .compiled.taken import run_taken, take_space

                run_taken(trace, bins, setup, tally, records, take_space(bins, setup))
        case "reference":
            from .reference import simulate_reference
            from .reference_tally import tally_reference

            found, batches = simulate_reference(trace, bins, setup)
            tally_reference(trace, setup, found, batches, tally)
            if len(records.start):
                for column, values in zip(records, found, strict=True):
                    column[:] = values
        case _:
            raise ValueError(f"backend = {backend!r}: must be one of {', '.join(BACKENDS)}")
