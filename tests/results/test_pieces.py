import gc
import os
from pathlib import Path

import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from batchcube.errors import InputError
from batchcube.figures.report.sections import Subject, section_of
from batchcube.results import cube as cubes
from batchcube.results import labelled, overload, pieces
from batchcube.results.cube import read_cube, write_cube
from batchcube.results.differences import compare_cubes
from batchcube.results.form import CHECKSUMS
from batchcube.results.joining import extend_cube
from batchcube.results.summary import summary_table
from batchcube.results.variables import REPLICATION
from batchcube.sweeps.cli.main import main

CHANGED = "was changed after it was written: its content has another checksum"


@pytest.fixture
def small(monkeypatch):
    """Let every cube be too large for memory, and pieces be small."""
    monkeypatch.setattr(cubes, "AT_ONCE", 0)
    monkeypatch.setattr(pieces, "MOST_BYTES", 4_000)


def counted(array, keys):
    """Return a variable that is read later, and writes down how many elements it was asked for each time."""

    def read(key):
        found = array[key]
        keys.append(np.size(found))
        return found

    return pieces.read_later(xr.Variable(("x", REPLICATION, "y"), array), read)


# ---- pieces


@pytest.mark.parametrize("most_bytes", [1, 8, 24, 100, 2**20])
@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_pieces_cover_everything_once_and_in_order(monkeypatch, most_bytes, chunk):
    monkeypatch.setattr(pieces, "MOST_BYTES", most_bytes)
    whole = np.arange(4 * 7 * 3).reshape(4, 7, 3)
    found = list(pieces.pieces({"a": 4, "b": 7, "c": 3}, 8, chunks={"b": chunk}))
    assert np.concatenate([whole[tuple(place.values())].ravel() for place in found]).tolist() == list(range(84))
    assert all(whole[tuple(place.values())].size * 8 <= max(most_bytes, 8) for place in found)
    assert list(pieces.pieces({}, 8)) == [{}]


def test_pieces_end_where_chunks_do(monkeypatch):
    monkeypatch.setattr(pieces, "MOST_BYTES", 8 * 5)
    assert [place["a"].stop for place in pieces.pieces({"a": 9}, 8, chunks={"a": 2})] == [4, 8, 9]
    assert [place["a"].stop for place in pieces.pieces({"a": 9}, 8, chunks={"a": 7})] == [5, 9]


def test_values_come_replication_by_replication_whatever_the_pieces(monkeypatch):
    array, keys = np.arange(60.0).reshape(4, 5, 3), []
    expected = np.moveaxis(array, 1, 0).ravel().tolist()
    for most_bytes in (1, 30, 100, 250, 10_000):
        monkeypatch.setattr(pieces, "MOST_BYTES", most_bytes)
        keys.clear()
        found = list(pieces.values_of(counted(array, keys)))
        assert np.concatenate([np.ascontiguousarray(piece.values).ravel() for _, piece in found]).tolist() == expected
        assert max(keys) * 8 <= max(most_bytes, 8)
        assert sum(keys) == array.size


def test_what_is_read_later_is_selected_without_being_read():
    array, keys = np.arange(60.0).reshape(4, 5, 3), []
    later = xr.Dataset({"a": counted(array, keys)})
    part = later.isel(x=2)[["a"]].isel(replication=[4, 1]).assign_attrs(title="t")
    assert later.nbytes == array.nbytes
    assert not keys
    np.testing.assert_array_equal(part["a"], array[2, [4, 1]])
    assert max(keys) <= 12


def test_parts_are_placed_when_they_are_read():
    rng, keys = np.random.default_rng(5), []
    first, second = rng.random((3, 2, 4)), rng.random((3, 3, 3))
    later = (counted(array, keys) for array in (first, second))
    places = [{REPLICATION: np.array([3, 0])}, {REPLICATION: np.array([1, 2, 5]), "y": np.array([4, 2, 1])}]
    whole = np.full((3, 6, 5), np.nan)
    whole[:, [3, 0], :4] = first
    whole[np.ix_(range(3), [1, 2, 5], [4, 2, 1])] = second
    places[0]["y"] = np.arange(4)
    found = xr.DataArray(
        pieces.put_together(list(zip(later, places, strict=True)), {"x": 3, REPLICATION: 6, "y": 5}, np.nan)
    )
    assert not keys
    np.testing.assert_array_equal(found, whole)
    np.testing.assert_array_equal(found.isel(x=1, y=[0, 3]), whole[1][:, [0, 3]])
    keys.clear()
    np.testing.assert_array_equal(found.isel(replication=slice(1, 3)), whole[:, 1:3])
    assert keys == [3 * 2 * 3]


