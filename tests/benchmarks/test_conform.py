"""The command that compares with vLLM's scheduler: what it asks, what it prints, and how it ends."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import conform
from conformance.cases import Told, draw_case, read_told, write_told

RECORDED = Path(__file__).resolve().parents[1] / "recorded" / "vllm-conformance.jsonl"


def run(*arguments: str) -> int:
    """Return the exit status of the command, in this process."""
    return conform.main([*arguments, "--quiet", "--processes", "1"])


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Five cases with vLLM's answers."""
    path = tmp_path / "recorded.jsonl"
    write_told(path, read_told(RECORDED)[:5])
    return path


def stand_in(path: Path, version: str, answer: dict[str, object]) -> str:
    """Make a program that is run as vLLM's interpreter, and gives one answer to every case."""
    path.write_text(
        f"#!{sys.executable}\nimport sys\nprint({json.dumps({'vllm': version})!r}, flush=True)\n"
        f"for line in sys.stdin:\n    print({json.dumps(answer)!r}, flush=True)\n"
    )
    path.chmod(0o755)
    return str(path)


def test_recorded_cases_are_replayed(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--replay", str(recorded), "-o", str(tmp_path / "out")) == 0
    assert capsys.readouterr().out == "5 of 5 cases at vLLM's own instants (vLLM 0.32.0)\n"
    assert not (tmp_path / "out").exists()


def test_a_difference_is_told_and_written_down(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = read_told(recorded)
    case, answer = cases[3]
    late = answer["last_token"][1] + 1
    cases[3] = Told(case, answer | {"last_token": [answer["last_token"][0], late, *answer["last_token"][2:]]})
    write_told(recorded, cases)
    assert run("--replay", str(recorded), "-o", str(tmp_path / "out"), "--backends", "numba") == 1
    differences = tmp_path / "out" / "differences.jsonl"
    assert capsys.readouterr().out.splitlines() == [
        f"case 3 of {recorded}: request 1, last_token: vLLM {late}, numba {late - 1}",
        f"{differences}: the cases that differ, with vLLM's answers",
        "4 of 5 cases at vLLM's own instants (vLLM 0.32.0)",
    ]
    assert read_told(differences) == [cases[3]]


def test_vllm_is_asked_in_its_own_environment(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = read_told(recorded)[0]
    python = stand_in(tmp_path / "python", "0.33.1", told.answer | {"vllm": "0.33.1"})
    one, kept = tmp_path / "one.jsonl", tmp_path / "kept.jsonl"
    write_told(one, [Told(told.case, {})])
    assert run("--vllm-python", python, "--replay", str(one), "--record", str(kept)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "warning: vLLM 0.33.1 was not tried, 0.32 was: its rules may be others",
        "1 of 1 cases at vLLM's own instants (vLLM 0.33.1)",
    ]
    assert read_told(kept) == [Told(told.case, told.answer | {"vllm": "0.33.1"})]


def test_where_vllm_gives_up_that_is_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = stand_in(tmp_path / "python", "0.32.0", {"vllm": "0.32.0", "error": "RuntimeError: no more"})
    assert run("--vllm-python", python, "--cases", "12", "-o", str(tmp_path)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "case 0 of seed 1: vLLM: RuntimeError: no more"
    assert lines[10] == "and 2 more"
    assert lines[-1] == "0 of 12 cases at vLLM's own instants (vLLM 0.32.0)"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--vllm-python: is needed, except with --replay"),
        (["--vllm-python", "/nowhere"], "/nowhere: No such file or directory"),
        (["--vllm-python", sys.executable], "vLLM does not run there: "),
        (["--replay", "/nowhere"], "/nowhere: cannot be read: No such file or directory"),
        (["--replay", __file__], "line 1: must be a case with its answer"),
        (["--replay", "/dev/null"], "/dev/null: has no cases"),
        (["--vllm-python", "x", "--cases", "0"], "--cases 0: must be 1 at least"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run(*arguments)
    assert left.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_vllm_that_is_too_old_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = stand_in(tmp_path / "python", "0.19.1", {})
    with pytest.raises(SystemExit):
        run("--vllm-python", python)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith(f"{python}: vLLM 0.19.1 is there: must be 0.32 or newer")


def test_cases_share_what_is_there_to_be_shared() -> None:
    for seed in range(300):
        case = draw_case(np.random.default_rng([9, seed]))
        options = case["options"]
        for i, (parent, shared) in enumerate(zip(case["parent"], case["shared"], strict=True)):
            if parent >= 0:
                assert parent < i
                assert 1 <= shared <= case["prompt"][i]
                assert shared <= case["prompt"][parent] + case["output"][parent]
            else:
                assert shared == 0
        assert sorted(case["arrival"]) == case["arrival"]
        assert options["max_num_seqs"] <= options["max_num_batched_tokens"]
        longest = options["max_model_len"] or 10**6
        for prompt, output in zip(case["prompt"], case["output"], strict=True):
            kept = min(prompt + output, longest) - 1
            assert kept <= (options["num_gpu_blocks"] - 1) * options["block_size"]
