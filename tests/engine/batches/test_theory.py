"""Queueing theory and the theorems of [MB] at fixed seeds, within 4.5 standard errors of the replications' mean."""

import numpy as np
import pytest

from batchcube.engine import INFINITE, Shape, simulate_many
from batchcube.engine.policies.bins import assign_bins, uniform_edges
from helpers.batches import make_job


def close(values, theory, errors=4.5):
    values = np.asarray(values)
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert error < 0.05 * theory  # else the comparison would say nothing
    assert abs(values.mean() - theory) <= errors * error


def replications(count, make):
    jobs = [make(np.random.default_rng([17, seed])) for seed in range(count)]
    policy, reporting = jobs[0].setup.policy, jobs[0].setup.reporting
    return simulate_many(jobs, Shape(len(jobs[0].bins.start) - 1, policy.batch_size, reporting.windows))


@pytest.mark.parametrize("mode", ["fifo_fixed", "fifo_greedy"])
@pytest.mark.parametrize(("law", "factor"), [("exponential", 1.0), ("deterministic", 0.5)])
def test_mean_wait_of_one_server(mode, law, factor):
    """M/M/1: ρ/(1-ρ) service times; M/D/1: half of it (Pollaczek and Khinchine)."""
    requests, load = 20_000, 0.7

    def make(rng):
        arrival = np.cumsum(rng.exponential(1 / load, requests))
        service = rng.exponential(1.0, requests) + 1e-9 if law == "exponential" else np.ones(requests)
        return make_job(arrival, service, mode=mode, warmup=2000)

    close(replications(40, make)["wait_mean_s"], factor * load / (1 - load))


def test_mean_wait_of_three_servers():
    """M/M/3 (Erlang C) at load 0.8."""
    requests, offered, servers = 20_000, 2.4, 3

    def make(rng):
        arrival = np.cumsum(rng.exponential(1 / offered, requests))
        return make_job(arrival, rng.exponential(1.0, requests) + 1e-9, servers=servers, warmup=2000)

    top = offered**3 / 6 / (1 - offered / 3)
    delayed = top / (1 + offered + offered**2 / 2 + top)
    close(replications(40, make)["wait_mean_s"], delayed / (servers - offered))


def expected_service(batch_size, bins, low=1.0, high=20.0):
    """[MB] Theorem 4.2."""
    middle = (high + low) / 2
    return middle + (batch_size / (batch_size + 1) * high + low / (batch_size + 1) - middle) / bins


def uniform_job(rng, batch_size, bins, rate, requests, servers):
    lengths = rng.uniform(1.0, 20.0, requests)
    return make_job(
        np.cumsum(rng.exponential(1 / rate, requests)),
        lengths,
        batch_size=batch_size,
        bins=bins,
        bin_of=assign_bins(lengths, uniform_edges(1.0, 20.0, bins)),
        servers=servers,
        tail="drop",
    )


@pytest.mark.parametrize(("bins", "stated"), [(1, 6.447), (2, 8.434), (3, 9.400), (5, 10.347)])
def test_busy_throughput_is_that_of_theorem_4_2(bins, stated):
    report = replications(20, lambda rng: uniform_job(rng, 128, bins, 20.0, 128 * 150, 1))
    theory = 128 / expected_service(128, bins)
    assert theory == pytest.approx(stated, abs=6e-4)
    # B / E[T]: the mean of the inverse rates is what has no bias.
    close(1 / report["busy_throughput_requests_per_s"], 1 / theory)


@pytest.mark.parametrize("bins", [1, 2, 4])
def test_latency_with_infinitely_many_servers_is_that_of_lemma_5_1(bins):
    batch_size, rate = 16, 5.0
    report = replications(30, lambda rng: uniform_job(rng, batch_size, bins, rate, 16 * 600, INFINITE))
    theory = expected_service(batch_size, bins) + bins * (batch_size - 1) / (2 * rate)
    close(report["latency_mean_s"], theory)
    close(report["wait_mean_s"], bins * (batch_size - 1) / (2 * rate))
