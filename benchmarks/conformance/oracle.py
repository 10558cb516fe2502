"""vLLM's own scheduler on a virtual clock: cases in, the instants of every request out. Runs in vLLM's environment.

The scheduler, its KV cache manager and its block pool are vLLM's, untouched, and so are the steps in which its engine
core calls them. Only the executor is ours: a step takes what the step law says (docs/model.md, section 10), in whole
picoseconds. A first line says which vLLM this is; then each line of the input is a case (see cases.py), and each line
of the output its answer. Nothing here needs batchcube.
"""

import collections
import json
import os
import queue
import sys
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}

MODEL = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 512,
    "max_position_embeddings": 2**17,
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 1,
}
"""A model that is never run: all groups of layers have full attention."""
LONGEST = 2**16
"""Tokens of a request where a case says nothing of `max_model_len`."""
MOST_IDLE = 8
"""Steps in a row in which nothing is computed, after which nothing ever will be."""


def version() -> str:
    """Return which vLLM this is."""
    try:
        return metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return metadata.version("vllm")


def model_config(folder: Path) -> Any:
    """Return vLLM's configuration of the model, whose file is written to a folder."""
    from vllm.config import ModelConfig

    (folder / "config.json").write_text(json.dumps(MODEL))
    return ModelConfig(model=str(folder), dtype="bfloat16", seed=0, skip_tokenizer_init=True, max_model_len=LONGEST)


