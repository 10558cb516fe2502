"""Turn tallies of continuous batching into the numbers of docs/model.md, sections 9-10, named as in the cube."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batches.report import divide, exact_moments, rank_histograms, share_missed
from ..batches.tally import COUNT, LEAST, MOST
from ..policies.estimates import UNIT
from ..windows import REST_BITS
from .model import NEVER, TICKS_PER_S, Setup
from .tally import (
    BACKLOG_END,
    BACKLOG_HALF,
    BIN_LATENCY_0,
    BIN_LATENCY_1,
    BIN_REQUESTS,
    BIN_WAIT_0,
    BIN_WAIT_1,
    COMPLETED,
    FIRST_ARRIVAL,
    GAP,
    LAST_COMPLETION,
    LATE_REQUESTS,
    LATE_TOKENS,
    LATENCY,
    MEASURED,
    MEASURED_STEPS,
    MISSED,
    MISSED_GAPS,
    OCCUPIED,
    PEAK_BLOCKS,
    PREEMPTIONS,
    PREFILL_TOKENS,
    PROMPTS,
    QUANTITIES,
    REJECTIONS,
    RUNNING_SUM,
    SERVED_REQUESTS,
    SERVED_TOKENS,
    SERVICE,
    STEPS,
    TTFT,
    UNITS_PER_S,
    W_ARRIVALS,
    W_COMPLETIONS,
    W_KV_TOKENS,
    W_LATE_REQUESTS,
    W_MEMORY_BOUND,
    W_PREEMPTIONS,
    W_QUEUE,
    W_QUEUE_REST,
    W_REJECTIONS,
    W_RUNNING,
    W_RUNNING_REST,
    W_RUNNING_SUM,
    W_SIGNAL,
    W_SIGNALS,
    W_SLA_BOUND,
    W_STEPS,
    W_TARGET,
    WAIT,
    StepTally,
)

HISTOGRAM_UNITS_PER_S = 10**9
OVERLOAD_TEST = (
    "overloaded: over the second half of the arrivals the number of requests in the system grew by more than "
    "B (1 + c) + 4 sqrt(arrivals in that half), with B the mean number of requests running in a step and c replicas"
)


def summarise_steps(tally: StepTally, setups: Sequence[Setup]) -> dict[str, NDArray[Any]]:
    """Return the report of many replications, leading axis run; ArithmeticError when values were lost on the way."""
    totals = tally.totals
    fleets, replicas = [setup.fleet for setup in setups], [setup.replica for setup in setups]
    reporting = [setup.reporting for setup in setups]
    counts, quantiles = rank_histograms(tally.histograms)
    measured, arrived = totals[:, MEASURED], totals[:, COMPLETED] + totals[:, REJECTIONS]
    _conserve(tally, counts, np.maximum(arrived - [r.warmup for r in reporting], 0))
    span = (totals[:, LAST_COMPLETION] - totals[:, FIRST_ARRIVAL]) / TICKS_PER_S
    span = np.where(measured > 0, span, np.nan)
    has_sla = np.array([r.request_sla < NEVER for r in reporting])
    has_token_sla = np.array([r.token_sla < NEVER for r in reporting])
    gaps = tally.moments[:, GAP, COUNT]
    in_step = divide(totals[:, RUNNING_SUM], totals[:, MEASURED_STEPS])
    growth, later = totals[:, BACKLOG_END] - totals[:, BACKLOG_HALF], arrived - (arrived // 2 + 1)
    servers = np.array([f.replicas for f in fleets])
    report: dict[str, NDArray[Any]] = _request_times(tally, quantiles)
    report |= {
        "latency_histogram": tally.histograms[:, LATENCY].astype(np.uint32),
        "tbt_histogram": tally.histograms[:, GAP].astype(np.uint64),
        "requests": arrived,
        "completed": totals[:, COMPLETED].copy(),
        "rejected": totals[:, REJECTIONS].copy(),
        "measured": measured.copy(),
        "missed": totals[:, MISSED].copy(),
        "steps": totals[:, STEPS].copy(),
        "preemptions": totals[:, PREEMPTIONS].copy(),
        "throughput_requests_per_s": divide(totals[:, SERVED_REQUESTS], span),
        "throughput_tokens_per_s": divide(totals[:, SERVED_TOKENS], span),
        "makespan_s": span,
        "utilisation": divide(totals[:, OCCUPIED] / TICKS_PER_S, servers * span),
        "batch_size_mean": in_step,
        "batch_size_histogram": tally.sizes,
        "request_sla_violation_fraction": np.where(
            has_sla, share_missed(totals[:, LATE_REQUESTS], measured, totals[:, MISSED]), np.nan
        ),
        "token_sla_violation_fraction": np.where(
            has_token_sla, share_missed(totals[:, LATE_TOKENS], gaps, totals[:, MISSED_GAPS]), np.nan
        ),
        "kv_peak_tokens": totals[:, PEAK_BLOCKS] * np.array([float(r.block_tokens) for r in replicas]),
        "recomputed_token_fraction": divide(totals[:, PREFILL_TOKENS] - totals[:, PROMPTS], totals[:, PREFILL_TOKENS]),
        "backlog_growth_fraction": divide(growth, later),
        # The test of the request level: the mean number that run is the batch, and there is one queue.
        "overloaded": growth > np.nan_to_num(in_step) * (1 + servers) + 4.0 * np.sqrt(later),
    }
    report |= _per_bin(tally)
    report |= _per_window(tally, setups, has_sla)
    return report


def _conserve(tally: StepTally, counts: NDArray[np.int64], due: NDArray[np.int64]) -> None:
    """Check that every count of the same requests, gaps and steps agrees.

    `counts` is (run, quantity): how many values the histograms hold; `due` (run,) the requests past the warm-up.
    """
    totals = tally.totals
    # Requests of a single token have no TPOT and no gaps.
    whole = counts[:, [LATENCY, WAIT, SERVICE, TTFT]] == totals[:, MEASURED, None]
    if not (
        (counts == tally.moments[:, :, COUNT]).all()
        and (totals[:, MEASURED] + totals[:, MISSED] == due).all()
        and whole.all()
        and (tally.bins[:, :, BIN_REQUESTS].sum(axis=1) == totals[:, MEASURED]).all()
        and (tally.sizes.sum(axis=1) == totals[:, MEASURED_STEPS]).all()
        and ((tally.sizes * np.arange(tally.sizes.shape[1])).sum(axis=1) == totals[:, RUNNING_SUM]).all()
    ):
        raise ArithmeticError("conservation broken: requests or tokens were lost or counted twice (a defect)")


def _request_times(tally: StepTally, quantiles: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Report the times of requests and the gaps between tokens, in seconds."""
    mean, variance = exact_moments(tally.moments)
    report: dict[str, NDArray[Any]] = {}
    for q, (name, unit) in enumerate(zip(QUANTITIES, UNITS_PER_S, strict=True)):
        nothing = tally.moments[:, q, COUNT] == 0
        least = np.where(nothing, np.nan, tally.moments[:, q, LEAST] / unit)
        most = np.where(nothing, np.nan, tally.moments[:, q, MOST] / unit)
        report[f"{name}_mean_s"] = mean[:, q] / unit
        report[f"{name}_variance_s2"] = variance[:, q] / unit**2
        report[f"{name}_min_s"] = least
        report[f"{name}_max_s"] = most
        report[f"{name}_quantile_s"] = np.clip(quantiles[:, q] / HISTOGRAM_UNITS_PER_S, least[:, None], most[:, None])
    return report


