"""What is the same for every command that keeps its work and deals it: doing all of it, a shard of a round, merging."""

import os
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from batchcube.errors import InputError
from batchcube.results.disk import UnwritableError, cube_file
from batchcube.results.provenance import MadeBy

from ..progress import Progress, Silent
from ..spec.document import Sweep, remade
from ..stopping import Stop, stopping
from .executors import Executor, hands, threads
from .shards import Asked, Dealt, Shard, Shards
from .store import About, AnyPart, Store, parts_beside

NOBODY = MadeBy("numba", "", "")
"""What simulates while shards are merged: nothing that is kept."""
Result = TypeVar("Result")


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

    def beside(self) -> None:
        """Do what the result takes beside the simulation, such as importing what builds it."""

    def finish(self, makers: Sequence[MadeBy], store: Store | None, stop: Stop) -> Result:
        """Return what all rounds came to, by these makers; where there is a store, write it and forget its parts."""

    def settle(self, shards: Shards, result: Result) -> str:
        """Remove shards that what was written makes useless; return a sentence on it, "" where nothing need be said."""


def do_all(
    target: Path | None,
    course_of: Callable[[], Course[Result]],
    *,
    workers: int | None,
    progress: Progress | None,
    executor: Executor | None,
) -> Result:
    """Do all rounds and return what they come to; with a target, also write it there, unless it is there already.

    What is finished is kept beside the target until then. `course_of` looks at what is there: nobody else writes it.
    """
    shown = progress or Silent()
    with stopping() as stop, ExitStack() as opened:
        try:
            store = None if target is None else opened.enter_context(Store(target))
        except UnwritableError:
            # Where all is done, nothing need be written.
            if target is None or not target.exists() or (held := course_of().complete) is None:
                raise
            return held
        course = course_of()
        if store is not None and (held := course.complete) is not None:
            _tidy(course, store)
            result = held
        else:
            mine = opened.enter_context(hands(executor, workers, shown, stop))
            course.prepare(mine.here)
            if store is not None:
                course.open(store)
            with _beside(course.beside, stop) as begin:
                mine = mine._replace(store=store, aside=begin)
                simulated = [work.work(mine) for work in course.rounds(shown)]
            makers = [*(store.makers if store is not None else ()), *([course.made_by] if any(simulated) else ())]
            result = course.finish(makers, store, stop)
        if target is not None and (said := course.settle(Shards(target), result)):
            shown.say(said)
        return result


def mark_complete(store: Store, stop: Stop, held: Container[int]) -> None:
    """Say of an output that was written that it is, and remove the parts that have no other replications than these."""
    with stop.held():
        stop.kept = f"{store.output} is complete."
        store.forget(held)


def _tidy(course: Course[Any], store: Store) -> None:
    """Remove what a kill left beside an output that is complete; parts of something else are none of its business."""
    with suppress(InputError):
        course.open(store)


@contextmanager
def _beside(do: Callable[[], None], stop: Stop) -> Iterator[Callable[[], None]]:
    """Give a function that begins `do` in a thread, once; on leaving it is begun at the latest, and waited for.

    Importing takes longer than many a run: it is to begin when there is a first result to be seen, or no task left to
    give out.
    """
    begun: list[Future[None]] = []
    with threads(1, stop) as pool:

        def begin() -> None:
            if not begun:
                begun.append(pool.submit(do))

        try:
            yield begin
            begin()
            begun[0].result()
        finally:
            stop.wait_for(begun)


def do_shard(
    course: Course[Any],
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
    with stopping() as stop, ExitStack() as opened:
        if course.complete is not None:
            return f"{target} is complete: there is nothing to do"
        mine = opened.enter_context(hands(executor, workers, progress or Silent(), stop))
        course.prepare(mine.here, shard.of)
        asked = course.asked(again)
        course.kept = parts_beside(target, asked.identity)
        work = next(course.rounds(mine.progress), None)
        if work is None:
            return f"all rounds are there: batchcube merge {target}"
        return shards.do(shard, course.round, asked, course.made_by, work, mine)


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
            course.beside()
            result = course.finish(store.makers, store, stop)
        else:
            _tidy(course, store)
        shards.clear()
        return result
