import json
import math
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from batchcube.engine import simulate
from batchcube.errors import InputError
from batchcube.results import labelled
from batchcube.sweeps.progress import Silent
from batchcube.sweeps.run.capacity import asked_of, find_capacity
from batchcube.sweeps.run.criteria import parse_criterion
from batchcube.sweeps.run.draws import Draws
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.run.preparing import prepare
from batchcube.sweeps.spec.document import Sweep

# Requests of one second each, one at a time: M/D/1.
MD1: dict[str, Any] = {
    "name": "md1",
    "replications": 3,
    "workload": {
        "requests": 400,
        "arrivals": {"process": "poisson", "rate_per_s": 0.3},
        "lengths": {"distribution": "constant", "value": 10},
    },
    "policy": {"mode": "fifo_greedy", "batch_size": 1},
    "server": {"service": {"law": "constant", "a0_s": 0.0, "a1_s_per_token": 0.1}},
}
SIZES = {"largest": {"path": "policy.batch_size", "values": [1, 2, 8]}}
# Time between tokens is at most 0.01 (1 + 0.1 * 3) s, whatever the rate: the cap sees to that.
CAPPED: dict[str, Any] = {
    "replications": 2,
    "workload": {
        "requests": 300,
        "arrivals": {"process": "gamma", "rate_per_s": 2.0, "cv": 1.5},
        "lengths": {"distribution": "lognormal", "mean": 100.0, "cv": 0.8},
    },
    "server": {"service": {"law": "linear", "a0_s": 0.1, "a1_s_per_token": 0.01, "gamma": 0.1}},
    "report": {"request_sla_s": 5.0, "token_sla_s": 0.0125},
    "axes": {
        "mode": {
            "points": {
                "fifo_greedy": {"policy": {"mode": "fifo_greedy", "batch_size": 4}},
                "dynamic_only": {
                    "policy": {
                        "mode": "dynamic_only",
                        "largest_batch": 4,
                        "sla": {"target_s": 0.012, "tolerance_s": 0.001},
                    }
                },
            }
        }
    },
}

# At most eight requests run at once, so that a step takes at most 0.02 + 8 * 0.001 s and a prefill.
CONTINUOUS: dict[str, Any] = {
    "replications": 2,
    "workload": {
        "requests": 1000,
        "arrivals": {"process": "poisson", "rate_per_s": 3.0},
        "lengths": {
            "distribution": "lognormal",
            "mean": 30.0,
            "cv": 0.5,
            "prompt": {"distribution": "lognormal", "mean": 60.0, "cv": 0.5},
        },
    },
    "policy": {"mode": "continuous", "largest_batch": 8},
    "server": {
        "service": {
            "law": "steps",
            "c0_s": 0.02,
            "c1_s_per_request": 0.001,
            "c2_s_per_kv_token": 0.0,
            "c3_s_per_prefill_token": 0.0001,
            "c4_s_per_prefill_attention": 0.0,
        },
        "replica": {"kv_capacity_tokens": 2000, "token_budget": 256},
    },
    "report": {"token_sla_s": 0.03},
    "axes": {"servers": {"path": "server.servers", "values": [1, 2]}},
}


def sweep(tables: dict[str, Any], **changes: Any) -> Sweep:
    return Sweep.model_validate({**deepcopy(tables), **changes})


def with_workload(tables: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**tables, "workload": {**tables["workload"], **changes}}


def data_of(cube: xr.Dataset) -> xr.Dataset:
    return cube.drop_attrs(deep=False)


def report_at(tables: dict[str, Any], rate: float, point: int, replication: int) -> dict[str, Any]:
    """Simulate one point of a sweep at another rate, apart from the search."""
    changed = deepcopy(tables)
    if "trace" in changed["workload"]:
        changed["workload"]["trace"]["rate_scale"] = rate
    else:
        changed["workload"]["arrivals"]["rate_per_s"] = rate
    prepared = prepare(sweep(changed))
    return simulate(Draws(prepared.sweep.seed, replication).job(prepared.points[point])).report


# Known answers ------------------------------------------------------------------------------------------------------


