"""vLLM's own scheduler for a virtual clock: with its KV cache manager and block pool, but no model."""

import json
import os
from pathlib import Path
from typing import Any

from batchcube.calibration.models import configuration
from batchcube.sweeps.serving.given import PREDICTED

from .virtual import Call, Time

MODEL = "qwen3-tiny"
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # The engine in this process, on one core.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_NUM_THREADS": "1",
}


def prepare(folder: Path) -> str:
    """Set what vLLM reads when it is imported, and write the shape of a small model; return its folder."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(configuration(MODEL, "bfloat16")), encoding="utf-8")
    return str(folder)


class VllmInterface:
    """Requests and outputs of vLLM."""

    def request(self, name: str, call: Call) -> Any:
        """Make a request that has just arrived."""
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        told = SamplingParams(max_tokens=call.output, ignore_eos=True, extra_args={PREDICTED: call.predicted})
        return Request(
            request_id=name,
            prompt_token_ids=[2 + int(name) % 500] * call.prompt,
            sampling_params=told,
            pooling_params=None,
            arrival_time=call.arrival_ns / 1e9,
        )

    def output(self, names: list[str], tokens: list[list[int]]) -> Any:
        """Make what the model runner gives back."""
        from vllm.v1.outputs import ModelRunnerOutput

        places = {name: k for k, name in enumerate(names)}
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index=places,
            sampled_token_ids=tokens,
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )


def virtual_scheduler(
    model: str, options: dict[str, Any], *, max_num_seqs: int, budget: int, blocks: int, block_size: int = 16
) -> tuple[Any, Time]:
    """Return a scheduler of vLLM with a policy in it, and its clock."""
    import torch
    from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    from .timed import Timed

    longest = 8192
    scheduling = SchedulerConfig(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
        max_model_len=longest,
        async_scheduling=False,
        is_encoder_decoder=False,
    )
    cache = CacheConfig(block_size=block_size, cache_dtype="auto", enable_prefix_caching=False)
    config = VllmConfig(
        scheduler_config=scheduling,
        model_config=ModelConfig(model=model, skip_tokenizer_init=True, max_model_len=longest, dtype="bfloat16"),
        cache_config=cache,
        device_config=DeviceConfig("cpu"),
        additional_config={"batchcube": options},
    )
    group = KVCacheGroupSpec(
        ["layer"], FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float32)
    )
    cache.num_gpu_blocks = blocks
    time = Time()

    class Virtual(Timed):
        clock = unix_clock = staticmethod(time.clock)

    scheduler = Virtual(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[group]),
        structured_output_manager=StructuredOutputManager(config),
        block_size=block_size,
        hash_block_size=block_size,
    )
    return scheduler, time
