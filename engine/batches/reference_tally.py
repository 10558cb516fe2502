"""The tally of a reference run: each count by its definition, from the finished records, with no thought of speed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..histogram import bucket_of
from ..policies.estimates import UNIT, read
from ..policies.service import piece_of, tokens_after
from ..windows import REST_BITS
from .model import Records, Setup, Trace
from .reference import Batch
from .tally import BIN_FIELDS, QUANTITIES, TBT_UNIT, WINDOW_FIELDS, Tally


def tally_reference(trace: Trace, setup: Setup, records: Records, batches: list[Batch], tally: Tally) -> None:
    """Fill an empty tally row from what became of each request and the batches in starting order."""
    served = np.flatnonzero(records.batch >= 0)
    measured = served[served >= setup.reporting.warmup]
    tally_totals(trace, setup, records, batches, served, measured, tally)
    tally_requests(trace, setup, records, batches, measured, tally)
    tally_bins(trace, setup, records, batches, measured, tally)
    tally_windows(trace, setup, records, batches, served, tally)


def past_warmup(setup: Setup, batches: list[Batch]) -> list[Batch]:
    """Return the batches none of whose requests belongs to the warm-up."""
    return [batch for batch in batches if min(batch.members) >= setup.reporting.warmup]


def tbt_of(setup: Setup, batch: Batch) -> float:
    """Return the time between tokens of a batch, in ticks."""
    return (batch.service - setup.service.prefill) / batch.longest


def tokens_of(trace: Trace, batch: Batch) -> int:
    """Return the tokens a batch holds in memory at its end."""
    return sum(int(trace.prompt[i] + trace.output[i]) for i in batch.members)


def tally_totals(
    trace: Trace,
    setup: Setup,
    records: Records,
    batches: list[Batch],
    served: NDArray[Any],
    measured: NDArray[Any],
    tally: Tally,
) -> None:
    """Fill the totals and the batch sizes."""
    totals, reporting, requests = tally.totals[0], setup.reporting, len(trace.arrival)
    totals["completed"], totals["unserved"], totals["measured"] = len(served), requests - len(served), len(measured)
    totals["first_arrival"] = trace.arrival[min(reporting.warmup, requests - 1)]
    totals["last_completion"] = max((batch.completion for batch in batches), default=0)
    missed = [i for i in np.flatnonzero(records.batch < 0) if i >= reporting.warmup]
    totals["missed"], totals["missed_tokens"] = len(missed), sum(int(trace.output[i]) for i in missed)
    totals["output_tokens"] = sum(int(trace.output[i]) for i in measured)
    latency = records.completion - trace.arrival
    totals["late_requests"] = sum(int(latency[i]) > reporting.request_sla for i in measured)
    late_batches = {batch.number for batch in batches if tbt_of(setup, batch) > reporting.token_sla}
    totals["late_tokens"] = sum(int(trace.output[i]) for i in measured if int(records.batch[i]) in late_batches)
    for batch in batches:
        totals["served"] += sum(int(records.completion[i]) > totals["first_arrival"] for i in batch.members)
        made = [(batch.service, sum(int(trace.output[i]) for i in batch.members))]
        if setup.policy.own_completion:
            made = [(int(records.completion[i]) - batch.start, int(trace.output[i])) for i in batch.members]
        for ticks, outputs in made:
            totals["served_tokens"] += tokens_after(int(totals["first_arrival"]), batch.start, ticks, outputs)
        totals["occupied"] += max(batch.completion - max(batch.start, int(totals["first_arrival"])), 0)
    for batch in past_warmup(setup, batches):
        size = len(batch.members)
        totals["batches"] += 1
        totals["members"] += size
        totals["busy"] += batch.service
        totals["length"] += sum(int(trace.length[i]) for i in batch.members)
        totals["padded"] += size * batch.longest
        totals["overflows"] += tokens_of(trace, batch) > setup.control.memory.capacity
        totals["peak_tokens"] = max(int(totals["peak_tokens"]), tokens_of(trace, batch))
        totals["extrapolated"] += setup.service.extrapolated[size, piece_of(batch.longest, setup.service)]
        tally.sizes[size] += 1
    half = int(trace.arrival[requests // 2])
    done = {batch.number: batch.completion for batch in batches}
    totals["backlog_half"] = requests // 2 + 1 - sum(done[int(records.batch[i])] <= half for i in served)
    totals["backlog_end"] = requests - sum(done[int(records.batch[i])] <= int(trace.arrival[-1]) for i in served)


def tally_requests(
    trace: Trace, setup: Setup, records: Records, batches: list[Batch], measured: NDArray[Any], tally: Tally
) -> None:
    """Fill moments and histograms of latency, wait, service and TBT."""
    by_number = {batch.number: batch for batch in batches}
    for i in measured:
        batch = by_number[int(records.batch[i])]
        start, completion, arrival = int(records.start[i]), int(records.completion[i]), int(trace.arrival[i])
        tbt = tbt_of(setup, batch)
        values = {"latency": completion - arrival, "wait": start - arrival, "service": completion - start}
        for q, name in enumerate(QUANTITIES):
            if name == "tbt" and setup.service.timed:
                continue  # without tokens there is no time between them
            value = round(tbt * TBT_UNIT) if name == "tbt" else values[name]
            in_ticks = tbt if name == "tbt" else float(value)
            row = tally.moments[q]
            row[0] += 1
            row[1] += value & 0xFFFFFFFF
            row[2] += value >> 32
            low, high = value & 0xFFFFFFFF, value >> 32
            row[3] += low * low & 0xFFFFFFFF
            row[4] += (low * low >> 32) + (2 * low * high & 0xFFFFFFFF)
            row[5] += (2 * low * high >> 32) + (high * high & 0xFFFFFFFF)
            row[6] += high * high >> 32
            row[7], row[8] = min(int(row[7]), value), max(int(row[8]), value)
            tally.histograms[q, bucket_of(in_ticks)] += 1


def tally_bins(
    trace: Trace, setup: Setup, records: Records, batches: list[Batch], measured: NDArray[Any], tally: Tally
) -> None:
    """Fill the counts of every bin."""
    field = {name: k for k, name in enumerate(BIN_FIELDS)}
    for batch in batches:
        row = tally.bins[batch.bin]
        inside = [i for i in batch.members if i >= setup.reporting.warmup]
        wait = sum(int(records.start[i] - trace.arrival[i]) for i in inside)
        latency = sum(int(records.completion[i] - trace.arrival[i]) for i in inside)
        row[field["requests"]] += len(inside)
        row[field["wait_0"]] += wait & 0xFFFFFFFF
        row[field["wait_1"]] += wait >> 32
        row[field["latency_0"]] += latency & 0xFFFFFFFF
        row[field["latency_1"]] += latency >> 32
        if len(inside) == len(batch.members):
            row[field["batches"]] += 1
            row[field["members"]] += len(inside)
            row[field["longest"]] += batch.longest


def tally_windows(
    trace: Trace, setup: Setup, records: Records, batches: list[Batch], served: NDArray[Any], tally: Tally
) -> None:
    """Fill the counts of every time window."""
    field = {name: k for k, name in enumerate(WINDOW_FIELDS)}
    width, windows = setup.reporting.window, setup.reporting.windows

    def add(instant: int, name: str, value: int = 1) -> None:
        if instant // width < windows:
            tally.windows[instant // width, field[name]] += value

    def rest(instant: int) -> int:
        return int(((instant // width + 1) * width - instant) * (1.0 / width) * (1 << REST_BITS))

    for arrival in trace.arrival.tolist():
        add(arrival, "arrivals")
        add(arrival, "arrival_rest", rest(arrival))
    for i in np.flatnonzero(records.batch < 0):
        add(int(trace.arrival[i]), "missed")
    for i in served:
        completion = int(records.completion[i])
        add(completion, "completions")
        add(completion, "late_requests", int(completion - int(trace.arrival[i]) > setup.reporting.request_sla))
    for batch in batches:
        add(batch.start, "batches")
        add(batch.start, "started", len(batch.members))
        add(batch.start, "start_rest", len(batch.members) * rest(batch.start))
        if (target := batch.decision) is not None:
            add(batch.start, "target", target.batch)
            add(batch.start, "memory_bound", int(target.memory_bound))
            add(batch.start, "sla_bound", int(target.sla_bound))
            if target.running.seen > 0:
                signal = read(target.running.total.signal, target.running, setup.control.smoothing)
                add(batch.start, "signals")
                add(batch.start, "signal_0", int(signal * UNIT) & 0xFFFFFFFF)
                add(batch.start, "signal_1", int(signal * UNIT) >> 32)
