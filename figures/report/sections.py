"""The sections of a report: for each kind of file its answer in words, charts, numbers, assumptions and provenance."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from batchcube.errors import printable
from batchcube.results import calibration, costs, measurements, statistics, validation
from batchcube.results.calibration import read_calibration
from batchcube.results.cube import read_cube
from batchcube.results.joining import parts_in_words
from batchcube.results.measurements import read_measurement
from batchcube.results.storage import open_dataset
from batchcube.results.summary import notes_of, refusals
from batchcube.results.text import counted, in_percent
from batchcube.results.validation import QUANTITIES, SIDES, read_validation

from . import answers
from .answers import Said
from .grids import Grid, Quantity, courses_of, frontiers_of, grid_of, point_of, rounded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import xarray as xr
    from numpy.typing import NDArray

_MOST_ROWS = 400
"""Rows of a table."""
_SHARES = np.linspace(0.0, 1.0, 101)


class Subject(NamedTuple):
    """What a report is about: a cube, a calibration, a measurement or a validation, its file, and what made it."""

    dataset: xr.Dataset
    file: str = ""
    """As commands are to name it; "" where it was not written."""
    command: str = ""
    """What makes it again; found out where it is a cube and nothing is said."""
    doubts: Sequence[str] = ()
    """Of a cube that was read; there may be more once its variables are."""


class Table(NamedTuple):
    """A table in words; the cells of a row may be of a point that can be picked."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    words: int = 1
    """Columns from the left that hold words."""
    below: str = ""
    points: bool = False
    """Whether row k is of point k."""


@dataclass
class Section:
    """What a report says of one file."""

    title: str
    kind: str
    answers: list[Said]
    warnings: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    """For the page's script: a `grid` with `courses`, or `plain` charts."""
    tables: list[Table] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    specification: str = ""
    defaults: str = ""
    commands: list[tuple[str, str]] = field(default_factory=list)
    provenance: list[tuple[str, str]] = field(default_factory=list)
    file: str = ""

    @property
    def main(self) -> str:
        """The answer in one sentence."""
        return next((said.text for said in self.answers if said.main), self.answers[0].text)


def read(path: str | os.PathLike[str], command: str = "") -> Subject:
    """Read whatever a report can be about, and what made it; InputError naming the file for anything else."""
    reading: dict[str, Callable[[str | os.PathLike[str]], xr.Dataset]] = {
        calibration.KIND: read_calibration,
        measurements.KIND: read_measurement,
        validation.KIND: read_validation,
    }
    with open_dataset(path, "a cube") as opened:
        kind = str(opened.attrs.get("kind", ""))
    return Subject(reading[kind](path), str(path), command) if kind in reading else subject_of(path, command)


def subject_of(path: str | os.PathLike[str], command: str = "") -> Subject:
    """Read a cube, and what made it; InputError naming the file for anything else."""
    doubts: list[str] = []
    return Subject(read_cube(path, doubts.append), str(path), command, doubts)


def section_of(subject: Subject, share: float = 1.0) -> Section:
    """Return the section of a file; ``share`` is the part of the room for numbers that it may take."""
    kind = str(subject.dataset.attrs.get("kind", ""))
    making: Mapping[str, Callable[[xr.Dataset], Section]] = {
        calibration.KIND: _calibration,
        measurements.KIND: _measurement,
        validation.KIND: _validation,
    }
    section = making[kind](subject.dataset) if kind in making else _cube(subject.dataset, share)
    section.warnings += [f"this cube {doubt}" for doubt in subject.doubts]
    file = shlex.quote(subject.file) if subject.file else ""
    section.file = subject.file
    if subject.command:
        section.commands.insert(0, ("makes it again", subject.command))
    elif file and section.kind in ("sweep", "capacities"):
        section.commands.insert(0, ("makes it again", f"batchcube rerun {file} -o again.nc"))
    if file:
        section.commands.append(("makes this page again", f"batchcube report {file} -o report.html"))
    section.provenance = _provenance(subject.dataset)
    return section


