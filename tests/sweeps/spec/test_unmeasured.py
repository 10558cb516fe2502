"""A cost that nobody measured is not 0: what rests on it is refused, everything else begins with a warning."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from batchcube.calibration.coefficients import locate
from batchcube.errors import InputError
from batchcube.figures import registry
from batchcube.results import costs
from batchcube.results.cube import read_cube
from batchcube.sweeps import presets
from batchcube.sweeps.run.capacity import find_capacity
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.run.preparing import prepare
from batchcube.sweeps.spec.document import Sweep
from helpers.command_line import Answer

DECODES_ONLY = "ml-energy-qwen3-8b-h100"
STEPS: dict[str, Any] = {
    "replications": 2,
    "workload": {
        "requests": 200,
        "arrivals": {"process": "poisson", "rate_per_s": 5.0},
        "lengths": {"distribution": "exponential", "mean": 50, "prompt": {"distribution": "constant", "value": 1200}},
    },
    "policy": {"mode": "continuous", "largest_batch": 32},
    "server": {"replica": {"kv_capacity_tokens": 200_000}, "service": {"coefficients": DECODES_ONLY}},
}
BATCHES: dict[str, Any] = {
    "replications": 2,
    "workload": {
        "requests": 200,
        "arrivals": {"process": "poisson", "rate_per_s": 5.0},
        "lengths": {"distribution": "exponential", "mean": 50},
    },
    "policy": {"mode": "fifo_greedy", "batch_size": 8},
    "server": {"service": {"coefficients": DECODES_ONLY}},
}
ALL_STEPS = {
    "law": "steps",
    "c0_s": 0.01,
    "c1_s_per_request": 1e-4,
    "c2_s_per_kv_token": 0.0,
    "c3_s_per_prefill_token": 0.0,
    "c4_s_per_prefill_attention": 0.0,
}

RATES = "{path='workload.arrivals.rate_per_s',values=[2.0,5.0]}"
TOML = f"""
replications = 2
[workload]
requests = 200
arrivals = {{ process = "poisson" }}
lengths = {{ distribution = "exponential", mean = 50, prompt = {{ distribution = "constant", value = 1200 }} }}
[policy]
mode = "continuous"
largest_batch = 32
[server]
replica = {{ kv_capacity_tokens = 200000 }}
service = {{ coefficients = "{DECODES_ONLY}" }}
"""


def sweep(tables: dict[str, Any], service: dict[str, Any] | None = None, **more: Any) -> Sweep:
    changed = deepcopy(tables) | more
    if service is not None:
        changed["server"]["service"] = service
    return Sweep.model_validate(changed)


@pytest.mark.parametrize(
    ("tables", "service", "names"),
    [
        (STEPS, None, ["c2_s_per_kv_token", "c3_s_per_prefill_token", "c4_s_per_prefill_attention"]),
        (STEPS, {"coefficients": "qwen3-0.6b-cpu-vllm"}, []),
        (STEPS, ALL_STEPS, []),
        (STEPS, {k: v for k, v in ALL_STEPS.items() if k[:2] != "c3"}, ["c3_s_per_prefill_token"]),
        (STEPS, {k: v for k, v in ALL_STEPS.items() if k[:2] != "c1"}, ["c1_s_per_request"]),
        (BATCHES, None, ["a0_s"]),
        (BATCHES, {"coefficients": "qwen3-0.6b-cpu-vllm"}, []),
        (BATCHES, {"law": "constant", "a1_s_per_token": 0.01}, ["a0_s"]),
        (BATCHES, {"law": "linear", "a1_s_per_token": 0.01, "gamma": 0.1}, ["a0_s"]),
        (BATCHES, {"law": "constant", "a0_s": 0.0, "a1_s_per_token": 0.01}, []),
    ],
)
def test_a_cube_says_first_what_nobody_measured(
    tables: dict[str, Any], service: dict[str, Any] | None, names: list[str]
) -> None:
    prepared = prepare(sweep(tables, service))
    assert costs.names_of(prepared.unmeasured_costs) == names
    warned = [note for note in prepared.notes if costs.NOT_MEASURED in note]
    assert warned == ([prepared.notes[0]] if names else [])


@pytest.mark.parametrize(
    ("tables", "service", "line"),
    [
        (
            STEPS,
            None,
            "ttft_quantile_s: rests on c3_s_per_prefill_token, neither measured nor given by coefficients "
            f"{DECODES_ONLY}; take other coefficients, or choose another criterion",
        ),
        (
            STEPS,
            {"law": "steps", "c0_s": 0.01, "c1_s_per_request": 1e-4},
            "ttft_quantile_s: rests on c3_s_per_prefill_token, neither measured nor given in server.service; give it "
            "(0: it costs nothing), or choose another criterion",
        ),
        (BATCHES, None, "ttft_quantile_s: rests on a0_s, neither measured nor given by coefficients"),
        (BATCHES, {"law": "constant", "a1_s_per_token": 0.01}, "ttft_quantile_s: rests on a0_s, neither measured nor"),
    ],
)
def test_no_capacity_is_searched_by_what_nobody_measured(
    tables: dict[str, Any], service: dict[str, Any] | None, line: str
) -> None:
    with pytest.raises(InputError) as caught:
        find_capacity(sweep(tables, service), ["latency_mean_s=5", "ttft_p99_ms=800"])
    assert str(caught.value).startswith(f"specification: {line}")


def test_the_point_that_is_to_blame_is_named() -> None:
    both = {"system": {"path": "server.service.coefficients", "values": ["qwen3-0.6b-cpu-vllm", DECODES_ONLY]}}
    tables = deepcopy(STEPS)
    tables["server"]["service"] = {}
    with pytest.raises(InputError, match=rf'\(at system = "{DECODES_ONLY}"\)'):
        find_capacity(sweep(tables, axes=both), ["ttft_p99_ms=800"])
    prepared = prepare(sweep(tables, axes=both))
    assert (prepared.unmeasured_costs > 0).tolist() == [False, True]
    assert "counted as 0 at 1 of 2 points" in prepared.notes[0]


def test_a_stated_0_is_a_number_to_search_with() -> None:
    cube = find_capacity(sweep(STEPS, ALL_STEPS), ["ttft_p99_ms=800"], tolerance=0.2)
    assert costs.warning(cube) == ""


def test_every_command_begins_with_the_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweep.toml").write_text(TOML)
    ran = Answer(capsys, "run", "sweep.toml", "-o", "cube.nc", "--set", f"axes.rate={RATES}")
    cube = read_cube("cube.nc")
    warned = costs.warning(cube)
    assert next(line for line in ran.err.splitlines() if line.startswith("note: ")) == f"note: {warned}"
    assert cube.attrs["notes"].splitlines()[0] == warned
    shown = Answer(capsys, "show", "cube.nc")
    assert shown.out.startswith(f"warning: {costs.NOT_MEASURED}")
    subtitle = registry.draw("tbt-vs-rate", cube).texts[1].get_text()
    assert subtitle.startswith("Not measured, counted as 0: c2_s_per_kv_token")
    searched = Answer(
        capsys, "capacity", "sweep.toml", "--slo", "latency_p95_s=5", "--tolerance", "0.2", "-o", "found.nc",
        "--set", "workload.arrivals.rate_per_s=5.0",
    )  # fmt: skip
    assert searched.out.startswith(f"warning: {costs.NOT_MEASURED}")
    refused = Answer(capsys, "capacity", "sweep.toml", "--slo", "ttft_p99_ms=800", "-o", "not.nc",
        "--set", "workload.arrivals.rate_per_s=5.0",
    )  # fmt: skip
    assert refused.mistake.startswith("sweep.toml: ttft_quantile_s: rests on c3_s_per_prefill_token, neither measured")
    assert not Path("not.nc").exists()


def test_no_figure_is_drawn_of_what_nobody_measured() -> None:
    tables = deepcopy(STEPS)
    del tables["workload"]["arrivals"]["rate_per_s"]
    rates = {"rate": {"path": "workload.arrivals.rate_per_s", "values": [2.0, 5.0]}}
    made = run_sweep(sweep(tables, {k: v for k, v in ALL_STEPS.items() if k[:2] != "c1"}, axes=rates))
    with pytest.raises(ValueError, match=r"figure tbt-vs-rate: tbt_mean_s rests on c1_s_per_request, neither measured"):
        registry.draw("tbt-vs-rate", made)
    assert registry.draw("throughput-vs-rate", made).texts[1].get_text().startswith("Not measured, counted as 0: c1")


@pytest.mark.parametrize(
    "name", [name for name in presets.names() if name not in ("modes-trace", "azure-conversation")]
)
def test_presets_state_what_they_assume(name: str) -> None:
    points = Sweep.from_toml(name).grid.points
    left_out = {
        field
        for point in points
        for field, value in point.server.service
        if value is None and (field.startswith("c") or field == "a0_s")
    }
    assert left_out == set()


def test_what_a_fit_found_to_be_0_is_measured(tmp_path: Path) -> None:
    content = json.loads(locate("qwen3-0.6b-cpu-vllm").read_bytes())
    content["step_law"]["c3_s_per_prefill_token"] = 0.0
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(content))
    assert costs.names_of(prepare(sweep(STEPS, {"coefficients": str(file)})).unmeasured_costs) == []