def test_capacity_of_md1_is_what_its_formula_says() -> None:
    # Mean wait D rho / (2 (1 - rho)) = W is reached at rho = 2 W / (D + 2 W), here 1/2.
    tables = with_workload(MD1, requests=20_000)
    cube = find_capacity(sweep(tables, replications=20), ["wait_mean_ms=500"], tolerance=1e-4)
    interval = labelled.mean_interval(cube["capacity_requests_per_s"])
    error = float(cube["capacity_requests_per_s"].std("replication", ddof=1)) / 20**0.5
    assert error < 0.002
    assert abs(float(interval["mean"]) - 0.5) < 4.5 * error
    assert float(interval["low"]) < float(interval["mean"]) < float(interval["high"])
    assert (cube["capacity_unbracketed"] == 0).all()
    assert 0.499 < float(cube["capacity_statistic"].mean()) <= 0.5
    assert (cube["capacity_ended_by"] == 0).all()
    # Searches coarser than the replications are apart agree to the last digit; the interval says what that is worth.
    coarse = find_capacity(sweep(tables, replications=3), ["wait_mean_ms=500"], tolerance=0.05)
    wide = labelled.mean_interval(coarse["capacity_requests_per_s"])
    assert float(wide["low"]) < 0.5 < float(wide["high"])
    assert float(wide["high"] - wide["low"]) >= 2 * coarse["capacity_requests_per_s"].attrs["relative_error"] * 0.49
    held = float(coarse["capacity_held_requests_per_s"][0])
    assert (coarse["capacity_held_requests_per_s"] == held).all()
    assert held < float(wide["mean"]) < held * 1.026
    assert cube.attrs["notes"] == ""  # of one server, waits grow with the rate on every path (Lindley)


@pytest.mark.parametrize("cv", [1.0, 3.0, 7.0])
@pytest.mark.parametrize("stepwise", [False, True], ids=["batches", "steps"])
def test_of_one_server_the_capacity_is_its_service_rate_however_bursty_the_arrivals(cv: float, stepwise: bool) -> None:
    lengths: dict[str, Any] = {"distribution": "exponential", "mean": 100.0}
    arrivals = {"process": "gamma", "cv": cv, "rate_per_s": 3.0}
    tables = {
        **MD1,
        "replications": 10,
        "server": {"service": {"law": "constant", "a0_s": 0.0, "a1_s_per_token": 1e-3}},
    }
    if stepwise:
        lengths["prompt"] = {"distribution": "constant", "value": 1}
        tables["policy"] = {"mode": "continuous", "largest_batch": 1}
        service = {"law": "steps", "c0_s": 1e-3, "c1_s_per_request": 0.0}
        tables["server"] = {"service": service, "replica": {"kv_capacity_tokens": 16000, "prefill": "separate"}}
    tables["workload"] = {"requests": 1000, "arrivals": arrivals, "lengths": lengths}
    parts = []
    for seed in range(6):
        cube = find_capacity(sweep(tables, seed=seed), ["latency_mean_s=10000"])
        assert int(cube["capacity_ended_by"]) == 1
        parts.append(cube["capacity_requests_per_s"].values)
    # The arrivals have no part in it: 10 replications of 1000 exponential times, or of the 40 % that a step sees.
    found = np.mean(parts, axis=1)
    error = 10.0 / np.sqrt(10 * (400 if stepwise else 1000))
    assert abs(found.mean() - 10.0) < 4.5 * error / np.sqrt(6)
    assert found.std() < 2.5 * error
    assert 0.4 * error < np.mean(np.std(parts, axis=1, ddof=1)) / np.sqrt(10) < 2.0 * error


def test_under_bursts_a_limit_is_met_in_the_mean_and_the_interval_holds_what_many_replications_find() -> None:
    arrivals = {"process": "gamma", "cv": 3.0, "rate_per_s": 0.3}
    tables = with_workload(MD1, arrivals=arrivals, requests=1000)
    many = find_capacity(sweep(tables, replications=200, seed=99), ["wait_mean_s=5"])
    truth = float(many["capacity_requests_per_s"].mean())
    alone, covered = [], 0
    for seed in range(12):
        cube = find_capacity(sweep(tables, replications=8, seed=seed), ["wait_mean_s=5"])
        interval = labelled.mean_interval(cube["capacity_requests_per_s"])
        covered += float(interval["low"]) <= truth <= float(interval["high"])
        alone.append(
            find_capacity(sweep(tables, replications=1, seed=seed), ["wait_mean_s=5"])["capacity_requests_per_s"]
        )
    assert covered >= 10
    # One by one they find more: their mean is no answer.
    assert np.mean(alone) > truth


