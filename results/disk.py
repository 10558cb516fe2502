"""What is asked of the disk beyond reading and writing: what a name leads to, locks, and names that stay."""

from __future__ import annotations

import errno
import os
import uuid
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

from batchcube.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from pathlib import Path


ZARR, ZARR_GROUP = ".zarr", "zarr.json"
"""How a folder of Zarr is named, and what every one has."""


def require_zarr(path: Path) -> None:
    """Raise InputError, naming the file that needs it, where Zarr is not installed."""
    if find_spec("zarr") is None:
        raise InputError("Zarr is not installed: pip install '.[zarr]' in the clone", file=path)


def output_file(path: Path) -> Path:
    """Return the file that an output is, behind symbolic links, or the folder of Zarr; it need not be there.

    Raises InputError, one line, for another folder or a special file, for links that lead in circles or to nothing, and
    for a name that is not UTF-8, which the NetCDF library cannot open.
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
    if target.suffix == ZARR:
        require_zarr(path)
        if target.exists() and not (target / ZARR_GROUP).is_file():
            raise InputError(f"is a {'folder of other things' if target.is_dir() else 'file'}, not Zarr", file=path)
    elif target.exists() and not target.is_file():
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
