"""The command `batchcube capacity`."""

import inspect
import io
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from batchcube.results.cube import read_cube
from batchcube.sweeps.cli import capacity as cli_capacity
from batchcube.sweeps.run import searching
from batchcube.sweeps.run.capacity import find_capacity
from batchcube.sweeps.run.outputs import ADVICE
from batchcube.sweeps.spec.document import Sweep
from helpers.command_line import Answer
from helpers.widths import check_width

TOML = """\
name = "md1"
title = "One at a time, or more"
replications = 3
[workload]
requests = 400
[workload.arrivals]
process = "poisson"
rate_per_s = 0.3
[workload.lengths]
distribution = "constant"
value = 10
[policy]
mode = "fifo_greedy"
[server.service]
law = "constant"
a0_s = 0.0
a1_s_per_token = 0.1
[axes.largest]
path = "policy.batch_size"
values = [1, 2, 8]
"""


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    """Return what a search of the specification finds."""
    return find_capacity(Sweep.model_validate(tomllib.loads(TOML)), ["wait_mean_ms=700", "latency_p99_s=20"], workers=1)


def test_an_axis_of_rates_is_left_out_and_said(
    cube: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rates = '[axes.rate]\npath = "workload.arrivals.rate_per_s"\nvalues = [0.3, 0.6]\n'
    Path("rates.toml").write_text(TOML.replace("rate_per_s = 0.3\n", "") + rates)
    slo = ("--slo", "wait_mean_ms=700", "--slo", "latency_p99_s=20")
    answer = Answer(capsys, "capacity", "rates.toml", *slo, "--workers", "1", "-o", "out.nc")
    assert answer.status == 0
    assert answer.err.splitlines()[0] == (
        "rates.toml: axes.rate is left out, as the rate is what is searched, from workload.arrivals.rate_per_s = 0.3 on"
    )
    xr.testing.assert_equal(read_cube(Path("out.nc")), cube)


def data_of(cube: xr.Dataset) -> xr.Dataset:
    return cube.drop_attrs(deep=False)


def test_a_search_without_a_title_is_printed(cube: xr.Dataset) -> None:
    untitled = cube.copy()
    del untitled.attrs["title"]
    out = io.StringIO()
    cli_capacity.print_capacity(untitled, Console(file=out, width=100))
    assert "capacity in requests/s with wait_mean_s <= 0.7" in out.getvalue()


def test_many_axes_fit_eighty_columns(cube: xr.Dataset) -> None:
    many = cube.rename(largest="largest_batch_of_all")
    for name in ("model", "gpu", "policy_of_the_scheduler"):
        long = [f"{name} that has a long name, {k}" for k in range(2)]
        about = {"path": f"policy.{name}", "units": "1", "long_name": name}
        many = xr.concat([many] * 2, dim=xr.Variable(name, long, about), data_vars="all")
    said = {}
    for width in (80, 400):
        out = io.StringIO()
        cli_capacity.print_capacity(many, Console(file=out, width=width))
        said[width] = out.getvalue()
    check_width(said[80], f"{said[400]} columns have no room for: more with COLUMNS=200")
    hint = "80 columns have no room for servers can do: more with COLUMNS=200"
    assert hint in " ".join(said[80].split())


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "md1.toml").write_text(TOML)
    return "md1.toml"


