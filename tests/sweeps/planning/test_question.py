"""What can be asked of a plan, and mistakes in it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import batchcube as bc
from batchcube.errors import InputError
from batchcube.sweeps.planning.decide import decide
from batchcube.sweeps.planning.question import ask
from helpers.command_line import Answer as Said
from helpers.plans import ASKED, question, recorded


def test_settings_vary_by_the_names_of_vllm(spec: Callable[[int], str]) -> None:
    asked = ask(spec(1), slo=["ttft_p99_s=1"], vary={"max_num_seqs": [8, 16]}, settings={"block_size": 8})
    assert [axis.paths for axis in asked.sweep.grid.axes] == [("policy.largest_batch",)]
    assert asked.assumed[:2] == (
        "block_size is server.replica.block_tokens here",
        "max_num_seqs is policy.largest_batch here",
    )
    with pytest.raises(InputError, match=r"^`vary` policy\.largest_batch: is given twice$"):
        ask(spec(1), slo=["ttft_p99_s=1"], vary={"max_num_seqs": [8], "policy.largest_batch": [16]})


def test_axes_are_called_by_their_paths_where_the_end_is_taken(spec: Callable[[int], str]) -> None:
    caps = {"axes.bins": {"path": "policy.largest_batch", "values": [8, 16]}, "policy": {"mode": "continuous"}}
    asked = question(spec(1), settings=caps, vary={"policy.bins": [1], "workload.requests": [100, 200]})
    assert [axis.name for axis in asked.sweep.grid.axes] == ["bins", "policy_bins", "workload_requests"]


@pytest.mark.parametrize(
    ("objective", "more"),
    [(None, False), ("ttft_mean_s", False), ("prefix_cache_hit_fraction", True), ("goodput_fraction", True)],
)
def test_which_direction_of_an_objective_is_better(
    spec: Callable[[int], str], objective: str | None, more: bool
) -> None:
    assert question(spec(1), objective=objective).wants_more == more


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


def test_values_that_are_no_list(spec: Callable[[int], str]) -> None:
    with pytest.raises(InputError, match=r"`vary` policy\.largest_batch: must be a list of values"):
        bc.plan(spec(1), {"ttft_p99_s": 1.0}, vary={"policy.largest_batch": 64}, quiet=True)  # type: ignore[dict-item]
    with pytest.raises(InputError, match=r"`vary`: must have lists of values by path"):
        bc.plan(spec(1), {"ttft_p99_s": 1.0}, vary=["policy.largest_batch=64"], quiet=True)  # type: ignore[arg-type]


def test_axes_that_are_no_table(spec: Callable[[int], str], capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(spec(1))
    file.write_text(f"{file.read_text()}[[axes]]\n")
    assert "axes = [{}]: must be a table" in Said(capsys, "plan", file, *ASKED, "-q").mistake


def test_whole_batches_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys, "plan", "multi-bin-fig3", "--slo", "latency_mean_s=60", "--rate", "1", "-q")
    assert 'policy.mode = "multi_bin_only": plans are made of mode continuous only' in said.mistake


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


def test_mistakes_of_a_plan_are_one_line(spec: Callable[[int], str], capsys: pytest.CaptureFixture[str]) -> None:
    assert Said(capsys, "plan", "--slo", "ttft_p99_s", "2").mistake == "--slo ttft_p99_s 2: write ttft_p99_s=2"
    assert Said(capsys, "plan", spec(1), "--slo", "ttft_p99_s").mistake == "--slo ttft_p99_s: write ttft_p99_s=LIMIT"
    assert Said(capsys, "plan", spec(1), *ASKED, "--vary", "x").mistake.startswith("--vary x: must be PATH=")


def test_limits_in_another_unit_are_refused_where_no_engine_is_as_fast(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("plan", "--model", "qwen3-8b", "--gpu", "h100", "--rate", "1", "--slo", "ttft_p99_ms=2")
    assert Said(capsys, *asked).mistake == (
        "--slo ttft_p99_ms=2: 2 ms to the first token: seconds meant (ttft_p99_s=2)?"
    )
