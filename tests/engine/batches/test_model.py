"""The doors: what they build, and every input they refuse, with its message."""

import re

import numpy as np
import pytest

from batchcube.engine import (
    INFINITE,
    MODES,
    Job,
    make_policy,
    make_reporting,
    make_trace,
    simulate,
    sort_into_bins,
)
from batchcube.engine.batches.model import check
from batchcube.engine.policies.order import Named
from batchcube.engine.policies.service import formula
from batchcube.engine.ticks import LARGEST_BATCH, LARGEST_REQUEST, MOST_REQUESTS, NEVER
from helpers.batches import make_job


def test_a_trace_of_tokens():
    trace = make_trace([0, 0.5, 0.5], output_tokens=[3, 1, 7], prompt_tokens=[10, 0, 5])
    assert trace.arrival.tolist() == [0, 500_000, 500_000]
    assert trace.length.tolist() == trace.output.tolist() == trace.predicted.tolist() == [3, 1, 7]
    assert trace.prompt.tolist() == [10, 0, 5]
    assert [column.dtype for column in trace] == [np.int64] * 4 + [np.float64]


def test_a_trace_of_tokens_measured_in_all():
    trace = make_trace([0, 1], output_tokens=[3, 1], prompt_tokens=[10, 0], predicted=[4, 2.5], length="total")
    assert trace.length.tolist() == [13, 1]
    assert trace.predicted.tolist() == [14, 2.5]
    assert trace.output.tolist() == [3, 1]


def test_a_trace_of_service_times():
    trace = make_trace([0, 1], service_s=[0.25, 1e-9], predicted=[0.5, 0.25])
    assert trace.length.tolist() == [250_000, 1]  # at least one tick
    assert trace.predicted.tolist() == [500_000, 250_000]
    assert trace.prompt.tolist() == trace.output.tolist() == [0, 0]
    assert make_trace([0], service_s=[0.25]).predicted.tolist() == [250_000]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"arrival_s": [0, np.nan], "output_tokens": [1, 1]}, "arrival_s[1] = nan: must be finite"),
        ({"arrival_s": [0, np.inf], "output_tokens": [1, 1]}, "arrival_s[1] = inf: must be finite"),
        ({"arrival_s": [-1, 0], "output_tokens": [1, 1]}, "arrival_s[0] = -1.0: must be >= 0"),
        ({"arrival_s": [0, 2, 1], "output_tokens": [1, 1, 1]}, "arrival_s[2] = 1.0: must not decrease"),
        ({"arrival_s": [1e10], "output_tokens": [1]}, "a time is not finite or beyond 4503599627 s"),
        ({"arrival_s": [0]}, "a trace needs either output_tokens or service_s"),
        (
            {"arrival_s": [0], "output_tokens": [1], "service_s": [1]},
            "a trace needs either output_tokens or service_s",
        ),
        ({"arrival_s": [0], "service_s": [1, 2]}, "service_s has 2 entries, arrival_s has 1: must be equal"),
        ({"arrival_s": [0, 1], "service_s": [1, 0]}, "service_s[1] = 0.0: must be > 0"),
        ({"arrival_s": [0, 1], "service_s": [1, np.nan]}, "service_s[1] = nan: must be > 0"),
        ({"arrival_s": [0], "service_s": [np.inf]}, "a time is not finite"),
        ({"arrival_s": [0], "service_s": [1], "predicted": [1, 2]}, "predicted has 2 entries, arrival_s has 1"),
        ({"arrival_s": [0], "output_tokens": [1, 2]}, "output_tokens has 2 entries, arrival_s has 1: must be equal"),
        ({"arrival_s": [0], "output_tokens": [1], "prompt_tokens": []}, "prompt_tokens has 0 entries"),
        ({"arrival_s": [0], "output_tokens": [1], "predicted": []}, "predicted has 0 entries, arrival_s has 1"),
        ({"arrival_s": [0, 1], "output_tokens": [1, 0]}, "output_tokens[1] = 0: must be >= 1"),
        ({"arrival_s": [0], "output_tokens": [np.nan]}, "output_tokens[0] = nan: must be >= 1"),
        ({"arrival_s": [0], "output_tokens": [1], "prompt_tokens": [-1]}, "prompt_tokens[0] = -1: must be >= 0"),
        (
            {"arrival_s": [0], "output_tokens": [LARGEST_REQUEST], "prompt_tokens": [1]},
            "prompt_tokens + output_tokens[0] = 1: sum must be <= 2097152",
        ),
        ({"arrival_s": [0], "output_tokens": [1], "length": "sum"}, "length = 'sum': must be one of output, total"),
    ],
)
def test_traces_are_refused_with_the_first_bad_entry(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_trace(**fields)


def test_sorting_into_bins_keeps_the_order_of_arrival():
    bins = sort_into_bins(np.array([2, 0, 2, 0, 1], np.int32), 4)
    assert bins.order.tolist() == [1, 3, 4, 0, 2]
    assert bins.start.tolist() == [0, 2, 3, 5, 5]
    assert sort_into_bins(np.zeros(3, np.int32), 1).order.tolist() == [0, 1, 2]
    many = sort_into_bins(np.array([299, 0, 256, 44], np.int32), 300)
    assert many.order.tolist() == [1, 3, 2, 0]


def test_a_bin_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="bin 3 of a request: must be below 3"):
        sort_into_bins(np.array([0, 3], np.int32), 3)


