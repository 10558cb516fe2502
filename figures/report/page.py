"""The page: sections, comparison, libraries and data in one file of HTML that loads nothing from anywhere."""

from __future__ import annotations

import base64
import gzip
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
from batchcube.results.claims import VERDICTS, Row, Verdict, count_verdicts
from batchcube.results.disk import make_folder, write_whole
from batchcube.results.provenance import batchcube_version

from . import charts, report_file
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
# In which order a page tells verdicts, what differs first.
_ORDER: tuple[Verdict, ...] = ("no", "cannot tell", "equal", "yes", "")
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
    Its folder is made. Raises InputError as `report_file` does, and without anything to report on.
    """
    target = report_file(output)
    if not subjects and not comparison:
        raise InputError("is given nothing to report on", path="report")
    text = page(subjects, comparison=comparison, answer=answer, title=title, command=command)
    make_folder(target.parent)
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
    data: dict[str, Any] = {
        "sections": [section.data | {"tables": [one._asdict() for one in section.tables]} for section in sections]
    }
    if compared is not None:
        data["experiments"] = compared.experiments
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
            answer=_said_once(answer),
            short=bool(comparison) or len(sections) > _FEW,
            command=command,
            version=batchcube_version(),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            css=_text("page.css"),
            library=_library(),
            script=_text("page.js"),
            data=_packed(json.dumps(data, separators=(",", ":"), allow_nan=False)),
        )
    )


def _said_once(answer: Sequence[tuple[str, Sequence[str]]]) -> list[tuple[str, list[str]]]:
    """Return what follows from a comparison, each sentence where it is said first."""
    before: set[str] = set()
    told = []
    for heading, lines in answer:
        told.append((heading, [line for line in lines if line not in before]))
        before.update(lines)
    return told


def _packed(text: str) -> str:
    """Return a text small enough to embed, the same one always, as letters that can end no script."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


class _Compared(NamedTuple):
    """What a page says of a comparison."""

    answer: list[str]
    experiments: list[dict[str, Any]]
    """For the page's script: each `name`, with its rows in `groups` of one verdict."""
    chart: dict[str, Any]
    command: str


def _compared(rows: Sequence[Row]) -> _Compared:
    answer = [f"{len(rows)} rows: {count_verdicts(rows)}."]
    groups = {
        name: [row for row in rows if row.experiment == name] for name in dict.fromkeys(row.experiment for row in rows)
    }
    answer += [f"{name}: {count_verdicts(of)}." for name, of in groups.items() if len(groups) > 1]
    experiments = [_experiment(name, of) for name, of in groups.items()]
    return _Compared(answer, experiments, _ratios(rows), next((row.again for row in rows if row.again), ""))


def _experiment(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the rows of an experiment; those that differ and groups of few are shown without being asked for."""
    groups = []
    for verdict in _ORDER:
        of = [row for row in rows if row.agrees == verdict]
        if of:
            shown = verdict == "no" or (verdict == "cannot tell" and len(of) <= _SHOWN) or len(rows) <= _SHOWN
            groups.append({"verdict": VERDICTS[verdict], "open": shown, "rows": [_told(row) for row in of]})
    return {"name": name, "counts": count_verdicts(rows), "groups": groups}


def _told(row: Row) -> dict[str, Any]:
    """Return a row as the page shows it, with its whole story where it has a verdict."""
    numbers = " · ".join(filter(None, (row.simulated_in_words(), row.claimed())))
    told = {
        "name": row.row,
        "verdict": VERDICTS[row.agrees],
        "what": f"{row.setting}: {row.quantity}",
        "numbers": numbers,
    }
    return told | ({"story": row.story(), "command": row.command} if row.agrees else {})


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
    """Return Vega, Vega-Lite and vega-embed, packed, as JavaScript that sets `vegaEmbed` and loads nothing."""
    return _packed(vl_convert.javascript_bundle(_SNIPPET))


def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_text("page.html"))
