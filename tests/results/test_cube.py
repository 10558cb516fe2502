import hashlib
import json
import os
import re
import subprocess
import sys
import textwrap

import netCDF4
import numpy as np
import pytest
import xarray as xr

from batchcube.results.cube import (
    CHECKSUMS,
    Buckets,
    Coordinate,
    axis_names,
    axis_of,
    build_cube,
    parse_specification,
    read_cube,
    write_cube,
)
from batchcube.results.joining import extend_cube
from batchcube.results.variables import REGISTRY
from helpers.cubes import check_cube


def build(axes=(), arrays=None, replications=2, **options):
    shape = tuple(len(axis.values) for axis in axes)
    arrays = {"throughput_requests_per_s": np.ones((*shape, replications))} if arrays is None else arrays
    return build_cube(axes, arrays, replications=replications, attrs={"title": "t", "specification": "{}"}, **options)


# ---- build


def test_dimensions_units_and_order(make_cube):
    cube = make_cube(("mode", "rate"))
    assert axis_names(cube) == ["mode", "arrival_rate_per_s"]
    assert cube["latency_quantile_s"].dims == ("mode", "arrival_rate_per_s", "replication", "quantile")
    assert cube["bin_lower_edge"].dims == ("mode", "arrival_rate_per_s", "bin")
    assert cube["theory_latency_s"].dims == ("mode", "arrival_rate_per_s")
    assert cube["arrival_rate_per_s"].attrs == {
        "path": "workload.arrivals.rate_per_s",
        "units": "s-1",
        "long_name": "arrival rate",
    }
    assert len(cube.data_vars) > 50
    for name, variable in ((name, REGISTRY[name]) for name in cube.data_vars):
        assert cube[name].dtype == variable.dtype
        assert cube[name].attrs["units"] in (variable.units, "tokens")
    for name in cube.coords:
        assert {"units", "long_name"} <= set(cube[name].attrs)
    assert axis_of(cube, "policy.bins") == "mode"  # one of the comma-joined paths
    assert axis_of(cube, "server.servers") is None


def test_unit_of_lengths_is_that_of_the_sweep():
    edges = {"bin_lower_edge": np.zeros(2)}
    assert build((), edges, length_units="s")["bin_lower_edge"].attrs["units"] == "s"
    assert build((), edges)["bin_lower_edge"].attrs["units"] == "tokens"
    with pytest.raises(ValueError, match="length_units = 'words'"):
        build((), edges, length_units="words")


def test_drawn_coefficients_are_said_of_every_variable_with_replications(make_cube, tmp_path):
    whole = make_cube(replications=4, coefficients_drawn=True)
    said = {name for name in whole.data_vars if whole[name].attrs.get("interval_of") == "single replication"}
    assert said == {name for name in whole.data_vars if REGISTRY[name].replicated}
    assert said < set(whole.data_vars)
    assert not any("interval_of" in variable.attrs for variable in make_cube(replications=4).variables.values())
    # The file says it, and so does a cube that was extended.
    path = write_cube(make_cube(replications=3, coefficients_drawn=True), tmp_path / "cube.nc")
    with netCDF4.Dataset(path) as raw:
        assert raw.variables["latency_mean_s"].interval_of == "single replication"
        assert "interval_of" not in raw.variables["theory_latency_s"].ncattrs()
    joined = extend_cube(read_cube(path), make_cube(first_replication=3, replications=1, coefficients_drawn=True))
    joined.attrs = whole.attrs
    xr.testing.assert_identical(joined, whole)


