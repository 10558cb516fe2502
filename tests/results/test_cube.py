import hashlib
import json
import os
import subprocess
import sys
import textwrap

import netCDF4
import numpy as np
import pytest
import xarray as xr

from batchcube.results.cube import read_cube, write_cube
from batchcube.results.form import CHECKSUMS


@pytest.mark.parametrize("axes", [("bins", "rate"), ("mode", "servers"), ()])
def test_round_trip_is_identical(make_cube, tmp_path, axes):
    cube = make_cube(axes, notes="a bin was removed\nand a line")
    path = write_cube(cube, tmp_path / "cube.nc")
    cube = cube.assign_attrs({name: read_cube(path).attrs[name] for name in CHECKSUMS})  # all that writing adds
    xr.testing.assert_identical(read_cube(path), cube)
    again = write_cube(read_cube(path), tmp_path / "again.nc")
    xr.testing.assert_identical(read_cube(again), cube)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.nc", "cube.nc"]


def test_plain_xarray_reads_it(make_cube, tmp_path):
    cube = make_cube(("mode", "rate"))
    write_cube(cube, tmp_path / "cube.nc")
    with xr.open_dataset(tmp_path / "cube.nc") as plain:
        assert plain["requests"].equals(cube["requests"])
        assert plain["latency_histogram"].dtype == np.uint32
        assert plain.sel(mode="fifo_greedy")["latency_mean_s"].equals(cube.sel(mode="fifo_greedy")["latency_mean_s"])
        assert plain["token_sla_violation_fraction"].isnull().all()


def test_netcdf_library_reads_names_units_and_compression(make_cube, tmp_path):
    write_cube(make_cube(("mode",)), tmp_path / "cube.nc")
    with netCDF4.Dataset(tmp_path / "cube.nc") as raw:
        assert raw.data_model == "NETCDF4"
        assert raw.Conventions == "CF-1.11"
        assert raw.variables["latency_mean_s"].units == "s"
        assert raw.variables["latency_mean_s"].dimensions == ("mode", "replication")
        assert raw.variables["mode"][0] == "fifo_fixed"
        assert raw.variables["latency_histogram"].filters()["zlib"]
        assert "_FillValue" not in raw.variables["replication"].ncattrs()
        assert json.loads(raw.versions)["numpy"] == np.__version__
        assert raw.specification_sha256 == hashlib.sha256(raw.specification.encode()).hexdigest()


def test_same_cube_gives_the_same_file(example_cube, tmp_path):
    first, second = (write_cube(example_cube, tmp_path / name).read_bytes() for name in ("a.nc", "b.nc"))
    assert first == second


def test_relative_path_and_link(example_cube, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_cube(example_cube, "a.nc")
    (tmp_path / "link.nc").symlink_to("a.nc")
    write_cube(example_cube.assign_attrs(title="other"), "link.nc")
    assert (tmp_path / "link.nc").is_symlink()
    assert read_cube("a.nc").attrs["title"] == "other"


def one_line(error):
    return "\n" not in str(error.value)


def test_targets_that_cannot_be_written(example_cube, tmp_path):
    with pytest.raises(ValueError, match="is a folder, must be a file name") as error:
        write_cube(example_cube, tmp_path)
    assert one_line(error)
    with pytest.raises(ValueError, match=r"the folder .*missing does not exist") as error:
        write_cube(example_cube, tmp_path / "missing" / "a.nc")
    assert one_line(error)
    with pytest.raises(ValueError, match="is a special file"):
        write_cube(example_cube, "/dev/null")
    with pytest.raises(ValueError, match=r"x.nc: is no batchcube cube: it has no attribute batchcube_version"):
        write_cube(xr.Dataset({"a": 1}), tmp_path / "x.nc")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder(example_cube, tmp_path, monkeypatch):
    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.touch", refuse)  # permission bits do not stop root
    with pytest.raises(OSError, match=r"a.nc: cannot be written: Permission denied") as error:
        write_cube(example_cube, tmp_path / "a.nc")
    assert one_line(error)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError("NetCDF: HDF error"), MemoryError])
