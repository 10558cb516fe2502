"""Mutations of good inputs, and the check that a program survives them: no traceback, no hang.

A fuzz test makes a good input, asks `mutants` for many wrong ones, and hands each to its reader within `limited`. The
reader may accept a wrong input, or refuse it as a user's mistake. `count` says how many are tried: 20,000 unless
BATCHCUBE_FUZZ_INPUTS says otherwise.
"""

import copy
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

SECONDS = 8
"""A reader that is busy for longer with one small input hangs."""

NASTY = (
    None,
    True,
    "",
    "nan",
    "../escaped",
    "\x1b[2J",
    "$\\frac{$",
    "\0",
    "x" * 10_000,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    10**400,
    0.5,
    -0.0,
    5e-324,
    1e-9,
    1e300,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [0, "a", None],
    {"": {}},
)
"""Values that somebody once forgot."""


def count() -> int:
    """Return how many mutants a fuzz test tries."""
    return int(os.environ.get("BATCHCUBE_FUZZ_INPUTS", "20000"))


def mutants(good: T, mutate: Callable[[random.Random, T], T], seed: int) -> Iterator[T]:
    """Yield `count` inputs that are one to three mutations away from `good`; the same ones for the same seed."""
    for number in range(count()):
        chance = random.Random(f"{seed}/{number}")
        wrong = copy.deepcopy(good)
        for _ in range(chance.randint(1, 3)):
            wrong = mutate(chance, wrong)
        yield wrong


def mutate_bytes(chance: random.Random, good: bytes) -> bytes:
    """Flip, cut, repeat or insert bytes."""
    if not good:
        return bytes([chance.randrange(256)])
    at = chance.randrange(len(good))
    to = min(len(good), at + chance.randint(1, 64))
    kind = chance.randrange(5)
    if kind == 0:
        return good[:at] + bytes([good[at] ^ (1 << chance.randrange(8))]) + good[at + 1 :]
    if kind == 1:
        return good[:at]
    if kind == 2:
        return good[:at] + good[to:]
    if kind == 3:
        return good[:at] + good[at:to] * chance.randint(2, 50) + good[to:]
    return (
        good[:at] + chance.choice((b"\0", b"\xff", b"\n", b'"', b",", b"{" * 2000, b"[" * 2000, b"1e999")) + good[at:]
    )


def mutate_tree(chance: random.Random, good: Any) -> Any:
    """Replace, remove, rename, repeat or deepen one entry of nested dictionaries and lists, in place where it can."""
    places = list(_places(good))
    if not places:
        return chance.choice(NASTY)
    table, key = chance.choice(places)
    kind = chance.randrange(8)
    if kind == 0:
        del table[key]
    elif kind == 1 and isinstance(table, dict):
        table[chance.choice((f"{key}x", str(key).upper(), "", "path"))] = table.pop(key)
    elif kind == 2:
        other, at = chance.choice(places)
        table[key] = copy.deepcopy(other[at]) if at in _keys(other) else None
    elif kind == 3:
        table[key] = _deep(chance.choice((5, 30, 100)), chance.random() < 0.5, table[key])
    elif kind == 4 and isinstance(table[key], list):
        table[key] = table[key] * chance.choice((2, 100))
    elif kind == 5 and type(table[key]) in (int, float) and abs(table[key]) < 10**300:
        table[key] = table[key] * chance.choice((-1, 0, 1e-12, 0.999, 1.5, 1e12, 10**12))
    else:
        table[key] = copy.deepcopy(chance.choice(NASTY))
    return good


@contextmanager
def limited(seconds: int = SECONDS) -> Iterator[None]:
    """Raise TimeoutError in a block that computes for longer, or that waits for twenty times as long."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"busy for more than {seconds} s")

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, seconds), (signal.SIGALRM, signal.ITIMER_REAL, 20 * seconds))
    before = {number: signal.signal(number, late) for number, _, _ in timers}
    for _, timer, limit in timers:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for number, timer, _ in timers:
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def _keys(table: Any) -> Any:
    return table if isinstance(table, dict) else range(len(table))


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(tree, dict | list):
        for key in list(_keys(tree)):
            yield tree, key
            yield from _places(tree[key])


def _deep(levels: int, listed: bool, inside: Any) -> Any:
    for _ in range(levels):
        inside = [inside] if listed else {"a": inside}
    return inside
