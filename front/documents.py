"""Documents that somebody else wrote: read to a limit, parsed, and told from what no reader should meet."""

import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from batchcube.errors import InputError

DEEPEST = 24
"""Levels of tables and lists; no specification, coefficients or log has more."""
LARGEST_FILE = 2_000_000_000
"""Bytes of a data file, unpacked: what pyarrow reads as one block of JSON lines."""


# Of which there are millions: to ask whether they are a Mapping would take longer than to parse them.
_LEAVES = (float, int, str, type(None))


def require_regular(path: str | os.PathLike[str]) -> None:
    """Refuse pipes, sockets and devices, of which a reader may never see the end; raises InputError naming the file."""
    mode = 0
    with suppress(OSError, ValueError):  # whoever opens it says why that cannot be
        mode = os.stat(path).st_mode
    if mode and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError("is a pipe, a socket or a device, must be a file", file=path)


def read_file(path: str | os.PathLike[str], most_bytes: float = math.inf) -> bytes:
    """Return the content of a file; InputError naming it when it cannot be read or is larger."""
    require_regular(path)
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            data = stream.read() if size <= most_bytes else None
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise InputError(f"cannot be read: {getattr(error, 'strerror', None) or error}", file=path) from None
    if data is None:
        raise InputError(f"is larger than {most_bytes} bytes", file=path)
    return data


def unpacked(content: bytes) -> bytes:
    """Return what a .gz or .zst file holds, known by its first bytes; anything else as it is.

    Raises InputError for what cannot be unpacked, and for what has more than `LARGEST_FILE` bytes then.
    """
    packed = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
    codec = next((codec for mark, codec in packed.items() if content.startswith(mark)), None)
    if codec is None:
        return content
    import pyarrow as pa

    parts, size = [], 0
    try:
        with pa.CompressedInputStream(pa.BufferReader(content), codec) as stream:
            while part := stream.read(1 << 24):
                parts.append(part)
                size += len(part)
                if size > LARGEST_FILE:
                    raise InputError(f"holds more than {LARGEST_FILE} bytes once unpacked: too large")
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot be unpacked ({codec}): {str(error)[:120]}") from None
    return b"".join(parts)


def parse_json(text: str | bytes, allowed: str = "") -> Any:
    """Return what JSON holds; InputError saying what is wrong: no JSON, or nested deeper than `DEEPEST`.

    `allowed` says what else the text may be.
    """
    deeper = f"is nested deeper than {DEEPEST} levels"
    try:
        content = json.loads(text)
    except RecursionError:
        raise InputError(deeper) from None
    except ValueError as error:
        raise InputError(f"is not JSON{' (cut off?)' if _ends_early(error) else ''}", allowed=allowed) from None
    if isinstance(content, dict | list) and is_deep(content):
        raise InputError(deeper)
    return content


def _ends_early(error: ValueError) -> bool:
    """Say whether there is nothing wrong but that JSON ends: a file was cut off."""
    if not isinstance(error, json.JSONDecodeError) or not error.doc.strip():
        return False
    # At most part of a number or of a word is left.
    return (
        error.msg.startswith("Unterminated string")
        or re.fullmatch(r"[\w.+-]{0,4}\s*", error.doc[error.pos :]) is not None
    )


def value_of(spelled: str) -> Any:
    """Return the value that a text spells in TOML; the text itself where it spells none."""
    try:
        return tomllib.loads(f"value = {spelled.strip()}")["value"]
    except (ValueError, RecursionError):
        return spelled.strip()


def is_deep(content: Mapping[str, Any] | list[Any]) -> bool:
    """Say whether tables and lists are nested deeper than `DEEPEST`, before anything recursive meets them."""
    level: list[Any] = [content]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
            if not isinstance(inner, _LEAVES) and isinstance(inner, Mapping | list | tuple)
        ]
        if not level:
            return False
    return True
