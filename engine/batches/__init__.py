"""Batches that run as a whole (docs/model.md, sections 1-9); a `Simulation`."""

from ..backends import BACKENDS
from .model import Bins, Job, Policy, Records, Reporting, Setup, Trace, check
from .report import OVERLOAD_TEST
from .run import HISTOGRAM_UNITS_PER_S, NAME, STEPWISE, fill, jobs_at_once, new_records, summarise
from .tally import new_tally

__all__ = [
    "BACKENDS",
    "HISTOGRAM_UNITS_PER_S",
    "NAME",
    "OVERLOAD_TEST",
    "STEPWISE",
    "Bins",
    "Job",
    "Policy",
    "Records",
    "Reporting",
    "Setup",
    "Trace",
    "check",
    "fill",
    "jobs_at_once",
    "new_records",
    "new_tally",
    "summarise",
]
