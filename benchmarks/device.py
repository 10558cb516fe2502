"""What the JAX backend gives on this machine's device, against Numba on all of its CPU cores: parity first, then speed.

    pip install -e '.[jax]'                          # or '.[cuda]' for NVIDIA GPUs
    python benchmarks/device.py                      # GPU: no new line after nine minutes
    python benchmarks/device.py --quick              # CPU: fewer replications, a few minutes
    python benchmarks/device.py --output TABLE.md    # also written as a dated table

Every line is one program. Its reports are compared with Numba's, variable by variable, on up to 32 replications; then
the program is timed alone (requests on the device, tallies left there) and as a user calls it (stacking, both transfers
and the reports included). Side by side run 32 replications of 100,000 or 20,000 requests times settings that differ in
a limit. A line that the time left would not cover is named, not measured.
"""

import argparse
import datetime
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from batchcube import engine
from batchcube.engine.batches.jax import driver
from batchcube.engine.batches.jax.program import key_of, sized, stack
from batchcube.engine.policies.order import NAMED, Named
from measure import number
from run import SERVERS_RATE, draw, dynamic_job, static_job

REPLICATIONS = 32
STATIC_REQUESTS, DYNAMIC_REQUESTS = 100_000, 20_000


class Case(NamedTuple):
    """One line of the table."""

    what: str
    bins: int
    batch: int
    jobs: Callable[[int], list[engine.Job]]
    """As many jobs as asked for."""
    sweep_counts: bool = False
    """Measure few replications as well, to see from where on the cost is flat."""


class Speed(NamedTuple):
    """What a line found."""

    agrees: str
    replications: int
    program: float
    """Requests per second of the program alone."""
    whole: float
    """... of `simulate_many`."""
    numba: float
    """... of `simulate_many` with Numba on all cores."""
    compile_s: float


