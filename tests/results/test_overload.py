"""What the queue of a point does is judged from all its replications; it is steady only where that was shown."""

import json

import numpy as np
import pytest

from batchcube.results.build import Coordinate, build_cube
from batchcube.results.overload import CANNOT_TELL, NOTES, OVERLOADED, SHORT, STEADY, STEADY_GROWTH, judge, tell, worse
from batchcube.results.provenance import MadeBy, provenance


def cube_of(growth, *, requests=100_000, axes=(), specification=None, **arrays):
    """Return a cube of one point, or of the axes, with the growth (..., replication)."""
    growth = np.asarray(growth, dtype=float)
    held = {
        "backlog_growth_fraction": growth,
        "requests": np.full(growth.shape, requests),
        **{name: np.broadcast_to(value, growth.shape) for name, value in arrays.items()},
    }
    known = provenance(
        title="t",
        specification=json.dumps(specification or {}),
        defaults={},
        seed=1,
        replications=growth.shape[-1],
        made_by=[MadeBy("numba", "cpu", "")],
        notes=["first"],
    )
    return build_cube(list(axes), held, replications=growth.shape[-1], attrs=known)


def steps(growth, **options):
    """Return a cube of continuous batching: what grows is the queue, unless the options say otherwise."""
    return cube_of(growth, **{"steps": 1000, "queue_growth_fraction": np.asarray(growth), **options})


def batches(growth, **options):
    """Return a cube of whole batches of 8 in one bin on one server."""
    return cube_of(growth, batch_size_mean=8.0, effective_bins=1, **options)


SPREAD = np.array([-0.002, -0.001, 0.0, 0.001, 0.002])
POISSON = {"process": "poisson", "rate_per_s": 2.0}


def busy(load, *, make=steps, growth=0.0, size=8.0, largest=8, arrivals=POISSON, **options):
    """Return a cube of one point with the load (replication,) of its server: less came than the stated 2/s."""
    load = np.asarray(load, dtype=float)
    specification = {"workload": {"arrivals": arrivals}, "policy": {"largest_batch": largest}}
    specification |= options.pop("specification", {})
    used = np.linspace(0.6, 0.9, load.size)
    more = {"utilisation": used, "throughput_requests_per_s": 2.0 * used / load, "makespan_s": 1000.0}
    more |= {"measured": options.get("requests", 100_000), "missed": 0}
    options = {"specification": specification, "batch_size_mean": size, **more, **options}
    return steps(growth + np.zeros(load.size), **options)


@pytest.mark.parametrize(
    ("growth", "queue"),
    [
        (0.0, STEADY),
        (0.017, STEADY),  # 95 %: +- 0.00196
        (0.0185, CANNOT_TELL),
        (0.0215, CANNOT_TELL),
        (0.0225, OVERLOADED),
    ],
)
def test_the_interval_of_the_growth_decides(growth, queue):
    assert judge(steps(growth + SPREAD)).item() == queue
    # Growth of whole batches leaves out the 16 requests that batches hold, of 50,000.
    assert judge(batches(growth + SPREAD)).item() == queue


def test_a_short_run_must_show_more():
    # Of 111 arrivals a queue at load 1 is left with some 3, by chance: overload shows from 1/3 / sqrt(111) = 3.2 % on.
    assert judge(steps(0.033 + SPREAD, requests=224)).item() == CANNOT_TELL
    assert judge(steps(0.035 + SPREAD, requests=224)).item() == OVERLOADED


@pytest.mark.parametrize(
    ("arrivals", "scatter"),
    [
        ({"process": "gamma", "cv": 10.0}, 10.0),
        ({"process": "gamma", "cv": 0.5}, 1.0),
        # Rates 4 and 0, phases of 30 and 10 s: 1 + 2 * 16 / 3 * 300**2 / 40**3 = 16.
        (
            {"process": "on_off", "rate_per_s": 3.0, "on_off_ratio": "infinite", "mean_on_s": 30.0, "mean_off_s": 10.0},
            4.0,
        ),
        ({"process": "on_off", "rate_per_s": 3.0, "on_off_ratio": 1.0, "mean_on_s": 30.0, "mean_off_s": 10.0}, 1.0),
    ],
)
def test_work_that_scatters_more_must_show_more(arrivals, scatter):
    of = {"specification": {"workload": {"arrivals": arrivals}}}
    # Service times with a coefficient of variation of 2, in steps; half that, in batches of 8.
    for make, times, more in (  # and what they add to the square
        (steps, {}, 0.0),
        (steps, {"service_mean_s": 3.0, "service_variance_s2": 36.0}, 4.0),
        (batches, {"service_mean_s": 3.0, "service_variance_s2": 4.5}, 4.0),
    ):
        later = int(99 * (scatter**2 + more))
        chance = 1.0 / np.sqrt(99)
        of |= {"requests": 2 * later + 2, **times}
        assert judge(make(0.97 * chance / 3 + SPREAD, **of)).item() == CANNOT_TELL
        assert judge(make(1.1 * chance / 3 + SPREAD, **of)).item() == OVERLOADED
        # A single replication: four times the whole of it, on either side, stand for its interval.
        assert judge(make([4.3 * chance], **of)).item() == CANNOT_TELL
        assert judge(make([4.4 * chance], **of)).item() == OVERLOADED


