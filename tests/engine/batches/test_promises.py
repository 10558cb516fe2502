"""Who keeps all limits is counted from what became of requests: as a count over requests would have it."""

import numpy as np
import pytest

from batchcube.engine import Shape
from batchcube.engine.batches.count import request_of
from batchcube.engine.batches.reference import simulate_reference
from batchcube.engine.statistics import BATCHES
from batchcube.engine.ticks import NEVER
from helpers.batches import random_job, run, run_all, shape_of


@pytest.mark.parametrize("seed", range(60))
def test_goodput_is_what_each_request_shows(seed):
    rng = np.random.default_rng([12, seed])
    job = random_job(rng, tokens=[True])
    limits = job.setup.reporting._replace(
        ttft_sla=int(rng.integers(0, 6_000_000)), tpot_sla=float(rng.uniform(0.0, 2e5)) if seed % 3 else np.inf
    )
    job = job._replace(setup=job.setup._replace(reporting=limits))
    records, batches = simulate_reference(*job)
    kept = 0
    for batch in batches:
        for i in batch.members:
            seen = request_of(job.trace, job.setup, records, batch, i)
            in_time = seen.completion - seen.arrival <= limits.request_sla
            first_in_time = seen.first_token - seen.arrival <= limits.ttft_sla
            kept += (
                i >= limits.warmup
                and in_time
                and first_in_time
                and not (seen.output > 1 and seen.pace > limits.tpot_sla)
            )
    tally, _ = run(job)
    measured, broken = (int(tally.totals[0, BATCHES.at(name)]) for name in ("measured", "broken"))
    assert measured - broken == kept


def test_limits_on_tokens_of_some_jobs_leave_the_others_as_they_are():
    jobs = [random_job(np.random.default_rng(seed), tokens=[True], mode=["fifo_greedy"]) for seed in (1, 2)]
    tight = jobs[1].setup.reporting._replace(ttft_sla=0, request_sla=NEVER)
    jobs[1] = jobs[1]._replace(setup=jobs[1].setup._replace(reporting=tight))
    shape = Shape(*map(max, zip(*map(shape_of, jobs), strict=True)))
    together, _ = run_all(jobs, shape)
    for k, job in enumerate(jobs):
        alone, _ = run_all([job], shape)
        np.testing.assert_array_equal(alone.totals[0], together.totals[k])
    broken, measured, late = (together.totals[:, BATCHES.at(name)] for name in ("broken", "measured", "late_requests"))
    assert broken[0] == late[0]
    assert (broken[1], late[1]) == (measured[1], 0)
