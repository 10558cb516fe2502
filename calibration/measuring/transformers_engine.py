"""Static batches through Hugging Face Transformers with a KV cache: the request-level model, run for real."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchcube.errors import InputError, quoted

from ..models import SHAPES, configuration, sizes_of
from .bench import Cell, CellTooLargeError, Sample, check_dtype
from .clock import CUDA, WALL, cpu_clock


class TransformersEngine:
    """A causal language model that decodes greedily, all requests of a batch in step, as `generate` does.

    `model` is one of `models.SHAPES`, a folder, or a name on the hub; with `dummy_weights` its weights are random. On a
    CPU steps are timed by process time on one thread, unless `wall_clock`, and the cache grows by concatenation
    (`DynamicCache`, what `generate` uses unless told otherwise). On a GPU the prefill is the same; decode steps are
    replayed from a CUDA graph over a cache of fixed size, as serving engines do: launched one by one they take as long
    as the CPU needs for that.
    Raises ImportError without torch and transformers, InputError for a model or device that is not there.
    """

    def __init__(
        self,
        model: str,
        *,
        dummy_weights: bool = False,
        device: str = "cpu",
        dtype: str = "bfloat16",
        threads: int = 1,
        wall_clock: bool = False,
        seed: int = 0,
    ) -> None:
        if model in SHAPES and not dummy_weights:
            raise InputError("is a shape without weights: add `dummy_weights`", path="`model`", value=model)
        check_dtype(dtype)
        import torch
        import transformers

        self._torch = torch
        if device not in ("cpu", "cuda"):
            raise InputError("must be cpu or cuda", path="`device`", value=device)
        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("torch sees no CUDA device here", path="`device`", value=device)
        self.device = device
        self.threads = threads
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        transformers.utils.logging.set_verbosity_error()
        kind = getattr(torch, dtype)
        self._growing: Callable[..., Any] = transformers.DynamicCache
        self._fixed: Callable[..., Any] = transformers.StaticCache
        try:
            if model in SHAPES:
                settings = configuration(model, dtype)
                config = transformers.AutoConfig.for_model(**settings)
            else:
                config = transformers.AutoConfig.from_pretrained(model)
            if dummy_weights:
                with torch.device(device):
                    built = transformers.AutoModelForCausalLM.from_config(config, dtype=kind)
            else:
                built = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=kind).to(device)
        except (OSError, ValueError) as error:
            raise InputError(quoted(error)[:200], path="`model`", value=model) from None
        self._model = built.eval()
        self.vocabulary = int(config.vocab_size)
        self._positions = int(config.max_position_embeddings)
        self._name, self._dtype = model, dtype
        self._sizes = sizes_of(model, config.to_dict(), dtype)
        self.dummy_weights = dummy_weights
        self._rng = np.random.default_rng(seed)
        self.clock, self._now = cpu_clock(threads)
        if wall_clock or device == "cuda":
            self.clock, self._now = (CUDA if device == "cuda" else WALL), time.perf_counter

    def describe(self) -> dict[str, Any]:
        """Return what was measured with what."""
        torch = self._torch
        said: dict[str, Any] = {
            "engine": "transformers",
            "engine_options": "static batches in step, DynamicCache, greedy, sdpa attention, no compilation"
            + (", decode steps from a CUDA graph with StaticCache" if self.device == "cuda" else ""),
            "engine_versions": ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers")),
            "model": self._name,
            "weights": "random" if self.dummy_weights else "its own",
            "dtype": self._dtype,
            "clock": self.clock,
            "threads": self.threads,
        }
        if self._sizes is not None:
            weights = sum(p.numel() * p.element_size() for p in self._model.parameters())
            said |= {"kv_bytes_per_token": self._sizes.kv_bytes_per_token, "model_bytes": weights}
        if self.device == "cuda":
            properties = torch.cuda.get_device_properties(0)
            said |= {
                "device": properties.name,
                "device_memory_bytes": int(properties.total_memory),
                "driver": f"CUDA {torch.version.cuda}, driver {_driver()}",
            }
        else:
            said |= {"device": "cpu", "driver": "none"}
        return said

    def refusal(self, cell: Cell) -> str:
        """Return why a cell cannot be measured, "" when it can be tried."""
        longest = cell.prompt_tokens + cell.output_tokens
        if longest > self._positions:
            return f"{longest} tokens, the model has {self._positions} positions"
        if self.device == "cuda" and self._sizes is not None:
            # The cache that grew and the fixed one are both there for a while: what torch cannot give is caught later.
            free, _ = self._torch.cuda.mem_get_info()
            free += self._torch.cuda.memory_reserved() - self._torch.cuda.memory_allocated()
            need = 2 * cell.kv_tokens * self._sizes.kv_bytes_per_token
            if need > free:
                return f"two KV caches of {need / 2e9:.1f} GB, {free / 1e9:.1f} GB are free"
        return ""

    def run(self, cell: Cell) -> Sample:
        """Serve one batch of random prompts and time each step."""
        shape = (cell.batch_size, cell.prompt_tokens)
        prompts = self._rng.integers(2, self.vocabulary, shape)
        started = time.perf_counter()
        step_s = self.generate(prompts, cell.output_tokens)
        return Sample(step_s, time.perf_counter() - started)

    def generate(self, prompts: NDArray[np.int64], output_tokens: int) -> NDArray[np.float64]:
        """Decode `output_tokens` for prompts (batch, token); return the seconds of every step, the prefill first."""
        torch = self._torch
        with torch.inference_mode(), self._room():
            tokens = torch.from_numpy(prompts).to(self.device)
            cache = self._growing(config=self._model.config)
            if self.device == "cuda":
                return self._generate_on_gpu(tokens, cache, output_tokens)
            step_s = np.empty(output_tokens)
            for step in range(output_tokens):
                start = self._now()
                tokens = self._step(tokens, cache)
                step_s[step] = self._now() - start
            return step_s

    def _generate_on_gpu(self, tokens: Any, cache: Any, output_tokens: int) -> NDArray[np.float64]:
        cuda = self._torch.cuda
        # Without a wait between the steps: the GPU is timed.
        prefill = [cuda.Event(enable_timing=True) for _ in range(2)]
        decodes = [cuda.Event(enable_timing=True) for _ in range(output_tokens)]
        prompt = tokens.shape[1]
        prefill[0].record()
        tokens = self._step(tokens, cache)
        prefill[1].record()
        fixed = self._fixed(config=self._model.config, max_cache_len=prompt + output_tokens)
        replay = self._captured(tokens, cache, fixed)
        decodes[0].record()
        for event in decodes[1:]:
            replay()
            event.record()
        cuda.synchronize()
        pairs = [tuple(prefill), *itertools.pairwise(decodes)]
        return np.array([a.elapsed_time(b) / 1e3 for a, b in pairs])

    def _captured(self, tokens: Any, cache: Any, fixed: Any) -> Callable[[], None]:
        """Capture a decode step over `fixed`, filled from `cache`; return what replays it, which moves `tokens` on."""
        cuda = self._torch.cuda
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            # Once before: kernels are loaded, and workspaces made.
            fill(fixed, cache)
            self._step(tokens, fixed)
        cuda.current_stream().wait_stream(side)
        fixed.reset()
        fill(fixed, cache)
        cache.layers.clear()
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            tokens.copy_(self._step(tokens, fixed))
        replay: Callable[[], None] = graph.replay
        return replay

    def _step(self, tokens: Any, cache: Any) -> Any:
        found = self._model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return found.logits[:, -1, :].argmax(dim=-1, keepdim=True)

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except self._torch.OutOfMemoryError as error:
            self._torch.cuda.empty_cache()
            raise CellTooLargeError(f"the device's memory ended: {str(error).split('.')[0]}") from None


def fill(fixed: Any, cache: Any) -> None:
    """Copy what a cache holds, layer by layer, into an empty one of fixed size."""
    for layer, filled in zip(fixed.layers, cache.layers, strict=True):
        layer.update(filled.keys, filled.values)


def _driver() -> str:
    """Return the version of the NVIDIA driver."""
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8") as file:
            words = file.readline().split()
        return next((word for word in words if word[:1].isdigit() and "." in word), "unknown")
    except OSError:
        return "unknown"
