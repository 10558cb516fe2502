import csv
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from batchcube.calibration.cells import Cells, join
from batchcube.calibration.coefficients import SHIPPED, BatchCoefficients, Coefficients, shipped_names
from batchcube.calibration.drawing import drawn
from batchcube.errors import InputError
from batchcube.results.cube import read_cube
from batchcube.results.labelled import mean_interval, of_single
from batchcube.results.statistics import mean_interval as plain_mean_interval
from batchcube.sweeps.calibrate.fit import fit_cells, fit_measurement
from batchcube.sweeps.run.draws import Draws
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.run.preparing import prepare
from batchcube.sweeps.seeds import stream
from batchcube.sweeps.spec.document import Sweep, json_schema
from batchcube.sweeps.spec.messages import show_value
from batchcube.sweeps.spec.service import load
from helpers.command_line import Answer
from helpers.specifications import CONTINUOUS, laid

SIZES, LENGTHS = (1, 2, 4, 8), (16, 64, 128)
SWEEP: dict[str, Any] = {
    "name": "calibrated",
    "replications": 3,
    "workload": {
        "requests": 200,
        "arrivals": {"process": "poisson"},
        "lengths": {"distribution": "uniform", "low": 16, "high": 128},
    },
    "policy": {"mode": "multi_bin_only", "batch_size": 4},
    "axes": {
        "bins": {"path": "policy.bins", "values": [1, 2]},
        "arrival_rate_per_s": {"path": "workload.arrivals.rate_per_s", "values": [1.0, 4.0]},
    },
}
ONE_RATE = {**SWEEP["workload"], "arrivals": {"process": "poisson", "rate_per_s": 1.0}}
TOML = """\
name = "calibrated"
replications = 2
[workload]
requests = 100
[workload.arrivals]
process = "poisson"
rate_per_s = 2.0
[workload.lengths]
distribution = "uniform"
low = 16
high = 128
[policy]
mode = "fifo_greedy"
batch_size = 4
"""


def batch_cells(seed: int = 1, prompt_tokens: float = np.nan, factor: float = 1.0, **fields: Any) -> Cells:
    """Whole batches that take 0.05 s + 0.01 s a token, a tenth more for every request beside the first, 1 % noise."""
    rng = np.random.default_rng(seed)
    b, n = (grid.ravel() for grid in np.meshgrid(SIZES, LENGTHS, indexing="ij"))
    seconds = factor * (0.05 + 0.01 * n * (1 + 0.1 * (b - 1))) * (1 + 0.01 * rng.standard_normal(b.size))
    return Cells.of(
        "batch",
        seconds,
        batch_size=b,
        output_tokens=n,
        prompt_tokens=prompt_tokens,
        std_s=seconds * rng.uniform(0.005, 0.02, b.size),
        repetitions=3.0,
        **fields,
    )


def fitted(cells: Cells, name: str = "mine") -> Coefficients:
    return fit_cells(cells, name=name, label="literature", title="A system", source="a test")[0]


def write(path: Path, known: Coefficients, change: Callable[[Any], None] = lambda content: None) -> Path:
    content = json.loads(known.text())
    change(content)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def known() -> Coefficients:
    return fitted(batch_cells())


@pytest.fixture
def file(tmp_path: Path, known: Coefficients) -> str:
    return str(write(tmp_path / "mine.json", known))


def sweep(service: dict[str, Any], source: str = "sweep.toml", **changes: Any) -> Sweep:
    return Sweep.model_validate(deepcopy({**SWEEP, "server": {"service": service}, **changes}), source)


def data_of(cube: xr.Dataset) -> xr.Dataset:
    return cube.drop_attrs(deep=False)


def same_numbers(one: xr.Dataset, other: xr.Dataset) -> None:
    """All data variables are equal, theory and the table that was left included."""
    assert set(one.data_vars) == set(other.data_vars)
    xr.testing.assert_equal(one, other)