# Cubes --------------------------------------------------------------------------------------------------------------


def _cube(cube: xr.Dataset, share: float) -> Section:
    grid = grid_of(cube, share)
    search = answers.is_search(cube)
    served = str(cube.attrs.get("backend", "")).endswith("not simulated")
    plan = json.loads(str(cube.attrs["plan"])) if "plan" in cube.attrs else None
    best = answers.best_point(cube, grid) if plan is None else point_of(cube, plan["best"]["at"])
    data: dict[str, Any] = {
        "axes": grid.axes,
        "queue": None if grid.queue is None else grid.queue.tolist(),
        "quantities": [_embedded(quantity) for quantity in grid.quantities],
        "best": best,
        "trade": [] if search else _trade(grid),
    }
    frontiers = frontiers_of(cube, grid) if data["trade"] else []
    data["frontiers"] = [{"of": [one.across, one.up], "states": one.states.tolist()} for one in frontiers]
    courses = courses_of(cube, share)
    if courses is not None:
        data["courses"] = {
            "time_s": rounded(courses.time_s, 4),
            "quantities": [_embedded(quantity, 4) for quantity in courses.quantities],
        }
    kinds = {"plan": plan is not None, "capacities": search, "served, not simulated": served, "sweep": True}
    return Section(
        title=printable(cube.attrs.get("title") or "cube"),
        kind=next(kind for kind, applies in kinds.items() if applies),
        answers=[*answers.answers_of(cube, grid), *answers.frontier_in_words(frontiers, grid, data["trade"])]
        if plan is None
        else answers.plan_in_words(plan),
        warnings=[text for text in (costs.warning(cube), refusals(cube)) if text],
        data={"grid": data},
        tables=[_points(cube, grid)],
        assumed=[printable(note) for note in notes_of(cube)],
        specification=str(cube.attrs["specification"]),
        defaults=str(cube.attrs.get("specification_defaults", "")),
        commands=[] if plan is None else [(f"serves so ({label})", text) for label, text in plan["commands"].items()],
    )


def _embedded(quantity: Quantity, digits: int = 6) -> dict[str, Any]:
    found: dict[str, Any] = {"key": quantity.key, "title": quantity.title}
    for name in ("mean", "low", "high", "theory"):
        values: NDArray[np.float64] | None = getattr(quantity, name)
        if values is not None:
            found[name] = rounded(values, digits)
    return found | ({"text": quantity.text} if quantity.text else {})


def _trade(grid: Grid) -> list[str]:
    """Return what is first held against what: a rate of work, and the time that it costs; nothing for one point."""
    keys = [quantity.key for quantity in grid.quantities]
    across = [key for key in ("throughput_tokens_per_s", "throughput_requests_per_s") if key in keys]
    if "steps" not in keys:
        across.reverse()
    up = [key for key in ("latency_mean_s", "ttft_mean_s", "tpot_mean_s") if key in keys]
    return [across[0], up[0]] if across and up and grid.points > 1 else []


def _points(cube: xr.Dataset, grid: Grid) -> Table:
    from batchcube.results.summary import default_variables

    usual = set(default_variables(cube))
    shown = [quantity for quantity in grid.quantities if quantity.key.partition("[")[0] in usual]
    axes = [axis for axis in grid.axes if len(axis["labels"]) > 1]
    columns = [axis["name"] for axis in axes] + (["queue"] if grid.queue is not None else [])
    rows = []
    shape = [len(axis["labels"]) for axis in grid.axes]
    for point in range(min(grid.points, _MOST_ROWS)):
        places = np.unravel_index(point, shape) if shape else ()
        labels = [axis["labels"][i] for axis, i in zip(grid.axes, places, strict=True) if len(axis["labels"]) > 1]
        queue = [] if grid.queue is None else [str(grid.queue[point])]
        rows.append([*labels, *queue, *(quantity.text[point] for quantity in shown)])
    more = grid.points - len(rows)
    below = f"{more:,} more points: batchcube show CUBE --all" if more > 0 else ""
    title = f"All numbers: {counted(grid.points, 'point')}"
    return Table(title, [*columns, *(quantity.title for quantity in shown)], rows, len(columns), below, True)


