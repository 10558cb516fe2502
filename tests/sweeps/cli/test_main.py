import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from typer.testing import CliRunner

from batchcube.results.cube import read_cube, write_cube
from batchcube.results.provenance import batchcube_version
from batchcube.sweeps import presets
from batchcube.sweeps.cli.main import app, main
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


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SMALL + RATES)
    return "small.toml"


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cube")
    (folder / "small.toml").write_text(SMALL + RATES)
    with pytest.raises(SystemExit) as left:
        main(["run", str(folder / "small.toml"), "-o", str(folder / "small.nc"), "--quiet"])
    assert left.value.code == 0
    return folder / "small.nc"


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


def test_run_writes_a_cube_and_continues_it(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = Answer(capsys, "run", spec)
    assert answer.status == 0
    assert "6 points x 3 replications" in answer.err
    assert "small.nc: bins 3, arrival_rate_per_s 2, replication 3" in answer.err
    first = read_cube("small.nc")
    assert Answer(capsys, "run", spec, "-n", "4", "-q").err == ""
    longer = read_cube("small.nc")
    xr.testing.assert_equal(longer["latency_mean_s"].isel(replication=[0, 1, 2]), first["latency_mean_s"])
    assert longer.sizes["replication"] == 4


def test_run_lays_settings_over(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "axes.bins.values=[1, 3]", "--set", "policy.batch_size=2", "--seed", "7"]
    assert Answer(capsys, "run", spec, "-o", "other.nc", *settings, "--workers", "1", "-q").status == 0
    other = read_cube("other.nc")
    assert other["bins"].values.tolist() == [1, 3]
    assert other.attrs["seed"] == 7
    assert json.loads(other.attrs["specification"])["policy"]["batch_size"] == 2


def test_check_of_many_points_says_how_far_it_is(
    spec: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Answer(capsys, "check", spec).err == ""
    monkeypatch.setattr("batchcube.sweeps.cli.main.MANY_POINTS", 6)
    assert Answer(capsys, "check", spec).err == "checking points: 6 of 6, 0:00:00 left\n"


def test_check_says_how_large_a_sweep_is(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = Answer(capsys, "check", spec).out
    assert "A small sweep" in out
    assert "bins (policy.bins): 1, 2, 4" in out
    assert "6 points x 3 replications = 720 requests" in out
    assert not Path("small.nc").exists()


def test_rerun_gives_the_same_data_and_compare_says_so(
    cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again, other = tmp_path / "again.nc", tmp_path / "other.nc"
    assert Answer(capsys, "rerun", cube, "-o", again, "-q").status == 0
    same = Answer(capsys, "compare", cube, again)
    assert same.status == 0
    assert "exactly the same" in same.out
    assert "latency_mean_s" not in same.out
    assert "latency_mean_s" in Answer(capsys, "compare", cube, again, "--all").out
    assert Answer(capsys, "run", cube.with_suffix(".toml"), "-o", other, "-q", "--seed", "2").status == 0
    different = Answer(capsys, "compare", cube, other)
    assert different.status == 1
    assert "latency_mean_s" in different.out
    assert " quantile coordinate" not in different.out


def made_otherwise(cube: Path, to: Path, version: str, **defaults: Any) -> Path:
    """Write a cube as another version would have, with other defaults."""
    changed = read_cube(cube)
    recorded = json.loads(changed.attrs["specification_defaults"])
    changed.attrs |= {"specification_defaults": json.dumps({**recorded, **defaults}), "batchcube_version": version}
    write_cube(changed, to)
    return to


def test_rerun_says_what_this_version_would_do_otherwise_and_takes_the_defaults_of_the_cube(
    cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = tmp_path / "again.nc"
    old = made_otherwise(cube, tmp_path / "old.nc", "0.0.9", **{"report.windows": 7, "policy.old": 3})
    answer = Answer(capsys, "rerun", old, "-o", again, "-q")
    assert answer.status == 0
    assert answer.err == (
        f"{old}: was made by version 0.0.9, this is {batchcube_version()}; defaults taken from the cube: "
        "report.windows = 7 (50 in this one); settings that this version does not have: policy.old = 3\n"
    )
    assert read_cube(again).sizes["window"] == 7
    same = Answer(capsys, "rerun", cube, "-o", tmp_path / "same.nc", "-q")
    assert (same.status, same.err) == (0, "")


def test_rerun_refuses_what_this_version_cannot_do(
    cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = made_otherwise(cube, tmp_path / "old.nc", "0.0.9", **{"report.windows": 0})
    version, refused = Answer(capsys, "rerun", old, "-o", tmp_path / "again.nc", "-q").err.splitlines()
    assert version == f"{old}: was made by version 0.0.9, this is {batchcube_version()}"
    assert refused.startswith(f"batchcube: {old}: default report.windows = 0: this version cannot take it")
    assert not (tmp_path / "again.nc").exists()


def test_rerun_reads_no_file_that_a_default_names(
    cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = made_otherwise(cube, tmp_path / "old.nc", batchcube_version(), **{"workload.arrivals.path": "/etc/passwd"})
    answer = Answer(capsys, "rerun", old, "-o", tmp_path / "again.nc", "-q")
    assert "names /etc/passwd, which is not in its folder" in answer.mistake


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("batchcube capac", ["capacity"]),
        ("batchcube run multi-bin-fig1", ["multi-bin-fig11"]),
        ("batchcube capacity continuous-", ["continuous-bins", "continuous-rate"]),
        ("batchcube show cube.nc -v latency_quant", ["latency_quantile_s"]),
        ("batchcube run my-sweep", []),  # then the shell looks for files
    ],
)
def test_shells_complete(typed: str, completed: list[str]) -> None:
    asked = {"_BATCHCUBE_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    command = [Path(sys.executable).parent / "batchcube"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, check=True)
    assert done.stdout.split() == completed


def test_show_prints_intervals(cube: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Answer(capsys, "show", cube, "-v", "throughput_requests_per_s").out
    assert "A small sweep" in out
    assert "±" in out


def test_specs_lists_prints_and_copies_presets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = Answer(capsys, "specs").out.splitlines()
    assert [line.split()[0] for line in listed] == list(presets.names())
    name = presets.names()[0]
    text = presets.read(name).decode()
    assert Answer(capsys, "specs", name).out == text
    copy = tmp_path / "copy.toml"
    assert Answer(capsys, "specs", name, "-o", copy).status == 0
    assert copy.read_text() == text
    assert Answer(capsys, "specs", name, "-o", copy).mistake == f"{copy}: is there already"
    for other in (tmp_path / "copy.txt", tmp_path / "copy"):
        assert Answer(capsys, "specs", name, "-o", other).mistake == f"{other}: must end in .toml"
        assert not other.exists()


def test_schema_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(Answer(capsys, "schema").out)["title"] == "batchcube sweep"


def test_variables_figures_and_data_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "latency_mean_s" in Answer(capsys, "variables", "latency_mean_s").out
    assert "throughput-vs-bins" in Answer(capsys, "figures").out
    assert "azure-conv-2023" in Answer(capsys, "data", "list").out


def test_a_figure_is_drawn(cube: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "bins.png"
    arguments = ["--select", "arrival_rate_per_s=0.2", "--option", "width_mm=100"]
    assert Answer(capsys, "figure", "throughput-vs-bins", cube, "-o", picture, *arguments).status == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


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


# Mistakes: one line, exit status 2, nothing written -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'."),
        (["run"], "Missing argument 'SPEC'."),
        (["run", "small.toml", "--nonsense"], "No such option: --nonsense"),
        (["run", "small.toml", "--workers", "0"], "Invalid value for '--workers'"),
        (["run", "small.toml", "--workers", "x"], "Invalid value for '--workers'"),
        (["run", "small.toml", "--backend", "gpu"], "backend = 'gpu': must be one of numba, jax, reference"),
        (["reproduce", "modes", "--backend", "gpu"], "backend = 'gpu': must be one of numba, jax, reference"),
        (["run", "missing.toml"], "missing.toml: cannot be read: No such file or directory"),
        (["run", "missing"], "missing: no such file, and no preset of that name"),
        (["run", "small.toml", "--set", "policy.batch_size=-1"], "small.toml: policy.batch_size = -1: must be >= 1"),
        (["run", "small.toml", "--set", "policy.batch_size"], "--set policy.batch_size: must be path=value"),
        (["run", "small.toml", "-n", "0"], "small.toml: replications = 0: must be >= 1"),
        (["run", "small.toml", "-o", "small.toml/x.nc"], "small.toml: is a file, must be a folder"),
        (["run", "small.toml", "-o", "."], ".: is a folder, must be a file name"),
        (["check", "binary.toml"], "binary.toml: is no TOML: byte 0x89 at offset 0 is not UTF-8 text"),
        (["show", "small.toml"], "small.toml: is no NetCDF file"),
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
    Path("binary.toml").write_bytes(b"\x89HDF\r\n\x1a\n")
    before = sorted(os.listdir())
    assert Answer(capsys, *arguments).mistake.startswith(message)
    assert sorted(os.listdir()) == before


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


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "batchcube.sweeps.cli.main", *arguments]


def test_a_mistake_ends_the_process_with_status_2_and_no_traceback(spec: str) -> None:
    done = subprocess.run(command("run", spec, "--set", "seed=x"), capture_output=True, text=True)
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
    arguments = command("run", spec, "-n", "100000", "--set", "workload.requests=20000")
    # Even where the tests run in the background of a shell, which ignores SIGINT.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        assert process.stderr is not None
        assert "100000 replications" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("batchcube: stopped.")
    assert "Traceback" not in err
    assert not Path("small.nc").exists()
