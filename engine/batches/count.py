"""The tally of a reference run: everything that happened, counted one by one, with no thought of speed."""

import numpy as np

from ..policies.service import piece_of
from ..statistics import (
    ARRIVED,
    BATCH,
    BATCHES,
    DECISION,
    LOST,
    MEASURED,
    MEASURED_BATCH,
    SERVED,
    SIGNAL,
    WORK,
    Arrival,
    Batch,
    Limits,
    Lost,
    Request,
    Work,
    decision_of,
)
from ..tally import Counter, Tally
from ..ticks import NEVER
from . import reference
from .model import Bins, Records, Setup, Trace


def limits_of(trace: Trace, setup: Setup) -> Limits:
    """Return what holds for a whole replication."""
    reporting, requests, arrival = setup.reporting, len(trace.arrival), trace.arrival.tolist()
    return Limits(
        warmup=reporting.warmup,
        since=arrival[min(reporting.warmup, requests - 1)],
        until=NEVER,
        half=requests // 2,
        half_arrived=arrival[requests // 2],
        all_arrived=arrival[-1],
        request_sla=reporting.request_sla,
        token_sla=reporting.token_sla,
        capacity=setup.control.memory.capacity,
        tokens=not setup.service.timed,
        unit=1,
        window=reporting.window,
        windows=reporting.windows,
    )


def count_reference(
    trace: Trace, bins: Bins, setup: Setup, records: Records, batches: list[reference.Batch], tally: Tally
) -> None:
    """Fill an empty tally row from what became of each request and the batches in starting order."""
    limits = limits_of(trace, setup)
    tally.totals[BATCHES.at("first_arrival")] = limits.since
    counter = Counter(BATCHES, limits, tally)
    for i, arrival in enumerate(trace.arrival.tolist()):
        counter.add(ARRIVED, Arrival(1), instant=arrival, bin=int(bins.of[i]))
        if records.batch[i] < 0:
            lost = Lost(i, int(trace.prompt[i]), int(trace.output[i]))
            counter.add(LOST, lost, instant=arrival, bin=int(bins.of[i]))
    for batch in batches:
        _count_batch(trace, setup, records, batch, counter)
        for i in batch.members:
            request = request_of(trace, setup, records, batch, i)
            counter.add(SERVED, request, instant=request.completion, bin=batch.bin)
            if i >= limits.warmup:
                counter.add(MEASURED, request, instant=request.completion, bin=batch.bin)
                counter.add_times(MEASURED, request)
    counter.close()


def request_of(trace: Trace, setup: Setup, records: Records, batch: reference.Batch, i: int) -> Request:
    """Return what one request of a batch shows."""
    return Request(
        number=i,
        arrival=int(trace.arrival[i]),
        start=batch.start,
        first_token=batch.start + setup.service.prefill,
        completion=int(records.completion[i]),
        prompt=int(trace.prompt[i]),
        output=int(trace.output[i]),
        pace=(batch.service - setup.service.prefill) / batch.longest,
        begun=int(trace.arrival[i]),
    )


def _count_batch(trace: Trace, setup: Setup, records: Records, batch: reference.Batch, counter: Counter) -> None:
    members, service = np.array(batch.members), setup.service
    outputs = trace.output[members]
    seen = Batch(
        size=len(members),
        start=batch.start,
        service=batch.service,
        completion=batch.completion,
        longest=batch.longest,
        lengths=int(trace.length[members].sum()),
        tokens=int((trace.prompt[members] + outputs).sum()),
        extrapolated=int(service.extrapolated[len(members), piece_of(batch.longest, service)]),
    )
    counter.add(BATCH, seen, instant=batch.start, bin=batch.bin)
    if batch.members[0] >= counter.limits.warmup:
        counter.add(MEASURED_BATCH, seen, instant=batch.start, bin=batch.bin)
        counter.tally.sizes[len(members)] += 1
    work = [Work(batch.start, batch.service, int(outputs.sum()))]
    if setup.policy.own_completion:
        work = [
            Work(batch.start, int(completion) - batch.start, int(tokens))
            for completion, tokens in zip(records.completion[members], outputs, strict=True)
        ]
    for stretch in work:
        counter.add(WORK, stretch, instant=stretch.start + stretch.ticks, bin=batch.bin)
    if (target := batch.decision) is not None:
        decision = decision_of(1, target, setup.control.smoothing)
        counter.add(DECISION, decision, instant=batch.start, bin=batch.bin)
        if target.running.seen > 0:
            counter.add(SIGNAL, decision, instant=batch.start, bin=batch.bin)
