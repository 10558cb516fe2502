"""Fits as a file of coefficients states them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchcube.engine.continuous.steps import STEP_TERMS, decode_ticks, kv_token_ticks, prefill_ticks
from batchcube.engine.continuous.ticks import TICKS_PER_S

from .bent import BentLaw
from .cells import BatchFit, Cells, as_table, table_error, terms_of
from .coefficients import (
    BatchCoefficients,
    BatchLaws,
    BatchTable,
    DecodeNodes,
    FitQuality,
    FittedLog,
    FoundWay,
    LogRanges,
    Plausibility,
    PrefillNodes,
    StepCoefficients,
    StepErrors,
    StepRanges,
    StepScatter,
    ToldStep,
)
from .drawing import shifted
from .fitting import LogFit
from .laws import BatchLaw, Quality, StepLaw, law_of
from .logs import Log
from .opening import means_of
from .plausibility import Finding
from .prediction import QUANTITIES

Floats = NDArray[np.float64]

# Of a standard error before the log was read: above, the log says little. Of a variance: above, ways are not told
# apart; without a prior all that was known before is that no step takes longer.
_LITTLE_TOLD, _OPEN, _OPEN_ALONE = 0.8, 0.5, 0.1


def quality_of(quality: Quality, cells: Cells | None) -> FitQuality:
    """Return a fit's quality as the file states it."""
    at = "" if cells is None else describe_cell(cells, quality.worst_at)
    return FitQuality(
        measurements=quality.measurements,
        r_squared=_known(quality.r_squared),
        rms_residual=_known(quality.rms_residual),
        worst_residual=_known(quality.worst_residual),
        worst_at=at,
        leave_one_out_rms=_known(quality.leave_one_out_rms),
        leave_one_size_out_rms=_known(quality.leave_one_size_out_rms),
    )


def describe_cell(cells: Cells, number: int) -> str:
    """Return a cell in words: its kind, unless it is a whole batch, and the numbers that are known of it."""
    fields = {"batch_size": "b =", "prompt_tokens": "prompt", "output_tokens": "output"}
    said = [
        f"{word} {getattr(cells, name)[number]:g}"
        for name, word in fields.items()
        if np.isfinite(getattr(cells, name)[number])
    ]
    kind = "" if cells.kind[number] == "batch" else f"{cells.kind[number]} "
    return kind + ", ".join(said)


def batch_coefficients(law: BatchLaw, cells: Cells | None) -> BatchCoefficients:
    """Return a fitted batch law as the file states it."""
    return BatchCoefficients(
        h=law.h,
        a0_s=law.a0_s,
        a1_s_per_token=law.a1_s_per_token,
        gamma=law.gamma,
        standard_errors=[_known(error) for error in law.standard_errors.tolist()],
        covariance=_matrix(law.covariance),
        degrees_of_freedom=max(law.degrees_of_freedom, 0),
        quality=quality_of(law.quality, cells),
    )


def batch_laws(fits: Sequence[BatchFit]) -> list[BatchLaws]:
    """Return fitted batch laws as the file states them."""
    stated = []
    for fit in fits:
        grid = as_table(fit.cells)
        table = None
        if grid is not None:
            sizes, lengths, seconds = grid
            table = BatchTable(
                batch_sizes=sizes.tolist(),
                output_tokens=lengths.tolist(),
                seconds=seconds.tolist(),
                leave_one_size_out_rms=_known(table_error(*grid)),
            )
        laws = {h: batch_coefficients(law, fit.cells) for h, law in fit.laws.items()}
        stated.append(
            BatchLaws(
                prompt_tokens=_known(fit.prompt_tokens),
                from_steps=False,
                batch_sizes=range_of(fit.cells.batch_size),
                output_tokens=range_of(fit.cells.output_tokens),
                chosen=fit.chosen,
                laws=laws,
                table=table,
            )
        )
    return stated


def range_of(values: Floats) -> list[float]:
    """Return the smallest and the largest of measured sizes or lengths."""
    return [float(np.nanmin(values)), float(np.nanmax(values))]


def ranges_of(decodes: Floats, kv_tokens: Floats, prefill_tokens: Floats) -> StepRanges:
    """Return the range of steps, (step,) each, as the file states it; null where no step has any."""
    decoding = decodes > 0
    context = kv_tokens[decoding] / decodes[decoding]
    ranges = [range_of(some[some > 0]) if (some > 0).any() else None for some in (decodes, context, prefill_tokens)]
    return StepRanges(decodes=ranges[0], context_tokens=ranges[1], prefill_tokens=ranges[2])


def step_coefficients(law: StepLaw, cells: Cells | None) -> StepCoefficients:
    """Return a fitted step law as the file states it."""
    values: dict[str, Any] = {name: _known(c) for name, c in zip(STEP_TERMS, law.coefficients.tolist(), strict=True)}
    if law.bent is not None:
        values |= tables_of(law.bent)
    return StepCoefficients(
        **values,
        errors=errors_of(law.covariance, law.of, law.degrees_of_freedom),
        ranges=None if cells is None else ranges_of(*terms_of(cells)[:, 1:4].T),
        quality=quality_of(law.quality, cells),
    )


def tables_of(law: BentLaw) -> dict[str, Any]:
    """Return the tables of a bent law as the file states them, under their names, in whole picoseconds."""
    times: list[list[float]] = [
        np.round(column, 12).tolist() for column in (law.decode_s, law.decode_s_per_kv_token, law.prefill_s)
    ]
    return {
        "decode": DecodeNodes(requests=law.requests.astype(int).tolist(), s=times[0], s_per_kv_token=times[1]),
        "prefill": PrefillNodes(tokens=law.tokens.astype(int).tolist(), s=times[2]),
    }


