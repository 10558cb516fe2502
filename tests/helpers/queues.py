"""A queue whose runs have known means: exponential gaps and services, one server, begun empty."""

import numpy as np
from scipy import special


def mean_waits(load: float, requests: int) -> np.ndarray:
    """Return the exact mean waits (request,) of M/M/1 with services of mean 1, by Spitzer's identity.

    E[W_k] is the sum over j < k of E[S_j+] / j, where S_j is by what j services exceed j gaps: of two Gamma sums X and
    Y, E[X; X > Y] = E[X] P(X' > Y), X' with one term more.
    """
    j = np.arange(1.0, requests)
    at = load / (1.0 + load)  # Y < X where the share of Y's unit sum in both is below it
    positive = j * special.betainc(j, j + 1.0, at) - j / load * special.betainc(j + 1.0, j, at)
    return np.append(0.0, np.cumsum(positive / j))


def latencies(
    rng: np.random.Generator, load: float, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw latencies (replication, request) of M/M/1, and the mean gap and service of each over their expectations."""
    gap, service = rng.exponential(1.0 / load, shape), rng.exponential(1.0, shape)
    steps = np.concatenate([np.zeros((shape[0], 1)), service[:, :-1] - gap[:, 1:]], axis=1)
    walk = np.cumsum(steps, axis=1)
    waits = walk - np.minimum(np.minimum.accumulate(walk, axis=1), 0.0)
    return waits + service, gap[:, 1:].mean(axis=1) * load, service.mean(axis=1)
