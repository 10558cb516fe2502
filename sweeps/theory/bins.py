"""What theory says about full batches formed in bins: facts of [MB] (arXiv 2412.04504) and exact integrals.

Lengths are in any unit (seconds, or tokens turned into seconds by an affine law ``a0 + a1 * L * h(B)``); the letters
B, k, λ and µ of the paper are ``batch_size``, ``bins``, ``arrival_rate_per_s`` and ``rate``. Every batch holds exactly
``batch_size`` requests, so nothing here knows about a flushed tail, a maximum wait or a controller.
"""

from collections.abc import Callable
from math import ceil, isfinite, log
from typing import NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchcube.errors import InputError

Floats = NDArray[np.float64]

# Tails far out underflow to 0 and quantiles there overflow, as they should; results are checked to be finite.
_QUIET = np.errstate(under="ignore", over="ignore", divide="ignore", invalid="ignore")


class Distribution(Protocol):
    """A law of non-negative lengths, continuous or discrete: of distributions.py, or a frozen one of scipy.stats."""

    def cdf(self, x: Floats, /) -> Floats:
        """Return P(X <= x)."""

    def sf(self, x: Floats, /) -> Floats:
        """Return P(X > x)."""

    def isf(self, q: Floats, /) -> Floats:
        """Return the x with P(X > x) = q."""

    def mean(self) -> float | np.float64:
        """Return E[X]."""


class Atomic(Distribution, Protocol):
    """One of whole numbers."""

    def pmf(self, k: Floats, /) -> Floats:
        """Return P(X = k)."""


class DiscreteLengths(NamedTuple):
    """A length distribution on finitely many values: increasing ``values`` (n,) and their ``probabilities`` (n,)."""

    values: Floats
    probabilities: Floats

    def mean(self) -> float:
        """Return the expected length."""
        return float(self.values @ self.probabilities)


Lengths = Distribution | DiscreteLengths


def empirical(sample: ArrayLike) -> DiscreteLengths:
    """Return the distribution that draws from ``sample`` (n,) with replacement.

    Raises InputError for an empty, non-finite or negative sample.
    """
    data = np.asarray(sample, dtype=np.float64).ravel()
    if data.size == 0 or not np.isfinite(data).all() or data.min() < 0:
        raise InputError("length sample", allowed="must hold at least one value, all finite and >= 0")
    values, counts = np.unique(data, return_counts=True)
    return DiscreteLengths(values, counts / data.size)


def discrete(values: ArrayLike, weights: ArrayLike) -> DiscreteLengths:
    """Return the distribution on ``values`` (n,) with probabilities proportional to ``weights`` (n,).

    Raises InputError when shapes differ, a value or weight is negative or not finite, or all weights are 0.
    """
    value, weight = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if value.ndim != 1 or value.shape != weight.shape or value.size == 0:
        raise InputError(
            f"values {value.shape} and weights {weight.shape} must be one list each, equally long", path="lengths"
        )
    if not (np.isfinite(value).all() and np.isfinite(weight).all()) or value.min() < 0 or weight.min() < 0:
        raise InputError("values and weights must be finite and >= 0", path="lengths")
    if weight.sum() == 0:
        raise InputError("at least one weight must be > 0", path="lengths")
    value, where = np.unique(value, return_inverse=True)
    total = np.bincount(where, weights=weight, minlength=value.size)
    return DiscreteLengths(value[total > 0], total[total > 0] / total.sum())


@_QUIET
def on_atoms(distribution: Atomic) -> DiscreteLengths:
    """Return a law of whole numbers by its values; the tail ends where less than 1e-14 is left, or at 10^7."""
    first = int(distribution.isf(np.array([1.0]))[0]) + 1
    values = np.arange(first, max(first, _last_value(distribution)) + 1, dtype=np.float64)
    return discrete(values, distribution.pmf(values))


@_QUIET
def rounded_at_random(distribution: Distribution, limited_mean: Callable[[Floats], Floats]) -> DiscreteLengths:
    """Return the law of a length in whole tokens, at least 1, rounded up with the probability of its fraction.

    ``limited_mean(n)`` is E[min(X, n)]: that the tokens exceed n has the probability by which it grows from n to n + 1.
    The tail ends where less than 1e-14 of the probability is left (at 10^7 tokens at the latest).
    """
    values = np.arange(1, _last_value(distribution) + 2, dtype=np.float64)
    survival = np.concatenate(([1.0], np.diff(limited_mean(values)), [0.0]))
    return discrete(values, np.maximum(-np.diff(survival), 0.0))


