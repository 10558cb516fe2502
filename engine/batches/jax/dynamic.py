"""Dynamic batches: `dynamic_only`, `multi_bin_dynamic`, `fifo_greedy` (docs/model.md, sections 3, 6-8).

All replications step together. In one step a replication finishes at most one batch and starts at most one; when it has
started them all it stands still until the last one has.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ...dialect import where, whole
from ...policies.controller import Heads, View
from ...policies.estimates import UNIT, Observation, RunningMeans, observe, read, start_means, update
from ...policies.order import NO_RANK, Candidate, rank_of
from ...policies.service import own_ticks, service_ticks
from ...policies.sla import BATCH_TIME, TBT
from ...policies.target import Target, decider, finished_of, last_of, steps_of
from ...statistics import Decision
from ...ticks import NEVER, TICKS_PER_MICROSECOND
from .count import Decided
from .program import ProgramKey
from .replication import Batches, Replication, each_replication, first_after, replaced

LOG = ("low", "size", "bin", "start", "service", "longest", "tokens")
DECIDED = (*Decision._fields[1:], "learned")


class InService(NamedTuple):
    """Batches in service: (slot,) each."""

    completion: Array
    """Ticks; NEVER in a slot that is free."""
    number: Array
    bin: Array
    seen: Any
    """An `Observation`: what each will teach."""


class State(NamedTuple):
    """Where a replication stands."""

    now: Array
    head: Array
    """(bin,) position of the first request that waits."""
    running: InService
    targets: Any
    """A `Target`: (controller,) each."""
    states: Any
    """State of the controllers: (controller,) each."""
    history: Array
    """(controller, observation, field of `Observation`) what a window still holds."""
    observed: Array
    """(controller,) batches seen."""
    previous: Array
    """Bin served last."""
    taken: Array
    """Requests that no longer wait."""
    number: Array
    """Batches started."""
    crowded: Array
    """More batches were in service than there are slots: nothing after that is right."""
    log: Array
    """(batch, field) of LOG and DECIDED."""


def dynamic_batches(replications: Replication, key: ProgramKey) -> tuple[Batches, Decided, Array]:
    """Simulate replications, each field with a leading axis; the last thing returned says which need more slots."""
    queues = each_replication(queue_of, key)(replications)
    step_all = each_replication(step, key)

    def unfinished(state: State) -> Array:
        return jnp.any((state.taken < replications.requests) & ~state.crowded)

    state = lax.while_loop(
        unfinished, lambda state: step_all(replications, queues, state), each_replication(begin, key)(replications)
    )
    batches, decisions = each_replication(read_log, key)(replications, state)
    return batches, decisions, state.crowded


def queue_of(replication: Replication, key: ProgramKey) -> Array:
    """Return (4, position) arrival, length, prompt, output, with room for a batch behind the end."""
    queue = jnp.stack([replication.came, replication.length, replication.prompt, replication.output])
    return jnp.pad(queue, ((0, 0), (0, key.largest_batch)))


def begin(replication: Replication, key: ProgramKey) -> State:
    """Return the state before the first request."""
    controllers = jnp.arange(key.bins)
    empty = jnp.zeros(key.servers, jnp.int64)
    zero = jnp.zeros((), jnp.int64)
    control, means = replication.setup.control, as_integers(start_means())

    def start(k: Array) -> Any:
        view = view_of(k, zero, replication.start[:-1], zero, means, means.total, replication, key)
        return decided(*decider(key.further).start(means, view, control))

    states, targets = jax.vmap(start)(controllers)
    return State(
        now=zero - 1,
        head=replication.start[:-1],
        running=InService(empty + NEVER, empty, empty, seen_as(empty)),
        targets=targets,
        states=states,
        history=jnp.zeros((key.bins, key.observations, len(Observation._fields)), jnp.int64),
        observed=jnp.zeros(key.bins, jnp.int64),
        previous=zero - 1,
        taken=zero,
        number=zero,
        crowded=zero > 0,
        log=jnp.zeros((key.batches, len(LOG) + len(DECIDED)), jnp.int64),
    )


def seen_as(array: Any) -> Any:
    """Return an `Observation` that holds the same array four times."""
    return Observation(array, array, array, array)


def as_integers(values: Any) -> Any:
    """Give numbers the type of integers."""
    return jax.tree.map(lambda value: jnp.asarray(value, jnp.int64), values)


def as_reals(values: Any) -> Any:
    """Give numbers the type of floats."""
    return jax.tree.map(lambda value: jnp.asarray(value, jnp.float64), values)


def decided(state: Any, target: Target) -> tuple[Any, Target]:
    """Give the state of controllers, and what they decided, the types that they keep."""
    running, memory_bound, sla_bound, batch = target
    kept = Target(as_integers(running), as_reals(memory_bound), as_reals(sla_bound), as_integers(batch))
    return as_reals(state), kept


def view_of(
    k: Any,
    now: Any,
    head: Array,
    running: Any,
    means: RunningMeans,
    new: Observation,
    replication: Replication,
    key: ProgramKey,
) -> View:
    """Return what controller k sees, `running` requests being in service; what no policy reads is not computed."""
    setup = replication.setup
    control, per_bin = setup.control, setup.policy.per_bin != 0
    before: Any = waits(now - 1, head, replication)
    # The papers' controllers look at no queue: what they see of one is 1 where somebody waits.
    queues: Any = 1 * before
    if key.further is not None:
        queues = first_after(replication.came, head, replication.start[1:], now - 1, key) - head
    order = jnp.arange(key.requests)
    return View(
        where(per_bin, before[k], jnp.any(before)),
        where(per_bin, queues[k], jnp.sum(queues)),
        running,
        0,
        queues,
        Heads(head, order, replication.came, replication.prompt, replication.predicted, now, TICKS_PER_MICROSECOND),
        where(per_bin, k, -1),
        control.smallest,
        control.largest,
        steps_of(means, control.smoothing),
        finished_of(means, control.prior_tokens[k], control.prior_squares[k], control.smoothing),
        last_of(new, new),
    )


def step(replication: Replication, queue: Array, state: State, key: ProgramKey) -> State:
    """Finish a batch that is due, or let time pass until one is; then start a batch, if that can be."""
    busy = jnp.sum(state.running.completion < NEVER)
    due = jnp.min(state.running.completion)
    may_start = busy < replication.setup.policy.servers
    waiting = jnp.any(waits(state.now, state.head, replication))
    # With nobody waiting, those who arrived are those who were taken.
    arriving = jnp.where(may_start & ~waiting, replication.arrival[state.taken], NEVER)
    stay = (due > state.now) & may_start & waiting
    state = state._replace(now=jnp.where(stay, state.now, jnp.minimum(due, arriving)))
    return dispatch(finish(state, replication, key), replication, queue, key)


def waits(instant: Array, head: Array, replication: Replication) -> Array:
    """Say of each bin whether somebody waits who arrived at an instant or before: (bin,)."""
    return (head < replication.start[1:]) & (replication.came[head] <= instant)


def finish(state: State, replication: Replication, key: ProgramKey) -> State:
    """Finish the first of the batches that are due now, and teach its controller."""
    control, per_bin, running = replication.setup.control, replication.setup.policy.per_bin != 0, state.running
    due = (running.completion == state.now) & (running.completion < NEVER)
    any_due = jnp.any(due)
    slot = jnp.argmin(jnp.where(due, running.number, NEVER))
    j = running.bin[slot]
    k = jnp.where(per_bin, j, 0)
    position = state.observed[k] % control.smoothing.observations
    new = Observation(*(part[slot] for part in running.seen))
    oldest = Observation(*state.history[k, position])
    serving = jnp.sum(jnp.where(running.completion < NEVER, running.seen.batch, 0)) // UNIT
    earlier, target = jax.tree.map(lambda x: x[k], (state.states, state.targets))
    means = update(target.running, new, oldest, control.smoothing)
    view = view_of(k, state.now, state.head, serving, means, new, replication, key)
    moved, target = decided(*decider(key.further).decide(earlier, means, view, control))
    k = jnp.where(any_due, k, len(state.head))  # an index out of range changes nothing
    slot = jnp.where(any_due, slot, len(due))
    return state._replace(
        running=running._replace(completion=replaced(running.completion, slot, NEVER)),
        targets=jax.tree.map(lambda old, x: replaced(old, k, x), state.targets, target),
        states=jax.tree.map(lambda old, x: replaced(old, k, x), state.states, moved),
        history=state.history.at[k, position].set(jnp.stack(new), mode="drop"),
        observed=replaced(state.observed, k, state.observed + 1),
    )


def dispatch(state: State, replication: Replication, queue: Array, key: ProgramKey) -> State:
    """Start a batch if nothing more is due now, a server is free and somebody waits."""
    policy, law, control, running = (
        replication.setup.policy,
        replication.setup.service,
        replication.setup.control,
        state.running,
    )
    now, end = state.now, replication.start[1:]
    waiting = waits(now, state.head, replication)
    free = running.completion == NEVER
    starting = ~jnp.any(running.completion == now) & (jnp.sum(~free) < policy.servers) & jnp.any(waiting)
    queued = 1 * waiting
    if key.counted:
        queued = first_after(replication.came, state.head, end, now, key) - state.head
    j = jnp.argmin(jnp.where(waiting, ranks_of(queued, state, replication, key), NO_RANK))
    target = jax.tree.map(lambda x: x[jnp.where(policy.per_bin != 0, j, 0)], state.targets)

    low, place = state.head[j], jnp.arange(key.largest_batch)
    came, length, prompt, output = lax.dynamic_slice(queue, (0, low), (len(queue), key.largest_batch))
    inside = (place < target.batch) & (low + place < end[j]) & (came <= now)

    def total(values: Array) -> Array:
        return jnp.sum(jnp.where(inside, values, 0))

    size = jnp.sum(inside)
    longest, longest_output = jnp.max(jnp.where(inside, length, 0)), jnp.max(jnp.where(inside, output, 0))
    tokens, squares = total(prompt + output), total((prompt + output) * (prompt + output))
    service = service_ticks(size, longest, law)
    own = own_ticks(size, length, service, law) if key.own_completion else service
    latency = total(now + own - came) // jnp.maximum(size, 1)
    chosen = control.sla.signal
    pace = service / jnp.maximum(longest_output, 1)
    signal = jnp.where(chosen == TBT, pace, 1.0 * jnp.where(chosen == BATCH_TIME, service, latency))
    seen = observe(signal, jnp.maximum(size, 1), tokens, squares)

    known = target.running.seen > 0
    mean = whole(read(target.running.total.signal, target.running, control.smoothing) * UNIT)
    decided = (target.batch, whole(target.memory_bound), whole(target.sla_bound), mean, known)
    row = jnp.stack([jnp.asarray(x, jnp.int64) for x in (low, size, j, now, service, longest, tokens, *decided)])

    slot = jnp.argmax(free)
    crowded = starting & ~free[slot]
    starting &= ~crowded
    slot = jnp.where(starting, slot, key.servers)
    begun = InService(now + service, state.number, j, seen)
    return state._replace(
        head=replaced(state.head, jnp.where(starting, j, key.bins), low + size),
        running=jax.tree.map(lambda old, x: replaced(old, slot, x), running, begun),
        previous=jnp.where(starting, j, state.previous),
        taken=state.taken + jnp.where(starting, size, 0),
        number=state.number + starting,
        crowded=state.crowded | crowded,
        log=state.log.at[jnp.where(starting, state.number, key.batches)].set(row, mode="drop"),
    )


def ranks_of(queued: Array, state: State, replication: Replication, key: ProgramKey) -> Array:
    """Return the rank of each bin, (bin,); so many are `queued` in each."""
    head, nothing = state.head, jnp.zeros(key.bins, jnp.int64)
    request = replication.request[head] * 1.0
    arrival, prompt = replication.came[head] / TICKS_PER_MICROSECOND, replication.prompt[head] * 1.0
    predicted, previous = replication.predicted[head] * 1.0, jnp.full(key.bins, state.previous)
    columns: Any = (jnp.arange(key.bins), queued, request, arrival, prompt, predicted, 0.0 * nothing, previous, nothing)
    rank: Any = jax.vmap(lambda candidate: rank_of(key.order.key(candidate, replication.setup.policy.bin_choice)))
    ranks: Array = rank(Candidate(*columns))
    return ranks


def read_log(replication: Replication, state: State, key: ProgramKey) -> tuple[Batches, Decided]:
    """Return the batches of a replication, the batch of each position, and the decisions."""
    columns = state.log.T
    low, size = columns[0], columns[1]
    number = jnp.arange(key.batches)
    heads = jnp.full(key.requests, -1).at[jnp.where(size > 0, low, key.requests)].set(number, mode="drop")
    # The batch of a position is the one that began last: the position counts first, the number comes along.
    position = jnp.arange(key.requests)
    began = lax.cummax(jnp.where(heads >= 0, (position << 32) + heads, -1))
    batches = Batches(**dict(zip(LOG, columns, strict=False)), of=began & 0xFFFFFFFF)
    *decision, learned = columns[len(LOG) :]
    return batches, Decided(Decision(jnp.ones_like(size), *decision), learned)
