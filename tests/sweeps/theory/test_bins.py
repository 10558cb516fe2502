"""Closed forms of [MB] against quadrature, brute force and the numbers printed in the paper."""

from collections.abc import Callable
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from batchcube.engine.policies.bins import exponential_edges, uniform_edges
from batchcube.sweeps.theory import bins as theory
from helpers.bins import equal_mass_edges

UNIFORM = stats.uniform(1, 19)
FIG3 = [6.447, 8.434, 9.400, 9.970, 10.347]


def expected_maximum(law: theory.Lengths, draws: int, low: float = 0.0, high: float = np.inf) -> float:
    """Return E[max] of lengths from low up to below high."""
    edges = np.unique([0.0, low, high, np.inf])
    return float(theory.binned_batches(law, draws, edges).bin_length_max_mean[np.searchsorted(edges, low)])


def service_bound(edges: theory.Floats, batch_size: int) -> float:
    """Return the bound of [MB] Lemma A.1 for lengths of mean 10: a batch takes at most its bin's upper edge.

    In the last bin it takes l_{k-1} + H_B / µ.
    """
    ceilings = np.append(edges[1:-1], edges[-2] + 10 * theory.harmonic_number(batch_size))
    return float(-np.diff(np.exp(-0.1 * edges)) @ ceilings)


@pytest.mark.parametrize(("bins", "printed"), list(enumerate(FIG3, start=1)))
def test_theorem_4_2_gives_the_papers_numbers(bins: int, printed: float) -> None:
    assert theory.uniform_throughput(bins, 128, 1, 20) == pytest.approx(printed, abs=5e-4)


def test_c_max_of_figure_3_is_12_19_not_12_3() -> None:
    assert theory.throughput_limit(128, 10.5) == pytest.approx(12.190, abs=5e-4)
    assert theory.uniform_throughput(10**9, 128, 1, 20) == pytest.approx(128 / 10.5, rel=1e-8)


@pytest.mark.parametrize("batch_size", [1, 2, 128, 10_000])
@pytest.mark.parametrize("bins", [1, 2, 7, 64])
def test_quadrature_equals_theorem_4_2(bins: int, batch_size: int) -> None:
    exact = theory.binned_batches(UNIFORM, batch_size, uniform_edges(1, 20, bins))
    assert exact.service_mean_s == pytest.approx(theory.uniform_service_time(bins, batch_size, 1, 20), rel=1e-12)
    assert exact.throughput_limit_requests_per_s() == pytest.approx(batch_size / 10.5)
    assert exact.bin_probability == pytest.approx(np.full(bins, 1 / bins))


@settings(max_examples=60, deadline=None)
@given(
    shortfall=st.floats(1e-3, 20),
    batch_size=st.integers(1, 500),
    shortest=st.floats(0.1, 5),
    width=st.floats(0, 50),
)
def test_theorem_4_3_is_the_smallest_number_of_bins(
    shortfall: float, batch_size: int, shortest: float, width: float
) -> None:
    longest = shortest + width
    mean = shortest + width / 2
    wanted = theory.throughput_limit(batch_size, mean) - shortfall
    excess = theory.uniform_service_time(1, batch_size, shortest, longest) - mean
    bins = max(1, ceil(wanted * excess / (shortfall * mean) * (1 - 1e-9)))
    assert theory.uniform_throughput(bins, batch_size, shortest, longest) >= wanted * (1 - 1e-8)
    if bins > 1:
        assert theory.uniform_throughput(bins - 1, batch_size, shortest, longest) <= wanted * (1 + 1e-12)


def test_lemma_4_1_equal_widths_are_optimal() -> None:
    best = theory.binned_batches(UNIFORM, 128, uniform_edges(1, 20, 4)).service_mean_s
    rng = np.random.default_rng(3)
    for _ in range(30):
        edges = uniform_edges(1, 20, 4)
        edges[1:-1] += rng.normal(0, 0.4, 3)
        moved = theory.binned_batches(UNIFORM, 128, np.sort(edges)).service_mean_s
        assert moved > best


