"""How far coefficients reach: the most of everything that they were measured, fitted or tabled with."""

from collections.abc import Iterator
from typing import NamedTuple

from .coefficients import Coefficients

# A load or a length that is hardly larger than what was seen is no other one.
_HARDLY = 1.05
_WORDS = {
    "requests": "{:.0f} requests at once",
    "context_tokens": "contexts of {:.0f} tokens",
    "prefill_tokens": "{:.0f} prefill tokens in a step",
    "requests_per_s": "{:.3g} requests/s",
}


class Reach(NamedTuple):
    """The most of everything that coefficients were measured, fitted or tabled with; None where nothing is known."""

    requests: float | None
    """At once on a replica."""
    context_tokens: float | None
    """Of a request."""
    prefill_tokens: float | None
    """Of a step."""
    requests_per_s: float | None


def reach_of(known: Coefficients) -> Reach:
    """Return how far coefficients reach; steps of a prior reach beyond the log that it was adapted to.

    Nodes of tables do not tell: a straight law that a log bends is written down at some that nobody measured.
    """
    ranges = None if known.step_law is None else known.step_law.ranges
    seen = None if known.log is None else known.log.seen
    batches = [laws for laws in known.batch_laws if laws.batch_sizes is not None]
    requests = [laws.batch_sizes[1] for laws in batches if laws.batch_sizes is not None]
    context = [
        (laws.prompt_tokens or 0.0) + laws.output_tokens[1] for laws in batches if laws.output_tokens is not None
    ]
    if seen is not None:
        requests.append(seen.running[1] / (1 if known.replica is None else known.replica.replicas))
        context.append(seen.context_tokens[1])
    prefill = None
    if ranges is not None:
        requests += ranges.decodes[1:] if ranges.decodes else []
        context += ranges.context_tokens[1:] if ranges.context_tokens else []
        prefill = ranges.prefill_tokens[1] if ranges.prefill_tokens else None
    return Reach(
        max(requests, default=None),
        max(context, default=None),
        prefill,
        None if seen is None else seen.requests_per_s,
    )


def validity(known: Coefficients) -> str:
    """Return in words how far coefficients reach, empty where nothing is known of it."""
    said = [_WORDS[name].format(most) for name, most in reach_of(known)._asdict().items() if most is not None]
    return f"measured, fitted or tabled up to {', '.join(said)}: beyond, steps are extrapolated" if said else ""


def beyond(known: Coefficients, asked: Reach) -> Iterator[str]:
    """Say, a line each, where what is asked leaves what coefficients were measured, fitted or tabled with."""
    for (name, most), wanted in zip(reach_of(known)._asdict().items(), asked, strict=True):
        if most is not None and wanted is not None and wanted > _HARDLY * most:
            may_come, reaches_to = (_WORDS[name].format(number) for number in (wanted, most))
            yield f"up to {may_come} may come, coefficients {known.name} reach to {reaches_to}: extrapolated"
