"""Tables for people: one row a line, no word cut, as wide as the screen at most."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .text import shortened

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from rich.console import Console
    from rich.text import Text

_GAP = "  "
_LEAST_HEADER = 10
# Characters that words keep before a column goes, and that they keep in any case.
_READABLE, _LEAST = 24, 8


class Column(NamedTuple):
    """One column of a table."""

    name: str
    """In several lines where it is longer than its cells and there is no room: it breaks at spaces and underscores."""
    cells: Sequence[str]
    goes: int = 0
    """Where there is no room columns go in this order, 1 first; 0 stays."""
    words: bool = False
    """Whether cells are words: they stand on the left, and lose their ends where there is no room."""
    short: Sequence[str] | None = None
    """The cells that stand there where there is no room."""
    styles: Sequence[str] = ()
    """Styles of the cells, on a terminal."""


def print_table(
    console: Console,
    columns: Sequence[Column],
    *,
    sections: Mapping[int, str] | None = None,
    width: int | None = None,
    hint: str = "more with COLUMNS=200",
) -> list[Column]:
    """Print columns side by side, a row a line, and return those that had no room.

    `sections` are lines that stand above some rows, by the row's number; `width` is the console's when left out. Where
    the columns are wider than that, those with `short` cells take these; words are cut down to some 24 characters,
    whole words as far as possible; columns go in their order; and words are cut down to 8. A line below then names the
    columns that went, with a `hint` how to see them; without a hint nothing is said.
    """
    from rich.text import Text

    width = console.width if width is None else width
    whole = [[column.name] for column in columns]
    widths = [max(map(_longest, (name, column.cells))) for name, column in zip(whole, columns, strict=True)]
    shown, headers = list(columns), whole
    if sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        shown = fitted(columns, width)
        widths, headers = [_width(column) for column in shown], [_broken(column) for column in shown]
    height = max(map(len, headers))
    # The last lines of all headers stand beside each other.
    headers = [[""] * (height - len(header)) + header for header in headers]
    lines = [_line([Text(part, style="bold") for part in parts], shown, widths) for parts in zip(*headers, strict=True)]
    lines.append(Text("\N{BOX DRAWINGS LIGHT HORIZONTAL}" * (sum(widths) + len(_GAP) * (len(widths) - 1))))
    for row in range(len(columns[0].cells)):
        if sections and row in sections:
            lines.append(Text(sections[row], style="italic"))
        cells = [Text(column.cells[row], style=column.styles[row] if column.styles else "") for column in shown]
        lines.append(_line(cells, shown, widths))
    for line in lines:
        console.print(line, no_wrap=True, overflow="ignore", crop=False, highlight=False)
    kept = {column.name for column in shown}
    left = [column for column in columns if column.name not in kept]
    if left and hint:
        said = f"{console.width} columns have no room for {', '.join(column.name for column in left)}: {hint}"
        console.print(said, style="bold", highlight=False, markup=False)
    return left


def columns_of(
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    words: Collection[str] = (),
    goes: Sequence[str] = (),
) -> list[Column]:
    """Return the columns of a table that is given by its rows; `goes` are those that go, the first of them first."""
    cells = zip(*rows, strict=True) if rows else [()] * len(names)
    return [
        Column(name, list(column), goes.index(name) + 1 if name in goes else 0, words=name in words)
        for name, column in zip(names, cells, strict=True)
    ]


def fitted(columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns that fit beside each other, cells as `print_table` says."""
    shown = list(columns)
    if _total(shown) > width:
        shown = [column if column.short is None else column._replace(cells=column.short) for column in shown]
    shown = _cut(shown, width, _READABLE)
    while _total(shown) > width:
        going = [column for column in shown if column.goes]
        if not going:
            return _cut(shown, width, _LEAST)
        shown.remove(min(going, key=lambda column: column.goes))
    return shown


def _cut(columns: list[Column], width: int, least: int) -> list[Column]:
    """Leave out the ends of words, of the widest column first, until all fits or none is wider than `least`."""
    cut = list(columns)
    while _total(cut) > width:
        widths = {k: _longest(column.cells) for k, column in enumerate(cut) if column.words}
        k = max(widths, key=lambda place: widths[place], default=None)
        if k is None or widths[k] <= least:
            break
        cut[k] = columns[k]._replace(cells=[_without_end(cell, widths[k] - 1) for cell in columns[k].cells])
    return cut


def _without_end(text: str, most: int) -> str:
    """Leave out the last words of a text, or the end of its first word, so that it has at most `most` characters."""
    if len(text) <= most:
        return text
    head = text[:most].rpartition(" ")[0].rstrip(" ,;:(")
    return f"{head}\N{HORIZONTAL ELLIPSIS}" if head else shortened(text, most)


def _total(columns: Sequence[Column]) -> int:
    return sum(map(_width, columns)) + len(_GAP) * (len(columns) - 1)


def _width(column: Column) -> int:
    return max(_longest(_broken(column)), _longest(column.cells))


def _longest(texts: Sequence[str]) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, texts), default=0)


def _broken(column: Column) -> list[str]:
    """Break a header at its spaces and after its underscores into lines about as wide as the cells."""
    most = max(_longest(column.cells), _LEAST_HEADER)
    lines = [""]
    for word in column.name.replace("_", "_\0").replace(" ", " \0").split("\0"):
        if lines[-1] and len((lines[-1] + word).rstrip()) > most:
            lines.append("")
        lines[-1] += word
    return [line.strip() for line in lines]


def _line(cells: Sequence[Text], columns: Sequence[Column], widths: Sequence[int]) -> Text:
    from rich.text import Text

    line = Text()
    for cell, column, width in zip(cells, columns, widths, strict=True):
        room = " " * (width - cell.cell_len)
        line.append(_GAP if line else "")
        line.append_text(Text.assemble(cell, room) if column.words else Text.assemble(room, cell))
    line.rstrip()
    return line