def test_lemma_5_1_adds_the_wait_for_a_full_batch() -> None:
    latency = theory.latency_infinite_servers(15.178, 2, 128, 8.0)
    assert latency == pytest.approx(15.178 + 2 * 127 / 16)
    unequal = theory.binned_batches(UNIFORM, 128, [1, 4, 20])
    shares = unequal.bin_probability
    by_hand = shares @ (unequal.bin_service_mean_s + 127 / (2 * 8.0 * shares))
    assert unequal.latency_s(8.0) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("draws", [1, 2, 3, 200, 10_000])
def test_maximum_of_exponentials_is_a_harmonic_number(draws: int) -> None:
    exact = expected_maximum(stats.expon(scale=10), draws)
    assert exact == pytest.approx(10 * theory.harmonic_number(draws), rel=1e-12)
    above = expected_maximum(stats.expon(scale=10), draws, low=500.0)
    assert above == pytest.approx(500 + 10 * theory.harmonic_number(draws), rel=1e-12)


@pytest.mark.parametrize("bins", [1, 2, 3, 4, 16])
def test_lemma_a_1_closed_form_of_the_bound(bins: int) -> None:
    edges = exponential_edges(0.1, 200, bins)
    assert edges.shape == (bins + 1,)
    assert (np.diff(edges) > 0).all()
    bound = service_bound(edges, 200)
    assert bound == pytest.approx(theory.exponential_levels(bins, 200)[-1] / 0.1, rel=1e-12)
    assert 200 / bound == pytest.approx(theory.exponential_throughput_bound(bins, 200, 0.1), rel=1e-12)


@settings(max_examples=100, deadline=None)
@given(shifts=st.lists(st.floats(-0.9, 3), min_size=3, max_size=3), batch_size=st.integers(2, 1000))
def test_lemma_a_1_no_other_edges_lower_the_bound(shifts: list[float], batch_size: int) -> None:
    edges = exponential_edges(0.1, batch_size, 4)
    gaps = np.diff(edges[:-1]) * (1 + np.array(shifts))
    moved = np.concatenate(([0.0], np.cumsum(gaps), [np.inf]))
    best = service_bound(edges, batch_size)
    assert service_bound(moved, batch_size) >= best * (1 - 1e-12)


def test_lemma_a_1_two_bins_by_hand() -> None:
    edges = exponential_edges(0.1, 200, 2)
    assert edges[1] == pytest.approx(10 * np.log(theory.harmonic_number(200)))


@pytest.mark.parametrize(
    ("bins", "bound", "exact"), [(1, 3.402, 3.402), (2, 7.217, 7.269), (3, 9.904, 9.967), (4, 11.746, 11.807)]
)
def test_figure_9_corollary_lies_below_the_exact_throughput(bins: int, bound: float, exact: float) -> None:
    batches = theory.binned_batches(stats.expon(scale=10), 200, exponential_edges(0.1, 200, bins))
    assert theory.exponential_throughput_bound(bins, 200, 0.1) == pytest.approx(bound, abs=6e-4)
    assert batches.throughput_requests_per_s() == pytest.approx(exact, abs=6e-4)
    assert batches.throughput_requests_per_s() >= theory.exponential_throughput_bound(bins, 200, 0.1) * (1 - 1e-12)
    assert batches.throughput_requests_per_s() < 20


@pytest.mark.parametrize("law", [stats.lognorm(s=1.1, scale=40), stats.gamma(0.5, scale=80), stats.weibull_min(0.6)])
@pytest.mark.parametrize(("low", "high"), [(0.0, np.inf), (0.2, 0.9), (5.0, np.inf)])
def test_truncated_maximum_equals_adaptive_integration(law: Any, low: float, high: float) -> None:
    share = float(law.sf(low) - law.sf(high))
    top = min(high, float(law.isf(1e-18)))

    def survival(x: float) -> float:
        above = float(law.sf(x) - law.sf(high)) / share
        return float(-np.expm1(50 * np.log1p(-min(above, 1 - 1e-16))))

    knots = np.unique(np.concatenate(([low, top], np.geomspace(max(low, 1e-9), top, 60))))
    tail = sum(integrate.quad(survival, a, b, epsabs=1e-9)[0] for a, b in pairwise(knots))
    assert expected_maximum(law, 50, low, high) == pytest.approx(low + tail, rel=1e-7)


