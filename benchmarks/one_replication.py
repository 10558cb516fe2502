"""Simulate one long replication in a process of its own; print its time and the peak memory as JSON."""

import json
import statistics
import sys
import time

from batchcube.engine import Job
from measure import peak_memory
from run import draw, dynamic_job, simulate, static_job

if __name__ == "__main__":
    mode, requests, repetitions = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

    def make(count: int) -> Job:
        if mode == "multi_bin_only":
            return static_job(draw(count, 4, 8.0, 1), 4, 128)
        return dynamic_job(mode, count, 6.0, 4, 1)

    simulate([make(1000)])  # loads the compiled code
    job = make(requests)
    before = peak_memory()
    seconds = []
    for _ in range(repetitions):
        begin = time.process_time()
        simulate([job])
        seconds.append(time.process_time() - begin)
    after = peak_memory()
    arrays = sum(array.nbytes for array in (*job.trace, *job.bins))
    print(json.dumps({"s": statistics.median(seconds), "before": before, "peak": after, "trace": arrays}))
