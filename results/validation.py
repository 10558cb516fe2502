"""Validations: what a real server measured beside what was simulated for the same requests, labelled."""

from __future__ import annotations

import itertools
from types import NoneType
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from batchcube.documents import parse_json
from batchcube.errors import InputError, found_in

from .provenance import CONVENTIONS, batchcube_version
from .storage import read_dataset

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray

KIND = "validation"
QUANTITIES = {
    "ttft_s": "time to first token",
    "tpot_s": "time per output token after the first",
    "e2e_s": "end-to-end latency",
}
COURSES = {
    "admitted": "requests admitted and not done, preempted ones among them",
    "waiting": "requests that wait for their first admission",
}
SIDES = ("measured", "simulated")
# What the attribute `errors` holds of each error; numbers are None where they are not known.
_NUMBER = (float, int, NoneType)
ERROR: dict[str, type | tuple[type, ...]] = {
    "quantity": str,
    "statistic": str,
    "measured": _NUMBER,
    "simulated": _NUMBER,
    "error": _NUMBER,
    "low": _NUMBER,
    "high": _NUMBER,
    "fitted": bool,
}


def build_validation(
    came_s: NDArray[np.float64],
    judged: NDArray[np.bool_],
    times: Mapping[str, NDArray[np.float64]],
    time_s: NDArray[np.float64],
    courses: Mapping[str, NDArray[np.float64]],
    attrs: Mapping[str, str | int | float],
) -> xr.Dataset:
    """Build the labelled dataset of one validation.

    `times` holds ``measured_ttft_s``, ``simulated_ttft_s`` and so on (request,), `courses` ``measured_admitted`` and so
    on (time,), `judged` says which requests the errors are over. Raises InputError for a name or shape that does not
    fit.
    """
    coords = {
        "request": xr.Variable("request", np.arange(came_s.size), {"units": "1", "long_name": "request by arrival"}),
        "time_s": xr.Variable("time_s", time_s, {"units": "s", "long_name": "time since the first request"}),
    }
    variables = {
        "came_s": xr.Variable("request", came_s, {"units": "s", "long_name": "when the request came"}),
        "judged": xr.Variable(
            "request", judged.astype(np.int8), {"units": "1", "long_name": "1 where the errors are over the request"}
        ),
    }
    for wanted, given, dim, labels, units in (
        (QUANTITIES, times, "request", QUANTITIES, "s"),
        (COURSES, courses, "time_s", COURSES, "count"),
    ):
        for name in (f"{side}_{quantity}" for quantity in wanted for side in SIDES):
            if name not in given or given[name].shape != coords[dim].shape:
                raise InputError(f"is missing or not of shape {coords[dim].shape}", path=name)
            side, _, quantity = name.partition("_")
            about = {"units": units, "long_name": f"{labels[quantity]}, {side}"}
            variables[name] = xr.Variable(dim, given[name], about)
    about_all = {"Conventions": CONVENTIONS, "kind": KIND, "batchcube_version": batchcube_version()}
    return xr.Dataset(variables, coords, about_all | dict(attrs))


def read_validation(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a validation; InputError, one line naming the file, when it is missing, damaged or something else."""
    found = read_dataset(path, "a validation")
    if found.attrs.get("kind") != KIND:
        raise InputError("is no validation; batchcube validate makes them", file=path)
    dims = dict.fromkeys(("came_s", "judged"), "request")
    dims |= {f"{side}_{quantity}": "request" for quantity in QUANTITIES for side in SIDES}
    dims |= {f"{side}_{course}": "time_s" for course in COURSES for side in SIDES}
    for name, dim in dims.items():
        if name not in found or found[name].dims != (dim,) or found[name].dtype.kind not in "iuf":
            raise InputError(f"{name} is missing or holds no numbers over {dim}", file=path)
    _check_errors(path, found.attrs.get("errors"))
    if "time_s" not in found.coords or not isinstance(found.attrs.get("judged"), str):
        raise InputError("is no whole validation: the coordinate time_s or the attribute judged is missing", file=path)
    return found


def _check_errors(path: str | os.PathLike[str], errors: object) -> None:
    """Raise InputError unless errors are what a validation keeps: a list in JSON of tables with `ERROR`."""
    with found_in(file=path, path="attribute errors"):
        listed = parse_json(errors) if isinstance(errors, str) else None
        if not isinstance(listed, list) or not all(isinstance(row, dict) and set(row) == set(ERROR) for row in listed):
            raise InputError(f"must be a list in JSON of tables with {', '.join(ERROR)}")
        for row, (name, kind) in itertools.product(listed, ERROR.items()):
            if not isinstance(row[name], kind):
                raise InputError(f"{name} is no {'text' if kind is str else 'number'}")
