"""What is open of a step law before a log is read: the ways in which it may be off, and how far.

With a prior, a law of tables or of another server, these are a speed, a constant of each step that the host adds, and
smaller ones; without, all terms of a straight law, each of which may take as long as the steps of the log did.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.engine.continuous.steps import STEP_TERMS

from .coefficients import UNCERTAIN, DecodeNodes, FitQuality, PrefillNodes, StepCoefficients, Uncertain
from .drawing import knee_tokens, shifted
from .logs import Log

Floats = NDArray[np.float64]

# How far a prior may be off, standard deviations: seconds that the host adds to each step, and for each request in it,
# that a step with prefills takes longer; fractions of all of it, of how it grows with the batch, of a KV token, of
# prefills, of their attention.
HOST_S, HOST_S_PER_REQUEST, PREFILL_STEP_S = 5e-3, 2e-5, 10e-3
SPEED, GROWTH, KV_TOKEN, PREFILL, ATTENTION = 0.2, 0.3, 0.2, 0.2, 0.3
# What a client's clock adds to the time to first token: network and tokeniser.
CLIENT_S = 0.05
# The law is never faster than this fraction of a prior.
_LEAST_SPEED = 0.3
# Requests over which the growth of a table is taken, and which a KV token is read with.
_BATCH = 64
_TERMS: tuple[Uncertain, ...] = UNCERTAIN[: len(STEP_TERMS)]
_NODES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (0, 64, 128, 192, 256, 384, 512, 768, 1024, 2048)
# Requests that decode steps are taken from: each takes a look at all others.
_ENOUGH = 400
# A part of prefills that prompts show by less than this share of what they show most is left out of a law.
_LEAST_SHOWN = 1e-3
# Of a law of nothing, as a decode step takes some time.
_NO_TIME_S = 1e-9


class Opening(NamedTuple):
    """Ways in which a law, or a client's clock, may be off, (way,) each: independent normal, cut off below."""

    law: StepCoefficients
    """What they are off from."""
    names: tuple[Uncertain, ...]
    width: Floats
    """Standard deviations around 0."""
    low: Floats
    """Least values."""

    def at(self, values: Sequence[float] | Floats) -> StepCoefficients:
        """Return the law that is off by so much, (way,)."""
        return shifted(self.law, dict(zip(self.names, map(float, values), strict=True)))

    def drawn(self, rng: np.random.Generator) -> StepCoefficients:
        """Draw a law from what is open."""
        # Mirrored: half of a normal is what is left of one that is cut in its middle.
        return self.at(self.low + np.abs(rng.normal(0.0, self.width) - self.low))


class Means(NamedTuple):
    """What the decode steps between first and last token of some requests were made of."""

    terms: Floats
    """(request, term), sums in the order of `STEP_TERMS`: steps, tokens of decodes, KV tokens read, prefill tokens,
    attention, prefills."""
    seconds: Floats
    """(request,) what they took."""


