"""Continuous batching: one replica of an engine whose requests join and leave at every step (model, section 10)."""

from .model import (
    REJECTED,
    SERVED,
    Law,
    Records,
    Replica,
    Requests,
    make_law,
    make_replica,
    make_requests,
)
from .run import simulate_steps

__all__ = [
    "REJECTED",
    "SERVED",
    "Law",
    "Records",
    "Replica",
    "Requests",
    "make_law",
    "make_replica",
    "make_requests",
    "simulate_steps",
]
