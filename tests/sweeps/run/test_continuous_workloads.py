"""Mode continuous on workloads: traces, prompts, priorities, prefixes, and what is told of them."""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from batchcube.engine import continuous, simulate_records
from batchcube.errors import InputError
from batchcube.results.cube import read_cube
from batchcube.results.overload import OVERLOADED, judge
from batchcube.results.summary import refusals
from batchcube.results.text import in_percent
from batchcube.sweeps.progress import tell_notes
from batchcube.sweeps.run.draws import Draws
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.run.preparing import prepare
from batchcube.sweeps.run.single import simulate_one
from batchcube.sweeps.spec.document import Sweep
from helpers.specifications import CONTINUOUS as BASE
from helpers.specifications import laid
from helpers.step_sweeps import BY_BIN, sweep

DOCS = Path(__file__).parents[3] / "docs"


def test_many_prompts_that_leave_no_room_for_an_answer_are_said_loudly(capsys: pytest.CaptureFixture[str]) -> None:
    lengths = {"workload.lengths.prompt": {"distribution": "uniform", "low": 1.0, "high": 100.0}}
    limited = {**lengths, "report.request_sla_s": 1e6, "server.replica.max_model_len": 81}
    made = run_sweep(sweep(laid(BASE, limited), replications=1))
    job = Draws(1, 0).job(prepare(sweep(laid(BASE, limited), replications=1)).points[0])
    refused = int((job.requests.prompt >= 81).sum())
    assert int(made["rejected"][0]) == refused > 0
    # Nobody is late but those who are refused, and those whose answers are cut off.
    cut = int(made["truncated"][0])
    assert float(made["request_sla_violation_fraction"][0]) == pytest.approx((refused + cut) / 120)
    tell_notes(made)
    (loud, *notes) = capsys.readouterr().err.splitlines()
    assert loud.startswith(f"warning: up to {in_percent(refused / 120)} of the requests are turned away")
    assert any("turned away" in note for note in notes)
    assert refusals(run_sweep(sweep(BASE))) == ""


def test_answers_that_are_cut_are_counted_and_told() -> None:
    tables = laid(BASE, {"server.replica.max_model_len": 150, "server.replica.kv_capacity_tokens": 10_000})
    made = run_sweep(sweep(tables))
    numba = run_sweep(sweep(tables), backend="numba")
    cut = 0
    for replication in range(3):
        requests = Draws(1, replication).job(prepare(sweep(tables)).points[0]).requests
        long = (requests.prompt + requests.output > 150) & (requests.prompt < 150)
        assert int(made["truncated"][replication]) == int(numba["truncated"][replication]) == long.sum()
        cut += int(long.sum())
    assert 0 < cut < 360
    assert f"{in_percent(cut / 360)} of the requests had their answers cut by max_model_len" in made.attrs["notes"]
    assert "cut by" not in run_sweep(sweep(BASE)).attrs["notes"]
    # Those of a warm-up are in no count of them.
    late = run_sweep(sweep(laid(tables, {"report.warmup_requests": 100})))
    share = int(late["truncated"].sum()) / 60
    assert int(late["measured"].sum() + late["missed"].sum()) == 60
    assert f"{in_percent(share)} of the requests had their answers cut by max_model_len" in late.attrs["notes"]


def test_priorities_of_a_recorded_trace(tmp_path: Path) -> None:
    """One runs at a time; those who wait come in by their priority."""
    file = tmp_path / "trace.csv"
    rows = [(0.0, 5), (0.001, 3), (0.002, 1), (0.003, 2)]
    text = "".join(f"{at},10,20,{rank}\n" for at, rank in rows)
    file.write_text("arrival_s,prompt_tokens,output_tokens,priority\n" + text)
    tables = {**BASE, "workload": {"trace": {"path": str(file), "unit": "s"}}}
    tables = laid(tables, {"policy": {"mode": "continuous", "largest_batch": 1}})
    by_priority = laid(tables, {"server.replica.scheduling_policy": "priority"})
    assert simulate_one(sweep(tables), {}).requests["start_s"].argsort().tolist() == [0, 1, 2, 3]
    assert simulate_one(sweep(by_priority), {}).requests["start_s"].argsort().tolist() == [0, 2, 3, 1]
    file.write_text(file.read_text().replace("priority", "rank"))
    with pytest.raises(InputError, match=r'scheduling_policy = "priority": the trace says no priorities'):
        prepare(sweep(by_priority))
    named = laid(by_priority, {"workload.trace.columns": {"priority": "rank"}})
    assert simulate_one(sweep(named), {}).requests["start_s"].argsort().tolist() == [0, 2, 3, 1]


