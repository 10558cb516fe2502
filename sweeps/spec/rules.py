"""Which settings go together: the rules between the sections of one grid point.

An option that the chosen mode would ignore is a mistake, because a sweep that varies it would show a flat line and call
it a finding.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from batchcube.calibration.laws import stated_seconds
from batchcube.calibration.units import other_units
from batchcube.engine.batches.model import FIXED
from batchcube.engine.continuous.fleet import MOST_REPLICAS
from batchcube.engine.continuous.steps import TABLED, table_problems
from batchcube.engine.continuous.ticks import TICKS_PER_S
from batchcube.engine.policies.sla import BATCH_SIGNALS, STEP_SIGNALS
from batchcube.engine.ticks import TICKS_PER_S as BATCH_TICKS_PER_S
from batchcube.errors import InputError

from ..workloads.arrivals import Closed
from ..workloads.lengths import Empirical, LengthDistribution
from ..workloads.predictors import Column, Confusion
from ..workloads.settings import Settings
from .messages import Path, show_value
from .settings import (
    BINNED,
    CONTROLLED,
    LONGEST_CONTINUOUS_S,
    REQUEST_LIMITS,
    CoefficientsLaw,
    MemorySettings,
    Point,
    PolicySettings,
    Server,
    StepsLaw,
    Workload,
    caches_prefixes,
    goes_by_priority,
)

TICK_NAMES = {BATCH_TICKS_PER_S: "microseconds", TICKS_PER_S: "picoseconds"}

_ONLY_FOR: dict[str, tuple[str, ...]] = {
    "bins": BINNED,
    "edges": BINNED,
    "batch_size": (*FIXED, "fifo_greedy"),
    "max_wait_s": FIXED,
    "service_order": FIXED,
    "tail": FIXED,
    "smallest_batch": CONTROLLED,
    "largest_batch": CONTROLLED,
    "memory": CONTROLLED,
    "sla": CONTROLLED,
    "controller": CONTROLLED,
    "estimates": CONTROLLED,
    "bin_choice": ("multi_bin_dynamic", "continuous"),
    "controller_scope": ("multi_bin_dynamic",),
    "admission": ("continuous",),
}
_REQUIRED: dict[str, tuple[str, ...]] = {
    "fifo_fixed": ("batch_size",),
    "fifo_greedy": ("batch_size",),
    "multi_bin_only": ("bins", "batch_size"),
    "dynamic_only": ("largest_batch",),
    "multi_bin_dynamic": ("bins", "largest_batch"),
    "continuous": ("largest_batch",),
}


class Problem(NamedTuple):
    """An option that does not go with the others at one point.

    ``shown`` tells whether the value at ``path`` belongs beside it. ``idle``: the option only means nothing here, which
    is no mistake where it means something at another point of the grid.
    """

    path: Path
    text: str
    shown: bool = True
    idle: bool = False


def problems(point: Point) -> Iterator[Problem]:
    """Yield every combination of options that makes no sense at this point."""
    yield from _workload_problems(point.workload)
    yield from _policy_problems(point)
    if point.server.servers == "infinite" and point.policy.mode not in FIXED:
        yield Problem(
            ("server", "servers"), f"mode {point.policy.mode} needs finitely many servers: nothing would wait"
        )
    if point.workload.trace is not None and point.workload.trace.hash_tokens is not None and not caches_prefixes(point):
        text = "needs server.replica.enable_prefix_caching"
        yield Problem(("workload", "trace", "hash_tokens"), text, idle=True)
    yield from _continuous_problems(point) if point.simulation.STEPWISE else _whole_batch_problems(point)
    report = point.report
    if report.warmup_requests is not None and report.warmup_fraction is not None:
        yield Problem(("report", "warmup_fraction"), "give warmup_requests or warmup_fraction, not both")
    count = point.workload.requests
    if count is not None and report.warmup_requests is not None and report.warmup_requests >= count:
        yield Problem(("report", "warmup_requests"), f"must be < {count}, the requests of a replication")


def _workload_problems(workload: Workload) -> Iterator[Problem]:
    predictor = workload.predictor.kind
    if workload.trace is None:
        if workload.requests is None:
            yield Problem(("workload", "requests"), "is missing: no recorded trace says how many", shown=False)
        for name in ("arrivals",) if workload.classes is not None else ("arrivals", "lengths"):
            if getattr(workload, name) is None:
                yield Problem(("workload", name), "is missing (or give workload.trace, a recorded trace)", shown=False)
        yield from _class_problems(workload)
        yield from _waiting_problems(workload)
        if predictor == "column" and getattr(workload.lengths, "predicted_column", None) is None:
            text = "needs a recorded trace, or lengths from a file with a predicted_column"
            yield Problem(("workload", "predictor", "kind"), text)
        for where, lengths in _lengths_of(workload):
            if lengths.unit == "tokens":
                for at, text in lengths.problems_in_tokens(1):
                    yield Problem((*where, *at), text)
        return
    trace = workload.trace
    for name in ("arrivals", "lengths", "classes", "sessions"):
        if getattr(workload, name) is not None:
            yield Problem(("workload", name), "a recorded trace has its own; remove it or workload.trace", shown=False)
    for name in ("model", "log_type"):
        if getattr(trace, name) is not None and trace.format not in ("burstgpt", "auto"):
            yield Problem(
                ("workload", "trace", name), f'format "{trace.format}" has no such column; only "burstgpt" has'
            )
    if trace.stop_s is not None and trace.start_s >= trace.stop_s:
        yield Problem(("workload", "trace", "start_s"), f"must be < workload.trace.stop_s = {trace.stop_s:g}")
    if trace.resample != "blocks" and trace.block_requests is not None:
        path: Path = ("workload", "trace", "block_requests")
        yield Problem(path, f'resample = "{trace.resample}" would ignore it; only "blocks" uses it')


def _lengths_of(workload: Workload) -> Iterator[tuple[Path, LengthDistribution]]:
    """Yield the distributions of lengths, and where they are: that of all requests, or those of classes."""
    if workload.lengths is not None:
        yield ("workload", "lengths"), workload.lengths
    for place, one in enumerate(workload.classes or ()):
        yield ("workload", "classes", place, "lengths"), one.lengths


def _class_problems(workload: Workload) -> Iterator[Problem]:
    if workload.classes is None:
        return
    if workload.lengths is not None:
        yield Problem(("workload", "lengths"), "classes have their own; remove it or workload.classes", shown=False)
    total = math.fsum(one.share for one in workload.classes)
    if not workload.classes:
        yield Problem(("workload", "classes"), "must not be empty", shown=False)
    elif abs(total - 1.0) > 1e-6:
        yield Problem(("workload", "classes"), f"their shares sum to {total:g}: must sum to 1", shown=False)
    for place, name in enumerate(workload.class_names):
        if name in workload.class_names[:place]:
            yield Problem(("workload", "classes", place, "name"), "is the name of another class already")


def _waiting_problems(workload: Workload) -> Iterator[Problem]:
    if isinstance(workload.arrivals, Closed) and workload.arrivals.users > (workload.requests or 0):
        text = f"must be <= workload.requests = {workload.requests}: every user sends one"
        yield Problem(("workload", "arrivals", "users"), text)
    if workload.sessions is None:
        return
    turns, at = workload.sessions.turns, ("workload", "sessions", "turns")
    if turns.unit == "seconds" or turns.gives_prompt:
        yield Problem(at, "must be whole numbers of turns: no unit, and no prompt", shown=False)
        return
    for below, _ in turns.problems_in_tokens(1):
        yield Problem((*at, *below), "must give whole numbers of turns, 1 or more")


def _policy_problems(point: Point) -> Iterator[Problem]:
    policy, workload = point.policy, point.workload
    mode = policy.mode
    for name, modes in _ONLY_FOR.items():
        if name not in policy.model_fields_set or mode in modes or getattr(policy, name) is None:
            continue
        if name == "bins":
            if policy.bins != 1:
                yield Problem(("policy", "bins"), f"must be 1: mode {mode} has no bins")
            continue
        yield Problem(("policy", name), f"mode {mode} would ignore it; used by {', '.join(modes)}", shown=False)
    for name in _REQUIRED[mode]:
        # A default of the package is no choice, as a limit of coefficients is.
        defaulted = getattr(policy, name) == PolicySettings.model_fields[name].default
        if getattr(policy, name) is None or (defaulted and name not in policy.model_fields_set):
            yield Problem(("policy", name), f"is missing; mode {mode} needs it", shown=False)
    if mode in CONTROLLED and policy.largest_batch is not None and policy.smallest_batch > policy.largest_batch:
        limit = f"must be <= policy.largest_batch = {policy.largest_batch}"
        yield Problem(("policy", "smallest_batch"), limit)
    if mode in BINNED:
        yield from _edge_problems(policy, workload)
    if mode in CONTROLLED:
        yield from _controller_problems(policy)


def _edge_problems(policy: PolicySettings, workload: Workload) -> Iterator[Problem]:
    edges, at = policy.edges, ("policy", "edges")
    if edges.kind == "explicit":
        if edges.values is None:
            yield Problem((*at, "values"), 'is missing; kind = "explicit" needs it', shown=False)
        elif any(low >= high for low, high in zip(edges.values, edges.values[1:], strict=False)):
            yield Problem((*at, "values"), "must increase from edge to edge")
        elif len(edges.values) != policy.bins + 1:
            text = f"must hold policy.bins + 1 = {policy.bins + 1} edges, not {len(edges.values)}"
            yield Problem((*at, "values"), text)
        unused = ("sample", "prefix_requests", "sample_size")
        for name in unused:
            if name in edges.model_fields_set and getattr(edges, name) is not None:
                yield Problem((*at, name), 'kind = "explicit" would ignore it')
    else:
        if edges.values is not None:
            yield Problem((*at, "values"), f'kind = "{edges.kind}" would ignore it; only "explicit" uses it')
        if workload.trace is None:
            for name in ("sample", "prefix_requests"):
                if getattr(edges, name) is not None:
                    yield Problem((*at, name), "only a recorded trace uses it; see sample_size")
        elif "sample_size" in edges.model_fields_set:
            yield Problem((*at, "sample_size"), "a recorded trace would ignore it; see sample and prefix_requests")
        if workload.trace is not None and edges.sample == "prefix" and edges.prefix_requests is None:
            yield Problem((*at, "prefix_requests"), 'is missing; sample = "prefix" needs it', shown=False)
        if workload.trace is not None and edges.sample != "prefix" and edges.prefix_requests is not None:
            yield Problem((*at, "prefix_requests"), 'only sample = "prefix" uses it')
    if isinstance(workload.predictor, Confusion) and policy.bins > 1:
        try:
            workload.predictor.probabilities(policy.bins)
        except InputError as error:
            yield Problem(("workload", "predictor", "matrix"), error.problem, shown=False)
    if isinstance(workload.predictor, Column) and policy.bins > 1:
        classes = workload.predictor.classes
        if classes is not None and classes != policy.bins:
            yield Problem(("workload", "predictor", "classes"), f"must be policy.bins = {policy.bins}")


def _controller_problems(policy: PolicySettings) -> Iterator[Problem]:
    memory, sla, estimates = policy.memory, policy.sla, policy.estimates
    if memory is not None:
        yield from _memory_problems(memory)
    if sla is not None:
        if sla.tolerance_s >= sla.target_s:
            yield Problem(
                ("policy", "sla", "tolerance_s"), f"must be < policy.sla.target_s = {show_value(sla.target_s)}"
            )
        if sla.variant == "heuristic":
            for name in ("alpha", "delta"):
                if name in sla.model_fields_set:
                    yield Problem(("policy", "sla", name), 'variant = "heuristic" would ignore it')
    if sla is not None and policy.controller is not None and policy.controller.signal is not None:
        yield Problem(("policy", "controller", "signal"), "policy.sla.signal says what is observed; remove it here")
    controlled = not (memory is None and sla is None and policy.controller is None)
    for name in ("smallest_batch", "estimates", "controller_scope"):
        used = policy.mode in _ONLY_FOR[name]
        if used and not controlled and name in policy.model_fields_set:
            text = "would be ignored without policy.memory, policy.sla or policy.controller"
            yield Problem(("policy", name), text, shown=False)
    unused = "observations" if estimates.kind == "ema" else "weight"
    if unused in estimates.model_fields_set:
        yield Problem(("policy", "estimates", unused), f'kind = "{estimates.kind}" would ignore it')


def _signals(policy: PolicySettings) -> Iterator[tuple[Path, str]]:
    """Yield the signals that controllers say they observe, and where they say so."""
    for name in ("sla", "controller") if policy.mode in CONTROLLED else ():
        signal = getattr(getattr(policy, name), "signal", None)
        if signal is not None:
            yield ("policy", name, "signal"), signal


def _memory_problems(memory: MemorySettings) -> Iterator[Problem]:
    at = ("policy", "memory")
    margins = [name for name in ("margin_tokens", "margin_fraction") if getattr(memory, name) is not None]
    if memory.rule == "margin" and len(margins) != 1:
        yield Problem((*at, "rule"), "needs margin_tokens or margin_fraction, one of them")
    if memory.rule != "margin":
        for name in margins:
            yield Problem((*at, name), f'rule = "{memory.rule}" would ignore it; only "margin" uses it')
    if memory.rule == "margin" and "overflow_probability" in memory.model_fields_set:
        yield Problem((*at, "overflow_probability"), 'rule = "margin" would ignore it')


def lost_by_rounding(seconds: float, ticks_per_s: int) -> str | None:
    """Return what is wrong with a time that whole ticks change by more than 1 %; None where they do not.

    From 50 ticks on, half a tick is never more.
    """
    exact = seconds * ticks_per_s
    if abs(round(exact) - exact) <= 0.01 * exact:
        return None
    ticks = TICK_NAMES[ticks_per_s]
    return (
        f"would be rounded to {round(exact) / ticks_per_s:g}, in whole {ticks}: must be 0, or at least "
        f"{50 / ticks_per_s:g}, the smallest value that is always kept within 1 %, or whole {ticks} itself"
    )


_IN_BYTES = ("max_bytes", "model_bytes", "kv_bytes_per_token")


def _whole_batch_problems(point: Point) -> Iterator[Problem]:
    """Yield what does not go with whole batches, beyond the options that `_ONLY_FOR` keeps to other modes."""
    memory, in_seconds = point.policy.memory, point.workload.in_seconds
    if memory is not None and point.policy.mode in CONTROLLED:
        yield from _capacity_problems(memory)
        if in_seconds:
            text = 'needs tokens, and workload.lengths.unit is "seconds"'
            yield Problem(("policy", "memory"), text, shown=False)
    for path, signal in _signals(point.policy):
        if signal not in BATCH_SIGNALS:
            yield Problem(path, f"must be one of {', '.join(BATCH_SIGNALS)}: mode {point.policy.mode} has no steps")
        elif in_seconds and signal == "tbt":
            text = 'needs tokens, and workload.lengths.unit is "seconds"; use "batch_time" or "latency"'
            yield Problem(path, text, shown=False)
    for name in ("classes", "sessions"):
        if getattr(point.workload, name) is not None:
            text = f"mode {point.policy.mode} would ignore them; used by continuous"
            yield Problem(("workload", name), text, shown=False)
    if isinstance(point.workload.arrivals, Closed):
        text = f"mode {point.policy.mode} has no closed loop; used by continuous"
        yield Problem(("workload", "arrivals", "process"), text)
    yield from _whole_batch_server_problems(point)
    yield from _clock_problems(point)


def _capacity_problems(memory: MemorySettings) -> Iterator[Problem]:
    at = ("policy", "memory")
    given = [name for name in _IN_BYTES if getattr(memory, name) is not None]
    if memory.capacity_tokens is not None:
        for name in given:
            yield Problem((*at, name), f"give capacity_tokens, or {', '.join(_IN_BYTES)}, not both")
    elif not given:
        text = f"is missing (or give {', '.join(_IN_BYTES)})"
        yield Problem((*at, "capacity_tokens"), text, shown=False)
    elif len(given) < len(_IN_BYTES):
        for name in _IN_BYTES:
            if name not in given:
                yield Problem((*at, name), f"is missing; goes with {', '.join(given)}", shown=False)
    elif not 0 < memory.tokens <= 1e12:
        text = "must be > policy.memory.model_bytes, and leave room for at most 1e12 tokens"
        yield Problem((*at, "max_bytes"), text)
    if memory.margin_tokens is None:
        return
    if memory.margin_tokens >= (memory.capacity_tokens or math.inf):
        yield Problem((*at, "margin_tokens"), "must be < policy.memory.capacity_tokens")
    elif memory.capacity_tokens is None and memory.in_bytes and memory.margin_tokens >= memory.tokens > 0:
        yield Problem((*at, "margin_tokens"), f"must be < {show_value(memory.tokens)}, the tokens that fit")


def _whole_batch_server_problems(point: Point) -> Iterator[Problem]:
    server, workload = point.server, point.workload
    if server.service.law == "steps":
        text = "only mode continuous goes step by step; must be a law of whole batches"
        yield Problem(("server", "service", "law"), text)
    for name in ("routing", "lockstep", "replica"):
        if name in server.model_fields_set and getattr(server, name) is not None:
            text = f"mode {point.policy.mode} would ignore it; used by continuous"
            yield Problem(("server", name), text, shown=False)
    given = server.service.law == "given"
    if given and not workload.in_seconds:
        text = 'needs service times in seconds: set workload.lengths.unit = "seconds"'
        yield Problem(("server", "service", "law"), text)
    if workload.in_seconds and not given:
        text = '"seconds" goes with server.service.law = "given" only'
        yield Problem(("workload", "lengths", "unit"), text, shown=False)
    if server.completion == "own" and given:
        yield Problem(("server", "completion"), 'needs tokens: server.service.law = "given" has none')
    service = server.service
    if isinstance(service, CoefficientsLaw) and service.draw and service.h == "table":
        yield Problem(("server", "service", "draw"), 'h = "table" has no coefficients to draw')
    for name in ("ttft_sla_s", "tpot_sla_s", "token_sla_s", "memory_capacity_tokens"):
        if getattr(point.report, name) is not None and workload.in_seconds:
            yield Problem(("report", name), 'needs tokens, and workload.lengths.unit is "seconds"')
    memory, capacity = point.policy.memory, point.report.memory_capacity_tokens
    if memory is None or capacity is None:
        return
    if memory.capacity_tokens is not None:
        if capacity != memory.capacity_tokens:
            text = f"must be policy.memory.capacity_tokens = {show_value(memory.capacity_tokens)}, which is in force"
            yield Problem(("report", "memory_capacity_tokens"), text)
    elif memory.in_bytes and not math.isclose(capacity, memory.tokens):
        text = (
            f"must be {show_value(memory.tokens)}, the tokens that policy.memory.max_bytes leaves, which are in force"
        )
        yield Problem(("report", "memory_capacity_tokens"), text)


def _clock_problems(point: Point) -> Iterator[Problem]:
    """Yield the times that the clock of whole batches would change."""
    for path, seconds in (
        (("policy", "max_wait_s"), point.policy.max_wait_s),
        (("server", "service", "a0_s"), getattr(point.server.service, "a0_s", None)),
        (("report", "request_sla_s"), point.report.request_sla_s),
        (("report", "ttft_sla_s"), point.report.ttft_sla_s),
    ):
        text = lost_by_rounding(seconds or 0.0, BATCH_TICKS_PER_S)
        if text is not None:
            yield Problem(path, text)
    yield from (Problem(("server", "service", *path), text) for path, text in other_units(point.server.service))


def _continuous_problems(point: Point) -> Iterator[Problem]:
    """Yield what does not go with single steps, beyond the options that `_ONLY_FOR` keeps to other modes."""
    workload, policy, server, report = point
    for path, lengths in _lengths_of(workload):
        yield from _step_length_problems(path, lengths)
    if "completion" in server.model_fields_set:
        text = "mode continuous would ignore it: every request is done with its own last token"
        yield Problem(("server", "completion"), text)
    if report.memory_capacity_tokens is not None:
        text = "mode continuous would ignore it: the capacity is that of server.replica"
        yield Problem(("report", "memory_capacity_tokens"), text)
    limited: list[tuple[Path, Settings, tuple[str, ...]]] = [
        (("report",), report, (*REQUEST_LIMITS, "token_sla_s", "horizon_s"))
    ]
    for place, one in enumerate(workload.classes or ()):
        limited.append((("workload", "classes", place), one, REQUEST_LIMITS))
    for at, settings, names in limited:
        for name in names:
            if (getattr(settings, name) or 0) > LONGEST_CONTINUOUS_S:
                yield Problem((*at, name), f"must be <= {LONGEST_CONTINUOUS_S} in mode continuous")
    if isinstance(server.servers, int) and server.servers > MOST_REPLICAS:
        yield Problem(("server", "servers"), f"must be <= {MOST_REPLICAS} in mode continuous")
    yield from _step_law_problems(server)
    yield from _replica_problems(policy, server)
    yield from _priority_problems(point)
    yield from _step_controller_problems(policy, server)
    yield from _continuous_bin_problems(policy, server)


def _step_length_problems(path: Path, lengths: LengthDistribution) -> Iterator[Problem]:
    if lengths.unit == "seconds":
        yield Problem((*path, "unit"), 'mode continuous needs tokens: must be "tokens"')
    elif not lengths.gives_prompt:
        if isinstance(lengths, Empirical):
            name, text = "prompt_column", "is missing (or give prompt, a distribution); mode continuous needs prompts"
        else:
            name, text = "prompt", "is missing; mode continuous needs prompts"
        yield Problem((*path, name), text, shown=False)
    else:
        for below, prompt in lengths.prompts():
            told = dict(prompt.problems_in_tokens(0))
            for at, text in prompt.problems_in_tokens(1):
                if at not in told:
                    yield Problem((*path, *below, *at), f"{text} in mode continuous")


def _step_law_problems(server: Server) -> Iterator[Problem]:
    law, at = server.service, ("server", "service")
    if isinstance(law, StepsLaw):
        wrong = [*_table_problems(law)]
        yield from (Problem((*at, *path), text) for path, text in wrong)
        if wrong:
            return
        yield from (Problem((*at, *path), text) for path, text in other_units(law))
        for path, seconds in stated_seconds(law):
            text = lost_by_rounding(seconds, TICKS_PER_S)
            if text is not None:
                yield Problem((*at, *path), text)
        if law.decode is None and law.c0_s is None:
            yield Problem((*at, "c0_s"), "is missing (or give decode, a table)", shown=False)
        elif law.decode is None and not (law.c0_s or law.c1_s_per_request):
            yield Problem((*at, "c0_s"), "must be > 0, or c1_s_per_request must: a decode step takes some time")
    elif isinstance(law, CoefficientsLaw):
        for name in ("h", "prompt_tokens"):
            if name in law.model_fields_set:
                text = "mode continuous would ignore it: it takes the coefficients' law of single steps"
                yield Problem((*at, name), text)
    else:
        yield Problem((*at, "law"), 'must be "steps" in mode continuous (or give coefficients)')


def _table_problems(law: StepsLaw) -> Iterator[tuple[Path, str]]:
    for name, terms in TABLED.items():
        table = getattr(law, name)
        if table is not None:
            yield from (((name, *path), text) for path, text in table_problems(table))
            both = [term for term in terms if getattr(law, term) is not None]
            yield from (((term,), f"server.service.{name} stands in its place: remove one") for term in both)


def _replica_problems(policy: PolicySettings, server: Server) -> Iterator[Problem]:
    replica, at = server.replica, ("server", "replica")
    if replica is None:
        yield Problem(at, "is missing; mode continuous needs it", shown=False)
        return
    if policy.largest_batch is not None and replica.token_budget < policy.largest_batch:
        text = f"must be >= policy.largest_batch = {policy.largest_batch}, a token for each request"
        yield Problem((*at, "token_budget"), text)
    if replica.kv_capacity_tokens is None:
        if replica.num_gpu_blocks is None:
            yield Problem((*at, "kv_capacity_tokens"), "is missing (or give num_gpu_blocks)", shown=False)
    elif replica.num_gpu_blocks is not None:
        yield Problem((*at, "num_gpu_blocks"), "give kv_capacity_tokens or num_gpu_blocks, not both")
    elif replica.kv_capacity_tokens < replica.block_tokens:
        text = f"must be >= server.replica.block_tokens = {replica.block_tokens}, a single block"
        yield Problem((*at, "kv_capacity_tokens"), text)
    if (replica.max_num_active_seqs or 0) > (policy.largest_batch or math.inf):
        text = f"must be <= policy.largest_batch = {policy.largest_batch}, the static cap"
        yield Problem((*at, "max_num_active_seqs"), text)
    threshold = replica.long_prefill_token_threshold
    if threshold > (replica.max_model_len or math.inf):
        text = f"must be <= server.replica.max_model_len = {replica.max_model_len}"
        yield Problem((*at, "long_prefill_token_threshold"), text)
    by_priority = replica.scheduling_policy == "priority"
    for name, asked in (
        ("scheduling_policy", by_priority),
        ("async_scheduling", replica.async_scheduling),
        ("enable_prefix_caching", replica.enable_prefix_caching),
        ("long_prefill_token_threshold", threshold > 0),
    ):
        if asked and replica.prefill != "chunked":
            yield Problem((*at, name), 'needs server.replica.prefill = "chunked"')
    if by_priority and policy.admission == "by_bin":
        yield Problem((*at, "scheduling_policy"), 'needs policy.admission = "fifo"')
    if replica.prefill == "separate" and not replica.scheduler_reserve_full_isl:
        text = 'prefill = "separate" would ignore it: its prefills are whole'
        yield Problem((*at, "scheduler_reserve_full_isl"), text, idle=True)
    if replica.long_prefill_token_threshold_adaptive and not threshold:
        path = (*at, "long_prefill_token_threshold_adaptive")
        yield Problem(path, "needs server.replica.long_prefill_token_threshold > 0")


def _priority_problems(point: Point) -> Iterator[Problem]:
    """Yield priorities that nothing looks at, and what would look at priorities that are all the same."""
    workload = point.workload
    if goes_by_priority(point):
        if workload.trace is None and len({one.priority for one in workload.classes or ()}) < 2:
            path: Path = ("server", "replica", "scheduling_policy")
            yield Problem(path, "needs workload.classes of different priorities", idle=True)
        return
    said: list[Path] = [
        ("workload", "classes", place, "priority") for place, one in enumerate(workload.classes or ()) if one.priority
    ]
    if workload.trace is not None and workload.trace.columns.priority is not None:
        said.append(("workload", "trace", "columns", "priority"))
    for path in said:
        yield Problem(path, 'needs server.replica.scheduling_policy = "priority"', idle=True)


def _step_controller_problems(policy: PolicySettings, server: Server) -> Iterator[Problem]:
    memory, replica, at = policy.memory, server.replica, ("policy", "memory")
    for path, signal in _signals(policy):
        if signal not in STEP_SIGNALS:
            text = f"must be one of {', '.join(STEP_SIGNALS)} in mode continuous: the controller observes single steps"
            yield Problem(path, text)
    if memory is None:
        return
    for name in ("capacity_tokens", *_IN_BYTES):
        if getattr(memory, name) is not None:
            text = "mode continuous would ignore it: the capacity is that of server.replica"
            yield Problem((*at, name), text)
    if memory.margin_tokens is not None and replica is not None and memory.margin_tokens >= replica.held_tokens > 0:
        given = getattr(replica, replica.capacity)
        text = f"must be < server.replica.{replica.capacity} = {given}"
        if replica.held_tokens != given:
            text += f", of which whole blocks hold {replica.held_tokens}"
        yield Problem((*at, "margin_tokens"), text)


def _continuous_bin_problems(policy: PolicySettings, server: Server) -> Iterator[Problem]:
    by_bin = 'policy.admission = "by_bin" or server.routing = "by_bin"'
    admitted, routed = policy.admission == "by_bin", server.routing == "by_bin"
    if not (admitted or routed):
        if policy.bins > 1:
            yield Problem(("policy", "bins"), f"must be 1: nothing looks at bins without {by_bin}")
        if "edges" in policy.model_fields_set:
            yield Problem(("policy", "edges"), f"would be ignored without {by_bin}", shown=False)
    if "bin_choice" in policy.model_fields_set and not admitted:
        yield Problem(("policy", "bin_choice"), f'admission = "{policy.admission}" would ignore it; used by "by_bin"')
    if admitted and policy.bins == 1:
        yield Problem(("policy", "admission"), "needs policy.bins > 1", idle=True)
    if server.servers == 1:
        # The default of a single replica means nothing, whether it is stated or not.
        if server.routing != "round_robin":
            yield Problem(("server", "routing"), "needs server.servers > 1", idle=True)
        if server.lockstep:
            yield Problem(("server", "lockstep"), "needs server.servers > 1", idle=True)
    elif routed and isinstance(server.servers, int) and policy.bins < server.servers:
        text = f'must be >= server.servers = {server.servers}: routing = "by_bin" gives every replica a bin'
        yield Problem(("policy", "bins"), text)
