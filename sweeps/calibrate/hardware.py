"""From tables of operators to coefficients: the step law of a model on GPUs that nobody has at hand."""

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from batchcube.calibration.coefficients import (
    MOST_RUNNING,
    TOKEN_BUDGET,
    Coefficients,
    DecodeNodes,
    FitQuality,
    LoggedServer,
    Plausibility,
    PrefillNodes,
    StepCoefficients,
)
from batchcube.calibration.hardware import DISTRIBUTION, ENGINES, Deployment, Steps, Tables, models, package_version
from batchcube.calibration.stating import ranges_of
from batchcube.engine.continuous.model import BLOCK_TOKENS
from batchcube.errors import InputError

from .fit import NAME

MEMORY_UTILIZATION = 0.92
"""Part of the memory that vLLM takes unless it is told otherwise, since 0.22."""
_GIB = 2**30
# Times that fall by more than this as the batch grows are said.
_DIP = 0.05
# Decodes, and tokens that each reads, that weights of several kinds are compared with: the largest, and small ones.
_COMPARED = (8, 512)
_WIDE, _SMALL = "bfloat16", ("fp8", "fp8_block")
_DIGITS = 6


class Limits(NamedTuple):
    """What a replica may hold in a step and in memory."""

    most_running: int
    token_budget: int
    utilization: float


def usual_limits(gpu: str, gpu_bytes: int) -> Limits:
    """Return what vLLM 0.32 takes on a GPU for a server that is told nothing."""
    if gpu_bytes >= 160 * _GIB:
        return Limits(1024, 16384, MEMORY_UTILIZATION)
    if gpu_bytes >= 70 * _GIB and not gpu.startswith("a100"):
        return Limits(1024, 8192, MEMORY_UTILIZATION)
    return Limits(MOST_RUNNING, TOKEN_BUDGET, MEMORY_UTILIZATION)


