"""What more than one machine costs: dealing tasks out, a sweep on workers beside one on threads, merging shards.

    python benchmarks/scale.py tasks
    python benchmarks/scale.py sweep
    python benchmarks/scale.py merge

`tasks`: milliseconds of a task that does nothing but come back with some kilobytes, on threads, processes and a cluster
of Dask. `sweep`: the processor time of a sweep that takes a core a minute, on one to eight workers over that on as many
threads, two at most: all of it, and that of dealing out, which is whatever is not in the threads of workers that do
tasks; and what a worker takes before its first task. `merge`: its seconds, and those of all shards together, over
those of a run. Clusters have their scheduler and workers in processes of their own, all on this machine; `dask` has
the scheduler in the process that asks. docs/scale.md has the numbers.
"""

import argparse
import operator
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from distributed import Client

from batchcube.sweeps.progress import Silent
from batchcube.sweeps.run.dask_cluster import SELDOM
from batchcube.sweeps.run.execution import merge_run, run_shard, run_sweep
from batchcube.sweeps.run.executors import Threads, connected, engaged
from batchcube.sweeps.run.scheduler import Crew, Gain, Scheduler, Task
from batchcube.sweeps.run.shards import Shard
from batchcube.sweeps.run.store import Store
from batchcube.sweeps.spec.document import Sweep
from batchcube.sweeps.stopping import Stop

COUNTS = (1, 2, 4, 8)
TASKS = 1000
SHARED = b"x" * 100_000
RESULT = slice(5_000)
REPLICATIONS = 400
"""Of a preset: a core simulates as many in about a minute."""
SHARDS = (1, 8, 64, 256)


class Nothing:
    """Work of so many tasks that come back with a part of what they share."""

    def __init__(self, tasks: int) -> None:
        self.left = tasks

    def tell(self, store: Store) -> str:
        return ""

    def next_task(self) -> Task | None:
        self.left -= 1
        return Task(operator.getitem, SHARED, (RESULT,)) if self.left >= 0 else None

    def take(self, task: Task, result: Any) -> Gain:
        return Gain((), 0, 0)

    def give_up(self) -> None:
        pass


