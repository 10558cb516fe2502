"""The catalogue of statistics: what is counted, over what, and the numbers of the report (docs/model.md, section 9).

A number is defined here, once. A `Count` is a sum (or a maximum) of an expression over what happens: over requests,
batches, steps. The expression is written in the dialect's words over one of the named tuples below, so that plain
Python, the kernels and the device programs evaluate the same text; a `Time` is an expression whose distribution is
kept. `numbers` make the variables of a cube from the sums. Integers only, so that the order of adding does not matter
and nothing is rounded before the end.

What one request shows is counted alike for whole batches (`BATCHES`) and for continuous batching (`CONTINUOUS`): only
the clock differs, and what there is to count besides.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .dialect import maximum, minimum, policy, where, whole
from .policies.estimates import UNIT, read
from .policies.service import tokens_after
from .ratios import column, divide, only_if, share_missed
from .ticks import NEVER

# What is seen ---------------------------------------------------------------------------------------------------------

Integer = Any
"""One number, or an array of them: then a tuple stands for many."""
Real = Any


class Limits(NamedTuple):
    """What holds for a whole replication; instants and times in ticks."""

    warmup: Integer
    """Number of the first request that is measured."""
    since: Integer
    """When the makespan begins: the arrival of the first measured request."""
    until: Integer
    """When it ends, of a closed loop: the last request has a user then, and soon there are fewer; NEVER: when all is
    done."""
    half: Integer
    """Number of the request with which half of them have arrived, of those whose arrival waits for no answer."""
    half_arrived: Integer
    """Its arrival."""
    all_arrived: Integer
    """The last arrival of those."""
    request_sla: Integer
    """D_request; NEVER when not set."""
    token_sla: Real
    """D_token; beyond all times when not set."""
    capacity: Real
    """Tokens that a batch may hold in memory."""
    tokens: bool
    """Requests have tokens, and not only service times."""
    unit: Integer
    """Ticks of a unit that times are reported in."""
    window: Integer
    """Width of a time window."""
    windows: Integer
    """How many there are."""


class Arrival(NamedTuple):
    """A request that arrives."""

    accepted: Integer
    """1, or 0 where it is turned away at once."""


class Lost(NamedTuple):
    """A request that is never served."""

    number: Integer
    """In the order of arrival, from 0."""
    prompt: Integer
    output: Integer


class Request(NamedTuple):
    """A request that is served, as what became of it shows once it is complete; instants in ticks."""

    number: Integer
    """In the order of arrival, from 0."""
    arrival: Integer
    start: Integer
    """Of its batch, or of the step that admits it first."""
    first_token: Integer
    completion: Integer
    prompt: Integer
    """Tokens; 0 where only service times are given."""
    output: Integer
    """Tokens; 0 where only service times are given."""
    pace: Real
    """Whole batches: ticks per token of its batch."""
    begun: Integer
    """When its sender turned to it: as it arrived, or, where it waits for an answer, as that ended."""


class Together(NamedTuple):
    """Requests of one batch that complete together: what they add up to."""

    requests: Integer
    start: Integer
    completion: Integer
    outputs: Integer
    """Tokens."""
    late: Integer
    """Those over D_request."""
    pace: Real
    waits: Integer
    """Sum of them."""
    latencies: Integer
    """Sum of them."""


class Work(NamedTuple):
    """A stretch of service over which tokens are made evenly: a whole batch, or a request that completes by itself."""

    start: Integer
    ticks: Integer
    outputs: Integer


class Batch(NamedTuple):
    """A batch that is served."""

    size: Integer
    start: Integer
    service: Integer
    completion: Integer
    longest: Integer
    """Largest length."""
    lengths: Integer
    """Sum of them."""
    tokens: Integer
    """Prompts and outputs."""
    extrapolated: Integer
    """1 outside the measured table."""


class Decision(NamedTuple):
    """What the controllers had decided when a batch, or as many steps, began."""

    times: Integer
    target: Integer
    memory_bound: Real
    sla_bound: Real
    signal: Integer
    """The smoothed signal, in 1/1024 of a microsecond; 0 before there is one."""


class Steps(NamedTuple):
    """Steps of continuous batching that are alike, and the only one where a statistic must see each by itself.

    Those that begin before `Limits.since`, or before `Limits.until`, end before it too, but for the last of them.
    """

    steps: Integer
    start: Integer
    duration: Integer
    """Of all of them."""
    running: Integer
    """Requests that run in each."""
    decoding: Integer
    """Decodes in each: each emits a token."""
    prefills: Integer
    """Prefills that end in each: each emits a token."""
    prefill_tokens: Integer
    """Prefilled in each, those again after a preemption too."""
    blocks: Integer
    """In use at the end of the last, before finished requests leave."""
    kv_tokens: Integer
    """In the cache at the end of each, added up; those that requests share count for each."""
    stored: Integer
    """Blocks in use, or kept for what is in them, at the end of each, added up; 0 where prefixes are not cached."""


class Move(NamedTuple):
    """A request that begins to run, or goes back to the queue."""

    running: Integer
    """1, or -1."""
    asked: Integer
    """Tokens that were looked for in the KV cache, of a request that begins for the first time; 0 where none are."""
    found: Integer
    """Those of them that were there."""


class Gap(NamedTuple):
    """As many equal times between two tokens of measured requests."""

    gaps: Integer
    ticks: Integer


@policy
def latency(request: Request) -> Any:
    """Return the ticks from arrival to completion."""
    return request.completion - request.arrival


@policy
def wait(request: Request) -> Any:
    """Return the ticks from arrival to start."""
    return request.start - request.arrival


@policy
def decision_of(times: Any, target: Any, smoothing: Any) -> Decision:
    """Return a decision, given as a `Target`, as so many starts show it."""
    signal = whole(read(target.running.total.signal, target.running, smoothing) * UNIT)
    return Decision(times, target.batch, target.memory_bound, target.sla_bound, signal)


# What is counted ------------------------------------------------------------------------------------------------------

# Over what, and of which tuple: an instant decides on the window that it is counted in.
ARRIVED = "every request: Arrival, at its arrival"
LOST = "every request that is never served: Lost, at its arrival"
SERVED = "every served request: Request, at its completion"
MEASURED = "every served request past the warm-up: Request"
WORK = "every stretch of service: Work"
BATCH = "every batch: Batch, at its start"
MEASURED_BATCH = "every batch whose requests are all past the warm-up: Batch"
DECISION = "every start under a controller: Decision, at it"
SIGNAL = "every such start with a smoothed signal at hand: Decision, at it"
STEP = "every step: Steps, at its start"
MEASURED_STEP = "every step that begins within the makespan: Steps"
MOVE = "every move between queue and replica: Move, at it"
GAP = "every time between tokens of measured requests: Gap"

IN_BINS = (ARRIVED, LOST, SERVED, MEASURED, BATCH, MEASURED_BATCH)
"""What has a bin."""
TIMELESS = (WORK, GAP)
"""What has no instant, and so no window."""
TOTALS, BINS, WINDOWS = "totals", "bins", "windows"
EACH, WHEN_TOGETHER, ALWAYS = "each", "when together", "always"
SUM, LARGEST, WIDE, LEVEL = "sum", "largest", "sum beyond 64 bits", "level over time"

QUANTILES = (0.5, 0.9, 0.95, 0.99)
TBT_UNIT = 1024
"""The time between tokens of whole batches is kept in 1/1024 tick: it is a ratio, and rarely a whole number of them."""

Expression = Callable[[Any, Limits], Any]


class Count(NamedTuple):
    """One count: a sum or maximum of an expression over what happens."""

    name: str
    over: str
    of: Expression
    """Of a tuple and the limits; an integer or a bool."""
    into: str = TOTALS
    """Counted once for the replication, for every bin, or for every time window."""
    reducer: str = SUM
    """WIDE: what is added is not negative. LEVEL: `of` is a change of a level, whose average over a window counts."""
    together: Expression | None = None
    """The same for many at once, where there is a closed form: over `Together` for requests; for steps `of` itself.

    A kernel evaluates a count without it one by one. For `WORK` it is what holds for all work that begins within the
    makespan.
    """


class Time(NamedTuple):
    """A time whose mean, variance, extremes and quantiles are reported."""

    name: str
    of: Expression
    """Ticks; of a `Request`, or of a `Gap`."""
    over: str = MEASURED
    when: Expression | None = None
    """Whether a request has this time."""
    finer: int = 1
    """Moments are kept in 1/finer of the clock's unit, where `of` is a fraction of it."""
    alike: str = EACH
    """Whether it is the same for all requests of a batch: EACH has its own, it is WHEN_TOGETHER, or ALWAYS."""


