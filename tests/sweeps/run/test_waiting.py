"""Closed loops and sessions from the specification to the cube."""

from typing import Any

import numpy as np
import pytest

from batchcube.engine import continuous
from batchcube.engine.continuous.model import ANYBODY, NOBODY
from batchcube.engine.continuous.ticks import TICKS_PER_S
from batchcube.errors import InputError
from batchcube.results import overload
from batchcube.sweeps.run.capacity import find_capacity
from batchcube.sweeps.run.draws import Draws
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.run.preparing import prepare
from batchcube.sweeps.run.single import simulate_one
from helpers.specifications import CONTINUOUS, TOKENS, laid
from helpers.step_sweeps import sweep

THINK = {"distribution": "exponential", "mean": 2.0}
TURNS = {"distribution": "exponential", "mean": 4.0}
CLOSED = laid(CONTINUOUS, {"workload.arrivals": {"process": "closed", "users": 8, "think_s": THINK}})
SESSIONS = laid(
    CONTINUOUS, {"workload.sessions": {"turns": TURNS, "think_s": THINK}, "workload.arrivals.rate_per_s": 1.0}
)
BOTH = laid(CLOSED, {"workload.sessions": SESSIONS["workload"]["sessions"]})


def job_of(tables: dict[str, Any], replication: int = 0) -> continuous.Job:
    (plan,) = prepare(sweep(tables)).points
    job = Draws(1, replication).job(plan)
    assert isinstance(job, continuous.Job)
    return job


def test_users_of_a_closed_loop_think_before_their_first_request_and_follow_anybody() -> None:
    requests = job_of(CLOSED).requests
    assert requests.follows.tolist() == [NOBODY] * 8 + [ANYBODY] * 112
    assert not requests.delay[:8].any()
    assert (np.diff(requests.arrival[:8]) >= 0).all()
    first = job_of(laid(CLOSED, {"workload.requests": 20_000, "workload.arrivals.users": 20_000})).requests.arrival
    assert first.mean() / TICKS_PER_S == pytest.approx(2.0, abs=4 * 2.0 / np.sqrt(20_000))
    thought = job_of(laid(CLOSED, {"workload.requests": 20_000})).requests.delay[8:] / TICKS_PER_S
    assert thought.mean() == pytest.approx(2.0, abs=4 * 2.0 / np.sqrt(20_000))


def test_without_think_time_nobody_waits() -> None:
    requests = job_of(laid(CLOSED, {"workload.arrivals": {"process": "closed", "users": 3}})).requests
    assert not requests.arrival.any()
    assert not requests.delay.any()


def test_turns_follow_each_other_and_prompts_hold_what_was_said() -> None:
    (plain, requests) = (job_of(tables).requests for tables in (laid(SESSIONS, {"workload.sessions": None}), SESSIONS))
    opens = requests.follows == NOBODY
    np.testing.assert_array_equal(requests.follows[~opens], np.flatnonzero(~opens) - 1)
    np.testing.assert_array_equal(requests.output, plain.output)
    np.testing.assert_array_equal(requests.prompt[opens], plain.prompt[opens])
    later = np.flatnonzero(~opens)
    said = requests.prompt[later - 1] + requests.output[later - 1]
    np.testing.assert_array_equal(requests.prompt[later], said + plain.prompt[later])
    assert (np.diff(requests.arrival[opens]) >= 0).all()
    assert (requests.delay[opens] == 0).all()
    # 20,000 turns in sessions of 4 on average, geometric: the share of first ones by 4 standard errors.
    many = job_of(laid(SESSIONS, {"workload.requests": 20_000})).requests.follows
    assert (many == NOBODY).mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 20_000))


def test_a_user_goes_on_with_a_session_and_then_begins_another() -> None:
    requests = job_of(BOTH).requests
    opens = np.flatnonzero(requests.follows < 0)
    assert requests.follows[opens].tolist() == [NOBODY] * 8 + [ANYBODY] * (len(opens) - 8)
    rest = np.setdiff1d(np.arange(120), opens)
    np.testing.assert_array_equal(requests.follows[rest], rest - 1)


def test_a_session_is_of_one_class() -> None:
    lengths = SESSIONS["workload"]["lengths"]
    classes = [{"name": name, "share": 0.5, "lengths": lengths} for name in ("one", "other")]
    job = job_of(laid(SESSIONS, {"workload.lengths": None, "workload.classes": classes}))
    assert job.classes is not None
    assert 0 < job.classes.of.mean() < 1
    same = job.classes.of[1:] == job.classes.of[:-1]
    assert same[job.requests.follows[1:] >= 0].all()


