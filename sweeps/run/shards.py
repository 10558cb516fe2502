"""Shards: work dealt to any number of machines that have no more in common than a folder, and what they made merged.

A shard does what it is dealt of a round and keeps it in one file beside the output, complete or not at all. A run is
one round; where the next simulations depend on results, as looks of a run to a precision do, each step is a round, and
merging begins the next one. What is dealt depends on what is asked and on earlier rounds only: not on who does it,
when, how often or on how many cores.
"""

import logging
import re
import shlex
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from batchcube.errors import InputError
from batchcube.results.provenance import MadeBy, batchcube_version
from batchcube.results.text import counted, in_ranges

from ..claim import folder_of
from .executors import Hands
from .parts import join
from .store import SUFFIX, About, AnyPart, Part, PartsFile, Report, Store, StoredPart, is_of, keep, stamp

MOST_SHARDS = 100_000
_SLURM, _KUBERNETES = "SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"
_FILE = re.compile(rf"(?:round-(\d+)\.)?(\d+)-of-\d+\.[0-9a-f]{{64}}{re.escape(SUFFIX)}")
_LOG = logging.getLogger(__name__)


class Shard(NamedTuple):
    """One of the parts that work is dealt into."""

    number: int
    """From 1."""
    of: int

    def __str__(self) -> str:
        return f"shard {self.number} of {self.of}"


def shard_of(text: str, environment: Mapping[str, str]) -> Shard:
    """Return the shard that ``3/64`` names, or ``env`` and ``env/64`` where an array of jobs numbers its tasks from 0.

    SLURM says how many tasks its array has, but not of how many they are the rest; Kubernetes does not say it at all.
    Raises InputError for anything else, and for a number that is not among so many.
    """
    named, slash, count = text.partition("/")
    what, least = "the number", 1
    if named == "env":
        what, least = next((name for name in (_SLURM, _KUBERNETES) if environment.get(name, "").isdecimal()), ""), 0
        if not what:
            raise InputError(f"neither {_SLURM} nor {_KUBERNETES} is set", path="`shard`", value=text)
        named = environment[what]
        count = count if slash else _tasks(environment, what)
    if not (named.isdecimal() and count.isdecimal() and 1 <= int(count) <= MOST_SHARDS):
        allowed = f"must be NUMBER/ALL, 1/64 to 64/64 of at most {MOST_SHARDS:,}, or env, or env/ALL"
        raise InputError(allowed, path="`shard`", value=text)
    number = int(named) - least + 1
    if not 1 <= number <= int(count):
        allowed = f"must be from {least} to {least + int(count) - 1}"
        raise InputError(f"{what} is {named}, {allowed}", path="`shard`", value=text)
    return Shard(number, int(count))


def _tasks(environment: Mapping[str, str], what: str) -> str:
    """Return how many tasks an array of jobs has; InputError where its variables leave that open."""
    problem = f"beside {what} nothing says how many completions there are"
    if what == _SLURM:
        first, last, count = (environment.get(f"SLURM_ARRAY_TASK_{name}", "") for name in ("MIN", "MAX", "COUNT"))
        if first == "0" and count.isdecimal() and last == str(int(count) - 1):
            return count
        problem = "the array must begin at 0 and have no gaps, sbatch --array=0-63"
    raise InputError(f"{problem}; `shard` env/64 says how many shards there are in all", path="`shard` env")


