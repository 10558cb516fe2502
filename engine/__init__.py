"""What happens: the exact semantics of batching policies on arrays, in plain Python, in compiled kernels and in JAX.

`simulate` runs one replication and returns its report and what became of every request; `simulate_many` runs a block
of them and returns reports only.
"""

from . import batches, continuous
from .backends import BACKENDS, MissingBackendError
from .batches.model import (
    INFINITE,
    MODES,
    Batching,
    Bins,
    Job,
    Records,
    Setup,
    Trace,
    make_policy,
    make_reporting,
    make_trace,
    sort_into_bins,
)
from .run import (
    Described,
    Outcome,
    check,
    describe,
    jobs_at_once,
    simulate,
    simulate_many,
    simulate_records,
    simulate_replica,
    simulation_of,
)
from .simulation import Reporting, Shape, Simulation

__all__ = [
    "BACKENDS",
    "INFINITE",
    "MODES",
    "Batching",
    "Bins",
    "Described",
    "Job",
    "MissingBackendError",
    "Outcome",
    "Records",
    "Reporting",
    "Setup",
    "Shape",
    "Simulation",
    "Trace",
    "batches",
    "check",
    "continuous",
    "describe",
    "jobs_at_once",
    "make_policy",
    "make_reporting",
    "make_trace",
    "simulate",
    "simulate_many",
    "simulate_records",
    "simulate_replica",
    "simulation_of",
    "sort_into_bins",
]
