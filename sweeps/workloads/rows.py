"""Files of rows, CSV or JSON lines: read by column, and refused with the row and the column of what is wrong.

Files are parsed by pyarrow; only once it has refused a file do we look for the row, to say it.
"""

import csv
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

import numpy as np

from batchcube.documents import LARGEST_FILE, read_file, unpacked
from batchcube.engine.ticks import LARGEST_REQUEST
from batchcube.errors import InputError, did_you_mean, found_in

from .datasets import resolve
from .settings import FloatArray, IntArray

if TYPE_CHECKING:
    import pyarrow as pa

F = TypeVar("F", bound=Callable[..., Any])
MOST_TOKENS = LARGEST_REQUEST
"""Prompt and output tokens of one request: what the engine can hold."""
_FEW = 8
"""Columns of a file that a message lists."""
_CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n\v\f\r")


class File(NamedTuple):
    """A text file in memory, with the names of its columns."""

    name: str
    content: bytes
    columns: tuple[str, ...]
    """Without the blanks around them that a CSV file may have."""
    json_lines: bool
    sha256: str
    """Of the file as it is, packed or not."""


def read_unpacked(path: str | os.PathLike[str]) -> tuple[str, bytes, str]:
    """Return the name of a file, what it holds once unpacked, and the SHA-256 of what it is."""
    file = resolve(path)
    name = str(path)
    with suppress(OSError):  # whoever opens it says why that cannot be
        if not file.is_file():
            raise InputError("is not a file" if file.exists() else "no such file", file=name)
    content = read_file(file, LARGEST_FILE)
    sha256 = hashlib.sha256(content).hexdigest()
    with found_in(file=name):
        return name, unpacked(content).removeprefix(b"\xef\xbb\xbf"), sha256


def load(path: str | os.PathLike[str]) -> File:
    """Return a file of rows, in memory; raises InputError for what is none."""
    return rows_of(*read_unpacked(path))


def rows_of(name: str, content: bytes, sha256: str) -> File:
    """Look at the first line of a file of rows."""
    if not content or content.isspace():
        raise InputError("is empty: needs a header and at least one row", file=name)
    # Deleting and comparing lengths is ten times as fast as looking for the first.
    if len(content.translate(None, _CONTROLS)) < len(content):
        place = next(place for place, byte in enumerate(content) if byte in _CONTROLS)
        raise InputError(f"byte {place} is {content[place]:#04x}: not a text file (CSV or JSON lines)", file=name)
    try:
        first = content.lstrip().split(b"\n", 1)[0].split(b"\r", 1)[0].decode()
    except UnicodeDecodeError:
        raise InputError("the first line is not UTF-8: not a text file (CSV or JSON lines)", file=name) from None
    if first.startswith("{"):
        try:
            record = json.loads(first)
        except (ValueError, RecursionError):
            raise InputError("row 1 is not a JSON object", file=name, allowed="must be one object a line") from None
        return File(name, content, tuple(record), True, sha256)
    try:
        columns = [column.strip() for column in next(csv.reader([first]), [])]
    except csv.Error as error:
        raise InputError(f"the header cannot be read: {error}", file=name) from None
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise InputError(f"column {repeated[0][:40]!r} occurs more than once", file=name)
    separator = next((mark for mark in ";\t|" if len(columns) == 1 and mark in first), None)
    if separator is not None:
        raise InputError(
            f"its columns are separated by {separator!r}", file=name, allowed="must be by commas, numbers with points"
        )
    return File(name, content, tuple(columns), False, sha256)


def lacks(file: File, columns: Sequence[str], layout: str = "") -> InputError:
    """Return the error of a file without some of these columns: which, what they may be called, and what it has.

    Where they are those of a published `layout`, it is named, as the nearest.
    """
    there = [column[:40] for column in file.columns]
    others = [column for column in there if column not in columns]
    missing = [(column, did_you_mean(column, others)) for column in columns if column not in file.columns]
    named = ", ".join(f"{column!r} ({hint})" if hint else repr(column) for column, hint in missing)
    without = (
        f"format not recognised; nearest is {layout}, without"
        if layout
        else f"no column{'' if len(missing) == 1 else 's'}"
    )
    has = ", ".join([*map(repr, there[:_FEW]), *(["..."] if len(there) > _FEW else [])])
    return InputError(f"{without} {named}", file=file.name, allowed=f"has {has}")


def _need(file: File, columns: Sequence[str]) -> None:
    if not set(columns) <= set(file.columns):
        raise lacks(file, columns)


def parse(file: File, numbers: Sequence[str], texts: Sequence[str], lists: Sequence[str] = ()) -> "pa.Table":
    """Read the named columns, `lists` of whole numbers; raise InputError naming a bad row, and where there is none."""
    table = _parsed(file, numbers, texts, lists)
    if table.num_rows == 0:
        raise InputError("has a header but no rows", file=file.name)
    return table


