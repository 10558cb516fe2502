"""The one exception that refuses input, and what becomes of every other one."""

import ast
import copyreg
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from batchcube.errors import InputError, InputErrors, did_you_mean, found_in, one_of, suggestion
from batchcube.sweeps.cli import main as cli

ROOT = Path(__file__).resolve().parents[2]
PORTIONS = ("engine", "sweeps", "calibration", "results", "figures")


def test_a_line_has_what_is_known_and_no_more() -> None:
    whole = InputError("no such rate", file="a.toml", path="policy.bins", value=3, allowed="must be 1", point="x = 2")
    assert str(whole) == "a.toml: policy.bins = 3: no such rate: must be 1 (at x = 2)"
    assert str(InputError("is empty")) == "is empty"
    assert str(InputError("is empty", file=Path("a.csv"))) == "a.csv: is empty"
    assert str(InputError("must be >= 1", path="bins", value=0)) == "bins = 0: must be >= 1"


def test_more_is_told_on_the_way_up_and_the_first_keeps_what_it_says() -> None:
    first = InputError("is no number", path="row 3", allowed="must be >= 0")
    told = first.at(file="sweep.toml", path="workload.trace", point="rate = 2")
    assert str(told) == "sweep.toml: workload.trace: row 3: is no number: must be >= 0 (at rate = 2)"
    assert (told.file, told.path, told.point) == ("sweep.toml", "workload.trace: row 3", "rate = 2")
    assert told.at(point="rate = 4").point == "rate = 2"
    in_a_file = first.at(file="trace.csv").at(file="sweep.toml", point="rate = 2")
    assert str(in_a_file) == "sweep.toml: trace.csv: row 3: is no number: must be >= 0"
    assert str(first) == "row 3: is no number: must be >= 0"
    assert str(first.advised("or leave it out")) == "row 3: is no number: must be >= 0; or leave it out"
    assert str(InputError("is there").advised("remove it")) == "is there; remove it"


def test_a_block_says_where_the_mistakes_are_that_it_finds_and_leaves_faults_alone() -> None:
    with (
        pytest.raises(InputError, match=r"^log.jsonl: line 3: is no number$"),
        found_in(file="log.jsonl", path="line 3"),
    ):
        raise InputError("is no number")
    with pytest.raises(ValueError, match=r"^math domain error$") as fault, found_in(file="log.jsonl"):
        raise ValueError("math domain error")
    assert type(fault.value) is ValueError


def test_foreign_text_stays_on_one_line() -> None:
    assert str(InputError("two\nlines", file="\x1b[2J")) == "\\x1b[2J: two\\nlines"


def test_several_are_one_line_each() -> None:
    both = InputErrors([InputError("is empty", file="a"), InputError("must be 1", file="a", path="b", value="2\n")])
    assert str(both) == "a: is empty\na: b = 2\\n: must be 1"
    assert (both.file, both.problem) == ("a", "is empty")
    assert (
        str(both.at(file="c").advised("try again")) == "c: a: is empty; try again\nc: a: b = 2\\n: must be 1; try again"
    )


def test_a_notebook_shows_a_line_and_no_frames() -> None:
    both = InputErrors([InputError("is empty", file="a"), InputError("must be 1", file="b")])
    assert InputError("is empty", file="a")._render_traceback_() == ["InputError: a: is empty"]
    assert both._render_traceback_() == ["InputError: a: is empty", "InputError: b: must be 1"]


@pytest.mark.parametrize(
    "error",
    [
        InputError("no", file="f", path="p", value=1, allowed="a", point="q"),
        InputErrors([InputError("no", file="f"), InputError("neither")]),
    ],
)
def test_errors_travel_between_processes(error: InputError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))


def test_copies_have_fields_of_their_own_where_dask_is_installed_too() -> None:
    tblib = pytest.importorskip("tblib.pickling_support")
    before = copyreg.dispatch_table.copy()
    tblib.install(InputError)
    try:
        refused = InputError("no", path="p")
        assert str(refused.at(file="f", point="q")) == "f: p: no (at q)"
        assert str(refused) == "p: no"
    finally:
        copyreg.dispatch_table.clear()
        copyreg.dispatch_table.update(before)


def test_the_command_line_tells_a_mistake_and_shows_a_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(error: Exception) -> None:
        def app(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(cli, "command", lambda: app)
        cli.main([])

    with pytest.raises(SystemExit) as left:
        fails(InputErrors([InputError("is empty", file="a"), InputError("is no file", file="b")]))
    assert (left.value.code, capsys.readouterr().err) == (2, "batchcube: a: is empty\nbatchcube: b: is no file\n")
    with pytest.raises(ValueError, match=r"^could not broadcast") as fault:
        fails(ValueError("could not broadcast"))
    assert fault.value.__notes__ == [cli.FAULT]


def test_a_fault_ends_with_a_traceback_where_to_report_it_and_status_1() -> None:
    program = (
        "from batchcube.results import names\n"
        "from batchcube.sweeps.cli.main import main\n"
        "names.variables_table = lambda names: [][0]\n"
        "main(['variables'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert done.stderr.splitlines()[-2:] == ["IndexError: list index out of range", cli.FAULT]


def test_only_validators_of_settings_raise_a_plain_value_error() -> None:
    """Pydantic turns those of a validator into its own; any other would pass for a fault of ours."""
    found = []
    for file in (file for portion in PORTIONS for file in (ROOT / portion).rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if "ValueError" not in text:
            continue
        nodes = list(ast.walk(ast.parse(text)))
        called = _called_by_validators(nodes)
        of_pydantic = {
            id(node)
            for function in nodes
            if isinstance(function, ast.FunctionDef) and _validates(function, called)
            for node in ast.walk(function)
        }
        found += [
            f"{file.relative_to(ROOT)}:{node.lineno}"
            for node in nodes
            if isinstance(node, ast.Raise)
            and isinstance(node.exc, ast.Call)
            and getattr(node.exc.func, "id", "") == "ValueError"
            and id(node) not in of_pydantic
        ]
    assert found == []


def _called_by_validators(nodes: list[ast.AST]) -> set[str]:
    """Return the names of functions that are given to an AfterValidator and the like."""
    return {
        name.id
        for node in nodes
        if isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith("Validator")
        for argument in node.args
        for name in ast.walk(argument)
        if isinstance(name, ast.Name)
    }


def _validates(function: ast.FunctionDef, called: set[str]) -> bool:
    """Say whether pydantic calls a function: as a decorated method, or as one of those that validators call."""
    return function.name in called or any("validator" in ast.unparse(mark) for mark in function.decorator_list)


def test_names_are_listed_and_suggested() -> None:
    names = ("latency_mean_s", "wait_mean_s", "utilisation")
    assert one_of(names) == "latency_mean_s, wait_mean_s or utilisation"
    assert one_of(names[:1]) == "latency_mean_s"
    assert did_you_mean("latency_men_s", names[:1]) == "did you mean latency_mean_s?"
    assert did_you_mean("Latency_Mean_S", names[1:]) == did_you_mean("latency_mean_s", names[1:]) != ""
    assert did_you_mean("requests", names) == ""
    assert did_you_mean(7, names) == ""
    assert did_you_mean("lat", names) == "did you mean latency_mean_s?"
    assert did_you_mean("la", names) == ""
    assert suggestion("utilization", names) == "must be one of latency_mean_s, wait_mean_s, utilisation"
    many = [*names, *(f"window_{number}" for number in range(20))]
    assert suggestion("utilization", many) == "did you mean utilisation?"
    assert suggestion("", many) == f"must be one of {', '.join(many)}"
