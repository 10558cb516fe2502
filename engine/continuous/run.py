"""The front door of continuous batching: one replica, step by step or in leaps, and what became of every request."""

from typing import NamedTuple

import numpy as np

from .model import REJECTED, SERVED, Records, Replica, Requests, Totals, check, never_fits, too_late

BACKENDS = ("numba", "reference")


class StepOutcome(NamedTuple):
    """What one replication gave."""

    records: Records
    totals: Totals


def simulate_steps(requests: Requests, replica: Replica, backend: str = "numba") -> StepOutcome:
    """Simulate one replica under continuous batching.

    Records hold, for each request (request,), ticks of 1 ps: see `Records`. Raises ValueError for input that does not
    fit together, ArithmeticError when requests or tokens were lost on the way.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend = {backend!r}: must be one of {', '.join(BACKENDS)}")
    check(requests, replica)
    if backend == "reference":
        from .reference import simulate_reference

        outcome = StepOutcome(*simulate_reference(requests, replica))
    else:
        outcome = _run_compiled(requests, replica)
    _check_conservation(requests, outcome)
    return outcome


def _run_compiled(requests: Requests, replica: Replica) -> StepOutcome:
    from . import compiled

    records = Records(*(np.full(len(requests.arrival), -1, np.int64) for _ in Records._fields))
    records.preemptions[:] = 0
    records.status[:] = np.where(never_fits(requests, replica), REJECTED, SERVED)
    space = compiled.make_space(requests, replica)
    compiled.run_steps(requests, replica, records, space)
    if space.state[compiled.LATE]:
        raise too_late()
    totals = space.state[compiled.STEPS : compiled.STEPS + len(Totals._fields)].tolist()
    return StepOutcome(records, Totals(*totals))


def _check_conservation(requests: Requests, outcome: StepOutcome) -> None:
    """Refuse a result in which a request or a token was lost: every request is served whole, or rejected."""
    records, totals = outcome
    served = records.status == SERVED
    lost = int((records.last_token[served] < 0).sum())
    ordered = (records.scheduled[served] < records.first_token[served]) & (
        records.first_token[served] <= records.last_token[served]
    )
    emitted, wanted = totals.decode_tokens + totals.prefills, int(requests.output[served].sum())
    if lost or not ordered.all() or emitted != wanted:
        raise ArithmeticError(
            f"conservation is broken: {lost} requests lost, {emitted} tokens emitted, {wanted} wanted"
        )
