"""The bent step law fitted to steps: tables of decodes and of prefill tokens, piecewise linear between nodes.

A step of D decodes that read R tokens, with P prefill tokens and attention A, takes

    decode(D) + slope(D) R + [prefill(P + D) - prefill(D)] + c4 A + [P > 0] c5

Both kinds of tokens pass the same matrices, so prefill tokens come on top of those that decode: the table of prefills
is read behind them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_MET = 1.0 - 1e-6
"""Leverage from which on a law cannot miss a measurement."""


class BentLaw(NamedTuple):
    """Seconds at nodes, as the step law has them (docs/model.md, section 10)."""

    requests: Floats
    decode_s: Floats
    decode_s_per_kv_token: Floats
    tokens: Floats
    prefill_s: Floats
    c4_s_per_prefill_attention: float
    c5_s_per_prefill_step: float

    def seconds(
        self, decodes: ArrayLike, kv_tokens: ArrayLike, prefill_tokens: ArrayLike, prefill_attention: ArrayLike
    ) -> Floats:
        """Return the seconds of steps, broadcast over all arguments."""
        d, r, p, a = (np.asarray(x, np.float64) for x in (decodes, kv_tokens, prefill_tokens, prefill_attention))
        behind = _shares(d + p, self.tokens) - _shares(d, self.tokens)
        return np.asarray(
            _shares(d, self.requests) @ self.decode_s
            + r * (_shares(d, self.requests) @ self.decode_s_per_kv_token)
            + behind @ self.prefill_s
            + self.c4_s_per_prefill_attention * a
            + self.c5_s_per_prefill_step * (p > 0)
        )


def fit_bent(
    decodes: Floats,
    kv_tokens: Floats,
    prefill_tokens: Floats,
    prefill_attention: Floats,
    seconds: Floats,
    requests: ArrayLike,
    tokens: ArrayLike,
) -> BentLaw:
    """Fit the law to steps (n,) with least squares of the relative residuals; times never fall from node to node.

    First the decodes, from steps without prefills. Then all else, which cannot worsen them. Where no step has both,
    nothing tells decode(0) from c5: it lies on the line of the first two nodes.
    """
    at, token_at = np.asarray(requests, np.float64), np.asarray(tokens, np.float64)
    alone = prefill_tokens == 0
    decode, behind = _terms(decodes, kv_tokens, prefill_tokens, at, token_at)
    found = _relative(decode[alone], seconds[alone], seconds[alone], np.full(decode.shape[1], np.inf))
    rises, slopes = found[: at.size - 1], found[at.size - 1 :]
    decode_s = np.concatenate(([0.0], np.cumsum(rises)))
    share = _shares(decodes, at)
    known = share @ decode_s + kv_tokens * (share[:, 1:] @ slopes)

    rest = np.column_stack([behind, prefill_attention, prefill_tokens > 0, share[:, 0]])[~alone]
    most = np.full(rest.shape[1], np.inf)
    most[-1] = max(decode_s[1], np.finfo(float).tiny)
    target = (seconds - known)[~alone]
    if decodes[~alone].any():
        found = _relative(rest, target, seconds[~alone], most)
        decode_s[0] = found[-1]
    else:
        line = decode_s[1] - at[1] * (decode_s[2] - decode_s[1]) / (at[2] - at[1]) if at.size > 2 else 0.0
        decode_s[0] = max(line, 0.0)
        found = np.append(_relative(rest[:, :-1], target - decode_s[0], seconds[~alone], most[:-1]), decode_s[0])
    prefill_s = np.concatenate(([0.0], np.cumsum(found[: token_at.size - 1])))
    slopes = np.concatenate(([slopes[0]], slopes))
    return BentLaw(at, decode_s, slopes, token_at, prefill_s, float(found[-3]), float(found[-2]))


def errors_of_bent(
    law: BentLaw,
    decodes: Floats,
    kv_tokens: Floats,
    prefill_tokens: Floats,
    prefill_attention: Floats,
    seconds: Floats,
) -> tuple[Floats, int]:
    """Return the covariance (4, 4) of how far a law fitted to these steps may be off, and its degrees of freedom.

    The rows: the fraction of the table of decodes, and of that of prefills, that comes nearest to what their nodes are
    off by over the steps; c4; c5, with decode(0) held as it is. What ended at 0 is not off. All that was fitted counts:
    the more numbers follow a measurement, the less its residual tells of its scatter. Each has a scatter of its own
    (HC2: MacKinnon and White, J. Econometrics 29 (1985) 305-325; HC3 is several times too wide where two or three
    measurements carry a node). The degrees of freedom are those of decodes or of all else, whichever has fewer; where
    one has none, its rows are NaN.
    """
    alone, nodes = prefill_tokens == 0, law.tokens.size - 1
    residual = law.seconds(decodes, kv_tokens, prefill_tokens, prefill_attention) / seconds - 1.0
    terms = _terms(decodes, kv_tokens, prefill_tokens, law.requests, law.tokens)
    decode, behind = (term / seconds[:, None] for term in terms)
    others = np.column_stack([prefill_attention, ~alone, _shares(decodes, law.requests)[:, 0]]) / seconds[:, None]
    of_decode = np.concatenate([law.decode_s[1:2], np.diff(law.decode_s[1:]), law.decode_s_per_kv_token[1:]])
    of_behind = np.diff(law.prefill_s)
    fitted_0 = law.decode_s[0] if decodes[~alone].any() else 0.0
    of_others = np.array([law.c4_s_per_prefill_attention, law.c5_s_per_prefill_step, fitted_0])

    off, spare = _off(decode[alone], residual[alone], of_decode > 0)
    rest_off, rest_spare = _off(
        np.hstack([behind, others])[~alone], residual[~alone], np.concatenate([of_behind, of_others]) > 0
    )
    scale = _scale(decode[alone], of_decode, off)
    rest = np.vstack([_scale(behind[~alone], of_behind, rest_off[:nodes]), rest_off[nodes : nodes + 2]])
    covariance = np.zeros((4, 4))
    covariance[0, 0] = scale @ scale
    covariance[1:, 1:] = rest @ rest.T
    return covariance, min(spare, rest_spare)


def _off(terms: Floats, residual: Floats, free: NDArray[np.bool_]) -> tuple[Floats, int]:
    """Return what each step (n,) may move the coefficients of terms (n, term) by, (term, n), and how many are spare.

    What the law cannot miss scatters as the others do on average.
    """
    off = np.zeros(terms.shape[::-1])
    scale = np.linalg.norm(terms, axis=0)
    free = free & (scale > 0)
    rows = terms[:, free] / scale[free]
    inverse = np.linalg.pinv(rows)
    leverage = np.einsum("ij,ji->i", rows, inverse)
    spare = residual.size - int(free.sum())
    if spare <= 0:
        return np.full_like(off, np.nan), spare
    variance = np.full(residual.size, residual @ residual / spare)
    missed = leverage < _MET
    variance[missed] = residual[missed] ** 2 / (1.0 - leverage[missed])
    off[free] = inverse / scale[free, None] * np.sqrt(variance)
    return off, spare


def _scale(terms: Floats, values: Floats, off: Floats) -> Floats:
    """Return the fraction of a table (n,) nearest to what its coefficients are off by, (term, n); 0 of a table of 0."""
    whole = terms @ values
    size = float(whole @ whole)
    return np.asarray(whole @ terms @ off / size) if size > 0 else np.zeros(off.shape[1])


def _terms(
    decodes: Floats, kv_tokens: Floats, prefill_tokens: Floats, requests: Floats, tokens: Floats
) -> tuple[Floats, Floats]:
    """Return what decode rises and slopes at nodes, and what prefill rises count for in steps: (n, term) each.

    Rises from node to node in place of times: they are >= 0.
    """
    rise, token_rise = (np.tril(np.ones((nodes.size, nodes.size)))[:, 1:] for nodes in (requests, tokens))
    share = _shares(decodes, requests)
    behind = (_shares(decodes + prefill_tokens, tokens) - _shares(decodes, tokens)) @ token_rise
    return np.hstack([share @ rise, share[:, 1:] * kv_tokens[:, None]]), behind


def _shares(x: Floats, nodes: Floats) -> Floats:
    """Return the weights (..., node) by which values at nodes make that at x; beyond the last on its last segment."""
    i = np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, nodes.size - 2)
    within = (x - nodes[i]) / (nodes[i + 1] - nodes[i])
    weights = np.zeros((*x.shape, nodes.size))
    np.put_along_axis(weights, i[..., None], (1 - within)[..., None], -1)
    np.put_along_axis(weights, i[..., None] + 1, within[..., None], -1)
    return weights


def _relative(terms: Floats, target: Floats, seconds: Floats, most: Floats) -> Floats:
    """Return coefficients from 0 to `most` of the terms, with the least residuals relative to the seconds."""
    from scipy.optimize import lsq_linear

    matrix = terms / seconds[:, None]
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    # By active sets: what wants less than nothing is 0, and not a little more.
    found = lsq_linear(matrix / scale, target / seconds, bounds=(0.0, most * scale), method="bvls")
    return np.asarray(found.x / scale)
