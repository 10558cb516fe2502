"""Whether the queue of a point stays within bounds: judged once, for tables, figures, notes and comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from .axes import axis_names
from .labelled import of_single
from .pieces import points_of
from .provenance import parse_specification
from .statistics import Interval, mean_interval
from .variables import REPLICATION

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

STEADY, OVERLOADED, CANNOT_TELL = QUEUES = "steady", "overloaded", "cannot tell"
PLAN_QUEUE = "plan_queue"
"""Variable of a plan's cube that holds what was judged there, as places in `QUEUES`."""
STEADY_GROWTH = 0.02
"""Growth of the backlog, as a share of the arrivals meanwhile, up to which a queue is taken not to grow."""
NOTES = {
    OVERLOADED: "some points are overloaded: their latencies are no steady-state figures",
    CANNOT_TELL: "of some points it cannot be told whether they are overloaded: their latencies may be no steady-state "
    "figures",
}
"""What a cube says of itself where it has such points."""
SHORT = (
    "more sessions begin than end at such points, one that thinks not being at an end: where that is no overload, more "
    "requests show a steady state"
)
"""What it says besides where these have sessions."""
WORDS = {STEADY: "", OVERLOADED: "overloaded", CANNOT_TELL: "perhaps overloaded"}
MARKS = {STEADY: "", OVERLOADED: "*", CANNOT_TELL: "(*)"}
"""What stands beside such points, and beside what was measured there."""
_LOAD = {"utilisation", "throughput_requests_per_s", "makespan_s", "batch_size_mean", "measured", "missed"}
"""Variables that show the load."""
_READ = _LOAD | {
    *("requests", "backlog_growth_fraction", "queue_growth_fraction", "steps", "effective_bins", "rejected"),
    "window_arrivals",
    *("service_mean_s", "service_variance_s2", "theory_throughput_requests_per_s"),
}
"""All variables that `judge` looks at."""
_ARRIVALS = "workload.arrivals"
_RATE, _SERVERS, _TURNS = f"{_ARRIVALS}.rate_per_s", "server.servers", "workload.sessions.turns"
KNOWN_DISPERSION = ("poisson", "deterministic", "gamma", "on_off")
"""Processes whose stated rate is that of the requests in the long run, and whose index of dispersion is known."""


def judge(cube: xr.Dataset, *, by_theory: bool = True, confidence: float = 0.95) -> xr.DataArray:
    """Say of each point, over all its replications, that it is "steady", "overloaded", or that one "cannot tell".

    Overloaded: the load (`_load`) is at least 1 for certain; or it may be, and the 95 % interval of the mean growth of
    the queue lies above both `STEADY_GROWTH` and s / (3 sqrt(m)), by which a queue at load 1 that starts empty grows by
    chance. Here m are the arrivals of the second half, over which growth is counted, and s is the scatter of what they
    bring, that of Poisson arrivals of equal requests being 1.

    Steady: not overloaded, and either the load is below 1 for certain, and the interval of the growth of the backlog
    does not lie above `STEADY_GROWTH` (the run is long enough to be steady in); or that interval lies below it.

    The backlog is who has come and is not done, the queue who does not run. Of sessions both are counted over those
    that begin, and one that thinks is not done: while more begin than end, the run is too short to be steady in. Where
    more and more run and nobody waits, the run is too short: whether they will wait one cannot tell. Of whole batches
    growth is counted beyond the B (K + c) requests that K bins and c servers may hold, which are added for the backlog.
    With infinitely many servers nothing queues. A closed loop is steady: never more requests are there than users.

    A single replication has no interval: 4 s / sqrt(m) stands for half of that of its growth. A cube without the
    variables that this needs cannot tell. Unless `by_theory`, what theory knows of the throughput is left out.
    Intervals of growth and load have another `confidence` where many points, or looks, are to be right at once.
    What a plan has judged, of settings that left it at different looks, stands in its cube and is returned as it is.
    """
    names = axis_names(cube)
    if PLAN_QUEUE in cube:
        said = cube[PLAN_QUEUE].transpose(*names)
        return said.copy(data=np.array(QUEUES)[said.values]).rename("queue").reset_coords(drop=True)
    needed = {"requests", "backlog_growth_fraction"} | ({"queue_growth_fraction"} if "steps" in cube else set())
    if not needed <= set(cube.data_vars):
        point = xr.Dataset(coords={name: cube[name] for name in names})
        return xr.DataArray(CANNOT_TELL).broadcast_like(point).transpose(*names).rename("queue")
    found = np.full([cube.sizes[name] for name in names], CANNOT_TELL)
    # How arrivals scatter need not be counted where it is known.
    known = np.isin(_Settings(cube)(f"{_ARRIVALS}.process", "", str), KNOWN_DISPERSION).all()
    for places, points in points_of(cube, _READ - {"window_arrivals"} if known else _READ, names):
        found[places] = _judge(points, by_theory=by_theory, confidence=confidence)
    return xr.DataArray(found, {name: cube[name] for name in names}, names, "queue")


