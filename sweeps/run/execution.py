"""Run a planned sweep on all cores, keep what is finished, and build the cube."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import xarray as xr

from batchcube.engine import jobs_at_once
from batchcube.errors import InputError
from batchcube.results import overload
from batchcube.results.cube import parse_made_from
from batchcube.results.joining import extend_cube
from batchcube.results.precision import Precision, record
from batchcube.results.provenance import batchcube_version

from ..files import require_output
from ..progress import Progress, Silent
from ..spec.document import Sweep
from ..stopping import Stop, stopping
from .assemble import assemble, join, tell_not_whole
from .draws import Draws
from .narrowing import Narrowing
from .outputs import ADVICE, same_sweep
from .preparing import Prepared, prepare, theory_of
from .scheduler import Executor, Gain, Scheduler, Task, deal, threads
from .simulate import Simulator, bytes_of, require_backend, simulate_parts
from .store import Part, Report, Store

# Traces that one task hands to a device at once.
MOST_BYTES_OF_TRACES = 4_000_000_000


class Size(NamedTuple):
    """How large a sweep is."""

    points: int
    requests: int
    cube_bytes: int
    peak_bytes: int


def estimate(sweep: Sweep, done: Callable[[], None] = lambda: None) -> Size:
    """Return how large a sweep is on all cores; reads its files and raises InputError like a run. See `prepare`."""
    return _size(prepare(sweep, done), sweep.replications, os.cpu_count() or 1)


def _size(prepared: Prepared, replications: int, workers: int) -> Size:
    points = len(prepared.points)
    windows = prepared.points[0].point.report.windows
    # A histogram spans some ten doublings of 64 buckets; that of the gaps between tokens has numbers of 8 bytes.
    histogram = 640 * (12 if prepared.simulation.STEPWISE else 4) if prepared.points[0].point.report.histograms else 0
    largest = max(p.setup.largest_batch for p in prepared.points)
    values = 60 + 6 * prepared.bins + 10 * windows + min(largest, 1000)
    cube_bytes = points * replications * (8 * values + histogram)
    # What follows was measured: reports are kept until the cube is built, and copied then; each is some hundred arrays.
    kept = 3.3 * cube_bytes + 24_000 * replications
    each = 350 if prepared.simulation.STEPWISE else 95
    drawn = each * max(point.requests for point in prepared.points) * min(workers, replications)
    return Size(points, prepared.requests * replications, cube_bytes, round(kept + drawn) + 300_000_000)


def _require_memory(prepared: Prepared, replications: int, workers: int) -> None:
    """Refuse what this machine cannot hold, instead of after hours."""
    needed, there = _size(prepared, replications, workers).peak_bytes, memory_bytes()
    if needed > there:
        raise InputError(
            f"needs about {needed / 1e9:.1f} GB of memory, and this machine has {there / 1e9:.1f}",
            file=prepared.sweep.source,
            allowed="take fewer points, replications, requests or report.windows, or report.histograms = false",
        )


def memory_bytes() -> float:
    """Return how much memory this machine has; infinity where the system does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf


