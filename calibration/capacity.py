"""How large the KV cache of a server was, found by simulating how long the requests of its log waited."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.engine.continuous import Law
from batchcube.engine.continuous.model import SERVED

from .logs import Log
from .prediction import Server, replay, times_of_log, times_of_records

# A cache is looked for on a grid of so many sizes, then on finer ones around the best of them.
_SIZES = 24
_CLOSE_ENOUGH = 0.005
# More than the requests under way can have held, by which their estimate may be off.
_ROOM = 1.5
# How much likelier, as a logarithm, a cache that is full at times must make a log.
_TELLING = 3.0
# Residuals below this, in units of the mean, are as good as none.
_SMALLEST = 1e-5


def fullest(log: Log) -> float:
    """Return the most tokens that requests under way can have held in the KV cache, were nobody preempted.

    Of a request its prompt, from its admission on (its first token where that is not known), and its answer as it grew.
    """
    began = np.where(np.isfinite(log.scheduled_s), log.scheduled_s, log.first_token_s)
    first, last = log.first_token_s, log.last_token_s
    lasts = last - first
    per_s = np.divide(log.output_tokens, lasts, out=np.zeros(len(first)), where=lasts > 0)

    def under_way(began: NDArray[np.float64], amount: NDArray[Any]) -> NDArray[np.float64]:
        """Return the sum of an amount (request,) over those that are between two times, as each request ends."""
        return _before(began, amount, last) - _before(last, amount, last)

    growing = under_way(first, per_s) * last - under_way(first, per_s * first)
    return float((under_way(began, log.prompt_tokens) + growing).max())


def _before(times: NDArray[np.float64], amount: NDArray[Any], instants: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of an amount (request,) over the times that are before each instant."""
    order = np.argsort(times)
    sums = np.concatenate(([0.0], np.cumsum(amount[order])))
    return np.asarray(sums[np.searchsorted(times[order], instants)])


class Capacity(NamedTuple):
    """The KV cache of a replica, and what else it may be, tokens."""

    tokens: int
    low: int
    """The least that is not ruled out."""
    high: int


def find_capacity(
    log: Log, server: Server, law: Law, kept: NDArray[np.bool_], client_s: float = 0.0
) -> Capacity | None:
    """Return the KV cache of a replica with which a step law replays the kept requests of a log best.

    A client's clock adds ``client_s``.

    The likelihood is that of the fit: residuals of time to first token, time per output token and end-to-end latency,
    each of a variance of its own; requests that run together are late together, and count as few. Ruled out are sizes
    that make the log less likely by `_TELLING`, the law being as it is. None where a cache that is never full is not:
    the log does not tell.
    """
    size = server.replica.block_tokens
    least = float(max(int((log.prompt_tokens + log.output_tokens).max()), size))

    def of(tokens: float) -> Server:
        return server._replace(replica=server.replica._replace(blocks=max(int(tokens) // size, 1)))

    def cost(tokens: float) -> float:
        return misfit(log, of(tokens), law, kept, client_s)

    never_full = cost(server.fleet.replicas * float((log.prompt_tokens + log.output_tokens).sum()) + size)
    low, high = np.log(least), np.log(max(_ROOM * fullest(log) / server.fleet.replicas, 2 * least))
    tried: dict[float, float] = {}
    while True:
        sizes = np.linspace(low, high, _SIZES)
        tried |= {float(tokens): cost(tokens) for tokens in np.exp(sizes)}
        best, apart = min(tried, key=lambda tokens: tried[tokens]), float(sizes[1] - sizes[0])
        if tried[best] > never_full - _TELLING:
            return None
        if apart <= _CLOSE_ENOUGH:
            break
        low, high = max(np.log(best) - 2 * apart, np.log(least)), np.log(best) + 2 * apart
    as_good = tried[best] + _TELLING * _alike(log, of(best), law, kept, client_s)
    if never_full <= as_good:
        return None
    # To the next sizes that are ruled out.
    out = [tokens for tokens, costs in tried.items() if costs > as_good]
    below, above = [tokens for tokens in out if tokens < best], [tokens for tokens in out if tokens > best]
    ends = max(below, default=least), min(above, default=max(tried))
    return Capacity(*(int(tokens) // size * size for tokens in (best, *ends)))


def misfit(log: Log, server: Server, law: Law, kept: NDArray[np.bool_], client_s: float = 0.0) -> float:
    """Return how badly a server replays the kept requests of a log: the negative logarithm of the likelihood.

    Less a constant, each request counting for itself; infinite where some could never be served. A client's clock adds
    ``client_s``.
    """
    residuals = _residuals(log, server, law, kept, client_s)
    if residuals is None:
        return np.inf
    return sum(0.5 * len(each) * float(np.log(np.mean(each**2) + _SMALLEST**2)) for each in residuals)


def _alike(log: Log, server: Server, law: Law, kept: NDArray[np.bool_], client_s: float) -> float:
    """Return how many requests of a log count as one: their residuals hang together from one to the next.

    One and twice the sum of the autocorrelations, up to the first that is none, for the time of which it is largest.
    """
    most = 1.0
    for each in _residuals(log, server, law, kept, client_s) or []:
        around = each - each.mean()
        moments = np.correlate(around, around, "full")[len(around) - 1 :]
        if moments[0] > len(around) * _SMALLEST**2:
            ends = int(np.argmax(moments <= 0)) or len(moments)
            most = max(most, 2.0 * float(moments[:ends].sum() / moments[0]) - 1.0)
    return most


def _residuals(
    log: Log, server: Server, law: Law, kept: NDArray[np.bool_], client_s: float
) -> list[NDArray[np.float64]] | None:
    """Return the residuals of each time that a log has, in units of its mean; None where a request is not served."""
    records = replay(log, server, law, client_s)
    if (records.status != SERVED).any():
        return None
    residuals = []
    for seen, found in zip(times_of_log(log), times_of_records(log, records, client_s), strict=True):
        known = kept & np.isfinite(seen)
        if known.any():
            residuals.append((found[known] - seen[known]) / max(float(seen[known].mean()), 1e-12))
    return residuals
