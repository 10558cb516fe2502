"""Words for people: names in a row, and cut short; things counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


PAPERS = {
    "[MB]": "Multi-Bin Batching (arXiv 2412.04504)",
    "[DB]": "Memory-aware and SLA-constrained Dynamic Batching (arXiv 2503.05248)",
}
"""What titles call papers by."""
UNITS = {"1": "", "count": "", "s-1": "per second", "tokens s-1": "tokens/s"}
"""Units in words, where files have them otherwise; nothing for numbers without one."""


def papers_of(text: str) -> str:
    """Return a sentence on each paper that a text names by its letters; nothing where it names none."""
    return " ".join(f"{letters} is {paper}." for letters, paper in PAPERS.items() if letters in text)


def shortened(text: str, most: int = 60) -> str:
    """Return text that is no longer than `most` characters, the end left out."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def told_apart(texts: Sequence[str], most: int = 40) -> list[str]:
    """Return texts cut short, in the middle or by less where two of them would read the same."""
    short = [shortened(text, most) for text in texts]
    while len(set(short)) < len(set(texts)):
        kept = max(1, most // 2)
        short = [text if len(text) <= most else f"{text[:kept]}\N{HORIZONTAL ELLIPSIS}{text[-kept:]}" for text in texts]
        most += kept
    return short


def all_of(names: Iterable[str]) -> str:
    """Return ``a, b and c``."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def counted(number: int, noun: str) -> str:
    """Return ``1 point`` or ``1,000 points``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def counted_range(numbers: Iterable[int], noun: str) -> str:
    """Return ``10 replications``, or ``8 to 10 replications`` where the numbers are not the same."""
    first, *more = sorted(set(numbers))
    return f"{first:,} to {counted(more[-1], noun)}" if more else counted(first, noun)


def in_ranges(numbers: Iterable[int]) -> str:
    """Return ``1, 4-6, 9`` for whole numbers in order."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1][1:] = [number]
        else:
            ranges.append([number])
    return ", ".join("-".join(map(str, ends)) for ends in ranges)


def in_percent(share: float) -> str:
    """Return a share as notes say it."""
    return f"{100.0 * share:.{'2g' if abs(share) < 0.1 else '0f'}} %"
