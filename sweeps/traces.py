"""Recorded traces: read them, refuse what is wrong in them, cut and resample windows out of them.

Files are parsed by pyarrow; only once it has refused a file do we look for the row, to say it.
"""

import csv
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from batchcube.engine.ticks import LARGEST_REQUEST, LATEST, TICKS_PER_S

from .datasets import resolve
from .errors import FileError, UserError

if TYPE_CHECKING:
    import pyarrow as pa

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

TraceFormat = Literal["auto", "csv", "azure", "burstgpt", "mooncake"]
Resampling = Literal["none", "circular", "blocks"]

MOST_TOKENS = LARGEST_REQUEST
"""Prompt and output tokens of one request: what the engine can hold."""
LATEST_S = LATEST / TICKS_PER_S
"""Latest arrival, seconds: what the engine can hold."""
_CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n\v\f\r")


class RecordedTrace(NamedTuple):
    """One recorded trace: arrays (request,) in arrival order, and where they came from."""

    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    predicted: FloatArray | None
    sha256: str
    rows_read: int
    rows_dropped: int
    dropped_reasons: dict[str, int]


class LengthTable(NamedTuple):
    """Lengths of recorded requests, arrays (row,), without arrival times."""

    length: FloatArray
    prompt_tokens: IntArray | None
    predicted: FloatArray | None
    sha256: str


class _Format(NamedTuple):
    arrival: str
    prompt: str
    output: str


