"""Cubes of continuous batching, made up for the figures that are drawn from them."""

import json

import numpy as np

from batchcube.engine.statistics import QUANTILES
from batchcube.results.build import Coordinate, build_cube
from batchcube.results.provenance import MadeBy, provenance

REPLICATIONS, WINDOWS = 4, 12
POLICIES = ("static", "memory", "both")
POINTS = {
    "static": {},
    "memory": {"policy.memory": {"rule": "exact"}},
    "both": {"policy": {"memory": {"rule": "exact"}, "sla": {"target_s": 0.05, "tolerance_s": 0.001}}},
}
PATHS = "policy.memory.rule,policy.sla.target_s,policy.sla.tolerance_s"
AXES = {
    "policy": Coordinate("policy", POLICIES, PATHS, "1", "cap on running requests"),
    "rate": Coordinate(
        "arrival_rate_per_s", (2.0, 4.0, 6.0, 8.0), "workload.arrivals.rate_per_s", "s-1", "arrival rate"
    ),
    "largest": Coordinate("largest_batch", (8, 32, 128), "policy.largest_batch", "1", "upper end"),
    "cv": Coordinate("output_cv", (0.2, 0.5, 1.0), "workload.lengths.cv", "1", "spread of output lengths"),
    "rule": Coordinate("rule", ("literal", "exact"), "policy.memory.rule", "1", "form of the bound"),
    "target": Coordinate("target_s", (0.02, 0.05, 0.12), "policy.sla.target_s", "s", "latency target"),
}
SPECIFICATION = {
    "policy": {"mode": "continuous", "largest_batch": 128},
    "server": {
        "service": {"law": "steps", "c0_s": 0.03, "c1_s_per_request": 0.00022},
        "replica": {"kv_capacity_tokens": 60000},
    },
    "report": {"token_sla_s": 0.055},
}
# Of what the specification leaves out.
DEFAULTS = {
    "policy.smallest_batch": 1,
    "policy.memory.overflow_probability": 0.05,
    "policy.sla.variant": "paper",
    "policy.sla.alpha": 16,
}


def make(axes, arrays, *, replications=REPLICATIONS, drawn=False, counts=True, **attrs):
    """Return a cube over the named AXES: arrays (*axes, replication, *extra), or what they are a multiple of."""
    chosen = [AXES[name] for name in axes]
    shape = tuple(len(axis.values) for axis in chosen)
    noise = np.random.default_rng(3).normal(1.0, 0.03, (*shape, replications))
    held = {}
    for name, value in arrays.items():
        value = np.asarray(value)
        extra = value.shape[len(shape) :] if value.ndim > len(shape) else ()
        spread = noise.reshape(noise.shape + (1,) * len(extra))
        full = np.broadcast_to(value.reshape((*value.shape[: len(shape)], 1, *extra)), (*shape, replications, *extra))
        held[name] = full.copy() if value.dtype.kind in "bi" else full * spread
    if "window_width_s" in held:
        held["window_width_s"] = np.full(shape, 5.0)
    if counts:
        held |= {"requests": np.full((*shape, replications), 400)}
        held |= {"steps": np.full((*shape, replications), 9000)}
        held.setdefault("backlog_growth_fraction", np.zeros((*shape, replications)))
        held.setdefault("queue_growth_fraction", held["backlog_growth_fraction"])
    points = {"policy": {"points": POINTS}} if "policy" in axes else {}
    specification = json.dumps(SPECIFICATION | {"axes": points})
    known = provenance(
        title="Example",
        specification=specification,
        defaults=DEFAULTS,
        seed=1,
        replications=replications,
        made_by=[MadeBy("none", "cpu", "")],
    )
    about = {"attrs": known | attrs, "coefficients_drawn": drawn, "quantiles": QUANTILES}
    return build_cube(chosen, held, replications=replications, **about)


def at_rates(*first, **options):
    """Return a cube of times between tokens over rates, the first policies overloaded at the last rate."""
    rate = np.array(AXES["rate"].values)
    mean = 0.03 + 0.004 * rate * np.array([1.5, 1.2, 1.0])[:, None]
    over = np.zeros((3, 4), bool)
    over[0, -1] = True
    arrays = {
        "tbt_mean_s": mean,
        "tbt_quantile_s": mean[..., None] * np.array([1.0, 1.5, 1.7, 2.0]),
        "backlog_growth_fraction": np.where(over, 0.5, 0.0),
    }
    return make(("policy", "rate"), arrays, **options)


