"""The words of a plan, from its JSON: anybody's."""

import json
from copy import deepcopy
from typing import Any

import pytest

from batchcube.results.planned import WIDTH, as_html, as_parts, in_words, is_plan

CONFIGURATION: dict[str, Any] = {
    "at": {"largest_batch": 128, "mode": "a\x1b[2Jb"},
    "replicas": 3,
    "gpus": 12,
    "state": "in the race",
    "replications": 8,
    "grows": False,
    "objective": 0.5,
    "limits": [
        {"name": "ttft_p99_s", "limit": 2.0, "unit": "s", "verdict": "holds", "mean": 1.0, "low": 0.9, "high": 1.1},
        {"name": "goodput", "limit": 0.95, "unit": "1", "verdict": "holds", "mean": 0.99, "low": 0.98, "high": 1.0},
    ],
}
PLAN: dict[str, Any] = {
    "title": "A server " * 20,
    "asked": {"rate_per_s": 40.0, "objective": None, "indifference": 0.02},
    "axes": {"largest_batch": [64, 128]},
    "found": True,
    "best": CONFIGURATION,
    "is_decided": True,
    "assurance": 0.975,
    "overlaps": False,
    "queue": "steady",
    "fewer": {"gpus": 8, "verdict": "fails", "nearest": CONFIGURATION, "assurance": 0.9875},
    "least_gpus": 4,
    "runner_up": {
        "at": {"largest_batch": 64},
        "replicas": 3,
        "verdict": "holds",
        "difference": 0.1,
        "low": 0.05,
        "high": 0.15,
    },
    "tied": 0,
    "binds": ["KV cache", "compute"],
    "measures": {
        "load_fraction": 0.83,
        "kv_peak_fraction": 0.99,
        "preemptions_per_request": 0.25,
        "steps_at_cap_fraction": 0.01,
        "budget_fraction": 0.4,
    },
    "output_tokens_per_gpu_second": 1234.5,
    "cost_per_million_output_tokens": 0.56,
    "cost_per_million_tokens": 0.1,
    "commands": {"vllm": "vllm serve MODEL " + " ".join(f"--option-{k} {k}" for k in range(9))},
    "unsaid": {"vllm": ["server.routing = round_robin", "server.replica.prefill = separate"], "sglang": []},
    "races": [{"gpus": 12, "states": {"fails": 2}}],
    "simulations": 100,
    "requests": 1_000_000,
    "full_grid_requests": 5_000_000,
    "ended_early": False,
    "is_hopeless": False,
    "assumed": ["Poisson arrivals"],
    "notes": ["not stated: " + ", ".join(f"server.replica.setting_{k} = {k}" for k in range(9)), "another"],
}


def test_words_keep_to_80_columns_and_to_what_terminals_may_get() -> None:
    words = in_words(PLAN)
    assert max(map(len, words.split("\n"))) <= WIDTH
    assert "\x1b" not in words
    assert words.split("\n")[0].endswith("\N{HORIZONTAL ELLIPSIS}, 40 requests/s: 3 replicas on 12 GPUs")
    flowing = _flowing(PLAN)
    assert ", 1 request/s: 3 replicas" in _flowing({**PLAN, "asked": {**PLAN["asked"], "rate_per_s": 1.0}})
    assert "0.25 preemptions a request" in flowing
    assert "goodput >= 0.95: holds, 0.99 (0.98 to 1)" in flowing
    assert "0.56 per million output tokens, 0.1 with those of prompts; 1,234 output tokens per GPU second" in flowing
    assert "cannot carry what was simulated of vLLM: server.routing = round_robin, server.replica.prefill" in flowing
    assert "server.replica.setting_8 = 8" in flowing
    pasted = "".join(line[12:].strip().removesuffix("\\") for line in words[words.index("serve  ") :].split("\n"))
    assert pasted == PLAN["commands"]["vllm"]


def test_what_is_not_known_is_said() -> None:
    one = {**deepcopy(PLAN), "found": False, "is_decided": False, "assurance": 0.0}
    one["races"] = [{"gpus": 12, "states": {"fails": 9}}]
    one["best"]["limits"][0] |= {"verdict": "fails", "mean": None, "low": None, "high": None}
    words = in_words(one)
    assert ": no configuration holds\n" in words
    assert "ttft_p99_s <= 2 s: fails, never served\n" in words
    undecided = _flowing({**PLAN, "is_decided": False, "assurance": 0.5, "tied": 2, "ended_early": True})
    assert "50 % only: 2 configurations may be better by over 2 % in" in undecided
    assert "the budget ended it" in undecided
    longest = _flowing({**PLAN, "is_decided": False, "assurance": 0.5, "tied": 2})
    assert "a plan takes do not tell, with an indifference zone above 2 % they may" in longest
    fewer = {**PLAN["fewer"], "verdict": "cannot tell"}
    assert "whether 8 GPUs would do one cannot tell" in _flowing({**PLAN, "fewer": fewer})


def test_why_nothing_is_known_of_fewer_gpus_is_said() -> None:
    one = {**PLAN, "fewer": None}
    assert "3 replicas; no configuration that fits on fewer GPUs holds on these" in _flowing(one)
    assert "3 replicas; fewer were not looked at: the budget ended it" in _flowing({**one, "ended_early": True})
    assert "3 replicas; there is no fewer" in _flowing({**one, "least_gpus": 12})


