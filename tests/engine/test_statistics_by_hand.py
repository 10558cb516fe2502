"""Every variable of the report by hand: numbers that were worked out on paper, from no expression of ours.

What all backends share, the expressions of the catalogue, no comparison of backends can find wrong.
"""

import numpy as np
import pytest

from batchcube.engine import BACKENDS, simulate
from batchcube.engine.continuous import (
    Job,
    Setup,
    make_content,
    make_fleet,
    make_law,
    make_replica,
    make_reporting,
    make_requests,
)
from batchcube.engine.policies.memory import no_memory_bound
from batchcube.engine.policies.service import formula, measured
from batchcube.engine.statistics import BATCHES, CONTINUOUS
from helpers.batches import make_control, make_job

pytestmark = pytest.mark.usefixtures("unoptimised_programs")

NAN = float("nan")
OUTSIDE = formula(1.0, 1.0, "linear", 1.0, largest_batch=2)
"""1 s, and 1 s for each token of the longest of one request, 2 s of two."""


def check(report: dict, expected: dict, variables: frozenset[str]) -> None:
    """Compare a report with what is expected of all its variables; quantiles come from a histogram."""
    assert report.keys() == expected.keys() == variables
    for name, value in expected.items():
        relative = 0.01 if name.endswith("_quantile_s") else 1e-9
        np.testing.assert_allclose(report[name], value, rtol=relative, atol=1e-12, err_msg=name)


def times(name: str, mean: float, variance: float, least: float, most: float, quantiles: list[float]) -> dict:
    """Return what is expected of one time; quantiles are the median, p90, p95 and p99."""
    return {
        f"{name}_mean_s": mean,
        f"{name}_variance_s2": variance,
        f"{name}_min_s": least,
        f"{name}_max_s": most,
        f"{name}_quantile_s": quantiles,
    }


def counts_of(report: dict, name: str) -> list[int]:
    """Return the counts of a histogram that are not zero, in order."""
    return [int(count) for count in report[name] if count]


