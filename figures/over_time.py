"""What happens over time: queue and violations, the SLA controller, and a server of continuous batching."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from xarray import Dataset

from batchcube.results.pieces import any_of, has_values
from batchcube.results.provenance import parse_made_from

from . import style
from .curves import line_names, line_places
from .reading import BINS, MODE, PREDICTOR, VARIANT, Figured, Select, View, view
from .settings import SLA_TARGET, kv_capacities, listed, numbers_of_lines, policy_axes, settings_at, settings_of_lines
from .windows import band_marks, course, draw_over_time, run_handles, said_of_windows

_BURSTY = ("on_off", "gamma_windows")
_NO_SIGNAL = "the cube has no controller signal over time: no mode with policy.sla was run"
_NO_VIOLATIONS = "the cube has no SLA violations over time: report.request_sla_s was not set"
# What sets a bound of the cap -> its variable, dashes and name.
_BOUNDS = {
    "policy.memory": ("window_batch_memory_bound_mean", (0, (5, 2.5)), "b_mem"),
    "policy.sla": ("window_batch_sla_bound_mean", (0, (1, 1.5)), "b_SLA"),
}


def sla_violation_over_time(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    width_mm: float = style.DOUBLE_COLUMN_MM,
) -> Figure:
    """Draw arrival rate, share of requests over the SLA and queue length over time."""
    variable = "window_request_sla_violation_fraction"
    needs = ["window_arrivals", "window_width_s", variable, "window_queue_length_mean"]
    if variable in cube and not has_values(cube[variable]):
        raise figured.lacks(_NO_VIOLATIONS)
    select, one = _of_bursts(cube, select)
    seen = view(figured, cube, select, needs=needs, lines=(MODE, VARIANT, BINS, PREDICTOR), lines_named=lines)
    if not any_of(seen.cube[variable], np.isfinite):
        raise figured.lacks(_NO_VIOLATIONS)
    limits = numbers_of_lines(seen, "report.request_sla_s")
    over = f"over {listed(limits)} s" if limits else "over the SLA"
    rows = {
        "arrivals": "arrivals\n(requests/s)",
        variable: f"{over}\n(share of requests)",
        "window_queue_length_mean": "queue length\n(requests)",
    }
    figure = draw_over_time(seen, rows, width_mm)
    caption = seen.caption(said_of_windows(seen), one)
    limit = f" (latency limit {listed(limits)} s)" if limits else ""
    title = f"SLA violation over time{limit}"
    return style.finish(figure, title, seen.subtitle(), run_handles(seen), band_marks(seen), caption)


def _of_bursts(cube: Dataset, select: Select) -> tuple[Select, str]:
    """Return the selection, with the first replication alone where arrivals come in bursts of their own in each.

    The mean of replications whose bursts lie elsewhere shows none.
    """
    specification, _ = parse_made_from(cube)
    workload = specification.get("workload", {})
    arrivals = workload.get("arrivals", {}) if isinstance(workload, Mapping) else {}
    bursty = isinstance(arrivals, Mapping) and arrivals.get("process") in _BURSTY
    if "replication" in (select or {}) or cube.sizes["replication"] == 1 or not bursty:
        return select, ""
    first = cube["replication"].values[0].item()
    said = f"Replication {first} alone, as bursts lie elsewhere in each; a selection of several draws their mean."
    return {**(select or {}), "replication": first}, said


def controller_step(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    width_mm: float = style.DOUBLE_COLUMN_MM,
) -> Figure:
    """Draw how the SLA controller follows a change of load: b_target, b_SLA, signal and violations over time."""
    rows = {
        "arrivals": "arrivals\n(requests/s)",
        "window_batch_target_mean": "target b\n(requests)",
        "window_batch_sla_bound_mean": "b_SLA\n(requests)",
        "window_signal_mean_s": "signal\n(s)",
        "window_request_sla_violation_fraction": "SLA violations\n(share of requests)",
    }
    needs = ["window_arrivals", "window_width_s", *list(rows)[1:]]
    if "window_signal_mean_s" in cube and not has_values(cube["window_signal_mean_s"]):
        raise figured.lacks(_NO_SIGNAL)
    seen = view(figured, cube, select, needs=needs, lines=(VARIANT, MODE), lines_named=lines)
    if not any_of(seen.cube["window_signal_mean_s"], np.isfinite):
        raise figured.lacks(_NO_SIGNAL)
    violations = "window_request_sla_violation_fraction"
    if not any_of(seen.cube[violations], np.isfinite):
        del rows[violations]
    target, bound = "window_batch_target_mean", "window_batch_sla_bound_mean"
    if np.array_equal(seen.array(target), seen.array(bound), equal_nan=True):
        # Nothing else bounds the target.
        del rows[bound]
        rows[target] = "target b = b_SLA\n(requests)"
    targets = numbers_of_lines(seen, SLA_TARGET)

    def beside(panel: Axes, variable: str) -> None:
        for seconds in targets if variable == "window_signal_mean_s" else ():
            style.limit(panel, seconds, "SLA target")

    figure = draw_over_time(seen, rows, width_mm, beside)
    marks = band_marks(seen)
    if targets:
        marks.append(style.limit_handle("SLA target of the controller"))
    title = "SLA controller under a change of load"
    return style.finish(figure, title, seen.subtitle(), run_handles(seen), marks, seen.caption(said_of_windows(seen)))


def serving_over_time(
    cube: Dataset,
    figured: Figured,
    *,
    select: Select = None,
    lines: str | None = None,
    width_mm: float = style.DOUBLE_COLUMN_MM,
) -> Figure:
    """Draw arrivals, waiting and running requests, KV tokens, the cap b_t and its bounds, preemptions, over time."""
    target = "window_batch_target_mean"
    rows = {
        "arrivals": "arrivals\n(requests/s)",
        "window_queue_length_mean": "waiting\n(requests)",
        "window_running_mean": "running\n(requests)",
        "window_kv_tokens_mean": "KV cache\n(tokens)",
        target: "cap b_t\n(requests)",
        "window_preemptions": "preemptions\n(per window)",
    }
    needs = ["window_running_mean", "window_arrivals", "window_width_s"]
    needs += [*(variable for variable, _, _ in _BOUNDS.values()), *list(rows)[1:]]
    seen = view(figured, cube, select, needs=needs, lines=policy_axes(cube), lines_named=lines)
    rows = {name: label for name, label in rows.items() if name == "arrivals" or any_of(seen.cube[name], np.isfinite)}
    # A bound that no setting asks for is B_max, and tells nothing.
    of_lines = settings_of_lines(seen)
    shown = {table: bound for table, bound in _BOUNDS.items() if any(settings.has(table) for settings in of_lines)}
    capacities = kv_capacities(seen)
    far: list[float] = []

    def beside(panel: Axes, variable: str) -> None:
        if variable == target:
            for table in shown:
                _draw_bound(seen, panel, table)
        if variable == "window_preemptions":
            panel.set_ylim(top=max(1.0, panel.get_ylim()[1]))
        if variable == "window_kv_tokens_mean":
            style.big_numbers(panel)
            top = panel.get_ylim()[1]
            for capacity in capacities:
                # A limit far above all lines would press them flat.
                if capacity > 4.0 * top:
                    far.append(capacity)
                else:
                    style.limit(panel, capacity, "KV capacity")

    figure = draw_over_time(seen, rows, width_mm, beside)
    marks = band_marks(seen)
    if target in rows:
        marks += [Line2D([], [], color="black", linestyle=dashes, label=label) for _, dashes, label in shown.values()]
    if len(far) < len(capacities):
        marks.append(style.limit_handle("KV capacity of a replica"))
    above = f"The KV capacity of a replica, {listed(far)} tokens, lies above its panel." if far else ""
    title = "Continuous batching over time"
    caption = seen.caption(said_of_windows(seen), above)
    return style.finish(figure, title, seen.subtitle(), run_handles(seen), marks, caption)


def _draw_bound(seen: View, panel: Axes, table: str) -> None:
    """Draw the bound that a table of settings asks for, on the lines that have one: darker than the cap, no band."""
    variable, dashes, label = _BOUNDS[table]
    for i, (name, at) in enumerate(zip(line_names(seen), line_places(seen), strict=True)):
        if not settings_at(seen, at).has(table):
            continue
        time, interval = course(seen, variable, at)
        dark = [0.5 * part for part in to_rgb(style.look(i, name).colour)]
        panel.plot(time, interval.estimate, color=dark, linestyle=dashes, label=f"{name}, {label}", zorder=3.5)
