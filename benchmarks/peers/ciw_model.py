"""What Ciw can express of `multi_bin_only`, two ways.

Ciw has no batch service: its "batching" is customers that arrive together, and its maintainers say that customers
served together are not implemented (github.com/CiwPython/Ciw, issues 126 and 168). So:

* `one_customer_per_request` is the very same model, request by request on a given trace, but the batches are made by a
  node class of our own (a door that Ciw documents), not by Ciw;
* `one_customer_per_batch` is the nearest model from Ciw's own parts: a customer is a whole batch. With Poisson arrivals
  the bins are independent Poisson streams, so bin j completes batches with Erlang(B, λ/k) gaps, and the longest of B
  uniform times is drawn directly. It has the same law, needs only one event per batch, and gives a request's mean
  latency with the waiting for the batch to fill, k (B - 1) / (2 λ), added on paper ([MB] Lemma 5.1).
"""

from collections.abc import Sequence
from typing import Any

import ciw
import numpy as np

from . import Means


class BatchingNode(ciw.Node):  # type: ignore[misc]
    """A node with endless room that holds arrivals back until their bin is full, and serves one batch at a time."""

    bin_of_request: Sequence[int] = ()
    batch_size = 1

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.waiting: list[list[Any]] = [[] for _ in range(max(self.bin_of_request) + 1)]
        self.idle_from = 0.0
        self.accepted = 0

    def begin_service_if_possible_accept(self, next_individual: Any) -> None:
        next_individual.arrival_date = self.now
        next_individual.service_time = self.get_service_time(next_individual)
        own = self.waiting[self.bin_of_request[self.accepted]]
        self.accepted += 1
        own.append(next_individual)
        if len(own) == self.batch_size:
            start = max(self.now, self.idle_from)
            self.idle_from = start + max(individual.service_time for individual in own)
            for individual in own:
                individual.service_start_date = start
                individual.service_end_date = self.idle_from
            self.number_in_service += len(own)
            own.clear()


def one_customer_per_request(
    arrival_s: Sequence[float], service_s: Sequence[float], bin_of_request: Sequence[int], batch_size: int
) -> Means:
    """Simulate [MB] Algorithm 1 on one server with a node class of our own, the unfilled last batches dropped."""

    class Node(BatchingNode):
        pass

    Node.bin_of_request, Node.batch_size = bin_of_request, batch_size
    gaps = [after - before for before, after in zip((0.0, *arrival_s[:-1]), arrival_s, strict=True)]
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Sequential([*gaps, float("inf")])],
        service_distributions=[ciw.dists.Sequential([*service_s, 0.0])],
        number_of_servers=[float("inf")],
    )
    served = sum(bin_of_request.count(j) // batch_size * batch_size for j in range(max(bin_of_request) + 1))
    simulation = ciw.Simulation(network, node_class=Node)
    simulation.simulate_until_max_customers(served, method="Finish")
    records = simulation.get_all_records()
    last = max(record.exit_date for record in records)
    return Means(
        len(records) / (last - arrival_s[0]), sum(r.exit_date - r.arrival_date for r in records) / len(records)
    )


class LongestOfUniform(ciw.dists.Distribution):  # type: ignore[misc]
    """The longest of `batch_size` draws from U(low, high)."""

    def __init__(self, low: float, high: float, batch_size: int, source: Any) -> None:
        self.low, self.width, self.power, self.source = low, high - low, 1.0 / batch_size, source

    def sample(self, t: float | None = None, ind: object = None) -> float:
        draw: float = self.source.random() ** self.power
        return self.low + self.width * draw


def one_customer_per_batch(
    requests: int, rate_per_s: float, low_s: float, high_s: float, bins: int, batch_size: int, seed: int
) -> Means:
    """Simulate the queue of whole batches; `requests` / `batch_size` of them."""
    ciw.seed(seed)
    source = np.random.default_rng(seed)
    width = (high_s - low_s) / bins
    names = [f"bin {j}" for j in range(bins)]
    network = ciw.create_network(
        arrival_distributions={name: [ciw.dists.Gamma(shape=batch_size, scale=bins / rate_per_s)] for name in names},
        service_distributions={
            name: [LongestOfUniform(low_s + j * width, low_s + (j + 1) * width, batch_size, source)]
            for j, name in enumerate(names)
        },
        number_of_servers=[1],
    )
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_customers(requests // batch_size)
    records = simulation.get_all_records()
    last = max(record.exit_date for record in records)
    sojourn = sum(record.exit_date - record.arrival_date for record in records) / len(records)
    return Means(len(records) * batch_size / last, sojourn + bins * (batch_size - 1) / (2.0 * rate_per_s))