# Real engines -------------------------------------------------------------------------------------------------------


def plain(
    title: str,
    spec: str,
    columns: list[str],
    rows: list[list[Any]],
    *,
    choose: str = "",
    caption: str = "",
    log: bool = True,
    titles: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return a chart of given rows for the page's script; a reader may ``choose`` the values of one column."""
    return {
        "title": title,
        "spec": spec,
        "columns": columns,
        "rows": rows,
        "choose": choose,
        "caption": caption,
        "log": log,
        "titles": dict(titles or {}),
    }


def _validation(found: xr.Dataset) -> Section:
    judged = found["judged"].values.astype(bool)
    distributions, courses = [], []
    for quantity, label in QUANTITIES.items():
        for side in SIDES:
            values = found[f"{side}_{quantity}"].values[judged]
            values = values[np.isfinite(values)]
            # Not every request: the shape of the distribution.
            at = np.quantile(values, _SHARES) if values.size else []
            distributions += [
                [label, side, *pair] for pair in zip(rounded(np.asarray(at), 5), _SHARES.tolist(), strict=True)
            ]
    for course, label in validation.COURSES.items():
        for side in SIDES:
            values = found[f"{side}_{course}"].values.astype(np.float64)
            pairs = zip(rounded(found["time_s"].values.astype(np.float64), 5), rounded(values, 5), strict=True)
            courses += [[label, side, *pair] for pair in pairs]
    columns = ["of", "series", "x", "y"]
    warnings = [printable(line) for line in str(found.attrs.get("warnings", "")).splitlines()]
    errors = json.loads(str(found.attrs.get("errors", "[]")))
    return Section(
        title=f"Simulated against measured: {printable(found.attrs.get('source', ''))}",
        kind="validation",
        answers=_said_of_errors(errors, int(judged.sum()), printable(found.attrs["judged"])),
        warnings=warnings,
        data={
            "plain": [
                plain(
                    "Times of requests",
                    "shares",
                    columns,
                    distributions,
                    choose="of",
                    caption="Share of the requests judged.",
                ),
                plain(
                    "In the server", "courses", columns, courses, choose="of", log=False, caption="Over all requests."
                ),
            ]
        },
        tables=[_errors(errors)] if errors else [],
        assumed=[printable(line) for line in str(found.attrs.get("log_notes", "")).splitlines()],
    )


def _said_of_errors(errors: list[dict[str, Any]], judged: int, which: str) -> list[Said]:
    said = [Said(f"{counted(judged, 'request')} judged: {which}.")]
    wanted = (("ttft_s", "mean"), ("tpot_s", "mean"), ("e2e_s", "mean"), ("throughput_tokens_per_s", "all"))
    by = {(row["quantity"], row["statistic"]): row for row in errors if not row["fitted"]}
    for key in wanted:
        row = by.get(key)
        if row is None or row["error"] is None:
            continue
        label = QUANTITIES.get(key[0], "throughput in tokens")
        within = ""
        if row["low"] is not None:
            explained = "may explain it" if row["low"] <= 0 <= row["high"] else "does not explain it"
            between = f"{_percent(row['low'])} to {_percent(row['high'])}"
            within = f" (90 % interval {between}: what is not known of the law {explained})"
        text = f"The {'mean ' if key[1] == 'mean' else ''}{label} is off by {_percent(row['error'])}{within}."
        said.append(Said(text, main=len(said) == 1))
    return said


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:+.1f} %"


