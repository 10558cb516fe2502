"""One replica: schedule a step, take it as often as nothing changes, emit its tokens."""

from typing import Any, NamedTuple

from ...compiling.jit import inline
from ...policies.controller import Heads, View
from ...policies.estimates import NOTHING, observe
from ...policies.sla import TOKEN_GAP
from ...policies.target import Control, finished_of, last_of, steps_of
from ..model import LONGEST_GAP, NOBODY, Replica, blocks_of, is_crowded, longest_chunk, most_active, must_fit
from ..steps import decode_ticks, kv_token_ticks, prefill_ticks
from ..ticks import LATEST, TICKS_PER_MICROSECOND, TICKS_PER_NANOSECOND
from .count import OVERRUN, add_decision, count_gaps, count_move, count_steps
from .leaps import countable, grow, growth, lasting, steps_that_fit, steps_until
from .pool import (
    begin_with,
    extend,
    extend_all,
    extend_on,
    fill,
    find,
    free,
    more_blocks,
    steps_until_wanted,
    take,
    want,
    want_nothing,
)
from .priorities import lowest
from .queues import complete, dequeue, enqueue, join, let_go, next_in_line, preempt, start_decoding, stop_decoding
from .workspace import (
    AFTER,
    BEFORE,
    BEGINS,
    COUNT,
    DECODED,
    DECODING,
    DONE,
    EMITTED,
    ENDED,
    FINISHED,
    FIRST,
    FRESH,
    GENERATED,
    GIVEN,
    GROWN,
    HEAD,
    IN_STEP,
    MEASURED_DECODING,
    NEXT,
    NOW,
    OFFSETS,
    PREFILLED,
    PREFILLING,
    RESIDENT,
    RUNNING,
    SEEN_FINISHED,
    SEEN_STEPS,
    STAYED,
    STAYING,
    STEPS,
    TAIL,
    TO_PREFILL,
    TOKENS,
    USED,
    WAITING,
    WINDOW,
    keep,
    means_of,
    observation_of,
    see,
)

# In place of settings that are not handed on.
LEFT_OUT: Any = ()
ALL_DECODES = -2
"""Whoever decodes, in place of one request."""


class Work(NamedTuple):
    """What a step does beside its decodes: what it prefills, and what that leaves."""

    tokens: int
    attention: int
    """Σ chunk * context."""
    budget: int
    """Tokens left."""
    grown: int
    """Blocks that the decodes take."""
    preempted: bool


@inline
def send_back(i, now, replica, requests, limits, records, workspace, tally):
    """Preempt a running request."""
    records.preemptions[i] += 1
    count_move(now, -1, 0, 0, limits, workspace, tally)
    if not preempt(workspace, i, requests, replica, limits.warmup):
        # It leaves from where it waits, at that very instant.
        count_move(now, 1, 0, 0, limits, workspace, tally)


@inline
def prefill(i, chunk, more, workspace):
    """Prefill a chunk of a running request that takes so many blocks more; return its attention."""
    state, attention = workspace.state, take(workspace, i, chunk, more)
    if not still_prefilling(i, workspace):
        state[PREFILLED] += workspace.request[i, TO_PREFILL] == 0
        end_prefill(i, workspace)
    return attention


@inline
def still_prefilling(i, workspace):
    """Say whether a request goes on prefilling: one that only lacks the token it emitted last decodes."""
    return workspace.request[i, TO_PREFILL] > (workspace.request[i, GENERATED] > 0)


@inline
def end_prefill(i, workspace):
    """Let a running request decode from the next step on."""
    workspace.lists[DONE, workspace.state[DONE]] = i
    workspace.state[DONE] += 1


