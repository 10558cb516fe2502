"""One replica: schedule a step, take it as often as nothing changes, emit its tokens."""

from typing import NamedTuple

from ...numba.jit import inline
from ...policies.controller import Heads, View
from ...policies.estimates import Observation, observe
from ...policies.sla import TOKEN_GAP
from ...policies.target import finished_of, last_of, steps_of
from ...statistics import CONTINUOUS
from ..model import (
    LATEST,
    LONGEST_GAP,
    TICKS_PER_MICROSECOND,
    TICKS_PER_NANOSECOND,
    is_crowded,
    longest_chunk,
    most_active,
    must_fit,
)
from .count import add_decision, count_gaps, count_move, count_steps
from .leaps import blocks_for, countable, growth, lasting, steps_that_fit, steps_until
from .pool import (
    begin_with,
    extend,
    extend_all,
    extend_on,
    find,
    let_go,
    more_blocks,
    steps_until_wanted,
    take,
    want,
    want_nothing,
)
from .queues import complete, dequeue, enqueue, join, next_in_line, preempt, start_decoding, stop_decoding
from .workspace import (
    COUNT,
    DECODING,
    DONE,
    EMITTED,
    ENDED,
    FINISHED,
    FIRST,
    FRESH,
    GROWN,
    HEAD,
    IN_STEP,
    MEASURED_DECODING,
    NEXT,
    NOBODY,
    NOW,
    OFFSETS,
    PREFILLED,
    PREFILLING,
    RUNNING,
    SEEN_FINISHED,
    SEEN_STEPS,
    STEPS,
    TAIL,
    TOKENS,
    USED,
    WAITING,
    WINDOW,
    keep,
    means_of,
    observation_of,
    see,
)

OVERRUN = CONTINUOUS.at("overrun")
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
def send_back(now, replica, requests, limits, records, workspace, tally):
    """Preempt the latest admitted."""
    i = preempt(workspace, requests, limits.warmup, replica.block_tokens)
    records.preemptions[i] += 1
    count_move(now, -1, 0, 0, limits, workspace, tally)


@inline
def prefill(i, chunk, more, workspace):
    """Prefill a chunk of a running request that takes so many blocks more; return its attention."""
    state, attention = workspace.state, take(workspace, i, chunk, more)
    if not still_prefilling(i, workspace):
        state[PREFILLED] += workspace.to_prefill[i] == 0
        end_prefill(i, workspace)
    return attention


@inline
def still_prefilling(i, workspace):
    """Say whether a request goes on prefilling: one that only lacks the token it emitted last decodes."""
    return workspace.to_prefill[i] > (workspace.generated[i] > 0)


@inline
def end_prefill(i, workspace):
    """Let a running request decode from the next step on."""
    workspace.done[workspace.state[DONE]] = i
    workspace.state[DONE] += 1


