"""The scheduler by itself, on executors of our own; runs and searches on executors that share no memory with them."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from batchcube.errors import InputError
from batchcube.results.provenance import MadeBy
from batchcube.sweeps.progress import Silent
from batchcube.sweeps.run import executors, scheduler, simulate
from batchcube.sweeps.run.capacity import find_capacity
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.run.executors import Threads, Workers
from batchcube.sweeps.run.scheduler import Crew, Gain, Scheduler, Task
from batchcube.sweeps.run.store import Part, Store
from batchcube.sweeps.spec.document import Sweep
from batchcube.sweeps.stopping import Stop, stopping
from helpers.specifications import RATES, SMALL

MADE_BY = MadeBy("reference", "cpu", "numpy 2.0")


class AtOnce:
    """Does a task when it is submitted, in a copy of what it was given: as another machine would."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        try:
            copied, given = pickle.loads(pickle.dumps((function, arguments)))
            done.set_result(pickle.loads(pickle.dumps(copied(*given))))
        except Exception as error:
            done.set_exception(pickle.loads(pickle.dumps(error)))
        return done


class Queue:
    """Does tasks when it is told to, in order."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []
        self.most = 0

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        self.waiting.append((done, function, arguments))
        self.most = max(self.most, len(self.waiting))
        return done

    def do_one(self) -> None:
        future, function, arguments = self.waiting.pop(0)
        future.set_running_or_notify_cancel()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)


def square(number: int) -> int:
    if number < 0:
        raise InputError("is negative", value=number)
    return number * number


class Squares:
    """Squares of numbers, each a replication of one point; those in `later` only once all others are there."""

    points = 1

    def __init__(self, numbers: Sequence[int], later: Sequence[int] = ()) -> None:
        self.replications = len(numbers) + len(later)
        self.left, self.later = list(numbers), list(later)
        self.missing = len(numbers)
        self.found: dict[int, int] = {}
        self.gave_up = False

    def tell(self, store: Store) -> str:
        return store.tell(self.points, range(self.replications))

    def next_task(self) -> Task | None:
        if not self.left and not self.missing:
            self.left, self.later = self.later, []
        return Task(square, number := self.left.pop(0), (), number) if self.left else None

    def take(self, task: Task, result: int) -> Gain:
        self.found[task.note] = result
        self.missing -= 1
        return Gain([Part(task.note, (0,), {"square": np.array([result])})], 10, 1)

    def give_up(self) -> None:
        self.gave_up = True


class Counting(Silent):
    requests = replications = 0

    def advance(self, requests: int) -> None:
        self.requests += requests

    def finish_replications(self, count: int) -> None:
        self.replications += count


def saved(store: Store, replications: int) -> dict[int, int]:
    """What another process would find."""
    with Store(store.output.with_name("copy.nc")) as copy:
        for file in store.folder.glob("*.parts"):
            (copy.folder / file.name).write_bytes(file.read_bytes())
        found = copy.open({"work": "squares"}, MADE_BY, range(replications))
        squares = {part.replication: int(part.report["square"][0]) for part in found}
        for file in copy.folder.glob("*.parts"):
            file.unlink()
    return squares


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "squares.nc") as opened:
        opened.open({"work": "squares"}, MADE_BY, range(100))
        yield opened


def test_all_tasks_are_done_once_and_told(store: Store) -> None:
    work, progress, stop = Squares(range(20), later=range(20, 25)), Counting(), Stop()
    Scheduler(work, store, stop, progress).run(Workers(AtOnce(), 2))
    assert work.found == {number: number * number for number in range(25)} == saved(store, 25)
    assert (progress.requests, progress.replications) == (250, 25)
    assert stop.kept.startswith("25 of 25 replications are kept in ")
    assert not work.gave_up


class DoOne(Stop):
    """Has a queue do a task whenever the scheduler looks whether it should stop."""

    def __init__(self, queue: Queue) -> None:
        super().__init__()
        self.queue = queue

    def check(self) -> None:
        super().check()
        if self.queue.waiting:
            self.queue.do_one()


def test_twice_as_many_are_under_way_as_are_done_at_once() -> None:
    work, queue = Squares(range(9)), Queue()
    Scheduler(work, None, DoOne(queue), Silent()).run(Workers(queue, 2))
    assert len(work.found) == 9
    assert queue.most == 4


def test_what_is_finished_is_saved_on_the_way(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "SECONDS_BETWEEN_SAVES", -1.0)
    seen: list[int] = []

    class Look(Silent):
        def advance(self, requests: int) -> None:
            seen.append(len(saved(store, 100)))

    Scheduler(Squares(range(6)), store, Stop(), Look()).run(Workers(AtOnce(), 1))
    assert seen == sorted(seen)
    assert 0 < seen[-1] < 6 == len(saved(store, 100))


@pytest.mark.parametrize("crew", [Workers(AtOnce(), 1), Threads(ThreadPoolExecutor(1), 1)], ids=["at once", "threads"])
def test_an_error_of_a_task_ends_it_and_keeps_the_rest(
    store: Store, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "SECONDS_OF_A_BUNDLE", 0.0)  # a task by itself, however short
    work, stop = Squares([1, 2, 3, -4, 5, 6, 7, 8, 9, 10]), Stop()
    with pytest.raises(InputError, match="is negative"):
        Scheduler(work, store, stop, Silent()).run(crew)
    assert work.gave_up
    assert set(work.found) >= {1, 2, 3}
    assert -4 not in work.found
    assert len(work.found) < 9
    assert saved(store, 100) == work.found
    assert stop.kept.startswith(f"{len(work.found)} of 10 replications are kept in ")


def test_what_waits_is_cancelled_and_what_runs_is_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "SECONDS_OF_A_BUNDLE", 0.0)  # a task by itself, however short
    queue = Queue()

    class Interrupt(Silent):
        def finish_replications(self, count: int) -> None:
            # One more is done before the work is given up, the others have not begun.
            queue.do_one()
            raise KeyboardInterrupt

    work = Squares(range(10))
    with pytest.raises(KeyboardInterrupt):
        Scheduler(work, store, DoOne(queue), Interrupt()).run(Workers(queue, 2))
    assert set(work.found) == {0, 1}
    assert all(future.cancelled() for future, *_ in queue.waiting)
    assert saved(store, 100) == {0: 0, 1: 1}


def test_all_that_came_back_together_is_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors.Workers, "bundle", 5)

    class Interrupt(Silent):
        def finish_replications(self, count: int) -> None:
            raise KeyboardInterrupt

    work = Squares(range(10))
    with pytest.raises(KeyboardInterrupt):
        Scheduler(work, store, Stop(), Interrupt()).run(Workers(AtOnce(), 1))
    assert set(work.found) >= set(range(5))
    assert saved(store, 100) == work.found


def test_what_was_done_before_an_error_comes_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors.Workers, "bundle", 4)
    work = Squares([1, 2, 3, -4, 5, 6])
    with pytest.raises(InputError, match="is negative"):
        Scheduler(work, store, Stop(), Silent()).run(Workers(AtOnce(), 1))
    assert set(work.found) >= {1, 2, 3}
    assert -4 not in work.found
    assert saved(store, 100) == work.found


# Runs and searches ---------------------------------------------------------------------------------------------------


@contextmanager
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(SMALL + RATES)
    return Sweep.from_toml("small.toml")


def data_of(cube: xr.Dataset) -> xr.Dataset:
    return cube.drop_attrs(deep=False)


def test_a_run_in_other_processes_gives_the_same_cube(sweep: Sweep) -> None:
    here = run_sweep(sweep, backend="reference")
    with processes() as pool:
        there = run_sweep(sweep, "cube.nc", workers=2, backend="reference", executor=pool)
        assert pool.submit(abs, -1).result() == 1, "an executor that was given stays open"
    xr.testing.assert_identical(data_of(there), data_of(here))


def test_a_search_without_shared_memory_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(SMALL.replace('"poisson"', '"poisson"\nrate_per_s = 0.1'))
    sweep = Sweep.from_toml("small.toml")
    here, there = (
        find_capacity(sweep, ["latency_mean_s=60"], workers=2, backend="reference", executor=executor)
        for executor in (None, AtOnce())
    )
    assert (here["capacity_unbracketed"] == 0).any()
    xr.testing.assert_identical(data_of(there), data_of(here))


def test_an_error_elsewhere_names_the_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "simulate_many", refuse_the_fast)
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(SMALL + RATES)
    with pytest.raises(InputError, match=r"^small\.toml: .*too fast.* \(at bins = \d, arrival_rate_per_s = 0\.2\)$"):
        run_sweep(Sweep.from_toml("small.toml"), backend="reference", executor=AtOnce())


def refuse_the_fast(jobs: Sequence[Any], shape: Any, backend: str) -> dict[str, Any]:
    if any(job.trace.arrival[-1] < 300 * 10**6 for job in jobs):
        raise InputError("too fast")
    return simulate_many(jobs, shape, backend)


simulate_many = simulate.simulate_many


def test_a_task_that_takes_long_comes_back_with_a_part(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_sweep(sweep, backend="reference")
    monkeypatch.setattr(simulate, "SECONDS_OF_A_TASK", -1.0)
    monkeypatch.setattr("batchcube.sweeps.run.replicating.jobs_at_once", lambda *_: 1)
    done: list[tuple[int, int]] = []

    class Told(Silent):
        def advance(self, requests: int) -> None:
            done.append((requests, len(list(Path("cube.nc.partial").glob("*.parts")))))

    monkeypatch.setattr(scheduler, "SECONDS_BETWEEN_SAVES", -1.0)
    with stopping():
        pieces = run_sweep(sweep, "cube.nc", workers=1, backend="reference", progress=Told())
    assert [requests for requests, _ in done] == [40] * 18
    assert done[-1][1] > 3, "points of a replication are saved before it is complete"
    xr.testing.assert_identical(data_of(pieces), data_of(whole))
