"""Theory at a point of a sweep: the right law, the right matrix, and nothing where nothing is known."""

from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from batchcube.engine.policies import bins as engine_bins
from batchcube.sweeps.spec.document import Sweep
from batchcube.sweeps.spec.settings import Point
from batchcube.sweeps.theory import bins as theory
from batchcube.sweeps.theory.expected import MOST_BINS, Expected, batches_of, law_of
from batchcube.sweeps.theory.expected import expected as expected_of
from batchcube.sweeps.workloads.lengths import LengthDistribution

UNIFORM = {"distribution": "uniform", "unit": "seconds", "low": 1.0, "high": 20.0}
EDGES = np.linspace(1, 20, 5)


def point(**changes: Any) -> Point:
    document: dict[str, Any] = {
        "workload": {"arrivals": {"process": "poisson", "rate_per_s": 8.0}, "lengths": UNIFORM},
        "policy": {"mode": "multi_bin_only", "bins": 4, "batch_size": 128},
        "server": {"service": {"law": "given"}},
    }
    for path, value in changes.items():
        table = document
        *above, last = path.split("__")
        for key in above:
            table = table.setdefault(key, {})
        table[last] = value
    return Sweep.model_validate(document).grid.points[0]


def expected(point: Point, edges: Any) -> Expected:
    return expected_of(point, batches_of(point, edges))


def lengths(**settings: Any) -> LengthDistribution:
    adapter: TypeAdapter[LengthDistribution] = TypeAdapter(LengthDistribution)
    return adapter.validate_python(settings)


def test_one_server_has_the_throughput_of_theorem_4_2_and_no_latency() -> None:
    found = expected(point(), EDGES)
    assert found.throughput_requests_per_s == pytest.approx(theory.uniform_throughput(4, 128, 1, 20))
    assert found.throughput_limit_requests_per_s == pytest.approx(128 / 10.5)
    assert np.isnan(found.latency_s)
    assert expected(point(server__servers=3), EDGES).throughput_requests_per_s == pytest.approx(3 * found[0])


def test_infinitely_many_servers_have_the_latency_of_lemma_5_1_only() -> None:
    found = expected(point(server__servers="infinite"), EDGES)
    service = theory.uniform_service_time(4, 128, 1, 20)
    assert found.latency_s == pytest.approx(theory.latency_infinite_servers(service, 4, 128, 8.0))
    assert np.isnan(found[:2]).all()


def test_one_bin_needs_no_edges() -> None:
    found = expected(point(policy__bins=1), None)
    assert found.throughput_requests_per_s == pytest.approx(theory.uniform_throughput(1, 128, 1, 20))


def test_predictors_that_err_by_a_matrix_cost_throughput() -> None:
    adjacent = expected(point(workload__predictor={"kind": "adjacent", "error_probability": 0.1}), EDGES)
    confusion = expected(point(workload__predictor={"kind": "confusion", "matrix": "lmsys"}), EDGES)
    oracle = expected(point(), EDGES)
    law = law_of(lengths(**UNIFORM))
    assert law is not None
    exact = theory.binned_batches(law, 128, EDGES, confusion=theory.adjacent_confusion(4, 0.1))
    assert adjacent[0] == pytest.approx(exact.throughput_requests_per_s())
    assert confusion[0] < adjacent[0] < oracle[0]
    assert adjacent[1] == confusion[1] == oracle[1]


def test_laws_in_tokens_scale_with_the_batch() -> None:
    service = {"law": "linear", "a0_s": 0.5, "a1_s_per_token": 0.03, "gamma": 0.01}
    law = {"distribution": "constant", "value": 100}
    found = expected(point(workload__lengths=law, server__service=service, policy__bins=1), None)
    assert found[0] == found[1] == pytest.approx(128 / (0.5 + 0.03 * 100 * (1 + 0.01 * 127)))


