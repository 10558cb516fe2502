"""One replication of one point of a sweep, with what became of each request."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from batchcube.engine import batches, continuous, simulate
from batchcube.engine.continuous.model import answered
from batchcube.engine.continuous.ticks import TICKS_PER_S as STEP_TICKS_PER_S
from batchcube.engine.ticks import TICKS_PER_S
from batchcube.errors import InputError, did_you_mean, one_of, quoted
from batchcube.results.notebook import line
from batchcube.results.text import counted

from ..spec.document import Sweep
from ..spec.grid import Grid, read_axes
from ..spec.messages import show_value
from ..spec.settings import Point
from .draws import Draws
from .preparing import prepare, refusal


class Replication(NamedTuple):
    """What one replication gave."""

    requests: pd.DataFrame
    """A row for each request in the order of arrival; NaN, or -1 for numbers of things, where it was never served."""
    report: dict[str, Any]
    """The variables of a cube for this replication, by name: scalars and small arrays."""

    def __repr__(self) -> str:
        return f"{_size(self)}\n{self.requests}"

    def _repr_html_(self) -> str:
        return f"{line(_size(self))}{self.requests.to_html(max_rows=10, notebook=True)}"


def _size(one: Replication) -> str:
    return f"One replication: .requests has {counted(len(one.requests), 'row')}, .report {len(one.report)} variables"


def simulate_one(sweep: Sweep, at: Mapping[str, object], replication: int = 0, backend: str = "numba") -> Replication:
    """Simulate a replication of the point at {axis: value}; axes that are left out must have one value.

    Replication r of a cube of the same sweep has the same numbers. Raises InputError for a point that is not there, and
    as a run does.
    """
    if replication < 0:
        raise InputError("must be >= 0", path="`replication`", value=replication)
    prepared = prepare(replace(sweep, grid=Grid((), (point_at(sweep, at),))))
    try:
        draws = Draws(sweep.seed, replication)
        job = draws.job(prepared.points[0])
    except InputError as error:
        raise refusal(sweep, error, None) from None
    report, records = simulate(job, backend)
    columns = _of_batches(job, records) if isinstance(job, batches.Job) else _of_steps(job, records)
    return Replication(pd.DataFrame(columns).rename_axis("request"), report | draws.ratios(prepared.points[0]))


def simulate_requests(
    tables: Mapping[str, Any],
    requests: Mapping[str, Any],
    at: Mapping[str, object],
    replication: int = 0,
    backend: str = "numba",
) -> Replication:
    """Simulate the sweep of tables as `simulate_one` does, with requests in place of its workload.

    `requests` are columns as of a trace of format csv: arrival_s, prompt_tokens, output_tokens, predicted_tokens. The
    predictor of the workload stays, unless they say what was predicted. Times of requests are on their clock. Raises
    InputError for requests that are no such table, tables that are no specification, and axes of the workload.
    """
    try:
        table = pd.DataFrame(dict(requests))
    except (TypeError, ValueError) as error:
        raise InputError(quoted(error), path="`requests`") from None
    given = tables.get("workload")
    workload = {key: value for key, value in given.items() if key == "predictor"} if isinstance(given, Mapping) else {}
    if "predicted_tokens" in table:
        workload = {"predictor": {"kind": "column"}}
    _require_elsewhere(tables, () if "predicted_tokens" in table else ("workload.predictor.",))
    with TemporaryDirectory(prefix="batchcube-requests-") as folder:
        file = Path(folder) / "requests.csv"
        table.to_csv(file, index=False)
        # The name of its column says it, however fast or slowly they come.
        trace = {"path": str(file), "format": "csv", "unit": "s"}
        sweep = Sweep.model_validate({**tables, "workload": {**workload, "trace": trace}})
        one = simulate_one(sweep, at, replication, backend)
    # What is read from a file begins at 0.
    arrival_s = table["arrival_s"].to_numpy(np.float64)
    times = [name for name in ("start_s", "first_token_s", "completion_s") if name in one.requests]
    later = {name: one.requests[name] + arrival_s[0] for name in times}
    return one._replace(requests=one.requests.assign(arrival_s=arrival_s, **later))


def _require_elsewhere(tables: Mapping[str, Any], kept: tuple[str, ...]) -> None:
    """Refuse axes that vary the workload, but for settings whose paths begin with one of `kept`."""
    axes = tables.get("axes")
    for axis in read_axes(axes, tables)[0] if isinstance(axes, Mapping) else ():
        for path in axis.paths:
            if path.startswith("workload.") and not path.startswith(kept):
                raise InputError(
                    f"varies {path}, and `requests` take the place of the workload: leave the axis out, or give that "
                    "setting a value",
                    path=f"axes.{axis.name}",
                )


def point_at(sweep: Sweep, at: Mapping[str, object]) -> Point:
    """Return the point at {axis: value}, axes of one value left out; InputError for one that is not there."""
    axes = sweep.grid.axes
    for name in at:
        if name not in (names := [axis.name for axis in axes]):
            hint = did_you_mean(name, names) or f"it has {one_of(names) if names else 'none'}"
            raise InputError(f"no axis {name}; {hint}", file=sweep.source)
    position = []
    for axis in axes:
        if axis.name not in at and len(axis.labels) > 1:
            raise InputError(
                f"must be chosen: one of {_all_of(axis.labels)}", file=sweep.source, path=f"axis {axis.name}"
            )
        label = at.get(axis.name, axis.labels[0])
        if label not in axis.labels:
            raise InputError(
                f"axis {axis.name} has no {show_value(label)}; it has {_all_of(axis.labels)}", file=sweep.source
            )
        position.append(axis.labels.index(label))
    return sweep.grid.points[int(np.ravel_multi_index(position, sweep.grid.shape)) if position else 0]


def _all_of(labels: tuple[object, ...]) -> str:
    return ", ".join(map(show_value, labels))


def _of_batches(job: batches.Job, records: batches.Records) -> dict[str, NDArray[Any]]:
    """Return what became of each request, by the names of columns."""
    trace = job.trace
    needed = (
        {"prompt_tokens": trace.prompt, "output_tokens": trace.output}
        if trace.output.any()
        else {"service_s": trace.length / TICKS_PER_S}
    )
    return {
        "arrival_s": trace.arrival / TICKS_PER_S,
        **needed,
        "bin": records.bin,
        "batch": records.batch,
        "batch_size": records.size,
        "start_s": _seconds(records.start, TICKS_PER_S),
        "completion_s": _seconds(records.completion, TICKS_PER_S),
    }


def _of_steps(job: continuous.Job, records: continuous.Records) -> dict[str, NDArray[Any]]:
    """Return what became of each request, by the names of columns."""
    requests = answered(job.requests, job.setup.replica)
    return {
        "arrival_s": records.arrival / STEP_TICKS_PER_S,
        **({"follows": requests.follows} if len(requests.follows) else {}),
        **({} if job.classes is None else {"class": job.classes.of}),
        "prompt_tokens": requests.prompt,
        "output_tokens": requests.output,
        "bin": job.bin_of,
        "replica": records.replica,
        "start_s": _seconds(records.scheduled, STEP_TICKS_PER_S),
        "first_token_s": _seconds(records.first_token, STEP_TICKS_PER_S),
        "completion_s": _seconds(records.last_token, STEP_TICKS_PER_S),
        "preemptions": records.preemptions,
        "rejected": records.status == continuous.REJECTED,
    }


def _seconds(ticks: NDArray[np.int64], ticks_per_s: int) -> NDArray[np.float64]:
    """Return times in seconds, NaN where they never came."""
    return np.where(ticks < 0, np.nan, ticks / ticks_per_s)
