"""Finished work survives: whatever ends a run, the next one continues it and leaves nothing behind."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from batchcube.errors import InputError
from batchcube.results import cube as cubes
from batchcube.results.cube import read_cube, write_cube
from batchcube.results.disk import UnwritableError
from batchcube.results.provenance import batchcube_version
from batchcube.sweeps import claim
from batchcube.sweeps.progress import Silent
from batchcube.sweeps.run import replicating
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.run.simulate import require_backend
from batchcube.sweeps.run.store import Part, PartsFile, Store
from batchcube.sweeps.spec.document import Sweep
from batchcube.sweeps.stopping import Stop, stopping
from helpers.command_line import Answer
from helpers.specifications import RATES, SMALL

POINTS = 6


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL + RATES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    file = tmp_path_factory.mktemp("whole") / "small.toml"
    file.write_text(SMALL + RATES)
    with np.errstate(all="raise"):
        return run_sweep(Sweep.from_toml(file), workers=1, backend="reference")


def run(replications: int = 3, *, output: str | None = "cube.nc", workers: int = 1, **options: Any) -> xr.Dataset:
    made = Sweep.from_toml("small.toml", [f"replications={replications}"])
    return run_sweep(made, output, workers=workers, backend="reference", **options)


def same(a: xr.Dataset, b: xr.Dataset) -> None:
    xr.testing.assert_equal(a.drop_attrs(deep=False), b.drop_attrs(deep=False))


def files() -> list[str]:
    return sorted(file.name for file in Path().iterdir() if file.name != "small.toml")


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The replication and points of each block that is simulated."""
    done: list[tuple[int, ...]] = []
    simulate = replicating.simulate_parts

    def noted(*arguments: Any) -> list[Part]:
        parts = simulate(*arguments)
        done.extend((part.replication, k) for part in parts for k in part.points)
        return parts

    monkeypatch.setattr(replicating, "simulate_parts", noted)
    return done


