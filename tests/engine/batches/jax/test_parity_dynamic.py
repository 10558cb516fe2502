"""Dynamic batches: the specification, the compiled kernels and JAX leave the same behind."""

import numpy as np
import pytest

from batchcube.engine import Shape
from batchcube.engine.batches.jax.program import key_of
from batchcube.engine.policies.estimates import smoothing
from batchcube.engine.policies.memory import memory_bound
from batchcube.engine.policies.service import formula, measured
from batchcube.engine.policies.sla import sla_search
from helpers.batches import make_control
from helpers.programs import CHOSEN, SHAPE, Dynamic, bursty_job, disagreements, jobs_with


@pytest.mark.parametrize("options", CHOSEN[Dynamic], ids=str)
def test_random_jobs_agree_request_by_request(options):
    assert disagreements(jobs_with(options), SHAPE, "reference", "numba", "jax") == []


LARGE = {
    "one bin, one server": {"mode": "fifo_greedy", "bins": 1, "servers": 1},
    "two servers, the longest queue, both algorithms": {
        "mode": "multi_bin_dynamic",
        "bins": 6,
        "servers": 2,
        "bin_choice": "longest_queue",
        "completion": "own",
    },
}


def table(largest):
    seconds = np.add.outer([1.0, 2.0, 4.0], [0.1, 0.5, 3.0])
    outside = formula(0.05, 0.002, "linear", 0.1, largest_batch=largest)
    return measured(np.array([1, 4, 40]), np.array([10, 100, 700]), seconds, outside)


@pytest.mark.parametrize("options", LARGE.values(), ids=LARGE)
def test_thousands_of_requests_in_bursts_agree(options):
    jobs = []
    for largest, variant, signal, rule, observations in (
        (64, "paper", "latency", "exact", 20),
        (50, "heuristic", "tbt", "buffer", 17),
        (7, "paper", "batch_time", "literal", 32),
    ):
        control = make_control(
            2,
            largest,
            sla=sla_search(variant, signal, 1.5, 0.2, 4.0, 2.0),
            memory=memory_bound(rule, 20_000.0),
            estimates=smoothing("window", observations=observations),
            bins=options["bins"],
            mean=400.0,
            variance=4e4,
        )
        control = control if options["mode"] == "multi_bin_dynamic" else None
        jobs.append(bursty_job(largest, batch_size=largest, law=table(largest), control=control, **options))
    shape = Shape(options["bins"], 64, 50)
    assert len({key_of(job, shape, records=True) for job in jobs}) == 1
    assert disagreements(jobs, shape, "numba", "jax") == []
