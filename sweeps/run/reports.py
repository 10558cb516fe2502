"""What complete replications of a run came to: in memory as long as it is little, else where its parts are kept."""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from batchcube.results.disk import MOST_TOGETHER

from .parts import CUT, join, used
from .store import AnyPart, Report, Store, StoredPart

SUMMED = ("requests", "measured", "missed", "rejected", "unserved", "truncated")
"""Counts of which the sum over all replications and points is told."""


class Reports(Mapping[int, Report]):
    """The reports of complete replications by their numbers, points in the order of the grid.

    Of more than `MOST_TOGETHER` bytes those are forgotten whose parts are kept in files: whoever asks for one has it
    read, and those that were read last are held, of as many bytes again.
    """

    def __init__(self) -> None:
        self.store: Store | None = None
        """Which keeps parts that come without a file."""
        self.sums: Counter[str] = Counter()
        """Of `SUMMED`, over all points."""
        self.extrapolated = 0.0
        """The largest share of batches outside of what was measured."""
        self.spans: dict[str, tuple[int, int]] = {}
        """Of arrays of varying length: from which index to before which one any report has numbers."""
        self._held: dict[int, Report] = {}
        self._stored: dict[int, Sequence[StoredPart]] = {}
        self._numbers: dict[int, None] = {}
        self._read: OrderedDict[int, Report] = OrderedDict()
        self._bytes = self._bytes_read = self._saves = 0

    def __getitem__(self, number: int) -> Report:
        """Return a report, which is not to be changed; raises InputError where its file can no longer be read."""
        if (held := self._held.get(number)) is not None:
            return held
        if (report := self._read.get(number)) is None:
            report = self._read[number] = join(self._stored[number])
            self._bytes_read += _bytes_of(report)
            while self._bytes_read > MOST_TOGETHER and len(self._read) > 1:
                self._bytes_read -= _bytes_of(self._read.popitem(last=False)[1])
        return report

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, number: object) -> bool:
        return number in self._numbers

    def add(self, number: int, parts: Sequence[AnyPart]) -> Report:
        """Add a replication by its parts, and return its report."""
        report = join(parts)
        self._numbers[number] = None
        for name in SUMMED:
            if name in report:
                self.sums[name] += int(report[name].sum())
        if "extrapolated_batch_fraction" in report:
            largest = float(np.nanmax(report["extrapolated_batch_fraction"], initial=0.0))
            self.extrapolated = max(self.extrapolated, largest)
        for name in CUT:
            if name in report and (span := used(report, name)) is not None:
                low, high = self.spans.get(name, span)
                self.spans[name] = (min(low, span[0]), max(high, span[1]))
        stored = [part for part in parts if isinstance(part, StoredPart)]
        if len(stored) == len(parts):
            self._stored[number] = stored
        if number not in self._stored or self._bytes < MOST_TOGETHER:
            self._held[number] = report
            self._bytes += _bytes_of(report)
        self.forget()
        return report

    @property
    def are_held(self) -> bool:
        """Whether all are in memory."""
        return len(self._held) == len(self._numbers)

    def taken(self, numbers: Sequence[int]) -> list[Report]:
        """Return reports that are in memory, which are the caller's from then on."""
        return [self._held.pop(number) for number in numbers]

    def forget(self) -> None:
        """Forget, where there is too much, what was saved since this was done last."""
        if self.store is None or self._bytes < MOST_TOGETHER or self.store.saves == self._saves:
            return
        self._saves = self.store.saves
        for number, report in list(self._held.items()):
            stored = self._stored.get(number, self.store.of(number))
            if sum(len(part.points) for part in stored) == len(report["requests"]):
                self._stored[number] = stored
                self._bytes -= _bytes_of(self._held.pop(number))


def _bytes_of(report: Report) -> int:
    return sum(array.nbytes for array in report.values())
