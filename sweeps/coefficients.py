"""Coefficients by name: files read once, mistakes told in one line, the engine's service law built from them."""

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from batchcube.calibration import coefficients as files
from batchcube.calibration.coefficients import BatchCoefficients, BatchLaws, Coefficients, locate
from batchcube.engine.policies.service import Service, formula, measured

from .errors import FileError
from .mistakes import mistakes

if TYPE_CHECKING:
    from .settings import CoefficientsLaw


def load(name: str) -> Coefficients:
    """Read shipped coefficients by name, or a file by its path; raises UserError for what is none."""
    try:
        file = locate(name)
    except ValueError as error:
        raise FileError(str(error)) from None
    try:
        data = file.read_bytes()
    except OSError as error:
        raise FileError(f"{file}: cannot be read: {error.strerror or error}") from None
    return _parsed(str(file), data)


# By content: a file may be fitted anew while this runs.
@lru_cache(maxsize=32)
def _parsed(path: str, data: bytes) -> Coefficients:
    try:
        return files.parse(data, path)
    except ValidationError as error:
        first = mistakes(Coefficients, json.loads(data), error)[0]
        raise FileError(f"{path}: {first.line()}") from None
    except ValueError as error:
        raise FileError(str(error)) from None


def laws_of(settings: "CoefficientsLaw") -> BatchLaws:
    """Return the batch laws that settings ask for; raises ValueError naming the prompt lengths there are."""
    return load(settings.coefficients).at_prompt(settings.prompt_tokens)


def law_of(settings: "CoefficientsLaw") -> BatchCoefficients:
    """Return the batch law that settings ask for, the fitted one behind a table; ValueError for one not there."""
    laws = laws_of(settings)
    h = laws.chosen if settings.h in ("chosen", "table") else settings.h
    if h not in laws.laws:
        raise ValueError(f"server.service.h = {h}: coefficients {settings.coefficients} have {', '.join(laws.laws)}")
    return laws.laws[h]


def build(settings: "CoefficientsLaw", largest_batch: int, rng: np.random.Generator | None = None) -> Service:
    """Build the service law of coefficients; with `rng` one drawn from what their errors leave open.

    Raises ValueError for a law that the coefficients do not have, or whose errors are not known.
    """
    law = law_of(settings)
    if rng is not None:
        try:
            law = files.drawn(law, rng)
        except ValueError as error:
            raise ValueError(f"server.service.draw: coefficients {settings.coefficients}: {error}") from None
    built = formula(law.a0_s, law.a1_s_per_token, law.h, law.gamma, largest_batch=largest_batch)
    if settings.h != "table":
        return built
    table = laws_of(settings).table
    if table is None:
        raise ValueError(f'server.service.h = "table": coefficients {settings.coefficients} have no complete grid')
    return measured(np.array(table.batch_sizes), np.array(table.output_tokens), np.array(table.seconds), built)


class Asked(NamedTuple):
    """What a sweep asks of coefficients: to be held against what was measured."""

    largest_batch: int
    mean_prompt_tokens: float
    """0 where the workload has no prompts."""
    longest_output_tokens: float
    """Of the sample that the bins are cut by."""


def notes_on(settings: "CoefficientsLaw", asked: Asked) -> list[str]:
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
        parts.append(f"{what} predicts left-out batch sizes within {100 * quality.leave_one_size_out_rms:.2g} % (rms)")
    said = ["; ".join(parts), *_beyond(name, laws, asked)]
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
        yield (
            f"coefficients {name} were measured up to batches of {laws.batch_sizes[1]:.0f}, the sweep has some of up "
            f"to {asked.largest_batch}: their times are extrapolated"
        )
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


def record(every: Iterable["CoefficientsLaw"]) -> str:
    """Return, as JSON, what a cube keeps of the coefficients it was made with, by name."""
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
        laws = laws_of(settings)
        law = {
            "asked": settings.h,
            "prompt_tokens": laws.prompt_tokens,
            "draw": settings.draw,
            "law": law_of(settings).model_dump(),
            "table": laws.table.model_dump() if settings.h == "table" and laws.table is not None else None,
        }
        if law not in entry["laws"]:
            entry["laws"].append(law)
    return json.dumps(kept)


def require_unchanged(recorded: str) -> None:
    """Refuse coefficients that have changed since a cube was made; raises UserError naming them."""
    for name, entry in json.loads(recorded).items():
        if files.sha256_of(locate(name)) != entry["sha256"]:
            raise FileError(f"coefficients {name}: have changed since the cube was made, which keeps what they were")
