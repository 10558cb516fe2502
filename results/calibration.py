"""Calibrations: measured cells beside the laws fitted to them, labelled, enough to draw every figure of a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from batchcube.errors import InputError

from .provenance import CONVENTIONS, batchcube_version
from .storage import read_dataset

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray

KIND = "calibration"
_BATCH = ("prompt_tokens", "batch_size", "output_tokens")
_LENGTHS = ("prompt_tokens", "batch_size", "curve_output_tokens")
_CURVE = ("law", "prompt_tokens", "curve_batch_size")
_COORDINATES = {
    "prompt_tokens": ("tokens", "tokens of every prompt; -1 where not known"),
    "batch_size": ("count", "requests in the batch"),
    "output_tokens": ("tokens", "tokens that every request generates"),
    "law": ("1", "growth h(b) of the law a0 + a1 L h(b)"),
    "curve_batch_size": ("count", "batch sizes that curves are drawn at"),
    "curve_output_tokens": ("tokens", "output lengths that curves are drawn at"),
    "step": ("1", "number of a measured cell that is one engine step"),
}
# name -> (dimensions, units, long name); all float64 but for the text ones.
VARIABLES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "batch_s": (_BATCH, "s", "mean time of a whole batch"),
    "batch_std_s": (_BATCH, "s", "standard deviation of the time of a whole batch over the repetitions"),
    "fitted_batch_s": (("law", *_BATCH), "s", "time of a whole batch by the law"),
    "curve_batch_s": (("law", *_LENGTHS), "s", "the same at the lengths that curves are drawn at"),
    "curve_half_width_s": (("law", *_LENGTHS), "s", "half width of the 95 % interval of the law's mean there"),
    "leave_one_out_rms": (("law", "prompt_tokens"), "1", "relative error of left-out cells, root mean square"),
    "chosen": (("prompt_tokens",), "1", "law chosen by cross-validation"),
    "slope_ratio": (("prompt_tokens", "batch_size"), "1", "time per output token over that of the smallest batch"),
    "fitted_slope_ratio": (_CURVE, "1", "the same by the law, for every batch size"),
    "step_kind": (("step",), "1", "prefill, decode, or step: both in one"),
    "step_batch_size": (("step",), "count", "requests of the step"),
    "step_prompt_tokens": (("step",), "tokens", "tokens of every prompt"),
    "step_output_tokens": (("step",), "tokens", "tokens that every request generates"),
    "step_s": (("step",), "s", "mean time of the step"),
    "step_std_s": (("step",), "s", "standard deviation of the time of the step over the repetitions"),
    "fitted_step_s": (("step",), "s", "time of the step by the step law"),
    "fitted_decode_s": (
        ("prompt_tokens", "curve_batch_size"),
        "s",
        "time of a decode step by the step law, reading the KV tokens of the measured decodes on average",
    ),
}


def build_calibration(
    coordinates: Mapping[str, NDArray[np.generic]],
    arrays: Mapping[str, NDArray[np.generic]],
    attrs: Mapping[str, str | int | float],
) -> xr.Dataset:
    """Build the labelled dataset of a fit from arrays of `VARIABLES`; what there is nothing to say of is left out.

    Raises InputError for an unknown variable, and for arrays whose shapes do not fit the coordinates.
    """
    variables: dict[str, xr.Variable] = {}
    for name, array in arrays.items():
        if name not in VARIABLES:
            raise InputError("is no variable of a calibration", path=name)
        dims, units, long_name = VARIABLES[name]
        shape = tuple(len(coordinates[dim]) for dim in dims)
        if array.shape != shape:
            raise InputError(f"has shape {array.shape}, must be {shape}", path=name)
        variables[name] = xr.Variable(dims, array, {"units": units, "long_name": long_name})
    used = {dim for variable in variables.values() for dim in variable.dims}
    coords = {
        name: xr.Variable(name, coordinates[name], {"units": units, "long_name": long_name})
        for name, (units, long_name) in _COORDINATES.items()
        if name in used
    }
    about = {"Conventions": CONVENTIONS, "kind": KIND, "batchcube_version": batchcube_version()}
    return xr.Dataset(variables, coords, about | dict(attrs))


def read_calibration(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a calibration; InputError, one line naming the file, when it is missing, damaged or something else."""
    found = read_dataset(path, "a calibration")
    if found.attrs.get("kind") != KIND:
        raise InputError("is no calibration; batchcube calibrate fit makes one of a measurement", file=path)
    for name in ("name", "title", "source"):
        if not isinstance(found.attrs.get(name), str):
            raise InputError("must be text", file=path, path=f"attribute {name}")
    for name in (str(name) for name in found.data_vars if name in VARIABLES):
        dims = VARIABLES[name][0]
        if found[name].dims != dims or not set(dims) <= set(found.coords):
            raise InputError(
                f"{name} has other dimensions than ({', '.join(dims)}), or no coordinates of them", file=path
            )
    return found
