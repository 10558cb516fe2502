import logging

import pytest

from batchcube.engine import cache


@pytest.fixture
def kept(tmp_path, monkeypatch, caplog):
    """The folder of a cache of its own."""
    monkeypatch.setenv("BATCHCUBE_CACHE", str(tmp_path))
    cache.cache_directory.cache_clear()
    cache.note.cache_clear()
    caplog.set_level(logging.WARNING)
    yield tmp_path / "batchcube" / "kernels"
    cache.cache_directory.cache_clear()
    cache.note.cache_clear()
