"""What notebooks show of results: tables and lines of HTML, whose text may be anybody's."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from batchcube.errors import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

_LEFT, _RIGHT = "text-align: left", "text-align: right"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, words: Collection[int] = ()) -> str:
    """Return a table of HTML; the columns `words`, by number, stand on the left. Without a header there is none."""
    aligned = [_LEFT if number in words else _RIGHT for number in range(len(header) or 1 + max(words, default=0))]
    head = f"<thead>{_row('th', header, aligned)}</thead>" if header else ""
    body = "".join(_row("td", row, aligned) for row in rows)
    return f'<table class="dataframe">{head}<tbody>{body}</tbody></table>'


def line(text: str, *, bold: bool = False) -> str:
    """Return a line of HTML."""
    return f"<div>{f'<strong>{safe(text)}</strong>' if bold else safe(text)}</div>"


def safe(text: object) -> str:
    """Return text as it stands in HTML, on one line."""
    return escape(printable(text))


def _row(kind: str, cells: Sequence[str], aligned: Sequence[str]) -> str:
    of = [f'<{kind} style="{side}">{safe(cell)}</{kind}>' for cell, side in zip(cells, aligned, strict=True)]
    return f"<tr>{''.join(of)}</tr>"
