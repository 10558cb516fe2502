"""Claims beside what was simulated, a row of `comparison.csv` each, and where every row is from."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from batchcube.errors import InputError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

Verdict = Literal["", "yes", "no", "equal", "cannot tell"]
VERDICTS: Mapping[Verdict, str] = {
    "yes": "yes",
    "no": "no",
    "equal": "equal",
    "cannot tell": "cannot tell",
    "": "no verdict",
}
"""What the rows with each verdict are counted as."""
SIDES = ("paper", "theory", "limit", "simulated")
COLUMNS = (
    *("row", "experiment", "setting", "quantity", *SIDES, "ci_low", "ci_high", "agrees", "note", "source"),
    *("cube", "selection", "command", "again"),
)
_NUMBERS = (*SIDES, "ci_low", "ci_high")
_MOST_BYTES = 50_000_000
# What a note calls the rule of the verdict, and what the source leaves open.
_AGREES, _ASSUMED = "agrees: ", "assumed: "


class Origin(NamedTuple):
    """What the simulated number of a row is made of, or theory's."""

    variable: str
    select: Mapping[str, Any] = {}
    """Points of the cube, {axis: value or values}; axes that are left out with all of theirs."""
    cube: str = ""
    """The file's name; that of the cube that was run last when left out."""


@dataclass(frozen=True)
class Row:
    """One line of `comparison.csv`; NaN where there is no number, no verdict where nothing can agree or disagree.

    A verdict needs two sides: the simulated number beside the paper's, theory's or a limit, or the paper's beside
    theory's. With one of them missing it is "cannot tell", whatever was given.
    """

    experiment: str
    setting: str
    quantity: str
    paper: float = np.nan
    theory: float = np.nan
    simulated: float = np.nan
    ci_low: float = np.nan
    ci_high: float = np.nan
    agrees: Verdict = ""
    note: str = ""
    """Parts with "; " between them; one that starts with "agrees: " is the rule of the verdict."""
    on_screen: bool = True
    """Whether the screen shows the row too; a row that disagrees is always shown."""
    limit: float = np.nan
    """What the simulated number is held against where that is neither paper nor theory: a bound, 0 for a difference."""
    origin: Origin | None = None
    row: str = ""
    """Its name, by which `batchcube why` finds it; see `named`."""
    source: str = ""
    """Where the claim stands: the paper's figure, table or theorem."""
    cube: str = ""
    """The file of its origin, beside the comparison."""
    selection: str = ""
    """Points of the cube, as `show --select` takes them."""
    command: str = ""
    """What shows the numbers that the simulated one is made of."""
    again: str = ""
    """What makes the row again."""

    def __post_init__(self) -> None:
        known = {name: not np.isnan(getattr(self, name)) for name in SIDES}
        found = known["simulated"] and (known["paper"] or known["theory"] or known["limit"])
        if self.agrees and not (found or (known["paper"] and known["theory"])):
            object.__setattr__(self, "agrees", "cannot tell")

    @classmethod
    def measured(
        cls, experiment: str, setting: str, quantity: str, found: tuple[float, float, float], **more: Any
    ) -> Row:
        """Return the row of a mean that was simulated, with the ends of its interval."""
        simulated, low, high = found
        return cls(experiment, setting, quantity, simulated=simulated, ci_low=low, ci_high=high, **more)

    def of(self, cube: str) -> Row:
        """Return the row, of this cube where its origin names none."""
        if self.origin is None or self.origin.cube:
            return self
        return replace(self, origin=self.origin._replace(cube=cube))

    @property
    def rule(self) -> str:
        """What has to hold for the verdict "yes", in words; "" where the note does not say."""
        return next((part.removeprefix(_AGREES) for part in self._parts() if part.startswith(_AGREES)), "")

    @property
    def assumed(self) -> str:
        """What the source leaves open and was assumed, in words."""
        return next((part.removeprefix(_ASSUMED) for part in self._parts() if part.startswith(_ASSUMED)), "")

    @property
    def remarks(self) -> list[str]:
        """The other parts of the note."""
        return [part for part in self._parts() if not part.startswith((_AGREES, _ASSUMED))]

    def _parts(self) -> list[str]:
        # What is assumed comes last, and has semicolons of its own.
        note, mark, assumed = self.note.partition(_ASSUMED)
        parts = [part for part in note.split("; ") if part]
        return [*parts, mark + assumed] if mark else parts

    def verdict(self) -> str:
        """Say in a sentence which verdict the row has, and why: what was held against what, by which rule."""
        compared = " against ".join(filter(None, (self.simulated_in_words(), self.claimed())))
        if not self.agrees:
            return f"no verdict: {compared or 'no number'}; nothing is claimed that this must meet"
        said = {"yes": "agrees", "no": "differs", "cannot tell": "cannot be told"}.get(self.agrees, self.agrees)
        if self.agrees == "cannot tell" and not (self.simulated_in_words() and self.claimed()):
            return f"{said}: {compared or 'no number'}, and there is nothing on the other side"
        rule = self.rule or ("" if np.isnan(self.ci_low) else "what is claimed lies within the interval")
        return f"{said}: {compared}" + (f"; the rule: {rule}" if rule else "")

    def claimed(self) -> str:
        """Return what the simulated number is held against, in words; "" where there is nothing."""
        claims = ((name, getattr(self, name)) for name in SIDES if name != "simulated")
        return " and ".join(f"{name} {written(value)}" for name, value in claims if not np.isnan(value))

    def simulated_in_words(self) -> str:
        """Return the simulated number with its interval, in words; "" where there is none."""
        if np.isnan(self.simulated):
            return ""
        interval = "" if np.isnan(self.ci_low) else f" [{written(self.ci_low)}, {written(self.ci_high)}]"
        return f"simulated {written(self.simulated)}{interval}"

    def story(self) -> list[tuple[str, str]]:
        """Return all there is to say of the row but its name and its commands, as labels and texts."""
        told = [
            ("setting", self.setting),
            ("quantity", self.quantity),
            ("source", self.source),
            ("verdict", self.verdict()),
            *(("note", remark) for remark in self.remarks),
            ("assumed", self.assumed),
            ("cube", self.cube),
            ("selection", self.selection),
        ]
        return [(label, text) for label, text in told if text]


