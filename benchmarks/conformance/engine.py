"""A case is served by the simulator, and its answer compared with vLLM's."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from batchcube.engine import simulate_replica
from batchcube.engine.continuous import Content, Requests, make_content, make_law, make_replica
from batchcube.engine.continuous.steps import STEP_TERMS
from batchcube.engine.continuous.ticks import TICKS_PER_S
from batchcube.engine.ticks import LARGEST_REQUEST

from .cases import Case

FIELDS = ("scheduled", "first_token", "last_token", "preemptions", "cached")
"""What must be the same of every request: instants, how often it was preempted, and what it found in the cache."""
OPTIONS = (
    "num_gpu_blocks",
    "scheduler_reserve_full_isl",
    "long_prefill_token_threshold",
    "long_prefill_token_threshold_adaptive",
    "max_model_len",
    "max_num_active_seqs",
    "scheduling_policy",
    "async_scheduling",
    "enable_prefix_caching",
)
"""Those that have vLLM's names here too."""


def serve(case: Case, backend: str) -> dict[str, Any]:
    """Return what becomes of each request, in the form of vLLM's answer."""
    options = case["options"]
    terms: dict[str, Any] = {name: ticks / TICKS_PER_S for name, ticks in zip(STEP_TERMS, case["law"], strict=False)}
    replica = make_replica(
        make_law(**terms),
        most_running=options["max_num_seqs"],
        token_budget=options["max_num_batched_tokens"],
        block_tokens=options["block_size"],
        **{name: options[name] for name in OPTIONS},
    )
    output = np.array(case["output"], np.int64)
    requests = Requests(
        arrival=np.array(case["arrival"], np.int64),
        prompt=np.array(case["prompt"], np.int64),
        output=output,
        predicted=output.astype(np.float64),
        priority=np.array(case["priority"], np.int64),
        content=content_of(case),
    )
    records, totals = simulate_replica(requests, replica, backend)
    return {name: getattr(records, name).tolist() for name in FIELDS} | {"steps": totals.steps}


def content_of(case: Case) -> Content:
    """Return what the blocks of each request hold; with one owner of their last tokens, all are the same."""
    size = case["options"]["block_size"]
    lengths = [prompt + output for prompt, output in zip(case["prompt"], case["output"], strict=True)]
    rows = [
        [owner(case, number, min(end, length) - 1) * LARGEST_REQUEST + end for end in range(size, length + size, size)]
        for number, length in enumerate(lengths)
    ]
    return make_content(rows, lengths, size)


def owner(case: Case, number: int, position: int) -> int:
    """Return the request that a token of a request, at a position of its prompt and answer, was first of."""
    while position < case["shared"][number]:
        number = case["parent"][number]
    return number


def difference(case: Case, theirs: Mapping[str, Any], backend: str) -> str:
    """Say what differs first between vLLM's answer and that of a backend; nothing where all is the same."""
    try:
        ours = serve(case, backend)
    except (ArithmeticError, ValueError) as error:
        return f"{backend}: {type(error).__name__}: {error}"
    apart = [
        (theirs["scheduled"][number], number, name, theirs[name][number], ours[name][number])
        for name in FIELDS
        for number in range(len(case["arrival"]))
        if theirs[name][number] != ours[name][number]
    ]
    if apart:
        _, number, name, expected, found = min(apart)
        return f"request {number}, {name}: vLLM {expected}, {backend} {found}"
    if theirs["steps"] != ours["steps"]:
        return f"steps: vLLM {theirs['steps']}, {backend} {ours['steps']}"
    return ""
