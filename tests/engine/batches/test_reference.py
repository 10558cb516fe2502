"""Small stories with every number worked out by hand from the model; the compiled kernels must tell them too."""

import pytest

from batchcube.engine import BACKENDS, INFINITE, Shape, simulate_records
from batchcube.engine.policies.estimates import smoothing
from batchcube.engine.policies.memory import memory_bound
from batchcube.engine.policies.service import formula
from batchcube.engine.policies.sla import sla_search
from batchcube.engine.run import simulation_of
from helpers.batches import SECOND, make_control, make_job

pytestmark = [pytest.mark.parametrize("backend", BACKENDS), pytest.mark.usefixtures("unoptimised_programs")]

ROOM = Shape(bins=4, largest_batch=9, windows=1)
"""Of every story: JAX compiles a program for each shape, for many seconds."""


def simulated(job, backend):
    """Return the records, and the report."""
    tally, (records,) = simulate_records([job], ROOM, backend)
    report = simulation_of(job).summarise(tally, [job])
    return records, {name: value[0] for name, value in report.items()}


def records_of(job, backend):
    return simulated(job, backend)[0]


def story(job, backend):
    """Return (start s, completion s, batch) of each request."""
    records = records_of(job, backend)
    return [
        (start / SECOND, completion / SECOND, batch) if batch >= 0 else None
        for start, completion, batch in zip(*(column.tolist() for column in records[:3]), strict=True)
    ]


def test_full_bins_become_batches_and_the_remainder_is_flushed_at_the_last_arrival(backend):
    """B = 2, two bins. Bin 0 fills at 2 (requests 0, 2), bin 1 at 3 (1, 3); 4 is left and leaves at once at 4."""
    job = make_job([0, 1, 2, 3, 4], [5, 3, 1, 4, 2], batch_size=2, bins=2, bin_of=[0, 1, 0, 1, 0])
    # One server: (0, 2) runs 2..7 for max(5, 1); (1, 3) runs 7..11 for max(3, 4); (4) runs 11..13.
    assert story(job, backend) == [(2, 7, 0), (7, 11, 1), (2, 7, 0), (7, 11, 1), (11, 13, 2)]


def test_what_is_left_can_be_dropped(backend):
    job = make_job([0, 1, 2, 3, 4], [5, 3, 1, 4, 2], batch_size=2, bins=2, bin_of=[0, 1, 0, 1, 0], tail="drop")
    assert story(job, backend) == [(2, 7, 0), (7, 11, 1), (2, 7, 0), (7, 11, 1), None]
    _, report = simulated(job, backend)
    assert (report["completed"], report["unserved"], report["requests"]) == (4, 1, 5)


def test_bins_are_flushed_in_their_own_order(backend):
    """All wait at 3: bin 0 (request 2), bin 1 (request 1), bin 2 (requests 0 and 3) leave in this order."""
    job = make_job([0, 1, 2, 3], [1, 1, 1, 1], batch_size=9, bins=3, bin_of=[2, 1, 0, 2])
    assert story(job, backend) == [(5, 6, 2), (4, 5, 1), (3, 4, 0), (5, 6, 2)]


def test_at_one_instant_bins_fill_by_index_then_wait_out_by_bin_then_are_flushed(backend):
    """At 2: request 3 fills bin 2 and request 4 fills bin 1 (B = 2); request 0, in bin 0 since 0, has waited 2."""
    job = make_job(
        [0, 1, 1, 2, 2, 2],
        [1, 1, 1, 1, 1, 1],
        batch_size=2,
        bins=4,
        bin_of=[0, 1, 2, 2, 1, 3],
        max_wait_s=2.0,
    )
    # In order: (2, 3) of bin 2, (1, 4) of bin 1, (0) of bin 0, then the last: (5) of bin 3.
    assert story(job, backend) == [(4, 5, 2), (3, 4, 1), (2, 3, 0), (2, 3, 0), (3, 4, 1), (5, 6, 3)]


def test_those_who_arrive_as_the_wait_runs_out_still_join(backend):
    """Request 0 has waited 2 just as request 1 arrives: they leave together. Request 2 waits 1, to the last arrival."""
    job = make_job([0, 2, 5, 6], [1, 1, 1, 1], batch_size=3, max_wait_s=2.0)
    assert story(job, backend) == [(2, 3, 0), (2, 3, 0), (6, 7, 1), (6, 7, 1)]


def test_after_the_last_arrival_a_dropped_tail_still_waits_out(backend):
    """Nothing is flushed at 5; request 1, in since 5, leaves when it has waited 2."""
    job = make_job([0, 5], [1, 1], batch_size=3, max_wait_s=2.0, tail="drop")
    assert story(job, backend) == [(2, 3, 0), (7, 8, 1)]