def _parsed(file: File, numbers: Sequence[str], texts: Sequence[str], lists: Sequence[str]) -> "pa.Table":
    """Read the named columns; raise InputError naming the row that pyarrow stumbles over."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json

    _need(file, (*numbers, *texts))
    types = {**dict.fromkeys(numbers, pa.float64()), **dict.fromkeys(texts, pa.string())}
    types |= dict.fromkeys(lists, pa.list_(pa.int64()))
    try:
        if file.json_lines:
            schema = pa.schema(list(types.items()))
            json_options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
            # One block: pyarrow gives up where a line is longer than a block.
            block = pa.json.ReadOptions(block_size=max(len(file.content) + 1, 1 << 20))
            return pa.json.read_json(pa.BufferReader(file.content), read_options=block, parse_options=json_options)
        options = pa.csv.ConvertOptions(include_columns=list(types), column_types=types, strings_can_be_null=False)
        # The names come without blanks around them, the header's line is skipped.
        names: dict[str, Any] = {"column_names": list(file.columns), "skip_rows": 1}
        try:
            # Small files need no threads, which were seen to abort a process that ends while they do.
            many = pa.csv.ReadOptions(use_threads=len(file.content) > 1 << 20, **names)
            return pa.csv.read_csv(pa.BufferReader(file.content), read_options=many, convert_options=options)
        except pa.ArrowInvalid:
            # Threads do not know the row; read again without, for the message.
            block_size = min(max(len(file.content) + 1, 1 << 20), 1 << 30)
            one = pa.csv.ReadOptions(use_threads=False, block_size=block_size, **names)
            return pa.csv.read_csv(pa.BufferReader(file.content), read_options=one, convert_options=options)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(_explain(file, str(error), list(types), numbers, lists), file=file.name) from None


def _explain(file: File, message: str, columns: Sequence[str], numbers: Sequence[str], lists: Sequence[str]) -> str:
    if file.json_lines:
        for row, line in enumerate(filter(None, map(bytes.strip, file.content.split(b"\n"))), start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                return f"row {row} is not a JSON object: must be one object a line"
            for column in numbers:
                value = record.get(column)
                if isinstance(value, bool) or not isinstance(value, int | float):
                    quoted = " (numbers have no quotes)" if isinstance(value, str) else ""
                    return f"row {row}, column {column!r}: {json.dumps(value)[:80]} is not a number{quoted}"
            for column in lists:
                value = record.get(column)
                if not (isinstance(value, list) and all(type(part) is int and abs(part) < 2**63 for part in value)):
                    shown = json.dumps(value)[:80]
                    return f"row {row}, column {column!r}: {shown}: must be a list of whole numbers below 2**63"
        return f"not JSON lines: {message[:200]}"
    found = re.search(r"CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to (\w+): (.*)", message, re.DOTALL)
    if found:
        column = file.columns[int(found[1])] if int(found[1]) < len(file.columns) else columns[0]
        where = f"row {int(found[2]) - 1}, " if found[2] else ""
        allowed = "must be a number" if found[3] == "double" else "must be UTF-8 text"
        return f"{where}column {column!r}: {found[4][:80]}: {allowed}"
    found = re.search(r"(?:Row #(\d+): )?Expected (\d+) columns, got (\d+)", message)
    if found:
        where = f"row {int(found[1]) - 1} has" if found[1] else "a row has"
        return f"{where} {found[3]} columns: must have {found[2]}, as the header (truncated file?)"
    return f"not a CSV file: {message[:200]}"


def numbers_of(file: File, table: "pa.Table", column: str, allowed: str) -> FloatArray:
    """Return a column (row,) with every value finite; raise InputError naming the row otherwise."""
    values: FloatArray = table.column(column).to_numpy()
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        shown = "missing" if np.isnan(values[bad[0]]) else f"{values[bad[0]]:g}"
        raise InputError(shown, file=file.name, path=f"row {bad[0] + 1}, column {column!r}", allowed=allowed)
    return values


def tokens_of(file: File, table: "pa.Table", column: str, least: int) -> IntArray:
    """Return a column (row,) of tokens; raises InputError, naming the row, where they are none."""
    allowed = f"must be a whole number from {least} to {MOST_TOKENS}"
    values = numbers_of(file, table, column, allowed)
    bad = np.flatnonzero(~((values >= least) & (values <= MOST_TOKENS) & (values == np.floor(values))))
    if bad.size:
        place = f"row {bad[0] + 1}, column {column!r}"
        raise InputError(f"{values[bad[0]]:g}", file=file.name, path=place, allowed=allowed)
    return values.astype(np.int64)


def predictions_of(file: File, table: "pa.Table", column: str) -> FloatArray:
    """Return a column (row,) of a predictor's lengths or classes; raises InputError, naming the row, below 0."""
    values = numbers_of(file, table, column, "must be a number >= 0")
    bad = np.flatnonzero(values < 0)
    if bad.size:
        raise InputError("must be >= 0", file=file.name, path=f"row {bad[0] + 1}, column {column!r}")
    return values


