"""Messages name arguments in the language that their reader speaks."""

import ast
import inspect
import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

import batchcube as bc
from batchcube import api
from batchcube.errors import InputError, quoted
from batchcube.sweeps.cli.main import command
from batchcube.sweeps.cli.options import in_options
from helpers.command_line import Answer

COMMANDS: Any = command()
GROUPS = {name for name, one in COMMANDS.commands.items() if hasattr(one, "commands")}
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("engine", "calibration", "results", "sweeps", "figures", "front")
OPTION, MARKED = re.compile(r"(?<![\w-])--[a-z][a-z-]*"), re.compile("`([a-z_]+)`")
COMMAND = re.compile(r"batchcube( [a-z]\S*)+( --[a-z-]+)*")
"""A whole command line in a message: its options stay what they are, in Python too."""
OPEN: dict[Any, set[str]] = {
    api.plan: set(api.Asked.__annotations__),
    api.capacity: {"tolerance", "growth"},
}
"""What is taken as keywords beside what a signature names."""
PLACES = {"column", "coefficients", "figure", "format", "replications", "report", "row"}
"""What an error may be in, and an option is called, too: places of files, settings, things."""
OWN = ("engine/continuous/", "sweeps/theory/", "results/selection.py", "results/summary.py")
"""Where arguments are refused that no command hands on."""
LIMITS = {"ttft_p99_s": 2.0}
SERVED = {"model": "llama-3.1-8b", "gpu": "h100", "rate": 1.0}
LAW = "qwen3-0.6b-cpu-vllm"


@pytest.fixture
def cube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    few = {"workload.requests": 100, "replications": 1, "axes.error_probability.values": [0.1]}
    bc.run(bc.load_spec("multi-bin-fig8", few), "cube.nc", quiet=True)
    return Path("cube.nc")


def refused(function: Any, *given: Any, **named: Any) -> str:
    with pytest.raises(bc.InputError) as caught:
        function(*given, **named)
    return str(caught.value)


def arguments_of(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters) | OPEN.get(function, set())


# From Python ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "named", "names"),
    [
        ((), {}, {"slo"}),
        ((None, LIMITS), {}, {"rate", "spec", "model", "gpu", "coefficients"}),
        ((None, LIMITS), {"rate": -1.0}, {"rate"}),
        ((None, LIMITS), {"rate": 1.0, "model": "x"}, {"gpu", "spec", "rate", "model", "coefficients"}),
        ((None, LIMITS), {"rate": 1.0, "coefficients": LAW}, {"coefficients", "settings"}),
        ((None, LIMITS), {"rate": 1.0, "coefficients": LAW, "tensor_parallel": 2}, {"coefficients", "tensor_parallel"}),
        ((None, LIMITS), SERVED | {"lengths": "a.csv", "trace": "b.csv"}, {"lengths", "trace"}),
        ((None, {"ttft_p99_ms": 2.0}), SERVED, {"slo"}),
        ((None, ["ttft"]), SERVED, {"slo"}),
        ((None, ["ttft_p99_s=2", "ttft_p99_s=3"]), SERVED, {"slo"}),
        ((None, ["ttft_p99_s"]), SERVED, {"slo"}),
        ((None, ["ttft_p99=2s"]), SERVED, {"slo"}),
        ((None, ["ttft:2000"]), SERVED, {"slo", "settings"}),
        ((None, ["ttft_p99_s=2", "ttft_mean_s=1"]), SERVED | {"goodput": 0.9}, {"slo", "settings"}),
        ((), SERVED | {"goodput": 2.0}, {"goodput"}),
        ((None, LIMITS), SERVED | {"replicas_max": 0}, {"replicas_max"}),
        ((None, LIMITS), SERVED | {"tensor_parallel": 0}, {"tensor_parallel"}),
        ((None, LIMITS), SERVED | {"rate": "1"}, {"rate"}),
        ((None, LIMITS), SERVED | {"goodput": "0.9"}, {"goodput"}),
        ((None, LIMITS), SERVED | {"confidence": 1.0}, {"confidence"}),
        ((None, LIMITS), SERVED | {"indifference": 0.0}, {"indifference"}),
        ((None, LIMITS), SERVED | {"gpu_price": 0.0}, {"gpu_price"}),
        ((None, LIMITS), SERVED | {"objective": "x"}, {"objective"}),
        ((None, LIMITS), SERVED | {"budget": "much"}, {"budget"}),
        ((None, LIMITS), SERVED | {"vary": {"policy.bins": 1}}, {"vary"}),
        ((None, LIMITS), SERVED | {"vary": {"server.servers": [1, 2]}}, {"vary", "replicas_max"}),
        ((None, LIMITS), SERVED | {"vary": {"workload.arrivals.rate_per_s": [1]}}, {"vary", "rate"}),
        ((None, LIMITS), SERVED | {"vary": {"policy.bins": [1]}, "settings": {"policy.bins": 2}}, {"vary", "settings"}),
        ((None, LIMITS), SERVED | {"settings": ["policy.bins"]}, {"settings"}),
        (("continuous-rate", LIMITS), {}, {"rate"}),
        (("continuous-rate", LIMITS), SERVED, {"model", "spec"}),
        (({}, LIMITS), {}, {"spec", "settings"}),
    ],
)
def test_a_plan_names_its_own(given: tuple[Any, ...], named: dict[str, Any], names: set[str]) -> None:
    said = refused(bc.plan, *given, quiet=True, **named)
    assert OPTION.findall(COMMAND.sub("", said)) == []
    assert set(MARKED.findall(said)) == names <= arguments_of(api.plan)


