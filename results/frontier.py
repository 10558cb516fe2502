"""Which of several systems lie on the frontier of several objectives: surely, possibly, or not.

For figures and tables of a cube there is one call:

    found = frontier.of_cube(cube, ["throughput_tokens_per_s", "ttft_mean_s", "tpot_mean_s"])

which gives the state of every point, `SURELY`, `POSSIBLY` or `NOT`, with the mean of each variable beside it. Of arrays
`of_arrays` does the same: `(objective, system, replication)`, less is better. What a cube does not hold, such as a cost
or a throughput per GPU, is given as a named array over the axes of the cube, with replications or without.

A system is on the frontier where no other is at least as good in every objective and better in one. Replications are
paired by common random numbers, and all statements rest on t bounds of the mean paired differences that hold for all
objectives and ordered pairs of systems at once with probability 1 - alpha (Bonferroni). With it, a system is *surely*
on the frontier when it is surely better in some objective than each other one (or surely as good in all); *not* on it
when another one is surely as good in all and surely better in one; otherwise it is *possibly* on it. More replications
turn "possibly" into one of the others, unless systems are equal. Differences that are the same in every replication,
such as those of prices, are taken as known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr

from batchcube.errors import InputError

from .axes import axis_names
from .labelled import error_of, of_single
from .names import statistic_of
from .pieces import pieces
from .precision import level
from .selection import ALPHA
from .statistics import mean_and_error, t_factor
from .variables import FIRST_LOOK, REGISTRY, REPLICATION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

SURELY, POSSIBLY, NOT = "surely", "possibly", "not"


class Frontier(NamedTuple):
    """Hold what is known of each system."""

    states: NDArray[np.str_]
    """`(system,)`, "surely", "possibly" or "not" on the frontier."""
    beaten_by: NDArray[np.int64]
    """`(system,)`, one that is surely at least as good in all objectives and better in one; -1 where there is none."""


def of_arrays(
    values: ArrayLike,
    alpha: float = ALPHA,
    *,
    single: bool = False,
    first_look: int | None = None,
    errors: ArrayLike = 0.0,
) -> Frontier:
    """Return which systems are on the frontier, from `(objective, system, replication)`, less is better.

    `inf` is worse than any number, and as good as itself. Of a system with a NaN nothing is said: it is possibly on the
    frontier. A single replication tells nothing but what is equal. With `single` the bounds are those of a single
    replication's differences (see `statistics`). Where looks said when to stop adding replications, `first_look` is how
    many the first was at: bounds are wider by as much as intervals are (see `precision`). Values of an objective are
    each off by its part of the relative `errors` at most, half of the tolerance of a search.
    Raises InputError for other shapes and an alpha outside (0, 1).
    """
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 3 or not given.size:
        raise InputError("must be (objective, system, replication)", path="values")
    if not 0.0 < alpha < 1.0:
        raise InputError("must lie between 0 and 1", path="alpha", value=alpha)
    objectives, systems, count = given.shape
    unknown = np.asarray(np.isnan(given).any(axis=(0, 2)))
    never = np.asarray(np.isinf(given).any(axis=-1))
    given = np.where(never[..., None] | unknown[:, None], 0.0, given)
    off = np.reshape(errors, (-1, 1)) * np.abs(given.mean(axis=-1))
    factor = np.inf
    if count > 1:
        chance = alpha / max(objectives * systems * (systems - 1), 1)
        if first_look is not None:
            chance = 0.5 * (1.0 - level(first_look, 1.0 - 2.0 * chance))
        factor = t_factor(count, chance) * np.sqrt(1 + count if single else 1)
    found = np.full(systems, POSSIBLY, dtype=object)
    beaten_by = np.full(systems, -1)
    for one in np.flatnonzero(~unknown).tolist():
        mean, error = _differences(given, one)
        known = (error == 0.0) if count > 1 else (mean == 0.0)
        half = np.where(known, 0.0, factor * error) + off + off[:, [one]]
        low, high = mean - half, mean + half
        low, high = (np.where(never[:, [one]] & ~never, np.inf, end) for end in (low, high))
        low, high = (np.where(~never[:, [one]] & never, -np.inf, end) for end in (low, high))
        others = ~unknown & (np.arange(systems) != one)
        worse = others & (low >= 0.0).all(axis=0) & (low > 0.0).any(axis=0)
        not_worse = (high < 0.0).any(axis=0) | (high <= 0.0).all(axis=0)
        if worse.any():
            found[one], beaten_by[one] = NOT, int(np.flatnonzero(worse)[0])
        elif (not_worse | ~others).all() and not unknown.any():
            found[one] = SURELY
    return Frontier(found.astype(str), beaten_by)


def _differences(given: NDArray[np.float64], one: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return by how much `one` exceeds each system (objective, system) in the mean, and the standard error of that."""
    objectives, systems, count = given.shape
    mean, error = np.empty((2, objectives, systems))
    for place in pieces({"system": systems}, 8 * objectives * count):
        some = place["system"]
        mean[:, some], error[:, some] = mean_and_error(given[:, [one]] - given[:, some])
    return mean, error


