"""An output is one process's at a time: whoever comes second is told whose it is, before anything is computed."""

import errno
import os
from pathlib import Path

import pytest

from batchcube.errors import InputError
from batchcube.sweeps.claim import Claim, claimed, folder_of
from helpers.command_line import Answer
from helpers.specifications import RATES, SMALL

DATA = Path(__file__).parents[1] / "data"
LOG = (DATA / "vllm-requests.jsonl", "--max-num-seqs", "8")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(SMALL + RATES)


@pytest.mark.parametrize(
    ("output", "command"),
    [
        ("out.nc", ["run", "small.toml"]),
        ("out.nc", ["capacity", "multi-bin-fig8", "--slo", "latency_mean_s=600"]),
        ("out.nc", ["plan", "continuous-rate", "--rate", "3", "--slo", "ttft_p99_s=5"]),
        ("out.nc", ["join", "monday.nc", "tuesday.nc"]),
        ("out.json", ["calibrate", "table", DATA / "latency-grid.csv"]),
        ("out.json", ["calibrate", "fit", "measured.nc"]),
        ("out.json", ["calibrate", "log", *LOG]),
        ("out.nc", ["validate", *LOG, "--coefficients", "qwen3-0.6b-h100-vllm-tables"]),
        ("out.nc", ["served", "log"]),
        ("comparison.csv", ["reproduce", "modes", "--quick"]),
    ],
)
def test_the_second_is_told_whose_an_output_is(
    output: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    to = "." if command[0] == "reproduce" else output
    with Claim(Path(output)):
        said = Answer(capsys, *command, "-o", to)
    assert said.status == 2
    assert f"{output}: is being written by process {os.getpid()} on " in said.err
    assert not Path(output).exists()
    assert not folder_of(Path(output)).exists()


def test_folders_that_were_made_for_nothing_go_again() -> None:
    Path("out").mkdir()
    with Claim(Path("out/a/b/cube.nc")):
        assert Path("out/a/b").is_dir()
    assert list(Path("out").iterdir()) == []
    with Claim(Path("out/a/b/cube.nc")):
        Path("out/a/other").touch()
    assert list(Path("out/a").iterdir()) == [Path("out/a/other")]


def test_what_is_there_is_no_longer_to_be_had() -> None:
    Path("out.json").touch()
    with pytest.raises(InputError, match=r"^out\.json: is there already"), claimed(Path("out.json"), overwrite=False):
        raise AssertionError
    with claimed(None, Path("out.json"), overwrite=True):
        assert folder_of(Path("out.json")).exists()
    assert [file.name for file in Path().iterdir()] == ["small.toml", "out.json"]


def test_an_interrupt_while_an_output_is_claimed_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folder: Path) -> None:
        assert folder_of(Path("out/cube.nc")).exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("batchcube.sweeps.claim.sync_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Claim(Path("out/cube.nc"))
    assert [file.name for file in Path().iterdir()] == ["small.toml"]


def test_of_several_outputs_all_are_written_or_none() -> None:
    old, new = Path("old.json"), Path("new.json")
    old.write_text("old")

    def write_one() -> None:
        with claimed(old, new, overwrite=True):
            new.touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        write_one()
    assert old.read_text() == "old"
    assert not new.exists()


def test_what_was_there_before_is_not_removed_and_stays_unfinished() -> None:
    old, lock = Path("old.json"), folder_of(Path("old.json")) / "lock"
    old.write_text("old")
    lock.parent.mkdir()
    lock.write_text("process 1 on another machine")
    for _ in range(2):
        with pytest.raises(ValueError, match="wrong"), claimed(old, overwrite=False):
            raise ValueError("wrong")
        assert old.read_text() == "old"
    with claimed(old, overwrite=False) as replacing:
        assert replacing
    assert not lock.parent.exists()


def test_a_cube_of_a_run_that_was_stopped_is_not_replaced() -> None:
    cube, folder = Path("out.nc"), folder_of(Path("out.nc"))
    cube.touch()
    folder.mkdir()
    (folder / "0123.parts").touch()
    (folder / "lock").write_text("process 1 on another machine")
    with pytest.raises(InputError, match=r"^out\.nc: is there already"), claimed(cube, overwrite=False):
        raise AssertionError


def test_an_interrupted_command_can_be_given_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        assert Path("out.fit.nc").exists()
        raise KeyboardInterrupt

    command = ("calibrate", "table", DATA / "latency-grid.csv", "-o", "out.json", "--figures", "drawn")
    with monkeypatch.context() as patch:
        patch.setattr("batchcube.figures.registry.draw", interrupted)
        assert Answer(capsys, *command).status == 130
    assert sorted(file.name for file in Path().iterdir()) == ["drawn", "small.toml"]
    assert Answer(capsys, *command).status == 0
    assert sorted(file.name for file in Path().iterdir()) == ["drawn", "out.fit.nc", "out.json", "small.toml"]


def test_what_killed_processes_left_half_written_is_removed_and_all_else_is_kept() -> None:
    folder = folder_of(Path("out.nc"))
    folder.mkdir()
    for name in ("0123.part", "0123.parts"):
        (folder / name).touch()
    with Claim(Path("out.nc")) as claim:
        assert claim.folder == folder
    assert sorted(file.name for file in folder.iterdir()) == ["0123.parts", "lock"]


def test_what_was_being_replaced_when_a_process_was_killed_is_put_back() -> None:
    """Zarr is a folder, which takes no folder's place: the old one is moved aside first."""
    old = Path("out", ".out.nc.0123abcd.old")
    old.parent.mkdir()
    old.write_text("old")
    (old.parent / ".out.nc.4567abcd.part").touch()
    with Claim(Path("out/out.nc")) as claim:
        assert claim.output.read_text() == "old"
    assert [file.name for file in old.parent.iterdir()] == ["out.nc"]


def test_what_a_killed_command_had_begun_to_write_is_written_again(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out.json").write_text("{")
    folder = folder_of(Path("out.json"))
    folder.mkdir()
    # As a kill leaves it: nobody has it locked.
    (folder / "lock").write_text("process 1 on another machine")
    command = ("calibrate", "table", DATA / "latency-grid.csv", "-o", "out.json")
    assert Answer(capsys, *command).status == 0
    assert sorted(file.name for file in Path().iterdir()) == ["out.fit.nc", "out.json", "small.toml"]
    assert Answer(capsys, *command).mistake.startswith("out.json: is there already")
