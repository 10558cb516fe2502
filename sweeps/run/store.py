"""What is finished of a run that is not: parts in a folder beside its output, for one process at a time."""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.errors import InputError
from batchcube.results.disk import sync_folder
from batchcube.results.provenance import MadeBy
from batchcube.results.text import counted

from ..claim import Claim, folder_of

if TYPE_CHECKING:
    import xarray as xr

NOTHING_KEPT = "Nothing was finished, nothing is kept."
_LOG = logging.getLogger(__name__)
Report = dict[str, NDArray[Any]]
"""Variables of one replication or of some of its points, leading axis point."""


class Part(NamedTuple):
    """What is finished of one replication."""

    replication: int
    points: tuple[int, ...]
    """Their numbers in the order of the grid, not sorted."""
    report: Report
    """Of these points, in this order."""


class StoredPart(NamedTuple):
    """A part that lies in a file: its report is read each time that somebody asks for it."""

    replication: int
    points: tuple[int, ...]
    file: "PartsFile"
    start: int
    """Where its report begins in the file."""
    size: int
    """Bytes of it."""

    @property
    def report(self) -> Report:
        """Of these points, in this order; raises InputError where the file can no longer be read."""
        return self.file.read(self.start, self.size)


AnyPart = Part | StoredPart
About = dict[str, Any]
"""What a file of parts says of itself: what makes them the same, and under `made_by` what simulated them."""
SUFFIX = ".parts"
_ALIGNED = 8
"""Arrays begin at multiples of so many bytes."""


class PartsFile:
    """A file of parts: their reports one after the other, then in JSON what it is and holds, then the length of that.

    Its name ends with the SHA-256 of its content: what a kill or a bad disk leaves of one is found out.
    """

    def __init__(self, path: Path, about: About, parts: Sequence[tuple[int, Sequence[int], int]]) -> None:
        """Name a file, and what it holds: of each part the replication, the points and the bytes."""
        self.path, self.about = path, about
        self.parts: list[StoredPart] = []
        start = 0
        for replication, points, size in parts:
            self.parts.append(StoredPart(replication, tuple(points), self, start, size))
            start += size

    @classmethod
    def opened(cls, path: Path) -> "PartsFile | None":
        """Return a file of parts, None for one that is not as it was written."""
        with path.open("rb") as file:
            if not path.stem.endswith(hashlib.file_digest(file, "sha256").hexdigest()):
                return None
            file.seek(-_ALIGNED, os.SEEK_END)
            size = int.from_bytes(file.read(), "little")
            file.seek(-_ALIGNED - size, os.SEEK_END)
            said = json.loads(file.read(size))
        return cls(path, said["about"], said["parts"])

    def read(self, start: int, size: int) -> Report:
        """Return the report that lies there; raises InputError where it does no longer."""
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                content = np.fromfile(file, np.uint8, size)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", file=self.path) from None
        if len(content) < size:
            raise InputError("was cut short while it was in use", file=self.path)
        return _unpacked(content)


def _packed(report: Report) -> bytes:
    """Return a report as bytes, the same for the same report: in JSON which arrays there are, and then these."""
    about = json.dumps([(name, array.dtype.str, array.shape) for name, array in report.items()]).encode()
    about += b" " * (-len(about) % _ALIGNED)
    pieces = [len(about).to_bytes(_ALIGNED, "little"), about]
    for array in report.values():
        pieces += [array.tobytes(), bytes(-array.nbytes % _ALIGNED)]
    return b"".join(pieces)


def _unpacked(content: NDArray[np.uint8]) -> Report:
    """Return what `_packed` made bytes of."""
    at = _ALIGNED + int.from_bytes(content[:_ALIGNED].tobytes(), "little")
    report: Report = {}
    for name, dtype, shape in json.loads(content[_ALIGNED:at].tobytes()):
        array: NDArray[Any] = np.ndarray(shape, dtype, content.data, at)
        report[name] = array
        at += array.nbytes + -array.nbytes % _ALIGNED
    return report


def require_of(about: About, identity: Mapping[str, Any], folder: Path) -> None:
    """Raise InputError for parts in a folder that are of anything with another identity."""
    if not is_of(about, identity):
        raise InputError(
            "holds a stopped run of another sweep, version or trace file; remove it, or choose another output",
            file=folder,
        )


def is_of(about: About, identity: Mapping[str, Any]) -> bool:
    """Say whether what made parts is what an identity says."""
    return all(about.get(name) == value for name, value in identity.items())


def keep(folder: Path, name: str, about: About, parts: Iterable[AnyPart]) -> PartsFile:
    """Write parts and what made them to a file, complete or not at all, and onto the disk.

    The same parts give the same file, whose name is that given and the SHA-256 of its content. Raises InputError if the
    disk is full.
    """
    part_file = folder / f"{name}{uuid.uuid4().hex}.part"
    digest, held = hashlib.sha256(), []
    try:
        with part_file.open("wb") as written:

            def write(content: bytes) -> None:
                written.write(content)
                digest.update(content)

            for part in parts:
                content = _packed(part.report)
                held.append((int(part.replication), tuple(map(int, part.points)), len(content)))
                write(content)
            last = json.dumps({"about": about, "parts": held}).encode()
            write(last)
            write(len(last).to_bytes(_ALIGNED, "little"))
            written.flush()
            os.fsync(written.fileno())
        file = folder / f"{name}{digest.hexdigest()}{SUFFIX}"
        part_file.replace(file)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=folder) from None
    finally:
        part_file.unlink(missing_ok=True)
    sync_folder(folder)
    return PartsFile(file, about, held)


