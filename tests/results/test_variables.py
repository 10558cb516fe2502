import io

import numpy as np
import pytest
from rich.console import Console

from batchcube.errors import InputError
from batchcube.results.variables import (
    BUCKETED,
    EXTRA_DIMENSIONS,
    REGISTRY,
    Statistic,
    check_arrays,
    edge_names,
    lookup,
    statistic_of,
    variables_table,
)


def test_every_variable_is_described():
    for name, variable in REGISTRY.items():
        assert name == variable.name
        assert variable.units
        assert variable.long_name
        assert variable.definition.endswith(".")
        assert set(variable.extra) <= set(EXTRA_DIMENSIONS)
        np.dtype(variable.dtype)


@pytest.mark.parametrize(
    ("suffix", "units"),
    [("_s", "s"), ("_s2", "s2"), ("_requests_per_s", "s-1"), ("_fraction", "1"), ("_tokens", "tokens")],
)
def test_names_say_their_unit(suffix, units):
    rate = suffix.endswith("per_s")
    found = {v.units for name, v in REGISTRY.items() if name.endswith(suffix) and name.endswith("per_s") == rate}
    assert found == {units}


def test_dimensions_of_buckets_have_a_histogram_each_and_edges_of_free_names():
    for dim in BUCKETED:
        assert dim in EXTRA_DIMENSIONS
        (histogram,) = (name for name, variable in REGISTRY.items() if variable.extra == (dim,))
        assert histogram == dim.replace("_bucket", "_histogram")
        assert not {*edge_names(dim)} & {*REGISTRY, *EXTRA_DIMENSIONS}
    assert edge_names("tbt_bucket") == ("tbt_bucket_lower_s", "tbt_bucket_upper_s")


def test_capacities_outside_the_search_are_flagged():
    arrays = {"capacity_requests_per_s": np.array([4.0, np.nan]), "capacity_unbracketed": np.array([0, -1])}
    assert check_arrays(arrays, {}, {"replication": 2}).keys() == arrays.keys()
    with pytest.raises(ValueError, match=r"capacity_unbracketed: holds values outside \[-1, 2\]"):
        check_arrays({"capacity_unbracketed": np.array([0, 3])}, {}, {"replication": 2})


def test_table_lists_every_variable_whole_in_a_narrow_terminal():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(variables_table())
    text = console.export_text()
    assert all(f" {name} " in text for name in REGISTRY)
    assert "\u2026" not in text
    assert "Requests that arrived." in text
    assert "unit: count;" in text


def test_table_of_some_and_of_an_unknown_variable():
    assert variables_table(["latency_mean_s"]).row_count == 1
    with pytest.raises(ValueError, match=r"^latency_mean: no such variable; did you mean latency_mean_s"):
        variables_table(["latency_mean"])
    for name in ("latency_p99_s", "latency_p99", "latency_p99.9_ms"):
        with pytest.raises(ValueError, match=rf"^{name}: no such variable; did you mean latency_quantile_s\?$"):
            lookup(name)
    with pytest.raises(ValueError, match=r"did you mean ttft_min_s, ttft_max_s or ttft_mean_s\?$"):
        lookup("ttft")
    with pytest.raises(ValueError, match=r"throughput_tokens_per_s (or|,) throughput_requests_per_s\?"):
        lookup("throughput")
    with pytest.raises(ValueError, match="`batchcube variables` lists all"):
        lookup("zzzzzz")


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


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("utilisation", Statistic("utilisation")),
        ("latency_mean_s", Statistic("latency_mean_s")),
        ("tbt_mean_ms", Statistic("tbt_mean_s", None, 1000.0)),
        ("latency_p99_s", Statistic("latency_quantile_s", 0.99)),
        ("ttft_p97.5_ms", Statistic("ttft_quantile_s", 0.975, 1000.0)),
        ("class_ttft_p50_s", Statistic("class_ttft_quantile_s", 0.5)),
        ("latency_quantile_s[0.99]", Statistic("latency_quantile_s", 0.99)),
        ("latency_quantile_s", Statistic("latency_quantile_s")),
    ],
)
def test_how_a_statistic_is_spelled(name, meant):
    assert statistic_of(name) == meant
    assert statistic_of(meant.name) == meant
    assert meant.name == name or "[" in name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("latency_p100_s", "no such variable"),
        ("latency_p0_s", "no such variable"),
        ("latency_p99", "no such variable"),
        ("makespan_p99_s", "no such variable"),
        ("latency_mean_ns", "no such variable; did you mean latency_mean_s"),
        ("latency_mean_s[0.9]", "this variable has no quantiles"),
        ("latency_quantile_s[2]", "no such variable"),
    ],
)
def test_other_spellings_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        statistic_of(name)
