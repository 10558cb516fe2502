"""Other people's measurements: CSV files, read by the layout of their columns, into cells of named systems."""

import codecs
import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchcube.documents import read_file
from batchcube.errors import InputError, found_in

from .cells import Cells, join
from .units import other_unit

Floats = NDArray[np.float64]

COLUMNS = ("batch_size", "length_tokens", "seconds")
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
SMALLEST, LARGEST = 1e-15, 1e15
"""Of numbers that are not 0: beyond, none is a time or a size of anything, and squares of them run out of floats."""


class MeasuredTable(NamedTuple):
    """Batch times on a complete grid.

    ``batch_sizes`` (b,) and ``lengths`` (l,) tokens, both increasing; ``seconds`` (b, l); ``sha256`` of the file read.
    """

    batch_sizes: NDArray[np.int64]
    lengths: NDArray[np.int64]
    seconds: Floats
    sha256: str


class Times(NamedTuple):
    """One column of times of a layout: what it is of, and which columns say of how much."""

    kind: str
    """One of `cells.KINDS`, or "by tokens": decode, prefill or both, as the columns of tokens say."""
    seconds: str
    unit: str
    fields: Mapping[str, str]
    """Field of `Cells` -> column; `chunk_tokens`: those that a prompt is prefilled by, a step each."""
    std: str = ""
    repetitions: str = ""


class Layout(NamedTuple):
    """Columns that one source publishes."""

    name: str
    about: str
    times: tuple[Times, ...]
    systems: tuple[str, ...] = ()
    """Columns that name what was measured: rows that differ there are different systems."""
    origin: Mapping[str, str] = {}
    """Those of them that the origin of coefficients has, and what it calls them."""
    fitted: tuple[str, str, str] | None = None
    """Of a table that holds fits and no measurements: columns of R2, intercept and slope."""
    marks: tuple[str, ...] = ()
    """Columns that are not read, and tell the layout from others."""

    def columns(self) -> list[str]:
        """Return every column that the layout needs."""
        found = [*self.systems, *(self.fitted or ()), *self.marks]
        for times in self.times:
            found += [times.seconds, *times.fields.values(), *filter(None, (times.std, times.repetitions))]
        return list(dict.fromkeys(found))


_WHOLE = {"batch_size": "batch_size", "prompt_tokens": "prompt_size", "output_tokens": "token_size"}
_STEP = {"batch_size": "batch_num_decode_tokens", "prefill_tokens": "batch_num_prefill_tokens"}
_COUNTS = ("tensor_parallel", "expert_parallel")
_ML_ENERGY = ("num_gpus", "model_id", "tensor_parallel", "expert_parallel", "data_parallel", "weight_precision")
LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "ml-energy",
            "ML.ENERGY leaderboard: inter-token latency against the mean batch size",
            (Times("decode", "median_itl_ms", "ms", {"batch_size": "avg_batch_size"}),),
            ("task", "gpu_model", *_ML_ENERGY),
            # As vLLM has it: all GPUs share each layer, experts or not.
            {
                "model_id": "model",
                "gpu_model": "gpu",
                "num_gpus": "tensor_parallel",
                "expert_parallel": "expert_parallel",
            },
        ),
        Layout(
            "ml-energy-fits",
            "straight lines fitted to the ML.ENERGY leaderboard",
            (),
            ("task", "model_id", "precision", "gpu", "num_gpus", "tp", "ep", "dp"),
            fitted=("r2", "c0_ms", "c1_ms_per_seq"),
        ),
        Layout(
            "splitwise",
            "splitwise-sim: prompt, token and end-to-end times of batches",
            (
                Times("batch", "e2e_time", "ms", _WHOLE),
                Times("prefill", "prompt_time", "ms", {key: _WHOLE[key] for key in ("batch_size", "prompt_tokens")}),
                Times("decode", "token_time", "ms", _WHOLE),
            ),
            ("model", "hardware", "tensor_parallel"),
            {"model": "model", "hardware": "gpu", "tensor_parallel": "tensor_parallel"},
        ),
        Layout(
            "sarathi-steps",
            "sarathi-serve: steps of decodes or of a prefill",
            (Times("by tokens", "batch_execution_time", "s", _STEP),),
            marks=("operation_time_per_token",),
        ),
        Layout(
            "sarathi-hybrid",
            "sarathi-serve: steps with decodes and a prefill in them",
            (Times("by tokens", "batch_execution_time", "ms", _STEP),),
            marks=("per_token_time",),
        ),
        Layout(
            "sarathi-chunks",
            "sarathi-serve: prefills in chunks",
            (
                Times(
                    "prefill",
                    "prefill_execution_time",
                    "ms",
                    {"prompt_tokens": "prefill_length", "chunk_tokens": "chunk_size"},
                ),
            ),
            ("chunk_size",),
        ),
        Layout(
            "latency-grid",
            "whole batches with mean, standard deviation and number of trials",
            (
                Times(
                    "batch",
                    "mean_latency_sec",
                    "s",
                    {"batch_size": "batch_size", "output_tokens": "max_seq_len"},
                    "std_latency_sec",
                    "num_trials",
                ),
            ),
        ),
        Layout(
            "batchcube",
            "whole batches, the columns of law = table",
            (Times("batch", "seconds", "s", {"batch_size": "batch_size", "output_tokens": "length_tokens"}),),
        ),
    )
}
"""Ready layouts by name; a file is read by the one that needs most of its columns."""


