"""Formed batches that are served by rank: of those that wait, the one with the lowest."""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from ...ticks import NEVER
from .program import ProgramKey
from .replication import Batches, replaced

WORD = 64


def serve_ranked(batches: Batches, ranks: Array, servers: Array, key: ProgramKey) -> Batches:
    """Serve batches given in the order of formation, `start` when they form; return them in the order of service.

    `ranks` is the rank of each; on a tie, the first formed is served.
    """
    count = key.batches
    finite = key.servers > 0
    by_rank = lax.sort((ranks, jnp.arange(count)), num_keys=2)[1]
    rank = jnp.zeros_like(by_rank).at[by_rank].set(jnp.arange(count))
    instants = jnp.append(batches.start, NEVER)

    def step(state: Any, _: None) -> tuple[Any, tuple[Array, Array, Array]]:
        waiting, held, formed, formed_at, served, free = state
        now = instants[formed]
        server = jnp.argmin(free)
        start = jnp.maximum(formed_at, free[server])
        # All that form at the last instant are in: the server takes the first of the batches that wait.
        serving = (held > 0) & (start < now)
        forming = ~serving & (now < NEVER)
        batch = by_rank[first_of(waiting)]
        where = jnp.where(serving, rank[batch], rank[jnp.minimum(formed, count - 1)])
        waiting = put(waiting, where, forming, serving | forming)
        done = jnp.where(serving & finite, start + batches.service[batch], free[server])
        taken = (jnp.where(serving, served, count), batch, start)
        state = (
            waiting,
            held + 1 * forming - 1 * serving,
            formed + forming,
            jnp.where(forming, now, formed_at),
            served + serving,
            replaced(free, server, done),
        )
        return state, taken

    free = jnp.where(jnp.arange(max(key.servers, 1)) < servers, 0, NEVER)
    zero = jnp.zeros((), jnp.int64)
    state = (nothing(count), zero, zero, zero, zero, free)
    _, (number, batch, start) = lax.scan(step, state, None, length=2 * count)
    batch_of = jnp.full(count, count).at[number].set(batch, mode="drop")
    start_of = jnp.zeros(count, jnp.int64).at[number].set(start, mode="drop")
    there = batch_of < count
    kept = jnp.minimum(batch_of, count - 1)
    number_of = jnp.full(count, count).at[batch_of].set(jnp.arange(count), mode="drop")
    return Batches(*(part[kept] for part in batches))._replace(
        size=jnp.where(there, batches.size[kept], 0), start=start_of, of=number_of[batches.of]
    )


# A set of small integers that gives its least member in a few steps: bits in words, a bit for each word that is not
# empty in the words above, and so on up to a single word.

Members = tuple[Array, ...]


def nothing(count: int) -> Members:
    """Return the empty set of integers below `count`."""
    levels: list[Array] = []
    while not levels or count > 1:
        count = -(-count // WORD)
        levels.append(jnp.zeros(count, jnp.uint64))
    return tuple(levels)


def put(members: Members, member: Array, present: Array, at_all: Array) -> Members:
    """Add or remove a member, if there is anything to do `at_all`."""
    levels = []
    for words in members:
        word = words[member // WORD]
        bit = jnp.uint64(1) << jnp.astype(member % WORD, jnp.uint64)
        word = jnp.where(present, word | bit, word & ~bit)
        levels.append(words.at[jnp.where(at_all, member // WORD, len(words))].set(word, mode="drop"))
        member, present = member // WORD, word != 0
    return tuple(levels)


def first_of(members: Members) -> Array:
    """Return the least member; of the empty set, any integer in range."""
    found = jnp.zeros((), jnp.int64)
    for words in reversed(members):
        word = words[found]
        lowest = lax.population_count((word & -word) - jnp.uint64(1))
        found = jnp.minimum(found * WORD + jnp.astype(lowest, jnp.int64), len(words) * WORD - 1)
    return found
