"""Replications until intervals are narrow enough: where to look, and how wide intervals must be after looking.

Whoever adds replications until an interval is narrow looks at the data to decide when to stop, and stops too early
where the spread happens to come out small: plain 95 % intervals then hold the mean in 93.2 to 94.9 %. So
intervals of a cube that was made this way are t intervals at a `level` above 95 %, for which the coverage at the moment
of stopping, of normal values, is 95 % or more whatever the spread and the width wanted; and 96.5 % at most where no
look came early.

Source: Chow and Robbins, Ann. Math. Statist. 36 (1965) 457-462, with looks at fixed numbers instead of after each
replication, and with the level for few replications computed instead of their limit for many.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import count as count_from
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import scipy  # its parts are loaded when they are used

from batchcube.errors import InputError

from .names import statistic_of
from .variables import FIRST_LOOK, REGISTRY, REPLICATION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import xarray as xr

FEWEST = 8
"""Replications at the first look, at least: after fewer the spread is too little known."""
LOOK_FACTOR = 1.5
"""By which replications grow from look to look."""
MOST = 1000
"""Replications at which to give up, unless told otherwise."""
NOTE = "replications were added in looks"
_PATHS = 10_000
_FAR = 40
"""Looks that come at more than so many times the replications of the first do not matter to the level."""
_PERCENT = re.compile(r"(.+?)\s*%")


class Wanted(NamedTuple):
    """What half the width of a variable's intervals must come down to, at every point."""

    name: str
    quantile: float | None
    """One of those of a variable that has several; None for all of it."""
    width: float
    relative: bool
    """Whether `width` is a share of the mean, and not in the variable's own unit."""
    named: bool = True
    """Whether it was asked for by its name, and must be there."""

    def __str__(self) -> str:
        return self.label + (f" ± {100 * self.width:g} %" if self.relative else f" ± {self.width:g}")

    @property
    def label(self) -> str:
        """The variable as `show` prints it."""
        return self.name if self.quantile is None else f"{self.name}[{self.quantile:g}]"


class Precision(NamedTuple):
    """What a run is to reach, and when it gives up."""

    texts: tuple[str, ...]
    """As `parse` reads them."""
    most: int = MOST
    """Replications at which it gives up."""


def asked(texts: Iterable[str], most: int | None) -> Precision | None:
    """Return the precision that texts ask for, None without any; raises InputError for a limit without them."""
    kept = tuple(texts)
    if most is not None and not kept:
        raise InputError("goes with a precision only", path="`max_replications`", value=most)
    return Precision(kept, MOST if most is None else most) if kept else None


def parse(texts: Iterable[str], usual: Sequence[tuple[str, float | None]]) -> tuple[Wanted, ...]:
    """Return what ``2%``, ``NAME=1%``, ``latency_p99_s=1%`` and ``NAME=0.005`` ask for.

    A percentage alone is for the `usual` variables but counts; of shares it means points (0.02 of 1), of all others a
    part of the mean, as it does for a NAME. A number without a percent sign is in the unit that NAME ends with. What
    names a variable comes before what is for all. Raises InputError for anything else and for what is asked for twice.
    """
    named: dict[tuple[str, float | None], Wanted] = {}
    overall: float | None = None
    for text in texts:
        name, equals, number = (part.strip() for part in text.rpartition("="))
        percent = _PERCENT.fullmatch(number)
        width = _number(percent[1] if percent else number, text) / (100.0 if percent else 1.0)
        if not equals:
            if percent is None or overall is not None:
                raise InputError(
                    "must be a percentage, given once", path="`precision`", value=text, allowed="such as 2%"
                )
            overall = width
            continue
        variable, quantile, scale = statistic_of(name)
        if not REGISTRY[variable].replicated:
            raise InputError("is the same in every replication", path="`precision`", value=text)
        if (variable, quantile) in named:
            raise InputError("is asked for twice", path="`precision`", value=text)
        relative = percent is not None
        named[variable, quantile] = Wanted(variable, quantile, width if relative else width / scale, relative)
    if overall is not None:
        for name, quantile in usual:
            usually = REGISTRY[name]
            if (name, quantile) not in named and (name, None) not in named and np.dtype(usually.dtype).kind == "f":
                named[name, quantile] = Wanted(name, quantile, overall, usually.bounds != (0.0, 1.0), False)
    return tuple(named.values())


