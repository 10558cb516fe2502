"""Turn tallies into the numbers of docs/model.md, section 9, in seconds and tokens, named as the cube's variables."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..histogram import BUCKETS, bucket_middles
from ..policies.memory import UNLIMITED
from ..ticks import NEVER, TICKS_PER_S
from ..windows import REST_BITS
from .model import INFINITE, Setup
from .tally import (
    ARRIVAL_REST,
    ARRIVALS,
    BATCHES,
    BIN_BATCHES,
    BIN_LATENCY_0,
    BIN_LATENCY_1,
    BIN_LONGEST,
    BIN_MEMBERS,
    BIN_REQUESTS,
    BIN_WAIT_0,
    BIN_WAIT_1,
    COMPLETIONS,
    COUNT,
    LATE_REQUESTS,
    LATENCY,
    LEAST,
    MEMORY_BOUND,
    MISSED,
    MOST,
    QUANTITIES,
    SIGNAL_0,
    SIGNAL_1,
    SIGNALS,
    SLA_BOUND,
    START_REST,
    STARTED,
    TARGET,
    TBT,
    TBT_UNIT,
    WAIT,
    Tally,
    exact_sums,
)

QUANTILES = (0.5, 0.9, 0.95, 0.99)
OVERLOAD_TEST = (
    "overloaded: over the second half of the arrivals the number of requests in the system grew by more than "
    "B (K + c) + 4 sqrt(arrivals in that half), with B the mean batch size, K bins and c servers"
)


def divide(a: Any, b: Any) -> NDArray[np.float64]:
    """Divide, with NaN where there is nothing to divide by."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    out = np.full(np.broadcast(a, b).shape, np.nan)
    np.divide(a, b, out=out, where=b != 0)
    return out


