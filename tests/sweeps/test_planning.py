"""What a plan makes of its settings, against numbers worked out by hand."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from batchcube.sweeps import Sweep, UserError
from batchcube.sweeps.planning import make_plan

QUEUE: dict[str, Any] = {
    "replications": 4,
    "workload": {
        "requests": 50_000,
        "arrivals": {"process": "poisson", "rate_per_s": 5e5},
        "lengths": {"distribution": "exponential", "mean": 1e-6, "unit": "seconds"},
    },
    "policy": {"mode": "fifo_greedy", "batch_size": 1},
    "server": {"service": {"law": "given"}},
}
TOKENS: dict[str, Any] = {
    "workload": {
        "requests": 100,
        "arrivals": {"process": "poisson", "rate_per_s": 1.0},
        "lengths": {"distribution": "constant", "value": 100.0, "prompt": {"distribution": "constant", "value": 300.0}},
    },
    "policy": {"mode": "fifo_greedy", "batch_size": 4},
    "server": {"service": {"law": "constant", "a1_s_per_token": 1e-8}},
}


def sweep(tables: dict[str, Any], settings: dict[str, Any]) -> Sweep:
    """Make a sweep of tables with settings laid over them by their dotted paths."""
    changed = deepcopy(tables)
    for path, value in settings.items():
        *above, last = path.split(".")
        table = changed
        for key in above:
            table = table.setdefault(key, {})
        table[last] = value
    return Sweep.model_validate(changed, "sweep.toml")


# Whole microseconds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "settings", "line"),
    [
        (
            QUEUE,
            {},
            "workload.lengths: service times of 1e-06 s on average would be rounded to 1.3",
        ),
        (
            QUEUE,
            {"workload.lengths": {"distribution": "constant", "value": 1.4e-6, "unit": "seconds"}},
            "workload.lengths: service times of 1.4e-06 s on average would be rounded to 1e-06, in whole microseconds, "
            "at least one: must be at least 0.0001, the smallest mean that is always kept within 1 %, or whole",
        ),
        (
            TOKENS,
            {"server.service.a1_s_per_token": 2e-9},
            "server.service: batches of one request of 2e-07 s on average would be rounded to 1e-06, in whole",
        ),
        (
            TOKENS,
            {"server.service": {"law": "linear", "a1_s_per_token": 6e-9, "gamma": 0.1, "length": "total"}},
            "server.service: batches of one request of 2.4e-06 s on average would be rounded to 2e-06, in whole",
        ),
    ],
)
def test_service_times_that_whole_microseconds_change_are_refused(
    tables: dict[str, Any], settings: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError) as caught:
        make_plan(sweep(tables, settings))
    assert str(caught.value).startswith(f"sweep.toml: {line}")


@pytest.mark.parametrize(
    ("tables", "settings"),
    [
        (QUEUE, {"workload.lengths.mean": 1e-4}),
        (QUEUE, {"workload.lengths": {"distribution": "constant", "value": 3e-6, "unit": "seconds"}}),
        (TOKENS, {}),
        (TOKENS, {"server.service": {"law": "constant", "a1_s_per_token": 5e-9, "length": "total"}}),
    ],
)
def test_service_times_that_whole_microseconds_keep_are_allowed(
    tables: dict[str, Any], settings: dict[str, Any]
) -> None:
    make_plan(sweep(tables, settings))


def test_a_queue_of_the_smallest_service_times_has_the_load_that_was_asked_for() -> None:
    """M/M/1 at load 1/2: work and span of n requests both vary by 1 / n of their square."""
    cube = sweep(QUEUE, {"workload.lengths.mean": 1e-4, "workload.arrivals.rate_per_s": 5e3}).run()
    error = 0.5 * np.sqrt(2 / 50_000 / 4)
    assert abs(float(cube["utilisation"].mean()) - 0.5) < 4.5 * error


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"server.service.a0_s": 4e-7},
            "server.service.a0_s = 4e-07: would be rounded to 0, in whole microseconds: must be 0, or at least 5e-05, "
            "the smallest value that is always kept within 1 %, or whole microseconds itself",
        ),
        (
            {"policy.mode": "fifo_fixed", "policy.max_wait_s": 1.5e-6},
            "policy.max_wait_s = 1.5e-06: would be rounded to 2e-06, in whole microseconds",
        ),
        (
            {"report.request_sla_s": 2e-7},
            "report.request_sla_s = 2e-07: would be rounded to 0, in whole microseconds",
        ),
    ],
)
def test_settings_that_whole_microseconds_change_are_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        sweep(TOKENS, settings)
    assert str(caught.value).startswith(f"sweep.toml: {line}")
