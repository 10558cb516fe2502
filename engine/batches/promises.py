"""What requests were promised, and how many of them did not get it (docs/model.md, section 9).

Counted once all is done, from what became of each request, whatever simulated it.
"""

import numpy as np
from numpy.typing import NDArray

from ..simulation import Reporting
from ..statistics import BATCHES
from ..tally import Tally
from ..ticks import NEVER
from .model import Job, Records


def is_promised(limits: Reporting) -> bool:
    """Say whether there is any limit of requests."""
    return limits.request_sla < NEVER or looks_at_tokens(limits)


def looks_at_tokens(limits: Reporting) -> bool:
    """Say whether there is a limit on when tokens come: only what became of each request then tells who keeps all."""
    return limits.ttft_sla < NEVER or limits.tpot_sla < np.inf


def count_promises(job: Job, records: Records, tally: Tally) -> None:
    """Count the measured requests that exceed any limit into the tally of a job; records may be empty without one."""
    limits, totals = job.setup.reporting, tally.totals
    broken = int(totals[BATCHES.at("late_requests")])
    if looks_at_tokens(limits):
        (served,) = np.nonzero(records.batch >= 0)
        broken = int(np.count_nonzero(_broken(job, records, served) & (served >= limits.warmup)))
    totals[BATCHES.at("broken")] = broken


def _broken(job: Job, records: Records, served: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Say of each served request whether it exceeds any limit."""
    trace, limits, prefill = job.trace, job.setup.reporting, job.setup.service.prefill
    arrival, start, completion = trace.arrival[served], records.start[served], records.completion[served]
    # The longest request of a batch completes with it.
    batch = records.batch[served]
    longest, service = np.zeros((2, batch.max(initial=-1) + 1), np.int64)
    np.maximum.at(longest, batch, trace.length[served])
    np.maximum.at(service, batch, completion - start)
    pace = ((service - prefill) / longest)[batch]
    late = (completion - arrival > limits.request_sla) | (start + prefill - arrival > limits.ttft_sla)
    return np.asarray(late | ((pace > limits.tpot_sla) & (trace.output[served] > 1)))