def test_a_policy():
    policy = make_policy(
        "multi_bin_only",
        batch_size=8,
        servers=3,
        max_wait_s=1.5,
        service_order="shortest_first",
        tail="drop",
        bin_choice="longest_queue",
        controller_scope="global",
        completion="own",
    )
    assert policy == (True, 8, 1_500_000, Named(1), True, True, Named(4), False, 3, True)
    assert make_policy("dynamic_only", batch_size=8) == (
        False,
        8,
        NEVER,
        Named(0),
        False,
        False,
        Named(2),
        True,
        1,
        False,
    )
    assert [make_policy(mode, batch_size=1).static for mode in MODES] == [True, False, True, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "fifo"}, "policy.mode = 'fifo': must be one of fifo_fixed, fifo_greedy, multi_bin_only, "),
        ({"service_order": "x"}, "policy.service_order = 'x': must be one of first_formed, shortest_first"),
        ({"tail": "x"}, "policy.tail = 'x': must be one of flush, drop"),
        ({"bin_choice": "x"}, "policy.bin_choice = 'x': must be one of oldest_head, round_robin, longest_queue"),
        ({"controller_scope": "x"}, "policy.controller_scope = 'x': must be one of per_bin, global"),
        ({"completion": "x"}, "server.completion = 'x': must be one of batch, own"),
        ({"batch_size": 0}, "policy.batch_size = 0: must be in 1..65536"),
        ({"batch_size": LARGEST_BATCH + 1}, "policy.batch_size = 65537: must be in 1..65536"),
        ({"servers": 0}, "server.servers = 0: must be >= 1 or infinite"),
        ({"servers": INFINITE + 1}, "must be >= 1 or infinite"),
        ({"max_wait_s": -0.5}, "policy.max_wait_s = -0.5: must be >= 0"),
        ({"max_wait_s": np.nan}, "policy.max_wait_s = nan: must be >= 0"),
        ({"max_wait_s": np.inf}, "a time is not finite"),
    ],
)
def test_policies_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_policy(**({"mode": "multi_bin_only", "batch_size": 2} | options))


