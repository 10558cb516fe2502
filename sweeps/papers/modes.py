"""`batchcube reproduce modes`: five batching modes compared, and where the claim holds.

The claim: "the combination of bins and dynamic batches is best; dynamic batches beat static ones on throughput and on
violations". No paper makes it for request-level batches, so every word of the answer comes from the simulated cubes.
"""

import json
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from batchcube.errors import InputError
from batchcube.results.claims import Origin, Row, Verdict
from batchcube.results.overload import MARKS, OVERLOADED, STEADY, WORDS, worse
from batchcube.results.overload import judge as judge_queue

from .reproduction import (
    Drawing,
    Found,
    Interval,
    Reproduction,
    Table,
    mean_of,
    said_simultaneous,
)

if TYPE_CHECKING:
    import xarray as xr

TRACE = "azure-conv-2023"


class _Workload(NamedTuple):
    preset: str
    name: str
    axis: str
    unit: str
    steady: float
    """Rate that every mode can serve, for figures."""
    shown: tuple[float, ...]
    """Rates whose levels the screen shows."""
    note: str = ""


_WORKLOADS = (
    _Workload("modes-poisson", "Poisson", "arrival_rate_per_s", "/s", 3.0, (1.0, 3.0, 5.0)),
    _Workload("modes-on-off", "on/off", "arrival_rate_per_s", "/s", 2.0, (0.5, 2.0, 5.0)),
    _Workload(
        "modes-trace",
        "trace",
        "rate_scale",
        " x the trace's rate",
        0.5,
        (0.1, 0.5, 1.0),
        "replications are overlapping windows of one trace: intervals say nothing of other hours",
    ),
)


class _Quantity(NamedTuple):
    variable: str
    name: str
    larger_is_better: bool
    margin: float
    """Differences within it are none worth naming."""
    relative: bool
    """Whether the margin is a part of the baseline's mean."""

    @property
    def short(self) -> str:
        """The name without its unit."""
        return self.name.partition(" (")[0]


_QUANTITIES = (
    _Quantity("throughput_requests_per_s", "throughput (req/s)", True, 0.01, True),
    _Quantity("request_sla_violation_fraction", "requests over the SLA (share)", False, 0.01, False),
    _Quantity("token_sla_violation_fraction", "tokens over the SLA (share)", False, 0.01, False),
    _Quantity("latency_mean_s", "mean latency (s)", False, 0.01, True),
)
_COMBINATION = "multi_bin_dynamic"
_LEGEND = "* overloaded, (*) perhaps"
_LEGEND_OF_BOTH = "* one of those compared is overloaded, (*) perhaps"
_DYNAMIC_AND_STATIC = (("dynamic_only", "fifo_fixed"), ("multi_bin_dynamic", "multi_bin_only"))


class _Compared(NamedTuple):
    mode: str
    baseline: str
    quantity: _Quantity
    rate: float
    gap: Interval
    verdict: Verdict
    queue: str
    """What the two queues do together."""


def reproduce_modes(to: Reproduction, trace: str | None) -> None:
    """Run the comparison of the modes into a folder: cubes, figures, `comparison.csv`, and what follows from them.

    ``trace`` is a file to read instead of the public Azure trace; without either, the other two workloads still run.
    """
    path = trace_setting(to, trace)
    if path is not None:
        to.check("modes-trace", [path])
    for workload in _WORKLOADS:
        settings: list[str] = []
        if workload.preset == "modes-trace":
            if path is None:
                continue
            settings = [path]
        _, cube = to.run(workload.preset, overrides=settings)
        to.draw(cube, _drawings(workload))
        to.tell(f"Five modes: {workload.name}", _compare(workload, cube))
    # A tenth of the requests would all come before the step.
    sweep, cube = to.run("controller-step", whole=True)
    to.draw(cube, [Drawing("controller-step", "controller-step")])
    arrivals = sweep.grid.points[0].workload.arrivals
    times: Sequence[float] = getattr(arrivals, "times_s", ())
    sla = sweep.grid.points[0].policy.sla
    assert sla is not None
    found = _after_step(cube, times, sla.target_s + sla.tolerance_s)
    to.tell("SLA controller under a step of the load", found, "[DB] Algorithm 2")
    to.count_verdicts()
    to.say("yes: better for certain; no: worse; equal: by less than is worth naming.")
    to.finish()


def trace_setting(to: Reproduction, trace: str | None) -> str | None:
    """Return the setting that names the trace, or None, and say so, where there is none.

    Raises InputError for a file that is not there.
    """
    from ..workloads import datasets

    if trace is not None:
        if trace.startswith("dataset:"):
            datasets.locate(trace.removeprefix("dataset:"))
        elif not Path(trace).is_file():
            raise InputError("no such file", path="`trace`", value=trace)
        return f"workload.trace.path={json.dumps(trace)}"
    try:
        datasets.locate(TRACE)
    except InputError:
        to.say(
            f"modes-trace: left out, as {TRACE} is not here: batchcube data fetch {TRACE} fetches it, "
            "and batchcube reproduce modes --trace FILE takes another"
        )
        return None
    return f'workload.trace.path="dataset:{TRACE}"'


