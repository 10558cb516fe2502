"""A cluster of Dask as a crew: extra `distributed`. Its scheduler gives the task of a worker that died to another."""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from multiprocessing import current_process
from multiprocessing.resource_tracker import ensure_running
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, TypeVar

import dask
from distributed import Client, LocalCluster, WorkerPlugin
from distributed.client import ClosedClientError
from distributed.scheduler import KilledWorker

from batchcube.errors import InputError, quoted
from batchcube.results.text import counted

from ..stopping import stopping
from .executors import Package, Workers, differing, forget, keep, versions_here
from .scheduler import GoneError, Task

SECONDS_BETWEEN_COUNTS = 2.0
SECONDS_TO_CONNECT = 20.0
SELDOM = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "2s",
}
"""Processes of Dask look at themselves 50 to 100 times a second by default, which takes each of them 2 % of a core."""
Answer = TypeVar("Answer")


class Carrier(WorkerPlugin):
    """Brings a package to every worker, those included that come later."""

    def __init__(self, package: Package) -> None:
        self.package, self.name = package, package.key

    def setup(self, worker: Any) -> None:
        """Keep it; a worker of another version is found out by its first task."""
        if versions_here() == self.package.versions:
            keep(self.package)

    def teardown(self, worker: Any) -> None:
        """Drop it."""
        forget(self.package.key)


class DaskWorkers(Workers, AbstractContextManager["DaskWorkers"]):
    """The workers of a cluster, as many as it has by now."""

    def __init__(self, client: Client, most: int | None) -> None:
        """Compare versions on all workers; `most` is how many tasks are done at a time, as many as can be when None.

        Raises InputError where one has others, or there is no connection.
        """
        super().__init__(client.get_executor(pure=False), 1)
        self._client, self._most = client, most
        self._sent: set[str] = set()
        """Keys of packages."""
        self._workers, self._counted = 0, -SECONDS_BETWEEN_COUNTS
        """How many there are, and when they were counted."""
        self._require_versions()

    @property
    def at_once(self) -> int:
        """How many threads there are in all workers; one at least, as the first may be on its way."""
        if time.monotonic() - self._counted > SECONDS_BETWEEN_COUNTS:
            threads = self._asked(self._client.nthreads)
            self._workers, total = len(threads), sum(threads.values())
            self._count = max(1, min(total, self._most or total))
            self._counted = time.monotonic()
        return self._count

    @property
    def in_words(self) -> str:
        """How many workers there are."""
        threads = self.at_once
        return counted(self._workers, "worker") + (f", {threads} at once" if threads != self._workers else "")

    def package(self, shared: Any) -> Package:
        """Return the package of a shared argument, after all workers were sent it."""
        package = super().package(shared)
        if package.key not in self._sent:
            self._sent.add(package.key)
            self._asked(lambda: self._client.register_plugin(Carrier(package)))
        return package

    def submit(self, tasks: Sequence[Task]) -> "Future[Any]":
        """Begin tasks, or queue them."""
        return self._asked(lambda: super(DaskWorkers, self).submit(tasks))

    def results(self, future: "Future[Any]") -> list[Any]:
        """Return what tasks came to; see `Crew`."""
        try:
            return super().results(future)
        except KilledWorker as error:
            raise GoneError(
                f"a task ended every worker that had it, one after the other, the last of them {error.last_worker}; "
                "do they run out of memory?"
            ) from None

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Have the workers drop what they were sent."""
        for key in self._sent:
            with suppress(Exception):  # a cluster that has gone keeps nothing
                self._client.unregister_worker_plugin(key)

    def _require_versions(self) -> None:
        """Refuse a cluster in which a worker has other versions."""
        found = self._asked(lambda: self._client.run(versions_here, on_error="return"))
        for worker, there in found.items():
            if isinstance(there, BaseException):
                raise InputError(f"the worker {worker} cannot use batchcube: {quoted(there)}", path="`executor`")
            if there != self.versions:
                raise InputError(differing(worker, there, self.versions), path="`executor`")

    def _asked(self, ask: Callable[[], Answer]) -> Answer:
        """Ask the cluster; GoneError where the connection is lost."""
        try:
            return ask()
        except (OSError, RuntimeError, ClosedClientError) as error:
            raise GoneError(f"lost the connection to the scheduler of Dask: {quoted(error).rstrip('.')}") from None


@contextmanager
def client_of(address: str, workers: int | None) -> Iterator[Client]:
    """Give a client of the scheduler at HOST:PORT; with "" of a cluster of processes here, which ends with it.

    Raises InputError where no scheduler answers, and where no process can be begun here.
    """
    with ExitStack() as opened:
        opened.enter_context(_silent())
        if address:
            try:
                client = Client(f"tcp://{address}", timeout=SECONDS_TO_CONNECT, set_as_default=False)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"no scheduler of Dask answers: {quoted(error)}", path="`executor`", value=f"dask://{address}"
                ) from None
            opened.enter_context(client)
        else:
            # An interrupt in the middle would leave tasks of Dask that complain, and files: it waits for the cluster.
            scratch = opened.enter_context(TemporaryDirectory(prefix="batchcube-dask-", ignore_cleanup_errors=True))
            with stopping() as stop, stop.held():
                cluster = opened.enter_context(_cluster_here(workers or os.cpu_count() or 1, scratch))
                client = opened.enter_context(Client(cluster, set_as_default=False))
        yield client


def _cluster_here(workers: int, scratch: str) -> LocalCluster:
    """Return a cluster of so many processes here, whose files go to `scratch`; InputError where none can be begun."""
    if getattr(current_process(), "_inheriting", False):
        # A worker to be, which runs the script that begins it: who asked for it says what is wrong.
        raise SystemExit(1)
    try:
        settings = SELDOM | {"temporary-directory": scratch}
        with _signals_kept_here(), _silent("distributed.nanny"), dask.config.set(settings):
            return LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",  # another port may be taken
                worker_dashboard_address=None,
                silence_logs=logging.CRITICAL,  # a stop is no reason for complaints; what tasks raise comes back
            )
    except RuntimeError as error:
        reason = quoted(error).rstrip(".")
        asked = 'does the script lack if __name__ == "__main__"?'
        raise InputError(f"no worker of Dask could be begun ({reason}); {asked}", path="`executor`") from None


@contextmanager
def _silent(name: str = "distributed.client") -> Iterator[None]:
    """Have Dask not say in lines of its own that a scheduler is gone, or a worker did not begin."""
    log = logging.getLogger(name)
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def _signals_kept_here() -> Iterator[None]:
    """Let no signal of the terminal reach the processes that threads start which are started here.

    Ctrl-C goes to all of them, and this one alone knows what to do.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    ensure_running()  # else the first process to be started does it, and lets all signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
