"""What a plan is asked: settings that vary, limits that must hold, and what stands for what nobody said."""

import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from batchcube.documents import value_of
from batchcube.errors import InputError, did_you_mean
from batchcube.results.selection import FIRST
from batchcube.results.text import all_of, in_percent
from batchcube.results.variables import GOODPUT, RATE_PATHS, REGISTRY

from ..run.criteria import Criterion, in_other_units, limits_of_requests, never_measured, parse_criterion
from ..run.preparing import prepare, refusal
from ..run.scalable import Scalable, scalable
from ..spec import vllm
from ..spec.document import Sweep, laid_over, overriding, read_document, varied
from ..spec.grid import Grid, cannot_vary
from ..spec.settings import REQUEST_LIMITS, Point, draws_service
from ..workloads.arrivals import Closed
from .defaults import CONFIDENCE, INDIFFERENCE, REPLICAS_MAX
from .serving import leaves_caching, of_a_server
from .unspecified import REQUESTS, assumed_of, enough_requests, require_limits, unspecified
from .values import KEPT

# Limits of single requests, which goodput is about, that a limit of a statistic of the same time stands for.
_OF_REQUESTS = {"ttft": "ttft_sla_s", "tpot": "tpot_sla_s", "latency": "request_sla_s"}
_NO_PREFIXES = "no prompt begins like another: where prompts share prefixes, an engine that caches them does better"
_SERVERS = "server.servers"
_WINDOWS = ("circular", "blocks")
_OF_ALL_REPLICAS = (_SERVERS, "server.routing", "server.lockstep")


@dataclass(frozen=True)
class Question:
    """What is to be decided."""

    sweep: Sweep
    """All configurations, each a point, on two replicas: as many as it takes for all rules to apply."""
    criteria: tuple[Criterion, ...]
    rate: float
    """Requests per second."""
    objective: str | None
    """Variable that is best when least (or most, `wants_more`); the largest ratio of value and limit when None."""
    confidence: float
    indifference: float
    replicas_max: int
    start: int
    """Replicas that the specification states; 1 where it does not."""
    gpu_price: float | None
    """Of one for an hour."""
    model: str
    budget: float
    """Requests that may be simulated."""
    budget_s: float
    """Seconds that may pass."""
    assumed: tuple[str, ...]
    """What stands for what nobody said, a line each."""
    spec: str | None
    """The specification, as it was named; None without one."""
    stated: dict[str, Any]
    """What stands over it in every configuration, by path."""
    parts: int | None
    """Of a recorded trace, each a replication, and no more than these; None where replications have no end."""

    @property
    def overlaps(self) -> bool:
        """Whether replications are windows of one recorded trace, which overlap: intervals are then too narrow."""
        traces = [point.workload.trace for point in self.sweep.grid.points]
        return any(trace is not None and trace.resample in _WINDOWS for trace in traces)

    @property
    def wants_more(self) -> bool:
        """Whether more of the objective is better."""
        return self.objective is not None and REGISTRY[self.objective].more_is_better

    def asked(self) -> dict[str, Any]:
        """Return what was asked beside the sweep, as JSON has it."""
        return {
            "limits": [criterion._asdict() for criterion in self.criteria],
            "rate_per_s": self.rate,
            "objective": self.objective,
            "confidence": self.confidence,
            "indifference": self.indifference,
            "replicas_max": self.replicas_max,
            "model": self.model or None,
            "gpu_price_per_hour": self.gpu_price,
            "budget_requests": None if math.isinf(self.budget) else self.budget,
            "budget_s": None if math.isinf(self.budget_s) else self.budget_s,
        }

    def table(self) -> dict[str, Any]:
        """Return all but the sweep and the budget as JSON has it; `question_of` makes it a question again."""
        return {name: value for name, value in vars(self).items() if name not in ("sweep", "budget", "budget_s")}

    def at(self, number: int) -> dict[str, Any]:
        """Return a configuration, by its number: value by axis."""
        grid = self.sweep.grid
        position = np.unravel_index(number, grid.shape) if grid.shape else ()
        return {axis.name: axis.labels[int(k)] for axis, k in zip(grid.axes, position, strict=True)}

    def given(self, number: int) -> dict[str, Any] | None:
        """Return what the scheduler of a replica is given to follow a configuration; None without a specification.

        See `sweeps.serving.given.Options`.
        """
        if self.spec is None:
            return None
        grid, chosen = self.sweep.grid, dict(self.stated)
        for axis, k in zip(grid.axes, np.unravel_index(number, grid.shape) if grid.shape else (), strict=True):
            chosen |= {".".join(map(str, path)): value for path, value in axis.sets[int(k)].items()}
        return {"spec": self.spec, "set": {path: v for path, v in chosen.items() if path not in _OF_ALL_REPLICAS}}

    def called(self, number: int) -> str:
        """Return a configuration in words."""
        return ", ".join(f"{name} = {value}" for name, value in self.at(number).items()) or "the only configuration"

    def on(self, replicas: int, numbers: Sequence[int]) -> list[Point]:
        """Return some configurations, by their numbers, on so many replicas each."""
        # With one replica nothing is routed, and nothing waits for another's step.
        routed: dict[str, Any] = {"routing": "round_robin", "lockstep": False} if replicas == 1 else {}
        return [
            point._replace(server=point.server.model_copy(update={"servers": replicas, **routed}))
            for point in (self.sweep.grid.points[number] for number in numbers)
        ]