def _drawings(workload: _Workload) -> list[Drawing]:
    at = {workload.axis: workload.steady}
    binned = {**at, "mode": ["multi_bin_only", "multi_bin_dynamic"]}
    return [
        Drawing("modes-compared", f"{workload.preset}-compared", {"select": at}),
        Drawing("static-vs-dynamic", f"{workload.preset}-static-vs-dynamic"),
        Drawing("sla-violation-over-time", f"{workload.preset}-sla-violation-over-time", {"select": at}),
        Drawing("batch-size-distribution", f"{workload.preset}-batch-size-distribution", {"select": at}),
        Drawing("per-bin-statistics", f"{workload.preset}-per-bin-statistics", {"select": binned}),
    ]


# Comparing ----------------------------------------------------------------------------------------------------------


def judge(gap: Interval, margin: float, *, larger_is_better: bool) -> Verdict:
    """Judge a difference by its interval: better, worse, equal within the margin, or nothing that can be told."""
    if np.isnan(gap.low):
        return "cannot tell"
    if -margin <= gap.low and gap.high <= margin:
        return "equal"
    if not gap.low <= 0 <= gap.high:
        return "yes" if (gap.low > 0) == larger_is_better else "no"
    return "cannot tell"


def _compare(workload: _Workload, whole: "xr.Dataset") -> Found:
    # All that is asked of a point, points being many.
    cube = whole[[quantity.variable for quantity in _QUANTITIES]].assign(queue=judge_queue(whole))
    modes = [str(mode) for mode in cube["mode"].values]
    rates = [float(rate) for rate in cube[workload.axis].values]
    rows = [_level(workload, cube, mode, rate, q) for rate in rates for mode in modes for q in _QUANTITIES]
    pairs = [*_DYNAMIC_AND_STATIC, *((_COMBINATION, mode) for mode in modes if mode != _COMBINATION)]
    compared = {
        (mode, baseline, quantity.variable): [
            _gap(workload, cube, mode, baseline, rate, quantity, len(rates)) for rate in rates
        ]
        for mode, baseline in dict.fromkeys(pairs)
        for quantity in _QUANTITIES
    }
    rows += [_row(workload, one, len(rates)) for found in compared.values() for one in found]
    others = [mode for mode in modes if mode != _COMBINATION]
    sentences = _verdict(workload, compared, others, rates)
    sentences.append(
        "A claim holds where it is better on something and worse on nothing. Differences are paired by replication; "
        f"{said_simultaneous(len(rates))} for each row of the last table; equal: within 1 % (shares: within 0.01). "
        f"{_LEGEND_OF_BOTH}."
    )
    tokens = cube["token_sla_violation_fraction"].sel(mode=[static for _, static in _DYNAMIC_AND_STATIC])
    if bool((tokens == 0).all()):
        sentences.append(
            "Static batches never break the SLA between tokens here, by the choice of their size: dynamic ones can at "
            "best be equal on that count."
        )
    sentences.append(
        "The controller sees T / longest output, prefill included: bins of short answers look slower than they are "
        "between tokens, and get smaller batches."
    )
    if workload.note:
        sentences.append(workload.note[0].upper() + workload.note[1:] + ".")
    return Found(rows, sentences, (_levels(workload, cube, modes), _matrix(workload, compared, others, rates)))


def _matrix(
    workload: _Workload,
    compared: dict[tuple[str, str, str], list[_Compared]],
    others: Sequence[str],
    rates: Sequence[float],
) -> Table:
    """Return a table of all comparisons: one row a pair and a quantity, one column a rate."""
    from batchcube.results.tables import columns_of

    marks: dict[Verdict, str] = {"yes": "+", "equal": "=", "no": "-", "cannot tell": "?"}
    rows: list[tuple[str, ...]] = []
    for mode, static in _DYNAMIC_AND_STATIC:
        for quantity in _QUANTITIES:
            found = compared[mode, static, quantity.variable]
            cells = [marks[one.verdict] + _mark_of([one]) for one in found]
            rows.append((mode, static, quantity.short, *cells))
    for quantity in _QUANTITIES:
        columns = [[compared[_COMBINATION, other, quantity.variable][i] for other in others] for i in range(len(rates))]
        cells = [marks[_against_all(column)] + _mark_of(column) for column in columns]
        rows.append((_COMBINATION, "all others", quantity.short, *cells))
    sections = {}
    for k, (mode, against, *_) in enumerate(rows):
        if k % len(_QUANTITIES) == 0:
            sections[k] = f"{mode} against {against}"
    names = ("on", *(f"{rate:g}" for rate in rates))
    return Table(
        f"Five modes: {workload.name} (+ better, - worse, = equal, ? cannot tell; {_LEGEND_OF_BOTH})",
        columns_of(names, [(f"  {on}", *cells) for _, _, on, *cells in rows], words=names),
        sections,
    )


