"""What fits leave open: laws drawn from their errors, and laws that are off by so much."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchcube.engine.continuous.steps import STEP_TERMS
from batchcube.errors import InputError

from .coefficients import (
    BENDS_WITHIN,
    KNEE_TOKENS,
    UNCERTAIN,
    BatchCoefficients,
    FittedLog,
    StepCoefficients,
    StepErrors,
    Uncertain,
    correlation_of,
)


def drawn(law: BatchCoefficients, rng: np.random.Generator) -> BatchCoefficients:
    """Draw coefficients from what the fit leaves open: multivariate t around the estimate.

    A draw below 0 is set to 0, a1 to a thousandth of its estimate. Raises InputError where the errors are not known, or
    a1 is less than four of its standard errors.
    """
    errors = law.standard_errors
    if law.covariance is None or law.degrees_of_freedom < 1:
        raise InputError("nothing is known of the coefficients' errors")
    if errors[1] is None or law.a1_s_per_token < 4 * errors[1]:
        raise InputError("a1_s_per_token is less than four of its standard errors: draws could be negative")
    covariance = np.array(law.covariance)
    free = np.flatnonzero(np.diag(covariance) > 0)
    scale = np.sqrt(np.diag(covariance)[free])
    correlation = correlation_of(covariance[np.ix_(free, free)])
    least = float(np.linalg.eigvalsh(correlation).min(initial=0.0))
    root = np.linalg.cholesky(correlation + (1e-12 - least) * np.eye(free.size))
    # Normal deviates over the root of a chi-squared one: a t distribution, as the scatter itself was estimated.
    heavy = math.sqrt(law.degrees_of_freedom / rng.chisquare(law.degrees_of_freedom))
    values = np.array([law.a0_s, law.a1_s_per_token, law.gamma])
    values[free] += scale * (root @ rng.standard_normal(free.size)) * heavy
    a0, a1, gamma = values.tolist()
    return law.model_copy(
        update={
            "a0_s": max(a0, 0.0),
            "a1_s_per_token": max(a1, law.a1_s_per_token / 1000),
            "gamma": min(max(gamma, 0.0), 100.0),
        }
    )


def drawn_steps(law: StepCoefficients, rng: np.random.Generator, fitted: FittedLog | None = None) -> StepCoefficients:
    """Draw a step law from what its errors leave open: multivariate t around the estimates, nothing below 0.

    Of a law that was ``fitted`` to a log, nothing is less than what was open to the fit, and all of it is faster or
    slower by the drift that the log shows. How single steps scatter, and times to first token beyond them, is left out.
    Raises InputError where the errors are not known; where c0 (c1 where that is 0), the term that every decode step
    has, or a table of them is less than four of its standard errors; and where a scale is off, or the speed drifts, by
    more than a quarter.
    """
    errors = law.errors
    if errors is None or errors.degrees_of_freedom < 1:
        raise InputError("nothing is known of the errors of a step's coefficients")
    covariance = np.array(errors.covariance)
    free = np.flatnonzero(np.diag(covariance) > 0)
    scale = np.sqrt(np.diag(covariance)[free])
    names = [errors.of[at] for at in free]
    always = "c0_s" if law.c0_s or law.decode is not None else "c1_s_per_request"
    shortest = (getattr(law, always) or 0.0) if law.decode is None else law.decode.s[1]
    for name, error in zip(names, scale.tolist(), strict=True):
        if name not in (*STEP_TERMS, "client") and error > 0.25:
            raise InputError(f"{name} may be off by {error:.2g} of it: draws could be negative")
        if name == always and shortest < 4.0 * error:
            raise InputError(f"{name} is less than four of its standard errors: draws could be negative")
    if fitted is None:
        return shifted(law, drawn_off(law, errors, {}, rng))
    drift = 0.0 if fitted.scatter is None else fitted.scatter.drift
    if drift > 0.25:
        raise InputError(f"the speed drifts by {drift:.2g} of it: draws could be negative")
    off = drawn_off(law, errors, fitted.least, rng)
    return shifted(shifted(law, off), {"speed": rng.normal(0.0, drift)})


def drawn_off(
    law: StepCoefficients, errors: StepErrors, least: Mapping[Uncertain, float], rng: np.random.Generator
) -> dict[Uncertain, float]:
    """Draw what a step law is off by: multivariate t, nothing below ``least`` where that is given.

    What would bring a term below 0 is moved to the likeliest place where none is, as a fit would have been: the others
    make up for it.
    """
    covariance = np.array(errors.covariance)
    free = np.flatnonzero(np.diag(covariance) > 0)
    scale = np.sqrt(np.diag(covariance)[free])
    names = [errors.of[at] for at in free]
    correlation = np.clip(correlation_of(covariance[np.ix_(free, free)]), -1.0, 1.0)
    # By its eigenvalues: what was fitted with a bound can have a correlation that rounding makes a hair below 0.
    eigenvalues, vectors = np.linalg.eigh((correlation + correlation.T) / 2.0)
    eigenvalues = np.clip(eigenvalues, 1e-9, None)
    normal = vectors @ (np.sqrt(eigenvalues) * rng.standard_normal(free.size))
    # Normal deviates over the root of a chi-squared one: a t distribution, as the scatter itself was estimated.
    freedom = max(errors.degrees_of_freedom, 1)
    off = normal * math.sqrt(freedom / rng.chisquare(freedom))
    low = np.array([least.get(name, _least_off(law, name)) for name in names]) / scale
    if (off < low).any():
        from scipy.optimize import lsq_linear

        root = vectors.T / np.sqrt(eigenvalues)[:, None]
        off = lsq_linear(root, root @ off, bounds=(low, np.inf), method="bvls").x
    return dict(zip(names, (scale * off).tolist(), strict=True))


def knee_tokens(tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return of prefill tokens, of any shape, those that lie beyond a knee: all but some `KNEE_TOKENS` of many."""
    return np.asarray(tokens - KNEE_TOKENS * (1.0 - np.exp(-tokens / KNEE_TOKENS)))


