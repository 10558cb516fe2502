"""Decides again what a log says was decided, in compiled code: with the functions that the kernels call."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np

from batchcube.engine.policies.controller import View, as_floats, controller_of
from batchcube.engine.policies.estimates import NOTHING, Observation, RunningMeans, observe, read, start_means, update
from batchcube.engine.policies.target import Control, Target, decider, finished_of, last_of, start_state, steps_of
from batchcube.sweeps.serving.log import Decided, heads_of


def decided_again(control: Control, bins: int, steps: list[Decided]) -> Iterator[tuple[Decided, Target, float]]:
    """Yield each row with what compiled code decides on what the row saw, and the smoothed signal that it reads."""
    moves = numba.njit(decider(controller_of(control.further)).decide)
    observes, updates, reads = numba.njit(observe), numba.njit(update), numba.njit(read)
    sees, knows, shows = numba.njit(steps_of), numba.njit(finished_of), numba.njit(last_of)
    smoothing, prior = control.smoothing, (float(control.prior_tokens[0]), float(control.prior_squares[0]))
    state = as_floats(start_state(control))
    means = [start_means(), start_means()]
    windows: list[deque[Observation]] = [deque(maxlen=smoothing.observations) for _ in means]

    def take(which: int, new: Observation) -> None:
        full = len(windows[which]) == smoothing.observations
        oldest = windows[which][0] if full else NOTHING
        means[which] = RunningMeans(*updates(means[which], new, oldest, smoothing))
        windows[which].append(new)

    last = [NOTHING, NOTHING]
    for row in steps:
        if row.fault:
            return
        for outcome in row.seen:
            if outcome.signal_us is not None:
                last[0] = Observation(*observes(outcome.signal_us, outcome.decoding, 0, 0))
                take(0, last[0])
            if outcome.finished:
                last[1] = Observation(*observes(0.0, outcome.finished, outcome.tokens, outcome.squares))
                take(1, last[1])
        if not row.waiting and not row.running:
            continue
        queues: Any = np.array(row.queues, np.int64) if row.queues else np.zeros(bins, np.int64)
        view = View(
            row.waiting > 0,
            row.waiting,
            row.running,
            row.running,
            queues,
            heads_of(row.heads, row.at_ns if row.heads else 0),
            -1,
            control.smallest,
            control.largest,
            sees(means[0], smoothing),
            knows(means[1], *prior, smoothing),
            shows(*last),
        )
        last = [NOTHING, NOTHING]
        state, target = moves(state, means[0], view, control)
        yield row, target, float(reads(means[0].total.signal, means[0], smoothing))
