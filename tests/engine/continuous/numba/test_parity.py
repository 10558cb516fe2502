"""The compiled replica takes many steps at once, and gives what the reference gives step by step, to the tick."""

from collections import Counter

import numpy as np
import pytest

from batchcube.engine import simulate_replica
from batchcube.engine.continuous import (
    ROUTINGS,
    Job,
    Records,
    Replica,
    Requests,
    Setup,
    make_fleet,
    make_law,
    make_replica,
    make_reporting,
    make_requests,
)
from batchcube.engine.continuous.run import Totals, totals_of
from batchcube.engine.moments import COUNT
from batchcube.engine.policies.target import fixed_target
from batchcube.engine.report import named
from batchcube.engine.statistics import CONTINUOUS, TOTALS, WINDOWS
from batchcube.engine.tally import Tally
from helpers.continuous import assert_alike, draw_job, draw_large, simulate_job


def agree_on(job: Job) -> tuple[Records, Tally]:
    """Assert that both backends give the same, to the tick and the last count; return it."""
    expected = simulate_job(job, "reference")
    assert_alike(simulate_job(job, "numba"), expected)
    return expected


def agree(requests: Requests, replica: Replica) -> Totals:
    """Assert that both backends give the same for one replica; return its totals."""
    reporting = make_reporting(horizon_s=20.0, windows=7, token_sla_s=6e-3)
    setup = Setup(replica, make_fleet(), reporting)
    _, tally = agree_on(Job(requests, np.zeros(len(requests.arrival), np.int32), setup))
    return totals_of(tally)


def test_thousands_of_small_cases_agree_exactly() -> None:
    met = Counter()
    for seed in range(3000):
        job = draw_job(np.random.default_rng(seed))
        requests, (replica, fleet, reporting) = job.requests, job.setup
        records, tally = agree_on(job)
        totals = named(CONTINUOUS, TOTALS, tally.totals)
        routed = fleet.replicas > 1
        met += Counter(
            preempted=totals["preemptions"] > 0,
            rejected=totals["rejected"] > 0,
            leaped=totals["decode_tokens"] > 100,
            chunked=bool(replica.chunked and (requests.prompt > replica.token_budget).any()),
            shortest_queue=routed and ROUTINGS[fleet.routing] == "shortest_queue",
            least_loaded=routed and ROUTINGS[fleet.routing] == "least_loaded",
            least_waiting=routed and ROUTINGS[fleet.routing] == "least_waiting",
            bins_to_replicas=routed and ROUTINGS[fleet.routing] == "by_bin",
            by_bin=fleet.by_bin and fleet.bins > 1 and totals["steps"] > totals["decode_tokens"],
            late_tokens=0 < totals["late_tokens"] < tally.moments[CONTINUOUS.time("tbt"), COUNT],
            warm=0 < reporting.warmup < len(requests.arrival),
            windows=int((tally.windows[:, CONTINUOUS.at("arrivals", WINDOWS)] > 0).sum()) > 2,
        )
        if replica.control.sla.enabled or replica.control.memory.enabled:
            largest = int(replica.control.largest)
            static = fixed_target(1, largest, replica.control.prior_tokens, replica.control.prior_squares)
            free, _ = simulate_job(job._replace(setup=job.setup._replace(replica=replica._replace(control=static))))
            met["controlled"] += not np.array_equal(free.scheduled, records.scheduled)
    # The cases are about something.
    assert len(met) == 13
    assert min(met.values()) > 100, met


def test_times_and_tokens_near_the_largest_agree() -> None:
    long = 0
    for seed in range(400):
        _, tally = agree_on(draw_large(np.random.default_rng([5, seed])))
        long += int(tally.totals[CONTINUOUS.at("decode_tokens")] > 1000)
    assert long > 100, long


@pytest.mark.parametrize("prefill", ["chunked", "separate"])
def test_long_decodes_between_rare_arrivals_agree(prefill: str) -> None:
    rng = np.random.default_rng(7)
    requests = make_requests(np.cumsum(rng.exponential(0.5, 60)), rng.integers(1, 300, 60), rng.integers(50, 600, 60))
    replica = make_replica(
        make_law(5e-3, 1e-4, 4e-8, 3e-5, 1e-9),
        most_running=16,
        token_budget=1024,
        capacity_tokens=9000,
        prefill=prefill,
    )
    assert agree(requests, replica).decode_tokens > 10_000


def test_a_crowded_cache_agrees() -> None:
    rng = np.random.default_rng(8)
    requests = make_requests(np.zeros(80), rng.integers(1, 40, 80), rng.integers(20, 120, 80))
    replica = make_replica(make_law(1e-3, 1e-5), most_running=64, token_budget=128, capacity_tokens=600, block_tokens=4)
    assert agree(requests, replica).preemptions > 50


def test_an_arrival_at_the_very_end_of_a_step_is_let_in_then() -> None:
    # Steps of 1 ms: the second request comes with the end of the fifth step, the third a picosecond later.
    for late, served_in in ((0.0, 5), (1e-12, 6)):
        requests = make_requests([0.0, 0.005 + late], [1, 1], [50, 3])
        replica = make_replica(make_law(1e-3), most_running=4, token_budget=8, capacity_tokens=1000)
        agree(requests, replica)
        records, _ = simulate_replica(requests, replica)
        assert records.scheduled[1] == served_in * 10**9
