"""The laws hold for the policies of the package and for the examples, and are broken by what breaks them."""

import math
from typing import NamedTuple

import pytest

from batchcube.engine import batches, continuous
from batchcube.engine.laws import check_policy
from batchcube.engine.policies import Controller
from batchcube.engine.policies.memory import MEMORY, memory_bound, no_memory_bound
from batchcube.engine.policies.order import BUILTIN, NAMED, Named
from batchcube.engine.policies.sla import SLA, sla_search
from helpers.outside import NAMES, example


@pytest.mark.parametrize("name", NAMED)
def test_orders_of_the_package_keep_the_laws(name):
    check_policy(BUILTIN, Named(NAMED.index(name)), backends=["reference", "numba"])


@pytest.mark.parametrize(
    ("policy", "settings"),
    [
        (MEMORY, memory_bound("exact", 300.0)),
        (MEMORY, memory_bound("buffer", 300.0)),
        (MEMORY, no_memory_bound()),
        (SLA, sla_search("paper", "tbt", 0.02, 0.001, 2.0, 1.0)),
        (SLA, sla_search("heuristic", "tbt", 0.02, 0.001)),
    ],
    ids=["exact", "buffer", "unbounded", "paper", "heuristic"],
)
def test_controllers_of_the_package_keep_the_laws(policy, settings):
    check_policy(policy, settings, backends=["reference"])


# Compiling takes most of the time here.
STEPS_TOO = ["aimd", "weighted_shortest", pytest.param("who_waits", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", NAMES)
def test_examples_keep_the_laws_in_whole_batches(name, tmp_path):
    check_policy(example(name, tmp_path), backends=["numba", "jax"], simulations=[batches])


@pytest.mark.parametrize("name", STEPS_TOO)
def test_examples_keep_the_laws_in_single_steps(name, tmp_path):
    check_policy(example(name, tmp_path), backends=["numba"], simulations=[continuous])


class Settings(NamedTuple):
    pass


class State(NamedTuple):
    bound: float


class Other(NamedTuple):
    bound: float
    more: float


calls = []


def start(view, settings):
    return State(view.largest), view.largest


def moody(state, view, settings):
    calls.append(1)
    return State(len(calls) * 1.0), view.largest


def growing(state, view, settings):
    return Other(state.bound, 0.0), view.largest


def nothing(state, view, settings):
    return state, math.nan


def counting(state, view, settings):
    return State(state.bound + 1.0), view.largest


@pytest.mark.parametrize("asked", [-1e6, 0.0, 1e6])
def test_whatever_is_asked_for_is_held_inside_the_bounds(asked):
    def decide(state, view, settings):
        return state, asked

    check_policy(Controller("mine", Settings, start, decide), backends=["reference"])


@pytest.mark.parametrize(
    ("decide", "steady", "message"),
    [
        (moody, False, "decides otherwise when asked again"),
        (growing, False, "its state changes its shape"),
        (nothing, False, "the bound is no number"),
        (counting, True, "is steady, yet moves when asked again"),
    ],
)
def test_what_breaks_a_law_is_told(decide, steady, message):
    policy = Controller("mine", Settings, start, decide, lambda settings: steady)
    with pytest.raises(AssertionError, match=f"mine: {message}"):
        check_policy(policy, backends=["reference"])