def require_within_limit(file: File, prompt: IntArray, output: IntArray) -> None:
    """Raise InputError, naming the row, for a request that is longer than any can be."""
    bad = np.flatnonzero(prompt + output > MOST_TOKENS)
    if bad.size:
        total = prompt[bad[0]] + output[bad[0]]
        raise InputError(
            f"prompt and output are {total} tokens",
            file=file.name,
            path=f"row {bad[0] + 1}",
            allowed=f"at most {MOST_TOKENS}",
        )


def read_columns(
    path: str | os.PathLike[str], columns: Sequence[str], where: Mapping[str, str] | None = None
) -> dict[str, FloatArray]:
    """Read columns of numbers (row,) from a CSV or JSON lines file, of the rows whose text columns are as in `where`.

    Raises InputError, naming the file and the row, for anything that is no finite number, and where no row is left.
    """
    file = load(path)
    table = parse(file, list(dict.fromkeys(columns)), list(where or {}))
    for column, wanted in (where or {}).items():
        import pyarrow.compute as pc

        known = pc.unique(table.column(column)).to_pylist()
        table = table.filter(pc.equal(table.column(column), wanted))
        if table.num_rows == 0:
            raise InputError(
                f"no row with {column} = {wanted!r}", file=file.name, allowed=f"has {', '.join(map(repr, known[:20]))}"
            )
    return {column: numbers_of(file, table, column, "must be a number") for column in columns}


def remembered(most: int) -> Callable[[F], F]:
    """Remember what a function read from the last files, each given by its first argument, until they change."""

    def decorate(read: F) -> F:
        @lru_cache(maxsize=most)
        def kept(_: tuple[int, ...], path: str, *arguments: Any) -> Any:
            return read(path, *arguments)

        @wraps(read)
        def read_again(path: str, *arguments: Any) -> Any:
            return kept(_stamp(path), path, *arguments)

        return cast("F", read_again)

    return decorate


def _stamp(path: str) -> tuple[int, ...]:
    """Return what changes when a file does; () where there is none, as whoever reads it will say."""
    try:
        state = resolve(path).stat()
    except (OSError, ValueError):
        return ()
    return state.st_mtime_ns, state.st_size, state.st_ino


# Lengths -------------------------------------------------------------------------------------------------------------


class LengthTable(NamedTuple):
    """Lengths of recorded requests, arrays (row,), without arrival times."""

    length: FloatArray
    prompt_tokens: IntArray | None
    predicted: FloatArray | None
    sha256: str


def read_lengths(
    path: str | os.PathLike[str],
    column: str,
    prompt_column: str | None = None,
    predicted_column: str | None = None,
    *,
    limit: int | None = None,
    unit: Literal["tokens", "seconds"] = "tokens",
) -> LengthTable:
    """Read lengths, and jointly prompts and a real predictor's values or classes, from a CSV or JSON lines file.

    Raises InputError, naming the file and the row, for lengths that are not whole numbers from 1 (tokens) or not
    positive (seconds). The last few files are remembered until they change.
    """
    return _read_lengths(os.fspath(path), column, prompt_column, predicted_column, limit, unit)


@remembered(8)
def _read_lengths(
    path: str,
    column: str,
    prompt_column: str | None,
    predicted_column: str | None,
    limit: int | None,
    unit: str,
) -> LengthTable:
    file = load(path)
    names = [name for name in (column, prompt_column, predicted_column) if name is not None]
    if len(set(names)) < len(names):
        raise InputError(f"one column is named twice: {', '.join(map(repr, names))}", file=file.name)
    if not set(names) <= set(file.columns):
        raise lacks(file, names).advised("workload.lengths names others (column, prompt_column, predicted_column)")
    table = parse(file, names, []).slice(0, limit)
    values = np.array(numbers_of(file, table, column, "must be a number > 0"))
    prompt = predicted = None
    if unit == "seconds":
        bad = np.flatnonzero(~((values > 0) & (values <= 1e9)))
        if bad.size:
            raise InputError(
                f"{values[bad[0]]:g}",
                file=file.name,
                path=f"row {bad[0] + 1}, column {column!r}",
                allowed="must be > 0, at most 1e9 s",
            )
    else:
        output = tokens_of(file, table, column, 1)
        if prompt_column is not None:
            prompt = tokens_of(file, table, prompt_column, 0)
            require_within_limit(file, prompt, output)
    if predicted_column is not None:
        predicted = np.array(predictions_of(file, table, predicted_column))
    for array in (values, prompt, predicted):
        if array is not None:
            array.flags.writeable = False
    return LengthTable(values, prompt, predicted, file.sha256)
