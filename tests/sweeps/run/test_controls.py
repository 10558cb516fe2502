"""What replications drew is in the cube whoever simulated it, and intervals without it hold known means."""

import numpy as np
import pytest

import batchcube as bc
from batchcube.results.variables import CONTROLS
from batchcube.sweeps.run.single import simulate_one
from batchcube.sweeps.spec.document import Sweep
from helpers.queues import mean_waits
from helpers.specifications import SECONDS, STEPS, Tables, laid

LENGTHS = {"distribution": "exponential", "mean": 20.0, "prompt": {"distribution": "uniform", "low": 1, "high": 30}}


@pytest.mark.parametrize("tables", [laid(SECONDS, {}), laid(STEPS, {"workload.lengths": LENGTHS})])
def test_backends_and_single_replications_agree_on_what_was_drawn(tables: Tables) -> None:
    settings = {"name": "drawn", "replications": 3, "workload.requests": 20}
    sweep = Sweep.model_validate(laid(tables, settings))
    cubes = [bc.run(sweep, backend=backend, quiet=True) for backend in ("numba", "reference")]
    one = simulate_one(sweep, {}, 2)
    for name in CONTROLS:
        np.testing.assert_array_equal(cubes[0][name], cubes[1][name])
        assert cubes[0][name].dims == ("replication",)
        np.testing.assert_equal(one.report[name], cubes[0][name].values[2])
    assert np.isnan(cubes[0]["drawn_prompt_ratio"]).all() == (tables["policy"]["mode"] != "continuous")


def test_a_queue_of_known_mean() -> None:
    """M/M/1 at 0.8, 400 runs of 100 requests: one server that takes requests one by one, exponential times."""
    times = {"distribution": "exponential", "unit": "seconds", "mean": 1.0}
    settings = {
        "name": "mm1",
        "replications": 400,
        "workload.requests": 100,
        "workload.arrivals.rate_per_s": 0.8,
        "workload.lengths": times,
        "policy.batch_size": 1,
        "report": {"histograms": False, "windows": 1},
    }
    cube = bc.run(Sweep.model_validate(laid(SECONDS, settings)), quiet=True)
    truth = mean_waits(0.8, 100).mean() + 1.0
    plain, found = (bc.interval(cube, "latency_mean_s", confidence=0.9999, controls=on) for on in (False, True))
    for interval in (plain, found):
        assert interval["low"] < truth < interval["high"]
    assert found["narrowed"] < 0.8
    # Of infinitely many servers the mean latency is what was drawn: nothing is left to chance.
    infinite = laid(
        SECONDS, {**settings, "replications": 30, "policy.mode": "fifo_fixed", "server.servers": "infinite"}
    )
    exact = bc.interval(bc.run(Sweep.model_validate(infinite), quiet=True), "latency_mean_s", controls=True)
    assert exact["mean"].item() == pytest.approx(1.0, abs=1e-6)
    assert exact["narrowed"] < 1e-3
