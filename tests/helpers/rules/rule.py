"""A rule of the specification as tests have it, and the settings that rules are broken over."""

from typing import NamedTuple

from helpers.specifications import BINS, STEPS, TOKENS, Tables, laid

TRACE: Tables = laid(TOKENS, {"workload": {"trace": {"path": "trace.csv"}}})
BINNED_TRACE: Tables = laid(BINS, {"workload": {"trace": {"path": "trace.csv"}}})
FIXED: Tables = laid(TOKENS, {"policy.mode": "fifo_fixed"})
EXPLICIT: Tables = laid(BINS, {"policy.edges": {"kind": "explicit", "values": [0.0, 100.0, 200.0]}})
TWO_REPLICAS: Tables = laid(STEPS, {"server.servers": 2, "server.routing": "by_bin", "policy.bins": 2})
BYTES = {"max_bytes": 201.0, "model_bytes": 1.0, "kv_bytes_per_token": 2.0}
STEP_LAW = {"law": "steps", "c0_s": 0.01}
EMPIRICAL = {"distribution": "empirical", "path": "lengths.csv", "column": "output"}
PROMPT = {"distribution": "constant", "value": 3.0}


CLASS = {"name": "chat", "share": 0.5, "lengths": {"distribution": "constant", "value": 3.0, "prompt": PROMPT}}
CLASSES: Tables = laid(STEPS, {"workload.lengths": None, "workload.classes": [CLASS, {**CLASS, "name": "batch"}]})
RANKS = [CLASS, {**CLASS, "name": "batch", "priority": 1}]
RANKED: Tables = laid(CLASSES, {"workload.classes": RANKS, "server.replica.scheduling_policy": "priority"})
STEPS_TRACE: Tables = laid(STEPS, {"workload": {"trace": {"path": "trace.csv"}}})


class Rule(NamedTuple):
    """One rule: settings over `base` that break it, where and how it says so, and the nearest that keep it."""

    base: Tables
    broken: Tables
    path: str
    text: str
    kept: Tables


CLOSED: Tables = laid(STEPS, {"workload.arrivals": {"process": "closed", "users": 5}})
