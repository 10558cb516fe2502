"""Settings that break the rules of controllers and memory, and the nearest ones that do not."""

from helpers.rules.rule import BYTES, Rule
from helpers.specifications import DYNAMIC, SECONDS, STEPS

RULES = [
    # Controllers
    Rule(
        SECONDS,
        {"policy": {"mode": "dynamic_only", "largest_batch": 4, "memory": {"capacity_tokens": 1000.0}}},
        "policy.memory",
        'needs tokens, and workload.lengths.unit is "seconds"',
        {"policy": {"mode": "dynamic_only", "largest_batch": 4}},
    ),
    Rule(
        DYNAMIC,
        {"policy.sla.tolerance_s": 0.05},
        "policy.sla.tolerance_s",
        "must be < policy.sla.target_s = 0.05",
        {"policy.sla.tolerance_s": 0.049},
    ),
    Rule(
        DYNAMIC,
        {"policy.controller": {"name": "aimd", "signal": "latency"}},
        "policy.controller.signal",
        "policy.sla.signal says what is observed; remove it here",
        {"policy.controller": {"name": "aimd"}},
    ),
    Rule(
        DYNAMIC,
        {"policy.sla": None, "policy.controller": {"name": "aimd", "signal": "token_gap"}},
        "policy.controller.signal",
        "must be one of tbt, batch_time, latency: mode multi_bin_dynamic has no steps",
        {"policy.sla": None, "policy.controller": {"name": "aimd", "signal": "latency"}},
    ),
    Rule(
        DYNAMIC,
        {"policy.sla.variant": "heuristic", "policy.sla.delta": 4},
        "policy.sla.delta",
        'variant = "heuristic" would ignore it',
        {"policy.sla.variant": "paper", "policy.sla.delta": 4},
    ),
    Rule(
        STEPS,
        {"policy.sla": {"target_s": 0.1, "tolerance_s": 0.0, "signal": "latency"}},
        "policy.sla.signal",
        "must be one of tbt, token_gap in mode continuous",
        {"policy.sla": {"target_s": 0.1, "tolerance_s": 0.0, "signal": "token_gap"}},
    ),
    Rule(
        DYNAMIC,
        {"policy.sla.signal": "token_gap"},
        "policy.sla.signal",
        "must be one of tbt, batch_time, latency: mode multi_bin_dynamic has no steps",
        {"policy.sla.signal": "latency"},
    ),
    Rule(
        SECONDS,
        {"policy": {"mode": "dynamic_only", "largest_batch": 4, "sla": {"target_s": 9.0, "tolerance_s": 1.0}}},
        "policy.sla.signal",
        'needs tokens, and workload.lengths.unit is "seconds"; use "batch_time" or "latency"',
        {
            "policy": {
                "mode": "dynamic_only",
                "largest_batch": 4,
                "sla": {"target_s": 9.0, "tolerance_s": 1.0, "signal": "batch_time"},
            }
        },
    ),
    Rule(
        DYNAMIC,
        {"policy.memory": None, "policy.sla": None, "policy.estimates": {"weight": 0.5}},
        "policy.estimates",
        "would be ignored without policy.memory, policy.sla or policy.controller",
        {"policy.memory": None, "policy.estimates": {"weight": 0.5}},
    ),
    Rule(
        DYNAMIC,
        {"policy.estimates": {"kind": "window", "weight": 0.5}},
        "policy.estimates.weight",
        'kind = "window" would ignore it',
        {"policy.estimates": {"kind": "window", "observations": 5}},
    ),
    # Memory
    Rule(
        STEPS,
        {"policy.memory": {"capacity_tokens": 500.0}},
        "policy.memory.capacity_tokens",
        "mode continuous would ignore it: the capacity is that of server.replica",
        {"policy.memory": {}},
    ),
    Rule(
        DYNAMIC,
        {"policy.memory.rule": "margin"},
        "policy.memory.rule",
        "needs margin_tokens or margin_fraction, one of them",
        {"policy.memory.rule": "margin", "policy.memory.margin_fraction": 0.1},
    ),
    Rule(
        DYNAMIC,
        {"policy.memory.margin_fraction": 0.1},
        "policy.memory.margin_fraction",
        'rule = "exact" would ignore it; only "margin" uses it',
        {"policy.memory.rule": "margin", "policy.memory.margin_fraction": 0.1},
    ),
    Rule(
        STEPS,
        {"policy.memory": {"rule": "margin", "margin_tokens": 992.0}},
        "policy.memory.margin_tokens",
        "must be < server.replica.kv_capacity_tokens = 1000, of which whole blocks hold 992",
        {"policy.memory": {"rule": "margin", "margin_tokens": 991.0}},
    ),
    Rule(
        DYNAMIC,
        {"policy.memory.rule": "margin", "policy.memory.margin_tokens": 40_000.0},
        "policy.memory.margin_tokens",
        "must be < policy.memory.capacity_tokens",
        {"policy.memory.rule": "margin", "policy.memory.margin_tokens": 39_999.0},
    ),
    Rule(
        DYNAMIC,
        {"policy.memory": {**BYTES, "rule": "margin", "margin_tokens": 100.0}},
        "policy.memory.margin_tokens",
        "must be < 100.0, the tokens that fit",
        {"policy.memory": {**BYTES, "rule": "margin", "margin_tokens": 99.0}},
    ),
    Rule(
        DYNAMIC,
        {
            "policy.memory": {
                "capacity_tokens": 9.0,
                "rule": "margin",
                "margin_tokens": 1.0,
                "overflow_probability": 0.1,
            }
        },
        "policy.memory.overflow_probability",
        'rule = "margin" would ignore it',
        {"policy.memory.overflow_probability": 0.1},
    ),
    Rule(
        DYNAMIC,
        {"policy.memory.max_bytes": 9.0},
        "policy.memory.max_bytes",
        "give capacity_tokens, or max_bytes, model_bytes, kv_bytes_per_token, not both",
        {"policy.memory": BYTES},
    ),
    Rule(
        DYNAMIC,
        {"policy.memory": {}},
        "policy.memory.capacity_tokens",
        "is missing (or give max_bytes, model_bytes, kv_bytes_per_token)",
        {"policy.memory": {"capacity_tokens": 1.0}},
    ),
    Rule(
        DYNAMIC,
        {"policy.memory": {"max_bytes": 201.0, "kv_bytes_per_token": 2.0}},
        "policy.memory.model_bytes",
        "is missing; goes with max_bytes, kv_bytes_per_token",
        {"policy.memory": {**BYTES, "model_bytes": 0.0}},
    ),
    Rule(
        DYNAMIC,
        {"policy.memory": {**BYTES, "model_bytes": 201.0}},
        "policy.memory.max_bytes",
        "must be > policy.memory.model_bytes, and leave room for at most 1e12 tokens",
        {"policy.memory": {**BYTES, "model_bytes": 200.0}},
    ),
]
