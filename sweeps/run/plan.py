"""Everything about a sweep that does not depend on the replication: files read, bins cut, setups built."""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from batchcube.calibration.coefficients import locate as locate_coefficients
from batchcube.calibration.laws import STEP_TERMS
from batchcube.engine import INFINITE, batches, continuous, make_policy, make_reporting
from batchcube.engine.continuous import (
    Law,
    Replica,
    Requests,
    make_fleet,
    make_law,
    make_replica,
    make_requests,
    make_step_reporting,
)
from batchcube.engine.continuous.model import blocks_of, never_fits
from batchcube.engine.policies.bins import (
    assign_bins,
    distinct_edges,
    equal_mass_edges,
    exponential_edges,
    uniform_edges,
)
from batchcube.engine.policies.estimates import smoothing
from batchcube.engine.policies.memory import memory_bound, no_memory_bound
from batchcube.engine.policies.service import Service, formula, given, measured, piece_of, service_ticks
from batchcube.engine.policies.sla import no_sla, sla_search
from batchcube.engine.policies.target import Control, fixed_target
from batchcube.engine.simulation import Simulation
from batchcube.engine.ticks import TICKS_PER_S, from_seconds
from batchcube.errors import InputError, found_in
from batchcube.results.costs import flags_of, warning_of

from ..seeds import stream
from ..spec import service as coefficients
from ..spec.document import Sweep
from ..spec.grid import where
from ..spec.settings import (
    CONTROLLED,
    LONGEST_CONTINUOUS_S,
    CoefficientsLaw,
    ConstantLaw,
    GrowingLaw,
    Point,
    PolicySettings,
    ReplicaSettings,
    Server,
    SlaSettings,
    StepsLaw,
    TableLaw,
    TraceSettings,
    Workload,
    draws_service,
)
from ..theory.bins import BinnedBatches
from ..theory.expected import Expected, batches_of, expected
from ..workloads.datasets import resolve
from ..workloads.lengths import Exponential
from ..workloads.lengths import Lengths as DrawnLengths
from ..workloads.lengths import Uniform as UniformLengths
from ..workloads.settings import FloatArray
from ..workloads.traces import LATEST_S, RecordedTrace, read_trace

MOST_SAMPLED = 50_000_000
"""Requests of all samples of a sweep together: each takes 16 to 24 bytes until the sweep is planned."""
_UNUSED = {"hash_ids": " (shared prefixes are computed anew)", "NumImages": " (images take no time and no memory)"}
"""What it means that a column of a recorded trace is not used."""


class Keys(NamedTuple):
    """Which draws of a replication a point shares with others: equal numbers, same arrays."""

    unit_arrivals: int
    arrivals: Hashable
    lengths: int
    trace: int
    prediction: int
    bins: int
    service: int


class PointPlan(NamedTuple):
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


class Plan(NamedTuple):
    """A sweep, ready to run."""

    sweep: Sweep
    points: tuple[PointPlan, ...]
    notes: tuple[str, ...]
    input_sha256: str
    rows_dropped: int
    unmeasured_costs: NDArray[np.int64]
    """(point,) flags of costs that nobody measured or gave, see `results.costs`."""

    @property
    def simulation(self) -> Simulation[Any]:
        """What simulates the whole grid."""
        return self.points[0].point.simulation

    @property
    def bins(self) -> int:
        """Most bins of any point."""
        return max(len(plan.edges) - 1 for plan in self.points)

    @property
    def requests(self) -> int:
        """Requests of one replication of the whole grid."""
        return sum(plan.requests for plan in self.points)


class _Sample(NamedTuple):
    """Requests that the bin edges and the first beliefs come from, each (request,)."""

    length: FloatArray
    tokens: FloatArray | None
    """Prompt and output tokens; None where lengths are seconds."""
    column: FloatArray | None