def _levels(workload: _Workload, cube: "xr.Dataset", modes: Sequence[str]) -> Table:
    """Return a table of every mode at a few rates."""
    from batchcube.results.tables import columns_of

    rows: list[tuple[str, ...]] = []
    sections = {}
    for rate in workload.shown:
        sections[len(rows)] = f"{rate:g}{workload.unit}"
        for mode in modes:
            point = _at(workload, cube, mode, rate)
            cells = [_cell(mean_of(point[quantity.variable])) for quantity in _QUANTITIES]
            rows.append((f"  {_marked(mode, _queue(point))}", *cells))
    names = ("mode", *(quantity.name for quantity in _QUANTITIES))
    return Table(
        f"Five modes: {workload.name} (mean, half of the 95 % interval; {_LEGEND})",
        columns_of(names, rows, words=("mode",)),
        sections,
    )


def _cell(found: Interval) -> str:
    """Return mean ± half of the interval, two digits of the half and the mean to the same decimals."""
    half = (found.high - found.low) / 2
    if np.isnan(half):
        return f"{found.mean:.4g}"
    if half == 0.0:
        return f"{found.mean:.4g} ± 0"
    digits = int(np.clip(1 - np.floor(np.log10(half)), 0, 6))
    return f"{found.mean:.{digits}f} ± {half:.{digits}f}"


def _at(workload: _Workload, cube: "xr.Dataset", mode: str, rate: float) -> "xr.Dataset":
    return cube.sel({"mode": mode, workload.axis: rate})


def _queue(point: "xr.Dataset") -> str:
    """Return what the queue of a single point does."""
    return str(point["queue"].item())


def _marked(name: str, queue: str) -> str:
    return f"{name} {MARKS[queue]}".rstrip()


def _setting(workload: _Workload, rate: float, what: str) -> str:
    return f"{workload.name}, {rate:g}{workload.unit}, {what}"


def _level(workload: _Workload, cube: "xr.Dataset", mode: str, rate: float, quantity: _Quantity) -> Row:
    point = _at(workload, cube, mode, rate)
    found = mean_of(point[quantity.variable])
    queue = _queue(point)
    notes = ["95 % interval"]
    if queue != STEADY:
        perhaps = "no" if queue == OVERLOADED else "perhaps no"
        notes.append(f"{WORDS[queue]}: latency and violations are {perhaps} steady-state figures")
    if workload.note:
        notes.append(workload.note)
    return Row.measured(
        workload.preset,
        _marked(_setting(workload, rate, mode), queue),
        quantity.name,
        found,
        note="; ".join(notes),
        origin=Origin(quantity.variable, {"mode": mode, workload.axis: rate}),
        row=f"{rate:g} {mode} {quantity.short}",
    )


def _gap(
    workload: _Workload, cube: "xr.Dataset", mode: str, baseline: str, rate: float, quantity: _Quantity, rows: int
) -> _Compared:
    first, second = (_at(workload, cube, one, rate) for one in (mode, baseline))
    a, b = first[quantity.variable].values, second[quantity.variable].values
    gap = mean_of(a - b, rows)
    margin = quantity.margin * (abs(float(np.nanmean(b))) if quantity.relative else 1.0)
    queue = str(worse(np.asarray(_queue(first)), np.asarray(_queue(second))))
    verdict = judge(gap, margin, larger_is_better=quantity.larger_is_better)
    return _Compared(mode, baseline, quantity, rate, gap, verdict, queue)


def _row(workload: _Workload, one: _Compared, rows: int) -> Row:
    better = "larger" if one.quantity.larger_is_better else "smaller"
    notes = [
        f"paired difference; agrees: {better} for certain; equal: interval within "
        + ("1 % of the baseline" if one.quantity.relative else "0.01"),
        said_simultaneous(rows),
    ]
    if one.queue != STEADY:
        notes.append(f"one of the two is {WORDS[one.queue]}")
    if workload.note:
        notes.append(workload.note)
    return Row.measured(
        workload.preset,
        _marked(_setting(workload, one.rate, f"{one.mode} minus {one.baseline}"), one.queue),
        one.quantity.name,
        one.gap,
        agrees=one.verdict,
        note="; ".join(notes),
        limit=0.0,
        origin=Origin(one.quantity.variable, {"mode": [one.mode, one.baseline], workload.axis: one.rate}),
        row=f"{one.rate:g} {one.mode} minus {one.baseline} {one.quantity.short}",
        source="the claim that bins and dynamic batches together are best, which no paper makes",
    )