def at_sizes(axes=("largest",), **options):
    size = np.array([8.0, 30.0, 110.0])
    tau = 0.03 + 0.00022 * size
    arrays = {"batch_size_mean": size, "tbt_mean_s": tau, "throughput_tokens_per_s": size / tau}
    if len(axes) == 2:
        arrays = {name: np.stack([values] * 2) * [[1.0], [1.1]] for name, values in arrays.items()}
    return make(axes, arrays, **options)


def over_time(axes=("policy",), **options):
    shape = tuple(len(AXES[name].values) for name in axes)
    window = np.arange(1.0, WINDOWS + 1)
    level = np.arange(1.0, np.prod(shape) + 1).reshape((*shape, 1))
    arrays = {
        "window_width_s": np.ones(shape),
        "window_arrivals": np.full((*shape, WINDOWS), 20),
        "window_queue_length_mean": level * window,
        "window_running_mean": level * 20 + window,
        "window_kv_tokens_mean": level * 10000 + window,
        "window_batch_target_mean": 120.0 / level - window,
        "window_batch_memory_bound_mean": 125.0 / level - window,
        "window_batch_sla_bound_mean": 110.0 / level - window,
        "window_preemptions": np.zeros((*shape, WINDOWS), int),
    }
    return make(axes, arrays, **options)


def capacities(axes=("policy", "cv"), **options):
    """Return a cube of capacities: one replication of the first point without an answer, all of the last one."""
    shape = tuple(len(AXES[name].values) for name in axes)
    size = int(np.prod(shape))
    cube = make(
        axes,
        {
            "capacity_requests_per_s": 3.0 + np.arange(size, dtype=float).reshape(shape),
            "capacity_unbracketed": np.zeros(shape, int),
            "capacity_statistic": np.full(shape, 0.05),
        },
        counts=False,
        capacity_criteria=json.dumps(
            [
                {"variable": "tbt_mean_s", "quantile": None, "limit": 0.05},
                {"variable": "latency_quantile_s", "quantile": 0.99, "limit": 60.0},
            ]
        ),
        capacity_low_per_s=0.5,
        capacity_high_per_s=32.0,
        capacity_growth=0.02,
        **options,
    )
    first, last = (0,) * len(shape), (-1,) * len(shape)
    cube["capacity_requests_per_s"].values[(*first, 1)] = np.nan
    cube["capacity_unbracketed"].values[(*first, 1)] = -1
    cube["capacity_requests_per_s"].values[last] = np.nan
    cube["capacity_unbracketed"].values[last] = 1
    return cube


def gains(axes=("policy", "rate", "cv"), **options):
    """Return a cube whose last policy gains from -3 to 8 % over the first, the second nothing."""
    rise = np.linspace(-3.0, 8.0, 12).reshape(4, 3)
    base = np.full((4, 3), 1000.0)
    values = np.stack([base, base, base * (1.0 + rise / 100.0)])
    cube = make(axes, {"throughput_tokens_per_s": values, "latency_mean_s": values / 100.0}, **options)
    # Common random numbers: what policies have in common cancels in pairs, and a little is left.
    noise = np.random.default_rng(5).normal(1.0, [[0.05], [0.002]], (2, cube.sizes["replication"]))
    cube["throughput_tokens_per_s"].values[:] = values[..., None] * noise[0]
    cube["throughput_tokens_per_s"].values[2] *= noise[1]
    return cube


def rules(**options):
    cube = over_time(("rule",), **options)
    overflow = np.array([[0.9], [0.04]]) * np.linspace(0.9, 1.1, cube.sizes["replication"])
    return cube.assign(memory_overflow_fraction=(("rule", "replication"), overflow))


MAKERS = {
    "tbt-vs-rate": (at_rates, {}),
    "step-throughput": (at_sizes, {}),
    "serving-over-time": (over_time, {}),
    "capacity": (capacities, {}),
    "gain-map": (gains, {"against": "both"}),
    "memory-erratum": (rules, {}),
    "controller-bounds": (lambda **options: over_time(("target",), **options), {}),
}
