"""Every number of the report against a plain computation from the records of the same run."""

from fractions import Fraction

import numpy as np
import pytest

from batchcube.engine import BACKENDS, INFINITE, simulate, simulate_many
from batchcube.engine.batches.report import summarise_batches
from batchcube.engine.histogram import BUCKETS, RELATIVE_ERROR, bucket_of
from batchcube.engine.policies.service import formula
from batchcube.engine.policies.sla import sla_search
from batchcube.engine.report import rank_histograms
from batchcube.engine.statistics import BATCHES, QUANTILES, TOTALS
from helpers.batches import SECOND, make_control, make_job, random_job, run, shape_of

pytestmark = pytest.mark.usefixtures("unoptimised_programs")

SEEDS = range(7000, 7080)


def measured_requests(job, records):
    served = np.flatnonzero(records.batch >= 0)
    return served[served >= job.setup.reporting.warmup]


def batch_members(records):
    return [np.flatnonzero(records.batch == number) for number in range(records.batch.max() + 1)]


def batch_end(job, records, members):
    """Return when the server is freed: with completion `own` that is when the longest is done."""
    return records.completion[members].max()


@pytest.mark.parametrize("seed", SEEDS)
def test_times_follow_from_the_records(seed):
    job = random_job(np.random.default_rng(seed))
    report, records = simulate(job)
    of = measured_requests(job, records)
    arrival = job.trace.arrival
    prefill = 0 if job.setup.service.timed else job.setup.service.prefill
    times = {
        "latency": records.completion - arrival,
        "wait": records.start - arrival,
        "service": records.completion - records.start,
        "ttft": records.start - arrival + prefill,
    }
    if job.setup.service.timed:
        assert np.isnan(report["ttft_mean_s"])
        assert np.isnan(report["tbt_quantile_s"]).all()
        del times["ttft"]
    for name, ticks in times.items():
        numbers = [int(x) for x in ticks[of]]
        if not numbers:
            assert np.isnan(report[f"{name}_mean_s"])
            assert np.isnan(report[f"{name}_quantile_s"]).all()
            continue
        mean = Fraction(sum(numbers), len(numbers))
        variance = Fraction(sum(x * x for x in numbers), len(numbers)) - mean**2
        assert report[f"{name}_mean_s"] == pytest.approx(float(mean) / SECOND, rel=1e-14)
        assert report[f"{name}_variance_s2"] == pytest.approx(float(variance) / SECOND**2, rel=1e-14)
        assert report[f"{name}_min_s"] == pytest.approx(min(numbers) / SECOND, rel=1e-15)
        assert report[f"{name}_max_s"] == pytest.approx(max(numbers) / SECOND, rel=1e-15)
        exact = np.quantile(np.array(numbers), QUANTILES, method="inverted_cdf") / SECOND
        np.testing.assert_allclose(report[f"{name}_quantile_s"], exact, rtol=RELATIVE_ERROR, atol=1e-12)
        if name == "latency":
            counts = np.bincount([bucket_of(x) for x in numbers], minlength=BUCKETS)
            np.testing.assert_array_equal(report["latency_histogram"], counts)