@pytest.mark.parametrize("criterion", ["wait_mean_ms=700", "latency_p95_s=3", "wait_max_s=6"])
def test_bisection_finds_what_a_scan_of_all_rates_finds(criterion: str) -> None:
    # One at a time, waits grow with the rate on every path; batches may wait longer at a lower one.
    tables = {**MD1, "axes": {"servers": {"path": "server.servers", "values": [1, 2]}}}
    variable, quantile, limit = parse_criterion(criterion)
    cube = find_capacity(sweep(tables, replications=2), [criterion], 0.1, 3.0)
    rates = np.geomspace(0.1, 3.0, 120)
    for point in range(2):
        served = cube["capacity_served_requests_per_s"].values[point]
        holds = []
        for rate in rates:
            reports = [report_at(tables, rate, point, replication) for replication in range(2)]
            values = [report[variable] if quantile is None else report[variable][2] for report in reports]
            holds.append(bool(np.mean(values) <= limit and np.mean(rate / served) <= 1.0))
        below = int(np.argmin(holds)) - 1
        assert not any(holds[below + 1 :]), "the case has a single crossing"
        found = float(cube["capacity_held_requests_per_s"].values[point, 0])
        assert rates[below] / 1.005 <= found <= rates[below + 1]


def test_the_statistic_is_that_of_a_run_at_the_capacity() -> None:
    limits = {"ttft_mean_s": 4.0, "request_sla_violation_fraction": 0.2}
    cube = find_capacity(sweep(CAPPED), ["latency_p95_s=6", "ttft_mean_ms=4000", "request_sla_violation_fraction=0.2"])
    assert (cube["capacity_unbracketed"] == 0).all()
    for point in range(2):
        held = float(cube["capacity_held_requests_per_s"].values[point, 0])
        excess = []
        for rate in (held, held * 1.005):
            reports = [report_at(CAPPED, rate, point, replication) for replication in range(2)]
            p95 = [report["latency_quantile_s"][2] for report in reports]
            means = [np.mean([report[name] for report in reports]) / limit for name, limit in limits.items()]
            load = np.mean(rate / cube["capacity_served_requests_per_s"].values[point])
            excess.append([np.mean(p95) / 6.0, *means, load])
            if rate == held:
                assert p95 == cube["capacity_statistic"].values[point].tolist()
        assert max(excess[0]) <= 1.0 < max(excess[1])
        assert int(np.argmax(excess[1])) == int(cube["capacity_ended_by"][point])


@pytest.mark.parametrize(("resample", "requests"), [("circular", 300), ("parts", 133)])
def test_a_recorded_trace_is_scaled_and_its_capacity_is_in_requests_per_second(
    resample: str, requests: int, tmp_path: Path
) -> None:
    file = tmp_path / "trace.csv"
    rows = "".join(f"{10 + 0.25 * i},{50 + i % 7},{1 + i * 37 % 40}\n" for i in range(401))
    file.write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}")
    tables = {
        **MD1,
        "workload": {"requests": requests, "trace": {"path": str(file), "resample": resample, "rate_scale": 0.5}},
    }
    cube = find_capacity(sweep(tables, replications=2), ["wait_mean_ms=900"])
    rate = float(cube["capacity_held_requests_per_s"][0])
    waits = [report_at(tables, rate / 4.0, 0, replication)["wait_mean_s"] for replication in range(2)]
    assert waits == cube["capacity_statistic"].values.tolist()
    assert np.mean(waits) <= 0.9
    assert int(cube["capacity_ended_by"]) == 0
    assert np.mean([report_at(tables, rate / 4.0 * 1.005, 0, r)["wait_mean_s"] for r in range(2)]) > 0.9
    assert cube.attrs["input_sha256"]
    assert "recorded trace" in cube.attrs["notes"]
    del tables["workload"]["trace"]["rate_scale"]
    axes = {"scale": {"path": "workload.trace.rate_scale", "values": [1.0, 2.0]}}
    with pytest.raises(InputError, match=r"axes\.scale: sets workload\.trace\.rate_scale, which the search"):
        find_capacity(sweep(tables, axes=axes), ["wait_mean_ms=900"])
    file.write_text("arrival_s,prompt_tokens,output_tokens\n" + "1,5,5\n" * 400)
    with pytest.raises(InputError, match="its requests all arrive at once: there is no rate to scale"):
        find_capacity(sweep(tables), ["wait_mean_ms=900"])


# The cube -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    policy = {"mode": "fifo_greedy"}
    return find_capacity(sweep(MD1, policy=policy, axes=SIZES), ["wait_mean_ms=700", "latency_p99_s=20"], workers=1)


