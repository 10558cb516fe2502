"""What continuous batching costs: leaps against every step in the same kernel, an obvious loop, and SimPy, in one run.

    pip install -e '.[bench]'
    python benchmarks/continuous.py               # a minute or two
    python benchmarks/continuous.py --quick

Requests have the lengths of the Azure conversation trace of 2023 (lognormal, mean prompt 1155, mean output 211). The
decode line of the step law is that of a Llama-3.1-8B on one H100 (ML.ENERGY), its other terms are assumed: 40 ns a KV
token, 30 us a prefill token, 1 ns for attention. Both sides are timed in turn, in processor time, and the ratio is the
median over the repetitions with the middle half of them; where a peer computes the same, the line says how far the mean
latencies are apart.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from batchcube.engine import simulate_many, simulate_records
from batchcube.engine.continuous import (
    Content,
    Job,
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
from batchcube.engine.continuous.model import ANYBODY, NOBODY
from batchcube.engine.continuous.numba.fleet import run_fleet
from batchcube.engine.continuous.run import new_records, way_of
from batchcube.engine.continuous.ticks import TICKS_PER_S
from batchcube.engine.statistics import CONTINUOUS
from batchcube.engine.tally import new_tally, row_of
from batchcube.engine.ticks import LARGEST_REQUEST
from measure import interleave, number, ratio
from peers import every_step, simpy_steps

RULES: dict[str, dict[str, Any]] = {
    "scheduler_reserve_full_isl = false": {"scheduler_reserve_full_isl": False},
    "long_prefill_token_threshold": {"long_prefill_token_threshold": 512},
    "long_prefill_token_threshold_adaptive": {
        "long_prefill_token_threshold": 512,
        "long_prefill_token_threshold_adaptive": True,
    },
    "max_num_active_seqs": {"max_num_active_seqs": 64},
    "max_model_len": {"max_model_len": 4096},
    "scheduling_policy": {"scheduling_policy": "priority"},
    "async_scheduling": {"async_scheduling": True},
}
"""What asks for each rule of vLLM's scheduler that does not hold by default, and for the default one not to hold."""
LAW = make_law(0.0062, 0.00008, 4e-8, 3e-5, 1e-9)


def draw(count: int, rate_per_s: float) -> Requests:
    """Draw requests like those of the Azure conversation trace, each of one of three priorities."""
    rng = np.random.default_rng(1)
    arrival = np.cumsum(rng.exponential(1 / rate_per_s, count))
    prompt, output = rng.lognormal(6.72, 0.81, count), rng.lognormal(5.12, 0.68, count)
    prompt, output = np.maximum(np.rint(prompt), 1), np.maximum(np.rint(output), 1)
    return make_requests(arrival, prompt, output, priority=rng.integers(3, size=count))


def draw_sessions(count: int, rate_per_s: float) -> Requests:
    """Draw sessions of five turns, half a minute apart, whose prompts grow by the turns before."""
    rng = np.random.default_rng(1)
    sessions, turns = count // 5, 5
    begin = np.cumsum(rng.exponential(turns / rate_per_s, sessions))
    arrival = begin[:, None] + np.cumsum(rng.exponential(30.0, (sessions, turns)), axis=1)
    new = np.maximum(np.rint(rng.lognormal(5.0, 0.8, (sessions, turns))), 1).astype(np.int64)
    output = np.maximum(np.rint(rng.lognormal(5.12, 0.68, (sessions, turns))), 1).astype(np.int64)
    prompt = np.cumsum(new, axis=1) + np.cumsum(output, axis=1) - output
    order = np.argsort(arrival.ravel(), kind="stable")
    prompt, output = prompt.ravel()[order], output.ravel()[order]
    # A session is one text that grows: a request is its beginning.
    session = np.repeat(np.arange(sessions), turns)[order]
    content = Content(session, np.arange(sessions * turns + 1), prompt + output, LARGEST_REQUEST)
    return make_requests(arrival.ravel()[order], prompt, output, content=content)


def job_of(requests: Requests, replica: Replica) -> Job:
    """Return what the engine is given: one replica, 50 windows over the arrivals."""
    reporting = make_reporting(horizon_s=float(requests.arrival[-1]) / TICKS_PER_S)
    return Job(requests, np.zeros(len(requests.arrival), np.int32), Setup(replica, make_fleet(), reporting))


def closed(requests: Requests, users: int, replicas: int) -> Job:
    """Return the same requests as users send them who wait for their answers, half a second each between two."""
    count = len(requests.arrival)
    whom = np.where(np.arange(count) < users, NOBODY, ANYBODY)
    waiting = follow(requests._replace(arrival=np.zeros(count, np.int64)), whom, np.full(count, 0.5))
    replica = make_replica(LAW, most_running=256, token_budget=2048, capacity_tokens=400_000)
    setup = Setup(replica, make_fleet(replicas=replicas), make_reporting(horizon_s=count / 8.0))
    return Job(waiting, np.zeros(count, np.int32), setup)


def simulate(job: Job, *, leaps: bool) -> Records:
    """Run the kernel, with leaps or step by step."""
    records, tally = new_records(job), row_of(new_tally(CONTINUOUS, 1, job.shape), 0)
    run_fleet(job, records, tally, *way_of(job, records), leaps=leaps)
    return records


