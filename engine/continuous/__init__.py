"""Continuous batching: replicas of an engine, requests join and leave at every step (docs/model.md, section 10).

A `Simulation`.
"""

from .fleet import ADMISSIONS, ROUTINGS, Fleet, make_fleet
from .model import (
    REJECTED,
    SCHEDULING_POLICIES,
    SERVED,
    Classes,
    Content,
    Job,
    Records,
    Replica,
    Requests,
    Setup,
    check,
    follow,
    make_classes,
    make_content,
    make_replica,
    make_reporting,
    make_requests,
)
from .run import BACKENDS, CATALOGUE, NAME, STEPWISE, fill, jobs_at_once, new_records, summarise
from .steps import DecodeTable, Law, PrefillTable, make_law

__all__ = [
    "ADMISSIONS",
    "BACKENDS",
    "CATALOGUE",
    "NAME",
    "REJECTED",
    "ROUTINGS",
    "SCHEDULING_POLICIES",
    "SERVED",
    "STEPWISE",
    "Classes",
    "Content",
    "DecodeTable",
    "Fleet",
    "Job",
    "Law",
    "PrefillTable",
    "Records",
    "Replica",
    "Requests",
    "Setup",
    "check",
    "fill",
    "follow",
    "jobs_at_once",
    "make_classes",
    "make_content",
    "make_fleet",
    "make_law",
    "make_replica",
    "make_reporting",
    "make_requests",
    "new_records",
    "summarise",
]
