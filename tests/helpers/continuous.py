"""Random replicas and requests: small enough to be served step by step, tight enough that everything happens."""

import numpy as np

from batchcube.engine import simulate_records
from batchcube.engine.continuous import (
    ADMISSIONS,
    ROUTINGS,
    SCHEDULING_POLICIES,
    DecodeTable,
    Job,
    Law,
    PrefillTable,
    Records,
    Replica,
    Requests,
    Setup,
    follow,
    make_fleet,
    make_law,
    make_replica,
    make_reporting,
    make_requests,
)
from batchcube.engine.continuous.model import ANYBODY, NOBODY, no_content
from batchcube.engine.continuous.ticks import TICKS_PER_S
from batchcube.engine.moments import exact_sums
from batchcube.engine.policies.estimates import smoothing
from batchcube.engine.policies.memory import memory_bound, no_memory_bound
from batchcube.engine.policies.order import CHOICES
from batchcube.engine.policies.sla import STEP_SIGNALS, no_sla, sla_search
from batchcube.engine.policies.target import Control
from batchcube.engine.simulation import Reporting
from batchcube.engine.tally import Tally, row_of
from batchcube.engine.ticks import NEVER

from .content import content_of, draw_tokens


def simulate_job(job: Job, backend: str = "numba") -> tuple[Records, Tally]:
    """Return what became of each request, and the tally."""
    tally, (records,) = simulate_records([job], job.shape, backend)
    return records, row_of(tally, 0)


def assert_alike(one: tuple[Records, Tally], other: tuple[Records, Tally]) -> None:
    """Assert that two simulations gave the same, to the tick and the last count."""
    for kind, twin in zip(one, other, strict=True):
        for name, a, b in zip(kind._fields, kind, twin, strict=True):
            if name == "moments":
                # Sums are kept in limbs, and not carried alike.
                assert list(map(exact_sums, a)) == list(map(exact_sums, b))
            else:
                np.testing.assert_array_equal(a, b, err_msg=name)


def draw_law(rng: np.random.Generator) -> Law:
    """Draw a step law of any of the terms, straight or bent at a few requests, tokens or both."""
    straight = {
        "c0_s": 1e-3 * int(rng.integers(1, 5)),
        "c1_s_per_request": float(rng.choice([0.0, 1e-4, 3e-3])),
        "c2_s_per_kv_token": float(rng.choice([0.0, 1e-5, 3e-4])),
    }
    tokens = {"c3_s_per_prefill_token": float(rng.choice([0.0, 1e-4]))}
    others = {
        "c4_s_per_prefill_attention": float(rng.choice([0.0, 1e-6])),
        "c5_s_per_prefill_step": float(rng.choice([0.0, 2e-3])),
    }
    decode = prefill = None
    if rng.integers(2):
        nodes = int(rng.integers(2, 5))
        requests = [0, *sorted(rng.choice(np.arange(1, 16), nodes - 1, replace=False).tolist())]
        s = np.cumsum(rng.choice([0.0, 1e-3, 0.7e-3, 1 / 3000], nodes))
        decode = DecodeTable(requests, (s + 1e-3).tolist(), rng.choice([0.0, 1e-5, 1e-5 / 3, 2e-4], nodes).tolist())
        straight = {}
    if rng.integers(2):
        nodes = int(rng.integers(2, 5))
        at = [0, *sorted(rng.choice(np.arange(1, 60), nodes - 1, replace=False).tolist())]
        s = np.cumsum([0.0, *rng.choice([0.0, 1e-3, 1 / 3000], nodes - 1)])
        prefill, tokens = PrefillTable(at, s.tolist()), {}
    return make_law(**straight, **tokens, **others, decode=decode, prefill=prefill)


