"""Measurements of a real engine, raw: every timed step of every run of every cell, with where it comes from."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from batchcube.errors import InputError

from .provenance import CONVENTIONS, batchcube_version, git_commit, version_of
from .storage import read_dataset

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

KIND = "measurement of an engine"
CELL = ("batch_size", "prompt_tokens", "output_tokens")
_AXES = {
    "batch_size": ("count", "requests in the batch"),
    "prompt_tokens": ("tokens", "tokens of every prompt"),
    "output_tokens": ("tokens", "tokens that every request generates"),
    "repetition": ("1", "repetition: a pass over all cells in an order of its own"),
    "step": ("1", "engine step: 0 is the prefill, which emits the first token, later ones decode one token each"),
}
_VARIABLES = {
    "step_s": ((*CELL, "repetition", "step"), "s", "duration of an engine step, in the clock of the attribute `clock`"),
    "batch_wall_s": ((*CELL, "repetition"), "s", "duration of the whole batch by the wall clock"),
    "order": ((*CELL, "repetition"), "1", "place in the order of measuring; -1 where nothing was measured"),
    "refusal": (CELL, "1", "why a cell, or a repetition of it, was not measured"),
}


def build_measurement(
    axes: Mapping[str, Sequence[int]],
    step_s: NDArray[np.float64],
    batch_wall_s: NDArray[np.float64],
    order: NDArray[np.int64],
    refusal: NDArray[np.str_],
    attrs: Mapping[str, str | int | float],
) -> xr.Dataset:
    """Build the labelled dataset of one measurement.

    `axes` holds the values of ``batch_size``, ``prompt_tokens`` and ``output_tokens``; the arrays are shaped
    (batch_size, prompt_tokens, output_tokens[, repetition[, step]]), NaN where nothing was measured. `attrs` say what
    was measured with what. Raises InputError for arrays of another shape.
    """
    arrays = {"step_s": step_s, "batch_wall_s": batch_wall_s, "order": order, "refusal": refusal}
    sizes = {name: len(values) for name, values in axes.items()}
    sizes |= {"repetition": step_s.shape[3], "step": step_s.shape[4]}
    coords: dict[str, xr.Variable] = {}
    for name, (units, long_name) in _AXES.items():
        values = np.asarray(axes.get(name, np.arange(sizes[name])), dtype=np.int64)
        coords[name] = xr.Variable(name, values, {"units": units, "long_name": long_name})
    variables: dict[str, xr.Variable] = {}
    for name, (dims, units, long_name) in _VARIABLES.items():
        shape = tuple(sizes[dim] for dim in dims)
        if arrays[name].shape != shape:
            raise InputError(f"has shape {arrays[name].shape}, must be {shape}", path=name)
        variables[name] = xr.Variable(dims, arrays[name], {"units": units, "long_name": long_name})
    about: dict[str, str | int | float] = {
        "Conventions": CONVENTIONS,
        "kind": KIND,
        "batchcube_version": batchcube_version(),
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "numpy": version_of("numpy"),
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return xr.Dataset(variables, coords, about | dict(attrs))


def read_measurement(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a measurement; InputError, one line naming the file, when it is missing, damaged or something else."""
    found = read_dataset(path, "a measurement")
    if found.attrs.get("kind") != KIND:
        raise InputError("is no measurement; batchcube calibrate vllm and calibrate transformers make them", file=path)
    for name, (dims, _, _) in _VARIABLES.items():
        if name not in found or found[name].dims != dims:
            raise InputError(f"{name} is missing or has other dimensions than ({', '.join(dims)})", file=path)
    return found
