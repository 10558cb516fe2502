"""Several replicas, and bins in admission, by worked example; what holds whatever the way of requests."""

import numpy as np
import pytest

from batchcube.engine.continuous import (
    ROUTINGS,
    Job,
    Setup,
    make_fleet,
    make_law,
    make_replica,
    make_reporting,
    make_requests,
)
from helpers.continuous import draw_job, simulate_job

MS = 10**9
"""Ticks of a millisecond."""
BACKENDS = ("reference", "numba")
REPORTING = make_reporting(horizon_s=1.0)


def job(requests, bin_of, fleet, **more) -> Job:
    settings = {"most_running": 1, "token_budget": 64, "capacity_tokens": 1000, "block_tokens": 1} | more
    replica = make_replica(make_law(1e-3), **settings)
    return Job(requests, np.array(bin_of, np.int32), Setup(replica, fleet, REPORTING))


@pytest.mark.parametrize("backend", BACKENDS)
def test_in_turn_whatever_waits_where(backend) -> None:
    requests = make_requests([0.0] * 5, [1] * 5, [9, 1, 1, 1, 1])
    records, _ = simulate_job(job(requests, [0] * 5, make_fleet(replicas=2)), backend)
    assert records.replica.tolist() == [0, 1, 0, 1, 0]
    assert records.last_token.tolist() == [9 * MS, 1 * MS, 10 * MS, 2 * MS, 11 * MS]


@pytest.mark.parametrize("backend", BACKENDS)
def test_to_the_shortest_queue_and_who_is_just_leaving_still_counts(backend) -> None:
    # Replica 0 is busy to 9 ms, replica 1 to 3 ms. At 2.5 ms one is on each: the tie goes to replica 0. At 3 ms
    # replica 1 is empty, as completions come before arrivals.
    requests = make_requests([0.0, 0.0, 0.0025, 0.003, 0.003], [1] * 5, [9, 3, 1, 1, 1])
    fleet = make_fleet(replicas=2, routing="shortest_queue")
    records, _ = simulate_job(job(requests, [0] * 5, fleet), backend)
    assert records.replica.tolist() == [0, 1, 0, 1, 1]
    assert records.last_token.tolist() == [9 * MS, 3 * MS, 10 * MS, 4 * MS, 5 * MS]


@pytest.mark.parametrize("backend", BACKENDS)
def test_to_the_least_loaded_by_what_was_counted_last(backend) -> None:
    # The first four go to replica 0, 1, 0, 1, as nothing is counted before 100 ms. At 99 ms replica 1 is empty, but the
    # front takes both for equal: turn 4 and the first come to replica 0. Then one is counted at 0, who waits at 0, too.
    requests = make_requests([0.0] * 4 + [0.099, 0.1, 0.2, 0.3], [1] * 8, [80, 1, 60, 1, 1, 1, 1, 1])
    expected = {
        "shortest_queue": [0, 1, 0, 1, 1, 1, 0, 0],
        # Both are empty at 0.2 and 0.3 s: replica 6 mod 2, then 7 mod 2.
        "least_loaded": [0, 1, 0, 1, 0, 1, 0, 1],
        "least_waiting": [0, 1, 0, 1, 0, 1, 0, 0],
    }
    for routing, to in expected.items():
        records, _ = simulate_job(job(requests, [0] * 8, make_fleet(replicas=2, routing=routing)), backend)
        assert records.replica.tolist() == to, routing


