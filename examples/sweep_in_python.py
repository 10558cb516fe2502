"""Run a sweep from Python, take its intervals, and draw a figure.

Run it with `python examples/sweep_in_python.py [FOLDER]`; the cube and the figure go to FOLDER (out/ when left out).
"""

import sys
from pathlib import Path

from batchcube.figures import registry
from batchcube.results.labelled import mean_interval, paired_ratio
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.spec.document import Sweep

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
folder.mkdir(parents=True, exist_ok=True)

sweep = Sweep.model_validate(
    {
        "name": "bins",
        "title": "How much do bins help when lengths are uniform?",
        "seed": 1,
        "replications": 8,
        "workload": {
            "requests": 8000,
            "arrivals": {"process": "poisson", "rate_per_s": 12.0},
            "lengths": {"distribution": "uniform", "unit": "seconds", "low": 1.0, "high": 20.0},
        },
        "policy": {"mode": "multi_bin_only", "batch_size": 128, "tail": "drop"},
        "server": {"service": {"law": "given"}},
        "axes": {"bins": {"path": "policy.bins", "values": [1, 2, 4]}},
    }
)
cube = run_sweep(sweep, folder / "bins.nc", overwrite=True)

throughput = cube["busy_throughput_requests_per_s"]
interval = mean_interval(throughput)
gain = paired_ratio(throughput, along="bins", baseline=1)
for bins in cube["bins"].values:
    at = interval.sel(bins=bins)
    theory = float(cube["theory_throughput_requests_per_s"].sel(bins=bins))
    print(f"{bins} bins: {at['mean']:.3f} requests/s [{at['low']:.3f}, {at['high']:.3f}], theory {theory:.3f}")
for bins in gain["bins"].values:
    by = gain.sel(bins=bins)
    print(f"{bins} bins against 1: {by['ratio']:.3f} times [{by['low']:.3f}, {by['high']:.3f}], paired by replication")
registry.save(registry.draw("throughput-vs-bins", cube), cube, folder / "bins.png")