def means_of(log: Log, kept: NDArray[np.bool_], replicas: int) -> Means:
    """Take decode steps apart by what a log says of others that run; tokens come evenly between first and last.

    Those of the requests kept that have any, every so many where there are more than enough. A log does not say which
    replica served a request: of the others, as many share its own as on average.
    """
    first, last = log.first_token_s, log.last_token_s
    prompt, output = log.prompt_tokens.astype(np.float64), log.output_tokens.astype(np.float64)
    lasts = np.maximum(last - first, 1e-9)
    rows = np.flatnonzero(kept & (output > 1) & (last > first))
    rows = rows[:: -(-len(rows) // _ENOUGH)] if len(rows) else rows
    terms = np.zeros((len(rows), len(STEP_TERMS)))
    for row, i in enumerate(rows):
        begin, end = np.maximum(first, first[i]), np.minimum(last, last[i])
        share = np.maximum(end - begin, 0.0) / lasts
        tokens = share * (output - 1.0)
        grown = ((begin + end) / 2.0 - first) / lasts * (output - 1.0)
        inside = (first > first[i]) & (first <= last[i])
        here = np.full(len(first), 1.0 / replicas)
        here[i] = 1.0
        terms[row] = (
            output[i] - 1.0,
            (tokens * here).sum(),
            (tokens * here * (prompt + grown))[share > 0].sum(),
            (prompt * here)[inside].sum(),
            (prompt**2 * here)[inside].sum(),
            here[inside].sum(),
        )
    return Means(terms, (last - first)[rows])


def opened(prior: StepCoefficients | None, log: Log, kept: NDArray[np.bool_], replicas: int = 1) -> Opening:
    """Return what is open before a log of so many replicas is fitted to the requests kept, (request,)."""
    law, names, width, low = _of_law(prior, log, kept, replicas)
    if log.clock == "server":
        return Opening(law, names, width, low)
    return Opening(law, (*names, "client"), np.append(width, CLIENT_S), np.append(low, 0.0))


def _of_law(prior: StepCoefficients | None, log: Log, kept: NDArray[np.bool_], replicas: int) -> Opening:
    if prior is None:
        weak = _weak_widths(log, kept, replicas)
        law = StepCoefficients(
            decode=_straight(_NO_TIME_S, 0.0, 0.0),
            prefill=PrefillNodes(tokens=list(_TOKENS), s=[0.0] * len(_TOKENS)),
            c4_s_per_prefill_attention=0.0,
            quality=_NO_QUALITY,
        )
        names: tuple[Uncertain, ...] = (*_TERMS, "bend", *(("knee",) if _shows_knee(log.prompt_tokens[kept]) else ()))
        return Opening(law, names, np.array([weak[name] for name in names]), np.zeros(len(names)))
    weak_widths = cache(lambda: _weak_widths(log, kept, replicas))
    law = _tabled(prior)
    growth, sizes = _growth(law), _sizes(law)
    ways: list[tuple[Uncertain, float, float]] = [("speed", SPEED, _LEAST_SPEED - 1.0), ("c0_s", HOST_S, 0.0)]
    # What a prior does not know at all is as open as without one.
    for name, part in zip(_TERMS[1:5], (GROWTH, KV_TOKEN, PREFILL, ATTENTION), strict=True):
        if name == "c3_s_per_prefill_token" and law.prefill is not None:
            ways.append(("prefill", PREFILL, _LEAST_SPEED - 1.0))
        else:
            host_s = HOST_S_PER_REQUEST if name == "c1_s_per_request" else 0.0
            ways.append((name, float(np.hypot(part * sizes[name], host_s)) or weak_widths()[name], -sizes[name]))
    ways.append(("c5_s_per_prefill_step", PREFILL_STEP_S, -law.c5_s_per_prefill_step))
    bend = float(np.hypot(GROWTH * growth, HOST_S_PER_REQUEST * _BATCH))
    ways.append(("bend", bend if growth else weak_widths()["bend"], -growth))
    widths, low = (np.array([way[k] for way in ways]) for k in (1, 2))
    return Opening(law, tuple(name for name, _, _ in ways), widths, low)


def _shows_knee(prompts: NDArray[np.int64]) -> bool:
    """Say whether prompts (request,) differ enough for a knee to be told from a constant, tokens and attention."""
    tokens = prompts.astype(np.float64)
    terms = np.column_stack([np.ones_like(tokens), tokens, tokens**2, knee_tokens(tokens)])
    return bool(np.linalg.matrix_rank(terms / np.linalg.norm(terms, axis=0), rtol=_LEAST_SHOWN) == terms.shape[1])


_NO_QUALITY = FitQuality(
    measurements=0,
    r_squared=None,
    rms_residual=None,
    worst_residual=None,
    leave_one_out_rms=None,
    leave_one_size_out_rms=None,
)


def _straight(c0: float, c1: float, c2: float) -> DecodeNodes:
    """Return a straight law of decodes as a table, which can bend."""
    seconds = [c0 + c1 * node for node in _NODES]
    return DecodeNodes(requests=list(_NODES), s=seconds, s_per_kv_token=[c2] * len(_NODES))


def _tabled(prior: StepCoefficients) -> StepCoefficients:
    """Return a law with its decodes as a table, and 0 for what it does not know.

    It still reaches as far as it was measured; how well it followed what it was made from says nothing of another law.
    """
    values: dict[str, object] = {"errors": None, "quality": _NO_QUALITY, "rms_by_kind": {}}
    if prior.decode is None:
        c0, c1, c2 = (getattr(prior, name) or 0.0 for name in STEP_TERMS[:3])
        values |= dict.fromkeys(STEP_TERMS[:3]) | {"decode": _straight(c0, c1, c2)}
    if prior.prefill is None and prior.c3_s_per_prefill_token is None:
        values["c3_s_per_prefill_token"] = 0.0
    if prior.c4_s_per_prefill_attention is None:
        values["c4_s_per_prefill_attention"] = 0.0
    return prior.model_copy(update=values)


def _growth(law: StepCoefficients) -> float:
    """Return by how much a decode step of `_BATCH` takes longer than one of one."""
    assert law.decode is not None
    few, many = np.interp([1, _BATCH], law.decode.requests, law.decode.s)
    return float(many - few)


def _sizes(law: StepCoefficients) -> dict[str, float]:
    """Return the terms of a law; what a table of decodes comes to in their place."""
    assert law.decode is not None
    kv_token = float(np.interp(_BATCH, law.decode.requests, law.decode.s_per_kv_token))
    tabled = {"c1_s_per_request": _growth(law) / (_BATCH - 1), "c2_s_per_kv_token": kv_token}
    return {name: getattr(law, name) or 0.0 for name in STEP_TERMS} | tabled


def _weak_widths(log: Log, kept: NDArray[np.bool_], replicas: int) -> dict[str, float]:
    """Return for every term what it would be if the steps of the log consisted of it alone."""
    means = means_of(log, kept, replicas)
    steps = means.terms[:, 0]
    step_s = float(np.median(means.seconds / steps))
    decodes, kv_tokens = (float(np.median(means.terms[:, k] / steps)) for k in (1, 2))
    first_s = float(np.mean((log.first_token_s - log.came_s)[kept]))
    prompt = log.prompt_tokens[kept].astype(np.float64)
    widths = (
        step_s,
        step_s / decodes,
        step_s / kv_tokens,
        first_s / prompt.mean(),
        first_s / (prompt**2).mean(),
        first_s,
    )
    return dict(zip(STEP_TERMS, widths, strict=True)) | {"bend": step_s, "knee": first_s / prompt.mean()}
