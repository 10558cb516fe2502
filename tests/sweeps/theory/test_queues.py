"""Sweeps around load 1, judged by what was simulated alone: no steadiness that was not shown, no overload by chance."""

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from batchcube.results.overload import CANNOT_TELL, NOTES, OVERLOADED, STEADY, judge
from batchcube.results.summary import print_summary
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.spec.document import Sweep

LOADS = [0.5, 0.9, 1.1, 1.5]
# One request of one second at a time.
SINGLE: dict[str, Any] = {
    "replications": 10,
    "workload": {
        "requests": 1000,
        "arrivals": {"process": "poisson"},
        "lengths": {"distribution": "constant", "value": 10},
    },
    "policy": {"mode": "fifo_greedy", "batch_size": 1},
    "server": {"service": {"law": "constant", "a0_s": 0.0, "a1_s_per_token": 0.1}},
    "axes": {"load": {"path": "workload.arrivals.rate_per_s", "values": LOADS}},
}
REPLICA = {"kv_capacity_tokens": 1600, "prefill": "separate"}
# The same step by step: a prefill of nothing and ten steps of 0.1 s.
STEPWISE: dict[str, Any] = {
    **SINGLE,
    "workload": {
        **SINGLE["workload"],
        "lengths": {"distribution": "constant", "value": 10, "prompt": {"distribution": "constant", "value": 1}},
    },
    "policy": {"mode": "continuous", "largest_batch": 1},
    "server": {"service": {"law": "steps", "c0_s": 0.1, "c1_s_per_request": 0.0}, "replica": REPLICA},
}


@pytest.mark.parametrize("tables", [SINGLE, STEPWISE], ids=["batches", "steps"])
def test_a_load_of_1_1_is_never_steady_and_one_of_0_9_never_overloaded(tables: dict[str, Any]) -> None:
    found = []
    for seed in range(20):
        cube = run_sweep(Sweep.model_validate({**tables, "seed": seed}))
        found.append(judge(cube, by_theory=False).values)
        # What the flags of single replications would say.
        assert float(cube["overloaded"].sel(load=1.1).mean()) < 0.5
    low, below, above, high = np.array(found).T
    assert (low == STEADY).all()
    assert OVERLOADED not in below
    assert STEADY not in above
    assert {CANNOT_TELL, OVERLOADED} == set(above)
    assert (high == OVERLOADED).all()


def test_a_sweep_that_cannot_tell_says_so() -> None:
    short = {**SINGLE, "replications": 4, "workload": {**SINGLE["workload"], "requests": 100}}
    cube = run_sweep(
        Sweep.model_validate({**short, "axes": {"load": {**SINGLE["axes"]["load"], "values": [0.95, 1.05]}}})
    )
    assert not cube["overloaded"].any()
    assert cube.attrs["notes"].splitlines()[-1] == NOTES[CANNOT_TELL]
    text = io.StringIO()
    print_summary(cube, Console(file=text, width=200))
    assert "steady at none for certain, overloaded at none for certain: all points" in text.getvalue()
    assert "no load" not in text.getvalue()
