"""Everything about a sweep that does not depend on the replication: files read, bins cut, setups built."""

import hashlib
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from batchcube.calibration.coefficients import locate as locate_coefficients
from batchcube.engine import Simulation, batches, continuous
from batchcube.engine.policies.registry import require_current
from batchcube.errors import InputError
from batchcube.results.costs import flags_of, warning_of

from ..spec import service as coefficients
from ..spec.document import Sweep
from ..spec.grid import where
from ..spec.known_server import taken
from ..spec.messages import show_value
from ..spec.policies import named_in
from ..spec.settings import CONTROLLED, CoefficientsLaw, Point, caches_prefixes, goes_by_priority
from ..theory.bins import BinnedBatches
from ..theory.expected import Expected, batches_of, expected
from ..workloads.arrivals import AtRate, Closed
from ..workloads.datasets import resolve
from ..workloads.settings import FloatArray
from ..workloads.traces import HASHES, RecordedTrace, TraceSettings, read_trace
from .laws import beyond_tables, unmeasured_costs
from .samples import Sampler, draws_classes, extent_of, sampling, trace_resampling
from .setups import Simulated, batch_setup, step_setup

_UNUSED = {HASHES: " (shared prefixes are computed anew; server.replica.enable_prefix_caching = true finds them)"}
"""What it means that a column of a recorded trace is not used."""
_OF_WINDOWS = (
    "all replications come from one recorded trace, in windows that overlap: intervals say how much the place in it "
    "matters; for other hours of its traffic they are too narrow (2 to 5 times in the traces that were measured): "
    'workload.trace.resample = "parts" gives those of batch means'
)
_OF_PARTS = (
    "replications are successive parts of one recorded trace: intervals are those of batch means, right where parts "
    "are long against what lasts in the trace"
)
_CLOSED = (
    "closed loop: requests arrive when answers end, so that points of the same replication have the same requests and "
    "think times, but not the same arrivals; the rate is an outcome, and no queue can grow"
)
_SESSIONS = (
    "sessions: turns arrive when answers end, so that points of the same replication have the same sessions, requests "
    "and think times, but later turns arrive at other times; rates are of sessions"
)
_NO_CONTENT = "says nothing of what prompts contain: only preempted requests find what they left in the cache"


class Keys(NamedTuple):
    """Which draws of a replication a point shares with others: equal numbers, same arrays."""

    unit_arrivals: int
    arrivals: Hashable
    lengths: int
    trace: int
    prediction: int
    bins: int
    service: int


class PreparedPoint(NamedTuple):
    """One point of the grid, ready to run on any replication."""

    point: Point
    requests: int
    edges: FloatArray
    """(bin + 1,) after bins that nothing can hit were removed."""
    setup: batches.Setup | continuous.Setup
    """Of single steps in mode continuous, which the whole grid is in, or none of it."""
    keys: Keys
    recorded: RecordedTrace | None
    length: str
    """What a batch is dominated by: "output", "total" or "seconds"."""
    mean_prompt: float
    """Tokens, of the sample that the bins are cut by; 0 where it has no prompts."""
    longest: float
    """Longest output of that sample."""


class Prepared(NamedTuple):
    """A sweep, ready to run."""

    sweep: Sweep
    points: tuple[PreparedPoint, ...]
    notes: tuple[str, ...]
    input_sha256: str
    unmeasured_costs: NDArray[np.int64]
    """(point,) flags of costs that nobody measured or gave, see `results.costs`."""

    @property
    def simulation(self) -> Simulation[Any]:
        """What simulates the whole grid."""
        return self.points[0].point.simulation

    @property
    def bins(self) -> int:
        """Most bins of any point."""
        return max(len(prepared.edges) - 1 for prepared in self.points)

    @property
    def most_replications(self) -> float:
        """Replications that there can be: a recorded trace has so many parts."""
        settings = ((prepared, prepared.point.workload.trace) for prepared in self.points)
        return min(
            (
                len(prepared.recorded.arrival_s) // prepared.requests
                for prepared, trace in settings
                if trace is not None and trace.resample == "parts" and prepared.recorded is not None
            ),
            default=math.inf,
        )

    @property
    def requests(self) -> int:
        """Requests of one replication of the whole grid."""
        return sum(prepared.requests for prepared in self.points)


