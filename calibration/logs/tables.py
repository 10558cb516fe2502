"""Formats with a row for each request: LMBench, BLIS, and whatever columns a user names."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import numpy as np

from batchcube.errors import InputError

from .fields import PER_S, Entry, Fields, LeftOut
from .formats import Format


def _lmbench(request: Fields) -> Entry | LeftOut:
    if request.number("generation_tokens", least=0) == 0:
        return "failed"
    sent = request.time("launch_time")
    first = sent + request.duration("ttft")
    return Entry(
        request.tokens("prompt_tokens"),
        request.tokens("generation_tokens"),
        sent,
        first,
        first + request.duration("generation_time"),
    )


LMBENCH = Format(
    "LMBench, production-stack: CSV",
    "client",
    ("prompt_tokens", "generation_tokens", "ttft", "generation_time", "launch_time"),
    _lmbench,
)


def _blis(request: Fields) -> Entry | LeftOut:
    if request.get("status") not in (None, "ok"):
        return "failed"

    def after_zero(name: str) -> float:
        """Return a time; traces that nobody observed have zeros."""
        at = request.time(name, unit="us") if request.has(name) else 0.0
        return at if at > 0 else np.nan

    sent, last = after_zero("send_time_us"), after_zero("last_chunk_time_us")
    counted = request.count("server_input_tokens")
    # The server's count holds a shared prefix, the client's does not.
    shared = request.count("prefix_length") if request.has("prefix_group") else 0
    return Entry(
        counted or request.tokens("input_tokens") + shared,
        request.tokens("output_tokens"),
        request.time("arrival_time_us", unit="us") if np.isnan(sent) else sent,
        np.nan if np.isnan(last) else request.time("first_chunk_time_us", unit="us"),
        last,
        chunks=request.count("num_chunks"),
    )


BLIS = Format(
    "BLIS: trace v2, CSV",
    "client",
    ("arrival_time_us", "send_time_us", "first_chunk_time_us", "last_chunk_time_us", "input_tokens", "output_tokens"),
    _blis,
)

PARTS = {
    "arrival": ("arrival_s",),
    "scheduled": ("scheduled_s",),
    "first_token": ("first_token_s",),
    "last_token": ("last_token_s",),
    "ttft": ("ttft_s", "ttft_ms"),
    "tpot": ("tpot_s", "tpot_ms"),
    "e2e": ("e2e_s", "e2e_ms"),
    "prompt_tokens": ("prompt_tokens",),
    "output_tokens": ("output_tokens",),
    "error": ("error",),
}
"""What a column of a plain log may be, and its names where a user names none."""
_COUNTS = ("prompt_tokens", "output_tokens")
_NO_ERROR = (None, 0, "", "ok", "OK", "false", "False", "None")


def plain(columns: Mapping[str, str]) -> Format:
    """Return the format of a CSV file or JSON lines with columns of these names, one for each of some `PARTS`.

    Times are in seconds, but in the unit that a name ends with (`_ms`), or that stands after it (`t:ms`); text is a
    date. Raises InputError for what is no part, and no unit.
    """
    for part in columns:
        if part not in PARTS:
            raise InputError(f"must be one of {', '.join(PARTS)}", path="`column`", value=part)
    names = {part: (columns[part],) if part in columns else own for part, own in PARTS.items()}

    def has(request: Fields, part: str) -> bool:
        return request.has(*(_unit_of(name)[0] for name in names[part]))

    def seconds(request: Fields, part: str, read: Callable[..., float], zoned: set[bool]) -> float:
        name, unit = next(
            (pair for pair in map(_unit_of, names[part]) if request.has(pair[0])), _unit_of(names[part][0])
        )
        value = request.get(name)
        if isinstance(value, str):
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                raise request.wrong(name, value, f"must be a number of {unit}, or a date and time") from None
            zoned.add(moment.tzinfo is not None)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        return read(name, unit=unit)

    def entry(request: Fields) -> Entry | LeftOut:
        prompt, output = (_unit_of(names[part][0])[0] for part in _COUNTS)
        if request.get(*names["error"]) not in _NO_ERROR:
            return "failed"
        if request.number(output, least=0) == 0:
            return "failed"
        tokens, zoned = (request.tokens(prompt), request.tokens(output)), set[bool]()
        arrival = seconds(request, "arrival", request.time, zoned) if has(request, "arrival") else np.nan
        sent = 0.0 if np.isnan(arrival) else arrival
        first = last = np.nan
        if has(request, "ttft"):
            first = sent + seconds(request, "ttft", request.duration, zoned)
        elif has(request, "first_token"):
            first = seconds(request, "first_token", request.time, zoned)
        if has(request, "e2e"):
            last = sent + seconds(request, "e2e", request.duration, zoned)
        elif has(request, "last_token"):
            last = seconds(request, "last_token", request.time, zoned)
        elif has(request, "tpot"):
            last = first + seconds(request, "tpot", request.duration, zoned) * (tokens[1] - 1)
        scheduled = seconds(request, "scheduled", request.time, zoned) if has(request, "scheduled") else np.nan
        return Entry(*tokens, arrival, first, last, scheduled, zoned=frozenset(zoned))

    def marks(*parts: str) -> str:
        return "|".join(_unit_of(name)[0] for part in parts for name in names[part])

    return Format(
        "plain CSV or JSON lines",
        "client",
        (
            marks("arrival"),
            *map(marks, _COUNTS),
            marks("ttft", "first_token"),
            marks("e2e", "last_token", "tpot"),
        ),
        entry,
        hint="`column` arrival=NAME names the columns",
    )


def _unit_of(column: str) -> tuple[str, str]:
    """Return the name of a column, and the unit of its times."""
    name, colon, unit = column.rpartition(":")
    if colon:
        if unit not in PER_S:
            raise InputError(f"unit {unit!r} must be one of {', '.join(PER_S)}", path="`column`", value=column)
        return name, unit
    ending = re.search(r"_(ms|us|ns)$", column)
    return column, ending[1] if ending else "s"
