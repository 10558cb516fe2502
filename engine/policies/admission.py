"""How many requests may run at once under continuous batching: min(b_mem, b_SLA), moved at every step ([DB] III).

The same Algorithms 1 and 2 as at the request level (`memory`, `sla`); what differs is what they see. Latency and batch
size are those of single decode steps, tokens those of finished requests, and N_d requests are running (docs/model.md,
section 10).
"""

from typing import Any, NamedTuple

from ..dialect import floor, maximum, minimum, policy, where, whole
from .estimates import Observation, RunningMeans, read, start_means, update
from .memory import RULES
from .sla import Range, clamp, narrow, sla_batch
from .target import Control, bound_by_memory


class Admission(NamedTuple):
    """State of the controllers, and the cap that follows."""

    steps: RunningMeans
    """Of decode steps: τ in microseconds, b in decoding requests."""
    finished: RunningMeans
    """Of finished requests: p + o and its square."""
    span: Range
    memory_bound: float
    """b_mem."""
    sla_bound: float
    """b_SLA."""
    cap: int
    """Requests that may run."""


def is_steady(control: Control) -> bool:
    """Say whether the cap stays while nothing finishes and nobody comes, so that steps may be taken many at once."""
    rule = RULES[control.memory.rule]
    return not control.sla.enabled and (not control.memory.enabled or rule in ("exact", "margin"))


@policy
def start_admission(control: Control) -> Admission:
    """Return the state before the first step: both searches start in the middle of [B_min, B_max]."""
    middle = floor((control.smallest + control.largest) / 2.0)
    memory_bound = sla_bound = control.largest
    if control.sla.enabled:
        sla_bound = middle
    if control.memory.enabled:
        tokens, squares = control.prior_tokens[0], control.prior_squares[0]
        memory_bound = bound_by_memory(start_means(), middle, tokens, squares, control)
    span = Range(control.smallest, control.largest)
    cap = whole(clamp(minimum(memory_bound, sla_bound), control.smallest, control.largest))
    return Admission(start_means(), start_means(), span, memory_bound, sla_bound, cap)


@policy
def see_step(state: Admission, new: Observation, oldest: Observation, control: Control) -> Admission:
    """Take in a decode step, and let Algorithm 2 act on it."""
    steps = update(state.steps, new, oldest, control.smoothing)
    span, sla_bound = state.span, state.sla_bound
    if control.sla.enabled:
        signal = read(steps.total.signal, steps, control.smoothing)
        batch = read(steps.total.batch, steps, control.smoothing)
        span = narrow(span, signal, batch, control.smallest, control.largest, control.sla)
        sla_bound = sla_batch(span, control.smallest, control.largest)
    return Admission(steps, state.finished, span, state.memory_bound, sla_bound, state.cap)


@policy
def see_finished(state: Admission, new: Observation, oldest: Observation, control: Control) -> Admission:
    """Take in the requests that finished in one step: one observation, of their means."""
    finished = update(state.finished, new, oldest, control.smoothing)
    return Admission(state.steps, finished, state.span, state.memory_bound, state.sla_bound, state.cap)


@policy
def decide_cap(state: Admission, waiting: Any, running: Any, control: Control) -> Admission:
    """Let Algorithm 1 act where requests both wait and run, and combine both bounds; neither goes below N_d."""
    memory_bound = state.memory_bound
    if control.memory.enabled:
        tokens, squares = control.prior_tokens[0], control.prior_squares[0]
        moved = bound_by_memory(state.finished, memory_bound, tokens, squares, control)
        moved = minimum(maximum(moved, running * 1.0), control.largest)
        memory_bound = where((waiting > 0) & (running > 0), moved, memory_bound)
    bound = clamp(minimum(memory_bound, state.sla_bound), control.smallest, control.largest)
    cap = whole(minimum(maximum(bound, running * 1.0), control.largest))
    return Admission(state.steps, state.finished, state.span, memory_bound, state.sla_bound, cap)
