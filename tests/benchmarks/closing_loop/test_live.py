"""Serving in real time makes the decisions of the simulator, on a clock that here is simulated too."""

from collections.abc import Sequence
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcube.engine import INFINITE, Job, Records, make_policy, simulate
from batchcube.engine.policies.memory import memory_bound
from batchcube.engine.policies.service import formula, service_ticks
from batchcube.engine.ticks import NEVER, TICKS_PER_S
from closing_loop import live
from closing_loop.live import serve_live
from helpers.batches import make_control, make_job, random_job

MODES = ("multi_bin_only", "dynamic_only", "multi_bin_dynamic", "fifo_fixed")
seeds = st.integers(0, 2**63)


class Clock:
    """Stands for the module `time`: nothing passes but what is slept or served. Fractions keep the ticks exact."""

    def __init__(self) -> None:
        self.ticks = 10**9
        self.slept = 0

    def perf_counter(self) -> Fraction:
        return Fraction(self.ticks, TICKS_PER_S)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.ticks += round(seconds * TICKS_PER_S)
        self.slept += 1


def serve_by_law(job: Job) -> tuple[Records, Clock]:
    """Serve a job on a simulated clock, every batch for as long as the job's own law says."""
    clock = Clock()

    def serve(members: Sequence[int]) -> None:
        longest = max(int(job.trace.length[i]) for i in members)
        clock.ticks += int(service_ticks(len(members), longest, job.setup.service))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "time", clock)
        return serve_live(*job, serve), clock


def draw(seed: int, *modes: str) -> Job:
    rng = np.random.default_rng(seed)
    return random_job(rng, mode=modes, servers=(1,), max_wait_s=(None,), completion=("batch",), tokens=(True,))


@pytest.mark.parametrize("mode", MODES)
@given(seed=seeds)
def test_live_serving_makes_the_batches_of_the_simulator(mode: str, seed: int) -> None:
    """Bins, queues, controllers, ties and what is left at the end: request by request."""
    job = draw(seed, mode)
    served, _ = serve_by_law(job)
    records = simulate(job, backend="reference").records
    for name, found, wanted in zip(records._fields, served, records, strict=True):
        np.testing.assert_array_equal(found, wanted, name)


def test_a_story_by_hand() -> None:
    """Request 0 is served 0.2..1.2; 1 and 2 come meanwhile and are served together for the longer of them."""
    job = make_job([0.2, 0.7, 1.0, 9.0], [1.0, 0.5, 2.0, 1.0], mode="dynamic_only", batch_size=4)
    served, clock = serve_by_law(job)
    assert served.start.tolist() == [200_000, 1_200_000, 1_200_000, 9_000_000]
    assert served.completion.tolist() == [1_200_000, 3_200_000, 3_200_000, 10_000_000]
    assert served.batch.tolist() == [0, 1, 1, 2]
    assert served.size.tolist() == [1, 2, 2, 1]
    assert clock.slept == 2  # until the first, and from 3.2 until 9


def test_those_who_come_as_a_batch_ends_are_not_yet_waiting_when_it_teaches() -> None:
    """At one instant completions come before arrivals, and Algorithm 1 acts only while requests wait.

    Request 0 has 100 tokens, as many as fit: what it teaches is a batch size of 1. Nobody waits when it ends at 1.0, so
    the four who come at that instant are still served together, as the sample's 25 tokens allow.
    """
    memory = memory_bound("margin", 100.0)
    control = make_control(1, 4, memory=memory, mean=25.0, variance=0.0)
    job = make_job(
        [0, 1, 1, 1, 1],
        output=[100, 25, 25, 25, 25],
        mode="dynamic_only",
        batch_size=4,
        law=formula(0.0, 0.01, largest_batch=4),
        control=control,
    )
    assert simulate(job, backend="reference").records.size.tolist() == [1, 4, 4, 4, 4]
    served, _ = serve_by_law(job)
    assert served.size.tolist() == [1, 4, 4, 4, 4]
    # Half a second earlier they do wait, and it does teach.
    early = job._replace(trace=job.trace._replace(arrival=np.array([0, 500_000, 500_000, 500_000, 500_000])))
    assert simulate(early, backend="reference").records.size.tolist() == serve_by_law(early)[0].size.tolist()
    assert serve_by_law(early)[0].size.tolist()[:2] == [1, 1]


def test_what_a_batch_takes_is_what_happened_whatever_the_law_says() -> None:
    job = make_job([0, 0.5, 1], [1, 1, 1], mode="dynamic_only", batch_size=4)
    clock = Clock()

    def serve(members: Sequence[int]) -> None:
        clock.ticks += 5_000_000 * len(members)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "time", clock)
        served = serve_live(*job, serve)
    assert served.start.tolist() == [0, 5_000_000, 5_000_000]
    assert served.completion.tolist() == [5_000_000, 15_000_000, 15_000_000]


def test_every_batch_is_handed_to_serve_once() -> None:
    job = make_job(np.zeros(7), np.ones(7), mode="multi_bin_only", batch_size=2, bins=2, bin_of=[0, 1, 0, 1, 0, 1, 0])
    seen: list[list[int]] = []
    clock = SimpleNamespace(perf_counter=lambda: Fraction(len(seen)), sleep=pytest.fail)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "time", clock)
        served = serve_live(*job, lambda members: seen.append(list(members)))
    # Bin 1 is left with request 5, bin 0 with nothing.
    assert seen == [[0, 2], [1, 3], [4, 6], [5]]
    assert (served.completion - served.start).tolist() == [TICKS_PER_S] * 7


def test_a_real_clock_moves_on_by_itself() -> None:
    job = make_job([0, 0.002, 0.004], [1e-6, 1e-6, 1e-6], mode="dynamic_only", batch_size=4)
    records = serve_live(*job, lambda members: None)
    assert (records.start >= job.trace.arrival).all()
    assert (records.completion >= records.start).all()
    assert sorted(records.batch.tolist()) == records.batch.tolist()


@pytest.mark.parametrize("option", [{"servers": 2}, {"servers": INFINITE}, {"max_wait_s": 1.0}, {"completion": "own"}])
def test_what_cannot_be_served_live_is_refused(option: dict[str, float | str]) -> None:
    job = make_job([0, 1], [1, 1], mode="multi_bin_only", batch_size=2)
    policy = make_policy("multi_bin_only", batch_size=2, **option)  # type: ignore[arg-type]
    assert serve_by_law(job)[0].size.tolist() == [2, 2]
    assert job.setup.policy.max_wait == NEVER
    with pytest.raises(ValueError, match="serving live needs one server"):
        serve_by_law(job._replace(setup=job.setup._replace(policy=policy)))
