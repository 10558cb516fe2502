from pathlib import Path

import pytest

from helpers.command_line import Answer


def test_show_prints_intervals(cube: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Answer(capsys, "show", cube, "-v", "throughput_requests_per_s").out
    assert "A small sweep" in out
    assert "±" in out