def share_missed(late: NDArray[np.int64], served: NDArray[np.int64], missed: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the share over a limit: what was never served has missed it, and counts among all."""
    return divide(late + missed, served + missed)


def exact_moments(rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and variance (over n) of rows of moments (..., 9), rounded only once at the end."""
    flat = rows.reshape(-1, rows.shape[-1])
    mean, variance = np.full(len(flat), np.nan), np.full(len(flat), np.nan)
    for r, row in enumerate(flat):
        count, total, squares, _, _ = exact_sums(row)
        if count:
            mean[r] = total / count
            variance[r] = (count * squares - total * total) / (count * count)
    return mean.reshape(rows.shape[:-1]), variance.reshape(rows.shape[:-1])


def rank_histograms(
    histograms: NDArray[np.int32] | NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return counts (run, quantity) and quantiles in ticks (run, quantity, quantile) of the tallies' histograms.

    A quantile is the middle of the bucket that holds the ceil(qn)-th smallest value.
    """
    from ..numba.ranks import quantile_buckets

    runs, quantities, _ = histograms.shape
    counts = np.empty(runs * quantities, np.int64)
    buckets = np.empty((runs * quantities, len(QUANTILES)), np.int64)
    quantile_buckets(histograms.reshape(runs * quantities, BUCKETS), np.array(QUANTILES), counts, buckets)
    middles = np.where(buckets < 0, np.nan, bucket_middles()[np.maximum(buckets, 0)])
    return counts.reshape(runs, quantities), middles.reshape(runs, quantities, len(QUANTILES))


def summarise(tally: Tally, setups: Sequence[Setup], requests: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Return the report of many replications, leading axis run; ArithmeticError when requests were lost or invented."""
    totals = tally.totals[:, 0]
    arrived = np.asarray(requests, dtype=np.int64)
    timed = np.array([s.service.timed for s in setups])
    counts, quantiles = rank_histograms(tally.histograms)
    warmup = np.array([s.reporting.warmup for s in setups])
    conserve(tally, counts, arrived, warmup, timed)
    policies, reporting = [s.policy for s in setups], [s.reporting for s in setups]
    servers = np.array([np.nan if p.servers == INFINITE else p.servers for p in policies])
    span = (totals["last_completion"] - totals["first_arrival"]) / TICKS_PER_S
    span = np.where(totals["measured"] > 0, span, np.nan)
    growth, later = backlog_growth(totals, setups, arrived)
    report: dict[str, NDArray[Any]] = {}
    report.update(request_times(tally, quantiles, setups))
    has_sla = np.array([r.request_sla < NEVER for r in reporting])
    has_token_sla = np.array([np.isfinite(r.token_sla) for r in reporting])
    has_memory = np.array([s.control.memory.capacity < UNLIMITED for s in setups])
    report |= {
        "latency_histogram": tally.histograms[:, LATENCY].astype(np.uint32),
        "requests": arrived,
        "completed": totals["completed"].copy(),
        "unserved": totals["unserved"].copy(),
        "measured": totals["measured"].copy(),
        "missed": totals["missed"].copy(),
        "batches": totals["batches"].copy(),
        "throughput_requests_per_s": divide(totals["served"], span),
        "throughput_tokens_per_s": divide(totals["served_tokens"], span),
        "busy_throughput_requests_per_s": servers * divide(totals["members"], totals["busy"] / TICKS_PER_S),
        "makespan_s": span,
        "utilisation": divide(totals["occupied"] / TICKS_PER_S, servers * span),
        "batch_size_mean": divide(totals["members"], totals["batches"]),
        "batch_size_histogram": tally.sizes,
        "padding_waste": 1.0 - divide(totals["length"], totals["padded"]),
        "request_sla_violation_fraction": np.where(
            has_sla, share_missed(totals["late_requests"], totals["measured"], totals["missed"]), np.nan
        ),
        "token_sla_violation_fraction": np.where(
            has_token_sla,
            share_missed(totals["late_tokens"], totals["output_tokens"], totals["missed_tokens"]),
            np.nan,
        ),
        "memory_overflow_fraction": np.where(has_memory, divide(totals["overflows"], totals["batches"]), np.nan),
        "memory_peak_tokens": totals["peak_tokens"].copy(),
        "extrapolated_batch_fraction": divide(totals["extrapolated"], totals["batches"]),
        "backlog_growth_fraction": divide(growth, later),
        # `OVERLOAD_TEST`
        "overloaded": growth > 4.0 * np.sqrt(later),
    }
    report.update(per_bin(tally, timed))
    report.update(per_window(tally, setups, has_sla))
    # Without tokens there is no first token, no time between tokens and no token throughput.
    for name in report:
        if name.startswith(("ttft_", "tbt_", "token_sla_")) or name == "throughput_tokens_per_s":
            report[name][timed] = np.nan
    return report


def conserve(
    tally: Tally,
    counts: NDArray[np.int64],
    arrived: NDArray[np.int64],
    warmup: NDArray[np.int64],
    timed: NDArray[np.bool_],
) -> None:
    """Check that arrivals = completed + unserved, and that every count of the same requests agrees.

    `counts` is (run, quantity): how many values the histograms hold.
    """
    totals = tally.totals[:, 0]
    served = totals["completed"] + totals["unserved"]
    due = np.repeat(totals["measured"][:, None], len(QUANTITIES), axis=1)
    due[timed, TBT] = 0
    counted = tally.moments[:, :, COUNT] == due
    in_histograms = counts == due
    in_sizes = (tally.sizes * np.arange(tally.sizes.shape[1])).sum(axis=1) == totals["members"]
    if not (
        (served == arrived).all()
        and (totals["measured"] + totals["missed"] == np.maximum(arrived - warmup, 0)).all()
        and counted.all()
        and in_histograms.all()
        and in_sizes.all()
        and (tally.bins[:, :, BIN_REQUESTS].sum(axis=1) == totals["measured"]).all()
    ):
        raise ArithmeticError("conservation broken: requests were lost or counted twice (a defect of the simulator)")


def request_times(tally: Tally, quantiles: NDArray[np.float64], setups: Sequence[Setup]) -> dict[str, NDArray[Any]]:
    """Report latency, wait, service, TTFT and TBT: mean, variance, least, most and quantiles, in seconds."""
    mean, variance = exact_moments(tally.moments)
    report: dict[str, NDArray[Any]] = {}
    prefill = np.array([s.service.prefill for s in setups]) / TICKS_PER_S
    rows = [(name, q, 0.0) for q, name in enumerate(QUANTITIES)] + [("ttft", WAIT, prefill)]
    for name, quantity, shift in rows:
        unit = TICKS_PER_S * (TBT_UNIT if quantity == TBT else 1)
        nothing = tally.moments[:, quantity, COUNT] == 0
        least = np.where(nothing, np.nan, tally.moments[:, quantity, LEAST] / unit)
        most = np.where(nothing, np.nan, tally.moments[:, quantity, MOST] / unit)
        middle = np.clip(quantiles[:, quantity] / TICKS_PER_S, least[:, None], most[:, None])
        report[f"{name}_mean_s"] = mean[:, quantity] / unit + shift
        report[f"{name}_variance_s2"] = variance[:, quantity] / unit**2
        report[f"{name}_min_s"] = least + shift
        report[f"{name}_max_s"] = most + shift
        report[f"{name}_quantile_s"] = middle + np.reshape(shift, (-1, 1))
    return report


def backlog_growth(
    totals: NDArray[np.void], setups: Sequence[Setup], arrived: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return by how much the requests in the system grew beyond what batches hold, and the arrivals meanwhile.

    B (K + c), with B the mean batch, may be forming in bins and running on servers. The mean batch, not the largest
    allowed: a controller may be free to go to 256 and stay near 90, and with that much room a short run with several
    bins could not be called overloaded whatever its queue did. With infinitely many servers nothing grows beyond.
    """
    growth = totals["backlog_end"] - totals["backlog_half"]
    allowed = np.array([s.policy.batch_size for s in setups], dtype=np.float64)
    size = np.where(totals["batches"] > 0, divide(totals["members"], totals["batches"]), allowed)
    places = [
        np.inf if s.policy.servers == INFINITE else len(s.control.prior_tokens) + s.policy.servers for s in setups
    ]
    return np.maximum(growth - size * np.array(places), 0.0), arrived - (arrived // 2 + 1)


def per_bin(tally: Tally, timed: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Report every bin; the longest length is in tokens, or in seconds where lengths are times."""
    rows = tally.bins
    wait = rows[:, :, BIN_WAIT_0] + rows[:, :, BIN_WAIT_1] * 2.0**32
    latency = rows[:, :, BIN_LATENCY_0] + rows[:, :, BIN_LATENCY_1] * 2.0**32
    longest = divide(rows[:, :, BIN_LONGEST], rows[:, :, BIN_BATCHES])
    return {
        "bin_requests": rows[:, :, BIN_REQUESTS].copy(),
        "bin_batches": rows[:, :, BIN_BATCHES].copy(),
        "bin_batch_size_mean": divide(rows[:, :, BIN_MEMBERS], rows[:, :, BIN_BATCHES]),
        "bin_wait_mean_s": divide(wait, rows[:, :, BIN_REQUESTS]) / TICKS_PER_S,
        "bin_latency_mean_s": divide(latency, rows[:, :, BIN_REQUESTS]) / TICKS_PER_S,
        "bin_length_max_mean": longest / np.where(timed, TICKS_PER_S, 1)[:, None],
    }


def per_window(tally: Tally, setups: Sequence[Setup], has_sla: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Report every time window; NaN where nothing happened."""
    rows = tally.windows
    started, batches = rows[:, :, STARTED], rows[:, :, BATCHES]
    # Queue length: those who waited already, plus what the events inside the window add for the rest of it.
    before = np.cumsum(rows[:, :, ARRIVALS] - started, axis=1) - (rows[:, :, ARRIVALS] - started)
    queue = before + (rows[:, :, ARRIVAL_REST] - rows[:, :, START_REST]) / 2.0**REST_BITS
    late = share_missed(rows[:, :, LATE_REQUESTS], rows[:, :, COMPLETIONS], rows[:, :, MISSED])
    taken = np.array([not s.policy.static for s in setups])[:, None]
    decisions = np.where(taken, batches, 0)
    signal = rows[:, :, SIGNAL_0] + rows[:, :, SIGNAL_1] * 2.0**32
    return {
        "window_width_s": np.array([s.reporting.window for s in setups]) / TICKS_PER_S,
        "window_arrivals": rows[:, :, ARRIVALS].copy(),
        "window_completions": rows[:, :, COMPLETIONS].copy(),
        "window_request_sla_violation_fraction": np.where(has_sla[:, None], late, np.nan),
        "window_queue_length_mean": np.maximum(queue, 0.0),
        "window_batch_size_mean": divide(started, batches),
        "window_batch_target_mean": divide(rows[:, :, TARGET], decisions),
        "window_batch_memory_bound_mean": divide(rows[:, :, MEMORY_BOUND], decisions),
        "window_batch_sla_bound_mean": divide(rows[:, :, SLA_BOUND], decisions),
        "window_signal_mean_s": divide(signal, rows[:, :, SIGNALS]) / (1024.0 * TICKS_PER_S),
    }