@pytest.mark.parametrize("service_s", [0.0, 5e-324, np.inf])
def test_there_is_no_infinite_theory(service_s: float) -> None:
    batches = theory.BinnedBatches(128, np.ones(1), np.ones(1), np.array([service_s]), service_s, 1.0)
    assert not np.isinf(expected_of(point(), batches)).any()
    assert np.isnan(expected_of(point(server__servers="infinite"), batches)[:2]).all()


def test_theory_ends_at_its_most_bins() -> None:
    edges = np.linspace(1.0, 20.0, MOST_BINS + 2)
    assert batches_of(point(), edges[:-1]) is not None
    assert batches_of(point(), edges) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"policy__max_wait_s": 3.0},
        {"workload__predictor": {"kind": "lognormal", "sigma": 0.3}},
        {"server__servers": "infinite", "workload__arrivals": {"process": "deterministic", "rate_per_s": 8.0}},
        {"policy": {"mode": "fifo_greedy", "batch_size": 128}},
        {"workload__lengths": {"distribution": "mixture", "unit": "seconds", "weights": [1], "components": [UNIFORM]}},
    ],
)
def test_where_theory_is_silent_there_are_no_numbers(changes: dict[str, Any]) -> None:
    assert np.isnan(expected(point(**changes), EDGES)).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"distribution": "uniform", "low": 3.0, "high": 30.0},
        {"distribution": "exponential", "mean": 20.0},
        {"distribution": "exponential", "mean": 1.0},
        {"distribution": "exponential", "mean": 1.5},
        {"distribution": "lognormal", "mean": 20.0, "cv": 0.8},
        {"distribution": "lognormal", "mean": 3.0, "cv": 1.5},
        {"distribution": "lognormal", "mean": 20.0, "cv": 0.8, "unit": "seconds"},
        {"distribution": "zipf", "exponent": 1.1, "largest": 50},
        {"distribution": "histogram", "edges": [0.0, 5.0, 7.5, 40.0], "counts": [3.0, 0.0, 2.0]},
        {"distribution": "histogram", "edges": [0.0, 5.0, 7.5, 40.0], "counts": [3.0, 1.0, 2.0], "unit": "seconds"},
        {
            "distribution": "mixture",
            "weights": [1, 3],
            "components": [
                {"distribution": "uniform", "low": 1, "high": 9},
                {"distribution": "zipf", "largest": 30},
            ],
        },
    ],
)
def test_the_law_is_that_of_the_draws(settings: dict[str, Any]) -> None:
    given = lengths(**settings)
    drawn = given.draw(80_000, np.random.default_rng(7))
    sample = drawn.service_s if drawn.output_tokens is None else drawn.output_tokens
    assert sample is not None
    law = law_of(given)
    assert law is not None
    longest = sample.reshape(-1, 8).max(axis=1)
    error = longest.std() / np.sqrt(longest.size)
    assert abs(longest.mean() - theory.binned_batches(law, 8, [0, np.inf]).service_mean_s) <= 5 * error
    assert abs(sample.mean() - law.mean()) <= 5 * sample.std() / np.sqrt(sample.size)


@pytest.mark.parametrize("bins", [1, 2, 4])
def test_the_engine_cuts_bins_where_the_lemmas_say(bins: int) -> None:
    widths = np.log(theory.exponential_levels(bins, 200)[:-1][::-1]) / 0.1
    inner = engine_bins.exponential_edges(0.1, 200, bins)[1:-1]
    assert inner == pytest.approx(np.cumsum(widths), rel=1e-12)
    assert engine_bins.uniform_edges(1.0, 20.0, bins) == pytest.approx(np.linspace(1, 20, bins + 1))


def test_hopelessly_rare_lengths_have_no_probability() -> None:
    bars = {"distribution": "histogram", "edges": [2.0, 42.0, 141.0], "counts": [5e-324, 24.7]}
    law = {"law": "constant", "a1_s_per_token": 0.04}
    found = expected(point(workload__lengths=bars, server__service=law), np.array([2.0, 40.0, 100.0, 141.0]))
    assert np.isfinite(found[:2]).all()
