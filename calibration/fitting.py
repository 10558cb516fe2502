"""The step law of a real server, fitted to its request log by simulating it, from what was known of it before.

What is open of a law (`opening`) is estimated from the times of the log's requests, with what was known before as a
prior. Every trial replays all requests: the first ones share the server with those behind them. The simulation moves in
small jumps as the law changes, so that no derivative of it says much: laws are drawn in a cloud around the best so far,
each replayed once with steps that scatter (`scatter`), and a plane is laid through what came of them. The errors of the
estimates are those of other logs: what the estimate would have been with other scatter of the steps, as large as the
residuals show, since requests that run together are late together and count as few.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.engine.continuous.steps import STEP_TERMS
from batchcube.errors import InputError

from .coefficients import StepCoefficients, Uncertain
from .laws import law_of
from .logs import Log
from .opening import Means, Opening, means_of, opened
from .prediction import BEYOND, QUANTITIES, Server, Times, scattered, times_of_log
from .scatter import Scatter, draw_time

Floats = NDArray[np.float64]

FEWEST = 10
"""Requests that a fit needs."""
_CLOUDS, _CLOUD, _SETTLED, _LAST_CLOUDS = 8, 96, 5, 3
FITS = _CLOUDS + _LAST_CLOUDS
"""Rounds that `fit_log` announces: clouds at most, and the errors."""
# Of the steps of trials: enough to wash out where a step begins.
_TRIAL_SCATTER = 0.03
# Residuals as fractions of the mean of each of `QUANTITIES` before any are known; the least that is believed.
_FIRST_RESIDUALS, _SMALLEST = (0.1, 0.02, 0.02), 1e-4
# A cloud is so many standard errors wide: residuals of requests that run together are alike, and count as few.
_CLOUD_ERRORS = 5.0
_FARTHEST = 3.0
_REPLAYS_OF_SCATTER, _MODES = 64, 12
_STEP_SCATTER, _DRIFT = 0.05, 0.02
# What is likely before a log is read, and within which factor, of the logarithm: scatter of steps, drift.
_LIKELY, _LIKELY_WITHIN = (0.05, 0.01), (1.0, 0.3)
LEAST_DRIFT = 0.01
"""Drift that no log is believed to be free of: one short log says little of what stays for its whole length."""
# Ways are in a group with a load above this.
_LOADS = 0.3


class LogFit(NamedTuple):
    """A step law fitted to a log."""

    opening: Opening
    """What was open of the law."""
    values: Floats
    """(way,) how far the law is off from what was known before."""
    covariance: Floats
    """(way, way)."""
    scatter: Scatter
    rms: tuple[float, ...]
    """Root mean square of the residuals of each of `QUANTITIES`, in units of its mean."""
    requests: int
    """Requests that it was fitted to."""
    replicas: int
    """Of the server."""

    @property
    def law(self) -> StepCoefficients:
        """The law, without errors."""
        return self.opening.at(self.values)

    @property
    def client_s(self) -> float:
        """What a client's clock adds to the time to first token; 0 where the clock is the server's."""
        return _client_s(self.opening, self.values)

    @property
    def standard_errors(self) -> Floats:
        """(way,)."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def left_open(self) -> Floats:
        """(way,) standard error as a fraction of what it was before the log was read."""
        return self.standard_errors / self.opening.width

    @property
    def errors(self) -> tuple[tuple[Uncertain, ...], Floats]:
        """What the law may be off, from itself: names and covariance."""
        names, values = self.opening.names, self.values
        turned = np.eye(len(names))
        if "speed" in names:
            at = names.index("speed")
            of_fitted = 1.0 / (1.0 + values[at])
            for k, name in enumerate(names):
                if name in STEP_TERMS or name in ("bend", "knee"):
                    # Off by a fraction, a fitted law is off in what was added, too.
                    turned[k, at] -= values[k] * of_fitted
                elif name == "prefill":
                    turned[k, k] = 1.0 / (1.0 + values[k])
            turned[at, at] = of_fitted
        return names, turned @ self.covariance @ turned.T

    @property
    def least(self) -> Floats:
        """(way,) the least that the law may be off from itself, as far as it was open."""
        fraction = np.isin(self.opening.names, ("speed", "prefill"))
        return np.asarray((self.opening.low - self.values) / np.where(fraction, 1.0 + self.values, 1.0))

    def inseparable(self, still_open: float) -> list[list[Uncertain]]:
        """Return the ways that the log cannot tell apart, in groups.

        Their difference has at least ``still_open`` of the variance that it had before the log was read.
        """
        scaled = self.covariance / np.outer(self.opening.width, self.opening.width)
        left, ways = np.linalg.eigh(scaled)
        names, groups = self.opening.names, list[list[Uncertain]]()
        for part, way in zip(left[::-1], ways.T[::-1], strict=True):
            strong = [name for name, load in zip(names, way, strict=True) if abs(load) > _LOADS]
            if part >= still_open and len(strong) > 1 and strong not in groups:
                groups.append(strong)
        return groups