# ---- cubes


def test_a_cube_that_is_read_later_is_the_same(make_cube, tmp_path, small, monkeypatch):
    cube = make_cube(("mode", "rate"), replications=7)
    path = write_cube(cube, tmp_path / "a.nc")
    doubts = []
    with read_cube(path, doubts.append) as later:
        xr.testing.assert_identical(later.load(), cube.assign_attrs({name: later.attrs[name] for name in CHECKSUMS}))
    assert not doubts
    # Another length of pieces gives another file with the same content, and the same checksum.
    with netCDF4.Dataset(path) as raw:
        assert raw.dimensions[REPLICATION].isunlimited()
        assert raw["latency_histogram"].chunking()[2] == 1
    monkeypatch.setattr(pieces, "MOST_BYTES", 2**26)
    with read_cube(path) as later:
        whole = write_cube(later, tmp_path / "b.nc")
    with netCDF4.Dataset(whole) as raw:
        assert raw["latency_histogram"].chunking()[2] == 7
    with read_cube(path) as first, read_cube(whole) as second:
        xr.testing.assert_identical(first.load(), second.load())


def test_a_cube_is_written_over_the_file_that_it_is_read_from(make_cube, tmp_path, small):
    cube = make_cube(replications=5)
    path = write_cube(cube, tmp_path / "a.nc")
    with read_cube(path) as later:
        write_cube(later.assign_attrs(title="other"), path)
        with read_cube(path) as again:
            assert again.attrs["title"] == "other"
            xr.testing.assert_equal(again.load(), cube)


def test_no_more_than_a_piece_is_read_at_a_time(tmp_path, small):
    """Opening, selecting and writing: what is read is counted."""
    array = np.arange(20.0 * 50 * 4).reshape(20, 50, 4)
    keys = []
    cube = xr.Dataset(
        {"window_queue_length_mean": counted(array, keys).copy()},
        {
            "x": ("x", np.arange(20), {"path": "policy.bins", "units": "1", "long_name": "x"}),
            REPLICATION: np.arange(50),
            "y": np.arange(4),
        },
        {"batchcube_version": "1", "specification": "{}"},
    )
    cube = cube.rename(y="window")
    cube["window_queue_length_mean"].attrs["units"] = "1"
    path = write_cube(cube, tmp_path / "a.nc")
    assert max(keys) * 8 <= pieces.MOST_BYTES
    assert sum(keys) == array.size
    with read_cube(path) as later:
        np.testing.assert_array_equal(later["window_queue_length_mean"].isel(x=3), array[3])


def edit(path: Path, name: str) -> None:
    with netCDF4.Dataset(path, "a") as file:
        file[name][...] = file[name][...] * 2


def test_a_variable_that_was_changed_is_told_of_when_it_is_read_and_once(make_cube, tmp_path, small):
    path = write_cube(make_cube(), tmp_path / "a.nc")
    edit(path, "latency_mean_s")
    edit(path, "wait_mean_s")
    doubts = []
    with read_cube(path, doubts.append) as later:
        later["requests"].load()
        assert not doubts
        later["latency_mean_s"].isel(bins=0).load()
        assert doubts == [CHANGED]
        later["wait_mean_s"].load()
    assert doubts == [CHANGED]


@pytest.mark.parametrize("change", ["attribute", "coordinate", "absent"])
def test_what_every_reader_needs_is_looked_at_at_once(make_cube, tmp_path, small, change):
    path = write_cube(make_cube(), tmp_path / "a.nc")
    if change == "absent":
        with xr.open_dataset(path, decode_timedelta=False) as opened:
            opened.drop_vars("wait_mean_s").load().to_netcdf(tmp_path / "b.nc")
        path = tmp_path / "b.nc"
    else:
        with netCDF4.Dataset(path, "a") as file:
            if change == "attribute":
                file.title = "another"
            else:
                file["arrival_rate_per_s"][0] = 0.5
    doubts = []
    read_cube(path, doubts.append).close()
    assert doubts == [CHANGED]


