"""Replications of one recorded trace: windows that are cut out of it, or drawn from it."""

import numpy as np

from batchcube.engine.continuous.model import parts_of
from batchcube.errors import InputError

from .traces import LATEST_S, RecordedTrace, Resampling


def resample(
    trace: RecordedTrace,
    rng: np.random.Generator,
    *,
    method: Resampling,
    requests: int | None = None,
    block_requests: int | None = None,
    rate_scale: float = 1.0,
    replication: int = 0,
) -> RecordedTrace:
    """Cut one replication's window of `requests` (default: all) out of a trace; arrivals become (a - a_0) / rate_scale.

    "none": the first requests. "parts": successive requests, those of a replication after those of the one before it;
    no two share any: the batches of the method of batch means. "circular": from a random request on, around the end
    (one mean gap joins end and beginning). "blocks": moving blocks of `block_requests` (default: the root of the
    trace's length) from random places, each request with the gap before it; one that is drawn again has nothing in
    common with what it was before.
    The draws do not depend on `rate_scale`.
    Raises InputError where the window, a block or the scale does not fit the trace.
    """
    size = trace.arrival_s.size
    count = size if requests is None else requests
    if not count >= 1 or (method != "blocks" and count > size):
        allowed = "must be >= 1" if method == "blocks" else f"must be from 1 to {size}, the requests in the trace"
        raise InputError(allowed, path="workload.requests", value=count)
    if not (np.isfinite(rate_scale) and rate_scale > 0):
        raise InputError("must be > 0 and finite", path="workload.trace.rate_scale", value=rate_scale)
    if block_requests is not None and method != "blocks":
        raise InputError(f"needs resample = 'blocks', not {method!r}", path="workload.trace.block_requests")
    arrival = trace.arrival_s
    mean_gap = (arrival[-1] - arrival[0]) / max(size - 1, 1)
    if method in ("none", "parts"):
        first = count * replication if method == "parts" else 0
        if first + count > size:
            raise InputError(
                f"replication {replication} would end at request {first + count}, and the trace has {size}",
                path="workload.trace.resample",
                value=method,
            )
        rows = np.arange(first, first + count)
        times = arrival[rows]
    elif method == "circular":
        rows = int(rng.integers(size)) + np.arange(count)
        wrapped = rows >= size
        rows = np.where(wrapped, rows - size, rows)
        times = arrival[rows] + wrapped * (arrival[-1] - arrival[0] + mean_gap)
    else:
        block = max(1, round(size**0.5)) if block_requests is None else block_requests
        if not 1 <= block <= size:
            raise InputError(f"must be from 1 to {size}", path="workload.trace.block_requests", value=block)
        starts = rng.integers(0, size - block + 1, -(-count // block))
        rows = (starts[:, None] + np.arange(block)).ravel()[:count]
        times = np.cumsum(np.append(mean_gap, np.diff(arrival))[rows])
    with np.errstate(over="ignore"):
        times = (times - times[0]) / rate_scale
    if times[-1] > LATEST_S:
        raise InputError(
            f"the window would last more than {LATEST_S:g} s", path="workload.trace.rate_scale", value=f"{rate_scale:g}"
        )
    return trace._replace(
        arrival_s=times,
        prompt_tokens=trace.prompt_tokens[rows],
        output_tokens=trace.output_tokens[rows],
        predicted=None if trace.predicted is None else trace.predicted[rows],
        content=None if trace.content is None else parts_of(trace.content, rows),
        priority=None if trace.priority is None else trace.priority[rows],
    )
