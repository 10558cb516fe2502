"""What a log says of one request: fields checked as they are asked for, and the request that they make."""

import json
import math
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np

from batchcube.engine.ticks import LARGEST_REQUEST
from batchcube.errors import InputError

LeftOut = Literal["failed", "cancelled", "warm_up"]
"""Why a request is no part of a log."""

PER_S = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Units of time, in one second."""
# What writing a timestamp may change.
_ROUNDING_S = 1e-6
# Either way; since 1970 there were 2e9. Timestamps in other units, of nanoseconds for instance, lie beyond.
_LATEST_S = 10**12
_MISSING = object()


class Entry(NamedTuple):
    """One request as a format tells it, times in seconds of a clock of the format's own."""

    prompt_tokens: int
    output_tokens: int
    queued_s: float
    """When the server had it, or when the client sent it; NaN where only durations are known, which then are counted
    from there."""
    first_token_s: float = np.nan
    last_token_s: float = np.nan
    scheduled_s: float = np.nan
    arrival_s: float = np.nan
    """When it arrived, on a clock that need not be that of the others."""
    chunks: int = 0
    """In which the answer came; 0 where nobody counted."""
    at_once: int = 0
    """Where only durations are known: requests that a closed loop keeps under way; 0 where nothing says."""
    run: int = 0
    """Where only durations are known: runs of a file follow one another."""
    ended: bool = False
    """Whether its answer was ended from outside: what there is of it was served."""
    note: str = ""
    """What must be known of such requests."""
    zoned: frozenset[bool] = frozenset()
    """Whether dates that it is told by have a time zone."""


class Fields:
    """The fields of one request, or of whatever holds several."""

    def __init__(self, values: Any, place: str = "", run: int = 0) -> None:
        """`place` is where they stand in the file, `run` the number of what they are in."""
        if not isinstance(values, dict):
            raise InputError("is no JSON object", path=place)
        self.values, self.place, self.run = values, place, run

    def find(self, *paths: str) -> tuple[str, Any]:
        """Return the first of these fields that holds something, else the first that is null, and what it holds.

        Fields within others have the names of these before theirs, with a dot. Raises InputError where there is none.
        """
        null = None
        for path in paths:
            value = _at(self.values, path)
            if value is None:
                null = null or path
            elif value is not _MISSING:
                return path, value
        if null is None:
            raise InputError(f"{' or '.join(paths)} is missing", path=self.place)
        return null, None

    def has(self, *paths: str) -> bool:
        """Say whether one of these fields holds something."""
        return any(_at(self.values, path) not in (None, _MISSING) for path in paths)

    def get(self, *paths: str) -> Any:
        """Return what the first of these fields holds that holds something, None where none does."""
        return self.find(*paths)[1] if self.has(*paths) else None

    def number(self, *paths: str, least: int = -_LATEST_S, most: int = _LATEST_S, whole: bool = False) -> float:
        """Return a number, with InputError for what is none or out of range."""
        path, value = self.find(*paths)
        # Compared before anything converts it: an integer may be larger than any float.
        known = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
        if not known or (whole and value != int(value)):
            kind = "whole number" if whole else "number"
            raise self.wrong(path, value, f"must be a {kind} from {least:.15g} to {most:.15g}")
        return value if isinstance(value, float) else int(value)

    def time(self, *paths: str, unit: str = "s") -> float:
        """Return a point in time, in seconds."""
        per_s = PER_S[unit]
        return self.number(*paths, least=-_LATEST_S * per_s, most=_LATEST_S * per_s) / per_s

    def duration(self, *paths: str, unit: str = "s") -> float:
        """Return a duration, in seconds; InputError for a negative one."""
        per_s = PER_S[unit]
        return self.number(*paths, least=0, most=_LATEST_S * per_s) / per_s

    def tokens(self, *paths: str) -> int:
        """Return a number of tokens, from 1."""
        return int(self.number(*paths, least=1, most=LARGEST_REQUEST, whole=True))

    def count(self, *paths: str) -> int:
        """Return a whole number, 0 where there is none."""
        return int(self.number(*paths, least=0, most=_LATEST_S, whole=True)) if self.has(*paths) else 0

    def items(self, *paths: str) -> list[Any]:
        """Return a list."""
        path, value = self.find(*paths)
        if not isinstance(value, list):
            raise self.wrong(path, value, "must be a list")
        return value

    def times(self, *paths: str, least: int = -_LATEST_S, unit: str = "s") -> list[float]:
        """Return a list of points in time, or with `least` 0 of durations, in seconds."""
        path, _ = self.find(*paths)
        per_s, values = PER_S[unit], self.items(*paths)
        low, high = least * per_s, _LATEST_S * per_s
        # All at once: a file may have millions. NaN, which compares with nothing, spoils the sum.
        known = set(map(type, values)) <= {int, float}
        if not (known and (not values or (low <= min(values) and max(values) <= high and not math.isnan(sum(values))))):
            numbers = (
                k for k, value in enumerate(values) if type(value) not in (int, float) or not low <= value <= high
            )
            k = next(numbers)
            raise self.wrong(f"{path}[{k}]", values[k], f"must be a number from {low:.15g} to {high:.15g}")
        return values if per_s == 1 else [value / per_s for value in values]

    def within(self, *paths: str) -> "list[Fields]":
        """Return the fields of each element of a list."""
        path, _ = self.find(*paths)
        return [
            Fields(value, _joined(self.place, f"{path}[{k}]"), self.run) for k, value in enumerate(self.items(*paths))
        ]

    def wrong(self, path: str, value: Any, problem: str) -> InputError:
        """Return the refusal of a field."""
        return InputError(problem, path=_joined(self.place, path), value=json.dumps(value, default=str)[:40])


def _at(values: Any, path: str) -> Any:
    """Return what stands at a path; a name may have dots of its own."""
    if not isinstance(values, dict):
        return _MISSING
    if path in values:
        return values[path]
    head, _, rest = path.partition(".")
    return _at(values[head], rest) if rest and head in values else _MISSING


def _joined(place: str, path: str) -> str:
    return ": ".join(filter(None, (place, path)))


def check(entry: Entry, place: str) -> Entry:
    """Return a request whose times run forwards on one clock, and which the simulator can hold; raises InputError."""
    order = [
        ("queued", entry.queued_s),
        ("scheduled", entry.scheduled_s),
        ("first token", entry.first_token_s),
        ("last token", entry.last_token_s),
    ]
    known = [(label, value) for label, value in order if not math.isnan(value)]
    for (before, a), (after, b) in pairwise(known):
        if b < a - _ROUNDING_S:
            problem = f"{after} at {b} s is before {before} at {a} s: one clock, never backwards"
            raise InputError(problem, path=place)
    if known[-1][1] - known[0][1] > 1e8:
        took = known[-1][1] - known[0][1]
        raise InputError(f"{took:.3g} s from {known[0][0]} to {known[-1][0]}: not of one clock", path=place)
    total = entry.prompt_tokens + entry.output_tokens
    if total > LARGEST_REQUEST:
        raise InputError(f"{total} tokens in and out", path=place, allowed=f"must be at most {LARGEST_REQUEST}")
    return entry
