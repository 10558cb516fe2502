"""Continuous batching: replicas of an engine, requests join and leave at every step (docs/model.md, section 10).

A `Simulation`.
"""

from .model import (
    ADMISSIONS,
    REJECTED,
    ROUTINGS,
    SERVED,
    Classes,
    Fleet,
    Job,
    Law,
    Records,
    Replica,
    Reporting,
    Requests,
    Setup,
    check,
    follow,
    make_classes,
    make_fleet,
    make_law,
    make_replica,
    make_reporting,
    make_requests,
)
from .report import OVERLOAD_TEST
from .run import BACKENDS, CATALOGUE, NAME, STEPWISE, fill, jobs_at_once, new_records, summarise

__all__ = [
    "ADMISSIONS",
    "BACKENDS",
    "CATALOGUE",
    "NAME",
    "OVERLOAD_TEST",
    "REJECTED",
    "ROUTINGS",
    "SERVED",
    "STEPWISE",
    "Classes",
    "Fleet",
    "Job",
    "Law",
    "Records",
    "Replica",
    "Reporting",
    "Requests",
    "Setup",
    "check",
    "fill",
    "follow",
    "jobs_at_once",
    "make_classes",
    "make_fleet",
    "make_law",
    "make_replica",
    "make_reporting",
    "make_requests",
    "new_records",
    "summarise",
]
