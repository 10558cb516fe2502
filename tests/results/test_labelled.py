import numpy as np
import pytest
import xarray as xr

from batchcube.results import labelled, statistics
from batchcube.results.names import reserved_names
from batchcube.results.summary import summary_table


def test_mean_is_that_of_the_plain_array_wherever_the_dimension_is(example_cube):
    da = example_cube["latency_quantile_s"]  # replication is not the last dimension
    found = labelled.mean_interval(da, confidence=0.9)
    plain = statistics.mean_interval(da.values, axis=2, confidence=0.9)
    assert found["mean"].dims == ("bins", "arrival_rate_per_s", "quantile")
    for name, value in (("mean", plain.estimate), ("low", plain.low), ("high", plain.high), ("n", plain.n)):
        np.testing.assert_array_equal(found[name].values, value)
    assert found["mean"].attrs == {"units": "s", "long_name": "quantile of the latency"}
    assert found["arrival_rate_per_s"].attrs["units"] == "s-1"


def test_registered_bounds_clip(example_cube):
    da = example_cube["request_sla_violation_fraction"].copy()
    da.values[..., :] = [0.0, 0.0, 0.0, 0.0, 0.0, 0.1]
    assert (labelled.mean_interval(da)["low"] == 0.0).all()
    assert (labelled.mean_interval(da.rename("something"))["low"] < 0.0).all()


def test_no_replication_dimension_means_no_interval(example_cube, make_cube):
    for da in (example_cube["theory_latency_s"], make_cube(replications=1)["theory_latency_s"]):
        found = labelled.mean_interval(da)
        xr.testing.assert_equal(found["mean"], da.rename("mean"))
        assert found["low"].isnull().all()
        assert found["high"].isnull().all()
    assert labelled.mean_interval(make_cube(replications=1)["latency_mean_s"])["low"].isnull().all()


def test_pairs_along_a_labelled_axis(make_cube):
    da = make_cube(("mode", "rate"))["throughput_requests_per_s"]
    difference = labelled.paired_difference(da, "mode", "fifo_fixed")
    assert difference["mode"].values.tolist() == ["fifo_greedy", "multi_bin_only", "dynamic_only", "multi_bin_dynamic"]
    assert difference["difference"].dims == ("mode", "arrival_rate_per_s")
    assert difference["difference"].attrs["baseline"] == "mode = fifo_fixed"
    at = {"mode": "dynamic_only", "arrival_rate_per_s": 24.0}
    plain = statistics.paired_difference(da.sel(at).values, da.sel(at | {"mode": "fifo_fixed"}).values)
    assert difference["low"].sel(at).item() == plain.low
    ratio = labelled.paired_ratio(da, "mode", "fifo_fixed")
    # The example's capacity grows by 5 % with each mode, and its noise is common: the ratio is exact.
    assert ratio["ratio"].sel(at).item() == pytest.approx(1.15)
    assert (ratio["high"] - ratio["low"]).sel(at).item() == pytest.approx(0.0, abs=1e-12)
    assert ratio["ratio"].attrs["units"] == "1"
    assert difference["difference"].attrs["units"] == "s-1"


def test_pairs_along_a_numeric_axis_before_extra_dimensions(example_cube):
    da = example_cube["latency_quantile_s"]
    found = labelled.paired_ratio(da, along="bins", baseline=1)
    assert found["ratio"].dims == ("bins", "arrival_rate_per_s", "quantile")
    assert found["bins"].values.tolist() == [2, 4]
    plain = statistics.paired_ratio(da.values[2, 1, :, 3], da.values[0, 1, :, 3])
    assert found["high"].values[1, 1, 3] == plain.high


def test_unknown_baselines_are_refused(example_cube):
    da = example_cube["latency_mean_s"]
    with pytest.raises(ValueError, match="bins = 3: no such point; the axis has 1, 2, 4"):
        labelled.paired_ratio(da, "bins", 3)
    with pytest.raises(ValueError, match="mode: is no axis of latency_mean_s; its dimensions are bins"):
        labelled.paired_difference(da, "mode", "fifo_fixed")


