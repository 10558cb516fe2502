"""The page: sections, comparison, libraries and data in one file of HTML that loads nothing from anywhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import numpy as np
import vl_convert

from batchcube.errors import InputError
from batchcube.results.comparison import Row, Verdict, count_verdicts
from batchcube.results.disk import output_file, write_whole
from batchcube.results.provenance import batchcube_version

from . import charts
from .sections import Subject, plain, section_of

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

_SHOWN = 12
"""Rows of an experiment that are shown without being asked for."""
_FEW = 3
"""Files whose whole answers stand at the top of a page; of more, one sentence each."""
# What vl_convert bundles with its libraries.
_SNIPPET = "window.vegaEmbed = vegaEmbed;"
_SPECS: dict[str, Callable[[], dict[str, Any]]] = {
    "lines": charts.lines,
    "scatter": charts.scatter,
    "over_time": charts.over_time,
    "claims": charts.claims,
    "fitted": lambda: charts.against("measured (s)", "by the law (s)"),
    "shares": lambda: charts.steps("time (s)", "share of requests"),
    "courses": lambda: charts.steps("time since the first request (s)", "requests"),
}


def write_report(
    subjects: Sequence[Subject],
    output: str | os.PathLike[str],
    *,
    comparison: Sequence[Row] = (),
    answer: Sequence[tuple[str, Sequence[str]]] = (),
    title: str = "",
    command: str = "",
) -> Path:
    """Write a report on cubes, calibrations, measurements and validations, complete or not at all; return its path.

    `comparison` are rows that say of each number why it agrees or not, `answer` what follows from them, headings with
    sentences, and `command` what makes the page again.
    Raises InputError for an output that is no .html, and without anything to report on.
    """
    target = output_file(Path(output))
    if target.suffix.lower() not in (".html", ".htm"):
        raise InputError("must end in .html", file=output)
    if not subjects and not comparison:
        raise InputError("is given nothing to report on", path="report")
    if not target.parent.is_dir():
        raise InputError(f"the folder {target.parent} does not exist", file=output)
    text = page(subjects, comparison=comparison, answer=answer, title=title, command=command)
    write_whole(target, text.encode())
    return target


def page(
    subjects: Sequence[Subject],
    *,
    comparison: Sequence[Row] = (),
    answer: Sequence[tuple[str, Sequence[str]]] = (),
    title: str = "",
    command: str = "",
) -> str:
    """Return the text of the page that `write_report` writes."""
    sections = [section_of(subject, 1.0 / max(len(subjects), 1)) for subject in subjects]
    for section in sections if len(sections) > 1 else ():
        section.title = f"{section.title} [{Path(section.file).stem}]" if section.file else section.title
    compared = _compared(comparison) if comparison else None
    data: dict[str, Any] = {"sections": [section.data for section in sections]}
    if compared is not None and compared.chart["rows"]:
        data["comparison"] = compared.chart
    used = {chart["spec"] for section in sections for chart in section.data.get("plain", ())}
    used |= {"claims"} if "comparison" in data else set()
    used |= {"lines", "scatter", "over_time"} if any("grid" in section.data for section in sections) else set()
    data["specs"] = {name: _spec(name) for name in sorted(used)}
    return str(
        _template().render(
            title=title or (sections[0].title if len(sections) == 1 else "Report"),
            sections=sections,
            comparison=compared,
            answer=answer,
            short=bool(comparison) or len(sections) > _FEW,
            command=command,
            version=batchcube_version(),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            css=_text("page.css"),
            library=_library(),
            script=_text("page.js"),
            # No text in it can end the script that it is in.
            data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        )
    )


class _Experiment(NamedTuple):
    """The rows of an experiment."""

    name: str
    counts: str
    rows: Sequence[Row]
    """Those that differ first, those that agree last."""

    @property
    def is_open(self) -> bool:
        """Whether the page shows its rows at once."""
        return any(row.agrees in ("no", "cannot tell") for row in self.rows) or len(self.rows) <= _SHOWN


class _Compared(NamedTuple):
    """What a page says of a comparison."""

    answer: list[str]
    experiments: list[_Experiment]
    chart: dict[str, Any]
    command: str


def _compared(rows: Sequence[Row]) -> _Compared:
    answer = [f"{len(rows)} rows: {count_verdicts(rows)}."]
    groups = {
        name: [row for row in rows if row.experiment == name] for name in dict.fromkeys(row.experiment for row in rows)
    }
    order: tuple[Verdict, ...] = ("no", "cannot tell", "equal", "yes", "")
    experiments = [
        _Experiment(name, count_verdicts(of), sorted(of, key=lambda row: order.index(row.agrees)))
        for name, of in groups.items()
    ]
    answer += [f"{one.name}: {one.counts}." for one in experiments if len(experiments) > 1]
    return _Compared(answer, experiments, _ratios(rows), next((row.again for row in rows if row.again), ""))


def _ratios(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the chart of what was simulated over what is claimed, of the rows with a verdict that have both."""
    drawn: list[list[Any]] = []
    for row in rows:
        claim = next((value for value in (row.theory, row.paper, row.limit) if not np.isnan(value)), np.nan)
        if row.agrees and not np.isnan(claim) and claim != 0 and not np.isnan(row.simulated):
            ends = [None if np.isnan(end) else end / claim for end in (row.ci_low, row.ci_high)]
            drawn.append([row.experiment, row.row, row.simulated / claim, *ends, row.agrees, row.verdict()])
    columns = ["experiment", "name", "y", "low", "high", "series", "text"]
    return plain("Simulated over claimed", "claims", columns, drawn, choose="experiment", log=False)


@cache
def _spec(name: str) -> dict[str, Any]:
    return _SPECS[name]()


@cache
def _library() -> str:
    """Return Vega, Vega-Lite and vega-embed as one text of JavaScript that sets `vegaEmbed` and loads nothing."""
    return str(vl_convert.javascript_bundle(_SNIPPET)).replace("</script", "<\\/script")


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_text("page.html"))
