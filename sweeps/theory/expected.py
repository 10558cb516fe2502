"""What the theory of binned batches says about one point of a sweep, where it says anything."""

import math
from typing import NamedTuple

import numpy as np
import scipy  # its parts are loaded when they are used

from batchcube.calibration.coefficients import BatchCoefficients
from batchcube.engine.batches.model import FIXED

from ..spec import service as coefficients
from ..spec.settings import CoefficientsLaw, ConstantLaw, GrowingLaw, Point, TableLaw
from ..workloads.lengths import (
    Constant,
    Empirical,
    Exponential,
    LengthDistribution,
    Lognormal,
    Mixture,
    Uniform,
    Zipf,
)
from ..workloads.predictors import Adjacent, Confusion, Oracle
from ..workloads.settings import FloatArray
from . import bins as theory
from . import distributions

MOST_BINS = 256
"""Bins whose batches are integrated: each takes milliseconds, and a sweep may have many numbers of bins."""


class Expected(NamedTuple):
    """Theory's values at one point; NaN where no theory applies."""

    throughput_requests_per_s: float = np.nan
    """Saturation throughput ([MB] Prop. 4.1, exact for the point's edges and predictor); finitely many servers."""
    throughput_limit_requests_per_s: float = np.nan
    """The same for ever more bins and no errors (c_max)."""
    latency_s: float = np.nan
    """Mean latency ([MB] Lemma 5.1); infinitely many servers and Poisson arrivals."""


@np.errstate(under="ignore")
def batches_of(point: Point, edges: FloatArray | None) -> theory.BinnedBatches | None:
    """Return the means of full batches where bins are cut at ``edges`` (bins + 1,), None for one bin.

    Theory covers the modes with batches of fixed size without a maximum wait, drawn workloads, a service law that is a
    formula in the length alone, predictors that give the truth or err by a matrix, and up to `MOST_BINS` bins; None
    where it does not. The arrivals do not matter.
    """
    workload, policy, server = point.workload, point.policy, point.server
    service, lengths, predictor = server.service, workload.lengths, workload.predictor
    if policy.mode not in FIXED or policy.batch_size is None or policy.max_wait_s is not None:
        return None
    by_table = isinstance(service, TableLaw) or (isinstance(service, CoefficientsLaw) and service.h == "table")
    if lengths is None or by_table or not isinstance(predictor, Oracle | Adjacent | Confusion):
        return None
    if lengths.gives_prompt and getattr(service, "length", "output") == "total":
        return None
    law = law_of(lengths)
    if law is None:
        return None
    cut = np.array([0.0, np.inf]) if edges is None else edges
    bins = cut.size - 1
    if bins > MOST_BINS:
        return None
    confusion: FloatArray | None = None
    if isinstance(predictor, Adjacent):
        confusion = theory.adjacent_confusion(bins, predictor.error_probability)
    elif isinstance(predictor, Confusion) and bins > 1:
        confusion = predictor.probabilities(bins)
    intercept, slope = 0.0, 1.0
    if service.law != "given":
        from batchcube.engine.policies.service import batch_factor

        fitted = coefficients.law_of(service) if isinstance(service, CoefficientsLaw) else service
        assert isinstance(fitted, ConstantLaw | GrowingLaw | BatchCoefficients)
        h = fitted.h if isinstance(fitted, BatchCoefficients) else fitted.law
        gamma = 0.0 if isinstance(fitted, ConstantLaw) else fitted.gamma
        intercept = fitted.a0_s or 0.0
        slope = fitted.a1_s_per_token * float(batch_factor(policy.batch_size, h, gamma))
    return theory.binned_batches(law, policy.batch_size, cut, confusion=confusion, intercept_s=intercept, slope_s=slope)


def expected(point: Point, batches: theory.BinnedBatches | None) -> Expected:
    """Return what theory says about a point with these batches; nothing where a value is not finite."""
    server, arrivals = point.server, point.workload.arrivals
    if batches is None or not batches.service_mean_s > 0:
        return Expected()
    if server.servers != "infinite":
        count = int(server.servers)
        said = Expected(batches.throughput_requests_per_s(count), batches.throughput_limit_requests_per_s(count))
    elif arrivals is not None and arrivals.process == "poisson" and server.completion == "batch":
        said = Expected(latency_s=batches.latency_s(arrivals.rate_per_s))
    else:
        said = Expected()
    return Expected(*(value if np.isfinite(value) else np.nan for value in said))


# Hopelessly rare lengths have no probability, as they should.
@np.errstate(under="ignore")
def law_of(lengths: LengthDistribution) -> theory.Lengths | None:
    """Return the distribution that a workload's output lengths (service times) follow; None for mixtures in seconds."""
    if isinstance(lengths, Mixture):
        parts = [law_of(component) for component in lengths.components]
        laws = [part for part in parts if isinstance(part, theory.DiscreteLengths)]
        if len(laws) < len(parts):
            return None
        weights = [w * law.probabilities for w, law in zip(lengths.weights, laws, strict=True)]
        return theory.discrete(np.concatenate([law.values for law in laws]), np.concatenate(weights))
    if isinstance(lengths, Empirical):
        return theory.empirical(lengths.table().length)
    if isinstance(lengths, Constant):
        return theory.discrete([lengths.value], [1.0])
    if isinstance(lengths, Uniform | Exponential | Lognormal):
        return _continuous(lengths) if lengths.unit == "seconds" else _in_tokens(lengths)
    distribution = lengths.scipy_distribution()
    if isinstance(lengths, Zipf):
        values = np.arange(1.0, lengths.largest + 1.0)
        return theory.discrete(values, np.diff(distribution.cdf(values), prepend=0.0))
    if lengths.unit == "seconds":
        return distribution
    # In tokens a bar holds the whole numbers from its lower edge up to below its upper one, and 0 counts as 1.
    values = np.arange(np.floor(distribution.support()[0]), np.ceil(distribution.support()[1]))
    return theory.discrete(np.maximum(values, 1.0), np.diff(distribution.cdf(np.append(values, values[-1] + 1.0))))


def _continuous(lengths: Uniform | Exponential | Lognormal) -> theory.Distribution:
    """Return the law of lengths before anything is rounded to whole tokens."""
    if isinstance(lengths, Uniform):
        return distributions.Uniform(lengths.low, lengths.high)
    if isinstance(lengths, Exponential):
        return distributions.Exponential(lengths.mean)
    variance = math.log1p(lengths.cv**2)
    return distributions.Lognormal(math.sqrt(variance), lengths.mean * math.exp(-variance / 2))


def _in_tokens(lengths: Uniform | Exponential | Lognormal) -> theory.DiscreteLengths:
    """Return the law of whole output tokens."""
    if isinstance(lengths, Uniform):
        values = np.arange(lengths.low, lengths.high + 1.0)
        return theory.discrete(values, np.ones_like(values))
    if isinstance(lengths, Exponential):
        from scipy import stats

        return theory.on_atoms(stats.geom(1.0 / lengths.mean))
    scale = lengths.scale_in_tokens(1)
    shortened = lengths.model_copy(update={"mean": scale * lengths.mean})
    sigma = math.sqrt(math.log1p(lengths.cv**2))

    def limited_mean(limit: FloatArray) -> FloatArray:
        z = np.log(limit / shortened.mean) / sigma + sigma / 2
        return np.asarray(shortened.mean * scipy.special.ndtr(z - sigma) + limit * scipy.special.ndtr(-z))

    return theory.rounded_at_random(_continuous(shortened), limited_mean)
