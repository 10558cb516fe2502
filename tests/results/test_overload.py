"""What the queue of a point does is judged from all its replications; it is steady only where that was shown."""

import json

import numpy as np
import pytest

from batchcube.results.cube import Coordinate, build_cube
from batchcube.results.overload import CANNOT_TELL, GROWTH, NOTES, OVERLOADED, STEADY, judge, tell, worse
from batchcube.results.provenance import MadeBy, provenance


def cube_of(growth, *, requests=100_000, flags=0, axes=(), specification=None, **arrays):
    """Return a cube of one point, or of the axes, with the growth (..., replication); the first `flags` are flagged."""
    growth = np.asarray(growth, dtype=float)
    held = {
        "backlog_growth_fraction": growth,
        "requests": np.full(growth.shape, requests),
        "overloaded": np.arange(growth.shape[-1]) < flags | np.zeros(growth.shape, int),
        **{name: np.broadcast_to(value, growth.shape) for name, value in arrays.items()},
    }
    known = provenance(
        title="t",
        specification=json.dumps(specification or {}),
        defaults={},
        seed=1,
        replications=growth.shape[-1],
        made_by=[MadeBy("numba", "cpu", "")],
        overload_test="",
        notes=["first"],
    )
    return build_cube(list(axes), held, replications=growth.shape[-1], attrs=known)


def steps(growth, **options):
    """Return a cube of continuous batching."""
    return cube_of(growth, steps=1000, **options)


def batches(growth, busy=1.0, **options):
    """Return a cube of whole batches of 8 in one bin on one server."""
    return cube_of(growth, utilisation=busy, batch_size_mean=8.0, effective_bins=1, **options)


SPREAD = np.array([-0.002, -0.001, 0.0, 0.001, 0.002])


@pytest.mark.parametrize(
    ("growth", "flags", "queue"),
    [
        (0.0, 0, STEADY),
        (0.017, 0, STEADY),  # 95 %: +- 0.00196
        (0.0185, 0, CANNOT_TELL),
        (0.0215, 0, CANNOT_TELL),
        (0.0225, 0, OVERLOADED),
        (0.0, 1, CANNOT_TELL),
        (0.0, 3, OVERLOADED),
    ],
)
def test_the_interval_of_the_growth_decides(growth, flags, queue):
    assert judge(steps(growth + SPREAD, flags=flags)).item() == queue
    # Growth of whole batches leaves out the 16 requests that batches hold, of 50,000.
    assert judge(batches(growth + SPREAD, flags=flags)).item() == queue


def test_a_short_run_must_show_more():
    # Of 499 arrivals a queue at load 1 is left with some 7, by chance: overload shows from 1 / sqrt(499) = 4.5 % on.
    assert judge(steps(0.04 + SPREAD, requests=1000)).item() == CANNOT_TELL
    assert judge(steps(0.05 + SPREAD, requests=1000)).item() == OVERLOADED


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
def test_arrivals_that_scatter_more_must_show_more(arrivals, scatter):
    later = int(499 * scatter**2)
    of_scatter = {"requests": 2 * later + 2, "specification": {"workload": {"arrivals": arrivals}}}
    chance = 1.0 / np.sqrt(499)
    flags = 5 if scatter > 1.0 else 0
    assert judge(steps(0.98 * chance + SPREAD, flags=flags, **of_scatter)).item() == CANNOT_TELL
    assert judge(steps(1.1 * chance + SPREAD, **of_scatter)).item() == OVERLOADED
    # A single replication: four times that, on either side, stand for its interval.
    assert judge(steps([4.9 * chance], **of_scatter)).item() == CANNOT_TELL
    assert judge(steps([5.1 * chance], **of_scatter)).item() == OVERLOADED


def test_what_batches_hold_may_hide_growth_and_an_idle_server_shows_that_there_is_none():
    # 16 of 499 requests are 3.2 %.
    assert judge(batches(np.zeros(5), requests=1000)).item() == CANNOT_TELL
    # 1 - 16 / 1000 - 1 / sqrt(499) = 0.939.
    assert judge(batches(np.zeros(5), requests=1000, busy=0.93)).item() == STEADY
    assert judge(batches(np.zeros(5), requests=1000, busy=0.945)).item() == CANNOT_TELL
    assert judge(batches(0.1 + SPREAD, requests=1000, busy=0.5)).item() == OVERLOADED
    # Growth that is too much is not made good by it, and of several replicas one may be overloaded beside idle ones.
    assert judge(batches(0.021 + SPREAD, busy=0.5)).item() == CANNOT_TELL
    assert judge(steps(0.02 + SPREAD, utilisation=0.5)).item() == CANNOT_TELL


def test_one_replication_shows_little():
    assert judge(steps([0.0])).item() == STEADY  # 4 / sqrt(49999) = 1.8 %
    assert judge(steps([0.0], requests=50_000)).item() == CANNOT_TELL
    assert judge(steps([0.3], requests=1000)).item() == OVERLOADED
    assert judge(steps([0.0], flags=1)).item() == OVERLOADED


RATES = Coordinate("rate", (1.0, 2.0, 3.0), "workload.arrivals.rate_per_s", "s-1")


def test_theory_knows_before_a_run_shows_it():
    cube = steps(np.zeros((3, 5)), axes=[RATES])
    cube["theory_throughput_requests_per_s"] = "rate", np.array([2.0, 2.0, 2.0])
    assert judge(cube).values.tolist() == [STEADY, OVERLOADED, OVERLOADED]
    assert judge(cube, by_theory=False).values.tolist() == [STEADY] * 3
    assert judge(cube.isel(rate=2)).item() == OVERLOADED
    set_once = steps(np.zeros(5), specification={"workload": {"arrivals": {"rate_per_s": 2.5}}})
    set_once["theory_throughput_requests_per_s"] = 2.0
    assert judge(set_once).item() == OVERLOADED


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


def test_without_what_it_needs_it_cannot_tell():
    cube = steps(np.zeros((3, 5)), axes=[RATES])
    assert (judge(cube.drop_vars("backlog_growth_fraction")) == CANNOT_TELL).all()
    assert (judge(cube.drop_vars("steps")) == CANNOT_TELL).all()
    assert judge(cube.drop_vars("overloaded")).dims == ("rate",)
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
    assert GROWTH == 0.02
