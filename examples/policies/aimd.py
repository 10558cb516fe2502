"""A controller like TCP's: one more request after each batch in time, half as many after a late one (AIMD)."""

from typing import Annotated, NamedTuple

from batchcube.engine.dialect import floor, maximum, minimum, where
from batchcube.engine.policies import Controller, View


class Settings(NamedTuple):
    """What can be set."""

    target_ms: Annotated[float, "latency that is in time, of the signal that is observed"] = 50.0
    increase: Annotated[float, "requests more after a batch, or a step, in time"] = 1.0
    decrease: Annotated[float, "part that is left after a late one"] = 0.5


class State(NamedTuple):
    """What it remembers."""

    bound: float


def init(view: View, settings: Settings) -> tuple[State, float]:
    """Begin with the smallest batch."""
    return State(view.smallest), view.smallest


def decide(state: State, view: View, settings: Settings) -> tuple[State, float]:
    """Grow by addition, shrink by multiplication."""
    late = view.last.signal > settings.target_ms * 1000.0
    moved = where(late, floor(state.bound * settings.decrease), state.bound + settings.increase)
    held = minimum(maximum(moved, view.smallest), view.largest)
    bound = where(view.last.batch > 0.0, held, state.bound)
    return State(bound), bound


AIMD = Controller("aimd", Settings, init, decide)
