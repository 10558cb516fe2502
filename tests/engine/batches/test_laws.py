"""Laws that hold for whole runs, whatever the numbers."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchcube.engine import INFINITE, Setup, make_policy, simulate, sort_into_bins
from batchcube.engine.policies.service import given as given_times
from batchcube.engine.policies.sla import LATENCY
from helpers.batches import SECOND, make_control, make_job, random_job, records_of

seeds = st.integers(0, 2**63)


def draw(seed):
    return random_job(np.random.default_rng(seed))


def with_policy(job, **changes):
    return job._replace(setup=job.setup._replace(policy=job.setup.policy._replace(**changes)))


@given(seeds)
def test_every_request_is_in_exactly_one_batch_and_served_in_order(seed):
    job = draw(seed)
    records = records_of(job)
    served = records.batch >= 0
    assert served.all() or (job.setup.policy.static and job.setup.policy.drop_tail)
    assert (records.start[served] >= job.trace.arrival[served]).all()
    assert (records.completion[served] > records.start[served]).all()
    np.testing.assert_array_equal(records.bin[served], job.bins.of[served])
    numbers, counts = np.unique(records.batch[served], return_counts=True)
    assert numbers.tolist() == list(range(len(numbers)))
    starts = []
    for number, count in zip(numbers, counts, strict=True):
        members = np.flatnonzero(records.batch == number)
        assert len(set(records.bin[members])) == len(set(records.start[members])) == 1
        assert (records.size[members] == count).all()
        assert count <= job.setup.policy.batch_size
        starts.append(records.start[members[0]])
    assert starts == sorted(starts)


@given(seeds)
def test_a_bin_is_first_in_first_out(seed):
    job = draw(seed)
    assume(not job.setup.policy.ranked)
    records = records_of(job)
    for j in range(len(job.bins.start) - 1):
        batches = records.batch[(job.bins.of == j) & (records.batch >= 0)]
        assert (np.diff(batches) >= 0).all()


@given(seeds)
def test_never_more_batches_in_service_than_servers(seed):
    job = draw(seed)
    records = records_of(job)
    served = records.batch >= 0
    numbers, first = np.unique(records.batch[served], return_index=True)
    starts = records.start[served][first]
    ends = np.array([records.completion[records.batch == number].max() for number in numbers], int)
    for start in starts:
        assert ((starts <= start) & (ends > start)).sum() <= job.setup.policy.servers


@given(seeds)
def test_with_infinitely_many_servers_no_formed_batch_waits(seed):
    job = with_policy(draw(seed), servers=INFINITE)
    records, policy = records_of(job), job.setup.policy
    last = job.trace.arrival[-1]
    for number in range(records.batch.max() + 1):
        members = np.flatnonzero(records.batch == number)
        start = records.start[members[0]]
        if not policy.static:
            assert (job.trace.arrival[members] == start).all()
        elif len(members) == policy.batch_size:
            assert start == job.trace.arrival[members[-1]] or start == job.trace.arrival[members[0]] + policy.max_wait
        else:
            assert start == last or start == job.trace.arrival[members[0]] + policy.max_wait


@given(seeds, st.integers(1, 4))
def test_more_servers_never_delay_anybody_in_first_formed_order(seed, servers):
    job = draw(seed)
    while not job.setup.policy.static or job.setup.policy.ranked:
        seed += 1
        job = draw(seed)
    few = records_of(with_policy(job, servers=servers))
    more = records_of(with_policy(job, servers=servers + 1))
    assert (more.start <= few.start).all()
    np.testing.assert_array_equal(more.batch, few.batch)


@given(seeds, st.integers(2, 1000), st.sampled_from(["multi_bin_only", "fifo_greedy", "multi_bin_dynamic"]))
def test_scaling_all_times_scales_all_times(seed, factor, mode):
    rng = np.random.default_rng(seed)
    arrival, service = np.cumsum(rng.integers(0, 3, 40)), rng.integers(1, 6, 40)
    bins = 1 if mode == "fifo_greedy" else 3
    options = {"mode": mode, "batch_size": 4, "bins": bins, "bin_of": rng.integers(0, bins, 40), "servers": 2}
    once, scaled = (records_of(make_job(arrival * k, service * k, **options)) for k in (1, factor))
    np.testing.assert_array_equal(once.start * factor, scaled.start)
    np.testing.assert_array_equal(once.completion * factor, scaled.completion)
    for name in ("batch", "bin", "size"):
        np.testing.assert_array_equal(getattr(once, name), getattr(scaled, name))


@given(seeds, st.sampled_from(["oldest_head", "longest_queue"]))
def test_what_bins_are_called_does_not_matter_where_no_tie_is_broken_by_it(seed, choice):
    rng = np.random.default_rng(seed)
    arrival, service = np.cumsum(rng.uniform(0.1, 1, 40)), rng.uniform(0.1, 3, 40)
    of, names = rng.integers(0, 4, 40), rng.permutation(4)
    mode = "multi_bin_dynamic" if choice == "oldest_head" else "multi_bin_only"
    tail = "flush" if mode == "multi_bin_dynamic" else "drop"
    options = {"mode": mode, "batch_size": 3, "bins": 4, "servers": 2, "tail": tail}
    one = records_of(make_job(arrival, service, bin_of=of, **options))
    other = records_of(make_job(arrival, service, bin_of=names[of], **options))
    for name in ("start", "completion", "batch", "size"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    served = one.batch >= 0
    np.testing.assert_array_equal(names[one.bin[served]], other.bin[served])


def in_mode(job, mode):
    """The same replication in another mode."""
    batch_size = job.setup.policy.batch_size
    policy = make_policy(mode, batch_size=batch_size, servers=job.setup.policy.servers)
    return job._replace(setup=Setup(policy, *job.setup[1:]))


@given(seeds, st.sampled_from([("multi_bin_only", "fifo_fixed"), ("multi_bin_dynamic", "dynamic_only")]))
def test_one_bin_is_the_mode_without_bins(seed, modes):
    job = draw(seed)
    job = job._replace(bins=sort_into_bins(np.zeros(len(job.trace.arrival), np.int32), 1))
    a, b = (simulate(in_mode(job, mode)) for mode in modes)
    for name in a.records._fields:
        np.testing.assert_array_equal(getattr(a.records, name), getattr(b.records, name))
    for name in a.report:
        np.testing.assert_array_equal(a.report[name], b.report[name])


@given(seeds)
def test_greedy_is_a_controller_that_always_asks_for_the_largest_batch(seed):
    job = draw(seed)
    job = job._replace(bins=sort_into_bins(np.zeros(len(job.trace.arrival), np.int32), 1))
    job = job._replace(setup=job.setup._replace(control=make_control(1, job.setup.policy.batch_size)))
    a, b = (records_of(in_mode(job, mode)) for mode in ("fifo_greedy", "dynamic_only"))
    np.testing.assert_array_equal(a, b)


@given(seeds, st.sampled_from(["fifo_fixed", "fifo_greedy"]))
def test_single_requests_on_one_server_obey_lindleys_recursion(seed, mode):
    rng = np.random.default_rng(seed)
    job = make_job(np.cumsum(rng.exponential(1.0, 60)), rng.exponential(0.9, 60) + 1e-6, mode=mode)
    arrival, service = job.trace.arrival.tolist(), job.trace.length.tolist()
    waits = [0]
    for i in range(1, 60):
        waits.append(max(0, waits[-1] + service[i - 1] - (arrival[i] - arrival[i - 1])))
    assert (records_of(job).start - job.trace.arrival).tolist() == waits


@given(seeds)
def test_fixed_batches_on_one_server_obey_lindleys_recursion_too(seed):
    rng = np.random.default_rng(seed)
    job = make_job(np.cumsum(rng.exponential(0.3, 60)), rng.uniform(0.1, 1.5, 60), batch_size=4)
    formed, longest = job.trace.arrival[3::4], job.trace.length.reshape(-1, 4).max(axis=1)
    free, starts = 0, []
    for at, service in zip(formed.tolist(), longest.tolist(), strict=True):
        starts.append(max(at, free))
        free = starts[-1] + service
    assert records_of(job).start[::4].tolist() == starts


@given(seeds)
def test_own_completion_moves_nothing_but_completions(seed):
    job = draw(seed)
    assume(job.setup.policy.static or job.setup.control.sla.signal != LATENCY)
    together, own = (records_of(with_policy(job, own_completion=flag)) for flag in (False, True))
    np.testing.assert_array_equal(together.start, own.start)
    np.testing.assert_array_equal(together.batch, own.batch)
    assert (own.completion <= together.completion).all()


@given(seeds)
def test_warmup_and_windows_change_what_is_counted_not_what_happens(seed):
    job = draw(seed)
    reporting = job.setup.reporting._replace(warmup=5, windows=3, window=SECOND)
    other = job._replace(setup=job.setup._replace(reporting=reporting))
    np.testing.assert_array_equal(records_of(job), records_of(other))


@pytest.mark.parametrize("mode", ["fifo_fixed", "fifo_greedy"])
def test_a_single_request(mode):
    job = make_job([3.0], [2.0], mode=mode, law=given_times(largest_batch=1))
    report, records = simulate(job)
    assert (records.start[0], records.completion[0]) == (3 * SECOND, 5 * SECOND)
    assert report["latency_mean_s"] == report["latency_max_s"] == 2.0
    assert report["utilisation"] == 1.0