def make_plan(sweep: Sweep, done: Callable[[], None] = lambda: None) -> Plan:
    """Read the files of a sweep, cut its bins and build the engine's setup of every point; call `done` after each.

    Raises InputError for bad files, and for settings that only the data show to be impossible.
    """
    planner = _Planner(sweep.seed)
    points: list[PointPlan] = []
    notes: dict[str, None] = {}
    removals: dict[tuple[int, int], list[str]] = {}
    for position, point in zip(np.ndindex(sweep.grid.shape), sweep.grid.points, strict=True):
        try:
            plan = planner.point(point)
        except InputError as error:
            raise refusal(sweep, error, position) from None
        removed = point.policy.bins - (len(plan.edges) - 1)
        if removed:
            removals.setdefault((removed, point.policy.bins), []).append(where(sweep.grid.axes, position))
        points.append(plan)
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
        if trace.unused_columns:
            unused = ", ".join(f"{name[:40]!r}{_UNUSED.get(name, '')}" for name in trace.unused_columns[:20])
            notes[f"{settings.path}: columns not used: {unused}"] = None
    if sweep.replications == 1 and sweep.document.get("replications", 2) != 1 and recorded:
        notes["a recorded trace without resampling and with nothing random has one replication and no interval"] = None
    if recorded and sweep.replications > 1:
        notes[
            "all replications come from one recorded trace: intervals say how much the place in it and the predictor's "
            "luck matter, and are too narrow for any other trace"
        ] = None
    for law in calibrated(points):
        mine = [plan for plan in points if plan.point.server.service == law]
        largest = max(plan.setup.largest_batch for plan in mine)
        asked = coefficients.Asked(largest, mine[0].mean_prompt, max(plan.longest for plan in mine))
        about = coefficients.notes_on_steps if mine[0].point.simulation.STEPWISE else coefficients.notes_on
        notes.update(dict.fromkeys(about(law, asked)))
    checksums = sorted({trace.sha256 for trace in recorded} | _checksums(points))
    dropped = sum(trace.rows_dropped for trace in recorded)
    flags = flags_of([unmeasured_costs(plan.point) for plan in points])
    # The first of them: what is printed or drawn begins with it.
    said = tuple(filter(None, (warning_of(flags), *notes)))
    return Plan(sweep, tuple(points), said, ",".join(checksums), dropped, flags)


def refusal(sweep: Sweep, error: InputError, position: tuple[int, ...] | None) -> InputError:
    """Return an error as one about a sweep and, where that is known, about a grid position."""
    point = "" if position is None or not sweep.grid.axes else where(sweep.grid.axes, position)
    return error.at(file=sweep.source, point=point)


def _checksums(points: Sequence[PointPlan]) -> set[str]:
    """Return the sha256 of every file but the traces that the points' settings name."""
    paths = {str(locate_coefficients(law.coefficients)) for law in calibrated(points)}
    for plan in points:
        workload = plan.point.workload
        for settings in (plan.point.server.service, workload.arrivals, workload.lengths):
            paths.update(_paths(settings))
    return {hashlib.sha256(resolve(path).read_bytes()).hexdigest() for path in paths}


def calibrated(points: Iterable[PointPlan]) -> list[CoefficientsLaw]:
    """Return the distinct service settings of points that name coefficients."""
    services = (plan.point.server.service for plan in points)
    return list(dict.fromkeys(service for service in services if isinstance(service, CoefficientsLaw)))


def _paths(settings: Any) -> Iterator[str]:
    """Yield the files that settings name, those of their parts included."""
    for name, value in settings if isinstance(settings, BaseModel) else ():
        if name == "path" and isinstance(value, str):
            yield value
        for part in value if isinstance(value, list | tuple) else (value,):
            yield from _paths(part)


