"""What a replication of continuous batching leaves behind: integer counts and sums, as at the request level.

Times of requests are counted in whole nanoseconds, gaps between tokens in ticks, and in nanoseconds in the histogram.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..batches.tally import LEAST
from ..histogram import BUCKETS, bucket_edges
from ..simulation import Shape
from .model import NEVER, TICKS_PER_NANOSECOND

TOTAL_FIELDS = (
    # Of the whole run: what `Totals` says.
    "steps",
    "decode_tokens",
    "prefill_tokens",
    "prefills",
    "preemptions",
    "busy",
    "peak_blocks",
    # Of the whole run.
    "prompts",  # prompt tokens of the requests that were served
    "completed",
    "rejected",
    "late",  # not 0: the clock ran out
    "kept",  # tokens and blocks of the KV cache in use when all is done: must be 0
    # From the arrival of the first measured request on.
    "measured_steps",  # steps that begin then
    "running",  # sum over them of the requests that run
    "occupied",  # ticks in steps
    "served",  # requests that complete then, whoever they are
    "served_tokens",  # tokens emitted then
    "first_arrival",  # of the measured requests that are served
    "last_completion",
    # Of the measured requests.
    "measured",
    "late_requests",  # latency > D_request
    "late_tokens",  # gap > D_token
    "missed",  # rejected, and past the warm-up
    "missed_gaps",  # between the output tokens of these
    "backlog_half",  # arrived and not completed when half of the requests have arrived
    "backlog_end",  # ... when all have arrived
)
(
    STEPS,
    DECODE_TOKENS,
    PREFILL_TOKENS,
    PREFILLS,
    PREEMPTIONS,
    BUSY,
    PEAK_BLOCKS,
    PROMPTS,
    COMPLETED,
    REJECTIONS,
    LATE,
    KEPT,
    MEASURED_STEPS,
    RUNNING_SUM,
    OCCUPIED,
    SERVED_REQUESTS,
    SERVED_TOKENS,
    FIRST_ARRIVAL,
    LAST_COMPLETION,
    MEASURED,
    LATE_REQUESTS,
    LATE_TOKENS,
    MISSED,
    MISSED_GAPS,
    BACKLOG_HALF,
    BACKLOG_END,
) = range(len(TOTAL_FIELDS))

QUANTITIES = ("latency", "wait", "service", "ttft", "tpot", "tbt")
LATENCY, WAIT, SERVICE, TTFT, TPOT, GAP = range(6)
UNITS_PER_S = (10**9, 10**9, 10**9, 10**9, 10**9, 10**12)
"""Of the moments of each quantity; their histograms are all in nanoseconds."""

BIN_FIELDS = ("requests", "wait_0", "wait_1", "latency_0", "latency_1")
BIN_REQUESTS, BIN_WAIT_0, BIN_WAIT_1, BIN_LATENCY_0, BIN_LATENCY_1 = range(5)

# Windows count every request and step, warm-up or not: they are there to show how things change. A step belongs to the
# window that it begins in.
WINDOW_FIELDS = (
    "arrivals",
    "completions",
    "late_requests",
    "queue",  # changes of the number that wait, and that run, in the window
    "queue_rest",  # each change times the part of the window that remained, in 2^-20 of a window
    "running",
    "running_rest",
    "preemptions",
    "steps",
    "running_sum",  # sums over the steps
    "kv_tokens",  # in the cache at the end of each
    "target",
    "memory_bound",
    "sla_bound",
    "signals",  # steps with a smoothed signal at hand
    "signal",  # sum of it, in 1/1024 µs
    "rejections",  # of the arrivals
)
(
    W_ARRIVALS,
    W_COMPLETIONS,
    W_LATE_REQUESTS,
    W_QUEUE,
    W_QUEUE_REST,
    W_RUNNING,
    W_RUNNING_REST,
    W_PREEMPTIONS,
    W_STEPS,
    W_RUNNING_SUM,
    W_KV_TOKENS,
    W_TARGET,
    W_MEMORY_BOUND,
    W_SLA_BOUND,
    W_SIGNALS,
    W_SIGNAL,
    W_REJECTIONS,
) = range(len(WINDOW_FIELDS))


class Totals(NamedTuple):
    """What one replication did in all."""

    steps: int
    decode_tokens: int
    """Tokens emitted by decodes; the other tokens were emitted by prefills."""
    prefill_tokens: int
    """Prefilled, those again after a preemption too."""
    prefills: int
    """Prefills that were done: each emits a token."""
    preemptions: int
    busy: int
    """Ticks in steps, of all replicas."""
    peak_blocks: int
    """Most in use on any replica."""


class StepTally(NamedTuple):
    """Counts and sums of one replication, or of many with a leading axis."""

    totals: NDArray[np.int64]
    """(26,) of TOTAL_FIELDS."""
    moments: NDArray[np.int64]
    """(quantity, 9), as at the request level."""
    histograms: NDArray[np.int64]
    """(quantity, BUCKETS)."""
    sizes: NDArray[np.int64]
    """(most running + 1,) measured steps with so many requests running."""
    bins: NDArray[np.int64]
    """(bin, 5)."""
    windows: NDArray[np.int64]
    """(window, 17)."""


def new_step_tally(runs: int, shape: Shape) -> StepTally:
    """Return empty tallies for `runs` replications, leading axis run."""
    moments = np.zeros((runs, len(QUANTITIES), 9), np.int64)
    moments[:, :, LEAST] = NEVER
    return StepTally(
        totals=np.zeros((runs, len(TOTAL_FIELDS)), np.int64),
        moments=moments,
        histograms=np.zeros((runs, len(QUANTITIES), BUCKETS), np.int64),
        sizes=np.zeros((runs, shape.largest_batch + 1), np.int64),
        bins=np.zeros((runs, shape.bins, len(BIN_FIELDS)), np.int64),
        windows=np.zeros((runs, shape.windows, len(WINDOW_FIELDS)), np.int64),
    )


# Shortest gap, in ticks, that falls beyond each bucket: a gap is rounded down to a nanosecond before it is counted.
BUCKET_ENDS = np.ceil(bucket_edges()[1:]).astype(np.int64) * TICKS_PER_NANOSECOND