# Signals ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def signals() -> Iterator[None]:
    """Signals as a program in the foreground meets them; the tests may have been started with some ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    for number in numbers:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


class StopAfterOne(Silent):
    def __init__(self, number: int = signal.SIGINT) -> None:
        self.number = number

    def finish_replications(self, count: int) -> None:
        signal.raise_signal(self.number)


def test_where_nothing_can_be_written_a_cube_that_is_complete_is_returned(
    whole: xr.Dataset, monkeypatch: pytest.MonkeyPatch, simulated: list[tuple[int, ...]]
) -> None:
    run()
    simulated.clear()
    make_folder = claim.make_folder

    def refuse(folder: Path) -> None:  # permissions would stop everybody but root
        if folder.name.endswith(".partial"):
            raise UnwritableError("cannot be written: Read-only file system", file=folder)
        make_folder(folder)

    monkeypatch.setattr(claim, "make_folder", refuse)
    same(run(), whole)
    assert not simulated
    for replications, overwrite in ((4, False), (3, True)):
        with pytest.raises(InputError, match=r"^cube.nc.partial: cannot be written: Read-only file system$"):
            run(replications, overwrite=overwrite)
    assert files() == ["cube.nc"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_a_run_which_keeps_what_is_finished(
    signals: None, number: int, whole: xr.Dataset, simulated: list[tuple[int, ...]]
) -> None:
    handlers = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        run(progress=StopAfterOne(number))
    assert signal.getsignal(number) == handlers
    before = set(simulated)
    simulated.clear()
    same(run(), whole)
    assert simulated
    assert not before & set(simulated)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_command_says_what_is_kept_and_which_signal_ended_it(
    signals: None, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Silent, "finish_replications", lambda self, count: signal.raise_signal(number))
    command = ["run", "small.toml", "-o", "cube.nc", "-q", "--workers", "1", "--backend", "reference"]
    stopped = Answer(capsys, *command)
    assert stopped.status == 128 + number
    assert stopped.out == ""
    with Store(Path("cube.nc")) as store:
        kept = store.open(identity(), require_backend("reference"), range(3))
        assert stopped.err == f"batchcube: stopped. {store.tell(POINTS, range(3))}\n"
    assert sum(len(part.points) for part in kept) >= POINTS


def identity(replications: int = 3) -> dict[str, str]:
    sweep = Sweep.from_toml("small.toml", [f"replications={replications}"])
    return {"run": sweep.identity(), "version": batchcube_version(), "input_sha256": ""}


def test_a_second_signal_does_not_interrupt_the_save(
    signals: None, whole: xr.Dataset, monkeypatch: pytest.MonkeyPatch, simulated: list[tuple[int, ...]]
) -> None:
    save = np.savez

    def save_under_fire(*arguments: Any, **arrays: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        save(*arguments, **arrays)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, stopping() as stop:
        patch.setattr(np, "savez", save_under_fire)
        with pytest.raises(KeyboardInterrupt):
            run(progress=StopAfterOne())
    before = set(simulated)
    with Store(Path("cube.nc")) as store:
        kept = store.open(identity(), require_backend("reference"), range(3))
        assert stop.kept == store.tell(POINTS, range(3))
    assert {(part.replication, k) for part in kept for k in part.points} >= {(0, k) for k in range(POINTS)}
    simulated.clear()
    same(run(), whole)
    assert {(part.replication, k) for part in kept for k in part.points}.isdisjoint(simulated)
    assert before | set(simulated) == {(r, k) for r in range(3) for k in range(POINTS)}


def test_a_run_in_another_thread_takes_no_signal_from_the_main_one(signals: None) -> None:
    with stopping() as mine, ThreadPoolExecutor(1) as pool:

        def stop_of_the_thread() -> Stop:
            with stopping() as theirs:
                return theirs

        def signalled() -> None:
            with mine.held():
                signal.raise_signal(signal.SIGINT)
                theirs = pool.submit(stop_of_the_thread).result()
                assert (mine.number, theirs.number) == (signal.SIGINT, None)

        with pytest.raises(KeyboardInterrupt):
            signalled()


class Finalized:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_a_signal_whose_interrupt_is_dropped_stops_all_the_same(
    signals: None, monkeypatch: pytest.MonkeyPatch, simulated: list[tuple[int, ...]]
) -> None:
    """Python drops what is raised in a finalizer."""
    dropped: list[type] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: dropped.append(told.exc_type))
    with stopping():
        Finalized()
        assert dropped == [KeyboardInterrupt]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert simulated == []


def test_signals_on_the_way_out_interrupt_nothing(signals: None) -> None:
    left = []

    def twice(stop: Stop) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            left.append(stop.is_urgent)

    with stopping() as stop, pytest.raises(KeyboardInterrupt):
        twice(stop)
    assert left == [True]


def test_a_signal_that_was_ignored_stays_ignored(signals: None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert run(1, progress=StopAfterOne()).sizes["replication"] == 1


def test_points_of_one_long_replication_are_kept_for_any_number_of_workers(
    whole: xr.Dataset, simulated: list[tuple[int, ...]]
) -> None:
    class StopOnTheWay(Silent):
        def advance(self, requests: int) -> None:
            raise KeyboardInterrupt

    with stopping() as stop, pytest.raises(KeyboardInterrupt):
        run(1, progress=StopOnTheWay())
    before = set(simulated)
    assert 0 < len(before) < POINTS
    assert stop.kept.startswith(f"0 of 1 replications and {len(before)} points of others are kept in ")
    simulated.clear()
    same(run(3, workers=3), whole)
    assert len(simulated) == 3 * POINTS - len(before)
    assert before.isdisjoint(simulated)


def test_a_cube_that_cannot_be_written_loses_nothing(
    whole: xr.Dataset, monkeypatch: pytest.MonkeyPatch, simulated: list[tuple[int, ...]]
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(xr.Dataset, "dump_to_store", full)
        with pytest.raises(OSError, match=r"cube\.nc: cannot be written: No space left on device"):
            run()
    assert files() == ["cube.nc.partial"]
    simulated.clear()
    same(run(), whole)
    assert simulated == []
    assert files() == ["cube.nc"]


# Kills --------------------------------------------------------------------------------------------------------------

KILLED = """
import os
import signal
import sys

