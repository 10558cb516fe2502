"""Tell how far a run is: a bar on a terminal and in a notebook, elsewhere a few plain lines, one of a short run."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from batchcube.errors import printable
from batchcube.results.notebook import safe
from batchcube.results.text import counted

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import RenderableType

SECONDS_TO_FIRST_LINE = 5.0
SECONDS_BETWEEN_LINES = 600.0
"""To the next line it is twice as long as to the one before, up to this: a log of hours is short."""
SECONDS_BETWEEN_DISPLAYS = 0.2
SECONDS_TO_WONDER = 2.0
"""After which it is said why nothing is finished yet."""
NOTHING_YET = "nothing is finished yet: kernels are compiled when they are first used, and kept"


class Progress(Protocol):
    """What a run reports to."""

    def start(self, points: int, replications: int, requests: int) -> None:
        """Announce the work: points of the grid, replications to run, and requests in all."""

    def advance(self, requests: int) -> None:
        """Report requests that were simulated, perhaps none; called from the thread that started the run."""

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


def _took(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60.0 else _duration(seconds)


class PlainLines(AbstractContextManager["PlainLines"]):
    """Print what there is to do, the first result and now and then a line; of what is soon done, only the last line."""

    seconds_between, most_seconds_between = SECONDS_TO_FIRST_LINE, SECONDS_BETWEEN_LINES
    is_patient = True
    """Whether nothing is announced that may be done soon."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._points = self._replications = self._requests = self._done = self._finished = 0
        self._so_far = ""
        self._begun = self._printed = time.monotonic()
        self._wait = self.seconds_between
        self._workers = ""
        self._wonders = True
        self._held: list[str] = []

    def start(self, points: int, replications: int, requests: int) -> None:
        """Print what there is to do, if it is not done soon."""
        self._points, self._replications, self._requests = points, replications, requests
        self._done = self._finished = 0
        self._begun = self._printed = time.monotonic()
        if self._held:  # with the first result, maybe
            self._so_far = ""
        self._held = [self._work()]
        if not self.is_patient:
            self._announce()

    def advance(self, requests: int) -> None:
        """Count requests, and print a line when it is time."""
        self._done += requests
        now = time.monotonic()
        if now - self._begun >= SECONDS_TO_WONDER:
            self._announce()
            if not self._done and self._wonders:
                self._wonders = False
                self._print(NOTHING_YET)
        if self._done and now - self._printed >= self._wait:
            self._wait = min(2.0 * self._wait, self.most_seconds_between)
            self._line(now)

    def finish_replications(self, count: int) -> None:
        """Count complete replications."""
        self._finished += count

    def show(self, text: str) -> None:
        """Print the first result; what it becomes is in the cube."""
        if not self._so_far:
            (self._held.append if self._held else self._print)(text)
        self._so_far = text

    def say(self, text: str) -> None:
        """Print what was seen."""
        self._print(text)

    def tell_workers(self, workers: str) -> None:
        """Have the lines to come say how many workers there are."""
        self._workers = f"{workers}, "

    def _work(self) -> str:
        """Return what there is to do."""
        replications = counted(self._replications, "replication")
        return f"{counted(self._points, 'point')} x {replications}, {_in_short(self._requests, 'request')}"

    def _announce(self) -> None:
        """Print what was held back."""
        held, self._held = self._held, []
        for text in held:
            self._print(text)

    def _line(self, now: float) -> None:
        self._printed = now
        rate = self._done / max(now - self._begun, 1e-9)
        left = f"{_duration((self._requests - self._done) / rate)} left"
        self._print(f"{self._part()}, {self._workers}{_in_short(rate, 'request')}/s, {left}")

    def _part(self) -> str:
        """Return how much of the work is done."""
        done = f"{100 * self._done / max(self._requests, 1):.0f} %"
        return f"{done}: {self._finished:,} of {counted(self._replications, 'replication')}"

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._done:
            passed = max(time.monotonic() - self._begun, 1e-9)
            done = self._work() if self._held else self._part()
            rate = _in_short(self._done / passed, "request")
            self._print(f"{done}, {self._workers}{rate}/s, took {_took(passed)}")


