"""What signals leave behind that come while a file is at work."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from xarray.backends.locks import CombinedLock
from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK

from batchcube.results.signals import uninterrupted
from batchcube.results.storage import open_dataset

pytestmark = pytest.mark.usefixtures("heeded")


@pytest.fixture
def file(make_cube: Callable[..., xr.Dataset], tmp_path: Path) -> Path:
    make_cube()[["requests", "latency_mean_s"]].to_netcdf(tmp_path / "cube.nc")
    return tmp_path / "cube.nc"


def interrupted(monkeypatch: pytest.MonkeyPatch, moment: str, work: Callable[[], object]) -> int:
    """Interrupt what works with a file where it has taken or is to give back the lock of all; say how often it does.

    Each time it must be free afterwards.
    """
    plain = getattr(CombinedLock, moment)
    for count in range(100):
        left = [count]

        def now(lock: CombinedLock, *raised: Any, left: list[int] = left) -> None:
            if moment == "__enter__":
                plain(lock)
            left[0] -= 1
            if left[0] == -1:
                signal.raise_signal(signal.SIGINT)
            if moment == "__exit__":
                plain(lock, *raised)

        with monkeypatch.context() as patched:
            patched.setattr(CombinedLock, moment, now)
            try:
                work()
            except KeyboardInterrupt:
                pass
            else:
                return count
        if NETCDF4_PYTHON_LOCK.locked():
            NETCDF4_PYTHON_LOCK.release()  # nobody else could go on
            pytest.fail(f"interrupted at {moment} {count}, the lock is kept for ever")
    raise AssertionError("there is no end of it")


@pytest.mark.parametrize("moment", ["__enter__", "__exit__"])
def test_an_interrupt_while_reading_leaves_nobody_waiting(
    moment: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert interrupted(monkeypatch, moment, lambda: open_dataset(file, "a cube").close()) > 0
    opened = open_dataset(file, "a cube")
    assert interrupted(monkeypatch, moment, lambda: opened["latency_mean_s"].isel(replication=0).values) > 0
    assert interrupted(monkeypatch, moment, opened.close) > 0


def test_every_signal_is_handled_even_where_the_first_raises() -> None:
    came = []

    def note(number: int, _: object) -> None:
        came.append(number)
        raise KeyboardInterrupt(len(came))

    def work() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, note)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert came == [signal.SIGINT, signal.SIGINT]


def test_signals_are_handled_at_the_end_whatever_it_is() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("all")
            raise ValueError

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