def _judge(cube: xr.Dataset, *, by_theory: bool, confidence: float) -> NDArray[np.str_]:
    values, setting = _replications(cube), _Settings(cube)
    requests = values("requests").mean(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        # Those that follow nobody, over which growth is counted: all, or the first turns of sessions.
        openings = requests / _turns(setting)
        later = openings - openings // 2 - 1
        chance = _scatter(cube, setting) / np.sqrt(later)

        def growth(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            found = mean_interval(values(name), confidence=confidence, single=of_single(cube[name]))
            if cube.sizes[REPLICATION] == 1:
                return found.estimate - 4.0 * chance, found.estimate + 4.0 * chance
            return found.low, found.high

        low, high = growth("backlog_growth_fraction")
        queue_low = growth("queue_growth_fraction")[0] if "steps" in cube else low
        least, most = _load(cube, setting, by_theory=by_theory, confidence=confidence)
        over = (least >= 1.0) | (queue_low > np.maximum(STEADY_GROWTH, chance / 3.0)) & ~(most < 1.0)
        calm = (most < 1.0) & ~(low > STEADY_GROWTH)
        if "steps" in cube:
            calm |= high <= STEADY_GROWTH
        elif {"batch_size_mean", "effective_bins"} <= set(cube.data_vars):
            servers = setting(_SERVERS, 1.0)
            held = values("batch_size_mean").mean(axis=-1) * (values("effective_bins").mean(axis=-1) + servers)
            calm |= (high + held / later <= STEADY_GROWTH) | np.isinf(servers)
    # Where all users send one request each, nobody waits for an end, and growth counts them.
    closed = setting(f"{_ARRIVALS}.process", "", str) == "closed"
    return np.where(over & ~closed, OVERLOADED, np.where(calm | closed, STEADY, CANNOT_TELL))


def is_told(cube: xr.Dataset) -> bool:
    """Say whether a cube tells of its queues."""
    return "backlog_growth_fraction" in cube or PLAN_QUEUE in cube


def _number(value: object) -> float:
    """Return a setting as a number, "infinite" servers as infinity; NaN for what is none."""
    try:
        return float("inf" if value == "infinite" else value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def _load(
    cube: xr.Dataset, setting: _Settings, *, by_theory: bool, confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the load of each point, offered work over what servers can do, as the ends of an interval; NaN: any.

    Theory may know it: the rate of the arrivals over the throughput. Otherwise a request takes so much time of a
    server, in the mean, and so many come in a second; by their stated rate, as the number that happened to come
    scatters with their bursts. Fuller batches take no more time of a request, so that the load cannot be higher than
    that; nor can it be lower by more than the share of the largest batch that the mean one fills.
    """
    rate = _rate(setting)
    if not set(cube.data_vars) >= _LOAD:
        least = most = np.full_like(rate, np.nan)
    else:
        values = _replications(cube)
        # Who is turned away brings no work.
        come = 1.0 - values("rejected") / values("requests") if "rejected" in cube else 1.0
        served = values("throughput_requests_per_s")
        # Those that are served while the warm-up ends are counted whole, and their time is not.
        beside = values("batch_size_mean") * setting(_SERVERS, 1.0)[..., None] / values("makespan_s")
        warm = values("measured") + values("missed") < values("requests")

        def load(served: NDArray[np.float64]) -> Interval:
            every = rate[..., None] * come * values("utilisation") / np.where(served > 0.0, served, np.nan)
            return mean_interval(every, confidence=confidence, single=of_single(cube["utilisation"]))

        least, most = load(served).low, load(served - np.where(warm, beside, 0.0)).high
        largest = setting("policy.largest_batch", np.nan)
        largest = np.where(np.isnan(largest), setting("policy.batch_size", np.nan), largest)
        least = least * values("batch_size_mean").mean(axis=-1) / largest
        # One of several replicas may be overloaded where requests cannot choose.
        if "steps" in cube:
            chosen = setting("server.routing", "round_robin", str) != "by_bin"
            most = np.where(chosen | (setting(_SERVERS, 1.0) == 1.0), most, np.nan)
    if by_theory and "theory_throughput_requests_per_s" in cube:
        known = rate / cube.variables["theory_throughput_requests_per_s"].transpose(*axis_names(cube)).values
        least, most = np.where(np.isnan(known), least, known), np.where(np.isnan(known), most, known)
    return least, most


def _rate(setting: _Settings) -> NDArray[np.float64]:
    """Return the stated rate of requests; NaN where that is not what comes in the long run, or none is stated."""
    process = setting(f"{_ARRIVALS}.process", "", str)
    return np.where(np.isin(process, KNOWN_DISPERSION), setting(_RATE, np.nan) * _turns(setting), np.nan)


def _turns(setting: _Settings) -> NDArray[np.float64]:
    """Return the mean turns of a session, 1 where there are no sessions; NaN where their law does not state it."""
    stated = [setting(f"{_TURNS}.{name}", np.nan) for name in ("mean", "value")]
    middle = (setting(f"{_TURNS}.low", np.nan) + setting(f"{_TURNS}.high", np.nan)) / 2.0
    return np.where(_has_sessions(setting), np.fmax(np.fmax(*stated), middle), 1.0)


def _has_sessions(setting: _Settings) -> NDArray[np.bool_]:
    """Say where requests are turns of sessions."""
    return np.asarray(setting(f"{_TURNS}.distribution", "", str) != "", np.bool_)


def _replications(cube: xr.Dataset) -> Callable[[str], NDArray[np.float64]]:
    """Return how to get the values of a variable, replications last."""
    names = axis_names(cube)
    return lambda name: cube.variables[name].transpose(*names, REPLICATION).values.astype(np.float64)


def worse(first: NDArray[np.str_], second: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return what two points are together: steady where both are, overloaded where one is."""
    either = np.where((first == OVERLOADED) | (second == OVERLOADED), OVERLOADED, CANNOT_TELL)
    return np.where((first == STEADY) & (second == STEADY), STEADY, either)


def tell(cube: xr.Dataset) -> None:
    """Put into the notes of a cube what its points are, in place of what they said before."""
    said = (*NOTES.values(), SHORT)
    kept = [note for note in str(cube.attrs.get("notes", "")).splitlines() if note not in said]
    found = judge(cube)
    kept += [note for queue, note in NOTES.items() if (found == queue).any()]
    short = (found == CANNOT_TELL).values & _has_sessions(_Settings(cube))
    cube.attrs["notes"] = "\n".join([*kept, *([SHORT] if short.any() else [])])


def _scatter(cube: xr.Dataset, setting: _Settings) -> NDArray[np.float64]:
    """Return by how much the work that comes in a long time scatters, Poisson arrivals of equal requests having 1.

    Its square is the sum of two. The index of dispersion of the number of arrivals: for gaps drawn independently the
    square of their coefficient of variation; for a rate that switches after exponential times, with mean r, difference
    d, and mean phases a and b, 1 + 2 (d²/r) (a b)² / (a + b)³; of recorded and other arrivals what their numbers in
    windows of time show, variance over mean, and unknown (NaN) of recorded ones without windows. All of these are taken
    to be at least 1. And of the service times: the square of their coefficient of variation, times the requests of a
    batch.
    """
    gaps = setting(f"{_ARRIVALS}.cv", 1.0)
    ratio, on, off = (setting(f"{_ARRIVALS}.{name}", 1.0) for name in ("on_off_ratio", "mean_on_s", "mean_off_s"))
    # As shares of the mean rate.
    apart = (1.0 - 1.0 / ratio) * (on + off) / (on + off / ratio)
    bursts = 2.0 * setting(_RATE, np.nan) * apart**2 * (on * off) ** 2 / (on + off) ** 3
    of_arrivals = np.maximum(gaps**2, 1.0 + np.where(ratio == 1.0, 0.0, bursts))
    values = _replications(cube)
    process = setting(f"{_ARRIVALS}.process", "", str)
    if "window_arrivals" in cube and cube.sizes["window"] > 1:
        seen = cube.variables["window_arrivals"].astype(np.float64)
        variance, mean = seen.var(("window", REPLICATION)), seen.mean(("window", REPLICATION))
        shown = (variance / mean).transpose(*axis_names(cube)).values
        of_arrivals = np.where(np.isin(process, KNOWN_DISPERSION), of_arrivals, np.fmax(of_arrivals, shown))
    elif _at(setting.stated, "workload.trace") is not None:
        of_arrivals = np.where(process == "", np.nan, of_arrivals)
    if {"service_mean_s", "service_variance_s2"} <= set(cube.data_vars):
        together = 1.0 if "steps" in cube else values("batch_size_mean").mean(axis=-1)
        squared = values("service_variance_s2").mean(axis=-1) / values("service_mean_s").mean(axis=-1) ** 2
        of_arrivals = of_arrivals + together * np.where(np.isfinite(squared), squared, 0.0)
    return np.asarray(np.sqrt(of_arrivals), np.float64)


class _Settings:
    """The settings of a cube, by their paths in its specification."""

    def __init__(self, cube: xr.Dataset) -> None:
        self.stated = parse_specification(str(cube.attrs.get("specification", "{}")))
        """Those of all points."""
        axes = self.stated.pop("axes", None)
        self._axes = axes if isinstance(axes, dict) else {}
        self._sizes = {name: cube.sizes[name] for name in axis_names(cube)}
        self._coords = {name: cube.variables[name] for name in cube.coords}

    def __call__(self, path: str, default: Any, read: Callable[[object], Any] = _number) -> NDArray[Any]:
        """Return a setting, broadcast to the axes of the cube; NaN where that cannot be known."""

        def value(given: object, otherwise: Any) -> Any:
            return otherwise if given is None else read(given)

        base = value(_at(self.stated, path), default)
        found = np.full(list(self._sizes.values()), base, dtype=object)
        for name, coordinate in self._coords.items():
            if path in str(coordinate.attrs.get("path", "")).split(","):
                points = _at(self._axes.get(name), "points")
                labels = np.ravel(coordinate.values).tolist()
                given = [
                    value(_at(_at(points, str(label)), path), base) if points else value(label, np.nan)
                    for label in labels
                ]
                shape = [len(given) if other == name else 1 for other in self._sizes]
                found = np.broadcast_to(np.reshape(np.array(given, dtype=object), shape), found.shape)
        for name, axis in self._axes.items():
            points = _at(axis, "points")
            sets = isinstance(points, dict) and any(_at(one, path) is not None for one in points.values())
            if name not in self._coords and (sets or _at(axis, "path") == path):
                found = np.full_like(found, np.nan)  # one value of it was selected, and is not known any more
        return found.astype(str if read is str else np.float64)


def _at(settings: object, path: str) -> object:
    """Return a setting of tables with dotted or nested keys; None where it is not set."""
    for key, value in settings.items() if isinstance(settings, dict) else ():
        if key == path:
            return value
        if path.startswith(f"{key}.") and (found := _at(value, path.removeprefix(f"{key}."))) is not None:
            return found
    return None