@inline
def order_is_idle(longest, replica, workspace):
    """Say whether decodes may be looked at before prefills, though running requests are served in their order.

    They may where all prefills were admitted after all decodes, or where there are budget and room for everybody; not
    where it may matter which block is taken, or computed, first.
    """
    state, size = workspace.state, replica.block_tokens
    if workspace.caching and state[USED] + growth(workspace, 1, size) > replica.blocks:
        return False
    i, k = state[TAIL], state[PREFILLING]
    while k > 0 and workspace.prefilling[k - 1] == i:
        i, k = workspace.before[i], k - 1
    if k == 0:
        return True
    if workspace.caching:
        return False
    tokens, blocks = state[DECODING], state[USED] + growth(workspace, 1, size)
    for k in range(state[PREFILLING]):
        i = workspace.prefilling[k]
        chunk = min(workspace.to_prefill[i], longest)
        tokens, blocks = tokens + chunk, blocks + more_blocks(workspace.resident[i], chunk, size)
    return tokens <= replica.token_budget and blocks <= replica.blocks


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
            chunk = 1 if decodes else min(workspace.to_prefill[i], longest, budget)
            more = more_blocks(workspace.resident[i] + (state[GROWN] if decodes else 0), chunk, size)
        if state[USED] + grown + more > replica.blocks:
            preempted = True
            last = state[TAIL]
            send_back(now, replica, requests, limits, records, workspace, tally)
            if last == i:
                i = NOBODY
            continue
        if decodes:
            grown += more
            if i == ALL_DECODES:
                extend_all(workspace)
            else:
                extend(workspace, i, workspace.resident[i] + state[GROWN] + 1)
        else:
            attention += prefill(i, chunk, more, workspace)
            tokens += chunk
        budget -= chunk
        if not idle:
            i = workspace.after[i]
        else:
            i = workspace.prefilling[k] if k < state[PREFILLING] else NOBODY
            k += 1
    while not idle and i != NOBODY:
        if workspace.finish[i] != NOBODY:
            stop_decoding(workspace, i, requests.output[i], limits.warmup, size)
            workspace.to_prefill[i] = 1
            end_prefill(i, workspace)
        i = workspace.after[i]
    kept = 0
    for k in range(state[PREFILLING]):
        i = workspace.prefilling[k]
        if still_prefilling(i, workspace):
            workspace.prefilling[kept] = i
            kept += 1
    state[PREFILLING] = kept
    return Work(tokens, attention, budget, grown, preempted)


@inline
def admit(now, cap, longest, work, replica, fleet, requests, limits, records, workspace, tally, key):
    """Admit those that are next in line until one does not fit, unless this step has preempted anybody."""
    state, size = workspace.state, replica.block_tokens
    tokens, attention, budget = work.tokens, work.attention, work.budget
    while not work.preempted and state[WAITING] > 0 and state[RUNNING] < cap and budget > 0:
        i = next_in_line(workspace, requests, fleet, int(replica.control.largest), key)
        asked = requests.prompt[i] + workspace.generated[i]
        found, unheld = find(workspace, i, asked)
        need = asked - found
        chunk = min(need, longest, budget) if replica.chunked else need
        more = blocks_for(chunk, size)
        must = more if chunk == need else blocks_for(must_fit(chunk, need, replica), size)
        if is_crowded(chunk, budget, state[USED] + work.grown + unheld + must, replica):
            want(workspace, i, found, asked)
            break
        dequeue(workspace, fleet)
        join(workspace, i)
        begins = records.scheduled[i] < 0
        if begins:
            records.scheduled[i] = now
        counted = begins * workspace.caching
        count_move(now, 1, counted * asked, counted * found, limits, workspace, tally)
        records.cached[i] += found
        begin_with(workspace, i, found, unheld)
        workspace.to_prefill[i] = need
        attention += prefill(i, chunk, more, workspace)
        tokens, budget = tokens + chunk, budget - chunk
        if still_prefilling(i, workspace):
            workspace.prefilling[state[PREFILLING]] = i
            state[PREFILLING] += 1
    return Work(tokens, attention, budget, work.grown, work.preempted)


@inline
def schedule(now, cap, replica, fleet, requests, limits, records, workspace, tally, key):
    """Choose what runs in this step: running requests, then admissions; the other way round without chunks."""
    state = workspace.state
    state[DONE] = state[PREFILLED] = 0
    want_nothing(workspace)
    longest = longest_chunk(state[RUNNING] + state[WAITING], replica)
    work = Work(0, 0, replica.token_budget, 0, False)
    for part in range(2):
        if (part == 0) != replica.chunked:
            work = admit(now, cap, longest, work, replica, fleet, requests, limits, records, workspace, tally, key)
        elif work.tokens == 0:
            work = serve_running(now, longest, replica, requests, limits, records, workspace, tally)
    return work


