"""Run a planned sweep on all cores, keep what is finished, and build the cube."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from itertools import chain, islice
from pathlib import Path
from threading import Event, Lock
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from batchcube.engine import Shape, Simulation, batches, check, describe, jobs_at_once, simulate_many
from batchcube.engine.backends import MissingBackendError
from batchcube.engine.histogram import bucket_edges, bucket_middles
from batchcube.engine.simulation import Job
from batchcube.errors import InputError
from batchcube.results import overload
from batchcube.results.cube import (
    Buckets,
    Coordinate,
    build_cube,
    changed,
    extend_cube,
    parse_made_from,
    read_cube,
)
from batchcube.results.provenance import MadeBy, batchcube_version, provenance
from batchcube.results.variables import BUCKETED, REGISTRY

from ..files import require_output
from ..progress import Progress, Silent
from ..spec import service as coefficients
from ..spec.document import Sweep, remade
from ..spec.grid import Axis, setting_paths
from ..spec.settings import draws_service
from ..stopping import SECONDS_BETWEEN_LOOKS, Stop, stopping
from ..theory.expected import Expected
from .draws import Draws
from .plan import Plan, PointPlan, calibrated, deal, make_plan, refusal, theory_of
from .store import Part, Report, Store

SECONDS_BETWEEN_SAVES = 20.0
ADVICE = "choose another output, or --overwrite"
# Traces that one task hands to a device at once.
MOST_BYTES_OF_TRACES = 4_000_000_000
# Arrays of varying length: cut to the part that is used, which begins at an index that is kept beside it.
_CUT = ("latency_histogram", "tbt_histogram", "batch_size_histogram")
# What the notes say of those who are never served, by the variable that counts them.
_NEVER_SERVED = {
    name: f"of the requests {what} (variable {name}): shares over a limit count them as missed, times are of the others"
    for name, what in (
        ("rejected", "could never fit into a replica and were turned away"),
        ("unserved", "were left in bins that never released them"),
    )
}


class Size(NamedTuple):
    """How large a sweep is."""

    points: int
    requests: int
    cube_bytes: int
    peak_bytes: int


class Stopped(Exception):  # noqa: N818 - a signal between threads, never seen outside
    """Leave a task because the run was stopped."""


def estimate(sweep: Sweep, done: Callable[[], None] = lambda: None) -> Size:
    """Return how large a sweep is on all cores; reads its files and raises InputError like a run. See `make_plan`."""
    return _size(make_plan(sweep, done), os.cpu_count() or 1)


def _size(plan: Plan, workers: int) -> Size:
    points, replications = len(plan.points), plan.sweep.replications
    windows = plan.points[0].point.report.windows
    # A histogram spans some ten doublings of 64 buckets; that of the gaps between tokens has numbers of 8 bytes.
    histogram = 640 * (12 if plan.simulation.STEPWISE else 4) if plan.points[0].point.report.histograms else 0
    largest = max(p.setup.largest_batch for p in plan.points)
    values = 60 + 6 * plan.bins + 10 * windows + min(largest, 1000)
    cube_bytes = points * replications * (8 * values + histogram)
    # What follows was measured: reports are kept until the cube is built, and copied then; each is some hundred arrays.
    kept = 3.3 * cube_bytes + 24_000 * replications
    drawn = (
        (350 if plan.simulation.STEPWISE else 95) * max(p.requests for p in plan.points) * min(workers, replications)
    )
    return Size(points, plan.requests * replications, cube_bytes, round(kept + drawn) + 300_000_000)


def _require_memory(plan: Plan, workers: int) -> None:
    """Refuse what this machine cannot hold, instead of after hours."""
    needed, there = _size(plan, workers).peak_bytes, memory_bytes()
    if needed > there:
        raise InputError(
            f"{plan.sweep.source}: needs about {needed / 1e9:.1f} GB of memory, and this machine has "
            f"{there / 1e9:.1f}: take fewer points, replications, requests or report.windows, or "
            "report.histograms = false"
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
) -> xr.Dataset:
    """Simulate every point and replication and return the cube; with ``output``, also write it there.

    Runs on ``workers`` threads, all cores when None; the cube does not depend on how many. With ``output``, a run that
    was stopped continues where it was, and a cube of the same sweep with fewer replications is extended, unless
    ``overwrite`` begins afresh. ``backend`` is "numba" (on the cores of a CPU), "jax" (on GPUs) or "reference" (plain
    Python, slow: the specification); the numbers are the same with each, and one may continue or extend what another
    began. Mode continuous has no "jax".
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
        wanted = range(first, max(first, sweep.replications))
        if store is not None and old is not None and not wanted:
            with suppress(InputError):  # parts of another run are none of this one's business
                store.open(_identity(sweep, str(old.attrs.get("input_sha256", ""))), made_by, wanted)
            return old
        plan = make_plan(sweep)
        _require_memory(plan, workers or os.cpu_count() or 1)
        if old is not None and old.attrs.get("input_sha256", "") != plan.input_sha256:
            raise InputError(f"{target}: was made from a file that has changed since; {ADVICE}")
        run = _Run(plan, store, stop, progress or Silent(), backend)
        if store is not None:
            run.take(store.open(_identity(sweep, plan.input_sha256), made_by, wanted, overwrite=overwrite))
        # Importing scipy for the theory takes longer than many a run: it goes on beside the simulation.
        aside = ThreadPoolExecutor(1)
        theory = aside.submit(theory_of, plan)
        try:
            simulated = run.work(wanted, workers or os.cpu_count() or 1)
            makers = [*(store.makers if store is not None else ()), *([made_by] if simulated else ())]
            cube = _cube(plan, [run.finished.pop(r) for r in wanted], theory.result(), first, makers)
        finally:
            stop.wait_for([theory])
            aside.shutdown(wait=not stop.abandoned)
        if old is not None:
            cube = extend_cube(old, cube)
            _tell_never_served(cube)
        overload.tell(cube)
        if store is not None:
            store.put(cube)
            with stop.held():
                stop.kept = f"{target} is complete."
                store.forget(range(wanted.stop))
        return cube