def test_impossible_values_and_damage_are_one_line_when_they_are_read(make_cube, tmp_path, small):
    path = write_cube(make_cube(), tmp_path / "a.nc")
    with netCDF4.Dataset(path, "a") as file:
        file["utilisation"][...] = -1.0
    with (
        read_cube(path) as later,
        pytest.raises(InputError, match=r"a.nc: utilisation: holds values outside \[0, 1\]$"),
    ):
        later["utilisation"].mean()
    path = write_cube(make_cube(), tmp_path / "b.nc")
    os.truncate(path, path.stat().st_size * 3 // 4)
    with pytest.raises(InputError, match=r"b.nc: is damaged or incomplete: ") as error:
        read_cube(path).load()
    assert "\n" not in str(error.value)


@pytest.mark.skipif(netCDF4.__hdf5libversion__.startswith("1."), reason="earlier versions of HDF5 end the process")
def test_damage_anywhere_is_one_line(make_cube, tmp_path, small):
    path = write_cube(make_cube(), tmp_path / "b.nc")
    middle = np.random.default_rng(1).bytes(path.stat().st_size // 2)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 4)
        file.write(middle)
    with pytest.raises(InputError, match=r"b.nc: is damaged or incomplete: ") as error:
        read_cube(path).load()
    assert "\n" not in str(error.value)


def test_files_are_closed(make_cube, tmp_path, small):
    path = write_cube(make_cube(), tmp_path / "a.nc")
    for _ in range(3):
        with read_cube(path) as later:
            later["requests"].load()
    gc.collect()
    opened = [link.resolve() for link in Path("/proc/self/fd").iterdir() if link.exists()]
    assert path.resolve() not in opened


def test_what_fits_is_read_once_and_what_was_asked_for_last_stays(monkeypatch):
    arrays, keys = {name: np.full((2, 3, 4), float(k)) for k, name in enumerate("abc")}, {}
    variables = {name: counted(array, keys.setdefault(name, [])) for name, array in arrays.items()}
    kept = pieces.Kept(2 * 24 * 8)
    for name in "abaca":
        np.testing.assert_array_equal(kept.whole(name, variables[name]), arrays[name])
    assert keys == {"a": [24], "b": [24], "c": [24]}
    kept.whole("b", variables["b"])
    assert keys["b"] == [24, 24]  # it went when the third one came
    monkeypatch.setattr(pieces, "MOST_BYTES", 24 * 8 - 1)
    assert pieces.Kept(10_000).whole("a", variables["a"]) is None


def test_a_table_reads_each_variable_of_a_file_once_and_no_other(make_cube, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_cube(make_cube(("bins", "rate")), "a.nc")
    monkeypatch.setattr(cubes, "fits", lambda cube: False)
    read, judged = [], []
    original, judge = cubes.open_dataset, overload.judge

    def watched(path, what, **_):
        opened = original(path, what)

        def later(name, array):
            def at(key):
                read.append(name)
                return array.variable[key].values

            return pieces.read_later(array.variable, at)

        return opened.assign({name: later(name, array) for name, array in opened.data_vars.items()})

    monkeypatch.setattr(cubes, "open_dataset", watched)
    monkeypatch.setattr(overload, "judge", lambda *args, **options: judged.append(1) or judge(*args, **options))
    run("show", "a.nc")
    assert "latency_mean_s" in read
    assert "latency_histogram" not in read
    assert len(read) == len(set(read))
    assert len(judged) == 1


def test_values_in_memory_cannot_be_changed_through_a_cube(make_cube, tmp_path, monkeypatch):
    path = write_cube(make_cube(), tmp_path / "a.nc")
    monkeypatch.setattr(cubes, "fits", lambda cube: False)
    with read_cube(path) as cube:
        before = cube["latency_mean_s"].values.copy()
        cube["latency_mean_s"].values[:] = 0.0
        np.testing.assert_array_equal(cube["latency_mean_s"], before)


# ---- statistics


def run(*command):
    with pytest.raises(SystemExit) as stopped:
        main([*command])
    assert stopped.value.code == 0


def test_intervals_do_not_depend_on_where_variables_are_cut(make_cube, monkeypatch):
    cube = make_cube(("mode", "rate"), replications=5)
    found = []
    for most_bytes in (2**26, 4_000, 100):
        monkeypatch.setattr(pieces, "MOST_BYTES", most_bytes)
        found.append(
            [
                labelled.mean_interval(cube["latency_quantile_s"]),
                labelled.mean_interval(cube["window_queue_length_mean"]),
                labelled.paired_ratio(cube["latency_mean_s"], "mode", "fifo_greedy"),
                labelled.paired_difference(cube["latency_quantile_s"], "arrival_rate_per_s", 4.0),
                labelled.pooled_quantile(cube, 0.9),
                overload.judge(cube).to_dataset(),
            ]
        )
    for others in found[1:]:
        for whole, cut in zip(found[0], others, strict=True):
            xr.testing.assert_identical(whole, cut)


def test_cubes_are_compared_piece_by_piece(make_cube, monkeypatch):
    cube = make_cube(replications=5)
    other = cube.assign(latency_mean_s=cube["latency_mean_s"] * (1.0 + 1e-9), requests=cube["requests"] + 0)
    tables = []
    for most_bytes in (2**26, 100):
        monkeypatch.setattr(pieces, "MOST_BYTES", most_bytes)
        tables.append(compare_cubes(cube, other, 1e-6))
    pd.testing.assert_frame_equal(*tables)
    assert tables[0].set_index("name")["status"]["latency_mean_s"] == "within tolerance"


@pytest.mark.parametrize(
    "command",
    [
        ("show", "a.nc", "--all", "--wide"),
        ("show", "a.nc", "-v", "latency_quantile_s", "--select", "bins=[1,4]"),
        ("compare", "a.nc", "a.nc"),
    ],
)
def test_commands_print_the_same_of_cubes_that_are_read_later(
    make_cube, tmp_path, monkeypatch, capsys, command, request
):
    monkeypatch.chdir(tmp_path)
    write_cube(make_cube(("bins", "rate")), "a.nc")
    run(*command)
    whole = capsys.readouterr()
    request.getfixturevalue("small")
    run(*command)
    assert capsys.readouterr() == whole


def test_figures_and_reports_are_the_same_of_cubes_that_are_read_later(make_cube, tmp_path, small, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_cube(make_cube(("bins", "rate")), "a.nc")
    drawn = []
    for most in (2**26, 0):
        monkeypatch.setattr(cubes, "AT_ONCE", most)
        run("figure", "lines", "a.nc", "x=arrival_rate_per_s", "y=latency_p95_s", "-o", "a.png")
        drawn.append(Path("a.png").read_bytes())
        with read_cube("a.nc") as cube:
            drawn.append(repr(section_of(Subject(cube))))
    assert drawn[:2] == drawn[2:]


def test_a_table_reads_each_variable_a_piece_at_a_time(make_cube, monkeypatch):
    monkeypatch.setattr(pieces, "MOST_BYTES", 4_000)
    cube, asked = make_cube(("bins", "rate"), replications=40), []

    def later(array):
        def read(key):
            found = array.values[key]
            asked.append(found.nbytes)
            return found

        return pieces.read_later(array.variable, read)

    whole = summary_table(cube)
    table = summary_table(cube.assign({name: later(array) for name, array in cube.data_vars.items()}))
    pd.testing.assert_frame_equal(table, whole)
    each = max(cube[name].nbytes for name in ("latency_quantile_s", "window_arrivals"))
    assert max(asked) <= 4_000 < each


@pytest.mark.parametrize("name", ["a.nc", "a.zarr"])
def test_a_cube_is_extended_without_being_read_into_memory(make_cube, tmp_path, small, name):
    if name.endswith(".zarr"):
        pytest.importorskip("zarr")
    path = write_cube(make_cube(replications=4), tmp_path / name)
    asked = []

    def read_no_more_than_a_piece(array):
        def read(key):
            found = array.variable[key].values
            asked.append(found.nbytes)
            return found

        return pieces.read_later(array.variable, read)

    with read_cube(path) as old:
        watched = old.assign({name: read_no_more_than_a_piece(array) for name, array in old.data_vars.items()})
        joined = extend_cube(watched, make_cube(first_replication=4, replications=3))
        small_ones = [old[name].nbytes for name in old.data_vars if REPLICATION not in old[name].dims]
        assert max(asked, default=0) <= max([*small_ones, pieces.MOST_BYTES])
        write_cube(joined, path)
    assert max(asked) <= pieces.MOST_BYTES < max(old[name].nbytes for name in old.data_vars)
    with read_cube(path) as found:
        xr.testing.assert_equal(found.load(), make_cube(replications=7))
