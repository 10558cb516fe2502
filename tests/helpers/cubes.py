"""A small cube with plausible numbers, made without simulating anything."""

import json

import numpy as np

from batchcube.engine.statistics import QUANTILES
from batchcube.errors import found_in
from batchcube.results.build import Buckets, Coordinate, build_cube
from batchcube.results.costs import flags_of
from batchcube.results.form import check_form, check_values
from batchcube.results.pieces import values_of
from batchcube.results.provenance import MadeBy, provenance
from batchcube.results.variables import REGISTRY

MODES = ("fifo_fixed", "fifo_greedy", "multi_bin_only", "dynamic_only", "multi_bin_dynamic")
AXES = {
    "mode": Coordinate("mode", MODES, "policy.mode,policy.bins", "1", "batching mode"),
    "bins": Coordinate("bins", (1, 2, 4), "policy.bins", "1", "number of bins"),
    "rate": Coordinate(
        "arrival_rate_per_s", (4.0, 8.0, 12.0, 24.0), "workload.arrivals.rate_per_s", "s-1", "arrival rate"
    ),
    "error": Coordinate(
        "error_probability", (0.0, 0.1, 0.3), "workload.predictor.error_probability", "1", "predictor error"
    ),
    "servers": Coordinate("servers", (1, "infinite"), "server.servers", "1", "servers"),
    "sla": Coordinate("sla_variant", ("paper", "heuristic"), "policy.sla.variant", "1", "controller variant"),
}
# What only cubes of continuous batching hold, and only those of a search for the capacity.
CONTINUOUS = {
    "tbt_histogram",
    "rejected",
    "truncated",
    "steps",
    "queue_growth_fraction",
    "preemptions",
    "kv_peak_tokens",
    "step_tokens_mean",
    "recomputed_token_fraction",
    "prefix_cache_hit_fraction",
    "kv_occupied_fraction",
    "window_running_mean",
    "window_kv_tokens_mean",
    "window_preemptions",
} | {f"tpot_{name}" for name in ("mean_s", "variance_s2", "min_s", "max_s", "quantile_s")}
# Those of them that only a workload with classes has.
CLASSES = {name for name in REGISTRY if name.startswith("class_")}
_SEARCHED = ("requests_per_s", "held_requests_per_s", "unbracketed", "statistic", "served_requests_per_s", "ended_by")
SEARCHED = {f"capacity_{name}" for name in _SEARCHED}
PLANNED = {f"plan_{name}" for name in ("largest_ratio", "state", "queue", "replications", "replicas")}
CAPACITY = 16.0  # requests/s: points at a higher arrival rate are overloaded
RATIO = 1.02  # between the edges of a bucket, so that its middle is within 1 %


def buckets(largest_s=400.0, smallest_s=1e-3):
    count = int(np.ceil(np.log(largest_s / smallest_s) / np.log(RATIO)))
    edges = smallest_s * RATIO ** np.arange(count + 1)
    lower, upper = np.concatenate([[0.0], edges[:-1]]), np.concatenate([[0.0], edges[1:]])
    return Buckets(np.sqrt(lower * upper), lower, upper)


