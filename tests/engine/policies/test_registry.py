import subprocess
import sys
from functools import partial
from typing import Annotated, NamedTuple

import pytest
from numba import njit

from batchcube.engine.dialect import policies_of, policy
from batchcube.engine.policies import Controller, Order, registry
from batchcube.engine.policies.order import order_of
from batchcube.engine.policies.registry import (
    Registered,
    arrive,
    names,
    register,
    registered,
    require_current,
    settings_of,
    summary_of,
)
from batchcube.errors import InputError
from helpers.outside import EXAMPLES, NAMES, example


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


class Number(NamedTuple):
    weight: Annotated[float, "how much it counts"] = 1.0
    least: int = 2
    eager: bool = False


def key(candidate, settings):
    """Serve large ones first.

    More about it.
    """
    return -candidate.size


def test_a_registered_policy_is_found_by_its_name(tmp_path):
    register(Order("large", Number, key))
    register(example("aimd", tmp_path))
    assert (names(Order), names(Controller)) == (("large",), ("aimd",))
    found = registered()["aimd"]
    assert found.origin == str(tmp_path / "aimd.py")
    assert len(found.sha256) == 64
    assert summary_of(registered()["large"].policy) == "Serve large ones first."
    told = [(s.name, s.default, s.meaning) for s in settings_of(registered()["large"].policy)]
    assert told == [("weight", 1.0, "how much it counts"), ("least", 2, ""), ("eager", False, "")]


def test_a_policy_registered_again_replaces_the_one_before(tmp_path):
    for text in ("1.0", "2.0"):
        register(example("aimd", tmp_path), origin=text)
    assert registered()["aimd"].origin == "2.0"


class Taken(NamedTuple):
    weight: float = 1.0


class Words(NamedTuple):
    weight: float = 1.0


class Word(NamedTuple):
    word: str = "x"


class Name(NamedTuple):
    name: float = 1.0


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("round_robin", Taken, "'round_robin': must be letters, digits and _, and no policy of batchcube"),
        ("two words", Words, "'two words': must be letters, digits and _"),
        ("wordy", Word, "wordy.word = <class 'str'>: must be a number, true or false"),
        ("named", Name, "must be a number, true or false, and not called name or signal"),
    ],
)
def test_what_cannot_be_registered_is_refused(name, settings, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        register(Order(name, settings, key))
    assert registered() == {}


class Shared(NamedTuple):
    weight: float = 1.0


def test_two_policies_have_two_classes_of_settings():
    """The type of settings says whose they are: the policy made last would be simulated under both names."""
    short = Order("mine_short", Shared, lambda candidate, settings: candidate.predicted)
    with pytest.raises(
        InputError, match=r"^mine_long: Shared holds the settings of mine_short, .*: give each policy a"
    ):
        Order("mine_long", Shared, lambda candidate, settings: -candidate.predicted)
    assert order_of(Shared()) is short
    # A cell of a notebook that is run again.
    again = Order("mine_short", Shared, lambda candidate, settings: -candidate.predicted)
    assert order_of(Shared()) is again
    register(short)
    assert order_of(Shared()) is short


class Helped(NamedTuple):
    weight: float = 1.0


def plain(candidate):
    return candidate.size


def test_what_compiled_code_cannot_call_is_refused():
    def by_closure(candidate, settings):
        return helper(candidate)

    helper = plain
    for function in (by_closure, lambda candidate, settings: plain(candidate)):
        with pytest.raises(InputError, match=r"^helped: .* calls (helper|plain), which must be decorated"):
            register(Order("helped", Helped, function))
    helper = policy(lambda candidate: candidate.size)
    register(Order("helped", Helped, by_closure))
    assert helper in policies_of(by_closure)


class Sized(NamedTuple):
    weight: float = 1.0


def test_what_is_called_like_an_attribute_is_nothing_to_a_policy():
    scope = {}
    exec("def key(candidate, settings):\n    return candidate.size * settings.weight\n", scope)
    register(Order("sized", Sized, scope["key"]))
    before = registered()["sized"]
    scope |= {"size": 3, "weight": plain}
    require_current(before)
    register(Order("sized", Sized, scope["key"]))
    assert registered()["sized"] == before


def test_a_new_class_of_settings_compiles_anew():
    def key(candidate, settings):
        return candidate.size * settings.weight

    def made(default):
        class Made(NamedTuple):
            weight: float = default

        return Made

    for default in (1.0, 2.0):
        register(Order("renewed", made(default), key))
    assert registered()["renewed"].policy.settings() == (2.0,)


@pytest.mark.parametrize("key", [partial(plain), njit(plain)])
def test_what_is_no_plain_function_is_refused(key):
    with pytest.raises(InputError, match=r"^`policy` .*: must be a plain function"):
        Order("helped", Helped, key)


def made_by_a_function():
    class Made(NamedTuple):
        weight: float = 1.0

    def key(candidate, settings):
        return candidate.size

    return Order("made_here", Made, key)


def test_a_policy_that_a_function_makes_goes_along_to_processes_that_lack_its_text():
    order = made_by_a_function()
    arrive(Registered(order, "elsewhere", "0" * 64))
    assert registered()["made_here"].sha256 == "0" * 64


class Capped(NamedTuple):
    weight: float = 1.0


def test_a_value_that_has_changed_is_refused_as_kernels_have_the_old_one():
    scope = {"CAP": 64.0}
    exec("def capped(candidate, settings):\n    return candidate.size - CAP\n", scope)
    order = Order("capped", Capped, scope["capped"])
    register(order)
    require_current(registered()["capped"])
    scope["CAP"] = 3.0
    for asked in (lambda: require_current(registered()["capped"]), lambda: register(order)):
        with pytest.raises(InputError, match=r"^a value that capped refers to has changed since it was registered: "):
            asked()
    exec("def capped(candidate, settings):\n    return candidate.size - CAP\n", scope)
    register(Order("capped", Capped, scope["capped"]))
    require_current(registered()["capped"])


def test_an_installed_package_brings_its_policies(tmp_path):
    """As `pip install` leaves them: modules, and a folder that names entry points and version."""
    about = tmp_path / "my_policies-0.3.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my-policies\nVersion: 0.3\n")
    lines = "".join(f"{name} = {name}:{policy}\n" for name, policy in NAMES.items())
    (about / "entry_points.txt").write_text(f"[batchcube.policies]\n{lines}")
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text((EXAMPLES / f"{name}.py").read_text())
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from batchcube.sweeps.cli.main import main; main()"

    def told(*words):
        done = subprocess.run([sys.executable, "-c", code, "policies", *words], capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    status, listed, _ = told()
    assert status == 0
    assert "aimd                 controller  Grow by addition, shrink by multiplication. (my-policies 0.3)" in listed
    assert "weighted_shortest    order       Serve the shortest predicted length for each request first." in listed
    status, one, _ = told("aimd")
    assert status == 0
    assert one.splitlines()[1] == "from my-policies 0.3"
    assert "  decrease               0.5          part that is left after a late one" in one
    status, _, error = told("amid")
    assert status == 2
    assert error == "batchcube: no policy amid; did you mean aimd?\n"
