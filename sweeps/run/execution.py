"""Run a planned sweep on all cores, keep what is finished, and build the cube."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from batchcube.errors import InputError, printable
from batchcube.results.disk import MOST_TOGETHER, cube_file
from batchcube.results.precision import Precision, record, record_more
from batchcube.results.provenance import MadeBy, batchcube_version
from batchcube.results.variables import REPLICATION

from ..progress import Progress
from ..spec.document import Sweep
from ..stopping import Stop
from .executors import Executor
from .narrowing import Narrowing
from .outputs import ADVICE, same_sweep
from .preparing import Prepared, prepare, theory_of
from .replicating import Replications
from .reports import Reports
from .rounds import NOBODY, do_all, do_shard, mark_complete, merge_shards
from .shards import Asked, MissingShardsError, Shard, Shards, command_of, which_are
from .simulate import require_backend
from .store import About, AnyPart, Store

if TYPE_CHECKING:
    import xarray as xr


class Size(NamedTuple):
    """How large a sweep is."""

    points: int
    requests: int
    cube_bytes: int
    peak_bytes: int


def estimate(sweep: Sweep, done: Callable[[], None] = lambda: None) -> Size:
    """Return how large a sweep on all cores is, with an output; raises InputError like a run. See `prepare`."""
    return _size(prepare(sweep, done), sweep.replications, os.cpu_count() or 1, kept=True)


def _size(prepared: Prepared, replications: int, workers: int, *, kept: bool) -> Size:
    points = len(prepared.points)
    windows = prepared.points[0].point.report.windows
    # A histogram spans some ten doublings of 64 buckets; that of the gaps between tokens has numbers of 8 bytes.
    histogram = 640 * (12 if prepared.simulation.STEPWISE else 4) if prepared.points[0].point.report.histograms else 0
    largest = max(p.setup.largest_batch for p in prepared.points)
    values = 60 + 6 * prepared.bins + 10 * windows + min(largest, 1000)
    each_bytes = points * (8 * values + histogram)
    # What follows was measured: reports are copied while the cube is built, each is some hundred arrays. Where an
    # output keeps them, what is more than some of them is read from there, piece by piece.
    held = 3.3 * each_bytes * replications + 24_000 * replications
    if kept:
        held = min(held, 4 * MOST_TOGETHER + 6 * each_bytes + 100 * points * replications)
    each = 350 if prepared.simulation.STEPWISE else 95
    drawn = each * max(point.requests for point in prepared.points) * min(workers, replications)
    return Size(points, prepared.requests * replications, each_bytes * replications, round(held + drawn) + 300_000_000)


def _require_memory(prepared: Prepared, replications: int, workers: int, *, kept: bool) -> None:
    """Refuse what this machine cannot hold, instead of after hours."""
    needed, there = _size(prepared, replications, workers, kept=kept).peak_bytes, memory_bytes()
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
) -> "xr.Dataset":
    """Simulate every point and replication and return the cube; with ``output``, also write it there.

    Runs on ``workers`` threads, all cores when None; the cube does not depend on how many. With ``output``, a run that
    was stopped continues where it was, and a cube of the same sweep with fewer replications is extended, unless
    ``overwrite`` begins afresh. ``backend`` is "numba" (on the cores of a CPU), "jax" (on GPUs) or "reference" (plain
    Python, slow: the specification); the numbers are the same with each, and one may continue or extend what another
    began. Mode continuous has no "jax". With ``executor``, one of `concurrent.futures`, what is like one or a client of
    Dask, the tasks run there instead of on threads, ``workers`` at a time, as many as it has when None. With
    ``precision``, replications are added in looks until the intervals wanted are narrow enough at all points; those of
    the sweep are then what the first look is at.
    Raises InputError for a backend that is not there, and for what only the data can show (a missing file, a request no
    batch can hold).
    """
    made_by = require_backend(backend, sweep.grid.points[0].simulation)
    target = None if output is None else cube_file(Path(output))
    return do_all(
        target,
        lambda: RunCourse(sweep, target, precision, made_by, overwrite=overwrite),
        workers=workers,
        progress=progress,
        executor=executor,
    )


def run_shard(
    sweep: Sweep,
    output: str | os.PathLike[str],
    shard: Shard,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    backend: str = "numba",
    executor: Executor | None = None,
    precision: Precision | None = None,
    again: str = "",
) -> str:
    """Simulate what a shard is dealt of `run_sweep` of the same arguments, for `merge_run`; see `do_shard`.

    With ``precision`` it is dealt of one look, the first that is not merged.
    """
    made_by = require_backend(backend, sweep.grid.points[0].simulation)
    target = cube_file(Path(output))
    course = RunCourse(sweep, target, precision, made_by)
    return do_shard(course, target, shard, workers=workers, progress=progress, executor=executor, again=again)


def merge_run(
    output: str | os.PathLike[str], *, progress: Progress | None = None, allow_missing: bool = False
) -> "xr.Dataset":
    """Write the cube that `run_sweep` would have written, of the shards that are there, and return it.

    With ``allow_missing`` it holds the replications that are complete at all points; what is there of others is kept
    for the next run or merge. See `merge_shards`.
    """

    def course_of(about: About, sweep: Sweep, target: Path) -> RunCourse:
        texts, most = (about["asked"][name] for name in ("precision", "most"))
        precision = None if texts is None else Precision(tuple(texts), most)
        return RunCourse(sweep, target, precision, NOBODY, merges=(about["again"], about["asked"]["shards"]))

    return merge_shards(output, course_of, progress=progress, allow_missing=allow_missing)


class RunCourse:
    """The way of a run from what its output holds to what it is to hold, in as many rounds as it has looks.

    However a round is done, by the run itself or in shards, the cube is the same.
    """

    def __init__(
        self,
        sweep: Sweep,
        target: Path | None,
        precision: Precision | None,
        made_by: MadeBy,
        *,
        overwrite: bool = False,
        merges: tuple[str, int] | None = None,
    ) -> None:
        """Find out what is there; raises InputError where that is something else, and for senseless precisions.

        What `merges` shards knows their command line, and how many there are in all.
        """
        self.target, self.precision, self.made_by, self._overwrite = target, precision, made_by, overwrite
        self._merges = merges
        self.held: xr.Dataset | None = None
        """The cube that is there already."""
        if target is not None and target.exists() and not overwrite:
            from batchcube.results.provenance import parse_made_from

            self.held = same_sweep(target, sweep)
            # Worded as it is there, where a file states defaults or leaves them out.
            sweep = sweep.worded(parse_made_from(self.held)[0])
        self.sweep = sweep
        self.numbers_held: frozenset[int] = frozenset()
        if self.held is not None:
            self.numbers_held = frozenset(self.held[REPLICATION].values.tolist())
        self.narrowing = None if precision is None else Narrowing(sweep, precision, self.held)
        first = max(self.numbers_held, default=-1) + 1
        if precision is not None and first > len(self.numbers_held):
            raise InputError("lacks replications, which a run without a precision adds first", file=target)
        self._looks = [max(first, sweep.replications)] if self.narrowing is None else self.narrowing.counts
        self.kept: Sequence[AnyPart] = ()
        """What was finished before."""
        self.round = 0
        """Number of the look that is at work, from 1."""
        self.reports = Reports()
        """Complete replications that no cube holds."""

    @property
    def wanted(self) -> list[int]:
        """Replications that no cube holds, as many as there may be."""
        return [number for number in range(self._looks[-1]) if number not in self.numbers_held]

    @property
    def complete(self) -> "xr.Dataset | None":
        """The cube that is there already, where there is nothing to do."""
        return None if self.narrowing is not None or self.wanted else self.held

    @property
    def identity(self) -> dict[str, str]:
        """What makes the replications: with all of it the same, they are the same."""
        cube = self.complete
        input_sha256 = self.prepared.input_sha256 if cube is None else str(cube.attrs.get("input_sha256", ""))
        return {"run": self.sweep.identity(), "version": batchcube_version(), "input_sha256": input_sha256}

    def asked(self, again: str) -> Asked:
        """Return what shards are parts of."""
        settings = {
            "replications": self.sweep.replications,
            "held": len(self.numbers_held),
            "precision": None if self.precision is None else list(self.precision.texts),
            "most": None if self.precision is None else self.precision.most,
        }
        return Asked(self.identity, "run", settings, (self.sweep.document, self.sweep.defaults()), again)

    def open(self, store: Store) -> None:
        """Go on from what a store keeps; raises InputError for parts of anything else."""
        held, overwrite = self.numbers_held, self._overwrite
        self.kept = store.open(self.identity, self.made_by, self.wanted, held=held, overwrite=overwrite)

    def prepare(self, workers: int, shards: int = 1) -> None:
        """Draw and read what all replications share; raises InputError as a run does for what only data can show."""
        self.prepared = prepare(self.sweep)
        if self.narrowing is not None:
            self.narrowing.limit(self.prepared.most_replications)
            self._looks = self.narrowing.counts
        self._workers = workers
        _require_memory(self.prepared, -(-self._looks[0] // shards), workers, kept=self.target is not None)
        if self.held is not None and self.held.attrs.get("input_sha256", "") != self.prepared.input_sha256:
            changed = "was made from a file, or with a policy, that has changed since"
            raise InputError(f"{changed}; {ADVICE}", file=self.target)

    def rounds(self, progress: Progress) -> Iterator[Replications]:
        """Yield the work of one look after the other; whoever asks for the next one has done it."""
        for number, look in enumerate(self._looks, 1):
            kept = self.target is not None
            if self.reports and _size(self.prepared, look, self._workers, kept=kept).peak_bytes > memory_bytes():
                break
            left = [r for r in range(look) if r not in self.numbers_held and r not in self.reports]
            work = Replications(self.prepared, self.made_by.backend, left, self.reports)
            mine = frozenset(left)
            work.add(part for part in self.kept if part.replication in mine)
            self.round, self._work = number, work
            if self.narrowing is None or not work.is_complete:
                yield work
            if self.narrowing is not None and self.narrowing.look(look, self.reports, progress):
                break

    def beside(self) -> None:
        """Import what builds the cube (xarray, scipy), and find what theory says about every point."""
        import_module(".assemble", __package__)
        self._theory = theory_of(self.prepared)

    def finish(self, makers: Sequence[MadeBy], store: Store | None, stop: Stop) -> "xr.Dataset":
        """Return the cube of what there is, see `_put`; MissingShardsError where not one replication is complete."""
        if not (self.reports or self.numbers_held):
            raise MissingShardsError("no replication is complete at all points", file=self.target)
        cube = self._cube(makers)
        return cube if store is None else self._put(cube, store, stop)

    def settle(self, shards: Shards, cube: "xr.Dataset") -> str:
        """Remove shards that ask for no more than the cube has; see `Shards.settle`."""
        return shards.settle(self.asked(""), cube.sizes[REPLICATION])

    def _cube(self, makers: Sequence[MadeBy]) -> "xr.Dataset":
        """Build the cube of all replications that are held or complete.

        One that is too large for memory is read from what the store keeps, and says nothing of its queues yet.
        """
        from batchcube.results.cube import fits
        from batchcube.results.joining import extend_cube

        from .assemble import assemble, tell_missing, tell_not_whole

        numbers = sorted(self.reports)
        cube = self.held
        if numbers:
            prepared, count = self.prepared, max(*self.numbers_held, *numbers, -1) + 1
            if self.narrowing is not None or count < self._looks[-1]:
                prepared = prepared._replace(sweep=self.sweep.repeated(count))
            cube = assemble(prepared, self.reports, self._theory, makers)
        assert cube is not None  # a run without an old cube has replications
        if self.held is not None and numbers:
            cube = extend_cube(self.held, cube)
            tell_not_whole(cube, [self.held], self.reports.sums)
        tell_missing(cube, *self._not_merged())
        self._record(cube)
        if self.target is None or fits(cube):
            self._tell_queues(cube)
        return cube

    def _not_merged(self) -> tuple[int, str, str] | tuple[()]:
        """Return how many replications shards were asked for, which ones are not there, and what adds these."""
        if self._merges is None or not (missing := self._work.missing(self._merges[1])):
            return ()
        again, shards = self._merges
        wanted = self._looks[self.round - 1]
        # To a precision a run only adds to what has no gaps.
        command = f"batchcube run -n {wanted} of the same specification"
        if self.precision is None and self.target is not None:
            command = printable(command_of(again, self.target))
        return wanted, which_are(missing, shards, self.round), command

    def _tell_queues(self, cube: "xr.Dataset") -> None:
        from batchcube.results import overload

        overload.tell(cube)
        self._record(cube)  # the last of the notes

    def _record(self, cube: "xr.Dataset") -> None:
        """Have a cube say how its replications were added."""
        if self.narrowing is not None:
            record(cube, self.narrowing.texts, self.narrowing.looked, self.narrowing.missing)
        else:
            record_more(cube)

    def _put(self, cube: "xr.Dataset", store: Store, stop: Stop) -> "xr.Dataset":
        """Write the cube, and forget the parts that are in it; return it, from its file where it is large."""
        from batchcube.results.cube import fits, read_cube

        store.put(cube, None if fits(cube) else self._tell_queues)
        mark_complete(store, stop, frozenset(cube[REPLICATION].values.tolist()))
        # What a large one was made of may be the file that it took the place of.
        return cube if fits(cube) else read_cube(store.output)