def theory_of(plan: Plan) -> list[Expected]:
    """Return what theory says about every point of a plan."""
    known: dict[Hashable, BinnedBatches | None] = {}
    said: list[Expected] = []
    for edges, point in ((plan.edges, plan.point) for plan in plan.points):
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

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.recorded: dict[TraceSettings, RecordedTrace] = {}
        self.sampled = 0
        self._cache: dict[Hashable, Any] = {}
        self._numbers: dict[Hashable, int] = {}

    def _once(self, key: Hashable, make: Any) -> Any:
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def point(self, point: Point) -> PointPlan:
        workload, policy, server, report = point
        trace = None if workload.trace is None else self._read(workload.trace)
        count = workload.requests or (0 if trace is None else len(trace.arrival_s))
        if trace is not None and trace_resampling(workload) != "blocks" and count > len(trace.arrival_s):
            raise InputError(
                f"must be at most {len(trace.arrival_s)}, the requests in the trace",
                path="workload.requests",
                value=count,
            )
        warmup = report.warmup_requests or int((report.warmup_fraction or 0.0) * count)
        if warmup >= count:
            raise InputError(
                f"must be < {count}, the requests of a replication", path="report.warmup_requests", value=warmup
            )
        shared = workload.model_copy(update={"arrivals": None})
        drawn_from = ("sample", workload.lengths, id(trace), _sampling(policy, trace))
        sample = self._once(drawn_from, lambda: self._sample(workload, policy, trace))
        batch = policy.batch_size if policy.mode not in CONTROLLED else policy.largest_batch
        assert batch is not None
        cut = ("edges", shared, policy.edges, policy.bins, batch if policy.edges.kind == "exponential" else 0)
        edges = self._once(cut, lambda: self._edges(workload, policy, batch, sample))
        first_beliefs = self._once(
            ("beliefs", shared, _sampling(policy, trace), edges.tobytes(), policy.controller_scope, policy.mode),
            lambda: self._beliefs(workload, policy, edges, sample),
        )
        of = _Simulated(point, trace, count, warmup, batch, edges, sample, first_beliefs)
        setup = self._step_setup(of) if point.simulation.STEPWISE else self._setup(of)
        length = "seconds" if workload.in_seconds else getattr(server.service, "length", "output")
        extent = self._once(("extent", drawn_from), lambda: _extent(sample))
        return PointPlan(
            point, count, edges, setup, self._keys(point, batch, count, length, edges), trace, length, *extent
        )

    def _setup(self, of: "_Simulated") -> batches.Setup:
        """Build the setup of batches that run as a whole."""
        workload, policy, server, report = of.point
        batch = of.batch
        if policy.memory is not None:
            capacity = policy.memory.tokens
            _require_room(f"policy.memory: {capacity:g} tokens of capacity", capacity, of.sample)
        service = self._once(("service", server.service, batch), lambda: build_service(server, batch))
        key = ("clock", server.service, workload.model_copy(update={"arrivals": None}), _sampling(policy, of.trace))
        self._once(key, lambda: _require_kept(server, service, of.sample))
        if draws_service(of.point):
            # Told before anything runs: coefficients whose errors are not known cannot be drawn.
            drawn_service(of.point, batch, stream(self.seed, None, "coefficients"))
        span = report.horizon_s or _span(workload, of.trace, of.requests)
        span = span or _work_s(server, service, batch, of.requests, of.sample)
        _require_span(of, span, LATEST_S)
        return batches.Setup(
            make_policy(
                policy.mode,
                batch_size=batch,
                servers=INFINITE if server.servers == "infinite" else server.servers,
                max_wait_s=policy.max_wait_s,
                service_order=policy.service_order,
                tail=policy.tail,
                bin_choice=policy.bin_choice,
                controller_scope=policy.controller_scope,
                completion=server.completion,
            ),
            service,
            build_control(
                policy,
                batch,
                of.beliefs,
                None if policy.memory is None else policy.memory.tokens,
                counted_tokens=report.memory_capacity_tokens,
            ),
            make_reporting(
                horizon_s=span,
                windows=report.windows,
                warmup_requests=of.warmup,
                request_sla_s=report.request_sla_s,
                token_sla_s=report.token_sla_s,
            ),
        )

    def _step_setup(self, of: "_Simulated") -> continuous.Setup:
        """Build the setup of continuous batching."""
        workload, policy, server, report = of.point
        assert server.replica is not None
        assert isinstance(server.servers, int)
        replica, bins = server.replica, len(of.edges) - 1
        key = (workload.model_copy(update={"arrivals": None}), _sampling(policy, of.trace))
        requests: Requests = self._once(("requests", *key), lambda: _requests(of))
        if server.routing == "by_bin" and bins < server.servers:
            raise InputError(
                f"requests fall into {bins} of the {policy.bins} bins only",
                path="server.routing",
                value='"by_bin"',
                allowed=f"must be at least server.servers = {server.servers}",
            )
        law = self._once(("steps", server.service), lambda: step_seconds(server))
        if draws_service(of.point):
            drawn_law(of.point, stream(self.seed, None, "coefficients"))
        if policy.sla is not None:
            _require_reachable(policy.sla, law, float(requests.prompt.mean()))
        span = report.horizon_s or _span(workload, of.trace, of.requests)
        span = span or _step_work_s(server, law, of.batch, of.requests, of.sample)
        _require_span(of, span, LONGEST_CONTINUOUS_S, " in mode continuous")
        mean, square = of.beliefs
        setup = continuous.Setup(
            make_replica(
                make_law(*law),
                most_running=of.batch,
                token_budget=replica.token_budget,
                capacity_tokens=replica.kv_capacity_tokens,
                block_tokens=replica.block_tokens,
                prefill=replica.prefill,
                # One controller: the moments over all bins.
                control=build_control(policy, of.batch, (mean[:1], square[:1]), float(replica.held_tokens)),
            ),
            make_fleet(
                replicas=server.servers,
                routing=server.routing,
                bins=bins,
                admission=policy.admission,
                bin_choice=policy.bin_choice,
            ),
            make_step_reporting(
                horizon_s=span,
                windows=report.windows,
                warmup_requests=of.warmup,
                request_sla_s=report.request_sla_s,
                token_sla_s=report.token_sla_s,
            ),
        )
        _require_fit(replica, requests, setup.replica)
        with found_in(path="server.service"):
            continuous.check(continuous.Job(requests, np.zeros(len(requests.arrival), np.int32), setup))
        return setup

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
                process.model_copy(update={"rate_per_s": 1.0}) if process.scales_with_rate else process,
                count,
            )
            arrivals = ("arrivals", process, count)
            lengths = ("lengths", workload.lengths, count)
        cut = edges.tobytes()
        # A predictor of lengths does not look at the bins; one of classes does.
        by_bin = workload.predictor.kind in ("adjacent", "confusion", "column")
        prediction = ("prediction", lengths, workload.predictor, cut if by_bin else b"")
        bins = ("bins", prediction, cut) if len(edges) > 2 else ("one bin", count)
        service = ("service", point.server.service, batch)
        keys = (unit, arrivals, lengths, ("trace", lengths, length), prediction, bins, service)
        return Keys(*(self._numbers.setdefault(key, len(self._numbers)) for key in keys))

    def _read(self, settings: TraceSettings) -> RecordedTrace:
        rows = settings.model_copy(update={"rate_scale": 1.0, "resample": "none", "block_requests": None})
        if rows not in self.recorded:
            self.recorded[rows] = read_trace(
                settings.path,
                settings.format,
                unit=settings.unit,
                columns=settings.columns.named(),
                sort=settings.sort,
                drop_empty_prompts=settings.drop_empty_prompts,
                model=settings.model,
                log_type=settings.log_type,
                start_s=settings.start_s,
                stop_s=settings.stop_s,
                limit=settings.limit,
            )
        return self.recorded[rows]

    def _sample(self, workload: Workload, policy: PolicySettings, trace: RecordedTrace | None) -> _Sample:
        if trace is not None:
            seen = slice(None)
            if policy.edges.sample == "prefix":
                if (policy.edges.prefix_requests or 0) > len(trace.arrival_s):
                    size = len(trace.arrival_s)
                    number = policy.edges.prefix_requests
                    raise InputError(
                        f"must be at most {size}, the trace's requests",
                        path="policy.edges.prefix_requests",
                        value=number,
                    )
                seen = slice(0, policy.edges.prefix_requests)
            output = trace.output_tokens[seen].astype(np.float64)
            column = None if trace.predicted is None else trace.predicted[seen]
            return _Sample(output, output + trace.prompt_tokens[seen], column)
        assert workload.lengths is not None
        size = policy.edges.sample_size
        self.sampled += size
        if self.sampled > MOST_SAMPLED:
            raise InputError(
                f"the samples of all different lengths are together at most {MOST_SAMPLED} requests: "
                "take a smaller one, or fewer lengths at a time",
                path="policy.edges.sample_size",
                value=size,
            )
        # Drawn apart from the replications: the scheduler must not see the future.
        drawn = workload.lengths.draw(size, stream(self.seed, None, "lengths"), least_prompt(policy))
        return sample_of(drawn)

    def _edges(self, workload: Workload, policy: PolicySettings, batch: int, sample: _Sample) -> FloatArray:
        settings, lengths = policy.edges, workload.lengths
        if settings.kind == "explicit":
            return np.array(settings.values, dtype=np.float64)
        exact = workload.predictor.kind == "oracle"
        if settings.kind == "exponential" and exact and isinstance(lengths, Exponential):
            return distinct_edges(exponential_edges(1.0 / lengths.mean, batch, policy.bins))
        if settings.kind == "uniform" and exact and isinstance(lengths, UniformLengths):
            return distinct_edges(uniform_edges(lengths.low, lengths.high, policy.bins))
        seen = self._predicted(workload, sample)
        if settings.kind == "exponential":
            return distinct_edges(exponential_edges(1.0 / float(seen.mean()), batch, policy.bins))
        if settings.kind == "uniform":
            return distinct_edges(uniform_edges(float(seen.min()), float(seen.max()), policy.bins))
        return distinct_edges(equal_mass_edges(seen, policy.bins))

    def _predicted(self, workload: Workload, sample: _Sample) -> FloatArray:
        """Return the predicted lengths of the sample; the true ones where the predictor gives classes, not lengths."""
        rng = stream(self.seed, None, "predictor")
        prediction = workload.predictor.predict(sample.length, None, rng, sample.column)
        return sample.length if prediction.bin is not None else prediction.predicted

    def _beliefs(
        self, workload: Workload, policy: PolicySettings, edges: FloatArray, sample: _Sample
    ) -> tuple[FloatArray, FloatArray]:
        """Return mean and mean square of prompt + output, (bin,), before anything has been observed."""
        bins = len(edges) - 1
        tokens = np.zeros(len(sample.length)) if sample.tokens is None else sample.tokens
        mean, square = np.full(bins, tokens.mean()), np.full(bins, np.square(tokens).mean())
        if policy.controller_scope == "per_bin" and bins > 1 and policy.mode != "continuous":
            rng = stream(self.seed, None, "predictor")
            predicted = workload.predictor.predict(sample.length, edges, rng, sample.column)
            of = assign_bins(predicted.predicted, edges) if predicted.bin is None else predicted.bin
            for j in range(bins):
                mine = tokens[of == j]
                if len(mine):
                    mean[j], square[j] = mine.mean(), np.square(mine).mean()
        return mean, square


