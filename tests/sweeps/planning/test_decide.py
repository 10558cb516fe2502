"""Plans end to end: decided as an exhaustive run decides, stopped and gone on with, said in words, JSON and cube."""

import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import batchcube as bc
from batchcube.errors import InputError
from batchcube.results.cube import read_cube
from batchcube.results.overload import OVERLOADED, STEADY, judge
from batchcube.results.planned import WIDTH, in_words
from batchcube.results.selection import select
from batchcube.sweeps.planning import simulating, unspecified
from batchcube.sweeps.planning.decide import STATES, _on_replicas, decide
from batchcube.sweeps.planning.question import Question, ask
from batchcube.sweeps.planning.race import Decision, Race
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.run.store import Store
from batchcube.sweeps.serving.given import read_options
from batchcube.sweeps.spec.document import Sweep, overriding
from batchcube.sweeps.spec.service import load
from helpers.command_line import Answer as Said
from helpers.specifications import CAPS, SLO, TO_PLAN

MOST = 3


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], str]:
    monkeypatch.chdir(tmp_path)

    def write(seed: int) -> str:
        file = tmp_path / f"small-{seed}.toml"
        file.write_text(TO_PLAN.format(seed=seed))
        return str(file)

    return write


def question(spec: str, **asked: Any) -> Question:
    return ask(spec, **({"slo": SLO, "vary": CAPS} | asked))


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The largest ratio (replicas, cap, replication) of all settings, many replications each."""
    file = tmp_path_factory.mktemp("truth") / "all.toml"
    file.write_text(TO_PLAN.format(seed=1000))
    found = []
    for replicas in range(1, MOST + 1):
        # One replica of two would be a mistake, as nothing is routed.
        settings = {"server.servers": replicas, "replications": 150, "report.windows": 1, "report.histograms": False}
        settings |= {"axes.cap": {"path": "policy.largest_batch", "values": CAPS["policy.largest_batch"]}}
        text = file.read_text().replace("largest_batch = 16\n", "")
        file.with_name("varied.toml").write_text(text)
        cube = run_sweep(Sweep.from_toml(file.with_name("varied.toml"), settings))
        ttft = cube["ttft_quantile_s"].sel(quantile=0.99).transpose("cap", "replication").values / 1.0
        found.append(np.maximum(ttft, cube["tpot_mean_s"].transpose("cap", "replication").values / 0.04))
    return np.array(found)


def test_the_answer_is_that_of_an_exhaustive_run(spec: Callable[[int], str], truth: np.ndarray) -> None:
    mean = truth.mean(axis=-1)
    error = truth.std(axis=-1) / np.sqrt(truth.shape[-1])
    # The case is clear: no setting is within five standard errors of its limit.
    assert (np.abs(mean - 1.0) > 5 * error).all()
    needed = int(np.flatnonzero((mean <= 1.0).any(axis=1))[0])
    least = mean[needed][mean[needed] <= 1.0].min()
    good = [cap for cap, ratio in zip(CAPS["policy.largest_batch"], mean[needed], strict=True) if ratio <= 1.02 * least]
    wrong = 0
    for seed in range(12):
        answer = decide(question(spec(seed)))
        assert answer.is_decided
        assert answer.fewer is None or answer.fewer.verdict == "fails"
        wrong += answer.best.replicas != needed + 1 or answer.best.at["largest_batch"] not in good
    assert wrong == 0


@pytest.mark.parametrize("rate", [5.0, 31.0])
def test_replicas_are_the_least_that_a_search_one_by_one_finds(spec: Callable[[int], str], rate: float) -> None:
    asked = question(spec(1), vary={}, rate=rate, settings={"workload.requests": 1000})
    answer = decide(asked)
    assert answer.found
    for replicas in range(1, answer.best.replicas + 1):
        settings: dict[str, Any] = {"server.servers": replicas, "workload.arrivals.rate_per_s": rate}
        cube = run_sweep(Sweep.from_toml(spec(2), settings | {"replications": 40, "workload.requests": 1000}))
        ratios = [float(cube["ttft_quantile_s"].sel(quantile=0.99).mean()), float(cube["tpot_mean_s"].mean()) / 0.04]
        assert (max(ratios) <= 1.0) == (replicas == answer.best.replicas)


def test_replicas_that_are_stated_are_where_the_search_begins(spec: Callable[[int], str]) -> None:
    from_above = decide(question(spec(1), settings={"server.servers": 6, "server.routing": "least_loaded"}))
    from_below = decide(question(spec(1), settings={"server.routing": "least_loaded"}))
    assert from_above.best == from_below.best
    assert from_above.best.replicas == 2


def test_how_sure_one_is_counts_every_race_that_had_a_say(spec: Callable[[int], str]) -> None:
    def race(gpus: int, alpha: float, states: dict[int, str]) -> Race:
        every = np.array(list(states))
        looked = np.full(len(every), 8)
        found = select(np.ones((1, 3)), np.ones((0, 1, 3)), (3,), indifference=0.02)
        found = found._replace(states=np.array(list(states.values())))
        return Race(gpus, every, looked, found, every, alpha, "", np.zeros(len(every), np.bool_))

    above = race(3, 0.025, {0: "in the race", 1: "fails", 2: "fails"})
    below = race(2, 0.0125, {0: "fails"})
    decision = Decision(3, {3: above, 2: below}, 3, ended_early=False, is_hopeless=False)
    assert decision.alpha(3) == 0.025
    # What failed on three was not looked at on two.
    assert decision.alpha(2) == pytest.approx(0.0375)
    all_of_two = race(2, 0.0125, dict.fromkeys(range(3), "fails"))
    assert Decision(3, {3: above, 2: all_of_two}, 3, ended_early=False, is_hopeless=False).alpha(2) == 0.0125
    answer = decide(question(spec(1)))
    assert answer.is_decided
    errors = {one["gpus"]: one["alpha"] for one in answer.races}
    assert sum(errors.values()) < 0.05
    assert answer.assurance == pytest.approx(1.0 - errors[2])
    assert answer.fewer is not None
    left_out = {one["gpus"]: len(one["settings"]) for one in answer.races}[1] < 4
    assert answer.fewer.assurance == pytest.approx(1.0 - errors[1] - (errors[2] if left_out else 0.0))


def test_no_setting_holds(spec: Callable[[int], str]) -> None:
    answer = decide(question(spec(1), replicas_max=1))
    assert not answer.found
    assert answer.is_decided
    assert answer.assurance == 0.95
    assert (answer.commands, answer.fewer, answer.runner_up) == ({}, None, None)
    assert any(limit.verdict == "fails" for limit in answer.best.limits)
    hopeless = decide(question(spec(1), slo=["tpot_mean_s=0.005"]))
    assert hopeless.is_hopeless
    assert not hopeless.found
    assert hopeless.best.replicas < 20


def test_more_replicas_are_tried_where_all_requests_are_late_until_there_are_enough(
    spec: Callable[[int], str],
) -> None:
    # Steps of 20 ms and 1 ms for each that runs: nearly all requests are late until fewer than three run on a replica.
    settings = {"report.tpot_sla_s": 0.024, "server.routing": "least_loaded"}
    answer = decide(question(spec(1), slo=[], goodput=0.9, vary={}, rate=60.0, settings=settings))
    assert answer.found
    assert not answer.is_hopeless
    goodput = answer.best.limits[0].mean
    assert goodput is not None
    assert 0.9 <= goodput < 0.99
    assert answer.fewer is not None


def test_the_load_is_the_rate_over_what_servers_do_that_always_have_work(spec: Callable[[int], str]) -> None:
    settings = {"workload.requests": 2000, "server.routing": "least_loaded"}
    answer = decide(question(spec(1), vary={}, settings=settings))
    # Ten times the rate, so long that the beginning and the end weigh little.
    many = {"workload.requests": 100_000, "workload.arrivals.rate_per_s": 120.0, "replications": 4}
    replicas = {"server.servers": answer.best.replicas}
    served = run_sweep(Sweep.from_toml(spec(2), settings | many | replicas))["throughput_requests_per_s"].mean()
    assert answer.measures["load_fraction"] == pytest.approx(12.0 / float(served), rel=0.03)


def test_who_runs_longer_than_a_run_lasts_is_not_overload(spec: Callable[[int], str]) -> None:
    room = {"server.replica.kv_capacity_tokens": 1_000_000, "policy.largest_batch": 256, "workload.lengths.mean": 4000}
    asked = {"slo": ["ttft_p99_s=2"], "vary": {}, "rate": 0.25}
    short = decide(question(spec(1), **asked, settings=room | {"workload.requests": 40}))
    assert short.found
    assert short.queue == "cannot tell"
    assert any("how it begins and ends weighs in" in note for note in short.notes)


@pytest.mark.parametrize(("requests", "queue", "replicas"), [(4000, "cannot tell", 1), (12_000, "steady", 2)])
def test_where_batches_may_grow_for_long_a_short_run_is_said_to_be_short(
    spec: Callable[[int], str], requests: int, queue: str, replicas: int
) -> None:
    # Steps of 10 ms and 1 ms for each that runs, 100 of them: no batch serves 10 requests a second, and 10.2 come.
    step = {"c0_s": 0.01, "c1_s_per_request": 0.001, "c3_s_per_prefill_token": 0.0}
    lengths = {"distribution": "exponential", "mean": 100, "prompt": {"distribution": "constant", "value": 50}}
    settings = {f"server.service.{name}": value for name, value in step.items()} | {
        "workload.lengths": lengths,
        "workload.requests": requests,
        "policy.largest_batch": 1000,
        "server.replica": {"kv_capacity_tokens": 10_000_000, "token_budget": 16_384},
    }
    answer = decide(question(spec(1), slo=["ttft_p99_s=2"], vary={}, rate=10.2, settings=settings, replicas_max=3))
    assert (answer.queue, answer.best.replicas) == (queue, replicas)
    said = " ".join(str(answer).split())
    is_short = queue == "cannot tell"
    assert ("whether its queue grows one cannot tell in runs so long" in said) == is_short
    assert ("take workload.requests = " in said) == is_short


def test_overload_does_not_hold_however_loose_the_limits(spec: Callable[[int], str]) -> None:
    answer = decide(question(spec(1), slo=["ttft_p99_s=1000"], vary={}, settings={"workload.requests": 2000}))
    assert answer.found
    assert answer.queue == "steady"
    assert answer.best.replicas == 2
    assert answer.fewer is not None
    assert answer.fewer.nearest.grows
    assert "fails, its queue grows" in " ".join(str(answer).split())
    assert "never served" not in str(answer)


def test_queues_of_recorded_arrivals_are_judged_as_a_run_is(spec: Callable[[int], str], tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    # Bursts of 20 requests, 10 s apart.
    rows = "".join(f"{10 * (i // 20) + 0.01 * (i % 20)},100,40\n" for i in range(400))
    trace.write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}")
    file = Path(spec(1))
    text = file.read_text()
    workload = text[text.index("[workload]") : text.index("[policy]")]
    recorded = f'[workload]\nrequests = 400\n[workload.trace]\npath = "{trace}"\nresample = "blocks"\n'
    file.write_text(text.replace(workload, recorded))
    answer = decide(ask(file, slo=["ttft_p99_s=1000"], rate=12.0))
    # As a run's windows show how they scatter, so do a plan's.
    settings = {"workload.trace.rate_scale": 6.0, "replications": 32}
    queues = []
    for servers in range(1, answer.best.replicas + 1):
        queues.append(judge(run_sweep(Sweep.from_toml(file, settings | {"server.servers": servers}))).item())
    assert queues == [OVERLOADED] * (answer.best.replicas - 1) + [answer.queue]
    assert answer.best.replicas > 1


def recorded(tmp_path: Path, requests: int) -> Path:
    """Write a trace with Poisson arrivals at 6/s and geometric outputs."""
    rng = np.random.default_rng(1)
    came = np.cumsum(rng.exponential(1 / 6, requests))
    rows = zip(came, rng.integers(50, 150, requests), rng.geometric(1 / 40, requests), strict=True)
    file = tmp_path / "recorded.csv"
    lines = [f"{at:.6f},{prompt},{output}" for at, prompt, output in rows]
    file.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *lines, ""]))
    return file


@pytest.mark.parametrize(("parts", "looks"), [(8, [8, 8]), (20, [8, 20]), (70, [8, 32])])
def test_parts_of_a_trace_are_replications_as_many_as_there_are(
    spec: Callable[[int], str], tmp_path: Path, parts: int, looks: list[int]
) -> None:
    trace = {"path": str(recorded(tmp_path, 100 * parts + 99)), "resample": "parts"}
    settings = {"workload": {"requests": 100, "trace": trace}}
    asked = question(spec(1), settings=settings, rate=12.0)
    assert (asked.parts, asked.overlaps) == (parts, False)
    answer = decide(asked, tmp_path / "plan.nc")
    assert [one["replications"] for one in answer.rounds][: len(looks)] == looks
    assert max(one["replications"] for one in answer.rounds) <= parts
    assert f"there are {parts} of 100 requests" in answer.assumed[0]
    assert "less than" not in str(answer)
    # As a run of the same parts finds it.
    cube = read_cube(tmp_path / "plan.nc")
    best = answer.best.at["largest_batch"]
    found = cube["ttft_mean_s"].sel(largest_batch=best).dropna("replication")
    scaled = asked.sweep.grid.points[0].workload.trace
    assert scaled is not None
    of_run = {"replications": found.size, "policy.largest_batch": best, "server.servers": answer.best.replicas}
    sweep = Sweep.from_toml(spec(1), settings | of_run | {"workload.trace.rate_scale": scaled.rate_scale})
    np.testing.assert_array_equal(run_sweep(sweep)["ttft_mean_s"].values, found.values)


def test_a_trace_with_too_few_parts_is_refused_and_its_windows_are_told(
    spec: Callable[[int], str], tmp_path: Path
) -> None:
    trace = {"path": str(recorded(tmp_path, 799)), "resample": "parts"}
    with pytest.raises(InputError, match=r"resample = parts: a plan takes 8 replications or more, .* has 7 parts of"):
        question(spec(1), settings={"workload": {"requests": 100, "trace": trace}})
    trace["resample"] = "circular"
    asked = question(spec(1), settings={"workload": {"requests": 100, "trace": trace}}, vary={})
    assert (asked.parts, asked.overlaps) == (None, True)
    answer = decide(asked)
    assert answer.overlaps
    said = " ".join(str(answer).split())
    assert re.search(r"how sure less than [0-9.]+ % ", said)
    assert " less, as replications are windows of one trace: see the notes limits " in said
    assert "notes all replications come from one recorded trace, in windows that overlap" in said
    assert " or more that it holds" not in str(answer)
    assert said.count(" overlap") == 1
    assert answer.cube is not None
    assert "in windows that overlap" in answer.cube.attrs["notes"]


def test_a_trace_without_a_specification_is_cut_into_parts_where_it_is_long_enough(tmp_path: Path) -> None:
    asked = {"slo": SLO, "coefficients": "qwen3-8b-h100-vllm-tables", "rate": 6.0, "trace": recorded(tmp_path, 1600)}
    for requests, stated, parts in ((200, {}, 8), (201, {}, None), (200, {"workload.trace.resample": "blocks"}, None)):
        made = ask(**asked, settings={"workload.requests": requests, **stated})
        assert made.parts == parts
        assert made.overlaps == (parts is None)


def test_goodput_counts_the_limits_of_single_requests(spec: Callable[[int], str]) -> None:
    answer = decide(question(spec(1), goodput=0.9))
    assert [limit.name for limit in answer.best.limits] == ["ttft_p99_s", "tpot_mean_s", "goodput"]
    goodput = answer.best.limits[-1]
    assert goodput.mean is not None
    assert goodput.low is not None
    assert 0.9 <= goodput.low <= goodput.mean <= 1.0
    assert goodput.verdict == "holds"
    taken = "goodput counts requests that keep report.ttft_sla_s = 1 and report.tpot_sla_s = 0.04, the limits asked for"
    assert answer.assumed[0] == taken
    twice = [*SLO, "ttft_mean_s=0.5"]
    with pytest.raises(
        InputError, match=r"`slo` ttft_mean_s: is the second limit of one time: say which .* `settings` rep"
    ):
        question(spec(1), slo=twice, goodput=0.9)
    for asked in (
        question(spec(1), slo=twice),
        question(spec(1), slo=twice, goodput=0.9, settings={"report.ttft_sla_s": 2.0}),
    ):
        assert not [line for line in asked.assumed if line.startswith("goodput")]


def test_limits_of_classes_are_what_goodput_counts(spec: Callable[[int], str]) -> None:
    file = Path(spec(1))
    text = file.read_text()
    lengths = text[text.index("[workload.lengths]") : text.index("[policy]")]
    constant = 'lengths = { distribution = "constant", value = 40, prompt = { distribution = "constant", value = 90 } }'

    def one_class(name: str, limit: str) -> str:
        return f'[[workload.classes]]\nname = "{name}"\nshare = 0.5\n{limit}\n{constant}\n'

    for limit, assumed in (("ttft_sla_s = 3.0", 0), ("", 1)):
        file.write_text(text.replace(lengths, "".join(map(one_class, ("a", "b"), (limit, "")))))
        asked = question(str(file), goodput=0.9)
        assert sum(line.startswith("goodput") for line in asked.assumed) == assumed
        assert (asked.sweep.grid.points[0].report.ttft_sla_s is None) == (not assumed)


def test_another_objective(spec: Callable[[int], str]) -> None:
    asked: dict[str, Any] = {"vary": {"policy.largest_batch": [3, 4, 32]}, "slo": ["ttft_p99_s=10"], "rate": 3.0}
    found = {}
    for name in ("batch_size_mean", "throughput_requests_per_s"):
        found[name] = answer = decide(question(spec(1), **asked, objective=name))
        assert answer.is_decided
        assert answer.best.objective == pytest.approx(answer.measures.get(name, answer.best.objective))
        (race,) = answer.races
        assert [one["state"] for one in race["settings"]].count("fails") == 0
        every = [one["objective"] for one in race["settings"]]
        # Of batches the fewest requests are best, of throughput the most.
        best, worst = (min(every), max(every)) if name == "batch_size_mean" else (max(every), min(every))
        assert answer.best.objective == best
        assert abs(best - worst) > 0.015 * best
    assert found["batch_size_mean"].best.at == {"largest_batch": 3}
    assert found["throughput_requests_per_s"].best.at != {"largest_batch": 3}


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


def test_gpus_are_those_of_the_coefficients(spec: Callable[[int], str]) -> None:
    names = ["llama-3.1-70b-4xh100-vllm-tables", "llama-3.1-70b-2xh200-vllm-tables"]
    answer = decide(
        question(
            spec(1),
            slo=["tpot_mean_s=0.05"],
            settings={
                "workload.requests": 200,
                "server.replica.token_budget": 2048,
                "server.service": {"coefficients": names[0]},
            },
            vary={"server.service.coefficients": names},
        )
    )
    assert answer.best.at == {"coefficients": names[1]}
    assert (answer.best.replicas, answer.best.gpus) == (1, 2)
    # Nothing of four GPUs is there.
    (race,) = answer.races
    assert (race["gpus"], len(race["settings"])) == (2, 1)
    assert answer.cube is not None
    assert answer.cube["plan_replicas"].values.tolist() == [0, 1]
    assert json.loads(answer.cube.attrs["specification"])["server"]["servers"] == 1
    assert "--tensor-parallel-size 2" in answer.commands["vllm"]


def test_replicas_that_step_together_are_a_server_and_all_its_gpus_are_counted(
    spec: Callable[[int], str], tmp_path: Path
) -> None:
    # The law of such coefficients is that of one of four, whose experts are spread over all.
    known = load("qwen3-0.6b-h100-vllm-tables")
    assert known.replica is not None
    together = {"replica": known.replica.model_copy(update={"replicas": 4, "lockstep": True})}
    (tmp_path / "four.json").write_text(known.model_copy(update=together).text())
    asked: dict[str, Any] = {"coefficients": "four.json", "slo": ["ttft_p99_s=2"], "gpu_price": 3.6}
    few: dict[str, Any] = {"workload.requests": 200}
    answer = decide(ask(**asked, rate=8.0, settings=few))
    assert (answer.best.replicas, answer.best.gpus, answer.least_gpus) == (4, 4, 4)
    assert "4 replicas on 4 GPUs" in str(answer)
    output = 8.0 * answer.measures["output_tokens"] / 4
    assert answer.output_tokens_per_gpu_second == pytest.approx(output)
    assert answer.cost_per_million_output_tokens == pytest.approx(1e3 / output)
    assert answer.cube is not None
    assert json.loads(answer.cube.attrs["specification"])["server"]["servers"] == 4
    assert "--data-parallel-size 4" in answer.commands["vllm"]
    assert "--tp-size 4 --dp-size 4 --enable-dp-attention" in answer.commands["sglang"]
    # Another four would be a server of their own.
    hopeless = decide(ask(**asked, rate=8000.0, settings=few))
    assert (hopeless.found, hopeless.best.replicas, hopeless.best.gpus) == (False, 4, 4)
    assert any("coefficients are of 4 replicas that step together" in note for note in hopeless.notes)
    with pytest.raises(InputError, match=r"^`replicas_max` 3: must be >= 4, as coefficients are of so many"):
        ask(**asked, rate=8.0, replicas_max=3)


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


def test_what_is_assumed_is_what_nobody_said(spec: Callable[[int], str]) -> None:
    spec(1)
    name = "llama-3.1-8b-h100-vllm-tables"

    def assumed(**asked: Any) -> str:
        return " | ".join(ask(coefficients=name, rate=4.0, slo=["ttft_p99_s=2"], **asked).assumed)

    assert "Poisson arrivals | lengths: lognormal, prompts of 1155 tokens on average, outputs of 211, as" in assumed()
    for said in ({"settings": {"workload.lengths.mean": 500}}, {"vary": {"workload.lengths.mean": [100, 200]}}):
        assert "lengths: lognormal, prompts of 1155 tokens on average, as in" in assumed(**said)
    prompts = assumed(settings={"workload.lengths.prompt.mean": 20})
    assert "lengths: lognormal, outputs of 211 tokens on average, as in" in prompts
    assert "Poisson" not in assumed(settings={"workload.arrivals": {"process": "gamma", "cv": 2.0, "rate_per_s": 1.0}})
    assert "has one GPU" not in assumed()
    literature = {"coefficients": "dynamic-batching-fig3", "rate": 4.0, "slo": ["tpot_mean_s=2"]}
    limits = {"policy.largest_batch": 4, "server.replica.kv_capacity_tokens": 100_000}
    said = ask(**literature, settings=limits).assumed
    assert "a replica has one GPU: coefficients dynamic-batching-fig3 do not say how many" in said


def test_an_answer_is_kept_for_its_model_and_written_over_no_input(spec: Callable[[int], str], tmp_path: Path) -> None:
    spec(1)
    (tmp_path / "srv.json").write_text(load("qwen3-0.6b-h100-vllm-tables").text())
    few: dict[str, Any] = {"rate": 4.0, "slo": ["ttft_p99_s=2"], "settings": {"workload.requests": 100}}
    one = {"model": "somebody/Qwen3-0.6B", "gpu": "h100", **few}
    assert "vllm serve somebody/Qwen3-0.6B" in decide(ask(**one), "plan.nc").commands["vllm"]
    assert "vllm serve somebody/Qwen3-0.6B" in decide(ask(**one), "plan.nc").commands["vllm"]
    with pytest.raises(InputError, match=r"^plan\.nc: holds no answer to this question"):
        decide(ask(**one | {"model": "else/Qwen3-0.6B"}), "plan.nc")
    Path("plan.json").write_text("{}")
    with pytest.raises(InputError, match=r"^plan\.json: is not the answer that was written beside plan\.nc; choose"):
        decide(ask(**one), "plan.nc")
    with pytest.raises(InputError, match=r"^srv\.json: is what the plan reads"):
        decide(ask(coefficients="srv.json", **few), "srv.nc", overwrite=True)


def test_more_time_than_can_be_simulated_is_told_by_what_was_asked(spec: Callable[[int], str]) -> None:
    with pytest.raises(InputError, match=r"workload\.requests = 300: take .* s to come, and 1\.15e\+06 s can be"):
        decide(question(spec(1), rate=2e-4))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"replicas_max": 2.5}, r"^`replicas_max` 2\.5: must be a whole number >= 1$"),
        ({"lengths": 5}, r"^`lengths` 5: must be a text$"),
        ({"model": 5}, r"^`model` 5: must be a text$"),
        ({"vary": {5: [1]}}, r"^`vary` 5: must be the path of a setting$"),
    ],
)
def test_arguments_of_another_type_are_one_line(given: dict[str, Any], says: str) -> None:
    asked = {"slo": ["ttft_p99_s=2"], "rate": 1.0, "model": "llama-3.1-8b", "gpu": "h100"}
    with pytest.raises(InputError, match=says):
        ask(**asked | given)


def test_where_those_that_fit_on_fewer_gpus_fail_on_more_none_of_them_is_raced(spec: Callable[[int], str]) -> None:
    names = ["qwen3-32b-2xh100-vllm-tables", "qwen3-32b-h200-vllm-tables"]
    few = {"workload.requests": 100}
    vary = {"server.service.coefficients": names}
    answer = decide(ask(coefficients=names[0], rate=0.5, slo=["tpot_mean_s=0.018"], vary=vary, settings=few))
    assert (answer.best.at, answer.best.gpus, answer.least_gpus) == ({"coefficients": names[0]}, 2, 1)
    assert answer.fewer is None
    assert "1 replica; no setting that fits on fewer GPUs holds on these" in re.sub(r"\s+", " ", str(answer))


def test_settings_that_are_the_same_are_simulated_once(spec: Callable[[int], str]) -> None:
    caps = [12, 13, *range(60, 80)]
    answer = decide(question(spec(1), vary={"policy.largest_batch": caps}, indifference=1e-4))
    assert answer.found
    (race,) = [one for one in answer.races if one["gpus"] == answer.best.gpus]
    looked = [setting["replications"] for setting in race["settings"] if setting["at"]["largest_batch"] >= 60]
    assert len(set(looked)) == 1
    assert looked[0] >= 32
    # 20 caps that nobody reaches: eight replications of each, then of one.
    assert answer.simulations < len(caps) * looked[0] / 2


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
    # Settings on as many GPUs may have replicas of their own.
    various = _on_replicas(question(spec(1)).sweep, np.array([2, 4, 4, 0]))
    assert various.document["server"]["servers"] == "plan_replicas"
    states = [STATES[int(state)] for state in cube["plan_state"].values]
    assert states.index("best") == CAPS["policy.largest_batch"].index(answer.best.at["largest_batch"])
    (race,) = [one for one in answer.races if one["gpus"] == answer.best.gpus]
    for setting, seen in zip(race["settings"], cube["plan_replications"].values, strict=True):
        assert setting["replications"] == seen
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


def test_a_plan_that_is_there_is_not_made_again(
    spec: Callable[[int], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "plan.nc"
    first = decide(question(spec(1)), output)
    with monkeypatch.context() as nothing:
        nothing.setattr(simulating, "simulate_settings", None)
        assert decide(question(spec(1)), output) == first
    with pytest.raises(InputError, match="holds no answer to this question; choose another output, or remove it"):
        decide(question(spec(2)), output)
    assert decide(question(spec(2)), output, overwrite=True).found


def test_a_plan_that_was_stopped_goes_on(
    spec: Callable[[int], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = decide(question(spec(1)))
    done: list[int] = []

    def until_stopped(together: simulating.Together, settings: Sequence[int], replication: int) -> Any:
        if len(done) == 10:
            raise KeyboardInterrupt
        done.append(len(settings))
        return simulate(together, settings, replication)

    simulate = simulating.simulate_settings
    output = tmp_path / "plan.nc"
    with monkeypatch.context() as stopped:
        stopped.setattr(simulating, "simulate_settings", until_stopped)
        with pytest.raises(KeyboardInterrupt):
            decide(question(spec(1)), output, workers=1)
    assert list((tmp_path / "plan.nc.partial").glob("*.parts"))
    assert not output.exists()
    again: list[int] = []

    def counted(together: simulating.Together, settings: Sequence[int], replication: int) -> Any:
        again.append(len(settings))
        return simulate(together, settings, replication)

    monkeypatch.setattr(simulating, "simulate_settings", counted)
    assert decide(question(spec(1)), output) == whole
    assert sum(again) == whole.simulations - sum(done)
    assert not (tmp_path / "plan.nc.partial").exists()


def test_a_plan_that_was_killed_at_its_end_leaves_nothing_when_it_is_given_again(
    spec: Callable[[int], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Store, held: object) -> None:
        if held:
            raise KeyboardInterrupt

    output = tmp_path / "plan.nc"
    with monkeypatch.context() as patch:
        patch.setattr(Store, "forget", killed)
        with pytest.raises(KeyboardInterrupt):
            decide(question(spec(1)), output)
    assert output.exists()
    assert list((tmp_path / "plan.nc.partial").glob("*.parts"))
    assert decide(question(spec(1)), output).found
    assert not (tmp_path / "plan.nc.partial").exists()


def test_the_budget_ends_a_plan_at_a_look(spec: Callable[[int], str]) -> None:
    short = decide(question(spec(1), vary={"policy.largest_batch": [14, 15, 16]}, slo=["ttft_p99_s=0.105"], budget=2e4))
    assert short.ended_early
    assert not short.is_decided
    # Where to begin is looked for, and a first look taken, whatever they cost; the next one would have been too much.
    assert {one["replications"] for one in short.rounds} == {8}
    assert short.requests <= 2e4
    assert "the budget ended it" in str(short)


def test_the_least_that_an_answer_takes_is_simulated_on_any_budget(spec: Callable[[int], str]) -> None:
    whole = decide(question(spec(1)))
    looks = [(one["gpus"], one["replications"]) for one in whole.rounds]
    assert looks == [(2, 8), (2, 32), (1, 8), (1, 32)]
    for budget in (1, "1e-9s"):
        short = decide(question(spec(1), budget=budget))
        assert [(one["gpus"], one["replications"]) for one in short.rounds] == [(2, 8)]
        # A replication of four settings on one replica, and eight on two.
        assert short.simulations == 4 + 4 * 8
        assert short.ended_early
        assert not short.is_decided
    # Enough for all that is looked at on two GPUs, and not for all of a look at one.
    (race,) = [one for one in whole.races if one["gpus"] == 2]
    # Those that are the same are simulated once.
    looked = {one["objective"] for one in race["settings"] if one["replications"] == 32}
    spent = 300 * (short.simulations + 24 * len(looked))
    enough = decide(question(spec(1), budget=spent))
    assert [(one["gpus"], one["replications"]) for one in enough.rounds] == looks[:2]
    assert enough.requests <= spent
    assert "fewer were not looked at: the budget ended it" in " ".join(str(enough).split())


def test_a_plan_that_its_budget_ended_goes_on(spec: Callable[[int], str], tmp_path: Path) -> None:
    whole = decide(question(spec(1)))
    output = tmp_path / "plan.nc"
    short = decide(question(spec(1), budget="0.000001s"), output)
    assert short.ended_early
    assert read_cube(output).attrs["plan"]
    again = decide(question(spec(1)), output)
    assert not again.ended_early
    assert again.simulations >= whole.simulations
    assert (again.best, again.is_decided, again.assurance) == (whole.best, True, whole.assurance)
    assert not (tmp_path / "plan.nc.partial").exists()
    # What is decided is what any budget gets.
    assert decide(question(spec(1), budget=1e4), output) == again


def test_workers_and_backends_make_no_difference(spec: Callable[[int], str]) -> None:
    settings = {"workload.requests": 24, "workload.arrivals.rate_per_s": 8.0, "workload.lengths.mean": 10.0}
    asked = question(spec(1), vary={"policy.largest_batch": [8, 16]}, settings=settings, slo=["tpot_mean_s=1"])
    one = decide(asked, workers=1)
    assert decide(asked, workers=3) == one
    assert decide(asked, backend="reference") == one


# The command ----------------------------------------------------------------------------------------------------------

ASKED = ("--slo", "ttft_p99_s=1", "--slo", "tpot_mean_ms=40", "--vary", "policy.largest_batch=8,16")


def test_the_command_prints_the_answer(
    spec: Callable[[int], str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = Said(capsys, "plan", spec(1), *ASKED, "-o", tmp_path / "plan.nc")
    assert said.status == 0
    assert said.out.startswith("Caps on a small server, 12 requests/s: 2 replicas on 2 GPUs\n")
    assert said.err.startswith("planning ")
    shown = Said(capsys, "show", tmp_path / "plan.nc")
    assert shown.out == said.out
    as_json = Said(capsys, "plan", spec(1), *ASKED, "--json", "-q")
    assert as_json.err == ""
    assert json.loads(as_json.out) == json.loads((tmp_path / "plan.json").read_text())


def test_the_command_fails_when_no_setting_holds(
    spec: Callable[[int], str], capsys: pytest.CaptureFixture[str]
) -> None:
    said = Said(capsys, "plan", spec(1), *ASKED, "--replicas-max", "1")
    assert said.status == 1
    assert ": no setting holds\n" in said.out
    assert "nearest     largest_batch = " in said.out
    assert said.err.endswith("batchcube: no setting holds all limits\n")


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        (("--vary", "policy.bins=1"), "--slo: at least one limit is needed, for instance ttft_p99_s=2"),
        (("--slo", "ttft_p98_s=2"), "--slo ttft_p98_s=2: must be NAME_STAT_UNIT=LIMIT"),
        ((*ASKED, "--slo", "ttft_p99_ms=5"), "--slo ttft_p99_s: is given twice"),
        ((*ASKED, "--vary", "policy.largest_bach=4"), "--vary policy.largest_bach: no such setting; did you mean"),
        ((*ASKED, "--vary", "policy.largest_batch=4"), "--vary policy.largest_batch: is given twice"),
        (
            (*ASKED, "--vary", "tensor_parallel_size=1,2"),
            "no such setting; vLLM's tensor_parallel_size is of coefficients",
        ),
        ((*ASKED, "--vary", "max_num_seqs=4"), "--vary policy.largest_batch: is given twice"),
        ((*ASKED, "--goodput", "ttft:2000 e2el:10000"), "--set report.ttft_sla_s=2 --set report.request_sla_s=10;"),
        ((*ASKED, "--goodput", "most"), "--goodput most: must be a share, 0.95"),
        ((*ASKED, "--objective", "latency_men_s"), "(batchcube variables); did you mean latency_mean_s"),
        ((*ASKED, "--vary", "policy"), "--vary policy: must be PATH=VALUE,VALUE"),
        ((*ASKED, "--vary", "server.servers=1,2"), "--vary server.servers: is what a plan searches; --replicas-max"),
        ((*ASKED, "--vary", "workload.arrivals.rate_per_s=1,2"), "is what --rate says"),
        (
            (*ASKED, "--vary", "server.replica.token_budget=4,512"),
            "axes.token_budget.values[0] = 4: must be >= policy.largest_batch = 8",
        ),
        ((*ASKED, "--vary", "server.replica.token_budget=many"), 'axes.token_budget.values[0] = "many": must be a'),
        ((*ASKED, "--set", "policy.largest_batch=4"), "--vary policy.largest_batch: is what --set says"),
        ((*ASKED, "--rate", "0"), "--rate 0: must be a number > 0"),
        ((*ASKED, "--confidence", "1"), "--confidence 1: must be > 0 and < 1"),
        ((*ASKED, "--objective", "speed"), "--objective speed: must be a variable of one number"),
        ((*ASKED, "--objective", "latency_quantile_s"), "--objective latency_quantile_s: must be a variable of one"),
        ((*ASKED, "--budget", "little"), "--budget little: must be a number of requests, 2e6, or of seconds, 60s"),
        (
            (*ASKED, "--objective", "busy_throughput_requests_per_s"),
            "must be a variable of one number, of mode",
        ),
        ((*ASKED, "--model", "qwen3-8b"), "--model: says what a SPEC says"),
        ((*ASKED, "--gpu", "h100"), "--gpu: says what a SPEC says"),
        ((*ASKED, "--tensor-parallel", "1"), "--tensor-parallel: says what a SPEC says"),
        ((*ASKED, "--coefficients", "mine.json"), "--coefficients: says what a SPEC says"),
        ((*ASKED, "--set", "axes=3"), "axes = 3: must be a table"),
        ((*ASKED, "--set", "workload=3", "--rate", "3"), "workload = 3: must be a table"),
        ((*ASKED, "--set", "server=3"), "server = 3: must be a table"),
        (
            (*ASKED, "--set", "axes.which.points={a={server={servers=3}},b={server={servers=4}}}"),
            "axes.which: sets server.servers, and how many is what a plan searches",
        ),
        (
            (*ASKED, "--set", 'workload={requests=9,trace={path="t.csv"}}'),
            'workload.trace.resample = "none": every replication would be the same; set "parts" or "blocks"',
        ),
        ((*ASKED, "-o", "plan.json"), "plan.json: must end in .nc"),
        (
            (*ASKED, "--set", "server.routing=by_bin", "--set", "policy.bins=2"),
            'server.routing = "by_bin": gives every',
        ),
        ((*ASKED, "--set", 'workload.arrivals={process="closed",users=4}'), 'process = "closed": who waits for'),
        (
            (*ASKED, "--set", 'server.service={coefficients="qwen3-0.6b-h100-transformers",draw=true}'),
            "server.service.draw = true: every replication has coefficients of its own",
        ),
    ],
)
def test_mistakes_are_one_line(
    spec: Callable[[int], str], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], mistake: str
) -> None:
    said = Said(capsys, "plan", spec(1), *arguments, "-q")
    assert said.status == 2
    assert mistake in said.err


def test_settings_vary_by_the_names_of_vllm(spec: Callable[[int], str]) -> None:
    asked = ask(spec(1), slo=["ttft_p99_s=1"], vary={"max_num_seqs": [8, 16]}, settings={"block_size": 8})
    assert [axis.paths for axis in asked.sweep.grid.axes] == [("policy.largest_batch",)]
    assert asked.assumed[:2] == (
        "block_size is server.replica.block_tokens here",
        "max_num_seqs is policy.largest_batch here",
    )
    with pytest.raises(InputError, match=r"^`vary` policy\.largest_batch: is given twice$"):
        ask(spec(1), slo=["ttft_p99_s=1"], vary={"max_num_seqs": [8], "policy.largest_batch": [16]})


def test_axes_that_are_no_table(spec: Callable[[int], str], capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(spec(1))
    file.write_text(f"{file.read_text()}[[axes]]\n")
    assert "axes = [{}]: must be a table" in Said(capsys, "plan", file, *ASKED, "-q").mistake


def test_values_that_are_no_list(spec: Callable[[int], str]) -> None:
    with pytest.raises(InputError, match=r"`vary` policy\.largest_batch: must be a list of values"):
        bc.plan(spec(1), {"ttft_p99_s": 1.0}, vary={"policy.largest_batch": 64}, quiet=True)  # type: ignore[dict-item]
    with pytest.raises(InputError, match=r"`vary`: must have lists of values by path"):
        bc.plan(spec(1), {"ttft_p99_s": 1.0}, vary=["policy.largest_batch=64"], quiet=True)  # type: ignore[arg-type]


def test_axes_are_called_by_their_paths_where_the_end_is_taken(spec: Callable[[int], str]) -> None:
    caps = {"axes.bins": {"path": "policy.largest_batch", "values": [8, 16]}, "policy": {"mode": "continuous"}}
    asked = question(spec(1), settings=caps, vary={"policy.bins": [1], "workload.requests": [100, 200]})
    assert [axis.name for axis in asked.sweep.grid.axes] == ["bins", "policy_bins", "workload_requests"]


def test_a_file_that_is_there_is_not_written_over(spec: Callable[[int], str], tmp_path: Path) -> None:
    beside = tmp_path / "mine.json"
    beside.write_text("{}")
    with pytest.raises(InputError, match=r"mine\.json: is there already; choose another output, or `overwrite`"):
        decide(question(spec(1)), tmp_path / "mine.nc")
    assert beside.read_text() == "{}"
    assert not list(tmp_path.glob("mine.nc*"))
    assert decide(question(spec(1)), tmp_path / "mine.nc", overwrite=True).found
    assert beside.read_text() != "{}"


def test_whole_batches_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, "plan", "multi-bin-fig3", "--slo", "latency_mean_s=60", "--rate", "1", "-q")
    assert 'policy.mode = "multi_bin_only": plans are made of mode continuous only' in said.mistake


def test_axes_and_rates_of_a_preset(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("plan", "continuous-rate", "--slo", "ttft_p99_s=5", "--set", "workload.requests=200", "-q")
    assert "settings are compared at one arrival rate; give --rate" in Said(capsys, *arguments).err
    said = Said(capsys, *arguments, "--rate", "3")
    assert said.status == 0
    assert "best        cap = " in said.out


# Without a specification ----------------------------------------------------------------------------------------------


def test_a_model_a_gpu_and_a_rate_will_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = (
        "plan",
        "--model",
        "Llama-3.1-8B-Instruct",
        "--gpu",
        "h100",
        "--rate",
        "10",
        "--slo",
        "tpot_mean_ms=20",
    )
    small = ("--set", "workload.requests=300", "-q")
    said = Said(capsys, *arguments, *small)
    assert said.status == 0
    assert said.err == ""
    assert said.out.count("step times of llama-3.1-8b-h100-vllm-tables") == 1
    assert max(map(len, said.out.split("\n"))) <= WIDTH
    assert "lognormal, prompts of 1155 tokens" in said.out
    assert "vllm serve Llama-3.1-8B-Instruct --max-num-seqs 1024 \\\n" in said.out
    lengths = tmp_path / "lengths.csv"
    lengths.write_text("prompt_tokens,output_tokens\n" + "100,20\n200,30\n" * 50)
    with_lengths = Said(capsys, *arguments, *small, "--lengths", lengths)
    assert with_lengths.status == 0
    assert "lognormal" not in with_lengths.out
    trace = tmp_path / "trace.csv"
    rows = "".join(f"{0.5 * i},{100 + i},{20 + i % 7}\n" for i in range(400))
    trace.write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}")
    with_trace = Said(capsys, *arguments, *small, "--trace", trace)
    assert with_trace.status == 0
    assert ", 10 requests/s:" in with_trace.out
    said = " ".join(with_trace.out.split())
    assert "windows of trace.csv, its times stretched to the rate; for successive parts a plan takes 8 of 300" in said
    assert said.count(" overlap") == 1


def test_a_run_that_nobody_states_the_length_of_lasts_many_times_as_long_as_a_request() -> None:
    asked: dict[str, Any] = {"model": "Llama-3.1-8B", "gpu": "h100", "rate": 20.0, "slo": SLO}
    settings = {"workload.lengths.mean": 2000, "server.servers": 8, "server.routing": "least_loaded"}
    chosen = ask(**asked, settings=settings).sweep
    requests = chosen.grid.points[0].workload.requests
    assert requests is not None
    # On 8 GPUs, which serve 20 requests a second.
    there = {"workload.requests": requests, "replications": 1, **settings}
    cube = run_sweep(Sweep.from_document(chosen.document, "plan", Path.cwd(), overriding(there)))
    assert requests / 20.0 > unspecified.LATENCIES * float(cube["latency_mean_s"].mean())
    assert float(abs(cube["backlog_growth_fraction"]).mean()) < 0.02
    shorter = ask(**asked).sweep.grid.points[0].workload.requests
    assert shorter is not None
    assert shorter < requests / 4
    assert ask(**asked, settings={"workload.requests": 500}).sweep.grid.points[0].workload.requests == 500
    # Two digits, rounded up: at least two minutes, whatever is left out.
    few = {"workload.lengths.mean": 20, "report": {"warmup_requests": 2500}}
    assert ask(**asked | {"rate": 25.4}, settings=few).sweep.grid.points[0].workload.requests == 3100


def test_a_law_of_ones_own_takes_the_place_of_model_and_gpu(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    known = load("qwen3-8b-h100-vllm-tables")
    mine = tmp_path / "mine.json"
    mine.write_text(known.text(), encoding="utf-8")
    small = ("--rate", "10", "--slo", "tpot_mean_s=1", "--set", "workload.requests=500", "-q", "--json")
    answers = []
    for of in (("--coefficients", mine), ("--model", "qwen3-8b", "--gpu", "h100")):
        said = Said(capsys, "plan", *of, *small)
        assert said.status == 0
        answers.append(json.loads(said.out))
    assert answers[0]["best"]["limits"] == answers[1]["best"]["limits"]


def test_gpus_are_known_in_capitals_and_by_their_short_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unspecified, "is_installed", lambda: True)
    monkeypatch.setattr(unspecified, "gpus", lambda: {"h100_sxm": {}, "l40s": {}})
    monkeypatch.setattr(unspecified, "derive", derived := Derived())
    assert unspecified.coefficients_of("Llama-3.1-8B", "h100", 1) == "llama-3.1-8b-h100-vllm-tables"
    for gpu, tensor_parallel in (("H100", 2), ("h100", 2), ("L40S", 1)):
        asked = {"model": "Qwen3-14B", "gpu": gpu, "tensor_parallel": tensor_parallel, "rate": 1.0}
        with pytest.raises(InputError, match="no tables here"):
            ask(slo=SLO, **asked)
    assert [(one.gpu, one.tensor_parallel) for one in derived.asked] == [("h100_sxm", 2), ("h100_sxm", 2), ("l40s", 1)]


class Derived:
    """Remembers what it is asked to derive, and derives nothing."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def __call__(self, deployment: Any, name: str) -> Any:
        self.asked.append(deployment)
        raise InputError("no tables here")


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        (("--gpu", "h100", "--rate", "1"), "--model: is missing: without a SPEC, --rate is needed, and"),
        (("--model", "qwen3-8b", "--rate", "1"), "--gpu: is missing"),
        (("--model", "qwen3-8b", "--gpu", "h100"), "--rate: is missing"),
        (("--coefficients", "qwen3-8b-h100-vllm-tables"), "--rate: is missing"),
        (
            ("--coefficients", "qwen3-0.6b-cpu-vllm", "--rate", "1"),
            "--coefficients qwen3-0.6b-cpu-vllm: has step times, and nothing of the server's limits: say them with "
            "--set policy.largest_batch=N --set server.replica.kv_capacity_tokens=N",
        ),
        (
            ("--coefficients", "qwen3-0.6b-cpu-vllm", "--rate", "1", "--vary", "policy.largest_batch=8,16"),
            "--coefficients qwen3-0.6b-cpu-vllm: has step times, and nothing of the server's limits: say them with "
            "--set server.replica.kv_capacity_tokens=N",
        ),
        (("--coefficients", "mine.json", "--gpu", "h100", "--rate", "1"), "--gpu: says what --coefficients say"),
        (("--coefficients", "mine.json", "--rate", "1"), f"plan: {Path.cwd() / 'mine.json'}: cannot be read"),
        (("--model", "qwen3-8b", "--gpu", "h100", "--rate", "1", "--lengths", "a", "--trace", "b"), "--trace: has len"),
    ],
)
def test_what_is_missing_without_a_specification(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], mistake: str
) -> None:
    assert Said(capsys, "plan", "--slo", "tpot_mean_s=1", *arguments, "-q").mistake.startswith(mistake)