def prepare(sweep: Sweep, done: Callable[[], None] = lambda: None) -> Prepared:
    """Read the files of a sweep, cut its bins and build the engine's setup of every point; call `done` after each.

    Raises InputError for bad files, and for settings that only the data show to be impossible.
    """
    policies = {name: known for point in sweep.grid.points for name, known in named_in(point.policy).items()}
    for known in policies.values():
        require_current(known)
    caching = any(caches_prefixes(point) for point in sweep.grid.points)
    planner = _Planner(sweep.seed, hashes=caching, priorities=any(map(goes_by_priority, sweep.grid.points)))
    points: list[PreparedPoint] = []
    notes: dict[str, None] = {}
    removals: dict[tuple[int, int], list[str]] = {}
    for position, point in zip(np.ndindex(sweep.grid.shape), sweep.grid.points, strict=True):
        try:
            prepared = planner.point(point)
        except InputError as error:
            raise refusal(sweep, error, position) from None
        removed = point.policy.bins - (len(prepared.edges) - 1)
        if removed:
            removals.setdefault((removed, point.policy.bins), []).append(where(sweep.grid.axes, position))
        points.append(prepared)
        done()
    for (removed, bins), places in removals.items():
        at = places[0] + (f" and {len(places) - 1} more points" if len(places) > 1 else "")
        notes[f"{at}: no request can fall into {removed} of the {bins} bins; they were removed"] = None
    recorded = {id(trace): trace for trace in planner.recorded.values()}.values()
    for settings, trace in planner.recorded.items():
        if trace.rows_dropped:
            why = ", ".join(f"{count} {reason}" for reason, count in trace.dropped_reasons.items())
            notes[f"{settings.path}: {trace.rows_dropped} of {trace.rows_read} rows dropped: {why}"] = None
        if trace.rows_out_of_order:
            notes[f"{settings.path}: rows sorted: {trace.rows_out_of_order} were earlier than the row before"] = None
        if trace.assumed_unit:
            span = float(trace.arrival_s[-1])
            pace = f": {(len(trace.arrival_s) - 1) / span:.3g} requests/s on average" if span > 0 else ""
            text = f"times taken to be in {trace.assumed_unit} (workload.trace.unit states it){pace}"
            notes[f"{settings.path}: {text}"] = None
        if caching and trace.content is None:
            notes[f"{settings.path}: {_NO_CONTENT}"] = None
        if trace.images:
            text = f"{trace.with_images} of {len(trace.arrival_s)} requests have images, {trace.images} in all"
            notes[f"{settings.path}: {text}: they take no time and no memory"] = None
        if trace.unused_columns:
            unused = ", ".join(f"{name[:40]!r}{_UNUSED.get(name, '')}" for name in trace.unused_columns[:20])
            notes[f"{settings.path}: columns not used: {unused}"] = None
    notes.update(dict.fromkeys(notes_on_all(sweep)))
    for law in calibrated(points):
        mine = [prepared for prepared in points if prepared.point.server.service == law]
        largest = max(prepared.setup.largest_batch for prepared in mine)
        budget = max(
            prepared.point.server.replica.token_budget if prepared.point.server.replica else 0 for prepared in mine
        )
        asked = coefficients.Asked(largest, mine[0].mean_prompt, max(prepared.longest for prepared in mine), budget)
        about = coefficients.notes_on_steps if mine[0].point.simulation.STEPWISE else coefficients.notes_on
        notes.update(dict.fromkeys(about(law, asked)))
        limits = {
            f"{path} = {show_value(value)}": None for prepared in mine for path, value in taken(prepared.point).items()
        }
        if limits:
            notes[f"not stated, and so as coefficients {law.coefficients} say: {', '.join(limits)}"] = None
    for prepared in points:
        notes.update(dict.fromkeys(beyond_tables(prepared.point, prepared.setup.largest_batch)))
    checksums = {trace.sha256 for trace in recorded} | _checksums(points)
    checksums |= {known.sha256 for known in policies.values()}
    flags = flags_of([unmeasured_costs(prepared.point) for prepared in points])
    # The first of them: what is printed or drawn begins with it.
    said = tuple(filter(None, (warning_of(flags), *notes)))
    whole = Prepared(sweep, tuple(points), said, ",".join(sorted(checksums)), flags)
    if sweep.replications > (most := whole.most_replications):
        raise InputError(
            f"the trace has {most:.0f} parts of workload.requests, one for each replication",
            file=sweep.source,
            path="replications",
            value=sweep.replications,
        )
    return whole


