"""Settings that break the rules of the policy and its bins, and the nearest ones that do not."""

from helpers.rules.rule import BINNED_TRACE, EXPLICIT, Rule
from helpers.specifications import BINS, DYNAMIC, TOKENS

RULES = [
    # Policy
    Rule(TOKENS, {"policy.bins": 2}, "policy.bins", "must be 1: mode fifo_greedy has no bins", {"policy.bins": 1}),
    Rule(
        TOKENS,
        {"policy.max_wait_s": 1.0},
        "policy.max_wait_s",
        "mode fifo_greedy would ignore it; used by fifo_fixed, multi_bin_only",
        {"policy.mode": "fifo_fixed", "policy.max_wait_s": 1.0},
    ),
    Rule(BINS, {"policy.batch_size": None}, "policy.batch_size", "is missing; mode multi_bin_only needs it", {}),
    Rule(
        DYNAMIC,
        {"policy.smallest_batch": 65},
        "policy.smallest_batch",
        "must be <= policy.largest_batch = 64",
        {"policy.smallest_batch": 64},
    ),
    # Edges
    Rule(
        BINS,
        {"policy.edges": {"kind": "explicit"}},
        "policy.edges.values",
        'is missing; kind = "explicit" needs it',
        {"policy.edges": {"kind": "explicit", "values": [0.0, 1.0, 2.0]}},
    ),
    Rule(
        EXPLICIT,
        {"policy.edges.values": [0.0, 100.0, 100.0]},
        "policy.edges.values",
        "must increase from edge to edge",
        {"policy.edges.values": [0.0, 100.0, 100.5]},
    ),
    Rule(
        EXPLICIT,
        {"policy.bins": 3},
        "policy.edges.values",
        "must hold policy.bins + 1 = 4 edges, not 3",
        {"policy.bins": 3, "policy.edges.values": [0.0, 1.0, 2.0, 3.0]},
    ),
    Rule(
        EXPLICIT,
        {"policy.edges.sample_size": 100},
        "policy.edges.sample_size",
        'kind = "explicit" would ignore it',
        {"policy.edges": {"kind": "uniform", "sample_size": 100}},
    ),
    Rule(
        BINS,
        {"policy.edges.values": [0.0, 1.0, 2.0]},
        "policy.edges.values",
        'kind = "equal_mass" would ignore it; only "explicit" uses it',
        {"policy.edges": {"kind": "explicit", "values": [0.0, 1.0, 2.0]}},
    ),
    Rule(
        BINS,
        {"policy.edges.sample": "whole"},
        "policy.edges.sample",
        "only a recorded trace uses it; see sample_size",
        {"policy.edges.sample_size": 100},
    ),
    Rule(
        BINNED_TRACE,
        {"policy.edges.sample_size": 100},
        "policy.edges.sample_size",
        "a recorded trace would ignore it; see sample and prefix_requests",
        {"policy.edges.sample": "whole"},
    ),
    Rule(
        BINNED_TRACE,
        {"policy.edges.sample": "prefix"},
        "policy.edges.prefix_requests",
        'is missing; sample = "prefix" needs it',
        {"policy.edges": {"sample": "prefix", "prefix_requests": 10}},
    ),
    Rule(
        BINNED_TRACE,
        {"policy.edges.prefix_requests": 10},
        "policy.edges.prefix_requests",
        'only sample = "prefix" uses it',
        {"policy.edges": {"sample": "prefix", "prefix_requests": 10}},
    ),
    Rule(
        BINS,
        {"workload.predictor": {"kind": "confusion", "matrix": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]}},
        "workload.predictor.matrix",
        "is 3 x 3, but there are 2 bins",
        {"workload.predictor": {"kind": "confusion", "matrix": [[1.0, 0.0], [0.0, 1.0]]}},
    ),
    Rule(
        BINNED_TRACE,
        {"workload.predictor": {"kind": "column", "content": "class", "classes": 3}},
        "workload.predictor.classes",
        "must be policy.bins = 2",
        {"workload.predictor": {"kind": "column", "content": "class", "classes": 2}},
    ),
]
