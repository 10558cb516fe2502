"""Signals that stop what is done, and what they are not to interrupt."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

# Windows has no SIGHUP.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Have signals handled at the end: xarray never gives back a lock at which it is interrupted, and waits for it."""
    if threading.current_thread() is not threading.main_thread():  # which no signal interrupts
        yield
        return
    handlers: dict[int, Any] = {}
    came: list[tuple[int, FrameType | None]] = []

    def handle() -> None:
        with ExitStack() as left:  # each is handled, whatever another raises
            for number, frame in reversed(came):
                left.callback(handlers[number], number, frame)

    with ExitStack() as after:  # all handlers are back before the first is called, whatever comes meanwhile
        after.callback(handle)
        for number in SIGNALS:
            if callable(handler := signal.getsignal(number)):
                handlers[number] = handler
                after.callback(signal.signal, number, handler)
                signal.signal(number, lambda *said: came.append(said))
        yield
