"""The limits of the server that coefficients know, where a specification leaves them out."""

import json
from pathlib import Path
from typing import Any

import pytest

from batchcube.calibration.coefficients import LoggedServer
from batchcube.errors import InputError
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.spec.document import Sweep
from batchcube.sweeps.spec.service import load
from batchcube.sweeps.spec.settings import Point

TABLES = "llama-3.1-8b-h100-vllm-tables"
SPEC: dict[str, Any] = {
    "name": "left out",
    "replications": 2,
    "workload": {
        "requests": 40,
        "arrivals": {"process": "poisson", "rate_per_s": 20.0},
        "lengths": {"distribution": "constant", "value": 20, "prompt": {"distribution": "constant", "value": 100}},
    },
    "policy": {"mode": "continuous"},
    "server": {"service": {"coefficients": TABLES}},
}


def spec(server: dict[str, Any] | None = None, **policy: Any) -> dict[str, Any]:
    return {
        **SPEC,
        "policy": {**SPEC["policy"], **policy},
        "server": {**SPEC["server"], **(server or {})},
    }


def only(tables: dict[str, Any]) -> Point:
    (point,) = Sweep.model_validate(tables).grid.points
    return point


def known_with(folder: Path, **changes: Any) -> str:
    """Return a file of coefficients whose server is another."""
    known = load(TABLES)
    assert known.replica is not None
    server = LoggedServer(**{**known.replica.model_dump(), **changes})
    file = folder / "mine.json"
    file.write_text(known.model_copy(update={"replica": server}).text())
    return str(file)


def test_what_is_left_out_is_as_coefficients_know_it() -> None:
    point, known = only(spec()), load(TABLES).replica
    assert known is not None
    assert point.policy.largest_batch == known.most_running == 1024
    assert point.server.servers == 1
    assert point.server.routing == "round_robin"
    assert point.server.replica is not None
    assert point.server.replica.token_budget == known.token_budget == 8192
    assert point.server.replica.held_tokens == known.held_tokens
    assert point.server.replica.async_scheduling


def test_what_is_stated_holds() -> None:
    replica = {"token_budget": 2048, "num_gpu_blocks": 1000, "async_scheduling": False}
    point = only(spec({"replica": replica}, largest_batch=64))
    assert point.policy.largest_batch == 64
    assert point.server.replica is not None
    assert point.server.replica.model_dump(include=set(replica)) == replica
    assert point.server.replica.kv_capacity_tokens is None


def test_a_value_that_is_stated_holds_even_where_it_is_the_default(tmp_path: Path) -> None:
    mine = known_with(tmp_path, replicas=3, routing="shortest_queue", lockstep=True)
    left_out = only(spec({"service": {"coefficients": mine}}))
    assert (left_out.server.servers, left_out.server.routing, left_out.server.lockstep) == (3, "shortest_queue", True)
    stated = only(spec({"service": {"coefficients": mine}, "servers": 1}))
    assert (stated.server.servers, stated.server.routing, stated.server.lockstep) == (1, "round_robin", False)
    routed = only(spec({"service": {"coefficients": mine}, "servers": 5, "routing": "round_robin"}))
    assert (routed.server.servers, routed.server.routing) == (5, "round_robin")


def test_blocks_are_taken_as_the_tokens_that_they_hold(tmp_path: Path) -> None:
    mine = known_with(tmp_path, capacity_tokens=None, num_gpu_blocks=101, block_tokens=32)
    point = only(spec({"service": {"coefficients": mine}, "replica": {"block_tokens": 16}}))
    assert point.server.replica is not None
    assert (point.server.replica.held_tokens, point.server.replica.block_tokens) == (3200, 16)


def test_every_point_takes_the_server_of_its_own_coefficients() -> None:
    names = [TABLES, "llama-3.1-8b-l40s-vllm-tables"]
    tables = spec() | {"server": {}, "axes": {"gpu": {"path": "server.service.coefficients", "values": names}}}
    for name, point in zip(names, Sweep.model_validate(tables).grid.points, strict=True):
        known = load(name).replica
        assert known is not None
        assert point.server.replica is not None
        assert (point.policy.largest_batch, point.server.replica.held_tokens) == (known.most_running, known.held_tokens)


def test_a_cube_says_what_came_from_coefficients(tmp_path: Path) -> None:
    sweep = Sweep.model_validate(spec({"replica": {"token_budget": 4096}}))
    cube = run_sweep(sweep, tmp_path / "cube.nc")
    (note,) = [line for line in str(cube.attrs["notes"]).splitlines() if line.startswith("not stated")]
    assert TABLES in note
    assert "policy.largest_batch = 1024" in note
    assert "token_budget" not in note
    defaults = json.loads(cube.attrs["specification_defaults"])
    assert defaults["policy.largest_batch"] == 1024
    assert defaults["server.replica.kv_capacity_tokens"] == 446096
    stated = spec({"replica": {"token_budget": 4096, "async_scheduling": True}}, largest_batch=1024)
    assert Sweep.model_validate(stated).identity() == sweep.identity()


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (spec({"replica": {"token_budget": 512}}), f"(policy.largest_batch from coefficients {TABLES})"),
        (spec({"service": {"coefficients": "dynamic-batching-fig3"}}), "policy.largest_batch: is missing"),
        (spec({"service": {"coefficients": "dynamic-batching-fig3"}}), "server.replica: is missing"),
        (
            spec({"replica": {"prefill": "separate"}}),
            f'needs server.replica.prefill = "chunked" (server.replica.async_scheduling from coefficients {TABLES})',
        ),
    ],
)
def test_mistakes_say_where_limits_are_from(tables: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refused:
        Sweep.model_validate(tables)
    assert said in str(refused.value)


def test_limits_that_cannot_be_are_refused(tmp_path: Path) -> None:
    mine = known_with(tmp_path, most_running=2**50)
    with pytest.raises(InputError, match=r"mine\.json: policy\.largest_batch = 1125899906842624: this version cannot"):
        Sweep.model_validate(spec({"service": {"coefficients": mine}}))


def test_a_log_that_does_not_know_its_cache_leaves_it_to_the_specification(tmp_path: Path) -> None:
    mine = known_with(tmp_path, capacity_tokens=None)
    with pytest.raises(InputError, match="kv_capacity_tokens: is missing"):
        Sweep.model_validate(spec({"service": {"coefficients": mine}}))


def test_whole_batches_take_nothing() -> None:
    tables = {**SPEC, "policy": {"mode": "fifo_greedy", "batch_size": 4}}
    tables["server"] = {"service": {"coefficients": "qwen3-0.6b-cpu-vllm"}}
    assert only(tables).server.replica is None
