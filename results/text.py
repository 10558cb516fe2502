"""Words for people: names in a row, suggested for those that do not exist, and cut short; things counted."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


PAPERS = {
    "[MB]": "Multi-Bin Batching (arXiv 2412.04504)",
    "[DB]": "Memory-aware and SLA-constrained Dynamic Batching (arXiv 2503.05248)",
}
"""What titles call papers by."""


def papers_of(text: str) -> str:
    """Return a sentence on each paper that a text names by its letters; nothing where it names none."""
    return " ".join(f"{letters} is {paper}." for letters, paper in PAPERS.items() if letters in text)


def shortened(text: str, most: int = 60) -> str:
    """Return text that is no longer than `most` characters, the end left out."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def one_of(allowed: Iterable[str]) -> str:
    """Return ``a, b or c``."""
    return _joined(allowed, "or")


def all_of(names: Iterable[str]) -> str:
    """Return ``a, b and c``."""
    return _joined(names, "and")


def counted(number: int, noun: str) -> str:
    """Return ``1 point`` or ``1,000 points``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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
    return f"{100.0 * share:.{'2g' if share < 0.1 else '0f'}} %"


def _joined(names: Iterable[str], word: str) -> str:
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last


def did_you_mean(word: object, allowed: Iterable[str]) -> str:
    """Return ``did you mean x or y?`` for a near miss of allowed names, and nothing otherwise."""
    close = get_close_matches(str(word), list(allowed), n=3, cutoff=0.6)
    return f"did you mean {one_of(close)}?" if close else ""


def suggestion(word: object, allowed: Iterable[str]) -> str:
    """Return ``must be one of a, b``, or ``did you mean x?`` for a near miss where the list is long."""
    names = list(allowed)
    listed = f"must be one of {', '.join(names)}"
    return (did_you_mean(word, names) if len(listed) > 120 else "") or listed