def test_limits_in_another_unit_are_refused_where_no_engine_is_as_fast(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("plan", "--model", "qwen3-8b", "--gpu", "h100", "--rate", "1", "--slo", "ttft_p99_ms=2")
    assert Said(capsys, *asked).mistake == (
        "--slo ttft_p99_ms=2: 2 ms to the first token: seconds meant (ttft_p99_s=2)?"
    )


def test_mistakes_of_a_plan_are_one_line(spec: Callable[[int], str], capsys: pytest.CaptureFixture[str]) -> None:
    assert Said(capsys, "plan", "--slo", "ttft_p99_s", "2").mistake == "--slo ttft_p99_s 2: write ttft_p99_s=2"
    assert Said(capsys, "plan", spec(1), "--slo", "ttft_p99_s").mistake == "--slo ttft_p99_s: write ttft_p99_s=LIMIT"
    assert Said(capsys, "plan", spec(1), *ASKED, "--vary", "x").mistake.startswith("--vary x: must be PATH=")


def test_a_pair_that_is_not_known_needs_the_tables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unspecified, "is_installed", lambda: False)
    arguments = ("--model", "qwen3-8b", "--gpu", "l4", "--rate", "1", "--slo", "tpot_mean_s=1", "-q")
    assert "pip install '.[hardware]'" in Said(capsys, "plan", *arguments).mistake


@pytest.mark.parametrize(
    ("model", "gpu", "hint"),
    [("llama", "h100", "did you mean llama-3.1-8b or llama-3.1-70b?"), ("qwen3-8b", "H10", "did you mean h100?")],
)
def test_a_pair_that_is_nearly_known_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: str, gpu: str, hint: str
) -> None:
    monkeypatch.setattr(unspecified, "is_installed", lambda: False)
    arguments = ("--model", model, "--gpu", gpu, "--rate", "1", "--slo", "tpot_mean_s=1", "-q")
    assert f"(batchcube calibrate list); {hint} others" in Said(capsys, "plan", *arguments).mistake


@pytest.mark.parametrize(
    ("objective", "more"),
    [(None, False), ("ttft_mean_s", False), ("prefix_cache_hit_fraction", True), ("goodput_fraction", True)],
)
def test_which_direction_of_an_objective_is_better(
    spec: Callable[[int], str], objective: str | None, more: bool
) -> None:
    assert question(spec(1), objective=objective).wants_more == more
