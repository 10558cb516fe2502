"""Requests that come when others end: by worked example, by law, and against another program."""

import numpy as np
import pytest

from batchcube.engine import simulate
from batchcube.engine.continuous import (
    Job,
    Requests,
    Setup,
    follow,
    make_classes,
    make_fleet,
    make_law,
    make_replica,
    make_reporting,
    make_requests,
)
from batchcube.engine.continuous.model import ANYBODY, NOBODY, SERVED
from batchcube.errors import InputError
from helpers.continuous import assert_alike, draw_following, draw_job, simulate_job

MS = 10**9
"""Ticks of a millisecond."""
BACKENDS = ("reference", "numba")


def job(requests: Requests, *, replicas: int = 1, routing: str = "round_robin", warmup: int = 0, **more) -> Job:
    settings = {"most_running": 1, "token_budget": 64, "capacity_tokens": 1000, "block_tokens": 1} | more
    fleet = make_fleet(replicas=replicas, routing=routing)
    reporting = make_reporting(horizon_s=1.0, warmup_requests=warmup)
    setup = Setup(make_replica(make_law(1e-3), **settings), fleet, reporting)
    return Job(requests, np.zeros(len(requests.arrival), np.int32), setup)


def closed(users: int, output: list[int], think_s: list[float] | float = 0.0) -> Requests:
    count = len(output)
    whom = np.where(np.arange(count) < users, NOBODY, ANYBODY)
    return follow(make_requests([0.0] * count, [1] * count, output), whom, np.full(count, think_s))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_user_sends_the_next_request_when_an_answer_ends(backend: str) -> None:
    # Two at a time, no thought: request 1 is done at 2 ms, so 2 comes, and 3 as 0 is done at 5 ms; 2 goes on to 8.
    records, _ = simulate_job(job(closed(2, [5, 2, 6, 1, 1]), most_running=2), backend)
    assert records.arrival.tolist() == [0, 0, 2 * MS, 5 * MS, 6 * MS]
    assert records.last_token.tolist() == [5 * MS, 2 * MS, 8 * MS, 6 * MS, 7 * MS]


@pytest.mark.parametrize("backend", BACKENDS)
def test_users_think_as_long_as_the_request_that_comes_says(backend: str) -> None:
    # Request 2 is thought about for 5 ms from 1 ms on, and request 3 for 1 ms from 2 ms on: it comes first.
    requests = closed(2, [1, 2, 1, 4], [0.0, 0.0, 0.005, 0.001])
    records, _ = simulate_job(job(requests, most_running=2), backend)
    assert records.arrival.tolist() == [0, 0, 6 * MS, 3 * MS]
    assert records.last_token.tolist() == [1 * MS, 2 * MS, 7 * MS, 7 * MS]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_next_turn_of_a_session_comes_after_the_last_answer(backend: str) -> None:
    # Two sessions, of turns 0, 1, 2 and 3, 4, on a replica for one at a time: 3 waits for 0, 1 for 3.
    requests = make_requests([0.0] * 5, [1] * 5, [2, 2, 1, 3, 1])
    requests = follow(requests, [NOBODY, 0, 1, NOBODY, 3], [0, 0.001, 0.0, 0, 0.01])
    records, _ = simulate_job(job(requests), backend)
    assert records.arrival.tolist() == [0, 3 * MS, 7 * MS, 0, 15 * MS]
    assert records.last_token.tolist() == [2 * MS, 7 * MS, 8 * MS, 5 * MS, 16 * MS]


@pytest.mark.parametrize("backend", BACKENDS)
def test_who_is_turned_away_ends_on_arrival(backend: str) -> None:
    requests = make_requests([0.0] * 4, [1, 5000, 5000, 1], [2, 1, 1, 1])
    requests = follow(requests, [NOBODY, 0, 1, 2], [0, 0.001, 0.001, 0.001])
    records, _ = simulate_job(job(requests, replicas=2), backend)
    assert records.arrival.tolist() == [0, 3 * MS, 4 * MS, 5 * MS]
    # Turns are of those that are let in.
    assert records.replica.tolist() == [0, -1, -1, 1]
    assert records.last_token.tolist() == [2 * MS, -1, -1, 6 * MS]


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_equal_priorities_who_came_first_is_first_whatever_the_numbers(backend: str) -> None:
    # Request 1 comes as 0 ends, at 5 ms; request 2 waits since 1 ms.
    requests = follow(make_requests([0.0, 0.0, 0.001], [1] * 3, [5, 1, 1]), [NOBODY, 0, NOBODY], [0.0] * 3)
    records, _ = simulate_job(job(requests, scheduling_policy="priority"), backend)
    assert records.scheduled.tolist() == [0, 6 * MS, 5 * MS]