@pytest.mark.parametrize("tables", [CLOSED, SESSIONS, BOTH])
def test_points_of_a_grid_have_the_same_draws(tables: dict[str, Any]) -> None:
    axes = {"batch": {"path": "policy.largest_batch", "values": [4, 16]}}
    if "rate_per_s" in tables["workload"]["arrivals"]:
        axes["rate"] = {"path": "workload.arrivals.rate_per_s", "values": [0.5, 2.0]}
    tables = (
        laid(tables, {"policy.largest_batch": None, "workload.arrivals.rate_per_s": None})
        if len(axes) > 1
        else (laid(tables, {"policy.largest_batch": None}))
    )
    draws = Draws(1, 0)
    jobs = [draws.job(plan) for plan in prepare(sweep({**tables, "axes": axes})).points]
    for job in jobs[1:]:
        for name in ("prompt", "output", "follows", "delay"):
            np.testing.assert_array_equal(getattr(job.requests, name), getattr(jobs[0].requests, name))


def test_a_workload_in_which_nothing_is_random_has_one_replication() -> None:
    lengths = {"distribution": "constant", "value": 20, "prompt": {"distribution": "constant", "value": 30}}
    fixed = {"workload.lengths": lengths, "workload.predictor": None, "workload.arrivals.think_s": None}
    same = {"distribution": "constant", "value": 2}
    assert sweep(laid(CLOSED, fixed)).replications == 1
    assert sweep(laid(CLOSED, {**fixed, "workload.arrivals.think_s": same})).replications == 1
    assert sweep(laid(CLOSED, {**fixed, "workload.arrivals.think_s": THINK})).replications == 3
    assert sweep(laid(CLOSED, {**fixed, "workload.sessions": {"turns": same, "think_s": same}})).replications == 1
    assert sweep(laid(CLOSED, {**fixed, "workload.sessions": {"turns": TURNS}})).replications == 3
    assert sweep(laid(CLOSED, {**fixed, "workload.sessions": {"turns": same, "think_s": THINK}})).replications == 3


@pytest.mark.parametrize("users", [20, 100, 400])
def test_where_nothing_limits_it_throughput_grows_with_the_users(users: int) -> None:
    """20 tokens at 10 ms, and 60 s of thought: 60.2 s from request to request, up to 400 users with 1000 requests."""
    lengths = {"distribution": "constant", "value": 20, "prompt": {"distribution": "constant", "value": 30}}
    costs = {"c1_s_per_request": 0.0, "c2_s_per_kv_token": 0.0, "c3_s_per_prefill_token": 0.0}
    service = {"law": "steps", "c0_s": 0.01, **costs, "c4_s_per_prefill_attention": 0.0}
    think = {"distribution": "exponential", "mean": 60.0}
    settings = {
        "workload.requests": 1000,
        "workload.arrivals": {"process": "closed", "users": users, "think_s": think},
        "workload.lengths": lengths,
        "policy.largest_batch": 4096,
        "server.service": service,
        "server.replica": {"kv_capacity_tokens": 10**6, "token_budget": 10**5},
    }
    cube = run_sweep(sweep(laid(CONTINUOUS, settings), replications=10), workers=1)
    # As many rounds as 600 requests or more make: a mean of ten replications, within 4 standard errors.
    found = cube["throughput_requests_per_s"]
    assert float(found.mean()) == pytest.approx(users / 60.2, rel=4 / np.sqrt(10 * (1000 - users)))


def test_a_cube_of_a_closed_loop() -> None:
    cube = run_sweep(sweep(CLOSED, replications=3), backend="reference")
    assert (cube["completed"] == 120).all()
    assert str(cube.attrs["notes"]).startswith("closed loop: requests arrive when answers end")
    # Never more are there than users.
    inside = cube["window_queue_length_mean"] + cube["window_running_mean"]
    assert inside.max() <= 8 + 1e-6
    assert overload.judge(cube).item() == overload.STEADY


@pytest.mark.parametrize("users", [119, 120])
def test_a_closed_loop_of_as_many_users_as_requests_is_not_overloaded(users: int) -> None:
    loop = {"process": "closed", "users": users}
    cube = run_sweep(sweep(laid(CLOSED, {"workload.arrivals": loop}), replications=3), backend="reference", workers=1)
    assert overload.judge(cube).item() == overload.STEADY
    assert not [note for note in overload.NOTES.values() if note in cube.attrs["notes"]]


@pytest.mark.parametrize("tables", [CLOSED, SESSIONS, BOTH])
def test_windows_span_the_thinking_too(tables: dict[str, Any]) -> None:
    """Users who think for minutes, and the last of sessions that do: not only the time that the work takes."""
    think = {"distribution": "constant", "value": 120.0}
    at = "sessions" if "sessions" in tables["workload"] else "arrivals"
    cube = run_sweep(sweep(laid(tables, {f"workload.{at}.think_s": think}), replications=1), backend="reference")
    inside = cube["window_arrivals"].sum("window") / cube["requests"]
    assert 0.7 < inside.item() <= 1.0
    # Nor much longer.
    last = cube["window_arrivals"].isel(replication=0).values.nonzero()[-1].max()
    assert last > 0.4 * cube.sizes["window"]