def question_of(sweep: Sweep, table: Mapping[str, Any]) -> Question:
    """Return the question, without a budget, that was `Question.table`; its sweep is that of the specification."""
    criteria = tuple(Criterion(*one) for one in table["criteria"])
    unlimited = {"budget": math.inf, "budget_s": math.inf}
    return Question(sweep, **{**table, **unlimited, "criteria": criteria, "assumed": tuple(table["assumed"])})


def ask(
    spec: str | os.PathLike[str] | None = None,
    *,
    slo: Iterable[str] = (),
    goodput: float | None = None,
    rate: float | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    settings: Iterable[str] | Mapping[str, Any] = (),
    model: str | None = None,
    gpu: str | None = None,
    tensor_parallel: int | None = None,
    coefficients: str | os.PathLike[str] | None = None,
    lengths: str | os.PathLike[str] | None = None,
    trace: str | os.PathLike[str] | None = None,
    gpu_price: float | None = None,
    replicas_max: int = REPLICAS_MAX,
    objective: str | None = None,
    confidence: float = CONFIDENCE,
    indifference: float = INDIFFERENCE,
    budget: str | float | None = None,
) -> Question:
    """Return the question that arguments make; raises InputError with one line for each mistake."""
    slo, vary = list(slo), {} if vary is None else vary
    _require_numbers(
        goodput=goodput,
        rate=rate,
        gpu_price=gpu_price,
        replicas_max=replicas_max,
        tensor_parallel=tensor_parallel,
        confidence=confidence,
        indifference=indifference,
    )
    _require_texts(model=model, gpu=gpu, objective=objective, coefficients=coefficients, lengths=lengths, trace=trace)
    criteria = _criteria(slo, goodput)
    for mistake in in_other_units(text for text in slo if spec is None and "_ms" in text):
        raise mistake  # no engine is as fast; step times that somebody states may be
    budget_requests, budget_s = _budget(budget)
    instead = {
        "model": model,
        "gpu": gpu,
        "tensor_parallel": tensor_parallel,
        "coefficients": coefficients,
        "lengths": lengths,
        "trace": trace,
    }
    laid = _laid(spec, instead, rate, settings, vary)
    undecided = trace is not None and _take_resampling(laid.document)
    start = _take_replicas(laid.document, laid.source)
    limits = _limits_of_requests(laid.document, criteria)
    sweep, at_rate = _at_rate(laid, limits, rate)
    _require_plannable(sweep, criteria, objective, replicas_max)
    if spec is None and trace is None and REQUESTS not in {*laid.stated, *laid.varied}:
        sweep = _changed(sweep, {REQUESTS: enough_requests(sweep, _rate_of(sweep))})
    parts, replications = None, ""
    if sweep.grid.points[0].workload.trace is not None:
        sweep, parts, replications = _of_one_trace(sweep, undecided=undecided, stretched=rate is not None)
    return Question(
        sweep=sweep,
        criteria=criteria,
        rate=_rate_of(sweep),
        objective=objective,
        confidence=confidence,
        indifference=indifference,
        replicas_max=replicas_max,
        start=start,
        gpu_price=gpu_price,
        model=model or "",
        budget=budget_requests,
        budget_s=budget_s,
        assumed=_assumed(sweep.grid.points, replications, laid.said, limits, specified=spec is not None),
        spec=None if spec is None else os.fspath(spec),
        stated=laid.stated | at_rate,
        parts=parts,
    )