def test_of_other_arrivals_what_is_seen_in_windows_says_how_they_scatter():
    # All of 10 windows' arrivals in one of them: variance 10 * 10**2 / 10 - 1, mean 1.
    seen = np.zeros((5, 10))
    seen[:, 3] = 10.0
    chance = 3.0 / np.sqrt(99)
    for arrivals, found in (({}, CANNOT_TELL), ({"process": "poisson"}, OVERLOADED)):
        cube = steps(0.9 * chance / 3 + SPREAD, requests=200, specification={"workload": {"arrivals": arrivals}})
        cube["window_arrivals"] = ("replication", "window"), seen
        assert judge(cube).item() == found


def test_of_recorded_arrivals_without_windows_one_cannot_tell():
    trace = {"path": "trace.csv"}
    for workload, found in (
        ({"trace": trace}, CANNOT_TELL),
        ({"trace": trace, "arrivals": {"process": "poisson"}}, OVERLOADED),
        ({"arrivals": {"process": "poisson"}}, OVERLOADED),
    ):
        cube = steps(0.5 + SPREAD, requests=200, specification={"workload": workload})
        assert judge(cube).item() == found
        # One window has all requests, in every replication.
        cube["window_arrivals"] = ("replication", "window"), np.full((5, 1), 200.0)
        assert judge(cube).item() == found
        assert judge(steps(SPREAD, specification={"workload": workload})).item() == STEADY


def test_another_confidence_makes_intervals_wider():
    assert judge(steps(0.0225 + SPREAD)).item() == OVERLOADED
    assert judge(steps(0.0225 + SPREAD), confidence=0.999).item() == CANNOT_TELL
    assert judge(steps(0.04 + SPREAD), confidence=0.999).item() == OVERLOADED


def test_the_load_decides_where_it_is_known_whatever_came():
    assert judge(busy(0.95 + 10 * SPREAD, growth=0.018)).item() == STEADY  # 95 %: +- 0.0196
    assert judge(busy(0.985 + 10 * SPREAD, growth=0.018)).item() == STEADY, "the growth is below 2 %"
    assert judge(busy(0.985 + 10 * SPREAD, growth=0.3)).item() == OVERLOADED
    assert judge(busy(0.95 + 10 * SPREAD, growth=0.3)).item() == CANNOT_TELL, "a burst at the end of a short run"
    short = {"requests": 200, "growth": 0.03}
    assert judge(busy(0.95 + 10 * SPREAD, **short)).item() == CANNOT_TELL, "it is still growing"
    assert judge(busy(0.985 + 10 * SPREAD, **short)).item() == CANNOT_TELL
    assert judge(busy(1.01 + 10 * SPREAD, **short)).item() == CANNOT_TELL
    assert judge(busy(1.03 + 10 * SPREAD, **short)).item() == OVERLOADED
    # Batches may get fuller: 7 of at most 8.
    assert judge(busy(1.03 + 10 * SPREAD, size=7.0, **short)).item() == CANNOT_TELL
    assert judge(busy(1.18 + 10 * SPREAD, size=7.0, **short)).item() == OVERLOADED
    # Half of them are turned away.
    rejected = {"rejected": 100, "requests": 200, "growth": 0.0}
    assert judge(busy(1.9 + 10 * SPREAD, **rejected)).item() == STEADY
    assert judge(busy(2.1 + 10 * SPREAD, **rejected)).item() == OVERLOADED


def in_sessions(turns):
    return {"workload": {"arrivals": POISSON, "sessions": {"turns": turns}}}


