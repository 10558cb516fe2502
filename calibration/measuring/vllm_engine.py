"""Batches through vLLM's offline engine, stepped in this process so that every step can be timed."""

import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.errors import InputError, quoted

from ..coefficients import TOKEN_BUDGET
from ..models import SHAPES, configuration, sizes_of
from .bench import Cell, CellTooLargeError, Sample, check_dtype
from .clock import WALL, cpu_clock

# Read when vLLM is imported; what the user has set stays.
_ENVIRONMENT = {
    # The engine in this process: its steps are ours to call.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}

# Most tokens of a step on a GPU: vLLM makes buffers for a step of its full size, whether one comes or not.
GPU_BUDGET = 131072


# vLLM for CPUs looks, as it starts, into everything in every loaded module, and stumbles over what this one of Numba's
# holds: an object that takes `__dict__` for a function of a library.
_STUMBLING = "llvmlite.binding.ffi"


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Keep a module, if it is loaded, out of sight."""
    module = sys.modules.pop(name, None)
    try:
        yield
    finally:
        if module is not None:
            sys.modules[name] = module


def prepare(threads: int) -> bool:
    """Set what vLLM and torch read when they are imported, and return whether there is a GPU; raises ImportError."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Also where it is set: threads are what was asked for, and what the measurement says.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    on_gpu: bool = torch.cuda.is_available()
    if not on_gpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    return on_gpu


class Limits(NamedTuple):
    """What a serving engine is given, instead of what its largest cell needs."""

    most_running: int
    """max_num_seqs."""
    token_budget: int
    """max_num_batched_tokens."""
    kv_blocks: int
    """Blocks of the KV cache; vLLM keeps one of them to itself."""
    longest: int
    """Most tokens, prompt and output, of one request."""


class VllmEngine:
    """vLLM with prefix caching off, prompts as token ids, `ignore_eos`: a batch runs exactly as long as it is told.

    The token budget and the largest number of sequences are those of the largest cell, so that the whole prefill of a
    batch is one step, but on a GPU at most `GPU_BUDGET` tokens; or they are those of `limits`. Cells that exceed them
    are refused. On one thread of a CPU steps are timed by process time, unless `wall_clock`. Raises ImportError without
    vllm, InputError for a model that cannot be loaded and for `kv_cache_gib` on a GPU.
    """

    def __init__(
        self,
        model: str,
        cells: list[Cell],
        *,
        dummy_weights: bool = False,
        dtype: str = "bfloat16",
        threads: int = 1,
        kv_cache_gib: int | None = None,
        limits: Limits | None = None,
        wall_clock: bool = False,
        seed: int = 0,
    ) -> None:
        if model in SHAPES and not dummy_weights:
            raise InputError("is a shape without weights: add `dummy_weights`", path="`model`", value=model)
        check_dtype(dtype)
        if dummy_weights and (model in SHAPES or Path(model).is_dir()):
            # Nothing is left to ask the hub for.
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        if kv_cache_gib is not None:
            os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(kv_cache_gib)
        on_cpu = not prepare(threads)
        if kv_cache_gib is not None and not on_cpu:
            raise InputError(
                "is for a CPU; on a GPU the cache takes what is free", path="`kv_cache_gib`", value=kv_cache_gib
            )
        import torch
        import vllm

        largest = max(cell.batch_size for cell in cells)
        budget = max(cell.batch_size * cell.prompt_tokens for cell in cells)
        if not on_cpu:
            budget = min(budget, GPU_BUDGET)
        longest = max(cell.prompt_tokens + cell.output_tokens for cell in cells)
        self._folder = tempfile.TemporaryDirectory(prefix="batchcube-model-")
        where = model
        if model in SHAPES:
            where = self._folder.name
            (Path(where) / "config.json").write_text(json.dumps(configuration(model, dtype)), encoding="utf-8")
        options: dict[str, Any] = {
            "enforce_eager": on_cpu,
            "enable_prefix_caching": False,
            "async_scheduling": False,
            "max_num_seqs": largest,
            "max_num_batched_tokens": max(budget, longest, TOKEN_BUDGET),
            "max_model_len": longest,
        }
        if limits is not None:
            options |= {
                "max_num_seqs": limits.most_running,
                "max_num_batched_tokens": limits.token_budget,
                "max_model_len": limits.longest,
                "num_gpu_blocks_override": limits.kv_blocks,
            }
        try:
            with _hidden(_STUMBLING):
                self._llm = vllm.LLM(
                    model=where,
                    load_format="dummy" if dummy_weights else "auto",
                    skip_tokenizer_init=True,
                    dtype=dtype,
                    seed=seed,
                    disable_log_stats=True,
                    **options,
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"vLLM cannot load it: {quoted(error)[:200]}", path="`model`", value=model) from None
        self._sampling = vllm.SamplingParams
        self._options = options
        self._torch = torch
        self.threads = threads
        self.dummy_weights = dummy_weights
        by_wall = wall_clock or not on_cpu
        self.clock, self._now = (WALL, time.perf_counter) if by_wall else cpu_clock(threads)
        config = self._llm.llm_engine.vllm_config
        self._name, self._dtype = model, dtype
        self._sizes = sizes_of(model, config.model_config.hf_config.to_dict(), dtype)
        self._vocabulary = int(config.model_config.get_vocab_size())
        cache = config.cache_config
        self.block_tokens = int(cache.block_size)
        # One of the blocks is the null block, and holds nothing.
        self.capacity_tokens = (int(cache.num_gpu_blocks) - 1) * self.block_tokens
        self._on_cpu = on_cpu
        self._numbers = itertools.count()
        self._rng = np.random.default_rng(seed)

    def describe(self) -> dict[str, Any]:
        """Return what was measured with what."""
        torch = self._torch
        package = "vllm-cpu" if self._on_cpu else "vllm"
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            package, version = "vllm", metadata.version("vllm")
        said: dict[str, Any] = {
            "engine": "vllm",
            "engine_options": ", ".join(f"{name} {value}" for name, value in self._options.items()),
            "engine_versions": f"{package} {version}, torch {metadata.version('torch')}",
            "model": self._name,
            "weights": "random" if self.dummy_weights else "its own",
            "dtype": self._dtype,
            "clock": self.clock,
            "threads": self.threads,
            "kv_capacity_tokens": self.capacity_tokens,
        }
        if self._sizes is not None:
            said |= {"kv_bytes_per_token": self._sizes.kv_bytes_per_token, "model_bytes": self._sizes.weight_bytes}
        if self._on_cpu:
            return said | {"device": "cpu", "driver": "none"}
        properties = torch.cuda.get_device_properties(0)
        return said | {
            "device": properties.name,
            "device_memory_bytes": int(properties.total_memory),
            "driver": f"CUDA {torch.version.cuda}",
        }

    def refusal(self, cell: Cell) -> str:
        """Return why a cell cannot be measured, "" when it can be tried."""
        if cell.kv_tokens > self.capacity_tokens:
            return f"{cell.kv_tokens} tokens of KV cache, the engine has room for {self.capacity_tokens}"
        most, budget = self._options["max_num_seqs"], self._options["max_num_batched_tokens"]
        if cell.batch_size > most:
            return f"{cell.batch_size} requests, the engine runs {most} at once"
        if cell.batch_size * cell.prompt_tokens > budget:
            return f"a prefill of {cell.batch_size * cell.prompt_tokens} tokens, a step of the engine holds {budget}"
        return ""

    def run(self, cell: Cell) -> Sample:
        """Serve one batch of random prompts and time each engine step."""
        engine = self._llm.llm_engine
        for prompt in self._rng.integers(2, self._vocabulary, (cell.batch_size, cell.prompt_tokens)).tolist():
            self._add(prompt, cell.output_tokens)
        step_s = []
        started = time.perf_counter()
        while engine.has_unfinished_requests():
            start = self._now()
            engine.step()
            step_s.append(self._now() - start)
        if len(step_s) != cell.output_tokens:
            # More steps than tokens: the prefill was cut up, or a request was preempted.
            raise CellTooLargeError(f"took {len(step_s)} steps for {cell.output_tokens} tokens")
        return Sample(np.array(step_s), time.perf_counter() - started)

    def serve(
        self, arrival_s: NDArray[np.float64], prompt_tokens: NDArray[np.int64], output_tokens: NDArray[np.int64]
    ) -> list[dict[str, float]]:
        """Serve requests in real time, each field (request,); return their log, as `calibration.logs` reads it.

        A request that arrives while the engine is in a step is handed over when the step ends; it counts as queued from
        its arrival. Seconds since the start, by the wall clock.
        """
        engine = self._llm.llm_engine
        log: list[dict[str, float]] = []
        numbers: dict[str, int] = {}
        begun = time.perf_counter()
        while len(log) < len(arrival_s) or engine.has_unfinished_requests():
            now = time.perf_counter() - begun
            while len(log) < len(arrival_s) and arrival_s[len(log)] <= now:
                i = len(log)
                prompt = self._rng.integers(2, self._vocabulary, int(prompt_tokens[i])).tolist()
                numbers[self._add(prompt, int(output_tokens[i]))] = i
                log.append(
                    {
                        "input_toks": int(prompt_tokens[i]),
                        "output_toks": int(output_tokens[i]),
                        "queued_ts": float(arrival_s[i]),
                    }
                )
            if not engine.has_unfinished_requests():
                time.sleep(max(0.0, float(arrival_s[len(log)]) - now))
                continue
            emitted = engine.step()
            now = time.perf_counter() - begun
            for output in emitted:
                entry = log[numbers[output.request_id]]
                entry.setdefault("first_token_ts", now)
                if output.finished:
                    entry["last_token_ts"] = now
        return log

    def _add(self, prompt: list[int], output_tokens: int) -> str:
        """Hand a request over; return its name."""
        told = self._sampling(
            max_tokens=output_tokens, min_tokens=output_tokens, ignore_eos=True, detokenize=False, temperature=0
        )
        name = str(next(self._numbers))
        self._llm.llm_engine.add_request(name, {"prompt_token_ids": prompt}, told)
        return name
