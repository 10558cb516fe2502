"""The counts of a catalogue as parts of kernels: one function for all that is counted at one place.

Its text is made here, a line or two for each count: kernels name no column, and Numba compiles one function, not a
chain of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ..compiling.jit import inline
from ..dialect import nearest
from ..moments import LOW
from ..statistics import (
    BINS,
    DECISION,
    LARGEST,
    LEVEL,
    SIGNAL,
    SUM,
    TOTALS,
    WIDE,
    WINDOWS,
    Catalogue,
    Count,
    Decision,
    Time,
    decision_of,
)
from ..windows import rest_of_window
from .moments import add_value

_LINES = {
    SUM: ["row[{at}] += of_{k}(seen, limits)"],
    LARGEST: ["row[{at}] = max(row[{at}], of_{k}(seen, limits))"],
    # Carried at once: a sum then has one form, in whatever order it came together.
    WIDE: [
        "value = of_{k}(seen, limits)",
        "low = row[{at}] + (value & LOW)",
        "row[{at}] = low & LOW",
        "row[{at} + 1] += (value >> 32) + (low >> 32)",
    ],
    LEVEL: [
        "change = of_{k}(seen, limits)",
        "row[{at}] += change",
        "row[{at} + 1] += change * rest_of_window(instant, window, limits.window)",
    ],
}


def adder(catalogue: Catalogue, *over: str, only: Callable[[Count], bool] = lambda _: True) -> Callable[..., None]:
    """Return `add(seen, limits, tally, bin, window, instant)` for what is counted over something."""
    return _adder(catalogue, [count for count in catalogue.counts if count.over in over and only(count)])


def adder_together(catalogue: Catalogue, over: str, *, all_of_them: bool = False) -> Callable[..., None]:
    """Return the same for many at once, of the counts that have a closed form; the others too, if it is all of them."""
    counts = [count for count in catalogue.counts if count.over == over and (count.together or all_of_them)]
    return _adder(catalogue, [count._replace(of=count.together or count.of) for count in counts])


def _adder(catalogue: Catalogue, counts: Sequence[Count]) -> Callable[..., None]:
    known: dict[str, Any] = {"__name__": __name__, "LOW": LOW, "rest_of_window": rest_of_window}
    lines = {TOTALS: ["row = tally.totals"], BINS: ["row = tally.bins[bin]"], WINDOWS: ["row = tally.windows[window]"]}
    for k, count in enumerate(counts):
        known[f"of_{k}"] = count.of
        at = catalogue.at(count.name, count.into)
        lines[count.into] += [line.format(at=at, k=k) for line in _LINES[count.reducer]]
    body = ["pass"]
    for into in (TOTALS, BINS):
        body += lines[into] if len(lines[into]) > 1 else []
    if len(lines[WINDOWS]) > 1:
        body += ["if window < limits.windows:", *(f"    {line}" for line in lines[WINDOWS])]
    return _compiled("add(seen, limits, tally, bin, window, instant)", body, known)


def adder_of_decisions(catalogue: Catalogue) -> Callable[..., None]:
    """Return `add(times, target, smoothing, limits, tally, bin, window, instant)` for what controllers decide."""
    add_decision, add_signal = adder(catalogue, DECISION), adder(catalogue, SIGNAL)

    @inline
    def add(times, target, smoothing, limits, tally, bin, window, instant):  # type: ignore[no-untyped-def]
        # A division for every step would be felt: the signal is read where there is one.
        decision = Decision(times, target.batch, target.memory_bound, target.sla_bound, 0)
        if window < limits.windows and target.running.seen > 0:
            decision = decision_of(times, target, smoothing)
            add_signal(decision, limits, tally, bin, window, instant)
        add_decision(decision, limits, tally, bin, window, instant)

    return add


def adder_of_times(catalogue: Catalogue, over: str, only: Callable[[Time], bool]) -> Callable[..., None]:
    """Return `add(seen, limits, tally, weight)` for times of requests, all `weight` of them alike."""
    each = catalogue.clock.ticks_per_unit
    known: dict[str, Any] = {"__name__": __name__, "add_value": add_value, "nearest": nearest}
    body = ["pass"]
    for q, time in enumerate(catalogue.times):
        if time.over == over and only(time):
            known[f"of_{q}"], known[f"when_{q}"] = time.of, time.when
            value = f"of_{q}(seen, limits)" if each == 1 else f"of_{q}(seen, limits) // {each}"
            fine = "value" if time.finer == 1 else f"nearest(value * {time.finer})"
            body += [f"if when_{q}(seen, limits):" if time.when else "if True:"]
            body += [f"    value = {value}"]
            body += [f"    add_value(tally.moments[{q}], tally.histograms[{q}], {fine}, weight, value)"]
    return _compiled("add(seen, limits, tally, weight)", body, known)


def _compiled(head: str, body: Sequence[str], known: dict[str, Any]) -> Callable[..., None]:
    exec("\n".join([f"def {head}:", *(f"    {line}" for line in body)]), known)
    add: Callable[..., None] = inline(known["add"])
    return add
