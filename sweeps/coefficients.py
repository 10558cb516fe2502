"""Coefficients by name: files read once, mistakes told in one line, the engine's service law built from them."""

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

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


def notes_on(settings: "CoefficientsLaw", largest_batch: int) -> list[str]:
    """Return what readers of a cube must know about its coefficients."""
    known, laws, law = load(settings.coefficients), laws_of(settings), law_of(settings)
    name = settings.coefficients
    parts = [f"service times of {name} ({known.label}): {known.title}"]
    parts.append("no prefill in them" if laws.prompt_tokens is None else f"prompts of {laws.prompt_tokens:g} tokens")
    if settings.h == "table":
        assert laws.table is not None
        error, what = laws.table.interpolation_rms, "the measured table, left-out cells"
    else:
        error, what = law.quality.leave_one_out_rms, f"law {law.h}, left-out measurements"
    if error is not None:
        parts.append(f"{what} within {100 * error:.2g} % (rms)")
    said = ["; ".join(parts)]
    measured_to = None if laws.table is None else laws.table.batch_sizes[-1]
    if measured_to is not None and largest_batch > measured_to:
        said.append(f"coefficients {name} were measured up to batches of {measured_to}; larger ones are extrapolated")
    if known.plausibility is not None:
        said += [f"coefficients {name} are implausible: {flag}" for flag in known.plausibility.flags]
    if settings.draw:
        said.append(
            f"coefficients {name} are drawn anew for every replication from what their errors leave open: intervals "
            "are prediction intervals of one replication, and hold what the true coefficients would give"
        )
    return said


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
        law = {
            "h": settings.h,
            "prompt_tokens": laws_of(settings).prompt_tokens,
            "draw": settings.draw,
            **law_of(settings).model_dump(include={"a0_s", "a1_s_per_token", "gamma", "standard_errors"}),
        }
        if law not in entry["laws"]:
            entry["laws"].append(law)
    return json.dumps(kept)


__all__ = ["build", "law_of", "laws_of", "load", "locate", "notes_on", "record"]