def mean_latency(requests: Requests, records: Records) -> float:
    """Return the mean end-to-end latency in seconds."""
    return float(np.mean(records.last_token - requests.arrival)) / TICKS_PER_S


def against(name: str, requests: Requests, replica: Replica, peer: Callable[[], float], repetitions: int) -> None:
    """Time ours against a peer that returns the mean latency, and print a line."""
    job = job_of(requests, replica)
    ours, theirs = interleave(lambda _: simulate(job, leaps=True), lambda _: peer(), repetitions=repetitions)
    apart = peer() / mean_latency(requests, simulate(job, leaps=True)) - 1
    count = len(requests.arrival)
    each = 1e9 * float(np.median(ours.processor)) / count
    said = ratio(theirs.processor, ours.processor)
    print(f"{name}: ours {number(each)} ns/request, {said} times as fast; mean latency apart {100 * apart:.2g} %")


def reported(job: Job) -> Callable[[int], object]:
    """Return what simulates a job, with its report."""
    return lambda _: simulate_many([job], job.shape)


def rules(count: int, rate_per_s: float, repetitions: int) -> None:
    """Print a line for each rule of vLLM's scheduler: its time against that of the rules that hold by default."""
    requests = draw(count, rate_per_s)
    limits: dict[str, Any] = {"most_running": 256, "token_budget": 2048, "capacity_tokens": 100_000}
    default = job_of(requests, make_replica(LAW, **limits))
    for name, asked in RULES.items():
        job = job_of(requests, make_replica(LAW, **limits, **asked))
        ours, theirs = interleave(reported(job), reported(default), repetitions=repetitions)
        each = 1e9 * float(np.median(ours.processor)) / count
        said = ratio(ours.processor, theirs.processor)
        what = f"{name}, {rate_per_s:g} requests/s, 100,000 tokens of KV cache, with its report"
        print(f"{what}: {number(each)} ns/request, {said} times as long as by default")


def main() -> None:
    """Print every line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer requests and repetitions")
    quick = parser.parse_args().quick
    count, repetitions = (20_000, 3) if quick else (200_000, 7)
    for rate, cap in ((2.0, 256), (8.0, 256), (20.0, 256)):
        requests = draw(count, rate)
        replica = make_replica(LAW, most_running=cap, token_budget=2048, capacity_tokens=2**30)

        def stepped(requests: Requests = requests, replica: Replica = replica) -> float:
            return mean_latency(requests, simulate(job_of(requests, replica), leaps=False))

        def obvious(requests: Requests = requests, replica: Replica = replica) -> float:
            return every_step.mean_latency_s(requests, replica)

        against(f"every step in the same kernel, {rate:g} requests/s", requests, replica, stepped, repetitions)
        against(f"the obvious loop, {rate:g} requests/s", requests, replica, obvious, repetitions)
        few = draw(300 if quick else 1000, rate)

        def plain(few: Requests = few, replica: Replica = replica) -> float:
            job = job_of(few, replica)
            return mean_latency(few, simulate_records([job], job.shape, "reference")[1][0])

        against(f"every step in plain Python, {rate:g} requests/s, {len(few.arrival)} requests", few, replica, plain, 3)

        def simpy(few: Requests = few, replica: Replica = replica) -> float:
            return simpy_steps.mean_latency_s(few, replica)

        against(f"SimPy, {rate:g} requests/s, {len(few.arrival)} requests", few, replica, simpy, 3)
    for replicas in (1, 4):
        loop = closed(draw(count, 8.0), 64 * replicas, replicas)
        (seconds,) = interleave(reported(loop), repetitions=repetitions)
        each = 1e9 * float(np.median(seconds.processor)) / count
        print(f"closed loop, {64 * replicas} users, {replicas} replicas, with its report: {number(each)} ns/request")
    million = draw(10**5 if quick else 10**6, 8.0)
    replica = make_replica(LAW, most_running=256, token_budget=2048, capacity_tokens=400_000)
    whole = job_of(million, replica)
    (seconds,) = interleave(lambda _: simulate_many([whole], whole.shape), repetitions=3)
    took = float(np.median(seconds.processor))
    print(f"{len(million.arrival):,} requests at 8/s, 400,000 tokens of KV cache, with its report: {number(took)} s")
    for rate in (8.0, 20.0):
        rules(count, rate, repetitions)
    talks = draw_sessions(10**5 if quick else 10**6, 8.0)
    uncached, cached = (
        job_of(
            talks,
            make_replica(
                LAW, most_running=256, token_budget=2048, capacity_tokens=400_000, enable_prefix_caching=caching
            ),
        )
        for caching in (False, True)
    )
    off, on = interleave(
        lambda _: simulate_many([uncached], uncached.shape),
        lambda _: simulate_many([cached], cached.shape),
        repetitions=3,
    )
    without, took = (float(np.median(seconds.processor)) for seconds in (off, on))
    blocks = int((-(-(talks.prompt + talks.output) // 16)).sum())
    hits = simulate_many([cached], cached.shape)["prefix_cache_hit_fraction"][0]
    count = len(talks.arrival)
    print(
        f"{count:,} requests of sessions at 8/s, {blocks:,} blocks, prefix caching, {100 * hits:.3g} % hits: "
        f"{number(took)} s; without {number(without)} s; {number(1e9 * (took - without) / blocks)} ns a block more"
    )


if __name__ == "__main__":
    main()
