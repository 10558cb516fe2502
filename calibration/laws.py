"""Service laws fitted to measurements: whole batches T(b, L) = a0 + a1 * L * h(b), and single engine steps.

All fits are least squares of the relative residuals (fitted / measured - 1): timings scatter in proportion to their
size. Coefficients are >= 0. Each measurement is the mean of a cell, so that what a law cannot follow counts as scatter
and widens the errors, as it should: many repetitions of a cell do not make a wrong law right.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchcube.engine.continuous import Law, make_law
from batchcube.engine.continuous.steps import STEP_TERMS, TABLED
from batchcube.engine.policies.service import BATCH_FACTORS, BatchFactor
from batchcube.engine.refusals import number_of
from batchcube.errors import InputError

from .bent import BentLaw, errors_of_bent, fit_bent

Floats = NDArray[np.float64]

Form = Literal["straight", "constant", "bent"]
"""Forms of the step law: five terms, these and a constant of prefills, tables; the simpler ones first."""
_CELLS_PER_NODE = 4
"""Prefills for each node of their table."""
_CONSTANT = STEP_TERMS.index("c5_s_per_prefill_step")
_LARGEST_GAMMA = {"linear": 100.0, "saturating": 100.0, "power": 8.0}


class Quality(NamedTuple):
    """How well a law follows its measurements; residuals are relative: fitted / measured - 1."""

    measurements: int
    r_squared: float
    """Of the seconds themselves; NaN where these do not vary."""
    rms_residual: float
    worst_residual: float
    worst_at: int
    """Number of the measurement with the worst residual."""
    leave_one_out_rms: float
    """Of every measurement predicted from all the others; NaN where there are too few."""
    leave_one_size_out_rms: float
    """Of every batch size between the smallest and the largest predicted from the other sizes; NaN without any."""


class BatchLaw(NamedTuple):
    """T(b, L) = a0 + a1 * L * h(b), with what is known about its accuracy.

    `covariance` is (3, 3) over a0, a1, γ. A coefficient that ended on a limit, or is no part of the law, has a row of
    zeros and a standard error of NaN; all are NaN when there are no more measurements than coefficients.
    """

    a0_s: float
    a1_s_per_token: float
    h: BatchFactor
    gamma: float
    covariance: Floats
    free: tuple[int, ...]
    """Which of a0, a1, γ were free."""
    degrees_of_freedom: int
    """Measurements less all coefficients that were fitted to them."""
    quality: Quality

    @property
    def standard_errors(self) -> Floats:
        """Standard errors of a0, a1, γ."""
        return _errors(self.covariance, self.free)

    def seconds(self, batch_size: ArrayLike, length: ArrayLike) -> Floats:
        """Return T(b, L) in seconds, broadcast over both arguments."""
        factor = _batch_factor(np.asarray(batch_size, dtype=np.float64), self.h, self.gamma)
        return np.asarray(self.a0_s + self.a1_s_per_token * np.asarray(length, dtype=np.float64) * factor)

    def standard_error(self, batch_size: ArrayLike, length: ArrayLike) -> Floats:
        """Return the standard error of T(b, L) in seconds that the coefficients' errors make, broadcast."""
        b, n = np.broadcast_arrays(np.asarray(batch_size, np.float64), np.asarray(length, np.float64))
        gradient = np.moveaxis(_batch_gradient(b, n, self.a1_s_per_token, self.h, self.gamma), 0, -1)
        variance: Floats = np.einsum("...i,ij,...j->...", gradient, self.covariance, gradient)
        return np.sqrt(np.maximum(variance, 0.0))


class StepLaw(NamedTuple):
    """The seconds of one engine step, linear in `STEP_TERMS`, or bent."""

    coefficients: Floats
    """(6,) NaN where no measurement varies the term, or a table stands in its place; c5 is 0 then."""
    covariance: Floats
    """(6, 6), rows of zeros for coefficients that ended at 0 or were not measured; of a bent law (4, 4), see `of`."""
    free: tuple[int, ...]
    quality: Quality
    fitted: int
    """Numbers that were fitted."""
    bent: BentLaw | None = None
    of: tuple[str, ...] = STEP_TERMS
    """What the rows of the covariance belong to; of a bent law how far its tables may be off, c4 and c5."""
    degrees_of_freedom: int = 0
    """Measurements less what was fitted to them; of a bent law of decodes or of prefills, whichever is less."""

    @property
    def standard_errors(self) -> Floats:
        """Standard errors, one for each row of the covariance."""
        return _errors(self.covariance, self.free)

    def seconds(self, terms: ArrayLike) -> Floats:
        """Return the seconds of steps with terms (step, 6), see `step_terms`."""
        x = np.asarray(terms, np.float64)
        if self.bent is not None:
            return self.bent.seconds(*np.moveaxis(x[..., 1:5], -1, 0))
        return np.asarray(x @ np.nan_to_num(self.coefficients))


