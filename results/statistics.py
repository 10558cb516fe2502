"""Statistics over replications, on plain arrays: estimates with intervals that say what the replications can say.

All functions skip NaN along the reduced axis and report how many replications were used. An interval is NaN where
there are fewer than two. What the values happen to be must not decide which intervals are seen: an end that they cannot
give is infinite. Where all replications agree exactly the interval has no width: that says no replication differed, and
not that the value is known exactly.

An interval of the mean gets narrower with every replication. That is right while replications differ by chance alone,
and wrong where each has coefficients of its own, drawn from what a calibration leaves open: no number of replications
tells which are the true ones. With ``single`` the interval is that of a single replication, a prediction interval: it
holds the mean under the true coefficients wherever these lie in what was drawn from.

Values that a search found lie on a grid, and may all be off by as much in one direction: no spread shows that. With
``error``, the largest relative error of a value, intervals are widened by what it can come to. A NaN among such values
is one that lies beyond what was searched: those that are left are from one side, and have no interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy  # its parts are loaded when they are used

from batchcube.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """Hold an estimate, the ends of its interval, and the number of replications behind it, all of one shape."""

    estimate: Floats
    low: Floats
    high: Floats
    n: NDArray[np.int64]

    def scaled(self, factor: float) -> Interval:
        """Return the interval of `factor` (> 0) times the quantity."""
        return Interval(self.estimate * factor, self.low * factor, self.high * factor, self.n)

    def at(self, places: Any) -> Interval:
        """Return the part of every array at these places."""
        return Interval(*(part[places] for part in self))


def mean_interval(
    x: ArrayLike,
    axis: int = -1,
    confidence: float = 0.95,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    *,
    single: bool = False,
    error: float = 0.0,
) -> Interval:
    """Return the mean along `axis` with Student's t interval, of the mean or of a `single` replication.

    The interval is clipped to `bounds`, the values that are possible at all ([0, 1] for a fraction), which costs no
    coverage. Source: Law, Simulation Modeling and Analysis, 5th ed., section 9.4 (means of independent replications).
    """
    values = last_axis(x, axis)
    t = _t(values, confidence)
    n, mean, deviation = moments(values)
    with np.errstate(invalid="ignore"):
        half = t * deviation * np.sqrt(_share(n, single)) + error * np.abs(mean) + _beyond(values, error)
        low, high = np.clip(mean - half, *bounds), np.clip(mean + half, *bounds)
    return Interval(mean, low, high, n)


def paired_difference(
    x: ArrayLike,
    baseline: ArrayLike,
    axis: int = -1,
    confidence: float = 0.95,
    *,
    single: bool = False,
    error: float = 0.0,
) -> Interval:
    """Return the mean of `x - baseline` along `axis` with the paired t interval, of the mean or of a `single` pair.

    Entry r of both must come from the same random numbers, so that what they share cancels. Pairs with a NaN are
    skipped. Source: Law, Simulation Modeling and Analysis, 5th ed., section 10.2.1.
    """
    first, second = pairs(x, baseline, axis)
    found = mean_interval(first - second, -1, confidence, single=single)
    beside = error * (np.abs(moments(first)[1]) + np.abs(moments(second)[1])) + _beyond(first, error)
    return found._replace(low=found.low - beside, high=found.high + beside)


def paired_ratio(
    x: ArrayLike,
    baseline: ArrayLike,
    axis: int = -1,
    confidence: float = 0.95,
    *,
    single: bool = False,
    error: float = 0.0,
) -> Interval:
    """Return mean(x) / mean(baseline) along `axis` with Fieller's interval for paired values, or for a `single` pair.

    The interval holds every ratio r for which the paired t test does not reject mean(x - r * baseline) = 0: exact for
    normal pairs at any n, unlike the delta method. NaN when mean(baseline) is not clearly different from 0, as the set
    is then unbounded: of those that are left 90 to 98 % hold (2 to 10 pairs, normal and gamma). Pairs with a NaN are
    skipped.
    Source: Fieller, Some problems in interval estimation, J. R. Statist. Soc. B 16 (1954) 175-185.
    """
    first, second = pairs(x, baseline, axis)
    t = _t(first, confidence)
    n, mean_x, _ = moments(first)
    _, mean_y, deviation_y = moments(second)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ratio = np.where(mean_y == 0.0, np.nan, mean_x / np.where(mean_y == 0.0, 1.0, mean_y))
        # Shift the unknown ratio by its estimate: the quadratic in d = r - ratio loses no digits to cancellation.
        rest = first - ratio[..., None] * second
        _, _, deviation_rest = moments(rest)
        centred = np.where(np.isnan(rest), 0.0, rest * (second - mean_y[..., None]))
        covariance = centred.sum(axis=-1) / np.maximum(n - 1, 1)
        h = t**2 * _share(n, single)
        a = mean_y**2 - h * deviation_y**2
        root = np.sqrt((h * covariance) ** 2 + np.maximum(a, 0.0) * h * deviation_rest**2)
        bounded = a > 0
        a = np.where(bounded, a, 1.0)
        low = np.where(bounded, ratio + (-h * covariance - root) / a, np.nan)
        high = np.where(bounded, ratio + (-h * covariance + root) / a, np.nan)
        beside = 2.0 * error / (1.0 - error) * np.abs(ratio) + _beyond(first, error)
    return Interval(ratio, low - beside, high + beside, n)


def pooled_quantile(
    counts: ArrayLike,
    representative: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    q: float,
    axis: int = -2,
    confidence: float = 0.95,
    *,
    single: bool = False,
) -> Interval:
    """Return the `q` quantile of all requests of all replications, from their histograms, with an interval.

    `counts` has the buckets last and the replications along `axis`; the other arrays are `(bucket,)`. The estimate is
    the representative value of the bucket the quantile falls into, so its relative error is that of the buckets
    (`bucket_error`). The interval is Woodruff's: Student's t for the share of requests below the estimate, with each
    replication one cluster (requests within one are not independent), carried back through the pooled distribution; it
    is widened to whole buckets, as nothing finer is known. Where that of the share reaches 0 the low end is that of
    the first bucket, where it reaches 1 the high end is infinite. Replications without requests are skipped; fewer
    than two give NaN. A jackknife of the quantile itself was tried and covered 85 to 93 % where buckets hold few
    requests; an interval of the logit of the share, which reaches neither, 70 to 80 % of a p99 under load.
    Source: Woodruff, J. Am. Statist. Assoc. 47 (1952) 635-646. With `single`, the share is that of a single
    replication.
    Raises InputError unless 0 < q < 1 and `counts` has two dimensions or more.
    """
    if not 0.0 < q < 1.0:
        raise InputError("must lie between 0 and 1", path="q", value=q)
    values = np.asarray(counts)
    if values.ndim < 2 or axis % values.ndim == values.ndim - 1:
        raise InputError("must have replications along its axis and buckets along its last dimension", path="counts")
    values = np.moveaxis(values, axis, -2)
    middle, below, above = (np.asarray(edge, dtype=np.float64) for edge in (representative, lower, upper))
    shape = values.shape[:-2]
    estimate, low, high = (np.full(shape, np.nan) for _ in range(3))
    n = np.zeros(shape, dtype=np.int64)
    for point in np.ndindex(shape):  # one point at a time: the histograms of a whole cube as float64 may not fit
        kept = values[point].astype(np.float64)
        kept = kept[kept.sum(axis=-1) > 0]
        n[point] = count = len(kept)
        if not count:
            continue
        cumulative = np.cumsum(kept.sum(axis=0))
        requests = kept.sum(axis=-1)
        bucket = int(np.searchsorted(cumulative, q * cumulative[-1]))
        estimate[point] = middle[bucket]
        # The share below a place inside the bucket, where the pooled share is q: all replications cut alike.
        before = kept[:, :bucket].sum(axis=-1)
        part = (q * cumulative[-1] - before.sum()) / kept[:, bucket].sum()
        rest = before + part * kept[:, bucket] - q * requests
        half = _t(rest, confidence) * np.sqrt(count / max(count - 1, 1) * (rest**2).sum()) / cumulative[-1]
        half *= np.sqrt(count * _share(n[point], single))
        if count > 1:
            low[point] = below[np.searchsorted(cumulative, max(q - half, 0.0) * cumulative[-1])]
            is_open = q + half >= 1.0
            high[point] = np.inf if is_open else above[np.searchsorted(cumulative, (q + half) * cumulative[-1])]
    return Interval(estimate, low, high, n)


def bucket_error(representative: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> float:
    """Return the largest relative error made by taking the representative value for any value of its bucket.

    The bucket that starts at 0 holds exact zeros and is left out.
    """
    middle, below, above = (np.asarray(edge, dtype=np.float64) for edge in (representative, lower, upper))
    wide = below > 0.0
    middle, below, above = middle[wide], below[wide], above[wide]
    return float(np.maximum(middle / below - 1.0, 1.0 - middle / above).max(initial=0.0))


def mean_and_error(values: Floats) -> tuple[Floats, Floats]:
    """Return the mean along the last axis and its standard error (NaN of one value); of equal values exactly 0."""
    first = values[..., :1]
    rest = values - first
    offset = rest.mean(axis=-1)
    squares = ((rest - offset[..., None]) ** 2).sum(axis=-1)
    count = values.shape[-1]
    return first[..., 0] + offset, np.sqrt(squares / (count - 1) / count) if count > 1 else np.full_like(offset, np.nan)


def t_factor(count: int, chance: float) -> float:
    """Return the factor with which a one-sided t bound fails with this chance."""
    return float(-scipy.special.stdtrit(count - 1, chance))


def unseen(chance: float, count: ArrayLike) -> Floats:
    """Return the largest share of which none in so many is seen with this chance (Clopper and Pearson's bound at 0)."""
    return np.asarray(-np.expm1(np.log(chance) / np.asarray(count, dtype=np.float64)))


def t_of(freedom: NDArray[np.int64], confidence: float) -> Floats:
    """Return Student's t factor of two-sided intervals; NaN without degrees of freedom."""
    _check_confidence(confidence)
    with np.errstate(invalid="ignore"):
        return np.asarray(scipy.special.stdtrit(np.where(freedom > 0, freedom, np.nan), 0.5 + 0.5 * confidence))


def moments(values: Floats) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Return count, mean and standard deviation along the last axis without NaN; equal values give exactly 0."""
    known = ~np.isnan(values)
    n = np.count_nonzero(known, axis=-1).astype(np.int64)
    divisor = np.maximum(n, 1)
    # The first known value is taken off, so that equal values leave zeros and not rounding errors.
    shift = np.take_along_axis(values, known.argmax(axis=-1)[..., None], axis=-1)
    with np.errstate(invalid="ignore", over="ignore"):
        rest = np.where(known, values - shift, 0.0)
        offset = rest.sum(axis=-1) / divisor
        squares = np.where(known, (rest - offset[..., None]) ** 2, 0.0).sum(axis=-1)
        mean = np.where(n > 0, shift[..., 0] + offset, np.nan)
        deviation = np.where(n > 1, np.sqrt(squares / np.maximum(n - 1, 1)), np.nan)
    return n, mean, deviation


def last_axis(x: ArrayLike, axis: int) -> Floats:
    """Return values with one of their axes last."""
    return np.moveaxis(np.asarray(x, dtype=np.float64), axis, -1)


def pairs(x: ArrayLike, baseline: ArrayLike, axis: int) -> tuple[Floats, Floats]:
    """Return values and baselines with one of their axes last, NaN where either is missing."""
    first, second = np.broadcast_arrays(last_axis(x, axis), last_axis(baseline, axis))
    missing = np.isnan(first) | np.isnan(second)
    return np.where(missing, np.nan, first), np.where(missing, np.nan, second)


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise InputError("must lie between 0 and 1", path="`confidence`", value=confidence)


def _beyond(values: Floats, error: float) -> Floats:
    """Return NaN where some of the values (..., replication) that a search found lie beyond it, 0 elsewhere."""
    return np.where((error > 0.0) & np.isnan(values).any(axis=-1), np.nan, 0.0)


def _share(n: NDArray[np.int64], single: bool) -> Floats:
    """Return the variance of what an interval is of, in units of the variance of a replication."""
    return 1.0 / np.maximum(n, 1) + float(single)


def _t(values: Floats, confidence: float) -> Floats:
    """Return Student's t factor for the number of values along the last axis; NaN for fewer than two."""
    return t_of(np.count_nonzero(~np.isnan(values), axis=-1) - 1, confidence)
