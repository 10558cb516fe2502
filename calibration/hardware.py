"""Step times of models on GPUs that are not at hand: NVIDIA's micro-benchmarks of operators, composed to steps.

The package aiconfigurator-core (Apache-2.0, the extra `hardware`) holds times of matrix products, attention, experts
and communication that were measured on GPUs with the kernels of vLLM, SGLang and TensorRT-LLM, and adds them up to the
step of a model. It knows neither the host, which prepares every step, nor what is on the links between machines.

Nothing is downloaded: a model is one whose configuration comes with that package, or a folder with a config.json.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.errors import InputError, did_you_mean, near, one_of, quoted

from .bent import BentLaw, fit_bent

Floats = NDArray[np.float64]

PACKAGE = "aiconfigurator_core"
DISTRIBUTION = "aiconfigurator-core"
ENGINES = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
"""Engines whose kernels were measured, and how they are written."""

# Where a law has nodes, and where it is sampled: powers of two, as was measured, and half-way between the larger ones.
_REQUEST_NODES = (0, 1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_TOKEN_NODES = (0, 16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
_DECODES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_CONTEXTS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_PREFILLS = (16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
_PREFIXES = (0, 1024, 4096, 16384)
_MIXED_PREFILLS = (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_MIXED_DECODES = (1, 8, 32, 128, 256, 512)
_MIXED_CONTEXTS = (512, 2048, 8192)
_MIXED_PREFIXES = (0, 4096)
_LONGEST_CAUSE = 160


class Deployment(NamedTuple):
    """A model on GPUs under an engine, in vLLM's words."""

    model: str
    """Name of a model that comes with the package, or a folder with a config.json."""
    gpu: str
    engine: str = "vllm"
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    """Of attention, with experts over all; such replicas step together."""
    expert_parallel: bool = False
    """Experts are spread over the GPUs, instead of each being split over them."""
    quantization: str | None = None
    """Of the weights; as the configuration has it when None."""
    kv_cache_dtype: str | None = None


class Memory(NamedTuple):
    """What one GPU holds, of a pipeline one of the stage with the most layers: its room is that of all."""

    weight_bytes: int
    kv_bytes_per_token: int
    capacity_tokens: int
    """Tokens whose KV cache fits beside the weights, activations and the runtime."""


class Steps(NamedTuple):
    """Steps that the tables were asked for, as arrays (step,)."""

    decodes: Floats
    kv_tokens: Floats
    """That all decodes read, their own included."""
    prefill_tokens: Floats
    prefill_attention: Floats
    """Tokens of the chunk times those of its context, the chunk included."""
    seconds: Floats

    def only(self, kind: str) -> NDArray[np.bool_]:
        """Say which steps (step,) are `decode`, `prefill` or `mixed`."""
        decode, prefill = self.decodes > 0, self.prefill_tokens > 0
        return {"decode": decode & ~prefill, "prefill": prefill & ~decode, "mixed": decode & prefill}[kind]

    def law(self) -> BentLaw:
        """Fit the bent step law to them."""
        nodes = [
            sorted({*(node for node in usual if node < most), int(most)})
            for usual, most in ((_REQUEST_NODES, self.decodes.max()), (_TOKEN_NODES, self.prefill_tokens.max()))
        ]
        return fit_bent(*self, *nodes)


@cache
def gpus() -> Mapping[str, Mapping[str, str]]:
    """Return for every GPU with measurements the engines, each with the version that was measured."""
    from aiconfigurator_core.sdk.common import SupportedSystems
    from aiconfigurator_core.sdk.perf_database import get_version_slots

    found = {}
    for gpu in sorted(SupportedSystems):
        slots = {engine: get_version_slots(gpu, engine) for engine in ENGINES}
        measured = {engine: slot["current"] for engine, slot in slots.items() if slot}
        if measured:
            found[gpu] = measured
    return found


def models() -> list[str]:
    """Return the names of the models whose configuration comes with the package."""
    from aiconfigurator_core.sdk.common import DefaultHFModels

    return sorted(DefaultHFModels, key=str.casefold)


def package_version() -> str:
    """Return the version of aiconfigurator-core."""
    return version(DISTRIBUTION)


def is_installed() -> bool:
    """Say whether the extra is there."""
    from importlib.util import find_spec

    return find_spec(PACKAGE) is not None


