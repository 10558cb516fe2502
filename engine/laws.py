"""Laws that hold for any policy: `check_policy` runs a controller or an order through small replications.

What a policy is asked for is the same twice, keeps the shape of its state, and is a number; batches stay inside their
bounds; and all backends give the same numbers, request by request. For the tests of whoever writes one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from . import batches, continuous
from .batches.model import make_policy, make_reporting, make_trace, sort_into_bins
from .policies.controller import Controller, as_floats
from .policies.estimates import smoothing
from .policies.memory import memory_bound
from .policies.order import Order
from .policies.registry import Policy
from .policies.service import formula
from .policies.target import Control, fixed_target
from .run import simulate_records, simulation_of
from .simulation import Job, Report

SMALLEST, LARGEST, BINS = 2, 8, 3


def check_policy(
    policy: Policy,
    settings: Any = None,
    *,
    backends: Sequence[str] = (),
    simulations: Sequence[Any] = (batches, continuous),
    seeds: int = 8,
) -> None:
    """Assert that a policy keeps the laws; `settings` are its defaults where left out.

    Runs in `backends`, by default in all that are installed; continuous batching has no JAX. Raises AssertionError.
    """
    given = policy.settings() if settings is None else settings
    wanted = tuple(backends) or ("reference", "numba", *(("jax",) if find_spec("jax") else ()))
    for rows in _blocks(policy, given, seeds):
        shape = rows[0].shape
        if simulation_of(rows[0]) not in simulations:
            continue
        if isinstance(policy, Controller):
            _watch(policy, rows)
        tally, records = simulate_records(rows, shape, "reference")
        for job, found in zip(rows, records, strict=True):
            _require_served(job, found)
        _require_bounds(simulation_of(rows[0]).summarise(tally, rows))
        kinds = [backend for backend in wanted if backend != "jax" or isinstance(rows[0], batches.Job)]
        for backend in ("reference", *kinds):
            again, records_too = simulate_records(rows, shape, backend)
            for one, other in zip((*records, tally.windows), (*records_too, again.windows), strict=True):
                same = all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
                assert same, f"{policy.name}: {backend} and the reference differ ({type(rows[0]).__module__})"


def _watch(policy: Controller, rows: Sequence[Job]) -> None:
    """Run the reference with a controller whose every decision is looked at."""

    def init(view: Any, settings: Any) -> Any:
        return _decided(policy, None, policy.init(view, settings), policy.init(view, settings))

    def decide(state: Any, view: Any, settings: Any) -> Any:
        decided = policy.decide(state, view, settings)
        _decided(policy, state, decided, policy.decide(state, view, settings))
        if policy.steady(settings):
            repeated = policy.decide(as_floats(decided[0]), view, settings)
            assert as_floats(repeated) == as_floats(decided), f"{policy.name}: is steady, yet moves when asked again"
        return decided

    try:
        replace(policy, init=init, decide=decide)  # from here on, the settings are those of this one
        simulate_records(rows, rows[0].shape, "reference")
    finally:
        replace(policy)


def _decided(policy: Controller, state: Any, decided: Any, again: Any) -> Any:
    """Refuse a decision that is another when it is asked for again, changes its shape, or is no number."""
    kept, bound = decided
    assert as_floats(decided) == as_floats(again), f"{policy.name}: decides otherwise when asked again"
    if state is not None:
        assert _shape_of(kept) == _shape_of(state), f"{policy.name}: its state changes its shape"
    assert not math.isnan(float(bound)), f"{policy.name}: the bound is no number"
    return decided


def _shape_of(state: Any) -> Any:
    return (type(state), tuple(map(_shape_of, state))) if isinstance(state, tuple) else None


def _require_bounds(report: Report) -> None:
    """Refuse targets, where there are any, that are not held inside [B_min, B_max]."""
    targets = report["window_batch_target_mean"]
    assert not ((targets < SMALLEST) | (targets > LARGEST)).any(), "a target lies outside [B_min, B_max]"


def _require_served(job: Job, records: Any) -> None:
    """Refuse batches beyond B_max, and requests that were never served."""
    if isinstance(job, batches.Job):
        assert ((records.size >= 1) & (records.size <= LARGEST)).all(), "a batch is larger than the largest"
        assert (records.completion > records.start).all(), "a request was never served"
    else:
        assert (records.last_token >= records.first_token).all(), "a request was never served"


def _blocks(policy: Policy, settings: Any, seeds: int) -> Iterator[list[Any]]:
    """Yield replications that are looked at together, of one kind each."""
    rngs = [np.random.default_rng([seed, 12]) for seed in range(seeds)]
    if isinstance(policy, Order):
        yield [_batch_job(rng, "multi_bin_only", service_order=settings) for rng in rngs]
        yield [_batch_job(rng, "multi_bin_dynamic", bin_choice=settings) for rng in rngs]
        yield [_step_job(rng, bin_choice=settings) for rng in rngs]
    else:
        yield [_batch_job(rng, "multi_bin_dynamic", further=settings) for rng in rngs]
        yield [_step_job(rng, further=settings) for rng in rngs]


def _control(rng: np.random.Generator, further: Any) -> Control:
    tokens = rng.uniform(20.0, 60.0, BINS)
    fixed = fixed_target(SMALLEST, LARGEST, tokens, 1.2 * tokens**2)
    memory = memory_bound("exact", float(rng.choice([150.0, 400.0])))
    return fixed._replace(memory=memory, smoothing=smoothing("ema", 0.5), further=further)


def _requests(rng: np.random.Generator) -> tuple[Any, ...]:
    """Draw arrivals, prompts, outputs, predictions and bins; ties in time are common."""
    count = 60
    arrival = np.cumsum(rng.integers(0, 4, count) * rng.choice([0.05, 0.2]))
    prompt, output = rng.integers(1, 50, count), rng.integers(1, 40, count)
    predicted = np.maximum(output + rng.integers(-5, 6, count), 1)
    return arrival, prompt, output, predicted, np.minimum(predicted * BINS // 40, BINS - 1).astype(np.int32)


def _batch_job(rng: np.random.Generator, mode: str, further: Any = (), **orders: Any) -> batches.Job:
    arrival, prompt, output, predicted, of = _requests(rng)
    trace = make_trace(arrival, output_tokens=output, prompt_tokens=prompt, predicted=predicted)
    scope = str(rng.choice(["per_bin", "global"]))
    rules = make_policy(mode, batch_size=LARGEST, servers=1, controller_scope=scope, **orders)
    law = formula(0.1, float(rng.choice([0.01, 0.05])), "linear", 0.1, largest_batch=LARGEST)
    reporting = make_reporting(horizon_s=float(arrival[-1]), windows=7)
    setup = batches.Setup(rules, law, _control(rng, further), reporting)
    return batches.Job(trace, sort_into_bins(of, BINS), setup)


def _step_job(rng: np.random.Generator, further: Any = (), bin_choice: Any = "oldest_head") -> continuous.Job:
    arrival, prompt, output, predicted, of = _requests(rng)
    replica = continuous.make_replica(
        continuous.make_law(3e-3, 1e-3, 1e-5, 1e-4),
        most_running=LARGEST,
        token_budget=64,
        capacity_tokens=400,
        block_tokens=4,
        control=_control(rng, further),
    )
    fleet = continuous.make_fleet(bins=BINS, admission="by_bin", bin_choice=bin_choice)
    reporting = continuous.make_reporting(horizon_s=float(arrival[-1]), windows=7)
    requests = continuous.make_requests(arrival / 20.0, prompt, output, predicted)
    return continuous.Job(requests, of, continuous.Setup(replica, fleet, reporting))
