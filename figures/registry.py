"""The figures by name: what there is, draw one, save one."""

from __future__ import annotations

import inspect
import io
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from xarray import Dataset

from batchcube.errors import InputError, one_of, printable, suggestion
from batchcube.results.calibration import read_calibration
from batchcube.results.cube import read_cube
from batchcube.results.disk import make_folder, output_file, write_whole
from batchcube.results.text import shortened
from batchcube.results.validation import read_validation

from . import style
from .batches import batch_size_distribution
from .bins import per_bin_statistics, throughput_vs_bins, throughput_vs_predictor_error
from .bounds import controller_bounds, memory_erratum
from .calibration import (
    calibration_batch_factor,
    calibration_law,
    calibration_residuals,
    calibration_throughput,
)
from .capacity import capacity
from .frontier import frontier
from .gains import gain_map
from .lines import lines, serving_times, time_split
from .modes import modes_compared, static_vs_dynamic
from .over_time import controller_step, serving_over_time, sla_violation_over_time
from .rates import latency_vs_rate, throughput_vs_rate
from .reading import RATE, Figured
from .tbt import step_throughput, tbt_vs_rate
from .validation import simulated_vs_measured


class Description(NamedTuple):
    """What one figure shows, and what a cube must hold for it."""

    name: str
    shows: str
    needs: str
    presets: tuple[str, ...]
    options: tuple[str, ...]


class _OwnSweep(Figured):
    """A figure whose cube no preset makes: errors say what is missing, and name no preset."""

    __slots__ = ()

    def lacks(self, what: str) -> InputError:
        """Return the error of a cube that lacks `what`, with what the figure is drawn from."""
        return InputError(f"{what}; it is drawn from: {_EVERY[self.name][1]}", path=f"figure {self.name}")