def test_axis_values_keep_numbers_and_label_the_rest():
    values = {"a": [1, 2], "b": [1, 2.5], "c": [1, "infinite"], "d": [True, False]}
    cube = build([Coordinate(name, given, f"path.{name}") for name, given in values.items()])
    assert cube["a"].dtype == np.int64
    assert cube["b"].dtype == np.float64
    assert cube["c"].values.tolist() == ["1", "infinite"]
    assert cube["d"].values.tolist() == ["true", "false"]


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        (Coordinate("a b", [1], "x"), "axis 'a b': a name is letters"),
        (Coordinate("replication", [1], "x"), "axis replication: this name is taken"),
        (Coordinate("batch_size", [1], "x"), "axis batch_size: this name is taken"),
        (Coordinate("latency_mean_s", [1], "x"), "axis latency_mean_s: this name is taken"),
        (Coordinate("a", [], "x"), "axis a: has no values"),
        (Coordinate("a", [1, 1], "x"), "axis a: a value occurs twice"),
        (Coordinate("a", [1.0, float("nan")], "x"), "axis a: holds NaN"),
    ],
)
def test_wrong_axes_are_refused_by_name(axis, message):
    with pytest.raises(ValueError, match=message):
        build([axis])


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="a name occurs twice"):
        build([Coordinate("a", [1], "x"), Coordinate("a", [1], "x")])
    with pytest.raises(ValueError, match="replications = 0: must be >= 1"):
        build(replications=0)
    with pytest.raises(ValueError, match="needs the dimension latency_bucket"):
        build((), {"latency_histogram": np.zeros((2, 3), np.uint32)})
    with pytest.raises(ValueError, match="buckets: the three arrays of tbt_bucket"):
        build(buckets={"tbt_bucket": Buckets(np.ones(3), np.ones(2), np.ones(3))})
    with pytest.raises(ValueError, match="buckets: window is no dimension of buckets, must be one of latency_bucket, "):
        build(buckets={"window": Buckets(np.ones(3), np.ones(3), np.ones(3))})


def test_histograms_are_trimmed_to_the_used_range():
    middle = np.arange(8.0)
    counts = np.zeros((2, 8), np.uint32)
    counts[0, 3], counts[1, 5] = 7, 9
    sizes = np.zeros((2, 6), np.int64)
    sizes[:, 2] = 1
    cube = build(
        (),
        {"latency_histogram": counts, "batch_size_histogram": sizes},
        buckets={"latency_bucket": Buckets(middle, middle - 0.5, middle + 0.5)},
    )
    assert cube["latency_bucket"].values.tolist() == [0.0, 3.0, 4.0, 5.0]
    assert cube["latency_bucket_upper_s"].values.tolist() == [0.5, 3.5, 4.5, 5.5]
    assert cube["latency_histogram"].values.tolist() == [[0, 7, 0, 0], [0, 0, 0, 9]]
    assert cube["batch_size"].values.tolist() == [0, 1, 2]
    empty = build((), {"batch_size_histogram": np.zeros((2, 6), np.int64)})
    assert empty["batch_size"].values.tolist() == [0]


def gaps(low, high, replications=1, first=0):
    """A cube of token gaps that all lie in the buckets from `low` to below `high`."""
    middle = np.arange(20.0)
    counts = np.zeros((replications, 20), np.uint64)
    counts[:, low:high] = 2**33 + first
    buckets = {"tbt_bucket": Buckets(middle, middle - 0.5, middle + 0.5)}
    return build((), {"tbt_histogram": counts}, replications, buckets=buckets, first_replication=first)


def test_gaps_between_tokens_have_buckets_of_their_own():
    cube = gaps(4, 6)
    assert cube["tbt_bucket"].values.tolist() == [0.0, 4.0, 5.0]
    assert cube["tbt_bucket_lower_s"].values.tolist() == [-0.5, 3.5, 4.5]
    assert cube["tbt_bucket_upper_s"].attrs == {"units": "s", "long_name": "upper edge of the bucket"}
    assert "latency_bucket" not in cube.coords
    with pytest.raises(ValueError, match="axis tbt_bucket_upper_s: this name is taken"):
        build([Coordinate("tbt_bucket_upper_s", [1], "x")])
    with pytest.raises(ValueError, match="needs the dimension tbt_bucket"):
        build((), {"tbt_histogram": np.zeros((2, 3), np.uint64)})


def test_gaps_are_written_and_extended_as_whole_numbers_beyond_32_bits(tmp_path):
    write_cube(gaps(4, 6), tmp_path / "cube.nc")
    joined = extend_cube(read_cube(tmp_path / "cube.nc"), gaps(7, 9, first=1))
    assert joined["tbt_bucket"].values.tolist() == [0.0, 4.0, 5.0, 7.0, 8.0]
    assert joined["tbt_bucket_lower_s"].values.tolist() == [-0.5, 3.5, 4.5, 6.5, 7.5]
    assert joined["tbt_histogram"].dtype == np.uint64
    assert joined["tbt_histogram"].values.tolist() == [[0, 2**33, 2**33, 0, 0], [0, 0, 0, 2**33 + 1, 2**33 + 1]]


# ---- write and read


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


