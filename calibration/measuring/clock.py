"""Clocks for timing an engine, and what machine they tick on."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

PROCESS = "process CPU time on one thread"
WALL = "wall clock"
CUDA = "CUDA events"


def cpu_clock(threads: int) -> tuple[str, Callable[[], float]]:
    """Return the name and the reading of the clock for a CPU engine on this many threads.

    On one thread the time that the process itself computed: other programs on the same cores then cost little of it,
    while the wall clock on shared cores was seen to jump tenfold. Of several threads that time would be the sum.
    """
    return (PROCESS, time.process_time) if threads == 1 else (WALL, time.perf_counter)


def machine() -> dict[str, str]:
    """Return the processor, its cores and the memory of this machine."""
    model = platform.processor() or platform.machine()
    try:
        for row in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if row.startswith("model name"):
                model = row.partition(":")[2].strip()
                break
    except OSError:
        pass
    try:
        memory = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError, AttributeError):
        memory = "unknown"
    return {"processor": model, "cores": str(os.cpu_count() or 1), "memory": memory, "system": platform.system()}
