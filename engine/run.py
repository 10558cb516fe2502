"""The engine's front door: one replication with records, or a block of replications without."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .backends import require_backend
from .batches.model import Bins, Job, Records, Setup, Trace, check
from .batches.report import summarise
from .batches.tally import Shape, Tally, new_tally

JOBS_AT_ONCE = 16
"""On a CPU: enough to spread what a call costs, few enough to stop soon and to keep tallies small."""


class Described(NamedTuple):
    """Where a backend computes, and with what."""

    device: str
    versions: str


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
    _run([Job(trace, bins, setup)], shape, tally, [records], backend)
    report = summarise(tally, [setup], [len(trace.arrival)])
    return Outcome({name: value[0] for name, value in report.items()}, records)


def simulate_many(jobs: Sequence[Job], shape: Shape, backend: str = "numba") -> dict[str, NDArray[Any]]:
    """Simulate a block of replications; return the variables of a cube by name, leading axis job.

    `shape` is common to the block, so that blocks can be stacked: bins beyond a job's own stay empty. Raises ValueError
    for input that does not fit together, ArithmeticError when conservation is broken.
    """
    tally = new_tally(len(jobs), shape)
    _run(jobs, shape, tally, (), backend)
    return summarise(tally, [job.setup for job in jobs], [len(job.trace.arrival) for job in jobs])


def jobs_at_once(job: Job, shape: Shape, backend: str = "numba") -> int:
    """Return how many jobs like one are best handed to `simulate_many` at once."""
    if backend != "jax":
        return JOBS_AT_ONCE
    require_backend(backend)
    from .batches.jax.driver import replications_for

    return replications_for(job, shape)


def describe(backend: str) -> Described:
    """Say where a backend computes and with which versions.

    Raises MissingBackendError when it is not installed, RuntimeError when the device's arithmetic would give other
    numbers.
    """
    require_backend(backend)
    packages = {"numba": ("numba", "numpy"), "jax": ("jax", "jaxlib", "numpy"), "reference": ("numpy",)}[backend]
    device = "cpu"
    if backend == "jax":
        from .batches.jax.driver import device_name, prepare

        prepare()
        device = device_name()
    return Described(device, ", ".join(f"{name} {version(name)}" for name in packages))


_NO_RECORDS = Records(*(np.empty(0, np.int64) for _ in Records._fields))


def _row(tally: Tally, run: int) -> Tally:
    return Tally(*(part[run] for part in tally))


def _run(jobs: Sequence[Job], shape: Shape, tally: Tally, records: Sequence[Records], backend: str) -> None:
    """Fill empty tallies, leading axis job, and the records of every job if there are any."""
    require_backend(backend)
    for job in jobs:
        check(*job)
    if backend == "jax":
        from .batches.jax.driver import run_replications

        run_replications(jobs, shape, tally, records)
        return
    run_one = _run_compiled if backend == "numba" else _run_reference
    for run, job in enumerate(jobs):
        run_one(job, _row(tally, run), records[run] if records else _NO_RECORDS)


def _run_compiled(job: Job, tally: Tally, records: Records) -> None:
    """Simulate in a Numba kernel; compiled code is loaded on first use only."""
    trace, bins, setup = job
    if setup.policy.static:
        from .batches.numba.static import run_static, static_workspace

        run_static(trace, bins, setup, tally, records, static_workspace(bins, setup))
    else:
        from .batches.numba.dynamic import dynamic_workspace, run_dynamic

        run_dynamic(trace, bins, setup, tally, records, dynamic_workspace(bins, setup))


def _run_reference(job: Job, tally: Tally, records: Records) -> None:
    """Simulate in plain Python."""
    from .batches.reference import simulate_reference
    from .batches.reference_tally import tally_reference

    found, batches = simulate_reference(*job)
    tally_reference(job.trace, job.setup, found, batches, tally)
    if len(records.start):
        for column, values in zip(records, found, strict=True):
            column[:] = values