def test_the_other_functions_name_their_own(cube: Path) -> None:
    for function, given, named, names in (
        (api.run, ("multi-bin-fig8",), {"max_replications": 9}, {"max_replications"}),
        (api.run, ("multi-bin-fig8",), {"precision": "9%", "max_replications": 2}, {"max_replications"}),
        (api.load_spec, ("multi-bin-fig8", ["policy.bins"]), {}, {"settings"}),
        (api.capacity, ("multi-bin-fig8", {}), {}, {"slo"}),
        (api.capacity, ("multi-bin-fig8", {"latency": 1.0}), {}, {"slo"}),
        (api.capacity, ("multi-bin-fig8", {"latency_mean_s": 9.0}), {"low": 1.0}, {"low", "high"}),
        (api.capacity, ("multi-bin-fig8", {"latency_mean_s": 9.0}), {"low": 2.0, "high": 1.0}, {"low", "high"}),
        (api.capacity, ("multi-bin-fig8", {"latency_mean_s": 9.0}), {"growth": 2.0}, {"growth"}),
        (api.capacity, ("multi-bin-fig8", {"latency_mean_s": 9.0}), {"tolerance": 0.0}, {"tolerance"}),
        (api.capacity, ("multi-bin-fig8", {"latency_mean_s": 9.0}), {"growth": None}, {"growth"}),
        (api.capacity, ("multi-bin-fig8", {"latency_mean_s": 9.0}), {"tolerance": "5%"}, {"tolerance"}),
        (api.capacity, ("multi-bin-fig8", {"latency_mean_s": 9.0}), {"low": "1", "high": "2"}, {"low"}),
        (api.capacity, ("multi-bin-fig8", None), {}, {"slo"}),
        (api.run, ("multi-bin-fig8",), {"precision": 0.02}, {"precision"}),
        (api.run, ("multi-bin-fig8",), {"precision": [0.02]}, {"precision"}),
        (api.run, ("multi-bin-fig8",), {"workers": "all"}, {"workers"}),
        (api.run, ("multi-bin-fig8",), {"workers": True}, {"workers"}),
        (api.run, ("multi-bin-fig8",), {"precision": "2%", "max_replications": 2.5}, {"max_replications"}),
        (api.run, (None,), {}, {"sweep"}),
        (api.simulate, ("multi-bin-fig8", ["bins"]), {}, {"at"}),
        (api.simulate, ("multi-bin-fig8",), {"replication": "1"}, {"replication"}),
        (api.simulate, ({}, None), {"requests": 3}, {"requests"}),
        (api.register, (len,), {}, {"policy"}),
        (api.extend, (cube,), {"replications": 0}, {"replications"}),
        (api.extend, (cube,), {}, {"settings", "replications"}),
        (api.join, ([cube, cube], cube), {}, {"overwrite"}),
    ):
        said = refused(function, *given, **named)
        assert OPTION.findall(COMMAND.sub("", said)) == []
        assert set(MARKED.findall(said)) == names <= arguments_of(function), said


def test_a_keyword_that_there_is_none_of_is_refused() -> None:
    assert refused(bc.plan, None, LIMITS, gpu_prise=2.0) == "`gpu_prise`: no such argument; did you mean gpu_price?"
    asked = {"tolerence": 0.1}
    said = refused(bc.capacity, "multi-bin-fig8", {"latency_mean_s": 9.0}, **asked)
    assert said == "`tolerence`: no such argument; must be one of tolerance, growth"


def test_what_a_plan_keeps_is_said_without_names() -> None:
    few = {"workload.requests": 300}
    answer = bc.plan(None, LIMITS, goodput=0.9, settings=few, confidence=0.999, quiet=True, **SERVED)
    said, _ = str(answer).split("\nserve ")
    assert OPTION.findall(said) == MARKED.findall(said) == []
    for text in ("goodput counts requests", "lognormal", "the price of a GPU"):
        assert text in " ".join(said.split())