def test_no_wait_at_all_forms_a_batch_at_each_instant(backend):
    job = make_job([0, 0, 1], [1, 2, 1], batch_size=9, max_wait_s=0.0)
    assert story(job, backend) == [(0, 2, 0), (0, 2, 0), (2, 3, 1)]


def test_the_shortest_predicted_batch_is_served_first(backend):
    """While 0 runs to 10, batches of 3, 1 and 2 predicted seconds form; true times differ, and ties go to the first."""
    job = make_job(
        [0, 1, 2, 3, 4], [10, 5, 6, 7, 8], predicted=[10, 3, 1, 2, 1], service_order="shortest_first", mode="fifo_fixed"
    )
    # Served: 2 (predicted 1, formed first) 10..16, 4 (predicted 1) 16..24, 3 (2) 24..31, 1 (3) 31..36.
    assert story(job, backend) == [(0, 10, 0), (31, 36, 4), (10, 16, 1), (24, 31, 3), (16, 24, 2)]


def test_a_batch_that_forms_as_the_server_is_freed_takes_part_in_the_choice(backend):
    """Free at 4, when request 2 arrives: completions, arrivals, then dispatch, so the shorter 2 goes first."""
    job = make_job([0, 1, 4], [4, 5, 1], service_order="shortest_first")
    assert story(job, backend) == [(0, 4, 0), (5, 10, 2), (4, 5, 1)]


def test_two_servers_take_the_formed_batches_in_order(backend):
    """Servers free at 0 and 0; then at 5 (a) and 2 (b); 2 starts on b at 2, 3 on b at 4."""
    job = make_job([0, 0, 1, 3], [5, 2, 2, 3], servers=2)
    assert story(job, backend) == [(0, 5, 0), (0, 2, 1), (2, 4, 2), (4, 7, 3)]


def test_infinitely_many_servers_never_let_a_formed_batch_wait(backend):
    job = make_job([0, 0, 1, 3], [5, 2, 2, 3], servers=INFINITE, batch_size=2)
    assert story(job, backend) == [(0, 5, 0), (0, 5, 0), (3, 6, 1), (3, 6, 1)]


def test_each_request_can_complete_at_its_own_length_while_the_server_stays_busy(backend):
    """T = 1 + 0.5 L: 4 tokens 3 s, 2 tokens 2 s; the second batch starts when the longest of the first is done."""
    law = formula(1.0, 0.5, largest_batch=2)
    job = make_job([0, 0, 1, 1], output=[4, 2, 2, 6], batch_size=2, law=law, completion="own")
    assert story(job, backend) == [(0, 3, 0), (0, 2, 0), (3, 5, 1), (3, 7, 1)]


def test_the_batch_size_counts_in_its_time(backend):
    """`linear` with γ = 1/2: three requests of up to 4 tokens take 1 + 1 · 4 · 2 = 9 s, one of 4 tokens 5 s."""
    law = formula(1.0, 1.0, "linear", 0.5, largest_batch=3)
    job = make_job([0, 0, 0, 1], output=[1, 4, 2, 4], batch_size=3, law=law)
    assert story(job, backend) == [(0, 9, 0), (0, 9, 0), (0, 9, 0), (9, 14, 1)]


def test_a_free_server_takes_what_waits_up_to_its_target(backend):
    """B = 3: 0 alone at 0; at 4 the server takes 1, 2, 3, and at 6 it takes 4 and 5."""
    job = make_job([0, 1, 2, 3, 4, 5], [4, 1, 2, 1, 3, 1], mode="fifo_greedy", batch_size=3)
    assert story(job, backend) == [(0, 4, 0), (4, 6, 1), (4, 6, 1), (4, 6, 1), (6, 9, 2), (6, 9, 2)]


def test_at_one_instant_completions_come_first_then_all_arrivals_then_dispatch(backend):
    """At 2 the server is freed, 1 and 2 arrive, and only then a batch is taken: both. At 0, request 0 is alone."""
    job = make_job([0, 2, 2], [2, 1, 1], mode="fifo_greedy", batch_size=5)
    assert story(job, backend) == [(0, 2, 0), (2, 3, 1), (2, 3, 1)]


def test_who_arrives_as_a_batch_completes_was_not_waiting_yet(backend):
    """Requests of 10 tokens where 80 fit: 8, but the sample said 40, so 2. Algorithm 1 acts while requests wait.

    The first two complete at 1, as eight arrive: none waited, and again 2 are taken. At 2 six wait: all are taken.
    """
    job = make_job(
        [0, 0] + [1] * 8,
        output=[10] * 10,
        mode="dynamic_only",
        batch_size=8,
        law=formula(1.0, 0.0, largest_batch=8),
        control=make_control(1, 8, memory=memory_bound("exact", 80), mean=40.0, variance=0.0),
    )
    assert story(job, backend) == [(0, 1, 0)] * 2 + [(1, 2, 1)] * 2 + [(2, 3, 2)] * 6