class _Simulated(NamedTuple):
    """A point, and what its setup is built from."""

    point: Point
    trace: RecordedTrace | None
    requests: int
    warmup: int
    batch: int
    """B, the largest batch of a controller, or the most that run at once."""
    edges: FloatArray
    sample: _Sample
    beliefs: tuple[FloatArray, FloatArray]


def _require_span(of: _Simulated, span_s: float, longest_s: float, mode: str = "") -> None:
    """Refuse a workload that lasts longer than a clock goes, naming the settings that it follows from."""
    if span_s <= longest_s:
        return
    rate = getattr(of.point.workload.arrivals, "rate_per_s", None)
    at_rate = "" if rate is None else f" with workload.arrivals.rate_per_s = {rate:g}"
    raise InputError(
        f"workload.requests = {of.requests}{at_rate}: arrive, or are served, within about {span_s:.4g} s",
        allowed=f"must be at most {longest_s:.10g} s{mode}",
    )


def _require_room(given: str, capacity_tokens: float, sample: _Sample) -> None:
    """Refuse a capacity that does not hold a single request of mean size; `given` says which it is."""
    if sample.tokens is None:
        return
    mean = float(sample.tokens.mean())
    if capacity_tokens < mean:
        raise InputError(
            f"must be at least {mean:.1f}, what one request takes on average, or it could not be served", path=given
        )


