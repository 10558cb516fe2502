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


# The same with lengths that scatter: M/G/1, and G/G/1 with bursts.
LENGTHS = {"distribution": "exponential", "mean": 10.0}


@pytest.mark.parametrize("cv", [1.0, 3.0, 7.0])
@pytest.mark.parametrize("tables", [SINGLE, STEPWISE], ids=["batches", "steps"])
def test_however_bursty_a_load_above_1_is_never_steady_and_one_below_never_overloaded(
    tables: dict[str, Any], cv: float
) -> None:
    workload = {**tables["workload"], "arrivals": {"process": "gamma", "cv": cv}}
    workload["lengths"] = {**workload["lengths"], **LENGTHS}
    del workload["lengths"]["value"]
    found = []
    for seed in range(20):
        cube = run_sweep(Sweep.model_validate({**tables, "workload": workload, "seed": seed}))
        found.append(judge(cube, by_theory=False).values)
    low, below, above, high = np.array(found).T
    assert (low == STEADY).sum() >= 18
    assert OVERLOADED not in [*low, *below]
    assert STEADY not in [*above, *high]
    assert (above == OVERLOADED).sum() >= 18
    assert (high == OVERLOADED).all()
    # A run of 1000 requests whose gaps have a coefficient of variation of 7 is still growing, or is not.
    assert (below == STEADY).sum() >= (18 if cv < 7.0 else 8)


def test_a_sweep_that_cannot_tell_says_so() -> None:
    workload = {**SINGLE["workload"], "requests": 100, "lengths": LENGTHS}
    short = {**SINGLE, "replications": 4, "workload": workload}
    cube = run_sweep(
        Sweep.model_validate({**short, "axes": {"load": {**SINGLE["axes"]["load"], "values": [0.95, 1.05]}}})
    )
    assert cube.attrs["notes"].splitlines()[-1] == NOTES[CANNOT_TELL]
    text = io.StringIO()
    print_summary(cube, Console(file=text, width=200))
    assert "steady at none for certain, overloaded at none for certain: all points" in text.getvalue()
    assert "no load" not in text.getvalue()