def test_a_cube_has_the_axes_and_says_what_was_searched(cube: xr.Dataset) -> None:
    names = ("requests_per_s", "held_requests_per_s", "unbracketed", "statistic", "served_requests_per_s")
    assert set(cube.data_vars) == {f"capacity_{name}" for name in names} | {"capacity_ended_by", "unmeasured_costs"}
    assert cube["capacity_ended_by"].attrs["flag_meanings"] == "none wait_mean_s latency_p99_s overload"
    assert (cube["unmeasured_costs"] == 0).all()
    for name in names:
        assert dict(cube[f"capacity_{name}"].sizes) == {"largest": 3, "replication": 3}
    assert cube["capacity_statistic"].attrs["units"] == "s"
    assert cube["capacity_requests_per_s"].attrs["units"] == "s-1"
    assert json.loads(cube.attrs["capacity_criteria"]) == [
        {"variable": "wait_mean_s", "quantile": None, "limit": 0.7},
        {"variable": "latency_quantile_s", "quantile": 0.99, "limit": 20.0},
    ]
    assert cube.attrs["capacity_tolerance"] == 0.005
    assert cube.attrs["capacity_range_given"] == 0
    assert cube.attrs["capacity_low_per_s"] <= float(cube["capacity_requests_per_s"].min())
    assert cube.attrs["capacity_high_per_s"] >= float(cube["capacity_requests_per_s"].max())
    kept = Sweep.model_validate(json.loads(cube.attrs["specification"]))
    assert kept.grid.points[0].report.windows == 50


@pytest.mark.parametrize("workers", [2, 7])
def test_the_number_of_workers_changes_nothing(cube: xr.Dataset, workers: int) -> None:
    again = find_capacity(
        sweep(MD1, policy={"mode": "fifo_greedy"}, axes=SIZES),
        ["wait_mean_ms=700", "latency_p99_s=20"],
        workers=workers,
    )
    xr.testing.assert_identical(data_of(again), data_of(cube))


def test_a_search_over_more_replications_is_another(tmp_path: Path) -> None:
    target = tmp_path / "cube.nc"
    found = find_capacity(sweep(MD1), ["wait_mean_ms=700"], output=target)
    again = find_capacity(sweep(MD1), ["wait_mean_ms=700"], output=target)
    xr.testing.assert_identical(data_of(again), data_of(found))
    with pytest.raises(InputError, match="holds another search"):
        find_capacity(sweep(MD1, replications=5), ["wait_mean_ms=700"], output=target)


@pytest.mark.usefixtures("unoptimised_programs")
@pytest.mark.parametrize("backend", ["reference", "jax"])
def test_every_backend_finds_the_same(backend: str) -> None:
    tables = with_workload(MD1, requests=60)
    numba, other = (
        find_capacity(sweep(tables), ["wait_mean_ms=500"], tolerance=0.1, backend=name) for name in ("numba", backend)
    )
    xr.testing.assert_identical(data_of(other), data_of(numba))
    assert other.attrs["backend"] == backend


def test_drawn_coefficients_give_every_replication_its_own_server() -> None:
    drawn = {"service": {"coefficients": "qwen3-0.6b-cpu-vllm", "draw": True}}
    cubes = [
        find_capacity(sweep({**MD1, "server": server, "replications": 4}), ["wait_mean_s=2"])
        for server in (drawn, {"service": {"coefficients": "qwen3-0.6b-cpu-vllm"}})
    ]
    assert [labelled.of_single(cube["capacity_requests_per_s"]) for cube in cubes] == [True, False]
    assert not np.isclose(cubes[0]["capacity_requests_per_s"], cubes[1]["capacity_requests_per_s"], rtol=1e-4).any()
    assert json.loads(cubes[0].attrs["service_coefficients"])


def test_policies_are_compared_in_pairs(cube: xr.Dataset) -> None:
    ratio = labelled.paired_ratio(cube["capacity_requests_per_s"], "largest", 1)
    assert (ratio["low"] > 1.0).all()
    width = float((ratio["high"] - ratio["low"]).isel(largest=0))
    values = cube["capacity_requests_per_s"].values
    assert width < 2 * 4.3 * float(values[1].std(ddof=1)) / 3**0.5 / values[0].mean()


def test_progress_ends_where_it_said_it_would() -> None:
    class Told(Silent):
        total = done = finished = 0

        def start(self, points: int, replications: int, requests: int) -> None:
            assert (points, replications) == (3, 3)
            self.total = requests

        def advance(self, requests: int) -> None:
            self.done += requests
            assert self.done <= self.total

        def finish_replications(self, count: int) -> None:
            self.finished += count

    for low, high in ((None, None), (0.01, 50.0), (1e-6, 1e-5)):
        told = Told()
        policy = {"mode": "fifo_greedy"}
        find_capacity(sweep(MD1, policy=policy, axes=SIZES), ["wait_mean_s=2"], low, high, progress=told)
        assert told.done == told.total > 0
        assert told.finished == 3


# Without an answer --------------------------------------------------------------------------------------------------


