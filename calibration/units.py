"""Times that no engine takes, as of numbers that are in another unit than seconds."""

from collections.abc import Iterator
from typing import Any

from batchcube.errors import InputError

LONGEST_S = {
    "a0_s": (3600.0, "a batch before its first token"),
    "a1_s_per_token": (5.0, "one token"),
    "c0_s": (5.0, "one step"),
    "c1_s_per_request": (1.0, "one request of a step"),
    "c2_s_per_kv_token": (1e-2, "one token of the KV cache"),
    "c3_s_per_prefill_token": (1.0, "one token of a prompt"),
    "c4_s_per_prefill_attention": (1e-3, "one token of a prompt with one of its context"),
    "c5_s_per_prefill_step": (5.0, "a prefill, beside its tokens"),
}
"""The longest that each coefficient may be, and of what it is the time.

The slowest that is known of, a model of 70e9 parameters in the memory of one processor, takes 3 s for a step.
"""
LIMITS_S = {
    "ttft": (5e-3, 300.0, "to the first token"),
    "tpot": (1e-3, 10.0, "for a token"),
    "tbt": (1e-3, 10.0, "between tokens"),
    "latency": (1e-2, 1e5, "to the end of an answer"),
}
"""The shortest and the longest limits on times of requests that are worth stating, and of what they are.

A step of the smallest models takes 2 ms on the fastest GPUs. Who limits a wait may mean any number.
"""
_SMALLER = (("milliseconds", 1e-3), ("microseconds", 1e-6))


def other_unit(name: str, seconds: float) -> str | None:
    """Say that a coefficient must be in another unit, None where it may be in seconds."""
    return _told(seconds, *LONGEST_S[name])


def other_units(stated: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what of a law, of batches or of steps, must be in another unit, and where.

    A node of a table may take as long as the coefficients that it stands for.
    """
    for name in LONGEST_S:
        text = other_unit(name, getattr(stated, name, None) or 0.0)
        if text is not None:
            yield (name,), text
    decode, prefill = getattr(stated, "decode", None), getattr(stated, "prefill", None)
    if decode is not None:
        yield from _nodes(("decode", "s"), decode.requests, decode.s, "c0_s", "c1_s_per_request", "requests")
        for i, seconds in enumerate(decode.s_per_kv_token):
            if (text := other_unit("c2_s_per_kv_token", seconds)) is not None:
                yield ("decode", "s_per_kv_token", i), text
    if prefill is not None:
        of_node = "c5_s_per_prefill_step", "c3_s_per_prefill_token", "tokens"
        yield from _nodes(("prefill", "s"), prefill.tokens, prefill.s, *of_node)


def require_seconds(stated: Any, path: str) -> None:
    """Refuse a law, stated at a path, with a coefficient that must be in another unit; raises InputError."""
    for place, text in other_units(stated):
        raise InputError(text, path=".".join(map(str, (path, *place))))


def limit_in_other_unit(name: str, limit: float) -> str | None:
    """Say that a limit, on `ttft_p99_ms` or its like, seems to be meant in another unit, None where it may be meant."""
    of, unit = name.partition("_")[0], name.rpartition("_")[2]
    if of not in LIMITS_S or unit not in ("s", "ms"):
        return None
    least, most, what = LIMITS_S[of]
    if unit == "ms" and limit / 1e3 < least:
        other, meant = "seconds", "s"
    elif unit == "s" and limit > most:
        other, meant = "milliseconds", "ms"
    else:
        return None
    return f"{limit:g} {unit} {what}: {other} meant ({name.removesuffix(f'_{unit}')}_{meant}={limit:g})?"


def _nodes(
    path: tuple[str, str], counts: Any, seconds: Any, fixed: str, each: str, of: str
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for i, (count, s) in enumerate(zip(counts, seconds, strict=False)):
        text = _told(s, LONGEST_S[fixed][0] + count * LONGEST_S[each][0], f"a step of {count} {of}")
        if text is not None:
            yield (*path, i), text


def _told(seconds: float, longest: float, what: str) -> str | None:
    if seconds <= longest:
        return None
    unit, scale = next((one for one in _SMALLER if seconds * one[1] <= longest), _SMALLER[-1])
    return f"no engine takes {seconds:g} s for {what}, must be <= {longest:g}: {unit} meant ({seconds * scale:.6g})?"
