"""The report by worked example, and against what follows from the records."""

import numpy as np
import pytest

from batchcube.engine import simulate
from batchcube.engine.continuous import (
    Job,
    Setup,
    make_classes,
    make_fleet,
    make_law,
    make_replica,
    make_reporting,
    make_requests,
)
from batchcube.engine.policies.estimates import smoothing
from batchcube.engine.policies.memory import no_memory_bound
from batchcube.engine.policies.sla import sla_search
from batchcube.engine.policies.target import Control
from batchcube.engine.statistics import CONTINUOUS
from helpers.continuous import simulate_job

BACKENDS = ("reference", "numba")


def job(arrival, prompt, output, *, law=(1e-3,), fleet=None, report=None, **more) -> Job:
    settings = {"most_running": 4, "token_budget": 64, "capacity_tokens": 1000, "block_tokens": 1} | more
    reporting = make_reporting(**({"horizon_s": 0.1, "windows": 4} | (report or {})))
    setup = Setup(make_replica(make_law(*law), **settings), fleet or make_fleet(), reporting)
    return Job(make_requests(arrival, prompt, output), np.zeros(len(arrival), np.int32), setup)


def report_of(one: Job, backend: str = "numba") -> dict:
    return simulate(one, backend).report


@pytest.mark.parametrize("backend", BACKENDS)
def test_gaps_of_separate_prefills_are_as_long_as_users_wait(backend) -> None:
    # Prefill at 0..1 ms, decodes to 2 and 3 ms; the second request's prefill takes the step to 4 ms, so request 0 waits
    # 2 ms for its last token.
    found = report_of(job([0.0, 0.0025], [3, 7], [4, 2], prefill="separate"), backend)
    # Gaps of request 0: 1, 1, 2 ms; of request 1: 1 ms.
    assert found["tbt_mean_s"] == pytest.approx(1.25e-3, rel=1e-12)
    assert found["tbt_variance_s2"] == pytest.approx(3 / 16 * 1e-6, rel=1e-12)
    assert (found["tbt_min_s"], found["tbt_max_s"]) == (1e-3, 2e-3)
    assert found["tbt_histogram"].sum() == 4
    assert found["ttft_mean_s"] == pytest.approx((1e-3 + 1.5e-3) / 2)
    # TPOT: (5 - 1) / 3 and (5 - 4) / 1 ms.
    assert found["tpot_mean_s"] == pytest.approx((4 / 3 + 1) / 2 * 1e-3, rel=1e-6)
    assert found["latency_mean_s"] == pytest.approx((5e-3 + 2.5e-3) / 2)
    assert found["throughput_tokens_per_s"] == pytest.approx(6 / 5e-3)
    assert found["utilisation"] == pytest.approx(1.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_preempted_request_waits_long_for_its_next_token(backend) -> None:
    # As in the worked example of preemption: request 1 emits at 1 and 2 ms, goes, and emits again at 6, 7, 8 ms.
    one = job([0.0, 0.0], [4, 4], [5, 5], capacity_tokens=10, report={"token_sla_s": 3e-3})
    found = report_of(one, backend)
    assert found["preemptions"] == 1
    assert found["tbt_max_s"] == 4e-3
    assert found["tbt_mean_s"] == pytest.approx((7 * 1 + 4) / 8 * 1e-3)
    assert found["token_sla_violation_fraction"] == 1 / 8
    assert found["recomputed_token_fraction"] == 6 / 14
    assert found["kv_peak_tokens"] == 10


@pytest.mark.parametrize("backend", BACKENDS)
def test_windows_show_who_waits_and_runs(backend) -> None:
    # One at a time for 25 ms each; and windows of 25 ms: request 1 waits through the first.
    one = job([0.0, 0.0], [1, 1], [25, 25], most_running=1)
    found = report_of(one, backend)
    assert found["window_width_s"] == 0.025
    np.testing.assert_array_equal(found["window_arrivals"], [2, 0, 0, 0])
    np.testing.assert_array_equal(found["window_completions"], [0, 1, 1, 0])
    np.testing.assert_allclose(found["window_queue_length_mean"], [1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found["window_running_mean"], [1, 1, 0, 0], atol=1e-6)
    np.testing.assert_array_equal(found["window_batch_size_mean"], [1, 1, np.nan, np.nan])
    # 1, 2, ... 25 tokens are in the cache at the ends of the steps.
    np.testing.assert_array_equal(found["window_kv_tokens_mean"], [13, 13, np.nan, np.nan])
    np.testing.assert_array_equal(found["window_batch_target_mean"], [1, 1, np.nan, np.nan])


def test_quantiles_are_those_of_the_gaps() -> None:
    rng = np.random.default_rng(3)
    arrival = np.cumsum(rng.exponential(0.05, 300))
    one = job(
        arrival,
        rng.integers(1, 300, 300),
        rng.integers(1, 80, 300),
        law=(5e-3, 2e-4, 1e-7, 3e-5, 1e-8),
        token_budget=256,
        capacity_tokens=4000,
        most_running=16,
    )
    found = report_of(one)
    reference = report_of(one, "reference")
    for name, array in reference.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    records, _ = simulate_job(one)
    served = one.requests
    latency = (records.last_token - served.arrival) / 1e12
    assert found["latency_mean_s"] == pytest.approx(latency.mean(), rel=1e-6)
    np.testing.assert_allclose(
        found["latency_quantile_s"], np.quantile(latency, [0.5, 0.9, 0.95, 0.99], method="inverted_cdf"), rtol=0.01
    )
    # Every token but the first has a gap, and a request's gaps sum to the time from its first token to its last.
    count = int((served.output - 1).sum())
    assert found["tbt_histogram"].sum() == count
    total = float((records.last_token - records.first_token).sum()) / 1e12
    assert found["tbt_mean_s"] * count == pytest.approx(total, rel=1e-12)


def test_the_warm_up_is_left_out() -> None:
    arrival = [0.0, 0.0, 0.5, 0.5]
    found = report_of(job(arrival, [1] * 4, [10, 10, 3, 3], report={"warmup_requests": 2}))
    assert (found["measured"], found["completed"], found["steps"]) == (2, 4, 13)
    assert found["makespan_s"] == pytest.approx(3e-3)
    assert found["batch_size_histogram"].tolist() == [0, 0, 3, 0, 0]
    assert found["tbt_histogram"].sum() == 4
    assert found["utilisation"] == pytest.approx(1.0)
    assert found["throughput_requests_per_s"] == pytest.approx(2 / 3e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens_of_before_the_makespan_are_not_its_throughput(backend) -> None:
    # Request 0 emits at 1, 2, ... 1000 ms; request 1 comes at 998.5 ms and emits at 1000 and 1001 ms.
    late = job([0.0, 0.9985], [1, 1], [1000, 2], capacity_tokens=2000, report={"warmup_requests": 1})
    found = report_of(late, backend)
    assert found["makespan_s"] == pytest.approx(2.5e-3)
    # At 999 and 1000 ms by request 0, two by request 1; without the warm-up, all.
    assert found["throughput_tokens_per_s"] == pytest.approx(4 / 2.5e-3, rel=1e-12)
    whole = report_of(job([0.0, 0.9985], [1, 1], [1000, 2], capacity_tokens=2000), backend)
    assert whole["throughput_tokens_per_s"] == pytest.approx(1002 / 1.001, rel=1e-12)
    # A step that ends when the makespan begins made nothing in it.
    sharp = report_of(
        job([0.0, 0.999], [1, 1], [1000, 2], capacity_tokens=2000, report={"warmup_requests": 1}), backend
    )
    assert sharp["throughput_tokens_per_s"] == pytest.approx(3 / 2e-3, rel=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_requests_turned_away_count_as_missed(backend) -> None:
    # Two of five can never fit; one of them is of the warm-up. The others take 3 ms each, alone; one waits for another.
    one = job(
        [0.0, 0.001, 0.03, 0.03, 0.06],
        [5000, 1, 1, 1, 5000],
        [9, 3, 3, 3, 9],
        most_running=1,
        report={"warmup_requests": 1, "request_sla_s": 4e-3, "token_sla_s": 0.5e-3},
    )
    found = report_of(one, backend)
    assert (found["rejected"], found["measured"], found["missed"]) == (2, 3, 1)
    assert found["request_sla_violation_fraction"] == 2 / 4
    # All 6 gaps are over the limit, and so are the 8 of the request turned away.
    assert found["token_sla_violation_fraction"] == 1
    # Windows of 25 ms: a rejection and a completion in time, two completions, a rejection, nothing.
    np.testing.assert_array_equal(found["window_completions"], [1, 2, 0, 0])
    np.testing.assert_array_equal(found["window_request_sla_violation_fraction"], [0.5, 0.5, 1.0, np.nan])
    in_time = job([0.0, 0.001], [1, 5000], [3, 9], report={"token_sla_s": 2e-3})
    assert report_of(in_time, backend)["token_sla_violation_fraction"] == 8 / (2 + 8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_answers_that_end_at_the_longest_are_counted_where_they_would_go_on(backend) -> None:
    # Up to 10 tokens: the answers to the second and third end there, one of them by itself; the last is turned away.
    one = job([0.0] * 4, [2, 4, 4, 10], [3, 9, 6, 3], max_model_len=10)
    found = report_of(one, backend)
    assert (found["truncated"], found["rejected"], found["completed"]) == (1, 1, 3)
    settings = {"request_sla_s": 5.5e-3, "token_sla_s": 2e-3}
    of_warm_up = report_of(
        job([0.0] * 4, [2, 4, 4, 10], [3, 9, 6, 3], max_model_len=10, report={"warmup_requests": 2, **settings}),
        backend,
    )
    assert (of_warm_up["truncated"], of_warm_up["request_sla_violation_fraction"]) == (0, 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("limit_s", "over"), [(10e-3, 2), (5.5e-3, 3)])
def test_answers_that_are_cut_off_have_missed_every_limit(backend, limit_s, over) -> None:
    # Done after 3, 6 and 6 ms; the second is 3 tokens short of its 9, the last is turned away. One limit is kept by
    # all, the other missed by the third: the second counts once.
    settings = {"request_sla_s": limit_s, "token_sla_s": 2e-3}
    one = job([0.0] * 4, [2, 4, 4, 10], [3, 9, 6, 3], max_model_len=10, report=settings)
    found = report_of(one._replace(classes=make_classes([0, 1, 1, 0], [1.0, 1.0], [None] * 2, [None] * 2)), backend)
    assert found["request_sla_violation_fraction"] == over / 4
    np.testing.assert_array_equal(found["window_request_sla_violation_fraction"], [over / 4, np.nan, np.nan, np.nan])
    # 2 + 5 + 5 gaps are in time; 2 of who was turned away, and the 3 tokens that were cut off, are not.
    assert found["token_sla_violation_fraction"] == pytest.approx(5 / 17)
    np.testing.assert_array_equal(found["class_sla_violation_fraction"], [1 / 2, (over - 1) / 2])


def test_overload_is_seen() -> None:
    rng = np.random.default_rng(5)
    count = 2000
    for rate, growth in ((50.0, 0.0), (130.0, 1 - 100 / 130)):
        arrival = np.cumsum(rng.exponential(1 / rate, count))
        one = job(arrival, [1] * count, [10] * count, most_running=1)  # serves 100 a second
        assert report_of(one)["backlog_growth_fraction"] == pytest.approx(growth, abs=4 / np.sqrt(count / 2))


def test_all_that_come_at_once_are_growth() -> None:
    one = job([0.0] * 100, [1] * 100, [1] * 100, most_running=8, fleet=make_fleet(replicas=2))
    assert report_of(one, "reference")["backlog_growth_fraction"] == 1.0


def test_replicas_share_the_utilisation() -> None:
    # Two replicas take turns: of 20 ms, the first is busy for 2 + 2, the second for 10.
    one = job([0.0, 0.0, 0.018], [1] * 3, [2, 10, 2], fleet=make_fleet(replicas=2))
    found = report_of(one, "reference")
    assert found["utilisation"] == pytest.approx((2 + 2 + 10) / 40)
    assert found["throughput_requests_per_s"] == pytest.approx(3 / 0.02)
    assert found["kv_peak_tokens"] == 10


def test_bins_have_their_own_times_and_blocks_are_counted_whole() -> None:
    # One at a time: 2 ms each, so the second waits 2 ms and the third 4 ms. Each holds one block of 16 tokens.
    fleet = make_fleet(bins=2)
    one = job([0.0] * 3, [5] * 3, [2] * 3, most_running=1, block_tokens=16, fleet=fleet)
    found = report_of(one._replace(bin_of=np.array([0, 1, 1], np.int32)), "reference")
    assert found["bin_requests"].tolist() == [1, 2]
    np.testing.assert_allclose(found["bin_wait_mean_s"], [0.0, 3e-3])
    np.testing.assert_allclose(found["bin_latency_mean_s"], [2e-3, 5e-3])
    assert found["kv_peak_tokens"] == 16


def test_windows_show_what_the_controller_sees_and_decides() -> None:
    """Decode steps of 20 and 30 ms (c0 = 10, c1 = 10 ms) in windows of 50 ms, seen at once; D = 25 ms, two may run."""
    sla = sla_search("paper", "tbt", 0.025, 0.001, 2, 1)
    control = Control(1.0, 4.0, sla, no_memory_bound(), smoothing("ema", 1.0), np.ones(1), np.ones(1))
    # Both prefill to 10 ms, decode together to 40 ms, where request 0 is done; then one decodes to 60 and to 80 ms.
    one = job(
        [0.0, 0.0],
        [1, 1],
        [2, 4],
        law=(0.01, 0.01),
        control=control,
        report={"horizon_s": 0.1, "windows": 2},
    )
    found = report_of(one, "reference")
    # Steps begin at 0, 10, 40 ms and at 60 ms. A signal is known from the second step's end on: 30 at 40, 20 at 60 ms.
    np.testing.assert_allclose(found["window_signal_mean_s"], [0.03, 0.02])
    # b = 2 at first, [1, 4]; late with b = 2: [1, 3], 2; early with b = 1: low = min(1, 3 - 2), high = 3 + 1: 2.
    np.testing.assert_array_equal(found["window_batch_sla_bound_mean"], [2, 2])
    np.testing.assert_array_equal(found["window_batch_target_mean"], [2, 2])
    np.testing.assert_array_equal(found["window_batch_memory_bound_mean"], [4, 4])
    np.testing.assert_allclose(found["window_running_mean"], [(40 * 2 + 10) / 50, 30 / 50], atol=1e-5)


def test_nothing_is_nothing() -> None:
    # All turned away: no times, no throughput, no division by nothing.
    found = report_of(job([0.0, 1.0], [5000, 5000], [1, 1]))
    assert (found["completed"], found["rejected"], found["steps"]) == (0, 2, 0)
    for name in ("latency_mean_s", "tbt_mean_s", "throughput_tokens_per_s", "batch_size_mean", "utilisation"):
        assert np.isnan(found[name]), name


def test_one_at_a_time_is_an_m_d_1_queue() -> None:
    # Ten steps of 1 ms each, served alone: the mean wait is rho S / (2 (1 - rho)) (Pollaczek and Khinchine).
    service_s, rate, count = 0.01, 60.0, 20_000
    waits = []
    for seed in range(40):
        arrival = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))
        one = job(arrival, [1] * count, [10] * count, most_running=1, report={"warmup_requests": 2000})
        waits.append(float(report_of(one)["wait_mean_s"]))
    rho = rate * service_s
    expected = rho * service_s / (2 * (1 - rho))
    error = np.std(waits, ddof=1) / np.sqrt(len(waits))
    assert abs(np.mean(waits) - expected) < 4 * error
    assert error < 0.02 * expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_prefill_that_takes_no_time_is_no_mistake(backend) -> None:
    # c0 = c3 = 0: a step of prefills alone lasts 0 ticks.
    found = report_of(job([0.0], [4], [3], law=(0.0, 1e-3), prefill="separate"), backend)
    assert (found["completed"], found["ttft_mean_s"], found["latency_mean_s"]) == (1, 0.0, 2e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_makespan_begins_with_the_first_that_is_served(backend) -> None:
    found = report_of(job([0.0, 10.0], [5000, 5], [1, 10]), backend)
    assert (found["rejected"], found["makespan_s"], found["utilisation"]) == (1, pytest.approx(0.01), pytest.approx(1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_first_prefill_that_is_begun_again_costs_what_was_lost(backend) -> None:
    # Request 1 prefills in chunks of what request 0 leaves of the budget, and goes when request 0 needs its room.
    one = job(
        [0.0, 0.0],
        [6, 12],
        [9, 1],
        capacity_tokens=16,
        token_budget=8,
        most_running=2,
        scheduler_reserve_full_isl=False,
    )
    found = report_of(one, backend)
    assert found["preemptions"] > 0
    _, tally = simulate_job(one, backend)
    prefilled = int(tally.totals[CONTINUOUS.at("prefill_tokens")])
    assert prefilled > 18
    assert found["recomputed_token_fraction"] == pytest.approx((prefilled - 18) / prefilled)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backlog_that_grows_is_the_share_that_cannot_be_served(backend) -> None:
    # One a millisecond comes, one in two milliseconds is served.
    count = 400
    one = job(np.arange(count) * 1e-3, [1] * count, [2] * count, most_running=1)
    report = report_of(one, backend)
    assert report["backlog_growth_fraction"] == pytest.approx(0.5, abs=0.01)
    assert report["queue_growth_fraction"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_that_fill_are_backlog_and_no_queue(backend) -> None:
    # One a millisecond comes and runs at once, for 400 steps of a millisecond: none is done before the last has come.
    count = 400
    room = {"most_running": count, "token_budget": 2 * count, "capacity_tokens": count**2}
    report = report_of(job(np.arange(count) * 1e-3, [1] * count, [count] * count, **room), backend)
    assert report["backlog_growth_fraction"] == 1.0
    assert report["queue_growth_fraction"] == 0.0
