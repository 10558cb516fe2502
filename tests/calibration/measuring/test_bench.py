"""What is measured in which order, and what happens to cells that an engine has no room for."""

import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcube.calibration.measuring.bench import (
    CPU_GRID,
    GPU_GRID,
    Cell,
    CellTooLargeError,
    Engine,
    Grid,
    Sample,
    check_dtype,
    check_grid,
    measure,
    refusals,
    warm_up,
)
from batchcube.calibration.measuring.clock import PROCESS, WALL, cpu_clock, machine

GRID = Grid((1, 4), (16, 32), (2, 8), 3, 7)


class FakeEngine:
    """Has room for `room` tokens, and refuses prompts longer than `longest`; a run takes its own number of seconds."""

    def __init__(self, room: int = 10**6, longest: int = 10**6) -> None:
        self.room, self.longest = room, longest
        self.runs: list[Cell] = []

    def describe(self) -> dict[str, Any]:
        return {"engine": "fake"}

    def refusal(self, cell: Cell) -> str:
        return f"prompts of {cell.prompt_tokens}" if cell.prompt_tokens > self.longest else ""

    def run(self, cell: Cell) -> Sample:
        self.runs.append(cell)
        if cell.kv_tokens > self.room:
            raise CellTooLargeError(f"no room for {cell.kv_tokens} tokens")
        return Sample(np.full(cell.output_tokens, float(len(self.runs))), 0.0)


def test_a_cell_keeps_what_all_its_requests_read_and_wrote() -> None:
    assert Cell(4, 100, 20).kv_tokens == 480


def test_cells_are_every_combination_in_the_order_of_an_array() -> None:
    cells = GRID.cells()
    assert len(cells) == len(set(cells)) == 8
    shaped = np.array(cells).reshape(2, 2, 2, 3)
    for i, b in enumerate((1, 4)):
        for j, p in enumerate((16, 32)):
            for k, o in enumerate((2, 8)):
                assert shaped[i, j, k].tolist() == [b, p, o]


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_every_repetition_is_a_pass_over_all_cells(seed: int, sizes: int, prompts: int, repetitions: int) -> None:
    grid = Grid(tuple(range(1, sizes + 1)), tuple(range(1, prompts + 1)), (2, 3), repetitions, seed)
    order = grid.order()
    count = len(grid.cells())
    assert [repetition for _, repetition in order] == sorted(list(range(repetitions)) * count)
    for repetition in range(repetitions):
        mine = [number for number, r in order if r == repetition]
        assert sorted(mine) == list(range(count))
    assert order == grid.order()
    # The values are no part of the order, only how many there are.
    other = Grid(tuple(range(7, sizes + 7)), tuple(range(9, prompts + 9)), (4, 5), repetitions, seed)
    assert other.order() == order


def test_repetitions_and_seeds_have_orders_of_their_own() -> None:
    order = GRID.order()
    passes = [tuple(number for number, r in order if r == repetition) for repetition in range(3)]
    assert len(set(passes)) == 3
    assert len({tuple(GRID._replace(seed=seed).order()) for seed in range(20)}) == 20
    # A longer measurement begins as the shorter one did.
    assert GRID._replace(repetitions=5).order()[: len(order)] == order