def law_of(stated: Any) -> Law:
    """Return the engine's law of what states the seconds of a step under the names that `make_law` takes, or None."""
    terms: dict[str, Any] = {name: getattr(stated, name) or 0.0 for name in STEP_TERMS}
    return make_law(**terms, decode=stated.decode, prefill=stated.prefill)


def stated_seconds(stated: Any) -> Iterator[tuple[tuple[str | int, ...], float]]:
    """Yield every number of seconds that such states, and where."""
    for name in STEP_TERMS:
        if getattr(stated, name) is not None:
            yield (name,), getattr(stated, name)
    for name in TABLED:
        for field in ("s", "s_per_kv_token"):
            values = getattr(getattr(stated, name), field, ())
            yield from (((name, field, i), seconds) for i, seconds in enumerate(values))


def unstated_terms(stated: Any) -> tuple[str, ...]:
    """Return the terms that such states neither as a number nor in a table."""
    tabled = {term for name, terms in TABLED.items() if getattr(stated, name) is not None for term in terms}
    return tuple(name for name in STEP_TERMS if getattr(stated, name) is None and name not in tabled)


def step_terms(
    decoding: ArrayLike, kv_tokens: ArrayLike, prefill_tokens: ArrayLike, prefill_attention: ArrayLike
) -> Floats:
    """Return the terms (step, 6) of steps; see `STEP_TERMS`."""
    given = [np.asarray(a, np.float64) for a in (decoding, kv_tokens, prefill_tokens, prefill_attention)]
    parts = np.broadcast_arrays(1.0, *given, 1.0 * (given[2] > 0))
    return np.stack(parts, axis=-1)


def fit_batch_law(batch_sizes: ArrayLike, lengths: ArrayLike, seconds: ArrayLike, h: BatchFactor) -> BatchLaw:
    """Fit a0 + a1 * L * h(b) to measurements (n,).

    Raises InputError for an unknown law, values that are not finite and > 0, fewer than 3 measurements (2 when ``h`` is
    constant), only one length, or, unless ``h`` is constant, only one batch size; and when the times do not grow with
    the length at all.
    """
    number_of(h, BATCH_FACTORS, "law")
    b, length, y = _checked(batch_sizes, lengths, seconds)
    free = 2 if h == "constant" else 3
    if y.size < free or np.unique(length).size < 2 or (free == 3 and np.unique(b).size < 2):
        raise InputError(
            f"{y.size} of {np.unique(b).size} batch sizes and {np.unique(length).size} lengths: law "
            f"{h} needs at least {free}, of 2 lengths{' and 2 batch sizes' if free == 3 else ''}",
            path="measurements",
        )
    coefficients = _least_squares(b, length, y, h)
    a0, a1, gamma = coefficients
    if not a1 > 0:
        raise InputError(f"the times do not grow with the length, so law {h} does not apply", path="measurements")
    gradient = _batch_gradient(b, length, a1, h, gamma).T
    held = (False, False, h == "constant" or gamma >= _LARGEST_GAMMA[h])
    active = tuple(i for i, value in enumerate(coefficients) if value > 0 and not held[i])
    fitted = a0 + a1 * length * _batch_factor(b, h, gamma)
    covariance = _covariance(gradient, y, fitted / y - 1, active)

    def predict(kept: NDArray[np.bool_]) -> Floats:
        again = _least_squares(b[kept], length[kept], y[kept], h)
        return again[0] + again[1] * length[~kept] * _batch_factor(b[~kept], h, again[2])

    spare = y.size - len(active)
    return BatchLaw(a0, a1, h, gamma, covariance, active, spare, _quality(y, fitted, predict, free, b))


