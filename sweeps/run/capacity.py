"""Search the capacity: the largest arrival rate at which criteria on latency hold in the mean over the replications.

Every rate meets the same requests and the same unit arrivals, stretched (common random numbers). Each replication has
its part in the answer, by a jackknife: the mean of these parts is the capacity, and they scatter as it does. Policies
are compared in pairs by them, and the mean has an interval like any other variable.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from batchcube.engine.statistics import QUANTILES
from batchcube.errors import InputError
from batchcube.results.provenance import MadeBy, batchcube_version
from batchcube.results.text import one_of
from batchcube.results.variables import RATE_PATHS

from ..files import require_output
from ..progress import Progress, Silent
from ..spec.document import Sweep, remade
from ..spec.settings import Point
from ..stopping import Stop, stopping
from ..workloads.arrivals import AtRate
from .bisection import FASTEST, SLOWEST
from .criteria import Criterion, never_measured, parse_criterion
from .executors import Executor, engaged
from .outputs import ADVICE, same_sweep
from .preparing import only_totals, prepare, refusal
from .searching import Searches, SearchSettings
from .shards import Asked, Shard, Shards
from .simulate import require_backend
from .store import Store, parts_beside

if TYPE_CHECKING:
    import xarray as xr

GROWTH = 0.0
"""Share of the arrivals that the servers need not keep up with."""
TOLERANCE = 0.005


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
    settings = _settings(sweep, criteria, low, high, tolerance, growth)
    made_by = require_backend(backend, sweep.grid.points[0].simulation)
    with stopping() as stop, ExitStack() as opened:
        target = None if output is None else require_output(Path(output))
        store = None if target is None else opened.enter_context(Store(target))
        if target is not None and store is not None and target.exists() and not overwrite:
            old = _same_search(target, sweep, settings)
            with suppress(InputError):  # parts of another search are none of this one's business
                identity = _identity(sweep, settings, str(old.attrs.get("input_sha256", "")))
                store.open(identity, made_by, (), held=range(sweep.replications))
            return old
        crew = opened.enter_context(engaged(executor, workers))
        prepared = prepare(only_totals(sweep))
        searches = Searches(prepared, settings, backend)
        if store is not None:
            identity = _identity(sweep, settings, prepared.input_sha256)
            searches.add(store.open(identity, made_by, range(sweep.replications), overwrite=overwrite))
        searches.go_on()
        at_once = crew.at_once if crew is not None else workers or os.cpu_count() or 1
        searched = searches.work(store, stop, progress or Silent(), crew, at_once)
        # Not before: importing xarray takes longer than the first rates.
        from .capacity_cube import capacity_cube

        makers = [*(store.makers if store is not None else ()), *([made_by] if searched else ())]
        cube = capacity_cube(sweep, searches, makers)
        if store is not None:
            _put(cube, store, stop)
        return cube


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
    """Look at what a shard is dealt of the rates that are next, for `merge_capacity`; return a sentence on it.

    Every rate of all searches is a round: which is next depends on all that earlier ones showed. The search is what
    `find_capacity` is `asked`; the rest is as for `run_shard`.
    """
    settings = _settings(sweep, **asked)
    made_by = require_backend(backend, sweep.grid.points[0].simulation)
    with stopping() as stop, engaged(executor, workers) as crew:
        target = require_output(Path(output))
        if target.exists():
            _same_search(target, sweep, settings)
            return f"{target} is complete: there is nothing to do"
        prepared = prepare(only_totals(sweep))
        searches = Searches(prepared, settings, backend)
        identity = _identity(sweep, settings, prepared.input_sha256)
        searches.add(parts_beside(target, identity))
        searches.go_on()
        if not searches.left:
            return f"all rounds are there: batchcube merge {output}"
        simulate = partial(
            searches.work,
            stop=stop,
            progress=progress or Silent(),
            crew=crew,
            workers=crew.at_once if crew is not None else workers or os.cpu_count() or 1,
        )
        parts_of = Asked(identity, "capacity", {}, (sweep.document, sweep.defaults()), again)
        return Shards(target).do(shard, searches.round, parts_of, made_by, searches, simulate)


def merge_capacity(output: str | os.PathLike[str]) -> "xr.Dataset":
    """Write the cube that `find_capacity` would have written, of the shards of all rounds, and return it.

    Nothing is simulated. Raises MissingShardsError, or NextRoundError where there are rates to look at yet, with the
    command that does it; InputError for shards of something else and for what only the data can show.
    """
    target = require_output(Path(output))
    shards = Shards(target)
    with stopping() as stop, Store(target) as store:
        about = shards.about()
        criteria, *rest = json.loads(about["search"])
        settings = SearchSettings(tuple(Criterion(*one) for one in criteria), *rest)
        specification, defaults = about["made_from"]
        sweep, _ = remade(specification, defaults, str(shards.folder))
        if target.exists():
            cube = _same_search(target, sweep, settings)
        else:
            prepared = prepare(only_totals(sweep))
            searches = Searches(prepared, settings, "numba")
            identity = _identity(sweep, settings, prepared.input_sha256)
            searches.add(store.open(identity, MadeBy(*about["made_by"][0]), range(sweep.replications)))
            searches.go_on()
            asked = Asked(identity, "capacity", {}, (specification, defaults), about["again"])
            while searches.left:
                shards.merge(searches, searches.round, asked, about["asked"]["shards"], store)
                searches.go_on()
            from .capacity_cube import capacity_cube

            cube = capacity_cube(sweep, searches, store.makers)
            _put(cube, store, stop)
        shards.clear()
        return cube


def _put(cube: "xr.Dataset", store: Store, stop: Stop) -> None:
    """Write the cube, and forget the parts that it is made of."""
    store.put(cube)
    with stop.held():
        stop.kept = f"{store.output} is complete."
        store.forget(range(cube.sizes["replication"]))


def _settings(
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
        raise InputError("at least one criterion is needed, for instance tbt_mean_ms=50", path="--sla")
    _require_range(low, high, tolerance, growth)
    _require_searchable(sweep, wanted)
    return SearchSettings(wanted, low, high, tolerance, growth)


def _identity(sweep: Sweep, settings: SearchSettings, input_sha256: str) -> dict[str, str]:
    """Return what makes the answers of a search: with all of it the same, they are the same."""
    return {
        "search": json.dumps(settings),
        "replications": str(sweep.replications),
        "sweep": sweep.identity(),
        "version": batchcube_version(),
        "input_sha256": input_sha256,
    }


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
        raise InputError("give both, or neither to start from the rate of the specification", path="--low and --high")
    if low is not None and high is not None and not SLOWEST <= low < high <= FASTEST:
        allowed = f"must be rates from {SLOWEST:g} to {FASTEST:g}, low < high"
        raise InputError(allowed, path=f"--low {low:g} --high {high:g}")
    if not 0.0 <= growth <= 1.0:
        raise InputError("must be from 0 to 1, a share of the arrivals", path=f"--growth {growth:g}")
    if not 0.0 < tolerance < 1.0:
        raise InputError("must be > 0 and < 1", path=f"--tolerance {tolerance:g}")
