"""How long a step takes: a law in whole ticks, straight or bent."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.errors import InputError

from ..dialect import maximum, minimum, policy, where
from .ticks import LATEST, TICKS_PER_S, ticks

LARGEST_BUDGET = 2**31
"""Most tokens of a step."""
MOST_TABLED = 2**16
"""Most requests at a node of a table."""


class DecodeTable(NamedTuple):
    """Seconds of steps of decodes at some numbers of requests, linear between them and beyond the last."""

    requests: Sequence[int]
    """Decodes of each node; the first is 0."""
    s: Sequence[float]
    """Seconds of a step, but for the KV tokens it reads; they never fall."""
    s_per_kv_token: Sequence[float]
    """Seconds for each KV token read."""


class PrefillTable(NamedTuple):
    """Seconds of tokens beside c5, at some numbers of them; linear between these and beyond the last.

    Prefills add what it has behind the tokens that decode: all pass the same matrices.
    """

    tokens: Sequence[int]
    """Tokens of each node; the first is 0."""
    s: Sequence[float]
    """The first is 0; they never fall."""


class Law(NamedTuple):
    """Ticks of one step: decodes, KV tokens that they read, prefill tokens, their attention, and of having any.

    A decode reads the tokens resident before it and its own; the attention of a prefill is Σ chunk * context, the
    context of a chunk being the tokens resident once it is done.
    """

    decode: NDArray[np.int64]
    """(decodes,) ticks of a step with so many, but for what they read; a straight law has that of none."""
    decode_further: int
    """Ticks of each decode beyond those."""
    kv_token: NDArray[np.int64]
    """(decodes,) ticks of a KV token that one of so many reads."""
    kv_token_further: int
    """What each decode beyond those adds to it; never below 0 in all."""
    prefill_tokens: NDArray[np.int64]
    """(piece,) tokens at which each straight piece begins; the first is 0."""
    prefill: NDArray[np.int64]
    """(piece,) ticks there."""
    prefill_token: NDArray[np.int64]
    """(piece,) ticks of each token from there on."""
    prefill_attention: int
    prefill_step: int
    """Ticks of a step that prefills anything."""


STEP_TERMS = (
    "c0_s",
    "c1_s_per_request",
    "c2_s_per_kv_token",
    "c3_s_per_prefill_token",
    "c4_s_per_prefill_attention",
    "c5_s_per_prefill_step",
)
"""What a step's time is made of: itself, decodes, KV tokens that they read, prefill tokens, their attention, and a
constant of steps that have any."""
TABLED = {"decode": STEP_TERMS[:3], "prefill": STEP_TERMS[3:4]}
"""Tables, and the terms in whose place they stand."""


def make_law(
    c0_s: float = 0.0,
    c1_s_per_request: float = 0.0,
    c2_s_per_kv_token: float = 0.0,
    c3_s_per_prefill_token: float = 0.0,
    c4_s_per_prefill_attention: float = 0.0,
    c5_s_per_prefill_step: float = 0.0,
    decode: DecodeTable | None = None,
    prefill: PrefillTable | None = None,
) -> Law:
    """Build the step law from seconds, each rounded to a picosecond; InputError naming one out of range.

    `decode` stands in place of c0 to c2, `prefill` in place of c3. Between nodes of `decode` a time is rounded to the
    nearest picosecond; between nodes of `prefill` a token takes a whole number of them, and the times at the nodes
    follow from that.
    """
    given = (
        c0_s,
        c1_s_per_request,
        c2_s_per_kv_token,
        c3_s_per_prefill_token,
        c4_s_per_prefill_attention,
        c5_s_per_prefill_step,
    )
    values = dict(zip(STEP_TERMS, given, strict=True))
    for name, table in (("decode", decode), ("prefill", prefill)):
        both = [term for term in TABLED[name] if table is not None and values[term]]
        if both:
            raise InputError(f"goes without {name}, which stands in its place", path=both[0], value=values[both[0]])
    c0, c1, c2, c3, c4, c5 = (ticks(seconds, name) for name, seconds in values.items())
    if decode is None:
        if not c0 and not c1:
            raise InputError("a decode step must take some time", path="c0_s = 0, c1_s_per_request", value=0)
        decodes, kv_tokens = np.array([c0], np.int64), np.array([c2], np.int64)
        further, kv_further = c1, 0
    else:
        _require_table("decode", decode)
        decodes, further = _between(decode.requests, [ticks(s, "decode.s") for s in decode.s])
        kv_tokens, kv_further = _between(
            decode.requests, [ticks(s, "decode.s_per_kv_token") for s in decode.s_per_kv_token]
        )
        if not decodes[1]:
            raise InputError("a decode step must take some time", path="decode.s[1]", value=decode.s[1])
    begin, slope = np.zeros(1, np.int64), np.array([c3], np.int64)
    if prefill is not None:
        _require_table("prefill", prefill)
        at = np.asarray(prefill.tokens, np.int64)
        begin, width, rise = at[:-1], np.diff(at), np.diff([ticks(s, "prefill.s") for s in prefill.s])
        slope = (2 * rise + width) // (2 * width)
    at_begin = np.concatenate(([0], np.cumsum(slope[:-1] * np.diff(begin)))).astype(np.int64)
    return Law(decodes, further, kv_tokens, kv_further, begin, at_begin, slope, c4, c5)


def table_problems(table: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what is wrong with a table of decodes or prefills, and where in it: first of all what others follow from.

    Any with the fields of `DecodeTable` or `PrefillTable` will do.
    """
    axis, largest = ("requests", MOST_TABLED) if hasattr(table, "requests") else ("tokens", LARGEST_BUDGET)
    nodes, fields = getattr(table, axis), ("s", "s_per_kv_token") if axis == "requests" else ("s",)
    if len(nodes) < 2:
        yield (axis,), "must have two nodes at least"
        return
    if nodes[0] != 0:
        yield (axis, 0), "must be 0"
        return
    for i, (before, node) in enumerate(pairwise(nodes), start=1):
        if node != int(node) or not before < node <= largest:
            yield (axis, i), f"must be whole, larger than the one before, and at most {largest}"
            return
    for name in fields:
        values = getattr(table, name)
        if len(values) != len(nodes):
            yield (name,), f"has {len(values)} values, must have {len(nodes)}, one for each of {axis}"
            return
        for i, seconds in enumerate(values):
            if not 0 <= seconds * TICKS_PER_S <= LATEST:
                yield (name, i), f"must be from 0 to {LATEST // TICKS_PER_S} s"
                return
    for i, (before, seconds) in enumerate(pairwise(table.s), start=1):
        if seconds < before:
            yield ("s", i), "must not be less than the one before"
            return
    if axis == "tokens" and table.s[0] != 0:
        yield ("s", 0), "must be 0: what a step with any prefill takes longer is c5_s_per_prefill_step"
    if axis == "requests" and not table.s[1]:
        yield ("s", 1), "must be > 0: a decode step takes some time"


