"""Turn tallies into the numbers of the catalogue, in seconds and tokens; names are those of the cube's variables."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .histogram import BUCKETS, bucket_middles
from .moments import COUNT, LEAST, MOST, exact_moments
from .ratios import column
from .statistics import BINS, LEVEL, QUANTILES, TOTALS, WIDE, WINDOWS, Catalogue
from .tally import Tally
from .windows import REST_BITS


class Facts(NamedTuple):
    """What numbers need to know besides the counts, (run,) each."""

    arrived: NDArray[np.int64]
    """Requests."""
    later: NDArray[np.int64]
    """Arrivals that the growth of the backlog is a share of: those of the second half."""
    warmup: NDArray[np.int64]
    servers: NDArray[np.float64] | NDArray[np.int64]
    """NaN for infinitely many."""
    window_s: NDArray[np.float64]
    has_request_sla: NDArray[np.bool_]
    has_token_sla: NDArray[np.bool_]
    is_promised: NDArray[np.bool_]
    """Requests have some limit: there is a goodput."""
    has_tokens: NDArray[np.bool_]
    """Requests have tokens, and not only service times."""


def summarise(catalogue: Catalogue, tally: Tally, facts: Facts, **more: Any) -> dict[str, NDArray[Any]]:
    """Return the report of many replications, leading axis run, by the names of the cube's variables.

    `more` are facts that only some simulations have. Raises ArithmeticError when values were lost on the way.
    """
    counted, quantiles = rank_histograms(tally.histograms)
    sums = sums_of(catalogue, tally, counted, facts, more)
    conserve(catalogue, sums, counted, tally)
    report = request_times(catalogue, tally, quantiles)
    for name, (other, shift) in catalogue.shifted.items():
        report |= shifted(name, other, report, getattr(sums, shift))
    report |= {name: number(sums) for name, number in catalogue.numbers.items()}
    return report


def sums_of(
    catalogue: Catalogue, tally: Tally, counted: NDArray[np.int64], facts: Facts, more: dict[str, Any]
) -> SimpleNamespace:
    """Return all counts and facts by their names: what the numbers of a catalogue are made of."""
    totals = named(catalogue, TOTALS, tally.totals)
    ticks_per_s = catalogue.clock.ticks_per_s
    span = np.maximum(totals["ended"] - totals["first_arrival"], 0) / ticks_per_s
    names = [time.name for time in catalogue.times]
    return SimpleNamespace(
        **totals,
        **facts._asdict(),
        **more,
        bins=SimpleNamespace(**named(catalogue, BINS, tally.bins)),
        windows=SimpleNamespace(**named(catalogue, WINDOWS, tally.windows)),
        sizes=tally.sizes,
        counted=dict(zip(names, counted.T, strict=True)),
        histograms=dict(zip(names, np.moveaxis(tally.histograms, 1, 0), strict=True)),
        makespan_s=np.where(totals["measured"] > 0, span, np.nan),
        ticks_per_s=ticks_per_s,
        units_per_s=catalogue.clock.units_per_s,
    )


def named(catalogue: Catalogue, into: str, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return the counts of totals, bins or windows by name: the leading axes of `rows` (..., column)."""
    found: dict[str, NDArray[Any]] = {}
    columns, reducers = np.moveaxis(rows, -1, 0).copy(), catalogue.reducers(into)
    for name, place in catalogue.columns(into).items():
        first = columns[place.start]
        if reducers[name] == WIDE:
            found[name] = first + columns[place.start + 1] * 2.0**32
        elif reducers[name] == LEVEL:
            # The level before the window, and what changes in it add for the rest of it.
            before = np.cumsum(first, axis=-1) - first
            found[name] = np.maximum(before + columns[place.start + 1] / 2.0**REST_BITS, 0.0)
        else:
            found[name] = first
    return found


def conserve(catalogue: Catalogue, sums: SimpleNamespace, counted: NDArray[np.int64], tally: Tally) -> None:
    """Raise ArithmeticError unless all counts of the same requests agree; `counted` (run, time): in the histograms."""
    broken = [name for name, (one, other) in catalogue.agree.items() if not np.array_equal(one(sums), other(sums))]
    if not np.array_equal(counted, tally.moments[:, :, COUNT]):
        broken.append("values in histograms and sums")
    if broken:
        raise ArithmeticError(
            "conservation broken: requests were lost or counted twice (a defect of the simulator): " + "; ".join(broken)
        )


def rank_histograms(
    histograms: NDArray[np.int32] | NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return counts (run, time) and quantiles (run, time, quantile) of the tallies' histograms, in the clock's units.

    A quantile is the middle of the bucket that holds the ceil(qn)-th smallest value.
    """
    from .numba.ranks import quantile_buckets

    runs, times, _ = histograms.shape
    counts = np.empty(runs * times, np.int64)
    buckets = np.empty((runs * times, len(QUANTILES)), np.int64)
    quantile_buckets(histograms.reshape(runs * times, BUCKETS), np.array(QUANTILES), counts, buckets)
    middles = np.where(buckets < 0, np.nan, bucket_middles()[np.maximum(buckets, 0)])
    return counts.reshape(runs, times), middles.reshape(runs, times, len(QUANTILES))


def request_times(catalogue: Catalogue, tally: Tally, quantiles: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Report each time: mean, variance, least, most and quantiles, in seconds."""
    mean, variance = exact_moments(tally.moments)
    report: dict[str, NDArray[Any]] = {}
    for q, time in enumerate(catalogue.times):
        unit = catalogue.clock.units_per_s * time.finer
        nothing = tally.moments[:, q, COUNT] == 0
        least = np.where(nothing, np.nan, tally.moments[:, q, LEAST] / unit)
        most = np.where(nothing, np.nan, tally.moments[:, q, MOST] / unit)
        report[f"{time.name}_mean_s"] = mean[:, q] / unit
        report[f"{time.name}_variance_s2"] = variance[:, q] / unit**2
        report[f"{time.name}_min_s"] = least
        report[f"{time.name}_max_s"] = most
        in_seconds = quantiles[:, q] / catalogue.clock.units_per_s
        report[f"{time.name}_quantile_s"] = np.clip(in_seconds, least[:, None], most[:, None])
    return report


def shifted(
    name: str, other: str, report: dict[str, NDArray[Any]], shift: NDArray[np.float64]
) -> dict[str, NDArray[Any]]:
    """Report a time that is another one and a constant (run,) more."""
    return {
        f"{name}_mean_s": report[f"{other}_mean_s"] + shift,
        f"{name}_variance_s2": report[f"{other}_variance_s2"] + 0.0 * shift,
        f"{name}_min_s": report[f"{other}_min_s"] + shift,
        f"{name}_max_s": report[f"{other}_max_s"] + shift,
        f"{name}_quantile_s": report[f"{other}_quantile_s"] + column(shift),
    }
