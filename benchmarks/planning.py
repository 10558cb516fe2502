"""How often a plan is right: the answers of many seeds against an exhaustive run of many replications.

    python benchmarks/planning.py [--seeds 200] [--first 0]

Every seed is another plan of the same question. Right is who needs as many replicas as the exhaustive run does, and
chooses a configuration that is at most the indifference zone worse than the best there.
"""

import argparse
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchcube.sweeps.planning.decide import decide
from batchcube.sweeps.planning.defaults import INDIFFERENCE
from batchcube.sweeps.planning.question import ask
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.spec.document import Sweep

SPEC = """\
name = "planned"
seed = {seed}
replications = {replications}
[workload]
requests = 600
arrivals = {{ process = "poisson", rate_per_s = 12.0 }}
[workload.lengths]
distribution = "lognormal"
mean = 40.0
cv = 0.8
prompt = {{ distribution = "lognormal", mean = 100.0, cv = 0.8 }}
[policy]
mode = "continuous"
[server]
servers = {servers}
service = {{ law = "steps", c0_s = 0.02, c1_s_per_request = 0.001, c2_s_per_kv_token = 2e-7, \
c3_s_per_prefill_token = 1e-4, c4_s_per_prefill_attention = 0.0 }}
[server.replica]
kv_capacity_tokens = 3000
[report]
warmup_fraction = 0.2
windows = 1
histograms = false
"""
VARY: dict[str, list[int]] = {"policy.largest_batch": [4, 6, 8, 12, 16, 32], "server.replica.token_budget": [64, 512]}
SLO = ("ttft_p99_s=1", "tpot_mean_s=0.04")
MOST_REPLICAS = 3


def truth(folder: Path, replications: int) -> list[NDArray[np.float64]]:
    """Return the mean largest ratio of all settings, (cap, budget), for every number of replicas."""
    axes = {f"axes.{path.rpartition('.')[2]}": {"path": path, "values": values} for path, values in VARY.items()}
    found = []
    for servers in range(1, MOST_REPLICAS + 1):
        file = folder / f"{servers}.toml"
        file.write_text(SPEC.format(seed=10**6, replications=replications, servers=servers))
        cube = run_sweep(Sweep.from_toml(file, axes))
        ttft = cube["ttft_quantile_s"].sel(quantile=0.99)
        found.append(np.maximum(ttft.values, cube["tpot_mean_s"].values / 0.04).mean(axis=-1))
    return found


def main() -> None:
    """Compare, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--replications", type=int, default=600)
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        ratios = truth(folder, arguments.replications)
        needed = next(k for k, ratio in enumerate(ratios) if (ratio <= 1.0).any())
        best = ratios[needed][ratios[needed] <= 1.0].min()
        good = np.argwhere(ratios[needed] <= (1.0 + INDIFFERENCE) * best)
        allowed = [tuple(values[int(k)] for values, k in zip(VARY.values(), place, strict=True)) for place in good]
        print(f"{needed + 1} replicas, largest ratio {best:.4f}; right: {allowed}")
        print("at", needed + 1, np.array2string(ratios[needed], precision=3).replace("\n", ""))
        chosen: Counter[Any] = Counter()
        right, decided, simulations = 0, 0, 0
        begun, busy = time.perf_counter(), time.process_time()
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            file = folder / "plan.toml"
            file.write_text(SPEC.format(seed=seed, replications=1, servers=1))
            answer = decide(ask(file, slo=SLO, vary=VARY, indifference=INDIFFERENCE))
            answered = (answer.best.replicas, *answer.best.at.values())
            chosen[answered] += 1
            right += answer.found and answered[0] == needed + 1 and answered[1:] in allowed
            decided += answer.is_decided
            simulations += answer.simulations
        seconds, processor = time.perf_counter() - begun, time.process_time() - busy
    print(f"right in {right} of {arguments.seeds}, decided in {decided}; chosen: {dict(chosen)}")
    each = (simulations / arguments.seeds, processor / arguments.seeds, seconds / arguments.seeds)
    print("each: {:.0f} simulations, {:.2f} s of processor time, {:.2f} s by the clock".format(*each))


if __name__ == "__main__":
    main()
