"""Free servers take what waits: `dynamic_only`, `multi_bin_dynamic` and `fifo_greedy` (model, sections 3 and 6-8).

All lanes step together. In one step a lane finishes at most one batch and starts at most one; a lane that has started
them all stands still until the last one has.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from ..dialect import whole
from ..policies.bin_choice import rank
from ..policies.estimates import UNIT, Seen, observe, read
from ..policies.service import own_ticks, service_ticks
from ..policies.target import Target, learn, start_target
from ..ticks import NEVER
from .account import Decisions
from .form import Form
from .lane import Batches, Lane, each_lane, first_after

LOG = ("low", "size", "bin", "start", "service", "longest", "tokens")
DECIDED = Decisions._fields


class Running(NamedTuple):
    """Batches in service: (slot,) each."""

    completion: Array
    """Ticks; NEVER in a slot that is free."""
    number: Array
    bin: Array
    seen: Any
    """A `Seen`: what each will teach."""


class State(NamedTuple):
    """Where a lane stands."""

    now: Array
    head: Array
    """(bin,) position of the first request that waits."""
    running: Running
    targets: Any
    """A `Target`: (controller,) each."""
    history: Any
    """A `Seen`: (controller, observation) what a window still holds."""
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


def taken_batches(lanes: Lane, form: Form) -> tuple[Batches, Decisions, Array]:
    """Simulate lanes, each field with a leading axis; the last thing returned says which need more slots."""
    queues = each_lane(queue_of, form)(lanes)
    step_all = each_lane(step, form)

    def unfinished(state: State) -> Array:
        return jnp.any((state.taken < lanes.requests) & ~state.crowded)

    state = lax.while_loop(unfinished, lambda state: step_all(lanes, queues, state), each_lane(begin, form)(lanes))
    batches, decisions = each_lane(read_log, form)(lanes, state)
    return batches, decisions, state.crowded


def queue_of(lane: Lane, form: Form) -> Array:
    """Return (4, position) arrival, length, prompt, output, with room for a batch behind the end."""
    queue = jnp.stack([lane.came, lane.length, lane.prompt, lane.output])
    return jnp.pad(queue, ((0, 0), (0, form.largest_batch)))


def begin(lane: Lane, form: Form) -> State:
    """Return the state before the first request."""
    controllers = jnp.arange(form.bins)
    empty = jnp.zeros(form.servers, jnp.int64)
    targets = jax.vmap(lambda k: as_arrays(start_target(k, lane.setup.control)))(controllers)
    none = jnp.zeros((form.bins, form.observations), jnp.int64)
    zero = jnp.zeros((), jnp.int64)
    return State(
        now=zero - 1,
        head=lane.start[:-1],
        running=Running(empty + NEVER, empty, empty, seen_as(empty)),
        targets=targets,
        history=seen_as(none),
        observed=jnp.zeros(form.bins, jnp.int64),
        previous=zero - 1,
        taken=zero,
        number=zero,
        crowded=zero > 0,
        log=jnp.zeros((form.batches, len(LOG) + len(DECIDED)), jnp.int64),
    )


def seen_as(array: Any) -> Any:
    """Return a `Seen` that holds the same array four times."""
    return Seen(array, array, array, array)


def as_arrays(target: Target) -> Any:
    """Give the state of a controller the types that it keeps."""
    whole_numbers: Any = partial(jnp.asarray, dtype=jnp.int64)
    real_numbers: Any = partial(jnp.asarray, dtype=jnp.float64)
    return Target(
        running=jax.tree.map(whole_numbers, target.running),
        span=jax.tree.map(real_numbers, target.span),
        memory_bound=real_numbers(target.memory_bound),
        sla_bound=real_numbers(target.sla_bound),
        batch=whole_numbers(target.batch),
    )


def step(lane: Lane, queue: Array, state: State, form: Form) -> State:
    """Finish a batch that is due, or let time pass until one is; then start a batch, if that can be."""
    busy = jnp.sum(state.running.completion < NEVER)
    due = jnp.min(state.running.completion)
    may_start = busy < lane.setup.policy.servers
    waiting = jnp.any(waits(state.now, state.head, lane))
    # With nobody waiting, those who arrived are those who were taken.
    arriving = jnp.where(may_start & ~waiting, lane.arrival[state.taken], NEVER)
    stay = (due > state.now) & may_start & waiting
    state = state._replace(now=jnp.where(stay, state.now, jnp.minimum(due, arriving)))
    return dispatch(finish(state, lane), lane, queue, form)


def waits(instant: Array, head: Array, lane: Lane) -> Array:
    """Say of each bin whether somebody waits who arrived at an instant or before: (bin,)."""
    return (head < lane.start[1:]) & (lane.came[head] <= instant)


def finish(state: State, lane: Lane) -> State:
    """Finish the first of the batches that are due now, and teach its controller."""
    control, per_bin, running = lane.setup.control, lane.setup.policy.per_bin != 0, state.running
    due = (running.completion == state.now) & (running.completion < NEVER)
    any_due = jnp.any(due)
    slot = jnp.argmin(jnp.where(due, running.number, NEVER))
    j = running.bin[slot]
    k = jnp.where(per_bin, j, 0)
    position = state.observed[k] % control.smoothing.observations
    new = Seen(*(part[slot] for part in running.seen))
    oldest = Seen(*(part[k, position] for part in state.history))
    before = waits(state.now - 1, state.head, lane)
    queued = jnp.where(per_bin, before[j], jnp.any(before))
    target = as_arrays(learn(jax.tree.map(lambda x: x[k], state.targets), new, oldest, 1 * queued, k, control))
    k = jnp.where(any_due, k, len(state.head))  # an index out of range changes nothing
    slot = jnp.where(any_due, slot, len(due))
    return state._replace(
        running=running._replace(completion=running.completion.at[slot].set(NEVER, mode="drop")),
        targets=jax.tree.map(lambda old, x: old.at[k].set(x, mode="drop"), state.targets, target),
        history=Seen(*(old.at[k, position].set(x, mode="drop") for old, x in zip(state.history, new, strict=True))),
        observed=state.observed.at[k].add(1, mode="drop"),
    )


def dispatch(state: State, lane: Lane, queue: Array, form: Form) -> State:
    """Start a batch if nothing more is due now, a server is free and somebody waits."""
    policy, law, control, running = lane.setup.policy, lane.setup.service, lane.setup.control, state.running
    now, end = state.now, lane.start[1:]
    waiting = waits(now, state.head, lane)
    free = running.completion == NEVER
    starting = ~jnp.any(running.completion == now) & (jnp.sum(~free) < policy.servers) & jnp.any(waiting)
    queued = 1 * waiting
    if form.longest_queue:
        queued = first_after(lane.came, state.head, end, now, form) - state.head
    first = jnp.astype(lane.request[state.head], jnp.int64)
    j = jnp.argmin(rank(policy.bin_choice, jnp.arange(form.bins), first, queued, state.previous, form.bins))
    target = jax.tree.map(lambda x: x[jnp.where(policy.per_bin != 0, j, 0)], state.targets)

    low, place = state.head[j], jnp.arange(form.largest_batch)
    came, length, prompt, output = lax.dynamic_slice(queue, (0, low), (len(queue), form.largest_batch))
    inside = (place < target.batch) & (low + place < end[j]) & (came <= now)

    def total(values: Array) -> Array:
        return jnp.sum(jnp.where(inside, values, 0))

    size = jnp.sum(inside)
    longest, longest_output = jnp.max(jnp.where(inside, length, 0)), jnp.max(jnp.where(inside, output, 0))
    tokens, squares = total(prompt + output), total((prompt + output) * (prompt + output))
    service = service_ticks(size, longest, law)
    own = own_ticks(size, length, service, law) if form.own_completion else service
    latency = total(now + own - came) // jnp.maximum(size, 1)
    choice = control.sla.signal
    pace = service / jnp.maximum(longest_output, 1)
    signal = jnp.where(choice == 0, pace, 1.0 * jnp.where(choice == 1, service, latency))
    seen = observe(signal, jnp.maximum(size, 1), tokens, squares)

    known = target.running.seen > 0
    mean = whole(read(target.running.total.signal, target.running, control.smoothing) * UNIT)
    decided = (target.batch, whole(target.memory_bound), whole(target.sla_bound), known, mean)
    row = jnp.stack([jnp.asarray(x, jnp.int64) for x in (low, size, j, now, service, longest, tokens, *decided)])

    slot = jnp.argmax(free)
    crowded = starting & ~free[slot]
    starting &= ~crowded
    slot = jnp.where(starting, slot, form.servers)
    begun = Running(now + service, state.number, j, seen)
    return state._replace(
        head=state.head.at[jnp.where(starting, j, form.bins)].add(size, mode="drop"),
        running=jax.tree.map(lambda old, x: old.at[slot].set(x, mode="drop"), running, begun),
        previous=jnp.where(starting, j, state.previous),
        taken=state.taken + jnp.where(starting, size, 0),
        number=state.number + starting,
        crowded=state.crowded | crowded,
        log=state.log.at[jnp.where(starting, state.number, form.batches)].set(row, mode="drop"),
    )


def read_log(lane: Lane, state: State, form: Form) -> tuple[Batches, Decisions]:
    """Return the batches of a lane, the batch of each position, and the decisions."""
    columns = state.log.T
    low, size = columns[0], columns[1]
    number = jnp.arange(form.batches)
    heads = jnp.full(form.requests, -1).at[jnp.where(size > 0, low, form.requests)].set(number, mode="drop")
    # The batch of a position is the one that began last: the position counts first, the number comes along.
    position = jnp.arange(form.requests)
    began = lax.cummax(jnp.where(heads >= 0, (position << 32) + heads, -1))
    batches = Batches(**dict(zip(LOG, columns, strict=False)), of=began & 0xFFFFFFFF)
    return batches, Decisions(*columns[len(LOG) :])