def fit_log(
    log: Log,
    server: Server,
    until: int | None = None,
    prior: StepCoefficients | None = None,
    seed: int = 1,
    done: Callable[[], None] = lambda: None,
) -> LogFit:
    """Fit a step law to the first ``until`` requests of a log, all when None, by simulating it.

    Without a ``prior``, all that is known is that no term is below 0, and that none makes a step longer than they were.
    Where the clock is a client's, what it adds is estimated too. ``done`` is called at most `FITS` times. Raises
    InputError for a log that is too short, or that the server could not have served.
    """
    count = len(log.queued_s)
    kept = log.first(count if until is None else until)
    if kept.sum() < FEWEST:
        raise InputError(f"{int(kept.sum())} requests to fit to: needs at least {FEWEST}")
    ends = BEYOND * float(log.last_token_s[kept].max())
    near = kept | (log.queued_s <= ends)
    fit = _Fit(_part(log, near), server, kept[near], prior, np.random.default_rng(seed))
    for _ in range(_CLOUDS):
        settled = fit.improve()
        done()
        if settled:
            break
    fit.know_scatter()
    for _ in range(_LAST_CLOUDS):
        fit.improve()
        done()
    return fit.judged()


def _client_s(opening: Opening, values: Floats) -> float:
    return float(values[opening.names.index("client")]) if "client" in opening.names else 0.0


def _part(log: Log, near: NDArray[np.bool_]) -> Log:
    """Return some requests of a log."""
    every = log._asdict().items()
    kept: dict[str, Any] = {name: v[near] for name, v in every if isinstance(v, np.ndarray) and v.shape == near.shape}
    return log._replace(**kept)


class _Plane(NamedTuple):
    """What comes of laws near one, (observation,): a constant, and what each way adds, (observation, way)."""

    at: Floats
    slope: Floats
    off: Floats
    """(trial, observation) what came of the trials that it does not follow, each in units of its weight."""
    noise: Floats
    """(way, way) covariance of the slopes of an observation that scatters by 1."""


