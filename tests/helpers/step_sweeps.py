"""A sweep of mode continuous with every option of the policy, for tests of what is made of it."""

from copy import deepcopy
from typing import Any

from batchcube.sweeps.spec.document import Sweep
from helpers.specifications import CONTINUOUS as BASE

BY_BIN = {"mode": "continuous", "largest_batch": 16, "bins": 3, "admission": "by_bin"}
# Every option of the policy, over two rates.
POLICIES: dict[str, Any] = {
    "static": {},
    "memory": {"policy": {"memory": {"rule": "exact", "overflow_probability": 0.1}}},
    "margin": {"policy": {"memory": {"rule": "margin", "margin_fraction": 0.2}, "smallest_batch": 2}},
    "sla": {"policy": {"sla": {"target_s": 0.024, "tolerance_s": 0.001}, "estimates": {"weight": 0.5}}},
    "both": {"policy": {"memory": {}, "sla": {"target_s": 0.024, "tolerance_s": 0.001, "variant": "heuristic"}}},
    "separate": {"server": {"replica": {"prefill": "separate", "token_budget": 2048, "block_tokens": 1}}},
    "by bin": {"policy": {"admission": "by_bin", "bins": 3, "bin_choice": "longest_queue"}},
    "shortest queue": {"server": {"servers": 2, "routing": "shortest_queue"}},
    "in lockstep": {"server": {"servers": 2, "lockstep": True}},
    "replica by bin": {"server": {"servers": 2, "routing": "by_bin"}, "policy": {"bins": 3}},
}
SWEEP: dict[str, Any] = {
    **BASE,
    "workload": {**BASE["workload"], "arrivals": {"process": "poisson"}},
    "axes": {
        "policy": {"points": POLICIES},
        "arrival_rate_per_s": {"path": "workload.arrivals.rate_per_s", "values": [6.0, 12.0]},
    },
}


def sweep(tables: dict[str, Any] = SWEEP, **changes: Any) -> Sweep:
    return Sweep.model_validate({**deepcopy(tables), **changes}, "sweep.toml")