@pytest.mark.parametrize("backend", BACKENDS)
def test_whole_batches(backend: str) -> None:
    """Seven requests, two bins, batches of two on one server; the last request is left over, the first is warm-up.

    request       0   1   2   3   4   5   6
    arrival       0   1   2   3   4  19  20 s
    prompt       10  20  30  40  50  60  70
    output        2   3   1   2   4   1   5
    bin           0   0   1   0   1   0   1

    Requests 0 and 1 run from 1 to 8 s (1 + 2 * 3), 2 and 4 from 8 to 17 s, 3 and 5 from 19 to 24 s. The table knows
    lengths of 2 and 3; the batch whose longest is 4 is outside.
    """
    job = make_job(
        [0, 1, 2, 3, 4, 19, 20],
        output=[2, 3, 1, 2, 4, 1, 5],
        prompt=[10, 20, 30, 40, 50, 60, 70],
        bin_of=[0, 0, 1, 0, 1, 0, 1],
        bins=2,
        batch_size=2,
        law=measured(np.array([1, 2]), np.array([2, 3]), np.array([[3.0, 4.0], [5.0, 7.0]]), OUTSIDE),
        control=make_control(1, 2, memory=no_memory_bound(90.0), bins=2),
        horizon_s=24.0,
        windows=3,
        warmup=1,
        request_sla_s=10.0,
        token_sla_s=2.5,
        tail="drop",
    )
    report = simulate(job, backend).report
    assert counts_of(report, "latency_histogram") == [1, 1, 1, 1, 1]
    expected = {
        # Latencies 7, 15, 21, 13, 5; waits 0, 6, 16, 4, 0; services 7, 9, 5, 9, 5; 2 s between all tokens.
        **times("latency", 12.2, 32.96, 5.0, 21.0, [13, 21, 21, 21]),
        **times("wait", 5.2, 34.56, 0.0, 16.0, [4, 16, 16, 16]),
        **times("service", 7.0, 3.2, 5.0, 9.0, [7, 9, 9, 9]),
        **times("ttft", 6.2, 34.56, 1.0, 17.0, [5, 17, 17, 17]),
        **times("tbt", 2.0, 0.0, 2.0, 2.0, [2, 2, 2, 2]),
        "latency_histogram": report["latency_histogram"],
        "requests": 7,
        "completed": 6,
        "unserved": 1,
        "measured": 5,
        "missed": 1,
        # Of requests past the warm-up alone: the second and third.
        "batches": 2,
        "batch_size_mean": 2.0,
        "batch_size_histogram": [0, 0, 2],
        # From 1 to 24 s.
        "makespan_s": 23.0,
        "throughput_requests_per_s": 6 / 23,
        "throughput_tokens_per_s": 13 / 23,
        "utilisation": 21 / 23,
        "busy_throughput_requests_per_s": 4 / 14,
        # Lengths 1 + 4 + 2 + 1 in 2 * 4 + 2 * 2.
        "padding_waste": 1 / 3,
        # 15, 21 and 13 s, and the one never served.
        "request_sla_violation_fraction": 4 / 6,
        "goodput_fraction": 2 / 6,
        "goodput_requests_per_s": 2 / 23,
        # None of 3 + 1 + 2 + 4 + 1 tokens, and the 5 never made.
        "token_sla_violation_fraction": 5 / 16,
        # 85 and 103 tokens.
        "memory_overflow_fraction": 0.5,
        "memory_peak_tokens": 103,
        "extrapolated_batch_fraction": 0.5,
        # 4 in the system at 3 s, 3 at 20 s.
        "backlog_growth_fraction": 0.0,
        "bin_requests": [3, 2],
        "bin_batches": [1, 1],
        "bin_batch_size_mean": [2.0, 2.0],
        "bin_wait_mean_s": [16 / 3, 5.0],
        "bin_latency_mean_s": [11.0, 14.0],
        "bin_length_max_mean": [2.0, 4.0],
        "window_width_s": 8.0,
        "window_arrivals": [5, 0, 2],
        "window_completions": [0, 2, 2],
        # The first two are in time; of the third window 2 and 4 are not, nor is 6.
        "window_request_sla_violation_fraction": [NAN, 0.0, 1.0],
        # Seconds waited in each window of 8: 1 + 6 + 5 + 4, 8, 3 + 4.
        "window_queue_length_mean": [2.0, 1.0, 7 / 8],
        "window_batch_size_mean": [2.0, 2.0, 2.0],
        "window_batch_target_mean": [NAN] * 3,
        "window_batch_memory_bound_mean": [NAN] * 3,
        "window_batch_sla_bound_mean": [NAN] * 3,
        "window_signal_mean_s": [NAN] * 3,
    }
    check(report, expected, BATCHES.variables)


