"""Control variates: intervals without what chance did to arrivals and lengths, whose means are known exactly.

Of the replications of a point, those that drew short gaps or long answers are the slow ones. The regression of their
values on what they drew, taken where that is at its expectation, is an estimate of the mean without it: unbiased of
jointly normal values, for which the interval of Student's t with n - q - 1 degrees of freedom (n replications, q
controls) and the standard error of the regression at that place, which counts how far off the mean of the controls is,
is exact. Under load values scatter more where they are large, and that interval holds less often than a plain one. So
the standard error is the larger of it and the one of leaving out each replication in turn (HC3), with which intervals
hold as often as plain ones do (docs/statistics.md).

Whether controls are used depends on what is known before, and on no interval: taking them where they narrow would take
them where the spread came out small by chance. They are used with `FEWEST` replications or more; a control that is
constant, follows from those before it, or has no value in a replication is left out. Values that are all equal, and
those of which one lies at an end of what is possible (a share of 0, a longest wait of 0), have plain intervals: no line
describes what is cut off. So have values that a search found.

Sources: Lavenberg, Moeller and Welch, Oper. Res. 30 (1982) 182-202; Nelson, Oper. Res. 38 (1990) 974-992; MacKinnon and
White, J. Econometrics 29 (1985) 305-325.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr

from . import statistics
from .pieces import has_values, read_later
from .variables import CONTROLS, REPLICATION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

FEWEST = 20
"""Replications from which on controls are used."""
_CONSTANT = 1e-9
"""Standard deviation of a control, whose mean is 1, below which it is constant."""
_ALONE = 1e-9
"""Least that is left of a replication's own value where the regression goes through it."""
_FOLLOWS = 1e-10
"""Share of a control's variance that others must leave unexplained, or it follows from them."""


class Controlled(NamedTuple):
    """Hold an estimate, the ends of its interval, the replications behind it, and how wide plain ones are."""

    estimate: Floats
    low: Floats
    high: Floats
    n: NDArray[np.int64]
    narrowed: Floats
    """Width over that of the plain interval, before both are clipped to possible values; 1 where that is used."""


def held(cube: xr.Dataset) -> list[xr.DataArray]:
    """Return the controls of a cube, each less its mean: of any points, in any replications.

    They are read where somebody asks for their values.
    """
    found = (cube[name] for name in CONTROLS if name in cube and REPLICATION in cube[name].dims)
    return [_centred(control) for control in found if has_values(control)]


def _centred(control: xr.DataArray) -> xr.DataArray:
    def read(key: tuple[int | slice, ...]) -> Floats:
        return np.asarray(control.variable[key].values - 1.0)

    return xr.DataArray(read_later(control.variable, read), control.coords, name=control.name)


def mean_interval(
    x: ArrayLike,
    *controls: ArrayLike,
    axis: int = -1,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    single: bool = False,
    error: float = 0.0,
) -> Controlled:
    """Return the mean along `axis` with its interval, of the mean or of a `single` replication.

    `controls` are arrays of the shape of `x`, each less its known mean. See `statistics.mean_interval` for the rest.
    """
    values = statistics.last_axis(x, axis)
    plain = statistics.mean_interval(values, -1, confidence, bounds, single=single, error=error)
    if error > 0.0:
        return Controlled(*plain, np.ones(plain.n.shape))
    return _regressed(values, controls, axis, plain, ~_at_an_end(values, bounds), confidence, bounds, single)


def paired_difference(
    x: ArrayLike,
    baseline: ArrayLike,
    *controls: ArrayLike,
    axis: int = -1,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    single: bool = False,
    error: float = 0.0,
) -> Controlled:
    """Return the mean of `x - baseline` along `axis` with its interval; `bounds` are those of both.

    `controls` are those of `x` and of `baseline`, as in `mean_interval`: what both drew counts once.
    """
    first, second = statistics.pairs(x, baseline, axis)
    plain = statistics.paired_difference(first, second, -1, confidence, single=single, error=error)
    if error > 0.0:
        return Controlled(*plain, np.ones(plain.n.shape))
    fits = ~(_at_an_end(first, bounds) | _at_an_end(second, bounds))
    return _regressed(first - second, controls, axis, plain, fits, confidence, (-np.inf, np.inf), single)


