"""How far to trust a prediction: what may come of what is not known, and how far real runs differ."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from batchcube.calibration.coefficients import Coefficients
from batchcube.calibration.logs import Log
from batchcube.calibration.prediction import Server, Times, is_open_prior, predicted, times_of_log

Floats = NDArray[np.float64]

INTERVAL = 0.9
"""Share of what may come that an interval of a prediction holds."""
TESTED_SCATTER = 0.15
"""Of single steps, as a fraction, up to which intervals were seen to hold as often as they say.

`benchmarks/intervals.py` draws it from 3 to 15 %.
"""
_AS_FAST = 1.05


def draws_of(log: Log, server: Server, known: Coefficients) -> list[Times]:
    """Return what users may feel, time after time, where it is known how far the law may be off; none elsewhere.

    Tables may be as far off as a fit assumes before it reads a log.
    """
    if known.step_law is None or (known.step_law.errors is None and not is_open_prior(known)):
        return []
    return predicted(log, server, known)


def doubts_of(known: Coefficients) -> list[str]:
    """Say where steps scattered by more around a law than intervals were tested with."""
    scatter = None if known.log is None or known.log.scatter is None else known.log.scatter.step
    if scatter is None or scatter <= TESTED_SCATTER:
        return []
    return [
        f"steps scattered by {100 * scatter:.0f} % around the law in the log that it was fitted to, and intervals were "
        f"tested up to {100 * TESTED_SCATTER:.0f} %: they are rather too narrow, and a prediction, made without "
        "scatter, may lie outside its own"
    ]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the middle `INTERVAL` of what may come, NaN where nothing is known."""
    if not len(values) or np.isnan(values).any():
        return np.nan, np.nan
    low, high = np.quantile(values, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return float(low), float(high)


def repeats(logs: Sequence[Log]) -> dict[tuple[int, ...], Times]:
    """Return, for logs of the same requests, which they are and how far the means of their times differ, as fractions.

    Requests are the same where their tokens are, whatever the order in which they came, and came about as fast. A log
    with the times of another is a copy, and no other run.
    """
    groups: list[list[int]] = []
    for number, log in enumerate(logs):
        alike = (group for group in groups if _are_same(logs[group[0]], log))
        group = next(alike, None)
        if group is None:
            groups.append([number])
        elif not any(_is_copy(logs[other], log) for other in group):
            group.append(number)
    return {tuple(group): _spread([logs[k] for k in group]) for group in groups if len(group) > 1}


def _are_same(one: Log, other: Log) -> bool:
    """Say whether two logs are of the same requests."""
    tokens = [np.stack([log.prompt_tokens, log.output_tokens]) for log in (one, other)]
    a, b = (pairs[:, np.lexsort(pairs)] for pairs in tokens)
    spans = [float(np.ptp(log.came_s)) for log in (one, other)]
    return np.array_equal(a, b) and max(spans) <= _AS_FAST * min(spans)


def _is_copy(one: Log, other: Log) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("first_token_s", "last_token_s"))


def _spread(logs: Sequence[Log]) -> Times:
    means = np.array([[_mean(values) for values in times_of_log(log)] for log in logs])
    with np.errstate(invalid="ignore"):
        return Times(*(np.ptp(means, axis=0) / means.mean(axis=0)))


def _mean(values: Floats) -> float:
    """Return the mean of what is known, NaN where nothing is: answers of one token have no time of a further one."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else np.nan