def fit_batch_laws(
    batch_sizes: ArrayLike, lengths: ArrayLike, seconds: ArrayLike
) -> tuple[BatchFactor, dict[BatchFactor, BatchLaw]]:
    """Fit every law of `BATCH_FACTORS` that the measurements can tell, and choose one by cross-validation.

    The score is the root mean square of the relative error over all measurements, each predicted from all the others.
    The first law within 1 % of the best score wins, so no freedom is taken that the measurements do not ask for. Laws
    that need more batch sizes than there are, are left out. Raises InputError when no law can be fitted.
    """
    fits: dict[BatchFactor, BatchLaw] = {}
    for h in BATCH_FACTORS:
        try:
            fits[h] = fit_batch_law(batch_sizes, lengths, seconds, h)
        except InputError:
            if h == "constant":
                raise
    scores = {h: law.quality.leave_one_out_rms for h, law in fits.items()}
    known = [score for score in scores.values() if np.isfinite(score)]
    if not known:
        return next(iter(fits)), fits
    enough = 1.01 * min(known) + 1e-9
    return next(h for h, score in scores.items() if score <= enough), fits


def fit_step_law(
    terms: ArrayLike, seconds: ArrayLike, batch_sizes: ArrayLike | None = None, *, constant: bool = False
) -> StepLaw:
    """Fit the step law to the terms (n, 6) of measured steps, see `step_terms`, and their seconds (n,).

    `batch_sizes` (n,), where given, are those that are left out one by one to tell how well the law carries over.

    c5, the constant of prefills, is 0 unless a `constant` is asked for. Another term that is 0 in every step is not
    measured: its coefficient is NaN. Raises InputError for times that are not
    finite and > 0, terms that are not finite and >= 0, and for fewer steps, or fewer different ones, than terms.
    """
    x, y = np.asarray(terms, np.float64), np.asarray(seconds, np.float64)
    if x.shape != (y.size, len(STEP_TERMS)):
        raise InputError(f"terms of shape {x.shape}", path="steps", allowed=f"must be ({y.size}, {len(STEP_TERMS)})")
    if not (np.isfinite(y) & (y > 0)).all():
        raise InputError("every time must be finite and > 0", path="steps")
    if not (np.isfinite(x) & (x >= 0)).all():
        raise InputError("every term must be finite and >= 0", path="steps")
    if not y.size:
        raise InputError("there are none", path="steps")
    measured = [i for i in range(len(STEP_TERMS) - (not constant)) if x[:, i].any()]
    scaled = x[:, measured] / np.abs(x[:, measured]).max(axis=0)
    if np.linalg.matrix_rank(scaled, tol=1e-6) < len(measured):
        raise InputError(
            f"{len(np.unique(x, axis=0))} different steps cannot tell the terms "
            f"{', '.join(STEP_TERMS[i] for i in measured)} apart",
            path="steps",
        )

    def solve(kept: NDArray[np.bool_]) -> Floats:
        found = np.zeros(x.shape[1])
        found[measured] = _non_negative([x[kept, i] for i in measured], y[kept])[0]
        return found

    every = np.ones(y.size, bool)
    coefficients = solve(every)
    fitted = x @ coefficients
    active = tuple(i for i in measured if coefficients[i] > 0)
    covariance = _covariance(x, y, fitted / y - 1, active, one_scatter=False)
    sizes = None if batch_sizes is None else np.asarray(batch_sizes, np.float64)
    quality = _quality(y, fitted, lambda kept: x[~kept] @ solve(kept), len(measured), sizes)
    shown = np.where([i in measured or i == _CONSTANT for i in range(x.shape[1])], coefficients, np.nan)
    return StepLaw(shown, covariance, active, quality, len(active), degrees_of_freedom=y.size - len(active))


