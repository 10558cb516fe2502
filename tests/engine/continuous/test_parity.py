"""The compiled replica takes many steps at once, and gives what the reference gives step by step, to the tick."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from batchcube.engine.continuous import (
    REJECTED,
    Replica,
    Requests,
    make_law,
    make_replica,
    make_requests,
    simulate_steps,
)
from batchcube.engine.policies.target import fixed_target

_spec = importlib.util.spec_from_file_location("continuous_cases", Path(__file__).parent / "cases.py")
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)


def agree(requests: Requests, replica: Replica) -> tuple:
    """Assert that both backends give the same; return it."""
    reference = simulate_steps(requests, replica, "reference")
    compiled = simulate_steps(requests, replica, "numba")
    for name, a, b in zip(reference.records._fields, reference.records, compiled.records, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    assert reference.totals == compiled.totals
    return reference


def test_thousands_of_small_cases_agree_exactly() -> None:
    preempted = rejected = leaped = chunked = controlled = 0
    for seed in range(3000):
        requests, replica = cases.draw_case(np.random.default_rng(seed))
        records, totals = agree(requests, replica)
        preempted += totals.preemptions > 0
        rejected += bool((records.status == REJECTED).any())
        leaped += totals.decode_tokens > 100
        chunked += bool(replica.chunked and (requests.prompt > replica.token_budget).any())
        if replica.control.sla.enabled or replica.control.memory.enabled:
            largest = int(replica.control.largest)
            static = fixed_target(1, largest, replica.control.prior_tokens, replica.control.prior_squares)
            free = simulate_steps(requests, replica._replace(control=static))
            controlled += not np.array_equal(free.records.scheduled, records.scheduled)
    # The cases are about something.
    assert min(preempted, rejected, leaped, chunked, controlled) > 100


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
    assert agree(requests, replica).totals.decode_tokens > 10_000


def test_a_crowded_cache_agrees() -> None:
    rng = np.random.default_rng(8)
    requests = make_requests(np.zeros(80), rng.integers(1, 40, 80), rng.integers(20, 120, 80))
    replica = make_replica(make_law(1e-3, 1e-5), most_running=64, token_budget=128, capacity_tokens=600, block_tokens=4)
    assert agree(requests, replica).totals.preemptions > 50


def test_an_arrival_at_the_very_end_of_a_step_is_let_in_then() -> None:
    # Steps of 1 ms: the second request comes with the end of the fifth step, the third a picosecond later.
    for late, served_in in ((0.0, 5), (1e-12, 6)):
        requests = make_requests([0.0, 0.005 + late], [1, 1], [50, 3])
        replica = make_replica(make_law(1e-3), most_running=4, token_budget=8, capacity_tokens=1000)
        records, _ = agree(requests, replica)
        assert records.scheduled[1] == served_in * 10**9