def test_caching_of_prompts_that_have_nothing_in_common_is_told() -> None:
    caching = laid(BASE, {"server.replica.enable_prefix_caching": True})
    said = "workload: says nothing of what prompts contain"
    assert said in "\n".join(prepare(sweep(caching)).notes)
    sessions = {"workload.sessions": {"turns": {"distribution": "constant", "value": 3}}}
    assert said not in "\n".join(prepare(sweep(laid(caching, sessions))).notes)


def test_the_note_on_requests_turned_away_is_about_the_whole_sweep(tmp_path: Path) -> None:
    tables = laid(BASE, {"server.replica.kv_capacity_tokens": None})
    tables["axes"] = {"capacity": {"path": "server.replica.kv_capacity_tokens", "values": [128, 160, 2000]}}
    file = tmp_path / "cube.nc"
    for replications in (1, 4):
        made = run_sweep(sweep(tables, replications=replications), file)
        percent = 100.0 * float(made["rejected"].sum() / made["requests"].sum())
        assert 10 < percent < 90
        (note,) = [note for note in read_cube(file).attrs["notes"].splitlines() if "turned away" in note]
        assert note.startswith(f"{percent:.0f} % of the requests could never fit")
    again = run_sweep(sweep(tables, replications=4))
    # The second in which they were made is all that may differ.
    xr.testing.assert_identical(made.assign_attrs(created_utc=again.attrs["created_utc"]), again)


def test_overload_is_said() -> None:
    made = run_sweep(
        Sweep.model_validate(laid(BASE, {"workload.arrivals.rate_per_s": 1000.0, "workload.requests": 1000}))
    )
    assert (judge(made) == OVERLOADED).all()
    assert "some points are overloaded" in made.attrs["notes"]


def test_bins_that_nothing_hits_are_removed_and_told() -> None:
    lengths = {"distribution": "constant", "value": 40.0, "prompt": {"distribution": "constant", "value": 10.0}}
    tables = laid(BASE, {"workload.lengths": lengths, "workload.predictor": None, "policy": BY_BIN})
    made = run_sweep(Sweep.model_validate(tables))
    assert (made["effective_bins"] == 1).all()
    assert "no request can fall into 2 of the 3 bins" in made.attrs["notes"]
    fifo = run_sweep(Sweep.model_validate(laid(tables, {"policy": BASE["policy"]})))
    xr.testing.assert_equal(made["latency_mean_s"], fifo["latency_mean_s"])


def test_hashes_of_a_recorded_trace_are_found_in_the_cache(tmp_path: Path) -> None:
    """Prompts of 64 tokens, of which all but the last 16 are alike: 3 of 4 blocks are found, but for the first time."""
    file = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": float(k), "input_length": 64, "output_length": 2, "hash_ids": [7, 8 + k], "chat_id": k}
        for k in range(50)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tables = laid(
        {**BASE, "workload": {"trace": {"path": str(file), "hash_tokens": 48}}},
        {
            "server.replica.enable_prefix_caching": True,
            "axes": {"caching": {"path": "server.replica.enable_prefix_caching", "values": [False, True]}},
        },
    )
    del tables["server"]["replica"]["enable_prefix_caching"]
    cube = run_sweep(sweep(tables, replications=1), backend="reference", workers=1)
    assert np.isnan(cube["prefix_cache_hit_fraction"].isel(caching=0)).all()
    assert float(cube["prefix_cache_hit_fraction"].isel(caching=1).item()) == pytest.approx(49 * 48 / (50 * 64))
    assert not any("hash_ids" in note for note in cube.attrs["notes"])
    tables["server"]["replica"]["block_tokens"] = 32
    with pytest.raises(InputError, match="block_tokens = 32: must divide the 48 tokens of a block of hash_ids"):
        prepare(sweep(tables))


def test_a_turn_finds_the_turns_before_it_in_the_cache() -> None:
    """All but the token emitted last is there of the turn before, in full blocks."""
    sessions = {"turns": {"distribution": "constant", "value": 3}}
    tables = laid(
        BASE,
        {
            "workload.sessions": sessions,
            "workload.requests": 60,
            "server.replica": {"kv_capacity_tokens": 10**6, "enable_prefix_caching": True},
        },
    )
    (point,) = prepare(sweep(tables)).points
    job = Draws(1, 0).job(point)
    _, (records,) = simulate_records([job], job.shape, "reference")
    before = (job.requests.prompt + job.requests.output - 1) // 16 * 16
    found = np.where(np.arange(60) % 3 == 0, 0, np.roll(before, 1))
    assert records.cached.tolist() == found.tolist()


