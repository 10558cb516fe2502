"""The registry of every variable a cube may hold: dimensions, dtype, unit and meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

REPLICATION = "replication"
# Dimensions a variable may have besides the axes of the sweep and `replication`, with what they count.
EXTRA_DIMENSIONS: dict[str, str] = {
    "bin": "bin of the scheduler, shortest requests first",
    "class": "class of requests",
    "window": "time window of equal width, from time 0",
    "batch_size": "requests in a batch, or running in a step",
    "quantile": "probability of the quantile",
    "latency_bucket": "bucket of the latency histogram",
    "tbt_bucket": "bucket of the histogram of times between tokens",
}
# Those of them that are buckets of seconds, and have the coordinates `edge_names` beside their own.
BUCKETED = ("latency_bucket", "tbt_bucket")
# The one criterion of a capacity that must not fall below its limit.
GOODPUT = "goodput_fraction"
# What a replication happened to draw, over what it draws on average: their means are 1, exactly.
CONTROLS = ("drawn_gap_ratio", "drawn_prompt_ratio", "drawn_output_ratio")
# Share of the requests of a point, turned away, above which it is said loudly; in a search no mean is in time then.
MANY_REFUSED = 0.01
# The settings that a rate is an axis over.
RATE_PATHS = ("workload.arrivals.rate_per_s", "workload.trace.rate_scale")
# The attribute of a variable whose values a search found: how far each may be off, all of them alike.
RELATIVE_ERROR = "relative_error"
# The attribute of a variable whose replications were added until intervals were narrow: how many the first look was at.
FIRST_LOOK = "first_look"
# What the attribute `interval_of` of a variable says where every replication has service coefficients of its own.
SINGLE = "single replication"
# What makes the time of a step (mode continuous) or batch, and what it is paid for; the flags of `unmeasured_costs`.
COSTS: dict[str, str] = {
    "c0_s": "every step",
    "c1_s_per_request": "decoding requests",
    "c2_s_per_kv_token": "KV tokens read",
    "c3_s_per_prefill_token": "prefilled tokens",
    "c4_s_per_prefill_attention": "attention of the prefill",
    "a0_s": "prefill of a batch",
}
_DECODING = ("c0_s", "c1_s_per_request")
_PREFILL = ("c3_s_per_prefill_token", "a0_s")
# Stands for the unit of the request lengths of one sweep: tokens, or s where the workload draws service times.
LENGTH_UNITS = "tokens or s"


def edge_names(dim: str) -> tuple[str, str]:
    """Return the coordinates that hold the lower and the upper edges of buckets."""
    return f"{dim}_lower_s", f"{dim}_upper_s"


class Variable(NamedTuple):
    """Describe one variable of a cube; its dimensions are the axes, `replication` if `replicated`, then `extra`."""

    name: str
    extra: tuple[str, ...]
    dtype: str
    units: str
    long_name: str
    definition: str
    replicated: bool = True
    steady_state: bool = False
    """True when the value says something about the system, and not the length of the run, only in steady state."""
    bounds: tuple[float, float] = (-np.inf, np.inf)
    """The values that are possible at all; intervals are clipped to them."""
    rests_on: tuple[str, ...] = ()
    """Those of `COSTS` without which nothing is left of it: unless all are known, no criterion or figure may use it."""

    more_is_better: bool = False
    """Whether of two systems the one that has more of it is the better; of all others less is better, or neither."""

    def dims(self, axes: Iterable[str]) -> tuple[str, ...]:
        """Return the dimensions of this variable in a cube with these axes, in order."""
        return (*axes, *((REPLICATION,) if self.replicated else ()), *self.extra)

    @property
    def missing(self) -> float:
        """The value that stands for nothing: NaN in a float variable, 0 in a count."""
        return np.nan if np.dtype(self.dtype).kind == "f" else 0


_POSITIVE = (0.0, np.inf)
_FRACTION = (0.0, 1.0)


def _float(
    name: str,
    units: str,
    long_name: str,
    definition: str,
    *extra: str,
    replicated: bool = True,
    steady_state: bool = False,
    bounds: tuple[float, float] = _POSITIVE,
    rests_on: tuple[str, ...] = (),
    more_is_better: bool = False,
) -> Variable:
    described = (units, long_name, definition, replicated, steady_state, bounds, rests_on, more_is_better)
    return Variable(name, extra, "float64", *described)


def _count(
    name: str, long_name: str, definition: str, *extra: str, dtype: str = "int64", rests_on: tuple[str, ...] = ()
) -> Variable:
    return Variable(name, extra, dtype, "count", long_name, definition, bounds=_POSITIVE, rests_on=rests_on)


def _drawn(name: str, label: str, what: str, without: str) -> Variable:
    return _float(
        name,
        "1",
        f"mean {label} drawn, over its expectation",
        f"Mean {what} that the replication drew, those of the warm-up included, over the mean of its law: its "
        f"expectation is exactly 1, so that it is a control variate. NaN of recorded traces{without}.",
    )


_MEASURED = "over the measured requests"
# name -> (long name, over what, what is measured, does it grow without end under overload)
_REQUEST_TIMES = {
    "latency": ("latency", _MEASURED, "completion minus arrival of a request", True),
    "wait": (
        "wait",
        _MEASURED,
        "start of the batch minus arrival of a request; mode continuous: start of the step that admits it first",
        True,
    ),
    "service": (
        "service time",
        _MEASURED,
        "completion minus start of the batch of a request; mode continuous: of the step that admits it first",
        False,
    ),
    "ttft": (
        "time to first token",
        _MEASURED,
        "first token minus arrival of a request; whole batches: wait + a0",
        True,
    ),
    "tpot": (
        "time per output token",
        f"{_MEASURED} of two tokens or more (mode continuous)",
        "(last minus first token) / (output tokens - 1) of a request",
        False,
    ),
    "tbt": (
        "time between tokens",
        f"{_MEASURED}; mode continuous: over all their tokens but first ones",
        "time between two tokens of a request; whole batches: (T - a0) / L of its batch",
        False,
    ),
}


_RESTS_ON = {"ttft": _PREFILL, "tpot": _DECODING, "tbt": _DECODING}


def _request_time(name: str) -> list[Variable]:
    label, over, what, grows = _REQUEST_TIMES[name]
    variables = [
        _float(f"{name}_mean_s", "s", f"mean {label}", f"Mean {over} of: {what}.", steady_state=grows),
        _float(
            f"{name}_variance_s2", "s2", f"variance of the {label}", f"Variance {over} of: {what}.", steady_state=grows
        ),
        _float(f"{name}_min_s", "s", f"shortest {label}", f"Minimum {over} of: {what}."),
        _float(f"{name}_max_s", "s", f"longest {label}", f"Maximum {over} of: {what}.", steady_state=grows),
        _float(
            f"{name}_quantile_s",
            "s",
            f"quantile of the {label}",
            f"Quantile {over}, from a log-spaced histogram (relative error at most 1 %), of: {what}.",
            "quantile",
            steady_state=grows,
        ),
    ]
    return [variable._replace(rests_on=_RESTS_ON.get(name, ())) for variable in variables]


def _class_mean(name: str) -> Variable:
    label, _, what, grows = _REQUEST_TIMES[name]
    definition = f"Mean over the class's measured requests of: {what}."
    of_class = _float(
        f"class_{name}_mean_s", "s", f"mean {label} of the class", definition, "class", steady_state=grows
    )
    return of_class._replace(rests_on=_RESTS_ON.get(name, ()))


def _class_quantile(name: str) -> Variable:
    label, _, what, grows = _REQUEST_TIMES[name]
    label = f"quantile of the {label} of the class"
    definition = f"Exact quantile over the class's measured requests, the ceil(qn)-th smallest of n, of: {what}."
    of_class = _float(f"class_{name}_quantile_s", "s", label, definition, "class", "quantile", steady_state=grows)
    return of_class._replace(rests_on=_RESTS_ON.get(name, ()))


_ALL: list[Variable] = [
    # Times of requests.
    *(variable for name in _REQUEST_TIMES for variable in _request_time(name)),
    _count(
        "latency_histogram",
        "latency histogram",
        "Measured requests by latency, in log-spaced buckets; the first bucket holds latencies of exactly zero.",
        "latency_bucket",
        dtype="uint32",
    ),
    _count(
        "tbt_histogram",
        "histogram of times between tokens",
        "Tokens of measured requests, first ones left out, by the time since the token before, in log-spaced buckets "
        "(mode continuous); the first bucket holds times of exactly zero.",
        "tbt_bucket",
        dtype="uint64",
        rests_on=_DECODING,
    ),
    # Requests and batches, counted.
    _count("requests", "requests", "Requests that arrived."),
    _count("completed", "completed requests", "Requests that were served, those of answers that were cut among them."),
    _count(
        "rejected",
        "rejected requests",
        "Requests turned away at once because they could never fit, not even alone (mode continuous).",
    ),
    _count(
        "truncated",
        "truncated answers",
        "Measured requests whose answer server.replica.max_model_len ended before it was whole (mode continuous). "
        "Shares over a limit count them as over it.",
    ),
    _count("unserved", "unserved requests", "Requests left in their bin, in no batch (tail = drop)."),
    _count("measured", "measured requests", "Completed requests past the warm-up: those that statistics are over."),
    _count(
        "missed",
        "missed requests",
        "Requests past the warm-up that were never served: rejected, or left in a bin (tail = drop). Shares over a "
        "limit count them as over it.",
    ),
    _count("batches", "batches", "Batches all of whose requests are past the warm-up."),
    _count("steps", "steps", "Steps of all replicas (mode continuous)."),
    _count(
        "preemptions",
        "preemptions",
        "Times that a running request lost its KV cache and went back to the queue (mode continuous).",
    ),
    # What was drawn.
    *map(
        _drawn,
        CONTROLS,
        ("gap between arrivals", "prompt", "output"),
        (
            "gap between the arrivals (of sessions: of their first turns)",
            "prompt of the requests (of sessions: without what turns before it left)",
            "output of the requests, or time where service times are given",
        ),
        (
            ", where no exact mean is known (arrivals on_off, gamma_windows, step), and where no gaps are drawn",
            " and without prompts",
            "",
        ),
    ),
    # Throughput and load.
    _count("effective_bins", "effective bins", "Bins left after those that no request can fall into were removed."),
    _float(
        "throughput_requests_per_s",
        "s-1",
        "throughput",
        "Requests that complete within the makespan, over the makespan; those of the warm-up that it finishes too.",
        more_is_better=True,
    ),
    _float(
        "throughput_tokens_per_s",
        "tokens s-1",
        "token throughput",
        "Tokens generated within the makespan, whose requests they are, over the makespan. Whole batches make theirs "
        "evenly over their service time, those that complete at their own length each over its own: what is under way "
        "when the makespan begins counts by that share, in whole tokens.",
        more_is_better=True,
    ),
    _float(
        "busy_throughput_requests_per_s",
        "s-1",
        "throughput of busy servers",
        "Servers x batched requests / total batch service time, which arXiv 2412.04504 calls throughput; NaN for "
        "infinitely many servers.",
        more_is_better=True,
    ),
    _float(
        "makespan_s",
        "s",
        "makespan",
        "Time from the arrival of the first request past the warm-up (mode continuous: of the first that is served) "
        "to the last completion; in a closed loop while all users are there: until the last request is taken up.",
    ),
    _float(
        "utilisation",
        "1",
        "utilisation",
        "Share of the servers' time spent serving anybody, over the makespan; NaN for infinitely many servers.",
        bounds=_FRACTION,
        more_is_better=True,
    ),
    _float(
        "batch_size_mean",
        "1",
        "mean batch size",
        "Mean number of requests in a batch; mode continuous: running in a step, decoding or prefilling, over the "
        "steps from the arrival of the first measured request on.",
    ),
    _float(
        "step_tokens_mean",
        "tokens",
        "mean tokens of a step",
        "Mean over all steps of the tokens that they decode and prefill, of server.replica.token_budget that they may "
        "have (mode continuous).",
    ),
    _count(
        "batch_size_histogram",
        "batch size histogram",
        "Batches by the number of their requests; mode continuous: such steps by the number of requests running.",
        "batch_size",
    ),
    _float(
        "padding_waste",
        "1",
        "padding waste",
        "1 - (sum of request lengths) / (sum of batch size x longest length of the batch).",
        bounds=_FRACTION,
    ),
    # Limits.
    _float(
        "request_sla_violation_fraction",
        "1",
        "requests over the latency limit",
        "Requests whose latency exceeds report.request_sla_s, or that were never served (variable missed) or cut off "
        "(truncated), over the measured and the missed requests; NaN when the limit is not set.",
        steady_state=True,
        bounds=_FRACTION,
    ),
    _float(
        GOODPUT,
        "1",
        "goodput, share of requests",
        "Requests past the warm-up that keep every limit of report and of their class (request_sla_s, ttft_sla_s, "
        "tpot_sla_s; whole batches: the time between tokens of their batch) at once, and are not cut off, over the "
        "measured and the missed requests. NaN without any limit.",
        steady_state=True,
        bounds=_FRACTION,
        more_is_better=True,
    ),
    _float(
        "goodput_requests_per_s",
        "s-1",
        "goodput",
        "The same requests, over the makespan; in a closed loop those of throughput_requests_per_s that keep every "
        "limit, of the warm-up too. NaN without any limit.",
        more_is_better=True,
    ),
    _float(
        "token_sla_violation_fraction",
        "1",
        "tokens over the time-between-tokens limit",
        "Tokens whose time between tokens exceeds report.token_sla_s, or that missed requests (variable missed) and "
        "those cut off (truncated) wanted and did not get, over all tokens of the measured and the missed requests "
        "(mode continuous: first tokens left out); NaN when the limit is not set.",
        bounds=_FRACTION,
        rests_on=_DECODING,
    ),
    # Memory.
    _float(
        "memory_overflow_fraction",
        "1",
        "batches over the memory capacity",
        "Share of batches whose prompt and output tokens exceed the token capacity; NaN when no capacity is set.",
        bounds=_FRACTION,
    ),
    _float("memory_peak_tokens", "tokens", "peak memory", "Largest sum of prompt and output tokens of one batch."),
    _float(
        "kv_peak_tokens",
        "tokens",
        "peak of the KV cache",
        "Tokens that the blocks in use hold, the most of any replica at any time (mode continuous).",
    ),
    _float(
        "recomputed_token_fraction",
        "1",
        "recomputed tokens",
        "Prefilled tokens beyond the prompts of the served requests, less what was found in the cache, over all "
        "prefilled tokens: what preemptions cost (mode continuous).",
        bounds=_FRACTION,
    ),
    _float(
        "prefix_cache_hit_fraction",
        "1",
        "hits of the prefix cache",
        "Tokens found in the KV cache over tokens looked for, of the prompts of all requests when they are admitted "
        "for the first time; NaN without prefix caching (mode continuous).",
        bounds=_FRACTION,
        more_is_better=True,
    ),
    _float(
        "kv_occupied_fraction",
        "1",
        "occupied blocks of the KV cache",
        "Blocks in use or kept for what is in them, over all blocks, mean over steps; NaN without prefix caching (mode "
        "continuous).",
        bounds=_FRACTION,
    ),
    # How far to trust all that.
    _float(
        "extrapolated_batch_fraction",
        "1",
        "batches outside the measured table",
        "Share of batches whose size or length lies outside the measured service-time table.",
        bounds=_FRACTION,
    ),
    _float(
        "backlog_growth_fraction",
        "1",
        "growth of the backlog",
        "Growth of the number of requests in the system over the second half of the arrivals, over these arrivals: "
        "near 0 in steady state, under overload the share that cannot be served. Whole batches: growth beyond "
        "B (K + c), what batches of mean size B may hold in K bins and on c servers. Sessions: growth of the number of "
        "sessions that have begun and are not over, over those that begin. NaN without arrivals.",
        bounds=(-np.inf, 1.0),
    ),
    _float(
        "queue_growth_fraction",
        "1",
        "growth of the queue",
        "Growth of the number of requests that were not admitted yet over the second half of the arrivals, over these "
        "arrivals (of sessions: over those that begin): of backlog_growth_fraction the part that waits. NaN without "
        "arrivals (mode continuous).",
        bounds=(-np.inf, 1.0),
    ),
    Variable(
        "unmeasured_costs",
        (),
        "int64",
        "1",
        "costs that count as 0 because nobody measured or gave them",
        "Sum of the flags (attributes flag_masks, flag_meanings) of what makes the time of a step or batch and was "
        "neither measured nor given: all times are too short by it, rates that a limit allows too high.",
        replicated=False,
        bounds=(0.0, 2.0 ** len(COSTS) - 1.0),
    ),
    # Bins.
    _count("bin_requests", "requests of the bin", "Measured requests of the bin.", "bin"),
    _count(
        "bin_batches", "batches of the bin", "Batches of the bin all of whose requests are past the warm-up.", "bin"
    ),
    _float("bin_batch_size_mean", "1", "mean batch size of the bin", "Mean size of the bin's batches.", "bin"),
    _float(
        "bin_wait_mean_s",
        "s",
        "mean wait in the bin",
        "Mean wait of the bin's measured requests.",
        "bin",
        steady_state=True,
    ),
    _float(
        "bin_latency_mean_s",
        "s",
        "mean latency of the bin",
        "Mean latency of the bin's measured requests.",
        "bin",
        steady_state=True,
    ),
    _float(
        "bin_length_max_mean",
        LENGTH_UNITS,
        "mean longest length of the bin's batches",
        "Mean over the bin's batches of the longest request length in the batch.",
        "bin",
    ),
    _float(
        "bin_lower_edge",
        LENGTH_UNITS,
        "lower edge of the bin",
        "Smallest predicted length that falls into the bin; shorter ones fall into the first bin.",
        "bin",
        replicated=False,
        bounds=(-np.inf, np.inf),
    ),
    _float(
        "bin_upper_edge",
        LENGTH_UNITS,
        "upper edge of the bin",
        "Predicted length from which on requests fall into the next bin; longer ones fall into the last bin.",
        "bin",
        replicated=False,
        bounds=(-np.inf, np.inf),
    ),
    # Classes.
    _count("class_requests", "requests of the class", "Measured requests of the class.", "class"),
    _count(
        "class_missed",
        "missed requests of the class",
        "Requests of the class past the warm-up that could never fit and were turned away.",
        "class",
    ),
    *map(_class_mean, ("latency", "wait", "ttft")),
    _float(
        "class_tbt_mean_s",
        "s",
        "mean time between tokens of the class",
        "Mean over all tokens but first ones of the class's measured requests of the time since the token before.",
        "class",
        rests_on=_DECODING,
    ),
    *map(_class_quantile, ("latency", "ttft", "tpot")),
    _float(
        "class_sla_violation_fraction",
        "1",
        "requests of the class over a limit",
        "Share of the class's requests past the warm-up over any limit of its own or of report: request_sla_s on the "
        "latency, ttft_sla_s on the time to first token, tpot_sla_s on the time per output token; never served and cut "
        "off ones too. NaN where there is no limit.",
        "class",
        steady_state=True,
        bounds=_FRACTION,
    ),
    _float(
        "class_goodput_requests_per_s",
        "s-1",
        "goodput of the class",
        "Measured requests of the class within all limits that hold for it, and not cut off, divided by the makespan; "
        "in a closed loop those that complete within it, of the warm-up too.",
        "class",
        more_is_better=True,
    ),
    # Windows.
    _float("window_width_s", "s", "window width", "Width of one time window.", replicated=False),
    _count("window_arrivals", "arrivals in the window", "Requests that arrived in the window.", "window"),
    _count("window_completions", "completions in the window", "Requests that completed in the window.", "window"),
    _float(
        "window_request_sla_violation_fraction",
        "1",
        "requests over the latency limit, by window",
        "Requests that complete in the window with a latency over report.request_sla_s, or arrive in it and are never "
        "served, over all that complete in it, or arrive in it and are never served; NaN without any.",
        "window",
        bounds=_FRACTION,
    ),
    _float(
        "window_queue_length_mean",
        "1",
        "mean queue length, by window",
        "Time average over the window of the number of requests that wait.",
        "window",
    ),
    _float(
        "window_running_mean",
        "1",
        "mean number of running requests, by window",
        "Time average over the window of the number of requests that run, over all replicas (mode continuous).",
        "window",
    ),
    _float(
        "window_batch_size_mean",
        "1",
        "mean batch size, by window",
        "Mean size of the batches of the window; mode continuous: of the requests running, over the window's steps; "
        "NaN without any.",
        "window",
    ),
    _float(
        "window_kv_tokens_mean",
        "tokens",
        "mean KV cache in use, by window",
        "Mean over the window's steps of the KV tokens of the replica at their end (mode continuous); NaN without "
        "steps.",
        "window",
    ),
    _count("window_preemptions", "preemptions in the window", "Preemptions in the window (mode continuous).", "window"),
    _float(
        "window_batch_target_mean",
        "1",
        "mean batch size target, by window",
        "Mean of the controller's target b = min(b_mem, b_SLA) over its decisions in the window; mode continuous: of "
        "the cap over the window's steps; NaN without one.",
        "window",
    ),
    _float(
        "window_batch_memory_bound_mean",
        "1",
        "mean memory bound of the batch size, by window",
        "Mean of b_mem (arXiv 2503.05248, Algorithm 1) over the decisions in the window; NaN without one.",
        "window",
    ),
    _float(
        "window_batch_sla_bound_mean",
        "1",
        "mean SLA bound of the batch size, by window",
        "Mean of b_SLA (arXiv 2503.05248, Algorithm 2) over the decisions in the window; NaN without one.",
        "window",
    ),
    _float(
        "window_signal_mean_s",
        "s",
        "mean controller signal, by window",
        "Mean of the smoothed signal that the SLA controller compares with its target; NaN without a decision.",
        "window",
    ),
    # Theory.
    _float(
        "theory_throughput_requests_per_s",
        "s-1",
        "throughput, theory",
        "Throughput expected by arXiv 2412.04504 for this number of bins; NaN where no theory applies.",
        replicated=False,
        more_is_better=True,
    ),
    _float(
        "theory_throughput_limit_requests_per_s",
        "s-1",
        "throughput limit, theory",
        "Largest throughput any number of bins can reach (c_max of arXiv 2412.04504); NaN where no theory applies.",
        replicated=False,
        more_is_better=True,
    ),
    _float(
        "theory_latency_s",
        "s",
        "mean latency, theory",
        "Mean latency with infinitely many servers (arXiv 2412.04504, Lemma 5.1); NaN where no theory applies.",
        replicated=False,
    ),
    # Searches for capacities.
    _float(
        "capacity_requests_per_s",
        "s-1",
        "capacity",
        "Largest arrival rate at which every criterion (attribute capacity_criteria) holds in the mean over the "
        "replications: the middle between a rate at which all were seen to hold and one at which they were not "
        "(attribute relative_error: half of what lies between). Of a replication its part in it, by a jackknife: the "
        "mean of the parts is the capacity, their scatter its uncertainty. NaN where the search range "
        "(capacity_low_per_s to capacity_high_per_s) holds no answer.",
        bounds=(-np.inf, np.inf),
        more_is_better=True,
    ),
    _float(
        "capacity_served_requests_per_s",
        "s-1",
        "requests that servers can do",
        "Requests of the replication that the servers serve in a second when they always have work; infinite where "
        "that was not asked or is no limit.",
    ),
    Variable(
        "capacity_ended_by",
        (),
        "int64",
        "1",
        "what ends the search",
        "Number of the criterion (attribute capacity_criteria) that is missed just above the capacity, by most where "
        "several are; that of the last one more for overload; -1 without an answer.",
        replicated=False,
        bounds=(-1.0, np.inf),
    ),
    _float(
        "capacity_held_requests_per_s",
        "s-1",
        "rate seen to hold",
        "The lower of the two rates beside the capacity: the largest at which every criterion was seen to hold.",
    ),
    Variable(
        "capacity_unbracketed",
        (),
        "int64",
        "1",
        "why there is no capacity",
        "0: the capacity was found; -1: a criterion is missed already at the lowest rate; 1: all still hold at the "
        "highest; 2: runs are too short to tell, the backlog still grows at the rate that holds.",
        bounds=(-1.0, 2.0),
    ),
    _float(
        "capacity_statistic",
        "1",
        "criterion at capacity",
        "Value of the first criterion's statistic at capacity_held_requests_per_s, in the unit of its variable.",
    ),
    # Plans.
    _float(
        "plan_largest_ratio",
        "1",
        "largest share of a limit that is used up",
        "Largest of the statistics over their limits, of goodput what is missed over what may be; above 1 where one "
        "does not hold. NaN where a configuration was not simulated any more.",
    ),
    Variable(
        "plan_state",
        (),
        "int64",
        "1",
        "what became of a configuration",
        "In the race that decided a plan (attributes flag_values, flag_meanings).",
        replicated=False,
        bounds=(0.0, 5.0),
    ),
    Variable(
        "plan_queue",
        (),
        "int64",
        "1",
        "queue of a configuration",
        "Whether it grows, in the race that decided a plan (attributes flag_values, flag_meanings): of the best as the "
        "plan found; of others by their replications, as `batchcube show` judges points of a sweep.",
        replicated=False,
        bounds=(0.0, 2.0),
    ),
    Variable(
        "plan_replications",
        (),
        "int64",
        "count",
        "replications of a configuration",
        "Those that were looked at until it left the race that decided a plan, or that ended.",
        replicated=False,
        bounds=_POSITIVE,
    ),
    Variable(
        "plan_replicas",
        (),
        "int64",
        "count",
        "replicas of a configuration",
        "Those that the GPUs of the race that decided a plan hold; 0 where not one.",
        replicated=False,
        bounds=_POSITIVE,
    ),
]
REGISTRY: dict[str, Variable] = {variable.name: variable for variable in _ALL}


def is_time(name: str) -> bool:
    """Say whether a variable is a statistic of a time of requests, of all of them or of those of a bin or class."""
    return name.removeprefix("bin_").removeprefix("class_").startswith(tuple(f"{time}_" for time in _REQUEST_TIMES))
