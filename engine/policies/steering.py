"""The controllers of one replica, and whose turn it is to be admitted, in plain Python: what the reference executes.

So does whatever serves for real: decisions are the same functions on the same numbers there.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .controller import Heads, View, as_floats, controller_of
from .estimates import NOTHING, Observation, RunningMeans, Smoothing, observe, start_means, update
from .order import NO_RANK, Candidate, order_of, rank_of
from .target import Control, Target, decider, finished_of, has_further, last_of, steps_of, watches_steps


class Means:
    """Running means, and the observations that a window of them needs."""

    def __init__(self, settings: Smoothing) -> None:
        self.settings, self.running = settings, start_means()
        self._window: deque[Observation] = deque(maxlen=settings.observations)

    def take(self, new: Observation) -> None:
        """Take in one observation, in place of the one that leaves a full window."""
        full = len(self._window) == self.settings.observations
        self.running = update(self.running, new, self._window[0] if full else NOTHING, self.settings)
        self._window.append(new)


class Steering:
    """What the controllers of one replica have learned, and what they have decided last, in `target`.

    `view` takes what they see of the queues and makes a `View` of it; the first, of an empty replica, is given here.
    """

    def __init__(self, control: Control, queues: Any, heads: Heads) -> None:
        self.control = control
        self.watches = watches_steps(control)
        """Whether a controller looks at single steps."""
        self.looks_at_queues = has_further(control)
        """Whether a controller of one's own may look at them."""
        self.moves = control.memory.enabled or control.sla.enabled or self.looks_at_queues
        """Whether there is a controller at all: without one, the target stays as it is."""
        self.steps, self.finished = Means(control.smoothing), Means(control.smoothing)
        self.last_step = self.last_finished = NOTHING
        self._decider = decider(controller_of(control.further))
        self._prior = float(control.prior_tokens[0]), float(control.prior_squares[0])
        state, self.target = self._decider.start(self.running, self.view(0, 0, queues, heads), control)
        self.state = as_floats(state)

    @property
    def running(self) -> RunningMeans:
        """Means over steps."""
        return self.steps.running

    def view(self, waiting: int, running: int, queues: Any, heads: Heads) -> View:
        """Return what the controllers see: requests that wait in all and (bin,) in each, that run, and who is first."""
        control = self.control
        return View(
            waiting > 0,
            waiting,
            running,
            running,
            queues,
            heads,
            -1,
            control.smallest,
            control.largest,
            steps_of(self.steps.running, control.smoothing),
            finished_of(self.finished.running, *self._prior, control.smoothing),
            last_of(self.last_step, self.last_finished),
        )

    def decide(self, view: View) -> Target:
        """Decide how many may run; what is learned from here on is of another step."""
        state, self.target = self._decider.decide(self.state, self.running, view, self.control)
        self.state = as_floats(state)
        self.last_step = self.last_finished = NOTHING
        return self.target

    def learn_step(self, signal: float, decoding: int) -> None:
        """Smooth what a step has shown: its signal in microseconds, and how many requests decoded, 1 or more."""
        self.last_step = observe(signal, decoding, 0, 0)
        self.steps.take(self.last_step)

    def learn_finished(self, requests: int, tokens: int, squares: int) -> None:
        """Smooth p + o of the requests that a step has finished, 1 or more: the sum, and that of the squares."""
        self.last_finished = observe(0.0, requests, tokens, squares)
        self.finished.take(self.last_finished)


@dataclass
class Turns:
    """Which bin admission takes from: one until it is empty or has been given `most` requests in a row."""

    order: Any
    """Settings of the order in which bins are served."""
    most: int
    serving: int = -1
    left: int = 0
    """How many more may come from the bin being served."""

    def bin_served(self, sizes: Sequence[int], candidate: Callable[[int, int], Candidate]) -> int:
        """Return the bin, given how many wait in each; `candidate` shows a bin, and the one served last, to the order.

        Somebody must wait.
        """
        if self.serving < 0 or self.left == 0 or not sizes[self.serving]:
            key = order_of(self.order).key
            ranks = [
                int(rank_of(key(candidate(k, self.serving), self.order))) if size else NO_RANK
                for k, size in enumerate(sizes)
            ]
            self.serving, self.left = ranks.index(min(ranks)), self.most
        return self.serving
