"""What a criterion may be, and what is said of others."""

import pytest

from batchcube.errors import InputError
from batchcube.sweeps.run.criteria import Criterion, in_other_units, parse_criterion


@pytest.mark.parametrize(
    ("text", "criterion"),
    [
        ("tbt_mean_ms=50", Criterion("tbt_mean_s", None, 0.05)),
        ("latency_p95_s = 10", Criterion("latency_quantile_s", 0.95, 10.0)),
        ("wait_max_s=1e2", Criterion("wait_max_s", None, 100.0)),
        ("ttft_p50_ms=800", Criterion("ttft_quantile_s", 0.5, 0.8)),
        ("tpot_p99_ms=1", Criterion("tpot_quantile_s", 0.99, 0.001)),
        ("request_sla_violation_fraction=0.01", Criterion("request_sla_violation_fraction", None, 0.01)),
        ("token_sla_violation_fraction=0", Criterion("token_sla_violation_fraction", None, 0.0)),
    ],
)
def test_criteria_are_read(text: str, criterion: Criterion) -> None:
    assert parse_criterion(text) == criterion


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("", ""),
        ("=1", ""),
        ("tbt_mean_ms50", "tbt_mean_ms, tbt_mean_s or ttft_mean_ms"),
        ("tbt_mean=50", "tbt_mean_s, tbt_mean_ms or ttft_mean_s"),
        ("tbt_p75_ms=50", "tbt_p95_ms, tbt_p50_ms or tbt_p95_s"),
        ("p99_ttft_ms=1", "ttft_p99_ms"),
        ("itl_mean_ms=1", "tbt_mean_ms"),
        ("e2e_p99_s=1", "latency_p99_s"),
        ("latncy_p95_s=1", "latency_p95_s, latency_p95_ms or latency_p99_s"),
        ("request_sla_violations=0.1", "request_sla_violation_fraction or token_sla_violation_fraction"),
    ],
)
def test_unknown_criteria_are_refused_with_what_is_allowed(text: str, near: str) -> None:
    with pytest.raises(InputError) as refusal:
        parse_criterion(text)
    assert str(refusal.value) == (
        f"{f'`slo` {text}'.strip()}: must be NAME_STAT_UNIT=LIMIT with NAME latency, wait, ttft, tpot or tbt, "
        "STAT mean, max, p50, p90, p95 or p99, UNIT ms or s; or one of request_sla_violation_fraction=LIMIT, "
        f"token_sla_violation_fraction=LIMIT, goodput=LIMIT{near and f'; did you mean {near}?'}"
    )


@pytest.mark.parametrize("limit", ["", "0", "-1", "inf", "nan", "5 m"])
def test_limits_are_positive_numbers(limit: str) -> None:
    with pytest.raises(InputError, match=r"^`slo` tbt_mean_ms=.*: the limit must be a number > 0$"):
        parse_criterion(f"tbt_mean_ms={limit}")


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("ttft_p99=2s", "ttft_p99_s=2"),
        ("ttft_p99=2000 ms", "ttft_p99_ms=2000"),
        ("ttft_p99_s=2000ms", "ttft_p99_ms=2000"),
        ("ttft_p99_ms=0.5s", "ttft_p99_s=0.5"),
    ],
)
def test_units_stand_in_names(text: str, stated: str) -> None:
    with pytest.raises(InputError, match=f"^`slo` {text}: the unit of a limit stands in its name: {stated}$"):
        parse_criterion(text)


@pytest.mark.parametrize("text", ["p99 ttft ms=2000", "ttft-p99-ms=2000", "P99_TTFT_MS=2000", "ttft_p99_ms<=2000"])
def test_other_spellings_lead_to_the_one_here(text: str) -> None:
    with pytest.raises(InputError, match=r"; did you mean ttft_p99_ms\?$"):
        parse_criterion(text)


@pytest.mark.parametrize("text", ["ttft:2000 tpot:50", "goodput ttft:2000 tpot:50", "goodput=ttft:2000 tpot:50"])
def test_limits_of_single_requests_lead_to_the_report(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_criterion(text)
    assert str(caught.value) == (
        f"`slo` {text}: is what single requests must keep, in milliseconds: `settings` report.ttft_sla_s=2 "
        "`settings` report.tpot_sla_s=0.05; the goodput is the share that keeps all"
    )


@pytest.mark.parametrize("limit", ["", "1", "-0.1", "nan", "1 %"])
def test_fractions_are_below_one(limit: str) -> None:
    with pytest.raises(InputError, match=r": the limit must be a number >= 0 and < 1$"):
        parse_criterion(f"request_sla_violation_fraction={limit}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ttft_p99_ms=2", "`slo` ttft_p99_ms=2: 2 ms to the first token: seconds meant (ttft_p99_s=2)?"),
        ("tpot_mean_ms=0.05", "`slo` tpot_mean_ms=0.05: 0.05 ms for a token: seconds meant (tpot_mean_s=0.05)?"),
        ("ttft_p99_s=2000", "`slo` ttft_p99_s=2000: 2000 s to the first token: milliseconds meant (ttft_p99_ms=2000)?"),
        ("tbt_max_s=50", "`slo` tbt_max_s=50: 50 s between tokens: milliseconds meant (tbt_max_ms=50)?"),
    ],
)
def test_limits_that_seem_to_be_in_another_unit_are_told(text: str, said: str) -> None:
    assert list(map(str, in_other_units([text]))) == [said]


@pytest.mark.parametrize(
    "text", ["ttft_p99_s=2", "ttft_p99_s=0.002", "ttft_p99_ms=200", "tpot_mean_ms=1", "wait_max_ms=0.1", "goodput=0.9"]
)
def test_limits_that_may_be_meant_are_not(text: str) -> None:
    assert not list(in_other_units([text]))
