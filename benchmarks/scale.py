"""What dealing out costs: milliseconds of a task that does nothing, on threads, processes and a cluster of Dask.

    python benchmarks/scale.py

docs/scale.md has the numbers.
"""

import operator
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

from batchcube.sweeps.progress import Silent
from batchcube.sweeps.run.executors import Threads, connected, engaged
from batchcube.sweeps.run.scheduler import Crew, Gain, Scheduler, Task
from batchcube.sweeps.run.store import Store
from batchcube.sweeps.stopping import Stop

TASKS = 1000
SHARED = b"x" * 100_000


class Nothing:
    """Work of so many tasks that do nothing with what they share."""

    def __init__(self, tasks: int) -> None:
        self.left = tasks

    def tell(self, store: Store) -> str:
        return ""

    def next_task(self) -> Task | None:
        self.left -= 1
        return Task(operator.is_not, SHARED, (None,)) if self.left >= 0 else None

    def take(self, task: Task, result: Any) -> Gain:
        return Gain((), 0, 0)

    def give_up(self) -> None:
        pass


def measure(name: str, crew: Crew) -> None:
    # The first ones bring what all share.
    for tasks in (20, TASKS):
        begun = time.perf_counter()
        Scheduler(Nothing(tasks), None, Stop(), Silent()).run(crew)
        passed = time.perf_counter() - begun
    print(f"{name:12} {1000 * passed / TASKS:6.2f} ms a task", flush=True)


def main() -> None:
    with ThreadPoolExecutor(2) as threads:
        measure("2 threads", Threads(threads, 2))
    for count in (1, 2, 4, 8):
        with (
            ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool,
            engaged(pool, count) as crew,
        ):
            assert crew is not None
            measure(f"{count} processes", crew)
    for count in (1, 2, 4, 8):
        with connected("dask", count) as client, engaged(client, None) as crew:
            assert crew is not None
            measure(f"{count} of Dask", crew)


if __name__ == "__main__":
    main()
