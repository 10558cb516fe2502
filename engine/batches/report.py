"""The report of whole batches: what its numbers need to know besides the counts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..policies.memory import UNLIMITED
from ..report import Facts, summarise
from ..statistics import BATCHES
from ..tally import Tally
from ..ticks import NEVER, TICKS_PER_S
from .model import INFINITE, Setup
from .promises import is_promised


def summarise_batches(tally: Tally, setups: Sequence[Setup], requests: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Return the report of many replications, leading axis run; ArithmeticError when requests were lost or invented."""
    policies, reporting = [s.policy for s in setups], [s.reporting for s in setups]
    timed = np.array([s.service.timed for s in setups])
    arrived = np.asarray(requests, dtype=np.int64)
    facts = Facts(
        arrived=arrived,
        later=arrived - (arrived // 2 + 1),
        warmup=np.array([r.warmup for r in reporting]),
        servers=np.array([np.nan if p.servers == INFINITE else p.servers for p in policies]),
        window_s=np.array([r.window for r in reporting]) / TICKS_PER_S,
        has_request_sla=np.array([r.request_sla < NEVER for r in reporting]),
        has_token_sla=np.array([np.isfinite(r.token_sla) for r in reporting]),
        is_promised=np.array([is_promised(r) for r in reporting]),
        has_tokens=~timed,
    )
    places = [
        np.inf if s.policy.servers == INFINITE else len(s.control.prior_tokens) + s.policy.servers for s in setups
    ]
    prefill = np.array([s.service.prefill for s in setups]) / TICKS_PER_S
    return summarise(
        BATCHES,
        tally,
        facts,
        has_capacity=np.array([s.control.memory.capacity < UNLIMITED for s in setups]),
        largest=np.array([p.batch_size for p in policies], dtype=np.float64),
        length_unit=np.where(timed, TICKS_PER_S, 1),
        places=np.array(places),
        prefill_s=np.where(timed, np.nan, prefill),
    )
