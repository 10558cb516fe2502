"""What is the same for every command that deals its work to shards: doing one of a round, and merging all rounds."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from batchcube.errors import InputError
from batchcube.results.disk import cube_file
from batchcube.results.provenance import MadeBy

from ..progress import Progress, Silent
from ..spec.document import Sweep, remade
from ..stopping import Stop, stopping
from .executors import Executor, engaged
from .shards import Asked, Dealt, Shard, Shards
from .store import About, AnyPart, Store, parts_beside

NOBODY = MadeBy("numba", "", "")
"""What simulates while shards are merged: nothing that is kept."""
Result = TypeVar("Result", covariant=True)


class Course(Protocol[Result]):
    """The way of a command from what its output holds to what it is to hold, in rounds.

    However a round is done, by the command itself or in shards, what comes out is the same.
    """

    made_by: MadeBy
    """What simulates here."""
    kept: Sequence[AnyPart]
    """What was finished before."""

    @property
    def complete(self) -> Result | None:
        """What the output holds, where there is nothing to do."""

    @property
    def round(self) -> int:
        """Number of the round that is at work, from 1."""

    def prepare(self, workers: int, shards: int = 1) -> None:
        """Draw and read what all simulations share; raises InputError for what only data can show."""

    def asked(self, again: str) -> Asked:
        """Return what shards are parts of; `again` is the command line of all, but for the output."""

    def open(self, store: Store) -> None:
        """Go on from what a store keeps; raises InputError for parts of anything else."""

    def rounds(self, progress: Progress) -> Iterator[Dealt]:
        """Yield the work of one round after the other; whoever asks for the next one has done it."""

    def finish(self, store: Store, stop: Stop) -> Result:
        """Write what all rounds came to, and return it."""


def tidy(course: Course[object], store: Store) -> None:
    """Remove what a kill left beside an output that is complete; parts of something else are none of its business."""
    with suppress(InputError):
        course.open(store)


def do_shard(
    course: Course[object],
    target: Path,
    shard: Shard,
    *,
    workers: int | None,
    progress: Progress | None,
    executor: Executor | None,
    again: str,
) -> str:
    """Do what a shard is dealt of the first round that is not merged; return a sentence on it.

    It is kept beside the output, complete or not at all; a shard that was stopped continues where it was. `again` is
    the command line of all shards but for the output, which messages name. Raises InputError where shards of something
    else are there.
    """
    shards = Shards(target)
    with stopping() as stop, engaged(executor, workers) as crew:
        if course.complete is not None:
            return f"{target} is complete: there is nothing to do"
        at_once = crew.at_once if crew is not None else workers or os.cpu_count() or 1
        course.prepare(at_once if crew is None else 1, shard.of)
        asked, shown = course.asked(again), progress or Silent()
        course.kept = parts_beside(target, asked.identity)
        work = next(course.rounds(shown), None)
        if work is None:
            return f"all rounds are there: batchcube merge {target}"
        simulate = partial(work.work, stop=stop, progress=shown, crew=crew, workers=at_once)
        return shards.do(shard, course.round, asked, course.made_by, work, simulate)


def merge_shards(
    output: str | os.PathLike[str],
    course_of: Callable[[About, Sweep, Path], Course[Result]],
    *,
    progress: Progress | None = None,
    allow_missing: bool = False,
) -> Result:
    """Write what the command would have written, of the shards that are there, and return it.

    Nothing is simulated, but for the end of a plan.

    `course_of` makes its way again of what a shard says of itself, the sweep and the output.
    Raises MissingShardsError, or NextRoundError where results call for another round, with the command that makes them;
    InputError for shards of something else and for what only the data can show.
    """
    target = cube_file(Path(output))
    shards = Shards(target)
    with stopping() as stop, Store(target) as store:
        about = shards.about()
        specification, defaults, *_ = about["made_from"]
        sweep, _ = remade(specification, defaults, str(shards.folder))
        course = course_of(about, sweep, target)
        if (result := course.complete) is None:
            course.prepare(1)
            course.open(store)
            asked, count = course.asked(about["again"]), about["asked"]["shards"]
            for work in course.rounds(progress or Silent()):
                shards.merge(work, course.round, asked, count, store, allow_missing=allow_missing)
            result = course.finish(store, stop)
        else:
            tidy(course, store)
        shards.clear()
        return result