def test_no_answer_is_nan_and_said() -> None:
    tables = {**MD1, "policy": {"mode": "fifo_greedy"}, "axes": SIZES}
    # One at a time serves about 0.6/s under this limit, two about 1.1/s, eight about 5/s.
    found = find_capacity(sweep(tables), ["wait_mean_ms=700"], 0.8, 1.5)
    assert found["capacity_unbracketed"].values.tolist() == [[-1] * 3, [0] * 3, [1] * 3]
    assert np.isnan(found["capacity_requests_per_s"].isel(largest=[0, 2])).all()
    assert np.isnan(found["capacity_statistic"].isel(largest=[0, 2])).all()
    assert found["capacity_unbracketed"].attrs["flag_values"].tolist() == [-1, 0, 1, 2]
    assert found.attrs["notes"].splitlines() == [
        "the criteria are missed already at 0.8/s, the lowest rate tried (at largest = 1)",
        "the criteria still hold at 1.5/s, the highest rate tried (at largest = 8)",
    ]
    assert found.attrs["capacity_notes_unanswered"] == found.attrs["notes"]
    assert (found.attrs["capacity_low_per_s"], found.attrs["capacity_high_per_s"]) == (0.8, 1.5)
    assert found.attrs["capacity_range_given"] == 1


@pytest.mark.parametrize("criterion", ["latency_p99_s=100", "latency_mean_s=100", "request_sla_violation_fraction=0.5"])
def test_where_nobody_is_ever_served_nothing_holds(criterion: str) -> None:
    tables = {
        "replications": 3,
        "workload": {**MD1["workload"], "requests": 30},
        "policy": {"mode": "multi_bin_only", "bins": 2, "batch_size": 64, "tail": "drop"},
        "report": {"request_sla_s": 1000.0},
    }
    found = find_capacity(sweep({**MD1, **tables}), [criterion], 0.1, 1.0)
    assert (found["capacity_unbracketed"] == -1).all()
    assert "up to 100 % of a replication's requests were never served" in found.attrs["notes"]


def test_an_objective_that_an_empty_server_misses_has_no_answer() -> None:
    found = find_capacity(sweep(MD1), ["latency_mean_ms=900"])
    assert (found["capacity_unbracketed"] == -1).all()
    lowest = 0.3 / 2**20
    assert found.attrs["notes"] == f"the criteria are missed already at {lowest:.6g}/s, the lowest rate tried"
    # A clock of 142 years ends before 20 halvings.
    seldom = with_workload(MD1, arrivals={"process": "poisson", "rate_per_s": 4e-7}, requests=400)
    found = find_capacity(sweep(seldom), ["latency_mean_ms=900"])
    assert found.attrs["notes"] == "the criteria are missed already at 1e-07/s, the lowest rate tried"
    with pytest.raises(InputError, match="would arrive after more than"):
        find_capacity(sweep(MD1), ["latency_mean_ms=900"], 1e-9, 1.0)


def test_an_overloaded_run_does_not_hold_unless_allowed() -> None:
    criteria = ["tbt_max_ms=14"]
    refused = find_capacity(sweep(CAPPED), criteria)
    assert (refused["capacity_unbracketed"] == 0).all()
    allowed = find_capacity(sweep(CAPPED), criteria, growth=1.0)
    assert (allowed["capacity_unbracketed"] == 1).all()
    assert (refused.attrs["capacity_growth"], allowed.attrs["capacity_growth"]) == (0.0, 1.0)
    assert np.isinf(allowed["capacity_served_requests_per_s"]).all()
    served = refused["capacity_served_requests_per_s"]
    limit = (1.0 / (1.0 / served).mean("replication")).values
    np.testing.assert_allclose(refused["capacity_requests_per_s"].mean("replication"), limit, rtol=0.0025)
    assert (refused["capacity_ended_by"] == 1).all()
    more = find_capacity(sweep(CAPPED), criteria, growth=0.2)
    np.testing.assert_allclose(more["capacity_requests_per_s"].mean("replication"), limit / 0.8, rtol=0.0025)


def test_criteria_that_hold_again_are_said() -> None:
    # A batch of eight takes long to fill at low rates: a band of rates meets the limit, from 5.5 to 6.0 and to 7.0.
    tables = with_workload(MD1, arrivals={"process": "poisson", "rate_per_s": 6.0}, requests=2000)
    policy = {"mode": "fifo_fixed", "batch_size": 8}
    found = find_capacity(sweep(tables, policy=policy, replications=2), ["latency_mean_ms=1685"])
    assert (found["capacity_unbracketed"] == 0).all()
    low, high = (report_at({**tables, "policy": policy}, rate, 0, 1)["latency_mean_s"] for rate in (5.0, 6.0))
    assert low > 1.685 >= high
    assert found.attrs["notes"] == (
        "the criteria hold again above a rate at which they fail: the capacity is one crossing of several"
    )
    assert found.attrs["capacity_notes_unanswered"] == ""


