"""Every rule of `problems`: settings that break it, and the nearest ones that do not."""

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcube.engine.continuous.ticks import TICKS_PER_S as STEP_TICKS_PER_S
from batchcube.engine.ticks import TICKS_PER_S
from batchcube.sweeps.spec import rules
from batchcube.sweeps.spec.rules import Problem, lost_by_rounding, problems
from batchcube.sweeps.spec.settings import SECTIONS, Point
from helpers.rules import RULES, Rule
from helpers.specifications import Tables, laid


def found(base: Tables, changes: Tables) -> list[Problem]:
    """Return the problems of the single point of tables with changes laid over them."""
    tables = laid(base, changes)
    return list(problems(Point(*(model.model_validate(tables.get(name, {})) for name, model in SECTIONS.items()))))


def told(problem: Problem) -> str:
    return f"{'.'.join(map(str, problem.path))}: {problem.text}"


@pytest.mark.usefixtures("outside_policies")
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.path}-{rule.text[:24]}")
def test_a_rule_is_broken_alone_and_kept(rule: Rule) -> None:
    (broken,) = found(rule.base, rule.broken)
    assert told(broken).startswith(f"{rule.path}: {rule.text}")
    assert found(rule.base, rule.kept) == []


@pytest.mark.usefixtures("outside_policies")
def test_every_rule_has_settings_here_that_break_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The places where `problems` makes a Problem are all reached."""
    reached: set[int] = set()

    def recorded(*parts: Any, **more: Any) -> Problem:
        reached.add(sys._getframe(1).f_lineno)
        return Problem(*parts, **more)

    monkeypatch.setattr(rules, "Problem", recorded)
    for rule in RULES:
        found(rule.base, rule.broken)
    assert rules.__file__ is not None
    calls = [
        node
        for node in ast.walk(ast.parse(Path(rules.__file__).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem"
    ]
    missed = [ast.unparse(node) for node in calls if not reached & set(range(node.lineno, node.end_lineno + 1))]
    assert calls
    assert missed == []


@pytest.mark.usefixtures("outside_policies")
def test_an_option_without_meaning_at_one_point_is_told_apart_from_a_mistake() -> None:
    idle = [rule.path for rule in RULES for problem in found(rule.base, rule.broken) if problem.idle]
    assert idle == [
        "server.replica.scheduler_reserve_full_isl",
        "workload.trace.hash_tokens",
        "workload.classes.1.priority",
        "server.replica.scheduling_policy",
        "workload.trace.columns.priority",
        "policy.admission",
        "server.routing",
        "server.lockstep",
    ]


@pytest.mark.parametrize("ticks_per_s", [TICKS_PER_S, STEP_TICKS_PER_S])
@given(ticks=st.floats(0.0, 1e6))
def test_a_time_is_refused_when_whole_ticks_change_it_by_a_hundredth(ticks_per_s: int, ticks: float) -> None:
    seconds = ticks / ticks_per_s
    exact = seconds * ticks_per_s
    refused = lost_by_rounding(seconds, ticks_per_s) is not None
    assert refused == (abs(round(exact) - exact) > 0.01 * exact)
    if ticks >= 50:
        assert not refused