def test_users_without_a_session_are_refused() -> None:
    tables = laid(CLOSED, {"workload.sessions": {"turns": {"distribution": "constant", "value": 20}}})
    with pytest.raises(InputError, match=r"users = 8: must be <= 6, the sessions that 120 requests make"):
        run_sweep(sweep(tables), backend="reference", workers=1)
    fewer = run_sweep(sweep(laid(tables, {"workload.arrivals.users": 6})), backend="reference", workers=1)
    assert (fewer["completed"] + fewer["rejected"] == 120).all()


def test_a_cube_of_sessions() -> None:
    cube = run_sweep(sweep(SESSIONS, replications=2), backend="reference")
    assert (cube["completed"] + cube["rejected"] == 120).all()
    assert str(cube.attrs["notes"]).startswith("sessions: turns arrive when answers end")


def test_a_run_too_short_for_sessions_to_end_does_not_tell_a_steady_state() -> None:
    """30 sessions in half a minute, that think for minutes: nobody waits, and most turns come when none begins."""
    think = {"distribution": "exponential", "mean": 120.0}
    cube = run_sweep(sweep(laid(SESSIONS, {"workload.sessions.think_s": think}), replications=5), backend="reference")
    assert (cube["backlog_growth_fraction"] > 0.4).all()
    assert overload.judge(cube).item() == overload.CANNOT_TELL
    assert str(cube.attrs["notes"]).splitlines()[-1] == overload.SHORT


def test_a_replication_says_when_requests_came_and_after_whom() -> None:
    requests = simulate_one(sweep(laid(SESSIONS, {"server.replica.kv_capacity_tokens": 100_000})), {}).requests
    later = requests[requests["follows"] >= 0]
    before = requests.loc[later["follows"]]
    assert (later["arrival_s"].to_numpy() >= before["completion_s"].to_numpy()).all()


def test_no_capacity_is_searched_where_arrivals_wait_for_answers() -> None:
    criteria = ["latency_mean_s=5"]
    with pytest.raises(InputError, match=r'process = "closed": its arrivals do not stretch with one rate'):
        find_capacity(sweep(CLOSED), criteria)
    with pytest.raises(InputError, match=r"workload.sessions: their rate is of sessions"):
        find_capacity(sweep(SESSIONS), criteria)


def test_what_cannot_be_a_session_is_refused_in_a_line() -> None:
    for settings, line in (
        ({"workload.sessions": {}}, "workload.sessions.turns: is missing"),
        (
            {"workload.sessions.turns": {"distribution": "constant", "value": 0}},
            "workload.sessions.turns.value = 0.0: must give whole numbers of turns, 1 or more",
        ),
        (
            {"workload.sessions.think_s": {"distribution": "constant", "value": 1.0, "unit": "tokens"}},
            "workload.sessions.think_s",
        ),
        ({"workload.arrivals": {"process": "closed"}}, "workload.arrivals.users: is missing"),
        ({"workload.arrivals": {"process": "closed", "users": 0}}, "workload.arrivals.users = 0: must be >= 1"),
    ):
        with pytest.raises(InputError) as caught:
            sweep(laid(SESSIONS, settings))
        assert str(caught.value).startswith(f"sweep.toml: {line}")
        assert "\n" not in str(caught.value)


def test_a_session_that_grows_too_long_is_refused() -> None:
    long = {"distribution": "constant", "value": 100_000, "prompt": {"distribution": "constant", "value": 1}}
    turns = {"distribution": "constant", "value": 100}
    endless = sweep(laid(SESSIONS, {"workload.lengths": long, "workload.sessions.turns": turns}))
    with pytest.raises(InputError, match=r"workload.sessions: a session grows to \d+ tokens: must be at most 2097152"):
        prepare(endless)


@pytest.mark.parametrize(("tables", "at"), [(CLOSED, "workload.arrivals"), (SESSIONS, "workload.sessions")])
def test_a_think_time_that_is_too_long_is_refused_where_it_stands(tables: dict[str, Any], at: str) -> None:
    endless = sweep(
        laid(tables, {f"{at}.think_s": {"distribution": "constant", "value": 2e6}, "report.horizon_s": 9.0})
    )
    with pytest.raises(InputError) as caught:
        Draws(1, 0).job(prepare(endless).points[0])
    assert str(caught.value) == f"{at}.think_s: drew 2e+06 s: must be at most 1152921 s"


def test_whole_batches_have_no_sessions() -> None:
    with pytest.raises(InputError, match=r"workload.sessions: mode fifo_greedy would ignore them; used by continuous"):
        sweep(laid(TOKENS, {"workload.sessions": {"turns": TURNS}}))
