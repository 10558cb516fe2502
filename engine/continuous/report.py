"""The report of continuous batching: what its numbers need to know besides the counts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..report import Facts, summarise
from ..statistics import CONTINUOUS
from ..tally import Tally
from ..ticks import NEVER
from .following import judged_by
from .model import Job
from .promises import is_promised
from .ticks import TICKS_PER_S


def summarise_steps(tally: Tally, jobs: Sequence[Job]) -> dict[str, NDArray[Any]]:
    """Return the report of many replications, leading axis run; ArithmeticError when values were lost on the way."""
    setups = [job.setup for job in jobs]
    reporting = [setup.reporting for setup in setups]
    promised = [job.classes is not None and is_promised(job.classes).any() for job in jobs]
    facts = Facts(
        arrived=np.array([len(job.requests.arrival) for job in jobs]),
        later=np.array([judged_by(job.requests).later for job in jobs]),
        warmup=np.array([r.warmup for r in reporting]),
        servers=np.array([setup.fleet.replicas for setup in setups]),
        window_s=np.array([r.window for r in reporting]) / TICKS_PER_S,
        has_request_sla=np.array([r.request_sla < NEVER for r in reporting]),
        has_token_sla=np.array([r.token_sla < NEVER for r in reporting]),
        is_promised=np.array(promised) | [bool(is_promised(r)) for r in reporting],
        has_tokens=np.full(len(setups), True),
    )
    block_tokens = np.array([float(setup.replica.block_tokens) for setup in setups])
    blocks = np.array([float(setup.replica.blocks) for setup in setups])
    caches = np.array([setup.replica.enable_prefix_caching for setup in setups])
    return summarise(
        CONTINUOUS,
        tally,
        facts,
        block_tokens=block_tokens,
        blocks=blocks,
        caches_prefixes=caches,
    )
