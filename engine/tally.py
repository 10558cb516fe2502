"""What a replication leaves behind: integer counts and sums, in memory that does not grow with the number of requests.

Backends fill a `Tally`, whose columns are those of a `Catalogue`; `report.py` turns it into numbers.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .histogram import BUCKETS, bucket_of
from .moments import LOW, add_exactly, empty_moments
from .simulation import Shape
from .statistics import BINS, CONTINUOUS, LARGEST, LEVEL, TOTALS, WIDE, WINDOWS, Catalogue, Expression, Limits, Time
from .windows import REST_BITS


class Tally(NamedTuple):
    """Counts and sums of one replication, or of many with a leading axis."""

    totals: NDArray[np.int64]
    """(count,)"""
    moments: NDArray[np.int64]
    """(time, 9)"""
    histograms: NDArray[np.int32] | NDArray[np.int64]
    """(time, BUCKETS) in the clock's units."""
    sizes: NDArray[np.int64]
    """(largest batch + 1,) batches of each size, or steps with so many requests running."""
    bins: NDArray[np.int64]
    """(bin, count)"""
    windows: NDArray[np.int64]
    """(window, count)"""
    classes: NDArray[np.int64]
    """(class, column) where requests have classes."""


def new_tally(catalogue: Catalogue, runs: int, shape: Shape) -> Tally:
    """Return empty tallies for `runs` replications, leading axis run."""
    times = len(catalogue.times)
    # Gaps between tokens are too many for 32 bits.
    bucket: Any = np.int64 if catalogue is CONTINUOUS else np.int32
    return Tally(
        totals=np.zeros((runs, catalogue.width(TOTALS)), np.int64),
        moments=empty_moments(runs, times),
        histograms=np.zeros((runs, times, BUCKETS), bucket),
        sizes=np.zeros((runs, shape.largest_batch + 1), np.int64),
        bins=np.zeros((runs, shape.bins, catalogue.width(BINS)), np.int64),
        windows=np.zeros((runs, shape.windows, catalogue.width(WINDOWS)), np.int64),
        classes=np.zeros((runs, shape.classes, len(catalogue.of_classes)), np.int64),
    )


def row_of(tally: Tally, run: int) -> Tally:
    """Return the tally of one replication."""
    return Tally(*(part[run] for part in tally))


class Counter:
    """Counts what happens in plain Python, one after the other: the meaning of a catalogue.

    Counts are added to lists, as numbers in arrays take longer to get at; `close` puts them into the tally.
    """

    def __init__(self, catalogue: Catalogue, limits: Limits, tally: Tally) -> None:
        self.catalogue, self.limits, self.tally = catalogue, limits, tally
        columns = {into: catalogue.columns(into) for into in (TOTALS, BINS, WINDOWS)}
        self.counts: dict[str, list[tuple[str, int, str, Expression]]] = defaultdict(list)
        for count in catalogue.counts:
            at = columns[count.into][count.name].start
            self.counts[count.over].append((count.into, at, count.reducer, count.of))
        self.times_over: dict[str, list[tuple[int, Time]]] = defaultdict(list)
        for q, time in enumerate(catalogue.times):
            self.times_over[time.over].append((q, time))
        self.totals, self.bins, self.windows = (part.tolist() for part in (tally.totals, tally.bins, tally.windows))
        self.times: list[list[int]] = [[] for _ in catalogue.times]
        self.buckets: list[list[int]] = [[] for _ in catalogue.times]

    def add(self, over: str, seen: Any, *, instant: int = 0, bin: int = 0) -> None:
        """Count one of what a catalogue counts over, in its window and bin."""
        limits = self.limits
        window = instant // limits.window
        for into, at, reducer, of in self.counts[over]:
            if into == TOTALS:
                row = self.totals
            elif into == BINS:
                row = self.bins[bin]
            elif window < limits.windows:
                row = self.windows[window]
            else:
                continue
            value = int(of(seen, limits))
            if reducer == LARGEST:
                row[at] = max(row[at], value)
            elif reducer == WIDE:
                total = row[at] + (row[at + 1] << 32) + value
                row[at : at + 2] = total & LOW, total >> 32
            else:
                row[at] += value
            if reducer == LEVEL:
                rest = (window + 1) * limits.window - instant
                row[at + 1] += value * int(rest * (1.0 / limits.window) * (1 << REST_BITS))

    def add_times(self, over: str, seen: Any, without: Sequence[str] = ()) -> None:
        """Count the times that a request, or a gap between tokens, shows."""
        each = self.catalogue.clock.ticks_per_unit
        for q, time in self.times_over[over]:
            if time.name in without or not (time.when is None or time.when(seen, self.limits)):
                continue
            ticks = time.of(seen, self.limits)
            fine = round(ticks * time.finer) if isinstance(ticks, float) else int(ticks) * time.finer // each
            self.times[q].append(fine)
            self.buckets[q].append(bucket_of(ticks if isinstance(ticks, float) else int(ticks) // each))

    def close(self) -> None:
        """Put what was counted into the tally, and add up the times."""
        tally = self.tally
        for part, counted in zip(
            (tally.totals, tally.bins, tally.windows), (self.totals, self.bins, self.windows), strict=True
        ):
            part[:] = counted
        for row, values in zip(tally.moments, self.times, strict=True):
            add_exactly(row, values)
        for histogram, buckets in zip(tally.histograms, self.buckets, strict=True):
            np.add.at(histogram, buckets, 1)