def _require_table(name: str, table: DecodeTable | PrefillTable) -> None:
    for path, text in table_problems(table):
        value: Any = table
        for part in path:
            value = getattr(value, part) if isinstance(part, str) else value[part]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
        raise InputError(text, path=f"{name}{place}", value=value)


def _between(nodes: Sequence[int], values: Sequence[int]) -> tuple[NDArray[np.int64], int]:
    """Return the ticks (n,) at 0 to the last node, to the nearest between nodes, and those for each beyond the last."""
    at, ticks_at = np.asarray(nodes, np.int64), np.asarray(values, np.int64)
    width, rise = np.diff(at), np.diff(ticks_at)
    piece = np.repeat(np.arange(width.size), width)
    beyond = np.arange(at[-1]) - at[piece]
    # By whole ticks and what is left of them: no product leaves int64.
    each, left = rise // width, rise % width
    filled = ticks_at[piece] + each[piece] * beyond + (2 * left[piece] * beyond + width[piece]) // (2 * width[piece])
    last = int(2 * rise[-1] + width[-1]) // int(2 * width[-1])
    return np.append(filled, ticks_at[-1]), last


@policy
def decode_ticks(decodes: Any, law: Law) -> Any:
    """Return the ticks of a step with so many decodes, but for what they read and for prefills."""
    known = minimum(decodes, law.decode.shape[0] - 1)
    return law.decode[known] + law.decode_further * (decodes - known)


@policy
def kv_token_ticks(decodes: Any, law: Law) -> Any:
    """Return the ticks of a KV token that one of so many decodes reads."""
    known = minimum(decodes, law.kv_token.shape[0] - 1)
    return maximum(law.kv_token[known] + law.kv_token_further * (decodes - known), 0)


@policy
def tabled_ticks(tokens: Any, law: Law) -> Any:
    """Return the ticks at so many tokens in the table of prefills."""
    piece = 0
    for k in range(1, law.prefill_tokens.shape[0]):
        piece = where(tokens >= law.prefill_tokens[k], k, piece)
    return law.prefill[piece] + law.prefill_token[piece] * (tokens - law.prefill_tokens[piece])


@policy
def prefill_ticks(tokens: Any, attention: Any, decodes: Any, law: Law) -> Any:
    """Return the ticks that the prefill of some tokens, one at least, adds to a step of so many decodes.

    All pass the same matrices, so the table is read behind those that decode.
    """
    behind = tabled_ticks(decodes + tokens, law) - tabled_ticks(decodes, law)
    return law.prefill_step + behind + law.prefill_attention * attention
