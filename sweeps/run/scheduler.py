"""Run tasks on an executor: keep what is finished, say how far it is, and stop without losing anything.

`run`, `capacity` and, through them, `reproduce` are its clients: each is `Work`, which gives tasks and takes results.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol

from ..progress import Progress
from ..stopping import SECONDS_BETWEEN_LOOKS, Stop
from .store import Part, Store

SECONDS_BETWEEN_SAVES = 20.0


class Task(NamedTuple):
    """What an executor does at once: a function of a module, and plain data for it.

    A task should take about a second: what is finished of it is nobody's before its end.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    note: Any = None
    """What `Work.take` needs beside the result; it stays here."""


class Gain(NamedTuple):
    """What the result of a task comes to."""

    parts: Sequence[Part]
    """To be kept."""
    requests: int
    """Simulated, as announced to the progress."""
    replications: int
    """Complete with it."""


class Work(Protocol):
    """Where tasks come from, and where their results go; only the thread that runs the scheduler asks it."""

    def tell(self, store: Store) -> str:
        """Say in a sentence what is kept of it."""

    def next_task(self) -> Task | None:
        """Return what may be done next; None where that depends on tasks under way, or nothing is left."""

    def take(self, task: Task, result: Any) -> Gain:
        """Take the result of a task."""

    def give_up(self) -> None:
        """End early what tasks under way are at, where that would take long."""


class Executor(Protocol):
    """What does tasks: an executor of `concurrent.futures`, or what gives such futures."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> "Future[Any]":
        """Begin a task, or queue it."""


class Scheduler:
    """Runs the tasks of some work, twice as many under way as the executor does at a time, so that it never waits."""

    def __init__(self, work: Work, store: Store | None, stop: Stop, progress: Progress) -> None:
        self.work, self.store, self.stop, self.progress = work, store, stop, progress
        self._under_way: dict[Future[Any], Task] = {}
        self._done: SimpleQueue[Future[Any]] = SimpleQueue()
        self._unsaved: list[Part] = []
        self._tell_kept()

    def run(self, executor: Executor, at_once: int) -> None:
        """Run all tasks, `at_once` at a time; what is finished is saved, also where an error or a stop ends it.

        Raises what a task raises, KeyboardInterrupt for a signal, InputError for a full disk.
        """
        saved = time.monotonic()
        with self.stop.held():
            try:
                while self._submit(executor, 2 * at_once):
                    for future in self._finished(SECONDS_BETWEEN_LOOKS):
                        gain = self._take(future)
                        if gain.replications:
                            self.progress.finish_replications(gain.replications)
                        if gain.requests:
                            self.progress.advance(gain.requests)
                    if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                        self._save()
                        saved = time.monotonic()
                # The cube is yet to be built and written, and may find no room.
                self._save()
            except BaseException:
                self._keep()
                self.work.give_up()
                for future in self._under_way:
                    future.cancel()
                # What cannot be cancelled comes to its end: on a device that is much.
                self.stop.wait_for(list(self._under_way))
                self._keep()
                raise

    def _submit(self, executor: Executor, most: int) -> bool:
        """Submit tasks until as many are under way; say whether any is."""
        self.stop.check()
        while len(self._under_way) < most and (task := self.work.next_task()) is not None:
            future = executor.submit(task.function, *task.arguments)
            self._under_way[future] = task
            future.add_done_callback(self._done.put)
        return bool(self._under_way)

    def _finished(self, seconds: float) -> Iterator["Future[Any]"]:
        """Yield the tasks that are done, waiting for the first."""
        with suppress(Empty):
            yield self._done.get(timeout=seconds)
            while True:
                yield self._done.get_nowait()

    def _take(self, future: "Future[Any]") -> Gain:
        task = self._under_way.pop(future)
        gain = self.work.take(task, future.result())
        if self.store is not None:
            self._unsaved += gain.parts
        return gain

    def _save(self) -> None:
        if self.store is not None:
            self.store.save(self._unsaved)
            self._unsaved = []
            self._tell_kept()

    def _tell_kept(self) -> None:
        if self.store is not None:
            self.stop.kept = self.work.tell(self.store)

    def _keep(self) -> None:
        """Save on the way out: what cannot be saved is told, and does not hide what led here."""
        for future in self._finished(0.0):
            if future in self._under_way and not future.cancelled() and future.exception() is None:
                self._take(future)
        try:
            self._save()
        except OSError as error:
            self._tell_kept()
            self.stop.kept += f" The rest of what was finished could not be written: {error.strerror}."


@contextmanager
def threads(count: int, stop: Stop, name: str = "batchcube") -> Iterator[ThreadPoolExecutor]:
    """Give an executor of so many threads; at the end those at work are waited for, unless a second signal came."""
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=not stop.abandoned, cancel_futures=True)


def deal(count: int, parts: int) -> Iterator[range]:
    """Deal 0..count-1 into at most ``parts`` ranges that differ by one at most."""
    parts = max(1, min(parts, count))
    for part in range(parts):
        yield range(part * count // parts, (part + 1) * count // parts)
