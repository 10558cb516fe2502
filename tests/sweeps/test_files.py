"""Files of the command line: refused early, written complete or not at all."""

from pathlib import Path

import pytest

from batchcube.sweeps.errors import UserError
from batchcube.sweeps.files import make_folder, require_new, write_text


def test_a_text_is_written_and_replaced(tmp_path):
    target = tmp_path / "a.csv"
    write_text(target, "one, τ\n")
    write_text(target, "two\n")
    assert target.read_bytes() == b"two\n"
    assert list(tmp_path.iterdir()) == [target]


def test_a_text_that_cannot_be_moved_into_place_leaves_what_was_there(tmp_path, monkeypatch):
    target = tmp_path / "a.csv"
    write_text(target, "old\n")

    def full(self, to):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=r"a\.csv: cannot be written: No space left on device$"):
        write_text(target, "new\n")
    assert target.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_there_is_not_written_over(tmp_path):
    there = tmp_path / "b.json"
    require_new(tmp_path / "a.json", there)
    there.touch()
    with pytest.raises(UserError, match=r"b\.json: is there already; choose another output, or --overwrite$"):
        require_new(tmp_path / "a.json", there)


def test_folders_are_made_and_files_in_their_way_are_said(tmp_path):
    make_folder(tmp_path / "x" / "y")
    make_folder(tmp_path / "x" / "y")
    assert (tmp_path / "x" / "y").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: is a file, must be a folder$"):
        make_folder(tmp_path / "file")
    with pytest.raises(UserError, match=r"z: cannot be written: Not a directory$"):
        make_folder(tmp_path / "file" / "z")
