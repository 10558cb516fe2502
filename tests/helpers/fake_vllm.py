"""A few modules that look like vLLM's from outside: a scheduler by the same rules, with no model and no GPU."""

import logging
import sys
from collections import deque
from enum import Enum
from hashlib import sha256
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from inside.virtual import Call


class Status(Enum):
    WAITING = 1
    RUNNING = 2
    PREEMPTED = 3
    FINISHED = 4


class Request:
    def __init__(
        self, request_id: str, prompt: int, max_tokens: int, arrival_time: float = 0.0, extra: Any = None
    ) -> None:
        self.request_id, self.num_prompt_tokens, self.max_tokens = request_id, prompt, max_tokens
        self.arrival_time = arrival_time
        self.sampling_params = SimpleNamespace(extra_args=extra)
        self.status = Status.WAITING
        self.num_computed_tokens = self.num_output_tokens = self.num_preemptions = 0
        self.is_prefill_chunk = False
        self.priority = 0
        # Of blocks of 16 tokens: those of every second request are all the same.
        same = int(request_id) % 2 == 0 if request_id.isdigit() else False
        self.block_hashes = [sha256(f"{k}{'' if same else request_id}".encode()).digest() for k in range(prompt // 16)]

    @property
    def num_tokens(self) -> int:
        return self.num_prompt_tokens + self.num_output_tokens


class Queue(deque[Any]):
    add_request, pop_request = deque.append, deque.popleft
    prepend_request, prepend_requests = deque.appendleft, deque.extendleft

    def peek_request(self) -> Any:
        return self[0]

    def remove_requests(self, gone: Any) -> None:
        kept = [request for request in self if request not in gone]
        self.clear()
        self.extend(kept)


class AsyncScheduler:
    """First come, first served, in chunks, in blocks of which one is never used; one token is known after each step."""

    def __init__(self, vllm_config: Any, kv_cache_config: Any, block_size: int) -> None:
        self.vllm_config, self.kv_cache_config, self.block_size = vllm_config, kv_cache_config, block_size
        self.scheduler_config = vllm_config.scheduler_config
        self.max_num_running_reqs = self.scheduler_config.max_num_seqs
        self.max_num_active_reqs = self.scheduler_config.max_num_active_seqs or self.max_num_running_reqs
        self.waiting: Any = Queue()
        self.running: list[Any] = []
        self.requests: dict[str, Any] = {}
        self.finished_req_ids: set[str] = set()
        self.usable = kv_cache_config.num_blocks - 1
        self.pause_state = 0
        self.ended = False

    @property
    def kv_cache_manager(self) -> Any:
        return SimpleNamespace(usage=sum(map(self.blocks, self.running)) / self.usable)

    def blocks(self, request: Any) -> int:
        return -(-request.num_computed_tokens // self.block_size)

    def get_request_counts(self) -> tuple[int, int]:
        return len(self.running), len(self.waiting)

    def get_num_unfinished_requests(self) -> int:
        return sum(self.get_request_counts())

    def add_request(self, request: Any) -> None:
        self.requests[request.request_id] = request
        self.waiting.add_request(request)

    def schedule(self) -> Any:
        budget, scheduled, before = self.scheduler_config.max_num_batched_tokens, {}, {}
        new, resumed, preempted, at = [], set(), False, 0
        given: dict[str, int] = {}

        def fits(request: Any, tokens: int) -> bool:
            held = sum(
                -(-(r.num_computed_tokens + given.get(r.request_id, 0)) // self.block_size)
                for r in self.running
                if r is not request
            )
            return held + -(-(request.num_computed_tokens + tokens) // self.block_size) <= self.usable

        while at < len(self.running) and budget:
            request = self.running[at]
            tokens = min(request.num_tokens - request.num_computed_tokens, budget)
            gone = None
            while gone is not request and not fits(request, tokens):
                preempted, gone = True, self.running.pop()
                gone.status, gone.num_computed_tokens = Status.PREEMPTED, 0
                gone.num_preemptions += 1
                self.waiting.prepend_request(gone)
            if gone is request:
                break
            given[request.request_id] = tokens
            budget, at = budget - tokens, at + 1
        while not preempted and self.waiting and budget and len(self.running) < self.max_num_active_reqs:
            request = self.waiting.peek_request()
            tokens = min(request.num_tokens, budget)
            if not fits(request, request.num_tokens if self.scheduler_config.scheduler_reserve_full_isl else tokens):
                break
            self.waiting.pop_request()
            if request.status is Status.PREEMPTED:
                resumed.add(request.request_id)
            else:
                new.append(request.request_id)
            request.status = Status.RUNNING
            self.running.append(request)
            given[request.request_id] = tokens
            budget -= tokens
        for name, tokens in given.items():
            request = self.requests[name]
            before[name], scheduled[name] = request.num_computed_tokens, tokens
            request.num_computed_tokens += tokens
            request.is_prefill_chunk = request.num_computed_tokens < request.num_tokens
        cached = [name for name in scheduled if name not in new]
        self.finished_req_ids = set()
        return SimpleNamespace(
            num_scheduled_tokens=scheduled,
            total_num_scheduled_tokens=sum(scheduled.values()),
            scheduled_new_reqs=[SimpleNamespace(req_id=n, num_computed_tokens=before[n]) for n in new],
            scheduled_cached_reqs=SimpleNamespace(
                req_ids=cached, num_computed_tokens=[before[n] for n in cached], resumed_req_ids=resumed
            ),
        )

    def update_from_output(self, output: Any, runner: Any) -> dict[int, Any]:
        for name, tokens in zip(runner.names, runner.tokens, strict=True):
            request = self.requests.get(name)
            if request is None or not tokens:
                continue
            request.num_output_tokens += 1
            if request.num_output_tokens == request.max_tokens:
                self.leave(request)
        return {}

    def finish_requests(self, names: Any, status: Any = None) -> None:
        for name in names:
            if name in self.requests:
                self.leave(self.requests[name])

    def leave(self, request: Any) -> None:
        request.status = Status.FINISHED
        if request in self.running:
            self.running.remove(request)
        else:
            self.waiting.remove_requests([request])
        self.finished_req_ids.add(request.request_id)
        del self.requests[request.request_id]

    def shutdown(self) -> None:
        self.ended = True


class Interface:
    """Requests and outputs of these modules; the predicted length is told where it is not the true one."""

    def request(self, name: str, call: Call) -> Request:
        extra = None if call.predicted == call.output else {"predicted_tokens": call.predicted}
        return Request(name, call.prompt, call.output, call.arrival_ns / 1e9, extra)

    def output(self, names: list[str], tokens: list[list[int]]) -> Any:
        return SimpleNamespace(names=names, tokens=tokens)


def config(
    additional: Any,
    *,
    max_num_seqs: int = 8,
    budget: int = 64,
    blocks: int = 41,
    block_size: int = 16,
    policy: str = "fcfs",
    max_num_active_seqs: int | None = None,
    ranks: int = 1,
    caching: bool = False,
    **scheduling: Any,
) -> dict[str, Any]:
    """Return the arguments of a scheduler."""
    scheduler_config = SimpleNamespace(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
        enable_chunked_prefill=True,
        policy=policy,
        max_num_active_seqs=max_num_active_seqs,
        long_prefill_token_threshold=0,
        scheduler_reserve_full_isl=True,
        async_scheduling=False,
    )
    scheduler_config.__dict__.update(scheduling)
    return {
        "vllm_config": SimpleNamespace(
            scheduler_config=scheduler_config,
            additional_config={} if additional is None else {"batchcube": additional},
            model_config=SimpleNamespace(max_model_len=8192),
            cache_config=SimpleNamespace(enable_prefix_caching=caching),
            parallel_config=SimpleNamespace(data_parallel_size=ranks, data_parallel_index=ranks - 1),
        ),
        "kv_cache_config": SimpleNamespace(num_blocks=blocks, kv_cache_groups=[None]),
        "block_size": block_size,
    }


def install(monkeypatch: pytest.MonkeyPatch, version: str = "0.32.0", scheduler: type = AsyncScheduler) -> Any:
    """Put these modules where vLLM's would be; return `batchcube.vllm`, loaded upon them."""
    for name in [name for name in sys.modules if name == "vllm" or name.startswith(("vllm.", "batchcube.vllm"))]:
        monkeypatch.delitem(sys.modules, name)
    parts = ("vllm", "vllm.logger", "vllm.v1", "vllm.v1.core", "vllm.v1.core.sched")
    modules: dict[str, Any] = {name: ModuleType(name) for name in (*parts, "vllm.v1.core.sched.async_scheduler")}
    modules["vllm"].__version__ = version
    modules["vllm.logger"].init_logger = logging.getLogger
    modules["vllm.v1.core.sched.async_scheduler"].AsyncScheduler = scheduler
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    # Whoever comes after shall load it upon what is there then.
    import batchcube

    monkeypatch.delattr(batchcube, "vllm", raising=False)
    import batchcube.vllm

    monkeypatch.setitem(sys.modules, "batchcube.vllm", sys.modules["batchcube.vllm"])
    return batchcube.vllm
