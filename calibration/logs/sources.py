"""Files of requests as text: JSON, JSON lines or CSV, and the values that they hold one after the other."""

import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import islice
from typing import Any

from batchcube.documents import parse_json
from batchcube.errors import InputError, found_in

_DIGITS = 30
"""Digits of a whole number; with more it is of no field, and read as any other number."""
_LOOKED_AT = 20
"""Values from which a format is recognised: the first may be of requests that failed."""
# Lines that a YAML header before a table may have.
_HEADER = re.compile(r"\s*(#|---|- |\.\.\.|[A-Za-z_]\w*\s*:|$)")

_OBJECT = re.compile(r"\s*\{")


class Source:
    """A file in memory: its values, each with its place, as often as they are asked for."""

    def __init__(self, content: bytes) -> None:
        """Look at the layout of the unpacked content of a file; raises InputError for what is no text, and for none."""
        text = content.decode("utf-8-sig", errors="replace")
        if not text.strip():
            raise InputError("is empty")
        if "\0" in text[:1_000_000]:
            raise InputError("not a text file (JSON, JSON lines or CSV, as it is or packed with gzip or zstd)")
        self._text = text
        self._parsed: dict[int, Any] = {}
        self._lines: list[str] = []
        self._header: list[str] = []
        start = text.lstrip()
        if start[0] in "[{":
            end = start.find("\n") % (len(start) + 1)
            if start[0] == "{":
                with suppress(InputError):
                    self._parsed[1 + text[: len(text) - len(start)].count("\n")] = parse_json(start[:end])
            # An object of its own on each line, even if the first is wrong.
            if self._parsed or (start[0] == "{" and _OBJECT.match(start, end)):
                self.layout = "lines"
                self._lines = text.split("\n")
            else:
                self.layout = "document"
        else:
            self.layout = "table"
            self._lines = text.splitlines(keepends=True)
            header = next((k for k, line in enumerate(self._lines) if not _HEADER.match(line)), 0)
            self._lines = self._lines[header:]
            with _table():
                self._header = [name.strip() for name in next(csv.reader(self._lines[:1]), [])]

    @property
    def columns(self) -> list[str]:
        """Names of the columns of a table, or of the fields of the first value."""
        if self.layout == "table":
            return self._header
        return next(map(list, self.first()), [])

    def first(self) -> list[dict[str, Any]]:
        """Return the first values that are objects, up to one that is wrong."""
        values: list[dict[str, Any]] = []
        with suppress(InputError):
            values.extend(value for _, value in islice(self, _LOOKED_AT) if isinstance(value, dict))
        return values

    def require_first(self) -> None:
        """Raise InputError where one of the first values is wrong."""
        for _ in islice(self, _LOOKED_AT):
            pass

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Return each value, with its place; raises InputError, naming the place, for what is none."""
        if self.layout == "table":
            yield from self._rows()
        elif self.layout == "lines":
            for number, line in enumerate(self._lines, start=1):
                if line.strip():
                    place = f"line {number}"
                    if (value := self._parsed.get(number)) is None:
                        with found_in(path=place):
                            value = _parsed(line)
                        if number <= _LOOKED_AT:
                            self._parsed[number] = value
                    yield place, value
        elif isinstance(self._document, list):
            yield from ((f"[{k}]", value) for k, value in enumerate(self._document))
        else:
            yield "", self._document

    @cached_property
    def _document(self) -> Any:
        begins = self._text.lstrip()[0]
        return parse_json(self._text, allowed=f"must be JSON, as which it begins ({begins}), JSON lines or CSV")

    def _rows(self) -> Iterator[tuple[str, Any]]:
        rows = csv.reader(io.StringIO("".join(self._lines[1:]), newline=""))
        number = 0
        while True:
            with _table(f"row {number + 1}"):
                row = next(rows, None)
            if row is None:
                return
            if len(row) < 2 and not "".join(row).strip():
                continue
            number += 1
            if len(row) != len(self._header):
                had = f"has {len(row)} columns, {len(self._header)} in the header"
                raise InputError(f"{had}: the file may be cut off", path=f"row {number}")
            yield f"row {number}", dict(zip(self._header, map(_cell, row), strict=True))


def _parsed(line: str) -> Any:
    try:
        return parse_json(line)
    except InputError as error:
        raise InputError(f"{error}: a log has one JSON object in each line") from None


def _cell(text: str) -> Any:
    """Return the number that a cell holds, else its text, None where it is empty."""
    text = text.strip()
    if text.isdecimal() and len(text) < _DIGITS:
        return int(text)
    try:
        return text or None if "_" in text else float(text)
    except ValueError:
        return text or None


@contextmanager
def _table(place: str = "row 1") -> Iterator[None]:
    """Refuse what csv cannot read."""
    try:
        yield
    except csv.Error as error:
        raise InputError(f"cannot be read as CSV: {error}", path=place) from None


def head_of(content: bytes) -> bytes:
    """Return the lines of a file by which it is recognised."""
    end = -1
    for _ in range(_LOOKED_AT + 1):
        if (end := content.find(b"\n", end + 1)) < 0:
            return content
    return content[: end + 1]
