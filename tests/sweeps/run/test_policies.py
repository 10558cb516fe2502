"""Sweeps over policies from outside."""

import json

import numpy as np
import pytest

from batchcube.engine.policies import registry
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.spec.document import Sweep
from helpers.specifications import DYNAMIC, STEPS, laid

pytestmark = pytest.mark.usefixtures("outside_policies")
BUSY = {"workload.arrivals.rate_per_s": 20.0}
MINE = {**BUSY, "policy.controller": {"name": "aimd", "target_ms": 12.0}, "policy.sla": None, "policy.memory": None}
AXES = {"increase": {"path": "policy.controller.increase", "values": [1.0, 4.0]}}


def test_a_cube_says_which_policies_it_was_made_with(tmp_path):
    sweep = Sweep.model_validate(laid(DYNAMIC, {**MINE, "axes": AXES, "replications": 2}))
    cube = run_sweep(sweep, tmp_path / "mine.nc", backend="reference")
    known = registry.registered()["aimd"]
    assert json.loads(cube.attrs["policies"]) == {"aimd": {"origin": known.origin, "sha256": known.sha256}}
    assert cube.attrs["input_sha256"] == known.sha256
    slow, fast = cube["batch_size_mean"].mean("replication").values
    assert slow < fast


@pytest.mark.parametrize("tables", [DYNAMIC, STEPS], ids=["whole batches", "single steps"])
def test_a_cube_without_any_says_nothing(tables):
    assert (
        "policies" not in run_sweep(Sweep.model_validate(laid(tables, {"replications": 1})), backend="reference").attrs
    )


def test_the_smallest_bound_holds():
    """Beside a memory of 2000 tokens, for 5 requests of 400, what AIMD would allow does not matter."""
    small = {"policy.memory": {"rule": "margin", "capacity_tokens": 2000.0, "margin_tokens": 0.0}}
    sweep = Sweep.model_validate(laid(DYNAMIC, {**MINE, **small, "axes": AXES, "replications": 1}))
    cube = run_sweep(sweep, backend="reference")
    assert np.nanmax(cube["window_batch_target_mean"]) <= 5.0