@pytest.mark.parametrize("backend", BACKENDS)
def test_decisions_and_late_tokens(backend: str) -> None:
    """One request runs from 0 to 2 s, the two that came meanwhile from 2 to 9 s: 1 and 2 s between tokens."""
    job = make_job(
        [0, 1, 1.5],
        output=[1, 2, 3],
        batch_size=2,
        law=OUTSIDE,
        control=make_control(1, 2),
        mode="dynamic_only",
        horizon_s=20.0,
        windows=1,
        token_sla_s=1.5,
    )
    report = simulate(job, backend).report
    assert report["tbt_mean_s"] == pytest.approx(5 / 3)
    assert report["token_sla_violation_fraction"] == pytest.approx(5 / 6)
    assert report["batch_size_mean"] == 1.5
    assert report["window_batch_target_mean"].tolist() == [2.0]
    assert report["window_batch_memory_bound_mean"].tolist() == [2.0]
    assert report["window_batch_sla_bound_mean"].tolist() == [2.0]
    # The second decision alone knows of a batch: 2 s of a single token.
    assert report["window_signal_mean_s"].tolist() == [2.0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_limits_of_whole_batches_on_tokens(backend: str) -> None:
    """Batches of two, 1 s and 1 s (alone) or 2 s (two) for each token of the longest; request 0 is warm-up.

    request         0   1   2   3   4
    arrival         0   0   1   2  20
    output          2   1   3   2   4
    first token     1   1   6   6  21
    completion      5   5  12  12  25
    ttft            1   1   5   4   1
    tbt             2   2   2   2   1
    """

    def good(**limits: float) -> float:
        job = make_job([0, 0, 1, 2, 20], output=[2, 1, 3, 2, 4], batch_size=2, law=OUTSIDE, warmup=1, **limits)
        report = simulate(job, backend).report
        assert report["makespan_s"] == 25.0
        np.testing.assert_allclose(report["goodput_requests_per_s"], report["goodput_fraction"] * 4 / 25)
        return float(report["goodput_fraction"])

    assert np.isnan(good())
    assert np.isnan(good(token_sla_s=1.5))
    assert [good(ttft_sla_s=limit) for limit in (0.5, 1.0, 4.0, 5.0)] == [0.0, 0.5, 0.75, 1.0]
    # Request 1 has one token, and no time between two.
    assert [good(tpot_sla_s=limit) for limit in (0.9, 1.0, 1.9, 2.0)] == [0.25, 0.5, 0.5, 1.0]
    assert [good(request_sla_s=limit) for limit in (4.9, 5.0, 10.0, 11.0)] == [0.0, 0.5, 0.75, 1.0]
    assert good(ttft_sla_s=4.0, tpot_sla_s=1.9) == 0.5
    assert good(ttft_sla_s=4.0, request_sla_s=9.0, tpot_sla_s=2.0) == 0.5


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_continuous_batching(backend: str) -> None:
    """Four requests, steps of 1 ms; the third can never fit, the first is warm-up.

    request       0    1    2    3
    arrival       0  0.5  1.5   10 ms
    prompt        4    6 2000    5
    output        3    2    5    1

    The first prefill takes the step from 0 to 1 ms; from 1 to 2 ms request 1 is prefilled and 0 decodes; from 2 to 3 ms
    both decode, and are done. Request 3 is prefilled, and done, from 10 to 11 ms.
    """
    replica = make_replica(make_law(1e-3), most_running=4, token_budget=64, capacity_tokens=1000, block_tokens=1)
    reporting = make_reporting(
        horizon_s=0.012, windows=3, warmup_requests=1, request_sla_s=0.002, ttft_sla_s=0.0012, token_sla_s=0.0015
    )
    requests = make_requests([0.0, 0.0005, 0.0015, 0.01], [4, 6, 2000, 5], [3, 2, 5, 1])
    report = simulate(Job(requests, np.zeros(4, np.int32), Setup(replica, make_fleet(), reporting)), backend).report
    assert counts_of(report, "latency_histogram") == [1, 1]
    assert counts_of(report, "tbt_histogram") == [1]
    ms = 1e-3
    expected = {
        # Of requests 1 and 3.
        **times("latency", 1.75 * ms, 0.5625 * ms**2, 1 * ms, 2.5 * ms, [1 * ms, 2.5 * ms, 2.5 * ms, 2.5 * ms]),
        **times("wait", 0.25 * ms, 0.0625 * ms**2, 0.0, 0.5 * ms, [0.0, 0.5 * ms, 0.5 * ms, 0.5 * ms]),
        **times("service", 1.5 * ms, 0.25 * ms**2, 1 * ms, 2 * ms, [1 * ms, 2 * ms, 2 * ms, 2 * ms]),
        **times("ttft", 1.25 * ms, 0.0625 * ms**2, 1 * ms, 1.5 * ms, [1 * ms, 1.5 * ms, 1.5 * ms, 1.5 * ms]),
        **times("tpot", 1 * ms, 0.0, 1 * ms, 1 * ms, [1 * ms] * 4),
        **times("tbt", 1 * ms, 0.0, 1 * ms, 1 * ms, [1 * ms] * 4),
        "latency_histogram": report["latency_histogram"],
        "tbt_histogram": report["tbt_histogram"],
        "requests": 4,
        "completed": 3,
        "rejected": 1,
        "truncated": 0,
        "measured": 2,
        "missed": 1,
        "steps": 4,
        "preemptions": 0,
        # From 0.5 to 11 ms; the first step has half of itself, and its token, in it.
        "makespan_s": 10.5 * ms,
        "throughput_requests_per_s": 3 / (10.5 * ms),
        "throughput_tokens_per_s": 6 / (10.5 * ms),
        "utilisation": 3.5 / 10.5,
        # 4, 6 + 1, 2, and 5 tokens.
        "step_tokens_mean": 4.5,
        # Three steps begin in it, with 2, 2 and 1 running.
        "batch_size_mean": 5 / 3,
        "batch_size_histogram": [0, 1, 2, 0, 0],
        # Request 1 took 2.5 ms, 2 was never served.
        "request_sla_violation_fraction": 2 / 3,
        # A gap of 1 ms, and the four of request 2.
        "token_sla_violation_fraction": 4 / 5,
        # Request 3 alone has all that it was promised.
        "goodput_fraction": 1 / 3,
        "goodput_requests_per_s": 1 / (10.5 * ms),
        # 4, then 5 + 6, 6 + 7, then 5 tokens.
        "kv_peak_tokens": 13.0,
        "recomputed_token_fraction": 0.0,
        "prefix_cache_hit_fraction": NAN,
        "kv_occupied_fraction": NAN,
        # 2 in the system when three had come, 1 when all had; one came meanwhile.
        "backlog_growth_fraction": -1.0,
        # Who is there at these instants runs.
        "queue_growth_fraction": 0.0,
        "bin_requests": [2],
        "bin_wait_mean_s": [0.25 * ms],
        "bin_latency_mean_s": [1.75 * ms],
        "window_width_s": 4 * ms,
        "window_arrivals": [3, 0, 1],
        "window_completions": [2, 0, 1],
        # 3 and 2.5 ms, and the one never served; 1 ms.
        "window_request_sla_violation_fraction": [1.0, NAN, 0.0],
        "window_queue_length_mean": [0.5 / 4, 0.0, 0.0],
        "window_running_mean": [(3 + 2) / 4, 0.0, 1 / 4],
        "window_preemptions": [0, 0, 0],
        "window_batch_size_mean": [5 / 3, NAN, 1.0],
        "window_kv_tokens_mean": [28 / 3, NAN, 5.0],
        "window_batch_target_mean": [4.0, NAN, 4.0],
        "window_batch_memory_bound_mean": [4.0, NAN, 4.0],
        "window_batch_sla_bound_mean": [4.0, NAN, 4.0],
        "window_signal_mean_s": [NAN] * 3,
    }
    check(report, expected, CONTINUOUS.variables)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_prefixes_that_are_found(backend: str) -> None:
    """Six blocks of two tokens, two prompts that find four tokens each: docs/model.md, section 10."""
    replica = make_replica(
        make_law(1e-3), most_running=4, token_budget=8, capacity_tokens=12, block_tokens=2, enable_prefix_caching=True
    )
    ids, prompt = [[1, 2, 3], [1, 2, 3], [1, 2, 4], [5, 6, 7, 8], [1, 2, 3]], [6, 6, 6, 8, 6]
    arrival_s = np.array([0, 3, 3, 6, 10]) / 1000
    requests = make_requests(arrival_s, prompt, [2, 1, 2, 4, 1], content=make_content(ids, prompt, 2))
    setup = Setup(replica, make_fleet(), make_reporting(horizon_s=0.01))
    report = simulate(Job(requests, np.zeros(5, np.int32), setup), backend).report
    assert report["prefix_cache_hit_fraction"] == (4 + 4) / (6 + 6 + 6 + 8 + 6)
    assert report["recomputed_token_fraction"] == 0.0
    # Request 0 takes 3 and 4 blocks; requests 1 and 2 share two of four beside one that is kept; then all are full.
    assert report["kv_occupied_fraction"] == pytest.approx((3 + 4 + 5 + 6 * 6) / (9 * 6))


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_preemptions_and_what_they_cost(backend: str) -> None:
    """Two prompts of 4 in 10 blocks of a token: both emit at 1 and 2 ms, then there is no room for two tokens more.

    Request 1 goes with 2 tokens made, waits for request 0 to end at 5 ms, and has 4 + 2 tokens prefilled again.
    """
    replica = make_replica(make_law(1e-3), most_running=4, token_budget=64, capacity_tokens=10, block_tokens=1)
    requests = make_requests([0.0, 0.0], [4, 4], [5, 5])
    setup = Setup(replica, make_fleet(), make_reporting(horizon_s=0.008, windows=2))
    report = simulate(Job(requests, np.zeros(2, np.int32), setup), backend).report
    assert report["preemptions"] == 1
    assert report["window_preemptions"].tolist() == [1, 0]
    assert report["recomputed_token_fraction"] == pytest.approx(6 / 14)
    # Request 1 waits from 2 to 5 ms.
    assert report["window_queue_length_mean"].tolist() == pytest.approx([2 / 4, 1 / 4])
    assert report["window_running_mean"].tolist() == pytest.approx([(4 + 2) / 4, (1 + 3) / 4])