def test_first_places_are_shared_evenly() -> None:
    """Over 800 seeds every one of 8 cells comes first about 100 times, with a standard deviation of 9.4."""
    first = Counter(GRID._replace(seed=seed).order()[0][0] for seed in range(800))
    assert [first[number] for number in range(8)] == pytest.approx([100] * 8, abs=4.5 * np.sqrt(800 * 7 / 64))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch_sizes": (0, 2)}, "`batch_sizes` 0,2: must be whole numbers >= 1"),
        ({"batch_sizes": ()}, "`batch_sizes`: must be whole numbers >= 1"),
        ({"batch_sizes": (4, 2)}, "`batch_sizes` 4,2: must increase"),
        ({"batch_sizes": (2, 2)}, "`batch_sizes` 2,2: must increase"),
        ({"prompt_tokens": (0,)}, "`prompt_tokens` 0: must be whole numbers >= 1"),
        ({"prompt_tokens": (64, 16)}, "`prompt_tokens` 64,16: must increase"),
        ({"output_tokens": (1, 8)}, "`output_tokens` 1,8: must be whole numbers >= 2"),
        ({"output_tokens": (8, 4)}, "`output_tokens` 8,4: must increase"),
        ({"repetitions": 0}, "`repetitions` 0: must be >= 1"),
    ],
)
def test_a_bad_grid_is_refused_by_its_option(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is what is tested
        check_grid(GRID._replace(**changes))
    assert str(caught.value) == says


@pytest.mark.parametrize("grid", [GRID, CPU_GRID, GPU_GRID])
def test_good_grids_are_let_through(grid: Grid) -> None:
    check_grid(grid)
    with pytest.raises(ValueError, match="`output_tokens`"):
        check_grid(grid._replace(output_tokens=(1, *grid.output_tokens)))


def test_whether_a_law_follows_from_a_grid_is_not_asked() -> None:
    check_grid(Grid((1,), (16,), (2,), 1, 1))


def test_engines_compute_with_three_kinds_of_numbers() -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        check_dtype(dtype)
    for dtype in ("fp8", "int8", "float64", "auto", ""):
        said = f"`dtype` {dtype}".strip()
        with pytest.raises(ValueError, match=f"^{said}: must be one of float32, bfloat16, float16$"):
            check_dtype(dtype)


def test_refusals_say_why_by_the_number_of_the_cell() -> None:
    engine: Engine = FakeEngine(longest=20)
    assert refusals(engine, GRID.cells()) == dict.fromkeys((2, 3, 6, 7), "prompts of 32")


def test_warming_up_runs_every_shape_once_and_two_tokens_long() -> None:
    engine = FakeEngine()
    steps = []
    assert warm_up(engine, GRID.cells(), lambda: steps.append(len(engine.runs))) == {}
    assert engine.runs == [Cell(b, p, 2) for b in (1, 4) for p in (16, 32)]
    assert steps == [1, 2, 3, 4]


def test_shapes_without_room_for_their_prompts_are_found_while_warming_up() -> None:
    engine = FakeEngine(room=4 * 32)
    found = warm_up(engine, GRID.cells())
    assert found == dict.fromkeys((6, 7), "no room for 136 tokens")
    assert len(engine.runs) == 4


def test_cells_are_measured_in_the_order_asked_for() -> None:
    engine = FakeEngine()
    missing = GRID.order()[5:]
    found = list(measure(engine, GRID, missing))
    assert [(number, repetition) for number, repetition, _ in found] == missing
    assert engine.runs == [GRID.cells()[number] for number, _ in missing]
    for run, (number, _, sample) in enumerate(found, start=1):
        assert isinstance(sample, Sample)
        assert sample.step_s.tolist() == [run] * GRID.cells()[number].output_tokens


def test_samples_come_as_they_are_measured() -> None:
    engine = FakeEngine()
    samples = measure(engine, GRID, GRID.order())
    assert engine.runs == []
    next(samples)
    assert len(engine.runs) == 1


def test_a_cell_without_room_is_tried_once_and_the_others_go_on() -> None:
    engine = FakeEngine(room=4 * 32)  # too little for the two largest cells, (4, 32, 2) and (4, 32, 8)
    found = list(measure(engine, GRID, GRID.order()))
    failed = [(number, str(sample)) for number, _, sample in found if isinstance(sample, CellTooLargeError)]
    assert sorted(failed) == [(6, "no room for 136 tokens"), (7, "no room for 160 tokens")]
    assert Counter(number for number, _, _ in found) == {**dict.fromkeys(range(6), 3), 6: 1, 7: 1}
    assert len(engine.runs) == len(found) == 20


def test_what_is_stopped_ends_between_two_runs() -> None:
    for allowed in range(4):
        engine = FakeEngine()
        assert warm_up(engine, GRID.cells(), stop=lambda: len(engine.runs) >= allowed) == {}  # noqa: B023
        assert len(engine.runs) == allowed
        engine = FakeEngine()
        found = list(measure(engine, GRID, GRID.order(), lambda: len(engine.runs) >= allowed))  # noqa: B023
        assert len(found) == len(engine.runs) == allowed


def test_one_thread_is_timed_by_what_it_computed_and_several_by_the_wall() -> None:
    assert cpu_clock(1) == (PROCESS, time.process_time)
    assert cpu_clock(2) == (WALL, time.perf_counter)


def test_the_machine_is_described() -> None:
    found = machine()
    assert list(found) == ["processor", "cores", "memory", "system"]
    assert all(found.values())
    assert int(found["cores"]) >= 1