def errors_of(covariance: Floats, names: Sequence[str], degrees_of_freedom: int) -> StepErrors | None:
    """Return the errors of a step law as the file states them, without what did not vary; None where they are unknown.

    `names` are those of `UNCERTAIN` that the rows of the covariance (name, name) belong to.
    """
    if not np.isfinite(covariance).all():
        return None
    varied = np.flatnonzero(np.diag(covariance) > 0)
    rows: list[list[float]] = covariance[np.ix_(varied, varied)].tolist()
    of: list[Any] = [names[at] for at in varied.tolist()]
    return StepErrors(of=of, covariance=rows, degrees_of_freedom=max(degrees_of_freedom, 0)) if of else None


def plausibility_of(found: Sequence[Finding]) -> Plausibility:
    """Return findings as the file states them."""
    return Plausibility(
        flags=[f"{one.sign}: {one.text}" for one in found if one.level == "flag"],
        notes=[f"{one.sign}: {one.text}" for one in found if one.level == "note"],
    )


def stated(found: LogFit, log: Log, prior: str | None) -> tuple[StepCoefficients, FittedLog]:
    """Return a fit as a file of coefficients states it; ``prior`` is the name of what was known before."""
    names, covariance = found.errors
    errors = StepErrors(of=list(names), covariance=covariance.tolist(), degrees_of_freedom=found.requests)
    law = found.law.model_copy(update={"errors": errors})
    kept = log.first(found.requests)
    ways = [
        FoundWay(of=name, value=value, standard_error=error, known_within=width, least=least)
        for name, value, error, width, least in zip(
            names,
            found.values.tolist(),
            found.standard_errors.tolist(),
            found.opening.width.tolist(),
            found.least.tolist(),
            strict=True,
        )
    ]
    fitted = FittedLog(
        requests=len(log.queued_s),
        fitted_to=found.requests,
        rms=dict(zip(QUANTITIES, found.rms, strict=True)),
        unsure=[name for name, left in zip(names, found.left_open, strict=True) if left > _LITTLE_TOLD],
        together=[list(map(str, group)) for group in found.inseparable(_OPEN if prior else _OPEN_ALONE)],
        prior=prior,
        found=ways,
        steps=_told(law, log, kept, found.replicas),
        seen=_seen(log, kept),
        scatter=StepScatter(**found.scatter._asdict()),
    )
    return law, fitted


def _told(law: StepCoefficients, log: Log, kept: NDArray[np.bool_], replicas: int) -> list[ToldStep]:
    """Return steps such as a log has: decodes of few, of the usual number, and of many, and a prefill."""
    means = means_of(log, kept, replicas)
    decodes, kv_tokens = (means.terms[:, k] / means.terms[:, 0] for k in (1, 2))
    fitted = np.polyfit(decodes, kv_tokens, 1) if np.ptp(decodes) > 1 else (kv_tokens.mean() / decodes.mean(), 0.0)
    rows = []
    for many in sorted({round(float(np.quantile(decodes, part))) for part in (0.1, 0.5, 0.9)}):
        reads = max(float(np.polyval(fitted, many)), 0.0)
        rows.append((f"{many} decodes that read {reads:.0f} KV tokens", (many, reads, 0, 0.0)))
    prompt = int(np.median(log.prompt_tokens[kept]))
    rows.append((f"a prefill of {prompt} tokens", (0, 0.0, prompt, float(prompt) ** 2)))
    return [ToldStep(what=what, **_with_error(law, *step)) for what, step in rows]


def _with_error(law: StepCoefficients, decodes: int, reads: float, prefill: int, attention: float) -> dict[str, float]:
    """Return the seconds of a step and their error."""

    def seconds(of: StepCoefficients) -> float:
        ticks = law_of(of)
        took = float(decode_ticks(decodes, ticks)) + float(kv_token_ticks(decodes, ticks)) * reads
        return (took + (float(prefill_ticks(prefill, attention, decodes, ticks)) if prefill else 0.0)) / TICKS_PER_S

    assert law.errors is not None
    here, covariance = seconds(law), np.array(law.errors.covariance)
    # By differences to one side, where nothing is cut off: a law is linear in all of this.
    far = np.sqrt(np.diag(covariance))
    slopes = [(seconds(shifted(law, {name: by})) - here) / by for name, by in zip(law.errors.of, far, strict=True)]
    return {"s": here, "standard_error_s": float(np.sqrt(slopes @ covariance @ slopes))}


def _seen(log: Log, kept: NDArray[np.bool_]) -> LogRanges:
    """Return what the requests of a log show that are kept."""
    begin = log.first_token_s[kept]
    begun, ended = (np.sort(times) for times in (log.first_token_s, log.last_token_s))
    at_once = np.searchsorted(begun, begin, side="right") - np.searchsorted(ended, begin, side="left")
    prompt, whole = log.prompt_tokens[kept], (log.prompt_tokens + log.output_tokens)[kept]
    lasts = float(log.queued_s[kept].max())
    return LogRanges(
        running=[1.0, float(at_once.max())],
        context_tokens=[float(prompt.min()), float(whole.max())],
        prompt_tokens=[float(prompt.min()), float(prompt.max())],
        requests_per_s=float(kept.sum()) / lasts if lasts > 0 else None,
    )


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _matrix(covariance: Floats) -> list[list[float]] | None:
    rows: list[list[float]] = covariance.tolist()
    return rows if np.isfinite(covariance).all() else None
