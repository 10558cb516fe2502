"""The answer of a plan as plain data: JSON, the attribute of its cube, and what is printed are made of it."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from batchcube.results import overload
from batchcube.results.selection import AT_LIMIT, BEATEN, CANNOT_TELL, FAILED, HOLDS
from batchcube.results.variables import GOODPUT

from ..run.criteria import Criterion
from ..spec.settings import Point
from .defaults import LATENCIES
from .question import Question
from .race import Decision, Race
from .serving import gpus_each, lines_to_serve, of_a_server, unsaid_of
from .values import AT_CAP, OUTPUT, Values

if TYPE_CHECKING:
    import xarray as xr

_HOUR_S = 3600.0
# From here on they bind: shares of steps at the cap, of the cache at its peak, of what can be served, of the budget.
_OFTEN, _FULL, _LOADED, _FILLED = 0.05, 0.95, 0.8, 0.5
At = dict[str, Any]
"""A configuration: value by axis."""


@dataclass(frozen=True)
class Limit:
    """What is known of a limit."""

    name: str
    limit: float
    unit: str
    verdict: str
    mean: float | None
    """None where requests were never served or the queue grows, and of a goodput of 1 where some are late."""
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Configuration:
    """A configuration on some replicas, and what became of it."""

    at: At
    replicas: int
    gpus: int
    state: str
    replications: int
    objective: float | None
    """Mean; None where requests were never served."""
    limits: tuple[Limit, ...]
    grows: bool
    """Whether it fails as its queue is known to grow."""


@dataclass(frozen=True)
class RunnerUp:
    """The next best, and how much more of the objective it has, by the same requests."""

    at: At
    replicas: int
    verdict: str
    """Of its limits: "holds", "at its limit" or "cannot tell"."""
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Fewer:
    """What is known of the next lower number of GPUs."""

    gpus: int
    verdict: str
    """"fails", or "cannot tell"."""
    nearest: Configuration
    assurance: float


@dataclass(frozen=True, repr=False)
class Answer:
    """What a plan came to."""

    title: str
    asked: dict[str, Any]
    axes: dict[str, list[Any]]
    """What may vary, and its values."""
    found: bool
    """Whether a configuration holds all limits."""
    best: Configuration
    """The best, or the nearest miss."""
    is_decided: bool
    assurance: float
    """That the best holds all limits, and that none is better by more than the indifference zone."""
    queue: str
    fewer: Fewer | None
    least_gpus: int
    """On which a replica of a configuration fits."""
    runner_up: RunnerUp | None
    tied: int
    """Configurations that are neither known to fail nor to be worse, beside the best."""
    binds: tuple[str, ...]
    measures: dict[str, float | None]
    """Of the best; fractions, tokens and seconds."""
    output_tokens_per_gpu_second: float | None
    cost_per_million_output_tokens: float | None
    cost_per_million_tokens: float | None
    commands: dict[str, str]
    """A line to paste for each engine."""
    unsaid: dict[str, list[str]]
    """Settings that were simulated, and that the line of an engine cannot carry."""
    races: tuple[dict[str, Any], ...]
    """For each number of GPUs, the fewest first: chance of error, and every configuration with its state."""
    rounds: tuple[dict[str, Any], ...]
    simulations: int
    requests: int
    """That were simulated."""
    full_grid_requests: int
    """That all configurations would have taken on each number of GPUs, each as often as the one that raced longest."""
    ended_early: bool
    is_hopeless: bool
    """Whether no configuration holds, and more GPUs seem to make no difference."""
    overlaps: bool
    """Whether replications are windows of one recorded trace: they overlap, and all of it is less sure than it says."""
    assumed: tuple[str, ...]
    notes: tuple[str, ...]
    cube: "xr.Dataset | None" = field(default=None, compare=False)
    """Of the race that decided: what was simulated of each configuration."""

    def as_dict(self) -> dict[str, Any]:
        """Return all but the cube as JSON has it."""
        found: dict[str, Any] = asdict(replace(self, cube=None))
        del found["cube"]
        return found

    def text(self) -> str:
        """Return the text of its JSON file."""
        return json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n"

    def __str__(self) -> str:
        """Return it in words, 80 columns wide."""
        from batchcube.results.planned import in_words

        return in_words(self.as_dict())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from batchcube.results.planned import as_html

        return as_html(self.as_dict())


def restored(table: Any, cube: "xr.Dataset") -> Answer:
    """Return the answer that its JSON and its cube hold."""
    again: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
    again["best"] = _restored_one(table["best"])
    if (fewer := table["fewer"]) is not None:
        again["fewer"] = Fewer(**{**fewer, "nearest": _restored_one(fewer["nearest"])})
    if table["runner_up"] is not None:
        again["runner_up"] = RunnerUp(**table["runner_up"])
    return Answer(**again, cube=cube)


def _restored_one(table: Mapping[str, Any]) -> Configuration:
    return Configuration(**{**table, "limits": tuple(Limit(**limit) for limit in table["limits"])})


def answer_of(
    question: Question,
    decision: Decision,
    values: Values,
    rounds: Sequence[dict[str, Any]],
    notes: Sequence[str],
    mean_prompts: Sequence[float],
    most_served: Callable[[int, int], float],
) -> Answer:
    """Return what a decision comes to; mean prompts are tokens by configuration, `most_served` requests/s of one."""
    race = decision.race
    found = race.found.best is not None
    where = race if found else decision.nearest
    place = int(where.largest.argmin()) if race.found.best is None else race.found.best
    number = int(where.numbers[place])
    best = _configuration(question, where, place)
    point = question.on(best.replicas, [number])[0]
    count = int(where.found.replications[place])
    report = {
        name: column.mean(axis=0)
        for name, column in values.report(where.same[[place]], where.replicas[[place]], count).items()
    }
    served = most_served(number, best.replicas)
    measures = _measures(point, report, mean_prompts[number])
    measures["load_fraction"] = question.rate / served
    per_gpu = _tokens_per_gpu(question, measures, best.gpus) if found else None
    requests = point.workload.requests or int(report["requests"])
    lower = max((gpus for gpus in decision.races if gpus < race.gpus), default=None)
    return Answer(
        title=question.sweep.title,
        asked=question.asked(),
        axes={axis.name: list(axis.labels) for axis in question.sweep.grid.axes},
        found=found,
        best=best,
        is_decided=race.found.is_decided,
        assurance=_assurance(decision, race.gpus),
        queue=race.queue,
        fewer=None if lower is None or not found else _fewer(question, decision, lower),
        least_gpus=min(gpus_each(one) * of_a_server(one) for one in question.sweep.grid.points),
        runner_up=_runner_up(question, race),
        tied=_tied(race) if found else 0,
        binds=tuple(_binds(measures)),
        measures={name: _finite(value) for name, value in measures.items()},
        output_tokens_per_gpu_second=per_gpu,
        cost_per_million_output_tokens=_cost(question, per_gpu, 1.0),
        cost_per_million_tokens=_cost(question, per_gpu, measures["output_tokens"] / measures["tokens"]),
        commands=lines_to_serve(question.model, point, question.given(number)) if found else {},
        unsaid=unsaid_of(point, has_specification=question.spec is not None) if found else {},
        races=tuple(_race(question, decision.races[gpus]) for gpus in sorted(decision.races)),
        rounds=tuple(rounds),
        simulations=values.simulations,
        requests=values.simulations * requests,
        full_grid_requests=_full_grid(question, decision, requests),
        ended_early=decision.ended_early,
        is_hopeless=decision.is_hopeless,
        overlaps=question.overlaps,
        assumed=question.assumed,
        notes=(*notes, *([] if found else _one_server(point)), *_too_short(question, report, requests, race.queue)),
    )


def _configuration(question: Question, race: Race, place: int) -> Configuration:
    number, replicas, found = int(race.numbers[place]), int(race.replicas[place]), race.found
    (point,) = question.on(replicas, [number])
    limits = tuple(
        _limit(criterion, found.verdicts[row, place], *(float(bound[row, place]) for bound in found.ratios[:3]))
        for row, criterion in enumerate(question.criteria)
    )
    objective = float(found.objective[place])
    if question.wants_more:
        objective = -objective
    return Configuration(
        at=question.at(number),
        replicas=replicas,
        gpus=replicas * gpus_each(point),
        state=str(found.states[place]),
        replications=int(found.replications[place]),
        objective=_finite(objective),
        limits=limits,
        grows=bool(race.grows[place]),
    )


def _limit(criterion: Criterion, verdict: str, mean: float, low: float, high: float) -> Limit:
    bounds = [bound * criterion.limit for bound in (mean, low, high)]
    if criterion.variable == GOODPUT:
        mean, low, high = (1.0 - ratio * (1.0 - criterion.limit) for ratio in (mean, high, low))
        bounds = [max(bound, 0.0) for bound in (mean, low, high)]
    return Limit(criterion.name, criterion.limit, criterion.unit, str(verdict), *map(_finite, bounds))


def _assurance(decision: Decision, gpus: int) -> float:
    """Return 1 - the error of the race on so many GPUs, and of all that kept configurations from it."""
    race = decision.races[gpus]
    if not race.found.is_decided and race.best is None:
        return 0.0
    own = race.found.assurance if race.best is not None else 1.0 - race.alpha
    return max(own + race.alpha - decision.alpha(gpus), 0.0)


def _fewer(question: Question, decision: Decision, gpus: int) -> Fewer:
    race = decision.races[gpus]
    surely = race.found.is_decided and bool((race.found.states == FAILED).all())
    nearest = _configuration(question, race, int(race.largest.argmin()))
    assurance = _assurance(decision, gpus) if surely else 0.0
    return Fewer(gpus, "fails" if surely else "cannot tell", nearest, assurance)


def _runner_up(question: Question, race: Race) -> RunnerUp | None:
    found = race.found
    if found.runner_up is None:
        return None
    mean, low, high = (float(bound) for bound in found.difference[:3])
    sign = -1.0 if question.wants_more else 1.0
    # What the best has less is what the runner-up has more.
    low, high = sorted((-sign * low, -sign * high))
    place = found.runner_up
    verdict = HOLDS if (found.verdicts[:, place] == HOLDS).all() else CANNOT_TELL
    if found.states[place] == AT_LIMIT:
        verdict = AT_LIMIT
    number = int(race.numbers[place])
    return RunnerUp(question.at(number), int(race.replicas[place]), verdict, -sign * mean, low, high)


def _tied(race: Race) -> int:
    """Return how many configurations are neither known to fail nor to be worse, beside the best."""
    states = np.delete(race.found.states, race.found.best or 0)
    return int((~np.isin(states, (FAILED, BEATEN, AT_LIMIT))).sum())


def _race(question: Question, race: Race) -> dict[str, Any]:
    every = [asdict(_configuration(question, race, place)) for place in range(len(race.numbers))]
    configurations = [{**one, "limits": list(one["limits"])} for one in every]
    states = Counter(race.found.states.tolist())
    about = {"gpus": race.gpus, "alpha": race.alpha, "is_decided": race.found.is_decided, "states": dict(states)}
    return about | {"configurations": configurations}


def _full_grid(question: Question, decision: Decision, requests: int) -> int:
    """Return the requests of all configurations in as many replications as the longest look of each race."""
    looked = sum(int(race.found.replications.max()) for race in decision.races.values())
    return looked * len(question.sweep.grid.points) * requests


# What binds, and what it costs ----------------------------------------------------------------------------------------


def _measures(point: Point, report: Mapping[str, Any], mean_prompt: float) -> dict[str, Any]:
    """Return what was measured of the best; NaN where nothing was."""
    replica = point.server.replica
    assert replica is not None
    output = float(report[OUTPUT])
    past_warm_up = float(report["measured"]) + float(report["missed"])
    return {
        "busy_fraction": float(report["utilisation"]),
        "kv_peak_fraction": float(report["kv_peak_tokens"]) / replica.held_tokens,
        "preemptions_per_request": float(report["preemptions"]) / float(report["requests"]),
        "budget_fraction": float(report["step_tokens_mean"]) / replica.token_budget,
        "steps_at_cap_fraction": float(report[AT_CAP]),
        "batch_size_mean": float(report["batch_size_mean"]),
        "served_fraction": float(report["measured"]) / past_warm_up,
        "output_tokens": output,
        "tokens": output + mean_prompt,
        "ttft_mean_s": float(report["ttft_mean_s"]),
        "tpot_mean_s": float(report["tpot_mean_s"]),
        "latency_mean_s": float(report["latency_mean_s"]),
        "goodput_fraction": float(report["goodput_fraction"]),
    }


def _binds(measures: Mapping[str, Any]) -> Iterator[str]:
    if measures["kv_peak_fraction"] >= _FULL or measures["preemptions_per_request"] > 0.0:
        yield "KV cache"
    if measures["steps_at_cap_fraction"] >= _OFTEN:
        yield "cap on running requests"
    if measures["budget_fraction"] >= _FILLED:
        yield "token budget"
    if measures["load_fraction"] >= _LOADED:
        yield "compute"


def _tokens_per_gpu(question: Question, measures: Mapping[str, Any], gpus: int) -> float:
    """Return output tokens of a GPU in a second at the rate asked for, that of a run being less as it ends.

    Requests that were never served have none.
    """
    return float(question.rate * measures["served_fraction"] * measures["output_tokens"] / gpus)


def _cost(question: Question, per_gpu: float | None, share: float) -> float | None:
    if question.gpu_price is None or per_gpu is None:
        return None
    return question.gpu_price / _HOUR_S / per_gpu * 1e6 * share


def _one_server(point: Point) -> Iterator[str]:
    if (together := of_a_server(point)) > 1:
        yield (
            f"coefficients are of {together} replicas that step together: no more were looked at, as another "
            f"{together} are a server of their own; ask with the share of the rate that one is to serve"
        )


def _too_short(question: Question, report: Mapping[str, Any], requests: int, queue: str) -> Iterator[str]:
    span, latency = requests / question.rate, float(report["latency_mean_s"])
    still_grows = queue == overload.CANNOT_TELL and float(report["backlog_growth_fraction"]) > overload.STEADY_GROWTH
    if span < LATENCIES * latency or still_grows:
        enough = math.ceil(max(LATENCIES * latency, 2 * span if still_grows else 0.0) * question.rate)
        yield (
            f"a replication lasts about {span:.3g} s, and a request {latency:.3g} s: how it begins and ends weighs in; "
            f"take workload.requests = {enough} or more"
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
