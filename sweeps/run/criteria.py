"""What must hold at a rate for it to count: limits on latency, and how they are spelled."""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.calibration.units import limit_in_other_unit
from batchcube.engine.statistics import BATCHES, CONTINUOUS, QUANTILES
from batchcube.errors import InputError, did_you_mean, one_of
from batchcube.results.costs import NOT_MEASURED
from batchcube.results.names import Statistic, statistic_of
from batchcube.results.text import all_of
from batchcube.results.variables import GOODPUT, MANY_REFUSED, REGISTRY

from ..spec.settings import REQUEST_LIMITS, CoefficientsLaw, Point
from ..workloads.settings import FloatArray
from .laws import unmeasured_costs


class Criterion(NamedTuple):
    """A limit that a statistic of a replication must not exceed; the goodput must not fall below it."""

    variable: str
    quantile: float | None
    limit: float
    """In the variable's unit: seconds, or a fraction."""

    def ratios(self, values: FloatArray) -> FloatArray:
        """Return each value of the statistic in units of what is allowed; of a goodput, the share that falls short."""
        found = 1.0 - values if self.variable == GOODPUT else values
        return found / self._allowed if self._allowed > 0.0 else np.where(found > 0.0, np.inf, 0.0)

    def of_one(self, requests: FloatArray) -> FloatArray:
        """Return by how much one request of so many moves the ratio of a share; 0 of times, and if none is allowed."""
        return 1.0 / (self._allowed * requests) if self.variable in _SHARES and self._allowed > 0.0 else 0.0 * requests

    @property
    def _allowed(self) -> float:
        return 1.0 - self.limit if self.variable == GOODPUT else self.limit

    def values(self, report: Mapping[str, NDArray[Any]]) -> FloatArray:
        """Return the statistic (job,) of a report with leading axis job; InputError where there is none.

        A request that is never served, or whose answer is cut off, is late for ever: a quantile among such is infinite,
        and so is a maximum where there is one. A mean, which any single one would make so, forgives `MANY_REFUSED`.
        Mean and maximum forgive whom batches leave in a bin: a longer run would have served them.
        """
        if self.variable not in report:
            raise InputError("is not measured by this policy; choose another criterion", path=self.variable)
        values = report[self.variable]
        found = np.asarray(values if self.quantile is None else values[:, QUANTILES.index(self.quantile)], np.float64)
        if self.variable not in _SHARES:
            every, late = report["measured"] + report["missed"], never_in_time(report)
            if self.quantile is None and "truncated" not in report:  # whole batches: nobody is turned away
                late = np.where(report["measured"] == 0, late, 0)
            forgiving = 1.0 - MANY_REFUSED if self.variable.endswith("_mean_s") else 1.0
            rank = np.ceil((forgiving if self.quantile is None else self.quantile) * every)
            found = np.where(rank > every - late, np.inf, found)
        if np.isnan(found).any():
            raise InputError("has no value where nothing was measured; choose another criterion", path=self.variable)
        return found

    @property
    def name(self) -> str:
        """Name of the statistic, as a user writes it, in seconds."""
        named = {variable: name for name, variable in _SPELLED.items()}
        return named.get(self.variable) or Statistic(self.variable, self.quantile).name

    @property
    def unit(self) -> str:
        """Unit of the limit and the statistic."""
        return "1" if self.variable in _SHARES else "s"


