"""Coefficients by name: files read once, mistakes told in one line, the engine's service law built from them."""

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from batchcube.calibration import coefficients as files
from batchcube.calibration import drawing
from batchcube.calibration.coefficients import (
    BatchCoefficients,
    BatchLaws,
    Coefficients,
    StepCoefficients,
    locate,
)
from batchcube.calibration.laws import law_of as engine_law
from batchcube.calibration.laws import stated_seconds, unstated_terms
from batchcube.calibration.reach import Reach, beyond
from batchcube.documents import parse_json
from batchcube.engine.continuous import Law
from batchcube.engine.continuous.ticks import TICKS_PER_S
from batchcube.engine.policies.service import Service, formula, measured
from batchcube.errors import InputError, found_in
from batchcube.results.text import in_percent

from .messages import mistakes, show_path
from .rules import lost_by_rounding
from .settings import CoefficientsLaw


def load(name: str) -> Coefficients:
    """Read shipped coefficients by name, or a file by its path; raises InputError for what is none."""
    file = locate(name)
    return _parsed(str(file), files.read(file))


# By content: a file may be fitted anew while this runs.
@lru_cache(maxsize=32)
def _parsed(path: str, data: bytes) -> Coefficients:
    try:
        return files.parse(data, path)
    except ValidationError as error:
        raise mistakes(Coefficients, parse_json(data), error)[0].error(path) from None


def laws_of(settings: CoefficientsLaw) -> BatchLaws:
    """Return the batch laws that settings ask for; raises InputError naming the prompt lengths there are."""
    return load(settings.coefficients).at_prompt(settings.prompt_tokens)


def law_of(settings: CoefficientsLaw) -> BatchCoefficients:
    """Return the batch law that settings ask for, the fitted one behind a table; InputError for one not there."""
    laws = laws_of(settings)
    h = laws.chosen if settings.h in ("chosen", "table") else settings.h
    if h not in laws.laws:
        raise InputError(
            f"coefficients {settings.coefficients} have {', '.join(laws.laws)}", path="server.service.h", value=h
        )
    return laws.laws[h]


def build(settings: CoefficientsLaw, largest_batch: int, rng: np.random.Generator | None = None) -> Service:
    """Build the service law of coefficients; with `rng` one drawn from what their errors leave open.

    Raises InputError for a law that the coefficients do not have, or whose errors are not known.
    """
    law = law_of(settings)
    if rng is not None:
        with found_in(path=f"server.service.draw: coefficients {settings.coefficients}"):
            law = drawing.drawn(law, rng)
    built = formula(law.a0_s, law.a1_s_per_token, law.h, law.gamma, largest_batch=largest_batch)
    if settings.h != "table":
        return built
    table = laws_of(settings).table
    if table is None:
        raise InputError(
            f"coefficients {settings.coefficients} have no complete grid", path="server.service.h", value='"table"'
        )
    return measured(np.array(table.batch_sizes), np.array(table.output_tokens), np.array(table.seconds), built)


def step_law_of(settings: CoefficientsLaw) -> StepCoefficients:
    """Return the law of single steps; raises InputError for coefficients that have none."""
    law = load(settings.coefficients).step_law
    if law is None:
        raise InputError(
            "hold no law of single steps, mode continuous needs it", path=f"coefficients {settings.coefficients}"
        )
    return law


def steps_of(settings: CoefficientsLaw) -> Law:
    """Return the engine's law of a step, 0 for those terms that nothing measured.

    Raises InputError without a law, and for coefficients that do not survive in whole picoseconds.
    """
    law = step_law_of(settings)
    file = f"coefficients {settings.coefficients}"
    for path, seconds in stated_seconds(law):
        text = lost_by_rounding(seconds, TICKS_PER_S)
        if text is not None:
            raise InputError(text, file=file, path=show_path(("step_law", *path)), value=f"{seconds:g}")
    with found_in(file=file, path="step_law"):
        return engine_law(law)


def unmeasured(settings: CoefficientsLaw, *, steps: bool) -> tuple[str, ...]:
    """Return what nothing measured of the law of single steps, or of batches: those made of decodes have no prefill."""
    if steps:
        return unstated_terms(step_law_of(settings))
    return ("a0_s",) if laws_of(settings).from_steps else ()


def drawn_steps(settings: CoefficientsLaw, rng: np.random.Generator) -> Law:
    """Draw a law of single steps from what the fit leaves open; InputError where that is not known, or too much."""
    with found_in(path=f"server.service.draw: coefficients {settings.coefficients}"):
        return engine_law(drawing.drawn_steps(step_law_of(settings), rng, load(settings.coefficients).log))


class Asked(NamedTuple):
    """What a sweep asks of coefficients: to be held against what was measured."""

    largest_batch: int
    mean_prompt_tokens: float
    """0 where the workload has no prompts."""
    longest_output_tokens: float
    """Of the sample that the bins are cut by."""
    token_budget: int = 0
    """Of a step, where there are steps."""


