"""The batch size a server asks for, or how many requests may run: the smallest bound of all controllers ([DB] III).

The papers' b = min(b_mem, b_SLA) is `both(MEMORY, SLA)`; what else is configured joins it in the same way. What
controllers see of the past is smoothed once for all of them (docs/model.md, sections 3, 6-8 and 10).
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy import float64
from numpy.typing import NDArray

from ..dialect import policy, where, whole
from .controller import Both, Controller, Finished, Heads, Last, Observed, View, both, controller_of, least_of
from .estimates import UNIT, Observation, RunningMeans, Smoothing, read, smoothing, start_means
from .memory import MEMORY, Memory, no_memory_bound
from .sla import SLA, Sla, clamp, no_sla

PAPERS = both(MEMORY, SLA)


class Control(NamedTuple):
    """Settings of the batch-size target."""

    smallest: float
    """B_min."""
    largest: float
    """B_max."""
    sla: Sla
    memory: Memory
    smoothing: Smoothing
    prior_tokens: NDArray[float64]
    """(controller,) mean of p + o before any observation, from the sample that gave the bin edges."""
    prior_squares: NDArray[float64]
    """(controller,) mean of (p + o)² of that sample."""
    further: Any = ()
    """Settings of one controller more; empty where there is none."""


class Target(NamedTuple):
    """What was decided, and the running means then."""

    running: RunningMeans
    """Of batches, or of decode steps."""
    memory_bound: float
    """b_mem."""
    sla_bound: float
    """b_SLA."""
    batch: int
    """b_target: requests of the next batch, or that may run."""


class Decider(NamedTuple):
    """All controllers together."""

    start: Callable[[RunningMeans, View, Control], tuple[Any, Target]]
    """The state before the first decision, and what is decided then."""
    decide: Callable[[Any, RunningMeans, View, Control], tuple[Any, Target]]
    """The state after a decision, and what was decided."""


def fixed_target(
    smallest: int, largest: int, prior_tokens: NDArray[float64], prior_squares: NDArray[float64]
) -> Control:
    """Build settings under which the target is `largest`, always."""
    return Control(
        float(smallest), float(largest), no_sla(), no_memory_bound(), smoothing(), prior_tokens, prior_squares
    )


@policy
def _decided(papers: Both, bound: Any, running: RunningMeans, view: View) -> Target:
    """Hold a bound inside [B_min, B_max], and no lower than the number of those that stay in the batch."""
    held = clamp(bound, least_of(view), view.largest)
    return Target(running, papers.first.bound, papers.second.bound, whole(held))


@cache
def decider(further: Controller | None) -> Decider:
    """Return the papers' controllers, with one more where there is one."""
    if further is None:
        init, move = PAPERS.init, PAPERS.decide

        def start(running: RunningMeans, view: View, control: Control) -> tuple[Any, Target]:
            state, bound = init(view, Both(control.memory, control.sla))
            return state, _decided(state, bound, running, view)

        def decide(state: Any, running: RunningMeans, view: View, control: Control) -> tuple[Any, Target]:
            state, bound = move(state, view, Both(control.memory, control.sla))
            return state, _decided(state, bound, running, view)

    else:
        init, move = both(PAPERS, further).init, both(PAPERS, further).decide

        def start(running: RunningMeans, view: View, control: Control) -> tuple[Any, Target]:
            state, bound = init(view, Both(Both(control.memory, control.sla), control.further))
            return state, _decided(state.first, bound, running, view)

        def decide(state: Any, running: RunningMeans, view: View, control: Control) -> tuple[Any, Target]:
            state, bound = move(state, view, Both(Both(control.memory, control.sla), control.further))
            return state, _decided(state.first, bound, running, view)

    return Decider(policy(start), policy(decide))


@policy
def steps_of(running: RunningMeans, settings: Smoothing) -> Observed:
    """Return what controllers see of the batches, or decode steps, so far."""
    signal = read(running.total.signal, running, settings)
    return Observed(running.seen, signal, read(running.total.batch, running, settings))


@policy
def finished_of(running: RunningMeans, prior_tokens: Any, prior_squares: Any, settings: Smoothing) -> Finished:
    """Return what controllers see of the requests that finished; the sample's moments before any has."""
    unseen = running.seen == 0
    tokens = where(unseen, prior_tokens, read(running.total.tokens, running, settings))
    squares = where(unseen, prior_squares, read(running.total.squares, running, settings))
    return Finished(running.seen, tokens, squares)


@policy
def last_of(batch: Observation, finished: Observation) -> Last:
    """Return what controllers see of what has just ended."""
    return Last(
        batch.signal / UNIT, batch.batch / UNIT, finished.batch / UNIT, finished.tokens / UNIT, finished.squares / UNIT
    )


def start_state(control: Control) -> Any:
    """Return a state that all controllers together could begin with: which numbers it holds depends on settings only.

    What they see are no requests at all, in one bin.
    """
    means, nobody = start_means(), np.zeros(1)
    view = View(
        False,
        0,
        0,
        0,
        np.zeros(1, np.int64),
        Heads(np.zeros(1, np.int64), np.zeros(1, np.int64), nobody, nobody, nobody, 0, 1),
        -1,
        control.smallest,
        control.largest,
        steps_of(means, control.smoothing),
        finished_of(means, float(control.prior_tokens[0]), float(control.prior_squares[0]), control.smoothing),
        last_of(means.total, means.total),
    )
    return decider(controller_of(control.further)).start(means, view, control)[0]


def has_further(control: Control) -> bool:
    """Say whether there is a controller beside the papers'."""
    return controller_of(control.further) is not None


def is_steady(control: Control) -> bool:
    """Say whether the target stays while nothing finishes and nobody comes, so that steps may be taken many at once."""
    further = controller_of(control.further)
    papers = PAPERS.steady(Both(control.memory, control.sla))
    return papers and (further is None or further.steady(control.further))


def watches_steps(control: Control) -> bool:
    """Say whether a controller is shown single steps of continuous batching."""
    further = controller_of(control.further)
    return control.sla.enabled or (further is not None and not further.steady(control.further))