@pytest.mark.parametrize(
    "turns",
    [
        {"distribution": "exponential", "mean": 5.0},
        {"distribution": "constant", "value": 5},
        {"distribution": "uniform", "low": 2, "high": 8},
    ],
)
def test_sessions_bring_their_rate_times_their_turns(turns):
    # 2 sessions/s of 5 turns are 10 requests/s: five times the load of 2/s.
    for load, queue in ((0.19, STEADY), (0.21, OVERLOADED)):
        assert judge(busy(load + SPREAD / 10, specification=in_sessions(turns), growth=0.01)).item() == queue


def test_where_more_sessions_begin_than_end_the_run_is_too_short():
    turns = {"distribution": "exponential", "mean": 5.0}
    begun = {"backlog_growth_fraction": 0.6 + SPREAD, "specification": in_sessions(turns)}
    cube = busy(0.1 + SPREAD / 10, **begun)
    assert judge(cube).item() == CANNOT_TELL
    for _ in range(2):
        tell(cube)
        assert cube.attrs["notes"].splitlines() == ["first", NOTES[CANNOT_TELL], SHORT]


def test_growth_of_sessions_is_a_share_of_those_that_begin():
    # 5555 turns in sessions of 5: of 555 sessions a queue at load 1 is left with 1/3 / sqrt(555) = 1.4 %; of 2777
    # arrivals with less. Sessions of 25 are 111, with 3.2 %.
    for mean, queue in ((5.0, OVERLOADED), (25.0, CANNOT_TELL)):
        turns = {"distribution": "exponential", "mean": mean}
        one = steps(0.03 + SPREAD, requests=5555, specification=in_sessions(turns))
        assert judge(one).item() == queue


def test_the_load_is_not_known_of_recorded_arrivals_sessions_and_replicas_that_are_given_their_requests():
    # 16 of 99 requests may be held in batches: growth alone does not show that they are steady.
    calm = {"requests": 200, "growth": 0.03}
    assert judge(busy(0.5 + SPREAD, growth=0.0)).item() == STEADY
    for arrivals in ({"process": "gamma_windows", "rate_per_s": 2.0}, {"process": "step"}, {}):
        assert judge(busy(2.5 + SPREAD, arrivals=arrivals, **calm)).item() == CANNOT_TELL
    turns = {"distribution": "zipf", "exponent": 1.5, "low": 1}
    assert judge(busy(2.5 + SPREAD, specification=in_sessions(turns), **calm)).item() == CANNOT_TELL
    by_bin = {"workload": {"arrivals": POISSON}, "server": {"servers": 2, "routing": "by_bin"}}
    in_turn = {"workload": {"arrivals": POISSON}, "server": {"servers": 2, "routing": "round_robin"}}
    spread = {"growth": 0.0, "backlog_growth_fraction": 0.02 + SPREAD}
    assert judge(busy(0.5 + SPREAD, specification=in_turn, **spread)).item() == STEADY
    assert judge(busy(0.5 + SPREAD, specification=by_bin, **spread)).item() == CANNOT_TELL


def test_those_served_while_the_warm_up_ends_count_whole():
    # 8 of them in 1000 s are 0.008 of the 1.2 to 1.8 that are served in a second: 0.5 %.
    warm = {"measured": 90_000, "missed": 0, "backlog_growth_fraction": 0.02 + SPREAD}
    assert judge(busy(0.990 + SPREAD, **warm)).item() == STEADY
    assert judge(busy(0.996 + SPREAD, **warm)).item() == CANNOT_TELL
    assert judge(busy(0.996 + SPREAD, **{**warm, "measured": 100_000})).item() == STEADY


def test_where_more_and_more_run_and_nobody_waits_the_run_is_too_short():
    assert judge(steps(0.3 + SPREAD)).item() == OVERLOADED
    assert judge(steps(0.3 + SPREAD, queue_growth_fraction=0.0)).item() == CANNOT_TELL
    assert judge(busy(1.5 + SPREAD, growth=0.3, size=4.0, queue_growth_fraction=0.0)).item() == CANNOT_TELL


def test_what_batches_hold_may_hide_growth():
    # 16 of 499 requests are 3.2 %.
    assert judge(batches(np.zeros(5), requests=1000)).item() == CANNOT_TELL


