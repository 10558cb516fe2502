"""Read the requests of a file, whatever its format: as a log, or as arrivals and lengths alone."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.documents import read_file, unpacked
from batchcube.errors import InputError, found_in

from .fields import Entry, Fields, LeftOut, check
from .log import Floats, Log, in_turn, left_out_of, loop_of
from .registry import FORMATS, PLAIN, LogFormat, format_of, format_of_value, recognised
from .sources import Source, head_of

# Who served a request, and which it was, where a format or somebody's own table says so.
_MODEL = ("model", "model_id", "model_name")
_ID = ("request_id", "req_id", "id", "metadata.x_request_id")
# More tokens in a chunk than clients and servers join by themselves.
_JOINED = 1.1
# Of the distances between two clocks, that below which one is a fault.
_CLOSEST = 0.01


class Reading(NamedTuple):
    """How a file is read."""

    format: LogFormat | None = None
    """By its content when None."""
    columns: Mapping[str, str] | None = None
    """Names of the columns of a plain file, by `PARTS`."""
    concurrency: int | None = None
    """Requests that a closed loop kept under way, for a file without arrivals; what the file says when None."""


BY_CONTENT = Reading()


class Arrivals(NamedTuple):
    """Requests of a file in the order of arrival, each field (request,), seconds since the first."""

    arrival_s: Floats
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    left_out: dict[LeftOut, int]


class _Found(NamedTuple):
    name: LogFormat
    entries: list[Entry]
    left_out: Counter[LeftOut]
    models: list[str]
    """That served them, where they say so."""


def read_log(path: str | Path, how: Reading = BY_CONTENT) -> Log:
    """Read a request log, plain or packed with gzip or zstd.

    Raises InputError, one line naming the file and the place in it, for a format that is none or unknown, what is no
    JSON, a field that is missing or no number, tokens that are not whole, below 1 or more than a request can have,
    timestamps that run backwards, clocks that cannot be the same, and where fewer than 2 requests are left.
    """
    data = read_file(path)
    with found_in(file=path):
        data = unpacked(data)
        found = _found(Source(data), how)
        if len(found.models) > 1:
            raise InputError(f"is of several models, {', '.join(found.models[:5])}: a law is of one, take them apart")
        entries, notes, loop = _with_arrivals(found, how.concurrency)
        if any(np.isnan(entry.first_token_s) or np.isnan(entry.last_token_s) for entry in entries):
            raise InputError("has arrivals, but no times of tokens: a workload, no log of a server")
        if len(entries) < 2:
            left_out = left_out_of(*_counts(found.left_out))
            raise InputError(
                f"holds {len(entries)} requests{f' beside {left_out}' if left_out else ''}: needs at least 2"
            )
    entries.sort(key=lambda entry: entry.queued_s)
    queued, scheduled, first, last, arrival = (
        np.array([getattr(entry, f"{name}_s") for entry in entries])
        for name in ("queued", "scheduled", "first_token", "last_token", "arrival")
    )
    came = _arrived(arrival, queued)
    start, prompt, output = queued[0] if came is None else came[0], *_tokens(entries)
    log = Log(
        queued - start,
        scheduled - start,
        first - start,
        last - start,
        prompt,
        output,
        hashlib.sha256(data).hexdigest(),
        None if came is None else came - start,
        found.name,
        FORMATS[found.name].clock,
        *_counts(found.left_out),
        (*notes, *_chunky(entries), *_ended(entries)),
    )
    if loop or not (told := loop_of(log)):
        return log._replace(loop=loop)
    note = f"requests came as in a closed loop of {told}, and do so in the simulation: each when one before it ends"
    return log._replace(loop=told, notes=(*log.notes, note))


def read_arrivals(content: bytes, format: LogFormat | None = None) -> Arrivals | None:
    """Return when requests of unpacked content arrived and how long they were; None where no log is recognised.

    They arrive as in the replay of a log: by the stamp of the arrival where there is one beside that of the queue.
    Raises InputError like `read_log`, and for logs that only hold durations.
    """
    head = head_of(content) if format is None else content
    source = Source(head)
    if format is None and source.layout != "document" and recognised(source) in (None, PLAIN):
        return None
    found = _found(source if len(head) == len(content) else Source(content), Reading(format))
    if any(np.isnan(entry.queued_s) for entry in found.entries):
        raise InputError("has durations, but no arrival times: no workload (`calibrate log` may use it)")
    entries = sorted(found.entries, key=lambda entry: entry.queued_s)
    if not entries:
        raise InputError(f"has no request but {left_out_of(*_counts(found.left_out))}")
    queued, arrival = (np.array([getattr(entry, name) for entry in entries]) for name in ("queued_s", "arrival_s"))
    came = in_turn(queued, _arrived(arrival, queued))
    return Arrivals(came - came[0], *_tokens(entries), dict(found.left_out))


def _arrived(arrival: Floats, queued: Floats) -> Floats | None:
    """Return (request,) when requests arrived, None where some have no such stamp beside that of the queue."""
    return None if np.isnan(arrival).any() else aligned(arrival, queued)


def aligned(arrival_s: Floats, queued_s: Floats) -> Floats:
    """Return arrival times (request,) on the clock of the times at which requests were queued, none of them later.

    Clocks differ by a constant; a request is queued a little after it arrived, and some almost at once.
    """
    apart = queued_s - arrival_s
    closest = np.quantile(apart, _CLOSEST, method="lower")
    return np.minimum(arrival_s + closest, queued_s)


def _found(source: Source, how: Reading) -> _Found:
    """Return the requests of a file."""
    name, format = format_of(source, how.format, how.columns)
    entries, left_out = [], Counter[LeftOut]()
    models: dict[str, None] = {}
    seen: dict[tuple[str, Entry], str] = {}
    zoned: frozenset[bool] = frozenset()
    for number, (place, value) in enumerate(source):
        fields = Fields(value, place, number)
        try:
            for request in format.requests(fields):
                entry = format.entry(request)
                if not isinstance(entry, Entry):
                    left_out[entry] += 1
                    continue
                entries.append(check(entry, request.place))
                models |= dict.fromkeys(str(one.get(*_MODEL)) for one in (request, fields) if one.has(*_MODEL))
                if request.has(*_ID):
                    before = seen.setdefault((str(request.get(*_ID)), entry), request.place)
                    if before != request.place:
                        raise InputError(f"is the request of {before} once more", path=request.place)
                zoned |= entry.zoned
                if len(zoned) > 1:
                    raise InputError("times with a time zone and times without one are in one file", path=request.place)
        except InputError:
            other = format_of_value(fields) if format.missing(fields) else None
            if other not in (None, name):
                raise InputError(f"is of {other}, but other requests of the file of {name}", path=place) from None
            raise
    if not entries and left_out:
        raise InputError(f"has no request but {left_out_of(*_counts(left_out))}")
    return _Found(name, entries, left_out, list(models))


def _with_arrivals(found: _Found, concurrency: int | None) -> tuple[list[Entry], list[str], int]:
    """Return requests with arrivals, what must be known of these, and `Log.loop`, where it gives the arrivals.

    Where a file only holds durations, a closed loop gives them: a request is sent the moment that one before it ends.
    Of several loops in one file the arrivals stay as they are.
    """
    entries = found.entries
    notes = list(dict.fromkeys(entry.note for entry in entries if entry.note))
    unknown = [np.isnan(entry.queued_s) for entry in entries]
    if not any(unknown):
        if concurrency is not None:
            raise InputError("the file has arrival times: none are to be reckoned", path="`concurrency`")
        return entries, notes, 0
    if not all(unknown):
        raise InputError(f"{sum(unknown)} of {len(entries)} requests have no arrival time")
    if not (concurrency or all(entry.at_once for entry in entries)):
        raise InputError(
            "has durations, but no arrival times, and a replay needs these: `concurrency` N says how many requests a "
            "closed loop kept under way, 1 for one at a time"
        )
    if not FORMATS[found.name].in_order and concurrency != 1:
        problem = "its requests are not in the order in which they were sent: only one at a time can be laid out"
        raise InputError(problem, path="`concurrency`", value=str(concurrency))
    loops = sorted({concurrency or entry.at_once for entry in entries})
    notes.append(
        f"no arrival times: reckoned for a closed loop of {', '.join(map(str, loops))}, each request sent the moment "
        "that one before it ends"
    )
    is_one = len(loops) == 1 == len({entry.run for entry in entries}) and loops[0] < len(entries)
    return _closed_loop(entries, concurrency), notes, loops[0] if is_one else 0


def _closed_loop(entries: Sequence[Entry], concurrency: int | None) -> list[Entry]:
    begin, laid = 0.0, []
    for _, run in groupby(entries, key=lambda entry: entry.run):
        ends: list[float] = []
        latest = begin
        for entry in run:
            sent = begin if len(ends) < (concurrency or entry.at_once) else heappop(ends)
            last = sent + entry.last_token_s
            heappush(ends, last)
            latest = max(latest, last)
            laid.append(entry._replace(queued_s=sent, first_token_s=sent + entry.first_token_s, last_token_s=last))
        begin = latest
    return laid


def _tokens(entries: Sequence[Entry]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    prompt, output = (
        np.array([getattr(entry, f"{name}_tokens") for entry in entries], np.int64) for name in ("prompt", "output")
    )
    return prompt, output


def _counts(left_out: Mapping[LeftOut, int]) -> tuple[int, int, int]:
    return left_out.get("failed", 0), left_out.get("cancelled", 0), left_out.get("warm_up", 0)


def _chunky(entries: Sequence[Entry]) -> list[str]:
    """Say where answers came in chunks of several tokens."""
    counted = [entry for entry in entries if entry.chunks]
    tokens, chunks = (sum(getattr(entry, name) for entry in counted) for name in ("output_tokens", "chunks"))
    if tokens <= _JOINED * chunks:
        return []
    return [
        f"{tokens / chunks:.2f} tokens a chunk: speculative decoding, or tokens joined on their way; a step of the "
        "simulation makes one for each request"
    ]


def _ended(entries: Sequence[Entry]) -> list[str]:
    """Say how many answers were ended from outside, after some tokens."""
    count = sum(entry.ended for entry in entries)
    if not count:
        return []
    return [f"{count} requests were ended from outside, by a stop string or their client: they count as served so far"]
