"""The step law of a real server, fitted to its request log by simulating it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.engine import simulate_replica
from batchcube.engine.continuous import Fleet, Law, Records, Replica, make_law
from batchcube.engine.continuous.model import SERVED, STEP_TERMS, TICKS_PER_S
from batchcube.errors import InputError

from .logs import Log

Floats = NDArray[np.float64]

QUANTITIES = ("ttft_s", "tpot_s", "e2e_s")
_STARTS = 24
_REFINED = 3
# Residuals below this, in units of the mean, are as good as none: timestamps themselves are no better.
_SMALLEST = 1e-5
_GROUPS = 10
FITS = 1 + _GROUPS
"""Fits that `fit_log` makes: one for the coefficients, the others for their errors."""
_STARTS_AGAIN = 6
_UNSURE = 0.5
FITTED = STEP_TERMS[:5]
"""Terms of the step law that are fitted to a log."""


class Server(NamedTuple):
    """What served a log: replicas that are all alike, and how requests find their way to one."""

    replica: Replica
    fleet: Fleet


class Times(NamedTuple):
    """What users of a server feel, each (request,), seconds; NaN where a request was rejected."""

    ttft_s: Floats
    """Time to first token, from when the request came."""
    tpot_s: Floats
    """Time per output token after the first; NaN for a single token."""
    e2e_s: Floats
    """From then to the last token."""


class LogFit(NamedTuple):
    """A step law fitted to a log."""

    coefficients: Floats
    """(5,) in the order of `FITTED`, seconds."""
    covariance: Floats
    """(5, 5)."""
    unsure: tuple[str, ...]
    """Terms that the log cannot tell: a standard error above half of the coefficient."""
    rms: tuple[float, ...]
    """Root mean square of the residuals of each of `QUANTITIES`, in units of its mean."""
    requests: int
    """Requests that it was fitted to."""

    @property
    def standard_errors(self) -> Floats:
        """(5,)."""
        return np.sqrt(np.diag(self.covariance))


def times_of_log(log: Log) -> Times:
    """Return what was measured."""
    return _times(log.came_s, log.first_token_s, log.last_token_s, log.output_tokens)


def times_of_records(log: Log, records: Records) -> Times:
    """Return what was simulated."""
    first, last = (
        np.where(records.status == SERVED, ticks, np.nan) / TICKS_PER_S
        for ticks in (records.first_token, records.last_token)
    )
    return _times(log.came_s, first, last, log.output_tokens)


def _times(came: Floats, first: Floats, last: Floats, output: NDArray[np.int64]) -> Times:
    with np.errstate(invalid="ignore"):
        tpot = np.where(output > 1, (last - first) / np.maximum(output - 1, 1), np.nan)
    return Times(first - came, tpot, last - came)


def replay(log: Log, server: Server, law: Law) -> Records:
    """Simulate a log's requests with this step law of a server; raises like `simulate_replica`."""
    records, _ = simulate_replica(log.requests(), server.replica._replace(law=law), fleet=server.fleet)
    return records


def fit_log(
    log: Log, server: Server, until: int | None = None, seed: int = 1, done: Callable[[], None] = lambda: None
) -> LogFit:
    """Fit the step law to the first ``until`` requests of a log, all when None, by simulating it.

    Every trial replays all requests (the first ones share the server with those behind them) and compares time to first
    token, time per output token and end-to-end latency of the requests fitted to. The likelihood takes the residuals of
    each quantity for normal, of a variance of its own: time to first token scatters by a step or more, the others do
    not. It is searched by reweighted least squares in the logarithms of the coefficients, from many starts, and by
    simplex from the best, as the simulation moves in small jumps. The covariance is a jackknife's: the fit is repeated
    without each of ten consecutive groups, because requests that wait for each other are not independent, and a
    Jacobian of jumps says little. ``done`` is called after each of the 1 + 10 fits. Raises InputError for a log that is
    too short, or that the server could not have served.
    """
    count = len(log.queued_s)
    kept = log.first(count if until is None else until)
    if kept.sum() < 3 * _GROUPS:
        raise InputError(f"{int(kept.sum())} requests to fit to: needs at least {3 * _GROUPS}")
    search = _Search(log, server, kept)
    rng = np.random.default_rng(seed)
    starts = [search.guess + rng.normal(0.0, 1.0, search.guess.size) for _ in range(_STARTS)]
    best = search.best(starts, kept)
    done()
    others = []
    for group in np.array_split(np.flatnonzero(kept), _GROUPS):
        without = kept.copy()
        without[group] = False
        others.append(search.best([best, *starts[:_STARTS_AGAIN]], without))
        done()
    spread = np.stack(others) - np.mean(others, axis=0)
    covariance = (_GROUPS - 1) / _GROUPS * spread.T @ spread
    coefficients = np.exp(best)
    errors = np.sqrt(np.diag(covariance))
    at_limit = (best < search.low + 0.1) | (best > search.high - 0.1)
    unsure = tuple(
        name for name, error, stuck in zip(FITTED, errors, at_limit, strict=True) if stuck or not error <= _UNSURE
    )
    rms = [float(np.sqrt(np.mean(part**2))) for part in search.residuals(best, kept)]
    return LogFit(coefficients, covariance * np.outer(coefficients, coefficients), unsure, tuple(rms), int(kept.sum()))