@pytest.mark.parametrize(
    ("choice", "order"),
    [
        # While 0 runs to 10: bin 0 holds 4; bin 1 holds 2, 3, 5; bin 2 holds 1, 6.
        ("oldest_head", [0, 1, 2, 4]),  # heads 4, 2, 1
        ("round_robin", [0, 2, 1, 4]),  # after bin 0: bins 1, 2, 0
        ("longest_queue", [0, 2, 1, 4]),  # 1, 3 and 2 wait
    ],
)
def test_a_free_server_chooses_a_bin(backend, choice, order):
    job = make_job(
        [0, 1, 2, 3, 4, 5, 6],
        [10, 1, 1, 1, 1, 1, 1],
        mode="multi_bin_dynamic",
        batch_size=4,
        bins=3,
        bin_of=[0, 2, 1, 1, 0, 1, 2],
        bin_choice=choice,
    )
    records = records_of(job, backend)
    assert [records.batch.tolist().index(number) for number in range(4)] == order
    assert records.start[[records.batch.tolist().index(n) for n in range(4)]].tolist() == [0, 10e6, 11e6, 12e6]


def test_the_controller_learns_from_a_batch_before_the_next_is_taken(backend):
    """Range [1, 8], α = 2, δ = 1, target 3 ± 0.5 s, each batch takes as many seconds as it has requests.

    All wait at 0. b = floor(9/2) = 4: 4 s is late: high = max(4, 1 + 2) = 4, low = 1 (clamped), b = 2.
    2 s is early: low = min(2, 4 - 2) = 2, high = 5, b = 3. 3 s is right: high = 3 + 1, low = 3 - 1, b = 3.
    """
    law = formula(0.0, 1.0, "linear", 1.0, largest_batch=8)
    control = make_control(
        1,
        8,
        sla=sla_search("paper", "batch_time", 3.0, 0.5, alpha=2, delta=1),
        estimates=smoothing("window", observations=1),
    )
    job = make_job([0] * 13, output=[1] * 13, mode="dynamic_only", batch_size=8, law=law, control=control)
    records = records_of(job, backend)
    assert records.size.tolist() == [4] * 4 + [2] * 2 + [3] * 3 + [3] * 3 + [1]
    assert sorted(set(records.start.tolist())) == [0, 4e6, 6e6, 9e6, 12e6]


def test_controllers_of_their_own_or_one_for_all(backend):
    """Bin 0 has requests of 10 tokens, bin 1 of 40; capacity 80, nothing varies; the sample said 40 for both: b = 2.

    Per bin: bin 0 learns m = 10, so b = 8; bin 1 stays at 2. Together: after the first batch m = 10 for bin 1, too.
    """
    options = {
        "output": [10] * 10 + [40] * 8,
        "mode": "multi_bin_dynamic",
        "batch_size": 8,
        "bins": 2,
        "bin_of": [0] * 10 + [1] * 8,
        "law": formula(1.0, 0.0, largest_batch=8),
        "control": make_control(
            1,
            8,
            memory=memory_bound("exact", 80),
            estimates=smoothing("window", observations=1),
            bins=2,
            mean=40.0,
            variance=0.0,
        ),
        "bin_choice": "round_robin",
    }
    own = records_of(make_job([0] * 18, **options), backend)
    assert own.size.tolist() == [2, 2] + [8] * 8 + [2] * 8
    shared = records_of(make_job([0] * 18, **options, controller_scope="global"), backend)
    # Batches: 2 of bin 0 (m = 10, b = 8), then all 8 of bin 1 (m = 40, b = 2), then bin 0 in twos.
    assert shared.size.tolist()[:4] == [2, 2, 2, 2]
    assert shared.size.tolist()[10:] == [8] * 8


def test_memory_overflows_are_counted(backend):
    """Batches of two hold 30, 50 and 40 tokens where 40 fit: one in three is too large; the most is 50."""
    job = make_job(
        [0, 0, 1, 1, 2, 2],
        output=[10, 10, 20, 10, 5, 5],
        prompt=[5, 5, 10, 10, 15, 15],
        batch_size=2,
        law=formula(0.1, 0.1, largest_batch=2),
    )
    memory = memory_bound("exact", 40)._replace(enabled=False)
    job = job._replace(setup=job.setup._replace(control=job.setup.control._replace(memory=memory)))
    _, report = simulated(job, backend)
    assert report["memory_overflow_fraction"] == 1 / 3
    assert report["memory_peak_tokens"] == 50
