"""Run a planned sweep on all cores, keep what is finished, and build the cube."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event, Lock
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from batchcube.engine import Shape, simulate_many
from batchcube.engine.histogram import bucket_edges, bucket_middles
from batchcube.engine.report import OVERLOAD_TEST
from batchcube.engine.ticks import TICKS_PER_S
from batchcube.results.cube import Axis as CubeAxis
from batchcube.results.cube import Buckets, build_cube, extend_cube, parse_specification, read_cube, write_cube
from batchcube.results.provenance import batchcube_version, provenance
from batchcube.results.variables import REGISTRY

from .drawing import Draws
from .errors import UserError
from .expected import Expected
from .grid import Axis, setting_paths
from .planning import Plan, deal, make_plan, theory_of
from .progress import Progress, Silent
from .specification import Sweep, identity_of

Report = dict[str, NDArray[Any]]
"""Variables of one replication or of some of its points, leading axis point."""

JOBS_AT_ONCE = 16
SECONDS_BETWEEN_SAVES = 20.0
# Arrays of varying length: cut to the part that is used, which begins at an index that is kept beside it.
_CUT = ("latency_histogram", "batch_size_histogram")


class Size(NamedTuple):
    """How large a sweep is."""

    points: int
    requests: int
    cube_bytes: int
    peak_bytes: int


class Stopped(Exception):  # noqa: N818 - a signal between threads, never seen outside
    """Leave a task because the run was stopped."""


def estimate(sweep: Sweep) -> Size:
    """Return how large a sweep is; reads its files and raises UserError like a run."""
    plan = make_plan(sweep)
    points, replications = len(plan.points), sweep.replications
    windows = plan.points[0].point.report.windows
    # A latency histogram spans some ten doublings of 64 buckets.
    histogram = 640 * 4 if plan.points[0].point.report.histograms else 0
    largest = max(p.setup.policy.batch_size for p in plan.points)
    values = 60 + 6 * plan.bins + 10 * windows + min(largest, 1000)
    cube_bytes = points * replications * (8 * values + histogram)
    draws = 60 * max(p.requests for p in plan.points) * (os.cpu_count() or 1)
    return Size(points, plan.requests * replications, cube_bytes, 2 * cube_bytes + draws + 200_000_000)


def run_sweep(
    sweep: Sweep,
    *,
    output: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    backend: str = "numba",
) -> xr.Dataset:
    """Run a sweep and return its cube; see `Sweep.run`."""
    target = None if output is None else Path(output)
    old = None
    if target is not None:
        _require_writable(target)
        if target.exists() and not overwrite:
            old = _same_sweep(target, sweep)
            if old is not None and old.sizes["replication"] >= sweep.replications:
                return old
    plan = make_plan(sweep)
    if old is not None and old.attrs.get("input_sha256", "") != plan.input_sha256:
        raise UserError(f"{target}: was made from a file that has changed since; choose another output, or --overwrite")
    first = 0 if old is None else old.sizes["replication"]
    store = None if target is None else _Store(target, sweep, plan.input_sha256, overwrite=overwrite)
    finished = {} if store is None else store.load(range(first, sweep.replications))
    missing = [r for r in range(first, sweep.replications) if r not in finished]
    # Importing scipy for the theory takes longer than many a run: it goes on beside the simulation.
    with ThreadPoolExecutor(1) as aside:
        theory = aside.submit(theory_of, plan)
        _Run(plan, finished, store, progress or Silent(), backend).work(missing, workers or os.cpu_count() or 1)
        reports = [finished.pop(r) for r in range(first, sweep.replications)]
        cube = _cube(plan, reports, theory.result(), first, backend)
    if old is not None:
        cube = extend_cube(old, cube)
    if target is not None and store is not None:
        write_cube(cube, target)
        store.remove()
    return cube


# The output, before anything is simulated ---------------------------------------------------------------------------


def _require_writable(target: Path) -> None:
    """Refuse an output that cannot be written now, instead of after hours."""
    if target.is_dir():
        raise UserError(f"{target}: is a folder, must be a file name")
    folder = target.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{target}: the folder {folder} cannot be made: {error.strerror}") from None
    probe = folder / f".{target.name}.{os.getpid()}.probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}") from None


def _same_sweep(target: Path, sweep: Sweep) -> xr.Dataset:
    """Return the cube that is there already; raises UserError unless it is one of the same sweep."""
    advice = "choose another output, or --overwrite"
    try:
        cube = read_cube(target)
    except ValueError as error:
        raise UserError(f"{error}; {advice}") from None
    kept = parse_specification(str(cube.attrs["specification"]))
    if identity_of(kept) != sweep.identity():
        differing = sorted(
            key for key in {*kept, *sweep.document} - {"replications"} if kept.get(key) != sweep.document.get(key)
        )
        raise UserError(f"{target}: holds another sweep ({', '.join(differing)} differ); {advice}")
    version = cube.attrs["batchcube_version"]
    if version != batchcube_version():
        raise UserError(f"{target}: was made by version {version}; {advice}")
    return cube


_SAME_RUN = ("sweep", "version", "input_sha256")


class _Store:
    """Finished replications of a run that has not finished, in a folder beside its output."""

    def __init__(self, target: Path, sweep: Sweep, input_sha256: str, *, overwrite: bool) -> None:
        self.folder = target.with_name(f"{target.name}.partial")
        self.identity = {
            "sweep": sweep.identity(),
            "version": batchcube_version(),
            "input_sha256": input_sha256,
            "specification": sweep.document,
        }
        self._about = self.folder / "sweep.json"
        if self.folder.exists():
            if overwrite:
                shutil.rmtree(self.folder)
            elif self._read_about() != tuple(self.identity[key] for key in _SAME_RUN):
                raise UserError(
                    f"{self.folder}: holds a stopped run of another sweep, version or trace file; remove it, "
                    "or --overwrite"
                )

    def _read_about(self) -> tuple[Any, ...] | None:
        try:
            about = json.loads(self._about.read_text(encoding="utf-8"))
            return tuple(about[key] for key in _SAME_RUN)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def load(self, wanted: range) -> dict[int, Report]:
        """Return the finished replications among those wanted."""
        found: dict[int, Report] = {}
        for file in sorted(self.folder.glob("*.npz")) if self.folder.is_dir() else []:
            try:
                with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                    for key in arrays.files:
                        replication, _, name = key.partition("/")
                        if int(replication) in wanted:
                            found.setdefault(int(replication), {})[name] = arrays[key]
            except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
                raise UserError(f"{file}: is damaged ({error}); remove {self.folder}, or --overwrite") from None
        return found

    def save(self, finished: dict[int, Report]) -> None:
        """Write replications to one file of their own, complete or not at all."""
        if not finished:
            return
        self.folder.mkdir(exist_ok=True)
        if not self._about.exists():
            part = self.folder / "sweep.json.part"
            part.write_text(json.dumps(self.identity), encoding="utf-8")
            part.replace(self._about)
        arrays = {f"{number}/{name}": array for number, report in finished.items() for name, array in report.items()}
        digest = hashlib.sha256(repr(sorted(finished)).encode()).hexdigest()[:8]
        file = self.folder / f"{min(finished):07d}-{digest}.npz"
        part = file.with_suffix(".part")
        with part.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
        part.replace(file)

    def remove(self) -> None:
        """Remove the folder: the cube holds it all."""
        if self.folder.exists():
            shutil.rmtree(self.folder)


# Running ------------------------------------------------------------------------------------------------------------


class _Run:
    """Deals replications and blocks of points out to threads and collects their reports."""

    def __init__(
        self, plan: Plan, finished: dict[int, Report], store: _Store | None, progress: Progress, backend: str
    ) -> None:
        self.plan, self.finished, self.store, self.progress, self.backend = plan, finished, store, progress, backend
        self.unsaved: dict[int, Report] = {}
        self._stop = Event()
        self._count_lock = Lock()
        self._simulated = 0
        # Points that share bins and arrivals follow each other, so that what was drawn is used while it is kept.
        keys = [(p.keys.trace, p.keys.bins, p.keys.arrivals) for p in plan.points]
        self.order = sorted(range(len(plan.points)), key=lambda k: keys[k])

    def work(self, replications: Sequence[int], workers: int) -> None:
        """Run the replications; on Ctrl-C keep the finished ones and raise KeyboardInterrupt."""
        self.progress.start(len(self.plan.points), len(replications), self.plan.requests * len(replications))
        # Few replications: several threads share one, and what it draws.
        blocks = list(deal(len(self.order), -(-4 * workers // max(len(replications), 1))))
        tasks = (
            (r, draws, block) for r in replications for draws in [Draws(self.plan.sweep.seed, r)] for block in blocks
        )
        parts: dict[int, list[tuple[range, Report]]] = {}
        running: dict[Future[Report], tuple[int, range]] = {}
        saved = time.monotonic()
        with ThreadPoolExecutor(workers, thread_name_prefix="batchcube") as pool:
            try:
                while True:
                    while len(running) < 2 * workers and (task := next(tasks, None)) is not None:
                        replication, draws, block = task
                        running[pool.submit(self._block, draws, block)] = (replication, block)
                    if not running:
                        break
                    done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                    for future in done:
                        replication, block = running.pop(future)
                        mine = parts.setdefault(replication, [])
                        mine.append((block, future.result()))
                        if len(mine) == len(blocks):
                            self._finish(replication, parts.pop(replication))
                    self._tell()
                    if self.store is not None and time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                        self._save()
                        saved = time.monotonic()
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                self._save()
                raise

    def _tell(self) -> None:
        with self._count_lock:
            simulated, self._simulated = self._simulated, 0
        if simulated:
            self.progress.advance(simulated)

    def _save(self) -> None:
        if self.store is not None:
            self.store.save(self.unsaved)
            self.unsaved = {}

    def _finish(self, replication: int, parts: list[tuple[range, Report]]) -> None:
        parts.sort(key=lambda part: part[0].start)
        report = _stack([part for _, part in parts])
        # Back from the order of running to the order of the grid.
        back = np.empty(len(self.order), np.int64)
        back[self.order] = np.arange(len(self.order))
        self.finished[replication] = {
            name: array if name.endswith("/from") else array[back] for name, array in report.items()
        }
        self.unsaved[replication] = self.finished[replication]
        self.progress.finish_replications(1)

    def _block(self, draws: Draws, block: range) -> Report:
        """Simulate a block of points on one replication; runs in a thread of the pool."""
        reports = []
        with np.errstate(all="ignore"):
            for start in range(block.start, block.stop, JOBS_AT_ONCE):
                if self._stop.is_set():
                    raise Stopped
                plans = [self.plan.points[k] for k in self.order[start : min(start + JOBS_AT_ONCE, block.stop)]]
                largest = max(plan.setup.policy.batch_size for plan in plans)
                shape = Shape(self.plan.bins, largest, plans[0].setup.reporting.windows)
                report = simulate_many([draws.job(plan) for plan in plans], shape, self.backend)
                reports.append(_kept(report, self.plan))
                with self._count_lock:
                    self._simulated += sum(plan.requests for plan in plans)
        return _stack(reports)


def _kept(report: Report, plan: Plan) -> Report:
    """Return what of a block's report goes into the cube, in the cube's units, cut to what is used."""
    report = dict(report)
    if not plan.points[0].point.report.histograms:
        del report["latency_histogram"]
    for name in _CUT:
        if name in report:
            used = np.flatnonzero(report[name].any(axis=0))
            low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
            dtype = REGISTRY[name].dtype
            report[name] = np.ascontiguousarray(report[name][:, low:high].astype(dtype))
            report[f"{name}/from"] = np.array(low, np.int64)
    return report


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


def _cube(plan: Plan, reports: list[Report], theory: Sequence[Expected], first: int, backend: str) -> xr.Dataset:
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
    buckets = None
    if "latency_histogram" in arrays:
        low, size = offsets["latency_histogram"], arrays["latency_histogram"].shape[-1]
        if low > 0:  # the bucket of exact zeros always exists
            pad = np.zeros((*arrays["latency_histogram"].shape[:-1], 1), np.uint32)
            arrays["latency_histogram"] = np.concatenate([pad, arrays["latency_histogram"]], axis=-1)
        here = np.arange(low, low + size) if low == 0 else np.concatenate([[0], np.arange(low, low + size)])
        edges = bucket_edges() / TICKS_PER_S
        buckets = Buckets(bucket_middles()[here] / TICKS_PER_S, edges[:-1][here], edges[1:][here])
        buckets.upper_s[0] = 0.0
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
    for k, name in enumerate(("throughput_requests_per_s", "throughput_limit_requests_per_s", "latency_s")):
        values = np.array([said[k] for said in theory], np.float64)
        arrays[f"theory_{name}"] = values.reshape(shape)
    notes = list(plan.notes)
    if np.nanmax(arrays["extrapolated_batch_fraction"], initial=0.0) > 0:
        notes.append("some batches lie outside the measured table; their times follow the fitted law")
    if arrays["overloaded"].any():
        notes.append("some points are overloaded (variable overloaded): their latencies are no steady-state figures")
    seconds = {plan.length == "seconds" for plan in plan.points}
    if len(seconds) > 1:
        notes.append("lengths are tokens at some points and seconds at others")
    attrs = provenance(
        title=sweep.title,
        specification=sweep.text(),
        seed=sweep.seed,
        replications=count,
        backend=backend,
        overload_test=OVERLOAD_TEST,
        input_sha256=plan.input_sha256,
        trace_rows_dropped=plan.rows_dropped,
        notes=notes,
    )
    return build_cube(
        [cube_axis(axis, sweep) for axis in sweep.grid.axes],
        arrays,
        replications=count,
        attrs={**attrs, "description": sweep.description},
        first_replication=first,
        buckets=buckets,
        length_units="s" if seconds == {True} else "tokens",
    )


def cube_axis(axis: Axis, sweep: Sweep) -> CubeAxis:
    """Return an axis as the cube labels it."""
    units = "1" if axis.labelled else setting_paths()[axis.paths[0]][0]
    if axis.paths[0].startswith("workload.lengths.") and not axis.labelled and units == "1":
        name = axis.paths[0].rpartition(".")[2]
        in_seconds = all(point.workload.in_seconds for point in sweep.grid.points)
        if name in ("mean", "low", "high", "value"):
            units = "s" if in_seconds else "token"
    return CubeAxis(axis.name, list(axis.labels), ",".join(axis.paths), units, axis.long_name)