def never_in_time(report: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return how many requests past the warm-up (job,) were never served, or not to the end of their answers."""
    missed, cut = report["missed"], report.get("truncated")
    return missed if cut is None else missed + cut


_WITH_UNIT = re.compile(r"([0-9.]+) ?(s|ms)")
_OF_OTHERS = {"itl": "tbt", "e2e": "latency", "e2el": "latency"}
"""Times as vLLM's and others' benchmarks call them."""
_BETWEEN = re.compile(r"[\s_-]+")
_OF_A_REQUEST = re.compile(r"=?(ttft|tpot|e2el):([0-9]+\.?[0-9]*)")
_LIMITED = {"ttft": "ttft_sla_s", "tpot": "tpot_sla_s", "e2el": "request_sla_s"}
"""Limits of single requests, in milliseconds, as `vllm bench serve --goodput` takes them."""
_TIMES = ("latency", "wait", "ttft", "tpot", "tbt")
_STATISTICS = {
    "mean": ("mean_s", None),
    "max": ("max_s", None),
    **{f"p{round(100 * q)}": ("quantile_s", q) for q in QUANTILES},
}
_UNITS = ("ms", "s")
_OF_TIMES = [(f"{time}_{ending}", quantile) for time in _TIMES for ending, quantile in _STATISTICS.values()]
_FRACTIONS = {
    "request_sla_violation_fraction": "request_sla_s",
    "token_sla_violation_fraction": "token_sla_s",
}
_SHARES = (*_FRACTIONS, GOODPUT)
_SPELLED = {name: name for name in _FRACTIONS} | {"goodput": GOODPUT}
"""Shares as a user writes them."""
_OF_TOKENS = ("ttft_", "tpot_", "tbt_", "token_sla_")
_OF_ONE_KIND = BATCHES.variables ^ CONTINUOUS.variables
"""Variables that are measured of whole batches only, or of steps only."""


def parse_criterion(text: str) -> Criterion:
    """Read a criterion, ``tbt_mean_ms=50`` or ``request_sla_violation_fraction=0.01``; raises InputError."""
    if (problem := limits_of_requests(text.removeprefix("goodput"))) is not None:
        raise InputError(problem, path="`slo`", value=text)
    name, is_given, spelled = (part.strip() for part in text.partition("="))
    if name not in _SPELLED and (given := _WITH_UNIT.fullmatch(spelled)) is not None:
        stated = f"{name.removesuffix('_ms').removesuffix('_s')}_{given[2]}={given[1]}"
        raise InputError(f"the unit of a limit stands in its name: {stated}", path="`slo`", value=text)
    try:
        meant = None if name in _SPELLED else statistic_of(name)
    except InputError:
        meant = Statistic("")
    if meant is not None and meant[:2] not in _OF_TIMES:
        known = [f"{time}_{statistic}_{unit}" for time in _TIMES for statistic in _STATISTICS for unit in _UNITS]
        meant_here = _as_here(name, known)
        near = did_you_mean(meant_here, [meant_here] if meant_here in known else [*known, *_SPELLED])
        raise InputError(
            f"must be NAME_STAT_UNIT=LIMIT with NAME {one_of(_TIMES)}, STAT {one_of(_STATISTICS)}, "
            f"UNIT {one_of(_UNITS)}; or one of {', '.join(f'{name}=LIMIT' for name in _SPELLED)}"
            f"{near and f'; {near}'}",
            path="`slo`",
            value=text,
        )
    try:
        limit = float(spelled)
    except ValueError:
        limit = math.nan
    if name == "goodput" and not 0.0 < limit <= 1.0:
        raise InputError("the least share must be a number > 0 and <= 1", path="`slo`", value=text)
    if name in _FRACTIONS and not 0.0 <= limit < 1.0:
        raise InputError("the limit must be a number >= 0 and < 1", path="`slo`", value=text)
    if meant is None:
        return Criterion(_SPELLED[name], None, limit)
    if not is_given:
        raise InputError(f"write {name}=LIMIT", path="`slo`", value=text)
    if not 0.0 < limit < math.inf:
        raise InputError("the limit must be a number > 0", path="`slo`", value=text)
    return Criterion(meant.variable, meant.quantile, limit / meant.scale)


def in_other_units(texts: Iterable[str]) -> Iterator[InputError]:
    """Yield what is said of criteria, as they are spelled, whose limits seem to be meant in another unit."""
    for text in texts:
        name, _, spelled = (part.strip() for part in text.partition("="))
        if (doubt := limit_in_other_unit(name, float(spelled))) is not None:
            yield InputError(doubt, path="`slo`", value=text)


def limits_of_requests(text: str) -> str | None:
    """Return what is said of limits of single requests as vLLM's benchmark takes them, ``ttft:2000 tpot:50``."""
    found = [_OF_A_REQUEST.fullmatch(word) for word in text.split()]
    if not found or not all(found):
        return None
    stated = " ".join(f"`settings` report.{_LIMITED[one[1]]}={float(one[2]) / 1e3:g}" for one in found if one)
    return f"is what single requests must keep, in milliseconds: {stated}; the goodput is the share that keeps all"


def _as_here(name: str, known: Collection[str]) -> str:
    """Return a name that others use, `p99 ttft ms` or `itl_mean_s`, as it is known here; others as they are."""
    parts = [_OF_OTHERS.get(part, part) for part in _BETWEEN.split(name.lower().strip("<>= "))]
    return next((one for one in known if sorted(one.split("_")) == sorted(parts)), "_".join(parts))


def without_values(variable: str, point: Point) -> str | None:
    """Say why no replication of a point has a value of a variable, None where nothing speaks against it."""
    in_seconds, simulation = point.workload.in_seconds, point.simulation
    if variable in _FRACTIONS and getattr(point.report, _FRACTIONS[variable]) is None:
        return f"needs report.{_FRACTIONS[variable]}, beyond which it counts as a violation"
    promises = (point.report, *(point.workload.classes or ()))
    if variable == GOODPUT and not any(getattr(one, name) for one in promises for name in REQUEST_LIMITS):
        limits = one_of([f"report.{name}" for name in REQUEST_LIMITS if name == "request_sla_s" or not in_seconds])
        return f"needs a limit, {limits}{', or one of a class' if simulation.STEPWISE else ''}"
    if variable.startswith(_OF_TOKENS) and in_seconds:
        return 'needs tokens, and workload.lengths.unit is "seconds"'
    if "class" in REGISTRY[variable].extra and not point.workload.class_names:
        return "needs workload.classes"
    if variable in _OF_ONE_KIND and variable not in simulation.CATALOGUE.variables:
        return f'is measured {"without" if simulation.STEPWISE else "with"} policy.mode = "continuous" only'
    return None


def never_measured(criterion: Criterion, point: Point) -> str | None:
    """Say why a point has no statistic to hold against a criterion, None where it has."""
    variable = criterion.variable
    if (why := without_values(variable, point)) is not None:
        named = "goodput" if variable == GOODPUT else variable
        return f"{named}: {why}{'; use tbt' if variable.startswith('tpot_') and not point.simulation.STEPWISE else ''}"
    unknown = [name for name in unmeasured_costs(point) if name in REGISTRY[variable].rests_on]
    if unknown:
        law = point.server.service
        of = f" by coefficients {law.coefficients}" if isinstance(law, CoefficientsLaw) else " in server.service"
        advice = "take other coefficients" if isinstance(law, CoefficientsLaw) else "give it (0: it costs nothing)"
        return f"{variable}: rests on {all_of(unknown)}, {NOT_MEASURED}{of}; {advice}, or choose another criterion"
    return None