def _errors(errors: list[dict[str, Any]]) -> Table:
    rows = [
        [
            row["quantity"],
            row["statistic"],
            "fitted to" if row["fitted"] else "judged",
            *("-" if row[side] is None else f"{row[side]:.5g}" for side in SIDES),
            _percent(row["error"]),
            "" if row["low"] is None else f"{_percent(row['low'])} to {_percent(row['high'])}",
        ]
        for row in errors
    ]
    columns = ["quantity", "statistic", "over requests", *SIDES, "error", "90 % interval"]
    return Table("All errors", columns, rows, 3)


def _calibration(found: xr.Dataset) -> Section:
    rows: list[list[Any]] = []

    def add(kind: str, at: str, measured: float, fitted: float) -> None:
        if np.isfinite(measured) and np.isfinite(fitted) and measured > 0 and fitted > 0:
            error = fitted / measured - 1
            text = f"{1e3 * measured:.4g} ms, {1e3 * fitted:.4g} ms ({100 * error:+.1f} %)"
            rows.append([kind, at, *rounded(np.array([measured, fitted]), 5), text])

    if "batch_s" in found:
        for k, prompt in enumerate(found["prompt_tokens"].values):
            here = found.isel(prompt_tokens=k)
            fitted = here["fitted_batch_s"].sel(law=str(here["chosen"].values)).values
            for (i, j), seconds in np.ndenumerate(here["batch_s"].values):
                size, output = found["batch_size"].values[i], found["output_tokens"].values[j]
                add(
                    "whole batches",
                    f"b = {size:g}, {_prompt(prompt)}, output {output:g}",
                    float(seconds),
                    float(fitted[i, j]),
                )
    if "step_s" in found:
        for k in range(found.sizes["step"]):
            one = found.isel(step=k)
            at = f"b = {float(one['step_batch_size']):g}, {_prompt(float(one['step_prompt_tokens']))}"
            fitted_s = float(one["fitted_step_s"]) if "fitted_step_s" in found else np.nan
            add(f"{one['step_kind'].item()} steps", at, float(one["step_s"]), fitted_s)
    answer: list[Said] = []
    errors = {
        kind: [row[3] / row[2] - 1 for row in rows if row[0] == kind] for kind in dict.fromkeys(row[0] for row in rows)
    }
    for kind, off in errors.items():
        rms, worst = np.sqrt(np.mean(np.square(off))), max(off, key=abs)
        text = (
            f"{counted(len(off), 'cell')} of {kind}: the fitted law is off by {in_percent(rms)} (root mean square), by "
            f"{'+' if worst > 0 else ''}{in_percent(worst)} at worst."
        )
        answer.append(Said(text, main=not answer))
    chart = plain(
        "Measured, and by the law",
        "fitted",
        ["series", "at", "x", "y", "text"],
        rows,
        caption="The line: both the same.",
    )
    cells = [[row[0], row[1], row[4]] for row in rows]
    return Section(
        title=f"{printable(found.attrs['name'])}: {printable(found.attrs['title'])}",
        kind="calibration",
        answers=answer or [Said("No cell has both a time and a law.")],
        data={"plain": [chart]} if rows else {},
        tables=[
            Table(
                f"All numbers: {counted(len(cells), 'cell')}",
                ["kind", "cell", "measured, fitted (error)"],
                cells[:_MOST_ROWS],
                2,
            )
        ],
        assumed=[printable(found.attrs["source"])],
    )


def _prompt(tokens: float) -> str:
    return f"prompt {tokens:g}" if np.isfinite(tokens) and tokens >= 0 else "prompt not known"