class Fits(NamedTuple):
    """A table of straight lines that somebody fitted: R2, intercept and slope, each (line,)."""

    r_squared: Floats
    intercept: Floats
    slope: Floats


class Table(NamedTuple):
    """A file that was read: its layout, its cells by the system they are of, or the fits it holds instead."""

    layout: Layout
    systems: Mapping[str, Cells]
    origins: Mapping[str, dict[str, str | int]]
    """Of each system what the origin of coefficients says: model, GPU, how many of them; a 1 is left out."""
    fits: Fits | None
    sha256: str


def read_table(path: str | Path, columns: Mapping[str, str] | None = None) -> MeasuredTable:
    """Read a CSV of measured batch times with columns ``batch_size,length_tokens,seconds``.

    ``columns`` maps any of these names to the file's own, e.g. {"seconds": "mean_latency_sec"}; other columns are left
    alone. Rows come in any order; repeated measurements of one cell are averaged. Raises InputError, one line naming
    the file and the row, unless the grid is complete, at least 2 x 2, of whole batch sizes and lengths >= 1, and the
    times are finite, > 0, of seconds and never fall with the length.
    """
    data = read_file(path)
    with found_in(file=path):
        return _read_table(data, columns or {})


def _read_table(data: bytes, columns: Mapping[str, str]) -> MeasuredTable:
    for key in columns:
        if key not in COLUMNS:
            raise InputError(f"must be one of {', '.join(COLUMNS)}", path=f"columns.{key}")
    wanted = [columns.get(column, column) for column in COLUMNS]
    cells: dict[tuple[int, int], list[float]] = {}
    for where, (batch, length, seconds) in _rows(*_opened(data), wanted):
        cell = (_whole(where, "batch_size", batch), _whole(where, "length_tokens", length))
        cells.setdefault(cell, []).append(_number(where, "seconds", seconds))
    batch_sizes = np.array(sorted({b for b, _ in cells}), dtype=np.int64)
    lengths = np.array(sorted({length for _, length in cells}), dtype=np.int64)
    if batch_sizes.size < 2 or lengths.size < 2:
        raise InputError(f"{batch_sizes.size} batch sizes x {lengths.size} lengths: the grid must be at least 2 x 2")
    for b in batch_sizes.tolist():
        for length in lengths.tolist():
            if (b, length) not in cells:
                raise InputError(
                    f"no row for batch_size = {b}, length_tokens = {length}: the grid must be complete "
                    f"({batch_sizes.size} batch sizes x {lengths.size} lengths, {len(cells)} cells given)",
                )
    table = np.array([[np.mean(cells[b, n]) for n in lengths.tolist()] for b in batch_sizes.tolist()])
    falls = np.argwhere(np.diff(table, axis=1) < 0)
    if falls.size:
        i, j = falls[0]
        raise InputError(
            f"{table[i, j + 1]:g} s at length_tokens = {lengths[j + 1]} is below {table[i, j]:g} s "
            f"at {lengths[j]}: times must not fall with the length",
            path="batch_size",
            value=batch_sizes[i],
        )
    each = np.diff(table, axis=1) / np.diff(lengths)
    slowest = np.unravel_index(each.argmax(), each.shape)
    if text := other_unit("a1_s_per_token", float(each[slowest])):
        raise InputError(text, path="batch_size", value=batch_sizes[slowest[0]])
    return MeasuredTable(batch_sizes, lengths, table, hashlib.sha256(data).hexdigest())