class _Fit:
    """Looks for the law that replays a log best."""

    def __init__(
        self,
        log: Log,
        server: Server,
        kept: NDArray[np.bool_],
        prior: StepCoefficients | None,
        rng: np.random.Generator,
    ) -> None:
        self.log, self.server, self.kept, self.rng = log, server, kept, rng
        measured = times_of_log(log)
        self.where = [kept & np.isfinite(values) for values in measured]
        self.seen = self._observed(measured)
        sizes = [int(mask.sum()) for mask in self.where]
        self.quantity = np.repeat(np.arange(len(QUANTITIES)), sizes)
        self.units = np.array([self.seen[self.quantity == k].mean() if size else 0.0 for k, size in enumerate(sizes)])
        if not (self.units > 0).all():
            raise InputError("the log has no time between queued, first and last token to fit to")
        replicas = server.fleet.replicas
        self.opening = opened(prior, log, kept, replicas)
        self.width, self.low = self.opening.width, self.opening.low
        self.known = np.diag(self.width**-2.0)
        means = means_of(log, kept, replicas)
        self.step_s = float(np.median(means.seconds / means.terms[:, 0]))
        # Nobody knows how long a drift lasts: a request at least, as shorter ones are scatter of steps, and at most all
        # that is fitted, as longer ones are in the law. The fit counts requests as if by the shortest: by longer ones
        # only what differs between requests would count, where what no law follows shows most; and what they add to the
        # error of a law they have in common with what comes next.
        least, most = float(np.median(measured.e2e_s[kept])), float(log.last_token_s[kept].max())
        self.lasts_s = (least, max(least, most))
        self.scatter = Scatter(_TRIAL_SCATTER, 0.0, self.step_s, (least, least), 0.0)
        self.end_s = BEYOND * float(log.last_token_s.max())
        self.values = np.zeros(self.width.size)
        self.most = self.width * (0.5 if prior is not None else 0.1)
        if prior is None:
            terms = len(STEP_TERMS)
            self.values[:terms] = _regressed(means, self.opening.width[:terms], self.step_s)
        self.cloud = np.diag((0.75 * self.most) ** 2)
        self.rms = np.array(_FIRST_RESIDUALS) * self.units
        self.clouds: list[tuple[Floats, Floats]] = []
        self.curvature = self.known
        self.alike: Floats | None = None

    def _observed(self, times: Times) -> Floats:
        return np.concatenate([values[mask] for values, mask in zip(times, self.where, strict=True)])

    def trial(self, values: Floats, scatter: Scatter) -> Floats:
        """Replay with a law that is off by values, and scatter; return what comes of it, (observation,)."""
        law, client_s = self.opening.at(values), _client_s(self.opening, values)
        times = scattered(self.log, self.server, law_of(law), draw_time(scatter, self.end_s, self.rng), client_s)
        came = self._observed(times)
        if not np.isfinite(came).all():
            raise InputError("the server could never serve some requests of the log: its KV capacity is too small")
        if client_s:
            came = came + client_s * (self.quantity != 1)
        if scatter.ttft_s:
            came = came + self._spread_of_ttft(scatter.ttft_s)
        return came

    def _spread_of_ttft(self, ttft_s: float) -> Floats:
        """Return times by which first tokens come late, with the ends of the same requests."""
        late = ttft_s * self.rng.standard_normal(len(self.kept))
        return np.concatenate([late[self.where[0]], np.zeros(int(self.where[1].sum())), late[self.where[2]]])

    def improve(self) -> bool:
        """Draw a cloud of laws, and go where the plane through it says; return whether that was no way to go."""
        root = np.linalg.cholesky(self.cloud)
        values = self.values + self.rng.standard_normal((_CLOUD, self.width.size)) @ root.T
        # What is cut off below is mirrored there, so that the cloud stays as wide.
        values = self.low + np.abs(values - self.low)
        came = np.array([self.trial(row, self.scatter) for row in values])
        self.clouds.append((values, came))
        plane = self._plane(
            self.clouds[-2:] if len(self.clouds) > _SETTLED or self.alike is not None else self.clouds[-1:]
        )
        target, self.curvature = self._solved(plane)
        way = target - self.values
        far = float(np.sqrt(way @ np.linalg.solve(self.cloud, way)))
        step = min(1.0, _FARTHEST / max(far, 1e-9)) * way
        moved = float(np.sqrt(step @ self.curvature @ step))
        self.values = self.values + step
        self.plane, self.residuals = plane, self.seen - plane.at - plane.slope @ step
        squares = [float(np.mean(self.residuals[self.quantity == k] ** 2)) for k in range(len(QUANTITIES))]
        rms = np.maximum(np.sqrt(squares), _SMALLEST * self.units)
        self.rms = rms if len(self.clouds) < 3 else np.sqrt(self.rms * rms)
        self.cloud = self._narrowed(self.curvature)
        return len(self.clouds) > _SETTLED and moved < 1.0

    def _plane(self, clouds: list[tuple[Floats, Floats]]) -> _Plane:
        """Lay a plane through clouds; what is near the best law, and near the log, counts most."""
        values, came = (np.vstack(part) for part in zip(*clouds, strict=True))
        off = values - self.values
        away = np.einsum("ij,ji->i", off, np.linalg.solve(self.cloud, off.T)) / self.width.size
        wrong = np.sqrt(np.mean(((came - self.seen) / self.units[self.quantity]) ** 2, axis=1))
        weight = 1.0 / (1.0 + away / 2.0) / (1.0 + (wrong / np.median(wrong)) ** 2)
        root = np.sqrt(weight)[:, None]
        terms = np.column_stack([np.ones(len(off)), off / self.width]) * root
        ridge = 1e-3 * np.eye(self.width.size + 1)[1:]
        rows = np.vstack([terms, ridge])
        inverse = np.linalg.inv(rows.T @ rows)
        found = inverse @ (terms.T @ (came * root))
        noise = inverse[1:, 1:] / np.outer(self.width, self.width)
        left = (came * root - terms @ found) * np.sqrt(len(off) / max(len(off) - terms.shape[1], 1))
        return _Plane(found[0], (found[1:] / self.width[:, None]).T, left, noise)

    def _solved(self, plane: _Plane) -> tuple[Floats, Floats]:
        """Return the values most likely by a plane and what was known before, and the curvature there."""
        from scipy.optimize import lsq_linear

        weighed = self._weighed(plane.slope)
        curvature = weighed @ plane.slope + self.known
        pull = weighed @ (self.seen - plane.at) + curvature @ self.values - self.known @ self.values
        # In units of the widths: terms differ by factors of a million.
        root = np.linalg.cholesky(curvature * np.outer(self.width, self.width)).T
        found = lsq_linear(
            root, np.linalg.solve(root.T, pull * self.width), bounds=(self.low / self.width, np.inf), method="bvls"
        )
        return found.x * self.width, self._unbiased(weighed @ plane.slope, plane) + self.known

    def _unbiased(self, told: Floats, plane: _Plane) -> Floats:
        """Return what the log tells, (way, way), without what slopes that are uncertain seem to tell."""
        chance = float(np.mean(np.sum(self._weighed(plane.off.T) * plane.off, axis=1)))
        scaled = (told - chance * plane.noise) * np.outer(self.width, self.width)
        parts, ways = np.linalg.eigh((scaled + scaled.T) / 2.0)
        return np.asarray((ways * np.maximum(parts, 0.0)) @ ways.T / np.outer(self.width, self.width))

    def _weighed(self, slope: Floats) -> Floats:
        """Return the transpose of what each way adds, (way, observation), over what observations scatter.

        Once it is known how requests that run together scatter alike, the covariance of that comes on top.
        """
        sizes = self.rms[self.quantity]
        scaled = slope.T / sizes
        if self.alike is not None:
            rows = self.alike / sizes
            inner = np.eye(len(rows)) + rows @ rows.T
            scaled = scaled - np.linalg.solve(inner, rows @ scaled.T).T @ rows
        return np.asarray(scaled / sizes)

    def know_scatter(self) -> None:
        """Find what scatter the residuals show, and count requests that are late together as few from now on."""
        weighed = self._weighed(self.plane.slope)
        gain = np.asarray(np.linalg.solve(weighed @ self.plane.slope + self.known, weighed), np.float64)
        self.found = self._scatter_seen(gain)
        away = self._scattered(self.found)
        self.alike = away / np.sqrt(len(away) - 1.0)
        _, curvature = self._solved(self.plane)
        self.cloud, self.clouds = self._narrowed(curvature), []

    def _narrowed(self, curvature: Floats) -> Floats:
        """Return a cloud as wide as the errors, and nowhere wider than at most: its thin sides stay as they are."""
        wide = _CLOUD_ERRORS if self.alike is None else 1.0
        return np.asarray(np.linalg.inv(curvature / wide**2 + np.diag(self.most**-2.0)))

    def judged(self) -> LogFit:
        """Return the fit, with errors of as much scatter as the residuals show."""
        return LogFit(
            self.opening,
            self.values,
            np.asarray(np.linalg.inv(self.curvature), np.float64),
            self.found._replace(drift_lasts_s=self.lasts_s),
            tuple((self.rms / self.units).tolist()),
            int(self.kept.sum()),
            self.server.fleet.replicas,
        )

    def _scattered(self, scatter: Scatter) -> Floats:
        """Return what scatter alone does, (replay, observation), around its mean."""
        came = np.array([self.trial(self.values, scatter) for _ in range(_REPLAYS_OF_SCATTER)])
        return np.asarray(came - came.mean(axis=0))

    def _scatter_seen(self, gain: Floats) -> Scatter:
        """Return the scatter that makes residuals like those seen most likely.

        In the leading ways in which scatter of either kind shows, by its likelihood, with what a fit takes up of it
        taken out.
        """

        def unfitted(came: Floats) -> Floats:
            return np.asarray(came - (came @ gain.T) @ self.plane.slope.T)

        later = self.quantity != 0
        sizes = self.rms[self.quantity]
        kinds = [
            unfitted(self._scattered(self.scatter._replace(step=step, drift=drift))) / sizes
            for step, drift in ((_STEP_SCATTER, 0.0), (0.0, _DRIFT))
        ]
        alike = np.vstack([kind[:, later] / np.sqrt(np.mean(kind[:, later] ** 2)) for kind in kinds])
        modes = np.linalg.svd(alike, full_matrices=False)[2][:_MODES].T
        residual = (self.residuals / sizes)[later] @ modes
        step_parts, drift_parts = (np.cov((kind[:, later] @ modes).T) for kind in kinds)
        factors = np.geomspace(0.02, 20.0, 25)
        a, b = (grid.ravel() for grid in np.meshgrid(factors, factors))
        covariance = (a * a)[:, None, None] * step_parts + (b * b)[:, None, None] * drift_parts
        likely = -np.linalg.slogdet(covariance)[1] - np.linalg.solve(covariance, residual[:, None])[..., 0] @ residual
        likely -= (np.log(a * _STEP_SCATTER / _LIKELY[0]) / _LIKELY_WITHIN[0]) ** 2
        likely -= (np.log(b * _DRIFT / _LIKELY[1]) / _LIKELY_WITHIN[1]) ** 2
        best = np.argmax(likely)
        scatter = self.scatter._replace(
            step=min(float(a[best]) * _STEP_SCATTER, 1.0), drift=float(np.clip(b[best] * _DRIFT, LEAST_DRIFT, 0.3))
        )
        first = self.quantity == 0
        explained = np.mean(unfitted(self._scattered(scatter))[:, first] ** 2)
        left = float(np.mean(self.residuals[first] ** 2) - explained)
        return scatter._replace(ttft_s=float(np.sqrt(max(left, 0.0))))


def _regressed(means: Means, width: Floats, step_s: float) -> Floats:
    """Return the terms by least squares of what decode steps took, as the log has them composed."""
    from scipy.optimize import nnls

    terms, seconds = means.terms, means.seconds
    exact = 10.0 / np.sqrt(seconds * step_s)
    rows = np.vstack([terms * width * exact[:, None], np.eye(width.size)])
    found, _ = nnls(rows, np.concatenate([seconds * exact, np.zeros(width.size)]))
    return np.asarray(found * width, np.float64)