@inline
def order_is_idle(longest, replica, workspace):
    """Say whether decodes may be looked at before prefills, though running requests are served in their order.

    They may where all prefills were admitted after all decodes, or where there are budget and room for everybody; not
    where it may matter which block is taken, or computed, first.
    """
    if workspace.caching:
        if workspace.state[USED] + growth(workspace, 1, replica.block_tokens) > replica.blocks:
            return False
        if replica.async_scheduling and workspace.state[FRESH] > 0:
            return False
    if prefills_are_last(workspace):
        return True
    return not workspace.caching and everybody_fits(False, longest, replica, workspace)


@inline
def prefills_are_last(workspace):
    """Say whether all prefills were admitted after all decodes."""
    i, k = workspace.state[TAIL], workspace.state[PREFILLING]
    while k > 0 and workspace.lists[PREFILLING, k - 1] == i:
        i, k = workspace.request[i, BEFORE], k - 1
    return k == 0


@inline
def everybody_fits(clipped, longest, replica, workspace):
    """Say whether there are budget and room for all that run; for what the budget leaves them, if it is `clipped`."""
    state, size = workspace.state, replica.block_tokens
    budget, blocks = replica.token_budget - state[DECODING], state[USED] + growth(workspace, 1, size)
    for k in range(state[PREFILLING]):
        i = workspace.lists[PREFILLING, k]
        chunk = min(workspace.request[i, TO_PREFILL], longest)
        if clipped:
            chunk = min(chunk, budget)
        budget, blocks = budget - chunk, blocks + more_blocks(workspace.request[i, RESIDENT], chunk, size)
    return budget >= 0 and blocks <= replica.blocks


@inline
def serve_running(now, longest, replica, requests, limits, records, workspace, tally):
    """Give running requests their tokens, as if one after the other in the order of admission.

    Decodes that the budget does not reach get none.
    """
    state, size = workspace.state, replica.block_tokens
    budget, tokens, attention, grown, preempted = replica.token_budget, 0, 0, 0, False
    idle = order_is_idle(longest, replica, workspace)
    # Of the prefills, or of all that run; first of all the decodes together where the order is idle.
    k, i = 0, ALL_DECODES if idle else state[HEAD]
    while i != NOBODY and budget > 0:
        decodes = i == ALL_DECODES or workspace.finish[i] != NOBODY
        if i == ALL_DECODES:
            chunk, more = state[DECODING], growth(workspace, 1, size)
        else:
            chunk = 1 if decodes else min(workspace.request[i, TO_PREFILL], longest, budget)
            more = more_blocks(workspace.request[i, RESIDENT] + (state[GROWN] if decodes else 0), chunk, size)
        if state[USED] + grown + more > replica.blocks:
            preempted = True
            last = state[TAIL]
            send_back(last, now, replica, requests, limits, records, workspace, tally)
            if last == i:
                i = NOBODY
            continue
        if decodes:
            grown += more
            if i == ALL_DECODES:
                extend_all(workspace)
            else:
                extend(workspace, i, workspace.request[i, RESIDENT] + state[GROWN] + 1)
        elif chunk > 0:
            attention += prefill(i, chunk, more, workspace)
            tokens += chunk
        budget -= chunk
        if not idle:
            i = workspace.request[i, AFTER]
        else:
            i = workspace.lists[PREFILLING, k] if k < state[PREFILLING] else NOBODY
            k += 1
    while not idle and i != NOBODY:
        if workspace.finish[i] != NOBODY:
            pass_over(i, requests, limits, size, workspace)
        i = workspace.request[i, AFTER]
    keep_prefilling(workspace)
    return Work(tokens, attention, budget, grown, preempted)


@inline
def pass_over(i, requests, limits, size, workspace):
    """Let a decode get no token in this step."""
    stop_decoding(workspace, i, requests.output[i], limits.warmup, size)
    workspace.request[i, TO_PREFILL] = 1
    end_prefill(i, workspace)


