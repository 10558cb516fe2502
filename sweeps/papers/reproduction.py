"""What the `batchcube reproduce` commands share: run presets into a folder, compare, draw, and say what was found."""

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from batchcube.errors import printable
from batchcube.results.claims import Row, Verdict, count_verdicts, named, write_rows
from batchcube.results.unserved import COUNTS, left_out
from batchcube.results.variables import is_time

from ..files import write_text
from ..run.preparing import prepare
from ..spec.document import Sweep
from ..spec.settings import DRAWN_REQUESTS

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console

    from batchcube.results.tables import Column

    from ..progress import Progress
    from ..run.executors import Executor

CONFIDENCE = 0.95
_QUICK = "quick run, reduced size"


class Drawing(NamedTuple):
    """One figure to draw from a cube."""

    figure: str
    file: str
    options: Mapping[str, Any] = {}


class Found(NamedTuple):
    """What one experiment showed: rows to compare, and sentences that say it plainly."""

    rows: list[Row]
    sentences: list[str]
    tables: Sequence["Table"] = ()
    """What the screen shows instead of the rows."""


class Interval(NamedTuple):
    """A mean with the ends of its interval."""

    mean: float
    low: float
    high: float

    def holds(self, value: float) -> Verdict:
        """Say whether a value lies inside; without an interval, or inside one wider than itself, that says nothing."""
        if np.isnan(self.low) or np.isnan(value):
            return "cannot tell"
        if not self.low <= value <= self.high:
            return "no"
        return "cannot tell" if 0.0 < abs(value) < self.high - self.low else "yes"

    def at_most(self, value: float) -> Verdict:
        """Say whether the interval lies below a value: "no" where all of it is above."""
        return "yes" if self.high <= value else "no" if self.low > value else "cannot tell"

    def above(self, value: float) -> Verdict:
        """Say whether the interval lies above a value: "no" where all of it is below."""
        return "yes" if self.low > value else "no" if self.high < value else "cannot tell"