def refusal(service: dict[str, Any], **changes: Any) -> str:
    """The one line that refuses a sweep, from reading it or from running it."""
    with pytest.raises(InputError) as caught:
        run_sweep(sweep(service, **changes))
    (line,) = str(caught.value).splitlines()
    return line.removeprefix("sweep.toml: ")


# The same as the laws that they stand for ---------------------------------------------------------------------------


@pytest.mark.parametrize("h", ["chosen", "constant", "linear", "saturating", "power"])
def test_coefficients_give_the_cube_of_the_law_that_they_hold(file: str, known: Coefficients, h: str) -> None:
    (laws,) = known.batch_laws
    assert laws.chosen == "linear"
    law = laws.laws["linear" if h == "chosen" else h]  # type: ignore[index]
    explicit = {"law": law.h, "a0_s": law.a0_s, "a1_s_per_token": law.a1_s_per_token}
    explicit |= {} if law.h == "constant" else {"gamma": law.gamma}
    cube, expected = run_sweep(sweep({"coefficients": file, "h": h})), run_sweep(sweep(explicit))
    same_numbers(cube, expected)
    assert cube["theory_throughput_requests_per_s"].notnull().all()
    assert (cube["latency_mean_s"] > 0).all()


def test_theory_of_infinitely_many_servers_is_that_of_the_law(file: str, known: Coefficients) -> None:
    law = known.batch_laws[0].laws["linear"]
    explicit = {"law": "linear", "a0_s": law.a0_s, "a1_s_per_token": law.a1_s_per_token, "gamma": law.gamma}
    found, expected = (
        run_sweep(sweep(service, server={"service": service, "servers": "infinite"}))["theory_latency_s"]
        for service in ({"coefficients": file}, explicit)
    )
    assert found.notnull().all()
    xr.testing.assert_equal(found, expected)


