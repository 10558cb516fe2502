"""Decide a question: races simulated and kept, the answer, its cube and its JSON written."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from batchcube.documents import parse_json, read_file
from batchcube.engine.statistics import QUANTILES
from batchcube.errors import InputError, printable
from batchcube.results.cube import read_cube, refuse_changed
from batchcube.results.disk import output_file
from batchcube.results.overload import CANNOT_TELL, KNOWN_DISPERSION, OVERLOADED, PLAN_QUEUE, QUEUES
from batchcube.results.provenance import MadeBy, batchcube_version
from batchcube.results.selection import AT_LIMIT, BEATEN, FAILED, IN_RACE
from batchcube.results.variables import REGISTRY

from ..files import require_new, write_text
from ..progress import Progress
from ..run.assemble import with_provenance
from ..run.executors import Executor
from ..run.outputs import ADVICE
from ..run.preparing import Prepared, only_totals, prepare
from ..run.rounds import NOBODY, do_all, do_shard, mark_complete, merge_shards
from ..run.shards import Asked, Shard, Shards
from ..run.simulate import require_backend
from ..run.store import About, AnyPart, Store
from ..spec.document import Sweep, files_of
from ..spec.settings import Point, Report
from ..stopping import Stop
from .answer import Answer, answer_of, restored
from .question import Question, question_of
from .race import MOST, Decider, Decision, Race
from .simulating import Said, Simulating
from .values import KEPT

STATES = (IN_RACE, FAILED, BEATEN, AT_LIMIT, "best", "not looked at")
"""The values of `plan_state`, from 0."""
IDENTITY = "plan_identity"
LARGEST_JSON = 100_000_000


def decide(
    question: Question,
    output: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    backend: str = "numba",
    executor: Executor | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Answer:
    """Decide a question and return the answer, with its cube; with `output` the cube is written there, JSON beside it.

    With `output` a plan that was stopped, or that its budget ended, goes on where it was, and one that is there already
    is returned as it is, unless `overwrite` begins afresh. `say` is told how far it is, a line each time. The answer
    depends neither on the number of `workers`, threads, all cores when None, nor on the `backend`, "numba" or
    "reference", nor on the `executor`, which is that of `run_sweep`.
    Raises InputError for what only the data can show.
    """
    made_by = require_backend(backend, question.sweep.grid.points[0].simulation)
    target = None if output is None else _cube_file(Path(output))
    return do_all(
        target,
        lambda: PlanCourse(question, target, made_by, say, overwrite=overwrite),
        workers=workers,
        progress=Said(say),
        executor=executor,
    )


def shard_plan(
    question: Question,
    output: str | os.PathLike[str],
    shard: Shard,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    backend: str = "numba",
    executor: Executor | None = None,
    again: str = "",
) -> str:
    """Simulate what a shard is dealt of the next look of `decide`, for `merge_plan`; see `do_shard`.

    Raises InputError for a question with a budget.
    """
    if not (math.isinf(question.budget) and math.isinf(question.budget_s)):
        raise InputError("does not go with `shard`: no shard knows what the others spend", path="`budget`")
    made_by = require_backend(backend, question.sweep.grid.points[0].simulation)
    target = _cube_file(Path(output))
    course = PlanCourse(question, target, made_by)
    return do_shard(course, target, shard, workers=workers, progress=progress, executor=executor, again=again)


def merge_plan(output: str | os.PathLike[str], *, progress: Progress | None = None) -> Answer:
    """Write the answer that `decide` would have given, of the shards of all looks, and return it; see `merge_shards`.

    What the best configuration serves at most is simulated, in a moment.
    """

    def course_of(about: About, sweep: Sweep, target: Path) -> PlanCourse:
        return PlanCourse(question_of(sweep, about["made_from"][-1]), target, NOBODY, say)

    def say(text: str) -> None:
        if progress is not None:
            progress.say(printable(text))

    return merge_shards(output, course_of, progress=progress)


class PlanCourse:
    """The way of a plan to its answer: each look is a round, as it depends on all that earlier ones showed.

    However a round is done, by the plan itself or in shards, the answer is the same.
    """

    def __init__(
        self,
        question: Question,
        target: Path | None,
        made_by: MadeBy,
        say: Callable[[str], None] = lambda _: None,
        *,
        overwrite: bool = False,
    ) -> None:
        """Read what the question names and find out what is there; raises InputError where that is something else."""
        self.target, self.made_by, self._say, self._overwrite = target, made_by, say, overwrite
        if target is not None:
            _require_no_input(_json_file(target), question)
        self._asked = question
        self._prepared = prepare(only_totals(question.sweep, _windows))
        self.question = replace(question, sweep=self._prepared.sweep)
        self.complete: Answer | None = None
        """The answer that is there already."""
        if target is not None and target.exists() and not overwrite:
            before = _same_plan(target, self.identity)
            self.complete = None if before.ended_early else before
        self.kept: Sequence[AnyPart] = ()

    @property
    def identity(self) -> dict[str, str]:
        """What makes the simulations: with all of it the same, they are the same, on any budget."""
        asked = {name: value for name, value in self.question.asked().items() if not name.startswith("budget_")}
        return {
            "plan": json.dumps(asked),
            "sweep": self.question.sweep.identity(),
            "version": batchcube_version(),
            "input_sha256": self._prepared.input_sha256,
        }

    @property
    def round(self) -> int:
        """Number of the look that is next, from 1."""
        return self._simulating.round

    def asked(self, again: str) -> Asked:
        """Return what shards are parts of."""
        sweep = self._asked.sweep
        return Asked(self.identity, "plan", {}, (sweep.document, sweep.defaults(), self._asked.table()), again)

    def prepare(self, workers: int, shards: int = 1) -> None:
        """Begin the decision."""
        self._simulating = Simulating(self.question, self._prepared, self.made_by.backend, self._say)

    def open(self, store: Store) -> None:
        """Go on from what a store keeps; raises InputError for parts of anything else."""
        every = range(MOST)
        held = () if self.complete is None else every
        self.kept = store.open(self.identity, self.made_by, every, held=held, overwrite=self._overwrite)

    def rounds(self, progress: Progress) -> Iterator[Simulating]:
        """Yield the work of one look after the other; whoever asks for the next one has done it."""
        # A plan that was stopped may have been about to write its cube.
        if self.target is not None and not self.target.exists() and not self.kept:
            require_new(_json_file(self.target), overwrite=self._overwrite)
        self._simulating.add(self.kept)
        self._simulating.go_on()
        while self._simulating.decision is None:
            yield self._simulating
            self._simulating.go_on()

    def beside(self) -> None:
        """Do nothing: what makes the answer is imported."""

    def finish(self, makers: Sequence[MadeBy], store: Store | None, stop: Stop) -> Answer:
        """Return what the decision comes to, with its cube; where there is a store, write both."""
        answer = self._answer(makers or [self.made_by])
        if store is not None:
            self._put(answer, store, stop)
        return answer

    def settle(self, shards: Shards, answer: Answer) -> str:
        """Remove the shards of this plan, unless a budget ended it; see `Shards.settle`."""
        return "" if answer.ended_early else shards.settle(self.asked(""))

    def _answer(self, makers: Sequence[MadeBy]) -> Answer:
        simulating, prepared = self._simulating, self._prepared
        assert simulating.decision is not None
        answer = answer_of(
            self.question,
            simulating.decision,
            simulating.values,
            simulating.decider.rounds,
            prepared.notes,
            [point.mean_prompt for point in prepared.points],
            simulating.most_served,
        )
        cube = _cube(self.question, prepared, simulating.decider, simulating.decision, answer, makers, self.identity)
        return replace(answer, cube=cube)

    def _put(self, answer: Answer, store: Store, stop: Stop) -> None:
        """Write the answer and its cube, and forget the parts that they are made of."""
        assert answer.cube is not None
        write_text(_json_file(store.output), answer.text())
        store.put(answer.cube)
        # What a budget ended may go on.
        mark_complete(store, stop, () if answer.ended_early else range(MOST))


def _cube_file(output: Path) -> Path:
    if output.suffix != ".nc":
        raise InputError("must end in .nc: its JSON is written beside it", file=output)
    return output_file(output)


def _json_file(target: Path) -> Path:
    return target.with_suffix(".json")


def _require_no_input(beside: Path, question: Question) -> None:
    """Refuse to write the answer over a file that the question names."""
    named = {*files_of(question.sweep.document), question.spec or ""}
    if beside.resolve() in {Path(name).resolve() for name in named}:
        raise InputError("is what the plan reads, and where its answer goes: choose another output", file=beside)


def _windows(point: Point) -> int:
    """Return in how many windows of time to count: in several where nothing else shows how arrivals scatter."""
    is_known = getattr(point.workload.arrivals, "process", None) in KNOWN_DISPERSION
    return 1 if is_known else int(Report.model_fields["windows"].default)


def _sha256(identity: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()


def _same_plan(target: Path, identity: dict[str, str]) -> Answer:
    """Return the answer that is there already; raises InputError unless the same question made it."""
    try:
        cube = read_cube(target, refuse_changed(target))
    except InputError as error:
        raise error.advised(ADVICE) from None
    if cube.attrs.get(IDENTITY) != _sha256(identity):
        raise InputError(f"holds no answer to this question; {ADVICE}", file=target)
    beside = _json_file(target)
    try:
        return restored(parse_json(read_file(beside, LARGEST_JSON)), cube)
    except (AttributeError, LookupError, TypeError):
        raise InputError(f"is not the answer that was written beside {target.name}; {ADVICE}", file=beside) from None


def _on_replicas(sweep: Sweep, replicas: NDArray[np.int64]) -> Sweep:
    """Return a sweep whose specification says the replicas (configuration,) simulated, or which variable does."""
    numbers = set(replicas[replicas > 0].tolist())
    server = {**sweep.document["server"], "servers": min(numbers) if len(numbers) == 1 else "plan_replicas"}
    return sweep.worded({**sweep.document, "server": server})


def _cube(
    question: Question,
    prepared: Prepared,
    decider: Decider,
    decision: Decision,
    answer: Answer,
    made_by: Sequence[MadeBy],
    identity: dict[str, str],
) -> xr.Dataset:
    """Build the cube of the race that decided: what was simulated of each configuration, NaN where it had left."""
    race = decision.race
    replicas = decider.replicas_on(race.gpus)
    found, shape = race.found, question.sweep.grid.shape
    points, most = len(question.sweep.grid.points), int(race.found.replications.max())
    states = np.full(points, STATES.index("not looked at"), np.int64)
    seen = np.zeros(points, np.int64)
    # Configurations that are not in this race failed in one on more GPUs.
    for other in decision.races.values():
        states[other.numbers[other.found.states == FAILED]] = STATES.index(FAILED)
    states[race.numbers] = [STATES.index(state) for state in found.states]
    seen[race.numbers] = found.replications
    if race.best is not None:
        states[race.best] = STATES.index("best")
    arrays: dict[str, NDArray[Any]] = {}
    for name, place in KEPT.items():
        if name in REGISTRY and np.dtype(REGISTRY[name].dtype).kind == "f":
            arrays[name] = np.full((points, most, place.stop - place.start), np.nan)
    ratio = np.full((points, most), np.nan)
    queues = np.full(points, QUEUES.index(CANNOT_TELL), np.int64)
    for row, (number, count) in enumerate(zip(race.numbers.tolist(), found.replications.tolist(), strict=True)):
        report = decider.values.report(race.same[[row]], race.replicas[[row]], count)
        for name, array in arrays.items():
            array[number, :count] = report[name].reshape(count, -1)
        ratio[number, :count] = decider.ratios(race.same[[row]], race.replicas[[row]], count).max(axis=0)[0]
        queues[number] = QUEUES.index(_queue(decider, race, row))
    for name, array in arrays.items():
        extra = array.shape[2:] if REGISTRY[name].extra else ()
        arrays[name] = array.reshape((*shape, most, *extra))
    arrays |= {
        "plan_largest_ratio": ratio.reshape((*shape, most)),
        "plan_state": states.reshape(shape),
        PLAN_QUEUE: queues.reshape(shape),
        "plan_replications": seen.reshape(shape),
        "plan_replicas": replicas.reshape(shape),
        "unmeasured_costs": prepared.unmeasured_costs.reshape(shape),
    }
    sweep = _on_replicas(question.sweep, replicas)
    cube = with_provenance(sweep, prepared, arrays, most, made_by, answer.notes, quantiles=QUANTILES)
    for name, meanings in (("plan_state", STATES), (PLAN_QUEUE, QUEUES)):
        cube[name].attrs |= {
            "flag_values": np.arange(len(meanings), dtype=np.int64),
            "flag_meanings": " ".join(meaning.replace(" ", "_") for meaning in meanings),
        }
    # What became of each configuration is in the variables.
    short = {**answer.as_dict(), "races": [{**one, "configurations": []} for one in answer.races]}
    return cube.assign_attrs({"plan": json.dumps(short), IDENTITY: _sha256(identity)})


def _queue(decider: Decider, race: Race, row: int) -> str:
    """Say what the queue of a system does: as the race found, of others as it is judged of any point of a sweep."""
    if race.found.best is not None and race.same[row] == race.same[race.found.best]:
        return race.queue
    if race.grows[row]:
        return OVERLOADED
    return decider.judged(int(race.same[row]), int(race.replicas[row]), int(race.found.replications[row]))
