"""Settings that break the rules of servers and the report, and the nearest ones that do not."""

from helpers.rules.rule import BYTES, STEP_LAW, Rule
from helpers.specifications import DYNAMIC, SECONDS, TOKENS

RULES = [
    # Server
    Rule(
        TOKENS,
        {"server.servers": "infinite"},
        "server.servers",
        "mode fifo_greedy needs finitely many servers",
        {"policy.mode": "fifo_fixed", "server.servers": "infinite"},
    ),
    Rule(
        TOKENS,
        {"server.service": STEP_LAW},
        "server.service.law",
        "only mode continuous goes step by step; must be a law of whole batches",
        {},
    ),
    Rule(
        TOKENS,
        {"server.routing": "by_bin"},
        "server.routing",
        "mode fifo_greedy would ignore it; used by continuous",
        {},
    ),
    Rule(
        TOKENS,
        {"server.service": {"law": "given"}},
        "server.service.law",
        'needs service times in seconds: set workload.lengths.unit = "seconds"',
        {},
    ),
    Rule(
        SECONDS,
        {"server.service": TOKENS["server"]["service"]},
        "workload.lengths.unit",
        '"seconds" goes with server.service.law = "given" only',
        {},
    ),
    Rule(
        SECONDS,
        {"server.completion": "own"},
        "server.completion",
        'needs tokens: server.service.law = "given" has none',
        {"server.completion": "batch"},
    ),
    Rule(
        TOKENS,
        {"server.service": {"law": "coefficients", "coefficients": "x.json", "h": "table", "draw": True}},
        "server.service.draw",
        'h = "table" has no coefficients to draw',
        {"server.service": {"law": "coefficients", "coefficients": "x.json", "h": "linear", "draw": True}},
    ),
    *(
        Rule(
            SECONDS,
            {"report": {name: 0.1}},
            f"report.{name}",
            'needs tokens, and workload.lengths.unit is "seconds"',
            {"report": {"request_sla_s": 0.1}},
        )
        for name in ("ttft_sla_s", "tpot_sla_s", "token_sla_s")
    ),
    Rule(
        DYNAMIC,
        {"report": {"memory_capacity_tokens": 39_999.0}},
        "report.memory_capacity_tokens",
        "must be policy.memory.capacity_tokens = 40000.0, which is in force",
        {"report": {"memory_capacity_tokens": 40_000.0}},
    ),
    Rule(
        DYNAMIC,
        {"policy.memory": BYTES, "report": {"memory_capacity_tokens": 99.0}},
        "report.memory_capacity_tokens",
        "must be 100.0, the tokens that policy.memory.max_bytes leaves, which are in force",
        {"policy.memory": BYTES, "report": {"memory_capacity_tokens": 100.0}},
    ),
    Rule(
        TOKENS,
        {"server.service.a0_s": 1.4e-6},
        "server.service.a0_s",
        "would be rounded to 1e-06, in whole microseconds",
        {"server.service.a0_s": 2e-6},
    ),
    Rule(
        TOKENS,
        {"server.service.a1_s_per_token": 3e4},
        "server.service.a1_s_per_token",
        "no engine takes 30000 s for one token, must be <= 5: microseconds meant (0.03)?",
        {"server.service.a1_s_per_token": 5.0},
    ),
    # Report
    Rule(
        TOKENS,
        {"report": {"warmup_requests": 1, "warmup_fraction": 0.5}},
        "report.warmup_fraction",
        "give warmup_requests or warmup_fraction, not both",
        {"report": {"warmup_fraction": 0.5}},
    ),
    Rule(
        TOKENS,
        {"report": {"warmup_requests": 100}},
        "report.warmup_requests",
        "must be < 100, the requests of a replication",
        {"report": {"warmup_requests": 99}},
    ),
]
