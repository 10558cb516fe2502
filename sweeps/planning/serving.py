"""How to serve with a configuration: a line to paste for each engine, and what such a line cannot say."""

import json
import math
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from batchcube.calibration.coefficients import Coefficients
from batchcube.engine.continuous.model import BLOCK_TOKENS

from ..spec.service import load
from ..spec.settings import CoefficientsLaw, Point, ReplicaSettings


def known_of(point: Point) -> Coefficients | None:
    """Return the coefficients that a point takes its step times from, None where it states a law of its own."""
    law = point.server.service
    return load(law.coefficients) if isinstance(law, CoefficientsLaw) else None


def gpus_each(point: Point) -> int:
    """Return the GPUs of a replica, as its coefficients say; 1 where they do not."""
    of = _provenance(point)
    return math.prod(int(of.get(name, 1)) for name in ("tensor_parallel", "pipeline_parallel"))


def of_a_server(point: Point) -> int:
    """Return how many replicas step together by the coefficients, whose law is that of one of so many; 1 elsewhere."""
    known = known_of(point)
    replica = None if known is None else known.replica
    return replica.replicas if replica is not None and replica.lockstep else 1


def _provenance(point: Point) -> Mapping[str, Any]:
    known = known_of(point)
    return {} if known is None else known.provenance


def lines_to_serve(model: str, point: Point, given: Mapping[str, Any] | None) -> dict[str, str]:
    """Return a line to paste for each engine; `unsaid_of` has what it cannot say; no `model`: the coefficients'.

    Batchcube's scheduler takes what is `given` to it, where the point needs one; None without a specification.
    """
    replica, policy, of = point.server.replica, point.policy, _provenance(point)
    assert replica is not None
    model = model or str(of.get("model", "MODEL"))
    tensor, pipeline = int(of.get("tensor_parallel", 1)), int(of.get("pipeline_parallel", 1))
    together, count = of_a_server(point), point.server.servers
    ours = any(_of_scheduler(point))
    vllm = {
        "--max-num-seqs": policy.largest_batch,
        "--max-num-active-seqs": replica.max_num_active_seqs,
        "--max-num-batched-tokens": replica.token_budget,
        "--tensor-parallel-size": tensor if tensor > 1 else None,
        "--pipeline-parallel-size": pipeline if pipeline > 1 else None,
        "--data-parallel-size": count if count != 1 else None,
        "--enable-expert-parallel": True if of.get("expert_parallel") else None,
        "--gpu-memory-utilization": of.get("gpu_memory_utilization"),
        # One block is never used.
        "--num-gpu-blocks-override": None if _fills(point) else replica.held_tokens // replica.block_tokens + 1,
        "--max-model-len": replica.max_model_len,
        "--block-size": replica.block_tokens if replica.block_tokens != BLOCK_TOKENS else None,
        "--long-prefill-token-threshold": replica.long_prefill_token_threshold or None,
        "--long-prefill-token-threshold-adaptive": replica.long_prefill_token_threshold_adaptive or None,
        "--scheduling-policy": replica.scheduling_policy if replica.scheduling_policy != "fcfs" else None,
        "--scheduler-reserve-full-isl": None if replica.scheduler_reserve_full_isl else False,
        # On by default in vLLM where it can be, and not here.
        "--enable-prefix-caching": None if leaves_caching(point) else replica.enable_prefix_caching,
        "--async-scheduling": replica.async_scheduling,
        "--scheduler-cls": "batchcube.vllm.Scheduler" if ours else None,
        "--additional-config": _quoted({"batchcube": given}) if ours and given is not None else None,
    }
    sglang = {
        "--model-path": model,
        "--max-running-requests": policy.largest_batch,
        "--chunked-prefill-size": replica.token_budget,
        # Of all replicas that share experts.
        "--tp-size": tensor * together if tensor * together > 1 else None,
        "--pp-size": pipeline if pipeline > 1 else None,
        "--dp-size": count if count != 1 else None,
        "--enable-dp-attention": True if together > 1 else None,
        "--ep-size": tensor * together if of.get("expert_parallel") else None,
        "--context-length": replica.max_model_len,
        "--max-total-tokens": None if _fills(point) else replica.held_tokens,
        "--page-size": replica.block_tokens if replica.block_tokens != BLOCK_TOKENS else None,
        "--disable-radix-cache": None if replica.enable_prefix_caching or leaves_caching(point) else True,
        "--disable-overlap-schedule": None if replica.async_scheduling else True,
    }
    lines = {"vllm": " ".join(["vllm serve", model, *_options(vllm)])}
    if not ours:
        lines["sglang"] = " ".join(["python -m sglang.launch_server", *_options(sglang)])
    return lines


def unsaid_of(point: Point, *, has_specification: bool) -> dict[str, list[str]]:
    """Return, for each engine, the settings that were simulated and that its line has no option for.

    Batchcube's scheduler, which a line may name, reads its policy from a specification.
    """
    server, replica, of = point.server, point.server.replica, _provenance(point)
    assert replica is not None
    both = [f"{name} = {of[name]}" for name in ("quantization", "kv_cache_dtype") if of.get(name)]
    if replica.prefill != "chunked":
        both.append(f"server.replica.prefill = {replica.prefill}")
    routing = [] if server.servers == 1 else [f"server.routing = {server.routing}"]
    return {
        "vllm": [
            *(() if has_specification else (f"{name} (takes a specification)" for name in _of_scheduler(point))),
            *both,
            *(routing if server.routing != "least_loaded" else []),
        ],
        "sglang": []
        if any(_of_scheduler(point))
        else [
            *both,
            *routing,
            *(f"server.replica.{name} = {getattr(replica, name)}" for name in _OF_VLLM if _is_stated(replica, name)),
        ],
    }


def leaves_caching(point: Point) -> bool:
    """Say whether nobody asked for prefixes to be cached or not: none are found again here, and engines do better."""
    replica = point.server.replica
    assert replica is not None
    return not replica.enable_prefix_caching and "enable_prefix_caching" not in replica.model_fields_set


# Settings of a replica that SGLang has no option for.
_OF_VLLM = (
    *("max_num_active_seqs", "long_prefill_token_threshold", "long_prefill_token_threshold_adaptive"),
    *("scheduling_policy", "scheduler_reserve_full_isl"),
)


def _is_stated(replica: ReplicaSettings, name: str) -> bool:
    """Say whether a setting is another than that of a replica of which nothing is said."""
    return bool(getattr(replica, name) != ReplicaSettings.model_fields[name].default)


def _of_scheduler(point: Point) -> Iterator[str]:
    """Return what of a policy takes batchcube's scheduler, which reads it from a specification."""
    for name in ("memory", "sla", "controller"):
        if getattr(point.policy, name):
            yield f"policy.{name}"
    if point.policy.admission == "by_bin":
        yield "policy.admission = by_bin"


def _fills(point: Point) -> bool:
    """Say whether the KV cache is what an engine makes of the memory that it is given, as coefficients know it."""
    replica, known = point.server.replica, known_of(point)
    assert replica is not None
    if known is None or known.replica is None or "gpu_memory_utilization" not in known.provenance:
        return False
    return known.replica.held_tokens == replica.held_tokens


def _quoted(table: Mapping[str, Any]) -> str:
    """Return a table as an argument of a shell, in JSON."""
    return shlex.quote(json.dumps(table, separators=(",", ":")))


def _options(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, bool):
            yield name if value else f"--no-{name.removeprefix('--')}"
        elif value is not None:
            yield f"{name} {value}"