def draw_case(rng: np.random.Generator) -> tuple[Requests, Replica]:
    """Draw requests and a replica: ties, bursts, tight memory, small budgets, any law."""
    count = int(rng.integers(1, 40))
    gap = float(rng.choice([0.0, 0.001, 0.01, 0.1]))
    arrival = np.cumsum(rng.exponential(gap, count)) if gap else np.zeros(count)
    # Rounded, so that requests arrive together and at the very end of a step.
    arrival = np.round(arrival, int(rng.integers(2, 6)))
    longest_prompt, longest_output = int(rng.choice([3, 20, 40])), int(rng.choice([2, 12, 50]))
    prompt, output = rng.integers(1, longest_prompt, count), rng.integers(1, longest_output, count)
    law = draw_law(rng)
    most = int(rng.integers(1, 12))
    size = int(rng.choice([1, 2, 4, 16]))
    prior = np.array([float(prompt.mean() + output.mean())])
    control = Control(
        smallest=float(rng.integers(1, most + 1)),
        largest=float(most),
        sla=sla_search(
            str(rng.choice(["paper", "heuristic"])),
            str(rng.choice(STEP_SIGNALS)),
            float(rng.choice([1e-3, 3e-3, 8e-3])),
            2e-4,
            float(rng.integers(1, 6)),
            float(rng.integers(0, 3)),
        )
        if rng.integers(2)
        else no_sla(),
        memory=memory_bound(
            str(rng.choice(["exact", "buffer", "margin", "literal"])), float(rng.choice([40, 150, 400])), 0.05, 10.0
        )
        if rng.integers(2)
        else no_memory_bound(),
        smoothing=smoothing(
            str(rng.choice(["ema", "window"])), float(rng.choice([0.1, 0.5, 1.0])), int(rng.integers(1, 9))
        ),
        prior_tokens=prior,
        prior_squares=1.2 * prior**2,
    )
    prefill = str(rng.choice(["chunked", "separate"]))
    threshold = int(rng.choice([0, 1, 2, 5, 13])) if prefill == "chunked" else 0
    known = rng.integers(2)
    content = content_of(draw_tokens(rng, prompt, output), prompt + known * output, size)
    replica = make_replica(
        law,
        most_running=most,
        token_budget=int(rng.integers(most, most + 60)),
        capacity_tokens=max(int(rng.choice([60, 100, 150, 300, 1000])), size),
        block_tokens=size,
        prefill=prefill,
        scheduler_reserve_full_isl=bool(rng.integers(2)),
        long_prefill_token_threshold=threshold,
        long_prefill_token_threshold_adaptive=threshold > 0 and bool(rng.integers(2)),
        max_num_active_seqs=int(rng.integers(1, most + 1)) if rng.integers(4) == 0 else None,
        max_model_len=int(rng.integers(2, 80)) if rng.integers(4) == 0 else None,
        scheduling_policy=str(rng.choice(SCHEDULING_POLICIES)) if prefill == "chunked" else "fcfs",
        async_scheduling=prefill == "chunked" and bool(rng.integers(2)),
        enable_prefix_caching=prefill == "chunked" and bool(rng.integers(2)),
        control=control if rng.integers(3) else None,
    )
    return make_requests(arrival, prompt, output, priority=rng.integers(-1, 2, count), content=content), replica


