"""The structures for which programs are compiled here: few, as each costs seconds, yet every pair of options is met."""

from collections.abc import Sequence
from functools import cache
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np

from batchcube.engine import INFINITE, Job, Shape
from batchcube.engine.batches.jax.program import ProgramKey, key_of

from .batches import STATIC, compare, make_job, random_job, run_all

SHAPE = Shape(bins=4, largest_batch=8, windows=7)
LANES = 64
MANY = 4000
DYNAMIC = ("dynamic_only", "multi_bin_dynamic")


class Static(NamedTuple):
    """Options that make a program of static batches what it is."""

    waits: bool
    ranked: bool
    own_completion: bool
    table: bool
    """A measured table, not a formula."""
    timed: bool
    servers: int


class Dynamic(NamedTuple):
    """Options that make a program of dynamic batches what it is."""

    sla: bool
    memory: bool
    window: bool
    """Estimates over the last observations, not `ema`."""
    counted: bool
    own_completion: bool
    table: bool
    timed: bool
    servers: int


Options = Static | Dynamic
SERVERS = {Static: {0: (INFINITE,), 1: (1,), 4: (2, 3)}, Dynamic: {1: (1,), 4: (2, 3), 64: (INFINITE,)}}
CHOSEN = {
    Static: (
        Static(False, False, True, False, False, 1),
        Static(False, False, True, True, False, 0),
        Static(False, True, False, True, False, 4),
        Static(False, True, True, False, True, 1),
        Static(True, False, False, True, False, 1),
        Static(True, False, True, False, True, 4),
        Static(True, True, False, False, True, 0),
    ),
    Dynamic: (
        Dynamic(False, False, True, True, True, True, False, 4),
        Dynamic(False, True, False, False, True, False, True, 4),
        Dynamic(False, True, True, False, False, False, False, 64),
        Dynamic(False, True, True, True, True, False, True, 1),
        Dynamic(True, False, False, False, False, True, False, 1),
        Dynamic(True, False, False, True, False, False, True, 64),
        Dynamic(True, False, True, True, False, False, False, 4),
        Dynamic(True, True, True, True, True, True, False, 64),
    ),
}


def all_options(kind: type[Options]) -> list[Options]:
    """Return all combinations that there can be: service times come without a table."""
    every = product(*[(False, True)] * (len(kind._fields) - 1), SERVERS[kind])
    return [options for options in (kind(*values) for values in every) if not (options.table and options.timed)]


def options_of(key: ProgramKey) -> Options:
    """Read the options off a key."""
    table = key.pieces > 1
    if key.static:
        return Static(key.waits, key.ranked, key.own_completion, table, key.timed, key.servers)
    window = key.observations > 1
    return Dynamic(key.sla, key.memory, window, key.counted, key.own_completion, table, key.timed, key.servers)


def draw(options: Options, number: int) -> Job:
    """Draw a random job with such options, the same for the same number."""
    only: dict[str, Any] = {
        "servers": SERVERS[type(options)][options.servers],
        "completion": ("own",) if options.own_completion else ("batch",),
        "tokens": (not options.timed,),
        "formula": (not options.table,),
    }
    if isinstance(options, Static):
        only["mode"] = STATIC
        only["max_wait_s"] = (0.0, 0.5, 1.0, 2.0) if options.waits else (None,)
        only["service_order"] = ("shortest_first",) if options.ranked else ("first_formed",)
    else:
        controlled = options.sla or options.memory or options.window
        only["mode"] = DYNAMIC if controlled else (*DYNAMIC, "fifo_greedy")
        only["bin_choice"] = ("longest_queue",) if options.counted else ("oldest_head", "round_robin")
        only |= {"sla": (options.sla,), "memory": (options.memory,)}
        only["estimates"] = ("window",) if options.window else ("ema",)
    return random_job(np.random.default_rng([number, all_options(type(options)).index(options)]), **only)


@cache
def jobs_with(options: Options) -> tuple[Job, ...]:
    return tuple(draw(options, number) for number in range(LANES))


def keys_of(options: Options) -> set[ProgramKey]:
    """Return the keys of the jobs with such options: one, if all is well."""
    return {key_of(job, SHAPE, records=True) for job in jobs_with(options)}


def pairs(rows: Sequence[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
    """Return all pairs of values that are met in a row, each value with its place."""
    return {pair for row in rows for pair in combinations(enumerate(row), 2)}


def disagreements(jobs: Sequence[Job], shape: Shape, *backends: str) -> list[tuple[int, str, list[str]]]:
    """Name the jobs on which backends differ from the first of them, and on what."""
    (tally, records), *others = (run_all(jobs, shape, backend) for backend in backends)
    found = []
    for backend, (tally_too, records_too) in zip(backends[1:], others, strict=True):
        for k in range(len(jobs)):
            if differences := compare(tally, records[k], tally_too, records_too[k], run=k):
                found.append((k, backend, differences))
    return found


def bursty_job(seed: int, requests: int = MANY, **given: Any) -> Job:
    """Draw thousands of requests that arrive at whole seconds: mostly several at once, then none for a while."""
    rng = np.random.default_rng(seed)
    arrival = np.sort(rng.integers(0, requests // 5, requests) // 7 * 7 + rng.integers(0, 3, requests))
    output = rng.geometric(1 / 150, requests)
    return make_job(
        arrival,
        output=output,
        prompt=rng.integers(0, 500, requests),
        predicted=np.maximum(output + rng.integers(-40, 40, requests), 1),
        bin_of=np.minimum(output // 60, given["bins"] - 1),
        horizon_s=900.0,
        windows=50,
        warmup=700,
        request_sla_s=20.0,
        token_sla_s=0.008,
        **given,
    )
