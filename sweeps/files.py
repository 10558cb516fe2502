"""Files that the command line writes: refused early with a reason, written complete or not at all."""

from pathlib import Path

from .errors import UserError


def require_new(*paths: Path) -> None:
    """Refuse to write over what is there."""
    for path in paths:
        if path.exists():
            raise UserError(f"{path}: is there already; choose another output, or --overwrite")


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