def draw_job(rng: np.random.Generator) -> Job:
    """Draw a whole job: requests and a replica as in `draw_case`, a fleet with bins, and a report with limits."""
    requests, replica = draw_case(rng)
    count, replicas = len(requests.arrival), int(rng.choice([1, 1, 2, 3]))
    bins = int(rng.integers(replicas, replicas + 4))
    fleet = make_fleet(
        replicas=replicas,
        routing=str(rng.choice(ROUTINGS)),
        bins=bins,
        admission="fifo" if replica.by_priority else str(rng.choice(ADMISSIONS)),
        bin_choice=str(rng.choice(CHOICES)),
    )
    reporting = make_reporting(
        horizon_s=float(rng.choice([0.003, 0.05, 1.0, 10.0])),
        windows=int(rng.integers(1, 9)),
        warmup_requests=int(rng.integers(0, count + 1)),
        request_sla_s=float(rng.choice([0.01, 0.1])) if rng.integers(2) else None,
        token_sla_s=float(rng.choice([0.002, 0.005])) if rng.integers(2) else None,
    )
    # Longer requests in later bins, with some mistakes.
    order = np.argsort(np.argsort(requests.output + rng.normal(0, 5, count)))
    bin_of = (order * bins // count).astype(np.int32)
    return Job(requests, bin_of, Setup(replica, fleet, reporting))


def draw_large(rng: np.random.Generator) -> Job:
    """Draw a job whose times, or whose numbers of tokens, are near the largest that are allowed."""
    count, most = int(rng.integers(1, 7)), int(rng.integers(1, 7))
    output = rng.integers(1, int(rng.choice([10, 300, 1500])), count)
    prompt = rng.integers(1, int(rng.choice([2, 1000, 100_000])), count)
    longest = int((output + prompt).max())
    step = max(int(2**60 // longest // most // 8 * rng.choice([1.0, 0.5, 1e-3, 1e-6])), 10**6)
    terms = (
        step,
        int(rng.choice([0, step])),
        int(rng.choice([0, step // (most * longest), 1])),
        int(rng.choice([0, step // (most * longest)])),
        int(rng.choice([0, step // (most * longest * longest)])),
    )
    law = make_law(*(ticks / TICKS_PER_S for ticks in terms))
    size, prior = int(rng.choice([1, 16, 1000])), np.array([float(longest)])
    sla = sla_search("paper", str(rng.choice(STEP_SIGNALS)), step / TICKS_PER_S, 0.0, 2.0, 1.0)
    memory = memory_bound("exact", 3.0 * longest, 0.05)
    control = Control(
        smallest=1.0,
        largest=float(most),
        sla=sla if rng.integers(2) else no_sla(),
        memory=memory if rng.integers(2) else no_memory_bound(),
        smoothing=smoothing(str(rng.choice(["ema", "window"])), 0.2, 3),
        prior_tokens=prior,
        prior_squares=1.2 * prior**2,
    )
    replica = make_replica(
        law,
        most_running=most,
        token_budget=most + int(rng.choice([10, 1000, 10**6])),
        capacity_tokens=max(size, int(longest * rng.choice([1.1, 2.0, 10.0]))),
        block_tokens=size,
        prefill=str(rng.choice(["chunked", "separate"])),
        control=control if rng.integers(2) else None,
    )
    reporting = Reporting(
        warmup=int(rng.integers(0, count + 1)),
        request_sla=int(rng.choice([NEVER, 10 * step])),
        ttft_sla=NEVER,
        tpot_sla=NEVER,
        token_sla=int(rng.choice([NEVER, step, 2 * step])),
        window=int(rng.choice([1, step, 2**57])),
        windows=int(rng.choice([1, 7])),
    )
    arrival = np.sort(rng.integers(0, int(rng.choice([1, 2**40, 2**57])), count))
    requests = Requests(
        arrival,
        prompt.astype(np.int64),
        output.astype(np.int64),
        output.astype(np.float64),
        rng.integers(-2, 3, count),
        no_content(count),
    )
    return Job(requests, np.zeros(count, np.int32), Setup(replica, make_fleet(), reporting))


def draw_following(rng: np.random.Generator) -> Job:
    """Draw a job as in `draw_job` with requests that come when others end: a closed loop, sessions, or anyhow."""
    job = draw_job(rng)
    count = len(job.requests.arrival)
    number = np.arange(count)
    match str(rng.choice(["closed", "sessions", "anyhow"])):
        case "closed":
            whom = np.where(number < rng.integers(1, count + 1), NOBODY, ANYBODY)
        case "sessions":
            turns = rng.geometric(1 / int(rng.integers(1, 6)), count)
            starts = np.isin(number, np.concatenate([[0], np.cumsum(turns)]))
            whom = np.where(starts, NOBODY, number - 1)
            if rng.integers(2):
                users = np.cumsum(starts) <= rng.integers(1, 6)
                whom = np.where(starts & ~users, ANYBODY, whom)
        case _:
            whom = np.array([rng.choice([NOBODY, ANYBODY, rng.integers(0, max(i, 1))]) for i in number])
    whom[0] = NOBODY
    delay = np.round(rng.exponential(float(rng.choice([1e-3, 1e-2, 0.2])), count), int(rng.integers(2, 6)))
    return job._replace(requests=follow(job.requests, whom, delay * rng.integers(2)))
