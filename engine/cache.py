"""Where compiled code is kept between runs: a folder that nobody else can write to, or nowhere."""

import errno
import logging
import os
import stat
import tempfile
from functools import cache
from pathlib import Path

_LOG = logging.getLogger(__name__)
_POSIX = os.name == "posix"


@cache
def note(message: str) -> None:
    """Say once, on a line of standard error, what happens to compiled code: no result depends on it."""
    _LOG.warning("batchcube: %s", message)


@cache
def cache_directory() -> Path | None:
    """Return the folder for compiled code, which is there and closed to others; None where there can be none.

    It lies in BATCHCUBE_CACHE, else in XDG_CACHE_HOME if that is absolute, else in ~/.cache. Where it cannot be used,
    one among the temporary files serves, the same for every run of a user. Whoever can write to it decides what we
    execute: a folder that others own or may write to is refused.
    """
    refusals = []
    for place in (_own_place, _spare_place):
        try:
            folder = place()
            _claim(folder)
        except OSError as error:
            refusals.append(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))
            continue
        if refusals:
            note(f"{refusals[0]}; compiled kernels are kept in {folder}")
        return folder
    note(f"{'; '.join(refusals)}; compiled kernels are not kept")
    return None


def _own_place() -> Path:
    chosen, xdg = os.environ.get("BATCHCUBE_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    root = os.path.expanduser(chosen or (xdg if os.path.isabs(xdg) else "~/.cache"))
    if not chosen and not os.path.isabs(root):
        raise FileNotFoundError(errno.ENOENT, "no home directory (BATCHCUBE_CACHE names another folder)")
    return Path(root).absolute() / "batchcube" / "kernels"


def _spare_place() -> Path:
    """Return one folder for all runs of a user, not in another folder that somebody else could have made."""
    return Path(tempfile.gettempdir()) / (f"batchcube-kernels-{os.geteuid()}" if _POSIX else "batchcube-kernels")


def _claim(folder: Path) -> None:
    """Make a folder, closed to others; raises OSError where that fails or others could have put something there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if _POSIX:
        found = folder.stat()
        if found.st_uid != os.geteuid():
            raise PermissionError(errno.EACCES, "belongs to another user", str(folder))
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(errno.EACCES, "others can write to it", str(folder))
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            folder.chmod(0o700)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
