import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from batchcube.calibration import hardware
from batchcube.calibration.coefficients import parse
from batchcube.calibration.measuring.bench import Cell, CellTooLargeError, Grid, Sample
from batchcube.engine.policies.service import BATCH_FACTORS
from batchcube.results.calibration import read_calibration
from batchcube.results.cube import read_cube
from batchcube.results.measurements import read_measurement
from batchcube.sweeps.calibrate.fit import fit_measurement
from batchcube.sweeps.calibrate.measure import measure_engine
from batchcube.sweeps.calibrate.report import print_coefficients
from batchcube.sweeps.cli import calibrate as cli_calibrate
from batchcube.sweeps.cli import measuring
from batchcube.sweeps.cli.main import app
from helpers.command_line import Answer
from helpers.engines import FakeEngine
from helpers.widths import check_width

COMMANDS = ["vllm", "transformers", "hardware", "fit", "table", "log", "list", "show", "memory"]
GRID = Grid((1, 2, 4), (16, 32), (4, 8), 2, 1)
CELLS = ["--batch-sizes", "1,2,4", "--prompt-tokens", "16,32", "--output-tokens", "4,8", "--repetitions", "2"]
MAPPED = ["--column=batch_size=batch_size", "--column=seconds=seconds"]
TOML = """\
name = "small"
replications = 2
[workload]
requests = 60
[workload.arrivals]
process = "poisson"
rate_per_s = 10.0
[workload.lengths]
distribution = "uniform"
low = 4
high = 8
[policy]
mode = "fifo_greedy"
batch_size = 4
[server]
service = { coefficients = "m.json" }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the commands run in; what they may set in the environment is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    return tmp_path


@pytest.fixture
def measurement(folder: Path) -> Path:
    measure_engine(FakeEngine, GRID, folder / "m.nc", quiet=True)
    return folder / "m.nc"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[FakeEngine]]:
    """Put a fake engine in place of the one of Transformers; returns the list of those that were made."""

    def put(**options: Any) -> list[FakeEngine]:
        made: list[FakeEngine] = []

        def make(model: str, **asked: Any) -> FakeEngine:
            made.append(FakeEngine(model=model, threads=asked["threads"], dtype=asked["dtype"], **options))
            return made[-1]

        monkeypatch.setattr(measuring, "_require_packages", lambda command, names, needs: None)
        monkeypatch.setattr("batchcube.calibration.measuring.transformers_engine.TransformersEngine", make)
        return made

    return put


def files() -> list[str]:
    return sorted(os.listdir())


def words(text: str) -> str:
    """The text with its lines and columns run together."""
    return " ".join(text.split())


def batch_rows(factor: float = 1.0, seed: int = 1) -> list[tuple[int, int, float]]:
    rng = np.random.default_rng(seed)
    return [
        (b, n, factor * float((0.05 + 0.01 * n * (1 + 0.1 * (b - 1))) * (1 + 0.01 * rng.standard_normal())))
        for b in (1, 2, 4, 8)
        for n in (16, 64, 128)
    ]


@pytest.fixture
def latency(folder: Path) -> str:
    """A table of whole batches in the layout of law = table."""
    rows = "\n".join(f"{b},{n},{seconds}" for b, n, seconds in batch_rows())
    (folder / "latency.csv").write_text(f"batch_size,length_tokens,seconds\n{rows}\n")
    return "latency.csv"


@pytest.fixture
def systems(folder: Path) -> str:
    """Tables of two systems in one file: prompts, tokens and whole batches."""
    rows = []
    for system, factor in (("big", 1.0), ("small", 3.0)):
        for b, n, seconds in batch_rows(factor, 2):
            rows.append(f"llama,{system},8,512,{b},{n},{1e3 * seconds},{100 * factor * b},{900 * seconds / n},0,0")
    header = (
        "model,hardware,tensor_parallel,prompt_size,batch_size,token_size,e2e_time,prompt_time,token_time,peak,mean"
    )
    (folder / "systems.csv").write_text("\n".join([header, *rows]) + "\n")
    return "systems.csv"


# Help ---------------------------------------------------------------------------------------------------------------


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(app, ["calibrate", "--help"])
    assert result.exit_code == 0
    assert all(f"\n  {command} " in result.output for command in COMMANDS)
    assert [command.name for command in cli_calibrate.app.registered_commands] == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = CliRunner().invoke(app, ["calibrate", command, "--help"])
    assert result.exit_code == 0
    assert f"    batchcube calibrate {command}" in result.output


@pytest.mark.parametrize("arguments", [["calibrate", "--help"], ["calibrate", "vllm", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom batchcube.sweeps.cli.main import app\n"
        f"try: app({arguments}, standalone_mode=False)\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'numba', 'xarray', 'pandas', 'scipy', 'matplotlib', 'netCDF4', 'torch', 'vllm'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "Usage: " in done.stdout


# Measuring ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "missing", "told"),
    [
        ("vllm", "vllm", "calibrate vllm: needs vLLM: in the clone, pip install '.[vllm]'"),
        ("vllm", "torch", "calibrate vllm: needs vLLM: in the clone, pip install '.[vllm]'"),
        (
            "transformers",
            "transformers",
            "calibrate transformers: needs torch and transformers: in the clone, pip install '.[transformers]'",
        ),
        (
            "transformers",
            "torch",
            "calibrate transformers: needs torch and transformers: in the clone, pip install '.[transformers]'",
        ),
    ],
)
def test_a_package_that_is_not_installed_is_said_and_nothing_is_written(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    missing: str,
    told: str,
) -> None:
    # What Python does for a package that is not there.
    monkeypatch.setitem(sys.modules, missing, None)
    assert Answer(capsys, "calibrate", command, "-o", "out/m.nc", "--dummy-weights").mistake.startswith(told)
    assert files() == []


def test_an_engine_is_measured_fitted_and_kept(
    folder: Path, fake: Callable[..., list[FakeEngine]], capsys: pytest.CaptureFixture[str]
) -> None:
    made = fake()
    answer = Answer(capsys, "calibrate", "transformers", "--dummy-weights", "-o", "out/m.nc", *CELLS, "--seed", "7")
    assert answer.status == 0
    (engine,) = made
    assert len(engine.timed) == 24
    assert "out/m.nc: 12 of 12 cells measured" in answer.err
    found = read_measurement("out/m.nc")
    assert (found.attrs["model"], found.attrs["seed"]) == ("qwen3-0.6b", 7)
    assert found["batch_size"].values.tolist() == [1, 2, 4]
    assert sorted(os.listdir("out")) == ["m.fit.nc", "m.json", "m.nc"]
    known = parse(Path("out/m.json").read_bytes(), "m.json")
    assert known == fit_measurement(Path("out/m.nc"))[0]
    assert read_calibration("out/m.fit.nc").attrs["name"] == "m"
    assert 'server.service = { coefficients = "out/m.json" }' in answer.out
    for fragment in (
        "qwen3-0.6b (bfloat16, random weights) with fake",
        "12 of",
        "kv_bytes_per_token = 2048",
        "5000 tok",
    ):
        assert fragment in words(answer.out + answer.err)


def test_what_is_left_out_is_listed(
    folder: Path, fake: Callable[..., list[FakeEngine]], capsys: pytest.CaptureFixture[str]
) -> None:
    fake(positions=38)
    answer = Answer(capsys, "calibrate", "transformers", "--dummy-weights", "-o", "m.nc", *CELLS)
    assert answer.status == 0
    assert "left out: batch 4, prompt 32, output 8: 40 tokens, the model has 38 positions" in answer.err
    assert answer.err.count("left out: ") == 3
    assert "m.nc: 9 of 12 cells measured" in answer.err
    fake(positions=38)
    assert Answer(capsys, "calibrate", "transformers", "-o", "q.nc", *CELLS, "--quiet").err == ""


def test_a_stopped_measurement_ends_with_130_and_goes_on(
    folder: Path, fake: Callable[..., list[FakeEngine]], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["calibrate", "transformers", "--dummy-weights", "-o", "m.nc", *CELLS]
    fake(stop_after=10)
    stopped = Answer(capsys, *command)
    assert stopped.status == 130
    assert stopped.err.splitlines()[-1] == ("batchcube: stopped. What is measured is kept: the same command continues.")
    assert files() == ["m.nc.partial"]
    made = fake()
    assert Answer(capsys, *command).status == 0
    assert len(made[0].timed) == 14
    assert files() == ["m.fit.nc", "m.json", "m.nc"]


def test_a_measurement_that_the_time_limit_ended_goes_on_with_the_same_command(
    folder: Path,
    fake: Callable[..., list[FakeEngine]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = fake()
    # A second for every run; loading takes none.
    monkeypatch.setattr(
        "batchcube.sweeps.calibrate.measure.time.monotonic", lambda: float(len(made[-1].served) if made else 0.0)
    )
    command = ["calibrate", "transformers", "--dummy-weights", "-o", "m.nc", *CELLS, "--time-limit-s"]
    nothing = Answer(capsys, *command, "6", "-q")
    assert nothing.mistake.startswith("m.nc: nothing was measured within --time-limit-s 6, ")
    assert files() == ["m.nc.partial"]
    made.clear()
    ended = Answer(capsys, *command, "20")
    assert ended.status == 0
    assert "m.nc: 12 of 12 cells measured" in ended.err
    assert ended.err.endswith("m.nc: --time-limit-s ended it; the same command goes on\n")
    assert files() == ["m.fit.nc", "m.json", "m.nc", "m.nc.partial"]
    first = Path("m.json").read_text()
    made.clear()
    last = Answer(capsys, *command, "20")
    assert last.status == 0
    assert "ended" not in last.err
    assert files() == ["m.fit.nc", "m.json", "m.nc"]
    assert (read_measurement("m.nc")["order"] >= 0).all()
    assert Path("m.json").read_text() != first
    assert Answer(capsys, *command, "20").mistake.startswith("m.json: is there already")


def test_a_grid_without_a_law_is_measured_and_nothing_is_fitted(
    folder: Path, fake: Callable[..., list[FakeEngine]], capsys: pytest.CaptureFixture[str]
) -> None:
    fake()
    cell = ["--batch-sizes", "1", "--prompt-tokens", "16", "--output-tokens", "4", "-n", "2"]
    answer = Answer(capsys, "calibrate", "transformers", "-o", "m.nc", *cell, "-q")
    assert answer.status == 0
    assert answer.out == ""
    assert answer.err.startswith("nothing was fitted: m.nc: ")
    assert answer.err.count("\n") == 1
    assert files() == ["m.nc"]
    assert (read_measurement("m.nc")["order"] >= 0).all()


def test_a_cell_that_fails_late_counts_as_measured(
    folder: Path,
    fake: Callable[..., list[FakeEngine]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = FakeEngine.run

    def fail(engine: FakeEngine, cell: Cell) -> Sample:
        if cell == (4, 32, 8) and cell in engine.timed:
            raise CellTooLargeError("the memory is in pieces")
        return run(engine, cell)

    monkeypatch.setattr(FakeEngine, "run", fail)
    fake()
    answer = Answer(capsys, "calibrate", "transformers", "-o", "m.nc", *CELLS)
    assert answer.status == 0
    assert (
        "left out after 1 of 2 runs: batch 4, prompt 32, output 8: the memory is in pieces\n"
        "m.nc: 12 of 12 cells measured\n"
    ) in answer.err


@pytest.mark.parametrize("there", ["m.nc", "m.json", "m.fit.nc"])
def test_what_is_there_is_not_written_over(
    folder: Path, fake: Callable[..., list[FakeEngine]], capsys: pytest.CaptureFixture[str], there: str
) -> None:
    made = fake()
    Path(there).write_text("mine")
    command = ["calibrate", "transformers", "--dummy-weights", "-o", "m.nc", *CELLS, "-q"]
    told = f"{there}: is there already; choose another output, or --overwrite"
    assert Answer(capsys, *command).mistake == told
    assert made == []  # told before anything is measured
    assert files() == [there]
    assert Path(there).read_text() == "mine"
    assert Answer(capsys, *command, "--overwrite").status == 0
    assert files() == ["m.fit.nc", "m.json", "m.nc"]
    assert len(made[0].timed) == 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["transformers"], "--output: is missing"),
        (["transformers", "-o", "m.json"], "m.json: must end in .nc"),
        (
            ["transformers", "-o", "m.nc", "--batch-sizes", "1,x"],
            "--batch-sizes 1,x: must be whole numbers separated by",
        ),
        (["transformers", "-o", "m.nc", "--batch-sizes", "2,1"], "--batch-sizes 2,1: must increase"),
        (["transformers", "-o", "m.nc", "--output-tokens", "1"], "--output-tokens 1: must be whole numbers >= 2"),
        (["transformers", "-o", "m.nc", "--repetitions", "0"], "--repetitions 0: must be >= 1"),
        (["transformers", "-o", "m.nc", "--threads", "0"], "--threads 0: must be >= 1"),
        (["transformers", "-o", "m.nc", "--time-limit-s", "0"], "--time-limit-s 0: must be >= 1"),
        (["transformers", "-o", "m.nc", "--seed", "-1"], "--seed -1: must be >= 0"),
        (["transformers", "-o", "m.nc", "--dtype", "fp8"], "--dtype fp8: must be one of float32, bfloat16, float16"),
        (["transformers", "-o", "my run.nc"], "my run: the name of coefficients must be letters, digits and . _ -"),
        (["transformers", "-o", "text.json/m.nc"], "text.json: is a file, must be a folder"),
        (["fit", "m.nc", "-o", "x.json", "--figures", "text.json"], "text.json: is a file, must be a folder"),
        (["fit", "m.nc", "-o", "x.json", "--figures", "text.json/x"], "text.json/x: cannot be written: "),
        (["fit", "m.nc", "-o", "text.json/x.json"], "text.json: is a file, must be a folder"),
        (["fit", "missing.nc"], "missing.nc: no such file, must be a measurement"),
        (["fit", "latency.csv"], "latency.csv: is no NetCDF file"),
        (["fit", "m.nc", "-o", "m.txt"], "m.txt: must end in .json"),
        (["fit", "m.nc", "-o", "a b.json"], "a b: the name of coefficients must be letters, digits and . _ -"),
        (["log", "missing.jsonl", "-o", "x.json"], "missing.jsonl: cannot be read: No such file or directory"),
        (["table", "missing.csv"], "missing.csv: cannot be read: No such file or directory"),
        (["table", "m.nc"], "m.nc: is not a text file"),
        (["table", "latency.csv", "--layout", "mine"], "latency.csv: --layout mine: must be one of ml-energy"),
        (["table", "latency.csv", "--column", "seconds"], "--column seconds: must be name=value"),
        (["table", "latency.csv", "--column", "time=seconds"], "latency.csv: --column time: must be one of batch_size"),
        (
            ["table", "latency.csv", "--column", "seconds=seconds"],
            "latency.csv: --column: seconds and batch_size must be",
        ),
        (["table", "latency.csv", "--select", "model=x"], "latency.csv: --select model: the layout batchcube has no"),
        (
            ["table", "latency.csv", "--unit", "ms"],
            "latency.csv: --unit ms: goes with columns mapped by name (--column)",
        ),
        (
            ["table", "latency.csv", "--layout", "batchcube", *MAPPED],
            "latency.csv: --layout batchcube: must be left out where columns are mapped by name (--column)",
        ),
        (["table", "latency.csv", "--title", "x"], "--title: is what coefficients carry: goes with -o or --figures"),
        (["table", "latency.csv", "--source", "x"], "--source: is what coefficients carry: goes with -o or --figures"),
        (
            ["table", "latency.csv", *MAPPED, "--column=length_tokens=a", "--column=output_tokens=b"],
            "latency.csv: --column: length_tokens and output_tokens are two names of one thing",
        ),
        (
            ["table", "latency.csv", *MAPPED, "--column=seconds=batch_size"],
            "--column batch_size=batch_size seconds=seconds seconds=batch_size: each name must be given once",
        ),
        (
            ["table", "latency.csv", "--select", "model=x", "--select", "model=y"],
            "--select model=x model=y: each name must be given once",
        ),
        (["table", "latency.csv", "-o", "x.txt"], "x.txt: must end in .json"),
        (["show", "nothing"], "coefficients nothing: none of that name; must be a file that ends in .json"),
        (["show", "missing.json"], "missing.json: cannot be read: No such file or directory"),
        (["show", "text.json"], "text.json: is not JSON, must be a file of coefficients"),
        (["memory", "nothing", "--gib", "80"], "nothing/config.json: cannot be read: No such file or directory"),
        (["memory", "qwen3-0.6b"], "--gib: is missing"),
        (["memory", "qwen3-0.6b", "--gib", "1"], "--gib 1: 1.07 GB are used, the weights alone take 1.19 GB"),
        (["memory", "qwen3-0.6b", "--gib", "80", "--used", "1.5"], "--used 1.5: must be <= 1"),
        (["memory", "qwen3-0.6b", "--gib", "80", "--dtype", "x"], "--dtype x: must be one of float64, float32"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    measurement: Path,
    latency: str,
    fake: Callable[..., list[FakeEngine]],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    if "transformers" in arguments:
        measurement.unlink()
    fake()
    Path("text.json").write_text("a0 = 1")
    before = files()
    assert Answer(capsys, "calibrate", *arguments).mistake.startswith(message)
    assert files() == before


# Fitting ------------------------------------------------------------------------------------------------------------


def test_fit_writes_coefficients_that_a_sweep_runs_with(measurement: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = Answer(capsys, "calibrate", "fit", "m.nc")
    assert answer.status == 0
    assert "m.json, m.fit.nc" in answer.out
    assert files() == ["m.fit.nc", "m.json", "m.nc"]
    known, calibration = fit_measurement(measurement)
    assert Path("m.json").read_text() == known.text()
    np.testing.assert_array_equal(read_calibration("m.fit.nc")["batch_s"], calibration["batch_s"])
    # Every law is told with its error, the chosen one marked; so are the terms of a step.
    said = answer.out
    for laws in known.batch_laws:
        for h, law in laws.laws.items():
            (row,) = [
                line
                for line in said.splitlines()
                if f" {laws.prompt_tokens:g} " in line
                and f" {h} " in line
                and f"{1e3 * law.a1_s_per_token:.4g}" in line
            ]
            assert (f"{h} *" in row) == (h == laws.chosen)
            assert law.standard_errors[1] is not None
            assert f"{1e3 * law.a1_s_per_token:.4g} ± {1e3 * law.standard_errors[1]:.2g}" in row
    assert known.step_law is not None
    assert known.step_law.c0_s is not None
    assert f"{1e3 * known.step_law.c0_s:.4g} ±" in said
    assert "us per KV token read" in said
    Path("small.toml").write_text(TOML)
    assert Answer(capsys, "run", "small.toml", "-q").status == 0
    assert list(json.loads(read_cube("small.nc").attrs["service_coefficients"])) == [str(measurement.parent / "m.json")]


def test_fit_writes_where_it_is_told_and_over_nothing(measurement: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Answer(capsys, "calibrate", "fit", "m.nc", "-o", "new/mine.json").status == 0
    assert sorted(os.listdir("new")) == ["mine.fit.nc", "mine.json"]
    assert parse(Path("new/mine.json").read_bytes(), "").name == "mine"
    for there in ("new/mine.json", "new/mine.fit.nc"):
        before = Path(there).read_bytes()
        refused = Answer(capsys, "calibrate", "fit", "m.nc", "-o", "new/mine.json")
        assert refused.mistake == f"{there}: is there already; choose another output, or --overwrite"
        assert Path(there).read_bytes() == before
        Path(there).unlink()
    Path("new/mine.json").write_text("old")
    assert Answer(capsys, "calibrate", "fit", "m.nc", "-o", "new/mine.json", "--overwrite").status == 0
    assert parse(Path("new/mine.json").read_bytes(), "").name == "mine"


def test_figures_of_a_fit_are_drawn_into_a_folder(
    measurement: Path, latency: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchcube.figures import registry

    def saved(figure: Any, cube: Any, path: Path) -> Path:
        path.write_bytes(b"drawn")
        return path

    monkeypatch.setattr(registry, "save", saved)  # the tests of the figures save some
    every = [f"{name}.png" for name in registry.calibration_names()]
    answer = Answer(capsys, "calibrate", "fit", "m.nc", "--figures", "drawn")
    assert answer.status == 0
    assert sorted(os.listdir("drawn")) == sorted(every)
    assert all(f"drawn/{name}" in answer.out for name in every)
    answer = Answer(capsys, "calibrate", "table", latency, "--figures", "batches")
    assert sorted(os.listdir("batches")) == sorted(name for name in every if "throughput" not in name)
    assert "no calibration-throughput: figure calibration-throughput: the calibration has no decode steps" in answer.err
    assert files() == ["batches", "drawn", "latency.csv", "m.fit.nc", "m.json", "m.nc"]


# Tables -------------------------------------------------------------------------------------------------------------


def test_a_table_is_judged_and_nothing_is_written(latency: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = Answer(capsys, "calibrate", "table", latency)
    out = answer.out
    assert answer.status == 0
    assert "latency.csv: whole batches, the columns of law = table" in out
    assert "12 cells: plausible, nothing speaks against these times" in out
    assert "note: repetitions: the table does not say how often anything was measured" in out
    assert files() == [latency]


def test_a_table_that_was_not_measured_is_flagged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{b},{n},{0.2 + 0.01 * n * (1 + 0.05 * b):.4f}" for b in (1, 2, 4, 8) for n in (64, 128, 256, 512)]
    Path("good.csv").write_text("batch_size,length_tokens,seconds\n" + "\n".join(rows))
    answer = Answer(capsys, "calibrate", "table", "good.csv")
    out = answer.out
    assert answer.status == 1
    assert answer.err == ""
    assert "16 cells: implausible" in out
    assert "flag: points exactly on a line: " in out
    assert "flag: R2 = 1: " in out
    # Flags do not keep anybody from fitting, and stay with the coefficients.
    assert Answer(capsys, "calibrate", "table", "good.csv", "-o", "good.json").status == 0
    known = parse(Path("good.json").read_bytes(), "")
    assert known.plausibility is not None
    assert {flag.partition(":")[0] for flag in known.plausibility.flags} >= {"points exactly on a line", "R2 = 1"}


def test_columns_are_mapped_by_name_and_unit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "\n".join(f"{b},{n},{1e3 * t}" for b, n, t in batch_rows())
    Path("t.csv").write_text(f"b,n,t\n{rows}\n")
    unknown = Answer(capsys, "calibrate", "table", "t.csv").mistake
    assert unknown.startswith("t.csv: line 1: no known layout has these columns: b, n, t; map them by name")
    columns = [f"--column={pair}" for pair in ("batch_size=b", "length_tokens=n", "seconds=t")]
    command = ["calibrate", "table", "t.csv", *columns, "-o", "t.json"]
    assert Answer(capsys, *command).mistake.startswith(
        "t.csv: fitted: batch_laws[0].laws.constant.a1_s_per_token: no engine"
    )
    assert files() == ["t.csv"]
    command += ["--unit", "ms"]
    assert Answer(capsys, *command, "--source", "Somebody [and others], 2001").status == 0
    assert files() == ["t.csv", "t.fit.nc", "t.json"]
    known = parse(Path("t.json").read_bytes(), "")
    assert (known.name, known.label, known.source) == ("t", "literature", "Somebody [and others], 2001")
    assert known.batch_laws[0].laws["linear"].a1_s_per_token == pytest.approx(0.01, rel=0.05)
    assert read_calibration("t.fit.nc")["batch_s"].sel(batch_size=2.0, output_tokens=64.0).item() == pytest.approx(
        next(t for b, n, t in batch_rows() if (b, n) == (2, 64))
    )
    assert Answer(capsys, *command).mistake == "t.json: is there already; choose another output, or --overwrite"


def test_what_is_said_of_coefficients_is_no_markup(latency: str, capsys: pytest.CaptureFixture[str]) -> None:
    title, source = "A [bold] system [/x]", "Somebody [arXiv:2412.04504]"
    command = ["calibrate", "table", latency, "-o", "x.json", "--title", title, "--source", source]
    for out in (Answer(capsys, *command).out, Answer(capsys, "calibrate", "show", "x.json").out):
        assert f"x (literature): {title}" in out
        assert source in out
        assert 'server.service = { coefficients = "x.json" }' in out


def test_one_of_several_systems_is_selected(systems: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = Answer(capsys, "calibrate", "table", systems)
    judged = answer.out
    assert answer.status == 1  # the three prefills of a batch size here are the same to the last digit
    assert judged.count("flag: no scatter: ") == 2
    for system in ("big", "small"):
        assert f"model llama, hardware {system}, tensor_parallel 8: " in judged
    refused = Answer(capsys, "calibrate", "table", systems, "-o", "x.json").mistake
    assert refused == (
        "systems.csv: holds 2 systems: choose one with --select model=... --select hardware=... --select "
        "tensor_parallel=...; the first is model llama, hardware big, tensor_parallel 8"
    )
    assert files() == [systems]
    slopes = []
    for system in ("big", "small"):
        command = ["calibrate", "table", systems, "--select", f"hardware={system}", "-o", f"{system}.json"]
        assert Answer(capsys, *command).status == 0
        known = parse(Path(f"{system}.json").read_bytes(), "")
        assert known.title == f"model llama, hardware {system}, tensor_parallel 8"
        assert {"model": "llama", "gpu": system, "tensor_parallel": 8}.items() <= known.provenance.items()
        assert known.default_prompt_tokens == 512.0
        slopes.append(known.batch_laws[0].laws["linear"].a1_s_per_token)
    assert slopes[1] / slopes[0] == pytest.approx(3.0)
    assert Answer(capsys, "calibrate", "table", systems, "--select", "hardware=huge").mistake == (
        "systems.csv: no row has hardware = huge"
    )


def test_fitted_lines_are_judged_and_not_fitted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("fits.csv").write_text(
        "task,model_id,precision,gpu,num_gpus,tp,ep,dp,r2,c0_ms,c1_ms_per_seq\n"
        "chat,m,bf16,H100,1,1,1,1,0.99,10.0,0.5\nchat,m,bf16,H100,2,2,1,1,1.0,10.0,-0.5\n"
    )
    answer = Answer(capsys, "calibrate", "table", "fits.csv")
    out = answer.out
    assert answer.status == 1
    assert "flag: R2 = 1: 1 of the lines leave nothing unexplained" in out
    assert "flag: latency falls with size: 1 of the lines fall" in out
    assert Answer(capsys, "calibrate", "table", "fits.csv", "-o", "x.json").mistake == (
        "fits.csv: holds fits and no measurements: nothing to fit"
    )
    assert files() == ["fits.csv"]


# What there is ------------------------------------------------------------------------------------------------------


def test_list_and_show_what_comes_with_the_package(
    measurement: Path, latency: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Answer(capsys, "calibrate", "fit", "m.nc", "-o", "shipped/measured.json")
    Answer(capsys, "calibrate", "table", latency, "-o", "shipped/b.json", "--title", "A table")
    monkeypatch.setattr("batchcube.calibration.coefficients.SHIPPED", Path("shipped"))
    listed = Answer(capsys, "calibrate", "list").out.splitlines()
    assert [line.split()[:2] for line in listed] == [["b", "tables"], ["measured", "measured"]]
    assert listed[0].endswith("A table")
    shown = Answer(capsys, "calibrate", "show", "measured").out
    assert "measured (measured): nobody's (bfloat16, random weights) with fake" in shown
    assert 'server.service = { coefficients = "measured" }' in shown
    assert "T(b, L) = a0 + a1 L h(b), L output tokens" in shown
    # What is not known is no number.
    literature = Answer(capsys, "calibrate", "show", "b").out
    assert "step term" not in literature
    (table,) = [line.split() for line in literature.splitlines() if " table " in line and line.split()[1] == "table"]
    assert table[0] == "-"


def test_all_laws_are_shown_at_any_width(measurement: Path) -> None:
    known = fit_measurement(measurement)[0]
    for width in (80, 110, 200):
        console = Console(width=width, file=io.StringIO())
        print_coefficients(known, console, "m.json")
        text = console.file.getvalue()  # type: ignore[attr-defined]
        names = (*BATCH_FACTORS, "table")
        shown = [
            law for line in text.splitlines() for law in line.split()[1:2] if law in names and len(line.split()) > 4
        ]
        assert shown == [law for laws in known.batch_laws for law in (*laws.laws, "table")]
        assert "* chosen: least error on left-out cells" in words(text)
        assert max(map(len, text.splitlines())) <= width
        assert ("80 columns have no room for R2, " in text) == (width == 80)


def test_everything_shipped_is_listed_and_can_be_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from batchcube.calibration.coefficients import shipped_names

    listed = Answer(capsys, "calibrate", "list").out.splitlines()
    assert [line.split()[0] for line in listed] == shipped_names()
    assert listed
    for name in shipped_names():
        answer = Answer(capsys, "calibrate", "show", name)
        assert answer.status == 0
        assert answer.out.startswith(f"{name} (")
        monkeypatch.setenv("COLUMNS", "400")
        check_width(
            answer.out,
            f"{Answer(capsys, 'calibrate', 'show', name).out} columns have no room for cell: more with COLUMNS=200",
        )
        monkeypatch.delenv("COLUMNS")


def test_memory_says_how_many_tokens_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Answer(capsys, "calibrate", "memory", "qwen3-0.6b", "--gib", "80", "--used", "0.9").out
    # 28 layers, 8 heads of 128, a key and a value of 2 bytes each.
    token, most = 2 * 28 * 8 * 128 * 2, 80 * 0.9 * 2**30
    assert f"{token:,} bytes of KV cache per token" in out
    (line,) = [line for line in out.splitlines() if "policy.memory" in line]
    assert f"kv_bytes_per_token = {token} }}" in line
    assert f"max_bytes = {most:.0f}," in line
    weights = int(line.partition("model_bytes = ")[2].partition(",")[0])
    assert f"room for {(most - weights) / token:,.0f} tokens" in out
    half = Answer(capsys, "calibrate", "memory", "qwen3-0.6b", "--gib", "80", "--dtype", "float32").out
    assert f"{2 * token:,} bytes" in half
    assert "keep the last" not in out


def test_memory_says_what_layers_with_a_window_keep(capsys: pytest.CaptureFixture[str]) -> None:
    out = Answer(capsys, "calibrate", "memory", "gpt-oss-120b", "--gib", "80").out
    assert "18 of 36 layers keep the last 128 tokens only: up to 4,718,592 bytes of a request" in out


@pytest.mark.parametrize(
    ("model", "numbers"),
    [
        ("qwen3-0.6b", "bfloat16"),
        ("gpt-oss-20b", "bfloat16, experts in mxfp4"),
        ("deepseek-v3", "bfloat16, matrices in fp8"),
    ],
)
def test_memory_says_which_weights_are_smaller(model: str, numbers: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = Answer(capsys, "calibrate", "memory", model, "--gib", "800").out
    assert out.startswith(f"{model}, {numbers}: ")


def test_without_the_extra_the_tables_say_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hardware, "is_installed", lambda: False)
    for options in (["--list"], ["--model", "Llama-3.1-8B", "--gpu", "h100_sxm"]):
        answer = Answer(capsys, "calibrate", "hardware", *options)
        assert answer.status == 2
        assert answer.err.strip() == (
            "batchcube: calibrate hardware: needs aiconfigurator-core: pip install '.[hardware]' in the clone"
        )


@pytest.mark.skipif(not hardware.is_installed(), reason="needs the extra hardware")
def test_hardware_lists_derives_and_writes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = Answer(capsys, "calibrate", "hardware", "--list")
    assert listed.status == 0
    assert re.search(r"h100_sxm +vllm [0-9.]+, sglang", listed.out)
    assert "  Qwen/Qwen3-0.6B\n" in listed.out
    asked = ["calibrate", "hardware", "--model", "Qwen3-0.6B", "--gpu", "h100_sxm", "--max-num-seqs", "64"]
    only = Answer(capsys, *asked)
    assert only.status == 0
    assert list(folder.iterdir()) == []
    made = Answer(capsys, *asked, "-o", "mine.json")
    assert made.status == 0
    assert made.out.splitlines()[-1] == "mine.json"
    shown = Answer(capsys, "calibrate", "show", "mine.json")
    assert "tabled up to 64 requests at once, contexts of 32768 tokens, 8192 prefill tokens in a step" in words(
        shown.out
    )
    assert re.search(
        r"a replica: 64 requests at once, 8192 tokens a step, 6\d\d,\d\d\d tokens in the KV cache", words(shown.out)
    )
    assert re.search(r"rms: decode \d.* %, prefill \d.* %, mixed \d.* %", shown.out)
    again = Answer(capsys, *asked, "-o", "mine.json")
    assert again.status == 2
    assert "mine.json: is there already" in again.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "--model: must be given, or --list"),
        (["--model", "Qwen3-0.6B"], "--gpu: must be given, or --list"),
        (["--model", "Qwen3-0.6B", "--gpu", "h100_sxm", "-o", "mine.nc"], "mine.nc: must end in .json"),
        (["--model", "Qwen3-0.6B", "--gpu", "h100_sxm", "--tensor-parallel", "0"], "--tensor-parallel 0: must be >= 1"),
    ],
)
def test_hardware_refuses_what_is_missing(
    options: list[str], says: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hardware, "is_installed", lambda: True)
    answer = Answer(capsys, "calibrate", "hardware", *options)
    assert answer.status == 2
    assert says in answer.err
