"""The presets of [MB]'s figures: they validate, and the theory their comments quote follows from their settings."""

import numpy as np
import pytest

from batchcube.sweeps.spec.document import Sweep
from batchcube.sweeps.spec.settings import Point
from batchcube.sweeps.theory import bins as theory
from batchcube.sweeps.theory.expected import law_of
from batchcube.sweeps.workloads.lengths import Exponential, Histogram, Lognormal, Uniform
from helpers.bins import equal_mass_edges

FIG6_PRINTED = np.array([22.71, 27.48, 31.91, 35.27, 37.87, 39.65])


def load(name: str) -> tuple[Sweep, dict[str, list[object]]]:
    sweep = Sweep.from_toml(name)
    return sweep, {axis.name: list(axis.labels) for axis in sweep.grid.axes}


def first(sweep: Sweep) -> Point:
    return sweep.grid.points[0]


@pytest.mark.parametrize(
    ("name", "shape", "requests", "replications"),
    [
        ("multi-bin-fig3", (5, 19), 128_000, 10),
        ("multi-bin-fig4", (2, 3, 17), 128_000, 10),
        ("multi-bin-fig6", (6, 17), 64_000, 10),
        ("multi-bin-fig8", (4, 11), 128_000, 10),
        ("multi-bin-fig9", (2, 4, 16), 200_000, 10),
        ("multi-bin-fig11", (3, 2), 800, 100),
    ],
)
def test_presets_are_the_papers_experiments(
    name: str, shape: tuple[int, ...], requests: int, replications: int
) -> None:
    sweep, _ = load(name)
    assert sweep.name == name
    assert sweep.title.endswith(f"([MB] Fig. {name.removeprefix('multi-bin-fig')})")
    assert sweep.grid.shape == shape
    assert first(sweep).workload.requests == requests
    assert sweep.replications == replications


@pytest.mark.parametrize("name", ["multi-bin-fig3", "multi-bin-fig4", "multi-bin-fig8"])
def test_uniform_presets_are_the_setting_of_theorem_4_2(name: str) -> None:
    point = first(load(name)[0])
    assert isinstance(point.workload.lengths, Uniform)
    assert (point.workload.lengths.low, point.workload.lengths.high) == (1.0, 20.0)
    assert point.policy.batch_size == 128
    assert point.server.service.law == "given"
    assert point.policy.tail == "drop"


def test_figure_3_and_8_reach_saturation() -> None:
    _, axes = load("multi-bin-fig3")
    assert max(np.array(axes["arrival_rate_per_s"], dtype=float)) > 128 / 10.5
    arrivals = first(load("multi-bin-fig8")[0]).workload.arrivals
    assert getattr(arrivals, "rate_per_s", 0.0) > 128 / 10.5


def test_figure_6_lengths_fit_the_printed_rates() -> None:
    sweep, axes = load("multi-bin-fig6")
    point = first(sweep)
    assert isinstance(point.workload.lengths, Lognormal)
    law = law_of(point.workload.lengths)
    assert law is not None
    slope = getattr(point.server.service, "a1_s_per_token", 0.0)
    batches = [theory.binned_batches(law, 8, equal_mass_edges(law, k), slope_s=slope) for k in (1, 2, 4, 8, 16, 32)]
    rates = np.array([b.throughput_requests_per_s(8) for b in batches])
    assert [b.effective_bins for b in batches] == axes["bins"]
    assert rates == pytest.approx([22.67, 27.57, 31.97, 35.36, 37.72, 39.23], abs=0.006)
    assert rates == pytest.approx(FIG6_PRINTED, rel=0.0115)
    assert rates / rates[0] == pytest.approx([1, 1.217, 1.411, 1.560, 1.664, 1.731], abs=6e-4)
    # Every saturation rate, printed and fitted, has a swept rate within 8 % on either side, and none on the wrong one.
    swept = np.array(axes["arrival_rate_per_s"], dtype=float)
    for printed, fitted in zip(FIG6_PRINTED, rates, strict=True):
        assert ((swept > 0.92 * printed) & (swept < min(printed, fitted))).any()
        assert ((swept < 1.08 * printed) & (swept > max(printed, fitted))).any()


def test_figure_9_is_the_setting_of_lemma_a_1() -> None:
    sweep, axes = load("multi-bin-fig9")
    point = first(sweep)
    assert isinstance(point.workload.lengths, Exponential)
    assert point.workload.lengths.mean == pytest.approx(10.0)
    assert point.policy.edges.kind == "exponential"
    bounds = [theory.exponential_throughput_bound(k, 200, 0.1) for k in (1, 2, 3, 4)]
    assert bounds == pytest.approx([3.402, 7.217, 9.904, 11.746], abs=6e-4)
    assert axes["bins"] == [1, 2, 3, 4]


def test_figure_11_gains_are_those_stated() -> None:
    sweep, axes = load("multi-bin-fig11")
    assert axes["predictor"] == ["oracle", "predicted"]
    lengths = first(sweep).workload.lengths
    assert isinstance(lengths, Histogram)
    assert lengths.edges is not None
    assert lengths.counts is not None
    tokens = np.arange(lengths.edges[0], lengths.edges[-1])
    bar = np.searchsorted(lengths.edges, tokens, side="right") - 1
    law = theory.discrete(tokens, np.array(lengths.counts)[bar] / np.diff(lengths.edges)[bar])
    predictor = sweep.grid.points[-1].workload.predictor
    confusion = predictor.probabilities(4)  # type: ignore[union-attr]
    edges = equal_mass_edges(law, 4)
    one = theory.binned_batches(law, 8, [2, 512]).service_mean_s
    assert one / theory.binned_batches(law, 8, edges).service_mean_s == pytest.approx(1.79, abs=0.005)
    predicted = theory.binned_batches(law, 8, edges, confusion=confusion).service_mean_s
    assert one / predicted == pytest.approx(1.27, abs=0.005)
