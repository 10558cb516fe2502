"""Documents that somebody else wrote: read to a limit, parsed, and told from what no reader should meet."""

import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

DEEPEST = 24
"""Levels of tables and lists; no specification, coefficients or log has more."""


def require_regular(path: str | os.PathLike[str]) -> None:
    """Refuse pipes, sockets and devices, of which a reader may never see the end; raises ValueError naming the file."""
    mode = 0
    with suppress(OSError, ValueError):  # whoever opens it says why that cannot be
        mode = os.stat(path).st_mode
    if mode and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"{path}: is a pipe, a socket or a device, must be a file")


def read_limited(path: str | os.PathLike[str], most_bytes: int) -> bytes:
    """Return the content of a file; ValueError, one line naming it, when it cannot be read or is larger."""
    require_regular(path)
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(most_bytes + 1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > most_bytes:
        raise ValueError(f"{path}: is larger than {most_bytes} bytes")
    return data


def parse_json(text: str | bytes) -> Any:
    """Return what JSON holds; ValueError saying what is wrong: no JSON, or nested deeper than `DEEPEST`."""
    deeper = f"is nested deeper than {DEEPEST} levels"
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError(deeper) from None
    except ValueError:
        raise ValueError("is not JSON") from None
    if isinstance(content, dict | list) and is_deep(content):
        raise ValueError(deeper)
    return content


def is_deep(content: Mapping[str, Any] | list[Any]) -> bool:
    """Say whether tables and lists are nested deeper than `DEEPEST`, before anything recursive meets them."""
    level: list[Any] = [content]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
            if isinstance(inner, Mapping | list | tuple)
        ]
        if not level:
            return False
    return True