def _at_an_end(values: Floats, bounds: tuple[float, float]) -> NDArray[np.bool_]:
    """Say whether any of the values (..., replication) lies at an end of what is possible."""
    return np.asarray(np.isin(values, [end for end in bounds if np.isfinite(end)]).any(axis=-1))


def _regressed(
    values: Floats,
    controls: Sequence[ArrayLike],
    axis: int,
    plain: statistics.Interval,
    fits: NDArray[np.bool_],
    confidence: float,
    bounds: tuple[float, float],
    single: bool,
) -> Controlled:
    """Return the interval of the regression of values (..., replication), and the plain one where it does not fit."""
    known = ~np.isnan(values)
    n, mean, deviation = statistics.moments(values)
    fits = fits & (n >= FEWEST) & (deviation > 0.0)
    # Each control without what those before it explain, and how far its mean is from the true one without that: sums
    # over replications then take the place of matrices, at all points at once.
    kept: list[tuple[Floats, Floats, Floats]] = []
    used = np.zeros(n.shape, np.int64)
    share = 1.0 / np.maximum(n, 1)
    rest = np.where(known, values - mean[..., None], 0.0)
    # Of each replication: its weight in the estimate, and how much of its own value the regression takes over.
    weight = np.broadcast_to(share[..., None], values.shape)
    own = weight
    with np.errstate(invalid="ignore", over="ignore"):
        for given in controls:
            control = np.broadcast_to(statistics.last_axis(given, axis), values.shape)
            whole = np.asarray(~(np.isnan(control) & known).any(axis=-1))
            control = np.where(known & whole[..., None], control, 0.0)
            away = control.sum(axis=-1) * share
            control = np.where(known, control - away[..., None], 0.0)
            total = _dot(control, control)
            for other, other_away, square in kept:
                slope = _over(_dot(control, other), square)
                control, away = control - slope[..., None] * other, away - slope * other_away
            square = _dot(control, control)
            use = fits & (square * share > _CONSTANT**2) & (square > _FOLLOWS * total)
            square = np.where(use, square, 0.0)
            rest = rest - _over(_dot(rest, control), square)[..., None] * control
            weight = weight - _over(away, square)[..., None] * control
            own = own + _over(control**2, square[..., None])
            used += use
            kept.append((control, away, square))
        fits = used > 0
        freedom = np.where(fits, n - 1 - used, 1)
        estimate = mean + _dot(weight, np.where(known, values - mean[..., None], 0.0))
        spread = _dot(rest, rest) / freedom
        left_out = weight * rest / np.maximum(1.0 - own, _ALONE)
        variance = np.maximum(spread * _dot(weight, np.where(known, weight, 0.0)), _dot(left_out, left_out))
        half = statistics.t_of(freedom, confidence) * np.sqrt(variance + float(single) * spread)
        plain_half = statistics.t_of(np.where(fits, n - 1, 1), confidence) * deviation * np.sqrt(share + float(single))
        ends = [np.clip(estimate + side * half, *bounds) for side in (0.0, -1.0, 1.0)]
        estimate, low, high = (np.where(fits, mine, its) for mine, its in zip(ends, plain[:3], strict=True))
        return Controlled(estimate, low, high, plain.n, np.where(fits, half / plain_half, 1.0))


def _dot(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.einsum("...r,...r->...", a, b))


def _over(a: Floats, square: Floats) -> Floats:
    """Return a / square, and 0 where a control is not used."""
    return np.where(square > 0.0, a / np.where(square > 0.0, square, 1.0), 0.0)
