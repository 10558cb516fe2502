import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import t as student

from batchcube.calibration.laws import STEP_TERMS
from batchcube.calibration.measuring.bench import Cell, CellTooLargeError, Grid
from batchcube.errors import InputError
from batchcube.results.build import Coordinate, build_cube
from batchcube.results.cube import write_cube
from batchcube.results.measurements import read_measurement
from batchcube.results.storage import write_dataset
from batchcube.sweeps.calibrate import measure as measuring
from batchcube.sweeps.calibrate.fit import cells_of, fit_measurement
from batchcube.sweeps.calibrate.measure import NOT_IN_TIME, journal_of, measure_engine
from batchcube.sweeps.claim import Claim
from helpers.engines import A0_S, A1_S, COEFFICIENTS, GAMMA, STRAIGHT, FakeEngine

GRID = Grid((1, 2, 4), (16, 32), (4, 8), 3, 5)
RUNS = 3 * len(GRID.cells())


def measured(engine: FakeEngine, output: Path, grid: Grid = GRID, **options: Any) -> xr.Dataset:
    return measure_engine(lambda: engine, grid, output, quiet=True, **options)


def same_but_for_the_date(one: xr.Dataset, other: xr.Dataset) -> None:
    one, other = one.copy(), other.copy()
    assert one.attrs.pop("created_utc")
    assert other.attrs.pop("created_utc")
    xr.testing.assert_identical(one, other)


def at(cell: Cell) -> dict[str, int]:
    return cell._asdict()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "m.nc"


# From the engine to the file ----------------------------------------------------------------------------------------


def test_every_step_of_every_run_lies_in_its_place(output: Path) -> None:
    engine = FakeEngine(noise=0.0)
    found = measured(engine, output)
    assert dict(found.sizes) == {
        "batch_size": 3,
        "prompt_tokens": 2,
        "output_tokens": 2,
        "repetition": 3,
        "step": 8,
    }
    for cell in GRID.cells():
        steps = found["step_s"].sel(at(cell)).values
        np.testing.assert_array_equal(steps[:, : cell.output_tokens], np.tile(engine.steps(cell), (3, 1)))
        assert np.isnan(steps[:, cell.output_tokens :]).all()
        np.testing.assert_array_equal(found["batch_wall_s"].sel(at(cell)), engine.steps(cell).sum() + 1e-3)
    assert (found["refusal"] == "").all()
    assert found.attrs["seed"] == 5
    assert {name: found.attrs[name] for name in engine.describe()} == engine.describe()
    assert {"processor", "cores", "memory", "system"} <= set(found.attrs)
    xr.testing.assert_identical(read_measurement(output), found)
    assert [path.name for path in output.parent.iterdir()] == ["m.nc"]


