"""Continuous distributions of lengths, by their formulas: scipy.stats has them too, but takes a second to load.

At the ends of their support they take the logarithm of 0: callers let NumPy be quiet about it.
"""

from typing import NamedTuple

import numpy as np
import scipy  # its parts are loaded when they are used

from .bins import Floats


class Uniform(NamedTuple):
    """Lengths that are uniform between two."""

    low: float
    high: float

    def cdf(self, x: Floats, /) -> Floats:
        """Return P(X <= x)."""
        return np.clip((x - self.low) / (self.high - self.low), 0.0, 1.0)

    def sf(self, x: Floats, /) -> Floats:
        """Return P(X > x)."""
        return 1.0 - self.cdf(x)

    def isf(self, q: Floats, /) -> Floats:
        """Return the x with P(X > x) = q."""
        return self.low + (self.high - self.low) * (1.0 - q)

    def mean(self) -> float:
        """Return E[X]."""
        return self.low + 0.5 * (self.high - self.low)


class Exponential(NamedTuple):
    """Lengths without memory."""

    scale: float

    def cdf(self, x: Floats, /) -> Floats:
        """Return P(X <= x)."""
        return np.asarray(-scipy.special.expm1(-np.maximum(x / self.scale, 0.0)))

    def sf(self, x: Floats, /) -> Floats:
        """Return P(X > x)."""
        return np.exp(-np.maximum(x / self.scale, 0.0))

    def isf(self, q: Floats, /) -> Floats:
        """Return the x with P(X > x) = q."""
        return -np.log(q) * self.scale

    def mean(self) -> float:
        """Return E[X]."""
        return self.scale


class Lognormal(NamedTuple):
    """Lengths whose logarithm is normal, around the logarithm of their median, with a standard deviation of sigma."""

    sigma: float
    median: float

    def cdf(self, x: Floats, /) -> Floats:
        """Return P(X <= x)."""
        return np.asarray(scipy.special.ndtr(self._normal(x)))

    def sf(self, x: Floats, /) -> Floats:
        """Return P(X > x)."""
        return np.asarray(scipy.special.ndtr(-self._normal(x)))

    def isf(self, q: Floats, /) -> Floats:
        """Return the x with P(X > x) = q."""
        return np.asarray(np.exp(-self.sigma * scipy.special.ndtri(q)) * self.median)

    def mean(self) -> float:
        """Return E[X]."""
        return float(np.sqrt(np.exp(self.sigma * self.sigma))) * self.median

    def _normal(self, x: Floats) -> Floats:
        return np.asarray(np.log(np.maximum(x / self.median, 0.0)) / self.sigma)
