"""What requests were promised: answers that were cut off, and classes (tenants, priorities).

Counted once all is done, from what became of each request, whatever simulated it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..moments import LOW
from ..ratios import column, divide, only_if, share_missed
from ..statistics import CONTINUOUS, QUANTILES, WINDOWS
from ..tally import Tally
from .model import NEVER, SERVED, TICKS_PER_NANOSECOND, Job, Records

COLUMNS = CONTINUOUS.of_classes
"""Times in nanoseconds; a ranked one is -1 where there is none."""


def count_cut(job: Job, records: Records, cut: NDArray[np.int64], tally: Tally) -> None:
    """Count the served requests that were cut off as missing every limit; `cut` (request,): tokens left out."""
    if not cut.any():
        return
    reporting = job.setup.reporting
    measured = np.arange(len(cut)) >= reporting.warmup
    in_time = (cut > 0) & (records.last_token - job.requests.arrival <= reporting.request_sla)
    tally.totals[CONTINUOUS.at("truncated")] = np.count_nonzero(cut[measured])
    tally.totals[CONTINUOUS.at("missed_gaps")] += cut[measured].sum()
    tally.totals[CONTINUOUS.at("late_requests")] += np.count_nonzero(in_time & measured)
    window = records.last_token[in_time] // reporting.window
    inside = np.bincount(window[window < reporting.windows], minlength=reporting.windows)
    tally.windows[: reporting.windows, CONTINUOUS.at("late_requests", WINDOWS)] += inside


def count_classes(job: Job, records: Records, cut: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
    """Fill the empty rows (class, COLUMNS) of a tally with what became of the measured requests of each class."""
    classes, requests = job.classes, job.requests
    if classes is None:
        return
    measured = np.arange(len(requests.arrival)) >= job.setup.reporting.warmup
    served = records.status == SERVED
    latency, ttft = records.last_token - requests.arrival, records.first_token - requests.arrival
    decoding, gaps = records.last_token - records.first_token, requests.output - 1
    tpot = decoding // np.maximum(gaps, 1)
    late = (latency > classes.request_sla[classes.of]) | (ttft > classes.ttft_sla[classes.of])
    late |= (gaps > 0) & (tpot > classes.tpot_sla[classes.of]) | (cut > 0)
    sums = {"wait": records.scheduled - requests.arrival, "latency": latency, "ttft": ttft, "decoding": decoding}
    for k, row in enumerate(rows):
        here = measured & (classes.of == k)
        mine = here & served
        seen = {
            "requests": mine.sum(),
            "missed": (here & ~served).sum(),
            "late": (mine & late).sum(),
            "gaps": gaps[mine].sum(),
        }
        for name, ticks in sums.items():
            spent = ticks[mine] // TICKS_PER_NANOSECOND
            seen |= {f"{name}_low": (spent & LOW).sum(), f"{name}_high": (spent >> 32).sum()}
        for name, ticks in (("latency", latency[mine]), ("ttft", ttft[mine]), ("tpot", tpot[mine & (gaps > 0)])):
            ranked = _ranked(ticks // TICKS_PER_NANOSECOND)
            seen |= {f"{name}_{quantile}": value for quantile, value in zip(QUANTILES, ranked, strict=True)}
        row[:] = [seen[name] for name in COLUMNS]


def _ranked(values: NDArray[np.int64]) -> list[int]:
    """Return the quantiles of values, each the ceil(qn)-th smallest of n; -1 where there are none."""
    if not len(values):
        return [-1] * len(QUANTILES)
    ranks = [math.ceil(quantile * len(values)) - 1 for quantile in QUANTILES]
    return [int(value) for value in np.partition(values, ranks)[ranks]]


def summarise_classes(
    rows: NDArray[np.int64], jobs: Sequence[Job], makespan_s: NDArray[np.float64]
) -> dict[str, NDArray[Any]]:
    """Return the variables by class (run, class) by name, none where there are none; `rows` are those of tallies."""
    classes = [job.classes for job in jobs if job.classes is not None]
    if not classes:
        return {}
    units_per_s = CONTINUOUS.clock.units_per_s
    s = {name: rows[..., k] for k, name in enumerate(COLUMNS)}
    sums = {
        name: (s[f"{name}_low"] + s[f"{name}_high"] * 2.0**32) / units_per_s
        for name in ("wait", "latency", "ttft", "decoding")
    }
    promised = np.array(
        [np.minimum(np.minimum(of.request_sla, of.ttft_sla), of.tpot_sla) < NEVER for of in classes], bool
    )
    report = {
        "class_requests": s["requests"],
        "class_missed": s["missed"],
        **{f"class_{name}_mean_s": divide(sums[name], s["requests"]) for name in ("latency", "wait", "ttft")},
        "class_tbt_mean_s": divide(sums["decoding"], s["gaps"]),
        "class_sla_violation_fraction": only_if(promised, share_missed(s["late"], s["requests"], s["missed"])),
        "class_goodput_requests_per_s": divide(s["requests"] - s["late"], column(makespan_s)),
    }
    for name in ("latency", "ttft", "tpot"):
        ranked = np.stack([s[f"{name}_{quantile}"] for quantile in QUANTILES], axis=-1)
        report[f"class_{name}_quantile_s"] = np.where(ranked < 0, np.nan, ranked / units_per_s)
    return report