@inline
def keep_prefilling(workspace):
    """Keep those whose prefill has not ended."""
    state, kept = workspace.state, 0
    for k in range(state[PREFILLING]):
        i = workspace.lists[PREFILLING, k]
        if still_prefilling(i, workspace):
            workspace.lists[PREFILLING, kept] = i
            kept += 1
    state[PREFILLING] = kept


@inline
def resident_in(i, workspace):
    """Return the tokens that a running request has in the cache."""
    return workspace.request[i, RESIDENT] + (workspace.state[GROWN] if workspace.finish[i] != NOBODY else 0)


@inline
def serve_by_priority(now, longest, replica, requests, limits, records, workspace, tally):
    """Give running requests their tokens in the order of admission, where the last by priority are preempted.

    What they were given in this step is taken back; behind one that goes itself nobody gets any.
    """
    state, size = workspace.state, replica.block_tokens
    budget, blocks, preempted = replica.token_budget, 0, False
    i = state[HEAD]
    while i != NOBODY and budget > 0:
        chunk = 1 if workspace.finish[i] != NOBODY else min(workspace.request[i, TO_PREFILL], longest, budget)
        more, gone = more_blocks(resident_in(i, workspace), chunk, size), NOBODY
        while gone != i and chunk > 0 and state[USED] + blocks + more > replica.blocks:
            gone = lowest(workspace, requests, state[HEAD])
            back = more_blocks(resident_in(gone, workspace), workspace.request[gone, GIVEN], size)
            blocks -= back
            if workspace.caching:
                # They were taken already, and are freed with the others.
                state[USED] += back
            budget += workspace.request[gone, GIVEN]
            workspace.request[gone, GIVEN] = 0
            send_back(gone, now, replica, requests, limits, records, workspace, tally)
            preempted = True
        if gone == i:
            break
        workspace.request[i, GIVEN] = chunk
        if chunk > 0:
            extend(workspace, i, resident_in(i, workspace) + chunk)
        blocks, budget = blocks + more, budget - chunk
        i = workspace.request[i, AFTER]
    tokens = attention = grown = 0
    i = state[HEAD]
    while i != NOBODY:
        chunk, workspace.request[i, GIVEN] = workspace.request[i, GIVEN], 0
        if workspace.finish[i] == NOBODY:
            if chunk > 0:
                attention += prefill(i, chunk, more_blocks(workspace.request[i, RESIDENT], chunk, size), workspace)
                tokens += chunk
        elif chunk > 0:
            grown += more_blocks(resident_in(i, workspace), 1, size)
        else:
            pass_over(i, requests, limits, size, workspace)
        i = workspace.request[i, AFTER]
    keep_prefilling(workspace)
    return Work(tokens, attention, budget, grown, preempted)


@inline
def admit(now, cap, longest, work, replica, fleet, requests, limits, records, workspace, tally, key):
    """Admit those that are next in line until one does not fit, unless this step has preempted anybody."""
    state, size = workspace.state, replica.block_tokens
    tokens, attention, budget = work.tokens, work.attention, work.budget
    while not work.preempted and state[WAITING] > 0 and state[RUNNING] < cap and budget > 0:
        i = next_in_line(workspace, requests, fleet, int(replica.control.largest), key)
        asked = requests.prompt[i] + workspace.request[i, GENERATED]
        found, unheld = find(workspace, i, asked)
        need = asked - found
        chunk = min(need, longest, budget) if replica.chunked else need
        more = blocks_of(chunk, size)
        must = more if chunk == need else blocks_of(must_fit(chunk, need, replica), size)
        if is_crowded(chunk, budget, state[USED] + work.grown + unheld + must, replica):
            want(workspace, i, found, asked)
            break
        dequeue(workspace, requests, replica, fleet)
        join(workspace, i)
        begins = records.scheduled[i] < 0
        if begins:
            records.scheduled[i] = now
        counted = begins * workspace.caching
        count_move(now, 1, counted * asked, counted * found, limits, workspace, tally)
        records.cached[i] += found
        begin_with(workspace, i, found, unheld)
        workspace.request[i, TO_PREFILL] = need
        attention += prefill(i, chunk, more, workspace)
        tokens, budget = tokens + chunk, budget - chunk
        if still_prefilling(i, workspace):
            workspace.lists[PREFILLING, state[PREFILLING]] = i
            state[PREFILLING] += 1
    return Work(tokens, attention, budget, work.grown, work.preempted)


