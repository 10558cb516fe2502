"""Search the capacity: the largest arrival rate at which criteria on latency hold in the mean over the replications.

Every rate meets the same requests and the same unit arrivals, stretched (common random numbers). Each replication has
its part in the answer, by a jackknife: the mean of these parts is the capacity, and they scatter as it does. Policies
are compared in pairs by them, and the mean has an interval like any other variable.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from batchcube.engine.statistics import QUANTILES
from batchcube.errors import InputError, one_of
from batchcube.results.disk import cube_file
from batchcube.results.provenance import MadeBy, batchcube_version
from batchcube.results.text import counted
from batchcube.results.variables import RATE_PATHS

from ..progress import Progress
from ..spec.document import Sweep, overriding
from ..spec.settings import Point
from ..stopping import Stop
from ..workloads.arrivals import AtRate
from .bisection import FASTEST, SLOWEST
from .criteria import Criterion, never_measured, parse_criterion
from .executors import Executor
from .outputs import ADVICE, same_sweep
from .preparing import only_totals, prepare, refusal
from .rounds import NOBODY, do_all, do_shard, mark_complete, merge_shards
from .searching import Searches, SearchSettings
from .shards import Asked, Shard, Shards
from .simulate import require_backend
from .store import About, AnyPart, Store

if TYPE_CHECKING:
    import xarray as xr

GROWTH = 0.0
"""Share of the arrivals that the servers need not keep up with."""
TOLERANCE = 0.005


def without_rates(sweep: Sweep) -> tuple[Sweep, str]:
    """Return a sweep without the axis of arrival rates that it may have, whose first is where the search starts.

    Beside it, what is said of that; "" where there is no such axis.
    """
    for axis in sweep.grid.axes:
        if not axis.labelled and set(axis.paths) & set(RATE_PATHS):
            (path,), first = axis.paths, axis.labels[0]
            axes = {name: table for name, table in sweep.document["axes"].items() if name != axis.name}
            without = {**sweep.document, "axes": axes}
            found = Sweep.from_document(without, sweep.source, Path.cwd(), overriding({path: first}))
            return found, f"axes.{axis.name} is left out, as the rate is what is searched, from {path} = {first:g} on"
    return sweep, ""


def find_capacity(
    sweep: Sweep,
    criteria: Iterable[Criterion | str],
    low: float | None = None,
    high: float | None = None,
    *,
    tolerance: float = TOLERANCE,
    growth: float = GROWTH,
    output: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
    backend: str = "numba",
    executor: Executor | None = None,
) -> "xr.Dataset":
    """Search the capacity of every point and replication of a sweep and return the cube.

    The capacity is the largest arrival rate, in requests per second, at which every criterion holds in the mean
    over the replications (a `Criterion`, or text as for `parse_criterion`; the mean of the statistic is held
    against the limit) and which exceeds what the servers can do by at most the share `growth` of the arrivals, 1
    for any. It is the middle between a rate that holds (`capacity_held_requests_per_s`) and one that fails, apart
    by the relative `tolerance` at most, between `low` and `high` or, without them, from the rate of the
    specification by at most 20 doublings or halvings; its attribute `relative_error` widens intervals. For a
    recorded trace it is the scale times the mean rate of the trace. The cube does not depend on the number of
    `workers`, nor on the `backend` or the `executor`, which are those of `run_sweep`. Without an answer the
    capacity is NaN, and `capacity_unbracketed` and the notes say why.
    With `output` the cube is also written there, a search that was stopped continues where it was, and a cube of
    the same search is returned as it is, unless `overwrite` begins afresh.
    Raises InputError for a sweep with an axis over the rate or arrivals that do not scale with one, and for criteria
    that it does not measure.
    """
    settings = settings_of(sweep, criteria, low, high, tolerance, growth)
    made_by = require_backend(backend, sweep.grid.points[0].simulation)
    target = None if output is None else cube_file(Path(output))
    return do_all(
        target,
        lambda: SearchCourse(sweep, settings, target, made_by, overwrite=overwrite),
        workers=workers,
        progress=progress,
        executor=executor,
    )


def shard_capacity(
    sweep: Sweep,
    asked: Mapping[str, Any],
    output: str | os.PathLike[str],
    shard: Shard,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    backend: str = "numba",
    executor: Executor | None = None,
    again: str = "",
) -> str:
    """Try what a shard is dealt of the rates that are next, for `merge_capacity`; see `do_shard`.

    The search is what `find_capacity` is `asked`.
    """
    settings = settings_of(sweep, **asked)
    made_by = require_backend(backend, sweep.grid.points[0].simulation)
    target = cube_file(Path(output))
    course = SearchCourse(sweep, settings, target, made_by)
    return do_shard(course, target, shard, workers=workers, progress=progress, executor=executor, again=again)


def merge_capacity(output: str | os.PathLike[str], *, progress: Progress | None = None) -> "xr.Dataset":
    """Write the cube that `find_capacity` would have written, of the shards of all rounds; see `merge_shards`."""

    def course_of(about: About, sweep: Sweep, target: Path) -> SearchCourse:
        criteria, *rest = json.loads(about["search"])
        settings = SearchSettings(tuple(Criterion(*one) for one in criteria), *rest)
        return SearchCourse(sweep, settings, target, NOBODY)

    return merge_shards(output, course_of, progress=progress)


class SearchCourse:
    """The way of a search to its cube: each rate of all points is a round, as it depends on all that is known before.

    However a round is done, by the search itself or in shards, the cube is the same.
    """

    def __init__(
        self, sweep: Sweep, settings: SearchSettings, target: Path | None, made_by: MadeBy, *, overwrite: bool = False
    ) -> None:
        """Find out what is there; raises InputError where that is something else."""
        self.sweep, self.settings, self.made_by, self._overwrite = sweep, settings, made_by, overwrite
        self.complete: xr.Dataset | None = None
        """The cube that is there already."""
        if target is not None and target.exists() and not overwrite:
            self.complete = _same_search(target, sweep, settings)
        self.kept: Sequence[AnyPart] = ()

    @property
    def identity(self) -> dict[str, str]:
        """What makes the answers of a search: with all of it the same, they are the same."""
        cube = self.complete
        return {
            "search": json.dumps(self.settings),
            "replications": str(self.sweep.replications),
            "sweep": self.sweep.identity(),
            "version": batchcube_version(),
            "input_sha256": self._prepared.input_sha256 if cube is None else str(cube.attrs.get("input_sha256", "")),
        }

    @property
    def round(self) -> int:
        """Number of the rates that are next, from 1."""
        return self._searches.round

    def asked(self, again: str) -> Asked:
        """Return what shards are parts of."""
        return Asked(self.identity, "capacity", {}, (self.sweep.document, self.sweep.defaults()), again)

    def prepare(self, workers: int, shards: int = 1) -> None:
        """Draw and read what all replications share; raises InputError for what only data can show."""
        self._prepared = prepare(only_totals(self.sweep))

    def open(self, store: Store) -> None:
        """Go on from what a store keeps; raises InputError for parts of anything else."""
        every = range(self.sweep.replications)
        held = () if self.complete is None else every
        self.kept = store.open(self.identity, self.made_by, every, held=held, overwrite=self._overwrite)

    def rounds(self, progress: Progress) -> Iterator[Searches]:
        """Yield the searches at one rate after the other; whoever asks for the next ones has tried these."""
        self._searches = Searches(self._prepared, self.settings, self.made_by.backend)
        self._searches.add(self.kept)
        self._searches.go_on()
        while self._searches.left:
            yield self._searches
            self._searches.go_on()
            if left := len(self._searches.left):
                rates = counted(self.round - 1, "rate")
                progress.say(f"after {rates} {self._searches.points - left} of {self._searches.points} points are done")

    def beside(self) -> None:
        """Import what builds the cube."""
        import_module(".capacity_cube", __package__)

    def finish(self, makers: Sequence[MadeBy], store: Store | None, stop: Stop) -> "xr.Dataset":
        """Return the cube of all answers; where there is a store, write it, and forget the parts it is made of."""
        from .capacity_cube import capacity_cube

        cube = capacity_cube(self.sweep, self._searches, makers)
        if store is not None:
            store.put(cube)
            mark_complete(store, stop, range(cube.sizes["replication"]))
        return cube

    def settle(self, shards: Shards, cube: "xr.Dataset") -> str:
        """Remove the shards of this search; see `Shards.settle`."""
        return shards.settle(self.asked(""))


def settings_of(
    sweep: Sweep,
    criteria: Iterable[Criterion | str],
    low: float | None,
    high: float | None,
    tolerance: float,
    growth: float,
) -> SearchSettings:
    """Return how a sweep is searched; raises InputError for what cannot be."""
    wanted = tuple(parse_criterion(text) if isinstance(text, str) else text for text in criteria)
    if not wanted:
        raise InputError("at least one limit is needed, for instance tbt_mean_ms=50", path="`slo`")
    _require_range(low, high, tolerance, growth)
    _require_searchable(sweep, wanted)
    return SearchSettings(wanted, low, high, tolerance, growth)


def _same_search(target: Path, sweep: Sweep, settings: SearchSettings) -> "xr.Dataset":
    """Return the cube that is there already; raises InputError unless the same search made it."""
    cube = same_sweep(target, sweep, capacities=True)
    same = asked_of(cube) == {**settings._asdict(), "criteria": list(settings.criteria)}
    if not same or cube.sizes["replication"] != sweep.replications:
        raise InputError(f"holds another search; {ADVICE}", file=target)
    return cube


def asked_of(cube: "xr.Dataset") -> dict[str, Any]:
    """Return the arguments of `find_capacity` that made a cube, beside its sweep; InputError for others."""
    about = cube.attrs
    given = bool(about["capacity_range_given"])
    criteria = [Criterion(**criterion) for criterion in json.loads(str(about["capacity_criteria"]))]
    for quantile in (criterion.quantile for criterion in criteria):
        if quantile not in (None, *QUANTILES):
            raise InputError(
                f"must be one of {one_of(map(str, QUANTILES))}", path="capacity_criteria: quantile", value=quantile
            )
    return {
        "criteria": criteria,
        "low": float(about["capacity_low_per_s"]) if given else None,
        "high": float(about["capacity_high_per_s"]) if given else None,
        "tolerance": float(about["capacity_tolerance"]),
        "growth": float(about["capacity_growth"]),
    }


def _require_searchable(sweep: Sweep, criteria: Sequence[Criterion]) -> None:
    """Refuse a sweep whose rate cannot be searched, or in which a criterion is never measured."""
    for axis in sweep.grid.axes:
        for path in RATE_PATHS:
            if path in axis.paths:
                raise InputError(
                    f"sets {path}, which the search for the capacity sets itself; remove it from the axis",
                    file=sweep.source,
                    path=f"axes.{axis.name}",
                )
    for position, point in zip(np.ndindex(sweep.grid.shape), sweep.grid.points, strict=True):
        problem = _problem(point, criteria)
        if problem:
            raise refusal(sweep, InputError(problem), position)


def _problem(point: Point, criteria: Sequence[Criterion]) -> str | None:
    """Say why a point has no capacity that could be searched, None where it has."""
    arrivals = point.workload.arrivals
    if point.workload.sessions is not None:
        return "workload.sessions: their rate is of sessions, and what is searched is one of requests; remove them"
    if arrivals is not None and not isinstance(arrivals, AtRate):
        return (
            f'workload.arrivals.process = "{arrivals.process}": its arrivals do not stretch with one rate, which is '
            "what is searched; use poisson, deterministic or gamma, or a recorded trace"
        )
    return next(filter(None, (never_measured(criterion, point) for criterion in criteria)), None)


def _require_range(low: float | None, high: float | None, tolerance: float, growth: float) -> None:
    if (low is None) != (high is None):
        raise InputError("give both, or neither to start from the rate of the specification", path="`low` and `high`")
    if low is not None and high is not None and not SLOWEST <= low < high <= FASTEST:
        allowed = f"must be rates from {SLOWEST:g} to {FASTEST:g}, low < high"
        raise InputError(allowed, path=f"`low` {low:g} `high` {high:g}")
    if not 0.0 <= growth <= 1.0:
        raise InputError("must be from 0 to 1, a share of the arrivals", path="`growth`", value=f"{growth:g}")
    if not 0.0 < tolerance < 1.0:
        raise InputError("must be > 0 and < 1", path="`tolerance`", value=f"{tolerance:g}")
