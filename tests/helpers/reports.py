"""What a report can be about, one of each kind, made without simulating anything."""

import json

import numpy as np

from batchcube.results.calibration import build_calibration
from batchcube.results.claims import Row, named
from batchcube.results.measurements import build_measurement
from batchcube.results.validation import COURSES, QUANTITIES, SIDES, build_validation
from helpers import cubes, serving_cubes

DIFFERS = Row(
    *("Fig. 4", "dynamic, 6.4/s", "TBT (ms)"),
    paper=45.1,
    simulated=49.07,
    ci_low=48.77,
    ci_high=49.37,
    agrees="no",
    note="against the printed line; agrees: within 5 % of it; assumed: Poisson arrivals; a cap of 256",
    source="[DB] Figure 4",
    cube="sweep.nc",
    selection="server=dynamic",
    command="batchcube show sweep.nc --select server=dynamic -v tbt_mean_s",
    again="batchcube reproduce dynamic",
)
ROWS = named(
    [
        DIFFERS,
        Row("Fig. 4", "static", "TBT (ms)", paper=40.0, simulated=40.1, agrees="yes", note="agrees: within 5 %"),
        Row("Fig. 4", "nobody claims", "TBT (ms)", simulated=40.1),
        Row("Table I", "gain", "gain (%)", paper=0.0, simulated=0.1, ci_low=-0.1, ci_high=0.3, agrees="cannot tell"),
    ]
)
ERRORS = [
    {
        "quantity": "ttft_s",
        "statistic": "mean",
        "measured": 1.0,
        "simulated": 1.1,
        "error": 0.1,
        "low": -0.05,
        "high": 0.2,
        "fitted": False,
    },
    {
        "quantity": "tpot_s",
        "statistic": "mean",
        "measured": 0.0,
        "simulated": 1.1,
        "error": None,
        "low": None,
        "high": None,
        "fitted": False,
    },
]


def validation():
    """Return a validation of 40 requests, half of which judge."""
    rng = np.random.default_rng(3)
    times = {f"{side}_{quantity}": rng.exponential(1.0, 40) for side in SIDES for quantity in QUANTITIES}
    courses = {f"{side}_{course}": np.arange(12) * 2.0 for side in SIDES for course in COURSES}
    attrs = {"name": "law", "source": "a law; log a.jsonl", "judged": "all but the first 20", "warnings": "too hot"}
    attrs |= {"errors": json.dumps(ERRORS), "log_notes": "a note", "preemptions_simulated": 0}
    return build_validation(np.arange(40) * 0.5, np.arange(40) >= 20, times, np.linspace(0, 5, 12), courses, attrs)


def calibration():
    """Return a calibration of six decode steps, the law off by 10 % at one of them."""
    seconds = np.array([0.010, 0.011, 0.012, 0.020, 0.021, 0.024])
    arrays = {
        "step_kind": np.array(["decode"] * 6),
        "step_batch_size": np.array([1.0, 2, 4, 8, 16, 32]),
        "step_prompt_tokens": np.full(6, 128.0),
        "step_output_tokens": np.full(6, 16.0),
        "step_s": seconds,
        "step_std_s": 0.01 * seconds,
        "fitted_step_s": seconds * np.array([1.0, 1.0, 1.1, 1.0, 1.0, 1.0]),
    }
    attrs = {"name": "mine", "title": "an engine", "source": "measured by me"}
    return build_calibration({"step": np.arange(6)}, arrays, attrs)


def measurement():
    """Return a measurement of four cells, three times each; one cell was refused."""
    axes = {"batch_size": [1, 2], "prompt_tokens": [16, 64], "output_tokens": [4]}
    step_s = np.full((2, 2, 1, 3, 4), 0.01) * np.random.default_rng(1).normal(1.0, 0.01, (2, 2, 1, 3, 4))
    step_s[..., 0] *= 5.0
    step_s[1, 1] = np.nan
    refusal = np.full((2, 2, 1), "", dtype="<U20")
    refusal[1, 1, 0] = "out of memory"
    wall = step_s.sum(axis=-1)
    order = np.where(np.isnan(wall), -1, 0)
    return build_measurement(axes, step_s, wall, order, refusal, {"engine": "vllm", "model": "tiny"})


def subjects():
    """Return one of each kind, by what it is."""
    return {
        "sweep": cubes.make_cube(("bins", "rate", "servers")),
        "labels": cubes.make_cube(("mode", "rate")),
        "one point": cubes.make_cube(()),
        "one replication": cubes.make_cube(("bins",), replications=1),
        "unmeasured": serving_cubes.at_rates(),
        "continuous": serving_cubes.over_time(),
        "capacity": serving_cubes.capacities(),
        "capacity of one point": serving_cubes.capacities((), capacity_notes_unanswered="still above"),
        "gains": serving_cubes.gains(),
        "validation": validation(),
        "calibration": calibration(),
        "measurement": measurement(),
    }
