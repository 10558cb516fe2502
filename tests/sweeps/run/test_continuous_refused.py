"""Mode continuous: what only the data show, and what shows while running, is refused in a line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchcube.calibration.units import LONGEST_S
from batchcube.engine.continuous.ticks import TICKS_PER_S
from batchcube.errors import InputError
from batchcube.sweeps.run import simulate
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.run.preparing import prepare
from batchcube.sweeps.spec.document import Sweep
from helpers.specifications import CONTINUOUS as BASE
from helpers.specifications import STEP_LAW, laid
from helpers.step_sweeps import BY_BIN, sweep

DOCS = Path(__file__).parents[3] / "docs"


EQUAL = {
    "workload.lengths": {
        "distribution": "constant",
        "value": 20,
        "prompt": {"distribution": "constant", "value": 30},
    },
    "workload.predictor": {"kind": "oracle"},
}


@pytest.fixture
def slow_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have steps take as long as it takes for clocks to run out, though no engine is so slow."""
    monkeypatch.setitem(LONGEST_S, "c0_s", (1e6, "one step"))


@pytest.mark.parametrize("seconds", [0.0, 1e-12, 3e-12, 1.001e-12, 4.04e-11, 5e-11, 5.05e-11, 1.0])
def test_coefficients_that_whole_picoseconds_keep_are_allowed(seconds: float) -> None:
    service = {"law": "steps", "c0_s": 0.1, "c3_s_per_prefill_token": seconds}
    (point,) = prepare(sweep(laid(BASE, {"server.service": service}))).points
    kept = point.setup.replica.law.prefill_token[0] / TICKS_PER_S
    assert kept == pytest.approx(seconds, rel=0.01)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"policy.sla": {"target_s": 0.0194, "tolerance_s": 0.001}},
            "policy.sla.target_s = 0.0194: must be, with tolerance_s = 0.001, at least 0.0205101, a decode step "
            "of one request that reads 101.0 tokens: a single request misses it",
        ),
        (
            {**EQUAL, "server.replica": {"kv_capacity_tokens": 63}},
            "server.replica.kv_capacity_tokens = 63: must be at least 64, what the median request takes, prompt + "
            "output - 1 = 49 tokens in blocks of 16: 100 % of the requests could never be served",
        ),
        (
            {**EQUAL, "server.replica": {"kv_capacity_tokens": 48, "block_tokens": 1}},
            "server.replica.kv_capacity_tokens = 48: must be at least 49, what the median request takes, prompt + ",
        ),
        (
            {**EQUAL, "server.replica": {"kv_capacity_tokens": 900, "token_budget": 29, "prefill": "separate"}},
            'server.replica.token_budget = 29 with prefill = "separate": must be at least 30, to hold the prompts of '
            "half of the requests whole: 100 % of the requests could never be served",
        ),
        (
            {**EQUAL, "server.service": {"law": "steps", "c0_s": 1e5}},
            "server.service: a request of 50 tokens could take 5e+06 s: must be at most 1.15e+06 s",
        ),
        (
            {
                "workload.lengths": {
                    "distribution": "constant",
                    "value": 40,
                    "prompt": BASE["workload"]["lengths"]["prompt"],
                },
                "workload.predictor": {"kind": "oracle"},
                "server.routing": "by_bin",
                "server.servers": 2,
                "policy.bins": 4,
            },
            'server.routing = "by_bin": requests fall into 1 of the 4 bins only: must be at least server.servers = 2',
        ),
        (
            {"workload.arrivals.rate_per_s": 1e-5},
            "workload.requests = 120 with workload.arrivals.rate_per_s = 1e-05: arrive, or are served, within about "
            "1.2e+07 s: must be at most 2305843 s",
        ),
    ],
)
@pytest.mark.usefixtures("slow_engines")
def test_what_only_the_data_show_is_refused_in_a_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        run_sweep(Sweep.model_validate(laid(BASE, settings), "sweep.toml"))
    assert str(caught.value).startswith(f"sweep.toml: {line}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "path", "values"),
    [
        ({"server.routing": "shortest_queue"}, "server.servers", [1, 2]),
        ({"server.routing": "by_bin", "policy.bins": 3}, "server.servers", [1, 2]),
        ({"policy.admission": "by_bin"}, "policy.bins", [1, 3]),
    ],
)
def test_an_option_may_mean_nothing_at_some_points_of_an_axis(
    settings: dict[str, Any], path: str, values: list[int]
) -> None:
    axes = {"x": {"path": path, "values": values}}
    cube = run_sweep(sweep({**laid(BASE, settings), "axes": axes}, replications=1), backend="reference")
    assert (cube["completed"] == 120).all()
    axes["x"]["values"] = values[:1]
    with pytest.raises(InputError, match=r"= \".*\": needs (server.servers|policy.bins) > 1"):
        sweep({**laid(BASE, settings), "axes": axes})


@pytest.mark.parametrize(
    "replica",
    [
        {"kv_capacity_tokens": 49, "block_tokens": 1},
        {"kv_capacity_tokens": 64, "token_budget": 30, "prefill": "separate"},
        {"kv_capacity_tokens": 64, "token_budget": 16},
    ],
)
def test_a_replica_with_room_for_the_last_token_but_one_serves_everybody(replica: dict[str, Any]) -> None:
    made = run_sweep(sweep(laid(BASE, {**EQUAL, "server.replica": replica}), replications=1))
    assert (made["completed"] == 120).all()
    assert "turned away" not in made.attrs["notes"]