def test_one_replication_shows_little():
    assert judge(steps([0.0])).item() == STEADY  # 4 / sqrt(49999) = 1.8 %
    assert judge(steps([0.0], requests=50_000)).item() == CANNOT_TELL
    assert judge(steps([0.3], requests=1000)).item() == OVERLOADED


RATES = Coordinate("rate", (1.0, 2.0, 3.0), "workload.arrivals.rate_per_s", "s-1")


def test_theory_knows_before_a_run_shows_it():
    poisson = {"workload": {"arrivals": {"process": "poisson"}}}
    cube = steps(np.zeros((3, 5)), axes=[RATES], specification=poisson)
    cube["theory_throughput_requests_per_s"] = "rate", np.array([2.0, 2.0, 2.0])
    assert judge(cube).values.tolist() == [STEADY, OVERLOADED, OVERLOADED]
    assert judge(cube, by_theory=False).values.tolist() == [STEADY] * 3
    assert judge(cube.isel(rate=2)).item() == OVERLOADED
    at_once = {"workload": {"arrivals": {"process": "poisson", "rate_per_s": 2.5}}}
    set_once = batches(np.zeros(5), requests=1000, specification=at_once)
    for throughput, queue in ((2.0, OVERLOADED), (3.0, STEADY), (np.nan, CANNOT_TELL)):
        set_once["theory_throughput_requests_per_s"] = throughput
        assert judge(set_once).item() == queue


def test_servers_are_known_from_axes_labelled_points_and_the_specification():
    # Of 20,000 requests 1 % are 100: one server holds 8, 100 servers 808.
    few, many = (
        Coordinate("servers", (1, 100), "server.servers"),
        Coordinate("size", ("few", "many"), "server.servers,policy.mode"),
    )
    points = {"few": {"server": {"servers": 1}}, "many": {"server.servers": 100}}
    growth = np.zeros((2, 5))
    assert judge(batches(growth, axes=[few], requests=20_000)).values.tolist() == [STEADY, CANNOT_TELL]
    labelled = batches(growth, axes=[many], requests=20_000, specification={"axes": {"size": {"points": points}}})
    assert judge(labelled).values.tolist() == [STEADY, CANNOT_TELL]
    assert judge(labelled.sel(size="many")).item() == CANNOT_TELL
    assert judge(labelled.sel(size="few", drop=True)).item() == CANNOT_TELL, "which one it was is not known any more"
    alone = {"server": {"servers": "infinite"}}
    assert judge(batches(growth[0], requests=1000, specification=alone)).item() == STEADY


def test_a_closed_loop_is_steady_whatever_grows():
    """Where every user sends one request nobody follows anybody, and growth is counted: it may be 1."""
    loop = {"workload": {"arrivals": {"process": "closed", "users": 100_000}}}
    assert judge(steps(np.ones(3), specification=loop)).item() == STEADY
    assert judge(steps([0.03, 0.1], specification=loop)).item() == STEADY
    assert judge(steps(np.ones(3))).item() == OVERLOADED


def test_without_what_it_needs_it_cannot_tell():
    cube = steps(np.zeros((3, 5)), axes=[RATES])
    assert (judge(cube.drop_vars("backlog_growth_fraction")) == CANNOT_TELL).all()
    assert (judge(cube.drop_vars("queue_growth_fraction")) == CANNOT_TELL).all()
    assert (judge(cube.drop_vars("steps")) == CANNOT_TELL).all()
    assert judge(steps([np.nan, np.nan])).item() == CANNOT_TELL


def test_two_points_together_are_what_the_worse_one_is():
    states = np.array([STEADY, CANNOT_TELL, OVERLOADED])
    found = worse(states[:, None], states[None, :])
    assert found[0].tolist() == [STEADY, CANNOT_TELL, OVERLOADED]
    assert found[1].tolist() == [CANNOT_TELL, CANNOT_TELL, OVERLOADED]
    assert found[2].tolist() == [OVERLOADED] * 3


def test_notes_say_what_the_points_are_and_replace_what_was_said():
    cube = steps(np.stack([SPREAD, 0.02 + SPREAD, 0.5 + SPREAD]), axes=[RATES])
    for _ in range(2):
        tell(cube)
        assert cube.attrs["notes"].splitlines() == ["first", NOTES[OVERLOADED], NOTES[CANNOT_TELL]]
    calm = cube.isel(rate=[0])
    tell(calm)
    assert calm.attrs["notes"] == "first"
    assert STEADY_GROWTH == 0.02
