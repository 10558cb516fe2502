"""Tables of a cube: one row per point with its intervals, and what must be said beside them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from batchcube.errors import InputError, did_you_mean, printable

from . import costs, labelled, long_run, overload
from .axes import axis_names, axis_of
from .controls import FEWEST, held
from .form import check_form
from .intervals import CONFIDENCE, VARIABLE, Intervals, digits
from .joining import parts_in_words
from .names import lookup, usual
from .pieces import has_values
from .tables import Column, print_table
from .text import counted, counted_range, in_percent, papers_of
from .unserved import AMONG, shares_of
from .variables import MANY_REFUSED, RATE_PATHS, REGISTRY, REPLICATION

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from numpy.typing import NDArray
    from rich.console import Console

NOT_STEADY = "not a steady-state figure"
UNMEASURED = "rests on what nobody measured"
MAYBE_STEADY = "perhaps no steady-state figure"
_OF_QUEUE = {overload.STEADY: "", overload.OVERLOADED: NOT_STEADY, overload.CANNOT_TELL: MAYBE_STEADY}
_REFUSED = {
    "rejected": "are turned away{at}, too long for a replica: shares over a limit count them as over it, all other "
    "numbers leave them out",
    "truncated": "have their answers cut by max_model_len{at}: shares over a limit count them as over it, times are "
    "those of the shorter answers",
}
"""What a point does to many requests, by the variable that counts them."""
_ANY = 1_000_000  # characters a line: more than anything takes
_MARKS = {UNMEASURED: "?"} | {_OF_QUEUE[queue]: mark for queue, mark in overload.MARKS.items() if mark}


def default_variables(cube: xr.Dataset) -> list[str]:
    """Return the variables that `show` prints: those of the usual ones that the cube has values of."""
    names = dict.fromkeys(name for name, _ in _usual_of(cube))
    return [name for name in names if name in cube and has_values(cube[name])]


def _usual_of(cube: xr.Dataset) -> tuple[tuple[str, float | None], ...]:
    return usual(stepwise="steps" in cube)


def summary_table(
    cube: xr.Dataset,
    variables: Sequence[str] | None = None,
    confidence: float = 0.95,
    *,
    controls: bool = False,
    queue: xr.DataArray | None = None,
) -> pd.DataFrame:
    """Return a tidy table: one row per variable and point, with mean, interval, n, and what its queue does.

    Columns: the axes, the extra dimensions of the chosen variables (NaN for variables without them), `variable`,
    `units`, `mean`, `ci_low`, `ci_high`, `n`, `queue` (of the point, by `overload.judge` unless it is given) and
    `note`: for latencies and the like "not a steady-state figure" where the point is overloaded and "perhaps no
    steady-state figure" where one cannot tell, "rests on what nobody measured" where nothing is left of a value without
    a cost that is unknown, or both.
    `variables` defaults to the usual ones. With `controls` intervals are without what control variates explain, and a
    column `narrowed` says how wide they are of plain ones. Raises InputError for a variable that is unknown or not in
    the cube.
    """
    axes = axis_names(cube)
    chosen = _chosen(cube, variables)
    extra = list(dict.fromkeys(dim for name in chosen for dim in REGISTRY[name].extra))
    queue_of = (overload.judge(cube) if queue is None else queue).transpose(*axes).values
    beside = held(cube) if controls else []
    measured = ("mean", "ci_low", "ci_high", "n", *(("narrowed",) if beside else ()))
    parts = []
    for name in chosen:
        interval = labelled.mean_interval(cube[name], confidence=confidence, controls=beside)
        index = [*axes, *REGISTRY[name].extra]
        shape = tuple(cube.sizes[dim] for dim in index)
        grids = np.meshgrid(*[np.arange(size) for size in shape], indexing="ij") if index else []
        columns: dict[str, object] = {}
        for dim, at in zip(index, grids, strict=True):
            columns[dim] = cube[dim].values[at.ravel()]
        rows = int(np.prod(shape, dtype=np.int64))
        more = (1,) * len(REGISTRY[name].extra)
        queues = np.broadcast_to(queue_of.reshape(queue_of.shape + more), shape).ravel()
        columns |= {dim: np.full(rows, np.nan) for dim in extra if dim not in index}
        columns["variable"] = np.full(rows, name, dtype=object)
        columns["units"] = np.full(rows, str(cube[name].attrs.get("units", REGISTRY[name].units)), dtype=object)
        for column in measured:
            columns[column] = interval[column.removeprefix("ci_")].transpose(*index).values.ravel()
        columns["queue"] = queues.astype(object)
        unknown = np.broadcast_to(_at_points(cube, name, axes, len(REGISTRY[name].extra)), shape).ravel()
        said = [
            (UNMEASURED if unknown[row] else "", _OF_QUEUE[queues[row]] if REGISTRY[name].steady_state else "")
            for row in range(rows)
        ]
        columns["note"] = np.array(["; ".join(filter(None, both)) for both in said], dtype=object)
        parts.append(pd.DataFrame(columns))
    order = [*axes, *extra, "variable", "units", *measured, "queue", "note"]
    return pd.concat(parts, ignore_index=True)[order]


def _at_points(cube: xr.Dataset, name: str, axes: Sequence[str], extra: int) -> NDArray[np.bool_]:
    """Return where a variable rests on a cost that is unknown, (*axes, then `extra` dimensions of size 1)."""
    found = costs.is_missing(cube, name)
    if isinstance(found, bool):
        return np.array(found)
    values: NDArray[np.bool_] = found.transpose(*axes).values
    return values.reshape(values.shape + (1,) * extra)


def _named(cube: xr.Dataset, text: str) -> tuple[str, float | None]:
    """Return the name and the quantile, if any, of a variable as it is printed, ``name [0.99]`` or ``name``."""
    spelled = re.fullmatch(r"(\w+)\s*\[(.*)\]", text)
    if spelled is None or "quantile" not in lookup(spelled[1]).extra or "quantile" not in cube.coords:
        return text, None
    known = {f"{quantile:g}": float(quantile) for quantile in cube["quantile"].values}
    if spelled[2] not in known:
        raise InputError(f"no such quantile; the cube has {', '.join(known)}", path=text)
    return spelled[1], known[spelled[2]]


def _chosen(cube: xr.Dataset, variables: Sequence[str] | None) -> list[str]:
    chosen = default_variables(cube) if variables is None else list(dict.fromkeys(variables))
    if not chosen:
        raise InputError(
            "none chosen, and the cube has none of the usual ones; name some of its variables", path="variables"
        )
    for name in chosen:
        if lookup(name).name not in cube:
            held = list(map(str, cube.data_vars))
            hint = did_you_mean(name, held) or f"it has {', '.join(held)}"
            raise InputError(f"the cube does not hold this variable; {hint}", path=name)
    return chosen


def interval(
    cube: xr.Dataset,
    variable: str,
    *,
    ratio_to: Mapping[str, object] | None = None,
    difference_to: Mapping[str, object] | None = None,
    confidence: float = 0.95,
    controls: bool = False,
) -> Intervals:
    """Return a variable's mean over replications at every point, with its interval: mean, low, high and n.

    `variable` is a name, or one of the quantiles of a variable as it is printed, ``latency_quantile_s[0.99]``.
    `ratio_to` and `difference_to`, {axis: value}, compare with the points at that value instead, paired by replication.
    With `controls` means and differences are without what control variates explain, where the cube has any, and
    `narrowed` says how wide an interval is of the plain one; docs/statistics.md says when they are used.
    Raises InputError for a variable that is unknown or not in the cube, and for an axis or value that is not there.
    """
    name, quantile = _named(cube, variable)
    _chosen(cube, [name])
    values = cube[name] if quantile is None else cube[name].sel(quantile=quantile, drop=True)
    beside = held(cube) if controls else []
    found = _found(values, variable, ratio_to, difference_to, confidence, beside if controls else None)
    return Intervals(found.data_vars, found.coords, {VARIABLE: variable, CONFIDENCE: confidence})


def _found(
    values: xr.DataArray,
    variable: str,
    ratio_to: Mapping[str, object] | None,
    difference_to: Mapping[str, object] | None,
    confidence: float,
    controls: Sequence[xr.DataArray] | None,
) -> xr.Dataset:
    if ratio_to is None and difference_to is None:
        return labelled.mean_interval(values, confidence=confidence, controls=controls or ())
    against = {**(ratio_to or {}), **(difference_to or {})}
    if (ratio_to is not None and difference_to is not None) or len(against) != 1:
        raise InputError("compares along one axis: give ratio_to or difference_to, {axis: value}", path=variable)
    ((axis, baseline),) = against.items()
    if ratio_to is None:
        return labelled.paired_difference(values, axis, baseline, confidence=confidence, controls=controls or ())
    if controls is not None:
        raise InputError("is for means and differences, not for ratios", path="controls")
    return labelled.paired_ratio(values, axis, baseline, confidence=confidence)


def _rate_axis(cube: xr.Dataset) -> str | None:
    return next((name for path in RATE_PATHS if (name := axis_of(cube, path))), None)


def print_summary(
    cube: xr.Dataset,
    console: Console,
    variables: Sequence[str] | None = None,
    *,
    all_rows: bool = False,
    wide: bool = False,
    max_rows: int = 40,
    confidence: float = 0.95,
    controls: bool = False,
) -> None:
    """Print what a cube is, its points with intervals, and where it is overloaded or may be.

    `variables` are names, or names with one of the cube's quantiles as they are printed, ``latency_quantile_s[0.99]``.
    Of the usual variables the first are shown, as many as the console has room for, and the others named, unless
    `wide`: lines are then as long as they need be. Those that are chosen go into further tables below. Rows beyond
    `max_rows` are left out with their number unless `all_rows`. With `controls` intervals are without what control
    variates explain, and it is said by how much they are narrower. Raises InputError as `summary_table` does.
    """
    check_form(cube, str(cube.attrs.get("title", "cube")))
    chosen: list[tuple[str, float | None]]
    if variables is None:
        names = set(default_variables(cube))
        chosen = [(name, quantile) for name, quantile in _usual_of(cube) if name in names]
        chosen = [
            (name, quantile) for name, quantile in chosen if quantile is None or quantile in cube["quantile"].values
        ]
    else:
        chosen = list(dict.fromkeys(_named(cube, text) for text in variables))
        _chosen(cube, [name for name, _ in chosen])
    _print_head(cube, console)
    queue = overload.judge(cube)
    table = summary_table(cube, [name for name, _ in chosen] or None, confidence, controls=controls, queue=queue)
    if cube.sizes[REPLICATION] == 1:
        # What one replication cannot tell of a queue is said once, and not beside every number.
        table["note"] = table["note"].str.replace(MAYBE_STEADY, "", regex=False).str.removesuffix("; ")

    groups: dict[tuple[str, ...], list[tuple[str, float | None]]] = {}
    for name, quantile in chosen:
        extra = tuple(of for of in REGISTRY[name].extra if quantile is None or of != "quantile")
        groups.setdefault(extra, []).append((name, quantile))
    console.print()
    default = variables is None
    for extra, members in groups.items():
        _print_group(cube, console, table, extra, members, None if all_rows else max_rows, default=default, wide=wide)
    _print_notes(cube, console, table, confidence, queue, default=default)
    if controls:
        for line in _controls_in_words(cube, table, chosen):
            console.print(line, highlight=False, markup=False)


def print_warning(cube: xr.Dataset, console: Console) -> None:
    """Print, in the first lines, which costs nobody measured, and whether many requests were turned away."""
    for text in filter(None, (costs.warning(cube), refusals(cube))):
        console.print(f"warning: {text}", style="bold red", highlight=False, markup=False)


def refusals(cube: xr.Dataset) -> str:
    """Return the warning about points that turn many requests away, or cut many answers; nothing where none does."""
    return "; ".join(filter(None, (_many(cube, name, what) for name, what in _REFUSED.items())))


def _many(cube: xr.Dataset, name: str, what: str) -> str:
    """Say of how many requests this is true where it is of many; "" where it is not."""
    if not {name, *AMONG[name]} <= set(cube):
        return ""
    shares = shares_of(cube, name)
    many = int(np.count_nonzero(shares > MANY_REFUSED))
    if not many:
        return ""
    at = "" if many == shares.size else f" at {many} of {shares.size} points"
    return f"up to {in_percent(float(np.max(shares)))} of the requests {what.format(at=at)}"


def notes_of(cube: xr.Dataset) -> list[str]:
    """Return the notes of a cube but the one that `print_warning` prints."""
    return [line for line in str(cube.attrs.get("notes", "")).splitlines() if line != costs.warning(cube)]


def _replications(cube: xr.Dataset) -> str:
    """Say how many replications points have: configurations that left a plan have fewer."""
    seen = cube["plan_replications"].values if "plan_replications" in cube else np.array([0])
    return counted_range([cube.sizes[REPLICATION], *seen[seen > 0].tolist()], "replication")


def _print_head(cube: xr.Dataset, console: Console) -> None:
    from rich.markup import escape

    print_warning(cube, console)
    points = int(np.prod([cube.sizes[name] for name in axis_names(cube)], dtype=np.int64))
    title = printable(cube.attrs.get("title") or "cube")
    console.print(f"[bold]{escape(title)}[/bold]")
    if papers := papers_of(title):
        console.print(papers, highlight=False, markup=False)
    version, made, backend, device = (
        printable(cube.attrs.get(name, "?"))
        for name in ("batchcube_version", "created_utc", "backend", "backend_device")
    )
    console.print(
        f"{counted(points, 'point')}, {_replications(cube)} each, "
        f"seed {cube.attrs.get('seed', '?')}, batchcube {version}, made {made} with {backend} on {device}",
        highlight=False,
        markup=False,
    )
    if joined := parts_in_words(cube):
        console.print(joined, highlight=False, markup=False)
    for name in axis_names(cube):
        attrs, values = cube[name].attrs, cube[name].values
        shown = (
            ", ".join(map(_plain, values))
            if len(values) <= 12
            else (f"{len(values)} values from {_plain(values[0])} to {_plain(values[-1])}")
        )
        # An axis over several settings at once has labels of its own, and their paths say little.
        path = "" if "," in attrs["path"] else printable(attrs["path"])
        units = "" if attrs["units"] == "1" else printable(attrs["units"])
        about = ", ".join(filter(None, (path, units)))
        console.print(f"  {name}{f' ({about})' if about else ''}: {shown}", highlight=False, markup=False)


def _print_group(
    cube: xr.Dataset,
    console: Console,
    table: pd.DataFrame,
    extra: tuple[str, ...],
    members: list[tuple[str, float | None]],
    max_rows: int | None,
    *,
    default: bool,
    wide: bool,
) -> None:
    """Print variables of the same dimensions: the usual ones as far as there is room, chosen ones below each other."""
    keys = [*axis_names(cube), *extra]
    columns: list[Column] = []
    first: pd.DataFrame | None = None
    for name, quantile in members:
        rows = table[table["variable"] == name]
        if quantile is not None:
            rows = rows[rows["quantile"] == quantile]
        rows = rows.reset_index(drop=True)
        first = rows if first is None else first
        shown = rows if max_rows is None else rows.head(max_rows)
        label = name if quantile is None else f"{name} [{quantile:g}]"
        units = printable(rows["units"].iloc[0]) if len(rows) else REGISTRY[name].units
        label = label if units == "1" or _says_unit(name) else f"{label} ({units})"
        written = cells(shown)
        styles = ["yellow" if cell.endswith(tuple(_MARKS.values())) else "" for cell in written]
        # The last ones go first.
        columns.append(Column(label, written, len(members) - len(columns), styles=styles))
    assert first is not None  # a group has members
    shown = first if max_rows is None else first.head(max_rows)
    fixed = [Column(key, list(map(_plain, shown[key])), words=shown[key].dtype.kind not in "iuf") for key in keys]
    told = cube.sizes[REPLICATION] > 1 or (table["queue"] != overload.CANNOT_TELL).any()
    if overload.is_told(cube) and told:
        queue = list(shown["queue"])
        fixed.append(Column("queue", queue, words=True, short=[overload.MARKS[one] for one in queue]))
    columns[0] = columns[0]._replace(goes=0)
    hint = "--wide shows them, or -v NAME" if default else ""
    while columns:
        left = print_table(console, [*fixed, *columns], width=_ANY if wide else None, hint=hint)
        columns = [] if default else [column._replace(goes=len(left) - k if k else 0) for k, column in enumerate(left)]
        console.print()
    if len(first) > len(shown):
        said = f"{len(first) - len(shown)} of {len(first)} rows are not shown: --all shows them"
        console.print(said, style="bold", highlight=False)


def _says_unit(name: str) -> bool:
    return name.endswith(("_s", "_s2", "_per_s", "_tokens"))


def cells(table: pd.DataFrame) -> list[str]:
    """Return the rows of a `summary_table` as they are printed: mean and interval, to the digits that it has."""
    columns = [table[name].tolist() for name in ("mean", "ci_low", "ci_high", "note")]
    return [_cell(*row) for row in zip(*columns, strict=True)]


def _cell(mean: float, low: float, high: float, note: str) -> str:
    if np.isnan(mean):
        return "-"
    if UNMEASURED in note:
        return _MARKS[UNMEASURED]
    mark = f" {_MARKS[note]}" if note else ""
    if np.isnan(low) or np.isnan(high):
        return f"{_plain(mean)}{mark}"
    if low == high:
        return f"{_plain(mean)} \u00b1 0{mark}"
    places = digits(high - low)
    # An interval clipped to possible values is not centred on the mean and is written out.
    if abs((high - mean) - (mean - low)) > 1e-6 * (high - low):
        return f"{mean:.{places}f} [{low:.{places}f}, {high:.{places}f}]{mark}"
    return f"{mean:.{places}f} \u00b1 {high - mean:.{places}f}{mark}"


def _plain(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else printable(value)


def _print_notes(
    cube: xr.Dataset,
    console: Console,
    table: pd.DataFrame,
    confidence: float,
    queue: xr.DataArray,
    *,
    default: bool,
) -> None:
    from rich.markup import escape

    if cube.sizes[REPLICATION] > 1:
        kind = "prediction" if any(labelled.of_single(cube[name]) for name in cube.data_vars) else "Student t"
        if "narrowed" in table and (table["narrowed"] != 1.0).any():
            kind = "control variates"
        # Those in which there is a value.
        over = counted_range(table["n"][table["n"] > 0].tolist() or [cube.sizes[REPLICATION]], "replication")
        console.print(
            f"mean \u00b1 half of the {100 * confidence:g} % {kind} interval over {over}, "
            "or mean [interval] where it meets a bound; \u00b1 0: all replications "
            "gave the same value (a quantile: the same bucket); -: no value",
            highlight=False,
            markup=False,
        )
        errors = [labelled.error_of(cube[name]) for name in table["variable"].unique()]
        if max(errors) > 0.0:
            console.print(
                f"a search narrowed capacities down to \u00b1 {in_percent(max(errors))}: intervals are wider by that",
                highlight=False,
            )
    else:
        console.print(_of_one_replication(cube, queue), highlight=False, markup=False)
    for note, why in (
        (UNMEASURED, "see the first line"),
        (NOT_STEADY, "overloaded, it grows with the length of the run"),
        (MAYBE_STEADY, "these replications cannot tell whether the queue keeps growing"),
    ):
        if table["note"].str.contains(note, regex=False).any():
            console.print(f"{_MARKS[note]} {note}: {why}", style="yellow", highlight=False)
    if cube.sizes[REPLICATION] > 1:
        for number, line in enumerate(queues_in_words(cube, queue)):
            console.print(f"  {line}" if number else line, highlight=False, markup=False)
    late = long_run.warmup_note(cube, queue)
    # What they say of queues stands above.
    said = overload.NOTES.values() if overload.is_told(cube) else ()
    for line in [*(note for note in notes_of(cube) if note not in said), *([late] if late else [])]:
        console.print(f"note: {escape(printable(line))}", highlight=False)
    if default:
        more = len(cube.data_vars) - table["variable"].nunique()
        console.print(
            f"{more} more variables: choose with -v NAME; `batchcube variables` says what they are",
            highlight=False,
        )


def _of_one_replication(cube: xr.Dataset, queue: xr.DataArray) -> str:
    """Say that one replication has no intervals, and of how many points it tells what their queues do."""
    nothing = "one replication: there is no interval"
    if not overload.is_told(cube):
        return nothing
    if (queue == overload.CANNOT_TELL).all():
        return f"{nothing}, nor can it tell where queues grow: more replications may"
    counts = [(int((queue == state).sum()), state) for state in overload.QUEUES]
    states = ", ".join(f"{count} {state} {overload.MARKS[state]}".rstrip() for count, state in counts if count)
    return f"{nothing}; queues: {states}"


def _controls_in_words(cube: xr.Dataset, table: pd.DataFrame, chosen: Sequence[tuple[str, float | None]]) -> list[str]:
    """Say which controls intervals of the variables chosen are without, and how wide they are of plain ones."""
    beside = [str(control.name) for control in held(cube)]
    if not beside:
        return ["controls: the cube has none, intervals are plain"]
    if cube.sizes[REPLICATION] < FEWEST:
        return [f"controls: used with {FEWEST} replications or more, intervals are plain"]
    lines = [f"controls: {', '.join(beside)}; widths of intervals over those of plain ones:"]
    for name, quantile in chosen:
        rows = table[table["variable"] == name]
        if quantile is not None:
            rows = rows[rows["quantile"] == quantile]
        widths = rows.loc[rows["narrowed"] != 1.0, "narrowed"]
        label = name if quantile is None else f"{name} [{quantile:g}]"
        if not len(widths):
            lines.append(f"  {label}: plain")
            continue
        low, high = f"{widths.min():.2f}", f"{widths.max():.2f}"
        plain = len(rows) - len(widths)
        lines.append(
            f"  {label}: {low if low == high else f'{low} to {high}'}" + (f", plain in {plain} rows" if plain else "")
        )
    return lines


def queues_in_words(cube: xr.Dataset, queue: xr.DataArray) -> list[str]:
    """Say up to which rate each point is steady, and from which on it is overloaded; nothing without an axis of rates.

    `queue` is what `overload.judge` said. The first line is a heading.
    """
    axis = _rate_axis(cube)
    if axis is None or not overload.is_told(cube) or cube[axis].dtype.kind not in "iuf":
        return []
    found = queue.sortby(axis)
    rates = found[axis].values
    # Most points share their rates with their neighbours along an axis; a line for each keeps this short and complete.
    names: list[Hashable] = [name for name in found.dims if name != axis]
    queues = found.transpose(*names, axis).values
    lines: dict[tuple[float, float], list[str]] = {}
    for at in np.ndindex(queues.shape[:-1]):
        point = ", ".join(f"{name}={_plain(cube[name].values[i])}" for name, i in zip(names, at, strict=True))
        calm, over = queues[at] == overload.STEADY, queues[at] == overload.OVERLOADED
        steady = len(rates) if calm.all() else int(calm.argmin())
        ends = (rates[steady - 1] if steady else -np.inf, rates[over.argmax()] if over.any() else np.inf)
        lines.setdefault((float(ends[1]), float(ends[0])), []).append(point)
    told = [f"queues by {axis}; what lies between both ends cannot be told:"]
    for first, last in sorted(lines):
        points = "; ".join(lines[first, last]) if len(lines) > 1 else "all points"
        steady_to = "steady at none for certain" if np.isinf(last) else f"steady up to {_plain(last)}"
        over_from = "overloaded at none for certain" if np.isinf(first) else f"overloaded from {_plain(first)} on"
        if last == rates[-1]:
            over_from = "the highest"
        told.append(f"{steady_to}, {over_from}: {points}")
    return told