from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.spec.document import Sweep


def kill(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)


{patch}
run_sweep(Sweep.from_toml("small.toml", sys.argv[1:]), "cube.nc", workers=1, backend="reference")
"""
BEFORE_THE_FIRST_PART = "from pathlib import Path; Path.replace = kill"
BEFORE_THE_LOCK = "from batchcube.sweeps import claim; claim.lock = kill"
WHILE_WRITING = """
import xarray

write = xarray.Dataset.dump_to_store


def half(self, store, **options):
    write(self, store, **options)
    store.sync()
    os.truncate(store.ds.filepath(), 1000)
    kill()


xarray.Dataset.dump_to_store = half
"""
AFTER_THE_CUBE = "from batchcube.sweeps.run.store import Store; Store.forget = lambda self, held: held and kill()"


def kill(patch: str, *overrides: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED.format(patch=patch), *overrides], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("patch", [BEFORE_THE_LOCK, BEFORE_THE_FIRST_PART, WHILE_WRITING, AFTER_THE_CUBE])
@pytest.mark.parametrize("extending", [False, True])
def test_a_killed_run_is_continued_and_leaves_nothing(patch: str, extending: bool, whole: xr.Dataset) -> None:
    if extending:
        run(1)
    kill(patch)
    assert [name for name in files() if name != "cube.nc"]
    same(run(), whole)
    same(read_cube("cube.nc"), whole)
    assert files() == ["cube.nc"]


def test_a_kill_while_writing_costs_nothing_that_was_simulated(simulated: list[tuple[int, ...]]) -> None:
    kill(WHILE_WRITING)
    run()
    assert simulated == []


LEAVING_A_LOCK = """
import signal
from xarray.backends.locks import CombinedLock

leave = CombinedLock.__exit__
# In the background of a shell it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupted(self, *raised):
    if sys._getframe(1).f_code.co_name == "__setitem__":
        CombinedLock.__exit__ = leave
        signal.raise_signal(signal.SIGINT)
    leave(self, *raised)