# --- Closed forms -----------------------------------------------------------------------------------------------------


def throughput_limit(batch_size: int, mean_s: float) -> float:
    """Return c_max = B / E[s] of a server whose batches hold equally long requests, requests/s ([MB] section 4)."""
    return batch_size / mean_s


def uniform_service_time(bins: int, batch_size: int, shortest: float, longest: float) -> float:
    """Return E[t_service,k] of full batches from equal-mass bins of U(shortest, longest) ([MB] Theorem 4.2)."""
    _at_least_one("bins", bins)
    return (longest + shortest) / 2 + _uniform_excess(batch_size, shortest, longest) / bins


def uniform_throughput(bins: int, batch_size: int, shortest: float, longest: float) -> float:
    """Return the throughput of one busy server with equal-mass bins of U(shortest, longest) ([MB] Theorem 4.2)."""
    return batch_size / uniform_service_time(bins, batch_size, shortest, longest)


def latency_infinite_servers(service_s: float, bins: int, batch_size: int, arrival_rate_per_s: float) -> float:
    """Return the mean latency with infinitely many servers: E[t_service,k] + k (B - 1) / (2 λ) ([MB] Lemma 5.1).

    ``bins`` counts the bins that are ever hit; their masses need not be equal, since the mean wait of a request is
    Σ_j p_j (B - 1) / (2 λ p_j).
    """
    return service_s + bins * (batch_size - 1) / (2 * arrival_rate_per_s)


def harmonic_number(n: int) -> float:
    """Return H_n = 1 + 1/2 + ... + 1/n, the expected maximum of n draws of Exp(1)."""
    return float(np.sum(1.0 / np.arange(_at_least_one("n", n), 0, -1)))


def exponential_levels(bins: int, batch_size: int) -> Floats:
    """Return L_1..L_k, (bins,): L_1 = H_B, L_m = 1 + log L_{m-1} ([MB] Lemma A.1).

    L_m / µ is the least bound on the mean service time that m bins can give: a first bin of width d costs at most d and
    leaves, with probability exp(-µ d), the same problem with m - 1 bins, and d + exp(-µ d) L_{m-1} / µ is least at
    µ d = log L_{m-1}.
    """
    levels = [harmonic_number(batch_size)]
    for _ in range(_at_least_one("bins", bins) - 1):
        levels.append(1.0 + log(levels[-1]))
    return np.array(levels)


def exponential_throughput_bound(bins: int, batch_size: int, rate: float) -> float:
    """Return the lower bound B µ / L_k on the throughput of a busy server, lengths Exp(rate) ([MB] Corollary A.1.1)."""
    return batch_size * rate / float(exponential_levels(bins, batch_size)[-1])


def _uniform_excess(batch_size: int, shortest: float, longest: float) -> float:
    """Return by how much the expected maximum of B draws exceeds the mean."""
    if not 0 <= shortest <= longest:
        raise InputError(f"U({shortest}, {longest})", allowed="must be 0 <= shortest <= longest")
    share = _at_least_one("batch_size", batch_size) / (batch_size + 1)
    return share * longest + (1 - share) * shortest - (longest + shortest) / 2


# --- Exact values by quadrature ---------------------------------------------------------------------------------------


class BinnedBatches(NamedTuple):
    """Exact means of full batches formed in k bins; see `binned_batches`.

    ``bin_probability`` (k,): share of requests, hence of batches, in each bin; ``bin_length_max_mean`` (k,): mean
    longest length of a batch, NaN in a bin that is never hit; ``bin_service_mean_s`` (k,): the same through the service
    law; ``service_mean_s``: over all batches; ``least_service_s``: of a batch whose requests all have the mean length.
    """

    batch_size: int
    bin_probability: Floats
    bin_length_max_mean: Floats
    bin_service_mean_s: Floats
    service_mean_s: float
    least_service_s: float

    @property
    def effective_bins(self) -> int:
        """Return how many bins are ever hit."""
        return int(np.count_nonzero(self.bin_probability))

    def throughput_requests_per_s(self, servers: int = 1) -> float:
        """Return servers * B / E[t_service], the saturation throughput ([MB] Proposition 4.1)."""
        return servers * self.batch_size / self.service_mean_s

    def throughput_limit_requests_per_s(self, servers: int = 1) -> float:
        """Return servers * c_max, which no choice of bins exceeds ([MB] section 4)."""
        return servers * self.batch_size / self.least_service_s

    def latency_s(self, arrival_rate_per_s: float) -> float:
        """Return the mean latency with infinitely many servers ([MB] Lemma 5.1, for any bins)."""
        return latency_infinite_servers(self.service_mean_s, self.effective_bins, self.batch_size, arrival_rate_per_s)


