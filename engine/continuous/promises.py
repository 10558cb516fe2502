"""What requests were promised, all of them or those of a class (tenants, priorities), and what became of that.

Counted once all is done, from what became of each request, whatever simulated it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..moments import LOW
from ..ratios import column, divide, only_if, share_missed
from ..simulation import Reporting
from ..statistics import CONTINUOUS, QUANTILES, WINDOWS
from ..tally import Tally
from ..ticks import NEVER
from .model import ANYBODY, SERVED, Classes, Job, Records
from .ticks import TICKS_PER_NANOSECOND

COLUMNS = CONTINUOUS.of_classes
"""Times in nanoseconds; a ranked one is -1 where there is none."""


def count_promises(job: Job, records: Records, cut: NDArray[np.int64], tally: Tally) -> None:
    """Count what became of promises; `cut` (request,): tokens that the answers of served requests were cut off by."""
    if cut.any():
        _count_cut(job, records, cut, tally)
    if job.classes is not None or is_promised(job.setup.reporting):
        broken = _broken(job, records, cut)
        measured = (records.status == SERVED) & (np.arange(len(cut)) >= job.setup.reporting.warmup)
        kept = ~broken & _rated(job, records, measured, tally)
        tally.totals[CONTINUOUS.at("broken")] = np.count_nonzero(broken & measured)
        tally.totals[CONTINUOUS.at("kept_promises")] = np.count_nonzero(kept)
        if job.classes is not None:
            _count_classes(job, job.classes, records, broken, kept, tally.classes)


def is_promised(limits: Reporting | Classes) -> NDArray[np.bool_]:
    """Say whether there is any limit: for all requests, or (class,) for those of each class."""
    least: NDArray[np.bool_] = np.minimum(np.minimum(limits.request_sla, limits.ttft_sla), limits.tpot_sla) < NEVER
    return least


def _rated(job: Job, records: Records, measured: NDArray[np.bool_], tally: Tally) -> NDArray[np.bool_]:
    """Say of each request whether goodput counts it where it keeps its limits: the measured ones.

    In a closed loop they are those of the throughput: whoever is done within the makespan, of the warm-up too.
    """
    if not (job.requests.follows == ANYBODY).any():
        return measured
    since, ended = (tally.totals[CONTINUOUS.at(name)] for name in ("first_arrival", "ended"))
    done = (records.last_token > since) & (records.last_token <= ended)
    rated: NDArray[np.bool_] = (records.status == SERVED) & done
    return rated


def _broken(job: Job, records: Records, cut: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say of each served request whether it exceeds any limit, of all or of its class; who is cut off does."""
    requests, classes, reporting = job.requests, job.classes, job.setup.reporting
    latency, ttft = records.last_token - requests.arrival, records.first_token - requests.arrival
    gaps = requests.output - 1
    tpot = np.where(gaps > 0, (records.last_token - records.first_token) // np.maximum(gaps, 1), 0)
    broken = (cut > 0) | (latency > reporting.request_sla) | (ttft > reporting.ttft_sla) | (tpot > reporting.tpot_sla)
    if classes is not None:
        of = classes.of
        broken |= (latency > classes.request_sla[of]) | (ttft > classes.ttft_sla[of]) | (tpot > classes.tpot_sla[of])
    return broken


def _count_cut(job: Job, records: Records, cut: NDArray[np.int64], tally: Tally) -> None:
    """Count the requests that were cut off as missing every limit."""
    reporting = job.setup.reporting
    measured = np.arange(len(cut)) >= reporting.warmup
    in_time = (cut > 0) & (records.last_token - job.requests.arrival <= reporting.request_sla)
    tally.totals[CONTINUOUS.at("truncated")] = np.count_nonzero(cut[measured])
    tally.totals[CONTINUOUS.at("missed_gaps")] += cut[measured].sum()
    tally.totals[CONTINUOUS.at("late_requests")] += np.count_nonzero(in_time & measured)
    window = records.last_token[in_time] // reporting.window
    inside = np.bincount(window[window < reporting.windows], minlength=reporting.windows)
    tally.windows[: reporting.windows, CONTINUOUS.at("late_requests", WINDOWS)] += inside


def _count_classes(
    job: Job,
    classes: Classes,
    records: Records,
    broken: NDArray[np.bool_],
    kept: NDArray[np.bool_],
    rows: NDArray[np.int64],
) -> None:
    """Fill the empty rows (class, COLUMNS) of a tally with what became of the measured requests of each class.

    `broken` are those that exceed a limit, `kept` those that the goodput counts, of the warm-up or not.
    """
    requests = job.requests
    measured = np.arange(len(requests.arrival)) >= job.setup.reporting.warmup
    served = records.status == SERVED
    latency, ttft = records.last_token - requests.arrival, records.first_token - requests.arrival
    decoding, gaps = records.last_token - records.first_token, requests.output - 1
    tpot = decoding // np.maximum(gaps, 1)
    sums = {"wait": records.scheduled - requests.arrival, "latency": latency, "ttft": ttft, "decoding": decoding}
    for k, row in enumerate(rows):
        member = classes.of == k
        here = measured & member
        mine = here & served
        seen = {
            "requests": mine.sum(),
            "missed": (here & ~served).sum(),
            "late": (mine & broken).sum(),
            "kept_promises": (member & kept).sum(),
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
    promised = np.array([is_promised(of) for of in classes], bool)
    promised |= column(np.array([is_promised(job.setup.reporting) for job in jobs], bool))
    report = {
        "class_requests": s["requests"],
        "class_missed": s["missed"],
        **{f"class_{name}_mean_s": divide(sums[name], s["requests"]) for name in ("latency", "wait", "ttft")},
        "class_tbt_mean_s": divide(sums["decoding"], s["gaps"]),
        "class_sla_violation_fraction": only_if(promised, share_missed(s["late"], s["requests"], s["missed"])),
        "class_goodput_requests_per_s": divide(s["kept_promises"], column(makespan_s)),
    }
    for name in ("latency", "ttft", "tpot"):
        ranked = np.stack([s[f"{name}_{quantile}"] for quantile in QUANTILES], axis=-1)
        report[f"class_{name}_quantile_s"] = np.where(ranked < 0, np.nan, ranked / units_per_s)
    return report
