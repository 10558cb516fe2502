import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest

from batchcube.engine.policies.text import text_digest

MODULE = """
from enum import IntEnum
from math import sqrt
from typing import NamedTuple
import numpy as np
import helper

class Settings(NamedTuple):
    step: float = {default}

class Kind(IntEnum):
    A = {member}

LEVELS = np.array([1.0, {level}])

def inner(x):
    return sqrt(x) + {inner}  # {comment}

def made(by):
    return lambda x: x + by

outer = made({by})

def decide(state, view, settings, most={most}):
    def nested(x):
        return x + {nested}
    return state, inner(view) + Kind.A + LEVELS[0] + outer(view) + helper.grow(view) + nested(1.0)
"""
HELPER = "def grow(x):\n    return x + {helper}\n"
NAMES = ("default", "member", "level", "inner", "comment", "by", "most", "nested", "helper")
VALUES = dict.fromkeys(NAMES, 1)


def digest(folder: Any, **changed: Any) -> str:
    """The digest in a process that has the module, and its helper, in files."""
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(MODULE.format(**VALUES | changed))
    (folder / "helper.py").write_text(HELPER.format(**VALUES | changed))
    code = (
        "from batchcube.engine.policies.text import text_digest; import mine; "
        "print(text_digest([mine.decide], mine.Settings))"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def test_another_process_finds_the_same_and_every_part_that_is_changed(tmp_path):
    found = [digest(tmp_path / "a"), digest(tmp_path / "b")]
    found += [digest(tmp_path / name, **{name: 2}) for name in VALUES]
    assert found[0] == found[1]
    assert len(set(found)) == 1 + len(VALUES)


class Settings(NamedTuple):
    share: float = 1.0


def in_a_notebook(**changed: Any) -> Any:
    """A function of which there is no file."""
    values = {"start": 8.0, "cap": 64.0} | changed
    text = "def init(view):\n    inner = lambda x: x * {start}\n    return inner(CAP)\nCAP = {cap}\n"
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text.format(**values), "<cell>", "exec"), scope)
    return scope["init"]


def test_without_a_file_it_is_the_code():
    found = [text_digest([in_a_notebook(**given)], Settings) for given in ({}, {}, {"start": 2.0}, {"cap": 3.0})]
    assert found[0] == found[1]
    assert len(set(found)) == 3


@pytest.mark.parametrize("value", [2.0, "two", (1.0, 2.0), [2.0], {"two": 2.0}, np.arange(2), np.float64(2.0), np.cos])
def test_a_global_that_changes_is_seen(value):
    function = in_a_notebook()
    before = text_digest([function], Settings)
    function.__globals__["CAP"] = value
    assert text_digest([function], Settings) != before


def test_functions_that_call_each_other_have_an_end():
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    assert len(text_digest([even], Settings)) == 64