def binned_batches(
    lengths: Lengths,
    batch_size: int,
    edges: ArrayLike,
    *,
    confusion: ArrayLike | None = None,
    intercept_s: float = 0.0,
    slope_s: float = 1.0,
) -> BinnedBatches:
    """Return the exact means of full batches of ``batch_size`` independent requests that share a predicted bin.

    ``edges`` (k + 1,), non-decreasing: bin j holds e_{j-1} <= length < e_j; the outer two bound nothing (shorter
    requests join the first bin, longer ones the last). ``confusion`` (k, k): counts or probabilities, row = true bin,
    column = predicted bin; default: the truth. A batch whose longest request has length L takes
    intercept_s + slope_s * L seconds (a0 and a1 * h(B)). Batches of a bin are as frequent as its requests, so the mean
    service time weights each bin with its probability. The quadrature is exact to about 1e-12 where the quantile is
    smooth inside every bin, to about 1e-6 where it has kinks (a histogram's). Raises InputError for bad edges, a bad
    matrix or lengths without a finite mean.
    """
    _at_least_one("batch_size", batch_size)
    mean_length = _law_mean(lengths)
    bins = _bins(lengths, _inner_edges(edges))
    count = bins.probability.size
    matrix = np.eye(count) if confusion is None else _row_probabilities(confusion, count)
    joint = bins.probability[:, None] * matrix
    predicted = joint.sum(axis=0)
    longest = np.full(count, np.nan)
    for j in np.flatnonzero(predicted > 0):
        longest[j] = _expected_maximum(lengths, bins, joint[:, j] / predicted[j], batch_size)
    service = intercept_s + slope_s * longest
    hit = predicted > 0
    mean = float(predicted[hit] @ service[hit] / predicted[hit].sum())
    shortest = intercept_s + slope_s * mean_length
    return BinnedBatches(int(batch_size), predicted, longest, service, mean, shortest)


def adjacent_confusion(bins: int, error_probability: float) -> Floats:
    """Return the (k, k) confusion of a predictor that errs into each neighbouring bin with ``error_probability``.

    An edge bin has one neighbour ([MB] section 6.2). Raises InputError unless 0 <= error_probability <= 0.5.
    """
    if not 0 <= error_probability <= 0.5:
        raise InputError("must be between 0 and 0.5", path="error_probability", value=error_probability)
    ones = np.ones(_at_least_one("bins", bins) - 1)
    matrix = error_probability * (np.diag(ones, 1) + np.diag(ones, -1))
    return matrix + np.diag(1.0 - matrix.sum(axis=1))


class _Bins(NamedTuple):
    probability: Floats  # (k,)
    inner: Floats  # (k - 1,)


@_QUIET
def _bins(lengths: Lengths, inner: Floats) -> _Bins:
    """Return the probability of each bin that the ``inner`` edges cut the law into."""
    points = _as_discrete(lengths)
    if points is not None:
        where = np.searchsorted(inner, points.values, side="right")
        mass = np.bincount(where, weights=points.probabilities, minlength=inner.size + 1)
        return _Bins(mass.astype(np.float64), inner)
    law = cast(Distribution, lengths)
    below = np.concatenate(([0.0], law.cdf(inner), [1.0]))
    above = np.concatenate(([1.0], law.sf(inner), [0.0]))
    # Differences of the smaller tail keep their digits far out in either direction.
    upper_half = above[:-1] < 0.5
    return _Bins(np.where(upper_half, -np.diff(above), np.diff(below)), inner)


