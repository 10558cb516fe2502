"""What continuous batching costs: leaps against every step in the same kernel, and against SimPy, in one run.

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

import numpy as np

from batchcube.engine.continuous import Replica, Requests, make_law, make_replica, make_requests
from batchcube.engine.continuous.compiled import make_space, run_steps
from batchcube.engine.continuous.model import REJECTED, SERVED, TICKS_PER_S, Records, never_fits
from measure import interleave, number, ratio
from peers.simpy_steps import mean_latency_s

LAW = make_law(0.0062, 0.00008, 4e-8, 3e-5, 1e-9)


def draw(count: int, rate_per_s: float) -> Requests:
    """Draw requests like those of the Azure conversation trace."""
    rng = np.random.default_rng(1)
    arrival = np.cumsum(rng.exponential(1 / rate_per_s, count))
    prompt, output = rng.lognormal(6.72, 0.81, count), rng.lognormal(5.12, 0.68, count)
    return make_requests(arrival, np.maximum(np.rint(prompt), 1), np.maximum(np.rint(output), 1))


def simulate(requests: Requests, replica: Replica, *, leaps: bool) -> Records:
    """Run the kernel, with leaps or step by step."""
    records = Records(*(np.full(len(requests.arrival), -1, np.int64) for _ in Records._fields))
    records.preemptions[:] = 0
    records.status[:] = np.where(never_fits(requests, replica), REJECTED, SERVED)
    space = make_space(requests, replica)
    run_steps(requests, replica, records, space if leaps else space._replace(steady=False))
    return records


def mean_latency(requests: Requests, records: Records) -> float:
    """Return the mean end-to-end latency in seconds."""
    return float(np.mean(records.last_token - requests.arrival)) / TICKS_PER_S


def against(name: str, requests: Requests, replica: Replica, peer: Callable[[], float], repetitions: int) -> None:
    """Time ours against a peer that returns the mean latency, and print a line."""
    ours, theirs = interleave(
        lambda _: simulate(requests, replica, leaps=True), lambda _: peer(), repetitions=repetitions
    )
    apart = peer() / mean_latency(requests, simulate(requests, replica, leaps=True)) - 1
    count = len(requests.arrival)
    each = 1e9 * float(np.median(ours.processor)) / count
    said = ratio(theirs.processor, ours.processor)
    print(f"{name}: ours {number(each)} ns/request, {said} times as fast; mean latency apart {100 * apart:.2g} %")


def main() -> None:
    """Print every line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer requests and repetitions")
    quick = parser.parse_args().quick
    count, repetitions = (20_000, 3) if quick else (200_000, 7)
    for rate, cap in ((2.0, 256), (8.0, 256), (20.0, 256)):
        requests = draw(count, rate)
        replica = make_replica(LAW, most_running=cap, token_budget=2048, capacity_tokens=2**30)

        def every_step(requests: Requests = requests, replica: Replica = replica) -> float:
            return mean_latency(requests, simulate(requests, replica, leaps=False))

        against(f"every step, {rate:g} requests/s", requests, replica, every_step, repetitions)
        few = draw(300 if quick else 1000, rate)

        def simpy(few: Requests = few, replica: Replica = replica) -> float:
            return mean_latency_s(few, replica)

        against(f"SimPy, {rate:g} requests/s, {len(few.arrival)} requests", few, replica, simpy, 3)
    million = draw(10**5 if quick else 10**6, 8.0)
    replica = make_replica(LAW, most_running=256, token_budget=2048, capacity_tokens=400_000)
    (seconds,) = interleave(lambda _: simulate(million, replica, leaps=True), repetitions=3)
    took = float(np.median(seconds.processor))
    print(f"{len(million.arrival):,} requests at 8/s, 400,000 tokens of KV cache: {number(took)} s")


if __name__ == "__main__":
    main()