def _number(text: str, whole: str) -> float:
    try:
        width = float(text)
    except ValueError:
        width = np.nan
    if not 0.0 < width < np.inf:
        raise InputError(
            "must be a width above 0", path="`precision`", value=whole, allowed="such as 2%, NAME=1% or NAME=0.005"
        )
    return width


def schedule(first: int, most: int) -> Iterator[int]:
    """Yield at how many replications a run looks: first, then each time half as many more, and last at `most`."""
    yield from takewhile(lambda count: count < most, _growing(first))
    yield most


def _growing(first: int) -> Iterator[int]:
    """Yield the numbers of looks without end."""
    count = first
    for _ in count_from():
        yield count
        count = int(np.ceil(LOOK_FACTOR * count))


@lru_cache
def level(first: int, confidence: float = 0.95) -> float:
    """Return the level of t intervals that hold the mean with `confidence`, or more, where looking began at `first`.

    It is that for which the coverage at the stopping time, least of all widths wanted, is `confidence` for normal
    values. Where one stops depends on the spread alone, and of normal values the mean does not depend on it: of spreads
    that are drawn, coverage follows without drawing means.
    """
    numbers = np.array([*takewhile(lambda count: count <= _FAR * first, _growing(first))])
    freedom = numbers - 1
    # The same numbers every time, so that intervals are.
    squares = np.random.Generator(np.random.Philox(0)).chisquare(np.diff(freedom, prepend=0), (_PATHS, len(numbers)))
    deviations = np.sqrt(np.cumsum(squares, axis=1) / freedom)
    # Widths from those reached at the first look to those reached at the last but one.
    at_once = scipy.special.stdtrit(freedom, 0.5 + 0.5 * confidence) / np.sqrt(numbers)
    widths = np.geomspace(1.5 * at_once[0], at_once[-2], 16)

    def least(at: float) -> float:
        factors = scipy.special.stdtrit(freedom, 0.5 + 0.5 * at) * deviations
        missed = 2.0 * scipy.special.ndtr(-factors)
        halves = factors / np.sqrt(numbers)
        worst = 0.0
        for width in widths:
            stops = halves <= width
            stops[:, -1] = True
            worst = max(worst, float(missed[np.arange(_PATHS), stops.argmax(axis=1)].mean()))
        return 1.0 - worst

    low, high = confidence, 0.5 + 0.5 * confidence
    while least(high) < confidence:
        low, high = high, 0.5 + 0.5 * high
    while high - low > 1e-3 * (1.0 - confidence):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if least(middle) >= confidence else (middle, high)
    return high


def record(cube: xr.Dataset, texts: Sequence[str], looked: Sequence[int], missing: str) -> None:
    """Put into a cube how its replications were added: what was wanted, where it was looked, and what is missing.

    `missing` says which interval is the widest still, "" where all are narrow enough.
    """
    begun = int(looked[0])
    wanted = ", ".join(texts)
    cube.attrs |= {
        "precision_wanted": wanted,
        "precision_looks": ", ".join(map(str, looked)),
        "precision_reached": int(not missing),
        "precision_level": level(begun),
    }
    for variable in cube.data_vars.values():
        if REPLICATION in variable.dims:
            variable.attrs[FIRST_LOOK] = begun
    carry = "they carry that: of about normal values they hold in 95 % at the time of stopping"
    ends = f"this was not reached: {missing}" if missing else carry
    _note(cube, looked, f" until intervals are narrow enough ({wanted}); {ends}")


def record_more(cube: xr.Dataset) -> None:
    """Have a cube say how many replications came to it without looks, where some did after these."""
    count, looked = cube.sizes[REPLICATION], looked_at(cube)
    if looked and count > looked[-1]:
        _note(cube, looked, f", and more without, {count} in all: intervals are at the level that the looks ask for")


def _note(cube: xr.Dataset, looked: Sequence[int], text: str) -> None:
    """Put a note on looks last, in the place of the one that is there."""
    kept = [line for line in str(cube.attrs.get("notes", "")).splitlines() if not line.startswith(NOTE)]
    cube.attrs["notes"] = "\n".join([*kept, f"{NOTE} (at {', '.join(map(str, looked))}){text}"])


def looked_at(cube: xr.Dataset) -> tuple[int, ...]:
    """Return at how many replications of a cube it was looked whether they are enough; () if it was not made so."""
    return tuple(int(text) for text in str(cube.attrs.get("precision_looks", "")).split(", ") if text)
