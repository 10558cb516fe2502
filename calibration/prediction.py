"""What users of a server feel: replays of a log by a step law, and what may come of what is not known of it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.engine import simulate_replica
from batchcube.engine.continuous import Fleet, Law, Records, Replica, Requests
from batchcube.engine.continuous.model import SERVED
from batchcube.engine.continuous.ticks import TICKS_PER_S
from batchcube.errors import InputError

from .coefficients import Coefficients
from .drawing import drawn_off, shifted
from .laws import law_of
from .logs import Log
from .opening import opened
from .scatter import OwnTime, Scatter, draw_time

Floats = NDArray[np.float64]

QUANTITIES = ("ttft_s", "tpot_s", "e2e_s")
BEYOND = 1.25
"""A log says of its requests up to this much beyond the last that is looked at."""
# Draws of a prediction, of short logs and of long ones: requests that all of them may serve.
_DRAWS, _MOST_SERVED = (60, 200), 200_000


class Server(NamedTuple):
    """What served a log: replicas that are all alike, and how requests find their way to one."""

    replica: Replica
    fleet: Fleet


class Times(NamedTuple):
    """What users of a server feel, each (request,), seconds; NaN where a request was rejected."""

    ttft_s: Floats
    """Time to first token, from when the request came."""
    tpot_s: Floats
    """Time per output token after the first; NaN for a single token."""
    e2e_s: Floats
    """From then to the last token."""


def times_of_log(log: Log) -> Times:
    """Return what was measured."""
    return _times(log.came_s, log.first_token_s, log.last_token_s, log.output_tokens)


def times_of_records(log: Log, records: Records, client_s: float = 0.0) -> Times:
    """Return what was simulated, with what a client's clock adds where the log's is one."""
    came, first, last = _seconds(records)
    times = _times(came if log.loop else log.came_s, first, last, log.output_tokens)
    return _late(times, client_s if log.clock == "client" else 0.0)


def _late(times: Times, by_s: float | Floats) -> Times:
    """Return times whose tokens all come so much later."""
    return Times(times.ttft_s + by_s, times.tpot_s, times.e2e_s + by_s)


def _seconds(records: Records) -> tuple[Floats, Floats, Floats]:
    """Return when requests came, and when they had their first and last token."""
    first, last = (
        np.where(records.status == SERVED, ticks, np.nan) / TICKS_PER_S
        for ticks in (records.first_token, records.last_token)
    )
    return records.arrival / TICKS_PER_S, first, last


def _times(came: Floats, first: Floats, last: Floats, output: NDArray[np.int64]) -> Times:
    with np.errstate(invalid="ignore"):
        tpot = np.where(output > 1, (last - first) / np.maximum(output - 1, 1), np.nan)
    return Times(first - came, tpot, last - came)


def replay(log: Log, server: Server, law: Law, client_s: float = 0.0) -> Records:
    """Simulate a log's requests, `Log.requests`, with this step law of a server; raises like `simulate_replica`."""
    return _served(log.requests(client_s), server, law)


def scattered(log: Log, server: Server, law: Law, time: OwnTime, client_s: float = 0.0) -> Times:
    """Return what users feel of a server that follows a law on a time of its own; raises like `replay`.

    Requests come as by `Log.requests`; what a client's clock adds to the times is not in them.
    """
    requests = log.requests(client_s)
    own = np.rint(time.own(requests.arrival / TICKS_PER_S) * TICKS_PER_S).astype(np.int64)
    records = _served(requests._replace(arrival=own), server, law)
    came, first, last = (time.ours(at) for at in _seconds(records))
    # Arrivals that are known stay what they are to the last digit: a fit amplifies the rest.
    return _times(came if log.loop else log.came_s, first, last, log.output_tokens)


def _served(requests: Requests, server: Server, law: Law) -> Records:
    records, _ = simulate_replica(requests, server.replica._replace(law=law), fleet=server.fleet)
    return records


def is_open_prior(known: Coefficients) -> bool:
    """Say whether coefficients are tables whose errors nobody knows: they may be as far off as a prior."""
    return known.label == "tables" and known.step_law is not None and known.step_law.errors is None


def fitted_part(known: Coefficients, log: Log) -> int:
    """Return how many of the first requests of a log coefficients were fitted to, 0 of any other log."""
    return known.log.fitted_to if known.log and known.raw and known.raw.sha256 == log.sha256 else 0


def predicted(log: Log, server: Server, known: Coefficients, count: int | None = None, seed: int = 1) -> list[Times]:
    """Return what users may feel of a server that serves a log, ``count`` times; as often as is soon done when None.

    Laws are drawn from what their errors leave open, those of tables, which have none, from how far a prior may be off;
    steps scatter as they did around the law in the log that it was fitted to. Any other log is of another run, which
    may be faster or slower all along, by as much as the speed drifts within one. Raises like `replay`; InputError for
    coefficients without a step law.
    """
    law, fitted = known.step_law, known.log
    if law is None:
        raise InputError("hold no step law", path=f"coefficients {known.name}")
    rng = np.random.default_rng(seed)
    if count is None:
        count = int(np.clip(_MOST_SERVED // len(log.queued_s), *_DRAWS))
    end_s = BEYOND * float(log.last_token_s.max())
    least = {} if fitted is None else fitted.least
    opening = opened(law, log, log.first(len(log.came_s)), server.fleet.replicas) if is_open_prior(known) else None
    scatter = None if fitted is None or fitted.scatter is None else Scatter(**fitted.scatter.model_dump())
    other_run_by = 0.0 if scatter is None or fitted_part(known, log) else scatter.drift
    came = []
    for _ in range(count):
        if opening is not None:
            law = opening.drawn(rng)
        off = {} if law.errors is None else drawn_off(law, law.errors, least, rng)
        of_run = shifted(law, off) if off else law
        if other_run_by:
            of_run = shifted(of_run, {"speed": rng.normal(0.0, other_run_by)})
        # What a client adds a log tells from a law by few of its requests: the one makes up for the other.
        client_s = 0.0 if fitted is None else max(fitted.client_s + off.get("client", 0.0), 0.0)
        drawn = law_of(of_run)
        if scatter is None:
            came.append(times_of_records(log, replay(log, server, drawn, client_s), client_s))
            continue
        times = scattered(log, server, drawn, draw_time(scatter, end_s, rng), client_s)
        late = np.maximum(scatter.ttft_s * rng.standard_normal(len(log.queued_s)), -times.ttft_s)
        came.append(_late(times, late + (client_s if log.clock == "client" else 0.0)))
    return came
