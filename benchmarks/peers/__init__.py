"""The same models in other simulators, for speed beside agreement.

Each function takes the arrays that our kernels take (arrival and service times in seconds, bins) and returns the
throughput in requests/s over [first arrival, last completion] and the mean latency in s, so that one run shows both
how fast a peer is and that it computes the same thing.
"""

from typing import NamedTuple


class Means(NamedTuple):
    throughput_requests_per_s: float
    latency_mean_s: float
