"""Which progress is shown where; a notebook is played by a stand-in for IPython."""

import re
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import xarray as xr

from batchcube.sweeps import progress as progresses
from batchcube.sweeps.progress import (
    NOTHING_YET,
    Bar,
    NotebookBar,
    PlainLines,
    Silent,
    print_lines,
    shown,
    tell_notes,
)


class Handle:
    """What `display` returns: keeps what is shown."""

    def __init__(self, first: Any) -> None:
        self.shown = [first]

    def update(self, what: Any) -> None:
        self.shown.append(what)


@pytest.fixture
def handles(monkeypatch: pytest.MonkeyPatch) -> list[Handle]:
    found: list[Handle] = []

    def display(what: Any, *, display_id: bool) -> Handle:
        assert display_id
        found.append(Handle(what))
        return found[-1]

    ipython: Any = ModuleType("IPython")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=None)
    ipython.display = ModuleType("IPython.display")
    ipython.display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    return found


def test_a_notebook_shows_one_bar_that_moves(handles: list[Handle], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NotebookBar, "seconds_between", 0.0)
    with shown() as progress:
        assert isinstance(progress, NotebookBar)
        progress.start(3, 2, 1000)
        progress.advance(250)
        progress.finish_replications(2)
        progress.advance(750)
    (handle,) = handles
    assert [bar.share for bar in handle.shown] == [0.0, 0.25, 1.0, 1.0]
    assert repr(handle.shown[0]) == "3 points x 2 replications, 1,000 requests"
    assert re.fullmatch(r"100 %: 2 of 2 replications, \S+ requests/s, took \S+ s", repr(handle.shown[-1]))
    assert handle.shown[1]._repr_html_().startswith('<div><progress value="0.2500" max="1"')


def test_a_notebook_keeps_what_was_seen_below_its_bar(handles: list[Handle]) -> None:
    with shown() as progress:
        for _ in range(2):
            progress.start(3, 2, 1000)
            progress.advance(1000)
            progress.say("look at <2> replications")
    (handle,) = handles
    first, *seen = repr(handle.shown[-1]).splitlines()
    assert first.startswith("100 %")
    assert seen == ["look at <2> replications"] * 2
    assert handle.shown[-1]._repr_html_().count("<br>look at &lt;2&gt; replications") == 2


def test_a_notebook_shows_notes_once_and_not_as_errors(
    handles: list[Handle], capsys: pytest.CaptureFixture[str]
) -> None:
    cube = xr.Dataset(attrs={"notes": "one <b>\ntwo\x1b[2J"})
    tell_notes(cube)
    (handle,) = handles
    assert repr(handle.shown[0]) == "note: one <b>\nnote: two\\x1b[2J"
    assert handle.shown[0]._repr_html_() == "<div>note: one &lt;b&gt;<br>note: two\\x1b[2J</div>"
    tell_notes(xr.Dataset(attrs={"notes": ""}))
    assert len(handles) == 1
    assert capsys.readouterr().err == ""


def test_of_lines_a_notebook_shows_the_last_and_folds_the_others(handles: list[Handle]) -> None:
    say = print_lines()
    for line in ("one", "two", "three"):
        say(line)
    print_lines(quiet=True)("nothing")
    (handle,) = handles
    assert [repr(what) for what in handle.shown] == ["one", "two", "three"]
    assert handle.shown[-1]._repr_html_() == "<div><details><summary>three</summary>one<br>two</details></div>"


@pytest.mark.parametrize("kind", [PlainLines, Bar])
def test_while_nothing_is_finished_it_is_said_why(
    kind: type[PlainLines] | type[Bar], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with kind() as progress:
        progress.start(2, 2, 2000)
        progress.advance(0)
        monkeypatch.setattr(progresses, "SECONDS_TO_WONDER", 0.0)
        progress.advance(0)
        progress.advance(0)
    assert capsys.readouterr().err.count(NOTHING_YET) == 1


def test_outside_of_a_kernel_ipython_is_a_terminal(handles: list[Handle], monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, kind in ((True, Bar), (False, PlainLines)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr(sys.modules["IPython"], "get_ipython", SimpleNamespace)
        assert isinstance(shown(), kind)
    with shown(quiet=True) as progress:
        assert isinstance(progress, Silent)
    assert handles == []


def test_of_what_is_soon_done_a_line_counts_as_people_do(capsys: pytest.CaptureFixture[str]) -> None:
    for points, replications, requests in ((1, 1, 1), (2, 3, 999_700), (4, 20, 2_500_000_000)):
        with PlainLines() as lines:
            lines.start(points, replications, requests)
            lines.show("so far: 8 to 9 s")
            lines.finish_replications(replications)
            lines.advance(requests)
    told = [line.split(", ") for line in capsys.readouterr().err.splitlines()]
    assert [words[:2] for words in told] == [
        ["1 point x 1 replication", "1 request"],
        ["2 points x 3 replications", "1M requests"],
        ["4 points x 20 replications", "2.5G requests"],
    ]
    assert all(re.fullmatch(r"took \S+ s", words[-1]) for words in told)


def finished_of(line: str) -> int:
    return int(line.partition(": ")[2].partition(" of ")[0].replace(",", ""))


def test_lines_become_rarer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progresses.time, "monotonic", lambda: clock.now)
    with PlainLines() as lines:
        lines.start(1, 3600, 3600)
        for clock.now in range(1, 3601):
            lines.finish_replications(1)
            lines.advance(1)
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "1 point x 3,600 replications, 3,600 requests"
    # After 5 s, then after twice as long each time, 10 minutes at most.
    due = [5, 15, 35, 75, 155, 315, 635, 1235, 1835, 2435, 3035, 3600]
    assert [finished_of(line) for line in told[1:]] == due
    with progresses.Counting(3600, "fitting") as counting:
        for clock.now in range(3601, 7201):
            counting.advance()
    told = capsys.readouterr().err.splitlines()
    assert [finished_of(line) for line in told] == due


def test_work_may_be_announced_again_after_what_was_seen(capsys: pytest.CaptureFixture[str]) -> None:
    for progress in (PlainLines(), Bar()):
        with progress:
            for _ in range(2):
                progress.start(3, 2, 1000)
                progress.advance(1000)
                progress.finish_replications(2)
                progress.say("look at 2 replications")
        shown_lines = capsys.readouterr().err
        assert shown_lines.count("look at 2 replications") == 2
        assert "4 of 2" not in shown_lines
        assert "4/2" not in shown_lines


def test_lines_tell_the_first_result_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progresses, "SECONDS_TO_WONDER", 0.0)
    with PlainLines() as lines:
        lines.start(2, 3, 3000)
        for count in (1, 2, 3):
            lines.show(f"in {count}: 8 to 9 s")
            lines.finish_replications(1)
            lines.advance(1000)
    told = capsys.readouterr().err.splitlines()
    assert told[1] == "in 1: 8 to 9 s"
    assert len(told) == 3


def test_a_bar_ends_with_the_last_result(capsys: pytest.CaptureFixture[str], handles: list[Handle]) -> None:
    for progress in (Bar(), NotebookBar()):
        with progress:
            progress.start(2, 2, 2000)
            for count in (1, 2):
                progress.show(f"in {count}: 8 to 9 s")
                progress.finish_replications(1)
                progress.advance(1000)
    assert "in 2: 8 to 9 s" in capsys.readouterr().err
    assert repr(handles[0].shown[-1]).endswith(" s; in 2: 8 to 9 s")
