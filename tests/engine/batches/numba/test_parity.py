"""The compiled kernels against the executed specification: the same records and the same tally, exactly."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchcube.engine import INFINITE, Job, simulate, simulate_many
from batchcube.engine.batches.reference import simulate_reference
from batchcube.engine.policies.estimates import WINDOW
from batchcube.engine.policies.memory import RULES, UNLIMITED, memory_bound
from batchcube.engine.policies.order import CHOICES, NAMED
from batchcube.engine.policies.service import formula
from batchcube.engine.policies.sla import BATCH_SIGNALS, SIGNALS, VARIANTS, sla_search
from batchcube.engine.report import named
from batchcube.engine.statistics import BATCHES, TOTALS
from batchcube.engine.ticks import NEVER
from helpers.batches import differences, make_control, make_job, random_job, run, shape_of

CASES, PARTS = 3000, 10


@pytest.mark.parametrize("part", range(PARTS))
def test_random_cases_agree_request_by_request(part):
    for seed in range(part, CASES, PARTS):
        job = random_job(np.random.default_rng(seed))
        assert differences(job) == [], f"seed {seed}: {job.setup.policy}"


@settings(max_examples=100, deadline=None)
@given(st.integers(min_value=CASES, max_value=2**63))
def test_unseen_cases_agree_request_by_request(seed):
    assert differences(random_job(np.random.default_rng(seed))) == []


def features(job: Job) -> set[str]:
    """Name the options a case uses and the branches it takes, seen in what it leaves behind."""
    trace, bins, setup = job
    policy, service, control, reporting = setup
    tally, records = run(job)
    _, batches = simulate_reference(*job)
    totals = named(BATCHES, TOTALS, tally.totals[0])
    servers = "infinite" if policy.servers == INFINITE else policy.servers
    found = {
        f"static {policy.static}",
        f"servers {servers}",
        f"own completion {policy.own_completion}",
        f"bins {len(bins.start) - 1}",
        f"lengths are times {service.timed}",
        f"pieces {len(service.knots)}",
        f"warmup {reporting.warmup > 0}",
        f"request sla {reporting.request_sla < NEVER}",
        f"token sla {np.isfinite(reporting.token_sla)}",
        f"windows {reporting.windows}",
    }
    seen = {
        "ties": np.diff(trace.arrival).min(initial=1) == 0,
        "untied": np.diff(trace.arrival).min(initial=NEVER) > 0,
        "an empty bin": np.diff(bins.start).min() == 0,
        "overflow": totals["overflows"] > 0,
        "extrapolation": 0 < totals["extrapolated"] < totals["batches"],
        "late requests": totals["late_requests"] > 0,
        "late tokens": totals["late_tokens"] > 0,
        "warm-up inside a batch": any(min(b.members) < reporting.warmup <= max(b.members) for b in batches),
        "nothing measured": totals["measured"] == 0,
        "beyond the windows": (records.completion // reporting.window >= reporting.windows).any(),
        "inside the windows": (records.completion // reporting.window < reporting.windows).all(),
        "a completion at an arrival": bool(np.isin(records.completion, trace.arrival).any()),
        "completions together": len({b.completion for b in batches}) < len(batches),
        "a batch waits": any(b.start > b.formed for b in batches),
        "moments differ from output": not np.array_equal(trace.length, trace.output),
    }
    if policy.static:
        full = all(len(b.members) == policy.batch_size for b in batches)
        early = [b for b in batches if len(b.members) < policy.batch_size and b.formed < trace.arrival[-1]]
        seen |= {
            "shortest first": policy.ranked,
            "first formed": not policy.ranked,
            "overtaking": any(a.formed > b.formed for a, b in pairwise(batches)),
            "max_wait forms": bool(early),
            "max_wait zero": policy.max_wait == 0,
            "max_wait after the last arrival": any(b.formed > trace.arrival[-1] for b in batches),
            "flush": not policy.drop_tail and not full,
            "drop leaves unserved": policy.drop_tail and totals["unserved"] > 0,
        }
    else:
        decisions = [b.decision for b in batches if b.decision is not None]
        sla, memory, smoothing = control.sla, control.memory, control.smoothing
        found |= {f"choice {NAMED[policy.bin_choice.which]}", f"per bin {policy.per_bin}"}
        seen |= {
            "target moves": len({d.batch for d in decisions}) > 1,
            "target binds": any(len(b.members) == b.decision.batch < policy.batch_size for b in batches),
            "target does not bind": any(len(b.members) < b.decision.batch for b in batches),
        }
        if sla.enabled:
            found |= {f"sla {VARIANTS[sla.variant]} {SIGNALS[sla.signal]}"}
            seen["sla bound moves"] = len({d.sla_bound for d in decisions}) > 1
        if memory.enabled:
            found |= {f"memory {RULES[memory.rule]}"}
            seen[f"memory {RULES[memory.rule]} moves"] = len({d.memory_bound for d in decisions}) > 1
        if sla.enabled and memory.enabled:
            seen["memory below sla"] = any(d.memory_bound < d.sla_bound for d in decisions)
            seen["sla below memory"] = any(d.sla_bound < d.memory_bound for d in decisions)
        if sla.enabled or memory.enabled:
            found |= {f"smoothing {smoothing.kind}", f"observations {smoothing.observations}"}
            seen["window full"] = smoothing.kind == WINDOW and len(batches) > smoothing.observations > 1
        seen["capacity without a bound"] = not memory.enabled and memory.capacity < UNLIMITED
    return found | {name for name, is_seen in seen.items() if is_seen}


EXPECTED = (
    {f"{name} {value}" for name in ("static", "own completion", "lengths are times") for value in (True, False)}
    | {f"{name} {value}" for name in ("request sla", "token sla", "per bin", "warmup") for value in (True, False)}
    | {f"servers {c}" for c in (1, 2, 3, "infinite")}
    | {f"bins {k}" for k in (1, 2, 3, 4)}
    | {"pieces 1", "pieces 5", "windows 1", "windows 7"}
    | {f"choice {choice}" for choice in CHOICES}
    | {"smoothing 0", "smoothing 1"}
    | {f"observations {n}" for n in (1, 2, 5)}
    | {f"sla {variant} {signal}" for variant in VARIANTS for signal in BATCH_SIGNALS}
    | {f"memory {rule}" for rule in RULES}
    | {f"memory {rule} moves" for rule in RULES}
    | {"ties", "untied", "an empty bin", "overflow", "extrapolation", "late requests", "late tokens"}
    | {"warm-up inside a batch", "nothing measured", "beyond the windows", "inside the windows"}
    | {"a completion at an arrival", "completions together", "a batch waits", "moments differ from output"}
    | {"shortest first", "first formed", "overtaking", "max_wait forms", "max_wait zero"}
    | {"max_wait after the last arrival", "flush", "drop leaves unserved"}
    | {"target moves", "target binds", "target does not bind", "sla bound moves", "memory below sla"}
    | {"sla below memory", "window full", "capacity without a bound"}
)


def test_random_cases_reach_every_option_and_branch():
    counts = dict.fromkeys(EXPECTED, 0)
    for seed in range(450):
        for feature in features(random_job(np.random.default_rng(seed))):
            counts[feature] = counts.get(feature, 0) + 1
    assert set(counts) == EXPECTED
    assert {feature for feature, count in counts.items() if count < 3} == set()


def test_arrivals_further_apart_than_32_bits_of_ticks_agree():
    rng = np.random.default_rng(1)
    arrival = np.cumsum(rng.choice([0.0, 1.0, 100.0, 60_000.0], 200, p=[0.4, 0.3, 0.2, 0.1]))
    for mode in ("multi_bin_only", "multi_bin_dynamic"):
        job = make_job(
            arrival,
            rng.uniform(0.1, 40_000.0, 200),
            mode=mode,
            batch_size=8,
            bins=3,
            bin_of=rng.integers(0, 3, 200),
            horizon_s=arrival[-1],
            windows=20,
            request_sla_s=5000.0,
        )
        records = simulate(job).records
        spread = [np.ptp(job.trace.arrival[records.batch == number]) for number in np.unique(records.batch)]
        assert max(spread) > 2**32 > min(spread)
        assert differences(job) == []


def test_capacities_beyond_any_batch_agree():
    for capacity in (1e9, 1e12, UNLIMITED):
        job = make_job(
            np.arange(40) * 0.01,
            output=np.full(40, 1_000_000),
            prompt=np.full(40, 1_000_000),
            mode="dynamic_only",
            batch_size=8,
            law=formula(0.1, 1e-6, largest_batch=8),
            control=make_control(1, 8, memory=memory_bound("exact", capacity), mean=2e6, variance=1e9),
        )
        assert differences(job) == []
        assert simulate(job).report["window_batch_memory_bound_mean"][0] == 8


def test_vast_signals_agree():
    # Sums of smoothed signals would leave int64 were they kept in one word: 12.7 days in 1/1024 tick, 10000 times.
    job = make_job(
        np.zeros(9000),
        np.full(9000, 2000.0),
        mode="dynamic_only",
        control=make_control(1, 1, sla=sla_search("paper", "latency", 1.0, 0.0)),
        horizon_s=3e7,
    )
    assert differences(job) == []
    mean = simulate(job).report["window_signal_mean_s"][0]
    assert 5e5 < mean <= 2**40 / 1e6


def test_a_block_of_replications_equals_each_alone():
    jobs = [random_job(np.random.default_rng(seed)) for seed in range(5000, 5040)]
    shapes = [shape_of(job) for job in jobs]
    windows = shapes[0].windows
    jobs = [job for job, shape in zip(jobs, shapes, strict=True) if shape.windows == windows]
    common = shapes[0]._replace(bins=6, largest_batch=12)
    reports = {backend: simulate_many(jobs, common, backend) for backend in ("numba", "reference")}
    for name, block in reports["numba"].items():
        np.testing.assert_array_equal(block, reports["reference"][name], err_msg=name)
        for k, job in enumerate(jobs):
            alone = np.atleast_1d(simulate(job).report[name])
            held = np.atleast_1d(block[k])
            np.testing.assert_array_equal(held[: len(alone)], alone, err_msg=name)
            assert not np.nan_to_num(held[len(alone) :]).any()  # other bins and sizes stay empty


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match=r"`backend` gpu: must be one of numba, jax, reference"):
        simulate(make_job([0.0], [1.0]), backend="gpu")
