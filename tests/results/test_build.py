import netCDF4
import numpy as np
import pytest
import xarray as xr

from batchcube.results.axes import axis_names, axis_of
from batchcube.results.build import Buckets, Coordinate, build_cube, check_arrays
from batchcube.results.cube import read_cube, write_cube
from batchcube.results.joining import extend_cube
from batchcube.results.variables import REGISTRY


def build(axes=(), arrays=None, replications=2, **options):
    shape = tuple(len(axis.values) for axis in axes)
    arrays = {"throughput_requests_per_s": np.ones((*shape, replications))} if arrays is None else arrays
    return build_cube(axes, arrays, replications=replications, attrs={"title": "t", "specification": "{}"}, **options)


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


AXES, SIZES = {"bins": 2}, {"replication": 3, "bin": 4}


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("latencies", np.zeros((2, 3)), "latencies: no such variable"),
        (
            "utilisation",
            np.zeros((3, 2)),
            r"has shape \(3, 2\), must be \(2, 3\) \(bins: 2, replication: 3\)",
        ),
        ("utilisation", np.full((2, 3), 1.5), r"utilisation: holds values outside \[0, 1\]"),
        ("requests", np.zeros((2, 3)), "requests: has dtype float64, must be int64"),
        ("requests", np.full((2, 3), -1), "requests: holds values outside"),
        ("latency_histogram", np.zeros((2, 3, 5), np.uint32), "latency_histogram: needs the dimension latency_bucket"),
        ("bin_lower_edge", np.zeros((2, 3, 4)), r"bin_lower_edge: has shape \(2, 3, 4\), must be \(2, 4\)"),
    ],
)
def test_wrong_arrays_are_refused_by_name(name, array, message):
    with pytest.raises(ValueError, match=message):
        check_arrays({name: array}, AXES, SIZES)


def test_right_arrays_get_their_dtype():
    checked = check_arrays({"requests": np.ones((2, 3), np.int32), "utilisation": np.full((2, 3), np.nan)}, AXES, SIZES)
    assert checked["requests"].dtype == np.int64
    assert np.isnan(checked["utilisation"]).all()


def test_capacities_outside_the_search_are_flagged():
    arrays = {"capacity_requests_per_s": np.array([4.0, np.nan]), "capacity_unbracketed": np.array([0, -1])}
    assert check_arrays(arrays, {}, {"replication": 2}).keys() == arrays.keys()
    with pytest.raises(ValueError, match=r"capacity_unbracketed: holds values outside \[-1, 2\]"):
        check_arrays({"capacity_unbracketed": np.array([0, 3])}, {}, {"replication": 2})
