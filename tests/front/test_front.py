"""`import batchcube as bc`: what it offers, what it says of itself, and what it does not load."""

import ast
import doctest
import inspect
import os
import pydoc
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import batchcube as bc
from batchcube import api
from helpers.command_line import Answer as Said

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = [name for name in bc.__all__ if inspect.isfunction(getattr(bc, name))]
SETTINGS = {"workload.requests": 1000, "replications": 2, "axes.error_probability.values": [0.1]}


def spec(**more: Any) -> Any:
    return bc.load_spec("multi-bin-fig8", {**SETTINGS, **more})


def loaded_by(program: str) -> set[str]:
    program += "; import sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_loads_nothing_of_others() -> None:
    others = loaded_by("import batchcube") - loaded_by("pass") - sys.stdlib_module_names
    assert {name for name in others if not name.startswith("__editable__")} == {"batchcube"}


def test_a_sweep_is_built_without_what_holds_and_draws_cubes() -> None:
    loaded = loaded_by("import batchcube as bc; bc.load_spec('multi-bin-fig8')")
    assert loaded & {"jax", "xarray", "matplotlib", "pandas", "netCDF4", "pyarrow"} == set()


def test_what_is_offered_is_what_is_listed() -> None:
    assert dir(bc) == sorted(bc.__all__)
    tree = ast.parse((ROOT / "front" / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "api")
    assert sorted(alias.name for alias in typed.names) == FUNCTIONS
    with pytest.raises(AttributeError, match="module 'batchcube' has no attribute 'swep'"):
        bc.swep  # type: ignore[attr-defined]  # noqa: B018


def test_help_is_an_overview_that_names_everything() -> None:
    text = pydoc.plain(pydoc.render_doc(bc))
    for name in FUNCTIONS:
        assert f"bc.{name}(" in (bc.__doc__ or "")
        assert f"\n    {name}(" in text
    assert len((bc.__doc__ or "").splitlines()) < 30


def test_version() -> None:
    assert bc.__version__ == metadata.version("batchcube")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_of_a_docstring_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder().find(getattr(api, name), name, globs={"bc": bc})
    assert example.examples
    said: list[str] = []
    runner = doctest.DocTestRunner()
    runner.run(example, out=said.append)
    assert said == []


def test_a_sweep_takes_what_python_has() -> None:
    tables: dict[str, Any] = {
        "workload": {
            "requests": np.int64(2000),
            "arrivals": {"process": "poisson"},
            "lengths": {"distribution": "uniform", "unit": "seconds", "low": 1.0, "high": 20.0},
        },
        "policy": {"mode": "multi_bin_only", "batch_size": np.int32(8)},
        "server": {"service": {"law": "given"}},
    }
    rates = {"path": "workload.arrivals.rate_per_s", "values": [8.0, 16.0]}
    sweep = bc.sweep(**tables, axes={"policy.bins": range(1, 4), rates["path"]: np.array([8.0, 16.0])})
    found = [(axis.name, axis.labels) for axis in sweep.grid.axes]
    assert found == [("bins", (1, 2, 3)), ("rate_per_s", (8.0, 16.0))]
    plain = {"bins": {"path": "policy.bins", "values": [1, 2, 3]}, "rate_per_s": rates}
    assert bc.sweep(**tables, axes=plain).document == sweep.document
    spanned = bc.sweep(**tables, axes={"policy.bins": {"start": 1, "stop": 3, "step": 1}, "r": rates})
    assert [(axis.name, axis.labels) for axis in spanned.grid.axes] == [("bins", (1, 2, 3)), ("r", (8.0, 16.0))]
    few = {**tables, "axes": {"policy.bins": [1], rates["path"]: [8.0]}, "replications": 1}
    cube = bc.run(few, quiet=True)
    assert cube["rate_per_s"].values.tolist() == [8.0]


def test_settings_are_laid_over_a_specification_as_by_the_command() -> None:
    by_path = bc.load_spec("multi-bin-fig8", {"policy.batch_size": 32, "policy.edges": {"kind": "uniform"}})
    from batchcube.sweeps.spec.document import Sweep

    by_text = Sweep.from_toml("multi-bin-fig8", ["policy.batch_size=32", 'policy.edges={kind = "uniform"}'])
    assert by_path.document == by_text.document
    with pytest.raises(ValueError, match=r'policy.bins = 3: axes.bins sets it at every point; use "axes.bins.values"'):
        bc.load_spec("multi-bin-fig8", {"policy.bins": 3})


def test_a_run_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cube.nc"
    two = bc.run(spec(), file)
    assert "4 points x 2 replications" in capsys.readouterr().err
    assert bc.interval(file, "latency_mean_s").equals(bc.interval(two, "latency_mean_s"))
    four = bc.run(spec(replications=4), os.fspath(file), quiet=True)
    assert capsys.readouterr().err == ""
    assert four.isel(replication=slice(2)).equals(two)
    assert bc.open(file).equals(four)


def test_a_cube_is_extended_in_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cube.nc"
    bc.run(spec(**{"axes.bins.values": [1, 4]}), file, quiet=True)
    grown = bc.extend(os.fspath(file), {"axes.bins.values": np.array([1, 2, 4, 8])}, replications=3, quiet=True)
    assert capsys.readouterr().err == ""
    assert bc.open(file).equals(grown)
    assert grown.equals(bc.run(spec(replications=3), quiet=True))
    # All of it is there.
    assert bc.extend(file, {"axes.bins.values": [2]}).equals(grown)
    assert "simulat" not in capsys.readouterr().err
    with pytest.raises(bc.InputError, match=r"needs `settings` axes\.NAME\.values"):
        bc.extend(file)
    with pytest.raises(bc.InputError, match="must be values or points of an axis that the cube has"):
        bc.extend(file, {"policy.batch_size": 4})
    with pytest.raises(bc.InputError, match="no such file"):
        bc.extend(tmp_path / "none.nc", replications=3)


def test_files_that_a_cube_names_are_read_where_they_are_trusted(tmp_path: Path) -> None:
    (tmp_path / "apart").mkdir()
    trace = tmp_path / "trace.csv"
    rows = "".join(f"{at},8,4\n" for at in range(300))
    trace.write_text(f"arrival_s,prompt_tokens,output_tokens\n{rows}")
    recorded = {"requests": 100, "trace": {"path": str(trace), "resample": "circular"}}
    tables: Any = {"policy": {"mode": "fifo_greedy", "batch_size": 2}, "replications": 2, "workload": recorded}
    tables["server"] = {"service": {"law": "constant", "a0_s": 1.0, "a1_s_per_token": 0.01}}
    bc.run(bc.sweep(**tables), tmp_path / "apart" / "cube.nc", quiet=True)
    with pytest.raises(bc.InputError, match="which is not in its folder; `trust_paths` reads it all the same"):
        bc.extend(tmp_path / "apart" / "cube.nc", replications=3, quiet=True)
    assert bc.extend(tmp_path / "apart" / "cube.nc", replications=3, quiet=True, trust_paths=True).sizes == {
        **bc.run(bc.sweep(**tables), quiet=True).sizes,
        "replication": 3,
    }


def test_what_is_no_list_of_files_is_not_joined(tmp_path: Path) -> None:
    import xarray as xr

    cube = xr.Dataset({"of_letters": 1})
    for cubes in ("one.nc", tmp_path / "one.nc", cube, [cube, cube], 3, ["one.nc", None]):
        with pytest.raises(bc.InputError, match=r"^`cubes`: must be a list of the files of cubes$"):
            bc.join(cubes, tmp_path / "all.nc")  # type: ignore[arg-type]


def test_what_is_no_executor_is_refused_before_anything_is_read() -> None:
    for executor in (3, False, object):
        with pytest.raises(
            bc.InputError, match=r"^`executor` .*: must be an executor of concurrent\.futures or the like"
        ):
            bc.run("not there.toml", executor=executor)  # type: ignore[arg-type]


def test_a_plan_is_of_no_sweep_and_limits_may_be_one() -> None:
    with pytest.raises(bc.InputError, match=r"^`spec`: must be a TOML file or the name of a preset"):
        bc.plan(spec(), "ttft_p99_s=1")
    for asks in (bc.plan, bc.capacity):
        with pytest.raises(bc.InputError, match=r"^`slo` ttft_p99=1: must be NAME_STAT_UNIT=LIMIT"):
            asks("continuous-rate", "ttft_p99=1")


def test_cubes_are_joined_in_a_file(tmp_path: Path) -> None:
    parts = [tmp_path / "a.nc", tmp_path / "b.nc"]
    for file, bins in zip(parts, ([1, 8], [2, 4]), strict=True):
        bc.run(spec(**{"axes.bins.values": bins}), file, quiet=True)
    joined = bc.join(map(os.fspath, parts), tmp_path / "all.nc", quiet=True)
    assert bc.open(tmp_path / "all.nc").equals(joined)
    assert joined.equals(bc.run(spec(), quiet=True))
    with pytest.raises(bc.InputError, match=r"all\.nc: is there already"):
        bc.join(parts, tmp_path / "all.nc")
    assert bc.join(parts, tmp_path / "all.nc", overwrite=True, quiet=True).equals(joined)
    with pytest.raises(bc.InputError, match="needs two cubes or more"):
        bc.join(parts[:1], tmp_path / "one.nc")
    bc.run(spec(seed=2), parts[1], quiet=True, overwrite=True)
    with pytest.raises(bc.InputError, match=r"b.nc: seed = 2, of .*a.nc 1"):
        bc.join(parts, tmp_path / "both.nc")


def test_shards_are_merged_into_what_the_command_would_have_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from batchcube.sweeps.planning.answer import Answer
    from batchcube.sweeps.run.shards import MissingShardsError, NextRoundError

    monkeypatch.chdir(tmp_path)
    settings = [part for path, value in SETTINGS.items() for part in ("--set", f"{path}={value}")]
    run = ["run", "multi-bin-fig8", *settings, "-o", "cube.nc", "-q", "--shard"]
    assert Said(capsys, *run, "2/2").status == 0
    with pytest.raises(MissingShardsError, match="shard 1 of 2 is missing: batchcube run multi-bin-fig8 "):
        bc.merge("cube.nc", quiet=True)
    lacking = bc.merge("cube.nc", quiet=True, allow_missing=True)
    assert lacking["replication"].values.tolist() == [1]
    (tmp_path / "cube.nc").unlink()
    for shard in ("1/2", "2/2"):
        assert Said(capsys, *run, shard).status == 0
    assert bc.merge(tmp_path / "cube.nc").equals(bc.run(spec(), quiet=True))  # type: ignore[union-attr]
    capacity = ["capacity", "multi-bin-fig8", *settings, "--set", "axes.bins.values=[4]", "--tolerance", "0.2"]
    while not Path("capacity.nc").exists():
        assert Said(capsys, *capacity, "--slo=latency_mean_s=60", "-o", "capacity.nc", "-q", "--shard=1/1").status == 0
        with suppress(NextRoundError):
            found = bc.merge("capacity.nc", quiet=True)
    assert not isinstance(found, Answer)
    one = spec(**{"axes.bins.values": [4]})
    assert found.equals(bc.capacity(one, {"latency_mean_s": 60.0}, tolerance=0.2, quiet=True))
    with pytest.raises(bc.InputError, match="has no shards"):
        bc.merge("cube.nc")


def test_a_run_goes_on_until_it_is_precise() -> None:
    cube = bc.run(spec(), quiet=True, precision={"latency_mean_s": "0.01%"}, max_replications=9)
    assert (cube.attrs["precision_wanted"], cube.attrs["precision_looks"]) == ("latency_mean_s=0.01%", "8, 9")
    assert bc.run(spec(), quiet=True, precision="90%").attrs["precision_looks"] == "8"
    with pytest.raises(ValueError, match="`max_replications` 9: goes with a precision only"):
        bc.run(spec(), quiet=True, max_replications=9)


def test_notes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    # Batches are dropped that never fill up.
    cube = bc.run(spec(**{"workload.requests": 100}))
    note = str(cube.attrs["notes"]).splitlines()[0]
    assert f"note: {note}\n" in capsys.readouterr().err


@pytest.mark.parametrize("replication", [0, 1])
def test_a_replication_is_that_of_the_cube(replication: int) -> None:
    cube = bc.run(spec(), quiet=True).sel(bins=4, error_probability=0.1, replication=replication)
    one = bc.simulate(spec(), {"bins": 4}, replication=replication)
    for name in ("latency_mean_s", "throughput_requests_per_s", "utilisation"):
        assert one.report[name] == cube[name].item()
    assert set(one.requests) == {"arrival_s", "service_s", "bin", "batch", "batch_size", "start_s", "completion_s"}
    served = one.requests[one.requests["batch"] >= 0]
    assert len(served) == len(one.requests.dropna()) == 1000 - cube["unserved"].item()
    assert (served.groupby("batch").size() == served.groupby("batch")["batch_size"].first()).all()


def test_a_replication_of_single_steps_is_that_of_the_cube() -> None:
    rate = {"workload.requests": 300, "replications": 2, "axes.arrival_rate_per_s.values": [16.0]}
    sweep = bc.load_spec("continuous-rate", rate)
    cube = bc.run(sweep, quiet=True).sel(cap="static", arrival_rate_per_s=16.0, replication=1)
    one = bc.simulate(sweep, {"cap": "static"}, replication=1)
    assert one.report["ttft_mean_s"] == cube["ttft_mean_s"].item()
    table = one.requests
    assert (table["first_token_s"] - table["arrival_s"]).mean() == pytest.approx(cube["ttft_mean_s"].item())
    assert (table["arrival_s"] <= table["start_s"]).all()
    assert (table["start_s"] <= table["first_token_s"]).all()
    assert (table["first_token_s"] <= table["completion_s"]).all()


def test_what_notebooks_show_is_short() -> None:
    assert repr(spec()) == "<Sweep multi-bin-fig8: 4 points x 2 replications (4 bins, 1 error_probability)>"
    one = bc.simulate(spec(), {"bins": 4})
    assert repr(one).startswith(f"One replication: .requests has 1,000 rows, .report {len(one.report)} variables\n")
    assert len(repr(one).splitlines()) < 20
    assert one._repr_html_().count("<tr") < 15


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ({}, r"multi-bin-fig8: axis bins: must be chosen: one of 1, 2, 4, 8"),
        ({"bins": 3}, r"multi-bin-fig8: axis bins has no 3; it has 1, 2, 4, 8"),
        ({"bin": 4}, r"multi-bin-fig8: no axis bin; did you mean bins\?"),
    ],
)
def test_a_point_that_is_not_there(at: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bc.simulate(spec(), at)


def test_a_changed_cube_is_opened_with_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "cube.nc"
    cube = bc.run(spec(), file, quiet=True)
    changed = cube.copy(deep=True)
    changed.attrs["title"] = "another"
    changed.to_netcdf(file, engine="netcdf4")
    with pytest.warns(UserWarning, match=r"cube.nc: has no checksum of its content"):
        bc.open(file)


def test_intervals_compare() -> None:
    cube = bc.run(spec(replications=4), quiet=True)
    name = "busy_throughput_requests_per_s"
    ratio, difference = (
        bc.interval(cube, name, ratio_to={"bins": 1}),
        bc.interval(cube, name, difference_to={"bins": 1}),
    )
    assert ratio["bins"].values.tolist() == [2, 4, 8]
    mean = bc.interval(cube, name)["mean"]
    assert np.allclose(ratio["ratio"], mean.sel(bins=[2, 4, 8]) / mean.sel(bins=1))
    assert np.allclose(difference["difference"], mean.sel(bins=[2, 4, 8]) - mean.sel(bins=1))
    with pytest.raises(ValueError, match="compares along one axis"):
        bc.interval(cube, name, ratio_to={"bins": 1}, difference_to={"bins": 1})
    with pytest.raises(ValueError, match="did you mean busy_throughput_requests_per_s"):
        bc.interval(cube, "busy_throughput_request_per_s")


def test_a_figure_is_of_no_pyplot_and_shows_itself(tmp_path: Path) -> None:
    file = tmp_path / "cube.nc"
    bc.run(spec(), file, quiet=True)
    figure = bc.plot(file, "throughput-vs-bins", tmp_path / "bins.svg")
    assert (tmp_path / "bins.svg").stat().st_size > 0
    assert figure._repr_png_()  # type: ignore[attr-defined].startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in loaded_by(
        f"import batchcube as bc, matplotlib; bc.plot({str(file)!r}, 'throughput-vs-bins')"
    )


