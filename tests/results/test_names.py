import io

import pytest
from rich.console import Console

from batchcube.errors import InputError
from batchcube.results.names import Statistic, lookup, statistic_of, variables_table
from batchcube.results.variables import REGISTRY


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