def make_scheduler(model: Any, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return vLLM's scheduler with the options of a case, which have vLLM's names, and its whole configuration."""
    import torch
    from vllm.config import CacheConfig, DeviceConfig, SchedulerConfig, VllmConfig
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    block_size, blocks = options["block_size"], options["num_gpu_blocks"]
    model.max_model_len = options["max_model_len"] or LONGEST
    scheduling = SchedulerConfig(
        max_num_seqs=options["max_num_seqs"],
        max_num_batched_tokens=options["max_num_batched_tokens"],
        max_model_len=model.max_model_len,
        max_num_active_seqs=options["max_num_active_seqs"],
        long_prefill_token_threshold=options["long_prefill_token_threshold"],
        long_prefill_token_threshold_adaptive=options["long_prefill_token_threshold_adaptive"],
        scheduler_reserve_full_isl=options["scheduler_reserve_full_isl"],
        policy=options["scheduling_policy"],
        enable_chunked_prefill=True,
        is_encoder_decoder=False,
    )
    cache = CacheConfig(
        block_size=block_size, cache_dtype="auto", enable_prefix_caching=options["enable_prefix_caching"]
    )
    config = VllmConfig(
        scheduler_config=scheduling, model_config=model, cache_config=cache, device_config=DeviceConfig("cpu")
    )
    # Only now: vLLM switches it off on CPUs.
    scheduling.async_scheduling = options["async_scheduling"]
    cache.num_gpu_blocks = blocks
    layer = FullAttentionSpec(block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float32)
    scheduler = (AsyncScheduler if options["async_scheduling"] else Scheduler)(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], layer)]
        ),
        structured_output_manager=StructuredOutputManager(config),
        block_size=block_size,
        hash_block_size=block_size,
        log_stats=False,
    )
    return scheduler, config


class Step(NamedTuple):
    """A step that the device was given, as the future of its tokens: whoever asks for them waits until its end."""

    replay: "Replay"
    end: int
    sampled: dict[str, list[int]]
    """Tokens of each request in it: one, or none where its prefill goes on."""

    def result(self) -> Any:
        """Let the time pass, and return the tokens."""
        from vllm.v1.outputs import ModelRunnerOutput

        self.replay.note(self)
        return ModelRunnerOutput(
            req_ids=list(self.sampled),
            req_id_to_index={key: row for row, key in enumerate(self.sampled)},
            sampled_token_ids=list(self.sampled.values()),
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )


class Replay:
    """A case on vLLM's engine core, whose device is a clock: steps one after the other, as long as the law says."""

    def __init__(self, model: Any, case: Mapping[str, Any]) -> None:
        self.case, options = case, case["options"]
        self.count = len(case["arrival"])
        self.longest = options["max_model_len"] or LONGEST
        self.hasher = block_hasher(options["block_size"]) if options["enable_prefix_caching"] else None
        self.scheduler, config = make_scheduler(model, options)
        self.core = engine_core(self.scheduler, self, config)
        self.now = self.free = self.steps = self.arrived = 0
        self.requests: dict[str, Any] = {}
        self.scheduled, self.first_token, self.last_token = ([-1] * self.count for _ in range(3))
        self.cached = [0] * self.count

    def run(self) -> dict[str, Any]:
        """Serve all requests; return what became of them, each field (request,), instants in picoseconds."""
        idle = 0
        while True:
            self.let_in()
            if not (self.scheduler.has_requests() or self.core.batch_queue):
                if self.arrived == self.count:
                    break
                self.now = self.case["arrival"][self.arrived]
                continue
            _, executed = self.core.step_fn()
            idle = 0 if executed else idle + 1
            if idle > MOST_IDLE:
                raise RuntimeError("nothing can be scheduled any more")
        there = [self.requests.get(name(number)) for number in range(self.count)]
        return {
            "vllm": version(),
            "scheduled": self.scheduled,
            "first_token": self.first_token,
            "last_token": self.last_token,
            "preemptions": [request.num_preemptions if request else 0 for request in there],
            "cached": self.cached,
            "steps": self.steps,
        }

    def let_in(self) -> None:
        """Hand over who has arrived; vLLM's front end refuses a prompt that leaves no room for an answer."""
        while self.arrived < self.count and self.case["arrival"][self.arrived] <= self.now:
            number, self.arrived = self.arrived, self.arrived + 1
            if self.case["prompt"][number] < self.longest:
                self.add(number)

    def add(self, number: int) -> None:
        """Give a request to the scheduler."""
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        request = Request(
            request_id=name(number),
            prompt_token_ids=[token(self.case, number, position) for position in range(self.case["prompt"][number])],
            sampling_params=SamplingParams(max_tokens=self.case["output"][number], ignore_eos=True),
            pooling_params=None,
            # No two requests of a server arrive at one instant. Where priorities and arrivals are the same, vLLM
            # preempts who has run longest, and with it everybody in turn, for ever.
            arrival_time=number,
            priority=self.case["priority"][number],
            block_hasher=self.hasher,
        )
        self.requests[request.request_id] = request
        self.scheduler.add_request(request)

    def execute_model(self, scheduled: Any, *, non_block: bool) -> Step:
        """Take up a step once the device is free, as vLLM's executors do."""
        start = max(self.now, self.free)
        c0, c1, c2, c3, c4 = self.case["law"]
        duration, sampled = c0, {}
        admitted = {new.req_id for new in scheduled.scheduled_new_reqs}
        admitted |= scheduled.scheduled_cached_reqs.resumed_req_ids
        for key, chunk in scheduled.num_scheduled_tokens.items():
            request, number = self.requests[key], int(key)
            after = request.num_computed_tokens
            if key in admitted:
                self.cached[number] += after - chunk
            if self.scheduled[number] < 0:
                self.scheduled[number] = start
            latest = chunk == 1 and after > request.num_prompt_tokens and not request.is_prefill_chunk
            if latest and key not in admitted:
                duration += c1 + c2 * after
            else:
                duration += c3 * chunk + c4 * chunk * after
            sampled[key] = [] if request.is_prefill_chunk else [token(self.case, number, after)]
        if sampled:
            self.steps += 1
            self.free = start + duration
        self.latest = Step(self, self.free, sampled)
        return self.latest

    def sample_tokens(self, grammar: None, *, non_block: bool) -> Step:
        """Return the future of the step that was given last."""
        return self.latest

    def note(self, step: Step) -> None:
        """Be at the end of a step, and note its tokens."""
        self.now = max(self.now, step.end)
        for key, tokens in step.sampled.items():
            number, request = int(key), self.requests[key]
            if tokens and not request.is_finished():
                if self.first_token[number] < 0:
                    self.first_token[number] = self.now
                # The last of them stays.
                self.last_token[number] = self.now


def engine_core(scheduler: Any, executor: Replay, config: Any) -> Any:
    """Return vLLM's engine core around a scheduler and what executes its steps, without the processes around it."""
    from vllm.v1.engine.core import EngineCore

    core = object.__new__(EngineCore)
    core.vllm_config, core.scheduler, core.model_executor, core.log_stats = config, scheduler, executor, False
    core.aborts_queue, core._weight_version = queue.Queue(), None
    core.is_mm_encoder_only = core.is_pooling_model = core.check_for_draft_tokens = False
    core.batch_queue_size = config.max_concurrent_batches
    core.batch_queue = collections.deque() if core.batch_queue_size > 1 else None
    core.step_fn = core.step if core.batch_queue is None else core.step_with_batch_queue
    return core


def name(number: int) -> str:
    """Return vLLM's name of a request."""
    return f"{number:06d}"


def token(case: Mapping[str, Any], number: int, position: int) -> int:
    """Return a token of a request (prompt, then answer): its own, or one that it shares with an earlier request."""
    while position < case["shared"][number]:
        number = case["parent"][number]
    return (number + 1) * LONGEST + position


def block_hasher(block_size: int) -> Any:
    """Return vLLM's function that hashes the blocks of a request."""
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

    hash_function = get_hash_fn_by_name("sha256")
    init_none_hash(hash_function)
    return get_request_block_hasher(block_size, hash_function)


def main() -> None:
    """Answer cases, a line each, until there are no more."""
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps({"vllm": version()}), file=answers, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model = model_config(Path(folder))
        for line in sys.stdin:
            try:
                answer = Replay(model, json.loads(line)).run()
            except Exception as error:
                answer = {"vllm": version(), "error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
