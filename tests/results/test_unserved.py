import numpy as np
import pytest
import xarray as xr

from batchcube.results.unserved import left_out
from batchcube.results.variables import is_time


def counts(measured, missed, truncated=None):
    dims = ("bins", "replication")
    found = {"measured": measured, "missed": missed} | ({} if truncated is None else {"truncated": truncated})
    return xr.Dataset({name: (dims, np.array(values)) for name, values in found.items()})


def test_who_has_no_time_is_counted_where_they_are_most():
    every = [[100, 100], [100, 100]]
    none = [[0, 0], [0, 0]]
    assert left_out(counts(every, none)) == left_out(counts(every, none, none)) == ""
    # 30 of 200 at the second point, over both replications.
    some = counts([[99, 100], [90, 80]], [[1, 0], [10, 20]])
    assert (
        left_out(some)
        == "up to 15 % of the requests were never served: times and their quantiles are of what was served"
    )
    cut = counts([[99, 100], [90, 80]], [[1, 0], [10, 20]], [[0, 0], [1, 0]])
    assert left_out(cut).startswith(
        "up to 15 % of the requests were never served and up to 0.5 % of the requests had their answers cut off: "
    )
    assert left_out(some.isel(bins=[0])).startswith("0.5 % of the requests were never served: ")
    assert left_out(some.isel(bins=1, replication=0)).startswith("10 % of the requests ")
    assert left_out(counts(none, [[0, 4], [0, 0]])).startswith("up to 100 % of")
    assert left_out(some.drop_vars("missed")) == ""


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("latency_mean_s", True),
        ("ttft_quantile_s[0.99]", True),
        ("bin_wait_mean_s", True),
        ("class_tpot_quantile_s", True),
        ("latency_histogram", True),
        ("throughput_requests_per_s", False),
        ("makespan_s", False),
        ("theory_latency_s", False),
        ("window_width_s", False),
        ("goodput_fraction", False),
    ],
)
def test_statistics_of_times_are_known_by_their_names(name, times):
    assert is_time(name) is times
