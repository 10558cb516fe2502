"""`multi_bin_only` and `dynamic_only` in SimPy.

`multi_bin_only` is there twice. SimPy's own examples give each customer a process, and that is how a user would write
it (`multi_bin_only`). As lean as SimPy allows, requests are mere numbers in one process for arrivals and one for the
server (`multi_bin_only_lean`, and `dynamic_only` in the same manner).
"""

import math
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import simpy

from . import Means

Process = Generator[simpy.Event, Any, None]


class Batch:
    """Requests that are served together, and the event that tells them so."""

    def __init__(self, environment: simpy.Environment) -> None:
        self.service_s: list[float] = []
        self.done = environment.event()


def multi_bin_only(
    arrival_s: Sequence[float], service_s: Sequence[float], bin_of_request: Sequence[int], batch_size: int
) -> Means:
    """Simulate [MB] Algorithm 1 on one server, each request a process; the unfilled last batches are dropped."""
    environment = simpy.Environment()
    server = simpy.Resource(environment)
    bins = [Batch(environment) for _ in range(max(bin_of_request) + 1)]
    latencies: list[float] = []
    last_completion = 0.0

    def arrivals() -> Process:
        for instant, service, own in zip(arrival_s, service_s, bin_of_request, strict=True):
            yield environment.timeout(max(instant - environment.now, 0.0))
            environment.process(request(service, own))

    def request(service: float, own: int) -> Process:
        arrival = environment.now
        batch = bins[own]
        batch.service_s.append(service)
        if len(batch.service_s) == batch_size:
            bins[own] = Batch(environment)
            environment.process(serve(batch))
        yield batch.done
        latencies.append(environment.now - arrival)

    def serve(batch: Batch) -> Process:
        nonlocal last_completion
        with server.request() as turn:
            yield turn
            yield environment.timeout(max(batch.service_s))
        last_completion = environment.now
        batch.done.succeed()

    environment.process(arrivals())
    environment.run()
    return Means(len(latencies) / (last_completion - arrival_s[0]), sum(latencies) / len(latencies))


def multi_bin_only_lean(
    arrival_s: Sequence[float], service_s: Sequence[float], bin_of_request: Sequence[int], batch_size: int
) -> Means:
    """Simulate the same with no process for a request, and two means instead of a record of each."""
    environment = simpy.Environment()
    formed = simpy.Store(environment)
    bins: list[list[int]] = [[] for _ in range(max(bin_of_request) + 1)]
    total_latency = 0.0
    served = 0
    last_completion = 0.0

    def arrivals() -> Process:
        for i, instant in enumerate(arrival_s):
            yield environment.timeout(max(instant - environment.now, 0.0))
            own = bins[bin_of_request[i]]
            own.append(i)
            if len(own) == batch_size:
                formed.put(own[:])
                own.clear()

    def server() -> Process:
        nonlocal total_latency, served, last_completion
        while True:
            batch = yield formed.get()
            yield environment.timeout(max(service_s[i] for i in batch))
            last_completion = environment.now
            served += len(batch)
            total_latency += sum(last_completion - arrival_s[i] for i in batch)

    environment.process(arrivals())
    environment.process(server())
    environment.run()
    return Means(served / (last_completion - arrival_s[0]), total_latency / served)


@dataclass
class Search:
    """Algorithm 2 of [DB] as printed, both ends held inside [smallest, largest], on smoothed τ and b."""

    target_s: float
    tolerance_s: float
    alpha: float
    delta: float
    smallest: int
    largest: int
    weight: float = 0.2

    def __post_init__(self) -> None:
        self.low, self.high = float(self.smallest), float(self.largest)
        self.signal = self.size = math.nan

    def batch_size(self) -> int:
        return min(max(math.floor((self.low + self.high) / 2), self.smallest), self.largest)

    def observe(self, signal: float, size: int) -> None:
        if math.isnan(self.signal):
            self.signal, self.size = signal, float(size)
        else:
            self.signal += self.weight * (signal - self.signal)
            self.size += self.weight * (size - self.size)
        low, high, mean, half = self.low, self.high, self.size, math.floor(self.alpha / 2)
        if self.signal > self.target_s + self.tolerance_s:
            low, high = low - self.delta, max(mean, low + self.alpha)
        elif self.signal < self.target_s - self.tolerance_s:
            low, high = min(mean, high - self.alpha), high + self.delta
        else:
            low, high = mean - half, mean + half
        self.low = min(max(low, self.smallest), self.largest)
        self.high = min(max(high, self.smallest), self.largest)


def dynamic_only(
    arrival_s: Sequence[float],
    output_tokens: Sequence[int],
    a0_s: float,
    a1_s_per_token: float,
    gamma: float,
    search: Search,
) -> Means:
    """Simulate one queue and one server that takes what waits, up to Algorithm 2's size.

    A batch of b takes T = a0 + a1 L (1 + γ (b - 1)).
    """
    environment = simpy.Environment()
    queue: deque[int] = deque()
    work = environment.event()
    total_latency = 0.0
    last_completion = 0.0

    def arrivals() -> Process:
        for i, instant in enumerate(arrival_s):
            yield environment.timeout(max(instant - environment.now, 0.0))
            queue.append(i)
            if not work.triggered:
                work.succeed()

    def server() -> Process:
        nonlocal work, total_latency, last_completion
        while True:
            if not queue:
                work = environment.event()
                yield work
            size = min(len(queue), search.batch_size())
            batch = [queue.popleft() for _ in range(size)]
            longest = max(output_tokens[i] for i in batch)
            duration = a0_s + a1_s_per_token * longest * (1.0 + gamma * (size - 1))
            yield environment.timeout(duration)
            last_completion = environment.now
            total_latency += sum(last_completion - arrival_s[i] for i in batch)
            search.observe(duration / longest, size)

    environment.process(arrivals())
    environment.process(server())
    environment.run()
    return Means(len(arrival_s) / (last_completion - arrival_s[0]), total_latency / len(arrival_s))
