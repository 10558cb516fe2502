"""What must hold at a rate for it to count: limits on latency, and how they are spelled."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.engine.statistics import QUANTILES
from batchcube.errors import InputError
from batchcube.results.costs import NOT_MEASURED
from batchcube.results.text import all_of, did_you_mean, one_of
from batchcube.results.variables import REGISTRY

from ..spec.settings import CoefficientsLaw, Point
from ..workloads.settings import FloatArray
from .laws import unmeasured_costs


class Criterion(NamedTuple):
    """A limit that a statistic of a replication must not exceed."""

    variable: str
    quantile: float | None
    limit: float
    """In the variable's unit: seconds, or a fraction."""

    def values(self, report: Mapping[str, NDArray[Any]]) -> FloatArray:
        """Return the statistic (job,) of a report with leading axis job; InputError where there is none.

        A request that is never served, or whose answer is cut off, is late for ever: a quantile among such is infinite,
        and so are mean and maximum where there is one.
        """
        if self.variable not in report:
            raise InputError("is not measured by this policy; choose another criterion", path=self.variable)
        values = report[self.variable]
        found = np.asarray(values if self.quantile is None else values[:, QUANTILES.index(self.quantile)], np.float64)
        if self.variable not in _FRACTIONS:
            every, late = report["measured"] + report["missed"], never_in_time(report)
            rank = every if self.quantile is None else np.ceil(self.quantile * every)
            found = np.where(rank > every - late, np.inf, found)
        if np.isnan(found).any():
            raise InputError("has no value where nothing was measured; choose another criterion", path=self.variable)
        return found

    @property
    def unit(self) -> str:
        """Unit of the limit and the statistic."""
        return "1" if self.variable in _FRACTIONS else "s"


def never_in_time(report: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return how many requests past the warm-up (job,) were never served, or not to the end of their answers."""
    missed, cut = report["missed"], report.get("truncated")
    return missed if cut is None else missed + cut


_TIMES = ("latency", "wait", "ttft", "tpot", "tbt")
_STATISTICS = {
    "mean": ("mean_s", None),
    "max": ("max_s", None),
    **{f"p{round(100 * q)}": ("quantile_s", q) for q in QUANTILES},
}
_PER_SECOND = {"ms": 1000.0, "s": 1.0}
_FRACTIONS = {
    "request_sla_violation_fraction": "request_sla_s",
    "token_sla_violation_fraction": "token_sla_s",
}
_OF_TOKENS = ("ttft_", "tpot_", "tbt_", "token_sla_")


def parse_criterion(text: str) -> Criterion:
    """Read a criterion, ``tbt_mean_ms=50`` or ``request_sla_violation_fraction=0.01``; raises InputError."""
    name, _, spelled = (part.strip() for part in text.partition("="))
    parts = re.fullmatch(r"([a-z]+)_([a-z0-9]+)_([a-z]+)", name)
    if name not in _FRACTIONS and not (
        parts and parts[1] in _TIMES and parts[2] in _STATISTICS and parts[3] in _PER_SECOND
    ):
        known = [f"{time}_{statistic}_{unit}" for time in _TIMES for statistic in _STATISTICS for unit in _PER_SECOND]
        near = did_you_mean(name, [*known, *_FRACTIONS])
        raise InputError(
            f"must be NAME_STAT_UNIT=LIMIT with NAME {one_of(_TIMES)}, STAT {one_of(_STATISTICS)}, "
            f"UNIT {one_of(_PER_SECOND)}; or one of {', '.join(f'{name}=LIMIT' for name in _FRACTIONS)}"
            f"{near and f'; {near}'}",
            path=f"--sla {text}",
        )
    try:
        limit = float(spelled)
    except ValueError:
        limit = math.nan
    if parts is None or name in _FRACTIONS:
        if not 0.0 <= limit < 1.0:
            raise InputError("the limit must be a number >= 0 and < 1", path=f"--sla {text}")
        return Criterion(name, None, limit)
    if not 0.0 < limit < math.inf:
        raise InputError("the limit must be a number > 0", path=f"--sla {text}")
    ending, quantile = _STATISTICS[parts[2]]
    return Criterion(f"{parts[1]}_{ending}", quantile, limit / _PER_SECOND[parts[3]])


def never_measured(criterion: Criterion, point: Point) -> str | None:
    """Say why a point has no statistic to hold against a criterion, None where it has."""
    variable = criterion.variable
    if variable in _FRACTIONS and getattr(point.report, _FRACTIONS[variable]) is None:
        return f"{variable}: needs report.{_FRACTIONS[variable]}, beyond which it counts as a violation"
    if variable.startswith(_OF_TOKENS) and point.workload.in_seconds:
        return f'{variable}: needs tokens, and workload.lengths.unit is "seconds"'
    if variable.startswith("tpot_") and not point.simulation.STEPWISE:
        return f'{variable}: is measured with policy.mode = "continuous" only; use tbt'
    unknown = [name for name in unmeasured_costs(point) if name in REGISTRY[variable].rests_on]
    if unknown:
        law = point.server.service
        of = f" by coefficients {law.coefficients}" if isinstance(law, CoefficientsLaw) else " in server.service"
        advice = "take other coefficients" if isinstance(law, CoefficientsLaw) else "give it (0: it costs nothing)"
        return f"{variable}: rests on {all_of(unknown)}, {NOT_MEASURED}{of}; {advice}, or choose another criterion"
    return None
