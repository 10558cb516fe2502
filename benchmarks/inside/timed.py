"""The scheduler with a stop-watch, on a clock that others cannot stop."""

import time
from collections.abc import Callable
from typing import Any, ClassVar

from batchcube.vllm import Scheduler

from .clock import ProcessTime

OURS = ("decide", "began", "learn")


class Timed(Scheduler):
    """Counts nanoseconds of this thread, a row for each step: what its methods take in all, and what of it is ours."""

    clock = unix_clock = staticmethod(ProcessTime.clock)
    # Of the class: whoever makes an engine of vLLM is not given its scheduler.
    rows: ClassVar[list[list[int]]] = []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in OURS:
            setattr(self.serving, name, _timed(getattr(self.serving, name), 1))

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Begin a row."""
        self.rows.append([0, 0])
        return _timed(super().schedule, 0)(*args, **kwargs)

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        """Add to the row that was begun last."""
        return _timed(super().update_from_output, 0)(*args, **kwargs)


def _timed(method: Callable[..., Any], column: int) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = time.thread_time_ns()
        result = method(*args, **kwargs)
        Timed.rows[-1][column] += time.thread_time_ns() - begun
        return result

    return timed
