"""Weighted shortest predicted first: a batch, or bin, counts by its predicted length for each of its requests.

A weight of 0 is shortest first; with 1, many short requests overtake a single one that is shorter still (Smith's rule:
the least mean time of all requests, where predictions are right).
"""

from typing import Annotated, NamedTuple

from batchcube.engine.dialect import settle
from batchcube.engine.policies import Candidate, Order


class Settings(NamedTuple):
    """What can be set."""

    weight: Annotated[float, "how much the number of requests counts, from 0 to 1"] = 1.0


def key(candidate: Candidate, settings: Settings) -> float:
    """Serve the shortest predicted length for each request first."""
    return candidate.predicted / (1.0 + settle(settings.weight * (candidate.size - 1.0)))


WEIGHTED_SHORTEST = Order("weighted_shortest", Settings, key)