def _identity(sweep: Sweep, input_sha256: str) -> dict[str, str]:
    """Return what makes the replications of a run: with all of it the same, they are the same."""
    return {"run": sweep.identity(), "version": batchcube_version(), "input_sha256": input_sha256}


def require_backend(backend: str, simulation: Simulation[Any] = batches) -> MadeBy:
    """Return what a backend is and runs on; raises InputError where there is none for a simulation, or not here."""
    try:
        return MadeBy(backend, *describe(backend, simulation))
    except (MissingBackendError, RuntimeError) as error:  # RuntimeError: a device that is not fit for use
        raise InputError(" ".join(str(error).split())) from None


def same_sweep(target: Path, sweep: Sweep, *, capacities: bool = False) -> xr.Dataset:
    """Return the cube that is there already; raises InputError unless a run of the same sweep made it.

    With `capacities` it must hold those, which a search made and no run can continue.
    """
    try:
        cube = read_cube(target)
    except InputError as error:
        raise error.advised(ADVICE) from None
    if doubt := changed(cube):
        raise InputError(f"{target}: {doubt}; {ADVICE}")
    if ("capacity_criteria" in cube.attrs) != capacities:
        holds = (
            "no capacities, but what a run made"
            if capacities
            else "capacities, which a search made and no run can continue"
        )
        raise InputError(f"holds {holds}; {ADVICE}", file=target)
    version = cube.attrs["batchcube_version"]
    if version != batchcube_version():
        raise InputError(f"was made by version {version}; {ADVICE}", file=target)
    kept, _ = remade(*parse_made_from(cube), str(target))
    theirs, ours = kept.parts(), sweep.parts()
    if differing := sorted(name for name in ours if ours[name] != theirs[name]):
        raise InputError(f"holds another sweep ({', '.join(differing)} differ); {ADVICE}", file=target)
    return cube


# Running ------------------------------------------------------------------------------------------------------------


class _Task(NamedTuple):
    """What a thread does at once: some points of some replications."""

    draws: list[Draws]
    points: Sequence[int]
    """Their numbers in the order of the grid, in the order of running."""