@pytest.mark.parametrize("seed", SEEDS)
def test_counts_and_rates_follow_from_the_records(seed):
    job = random_job(np.random.default_rng(seed))
    (trace, bins, setup), (report, records) = job, simulate(job)
    of, reporting = measured_requests(job, records), setup.reporting
    served = (records.batch >= 0).sum()
    assert report["requests"] == len(trace.arrival)
    assert report["completed"] == served
    assert report["unserved"] == len(trace.arrival) - served
    assert report["measured"] == len(of)
    missed = np.flatnonzero(records.batch < 0)
    missed = missed[missed >= reporting.warmup]
    assert report["missed"] == len(missed)
    if reporting.request_sla < 2**62 and len(of) + len(missed):
        late = (records.completion[of] - trace.arrival[of] > reporting.request_sla).sum()
        share = (late + len(missed)) / (len(of) + len(missed))
        assert report["request_sla_violation_fraction"] == pytest.approx(share, rel=1e-13)
    batches = batch_members(records) if served else []
    counted = [members for members in batches if members.min() >= reporting.warmup]
    sizes = np.array([len(members) for members in counted], int)
    assert report["batches"] == len(counted)
    np.testing.assert_array_equal(
        report["batch_size_histogram"], np.bincount(sizes, minlength=setup.policy.batch_size + 1)
    )
    assert [len(members) for members in batches] == [records.size[members[0]] for members in batches]
    if not counted:
        assert np.isnan(report["batch_size_mean"])
        return
    lengths, longest = [trace.length[m] for m in counted], [trace.length[m].max() for m in counted]
    busy = sum(int(batch_end(job, records, m) - records.start[m[0]]) for m in counted)
    first = int(trace.arrival[reporting.warmup])
    occupied = sum(max(int(batch_end(job, records, m)) - max(int(records.start[m[0]]), first), 0) for m in batches)
    span = (max(batch_end(job, records, m) for m in batches) - first) / SECOND
    made = 0  # tokens of the span, each batch's evenly over its service, or each request's
    for members in batches:
        ends = records.completion[members].tolist()
        outputs = trace.output[members].tolist()
        if not setup.policy.own_completion:
            ends, outputs = ends[:1], [sum(outputs)]
        start = int(records.start[members[0]])
        made += sum(
            output * Fraction(max(end - max(start, first), 0), end - start) // 1
            for end, output in zip(ends, outputs, strict=True)
        )
    servers = np.nan if setup.policy.servers == INFINITE else setup.policy.servers
    tokens = np.array([(trace.prompt[m] + trace.output[m]).sum() for m in counted])
    expected = {
        "batch_size_mean": sizes.mean(),
        "makespan_s": span,
        "throughput_requests_per_s": (records.completion[records.batch >= 0] > first).sum() / span,
        "busy_throughput_requests_per_s": servers * sizes.sum() / (busy / SECOND),
        "utilisation": occupied / SECOND / (servers * span),
        "padding_waste": 1 - sum(x.sum() for x in lengths) / (sizes * longest).sum(),
        "memory_peak_tokens": tokens.max(),
        "throughput_tokens_per_s": np.nan if setup.service.timed else float(made) / span,
    }
    if setup.control.memory.capacity < 2**40:
        expected["memory_overflow_fraction"] = (tokens > setup.control.memory.capacity).mean()
    for name, value in expected.items():
        np.testing.assert_allclose(report[name], value, rtol=1e-13, atol=1e-15, err_msg=name)
    for j in range(len(bins.start) - 1):
        here = of[bins.of[of] == j]
        in_bin = [m for m in counted if bins.of[m[0]] == j]
        assert report["bin_requests"][j] == len(here)
        assert report["bin_batches"][j] == len(in_bin)
        if len(here):
            wait = (records.start - trace.arrival)[here].mean() / SECOND
            assert report["bin_wait_mean_s"][j] == pytest.approx(wait, rel=1e-13, abs=1e-15)
        if in_bin:
            unit = SECOND if setup.service.timed else 1
            assert report["bin_batch_size_mean"][j] == np.mean([len(m) for m in in_bin])
            mean = np.mean([trace.length[m].max() for m in in_bin]) / unit
            assert report["bin_length_max_mean"][j] == pytest.approx(mean, rel=1e-13)


def queue_length_mean(job, records, low, high):
    """Integrate the number of requests that wait over [low, high): they arrive, and leave when their batch starts."""
    until = np.where(records.start >= 0, records.start, 2**62)
    inside = np.minimum(until, high) - np.maximum(job.trace.arrival, low)
    return np.maximum(inside, 0).sum() / (high - low)


