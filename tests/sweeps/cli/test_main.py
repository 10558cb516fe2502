import inspect
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
import xarray as xr
from packaging.version import Version
from typer.testing import CliRunner

from batchcube.calibration.coefficients import MOST_RUNNING, TOKEN_BUDGET
from batchcube.engine.continuous.model import BLOCK_TOKENS
from batchcube.engine.statistics import QUANTILES
from batchcube.results.precision import MOST
from batchcube.sweeps.cli import capacity as cli_capacity
from batchcube.sweeps.cli.main import _refused, app, command, main
from batchcube.sweeps.run.capacity import GROWTH, TOLERANCE
from helpers.command_line import Answer
from helpers.specifications import RATES, SMALL

COMMANDS = [
    "run",
    "check",
    "capacity",
    "specs",
    "show",
    "figures",
    "figure",
    "rerun",
    "compare",
    "variables",
    "schema",
    "validate",
    "data",
]
GROUPS = ["data", "reproduce", "calibrate"]


# Help ---------------------------------------------------------------------------------------------------------------


def test_help_lists_every_command() -> None:
    for arguments in ([], ["--help"], ["-h"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0
        assert all(f"\n  {command} " in result.output for command in [*COMMANDS, *GROUPS])


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ("figures", "variables", "data")])
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"    batchcube {command} " in result.output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom batchcube.sweeps.cli.main import app\n"
        "try: app(['--help'], standalone_mode=False)\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'numba', 'jax', 'pydantic', 'xarray', 'pandas', 'scipy', 'matplotlib', 'netCDF4', 'pooch'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert Answer(capsys, "--version").out == f"{version('batchcube')}\n"


# Commands that work -------------------------------------------------------------------------------------------------


def test_variables_figures_and_data_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "latency_mean_s" in Answer(capsys, "variables", "latency_mean_s").out
    assert "throughput-vs-bins" in Answer(capsys, "figures").out
    assert "azure-conv-2023" in Answer(capsys, "data", "list").out


