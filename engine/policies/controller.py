"""How large a batch may be, or how many requests may run: what a controller sees, and how two are composed.

A controller is a pair of plain functions in the words of `dialect`: `init(view, settings)` before anything has run, and
`decide(state, view, settings)` each time a batch has finished or, under continuous batching, a step begins. Both return
its new state and the bound that it asks for, a whole float; what is asked for is held inside [B_min, B_max]. Settings
are a NamedTuple of numbers, the state is one of numbers or of further such: it is kept as floats, so that whole numbers
are exact below 2^53.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from ..dialect import floor, maximum, minimum, policy, where
from .owners import claim


class Observed(NamedTuple):
    """Running means of what is observed of batches, or of decode steps."""

    seen: int
    """Observations held; while there are none, the means are 0."""
    signal: float
    """τ̄ in microseconds: of the signal that `policy.sla.signal` names."""
    batch: float
    """b̄: requests of a batch, or decoding in a step."""


class Finished(NamedTuple):
    """Running means of what is observed of finished requests."""

    seen: int
    """Observations held; while there are none, the means are those of the sample that gave the bin edges."""
    tokens: float
    """Of p + o."""
    squares: float
    """Of (p + o)²."""


class Last(NamedTuple):
    """What the batch, or the step, has shown that ended since the last decision."""

    signal: float
    """τ in microseconds."""
    batch: float
    """Requests of the batch, or decoding in the step; 0 where none did."""
    finished: float
    """Requests that finished."""
    tokens: float
    """Their mean p + o."""
    squares: float
    """Their mean (p + o)²."""


class Heads(NamedTuple):
    """Where the first request of each bin is found; read it through `head_of`."""

    at: Any
    order: Any
    arrival: Any
    prompt: Any
    predicted: Any
    now: int
    ticks_per_microsecond: int


class View(NamedTuple):
    """What a controller may see when it decides.

    Counts are those before the requests that arrive at this very instant, except at the start of a step.
    """

    waits: bool
    """Whether any request waits; on devices it is cheaper to ask than `waiting`."""
    waiting: int
    """Requests that wait: those of its bin where every bin has a controller of its own."""
    running: int
    """Requests that run, those of the batch that has just finished included."""
    staying: int
    """Those of them that stay in the batch whatever is decided: all under continuous batching, else none."""
    queues: Any
    """(bin,) requests that wait in each bin; there may be further bins that are always empty."""
    heads: Heads
    """Of each bin the first request: see `head_of`."""
    bin: int
    """The bin that it decides for; -1 where one controller decides for all."""
    smallest: float
    """B_min."""
    largest: float
    """B_max."""
    steps: Observed
    finished: Finished
    last: Last


class Head(NamedTuple):
    """The first request of a bin; zeros where nobody waits."""

    waited: float
    """Microseconds since its arrival."""
    prompt: float
    """Tokens."""
    predicted: float
    """Predicted length, in the unit of lengths."""


@policy
def head_of(view: View, j: Any) -> Head:
    """Look at the first request that waits in bin j."""
    heads = view.heads
    there = view.queues[j] > 0
    i = heads.order[maximum(minimum(heads.at[j], heads.order.shape[0] - 1), 0)]
    waited = (heads.now - heads.arrival[i]) * 1.0 / heads.ticks_per_microsecond
    return Head(
        where(there, waited, 0.0), where(there, heads.prompt[i] * 1.0, 0.0), where(there, heads.predicted[i] * 1.0, 0.0)
    )


@policy
def middle(view: View) -> Any:
    """Return the middle of [B_min, B_max], where searches begin."""
    return floor((view.smallest + view.largest) / 2.0)


@policy
def least_of(view: View) -> Any:
    """Return the least that a bound can be held at: B_min, or as many as stay in the batch."""
    return maximum(view.smallest, view.staying * 1.0)


def _never(_settings: Any) -> bool:
    return False


@dataclass(frozen=True)
class Controller:
    """A way to bound the batch; see the top of this file."""

    name: str
    settings: type
    """NamedTuple of its settings; the type alone says whose settings a value is: each controller has its own type."""
    init: Callable[[Any, Any], Any]
    decide: Callable[[Any, Any, Any], Any]
    steady: Callable[[Any], bool] = _never
    """Whether, with some settings, its state and bound stay while nothing finishes and nobody comes, so that steps of
    continuous batching may be taken many at once: it is then not shown single steps."""

    def __post_init__(self) -> None:
        policy(self.init)
        policy(self.decide)
        self.claim()

    def claim(self) -> None:
        """Make the settings those of this one; InputError where they are of one of another name."""
        if self.settings is not Both:
            claim(_of_settings, self)


_of_settings: dict[type, Controller] = {}


def controller_of(settings: Any) -> Controller | None:
    """Return the controller whose settings these are, None for `()`.

    It is the latest that was made with their type; of settings of `Both`, the two composed as their settings are.
    """
    return None if type(settings) is tuple else _controller_of(settings)


def _controller_of(settings: Any) -> Controller:
    if isinstance(settings, Both):
        return both(_controller_of(settings.first), _controller_of(settings.second))
    return _of_settings[type(settings)]


class Both(NamedTuple):
    """Settings, or states, of two controllers."""

    first: Any
    second: Any


@cache
def both(a: Controller, b: Controller) -> Controller:
    """Compose two controllers: each keeps its state, and the smaller bound holds."""
    first_init, first_decide, second_init, second_decide = a.init, a.decide, b.init, b.decide

    def init(view: View, settings: Both) -> tuple[Both, Any]:
        first, one = first_init(view, settings.first)
        second, other = second_init(view, settings.second)
        return Both(first, second), minimum(one, other)

    def decide(state: Both, view: View, settings: Both) -> tuple[Both, Any]:
        first, one = first_decide(state.first, view, settings.first)
        second, other = second_decide(state.second, view, settings.second)
        return Both(first, second), minimum(one, other)

    def steady(settings: Both) -> bool:
        return a.steady(settings.first) and b.steady(settings.second)

    return Controller(f"{a.name} and {b.name}", Both, init, decide, steady)


def as_floats(state: Any) -> Any:
    """Return a state as it is kept: nested named tuples of floats."""
    if type(state) is float:
        return state
    if isinstance(state, tuple):
        parts: Any = [part if type(part) is float else as_floats(part) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return float(state)
