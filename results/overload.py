"""Whether the queue of a point stays within bounds: judged once, for tables, figures, notes and comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from .cube import axis_names, parse_specification
from .statistics import mean_interval
from .variables import REPLICATION

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEADY, OVERLOADED, CANNOT_TELL = "steady", "overloaded", "cannot tell"
GROWTH = 0.02
"""Growth of the backlog, as a share of the arrivals meanwhile, up to which a queue is taken not to grow."""
NOTES = {
    OVERLOADED: "some points are overloaded: their latencies are no steady-state figures",
    CANNOT_TELL: "of some points it cannot be told whether they are overloaded: their latencies may be no steady-state "
    "figures",
}
"""What a cube says of itself where it has such points."""
WORDS = {STEADY: "", OVERLOADED: "overloaded", CANNOT_TELL: "perhaps overloaded"}
MARKS = {STEADY: "", OVERLOADED: "*", CANNOT_TELL: "(*)"}
"""What stands beside such points, and beside what was measured there."""
_ARRIVALS = "workload.arrivals"
_RATE, _SERVERS = f"{_ARRIVALS}.rate_per_s", "server.servers"


def judge(cube: xr.Dataset, *, by_theory: bool = True) -> xr.DataArray:
    """Say of each point, over all its replications, that it is "steady", "overloaded", or that one "cannot tell".

    Overloaded: theory knows a throughput that the arrival rate reaches (left out unless `by_theory`); or half of the
    replications or more are flagged by themselves where s = 1; or the 95 % interval of the mean growth of the backlog
    lies above both `GROWTH` and s / sqrt(m). Here m are the arrivals of the second half, over which growth is counted,
    and s is how much more their number scatters than that of Poisson arrivals (`_scatter`): a queue at load 1 that
    starts empty grows by about a third of s / sqrt(m) by chance.

    Steady: none of this, no replication is flagged, and the interval lies below `GROWTH`. Growth of whole batches is
    counted beyond the B (K + c) requests that K bins and c servers may hold, so that they are added first. Where whole
    batches are served, idle servers show it too, beside a mean growth of at most `GROWTH`: when the interval of the
    utilisation lies further below 1 than B (K + c) requests and s / sqrt(m) account for. With infinitely many servers
    nothing queues.

    A single replication has no interval: 4 s / sqrt(m) stands for half of it, what its own flag allows for chance. A
    cube without the variables that this needs cannot tell.
    """
    names = axis_names(cube)
    if not {"overloaded", "requests", "backlog_growth_fraction"} <= set(cube.data_vars):
        point = xr.Dataset(coords={name: cube[name] for name in names})
        return xr.DataArray(CANNOT_TELL).broadcast_like(point).transpose(*names).rename("queue")

    def values(name: str) -> NDArray[np.float64]:
        return cube[name].transpose(*names, REPLICATION).values.astype(np.float64)

    def low_and_high(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        found = mean_interval(values(name))
        alone = cube.sizes[REPLICATION] == 1
        half = 4.0 * chance
        return (found.estimate - half, found.estimate + half) if alone else (found.low, found.high)

    flagged, requests = values("overloaded").mean(axis=-1), values("requests").mean(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        later = requests - requests // 2 - 1
        scatter = _scatter(cube)
        chance = scatter / np.sqrt(later)
        low, high = low_and_high("backlog_growth_fraction")
        # Flags allow for the scatter of Poisson arrivals.
        over = (flagged >= 0.5) & (scatter == 1.0)
        over |= low > np.maximum(GROWTH, chance)
        if by_theory and "theory_throughput_requests_per_s" in cube:
            most = cube["theory_throughput_requests_per_s"].transpose(*names).values
            over |= _setting(cube, _RATE, np.nan) >= most
        if {"batch_size_mean", "effective_bins", "utilisation"} <= set(cube.data_vars) and "steps" not in cube:
            servers = _setting(cube, _SERVERS, 1.0)
            held = values("batch_size_mean").mean(axis=-1) * (values("effective_bins").mean(axis=-1) + servers)
            busy = low_and_high("utilisation")[1]
            idle = (busy + held / requests + chance < 1.0) & (0.5 * (low + high) <= GROWTH)
            calm = (high + held / later <= GROWTH) | idle | np.isinf(servers)
        else:
            calm = high <= GROWTH if "steps" in cube else np.zeros_like(over)
    found = np.where(over, OVERLOADED, np.where(calm & (flagged == 0.0), STEADY, CANNOT_TELL))
    return xr.DataArray(found, {name: cube[name] for name in names}, names, "queue")


def worse(first: NDArray[np.str_], second: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return what two points are together: steady where both are, overloaded where one is."""
    either = np.where((first == OVERLOADED) | (second == OVERLOADED), OVERLOADED, CANNOT_TELL)
    return np.where((first == STEADY) & (second == STEADY), STEADY, either)


