"""What is asked of the disk beyond reading and writing: locks, and that names are there to stay."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from pathlib import Path


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
