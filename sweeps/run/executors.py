"""Who does the tasks of a scheduler: threads of this process, or the workers of any executor.

What tasks share, a sweep with its traces as a rule, is pickled once and named by the SHA-256 of that; each worker keeps
what it was sent. A task says which it needs, and comes back undone from a worker that has not got it, to go out again
together with it.
"""

import os
import pickle
import platform
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from batchcube.errors import InputError, quoted
from batchcube.results.text import counted

from ..progress import Progress
from ..stopping import Stop
from .scheduler import Crew, GoneError, Scheduler, Task, UndoneError, Work
from .store import Store

if TYPE_CHECKING:
    from distributed import Client

COMPARED = ("batchcube", "numpy", "numba")
"""Packages whose versions workers must share: numbers might differ."""
SECONDS_OF_A_BUNDLE = 0.25
"""Short tasks go to a worker together, so many as take that long: a message costs milliseconds, whatever is in it."""
LARGEST_BUNDLE = 100
MOST_KEPT = 8
"""Shared arguments that a worker keeps; those that were not needed for longest are sent again."""
Versions = dict[str, str]


class Executor(Protocol):
    """What does tasks: an executor of `concurrent.futures`, or what gives such futures; a client of Dask is one."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Any:
        """Begin a task, or queue it."""


# Here ---------------------------------------------------------------------------------------------------------------


@contextmanager
def threads(count: int, stop: Stop, name: str = "batchcube") -> Iterator[ThreadPoolExecutor]:
    """Give an executor of so many threads; at the end those at work are waited for, unless a second signal came."""
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=not stop.abandoned, cancel_futures=True)


class Threads:
    """A crew of threads, which share all there is."""

    in_words = ""
    bundle = 1

    def __init__(self, pool: ThreadPoolExecutor, count: int) -> None:
        self._pool, self.at_once = pool, count

    def submit(self, tasks: Sequence[Task]) -> "Future[Any]":
        """Begin a task, or queue it."""
        (task,) = tasks
        return self._pool.submit(task.function, task.shared, *task.arguments)

    def results(self, future: "Future[Any]") -> list[Any]:
        """Return what a task came to, or raise what it raised."""
        return [future.result()]


class Hands(NamedTuple):
    """What work is done with."""

    store: Store | None
    """Where it is kept."""
    stop: Stop
    progress: Progress
    crew: Crew | None
    """None for threads, of which a work may want fewer."""
    workers: int
    """How many tasks can be done at a time."""
    aside: Callable[[], None] = lambda: None
    """See `Scheduler`."""

    @property
    def here(self) -> int:
        """How many tasks this machine does at a time: what workers elsewhere draw is no part of its memory."""
        return self.workers if self.crew is None else 1

    def run(self, work: Work, most: int) -> None:
        """Run all tasks of a work, by the crew or on so many threads."""
        scheduler = Scheduler(work, self.store, self.stop, self.progress, self.aside)
        if self.crew is not None:
            scheduler.run(self.crew)
            return
        with threads(most, self.stop) as pool:
            scheduler.run(Threads(pool, most))


# What a worker does ---------------------------------------------------------------------------------------------------


class Package(NamedTuple):
    """A shared argument as it is sent."""

    key: str
    content: bytes
    versions: Versions
    """Of the packages that pickled it."""


class Sent(NamedTuple):
    """A task as it is sent."""

    key: str
    """Of the package that has its shared argument."""
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Done(NamedTuple):
    """What a worker answers."""

    results: bytes
    """A list, pickled: what Dask sends as one block costs it a third less than as arrays.

    Of all tasks that it was sent, or of the first of them, where another would have taken long, or failed.
    """
    seconds: float
    """That they took."""


class Missing(NamedTuple):
    """What a worker answers that was not sent a package."""

    key: str


class Differs(NamedTuple):
    """What a worker answers that was sent a package by another version."""

    worker: str
    versions: Versions


_kept: OrderedDict[str, Any] = OrderedDict()
_lock = Lock()


@cache
def versions_here() -> Versions:
    """Return the versions of the packages that matter; "none" for one that is not there."""
    found = {}
    for name in COMPARED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def keep(package: Package) -> Any:
    """Return what is in a package, and keep it for the tasks to come; threads of a worker unpickle it once."""
    with _lock:
        if package.key not in _kept:
            try:
                _kept[package.key] = pickle.loads(package.content)
            except (ImportError, AttributeError) as error:
                raise InputError(f"a worker lacks what is installed here: {quoted(error)}", path="`executor`") from None
        content = _kept[package.key]
        while len(_kept) > MOST_KEPT:
            _kept.popitem(last=False)
    return content


def forget(key: str) -> None:
    """Drop a package that no task will need."""
    with _lock:
        _kept.pop(key, None)


def do(packages: Iterable[Package], tasks: Sequence[Sent]) -> Done | Missing | Differs:
    """Do tasks in a worker, until they are done, one cannot be, or `SECONDS_OF_A_BUNDLE` have passed.

    Raises what the first raises. What another raises, it will once more when it is the first: those before it are done.
    """
    shared: dict[str, Any] = {}
    for package in packages:
        if (here := versions_here()) != package.versions:
            return Differs(f"process {os.getpid()} on {platform.node()}", here)
        shared[package.key] = keep(package)
    with _lock:
        for key in {task.key for task in tasks}.difference(shared):
            if key not in _kept:
                return Missing(key)
            _kept.move_to_end(key)
            shared[key] = _kept[key]
    begun = time.monotonic()
    results: list[Any] = []
    for task in tasks:
        try:
            results.append(task.function(shared[task.key], *task.arguments))
        except Exception:
            if not results:
                raise
            break
        if time.monotonic() - begun > SECONDS_OF_A_BUNDLE:
            break
    seconds = time.monotonic() - begun
    return Done(pickle.dumps(results, pickle.HIGHEST_PROTOCOL), seconds)


# Elsewhere ------------------------------------------------------------------------------------------------------------


class Workers:
    """A crew that an executor has, anywhere: it shares no memory with this process."""

    def __init__(self, executor: Executor, count: int) -> None:
        self._executor, self._count = executor, count
        self.versions = versions_here()
        self._packages: dict[int, tuple[Any, Package]] = {}
        """By `id` of what is in them, which is kept so that no other gets its number."""
        self._per_s = 0.0
        """Tasks that a worker does in a second, by those that came back last."""

    @property
    def at_once(self) -> int:
        """How many workers there are: each does a task at a time."""
        return self._count

    @property
    def in_words(self) -> str:
        """How many workers there are."""
        return counted(self._count, "worker")

    @property
    def bundle(self) -> int:
        """As many as are done in `SECONDS_OF_A_BUNDLE`; one where that is not known yet."""
        return max(1, min(round(SECONDS_OF_A_BUNDLE * self._per_s), LARGEST_BUNDLE))

    def submit(self, tasks: Sequence[Task]) -> "Future[Any]":
        """Begin tasks, or queue them; what they share goes along where a worker was found without it."""
        packages = [self.package(task.shared) for task in tasks]
        again = {package.key: package for task, package in zip(tasks, packages, strict=True) if task.attempts}
        sent = [Sent(package.key, task.function, task.arguments) for task, package in zip(tasks, packages, strict=True)]
        try:
            future: Future[Any] = self._executor.submit(do, list(again.values()), sent)
        except (BrokenExecutor, RuntimeError) as error:  # RuntimeError: it was shut down
            raise GoneError(f"takes no more tasks: {quoted(error)}") from None
        return future

    def package(self, shared: Any) -> Package:
        """Return the package of a shared argument."""
        if id(shared) not in self._packages:
            content = _pickled(shared)
            self._packages[id(shared)] = shared, Package(sha256(content).hexdigest(), content, self.versions)
        return self._packages[id(shared)][1]

    def results(self, future: "Future[Any]") -> list[Any]:
        """Return what tasks came to; see `Crew`."""
        try:
            answer = future.result()
        except CancelledError:
            raise UndoneError from None
        except BrokenExecutor as error:
            raise GoneError(f"lost a worker, and does no more: {quoted(error)}") from None
        if isinstance(answer, Missing):
            raise UndoneError
        if isinstance(answer, Differs):
            raise InputError(differing(answer.worker, answer.versions, self.versions), path="`executor`")
        done: Done = answer
        results: list[Any] = pickle.loads(done.results)
        self._per_s += (len(results) / max(done.seconds, 1e-6) - self._per_s) / 2.0
        return results


def differing(worker: str, there: Versions, here: Versions) -> str:
    """Say what a worker has otherwise than this process."""
    other = {name: found for name, found in there.items() if found != here[name]}
    has = ", ".join(f"{name} {found}" for name, found in other.items())
    mine = ", ".join(f"{name} {here[name]}" for name in other)
    return f"the worker {worker} has {has}, and here is {mine}: install the same everywhere"


def _pickled(shared: Any) -> bytes:
    """Pickle what tasks share; cloudpickle, where it is, includes what a script or a notebook defines."""
    try:
        from cloudpickle import dumps
    except ImportError:
        from pickle import dumps
    try:
        content: bytes = dumps(shared)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(f"cannot be sent what is simulated: {quoted(error)}", path="`executor`") from None
    return content


@contextmanager
def hands(executor: Executor | None, workers: int | None, progress: Progress, stop: Stop) -> Iterator[Hands]:
    """Give what work is done with, but for a store: so many threads, all cores when None, where no executor is given.

    See `engaged`.
    """
    with engaged(executor, workers) as crew:
        at_once = crew.at_once if crew is not None else workers or os.cpu_count() or 1
        yield Hands(None, stop, progress, crew, at_once)


@contextmanager
def engaged(executor: Executor | None, workers: int | None) -> Iterator[Crew | None]:
    """Give the crew of an executor, None where there is none: then it is threads, as many as a work likes.

    `workers` are how many tasks it does at a time, where it is known better than by the executor. Raises InputError for
    a cluster that has gone, or whose workers have other versions.
    """
    if executor is None:
        yield None
    elif (client := _client_of(executor)) is not None:
        from .dask_cluster import DaskWorkers

        with DaskWorkers(client, workers) as crew:
            yield crew
    else:
        yield Workers(executor, workers or _count(executor))


def _client_of(executor: Executor) -> "Client | None":
    """Return the client of Dask that an executor is, or that is behind it."""
    if (distributed := sys.modules.get("distributed")) is None:
        return None
    for one in (executor, getattr(executor, "_client", None)):
        if isinstance(one, distributed.Client):
            found: Client = one
            return found
    return None


def _count(executor: Executor) -> int:
    """Return how many workers an executor says it has; as many as there are cores here where it says nothing."""
    # Of the standard library and loky, of mpi4py.
    for name in ("_max_workers", "num_workers"):
        if isinstance(count := getattr(executor, name, None), int) and count > 0:
            return count
    return os.cpu_count() or 1


@contextmanager
def connected(named: Executor | str | None, workers: int | None) -> Iterator[Executor | None]:
    """Give the executor of a name, for as long as this is open; one that is none already, and None, as they are.

    "dask" is a cluster of so many `workers`, processes on this machine, for this alone; "dask://HOST:PORT" one whose
    scheduler listens there. Raises InputError for another name and what is no executor, for a scheduler that is not
    there, and without Dask.
    """
    if not isinstance(named, str):
        if named is not None and not callable(getattr(named, "submit", None)):
            allowed = "must be an executor of concurrent.futures or the like, a client of Dask, or a name"
            raise InputError(allowed, path="`executor`", value=named)
        yield named
        return
    found = re.fullmatch(r"dask(?:://((?:\[[^\s\]]+\]|[^\s:/\[\]]+):(\d{1,5})))?", named)
    if found is None or not 0 < int(found[2] or 1) < 65536:
        raise InputError("must be dask or dask://HOST:PORT", path="`executor`", value=named)
    if find_spec("distributed") is None:
        raise InputError("Dask not installed: pip install '.[distributed]' in the clone", path="`executor`")
    from .dask_cluster import client_of

    with client_of(found[1] or "", workers) as client:
        yield client
