"""What a replication reads and what it leaves behind: the requests of one replication, and the batches made of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from .program import ProgramKey, Stack


class Replication(NamedTuple):
    """One replication. Positions count the requests bin by bin, as `order` does: a batch is a slice of positions."""

    requests: Array
    """How many there are; positions from there on are empty."""
    arrival: Array
    """(request,) ticks; NEVER beyond the last."""
    request: Array
    """(position,) number of the request."""
    came: Array
    """(position,) its arrival."""
    length: Array
    """(position,)."""
    prompt: Array
    """(position,)."""
    output: Array
    """(position,)."""
    predicted: Array
    """(position,) predicted length; meaningless unless a policy may read it."""
    start: Array
    """(bin + 1,) position where each bin begins."""
    setup: Any
    """A `Setup` with arrays in place of its numbers."""


class Batches(NamedTuple):
    """What was served: (batch,) each, by number; those of size 0 never happened."""

    low: Array
    """Position of the first member."""
    size: Array
    bin: Array
    start: Array
    """Ticks."""
    service: Array
    """Ticks."""
    longest: Array
    """Largest length."""
    tokens: Array
    """Sum of p + o."""
    of: Array
    """(position,) number of the batch; of a position behind the end of that batch, nothing was served."""


def replication_of(stack: Stack, rows: Array, requests: Array, key: ProgramKey) -> Replication:
    """Gather the arrays of one replication from the rows that replications share."""
    order, start = stack.order[rows[3]], stack.start[rows[3]]
    arrival = stack.arrival[rows[0]]
    asked = stack.asked[rows[1]][:, order]
    return Replication(
        requests=requests,
        arrival=arrival,
        request=order,
        came=arrival[order],
        length=asked[0],
        prompt=asked[1],
        output=asked[2],
        predicted=stack.predicted[rows[2]][order] if key.predicted else asked[0],
        start=jnp.minimum(start, requests),
        setup=jax.tree.map(lambda values: values[rows[4]], stack.setups),
    )


def with_structure(setup: Any, key: ProgramKey) -> Any:
    """Put plain bools, which policies ask with `if`, in place of their arrays."""
    control = setup.control
    return setup._replace(
        policy=setup.policy._replace(static=key.static, ranked=key.ranked, own_completion=key.own_completion),
        service=setup.service._replace(timed=key.timed),
        control=control._replace(
            sla=control.sla._replace(enabled=key.sla), memory=control.memory._replace(enabled=key.memory)
        ),
    )


def each_replication(function: Callable[..., Any], key: ProgramKey) -> Callable[..., Any]:
    """Let a function of one replication and the key, and of what else replications have, work on all of them."""

    def one(replication: Replication, *rest: Any) -> Any:
        return function(replication._replace(setup=with_structure(replication.setup, key)), *rest, key)

    return jax.vmap(one)


def replaced(values: Array, at: Array, value: Any) -> Array:
    """Put a value in one of (place,) values, or in none if `at` is no place: if few, cheaper than a scattered store."""
    return jnp.where(jnp.arange(len(values)) == at, value, values)


def bin_at(position: Array, start: Array) -> Array:
    """Return the bin in which a position lies, for (bin + 1,) starts."""
    return jnp.sum(position[..., None] >= start[1:-1], axis=-1)


def last_arrival(replication: Replication) -> Array:
    """Return when the last request arrives."""
    return replication.arrival[jnp.maximum(replication.requests - 1, 0)]


def first_after(came: Array, low: Array, high: Array, deadline: Array, key: ProgramKey) -> Array:
    """Return the first position in [low, high) that came after the deadline, or `high`: one halving at a time."""
    step = 1 << key.requests.bit_length()
    found = low
    while step := step >> 1:
        probe = found + step - 1
        within = (probe < high) & (came[jnp.minimum(probe, key.requests - 1)] <= deadline)
        found = jnp.where(within, found + step, found)
    return found