class Dealing:
    """How cells are dealt: the points of one replication after the other, in ranges of as many requests each."""

    def __init__(self, replications: Sequence[int], points: Sequence[int], requests: Sequence[int]) -> None:
        """Deal points, with so many requests each, in all of some replications."""
        self._replications, self._points = replications, points
        self._before = [0, *accumulate(requests)]
        """Requests of a replication before each of its points, and in all of it."""

    def of(self, shard: Shard) -> dict[int, Sequence[int]]:
        """Return the points of each replication that are a shard's."""
        each, dealt = self._before[-1], {}
        all_of_it = each * len(self._replications)
        low, high = (-(-place * all_of_it // shard.of) for place in (shard.number - 1, shard.number))
        for place in range(low // each, min(high // each + 1, len(self._replications))):
            start, stop = (bisect_left(self._before, end - place * each, 0, len(self._points)) for end in (low, high))
            if start < stop:
                dealt[self._replications[place]] = self._points[start:stop]
        return dealt

    def whose(self, cells: Iterable[tuple[int, int]], shards: int) -> list[int]:
        """Return the numbers of those, of so many shards, that have any of these cells (replication, point)."""
        each = self._before[-1]
        place_of = {number: place for place, number in enumerate(self._replications)}
        before = dict(zip(self._points, self._before, strict=False))
        all_of_it = each * len(self._replications)
        return sorted({shards * (place_of[r] * each + before[k]) // all_of_it + 1 for r, k in cells})


class MissingShardsError(InputError):
    """Shards that are to be merged are not there."""


class NextRoundError(InputError):
    """All shards of a round are merged, and what they made calls for another one."""


class Asked(NamedTuple):
    """What shards are parts of."""

    identity: Mapping[str, str]
    """What makes simulations: with all of it the same, they are the same."""
    command: str
    """That which deals: "run"."""
    settings: Mapping[str, Any]
    """What else decides which simulations there are; plain JSON."""
    made_from: Sequence[Mapping[str, Any]]
    """Specification and defaults, enough to make the sweep again."""
    again: str
    """The command line but for its shard and its output."""

    def of(self, shards: int) -> dict[str, Any]:
        """Return what all shards of so many must have in common."""
        return {**self.identity, "asked": {"command": self.command, "shards": shards, **self.settings}}


class Dealt(Protocol):
    """Work that is dealt to shards: of cells, each a point in a replication."""

    def add(self, parts: Iterable[AnyPart]) -> Any:
        """Add finished parts; cells that are there already count once."""

    def deal(self, shard: Shard) -> bool:
        """Do no more than is dealt to a shard, and say whether any of it is left to do."""

    def missing(self, shards: int) -> list[int]:
        """Return the numbers of those, of so many shards, that were dealt what is not finished."""

    def work(self, hands: Hands) -> bool:
        """Do what is dealt and not finished, and say whether that was anything."""


class Shards:
    """The folder of the shards of an output, beside it."""

    def __init__(self, output: Path) -> None:
        self.output, self.folder = output, output.with_name(f"{output.name}.shards")
        self._before = stamp(output)
        self._first = self.folder
        """The file that said what shards are parts of."""

    # One of them ----------------------------------------------------------------------------------------------------

    def do(
        self,
        shard: Shard,
        round_: int,
        asked: Asked,
        made_by: MadeBy,
        work: Dealt,
        hands: Hands,
    ) -> str:
        """Do a shard of a round of work, unless it is there; return a sentence on it.

        Raises InputError where shards of something else are there, and where another process is at this one.
        """
        identity = asked.of(shard.of)
        self._require_same(identity)
        merge = f"when all are there: batchcube merge {self.output}"
        name = _name(shard, round_)
        if any(self._opened(path) is not None for path in self._files(round_, shard.number)):
            return f"{shard} is there already; {merge}"
        if not work.deal(shard):
            return f"{shard} has nothing to do; {merge}"
        about = {**identity, "shard": shard.number, "made_from": asked.made_from, "again": asked.again}
        with self._unless_empty(), Store(self.folder / name) as store:
            work.add(store.open(identity, made_by, _Every()))
            # From now on merging knows what is asked, whatever becomes of this process.
            begun = keep(store.folder, "", {**about, "made_by": []}, []).path
            try:
                work.work(hands._replace(store=store))
            except Exception:
                begun.unlink(missing_ok=True)
                raise
            parts = store.parts()
            makers = [list(maker) for maker in dict.fromkeys([*store.makers, made_by])]
            file = keep(self.folder, f"{name}.", {**about, "made_by": makers}, _joined(parts)).path
            store.forget(_Every())
            begun.unlink(missing_ok=True)
        if stamp(self.output) != self._before:
            with self._unless_empty():
                file.unlink(missing_ok=True)
            return f"{shard} comes too late: {self.output} was written meanwhile"
        done = sum(len(part.points) for part in parts)
        return f"{shard} is whole, {counted(done, 'simulation')}; {merge}"

    def _require_same(self, identity: Mapping[str, Any]) -> None:
        """Refuse to add to shards of something else."""
        about = self._told()
        if about is None or is_of(about, identity):
            return
        count = about.get("asked", {}).get("shards")
        wanted = identity["asked"]["shards"]
        if count != wanted:
            raise InputError(f"holds shards of {count}, not of {wanted}; remove it to deal anew", file=self.folder)
        what = _difference(about, identity)
        raise InputError(
            f"holds shards of another {what} than this one; remove it, or choose another output", file=self.folder
        )

    def _told(self) -> About | None:
        """Return what the first of the shards says of what they are parts of; None where there are none."""
        return next(filter(None, map(_about, [*self._files(), *self._at_work()])), None)

    @contextmanager
    def _unless_empty(self) -> Iterator[None]:
        """Remove the folder at the end, if nothing is in it."""
        try:
            yield
        finally:
            with suppress(OSError):
                self.folder.rmdir()

    # All of them ----------------------------------------------------------------------------------------------------

    def about(self) -> About:
        """Return what a shard says of what they are parts of; raises InputError where there is none of this version."""
        for file in [*self._files(), *sorted(folder_of(self.output).glob(f"*{SUFFIX}")), *self._at_work()]:
            about = _about(file)
            if about is not None and "made_from" in about:
                made, here = about.get("version"), batchcube_version()
                if made != here:
                    raise InputError(f"holds shards that version {made} made, this is {here}", file=self.folder)
                self._first = file
                return about
        shards = self._files()
        others = [file for file in self.folder.glob("*.*") if file.is_file() and file.suffix != ".part"]
        if count := len(set(others).difference(shards)):
            are = "is" if count == 1 else "are"
            raise InputError(f"{counted(count, 'file')} there {are} of another version", file=self.folder)
        with self._unless_empty():  # a merge may have been killed right before it was removed
            raise InputError("has no shards that could be merged", file=self.output)

    def merge(
        self, work: Dealt, round_: int, asked: Asked, shards: int, store: Store, *, allow_missing: bool = False
    ) -> None:
        """Add the shards of a round to the work, and keep them in the store of the output.

        Raises InputError for shards of something else and for two of one number that differ; MissingShardsError where
        some are not there, unless `allow_missing`; NextRoundError where all are missing of a later round.
        """
        found = self._read(round_, asked.of(shards))
        for file in found:
            work.add(file.parts)
        missing = work.missing(shards)
        if missing and not found and round_ > 1:
            raise NextRoundError(f"round {round_} is next: {self._again(asked, missing, shards)}", file=self.output)
        if missing and not allow_missing:
            text = f"{which_are(missing, shards, round_)} missing: {self._again(asked, missing, shards)}"
            raise MissingShardsError(text, file=self.output)
        for file in found:
            store.take(file)

    def _again(self, asked: Asked, missing: Sequence[int], shards: int) -> str:
        """Return the command that does what is missing of the output, whatever it was called when shards were made."""
        command = command_of(asked.again, self.output)
        if len(missing) == 1:
            return f"{command} --shard {missing[0]}/{shards}"
        numbers = " ".join(map(str, missing)) if len(missing) < shards else f"$(seq {shards})"
        return f"for k in {numbers}; do {command} --shard $k/{shards}; done"

    def settle(self, asked: Asked, count: int = 0) -> str:
        """Remove shards of what was written without them, with so many replications; return a sentence on it.

        Those that ask for more stay, and it is said where the cube took the place of what they began from; "" where
        there are none, or they are of something else.
        """
        about = self._told()
        if about is None or not is_of(about, asked.identity) or about["asked"]["command"] != asked.command:
            return ""
        theirs = about["asked"]
        same = theirs.get("precision") == asked.settings.get("precision")
        if same and theirs.get("replications", 0) <= count:
            self.clear()
            return f"{self.folder}: shards of this {asked.command} were not used, and are removed"
        if theirs["held"] != count:
            began = f"shards that began before {self.output.name} was written were not used"
            return f"{self.folder}: {began}; remove it to deal anew"
        return ""

    def clear(self) -> None:
        """Remove what is left of shards, but for those that are at work."""
        with self._unless_empty():
            for file in self._files():
                file.unlink(missing_ok=True)
            for folder in self.folder.glob("*.partial"):
                with suppress(InputError), Store(folder.with_suffix("")) as dead:
                    dead.clear()
            if not any(self.folder.glob("*.partial")):
                for part in self.folder.glob("*.part"):
                    part.unlink(missing_ok=True)

    def _files(self, round_: int | None = None, number: int | None = None) -> list[Path]:
        """Return the files of whole shards, of a round and of a number or of all, by their numbers."""
        found: list[tuple[int, Path]] = []
        for file in self.folder.glob(f"*{SUFFIX}"):
            named = _FILE.fullmatch(file.name)
            if named and round_ in (None, int(named[1] or 1)) and number in (None, int(named[2])):
                found.append((int(named[2]), file))
        return [file for _, file in sorted(found)]

    def _at_work(self) -> list[Path]:
        """Return the files that shards keep which are at work, or were stopped."""
        return sorted(self.folder.glob(f"*.partial/*{SUFFIX}"))

    def _opened(self, path: Path) -> PartsFile | None:
        """Return a file that is as it was written; a damaged one is removed with a warning."""
        file = PartsFile.opened(path)
        if file is None:
            _LOG.warning("batchcube: %s: is damaged and was removed; it is done again", path)
            path.unlink()
        return file

    def _read(self, round_: int, identity: Mapping[str, Any]) -> list[PartsFile]:
        """Return the files of a round, each shard once."""
        found: dict[int, PartsFile] = {}
        twins: list[PartsFile] = []
        for file in filter(None, map(self._opened, self._files(round_))):
            if not is_of(file.about, identity):
                what = _difference(file.about, identity)
                raise InputError(f"is of another {what} than {self._first}; remove one of them", file=file.path)
            other = found.setdefault(file.about["shard"], file)
            if other is file:
                continue
            if not _same(other.parts, file.parts):
                raise InputError(
                    f"differs from {other.path}, the same shard made again: a machine computes wrongly; remove both",
                    file=file.path,
                )
            twins.append(file)
        for file in twins:
            file.path.unlink()
        return list(found.values())


def command_of(again: str, output: Path) -> str:
    """Return the command line of shards with an output."""
    return f"{again} --output {shlex.quote(str(output))}"


def which_are(numbers: Sequence[int], shards: int, round_: int = 1) -> str:
    """Return ``shard 3 of 8 is`` or ``shards 2, 6-8 of 8 are``; of which round, where that is a later one."""
    of_round = f" of round {round_}" if round_ > 1 else ""
    which, are = ("shard", "is") if len(numbers) == 1 else ("shards", "are")
    return f"{which} {in_ranges(numbers)} of {shards}{of_round} {are}"


class _Every:
    """All numbers."""

    def __contains__(self, number: object) -> bool:
        return True


def _name(shard: Shard, round_: int) -> str:
    """Return what the files of a shard begin with; of the only round of a run nothing need be said."""
    return f"round-{round_}." * (round_ > 1) + f"{shard.number}-of-{shard.of}"


def _about(path: Path) -> About | None:
    """Return what a file says of itself; None where it is damaged or gone."""
    try:
        file = PartsFile.opened(path)
    except OSError:
        return None
    return None if file is None else file.about


def _difference(about: About, identity: Mapping[str, Any]) -> str:
    """Say in what a file of parts is not of an identity."""
    named = {"version": "version", "input_sha256": "trace file", "asked": "number of replications, or precision,"}
    if (about.get("asked") or {}).get("shards") != identity["asked"]["shards"]:
        named["asked"] = "number of shards"
    return " and ".join(dict.fromkeys(named.get(k, "sweep") for k in identity if about.get(k) != identity[k]))


def _joined(parts: Sequence[StoredPart]) -> Iterator[Part]:
    """Yield one part for each replication, its points in order."""
    in_order = sorted(parts, key=lambda part: part.replication)
    for number, group in groupby(in_order, key=lambda part: part.replication):
        mine = list(group)
        yield Part(number, tuple(sorted(k for part in mine for k in part.points)), join(mine))


def _same(some: Sequence[StoredPart], others: Sequence[StoredPart]) -> bool:
    """Say whether parts of the same cells hold the same, bit for bit; parts of other cells are not compared."""
    known = {(part.replication, part.points): part for part in some}
    return all(
        _equal(theirs.report, part.report)
        for part in others
        if (theirs := known.get((part.replication, part.points))) is not None
    )


def _equal(report: Report, other: Report) -> bool:
    return all(array.tobytes() == report[name].tobytes() for name, array in other.items())
