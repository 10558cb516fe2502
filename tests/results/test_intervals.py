"""Intervals as people read them."""

import numpy as np
import pytest

from batchcube.results.intervals import CONFIDENCE, MOST_ROWS, VARIABLE, Intervals


def intervals(bins: int = 2, n: tuple[int, ...] | None = None, **coords: object) -> Intervals:
    middle = np.arange(1.0, bins + 1)
    about = {"long_name": "mean <latency>", "units": "s"}
    arrays = {
        "mean": ("bins", middle, about),
        "low": ("bins", middle - 0.031, about),
        "high": ("bins", middle + 0.031, about),
        "n": ("bins", np.full(bins, 8) if n is None else np.array(n)),
    }
    return Intervals(arrays, {"bins": np.arange(1, bins + 1), **coords}, {VARIABLE: "latency_mean_s", CONFIDENCE: 0.95})


def test_a_row_a_point_with_two_digits_of_the_width() -> None:
    assert repr(intervals()).splitlines() == [
        "mean <latency> (s): 95 % intervals over 8 replications",
        "bins   mean    low   high",
        "   1  1.000  0.969  1.031",
        "   2  2.000  1.969  2.031",
    ]


def test_a_notebook_shows_the_same() -> None:
    html = intervals()._repr_html_()
    assert html.startswith("<div>mean &lt;latency&gt; (s): 95 % intervals over 8 replications</div><table")
    assert html.count("<tr>") == 3
    assert '<td style="text-align: right">1.969</td>' in html


def test_what_is_fixed_stands_above_and_points_that_differ_in_replications_say_so() -> None:
    text = repr(intervals(n=(8, 9), rate=2.0).sel(bins=[2, 1])).splitlines()
    assert text[0] == "mean <latency> (s), at rate = 2: 95 % intervals over replications"
    assert text[1:] == ["bins   mean    low   high  n", "   2  2.000  1.969  2.031  9", "   1  1.000  0.969  1.031  8"]
    one = repr(intervals().sel(bins=2)).splitlines()
    assert one == [
        "mean <latency> (s), at bins = 2: 95 % intervals over 8 replications",
        " mean    low   high",
        "2.000  1.969  2.031",
    ]


@pytest.mark.parametrize(
    ("name", "units", "shown"),
    [
        ("latency_quantile_s[0.95]", "s", "mean <latency> [0.95] (s):"),
        ("throughput_requests_per_s", "s-1", "mean <latency> (requests/s):"),
        ("utilisation", "1", "mean <latency>:"),
    ],
)
def test_the_quantile_and_the_unit_are_named(name: str, units: str, shown: str) -> None:
    found = intervals()
    found["mean"].attrs["units"], found.attrs[VARIABLE] = units, name
    assert repr(found).startswith(shown)


def test_labels_that_are_words_stand_on_the_left() -> None:
    found = intervals().assign_coords(bins=["<few>", "some more"])
    assert repr(found).splitlines()[1:3] == ["bins        mean    low   high", "<few>      1.000  0.969  1.031"]
    assert '<td style="text-align: left">&lt;few&gt;</td>' in found._repr_html_()


def test_without_an_interval_the_value_stands_alone() -> None:
    found = intervals(n=(1, 1))
    found["low"][:] = found["high"][:] = np.nan
    assert repr(found).splitlines()[0].endswith(": one replication, no interval")
    assert repr(found).splitlines()[2] == "   1     1    -     -"


@pytest.mark.parametrize("rows", [MOST_ROWS, MOST_ROWS + 2])
def test_of_many_rows_the_first_are_shown(rows: int) -> None:
    lines = repr(intervals(rows)).splitlines()
    assert len(lines) == 2 + min(rows, MOST_ROWS + 1)
    assert (lines[-1] == "… 2 more rows: .to_dataframe() has all") == (rows > MOST_ROWS)


def test_what_is_made_of_them_prints_as_any_dataset() -> None:
    bare = intervals()
    bare.attrs.clear()
    for other in (intervals()[["mean"]], intervals().assign(more=1), bare):
        assert repr(other).startswith("<xarray.")
        assert "xr-wrap" in other._repr_html_()