def _require_kept(server: Server, service: Service, sample: _Sample) -> None:
    """Refuse service times, or times of batches of one, that whole microseconds change by more than 1 % on average."""
    if sample.tokens is None:
        source, times = "workload.lengths: service times", sample.length * TICKS_PER_S
        kept = np.maximum(from_seconds(sample.length), 1)
    else:
        source = "server.service: batches of one request"
        lengths = sample.tokens if getattr(server.service, "length", "output") == "total" else sample.length
        piece = piece_of(lengths, service)
        times = service.base[1, piece] + service.slope[1, piece] * (lengths - service.knots[piece])
        kept = service_ticks(1, lengths, service)
    exact_s, kept_s = float(times.mean()) / TICKS_PER_S, float(kept.mean()) / TICKS_PER_S
    if abs(kept_s - exact_s) > 0.01 * exact_s:
        raise InputError(
            f"{source} of {exact_s:.3g} s on average would be rounded to {kept_s:.3g}, in whole "
            "microseconds, at least one",
            allowed=f"must be at least {100 / TICKS_PER_S:g}, the smallest mean that is always kept within "
            "1 %, or whole microseconds themselves",
        )


def _requests(of: "_Simulated") -> Requests:
    """Return the sample as requests of continuous batching; of a recorded trace, all that a replication may hold."""
    prompt: NDArray[Any]
    output: NDArray[Any]
    if of.trace is None:
        assert of.sample.tokens is not None
        source, prompt, output = "workload.lengths", of.sample.tokens - of.sample.length, of.sample.length
    else:
        seen = slice(0, of.requests if trace_resampling(of.point.workload) == "none" else None)
        source, prompt, output = "workload.trace", of.trace.prompt_tokens[seen], of.trace.output_tokens[seen]
    if prompt.min() < 1:
        none = int(np.count_nonzero(prompt < 1))
        refused = InputError(
            f"{none} of {len(prompt)} prompts have no tokens: mode continuous needs prompts of at least 1", path=source
        )
        raise (
            refused if of.trace is None else refused.advised("workload.trace.drop_empty_prompts = true leaves them out")
        )
    return make_requests(np.zeros(len(prompt)), prompt, output)


