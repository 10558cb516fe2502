"""From measured cells to coefficients: fit, judge, state where it comes from, and lay everything out for figures."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from batchcube.calibration.cells import BatchFit, Cells, cells_of_steps, fit_batches, fit_steps, terms_of
from batchcube.calibration.coefficients import BatchLaws, Coefficients, KvMemory, Label, Raw, sha256_of
from batchcube.calibration.laws import BatchLaw, StepLaw, batch_law_of_steps, step_terms
from batchcube.calibration.plausibility import judge
from batchcube.calibration.stating import batch_coefficients, batch_laws, plausibility_of, range_of, step_coefficients
from batchcube.engine.policies.service import BATCH_FACTORS
from batchcube.errors import InputError, found_in
from batchcube.results.calibration import build_calibration
from batchcube.results.measurements import read_measurement

from .measure import SAME_MEASUREMENT

Floats = NDArray[np.float64]
_CONFIDENCE = 0.95
# What of a measurement's attributes says where its coefficients come from.
_PROVENANCE = (*SAME_MEASUREMENT, "created_utc", "git_commit")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def cells_of(measurement: xr.Dataset) -> Cells:
    """Return the cells of a measurement; raises InputError when it holds no complete run."""
    axes = [measurement[name].values for name in ("batch_size", "prompt_tokens", "output_tokens")]
    return cells_of_steps(axes[0], axes[1], axes[2], measurement["step_s"].values)


def fit_measurement(path: Path, name: str | None = None) -> tuple[Coefficients, xr.Dataset]:
    """Fit the laws to a measurement and return its coefficients, and the calibration that figures draw.

    Raises InputError for a file that is no measurement, and for one that no law can be fitted to.
    """
    measurement = read_measurement(path)
    about = measurement.attrs
    with found_in(file=path):
        cells = cells_of(measurement)
    capacity = about.get("kv_capacity_tokens")
    where = about["processor"] if about["device"] == "cpu" else about["device"]
    return fit_cells(
        cells,
        name=name or path.stem,
        label="measured",
        title=f"{about['model']} ({about['dtype']}, {about['weights']} weights) with {about['engine']} on {where}",
        source=f"measured by batchcube {about['batchcube_version']}, {_day(about['created_utc'])}, {about['clock']}",
        provenance={key: _plain(about[key]) for key in _PROVENANCE if key in about},
        raw=Raw(file=path.name, sha256=sha256_of(path)),
        memory=None
        if "kv_bytes_per_token" not in about
        else KvMemory(
            kv_bytes_per_token=int(about["kv_bytes_per_token"]),
            model_bytes=int(about["model_bytes"]),
            reported_capacity_tokens=None if capacity is None else int(capacity),
        ),
        where=str(path),
    )


def fit_cells(
    cells: Cells,
    *,
    name: str,
    label: Label,
    title: str,
    source: str,
    provenance: Mapping[str, str | int | float] | None = None,
    raw: Raw | None = None,
    memory: KvMemory | None = None,
    where: str = "",
) -> tuple[Coefficients, xr.Dataset]:
    """Fit every law that measured cells allow; return the coefficients, and the calibration that figures draw.

    Raises InputError, one line that starts with ``where``, when no law can be fitted, the name is none, or times must
    be in another unit.
    """
    if not NAME.fullmatch(name):
        raise InputError("the name of coefficients must be letters, digits and . _ -", file=name)
    batches, steps = fit_batches(cells), fit_steps(cells)
    laws = batch_laws(batches)
    if not laws and steps is not None:
        laws = laws_of_steps(steps[0], range_of(steps[1].batch_size))
    if not laws and steps is None:
        raise InputError(
            f"{cells.seconds.size} cells are too few, or too alike, for any law: it needs two "
            "lengths of whole batches, or as many different steps as the step law has terms",
            file=where,
        )
    coefficients = Coefficients(
        name=name,
        label=label,
        title=title,
        source=source,
        provenance=dict(provenance or {}),
        raw=raw,
        memory=memory,
        default_prompt_tokens=_default_prompt(laws),
        batch_laws=laws,
        step_law=None if steps is None else step_coefficients(*steps),
        plausibility=plausibility_of(judge(cells)),
    )
    with found_in(file=where, path="fitted"):
        coefficients.require_seconds()
    return coefficients, lay_out(batches, steps, coefficients)


def laws_of_steps(step: StepLaw, batch_sizes: list[float] | None) -> list[BatchLaws]:
    """Return the batch law that follows from decode steps c0 + c1 b, none where they depend on the KV tokens too."""
    try:
        law = batch_law_of_steps(step)
    except InputError:
        return []
    return [
        BatchLaws(
            prompt_tokens=None,
            from_steps=True,
            batch_sizes=batch_sizes,
            output_tokens=None,
            chosen="linear",
            laws={"linear": batch_coefficients(law, None)},
        )
    ]


def _default_prompt(laws: Sequence[BatchLaws]) -> float | None:
    """Return the middle one of the measured prompt lengths."""
    known = sorted(law.prompt_tokens for law in laws if law.prompt_tokens is not None)
    return known[len(known) // 2] if known else None


def _day(timestamp: str) -> str:
    return timestamp.partition("T")[0]


def _plain(value: Any) -> str | int | float:
    plain: str | int | float = value.item() if isinstance(value, np.generic) else value
    return plain


# Layout for figures -------------------------------------------------------------------------------------------------


def lay_out(fits: Sequence[BatchFit], steps: tuple[StepLaw, Cells] | None, coefficients: Coefficients) -> xr.Dataset:
    """Lay measured cells and fitted laws out as arrays over prompts, batch sizes, lengths and laws."""
    arrays: dict[str, NDArray[Any]] = {}
    coordinates: dict[str, NDArray[Any]] = {"law": np.array(BATCH_FACTORS)}
    largest = max([1.0, *(fit.cells.batch_size.max() for fit in fits)])
    if steps is not None:
        largest = max(largest, float(np.nanmax(steps[1].batch_size)))
    coordinates["curve_batch_size"] = np.unique(np.round(np.geomspace(1, largest, 60), 2))
    if fits:
        _lay_out_batches(fits, coordinates, arrays)
    if steps is not None:
        _lay_out_steps(*steps, coordinates, arrays)
    attrs = {"name": coefficients.name, "title": coefficients.title, "source": coefficients.source}
    attrs["raw_sha256"] = "" if coefficients.raw is None else coefficients.raw.sha256
    return build_calibration(coordinates, arrays, attrs)


def _lay_out_batches(
    fits: Sequence[BatchFit], coordinates: dict[str, NDArray[Any]], arrays: dict[str, NDArray[Any]]
) -> None:
    from scipy.special import stdtrit

    prompts = np.array([-1.0 if np.isnan(fit.prompt_tokens) else fit.prompt_tokens for fit in fits])
    sizes = np.unique(np.concatenate([fit.cells.batch_size for fit in fits]))
    lengths = np.unique(np.concatenate([fit.cells.output_tokens for fit in fits]))
    curve = coordinates["curve_batch_size"]
    coordinates |= {"prompt_tokens": prompts, "batch_size": sizes, "output_tokens": lengths}
    grid = (prompts.size, sizes.size, lengths.size)
    for name in ("batch_s", "batch_std_s"):
        arrays[name] = np.full(grid, np.nan)
    fine = np.geomspace(lengths[0], lengths[-1], 40)
    coordinates["curve_output_tokens"] = fine
    arrays["fitted_batch_s"] = np.full((len(BATCH_FACTORS), *grid), np.nan)
    for name in ("curve_batch_s", "curve_half_width_s"):
        arrays[name] = np.full((len(BATCH_FACTORS), *grid[:2], fine.size), np.nan)
    arrays["leave_one_out_rms"] = np.full((len(BATCH_FACTORS), prompts.size), np.nan)
    arrays["slope_ratio"] = np.full((prompts.size, sizes.size), np.nan)
    arrays["fitted_slope_ratio"] = np.full((len(BATCH_FACTORS), prompts.size, curve.size), np.nan)
    arrays["chosen"] = np.array([fit.chosen for fit in fits])
    for k, fit in enumerate(fits):
        i, j = np.searchsorted(sizes, fit.cells.batch_size), np.searchsorted(lengths, fit.cells.output_tokens)
        arrays["batch_s"][k, i, j], arrays["batch_std_s"][k, i, j] = fit.cells.seconds, fit.cells.std_s
        arrays["slope_ratio"][k] = _slope_ratios(arrays["batch_s"][k], lengths)
        for h, law in fit.laws.items():
            at = BATCH_FACTORS.index(h)
            spread = float(stdtrit(max(law.degrees_of_freedom, 1), 0.5 + _CONFIDENCE / 2))
            arrays["fitted_batch_s"][at, k] = law.seconds(sizes[:, None], lengths)
            arrays["curve_batch_s"][at, k] = law.seconds(sizes[:, None], fine)
            arrays["curve_half_width_s"][at, k] = spread * law.standard_error(sizes[:, None], fine)
            arrays["leave_one_out_rms"][at, k] = law.quality.leave_one_out_rms
            arrays["fitted_slope_ratio"][at, k] = _law_ratio(law, curve, sizes[0])


def _slope_ratios(batch_s: Floats, lengths: Floats) -> Floats:
    """Return the slope in the length of every batch size (b,), over that of the first."""
    slopes = np.full(len(batch_s), np.nan)
    for i, row in enumerate(batch_s):
        known = np.isfinite(row)
        if known.sum() > 1:
            slopes[i] = np.polyfit(lengths[known], row[known], 1)[0]
    return np.asarray(slopes / slopes[0])


def _law_ratio(law: BatchLaw, b: Floats, first: float) -> Floats:
    one = law.seconds(first, 1.0) - law.a0_s
    return np.asarray((law.seconds(b, 1.0) - law.a0_s) / one)


def _lay_out_steps(
    law: StepLaw, steps: Cells, coordinates: dict[str, NDArray[Any]], arrays: dict[str, NDArray[Any]]
) -> None:
    coordinates["step"] = np.arange(steps.seconds.size)
    arrays["step_kind"] = steps.kind
    for name, field in (
        ("step_batch_size", "batch_size"),
        ("step_prompt_tokens", "prompt_tokens"),
        ("step_output_tokens", "output_tokens"),
        ("step_s", "seconds"),
        ("step_std_s", "std_s"),
    ):
        arrays[name] = getattr(steps, field)
    arrays["fitted_step_s"] = law.seconds(terms_of(steps))
    decodes = steps.only("decode")
    if not decodes.seconds.size:
        return
    prompts = coordinates.setdefault("prompt_tokens", np.array([-1.0]))
    curve = coordinates["curve_batch_size"]
    arrays["fitted_decode_s"] = np.full((prompts.size, curve.size), np.nan)
    for k, p in enumerate(prompts):
        mine = decodes.where(decodes.prompt_tokens == p) if p >= 0 else decodes
        if mine.seconds.size:
            per_request = np.nan_to_num(np.mean(mine.kv_tokens / mine.batch_size))
            arrays["fitted_decode_s"][k] = law.seconds(step_terms(curve, curve * per_request, 0.0, 0.0))
