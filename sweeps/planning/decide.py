"""Decide a question: races simulated and kept, the answer, its cube and its JSON written."""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from batchcube.documents import parse_json, read_file
from batchcube.engine.statistics import QUANTILES
from batchcube.errors import InputError
from batchcube.results.cube import read_cube, refuse_changed
from batchcube.results.overload import CANNOT_TELL, OVERLOADED, PLAN_QUEUE, QUEUES, RENEWING
from batchcube.results.provenance import MadeBy, batchcube_version
from batchcube.results.selection import AT_LIMIT, BEATEN, FAILED, IN_RACE
from batchcube.results.variables import REGISTRY

from ..files import require_new, require_output, write_text
from ..run.assemble import with_provenance
from ..run.executors import Executor, crew_of_threads, engaged
from ..run.outputs import ADVICE
from ..run.preparing import Prepared, only_totals, prepare
from ..run.simulate import require_backend
from ..run.store import Store
from ..spec.document import Sweep
from ..spec.settings import Point, Report
from ..stopping import stopping
from .answer import Answer, answer_of, gpus_each, restored
from .question import Question
from .race import MOST, Decider, Decision, Race
from .simulating import Simulating
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
    with stopping() as stop, ExitStack() as opened:
        target = None if output is None else _cube_file(Path(output))
        store = None if target is None else opened.enter_context(Store(target))
        prepared = prepare(only_totals(question.sweep, _windows))
        question = replace(question, sweep=prepared.sweep)
        identity = _identity(question, prepared)
        if target is not None and target.exists() and not overwrite:
            before = _same_plan(target, identity)
            if not before.ended_early:
                return before
        crew = opened.enter_context(engaged(executor, workers))
        simulating = Simulating(
            question, prepared, [gpus_each(point) for point in question.sweep.grid.points], backend, say
        )
        if store is not None:
            simulating.add(store.open(identity, made_by, range(MOST), overwrite=overwrite))
            # A plan that was stopped may have been about to write its cube.
            if target is not None and not target.exists() and not store.makers:
                require_new(_json_file(target), overwrite=overwrite)
        simulated = simulating.values.simulations
        crew = crew or opened.enter_context(crew_of_threads(workers or os.cpu_count() or 1, stop))
        decision = simulating.work(store, stop, crew)
        makers = list(store.makers if store is not None else ())
        if simulating.values.simulations > simulated or not makers:
            makers.append(made_by)
        answer = answer_of(
            question,
            decision,
            simulating.values,
            simulating.decider.rounds,
            prepared.notes,
            prepared.points[0].mean_prompt,
            simulating.most_served,
        )
        cube = _cube(question, prepared, simulating.decider, decision, answer, makers, identity)
        answer = replace(answer, cube=cube)
        if store is not None and target is not None:
            write_text(_json_file(target), answer.text())
            store.put(cube)
            with stop.held():
                stop.kept = f"{target} is complete."
                # What a budget ended may go on.
                if not decision.ended_early:
                    store.forget(range(MOST))
        return answer


def _cube_file(output: Path) -> Path:
    if output.suffix != ".nc":
        raise InputError("must end in .nc: its JSON is written beside it", file=output)
    return require_output(output)


def _json_file(target: Path) -> Path:
    return target.with_suffix(".json")


def _windows(point: Point) -> int:
    """Return in how many windows of time to count: in several where nothing else shows how arrivals scatter."""
    is_known = getattr(point.workload.arrivals, "process", None) in RENEWING
    return 1 if is_known else int(Report.model_fields["windows"].default)


def _identity(question: Question, prepared: Prepared) -> dict[str, str]:
    """Return what makes the simulations of a plan: with all of it the same, they are the same, on any budget."""
    asked = {name: value for name, value in question.asked().items() if not name.startswith("budget_")}
    return {
        "plan": json.dumps(asked),
        "sweep": question.sweep.identity(),
        "version": batchcube_version(),
        "input_sha256": prepared.input_sha256,
    }


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
    return restored(parse_json(read_file(beside, LARGEST_JSON)), cube)


def _on_replicas(sweep: Sweep, replicas: NDArray[np.int64]) -> Sweep:
    """Return a sweep whose specification says the replicas (setting,) that were simulated, or which variable does."""
    numbers = set(replicas[replicas > 0].tolist())
    server = {**sweep.document["server"], "servers": min(numbers) if len(numbers) == 1 else "plan_replicas"}
    return sweep.worded({**sweep.document, "server": server})


def _cube(
    question: Question,
    prepared: Prepared,
    decider: Decider,
    decision: Decision,
    answer: Answer,
    made_by: list[MadeBy],
    identity: dict[str, str],
) -> xr.Dataset:
    """Build the cube of the race that decided: what was simulated of each setting, NaN where it had left the race."""
    race = decision.race
    replicas = decider.replicas_on(race.gpus)
    found, shape = race.found, question.sweep.grid.shape
    points, most = len(question.sweep.grid.points), int(race.found.replications.max())
    states = np.full(points, STATES.index("not looked at"), np.int64)
    seen = np.zeros(points, np.int64)
    # Settings that are not in this race failed in one on more GPUs.
    for other in decision.races.values():
        states[other.settings[other.found.states == FAILED]] = STATES.index(FAILED)
    states[race.settings] = [STATES.index(state) for state in found.states]
    seen[race.settings] = found.replications
    if race.best is not None:
        states[race.best] = STATES.index("best")
    arrays: dict[str, NDArray[Any]] = {}
    for name, place in KEPT.items():
        if name in REGISTRY and np.dtype(REGISTRY[name].dtype).kind == "f":
            arrays[name] = np.full((points, most, place.stop - place.start), np.nan)
    ratio = np.full((points, most), np.nan)
    queues = np.full(points, QUEUES.index(CANNOT_TELL), np.int64)
    for row, (setting, count) in enumerate(zip(race.settings.tolist(), found.replications.tolist(), strict=True)):
        report = decider.values.report(race.same[[row]], race.replicas[[row]], count)
        for name, array in arrays.items():
            array[setting, :count] = report[name].reshape(count, -1)
        ratio[setting, :count] = decider.ratios(race.same[[row]], race.replicas[[row]], count).max(axis=0)[0]
        queues[setting] = QUEUES.index(_queue(decider, race, row))
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
    cube = with_provenance(
        _on_replicas(question.sweep, replicas), prepared, arrays, most, made_by, answer.notes, quantiles=QUANTILES
    )
    for name, meanings in (("plan_state", STATES), (PLAN_QUEUE, QUEUES)):
        cube[name].attrs |= {
            "flag_values": np.arange(len(meanings), dtype=np.int64),
            "flag_meanings": " ".join(meaning.replace(" ", "_") for meaning in meanings),
        }
    # What became of each setting is in the variables.
    short = {**answer.as_dict(), "races": [{**one, "settings": []} for one in answer.races]}
    return cube.assign_attrs({"plan": json.dumps(short), IDENTITY: _sha256(identity)})


def _queue(decider: Decider, race: Race, row: int) -> str:
    """Say what the queue of a system does: as the race found, of others as it is judged of any point of a sweep."""
    if race.found.best is not None and race.same[row] == race.same[race.found.best]:
        return race.queue
    if race.grows[row]:
        return OVERLOADED
    return decider.judged(int(race.same[row]), int(race.replicas[row]), int(race.found.replications[row]))