def test_of_what_nothing_is_sure_no_percent_are_said() -> None:
    one = {**PLAN, "is_decided": False, "assurance": 0.0, "tied": 2, "ended_early": True}
    assert "how sure not decided: 2 configurations may be better by over 2 %" in _flowing(one)
    alone = {**one, "axes": {"largest_batch": [128]}}
    assert "how sure not decided: whether it holds all limits; the budget ended it" in _flowing(alone)


def test_a_goodput_of_all_is_not_called_never_served() -> None:
    one = deepcopy(PLAN)
    one["best"]["limits"][1] |= {"limit": 1.0, "verdict": "fails", "mean": None, "low": None, "high": None}
    assert "goodput >= 1: fails, not all requests keep their limits" in _flowing(one)


def test_a_queue_that_grows_is_not_called_never_served() -> None:
    nearest = deepcopy(CONFIGURATION) | {"grows": True}
    nearest["limits"][0] |= {"verdict": "fails", "mean": None, "low": None, "high": None}
    words = _flowing({**PLAN, "fewer": {**PLAN["fewer"], "nearest": nearest}})
    assert "the nearest has ttft_p99_s <= 2 s: fails, its queue grows" in words
    assert "never served" not in words


def test_settings_at_their_limit_are_not_said_to_fail() -> None:
    one = {**PLAN, "found": False, "races": [{"gpus": 12, "states": {"fails": 9, "at its limit": 2}}]}
    words = _flowing(one)
    assert "97.5 %: 9 of 11 configurations fail on 12 GPUs; 2 so near their limit that one cannot tell" in words
    one["races"] = [{"gpus": 12, "states": {"fails": 11}}]
    assert "97.5 %: all of 11 configurations fail on 12 GPUs" in _flowing(one)
    one |= {"assurance": 0.0, "races": [{"gpus": 12, "states": {"fails": 9, "in the race": 2}}]}
    assert "not decided: 9 of 11 configurations fail on 12 GPUs; of 2 one cannot tell yet" in _flowing(one)
    assert "requests/s: cannot tell whether one holds\n" in in_words(one)


def test_the_runner_up_may_not_be_known_to_hold() -> None:
    assert "same requests binds" in _flowing(PLAN)
    for verdict, said in (
        ("at its limit", "; it is at a limit"),
        ("cannot tell", "; whether it holds one cannot tell"),
    ):
        assert f"same requests{said}" in _flowing({**PLAN, "runner_up": {**PLAN["runner_up"], "verdict": verdict}})


def _flowing(plan: dict[str, Any]) -> str:
    return " ".join(in_words(plan).split())


@pytest.mark.parametrize("name", sorted(PLAN))
def test_what_is_no_plan_is_told(name: str) -> None:
    assert is_plan(json.loads(json.dumps(PLAN)))
    if name not in ("cost_per_million_tokens", "ended_early", "is_hopeless", "least_gpus", "tied", "races"):
        assert not is_plan({key: value for key, value in PLAN.items() if key != name})


def test_parts_say_what_the_words_say() -> None:
    parts = as_parts(PLAN)
    assert parts[0][0] == ""
    words = " ".join(in_words(PLAN).split())
    assert all(" ".join(text.split()) in words for _, text in parts)
    assert {"best", "how sure", "limits", "binds"} <= {label for label, _ in parts}


def test_a_notebook_shows_what_the_words_say() -> None:
    html = as_html({**PLAN, "notes": ["a <b>", "two"], "title": "A <server>"})
    assert html.startswith("<div><strong>A &lt;server&gt;, 40 requests/s: 3 replicas on 12 GPUs</strong></div><table")
    assert html.count("<tr>") == len(as_parts(PLAN)) - 1 + 2
    assert "a &lt;b&gt;</td>" in html
    assert "<pre>vllm serve MODEL " in html
    assert "<b>" not in html
    assert "\x1b" not in html


@pytest.mark.parametrize(
    ("share", "said", "most"),
    [
        (1.0 - 1e-12, "99.9", "100"),
        (0.975, "97.5", "97.5"),
        (0.9875, "98.7", "98.8"),
        (0.99975, "99.9", "100"),
        (0.9, "90", "90"),
    ],
)
def test_no_more_is_said_to_be_sure_than_is(share: float, said: str, most: str) -> None:
    assert f"{said} % or more that it holds" in _flowing({**PLAN, "assurance": share})
    assert f"less than {most} % that it holds" in _flowing({**PLAN, "assurance": share, "overlaps": True})
    fewer = {**PLAN, "fewer": {**PLAN["fewer"], "assurance": share}}
    assert f"({said} %)" in _flowing(fewer)
    assert f"(less than {most} %)" in _flowing({**fewer, "overlaps": True})


def test_of_a_single_setting_no_other_is_spoken_of() -> None:
    alone = {**PLAN, "axes": {"largest_batch": [64]}, "runner_up": None}
    words = _flowing(alone)
    assert "97.5 % or more that it holds all limits" in words
    assert "it fails on 8 GPUs (98.7 %), with ttft_p99_s" in words
    assert "runner-up" not in words
    miss = {**alone, "found": False, "races": [{"gpus": 12, "states": {"fails": 1}}]}
    assert "%: it fails on 12 GPUs" in _flowing(miss)