def test_repetitions_are_passes_over_all_cells_in_orders_of_their_own(output: Path) -> None:
    engine = FakeEngine()
    found = measured(engine, output)
    cells = GRID.cells()
    passes = [engine.timed[k : k + len(cells)] for k in range(0, RUNS, len(cells))]
    assert len(passes) == 3
    assert all(sorted(each) == sorted(cells) for each in passes)
    assert passes[0] != passes[1] != passes[2] != passes[0]
    for place, cell in enumerate(engine.timed):
        assert int(found["order"].sel(at(cell)).isel(repetition=place // len(cells))) == place
    again = FakeEngine()
    measured(again, output, overwrite=True)
    assert again.timed == engine.timed
    other = FakeEngine()
    measured(other, output, GRID._replace(seed=6), overwrite=True)
    assert other.timed != engine.timed


def test_every_shape_is_warmed_up_before_anything_is_timed(output: Path) -> None:
    engine = FakeEngine()
    measured(engine, output)
    shapes = [Cell(b, p, 2) for b in GRID.batch_sizes for p in GRID.prompt_tokens]
    assert engine.served[: len(shapes)] == shapes
    assert engine.served[len(shapes) :] == engine.timed
    assert len(engine.timed) == RUNS


def test_true_step_coefficients_lie_in_their_intervals_as_often_as_promised(output: Path) -> None:
    """From the engine through the file to the coefficients, with 95 % t intervals.

    With one output length each mean of the fit is one of three runs, so that all scatter alike, as the intervals
    suppose. Were every step to scatter on its own, the means over many decode steps would scatter less than those of
    the prefills, and the intervals of the prefill's coefficients would be too narrow.
    """
    grid = Grid((1, 4, 16), (16, 64, 256), (16,), 3, 1)
    seeds = 60
    inside = np.zeros((seeds, 5), bool)
    for seed in range(seeds):
        measured(FakeEngine(seed=seed), output, grid, overwrite=True)
        law = fit_measurement(output)[0].step_law
        assert law is not None
        assert law.errors is not None
        assert (law.quality.measurements, law.errors.degrees_of_freedom) == (18, 13)
        found = np.array([getattr(law, name) for name in STEP_TERMS[:5]])
        half = student.ppf(0.975, 13) * np.array([law.standard_error(name) for name in STEP_TERMS[:5]])
        inside[seed] = np.abs(found - COEFFICIENTS) <= half
    error = np.sqrt(0.95 * 0.05 / seeds)
    assert (inside.mean(axis=0) > 0.95 - 4.5 * error).all()
    # Intervals that are far too wide would hold all of them.
    assert inside.mean() < 1.0


def test_an_engine_without_noise_gives_its_laws_back(output: Path) -> None:
    measured(FakeEngine(noise=0.0), output)
    step = fit_measurement(output)[0].step_law
    assert step is not None
    assert [getattr(step, name) for name in STEP_TERMS[:5]] == pytest.approx(list(COEFFICIENTS), rel=1e-6)
    measured(
        FakeEngine(STRAIGHT, prefill_s=A0_S, noise=0.0), output, GRID._replace(prompt_tokens=(32,)), overwrite=True
    )
    (laws,) = fit_measurement(output)[0].batch_laws
    law = laws.laws["linear"]
    assert (laws.prompt_tokens, laws.chosen) == (32.0, "linear")
    assert (law.a0_s, law.a1_s_per_token, law.gamma) == pytest.approx((A0_S, A1_S, GAMMA), rel=1e-6)
    assert laws.table is not None
    assert laws.table.seconds[2] == pytest.approx([A0_S + A1_S * o * (1 + GAMMA * 3) for o in (4, 8)])


def test_coefficients_say_where_they_come_from(output: Path) -> None:
    measured(FakeEngine(), output)
    known, _ = fit_measurement(output, "mine")
    assert (known.name, known.label) == ("mine", "measured")
    assert "nobody's (bfloat16, random weights) with fake on" in known.title
    assert known.provenance["engine_versions"] == "fake 1.0"
    assert known.raw is not None
    assert known.raw.file == "m.nc"
    assert len(known.raw.sha256) == 64
    assert known.memory is not None
    assert known.memory.reported_capacity_tokens == 5000
    assert fit_measurement(output)[0].name == "m"
    measured(FakeEngine(device="Big GPU"), output, overwrite=True)
    assert fit_measurement(output)[0].title.endswith("with fake on Big GPU")


# Stopped, and continued ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [[10], [1, 5, 20], [0]])
def test_a_stopped_measurement_goes_on_with_what_is_missing(tmp_path: Path, stops: list[int]) -> None:
    whole = FakeEngine()
    measured(whole, tmp_path / "whole.nc")
    output, runs, timed = tmp_path / "m.nc", Counter[Cell](), []
    for stop in stops:
        engine = FakeEngine(stop_after=stop, runs=runs)
        with pytest.raises(KeyboardInterrupt):
            measured(engine, output)
        assert not output.exists()
        assert journal_of(output).exists()
        timed += engine.timed
    last = FakeEngine(runs=runs, free_bytes=17)  # what may differ from run to run
    found = measured(last, output)
    assert len(last.timed) == RUNS - sum(stops)
    assert timed + last.timed == whole.timed
    assert found.attrs.pop("free_bytes") == 17
    same_but_for_the_date(found, read_measurement(tmp_path / "whole.nc"))
    assert not journal_of(output).exists()


def test_only_shapes_that_are_missing_are_warmed_up_again(output: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(FakeEngine(stop_after=RUNS - 1), output)
    last = FakeEngine()
    measured(last, output)
    (cell,) = last.timed
    assert last.served == [Cell(cell.batch_size, cell.prompt_tokens, 2), cell]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-30],  # stopped while a line was being written
        lambda text: text[:-1],  # the same, but for its end
        lambda text: text + '{"cell": 3, "rep',
    ],
)
def test_a_line_cut_short_costs_no_more_than_itself(output: Path, damage: Callable[[str], str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(FakeEngine(noise=0.0, stop_after=10), output)
    journal = journal_of(output)
    damaged = damage(journal.read_text())
    complete = sum(row.endswith("]}") for row in damaged.splitlines())
    assert complete in (9, 10)
    journal.write_text(damaged)
    # Stopped and continued once more: what was appended to the damaged file must be readable.
    with pytest.raises(KeyboardInterrupt):
        measured(FakeEngine(noise=0.0, stop_after=7), output)
    rows = [json.loads(row) for row in journal.read_text().splitlines()]
    assert len(rows) == 1 + complete + 7
    last = FakeEngine(noise=0.0)
    found = measured(last, output)
    assert len(last.timed) == RUNS - complete - 7
    same_but_for_the_date(found, measured(FakeEngine(noise=0.0), output, overwrite=True))


def test_a_stopped_measurement_of_something_else_is_refused(output: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(FakeEngine(stop_after=3), output)
    before = journal_of(output).read_bytes()
    for engine, grid, differing in (
        (FakeEngine(), GRID._replace(seed=6), "grid"),
        (FakeEngine(), GRID._replace(batch_sizes=(1, 2)), "grid"),
        (FakeEngine(model="another"), GRID, "model"),
        (FakeEngine(threads=2), GRID, "threads"),
        (FakeEngine(clock="wall clock"), GRID, "clock"),
        (FakeEngine(driver="CUDA 13"), GRID, "driver"),
        (FakeEngine(engine_versions="fake 2.0"), GRID._replace(seed=6), "engine_versions, grid"),
    ):
        with pytest.raises(InputError) as caught:
            measured(engine, output, grid)
        assert str(caught.value) == (
            f"{journal_of(output)}: holds a stopped measurement of something else ({differing} differ); remove it, or "
            "`overwrite`"
        )
        assert engine.served == []
        assert journal_of(output).read_bytes() == before
    anew = FakeEngine(model="another")
    assert measured(anew, output, overwrite=True).attrs["model"] == "another"
    assert len(anew.timed) == RUNS


@pytest.mark.parametrize("name", ["processor", "cores", "memory", "batchcube_version"])
def test_a_measurement_does_not_go_on_elsewhere(output: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(FakeEngine(stop_after=3), output)
    if name == "batchcube_version":
        monkeypatch.setattr(measuring, "batchcube_version", lambda: "0.0.0")
    else:
        other = measuring.machine() | {name: "another"}
        monkeypatch.setattr(measuring, "machine", lambda: other)
    with pytest.raises(
        InputError, match=rf"holds a stopped measurement of something else \({name} differ\); remove it"
    ):
        measured(FakeEngine(), output)


@pytest.mark.parametrize("content", [b"7\n", b"\xff\xfe\n", b"[1, 2]\n"])
def test_what_is_no_stopped_measurement_is_refused_and_kept(output: Path, content: bytes) -> None:
    journal_of(output).parent.mkdir()
    journal_of(output).write_bytes(content)
    with pytest.raises(InputError, match=r"holds a stopped measurement of something else \(.*grid, .* differ\)"):
        measured(FakeEngine(), output)
    assert journal_of(output).read_bytes() == content


@pytest.mark.parametrize("content", [b"", b'{"grid": {"batch_sizes": [1, '])
def test_a_measurement_that_was_killed_as_it_began_begins_again(output: Path, content: bytes) -> None:
    journal_of(output).parent.mkdir()
    journal_of(output).write_bytes(content)
    engine = FakeEngine()
    measured(engine, output)
    assert len(engine.timed) == RUNS
    assert [path.name for path in output.parent.iterdir()] == ["m.nc"]


def test_what_follows_a_measurement_is_done_again_where_it_was_stopped(output: Path) -> None:
    def stopped(found: xr.Dataset, finished: bool) -> None:
        assert finished
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(FakeEngine(), output, then=stopped)
    assert output.exists()
    told = []
    again = FakeEngine()
    measured(again, output, then=lambda found, finished: told.append(finished))
    assert (again.timed, told) == ([], [True])
    with pytest.raises(InputError, match="is there already"):
        measured(FakeEngine(), output)


def test_the_second_measurement_of_an_output_is_refused_with_the_process_of_the_first(output: Path) -> None:
    with Claim(output), pytest.raises(InputError, match=rf"is being written by process {os.getpid()} on "):
        measured(FakeEngine(), output)


def test_a_journal_that_cannot_be_written_is_one_line(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def full(path: Path, *how: Any, **options: Any) -> Any:
        if path == journal_of(output):
            raise OSError(28, "No space left on device")
        return opened(path, *how, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(InputError, match=r"samples\.jsonl: cannot be written: No space left on device$"):
        measured(FakeEngine(), output)
    monkeypatch.undo()
    journal_of(output).mkdir(parents=True)
    with pytest.raises(InputError, match=r"samples\.jsonl: cannot be read: Is a directory$"):
        measured(FakeEngine(), output)


def test_an_output_that_is_there_is_refused_before_the_engine_is_made(output: Path) -> None:
    output.write_text("something")

    def never() -> FakeEngine:
        raise AssertionError

    with pytest.raises(InputError, match=r"m\.nc: is there already; choose another output, or `overwrite`$"):
        measure_engine(never, GRID, output, quiet=True)
    assert output.read_text() == "something"
    (output.parent / "file").touch()
    with pytest.raises(InputError, match=r"file: is a file, must be a folder$"):
        measure_engine(never, GRID, output.parent / "file" / "m.nc", quiet=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": (1, 0)}, "`batch_sizes` 1,0: must be whole numbers >= 1"),
        ({"batch_sizes": (2, 1)}, "`batch_sizes` 2,1: must increase"),
        ({"prompt_tokens": ()}, "`prompt_tokens`: must be whole numbers >= 1"),
        ({"output_tokens": (1, 4)}, "`output_tokens` 1,4: must be whole numbers >= 2"),
        ({"output_tokens": (4, 4)}, "`output_tokens` 4,4: must increase"),
        ({"repetitions": 0}, "`repetitions` 0: must be >= 1"),
    ],
)
def test_a_grid_that_nothing_follows_from_is_refused(output: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        measured(FakeEngine(), output, GRID._replace(**changes))
    assert str(caught.value) == message
    assert list(output.parent.iterdir()) == []


# What is left out ---------------------------------------------------------------------------------------------------


def test_cells_that_the_engine_refuses_are_left_out_and_say_why(output: Path) -> None:
    engine = FakeEngine(positions=38)
    found = measured(engine, output)
    for cell in GRID.cells():
        left_out = cell.prompt_tokens + cell.output_tokens > 38
        reason = "40 tokens, the model has 38 positions" if left_out else ""
        assert str(found["refusal"].sel(at(cell)).values) == reason
        assert bool(found["step_s"].sel(at(cell)).isnull().all()) == left_out
        assert (found["order"].sel(at(cell)).values == -1).all() == left_out
        assert (cell in engine.served) != left_out
    assert cells_of(read_measurement(output)).only("batch").seconds.size == 9
    assert fit_measurement(output)[0].batch_laws


def test_cells_without_room_are_tried_once_and_say_why(output: Path) -> None:
    # Found while warming up: 4 x (32 + 2). Found while measuring: 4 x (16 + 8).
    engine = FakeEngine(room_tokens=90)
    found = measured(engine, output)
    for cell in GRID.cells():
        why = str(found["refusal"].sel(at(cell)).values)
        if cell[:2] == (4, 32):
            assert why == "no room for 136 tokens"
            assert cell not in engine.served
        elif cell == (4, 16, 8):
            assert why == "no room for 96 tokens"
            assert engine.timed.count(cell) == 1
        else:
            assert why == ""
            assert engine.timed.count(cell) == 3
    assert engine.served.count(Cell(4, 32, 2)) == 1


def test_what_was_found_to_have_no_room_is_kept_by_a_stopped_measurement(output: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(FakeEngine(room_tokens=90, stop_after=20), output)
    found = measured(FakeEngine(room_tokens=90), output)
    whole = measured(FakeEngine(room_tokens=90), tmp_path / "whole.nc")
    xr.testing.assert_equal(found["refusal"], whole["refusal"])
    xr.testing.assert_equal(found["order"], whole["order"])


def test_a_measurement_without_any_run_is_refused_by_the_fit(output: Path) -> None:
    found = measured(FakeEngine(positions=1), output)
    assert (found["refusal"] != "").all()
    with pytest.raises(InputError, match=r"m\.nc: the measurement holds no complete run of any cell$"):
        fit_measurement(output)


def test_too_few_cells_for_any_law_are_refused_by_the_fit(output: Path) -> None:
    measured(FakeEngine(), output, Grid((1,), (16,), (4,), 2, 1))
    with pytest.raises(InputError, match=r"m\.nc: 3 cells are too few, or too alike, for any law"):
        fit_measurement(output)


def test_what_is_no_measurement_is_refused_by_the_fit(tmp_path: Path) -> None:
    cube = build_cube(
        [Coordinate("bins", (1, 2), "policy.bins")],
        {"throughput_requests_per_s": np.ones((2, 3))},
        replications=3,
        attrs={"title": "t", "specification": "{}"},
    )
    path = write_cube(cube, tmp_path / "cube.nc")
    with pytest.raises(ValueError, match=r"cube\.nc: is no measurement; batchcube calibrate vllm"):
        fit_measurement(path)
    found = measured(FakeEngine(), tmp_path / "m.nc")
    write_dataset(found, tmp_path / "m.nc")
    for name in (" ", "a b", "../x", ".x"):
        with pytest.raises(InputError, match=r": the name of coefficients must be letters, digits and \. _ -$"):
            fit_measurement(tmp_path / "m.nc", name)


def test_a_repetition_that_fails_late_leaves_the_cell_its_samples(output: Path) -> None:
    cell = Cell(4, 32, 8)

    class Fragmented(FakeEngine):
        def run(self, cell: Cell) -> Any:
            if cell == (4, 32, 8) and self.timed.count(cell) == 2:
                raise CellTooLargeError("the memory is in pieces")
            return super().run(cell)

    found = measured(Fragmented(), output)
    assert str(found["refusal"].sel(at(cell)).values) == "the memory is in pieces"
    assert (found["order"].sel(at(cell)) >= 0).values.tolist() == [True, True, False]
    assert (found["order"] >= 0).sum() == RUNS - 1
    assert found["refusal"].attrs["long_name"] == "why a cell, or a repetition of it, was not measured"
    assert cells_of(found).only("batch").seconds.size == len(GRID.cells())


class Slow(FakeEngine):
    """Every run takes a second of a clock that nothing else moves; a run under way is finished."""

    now = 0.0

    def run(self, cell: Cell) -> Any:
        self.now += 1.0
        return super().run(cell)


def slowly(engine: Slow, output: Path, limit: float | None) -> xr.Dataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring.time, "monotonic", lambda: engine.now)
        return measured(engine, output, time_limit_s=limit)


def test_the_time_limit_leaves_out_the_rest_and_says_so(output: Path) -> None:
    engine = Slow()
    # 6 shapes are warmed up; then 9 runs begin before the limit, and the last of them is finished after it.
    found = slowly(engine, output, 14.5)
    assert len(engine.timed) == 9
    done = {cell for cell in GRID.cells() if (found["order"].sel(at(cell)) >= 0).any()}
    assert done == set(engine.timed)
    for cell in GRID.cells():
        assert str(found["refusal"].sel(at(cell)).values) == ("" if cell in done else NOT_IN_TIME)
    assert int((found["order"] >= 0).sum()) == 9
    xr.testing.assert_identical(read_measurement(output), found)
    assert cells_of(found).only("batch").seconds.size == 9


def test_what_the_time_limit_ended_goes_on_beside_its_output(output: Path, tmp_path: Path) -> None:
    runs, timed = Counter[Cell](), []
    for limit in (14.5, 20.0, 20.0):
        engine = Slow(runs=runs)
        slowly(engine, output, limit)
        assert journal_of(output).exists() == (len(timed) + len(engine.timed) < RUNS)
        timed += engine.timed
    whole = FakeEngine()
    same_but_for_the_date(read_measurement(output), measured(whole, tmp_path / "whole.nc"))
    assert timed == whole.timed
    with pytest.raises(InputError, match=r"m\.nc: is there already"):
        measured(FakeEngine(), output)


def test_the_time_limit_ends_warming_up_too(output: Path) -> None:
    engine = Slow(room_tokens=90)
    with pytest.raises(InputError) as caught:
        slowly(engine, output, 5.0)
    assert str(caught.value) == (
        f"{output}: nothing was measured within `time_limit_s` 5, loading and warming up took it; the same command, "
        "given more time, goes on"
    )
    assert len(engine.served) == 5
    assert engine.timed == []
    assert not output.exists()
    assert slowly(Slow(room_tokens=90), output, None)["order"].max() == RUNS - 1
    assert not journal_of(output).exists()


def test_progress_is_told_unless_quiet(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure_engine(FakeEngine, GRID, output)
    err = capsys.readouterr().err
    assert "warming up" in err
    assert f"{RUNS} of {RUNS}" in err
    measured(FakeEngine(), output, overwrite=True)
    assert capsys.readouterr() == ("", "")
