"""The tally of a reference run: each count by its definition, with no thought of speed."""

from itertools import pairwise
from typing import TYPE_CHECKING

from ..batches.tally import COUNT, LEAST, LOW, MOST, SQUARE_0, SUM_0, SUM_1
from ..histogram import bucket_of
from ..policies.estimates import UNIT, read
from ..windows import REST_BITS
from .model import SERVED, TICKS_PER_NANOSECOND, Job, Records
from .tally import BIN_FIELDS, GAP, QUANTITIES, TOTAL_FIELDS, WINDOW_FIELDS, StepTally

if TYPE_CHECKING:
    from .reference import History


def tally_reference(job: Job, records: Records, history: "History", kept: int, tally: StepTally) -> None:
    """Fill an empty tally from what became of each request, and every step; `kept` is left in the KV caches."""
    arrival = job.requests.arrival.tolist()
    served = [i for i in range(len(arrival)) if records.status[i] == SERVED]
    measured = [i for i in served if i >= job.setup.reporting.warmup]
    start = arrival[measured[0] if measured else -1]
    gaps = [later - sooner for i in measured for sooner, later in pairwise(history.emitted[i])]
    _tally_totals(job, records, history, served, measured, gaps, start, kept, tally)
    for step in history.steps:
        tally.sizes[step.running] += step.start >= start
    _tally_times(job, records, measured, gaps, tally)
    _tally_windows(job, records, history, tally)


def _tally_totals(
    job: Job,
    records: Records,
    history: "History",
    served: list[int],
    measured: list[int],
    gaps: list[int],
    start: int,
    kept: int,
    tally: StepTally,
) -> None:
    requests, reporting, steps = job.requests, job.setup.reporting, history.steps
    arrival, count = requests.arrival, len(requests.arrival)
    late = [i for i in measured if records.last_token[i] - arrival[i] > reporting.request_sla]
    counted = [step for step in steps if step.start >= start]
    inside = [i for i in served if records.last_token[i] > start]
    missed = [i for i in range(reporting.warmup, count) if records.status[i] != SERVED]
    values = {
        "steps": len(steps),
        "decode_tokens": sum(step.decoding for step in steps),
        "prefill_tokens": sum(step.prefill_tokens for step in steps),
        "prefills": sum(step.prefills for step in steps),
        "preemptions": int(records.preemptions.sum()),
        "busy": sum(step.duration for step in steps),
        "peak_blocks": max((step.blocks for step in steps), default=0),
        "prompts": sum(int(requests.prompt[i]) for i in served),
        "completed": len(served),
        "rejected": count - len(served),
        "late": 0,
        "kept": kept,
        "measured_steps": len(counted),
        "running": sum(step.running for step in counted),
        "occupied": sum(max(step.start + step.duration - max(step.start, start), 0) for step in steps),
        "served": len(inside),
        "served_tokens": sum(instant > start for i in served for instant in history.emitted[i]),
        "first_arrival": start,
        "last_completion": max((int(records.last_token[i]) for i in served), default=0),
        "measured": len(measured),
        "late_requests": len(late),
        "late_tokens": sum(gap > reporting.token_sla for gap in gaps),
        "missed": len(missed),
        "missed_gaps": sum(int(requests.output[i]) - 1 for i in missed),
        "backlog_half": sum(i <= count // 2 and records.last_token[i] > arrival[count // 2] for i in served),
        "backlog_end": sum(records.last_token[i] > arrival[-1] for i in served),
    }
    assert tuple(values) == TOTAL_FIELDS
    tally.totals[:] = list(values.values())


def _tally_times(job: Job, records: Records, measured: list[int], gaps: list[int], tally: StepTally) -> None:
    """Fill moments and histograms of the times of requests and the gaps between tokens, and the bins."""
    arrival, output = job.requests.arrival, job.requests.output
    field = {name: k for k, name in enumerate(BIN_FIELDS)}
    times: dict[str, list[int]] = {name: [] for name in QUANTITIES[:GAP]}
    for i in measured:
        first, last, scheduled = (
            int(column[i]) for column in (records.first_token, records.last_token, records.scheduled)
        )
        mine = {
            "latency": last - int(arrival[i]),
            "wait": scheduled - int(arrival[i]),
            "service": last - scheduled,
            "ttft": first - int(arrival[i]),
        }
        if output[i] > 1:
            mine["tpot"] = (last - first) // int(output[i] - 1)
        for name, ticks in mine.items():
            times[name].append(ticks // TICKS_PER_NANOSECOND)
        row = tally.bins[job.bin_of[i]]
        row[field["requests"]] += 1
        for name in ("wait", "latency"):
            row[field[f"{name}_0"]] += times[name][-1] & LOW
            row[field[f"{name}_1"]] += times[name][-1] >> 32
    for q, name in enumerate(QUANTITIES[:GAP]):
        _add(times[name], times[name], tally, q)
    _add(gaps, [gap // TICKS_PER_NANOSECOND for gap in gaps], tally, GAP)


def _add(values: list[int], in_nanoseconds: list[int], tally: StepTally, quantity: int) -> None:
    if not values:
        return
    row, total, squares = tally.moments[quantity], sum(values), sum(value * value for value in values)
    row[COUNT], row[LEAST], row[MOST] = len(values), min(values), max(values)
    row[SUM_0], row[SUM_1] = total & LOW, total >> 32
    for limb in range(4):
        row[SQUARE_0 + limb] = (squares >> (32 * limb)) & LOW
    for value in in_nanoseconds:
        tally.histograms[quantity, bucket_of(value)] += 1


def _tally_windows(job: Job, records: Records, history: "History", tally: StepTally) -> None:
    field = {name: k for k, name in enumerate(WINDOW_FIELDS)}
    reporting, control = job.setup.reporting, job.setup.replica.control
    width, windows = reporting.window, reporting.windows

    def add(instant: int, name: str, value: int = 1) -> None:
        if instant // width < windows:
            tally.windows[instant // width, field[name]] += value

    def change(instant: int, name: str, value: int) -> None:
        rest = int(((instant // width + 1) * width - instant) * (1.0 / width) * (1 << REST_BITS))
        add(instant, name, value)
        add(instant, f"{name}_rest", value * rest)

    for i, arrival in enumerate(job.requests.arrival.tolist()):
        add(arrival, "arrivals")
        if records.status[i] == SERVED:
            last = int(records.last_token[i])
            change(arrival, "queue", 1)
            change(last, "running", -1)
            add(last, "completions")
            add(last, "late_requests", int(last - arrival > reporting.request_sla))
        else:
            add(arrival, "rejections")
    for instant, running in history.moves:
        change(instant, "queue", -running)
        change(instant, "running", running)
        add(instant, "preemptions", int(running < 0))
    for step in history.steps:
        steps = step.target.running
        add(step.start, "steps")
        add(step.start, "running_sum", step.running)
        add(step.start, "kv_tokens", step.tokens)
        add(step.start, "target", int(step.target.batch))
        add(step.start, "memory_bound", int(step.target.memory_bound))
        add(step.start, "sla_bound", int(step.target.sla_bound))
        if steps.seen > 0:
            add(step.start, "signals")
            add(step.start, "signal", int(read(steps.total.signal, steps, control.smoothing) * UNIT))
