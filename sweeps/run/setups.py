"""The engine's setup of a point, of either kind of simulation; what only the data show to be impossible is refused."""

from collections.abc import Callable, Hashable
from functools import cache
from inspect import signature
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from batchcube.engine import INFINITE, batches, continuous, make_policy, make_reporting
from batchcube.engine.continuous import (
    Law,
    Replica,
    Requests,
    make_fleet,
    make_replica,
    make_requests,
)
from batchcube.engine.continuous.model import answered, blocks_of, never_fits
from batchcube.engine.continuous.steps import decode_ticks, kv_token_ticks, prefill_ticks
from batchcube.engine.continuous.ticks import TICKS_PER_S as STEP_TICKS_PER_S
from batchcube.engine.policies.estimates import smoothing
from batchcube.engine.policies.memory import memory_bound, no_memory_bound
from batchcube.engine.policies.service import Service, piece_of, service_ticks
from batchcube.engine.policies.sla import no_sla, sla_search
from batchcube.engine.policies.target import Control, fixed_target
from batchcube.engine.ticks import TICKS_PER_S, from_seconds
from batchcube.errors import InputError, found_in

from ..seeds import stream
from ..spec.policies import order_of
from ..spec.settings import (
    CONTROLLED,
    LONGEST_CONTINUOUS_S,
    Point,
    PolicySettings,
    ReplicaSettings,
    Server,
    SlaSettings,
    Workload,
    caches_prefixes,
    draws_service,
    goes_by_priority,
)
from ..workloads.arrivals import Closed
from ..workloads.settings import FloatArray, Settings
from ..workloads.traces import LATEST_S, RecordedTrace
from .laws import build_service, drawn_law, drawn_service, step_law
from .samples import Sample, sampling, trace_resampling

Made = TypeVar("Made")
Once = Callable[[Hashable, Callable[[], Any]], Any]
"""Gives what was made for a key before, or makes it."""


class Simulated(NamedTuple):
    """A point, and what its setup is built from."""

    point: Point
    trace: RecordedTrace | None
    requests: int
    warmup: int
    batch: int
    """B, the largest batch of a controller, or the most that run at once."""
    edges: FloatArray
    sample: Sample
    beliefs: tuple[FloatArray, FloatArray]


def batch_setup(of: Simulated, seed: int, once: Once) -> batches.Setup:
    """Build the setup of batches that run as a whole."""
    workload, policy, server, report = of.point
    batch = of.batch
    if policy.memory is not None:
        capacity = policy.memory.tokens
        _require_room(f"policy.memory: {capacity:g} tokens of capacity", capacity, of.sample)
    service = once(("service", server.service, batch), lambda: build_service(server, batch))
    key = ("clock", server.service, workload.model_copy(update={"arrivals": None}), sampling(policy, of.trace))
    once(key, lambda: _require_kept(server, service, of.sample))
    if draws_service(of.point):
        # Told before anything runs: coefficients whose errors are not known cannot be drawn.
        drawn_service(of.point, batch, stream(seed, None, "coefficients"))
    span = report.horizon_s or _span(workload, of.trace, of.requests)
    span = span or _work_s(server, service, batch, of.requests, of.sample)
    _require_span(of, span, LATEST_S)
    return batches.Setup(
        _made(
            make_policy,
            policy,
            batch_size=batch,
            servers=INFINITE if server.servers == "infinite" else server.servers,
            service_order=order_of(policy.service_order),
            bin_choice=order_of(policy.bin_choice),
            completion=server.completion,
        ),
        service,
        build_control(
            policy,
            batch,
            of.beliefs,
            None if policy.memory is None else policy.memory.tokens,
            counted_tokens=report.memory_capacity_tokens,
        ),
        _made(make_reporting, report, horizon_s=span, warmup_requests=of.warmup),
    )