CombinedLock.__exit__ = interrupted
"""


def test_an_interrupt_while_writing_leaves_nobody_waiting(whole: xr.Dataset) -> None:
    """Raised where xarray leaves its lock, it would keep it, and the file could never be closed."""
    program = KILLED.format(patch=LEAVING_A_LOCK)
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=120, stderr=subprocess.PIPE)
    assert done.returncode == -signal.SIGINT, done.stderr
    assert files() == ["cube.nc.partial"]
    same(run(), whole)
    assert files() == ["cube.nc"]


def test_parts_that_others_are_writing_are_left_alone(tmp_path: Path) -> None:
    """A part of a process that lives looks like one of a dead process."""
    run(1)
    cube = read_cube("cube.nc")
    part = tmp_path / ".cube.nc.0123abcd.part"
    other = tmp_path / ".other.nc.0123abcd.part"
    holder = "import fcntl, os, sys; fcntl.flock(os.open('.', os.O_RDONLY), fcntl.LOCK_SH); print(flush=True); input()"
    part.touch()
    other.touch()
    with subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        write_cube(cube, "cube.nc")
        assert part.exists()
        process.communicate(b"\n")
    write_cube(cube, "cube.nc")
    assert files() == [other.name, "cube.nc"]


@pytest.mark.parametrize("harm", [lambda data: b"", lambda data: data[:100], lambda data: data[:-9] + b"x" + data[-8:]])
def test_a_damaged_part_costs_only_itself(
    signals: None,
    harm: Callable[[bytes], bytes],
    whole: xr.Dataset,
    simulated: list[tuple[int, ...]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(progress=StopAfterOne())
    kept = sorted(Path("cube.nc.partial").glob("*.parts"))
    assert len(kept) > 1
    held = PartsFile.opened(kept[0])
    assert held is not None
    lost = {(part.replication, k) for part in held.parts for k in part.points}
    kept[0].write_bytes(harm(kept[0].read_bytes()))
    before = set(simulated)
    simulated.clear()
    same(run(), whole)
    assert caplog.messages == [f"batchcube: {kept[0]}: is damaged and was removed; what it held is done again"]
    assert lost <= set(simulated)
    assert (before - lost).isdisjoint(simulated)
    assert files() == ["cube.nc"]


def test_fewer_replications_leave_what_is_kept_of_others(simulated: list[tuple[int, ...]], whole: xr.Dataset) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(progress=StopAtTheEnd())
    run(1)
    assert files() == ["cube.nc", "cube.nc.partial"]
    simulated.clear()
    same(run(), whole)
    assert simulated == []
    assert files() == ["cube.nc"]


class StopAtTheEnd(Silent):
    finished = 0

    def finish_replications(self, count: int) -> None:
        self.finished += count
        if self.finished == 3:
            raise KeyboardInterrupt


def test_an_empty_folder_is_no_stopped_run(whole: xr.Dataset) -> None:
    Path("cube.nc.partial").mkdir()
    same(run(), whole)
    assert files() == ["cube.nc"]


# Two writers --------------------------------------------------------------------------------------------------------


def test_the_second_writer_of_an_output_is_refused_with_the_process_of_the_first(whole: xr.Dataset) -> None:
    other = (
        "from batchcube.sweeps.run.store import Store; from pathlib import Path\n"
        "with Store(Path('cube.nc')): print(flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", other], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(InputError, match=rf"^cube\.nc: is being written by process {process.pid} on "):
            run()
        run(output="another.nc")
        process.kill()
    same(run(), whole)
    assert files() == ["another.nc", "cube.nc"]


def test_a_folder_that_cannot_be_locked_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, whole: xr.Dataset
) -> None:
    def no_locks(opened: int, **options: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("batchcube.sweeps.claim.lock", no_locks)
    same(run(), whole)
    assert caplog.messages == [
        "batchcube: cube.nc.partial: cannot be locked (No locks available): take care that no other process writes "
        "cube.nc at the same time"
    ]
    assert files() == ["cube.nc"]


@pytest.mark.parametrize("before", [0, 1])
def test_a_cube_that_somebody_else_wrote_meanwhile_is_not_replaced(
    before: int, whole: xr.Dataset, simulated: list[tuple[int, ...]]
) -> None:
    run(2, output="longer.nc")

    class Meanwhile(Silent):
        def start(self, points: int, replications: int, requests: int) -> None:
            os.replace("longer.nc", "cube.nc")

    if before:
        run(before)
    with pytest.raises(InputError, match=r"^cube\.nc: was written by somebody else while this ran; what was simulated"):
        run(3, progress=Meanwhile())
    assert read_cube("cube.nc").sizes["replication"] == 2
    simulated.clear()
    same(run(), whole)
    assert simulated == []


@pytest.mark.parametrize("at", ["write", "fsync"])
def test_a_full_disk_is_named_and_nothing_is_left(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"os.{at}", full)
    with pytest.raises(InputError, match=r"^out/cube\.nc\.partial: cannot be written: No space left on device$"):
        run(output="out/cube.nc")
    assert files() == []


# Outputs that cannot be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["run"], ["capacity", "--slo", "wait_mean_s=1"]])
def test_links_to_nowhere_are_refused_before_anything_is_simulated(
    command: list[str], simulated: list[tuple[int, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("small.toml").write_text(SMALL.replace('"poisson"', '"poisson"\nrate_per_s = 0.1'))
    Path("circle.nc").symlink_to("circle.nc")
    Path("dangling.nc").symlink_to("nothing.nc")
    for name, said in (("circle.nc", "to itself"), ("dangling.nc", "to a file that is not there")):
        refused = Answer(capsys, *command, "small.toml", "-o", name)
        assert refused.mistake == f"{name}: is a symbolic link {said}; remove it, or choose another output"
    os.mkfifo("pipe.nc")
    assert Answer(capsys, *command, "small.toml", "-o", "pipe.nc").mistake.startswith("pipe.nc: is a special file")
    assert simulated == []


def test_a_link_to_a_cube_is_followed(whole: xr.Dataset) -> None:
    Path("elsewhere").mkdir()
    run(1, output="elsewhere/real.nc")
    Path("cube.nc").symlink_to("elsewhere/real.nc")
    same(run(), whole)
    same(read_cube("elsewhere/real.nc"), whole)
    assert Path("cube.nc").is_symlink()
    assert [file.name for file in Path("elsewhere").iterdir()] == ["real.nc"]


# Cubes that were changed ---------------------------------------------------------------------------------------------


def edited(change: Callable[[Any], None]) -> None:
    """Change the file of a cube behind the package's back."""
    import netCDF4

    with netCDF4.Dataset("cube.nc", "a") as file:
        change(file)