def notes_on_all(sweep: Sweep) -> list[str]:
    """Return the notes that settings call for, those of all points together: a cube that grows has them anew."""
    workloads = [point.workload for point in sweep.grid.points]
    resampled = {workload.trace.resample for workload in workloads if workload.trace is not None}
    notes = []
    if any(map(_has_no_prefixes, sweep.grid.points)):
        notes.append(f"workload: {_NO_CONTENT} (workload.sessions would)")
    if resampled and sweep.replications == 1 and sweep.document.get("replications", 2) != 1:
        notes.append("a recorded trace without resampling and with nothing random has one replication and no interval")
    if resampled and sweep.replications > 1:
        notes.append(_OF_PARTS if resampled == {"parts"} else _OF_WINDOWS)
    if any(isinstance(workload.arrivals, Closed) for workload in workloads):
        notes.append(_CLOSED)
    elif any(workload.sessions is not None for workload in workloads):
        notes.append(_SESSIONS)
    if len({workload.in_seconds for workload in workloads}) > 1:
        notes.append("lengths are tokens at some points and seconds at others")
    return notes


def only_totals(sweep: Sweep, windows: Callable[[Point], int] = lambda _: 1) -> Sweep:
    """Return a sweep without histograms, and with as many time windows as are said of a point: nobody looks at more."""
    points = [
        point._replace(report=point.report.model_copy(update={"windows": windows(point), "histograms": False}))
        for point in sweep.grid.points
    ]
    return replace(sweep, grid=sweep.grid._replace(points=tuple(points)))


def _has_no_prefixes(point: Point) -> bool:
    """Say whether prefixes are cached of drawn prompts that have nothing in common."""
    return caches_prefixes(point) and point.workload.trace is None and point.workload.sessions is None


def refusal(sweep: Sweep, error: InputError, position: tuple[int, ...] | None) -> InputError:
    """Return an error as one about a sweep and, where that is known, about a grid position."""
    point = "" if position is None or not sweep.grid.axes else where(sweep.grid.axes, position)
    return error.at(file=sweep.source, point=point)


def _checksums(points: Sequence[PreparedPoint]) -> set[str]:
    """Return the sha256 of every file but the traces that the points' settings name."""
    paths = {str(locate_coefficients(law.coefficients)) for law in calibrated(points)}
    for prepared in points:
        workload = prepared.point.workload
        for settings in (
            prepared.point.server.service,
            workload.arrivals,
            workload.drawn_lengths,
            workload.sessions,
        ):
            paths.update(_paths(settings))
    return {hashlib.sha256(resolve(path).read_bytes()).hexdigest() for path in paths}


def calibrated(points: Iterable[PreparedPoint]) -> list[CoefficientsLaw]:
    """Return the distinct service settings of points that name coefficients."""
    services = (prepared.point.server.service for prepared in points)
    return list(dict.fromkeys(service for service in services if isinstance(service, CoefficientsLaw)))


def _paths(settings: Any) -> Iterator[str]:
    """Yield the files that settings name, those of their parts included."""
    for name, value in settings if isinstance(settings, BaseModel) else ():
        if name == "path" and isinstance(value, str):
            yield value
        for part in value if isinstance(value, list | tuple) else (value,):
            yield from _paths(part)


def theory_of(prepared: Prepared) -> list[Expected]:
    """Return what theory says about every point."""
    known: dict[Hashable, BinnedBatches | None] = {}
    said: list[Expected] = []
    for edges, point in ((prepared.edges, prepared.point) for prepared in prepared.points):
        workload, policy, server, _ = point
        # Rates share the batches of their bins, and the quadrature is what costs.
        drawn = workload.model_copy(update={"arrivals": None})
        key = (drawn, policy.mode, policy.batch_size, policy.max_wait_s, edges.tobytes(), server.service)
        if key not in known:
            known[key] = batches_of(point, edges)
        said.append(expected(point, known[key]))
    return said