def test_reporting():
    limits = {"request_sla_s": 0.25, "ttft_sla_s": 0.2, "tpot_sla_s": 0.04, "token_sla_s": 0.05}
    reporting = make_reporting(horizon_s=10, windows=4, warmup_requests=5, **limits)
    assert reporting == (5, 250_000, 200_000, 40_000.0, 50_000.0, 2_500_000, 4)
    assert make_reporting(horizon_s=1e-5, windows=3).window == 4  # the last window is never cut short
    assert make_reporting(horizon_s=0.0).window == 1
    assert (make_reporting(horizon_s=1).request_sla, make_reporting(horizon_s=1).token_sla) == (NEVER, np.inf)
    with pytest.raises(ValueError, match=r"report.windows = 0: must be >= 1"):
        make_reporting(horizon_s=1, windows=0)
    with pytest.raises(ValueError, match=r"report.warmup_requests = -1: must be >= 0"):
        make_reporting(horizon_s=1, warmup_requests=-1)


def replace(part, **changes):
    def change(job):
        if part == "job":
            return job._replace(**changes)
        if part == "trace":
            return job._replace(trace=job.trace._replace(**changes))
        return job._replace(setup=job.setup._replace(**{part: getattr(job.setup, part)._replace(**changes)}))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace("job", bins=sort_into_bins(np.zeros(3, np.int32), 1)), "bins has 3 entries, arrival_s has 4"),
        (replace("policy", batch_size=3), "the service law must cover every batch size up to policy.batch_size"),
        (
            replace("control", largest=3.0),
            "policy.largest_batch of the controller: must not exceed policy.batch_size",
        ),
        (replace("control", prior_tokens=np.ones(0)), "the controller needs prior moments for 1 bins"),
        (
            replace("trace", arrival=np.array([0, 0, 0, 2**52])),
            "4 requests of up to 1 s each could run past 4503599627 s, the longest that can be simulated with "
            "batches of up to 2",
        ),
        (replace("policy", max_wait=2**52), "could run past"),
        (replace("policy", servers=1, static=True, ranked=True, service_order=Named(1)), None),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    job = make_job([0, 1, 2, 3], [1, 1, 1, 1], mode="dynamic_only", batch_size=2)
    check(job)
    if message is None:
        check(change(job))
        return
    for backend in ("numba", "reference"):
        with pytest.raises(ValueError, match=re.escape(message)):
            simulate(change(job), backend=backend)


@pytest.mark.parametrize("predicted", [[1.0, np.nan], [1.0, np.inf], [-1.0, 1.0], [1.0, 1e300]])
def test_predictions_that_cannot_be_are_refused_where_they_are_read(predicted):
    for order in ("first_formed", "shortest_first"):
        job = make_job([0, 1], [1, 1], service_order=order)
        job = job._replace(trace=job.trace._replace(predicted=np.array(predicted)))
        if order == "first_formed":
            check(job)
        else:
            with pytest.raises(ValueError, match=r"predicted lengths from .* to .*: must be in 0\.\."):
                check(job)


def test_no_requests_and_too_many_are_refused():
    empty = make_job([0], [1])
    with pytest.raises(ValueError, match="a trace needs at least one request"):
        simulate(Job(make_trace([], service_s=[]), sort_into_bins(np.zeros(0, np.int32), 1), empty.setup))
    vast = empty.trace._replace(arrival=np.broadcast_to(np.int64(0), MOST_REQUESTS))
    with pytest.raises(ValueError, match="536870912 requests in one replication: must be below 536870912"):
        check(empty._replace(trace=vast))


def test_batches_too_long_for_exact_sums_are_refused():
    job = make_job([0], output=[1], law=formula(5e6, 1.0, largest_batch=1))
    with pytest.raises(ValueError, match=r"a batch of this trace could take 5e\+06 s: must be at most 4398046 s"):
        check(job)


def test_sums_over_vast_batches_shrink_the_horizon():
    job = make_job([0, 1e8], [1, 1], batch_size=LARGEST_BATCH)
    with pytest.raises(ValueError, match="could run past 70368744 s"):
        check(job)
    check(make_job([0, 6e7], [1, 1], batch_size=LARGEST_BATCH))
