"""Batches that run as a whole (docs/model.md, sections 1-9); a `Simulation`."""

from ..backends import BACKENDS
from .model import Batching, Bins, Job, Records, Setup, Trace, check
from .run import CATALOGUE, NAME, STEPWISE, fill, jobs_at_once, new_records, summarise

__all__ = [
    "BACKENDS",
    "CATALOGUE",
    "NAME",
    "STEPWISE",
    "Batching",
    "Bins",
    "Job",
    "Records",
    "Setup",
    "Trace",
    "check",
    "fill",
    "jobs_at_once",
    "new_records",
    "summarise",
]