@_QUIET
def _expected_maximum(lengths: Lengths, bins: _Bins, weights: Floats, draws: int) -> float:
    """Return E[max] of draws from the mixture over bins, weights (k,), of the law conditioned on the bin."""
    points = _as_discrete(lengths)
    if points is not None:
        where = np.searchsorted(bins.inner, points.values, side="right")
        inside = weights[where] > 0
        values, where = points.values[inside], where[inside]
        mass = points.probabilities[inside] * weights[where] / bins.probability[where]
        survival = np.minimum(np.cumsum(mass[::-1])[::-1][1:], 1.0)  # P(X > values[i])
        exceeds = -np.expm1(draws * np.log1p(-survival))
        return float(values[0] + np.diff(values) @ exceeds)
    return _continuous_maximum(cast(Distribution, lengths), bins, weights, draws)


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_PANEL = 0.5
_TOP = log(745.0)  # exp(-745) is the smallest double above 0
_BOTTOM = -700.0
_CHUNK = 80  # panels


def _continuous_maximum(law: Distribution, bins: _Bins, weights: Floats, draws: int) -> float:
    """Integrate the quantile of the maximum: there the mixture's survival is 1 - exp(-s / draws) with s ~ Exp(1).

    Each bin covers one interval of s, on which the quantile is as smooth as the law; log s is the variable, in which
    a singularity at s = 0 (unbounded lengths) is an exponential decay.
    """
    edge_survival = np.concatenate(([1.0], law.sf(bins.inner), [0.0]))
    total = 0.0
    above = 0.0  # weight of the bins already passed, longest first
    hit = np.flatnonzero(weights > 0)
    for i in hit[::-1]:
        weight = float(weights[i])
        low = log(-draws * np.log1p(-above)) if above > 0 else -np.inf
        reach = above + weight
        # The last bin hit ends at survival 1, whatever the rounding of the sum.
        high = _TOP if i == hit[0] or reach >= 1 else log(-draws * np.log1p(-reach))
        high = min(high, _TOP)
        while low < high:
            floor = max(low, high - _CHUNK * _PANEL)
            panels = np.linspace(high, floor, ceil((high - floor) / _PANEL) + 1)
            half = np.diff(panels)[:, None] / -2
            y = (panels[:-1, None] - half) + half * _NODES
            s = np.exp(y)
            survival = (-np.expm1(-s / draws) - above) / weight
            survival = edge_survival[i + 1] + bins.probability[i] * np.clip(survival, 0.0, 1.0)
            x = law.isf(np.minimum(survival, 1.0))
            part = float(np.sum(half * _WEIGHTS * np.exp(y - s) * x))
            if not isfinite(part):
                raise InputError("the expected maximum is not finite", path="lengths")
            total += part
            high = floor
            if low == -np.inf and abs(part) <= 1e-17 * abs(total):
                break
            if high <= _BOTTOM:
                raise InputError("the expected maximum is not finite", path="lengths")
        above = reach
    return total


def _as_discrete(lengths: Lengths) -> DiscreteLengths | None:
    """Return a discrete law on its atoms, None for a continuous one."""
    if isinstance(lengths, DiscreteLengths):
        return lengths
    if not hasattr(lengths, "pmf"):
        return None
    return on_atoms(cast(Atomic, lengths))


def _last_value(law: Distribution) -> int:
    return int(min(np.ceil(law.isf(np.array([1e-14]))[0]), 10_000_000))


def _law_mean(lengths: Lengths) -> float:
    mean = float(lengths.mean())
    if not isfinite(mean):
        raise InputError("the mean is not finite", path="lengths")
    return mean


def _inner_edges(edges: ArrayLike) -> Floats:
    all_edges: Floats = np.asarray(edges, dtype=np.float64)
    if all_edges.ndim != 1 or all_edges.size < 2 or np.isnan(all_edges).any() or (np.diff(all_edges) < 0).any():
        raise InputError("must be a non-decreasing list of at least 2 numbers", path="edges")
    return all_edges[1:-1]


def _row_probabilities(confusion: ArrayLike, bins: int) -> Floats:
    matrix: Floats = np.asarray(confusion, dtype=np.float64)
    if matrix.shape != (bins, bins):
        raise InputError(
            f"is {'x'.join(map(str, matrix.shape))}",
            path="confusion",
            allowed=f"must be {bins}x{bins}, one row per bin",
        )
    if not np.isfinite(matrix).all() or matrix.min() < 0 or (matrix.sum(axis=1) <= 0).any():
        raise InputError("entries must be finite and >= 0, and every row must have one above 0", path="confusion")
    rows: Floats = matrix.sum(axis=1, keepdims=True)
    return matrix / rows


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise InputError("must be >= 1", path=name, value=value)
    return value