def step_setup(of: Simulated, seed: int, once: Once) -> continuous.Setup:
    """Build the setup of continuous batching; InputError for what cannot be simulated, or not what was asked for."""
    workload, policy, server, report = of.point
    assert server.replica is not None
    assert isinstance(server.servers, int)
    replica, bins = server.replica, len(of.edges) - 1
    key = (workload.model_copy(update={"arrivals": None}), sampling(policy, of.trace))
    requests: Requests = once(("requests", *key), lambda: _requests(of))
    if server.routing == "by_bin" and bins < server.servers:
        raise InputError(
            f"requests fall into {bins} of the {policy.bins} bins only",
            path="server.routing",
            value='"by_bin"',
            allowed=f"must be at least server.servers = {server.servers}",
        )
    if caches_prefixes(of.point) and of.trace is not None and of.trace.content is not None:
        each = of.trace.content.tokens_each
        if each % replica.block_tokens:
            raise InputError(
                f"must divide the {each} tokens of a block of hash_ids, for enable_prefix_caching",
                path="server.replica.block_tokens",
                value=replica.block_tokens,
            )
    if goes_by_priority(of.point) and of.trace is not None and of.trace.priority is None:
        raise InputError(
            'the trace says no priorities: needs a column "priority", or workload.trace.columns.priority',
            path="server.replica.scheduling_policy",
            value='"priority"',
        )
    law = once(("steps", server.service), lambda: step_law(server))
    if draws_service(of.point):
        drawn_law(of.point, stream(seed, None, "coefficients"))
    if policy.sla is not None:
        _require_reachable(policy.sla, law, float(requests.prompt.mean()))
    span = report.horizon_s or _step_span(of, law)
    _require_span(of, span, LONGEST_CONTINUOUS_S, " in mode continuous")
    mean, square = of.beliefs
    setup = continuous.Setup(
        _made(
            make_replica,
            replica,
            law=law,
            most_running=of.batch,
            capacity_tokens=replica.kv_capacity_tokens,
            # One controller: the moments over all bins.
            control=build_control(policy, of.batch, (mean[:1], square[:1]), float(replica.held_tokens)),
        ),
        _made(
            make_fleet,
            policy,
            replicas=server.servers,
            routing=server.routing,
            lockstep=server.lockstep,
            bins=bins,
            bin_choice=order_of(policy.bin_choice),
        ),
        _made(continuous.make_reporting, report, horizon_s=span, warmup_requests=of.warmup),
    )
    _require_fit(replica, requests, setup.replica)
    with found_in(path="server.service"):
        continuous.check(continuous.Job(requests, np.zeros(len(requests.arrival), np.int32), setup))
    return setup


def build_control(
    policy: PolicySettings,
    largest_batch: int,
    beliefs: tuple[FloatArray, FloatArray],
    capacity_tokens: float | None,
    *,
    counted_tokens: float | None = None,
) -> Control:
    """Build the batch-size target of a policy; `beliefs` are the first mean and mean square (bin,) of prompt + output.

    `capacity_tokens` is η of the memory bound, needed where the policy has one; `counted_tokens` counts overflows where
    it has none.
    """
    mean, square = beliefs
    unbounded = no_memory_bound() if counted_tokens is None else no_memory_bound(counted_tokens)
    if policy.mode not in CONTROLLED:
        return fixed_target(largest_batch, largest_batch, mean, square)._replace(memory=unbounded)
    memory, sla, estimates, further = policy.memory, policy.sla, policy.estimates, policy.controller
    signal = "tbt" if further is None or further.signal is None else further.signal
    return Control(
        smallest=float(policy.smallest_batch),
        largest=float(largest_batch),
        sla=no_sla(signal) if sla is None else _made(sla_search, sla),
        memory=unbounded
        if memory is None or capacity_tokens is None
        else _made(memory_bound, memory, capacity_tokens=capacity_tokens, margin_tokens=memory.margin(capacity_tokens)),
        smoothing=_made(smoothing, estimates),
        prior_tokens=mean,
        prior_squares=square,
        further=() if further is None else further.numbers(),
    )


def _made(maker: Callable[..., Made], settings: Settings, **rest: Any) -> Made:
    """Return what a function of the engine makes of the settings that it takes by their names, and of the rest."""
    taken = {name: value for name, value in settings if name in _taken_by(maker)}
    return maker(**(taken | rest))


@cache
def _taken_by(maker: Callable[..., Any]) -> frozenset[str]:
    """Return the names of a function's arguments; looking them up takes as long as making a setup."""
    return frozenset(signature(maker).parameters)


