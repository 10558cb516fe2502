"""Tell how far a run is: a bar on a terminal and in a notebook, a plain line every few seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from batchcube.errors import printable
from batchcube.results.text import counted

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_DISPLAYS = 0.2


class Progress(Protocol):
    """What a run reports to."""

    def start(self, points: int, replications: int, requests: int) -> None:
        """Announce the work: points of the grid, replications to run, and requests in all."""

    def advance(self, requests: int) -> None:
        """Report requests that were simulated; called from the thread that started the run."""

    def finish_replications(self, count: int) -> None:
        """Report replications that are complete."""

    def show(self, text: str) -> None:
        """Report what the work came to so far, in place of what was reported of it before."""

    def say(self, text: str) -> None:
        """Report what was seen; more work may be announced after it."""

    def tell_workers(self, workers: str) -> None:
        """Report how many workers of an executor are there by now, in words."""


class Silent:
    """Report nothing."""

    def start(self, points: int, replications: int, requests: int) -> None:
        """Announce nothing."""

    def advance(self, requests: int) -> None:
        """Report nothing."""

    def finish_replications(self, count: int) -> None:
        """Report nothing."""

    def show(self, text: str) -> None:
        """Report nothing."""

    def say(self, text: str) -> None:
        """Report nothing."""

    def tell_workers(self, workers: str) -> None:
        """Report nothing."""


def _in_short(number: float, noun: str) -> str:
    """Return ``720 requests`` or ``1.23M requests``."""
    for size, letter in ((1e9, "G"), (1e6, "M")):
        if number >= 0.9995 * size:  # rounded up it is one
            return f"{number / size:.3g}{letter} {noun}s"
    return counted(round(number), noun)


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class PlainLines(AbstractContextManager["PlainLines"]):
    """Print a line every few seconds."""

    seconds_between = SECONDS_BETWEEN_LINES

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._points = self._replications = self._requests = self._done = self._finished = 0
        self._so_far = ""
        self._begun = self._printed = time.monotonic()
        self._workers = ""

    def start(self, points: int, replications: int, requests: int) -> None:
        """Print what there is to do."""
        self._points, self._replications, self._requests = points, replications, requests
        self._done = self._finished = 0
        self._begun = self._printed = time.monotonic()
        self._print(
            f"{counted(points, 'point')} x {counted(replications, 'replication')}, {_in_short(requests, 'request')}"
        )

    def advance(self, requests: int) -> None:
        """Count requests, and print a line when the last one is some seconds old."""
        self._done += requests
        if time.monotonic() - self._printed >= self.seconds_between:
            self._line()

    def finish_replications(self, count: int) -> None:
        """Count complete replications."""
        self._finished += count

    def show(self, text: str) -> None:
        """Print the first result; what it becomes is in the cube."""
        if not self._so_far:
            self._print(text)
        self._so_far = text

    def say(self, text: str) -> None:
        """Print what was seen."""
        self._print(text)

    def tell_workers(self, workers: str) -> None:
        """Have the lines to come say how many workers there are."""
        self._workers = f"{workers}, "

    def _line(self) -> None:
        self._printed = time.monotonic()
        passed = max(self._printed - self._begun, 1e-9)
        rate = self._done / passed
        left = (self._requests - self._done) / rate if rate > 0 else 0.0
        self._print(
            f"{100 * self._done / max(self._requests, 1):.0f} %: {self._finished} of "
            f"{counted(self._replications, 'replication')}, {self._workers}{_in_short(rate, 'request')}/s, "
            f"{_duration(left)} left"
        )

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._done:
            self._line()


class Bar(AbstractContextManager["Bar"]):
    """Draw a bar with points, replications, requests per second and the time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress
        from rich.text import Text

        class WithResults(RichProgress):
            so_far = ""

            def get_renderables(self) -> "Iterator[RenderableType]":
                yield from super().get_renderables()
                if self.so_far:
                    yield Text(self.so_far)

        self._bar = WithResults(
            TextColumn("{task.fields[points]}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[finished]}/{task.fields[replications]}{task.fields[workers]}"),
            TextColumn("{task.fields[rate]}/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task: Any = None
        self._workers = ""
        self._begun = time.monotonic()

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def start(self, points: int, replications: int, requests: int) -> None:
        """Show the bar, empty; one before it is done with."""
        self._begun = time.monotonic()
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(
            "",
            total=requests,
            points=counted(points, "point"),
            replications=counted(replications, "replication"),
            finished=0,
            workers=self._workers,
            rate=_in_short(0, "request"),
        )

    def advance(self, requests: int) -> None:
        """Move the bar."""
        self._bar.advance(self._task, requests)
        done = self._bar.tasks[-1].completed
        self._bar.update(self._task, rate=_in_short(done / max(time.monotonic() - self._begun, 1e-9), "request"))

    def finish_replications(self, count: int) -> None:
        """Count complete replications."""
        self._bar.update(self._task, finished=self._bar.tasks[-1].fields["finished"] + count)

    def show(self, text: str) -> None:
        """Show it below the bar."""
        self._bar.so_far = text

    def say(self, text: str) -> None:
        """Print what was seen, above the bar."""
        self._bar.console.print(text, highlight=False, markup=False)

    def tell_workers(self, workers: str) -> None:
        """Show how many workers there are."""
        self._workers = f", {workers}"
        self._bar.update(self._task, workers=self._workers)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class _Display:
    """A bar and its line, as notebooks show them and as text."""

    def __init__(self, text: str, share: float) -> None:
        self.text, self.share = text, share

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f'<progress value="{self.share:.4f}" max="1" style="width: 16em"></progress> {escape(self.text)}'


class NotebookBar(PlainLines):
    """Show a bar below the cell of a notebook."""

    seconds_between = SECONDS_BETWEEN_DISPLAYS

    def __init__(self) -> None:
        super().__init__()
        self._shown: Any = None

    def show(self, text: str) -> None:
        """Show it beside the bar."""
        self._so_far = text

    def _print(self, text: str) -> None:
        from IPython.display import display

        bar = _Display(f"{text}; {self._so_far}" if self._so_far else text, self._done / max(self._requests, 1))
        if self._shown is None:
            self._shown = display(bar, display_id=True)
        else:
            self._shown.update(bar)


def _in_notebook() -> bool:
    """Say whether a kernel of IPython runs this: what is displayed appears below its cell."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def shown(*, quiet: bool = False) -> AbstractContextManager[Progress]:
    """Return what shows progress: nothing if `quiet`, a bar in a notebook or on a terminal, plain lines elsewhere."""
    if quiet:
        return nullcontext(Silent())
    if _in_notebook():
        return NotebookBar()
    return Bar() if sys.stderr.isatty() else PlainLines()


def print_lines(*, quiet: bool = False) -> Callable[[str], None]:
    """Return what prints lines on standard error, or nothing if `quiet`."""

    def say(text: str) -> None:
        if not quiet:
            print(printable(text), file=sys.stderr, flush=True)

    return say


def tell_notes(cube: "xr.Dataset") -> None:
    """Print the notes of a cube: what its readers must know; first that many requests were turned away."""
    from batchcube.results.summary import refusals

    if text := refusals(cube):
        print(f"warning: {text}", file=sys.stderr)
    for note in filter(None, str(cube.attrs["notes"]).split("\n")):
        print(f"note: {printable(note)}", file=sys.stderr)


class Counting(AbstractContextManager["Counting"]):
    """Count steps of unequal length: a bar on a terminal, a plain line every few seconds elsewhere, or nothing."""

    def __init__(self, total: int, label: str, *, quiet: bool = False) -> None:
        self._total, self._label, self._done, self._weight_done = total, label, 0, 0.0
        self._quiet, self._bar = quiet, None
        self._begun = self._printed = time.monotonic()
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(console=Console(stderr=True))
            self._task = self._bar.add_task(label, total=total)
            self._bar.start()

    def advance(self, doing: str = "") -> None:
        """Count one step; `doing` says what it was."""
        self._done += 1
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=f"{self._label} {doing}")
        elif not self._quiet and (now - self._printed >= SECONDS_BETWEEN_LINES or self._done == self._total):
            self._printed = now
            left = (now - self._begun) / self._done * (self._total - self._done)
            print(f"{self._label} {doing}: {self._done} of {self._total}, {_duration(left)} left", file=sys.stderr)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