class _Laid(NamedTuple):
    """A specification with all that is stated and varied laid over it."""

    document: dict[str, Any]
    source: str
    stated: dict[str, Any]
    """By path."""
    varied: Collection[str]
    """Paths."""
    said: tuple[str, ...]
    """What was said in the words of others, a line each."""


def _laid(
    spec: str | os.PathLike[str] | None,
    instead: Mapping[str, Any],
    rate: float | None,
    settings: Iterable[str] | Mapping[str, Any],
    vary: Mapping[str, Sequence[Any]],
) -> _Laid:
    """Lay settings, and axes of what varies, over a specification, or over what stands `instead` of one."""
    if spec is None:
        document, source, folder = unspecified(**instead, rate=rate), "plan", Path.cwd()
    else:
        for name, value in instead.items():
            if value is not None:
                raise InputError("says what a `spec` says: leave out the one or the other", path=f"`{name}`")
        document, source, folder = read_document(spec)
    if not isinstance(vary, Mapping):
        raise InputError("must have lists of values by path, {'policy.bins': [1, 2]}", path="`vary`")
    for path in vary:
        if not isinstance(path, str):
            raise InputError("must be the path of a setting", path="`vary`", value=repr(path))
    told = [vllm.told(path) for path in vary]
    vary = _named_here(vary)
    overrides = list(overriding(settings))
    _require_variable(vary, {override.path for override in overrides})
    stated = {override.path: override.value for override in overrides if not override.path.startswith("axes.")}
    if document.get("axes"):
        stated = {"axes": {}} | stated
    document, said = laid_over(document, source, folder, overrides)
    if spec is None:
        require_limits(_table(document, "policy"), _table(document, "server"), vary)
    return _Laid(varied(document, vary), source, stated, vary, tuple(filter(None, dict.fromkeys((*said, *told)))))


def _at_rate(laid: _Laid, limits: Mapping[str, float], rate: float | None) -> tuple[Sweep, dict[str, float]]:
    """Return the sweep of a document with limits of requests, at a rate if one is asked for, and what sets that one."""
    if rate is not None:
        _take_rates(laid.document)
    sweep = Sweep.from_document(laid.document, laid.source, Path.cwd(), overriding(limits))
    if rate is None:
        return sweep, {}
    _require_no_axis(sweep)
    drawn, scale = RATE_PATHS
    is_drawn = sweep.grid.points[0].workload.trace is None
    at_rate = {drawn: rate} if is_drawn else {scale: rate / _recorded(sweep).natural}
    return _changed(sweep, at_rate), at_rate


def _changed(sweep: Sweep, settings: Mapping[str, Any]) -> Sweep:
    return Sweep.from_document(sweep.document, sweep.source, Path.cwd(), overriding(settings))


def _assumed(
    points: Sequence[Point], replications: str, said: Iterable[str], limits: Mapping[str, float], *, specified: bool
) -> tuple[str, ...]:
    """Return what stands for what nobody said, a line each."""
    kept = [f"{path} = {limit:g}" for path, limit in limits.items()]
    lines = (
        replications,
        *(() if specified else assumed_of(points)),
        *said,
        f"goodput counts requests that keep {all_of(kept)}, the limits asked for" if kept else "",
        *(() if specified else _length_of(points[0])),
        _NO_PREFIXES if any(map(leaves_caching, points)) else "",
    )
    return tuple(filter(None, lines))


def parse_goodput(text: str) -> float:
    """Return the least share that a text says; raises InputError for what is no number, limits of vLLM's benchmark."""
    try:
        return float(text)
    except ValueError:
        problem = limits_of_requests(text) or "must be a share, 0.95"
        raise InputError(problem, path="`goodput`", value=text) from None


