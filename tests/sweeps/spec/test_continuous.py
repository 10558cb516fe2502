"""Mode continuous in the specification: what a mistake says, and what is allowed."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from batchcube.engine.continuous.steps import TABLED
from batchcube.errors import InputError
from batchcube.sweeps.spec.document import Sweep
from helpers.specifications import CONTINUOUS as BASE
from helpers.specifications import STEP_LAW, laid

DOCS = Path(__file__).parents[3] / "docs"
LINEAR = {"law": "linear", "a1_s_per_token": 0.01, "gamma": 0.1}
SECONDS = {"distribution": "uniform", "unit": "seconds", "low": 1.0, "high": 2.0}
UNUSED = "mode continuous would ignore it"


def refusals(settings: dict[str, Any], tables: dict[str, Any] = BASE) -> list[str]:
    """The lines that refuse a specification before any file is read."""
    with pytest.raises(InputError) as caught:
        Sweep.model_validate(laid(tables, settings), "sweep.toml")
    return [line.removeprefix("sweep.toml: ") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"policy.largest_batch": None}, "policy.largest_batch: is missing; mode continuous needs it"),
        (
            {"policy.smallest_batch": 17, "policy.memory": {}},
            "policy.smallest_batch = 17: must be <= policy.largest_batch = 16",
        ),
        (
            {"policy.smallest_batch": 2},
            "policy.smallest_batch: would be ignored without policy.memory, policy.sla or policy.controller",
        ),
        (
            {"server.replica": {"kv_capacity_tokens": 2000, "prefill": "separate", "enable_prefix_caching": True}},
            'server.replica.enable_prefix_caching = true: needs server.replica.prefill = "chunked"',
        ),
        ({"policy.batch_size": 8}, f"policy.batch_size: {UNUSED}; used by fifo_fixed, multi_bin_only, fifo_greedy"),
        ({"policy.tail": "drop"}, f"policy.tail: {UNUSED}; used by fifo_fixed, multi_bin_only"),
        ({"policy.max_wait_s": 1.0}, f"policy.max_wait_s: {UNUSED}; used by fifo_fixed, multi_bin_only"),
        ({"policy.service_order": "first_formed"}, f"policy.service_order: {UNUSED}; used by fifo_fixed, multi"),
        ({"policy.controller_scope": "global"}, f"policy.controller_scope: {UNUSED}; used by multi_bin_dynamic"),
        ({"policy.estimates": {"weight": 0.5}}, "policy.estimates: would be ignored without policy.memory, policy."),
        (
            {"policy.memory": {"capacity_tokens": 2000.0}},
            f"policy.memory.capacity_tokens = 2000.0: {UNUSED}: the capacity is that of server.replica",
        ),
        ({"policy.memory": {"max_bytes": 1e9}}, f"policy.memory.max_bytes = 1000000000.0: {UNUSED}: the capacity is"),
        ({"policy.memory": {"model_bytes": 1e9}}, f"policy.memory.model_bytes = 1000000000.0: {UNUSED}: the capacity"),
        ({"policy.memory": {"kv_bytes_per_token": 9.0}}, f"policy.memory.kv_bytes_per_token = 9.0: {UNUSED}: the cap"),
        (
            {"policy.memory": {"rule": "margin", "margin_tokens": 2000.0}},
            "policy.memory.margin_tokens = 2000.0: must be < server.replica.kv_capacity_tokens = 2000",
        ),
        (
            {
                "policy.memory": {"rule": "margin", "margin_tokens": 2000.0},
                "server.replica.kv_capacity_tokens": 2015,
            },
            "policy.memory.margin_tokens = 2000.0: must be < server.replica.kv_capacity_tokens = 2015, of which whole "
            "blocks hold 2000",
        ),
        ({"policy.memory": {"rule": "margin"}}, 'policy.memory.rule = "margin": needs margin_tokens or margin_fracti'),
        (
            {"policy.sla": {"target_s": 0.05, "tolerance_s": 0.001, "signal": "latency"}},
            'policy.sla.signal = "latency": must be one of tbt, token_gap in mode continuous: the cont',
        ),
        ({"policy.bins": 2}, 'policy.bins = 2: must be 1: nothing looks at bins without policy.admission = "by_bin" '),
        ({"policy.edges": {"kind": "uniform"}}, 'policy.edges: would be ignored without policy.admission = "by_bin"'),
        (
            {"policy.bin_choice": "longest_queue"},
            'policy.bin_choice = "longest_queue": admission = "fifo" would ignore it; used by "by_bin"',
        ),
        ({"policy.admission": "by_bin"}, 'policy.admission = "by_bin": needs policy.bins > 1'),
        ({"policy.admission": "lifo"}, 'policy.admission = "lifo": must be "fifo" or "by_bin"'),
        ({"server.routing": "by_bin", "policy.bins": 4}, 'server.routing = "by_bin": needs server.servers > 1'),
        ({"server.routing": "shortest_queue"}, 'server.routing = "shortest_queue": needs server.servers > 1'),
        (
            {"server.routing": "by_bin", "server.servers": 4, "policy.bins": 3},
            'policy.bins = 3: must be >= server.servers = 4: routing = "by_bin" gives every replica a bin',
        ),
        (
            {"server.routing": "random"},
            'server.routing = "random": must be "round_robin", "shortest_queue", "by_bin", "least_loaded" or "least_',
        ),
        ({"server.servers": "infinite"}, 'server.servers = "infinite": mode continuous needs finitely many servers'),
        ({"server.servers": 5000}, "server.servers = 5000: must be <= 4096 in mode continuous"),
        ({"server.completion": "batch"}, f'server.completion = "batch": {UNUSED}: every request is done with its own'),
        ({"server.replica": None}, "server.replica: is missing; mode continuous needs it"),
        ({"server.replica": {}}, "server.replica.kv_capacity_tokens: is missing"),
        (
            {"server.replica.kv_capacity_tokens": 2e3},
            "server.replica.kv_capacity_tokens = 2000.0: must be a whole numb",
        ),
        (
            {"server.replica.kv_capacity_tokens": 15},
            "server.replica.kv_capacity_tokens = 15: must be >= server.replica.block_tokens = 16, a single block",
        ),
        (
            {"server.replica.token_budget": 15},
            "server.replica.token_budget = 15: must be >= policy.largest_batch = 16, a token for each request",
        ),
        (
            {"policy.largest_batch": 4096, "server.replica.token_budget": None},
            "server.replica.token_budget = 2048: must be >= policy.largest_batch = 4096, a token for each request",
        ),
        ({"server.replica.prefill": "mixed"}, 'server.replica.prefill = "mixed": must be "chunked" or "separate"'),
        ({"server.replica.block_tokens": 0}, "server.replica.block_tokens = 0: must be >= 1"),
        ({"server.service": LINEAR}, 'server.service.law = "linear": must be "steps" in mode continuous (or give coef'),
        (
            {"server.service": {"law": "constant", "a1_s_per_token": 0.01, "length": "total"}},
            'server.service.law = "constant": must be "steps" in mode continuous',
        ),
        ({"server.service": {"law": "steps"}}, "server.service.c0_s: is missing"),
        (
            {"server.service": {"law": "steps", "c0_s": 0.1, "length": "total"}},
            "server.service.length: no such setting",
        ),
        ({"server.service": {"law": "steps", "c0_s": -0.1}}, "server.service.c0_s = -0.1: must be >= 0"),
        ({"server.service.c3_s_per_prefill_token": -1}, "server.service.c3_s_per_prefill_token = -1: must be >= 0"),
        (
            {"server.service": {"law": "steps", "c0_s": 0, "c2_s_per_kv_token": 0.01}},
            "server.service.c0_s = 0.0: must be > 0, or c1_s_per_request must: a decode step takes some time",
        ),
        (
            {"server.service": {"law": "steps", "c0_s": 1e-14, "c1_s_per_request": 0.1}},
            "server.service.c0_s = 1e-14: would be rounded to 0, in whole picoseconds: must be 0, or at least 5e-11",
        ),
        (
            {"server.service.c4_s_per_prefill_attention": 1.3e-12},
            "server.service.c4_s_per_prefill_attention = 1.3e-12: would be rounded to 1e-12, in whole picoseconds:",
        ),
        (
            {"server.service": {"coefficients": "qwen3-0.6b-cpu-vllm", "h": "chosen"}},
            f'server.service.h = "chosen": {UNUSED}: it takes the coefficients\' law of single steps',
        ),
        (
            {"server.service": {"coefficients": "qwen3-0.6b-cpu-vllm", "prompt_tokens": 64}},
            f"server.service.prompt_tokens = 64.0: {UNUSED}: it takes the coefficients' law",
        ),
        (
            {"workload.lengths": SECONDS},
            'workload.lengths.unit = "seconds": mode continuous needs tokens: must be "tok',
        ),
        ({"workload.lengths.prompt": None}, "workload.lengths.prompt: is missing; mode continuous needs prompts"),
        (
            {"workload.lengths": {"distribution": "empirical", "path": "lengths.csv"}},
            "workload.lengths.prompt_column: is missing (or give prompt, a distribution); mode continuous needs",
        ),
        (
            {"report.memory_capacity_tokens": 9.0},
            f"report.memory_capacity_tokens = 9.0: {UNUSED}: the capacity is that of server.replica",
        ),
        ({"report.horizon_s": 1e8}, "report.horizon_s = 100000000.0: must be <= 2305843 in mode continuous"),
        ({"report.token_sla_s": 1e7}, "report.token_sla_s = 10000000.0: must be <= 2305843 in mode continuous"),
        ({"report.tpot_sla_s": 1e7}, "report.tpot_sla_s = 10000000.0: must be <= 2305843 in mode continuous"),
    ],
)
def test_a_mistake_is_one_line_with_its_path(settings: dict[str, Any], line: str) -> None:
    (found,) = refusals(settings)
    assert found.startswith(line)


def test_the_default_routing_may_be_stated_for_a_single_replica() -> None:
    assert Sweep.model_validate(laid(BASE, {"server.routing": "round_robin"})).grid.shape == ()


@pytest.mark.parametrize("mode", ["dynamic_only", "multi_bin_dynamic", "continuous"])
def test_a_smallest_batch_without_controllers_is_a_mistake(mode: str) -> None:
    policy = {"mode": mode, "largest_batch": 16, **({"bins": 2} if mode == "multi_bin_dynamic" else {})}
    server = BASE["server"] if mode == "continuous" else {"service": LINEAR}
    tables = {**BASE, "policy": policy, "server": server}
    (line,) = refusals({"policy.smallest_batch": 2}, tables)
    assert line == "policy.smallest_batch: would be ignored without policy.memory, policy.sla or policy.controller"
    controlled = {"policy.smallest_batch": 2, "policy.sla": {"target_s": 9.0, "tolerance_s": 0.1}}
    assert Sweep.model_validate(laid(tables, controlled)).grid.points[0].policy.smallest_batch == 2


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"server.service": STEP_LAW},
            'server.service.law = "steps": only mode continuous goes step by step; must be a',
        ),
        (
            {"server.replica": {"kv_capacity_tokens": 9}},
            "server.replica: mode fifo_greedy would ignore it; used by con",
        ),
        ({"server.routing": "round_robin"}, "server.routing: mode fifo_greedy would ignore it; used by continuous"),
        ({"policy.admission": "fifo"}, "policy.admission: mode fifo_greedy would ignore it; used by continuous"),
        (
            {
                "policy": {
                    "mode": "dynamic_only",
                    "largest_batch": 4,
                    "sla": {"target_s": 0.1, "tolerance_s": 0.01, "signal": "token_gap"},
                }
            },
            'policy.sla.signal = "token_gap": must be one of tbt, batch_time, latency: mode dynamic_only has no steps',
        ),
    ],
)
def test_other_modes_have_no_steps(settings: dict[str, Any], line: str) -> None:
    whole = {**BASE, "policy": {"mode": "fifo_greedy", "batch_size": 4}, "server": {"service": LINEAR}}
    assert Sweep.model_validate(whole).grid.shape == ()
    (found,) = refusals(settings, whole)
    assert found.startswith(line)


def test_the_specification_of_the_docs_is_valid_and_states_every_setting() -> None:
    texts = re.findall(r"```toml\n(.*?)```", (DOCS / "continuous.md").read_text(encoding="utf-8"), re.DOTALL)
    stated, bent = map(tomllib.loads, texts)
    point = Sweep.model_validate(stated).grid.points[0]
    stated["server"]["service"] = bent["server"]["service"]
    tables = Sweep.model_validate(stated).grid.points[0].server.service
    for settings, left_out in (
        (point.policy, {"batch_size", "max_wait_s", "service_order", "tail", "controller_scope", "controller"}),
        (point.server, {"completion"}),
        (point.server.service, set(TABLED)),
        (tables, {"c0_s", "c1_s_per_request", "c2_s_per_kv_token", "c3_s_per_prefill_token"}),
        (point.server.replica, {"num_gpu_blocks"}),
        (point.policy.sla, set()),
        (point.report, {"warmup_requests", "memory_capacity_tokens"}),
    ):
        assert settings is not None
        assert set(type(settings).model_fields) - settings.model_fields_set == left_out


def test_a_grid_is_continuous_everywhere_or_nowhere() -> None:
    whole = {"policy": {"mode": "fifo_greedy", "batch_size": 4}, "server": {"service": LINEAR}}
    steps = {"policy": BASE["policy"], "server": BASE["server"]}
    mixed = {**BASE, "axes": {"mode": {"points": {"whole": whole, "steps": steps}}}}
    del mixed["policy"], mixed["server"]
    (line,) = refusals({}, mixed)
    assert line.startswith('policy.mode: must be "continuous" at every point or at none')


@pytest.mark.parametrize(
    ("table", "changes", "line"),
    [
        ("decode", {"requests": [0]}, "requests = [0]: must have two nodes at least"),
        ("decode", {"requests": [1, 2, 4]}, "requests[0] = 1: must be 0"),
        ("decode", {"requests": [0, 4, 4]}, "requests[2] = 4: must be whole, larger than the one before, and at most"),
        ("decode", {"requests": [0, 4, 2**16 + 1]}, "requests[2] = 65537: must be whole, larger than the one before"),
        ("decode", {"requests": [0, 1.5, 2]}, "requests[1] = 1.5: must be a whole number"),
        ("decode", {"s": [0.1, 0.2]}, "s = [0.1, 0.2]: has 2 values, must have 3, one for each of requests"),
        ("decode", {"s": [0.1, 0.3, 0.2]}, "s[2] = 0.2: must not be less than the one before"),
        ("decode", {"s": [0.0, 0.0, 0.2]}, "s[1] = 0.0: must be > 0: a decode step takes some time"),
        ("decode", {"s": [0.1, -0.1, 0.2]}, "s[1] = -0.1: must be >= 0"),
        ("decode", {"s": [0.1, float("inf"), 0.2]}, "s[1] = inf: must be a finite number"),
        ("decode", {"s_per_kv_token": [1e-9, 1e-9, 1.4e-12]}, "s_per_kv_token[2] = 1.4e-12: would be rounded to 1e-12"),
        ("prefill", {"tokens": [0, 4, 3]}, "tokens[2] = 3: must be whole, larger than the one before, and at most"),
        ("prefill", {"s": [0.1, 0.2, 0.3]}, "s[0] = 0.1: must be 0: what a step with any prefill takes longer is c5_"),
    ],
)
def test_tables_that_are_none_are_refused_in_a_line(table: str, changes: dict[str, Any], line: str) -> None:
    nodes = {"decode": {"requests": [0, 1, 2], "s": [0.1, 0.2, 0.3], "s_per_kv_token": [1e-9, 1e-9, 1e-9]}}
    nodes["prefill"] = {"tokens": [0, 1, 2], "s": [0.0, 0.2, 0.3]}
    service = {"law": "steps", **nodes, table: nodes[table] | changes}
    server = {**BASE["server"], "service": service}
    (found,) = refusals({}, {**BASE, "server": server})
    assert found.startswith(f"server.service.{table}.{line}"), found
