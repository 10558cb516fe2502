"""The tally of a reference run: everything that happened, counted one by one, with no thought of speed."""

from itertools import pairwise
from typing import TYPE_CHECKING

from ..statistics import (
    ARRIVED,
    CONTINUOUS,
    DECISION,
    GAP,
    LOST,
    MEASURED,
    MEASURED_STEP,
    MOVE,
    SERVED,
    SIGNAL,
    STEP,
    Arrival,
    Gap,
    Limits,
    Lost,
    Request,
    Steps,
    decision_of,
)
from ..tally import Counter, Tally
from ..ticks import NEVER
from .following import followers, judged_by, makespan_begins
from .model import REJECTED, Job, Records
from .ticks import TICKS_PER_NANOSECOND

if TYPE_CHECKING:
    from .reference import History, Step


def limits_of(job: Job, records: Records) -> Limits:
    """Return what holds for a whole replication."""
    requests, reporting, arrival = job.requests, job.setup.reporting, job.requests.arrival.tolist()
    measured = [i for i in range(reporting.warmup, len(arrival)) if records.status[i] != REJECTED]
    judged, anybody = judged_by(requests), followers(requests).anybody
    closed = len(anybody) > 0
    until = arrival[anybody[-1]] - int(requests.delay[anybody[-1]]) if closed else NEVER
    return Limits(
        warmup=reporting.warmup,
        since=min(min(makespan_begins(i, requests, closed) for i in measured) if measured else arrival[-1], until),
        until=until,
        half=judged.half,
        half_arrived=arrival[judged.half],
        all_arrived=arrival[judged.last],
        request_sla=reporting.request_sla,
        token_sla=reporting.token_sla,
        capacity=0.0,
        tokens=True,
        unit=TICKS_PER_NANOSECOND,
        window=reporting.window,
        windows=reporting.windows,
    )


def count_reference(job: Job, records: Records, history: "History", kept: int, tally: Tally) -> None:
    """Fill an empty tally from what became of each request, and every step; `kept` is left in the KV caches."""
    limits = limits_of(job, records)
    tally.totals[CONTINUOUS.at("first_arrival")] = limits.since
    tally.totals[CONTINUOUS.at("kept")] = kept
    counter = Counter(CONTINUOUS, limits, tally)
    for i, arrival in enumerate(job.requests.arrival.tolist()):
        j, accepted = int(job.bin_of[i]), records.status[i] != REJECTED
        counter.add(ARRIVED, Arrival(int(accepted)), instant=arrival, bin=j)
        if not accepted:
            lost = Lost(i, int(job.requests.prompt[i]), int(job.requests.output[i]))
            counter.add(LOST, lost, instant=arrival, bin=j)
            continue
        request = request_of(job, records, i)
        counter.add(SERVED, request, instant=request.completion, bin=j)
        if i >= limits.warmup:
            counter.add(MEASURED, request, instant=request.completion, bin=j)
            counter.add_times(MEASURED, request)
            for sooner, later in pairwise(history.emitted[i]):
                gap = Gap(1, later - sooner)
                counter.add(GAP, gap)
                counter.add_times(GAP, gap)
    for instant, move in history.moves:
        counter.add(MOVE, move, instant=instant)
    for step in history.steps:
        _count_step(job, step, counter)
    counter.close()


def request_of(job: Job, records: Records, i: int) -> Request:
    """Return what a request shows."""
    return Request(
        number=i,
        arrival=int(job.requests.arrival[i]),
        start=int(records.scheduled[i]),
        first_token=int(records.first_token[i]),
        completion=int(records.last_token[i]),
        prompt=int(job.requests.prompt[i]),
        output=int(job.requests.output[i]),
        pace=0.0,
        begun=int(job.requests.arrival[i]) - (int(job.requests.delay[i]) if len(job.requests.delay) else 0),
    )


def _count_step(job: Job, step: "Step", counter: Counter) -> None:
    seen = Steps(
        steps=1,
        start=step.start,
        duration=step.duration,
        running=step.running,
        decoding=step.decoding,
        prefills=step.prefills,
        prefill_tokens=step.prefill_tokens,
        blocks=step.blocks,
        kv_tokens=step.tokens,
        stored=(step.blocks + step.kept) * job.setup.replica.enable_prefix_caching,
    )
    counter.add(STEP, seen, instant=step.start)
    if counter.limits.since <= step.start < counter.limits.until:
        counter.add(MEASURED_STEP, seen, instant=step.start)
        counter.tally.sizes[step.running] += 1
    decision = decision_of(1, step.target, job.setup.replica.control.smoothing)
    counter.add(DECISION, decision, instant=step.start)
    if step.target.running.seen > 0:
        counter.add(SIGNAL, decision, instant=step.start)