@contextmanager
def cluster(count: int) -> Iterator[Client]:
    """Give a client of a scheduler with so many workers of a thread each, all of them processes that look seldom."""
    dask, local = [sys.executable, "-m", "dask"], ["--host", "127.0.0.1", "--no-dashboard"]
    seldom = os.environ | {
        f"DASK_{name.replace('.', '__').replace('-', '_').upper()}": str(value) for name, value in SELDOM.items()
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:

        def start(*words: str, stderr: int) -> "subprocess.Popen[str]":
            process = subprocess.Popen([*dask, *words, *local], cwd=folder, env=seldom, stderr=stderr, text=True)
            opened.callback(process.wait)
            opened.callback(process.kill)
            return process

        lines = start("scheduler", "--port", "0", stderr=subprocess.PIPE).stderr
        assert lines is not None
        opened.enter_context(lines)
        address = next(line.split("tcp://")[1].strip() for line in lines if "Scheduler at:" in line)
        for _ in range(count):
            start("worker", f"tcp://{address}", "--nthreads", "1", "--no-nanny", stderr=subprocess.DEVNULL)
        client = opened.enter_context(connected(f"dask://{address}", None))
        assert isinstance(client, Client)
        client.wait_for_workers(count)
        yield client


def processor_s(client: Client | None = None) -> dict[str, float]:
    """Return the processor time so far of this process, and of a cluster's scheduler and workers."""
    taken = {"here": time.process_time()}
    if client is not None:
        taken["scheduler"] = client.run_on_scheduler(time.process_time)
        taken["workers"] = sum(client.run(time.process_time).values())
        taken["loops"] = sum(client.run(time.thread_time).values())  # the thread that answers does no tasks
    return taken


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Write the median, and from where to where values reach."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def measure(name: str, crew: Crew, repetitions: int, client: Client | None = None) -> None:
    """Print what tasks that do nothing cost."""
    walls: list[float] = []
    costs: list[dict[str, float]] = []
    # The first ones bring what all share.
    for tasks in (100, *[TASKS] * repetitions):
        before, begun = processor_s(client), time.perf_counter()
        Scheduler(Nothing(tasks), None, Stop(), Silent()).run(crew)
        walls.append(1000 * (time.perf_counter() - begun) / tasks)
        costs.append({place: 1000 * (now - before[place]) / tasks for place, now in processor_s(client).items()})
    print(f"{name:24} {spread(walls[1:])} ms a task; of processor time:", flush=True, end="")
    print(*(f" {place} {spread([cost[place] for cost in costs[1:]])}" for place in costs[0]), sep=",", flush=True)


def tasks(repetitions: int) -> None:
    with ThreadPoolExecutor(2) as threads:
        measure("2 threads", Threads(threads, 2), repetitions)
    for count in COUNTS:
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool, engaged(pool, count) as crew:
            assert crew is not None
            measure(f"{count} processes", crew, repetitions)
    for count in COUNTS:
        with connected("dask", count) as client, engaged(client, None) as crew:
            assert crew is not None
            measure(f"{count} of Dask, with dask", crew, repetitions)
    for count in COUNTS:
        with cluster(count) as client, engaged(client, None) as crew:
            assert crew is not None
            measure(f"{count} of Dask, dask://", crew, repetitions, client)


def sweep(repetitions: int, replications: int) -> None:
    asked = Sweep.from_toml("multi-bin-fig8", [f"replications={replications}"])
    few = Sweep.from_toml("multi-bin-fig8", ["replications=16"])
    run_sweep(few, workers=2)
    for count in COUNTS:
        with cluster(count) as client:
            ready = processor_s(client)
            run_sweep(few, executor=client)  # kernels are loaded
            began = processor_s(client)["workers"]
            whole, dealing, scheduler = [], [], []
            for _ in range(repetitions):
                begun = time.process_time()
                run_sweep(asked, workers=min(count, 2))
                threads = time.process_time() - begun
                before = processor_s(client)
                run_sweep(asked, executor=client)
                taken = {place: (now - before[place]) / threads for place, now in processor_s(client).items()}
                whole.append(taken["here"] + taken["scheduler"] + taken["workers"])
                dealing.append(taken["here"] + taken["scheduler"] + taken["loops"])
                scheduler.append(taken["scheduler"])
        print(
            f"{count} workers: {spread(whole, 3)} of the processor time on threads, {threads:.1f} s; dealing out "
            f"{spread(dealing, 3)}, the scheduler alone {spread(scheduler, 3)}; a worker starts in "
            f"{ready['workers'] / count:.1f} s, and its first tasks take {(began - ready['workers']) / count:.1f} s",
            flush=True,
        )


def merge(repetitions: int) -> None:
    asked = Sweep.from_toml("multi-bin-fig8", ["replications=64", "workload.requests=4000"])
    run_sweep(asked, workers=2)
    for count in SHARDS:
        once: list[float] = []
        dealt: list[float] = []
        merged: list[float] = []
        for _ in range(repetitions):
            with tempfile.TemporaryDirectory() as folder:
                output = Path(folder) / "cube.nc"
                times = [time.process_time()]
                run_sweep(asked, Path(folder) / "whole.nc", workers=2)
                times.append(time.process_time())
                for number in range(1, count + 1):
                    run_shard(asked, output, Shard(number, count), workers=2)
                times.append(time.process_time())
                merge_run(output)
                times.append(time.process_time())
                for taken, (begun, ended) in zip((once, dealt, merged), pairwise(times), strict=True):
                    taken.append(ended - begun)
        print(
            f"{count} shards: {spread(dealt)} s in all, merging {spread(merged)} s; a run {spread(once)} s", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tasks", "sweep", "merge"))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--replications", type=int, default=REPLICATIONS, help="of the sweep")
    given = parser.parse_args()
    if given.what == "sweep":
        sweep(given.repetitions, given.replications)
    else:
        {"tasks": tasks, "merge": merge}[given.what](given.repetitions)


if __name__ == "__main__":
    main()
