import inspect
import math
import pkgutil
import types
from importlib import import_module

import numpy as np
import pytest

from batchcube.engine import dialect, policies
from batchcube.engine.batches.numba.dynamic import dynamic_kernel
from batchcube.engine.batches.numba.static import static_kernel
from batchcube.engine.continuous.numba.fleet import fleet_kernel
from batchcube.engine.numba import heap
from batchcube.engine.numba.source import Fingerprint, UnhashableError, source_digest
from batchcube.engine.numba.state import structure_of
from batchcube.engine.policies import estimates, sla
from batchcube.engine.policies import target as target_policies
from batchcube.engine.policies.controller import Both, Controller
from batchcube.engine.policies.memory import MEMORY
from batchcube.engine.policies.order import BUILTIN
from batchcube.engine.policies.target import start_state
from helpers.batches import fixed_control

STRUCTURE = structure_of(start_state(fixed_control(1)))
KERNELS = (
    static_kernel(BUILTIN),
    dynamic_kernel(None, STRUCTURE, BUILTIN),
    fleet_kernel(None, STRUCTURE, BUILTIN, False),
)
POLICIES = [import_module(f"{policies.__name__}.{found.name}") for found in pkgutil.iter_modules(policies.__path__)]


@pytest.fixture
def digests():
    return lambda: [source_digest(kernel, ()) for kernel in KERNELS]


def test_a_digest_is_the_same_as_long_as_nothing_changes(digests):
    assert digests() == digests()
    assert len(set(digests())) == len(KERNELS)


def test_a_controller_made_again_of_the_same_functions_changes_no_kernel(digests):
    before = digests()
    Controller("again", Both, MEMORY.init, MEMORY.decide)
    assert digests() == before


def test_a_policy_replaced_in_python_changes_the_kernels_that_use_it(digests, monkeypatch):
    before = digests()

    @dialect.policy
    def narrow_paper(span, late, early, batch, smallest, largest, sla):
        return span

    monkeypatch.setattr(sla, "narrow_paper", narrow_paper)
    assert [one == other for one, other in zip(before, digests(), strict=True)] == [True, False, False]


def test_a_constant_replaced_in_python_changes_the_kernels_that_use_it(digests, monkeypatch):
    before = digests()
    monkeypatch.setattr(estimates, "UNIT", 2 * estimates.UNIT)
    assert [one == other for one, other in zip(before, digests(), strict=True)] == [True, False, False]


def test_code_replaced_in_place_changes_the_kernels_that_use_it(digests, monkeypatch):
    before = digests()
    monkeypatch.setattr(heap.push, "__code__", heap.pop.__code__)
    assert [one == other for one, other in zip(before, digests(), strict=True)] == [False, False, True]


def test_every_policy_and_every_word_that_compiles_is_covered():
    fingerprint = Fingerprint()
    for kernel in KERNELS:
        fingerprint.value(kernel)
    compiled = {
        function
        for module in (dialect, *POLICIES)
        for function in vars(module).values()
        if inspect.isfunction(function) and fingerprint.implementations(function)
    }
    missing = {function.__qualname__ for function in compiled if id(function) not in fingerprint.seen}
    assert missing == {
        "bin_of",
        "head_of",
    }  # no kernel bins requests; only further controllers look at heads


def told(value):
    fingerprint = Fingerprint()
    fingerprint.value(value)
    return fingerprint.digest.hexdigest()


def test_values_are_told_apart():
    def closure(n):
        return lambda x: x + n

    class Row(tuple):
        _fields = ("a",)

    values = [
        None, 1, 1.0, True, "1", b"1", (1, 2), (1, (2,)), (), frozenset({1}), float, Row, math, np,
        np.float64(1.0), np.float32(1.0), np.ones(2), np.ones((2, 1)), np.zeros(2), np.dtype("i8"),
        np.dtype([("a", "i8")]), math.floor, math.ceil, closure(1), closure(2), lambda x: x, lambda x, y=1: x,
        lambda x, y=2: x, lambda x: (lambda: x),
    ]  # fmt: skip
    assert len({told(value) for value in values}) == len(values)


@pytest.mark.parametrize("value", [object(), {"a": 1}, np.array([None]), target_policies, types.SimpleNamespace()])
def test_what_cannot_be_told_is_refused(value):
    with pytest.raises(UnhashableError):
        told(value)