class Clock(NamedTuple):
    """In what time is counted."""

    ticks_per_s: int
    ticks_per_unit: int
    """Reported times are counted in whole units."""

    @property
    def units_per_s(self) -> int:
        """Units of a second."""
        return self.ticks_per_s // self.ticks_per_unit


def _count(name: str, over: str, of: Expression, **how: Any) -> Count:
    """Return a count whose expressions can be compiled in."""
    if how.get("together") is not None:
        how["together"] = policy(how["together"])
    return Count(name, over, policy(of), **how)


def _steps(name: str, of: Expression, over: str = STEP, **how: Any) -> Count:
    """Return a count over steps whose expression holds for many of them at once."""
    one = policy(of)
    return Count(name, over, one, together=one, **how)


def _time(name: str, of: Expression, **how: Any) -> Time:
    """Return a time whose expressions can be compiled in."""
    if how.get("when") is not None:
        how["when"] = policy(how["when"])
    return Time(name, policy(of), **how)


# Of requests, whatever serves them.
_REQUESTS = (
    _count("completed", SERVED, lambda r, k: 1, together=lambda g, k: g.requests),
    # Past the warm-up: what the request statistics are over.
    _count("measured", MEASURED, lambda r, k: 1, together=lambda g, k: g.requests),
    # Whoever they are, within the makespan.
    _count(
        "served",
        SERVED,
        lambda r, k: (r.completion > k.since) & (r.completion <= k.until),
        together=lambda g, k: where((g.completion > k.since) & (g.completion <= k.until), g.requests, 0),
    ),
    _count("late_requests", MEASURED, lambda r, k: latency(r) > k.request_sla, together=lambda g, k: g.late),
    _count("missed", LOST, lambda r, k: r.number >= k.warmup),
    _count("requests", MEASURED, lambda r, k: 1, into=BINS, together=lambda g, k: g.requests),
    _count("wait", MEASURED, lambda r, k: wait(r) // k.unit, into=BINS, reducer=WIDE, together=lambda g, k: g.waits),
    _count(
        "latency",
        MEASURED,
        lambda r, k: latency(r) // k.unit,
        into=BINS,
        reducer=WIDE,
        together=lambda g, k: g.latencies,
    ),
    # Windows count everybody, warm-up or not: they are there to show how things change.
    _count("arrivals", ARRIVED, lambda a, k: 1, into=WINDOWS),
    _count("missed", LOST, lambda r, k: 1, into=WINDOWS),
    _count("completions", SERVED, lambda r, k: 1, into=WINDOWS, together=lambda g, k: g.requests),
    _count(
        "late_requests",
        SERVED,
        lambda r, k: latency(r) > k.request_sla,
        into=WINDOWS,
        together=lambda g, k: g.late,
    ),
    _count("queue", ARRIVED, lambda a, k: a.accepted, into=WINDOWS, reducer=LEVEL),
)
_DECISIONS = (
    _count("decisions", DECISION, lambda d, k: d.times, into=WINDOWS),
    _count("target", DECISION, lambda d, k: d.times * d.target, into=WINDOWS),
    _count("memory_bound", DECISION, lambda d, k: d.times * whole(d.memory_bound), into=WINDOWS),
    _count("sla_bound", DECISION, lambda d, k: d.times * whole(d.sla_bound), into=WINDOWS),
    _count("signals", SIGNAL, lambda d, k: d.times, into=WINDOWS),
    _count("signal", SIGNAL, lambda d, k: d.times * d.signal, into=WINDOWS, reducer=WIDE),
)
_TIMES = (
    _time("latency", lambda r, k: latency(r)),
    _time("wait", lambda r, k: wait(r)),
    _time("service", lambda r, k: r.completion - r.start, alike=WHEN_TOGETHER),
)
_BATCHES = (
    _count("unserved", LOST, lambda r, k: 1),
    _count("missed_tokens", LOST, lambda r, k: where(r.number >= k.warmup, r.output, 0)),
    _count("output_tokens", MEASURED, lambda r, k: r.output, together=lambda g, k: g.outputs),
    _count(
        "late_tokens",
        MEASURED,
        lambda r, k: where(r.pace > k.token_sla, r.output, 0),
        together=lambda g, k: where(g.pace > k.token_sla, g.outputs, 0),
    ),
    _count(
        "served_tokens",
        WORK,
        lambda w, k: tokens_after(k.since, w.start, w.ticks, w.outputs),
        together=lambda w, k: w.outputs,
    ),
    _count("ended", BATCH, lambda b, k: b.completion, reducer=LARGEST),
    _count("occupied", BATCH, lambda b, k: maximum(b.completion - maximum(b.start, k.since), 0)),
    _count("done_half", BATCH, lambda b, k: where(b.completion <= k.half_arrived, b.size, 0)),
    _count("done_all", BATCH, lambda b, k: where(b.completion <= k.all_arrived, b.size, 0)),
    _count("batches", MEASURED_BATCH, lambda b, k: 1),
    _count("members", MEASURED_BATCH, lambda b, k: b.size),
    _count("busy", MEASURED_BATCH, lambda b, k: b.service),
    _count("lengths", MEASURED_BATCH, lambda b, k: b.lengths),
    _count("padded", MEASURED_BATCH, lambda b, k: b.size * b.longest),
    _count("overflows", MEASURED_BATCH, lambda b, k: b.tokens > k.capacity),
    _count("peak_tokens", MEASURED_BATCH, lambda b, k: b.tokens, reducer=LARGEST),
    _count("extrapolated", MEASURED_BATCH, lambda b, k: b.extrapolated),
    _count("batches", MEASURED_BATCH, lambda b, k: 1, into=BINS),
    _count("members", MEASURED_BATCH, lambda b, k: b.size, into=BINS),
    _count("longest", MEASURED_BATCH, lambda b, k: b.longest, into=BINS),
    _count("batches", BATCH, lambda b, k: 1, into=WINDOWS),
    _count("started", BATCH, lambda b, k: b.size, into=WINDOWS),
    _count("queue", BATCH, lambda b, k: -b.size, into=WINDOWS, reducer=LEVEL),
)
_CONTINUOUS = (
    _count("prompts", SERVED, lambda r, k: r.prompt),
    _count("ended", SERVED, lambda r, k: where(k.until < NEVER, k.until, r.completion), reducer=LARGEST),
    # Who waits for an answer may come after those with higher numbers. A session that thinks is not done.
    _count(
        "backlog_half",
        SERVED,
        lambda r, k: (r.number <= k.half) & (r.begun <= k.half_arrived) & (r.completion > k.half_arrived),
    ),
    _count("backlog_all", SERVED, lambda r, k: (r.begun <= k.all_arrived) & (r.completion > k.all_arrived)),
    _count(
        "queue_half",
        SERVED,
        lambda r, k: (r.number <= k.half) & (r.arrival <= k.half_arrived) & (r.start > k.half_arrived),
    ),
    _count("queue_all", SERVED, lambda r, k: (r.arrival <= k.all_arrived) & (r.start > k.all_arrived)),
    _count("running", SERVED, lambda r, k: -1, into=WINDOWS, reducer=LEVEL),
    _count("rejected", LOST, lambda r, k: 1),
    _count("missed_gaps", LOST, lambda r, k: where(r.number >= k.warmup, r.output - 1, 0)),
    _count("late_tokens", GAP, lambda g, k: where(g.ticks > k.token_sla, g.gaps, 0)),
    _steps("steps", lambda s, k: s.steps),
    _steps("decode_tokens", lambda s, k: s.steps * s.decoding),
    _steps("prefill_tokens", lambda s, k: s.steps * s.prefill_tokens),
    _steps("prefills", lambda s, k: s.steps * s.prefills),
    _steps("busy", lambda s, k: s.duration),
    _steps("peak_blocks", lambda s, k: s.blocks, reducer=LARGEST),
    _steps("occupied", lambda s, k: maximum(minimum(s.start + s.duration, k.until) - maximum(s.start, k.since), 0)),
    _steps(
        "served_tokens",
        lambda s, k: (
            (
                where(s.start >= k.since, s.steps, 1 * (s.start + s.duration > k.since))
                - 1 * (s.start + s.duration > k.until)
            )
            * where(s.start < k.until, s.decoding + s.prefills, 0)
        ),
    ),
    _steps("measured_steps", lambda s, k: s.steps, over=MEASURED_STEP),
    _steps("running", lambda s, k: s.steps * s.running, over=MEASURED_STEP),
    _steps("steps", lambda s, k: s.steps, into=WINDOWS),
    _steps("running_sum", lambda s, k: s.steps * s.running, into=WINDOWS),
    _steps("kv_tokens", lambda s, k: s.kv_tokens, into=WINDOWS),
    _steps("stored", lambda s, k: s.stored),
    _count("preemptions", MOVE, lambda m, k: m.running < 0),
    _count("asked", MOVE, lambda m, k: m.asked),
    _count("found", MOVE, lambda m, k: m.found),
    _count("preemptions", MOVE, lambda m, k: m.running < 0, into=WINDOWS),
    _count("queue", MOVE, lambda m, k: -m.running, into=WINDOWS, reducer=LEVEL),
    _count("running", MOVE, lambda m, k: m.running, into=WINDOWS, reducer=LEVEL),
)

# The numbers of the report, by the names of the cube's variables: of a `Sums`, which has every count by its name, those
# of bins and windows in `bins` and `windows`, and the facts of `report.Facts`.

Number = Callable[[Any], Any]

_NUMBERS: dict[str, Number] = {
    "latency_histogram": lambda s: s.histograms["latency"].astype(np.uint32),
    "requests": lambda s: s.arrived,
    "completed": lambda s: s.completed,
    "measured": lambda s: s.measured,
    "missed": lambda s: s.missed,
    "throughput_requests_per_s": lambda s: divide(s.served, s.makespan_s),
    "throughput_tokens_per_s": lambda s: only_if(s.has_tokens, divide(s.served_tokens, s.makespan_s)),
    "makespan_s": lambda s: s.makespan_s,
    "utilisation": lambda s: divide(s.occupied / s.ticks_per_s, s.servers * s.makespan_s),
    "batch_size_histogram": lambda s: s.sizes,
    "request_sla_violation_fraction": lambda s: only_if(
        s.has_request_sla, share_missed(s.late_requests, s.measured, s.missed)
    ),
    "goodput_fraction": lambda s: only_if(s.is_promised, divide(s.measured - s.broken, s.measured + s.missed)),
    "bin_requests": lambda s: s.bins.requests,
    "bin_wait_mean_s": lambda s: divide(s.bins.wait, s.bins.requests) / s.units_per_s,
    "bin_latency_mean_s": lambda s: divide(s.bins.latency, s.bins.requests) / s.units_per_s,
    "window_width_s": lambda s: s.window_s,
    "window_arrivals": lambda s: s.windows.arrivals,
    "window_completions": lambda s: s.windows.completions,
    "window_request_sla_violation_fraction": lambda s: only_if(
        column(s.has_request_sla), share_missed(s.windows.late_requests, s.windows.completions, s.windows.missed)
    ),
    "window_queue_length_mean": lambda s: s.windows.queue,
    "window_batch_target_mean": lambda s: divide(s.windows.target, s.windows.decisions),
    "window_batch_memory_bound_mean": lambda s: divide(s.windows.memory_bound, s.windows.decisions),
    "window_batch_sla_bound_mean": lambda s: divide(s.windows.sla_bound, s.windows.decisions),
    "window_signal_mean_s": lambda s: divide(s.windows.signal, s.windows.signals) / (UNIT * 1e6),
}
_BATCH_NUMBERS: dict[str, Number] = {
    "unserved": lambda s: s.unserved,
    "batches": lambda s: s.batches,
    "busy_throughput_requests_per_s": lambda s: s.servers * divide(s.members, s.busy / s.ticks_per_s),
    "batch_size_mean": lambda s: divide(s.members, s.batches),
    "goodput_requests_per_s": lambda s: only_if(s.is_promised, divide(s.measured - s.broken, s.makespan_s)),
    "padding_waste": lambda s: 1.0 - divide(s.lengths, s.padded),
    "token_sla_violation_fraction": lambda s: only_if(
        s.has_token_sla & s.has_tokens, share_missed(s.late_tokens, s.output_tokens, s.missed_tokens)
    ),
    "memory_overflow_fraction": lambda s: only_if(s.has_capacity, divide(s.overflows, s.batches)),
    "memory_peak_tokens": lambda s: s.peak_tokens,
    "extrapolated_batch_fraction": lambda s: divide(s.extrapolated, s.batches),
    "backlog_growth_fraction": lambda s: divide(_growth_beyond_batches(s), s.later),
    "bin_batches": lambda s: s.bins.batches,
    "bin_batch_size_mean": lambda s: divide(s.bins.members, s.bins.batches),
    "bin_length_max_mean": lambda s: divide(s.bins.longest, s.bins.batches) / column(s.length_unit),
    "window_batch_size_mean": lambda s: divide(s.windows.started, s.windows.batches),
}
_STEP_NUMBERS: dict[str, Number] = {
    "tbt_histogram": lambda s: s.histograms["tbt"].astype(np.uint64),
    "rejected": lambda s: s.rejected,
    "truncated": lambda s: s.truncated,
    "steps": lambda s: s.steps,
    "preemptions": lambda s: s.preemptions,
    "batch_size_mean": lambda s: divide(s.running, s.measured_steps),
    "goodput_requests_per_s": lambda s: only_if(s.is_promised, divide(s.kept_promises, s.makespan_s)),
    "step_tokens_mean": lambda s: divide(s.decode_tokens + s.prefill_tokens, s.steps),
    "token_sla_violation_fraction": lambda s: only_if(
        s.has_token_sla, share_missed(s.late_tokens, s.counted["tbt"], s.missed_gaps)
    ),
    "kv_peak_tokens": lambda s: s.peak_blocks * s.block_tokens,
    "recomputed_token_fraction": lambda s: divide(
        # What one that was preempted finds when it returns may have been computed for others.
        np.maximum(s.prefill_tokens - (s.prompts - s.found), 0),
        s.prefill_tokens,
    ),
    "prefix_cache_hit_fraction": lambda s: divide(s.found, s.asked),
    "kv_occupied_fraction": lambda s: only_if(s.caches_prefixes, divide(s.stored, s.steps * s.blocks)),
    "backlog_growth_fraction": lambda s: divide(s.backlog_all - s.backlog_half, s.later),
    "queue_growth_fraction": lambda s: divide(s.queue_all - s.queue_half, s.later),
    "window_running_mean": lambda s: s.windows.running,
    "window_preemptions": lambda s: s.windows.preemptions,
    "window_batch_size_mean": lambda s: divide(s.windows.running_sum, s.windows.steps),
    "window_kv_tokens_mean": lambda s: divide(s.windows.kv_tokens, s.windows.steps),
}


def _growth_beyond_batches(s: Any) -> Any:
    """Return by how much the requests in the system grew beyond what batches hold.

    B (K + c), with B the mean batch, may be forming in bins and running on servers. The mean batch, not the largest
    allowed: a controller may be free to go to 256 and stay near 90, and with that much room nothing would grow in a
    short run with several bins, whatever its queue did. With infinitely many servers nothing grows beyond.
    """
    growth = (s.arrived - s.done_all) - (s.arrived - s.later - s.done_half)
    size = np.where(s.batches > 0, divide(s.members, s.batches), s.largest)
    return np.maximum(growth - size * s.places, 0.0)


# What must agree, whatever happens: a difference is a defect of the simulator.
_AGREE: dict[str, tuple[Number, Number]] = {
    "measured and missed requests are those past the warm-up": (
        lambda s: s.measured + s.missed,
        lambda s: np.maximum(s.arrived - s.warmup, 0),
    ),
    "every measured request is in a bin": (lambda s: s.bins.requests.sum(axis=1), lambda s: s.measured),
    "every measured request has its latency": (lambda s: s.counted["latency"], lambda s: s.measured),
    "every measured request has its wait": (lambda s: s.counted["wait"], lambda s: s.measured),
    "every measured request has its service": (lambda s: s.counted["service"], lambda s: s.measured),
}
_BATCHES_AGREE: dict[str, tuple[Number, Number]] = {
    "every request is served, or is not": (lambda s: s.completed + s.unserved, lambda s: s.arrived),
    "every measured request has a time between tokens": (
        lambda s: s.counted["tbt"],
        lambda s: s.measured * s.has_tokens,
    ),
    "members of batches, by their size": (lambda s: _weighted(s.sizes), lambda s: s.members),
}
_STEPS_AGREE: dict[str, tuple[Number, Number]] = {
    "every measured request has its first token": (lambda s: s.counted["ttft"], lambda s: s.measured),
    "steps, by the number that run": (lambda s: s.sizes.sum(axis=1), lambda s: s.measured_steps),
    "requests in steps, by the number that run": (lambda s: _weighted(s.sizes), lambda s: s.running),
}


def _weighted(sizes: Any) -> Any:
    return (sizes * np.arange(sizes.shape[1])).sum(axis=1)


# The two simulations --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What one kind of simulation counts and reports."""

    clock: Clock
    given: tuple[str, ...]
    """Totals that are not counted but set."""
    counts: tuple[Count, ...]
    times: tuple[Time, ...]
    shifted: dict[str, tuple[str, str]]
    """Times that are another one and a constant more: the other, and the fact by which."""
    numbers: dict[str, Number]
    agree: dict[str, tuple[Number, Number]]
    """Both sides of what must be equal."""
    of_classes: tuple[str, ...] = ()
    """Columns of a class of requests: counts, sums of times in two parts of 32 bits, and ranked times."""

    def __post_init__(self) -> None:
        """Refuse what no simulation can count; TypeError."""
        for count in self.counts:
            if (count.into == BINS and count.over not in IN_BINS) or (count.into == WINDOWS and count.over in TIMELESS):
                raise TypeError(f"{count.name}: nothing says which of the {count.into} it belongs to: {count.over}")

    @cache  # noqa: B019
    def over(self, what: str, into: str = TOTALS) -> tuple[Count, ...]:
        """Return the counts over something."""
        return tuple(count for count in self.counts if (count.over, count.into) == (what, into))

    @cache  # noqa: B019
    def columns(self, into: str) -> dict[str, slice]:
        """Return where the counts into totals, bins or windows are found, by their names."""
        found: dict[str, slice] = {}
        end = 0
        for name, reducer in self.reducers(into).items():
            width = 2 if reducer in (WIDE, LEVEL) else 1
            found[name] = slice(end, end + width)
            end += width
        return found

    @cache  # noqa: B019
    def reducers(self, into: str) -> dict[str, str]:
        """Return how the counts into totals, bins or windows come together, by their names, in order."""
        given = dict.fromkeys(self.given if into == TOTALS else (), SUM)
        return given | {count.name: count.reducer for count in self.counts if count.into == into}

    @property
    def variables(self) -> frozenset[str]:
        """The variables of a cube that the report makes."""
        times = (*(time.name for time in self.times), *self.shifted)
        of_times = (
            f"{name}_{of}" for name in times for of in ("mean_s", "variance_s2", "min_s", "max_s", "quantile_s")
        )
        return frozenset((*of_times, *self.numbers))

    def width(self, into: str) -> int:
        """Return the columns of totals, bins or windows."""
        stop: int = max(place.stop for place in self.columns(into).values())
        return stop

    def at(self, name: str, into: str = TOTALS) -> int:
        """Return the first column of a count."""
        place: int = self.columns(into)[name].start
        return place

    def time(self, name: str) -> int:
        """Return the row of a time."""
        return [time.name for time in self.times].index(name)


BATCHES = Catalogue(
    Clock(10**6, 1),
    ("first_arrival", "broken"),
    (*_REQUESTS, *_BATCHES, *_DECISIONS),
    (*_TIMES, _time("tbt", lambda r, k: r.pace, when=lambda r, k: k.tokens, finer=TBT_UNIT, alike=ALWAYS)),
    # The first token comes a constant time after the start.
    {"ttft": ("wait", "prefill_s")},
    {**_NUMBERS, **_BATCH_NUMBERS},
    {**_AGREE, **_BATCHES_AGREE},
)
"""Whole batches; a tick is a microsecond."""
CONTINUOUS = Catalogue(
    Clock(10**12, 1000),
    ("first_arrival", "overrun", "kept", "truncated", "broken", "kept_promises"),
    (*_REQUESTS, *_CONTINUOUS, *_DECISIONS),
    (
        *_TIMES,
        _time("ttft", lambda r, k: r.first_token - r.arrival),
        _time("tpot", lambda r, k: (r.completion - r.first_token) // (r.output - 1), when=lambda r, k: r.output > 1),
        _time("tbt", lambda g, k: g.ticks, over=GAP, finer=1000),
    ),
    {},
    {**_NUMBERS, **_STEP_NUMBERS},
    {**_AGREE, **_STEPS_AGREE},
    (
        *("requests", "missed", "late", "kept_promises", "gaps"),
        *(f"{name}_{part}" for name in ("wait", "latency", "ttft", "decoding") for part in ("low", "high")),
        *(f"{name}_{quantile}" for name in ("latency", "ttft", "tpot") for quantile in QUANTILES),
    ),
)
"""Continuous batching; a tick is a picosecond, and times are reported in nanoseconds: their squares fit the sums."""