def make_cube(
    axes=("bins", "rate"),
    replications=6,
    first_replication=0,
    requests=400,
    bins=4,
    windows=10,
    seed=1,
    coefficients_drawn=False,
    unmeasured=(),
    **attrs,
):
    """Return a cube over the named AXES; a replication's numbers depend only on the seed and its number.

    `unmeasured` names the costs that nobody measured at the first values of all axes.
    """
    chosen = [AXES[name] for name in axes]
    shape = tuple(len(axis.values) for axis in chosen)
    grid = dict(zip(axes, np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), strict=True)) if axes else {}
    rate = np.asarray(AXES["rate"].values)[grid["rate"]] if "rate" in grid else np.full(shape, 8.0)
    gain = 1.0 + 0.1 * grid.get("bins", 0) + 0.05 * grid.get("mode", 0) - 0.05 * grid.get("error", 0)
    capacity = CAPACITY * gain * np.ones(shape)
    bucket = buckets()
    draws = [
        _replication(rate, capacity, r, seed, requests, bins, windows, bucket)
        for r in _range(first_replication, replications)
    ]
    at = len(shape)
    arrays = {name: np.stack([draw[name] for draw in draws], axis=at) for name in draws[0]}
    edges = np.linspace(1.0, 1000.0, bins + 1) * np.ones((*shape, 1))
    arrays |= {"bin_lower_edge": edges[..., :-1], "bin_upper_edge": edges[..., 1:]}
    arrays["window_width_s"] = requests / rate / windows
    arrays["theory_throughput_requests_per_s"] = capacity
    arrays["theory_throughput_limit_requests_per_s"] = np.full(shape, 2 * CAPACITY)
    arrays["theory_latency_s"] = np.where(rate < capacity, 1.0 + 20.0 / rate, np.nan)
    arrays["unmeasured_costs"] = np.zeros(shape, np.int64)
    arrays["unmeasured_costs"][(0,) * len(shape)] = flags_of([unmeasured])[0]
    total = first_replication + replications
    workload = {"arrivals": {"process": "poisson", "rate_per_s": 8.0}}
    specification = json.dumps(
        {"name": "example", "seed": seed, "replications": total, "workload": workload, "axes": list(axes)}
    )
    known = provenance(
        title="Example",
        specification=specification,
        defaults={},
        seed=seed,
        replications=replications,
        made_by=[MadeBy("none", "cpu", "")],
    )
    return build_cube(
        chosen,
        arrays,
        replications=replications,
        first_replication=first_replication,
        quantiles=QUANTILES,
        buckets={"latency_bucket": bucket},
        attrs=known | attrs,
        coefficients_drawn=coefficients_drawn,
    )


def _range(first, count):
    return range(first, first + count)


