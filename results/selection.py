"""Which of several systems holds its limits and is best: ranking and selection, sequential, on paired replications.

All systems are simulated with the same random numbers (replication r of each goes with replication r of the others), a
few replications at a time. After each such *look* `select` is called with all values so far, and says of every limit
that it holds, fails or that one cannot tell yet; which systems are still in the race; and which is best, as soon as
that can be said with the assurance asked for:

    planned = looks()
    for count in planned:
        ...  # simulate replications up to `count` of the systems still in the race; NaN for those of the others
        found = select(objective, ratios, planned, indifference=0.02)
        if found.is_decided:
            break

**What is promised.** With probability 1 - alpha or more, over all looks, systems and criteria together: every interval
of a ratio holds its mean; and where `is_decided` names a best system, that system holds all its limits, and no system
that holds its own, by `tolerance` or more, has an objective that is better by more than the share `indifference` of it.

**How.** Half of alpha goes to the limits, half to the comparison (all of it to the one where there is no other), and
each half in equal parts to the looks (Bonferroni: valid whatever the dependence between looks, systems and criteria).
Limits have two-sided t intervals of the mean ratio, simultaneous over criteria and systems, whose end on the side of
the longer tail is moved out by the skewness of the values (Johnson). Where the values of a share of requests are all
equal, none or all of them late, it ends where so many requests would not have shown one that differs. Intervals of
several looks are all valid at once, so that their intersection is taken. The comparison is the race of Kim and Nelson:
a system goes out as soon as one that surely holds is surely better, by their paired differences; the race ends when the
best that holds is at most the indifference zone worse than any that is left. Only the k - 1 differences from the true
best can mislead it, so that each has 1 / (k - 1) of the error, on one side. Systems whose interval of a ratio lies
within 1 ± tolerance but across 1 are *at their limit* and leave the race: they need not be told apart from it.

Where Kim and Nelson have a triangle about the sum of the differences, with a variance from the first look alone, here
are repeated confidence intervals (Jennison and Turnbull) with the variance of all replications so far. Both bound the
same error. The triangle costs h² S² / delta² replications at a tie and about h² S² / (2 delta d) at a difference d,
h² being 26 (12 systems) to 90 (500) after a first look of 8; intervals cost z² S² / delta² and z² S² / d², with z² of
12 to 19.

**What is assumed.** Replications are independent. Means of that many replications are about normal: the values may be
quantiles or maxima of a replication, and skewed; docs/statistics.md says how far that goes.

Sources: Kim and Nelson, ACM TOMACS 11 (2001) 251-273; Andradottir and Kim, Naval Research Logistics 57 (2010) 403-421,
and Batur and Kim, ACM TOMACS 20 (2010) 13 (limits on one and several criteria); Johnson, J. Am. Statist. Assoc. 73
(1978) 536-544; Jennison and Turnbull, Group Sequential
Methods (2000), chapter 9.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy  # its parts are loaded when they are used

from batchcube.errors import InputError

from .statistics import Interval, mean_and_error, t_factor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

HOLDS, FAILS, CANNOT_TELL = "holds", "fails", "cannot tell"
IN_RACE, FAILED, BEATEN, AT_LIMIT = "in the race", "fails", "beaten", "at its limit"

ALPHA = 0.05
TOLERANCE = 0.02
"""How far a mean ratio may lie from 1, as a share, before one must know on which side."""
FIRST, MOST = 8, 512


def looks(first: int = FIRST, most: int = MOST) -> tuple[int, ...]:
    """Return the numbers of replications at which to look: `first`, doubled until `most`, which is the last.

    Raises InputError unless 3 <= first <= most.
    """
    if first < 3:
        raise InputError("must be >= 3", path="first", value=first)
    if most < first:
        raise InputError(f"must be >= the first look, {first}", path="most", value=most)
    found = [first]
    while found[-1] < most:
        found.append(min(2 * found[-1], most))
    return tuple(found)


class Selection(NamedTuple):
    """Hold what is known after a look."""

    replications: NDArray[np.int64]
    """`(system,)`, those that were looked at: of systems that left the race, those up to then."""
    verdicts: NDArray[np.str_]
    """`(criterion, system)`, "holds", "fails" or "cannot tell"."""
    ratios: Interval
    """`(criterion, system)`, mean of value / limit with the simultaneous interval that the verdict comes from."""
    objective: Floats
    """`(system,)`, the means."""
    states: NDArray[np.str_]
    """`(system,)`, "in the race", "fails", "beaten" (by a system that holds) or "at its limit"."""
    best: int | None
    """The system that holds all limits and has the least objective so far; None while no system is known to hold."""
    is_decided: bool
    """Whether it is known: which system is best, or (with `best` None) that none can be said to hold."""
    assurance: float
    """1 - alpha where decided; otherwise the highest, below it, with which this look would have named the best."""
    runner_up: int | None
    """Next best of the systems that do not fail."""
    difference: Interval
    """Objective of the best minus that of the runner-up, by their common replications; each bound is one of those that
    decide the race. NaN without either."""

    @property
    def in_race(self) -> NDArray[np.bool_]:
        """`(system,)`, whether more replications of a system are needed."""
        return np.asarray((self.states == IN_RACE) & (not self.is_decided))


def select(
    objective: ArrayLike,
    ratios: ArrayLike,
    planned: Sequence[int],
    *,
    alpha: float = ALPHA,
    indifference: float,
    tolerance: float = TOLERANCE,
    of_one: ArrayLike = 0.0,
) -> Selection:
    """Return what is known of k systems after the last of the `planned` looks that the values reach.

    `objective` is `(system, replication)`, less is better; `ratios` is `(criterion, system, replication)`, each value
    over its limit: a limit holds where the mean is at most 1. No criterion (a first dimension of 0) is no limit. `inf`
    stands for requests that were never served: such a ratio fails at once, and such an objective is beaten at once.
    NaN stands for what was not simulated: the last replications of systems that had left the race. All looks up to now
    are gone through again, so that the same values always give the same answer.

    `indifference` is the share of the objective by which a system may be worse than the best and still be chosen.
    `of_one`, (criterion, system), is by how much one request moves the ratio of its replication; 0 of what is no share.
    Raises InputError where shapes, looks or shares make no sense, and where a value of a system in the race is missing.
    """
    values, shares = np.asarray(objective, dtype=np.float64), np.asarray(ratios, dtype=np.float64)
    _check(values, shares, planned, alpha, indifference, tolerance)
    each = np.broadcast_to(np.asarray(of_one, dtype=np.float64), shares.shape[:2])
    race = _Race(values, shares, each, len(planned), alpha, indifference, tolerance)
    for count in (look for look in planned if look <= values.shape[1]):
        race.look(count)
        if race.is_decided:
            break
    return race.found()


def _check(
    values: Floats, shares: Floats, planned: Sequence[int], alpha: float, indifference: float, tolerance: float
) -> None:
    if values.ndim != 2 or not values.size:
        raise InputError("must be (system, replication)", path="objective")
    if shares.ndim != 3 or shares.shape[1:] != values.shape:
        raise InputError("must be (criterion, system, replication), as many as the objective has", path="ratios")
    if not planned or planned[0] < 3 or any(after <= before for before, after in pairwise(planned)):
        raise InputError("must be increasing numbers of replications, the first of them >= 3", path="planned")
    if values.shape[1] < planned[0]:
        raise InputError(f"must have {planned[0]} replications or more, the first look", path="objective")
    for name, share in (("alpha", alpha), ("indifference", indifference), ("tolerance", tolerance)):
        if not 0.0 < share < 1.0:
            raise InputError("must lie between 0 and 1", path=name, value=share)


class _Race:
    """Keep what the looks so far have shown."""

    def __init__(
        self,
        values: Floats,
        shares: Floats,
        of_one: Floats,
        looks: int,
        alpha: float,
        indifference: float,
        tolerance: float,
    ) -> None:
        self.values, self.shares, self.of_one = values, shares, of_one
        self.looks, self.alpha, self.indifference, self.tolerance = looks, alpha, indifference, tolerance
        criteria, systems = shares.shape[:2]
        parts = (criteria > 0) + (systems > 1)
        # Chances of error that a bound may have at one look, as shares of alpha.
        self.of_limits = 1.0 / (max(parts, 1) * looks * 2 * max(criteria * systems, 1))
        self.of_pairs = 1.0 / (max(parts, 1) * looks * max(systems - 1, 1))
        self.states = np.full(systems, IN_RACE, dtype=object)
        self.seen = np.zeros(systems, dtype=np.int64)
        self.verdicts = np.full((criteria, systems), CANNOT_TELL, dtype=object)
        self.low, self.high = np.zeros((criteria, systems)), np.full((criteria, systems), np.inf)
        self.best: int | None = None
        self.is_decided = False
        self.assurance = 0.0

    def look(self, count: int) -> None:
        """Look at the first `count` replications of the systems in the race."""
        going = np.flatnonzero(self.states == IN_RACE)
        self.seen[going] = count
        if np.isnan(self.values[going, :count]).any() or np.isnan(self.shares[:, going, :count]).any():
            raise InputError("values of a system in the race are missing (NaN)", path="objective")
        self._limits(going, count)
        self._pairs(count)

    def _limits(self, going: NDArray[np.intp], count: int) -> None:
        shares = self.shares[:, going, :count]
        never = np.asarray(np.isinf(shares).any(axis=-1))
        known = np.where(never[..., None], 0.0, shares)
        mean, error = mean_and_error(known)
        chance = self.alpha * self.of_limits
        factor, lean = t_factor(count, chance), _lean(known)
        more = np.abs(lean) * (1.0 + 2.0 * factor**2)
        rest = np.where(error == 0.0, -np.log(chance) * self.of_one[:, going] / count, 0.0)
        below, above = (error * (factor + np.where(side, more, 0.0)) + rest for side in (lean < 0.0, lean > 0.0))
        low, high = np.maximum(self.low[:, going], mean - below), np.minimum(self.high[:, going], mean + above)
        apart = np.asarray(low > high)  # happens with probability alpha at most
        low, high = np.where(apart, mean - below, low), np.where(apart, mean + above, high)
        low, high = np.where(never, np.inf, low), np.where(never, np.inf, high)
        self.low[:, going], self.high[:, going] = low, high
        self.verdicts[:, going] = np.where(high <= 1.0, HOLDS, np.where(low > 1.0, FAILS, CANNOT_TELL))
        across = (low <= 1.0) & (high > 1.0)
        at_limit = across & (low >= 1.0 - self.tolerance) & (high <= 1.0 + self.tolerance)
        self.states[going[at_limit.any(axis=0)]] = AT_LIMIT
        self.states[going[(low > 1.0).any(axis=0)]] = FAILED
        self.states[going[np.isinf(self.values[going, :count]).any(axis=-1) & ~(low > 1.0).any(axis=0)]] = BEATEN

    def _pairs(self, count: int) -> None:
        going = np.flatnonzero(self.states == IN_RACE)
        holding = going[(self.verdicts[:, going] == HOLDS).all(axis=0)]
        if not len(going):
            self.best, self.is_decided, self.assurance = None, True, 1.0 - self.alpha
            return
        if not len(holding):
            self.best, self.assurance = None, 0.0
            return
        factor = t_factor(count, self.alpha * self.of_pairs)
        values = self.values[:, :count]
        beaten = np.zeros(len(going), dtype=bool)
        for one in holding:
            mean, error = mean_and_error(values[going] - values[one])
            beaten |= mean - factor * error > 0.0
        means = values[holding].mean(axis=-1)
        self.best = best = int(holding[means.argmin()])
        self.states[going[beaten]] = BEATEN
        left = going[~beaten & (going != best)]
        zone = self.indifference * abs(values[best].mean())
        mean, error = mean_and_error(values[best] - values[left])
        self.is_decided = bool((mean + factor * error <= zone).all())
        self.assurance = 1.0 - self.alpha if self.is_decided else self._reached(best, count, zone - mean, error)

    def _reached(self, best: int, count: int, room: Floats, error: Floats) -> float:
        """Return the highest assurance with which the last look would have named the best."""
        shares = self.shares[:, best, :count]
        mean, of_mean = mean_and_error(shares)
        of_limits = _chance(count, 1.0 - mean, of_mean, np.maximum(_lean(shares), 0.0))
        one = self.of_one[:, best]
        with np.errstate(divide="ignore"):
            of_limits = np.where((of_mean == 0.0) & (one > 0.0), np.exp((mean - 1.0) * count / one), of_limits)
        chances = np.append(
            of_limits / self.of_limits,
            _chance(count, room, error, np.zeros_like(room)) / self.of_pairs,
        )
        return float(np.clip(1.0 - chances.max(initial=0.0), 0.0, 1.0 - self.alpha))

    def found(self) -> Selection:
        """Return what is known after the last look."""
        means = np.array([self.values[system, :count].mean() for system, count in enumerate(self.seen)])
        ratio = np.full(self.low.shape, np.nan)
        for system, count in enumerate(self.seen):
            ratio[:, system] = self.shares[:, system, :count].mean(axis=-1)
        runner_up, difference = self._runner_up()
        return Selection(
            self.seen,
            self.verdicts.astype(str),
            Interval(ratio, self.low, self.high, np.broadcast_to(self.seen, ratio.shape)),
            means,
            self.states.astype(str),
            self.best,
            self.is_decided,
            self.assurance,
            runner_up,
            difference,
        )

    def _runner_up(self) -> tuple[int | None, Interval]:
        """Return the system that is least worse than the best, and by how much the best is better."""
        nearest: tuple[float, int] | None = None
        unknown = np.array(np.nan)
        none = Interval(unknown, unknown, unknown, np.array(0))
        if self.best is None:
            return None, none
        for other in np.flatnonzero((self.states != FAILED) & (np.arange(len(self.states)) != self.best)):
            count = self.seen[other]
            gap = float((self.values[other, :count] - self.values[self.best, :count]).mean())
            nearest = (gap, int(other)) if nearest is None else min(nearest, (gap, int(other)))
        if nearest is None or np.isinf(nearest[0]):
            return None, none
        count = int(self.seen[nearest[1]])
        mean, error = mean_and_error(self.values[self.best, :count] - self.values[nearest[1], :count])
        half = t_factor(count, self.alpha * self.of_pairs) * error
        return nearest[1], Interval(mean, mean - half, mean + half, np.array(count))


def _lean(values: Floats) -> Floats:
    """Return the skewness of values along the last axis over 6 sqrt(n), with which Johnson's bound of a mean leans."""
    count = values.shape[-1]
    rest = values - values.mean(axis=-1, keepdims=True)
    variance = (rest**2).mean(axis=-1)
    third = (rest**3).mean(axis=-1) / np.where(variance > 0.0, variance, 1.0) ** 1.5
    return np.asarray(third * np.sqrt(count * (count - 1.0)) / (count - 2) / (6.0 * np.sqrt(count)))


def _chance(count: int, room: Floats, error: Floats, lean: Floats) -> Floats:
    """Return the chance of error that a one-sided bound must have to be no further than `room` from the mean."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error > 0.0, room / error, np.where(room >= 0.0, np.inf, -np.inf))
        # The factor t of which t + lean (1 + 2 t²) is that ratio.
        root = np.sqrt(1.0 + 8.0 * lean * (ratio - lean))
        factor = np.where((lean > 0.0) & np.isfinite(ratio), 2.0 * (ratio - lean) / (1.0 + root), ratio)
    return np.asarray(scipy.special.stdtr(count - 1, -np.where(np.isnan(factor), -np.inf, factor)))