def test_requests_of_ones_own_take_the_place_of_a_workload() -> None:
    requests = {"arrival_s": [0.0, 1.0, 2.0], "prompt_tokens": [8, 8, 8], "output_tokens": [2, 4, 6]}
    edges = {"kind": "explicit", "values": [0.0, 5.0, 10.0]}
    tables = {
        "policy": {"mode": "multi_bin_only", "bins": 2, "batch_size": 1, "edges": edges},
        "server": {"service": {"law": "constant", "a0_s": 1.0, "a1_s_per_token": 0.5}},
    }
    assert bc.simulate(tables, requests=requests).requests["bin"].tolist() == [0, 0, 1]
    predicted = {**requests, "predicted_tokens": [9, 9, 2]}
    assert bc.simulate(tables, requests=predicted).requests["bin"].tolist() == [1, 1, 0]
    lengths = {"distribution": "constant", "value": 1.0}
    drawn = bc.sweep(workload={"arrivals": {"process": "at_once"}, "lengths": lengths}, **tables)  # type: ignore[arg-type]
    assert bc.simulate(drawn, requests=requests).requests["output_tokens"].tolist() == [2, 4, 6]
    # The name says seconds, at rates too that no recorded trace is believed to have.
    for apart in (0.001, 200.0):
        came = [0.0, apart, 2 * apart]
        assert bc.simulate(tables, requests={**requests, "arrival_s": came}).requests["arrival_s"].tolist() == came
    # On any clock: nothing before the first request.
    later = bc.simulate(tables, requests={**requests, "arrival_s": [100.1, 100.3, 150.0]}).requests
    assert later["arrival_s"].tolist() == [100.1, 100.3, 150.0]
    assert later["start_s"].tolist() == pytest.approx([100.1, 102.1, 150.0])
    assert later["completion_s"].tolist() == pytest.approx([102.1, 105.1, 154.0])
    with pytest.raises(ValueError, match="`requests`: All arrays must be of the same length"):
        bc.simulate(tables, requests={**requests, "arrival_s": [0.0]})
    with pytest.raises(ValueError, match="output_tokens"):
        bc.simulate(tables, requests={"arrival_s": [0.0], "prompt_tokens": [1]})


