"""A scheduler of vLLM's interface on a virtual clock: steps take what the step law says, nothing else takes time."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from batchcube.calibration.logs import Log
from batchcube.engine import simulate
from batchcube.engine.continuous import (
    Job,
    Law,
    Records,
    Replica,
    Setup,
    make_fleet,
    make_law,
    make_replica,
    make_reporting,
    new_records,
)
from batchcube.engine.continuous import make_requests as as_requests
from batchcube.engine.continuous.fleet import ROUTINGS
from batchcube.engine.continuous.reference import Engine, History
from batchcube.engine.continuous.steps import STEP_TERMS
from batchcube.engine.continuous.ticks import TICKS_PER_NANOSECOND, TICKS_PER_S
from batchcube.engine.policies.bins import assign_bins
from batchcube.engine.policies.target import Control
from batchcube.engine.ticks import NEVER
from batchcube.sweeps.serving.given import Given, Limits
from batchcube.sweeps.serving.log import NANOSECONDS_PER_S, REQUESTS

TIMES = ("scheduled_ts", "first_token_ts", "last_token_ts")


class Call(NamedTuple):
    """A request; nanoseconds and tokens."""

    arrival_ns: int
    prompt: int
    output: int
    predicted: float


class Time:
    """Time that stands still unless it is told to pass."""

    now_ns = 0

    def clock(self) -> int:
        """Return the nanoseconds that have passed."""
        return self.now_ns


class Interface(Protocol):
    """How requests and outputs are made: by vLLM, or by what stands in for it."""

    def request(self, name: str, call: Call) -> Any:
        """Make a request that has just arrived."""

    def output(self, names: list[str], tokens: list[list[int]]) -> Any:
        """Make what the model runner gives back: the tokens of each request in the step."""


def drive(scheduler: Any, interface: Interface, time: Time, calls: Sequence[Call], law: Sequence[int]) -> None:
    """Serve calls, in the order of arrival, until all are over; `law` are c0 to c4 in nanoseconds."""
    arrived = 0
    while arrived < len(calls) or scheduler.get_num_unfinished_requests():
        while arrived < len(calls) and calls[arrived].arrival_ns <= time.now_ns:
            name = str(arrived)
            scheduler.add_request(interface.request(name, calls[arrived]))
            arrived += 1
        if not scheduler.get_num_unfinished_requests():
            scheduler.schedule()  # as vLLM does, to tell its workers who is over
            time.now_ns = calls[arrived].arrival_ns
            continue
        ran = {request.request_id for request in scheduler.running}
        output = scheduler.schedule()
        before = {data.req_id: data.num_computed_tokens for data in output.scheduled_new_reqs}
        cached = output.scheduled_cached_reqs
        before |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        duration, tokens = law[0], []
        for name, chunk in output.num_scheduled_tokens.items():
            request, held = scheduler.requests[name], before[name]
            done = held + chunk == request.num_tokens
            if name in ran and chunk == 1 and done and request.num_output_tokens:
                duration += law[1] + law[2] * (held + 1)
            else:
                duration += law[3] * chunk + law[4] * chunk * (held + chunk)
            tokens.append([7] if done else [])
        time.now_ns += duration
        scheduler.update_from_output(output, interface.output(list(output.num_scheduled_tokens), tokens))
    scheduler.schedule()
    scheduler.shutdown()


def replica_of(control: Control, limits: Limits, law: Law, **settings: Any) -> Replica:
    """Return the simulator's replica with the limits of a server."""
    return make_replica(
        law,
        most_running=int(control.largest),
        token_budget=limits.settings["token_budget"],
        capacity_tokens=limits.capacity_tokens,
        block_tokens=limits.block_tokens,
        control=control,
        **settings,
    )


def simulated(given: Given, calls: Sequence[Call], law: Sequence[int], **settings: Any) -> Records:
    """Return what the simulator makes of the same calls, under the same policies."""
    predicted = np.array([call.predicted for call in calls])
    requests = as_requests(
        [call.arrival_ns / NANOSECONDS_PER_S for call in calls],
        [call.prompt for call in calls],
        [call.output for call in calls],
        predicted,
    )
    arrival = np.array([call.arrival_ns for call in calls]) * TICKS_PER_NANOSECOND
    terms: dict[str, Any] = {name: c / NANOSECONDS_PER_S for name, c in zip(STEP_TERMS, law, strict=False)}
    setup = Setup(
        replica_of(given.control, given.limits, make_law(**terms), **settings),
        make_fleet(
            routing=ROUTINGS[0],
            bins=given.bins,
            admission="by_bin" if given.by_bin else "fifo",
            bin_choice=given.bin_choice,
        ),
        make_reporting(horizon_s=1.0),
    )
    bins = assign_bins(predicted, given.edges) if given.by_bin else np.zeros(len(calls), np.int32)
    records: Records
    _, records = simulate(Job(requests._replace(arrival=arrival), bins, setup), "reference")
    return records


def instants(log: Path) -> list[list[int]]:
    """Return when each request was scheduled, and when its first and last token came, in nanoseconds: of a log."""
    rows = [json.loads(line) for line in (log / REQUESTS).read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: int(str(row["request_id"]).partition("-")[0]))
    return [[round(row[name] * NANOSECONDS_PER_S) for name in TIMES] + [row["preemptions"]] for row in rows]


def instants_of(records: Records) -> list[list[int]]:
    """Return the same of records."""
    columns = [getattr(records, name) // TICKS_PER_NANOSECOND for name in ("scheduled", "first_token", "last_token")]
    return [list(row) for row in zip(*(column.tolist() for column in (*columns, records.preemptions)), strict=True)]


def course(log: Log, replica: Replica) -> tuple[Records, list[tuple[float, int]]]:
    """Simulate the requests of a log, step by step; return records, and of each step its beginning in s and its cap."""
    requests = log.requests()
    job = Job(
        requests, np.zeros(len(requests.arrival), np.int32), Setup(replica, make_fleet(), make_reporting(horizon_s=1.0))
    )
    records = new_records(job)
    history = History(emitted={i: [] for i in range(len(requests.arrival))})
    engine = Engine(job, records, history, sent=list(range(len(requests.arrival))))
    engine.advance(NEVER)
    return records, [(step.start / TICKS_PER_S, step.target.batch) for step in history.steps]