def test_text_of_others_never_reaches_the_terminal_as_it_is(
    spec: str, cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(spec).write_text((SMALL + RATES).replace("A small sweep", "\\u001b]0;owned\\u0007"))
    foreign = xr.load_dataset(cube)
    foreign.attrs |= {"title": "\x1b[31mred", "notes": "one\x1b[2J\ntwo", "backend": "\x9b1m"}
    foreign["a\x9b"] = foreign["utilisation"]
    foreign.to_netcdf("foreign.nc")
    answers = [Answer(capsys, *words) for words in (["check", spec], ["show", "foreign.nc"], ["run", spec])]
    answers += [Answer(capsys, "compare", cube, "foreign.nc"), Answer(capsys, "show", "a\x1b[2J.nc")]
    for answer in answers:
        assert not {"\x1b", "\x07", "\x9b"} & set(answer.out + answer.err)
    assert "\\x1b]0;owned\\x07" in answers[0].out
    assert "\\x1b[31mred" in answers[1].out
    assert "note: one\\x1b[2J\nnote: two\n" in answers[1].out
    assert "a\\x9b" in answers[3].out


def test_names_of_vllm_are_taken_and_what_they_are_here_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    answer = Answer(capsys, "check", "continuous-rate", "--set", "block_size=8", "--set", "max-num-batched-tokens=512")
    assert answer.status == 0
    assert answer.err.splitlines() == [
        "continuous-rate: block_size is server.replica.block_tokens here",
        "continuous-rate: max-num-batched-tokens is server.replica.token_budget here",
    ]


# Mistakes: one line, exit status 2, nothing written -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "nonsense: no such command"),
        (["run", "small.toml", "--backend", "gpu"], "--backend gpu: must be one of numba, jax, reference"),
        (["reproduce", "modes", "--backend", "gpu"], "--backend gpu: must be one of numba, jax, reference"),
        (["run", "missing.toml"], "missing.toml: cannot be read: No such file or directory"),
        (["run", "missing"], "missing: no such file, and no preset of that name"),
        (["run", "smal.toml"], "smal.toml: cannot be read: No such file or directory; did you mean small.toml"),
        (
            ["check", "multi-bin-fig3.toml"],
            "multi-bin-fig3.toml: cannot be read: No such file or directory; did you mean multi",
        ),
        (["run", "small.toml", "--set", "policy.batch_size=-1"], "small.toml: policy.batch_size = -1: must be >= 1"),
        (["run", "small.toml", "--set", "policy.batch_size"], "--set policy.batch_size: must be path=value"),
        (["run", "small.toml", "-n", "0"], "small.toml: replications = 0: must be >= 1"),
        (["run", "small.toml", "-o", "small.toml/x.nc"], "small.toml: is a file, must be a folder"),
        (["run", "small.toml", "-o", "."], ".: is a folder, must be a file name"),
        (["run", "small.toml", "-o", "x.csv"], "x.csv: must end in .nc or .zarr"),
        (["run", "small.toml", "-o", "new/x"], "new/x: must end in .nc or .zarr"),
        (["run", "small.toml", "-o", "x.csv", "--shard", "1/2"], "x.csv: must end in .nc or .zarr"),
        (["capacity", "small.toml", "--slo", "wait_max_s=9", "-o", "x.csv"], "x.csv: must end in .nc or .zarr"),
        (["join", "a.nc", "b.nc", "-o", "x.csv"], "x.csv: must end in .nc or .zarr"),
        (["check", "binary.toml"], "binary.toml: is no TOML: byte 0x89 at offset 0 is not UTF-8 text"),
        (["show", "small.toml"], "small.toml: is no NetCDF file; batchcube run makes a cube of a specification"),
        (["check", "cube.toml"], "cube.toml: is NetCDF, no TOML; batchcube show prints a cube"),
        (["calibrate", "show", "qwen"], "coefficients qwen: none of that name; did you mean qwen3-"),
        (["show", "missing.nc"], "missing.nc: no such file"),
        (["rerun", "small.toml", "-o", "x.nc"], "small.toml: is no NetCDF file"),
        (["compare", "small.toml", "small.toml"], "small.toml: is no NetCDF file"),
        (["figure", "bins", "missing.nc", "-o", "x.png"], "missing.nc: no such file"),
        (["figure", "bins", "missing.nc", "-o", "x.png", "--select", "bins"], "--select bins: must be name=value"),
        (["variables", "latency"], "latency: no such variable"),
        (["specs", "missing"], "missing: no preset of that name"),
        (["specs", "-o", "x.toml"], "--output: needs the name of a preset"),
        (["data", "path", "missing"], "dataset 'missing': not known: must be one of burstgpt-1, "),
        (["data", "path", "azure-conv"], "dataset 'azure-conv': not known: did you mean azure-conv-2023?"),
        (
            ["calibrate", "show", "qwen3-cpu-vllm"],
            "coefficients qwen3-cpu-vllm: none of that name; did you mean qwen3-",
        ),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    spec: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("binary.toml").write_bytes(b"\x89PNG\r\n\x1a\n")
    Path("cube.toml").write_bytes(b"\x89HDF\r\n\x1a\n")
    before = sorted(os.listdir())
    assert Answer(capsys, *arguments).mistake.startswith(message)
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shwo"], "shwo: no such command; did you mean show?"),
        (["nonsense..."], "nonsense...: no such command"),
        (["it's"], "it's: no such command"),
        (["x. Did you mean y"], "x. Did you mean y: no such command"),
        (["calibrate", "shwo"], "shwo: no such command; did you mean show?"),
        (["calibrate"], "no command; see batchcube calibrate --help"),
        (["run"], "SPEC: is missing"),
        (["calibrate", "table", "t.csv", "--output"], "--output: requires an argument"),
        (["run", "small.toml", "--quiet=1"], "--quiet: does not take a value"),
        (["run", "small.toml", "--nonsense"], "--nonsense: no such option; did you mean --seed?"),
        (["plan", "--js"], "--js: no such option; did you mean --json, --set or --slo?"),
        (["run", "small.toml", "more"], "more: too many arguments"),
        (["run", "small.toml", "b", "c"], "b c: too many arguments"),
    ],
)
def test_what_typer_refuses_is_said_like_all_else(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert Answer(capsys, *arguments).mistake == message


@pytest.mark.parametrize(
    ("arguments", "message", "without_pydantic"),
    [
        (["run", "s.toml", "--workers", "0"], "--workers 0: must be >= 1", "--workers: 0 is not in the range x>=1"),
        (
            ["run", "s.toml", "--workers", "x"],
            "--workers x: must be a whole number",
            "--workers: 'x' is not a valid integer range",
        ),
        (["plan", "--rate", "abc"], "--rate abc: must be a number", "--rate: 'abc' is not a valid float"),
    ],
)
def test_values_that_typer_refuses_are_said_like_all_else(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, without_pydantic: str
) -> None:
    """From typer 0.29 on, which has them from pydantic; in typer's words before."""
    before = Version(version("typer")) < Version("0.29")
    assert Answer(capsys, *arguments).mistake == (without_pydantic if before else message)


def test_what_typer_has_no_field_for_is_said_in_its_words() -> None:
    (rate,) = (param for param in command().commands["plan"].params if param.name == "rate")
    assert (
        str(_refused(typer.BadParameter("'x' is not a valid float.", param=rate))) == "--rate: 'x' is not a valid float"
    )
    for kind in typer.BadParameter.__mro__[1:3]:  # of usage, and all of typer's
        assert str(_refused(kind("Nothing (at all) fits."))) == "Nothing (at all) fits"


def test_what_help_says_of_defaults_is_so(capsys: pytest.CaptureFixture[str]) -> None:
    """The command line starts without what defines them."""
    defaults = {
        name: parameter.default for name, parameter in inspect.signature(cli_capacity.capacity).parameters.items()
    }
    assert (defaults["tolerance"], defaults["growth"]) == (TOLERANCE, GROWTH)
    said = " ".join(Answer(capsys, "capacity", "--help").out.split())
    assert ", ".join(f"p{100 * q:g}" for q in QUANTILES) in said
    said = " ".join(Answer(capsys, "run", "--help").out.split())
    assert f"{MOST} when left out" in said
    said = " ".join(Answer(capsys, "validate", "--help").out.split())
    for number in (MOST_RUNNING, TOKEN_BUDGET, BLOCK_TOKENS):
        assert f"{number} when nothing says" in said


def test_several_mistakes_are_a_line_each(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = Answer(capsys, "check", spec, "--set", "policy.batch_size=0", "--set", "server.servers=0")
    assert answer.status == 2
    assert answer.err.splitlines() == [
        "batchcube: small.toml: policy.batch_size = 0: must be >= 1",
        'batchcube: small.toml: server.servers = 0: must be a whole number from 1 to 100000, or "infinite"',
    ]


def test_an_unwritable_folder_is_refused(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("sealed").mkdir(mode=0o555)
    if os.access("sealed", os.W_OK):
        pytest.skip("this user may write anywhere")
    assert (
        Answer(capsys, "run", spec, "-o", "sealed/x.nc").mistake == "sealed/x.nc: cannot be written: Permission denied"
    )


def test_a_fault_of_the_program_is_not_called_a_mistake(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        int("x")

    monkeypatch.setattr("batchcube.sweeps.run.execution.run_sweep", broken)
    with pytest.raises(ValueError, match="invalid literal"):
        main(["run", spec, "-q"])


# A process of its own -----------------------------------------------------------------------------------------------


def process(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "batchcube.sweeps.cli.main", *arguments]


def test_a_mistake_ends_the_process_with_status_2_and_no_traceback(spec: str) -> None:
    done = subprocess.run(process("run", spec, "--set", "seed=x"), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == 'batchcube: small.toml: seed = "x": must be a whole number\n'


def test_jax_is_not_loaded_unless_it_is_asked_for(spec: str) -> None:
    code = (
        "import sys\nfrom batchcube.sweeps.cli.main import main\n"
        f"try: main(['run', {spec!r}, '-q'])\nexcept SystemExit as left: print(left.code)\n"
        "print('numba' in sys.modules, 'jax' in sys.modules, 'jaxlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\nTrue False False\n"


@pytest.mark.parametrize("arguments", [["run", "small.toml"], ["reproduce", "multi-bin"]], ids=lambda a: a[0])
def test_a_backend_that_is_not_installed_is_said_in_a_line_before_anything_is_written(
    spec: str, arguments: list[str]
) -> None:
    # What Python does for a package that is not there.
    code = (
        "import sys\nsys.modules['jax'] = None\nfrom batchcube.sweeps.cli.main import main\n"
        f"main({[*arguments, '--backend', 'jax', '-o', 'out/made']!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == (
        "batchcube: jax is not installed: in the clone, pip install '.[jax]' (or '.[cuda]' for NVIDIA GPUs)\n"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert os.listdir() == ["small.toml"]


def test_interrupt_ends_with_status_130_and_no_half_cube(spec: str) -> None:
    # Python leaves SIGINT alone in the background of a shell, where tests may run.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    arguments = ["run", spec, "-n", "100000", "--set", "workload.requests=20000"]
    program = f"{heed}; from batchcube.sweeps.cli.main import main; main({arguments!r})"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "100,000 replications" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("batchcube: stopped.")
    assert "Traceback" not in err
    assert not Path("small.nc").exists()