@pytest.mark.parametrize("backend", BACKENDS)
def test_whose_end_is_sooner_is_heard_sooner_wherever_it_is(backend: str) -> None:
    # Replica 0 takes a step of 5 ms at 0; replica 1 takes two of 1 ms from 1 ms on, and both their ends come before.
    requests = make_requests([0.0, 0.001, 0.001, 0.001], [5, 1, 1, 1], [1, 1, 1, 1])
    requests = follow(requests, [NOBODY, NOBODY, ANYBODY, ANYBODY], [0.0] * 4)
    one = job(requests, replicas=2, routing="shortest_queue")
    law = make_law(1e-12, 1e-12, 0.0, 1e-3)
    one = one._replace(setup=one.setup._replace(replica=one.setup.replica._replace(law=law)))
    records, _ = simulate_job(one, backend)
    assert records.arrival.tolist() == [0, 1 * MS, 2 * MS + 1, 3 * MS + 2]
    assert records.replica.tolist() == [0, 1, 1, 1]


def test_compiled_and_reference_agree() -> None:
    waited = routed = 0
    for seed in range(400):
        one = draw_following(np.random.default_rng(seed))
        assert_alike(*(simulate_job(one, backend) for backend in BACKENDS))
        waits = one.requests.follows != NOBODY
        waited += int(waits.sum())
        routed += bool(waits.any() and one.setup.fleet.replicas > 1)
    assert waited > 2000
    assert routed > 60