_ANY_RATE = f"an axis over {' or '.join(RATE)}"
# name -> (function, what a cube must hold, presets that make one)
_FIGURES: dict[str, tuple[Callable[..., Figure], str, tuple[str, ...]]] = {
    "throughput-vs-bins": (throughput_vs_bins, "an axis over policy.bins", ("multi-bin-fig3",)),
    "throughput-vs-rate": (throughput_vs_rate, _ANY_RATE, ("multi-bin-fig3", "multi-bin-fig9")),
    "latency-vs-rate": (latency_vs_rate, _ANY_RATE, ("multi-bin-fig4", "multi-bin-fig6", "multi-bin-fig9")),
    "throughput-vs-predictor-error": (
        throughput_vs_predictor_error,
        "an axis over workload.predictor.error_probability",
        ("multi-bin-fig8",),
    ),
    "sla-violation-over-time": (sla_violation_over_time, "report.request_sla_s set", ("modes-poisson", "modes-on-off")),
    "batch-size-distribution": (batch_size_distribution, "nothing beyond the usual report", ("modes-poisson",)),
    "per-bin-statistics": (per_bin_statistics, "nothing beyond the usual report", ("modes-poisson",)),
    "static-vs-dynamic": (
        static_vs_dynamic,
        "an axis over policy.mode (fifo_fixed and dynamic_only, or multi_bin_only and multi_bin_dynamic); an SLA set",
        ("modes-poisson", "dynamic-sla"),
    ),
    "controller-step": (controller_step, "a dynamic mode with policy.sla set", ("controller-step",)),
    "modes-compared": (modes_compared, "an axis over policy.mode", ("modes-poisson", "modes-on-off", "modes-trace")),
}
_ANY: dict[str, tuple[Callable[..., Figure], str, tuple[str, ...]]] = {
    "lines": (lines, "an axis of two or more values; any variable", ("multi-bin-fig3", "continuous-rate")),
    "serving-times": (serving_times, "an axis of two or more values", ("continuous-rate", "modes-poisson")),
    "time-split": (time_split, "an axis of two or more values", ("continuous-rate", "modes-poisson")),
    "frontier": (frontier, "two or more points", ("continuous-rate", "dynamic-table2-settings")),
}
# What no preset makes, a sweep of one's own does.
_SERVING: dict[str, tuple[Callable[..., Figure], str, tuple[str, ...]]] = {
    "tbt-vs-rate": (tbt_vs_rate, _ANY_RATE, ("continuous-rate", "continuous-bins", "dynamic-fig4", "dynamic-sla")),
    "step-throughput": (
        step_throughput,
        "an axis over policy.largest_batch, all requests at time 0",
        ("dynamic-fig3",),
    ),
    "serving-over-time": (serving_over_time, "mode continuous", ("continuous-rate", "continuous-bins")),
    "capacity": (capacity, "a search: batchcube capacity SPEC.toml --slo NAME=LIMIT", ()),
    "gain-map": (gain_map, "an axis of policies or modes and two more axes", ()),
    "memory-erratum": (memory_erratum, "an axis over policy.memory.rule, mode dynamic_only", ("dynamic-erratum",)),
    "controller-bounds": (controller_bounds, "policy.sla set", ("controller-step", "dynamic-bounds")),
}
_MADE = "a calibration: batchcube calibrate fit MEASUREMENT writes NAME.fit.nc"
# Drawn from calibrations instead of cubes.
_CALIBRATIONS: dict[str, tuple[Callable[..., Figure], str, tuple[str, ...]]] = {
    "calibration-law": (calibration_law, _MADE, ()),
    "calibration-residuals": (calibration_residuals, _MADE, ()),
    "calibration-batch-factor": (calibration_batch_factor, _MADE, ()),
    "calibration-throughput": (calibration_throughput, _MADE, ()),
}
_VALIDATIONS: dict[str, tuple[Callable[..., Figure], str, tuple[str, ...]]] = {
    "simulated-vs-measured": (simulated_vs_measured, "a validation: batchcube validate LOG -o NAME.nc", ()),
}
_EVERY = _ANY | _FIGURES | _SERVING | _CALIBRATIONS | _VALIDATIONS
_FORMATS = (".png", ".pdf", ".svg")


def names(only: str | None = None) -> list[Description]:
    """Return every figure, or one, with a line on what it shows, what its cube must hold, and its options.

    Raises InputError for an unknown name.
    """
    if only is not None:
        _require(only)
    return [
        Description(name, (inspect.getdoc(function) or "").splitlines()[0], needs, presets, _options(function))
        for name, (function, needs, presets) in _EVERY.items()
        if only in (None, name)
    ]


def _require(name: str) -> None:
    if name not in _EVERY:
        raise InputError(f"no such figure; {suggestion(name, _EVERY)}", path=f"figure {name}")


def calibration_names() -> list[str]:
    """Return the names of the figures that are drawn from calibrations."""
    return list(_CALIBRATIONS)


def read(name: str, path: str | os.PathLike[str], doubt: Callable[[str], None] | None = None) -> Dataset:
    """Read what a figure is drawn from: a calibration, a validation, or a cube; InputError as those who read them.

    See `read_cube` on `doubt`.
    """
    reads = {**dict.fromkeys(_CALIBRATIONS, read_calibration), **dict.fromkeys(_VALIDATIONS, read_validation)}
    return reads[name](path) if name in reads else read_cube(path, doubt)


PAPER_MM = {1: style.SINGLE_COLUMN_MM, 2: style.DOUBLE_COLUMN_MM}
"""Widths of a figure over one column of a paper, and over two."""


