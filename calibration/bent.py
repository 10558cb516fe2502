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
    rise = np.tril(np.ones((at.size, at.size)))
    share = _shares(decodes, at)
    # Rises from node to node in place of times: they are >= 0.
    decode = np.hstack([share @ rise[:, 1:], share[:, 1:] * kv_tokens[:, None]])
    found = _relative(decode[alone], seconds[alone], seconds[alone], np.full(decode.shape[1], np.inf))
    rises, slopes = found[: at.size - 1], found[at.size - 1 :]
    decode_s = np.concatenate(([0.0], np.cumsum(rises)))
    known = share @ decode_s + kv_tokens * (share[:, 1:] @ slopes)

    token_rise = np.tril(np.ones((token_at.size, token_at.size)))[:, 1:]
    behind = (_shares(decodes + prefill_tokens, token_at) - _shares(decodes, token_at)) @ token_rise
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
