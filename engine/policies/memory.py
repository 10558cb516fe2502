"""How many requests fit into memory: Algorithm 1 of [DB], arXiv 2503.05248 (docs/model.md, section 6)."""

from statistics import NormalDist
from typing import Any, Literal, NamedTuple, get_args

from ..dialect import floor, maximum, minimum, policy, settle, sqrt, where
from ..refusals import number_of
from .controller import Controller, View, least_of, middle

Rule = Literal["exact", "buffer", "margin", "literal"]
RULES: tuple[Rule, ...] = get_args(Rule)
EXACT, BUFFER, MARGIN, LITERAL = range(len(RULES))
OVERFLOW_PROBABILITY = 0.05
"""ε_M unless something else is said."""
UNLIMITED = 2.0**40
"""Stands for "no capacity given": more tokens than any batch holds, yet finite, as every branch is evaluated."""


class Memory(NamedTuple):
    """Settings of the memory bound; lengths in tokens."""

    enabled: bool
    rule: int
    """Of `RULES`."""
    capacity: float
    """η, tokens; `UNLIMITED` when no capacity is given."""
    quantile: float
    """θ = Φ^-1(1 - ε_M)."""
    margin: float
    """L0 of the rule `margin`, tokens."""


def no_memory_bound(capacity_tokens: float = UNLIMITED) -> Memory:
    """Leave memory unbounded; a capacity is still used to count overflows."""
    return Memory(False, EXACT, capacity_tokens, 0.0, 0.0)


def memory_bound(
    rule: str, capacity_tokens: float, overflow_probability: float = OVERFLOW_PROBABILITY, margin_tokens: float = 0.0
) -> Memory:
    """Build Algorithm 1's settings; InputError for a rule that does not exist."""
    number, quantile = number_of(rule, RULES, "policy.memory.rule"), NormalDist().inv_cdf(1.0 - overflow_probability)
    return Memory(True, number, float(capacity_tokens), quantile, float(margin_tokens))


@policy
def fits(batch: Any, mean: Any, variance: Any, memory: Memory) -> Any:
    """Say whether b·m + θ·sqrt(b·v) <= η."""
    return settle(batch * mean) + settle(memory.quantile * sqrt(batch * variance)) <= memory.capacity


@policy
def largest_fitting(mean: Any, variance: Any, memory: Memory) -> Any:
    """Return the largest b that fits: [DB] eq. (12) with per-request moments, made safe against rounding at the edge.

    Written as b = (sqrt(s² + η/m) - s)² with s = θ√v / 2m: no product grows with m·η, whose `settle` would overflow.
    """
    half = memory.quantile * sqrt(variance) / (2.0 * mean)
    root = sqrt(settle(half * half) + memory.capacity / mean) - half
    batch = maximum(floor(root * root), 0.0)
    batch = where(fits(batch + 1.0, mean, variance, memory), batch + 1.0, batch)
    return where(fits(batch, mean, variance, memory), batch, maximum(batch - 1.0, 0.0))


@policy
def memory_batch(mean: Any, variance: Any, previous: Any, smallest: Any, largest: Any, memory: Memory) -> Any:
    """Return b_mem as a whole float in [smallest, largest]; `previous` is the bound before."""
    deviation = settle(memory.quantile * sqrt(previous * variance))
    buffer = floor((memory.capacity - deviation) / mean)
    margin = floor((memory.capacity - memory.margin) / mean)
    # L0 = η - (θσ + μ), as printed, leaves (θσ + μ)/m with μ = previous·m: `previous` or more, whatever the memory.
    literal = floor(previous + deviation / mean)
    bound = where(
        memory.rule == EXACT,
        largest_fitting(mean, variance, memory),
        where(memory.rule == BUFFER, buffer, where(memory.rule == MARGIN, margin, literal)),
    )
    return minimum(maximum(bound, smallest), largest)


class MemoryState(NamedTuple):
    """State of Algorithm 1."""

    bound: float
    """b_mem."""


@policy
def bound_by_memory(previous: Any, view: View, memory: Memory) -> Any:
    """Return b_mem from the running moments; `previous` is the bound before."""
    tokens = maximum(view.finished.tokens, 1.0)
    variance = maximum(settle(view.finished.squares) - settle(tokens * tokens), 0.0)
    return memory_batch(tokens, variance, previous, least_of(view), view.largest, memory)


@policy
def start_memory(view: View, memory: Memory) -> tuple[MemoryState, Any]:
    """Begin with what the sample's moments allow, were the bound before in the middle of [B_min, B_max]."""
    bound = view.largest
    if memory.enabled:
        bound = bound_by_memory(middle(view), view, memory)
    return MemoryState(bound), bound


@policy
def decide_memory(state: MemoryState, view: View, memory: Memory) -> tuple[MemoryState, Any]:
    """Move the bound where requests both wait and run, never below those that stay in the batch.

    Whether there is a bound at all is structure, not data, so a plain `if` asks in every backend.
    """
    bound = state.bound
    if memory.enabled:
        moved = bound_by_memory(bound, view, memory)
        bound = where(view.waits & (view.running > 0), moved, bound)
    return MemoryState(bound), bound


def is_steady(memory: Memory) -> bool:
    """Say whether the bound stays while nothing finishes and nobody comes: unless it builds on the bound before."""
    return not memory.enabled or memory.rule in (EXACT, MARGIN)


MEMORY = Controller("memory", Memory, start_memory, decide_memory, is_steady)
