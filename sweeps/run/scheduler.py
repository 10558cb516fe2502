"""Run the tasks of some work: keep what is finished, say how far it is, and stop without losing anything.

`run`, `capacity`, `plan` and, through them, `reproduce` are its clients: each is `Work`, which gives tasks and takes
results. Who does tasks is a `Crew`, see executors.py.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol

from batchcube.errors import InputError

from ..progress import Progress
from ..stopping import SECONDS_BETWEEN_LOOKS, Stop
from .store import Part, Store

SECONDS_BETWEEN_SAVES = 20.0
MOST_UNSAVED = 2**26
"""Bytes of parts that are saved sooner."""
MOST_ATTEMPTS = 5
"""At a task, whose workers went away each time."""


class Task(NamedTuple):
    """What a worker does at once: a function of a module, and plain data for it.

    A task should take about a second: what is finished of it is nobody's before its end.
    """

    function: Callable[..., Any]
    shared: Any
    """Its first argument, the same object for many tasks: a worker in another process is sent it once."""
    arguments: tuple[Any, ...]
    """The others."""
    note: Any = None
    """What `Work.take` needs beside the result; it stays here."""
    attempts: int = 0
    """How often it came back undone."""


class Gain(NamedTuple):
    """What the result of a task comes to."""

    parts: Sequence[Part]
    """To be kept."""
    requests: int
    """Simulated, as announced to the progress."""
    replications: int
    """Complete with it, but for what is dealt to other shards."""


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


class UndoneError(Exception):
    """Says that a task was not done, and is to be submitted once more."""


class GoneError(InputError):
    """Says that nobody is left who does tasks."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem, path="`executor`")


class Crew(Protocol):
    """Who does tasks: threads, or the workers of an executor."""

    @property
    def at_once(self) -> int:
        """How many tasks it does at a time; workers may come and go."""

    @property
    def in_words(self) -> str:
        """How many workers there are; "" for those nobody asks about."""

    @property
    def bundle(self) -> int:
        """How many tasks it is best given at once."""

    def submit(self, tasks: Sequence[Task]) -> "Future[Any]":
        """Begin tasks, or queue them; raises GoneError where nobody is left to do them."""

    def results(self, future: "Future[Any]") -> Sequence[Any]:
        """Return the results of tasks that were submitted together: of all, or of as many of the first as were done.

        Raises what one raised, `UndoneError` where all are to be done once more, InputError where that would not help.
        """


class Scheduler:
    """Runs the tasks of some work, twice as many bundles under way as a crew does at a time: it never waits."""

    def __init__(
        self,
        work: Work,
        store: Store | None,
        stop: Stop,
        progress: Progress,
        aside: Callable[[], None] = lambda: None,
    ) -> None:
        """Run some work; `aside` begins what else there is to do.

        It is called, more than once perhaps, when there is a first result, or no task left.
        """
        self.work, self.store, self.stop, self.progress, self.aside = work, store, stop, progress, aside
        self._under_way: dict[Future[Any], list[Task]] = {}
        self._undone: deque[Task] = deque()
        self._done: SimpleQueue[Future[Any]] = SimpleQueue()
        self._unsaved: list[Part] = []
        self._unsaved_bytes = 0
        self._workers = ""
        self._tell_kept()

    def run(self, crew: Crew) -> None:
        """Run all tasks; what is finished is saved, also where an error or a stop ends it.

        Raises what a task raises, KeyboardInterrupt for a signal, InputError for a full disk, GoneError.
        """
        saved = time.monotonic()
        with self.stop.held():
            try:
                while self._submit(crew):
                    waited = True
                    for future in self._finished(SECONDS_BETWEEN_LOOKS):
                        waited = False
                        for gain in self._take(crew, future):
                            if gain.replications:
                                self.progress.finish_replications(gain.replications)
                                self.aside()
                            if gain.requests:
                                self.progress.advance(gain.requests)
                    if waited:
                        self.progress.advance(0)
                    if time.monotonic() - saved > SECONDS_BETWEEN_SAVES or self._unsaved_bytes > MOST_UNSAVED:
                        self._save()
                        saved = time.monotonic()
                # The cube is yet to be built and written, and may find no room.
                self._save()
            except BaseException as error:
                self._keep(crew)
                self.work.give_up()
                for future in self._under_way:
                    future.cancel()
                # What cannot be cancelled comes to its end: on a device that is much.
                self.stop.wait_for(list(self._under_way))
                self._keep(crew)
                if isinstance(error, GoneError) and self.stop.kept:
                    raise error.advised(self.stop.kept.removesuffix(".")) from None
                raise

    def _submit(self, crew: Crew) -> bool:
        """Submit tasks until as many are under way; say whether any is."""
        self.stop.check()
        if (workers := crew.in_words) != self._workers:
            self._workers = workers
            self.progress.tell_workers(workers)
        if (free := 2 * crew.at_once - len(self._under_way)) > 0:
            wanted = free * crew.bundle
            tasks = list(islice(iter(self._next_task, None), wanted))
            if len(tasks) < wanted:
                self.aside()
            # Few are dealt to all rather than to some.
            for some in deal(len(tasks), free):
                bundle = tasks[some.start : some.stop]
                future = crew.submit(bundle)
                self._under_way[future] = bundle
                future.add_done_callback(self._done.put)
        return bool(self._under_way)

    def _next_task(self) -> Task | None:
        return self._undone.popleft() if self._undone else self.work.next_task()

    def _finished(self, seconds: float) -> Iterator["Future[Any]"]:
        """Yield the tasks that are done, waiting for the first."""
        with suppress(Empty):
            yield self._done.get(timeout=seconds)
            while True:
                yield self._done.get_nowait()

    def _take(self, crew: Crew, future: "Future[Any]") -> list[Gain]:
        """Take what came back of a bundle: all of it, before anything is told of any."""
        tasks = self._under_way.pop(future)
        try:
            results = crew.results(future)
        except UndoneError:
            if any(task.attempts >= MOST_ATTEMPTS for task in tasks):
                raise InputError(f"a task was lost {MOST_ATTEMPTS + 1} times with the worker that had it") from None
            self._undone += [task._replace(attempts=task.attempts + 1) for task in tasks]
            return []
        self._undone += tasks[len(results) :]
        gains = [self.work.take(task, result) for task, result in zip(tasks, results, strict=False)]
        if self.store is not None:
            for gain in gains:
                self._unsaved += gain.parts
                self._unsaved_bytes += sum(array.nbytes for part in gain.parts for array in part.report.values())
        return gains

    def _save(self) -> None:
        if self.store is not None:
            self.store.save(self._unsaved)
            self._unsaved, self._unsaved_bytes = [], 0
            self._tell_kept()

    def _tell_kept(self) -> None:
        if self.store is not None:
            self.stop.kept = self.work.tell(self.store)

    def _keep(self, crew: Crew) -> None:
        """Save on the way out: what cannot be saved is told, and does not hide what led here."""
        for future in self._finished(0.0):
            if future in self._under_way and not future.cancelled() and future.exception() is None:
                with suppress(InputError):
                    self._take(crew, future)
        try:
            self._save()
        except InputError as error:
            self._tell_kept()
            self.stop.kept += f" The rest of what was finished {error.problem}."


def deal(count: int, parts: int) -> Iterator[range]:
    """Deal 0..count-1 into at most ``parts`` ranges that differ by one at most, none of them empty."""
    parts = max(1, min(parts, count)) if count else 0
    for part in range(parts):
        yield range(part * count // parts, (part + 1) * count // parts)
