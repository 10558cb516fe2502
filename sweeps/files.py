"""Files that users name: refused early with a reason, written complete or not at all."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from .errors import UserError


def require_new(*paths: Path) -> None:
    """Refuse to write over what is there."""
    for path in paths:
        if path.exists():
            raise UserError(f"{path}: is there already; choose another output, or --overwrite")


def require_output(path: Path) -> Path:
    """Return the file that an output is, behind symbolic links; its folder is made.

    Raises UserError for a folder, for links that lead in circles or to nothing, and where the folder cannot be made.
    """
    if path.is_symlink():
        try:
            path = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: Python 3.11 and 3.12 say so of circles
            circle = isinstance(error, RuntimeError) or error.errno == errno.ELOOP
            raise UserError(
                f"{path}: is a symbolic link {'to itself' if circle else 'to a file that is not there'}; "
                "remove it, or choose another output"
            ) from None
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is a {'folder' if path.is_dir() else 'special file'}, must be a file name")
    make_folder(path.parent)
    return path


def require_inside(cube: Path, named: Iterable[str]) -> None:
    """Refuse files that a cube names outside its own folder; raises UserError naming the first."""
    folder = cube.resolve().parent
    for name in named:
        if not Path(os.path.realpath(os.path.expanduser(name))).is_relative_to(folder):
            raise UserError(f"{cube}: names {name}, which is not in its folder; --trust-paths reads it all the same")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; raises UserError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{folder}: is a file, must be a folder") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file beside its target, then move it into place; raises UserError when it cannot be written."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
