"""A controller that looks at the bins: as many requests as those at their heads leave room for in memory."""

from typing import Annotated, NamedTuple

from batchcube.engine.dialect import floor, maximum, settle, where
from batchcube.engine.policies import Controller, View, head_of


class Settings(NamedTuple):
    """What can be set."""

    capacity_tokens: Annotated[float, "tokens that fit"] = 10000.0


class State(NamedTuple):
    """What it remembers."""

    bound: float


def init(view: View, settings: Settings) -> tuple[State, float]:
    """Begin with the largest batch."""
    return State(view.largest), view.largest


def decide(state: State, view: View, settings: Settings) -> tuple[State, float]:
    """Take who waits in a bin to need the prompt and the predicted output of the first there."""
    tokens = waiting = 0.0
    for j in range(view.queues.shape[0]):
        head = head_of(view, j)
        tokens = tokens + settle(view.queues[j] * (head.prompt + head.predicted))
        waiting = waiting + view.queues[j] * 1.0
    mean = maximum(tokens / maximum(waiting, 1.0), 1.0)
    bound = where(waiting > 0.0, floor(settings.capacity_tokens / mean), state.bound)
    return State(bound), bound


WHO_WAITS = Controller("who_waits", Settings, init, decide)
