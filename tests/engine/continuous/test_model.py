"""Laws, requests and replicas refuse what cannot be simulated, in one line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcube.engine import simulate_replica
from batchcube.engine.continuous import (
    DecodeTable,
    Job,
    PrefillTable,
    Setup,
    check,
    make_fleet,
    make_law,
    make_replica,
    make_reporting,
    make_requests,
)
from batchcube.engine.continuous.numba.leaps import lasting, steps_until
from batchcube.engine.continuous.steps import decode_ticks, kv_token_ticks

LAW = make_law(1e-3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"most_running": 0}, "most_running = 0: must be in 1.."),
        ({"token_budget": 7}, "token_budget = 7: must be at least most_running = 8"),
        ({"capacity_tokens": 15}, "capacity_tokens = 15: must be at least block_tokens = 16"),
        ({"block_tokens": 0}, "block_tokens = 0"),
        ({"prefill": "mixed"}, "prefill = 'mixed': must be one of chunked, separate"),
        ({"scheduling_policy": "lifo"}, "scheduling_policy = 'lifo': must be one of fcfs, priority"),
        ({"scheduling_policy": "priority", "prefill": "separate"}, "scheduling_policy: needs prefill"),
        ({"async_scheduling": True, "prefill": "separate"}, "async_scheduling: needs prefill"),
    ],
)
def test_an_impossible_replica_is_refused(change, says) -> None:
    settings = {"most_running": 8, "token_budget": 64, "capacity_tokens": 1000} | change
    with pytest.raises(ValueError, match=says):
        make_replica(LAW, **settings)


@pytest.mark.parametrize(
    ("arrival", "prompt", "output", "says"),
    [
        ([0.0, 1.0], [1], [1, 1], "prompt_tokens has 1 entries, arrival_s has 2"),
        ([0.0, 1.0], [1, 0], [1, 1], r"prompt_tokens\[1\] = 0: must be >= 1"),
        ([0.0, 1.0], [1, 1], [1, 1.5], r"output_tokens\[1\] = 1.5: must be whole"),
        ([1.0, 0.5], [1, 1], [1, 1], r"arrival_s\[1\] = 0.5: must not decrease"),
        ([0.0, np.nan], [1, 1], [1, 1], r"arrival_s\[1\] = nan: must be finite"),
        ([0.0, 1e7], [1, 1], [1, 1], r"arrival_s\[1\] = 10000000.0: is later than can be simulated"),
        ([], [], [], "at least one request"),
        ([0.0], [2**21], [1], "must be <= 2097152"),
    ],
)
def test_bad_requests_are_refused(arrival, prompt, output, says) -> None:
    with pytest.raises(ValueError, match=says):
        make_requests(arrival, prompt, output)


@pytest.mark.parametrize(
    ("priority", "says"),
    [
        ([1], "priority has 1 entries, arrival_s has 2"),
        ([0, 0.5], r"priority\[1\] = 0.5: must be whole"),
        ([2**32, 0], r"priority\[0\] = 4294967296: must be whole, within"),
    ],
)
def test_bad_priorities_are_refused(priority, says) -> None:
    with pytest.raises(ValueError, match=says):
        make_requests([0.0, 1.0], [1, 1], [1, 1], priority=priority)


def test_priorities_and_bins_are_refused_together() -> None:
    replica = make_replica(LAW, most_running=8, token_budget=64, capacity_tokens=1000, scheduling_policy="priority")
    setup = Setup(replica, make_fleet(bins=2, admission="by_bin"), make_reporting(horizon_s=1.0))
    with pytest.raises(ValueError, match='scheduling_policy: needs admission = "fifo"'):
        check(Job(make_requests([0.0], [1], [1]), np.zeros(1, np.int32), setup))


def test_priorities_are_all_the_same_unless_given() -> None:
    assert not make_requests([0.0, 1.0], [1, 1], [1, 1]).priority.any()


@pytest.mark.parametrize(
    ("coefficients", "says"),
    [((-1e-3,), "c0_s = -0.001 s"), ((0.0,), "must take some time"), ((1e-3, np.inf), "c1_s_per_request = inf")],
)
def test_bad_laws_are_refused(coefficients, says) -> None:
    with pytest.raises(ValueError, match=says):
        make_law(*coefficients)


def test_a_straight_law_given_as_tables_is_the_same_law() -> None:
    straight = make_law(1e-3, 2e-5, 4e-8, 3e-6, 1e-9, 2e-3)
    decode = DecodeTable([0, 7, 50], [1e-3, 1e-3 + 7 * 2e-5, 1e-3 + 50 * 2e-5], [4e-8] * 3)
    prefill = PrefillTable([0, 100, 2000], [0.0, 3e-4, 6e-3])
    tabled = make_law(c4_s_per_prefill_attention=1e-9, c5_s_per_prefill_step=2e-3, decode=decode, prefill=prefill)
    for decodes in (0, 1, 7, 30, 50, 51, 1000):
        assert decode_ticks(decodes, tabled) == decode_ticks(decodes, straight)
        assert kv_token_ticks(decodes, tabled) == kv_token_ticks(decodes, straight)
    for law in (straight, tabled):
        assert law.prefill_token.tolist() == [3 * 10**6] * len(law.prefill_token)
    assert tabled.prefill.tolist() == [0, 3 * 10**8]
    assert (tabled.prefill_attention, tabled.prefill_step) == (1000, 2 * 10**9)


def test_times_between_nodes_are_the_nearest_whole_ticks() -> None:
    law = make_law(
        decode=DecodeTable([0, 3, 6], [1e-12, 2e-12, 1e-3], [3e-12, 1e-12, 0.0]),
        prefill=PrefillTable([0, 3, 8], [0.0, 1e-9, 1e-9]),
    )
    assert law.decode.tolist() == [1, 1, 2, 2, 333333335, 666666667, 10**9]
    assert law.kv_token.tolist() == [3, 2, 2, 1, 1, 0, 0]
    # Beyond the last node the last segment goes on, and a slope ends at 0.
    assert decode_ticks(8, law) == 10**9 + 2 * 333333333
    assert kv_token_ticks(8, law) == 0
    assert (law.prefill.tolist(), law.prefill_token.tolist()) == ([0, 999], [333, 0])


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"c0_s": 1e-3, "decode": DecodeTable([0, 1], [1.0, 1.0], [0.0, 0.0])}, "c0_s = 0.001: goes without decode"),
        ({"decode": DecodeTable([0, 1], [1.0, 0.5], [0.0, 0.0])}, r"decode\.s\[1\] = 0\.5: must not be less than"),
        ({"decode": DecodeTable([0, 1], [1.0, np.nan], [0.0, 0.0])}, r"decode\.s\[1\] = nan: must be from 0 to"),
        ({"c0_s": 1.0, "prefill": PrefillTable([0, 2, 2], [0.0, 1.0, 1.0])}, r"prefill\.tokens\[2\] = 2: must be"),
    ],
)
def test_bad_tables_are_refused(tables, says) -> None:
    with pytest.raises(ValueError, match=says):
        make_law(**tables)


def test_what_could_overflow_is_refused_before_it_runs() -> None:
    replica = make_replica(make_law(1e6), most_running=1, token_budget=1, capacity_tokens=100)
    with pytest.raises(ValueError, match=r"a request of 2 tokens could take 2e\+06 s: must be at most 1.15e\+06 s"):
        simulate_replica(make_requests([0.0], [1], [1]), replica)
    with pytest.raises(ValueError, match="continuous batching runs with numba or reference"):
        simulate_replica(make_requests([0.0], [1], [1]), replica, "jax")


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_a_clock_that_runs_out_is_noticed(backend) -> None:
    replica = make_replica(make_law(5e5), most_running=1, token_budget=1, capacity_tokens=100)
    requests = make_requests(np.zeros(20), np.ones(20), np.ones(20))
    with pytest.raises(ValueError, match="take longer than 2305843 s"):
        simulate_replica(requests, replica, backend)


@given(
    first=st.integers(1, 10**13),
    rise=st.integers(0, 10**10),
    ticks=st.integers(1, 10**17),
    most=st.integers(1, 10**5),
)
def test_the_fewest_steps_that_last_so_long(first, rise, ticks, most) -> None:
    steps = steps_until(first, rise, ticks, most)
    assert 1 <= steps <= most
    assert lasting(first, rise, steps) >= ticks or steps == most
    assert steps == 1 or lasting(first, rise, steps - 1) < ticks