def test_pooled_quantile_of_a_cube(example_cube):
    found = labelled.pooled_quantile(example_cube, 0.95)
    assert found["quantile"].dims == ("bins", "arrival_rate_per_s")
    assert found["quantile"].attrs["relative_error"] <= 0.01 + 1e-9
    single = example_cube["latency_quantile_s"].sel(quantile=0.95)
    assert (found["quantile"] > single.min("replication") * 0.98).all()
    assert (found["quantile"] < single.max("replication") * 1.02).all()
    assert ((found["low"] < found["quantile"]) & (found["quantile"] < found["high"])).all()
    with pytest.raises(ValueError, match=r"the cube holds none \(report.histograms was false\)"):
        labelled.pooled_quantile(example_cube.drop_vars("latency_histogram"), 0.5)


def test_intervals_are_of_a_single_replication_where_coefficients_were_drawn(make_cube):
    cube = make_cube(("mode", "rate"), replications=8, coefficients_drawn=True).copy(deep=True)
    plain = make_cube(("mode", "rate"), replications=8).copy(deep=True)
    # The modes of the example differ by a factor: let them differ by chance too.
    for one in (cube, plain):
        one["throughput_requests_per_s"] *= np.random.default_rng(2).normal(1.0, 0.02, (5, 4, 8))
    at = {"mode": 3, "arrival_rate_per_s": 1}
    da, usual = cube["throughput_requests_per_s"], plain["throughput_requests_per_s"]
    assert labelled.of_single(da)
    assert not labelled.of_single(usual)
    assert not labelled.of_single(cube["theory_latency_s"])  # has no replications
    x, base = da.values[3, 1], da.values[0, 1]
    for found, number, expected, narrow in (
        (
            labelled.mean_interval(da),
            3,
            statistics.mean_interval(x, bounds=(0.0, np.inf), single=True),
            labelled.mean_interval(usual),
        ),
        (
            labelled.paired_difference(da, "mode", "fifo_fixed"),
            2,
            statistics.paired_difference(x, base, single=True),
            labelled.paired_difference(usual, "mode", "fifo_fixed"),
        ),
        (
            labelled.paired_ratio(da, "mode", "fifo_fixed"),
            2,
            statistics.paired_ratio(x, base, single=True),
            labelled.paired_ratio(usual, "mode", "fifo_fixed"),
        ),
    ):
        assert found["low"].values[number, 1] == expected.low
        assert found["high"].values[number, 1] == expected.high
        width, usual_width = ((one["high"] - one["low"]).values[number, 1] for one in (found, narrow))
        assert width > usual_width
    mean, narrow = labelled.mean_interval(da), labelled.mean_interval(usual)
    np.testing.assert_allclose((mean["high"] - mean["mean"]), 3.0 * (narrow["high"] - narrow["mean"]))  # sqrt(8 + 1)
    found = labelled.pooled_quantile(cube, 0.5)
    counts = cube["latency_histogram"].isel(at).values
    edges = [cube[name].values for name in ("latency_bucket", "latency_bucket_lower_s", "latency_bucket_upper_s")]
    expected = statistics.pooled_quantile(counts, *edges, 0.5, single=True)
    assert (found["low"].isel(at), found["high"].isel(at)) == (expected.low, expected.high)
    usual = labelled.pooled_quantile(plain, 0.5)
    assert (found["high"] - found["low"] > usual["high"] - usual["low"]).all()


def test_no_axis_has_a_name_that_intervals_and_tables_use(example_cube):
    times = example_cube["latency_mean_s"]
    one = int(example_cube["bins"].values[0])
    found = [
        labelled.mean_interval(times),
        labelled.paired_difference(times, "bins", one),
        labelled.paired_ratio(times, "bins", one),
        labelled.pooled_quantile(example_cube, 0.5),
    ]
    assert {name for one in found for name in one} <= reserved_names()
    table = summary_table(example_cube, ["latency_quantile_s"])
    assert set(table) - {"bins", "arrival_rate_per_s"} <= reserved_names()