def _require_span(of: Simulated, span_s: float, longest_s: float, mode: str = "") -> None:
    """Refuse a workload that lasts longer than a clock goes, naming the settings that it follows from."""
    if span_s <= longest_s:
        return
    rate = getattr(of.point.workload.arrivals, "rate_per_s", None)
    at_rate = "" if rate is None else f" with workload.arrivals.rate_per_s = {rate:g}"
    raise InputError(
        f"workload.requests = {of.requests}{at_rate}: arrive, or are served, within about {span_s:.4g} s",
        allowed=f"must be at most {longest_s:.10g} s{mode}",
    )


def _require_room(given: str, capacity_tokens: float, sample: Sample) -> None:
    """Refuse a capacity that does not hold a single request of mean size; `given` says which it is."""
    if sample.tokens is None:
        return
    mean = float(sample.tokens.mean())
    if capacity_tokens < mean:
        raise InputError(
            f"must be at least {mean:.1f}, what one request takes on average, or it could not be served", path=given
        )


def _require_kept(server: Server, service: Service, sample: Sample) -> None:
    """Refuse service times, or times of batches of one, that whole microseconds change by more than 1 % on average."""
    if sample.tokens is None:
        source, times = "workload.lengths: service times", sample.length * TICKS_PER_S
        kept = np.maximum(from_seconds(sample.length), 1)
    else:
        source = "server.service: batches of one request"
        lengths = sample.tokens if getattr(server.service, "length", "output") == "total" else sample.length
        piece = piece_of(lengths, service)
        times = service.base[1, piece] + service.slope[1, piece] * (lengths - service.knots[piece])
        kept = service_ticks(1, lengths, service)
    exact_s, kept_s = float(times.mean()) / TICKS_PER_S, float(kept.mean()) / TICKS_PER_S
    if abs(kept_s - exact_s) > 0.01 * exact_s:
        raise InputError(
            f"{source} of {exact_s:.3g} s on average would be rounded to {kept_s:.3g}, in whole "
            "microseconds, at least one",
            allowed=f"must be at least {100 / TICKS_PER_S:g}, the smallest mean that is always kept within "
            "1 %, or whole microseconds themselves",
        )


def _requests(of: Simulated) -> Requests:
    """Return the sample as requests of continuous batching; of a recorded trace, all that a replication may hold."""
    prompt: NDArray[Any]
    output: NDArray[Any]
    if of.trace is None:
        assert of.sample.tokens is not None
        source = "workload.lengths" if of.point.workload.classes is None else "workload.classes"
        prompt, output = of.sample.tokens - of.sample.length, of.sample.length
    else:
        seen = slice(0, of.requests if trace_resampling(of.point.workload) == "none" else None)
        source, prompt, output = "workload.trace", of.trace.prompt_tokens[seen], of.trace.output_tokens[seen]
    if prompt.min() < 1:
        none = int(np.count_nonzero(prompt < 1))
        refused = InputError(
            f"{none} of {len(prompt)} prompts have no tokens: mode continuous needs prompts of at least 1", path=source
        )
        raise (
            refused if of.trace is None else refused.advised("workload.trace.drop_empty_prompts = true leaves them out")
        )
    return make_requests(np.zeros(len(prompt)), prompt, output)


