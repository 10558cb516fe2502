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

from ...cache import cache_directory
from ...histogram import BUCKETS
from ...simulation import Shape
from ...statistics import BATCHES
from ...tally import Tally
from ..model import Job, Records
from ..promises import looks_at_tokens
from .count import Served, count, serve_positions
from .dynamic import dynamic_batches
from .program import MOST_SLOTS, ProgramKey, Stack, key_of, roomy, rows_for, sized, stack
from .replication import Replication, each_replication, replication_of
from .static import static_batches

MOST_REPLICATIONS = 4096
"""Replications of one call, at most: their tallies come back to the host."""
CPU_BYTES = 2**30
"""Memory for one call where the device does not say how much it has."""
SHARE = 0.7
"""Part of a device's memory that is used."""

compilations: Counter[tuple[ProgramKey, int]] = Counter()
"""How often a program was traced in this process, by key and number of replications."""
_device = Lock()
_fitting: dict[ProgramKey, int] = {}


def run_replications(jobs: Sequence[Job], shape: Shape, tally: Tally, records: Sequence[Records] = ()) -> None:
    """Fill the empty tallies of many jobs, leading axis job, and their records if there are any.

    Jobs of one key run side by side, as many at once as the device's memory holds.
    """
    prepare()
    with jax.enable_x64(True):
        waiting: dict[tuple[ProgramKey, int], list[int]] = defaultdict(list)
        for k, job in enumerate(jobs):
            waiting[key_of(job, shape, records=bool(records)), MOST_SLOTS].append(k)
        while waiting:
            (unsized, slots), members = waiting.popitem()
            key = sized(unsized, [jobs[k] for k in members])
            chunks = -(-len(members) // replications_at_once(key))
            replications = whole_replications(-(-len(members) // chunks))
            rows = rows_for([jobs[k] for k in members], key, replications, len(jax.devices()))
            for first in range(0, len(members), replications):
                chunk = members[first : first + replications]
                try:
                    counts, told, crowded = _call([jobs[k] for k in chunk], key, replications, rows)
                except jax.errors.JaxRuntimeError as error:
                    if "RESOURCE_EXHAUSTED" not in str(error) or replications <= len(jax.devices()):
                        raise
                    _fitting[key] = replications // 2
                    waiting[unsized, slots] += members[first:]
                    break
                _collect(counts, chunk, tally, ~crowded)
                for replication, k in enumerate(chunk if records else ()):
                    for column, values in zip(records[k], told[replication], strict=True):
                        column[:] = values[: len(column)]
                for k, again in zip(chunk, crowded, strict=True):
                    if again:
                        form_again = key_of(jobs[k], shape, records=bool(records), slots=2 * slots)
                        waiting[form_again, 2 * slots].append(k)


def replications_for(job: Job, shape: Shape) -> int:
    """Return how many jobs like one run side by side."""
    return replications_at_once(sized(key_of(job, shape, records=looks_at_tokens(job.setup.reporting)), [job]))


def replications_at_once(key: ProgramKey) -> int:
    """Return how many replications fit into the devices' memory: by reckoning, and by what was found too many."""
    devices = jax.devices()
    stats = devices[0].memory_stats() or {}
    room = int(SHARE * stats["bytes_limit"]) if "bytes_limit" in stats else CPU_BYTES
    most = max(1, min(room // bytes_of_replication(key), MOST_REPLICATIONS)) * len(devices)
    return min(most, _fitting.get(key, most))


def bytes_of_replication(key: ProgramKey) -> int:
    """Return what a replication takes in a device's memory; the compiler's own figures lie below it (see the tests)."""
    per_request = 8 * (40 + 5 * key.records + 4 * key.predicted + 6 * key.waits)
    per_batch = 8 * (50 + 16 * key.ranked)
    queue = 0 if key.static else 64 * key.largest_batch
    controllers = key.bins * (key.observations + 16) * 64
    return (
        per_request * key.requests
        + per_batch * key.batches
        + queue
        + controllers
        + 16 * len(BATCHES.times) * BUCKETS
        + 32 * key.largest_batch * key.pieces
        + 300 * key.windows
    )


def simulate_replications(stacked: Stack, key: ProgramKey) -> tuple[Tally, Array | None, Any]:
    """Simulate a stack: counts, records if the key asks for them, and which replications need more slots."""
    compilations[key, len(stacked.requests)] += 1
    replications = jax.vmap(lambda rows, requests: replication_of(stacked, rows, requests, key))(
        stacked.rows, stacked.requests
    )
    decisions = None
    crowded: Any = stacked.requests < 0
    if key.static:
        batches = each_replication(static_batches, key)(replications)
    else:
        batches, decisions, crowded = dynamic_batches(replications, key)
    served = each_replication(serve_positions, key)(replications, batches)
    counts = each_replication(count, key)(replications, batches, served, decisions)
    return counts, each_replication(tell, key)(replications, served) if key.records else None, crowded


def tell(replication: Replication, served: Served, key: ProgramKey) -> Array:
    """Return the fields of `Records`: (field, request)."""
    told = jnp.stack([served.start, served.completion, served.number, served.bin, served.size])
    return jnp.zeros_like(told).at[:, replication.request].set(jnp.where(served.there, told, -1))


@cache
def program(key: ProgramKey, devices: tuple[Any, ...]) -> Any:
    """Return the compiled program of a key: each device simulates its part of the replications."""
    part = PartitionSpec("replications")
    mesh = Mesh(np.array(devices), ("replications",))
    return jax.jit(
        jax.shard_map(
            lambda stacked: simulate_replications(stacked, key),
            mesh=mesh,
            in_specs=part,
            out_specs=part,
            check_vma=False,
        ),
        compiler_options=compiler_options(devices[0].platform),
    )


def _call(jobs: Sequence[Job], key: ProgramKey, replications: int, rows: tuple[int, ...]) -> Any:
    """Run one program on one chunk of jobs; return plain arrays, cut to the jobs."""
    devices = tuple(jax.devices())
    stacked = stack(jobs, key, replications, len(devices), rows)
    with _device:  # a second thread prepares the next chunk meanwhile; two at once would need twice the memory
        given = program(key, devices)(stacked)
        counts, told, crowded = jax.tree.map(lambda x: np.asarray(x)[: len(jobs)], given)
    return counts, told, crowded


def whole_replications(count: int) -> int:
    """Round up to a number of replications that devices can share equally, so that similar chunks share a program."""
    devices = len(jax.devices())
    return devices * roomy(-(-count // devices))


def _collect(counts: Tally, members: Sequence[int], tally: Tally, whole: Any) -> None:
    """Copy the counts of a chunk into the tallies of its jobs."""
    rows, replications = np.asarray(members)[whole], np.flatnonzero(whole)
    if counts.totals.dtype != np.int64:
        raise TypeError(f"64-bit integers came back as {counts.totals.dtype}")
    for whole_tally, values in zip(tally, counts, strict=True):
        whole_tally[rows] = values[replications]


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


@cache
def compiler_options(platform: str) -> dict[str, bool]:
    """Return what XLA is told when it compiles programs for a platform: nothing, but for the CPU.

    There, where JAX is for checking rather than for speed, XLA's older way to write loops makes programs that compile
    in a quarter to a third less time, and run some 15 % slower. A version of XLA that does not know the option does
    without.
    """
    options = {"xla_cpu_use_fusion_emitters": False} if platform == "cpu" else {}
    try:
        jax.jit(jnp.zeros_like, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def device_name() -> str:
    """Name the devices that JAX runs on."""
    devices = jax.devices()
    return devices[0].device_kind if len(devices) == 1 else f"{len(devices)} x {devices[0].device_kind}"