# Saying -------------------------------------------------------------------------------------------------------------


def _rates(rates: Sequence[str]) -> str:
    return ", ".join(rates)


def _mark_of(compared: Sequence[_Compared]) -> str:
    """Return the mark of the worst of the queues compared."""
    queue = reduce(worse, (np.asarray(one.queue) for one in compared))
    return MARKS[str(queue)]


def _against_all(compared: Sequence[_Compared]) -> Verdict:
    """Judge one mode against several: worse than any is worse, better than some and equal to the rest is better."""
    verdicts = [one.verdict for one in compared]
    order: tuple[Verdict, ...] = ("no", "cannot tell", "yes")
    return next((verdict for verdict in order if verdict in verdicts), "equal")


def _verdict(
    workload: _Workload,
    compared: dict[tuple[str, str, str], list[_Compared]],
    others: Sequence[str],
    rates: list[float],
) -> list[str]:
    """Say of each part of the claim at which rates it holds, fails, and cannot be told, queues marked."""
    parts: dict[str, dict[str, list[list[_Compared]]]] = {}
    throughput, requests, tokens = (quantity.variable for quantity in _QUANTITIES[:3])
    count = range(len(rates))
    static = {
        f"{mode} beats {baseline}": [
            [compared[mode, baseline, variable][i] for variable in (throughput, requests, tokens)] for i in count
        ]
        for mode, baseline in _DYNAMIC_AND_STATIC
    }
    parts["The claim that dynamic beats static on throughput and on violations"] = static
    best = [[compared[_COMBINATION, other, q.variable][i] for other in others for q in _QUANTITIES] for i in count]
    parts["The claim that the combination is best"] = {f"{_COMBINATION} beats all others, on all of it": best}
    said = []
    for claim, pieces in parts.items():
        for piece, at_rates in pieces.items():
            sorted_rates: dict[str, list[str]] = {"holds": [], "is equal": [], "fails": [], "cannot be told": []}
            for rate, each in zip(rates, at_rates, strict=True):
                verdicts = [one.verdict for one in each]
                where = (
                    "fails"
                    if "no" in verdicts
                    else "cannot be told"
                    if "cannot tell" in verdicts
                    else "holds"
                    if "yes" in verdicts
                    else "is equal"
                )
                sorted_rates[where].append(f"{rate:g}{_mark_of(each)}")
            told = "; ".join(f"{word} at {_rates(at)}" for word, at in sorted_rates.items() if at)
            said.append(f"{claim} ({piece}), {workload.name}: {told}{workload.unit}.")
    return said


# The controllers ----------------------------------------------------------------------------------------------------


def _after_step(cube: "xr.Dataset", times: Sequence[float], ceiling: float) -> Found:
    """Say whether each variant keeps the signal at its target in the second half of the loaded time."""
    width = float(np.unique(cube["window_width_s"].values)[0])
    middle = (np.arange(cube.sizes["window"]) + 0.5) * width
    loaded = (middle > (times[1] + times[2]) / 2) & (middle < times[2])
    rows, sentences = [], []
    for variant in cube["sla_variant"].values:
        point = cube.sel(sla_variant=variant).isel(window=np.flatnonzero(loaded))
        signal: Any = point["window_signal_mean_s"].mean("window")
        target: Any = point["window_batch_target_mean"].mean("window")
        found = mean_of(1000 * signal, 2)
        verdict = found.at_most(1000 * ceiling)
        judged: tuple[tuple[str, str, Interval, Verdict, float], ...] = (
            ("signal while loaded (ms)", "window_signal_mean_s", found, verdict, 1000 * ceiling),
            ("batch target while loaded (requests)", "window_batch_target_mean", mean_of(target, 2), "", np.nan),
        )
        for quantity, variable, interval, agrees, limit in judged:
            rows.append(
                Row.measured(
                    "controller-step",
                    str(variant),
                    quantity,
                    interval,
                    agrees=agrees,
                    note="second half of the loaded time; "
                    + ("agrees: at most the limit, target + tolerance; " if agrees else "")
                    + said_simultaneous(2),
                    limit=limit,
                    origin=Origin(variable, {"sla_variant": str(variant)}),
                )
            )
        sentences.append(
            f"{variant}: nothing is observed in the second half of the load: where the signal settles cannot be told."
            if np.isnan(found.mean)
            else f"{variant}: with the queue full the signal settles at {found.mean:.2f} ms, "
            + {
                "yes": f"within target and tolerance ({1000 * ceiling:g} ms).",
                "no": f"above target and tolerance ({1000 * ceiling:g} ms): it is stuck above the feasible batch size.",
            }.get(verdict, f"which cannot be told from target and tolerance ({1000 * ceiling:g} ms).")
        )
    return Found(rows, sentences)
