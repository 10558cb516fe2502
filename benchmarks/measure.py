"""Measuring side by side: two things are timed in turn, repetition by repetition, and compared within each repetition.

On a shared machine the clock drifts by the minute; a ratio of two neighbours drifts far less than either of them. What
runs on one thread is measured in processor time, which waiting for a core does not lengthen.
"""

import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


class Seconds(NamedTuple):
    """What each repetition took."""

    wall: list[float]
    processor: list[float]


class Ratio(NamedTuple):
    """The median of the ratios within repetitions, and the middle half of them."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.low)}-{number(self.high)})"


def number(value: float) -> str:
    """Write three digits, no exponent below a million."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def interleave(*timed: Callable[[int], object], repetitions: int) -> list[Seconds]:
    """Call each in turn with the number of the repetition; return what it took, for each of them.

    Everything is called once beforehand and not counted.
    """
    for call in timed:
        call(0)
    seconds = [Seconds([], []) for _ in timed]
    for repetition in range(repetitions):
        for own, call in zip(seconds, timed, strict=True):
            wall, processor = time.perf_counter(), time.process_time()
            call(repetition)
            own.processor.append(time.process_time() - processor)
            own.wall.append(time.perf_counter() - wall)
    return seconds


def ratio(above: Sequence[float], below: Sequence[float], scale: float = 1.0) -> Ratio:
    """Compare two lists of seconds, repetition by repetition."""
    ratios = sorted(scale * a / b for a, b in zip(above, below, strict=True))
    if len(ratios) < 3:
        return Ratio(statistics.median(ratios), ratios[0], ratios[-1])
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, low, high)


def nanoseconds(seconds: Sequence[float], requests: float) -> str:
    """Write the median time for one request."""
    return f"{number(1e9 * statistics.median(seconds) / requests)} ns"


def peak_memory() -> int:
    """Return the largest size this process has had, in bytes.

    Linux hands a parent's peak on to its children in getrusage, so /proc is asked where there is one.
    """
    status = Path("/proc/self/status")
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE) if status.exists() else None
    if found:
        return 1024 * int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Row(NamedTuple):
    """One line of the table."""

    what: str
    ours: str
    peer: str = ""
    ratio: str = ""
    goal: str = ""
    agreement: str = ""


HEADS = Row("what", "ours", "peer", "ratio (middle half)", "goal", "agreement")


def show(title: str, rows: Sequence[Row], notes: Sequence[str] = (), heads: Row = HEADS) -> None:
    """Print one section as an aligned table."""
    used = [c for c in range(len(heads)) if any(row[c] for row in rows)]
    widths = [max(len(row[c]) for row in (heads, *rows)) for c in used]
    print(f"\n## {title}\n")
    for row in (heads, Row(*("-" * 3 for _ in heads)), *rows):
        print("  ".join(row[c].ljust(width) for c, width in zip(used, widths, strict=True)).rstrip())
    for note in notes:
        print(f"  {note}")
    print(flush=True)
