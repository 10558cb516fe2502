"""What a scheduler knows before anything is served: a sample of requests, the bins cut by it, and first beliefs."""

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np

from batchcube.engine.policies.bins import (
    assign_bins,
    distinct_edges,
    equal_mass_edges,
    exponential_edges,
    uniform_edges,
)
from batchcube.errors import InputError

from ..seeds import stream
from ..spec.settings import PolicySettings, Workload
from ..workloads.lengths import Exponential, Mixture
from ..workloads.lengths import Lengths as DrawnLengths
from ..workloads.lengths import Uniform as UniformLengths
from ..workloads.predictors import ONE_BIN, Predictor
from ..workloads.sessions import with_history
from ..workloads.settings import FloatArray
from ..workloads.traces import RecordedTrace

MOST_SAMPLED = 50_000_000
"""Requests of all samples of a sweep together: each takes 16 to 24 bytes until the sweep is planned."""


class Sample(NamedTuple):
    """Requests that the bin edges and the first beliefs come from, each (request,)."""

    length: FloatArray
    tokens: FloatArray | None
    """Prompt and output tokens; None where lengths are seconds."""
    column: FloatArray | None
    turns: float = 1.0
    """Requests of a session, on average."""


class Sampler:
    """Samples of one sweep, and what is cut and believed by them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.sampled = 0

    def sample(self, workload: Workload, policy: PolicySettings, trace: RecordedTrace | None) -> Sample:
        """Return the sample of a workload: of its recorded trace, or drawn; InputError where it cannot be had."""
        if trace is not None:
            seen = slice(None)
            if policy.edges.sample == "prefix":
                if (policy.edges.prefix_requests or 0) > len(trace.arrival_s):
                    size = len(trace.arrival_s)
                    number = policy.edges.prefix_requests
                    raise InputError(
                        f"must be at most {size}, the trace's requests",
                        path="policy.edges.prefix_requests",
                        value=number,
                    )
                seen = slice(0, policy.edges.prefix_requests)
            output = trace.output_tokens[seen].astype(np.float64)
            column = None if trace.predicted is None else trace.predicted[seen]
            return Sample(output, output + trace.prompt_tokens[seen], column)
        lengths = workload.drawn_lengths
        assert lengths is not None
        size = policy.edges.sample_size
        self.sampled += size
        if self.sampled > MOST_SAMPLED:
            raise InputError(
                f"the samples of all different lengths are together at most {MOST_SAMPLED} requests: "
                "take a smaller one, or fewer lengths at a time",
                path="policy.edges.sample_size",
                value=size,
            )
        # Drawn apart from the replications: the scheduler must not see the future.
        rng = stream(self.seed, None, "lengths")
        if workload.classes is None:
            drawn = lengths.draw(size, rng, least_prompt(policy))
        else:
            assert isinstance(lengths, Mixture)
            drawn = lengths.draw_of(lengths.kinds(size, rng), rng, least_prompt(policy), workload.class_paths)
        if workload.sessions is None:
            return sample_of(drawn)
        opens = workload.sessions.openings(size, stream(self.seed, None, "sessions"))
        return sample_of(with_history(drawn, opens))._replace(turns=size / int(opens.sum()))

    def edges(self, workload: Workload, policy: PolicySettings, batch: int, sample: Sample) -> FloatArray:
        """Return the edges of a policy's bins (bin + 1,), without bins that nothing can hit; `batch` is B."""
        settings, lengths = policy.edges, workload.lengths
        if settings.kind == "explicit":
            return np.array(settings.values, dtype=np.float64)
        exact = workload.predictor.kind == "oracle"
        if settings.kind == "exponential" and exact and isinstance(lengths, Exponential):
            return distinct_edges(exponential_edges(1.0 / lengths.mean, batch, policy.bins))
        if settings.kind == "uniform" and exact and isinstance(lengths, UniformLengths):
            return distinct_edges(uniform_edges(lengths.low, lengths.high, policy.bins))
        seen = self._predicted(workload, sample)
        if settings.kind == "exponential":
            return distinct_edges(exponential_edges(1.0 / float(seen.mean()), batch, policy.bins))
        if settings.kind == "uniform":
            return distinct_edges(uniform_edges(float(seen.min()), float(seen.max()), policy.bins))
        return distinct_edges(equal_mass_edges(seen, policy.bins))

    def _predicted(self, workload: Workload, sample: Sample) -> FloatArray:
        """Return the predicted lengths of the sample; the true ones where the predictor gives classes, not lengths."""
        if draws_classes(workload.predictor):
            return sample.length
        rng = stream(self.seed, None, "predictor")
        prediction = workload.predictor.predict(sample.length, ONE_BIN, rng, sample.column)
        return sample.length if prediction.bin is not None else prediction.predicted

    def beliefs(
        self, workload: Workload, policy: PolicySettings, edges: FloatArray, sample: Sample
    ) -> tuple[FloatArray, FloatArray]:
        """Return mean and mean square of prompt + output, (bin,), before anything has been observed."""
        bins = len(edges) - 1
        tokens = np.zeros(len(sample.length)) if sample.tokens is None else sample.tokens
        mean, square = np.full(bins, tokens.mean()), np.full(bins, np.square(tokens).mean())
        if policy.controller_scope == "per_bin" and bins > 1 and policy.mode == "multi_bin_dynamic":
            rng = stream(self.seed, None, "predictor")
            predicted = workload.predictor.predict(sample.length, edges, rng, sample.column)
            of = assign_bins(predicted.predicted, edges) if predicted.bin is None else predicted.bin
            for j in range(bins):
                mine = tokens[of == j]
                if len(mine):
                    mean[j], square[j] = mine.mean(), np.square(mine).mean()
        return mean, square


def draws_classes(predictor: Predictor) -> bool:
    """Say whether a predictor draws classes around the true ones: bins are cut without it."""
    return predictor.draws and predictor.looks_at_bins


def least_prompt(policy: PolicySettings) -> int:
    """Return the fewest tokens of a prompt that is drawn: mode continuous has no requests without one."""
    return int(policy.mode == "continuous")


def trace_resampling(workload: Workload) -> str:
    """Return how a recorded trace is resampled; "none" for a drawn workload."""
    return "none" if workload.trace is None else workload.trace.resample


def sample_of(drawn: DrawnLengths) -> Sample:
    """Return drawn lengths as a sample."""
    if drawn.service_s is not None:
        return Sample(drawn.service_s, None, drawn.predicted)
    assert drawn.output_tokens is not None
    output = drawn.output_tokens.astype(np.float64)
    return Sample(output, output if drawn.prompt_tokens is None else output + drawn.prompt_tokens, drawn.predicted)


def sampling(policy: PolicySettings, trace: RecordedTrace | None) -> Hashable:
    """Return what a sample depends on besides its source."""
    edges = policy.edges
    return (edges.sample, edges.prefix_requests) if trace is not None else edges.sample_size


def extent_of(sample: Sample) -> tuple[float, float]:
    """Return the mean prompt and the longest output of a sample, in tokens."""
    if sample.tokens is None:
        return 0.0, 0.0
    return float((sample.tokens - sample.length).mean()), float(sample.length.max())
