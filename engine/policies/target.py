"""The batch size a server asks for: b = min(b_mem, b_SLA), moved after each batch (docs/model.md, sections 3, 6-8)."""

from typing import Any, NamedTuple

from numpy import float64
from numpy.typing import NDArray

from ..dialect import floor, maximum, minimum, policy, settle, where, whole
from .estimates import Observation, RunningMeans, Smoothing, read, smoothing, start_means, update
from .memory import Memory, memory_batch, no_memory_bound
from .sla import Range, Sla, clamp, narrow, no_sla, sla_batch


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


class Target(NamedTuple):
    """State of one controller and its last decision."""

    running: RunningMeans
    span: Range
    memory_bound: float
    """b_mem."""
    sla_bound: float
    """b_SLA."""
    batch: int
    """b_target."""


def fixed_target(
    smallest: int, largest: int, prior_tokens: NDArray[float64], prior_squares: NDArray[float64]
) -> Control:
    """Build settings under which the target is `largest`, always."""
    return Control(
        float(smallest), float(largest), no_sla(), no_memory_bound(), smoothing(), prior_tokens, prior_squares
    )


@policy
def bound_by_memory(
    running: RunningMeans, previous: Any, prior_tokens: Any, prior_squares: Any, control: Control
) -> Any:
    """Return b_mem from the running moments, or from the sample's before any batch has finished."""
    unseen = running.seen == 0
    tokens = maximum(where(unseen, prior_tokens, read(running.total.tokens, running, control.smoothing)), 1.0)
    squares = where(unseen, prior_squares, read(running.total.squares, running, control.smoothing))
    variance = maximum(settle(squares) - settle(tokens * tokens), 0.0)
    return memory_batch(tokens, variance, previous, control.smallest, control.largest, control.memory)


@policy
def decide(running: RunningMeans, span: Range, memory_bound: Any, sla_bound: Any, control: Control) -> Target:
    """Combine both bounds into b_target = min(b_mem, b_SLA) in [B_min, B_max]."""
    batch = clamp(minimum(memory_bound, sla_bound), control.smallest, control.largest)
    return Target(running, span, memory_bound, sla_bound, whole(batch))


@policy
def start_target(controller: Any, control: Control) -> Target:
    """Return the state before the first batch: both searches start in the middle of [B_min, B_max]."""
    middle = floor((control.smallest + control.largest) / 2.0)
    running = start_means()
    span = Range(control.smallest, control.largest)
    memory_bound = sla_bound = control.largest
    if control.sla.enabled:
        sla_bound = middle
    if control.memory.enabled:
        tokens, squares = control.prior_tokens[controller], control.prior_squares[controller]
        memory_bound = bound_by_memory(running, middle, tokens, squares, control)
    return decide(running, span, memory_bound, sla_bound, control)


@policy
def learn(
    target: Target, new: Observation, oldest: Observation, waiting: Any, controller: Any, control: Control
) -> Target:
    """Move the target after one finished batch.

    Which of the two algorithms there are is structure, not data, so a plain `if` decides it in every backend.
    Algorithm 1 acts only while requests wait ([DB]: both waiting and running requests exist; the running ones are those
    that just finished). Algorithm 2 acts after every batch.
    """
    running = update(target.running, new, oldest, control.smoothing)
    signal = read(running.total.signal, running, control.smoothing)
    batch = read(running.total.batch, running, control.smoothing)
    memory_bound, sla_bound, span = target.memory_bound, target.sla_bound, target.span
    if control.sla.enabled:
        span = narrow(span, signal, batch, control.smallest, control.largest, control.sla)
        sla_bound = sla_batch(span, control.smallest, control.largest)
    if control.memory.enabled:
        tokens, squares = control.prior_tokens[controller], control.prior_squares[controller]
        moved = bound_by_memory(running, memory_bound, tokens, squares, control)
        memory_bound = where(waiting > 0, moved, memory_bound)
    return decide(running, span, memory_bound, sla_bound, control)