def notes_on(settings: CoefficientsLaw, asked: Asked) -> list[str]:
    """Return what readers of a cube must know about its coefficients."""
    known, laws, law = load(settings.coefficients), laws_of(settings), law_of(settings)
    name = settings.coefficients
    parts = [f"service times of {name} ({known.label}): {known.title}"]
    if laws.from_steps:
        parts.append("decode steps only, no prefill in them")
    elif laws.prompt_tokens is None:
        parts.append("prompt lengths not known")
    else:
        parts.append(f"prompts of {laws.prompt_tokens:g} tokens")
    quality = law.quality if laws.table is None or settings.h != "table" else laws.table
    what = "the measured table" if settings.h == "table" else f"law {law.h}"
    if quality.leave_one_size_out_rms is not None:
        parts.append(f"{what} predicts left-out batch sizes within {in_percent(quality.leave_one_size_out_rms)} (rms)")
    return ["; ".join(parts), *_beyond(name, laws, asked), *_doubts(settings, known)]


def notes_on_steps(settings: CoefficientsLaw, asked: Asked) -> list[str]:
    """Return what readers of a cube of mode continuous must know about its coefficients."""
    known, law = load(settings.coefficients), step_law_of(settings)
    name = settings.coefficients
    parts = [f"step times of {name} ({known.label}): {known.title}"]
    if law.quality.leave_one_out_rms is not None:
        parts.append(f"the law predicts left-out measurements within {in_percent(law.quality.leave_one_out_rms)} (rms)")
    said = ["; ".join(parts)]
    context = asked.mean_prompt_tokens + asked.longest_output_tokens
    said += beyond(known, Reach(asked.largest_batch, context, asked.token_budget, None))
    if known.log is not None and known.log.client_s:
        late = 1e3 * known.log.client_s
        said.append(f"times are those of the server: the client of the log had its tokens {late:.3g} ms later")
    return said + _doubts(settings, known)


def _larger(name: str, measured: float, asked: int) -> str:
    return (
        f"coefficients {name} were measured up to batches of {measured:.0f}, the sweep has some of up "
        f"to {asked}: their times are extrapolated"
    )


def _doubts(settings: CoefficientsLaw, known: Coefficients) -> list[str]:
    """Say where coefficients are implausible, and what intervals are where they are drawn."""
    name = settings.coefficients
    said = []
    if known.plausibility is not None:
        said += [f"coefficients {name} are implausible: {flag}" for flag in known.plausibility.flags]
    if settings.draw:
        said.append(
            f"coefficients {name} are drawn anew for every replication from what their errors leave open: intervals "
            "are prediction intervals of one replication, and hold what the true coefficients would give"
        )
    return said


def _beyond(name: str, laws: BatchLaws, asked: Asked) -> Iterator[str]:
    """Say where a sweep leaves what was measured."""
    if laws.batch_sizes is not None and asked.largest_batch > laws.batch_sizes[1]:
        yield _larger(name, laws.batch_sizes[1], asked.largest_batch)
    if laws.output_tokens is not None and asked.longest_output_tokens > 1.01 * laws.output_tokens[1]:
        yield (
            f"coefficients {name} were measured up to outputs of {laws.output_tokens[1]:.0f} tokens, the workload has "
            f"some of {asked.longest_output_tokens:.0f}: their times are extrapolated"
        )
    prompt = laws.prompt_tokens
    if prompt and not prompt / 1.5 <= asked.mean_prompt_tokens <= 1.5 * prompt:
        yield (
            f"coefficients {name} were measured with prompts of {prompt:g} tokens, the workload's have "
            f"{asked.mean_prompt_tokens:.0f} on average: its prefills take another time"
        )


def record(every: Iterable[CoefficientsLaw], *, steps: bool = False) -> str:
    """Return, as JSON, what a cube keeps of the coefficients it was made with, by name; `steps`: of single steps."""
    kept: dict[str, Any] = {}
    for settings in every:
        known = load(settings.coefficients)
        entry = kept.setdefault(
            settings.coefficients,
            {
                "label": known.label,
                "title": known.title,
                "source": known.source,
                "sha256": files.sha256_of(locate(settings.coefficients)),
                "raw_sha256": "" if known.raw is None else known.raw.sha256,
                "laws": [],
            },
        )
        law = _step_record(settings) if steps else _batch_record(settings)
        if law not in entry["laws"]:
            entry["laws"].append(law)
    return json.dumps(kept)


def _batch_record(settings: CoefficientsLaw) -> dict[str, Any]:
    laws = laws_of(settings)
    return {
        "asked": settings.h,
        "prompt_tokens": laws.prompt_tokens,
        "draw": settings.draw,
        "law": law_of(settings).model_dump(),
        "table": laws.table.model_dump() if settings.h == "table" and laws.table is not None else None,
    }


def _step_record(settings: CoefficientsLaw) -> dict[str, Any]:
    return {"asked": "steps", "draw": settings.draw, "law": step_law_of(settings).model_dump()}


def require_unchanged(recorded: str) -> None:
    """Refuse coefficients that have changed since a cube was made; raises InputError naming them."""
    for name, entry in json.loads(recorded).items():
        if files.sha256_of(locate(name)) != entry["sha256"]:
            raise InputError(
                "have changed since the cube was made, which keeps what they were", file=f"coefficients {name}"
            )
