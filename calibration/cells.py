"""Measurements in the form that fits and checks read: for each cell its mean, its scatter, how often measured."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchcube.engine.policies.service import BatchFactor
from batchcube.errors import InputError

from .laws import BatchLaw, StepLaw, fit_batch_laws, fit_step_laws, step_terms

Floats = NDArray[np.float64]

KINDS = ("batch", "prefill", "decode", "step")
"""What a time is of: a whole batch, the prefill of a batch, one decode step of a batch, a step with both in it."""


class Cells(NamedTuple):
    """Measured cells, each field (cell,); NaN where a number is not known."""

    kind: NDArray[np.str_]
    """One of `KINDS`."""
    batch_size: Floats
    """Requests in the batch; in a mixed step, those that decode."""
    prompt_tokens: Floats
    output_tokens: Floats
    kv_tokens: Floats
    """KV tokens that a decode step reads, all requests together."""
    prefill_tokens: Floats
    """Tokens that a prefill or mixed step prefills, all requests together."""
    seconds: Floats
    """Mean over the repetitions."""
    std_s: Floats
    """Standard deviation over the repetitions."""
    repetitions: Floats
    steps: Floats
    """Steps of about the same size that a time is of, one after the other: a prompt in chunks; NaN for one."""
    resolution_s: float = 0.0
    """Half of it is the most that rounding has changed a time by; 0 for times as measured."""
    std_resolution_s: float = 0.0

    @classmethod
    def of(
        cls, kind: str, seconds: ArrayLike, resolution_s: float = 0.0, std_resolution_s: float = 0.0, **more: ArrayLike
    ) -> "Cells":
        """Build cells of one kind from the fields that are known."""
        y = np.asarray(seconds, np.float64)
        fields = {
            name: np.broadcast_to(np.asarray(more.get(name, np.nan), np.float64), y.shape)
            for name in cls._fields[1:-2]
            if name != "seconds"
        }
        return cls(
            np.full(y.shape, kind), seconds=y, resolution_s=resolution_s, std_resolution_s=std_resolution_s, **fields
        )

    def where(self, chosen: NDArray[np.bool_]) -> "Cells":
        """Return the chosen cells."""
        return self._replace(**{name: getattr(self, name)[chosen] for name in self._fields[:-2]})

    def only(self, kind: str) -> "Cells":
        """Return the cells of one kind."""
        return self.where(self.kind == kind)


def join(parts: list[Cells]) -> Cells:
    """Join cells; the coarsest rounding counts for all."""
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Cells._fields[:-2]}
    return Cells(
        **arrays,
        resolution_s=max(part.resolution_s for part in parts),
        std_resolution_s=max(part.std_resolution_s for part in parts),
    )


def cells_of_steps(
    batch_sizes: NDArray[np.int64],
    prompt_tokens: NDArray[np.int64],
    output_tokens: NDArray[np.int64],
    step_s: Floats,
) -> Cells:
    """Return the cells of a measurement: step_s is (batch size, prompt, output, repetition, step), NaN where missing.

    Every measured cell gives a batch (all its steps) and a mean decode step; each batch size and prompt a prefill, over
    all outputs. A decode step that makes token k + 1 reads prompt + k tokens of each request. Raises InputError if no
    cell has a complete run.
    """
    parts: list[Cells] = []
    for i, b in enumerate(batch_sizes.tolist()):
        for j, p in enumerate(prompt_tokens.tolist()):
            first = step_s[i, j, :, :, 0]
            first = first[np.isfinite(first)]
            if first.size:
                parts.append(_cell("prefill", first, batch_size=b, prompt_tokens=p, prefill_tokens=b * p))
            for k, o in enumerate(output_tokens.tolist()):
                runs = step_s[i, j, k, :, :o]
                runs = runs[np.isfinite(runs).all(axis=1)]
                if len(runs):
                    shape = {"batch_size": b, "prompt_tokens": p, "output_tokens": o}
                    parts.append(_cell("batch", runs.sum(axis=1), **shape))
                    parts.append(_cell("decode", runs[:, 1:].mean(axis=1), kv_tokens=b * (p + o / 2), **shape))
    if not parts:
        raise InputError("the measurement holds no complete run of any cell")
    return join(parts)


def _cell(kind: str, samples: Floats, **fields: float) -> Cells:
    std = samples.std(ddof=1) if samples.size > 1 else np.nan
    return Cells.of(kind, [samples.mean()], std_s=std, repetitions=samples.size, **fields)


class BatchFit(NamedTuple):
    """The laws of whole batches at one prompt length."""

    prompt_tokens: float
    """NaN where it is not known."""
    chosen: BatchFactor
    laws: Mapping[BatchFactor, BatchLaw]
    cells: Cells


def fit_batches(cells: Cells) -> list[BatchFit]:
    """Fit the batch laws to the whole batches of each prompt length.

    A prompt length that has too few cells for any law is left out.
    """
    batches = cells.only("batch")
    fits = []
    for p in np.unique(batches.prompt_tokens):
        mine = batches.where((batches.prompt_tokens == p) | (np.isnan(batches.prompt_tokens) & np.isnan(p)))
        try:
            chosen, laws = fit_batch_laws(mine.batch_size, mine.output_tokens, mine.seconds)
        except InputError:
            continue
        fits.append(BatchFit(float(p), chosen, laws, mine))
    return fits


def terms_of(steps: Cells) -> Floats:
    """Return the terms (cell, 6) of cells that are steps, of several the mean; what is not known of one counts as 0.

    The attention of a prefill of b prompts of p tokens is b * p * p: chunk and context are the whole prompt. In n
    chunks the mean context of a token is p (1 + 1/n) / 2.
    """
    count = np.nan_to_num(steps.steps, nan=1.0)
    decoding = np.where(steps.kind == "prefill", 0.0, steps.batch_size)
    kv = np.where(steps.kind == "prefill", 0.0, np.nan_to_num(steps.kv_tokens))
    prefill = np.nan_to_num(steps.prefill_tokens) / count
    context = np.nan_to_num(steps.prompt_tokens) * (1.0 + 1.0 / count) / 2.0
    attention = np.where(steps.kind == "prefill", prefill * context, 0.0)
    return step_terms(decoding, kv, prefill, attention)


def fit_steps(cells: Cells) -> tuple[StepLaw, Cells] | None:
    """Fit the step law to all cells that are steps, in the form that predicts left-out ones best, see `fit_step_laws`.

    None where there are none, or too few to tell its terms apart. The cells that come with it have the mean of steps
    that were timed together, and its standard deviation.
    """
    steps = cells.where(cells.kind != "batch")
    if not steps.seconds.size:
        return None
    count = np.nan_to_num(steps.steps, nan=1.0)
    steps = steps._replace(seconds=steps.seconds / count, std_s=steps.std_s / count)
    try:
        chosen, laws = fit_step_laws(terms_of(steps), steps.seconds, steps.batch_size)
    except InputError:
        return None
    return laws[chosen], steps


def as_table(batches: Cells) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats] | None:
    """Return batch sizes (b,), lengths (l,) and seconds (b, l) of whole batches on a complete grid, None otherwise."""
    sizes, lengths = np.unique(batches.batch_size), np.unique(batches.output_tokens)
    if sizes.size < 2 or lengths.size < 2 or batches.seconds.size != sizes.size * lengths.size:
        return None
    order = np.lexsort((batches.output_tokens, batches.batch_size))
    seconds = batches.seconds[order].reshape(sizes.size, lengths.size)
    if (np.diff(seconds, axis=1) < 0).any():
        return None
    return sizes.astype(np.int64), lengths.astype(np.int64), seconds


def table_error(sizes: NDArray[np.int64], lengths: NDArray[np.int64], seconds: Floats) -> float:
    """Return the error of batch sizes between the smallest and the largest, each interpolated between its neighbours.

    Root mean square, relative, over all lengths: to be compared with `Quality.leave_one_size_out_rms`, which predicts
    the same cells. NaN with two sizes.
    """
    if sizes.size < 3:
        return np.nan
    errors = []
    for i in range(1, sizes.size - 1):
        weight = (sizes[i] - sizes[i - 1]) / (sizes[i + 1] - sizes[i - 1])
        errors.append(((1 - weight) * seconds[i - 1] + weight * seconds[i + 1]) / seconds[i] - 1)
    return float(np.sqrt(np.mean(np.square(errors))))