def test_discrete_maximum_equals_enumeration() -> None:
    law = theory.discrete([5, 1, 2, 2], [1, 2, 3, 2])
    values, chances = law
    assert values.tolist() == [1, 2, 5]
    assert chances == pytest.approx([0.25, 0.625, 0.125])
    pairs = sum(max(a, b) * p * q for a, p in zip(*law, strict=True) for b, q in zip(*law, strict=True))
    assert expected_maximum(law, 2) == pytest.approx(pairs)
    assert expected_maximum(law, 2, 1, 5) == pytest.approx(2 - (2 / 7) ** 2)
    assert expected_maximum(stats.geom(0.02), 1) == pytest.approx(50, rel=1e-9)


def test_rounding_at_random_keeps_the_mean_and_moves_the_maximum_little() -> None:
    law = stats.uniform(2.5, 2.0)  # on 2.5 to 4.5: 2 where it is below 3 and rounded down, and so on
    tokens = theory.rounded_at_random(law, lambda n: np.where(n < 2.5, n, 3.5 - np.maximum(4.5 - n, 0.0) ** 2 / 4.0))
    assert tokens.values.tolist() == [2, 3, 4, 5]
    assert tokens.probabilities == pytest.approx([1 / 16, 7 / 16, 7 / 16, 1 / 16])
    normal = stats.gamma(9.0, scale=50.0)
    larger = stats.gamma(10.0, scale=50.0)  # by its size
    rounded = theory.rounded_at_random(normal, lambda n: 450.0 * larger.cdf(n) + n * normal.sf(n))
    assert rounded.mean() == pytest.approx(450.0, rel=1e-9)
    assert expected_maximum(rounded, 8) == pytest.approx(expected_maximum(normal, 8), abs=0.01)


def test_empirical_edges_and_batches_agree_with_sampling() -> None:
    rng = np.random.default_rng(11)
    sample = np.ceil(rng.lognormal(4, 0.8, 3000))
    law = theory.empirical(sample)
    edges = equal_mass_edges(law, 4)
    exact = theory.binned_batches(law, 16, edges, intercept_s=0.2, slope_s=0.03)
    bins = np.clip(np.searchsorted(edges, sample, side="right") - 1, 0, 3)
    for j in range(4):
        assert exact.bin_probability[j] == pytest.approx(np.mean(bins == j))
        drawn = rng.choice(sample[bins == j], (4000, 16)).max(axis=1)
        error = drawn.std() / np.sqrt(4000)
        assert abs(exact.bin_length_max_mean[j] - drawn.mean()) < 5 * error + 1e-9
    by_hand = exact.bin_probability @ (0.2 + 0.03 * exact.bin_length_max_mean)
    assert exact.service_mean_s == pytest.approx(by_hand)
    assert exact.throughput_requests_per_s(8) == pytest.approx(8 * 16 / by_hand)
    assert exact.throughput_limit_requests_per_s() == pytest.approx(16 / (0.2 + 0.03 * sample.mean()))


def test_bins_that_are_never_hit_have_no_batches() -> None:
    law = theory.empirical([7.0] * 9 + [9.0])
    edges = equal_mass_edges(law, 4)
    batches = theory.binned_batches(law, 8, edges)
    assert batches.effective_bins == 1
    assert np.isnan(batches.bin_length_max_mean[batches.bin_probability == 0]).all()
    assert np.isfinite(batches.service_mean_s)


