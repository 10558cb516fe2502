"""What is asked of the disk beyond reading and writing: what a name leads to, locks, and names that stay."""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import uuid
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

from batchcube.errors import InputError, one_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HASH = "[0-9a-f]" * 8


ZARR, ZARR_GROUP = ".zarr", "zarr.json"
"""How a folder of Zarr is named, and what every one has."""

MOST_TOGETHER = 2**28
"""Bytes of a large cube, or of what it will be made of, that are held at a time: in each place that holds any."""

CUBES = (".nc", ZARR)
"""How cubes are named."""


def url_of(path: Path) -> str | None:
    """Return what fsspec is to open, of which a path has but one slash: `s3:/bucket/cube.zarr`; None for a folder."""
    found = re.fullmatch(r"([A-Za-z][\w+.-]+):/+(.*)", path.as_posix())
    return None if found is None else f"{found[1]}://{found[2]}"


def require_zarr(path: Path) -> None:
    """Raise InputError, naming the file that needs it, where Zarr is not installed."""
    if find_spec("zarr") is None:
        raise InputError("Zarr is not installed: pip install '.[zarr]' in the clone", file=path)


def output_file(path: Path) -> Path:
    """Return the file that an output is, behind symbolic links, or the folder of Zarr; it need not be there.

    Raises InputError, one line, for a URL, for another folder or a special file, for links that lead in circles or to
    nothing, and for a name that is not UTF-8, which the NetCDF library cannot open.
    """
    target = path
    if url := url_of(path):
        raise InputError("is a URL: outputs are written to disks only, and copied from there", file=url)
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


def cube_file(path: Path) -> Path:
    """Return the file or folder that a cube is written to; InputError as by `output_file`, and for other endings."""
    target = output_file(path)
    if target.suffix not in CUBES:
        raise InputError(f"must end in {one_of(CUBES)}", file=path)
    return target


class UnwritableError(InputError):
    """Says that nothing can be written in a folder."""


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; raises InputError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError("is a file, must be a folder", file=folder) from None
    except OSError as error:
        raise UnwritableError(f"cannot be written: {error.strerror}", file=folder) from None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its target, then move it into place: complete or not at all; raises OSError naming it."""
    with writing(path) as part:
        try:
            part.write_bytes(content)
            part.replace(path)
        except OSError as error:
            raise OSError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """Give the name beside a target to write to; what is left of it at the end is removed, and so are dead parts.

    A lock on the folder is shared meanwhile: see `recover`.
    """
    recover(target)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")  # `_HASH`
    with ExitStack() as stack:
        with suppress(OSError):
            folder = os.open(target.parent, os.O_RDONLY)
            stack.callback(os.close, folder)
            lock(folder, shared=True)
        try:
            yield part
        finally:
            remove(part)


def recover(target: Path) -> None:
    """Remove what killed processes left of a target, and put back what one had moved aside for a new one.

    With nobody else writing in its folder, parts of the target are theirs: the system drops the lock of a process that
    dies. Where it has no locks of folders (on NFS) nothing is done.
    """
    with suppress(OSError), ExitStack() as stack:
        folder = os.open(target.parent, os.O_RDONLY)
        stack.callback(os.close, folder)
        lock(folder)
        left = list(target.parent.glob(f".{glob.escape(target.name)}.{_HASH}.*"))
        for old in (file for file in left if file.suffix == ".old" and not target.exists()):
            old.rename(target)
        for dead in (file for file in left if file.suffix in (".old", ".part")):
            remove(dead)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; nothing where there is none."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def lock(opened: int, *, shared: bool = False) -> None:
    """Lock an open file or folder, until it is closed or the process ends, however it ends.

    Raises BlockingIOError when another process has it locked, for a shared one waits for that; OSError where there are
    no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOLCK, "the system has no such locks")
    fcntl.flock(opened, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)


def sync_folder(folder: Path) -> None:
    """Have the disk hold the names in a folder, where the system can."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