@inline
def emit_gaps(now, first, growing, steps, chunked, limits, workspace, tally):
    """Count the gaps that end with the tokens of decode steps."""
    state, weight, fresh = workspace.state, workspace.state[MEASURED_DECODING], 0
    for k in range(state[FRESH]):
        i = workspace.fresh[k]
        if workspace.finish[i] != NOBODY and i >= limits.warmup:
            count_gaps(now + first - workspace.emitted[i], 0, 1, 1, limits, workspace, tally)
            fresh += 1
    state[FRESH] = 0
    longer = time_before(now, chunked, workspace)
    if fresh == 0 and longer == 0:
        count_gaps(first, growing, steps, weight, limits, workspace, tally)
        return
    count_gaps(longer + first, 0, 1, weight - fresh, limits, workspace, tally)
    count_gaps(first + growing, growing, steps - 1, weight, limits, workspace, tally)


@inline
def time_before(now, chunked, workspace):
    """Return the time between the latest tokens of decodes, those of `fresh` left out, and this step.

    With chunks, decodes run in every step. Without, steps of prefills alone may have come between.
    """
    return 0 if chunked else now - workspace.state[EMITTED]


@inline
def mean_gap(now, duration, decoding, chunked, workspace):
    """Return the mean time since the tokens before those of a decode step, in microseconds."""
    state, total, others, end = workspace.state, 0, decoding, now + duration
    for k in range(state[FRESH]):
        i = workspace.fresh[k]
        if workspace.finish[i] != NOBODY:
            total += min((end - workspace.emitted[i]) // TICKS_PER_NANOSECOND, LONGEST_GAP)
            others -= 1
    gap = time_before(now, chunked, workspace) + duration
    total += others * min(gap // TICKS_PER_NANOSECOND, LONGEST_GAP)
    return (total // decoding) / 1000.0


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
def advance(requests, bin_of, setup, records, limits, tally, workspace, mine, until, decide, load, store, key):
    """Take the steps of one replica that begin before `until`.

    `mine` are the requests that are sent here, in order. `decide` belongs to the controllers, whose state is read and
    kept with `load` and `store`, and `key` to the order of bins.
    """
    replica, fleet, _ = setup
    state, law, size, control = workspace.state, replica.law, replica.block_tokens, replica.control
    arrival, prompt, output = requests.arrival, requests.prompt, requests.output
    now = state[NOW]
    while True:
        while state[NEXT] < len(mine) and arrival[mine[state[NEXT]]] <= now:
            i = mine[state[NEXT]]
            enqueue(workspace, i, bin_of[i] if fleet.by_bin else 0)
            state[NEXT] += 1
        if state[RUNNING] == 0 and state[WAITING] == 0:
            if state[NEXT] == len(mine) or arrival[mine[state[NEXT]]] >= until:
                break
            now = arrival[mine[state[NEXT]]]
            continue
        if now >= until:
            break
        while state[WINDOW] < limits.windows and (state[WINDOW] + 1) * limits.window <= now:
            state[WINDOW] += 1

        # What runs in this step.
        view = view_of(now, requests, control, workspace)
        controllers, target = decide(load(workspace.kept), means_of(STEPS, workspace), view, control)
        store(workspace.kept, controllers)
        cap = most_active(target.batch, replica)
        work = schedule(now, cap, replica, fleet, requests, limits, records, workspace, tally, key)
        decoding = state[DECODING] if replica.chunked or work.tokens == 0 else 0
        state[IN_STEP], state[ENDED] = state[RUNNING], 0

        # How many steps at once, and how long they take.
        steps, growing = 1, law.kv_token * decoding
        first = law.step + law.request * decoding + law.prefill_token * work.tokens
        first += law.prefill_attention * work.attention
        if decoding > 0:
            first += law.kv_token * (state[OFFSETS] + decoding * (state[GROWN] + 1))
        if work.tokens == 0 and not work.preempted and workspace.steady:
            steps = workspace.finish[workspace.heap[0]] - state[GROWN]
            steps = steps_that_fit(workspace, steps, replica.blocks - state[USED], size)
            steps = steps_until_wanted(workspace, steps)
            steps = countable(first, growing, decoding, steps)
            # The next to come could be admitted at once, or wake a controller.
            open_to_all = state[RUNNING] < cap and work.budget > 0
            if workspace.eager or ((open_to_all or control.memory.enabled) and state[WAITING] == 0):
                comes = until
                if state[NEXT] < len(mine):
                    comes = min(comes, arrival[mine[state[NEXT]]])
                steps = steps_until(first, growing, comes - now, steps)
            # Steps that are counted together begin in one window, and all before the first measured arrival or none.
            if state[WINDOW] < limits.windows:
                steps = steps_until(first, growing, (state[WINDOW] + 1) * limits.window - now, steps)
            if now < limits.since:
                steps = steps_until(first, growing, limits.since - now, steps)
        duration = lasting(first, growing, steps)
        if now + duration > LATEST:
            tally.totals[OVERRUN] = 1
            break
        grown = growth(workspace, steps, size) if decoding > 0 else 0
        stored = extend_on(workspace, state[USED] + work.grown, steps)
        count_steps(now, first, growing, steps, decoding, work, grown, stored, size, limits, workspace, tally)
        add_decision(steps, target, control.smoothing, limits, tally, 0, state[WINDOW], now)
        signal = duration / TICKS_PER_MICROSECOND
        if decoding > 0:
            if workspace.watched and control.sla.signal == TOKEN_GAP:
                signal = mean_gap(now, duration, decoding, replica.chunked, workspace)
            emit_gaps(now, first, growing, steps, replica.chunked, limits, workspace, tally)
            state[USED] += grown
            state[TOKENS] += decoding * steps
            state[GROWN] += steps
            state[EMITTED] = now + duration
        elif replica.chunked:
            # Those that the budget has not reached have stopped.
            state[FRESH] = 0

        # Time passes, tokens are emitted, finished requests leave.
        now += duration
        gone = gone_tokens = gone_squares = 0
        while decoding > 0 and state[DECODING] > 0 and workspace.finish[workspace.heap[0]] <= state[GROWN]:
            i = workspace.heap[0]
            stop_decoding(workspace, i, output[i], limits.warmup, size)
            complete(workspace, i, size)
            records.last_token[i] = now
            tokens = prompt[i] + output[i]
            gone, gone_tokens, gone_squares = gone + 1, gone_tokens + tokens, gone_squares + tokens * tokens
        for k in range(state[DONE]):
            i = workspace.done[k]
            emits = workspace.to_prefill[i] == 0
            if emits:
                if workspace.generated[i] == 0:
                    records.first_token[i] = now
                elif i >= limits.warmup:
                    count_gaps(now - workspace.emitted[i], 0, 1, 1, limits, workspace, tally)
                workspace.generated[i] += 1
                workspace.emitted[i] = now
            workspace.to_prefill[i] = 0
            if workspace.generated[i] == output[i]:
                complete(workspace, i, size)
                records.last_token[i] = now
                tokens = prompt[i] + output[i]
                gone, gone_tokens, gone_squares = gone + 1, gone_tokens + tokens, gone_squares + tokens * tokens
            else:
                start_decoding(workspace, i, output[i], limits.warmup, size)
                if not (replica.chunked and emits):
                    # Its first gap is its own.
                    workspace.fresh[state[FRESH]] = i
                    state[FRESH] += 1
        let_go(workspace)
        if workspace.watched:
            keep(workspace.last[STEPS], Observation(0, 0, 0, 0))
            if decoding > 0:
                see(STEPS, observe(signal, decoding, 0, 0), state[SEEN_STEPS], control.smoothing, workspace)
                state[SEEN_STEPS] += 1
        if control.memory.enabled or workspace.further:
            keep(workspace.last[FINISHED], Observation(0, 0, 0, 0))
            if gone > 0:
                new = observe(0.0, gone, gone_tokens, gone_squares)
                see(FINISHED, new, state[SEEN_FINISHED], control.smoothing, workspace)
                state[SEEN_FINISHED] += 1
        if workspace.followed and state[ENDED] > 0:
            break
    state[NOW] = now
