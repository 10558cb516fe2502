"""How long a batch takes: T(b, L) = a0 + a1 * L * h(b), or a measured table (docs/model.md, section 2; [MB] 3)."""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchcube.errors import InputError

from ..dialect import maximum, minimum, nearest, policy, where, whole
from ..ticks import LATEST, TICKS_PER_S, from_seconds

BatchFactor = Literal["constant", "linear", "saturating", "power"]
BATCH_FACTORS: tuple[BatchFactor, ...] = get_args(BatchFactor)
"""Names of h(b): 1, 1 + γ(b-1), 1 + γ(b-1)/b, b^γ; a simpler law stands before one with more freedom."""


class Service(NamedTuple):
    """A service law as straight pieces in the length, one row per batch size.

    Every law has this form once b is given, so one kernel serves them all, and a single product is rounded before it is
    added: the result is the same in every backend.
    """

    knots: NDArray[np.int64]
    """(piece,) length where each piece begins; the first is 0."""
    base: NDArray[np.int64]
    """(batch size, piece) ticks at the knot."""
    slope: NDArray[np.float64]
    """(batch size, piece) ticks per unit of length."""
    extrapolated: NDArray[np.uint8]
    """(batch size, piece) 1 where a measured table was left and the fitted law stands in."""
    prefill: int
    """Ticks before the first token, a0; with a measured table at most its shortest time."""
    timed: bool
    """Lengths are service times in ticks, not tokens."""


@policy
def piece_of(length: Any, service: Service) -> Any:
    """Find the piece of the law that a length falls on."""
    piece = 0
    for k in range(1, service.knots.shape[0]):
        piece = where(length >= service.knots[k], k, piece)
    return piece


@policy
def service_ticks(batch_size: Any, length: Any, service: Service) -> Any:
    """Return T(b, L) in ticks, at least one."""
    piece = piece_of(length, service)
    beyond = (length - service.knots[piece]) * 1.0
    return maximum(service.base[batch_size, piece] + nearest(service.slope[batch_size, piece] * beyond), 1)


@policy
def own_ticks(batch_size: Any, length: Any, batch_ticks: Any, service: Service) -> Any:
    """Return when, after its start, a request of a batch is done by itself: never after the whole batch.

    Where a measured table ends, the fitted law may fall below it, and a shorter request would seem to take longer.
    """
    return minimum(service_ticks(batch_size, length, service), batch_ticks)


@policy
def tokens_after(instant: Any, start: Any, batch_ticks: Any, tokens: Any) -> Any:
    """Return how many whole tokens of a batch are made after an instant, were they made evenly over its service."""
    inside = minimum(maximum(start + batch_ticks - instant, 0), batch_ticks)
    return whole(tokens * (inside / maximum(batch_ticks, 1)))


@np.errstate(under="ignore")  # a vanishing γ or a1 is as good as none
def batch_factor(batch_size: ArrayLike, h: str, gamma: float = 0.0) -> NDArray[np.float64]:
    """Return h(b): `constant` 1, `linear` 1+γ(b-1), `saturating` 1+γ(b-1)/b, `power` b^γ; else InputError."""
    b = np.maximum(np.asarray(batch_size, dtype=np.float64), 1.0)
    match h:
        case "constant":
            return np.ones_like(b)
        case "linear":
            return 1.0 + gamma * (b - 1.0)
        case "saturating":
            return 1.0 + gamma * (b - 1.0) / b
        case "power":
            return np.asarray(b**gamma, dtype=np.float64)
    raise InputError(f"must be one of {', '.join(BATCH_FACTORS)}", path="law", value=repr(h))


@np.errstate(under="ignore")
def formula(
    a0_s: float, a1_s_per_token: float, h: str = "constant", gamma: float = 0.0, *, largest_batch: int
) -> Service:
    """Build the law a0 + a1 * L * h(b) for batch sizes up to `largest_batch`."""
    slope = a1_s_per_token * TICKS_PER_S * batch_factor(np.arange(largest_batch + 1), h, gamma)
    prefill = int(from_seconds(a0_s))
    return Service(
        knots=np.zeros(1, np.int64),
        base=np.full((largest_batch + 1, 1), prefill, np.int64),
        slope=np.ascontiguousarray(slope[:, None]),
        extrapolated=np.zeros((largest_batch + 1, 1), np.uint8),
        prefill=prefill,
        timed=False,
    )


def given(*, largest_batch: int) -> Service:
    """Build the law T = max of the requests' own service times (lengths are ticks), the setting of [MB]'s theorems."""
    return formula(0.0, 1.0 / TICKS_PER_S, largest_batch=largest_batch)._replace(timed=True)


def measured(
    batch_sizes: NDArray[np.int64],
    lengths: NDArray[np.int64],
    seconds: NDArray[np.float64],
    outside: Service,
) -> Service:
    """Build the law that interpolates a measured grid bilinearly.

    `seconds` is (batch size, length); `outside` is a fitted `formula` law, used, and counted, where the grid ends.
    """
    largest = outside.base.shape[0] - 1
    inner = np.arange(batch_sizes[0], min(batch_sizes[-1], largest) + 1)
    at_knots = np.stack([np.interp(inner, batch_sizes, column) for column in seconds.T], axis=1) * TICKS_PER_S

    # Pieces: below the grid, between its lengths, the last measured length itself, above the grid.
    knots = np.concatenate(([0], lengths, [lengths[-1] + 1])).astype(np.int64)
    slope = np.repeat(outside.slope, len(knots), axis=1)
    base = outside.base + np.rint(outside.slope * knots).astype(np.int64)
    extrapolated = np.ones_like(base, dtype=np.uint8)
    last = len(lengths)
    base[inner, 1 : last + 1] = np.rint(at_knots)
    slope[inner, 1:last] = np.diff(at_knots, axis=1) / np.diff(lengths)
    slope[inner, last] = 0.0
    extrapolated[inner, 1 : last + 1] = 0
    # A fitted a0 may exceed a measured time: the first token then came after the last, at a negative pace.
    return Service(knots, base, slope, extrapolated, min(outside.prefill, int(base.min())), timed=False)


def longest_service(service: Service, length: int) -> int:
    """Return the longest a batch of requests up to `length` can take, in ticks; InputError if it cannot be held."""
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        reach = service.base + service.slope * np.maximum(length - service.knots, 0)
    longest = float(np.max(reach))
    if (
        not np.isfinite(longest)
        or longest > LATEST
        or float(np.min(service.slope)) < 0
        or int(np.min(service.base)) < 0
    ):
        raise InputError("batch times must be finite, not negative and not fall with length", path="server.service")
    return int(longest)