def test_a_replica_that_holds_some_requests_is_allowed_though_the_mean_one_does_not_fit() -> None:
    made = run_sweep(sweep(laid(BASE, {"server.replica.kv_capacity_tokens": 130}), replications=1))
    assert (made["completed"] > 10).all()
    assert (made["rejected"] > 10).all()


def test_of_a_recorded_trace_all_that_may_be_simulated_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    rows = [f"{i},{30 if i < 50 else 10},20" for i in range(100)]
    file.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]))

    def plan(**settings: Any) -> None:
        workload = {"trace": {"path": str(file), **settings}, "requests": 50, "predictor": {"kind": "oracle"}}
        replica = {"kv_capacity_tokens": 48, "block_tokens": 1}
        prepare(sweep(laid({**BASE, "workload": workload}, {"server.replica": replica})))

    with pytest.raises(
        InputError, match=r"^sweep\.toml: server\.replica\.kv_capacity_tokens = 48: must be at least 49"
    ):
        plan()
    plan(resample="circular")


def test_the_memory_controller_knows_whole_blocks() -> None:
    settings = {"server.replica.kv_capacity_tokens": 2015, "policy.memory": {"rule": "margin", "margin_fraction": 0.5}}
    (point,) = prepare(sweep(laid(BASE, settings))).points
    replica = point.setup.replica
    assert replica.control.memory.capacity == replica.blocks * replica.block_tokens == 2000.0
    assert replica.control.memory.margin == 1000.0


@pytest.mark.parametrize(("target_s", "allowed"), [(0.0204, True), (0.0202, False)])
def test_a_target_counts_the_reading_of_a_prompt_and_the_tolerance(target_s: float, allowed: bool) -> None:
    # 0.0205 s and 31 tokens of 1e-5 s each: 0.02081 s; the dead band reaches to 0.0005 s above the target.
    service = {**STEP_LAW, "c2_s_per_kv_token": 1e-5}
    settings = {**EQUAL, "server.service": service, "policy.sla": {"target_s": target_s, "tolerance_s": 0.0005}}
    if allowed:
        prepare(sweep(laid(BASE, settings)))
        return
    with pytest.raises(InputError) as caught:
        prepare(sweep(laid(BASE, settings)))
    assert str(caught.value) == (
        "sweep.toml: policy.sla.target_s = 0.0202: must be, with tolerance_s = 0.0005, at least 0.02081, a decode step "
        "of one request that reads 31.0 tokens: a single request misses it"
    )


def test_a_target_that_a_single_request_just_meets_is_allowed() -> None:
    tables = laid(BASE, {"policy.sla": {"target_s": 0.0205, "tolerance_s": 0.001}, "replications": 1})
    assert (run_sweep(Sweep.model_validate(tables))["completed"] == 120).all()


# The sample is of two requests; a replication has longer ones.
LONGER = {
    "policy": {**BY_BIN, "edges": {"sample_size": 2}},
    "axes": {"c0": {"path": "server.service.c0_s", "values": [0.02, 3500.0]}},
}


@pytest.mark.usefixtures("slow_engines")
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_what_shows_while_running_names_the_specification_and_the_point(backend: str) -> None:
    tables = laid(BASE, {**LONGER, "server.service.c0_s": None})
    with pytest.raises(InputError, match=r"^sweep\.toml: a request of \d+ tokens could take .* s \(at c0 = 3500\.0\)$"):
        run_sweep(sweep(tables, replications=5), backend=backend)
    with pytest.raises(InputError, match=r"^sweep\.toml: a request of \d+ tokens could take .* s$"):
        run_sweep(sweep(laid(BASE, {**LONGER, "axes": {}, "server.service.c0_s": 3500.0})), backend=backend)


@pytest.mark.usefixtures("slow_engines")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_clock_that_runs_out_names_the_specification_and_the_point(workers: int) -> None:
    service = {"law": "steps", "c0_s": 2000.0}
    tables = laid(BASE, {**EQUAL, "server.service": service, "workload.requests": None, "policy.largest_batch": None})
    tables["axes"] = {
        "count": {"path": "workload.requests", "values": [10, 1500]},
        "cap": {"path": "policy.largest_batch", "values": [16]},
    }
    with pytest.raises(InputError) as caught:
        run_sweep(sweep(tables, replications=2), workers=workers)
    assert str(caught.value) == (
        "sweep.toml: the requests take longer than 2305843 s, the longest that can be simulated (at count = 1500, cap "
        "= 16)"
    )


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        return np.zeros(2) + np.zeros(3)

    monkeypatch.setattr(simulate, "simulate_many", broken)
    with pytest.raises(ValueError, match="could not be broadcast") as caught:
        run_sweep(sweep(BASE, replications=1))
    assert not isinstance(caught.value, InputError)


def test_jax_is_refused_in_a_line_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^`backend` jax: continuous batching runs with numba or reference$"):
        run_sweep(sweep(BASE), tmp_path / "new" / "cube.nc", backend="jax")
    assert list(tmp_path.iterdir()) == []