def _length_of(point: Point) -> Iterator[str]:
    """Say how many requests a replication has, and how many of them are left out."""
    requests, report = point.workload.requests, point.report
    if requests is not None:
        share = report.warmup_fraction
        first = f"{report.warmup_requests or 0:,}" if share is None else in_percent(share)
        yield f"{requests:,} requests a replication, the first {first} left out"


def parse_vary(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Return what texts ``path=value,value`` say, values by path; raises InputError for others."""
    found: dict[str, list[Any]] = {}
    for text in texts:
        path, equals, spelled = (part.strip() for part in text.partition("="))
        if not (path and equals and spelled):
            raise InputError(
                "must be PATH=VALUE,VALUE,..., for instance policy.largest_batch=64,128", path="`vary`", value=text
            )
        if path in found:
            raise InputError("is given twice", path="`vary`", value=path)
        listed = value_of(spelled)
        found[path] = listed if isinstance(listed, list) else [value_of(part) for part in spelled.split(",")]
    return found


def _criteria(slo: Iterable[str], goodput: float | None) -> tuple[Criterion, ...]:
    slo = list(slo)
    texts = [*slo, *([] if goodput is None else [f"goodput={goodput:g}"])]
    if not texts:
        raise InputError("at least one limit is needed, for instance ttft_p99_s=2", path="`slo`")
    found = []
    for text in texts:
        try:
            found.append(parse_criterion(text))
        except InputError as error:
            name, given = ("`slo`", text) if text in slo else ("`goodput`", f"{goodput:g}")
            raise InputError(error.problem, path=name, value=given) from None
    names = [criterion[:2] for criterion in found]
    for criterion in found:
        if names.count(criterion[:2]) > 1:
            raise InputError("is given twice", path="`slo`", value=criterion.name)
    return tuple(found)


def _require_numbers(**given: object) -> None:
    """Refuse an argument that is no number, or out of its range; None is left out."""
    for name, number in given.items():
        if number is None:
            continue
        if not isinstance(number, int | float):
            raise InputError("must be a number", path=f"`{name}`", value=repr(number))
        if name in ("confidence", "indifference") and not 0.0 < number < 1.0:
            raise InputError("must be > 0 and < 1", path=f"`{name}`", value=f"{number:g}")
        if name in ("gpu_price", "rate") and not 0.0 < number < math.inf:
            raise InputError("must be a number > 0", path=f"`{name}`", value=f"{number:g}")
        if name in ("replicas_max", "tensor_parallel") and not (number >= 1 and number == int(number)):
            raise InputError("must be a whole number >= 1", path=f"`{name}`", value=f"{number:g}")


def _require_texts(**given: object) -> None:
    """Refuse an argument that is no text; None is left out, and a name of a file may be a path."""
    for name, text in given.items():
        if not isinstance(text, str | None if name in ("model", "gpu", "objective") else str | os.PathLike | None):
            raise InputError("must be a text", path=f"`{name}`", value=repr(text))


def _named_here(vary: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """Return what varies by its paths here, whatever the names that it is given by."""
    found: dict[str, Sequence[Any]] = {}
    for path, values in vary.items():
        own = vllm.path_here(path)
        if own in found:
            raise InputError("is given twice", path="`vary`", value=own)
        found[own] = values
    return found


def _require_variable(vary: Mapping[str, Any], stated: Collection[str]) -> None:
    for path, values in vary.items():
        if not isinstance(values, list | tuple):
            raise InputError("must be a list of values", path="`vary`", value=path)
        if path in stated:
            raise InputError("is what `settings` says", path="`vary`", value=path)
        if path == _SERVERS:
            raise InputError("is what a plan searches; `replicas_max` limits it", path="`vary`", value=path)
        if path in RATE_PATHS:
            raise InputError("is what `rate` says", path="`vary`", value=path)
        if (problem := cannot_vary(path)) is not None:
            raise InputError(problem, path="`vary`", value=path)
        if not values:
            raise InputError("needs at least one value", path="`vary`", value=path)


def _take_replicas(document: dict[str, Any], source: str) -> int:
    """Put two replicas in place of those that a document states, and return these: the search begins there."""
    for name, axis in _table(document, "axes").items():
        if _is_of(axis, (_SERVERS,)):
            raise InputError("how many is what a plan searches; remove the axis", file=source, path=f"axes.{name}")
    server = document.setdefault("server", {})
    if not isinstance(server, dict):
        return 1
    stated = server.get("servers", 1)
    server["servers"] = 2
    return stated if isinstance(stated, int) and not isinstance(stated, bool) and stated > 0 else 1


def _take_resampling(document: dict[str, Any]) -> bool:
    """Let replications be windows of a trace if a document does not say what they are; say whether that is so."""
    recorded = _table(_table(document, "workload"), "trace")
    if "resample" in recorded:
        return False
    recorded["resample"] = "blocks"
    return True


def _take_rates(document: dict[str, Any]) -> None:
    """Remove the axes whose values are arrival rates: another one is asked for."""
    axes = _table(document, "axes")
    for name in [name for name, axis in axes.items() if _is_of(axis, RATE_PATHS)]:
        del axes[name]
    arrivals = _table(document, "workload").get("arrivals")
    if isinstance(arrivals, dict):
        # As some rate is needed until that of a trace is known.
        arrivals["rate_per_s"] = arrivals.get("rate_per_s", 1.0)


def _table(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a table of a document; an empty one where it is missing or, a mistake told later, no table."""
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def _is_of(axis: Any, paths: Collection[str]) -> bool:
    return isinstance(axis, dict) and axis.get("path") in paths


def _limits_of_requests(document: Mapping[str, Any], criteria: Sequence[Criterion]) -> dict[str, float]:
    """Return what goodput counts as kept, by path: the limits asked for, where the report and the classes say none.

    Raises InputError where two of them are of one time: which of them a single request must keep nobody said.
    """
    workload, found = document.get("workload"), {}
    classes = workload.get("classes") if isinstance(workload, dict) else None
    tables = [document.get("report", {}), *(classes if isinstance(classes, list) else ())]
    if not any(criterion.variable == GOODPUT for criterion in criteria):
        return {}
    if any(not isinstance(table, dict) or any(name in table for name in REQUEST_LIMITS) for table in tables):
        return {}
    for criterion in criteria:
        name = _OF_REQUESTS.get(criterion.variable.partition("_")[0])
        if name is None or criterion.unit != "s":
            continue
        path = f"report.{name}"
        if path in found:
            problem = f"is the second limit of one time: say which single requests must keep, `settings` {path}=SECONDS"
            raise InputError(problem, path="`slo`", value=criterion.name)
        found[path] = criterion.limit
    return found


def _require_no_axis(sweep: Sweep) -> None:
    for axis in sweep.grid.axes:
        for path in RATE_PATHS:
            if path in axis.paths:
                raise InputError(
                    f"sets {path}, which `rate` sets; remove the axis", file=sweep.source, path=f"axes.{axis.name}"
                )


def _recorded(sweep: Sweep) -> Scalable:
    """Return the first point with the rate of its trace; reads the trace."""
    prepared = prepare(replace(sweep, grid=Grid((), sweep.grid.points[:1]), replications=1))
    return scalable(prepared.points[0])


def _of_one_trace(sweep: Sweep, *, undecided: bool, stretched: bool) -> tuple[Sweep, int | None, str]:
    """Return a sweep whose replications are of a recorded trace, how many parts it has, and what they are, in words.

    Replications are successive parts where the specification says so, or where it is `undecided` and there are enough
    for a first look; there is no number of windows, which overlap. Raises InputError for too few parts.
    """
    prepared = prepare(replace(sweep, replications=1)).points
    parts, requests = min(
        (len(one.recorded.arrival_s) // one.requests, one.requests) for one in prepared if one.recorded is not None
    )
    path = str(getattr(sweep.grid.points[0].workload.trace, "path", ""))
    sweep = sweep.repeated(FIRST)
    name, rate = Path(path).name, ", its times stretched to the rate" if stretched else ""
    if undecided and parts >= FIRST:
        sweep = _changed(sweep, {"workload.trace.resample": "parts"})
    if all(getattr(point.workload.trace, "resample", "") not in _WINDOWS for point in sweep.grid.points):
        if parts < FIRST:
            raise InputError(
                f"a plan takes {FIRST} replications or more, and {name} has {parts} parts of {requests:,} requests; "
                "set fewer workload.requests, or blocks",
                file=sweep.source,
                path="workload.trace.resample",
                value="parts",
            )
        said = f"replications are successive parts of {name}{rate}: there are {parts} of {requests:,} requests"
        return sweep, parts, said
    instead = (
        'workload.trace.resample = "parts" takes successive parts'
        if parts >= FIRST
        else f"for successive parts a plan takes {FIRST} of {requests:,} requests, and {name} has {parts or 'none'}"
    )
    return sweep, None, f"replications are windows of {name}{rate}; {instead}"


def _rate_of(sweep: Sweep) -> float:
    workload = sweep.grid.points[0].workload
    if workload.trace is not None:
        return _recorded(sweep).start
    return float(getattr(workload.arrivals, "rate_per_s", math.nan))


def _require_plannable(sweep: Sweep, criteria: Sequence[Criterion], objective: str | None, replicas_max: int) -> None:
    """Refuse what a plan cannot decide, with the point where it is."""
    one = {name for name in KEPT if name in REGISTRY and not REGISTRY[name].extra}
    if objective is not None and objective not in one:
        hints = (
            "must be a variable of one number, of mode continuous (batchcube variables)",
            did_you_mean(objective, one),
        )
        raise InputError("; ".join(filter(None, hints)), path="`objective`", value=objective)
    for position, point in zip(np.ndindex(sweep.grid.shape), sweep.grid.points, strict=True):
        if problem := _problem(point, criteria):
            raise refusal(sweep, InputError(problem), position)
        if replicas_max < (together := of_a_server(point)):
            problem = f"must be >= {together}, as coefficients are of so many that step together"
            raise InputError(problem, path="`replicas_max`", value=str(replicas_max))
    for axis in sweep.grid.axes:
        if _SERVERS in axis.paths:
            raise InputError(
                "sets server.servers, and how many is what a plan searches; leave it out",
                file=sweep.source,
                path=f"axes.{axis.name}",
            )
    rates = {getattr(point.workload.arrivals, "rate_per_s", None) for point in sweep.grid.points}
    if len(rates) > 1:
        raise InputError("configurations are compared at one arrival rate; give `rate`", file=sweep.source)


def _problem(point: Point, criteria: Sequence[Criterion]) -> str | None:
    workload = point.workload
    if not point.simulation.STEPWISE:
        return f'policy.mode = "{point.policy.mode}": plans are made of mode continuous only'
    if draws_service(point):
        return "server.service.draw = true: every replication has coefficients of its own, which none can be sure of"
    if workload.sessions is not None:
        return "workload.sessions: their rate is of sessions, and a plan is of requests; remove them"
    if isinstance(workload.arrivals, Closed):
        return 'workload.arrivals.process = "closed": who waits for answers brings no rate that replicas must carry'
    if workload.trace is None and not hasattr(workload.arrivals, "rate_per_s"):
        return f'workload.arrivals.process = "{getattr(workload.arrivals, "process", "")}": has no rate to plan for'
    if workload.trace is not None and workload.trace.resample == "none":
        return 'workload.trace.resample = "none": every replication would be the same; set "parts" or "blocks"'
    if point.server.routing == "by_bin":
        return 'server.routing = "by_bin": gives every replica a bin, so that there is no number of them to search'
    return next(filter(None, (never_measured(criterion, point) for criterion in criteria)), None)


def _budget(budget: str | float | None) -> tuple[float, float]:
    """Return requests and seconds that may be spent."""
    if budget is None:
        return math.inf, math.inf
    text = str(budget).strip()
    in_seconds = text.endswith("s")
    try:
        value = float(text.removesuffix("s"))
    except ValueError:
        value = math.nan
    if not value > 0:
        raise InputError("must be a number of requests, 2e6, or of seconds, 60s", path="`budget`", value=text)
    return (math.inf, value) if in_seconds else (value, math.inf)
