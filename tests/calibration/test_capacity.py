"""The KV cache behind a log, found in how long its requests waited."""

import numpy as np
import pytest

from batchcube.calibration.capacity import find_capacity, fullest
from batchcube.calibration.logs import Log
from batchcube.calibration.prediction import Server, replay, scattered
from batchcube.calibration.scatter import Scatter, draw_time
from batchcube.engine.continuous import make_fleet, make_law, make_replica
from batchcube.engine.continuous.ticks import TICKS_PER_S

TRUTH = np.array([8e-3, 1e-4, 5e-8, 4e-5, 2e-9])
COUNT = 60


def server(capacity_tokens: int, replicas: int = 1) -> Server:
    replica = make_replica(make_law(1.0), most_running=8, token_budget=512, capacity_tokens=capacity_tokens)
    return Server(replica, make_fleet(replicas=replicas, routing="least_loaded"))


def made(there: Server) -> Log:
    """Return the log of a server."""
    rng = np.random.default_rng(5)
    queued = np.cumsum(rng.exponential(0.1 / there.fleet.replicas, COUNT))
    queued -= queued[0]
    nothing = np.zeros(COUNT)
    log = Log(queued, nothing, nothing, nothing, rng.integers(20, 900, COUNT), rng.integers(20, 150, COUNT), "")
    records = replay(log, there, make_law(*TRUTH))
    scheduled, first, last = (
        ticks / TICKS_PER_S for ticks in (records.scheduled, records.first_token, records.last_token)
    )
    return log._replace(scheduled_s=scheduled, first_token_s=first, last_token_s=last)


@pytest.mark.parametrize(("capacity", "replicas"), [(1600, 1), (2000, 1), (3200, 1), (2000, 2)])
def test_the_cache_behind_a_log_is_found(capacity: int, replicas: int) -> None:
    log, kept = made(server(capacity, replicas)), np.ones(COUNT, bool)
    known_as = server(10**6, replicas)
    # It does not hang on the cache that the search begins with, and little on the law.
    found = find_capacity(log, known_as, make_law(*TRUTH), kept)
    assert found is not None
    assert found.tokens == pytest.approx(capacity, rel=0.01)
    assert found.low <= capacity <= found.high
    # With several replicas another law sends requests to other ones.
    for off in (0.95, 1.05) if replicas == 1 else ():
        found = find_capacity(log, known_as, make_law(*(off * TRUTH)), kept)
        assert found is not None
        assert found.tokens == pytest.approx(capacity, rel=0.06)


@pytest.mark.parametrize("capacity", [1600, 2000, 3200])
def test_the_cache_is_among_those_that_are_not_ruled_out(capacity: int) -> None:
    log, kept, law = made(server(capacity)), np.ones(COUNT, bool), make_law(*TRUTH)
    ends_s = 2.0 * float(log.last_token_s.max())
    for seed in range(6):
        time = draw_time(Scatter(0.05, 0.02, 1e-2, (1.0, 1.0), 0.0), ends_s, np.random.default_rng(seed))
        times = scattered(log, server(capacity), law, time)
        late = log._replace(first_token_s=log.queued_s + times.ttft_s, last_token_s=log.queued_s + times.e2e_s)
        found = find_capacity(late, server(10**6), law, kept)
        assert found is not None
        assert found.low <= capacity <= found.high < 1.05 * capacity


def test_a_log_in_which_nobody_waits_for_the_cache_does_not_tell() -> None:
    log = made(server(10**6))
    assert find_capacity(log, server(3000), make_law(*TRUTH), np.ones(COUNT, bool)) is None


def test_requests_under_way_hold_their_prompts_and_what_they_answered() -> None:
    # The second is queued, not admitted, when the first has half of its answer; both end at 3 s.
    log = Log(
        np.array([0.0, 0.0]), np.array([0.0, 2.0]), np.array([1.0, 3.0]), np.array([3.0, 3.0]),
        np.array([100, 50]), np.array([11, 1]), "",
    )  # fmt: skip
    assert fullest(log) == pytest.approx(100 + 11 + 50)
    assert fullest(log._replace(scheduled_s=np.full(2, np.nan))) == pytest.approx(100 + 11)