class Tables:
    """The step times of one deployment, in seconds.

    Raises InputError, one line, for a model, GPU or engine that the package does not know, with near matches, and for a
    combination that it has no measurements of.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        known = gpus()
        if deployment.engine not in ENGINES:
            raise _unknown("`engine`", deployment.engine, ENGINES)
        if deployment.gpu not in known:
            raise _unknown("`gpu`", deployment.gpu, known)
        if deployment.engine not in known[deployment.gpu]:
            raise InputError(
                f"no measurements on {deployment.gpu}, only of {', '.join(known[deployment.gpu])}",
                path="`engine`",
                value=deployment.engine,
            )
        self.engine_version = known[deployment.gpu][deployment.engine]
        self.model = _model(deployment.model)
        with self._in_one_line():
            from aiconfigurator_core.sdk.utils import get_model_config_from_model_path

            found = get_model_config_from_model_path(self.model)
        self.longest = int(found["context"])
        """Tokens of the longest context that the model is made for."""
        layers, stages = int(found["layers"]), deployment.pipeline_parallel
        self._fullest = -(-layers // stages) / layers
        """Share of the layers in the stage of a pipeline that has the most: vLLM deals them out evenly."""
        experts = bool(found["num_experts"])
        for argument, given in (
            ("`data_parallel`", deployment.data_parallel > 1),
            ("`expert_parallel`", deployment.expert_parallel),
        ):
            if given and not experts:
                raise InputError(f"{self.name} has no experts: its replicas are servers of their own", path=argument)
        width = deployment.tensor_parallel * deployment.data_parallel
        self._parallel = {
            "tp_size": deployment.tensor_parallel,
            "pp_size": deployment.pipeline_parallel,
            "attention_dp_size": deployment.data_parallel,
            "moe_tp_size": 1 if deployment.expert_parallel or not experts else width,
            "moe_ep_size": width if deployment.expert_parallel else 1,
            "gemm_quant_mode": _quantization("GEMMQuantMode", "`quantization`", deployment.quantization),
            "moe_quant_mode": _quantization("MoEQuantMode", "`quantization`", deployment.quantization)
            if experts
            else None,
            "kvcache_quant_mode": _quantization("KVCacheQuantMode", "`kv_cache_dtype`", deployment.kv_cache_dtype),
        }
        with self._in_one_line():
            from aiconfigurator_core.sdk.engine import EngineHandle

            self._engine = EngineHandle.compile(
                self.model,
                deployment.gpu,
                deployment.engine,
                backend_version=self.engine_version,
                **self._parallel,
            )

    @property
    def name(self) -> str:
        """The model without the organisation that published it, or the folder's."""
        return Path(self.model).name

    @property
    def gpu_bytes(self) -> int:
        """Memory of one GPU."""
        from aiconfigurator_core.sdk.perf_database import load_system_spec

        return int(load_system_spec(self.deployment.gpu)["gpu"]["mem_capacity"])

    def decode_s(self, decodes: int, context: int) -> float:
        """Return the time of a step of decodes that read so many tokens each, their own included."""
        return self._asked(lambda: self._engine.predict_decode_latency(decodes, context - 1, 2))

    def prefill_s(self, tokens: int, prefix: int = 0) -> float:
        """Return the time of a step that prefills a chunk behind so many tokens of its prompt."""
        return self._asked(lambda: self._engine.predict_prefill_latency(1, prefix + tokens, prefix))

    def mixed_s(self, tokens: int, prefix: int, decodes: int, context: int) -> float:
        """Return the time of a step of both: matrix products over all tokens together, attention of each apart."""
        return (
            self._dense_s(tokens + decodes)
            + (self.prefill_s(tokens, prefix) - self._dense_s(tokens))
            + self._asked(lambda: self._engine.mixed_step_breakdown(tokens, decodes, context - 2, 2)[3])
        )

    def _dense_s(self, tokens: int) -> float:
        """Return the time of all but attention for so many tokens of a prefill."""
        return self._asked(lambda: self._engine.mixed_step_breakdown(tokens, 0, tokens, 2)[1])

    def sources(self) -> dict[str, float]:
        """Return the share of time that is read from measurements and between them, and that of formulas.

        Of eight decodes and of a prefill of 512 tokens. What the package puts together of both counts as formulas.
        """
        shares = {}
        for kind, at in (("decode", 1), ("prefill", 0)):
            with self._in_one_line():
                phases = self._engine.run_static_per_op(batch_size=1 if kind == "prefill" else 8, isl=512, osl=2)
            times = [(seconds, source) for _, seconds, _, source in phases[at]]
            total = sum(seconds for seconds, _ in times)
            shares[kind] = sum(seconds for seconds, source in times if source == "silicon") / total
        return shares

    def memory(self, utilization: float, most_running: int, token_budget: int, block_tokens: int) -> Memory:
        """Return what one GPU holds when the engine may take a part of its memory; InputError where nothing is left."""
        from aiconfigurator_core.sdk.memory import estimate_kv_cache

        try:
            with self._in_one_line():
                found = estimate_kv_cache(
                    self.model,
                    self.deployment.gpu,
                    self.deployment.engine,
                    self.engine_version,
                    max_num_tokens=token_budget,
                    max_batch_size=most_running,
                    memory_fraction_kind="of_free" if self.deployment.engine == "trtllm" else "of_total",
                    memory_fraction_value=utilization,
                    **self._parallel,
                )
        except InputError as error:
            raise error.advised("`tensor_parallel` spreads a model over more GPUs") from None
        # The package's weights are those of the mean stage, and its KV cache is that of all layers.
        room, mean = found["total_kv_size_bytes"], found["memory_breakdown"]["weights_bytes"]
        weights = mean * self.deployment.pipeline_parallel * self._fullest
        left = (room + mean - weights) / room
        if left <= 0:
            raise InputError("its fullest stage leaves no room for a KV cache", path="`pipeline_parallel`")
        tokens = int(found["total_kv_size_tokens"] * left / self._fullest) // block_tokens * block_tokens
        return Memory(int(weights), int(found["kv_size_per_token_bytes"] * self._fullest), tokens)

    def steps(self, most_running: int, token_budget: int, capacity_tokens: int) -> Steps:
        """Ask for steps of decodes, of prefills and of both that can occur, over contexts and prefixes."""
        # Beyond that the package goes on without having measured.
        most_running, token_budget = min(most_running, _DECODES[-1]), min(token_budget, _PREFILLS[-1])
        longest = min(self.longest, capacity_tokens)
        decodes = [d for d in sorted({*_DECODES, most_running}) if d <= most_running]
        prefills = [p for p in sorted({*_PREFILLS, token_budget}) if p <= token_budget]
        rows: list[tuple[float, ...]] = []
        for d in decodes:
            for c in _CONTEXTS:
                if c <= longest and d * c <= capacity_tokens:
                    rows.append((d, d * c, 0, 0, self.decode_s(d, c)))
        for p in prefills:
            for before in _PREFIXES:
                if before + p <= longest:
                    rows.append((0, 0, p, p * (before + p), self.prefill_s(p, before)))
        for p in _MIXED_PREFILLS:
            for before in _MIXED_PREFIXES:
                for d in _MIXED_DECODES:
                    for c in _MIXED_CONTEXTS:
                        room = before + p <= longest and c <= longest and d * c + before + p <= capacity_tokens
                        if d <= most_running and p + d <= token_budget and room:
                            rows.append((d, d * c, p, p * (before + p), self.mixed_s(p, before, d, c)))
        return Steps(*np.array(rows, np.float64).T)

    def _asked(self, ask: Callable[[], float]) -> float:
        """Return seconds for the package's milliseconds."""
        with self._in_one_line():
            return ask() / 1e3

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        """Say in one line, with the package's words, what it has no measurements of; its warnings are not passed on."""
        logger = logging.getLogger(PACKAGE)
        level = logger.level
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        except InputError:
            raise
        except (AssertionError, ArithmeticError, LookupError, RuntimeError, ValueError) as error:
            asked = f"{self.deployment.model} on {self.deployment.gpu} with {self.deployment.engine}"
            raise InputError(f"the tables refuse it: {_cause(error)}", path=asked) from None
        finally:
            logger.setLevel(level)