# Continuous batching ------------------------------------------------------------------------------------------------


def test_continuous_batching_has_a_capacity() -> None:
    criteria = ["tpot_p95_ms=31", "ttft_max_ms=2000", "token_sla_violation_fraction=0.3"]
    found = find_capacity(sweep(CONTINUOUS), criteria)
    assert (found["capacity_unbracketed"] == 0).all()
    limits = {"ttft_max_s": 2.0, "token_sla_violation_fraction": 0.3}
    for point in range(2):
        held = float(found["capacity_held_requests_per_s"].values[point, 0])
        excess = []
        for rate in (held, held * 1.005):
            reports = [report_at(CONTINUOUS, rate, point, replication) for replication in range(2)]
            tpot = [report["tpot_quantile_s"][2] for report in reports]
            means = [np.mean([report[name] for report in reports]) / limit for name, limit in limits.items()]
            load = np.mean(rate / found["capacity_served_requests_per_s"].values[point])
            excess.append([np.mean(tpot) / 0.031, *means, load])
            if rate == held:
                assert tpot == found["capacity_statistic"].values[point].tolist()
        assert max(excess[0]) <= 1.0 < max(excess[1])
    ratio = found["capacity_requests_per_s"].sel(servers=2) / found["capacity_requests_per_s"].sel(servers=1)
    assert (ratio > 1.2).all()


@pytest.mark.parametrize(("requests", "is_told"), [(60, False), (300, False), (6000, True)])
def test_what_servers_can_do_is_not_told_while_their_batches_fill(requests: int, is_told: bool) -> None:
    # Four servers hold 128 requests, for 500 steps of 52 ms: a run of 300 ends while they fill.
    lengths = {"distribution": "lognormal", "mean": 500, "cv": 0.5, "prompt": {"distribution": "constant", "value": 1}}
    tables = with_workload({**CONTINUOUS, "axes": {}}, requests=requests, lengths=lengths)
    tables["policy"] = {"mode": "continuous", "largest_batch": 32}
    tables["server"] = {**tables["server"], "servers": 4, "replica": {"kv_capacity_tokens": 1_000_000}}
    found = find_capacity(sweep(tables), ["ttft_p99_ms=5000"])
    served = found["capacity_served_requests_per_s"]
    assert np.isfinite(served).all() == is_told
    assert ("too few requests to see what the servers can do" in found.attrs["notes"]) == (not is_told)
    # What holds for so long while the backlog grows is no capacity.
    assert (found["capacity_unbracketed"] == 0).all() == is_told
    assert np.isfinite(found["capacity_requests_per_s"]).all() == is_told
    assert ("the backlog grows all the same: take more" in found.attrs["notes"]) == (requests == 300)
    if is_told:
        np.testing.assert_allclose(served, 128 / (500 * 0.052), rtol=0.03)


def test_workers_and_backends_find_the_same_capacity_of_continuous_batching() -> None:
    tables = with_workload(CONTINUOUS, requests=60)
    one = find_capacity(sweep(tables), ["tbt_mean_ms=27"], workers=1)
    many = find_capacity(sweep(tables), ["tbt_mean_ms=27"], workers=5)
    reference = find_capacity(sweep(tables), ["tbt_mean_ms=27"], backend="reference")
    xr.testing.assert_identical(data_of(many), data_of(one))
    xr.testing.assert_identical(data_of(reference), data_of(one))
    with pytest.raises(InputError, match=r"^`backend` jax: continuous batching runs with numba or reference$"):
        find_capacity(sweep(tables), ["tbt_mean_ms=27"], backend="jax")


def test_under_a_cap_the_time_between_tokens_alone_does_not_see_overload() -> None:
    criteria = ["tbt_mean_ms=35"]
    assert (find_capacity(sweep(CONTINUOUS), criteria)["capacity_unbracketed"] == 0).all()
    allowed = find_capacity(sweep(CONTINUOUS), criteria, growth=1.0)
    assert (allowed["capacity_unbracketed"] == 1).all()


def test_requests_that_never_fit_are_said() -> None:
    tables = deepcopy(CONTINUOUS)
    tables["server"]["replica"]["kv_capacity_tokens"] = 160
    found = find_capacity(sweep(tables), ["ttft_p50_ms=800"])
    (said,) = [note for note in found.attrs["notes"].splitlines() if "never served" in note]
    assert re.match(r"up to [0-9.]+ % of a replication's requests were never served", said)
    assert "means are of the others, and hold no limit where more than 1 % were turned away or cut off" in said