_FORMATS: dict[str, _Format] = {
    "csv": _Format("arrival_s", "prompt_tokens", "output_tokens"),
    "azure": _Format("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    "burstgpt": _Format("Timestamp", "Request tokens", "Response tokens"),
    "mooncake": _Format("timestamp", "input_length", "output_length"),
}


class _File(NamedTuple):
    """A text file in memory, with the names of its columns."""

    name: str
    content: bytes
    columns: tuple[str, ...]
    json_lines: bool


def _load(path: str | os.PathLike[str]) -> _File:
    file = resolve(path)
    name = str(path)
    try:
        if not file.is_file():
            raise FileError(f"{name}: no such file" if not file.exists() else f"{name}: is not a file")
        content = file.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise FileError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not content or content.isspace():
        raise FileError(f"{name}: is empty: needs a header and at least one row")
    # Deleting and comparing lengths is ten times as fast as looking for the first.
    if len(content.translate(None, _CONTROLS)) < len(content):
        place = next(place for place, byte in enumerate(content) if byte in _CONTROLS)
        raise FileError(f"{name}: byte {place} is {content[place]:#04x}: not a text file (CSV or JSON lines)")
    try:
        first = content.lstrip().split(b"\n", 1)[0].split(b"\r", 1)[0].decode()
    except UnicodeDecodeError:
        raise FileError(f"{name}: the first line is not UTF-8: not a text file (CSV or JSON lines)") from None
    if first.startswith("{"):
        try:
            record = json.loads(first)
        except (ValueError, RecursionError):
            raise FileError(f"{name}: row 1 is not a JSON object: must be one object a line") from None
        return _File(name, content, tuple(record), True)
    try:
        columns = next(csv.reader([first]), [])
    except csv.Error as error:
        raise FileError(f"{name}: the header cannot be read: {error}") from None
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise FileError(f"{name}: column {repeated[0]!r} occurs more than once")
    return _File(name, content, tuple(columns), False)


def _need(file: _File, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in file.columns:
            known = ", ".join(map(repr, file.columns[:20]))
            raise FileError(f"{file.name}: no column {column!r}: has {known}")


def _parse(file: _File, numbers: Sequence[str], texts: Sequence[str]) -> "pa.Table":
    """Read the named columns; raise UserError naming the row that pyarrow stumbles over."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.json

    _need(file, (*numbers, *texts))
    types = {**dict.fromkeys(numbers, pa.float64()), **dict.fromkeys(texts, pa.string())}
    try:
        if file.json_lines:
            schema = pa.schema(list(types.items()))
            json_options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
            # One block: pyarrow gives up where a line is longer than a block.
            block = pa.json.ReadOptions(block_size=max(len(file.content) + 1, 1 << 20))
            return pa.json.read_json(pa.BufferReader(file.content), read_options=block, parse_options=json_options)
        options = pa.csv.ConvertOptions(include_columns=list(types), column_types=types, strings_can_be_null=False)
        try:
            # Small files need no threads, which were seen to abort a process that ends while they do.
            many = pa.csv.ReadOptions(use_threads=len(file.content) > 1 << 20)
            return pa.csv.read_csv(pa.BufferReader(file.content), read_options=many, convert_options=options)
        except pa.ArrowInvalid:
            # Threads do not know the row; read again without, for the message.
            one = pa.csv.ReadOptions(use_threads=False, block_size=min(max(len(file.content) + 1, 1 << 20), 1 << 30))
            return pa.csv.read_csv(pa.BufferReader(file.content), read_options=one, convert_options=options)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise FileError(f"{file.name}: {_explain(file, str(error), list(types), numbers)}") from None


def _explain(file: _File, message: str, columns: Sequence[str], numbers: Sequence[str]) -> str:
    if file.json_lines:
        for row, line in enumerate(filter(None, map(bytes.strip, file.content.split(b"\n"))), start=1):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                return f"row {row} is not a JSON object: must be one object a line"
            for column in numbers:
                value = record.get(column)
                if isinstance(value, bool) or not isinstance(value, int | float):
                    return f"row {row}, column {column!r}: {json.dumps(value)[:80]} is not a number"
        return f"not JSON lines: {message[:200]}"
    found = re.search(r"CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to (\w+): (.*)", message, re.DOTALL)
    if found:
        column = file.columns[int(found[1])] if int(found[1]) < len(file.columns) else columns[0]
        where = f"row {int(found[2]) - 1}, " if found[2] else ""
        allowed = "must be a number" if found[3] == "double" else "must be UTF-8 text"
        return f"{where}column {column!r}: {found[4][:80]}: {allowed}"
    found = re.search(r"(?:Row #(\d+): )?Expected (\d+) columns, got (\d+)", message)
    if found:
        where = f"row {int(found[1]) - 1} has" if found[1] else "a row has"
        return f"{where} {found[3]} columns: must have {found[2]}, as the header (truncated file?)"
    return f"not a CSV file: {message[:200]}"


def _numbers(file: _File, table: "pa.Table", column: str, allowed: str) -> FloatArray:
    """Return a column (row,) with every value finite; raise UserError naming the row otherwise."""
    values: FloatArray = table.column(column).to_numpy()
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        shown = "missing" if np.isnan(values[bad[0]]) else f"{values[bad[0]]:g}"
        raise FileError(f"{file.name}: row {bad[0] + 1}, column {column!r}: {shown}: {allowed}")
    return values


def _tokens(file: _File, values: FloatArray, column: str, least: int) -> IntArray:
    allowed = f"must be a whole number from {least} to {MOST_TOKENS}"
    bad = np.flatnonzero(~((values >= least) & (values <= MOST_TOKENS) & (values == np.floor(values))))
    if bad.size:
        raise FileError(f"{file.name}: row {bad[0] + 1}, column {column!r}: {values[bad[0]]:g}: {allowed}")
    return values.astype(np.int64)


def _within_limit(file: _File, prompt: IntArray, output: IntArray) -> None:
    bad = np.flatnonzero(prompt + output > MOST_TOKENS)
    if bad.size:
        total = prompt[bad[0]] + output[bad[0]]
        raise FileError(f"{file.name}: row {bad[0] + 1}: prompt and output are {total} tokens: at most {MOST_TOKENS}")


def _timestamps(file: _File, table: "pa.Table", column: str) -> FloatArray:
    """Turn Azure's written dates (up to 9 decimals, with or without a zone) into seconds since the first."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def nanoseconds(text: Any, zone: str | None) -> Any:
        try:
            return pc.cast(text, pa.timestamp("ns", zone))
        except pa.ArrowInvalid:
            return None

    written = table.column(column)
    zone = None if nanoseconds(written[0], None) is not None else "UTC"
    read = nanoseconds(written, zone)
    if read is not None:
        moments = read.cast(pa.int64()).to_numpy()
        return np.asarray((moments - moments[0]) / 1e9, dtype=np.float64)
    row = next(row for row, text in enumerate(written) if nanoseconds(text, zone) is None)
    as_first = (
        "" if row == 0 else " and, like row 1, without a zone" if zone is None else " and, like row 1, with a zone"
    )
    raise FileError(
        f"{file.name}: row {row + 1}, column {column!r}: {written[row].as_py()[:60]!r}: must be a date and time "
        f"such as 2023-11-16 18:15:46.6805900{as_first}"
    )


def _arrivals(file: _File, table: "pa.Table", kind: str, column: str) -> FloatArray:
    """Return arrival times (row,) in seconds as the file counts them, checked to be in order and >= 0."""
    if kind == "azure":
        seconds = _timestamps(file, table, column)
    else:
        seconds = _numbers(file, table, column, "must be a number of " + ("ms" if kind == "mooncake" else "seconds"))
        bad = np.flatnonzero(seconds < 0)
        if bad.size:
            raise FileError(f"{file.name}: row {bad[0] + 1}, column {column!r}: {seconds[bad[0]]:g}: must be >= 0")
        if kind == "mooncake":
            seconds = seconds / 1000.0
    with np.errstate(over="ignore"):
        bad = np.flatnonzero(seconds[1:] < seconds[:-1])
    if bad.size:
        raise FileError(
            f"{file.name}: row {bad[0] + 2}, column {column!r}: earlier than the row before it: "
            "rows must be in order of arrival"
        )
    if seconds[-1] > LATEST_S:
        raise FileError(f"{file.name}: row {seconds.size}, column {column!r}: must be at most {LATEST_S:g} s")
    return seconds


def _detect(file: _File, format: str) -> str:
    if format != "auto":
        return format
    for kind, names in _FORMATS.items():
        if set(names) <= set(file.columns):
            return kind
    needed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in _FORMATS.items())
    raise FileError(f"{file.name}: format not recognised from its columns: needs one of {needed}")


def read_trace(
    path: str | os.PathLike[str],
    format: TraceFormat = "auto",
    *,
    model: str | None = None,
    log_type: str | None = None,
    start_s: float = 0.0,
    stop_s: float | None = None,
    limit: int | None = None,
) -> RecordedTrace:
    """Read a recorded trace (BurstGPT, Azure or plain CSV, Mooncake JSON lines; `path` may be "dataset:NAME").

    `model` and `log_type` keep such rows of a BurstGPT file; `start_s <= t < stop_s` keeps a window, in seconds from
    the file's first row; `limit` keeps the first rows of what is left. Failures of BurstGPT (0 response tokens) are
    dropped. Everything dropped is counted: rows_read = requests + rows_dropped. Arrivals start at 0.
    Raises UserError, naming the file and the row, for anything that is wrong in it, and where no row is left.
    """
    file = _load(path)
    kind = _detect(file, format)
    if kind not in _FORMATS:
        raise FileError(f"{file.name}: format = {kind!r}: must be auto, csv, azure, burstgpt or mooncake")
    if file.json_lines and kind in ("azure", "burstgpt"):
        raise FileError(f"{file.name}: holds JSON lines, but format = {kind!r} is a CSV file")
    if kind != "burstgpt" and (model is not None or log_type is not None):
        raise FileError(f"{file.name}: filters on model and log_type need format = 'burstgpt', not {kind!r}")
    if not 0 <= start_s < (np.inf if stop_s is None else stop_s):
        raise FileError(f"{file.name}: window from start_s = {start_s} to stop_s = {stop_s}: must be 0 <= start < stop")
    if limit is not None and limit < 1:
        raise FileError(f"{file.name}: limit = {limit}: must be >= 1")

    names = _FORMATS[kind]
    filters = {"Model": model, "Log Type": log_type} if kind == "burstgpt" else {}
    texts = [column for column, wanted in filters.items() if wanted is not None]
    numbers = [names.prompt, names.output]
    (texts if kind == "azure" else numbers).append(names.arrival)
    if kind == "csv" and "predicted_tokens" in file.columns:
        numbers.append("predicted_tokens")
    table = _parse(file, numbers, texts)
    if table.num_rows == 0:
        raise FileError(f"{file.name}: has a header but no rows")

    arrival = _arrivals(file, table, kind, names.arrival)
    prompt = _tokens(file, _numbers(file, table, names.prompt, "must be a whole number >= 0"), names.prompt, 0)
    output_values = _numbers(file, table, names.output, "must be a whole number >= 1")
    output = _tokens(file, output_values, names.output, 0 if kind == "burstgpt" else 1)
    _within_limit(file, prompt, output)
    predicted: FloatArray | None = None
    if "predicted_tokens" in numbers:
        predicted = _numbers(file, table, "predicted_tokens", "must be a number >= 0")
        bad = np.flatnonzero(predicted < 0)
        if bad.size:
            raise FileError(f"{file.name}: row {bad[0] + 1}, column 'predicted_tokens': must be >= 0")

    kept = np.ones(arrival.size, np.bool_)
    dropped: dict[str, int] = {}

    def keep(reason: str, wanted: npt.NDArray[np.bool_]) -> None:
        lost = int(np.count_nonzero(kept & ~wanted))
        if lost:
            dropped[reason] = lost
        np.logical_and(kept, wanted, out=kept)

    for column, value in filters.items():
        if value is not None:
            import pyarrow.compute as pc

            keep(f"other {column.lower()}", pc.equal(table.column(column), value).to_numpy())
    keep("failed (0 response tokens)", output > 0)
    since = arrival - arrival[0]
    keep("outside the window", (since >= start_s) & (since < (np.inf if stop_s is None else stop_s)))
    if limit is not None:
        keep("past the row limit", np.cumsum(kept) <= limit)
    (rows,) = np.nonzero(kept)
    if rows.size == 0:
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise FileError(f"{file.name}: no rows left of {arrival.size}: {why}")
    return RecordedTrace(
        arrival[rows] - arrival[rows[0]],
        prompt[rows],
        output[rows],
        None if predicted is None else predicted[rows],
        hashlib.sha256(file.content).hexdigest(),
        arrival.size,
        arrival.size - rows.size,
        dropped,
    )


def read_columns(
    path: str | os.PathLike[str], columns: Sequence[str], where: Mapping[str, str] | None = None
) -> dict[str, FloatArray]:
    """Read columns of numbers (row,) from a CSV or JSON lines file, of the rows whose text columns are as in `where`.

    Raises UserError, naming the file and the row, for anything that is no finite number, and where no row is left.
    """
    file = _load(path)
    table = _parse(file, list(dict.fromkeys(columns)), list(where or {}))
    if table.num_rows == 0:
        raise FileError(f"{file.name}: has a header but no rows")
    for column, wanted in (where or {}).items():
        import pyarrow.compute as pc

        known = pc.unique(table.column(column)).to_pylist()
        table = table.filter(pc.equal(table.column(column), wanted))
        if table.num_rows == 0:
            raise FileError(f"{file.name}: no row with {column} = {wanted!r}: has {', '.join(map(repr, known[:20]))}")
    return {column: _numbers(file, table, column, "must be a number") for column in columns}


def read_lengths(
    path: str | os.PathLike[str],
    column: str,
    prompt_column: str | None = None,
    predicted_column: str | None = None,
    *,
    limit: int | None = None,
    unit: Literal["tokens", "seconds"] = "tokens",
) -> LengthTable:
    """Read lengths, and jointly prompts and a real predictor's values or classes, from a CSV or JSON lines file.

    Raises UserError, naming the file and the row, for lengths that are not whole numbers from 1 (tokens) or not
    positive (seconds). The last few files are remembered until they change.
    """
    try:
        state = resolve(path).stat()
        stamp = (state.st_mtime_ns, state.st_size)
    except (OSError, ValueError):
        stamp = (0, 0)
    return _read_lengths(os.fspath(path), column, prompt_column, predicted_column, limit, unit, stamp)


@lru_cache(maxsize=8)
def _read_lengths(
    path: str,
    column: str,
    prompt_column: str | None,
    predicted_column: str | None,
    limit: int | None,
    unit: str,
    stamp: tuple[int, int],
) -> LengthTable:
    file = _load(path)
    names = [name for name in (column, prompt_column, predicted_column) if name is not None]
    if len(set(names)) < len(names):
        raise FileError(f"{file.name}: one column is named twice: {', '.join(map(repr, names))}")
    table = _parse(file, names, [])
    if table.num_rows == 0:
        raise FileError(f"{file.name}: has a header but no rows")
    table = table.slice(0, limit)
    values = np.array(_numbers(file, table, column, "must be a number > 0"))
    prompt = predicted = None
    if unit == "seconds":
        bad = np.flatnonzero(~((values > 0) & (values <= 1e9)))
        if bad.size:
            raise FileError(
                f"{file.name}: row {bad[0] + 1}, column {column!r}: {values[bad[0]]:g}: must be > 0, at most 1e9 s"
            )
    else:
        output = _tokens(file, values, column, 1)
        if prompt_column is not None:
            prompt = _tokens(file, _numbers(file, table, prompt_column, "must be a whole number"), prompt_column, 0)
            _within_limit(file, prompt, output)
    if predicted_column is not None:
        predicted = np.array(_numbers(file, table, predicted_column, "must be a number >= 0"))
        bad = np.flatnonzero(predicted < 0)
        if bad.size:
            raise FileError(f"{file.name}: row {bad[0] + 1}, column {predicted_column!r}: must be >= 0")
    for array in (values, prompt, predicted):
        if array is not None:
            array.flags.writeable = False
    return LengthTable(values, prompt, predicted, hashlib.sha256(file.content).hexdigest())


def resample(
    trace: RecordedTrace,
    rng: np.random.Generator,
    *,
    method: Resampling,
    requests: int | None = None,
    block_requests: int | None = None,
    rate_scale: float = 1.0,
) -> RecordedTrace:
    """Cut one replication's window of `requests` (default: all) out of a trace; arrivals become (a - a_0) / rate_scale.

    "none": the first requests. "circular": from a random request on, around the end (one mean gap joins end and
    beginning). "blocks": moving blocks of `block_requests` (default: the root of the trace's length) from random
    places, each request with the gap before it. The draws do not depend on `rate_scale`.
    Raises UserError where the window, a block or the scale does not fit the trace.
    """
    size = trace.arrival_s.size
    count = size if requests is None else requests
    if not count >= 1 or (method != "blocks" and count > size):
        allowed = "must be >= 1" if method == "blocks" else f"must be from 1 to {size}, the requests in the trace"
        raise UserError(f"workload.requests = {count}: {allowed}")
    if not (np.isfinite(rate_scale) and rate_scale > 0):
        raise UserError(f"workload.trace.rate_scale = {rate_scale}: must be > 0 and finite")
    if block_requests is not None and method != "blocks":
        raise UserError(f"workload.trace.block_requests: needs resample = 'blocks', not {method!r}")
    arrival = trace.arrival_s
    mean_gap = (arrival[-1] - arrival[0]) / max(size - 1, 1)
    if method == "none":
        rows = np.arange(count)
        times = arrival[:count]
    elif method == "circular":
        rows = int(rng.integers(size)) + np.arange(count)
        wrapped = rows >= size
        rows = np.where(wrapped, rows - size, rows)
        times = arrival[rows] + wrapped * (arrival[-1] - arrival[0] + mean_gap)
    else:
        block = max(1, round(size**0.5)) if block_requests is None else block_requests
        if not 1 <= block <= size:
            raise UserError(f"workload.trace.block_requests = {block}: must be from 1 to {size}")
        starts = rng.integers(0, size - block + 1, -(-count // block))
        rows = (starts[:, None] + np.arange(block)).ravel()[:count]
        times = np.cumsum(np.append(mean_gap, np.diff(arrival))[rows])
    with np.errstate(over="ignore"):
        times = (times - times[0]) / rate_scale
    if times[-1] > LATEST_S:
        raise UserError(f"workload.trace.rate_scale = {rate_scale:g}: the window would last more than {LATEST_S:g} s")
    return trace._replace(
        arrival_s=times,
        prompt_tokens=trace.prompt_tokens[rows],
        output_tokens=trace.output_tokens[rows],
        predicted=None if trace.predicted is None else trace.predicted[rows],
    )
