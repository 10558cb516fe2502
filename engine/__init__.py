"""What happens: the exact semantics of batching policies on arrays, in plain Python and in compiled kernels.

`simulate` runs one replication and returns its report and what became of every request; `simulate_many` runs a block
of them and returns reports only.
"""

from .model import (
    INFINITE,
    MODES,
    Bins,
    Policy,
    Records,
    Reporting,
    Setup,
    Trace,
    make_policy,
    make_reporting,
    make_trace,
    sort_into_bins,
)
from .run import BACKENDS, Job, Outcome, simulate, simulate_many
from .tally import Shape

__all__ = [
    "BACKENDS",
    "INFINITE",
    "MODES",
    "Bins",
    "Job",
    "Outcome",
    "Policy",
    "Records",
    "Reporting",
    "Setup",
    "Shape",
    "Trace",
    "make_policy",
    "make_reporting",
    "make_trace",
    "simulate",
    "simulate_many",
    "sort_into_bins",
]