def run_sweep(
    sweep: Sweep,
    output: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    backend: str = "numba",
    executor: Executor | None = None,
    precision: Precision | None = None,
) -> xr.Dataset:
    """Simulate every point and replication and return the cube; with ``output``, also write it there.

    Runs on ``workers`` threads, all cores when None; the cube does not depend on how many. With ``output``, a run that
    was stopped continues where it was, and a cube of the same sweep with fewer replications is extended, unless
    ``overwrite`` begins afresh. ``backend`` is "numba" (on the cores of a CPU), "jax" (on GPUs) or "reference" (plain
    Python, slow: the specification); the numbers are the same with each, and one may continue or extend what another
    began. Mode continuous has no "jax". With ``executor``, one of `concurrent.futures` or what is like one, the tasks
    run there, so many ``workers`` at a time, instead of on threads. With ``precision``, replications are added in looks
    until the intervals wanted are narrow enough at all points; those of the sweep are then what the first look is at.
    Raises InputError for a backend that is not there, and for what only the data can show (a missing file, a request no
    batch can hold).
    """
    made_by = require_backend(backend, sweep.grid.points[0].simulation)
    with stopping() as stop, ExitStack() as opened:
        target = None if output is None else require_output(Path(output))
        store = None if target is None else opened.enter_context(Store(target))
        old = None
        if target is not None and target.exists() and not overwrite:
            old = same_sweep(target, sweep)
        if old is not None:
            # Worded as it is there, where a file states defaults or leaves them out.
            sweep = sweep.worded(parse_made_from(old)[0])
        first = 0 if old is None else old.sizes["replication"]
        narrowing = None if precision is None else Narrowing(sweep, precision, old)
        looks = [max(first, sweep.replications)] if narrowing is None else narrowing.counts
        wanted = range(first, looks[-1])
        if store is not None and old is not None and narrowing is None and not wanted:
            with suppress(InputError):  # parts of another run are none of this one's business
                store.open(_identity(sweep, str(old.attrs.get("input_sha256", ""))), made_by, wanted)
            return old
        prepared = prepare(sweep)
        if narrowing is not None:
            narrowing.limit(prepared.most_replications)
            looks = narrowing.counts
            wanted = range(first, looks[-1])
        at_once = workers or os.cpu_count() or 1
        _require_memory(prepared, looks[0], at_once)
        if old is not None and old.attrs.get("input_sha256", "") != prepared.input_sha256:
            raise InputError(f"was made from a file that has changed since; {ADVICE}", file=target)
        kept: Sequence[Part] = ()
        if store is not None:
            kept = store.open(_identity(sweep, prepared.input_sha256), made_by, wanted, overwrite=overwrite)
        shown = progress or Silent()
        reports: dict[int, Report] = {}
        simulated = False
        # Importing scipy for the theory takes longer than many a run: it goes on beside the simulation.
        aside = ThreadPoolExecutor(1)
        theory = aside.submit(theory_of, prepared)
        try:
            for look in looks:
                if reports and _size(prepared, look, at_once).peak_bytes > memory_bytes():
                    break
                run = _Replications(prepared, backend, range(first + len(reports), look))
                run.add(part for part in kept if part.replication in run.wanted)
                if narrowing is None or len(run.finished) < len(run.wanted):
                    simulated |= run.work(store, stop, shown, executor, at_once)
                reports |= run.finished
                if narrowing is not None and narrowing.look(look, reports, shown):
                    break
            wanted = range(first, first + len(reports))
            makers = [*(store.makers if store is not None else ()), *([made_by] if simulated else ())]
            prepared = prepared._replace(sweep=sweep.repeated(wanted.stop)) if narrowing is not None else prepared
            cube = old
            if wanted:
                cube = assemble(prepared, [reports.pop(r) for r in wanted], theory.result(), first, makers)
        finally:
            stop.wait_for([theory])
            aside.shutdown(wait=not stop.abandoned)
        assert cube is not None  # a run without an old cube has replications
        if old is not None and wanted:
            cube = extend_cube(old, cube)
            tell_not_whole(cube)
        overload.tell(cube)
        if narrowing is not None:
            record(cube, narrowing.texts, narrowing.looked, narrowing.missing)
        if store is not None:
            store.put(cube)
            with stop.held():
                stop.kept = f"{target} is complete."
                store.forget(range(wanted.stop))
        return cube


def _identity(sweep: Sweep, input_sha256: str) -> dict[str, str]:
    """Return what makes the replications of a run: with all of it the same, they are the same."""
    return {"run": sweep.identity(), "version": batchcube_version(), "input_sha256": input_sha256}


# Running ------------------------------------------------------------------------------------------------------------


