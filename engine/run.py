"""The engine's front door: one replication with records, or a block of replications without."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

from . import batches, continuous
from .backends import require_backend
from .continuous.run import Totals, totals_of
from .simulation import Job, Report, Shape, Simulation
from .tally import new_tally, row_of

_SIMULATIONS: Mapping[type, Simulation[Any]] = {batches.Job: batches, continuous.Job: continuous}


class Described(NamedTuple):
    """Where a backend computes, and with what."""

    device: str
    versions: str


class Outcome(NamedTuple):
    """What one replication gave."""

    report: dict[str, Any]
    """The variables of a cube for this replication, by name; scalars and small arrays."""
    records: Any
    """What became of each request: `Records` of its kind of simulation."""


def simulation_of(job: Job) -> Simulation[Any]:
    """Return the kind of simulation that a job is of."""
    return _SIMULATIONS[type(job)]


def check(job: Job) -> None:
    """Refuse what cannot be simulated without overflow, or does not fit together; raises InputError."""
    simulation_of(job).check(job)


def simulate(job: Job, backend: str = "numba") -> Outcome:
    """Simulate one replication and say what became of each request.

    Raises InputError for input that does not fit together, ArithmeticError when conservation is broken.
    """
    tally, (records,) = simulate_records([job], job.shape, backend)
    report = simulation_of(job).summarise(tally, [job])
    return Outcome({name: value[0] for name, value in report.items()}, records)


def simulate_many(jobs: Sequence[Job], shape: Shape, backend: str = "numba") -> Report:
    """Simulate a block of replications of one kind; return the variables of a cube by name, leading axis job.

    `shape` is common to the block, so that blocks can be stacked: bins beyond a job's own stay empty. Raises InputError
    for input that does not fit together, RuntimeError where the shape does not hold a job, ArithmeticError when
    conservation is broken.
    """
    simulation = _ready(jobs, shape, backend)
    tally = new_tally(simulation.CATALOGUE, len(jobs), shape)
    simulation.fill(jobs, shape, tally, (), backend)
    return simulation.summarise(tally, jobs)


def simulate_records(jobs: Sequence[Job], shape: Shape, backend: str = "numba") -> tuple[Any, list[Any]]:
    """Simulate a block of replications of one kind; return what backends leave behind.

    That is tallies with a leading axis job, and the records of each job. Raises InputError and RuntimeError like
    `simulate_many`.
    """
    simulation = _ready(jobs, shape, backend)
    tally, records = new_tally(simulation.CATALOGUE, len(jobs), shape), [simulation.new_records(job) for job in jobs]
    simulation.fill(jobs, shape, tally, records, backend)
    return tally, records


def simulate_replica(
    requests: continuous.Requests,
    replica: continuous.Replica,
    backend: str = "numba",
    fleet: continuous.Fleet | None = None,
) -> tuple[continuous.Records, Totals]:
    """Simulate a replica, or a fleet of them, under continuous batching.

    Returns what became of each request, and what was done; there is one bin, and nothing is reported.
    Raises InputError for input that does not fit together, ArithmeticError when requests or tokens were lost on the
    way.
    """
    reporting = continuous.make_reporting(horizon_s=1.0, windows=1)
    setup = continuous.Setup(replica, fleet or continuous.make_fleet(), reporting)
    job = continuous.Job(requests, np.zeros(len(requests.arrival), np.int32), setup)
    tally, (records,) = simulate_records([job], job.shape, backend)
    return records, totals_of(row_of(tally, 0))


def _ready(jobs: Sequence[Job], shape: Shape, backend: str) -> Simulation[Any]:
    """Return the kind of simulation of jobs that may be simulated into tallies of a shape.

    Raises InputError or MissingBackendError for others, RuntimeError where the shape does not hold one: compiled
    kernels would write past its end.
    """
    simulation = simulation_of(jobs[0])
    require_backend(backend, simulation)
    for job in jobs:
        simulation.check(job)
        for name, needed, given in zip(Shape._fields, job.shape, shape, strict=True):
            if given < needed:
                raise RuntimeError(f"the shape has {name} = {given}, a job needs {needed}")
    return simulation


def jobs_at_once(job: Job, shape: Shape, backend: str = "numba") -> int:
    """Return how many jobs like one are best handed to `simulate_many` at once."""
    simulation = simulation_of(job)
    require_backend(backend, simulation)
    return simulation.jobs_at_once(job, shape, backend)


def describe(backend: str, simulation: Simulation[Any] = batches) -> Described:
    """Say where a backend computes and with which versions.

    Raises InputError where a kind of simulation has no such backend, MissingBackendError when it is not installed,
    RuntimeError when the device's arithmetic would give other numbers.
    """
    require_backend(backend, simulation)
    packages = {"numba": ("numba", "numpy"), "jax": ("jax", "jaxlib", "numpy"), "reference": ("numpy",)}[backend]
    device = "cpu"
    if backend == "jax":
        from .batches.jax.driver import device_name, prepare

        prepare()
        device = device_name()
    return Described(device, ", ".join(f"{name} {version(name)}" for name in packages))