def _measurement(found: xr.Dataset) -> Section:
    rows: list[list[Any]] = []
    steps = found["step_s"].transpose(*measurements.CELL, "repetition", "step").values
    batches, prompts, outputs = (found[name].values.tolist() for name in measurements.CELL)
    # How long the answers will be, a prefill does not know: its repetitions are those of all of them.
    prefill = steps[..., 0].reshape(len(batches), len(prompts), 1, -1)
    for kind, times, of_output in (
        ("prefill", prefill, [""]),
        ("decode", _mean_of_known(steps[..., 1:]), [f", output {output}" for output in outputs]),
    ):
        seconds = statistics.mean_interval(times, bounds=(0.0, np.inf))
        for (i, j, k), mean in np.ndenumerate(seconds.estimate):
            if np.isnan(mean):
                continue
            low, high = seconds.low[i, j, k], seconds.high[i, j, k]
            between = "" if np.isnan(low) else f" [{1e3 * low:.4g}, {1e3 * high:.4g}]"
            series = f"prompt {prompts[j]}{of_output[k]}"
            numbers = rounded(np.array([batches[i], mean, low, high]), 5)
            at = f"b = {batches[i]}, {series}"
            rows.append([f"{kind} step", series, at, *numbers, f"{1e3 * mean:.4g}{between} ms"])
    refused = int(np.count_nonzero(found["refusal"].values != ""))
    cells = len(batches) * len(prompts) * len(outputs)
    said = (
        f"{counted(cells, 'cell')}, {counted(steps.shape[3], 'repetition')} each; {refused} not measured, or not whole."
    )
    chart = plain(
        "Times of steps",
        "lines",
        ["of", "series", "at", "x", "y", "low", "high", "text"],
        rows,
        choose="of",
        caption="Means over repetitions, with 95 % intervals where there are several.",
        titles={"x": "requests in the batch", "y": "time of a step (s)"},
    )
    table = [[row[0], row[2], row[7]] for row in rows]
    about = ", ".join(printable(found.attrs[name]) for name in ("engine", "model", "device") if name in found.attrs)
    return Section(
        title=f"Measurement of an engine{f': {about}' if about else ''}",
        kind="measurement",
        answers=[Said(said, main=True)],
        data={"plain": [chart]} if rows else {},
        tables=[
            Table(f"All numbers: {counted(len(table), 'time')}", ["of", "cell", "mean [95 %]"], table[:_MOST_ROWS], 2)
        ],
    )


def _mean_of_known(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the last axis of what is known, NaN where nothing is."""
    known = np.isfinite(steps)
    count = known.sum(axis=-1)
    return np.where(count > 0, np.where(known, steps, 0.0).sum(axis=-1) / np.maximum(count, 1), np.nan)


# Where from ---------------------------------------------------------------------------------------------------------

_SHOWN = {
    "batchcube_version": "batchcube",
    "git_commit": "commit",
    "created_utc": "made",
    "backend": "simulated by",
    "backend_device": "on",
    "seed": "seed",
    "replications": "replications",
    "versions": "versions",
    "specification_sha256": "SHA-256 of the specification",
    "input_sha256": "SHA-256 of the input",
    "log_sha256": "SHA-256 of the log",
    "raw_sha256": "SHA-256 of the raw data",
    "content_sha256": "SHA-256 of the content",
    "service_coefficients": "coefficients",
    "policies": "policies",
    **{name: name.replace("_", " ") for name in ("engine", "engine_versions", "model", "weights", "dtype", "device")},
    **{name: name for name in ("processor", "cores", "clock")},
}


def _provenance(dataset: xr.Dataset) -> list[tuple[str, str]]:
    found = []
    for name, label in _SHOWN.items():
        text = printable(dataset.attrs.get(name, ""))
        if text.startswith("{"):
            text = _listed(text)
        if text:
            found.append((label, text))
    if joined := parts_in_words(dataset):
        found.append(("joined", joined.removeprefix("joined ")))
    return found


def _listed(text: str) -> str:
    """Return a table in JSON as a list: names with versions, or with the hashes of what they are."""
    try:
        table = json.loads(text)
    except ValueError:
        return text
    return ", ".join(
        f"{name} {value.get('sha256', '') if isinstance(value, dict) else value}".strip()
        for name, value in table.items()
    )