def test_a_recorded_trace_runs_and_needs_prompts(tmp_path: Path) -> None:
    def write(prompt: int) -> dict[str, Any]:
        file = tmp_path / f"trace{prompt}.csv"
        rows = [f"{0.25 * i},{prompt + i % 70},{1 + i % 40}" for i in range(200)]
        file.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]))
        workload = {"trace": {"path": str(file), "resample": "circular"}, "requests": 100}
        return {**BASE, "workload": {**workload, "predictor": {"kind": "oracle"}}}

    made = run_sweep(sweep(write(1)))
    assert (made["completed"] == 100).all()
    assert len(np.unique(made["latency_mean_s"])) == 3
    text = r": \d+ of \d+ prompts have no tokens: mode continuous needs prompts of at least 1"
    with pytest.raises(InputError, match=f"workload.trace{text}"):
        run_sweep(sweep(write(0)))
    columns = {"path": str(tmp_path / "trace0.csv"), "column": "output_tokens", "prompt_column": "prompt_tokens"}
    drawn = laid(BASE, {"workload.lengths": {"distribution": "empirical", **columns}})
    with pytest.raises(InputError, match=f"workload.lengths{text}"):
        run_sweep(sweep(drawn))
    columns["path"] = str(tmp_path / "trace1.csv")
    assert (
        run_sweep(sweep(laid(drawn, {"workload.lengths": {"distribution": "empirical", **columns}})))["completed"]
        == 120
    ).all()


@pytest.mark.parametrize(
    "prompt",
    [
        {"distribution": "exponential", "mean": 3.0},
        {"distribution": "lognormal", "mean": 3.0, "cv": 3.0},
        {"distribution": "histogram", "edges": [0, 2, 5], "counts": [1, 1]},
    ],
)
def test_drawn_prompts_have_at_least_a_token_and_their_mean(prompt: dict[str, Any]) -> None:
    mixture = {"distribution": "mixture", "weights": [1.0], "components": [{**BASE["workload"]["lengths"]}]}
    mixture["components"][0]["prompt"] = prompt
    for lengths in ({**BASE["workload"]["lengths"], "prompt": prompt}, mixture):
        prepared = prepare(sweep(laid(BASE, {"workload.lengths": lengths, "workload.requests": 20_000})))
        job = Draws(1, 0).job(prepared.points[0])
        assert isinstance(job, continuous.Job)
        tokens = job.requests.prompt
        assert tokens.min() == 1
        assert abs(tokens.mean() - prompt.get("mean", 2.0)) < 4.5 * tokens.std() / np.sqrt(tokens.size)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"distribution": "constant", "value": 0}, "value = 0.0: must be a whole number of tokens, 1 or more"),
        ({"distribution": "exponential", "mean": 0.3}, "mean = 0.3: must be >= 1: every length is at least 1 token"),
        ({"distribution": "uniform", "low": 0, "high": 4}, "low = 0.0: must be a whole number of tokens, 1 or more"),
    ],
)
def test_prompts_without_tokens_are_refused(prompt: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"workload.lengths.prompt.{message} in mode continuous")):
        Sweep.model_validate(laid(BASE, {"workload.lengths.prompt": prompt}))


def test_axes_of_step_settings_have_their_units() -> None:
    tables = deepcopy(BASE)
    del tables["server"]["replica"]["kv_capacity_tokens"], tables["server"]["replica"]["token_budget"]
    tables["server"]["service"] = {"law": "steps", "c0_s": 0.02}
    tables["axes"] = {
        "capacity": {"path": "server.replica.kv_capacity_tokens", "values": [1000, 2000]},
        "budget": {"path": "server.replica.token_budget", "values": [64]},
        "c1": {"path": "server.service.c1_s_per_request", "values": [0.001]},
        "c4": {"path": "server.service.c4_s_per_prefill_attention", "values": [0.0, 1e-9]},
    }
    made = run_sweep(sweep(tables, replications=1))
    units = [made[name].attrs["units"] for name in ("capacity", "budget", "c1", "c4")]
    assert units == ["tokens", "tokens", "s/request", "s/token2"]
    assert (made["latency_mean_s"].isel(c4=1) >= made["latency_mean_s"].isel(c4=0)).all()
