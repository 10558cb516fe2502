"""Worked examples of continuous batching, step by step (docs/model.md, section 10)."""

import re

import numpy as np
import pytest

from batchcube.engine import Shape, simulate_many, simulate_replica
from batchcube.engine.continuous import (
    REJECTED,
    SERVED,
    Job,
    Setup,
    make_fleet,
    make_law,
    make_replica,
    make_reporting,
    make_requests,
)
from batchcube.engine.policies.estimates import smoothing
from batchcube.engine.policies.memory import no_memory_bound
from batchcube.engine.policies.sla import STEP_SIGNALS, sla_search
from batchcube.engine.policies.target import Control

MS = 10**9
"""Ticks of a millisecond."""
BACKENDS = ("reference", "numba")


def replica(law, **more):
    settings = {"most_running": 8, "token_budget": 64, "capacity_tokens": 1000, "block_tokens": 1} | more
    return make_replica(law, **settings)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_request_alone_takes_its_prefill_and_a_step_for_every_further_token(backend) -> None:
    # Prefill of 10: 1 + 10 * 0.1 + 10 * 10 * 0.01 = 3 ms; decodes read 11, 12, 13 tokens: 1 + 0.5 + 0.02 * them.
    law = make_law(1e-3, 5e-4, 2e-5, 1e-4, 1e-5)
    records, totals = simulate_replica(make_requests([0.25], [10], [4]), replica(law), backend)
    assert records.scheduled[0] == 250 * MS
    assert records.first_token[0] == 253 * MS
    assert records.last_token[0] == 253 * MS + 3 * 1500 * 10**6 + (11 + 12 + 13) * 20 * 10**6
    assert totals == (4, 3, 10, 1, 0, records.last_token[0] - 250 * MS, 13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_single_token_is_all_prefill(backend) -> None:
    records, totals = simulate_replica(make_requests([0.0], [5], [1]), replica(make_law(2e-3)), backend)
    assert records.first_token[0] == records.last_token[0] == 2 * MS
    assert (totals.steps, totals.decode_tokens, totals.prefills) == (1, 0, 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_chunks_share_the_step_with_decodes(backend) -> None:
    # Budget 4: request 0 (prompt 3) fills 3 of step 1, request 1 (prompt 7) gets 1; then 3 beside the decode, then 3.
    requests = make_requests([0.0, 0.0], [3, 7], [5, 1])
    records, totals = simulate_replica(requests, replica(make_law(1e-3), token_budget=8, most_running=2), backend)
    assert records.first_token.tolist() == [1 * MS, 2 * MS]
    small = replica(make_law(1e-3), token_budget=4, most_running=2)
    records, totals = simulate_replica(requests, small, backend)
    assert records.first_token.tolist() == [1 * MS, 3 * MS]
    assert records.last_token.tolist() == [5 * MS, 3 * MS]
    assert totals.prefill_tokens == 10


@pytest.mark.parametrize("backend", BACKENDS)
def test_separate_prefills_stop_the_decodes(backend) -> None:
    # Request 1 arrives during the second step: its prefill is a step of its own, in which request 0 emits nothing.
    requests = make_requests([0.0, 0.0015], [3, 7], [4, 2])
    records, _ = simulate_replica(requests, replica(make_law(1e-3), prefill="separate"), backend)
    assert records.first_token.tolist() == [1 * MS, 3 * MS]
    assert records.last_token.tolist() == [5 * MS, 4 * MS]
    chunked, _ = simulate_replica(requests, replica(make_law(1e-3)), backend)
    assert chunked.last_token.tolist() == [4 * MS, 4 * MS]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_cap_holds_requests_back_in_order(backend) -> None:
    requests = make_requests([0.0] * 4, [1] * 4, [3] * 4)
    records, totals = simulate_replica(requests, replica(make_law(1e-3), most_running=2), backend)
    assert records.scheduled.tolist() == [0, 0, 3 * MS, 3 * MS]
    assert records.last_token.tolist() == [3 * MS, 3 * MS, 6 * MS, 6 * MS]
    assert totals.steps == 6


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_latest_admitted_is_preempted_and_prefills_again_what_it_had(backend) -> None:
    # Two requests of prompt 4 fill 8 of 10 tokens; each step of decodes adds two. In the third only one has room:
    # request 1, with 2 tokens out, goes, and comes back when request 0 is done, with a prefill of 4 + 2.
    requests = make_requests([0.0, 0.0], [4, 4], [5, 5])
    records, totals = simulate_replica(requests, replica(make_law(1e-3), capacity_tokens=10), backend)
    assert records.preemptions.tolist() == [0, 1]
    assert records.last_token[0] == 5 * MS
    assert records.scheduled.tolist() == [0, 0]
    assert records.first_token.tolist() == [1 * MS, 1 * MS]
    assert totals.prefill_tokens == 4 + 4 + 6
    # Readmitted in the sixth step, which emits its third token; two decodes follow.
    assert records.last_token[1] == 8 * MS
    assert totals.peak_blocks <= 10


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_can_never_fit_is_rejected_and_nobody_waits_for_it(backend) -> None:
    requests = make_requests([0.0, 0.0, 0.0], [4, 50, 4], [3, 10, 3])
    records, _ = simulate_replica(requests, replica(make_law(1e-3), capacity_tokens=58), backend)
    assert records.status.tolist() == [SERVED, REJECTED, SERVED]
    assert records.last_token[1] == -1
    assert records.last_token[2] == 3 * MS
    # One token more is enough: the last token of an answer is never stored.
    records, _ = simulate_replica(requests, replica(make_law(1e-3), capacity_tokens=59), backend)
    assert records.status.tolist() == [SERVED] * 3
    # Without chunks a prompt longer than the budget can never be prefilled; how long the answer is does not matter.
    whole = replica(make_law(1e-3), prefill="separate", token_budget=49, most_running=2)
    assert simulate_replica(requests, whole, backend)[0].status.tolist() == [SERVED, REJECTED, SERVED]
    whole = replica(make_law(1e-3), prefill="separate", token_budget=50, most_running=2)
    assert simulate_replica(requests, whole, backend)[0].status.tolist() == [SERVED] * 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_separate_prefill_that_has_outgrown_the_budget_has_a_step_of_its_own(backend) -> None:
    # Alone, a prompt of 60 is one step of at most 100 tokens, and 59 more tokens are 59 steps.
    alone = replica(make_law(1e-3), prefill="separate", token_budget=100)
    records, _ = simulate_replica(make_requests([0.0], [60], [60]), alone, backend)
    assert (records.status[0], records.first_token[0], records.last_token[0]) == (SERVED, 1 * MS, 60 * MS)
    # Budget 4, a prompt of 4 a step; in the third one both decode into 10 tokens, in the fourth request 1 is preempted.
    # It then needs 4 + 2 tokens, more than the budget: it waits for room until request 0 is done, then gets a step.
    tight = replica(make_law(1e-3), prefill="separate", token_budget=4, most_running=3, capacity_tokens=10)
    requests = make_requests([0.0, 0.0, 0.0055], [4, 4, 1], [5, 5, 1])
    records, totals = simulate_replica(requests, tight, backend)
    assert records.preemptions.tolist() == [0, 1, 0]
    assert records.first_token.tolist() == [1 * MS, 2 * MS, 8 * MS]
    assert records.last_token.tolist() == [6 * MS, 10 * MS, 8 * MS]
    assert totals.prefill_tokens == 4 + 4 + 6 + 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_blocks_are_taken_whole(backend) -> None:
    # 16 tokens of prompt fill a block; the second token of the answer needs another.
    requests = make_requests([0.0, 0.0], [16, 16], [2, 2])
    tight = replica(make_law(1e-3), capacity_tokens=48, block_tokens=16)
    records, totals = simulate_replica(requests, tight, backend)
    assert (records.preemptions.tolist(), totals.peak_blocks) == ([0, 1], 2)
    roomy = replica(make_law(1e-3), capacity_tokens=64, block_tokens=16)
    records, totals = simulate_replica(requests, roomy, backend)
    assert (records.preemptions.tolist(), totals.peak_blocks) == ([0, 0], 4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_idle_replica_sleeps_until_somebody_comes(backend) -> None:
    records, totals = simulate_replica(make_requests([1.0, 60.0], [2, 2], [2, 2]), replica(make_law(1e-3)), backend)
    assert records.scheduled.tolist() == [1000 * MS, 60_000 * MS]
    assert totals.busy == 4 * MS


def test_results_are_the_same_whatever_the_unit_of_work() -> None:
    # 10 identical requests at once are served in lockstep: everybody's times are those of one, under the larger load.
    law = make_law(1e-3, 1e-4)
    together, _ = simulate_replica(make_requests(np.zeros(10), [6] * 10, [7] * 10), replica(law, most_running=10))
    assert len(set(together.last_token.tolist())) == 1
    assert together.last_token[0] == 1 * MS + 6 * (1 * MS + 10 * MS // 10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_controller_may_see_the_prefills_between_two_tokens(backend) -> None:
    # Steps of 10 ms, many of them prefills, so that tokens of a running request often come 20 ms apart. A target of
    # 10.5 ms is met by every decode step, and the cap rises; gaps press it down.
    rng = np.random.default_rng(2)
    requests = make_requests(np.arange(200) * 0.02, np.ones(200), rng.integers(20, 60, 200))
    caps = {}
    for signal in STEP_SIGNALS:
        control = Control(
            1.0,
            8.0,
            sla_search("paper", signal, 0.0105, 2e-4, 2.0, 1.0),
            no_memory_bound(),
            smoothing(),
            np.ones(1),
            np.ones(1),
        )
        one = replica(make_law(0.01), prefill="separate", control=control)
        setup = Setup(one, make_fleet(), make_reporting(horizon_s=4.0, windows=1))
        job = Job(requests, np.zeros(200, np.int32), setup)
        found = simulate_many([job], Shape(1, 8, 1), backend)
        caps[signal] = float(found["window_batch_sla_bound_mean"][0, 0])
    assert caps["token_gap"] < caps["tbt"] - 2, caps


def test_signals_of_whole_batches_are_refused() -> None:
    control = Control(
        1.0, 8.0, sla_search("paper", "latency", 0.1, 0.0), no_memory_bound(), smoothing(), np.ones(1), np.ones(1)
    )
    with pytest.raises(ValueError, match=r"policy.sla.signal: must be one of tbt, token_gap"):
        replica(make_law(1e-3), control=control)


@pytest.mark.parametrize("backend", BACKENDS)
def test_whoever_is_admitted_finds_room_for_its_whole_prefill(backend) -> None:
    # Two requests of 6000 tokens in 10,000: the second waits until the first has left, at 10.65 s, or it comes in with
    # a chunk and is sent away again and again.
    requests = make_requests([0.0, 1.0], [6000, 6000], [1000, 10])
    law, room = make_law(0.01, 0.0, 0.0, 1e-4), {"token_budget": 1024, "capacity_tokens": 10_000, "block_tokens": 16}
    records, totals = simulate_replica(requests, replica(law, **room), backend)
    # Six steps of a prefill that costs 0.6 s, and 999 decodes.
    assert records.last_token[0] == (600 + 10 * (6 + 999)) * MS
    assert (records.scheduled[1], totals.preemptions) == (records.last_token[0], 0)
    chunk = replica(law, scheduler_reserve_full_isl=False, **room)
    records, totals = simulate_replica(requests, chunk, backend)
    assert (records.scheduled[1] < records.last_token[0], totals.preemptions) == (True, 247)


@pytest.mark.parametrize("backend", BACKENDS)
def test_long_prefills_are_limited_unless_alone(backend) -> None:
    def first_token(*prompts, **limits):
        requests = make_requests([0.0] * len(prompts), prompts, [1] * len(prompts))
        records, _ = simulate_replica(requests, replica(make_law(1e-3), token_budget=32, **limits), backend)
        return (records.first_token // MS).tolist()

    assert first_token(64) == first_token(64, long_prefill_token_threshold=4) == [2]
    # Eight steps of 4 tokens beside the other, which is done in the first; the rest is alone.
    assert first_token(64, 4, long_prefill_token_threshold=4) == [3, 1]
    assert first_token(64, 64) == [2, 4]
    assert first_token(64, 64, long_prefill_token_threshold=4) == [16, 16]
    # A fair share of the budget is 16.
    assert first_token(64, 64, long_prefill_token_threshold=4, long_prefill_token_threshold_adaptive=True) == [4, 4]


@pytest.mark.parametrize("backend", BACKENDS)
def test_fewer_may_be_active_than_the_static_cap_says(backend) -> None:
    requests = make_requests([0.0] * 4, [1] * 4, [3] * 4)
    few = replica(make_law(1e-3), most_running=4, max_num_active_seqs=2)
    assert simulate_replica(requests, few, backend)[0].scheduled.tolist() == [0, 0, 3 * MS, 3 * MS]


@pytest.mark.parametrize("backend", BACKENDS)
def test_answers_end_with_the_context_and_longer_prompts_are_refused(backend) -> None:
    requests = make_requests([0.0] * 3, [9, 10, 5], [50, 50, 50])
    records, totals = simulate_replica(requests, replica(make_law(1e-3), max_model_len=10), backend)
    assert records.status.tolist() == [SERVED, REJECTED, SERVED]
    assert records.last_token.tolist() == [1 * MS, -1, 5 * MS]
    assert totals.decode_tokens + totals.prefills == 1 + 5


def test_blocks_are_counted_in_tokens_or_as_by_vllm() -> None:
    sizes = {"most_running": 8, "token_budget": 64, "block_tokens": 16}
    assert make_replica(make_law(1e-3), num_gpu_blocks=11, **sizes).blocks == 10
    assert make_replica(make_law(1e-3), capacity_tokens=175, **sizes).blocks == 10
    for wrong in ({}, {"capacity_tokens": 160, "num_gpu_blocks": 11}):
        with pytest.raises(ValueError, match=r"give capacity_tokens or num_gpu_blocks, one of them"):
            make_replica(make_law(1e-3), **sizes, **wrong)
    with pytest.raises(ValueError, match=r"num_gpu_blocks = 1: must be in 2\.\.\d+: one is never used"):
        make_replica(make_law(1e-3), num_gpu_blocks=1, **sizes)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"long_prefill_token_threshold": 8, "prefill": "separate"}, 'needs prefill = "chunked"'),
        ({"long_prefill_token_threshold_adaptive": True}, "needs a long_prefill_token_threshold"),
        ({"max_num_active_seqs": 9}, "max_num_active_seqs = 9: must be in 1..most_running = 8"),
        ({"max_model_len": 1}, "max_model_len = 1: must be in 2.."),
    ],
)
def test_limits_that_do_not_go_together_are_refused(wrong, said) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        replica(make_law(1e-3), **wrong)