def _least_off(law: StepCoefficients, name: Uncertain) -> float:
    """Return the least that a law may be off by in some way."""
    if name not in STEP_TERMS:
        return -np.inf if name in ("bend", "knee", "client") else 1e-3 - 1.0
    value = getattr(law, name)
    return -np.inf if value is None else -value


def shifted(law: StepCoefficients, off: Mapping[Uncertain, float]) -> StepCoefficients:
    """Return a step law that is off by so much, see `StepErrors`; nothing falls below 0, no decode step to 0."""

    def times(*of: Uncertain) -> float:
        return math.prod(max(1.0 + off.get(name, 0.0), 1e-3) for name in of)

    values: dict[str, Any] = {
        name: max(getattr(law, name) * times("speed") + off.get(name, 0.0), 0.0)
        for name in UNCERTAIN[: len(STEP_TERMS)]
        if getattr(law, name) is not None
    }
    if law.decode is None:
        always = "c0_s" if law.c0_s else "c1_s_per_request"
        values[always] = max(values[always] or 0.0, (getattr(law, always) or 0.0) / 1000.0)
    else:
        at, s, kv = (np.array(column, np.float64) for _, column in law.decode)
        s = s * times("speed", "decode") + off.get("c0_s", 0.0) + at * off.get("c1_s_per_request", 0.0)
        s = s + (1.0 - np.exp(-at / BENDS_WITHIN)) * off.get("bend", 0.0)
        kv = kv * times("speed", "decode") + off.get("c2_s_per_kv_token", 0.0)
        kept = np.maximum.accumulate(np.maximum(s, np.array(law.decode.s) / 1000.0))
        nodes = {"s": kept.tolist(), "s_per_kv_token": np.maximum(kv, 0.0).tolist()}
        values["decode"] = law.decode.model_copy(update=nodes)
    if law.prefill is not None:
        at, s = (np.array(column, np.float64) for _, column in law.prefill)
        s = s * times("speed", "prefill") + at * off.get("c3_s_per_prefill_token", 0.0)
        s = s + knee_tokens(at) * off.get("knee", 0.0)
        values["prefill"] = law.prefill.model_copy(update={"s": np.maximum.accumulate(np.maximum(s, 0.0)).tolist()})
    return law.model_copy(update=values)
