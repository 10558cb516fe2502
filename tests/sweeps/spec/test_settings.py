"""What a setting may be: its ends, what they refuse, and what follows from settings."""

from typing import Any

import pytest
from pydantic import ValidationError

from batchcube.engine import continuous
from batchcube.engine.policies.estimates import LARGEST_WINDOW, SMALLEST_WEIGHT
from batchcube.engine.ticks import LARGEST_BATCH
from batchcube.sweeps.spec.settings import SECTIONS, MemorySettings, Point, draws_service
from helpers.specifications import BINS, DYNAMIC, SECONDS, STEPS, TOKENS, Tables, laid

TRACE: Tables = laid(TOKENS, {"workload": {"trace": {"path": "trace.csv"}}})


def point(tables: Tables, settings: Tables | None = None) -> Point:
    made = laid(tables, settings or {})
    return Point(*(model.model_validate(made.get(name, {})) for name, model in SECTIONS.items()))


@pytest.mark.parametrize(
    ("tables", "path", "allowed", "refused"),
    [
        (TOKENS, "workload.requests", [1, 100_000_000], [0, 100_000_001, 2.0, True, "9"]),
        (TRACE, "workload.trace.format", ["auto", "azure", "aiperf"], ["nonsense", "plain"]),
        (TRACE, "workload.trace.columns.arrival", ["t"], ["", 3]),
        (TRACE, "workload.trace.start_s", [0.0, 1e8], [-1e-9, 1.001e8, float("nan")]),
        (TRACE, "workload.trace.stop_s", [1e-9, 1e8], [0.0, 1.001e8]),
        (TRACE, "workload.trace.rate_scale", [1e-9, 1e6], [0.0, 1.001e6]),
        (TRACE, "workload.trace.limit", [1, 2**40], [0, 2**40 + 1]),
        (TRACE, "workload.trace.path", ["x"], ["", 3]),
        (TRACE, "workload.trace.resample", ["none", "parts", "circular", "blocks"], ["block", None]),
        (BINS, "policy.bins", [1, 10_000], [0, 10_001]),
        (BINS, "policy.batch_size", [1, LARGEST_BATCH], [0, LARGEST_BATCH + 1]),
        (BINS, "policy.max_wait_s", [1e-9, 1e8], [0.0, 1.001e8, float("inf"), float("nan")]),
        (BINS, "policy.edges.sample_size", [2, 10_000_000], [1, 10_000_001]),
        (DYNAMIC, "policy.memory.capacity_tokens", [1e-9, 1e12], [0.0, 1.001e12]),
        (DYNAMIC, "policy.memory.overflow_probability", [1e-9, 0.999], [0.0, 1.0]),
        (DYNAMIC, "policy.memory.margin_fraction", [0.0, 0.999], [-1e-9, 1.0]),
        (DYNAMIC, "policy.sla.tolerance_s", [0.0, 1e8], [-1e-9, 1.001e8]),
        (DYNAMIC, "policy.sla.alpha", [1, 1_000_000], [0, 1_000_001]),
        (DYNAMIC, "policy.sla.delta", [0, 1_000_000], [-1, 1_000_001]),
        (DYNAMIC, "policy.estimates.weight", [SMALLEST_WEIGHT, 1.0], [0.0, 1.001]),
        (DYNAMIC, "policy.estimates.observations", [1, LARGEST_WINDOW], [0, LARGEST_WINDOW + 1]),
        (TOKENS, "server.servers", [1, 100_000, "infinite"], [0, 100_001, "many", 1.0, True]),
        (TOKENS, "server.service.a0_s", [0.0, 1e8], [-1e-9, 1.001e8]),
        (TOKENS, "server.service.a1_s_per_token", [1e-12, 1e6], [0.0, 0.999e-12, 1.001e6]),
        (STEPS, "server.service.c0_s", [0.0, 1e6], [-1e-9, 1.001e6]),
        (STEPS, "server.replica.kv_capacity_tokens", [1, 2**45], [0, 2**45 + 1, 1e3]),
        (STEPS, "server.replica.token_budget", [1, 2**31], [0, 2**31 + 1]),
        (STEPS, "server.replica.block_tokens", [1, 2**16], [0, 2**16 + 1]),
        (TOKENS, "report.warmup_requests", [0, 2**40], [-1, 2**40 + 1]),
        (TOKENS, "report.warmup_fraction", [0.0, 0.999], [-1e-9, 1.0]),
        (TOKENS, "report.windows", [1, 100_000], [0, 100_001]),
        (TOKENS, "report.histograms", [True, False], [1, "yes"]),
    ],
)
def test_a_setting_reaches_to_its_ends_and_not_beyond(
    tables: Tables, path: str, allowed: list[Any], refused: list[Any]
) -> None:
    for value in allowed:
        found: Any = point(tables, {path: value})
        for name in path.split("."):
            found = getattr(found, name)
        assert found == value
    for value in refused:
        changed = laid(tables, {path: 0} if value is None else {path: value})
        with pytest.raises(ValidationError):
            point(changed)


@pytest.mark.parametrize("section", ["workload", "policy", "server", "report"])
def test_a_setting_that_there_is_not_is_refused(section: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        point(TOKENS, {f"{section}.nonsense": 1})


def test_a_column_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        point(TRACE, {"workload.trace.columns": {"tokens": "x"}})


def test_a_service_of_coefficients_is_a_law_without_saying_so() -> None:
    named = {"coefficients": "x.json", "draw": True}
    short, long = (point(TOKENS, {"server.service": law}) for law in (named, {"law": "coefficients", **named}))
    assert short == long
    assert [draws_service(p) for p in (short, point(TOKENS), point(TOKENS, {"server.service.a0_s": 1.0}))] == [
        True,
        False,
        False,
    ]
    assert not draws_service(point(TOKENS, {"server.service": {"coefficients": "x.json"}}))


def test_which_points_are_in_seconds_and_which_go_step_by_step() -> None:
    points = [point(tables) for tables in (TOKENS, SECONDS, BINS, DYNAMIC, STEPS)]
    assert [p.workload.in_seconds for p in points] == [False, True, False, False, False]
    assert [p.simulation is continuous for p in points] == [False, False, False, False, True]


def test_tokens_of_a_device_follow_from_bytes() -> None:
    memory = MemorySettings(max_bytes=80.0, model_bytes=16.0, kv_bytes_per_token=0.5)
    assert memory.in_bytes
    assert memory.tokens == 128.0
    assert MemorySettings(capacity_tokens=9.0).tokens == 9.0
    assert not MemorySettings(max_bytes=80.0, model_bytes=16.0).in_bytes


@pytest.mark.parametrize(
    ("settings", "reserve"),
    [({}, 0.0), ({"margin_tokens": 30.0}, 30.0), ({"margin_fraction": 0.25}, 50.0)],
)
def test_the_reserve_is_that_of_the_margin(settings: dict[str, float], reserve: float) -> None:
    assert MemorySettings(capacity_tokens=200.0, **settings).margin(200.0) == reserve


def test_a_replica_holds_whole_blocks() -> None:
    held = [
        point(STEPS, {"server.replica": {"kv_capacity_tokens": tokens, "block_tokens": block}}).server.replica
        for tokens, block in ((1000, 16), (1000, 1), (15, 16), (16, 16))
    ]
    assert [replica and replica.held_tokens for replica in held] == [992, 1000, 0, 16]