@pytest.mark.parametrize("backend", BACKENDS)
def test_who_waits_for_a_full_cache_counts_more(backend) -> None:
    # At 0.1 s three are on each replica. On replica 0 two of them wait for the cache: 900 + 100 of 1200 tokens are in
    # use. 1 + 2 + 2 * 6 * (1000/1200 - 0.5) = 7 against 3; 1 + 2 * 4 = 9 against 3.
    requests = make_requests([0.0] * 6 + [0.1], [900, 1, 900, 1, 1, 1, 1], [200] * 6 + [1])
    for routing, to in {"shortest_queue": 0, "least_loaded": 1, "least_waiting": 1}.items():
        fleet = make_fleet(replicas=2, routing=routing)
        for capacity, sent in ((1200, to), (10_000, 0)):
            limits = {"most_running": 4, "token_budget": 2000, "capacity_tokens": capacity}
            records, _ = simulate_job(job(requests, [0] * 7, fleet, **limits), backend)
            assert records.replica[-1] == sent, (routing, capacity)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bins_have_replicas_of_their_own(backend) -> None:
    requests = make_requests([0.0] * 6, [1] * 6, [1, 2, 3, 4, 1, 2])
    fleet = make_fleet(replicas=2, routing="by_bin", bins=4)
    records, _ = simulate_job(job(requests, [0, 1, 2, 3, 0, 1], fleet), backend)
    assert records.replica.tolist() == [0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_request_that_is_turned_away_takes_no_turn(backend) -> None:
    requests = make_requests([0.0] * 3, [1, 5000, 1], [1, 1, 1])
    records, _ = simulate_job(job(requests, [0] * 3, make_fleet(replicas=2)), backend)
    assert records.replica.tolist() == [0, -1, 1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bin_is_served_until_it_is_empty_or_its_turn_is_over(backend) -> None:
    # Two at a time, all alike: request 0 of bin 0 opens, then 2 and no more from its bin (a turn is two), bin 1 after
    # it, and bin 0 again for the last.
    requests = make_requests([0.0] * 5, [1] * 5, [2] * 5)
    fleet = make_fleet(bins=2, admission="by_bin")
    records, _ = simulate_job(job(requests, [0, 1, 0, 0, 1], fleet, most_running=2), backend)
    order = np.argsort(records.scheduled, kind="stable").tolist()
    assert order == [0, 2, 1, 4, 3]
    fifo, _ = simulate_job(job(requests, [0, 1, 0, 0, 1], make_fleet(bins=2), most_running=2), backend)
    assert np.argsort(fifo.scheduled, kind="stable").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_longest_queue_can_be_served_next(backend) -> None:
    requests = make_requests([0.0] * 5, [1] * 5, [1] * 5)
    fleet = make_fleet(bins=2, admission="by_bin", bin_choice="longest_queue")
    records, _ = simulate_job(job(requests, [0, 1, 1, 1, 0], fleet), backend)
    # Turns of one: 3 against 2, a tie goes to the lower bin, 2 against 1, a tie again.
    assert np.argsort(records.scheduled, kind="stable").tolist() == [1, 0, 2, 4, 3]


def test_what_holds_for_every_fleet() -> None:
    for seed in range(300):
        one = draw_job(np.random.default_rng(seed))
        records, tally = simulate_job(one)
        fleet, served = one.setup.fleet, records.replica >= 0
        # No replica ever runs more than the cap: between first admission and last token, less those sent back, which
        # are few enough here to be left out.
        calm = served & (records.preemptions == 0)
        for r in range(fleet.replicas):
            mine = calm & (records.replica == r)
            begins, ends = np.sort(records.scheduled[mine]), np.sort(records.last_token[mine])
            running = np.arange(1, len(begins) + 1) - np.searchsorted(ends, begins, side="right")
            assert running.max(initial=0) <= int(one.setup.replica.control.largest)
        if ROUTINGS[fleet.routing] == "by_bin":
            np.testing.assert_array_equal(records.replica[served], one.bin_of[served] * fleet.replicas // fleet.bins)
        # A fleet of one replica gives the same by any way.
        if fleet.replicas == 1:
            for routing in range(len(ROUTINGS)):
                again, counted = simulate_job(
                    one._replace(setup=one.setup._replace(fleet=fleet._replace(routing=routing)))
                )
                for a, b in zip(records, again, strict=True):
                    np.testing.assert_array_equal(a, b)
                for a, b in zip(tally, counted, strict=True):
                    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"routing": "random"}, "routing = 'random': must be one of round_robin, shortest_queue, by_bin, least_"),
        ({"admission": "lifo"}, "admission = 'lifo': must be one of fifo, by_bin"),
        ({"bin_choice": "any"}, "bin_choice = 'any'"),
        ({"replicas": 0}, "replicas = 0: must be in 1.."),
        ({"bins": 0}, "bins = 0: must be >= 1"),
        ({"routing": "by_bin", "replicas": 3, "bins": 2}, "bins = 2: must be at least replicas = 3"),
    ],
)
def test_an_impossible_fleet_is_refused(change, says) -> None:
    with pytest.raises(ValueError, match=says):
        make_fleet(**change)


def test_bins_that_do_not_fit_are_refused() -> None:
    requests = make_requests([0.0], [1], [1])
    with pytest.raises(ValueError, match=r"bin_of has 2 entries, arrival has 1"):
        simulate_job(job(requests, [0, 0], make_fleet()))
    with pytest.raises(ValueError, match=r"bin_of: must be in 0\.\.0"):
        simulate_job(job(requests, [1], make_fleet()))