def read_cells(
    path: str | Path,
    layout: str | None = None,
    columns: Mapping[str, str] | None = None,
    unit: str | None = None,
    select: Mapping[str, str] | None = None,
) -> Table:
    """Read a CSV of measurements in one of `LAYOUTS`, by name or by its columns, or with columns mapped by hand.

    ``columns`` maps ``batch_size``, ``length_tokens`` (or ``output_tokens``), ``prompt_tokens``, ``seconds``, ``std``
    and ``repetitions`` to the file's own names; ``unit`` is that of its times then, seconds when left out. ``select``
    keeps the rows with these values in columns that name the system. Rows of one cell are its repetitions, or as many
    repetitions as a column says. Raises InputError, one line naming the file and the row.
    """
    data = read_file(path)
    with found_in(file=path):
        return _read_cells(data, layout, columns or {}, unit, select or {})


def _read_cells(
    data: bytes, layout: str | None, columns: Mapping[str, str], unit: str | None, select: Mapping[str, str]
) -> Table:
    if columns and layout is not None:
        raise InputError("must be left out where columns are mapped by name (`column`)", path="`layout`", value=layout)
    if unit is not None and not columns:
        raise InputError(
            "goes with columns mapped by name (`column`); layouts have their own", path="`unit`", value=unit
        )
    if not columns and data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
        raise InputError("is a log of requests (JSON), must be a CSV of times of batches or steps")
    header, lines = _opened(data)
    chosen = _by_hand(columns, unit or "s") if columns else _layout(layout, header)
    wanted = chosen.columns()
    for key in select:
        if key not in chosen.systems:
            allowed = f"must be one of {', '.join(chosen.systems)}"
            nothing = f"the layout {chosen.name} has no columns that name systems, so there is nothing to select by"
            raise InputError(allowed if chosen.systems else nothing, path="`select`", value=key)
    rows = ((where, dict(zip(wanted, row, strict=True))) for where, row in _rows(header, lines, wanted))
    kept = [(where, row) for where, row in rows if all(row[key].strip() == value for key, value in select.items())]
    if not kept:
        asked = ", ".join(f"{key} = {value}" for key, value in select.items())
        raise InputError(f"no row has {asked}")
    if chosen.fitted is not None:
        values = [[_number(where, column, row[column], "") for column in chosen.fitted] for where, row in kept]
        return Table(chosen, {}, {}, Fits(*np.array(values).T), hashlib.sha256(data).hexdigest())
    systems: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for where, row in kept:
        label = ", ".join(f"{column} {row[column].strip()}" for column in chosen.systems)
        systems.setdefault(label, []).append((where, row))
    cells = {label: join([_read_times(times, mine) for times in chosen.times]) for label, mine in systems.items()}
    origins = {label: _origin(chosen, *mine[0]) for label, mine in systems.items()}
    return Table(chosen, cells, origins, None, hashlib.sha256(data).hexdigest())


# Layouts ------------------------------------------------------------------------------------------------------------


def _layout(layout: str | None, header: Sequence[str]) -> Layout:
    if layout is not None:
        if layout not in LAYOUTS:
            raise InputError(f"must be one of {', '.join(LAYOUTS)}", path="`layout`", value=layout)
        return LAYOUTS[layout]
    if {"running", "waiting"} <= set(header):
        raise InputError(f"is a log over time ({', '.join(header)}), must be a CSV of times of batches or steps")
    fitting = [known for known in LAYOUTS.values() if set(known.columns()) <= set(header)]
    if not fitting:
        raise InputError(
            f"no known layout has these columns: {', '.join(header)[:160]}; map them by name, for "
            "instance `column` seconds=mean_latency `column` batch_size=b `column` length_tokens=tokens",
            path="line 1",
        )
    return max(fitting, key=lambda known: len(known.columns()))


