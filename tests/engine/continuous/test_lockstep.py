"""Replicas that step together: one step on all of them, as long as the longest."""

from itertools import pairwise

import numpy as np
import pytest

from batchcube.engine.continuous import (
    ROUTINGS,
    Job,
    Requests,
    Setup,
    make_fleet,
    make_law,
    make_replica,
    make_reporting,
    make_requests,
)
from batchcube.engine.continuous.reference import Engine, History, serve_in_order
from batchcube.engine.continuous.run import new_records
from helpers.continuous import assert_alike, draw_following, draw_job, simulate_job

BACKENDS = ["reference", "numba"]


def in_lockstep(job: Job, replicas: int | None = None) -> Job:
    """Return a job whose replicas step together, so many where it is said."""
    fleet = job.setup.fleet._replace(lockstep=True)
    if replicas is not None:
        fleet = fleet._replace(replicas=replicas)
    return job._replace(setup=job.setup._replace(fleet=fleet))


@pytest.mark.parametrize("draw", [draw_job, draw_following])
def test_compiled_and_reference_agree(draw) -> None:
    """Controllers, priorities, prefix caching, async scheduling, preemptions and every routing are among the cases."""
    rng = np.random.default_rng(20)
    preemptions, routings, together = 0, set(), 0
    for _ in range(400):
        job = in_lockstep(draw(rng))
        records, tally = simulate_job(job, "numba")
        assert_alike((records, tally), simulate_job(job, "reference"))
        preemptions += int(records.preemptions.sum())
        together += len(set(records.replica[records.replica >= 0])) > 1
        routings.add(job.setup.fleet.routing)
    assert preemptions > 300
    assert together > 100
    assert len(routings) == len(ROUTINGS)


@pytest.mark.parametrize("draw", [draw_job, draw_following])
def test_one_replica_steps_as_ever(draw) -> None:
    rng = np.random.default_rng(21)
    for _ in range(200):
        job = draw(rng)
        alone = job._replace(setup=job.setup._replace(fleet=job.setup.fleet._replace(replicas=1)))
        assert_alike(simulate_job(in_lockstep(alone), "reference"), simulate_job(alone, "reference"))


def test_steps_begin_and_end_together_on_all_replicas() -> None:
    """Whatever two replicas do at some instant, a step of one is a step of the other, or it sits that one out."""
    rng = np.random.default_rng(22)
    shared = 0
    for _ in range(100):
        job = in_lockstep(draw_job(rng), int(rng.integers(2, 4)))
        job = job._replace(setup=job.setup._replace(fleet=job.setup.fleet._replace(routing=0)))
        records = new_records(job)
        accepted = np.flatnonzero(records.status == 0).tolist()
        engines = [
            Engine(job, records, History(emitted={i: [] for i in accepted})) for _ in range(job.setup.fleet.replicas)
        ]
        histories = [engine.history for engine in engines]
        serve_in_order(job, records, engines)
        steps = [{(step.start, step.start + step.duration) for step in history.steps} for history in histories]
        spans = sorted(set.union(*steps))
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        shared += sum(len(span) for span in steps) - len(spans)
    assert shared > 500


def two(requests: Requests, *, lockstep: bool, async_scheduling: bool = False, routing: str = "round_robin") -> Job:
    """Build a job of two replicas whose steps take a millisecond, and a tenth for each prefilled token."""
    law = make_law(c0_s=1e-3, c3_s_per_prefill_token=1e-4)
    replica = make_replica(
        law, most_running=8, token_budget=64, capacity_tokens=1000, block_tokens=1, async_scheduling=async_scheduling
    )
    fleet = make_fleet(replicas=2, routing=routing, lockstep=lockstep)
    bins = np.zeros(len(requests.arrival), np.int32)
    return Job(requests, bins, Setup(replica, fleet, make_reporting(horizon_s=1.0, windows=1)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("async_scheduling", [False, True])
def test_replicas_with_equal_streams_take_the_times_of_one_apart(backend: str, async_scheduling: bool) -> None:
    """Every request comes twice, once for each replica: nobody waits for the other."""
    rng = np.random.default_rng(23)
    arrival = np.repeat(np.cumsum(rng.exponential(0.004, 60)), 2)
    prompt, output = np.repeat(rng.integers(1, 40, 60), 2), np.repeat(rng.integers(1, 30, 60), 2)
    requests = make_requests(arrival, prompt, output)
    together, apart = (two(requests, lockstep=on, async_scheduling=async_scheduling) for on in (True, False))
    assert_alike(simulate_job(together, backend), simulate_job(apart, backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("async_scheduling", "scheduled", "done"), [(False, 4, 5.1), (True, 5, 6.1)])
def test_who_comes_to_an_idle_replica_waits_for_the_others(
    backend: str, async_scheduling: bool, scheduled: float, done: float
) -> None:
    """The first step takes 4 ms for 30 tokens on the first replica; the second has nothing until 1 ms."""
    requests = make_requests([0.0, 0.001], [30, 1], [5, 1])
    records, _ = simulate_job(two(requests, lockstep=True, async_scheduling=async_scheduling), backend)
    # Ahead, the step that begins at 4 ms was scheduled at 0: it has no prefill, and takes 1 ms.
    assert (records.scheduled[1] / 1e9, records.last_token[1] / 1e9) == (scheduled, done)
