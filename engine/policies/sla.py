"""Which batch size meets the latency target: Algorithm 2 of [DB], arXiv 2503.05248 (docs/model.md, section 7)."""

from typing import Any, Literal, NamedTuple, get_args

from ..dialect import floor, maximum, minimum, policy, settle, where
from ..refusals import number_of
from ..ticks import TICKS_PER_S
from .controller import Controller, View, middle

Variant = Literal["paper", "heuristic"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
PAPER, HEURISTIC = range(len(VARIANTS))
Signal = Literal["tbt", "batch_time", "latency", "token_gap"]
SIGNALS: tuple[Signal, ...] = get_args(Signal)
TBT, BATCH_TIME, LATENCY, TOKEN_GAP = range(len(SIGNALS))
BATCH_SIGNALS: tuple[Signal, ...] = ("tbt", "batch_time", "latency")
STEP_SIGNALS: tuple[Signal, ...] = ("tbt", "token_gap")
"""Under continuous batching: the time of a decode step, or the time since the tokens before it, prefills between them
included."""

ALPHA, DELTA = 16, 4
"""α and δ unless something else is said."""


class Sla(NamedTuple):
    """Settings of the search; times in ticks, batch sizes as floats."""

    enabled: bool
    variant: int
    """Of `VARIANTS`."""
    signal: int
    """What is observed, also where the search is not enabled: of `SIGNALS`."""
    target: float
    """D_SLA."""
    tolerance: float
    """ε_D."""
    alpha: float
    """α: least width the search keeps."""
    delta: float
    """δ: step of the end that is not pinned."""


class Range(NamedTuple):
    """State of the search: the interval [b_low, b_high]."""

    low: float
    high: float


def no_sla(signal: str = "tbt") -> Sla:
    """Leave the batch size free of any latency target; the signal is observed for other controllers."""
    return Sla(False, PAPER, number_of(signal, SIGNALS, "policy.sla.signal"), float("inf"), 0.0, 0.0, 0.0)


def sla_search(
    variant: str, signal: str, target_s: float, tolerance_s: float, alpha: float = ALPHA, delta: float = DELTA
) -> Sla:
    """Build Algorithm 2's settings; InputError for a variant or signal that does not exist."""
    return Sla(
        True,
        number_of(variant, VARIANTS, "policy.sla.variant"),
        number_of(signal, SIGNALS, "policy.sla.signal"),
        target_s * TICKS_PER_S,
        tolerance_s * TICKS_PER_S,
        float(alpha),
        float(delta),
    )


@policy
def clamp(x: Any, low: Any, high: Any) -> Any:
    """Hold a value inside [low, high]."""
    return minimum(maximum(x, low), high)


@policy
def narrow_paper(span: Range, late: Any, early: Any, batch: Any, smallest: Any, largest: Any, sla: Sla) -> Range:
    """Move the interval as printed in [DB]; both ends are held inside [B_min, B_max], which the paper leaves open."""
    half = floor(sla.alpha / 2.0)
    low = where(late, span.low - sla.delta, where(early, minimum(batch, span.high - sla.alpha), batch - half))
    high = where(late, maximum(batch, span.low + sla.alpha), where(early, span.high + sla.delta, batch + half))
    return Range(clamp(low, smallest, largest), clamp(high, smallest, largest))


@policy
def narrow_heuristic(span: Range, late: Any, early: Any, batch: Any, smallest: Any, largest: Any, sla: Sla) -> Range:
    """Move the interval by this project's variant; b_low never falls in the first two branches."""
    half = (span.high - span.low) / 2.0
    low = where(late, maximum(span.low, settle(0.8 * batch)), where(early, maximum(span.low, batch), batch - half))
    high = where(late, minimum(span.high, batch), where(early, span.high + settle(0.2 * batch), batch + half))
    low, high = clamp(low, smallest, largest), clamp(high, smallest, largest)
    return Range(minimum(low, high), high)


@policy
def narrow(span: Range, signal: Any, batch: Any, smallest: Any, largest: Any, sla: Sla) -> Range:
    """Move the interval once, from the smoothed signal τ̄ and the smoothed batch size b̄."""
    late = signal > sla.target + sla.tolerance
    early = signal < sla.target - sla.tolerance
    paper = narrow_paper(span, late, early, batch, smallest, largest, sla)
    heuristic = narrow_heuristic(span, late, early, batch, smallest, largest, sla)
    return Range(
        where(sla.variant == PAPER, paper.low, heuristic.low),
        where(sla.variant == PAPER, paper.high, heuristic.high),
    )


@policy
def sla_batch(span: Range, smallest: Any, largest: Any) -> Any:
    """Return b_SLA, the middle of the interval, as a whole float."""
    return clamp(floor((span.low + span.high) / 2.0), smallest, largest)


class SlaState(NamedTuple):
    """State of Algorithm 2."""

    span: Range
    bound: float
    """b_SLA."""


@policy
def start_sla(view: View, sla: Sla) -> tuple[SlaState, Any]:
    """Begin in the middle of [B_min, B_max]."""
    bound = view.largest
    if sla.enabled:
        bound = middle(view)
    return SlaState(Range(view.smallest, view.largest), bound), bound


@policy
def decide_sla(state: SlaState, view: View, sla: Sla) -> tuple[SlaState, Any]:
    """Move the interval after every batch, or step that decoded."""
    span, bound = state.span, state.bound
    if sla.enabled:
        moved = narrow(span, view.steps.signal, view.steps.batch, view.smallest, view.largest, sla)
        shown = view.last.batch > 0.0
        span = Range(where(shown, moved.low, span.low), where(shown, moved.high, span.high))
        bound = where(shown, sla_batch(span, view.smallest, view.largest), bound)
    return SlaState(span, bound), bound


SLA = Controller("sla", Sla, start_sla, decide_sla, lambda sla: not sla.enabled)
