"""Cubes as folders of Zarr, beside those in NetCDF."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from batchcube.errors import InputError
from batchcube.results import cube as cubes
from batchcube.results import pieces, storage
from batchcube.results.cube import read_cube, write_cube
from batchcube.results.differences import agree, compare_cubes
from batchcube.results.disk import output_file
from batchcube.results.form import CHECKSUMS
from batchcube.results.variables import REPLICATION
from batchcube.sweeps.cli.main import main

zarr = pytest.importorskip("zarr")
pytestmark = pytest.mark.filterwarnings("error")
CHANGED = "was changed after it was written: its content has another checksum"


def doubts_of(path):
    doubts = []
    read_cube(path, doubts.append).close()
    return doubts


@pytest.fixture
def make_small(make_cube):
    """Return what makes cubes of two variables: Zarr takes its time over each."""
    return lambda *args, **kwargs: make_cube(*args, **kwargs)[["latency_mean_s", "latency_histogram"]]


def run(*command, status=0):
    with pytest.raises(SystemExit) as stopped:
        main([*command])
    assert stopped.value.code == status


@pytest.mark.parametrize("axes", [("bins", "rate"), ("mode", "servers"), ()])
def test_a_cube_is_the_same_in_both_formats(make_cube, tmp_path, axes):
    cube = make_cube(axes, notes="a bin was removed\nand a line")
    paths = [write_cube(cube, tmp_path / name) for name in ("a.nc", "a.zarr")]
    first, second = map(read_cube, paths)
    xr.testing.assert_identical(first, second)
    assert list(first.data_vars) == list(second.data_vars)
    assert agree(compare_cubes(first, second))
    assert {name: first.attrs[name] for name in CHECKSUMS} == {name: second.attrs[name] for name in CHECKSUMS}
    assert not doubts_of(paths[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nc", "a.zarr"]
    again = read_cube(write_cube(second, tmp_path / "b.nc"))
    xr.testing.assert_identical(again, first)


def test_no_output_is_a_url():
    with pytest.raises(InputError, match=r"^s3://bucket/x\.zarr: is a URL: outputs are written to disks only"):
        output_file(Path("s3://bucket/x.zarr"))


def test_plain_xarray_reads_it(make_cube, tmp_path):
    cube = make_cube(("mode", "rate"))
    path = write_cube(cube, tmp_path / "a.zarr")
    assert zarr.open_group(path, mode="r").metadata.zarr_format == 3
    with xr.open_zarr(path, consolidated=False, chunks=None) as plain:
        assert plain.sel(mode="fifo_greedy")["latency_mean_s"].equals(cube.sel(mode="fifo_greedy")["latency_mean_s"])


def test_each_chunk_is_of_replications_that_are_written_at_once(make_small, tmp_path, monkeypatch):
    cube = make_small(replications=7)
    most = 2 * max(array.nbytes for array in cube.data_vars.values()) // 7
    monkeypatch.setattr(pieces, "MOST_BYTES", most)
    monkeypatch.setattr(cubes, "AT_ONCE", 0)
    path = write_cube(cube, tmp_path / "a.zarr")
    for name in ("latency_histogram", "latency_mean_s"):
        assert zarr.open_group(path, mode="r")[name].chunks[cube[name].dims.index(REPLICATION)] == 2
    with read_cube(path) as later:
        xr.testing.assert_equal(later.load(), cube)


def test_a_folder_takes_the_place_of_an_older_one(make_small, tmp_path):
    path = write_cube(make_small(replications=3), tmp_path / "a.zarr")
    write_cube(make_small(replications=5), path)
    assert read_cube(path).sizes[REPLICATION] == 5
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_a_stopped_write_leaves_the_old_folder_and_nothing_else(make_small, tmp_path, monkeypatch):
    path = write_cube(make_small(replications=3), tmp_path / "a.zarr")

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cube(make_small(replications=5), path, ready=stop)
    monkeypatch.setattr(storage, "values_of", stop)
    with pytest.raises(TypeError):
        write_cube(make_small(replications=5), path)
    assert read_cube(path).sizes[REPLICATION] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_what_a_kill_left_is_removed_or_put_back(make_small, tmp_path):
    path = write_cube(make_small(replications=3), tmp_path / "a.zarr")
    shutil.copytree(path, tmp_path / ".a.zarr.0123abcd.part")
    # Killed between the two moves: the old one is still aside.
    path.rename(tmp_path / ".a.zarr.0123abcd.old")
    write_cube(make_small(replications=4), tmp_path / "b.zarr")
    assert not path.exists()

    def look():
        assert read_cube(path).sizes[REPLICATION] == 3
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cube(make_small(replications=5), path, ready=look)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]


def test_damage_is_told_in_one_line(make_small, tmp_path):
    path = write_cube(make_small(), tmp_path / "a.zarr")
    chunk = next(file for file in (path / "latency_mean_s" / "c").rglob("*") if file.is_file())
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:10] + bytes([whole[10] ^ 0xFF]) + whole[11:])
    with pytest.raises(InputError, match=r"a.zarr: is damaged or incomplete: ") as error:
        read_cube(path)
    assert "\n" not in str(error.value)
    # A chunk that is missing stands for nothing but missing values.
    chunk.unlink()
    assert doubts_of(path) == [CHANGED]
    (path / "zarr.json").write_text("{")
    with pytest.raises(InputError, match=r"a.zarr: is damaged or incomplete: "):
        read_cube(path)


def test_what_is_no_zarr_is_refused_by_name(make_cube, tmp_path, monkeypatch):
    cube, path = make_cube(), tmp_path / "a.zarr"
    with pytest.raises(InputError, match=r"a.zarr: no such folder, must be a cube"):
        read_cube(path)
    path.write_text("text")
    with pytest.raises(InputError, match=r"a.zarr: is a file, must be a cube"):
        read_cube(path)
    with pytest.raises(InputError, match=r"a.zarr: is a file, not Zarr"):
        write_cube(cube, path)
    path.unlink()
    (path / "kept").mkdir(parents=True)
    with pytest.raises(InputError, match=r"a.zarr: is no Zarr \(v3\), must be a cube"):
        read_cube(path)
    with pytest.raises(InputError, match=r"a.zarr: is a folder of other things, not Zarr"):
        write_cube(cube, path)
    assert (path / "kept").is_dir()
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(InputError, match=r"a.zarr: Zarr is not installed: pip install"):
        write_cube(cube, path)


def test_cubes_are_read_by_their_url(make_small, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    path = write_cube(make_small(), tmp_path / "a.zarr")
    fsspec.filesystem("memory").put(str(path), "/bucket/a.zarr", recursive=True)
    for url in ("memory://bucket/a.zarr", Path("memory://bucket/a.zarr")):
        xr.testing.assert_identical(read_cube(url), read_cube(path))
    with pytest.raises(InputError, match=r"is damaged or incomplete|no such"):
        read_cube("memory://bucket/none.zarr")


def test_commands_take_and_make_folders_of_zarr(make_cube, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a.nc", "a.zarr"):
        write_cube(make_cube(), name)
    run("compare", "a.nc", "a.zarr")
    capsys.readouterr()
    run("show", "a.nc")
    plain = capsys.readouterr().out
    run("show", "a.zarr")
    assert capsys.readouterr().out == plain
    run("figure", "lines", "a.zarr", "x=arrival_rate_per_s", "y=latency_p95_s", "-o", "a.png")
    run("report", "a.zarr", "-o", "a.html")
    run("report", ".", "-o", "b.html")
    assert Path("a.html").read_text().count("a.zarr") > 1
    assert np.isfinite(Path("a.png").stat().st_size)


def test_a_zarr_that_is_written_anew_while_it_is_open_is_told(make_small, tmp_path, monkeypatch):
    monkeypatch.setattr(cubes, "AT_ONCE", 0)
    file, name = tmp_path / "cube.zarr", "latency_mean_s"
    before = make_small(axes=("bins",))
    write_cube(before, file)
    with read_cube(file) as opened:
        np.testing.assert_array_equal(opened[name].values, before[name].values)
        write_cube(before, file)
        with pytest.raises(InputError, match=r"cube\.zarr: was written anew while it was open"):
            opened[name].values  # noqa: B018 - reading is what fails
