"""A plan from its question to its files: kept, stopped and gone on with, the same by any workers; the command."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from batchcube.errors import InputError
from batchcube.results.cube import read_cube
from batchcube.sweeps.planning import simulating
from batchcube.sweeps.planning.decide import decide
from batchcube.sweeps.planning.question import ask
from batchcube.sweeps.run.store import Store
from batchcube.sweeps.spec.service import load
from helpers.command_line import Answer as Said
from helpers.plans import ASKED, question


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


def test_a_file_that_is_there_is_not_written_over(spec: Callable[[int], str], tmp_path: Path) -> None:
    beside = tmp_path / "mine.json"
    beside.write_text("{}")
    with pytest.raises(InputError, match=r"mine\.json: is there already; choose another output, or `overwrite`"):
        decide(question(spec(1)), tmp_path / "mine.nc")
    assert beside.read_text() == "{}"
    assert not list(tmp_path.glob("mine.nc*"))
    assert decide(question(spec(1)), tmp_path / "mine.nc", overwrite=True).found
    assert beside.read_text() != "{}"


def test_a_plan_that_is_there_is_not_made_again(
    spec: Callable[[int], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "plan.nc"
    first = decide(question(spec(1)), output)
    with monkeypatch.context() as nothing:
        nothing.setattr(simulating, "simulate_configurations", None)
        assert decide(question(spec(1)), output) == first
    with pytest.raises(InputError, match="holds no answer to this question; choose another output, or remove it"):
        decide(question(spec(2)), output)
    assert decide(question(spec(2)), output, overwrite=True).found


def test_a_plan_that_was_stopped_goes_on(
    spec: Callable[[int], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = decide(question(spec(1)))
    done: list[int] = []

    def until_stopped(together: simulating.Together, numbers: Sequence[int], replication: int) -> Any:
        if len(done) == 10:
            raise KeyboardInterrupt
        done.append(len(numbers))
        return simulate(together, numbers, replication)

    simulate = simulating.simulate_configurations
    output = tmp_path / "plan.nc"
    with monkeypatch.context() as stopped:
        stopped.setattr(simulating, "simulate_configurations", until_stopped)
        with pytest.raises(KeyboardInterrupt):
            decide(question(spec(1)), output, workers=1)
    assert list((tmp_path / "plan.nc.partial").glob("*.parts"))
    assert not output.exists()
    again: list[int] = []

    def counted(together: simulating.Together, numbers: Sequence[int], replication: int) -> Any:
        again.append(len(numbers))
        return simulate(together, numbers, replication)

    monkeypatch.setattr(simulating, "simulate_configurations", counted)
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


def test_more_time_than_can_be_simulated_is_told_by_what_was_asked(spec: Callable[[int], str]) -> None:
    with pytest.raises(InputError, match=r"workload\.requests = 300: take .* s to come, and 1\.15e\+06 s can be"):
        decide(question(spec(1), rate=2e-4))


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
    assert ": no configuration holds\n" in said.out
    assert "nearest     largest_batch = " in said.out
    assert said.err.endswith("batchcube: no configuration holds all limits\n")


def test_axes_and_rates_of_a_preset(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("plan", "continuous-rate", "--slo", "ttft_p99_s=5", "--set", "workload.requests=200", "-q")
    assert "configurations are compared at one arrival rate; give --rate" in Said(capsys, *arguments).err
    said = Said(capsys, *arguments, "--rate", "3")
    assert said.status == 0
    assert "best        cap = " in said.out
