"""The search for the rate at which an answer turns, on answers that are known."""

import math
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
import xarray as xr
from hypothesis import given

from batchcube.results import labelled
from batchcube.sweeps.run.bisection import PROBES, Found, Search, bisect, bracket_and_bisect, is_monotone


def follow(search: Search, holds: Callable[[float], bool | None]) -> tuple[Found, dict[float, bool]]:
    """Answer a search until it ends; return what it found and what it was told."""
    visited: dict[float, bool] = {}
    rate = next(search)
    while True:
        answer = holds(rate)
        if answer is not None:
            visited[rate] = answer
        try:
            rate = search.send(answer)
        except StopIteration as stop:
            return stop.value, visited


@given(st.floats(1e-3, 1e3), st.floats(1.01, 1e4), st.floats(0.0, 1.0), st.sampled_from([0.1, 0.005, 1e-6]))
def test_bisection_narrows_the_crossing_down(low: float, ratio: float, place: float, tolerance: float) -> None:
    high = low * ratio
    crossing = low * ratio ** (0.001 + 0.998 * place)
    found, visited = follow(bisect(low, high, tolerance), lambda rate: rate <= crossing)
    assert found.unbracketed == 0
    assert found.held <= crossing <= found.failed <= found.held * (1.0 + tolerance) * (1.0 + 1e-12)
    assert abs(found.rate - crossing) <= found.relative_error * found.rate * (1.0 + 1e-9)
    assert (visited[found.held], visited[found.failed]) == (True, False)
    assert is_monotone(visited)
    assert all(low <= rate <= high for rate in visited)


@given(st.floats(-19.9, 19.9), st.sampled_from([0.1, 0.005]))
def test_the_start_may_be_far_away(doublings: float, tolerance: float) -> None:
    crossing = 3.0 * 2.0**doublings
    found, visited = follow(bracket_and_bisect(3.0, tolerance), lambda rate: rate <= crossing)
    assert found.unbracketed == 0
    assert found.held <= crossing <= found.failed <= found.held * (1.0 + tolerance) * (1.0 + 1e-12)
    halvings = math.ceil(math.log2(math.log(2.0) / math.log1p(tolerance)))
    assert len(visited) <= 2 + abs(doublings) + halvings + len(PROBES)


def test_an_end_of_the_range_is_never_the_answer() -> None:
    for holds, flag, edge in ((False, -1, 1.0), (True, 1, 8.0)):
        found, _ = follow(bisect(1.0, 8.0, 0.01), lambda rate, holds=holds: holds)
        assert (math.isnan(found.rate), found.unbracketed, found.edge) == (True, flag, edge)
    for holds, flag, edge in ((False, -1, 3.0 / 2**20), (True, 1, 3.0 * 2**20)):
        found, visited = follow(bracket_and_bisect(3.0, 0.01), lambda rate, holds=holds: holds)
        assert (math.isnan(found.rate), found.unbracketed, found.edge) == (True, flag, edge)
        assert len(visited) == 21
    # The rates that there are end before 20 doublings.
    for start, holds, edge in ((2e-9, False, 1e-9), (1e-9, False, 1e-9), (6e8, True, 1e9), (1e9, True, 1e9)):
        found, _ = follow(bracket_and_bisect(start, 0.01), lambda rate, holds=holds: holds)
        assert (found.unbracketed, found.edge) == (1 if holds else -1, edge)


def test_halving_ends_where_the_clock_does() -> None:
    found, _ = follow(bracket_and_bisect(8.0, 0.01), lambda rate: None if rate < 1.5 else False)
    assert (found.unbracketed, found.edge) == (-1, 2.0)


def test_a_second_crossing_near_the_answer_is_noticed() -> None:
    def holds(rate: float) -> bool:
        return rate < 5.0 or 5.2 < rate < 5.3

    found, visited = follow(bisect(1.0, 8.0, 0.001), holds)
    assert found.rate == pytest.approx(5.0, rel=0.0005)
    assert not is_monotone(visited)
    assert is_monotone({1.0: True, 3.0: False, 2.0: True})
    assert is_monotone({})


@pytest.mark.parametrize("tolerance", [0.005, 0.02, 0.05])
@pytest.mark.parametrize("spread", [1e-4, 0.01])
def test_intervals_hold_the_mean_whatever_the_tolerance(tolerance: float, spread: float) -> None:
    # Every replication has a crossing of its own around 0.5, known without simulating anything, and a better policy one
    # that is 2 % higher. Each search starts elsewhere, so that 0.5 lies anywhere between the rates that are tried.
    rng = np.random.default_rng(11)
    trials, factors = 1500, np.array([[1.0], [1.02]])
    starts = rng.uniform(0.2, 0.4, trials)
    crossings = 0.5 * (1.0 + spread * rng.standard_normal((trials, 1, 4))) * factors
    found = [
        follow(bracket_and_bisect(start, tolerance), lambda rate, crossing=crossing: rate <= crossing)[0]
        for start, own in zip(starts, crossings, strict=True)
        for crossing in own.ravel()
    ]
    values = xr.DataArray(
        np.reshape([one.rate for one in found], crossings.shape),
        {"policy": [0, 1]},
        ("trial", "policy", "replication"),
        attrs={"relative_error": max(one.relative_error for one in found)},
    )
    least = 0.95 - 4.5 * (0.95 * 0.05 / trials) ** 0.5
    for interval, truth in (
        (labelled.mean_interval(values.sel(policy=0)), 0.5),
        (labelled.paired_ratio(values, "policy", 0), 1.02),
        (labelled.paired_difference(values, "policy", 0), 0.01),
    ):
        assert float(((interval["low"] <= truth) & (truth <= interval["high"])).mean()) > least
