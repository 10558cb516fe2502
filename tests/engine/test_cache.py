import errno
import logging
import os
import stat
import tempfile
from pathlib import Path

import pytest

from batchcube.engine import cache
from batchcube.engine.cache import cache_directory


@pytest.fixture
def spare(tmp_path, monkeypatch, caplog):
    """A folder for temporary files of its own; the cache is looked for anew."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BATCHCUBE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    caplog.set_level(logging.WARNING)
    cache.note.cache_clear()
    yield folder / f"batchcube-kernels-{os.geteuid()}"
    cache.note.cache_clear()


def found():
    return cache_directory.__wrapped__()


def test_the_folder_follows_the_environment_and_is_closed_to_others(spare, tmp_path, monkeypatch, caplog):
    assert found() == tmp_path / "home" / ".cache" / "batchcube" / "kernels"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert found() == tmp_path / "xdg" / "batchcube" / "kernels"
    monkeypatch.setenv("BATCHCUBE_CACHE", str(tmp_path / "chosen"))
    folder = found()
    assert folder == tmp_path / "chosen" / "batchcube" / "kernels"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert caplog.messages == []


def test_a_relative_folder_of_xdg_is_ignored(spare, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert found() == tmp_path / "home" / ".cache" / "batchcube" / "kernels"
    assert not Path("relative").exists()


def test_a_relative_folder_that_was_chosen_counts_from_here(spare, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCHCUBE_CACHE", "here")
    assert found() == tmp_path / "here" / "batchcube" / "kernels"


def test_a_folder_that_others_only_read_is_closed(spare, tmp_path, monkeypatch, caplog):
    folder = found()
    folder.chmod(0o755)
    assert found() == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert caplog.messages == []


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_can_write_to_is_refused(spare, caplog, mode):
    folder = found()
    folder.chmod(mode)
    assert found() == spare
    assert caplog.messages == [
        f"batchcube: {folder}: others can write to it; compiled kernels are kept in {spare}",
    ]
    assert stat.S_IMODE(folder.stat().st_mode) == mode
    assert stat.S_IMODE(spare.stat().st_mode) == 0o700


def test_a_folder_of_somebody_else_is_refused_wherever_it_lies(spare, monkeypatch, caplog):
    folder = found()
    spare.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    mine = spare.with_name(f"batchcube-kernels-{os.geteuid()}")
    spare.rename(mine)
    assert found() is None
    assert caplog.messages == [
        f"batchcube: {folder}: belongs to another user; {mine}: belongs to another user; compiled kernels are not kept"
    ]


def test_where_the_home_cannot_be_written_every_run_finds_the_same_spare_folder(spare, tmp_path, caplog):
    (tmp_path / "home").write_text("in the way")
    assert [found(), found()] == [spare, spare]
    assert [path.name for path in spare.parent.iterdir()] == [spare.name]
    (message,) = caplog.messages
    assert os.strerror(errno.ENOTDIR) in message
    assert str(spare) in message


def test_without_a_home_the_spare_folder_serves(spare, monkeypatch, caplog):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user whom the system does not know
    assert found() == spare
    (message,) = caplog.messages
    assert message.startswith("batchcube: no home directory")


def test_with_no_folder_at_all_nothing_is_kept_and_that_is_said(spare, tmp_path, monkeypatch, caplog):
    (tmp_path / "home").write_text("in the way")
    spare.write_text("in the way")
    assert found() is None
    (message,) = caplog.messages
    assert message.endswith("; compiled kernels are not kept")
