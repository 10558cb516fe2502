"""Which configuration wins on how few GPUs: what an exhaustive run finds, queues, traces, goodput, budgets."""

import json
import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchcube.errors import InputError
from batchcube.results.cube import read_cube
from batchcube.results.overload import OVERLOADED, judge
from batchcube.results.selection import select
from batchcube.sweeps.planning.decide import decide
from batchcube.sweeps.planning.question import ask
from batchcube.sweeps.planning.race import COMPARED, Decider, Decision, Race
from batchcube.sweeps.planning.values import Wanted
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.spec.document import Sweep
from batchcube.sweeps.spec.service import load
from helpers.plans import question, recorded
from helpers.specifications import CAPS, SLO, TO_PLAN

MOST = 3


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The largest ratio (replicas, cap, replication) of all configurations, many replications each."""
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
    # The case is clear: none is within five standard errors of its limit.
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
    left_out = {one["gpus"]: len(one["configurations"]) for one in answer.races}[1] < 4
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


def test_where_more_replicas_make_no_difference_the_search_ends_undecided(spec: Callable[[int], str]) -> None:
    # An answer takes 20 ms a token: 1 in 100 is too long for the limit, on any number of replicas.
    settings = {"report.request_sla_s": 3.45, "workload.requests": 50}
    answer = decide(question(spec(1), slo=[], goodput=0.99, vary={}, rate=0.02, settings=settings))
    (limit,) = answer.best.limits
    assert (answer.found, limit.verdict, answer.best.replicas) == (False, "cannot tell", 1)
    assert [race["gpus"] for race in answer.races] == [1, 2]
    assert answer.is_hopeless
    assert ": cannot tell whether one holds\n" in str(answer)
    assert "more seem to make no difference" in " ".join(str(answer).split())


def test_where_few_more_replicas_make_no_difference_and_the_most_do_the_search_goes_on(
    spec: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three replications of four are all rush: few replicas are full in these, and the first replication is quiet.
    rush = {"process": "on_off", "rate_per_s": 12.0, "on_off_ratio": 100.0, "mean_on_s": 6000.0, "mean_off_s": 2000.0}
    settings = {"workload.arrivals": rush, "workload.requests": 60, "server.service.c1_s_per_request": 0.002}
    asked = question(spec(3), slo=["tpot_p99_s=0.034"], vary={}, rate=40.0, replicas_max=24, settings=settings)
    monkeypatch.setattr("batchcube.sweeps.planning.race.MOST", COMPARED)
    answer = decide(asked)
    assert answer.found
    assert not answer.is_hopeless
    assert [one["gpus"] for one in answer.races][:2] == [1, 2]
    assert 8 <= answer.best.replicas <= 10


def test_from_too_few_replicas_ever_more_are_tried_and_then_those_between(
    spec: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = question(spec(1), rate=60.0, vary={}, settings={"workload.requests": 600, "server.routing": "least_loaded"})
    usual = decide(asked)

    def one(decider: Decider) -> Generator[list[Wanted], None, int]:
        yield from ()
        return 0

    monkeypatch.setattr(Decider, "_guess", one)
    answer = decide(asked)
    assert answer.best.replicas == usual.best.replicas == 6
    assert answer.fewer is not None
    assert answer.fewer.gpus == 5
    assert {race["gpus"] for race in answer.races} == {1, 2, 4, 8, 6, 5}


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
        assert [one["state"] for one in race["configurations"]].count("fails") == 0
        every = [one["objective"] for one in race["configurations"]]
        # Of batches the fewest requests are best, of throughput the most.
        best, worst = (min(every), max(every)) if name == "batch_size_mean" else (max(every), min(every))
        assert answer.best.objective == best
        assert abs(best - worst) > 0.015 * best
    assert found["batch_size_mean"].best.at == {"largest_batch": 3}
    assert found["throughput_requests_per_s"].best.at != {"largest_batch": 3}


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
    assert (race["gpus"], len(race["configurations"])) == (2, 1)
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


def test_where_those_that_fit_on_fewer_gpus_fail_on_more_none_of_them_is_raced(spec: Callable[[int], str]) -> None:
    names = ["qwen3-32b-2xh100-vllm-tables", "qwen3-32b-h200-vllm-tables"]
    few = {"workload.requests": 100}
    vary = {"server.service.coefficients": names}
    answer = decide(ask(coefficients=names[0], rate=0.5, slo=["tpot_mean_s=0.018"], vary=vary, settings=few))
    assert (answer.best.at, answer.best.gpus, answer.least_gpus) == ({"coefficients": names[0]}, 2, 1)
    assert answer.fewer is None
    assert "1 replica; no configuration that fits on fewer GPUs holds on these" in re.sub(r"\s+", " ", str(answer))


def test_configurations_that_are_the_same_are_simulated_once(spec: Callable[[int], str]) -> None:
    caps = [12, 13, *range(60, 80)]
    answer = decide(question(spec(1), vary={"policy.largest_batch": caps}, indifference=1e-4))
    assert answer.found
    (race,) = [one for one in answer.races if one["gpus"] == answer.best.gpus]
    looked = [one["replications"] for one in race["configurations"] if one["at"]["largest_batch"] >= 60]
    assert len(set(looked)) == 1
    assert looked[0] >= 32
    # 20 caps that nobody reaches: eight replications of each, then of one.
    assert answer.simulations < len(caps) * looked[0] / 2


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
        # A replication of four configurations on one replica, and eight on two.
        assert short.simulations == 4 + 4 * 8
        assert short.ended_early
        assert not short.is_decided
    # Enough for all that is looked at on two GPUs, and not for all of a look at one.
    (race,) = [one for one in whole.races if one["gpus"] == 2]
    # Those that are the same are simulated once.
    looked = {one["objective"] for one in race["configurations"] if one["replications"] == 32}
    spent = 300 * (short.simulations + 24 * len(looked))
    enough = decide(question(spec(1), budget=spent))
    assert [(one["gpus"], one["replications"]) for one in enough.rounds] == looks[:2]
    assert enough.requests <= spent
    assert "fewer were not looked at: the budget ended it" in " ".join(str(enough).split())