def fit_bent_step_law(terms: ArrayLike, seconds: ArrayLike, batch_sizes: ArrayLike | None = None) -> StepLaw:
    """Fit a bent step law to measured steps, as `fit_step_law` does; nodes at the batch sizes, and among the prefills.

    Raises InputError as that does, and where measurements do not carry tables: fewer than three batch sizes that
    decode, each with two numbers of KV tokens at least, and fewer prefills than two nodes need.
    """
    straight = fit_step_law(terms, seconds, batch_sizes)
    x, y = np.asarray(terms, np.float64), np.asarray(seconds, np.float64)
    decoding = x[:, 3] == 0
    sizes = np.unique(x[decoding, 1])
    contexts = [np.unique(x[decoding & (x[:, 1] == size), 2]).size for size in sizes]
    if np.isnan(straight.coefficients[:4]).any() or len(sizes) < 3 or min(contexts) < 2:
        raise InputError(f"{len(sizes)} batch sizes that decode cannot carry a table", path="steps")
    if (~decoding).sum() < 2 * _CELLS_PER_NODE:
        raise InputError(f"{(~decoding).sum()} prefills cannot carry a table", path="steps")

    def solve(kept: NDArray[np.bool_]) -> BentLaw:
        tokens = np.sort(x[kept & ~decoding, 3])
        # None at the fewest tokens: what these take at least is c5, and not a slope that nothing was measured on.
        levels = np.linspace(0.0, 1.0, max(tokens.size // _CELLS_PER_NODE, 1) + 1)[1:]
        nodes = np.unique(np.quantile(tokens, levels, method="nearest"))
        requests = np.unique(x[kept & decoding, 1])
        decodes, kv_tokens, prefills, attention = x[kept, 1:5].T
        at, token_at = np.append(0.0, requests), np.append(0.0, nodes)
        return fit_bent(decodes, kv_tokens, prefills, attention, y[kept], at, token_at)

    law = solve(np.ones(y.size, bool))
    fitted = law.seconds(*x[:, 1:5].T)
    decodes, kv_tokens, prefills, attention = x[:, 1:5].T
    covariance, spare = errors_of_bent(law, decodes, kv_tokens, prefills, attention, y)
    constants = np.array([law.c4_s_per_prefill_attention, law.c5_s_per_prefill_step])
    free = tuple(np.flatnonzero([law.decode_s.any(), law.prefill_s.any(), *(constants > 0)]).tolist())
    count = 2 * (law.requests.size - 1) + law.tokens.size - 1 + int(np.count_nonzero(constants))
    quality = _quality(
        y,
        fitted,
        lambda kept: solve(kept).seconds(*x[~kept, 1:5].T),
        count,
        None if batch_sizes is None else np.asarray(batch_sizes, np.float64),
    )
    coefficients = np.append(np.full(4, np.nan), constants)
    of = ("decode", "prefill", *STEP_TERMS[4:])
    return StepLaw(coefficients, covariance, free, quality, count, law, of, spare)


def fit_step_laws(
    terms: ArrayLike, seconds: ArrayLike, batch_sizes: ArrayLike | None = None
) -> tuple[Form, dict[Form, StepLaw]]:
    """Fit the straight step law, that with a constant of prefills, and the bent one, and choose by cross-validation.

    The score is the root mean square of the relative error over measurements that are predicted from the others: each
    from all, or those of a batch size from those of other sizes, whichever is larger, as cells of a size hang together.
    The first form within a fifth of the best score wins: a tenth made one of forty samples of a straight law bent.
    Raises InputError where not even the straight law can be fitted, see `fit_step_law`.
    """
    fits: dict[Form, StepLaw] = {"straight": fit_step_law(terms, seconds, batch_sizes)}
    with suppress(InputError):
        fits["constant"] = fit_step_law(terms, seconds, batch_sizes, constant=True)
    with suppress(InputError):
        fits["bent"] = fit_bent_step_law(terms, seconds, batch_sizes)
    scores = {form: _carried_over(law.quality) for form, law in fits.items()}
    enough = 1.2 * min(scores.values()) + 1e-9
    return next(form for form, score in scores.items() if score <= enough), fits


def _carried_over(quality: Quality) -> float:
    """Return the larger error on what was left out, infinite where nothing could be."""
    return max(
        (rms for rms in (quality.leave_one_out_rms, quality.leave_one_size_out_rms) if np.isfinite(rms)), default=np.inf
    )


def batch_law_of_steps(step: StepLaw) -> BatchLaw:
    """Return the batch law of decode steps that take c0 + c1 b each: linear, a1 = c0 + c1, γ = c1 / (c0 + c1), a0 = 0.

    The prefill is not in it. Raises InputError where no measured step decodes, or decoding takes no time, and where a
    step also depends on the KV tokens it reads: then the time of a batch is not linear in its length.
    """
    if step.bent is not None:
        raise InputError("the step law bends: no law linear in the batch follows from it")
    if np.isnan(step.coefficients[1]):
        raise InputError("no measured step decodes: no law of whole batches follows from prefills")
    c0, c1, c2 = (float(c) for c in np.nan_to_num(step.coefficients[:3]))
    if c2 > 0:
        raise InputError("the step law grows with the KV tokens read: no law linear in the length follows from it")
    a1 = c0 + c1
    if not a1 > 0:
        raise InputError("decode steps take no time by the step law: no law of whole batches follows from it")
    jacobian = np.array([[0.0, 0.0], [1.0, 1.0], [-c1 / a1**2, c0 / a1**2]])
    covariance = jacobian @ step.covariance[:2, :2] @ jacobian.T
    free = (1, 2) if c1 > 0 else (1,)
    return BatchLaw(0.0, a1, "linear", c1 / a1, covariance, free, step.degrees_of_freedom, step.quality)


# Least squares ------------------------------------------------------------------------------------------------------


def _checked(*columns: ArrayLike) -> tuple[Floats, Floats, Floats]:
    b, length, y = (np.asarray(a, dtype=np.float64).ravel() for a in columns)
    if not b.size == length.size == y.size:
        raise InputError(
            f"{b.size} batch sizes, {length.size} lengths, {y.size} times",
            path="measurements",
            allowed="must be equally many",
        )
    for label, values in (("batch_size", b), ("length_tokens", length), ("seconds", y)):
        if not (np.isfinite(values) & (values > 0)).all():
            raise InputError(f"every {label} must be finite and > 0", path="measurements")
    return b, length, y


def _batch_factor(b: Floats, h: str, gamma: float) -> Floats:
    from batchcube.engine.policies.service import batch_factor

    return batch_factor(b, h, gamma)


def _batch_gradient(b: Floats, length: Floats, a1: float, h: str, gamma: float) -> Floats:
    """Return the derivatives (3, ...) of T(b, L) by a0, a1 and γ."""
    factor = _batch_factor(b, h, gamma)
    by_gamma = {
        "constant": np.zeros_like(b),
        "linear": b - 1.0,
        "saturating": (b - 1.0) / b,
        "power": factor * np.log(b),
    }[h]
    return np.stack([np.ones_like(length), length * factor, a1 * length * by_gamma])


def _least_squares(b: Floats, length: Floats, y: Floats, h: str) -> tuple[float, float, float]:
    """Return (a0, a1, γ), all >= 0, with the least sum of squared relative residuals."""
    ones = np.ones_like(y)
    if h == "constant":
        (a0, a1), _ = _non_negative([ones, length], y)
        return a0, a1, 0.0
    if h == "power":
        from scipy.optimize import minimize_scalar

        def misfit(gamma: float) -> float:
            return _non_negative([ones, length * b**gamma], y)[1]

        # The misfit can have more than one valley: bracket the deepest, then refine.
        grid = np.concatenate(([0.0], np.geomspace(1e-3, _LARGEST_GAMMA[h], 40)))
        misfits = _misfits(length * b ** grid[:, None], y)
        # Where times do not tell γ, it is the least, and not what rounding makes of it.
        deepest = int(np.argmax(misfits <= misfits.min() + 1e-12))
        low, high = grid[max(deepest - 1, 0)], grid[min(deepest + 1, grid.size - 1)]
        gamma = float(minimize_scalar(misfit, bounds=(low, high), method="bounded", options={"xatol": 1e-11}).x)
        # A bounded search only comes near its ends.
        gamma = min(0.0, _LARGEST_GAMMA[h], gamma, key=misfit)
        (a0, a1), _ = _non_negative([ones, length * b**gamma], y)
        return a0, a1, gamma
    # Linear in a0, a1 and a1 * γ.
    (a0, a1, grown), _ = _non_negative([ones, length, length * (_batch_factor(b, h, 1.0) - 1.0)], y)
    largest = _LARGEST_GAMMA[h]
    if grown > largest * a1:
        (a0, a1), _ = _non_negative([ones, length * _batch_factor(b, h, largest)], y)
        return a0, a1, largest
    return a0, a1, grown / a1 if a1 > 0 else 0.0


def _non_negative(terms: Sequence[Floats], y: Floats) -> tuple[list[float], float]:
    """Return the coefficients >= 0 of the terms with the least relative residuals, and the norm of these."""
    from scipy.optimize import nnls

    matrix = np.stack(terms, axis=1) / y[:, None]
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    solution, norm = nnls(matrix / scale, np.ones_like(y))
    return (solution / scale).tolist(), float(norm)


def _misfits(terms: Floats, y: Floats) -> Floats:
    """Return the norms of `_non_negative` for a constant and each of many terms (term, n), all > 0, at once."""
    flat, rising = 1.0 / y, terms / y
    flat, rising = flat / np.linalg.norm(flat), rising / np.linalg.norm(rising, axis=1, keepdims=True)
    alone, each = flat.sum(), rising.sum(axis=1)
    alike = rising @ flat
    free, first, second = 1.0 - alike**2, alone - alike * each, each - alike * alone
    # Both, or the one that is left when the other would be below 0; of two that are the same, either.
    both = (first > 0) & (second > 0) & (free > 1e-12)
    share = np.where(both, free, 1.0)
    constant = np.where(both, first / share, np.where(second > 0, 0.0, alone))
    grown = np.where(both, second / share, np.where(second > 0, each, 0.0))
    return np.asarray(np.linalg.norm(1.0 - constant[:, None] * flat - grown[:, None] * rising, axis=1))


def _covariance(
    gradient: Floats, y: Floats, residual: Floats, free: tuple[int, ...], *, one_scatter: bool = True
) -> Floats:
    """Return the covariance of all coefficients from the gradient (n, coefficient) at the fit; see `BatchLaw`.

    With `one_scatter` all relative residuals have one variance. Without, each has its own (HC3: MacKinnon and White, J.
    Econometrics 29 (1985) 305-325): the mean of many decode steps is quieter than that of a few prefills.
    """
    count = gradient.shape[1]
    covariance = np.zeros((count, count))
    chosen = np.ix_(free, free)
    spare = y.size - len(free)
    if spare <= 0:
        covariance[chosen] = np.nan
        return covariance
    weighted = gradient[:, list(free)] / y[:, None]
    scale = np.linalg.norm(weighted, axis=0)
    inverse = np.linalg.pinv((weighted / scale).T @ (weighted / scale))
    if one_scatter:
        spread = inverse * float(residual @ residual) / spare
    else:
        rows = weighted / scale
        leverage = np.einsum("ij,jk,ik->i", rows, inverse, rows)
        pull = rows * (residual / np.maximum(1.0 - leverage, 1e-6))[:, None]
        spread = inverse @ (pull.T @ pull) @ inverse
    covariance[chosen] = spread / np.outer(scale, scale)
    return covariance


def _errors(covariance: Floats, free: tuple[int, ...]) -> Floats:
    errors = np.full(len(covariance), np.nan)
    errors[list(free)] = np.sqrt(np.diag(covariance))[list(free)]
    return errors


def _quality(
    y: Floats,
    fitted: Floats,
    predict: Callable[[NDArray[np.bool_]], Floats],
    free: int,
    batch_sizes: Floats | None,
) -> Quality:
    """Return how well `fitted` follows `y`; `predict` returns what the measurements kept say of the others."""
    residual = fitted / y - 1
    spread = float(np.sum((y - y.mean()) ** 2))
    every = np.arange(y.size)
    parts: list[NDArray[np.bool_]] = []
    if batch_sizes is not None:
        parts = [batch_sizes == size for size in np.unique(batch_sizes[np.isfinite(batch_sizes)])[1:-1]]
    return Quality(
        measurements=int(y.size),
        r_squared=1.0 - float(np.sum((y - fitted) ** 2)) / spread if spread > 0 else np.nan,
        rms_residual=float(np.sqrt(np.mean(residual**2))),
        worst_residual=float(residual[np.argmax(np.abs(residual))]),
        worst_at=int(np.argmax(np.abs(residual))),
        leave_one_out_rms=_left_out(y, predict, [every == i for i in every], free),
        leave_one_size_out_rms=_left_out(y, predict, parts, free),
    )


def _left_out(
    y: Floats, predict: Callable[[NDArray[np.bool_]], Floats], parts: Sequence[NDArray[np.bool_]], free: int
) -> float:
    """Return the root mean square of the relative error of parts that are predicted from all the others."""
    if not len(parts) or any(y.size - part.sum() < free for part in parts):
        return np.nan
    errors = np.concatenate([predict(~part) / y[part] - 1 for part in parts])
    return float(np.sqrt(np.mean(errors**2)))