def parts_beside(output: Path, identity: Mapping[str, Any]) -> list[StoredPart]:
    """Return the parts that are kept of an output, and leave them to whoever has locked them.

    Raises InputError for parts of anything with another identity.
    """
    found: list[StoredPart] = []
    for path in sorted(folder_of(output).glob(f"*{SUFFIX}")):
        if (file := PartsFile.opened(path)) is not None:
            require_of(file.about, identity, path.parent)
            found += file.parts
    return found


class Store(Claim):
    """Keeps finished parts of a run, and puts the cube into its place; nobody else writes it until this is closed.

    Every file of parts says what made it: what a kill or a bad disk leaves of one costs no other.
    """

    def __init__(self, output: Path) -> None:
        """Claim an output; raises InputError when another process has it or nothing can be written."""
        super().__init__(output)
        self.makers: list[MadeBy] = []
        """What simulated the parts that were found: they may be continued with another backend."""
        self._files: list[PartsFile] = []
        self._parts: dict[int, list[StoredPart]] = {}
        """Those wanted, by replication."""
        self.saves = 0
        """How often parts were saved."""
        self._before: tuple[int, ...] | None = stamp(output)

    def open(
        self,
        identity: Mapping[str, str],
        made_by: MadeBy,
        wanted: Container[int],
        *,
        held: Container[int] = (),
        overwrite: bool = False,
    ) -> list[StoredPart]:
        """Return the parts of the replications wanted, and remember what those to be saved are of.

        Replications that are `held` are in the cube: parts that hold no others are removed. A damaged part is
        removed with a warning. With `overwrite` all are removed, and the output may be what it likes.
        Raises InputError for parts of anything with another identity.
        """
        self._about = {**identity, "made_by": [list(made_by)]}
        if overwrite:
            self._before = None
            self.clear()
        found: list[StoredPart] = []
        for file in self._read():
            require_of(file.about, identity, self.folder)
            found += self._found(file, wanted)
        self.forget(held)
        return found

    def take(self, file: PartsFile) -> None:
        """Take a file of parts from elsewhere on the same disk, which are then kept like any other."""
        *_, name = file.path.stem.split(".")
        file.path = file.path.replace(self.folder / f"{name}{SUFFIX}")
        self._found(file)

    def save(self, parts: Sequence[Part]) -> None:
        """Write parts to one file of their own, complete or not at all, and onto the disk; InputError if it is full."""
        if not parts:
            return
        file = keep(self.folder, "", self._about, parts)
        self._files.append(file)
        self._know(file.parts)
        self.saves += 1

    def of(self, replication: int) -> Sequence[StoredPart]:
        """Return the parts of a replication that are kept."""
        return self._parts.get(replication, ())

    def put(self, cube: "xr.Dataset", tell: "Callable[[xr.Dataset], None] | None" = None) -> None:
        """Write the cube to the output, see `write_cube`.

        Raises InputError if somebody else has written there since this was opened.
        """
        from batchcube.results.cube import write_cube

        write_cube(cube, self.output, ready=self._require_as_before, tell=tell)
        self._before = stamp(self.output)

    def forget(self, held: Container[int]) -> None:
        """Remove the parts that hold no other replications than these, which are in the cube."""
        for file in [file for file in self._files if all(part.replication in held for part in file.parts)]:
            file.path.unlink()
            self._files.remove(file)

    def clear(self) -> None:
        """Remove all parts."""
        for path in self.folder.glob(f"*{SUFFIX}"):
            path.unlink()

    def parts(self) -> list[StoredPart]:
        """Return all parts that are kept."""
        return [part for file in self._read() for part in file.parts]

    def tell(self, points: int, wanted: Collection[int]) -> str:
        """Return a sentence on how many of the replications wanted, of so many points each, are kept."""
        counts = [sum(len(part.points) for part in parts) for number, parts in self._parts.items() if number in wanted]
        complete = sum(count == points for count in counts)
        others = sum(count for count in counts if count < points)
        if not complete and not others:
            return NOTHING_KEPT
        also = f" and {others} points of others" if others else ""
        return f"{complete} of {len(wanted)} replications{also} are kept in {self.folder}: the same command continues."

    def tell_simulations(self) -> str:
        """Return a sentence on how many points of replications are kept, of a work that nobody knows the size of."""
        kept = sum(len(part.points) for parts in self._parts.values() for part in parts)
        if not kept:
            return NOTHING_KEPT
        are = "is" if kept == 1 else "are"
        return f"{counted(kept, 'simulation')} {are} kept in {self.folder}: the same command continues."

    def _know(self, parts: Sequence[StoredPart]) -> None:
        for part in parts:
            self._parts.setdefault(part.replication, []).append(part)

    def _found(self, file: PartsFile, wanted: Container[int] | None = None) -> list[StoredPart]:
        """Return those of a file's parts that are wanted, all of them when None, and remember it."""
        self._files.append(file)
        mine = [part for part in file.parts if wanted is None or part.replication in wanted]
        self._know(mine)
        for maker in (MadeBy(*maker) for maker in file.about["made_by"]) if mine else ():
            if maker not in self.makers:
                self.makers.append(maker)
        return mine

    def _read(self) -> Iterator[PartsFile]:
        """Yield the files that are whole; others are removed with a warning."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if (file := PartsFile.opened(path)) is not None:
                yield file
                continue
            _LOG.warning("batchcube: %s: is damaged and was removed; what it held is done again", path)
            path.unlink()

    def _require_as_before(self) -> None:
        if self._before is not None and stamp(self.output) != self._before:
            raise InputError(
                "was written by somebody else while this ran; what was simulated is kept in "
                f"{self.folder}, choose another output, or run again",
                file=self.output,
            )


def stamp(file: Path) -> tuple[int, ...]:
    """Return what tells a file from any that takes its place later; () where there is none."""
    try:
        about = file.stat()
    except FileNotFoundError:
        return ()
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