def edit_value(file: Any) -> None:
    file["throughput_requests_per_s"][0, 0, 0] = 5.0


def edit_specification(file: Any) -> None:
    file.specification = file.specification.replace("0.1", "0.3")


def edit_axis(file: Any) -> None:
    file["bins"][0] = 3


def drop_checksum(file: Any) -> None:
    del file.content_sha256


def doubts_of(path: str) -> list[str]:
    doubts: list[str] = []
    read_cube(path, doubts.append)
    return doubts


CHANGED = "was changed after it was written: its content has another checksum"


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cube of two replications, to be copied."""
    folder = tmp_path_factory.mktemp("of_two")
    (folder / "small.toml").write_text(SMALL + RATES)
    made = Sweep.from_toml(folder / "small.toml", ["replications=2"])
    with np.errstate(all="raise"):
        run_sweep(made, folder / "cube.nc", workers=1, backend="reference")
    return folder / "cube.nc"


def test_a_cube_that_was_not_changed_raises_no_doubts(of_two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not doubts_of(str(of_two))
    assert "checksum" not in Answer(capsys, "show", str(of_two)).out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit_value, CHANGED),
        (edit_specification, CHANGED),
        (edit_axis, CHANGED),
        (drop_checksum, "has no checksum of its content: it may have been changed after it was made"),
    ],
)
def test_a_cube_that_was_changed_is_told_and_not_continued(
    change: Callable[[Any], None], said: str, of_two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(of_two, "cube.nc")
    edited(change)
    first = f"cube.nc: {said}"
    assert Answer(capsys, "show", "cube.nc").out.splitlines()[0] == first
    assert Answer(capsys, "compare", "cube.nc", "cube.nc").out.splitlines()[0] == first
    drawn = Answer(capsys, "figure", "throughput-vs-bins", "cube.nc", "-o", "bins.png")
    assert drawn.err.splitlines()[0] == first
    assert Answer(capsys, "rerun", "cube.nc", "-o", "again.nc").mistake == f"{first}; it is not run again"
    with pytest.raises(InputError, match=f"{said}; choose another output, or remove it$"):
        run()
    same(run(2, overwrite=True), read_cube("cube.nc"))
    assert not doubts_of("cube.nc")


# Cubes that are too large for memory, and in Zarr --------------------------------------------------------------------


@pytest.mark.parametrize("output", ["large.nc", "large.zarr"])
def test_a_cube_that_does_not_fit_into_memory_is_extended_run_again_and_returned(
    output: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if output.endswith(".zarr"):
        pytest.importorskip("zarr")
    half, whole = (run(count, output=None) for count in (2, 4))
    monkeypatch.setattr(cubes, "AT_ONCE", 0)
    with run(2, output=output) as first:
        same(first.load(), half)
    with run(4, output=output) as extended, run(4, output=output) as again:
        same(extended.load(), whole)
        same(again.load(), whole)
    assert files() == [output]
    Answer(capsys, "rerun", output, "-o", f"again.{output}")
    assert "exactly the same" in Answer(capsys, "compare", output, f"again.{output}").out
    same(run(2, output=output, overwrite=True).load(), half)