def draw(name: str, cube: Dataset, *, paper: int | None = None, **options: Any) -> Figure:
    """Draw a figure from a cube, or from a calibration where the figure is of one.

    For a `paper` it is as wide as 1 column or 2, without title, subtitle and caption (`save` writes them beside it),
    and its symbols are typeset. All take `width_mm`, those of a cube `select` ({axis: value} or {axis: [values]};
    `replication` is selected like an axis); `names()` lists the others. Raises InputError, one line
    naming the figure: unknown name or option, what the cube lacks and which preset makes it, or the values to select
    from with a command that works.
    """
    _require(name)
    function, _, presets = _EVERY[name]
    figured = (Figured if presets else _OwnSweep)(name, presets, options)
    for option in options:
        if option not in _options(function):
            raise figured.refuses(f"no option {option}; it takes {', '.join(_options(function))}")
    if paper is not None:
        if paper not in PAPER_MM:
            raise figured.refuses(f"paper = {paper}: must be {one_of(map(str, PAPER_MM))} columns")
        options = {"width_mm": PAPER_MM[paper]} | options
    if "width_mm" in options:
        options["width_mm"] = _width(figured, options["width_mm"])
    texts = {
        option: str(value) for option, value in options.items() if value is not None and _is_text(function, option)
    }
    options |= texts
    with style.styled(paper=paper is not None):
        return function(cube, figured, **options)


def figure_file(path: str | os.PathLike[str]) -> Path:
    """Return the file that a figure is saved in; raises InputError as `output_file`, and for another ending."""
    target = output_file(Path(path))
    if Path(path).suffix.lower() not in _FORMATS:
        raise InputError(f"must end in {one_of(_FORMATS)}", file=path)
    return target


def save(figure: Figure, cube: Dataset, path: str | os.PathLike[str]) -> Path:
    """Save a figure as .png (300 dpi), .pdf or .svg, complete or not at all, and return its path.

    The file states the cube's title and the SHA-256 of what it was made from; the same cube gives the same bytes. Title
    and caption of a figure for a paper are written beside it, `NAME.caption.txt`, and replaced
    with it.
    Its folder is made. Raises InputError as `figure_file` and for a folder that cannot be made, OSError when the file
    cannot be written.
    """
    target, ending = figure_file(path), Path(path).suffix.lower()
    beside = output_file(target.with_suffix(".caption.txt"))
    title = shortened(printable(cube.attrs.get("title", "")), 1000)
    made_from = _made_from(cube)
    metadata: dict[str, dict[str, Any]] = {
        ".png": {"Title": title, "Description": made_from, "Software": "batchcube"},
        ".pdf": {"Title": title, "Subject": made_from, "Creator": "batchcube", "CreationDate": None},
        ".svg": {"Title": title, "Description": made_from, "Creator": "batchcube", "Date": None},
    }
    buffer = io.BytesIO()
    with style.styled():
        figure.savefig(buffer, format=ending[1:], metadata=metadata[ending])
    make_folder(target.parent)
    write_whole(target, buffer.getvalue())
    if isinstance(figure, style.Drawn) and figure.for_paper:
        write_whole(beside, f"{figure.said}\n".encode())
    return target


def _made_from(cube: Dataset) -> str:
    """Return the hash of a cube's specification, of the raw data of a calibration, or of the log of a validation."""
    for what in ("specification", "raw", "log"):
        if cube.attrs.get(f"{what}_sha256"):
            return f"batchcube {what} sha256 {shortened(printable(cube.attrs[f'{what}_sha256']), 64)}"
    return "batchcube"


def _width(figured: Figured, given: Any) -> float:
    """Return a width given as number or text."""
    try:
        width = float(given)
    except (TypeError, ValueError):
        width = math.nan
    if not 60 <= width <= 400:
        raise figured.refuses(f"width_mm = {given}: must be a number from 60 to 400")
    return width


def _is_text(function: Callable[..., Figure], option: str) -> bool:
    """Say whether an option is text: what a command line gives may read as a number, and names nothing then."""
    return str(inspect.signature(function).parameters[option].annotation) in ("str", "str | None")


def _options(function: Callable[..., Figure]) -> tuple[str, ...]:
    return tuple(name for name, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY)