def count_verdicts(rows: Sequence[Row]) -> str:
    """Say how many rows have each verdict: the counts sum to the number of rows."""
    counts = {verdict: sum(row.agrees == verdict for row in rows) for verdict in VERDICTS}
    return ", ".join(f"{count} {VERDICTS[verdict]}" for verdict, count in counts.items() if count) or "none"


def named(rows: Iterable[Row]) -> list[Row]:
    """Return rows under their names: experiment and setting, or the name a row has there, as words with hyphens.

    The quantity is added where that is no name of one row alone. Marks of queues are no part of a name, so that it
    stays what it is when a verdict changes.
    """
    listed = list(rows)
    short = [
        f"{_hyphened(row.experiment)}-{_hyphened(row.row or row.setting)}".replace("fig-", "fig") for row in listed
    ]
    names = [
        name if short.count(name) == 1 else f"{name}-{_hyphened(re.sub(r'[(].*?[)]', '', row.quantity))}"
        for name, row in zip(short, listed, strict=True)
    ]
    twice = sorted(name for name in set(names) if names.count(name) > 1)
    assert not twice, f"rows of one name: {twice}"
    return [replace(row, row=name) for name, row in zip(names, listed, strict=True)]


def find_rows(rows: Iterable[Row], name: str) -> list[Row]:
    """Return the rows of a name, or else those whose names have all its words."""
    words, listed = _hyphened(name), list(rows)
    found = [row for row in listed if row.row == words]
    return found or [row for row in listed if set(words.split("-")) <= set(row.row.split("-"))]


def write_rows(rows: Sequence[Row]) -> str:
    """Return rows as the text of a `comparison.csv`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        cells = {column: getattr(row, column) for column in COLUMNS}
        writer.writerow([_in_csv(cell) if column in _NUMBERS else cell for column, cell in cells.items()])
    return text.getvalue()


def read_comparison(path: str | os.PathLike[str]) -> list[Row]:
    """Read a `comparison.csv`; InputError naming the file when it is missing, or something else."""
    from batchcube.documents import read_file

    try:
        lines = list(csv.reader(io.StringIO(read_file(path, _MOST_BYTES).decode()), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"is no table: {error}", file=path) from None
    if not lines or tuple(lines[0]) != COLUMNS:
        raise InputError("is no comparison; batchcube reproduce writes them, as comparison.csv", file=path)
    return [_read(path, number, cells) for number, cells in enumerate(lines[1:], start=2)]


def _read(path: object, number: int, cells: Sequence[str]) -> Row:
    if len(cells) != len(COLUMNS):
        raise InputError(f"has {len(cells)} columns, must have {len(COLUMNS)}", file=path, path=f"line {number}")
    given: dict[str, str | float] = dict(zip(COLUMNS, cells, strict=True))
    for name in _NUMBERS:
        try:
            given[name] = float(given[name] or np.nan)
        except ValueError:
            raise InputError("must be a number", file=path, path=f"line {number}: {name}", value=given[name]) from None
    if given["agrees"] not in VERDICTS:
        allowed = f"must be one of {', '.join(filter(None, VERDICTS))}, or nothing"
        raise InputError(allowed, file=path, path=f"line {number}: agrees", value=given["agrees"])
    return Row(**given)  # type: ignore[arg-type]  # columns are fields, numbers as numbers


def written(value: float) -> str:
    """Return a number of a row as a reader sees it."""
    return "" if np.isnan(value) else f"{value:.5g}"


def _hyphened(text: str) -> str:
    """Return the words and numbers of a text, in lower case, with hyphens between them; "per second" goes without."""
    return "-".join(re.findall(r"\w+(?:[.,]\d+)*", text.lower().replace("/s", ""))).replace(",", "")


def _in_csv(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"