@pytest.mark.parametrize("seed", SEEDS)
def test_windows_follow_from_the_records(seed):
    job = random_job(np.random.default_rng(seed))
    report, records = simulate(job)
    width, served = job.setup.reporting.window, records.batch >= 0
    first = np.unique(records.batch[served], return_index=True)[1]
    starts, sizes = records.start[served][first], records.size[served][first]
    assert report["window_width_s"] == width / SECOND
    for w in range(job.setup.reporting.windows):
        low, high = w * width, (w + 1) * width
        assert report["window_arrivals"][w] == ((job.trace.arrival >= low) & (job.trace.arrival < high)).sum()
        done = served & (records.completion >= low) & (records.completion < high)
        assert report["window_completions"][w] == done.sum()
        begun = (starts >= low) & (starts < high)
        if begun.any():
            assert report["window_batch_size_mean"][w] == sizes[begun].mean()
        else:
            assert np.isnan(report["window_batch_size_mean"][w])
        exact = queue_length_mean(job, records, low, high)
        # Each event is placed to 2^-20 of a window.
        assert abs(report["window_queue_length_mean"][w] - exact) <= 2 * len(job.trace.arrival) * 2.0**-20
        late = (records.completion - job.trace.arrival)[done] > job.setup.reporting.request_sla
        missed = (~served & (job.trace.arrival >= low) & (job.trace.arrival < high)).sum()
        fraction = report["window_request_sla_violation_fraction"][w]
        if job.setup.reporting.request_sla < 2**62 and done.sum() + missed:
            assert fraction == pytest.approx((late.sum() + missed) / (done.sum() + missed), rel=1e-15)
        else:
            assert np.isnan(fraction)


def test_windows_by_hand():
    """Arrivals 0, 1, 2; service 4 each; windows of 4 s. In the first wait 1 from 1 and 2 from 2: (3 + 2) / 4."""
    job = make_job([0, 1, 2], [4, 4, 4], horizon_s=12, windows=3, request_sla_s=7.0)
    report = simulate(job).report
    assert report["window_arrivals"].tolist() == [3, 0, 0]
    assert report["window_completions"].tolist() == [0, 1, 1]
    assert report["window_queue_length_mean"].tolist() == [1.25, 1.0, 0.0]
    assert report["window_batch_size_mean"].tolist() == [1, 1, 1]
    np.testing.assert_array_equal(report["window_request_sla_violation_fraction"], [np.nan, 0, 0])
    late = simulate(make_job([0, 1, 2], [4, 4, 4], horizon_s=12.1, windows=1, request_sla_s=6.9)).report
    np.testing.assert_allclose(late["window_request_sla_violation_fraction"], [2 / 3])


