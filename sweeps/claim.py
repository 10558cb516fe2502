"""The right to write an output: one process at a time has it, and keeps what it has not finished beside it."""

import logging
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from batchcube.errors import InputError
from batchcube.results.disk import UnwritableError, lock, make_folder, output_file, recover, remove, sync_folder

from .files import require_new

_LOCK = "lock"
_LOG = logging.getLogger(__name__)


def folder_of(output: Path) -> Path:
    """Return where what is not finished of an output is kept."""
    return output.with_name(f"{output.name}.partial")


class Claim:
    """The right to write an output, until it is closed or the process ends, however it ends."""

    def __init__(self, output: Path) -> None:
        """Lock the folder beside an output; raises InputError when another process has it or nothing can be written."""
        self.output = output
        self.folder = folder_of(output)
        self.is_unfinished = False
        """Whether who had it before was killed, or keeps something for whoever goes on."""
        self.stays_unfinished = False
        """Whether it is left as one that was killed leaves it."""
        self._made = [folder for folder in output.absolute().parents if not folder.exists()]
        """Folders that are there for this alone, the innermost first."""
        make_folder(output.parent)
        self._lock = self._locked()
        try:
            self._begin()
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unlock, and remove the folder if nothing is kept in it; those above it too that are there for it alone."""
        self._close()

    def _begin(self) -> None:
        """Say whose the output is, and remove what killed processes had begun to write: nobody else writes here."""
        self.is_unfinished = os.fstat(self._lock).st_size > 0
        try:
            os.truncate(self._lock, 0)
            os.write(self._lock, f"process {os.getpid()} on {platform.node()}".encode())
        except OSError as error:
            raise UnwritableError(f"cannot be written: {error.strerror}", file=self.folder) from None
        sync_folder(self.output.parent)
        for file in self.folder.glob("*.part"):
            file.unlink()
        recover(self.output)

    def _close(self) -> None:
        if not self.stays_unfinished and all(file.name == _LOCK for file in self.folder.iterdir()):
            with suppress(OSError):  # somebody keeps something there by now
                (self.folder / _LOCK).unlink()
                self.folder.rmdir()
                for folder in self._made:
                    folder.rmdir()
        os.close(self._lock)

    def _locked(self) -> int:
        """Return the open lock file; the system unlocks it when the process ends, however it ends."""
        file = self.folder / _LOCK
        while True:
            make_folder(self.folder)
            try:
                opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:
                continue  # whoever had it removed the folder just now
            except OSError as error:
                raise UnwritableError(f"cannot be written: {error.strerror}", file=self.folder) from None
            try:
                lock(opened)
            except BlockingIOError:
                owner = os.read(opened, 200).decode(errors="replace") or "another process"
                os.close(opened)
                raise InputError(
                    f"is being written by {owner}; wait for it, or choose another output", file=self.output
                ) from None
            except OSError as error:
                _LOG.warning(
                    "batchcube: %s: cannot be locked (%s): take care that no other process writes %s at the same time",
                    self.folder,
                    error.strerror,
                    self.output,
                )
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(opened), os.stat(file)):
                    return opened
            os.close(opened)


@contextmanager
def claimed(*outputs: Path | None, overwrite: bool) -> Iterator[bool]:
    """Claim outputs that are to be written, for as long as this is open; None is no output.

    Gives whether what is there may be replaced: where `overwrite` says so, and where a process was killed that was
    writing it. Where it ends by an error or an interrupt, those that were not there before are removed: with some of
    them there the command would be refused when it is given again. What a killed process had left stays so.
    Raises InputError like a `Claim`, and for what is there already otherwise.
    """
    begun: list[Path] = []
    killed: list[Claim] = []
    with ExitStack() as claims:
        for output in outputs:
            if output is not None:
                claim = claims.enter_context(Claim(output_file(output)))
                # With parts beside it, it is the cube of a run, which was stopped.
                if claim.is_unfinished and not any(claim.folder.glob("*.parts")):
                    overwrite = True
                    killed.append(claim)
                require_new(output, overwrite=overwrite)
                if not claim.output.exists():
                    begun.append(claim.output)
        try:
            yield overwrite
        except BaseException:
            for file in begun:
                remove(file)
            for claim in killed:
                claim.stays_unfinished = claim.output.exists()
            raise