def simultaneous(rows: int) -> float:
    """Return the confidence of each of some intervals that hold together with 95 % (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / max(rows, 1)


def said_simultaneous(rows: int) -> str:
    """Say how wide intervals of `simultaneous` are."""
    if rows == 1:
        return "95 % interval"
    return f"simultaneous 95 % intervals over {rows} rows (Bonferroni: each {100 * simultaneous(rows):.4g} %)"


def in_words(verdicts: Sequence[Verdict], of: str) -> str:
    """Say how many verdicts are "yes": `all 5 rows`, `both rows`, `3 of 5 rows (1 cannot be told)`."""
    count, total = sum(verdict == "yes" for verdict in verdicts), len(verdicts)
    if count < total or not total:
        unclear = verdicts.count("cannot tell")
        return f"{count} of {total} {of}" + (f" ({unclear} cannot be told)" if unclear else "")
    return f"both {of}" if total == 2 else f"all {total} {of}"


def mean_of(values: Any, rows: int = 1) -> Interval:
    """Return the mean of replications (replication,) with the interval of one of ``rows`` that hold together.

    A labelled array says itself how far its values may be off, as those of a search.
    """
    from batchcube.results.statistics import mean_interval

    found = mean_interval(np.asarray(values), confidence=simultaneous(rows), error=_error(values))
    return Interval(float(found.estimate), float(found.low), float(found.high))


def ratio_of(values: Any, baseline: Any, rows: int = 1) -> Interval:
    """Return the ratio of the means of paired replications, each (replication,), with its interval."""
    from batchcube.results.statistics import paired_ratio

    error = max(_error(values), _error(baseline))
    found = paired_ratio(np.asarray(values), np.asarray(baseline), confidence=simultaneous(rows), error=error)
    return Interval(float(found.estimate), float(found.low), float(found.high))


def _error(values: Any) -> float:
    import xarray as xr

    from batchcube.results.labelled import error_of

    return error_of(values) if isinstance(values, xr.DataArray) else 0.0


class Reproduction:
    """Runs presets into one folder and collects what they show.

    Raises InputError for a backend that is not there.
    """

    def __init__(
        self,
        folder: Path,
        console: "Console",
        *,
        replications: int | None = None,
        quick: bool = False,
        quick_requests: int = 10,
        workers: int | None = None,
        overwrite: bool = False,
        backend: str = "numba",
        command: str = "",
        progress: Callable[[], AbstractContextManager["Progress"]],
    ) -> None:
        from ..run.simulate import require_backend

        # Before anything is written or said.
        require_backend(backend)
        self.folder, self.console, self.quick = folder, console, quick
        self._replications = replications if replications is not None or not quick else 4
        self._quick_requests = quick_requests
        self._how: dict[str, Any] = {"workers": workers, "overwrite": overwrite, "backend": backend}
        self._progress = progress
        self.executor: Executor | None = None
        """Who simulates instead of threads."""
        self._cube = ""
        self._counts: dict[str, xr.Dataset] = {}
        """By the file of a cube, how many requests its times are of."""
        self._missing: dict[tuple[str, str], str] = {}
        """By the file of a cube and what is selected of it, what its times leave out."""
        self._files: list[str] = []
        self.command = command
        """What makes everything here again."""
        self.rows: list[Row] = []
        self._said: list[tuple[str, Sequence[str]]] = []

    def run(
        self, preset: str, *, name: str | None = None, overrides: Iterable[str] = (), whole: bool = False
    ) -> tuple[Sweep, "xr.Dataset"]:
        """Run a preset, or take the cube of the same sweep that is there already; returns the sweep and its cube.

        ``overrides`` are settings ``path=value``; a quick run has a tenth of the requests and says so in its title,
        unless the preset is small and means something ``whole`` only.
        """
        from ..run.execution import run_sweep

        sweep = self._sweep(preset, overrides, whole=whole)
        file = self._begin(sweep, name or preset)
        with self._progress() as progress:
            cube = run_sweep(sweep, file, progress=progress, executor=self.executor, **self._how)
        self._counts[self._cube] = cube[[name for name in COUNTS if name in cube]]
        return sweep, cube

    def capacity(self, preset: str, criteria: Sequence[str], *, growth: float, name: str | None = None) -> "xr.Dataset":
        """Search the capacity of a preset's points, or take the cube of the same search that is there already.

        ``growth`` is that of `find_capacity`. Raises InputError for a cube of another search.
        """
        from ..run.capacity import find_capacity

        sweep = self._sweep(preset, ())
        file = self._begin(sweep, name or preset)
        with self._progress() as progress:
            return find_capacity(
                sweep, criteria, growth=growth, output=file, progress=progress, executor=self.executor, **self._how
            )

    def _begin(self, sweep: Sweep, name: str) -> Path:
        """Say what is simulated, and return the file of its cube, of which rows are from now on."""
        self._cube = f"{name}.nc"
        self._files.append(self._cube)
        self.console.print(f"[bold]{name}[/bold]: {sweep.title}", highlight=False)
        return self.folder / self._cube

    @property
    def comparison(self) -> Path:
        """The file of all rows, which is written last."""
        return self.folder / "comparison.csv"

    def check(self, preset: str, overrides: Iterable[str] = ()) -> None:
        """Read the files of a preset, so that a bad one is refused before anything runs."""
        prepare(self._sweep(preset, overrides))

    def _sweep(self, preset: str, overrides: Iterable[str], *, whole: bool = False) -> Sweep:
        settings = list(overrides)
        if self._replications is not None:
            settings.append(f"replications={self._replications}")
        if self.quick and not whole:
            plain = Sweep.from_toml(preset, settings)
            count = plain.grid.points[0].workload.requests or DRAWN_REQUESTS
            settings += [
                f"workload.requests={max(count // self._quick_requests, 400)}",
                f'title="{plain.title} ({_QUICK})"',
            ]
        return Sweep.from_toml(preset, settings)

    def draw(self, cube: "xr.Dataset", drawings: Iterable[Drawing]) -> None:
        """Draw figures into the folder, each as PNG and PDF."""
        from batchcube.figures import registry

        for name, file, options in drawings:
            figure = registry.draw(name, cube, **options)
            for ending in ("png", "pdf"):
                registry.save(figure, cube, self.folder / f"{file}.{ending}")

    def say(self, text: str) -> None:
        """Print a sentence for people."""
        self.console.print(text, highlight=False, markup=False)

    def tell(self, title: str, found: Found, source: str = "") -> None:
        """Show what an experiment found, and keep its rows for `comparison.csv`.

        `source` is where its claims stand, put before what a row says of its own.
        """
        from batchcube.results.tables import print_table

        mine = [row.of(self._cube) for row in found.rows]
        self.rows += [replace(row, source=", ".join(filter(None, (source, row.source)))) for row in mine]
        for table in found.tables or (_table(title, found.rows),):
            self.console.print(table.title, style="bold", highlight=False, markup=False)
            self.console.print()
            print_table(self.console, table.columns, sections=table.sections, hint="they are in comparison.csv")
            if table.below:
                self.console.print(table.below, style="italic", highlight=False, markup=False)
            self.console.print()
        for cube in dict.fromkeys(row.origin.cube for row in mine if row.origin is not None and self._left_out(row)):
            self.say(f"  note: {left_out(self._counts[cube])}")
        self._said.append((title, found.sentences))
        for sentence in found.sentences:
            self.console.print(f"  {sentence}", highlight=False, markup=False)
        self.console.print()

    def write(self) -> Path:
        """Write `comparison.csv`, complete or not at all, and return its path."""
        write_text(self.comparison, write_rows(self._whole_rows()))
        return self.comparison

    def _whole_rows(self) -> list[Row]:
        """Return the rows with their names and all that says where they are from."""
        rows = [self._made_of(replace(row, again=self.command)) for row in self.rows]
        if self.quick:
            rows = [replace(row, note="; ".join(filter(None, (_QUICK, row.note)))) for row in rows]
        return named(rows)

    def _made_of(self, row: Row) -> Row:
        """Return a row with its cube, what is selected of it, and the command that shows it."""
        if row.origin is None:
            return row
        variable, select, cube = row.origin
        row = replace(row, note="; ".join(filter(None, (row.note, self._left_out(row)))))
        chosen = [f"{axis}={_spelled(value)}" for axis, value in select.items()]
        command = ["batchcube", "show", str(self.folder / cube)]
        command += [part for one in chosen for part in ("--select", one)]
        return replace(row, cube=cube, selection="; ".join(chosen), command=shlex.join([*command, "-v", variable]))

    def _left_out(self, row: Row) -> str:
        """Say how many requests the times of a row are not of; nothing where it is of no time, or of all requests."""
        from batchcube.results.axes import select_points

        if row.origin is None or row.origin.cube not in self._counts or not is_time(row.origin.variable):
            return ""
        of = (row.origin.cube, str(row.origin.select))
        if of not in self._missing:
            self._missing[of] = left_out(select_points(self._counts[row.origin.cube], row.origin.select))
        return self._missing[of]

    def finish(self) -> None:
        """Write `comparison.csv` and the report, and say where everything is."""
        from batchcube.figures.report import missing

        written = [self.write().name]
        if lacking := missing():
            self.say(f"no report.html: {lacking}")
        else:
            written.append(self._report().name)
        if self.quick:
            self.say("This was a quick run of reduced size: intervals are wide, and its files say so.")
        self.say(f"{printable(self.folder)}: cubes (.nc), figures (.png, .pdf), {', '.join(written)}")

    def _report(self) -> Path:
        """Write the page that shows all of it, and return its path."""
        from batchcube.figures.report.page import write_report
        from batchcube.figures.report.sections import subject_of

        rows = self._whole_rows()
        # Cubes that were run, and those that were made of them.
        files = dict.fromkeys([*self._files, *(row.cube for row in rows if row.cube)])
        subjects = [subject_of(self.folder / file, self.command if file not in self._files else "") for file in files]
        target, title = self.folder / "report.html", self.command.removeprefix("batchcube ").partition(" -")[0]
        return write_report(subjects, target, comparison=rows, answer=self._said, title=title, command=self.command)

    def count_verdicts(self) -> None:
        """Say how many rows have each verdict: the counts sum to the number of rows."""
        self.say(f"{len(self.rows)} rows: {count_verdicts(self.rows)}.")

    def name_others(self) -> None:
        """Name the rows whose verdict is another than that they agree."""
        for row in self.rows:
            if row.agrees not in ("", "yes"):
                said = "differs" if row.agrees == "no" else row.agrees
                self.say(f"  {said}: {row.experiment}, {row.setting}: {row.quantity}")


def _spelled(value: Any) -> str:
    """Spell a value, or several, as --select takes them."""
    from batchcube.results.axes import as_written

    if isinstance(value, list | tuple):
        return f"[{', '.join(json.dumps(one) if isinstance(one, str) else as_written(one) for one in value)}]"
    return as_written(value)


@dataclass
class Table:
    """A table for the screen."""

    title: str
    columns: list["Column"]
    sections: dict[int, str] = field(default_factory=dict)
    """What stands above some of the rows."""
    below: str = ""


def _table(title: str, rows: Sequence[Row]) -> Table:
    """Return the table of some rows, those of one quantity below each other."""
    from batchcube.results.tables import Column

    shown = [row for row in rows if row.on_screen or row.agrees in ("no", "cannot tell")]
    hidden = len(rows) - len(shown)
    quantities = list(dict.fromkeys(row.quantity for row in shown))
    shown.sort(key=lambda row: quantities.index(row.quantity))
    firsts = {quantity: [row.quantity for row in shown].index(quantity) for quantity in quantities}
    columns = [Column("setting", [row.setting for row in shown], words=True)]
    for name in ("paper", "theory", "limit"):
        cells = [_on_screen(getattr(row, name)) for row in shown]
        if any(cells):
            columns.append(Column(name, cells))
    columns.append(Column("simulated", [_on_screen(row.simulated) for row in shown]))
    between = [_between(row.ci_low, row.ci_high) for row in shown]
    if any(between):
        columns.append(Column("interval", between))
    columns.append(Column("agrees", [row.agrees for row in shown], words=True))
    below = f"{hidden} more rows, none of which differs, in comparison.csv" if hidden else ""
    return Table(title, columns, {place: quantity for quantity, place in firsts.items()}, below)


def _between(low: float, high: float) -> str:
    """Return the ends of an interval with the decimals that show two digits of its width; nothing without a low end."""
    from batchcube.results.intervals import digits

    if np.isnan(low) or np.isnan(high) or low == high:
        return "" if np.isnan(low) else f"{_on_screen(low)}..{_on_screen(high)}"
    places = digits(high - low)
    return f"{low:.{places}f}..{high:.{places}f}"


def _on_screen(value: float) -> str:
    """Return a number with four digits: rows stay in lines of 80 characters."""
    return "" if np.isnan(value) else f"{value:.4g}"