def _origin(layout: Layout, where: str, row: Mapping[str, str]) -> dict[str, str | int]:
    """Return what the columns of a system say in the words of an origin; counts of 1 are left out."""
    said: dict[str, str | int] = {
        name: _whole(where, column, row[column]) if name in _COUNTS else row[column].strip()
        for column, name in layout.origin.items()
    }
    return {name: value for name, value in said.items() if value != 1}


def _by_hand(columns: Mapping[str, str], unit: str) -> Layout:
    allowed = ("batch_size", "length_tokens", "output_tokens", "prompt_tokens", "seconds", "std", "repetitions")
    for key in columns:
        if key not in allowed:
            raise InputError(f"must be one of {', '.join(allowed)}", path="`column`", value=key)
    if "seconds" not in columns or "batch_size" not in columns:
        raise InputError("seconds and batch_size must be mapped", path="`column`")
    if {"length_tokens", "output_tokens"} <= set(columns):
        raise InputError("length_tokens and output_tokens are two names of one thing: map one of them", path="`column`")
    if unit not in UNITS:
        raise InputError(f"must be one of {', '.join(UNITS)}", path="`unit`", value=unit)
    fields = {
        "output_tokens" if key == "length_tokens" else key: column
        for key, column in columns.items()
        if key in ("batch_size", "length_tokens", "output_tokens", "prompt_tokens")
    }
    kind = "batch" if "output_tokens" in fields else "decode"
    times = Times(kind, columns["seconds"], unit, fields, columns.get("std", ""), columns.get("repetitions", ""))
    return Layout("mapped by name", "columns mapped by name", (times,))


def _read_times(times: Times, rows: list[tuple[str, dict[str, str]]]) -> Cells:
    """Return the cells of one column of times: rows of the same cell are its repetitions."""
    scale = UNITS[times.unit]
    # A step may hold no decode, or no prefill, and a prompt may be left out; nothing else can be 0.
    may_be_0 = set(times.fields) if times.kind == "by tokens" else {"prompt_tokens"}
    groups: dict[tuple[str, tuple[float, ...]], list[tuple[float, float, float]]] = {}
    for where, row in rows:
        key = tuple(
            _number(where, column, row[column], ">= 0" if field in may_be_0 else "> 0")
            for field, column in times.fields.items()
        )
        kind = times.kind if times.kind != "by tokens" else _kind_of(where, dict(zip(times.fields, key, strict=True)))
        seconds = _number(where, times.seconds, row[times.seconds]) * scale
        std = _number(where, times.std, row[times.std], ">= 0") * scale if times.std else np.nan
        repetitions = _whole(where, times.repetitions, row[times.repetitions]) if times.repetitions else np.nan
        groups.setdefault((kind, key), []).append((seconds, std, float(repetitions)))
    # Where no row says how often, and a cell has several: the rows are the repetitions, here and everywhere.
    rows_are_repetitions = not times.repetitions and any(len(samples) > 1 for samples in groups.values())
    if rows_are_repetitions:
        groups = {cell: [(seconds, np.nan, 1.0) for seconds, _, _ in samples] for cell, samples in groups.items()}
    parts = []
    for (kind, key), samples in groups.items():
        mean, std, repetitions = _combined(samples)
        known = dict(zip(times.fields, key, strict=True)) | {"std_s": std, "repetitions": repetitions}
        parts.append(Cells.of(kind, [mean], **_completed(kind, known)))
    resolution = _resolution([row[times.seconds] for _, row in rows])
    # Deviations of rows from one another are as coarse as the rows.
    stated = times.std and not rows_are_repetitions
    spread = _resolution([row[times.std] for _, row in rows]) if stated else resolution
    return join(parts)._replace(resolution_s=resolution * scale, std_resolution_s=spread * scale)


