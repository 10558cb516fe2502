"""Every rule of `problems`: settings that break it, and the nearest ones that do not."""

import ast
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcube.engine.continuous.ticks import TICKS_PER_S as STEP_TICKS_PER_S
from batchcube.engine.ticks import TICKS_PER_S
from batchcube.sweeps.spec import rules
from batchcube.sweeps.spec.rules import Problem, lost_by_rounding, problems
from batchcube.sweeps.spec.settings import SECTIONS, Point
from helpers.specifications import BINS, DYNAMIC, SECONDS, STEPS, TOKENS, Tables, laid

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
RULES = [
    # Workload
    Rule(
        CLOSED,
        {"workload.arrivals.users": 101},
        "workload.arrivals.users",
        "must be <= workload.requests = 100: every user sends one",
        {"workload.arrivals.users": 100},
    ),
    Rule(
        TOKENS,
        {"workload.arrivals": CLOSED["workload"]["arrivals"]},
        "workload.arrivals.process",
        "mode fifo_greedy has no closed loop; used by continuous",
        {"workload.arrivals": {"process": "at_once"}},
    ),
    Rule(
        STEPS,
        {"workload.sessions": {"turns": {"distribution": "constant", "value": 3.0, "unit": "seconds"}}},
        "workload.sessions.turns",
        "must be whole numbers of turns: no unit, and no prompt",
        {"workload.sessions": {"turns": {"distribution": "constant", "value": 3.0}}},
    ),
    Rule(
        STEPS,
        {"workload.sessions": {"turns": {"distribution": "constant", "value": 0.0}}},
        "workload.sessions.turns.value",
        "must give whole numbers of turns, 1 or more",
        {"workload.sessions": {"turns": {"distribution": "constant", "value": 1.0}}},
    ),
    Rule(
        CLASSES,
        {"workload.lengths": CLASS["lengths"]},
        "workload.lengths",
        "classes have their own; remove it or workload.classes",
        {},
    ),
    Rule(
        CLASSES,
        {"workload.classes": []},
        "workload.classes",
        "must not be empty",
        {"workload.classes": [{**CLASS, "share": 1.0}]},
    ),
    Rule(
        CLASSES,
        {"workload.classes": [CLASS]},
        "workload.classes",
        "their shares sum to 0.5: must sum to 1",
        {"workload.classes": [{**CLASS, "share": 1.0}]},
    ),
    Rule(
        CLASSES,
        {"workload.classes": [CLASS, CLASS]},
        "workload.classes.1.name",
        "is the name of another class already",
        {},
    ),
    Rule(
        laid(TOKENS, {"workload.lengths": None}),
        {"workload.classes": [{**CLASS, "share": 1.0}]},
        "workload.classes",
        "mode fifo_greedy would ignore them; used by continuous",
        {"workload.lengths": CLASS["lengths"]},
    ),
    Rule(
        TOKENS,
        {"workload": {**TOKENS["workload"], "requests": None}},
        "workload.requests",
        "is missing: no recorded trace says how many",
        {"workload": {**TRACE["workload"], "requests": None}},
    ),
    Rule(TOKENS, {"workload.arrivals": None}, "workload.arrivals", "is missing (or give workload.trace", {}),
    Rule(TOKENS, {"workload.lengths": None}, "workload.lengths", "is missing (or give workload.trace", {}),
    Rule(
        TOKENS,
        {"workload.predictor": {"kind": "column"}},
        "workload.predictor.kind",
        "needs a recorded trace, or lengths from a file with a predicted_column",
        {"workload.predictor": {"kind": "column"}, "workload.lengths": {**EMPIRICAL, "predicted_column": "predicted"}},
    ),
    Rule(
        TOKENS,
        {"workload.lengths.value": 0.5},
        "workload.lengths.value",
        "must be a whole number of tokens, 1 or more",
        {"workload.lengths.value": 1.0},
    ),
    Rule(
        TRACE,
        {"workload.arrivals": {"process": "at_once"}},
        "workload.arrivals",
        "a recorded trace has its own",
        {},
    ),
    Rule(
        TRACE,
        {"workload.trace.format": "mooncake", "workload.trace.model": "ChatGPT"},
        "workload.trace.model",
        'format "mooncake" has no such column; only "burstgpt" has',
        {"workload.trace.format": "burstgpt", "workload.trace.model": "ChatGPT"},
    ),
    Rule(
        TRACE,
        {"workload.trace.start_s": 5.0, "workload.trace.stop_s": 5.0},
        "workload.trace.start_s",
        "must be < workload.trace.stop_s = 5",
        {"workload.trace.start_s": 4.0, "workload.trace.stop_s": 5.0},
    ),
    Rule(
        TRACE,
        {"workload.trace.resample": "circular", "workload.trace.block_requests": 9},
        "workload.trace.block_requests",
        'resample = "circular" would ignore it; only "blocks" uses it',
        {"workload.trace.resample": "blocks", "workload.trace.block_requests": 9},
    ),
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
    Rule(
        DYNAMIC,
        {"report": {"ttft_sla_s": 0.1}},
        "report.ttft_sla_s",
        "mode multi_bin_dynamic would ignore it; used by continuous",
        {"report": {"request_sla_s": 0.1}},
    ),
    Rule(
        SECONDS,
        {"report": {"token_sla_s": 0.1}},
        "report.token_sla_s",
        'needs tokens, and workload.lengths.unit is "seconds"',
        {"report": {"request_sla_s": 0.1}},
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
    # Continuous batching
    Rule(
        STEPS,
        {"workload.lengths": SECONDS["workload"]["lengths"]},
        "workload.lengths.unit",
        'mode continuous needs tokens: must be "tokens"',
        {},
    ),
    Rule(
        STEPS,
        {"workload.lengths": EMPIRICAL},
        "workload.lengths.prompt_column",
        "is missing (or give prompt, a distribution); mode continuous needs prompts",
        {"workload.lengths": {**EMPIRICAL, "prompt_column": "prompt"}},
    ),
    Rule(
        STEPS,
        {"workload.lengths.prompt": None},
        "workload.lengths.prompt",
        "is missing; mode continuous needs prompts",
        {"workload.lengths.prompt": PROMPT},
    ),
    Rule(
        STEPS,
        {"workload.lengths.prompt.value": 0.0},
        "workload.lengths.prompt.value",
        "must be a whole number of tokens, 1 or more in mode continuous",
        {"workload.lengths.prompt.value": 1.0},
    ),
    Rule(
        STEPS,
        {"server.completion": "batch"},
        "server.completion",
        "mode continuous would ignore it: every request is done with its own last token",
        {},
    ),
    Rule(
        STEPS,
        {"report": {"memory_capacity_tokens": 1000.0}},
        "report.memory_capacity_tokens",
        "mode continuous would ignore it: the capacity is that of server.replica",
        {},
    ),
    Rule(
        STEPS,
        {"report": {"horizon_s": rules.LONGEST_CONTINUOUS_S + 1.0}},
        "report.horizon_s",
        f"must be <= {rules.LONGEST_CONTINUOUS_S} in mode continuous",
        {"report": {"horizon_s": float(rules.LONGEST_CONTINUOUS_S)}},
    ),
    Rule(
        STEPS,
        {"server.servers": rules.MOST_REPLICAS + 1},
        "server.servers",
        f"must be <= {rules.MOST_REPLICAS} in mode continuous",
        {"server.servers": rules.MOST_REPLICAS},
    ),
    Rule(
        STEPS,
        {"server.service.c1_s_per_request": 1.4e-12},
        "server.service.c1_s_per_request",
        "would be rounded to 1e-12, in whole picoseconds",
        {"server.service.c1_s_per_request": 2e-12},
    ),
    Rule(
        STEPS,
        {"server.service.decode": {"requests": [0, 4], "s": [0.1, 0.2], "s_per_kv_token": [0.0, 0.0]}},
        "server.service.c0_s",
        "server.service.decode stands in its place: remove one",
        {"server.service.prefill": {"tokens": [0, 4], "s": [0.0, 0.2]}},
    ),
    Rule(
        STEPS,
        {"server.service": {"law": "steps", "c1_s_per_request": 0.1}},
        "server.service.c0_s",
        "is missing (or give decode, a table)",
        {"server.service": {"law": "steps", "c0_s": 0.1}},
    ),
    Rule(
        STEPS,
        {"server.service.c0_s": 0.0},
        "server.service.c0_s",
        "must be > 0, or c1_s_per_request must: a decode step takes some time",
        {"server.service.c0_s": 0.0, "server.service.c1_s_per_request": 0.01},
    ),
    Rule(
        STEPS,
        {"server.service": {"law": "coefficients", "coefficients": "x.json", "h": "linear"}},
        "server.service.h",
        "mode continuous would ignore it: it takes the coefficients' law of single steps",
        {"server.service": {"law": "coefficients", "coefficients": "x.json"}},
    ),
    Rule(
        STEPS,
        {"server.service": TOKENS["server"]["service"]},
        "server.service.law",
        'must be "steps" in mode continuous (or give coefficients)',
        {},
    ),
    Rule(STEPS, {"server.replica": None}, "server.replica", "is missing; mode continuous needs it", {}),
    Rule(
        STEPS,
        {"server.replica.token_budget": 3},
        "server.replica.token_budget",
        "must be >= policy.largest_batch = 4, a token for each request",
        {"server.replica.token_budget": 4},
    ),
    Rule(
        STEPS,
        {"server.replica.kv_capacity_tokens": 15},
        "server.replica.kv_capacity_tokens",
        "must be >= server.replica.block_tokens = 16, a single block",
        {"server.replica.kv_capacity_tokens": 16},
    ),
    Rule(
        STEPS,
        {"server.replica.kv_capacity_tokens": None},
        "server.replica.kv_capacity_tokens",
        "is missing (or give num_gpu_blocks)",
        {"server.replica.kv_capacity_tokens": None, "server.replica.num_gpu_blocks": 100},
    ),
    Rule(
        STEPS,
        {"server.replica.num_gpu_blocks": 100},
        "server.replica.num_gpu_blocks",
        "give kv_capacity_tokens or num_gpu_blocks, not both",
        {},
    ),
    Rule(
        STEPS,
        {"server.replica.max_num_active_seqs": 5},
        "server.replica.max_num_active_seqs",
        "must be <= policy.largest_batch = 4, the static cap",
        {"server.replica.max_num_active_seqs": 4},
    ),
    Rule(
        STEPS,
        {"server.replica.max_model_len": 30, "server.replica.long_prefill_token_threshold": 31},
        "server.replica.long_prefill_token_threshold",
        "must be <= server.replica.max_model_len = 30",
        {"server.replica.max_model_len": 30, "server.replica.long_prefill_token_threshold": 30},
    ),
    Rule(
        STEPS,
        {"server.replica.prefill": "separate", "server.replica.long_prefill_token_threshold": 8},
        "server.replica.long_prefill_token_threshold",
        'needs server.replica.prefill = "chunked"',
        {"server.replica.long_prefill_token_threshold": 8},
    ),
    Rule(
        STEPS,
        {"server.replica.prefill": "separate", "server.replica.scheduler_reserve_full_isl": False},
        "server.replica.scheduler_reserve_full_isl",
        'prefill = "separate" would ignore it: its prefills are whole',
        {"server.replica.scheduler_reserve_full_isl": False},
    ),
    Rule(
        STEPS,
        {"server.replica.prefill": "separate", "server.replica.enable_prefix_caching": True},
        "server.replica.enable_prefix_caching",
        'needs server.replica.prefill = "chunked"',
        {"server.replica.enable_prefix_caching": True},
    ),
    Rule(
        BINNED_TRACE,
        {"workload.trace.hash_tokens": 512},
        "workload.trace.hash_tokens",
        "needs server.replica.enable_prefix_caching",
        {},
    ),
    Rule(
        CLASSES,
        {"workload.classes": RANKS},
        "workload.classes.1.priority",
        'needs server.replica.scheduling_policy = "priority"',
        {"workload.classes": RANKS, "server.replica.scheduling_policy": "priority"},
    ),
    Rule(
        STEPS,
        {"server.replica.long_prefill_token_threshold_adaptive": True},
        "server.replica.long_prefill_token_threshold_adaptive",
        "needs server.replica.long_prefill_token_threshold > 0",
        {
            "server.replica.long_prefill_token_threshold_adaptive": True,
            "server.replica.long_prefill_token_threshold": 8,
        },
    ),
    Rule(
        RANKED,
        {"server.replica.prefill": "separate"},
        "server.replica.scheduling_policy",
        'needs server.replica.prefill = "chunked"',
        {},
    ),
    Rule(
        CLASSES,
        {"server.replica.scheduling_policy": "priority"},
        "server.replica.scheduling_policy",
        "needs workload.classes of different priorities",
        {},
    ),
    Rule(
        STEPS_TRACE,
        {"workload.trace.columns": {"priority": "rank"}},
        "workload.trace.columns.priority",
        'needs server.replica.scheduling_policy = "priority"',
        {"workload.trace.columns": {"priority": "rank"}, "server.replica.scheduling_policy": "priority"},
    ),
    Rule(
        STEPS,
        {"server.replica.async_scheduling": True, "server.replica.prefill": "separate"},
        "server.replica.async_scheduling",
        'needs server.replica.prefill = "chunked"',
        {"server.replica.async_scheduling": True},
    ),
    Rule(
        RANKED,
        {"policy.bins": 2, "policy.admission": "by_bin"},
        "server.replica.scheduling_policy",
        'needs policy.admission = "fifo"',
        {},
    ),
    Rule(
        STEPS,
        {"policy.bins": 2},
        "policy.bins",
        'must be 1: nothing looks at bins without policy.admission = "by_bin" or server.routing = "by_bin"',
        {"policy.bins": 2, "policy.admission": "by_bin"},
    ),
    Rule(
        STEPS,
        {"policy.edges": {"kind": "uniform"}},
        "policy.edges",
        'would be ignored without policy.admission = "by_bin" or server.routing = "by_bin"',
        {"policy.edges": {"kind": "uniform"}, "policy.bins": 2, "policy.admission": "by_bin"},
    ),
    Rule(
        STEPS,
        {"policy.bin_choice": "round_robin"},
        "policy.bin_choice",
        'admission = "fifo" would ignore it; used by "by_bin"',
        {"policy.bin_choice": "round_robin", "policy.bins": 2, "policy.admission": "by_bin"},
    ),
    Rule(
        STEPS,
        {"policy.admission": "by_bin"},
        "policy.admission",
        "needs policy.bins > 1",
        {"policy.admission": "by_bin", "policy.bins": 2},
    ),
    Rule(
        STEPS,
        {"server.routing": "shortest_queue"},
        "server.routing",
        "needs server.servers > 1",
        {"server.routing": "shortest_queue", "server.servers": 2},
    ),
    Rule(
        STEPS,
        {"server.lockstep": True},
        "server.lockstep",
        "needs server.servers > 1",
        {"server.lockstep": True, "server.servers": 2},
    ),
    Rule(
        TWO_REPLICAS,
        {"server.servers": 3},
        "policy.bins",
        'must be >= server.servers = 3: routing = "by_bin" gives every replica a bin',
        {"server.servers": 3, "policy.bins": 3},
    ),
]


def found(base: Tables, changes: Tables) -> list[Problem]:
    """Return the problems of the single point of tables with changes laid over them."""
    tables = laid(base, changes)
    return list(problems(Point(*(model.model_validate(tables.get(name, {})) for name, model in SECTIONS.items()))))


def told(problem: Problem) -> str:
    return f"{'.'.join(map(str, problem.path))}: {problem.text}"


@pytest.mark.usefixtures("outside_policies")
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.path}-{rule.text[:24]}")
def test_a_rule_is_broken_alone_and_kept(rule: Rule) -> None:
    (broken,) = found(rule.base, rule.broken)
    assert told(broken).startswith(f"{rule.path}: {rule.text}")
    assert found(rule.base, rule.kept) == []