def tell(cube: xr.Dataset) -> None:
    """Put into the notes of a cube what its points are, in place of what they said before."""
    kept = [note for note in str(cube.attrs.get("notes", "")).splitlines() if note not in NOTES.values()]
    found = judge(cube)
    cube.attrs["notes"] = "\n".join([*kept, *(note for queue, note in NOTES.items() if (found == queue).any())])


def _scatter(cube: xr.Dataset) -> NDArray[np.float64]:
    """Return the standard deviation of the number of arrivals over a long time, Poisson arrivals having 1, at least 1.

    Of gaps drawn independently it is their coefficient of variation; of arrivals whose rate switches after exponential
    times, with mean r, difference d, and mean phases a and b, its square is 1 + 2 (d²/r) (a b)² / (a + b)³. Of recorded
    and other arrivals it is not known, and taken to be 1.
    """
    gaps = _setting(cube, f"{_ARRIVALS}.cv", 1.0)
    ratio, on, off = (
        _setting(cube, f"{_ARRIVALS}.{name}", 1.0) for name in ("on_off_ratio", "mean_on_s", "mean_off_s")
    )
    # As shares of the mean rate.
    apart = (1.0 - 1.0 / ratio) * (on + off) / (on + off / ratio)
    bursts = 2.0 * _setting(cube, _RATE, np.nan) * apart**2 * (on * off) ** 2 / (on + off) ** 3
    return np.maximum(gaps, np.sqrt(1.0 + np.where(ratio == 1.0, 0.0, bursts)))


def _setting(cube: xr.Dataset, path: str, default: float) -> NDArray[np.float64]:
    """Return a number of the specification, broadcast to the axes of the cube; NaN where that cannot be known."""
    specification = parse_specification(str(cube.attrs.get("specification", "{}")))
    axes = specification.pop("axes", None)
    axes = axes if isinstance(axes, dict) else {}
    base = _number(_at(specification, path), default)
    names = axis_names(cube)
    found = np.full([cube.sizes[name] for name in names], base)
    for name, coordinate in cube.coords.items():
        if path in str(coordinate.attrs.get("path", "")).split(","):
            points = _at(axes.get(name), "points")
            labels = np.ravel(coordinate.values).tolist()
            given = [
                _number(_at(_at(points, str(label)), path), base) if points else _number(label, np.nan)
                for label in labels
            ]
            shape = [len(given) if other == name else 1 for other in names]
            found = np.broadcast_to(np.reshape(given, shape), found.shape)
    for name, axis in axes.items():
        points = _at(axis, "points")
        sets = isinstance(points, dict) and any(_at(one, path) is not None for one in points.values())
        if name not in cube.coords and (sets or _at(axis, "path") == path):
            return np.full_like(found, np.nan)  # one value of it was selected, and is not known any more
    return found


def _at(settings: object, path: str) -> object:
    """Return a setting of tables with dotted or nested keys; None where it is not set."""
    for key, value in settings.items() if isinstance(settings, dict) else ():
        if key == path:
            return value
        if path.startswith(f"{key}.") and (found := _at(value, path.removeprefix(f"{key}."))) is not None:
            return found
    return None


def _number(value: object, default: float) -> float:
    """Return a setting as a number, "infinite" servers as infinity; the default where it is not set."""
    if value is None:
        return default
    try:
        return float("inf" if value == "infinite" else value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")