def _combined(samples: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Return mean, pooled standard deviation and number of repetitions of rows (mean, std, repetitions) of one cell."""
    if len(samples) == 1:
        return samples[0]
    mean, std, repetitions = np.array(samples).T
    spare = repetitions - 1
    # Rows of one repetition each have no deviation but that from one another.
    told = spare > 0
    pooled = np.sqrt(spare[told] @ std[told] ** 2 / spare.sum()) if told.any() else mean.std(ddof=1)
    return float(repetitions @ mean / repetitions.sum()), float(pooled), float(repetitions.sum())


def _completed(kind: str, known: dict[str, float]) -> dict[str, float]:
    """Add what follows from what is known: tokens prefilled, KV tokens read."""
    b, p, o = (known.get(name, np.nan) for name in ("batch_size", "prompt_tokens", "output_tokens"))
    if kind == "prefill":
        if (chunk := known.pop("chunk_tokens", None)) is not None:
            known["steps"] = float(np.ceil(p / chunk))
        if "prefill_tokens" in known:  # one prompt of so many tokens
            return known | {"batch_size": 1.0, "prompt_tokens": known["prefill_tokens"]}
        return known | {"batch_size": 1.0 if np.isnan(b) else b, "prefill_tokens": p if np.isnan(b) else b * p}
    # Over a whole answer half of its tokens, on average; a step of its own reads what came before it.
    return known | {"kv_tokens": b * (p + (0.0 if np.isnan(o) else o / 2))} if kind == "decode" else known


def _kind_of(where: str, known: Mapping[str, float]) -> str:
    decoding, prefill = known["batch_size"] > 0, known["prefill_tokens"] > 0
    if not decoding and not prefill:
        raise InputError("a step of neither decode nor prefill tokens", path=where)
    return "step" if decoding and prefill else "decode" if decoding else "prefill"


def _resolution(texts: Sequence[str]) -> float:
    """Return the step of the last printed digit, 0 for numbers printed with all their digits."""
    digits = max(_decimals(text.strip()) for text in texts)
    return 0.0 if digits > 9 else 10.0**-digits


def _decimals(text: str) -> int:
    mantissa, _, exponent = text.lower().partition("e")
    decimals = len(mantissa.partition(".")[2]) - (int(exponent) if exponent else 0)
    return max(decimals, 0)


# Rows ---------------------------------------------------------------------------------------------------------------


def _opened(data: bytes) -> tuple[list[str], Iterator[tuple[str, list[str]]]]:
    """Return the names of the columns, and the lines below them."""
    lines = _lines(data)
    header = [field.strip() for field in next(lines, ("", []))[1]]
    if not any(header):
        raise InputError("is empty", path="line 1", allowed="must be the names of the columns")
    return header, lines


def _lines(data: bytes) -> Iterator[tuple[str, list[str]]]:
    """Yield (where, fields) of every line."""
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        for row in reader:
            yield f"line {reader.line_num}", row
    except UnicodeDecodeError:
        raise InputError("is not a text file", allowed="must be CSV in UTF-8") from None
    except csv.Error as error:
        raise InputError(f"is not CSV: {error}", path=f"line {reader.line_num}") from None


def _rows(
    header: Sequence[str], lines: Iterator[tuple[str, list[str]]], wanted: Sequence[str]
) -> list[tuple[str, tuple[str, ...]]]:
    """Return (where, the texts of the wanted columns) of every row."""
    for column in wanted:
        if header.count(column) != 1:
            found = "is there twice" if column in header else "is missing"
            has = ", ".join(header)[:120]
            raise InputError(f"column {column!r} {found}: needs {', '.join(wanted)}; has {has!r}", path="line 1")
    at = [header.index(column) for column in wanted]
    rows: list[tuple[str, tuple[str, ...]]] = []
    for where, row in lines:
        if not row:
            continue
        if len(row) != len(header):
            raise InputError(
                f"has {len(row)} fields", path=where, allowed=f"must have {len(header)}, as the header does"
            )
        rows.append((where, tuple(row[k] for k in at)))
    if not rows:
        raise InputError("has no rows: needs at least a 2 x 2 grid")
    return rows


def _number(where: str, column: str, text: str, bound: Literal["", ">= 0", "> 0"] = "> 0") -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    within = {"": True, ">= 0": value >= 0, "> 0": value > 0}[bound]
    allowed = ""
    if not (np.isfinite(value) and within):
        allowed = f"must be a finite number {bound}".rstrip()
    elif value and not SMALLEST <= abs(value) <= LARGEST:
        allowed = f"must be from {SMALLEST:g} to {LARGEST:g}"
    if allowed:
        raise InputError(allowed, path=f"{where}: {column}", value=repr(text.strip()[:40]))
    return value


def _whole(where: str, column: str, text: str) -> int:
    value = _number(where, column, text)
    if value != int(value) or value > 2**53:
        raise InputError("must be a whole number >= 1", path=f"{where}: {column}", value=repr(text.strip()[:40]))
    return int(value)