class _Planner:
    """Builds the points of one sweep, sharing what they have in common."""

    def __init__(self, seed: int, *, hashes: bool, priorities: bool) -> None:
        self.seed, self.hashes, self.priorities = seed, hashes, priorities
        self.recorded: dict[TraceSettings, RecordedTrace] = {}
        self._sampler = Sampler(seed)
        self._cache: dict[Hashable, Any] = {}
        self._numbers: dict[Hashable, int] = {}

    def _once(self, key: Hashable, make: Any) -> Any:
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def point(self, point: Point) -> PreparedPoint:
        workload, policy, server, report = point
        trace = None if workload.trace is None else self._read(workload.trace)
        count = workload.requests or (0 if trace is None else len(trace.arrival_s))
        if trace is not None and trace_resampling(workload) != "blocks" and count > len(trace.arrival_s):
            raise InputError(
                f"must be at most {len(trace.arrival_s)}, the requests in the trace",
                path="workload.requests",
                value=count,
            )
        warmup = report.warmup_of(count)
        if warmup >= count:
            raise InputError(
                f"must be < {count}, the requests of a replication", path="report.warmup_requests", value=warmup
            )
        shared = workload.model_copy(update={"arrivals": None})
        drawn_from = ("sample", workload.drawn_lengths, workload.sessions, id(trace), sampling(policy, trace))
        sample = self._once(drawn_from, lambda: self._sampler.sample(workload, policy, trace))
        batch = policy.batch_size if policy.mode not in CONTROLLED else policy.largest_batch
        assert batch is not None
        cut_by = shared.model_copy(update={"predictor": None}) if draws_classes(workload.predictor) else shared
        cut = ("edges", cut_by, policy.edges, policy.bins, batch if policy.edges.kind == "exponential" else 0)
        edges = self._once(cut, lambda: self._sampler.edges(workload, policy, batch, sample))
        first_beliefs = self._once(
            ("beliefs", shared, sampling(policy, trace), edges.tobytes(), policy.controller_scope, policy.mode),
            lambda: self._sampler.beliefs(workload, policy, edges, sample),
        )
        of = Simulated(point, trace, count, warmup, batch, edges, sample, first_beliefs)
        build = step_setup if point.simulation.STEPWISE else batch_setup
        setup = build(of, self.seed, self._once)
        length = "seconds" if workload.in_seconds else getattr(server.service, "length", "output")
        extent = self._once(("extent", drawn_from), lambda: extent_of(sample))
        return PreparedPoint(
            point, count, edges, setup, self._keys(point, batch, count, length, edges), trace, length, *extent
        )

    def _keys(self, point: Point, batch: int, count: int, length: str, edges: FloatArray) -> Keys:
        workload = point.workload
        unit: Hashable
        if workload.trace is not None:
            unit = ("recorded", workload.trace.model_copy(update={"rate_scale": 1.0}), count)
            arrivals: Hashable = ("arrivals", unit, workload.trace.rate_scale)
            lengths: Hashable = unit
        else:
            process = workload.arrivals
            assert process is not None
            unit = (
                "unit",
                process.model_copy(update={"rate_per_s": 1.0}) if isinstance(process, AtRate) else process,
                count,
                workload.sessions,
            )
            arrivals = ("arrivals", process, count, workload.sessions)
            lengths = ("lengths", workload.drawn_lengths, count, workload.sessions)
        cut = edges.tobytes()
        prediction = ("prediction", lengths, workload.predictor, cut if workload.predictor.looks_at_bins else b"")
        bins = ("bins", prediction, cut) if len(edges) > 2 else ("one bin", count)
        service = ("service", point.server.service, batch)
        keys = (unit, arrivals, lengths, ("trace", lengths, length), prediction, bins, service)
        return Keys(*(self._numbers.setdefault(key, len(self._numbers)) for key in keys))

    def _read(self, settings: TraceSettings) -> RecordedTrace:
        rows = settings.model_copy(update={"rate_scale": 1.0, "resample": "none", "block_requests": None})
        if rows not in self.recorded:
            self.recorded[rows] = read_trace(settings, hashes=self.hashes, priorities=self.priorities)
        return self.recorded[rows]
