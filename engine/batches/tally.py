"""What a replication leaves behind: integer counts and sums, in memory that does not grow with the number of requests.

Backends fill a `Tally`; `report.py` turns it into the numbers of docs/model.md, section 9. Integers only, so that the
order of adding does not matter and nothing is rounded before the end.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..histogram import BUCKETS
from ..simulation import Shape

TOTALS = np.dtype(
    [
        (name, np.int64)
        for name in (
            "completed",
            "unserved",
            "measured",  # completed and past the warm-up
            "first_arrival",  # of the measured requests
            "last_completion",
            "output_tokens",  # of the measured requests
            "late_requests",  # latency > D_request
            "late_tokens",  # output tokens of batches with TBT > D_token
            "missed",  # never served, and past the warm-up
            "missed_tokens",  # output tokens of these
            "served",  # requests that complete after first_arrival, whoever they are
            "served_tokens",  # made after first_arrival: `tokens_after`
            "occupied",  # ticks of service from first_arrival on, whoever is served
            "batches",  # batches whose requests are all past the warm-up; so are the fields below
            "members",
            "busy",  # ticks of service
            "length",  # sum of lengths
            "padded",  # sum of batch size x longest length
            "overflows",  # sum of tokens > capacity
            "peak_tokens",
            "extrapolated",  # outside the measured table
            "backlog_half",  # arrived and not completed when half of the requests have arrived
            "backlog_end",  # ... when all have arrived
        )
    ]
)

# Moments: one row for each quantity. Sums in limbs of 32 bits: impossible to overflow below MOST_REQUESTS.
QUANTITIES = ("latency", "wait", "service", "tbt")
LATENCY, WAIT, SERVICE, TBT = range(4)
COUNT, SUM_0, SUM_1, SQUARE_0, SQUARE_1, SQUARE_2, SQUARE_3, LEAST, MOST = range(9)
LOW = 0xFFFFFFFF
"""The lower limb of a sum: `value & LOW`; what is above it is `value >> 32`."""
TBT_UNIT = 1024
"""TBT is kept in 1/1024 tick: it is a ratio, and rarely a whole number of ticks."""

BIN_FIELDS = ("requests", "batches", "members", "wait_0", "wait_1", "latency_0", "latency_1", "longest")
BIN_REQUESTS, BIN_BATCHES, BIN_MEMBERS, BIN_WAIT_0, BIN_WAIT_1, BIN_LATENCY_0, BIN_LATENCY_1, BIN_LONGEST = range(8)

# Windows count every request, warm-up or not: they are there to show how things change.
WINDOW_FIELDS = (
    "arrivals",
    "completions",
    "late_requests",
    "started",  # requests
    "batches",
    "arrival_rest",  # sum over arrivals of the part of the window that remained, in 2^-20 of a window
    "start_rest",
    "target",  # sums over the batches started
    "memory_bound",
    "sla_bound",
    "signals",  # batches started with a smoothed signal at hand
    "signal_0",  # sum of it, in 1/1024 tick, in limbs of 32 bits
    "signal_1",
    "missed",  # of the arrivals, those never served
)
(
    ARRIVALS,
    COMPLETIONS,
    LATE_REQUESTS,
    STARTED,
    BATCHES,
    ARRIVAL_REST,
    START_REST,
    TARGET,
    MEMORY_BOUND,
    SLA_BOUND,
    SIGNALS,
    SIGNAL_0,
    SIGNAL_1,
    MISSED,
) = range(14)


class Tally(NamedTuple):
    """Counts and sums of one replication, or of many with a leading axis."""

    totals: NDArray[np.void]
    """(1,) of TOTALS."""
    moments: NDArray[np.int64]
    """(quantity, 9)."""
    histograms: NDArray[np.int32]
    """(quantity, BUCKETS) of latency, wait, service and TBT in ticks."""
    sizes: NDArray[np.int64]
    """(largest batch + 1,) batches of each size."""
    bins: NDArray[np.int64]
    """(bin, 8)."""
    windows: NDArray[np.int64]
    """(window, 14)."""


def new_tally(runs: int, shape: Shape) -> Tally:
    """Return empty tallies for `runs` replications, leading axis run."""
    moments = np.zeros((runs, len(QUANTITIES), 9), np.int64)
    moments[:, :, LEAST] = 2**62
    return Tally(
        totals=np.zeros((runs, 1), TOTALS),
        moments=moments,
        histograms=np.zeros((runs, len(QUANTITIES), BUCKETS), np.int32),
        sizes=np.zeros((runs, shape.largest_batch + 1), np.int64),
        bins=np.zeros((runs, shape.bins, len(BIN_FIELDS)), np.int64),
        windows=np.zeros((runs, shape.windows, len(WINDOW_FIELDS)), np.int64),
    )


def exact_sums(row: NDArray[np.int64]) -> tuple[int, int, int, int, int]:
    """Return count, sum, sum of squares, least and most of one row of moments, exactly."""
    count, sum_0, sum_1, *squares, least, most = row.tolist()
    return count, sum_0 + (sum_1 << 32), sum(limb << (32 * k) for k, limb in enumerate(squares)), least, most
