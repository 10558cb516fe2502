"""Decides at each step of a real server what the simulator's controllers decide, on what that server shows."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from batchcube.engine.policies.steering import Steering
from batchcube.engine.policies.target import Control, Target

from .log import NANOSECONDS_PER_S, Decided, Head, Outcome, ServedLog, heads_of

_NOBODY = heads_of([], 0)


class Queues(NamedTuple):
    """Who waits, and how many run."""

    waiting: int
    running: int
    queues: Sequence[int] = ()
    """Requests that wait in each bin, and the first of each: where the pilot `looks_at_queues`."""
    heads: Sequence[Head] = ()


class Pilot:
    """The controllers of one replica that serves for real; times in nanoseconds since the log began.

    With every step of the server: `decide`, then `began`, and `learn` once its tokens are there, which may be after the
    next has begun. A pilot that has `failed` lets the static cap hold.
    """

    def __init__(self, control: Control, bins: int, log: ServedLog | None = None) -> None:
        self.log = log
        self._nobody = np.zeros(bins, np.int64)
        self._steering = Steering(control, self._nobody, _NOBODY)
        self.watches, self.looks_at_queues = self._steering.watches, self._steering.looks_at_queues
        self.static = int(control.largest)
        self.failed = False
        self._steps = self._flushed = 0
        self._signal_us = 0.0
        self._seen: list[Outcome] = []

    def decide(self, now_ns: int, seen: Queues) -> Target:
        """Decide how many may run."""
        steering = self._steering
        if not steering.moves:
            return steering.target
        queues, heads = self._nobody, _NOBODY
        if self.looks_at_queues:
            queues, heads = np.array(seen.queues, np.int64), heads_of(seen.heads, now_ns)
        view = steering.view(seen.waiting, seen.running, queues, heads)
        self._signal_us = view.steps.signal
        return steering.decide(view)

    def learn(self, outcome: Outcome) -> None:
        """Take in what a step has shown."""
        self._seen.append(outcome)
        if self.failed:
            return
        if outcome.signal_us is not None:
            self._steering.learn_step(outcome.signal_us, outcome.decoding)
        if outcome.finished:
            self._steering.learn_finished(outcome.finished, outcome.tokens, outcome.squares)

    def began(
        self, now_ns: int, seen: Queues, cap: int, batch: int, tokens: int, kv_tokens: int, preempted: int
    ) -> int:
        """Keep what was decided when a step began, and what it does, see `Decided`; return its number."""
        number, learned = self._steps, self._seen
        self._steps, self._seen = number + 1, []
        if self.log is not None:
            target = self._steering.target
            decided = (cap, target.memory_bound, target.sla_bound, self._signal_us, target.running.seen)
            self.log.step((number, now_ns, learned, *seen, *decided, batch, tokens, kv_tokens, preempted, self.failed))
            if now_ns - self._flushed > NANOSECONDS_PER_S:
                self.log.flush()
                self._flushed = now_ns
        return number

    def rest(self, now_ns: int) -> None:
        """Keep what the last step has shown, now that nobody is here and nothing is decided."""
        if self._seen:
            self.began(now_ns, Queues(0, 0), self._steering.target.batch, 0, 0, 0, 0)
        if self.log is not None:
            self.log.flush()
            self._flushed = now_ns


def replayed(control: Control, bins: int, steps: Iterable[Decided]) -> Iterator[tuple[Decided, Target]]:
    """Decide again what a log says was decided, from what it says was seen; until the policy failed."""
    pilot = Pilot(control, bins)
    for row in steps:
        if row.fault:
            return
        for outcome in row.seen:
            pilot.learn(outcome)
        if row.waiting or row.running:
            yield row, pilot.decide(row.at_ns, Queues(row.waiting, row.running, row.queues, row.heads))


def outcome_of(
    step: int, end_ns: int, duration_ns: int, decoding: int, signal_ns: int | None, finished: Sequence[int]
) -> Outcome:
    """Return what a step has shown; `finished` are the tokens p + o of the requests that were over with it."""
    signal = None if signal_ns is None else signal_ns / 1000
    squares = sum(tokens * tokens for tokens in finished)
    return Outcome(step, end_ns, duration_ns, decoding, signal, len(finished), sum(finished), squares)
