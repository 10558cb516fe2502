"""Which bin a request belongs to, and where bins end (docs/model.md, sections 3-4; [MB] section 4 and appendix A)."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def assign_bins(predicted: ArrayLike, edges: ArrayLike) -> NDArray[np.int32]:
    """Return (request,) bins for (request,) predictions and (bin + 1,) edges: j with e_j <= ô < e_{j+1}.

    The first and the last bin also take what lies beyond the outer edges.
    """
    inner = np.asarray(edges, dtype=np.float64)[1:-1]
    return np.searchsorted(inner, np.asarray(predicted, dtype=np.float64), side="right").astype(np.int32)


def equal_mass_edges(lengths: ArrayLike, bins: int) -> NDArray[np.float64]:
    """Return the quantiles 0, 1/K, ..., 1 of a sample of predicted lengths: (bin + 1,). [MB] section 4.1."""
    edges: NDArray[np.float64] = np.quantile(np.asarray(lengths, dtype=np.float64), np.linspace(0.0, 1.0, bins + 1))
    return edges


def uniform_edges(low: float, high: float, bins: int) -> NDArray[np.float64]:
    """Return l_min + i/k (l_max - l_min): (bin + 1,). [MB] Lemma 4.1."""
    return low + (high - low) * np.arange(bins + 1) / bins


def exponential_edges(rate: float, batch_size: int, bins: int) -> NDArray[np.float64]:
    """Return l_i = (1/µ) Σ_{j<=i} log L_{k-j}, with L_1 = H_B and L_m = 1 + log L_{m-1}: (bin + 1,), last infinite.

    Source: [MB] Lemma A.1.
    """
    factor = sum(1.0 / j for j in range(1, batch_size + 1))
    steps = []
    for _ in range(bins - 1):
        steps.append(math.log(factor))
        factor = 1.0 + math.log(factor)
    return np.concatenate(([0.0], np.cumsum(steps[::-1]), [math.inf])) / rate


def distinct_edges(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drop the bins that no request can hit: those whose two edges coincide. Keeps at least one bin.

    The outer edges bound nothing (`assign_bins`), so only inner edges count: a first bin that ends where the sample
    begins is hit by smaller values only, and goes too.
    """
    inner = np.unique(edges[1:-1])
    inner = inner[inner > edges[0]]
    return np.concatenate(([edges[0]], inner, [edges[-1]]))
