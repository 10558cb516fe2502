"""Stop when the system asks for it, at a moment when nothing that is finished is lost."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from batchcube.results.signals import SIGNALS

SECONDS_BETWEEN_LOOKS = 0.2


class Stop:
    """What signals asked for: the first raises KeyboardInterrupt, those after it do not interrupt the way out.

    Python drops what is raised in a finalizer or a callback of C, of which compiling and files have many: where nobody
    is on the way out, the next signal raises again, and so does the next check.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        """The first signal."""
        self.kept = ""
        """A sentence that says what of the work is kept, once there is something to say."""
        self.abandoned = False
        """Whether threads are still at work that nobody waits for."""
        self._count = self._held = 0

    @property
    def is_urgent(self) -> bool:
        """Whether there was a second signal."""
        return self._count > 1

    def note(self, number: int, _frame: object = None) -> None:
        """Handle a signal."""
        self._count += 1
        if self.number is None:
            self.number = number
        if not self._held and not (self.is_urgent and sys.exc_info()[0]):
            self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came."""
        if self.number is not None:
            raise KeyboardInterrupt(signal.Signals(self.number).name)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Do what must not be interrupted: signals are noted, and raised by `check` or at the end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        self.check()

    def wait_for(self, running: Sequence[Future[Any]]) -> None:
        """Wait until what is under way is finished; a second signal ends the wait."""
        done: SimpleQueue[Future[Any]] = SimpleQueue()
        for future in running:
            future.add_done_callback(done.put)
        left = len(running)
        while left and not self.is_urgent:
            with suppress(Empty):
                done.get(timeout=SECONDS_BETWEEN_LOOKS)
                left -= 1
        self.abandoned |= left > 0


_current: Stop | None = None


@contextmanager
def stopping() -> Iterator[Stop]:
    """Let Ctrl-C, SIGTERM and SIGHUP stop what is done within; where that goes on already, it is the same `Stop`.

    A signal that somebody handles or ignores (SIGINT in the background of a shell, SIGHUP under nohup) is left alone,
    and so are all of them in another thread than the main one, whose `Stop` is its own.
    """
    global _current
    if threading.current_thread() is not threading.main_thread():
        yield Stop()
        return
    if _current is not None:
        yield _current
        return
    stop = _current = Stop()
    before = {}
    try:
        for number in SIGNALS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, stop.note)
        yield stop
    except KeyboardInterrupt as error:
        # IPython, and so a notebook, shows it in place of the frames that led here. It stays a plain KeyboardInterrupt:
        # of another kind Python would not end a script as the signal does.
        line = f"KeyboardInterrupt: stopped. {stop.kept or 'Nothing is kept.'}"
        error._render_traceback_ = lambda: [line]  # type: ignore[attr-defined]
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _current = None


@contextmanager
def stoppable() -> Iterator[None]:
    """End a command that a signal stopped: a line says what is kept, the exit status is 128 + the signal's number."""
    with stopping() as stop:
        try:
            yield
        except (KeyboardInterrupt, OSError) as error:
            # A terminal that is gone (SIGHUP) refuses what progress writes to it.
            if isinstance(error, OSError) and stop.number is None:
                raise
            status = 128 + (stop.number or signal.SIGINT)
            with suppress(OSError):
                print(f"batchcube: stopped. {stop.kept or 'Nothing was simulated.'}", file=sys.stderr, flush=True)
            if stop.abandoned:
                os._exit(status)  # Python would wait for the threads
            sys.exit(status)
