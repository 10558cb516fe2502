import json
from pathlib import Path

import pytest

from batchcube.sweeps import presets
from helpers.command_line import Answer


def test_specs_lists_prints_and_copies_presets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = Answer(capsys, "specs").out.splitlines()
    assert [line.split()[0] for line in listed] == list(presets.names())
    name = presets.names()[0]
    text = presets.read(name).decode()
    assert Answer(capsys, "specs", name).out == text
    copy = tmp_path / "copy.toml"
    assert Answer(capsys, "specs", name, "-o", copy).status == 0
    assert copy.read_text() == text
    assert Answer(capsys, "specs", name, "-o", copy).mistake == f"{copy}: is there already"
    for other in (tmp_path / "copy.txt", tmp_path / "copy"):
        assert Answer(capsys, "specs", name, "-o", other).mistake == f"{other}: must end in .toml"
        assert not other.exists()


def test_schema_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(Answer(capsys, "schema").out)["title"] == "batchcube sweep"
