"""What a format is: how a file of it is told from others, and what its values say of requests."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from .fields import Entry, Fields, LeftOut
from .log import Clock


def itself(value: Fields) -> list[Fields]:
    """Return the one request that a value is."""
    return [value]


class Format(NamedTuple):
    """A format of request logs."""

    title: str
    """Who writes it, and which file."""
    clock: Clock
    marks: tuple[str, ...]
    """Fields by which a value of it is known, each a path or several with `|` between, one of which is enough."""
    entry: Callable[[Fields], Entry | LeftOut]
    """What a request is, or why it is left out; raises InputError."""
    requests: Callable[[Fields], Iterable[Fields]] = itself
    """The requests in a value of the file; raises InputError."""
    in_order: bool = True
    """Requests are in the order in which they were sent."""
    hint: str = ""
    """Where a mark is missing: what its user can do."""

    def missing(self, value: Fields) -> list[str]:
        """Return the marks that a value lacks."""
        return [mark for mark in self.marks if not value.has(*mark.split("|"))]