def test_requests_that_never_fit_miss_every_limit() -> None:
    """Some 4 % do not fit: a limit of 2 % on misses, on the 99th percentile, or on a mean holds at no rate."""
    tables = deepcopy(CONTINUOUS)
    tables["server"]["replica"]["kv_capacity_tokens"] = 160
    tables["report"]["request_sla_s"] = 60.0
    share = run_sweep(Sweep.model_validate({**tables, "axes": {}}))
    missed = share["missed"] / share["requests"]
    assert ((missed > 0.02) & (missed < 0.1)).all()
    for never in (
        "request_sla_violation_fraction=0.02",
        "ttft_p99_s=60",
        "tbt_p99_s=1",
        "ttft_mean_s=60",
        "tbt_max_s=60",
    ):
        assert (find_capacity(sweep(tables), [never], low=0.5, high=4)["capacity_unbracketed"] == -1).all()
    for may in ("request_sla_violation_fraction=0.1", "ttft_p90_s=60"):
        assert (find_capacity(sweep(tables), [may], low=0.5, high=100)["capacity_unbracketed"] == 0).all()


def test_answers_that_are_cut_off_are_late_for_ever() -> None:
    """Of 100 requests, 2 were never served and 3 had their answers cut off."""
    report = {
        "measured": np.array([98]),
        "missed": np.array([2]),
        "truncated": np.array([3]),
        "ttft_mean_s": np.array([1.0]),
        "ttft_max_s": np.array([8.0]),
        "ttft_quantile_s": np.array([[1.0, 2.0, 3.0, 4.0]]),
        "request_sla_violation_fraction": np.array([0.05]),
    }
    for criterion, value in (
        ("ttft_mean_s=9", np.inf),
        ("ttft_max_s=9", np.inf),
        ("ttft_p95_s=9", 3.0),
        ("ttft_p99_s=9", np.inf),
        ("request_sla_violation_fraction=0.1", 0.05),
    ):
        assert parse_criterion(criterion).values(report) == [value]
    # A single one of 100 leaves the mean, not the maximum.
    single = report | {"measured": np.array([99]), "missed": np.array([1]), "truncated": np.array([0])}
    assert parse_criterion("ttft_mean_s=9").values(single) == [1.0]
    assert parse_criterion("ttft_max_s=9").values(single) == [np.inf]


def test_the_capacity_by_goodput_is_that_of_both_limits_together() -> None:
    """The share that keeps both is 0.9 at the capacity, less above it; apart, each limit would allow more."""
    tables = deepcopy(CONTINUOUS)
    tables["report"] |= {"ttft_sla_s": 0.5, "tpot_sla_s": 0.024}
    found = find_capacity(sweep(tables), ["goodput=0.9"])
    assert (found["capacity_unbracketed"] == 0).all()
    assert (found["capacity_statistic"].mean("replication") >= 0.9).all()
    for name in ("ttft_sla_s", "tpot_sla_s"):
        alone = deepcopy(tables)
        del alone["report"][name]
        allowed = find_capacity(sweep(alone), ["goodput=0.9"])["capacity_requests_per_s"]
        assert (found["capacity_requests_per_s"].mean("replication") <= allowed.mean("replication")).all()
    above = 1.02 * float(found["capacity_requests_per_s"].mean("replication")[0])
    assert np.mean([report_at(tables, above, 0, r)["goodput_fraction"] for r in range(2)]) < 0.9


def test_the_capacity_of_whole_batches_by_goodput_is_that_by_violations() -> None:
    tables = {**MD1, "report": {"request_sla_s": 3.0}}
    by_goodput, by_violations = (
        find_capacity(sweep(tables), [sla]) for sla in ("goodput=0.9", "request_sla_violation_fraction=0.1")
    )
    name = "capacity_requests_per_s"
    xr.testing.assert_allclose(by_goodput[name], by_violations[name], rtol=1e-9)
    xr.testing.assert_allclose(by_goodput["capacity_statistic"], 1.0 - by_violations["capacity_statistic"])
    # Every service takes 1 s, and a token 0.1 s: the first one of who waits 2 s is in time, where latencies of 3 s are.
    by_tokens, never = (
        find_capacity(sweep({**MD1, "report": {"ttft_sla_s": 2.0, "tpot_sla_s": limit}}), ["goodput=0.9"])
        for limit in (0.1, 0.099)
    )
    xr.testing.assert_equal(by_tokens[name], by_goodput[name])
    assert (never["capacity_unbracketed"] == -1).all()