@inline
def schedule(now, cap, replica, fleet, requests, limits, records, workspace, tally, key):
    """Choose what runs in this step: running requests, then admissions; the other way round without chunks."""
    state = workspace.state
    state[DONE] = state[PREFILLED] = state[STAYED] = 0
    want_nothing(workspace)
    longest = longest_chunk(state[RUNNING] + state[WAITING], replica)
    work = Work(0, 0, replica.token_budget, 0, False)
    for part in range(2):
        if (part == 0) != replica.chunked:
            work = admit(now, cap, longest, work, replica, fleet, requests, limits, records, workspace, tally, key)
        elif replica.by_priority and not everybody_fits(prefills_are_last(workspace), longest, replica, workspace):
            work = serve_by_priority(now, longest, replica, requests, limits, records, workspace, tally)
        elif work.tokens == 0:
            work = serve_running(now, longest, replica, requests, limits, records, workspace, tally)
    return work


@inline
def emit_gaps(now, first, growing, steps, chunked, limits, workspace, tally):
    """Count the gaps that end with the tokens of decode steps."""
    state, weight, fresh = workspace.state, workspace.state[MEASURED_DECODING], 0
    for k in range(state[FRESH]):
        i = workspace.lists[FRESH, k]
        if workspace.finish[i] != NOBODY and i >= limits.warmup:
            count_gaps(now + first - workspace.request[i, EMITTED], 0, 1, 1, limits, workspace, tally)
            fresh += 1
    state[FRESH] = 0
    longer = time_before(now, chunked, workspace)
    if fresh > 0 or longer > 0:
        count_gaps(longer + first, 0, 1, weight - fresh, limits, workspace, tally)
        first, steps = first + growing, steps - 1
    count_gaps(first, growing, steps, weight, limits, workspace, tally)


@inline
def time_before(now, chunked, workspace):
    """Return the time between the latest tokens of decodes, those of `fresh` left out, and this step.

    With chunks, decodes run in every step. Without, steps of prefills alone may have come between.
    """
    return 0 if chunked else now - workspace.state[DECODED]


