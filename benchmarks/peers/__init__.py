"""The same models in other simulators, for speed beside agreement.

Each function takes the arrays that our kernels take (arrival and service times in seconds, bins) and returns the
throughput in requests/s over [first arrival, last completion] and the mean latency in s, so that one run shows both
how fast a peer is and that it computes the same thing.
"""

from typing import NamedTuple

from batchcube.engine.continuous import Law


class Means(NamedTuple):
    throughput_requests_per_s: float
    latency_mean_s: float


def terms_of(law: Law) -> tuple[int, int, int, int, int]:
    """Return c0 to c4 of a straight step law without a constant of prefills, in ticks."""
    c0, c2, c3 = (int(column[0]) for column in (law.decode, law.kv_token, law.prefill_token))
    return c0, law.decode_further, c2, c3, law.prefill_attention
