"""Lines to paste: every setting that was simulated is in them, or named beside them."""

from typing import Any

import pytest

import batchcube as bc
from batchcube.sweeps.planning.serving import leaves_caching, lines_to_serve, unsaid_of
from batchcube.sweeps.spec.settings import Point, ReplicaSettings

STEPS = {
    "law": "steps",
    "c0_s": 0.02,
    "c1_s_per_request": 0.001,
    "c2_s_per_kv_token": 0.0,
    "c3_s_per_prefill_token": 0.0,
    "c4_s_per_prefill_attention": 0.0,
}


def point_of(replica: dict[str, Any], policy: dict[str, Any] | None = None, **server: Any) -> Point:
    sweep = bc.sweep(
        name="one",
        workload={
            "requests": 100,
            "arrivals": {"process": "poisson", "rate_per_s": 1.0},
            "lengths": {
                "distribution": "lognormal",
                "mean": 40.0,
                "cv": 0.8,
                "prompt": {"distribution": "lognormal", "mean": 100.0, "cv": 0.8},
            },
        },
        policy={"mode": "continuous", "largest_batch": 16, **(policy or {})},
        server={"service": STEPS, "replica": {"token_budget": 512, **replica}, **server},
    )
    (point,) = sweep.grid.points
    return point


# A value of each setting of a replica, and what carries it; None: nothing does.
CARRIED: dict[str, tuple[Any, str | None, str | None]] = {
    "kv_capacity_tokens": (6400, "--num-gpu-blocks-override 401", "--max-total-tokens 6400"),
    "num_gpu_blocks": (501, "--num-gpu-blocks-override 501", "--max-total-tokens 8000"),
    "token_budget": (777, "--max-num-batched-tokens 777", "--chunked-prefill-size 777"),
    "block_tokens": (32, "--block-size 32", "--page-size 32"),
    "prefill": ("separate", None, None),
    "scheduler_reserve_full_isl": (False, "--no-scheduler-reserve-full-isl", None),
    "long_prefill_token_threshold": (99, "--long-prefill-token-threshold 99", None),
    "long_prefill_token_threshold_adaptive": (True, "--long-prefill-token-threshold-adaptive", None),
    "max_num_active_seqs": (12, "--max-num-active-seqs 12", None),
    "max_model_len": (4096, "--max-model-len 4096", "--context-length 4096"),
    "scheduling_policy": ("priority", "--scheduling-policy priority", None),
    "async_scheduling": (False, "--no-async-scheduling", "--disable-overlap-schedule"),
    "enable_prefix_caching": (False, "--no-enable-prefix-caching", "--disable-radix-cache"),
}


def test_all_settings_of_a_replica_are_here() -> None:
    assert set(CARRIED) == set(ReplicaSettings.model_fields)


@pytest.mark.parametrize("name", CARRIED)
def test_each_setting_of_a_replica_is_in_the_line_or_named(name: str) -> None:
    value, *options = CARRIED[name]
    point = point_of({"kv_capacity_tokens": 8000})
    assert point.server.replica is not None
    # Some need other settings beside them, which make no difference here.
    replica = point.server.replica.model_copy(update={name: value})
    point = point._replace(server=point.server.model_copy(update={"replica": replica}))
    lines, unsaid = lines_to_serve("m", point, None), unsaid_of(point, has_specification=False)
    for engine, option in zip(("vllm", "sglang"), options, strict=True):
        named = f"server.replica.{name} = {value}"
        assert (named in unsaid[engine]) == (option is None)
        assert option is None or f" {option} " in f"{lines[engine]} "


def test_what_is_as_engines_have_it_is_not_said() -> None:
    point = point_of({"kv_capacity_tokens": 8000, "enable_prefix_caching": True, "async_scheduling": True})
    assert lines_to_serve("m", point, None) == {
        "vllm": "vllm serve m --max-num-seqs 16 --max-num-batched-tokens 512 --num-gpu-blocks-override 501 "
        "--enable-prefix-caching --async-scheduling",
        "sglang": "python -m sglang.launch_server --model-path m --max-running-requests 16 "
        "--chunked-prefill-size 512 --max-total-tokens 8000",
    }
    assert unsaid_of(point, has_specification=False) == {"vllm": [], "sglang": []}


def test_caching_that_nobody_asked_about_is_left_to_engines() -> None:
    for replica, vllm, sglang in (
        ({}, "", ""),
        ({"enable_prefix_caching": False}, "--no-enable-prefix-caching", "--disable-radix-cache"),
        ({"enable_prefix_caching": True}, "--enable-prefix-caching", ""),
    ):
        point = point_of({"kv_capacity_tokens": 8000, **replica})
        lines = lines_to_serve("m", point, None)
        assert leaves_caching(point) == (not replica)
        assert [word for word in lines["vllm"].split() if "prefix" in word] == vllm.split()
        assert [word for word in lines["sglang"].split() if "radix" in word] == sglang.split()


def test_the_cache_of_coefficients_is_what_the_memory_holds() -> None:
    service = {"coefficients": "llama-3.1-8b-h100-vllm-tables"}
    line = lines_to_serve("", point_of({}, service=service), None)["vllm"]
    assert "--gpu-memory-utilization 0.92" in line
    assert "--num-gpu-blocks-override" not in line
    line = lines_to_serve("", point_of({"kv_capacity_tokens": 16000}, service=service), None)["vllm"]
    assert "--num-gpu-blocks-override 1001" in line


def test_routing_and_policies_of_our_own_are_named() -> None:
    room = {"kv_capacity_tokens": 8000}
    for routing, unsaid in (("shortest_queue", ["server.routing = shortest_queue"]), ("least_loaded", [])):
        point = point_of(room, servers=2, routing=routing)
        assert unsaid_of(point, has_specification=True)["vllm"] == unsaid
    sla = {"sla": {"target_s": 0.05, "tolerance_s": 0.005}}
    point = point_of(room, policy=sla)
    lines = lines_to_serve("m", point, None)
    assert "--scheduler-cls batchcube.vllm.Scheduler" in lines["vllm"]
    assert "sglang" not in lines
    assert unsaid_of(point, has_specification=False) == {"vllm": ["policy.sla (takes a specification)"], "sglang": []}
    assert unsaid_of(point, has_specification=True) == {"vllm": [], "sglang": []}