def test_the_measured_table_is_that_of_law_table(tmp_path: Path, file: str) -> None:
    cells = batch_cells()
    with (tmp_path / "times.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["batch_size", "length_tokens", "seconds"])
        rows.writerows(zip(cells.batch_size, cells.output_tokens, cells.seconds.tolist(), strict=True))
    wider = {"policy": {"mode": "fifo_greedy", "batch_size": 12}, "axes": {}}  # leaves the table
    wider["workload"] = {**SWEEP["workload"], "arrivals": {"process": "poisson", "rate_per_s": 8.0}}
    for changes in ({}, wider):
        cube = run_sweep(sweep({"coefficients": file, "h": "table"}, **changes))
        same_numbers(cube, run_sweep(sweep({"law": "table", "path": str(tmp_path / "times.csv")}, **changes)))
        assert (cube["extrapolated_batch_fraction"] > 0).any() == bool(changes)
        assert cube["theory_throughput_requests_per_s"].isnull().all()
        assert ("outside the measured table" in cube.attrs["notes"]) == bool(changes)
    assert not cube.equals(run_sweep(sweep({"coefficients": file}, **wider)))


def test_the_prompt_length_picks_the_laws_and_one_is_the_default(tmp_path: Path) -> None:
    known = fitted(join([batch_cells(k, float(p), 1.0 + k) for k, p in enumerate((16, 64, 256))]))
    file = str(write(tmp_path / "three.json", known))
    assert known.default_prompt_tokens == 64.0
    cubes = {p: run_sweep(sweep({"coefficients": file, "prompt_tokens": p})) for p in (16.0, 64.0, 256.0)}
    same_numbers(run_sweep(sweep({"coefficients": file})), cubes[64.0])
    means = [float(cube["service_mean_s"].mean()) for cube in cubes.values()]
    assert means[1] / means[0] == pytest.approx(2.0, rel=0.05)
    assert means[2] / means[0] == pytest.approx(3.0, rel=0.05)
    assert "prompts of 256 tokens" in cubes[256.0].attrs["notes"]
    assert refusal({"coefficients": file, "prompt_tokens": 32}).startswith(
        "coefficients mine: prompt_tokens = 32: must be one of 16, 64, 256, the prompts that were measured"
    )


# What the cube says of them -----------------------------------------------------------------------------------------


def test_the_cube_keeps_what_it_was_made_with(tmp_path: Path, file: str, known: Coefficients) -> None:
    cube = run_sweep(sweep({"coefficients": file, "h": "power"}), tmp_path / "cube.nc")
    digest = sha256(Path(file).read_bytes()).hexdigest()
    kept = json.loads(read_cube(tmp_path / "cube.nc").attrs["service_coefficients"])
    assert list(kept) == [file]
    entry = kept[file]
    assert entry["sha256"] == digest == cube.attrs["input_sha256"]
    assert (entry["label"], entry["title"], entry["source"]) == ("literature", "A system", "a test")
    (law,) = entry["laws"]
    power = known.batch_laws[0].laws["power"]
    assert (law["asked"], law["draw"], law["prompt_tokens"], law["table"]) == ("power", False, None, None)
    # The whole law, covariance included: the cube outlives the file.
    assert BatchCoefficients.model_validate(law["law"]) == power
    notes = cube.attrs["notes"]
    assert f"service times of {file} (literature): A system; prompt lengths not known" in notes
    rms = power.quality.leave_one_size_out_rms
    assert rms is not None
    assert f"law power predicts left-out batch sizes within {100 * rms:.2g} % (rms)" in notes
    assert "implausible" not in notes
    assert "drawn anew" not in notes
    assert "service_coefficients" not in run_sweep(sweep({"law": "constant", "a1_s_per_token": 0.01})).attrs


def test_notes_warn_of_larger_batches_and_of_flags(tmp_path: Path, file: str, known: Coefficients) -> None:
    larger = {"policy": {"mode": "multi_bin_only", "batch_size": 9}}
    warning = "were measured up to batches of 8, the sweep has some of up to 9: their times are extrapolated"
    assert warning in run_sweep(sweep({"coefficients": file}, **larger)).attrs["notes"]
    assert (
        warning
        not in run_sweep(sweep({"coefficients": file}, policy={"mode": "multi_bin_only", "batch_size": 8})).attrs[
            "notes"
        ]
    )

    def flag(content: Any) -> None:
        content["plausibility"]["flags"] = ["R2 = 1: nothing is left"]

    flagged = write(tmp_path / "flagged.json", known, flag)
    assert "are implausible: R2 = 1: nothing is left" in run_sweep(sweep({"coefficients": str(flagged)})).attrs["notes"]


def test_notes_warn_of_lengths_and_prompts_that_were_not_measured(tmp_path: Path) -> None:
    name = "qwen3-0.6b-cpu-vllm"
    inside = {
        "requests": 40,
        "arrivals": {"process": "poisson", "rate_per_s": 0.5},
        "lengths": {"distribution": "uniform", "low": 8.0, "high": 60.0},
    }
    inside["lengths"]["prompt"] = {"distribution": "constant", "value": 64}
    beyond = {**inside, "lengths": {"distribution": "uniform", "low": 8.0, "high": 600.0}}
    axes = {"bins": SWEEP["axes"]["bins"]}
    quiet = run_sweep(sweep({"coefficients": name}, axes=axes, workload=inside)).attrs["notes"]
    assert "extrapolated" not in quiet
    assert "prefills take another time" not in quiet
    loud = run_sweep(sweep({"coefficients": name}, axes=axes, workload=beyond)).attrs["notes"]
    assert "measured up to outputs of 64 tokens, the workload has some of 600: their times are extrapolated" in loud
    assert "measured with prompts of 64 tokens, the workload's have 0 on average" in loud


def test_a_cube_is_not_made_again_with_other_coefficients(
    tmp_path: Path, known: Coefficients, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "mine.json", known)
    run_sweep(sweep({"coefficients": str(path)}), "cube.nc")
    assert Answer(capsys, "rerun", "cube.nc", "-o", "again.nc", "--quiet").status == 0
    write(path, known, lambda content: content.update(title="Another system"))
    refused = Answer(capsys, "rerun", "cube.nc", "-o", "third.nc", "--quiet").mistake
    assert refused == f"coefficients {path}: have changed since the cube was made, which keeps what they were"
    assert not Path("third.nc").exists()


def test_the_table_says_its_own_error(file: str, known: Coefficients) -> None:
    table = known.batch_laws[0].table
    assert table is not None
    assert table.leave_one_size_out_rms is not None
    notes = run_sweep(sweep({"coefficients": file, "h": "table"})).attrs["notes"]
    rms = 100 * table.leave_one_size_out_rms
    assert f"the measured table predicts left-out batch sizes within {rms:.2g} % (rms)" in notes


def test_an_axis_goes_over_coefficients(tmp_path: Path, file: str) -> None:
    slow = str(write(tmp_path / "slow.json", fitted(batch_cells(2, factor=3.0), "slow")))
    axes = {"system": {"path": "server.service.coefficients", "values": [file, slow]}}
    axes["bins"] = SWEEP["axes"]["bins"]
    both = run_sweep(sweep({}, axes=axes, workload=ONE_RATE))
    assert both["system"].values.tolist() == [file, slow]
    for name in (file, slow):
        alone = run_sweep(sweep({"coefficients": name}, axes={"bins": axes["bins"]}, workload=ONE_RATE))
        for variable in ("latency_mean_s", "theory_throughput_requests_per_s", "busy_throughput_requests_per_s"):
            np.testing.assert_array_equal(both[variable].sel(system=name), alone[variable])
    assert set(json.loads(both.attrs["service_coefficients"])) == {file, slow}
    assert len(both.attrs["input_sha256"].split(",")) == 2
    points = {name: {"server.service.coefficients": name} for name in (file, slow)}
    labelled = run_sweep(sweep({}, axes={"system": {"points": points}, "bins": axes["bins"]}, workload=ONE_RATE))
    xr.testing.assert_equal(labelled["latency_mean_s"], both["latency_mean_s"])


def test_an_axis_over_the_growth_has_the_law_and_the_table(file: str) -> None:
    axes = {"h": {"path": "server.service.h", "values": ["linear", "table"]}, "bins": SWEEP["axes"]["bins"]}
    cube = run_sweep(sweep({"coefficients": file}, axes=axes, workload=ONE_RATE))
    laws = json.loads(cube.attrs["service_coefficients"])[file]["laws"]
    assert [law["asked"] for law in laws] == ["linear", "table"]
    assert [law["table"] is None for law in laws] == [True, False]
    assert not np.array_equal(cube["latency_mean_s"][0], cube["latency_mean_s"][1])
    np.testing.assert_allclose(cube["service_mean_s"][0], cube["service_mean_s"][1], rtol=0.03)


# Files --------------------------------------------------------------------------------------------------------------


def test_paths_start_at_the_folder_of_the_specification(
    tmp_path: Path, known: Coefficients, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, elsewhere = tmp_path / "specs", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    write(folder / "mine.json", known)
    anchored = str(folder / "mine.json")
    single = folder / "single.toml"
    single.write_text(f'{TOML}[server]\nservice = {{ coefficients = "mine.json" }}\n')
    cube = run_sweep(Sweep.from_toml(single))
    assert list(json.loads(cube.attrs["service_coefficients"])) == [anchored]
    swept = f'{TOML}[axes.system]\npath = "server.service.coefficients"\nvalues = ["mine.json"]\n'
    points = f'{TOML}[axes.system.points.mine]\nserver.service.coefficients = "mine.json"\n'
    for text in (swept, points):
        (folder / "swept.toml").write_text(text)
        again = run_sweep(Sweep.from_toml(folder / "swept.toml"))
        assert list(json.loads(again.attrs["service_coefficients"])) == [anchored]
        np.testing.assert_array_equal(again["latency_mean_s"].isel(system=0), cube["latency_mean_s"])
    # What is given on the command line starts where that is.
    write(elsewhere / "here.json", known)
    arguments = ["run", single, "-q", "-o", "cube.nc", "--set", 'server.service={coefficients="here.json"}']
    assert Answer(capsys, *arguments).status == 0
    kept = read_cube("cube.nc")
    assert list(json.loads(kept.attrs["service_coefficients"])) == [str(elsewhere / "here.json")]
    same_numbers(kept, cube)
    # And what made a cube is run again from anywhere.
    monkeypatch.chdir(tmp_path)
    assert Answer(capsys, "rerun", elsewhere / "cube.nc", "-o", "again.nc", "-q").status == 0
    same_numbers(read_cube("again.nc"), cube)


def test_shipped_coefficients_are_found_by_name(
    tmp_path: Path, known: Coefficients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchcube.calibration.coefficients.SHIPPED", tmp_path)
    write(tmp_path / "big-gpu.json", known)
    cube = run_sweep(sweep({"coefficients": "big-gpu"}))
    assert list(json.loads(cube.attrs["service_coefficients"])) == ["big-gpu"]
    same_numbers(cube, run_sweep(sweep({"coefficients": str(tmp_path / "big-gpu.json")})))
    asked = 'server.service.coefficients = "{0}": coefficients {0}: none of that name; '
    assert refusal({"coefficients": "big-cpu"}) == asked.format("big-cpu") + "did you mean big-gpu?"
    allowed = "must be a file that ends in .json, or be in batchcube calibrate list"
    assert refusal({"coefficients": "mine"}) == asked.format("mine") + allowed


@pytest.mark.parametrize("name", [name for name in shipped_names() if (SHIPPED / f"{name}.nc").exists()])
def test_shipped_measurements_give_the_shipped_coefficients(name: str) -> None:
    shipped = load(name)
    again, _ = fit_measurement(SHIPPED / f"{name}.nc", name)
    assert shipped.raw == again.raw  # the file's own hash
    assert (shipped.title, shipped.provenance, shipped.memory) == (again.title, again.provenance, again.memory)
    assert shipped.plausibility == again.plausibility
    # Every number of it: errors, covariances and qualities too.
    assert flat(shipped.model_dump()) == pytest.approx(flat(again.model_dump()), rel=1e-5, abs=1e-12)
    assert texts(shipped.model_dump()) == texts(again.model_dump())


def leaves(part: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested tables and lists with its path."""
    if isinstance(part, dict | list):
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            yield from leaves(value, f"{path}.{key}")
    else:
        yield path, part


def flat(content: Any) -> dict[str, float]:
    return {path: float(value) for path, value in leaves(content) if isinstance(value, int | float)}


def texts(content: Any) -> dict[str, Any]:
    return {path: value for path, value in leaves(content) if not isinstance(value, int | float)}


TABLED = [name for name in shipped_names() if name.endswith("-tables")]


@pytest.mark.parametrize("name", TABLED)
def test_shipped_tables_of_steps_can_be_swept_in_mode_continuous(name: str) -> None:
    known = load(name)
    assert known.step_law is not None
    assert known.step_law.decode is not None
    prepared = prepare(Sweep.model_validate(laid(CONTINUOUS, {"server.service": {"coefficients": name}})))
    assert sum(f"step times of {name} (tables): {known.title}" in note for note in prepared.notes) == 1
    law = prepared.points[0].setup.replica.law
    assert law.decode[1] == pytest.approx(1e12 * known.step_law.decode.s[1])
    # Every term is there.
    assert not any("neither measured" in note for note in prepared.notes)
    assert "hold no law of whole batches" in refusal({"coefficients": name})


@pytest.mark.parametrize("name", [name for name in shipped_names() if name not in TABLED])
def test_every_shipped_system_can_be_swept(name: str) -> None:
    known = load(name)
    assert known.name == name
    prepared = prepare(sweep({"coefficients": name}))
    assert sum(f"service times of {name} ({known.label}): {known.title}" in note for note in prepared.notes) == 1
    assert not any("implausible" in note for note in prepared.notes)
    # A token of a batch of 4 takes between 10 microseconds and 10 seconds.
    assert 10 < prepared.points[0].setup.service.slope[4, 0] < 1e7


def test_a_file_that_was_fitted_anew_is_read_anew(tmp_path: Path, file: str) -> None:
    cube = run_sweep(sweep({"coefficients": file}), tmp_path / "cube.nc")
    write(Path(file), fitted(batch_cells(3, factor=2.0)))
    with pytest.raises(InputError, match="was made from a file, or with a policy, that has changed since"):
        run_sweep(sweep({"coefficients": file}, replications=5), tmp_path / "cube.nc")
    again = run_sweep(sweep({"coefficients": file}), tmp_path / "cube.nc", overwrite=True)
    ratio = again["service_mean_s"] / cube["service_mean_s"]
    assert (abs(ratio - 2.0) < 0.1).all()
    (entry,) = json.loads(again.attrs["service_coefficients"]).values()
    assert entry["sha256"] == sha256(Path(file).read_bytes()).hexdigest()


# Mistakes -----------------------------------------------------------------------------------------------------------


def without_errors(content: Any) -> None:
    content["batch_laws"][0]["laws"]["linear"]["covariance"] = None


def negative(content: Any) -> None:
    content["batch_laws"][0]["laws"]["linear"]["a0_s"] = -0.5


def another_key(content: Any) -> None:
    content["batch_laws"][0]["laws"]["linear"]["a2"] = 1.0


def falling_table(content: Any) -> None:
    content["batch_laws"][0]["table"]["seconds"][0].reverse()


def without_laws(content: Any) -> None:
    content["batch_laws"] = []


def without_power_and_table(content: Any) -> None:
    content["batch_laws"][0]["table"] = None
    del content["batch_laws"][0]["laws"]["power"]


def another_format(content: Any) -> None:
    content["format"] = 2


MISTAKES: list[tuple[Callable[[Any], None], dict[str, Any], str]] = [
    (negative, {}, "FILE: batch_laws[0].laws.linear.a0_s = -0.5: must be >= 0"),
    (another_key, {}, "FILE: batch_laws[0].laws.linear.a2: no such setting"),
    (falling_table, {}, "FILE: batch_laws[0].table = {"),
    (another_format, {}, "FILE: format = 2: must be 1"),
    (without_laws, {}, "coefficients mine: hold no law of whole batches"),
    (
        without_power_and_table,
        {"h": "power"},
        "server.service.h = power: coefficients FILE have constant, linear, satu",
    ),
    (without_power_and_table, {"h": "table"}, 'server.service.h = "table": coefficients FILE have no complete grid'),
    (without_errors, {"draw": True}, "server.service.draw: coefficients FILE: nothing is known of the coefficients'"),
    (without_errors, {"draw": True, "h": "table"}, 'server.service.draw = true: h = "table" has no coefficients to'),
    (without_errors, {"prompt_tokens": 64}, "coefficients mine: prompt_tokens = 64: its times have no prompts"),
]


@pytest.mark.parametrize(("change", "settings", "line"), MISTAKES)
def test_a_mistake_is_one_line(
    tmp_path: Path, known: Coefficients, change: Callable[[Any], None], settings: dict[str, Any], line: str
) -> None:
    file = str(write(tmp_path / "mine.json", known, change))
    assert refusal({"coefficients": file, **settings}).startswith(line.replace("FILE", file))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"{,", "is not JSON, must be a file of coefficients"),
        (b"\xff\xfe\x00", "is not JSON, must be a file of coefficients"),
        (b"[" * 100_000, "is nested deeper than 24 levels, must be a file of coefficients"),
        (b" " * 10_000_001, "is larger than 10000000 bytes"),
        (b"[1, 2]", "is no table, must be a file of coefficients"),
        (b"{}", "name: is missing"),
    ],
)
def test_what_is_no_file_of_coefficients_is_told_in_a_line(tmp_path: Path, content: bytes | None, line: str) -> None:
    file = tmp_path / "x.json"
    if content is not None:
        file.write_bytes(content)
    assert refusal({"coefficients": str(file)}) == f"{file}: {line}"


@pytest.mark.parametrize(
    ("service", "line"),
    [
        (
            '{ coefficients = "nothing" }',
            'single.toml: server.service.coefficients = "nothing": coefficients nothing: none',
        ),
        ('{ coefficients = "missing.json" }', "single.toml: FOLDER/missing.json: cannot be read: No such file"),
        ('{ coefficients = "text.json" }', "single.toml: FOLDER/text.json: is not JSON"),
        (
            '{ coefficients = "negative.json" }',
            "single.toml: FOLDER/negative.json: batch_laws[0].laws.linear.a0_s = -0.5",
        ),
        ('{ coefficients = "mine.json", prompt_tokens = 7 }', "single.toml: coefficients mine: prompt_tokens = 7"),
        ('{ coefficients = "mine.json", draw = true, h = "table" }', "single.toml: server.service.draw = true: h = "),
    ],
)
def test_the_command_line_refuses_with_status_2_and_writes_nothing(
    tmp_path: Path,
    known: Coefficients,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    service: str,
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("mine.json"), known)
    write(Path("negative.json"), known, negative)
    Path("text.json").write_text("a0 = 1")
    Path("single.toml").write_text(f"{TOML}[server]\nservice = {service}\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert Answer(capsys, "run", "single.toml").mistake.startswith(line.replace("FOLDER", str(tmp_path)))
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_where_on_an_axis_coefficients_cannot_be_used_is_said(tmp_path: Path, file: str, known: Coefficients) -> None:
    blind = str(write(tmp_path / "blind.json", known, without_errors))
    axes = {"bins": SWEEP["axes"]["bins"], "system": {"path": "server.service.coefficients", "values": [file, blind]}}
    assert refusal({"draw": True}, axes=axes, workload=ONE_RATE) == (
        f"server.service.draw: coefficients {blind}: nothing is known of the coefficients' errors "
        f"(at bins = 1, system = {show_value(blind)})"
    )
    axes["system"]["values"] = [file, "nothing"]
    assert refusal({}, axes=axes, workload=ONE_RATE).startswith('axes.system.values[1] = "nothing": coefficients no')
    axes["system"] = {"path": "server.service.draw", "values": [True, False]}
    assert refusal({"coefficients": file}, axes=axes, workload=ONE_RATE) == (
        "server.service.draw: must be the same at every point: where coefficients are drawn, intervals mean something "
        "else"
    )


# Coefficients of each replication's own -----------------------------------------------------------------------------


def drawn_laws(checked: Sweep, replication: int) -> list[tuple[int, list[float]]]:
    """The intercept and slopes of every point in a replication, of batches up to 4."""
    draws = Draws(checked.seed, replication)
    services = [draws.job(point).setup.service for point in prepare(checked).points]
    return [(int(service.base[1, 0]), service.slope[1:5, 0].tolist()) for service in services]


def test_replications_differ_and_points_share_the_draw(file: str, known: Coefficients) -> None:
    axes = {**SWEEP["axes"], "size": {"path": "policy.batch_size", "values": [4, 6]}}
    policy = {"mode": "multi_bin_only"}
    checked = sweep({"coefficients": file, "draw": True}, axes=axes, policy=policy)
    replications = [drawn_laws(checked, r) for r in range(4)]
    for laws in replications:
        assert len(laws) == 8
        assert all(law == laws[0] for law in laws)  # batch sizes that differ are built apart, and draw the same
    assert len({laws[0][0] for laws in replications}) == 4
    assert drawn_laws(checked, 2) == replications[2]
    # From a stream of their own.
    expected = drawn(known.batch_laws[0].laws["linear"], stream(checked.seed, 3, "coefficients"))
    assert replications[3][0][0] == round(1e6 * expected.a0_s)
    assert replications[3][0][1][0] == pytest.approx(1e6 * expected.a1_s_per_token)
    assert drawn_laws(sweep({"coefficients": file, "draw": True}, seed=2), 0) != replications[0][:4]
    law = known.batch_laws[0].laws["linear"]
    for laws in replications:
        intercept, slopes = laws[0]
        assert law.standard_errors[0] is not None
        assert abs(intercept / 1e6 - law.a0_s) < 8 * law.standard_errors[0]
        assert slopes[3] / slopes[0] == pytest.approx(1 + 3 * law.gamma, rel=0.05)


def test_all_else_is_drawn_as_without(file: str) -> None:
    axes = {"bins": SWEEP["axes"]["bins"]}
    fixed, random = (
        prepare(sweep({"coefficients": file, "draw": draw}, axes=axes, workload=ONE_RATE)) for draw in (False, True)
    )
    for replication in range(2):
        one, other = Draws(1, replication), Draws(1, replication)
        for k in range(2):
            a, b = one.job(fixed.points[k]), other.job(random.points[k])
            np.testing.assert_array_equal(a.trace.arrival, b.trace.arrival)
            np.testing.assert_array_equal(a.trace.output, b.trace.output)
            assert a.setup.policy == b.setup.policy
            assert a.setup.service.base[1, 0] != b.setup.service.base[1, 0]
    # The plan itself, and with it theory, has the estimates.
    assert fixed.points[0].setup.service.base[1, 0] == random.points[0].setup.service.base[1, 0]


def test_a_cube_of_drawn_coefficients_says_so_and_has_prediction_intervals(tmp_path: Path, file: str) -> None:
    fixed = run_sweep(sweep({"coefficients": file}, replications=6))
    cube = run_sweep(sweep({"coefficients": file, "draw": True}, replications=6), tmp_path / "cube.nc")
    for name in ("theory_throughput_requests_per_s", "theory_throughput_limit_requests_per_s"):
        xr.testing.assert_equal(cube[name], fixed[name])
    assert "drawn anew for every replication" in cube.attrs["notes"]
    assert json.loads(cube.attrs["service_coefficients"])[file]["laws"][0]["draw"] is True
    kept = read_cube(tmp_path / "cube.nc")
    for data, single in ((kept["latency_mean_s"], True), (fixed["latency_mean_s"], False)):
        assert of_single(data) is single
        expected = plain_mean_interval(data.values, bounds=(0.0, np.inf), single=single)
        np.testing.assert_array_equal(mean_interval(data)["high"], expected.high)
    # What every replication has of its own shows in the times of its batches.
    spread = (cube["service_mean_s"] / fixed["service_mean_s"]).std("replication")
    assert (spread > 1e-4).all()


def test_more_replications_leave_the_earlier_draws_as_they_are(tmp_path: Path, file: str) -> None:
    service = {"coefficients": file, "draw": True}
    first = run_sweep(sweep(service), tmp_path / "cube.nc")
    longer = run_sweep(sweep(service, replications=5), tmp_path / "cube.nc")
    assert longer.sizes["replication"] == 5
    xr.testing.assert_equal(longer["latency_mean_s"].isel(replication=slice(0, 3)), first["latency_mean_s"])
    assert of_single(longer["latency_mean_s"])
    assert of_single(read_cube(tmp_path / "cube.nc")["latency_mean_s"])
    assert "service_coefficients" in longer.attrs
    xr.testing.assert_identical(data_of(longer), data_of(run_sweep(sweep(service, replications=5), workers=2)))


@pytest.mark.usefixtures("unoptimised_programs")
def test_every_backend_draws_the_same(file: str) -> None:
    # One structure, so that JAX compiles once.
    axes = {"arrival_rate_per_s": SWEEP["axes"]["arrival_rate_per_s"]}
    policy = {"mode": "fifo_greedy", "batch_size": 4}
    checked = sweep({"coefficients": file, "draw": True}, axes=axes, policy=policy)
    numba, reference, jax = (run_sweep(checked, backend=backend) for backend in ("numba", "reference", "jax"))
    xr.testing.assert_identical(data_of(numba), data_of(reference))
    xr.testing.assert_identical(data_of(numba), data_of(jax))
    assert len(np.unique(numba["service_mean_s"].isel(arrival_rate_per_s=0))) == 3


def test_the_schema_knows_coefficients() -> None:
    law = json_schema()["$defs"]["CoefficientsLaw"]["properties"]
    assert set(law) == {"law", "coefficients", "h", "prompt_tokens", "draw"}
