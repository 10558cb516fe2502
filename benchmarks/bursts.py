"""Overload and capacity under bursty traffic, measured where the truth is known: one server that does 10 requests/s.

Gaps between arrivals are gamma with coefficients of variation 1, 3 and 7, service times exponential with mean 0.1 s,
one request at a time. With --steps N, of mode continuous, N requests run at once, N times as long: every step takes N
ms, whoever runs in it, and 100 steps make an answer. Prints how often a load is called steady, overloaded, or cannot be
told, and how often intervals of capacities hold the truth.

    python benchmarks/bursts.py overload --seeds 100 --requests 1000
    python benchmarks/bursts.py overload --seeds 100 --requests 1000 --steps 32
    python benchmarks/bursts.py capacity --seeds 100 --requests 1000 --slo latency_mean_s=1000
    python benchmarks/bursts.py capacity --seeds 100 --requests 1000 --slo wait_mean_s=5 --pooled 400
    python benchmarks/bursts.py capacity --seeds 800 --requests 300 --slo latency_mean_s=0.5 --pooled 1000 --cv 1
"""

import argparse
from typing import Any

import numpy as np

from batchcube.results import labelled
from batchcube.results.overload import CANNOT_TELL, OVERLOADED, STEADY, judge
from batchcube.sweeps.run.capacity import find_capacity
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.spec.document import Sweep

CVS = (1.0, 3.0, 7.0)
LOADS = (0.5, 0.7, 0.9, 0.95, 1.05, 1.1, 1.3)
SERVED_PER_S = 10.0


def sweep(cv: float, given: argparse.Namespace, seed: int, *, replications: int, loads: bool) -> Sweep:
    """Return the sweep: at all loads, or at one rate from which a search may start."""
    lengths: dict[str, Any] = {"distribution": "exponential", "mean": 100.0}
    tables: dict[str, Any] = {
        "seed": seed,
        "replications": replications,
        "policy": {"mode": "fifo_greedy", "batch_size": 1},
        "server": {"service": {"law": "constant", "a0_s": 0.0, "a1_s_per_token": 0.001}},
    }
    if given.steps:
        lengths["prompt"] = {"distribution": "constant", "value": 1}
        tables["policy"] = {"mode": "continuous", "largest_batch": given.steps}
        service = {"law": "steps", "c0_s": 0.001 * given.steps, "c1_s_per_request": 0.0}
        replica = {"kv_capacity_tokens": 16_000 * given.steps, "prefill": "chunked"}
        tables["server"] = {"service": service, "replica": replica}
    arrivals: dict[str, Any] = {"process": "gamma", "cv": cv}
    tables["workload"] = {"requests": given.requests, "arrivals": arrivals, "lengths": lengths}
    if loads:
        rates = [load * SERVED_PER_S for load in LOADS]
        tables["axes"] = {"rate": {"path": "workload.arrivals.rate_per_s", "values": rates}}
    else:
        arrivals["rate_per_s"] = 3.0
    return Sweep.model_validate(tables)


def overload(given: argparse.Namespace) -> None:
    """Print the share of each answer, by load."""
    print("steady / cannot tell / overloaded, by load:", *LOADS)
    for cv in given.cv:
        said = []
        for seed in range(given.seeds):
            cube = run_sweep(sweep(cv, given, seed, replications=given.replications, loads=True))
            said.append(judge(cube, by_theory=False).values)
        shares = [(np.array(said) == queue).mean(axis=0) for queue in (STEADY, CANNOT_TELL, OVERLOADED)]
        print(f"cv {cv:g}:", *("/".join(f"{100 * share:.0f}" for share in at) for at in zip(*shares, strict=True)))


def capacity(given: argparse.Namespace) -> None:
    """Print what searches find, and how often their intervals hold what many replications find, or what is known."""
    for cv in given.cv:
        truth = SERVED_PER_S
        if given.pooled:
            many = find_capacity(sweep(cv, given, 10**6, replications=given.pooled, loads=False), [given.slo])
            truth = float(many["capacity_requests_per_s"].mean())
        found = []
        for seed in range(given.seeds):
            cube = find_capacity(sweep(cv, given, seed, replications=given.replications, loads=False), [given.slo])
            interval = labelled.mean_interval(cube["capacity_requests_per_s"])
            found.append([float(interval[name]) for name in ("mean", "low", "high")])
        answered = np.array([one for one in found if not np.isnan(one[0])])
        mean, low, high = answered.T
        print(
            f"cv {cv:g}: truth {truth:.3f}; {len(answered)} of {len(found)} searches have an answer: "
            f"found {mean.mean():.3f} with a standard deviation of {mean.std():.3f}, "
            f"half of an interval {(high - low).mean() / 2:.3f}; "
            f"{100 * ((low <= truth) & (truth <= high)).mean():.1f} % hold it, "
            f"{100 * (low > truth).mean():.1f} % lie above it, {100 * (high < truth).mean():.1f} % below"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overload", "capacity"))
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--replications", type=int, default=10)
    parser.add_argument("--slo", default="latency_mean_s=1000")
    parser.add_argument("--pooled", type=int, default=0, help="replications of the search that stands for the truth")
    parser.add_argument("--cv", type=float, nargs="+", default=CVS, help="coefficients of variation of the gaps")
    parser.add_argument("--steps", type=int, default=0, metavar="N", help="mode continuous, N requests at once")
    given = parser.parse_args()
    {"overload": overload, "capacity": capacity}[given.what](given)
