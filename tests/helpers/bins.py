"""Edges of bins by the law of the lengths, where the program has a sample only."""

import numpy as np

from batchcube.sweeps.theory.bins import DiscreteLengths, Distribution, Floats


def equal_mass_edges(law: DiscreteLengths | Distribution, bins: int) -> Floats:
    """Return (bin + 1,) quantiles of the law at 0, 1/k, ..., 1; bins between equal edges are never hit."""
    levels = np.linspace(0.0, 1.0, bins + 1)
    if not isinstance(law, DiscreteLengths):
        return law.isf(1.0 - levels)
    # A level that is reached exactly must not slip to the next value by the rounding of the sum.
    at = np.searchsorted(np.cumsum(law.probabilities) + 1e-12, levels)
    return law.values[np.minimum(at, law.values.size - 1)]
