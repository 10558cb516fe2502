"""Replicas that step together: all schedule, then the longest of their steps is how long each lasts."""

from ...compiling.jit import inline
from ...policies.estimates import NOTHING
from ..model import most_active
from ..ticks import LATEST
from .count import OVERRUN, add_decision
from .replica import Work, come_out_empty, decision, decodes_in, learn, schedule, take_steps, ticks_of
from .workspace import (
    BEGINS,
    ENDED,
    FINISHED,
    IN_STEP,
    NOW,
    RUNNING,
    STAYED,
    STEPS,
    WAITING,
    WINDOW,
    keep,
    part_of,
)

# What is known of the step of a replica once it has been scheduled, in a row: whether it has tokens for anybody, those
# that it prefills, and the blocks that its decodes take.
WORKS, PREFILLS, GROWS, PLANNED = range(4)


@inline
def step_together(
    now, plans, requests, law, control, replica, fleet, records, limits, tally, workspace, decide, load, store, key
):
    """Schedule a step at `now` on all replicas and take it; `plans` (replica, PLANNED) is room to work in."""
    begins, longest = now, 0
    for r in range(fleet.replicas):
        begins = max(begins, workspace.state[r, BEGINS])
    for r in range(fleet.replicas):
        part, plan = part_of(workspace, r, workspace.caching, True), plans[r]
        state = part.state
        plan[WORKS] = state[IN_STEP] = state[ENDED] = 0
        if state[RUNNING] + state[WAITING] == 0:
            continue
        while state[WINDOW] < limits.windows and (state[WINDOW] + 1) * limits.window <= begins:
            state[WINDOW] += 1
        target = decision(now, requests, control, part, decide, load, store)
        cap = most_active(target.batch, replica)
        work = schedule(begins, cap, replica, fleet, requests, limits, records, part, tally, key)
        state[IN_STEP] = state[RUNNING] + state[STAYED]
        decoding = decodes_in(work.tokens, replica, state)
        if decoding == 0 and work.tokens == 0:
            come_out_empty(now, begins, replica, requests, limits, part)
            # Where steps are scheduled ahead, this one shows nothing when it has ended.
            keep(part.coming[STEPS], NOTHING)
            keep(part.coming[FINISHED], NOTHING)
            continue
        add_decision(1, target, replica.control.smoothing, limits, tally, 0, state[WINDOW], begins)
        plan[WORKS], plan[PREFILLS], plan[GROWS] = 1, work.tokens, work.grown
        longest = max(longest, ticks_of(decoding, work, law, part)[0])
    ends = begins + longest
    if ends > LATEST:
        tally.totals[OVERRUN] = 1
        return
    for r in range(fleet.replicas):
        part, plan = part_of(workspace, r, workspace.caching, True), plans[r]
        state = part.state
        if plan[WORKS]:
            decoding, work = decodes_in(plan[PREFILLS], replica, state), Work(plan[PREFILLS], 0, 0, plan[GROWS], False)
            take_steps(now, begins, longest, 0, 1, decoding, work, replica, requests, limits, records, part, tally)
            if not replica.async_scheduling:
                learn(replica.control, part)
        state[NOW], state[BEGINS] = begins if replica.async_scheduling else ends, ends