class _Replications:
    """The work of a run: replications of all points, in tasks of some points of some replications."""

    def __init__(self, prepared: Prepared, backend: str, wanted: range) -> None:
        self.prepared, self.backend, self.wanted = prepared, backend, wanted
        self.points, self.replications = len(prepared.points), len(wanted)
        self.finished: dict[int, Report] = {}
        """Complete replications, points in the order of the grid."""
        self._parts: dict[int, list[Part]] = {}
        """What is finished of the others."""
        # Points that share bins and arrivals follow each other, so that what was drawn is used while it is kept.
        keys = [(p.keys.trace, p.keys.bins, p.keys.arrivals) for p in prepared.points]
        self._order = sorted(range(len(prepared.points)), key=lambda k: keys[k])
        self._tasks: Iterator[Task] = iter(())
        self._continued: list[Task] = []
        """What is left of tasks that came back before their end."""
        self._drawing: ThreadPoolExecutor | None = None

    def add(self, parts: Iterable[Part]) -> int:
        """Add finished parts, and return how many replications are complete with them."""
        complete = 0
        for part in parts:
            mine = self._parts.setdefault(part.replication, [])
            mine.append(part)
            if sum(len(one.points) for one in mine) == self.points:
                self.finished[part.replication] = join(self._parts.pop(part.replication))
                complete += 1
        return complete

    def work(
        self, store: Store | None, stop: Stop, progress: Progress, executor: Executor | None, workers: int
    ) -> bool:
        """Simulate what no part holds, and say whether that was anything."""
        scheduler = Scheduler(self, store, stop, progress)
        begun = {r: {k for part in parts for k in part.points} for r, parts in self._parts.items()}
        left = {r: [k for k in self._order if k not in points] for r, points in begun.items()}
        numbers = [*left, *(r for r in self.wanted if r not in left and r not in self.finished)]
        requests = self.prepared.requests * (len(numbers) - len(left))
        requests += sum(self.prepared.points[k].requests for points in left.values() for k in points)
        progress.start(self.points, len(numbers), requests)
        if not numbers:
            return False
        with ExitStack() as opened:
            # Two tasks keep a device busy: one draws the next traces, on all threads, while the device has the other.
            at_once = workers
            if self.backend == "jax" and executor is None:
                at_once = min(2, workers)
                self._drawing = opened.enter_context(threads(workers, stop, "batchcube-draws"))
            self._tasks = self._deal(numbers, left, workers)
            scheduler.run(executor or opened.enter_context(threads(at_once, stop)), at_once)
        return True

    def tell(self, store: Store) -> str:
        """Say how many replications are kept."""
        return store.tell(self.points, self.replications)

    def next_task(self) -> Task | None:
        """Return what is left of a task, or the next one."""
        return self._continued.pop() if self._continued else next(self._tasks, None)

    def take(self, task: Task, result: list[Part]) -> Gain:
        """Take parts, and see to what the task has left."""
        simulator, draws, points, drawing = task.arguments
        done = sum(len(part.points) for part in result) // len(draws)
        if done < len(points):
            self._continued.append(task._replace(arguments=(simulator, draws, points[done:], drawing)))
        requests = sum(self.prepared.points[k].requests for part in result for k in part.points)
        return Gain(result, requests, self.add(result))

    def give_up(self) -> None:
        """Draw nothing more."""
        if self._drawing is not None:
            self._drawing.shutdown(wait=False, cancel_futures=True)

    def _deal(self, numbers: Sequence[int], left: Mapping[int, Sequence[int]], workers: int) -> Iterator[Task]:
        """Yield the tasks: of what is left of replications that were begun, then of others."""
        first = Draws(self.prepared.sweep.seed, numbers[0])
        simulator, together, blocks = self._sizes(first, len(numbers), workers)
        every = chain([first], (Draws(self.prepared.sweep.seed, r) for r in numbers[1:]))
        del first  # its arrays are its task's alone
        for points in left.values():
            one = next(every)
            for block in deal(len(points), len(blocks)):
                yield self._task(simulator, [one], points[block.start : block.stop])
        while group := list(islice(every, together)):
            for block in blocks:
                yield self._task(simulator, group, self._order[block.start : block.stop])

    def _task(self, simulator: Simulator, draws: Sequence[Draws], points: Sequence[int]) -> Task:
        return Task(simulate_parts, (simulator, draws, points, self._drawing))

    def _sizes(self, first: Draws, replications: int, workers: int) -> tuple[Simulator, int, list[range]]:
        """Return how many jobs a call simulates, of how many replications a task is, and the blocks of points."""
        prepared_points = self.prepared.points
        one = Simulator(self.prepared, self.backend, 1)
        largest = one.job(first, max(range(self.points), key=lambda k: prepared_points[k].requests))
        jobs = jobs_at_once(largest, one.shape(prepared_points), self.backend)
        simulator = one._replace(jobs_at_once=jobs)
        if not one.on_device:
            # Few replications: several threads share one, and what it draws.
            return simulator, 1, list(deal(self.points, -(-4 * workers // replications)))
        # Equal parts, but for the last: jobs in other numbers may have to be compiled for.
        if jobs < self.points:
            size = -(-self.points // -(-self.points // jobs))
            return simulator, 1, [range(start, min(start + size, self.points)) for start in range(0, self.points, size)]
        drawn = bytes_of([one.job(first, k) for k in range(self.points)])
        most = max(1, min(jobs // self.points, MOST_BYTES_OF_TRACES // drawn))
        return simulator, -(-replications // -(-replications // most)), [range(self.points)]
