"""Shards: dealt to many machines and merged, a run gives the cube that one machine gives."""

import errno
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from batchcube.errors import InputError
from batchcube.results.cube import read_cube, refuse_changed
from batchcube.results.differences import EXACT, compare_cubes
from batchcube.results.precision import Precision
from batchcube.sweeps.progress import Silent
from batchcube.sweeps.run import replicating
from batchcube.sweeps.run.capacity import find_capacity, merge_capacity, shard_capacity
from batchcube.sweeps.run.execution import merge_run, run_shard, run_sweep
from batchcube.sweeps.run.preparing import prepare
from batchcube.sweeps.run.replicating import Replications
from batchcube.sweeps.run.reports import Reports
from batchcube.sweeps.run.searching import Searches
from batchcube.sweeps.run.shards import MissingShardsError, NextRoundError, Shard, shard_of
from batchcube.sweeps.run.store import Part, PartsFile, Store, keep
from batchcube.sweeps.spec.document import Sweep
from helpers.command_line import Answer
from helpers.progress import Counting, Heard
from helpers.specifications import RATES, SMALL

EIGHT = [Shard(number, 8) for number in range(1, 9)]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(SMALL + RATES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    file = tmp_path_factory.mktemp("whole") / "small.toml"
    file.write_text(SMALL + RATES)
    run_sweep(Sweep.from_toml(file), file.with_suffix(".nc"), workers=1, backend="reference")
    return read_cube(file.with_suffix(".nc"))


def small(*settings: str) -> Sweep:
    return Sweep.from_toml("small.toml", settings)


def make(*shards: Shard, sweep: Sweep | None = None, **options: Any) -> None:
    for shard in shards:
        run_shard(sweep or small(), "cube.nc", shard, backend="reference", again="batchcube run small.toml", **options)


def same(cube: xr.Dataset, whole: xr.Dataset) -> None:
    """Bit for bit, attributes too."""
    table = compare_cubes(cube, whole)
    assert (table["status"] == EXACT).all(), table[table["status"] != EXACT]


def files() -> list[str]:
    return sorted(str(file) for file in Path().rglob("*") if file.is_file() and file.name != "small.toml")


def shard_file(number: int) -> Path:
    (file,) = Path("cube.nc.shards").glob(f"{number}-of-*.parts")
    return file


def opened(number: int) -> PartsFile:
    file = PartsFile.opened(shard_file(number))
    assert file is not None
    return file


class StopAfterOneTask(Silent):
    def advance(self, requests: int) -> None:
        raise KeyboardInterrupt


def test_shards_in_any_order_some_stopped_and_some_twice_give_the_cube_of_one_machine(
    whole: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = [EIGHT[k] for k in (5, 2, 7, 0, 3, 6, 1, 4)]
    monkeypatch.setattr("batchcube.sweeps.run.simulate.SECONDS_OF_A_TASK", 0.0)
    with pytest.raises(KeyboardInterrupt):
        make(order[0], workers=1, progress=StopAfterOneTask())
    assert [name for name in files() if name.startswith("cube.nc.shards/6-of-8.partial/")]
    for workers, shard in enumerate(order, 1):
        make(shard, workers=workers, progress=(count := Counting()))
        assert (count.replications, count.requests) == (0, 0)
    again = shard_file(3)
    content = again.read_bytes()
    again.unlink()
    make(EIGHT[2], EIGHT[4])
    assert shard_file(3).read_bytes() == content
    merged = merge_run("cube.nc")
    assert files() == ["cube.nc"]
    same(read_cube("cube.nc", refuse_changed("cube.nc")), whole)
    same(merged, whole)


@pytest.mark.parametrize("count", [1, 2, 5, 18, 40])
def test_every_cell_is_dealt_to_one_shard_and_all_have_about_as_many(count: int) -> None:
    Path("small.toml").write_text((SMALL + RATES).replace("requests = 40", ""))
    prepared = prepare(small('axes.many={path = "workload.requests", values = [10, 20, 70]}'))
    wanted = [0, 3, 4]
    dealt: list[tuple[int, int]] = []
    most = sum(point.requests for point in prepared.points) * len(wanted) / count
    for number in range(1, count + 1):
        work = Replications(prepared, "reference", wanted, Reports())
        assert work.missing(count)[0] == 1
        any_left = work.deal(Shard(number, count))
        mine = [(r, k) for r, points in work._left().items() for k in points]
        assert any_left == bool(mine)
        assert sum(prepared.points[k].requests for _, k in mine) < most + 70
        assert work.missing(count) == ([number] if mine else [])
        dealt += mine
    assert sorted(dealt) == [(r, k) for r in wanted for k in range(len(prepared.points))]
    assert [r for r, _ in dealt] == sorted(r for r, _ in dealt)


def test_missing_shards_are_told_with_the_command_that_makes_them(whole: xr.Dataset) -> None:
    make(EIGHT[0], *EIGHT[2:5])
    with pytest.raises(MissingShardsError) as missing:
        merge_run("cube.nc")
    assert str(missing.value).endswith(
        "cube.nc: shards 2, 6-8 of 8 are missing: for k in 2 6 7 8; do batchcube run small.toml --output cube.nc "
        "--shard $k/8; done"
    )
    make(EIGHT[1], *EIGHT[5:7])
    with pytest.raises(MissingShardsError, match=r"shard 8 of 8 is missing: .* --output cube.nc --shard 8/8$"):
        merge_run("cube.nc")
    make(EIGHT[7])
    # What is merged may be called otherwise by now.
    shard_file(2).unlink()
    Path("cube.nc.shards").rename("my cube.nc.shards")
    with pytest.raises(MissingShardsError, match=r"run small.toml --output 'my cube.nc' --shard 2/8$"):
        merge_run("my cube.nc")
    run_shard(small(), "my cube.nc", EIGHT[1], backend="reference")
    same(merge_run("my cube.nc"), whole)


def test_a_cube_lacks_replications_that_are_not_complete_until_a_run_adds_them(
    whole: xr.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="has no shards that could be merged"):
        merge_run("cube.nc", allow_missing=True)
    make(EIGHT[0])
    with pytest.raises(MissingShardsError, match="no replication is complete at all points"):
        merge_run("cube.nc", allow_missing=True)
    make(*EIGHT[1:3], *EIGHT[4:])
    holed = merge_run("cube.nc", allow_missing=True)
    assert holed["replication"].values.tolist() == [0, 2]
    note = (
        "2 of 3 replications, without 1: shard 4 of 8 is missing; batchcube run small.toml --output cube.nc adds them"
    )
    assert note in holed.attrs["notes"].splitlines()
    xr.testing.assert_equal(holed["latency_mean_s"], whole["latency_mean_s"].isel(replication=[0, 2]))
    with pytest.raises(InputError, match="lacks replications"):
        run_sweep(small(), "cube.nc", precision=Precision(("50%",)), backend="reference")
    again = Answer(capsys, "rerun", "cube.nc", "-o", "again.nc", "-q", "--backend", "reference")
    assert again.err == "cube.nc: lacks replications 1, which are made as well\n"
    same(read_cube("again.nc"), whole)
    Path("again.nc").unlink()
    same(run_sweep(small(), "cube.nc", backend="reference"), whole)
    assert files() == ["cube.nc"]


def test_what_is_missing_at_the_end_is_told_until_a_run_adds_it(
    whole: xr.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    make(Shard(1, 3), Shard(2, 3))
    told = "note: 2 of 3 replications, without 2: shard 3 of 3 is missing; "
    told += "batchcube run small.toml --output cube.nc adds them"
    assert told in Answer(capsys, "merge", "cube.nc", "--allow-missing").err.splitlines()
    assert "without 2: shard 3 of 3 is missing" in Answer(capsys, "show", "cube.nc").out
    same(run_sweep(small(), "cube.nc", backend="reference"), whole)


def test_a_run_that_wrote_the_cube_removes_shards_of_it_and_says_so(
    whole: xr.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("run", "small.toml", "-o", "cube.nc", "--backend", "reference")
    make(Shard(1, 2))
    told = f"{Path('cube.nc.shards')}: shards of this run were not used, and are removed"
    assert told in Answer(capsys, *run).err.splitlines()
    assert files() == ["cube.nc"]
    same(read_cube("cube.nc"), whole)
    # What continues the cube is needed, and what another number of replications began is told.
    more = Answer(capsys, *run, "-n", "5", "--shard", "1/8", "-q")
    assert (more.status, more.err) == (0, "")
    assert "cube.nc.shards" not in Answer(capsys, *run).err
    kept = files()
    assert len(kept) == 2
    told = "shards that began before cube.nc was written were not used; remove it to deal anew"
    assert told in Answer(capsys, *run, "-n", "4").err
    assert files() == kept
    # Those of another sweep are none of its business.
    Path("cube.nc").unlink()
    run_sweep(small("seed=2"), "cube.nc", backend="reference")
    assert files() == kept


def test_what_is_kept_of_missing_replications_is_not_simulated_again(
    whole: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(*EIGHT[:3], *EIGHT[4:7])
    assert merge_run("cube.nc", allow_missing=True)["replication"].values.tolist() == [0]
    done: list[int] = []
    simulate = replicating.simulate_parts

    def noted(*arguments: Any) -> Any:
        parts = simulate(*arguments)
        done.extend(k for part in parts for k in part.points)
        return parts

    monkeypatch.setattr(replicating, "simulate_parts", noted)
    make(Shard(1, 2), Shard(2, 2))
    assert len(done) == 4  # shards 4 and 8 of 8 had two each of 18
    same(merge_run("cube.nc"), whole)


def test_a_damaged_shard_is_told_and_made_again(whole: xr.Dataset, caplog: pytest.LogCaptureFixture) -> None:
    make(*EIGHT)
    file = shard_file(4)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(MissingShardsError, match="shard 4 of 8 is missing"):
        merge_run("cube.nc")
    assert "4-of-8" in caplog.text
    assert "is damaged and was removed" in caplog.text
    make(EIGHT[3])
    # In what it holds, the description of an array, and the directory of the file.
    for at in (0.5, 67, -40):
        file = shard_file(1)
        content = bytearray(file.read_bytes())
        content[int(at * len(content)) if at == 0.5 else at] ^= 1
        file.write_bytes(content)
        make(EIGHT[0])
    Path("cube.nc.shards", "1-of-8.0000.part").write_bytes(b"of a killed process")
    same(merge_run("cube.nc"), whole)
    assert not Path("cube.nc.shards").exists()


def test_shards_of_something_else_are_refused() -> None:
    make(EIGHT[0])
    with pytest.raises(InputError, match=r"cube.nc.shards: holds shards of 8, not of 4; remove it to deal anew"):
        make(Shard(1, 4))
    with pytest.raises(InputError, match="holds shards of another sweep than this one; remove it, or choose"):
        make(EIGHT[1], sweep=small("seed=2"))
    with pytest.raises(InputError, match="another number of replications, or precision, than this one; remove"):
        make(EIGHT[1], sweep=small("replications=4"))
    Path("cube.nc.shards").rename("mine")
    make(EIGHT[1], sweep=small("seed=2"))
    shard_file(2).rename(Path("mine") / shard_file(2).name)
    Path("cube.nc.shards").rmdir()
    Path("mine").rename("cube.nc.shards")
    # Nobody knows which of the two is meant.
    said = r"shards/2-of-8\.\w+\.parts: is of another sweep than \S+shards/1-of-8\.\w+\.parts; remove one of them"
    with pytest.raises(InputError, match=said):
        merge_run("cube.nc")
    about = opened(2).about
    shard_file(2).unlink()
    ours, parts = opened(1).about, opened(1).parts
    for change, what in (
        ({"asked": {**ours["asked"], "shards": 4}}, "number of shards"),
        ({"asked": {**ours["asked"], "replications": 4}}, "number of replications, or precision,"),
        ({"version": "9.0", "input_sha256": "0"}, "version and trace file"),
    ):
        file = keep(Path("cube.nc.shards"), "2-of-8.", {**about, **ours, **change, "shard": 2}, parts).path
        with pytest.raises(InputError, match=f"is of another {what} than"):
            merge_run("cube.nc")
        file.unlink()


def test_a_shard_that_was_killed_before_anything_was_finished_is_known_to_be_missing(
    whole: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(replicating, "simulate_parts", killed)
        with pytest.raises(KeyboardInterrupt):
            make(EIGHT[2])
    with pytest.raises(
        MissingShardsError, match=r"shards 1-8 of 8 are missing: for k in \$\(seq 8\); do batchcube run"
    ):
        merge_run("cube.nc")
    # What it was a part of is known to the others, too.
    with pytest.raises(InputError, match="holds shards of another sweep than this one; remove it, or choose"):
        make(EIGHT[1], sweep=small("seed=2"))
    make(*EIGHT)
    same(merge_run("cube.nc"), whole)
    assert files() == ["cube.nc"]


def test_a_mistake_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: Any) -> None:
        raise InputError("no batch can hold it")

    monkeypatch.setattr(replicating, "simulate_parts", mistaken)
    with pytest.raises(InputError, match="no batch can hold it"):
        make(EIGHT[2])
    assert files() == []
    assert not Path("cube.nc.shards").exists()


def test_a_full_disk_leaves_no_folder_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.truncate", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        make(EIGHT[2])
    assert not Path("cube.nc.shards").exists()


def test_files_of_another_version_are_no_shards() -> None:
    Path("cube.nc.shards").mkdir()
    for number in (1, 2):
        Path("cube.nc.shards", f"{number}-of-2.npz").write_bytes(b"older")
    with pytest.raises(InputError, match=r"cube.nc.shards: 2 files there are of another version$"):
        merge_run("cube.nc")


@pytest.mark.parametrize("output", ["cube.nc", "cube.zarr"])
def test_a_shard_that_comes_after_the_merge_leaves_nothing_behind(
    output: str, whole: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    if output.endswith(".zarr"):
        pytest.importorskip("zarr")
    for shard in EIGHT:
        run_shard(small(), output, shard, backend="reference")
    (made,) = Path(f"{output}.shards").glob("3-of-*.parts")
    twin = made.rename("twin")
    simulate = replicating.simulate_parts

    def merged_meanwhile(*arguments: Any) -> Any:
        if twin.exists():
            twin.rename(made)
            same(merge_run(output), whole)
        return simulate(*arguments)

    monkeypatch.setattr(replicating, "simulate_parts", merged_meanwhile)
    late = run_shard(small(), output, EIGHT[2], backend="reference", workers=1)
    assert late == f"shard 3 of 8 comes too late: {Path(output)} was written meanwhile"
    assert [str(file) for file in Path().iterdir() if file.name != "small.toml"] == [output]
    same(read_cube(output, refuse_changed(output)), whole)


def test_a_shard_is_done_by_one_at_a_time_and_what_a_late_one_left_is_removed(
    whole: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in EIGHT:
        make(shard)
    made = shard_file(3)
    twin = made.rename("twin")

    def merged_meanwhile(*_: Any) -> Any:
        with pytest.raises(InputError, match=rf"3-of-8: is being written by process {os.getpid()} on .*; wait for it"):
            make(EIGHT[2])
        twin.rename(made)
        same(merge_run("cube.nc"), whole)
        raise KeyboardInterrupt

    monkeypatch.setattr(replicating, "simulate_parts", merged_meanwhile)
    with pytest.raises(KeyboardInterrupt):
        make(EIGHT[2], workers=1)
    assert any("3-of-8.partial" in name for name in files())
    merge_run("cube.nc")
    assert files() == ["cube.nc"]


def test_shards_of_another_version_are_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    make(EIGHT[0])
    monkeypatch.setattr("batchcube.sweeps.run.shards.batchcube_version", lambda: "9.0")
    with pytest.raises(InputError, match=r"holds shards that version .* made, this is 9\.0"):
        merge_run("cube.nc")


def test_a_shard_made_twice_must_be_the_same(whole: xr.Dataset) -> None:
    make(*EIGHT)
    about, (first, *others) = opened(5).about, opened(5).parts
    twin = keep(Path("cube.nc.shards"), "5-of-8.", {**about, "again": "batchcube run ./small.toml"}, [first, *others])
    report = {**first.report, "latency_mean_s": first.report["latency_mean_s"] + 1}
    different = Part(first.replication, first.points, report)
    wrong = keep(Path("cube.nc.shards"), "5-of-8.", about, [different, *others]).path
    said = r"(5-of-8\.\w+\.parts): differs from \S+shards/(5-of-8\.\w+\.parts), the same shard made again: a machine"
    with pytest.raises(InputError, match=said) as differ:
        merge_run("cube.nc")
    named = re.search(said, str(differ.value))
    assert named is not None
    assert wrong.name in named.groups()
    assert named[1] != named[2]
    wrong.unlink()
    assert twin.path.exists()
    left_by_a_kill = Path("cube.nc.shards/1-of-8.partial")
    left_by_a_kill.mkdir()
    (left_by_a_kill / "lock").write_text("process 1 on another machine")
    (left_by_a_kill / "0.parts").write_text("part")
    same(merge_run("cube.nc"), whole)
    assert files() == ["cube.nc"]


def test_a_merge_that_was_killed_at_its_end_leaves_nothing_when_it_is_given_again(
    whole: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Store, held: object) -> None:
        if held:
            raise KeyboardInterrupt

    make(*EIGHT)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "forget", killed)
        with pytest.raises(KeyboardInterrupt):
            merge_run("cube.nc")
    assert Path("cube.nc") in Path().iterdir()
    assert list(Path("cube.nc.partial").glob("*.parts"))
    same(merge_run("cube.nc"), whole)
    assert sorted(file.name for file in Path().iterdir()) == ["cube.nc", "small.toml"]
    # Or right before the folder was removed.
    Path("cube.nc.shards").mkdir()
    with pytest.raises(InputError, match=r"cube\.nc: has no shards that could be merged"):
        merge_run("cube.nc")
    assert sorted(file.name for file in Path().iterdir()) == ["cube.nc", "small.toml"]


def test_a_stopped_run_goes_on_in_shards_and_a_cube_is_extended_by_them(whole: xr.Dataset) -> None:
    class StopAfterOne(Silent):
        def finish_replications(self, count: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(small(), "cube.nc", workers=1, backend="reference", progress=StopAfterOne())
    make(*EIGHT)
    assert len(list(Path("cube.nc.shards").iterdir())) < 8
    same(merge_run("cube.nc"), whole)
    Path("cube.nc").unlink()
    run_sweep(small("replications=1"), "cube.nc", backend="reference")
    make(*EIGHT)
    same(merge_run("cube.nc"), whole)
    # All of it is there, also for a shard that comes late.
    assert "is complete" in run_shard(small(), "cube.nc", EIGHT[0], backend="reference")
    assert files() == ["cube.nc"]


def test_each_look_of_a_run_to_a_precision_is_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = Precision(("latency_mean_s=10%", "utilisation=0.5"), 40)
    whole = run_sweep(small(), "whole.nc", backend="reference", precision=wanted)
    Path("whole.nc").unlink()
    four = [Shard(number, 4) for number in range(1, 5)]
    looks = len(whole.attrs["precision_looks"].split(","))
    assert looks > 1
    for look in range(2, looks + 1):
        make(*four, precision=wanted)
        for _ in range(2):
            with pytest.raises(NextRoundError, match=rf"round {look} is next: for k in \$\(seq 4\); do batchcube run"):
                merge_run("cube.nc")
        make(four[1], precision=wanted)
        with pytest.raises(MissingShardsError, match=rf"shards 1, 3-4 of 4 of round {look} are missing"):
            merge_run("cube.nc")
    make(*four, precision=wanted)
    same(merge_run("cube.nc"), whole)
    assert files() == ["cube.nc"]


def test_each_rate_of_a_search_is_a_round() -> None:
    Path("small.toml").write_text(SMALL)
    sweep = small("workload.arrivals.rate_per_s=0.1")
    criteria = ["latency_p90_s=60", "wait_mean_s=30"]
    asked = {"criteria": criteria, "tolerance": 0.2, "growth": 0.0, "low": None, "high": None}
    whole = find_capacity(sweep, criteria, tolerance=0.2, backend="reference", workers=1)

    def make_search(shard: Shard, **options: Any) -> str:
        return shard_capacity(sweep, asked, "cube.nc", shard, backend="reference", again="batchcube x", **options)

    rounds, heard = 0, Heard()
    while not Path("cube.nc").exists():
        for number in (3, 1, 4, 2, 1):
            make_search(Shard(number, 4), workers=number, progress=(count := Counting()))
            assert (count.replications, count.requests) == (0, 0)
        rounds += 1
        with suppress(NextRoundError):
            merged = merge_capacity("cube.nc", progress=heard)
        if rounds == 2:
            make_search(Shard(2, 4))
            with pytest.raises(MissingShardsError, match="shards 1, 3-4 of 4 of round 3 are missing: for k in 1 3 4"):
                merge_capacity("cube.nc")
    assert rounds > 5
    assert heard.texts[0] == f"after 1 rate 0 of {len(sweep.grid.points)} points are done"
    assert len(heard.texts) == rounds - 1
    same(merged, whole)
    assert files() == ["cube.nc"]
    assert "is complete" in make_search(Shard(1, 4))


def test_a_search_that_was_stopped_goes_on_in_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("small.toml").write_text(SMALL)
    sweep = small("workload.arrivals.rate_per_s=0.1")
    whole = find_capacity(sweep, ["wait_mean_s=30"], tolerance=0.2, backend="reference")
    take, taken = Searches.take, [0]

    def stop_at(self: Searches, task: Any, result: Any) -> Any:
        taken[0] += 1
        if taken[0] == 40:
            raise KeyboardInterrupt
        return take(self, task, result)

    monkeypatch.setattr(Searches, "take", stop_at)
    with pytest.raises(KeyboardInterrupt):
        find_capacity(sweep, ["wait_mean_s=30"], tolerance=0.2, backend="reference", output="cube.nc", workers=1)
    asked = {"criteria": ["wait_mean_s=30"], "tolerance": 0.2, "growth": 0.0, "low": None, "high": None}
    said = shard_capacity(
        sweep, asked, "cube.nc", Shard(1, 1), backend="reference", again="batchcube capacity small.toml"
    )
    assert said.startswith("shard 1 of 1 is whole, ")
    with pytest.raises(NextRoundError, match=r"round \d+ is next: batchcube capacity .* --output cube.nc --shard 1/1$"):
        merge_capacity("cube.nc")
    # And by itself again, whoever did the rates before; what shards have of it is useless then.
    shard_capacity(sweep, asked, "cube.nc", Shard(1, 2), backend="reference", again="batchcube capacity small.toml")
    assert list(Path("cube.nc.shards").iterdir())
    alone = find_capacity(sweep, ["wait_mean_s=30"], tolerance=0.2, backend="reference", output="cube.nc")
    same(alone, whole)
    assert files() == ["cube.nc"]


SLURM = {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "7"}


@pytest.mark.parametrize(
    ("text", "environment", "shard"),
    [
        ("3/64", {}, Shard(3, 64)),
        ("env", {**SLURM, "SLURM_ARRAY_TASK_COUNT": "8"}, Shard(5, 8)),
        ("env/64", {"SLURM_ARRAY_TASK_ID": "63", "SLURM_ARRAY_TASK_COUNT": "1"}, Shard(64, 64)),
        ("env/5", {"JOB_COMPLETION_INDEX": "0"}, Shard(1, 5)),
    ],
)
def test_a_shard_is_named_or_that_of_a_task_of_an_array(text: str, environment: dict[str, str], shard: Shard) -> None:
    assert shard_of(text, environment) == shard


@pytest.mark.parametrize(
    ("text", "environment", "said"),
    [
        ("0/64", {}, "`shard` 0/64: the number is 0, must be from 1 to 64"),
        ("65/64", {}, "the number is 65, must be from 1 to 64"),
        ("1/0", {}, "must be NUMBER/ALL"),
        ("3", {}, "must be NUMBER/ALL"),
        ("env", {}, "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set"),
        ("env/4", {}, "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set"),
        ("env", {**SLURM, "SLURM_ARRAY_TASK_COUNT": "3"}, "must begin at 0 and have no gaps"),
        ("env", {"JOB_COMPLETION_INDEX": "2"}, "nothing says how many completions there are; `shard` env/64"),
        ("env/2", {"JOB_COMPLETION_INDEX": "2"}, "JOB_COMPLETION_INDEX is 2, must be from 0 to 1"),
        ("env/x", {"JOB_COMPLETION_INDEX": "2"}, "must be NUMBER/ALL"),
    ],
)
def test_other_shards_are_refused(text: str, environment: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        shard_of(text, environment)


def test_the_commands_deal_and_merge(
    whole: xr.Dataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["-o", "a folder/cube.nc", "--backend", "reference", "--set", "report.windows=50"]
    for task in ("0", "2"):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        answer = Answer(capsys, "run", "small.toml", *options, "--shard", "env/3")
        assert answer.status == 0
        assert f"shard {int(task) + 1} of 3 is whole, 6 simulations; when all are there: batchcube merge" in answer.err
    answer = Answer(capsys, "merge", "a folder/cube.nc")
    assert answer.status == 1
    command = "batchcube run small.toml --set report.windows=50 --backend reference --output 'a folder/cube.nc'"
    assert answer.err.endswith(f"a folder/cube.nc: shard 2 of 3 is missing: {command} --shard 2/3\n")
    assert Answer(capsys, "run", "small.toml", *options, "--shard", "2/3", "-q").err == ""
    answer = Answer(capsys, "merge", "a folder/cube.nc")
    assert answer.status == 0
    assert "a folder/cube.nc: bins 3, arrival_rate_per_s 2, replication 3" in answer.err
    same(read_cube("a folder/cube.nc").drop_attrs(deep=False), whole.drop_attrs(deep=False))
    for output in ("a folder/cube.nc", "nowhere/cube.nc"):
        assert Answer(capsys, "merge", output).mistake.endswith("has no shards that could be merged")
    assert not Path("nowhere").exists()
    mistake = Answer(capsys, "run", "small.toml", *options, "--seed", "3", "--shard", "1/2").mistake
    assert mistake.endswith(": holds another sweep (seed differs); choose another output, or remove it")
    mistake = Answer(capsys, "run", "small.toml", "--shard", "1/2", "--overwrite").mistake
    assert mistake == "--overwrite: does not go with --shard: remove what is there first"