@pytest.mark.parametrize("bins", [2, 4, 8])
def test_figure_8_throughput_falls_with_the_error_and_stays_above_no_bins(bins: int) -> None:
    def at(error_probability: float) -> float:
        matrix = theory.adjacent_confusion(bins, error_probability)
        edges = uniform_edges(1, 20, bins)
        return theory.binned_batches(UNIFORM, 128, edges, confusion=matrix).throughput_requests_per_s()

    rates = [at(p) for p in (0.0, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5)]
    assert rates[0] == pytest.approx(theory.uniform_throughput(bins, 128, 1, 20))
    assert (np.diff(rates) < 0).all()
    assert rates[-1] >= theory.uniform_throughput(1, 128, 1, 20) * (1 - 1e-12)


@pytest.mark.parametrize("law", [UNIFORM, stats.expon(scale=10), stats.lognorm(s=1, scale=5)])
def test_mixed_batches_equal_integration_of_the_mixture(law: Any) -> None:
    edges = equal_mass_edges(law, 4)
    # The zero leaves a gap inside a batch's range; the rows are counts.
    matrix = np.array([[5, 1, 0, 3], [1, 7, 2, 0], [0, 0, 4, 1], [2, 1, 1, 9]])
    joint = 0.25 * matrix / matrix.sum(axis=1, keepdims=True)
    batches = theory.binned_batches(law, 20, edges, confusion=matrix)
    assert batches.bin_probability == pytest.approx(joint.sum(axis=0))
    top = float(law.isf(1e-14))
    for j in range(4):
        share = joint[:, j] / joint[:, j].sum()

        def survival(x: float, share: np.ndarray = share) -> float:
            within = np.clip((float(law.cdf(x)) - np.arange(4) / 4) * 4, 0, 1)
            return float(1 - (share @ within) ** 20)

        knots = np.unique(np.concatenate((edges[:-1], np.linspace(edges[3], top, 40))))
        tail = sum(integrate.quad(survival, a, b, epsabs=1e-10)[0] for a, b in pairwise(knots))
        assert batches.bin_length_max_mean[j] == pytest.approx(knots[0] + tail, rel=1e-6)


def test_confusion_of_a_discrete_law_equals_the_pooled_law() -> None:
    law = theory.discrete(np.arange(1, 9), np.ones(8))
    blind = theory.binned_batches(law, 12, [1, 3, 5, 7, 8], confusion=np.ones((4, 4)))
    assert blind.bin_length_max_mean == pytest.approx(np.full(4, expected_maximum(law, 12)))


def test_large_cases_stay_finite_and_ordered() -> None:
    law = stats.lognorm(s=1.2, scale=100)
    service = [theory.binned_batches(law, 10_000, equal_mass_edges(law, k)).service_mean_s for k in (1, 2, 8, 64)]
    assert (np.diff(service) < 0).all()
    assert service[-1] > law.mean()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: theory.binned_batches(UNIFORM, 8, [1, 20, 10]), "non-decreasing"),
        (lambda: theory.binned_batches(UNIFORM, 8, [1.0]), "at least 2"),
        (lambda: theory.binned_batches(UNIFORM, 0, [1, 20]), "batch_size = 0: must be >= 1"),
        (lambda: theory.binned_batches(UNIFORM, 8, [1, 9, 20], confusion=np.eye(3)), "is 3x3: must be 2x2"),
        (lambda: theory.binned_batches(UNIFORM, 8, [1, 9, 20], confusion=[[1, 1], [0, 0]]), "every row"),
        (lambda: theory.binned_batches(stats.pareto(0.9), 8, [1, 20]), "not finite"),
        (lambda: theory.binned_batches(stats.cauchy(), 8, [1, 20]), "not finite"),
        (lambda: theory.adjacent_confusion(4, 0.6), "between 0 and 0.5"),
        (lambda: theory.uniform_throughput(0, 8, 1, 20), "bins = 0"),
        (lambda: theory.uniform_throughput(1, 8, 20, 1), "shortest <= longest"),
        (lambda: theory.empirical([]), "at least one value"),
        (lambda: theory.empirical([1, -2]), ">= 0"),
        (lambda: theory.discrete([1, 2], [1]), "equally long"),
        (lambda: theory.discrete([1, 2], [0, 0]), "must be > 0"),
    ],
)
def test_bad_input_is_one_clear_line(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