def test_a_stopped_write_leaves_the_old_file_and_nothing_else(example_cube, tmp_path, monkeypatch, stop):
    path = write_cube(example_cube, tmp_path / "a.nc")
    before = path.read_bytes()

    def half(self, store, **_):
        store.set_dimension("half", 2)
        raise stop

    monkeypatch.setattr(xr.Dataset, "dump_to_store", half)
    with pytest.raises(OSError if isinstance(stop, RuntimeError) else stop):
        write_cube(example_cube.assign_attrs(title="other"), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]


@pytest.mark.parametrize("among", [True, False])
@pytest.mark.parametrize("file", ["a.nc", "a.zarr"])
def test_a_write_that_is_stopped_among_the_values_or_after_them_leaves_the_old_one(
    example_cube, tmp_path, monkeypatch, file, among
):
    if file.endswith(".zarr"):
        pytest.importorskip("zarr")
    path = write_cube(example_cube, tmp_path / file)
    other, calls = example_cube.assign_attrs(title="other"), iter(range(10))

    def stop(*_):
        if not among or next(calls) == 3:
            raise KeyboardInterrupt

    if among:
        monkeypatch.setattr("batchcube.results.cube._add", stop)
    with pytest.raises(KeyboardInterrupt):
        write_cube(other, path, tell=stop)
    monkeypatch.undo()
    xr.testing.assert_identical(read_cube(path), read_cube(write_cube(example_cube, tmp_path / f"again-{file}")))
    assert sorted(p.name for p in tmp_path.iterdir()) == [file, f"again-{file}"]


@pytest.mark.skipif(os.name != "posix", reason="file size limits are a POSIX matter")
def test_full_disk_is_one_line_and_leaves_nothing(example_cube, tmp_path):
    """A limit on the file size stops the library in the middle of writing, as a full disk does."""
    write_cube(example_cube, tmp_path / "a.nc")
    code = f"""
        import resource
        from batchcube.results.cube import read_cube, write_cube
        cube = read_cube({str(tmp_path / "a.nc")!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            write_cube(cube, {str(tmp_path / "b.nc")!r})
        except OSError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "b.nc: cannot be written: " in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]


def test_files_that_are_no_cube(example_cube, tmp_path):
    path = tmp_path / "x.nc"
    good = write_cube(example_cube, tmp_path / "good.nc").read_bytes()
    middle = len(good) // 2
    for content, message in [
        (b"", "is empty"),
        (b"arrival_s,prompt_tokens\n0,1\n", "is no NetCDF file"),
        (bytes(range(256)) * 20, "is no NetCDF file"),
        (good[:100], "is damaged or incomplete"),
        (good[:middle], "is damaged or incomplete"),
        (good[:-1], "is damaged or incomplete"),
        (b"CDF\x01", "is no NetCDF-4 file"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            read_cube(path)
        assert str(error.value).startswith(str(path))
        assert one_line(error)
    for missing, message in [(tmp_path, "is a folder"), (tmp_path / "none.nc", "no such file")]:
        with pytest.raises(ValueError, match=message):
            read_cube(missing)


def test_flipped_bytes_never_end_in_anything_but_a_refusal_or_a_cube(example_cube, tmp_path):
    path = tmp_path / "x.nc"
    good = write_cube(example_cube[["latency_mean_s", "latency_histogram", "utilisation"]], path).read_bytes()
    rng = np.random.default_rng(3)
    messages = []
    for at in rng.integers(0, len(good), 30):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
        try:
            read_cube(path)
        except ValueError as error:
            messages.append(str(error))
    assert messages  # most flips hit unused space of a small file, some hit checksummed data
    assert all(message.startswith(str(path)) and "\n" not in message for message in messages)
