"""Commands that are killed and given again end in the same answer, and leave nothing behind."""

import sys

import pytest

import killed


@pytest.mark.parametrize("command", ["capacity", "plan"])
def test_a_killed_command_ends_in_the_same_answer(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["killed.py", command, "--kills", "2"])
    status = killed.main()
    out = capsys.readouterr().out
    assert status == 0, out
    assert "2 times SIGKILL" in out