def test_an_empty_replica_that_misses_is_said_at_the_lowest_rate_that_the_clock_holds() -> None:
    found = find_capacity(sweep(CONTINUOUS), ["tbt_mean_ms=15"])
    assert (found["capacity_unbracketed"] == -1).all()
    assert "the criteria are missed already at" in found.attrs["notes"]
    assert found.attrs["capacity_low_per_s"] < 0.01


# Refusals -----------------------------------------------------------------------------------------------------------


def refusal(tables: dict[str, Any], *criteria: str, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        find_capacity(sweep(tables), criteria or ["wait_mean_s=1"], **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_axis_over_the_rate_is_refused() -> None:
    tables = deepcopy(MD1)
    del tables["workload"]["arrivals"]["rate_per_s"]
    path = "workload.arrivals.rate_per_s"
    expected = (
        "specification: axes.rate: sets workload.arrivals.rate_per_s, which the search for the capacity sets itself; "
        "remove it from the axis"
    )
    assert refusal({**tables, "axes": {"rate": {"path": path, "values": [0.1, 0.2]}}}) == expected
    points = {"calm": {path: 0.1}, "busy": {"workload": {"arrivals": {"rate_per_s": 0.2}}}}
    assert refusal({**tables, "axes": {"rate": {"points": points}}}) == expected


@pytest.mark.parametrize(
    "arrivals",
    [
        {"process": "at_once"},
        {"process": "step", "times_s": [0.0], "rates_per_s": [1.0]},
        {"process": "gamma_windows", "shapes": [1.0], "scales_s": [1.0]},
        {"process": "on_off", "rate_per_s": 1.0, "on_off_ratio": 4.0, "mean_on_s": 1.0, "mean_off_s": 1.0},
    ],
)
def test_arrivals_that_do_not_scale_are_refused(arrivals: dict[str, Any]) -> None:
    said = refusal(with_workload(MD1, arrivals=arrivals))
    assert said == (
        f'specification: workload.arrivals.process = "{arrivals["process"]}": its arrivals do not stretch with one '
        "rate, which is what is searched; use poisson, deterministic or gamma, or a recorded trace"
    )


def test_criteria_that_are_not_measured_are_refused() -> None:
    assert refusal(MD1, "request_sla_violation_fraction=0.1") == (
        "specification: request_sla_violation_fraction: needs report.request_sla_s, beyond which it counts as a "
        "violation"
    )
    assert "needs report.token_sla_s" in refusal(MD1, "token_sla_violation_fraction=0.1")
    assert "goodput: needs a limit, report.request_sla_s" in refusal(MD1, "goodput=0.9")
    assert "goodput: needs a limit, report.request_sla_s" in refusal(CONTINUOUS, "goodput=0.9")
    assert "`slo` goodput=0: the least share must be a number > 0 and <= 1" in refusal(CONTINUOUS, "goodput=0")
    assert refusal(CAPPED, "tpot_mean_ms=1") == (
        'specification: tpot_mean_s: is measured with policy.mode = "continuous" only; use tbt '
        '(at mode = "fifo_greedy")'
    )
    seconds = {"distribution": "constant", "unit": "seconds", "value": 1.0}
    timed = {**with_workload(MD1, lengths=seconds), "server": {"service": {"law": "given"}}}
    assert "needs tokens, and workload.lengths.unit is" in refusal(timed, "tbt_mean_ms=1")
    assert find_capacity(sweep(timed), ["wait_mean_s=1"])["capacity_unbracketed"].values.tolist() == [0, 0, 0]


def test_ranges_tolerances_and_backends_are_refused() -> None:
    assert refusal(MD1, low=1.0).startswith("`low` and `high`: give both, or neither")
    for low, high in ((2.0, 1.0), (0.0, 1.0), (1.0, 1e10), (math.nan, 1.0)):
        assert "must be rates from 1e-09 to 1e+09, low < high" in refusal(MD1, low=low, high=high)
    for tolerance in (0.0, 1.0, -1.0, math.nan):
        assert refusal(MD1, tolerance=tolerance) == f"`tolerance` {tolerance:g}: must be > 0 and < 1"
    assert "must be one of" in refusal(MD1, backend="abacus")
    with pytest.raises(InputError, match="at least one limit is needed"):
        find_capacity(sweep(MD1), [])


def test_a_cube_that_asks_for_another_quantile_than_is_measured_is_refused() -> None:
    criteria = '[{"variable": "latency_quantile_s", "quantile": 0.42, "limit": 1.0}]'
    searched = {"capacity_range_given": 0, "capacity_tolerance": 0.01, "capacity_growth": 0.02}
    with pytest.raises(InputError, match=r"capacity_criteria: quantile = 0\.42: must be one of 0\.5, 0\.9"):
        asked_of(xr.Dataset(attrs={**searched, "capacity_criteria": criteria}))