class Bar(AbstractContextManager["Bar"]):
    """Draw a bar with points, replications, requests per second and the time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress
        from rich.text import Text

        class WithLine(RichProgress):
            below = ""

            def get_renderables(self) -> "Iterator[RenderableType]":
                yield from super().get_renderables()
                if self.below:
                    yield Text(self.below)

        self._bar = WithLine(
            TextColumn("{task.fields[points]}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[finished]}/{task.fields[replications]}{task.fields[workers]}"),
            TextColumn("{task.fields[rate]}/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task: Any = None
        self._workers = self._so_far = ""
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
        done, passed = self._bar.tasks[-1].completed, time.monotonic() - self._begun
        self._bar.update(self._task, rate=_in_short(done / max(passed, 1e-9), "request"))
        if done:
            self._bar.below = self._so_far
        elif passed >= SECONDS_TO_WONDER:
            self._bar.below = NOTHING_YET

    def finish_replications(self, count: int) -> None:
        """Count complete replications."""
        self._bar.update(self._task, finished=self._bar.tasks[-1].fields["finished"] + count)

    def show(self, text: str) -> None:
        """Show it below the bar."""
        self._so_far = self._bar.below = text

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


class _Shown:
    """A bar with its line, or lines alone, as notebooks show them and as text."""

    def __init__(self, lines: Sequence[str], share: float | None = None, earlier: Sequence[str] = ()) -> None:
        self.lines, self.share, self.earlier = lines, share, earlier

    def __repr__(self) -> str:
        return "\n".join(map(printable, self.lines))

    def _repr_html_(self) -> str:
        first, *more = map(safe, self.lines)
        if self.share is not None:
            first = f'<progress value="{self.share:.4f}" max="1" style="width: 16em"></progress> {first}'
        if self.earlier:
            first = f"<details><summary>{first}</summary>{'<br>'.join(map(safe, self.earlier))}</details>"
        return f"<div>{'<br>'.join([first, *more])}</div>"


class NotebookBar(PlainLines):
    """Show a bar below the cell of a notebook, and what was seen below it."""

    seconds_between = most_seconds_between = SECONDS_BETWEEN_DISPLAYS
    is_patient = False

    def __init__(self) -> None:
        super().__init__()
        self._below = _Place()
        self._seen: list[str] = []

    def show(self, text: str) -> None:
        """Show it beside the bar."""
        self._so_far = text

    def say(self, text: str) -> None:
        """Show what was seen below the bar, for good."""
        self._seen.append(text)

    def _print(self, text: str) -> None:
        first = f"{text}; {self._so_far}" if self._so_far else text
        self._below.put(_Shown([first, *self._seen], self._done / max(self._requests, 1)))


class _Place:
    """A place below the cell of a notebook, whose content changes."""

    def __init__(self) -> None:
        self._handle: Any = None

    def put(self, what: object) -> None:
        """Show something there in place of what was there before."""
        from IPython.display import display

        if self._handle is None:
            self._handle = display(what, display_id=True)
        else:
            self._handle.update(what)


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
    """Return what prints lines on standard error, or nothing if `quiet`; a notebook shows the last, the others folded.

    Nothing but `printable` text is shown.
    """
    said: list[str] = []
    below = _Place() if _in_notebook() else None

    def say(text: str) -> None:
        if quiet:
            return
        if below is None:
            print(printable(text), file=sys.stderr, flush=True)
        else:
            below.put(_Shown([text], earlier=tuple(said)))
            said.append(text)

    return say


def tell_notes(cube: "xr.Dataset") -> None:
    """Print the notes of a cube: what its readers must know; first that many requests were turned away."""
    from batchcube.results.summary import refusals

    warnings = [f"warning: {text}" for text in filter(None, [refusals(cube)])]
    notes = [f"note: {note}" for note in filter(None, str(cube.attrs["notes"]).split("\n"))]
    lines = [*warnings, *notes]
    if lines and _in_notebook():
        _Place().put(_Shown(lines))
        return
    for line in lines:
        print(printable(line), file=sys.stderr)


class Counting(AbstractContextManager["Counting"]):
    """Count steps of unequal length: a bar on a terminal, now and then a plain line elsewhere, or nothing."""

    def __init__(self, total: int, label: str, *, quiet: bool = False) -> None:
        self._total, self._label, self._done = total, label, 0
        self._quiet, self._bar = quiet, None
        self._begun = self._printed = time.monotonic()
        self._wait = SECONDS_TO_FIRST_LINE
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(console=Console(stderr=True))
            self._task = self._bar.add_task(label, total=total)
            self._bar.start()

    def advance(self, doing: str = "") -> None:
        """Count one step; `doing` says what it was."""
        self._done += 1
        label = f"{self._label} {doing}".rstrip()
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=label)
        elif not self._quiet and self._done == self._total:
            print(f"{self._label}: {self._total} of {self._total}, took {_took(now - self._begun)}", file=sys.stderr)
        elif not self._quiet and now - self._printed >= self._wait:
            self._printed, self._wait = now, min(2.0 * self._wait, SECONDS_BETWEEN_LINES)
            left = (now - self._begun) / self._done * (self._total - self._done)
            print(f"{label}: {self._done} of {self._total}, {_duration(left)} left", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
