"""Run a sweep from Python, take its intervals, and draw a figure.

Run it with `python examples/sweep_in_python.py [FOLDER]`; the cube and the figure go to FOLDER (out/ when left out).
"""

import sys
from pathlib import Path

import batchcube as bc

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")

sweep = bc.sweep(
    name="bins",
    title="How much do bins help when lengths are uniform?",
    replications=8,
    workload={
        "requests": 8000,
        "arrivals": {"process": "poisson", "rate_per_s": 12.0},
        "lengths": {"distribution": "uniform", "unit": "seconds", "low": 1.0, "high": 20.0},
    },
    policy={"mode": "multi_bin_only", "batch_size": 128, "tail": "drop"},
    server={"service": {"law": "given"}},
    axes={"policy.bins": [1, 2, 4]},
)
cube = bc.run(sweep, folder / "bins.nc", overwrite=True)

throughput = bc.interval(cube, "busy_throughput_requests_per_s")
gain = bc.interval(cube, "busy_throughput_requests_per_s", ratio_to={"bins": 1})
for bins in cube["bins"].values:
    at = throughput.sel(bins=bins)
    theory = float(cube["theory_throughput_requests_per_s"].sel(bins=bins))
    print(f"{bins} bins: {at['mean']:.3f} requests/s [{at['low']:.3f}, {at['high']:.3f}], theory {theory:.3f}")
for bins in gain["bins"].values:
    by = gain.sel(bins=bins)
    print(f"{bins} bins against 1: {by['ratio']:.3f} times [{by['low']:.3f}, {by['high']:.3f}], paired by replication")
bc.plot(cube, "throughput-vs-bins", folder / "bins.png")
