"""What finished batches have taught: running means of τ, b and the tokens per request (docs/model.md, section 8)."""

from typing import Any, Literal, NamedTuple, get_args

from batchcube.errors import InputError

from ..dialect import maximum, minimum, nearest, policy, where
from ..refusals import number_of

Kind = Literal["ema", "window"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EMA, WINDOW = range(len(KINDS))
UNIT = 1024
"""Observations are kept as integers of 1/1024, so that sums are exact and equal in every backend."""
FINER = 1024
"""Smoothed values are kept as integers of 1/1024 of that: the finest unit in which the largest still fits int64."""
WEIGHT, OBSERVATIONS = 0.2, 20
"""w and n unless something else is said."""
SMALLEST_WEIGHT = 1e-6
"""Rounding, 2^-20 a step over the weight, then moves a smoothed value by one tick, request, token or token² at most."""
LARGEST_WINDOW = 2000
LONGEST_SIGNAL = 2.0**40
"""A signal beyond 12.7 days is held there: a window of them still fits int64."""


class Smoothing(NamedTuple):
    """How the running means forget."""

    kind: int
    """Of `KINDS`."""
    weight: float
    """w of x̄ <- w·x + (1-w)·x̄."""
    observations: int
    """n of the mean over the last n."""


class Observation(NamedTuple):
    """One finished batch, or what many of them come to: integers of 1/1024, smoothed values of 1/1024 of that."""

    signal: int
    """τ: ticks (ticks per token for `tbt`)."""
    batch: int
    """b: requests."""
    tokens: int
    """Mean of p + o."""
    squares: int
    """Mean of (p + o)²."""


NOTHING = Observation(0, 0, 0, 0)


class RunningMeans(NamedTuple):
    """State of the running means."""

    seen: int
    """Observations held: at most n for a window."""
    total: Observation
    """The smoothed values (`ema`), or the sums over the window."""


def smoothing(kind: str = "ema", weight: float = WEIGHT, observations: int = OBSERVATIONS) -> Smoothing:
    """Build the settings of the running means; InputError for a value out of range."""
    number = number_of(kind, KINDS, "policy.estimates.kind")
    if not SMALLEST_WEIGHT <= weight <= 1.0:
        raise InputError(f"must be in [{SMALLEST_WEIGHT:g}, 1]", path="policy.estimates.weight", value=weight)
    if not 1 <= observations <= LARGEST_WINDOW:
        raise InputError(f"must be in 1..{LARGEST_WINDOW}", path="policy.estimates.observations", value=observations)
    return Smoothing(number, float(weight), int(observations))


@policy
def observe(signal: Any, size: Any, tokens: Any, squares: Any) -> Observation:
    """Describe a finished batch; `tokens` and `squares` are sums over its requests.

    Each batch is one observation, whatever its size: moments average over batches, not requests (docs/model.md,
    section 8).
    """
    held = minimum(signal, LONGEST_SIGNAL)
    # Floats before dividing: plain Python would divide large integers with a single rounding, machine code does not.
    mean_tokens, mean_squares = tokens * 1.0 / size, squares * 1.0 / size
    return Observation(nearest(held * UNIT), size * UNIT, nearest(mean_tokens * UNIT), nearest(mean_squares * UNIT))


@policy
def start_means() -> RunningMeans:
    """Return the state before any observation."""
    return RunningMeans(0, NOTHING)


@policy
def approach(old: Any, new: Any, weight: float) -> Any:
    """Move a smoothed value towards a new one, by one unit at least: it arrives, however small the weight."""
    step = nearest(weight * (new - old))
    least = where(new > old, 1, where(new < old, -1, 0))
    return old + where(step == 0, least, step)


@policy
def blend(old: Any, new: Any, oldest: Any, first: Any, settings: Smoothing) -> Any:
    """Move one mean: towards the new value (`ema`), or by exchanging the oldest for it (`window`)."""
    fine = new * FINER
    smoothed = where(first, fine, approach(old, fine, settings.weight))
    return where(settings.kind == EMA, smoothed, old + new - oldest)


@policy
def update(running: RunningMeans, new: Observation, oldest: Observation, settings: Smoothing) -> RunningMeans:
    """Take in one finished batch; `oldest` is the observation that leaves a full window, zeros before that."""
    first = running.seen == 0
    old = running.total
    return RunningMeans(
        minimum(running.seen + 1, settings.observations),
        Observation(
            blend(old.signal, new.signal, oldest.signal, first, settings),
            blend(old.batch, new.batch, oldest.batch, first, settings),
            blend(old.tokens, new.tokens, oldest.tokens, first, settings),
            blend(old.squares, new.squares, oldest.squares, first, settings),
        ),
    )


@policy
def read(total: Any, running: RunningMeans, settings: Smoothing) -> Any:
    """Return one mean as a float, in the unit it was observed in."""
    return total * 1.0 / (UNIT * where(settings.kind == EMA, FINER, maximum(running.seen, 1)))