def _require_fit(given: ReplicaSettings, requests: Requests, replica: Replica) -> None:
    """Refuse a replica that would turn away more than half of the requests of a sample."""
    refused = float(never_fits(requests, replica).mean())
    if refused <= 0.5:
        return
    least = f"{100 * refused:.3g} % of the requests could never be served"
    shortest = int(np.quantile(requests.prompt, 0.5, method="inverted_cdf")) + 1
    if shortest > replica.max_model_len:
        raise InputError(
            f"must be at least {shortest}, a token more than the median prompt: {least}",
            path="server.replica.max_model_len",
            value=given.max_model_len,
        )
    kept = answered(requests, replica)
    most = kept.prompt + kept.output - 1
    middle = int(np.quantile(most, 0.5, method="inverted_cdf"))
    room = blocks_of(middle, replica.block_tokens) * replica.block_tokens
    if room > given.held_tokens:
        enough = room if given.num_gpu_blocks is None else room // replica.block_tokens + 1
        raise InputError(
            f"must be at least {enough}, what the median request takes, prompt + output - 1 = {middle} "
            f"tokens in blocks of {replica.block_tokens}: {least}",
            path=f"server.replica.{given.capacity}",
            value=getattr(given, given.capacity),
        )
    # Half of the requests fit the cache: their shortest prompts, so many that they are half of all.
    prompts = np.sort(requests.prompt[most <= given.held_tokens])
    budget = int(prompts[(len(most) + 1) // 2 - 1])
    raise InputError(
        f'server.replica.token_budget = {given.token_budget} with prefill = "separate"',
        allowed=f"must be at least {budget}, to hold the prompts of half of the requests whole: {least}",
    )


def _require_reachable(sla: SlaSettings, law: Law, mean_prompt: float) -> None:
    """Refuse a target that even a decode step of one request, with a prompt of mean length, misses."""
    alone_s = (decode_ticks(1, law) + kv_token_ticks(1, law) * (mean_prompt + 1.0)) / STEP_TICKS_PER_S
    if sla.target_s + sla.tolerance_s < (1.0 - 1e-12) * alone_s:
        raise InputError(
            f"must be, with tolerance_s = {sla.tolerance_s:g}, at least {alone_s:g}, a decode step of one request that "
            f"reads {mean_prompt + 1.0:.1f} tokens: a single request misses it",
            path="policy.sla.target_s",
            value=f"{sla.target_s:g}",
        )


def _span(workload: Workload, trace: RecordedTrace | None, count: int) -> float:
    """Return the nominal span of the arrivals in seconds, 0 where all arrive at once."""
    if trace is None:
        assert workload.arrivals is not None
        return workload.arrivals.nominal_span_s(count)
    assert workload.trace is not None
    return float(trace.arrival_s[-1]) * count / len(trace.arrival_s) / workload.trace.rate_scale


def _work_s(server: Server, service: Service, batch: int, count: int, sample: Sample) -> float:
    """Return how long the servers are busy with full batches of requests of mean length, in seconds."""
    unit = TICKS_PER_S if sample.tokens is None else 1
    batch_s = service_ticks(batch, int(sample.length.mean() * unit), service) / TICKS_PER_S
    return float(batch_s) * (1.0 if server.servers == "infinite" else count / (batch * server.servers))


def _step_span(of: Simulated, law: Law) -> float:
    """Return the nominal span in seconds until the last request comes, with the thinking of users and in sessions."""
    (workload, _, server, _), turns = of.point, of.sample.turns
    assert isinstance(server.servers, int)
    sessions, arrivals, at_once, thinking = workload.sessions, workload.arrivals, of.batch, 0.0
    if sessions is not None and sessions.think_s is not None:
        thinking = (turns - 1.0) * sessions.think_s.mean_value()
    if isinstance(arrivals, Closed):
        at_once = min(at_once, -(-arrivals.users // server.servers))
        thinking += 0.0 if arrivals.think_s is None else arrivals.think_s.mean_value()
        thinking *= of.requests / turns / arrivals.users
    span = _span(workload, of.trace, round(of.requests / turns))
    return (span or _step_work_s(server, law, at_once, of.requests, of.sample)) + thinking


def _step_work_s(server: Server, law: Law, batch: int, count: int, sample: Sample) -> float:
    """Return how long the replicas are busy if as many requests run as there is room for, in seconds."""
    assert isinstance(server.servers, int)
    assert server.replica is not None
    assert sample.tokens is not None
    output, tokens = float(sample.length.mean()), float(sample.tokens.mean())
    prompt = tokens - output
    running = min(float(batch), max(server.replica.held_tokens / tokens, 1.0))
    fewer = int(running)
    step, step_of_one_more = (
        float(decode_ticks(k, law)) + k * float(kv_token_ticks(k, law)) * (prompt + output / 2.0)
        for k in (fewer, fewer + 1)
    )
    step += (running - fewer) * (step_of_one_more - step)
    prefill = float(prefill_ticks(int(prompt), prompt * prompt / 2.0, 0, law))
    return float(count / server.servers * (output / running * step + prefill) / STEP_TICKS_PER_S)
