"""Static batches: `multi_bin_only` and `fifo_fixed` ([MB] Algorithm 1; docs/model.md, section 3).

Which requests form a batch, and when, depends on arrivals alone: all batches of a replication are formed at once. With
one server or infinitely many, so are their starts; several servers take one batch after the other.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ops import segment_max, segment_sum

from ...policies.order import Candidate, rank_of
from ...policies.service import service_ticks
from ...ticks import NEVER, TICKS_PER_MICROSECOND
from ..model import deadline_of
from .program import ProgramKey
from .ranked import serve_ranked
from .replication import Batches, Replication, bin_at, first_after, last_arrival, replaced

# Why a batch forms, in the order in which those of one instant do; ties go by a number below 2^32.
FULL, WAITED, ENDED = (cause << 32 for cause in range(3))


class Formed(NamedTuple):
    """Batches as the bins form them: (batch,) each, of size 0 where there is none."""

    low: Array
    size: Array
    bin: Array
    instant: Array
    """Ticks; NEVER for what never forms a batch."""
    turn: Array
    """Cause and tie-breaker among those that form at one instant."""


def static_batches(replication: Replication, key: ProgramKey) -> Batches:
    """Form the batches of a replication and serve them."""
    formed, of = form_late(replication, key) if key.waits else form_full(replication, key)
    there = jnp.arange(key.requests) < replication.requests
    longest = segment_max(jnp.where(there, replication.length, 0), of, key.batches, indices_are_sorted=True)
    tokens = segment_sum(
        jnp.where(there, replication.prompt + replication.output, 0), of, key.batches, indices_are_sorted=True
    )
    predicted = longest
    if key.ranked:
        predicted = segment_max(jnp.where(there, replication.predicted, 0.0), of, key.batches, indices_are_sorted=True)
    turns = in_turn(formed, key)
    place = jnp.zeros_like(turns).at[turns].set(jnp.arange(key.batches))
    formed, longest, tokens, predicted = (
        Formed(*(part[turns] for part in formed)),
        jnp.maximum(longest, 0)[turns],
        tokens[turns],
        jnp.maximum(predicted, 0)[turns],
    )
    size = jnp.where(formed.instant < NEVER, formed.size, 0)
    service = jnp.where(size > 0, service_ticks(size, longest, replication.setup.service), 0)
    servers = replication.setup.policy.servers
    number = place[jnp.minimum(of, key.batches - 1)]
    batches = Batches(formed.low, size, formed.bin, formed.instant, service, longest, tokens, number)
    if key.ranked:
        return serve_ranked(batches, ranks_of(batches, predicted, replication, key), servers, key)
    if key.servers == 0:
        return batches
    if key.servers == 1:
        return batches._replace(start=serve_one(formed.instant, service))
    return batches._replace(start=serve_many(formed.instant, service, servers, key.servers))


def ranks_of(batches: Batches, predicted: Array, replication: Replication, key: ProgramKey) -> Array:
    """Return the rank of each formed batch, given in the order of formation, by its longest `predicted` length."""
    setup, low = replication.setup, batches.low
    service = service_ticks(batches.size, predicted, setup.service) / TICKS_PER_MICROSECOND
    arrival, prompt = replication.came[low] / TICKS_PER_MICROSECOND, replication.prompt[low] * 1.0
    request, number = replication.request[low] * 1.0, jnp.arange(key.batches)
    before = jnp.full(key.batches, -1)
    columns: Any = (batches.bin, batches.size, request, arrival, prompt, predicted * 1.0, service, before, number)
    rank: Any = jax.vmap(lambda candidate: rank_of(key.order.key(candidate, setup.policy.service_order)))
    ranks: Array = rank(Candidate(*columns))
    return ranks


def form_full(replication: Replication, key: ProgramKey) -> tuple[Formed, Array]:
    """Form a batch of every B requests of a bin; what is left over waits for the last arrival.

    Returns the batches bin by bin, and the batch of each position.
    """
    most, drop_tail = replication.setup.policy.batch_size, replication.setup.policy.drop_tail
    ends = jnp.cumsum(-(-jnp.diff(replication.start) // most))
    first = jnp.concatenate([jnp.zeros(1, ends.dtype), ends])
    number = jnp.arange(key.batches)
    j = bin_at(number, first)
    low = replication.start[j] + most * (number - first[j])
    size = jnp.clip(replication.start[j + 1] - low, 0, most)
    full = size == most
    closing = low + most - 1
    late = jnp.where((size > 0) & (drop_tail == 0), last_arrival(replication), NEVER)
    position = jnp.arange(key.requests)
    at = bin_at(position, replication.start)
    of = first[at] + (position - replication.start[at]) // most
    return Formed(
        low,
        size,
        j,
        jnp.where(full, replication.came[closing], late),
        jnp.where(full, FULL + replication.request[closing], jnp.where(late < NEVER, ENDED + j, NEVER)),
    ), of


def form_late(replication: Replication, key: ProgramKey) -> tuple[Formed, Array]:
    """Form batches where a bin also forms one of what it holds once its oldest request has waited as long as it may.

    Every position knows where a batch that began there would end. Batches are what is reached from position 0.
    """
    policy, last = replication.setup.policy, last_arrival(replication)
    position = jnp.arange(key.requests)
    j = bin_at(position, replication.start)
    end = replication.start[j + 1]
    closing = jnp.minimum(position + policy.batch_size, key.requests) - 1
    deadline = deadline_of(replication.came, policy)
    full = (end - position >= policy.batch_size) & (replication.came[closing] <= deadline)
    waited = (deadline <= last) | ((policy.drop_tail != 0) & (deadline < NEVER))
    high = jnp.where(
        full, closing + 1, jnp.where(waited, first_after(replication.came, position, end, deadline, key), end)
    )
    dropped = jnp.where(policy.drop_tail != 0, NEVER, last)
    instant = jnp.where(full, replication.came[closing], jnp.where(waited, deadline, dropped))
    turn = jnp.where(full, FULL + replication.request[closing], jnp.where(waited, WAITED + j, ENDED + j))
    heads = reached(jnp.where(position < replication.requests, high, key.requests - 1), key)
    heads &= position < replication.requests
    of = jnp.maximum(jnp.cumsum(heads) - 1, 0)
    low = jnp.zeros(key.batches, position.dtype).at[jnp.where(heads, of, key.batches)].set(position, mode="drop")
    there = jnp.arange(key.batches) < jnp.sum(heads)
    size = jnp.where(there, high[low] - low, 0)
    instant = jnp.where(there, instant[low], NEVER)
    return Formed(low, size, j[low], instant, turn[low]), of


def reached(following: Array, key: ProgramKey) -> Array:
    """Mark what is reached from position 0 by going from each position to the one that follows: by doubling."""

    def double(_: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
        marked, following = state
        marked = marked.at[jnp.where(marked, following, key.requests)].set(True, mode="drop")
        return marked, following[following]

    marked: Array = lax.fori_loop(0, key.requests.bit_length(), double, (jnp.arange(key.requests) == 0, following))[0]
    return marked


def in_turn(formed: Formed, key: ProgramKey) -> Array:
    """Return the batches in the order of their formation."""
    number = jnp.arange(key.batches)
    if key.waits:
        return lax.sort((formed.instant, formed.turn, number), num_keys=2)[-1]
    if key.bins == 1:
        return number
    # Without a longest wait, whatever is full comes before the tail, and in the order of the requests that close it.
    return lax.sort((formed.turn, number), num_keys=1)[-1]


def serve_one(instant: Array, service: Array) -> Array:
    """Return the starts at one server: start = max(formed, completion before), all at once (Lindley's recursion)."""
    before = jnp.cumsum(service) - service
    return before + lax.cummax(instant - before)


def serve_many(instant: Array, service: Array, servers: Array, slots: int) -> Array:
    """Return the starts at several servers: each batch goes to the one that is free first."""

    def serve(free: Array, batch: tuple[Array, Array]) -> tuple[Array, Array]:
        formed, duration = batch
        server = jnp.argmin(free)
        start = jnp.maximum(formed, free[server])
        return replaced(free, server, start + duration), start

    free = jnp.where(jnp.arange(slots) < servers, 0, NEVER)
    return lax.scan(serve, free, (instant, service))[1]
