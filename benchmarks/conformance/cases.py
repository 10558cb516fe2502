"""Random cases of continuous batching over all options of vLLM's scheduler that are modelled, and their file.

A case is small JSON: requests in arrival order, a step law in picoseconds, and the options by vLLM's own names. Answers
are what became of each request, by vLLM or by the simulator.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np

from batchcube.errors import InputError
from batchcube.sweeps.files import write_text

MILLISECOND = 10**9
"""In picoseconds."""


class Case(TypedDict):
    """What is to be served; lists are (request,)."""

    arrival: list[int]
    """Picoseconds, non-decreasing."""
    prompt: list[int]
    """Tokens."""
    output: list[int]
    """Tokens that are asked for; `max_model_len` may end an answer before."""
    priority: list[int]
    """Smaller is served first."""
    parent: list[int]
    """An earlier request with which a prompt begins, -1 for none."""
    shared: list[int]
    """Tokens at the beginning of the prompt that are those of the parent's prompt and answer; all others are unique."""
    law: list[int]
    """Picoseconds: c0 to c4."""
    options: dict[str, Any]
    """Of the scheduler and its KV cache."""


class Told(NamedTuple):
    """A case, and what vLLM answered."""

    case: Case
    answer: dict[str, Any]


def draw_case(rng: np.random.Generator) -> Case:
    """Draw a case: short, with ties and bursts, in a KV cache with room or without."""
    count = int(rng.integers(2, 24))
    prompt = _lengths(rng, count, float(rng.choice([5.0, 20.0, 60.0])), 600)
    output = _lengths(rng, count, float(rng.choice([3.0, 12.0, 30.0])), 100)
    parent, shared = _shared_prompts(rng, prompt, output)
    arrival, law = _times(rng, count)
    longest = int((prompt + output).max())
    block = int(rng.choice([1, 2, 4, 8, 16, 16, 32, 64]))
    most = int(rng.choice([1, 2, 3, 5, 8, 16, 16]))
    limit = int(rng.integers(max(2, longest // 2), longest + 2)) if rng.random() < 0.35 else None
    threshold = int(rng.choice([1, 4, 16, 48, 128])) if rng.random() < 0.4 else 0
    options = {
        "max_num_seqs": most,
        "max_num_batched_tokens": max(most, int(rng.choice([8, 32, 64, 256, 2048]))),
        "block_size": block,
        "num_gpu_blocks": 1 + _blocks(rng, prompt, output, block, limit),
        "scheduler_reserve_full_isl": bool(rng.random() < 0.6),
        "long_prefill_token_threshold": threshold if limit is None else min(threshold, limit),
        "long_prefill_token_threshold_adaptive": bool(threshold and rng.random() < 0.3),
        "max_model_len": limit,
        "max_num_active_seqs": int(rng.integers(1, most + 1)) if rng.random() < 0.25 else None,
        "scheduling_policy": "priority" if rng.random() < 0.35 else "fcfs",
        "async_scheduling": bool(rng.random() < 0.4),
        "enable_prefix_caching": bool(rng.random() < 0.5),
    }
    classes = int(rng.integers(1, 5))
    return Case(
        arrival=arrival,
        prompt=prompt.tolist(),
        output=output.tolist(),
        priority=rng.integers(-1, classes - 1, count).tolist(),
        parent=parent,
        shared=shared,
        law=law,
        options=options,
    )


def _lengths(rng: np.random.Generator, count: int, median: float, most: int) -> Any:
    """Draw lengths in tokens, most of them short."""
    return np.clip(np.rint(median * rng.lognormal(0.0, 1.0, count)), 1, most).astype(np.int64)


def _times(rng: np.random.Generator, count: int) -> tuple[list[int], list[int]]:
    """Draw arrivals and a law; a third of the cases count in whole milliseconds, and requests come as steps end."""
    gap = float(rng.choice([0.0, 0.2, 5.0, 25.0]))
    arrival = np.cumsum(rng.exponential(gap, count)) * MILLISECOND
    whole = rng.random() < 1 / 3
    law = [int(rng.integers(1, 20)) * MILLISECOND, 0, 0, 0, 0]
    if whole:
        arrival = np.floor(arrival / MILLISECOND) * MILLISECOND
    else:
        most = (300 * 10**6, 100 * 10**3, 60 * 10**6, 9 * 10**3)
        law[1:] = [int(rng.integers(0, value)) for value in most]
    arrival -= arrival[0]
    return [int(instant) for instant in arrival], law


def _blocks(rng: np.random.Generator, prompt: Any, output: Any, block: int, limit: int | None) -> int:
    """Draw the blocks that can be used: enough for all, or hardly more than the largest request needs."""
    kept = prompt + output - 1
    if limit is not None:
        kept = np.minimum(kept, limit - 1)
    each = -(-kept // block)
    if rng.random() < 0.2:
        return int(each.sum()) + 1
    return int(each.max() * (1 + rng.exponential(0.5)))


def _shared_prompts(rng: np.random.Generator, prompt: Any, output: Any) -> tuple[list[int], list[int]]:
    """Let prompts begin like those before them, or be the next turn after them: these grow by what they repeat."""
    parent, shared = [-1] * len(prompt), [0] * len(prompt)
    likely = float(rng.choice([0.0, 0.5, 0.9]))
    for i in range(1, len(prompt)):
        if rng.random() >= likely:
            continue
        j = parent[i] = int(rng.integers(0, i))
        turn = rng.random() < 0.4 and prompt[j] + output[j] < 500
        if turn:
            shared[i] = int(prompt[j] + output[j])
            prompt[i] += shared[i]
        else:
            shared[i] = int(rng.integers(1, 1 + min(prompt[i], prompt[j] + output[j])))
    return parent, shared


def read_told(path: Path) -> list[Told]:
    """Read cases with their answers, one on each line; InputError naming a line that is no such thing."""
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path) from None
    told = []
    for number, line in enumerate(lines, 1):
        try:
            told.append(Told(**json.loads(line)))
            if told[-1].case.keys() != Case.__annotations__.keys():
                raise ValueError
        except (ValueError, TypeError, AttributeError):
            raise InputError("must be a case with its answer", file=path, path=f"line {number}") from None
    if not told:
        raise InputError("has no cases", file=path)
    return told


def write_told(path: Path, told: Iterable[Told]) -> None:
    """Write cases with their answers, one on each line; InputError where the file cannot be written."""
    write_text(path, "".join(json.dumps(one._asdict(), separators=(",", ":")) + "\n" for one in told))