def _require_fit(given: ReplicaSettings, requests: Requests, replica: Replica) -> None:
    """Refuse a replica that would turn away more than half of the requests of a sample."""
    refused = float(never_fits(requests, replica).mean())
    if refused <= 0.5:
        return
    most = requests.prompt + requests.output - 1
    middle = int(np.quantile(most, 0.5, method="inverted_cdf"))
    room = blocks_of(middle, replica.block_tokens) * replica.block_tokens
    least = f"{100 * refused:.3g} % of the requests could never be served"
    if room > given.held_tokens:
        raise InputError(
            f"must be at least {room}, what the median request takes, prompt + output - 1 = {middle} "
            f"tokens in blocks of {replica.block_tokens}: {least}",
            path="server.replica.kv_capacity_tokens",
            value=given.kv_capacity_tokens,
        )
    # Half of the requests fit the cache: their shortest prompts, so many that they are half of all.
    prompts = np.sort(requests.prompt[most <= given.held_tokens])
    budget = int(prompts[(len(most) + 1) // 2 - 1])
    raise InputError(
        f'server.replica.token_budget = {given.token_budget} with prefill = "separate"',
        allowed=f"must be at least {budget}, to hold the prompts of half of the requests whole: {least}",
    )


def _require_reachable(sla: SlaSettings, law: tuple[float, ...], mean_prompt: float) -> None:
    """Refuse a target that even a decode step of one request, with a prompt of mean length, misses."""
    alone_s = law[0] + law[1] + law[2] * (mean_prompt + 1.0)
    if sla.target_s + sla.tolerance_s < (1.0 - 1e-12) * alone_s:
        raise InputError(
            f"must be, with tolerance_s = {sla.tolerance_s:g}, at least c0_s + c1_s_per_request + "
            f"{mean_prompt + 1.0:.1f} c2_s_per_kv_token = {alone_s:g}: a single request misses it",
            path="policy.sla.target_s",
            value=f"{sla.target_s:g}",
        )


def _extent(sample: _Sample) -> tuple[float, float]:
    """Return the mean prompt and the longest output of a sample, in tokens."""
    if sample.tokens is None:
        return 0.0, 0.0
    return float((sample.tokens - sample.length).mean()), float(sample.length.max())


def _span(workload: Workload, trace: RecordedTrace | None, count: int) -> float:
    """Return the nominal span of the arrivals in seconds, 0 where all arrive at once."""
    if trace is None:
        assert workload.arrivals is not None
        return workload.arrivals.nominal_span_s(count)
    assert workload.trace is not None
    return float(trace.arrival_s[-1]) * count / len(trace.arrival_s) / workload.trace.rate_scale


def _work_s(server: Server, service: Service, batch: int, count: int, sample: _Sample) -> float:
    """Return how long the servers are busy with full batches of requests of mean length, in seconds."""
    unit = TICKS_PER_S if sample.tokens is None else 1
    batch_s = service_ticks(batch, int(sample.length.mean() * unit), service) / TICKS_PER_S
    return float(batch_s) * (1.0 if server.servers == "infinite" else count / (batch * server.servers))


def _step_work_s(server: Server, law: tuple[float, ...], batch: int, count: int, sample: _Sample) -> float:
    """Return how long the replicas are busy if as many requests run as there is room for, in seconds."""
    c0, c1, c2, c3, c4 = law
    assert isinstance(server.servers, int)
    assert server.replica is not None
    assert sample.tokens is not None
    output, tokens = float(sample.length.mean()), float(sample.tokens.mean())
    prompt = tokens - output
    running = min(float(batch), max(server.replica.held_tokens / tokens, 1.0))
    step_s = c0 + running * (c1 + c2 * (prompt + output / 2.0))
    prefill_s = c3 * prompt + c4 * prompt * prompt / 2.0
    return count / server.servers * (output / running * step_s + prefill_s)


def least_prompt(policy: PolicySettings) -> int:
    """Return the fewest tokens of a prompt that is drawn: mode continuous has no requests without one."""
    return int(policy.mode == "continuous")


def trace_resampling(workload: Workload) -> str:
    """Return how a recorded trace is resampled; "none" for a drawn workload."""
    return "none" if workload.trace is None else workload.trace.resample


def sample_of(drawn: DrawnLengths) -> _Sample:
    """Return drawn lengths as a sample."""
    if drawn.service_s is not None:
        return _Sample(drawn.service_s, None, drawn.predicted)
    assert drawn.output_tokens is not None
    output = drawn.output_tokens.astype(np.float64)
    return _Sample(output, output if drawn.prompt_tokens is None else output + drawn.prompt_tokens, drawn.predicted)


def _sampling(policy: PolicySettings, trace: RecordedTrace | None) -> Hashable:
    edges = policy.edges
    return (edges.sample, edges.prefix_requests) if trace is not None else edges.sample_size


def build_service(server: Server, largest_batch: int) -> Service:
    """Build the engine's service law for batches up to ``largest_batch``; raises InputError for a bad table."""
    law = server.service
    if law.law == "given":
        return given(largest_batch=largest_batch)
    if isinstance(law, CoefficientsLaw):
        return coefficients.build(law, largest_batch)
    if isinstance(law, TableLaw):
        table, fitted = _read_table(law.path)
        outside = formula(fitted.a0_s, fitted.a1_s_per_token, fitted.h, fitted.gamma, largest_batch=largest_batch)
        return measured(table.batch_sizes, table.lengths, table.seconds, outside)
    assert not isinstance(law, StepsLaw)
    gamma = law.gamma if isinstance(law, GrowingLaw) else 0.0
    return formula(law.a0_s or 0.0, law.a1_s_per_token, law.law, gamma, largest_batch=largest_batch)


def drawn_service(point: Point, largest_batch: int, rng: np.random.Generator) -> Service:
    """Build a service law with coefficients drawn from what the calibration leaves open."""
    law = point.server.service
    assert isinstance(law, CoefficientsLaw)
    return coefficients.build(law, largest_batch, rng)


def step_seconds(server: Server) -> tuple[float, ...]:
    """Return c0 to c4 of a step in seconds; raises InputError for coefficients without a law of single steps."""
    law = server.service
    if isinstance(law, CoefficientsLaw):
        return coefficients.steps_of(law)
    assert isinstance(law, StepsLaw)
    return law.seconds


def unmeasured_costs(point: Point) -> tuple[str, ...]:
    """Return what makes the time of a step or batch and is neither measured nor given, by its names in `COSTS`."""
    law = point.server.service
    if isinstance(law, CoefficientsLaw):
        return coefficients.unmeasured(law, steps=point.simulation.STEPWISE)
    if isinstance(law, StepsLaw):
        return tuple(name for name in STEP_TERMS if getattr(law, name) is None)
    return ("a0_s",) if isinstance(law, ConstantLaw | GrowingLaw) and law.a0_s is None else ()


def drawn_law(point: Point, rng: np.random.Generator) -> Law:
    """Build a step law with coefficients drawn from what the calibration leaves open."""
    law = point.server.service
    assert isinstance(law, CoefficientsLaw)
    return make_law(*coefficients.drawn_steps(law, rng))


@lru_cache(maxsize=8)
def _read_table(path: str) -> Any:
    from batchcube.calibration.laws import fit_batch_laws
    from batchcube.calibration.tables import read_table

    table = read_table(path)
    b, length = np.meshgrid(table.batch_sizes, table.lengths, indexing="ij")
    chosen, laws = fit_batch_laws(b, length, table.seconds)
    return table, laws[chosen]


def build_control(
    policy: PolicySettings,
    largest_batch: int,
    beliefs: tuple[FloatArray, FloatArray],
    capacity_tokens: float | None,
    *,
    counted_tokens: float | None = None,
) -> Control:
    """Build the batch-size target of a policy; `beliefs` are the first mean and mean square (bin,) of prompt + output.

    `capacity_tokens` is η of the memory bound, needed where the policy has one; `counted_tokens` counts overflows where
    it has none.
    """
    mean, square = beliefs
    unbounded = no_memory_bound() if counted_tokens is None else no_memory_bound(counted_tokens)
    if policy.mode not in CONTROLLED:
        return fixed_target(largest_batch, largest_batch, mean, square)._replace(memory=unbounded)
    memory, sla, estimates = policy.memory, policy.sla, policy.estimates
    return Control(
        smallest=float(policy.smallest_batch),
        largest=float(largest_batch),
        sla=no_sla()
        if sla is None
        else sla_search(sla.variant, sla.signal, sla.target_s, sla.tolerance_s, sla.alpha, sla.delta),
        memory=unbounded
        if memory is None or capacity_tokens is None
        else memory_bound(memory.rule, capacity_tokens, memory.overflow_probability, memory.margin(capacity_tokens)),
        smoothing=smoothing(estimates.kind, estimates.weight, estimates.observations),
        prior_tokens=mean,
        prior_squares=square,
    )


def deal(count: int, parts: int) -> Iterator[range]:
    """Deal 0..count-1 into at most ``parts`` ranges that differ by one at most."""
    parts = max(1, min(parts, count))
    for part in range(parts):
        yield range(part * count // parts, (part + 1) * count // parts)
