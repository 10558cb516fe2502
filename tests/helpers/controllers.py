"""The controllers by hand: shown one batch, or one step, after the other."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from batchcube.engine.policies.controller import Heads, View, as_floats, controller_of
from batchcube.engine.policies.estimates import NOTHING, Observation, RunningMeans, start_means, update
from batchcube.engine.policies.target import Control, Target, decider, finished_of, last_of, steps_of


@dataclass
class ByHand:
    """The controllers of one bin, and what they have decided."""

    control: Control
    k: int = 0
    state: Any = None
    target: Target = None
    steps: RunningMeans = field(default_factory=start_means)
    finished: RunningMeans = field(default_factory=start_means)
    shown: list[list[Observation]] = field(default_factory=lambda: [[], []])

    def __post_init__(self) -> None:
        self.decider = decider(controller_of(self.control.further))
        self.pending = [NOTHING, NOTHING]
        view = self.view(waiting=0, running=0, staying=0)
        state, self.target = self.decider.start(self.steps, view, self.control)
        self.state = as_floats(state)

    def view(self, *, waiting: int, running: int, staying: int) -> View:
        control, k = self.control, self.k
        nobody = np.zeros(1, np.int64)
        return View(
            waiting > 0,
            waiting,
            running,
            staying,
            np.array([waiting]),
            Heads(nobody, nobody, nobody, nobody, nobody, 0, 1),
            -1,
            control.smallest,
            control.largest,
            steps_of(self.steps, control.smoothing),
            finished_of(self.finished, control.prior_tokens[k], control.prior_squares[k], control.smoothing),
            last_of(*self.pending),
        )

    def see_step(self, new: Observation) -> "ByHand":
        """Show a decode step."""
        self.steps, self.pending[0] = self._updated(self.steps, 0, new), new
        return self

    def see_finished(self, new: Observation) -> "ByHand":
        """Show the requests that finished in one step."""
        self.finished, self.pending[1] = self._updated(self.finished, 1, new), new
        return self

    def decide(self, waiting: int, running: int, staying: int | None = None) -> Target:
        """Let a step begin: all that run stay."""
        view = self.view(waiting=waiting, running=running, staying=running if staying is None else staying)
        state, self.target = self.decider.decide(self.state, self.steps, view, self.control)
        self.state, self.pending = as_floats(state), [NOTHING, NOTHING]
        return self.target

    def batch(self, new: Observation, waiting: int) -> Target:
        """Let a batch finish that runs as a whole."""
        self.see_step(new).see_finished(new)
        return self.decide(waiting, 1, staying=0)

    def _updated(self, means: RunningMeans, which: int, new: Observation) -> RunningMeans:
        history, held = self.shown[which], self.control.smoothing.observations
        history.append(new)
        oldest = history[-1 - held] if len(history) > held else NOTHING
        return update(means, new, oldest, self.control.smoothing)
