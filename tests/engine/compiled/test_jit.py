import shutil
from pathlib import Path

import numpy as np
import pytest
from numba.core import config

from batchcube.engine.compiled import jit as module
from batchcube.engine.compiled.jit import ENGINE, cache_directory, jit


@pytest.fixture
def engine_copy(tmp_path, monkeypatch):
    """A copy of the engine's sources that the cache folder is named after, and a cache of its own."""
    copy = tmp_path / "engine"
    shutil.copytree(ENGINE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(module, "ENGINE", copy)
    monkeypatch.setenv("BATCHCUBE_CACHE", str(tmp_path / "cache"))
    return copy


def folder() -> Path:
    return cache_directory.__wrapped__()


def test_the_folder_follows_batchcube_cache(engine_copy, tmp_path):
    found = folder()
    assert found.is_dir()
    assert found.parent == tmp_path / "cache" / "batchcube"
    assert list(found.iterdir()) == []


def test_without_batchcube_cache_the_users_cache_serves(engine_copy, tmp_path, monkeypatch):
    monkeypatch.delenv("BATCHCUBE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert folder().parent == tmp_path / "xdg" / "batchcube"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert folder().parent == tmp_path / "home" / ".cache" / "batchcube"


@pytest.mark.parametrize("source", ["policies/sla.py", "compiled/heap.py", "dialect.py"])
def test_another_source_is_another_folder(engine_copy, source):
    before = folder()
    assert folder() == before
    with (engine_copy / source).open("a") as file:
        file.write("\n")
    assert folder() != before


def test_a_new_source_is_another_folder_and_other_files_are_not(engine_copy):
    before = folder()
    (engine_copy / "notes.txt").write_text("x")
    assert folder() == before
    (engine_copy / "policies" / "new.py").write_text("x = 1\n")
    assert folder() != before


def test_where_nothing_can_be_written_a_temporary_folder_serves(engine_copy, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BATCHCUBE_CACHE", str(tmp_path / "file"))
    found = folder()
    try:
        assert found.is_dir()
        assert found.name.startswith("batchcube-kernels-")
        assert tmp_path not in found.parents
    finally:
        shutil.rmtree(found)


def test_compiling_leaves_numbas_own_cache_folder_alone_and_follows_numpys_rules():
    before = config.CACHE_DIR

    @jit
    def divide(a, b, out):
        out[0] = a[0] / b[0]

    out = np.empty(1)
    divide(np.ones(1), np.zeros(1), out)
    assert np.isinf(out[0])
    assert before == config.CACHE_DIR
    assert divide.targetoptions["nogil"]