def _cause(error: Exception) -> str:
    """Return what an exception of the package says, up to the first path of a file or end of a sentence."""
    said = quoted(error).removeprefix("perf database error: ").partition(": tried ")[0]
    said = said.partition(" at /")[0].partition(". ")[0].removesuffix(".")
    return said if len(said) <= _LONGEST_CAUSE else said[:_LONGEST_CAUSE].rpartition(" ")[0] + " ..."


def folder_of(name: str) -> Path | None:
    """Return the folder of a configuration, which may be named itself; None where there is none."""
    path = Path(os.path.expanduser(name))
    folder = path.parent if path.name == "config.json" else path
    return folder if (folder / "config.json").is_file() else None


def _model(name: str) -> str:
    """Return the package's name of a model, or the folder of a configuration."""
    folder = folder_of(name)
    if folder is not None:
        return str(folder)
    known = models()
    short: dict[str, list[str]] = {}
    for one in known:
        short.setdefault(short_name(one), []).append(one)
    found = [name] if name in known else short.get(short_name(name), [])
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"may be {' or '.join(found)}", path="`model`", value=name)
    close = [short[one][0] for one in near(short_name(name), short)]
    raise InputError(
        f"is none of the {len(known)} models that come with {DISTRIBUTION} (batchcube calibrate hardware --list), "
        f"and no folder with a config.json{f'; did you mean {one_of(close)}?' if close else ''}",
        path="`model`",
        value=name,
    )


def short_name(name: str) -> str:
    """Return what models of the same shapes have in common: neither who published it nor what it was trained for."""
    said = name.rpartition("/")[2].casefold()
    return said.removeprefix("meta-").removesuffix("-instruct").removesuffix("-hf")


def _unknown(argument: str, given: str, known: Iterable[str]) -> InputError:
    hints = f"must be one of {', '.join(known)}", did_you_mean(given, known)
    return InputError("; ".join(filter(None, hints)), path=argument, value=given)


def _quantization(modes: str, argument: str, given: str | None) -> str | None:
    from aiconfigurator_core.sdk import common

    known = list(getattr(common, modes).__members__)
    if given is not None and given not in known:
        raise _unknown(argument, given, known)
    return given