def more_is_better(name: str) -> bool:
    """Say whether a variable is wanted to be large, as the registry says; what it does not know is not."""
    return name in REGISTRY and REGISTRY[name].more_is_better


def _named(cube: xr.Dataset, name: str) -> xr.DataArray:
    """Return a variable of a cube, or the quantiles of its replications, by any name of `statistic_of`."""
    meant = statistic_of(name)
    if meant.variable not in cube:
        raise InputError("the cube does not hold this variable", path=name)
    column = cube[meant.variable]
    if meant.quantile is not None:
        known = cube["quantile"].values
        at = np.flatnonzero(np.isclose(known, meant.quantile))
        if not len(at):
            raise InputError(f"the cube has {', '.join(f'p{100 * q:g}' for q in known)}", path=name)
        column = column.isel(quantile=int(at[0]), drop=True)
    return column if meant.scale == 1.0 else (column * meant.scale).assign_attrs(column.attrs, units="ms")


def first_look_of(cube: xr.Dataset) -> int | None:
    """Return at how many replications the first look was that could have ended a run; None where there was none."""
    looked = [int(each.attrs[FIRST_LOOK]) for each in cube.data_vars.values() if FIRST_LOOK in each.attrs]
    return min(looked, default=None)


def of_cube(cube: xr.Dataset, objectives: Sequence[str | xr.DataArray], alpha: float = ALPHA) -> xr.Dataset:
    """Return which points of a cube are on the frontier of some of its variables, or of named arrays over its axes.

    The result has the axes of the cube: `state`, "surely", "possibly" or "not", and each objective's mean over the
    replications. What the registry says is better when more is wanted large, all else small (`more_is_better`).
    Raises InputError for fewer than two objectives, and for one that is not in the cube or has further dimensions.
    """
    axes = axis_names(cube)
    like = xr.DataArray(np.zeros([cube.sizes[name] for name in (*axes, REPLICATION)]), dims=(*axes, REPLICATION))
    columns: dict[str, xr.DataArray] = {}
    single, errors = False, []
    for objective in objectives:
        name = objective if isinstance(objective, str) else str(objective.name)
        column = _named(cube, objective) if isinstance(objective, str) else objective
        if not set(column.dims) <= set(like.dims):
            raise InputError("must have no dimensions but the axes and the replications", path=name)
        single |= of_single(column)
        errors.append(error_of(column))
        columns[name] = column.broadcast_like(like).transpose(*like.dims)
    if len(columns) < 2:
        raise InputError("a frontier needs two or more", path="objectives")
    signs = np.array([-1.0 if more_is_better(name) else 1.0 for name in columns])
    values = np.stack([column.values.astype(np.float64).reshape(-1, like.shape[-1]) for column in columns.values()])
    costs = values * signs[:, None, None]
    found = of_arrays(costs, alpha, single=single, first_look=first_look_of(cube), errors=errors)
    states = found.states.reshape(like.shape[:-1])
    attrs = {"long_name": "on the frontier", "assurance": 1.0 - alpha}
    state = xr.DataArray(states, {name: cube[name] for name in axes}, axes, attrs=attrs)
    return xr.Dataset(
        {"state": state} | {name: column.mean(REPLICATION, keep_attrs=True) for name, column in columns.items()}
    )
