"""Simulate one replication on your own arrays, and look at what became of each request.

Run it with `python examples/one_replication.py`. Ten requests share one server that takes
what waits, up to four at a time.
"""

import numpy as np

from batchcube.engine import Job, Setup, make_policy, make_reporting, make_trace, simulate, sort_into_bins
from batchcube.engine.policies import service, target
from batchcube.engine.policies.bins import assign_bins

arrival_s = [0.0, 0.1, 0.2, 0.3, 2.0, 2.0, 2.1, 5.0, 5.2, 9.0]
output_tokens = np.array([12, 250, 30, 18, 400, 22, 35, 90, 310, 15])

# Requests below 100 predicted tokens go to bin 0, the others to bin 1; here the prediction is perfect.
edges = [0.0, 100.0, np.inf]
trace = make_trace(arrival_s, output_tokens=output_tokens, prompt_tokens=np.full(10, 64))
bins = sort_into_bins(assign_bins(output_tokens, edges), bins=2)

setup = Setup(
    policy=make_policy("multi_bin_dynamic", batch_size=4, bin_choice="oldest_head"),
    # T(b, L) = 0.05 s + 0.01 s * L * (1 + 0.02 (b - 1))
    service=service.formula(0.05, 0.01, "linear", 0.02, largest_batch=4),
    control=target.fixed_target(1, 4, prior_tokens=np.full(2, 180.0), prior_squares=np.full(2, 5e4)),
    reporting=make_reporting(horizon_s=10.0, windows=5, request_sla_s=4.0),
)

job = Job(trace, bins, setup)
compiled, reference = simulate(job, backend="numba"), simulate(job, backend="reference")

print("request  bin  batch  size  start_s  completion_s")
for i, (start, completion, batch, bin_, size) in enumerate(zip(*compiled.records, strict=True)):
    print(f"{i:7d}  {bin_:3d}  {batch:5d}  {size:4d}  {start / 1e6:7.3f}  {completion / 1e6:12.3f}")
print(f"mean latency {compiled.report['latency_mean_s']:.3f} s")
print(f"over the 4 s limit: {compiled.report['request_sla_violation_fraction']:.0%}")

same = all(np.array_equal(a, b) for a, b in zip(compiled.records, reference.records, strict=True))
print(f"compiled and reference runs agree request by request: {same}")