def test_the_predictor_stays_where_requests_say_no_prediction() -> None:
    requests = {"arrival_s": [0.0, 1.0, 2.0], "prompt_tokens": [8, 8, 8], "output_tokens": [2, 4, 6]}
    edges = {"kind": "explicit", "values": [0.0, 5.0, 10.0]}
    tables = {
        "workload": {"requests": 1000, "predictor": {"kind": "confusion", "matrix": [[0.0, 1.0], [1.0, 0.0]]}},
        "policy": {"mode": "multi_bin_only", "bins": 2, "batch_size": 1, "edges": edges},
        "server": {"service": {"law": "constant", "a0_s": 1.0, "a1_s_per_token": 0.5}},
    }
    # It is always wrong, of two bins.
    assert bc.simulate(tables, requests=requests).requests["bin"].tolist() == [1, 1, 0]
    told = {**requests, "predicted_tokens": [2, 4, 6]}
    assert bc.simulate(tables, requests=told).requests["bin"].tolist() == [0, 0, 1]
    error = {"path": "workload.predictor.error_probability", "values": [0.0, 0.5]}
    right = {**tables, "workload": {"predictor": {"kind": "adjacent"}}, "axes": {"error": error}}
    assert bc.simulate(right, {"error": 0.0}, requests=requests).requests["bin"].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    "axis",
    [
        {"path": "workload.arrivals.rate_per_s", "values": [1.0, 2.0]},
        {"points": {"slow": {"workload": {"arrivals": {"rate_per_s": 1.0}}, "policy.batch_size": 2}}},
    ],
)
def test_an_axis_of_the_workload_does_not_go_with_requests(axis: dict[str, object]) -> None:
    requests = {"arrival_s": [0.0], "prompt_tokens": [8], "output_tokens": [2]}
    tables = {"policy": {"mode": "fifo_greedy", "batch_size": 2}, "axes": {"rate": axis}}
    said = r"axes\.rate: varies workload\.arrivals\.rate_per_s, and `requests` take the place of the workload"
    with pytest.raises(ValueError, match=said):
        bc.simulate(tables, requests=requests)  # type: ignore[arg-type]
