"""Files that users name: refused early with a reason, written complete or not at all."""

import os
from collections.abc import Iterable
from pathlib import Path

from batchcube.errors import InputError
from batchcube.results.disk import make_folder, output_file, write_whole


def require_new(*paths: Path, overwrite: bool = False) -> None:
    """Refuse to write over what is there, unless `overwrite`, and over what is no file at all."""
    for path in paths:
        if output_file(path).exists() and not overwrite:
            raise InputError("is there already; choose another output, or `overwrite`", file=path)


def require_inside(cube: Path, named: Iterable[str]) -> None:
    """Refuse files that a cube names outside its own folder; raises InputError naming the first."""
    folder = cube.resolve().parent
    for name in named:
        if not Path(os.path.realpath(os.path.expanduser(name))).is_relative_to(folder):
            raise InputError(
                f"names {name}, which is not in its folder; `trust_paths` reads it all the same", file=cube
            )


def write_text(path: Path, text: str) -> None:
    """Write a text file beside its target, then move it into place; its folder is made.

    Raises InputError for what `output_file` refuses, and when it cannot be written.
    """
    path = output_file(path)
    make_folder(path.parent)
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise InputError(f"cannot be written: {getattr(error.__cause__, 'strerror', error)}", file=path) from None