@pytest.mark.usefixtures("outside_policies")
def test_every_rule_has_settings_here_that_break_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The places where `problems` makes a Problem are all reached."""
    reached: set[int] = set()

    def recorded(*parts: Any, **more: Any) -> Problem:
        reached.add(sys._getframe(1).f_lineno)
        return Problem(*parts, **more)

    monkeypatch.setattr(rules, "Problem", recorded)
    for rule in RULES:
        found(rule.base, rule.broken)
    assert rules.__file__ is not None
    calls = [
        node
        for node in ast.walk(ast.parse(Path(rules.__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem"
    ]
    missed = [ast.unparse(node) for node in calls if not reached & set(range(node.lineno, node.end_lineno + 1))]
    assert calls
    assert missed == []


@pytest.mark.usefixtures("outside_policies")
def test_an_option_without_meaning_at_one_point_is_told_apart_from_a_mistake() -> None:
    idle = [rule.path for rule in RULES for problem in found(rule.base, rule.broken) if problem.idle]
    assert idle == [
        "server.replica.scheduler_reserve_full_isl",
        "workload.trace.hash_tokens",
        "workload.classes.1.priority",
        "server.replica.scheduling_policy",
        "workload.trace.columns.priority",
        "policy.admission",
        "server.routing",
        "server.lockstep",
    ]


@pytest.mark.parametrize("ticks_per_s", [TICKS_PER_S, STEP_TICKS_PER_S])
@given(ticks=st.floats(0.0, 1e6))
def test_a_time_is_refused_when_whole_ticks_change_it_by_a_hundredth(ticks_per_s: int, ticks: float) -> None:
    seconds = ticks / ticks_per_s
    exact = seconds * ticks_per_s
    refused = lost_by_rounding(seconds, ticks_per_s) is not None
    assert refused == (abs(round(exact) - exact) > 0.01 * exact)
    if ticks >= 50:
        assert not refused
