"""What a plan says: costs, lines to paste, words, JSON and cube."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from batchcube.results.cube import read_cube
from batchcube.results.overload import OVERLOADED, STEADY, judge
from batchcube.results.planned import WIDTH, in_words
from batchcube.sweeps.planning.decide import STATES, _on_replicas, decide
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.serving.given import read_options
from batchcube.sweeps.spec.document import Sweep
from helpers.command_line import Answer as Said
from helpers.plans import question
from helpers.specifications import CAPS


def test_cost_and_lines_to_paste(spec: Callable[[int], str]) -> None:
    answer = decide(question(spec(1), gpu_price=3.6))
    assert answer.output_tokens_per_gpu_second is not None
    assert answer.output_tokens_per_gpu_second == pytest.approx(12.0 * 40.0 / 2, rel=0.01)
    # A thousandth of a unit of money for each GPU second.
    assert answer.cost_per_million_output_tokens == pytest.approx(1e3 / answer.output_tokens_per_gpu_second)
    assert answer.cost_per_million_tokens == pytest.approx(answer.cost_per_million_output_tokens * 40 / 140, rel=0.01)
    cap = answer.best.at["largest_batch"]
    assert answer.commands["vllm"] == (
        f"vllm serve MODEL --max-num-seqs {cap} --max-num-batched-tokens 512 --data-parallel-size 2 "
        "--num-gpu-blocks-override 501 --no-async-scheduling"
    )
    assert f"--max-running-requests {cap} --chunked-prefill-size 512 --dp-size 2" in answer.commands["sglang"]
    assert answer.commands["sglang"].endswith("--max-total-tokens 8000 --disable-overlap-schedule")


def test_controllers_are_given_to_the_scheduler_that_follows_them(spec: Callable[[int], str]) -> None:
    file = Path(spec(1))
    text = file.read_text().replace("[policy]\n", '[policy]\nbins = 2\nadmission = "by_bin"\n')
    text += '[axes.sla]\npoints = { none = {}, sla = { "policy.sla" = { target_s = 0.03, tolerance_s = 0.005 } } }\n'
    file.write_text(text)
    room = {"workload.requests": 1000, "policy.memory": {}}
    answer = decide(question(file.name, vary={"policy.largest_batch": [24, 32]}, rate=10.0, settings=room))
    command = answer.commands["vllm"]
    printed = str(answer)
    assert max(map(len, printed.split("\n"))) <= WIDTH
    pasted = "\n".join(line[12:] for line in printed[printed.index("\nserve") + 1 :].split("\n"))
    line, again = shlex.split(command), shlex.split(pasted.replace("\\\n", ""))
    assert line[line.index("--scheduler-cls") + 1] == "batchcube.vllm.Scheduler"
    given = json.loads(line[-1])
    assert json.loads(again[-1]) == given
    assert again[:-1] == line[:-1]
    sweep = Sweep.from_toml(given["batchcube"]["spec"], given["batchcube"]["set"])
    (point,) = sweep.grid.points
    asked = question(file.name, vary={"policy.largest_batch": [24, 32]}, rate=10.0, settings=room)
    number = [asked.at(k) for k in range(4)].index(answer.best.at)
    for name in ("workload", "policy", "report"):
        assert getattr(point, name) == getattr(asked.sweep.grid.points[number], name)
    assert read_options(given["batchcube"], "--additional-config").set == given["batchcube"]["set"]
    assert "sglang" not in answer.commands
    assert answer.unsaid["vllm"] == ["server.routing = round_robin"]


def test_requests_that_are_not_served_bring_no_tokens(spec: Callable[[int], str]) -> None:
    # The longest prompts are turned away.
    settings = {"server.replica.max_model_len": 256, "report.request_sla_s": 100}
    answer = decide(question(spec(1), slo=["request_sla_violation_fraction=0.5"], vary={}, settings=settings))
    assert 0.5 < answer.measures["served_fraction"] < 0.98
    assert answer.output_tokens_per_gpu_second is not None
    output = 12.0 * answer.measures["served_fraction"] * answer.measures["output_tokens"]
    assert answer.output_tokens_per_gpu_second == pytest.approx(output / answer.best.gpus)


def test_where_nobody_is_served_nothing_holds_and_nothing_has_a_cost(spec: Callable[[int], str]) -> None:
    settings = {"server.replica.max_model_len": 90, "workload.requests": 1}  # in some replications
    answer = decide(question(spec(1), vary={}, settings=settings, replicas_max=1, gpu_price=1.0))
    assert not answer.found
    assert answer.measures["output_tokens"] is None
    assert answer.cost_per_million_tokens is None


def test_answers_to_one_token_have_no_time_of_a_token(spec: Callable[[int], str], tmp_path: Path) -> None:
    # NaN, which JSON does not have.
    settings = {"workload.lengths": {"distribution": "empirical", "path": "one.csv", "prompt_column": "prompt_tokens"}}
    (tmp_path / "one.csv").write_text("prompt_tokens,output_tokens\n" + "20,1\n40,1\n" * 20)
    answer = decide(question(spec(1), slo=["ttft_p99_s=2"], vary={}, settings=settings), "one.nc")
    assert answer.measures["tpot_mean_s"] is None
    assert json.loads(Path("one.json").read_text())["measures"]["tpot_mean_s"] is None


def test_costs_with_prompts_are_of_the_prompts_of_the_best(spec: Callable[[int], str]) -> None:
    path, slo = "workload.lengths.prompt.mean", ["tpot_mean_s=0.1"]
    found = [decide(question(spec(1), slo=slo, vary={path: means}, gpu_price=3.6)) for means in ([50, 200], [200, 50])]
    assert found[0].best.at == found[1].best.at
    assert found[0].measures["tokens"] == found[1].measures["tokens"]
    assert found[0].cost_per_million_tokens == found[1].cost_per_million_tokens


def test_words_json_and_cube_say_the_same(spec: Callable[[int], str], tmp_path: Path) -> None:
    answer = decide(question(spec(1)), tmp_path / "out" / "plan.nc")
    table = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert table == json.loads(answer.text())
    words = str(answer)
    assert max(map(len, words.split("\n"))) <= WIDTH
    assert in_words(table) == words
    cube = read_cube(tmp_path / "out" / "plan.nc")
    assert in_words(json.loads(cube.attrs["plan"])) == words
    assert cube.sizes["largest_batch"] == 4
    assert (cube["plan_replicas"].values == answer.best.replicas).all()
    assert json.loads(cube.attrs["specification"])["server"]["servers"] == answer.best.replicas
    # Configurations on as many GPUs may have replicas of their own.
    various = _on_replicas(question(spec(1)).sweep, np.array([2, 4, 4, 0]))
    assert various.document["server"]["servers"] == "plan_replicas"
    states = [STATES[int(state)] for state in cube["plan_state"].values]
    assert states.index("best") == CAPS["policy.largest_batch"].index(answer.best.at["largest_batch"])
    (race,) = [one for one in answer.races if one["gpus"] == answer.best.gpus]
    for one, seen in zip(race["configurations"], cube["plan_replications"].values, strict=True):
        assert one["replications"] == seen
    mean = cube["plan_largest_ratio"].sel(largest_batch=answer.best.at["largest_batch"]).mean()
    assert float(mean) == pytest.approx(answer.best.objective)
    ttft = cube["ttft_quantile_s"].sel(largest_batch=answer.best.at["largest_batch"], quantile=0.99).mean()
    assert float(ttft) == pytest.approx(answer.best.limits[0].mean)


def test_a_cube_of_a_plan_knows_the_queues(
    spec: Callable[[int], str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings = {"workload.requests": 2000}
    answer = decide(question(spec(1), slo=["ttft_p99_s=3"], settings=settings), tmp_path / "plan.nc")
    cube = read_cube(tmp_path / "plan.nc")
    found = dict(zip(CAPS["policy.largest_batch"], judge(cube).values.tolist(), strict=True))
    assert found[answer.best.at["largest_batch"]] == answer.queue == STEADY
    for cap, queue in found.items():
        settings |= {"replications": int(cube["plan_replications"].sel(largest_batch=cap)), "policy.largest_batch": cap}
        run = run_sweep(Sweep.from_toml(spec(1), settings | {"server.servers": answer.best.replicas}))
        assert judge(run).item() == queue
    # A cap of 4 is too little.
    assert found[4] == OVERLOADED
    shown = Said(capsys, "show", tmp_path / "plan.nc", "-v", "ttft_mean_s").out
    rows = [line.split() for line in shown.partition("─\n")[2].partition("\n\n")[0].split("\n")]
    assert {int(row[0]): row[1] for row in rows} == found
    assert [row[-1] == "*" for row in rows] == [queue == OVERLOADED for queue in found.values()]
    assert "4 points, 8 to 32 replications each" in shown
    assert "interval over 8 to 32 replications" in shown
    # Any option asks for the table.
    controls = Said(capsys, "show", tmp_path / "plan.nc", "--controls").out
    assert "controls: the cube has none, intervals are plain" in controls
    assert "4 points, 8 to 32 replications each" in controls


def test_a_cube_of_a_plan_is_not_run(
    spec: Callable[[int], str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "plan.nc"
    decide(question(spec(1)), output)
    said = Said(capsys, "rerun", output, "-o", tmp_path / "again.nc")
    assert said.mistake.endswith("holds the answer of a plan: ask again with batchcube plan")
    said = Said(capsys, "run", spec(1), "-o", output)
    assert "holds the answer of a plan, which nothing can continue" in said.mistake
    shown = Said(capsys, "show", output, "-v", "ttft_mean_s")
    assert shown.status == 0
