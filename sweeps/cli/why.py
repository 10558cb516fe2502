"""The command `batchcube why`: the whole story of a row of a comparison."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchcube.errors import InputError, did_you_mean, printable

from . import complete
from .help import examples

if TYPE_CHECKING:
    from batchcube.results.claims import Row

app = typer.Typer()
_SOME = 6  # names in a message


@app.command(
    "why",
    epilog=examples(
        "batchcube why",
        "batchcube why fig11-oracle-k-4-against-1",
        "batchcube why table-ii llama-65b growth 2 --from out/dynamic/comparison.csv",
    ),
)
def why(
    row: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ROW",
            help="name of a row, or some of its words; all names when left out",
            autocompletion=complete.row,
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="comparison.csv, or its folder; those in out/ when left out"),
    ] = None,
) -> None:
    """Tell why a row of a comparison agrees or not: what is claimed where, what was simulated, and how to redo it.

    `batchcube reproduce` writes comparisons. Without a row all names are listed, each with its verdict.
    """
    from rich.console import Console

    from batchcube.results.claims import read_comparison

    rows = {file: read_comparison(file) for file in _files(source)}
    console = Console()
    if row:
        _tell(_found(rows, " ".join(row)), console.width)
        return
    for file, listed in rows.items():
        console.print(printable(file), style="bold", highlight=False, markup=False, soft_wrap=True)
        for one in listed:
            said = f"  {one.row}: {one.agrees or 'no verdict'}"
            console.print(printable(said), highlight=False, markup=False, soft_wrap=True)


def _found(rows: Mapping[Path, "Sequence[Row]"], name: str) -> "Row":
    """Return the one row that is called so; InputError, with names that come near, without one."""
    from batchcube.results.claims import find_rows

    found = [(file, row) for file, listed in rows.items() for row in find_rows(listed, name)]
    names = list(dict.fromkeys(row.row for _, row in found))
    if len(names) > 1:
        more = f" and {len(names) - _SOME} more" if len(names) > _SOME else ""
        raise InputError(f"{len(names)} rows have these words: {', '.join(names[:_SOME])}{more}", path=f"row {name}")
    if len(found) > 1:
        files = ", ".join(str(file) for file, _ in found)
        raise InputError(f"is in {files}: choose with --from", path=f"row {name}")
    if not found:
        known = [row.row for listed in rows.values() for row in listed]
        hint = did_you_mean("-".join(name.split()), known) or f"`batchcube why` names all {len(known)}"
        raise InputError(f"no such row; {hint}", path=f"row {name}")
    return found[0][1]


def _files(source: Path | None) -> list[Path]:
    if source is not None:
        return [source / "comparison.csv" if source.is_dir() else source]
    if not (found := complete.comparisons()):
        raise InputError("no out/*/comparison.csv is here: batchcube reproduce writes one, --from FILE takes another")
    return found


def _tell(row: "Row", width: int) -> None:
    """Print a row: its story in two columns, then commands that can be pasted."""
    print(printable(row.row))
    for label, text in row.story():
        room = max(width - 13, 20)
        lines = textwrap.wrap(printable(text), room, break_long_words=False, break_on_hyphens=False)
        for k, line in enumerate(lines):
            print(f"  {'' if k else label:<10} {line}")
    for what, command in (
        ("what shows the numbers that it is made of:", row.command),
        ("what makes it again:", row.again),
    ):
        if command:
            print(what)
            print(*_pasteable(command, width), sep="\n")


def _pasteable(command: str, width: int) -> Iterator[str]:
    """Yield a command in lines that a shell takes for one."""
    line = " "
    for word in printable(command).split(" "):
        if len(line) > 1 and len(line) + len(word) + 3 > width:
            yield f"{line} \\"
            line = "   "
        line += f" {word}"
    yield line
