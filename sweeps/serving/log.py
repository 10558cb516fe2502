"""The folder that a server writes: what it was told, what became of each request, and what was decided at each step."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from batchcube.documents import parse_json, read_file
from batchcube.engine.continuous.ticks import TICKS_PER_MICROSECOND, TICKS_PER_NANOSECOND
from batchcube.engine.policies.controller import Heads
from batchcube.errors import InputError, found_in

ABOUT, REQUESTS, STEPS = "served.json", "requests.jsonl", "steps.jsonl"
PRIORITY, HASHES = "priority", "hash_ids"
"""Of a request in the log."""
NANOSECONDS_PER_S = 10**9
_BUFFER = 2**20


class Outcome(NamedTuple):
    """What a step has shown, as a row of the log holds it."""

    step: int
    """Its number."""
    end_ns: int
    duration_ns: int
    decoding: int
    signal_us: float | None
    """None where nothing decoded, or no controller looks at single steps."""
    finished: int
    """Requests that were over with it."""
    tokens: int
    """Sum of their p + o."""
    squares: int
    """Sum of their (p + o)²."""


class Head(NamedTuple):
    """The first request of a bin, as a controller may see it."""

    arrival_ns: int
    prompt: int
    predicted: float


class Decided(NamedTuple):
    """One step: what was learned since the one before, what its controllers saw, and what they decided.

    Where nobody waits or runs there is none, and nothing is decided: the server has nothing more to do.
    """

    step: int
    at_ns: int
    """Nanoseconds since the log began, as all of its times."""
    seen: list[Outcome]
    waiting: int
    running: int
    """Before the step."""
    queues: Sequence[int]
    """Requests that wait in each bin; empty where no controller of one's own looks at them."""
    heads: Sequence[Head]
    """The first of each bin, zeros where nobody waits; empty like `queues`."""
    cap: int
    memory_bound: float
    sla_bound: float
    signal_us: float
    """Smoothed; 0 before there is one."""
    signals: int
    """Observations it holds."""
    batch: int
    """Requests that run in the step."""
    tokens: int
    """That it computes."""
    kv_tokens: int
    """In the blocks in use at its end, before anybody leaves."""
    preempted: int
    fault: bool
    """The policy had failed: the static cap held."""


class Written(NamedTuple):
    """A folder, read again."""

    about: dict[str, Any]
    requests: list[dict[str, Any]]
    steps: list[Decided]


class ServedLog:
    """Writes the folder; rows reach the disk once a second, or when there is nothing to do."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Begin the files; InputError where there are some, or none can be written."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            there = [name for name in (ABOUT, REQUESTS, STEPS) if (folder / name).exists()]
            if there:
                raise InputError("is there already; name another folder", file=folder / there[0])
            (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            self._requests, self._steps = (
                (folder / name).open("x", encoding="utf-8", buffering=_BUFFER) for name in (REQUESTS, STEPS)
            )
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", file=folder) from None

    def request(self, row: Mapping[str, Any]) -> None:
        """Write what became of a request."""
        self._requests.write(json.dumps(row) + "\n")

    def step(self, row: tuple[Any, ...]) -> None:
        """Write a step: what `Decided` holds, in its order."""
        self._steps.write(json.dumps(row) + "\n")

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._requests.flush()
        self._steps.flush()

    def give_up(self) -> None:
        """Close the files, whatever becomes of what is left."""
        for file in (self._requests, self._steps):
            with suppress(OSError):
                file.close()

    def close(self) -> None:
        """Write what is left."""
        self._requests.close()
        self._steps.close()


def read_served(folder: Path) -> Written:
    """Read what a server wrote; InputError for a folder that is none, and rows that are none."""
    about = _read(folder / ABOUT)
    if len(about) != 1 or not isinstance(about[0], dict) or "policy" not in about[0]:
        raise InputError("is no account of a server", file=folder / ABOUT)
    steps = []
    for number, row in enumerate(_read(folder / STEPS, lines=True), start=1):
        try:
            decided = Decided(*row)
            seen = [Outcome(*outcome) for outcome in decided.seen]
            steps.append(decided._replace(seen=seen, heads=[Head(*head) for head in decided.heads]))
        except TypeError:
            fields = ", ".join(Decided._fields)
            raise InputError(f"must be a list of {fields}", file=folder / STEPS, path=f"line {number}") from None
    return Written(about[0], _read(folder / REQUESTS, lines=True), steps)


def heads_of(row: Sequence[Head], now_ns: int) -> Heads:
    """Return the first request of each bin as controllers see them."""
    at = np.arange(max(len(row), 1))
    arrival, prompt, predicted = zip(*row, strict=True) if row else ((0,), (0,), (0.0,))
    return Heads(
        at,
        at,
        np.array(arrival, np.int64) * TICKS_PER_NANOSECOND,
        np.array(prompt, np.int64),
        np.array(predicted, np.float64),
        now_ns * TICKS_PER_NANOSECOND,
        TICKS_PER_MICROSECOND,
    )


def _read(path: Path, *, lines: bool = False) -> list[Any]:
    text = read_file(path).decode("utf-8", errors="replace")
    if not lines:
        with found_in(file=path):
            return [parse_json(text)]
    rows = []
    # A server that was killed may leave half a line at the end.
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        with found_in(file=path, path=f"line {number}"):
            rows.append(parse_json(line))
    return rows