# From the command line -----------------------------------------------------------------------------------------------


def options_of(*command: str) -> set[str]:
    found = reduce(lambda group, name: group.commands[name], command, COMMANDS)
    return {option for one in found.params for option in one.opts}


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "--rate=1"),
        ("plan", "--rate=-1", "--slo=ttft_p99_s=2"),
        ("plan", "--slo=ttft_p99_s=2"),
        ("plan", "--slo=ttft_p99_s=2", "--rate=1", "--vary=server.servers=1,2", f"--coefficients={LAW}"),
        ("plan", "--slo=ttft_p99_s=2", "--rate=1", f"--coefficients={LAW}"),
        ("plan", "continuous-rate", "--slo=ttft_p99_s=2"),
        ("plan", "continuous-rate", "--slo=ttft:2000"),
        ("run", "multi-bin-fig8", "--set=policy.bins=4"),
        ("run", "multi-bin-fig8", "--max-replications=9"),
        ("run", "multi-bin-fig8", "--precision=two"),
        ("run", "multi-bin-fig8", "--backend=gpu"),
        ("run", "multi-bin-fig8", "--executor=x"),
        ("run", "multi-bin-fig8", "--shard=x"),
        ("calibrate", "table", "cube.nc", "--layout=x", "--column=a=b"),
        ("capacity", "multi-bin-fig8", "--slo=latency_mean_s=9", "--low=1"),
        ("extend", "cube.nc"),
        ("join", "cube.nc", "cube.nc", "-o", "cube.nc"),
        ("show", "cube.nc", "--select=x=1"),
    ],
)
def test_a_command_names_its_own(cube: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    said = Answer(capsys, *arguments).mistake
    assert MARKED.findall(said) == []
    assert set(OPTION.findall(said)) <= options_of(*arguments[: 1 + (arguments[0] in GROUPS)])
    assert OPTION.search(said)


def test_what_is_in_backticks_and_no_argument_stays() -> None:
    assert in_options("`rate` -1: `settings` a=2, `gpu_price`; without `spec`, `batchcube run x`; `model_type`; `") == (
        "--rate -1: --set a=2, --gpu-price; without SPEC, `batchcube run x`; `model_type`; `"
    )


def test_what_others_wrote_names_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    theirs = OSError("Should have a `model_type` key;\n set `rate`")
    refused = InputError(quoted(theirs), path="`model`", value="`rate`")
    assert in_options(str(refused)) == "--model 'rate': Should have a 'model_type' key; set 'rate'"
    assert Answer(capsys, "plan", "--slo=`rate`=3", "--rate=1").mistake.startswith("--slo 'rate'=3: ")
    assert (
        Answer(capsys, "calibrate", "table", "x.csv", "--select=`rate`").mistake
        == "--select 'rate': must be name=value"
    )


# Everywhere ----------------------------------------------------------------------------------------------------------


def mistakes() -> Iterator[tuple[str, ast.Call]]:
    """Yield all errors that are raised outside the command line, with their files."""
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        place = file.relative_to(ROOT).as_posix()
        if place.startswith("sweeps/cli/"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Error"):
                yield place, node


def texts_of(node: ast.AST) -> Iterator[str]:
    return (one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str))


def is_option(name: str) -> bool:
    return in_options(f"`{name}`") != f"`{name}`"


def test_every_argument_in_an_error_is_an_option() -> None:
    texts = [(place, text) for place, node in mistakes() for text in texts_of(node)]
    named = {name for _, text in texts for name in MARKED.findall(text)}
    assert len(named) > 30
    assert {name for name in named if not is_option(name)} == {"at", "policy", "replication", "requests", "sweep"}
    assert {"at", "replication", "requests", "sweep"} <= arguments_of(api.simulate)
    assert "policy" in arguments_of(api.register)
    vllms = ("sweeps/serving/scheduling.py", "--scheduling-policy ")
    assert [one for one in texts if one != vllms and OPTION.search(COMMAND.sub("", one[1]))] == []


def test_every_argument_at_fault_is_marked() -> None:
    bare = set()
    for place, node in mistakes():
        paths = (one.value for one in node.keywords if one.arg == "path")
        first = next((text for path in paths for text in texts_of(path)), "").split()
        if (
            first
            and first[0].isidentifier()
            and is_option(first[0])
            and first[0] not in PLACES
            and not place.startswith(OWN)
        ):
            bare.add((place, first[0]))
    assert bare == set()