class _Run:
    """Deals replications and blocks of points out to threads and collects their reports."""

    def __init__(self, plan: Plan, store: Store | None, stop: Stop, progress: Progress, backend: str) -> None:
        self.plan, self.store, self.stop, self.progress, self.backend = plan, store, stop, progress, backend
        self.finished: dict[int, Report] = {}
        """Complete replications, points in the order of the grid."""
        self._parts: dict[int, list[Part]] = {}
        """What is finished of the others."""
        self._fresh: list[Part] = []
        """Finished by a thread, not yet collected."""
        self._unsaved: list[Part] = []
        # Cores each take a part of the work; a device takes thousands of jobs at once, and one call after the other.
        self.on_device = backend == "jax"
        self._stop = Event()
        self._lock = Lock()
        self._simulated = 0
        # Points that share bins and arrivals follow each other, so that what was drawn is used while it is kept.
        keys = [(p.keys.trace, p.keys.bins, p.keys.arrivals) for p in plan.points]
        self.order = sorted(range(len(plan.points)), key=lambda k: keys[k])

    def take(self, parts: Iterable[Part]) -> int:
        """Add finished parts, and return how many replications are complete with them."""
        complete = 0
        for part in parts:
            mine = self._parts.setdefault(part.replication, [])
            mine.append(part)
            if sum(len(one.points) for one in mine) == len(self.plan.points):
                self.finished[part.replication] = _whole(self._parts.pop(part.replication))
                complete += 1
        return complete

    def work(self, wanted: range, workers: int) -> bool:
        """Simulate what no part holds, and say whether that was anything; what a stop finds finished is saved."""
        begun = {r: {k for part in parts for k in part.points} for r, parts in self._parts.items()}
        left = {r: [k for k in self.order if k not in points] for r, points in begun.items()}
        numbers = [*left, *(r for r in wanted if r not in left and r not in self.finished)]
        requests = self.plan.requests * (len(numbers) - len(left))
        requests += sum(self.plan.points[k].requests for points in left.values() for k in points)
        self._tell_kept(wanted)
        self.progress.start(len(self.plan.points), len(numbers), requests)
        if not numbers:
            return False
        first = Draws(self.plan.sweep.seed, numbers[0])
        self.jobs_at_once, together, blocks = self._deal(first, len(numbers), workers)
        every = chain([first], (Draws(self.plan.sweep.seed, r) for r in numbers[1:]))
        del first  # its arrays are its task's alone
        tasks = self._tasks(every, left, together, blocks)
        # Two tasks keep a device busy: one draws the next traces, on all threads, while the device has the other.
        threads = min(2, workers) if self.on_device else workers
        running: list[Future[None]] = []
        self.drawing = ThreadPoolExecutor(workers, thread_name_prefix="batchcube-draws")
        pool = ThreadPoolExecutor(threads, thread_name_prefix="batchcube")
        saved = time.monotonic()
        with self.stop.held():
            try:
                while True:
                    self.stop.check()
                    while len(running) < 2 * threads and (task := next(tasks, None)) is not None:
                        running.append(pool.submit(self._simulate, task))
                    if not running:
                        break
                    done, _ = wait(running, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED)
                    running = [future for future in running if future not in done]
                    for future in done:
                        future.result()
                    complete = self._collect()
                    if complete:
                        self.progress.finish_replications(complete)
                    self._tell()
                    if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                        self._save(wanted)
                        saved = time.monotonic()
                # The cube is yet to be built and written, and may find no room.
                self._save(wanted)
            except BaseException:
                self._stop.set()
                self._keep(wanted)
                self.drawing.shutdown(wait=False, cancel_futures=True)
                pool.shutdown(wait=False, cancel_futures=True)
                # What was under way comes to its end: on a device that is much.
                self.stop.wait_for(running)
                self._keep(wanted)
                raise
            finally:
                self.drawing.shutdown(wait=not self.stop.abandoned)
                pool.shutdown(wait=not self.stop.abandoned)
        return True

    def _tasks(
        self, draws: Iterator[Draws], left: Mapping[int, Sequence[int]], together: int, blocks: Sequence[range]
    ) -> Iterator[_Task]:
        """Yield the tasks: of what is left of replications that were begun, then of others, `together` at a time."""
        for points in left.values():
            one = next(draws)
            for block in deal(len(points), len(blocks)):
                yield _Task([one], points[block.start : block.stop])
        while group := list(islice(draws, together)):
            for block in blocks:
                yield _Task(group, self.order[block.start : block.stop])

    def _deal(self, first: Draws, replications: int, workers: int) -> tuple[int, int, list[range]]:
        """Return how many jobs a call simulates, of how many replications a task is, and the blocks of points."""
        points = len(self.plan.points)
        largest = self._job(first, max(self.plan.points, key=lambda plan: plan.requests))
        jobs = jobs_at_once(largest, self._shape(self.plan.points), self.backend)
        if not self.on_device:
            # Few replications: several threads share one, and what it draws.
            return jobs, 1, list(deal(points, -(-4 * workers // replications)))
        # Equal parts, but for the last: jobs in other numbers may have to be compiled for.
        if jobs < points:
            size = -(-points // -(-points // jobs))
            return jobs, 1, [range(start, min(start + size, points)) for start in range(0, points, size)]
        drawn = _bytes_of([self._job(first, plan) for plan in self.plan.points])
        most = max(1, min(jobs // points, MOST_BYTES_OF_TRACES // drawn))
        return jobs, -(-replications // -(-replications // most)), [range(points)]

    def _shape(self, plans: Sequence[PointPlan]) -> Shape:
        # Devices compile for a shape, so that all calls ask for one; cores take the least memory.
        largest = max(plan.setup.largest_batch for plan in (self.plan.points if self.on_device else plans))
        return Shape(self.plan.bins, largest, plans[0].setup.windows)

    def _simulate(self, task: _Task) -> None:
        """Simulate the points of a task on each of its replications; runs in a thread of the pool."""
        points = max(1, self.jobs_at_once // len(task.draws))
        for start in range(0, len(task.points), points):
            numbers = tuple(task.points[start : start + points])
            plans = [self.plan.points[k] for k in numbers]
            jobs = self._draw(task.draws, plans)
            with np.errstate(all="ignore"):
                try:
                    report = simulate_many(jobs, self._shape(plans), self.backend)
                except InputError as error:
                    raise self._refusal(error, self._culprit(jobs, plans)) from None
            parts = []
            for number, draws in enumerate(task.draws):
                rows = slice(number * len(plans), (number + 1) * len(plans))
                mine = _kept({name: array[rows] for name, array in report.items()}, self.plan)
                parts.append(Part(draws.replication, numbers, mine))
            with self._lock:
                self._fresh += parts
                self._simulated += sum(plan.requests for plan in plans) * len(task.draws)

    def _draw(self, draws: Sequence[Draws], plans: Sequence[PointPlan]) -> list[Job]:
        """Return the jobs of points on replications, replication by replication."""

        def of(replication: Draws) -> list[Job]:
            with np.errstate(all="ignore"):
                if self._stop.is_set():
                    raise Stopped
                return [self._job(replication, plan) for plan in plans]

        # A single one has threads beside it that draw others.
        drawn = map(of, draws) if len(draws) == 1 else self.drawing.map(of, draws)
        return list(chain.from_iterable(drawn))

    def _job(self, draws: Draws, plan: PointPlan) -> Job:
        """Return a point's job of one replication; InputError naming the point where it cannot be made."""
        try:
            return draws.job(plan)
        except InputError as error:
            raise self._refusal(error, plan) from None

    def _refusal(self, error: InputError, plan: PointPlan | None) -> InputError:
        """Return an error as a line about the sweep, and about its point where that is known."""
        positions = zip(np.ndindex(self.plan.sweep.grid.shape), self.plan.points, strict=True)
        at = next((position for position, mine in positions if mine is plan), None)
        return refusal(self.plan.sweep, error, at)

    def _culprit(self, jobs: Sequence[Job], plans: Sequence[PointPlan]) -> PointPlan | None:
        """Return the point that is to blame for an error of jobs, replication by replication."""
        if len(plans) == 1:
            return plans[0]
        # The clock may run out only on the way: then what was simulated is simulated once more, one by one.
        for attempt in (check, lambda job: simulate_many([job], job.shape, self.backend)):
            for number, job in enumerate(jobs):
                try:
                    attempt(job)
                except InputError:
                    return plans[number % len(plans)]
        return None

    def _collect(self) -> int:
        """Take what the threads have finished, and return how many replications are complete with it."""
        with self._lock:
            fresh, self._fresh = self._fresh, []
        if self.store is not None:
            self._unsaved += fresh
        return self.take(fresh)

    def _tell(self) -> None:
        with self._lock:
            simulated, self._simulated = self._simulated, 0
        if simulated:
            self.progress.advance(simulated)

    def _save(self, wanted: range) -> None:
        if self.store is not None:
            self.store.save(self._unsaved)
            self._unsaved = []
            self._tell_kept(wanted)

    def _tell_kept(self, wanted: range) -> None:
        if self.store is not None:
            self.stop.kept = self.store.tell(len(self.plan.points), len(wanted))

    def _keep(self, wanted: range) -> None:
        """Save on the way out: what cannot be saved is told, and does not hide what led here."""
        self._collect()
        try:
            self._save(wanted)
        except OSError as error:
            self._tell_kept(wanted)
            self.stop.kept += f" The rest of what was finished could not be written: {error.strerror}."


def _bytes_of(jobs: Sequence[Job]) -> int:
    """Return how much memory the arrays of jobs take; what they share counts once."""
    return sum({id(array): array.nbytes for array in _arrays(jobs)}.values())


def _arrays(value: Any) -> Iterator[NDArray[Any]]:
    """Yield all arrays in nested tuples and lists."""
    if isinstance(value, np.ndarray):
        yield value
    for part in value if isinstance(value, tuple | list) else ():
        yield from _arrays(part)


def _kept(report: Report, plan: Plan) -> Report:
    """Return what of a block's report goes into the cube, in the cube's units, cut to what is used."""
    report = dict(report)
    if not plan.points[0].point.report.histograms:
        for name in ("latency_histogram", "tbt_histogram"):
            report.pop(name, None)
    for name in _CUT:
        if name in report:
            used = np.flatnonzero(report[name].any(axis=0))
            low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
            dtype = REGISTRY[name].dtype
            report[name] = np.ascontiguousarray(report[name][:, low:high].astype(dtype))
            report[f"{name}/from"] = np.array(low, np.int64)
    return report


def _whole(parts: Sequence[Part]) -> Report:
    """Join the parts of a replication, points in the order of the grid."""
    back = np.argsort([k for part in parts for k in part.points])
    report = _stack([part.report for part in parts])
    return {name: array if name.endswith("/from") else array[back] for name, array in report.items()}


def _stack(reports: Sequence[Report]) -> Report:
    """Join reports along the points."""
    if len(reports) == 1:
        return dict(reports[0])
    joined: Report = {}
    for name in reports[0]:
        if name in _CUT:
            joined[name], low = _widen([r[name] for r in reports], [int(r[f"{name}/from"]) for r in reports])
            joined[f"{name}/from"] = np.array(low, np.int64)
        elif not name.endswith("/from"):
            joined[name] = np.concatenate([r[name] for r in reports])
    return joined


def _widen(arrays: Sequence[NDArray[Any]], starts: Sequence[int]) -> tuple[NDArray[Any], int]:
    """Join arrays (point, used range), each from its own start on, into one over all their ranges."""
    low = min(starts)
    high = max(start + a.shape[1] for a, start in zip(arrays, starts, strict=True))
    wide = np.zeros((sum(len(a) for a in arrays), high - low), arrays[0].dtype)
    row = 0
    for array, start in zip(arrays, starts, strict=True):
        wide[row : row + len(array), start - low : start - low + array.shape[1]] = array
        row += len(array)
    return wide, low


# The cube -----------------------------------------------------------------------------------------------------------


def _cube(
    plan: Plan, reports: list[Report], theory: Sequence[Expected], first: int, made_by: Sequence[MadeBy]
) -> xr.Dataset:
    """Build the cube of consecutive replications, each a report (point, ...)."""
    sweep = plan.sweep
    shape, points, count = sweep.grid.shape, len(plan.points), len(reports)
    arrays: dict[str, NDArray[Any]] = {}
    offsets: dict[str, int] = {}
    for name in [name for name in reports[0] if not name.endswith("/from")]:
        column = [report.pop(name) for report in reports]
        if name in _CUT:
            starts = [int(report[f"{name}/from"]) for report in reports]
            wide, offsets[name] = _widen(column, starts)
            full = wide.reshape(count, points, -1)
        else:
            full = np.stack(column)
        del column
        if not REGISTRY[name].replicated:
            arrays[name] = full[0].reshape((*shape, *full.shape[2:]))
        else:
            arrays[name] = np.ascontiguousarray(np.moveaxis(full, 0, 1)).reshape((*shape, count, *full.shape[2:]))
    buckets: dict[str, Buckets] = {}
    for dim in BUCKETED:
        name = f"{dim.removesuffix('_bucket')}_histogram"
        if name in arrays:
            arrays[name], buckets[dim] = _bucketed(arrays[name], offsets[name], plan.simulation.HISTOGRAM_UNITS_PER_S)
    sizes = arrays["batch_size_histogram"]
    arrays["batch_size_histogram"] = np.concatenate(
        [np.zeros((*sizes.shape[:-1], offsets["batch_size_histogram"]), sizes.dtype), sizes], axis=-1
    )
    edges_of = np.full((2, points, plan.bins), np.nan)
    for k, point in enumerate(plan.points):
        edges_of[0, k, : len(point.edges) - 1] = point.edges[:-1]
        edges_of[1, k, : len(point.edges) - 1] = point.edges[1:]
    arrays["bin_lower_edge"], arrays["bin_upper_edge"] = edges_of.reshape((2, *shape, plan.bins))
    effective = np.array([len(point.edges) - 1 for point in plan.points], np.int64)
    arrays["effective_bins"] = np.repeat(effective[:, None], count, axis=1).reshape((*shape, count))
    arrays["unmeasured_costs"] = plan.unmeasured_costs.reshape(shape)
    notes = list(plan.notes)
    notes += _never_served(arrays)
    if not plan.simulation.STEPWISE:
        for k, name in enumerate(("throughput_requests_per_s", "throughput_limit_requests_per_s", "latency_s")):
            values = np.array([said[k] for said in theory], np.float64)
            arrays[f"theory_{name}"] = values.reshape(shape)
        if np.nanmax(arrays["extrapolated_batch_fraction"], initial=0.0) > 0:
            notes.append("some batches lie outside the measured table; their times follow the fitted law")
    seconds = {plan.length == "seconds" for plan in plan.points}
    if len(seconds) > 1:
        notes.append("lengths are tokens at some points and seconds at others")
    attrs = provenance(
        title=sweep.title,
        specification=sweep.text(),
        defaults=sweep.defaults(),
        seed=sweep.seed,
        replications=count,
        made_by=made_by,
        overload_test=plan.simulation.OVERLOAD_TEST,
        input_sha256=plan.input_sha256,
        trace_rows_dropped=plan.rows_dropped,
        notes=notes,
    )
    laws = calibrated(plan.points)
    kept = {"service_coefficients": coefficients.record(laws, steps=plan.simulation.STEPWISE)} if laws else {}
    return build_cube(
        [coordinate_of(axis, sweep) for axis in sweep.grid.axes],
        arrays,
        replications=count,
        attrs={**attrs, "description": sweep.description, **kept},
        first_replication=first,
        buckets=buckets,
        length_units="s" if seconds == {True} else "tokens",
        coefficients_drawn=any(draws_service(plan.point) for plan in plan.points),
    )


def _never_served(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return the notes about requests that were never served, if any were."""
    requests = float(arrays["requests"].sum())
    shares = {name: float(arrays[name].sum()) / requests for name in _NEVER_SERVED if name in arrays}
    return [f"{in_percent(share)} {_NEVER_SERVED[name]}" for name, share in shares.items() if share]


def in_percent(share: float) -> str:
    """Return a share as notes say it."""
    return f"{100.0 * share:.{'2g' if share < 0.1 else '0f'}} %"


def _tell_never_served(cube: xr.Dataset) -> None:
    """Replace the notes of the parts of a cube about requests never served by those about them all."""
    notes = str(cube.attrs["notes"]).splitlines()
    said = [number for number, note in enumerate(notes) if note.endswith(tuple(_NEVER_SERVED.values()))]
    if said:
        kept = [note for note in notes if not note.endswith(tuple(_NEVER_SERVED.values()))]
        counts = {str(name): array.values for name, array in cube.data_vars.items()}
        cube.attrs["notes"] = "\n".join([*kept[: said[0]], *_never_served(counts), *kept[said[0] :]])


def _bucketed(counts: NDArray[Any], low: int, units_per_s: int) -> tuple[NDArray[Any], Buckets]:
    """Return a histogram that begins at bucket `low` with the bucket of exact zeros before it, and its buckets."""
    here = np.arange(low, low + counts.shape[-1])
    if low > 0:
        counts = np.concatenate([np.zeros((*counts.shape[:-1], 1), counts.dtype), counts], axis=-1)
        here = np.concatenate([[0], here])
    edges = bucket_edges() / units_per_s
    buckets = Buckets(bucket_middles()[here] / units_per_s, edges[:-1][here], edges[1:][here])
    buckets.upper_s[0] = 0.0
    return counts, buckets


def coordinate_of(axis: Axis, sweep: Sweep) -> Coordinate:
    """Return an axis as the cube labels it."""
    units = "1" if axis.labelled else setting_paths()[axis.paths[0]][0]
    if axis.paths[0].startswith("workload.lengths.") and not axis.labelled and units == "1":
        name = axis.paths[0].rpartition(".")[2]
        in_seconds = all(point.workload.in_seconds for point in sweep.grid.points)
        if name in ("mean", "low", "high", "value"):
            units = "s" if in_seconds else "token"
    return Coordinate(axis.name, list(axis.labels), ",".join(axis.paths), units, axis.long_name)
