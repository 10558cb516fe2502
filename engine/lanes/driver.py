"""Compile, call and collect: jobs in, tallies out."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache
from threading import Lock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from ..cache import cache_directory
from ..histogram import BUCKETS
from ..model import Records
from ..run import Job
from ..tally import QUANTITIES, TOTALS, Shape, Tally
from .account import Counts, Served, account, serve_positions
from .form import MOST_SLOTS, Form, Stack, form_of, roomy, rows_for, sized, stack
from .lane import Lane, each_lane, lane_of
from .released import released_batches
from .taken import taken_batches

MOST_LANES = 4096
"""Lanes of one call, at most: their tallies come back to the host."""
CPU_BYTES = 2**30
"""Memory for one call where the device does not say how much it has."""
SHARE = 0.7
"""Part of a device's memory that is used."""

compilations: Counter[tuple[Form, int]] = Counter()
"""How often a program was traced in this process, by form and number of lanes."""
_device = Lock()
_fitting: dict[Form, int] = {}


def run_lanes(jobs: Sequence[Job], shape: Shape, tally: Tally, records: Sequence[Records] = ()) -> None:
    """Fill the empty tallies of many jobs, leading axis job, and their records if there are any.

    Jobs of one form run side by side, as many at once as the device's memory holds.
    """
    prepare()
    with jax.enable_x64(True):
        waiting: dict[tuple[Form, int], list[int]] = defaultdict(list)
        for k, job in enumerate(jobs):
            waiting[form_of(job, shape, records=bool(records)), MOST_SLOTS].append(k)
        while waiting:
            (unsized, slots), members = waiting.popitem()
            form = sized(unsized, [jobs[k] for k in members])
            chunks = -(-len(members) // lanes_at_once(form))
            lanes = whole_lanes(-(-len(members) // chunks))
            rows = rows_for([jobs[k] for k in members], form, lanes, len(jax.devices()))
            for first in range(0, len(members), lanes):
                chunk = members[first : first + lanes]
                try:
                    counts, told, crowded = _call([jobs[k] for k in chunk], form, lanes, rows)
                except jax.errors.JaxRuntimeError as error:
                    if "RESOURCE_EXHAUSTED" not in str(error) or lanes <= len(jax.devices()):
                        raise
                    _fitting[form] = lanes // 2
                    waiting[unsized, slots] += members[first:]
                    break
                _collect(counts, chunk, tally, ~crowded)
                for lane, k in enumerate(chunk if records else ()):
                    for column, values in zip(records[k], told, strict=True):
                        column[:] = values[lane, : len(column)]
                for k, again in zip(chunk, crowded, strict=True):
                    if again:
                        form_again = form_of(jobs[k], shape, records=bool(records), slots=2 * slots)
                        waiting[form_again, 2 * slots].append(k)


def lanes_for(job: Job, shape: Shape) -> int:
    """Return how many jobs like one run side by side."""
    return lanes_at_once(sized(form_of(job, shape, records=False), [job]))


def lanes_at_once(form: Form) -> int:
    """Return how many lanes of a form fit into the devices' memory: by reckoning, and by what was found too many."""
    devices = jax.devices()
    stats = devices[0].memory_stats() or {}
    room = int(SHARE * stats["bytes_limit"]) if "bytes_limit" in stats else CPU_BYTES
    most = max(1, min(room // bytes_of_lane(form), MOST_LANES)) * len(devices)
    return min(most, _fitting.get(form, most))


def bytes_of_lane(form: Form) -> int:
    """Return what a lane takes in a device's memory; the compiler's own figures lie below it (see the tests)."""
    per_request = 8 * (40 + 5 * form.records + 4 * form.shortest_first + 6 * form.waits)
    per_batch = 8 * (50 + 16 * form.shortest_first)
    queue = 0 if form.released else 64 * form.largest_batch
    controllers = form.bins * (form.observations + 16) * 64
    return (
        per_request * form.requests
        + per_batch * form.batches
        + queue
        + controllers
        + 16 * len(QUANTITIES) * BUCKETS
        + 32 * form.largest_batch * form.pieces
        + 300 * form.windows
    )


def simulate_lanes(stacked: Stack, form: Form) -> tuple[Counts, list[Array], Any]:
    """Simulate every lane of a stack: counts, records if the form asks for them, and which lanes need more slots."""
    compilations[form, len(stacked.requests)] += 1
    lanes = jax.vmap(lambda rows, requests: lane_of(stacked, rows, requests, form))(stacked.rows, stacked.requests)
    decisions = None
    crowded: Any = stacked.requests < 0
    if form.released:
        batches = each_lane(released_batches, form)(lanes)
    else:
        batches, decisions, crowded = taken_batches(lanes, form)
    served = each_lane(serve_positions, form)(lanes, batches)
    counts = each_lane(account, form)(lanes, batches, served, decisions)
    return counts, each_lane(tell, form)(lanes, served) if form.records else [], crowded


def tell(lane: Lane, served: Served, form: Form) -> list[Array]:
    """Return the fields of `Records`: (request,) each."""
    told = (served.start, served.completion, served.number, served.bin, served.size)
    none = jnp.full(form.requests, -1)
    return [none.at[lane.request].set(jnp.where(served.there, values, -1)) for values in told]


@cache
def program(form: Form, devices: tuple[Any, ...]) -> Any:
    """Return the compiled program of a form: each device simulates its part of the lanes."""
    part = PartitionSpec("lanes")
    mesh = Mesh(np.array(devices), ("lanes",))
    return jax.jit(
        jax.shard_map(
            lambda stacked: simulate_lanes(stacked, form), mesh=mesh, in_specs=part, out_specs=part, check_vma=False
        )
    )


def _call(jobs: Sequence[Job], form: Form, lanes: int, rows: tuple[int, ...]) -> Any:
    """Run one program on one chunk of jobs; return plain arrays, cut to the jobs."""
    devices = tuple(jax.devices())
    stacked = stack(jobs, form, lanes, len(devices), rows)
    with _device:  # a second thread prepares the next chunk meanwhile; two at once would need twice the memory
        given = program(form, devices)(stacked)
        counts, told, crowded = jax.tree.map(lambda x: np.asarray(x)[: len(jobs)], given)
    return counts, told, crowded


def whole_lanes(count: int) -> int:
    """Round up to a number of lanes that devices can share equally, so that similar chunks share a program."""
    devices = len(jax.devices())
    return devices * roomy(-(-count // devices))


def _collect(counts: Counts, members: Sequence[int], tally: Tally, whole: Any) -> None:
    """Copy the counts of a chunk into the tallies of its jobs."""
    rows, lanes = np.asarray(members)[whole], np.flatnonzero(whole)
    totals = np.ascontiguousarray(counts.totals[lanes])
    if totals.dtype != np.int64:
        raise TypeError(f"64-bit integers came back as {totals.dtype}")
    tally.totals[rows] = totals.view(TOTALS)
    for name in Tally._fields[1:]:
        getattr(tally, name)[rows] = getattr(counts, name)[lanes]


# The device ---------------------------------------------------------------------------------------------------------


@cache
def prepare() -> None:
    """Keep compiled programs across processes, and refuse a device whose arithmetic would give other numbers.

    Raises RuntimeError for such a device: TPUs, say, put two 32-bit floats together for one of 64.
    """
    kept = cache_directory()
    if kept is not None and jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(kept / "xla"))
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.0, 1e6, (2, 1000))
    wanted = (a / b, np.sqrt(a), np.round(a * b), a.view(np.int64))
    try:
        with jax.enable_x64(True):
            found = jax.jit(lambda a, b: (a / b, jnp.sqrt(a), jnp.round(a * b), a.view(jnp.int64)))(a, b)
        same = all(np.array_equal(x, y) for x, y in zip(found, wanted, strict=True))
    except jax.errors.JaxRuntimeError:
        same = False
    if not same:
        kind = jax.devices()[0].device_kind
        raise RuntimeError(f"{kind}: its 64-bit floats do not round as IEEE 754 says, so results would differ")


def device_name() -> str:
    """Name the devices that JAX runs on."""
    devices = jax.devices()
    return devices[0].device_kind if len(devices) == 1 else f"{len(devices)} x {devices[0].device_kind}"
