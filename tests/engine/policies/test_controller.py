"""Controllers composed: each keeps its state and settings, and settings alone say which two they are."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from batchcube.engine.policies.controller import Both, Controller, both, controller_of
from batchcube.engine.policies.target import fixed_target
from helpers.controllers import NOTHING, ByHand


class Constant(NamedTuple):
    bound: float


class Halving(NamedTuple):
    first: float


class Rising(NamedTuple):
    step: float


def constant(view: Any, settings: Constant) -> tuple[float, float]:
    return 0.0, settings.bound


CONSTANT = Controller("constant", Constant, constant, lambda state, view, settings: (0.0, settings.bound))
HALVING = Controller(
    "halving",
    Halving,
    lambda view, settings: (settings.first, settings.first),
    lambda state, view, settings: (state // 2.0, state // 2.0),
)
RISING = Controller(
    "rising",
    Rising,
    lambda view, settings: (settings.step, settings.step),
    lambda state, view, settings: (state + settings.step, state + settings.step),
)


def decided(settings: Any, batches: int = 4) -> list[int]:
    """Return what is decided at first and after each of some batches, between 1 and 64."""
    moments = np.zeros(1)
    hand = ByHand(fixed_target(1, 64, moments, moments)._replace(further=settings))
    return [hand.target.batch, *(hand.batch(NOTHING, 0).batch for _ in range(batches))]


def test_the_smaller_bound_holds_and_each_keeps_its_state() -> None:
    assert decided(Halving(40.0)) == [40, 20, 10, 5, 2]
    assert decided(Rising(6.0)) == [6, 12, 18, 24, 30]
    assert decided(Both(Halving(40.0), Rising(6.0))) == [6, 12, 10, 5, 2]


def test_a_second_composition_leaves_the_first_as_it_is() -> None:
    one, other = both(HALVING, CONSTANT), both(HALVING, RISING)
    assert controller_of(Both(Halving(40.0), Constant(8.0))) is one
    assert controller_of(Both(Halving(40.0), Rising(6.0))) is other
    assert decided(Both(Halving(40.0), Constant(8.0))) == [8, 8, 8, 5, 2]
    assert decided(Both(Halving(40.0), Rising(6.0))) == [6, 12, 10, 5, 2]


def test_compositions_compose() -> None:
    settings = Both(Constant(8.0), Both(Halving(40.0), Rising(6.0)))
    assert controller_of(settings) is both(CONSTANT, both(HALVING, RISING))
    assert decided(settings) == [6, 8, 8, 5, 2]


def test_no_settings_are_those_of_no_controller() -> None:
    class Unknown(NamedTuple):
        bound: float

    assert controller_of(()) is None
    with pytest.raises(KeyError, match="Unknown"):
        controller_of(Both(Constant(8.0), Unknown(1.0)))
