import sys
import types

import pytest

from batchcube.engine.compiling.names import is_own, names_of, referred_by


def function(text: str, **scope: object):
    exec(text, scope)
    return scope["f"]


def test_an_attribute_is_no_global_whatever_it_is_called():
    f = function("def f(view):\n    return view.last.signal + floor(view.size)", last=5, size=12, floor=round)
    assert names_of(f.__code__).globals == {"floor"}
    assert {"last", "signal", "size"} <= names_of(f.__code__).attributes
    assert referred_by(f) == {"floor": round}


def test_inner_functions_and_closures_count():
    def outer(by, later):
        def f(x):
            return [y + by for y in range(x)] + [later]

        return f

    text = "def f(x):\n    def inner(y):\n        return y + CAP\n    return inner(x)"
    assert referred_by(function(text, CAP=3.0)) == {"CAP": 3.0}
    assert referred_by(outer(2.0, "late")) == {"by": 2.0, "later": "late"}


def test_modules_of_ones_own_are_looked_into_and_those_within():
    rules, within = types.ModuleType("rules"), types.ModuleType("rules.within")
    rules.within, rules.ask, within.share, within.back = within, abs, 0.5, rules
    f = function("def f(x):\n    return rules.ask(x) * rules.within.share + rules.within.back.other", rules=rules)
    found = referred_by(f)
    assert (found["rules.ask"], found["rules.within.share"]) == (abs, 0.5)
    assert set(found) == {"rules", "rules.ask", "rules.within", "rules.within.share", "rules.within.back"}
    assert set(referred_by(function("def f(x):\n    return sys.maxsize", sys=sys))) == {"sys"}


@pytest.mark.parametrize(
    ("module", "own"),
    [("mine.rules", True), ("__main__", True), (None, True), ("numpy.linalg", False), ("math", False)],
)
def test_whose_a_module_is(module, own):
    assert is_own(module) == own