@pytest.mark.parametrize("backend", BACKENDS)
def test_who_follows_nobody_is_served_as_ever(backend: str) -> None:
    """The way through the order of events gives what the way of known arrivals gives, to the last count."""
    for seed in range(150):
        known = draw_job(np.random.default_rng([1, seed]))
        count = len(known.requests.arrival)
        other = known._replace(requests=follow(known.requests, np.full(count, NOBODY), np.zeros(count)))
        (records, tally), (found, counted) = simulate_job(known, backend), simulate_job(other, backend)
        for name, a, b in zip(records._fields, records, found, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{seed}: {name}")
        for a, b in zip(tally, counted, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=str(seed))


def tick_by_tick(requests: Requests, cap: int) -> tuple[list[int], list[int]]:
    """Serve prompts of one token in steps of 1 ms, walking from one ms to the next; return arrivals and ends in ms."""
    count = len(requests.arrival)
    delay, follows = (requests.delay // MS).tolist(), requests.follows.tolist()
    arrival = [requests.arrival[i] // MS if follows[i] == NOBODY else None for i in range(count)]
    ends: list[int | None] = [None] * count
    left, waiting, running, arrived, now = requests.output.tolist(), [], [], set(), 0
    while None in ends:
        for i in sorted(i for i in running if not left[i]):
            running.remove(i)
            ends[i] = now
            mine = [j for j in range(count) if follows[j] == i]
            if not mine:
                mine = [j for j in range(count) if follows[j] == ANYBODY and arrival[j] is None][:1]
            for j in mine:
                arrival[j] = now + delay[j]
        for i in range(count):
            if i not in arrived and arrival[i] == now:
                waiting.append(i)
                arrived.add(i)
        # An idle replica begins a step as somebody comes, which is on a whole ms as well.
        while waiting and len(running) < cap:
            running.append(waiting.pop(0))
        for i in running:
            left[i] -= 1
        now += 1
    return arrival, ends


def test_another_program_finds_the_same() -> None:
    for seed in range(60):
        rng = np.random.default_rng([2, seed])
        count, cap = int(rng.integers(2, 30)), int(rng.integers(1, 5))
        whom = np.array([rng.choice([NOBODY, ANYBODY, max(i - 1, 0)]) for i in range(count)])
        whom[0] = NOBODY
        arrival = np.sort(rng.integers(0, 20, count)) * 1e-3
        requests = make_requests(arrival, np.ones(count), rng.integers(1, 9, count))
        requests = follow(requests, whom, rng.integers(0, 6, count) * 1e-3)
        records, _ = simulate_job(job(requests, most_running=cap), "numba")
        came, ended = tick_by_tick(requests, cap)
        assert (records.arrival // MS).tolist() == came, seed
        assert (records.last_token // MS).tolist() == ended, seed


def test_a_closed_loop_holds_as_many_as_it_has_users() -> None:
    for seed in range(60):
        rng = np.random.default_rng([3, seed])
        count, users, replicas = 300, int(rng.integers(1, 40)), int(rng.integers(1, 4))
        think = rng.exponential(0.02, count) * rng.integers(2)
        requests = closed(users, rng.integers(1, 30, count).tolist(), think)
        routing = str(rng.choice(["round_robin", "shortest_queue"]))
        one = job(requests, replicas=replicas, routing=routing, most_running=int(rng.integers(1, 9)))
        records, _ = simulate_job(one)
        assert (records.status == SERVED).all()
        # The n-th end is followed by the n-th request after the first of every user, and by nobody else.
        ends = np.sort(records.last_token)
        np.testing.assert_array_equal(records.arrival[users:], ends[: count - users] + requests.delay[users:])
        # Never more than there are users, at no instant.
        arrivals = np.sort(records.arrival)
        inside = np.searchsorted(arrivals, arrivals, side="right") - np.searchsorted(ends, arrivals, side="right")
        assert inside.max() <= users
        if not think.any():
            # The last comes together with ends that nobody follows.
            assert (inside[arrivals < arrivals[-1]] == users).all()


@pytest.mark.parametrize("think_s", [0.0, 0.05])
def test_littles_law(think_s: float) -> None:
    """Users are always waiting for an answer or thinking: N = X (R + Z), but for the beginning and the end."""
    rng = np.random.default_rng(4)
    count, users = 4000, 12
    requests = closed(users, rng.integers(1, 40, count).tolist(), rng.exponential(think_s, count))
    report = simulate(job(requests, most_running=5)).report
    records, _ = simulate_job(job(requests, most_running=5))
    # Exactly: over all users, from 0 to the last end, less what follows a user's last answer.
    ends = np.sort(records.last_token)
    latencies, thoughts = int((records.last_token - records.arrival).sum()), int(requests.delay[users:].sum())
    assert latencies + thoughts == int(ends[-users:].sum())
    held = report["throughput_requests_per_s"] * (report["latency_mean_s"] + requests.delay.mean() * 1e-12)
    assert held == pytest.approx(users, rel=0.01)
    assert report["backlog_growth_fraction"] == 0.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_session_that_thinks_is_not_over(backend: str) -> None:
    """Twenty sessions begin 10 ms apart, of two turns of 1 ms: all end after 5 ms of thought, none after a second."""
    opening = np.arange(40) % 2 == 0
    requests = make_requests(np.arange(40) // 2 * 0.01, [1] * 40, [1] * 40)
    for think_s, growth in ((0.005, 0.0), (1.0, 1.0)):
        follows = np.where(opening, NOBODY, np.arange(40) - 1)
        report = simulate(job(follow(requests, follows, np.full(40, think_s))), backend).report
        assert report["backlog_growth_fraction"] == growth
        assert report["queue_growth_fraction"] == 0.0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("warmup", [0, 5, 10])
def test_rates_of_a_closed_loop_are_over_the_time_when_all_users_are_there(backend: str, warmup: int) -> None:
    """Five users think 10 ms and are answered within 1, four times: what the last are sent for is no part of it."""
    count, users, again_s = 20, 5, 0.011
    requests = make_requests([0.01] * count, [1] * count, [1] * count)
    requests = follow(requests, np.where(np.arange(count) < users, NOBODY, ANYBODY), np.full(count, 0.01))
    one = job(requests, most_running=users, warmup=warmup)
    limits = make_reporting(horizon_s=1.0, warmup_requests=warmup, request_sla_s=1.0)
    classes = make_classes(np.zeros(count, np.int32), request_sla_s=[1.0], ttft_sla_s=[None], tpot_sla_s=[None])
    one = one._replace(setup=one.setup._replace(reporting=limits), classes=classes)
    report = simulate(one, backend).report
    assert report["measured"] == count - warmup
    # From when users turn to the first measured request until all that are left to send have a user: whole rounds.
    assert report["makespan_s"] == pytest.approx((3 - warmup // users) * again_s)
    for name in ("throughput_requests_per_s", "throughput_tokens_per_s", "goodput_requests_per_s"):
        assert report[name] == pytest.approx(users / again_s), name
    assert report["class_goodput_requests_per_s"][0] == pytest.approx(users / again_s)
    assert report["utilisation"] == pytest.approx(1 / 11)
    assert report["batch_size_mean"] == users
    assert report["batch_size_histogram"].sum() == 3 - warmup // users


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("warmup", [0, 1, 13, 40])
def test_where_nobody_is_late_in_a_closed_loop_goodput_is_throughput(backend: str, warmup: int) -> None:
    """Those of the warm-up that are under way as the makespan begins are in both, in all classes together too."""
    count, users = 60, 8
    rng = np.random.default_rng(11)
    requests = closed(users, rng.integers(1, 30, count).tolist(), 0.01)
    one = job(requests, most_running=4, warmup=warmup)
    limits = make_reporting(horizon_s=1.0, warmup_requests=warmup, request_sla_s=100.0)
    none: list[float | None] = [None, None]
    classes = make_classes(rng.integers(0, 2, count), request_sla_s=none, ttft_sla_s=none, tpot_sla_s=none)
    report = simulate(one._replace(setup=one.setup._replace(reporting=limits), classes=classes), backend).report
    assert report["goodput_fraction"] == 1.0
    assert report["goodput_requests_per_s"] == report["throughput_requests_per_s"]
    assert report["class_goodput_requests_per_s"].sum() == pytest.approx(report["throughput_requests_per_s"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_closed_loop_that_warms_up_until_its_end_has_no_rates(backend: str) -> None:
    report = simulate(job(closed(2, [1, 2, 1, 4], 0.01), warmup=3), backend).report
    assert report["measured"] == 1
    assert report["makespan_s"] == 0.0
    assert np.isnan(report["throughput_requests_per_s"])


def sessions(rate_per_s: float, count: int = 6000, turns: int = 4) -> Requests:
    rng = np.random.default_rng(6)
    number = np.arange(count)
    opening = number % turns == 0
    arrival = np.repeat(np.cumsum(rng.exponential(1 / rate_per_s, count // turns)), turns)
    requests = make_requests(arrival, np.ones(count), rng.integers(1, 40, count))
    return follow(requests, np.where(opening, NOBODY, number - 1), rng.exponential(0.01, count))


def test_sessions_are_overloaded_where_more_begin_than_end() -> None:
    # 20.5 ms a request on average, four turns: at most 48.8 requests/s or 12.2 sessions/s, one at a time.
    for rate, grows in ((9.0, False), (24.0, True)):
        report = simulate(job(sessions(rate))).report
        assert (report["backlog_growth_fraction"] > 0.2) == grows


def test_the_makespan_begins_with_the_first_arrival_past_the_warm_up() -> None:
    requests = sessions(9.0, 120)
    for warmup in (0, 1, 57, 119, 120):
        one = job(requests, warmup=warmup)
        for backend in BACKENDS:
            records, _ = simulate_job(one, backend)
            report = simulate(one, backend).report
            assert report["measured"] == 120 - warmup
            if warmup < 120:
                first = records.arrival[warmup:].min()
                assert report["makespan_s"] == pytest.approx((records.last_token.max() - first) * 1e-12)


@pytest.mark.parametrize(
    ("follows", "delay_s", "line"),
    [
        ([NOBODY, 1], [0, 0], r"follows\[1\] = 1: must be an earlier request, NOBODY or ANYBODY"),
        ([NOBODY, -3], [0, 0], r"follows\[1\] = -3: must be an earlier request, NOBODY or ANYBODY"),
        ([ANYBODY, NOBODY], [0, 0], r"follows\[0\] = -2: must not wait for anybody: nobody would begin"),
        ([NOBODY, 0], [0, -1.0], r"delay_s\[1\] = -1.0: must be finite and >= 0"),
        ([NOBODY, 0], [0, np.inf], r"delay_s\[1\] = inf: must be finite and >= 0"),
        ([NOBODY, 0], [0, 2e6], r"delay_s\[1\] = 2000000.0: is longer than can be simulated"),
        ([NOBODY], [0, 0], "follows has 1 entries, arrival_s has 2: must be equal"),
        ([NOBODY, 0], [0], "delay_s has 1 entries, arrival_s has 2: must be equal"),
    ],
)
def test_impossible_ways_are_refused(follows: list[int], delay_s: list[float], line: str) -> None:
    with pytest.raises(InputError, match=line):
        follow(make_requests([0.0, 0.0], [1, 1], [1, 1]), follows, delay_s)