def derive(
    deployment: Deployment,
    name: str,
    *,
    utilization: float | None = None,
    most_running: int | None = None,
    token_budget: int | None = None,
) -> Coefficients:
    """Derive the step law, the room for KV cache and the limits of a deployment; what is not given is as in vLLM.

    Raises InputError for what the tables do not have.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            "the name of coefficients must be letters, digits and . _ -", path="`output`", value=f"{name}.json"
        )
    tables = Tables(deployment)
    usual = usual_limits(deployment.gpu, tables.gpu_bytes)
    limits = Limits(
        most_running or usual.most_running, token_budget or usual.token_budget, utilization or usual.utilization
    )
    memory = tables.memory(limits.utilization, limits.most_running, limits.token_budget, BLOCK_TOKENS)
    steps = tables.steps(limits.most_running, limits.token_budget, memory.capacity_tokens)
    sources = tables.sources()
    engine = ENGINES[deployment.engine]
    replica = LoggedServer(
        most_running=limits.most_running,
        token_budget=limits.token_budget,
        block_tokens=BLOCK_TOKENS,
        capacity_tokens=memory.capacity_tokens,
        async_scheduling=deployment.engine == "vllm",
        replicas=deployment.data_parallel,
        lockstep=deployment.data_parallel > 1,
    )
    usually = Deployment._field_defaults | {"engine": None}
    given = {field: value for field, value in deployment._asdict().items() if value != usually.get(field)}
    return Coefficients(
        name=name,
        label="tables",
        title=f"{tables.name} with {engine} on {gpus_in_words(deployment)}, from tables of operators",
        source=(
            f"NVIDIA's micro-benchmarks of operators ({engine} {tables.engine_version} on {deployment.gpu}), composed "
            f"to steps by {DISTRIBUTION} {package_version()} (Apache-2.0, copyright NVIDIA Corporation and affiliates)"
        ),
        provenance={
            **given,
            "model": tables.model if tables.model in models() else tables.name,
            "package": f"{DISTRIBUTION} {package_version()}",
            "tables": f"{deployment.engine} {tables.engine_version}",
            "decode_time_measured_fraction": round(sources["decode"], 3),
            "prefill_time_measured_fraction": round(sources["prefill"], 3),
            "gpu_memory_utilization": limits.utilization,
            "weight_bytes_per_gpu": memory.weight_bytes,
            "kv_bytes_per_token_per_gpu": memory.kv_bytes_per_token,
            "kv_blocks": memory.capacity_tokens // BLOCK_TOKENS,
        },
        step_law=step_coefficients(steps),
        plausibility=Plausibility(flags=[], notes=[*missing(deployment, sources), *dips(steps), *slower(tables)]),
        replica=replica,
    )


def gpus_in_words(deployment: Deployment) -> str:
    """Return how many GPUs of what kind."""
    count = deployment.tensor_parallel * deployment.pipeline_parallel * deployment.data_parallel
    return f"one {deployment.gpu}" if count == 1 else f"{count} {deployment.gpu}"


def step_coefficients(steps: Steps) -> StepCoefficients:
    """Fit the law to steps, and state it with its residuals and the range that it was made from."""
    law = steps.law()
    residual = law.seconds(*steps[:4]) / steps.seconds - 1.0
    worst = int(np.argmax(np.abs(residual)))
    spread = float(np.sum((steps.seconds - steps.seconds.mean()) ** 2))
    return StepCoefficients(
        c4_s_per_prefill_attention=_rounded(law.c4_s_per_prefill_attention),
        c5_s_per_prefill_step=_rounded(law.c5_s_per_prefill_step),
        decode=DecodeNodes(
            requests=law.requests.astype(int).tolist(),
            s=[_rounded(s) for s in law.decode_s],
            s_per_kv_token=[_rounded(s) for s in law.decode_s_per_kv_token],
        ),
        prefill=PrefillNodes(tokens=law.tokens.astype(int).tolist(), s=[_rounded(s) for s in law.prefill_s]),
        ranges=ranges_of(steps.decodes, steps.kv_tokens, steps.prefill_tokens),
        rms_by_kind={
            kind: _rounded(float(np.sqrt(np.mean(residual[steps.only(kind)] ** 2))))
            for kind in ("decode", "prefill", "mixed")
            if steps.only(kind).any()
        },
        quality=FitQuality(
            measurements=residual.size,
            r_squared=_rounded(1.0 - float(np.sum((residual * steps.seconds) ** 2)) / spread),
            rms_residual=_rounded(float(np.sqrt(np.mean(residual**2)))),
            worst_residual=_rounded(float(residual[worst])),
            worst_at=_in_words(*(float(column[worst]) for column in steps[:3])),
            leave_one_out_rms=None,
            leave_one_size_out_rms=None,
        ),
    )


def _in_words(decodes: float, kv_tokens: float, prefill_tokens: float) -> str:
    said = []
    if decodes:
        said.append(f"{decodes:.0f} decodes of {kv_tokens / decodes:.0f} tokens")
    if prefill_tokens:
        said.append(f"{prefill_tokens:.0f} prefill tokens")
    return " and ".join(said)


def dips(steps: Steps) -> Iterator[str]:
    """Say where more requests decode in the least part of the time of fewer: no GPU does, but tables have it."""
    alone = steps.only("decode")
    decodes, context = steps.decodes[alone], (steps.kv_tokens / np.maximum(steps.decodes, 1.0))[alone]
    # In the order of contexts, and in each of decodes.
    order = np.lexsort((decodes, context))
    seconds, context = steps.seconds[alone][order], context[order]
    most = np.concatenate([np.maximum.accumulate(seconds[context == tokens]) for tokens in np.unique(context)])
    fallen = 1.0 - seconds / most
    at = int(np.argmax(fallen))
    if fallen[at] > _DIP:
        yield (
            f"dip: {decodes[order][at]:.0f} decodes of {context[at]:.0f} tokens take {1e3 * seconds[at]:.3g} ms, fewer "
            f"of them {1e3 * most[at]:.3g} ms"
        )


def slower(tables: Tables) -> Iterator[str]:
    """Say where steps take longer with smaller weights than with those of bfloat16, and with others as small do not.

    A server reads fewer bytes then, and takes no kernel that is slower; tables have such, of experts in fp8 above all.
    Where others as small take longer still, nothing nearer to a server is known.
    """
    asked = tables.deployment.quantization
    if asked is None:
        return

    def seconds(quantization: str) -> float:
        # Not every model has tables of every kind.
        with suppress(InputError):
            return Tables(tables.deployment._replace(quantization=quantization)).decode_s(*_COMPARED)
        return np.inf

    mine, wide = tables.decode_s(*_COMPARED), seconds(_WIDE)
    if mine <= (1.0 + _DIP) * wide:
        return
    faster = {other: took for other in _SMALL if (took := seconds(other)) < mine}
    if faster:
        said = ", ".join(f"{1e3 * took:.3g} ms in {other}" for other, took in ({_WIDE: wide} | faster).items())
        yield (
            f"slower: {_COMPARED[0]} decodes take {1e3 * mine:.3g} ms in {asked}, {said}: the kernels that were "
            "measured are slow ones, and another quantization may be nearer to a server"
        )


def missing(deployment: Deployment, sources: dict[str, float]) -> Iterator[str]:
    """Say what the tables do not hold."""
    yield (
        "not in it: the host, which prepares every step (some ms), and links between machines; of a public log (vLLM "
        "0.19, Llama-3.1-8B, RTX PRO 6000) tables put times to first token 25 % too low and times per output token "
        "11 %"
    )
    decode, prefill = (f"{100 * sources[kind]:.0f} %" for kind in ("decode", "prefill"))
    yield (
        f"measured: {decode} of the time of decodes and {prefill} of that of prefills is read from measurements of "
        "operators, or between them; the rest is formulas"
    )
    if deployment.pipeline_parallel > 1:
        yield (
            f"pipeline: a step passes {deployment.pipeline_parallel} stages one after the other; the engine has as "
            "many batches under way, of which a simulation knows one: throughput is a lower bound"
        )
    if deployment.data_parallel > 1:
        yield (f"data parallel: of one of {deployment.data_parallel} replicas that step together, all loaded alike")


def _rounded(value: float) -> float:
    """Return a number to the digits that a file keeps of it: no more than fits agree on from machine to machine."""
    return float(f"{value:.{_DIGITS}g}")