def _replication(rate, capacity, replication, seed, requests, bins, windows, bucket):
    rng = np.random.default_rng([seed, replication])
    shape = rate.shape
    noise = rng.normal(0.0, 0.03)  # one for the whole grid: common random numbers
    load = rate / capacity
    over = load > 1
    unit = rng.gamma(4.0, 0.25, requests)
    backlog = np.where(over, 0.5 * requests * (1 / capacity - 1 / rate), 0.0)
    mean = (1.0 + 20.0 / rate / np.maximum(1 - load, 0.1) + backlog) * (1 + noise)
    latency = mean[..., None] * unit
    cells = np.clip(np.searchsorted(bucket.upper_s, latency, side="left"), 1, len(bucket.upper_s) - 1)
    counts = np.zeros((*shape, len(bucket.upper_s)), np.uint32)
    for index in np.ndindex(shape):
        counts[index] = np.bincount(cells[index], minlength=counts.shape[-1])
    throughput = np.minimum(rate, capacity) * (1 + noise)
    size = np.minimum(1.0 + 30.0 * load, 32.0)
    batches = np.maximum((requests / size).astype(np.int64), 1)
    sizes = np.zeros((*shape, 64), np.int64)
    np.put_along_axis(sizes, size.astype(np.int64)[..., None], batches[..., None], axis=-1)
    span = np.arange(windows)
    queue = np.where(over[..., None], (rate - capacity)[..., None] * (span + 1.0), 5.0 * load[..., None]) * (1 + noise)
    share = 1 / bins
    one = np.ones(shape)
    out = {
        "latency_histogram": counts,
        "requests": np.full(shape, requests),
        "completed": np.full(shape, requests),
        "unserved": np.zeros(shape, np.int64),
        "measured": np.full(shape, requests),
        "missed": np.zeros(shape, np.int64),
        "batches": batches,
        "effective_bins": np.full(shape, bins),
        "throughput_requests_per_s": throughput,
        "throughput_tokens_per_s": throughput * 250,
        "busy_throughput_requests_per_s": capacity * (1 + noise),
        "makespan_s": requests / throughput,
        "utilisation": np.minimum(load, 1.0),
        "batch_size_mean": size,
        "batch_size_histogram": sizes,
        "padding_waste": np.clip(0.5 / (capacity / CAPACITY), 0, 1),
        "request_sla_violation_fraction": (latency > 10.0).mean(axis=-1),
        "goodput_fraction": (latency <= 10.0).mean(axis=-1),
        "goodput_requests_per_s": throughput * (latency <= 10.0).mean(axis=-1),
        "token_sla_violation_fraction": np.full(shape, np.nan),
        "memory_overflow_fraction": np.full(shape, np.nan),
        "memory_peak_tokens": size * 1000,
        "extrapolated_batch_fraction": np.zeros(shape),
        # Near load 1 a run is too short to be steady in.
        "backlog_growth_fraction": np.maximum(1.0 - 1.0 / load, np.where(load > 0.65, 0.04, 0.0)),
        "bin_requests": np.full((*shape, bins), int(requests * share)),
        "bin_batches": np.ones((*shape, bins), np.int64) * (batches // bins)[..., None],
        "bin_batch_size_mean": size[..., None] * np.ones(bins),
        "bin_wait_mean_s": mean[..., None] * np.linspace(0.4, 0.6, bins),
        "bin_latency_mean_s": mean[..., None] * np.linspace(0.8, 1.2, bins),
        "bin_length_max_mean": one[..., None] * np.linspace(250, 1000, bins),
        "window_arrivals": np.full((*shape, windows), requests // windows),
        "window_completions": np.full((*shape, windows), requests // windows),
        "window_request_sla_violation_fraction": np.clip(0.02 * queue / (1 + queue), 0, 1),
        "window_queue_length_mean": np.abs(queue),
        "window_batch_size_mean": size[..., None] * np.ones(windows),
        "window_batch_target_mean": 40.0 + 10.0 * np.exp(-span / 3.0) * one[..., None],
        "window_batch_memory_bound_mean": np.full((*shape, windows), 60.0),
        "window_batch_sla_bound_mean": 40.0 + 10.0 * np.exp(-span / 3.0) * one[..., None],
        "window_signal_mean_s": 0.05 * (1 + noise + 0.3 * np.exp(-span / 3.0)) * one[..., None],
    }
    for name, scale in {"latency": 1.0, "wait": 0.5, "service": 0.5, "ttft": 0.6, "tbt": 0.01}.items():
        values = latency * scale
        out[f"{name}_mean_s"] = values.mean(axis=-1)
        out[f"{name}_variance_s2"] = values.var(axis=-1)
        out[f"{name}_min_s"] = values.min(axis=-1)
        out[f"{name}_max_s"] = values.max(axis=-1)
        out[f"{name}_quantile_s"] = np.moveaxis(np.quantile(values, QUANTILES, axis=-1), 0, -1)
    # A prompt of which no exact mean is known.
    drawn = (*rng.normal(1.0, 0.02, 2), np.nan)
    out |= {
        name: ratio * one
        for name, ratio in zip(("drawn_gap_ratio", "drawn_output_ratio", "drawn_prompt_ratio"), drawn, strict=True)
    }
    assert {*out} | {"bin_lower_edge", "bin_upper_edge", "window_width_s", "unmeasured_costs"} | {
        name for name in REGISTRY if name.startswith("theory_")
    } == {*REGISTRY} - CONTINUOUS - CLASSES - SEARCHED - PLANNED
    return out


def check_cube(cube, source):
    """Do what `check_form` does, and look at all values, as those do who read a cube."""
    check_form(cube, source)
    with found_in(file=source):
        for name, variable in cube.variables.items():
            if name in REGISTRY:
                for _, piece in values_of(variable):
                    check_values(REGISTRY[name], piece.values)
