"""How large the KV cache of a server was, found by simulating how long the requests of its log waited."""

import numpy as np
from numpy.typing import NDArray

from batchcube.engine.continuous import Law
from batchcube.engine.continuous.model import SERVED

from .fitting import Server, replay, times_of_log, times_of_records
from .logs import Log

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
    lasts = np.maximum(log.last_token_s - log.first_token_s, 1e-12)
    most = 0.0
    for instant in log.last_token_s:
        here = (began < instant) & (instant <= log.last_token_s)
        grown = np.clip((instant - log.first_token_s) / lasts, 0.0, 1.0)
        most = max(most, float((log.prompt_tokens + log.output_tokens * grown)[here].sum()))
    return most


def find_capacity(log: Log, server: Server, law: Law, kept: NDArray[np.bool_], client_s: float = 0.0) -> int | None:
    """Return the tokens of KV cache of a replica with which a step law replays the kept requests of a log best.

    A client's clock adds ``client_s``.

    The likelihood is that of the fit: residuals of time to first token, time per output token and end-to-end latency,
    each of a variance of its own. None where a cache that is never full does as well: the log does not tell.
    """
    size = server.replica.block_tokens
    least = float(max(int((log.prompt_tokens + log.output_tokens).max()), size))

    def cost(tokens: float) -> float:
        replica = server.replica._replace(blocks=max(int(tokens) // size, 1))
        return misfit(log, server._replace(replica=replica), law, kept, client_s)

    never_full = cost(server.fleet.replicas * float((log.prompt_tokens + log.output_tokens).sum()) + size)
    low, high = np.log(least), np.log(max(_ROOM * fullest(log) / server.fleet.replicas, 2 * least))
    while True:
        sizes = np.linspace(low, high, _SIZES)
        costs = [cost(tokens) for tokens in np.exp(sizes)]
        best, apart = float(sizes[int(np.argmin(costs))]), float(sizes[1] - sizes[0])
        if min(costs) > never_full - _TELLING:
            return None
        if apart <= _CLOSE_ENOUGH:
            return int(np.exp(best)) // size * size
        low, high = max(best - 2 * apart, np.log(least)), best + 2 * apart


def misfit(log: Log, server: Server, law: Law, kept: NDArray[np.bool_], client_s: float = 0.0) -> float:
    """Return how badly a server replays the kept requests of a log: the negative logarithm of the likelihood.

    Less a constant; infinite where some request could never be served. A client's clock adds ``client_s``.
    """
    records = replay(log, server, law)
    if (records.status != SERVED).any():
        return np.inf
    total = 0.0
    for seen, found in zip(times_of_log(log), times_of_records(log, records, client_s), strict=True):
        known = kept & np.isfinite(seen)
        if known.any():
            residuals = (found[known] - seen[known]) / max(float(seen[known].mean()), 1e-12)
            total += 0.5 * known.sum() * float(np.log(np.mean(residuals**2) + _SMALLEST**2))
    return total