def test_netcdf_that_is_no_cube(example_cube, tmp_path):
    path = tmp_path / "x.nc"

    def refused(dataset, message):
        dataset.to_netcdf(path)
        with pytest.raises(ValueError, match=message) as error:
            read_cube(path)
        assert one_line(error)

    refused(xr.Dataset({"a": ("x", [1.0])}), "is no batchcube cube: it has no attribute batchcube_version")
    refused(xr.Dataset(attrs={"batchcube_version": "1"}), "it has no dimension replication")
    refused(example_cube[["replication"]].assign_attrs(example_cube.attrs), "holds none of the registered variables")
    refused(example_cube.transpose(..., "bins"), "has dimensions")
    refused(example_cube.assign(requests=example_cube["requests"] * 1.0), "requests has dtype float64, must be int64")


SEARCHED = {
    "capacity_criteria": '[{"variable": "latency_mean_s", "quantile": null, "limit": 1.0}]',
    "capacity_notes_unanswered": "",
    "capacity_range_given": 1,
    "capacity_low_per_s": 1.0,
    "capacity_high_per_s": 2.0,
    "capacity_tolerance": 0.1,
    "capacity_growth": 0.02,
}
NARROWED = {
    "precision_wanted": "2%",
    "precision_looks": "8, 12",
    "precision_reached": 1,
    "precision_level": 0.96,
}
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"specification": None}, "has no attribute specification"),
        ({"specification": "{"}, "specification: is neither TOML nor JSON"),
        ({"specification": "[1]"}, "specification: must be a table of settings"),
        ({"specification": '{"a": ' + DEEP + "}"}, "specification: is nested deeper than 24 levels"),
        ({"specification": '{"a": ' + DEEP[99_900:-99_900] + "}"}, "specification: is nested deeper than 24 levels"),
        ({"specification": 1}, "attribute specification: must be text"),
        ({"title": np.array([1, 2])}, "attribute title: must be text"),
        ({"notes": ["a", "b"]}, "attribute notes: must be text"),
        ({"seed": np.array([1, 2, 3])}, "attribute seed: must be a whole number"),
        ({"seed": "1"}, "attribute seed: must be a whole number"),
        ({"replications": 1.5}, "attribute replications: must be a whole number"),
        ({"specification_sha256": 3.0}, "attribute specification_sha256: must be text"),
        ({"versions": "3.12"}, "attribute versions: must be a table in JSON"),
        ({"versions": '{"numpy": 2}'}, "attribute versions: must hold text only"),
        ({"versions": DEEP}, "attribute versions: is nested deeper than 24 levels"),
        ({"service_coefficients": "[["}, "attribute service_coefficients: is not JSON"),
        ({"service_coefficients": "[]"}, "attribute service_coefficients: must be a table in JSON"),
        ({"service_coefficients": '{"a": 1}'}, "attribute service_coefficients: each must have its sha256"),
        (NARROWED | {"precision_looks": "8,12"}, "attribute precision_looks: must be numbers of replications"),
        (NARROWED | {"precision_level": None}, "has no attribute precision_level"),
        (NARROWED | {"precision_reached": "yes"}, "attribute precision_reached: must be a whole number"),
        (SEARCHED | {"capacity_low_per_s": "[]"}, "attribute capacity_low_per_s: must be a number"),
        (SEARCHED | {"capacity_tolerance": np.nan}, "attribute capacity_tolerance: must be a number"),
        (SEARCHED | {"capacity_growth": None}, "has no attribute capacity_growth"),
        (SEARCHED | {"capacity_criteria": "{}"}, "attribute capacity_criteria: must be a list in JSON"),
        (SEARCHED | {"capacity_criteria": "[1]"}, "attribute capacity_criteria: must hold variables with their"),
        (
            SEARCHED | {"capacity_criteria": '[{"variable": "x", "quantile": null, "limit": 1}]'},
            "attribute capacity_criteria: must hold variables with their",
        ),
        (
            SEARCHED | {"capacity_criteria": '[{"variable": "latency_quantile_s", "quantile": 1.2, "limit": 1}]'},
            "attribute capacity_criteria: must hold variables with their",
        ),
    ],
)
def test_attributes_of_a_foreign_cube_are_checked(example_cube, tmp_path, attrs, message):
    foreign = example_cube.assign_attrs(attrs)
    foreign.attrs = {name: value for name, value in foreign.attrs.items() if value is not None}
    foreign.to_netcdf(tmp_path / "x.nc")
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_cube(tmp_path / "x.nc")
    assert one_line(error)
    assert str(error.value).startswith(str(tmp_path / "x.nc"))