@inline
def mean_gap(now, duration, decoding, chunked, workspace):
    """Return the mean time since the tokens before those of a decode step, in microseconds."""
    state, total, others, end = workspace.state, 0, decoding, now + duration
    for k in range(state[FRESH]):
        i = workspace.lists[FRESH, k]
        if workspace.finish[i] != NOBODY:
            total += min((end - workspace.request[i, EMITTED]) // TICKS_PER_NANOSECOND, LONGEST_GAP)
            others -= 1
    gap = time_before(now, chunked, workspace) + duration
    total += others * min(gap // TICKS_PER_NANOSECOND, LONGEST_GAP)
    return (total // decoding) / 1000.0


@inline
def with_rules(replica, rules):
    """Return the settings of a replica, without the `rules` that `has_rules` asks for where there are none.

    Where there are none as the kernel is compiled, it has no code for them. Nor are there the law and the settings of
    a further controller: what is handed from function to function shall be small, and only one asks for each. A part
    of the kernel that such settings do not go through is compiled once for all controllers.
    """
    control = replica.control
    return Replica(
        LEFT_OUT,
        Control(
            control.smallest,
            control.largest,
            control.sla,
            control.memory,
            control.smoothing,
            control.prior_tokens,
            control.prior_squares,
            LEFT_OUT,
        ),
        replica.token_budget,
        replica.chunked,
        replica.block_tokens,
        replica.blocks,
        replica.scheduler_reserve_full_isl,
        replica.long_prefill_token_threshold,
        replica.long_prefill_token_threshold_adaptive,
        replica.max_num_active_seqs,
        replica.max_model_len,
        replica.by_priority and rules,
        replica.async_scheduling and rules,
        replica.enable_prefix_caching and rules,
    )


def has_rules(replica: Replica) -> bool:
    """Say whether a replica has any of the rules that a kernel can be compiled without."""
    return bool(replica.by_priority or replica.async_scheduling or replica.enable_prefix_caching)


@inline
def view_of(now, requests, control, workspace):
    """Return what the controllers of a replica see at the start of a step."""
    state, queues, smoothing = workspace.state, workspace.queue, control.smoothing
    arrival, prompt, predicted = requests.arrival, requests.prompt, requests.predicted
    steps, finished = means_of(STEPS, workspace), means_of(FINISHED, workspace)
    return View(
        state[WAITING] > 0,
        state[WAITING],
        state[RUNNING],
        state[RUNNING],
        queues[:, COUNT],
        Heads(queues[:, FIRST], workspace.numbers, arrival, prompt, predicted, now, TICKS_PER_MICROSECOND),
        -1,
        control.smallest,
        control.largest,
        steps_of(steps, smoothing),
        finished_of(finished, control.prior_tokens[0], control.prior_squares[0], smoothing),
        last_of(observation_of(workspace.last[STEPS]), observation_of(workspace.last[FINISHED])),
    )


@inline
def decode_next(i, own_gap, output, limits, size, workspace):
    """Let a running request decode from the next step on; its first gap may be its own."""
    workspace.request[i, TO_PREFILL] = 0
    start_decoding(workspace, i, output[i], limits.warmup, size)
    if own_gap:
        workspace.lists[FRESH, workspace.state[FRESH]] = i
        workspace.state[FRESH] += 1


@inline
def learn(control, workspace):
    """Show the controllers what the step under way has shown, which has ended."""
    if workspace.watched:
        show(STEPS, SEEN_STEPS, control, workspace)
    if control.memory.enabled or workspace.further:
        show(FINISHED, SEEN_FINISHED, control, workspace)


@inline
def show(which, seen, control, workspace):
    """Show the controllers an observation, if there is anything in it."""
    new = observation_of(workspace.coming[which])
    if new.batch > 0:
        see(which, new, workspace.state[seen], control.smoothing, workspace)
        workspace.state[seen] += 1
    else:
        keep(workspace.last[which], NOTHING)


@inline
def decision(now, requests, control, workspace, decide, load, store):
    """Return what the controllers decide as a step is scheduled."""
    view = view_of(now, requests, control, workspace)
    controllers, target = decide(load(workspace.kept), means_of(STEPS, workspace), view, control)
    store(workspace.kept, controllers)
    # What the latest step has shown is shown once.
    if workspace.watched:
        keep(workspace.last[STEPS], NOTHING)
    if control.memory.enabled or workspace.further:
        keep(workspace.last[FINISHED], NOTHING)
    return target


@inline
def come_out_empty(now, begins, replica, requests, limits, workspace):
    """End the scheduling of a step that has tokens for nobody; the step under way, begun at `now`, ends as it begins.

    Nobody can run: that one must end first, or who was just preempted must come back.
    """
    state, size = workspace.state, replica.block_tokens
    state[FRESH] = 0
    for k in range(state[DONE]):
        fill(workspace, workspace.lists[DONE, k])
        decode_next(workspace.lists[DONE, k], True, requests.output, limits, size, workspace)
    if begins > now:
        let_go(workspace, size)
        learn(replica.control, workspace)


@inline
def decodes_in(tokens, replica, state):
    """Return how many decode in a step that prefills so many tokens."""
    return state[DECODING] if replica.chunked or tokens == 0 else 0


@inline
def ticks_of(decoding, work, law, workspace):
    """Return the ticks of a step, and how much longer the next is if it has the same decodes."""
    kv_token = kv_token_ticks(decoding, law)
    ticks = decode_ticks(decoding, law)
    if work.tokens > 0:
        ticks += prefill_ticks(work.tokens, work.attention, decoding, law)
    if decoding > 0:
        ticks += kv_token * (workspace.state[OFFSETS] + decoding * (workspace.state[GROWN] + 1))
    return ticks, kv_token * decoding


@inline
def take_steps(
    now, begins, first, growing, steps, decoding, work, replica, requests, limits, records, workspace, tally
):
    """Take steps that are all alike: the first lasts `first` ticks, each `growing` longer than the one before.

    Those that the step under way ends leave before that; it may have begun at `now`.
    """
    state, size, control = workspace.state, replica.block_tokens, replica.control
    prompt, output = requests.prompt, requests.output
    duration = lasting(first, growing, steps)
    ends = begins + duration
    grown = growth(workspace, steps, size) if decoding > 0 else 0
    stored = extend_on(workspace, state[USED] + work.grown, steps)
    count_steps(begins, first, growing, steps, decoding, work, grown, stored, size, limits, workspace, tally)
    signal = duration / TICKS_PER_MICROSECOND
    if decoding > 0:
        if workspace.watched and control.sla.signal == TOKEN_GAP:
            signal = mean_gap(begins, duration, decoding, replica.chunked, workspace)
        emit_gaps(begins, first, growing, steps, replica.chunked, limits, workspace, tally)
        state[USED] += grown
        state[TOKENS] += decoding * steps
        grow(workspace, steps, size)
        state[DECODED] = ends
    elif replica.chunked:
        # Those that the budget has not reached have stopped.
        state[FRESH] = 0
    if replica.async_scheduling and begins > now:
        let_go(workspace, size)
        learn(control, workspace)

    # Time passes, tokens are emitted, finished requests leave.
    while decoding > 0 and state[DECODING] > 0 and workspace.finish[workspace.lists[DECODING, 0]] <= state[GROWN]:
        i = workspace.lists[DECODING, 0]
        stop_decoding(workspace, i, output[i], limits.warmup, size)
        complete(workspace, i, replica)
    for k in range(state[DONE]):
        i = workspace.lists[DONE, k]
        emits = workspace.request[i, TO_PREFILL] == 0
        if emits:
            if workspace.request[i, GENERATED] == 0:
                records.first_token[i] = ends
            elif i >= limits.warmup:
                count_gaps(ends - workspace.request[i, EMITTED], 0, 1, 1, limits, workspace, tally)
            workspace.request[i, GENERATED] += 1
            workspace.request[i, EMITTED] = ends
        if workspace.request[i, GENERATED] == output[i]:
            complete(workspace, i, replica)
        else:
            if not emits:
                fill(workspace, i)
            decode_next(i, not (replica.chunked and emits), output, limits, size, workspace)
    free(workspace)
    gone, tokens, squares = state[ENDED], 0, 0
    for k in range(gone):
        i = workspace.lists[ENDED, k]
        records.last_token[i] = ends
        total = prompt[i] + output[i]
        tokens, squares = tokens + total, squares + total * total
    if workspace.watched:
        shown = NOTHING
        if decoding > 0:
            shown = observe(signal, decoding, 0, 0)
        keep(workspace.coming[STEPS], shown)
    if control.memory.enabled or workspace.further:
        shown = NOTHING
        if gone > 0:
            shown = observe(0.0, gone, tokens, squares)
        keep(workspace.coming[FINISHED], shown)


@inline
def advance(
    requests, bin_of, law, control, replica, fleet, records, limits, tally, workspace, mine, until,
    decide, load, store, key,
):  # fmt: skip
    """Take the steps of one replica that are scheduled before `until`.

    `mine` are the requests that are sent here, in order. `decide` belongs to the controllers of `control`, whose state
    is read and kept with `load` and `store`, and `key` to the order of bins.
    """
    state, size = workspace.state, replica.block_tokens
    arrival = requests.arrival
    now, begins, ahead = state[NOW], state[BEGINS], 1 if replica.async_scheduling else 0
    # Where nothing moves the cap, the first decision holds.
    moving, decided = workspace.watched or workspace.further or control.memory.enabled, False
    while True:
        while state[NEXT] < len(mine) and arrival[mine[state[NEXT]]] <= now:
            i = mine[state[NEXT]]
            enqueue(workspace, i, bin_of[i] if fleet.by_bin else 0, requests, replica)
            state[NEXT] += 1
        if state[RUNNING] == 0 and state[WAITING] == 0:
            if state[NEXT] == len(mine) or arrival[mine[state[NEXT]]] >= until:
                break
            now = arrival[mine[state[NEXT]]]
            continue
        if now >= until:
            break
        begins = max(begins, now)
        while state[WINDOW] < limits.windows and (state[WINDOW] + 1) * limits.window <= begins:
            state[WINDOW] += 1

        # What runs in this step.
        if moving or not decided:
            target = decision(now, requests, control, workspace, decide, load, store)
            decided = True
        cap = most_active(target.batch, replica)
        work = schedule(begins, cap, replica, fleet, requests, limits, records, workspace, tally, key)
        decoding = decodes_in(work.tokens, replica, state)
        state[IN_STEP], state[ENDED] = state[RUNNING] + state[STAYED], 0
        if decoding == 0 and work.tokens == 0:
            come_out_empty(now, begins, replica, requests, limits, workspace)
            now = begins
            continue

        # How many steps at once, and how long they take.
        (first, growing), steps = ticks_of(decoding, work, law, workspace), 1
        if work.tokens == 0 and not work.preempted and workspace.steady and state[STAYING] == 0:
            steps = workspace.finish[workspace.lists[DECODING, 0]] - state[GROWN]
            steps = steps_that_fit(workspace, steps, replica.blocks - state[USED], size)
            steps = steps_until_wanted(workspace, steps)
            steps = countable(first, growing, decoding, steps)
            # The next to come could be admitted at once, or wake a controller.
            open_to_all, nobody_waits = state[RUNNING] < cap and work.budget > 0, state[WAITING] == 0
            heard = (open_to_all and (nobody_waits or replica.by_priority)) or (control.memory.enabled and nobody_waits)
            if workspace.eager or heard:
                comes = until
                if state[NEXT] < len(mine):
                    comes = min(comes, arrival[mine[state[NEXT]]])
                # Ahead, the step that begins next is scheduled already when somebody comes.
                steps = steps_until(first, growing, comes - begins, steps - ahead) + ahead if comes > begins else 1
            # Steps that are counted together begin in one window, and all within the makespan or none.
            if state[WINDOW] < limits.windows:
                steps = steps_until(first, growing, (state[WINDOW] + 1) * limits.window - begins, steps)
            if begins < limits.since:
                steps = steps_until(first, growing, limits.since - begins, steps)
            elif begins < limits.until:
                steps = steps_until(first, growing, limits.until - begins, steps)
        ends = begins + lasting(first, growing, steps)
        if ends > LATEST:
            tally.totals[OVERRUN] = 1
            break
        add_decision(steps, target, control.smoothing, limits, tally, 0, state[WINDOW], begins)
        take_steps(
            now, begins, first, growing, steps, decoding, work, replica, requests, limits, records, workspace, tally
        )
        if ahead:
            # The next is scheduled when the last of these steps begins.
            now = ends - (first + growing * (steps - 1))
        else:
            learn(replica.control, workspace)
            now = ends
        begins = ends
        if workspace.followed and state[ENDED] > 0:
            break
    state[NOW], state[BEGINS] = now, begins