def with_limits(jobs: Sequence[engine.Job], count: int) -> list[engine.Job]:
    """Repeat replications under different limits: what replications of a grid share, these share."""
    setups = {}
    for setting in range(-(-count // len(jobs))):
        for k, job in enumerate(jobs):
            reporting = job.setup.reporting._replace(request_sla=(1 + setting) * 1_000_000)
            setups[setting, k] = job._replace(setup=job.setup._replace(reporting=reporting))
    return list(setups.values())[:count]


def static_jobs(bins: int, batch: int, change: Callable[[engine.Job], engine.Job]) -> Callable[[int], list[engine.Job]]:
    def make(count: int) -> list[engine.Job]:
        rate = SERVERS_RATE * batch / 128
        each = [
            change(static_job(draw(STATIC_REQUESTS, bins, rate, seed), bins, batch))
            for seed in range(min(count, REPLICATIONS))
        ]
        return with_limits(each, count)

    return make


def dynamic_jobs(mode: str, bins: int, rate: float) -> Callable[[int], list[engine.Job]]:
    def make(count: int) -> list[engine.Job]:
        each = [dynamic_job(mode, DYNAMIC_REQUESTS, rate, bins, seed) for seed in range(min(count, REPLICATIONS))]
        return with_limits(each, count)

    return make


def with_policy(**fields: Any) -> Callable[[engine.Job], engine.Job]:
    """Change a job's policy."""

    def change(job: engine.Job) -> engine.Job:
        return job._replace(setup=job.setup._replace(policy=job.setup.policy._replace(**fields)))

    return change


def cases() -> list[Case]:
    """List the lines, the most telling first."""
    plain, shortest_first = with_policy(), with_policy(ranked=True, service_order=Named(NAMED.index("shortest_first")))
    return [
        Case("multi_bin_only", 8, 128, static_jobs(8, 128, plain), sweep_counts=True),
        Case("multi_bin_only", 8, 8, static_jobs(8, 8, plain)),
        Case("multi_bin_dynamic, loaded", 8, 256, dynamic_jobs("multi_bin_dynamic", 8, 60.0), sweep_counts=True),
        Case("dynamic_only, loaded", 1, 256, dynamic_jobs("dynamic_only", 1, 60.0)),
        Case("multi_bin_only", 1, 128, static_jobs(1, 128, plain)),
        Case("multi_bin_only", 1, 8, static_jobs(1, 8, plain)),
        Case("dynamic_only, light", 1, 256, dynamic_jobs("dynamic_only", 1, 10.0)),
        Case("multi_bin_only, 3 servers", 8, 8, static_jobs(8, 8, with_policy(servers=3))),
        Case("multi_bin_only, max_wait 5 s", 8, 8, static_jobs(8, 8, with_policy(max_wait=5_000_000))),
        Case("multi_bin_only, own completion", 8, 8, static_jobs(8, 8, with_policy(own_completion=True))),
        Case(
            "multi_bin_only, shortest_first",
            8,
            8,
            static_jobs(8, 8, shortest_first),
        ),
    ]


def shape_of(jobs: Sequence[engine.Job]) -> engine.Shape:
    policy, reporting = jobs[0].setup.policy, jobs[0].setup.reporting
    return engine.Shape(len(jobs[0].bins.start) - 1, policy.batch_size, reporting.windows)


def per_second(requests: int, call: Callable[[], Any], repetitions: int) -> float:
    """Return the median rate of a call that was made once before."""
    call()
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return requests / statistics.median(seconds)


def on_all_cores(jobs: Sequence[engine.Job]) -> list[dict[str, Any]]:
    """Simulate with Numba, a block of jobs to a thread."""
    shape, size = shape_of(jobs), 4
    blocks = [jobs[k : k + size] for k in range(0, len(jobs), size)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda block: engine.simulate_many(block, shape, "numba"), blocks))


def agreement(jobs: Sequence[engine.Job], ours: dict[str, Any]) -> str:
    """Compare reports with Numba's: say `exact`, or which variables differ."""
    theirs = on_all_cores(jobs)
    differing = [
        name
        for name, values in ours.items()
        if not np.array_equal(values[: len(jobs)], np.concatenate([part[name] for part in theirs]), equal_nan=True)
    ]
    return f"DIFFERS: {', '.join(differing)}" if differing else "exact"


def measure(case: Case, count: int, repetitions: int) -> Speed:
    """Run one case on the device and on the CPU's cores."""
    jobs = case.jobs(count)
    shape = shape_of(jobs)
    requests = sum(len(job.trace.arrival) for job in jobs)
    start = time.perf_counter()
    ours = engine.simulate_many(jobs, shape, "jax")
    compile_s = time.perf_counter() - start
    few = jobs[:REPLICATIONS]
    agrees = agreement(few, ours)
    whole = per_second(requests, lambda: engine.simulate_many(jobs, shape, "jax"), repetitions)
    devices = tuple(jax.devices())
    with jax.enable_x64(True):
        key = sized(key_of(jobs[0], shape, records=False), jobs)
        count = driver.whole_replications(len(jobs))
        here = jax.device_put(stack(jobs, key, count, len(devices)))
        program = driver.program(key, devices)
        alone = per_second(requests, lambda: jax.block_until_ready(program(here)), repetitions)
    numba = per_second(sum(len(job.trace.arrival) for job in few), lambda: on_all_cores(few), repetitions)
    return Speed(agrees, len(jobs), alone, whole, numba, compile_s)


def counts_of(case: Case, quick: bool) -> list[int]:
    if quick:
        return [REPLICATIONS]
    first = case.jobs(1)
    full = min(engine.jobs_at_once(first[0], shape_of(first), "jax"), 2048)
    return sorted({min(some, full) for some in (1, 64, 512, 2048)}) if case.sweep_counts else [full]


HEADS = (
    "mode", "K", "B", "replications", "agrees with Numba", "program, requests/s", "whole call, requests/s",
    "Numba, all cores, requests/s", "program / Numba", "whole / Numba", "first call, s",
)  # fmt: skip


def lines(quick: bool, deadline: float) -> Iterator[tuple[str, ...]]:
    """Measure line by line until the time is up."""
    dearest = 0.0
    for case in cases():
        for count in counts_of(case, quick):
            start = time.perf_counter()
            if start + dearest > deadline:
                yield (case.what, str(case.bins), str(case.batch), str(count), "not measured: no time left")
                continue
            found = measure(case, count, repetitions=3)
            dearest = max(dearest, time.perf_counter() - start)
            yield (
                case.what,
                str(case.bins),
                str(case.batch),
                str(found.replications),
                found.agrees,
                f"{found.program:.3g}",
                f"{found.whole:.3g}",
                f"{found.numba:.3g}",
                number(found.program / found.numba),
                number(found.whole / found.numba),
                number(found.compile_s),
            )


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="32 replications everywhere, for a CPU")
    parser.add_argument("--seconds", type=float, default=540.0, help="when to stop starting new lines (default: 540)")
    parser.add_argument("--output", type=Path, help="write the table to this file as well")
    options = parser.parse_args()
    deadline = time.perf_counter() + options.seconds
    said = engine.describe("jax")
    versions = dict.fromkeys([*said.versions.split(", "), *engine.describe("numba").versions.split(", ")])
    head = [
        f"{datetime.date.today()}: {said.device}, {', '.join(versions)}; {os.cpu_count()} CPU cores",
        "",
        f"| {' | '.join(HEADS)} |",
        f"|{' --- |' * len(HEADS)}",
    ]
    print("\n".join(head), flush=True)
    differs = False
    for line in lines(options.quick, deadline):
        differs |= line[4].startswith("DIFFERS")
        head.append(f"| {' | '.join(line + ('',) * (len(HEADS) - len(line)))} |")
        print(head[-1], flush=True)
    if options.output:
        options.output.write_text("\n".join(head) + "\n", encoding="utf-8")
    raise SystemExit(1 if differs else 0)


if __name__ == "__main__":
    main()
