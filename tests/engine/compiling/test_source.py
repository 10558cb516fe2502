import inspect
import math
import pkgutil
import sys
import types
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numba import float64, int64, njit, typeof
from numba.core.registry import cpu_target
from numba.core.typing.templates import builtin_registry
from numba.extending import register_jitable
from numba.types import Optional, Tuple

from batchcube.engine import dialect, policies
from batchcube.engine.batches.numba.dynamic import dynamic_kernel
from batchcube.engine.batches.numba.static import static_kernel
from batchcube.engine.compiling.source import Fingerprint, UnhashableError, is_library, source_digest
from batchcube.engine.continuous.numba.fleet import fleet_kernel
from batchcube.engine.numba import heap
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
        if inspect.isfunction(function) and fingerprint.templates(function)
    }
    missing = {function.__qualname__ for function in compiled if id(function) not in fingerprint.seen}
    assert missing == {"head_of"}  # only further controllers look at heads


class Point(NamedTuple):
    x: float
    y: float


class Flipped(NamedTuple):
    y: float
    x: float


Flipped.__name__ = Point.__name__


def double(x):
    return x + x


def of_module(**values):
    """Return a function that looks into a module of somebody's own, which holds these values."""
    module = types.ModuleType("somebodys")
    vars(module).update(values)
    return types.FunctionType((lambda x: x + somebodys.A).__code__, {"__name__": __name__, "somebodys": module})  # noqa: F821


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
        lambda x, y=2: x, lambda x: (lambda: x), Point(1.0, 2.0), Flipped(1.0, 2.0), Enum("Kind", {"A": 1}),
        Enum("Kind", {"A": 2}), Enum("Kind", {"B": 1}), Enum("Kind", {"A": 1, "B": 1}), njit(double),
        njit("float64(float64)")(double),
        njit("float64(float32)")(double), njit(locals={"x": float64})(double), njit(nogil=True)(double),
        of_module(A=1), of_module(A=2), of_module(A=1.0), of_module(A=double), lambda x, y: x, lambda x, *, y: x,
    ]  # fmt: skip
    assert len({told(value) for value in values}) == len(values)


@pytest.mark.parametrize("value", [object(), {"a": 1}, np.array([None]), target_policies, types.SimpleNamespace()])
def test_what_cannot_be_told_is_refused(value):
    with pytest.raises(UnhashableError):
        told(value)


def test_fields_of_arguments_are_told_apart_within_tuples_too():
    point, flipped = (typeof((1, kind(1.0, 2.0))) for kind in (Point, Flipped))
    assert str(point) == str(flipped)
    assert source_digest(heap.push, (point,)) != source_digest(heap.push, (flipped,))


def test_fields_of_arguments_are_told_apart_where_there_may_be_none():
    given = [Optional(typeof(kind(1.0, 2.0))) for kind in (Point, Flipped)]
    assert source_digest(heap.push, given[:1]) != source_digest(heap.push, given[1:])


def test_what_a_module_makes_when_it_is_asked_is_refused():
    with pytest.raises(UnhashableError, match="a module that makes its values"):
        told(of_module(__getattr__=lambda name: 1))


def test_a_name_without_a_value_is_refused():
    def early():
        return late

    with pytest.raises(UnhashableError, match="a name that has no value yet"):
        told(early)
    late = 1
    assert told(early)


def test_a_users_file_that_is_called_as_one_of_pythons_is_no_library(monkeypatch):
    is_library.cache_clear()
    assert is_library("profile")
    assert is_library("math")
    assert not is_library("batchcube")
    is_library.cache_clear()
    monkeypatch.setitem(sys.modules, "profile", types.ModuleType("profile"))
    sys.modules["profile"].__file__ = str(Path("profile.py").resolve())
    assert not is_library("profile")
    monkeypatch.undo()
    is_library.cache_clear()


def test_a_class_that_exec_made_is_of_no_package():
    scope = {"NamedTuple": NamedTuple}
    exec("class State(NamedTuple):\n    bound: float\ndef grown(state):\n    return State(state.bound + 1.0)\n", scope)
    state = typeof(scope["State"](1.0))
    assert scope["State"].__module__ == "builtins"
    assert "None" not in Fingerprint.of(heap.push, ()).packages
    assert "None" in Fingerprint.of(scope["grown"], (state,)).packages


def test_what_is_not_looked_at_in_a_module_changes_nothing():
    assert told(of_module(A=1, B=1)) == told(of_module(A=1, B=2))


def test_options_of_what_is_compiled_in_place_are_told(monkeypatch):
    before = told(double)

    def again(**options):
        patched = [(value, kind) for value, kind in builtin_registry.globals if value is not double]
        monkeypatch.setattr(builtin_registry, "globals", patched)
        register_jitable(**options)(double)
        return told(double)

    assert len({before, again(nogil=True), again(nogil=False)}) == 3


def test_functions_as_arguments_are_told_by_what_they_do():
    def told(function):
        context = cpu_target.typing_context
        register_jitable(function)
        context.refresh()
        given = context.resolve_value_type(function)
        return {source_digest(heap.push, arguments) for arguments in ((given,), (Tuple((int64, given)),))}

    def times(k):
        return lambda x: k * x

    assert told(times(2)) == told(times(2))
    assert len(told(times(2)) | told(times(3))) == 4


def test_what_else_can_be_called_is_refused_as_an_argument():
    function = typeof(njit(lambda x: x))
    for given in (function, Tuple((int64, Tuple((int64, function))))):
        with pytest.raises(UnhashableError, match="a function as an argument"):
            source_digest(heap.push, (given,))


def test_a_global_that_is_called_like_an_attribute_is_nothing_to_a_kernel():
    scope: dict = {}
    exec("def kernel(view):\n    return view.size\n", scope)
    before = source_digest(scope["kernel"], ())
    scope["size"] = object()
    assert source_digest(scope["kernel"], ()) == before