def test_a_cube_of_a_search_holds_its_answers(example_cube, tmp_path):
    with pytest.raises(ValueError, match="is of a search for capacities and holds no capacity_requests_per_s"):
        write_cube(example_cube.assign_attrs(SEARCHED), tmp_path / "x.nc")
    found = {"capacity_requests_per_s": np.ones(2), "capacity_unbracketed": np.zeros(2, np.int64)}
    cube = build((), found)
    path = write_cube(cube.assign_attrs(SEARCHED), tmp_path / "x.nc")
    assert read_cube(path).attrs["capacity_growth"] == 0.02
    for wrong in ("small", np.nan, 10**400):
        cube["capacity_requests_per_s"].attrs["relative_error"] = wrong
        with pytest.raises(ValueError, match="capacity_requests_per_s: its attribute relative_error: must be a number"):
            check_cube(cube, "x.nc")
    for wrong in (-3.0, 1.0, 1e300):
        cube["capacity_requests_per_s"].attrs["relative_error"] = wrong
        with pytest.raises(ValueError, match="its attribute relative_error: must be from 0 to below 1"):
            check_cube(cube, "x.nc")


def test_an_axis_named_like_a_variable_is_refused(example_cube):
    cube = example_cube.drop_vars("utilisation").rename(bins="utilisation")
    with pytest.raises(ValueError, match="axis utilisation: has the name of a variable"):
        check_cube(cube, "x.nc")


def without(cube, name, attribute):
    made = cube.copy()
    made[name].attrs = {key: value for key, value in cube[name].attrs.items() if key != attribute}
    return made


def relabelled(cube, name, values):
    return cube.assign_coords({name: xr.Variable(name, values, cube[name].attrs)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: without(c, "bins", "units"), "axis bins: its attribute units: must be text"),
        (lambda c: without(c, "bins", "long_name"), "axis bins: its attribute long_name: must be text"),
        (lambda c: without(c, "bins", "path"), "has dimensions"),
        (lambda c: relabelled(c, "bins", [1, 1, 2]), "axis bins: a value occurs twice"),
        (lambda c: relabelled(c, "bins", [1.0, np.nan, 2.0]), "axis bins: holds NaN"),
        (lambda c: c.isel(bins=[]), "axis bins: has no values"),
        (lambda c: c.rename(bins="../bins\x1b"), r"axis ../bins\x1b: a name is letters, digits and _"),
        (lambda c: c.isel(replication=[]), "replication: has no values"),
        (lambda c: relabelled(c, "replication", [0.5, 1, 2, 3, 4, 5]), "replication: must hold numbers"),
        (lambda c: relabelled(c, "replication", [0, 0, 2, 3, 4, 5]), "replication: a value occurs twice"),
        (lambda c: relabelled(c, "quantile", [0.5, 0.9, 0.95, 1.5]), "quantile: must hold probabilities above 0"),
        (lambda c: c.drop_vars("quantile"), "quantile: the dimension quantile has no such coordinate"),
        (
            lambda c: c.drop_vars("latency_bucket_upper_s"),
            "latency_bucket_upper_s: the dimension latency_bucket has no",
        ),
        (lambda c: c.isel(latency_bucket=slice(None, None, -1)), "latency_bucket: its buckets must be in order"),
        (lambda c: c.drop_vars("window"), "window: the dimension window has no such coordinate"),
        (lambda c: without(c, "latency_mean_s", "units"), "latency_mean_s: its attribute units: must be text"),
        (
            lambda c: c.assign(
                throughput_requests_per_s=c["throughput_requests_per_s"].copy(data=c["makespan_s"] * 0 - 5)
            ),
            "holds values outside [0, inf]",
        ),
    ],
)
def test_axes_and_variables_of_a_foreign_cube_are_checked(example_cube, change, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        check_cube(change(example_cube), "x.nc")
    assert str(error.value).startswith("x.nc: ")
    assert one_line(error)


def test_specification_is_toml_or_json():
    assert parse_specification("[a]\nb = 1") == parse_specification('{"a": {"b": 1}}') == {"a": {"b": 1}}
    with pytest.raises(ValueError, match="must be a table"):
        parse_specification("[1, 2]")