@pytest.mark.parametrize("backend", BACKENDS)
def test_requests_that_are_never_served_count_as_missed(backend):
    """Four tokens in 4 s for each of two batches; the fifth and sixth request are left in their bins."""
    law = formula(0.0, 1.0, largest_batch=2)
    job = make_job(
        [0, 0, 1, 1, 2, 5],
        output=[4, 4, 4, 4, 3, 7],
        law=law,
        batch_size=2,
        bins=2,
        bin_of=[0, 0, 0, 0, 0, 1],
        tail="drop",
        warmup=1,
        request_sla_s=6.0,
        token_sla_s=2.0,
        horizon_s=12.0,
        windows=3,
    )
    report = {name: array[0] for name, array in simulate_many([job], shape_of(job), backend).items()}
    assert (report["completed"], report["unserved"], report["measured"], report["missed"]) == (4, 2, 3, 2)
    # Latencies of 4, 4, 7 and 7 s; the first is of the warm-up.
    assert report["request_sla_violation_fraction"] == 4 / 5
    assert report["token_sla_violation_fraction"] == 10 / (12 + 10)
    # Completions at 4 and 8 s; arrivals of the unserved at 2 and 5 s.
    assert report["window_completions"].tolist() == [0, 2, 2]
    np.testing.assert_allclose(report["window_request_sla_violation_fraction"], [1, 1 / 3, 1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("completion", ["batch", "own"])
def test_what_was_made_before_the_makespan_is_not_its_throughput(backend, completion):
    """A batch of 1000 tokens at 0..1000 s; the makespan begins at 999.5 s: half a token of the first is made in it."""
    law = formula(0.0, 1.0, largest_batch=2)
    job = make_job(
        [0, 0, 999.5], output=[1000, 600, 2], law=law, batch_size=2, mode="fifo_greedy", warmup=2, completion=completion
    )
    report = {name: array[0] for name, array in simulate_many([job], shape_of(job), backend).items()}
    # 0.5 of 1000 s of 1600 tokens is 0.8, in whole tokens nothing; 2 tokens by 1002 s.
    assert report["throughput_tokens_per_s"] == 2 / 2.5
    whole = make_job(
        [0, 0, 999.5], output=[1000, 600, 2], law=law, batch_size=2, mode="fifo_greedy", completion=completion
    )
    report = {name: array[0] for name, array in simulate_many([whole], shape_of(whole), backend).items()}
    assert report["throughput_tokens_per_s"] == 1602 / 1002


@pytest.mark.parametrize("backend", BACKENDS)
def test_requests_done_before_the_makespan_are_not_its_throughput(backend):
    law = formula(0.0, 1.0, "constant", largest_batch=2)
    job = make_job(
        [0, 0, 50, 50],
        output=[20, 100, 1, 1],
        law=law,
        batch_size=2,
        warmup=2,
        mode="fifo_greedy",
        completion="own",
    )
    report = {name: array[0] for name, array in simulate_many([job], shape_of(job), backend).items()}
    # From 50 s to 101 s: the first was done at 20 s, its neighbour makes the last 50 of its tokens, then both others.
    assert report["throughput_requests_per_s"] == 3 / 51
    assert report["throughput_tokens_per_s"] == 52 / 51


@pytest.mark.parametrize("size", [1, 2, 7, 100, 5000])
def test_quantiles_lie_within_the_stated_error(size):
    numbers = np.rint(np.random.default_rng(size).lognormal(12, 2, size)).astype(np.int64)
    histogram = np.bincount([bucket_of(x) for x in numbers.tolist()], minlength=BUCKETS).astype(np.int32)
    counts, quantiles = rank_histograms(np.stack([histogram, np.zeros_like(histogram)])[None])
    exact = np.quantile(numbers, QUANTILES, method="inverted_cdf")
    np.testing.assert_allclose(quantiles[0, 0], exact, rtol=RELATIVE_ERROR)
    assert counts.tolist() == [[size, 0]]
    assert np.isnan(quantiles[0, 1]).all()


def total(tally, name):
    """Return one total, as a view."""
    return tally.totals[:, BATCHES.columns(TOTALS)[name]]


TAMPERED = {
    "completed": lambda tally: total(tally, "completed").__iadd__(1),
    "unserved": lambda tally: total(tally, "unserved").__iadd__(1),
    "measured": lambda tally: total(tally, "measured").__isub__(1),
    "missed": lambda tally: total(tally, "missed").__iadd__(1),
    "members": lambda tally: total(tally, "members").__iadd__(1),
    "moments": lambda tally: tally.moments[0, 1].__iadd__(1),
    "histograms": lambda tally: tally.histograms[0, 2, 5:6].__iadd__(1),
    "sizes": lambda tally: tally.sizes[0, 1:2].__iadd__(1),
    "bins": lambda tally: tally.bins[0, 0].__isub__(1),
}


@pytest.mark.parametrize("part", TAMPERED)
def test_a_lost_or_invented_request_is_noticed(part):
    job = make_job([0, 1, 2, 3, 4], [5, 3, 1, 4, 2], batch_size=2)
    tally, _ = run(job)
    summarise_batches(tally, [job.setup], [5])
    TAMPERED[part](tally)
    with pytest.raises(ArithmeticError, match="conservation broken: requests were lost or counted twice"):
        summarise_batches(tally, [job.setup], [5])


def test_another_number_of_requests_is_noticed():
    job = make_job([0, 1], [1, 1])
    tally, _ = run(job)
    with pytest.raises(ArithmeticError, match="conservation broken"):
        summarise_batches(tally, [job.setup], [3])


@pytest.mark.parametrize(
    ("rate", "servers", "growth"),
    [(0.5, 1, 0), (0.9, 1, 0), (1.5, 1, 1 - 1 / 1.5), (1.5, 2, 0), (3.0, 2, 1 - 2 / 3), (100.0, INFINITE, 0)],
)
def test_the_backlog_grows_by_what_cannot_be_served(rate, servers, growth):
    rng = np.random.default_rng(10)
    arrival = np.cumsum(rng.exponential(1 / rate, 5000))
    for mode, batch_size in (("fifo_greedy", 1), ("fifo_fixed", 1)):
        job = make_job(arrival, np.ones(5000), mode=mode, batch_size=batch_size, servers=servers)
        assert simulate(job).report["backlog_growth_fraction"] == pytest.approx(growth, abs=4 / np.sqrt(2500))


@pytest.mark.parametrize("warmup", [0, 50, 90])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_server_that_never_rests_is_utilised_fully_whatever_the_warmup(warmup, backend):
    """Who is left out of the statistics still occupies the server while the others wait."""
    job = make_job(np.arange(100) * 0.5, np.ones(100), warmup=warmup)
    assert simulate(job, backend=backend).report["utilisation"] == 1.0


@pytest.mark.parametrize(("rate", "grows"), [(20.0, False), (40.0, False), (100.0, True), (200.0, True)])
def test_growth_is_measured_in_batches_that_ran_not_in_those_allowed(rate, grows):
    """The SLA allows 18 of up to 256 requests: 18 / (10 x 0.034 s) = 53 per second, whatever the controller may try."""
    rng = np.random.default_rng(11)
    count, bins = 3000, 4
    law = formula(0.0, 0.03022, "linear", 0.22 / 30.22, largest_batch=256)
    job = make_job(
        np.cumsum(rng.exponential(1 / rate, count)),
        output=np.full(count, 10),
        mode="multi_bin_dynamic",
        batch_size=256,
        bin_of=rng.integers(0, bins, count),
        bins=bins,
        law=law,
        control=make_control(1, 256, sla=sla_search("paper", "tbt", 0.034, 0.001), bins=bins),
    )
    assert (simulate(job).report["backlog_growth_fraction"] > 0.3) == grows


@pytest.mark.parametrize(("batch_size", "bins", "servers"), [(10, 1, 1), (20, 1, 1), (5, 2, 1), (5, 1, 2), (50, 1, 1)])
def test_what_may_form_and_be_served_is_no_growth(batch_size, bins, servers):
    """100 at once, in batches of which all are full: the last 49 but what K bins and c servers may hold."""
    job = make_job(
        np.zeros(100),
        np.ones(100),
        mode="multi_bin_dynamic" if bins > 1 else "fifo_greedy",
        batch_size=batch_size,
        bin_of=np.arange(100) % bins,
        bins=bins,
        servers=servers,
    )
    growth = max(49 - batch_size * (bins + servers), 0) / 49
    assert simulate(job, backend="reference").report["backlog_growth_fraction"] == pytest.approx(growth)


def test_all_at_once_is_growth():
    """The second half of the arrivals finds the first half in the queue: no server keeps up with an infinite rate."""
    report = simulate(make_job(np.zeros(1000), np.ones(1000))).report
    assert report["backlog_growth_fraction"] == (499 - 2) / 499
    assert report["throughput_requests_per_s"] == 1.0
    assert simulate(make_job(np.zeros(1000), np.ones(1000), servers=INFINITE)).report["backlog_growth_fraction"] == 0.0
