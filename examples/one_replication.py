"""Simulate one replication on your own requests, and look at what became of each.

Run it with `python examples/one_replication.py`. Ten requests share one server that takes
the waiting requests of a bin, up to four at a time.
"""

import batchcube as bc

requests = {
    "arrival_s": [0.0, 0.1, 0.2, 0.3, 2.0, 2.0, 2.1, 5.0, 5.2, 9.0],
    "prompt_tokens": [64] * 10,
    "output_tokens": [12, 250, 30, 18, 400, 22, 35, 90, 310, 15],
}
tables = {
    # Requests below 100 predicted tokens go to bin 0, the others to bin 1; here the prediction is perfect.
    "policy": {
        "mode": "multi_bin_dynamic",
        "bins": 2,
        "edges": {"kind": "explicit", "values": [0.0, 100.0, 1000.0]},
        "largest_batch": 4,
    },
    # T(b, L) = 0.05 s + 0.01 s * L * (1 + 0.02 (b - 1))
    "server": {"service": {"law": "linear", "a0_s": 0.05, "a1_s_per_token": 0.01, "gamma": 0.02}},
    "report": {"request_sla_s": 4.0, "horizon_s": 10.0, "windows": 5},
}

compiled = bc.simulate(tables, requests=requests)
reference = bc.simulate(tables, requests=requests, backend="reference")

print(compiled.requests.to_string())
print(f"mean latency {compiled.report['latency_mean_s']:.3f} s")
print(f"over the 4 s limit: {compiled.report['request_sla_violation_fraction']:.0%}")
print(f"compiled and reference runs agree request by request: {compiled.requests.equals(reference.requests)}")