def test_the_command_writes_a_cube_and_prints_a_row_for_each_point(
    spec: str, cube: xr.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = Answer(capsys, "capacity", spec, "--slo", "wait_mean_ms=700", "--slo", "latency_p99_s=20")
    assert answer.status == 0
    assert "3 points x 3 replications" in answer.err
    assert "md1-capacity.nc: largest 3, replication 3" in answer.err
    written = read_cube("md1-capacity.nc")
    xr.testing.assert_equal(data_of(written), data_of(cube))
    assert "capacity in requests/s with wait_mean_s <= 0.7; latency_quantile_s[0.99] <= 20" in answer.out
    rows = [line.split() for line in answer.out.splitlines() if line.rstrip().endswith(("wait_mean_s", "[0.99]"))]
    means = cube["capacity_requests_per_s"].mean("replication").values
    assert [row[:2] for row in rows] == [[str(n), f"{m:.4g}"] for n, m in zip((1, 2, 8), means, strict=True)]
    shown = Answer(capsys, "show", "md1-capacity.nc", "-v", "capacity_requests_per_s")
    assert shown.status == 0
    assert "±" in shown.out
    same = Answer(capsys, "compare", "md1-capacity.nc", "md1-capacity.nc")
    assert same.status == 0


def test_the_command_has_the_defaults_of_the_function() -> None:
    command, function = (inspect.signature(called).parameters for called in (cli_capacity.capacity, find_capacity))
    for name in ("tolerance", "growth", "low", "high", "backend"):
        assert command[name].default == function[name].default


def test_the_help_has_an_example_and_says_what_overload_does(capsys: pytest.CaptureFixture[str]) -> None:
    said = Answer(capsys, "capacity", "--help")
    assert said.status == 0
    assert "    batchcube capacity sweep.toml --slo " in said.out
    assert "A rate that the servers cannot keep up with does not count" in said.out


def test_the_command_refuses_to_overwrite_another_search(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["capacity", spec, "--slo", "wait_mean_ms=700", "-o", "out/cube.nc", "-q"]
    quiet = Answer(capsys, *command, "-n", "2")
    assert (quiet.status, quiet.err) == (0, "")
    stamp = Path("out/cube.nc").stat().st_mtime_ns
    same = Answer(capsys, *command, "-n", "2")
    assert (same.status, same.out, Path("out/cube.nc").stat().st_mtime_ns) == (0, quiet.out, stamp)
    for other, said in (
        (("--slo", "latency_p99_s=20"), "another search"),
        (("--tolerance", "0.1"), "another search"),
        (("--seed", "7"), "another sweep (seed differs)"),
    ):
        refused = Answer(capsys, *command, *other).mistake
        assert refused == f"out/cube.nc: holds {said}; {ADVICE}"
    assert read_cube("out/cube.nc").sizes["replication"] == 2
    assert Answer(capsys, "run", spec, "-o", "plain.nc", "-q").status == 0
    refused = Answer(capsys, *command, "-o", "plain.nc").mistake
    assert refused == f"plain.nc: holds no capacities, but what a run made; {ADVICE}"
    assert Answer(capsys, *command, "--overwrite", "--seed", "7").status == 0
    assert read_cube("out/cube.nc").attrs["seed"] == 7
    assert [file.name for file in Path("out").iterdir()] == ["cube.nc"]
    assert Answer(capsys, *command[:-3], "-o", "out").mistake == "out: is a folder, must be a file name"


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--low", "0.8", "--high", "1.5", "--tolerance", "0.02"],
        ["--slo", "latency_p99_s=20", "--growth", "1", "--seed", "7"],
    ],
)
def test_rerun_searches_again_as_the_cube_says(
    spec: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    made = Answer(capsys, "capacity", spec, "--slo", "wait_mean_ms=700", "-o", "cube.nc", "-q", *options)
    assert made.status == 0
    Path(spec).unlink()
    again = Answer(capsys, "rerun", "cube.nc", "-o", "again.nc", "-q", "--workers", "1")
    assert (again.status, again.out) == (0, made.out)
    same = Answer(capsys, "compare", "cube.nc", "again.nc")
    assert same.status == 0, same.out


def test_the_example_of_the_docs_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[3] / "docs" / "capacity.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "cap-and-memory.toml").write_text(example)
    (command,) = re.findall(r"batchcube (capacity cap-and-memory\.toml .*)", text)
    arguments = [str(tmp_path / part) if part.endswith((".toml", ".nc")) else part for part in command.split()]
    smaller = ["-n", "2", "--set", "workload.requests=2000", "--tolerance", "0.05"]
    answer = Answer(capsys, *arguments, *smaller, "-q")
    assert answer.status == 0
    found = read_cube(tmp_path / "out" / "capacity.nc")["capacity_requests_per_s"]
    assert dict(found.sizes) == {"cap": 3, "kv_capacity_tokens": 3, "replication": 2}
    assert np.isfinite(found).all()


def test_a_run_does_not_write_over_capacities(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert Answer(capsys, "capacity", spec, "--slo", "wait_mean_ms=700", "-o", "cube.nc", "-q").status == 0
    assert Answer(capsys, "run", spec, "-o", "cube.nc").mistake == (
        f"cube.nc: holds capacities, which a search made and no run can continue; {ADVICE}"
    )
    assert "capacity_requests_per_s" in read_cube("cube.nc")
    assert Answer(capsys, "run", spec, "-o", "cube.nc", "-q", "--overwrite").status == 0
    assert "latency_mean_s" in read_cube("cube.nc")


def test_the_command_fails_where_nothing_has_an_answer(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["capacity", spec, "--slo", "wait_mean_ms=700", "-o", "cube.nc", "-q", "--set"]
    some = Answer(capsys, *command, "axes.largest.values=[1, 2]", "--low", "0.8", "--high", "1.5")
    assert some.status == 0
    assert "the criteria are missed already at 0.8/s" in " ".join(some.out.split())
    none = Answer(capsys, *command, "axes.largest.values=[1]", "--low", "0.8", "--high", "1.5", "--overwrite")
    assert none.status == 1
    assert none.err == "batchcube: no point has a capacity in what was searched; the notes say why\n"
    Path("cube.nc").unlink()
    merged = None
    while not Path("cube.nc").exists():
        one = Answer(capsys, *command, "axes.largest.values=[1]", "--low", "0.8", "--high", "1.5", "--shard", "1/1")
        assert one.status == 0
        merged = Answer(capsys, "merge", "cube.nc", "-q")
    assert merged is not None
    assert (merged.status, merged.out, merged.err) == (none.status, none.out, none.err)
    assert "the criteria are missed already at 0.8/s" in " ".join(none.out.split())
    assert np.isnan(read_cube("cube.nc")["capacity_requests_per_s"]).all()


def test_mistakes_of_the_command_are_one_line(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert Answer(capsys, "capacity", spec, "--slo", "tbt_ms=5").mistake.startswith("--slo tbt_ms=5: must be NAME_STAT")
    assert "--slo" in Answer(capsys, "capacity", spec).mistake
    sla = ["--slo", "wait_mean_s=1"]
    assert "give both" in Answer(capsys, "capacity", spec, *sla, "--high", "3").mistake
    assert "give both" in Answer(capsys, "capacity", "multi-bin-fig3", *sla, "--high", "3").mistake
    assert not list(Path().glob("*.nc"))


STOPPED = """
import signal
import sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # what started this may ignore it

from batchcube.sweeps.run import searching
from batchcube.sweeps.cli.main import main

after, taken = int(sys.argv[1]), []
take = searching.Searches.take


def stop_at(self, task, result):
    gain = take(self, task, result)
    taken.extend(part for part in gain.parts)
    if len(taken) == after:
        signal.raise_signal(signal.SIGINT)
    return gain


searching.Searches.take = stop_at
main(sys.argv[2:])
"""


@pytest.mark.parametrize("after", [1, 50])
def test_ctrl_c_keeps_what_was_seen(
    spec: str, after: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["capacity", spec, "--slo", "wait_mean_s=1", "-n", "4", "--workers", "1", "-q", "-o", "cube.nc"]
    arguments = [sys.executable, "-c", STOPPED, str(after), *command]
    stopped = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert stopped.returncode == 130
    said = "batchcube: stopped. (.*) kept in cube.nc.partial: the same command continues.\n"
    kept = re.fullmatch(said, stopped.stderr)
    assert kept
    assert after <= int(kept[1].split()[0]) <= after + 2
    assert [file.name for file in Path().iterdir()] == ["md1.toml", "cube.nc.partial"]
    searched: list[tuple[Any, ...]] = []
    try_out = searching.try_out

    def count(shared: Any, trials: Any, together: int) -> Any:
        searched.extend((one.number, one.draws.replication, one.rate, one.evenly) for one in trials)
        return try_out(shared, trials, together)

    monkeypatch.setattr(searching, "try_out", count)
    assert Answer(capsys, *command).status == 0
    continued = len(searched)
    searched.clear()
    whole = find_capacity(Sweep.from_toml(spec, ["replications=4"]), ["wait_mean_s=1"])
    assert len(searched) == continued + int(kept[1].split()[0]), "nothing is tried twice"
    xr.testing.assert_equal(data_of(read_cube("cube.nc")), data_of(whole))
    assert sorted(file.name for file in Path().iterdir()) == ["cube.nc", "md1.toml"]
