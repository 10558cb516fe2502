"""What is finished of a run that is not: parts in a folder beside its output, for one process at a time."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from io import BytesIO
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


About = dict[str, Any]
"""What a file of parts says of itself: what makes them the same, and under `made_by` what simulated them."""


def packed(about: Mapping[str, Any], parts: Sequence[Part]) -> bytes:
    """Return parts and what made them as the content of a file: the same bytes for the same parts."""
    arrays: dict[str, Any] = {"about": np.array(json.dumps(about))}
    for number, part in enumerate(parts):
        arrays[f"{number}/"] = np.array([part.replication, *part.points], np.int64)
        arrays |= {f"{number}/{name}": array for name, array in part.report.items()}
    stream = BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def unpacked(content: bytes) -> tuple[About, list[Part]]:
    """Return what `packed` made a file of."""
    reports: dict[str, Report] = {}
    with np.load(BytesIO(content), allow_pickle=False) as arrays:
        about = json.loads(str(arrays["about"]))
        for key in arrays.files:
            number, slash, name = key.partition("/")
            if slash:
                reports.setdefault(number, {})[name] = arrays[key]
    parts = []
    for report in reports.values():
        replication, *points = report.pop("").tolist()
        parts.append(Part(replication, tuple(points), report))
    return about, parts


def is_whole(content: bytes, name: str) -> bool:
    """Say whether the content of a file is what its name, which ends with a SHA-256, says."""
    return name.endswith(hashlib.sha256(content).hexdigest())


def require_of(about: About, identity: Mapping[str, Any], folder: Path) -> None:
    """Raise InputError for parts in a folder that are of anything with another identity."""
    if not is_of(about, identity):
        raise InputError(
            "holds a stopped run of another sweep, version or trace file; remove it, or --overwrite", file=folder
        )


def is_of(about: About, identity: Mapping[str, Any]) -> bool:
    """Say whether what made parts is what an identity says."""
    return all(about.get(name) == value for name, value in identity.items())


def keep(folder: Path, name: str, content: bytes) -> Path:
    """Write a file, complete or not at all, and onto the disk; its name is that given and the SHA-256 of its content.

    Raises InputError if the disk is full.
    """
    file = folder / f"{name}{hashlib.sha256(content).hexdigest()}.npz"
    part_file = file.with_suffix(".part")
    try:
        with part_file.open("wb") as written:
            written.write(content)
            written.flush()
            os.fsync(written.fileno())
        part_file.replace(file)
    except OSError as error:
        part_file.unlink(missing_ok=True)
        raise InputError(f"cannot be written: {error.strerror}", file=folder) from None
    sync_folder(folder)
    return file


def parts_beside(output: Path, identity: Mapping[str, Any]) -> list[Part]:
    """Return the parts that are kept of an output, and leave them to whoever has locked them.

    Raises InputError for parts of anything with another identity.
    """
    found: list[Part] = []
    for file in sorted(folder_of(output).glob("*.npz")):
        content = file.read_bytes()
        if is_whole(content, file.stem):
            about, parts = unpacked(content)
            require_of(about, identity, file.parent)
            found += parts
    return found


class Store(Claim):
    """Keeps finished parts of a run, and puts the cube into its place; nobody else writes it until this is closed.

    Every file of parts says what made it, and is named by the SHA-256 of its content: what a kill or a bad disk leaves
    of one is found out and costs no other.
    """

    def __init__(self, output: Path) -> None:
        """Claim an output; raises InputError when another process has it or nothing can be written."""
        super().__init__(output)
        self.makers: list[MadeBy] = []
        """What simulated the parts that were found: they may be continued with another backend."""
        self._files: dict[Path, set[int]] = {}
        self._points: Counter[int] = Counter()
        self._before: tuple[int, ...] | None = stamp(output)

    def open(
        self,
        identity: Mapping[str, str],
        made_by: MadeBy,
        wanted: Container[int],
        *,
        held: Container[int] = (),
        overwrite: bool = False,
    ) -> list[Part]:
        """Return the parts of the replications wanted, and remember what those to be saved are of.

        Replications that are `held` are in the cube: parts that hold no others are removed. A damaged part is
        removed with a warning. With `overwrite` all are removed, and the output may be what it likes.
        Raises InputError for parts of anything with another identity.
        """
        self._about = {**identity, "made_by": [list(made_by)]}
        if overwrite:
            self._before = None
            self.clear()
        found: list[Part] = []
        for file, about, parts in self._read():
            require_of(about, identity, self.folder)
            found += self._found(file, about, parts, wanted)
        self.forget(held)
        return found

    def take(self, file: Path, about: About, parts: Sequence[Part]) -> None:
        """Take a file of parts from elsewhere on the same disk, which are then kept like any other."""
        *_, name = file.name.split(".")[:-1]
        taken = self.folder / f"{name}.npz"
        file.replace(taken)
        self._found(taken, about, parts, {part.replication for part in parts})

    def save(self, parts: Sequence[Part]) -> None:
        """Write parts to one file of their own, complete or not at all, and onto the disk; InputError if it is full."""
        if not parts:
            return
        file = keep(self.folder, "", packed(self._about, parts))
        self._files[file] = {part.replication for part in parts}
        self._count(parts)

    def put(self, cube: "xr.Dataset") -> None:
        """Write the cube to the output; raises InputError if somebody else has written there since this was opened."""
        from batchcube.results.cube import write_cube

        write_cube(cube, self.output, ready=self._require_as_before)
        self._before = stamp(self.output)

    def forget(self, held: Container[int]) -> None:
        """Remove the parts that hold no other replications than these, which are in the cube."""
        for file in [file for file, replications in self._files.items() if all(r in held for r in replications)]:
            file.unlink()
            del self._files[file]

    def clear(self) -> None:
        """Remove all parts."""
        for file in self.folder.glob("*.npz"):
            file.unlink()

    def parts(self) -> list[Part]:
        """Return all parts that are kept."""
        return [part for _, _, parts in self._read() for part in parts]

    def tell(self, points: int, wanted: int) -> str:
        """Return a sentence on how many of the replications wanted, of so many points each, are kept."""
        complete = sum(count == points for count in self._points.values())
        others = sum(count for count in self._points.values() if count < points)
        if not complete and not others:
            return NOTHING_KEPT
        also = f" and {others} points of others" if others else ""
        return f"{complete} of {wanted} replications{also} are kept in {self.folder}: the same command continues."

    def tell_simulations(self) -> str:
        """Return a sentence on how many points of replications are kept, of a work that nobody knows the size of."""
        kept = sum(self._points.values())
        if not kept:
            return NOTHING_KEPT
        are = "is" if kept == 1 else "are"
        return f"{counted(kept, 'simulation')} {are} kept in {self.folder}: the same command continues."

    def _count(self, parts: Sequence[Part]) -> None:
        for part in parts:
            self._points[part.replication] += len(part.points)

    def _found(self, file: Path, about: About, parts: Sequence[Part], wanted: Container[int]) -> list[Part]:
        """Return those of a file's parts that are wanted, and remember it."""
        self._files[file] = {part.replication for part in parts}
        mine = [part for part in parts if part.replication in wanted]
        self._count(mine)
        for maker in (MadeBy(*maker) for maker in about["made_by"]) if mine else ():
            if maker not in self.makers:
                self.makers.append(maker)
        return mine

    def _read(self) -> Iterator[tuple[Path, About, list[Part]]]:
        """Yield the files that are whole, what made them, and their parts; others are removed with a warning."""
        for file in sorted(self.folder.glob("*.npz")):
            content = file.read_bytes()
            if not is_whole(content, file.stem):
                _LOG.warning("batchcube: %s: is damaged and was removed; what it held is done again", file)
                file.unlink()
                continue
            yield file, *unpacked(content)

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
