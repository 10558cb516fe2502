"""What is asked of the disk beyond reading and writing: what a name leads to, locks, and names that stay."""

from __future__ import annotations

import errno
import os
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

from batchcube.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from pathlib import Path


def output_file(path: Path) -> Path:
    """Return the file that an output is, behind symbolic links; it need not be there.

    Raises InputError, one line, for a folder or special file, for links that lead in circles or to nothing, and for a
    name that is not UTF-8, which the NetCDF library cannot open.
    """
    target = path
    if path.is_symlink():
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: Python 3.11 and 3.12 say so of circles
            circle = isinstance(error, RuntimeError) or error.errno == errno.ELOOP
            raise InputError(
                f"is a symbolic link {'to itself' if circle else 'to a file that is not there'}; remove "
                "it, or choose another output",
                file=path,
            ) from None
    if target.exists() and not target.is_file():
        raise InputError(f"is a {'folder' if target.is_dir() else 'special file'}, must be a file name", file=path)
    try:
        os.fspath(target).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError("is not UTF-8, must be a name that is", file=path) from None
    return target


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its target, then move it into place: complete or not at all; raises OSError naming it."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise OSError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def lock(opened: int, *, shared: bool = False) -> None:
    """Lock an open file or folder, until it is closed or the process ends, however it ends.

    Raises BlockingIOError when another process has it locked, and OSError where there are no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOLCK, "the system has no such locks")
    fcntl.flock(opened, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def sync_folder(folder: Path) -> None:
    """Have the disk hold the names in a folder, where the system can."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
