"""Small specifications, as tables, and settings laid over them."""

from copy import deepcopy
from typing import Any

Tables = dict[str, Any]


def laid(tables: Tables, settings: Tables) -> Tables:
    """Return a copy of tables with settings laid over them by their dotted paths, or taken away by None."""
    changed = deepcopy(tables)
    for path, value in settings.items():
        *above, last = path.split(".")
        table = changed
        for key in above:
            table = table.setdefault(key, {})
        table[last] = value
        if value is None:
            del table[last]
    return changed


TOKENS: Tables = {
    "workload": {
        "requests": 100,
        "arrivals": {"process": "poisson", "rate_per_s": 1.0},
        "lengths": {"distribution": "constant", "value": 100.0, "prompt": {"distribution": "constant", "value": 300.0}},
    },
    "policy": {"mode": "fifo_greedy", "batch_size": 4},
    "server": {"service": {"law": "constant", "a1_s_per_token": 0.01}},
}
"""Batches of up to 4 requests of 300 + 100 tokens."""
SECONDS = laid(
    TOKENS,
    {
        "workload.lengths": {"distribution": "uniform", "unit": "seconds", "low": 1.0, "high": 20.0},
        "server.service": {"law": "given"},
    },
)
"""The same of service times."""
BINS: Tables = laid(TOKENS, {"policy": {"mode": "multi_bin_only", "bins": 2, "batch_size": 4}})
"""Batches of 4 in two bins."""
DYNAMIC: Tables = laid(
    TOKENS,
    {
        "policy": {
            "mode": "multi_bin_dynamic",
            "bins": 2,
            "largest_batch": 64,
            "memory": {"capacity_tokens": 40_000.0},
            "sla": {"target_s": 0.05, "tolerance_s": 0.001},
        }
    },
)
"""Two bins, both controllers."""
STEPS: Tables = laid(
    TOKENS,
    {
        "policy": {"mode": "continuous", "largest_batch": 4},
        "server": {"service": {"law": "steps", "c0_s": 0.01}, "replica": {"kv_capacity_tokens": 1000}},
    },
)
"""Continuous batching on one replica."""
STEP_LAW: Tables = {
    "law": "steps",
    "c0_s": 0.02,
    "c1_s_per_request": 0.0005,
    "c2_s_per_kv_token": 1e-7,
    "c3_s_per_prefill_token": 5e-5,
    "c4_s_per_prefill_attention": 1e-8,
}
CONTINUOUS: Tables = {
    "name": "steps",
    "replications": 3,
    "workload": {
        "requests": 120,
        "arrivals": {"process": "poisson", "rate_per_s": 8.0},
        "lengths": {
            "distribution": "lognormal",
            "mean": 40.0,
            "cv": 1.0,
            "prompt": {"distribution": "lognormal", "mean": 100.0, "cv": 0.8},
        },
        "predictor": {"kind": "lognormal", "sigma": 0.3},
    },
    "policy": {"mode": "continuous", "largest_batch": 16},
    "server": {"service": STEP_LAW, "replica": {"kv_capacity_tokens": 2000, "token_budget": 256}},
    "report": {"request_sla_s": 2.0, "token_sla_s": 0.03, "windows": 10},
}
"""Continuous batching of drawn requests, with every term of the law, and reported against two limits."""

# The same as files ---------------------------------------------------------------------------------------------------

SMALL = """\
name = "small"
title = "A small sweep"
replications = 3
[workload]
requests = 40
[workload.arrivals]
process = "poisson"
[workload.lengths]
distribution = "uniform"
unit = "seconds"
low = 1.0
high = 20.0
[policy]
mode = "multi_bin_only"
batch_size = 4
[server.service]
law = "given"
[axes.bins]
path = "policy.bins"
values = [1, 2, 4]
"""
"""Three numbers of bins, at a rate that is left to an axis."""
RATES = """\
[axes.arrival_rate_per_s]
path = "workload.arrivals.rate_per_s"
values = [0.1, 0.2]
"""

TO_PLAN = """\
name = "small"
title = "Caps on a small server"
seed = {seed}
[workload]
requests = 300
[workload.arrivals]
process = "poisson"
rate_per_s = 12.0
[workload.lengths]
distribution = "lognormal"
mean = 40.0
cv = 0.8
[workload.lengths.prompt]
distribution = "lognormal"
mean = 100.0
cv = 0.8
[policy]
mode = "continuous"
largest_batch = 16
[server]
service = {{ law = "steps", c0_s = 0.02, c1_s_per_request = 0.001, c2_s_per_kv_token = 0.0, \
c3_s_per_prefill_token = 0.0001, c4_s_per_prefill_attention = 0.0 }}
[server.replica]
kv_capacity_tokens = 8000
token_budget = 512
[report]
warmup_fraction = 0.2
"""
"""A small server, for plans; the seed is yet to be filled in."""
SLO = ("ttft_p99_s=1", "tpot_mean_s=0.04")
CAPS = {"policy.largest_batch": [4, 8, 16, 32]}
