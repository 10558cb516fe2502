"""Cases for the engine's tests: a short way to write one by hand, and a generator of random ones over every option."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from batchcube.engine import (
    INFINITE,
    MODES,
    Job,
    Records,
    Reporting,
    Setup,
    Shape,
    make_policy,
    make_reporting,
    make_trace,
    simulate,
    simulate_records,
    sort_into_bins,
)
from batchcube.engine.moments import exact_sums
from batchcube.engine.policies.estimates import KINDS, smoothing
from batchcube.engine.policies.memory import RULES, UNLIMITED, Memory, memory_bound, no_memory_bound
from batchcube.engine.policies.order import CHOICES, SERVICE_ORDERS
from batchcube.engine.policies.service import BATCH_FACTORS, Service, formula, given, measured
from batchcube.engine.policies.sla import BATCH_SIGNALS, VARIANTS, Sla, no_sla, sla_search
from batchcube.engine.policies.target import Control
from batchcube.engine.tally import Tally

STATIC = ("multi_bin_only", "fifo_fixed")
SECOND = 1_000_000
EITHER = (True, False)


def fixed_control(largest: int, bins: int = 1) -> Control:
    """Return a controller that always asks for `largest`."""
    return make_control(1, largest, bins=bins)


def make_control(
    smallest: int,
    largest: int,
    *,
    sla: Sla | None = None,
    memory: Memory | None = None,
    estimates: Any = None,
    bins: int = 1,
    mean: float = 30.0,
    variance: float = 600.0,
) -> Control:
    return Control(
        smallest=float(smallest),
        largest=float(largest),
        sla=no_sla() if sla is None else sla,
        memory=no_memory_bound() if memory is None else memory,
        smoothing=smoothing() if estimates is None else estimates,
        prior_tokens=np.full(bins, mean),
        prior_squares=np.full(bins, mean * mean + variance),
    )


def make_job(
    arrival_s: Sequence[float] | np.ndarray,
    service_s: ArrayLike | None = None,
    *,
    output: ArrayLike | None = None,
    prompt: ArrayLike | None = None,
    predicted: ArrayLike | None = None,
    mode: str = "multi_bin_only",
    batch_size: int = 1,
    bin_of: ArrayLike | None = None,
    bins: int = 1,
    law: Service | None = None,
    control: Control | None = None,
    horizon_s: float = 100.0,
    windows: int = 1,
    warmup: int = 0,
    request_sla_s: float | None = None,
    ttft_sla_s: float | None = None,
    tpot_sla_s: float | None = None,
    token_sla_s: float | None = None,
    **policy: Any,
) -> Job:
    """Build a job; service times are given, or follow `law` from the output tokens."""
    trace = make_trace(
        arrival_s, service_s=service_s, output_tokens=output, prompt_tokens=prompt, predicted=predicted, length="output"
    )
    of = np.zeros(len(trace.arrival)) if bin_of is None else np.asarray(bin_of)
    setup = Setup(
        make_policy(mode, batch_size=batch_size, **policy),
        given(largest_batch=batch_size) if law is None else law,
        fixed_control(batch_size, bins) if control is None else control,
        make_reporting(
            horizon_s=horizon_s,
            windows=windows,
            warmup_requests=warmup,
            request_sla_s=request_sla_s,
            ttft_sla_s=ttft_sla_s,
            tpot_sla_s=tpot_sla_s,
            token_sla_s=token_sla_s,
        ),
    )
    return Job(trace, sort_into_bins(of.astype(np.int32), bins), setup)


def shape_of(job: Job) -> Shape:
    return Shape(len(job.bins.start) - 1, job.setup.policy.batch_size, job.setup.reporting.windows)


def run(job: Job, backend: str = "numba") -> tuple[Tally, Records]:
    """Return what a backend leaves behind: a tally with a leading axis of one run, and the records."""
    tally, records = run_all([job], shape_of(job), backend)
    return tally, records[0]


def run_all(jobs: Sequence[Job], shape: Shape, backend: str = "numba") -> tuple[Tally, list[Records]]:
    """Return what a backend leaves behind of many jobs: tallies with a leading axis job, and the records of each."""
    return simulate_records(jobs, shape, backend)


def records_of(job: Job, backend: str = "numba") -> Records:
    return simulate(job, backend=backend).records


def differences(job: Job) -> list[str]:
    """Name everything on which the reference and the compiled kernels differ: nothing, if all is well."""
    (tally, records), (tally_too, records_too) = run(job, "numba"), run(job, "reference")
    return compare(tally, records, tally_too, records_too)


def compare(tally: Tally, records: Records, tally_too: Tally, records_too: Records, run: int = 0) -> list[str]:
    """Name everything on which two runs differ; `run` is the run of both tallies that is looked at."""
    found = [
        f"records.{name}"
        for name, a, b in zip(Records._fields, records, records_too, strict=True)
        if not np.array_equal(a, b)
    ]
    for name, a, b in zip(Tally._fields, tally, tally_too, strict=True):
        if name == "moments":  # the same sum may be spread differently over its limbs
            same = [exact_sums(row) for row in a[run]] == [exact_sums(row) for row in b[run]]
        else:
            same = np.array_equal(a[run], b[run])
        if not same:
            found.append(f"tally.{name}")
    return found


def _pick(rng: np.random.Generator, *values: Any) -> Any:
    return values[rng.integers(len(values))]


def _likely(rng: np.random.Generator, allowed: Sequence[bool]) -> bool:
    """Draw yes (7 of 10) or no, or say what alone is allowed; the generator moves on either way."""
    drawn = rng.random() < 0.7
    return drawn if drawn in allowed else allowed[0]


def _random_law(rng: np.random.Generator, batch_size: int, **only: Any) -> Service:
    law = formula(
        _pick(rng, 0.0, 0.1, 0.5),
        _pick(rng, 0.01, 0.05, 0.1),
        _pick(rng, *BATCH_FACTORS),
        _pick(rng, 0.0, 0.1, 0.5),
        largest_batch=batch_size,
    )
    if _likely(rng, only.get("formula", EITHER)):
        return law
    table = np.array([[0.3, 0.9, 2.0], [0.4, 1.1, 2.4], [0.5, 1.4, 3.0]])
    return measured(np.array([1, 3, 6]), np.array([5, 20, 50]), table, law)


def _random_control(rng: np.random.Generator, batch_size: int, bins: int, **only: Any) -> Control:
    sla = sla_search(
        _pick(rng, *VARIANTS),
        _pick(rng, *BATCH_SIGNALS),
        _pick(rng, 0.02, 0.05, 0.3, 1.0, 3.0),
        _pick(rng, 0.0, 0.01, 0.2),
        _pick(rng, 1.0, 2.0, 3.0, 4.0),
        _pick(rng, 0.0, 1.0, 2.0),
    )
    memory = memory_bound(_pick(rng, *RULES), _pick(rng, 60.0, 150.0, 400.0), 0.05, _pick(rng, 0.0, 20.0))
    tokens = rng.uniform(10, 60, bins)
    return Control(
        smallest=float(rng.integers(1, batch_size + 1)),
        largest=float(batch_size),
        sla=sla if _likely(rng, only.get("sla", EITHER)) else no_sla(),
        memory=memory if _likely(rng, only.get("memory", EITHER)) else no_memory_bound(_pick(rng, 100.0, UNLIMITED)),
        smoothing=smoothing(_pick(rng, *only.get("estimates", KINDS)), _pick(rng, 0.2, 0.5, 1.0), _pick(rng, 1, 2, 5)),
        prior_tokens=tokens,
        prior_squares=tokens**2 * rng.uniform(1, 1.3, bins),
    )


def _random_reporting(rng: np.random.Generator, requests: int) -> Reporting:
    return make_reporting(
        horizon_s=_pick(rng, 1.0, 5.0, 20.0, 100.0),
        windows=_pick(rng, 1, 7),
        warmup_requests=_pick(rng, 0, 0, 3, requests),
        request_sla_s=_pick(rng, None, 1.0, 5.0),
        token_sla_s=_pick(rng, None, 0.03, 0.1),
    )


def random_job(rng: np.random.Generator, **only: Any) -> Job:
    """Draw a small replication; every option of the engine has its chance, and ties in time are common.

    `only` names options and the values to which they are held: `mode`, `servers`, `max_wait_s`, `service_order`,
    `bin_choice`, `completion`, `estimates`; and as booleans `tokens` (or service times), `formula` (or a measured
    table), `sla`, `memory`.
    """
    requests, batch_size = int(rng.integers(1, 60)), int(rng.integers(1, 9))
    mode = _pick(rng, *only.get("mode", MODES))
    bins = 1 if mode in ("fifo_fixed", "fifo_greedy", "dynamic_only") else int(rng.integers(1, 5))
    if rng.random() < 0.7:
        arrival = np.cumsum(rng.integers(0, 4, requests) * _pick(rng, 0.1, 0.5, 1.0))
    else:
        arrival = np.cumsum(rng.exponential(0.7, requests))
    if _likely(rng, only.get("tokens", EITHER)):
        output = rng.integers(1, 40, requests)
        trace = make_trace(
            arrival,
            output_tokens=output,
            prompt_tokens=rng.integers(0, 50, requests),
            predicted=np.maximum(output + rng.integers(-5, 6, requests), 1),
            length=_pick(rng, "output", "total"),
        )
        law = _random_law(rng, batch_size, **only)
    else:
        trace = make_trace(arrival, service_s=rng.uniform(0.1, 4.0, requests))
        law = given(largest_batch=batch_size)
    static = mode in STATIC
    policy = make_policy(
        mode,
        batch_size=batch_size,
        servers=_pick(rng, *only.get("servers", (1, 1, 2, 3, INFINITE))),
        max_wait_s=_pick(rng, *only.get("max_wait_s", (None, 0.0, 0.5, 1.0, 2.0))) if static else None,
        service_order=_pick(rng, *only.get("service_order", SERVICE_ORDERS)) if static else "first_formed",
        tail=_pick(rng, "flush", "drop") if static else "flush",
        bin_choice=_pick(rng, *only.get("bin_choice", CHOICES)),
        controller_scope=_pick(rng, "per_bin", "global"),
        completion=_pick(rng, *only.get("completion", ("batch", "own"))),
    )
    dynamic = mode in ("dynamic_only", "multi_bin_dynamic")
    control = _random_control(rng, batch_size, bins, **only) if dynamic else fixed_control(batch_size, bins)
    of = rng.integers(0, bins, requests).astype(np.int32)
    setup = Setup(policy, law, control, _random_reporting(rng, requests))
    return Job(trace, sort_into_bins(of, bins), setup)
