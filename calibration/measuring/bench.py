"""What is measured: batches of equal requests, timed step by step, in which order, and what an engine must do."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from batchcube.errors import InputError


class Cell(NamedTuple):
    """A batch of equal requests: every prompt as long, every answer as long."""

    batch_size: int
    prompt_tokens: int
    output_tokens: int

    @property
    def kv_tokens(self) -> int:
        """Tokens in the KV cache when the batch ends."""
        return self.batch_size * (self.prompt_tokens + self.output_tokens)


class Sample(NamedTuple):
    """One timed run of a cell."""

    step_s: NDArray[np.float64]
    """(step,) seconds of each engine step, in the engine's clock: step 0 is the prefill, which emits the first token;
    every later one decodes one token of each request."""
    wall_s: float
    """Seconds of the whole batch by the wall clock."""


class CellTooLargeError(Exception):
    """A batch that the engine has no room for; the message says what it lacks."""


class Engine(Protocol):
    """Something that serves batches and can be timed."""

    def describe(self) -> dict[str, Any]:
        """Return what was measured with what: engine, versions, model, dtype, device, driver, clock.

        What a model keeps in memory (kv_bytes_per_token, model_bytes) is left out where it is not known.
        """

    def refusal(self, cell: Cell) -> str:
        """Return why a cell cannot be measured, "" when it can be tried."""

    def run(self, cell: Cell) -> Sample:
        """Serve one batch and time each step; raises CellTooLargeError when memory ends on the way."""


class Grid(NamedTuple):
    """Which cells are measured, and how often."""

    batch_sizes: tuple[int, ...]
    prompt_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    repetitions: int
    seed: int

    def cells(self) -> list[Cell]:
        """Return every combination, in the order of a (batch size, prompt, output) array."""
        return [Cell(b, p, o) for b in self.batch_sizes for p in self.prompt_tokens for o in self.output_tokens]

    def order(self) -> list[tuple[int, int]]:
        """Return (cell number, repetition) in the order of measuring.

        Every repetition is a pass over all cells in an order of its own, so that a drift of the machine is no
        property of any cell, and a run cut short has measured every cell about equally often.
        """
        rng = np.random.default_rng(self.seed)
        count = len(self.batch_sizes) * len(self.prompt_tokens) * len(self.output_tokens)
        return [(int(k), r) for r in range(self.repetitions) for k in rng.permutation(count)]


CPU_GRID = Grid((1, 2, 4, 8, 16), (16, 64, 128), (8, 24, 64), 3, 1)
GPU_GRID = Grid((1, 2, 4, 8, 16, 32, 64, 128, 256), (128, 512, 1024, 2048, 4096), (16, 64), 3, 1)


DTYPES = ("float32", "bfloat16", "float16")
"""What engines compute with."""


def check_dtype(dtype: str) -> None:
    """Refuse what no engine computes with; raises InputError naming the argument."""
    if dtype not in DTYPES:
        raise InputError(f"must be one of {', '.join(DTYPES)}", path="`dtype`", value=dtype)


def check_grid(grid: Grid) -> None:
    """Refuse a grid that cannot be measured; raises InputError naming the argument.

    Whether any law can be fitted to it is not asked: that is for the fit to say.
    """
    for argument, values, least in (
        ("`batch_sizes`", grid.batch_sizes, 1),
        ("`prompt_tokens`", grid.prompt_tokens, 1),
        # One token is the prefill alone.
        ("`output_tokens`", grid.output_tokens, 2),
    ):
        shown = ",".join(map(str, values))
        if not values or min(values) < least:
            raise InputError(f"must be whole numbers >= {least}", path=argument, value=shown)
        if list(values) != sorted(set(values)):
            raise InputError("must increase", path=argument, value=shown)
    if grid.repetitions < 1:
        raise InputError("must be >= 1", path="`repetitions`", value=grid.repetitions)


def refusals(engine: Engine, cells: Sequence[Cell]) -> dict[int, str]:
    """Return why cells cannot be measured, by their number."""
    said = {number: engine.refusal(cell) for number, cell in enumerate(cells)}
    return {number: why for number, why in said.items() if why}


def _never() -> bool:
    return False


def warm_up(
    engine: Engine,
    cells: Sequence[Cell],
    done: Callable[[], None] = lambda: None,
    stop: Callable[[], bool] = _never,
) -> dict[int, str]:
    """Run every shape of batch and prompt once, untimed; return the cells that turned out too large.

    Engines compile, choose kernels and grow pools on a shape's first run. `stop` is asked before each run.
    """
    too_large: dict[int, str] = {}
    shapes: dict[tuple[int, int], list[int]] = {}
    for number, cell in enumerate(cells):
        shapes.setdefault((cell.batch_size, cell.prompt_tokens), []).append(number)
    for (b, p), numbers in shapes.items():
        if stop():
            break
        try:
            engine.run(Cell(b, p, 2))
        except CellTooLargeError as error:
            too_large.update(dict.fromkeys(numbers, str(error)))
        done()
    return too_large


def measure(
    engine: Engine, grid: Grid, missing: Sequence[tuple[int, int]], stop: Callable[[], bool] = _never
) -> Iterator[tuple[int, int, Sample | CellTooLargeError]]:
    """Yield (cell number, repetition, sample) as they are measured; a cell without room is not tried again.

    `stop` is asked before each run; a run under way is finished.
    """
    cells = grid.cells()
    too_large: set[int] = set()
    for number, repetition in missing:
        if number in too_large:
            continue
        if stop():
            return
        try:
            yield number, repetition, engine.run(cells[number])
        except CellTooLargeError as error:
            too_large.add(number)
            yield number, repetition, error