class _Search:
    """Looks for the logarithms of the coefficients that replay a log best."""

    def __init__(self, log: Log, server: Server, kept: NDArray[np.bool_]) -> None:
        self.log, self.server = log, server
        self.measured = times_of_log(log)
        known = [values[kept & np.isfinite(values)] for values in self.measured]
        self.units = [float(values.mean()) if values.size else 0.0 for values in known]
        if not all(unit > 0 for unit in self.units):
            raise InputError("the log has no time between queued, first and last token to fit to")
        # A decode step takes about as long as the fastest requests say; the other terms are some way below it.
        step = float(np.nanquantile(self.measured.tpot_s[kept], 0.05))
        self.guess = np.log(step * np.array([0.5, 3e-3, 2e-6, 2e-3, 3e-8]))
        self.low, self.high = self.guess - 7.0, self.guess + 4.0

    def residuals(self, logarithms: Floats, kept: NDArray[np.bool_]) -> list[Floats]:
        """Return simulated less measured of the requests kept, for every quantity, in units of its mean."""
        inside = np.exp(np.clip(logarithms, self.low, self.high))
        simulated = times_of_records(self.log, replay(self.log, self.server, make_law(*inside.tolist())))
        parts = [
            ((sim - seen) / unit)[kept & np.isfinite(seen)]
            for sim, seen, unit in zip(simulated, self.measured, self.units, strict=True)
        ]
        if not all(np.isfinite(part).all() for part in parts):
            raise InputError("the server could never serve some requests of the log: its KV capacity is too small")
        return parts

    def cost(self, logarithms: Floats, kept: NDArray[np.bool_]) -> float:
        """Return the negative logarithm of the likelihood, less a constant."""
        return sum(
            0.5 * part.size * float(np.log(np.mean(part**2) + _SMALLEST**2))
            for part in self.residuals(logarithms, kept)
        )

    def best(self, starts: Sequence[Floats], kept: NDArray[np.bool_]) -> Floats:
        """Return the best that is found from any start."""
        from scipy.optimize import least_squares, minimize

        def weighted(logarithms: Floats, scatter: Sequence[float]) -> Floats:
            parts = zip(self.residuals(logarithms, kept), scatter, strict=True)
            return np.concatenate([part / width for part, width in parts])

        def cost(logarithms: Floats) -> float:
            return self.cost(logarithms, kept)

        found = []
        for start in starts:
            at, scatter = start, [0.1, 0.01, 0.01]
            # Coarse differences step over the jumps, fine ones finish.
            for difference in (1e-1, 1e-2, 1e-3):
                inside = np.clip(at, self.low + 1e-3, self.high - 1e-3)
                bounds = (self.low, self.high)
                at = least_squares(
                    weighted, inside, diff_step=[difference], max_nfev=30, bounds=bounds, args=(scatter,)
                ).x
                scatter = [max(float(np.sqrt(np.mean(p**2))), _SMALLEST) for p in self.residuals(at, kept)]
            found.append((self.cost(at, kept), at))
        found.sort(key=lambda pair: pair[0])
        refined = []
        for _, at in found[:_REFINED]:
            corners = np.vstack([at, at + 0.3 * np.eye(at.size)])
            options: Any = {"maxiter": 1500, "xatol": 1e-4, "fatol": 1e-6, "initial_simplex": corners}
            end = minimize(cost, at, method="Nelder-Mead", options=options)
            refined.append((float(end.fun), np.clip(np.asarray(end.x, np.float64), self.low, self.high)))
        best: Floats = min(refined, key=lambda pair: pair[0])[1]
        return best
