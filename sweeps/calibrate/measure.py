"""Measure an engine on a grid: what is measured is kept at once, and a stopped measurement goes on where it was."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from batchcube.calibration.measuring.bench import (
    CellTooLargeError,
    Engine,
    Grid,
    Sample,
    check_grid,
    measure,
    refusals,
    warm_up,
)
from batchcube.calibration.measuring.clock import machine
from batchcube.errors import InputError
from batchcube.results.disk import cube_file
from batchcube.results.measurements import build_measurement
from batchcube.results.provenance import batchcube_version
from batchcube.results.storage import write_dataset

from ..claim import Claim, folder_of
from ..files import require_new, write_text
from ..progress import Counting

NOT_IN_TIME = "not measured within the time limit"
# Times measured where these differ are not of one measurement; free memory, for one, may differ between two runs.
SAME_MEASUREMENT = (
    "engine",
    "engine_options",
    "engine_versions",
    "model",
    "weights",
    "dtype",
    "device",
    "driver",
    "processor",
    "cores",
    "memory",
    "clock",
    "threads",
    "batchcube_version",
)


def journal_of(output: Path) -> Path:
    """Return the file that keeps what is measured until all of it is."""
    return folder_of(output) / "samples.jsonl"


def measure_engine(
    make_engine: Callable[[], Engine],
    grid: Grid,
    output: Path,
    *,
    overwrite: bool = False,
    time_limit_s: float | None = None,
    quiet: bool = False,
    then: Callable[[xr.Dataset, bool], None] = lambda *_: None,
) -> xr.Dataset:
    """Measure an engine on every cell of a grid, write the measurement to `output`, and return it.

    Samples are kept in a journal in the folder ``OUTPUT.partial`` as they come; the same call continues such a one.
    Cells without room are left out and say so. With a time limit, what is not measured by then is left out and says so,
    and the journal stays for the same call to go on. `then` is called with what was written, and whether it is all of
    it; until it has returned, the journal stays as well, and nobody else writes this output.
    Raises InputError for a bad grid, an output that is there already without a journal or that another process writes,
    a journal of another measurement, and a time limit within which nothing was measured.
    """
    check_grid(grid)
    with Claim(cube_file(output)) as claim:
        journal = _Journal(claim.output, overwrite=overwrite)
        measurement, finished = _measured(make_engine, grid, journal, time_limit_s, quiet=quiet)
        write_dataset(measurement, output)
        then(measurement, finished)
        if finished:
            journal.remove()
        return measurement


def _measured(
    make_engine: Callable[[], Engine], grid: Grid, journal: "_Journal", time_limit_s: float | None, *, quiet: bool
) -> tuple[xr.Dataset, bool]:
    """Measure what is not in the journal; return all that is there then, and whether that is all there is to measure.

    Raises InputError for a journal of something else, and where nothing was measured within the time limit.
    """
    begun = time.monotonic()

    def over() -> bool:
        return time_limit_s is not None and time.monotonic() - begun >= time_limit_s

    engine = make_engine()
    about = {**machine(), **engine.describe(), "batchcube_version": batchcube_version()}
    cells = grid.cells()
    journal.begin({"grid": grid._asdict(), **{name: about[name] for name in SAME_MEASUREMENT}})
    said = {**refusals(engine, cells), **journal.refused}
    missing = [
        (cell, repetition)
        for cell, repetition in grid.order()
        if (cell, repetition) not in journal.samples and cell not in said
    ]
    if missing:
        left = sorted({number for number, _ in missing})
        shapes = {cells[number][:2] for number in left}
        with Counting(len(shapes), "warming up", quiet=quiet) as progress:
            found = warm_up(engine, [cells[number] for number in left], progress.advance, over)
        said |= {left[position]: why for position, why in found.items()}
        missing = [(number, repetition) for number, repetition in missing if number not in said]
    with Counting(len(missing), "measuring", quiet=quiet) as progress:
        for number, repetition, sample in measure(engine, grid, missing, over):
            if isinstance(sample, CellTooLargeError):
                said[number] = str(sample)
            else:
                journal.keep(number, repetition, sample)
            progress.advance("b={} prompt={} output={}".format(*cells[number]))
    for number, why in said.items():
        journal.refuse(number, why)
    finished = all(key in journal.samples or key[0] in said for key in missing)
    if not finished and not journal.samples:
        raise InputError(
            f"nothing was measured within `time_limit_s` {time_limit_s:g}, loading and warming up "
            "took it; the same command, given more time, goes on",
            file=journal.output,
        )
    return _assemble(grid, journal, about), finished


def _assemble(grid: Grid, journal: "_Journal", about: dict[str, Any]) -> xr.Dataset:
    cells = grid.cells()
    shape = (len(grid.batch_sizes), len(grid.prompt_tokens), len(grid.output_tokens))
    steps = np.full((len(cells), grid.repetitions, max(grid.output_tokens)), np.nan)
    wall = np.full((len(cells), grid.repetitions), np.nan)
    order = np.full((len(cells), grid.repetitions), -1, np.int64)
    for (number, repetition), sample in journal.samples.items():
        steps[number, repetition, : len(sample.step_s)] = sample.step_s
        wall[number, repetition] = sample.wall_s
    for place, key in enumerate(grid.order()):
        if key in journal.samples:
            order[key] = place
    why = np.array(
        [journal.refused.get(k, "" if order[k].max() >= 0 else NOT_IN_TIME) for k in range(len(cells))], dtype=np.str_
    )
    return build_measurement(
        {
            "batch_size": grid.batch_sizes,
            "prompt_tokens": grid.prompt_tokens,
            "output_tokens": grid.output_tokens,
        },
        steps.reshape((*shape, *steps.shape[1:])),
        wall.reshape((*shape, grid.repetitions)),
        order.reshape((*shape, grid.repetitions)),
        why.reshape(shape),
        {**about, "seed": grid.seed},
    )


class _Journal:
    """What has been measured of a grid so far: one line of JSON for each sample, in a file of the output's folder."""

    def __init__(self, output: Path, *, overwrite: bool) -> None:
        self.output, self.path = output, journal_of(output)
        self.samples: dict[tuple[int, int], Sample] = {}
        self.refused: dict[int, str] = {}
        if not self.path.exists() and not overwrite:
            require_new(output)
        if overwrite:
            self.path.unlink(missing_ok=True)

    def begin(self, identity: dict[str, Any]) -> None:
        """Start the file, or read what it holds."""
        head = json.loads(json.dumps(identity))
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}", file=self.path) from None
        if "\n" not in text:  # not there, or begun when the run was killed
            self.path.unlink(missing_ok=True)
            self._append(head)
            return
        rows = text.splitlines()
        entries = []
        for row in rows:
            try:
                entries.append(json.loads(row))
            except ValueError:
                break  # the line that was being written when the run was stopped
        if entries[:1] != [head]:
            kept = entries[0] if entries and isinstance(entries[0], dict) else {}
            differing = ", ".join(sorted(key for key in {*kept, *head} if kept.get(key) != head.get(key)))
            raise InputError(
                f"holds a stopped measurement of something else ({differing} differ); remove it, or `overwrite`",
                file=self.path,
            )
        for entry in entries[1:]:
            if "refused" in entry:
                self.refused[entry["cell"]] = entry["refused"]
            else:
                sample = Sample(np.array(entry["step_s"], np.float64), float(entry["wall_s"]))
                self.samples[entry["cell"], entry["repetition"]] = sample
        whole = "".join(f"{row}\n" for row in rows[: len(entries)])
        if whole != text:  # also where nothing but the end of the last line is missing
            write_text(self.path, whole)

    def keep(self, number: int, repetition: int, sample: Sample) -> None:
        """Add a sample."""
        self.samples[number, repetition] = sample
        self._append(
            {"cell": number, "repetition": repetition, "wall_s": sample.wall_s, "step_s": sample.step_s.tolist()}
        )

    def refuse(self, number: int, why: str) -> None:
        """Note why a cell cannot be measured."""
        if number not in self.refused:
            self.refused[number] = why
            self._append({"cell": number, "refused": why})

    def remove(self) -> None:
        """Remove the file: the measurement holds it all."""
        self.path.unlink(missing_ok=True)

    def _append(self, entry: dict[str, Any]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", file=self.path) from None
