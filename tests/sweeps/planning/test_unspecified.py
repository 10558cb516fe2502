"""Plans without a specification: a model, GPUs or a law, a rate, and stated defaults."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchcube.errors import InputError
from batchcube.results.planned import WIDTH
from batchcube.sweeps.planning import unspecified
from batchcube.sweeps.planning.question import ask
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.spec.document import Sweep, overriding
from batchcube.sweeps.spec.service import load
from helpers.command_line import Answer as Said
from helpers.plans import recorded
from helpers.specifications import SLO


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


def test_a_trace_without_a_specification_is_cut_into_parts_where_it_is_long_enough(tmp_path: Path) -> None:
    asked = {"slo": SLO, "coefficients": "qwen3-8b-h100-vllm-tables", "rate": 6.0, "trace": recorded(tmp_path, 1600)}
    for requests, stated, parts in ((200, {}, 8), (201, {}, None), (200, {"workload.trace.resample": "blocks"}, None)):
        made = ask(**asked, settings={"workload.requests": requests, **stated})
        assert made.parts == parts
        assert made.overlaps == (parts is None)


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


class Derived:
    """Remembers what it is asked to derive, and derives nothing."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.names: list[str] = []

    def __call__(self, deployment: Any, name: str) -> Any:
        self.asked.append(deployment)
        self.names.append(name)
        raise InputError("no tables here")


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


def test_a_folder_is_the_model_in_it_whatever_it_is_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(unspecified, "is_installed", lambda: True)
    monkeypatch.setattr(unspecified, "gpus", lambda: {"h100_sxm": {}})
    monkeypatch.setattr(unspecified, "derive", derived := Derived())
    for within in ("a", "b"):
        folder = tmp_path / within / "qwen3-8b"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(within)
        with pytest.raises(InputError, match="no tables here"):
            unspecified.coefficients_of(str(folder), "h100", 1)
    assert [one.model for one in derived.asked] == [str(tmp_path / within / "qwen3-8b") for within in ("a", "b")]
    assert len(set(derived.names)) == 2


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
