"""What one replica is given: requests, a step law in whole ticks, and its limits. Plain tuples of arrays and numbers.

Time is counted in picoseconds: every coefficient of the step law is a whole number of them, so that a step takes a
whole number of ticks without rounding anything, and the sum over any number of steps has a closed form that is exact.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..policies.target import Control, fixed_target

TICKS_PER_S = 10**12
TICKS_PER_MICROSECOND = 10**6
"""Controllers count in microseconds, as at the request level."""
LATEST = 2**62
"""Last instant, 53 days: twice that still fits int64."""
LARGEST_REQUEST = 2**21
"""Most tokens (prompt and output) of one request."""
MOST_REQUESTS = 2**29

SERVED, REJECTED = 0, 1


class Requests(NamedTuple):
    """The requests of one replication in arrival order, each field (request,)."""

    arrival: NDArray[np.int64]
    """Ticks, non-decreasing."""
    prompt: NDArray[np.int64]
    """Tokens, >= 1."""
    output: NDArray[np.int64]
    """Tokens, >= 1."""


class Law(NamedTuple):
    """Ticks of one step: c0 + c1 (decoding requests) + c2 (KV tokens they read) + c3 (prefill tokens) + c4 (attention).

    A decode reads the tokens resident before it and its own; the attention of a prefill is Σ chunk * context, the
    context of a chunk being the tokens resident once it is done.
    """

    step: int
    request: int
    kv_token: int
    prefill_token: int
    prefill_attention: int


class Replica(NamedTuple):
    """One engine: when it admits, and what it has room for."""

    law: Law
    control: Control
    """Controllers of the cap; their B_max is the static one, `max_num_seqs`."""
    token_budget: int
    """`max_num_batched_tokens`: tokens of one step, a decode counting one."""
    chunked: bool
    """True: a step holds decodes and chunks of prefills. False: whole prefills alone, or decodes alone."""
    block_tokens: int
    """Tokens of a block of the KV cache; 1 counts single tokens."""
    blocks: int
    """Blocks of the KV cache."""


class Records(NamedTuple):
    """What became of each request, (request,) each; ticks, -1 where it never happened."""

    scheduled: NDArray[np.int64]
    """Start of the step that admitted it first."""
    first_token: NDArray[np.int64]
    last_token: NDArray[np.int64]
    preemptions: NDArray[np.int64]
    status: NDArray[np.int64]
    """SERVED, or REJECTED: it could never fit, alone."""


class Totals(NamedTuple):
    """What one replication did in all."""

    steps: int
    decode_tokens: int
    """Tokens emitted by decodes; the other tokens were emitted by prefills."""
    prefill_tokens: int
    """Prefilled, those again after a preemption too."""
    prefills: int
    """Prefills that were done: each emits a token."""
    preemptions: int
    busy: int
    """Ticks in steps."""
    peak_blocks: int


def ticks(seconds: float) -> int:
    """Return seconds as whole ticks; ValueError for what is negative, not finite, or beyond `LATEST`."""
    value = float(seconds) * TICKS_PER_S
    if not 0 <= value <= LATEST:
        raise ValueError(f"{seconds} s: must be from 0 to {LATEST // TICKS_PER_S} s")
    return round(value)


def make_law(
    c0_s: float,
    c1_s_per_request: float = 0.0,
    c2_s_per_kv_token: float = 0.0,
    c3_s_per_prefill_token: float = 0.0,
    c4_s_per_prefill_attention: float = 0.0,
) -> Law:
    """Build the step law from seconds, each coefficient rounded to a picosecond; ValueError naming one out of range."""
    values = []
    for name, seconds in zip(
        ("c0_s", "c1_s_per_request", "c2_s_per_kv_token", "c3_s_per_prefill_token", "c4_s_per_prefill_attention"),
        (c0_s, c1_s_per_request, c2_s_per_kv_token, c3_s_per_prefill_token, c4_s_per_prefill_attention),
        strict=True,
    ):
        try:
            values.append(ticks(seconds))
        except ValueError as error:
            raise ValueError(f"{name} = {error}") from None
    if not any(values[:2]):
        raise ValueError("c0_s = 0, c1_s_per_request = 0: a decode step must take some time")
    return Law(*values)


def make_requests(arrival_s: ArrayLike, prompt_tokens: ArrayLike, output_tokens: ArrayLike) -> Requests:
    """Build requests from arrays (request,); ValueError naming the field and the first bad entry."""
    arrival = np.asarray(arrival_s, np.float64)
    prompt, output = np.asarray(prompt_tokens), np.asarray(output_tokens)
    for name, values in (("prompt_tokens", prompt), ("output_tokens", output)):
        if values.shape != arrival.shape:
            raise ValueError(f"{name} has {values.size} entries, arrival_s has {arrival.size}: must be equal")
        _refuse(name, ~(values >= 1), values, "must be >= 1")
        _refuse(name, values != np.floor(values), values, "must be whole")
    _refuse("arrival_s", ~(np.isfinite(arrival) & (arrival >= 0)), arrival, "must be finite and >= 0")
    _refuse("arrival_s", np.diff(arrival, prepend=0.0) < 0, arrival, "must not decrease")
    _refuse("arrival_s", arrival > LATEST / TICKS_PER_S / 2, arrival, "is later than can be simulated")
    _refuse("prompt_tokens", prompt + output > LARGEST_REQUEST, prompt, f"and output: must be <= {LARGEST_REQUEST}")
    if not arrival.size:
        raise ValueError("at least one request is needed")
    if arrival.size >= MOST_REQUESTS:
        raise ValueError(f"{arrival.size} requests: must be below {MOST_REQUESTS}")
    whole = np.rint(arrival * TICKS_PER_S).astype(np.int64)
    return Requests(whole, prompt.astype(np.int64), output.astype(np.int64))


def make_replica(
    law: Law,
    *,
    most_running: int,
    token_budget: int,
    capacity_tokens: int,
    block_tokens: int = 16,
    prefill: str = "chunked",
    control: Control | None = None,
) -> Replica:
    """Build a replica; `capacity_tokens` of KV cache are held in whole blocks.

    `most_running` is the static cap; `control`, where given, moves a cap below it, step by step. Raises ValueError for
    a cap below 1, a budget that cannot hold a token of every running request, a cache without a block, and an unknown
    word for `prefill` (chunked or separate).
    """
    if prefill not in ("chunked", "separate"):
        raise ValueError(f"prefill = {prefill!r}: must be one of chunked, separate")
    if not 1 <= most_running <= 2**20:
        raise ValueError(f"most_running = {most_running}: must be in 1..{2**20}")
    if not most_running <= token_budget <= 2**31:
        raise ValueError(f"token_budget = {token_budget}: must be at least most_running = {most_running}, a token each")
    if not 1 <= block_tokens <= 2**16:
        raise ValueError(f"block_tokens = {block_tokens}: must be in 1..{2**16}")
    if not block_tokens <= capacity_tokens <= 2**45:
        raise ValueError(f"capacity_tokens = {capacity_tokens}: must be at least block_tokens = {block_tokens}")
    if control is None:
        control = fixed_target(1, most_running, np.ones(1), np.ones(1))
    if not 1 <= control.smallest <= control.largest == most_running:
        raise ValueError(f"most_running = {most_running}: must be the largest batch of the controllers")
    return Replica(
        law,
        control,
        int(token_budget),
        prefill == "chunked",
        int(block_tokens),
        int(capacity_tokens) // block_tokens,
    )


def blocks_of(tokens: int, block_tokens: int) -> int:
    """Return the blocks that hold so many tokens of one request."""
    return -(-tokens // block_tokens)


def never_fits(requests: Requests, replica: Replica) -> NDArray[np.bool_]:
    """Say which requests (request,) could never be served, not even alone.

    The KV of a request grows to prompt + output - 1 tokens: that of its last token is never needed. Without chunks, a
    prefill must fit the token budget whole, also the longest one after a preemption.
    """
    most = requests.prompt + requests.output - 1
    too_large = -(-most // replica.block_tokens) > replica.blocks
    return too_large if replica.chunked else too_large | (most > replica.token_budget)


def check(requests: Requests, replica: Replica) -> None:
    """Refuse a replica on which the longest request could take a quarter of the time there is; raises ValueError.

    No sum of a leap can then run out of int64, and a clock that passes `LATEST` is noticed before it can.
    """
    law = replica.law
    longest = int((requests.prompt + requests.output).max())
    reads = min(replica.blocks * replica.block_tokens, int(replica.control.largest) * longest)
    tokens = min(replica.token_budget, int(replica.control.largest) * longest)
    step = law.step + law.request * int(replica.control.largest) + law.kv_token * reads
    step += tokens * (law.prefill_token + law.prefill_attention * longest)
    if step * longest > LATEST // 4:
        raise ValueError(
            f"a request of {longest} tokens could take {step * longest / TICKS_PER_S:.3g} s: must be at most "
            f"{LATEST // 4 / TICKS_PER_S:.3g} s"
        )


def too_late() -> ValueError:
    """Return the error of a clock that passed the last instant."""
    return ValueError(f"the requests take longer than {LATEST // TICKS_PER_S} s, the longest that can be simulated")


def _refuse(name: str, bad: NDArray[np.bool_], values: NDArray[np.generic], rule: str) -> None:
    if bad.any():
        first = int(np.argmax(bad))
        raise ValueError(f"{name}[{first}] = {values[first]}: {rule}")