def _per_bin(tally: StepTally) -> dict[str, NDArray[Any]]:
    rows = tally.bins
    wait = rows[:, :, BIN_WAIT_0] + rows[:, :, BIN_WAIT_1] * 2.0**32
    latency = rows[:, :, BIN_LATENCY_0] + rows[:, :, BIN_LATENCY_1] * 2.0**32
    return {
        "bin_requests": rows[:, :, BIN_REQUESTS].copy(),
        "bin_wait_mean_s": divide(wait, rows[:, :, BIN_REQUESTS]) / HISTOGRAM_UNITS_PER_S,
        "bin_latency_mean_s": divide(latency, rows[:, :, BIN_REQUESTS]) / HISTOGRAM_UNITS_PER_S,
    }


def _per_window(tally: StepTally, setups: Sequence[Setup], has_sla: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Report every time window; NaN where nothing happened."""
    rows = tally.windows
    steps = rows[:, :, W_STEPS]
    late = share_missed(rows[:, :, W_LATE_REQUESTS], rows[:, :, W_COMPLETIONS], rows[:, :, W_REJECTIONS])
    return {
        "window_width_s": np.array([s.reporting.window for s in setups]) / TICKS_PER_S,
        "window_arrivals": rows[:, :, W_ARRIVALS].copy(),
        "window_completions": rows[:, :, W_COMPLETIONS].copy(),
        "window_request_sla_violation_fraction": np.where(has_sla[:, None], late, np.nan),
        "window_queue_length_mean": _level(rows[:, :, W_QUEUE], rows[:, :, W_QUEUE_REST]),
        "window_running_mean": _level(rows[:, :, W_RUNNING], rows[:, :, W_RUNNING_REST]),
        "window_preemptions": rows[:, :, W_PREEMPTIONS].copy(),
        "window_batch_size_mean": divide(rows[:, :, W_RUNNING_SUM], steps),
        "window_kv_tokens_mean": divide(rows[:, :, W_KV_TOKENS], steps),
        "window_batch_target_mean": divide(rows[:, :, W_TARGET], steps),
        "window_batch_memory_bound_mean": divide(rows[:, :, W_MEMORY_BOUND], steps),
        "window_batch_sla_bound_mean": divide(rows[:, :, W_SLA_BOUND], steps),
        "window_signal_mean_s": divide(rows[:, :, W_SIGNAL], rows[:, :, W_SIGNALS]) / (UNIT * 1e6),
    }


def _level(changes: NDArray[np.int64], rests: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the time average of a level: what it was before the window, and what changes in it add for its rest."""
    before = np.cumsum(changes, axis=1) - changes
    return np.maximum(before + rests / 2.0**REST_BITS, 0.0)
