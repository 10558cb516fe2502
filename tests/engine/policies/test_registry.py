import subprocess
import sys
from typing import Annotated, NamedTuple

import pytest

from batchcube.engine.policies import Controller, Order, registry
from batchcube.engine.policies.registry import names, register, registered, settings_of, summary_of
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


class Word(NamedTuple):
    word: str = "x"


class Name(NamedTuple):
    name: float = 1.0


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (Order("round_robin", Number, key), "'round_robin': must be letters, digits and _, and no policy of batchcube"),
        (Order("two words", Number, key), "'two words': must be letters, digits and _"),
        (Order("wordy", Word, key), "wordy.word = <class 'str'>: must be a number, true or false"),
        (Order("named", Name, key), "must be a number, true or false, and not called name or signal"),
    ],
)
def test_what_cannot_be_registered_is_refused(order, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        register(order)
    assert registered() == {}


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
