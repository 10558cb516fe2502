"""Recorded traces: read in the layouts that are published and in one's own, and refused for what is wrong in them."""

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray

from batchcube.calibration.logs import Arrivals, RecordedFormat, read_arrivals
from batchcube.engine.continuous import Content
from batchcube.engine.continuous.model import LOWEST_PRIORITY, parts_of
from batchcube.engine.ticks import LATEST, TICKS_PER_S
from batchcube.errors import InputError, found_in

from .rows import File, lacks, numbers_of, parse, read_unpacked, require_within_limit, rows_of, tokens_of
from .settings import FloatArray, IntArray

if TYPE_CHECKING:
    import pyarrow as pa

TraceFormat = Literal["auto", "csv", "azure", "burstgpt", "bailian", "mooncake", RecordedFormat]
TimeUnit = Literal["auto", "s", "ms", "us", "ns", "date"]

LATEST_S = LATEST / TICKS_PER_S
"""Latest arrival, seconds: what the engine can hold."""
PLAUSIBLE_PER_S = (0.01, 200.0)
"""Least and largest mean rate that a recorded trace is believed to have while nobody states the unit of its times.

Public traces have 0.1 to 100 requests/s, a thousandth or a thousandfold of most of which is outside.
"""
_PER_S = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


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
    rows_out_of_order: int = 0
    """Rows that were earlier than the one before them, until they were sorted."""
    unused_columns: tuple[str, ...] = ()
    """Columns of the header, or of the first line of JSON, that were not read."""
    assumed_unit: str = ""
    """Unit of the file's times where only its layout says so; empty where the user does, or the column's name."""
    content: Content | None = None
    """What the prompts contain, where the file's hashes were asked for."""
    priority: IntArray | None = None
    """Smaller first; where priorities were asked for."""
    images: int = 0
    """In the prompts of all requests."""
    with_images: int = 0
    """Requests with images."""


class _Format(NamedTuple):
    """Columns of a published layout."""

    arrival: str
    prompt_tokens: str
    output_tokens: str
    unit: str = "s"
    marks: tuple[str, ...] = ()
    """Columns any of which tells it from another layout with the same names."""
    hash_tokens: int | None = None
    """Tokens of a block that `HASHES` name."""


_FORMATS: dict[str, _Format] = {
    "csv": _Format("arrival_s", "prompt_tokens", "output_tokens"),
    "azure": _Format("TIMESTAMP", "ContextTokens", "GeneratedTokens", "date"),
    "burstgpt": _Format("Timestamp", "Request tokens", "Response tokens"),
    "bailian": _Format(
        "timestamp", "input_length", "output_length", marks=("chat_id", "parent_chat_id", "turn"), hash_tokens=16
    ),
    "mooncake": _Format("timestamp", "input_length", "output_length", "ms", hash_tokens=512),
}
_PREDICTED = "predicted_tokens"
HASHES = "hash_ids"
"""Column of the blocks of a prompt, a list of whole numbers for each request."""
_PRIORITY = "priority"
_IMAGES = "NumImages"
_LOGGED = get_args(RecordedFormat)
_PARTS = ("arrival", "prompt_tokens", "output_tokens", _PREDICTED, _PRIORITY)


def _priorities(file: File, table: "pa.Table", column: str) -> IntArray:
    allowed = f"must be a whole number from {-LOWEST_PRIORITY} to {LOWEST_PRIORITY}"
    values = numbers_of(file, table, column, allowed)
    bad = np.flatnonzero((abs(values) > LOWEST_PRIORITY) | (values != np.floor(values)))
    if bad.size:
        place = f"row {bad[0] + 1}, column {column!r}"
        raise InputError(f"{values[bad[0]]:g}", file=file.name, path=place, allowed=allowed)
    return values.astype(np.int64)


def _content(file: File, table: "pa.Table", prompt: IntArray, each: int) -> Content:
    """Return what the prompts of all rows contain, from ids of blocks of `each` tokens.

    The last block may be short, or left out. An id may stand for its block alone, or for all before it too: here it
    does, as vLLM's hashes do.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = table.column(HASHES).combine_chunks()
    counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    wanted = -(-prompt // each)
    bad = np.flatnonzero((counts != wanted) & (counts != prompt // each))
    if bad.size:
        row = int(bad[0])
        raise InputError(
            f"{counts[row]} ids for {prompt[row]} tokens",
            file=file.name,
            path=f"row {row + 1}, column {HASHES!r}",
            allowed=f"must be {wanted[row]}, of {each} tokens each (workload.trace.hash_tokens)",
        )
    flat = lists.flatten().cast(pa.int64())
    begin = np.concatenate(([0], np.cumsum(counts)))
    row_of, at = np.repeat(np.arange(len(counts)), counts), np.arange(begin[-1]) - np.repeat(begin[:-1], counts)
    if flat.null_count:
        row = int(row_of[np.argmax(flat.is_null().to_numpy(zero_copy_only=False))])
        raise InputError("an id is missing", file=file.name, path=f"row {row + 1}, column {HASHES!r}")
    written = flat.to_numpy()
    _, first, block = np.unique(written, return_index=True, return_inverse=True)
    covered = np.minimum(prompt[row_of] - at * each, each)
    bad = np.flatnonzero(covered != covered[first][block])
    if bad.size:
        here, there = int(bad[0]), int(first[block[bad[0]]])
        raise InputError(
            f"{written[here]} stands for {covered[here]} tokens, in row {row_of[there] + 1} for {covered[there]}",
            file=file.name,
            path=f"row {row_of[here] + 1}, column {HASHES!r}",
            allowed="must be as many wherever it stands",
        )
    return Content(_chained(block, at, len(first)), begin, np.minimum(prompt, counts * each), each)


def _chained(block: IntArray, at: IntArray, blocks: int) -> IntArray:
    """Return ids (id,) that stand for a block and all before it, of blocks 0, 1, ... that are the `at`-th of a row."""
    if not block.size:
        return block
    before = np.where(at == 0, -1, np.roll(block, 1))
    parent = np.full(blocks, -1)
    parent[block] = before
    if (parent[block] == before).all():
        return block
    chained = np.zeros_like(block)
    known = 0
    for k in range(int(at.max()) + 1):
        here = np.flatnonzero(at == k)
        pairs = block[here] if k == 0 else chained[here - 1] * blocks + block[here]
        _, chained[here] = np.unique(pairs, return_inverse=True)
        chained[here] += known
        known = int(chained[here].max()) + 1
    return chained


def _dates(file: File, table: "pa.Table", column: str) -> FloatArray:
    """Turn written dates (up to 9 decimals, with or without a zone) into seconds since the first."""
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
    if read is not None and not read.null_count:
        moments = read.cast(pa.int64()).to_numpy()
        if int(moments.max()) - int(moments.min()) > LATEST_S * 1e9:
            raise InputError(f"spans more than {LATEST_S:g} s", file=file.name, path=f"column {column!r}")
        return np.asarray((moments - moments[0]) / 1e9, dtype=np.float64)
    row = next(row for row, text in enumerate(written) if not text.is_valid or nanoseconds(text, zone) is None)
    as_first = (
        "" if row == 0 else " and, like row 1, without a zone" if zone is None else " and, like row 1, with a zone"
    )
    shown = (written[row].as_py() or "")[:60]
    raise InputError(
        repr(shown),
        file=file.name,
        path=f"row {row + 1}, column {column!r}",
        allowed=f"must be a date and time such as 2023-11-16 18:15:46.6805900{as_first}",
    )


_STATE_UNIT = 'state workload.trace.unit: "s", "ms", "us", "ns", or "date"'


def _arrivals(file: File, table: "pa.Table", column: str, unit: str, *, stated: bool) -> FloatArray:
    """Return arrival times (row,) in seconds, from the first where they are dates, checked to be >= 0.

    Raises InputError for times that are hardly in `unit` although nobody has stated it.
    """
    if unit == "date":
        return _dates(file, table, column)
    written = numbers_of(file, table, column, f"must be a number of {unit}")
    bad = np.flatnonzero(written < 0)
    if bad.size:
        raise InputError(
            f"{written[bad[0]]:g}", file=file.name, path=f"row {bad[0] + 1}, column {column!r}", allowed="must be >= 0"
        )
    with np.errstate(under="ignore"):
        seconds: FloatArray = written / _PER_S[unit]
    bad = np.flatnonzero(seconds > LATEST_S)
    if bad.size:
        row = int(bad[0])
        allowed = f"must be at most {LATEST_S:g} s" + ("" if stated else f"; if it is in another unit, {_STATE_UNIT}")
        raise InputError(
            f"{written[row]:g} {unit}", file=file.name, path=f"row {row + 1}, column {column!r}", allowed=allowed
        )
    if stated:
        return seconds
    if unit == "ms":
        # Published files count whole milliseconds; the same names with decimals were seen to be seconds.
        bad = np.flatnonzero(written != np.floor(written))
        if bad.size or re.search(rb'"%s"\s*:\s*\d+\.' % re.escape(column.encode()), file.content):
            row = int(bad[0]) if bad.size else 0
            raise InputError(
                f"has decimals, and whole ms would not: {_STATE_UNIT}",
                file=file.name,
                path=f"row {row + 1}, column {column!r}",
            )
    span = float(seconds.max() - seconds.min())
    low, high = PLAUSIBLE_PER_S
    rate = (seconds.size - 1) / span if span > 0 else low
    if not low <= rate <= high:
        # Of the other units, those in which the rate is one that is seen.
        others = {other: rate * per_s / _PER_S[unit] for other, per_s in _PER_S.items() if other != unit}
        likely = "".join(f", in {other} {at:.3g}" for other, at in others.items() if low <= at <= high)
        raise InputError(
            f"in {unit} these were {rate:.3g} requests/s on average, hardly from {low:g} to {high:g}{likely}: "
            f"{_STATE_UNIT}",
            file=file.name,
            path=f"column {column!r}",
        )
    return seconds


def _detect(file: File, format: str, mapped: Mapping[str, str]) -> tuple[str, _Format]:
    """Return a layout's name, and its columns with the `mapped` ones in place of its own.

    Raises InputError for columns of none: it names the nearest, plain ones unless two of three are there.
    """
    own: dict[str, Any] = {part: column for part, column in mapped.items() if part in _Format._fields}
    known = {kind: names._replace(**own) for kind, names in _FORMATS.items()}
    if format != "auto":
        return format, known[format]
    missing = {
        kind: [column for column in names[:3] if column not in file.columns]
        for kind, names in known.items()
        if not names.marks or not set(names.marks).isdisjoint(file.columns)
    }
    nearest = min(missing, key=lambda kind: len(missing[kind]))
    if not missing[nearest]:
        return nearest, known[nearest]
    if len(missing[nearest]) > 1:
        nearest = "csv"
    error = lacks(file, known[nearest][:3], "" if nearest == "csv" else nearest)
    error = error.advised(f"workload.trace.columns names others ({', '.join(_PARTS[:3])})")
    if file.json_lines and not mapped:
        error = error.advised("it may be a log, of no format that is known (docs/logs.md)")
    raise error


def read_trace(
    path: str | os.PathLike[str],
    format: TraceFormat = "auto",
    *,
    unit: TimeUnit = "auto",
    columns: Mapping[str, str] | None = None,
    sort: bool = False,
    drop_empty_prompts: bool = False,
    model: str | None = None,
    log_type: str | None = None,
    start_s: float = 0.0,
    stop_s: float | None = None,
    limit: int | None = None,
    hashes: bool = False,
    hash_tokens: int | None = None,
    priorities: bool = False,
) -> RecordedTrace:
    """Read a recorded trace (BurstGPT, Azure or plain CSV, Mooncake or Bailian JSON lines), or the log of a server.

    Either may be packed with gzip or zstd. What a log leaves out is dropped, and its requests are put in order. `path`
    may be "dataset:NAME". `unit` is that of the arrival times, "auto" the format's, refused where it is hardly so.
    `columns` names the file's columns for arrival, prompt_tokens, output_tokens, predicted_tokens or priority where
    they are not the format's. `sort` puts rows in order of arrival, which they must be in otherwise. `model` and
    `log_type` keep such rows of a BurstGPT file; `start_s <= t < stop_s` keeps a window, in seconds from the first row;
    `limit` keeps the first rows of what is left. With `hashes` the column `HASHES` is read too, where there is one: ids
    of blocks of `hash_tokens`, by default the format's; with `priorities` that of priorities, likewise. Failures of
    BurstGPT (0 response tokens) are dropped, with `drop_empty_prompts` also requests of 0 prompt tokens. Everything
    dropped is counted: rows_read = requests + rows_dropped. Arrivals start at 0. Raises InputError, naming the file and
    the row, for anything that is wrong in it, and where no row is left.
    """
    name, content, sha256 = read_unpacked(path)
    mapped = dict(columns or {})
    logged = None
    with found_in(file=name):
        if format not in get_args(TraceFormat):
            raise InputError(f"must be one of {', '.join(get_args(TraceFormat))}", path="format", value=repr(format))
        if unknown := sorted(set(mapped) - set(_PARTS)):
            raise InputError(f"must be one of {', '.join(_PARTS)}", path=f"columns.{unknown[0]}")
        if not 0 <= start_s < (np.inf if stop_s is None else stop_s):
            problem = f"window from start_s = {start_s} to stop_s = {stop_s}"
            raise InputError(problem, allowed="must be 0 <= start < stop")
        if limit is not None and limit < 1:
            raise InputError("must be >= 1", path="limit", value=limit)
        if format not in ("burstgpt", "auto") and (model is not None or log_type is not None):
            raise InputError(f"filters on model and log_type need format = 'burstgpt', not {format!r}")
        if format in _LOGGED and (mapped or unit != "auto"):
            option = "columns" if mapped else "unit"
            raise InputError(f"workload.trace.{option} is for other formats: logs of {format} have their own")
        if format in _LOGGED or (format == "auto" and not mapped and unit == "auto"):
            logged = read_arrivals(content, None if format == "auto" else cast("RecordedFormat", format))
    chosen = _Chosen(name, start_s, stop_s, limit)
    if logged is not None:
        return _of_log(logged, sha256, chosen)
    file = rows_of(name, content, sha256)
    kind, names = _detect(file, format, mapped)
    if file.json_lines and kind in ("azure", "burstgpt"):
        raise InputError(f"holds JSON lines, but format = {kind!r} is a CSV file", file=file.name)
    if kind != "burstgpt" and (model is not None or log_type is not None):
        raise InputError(f"filters on model and log_type need format = 'burstgpt', not {kind!r}", file=file.name)

    stated = unit != "auto"
    of_arrivals = unit if stated else names.unit
    filters = {"Model": model, "Log Type": log_type} if kind == "burstgpt" else {}
    texts = [column for column, wanted in filters.items() if wanted is not None]
    numbers = [names.prompt_tokens, names.output_tokens]
    (texts if of_arrivals == "date" else numbers).append(names.arrival)
    predicting = mapped.get(_PREDICTED, _PREDICTED if kind == "csv" and _PREDICTED in file.columns else None)
    if predicting is not None:
        numbers.append(predicting)
    ranking = mapped.get(_PRIORITY, _PRIORITY if _PRIORITY in file.columns else None) if priorities else None
    if ranking is not None:
        numbers.append(ranking)
    pictured = kind == "azure" and _IMAGES in file.columns
    if pictured:
        numbers.append(_IMAGES)
    used = [*numbers, *texts]
    if len(set(used)) < len(used):
        raise InputError(f"one column is named twice: {', '.join(map(repr, used))}", file=file.name)
    each = hash_tokens or names.hash_tokens
    hashed = hashes and HASHES in file.columns and file.json_lines
    if hashes and not hashed and hash_tokens is not None:
        text = f"there is no column {HASHES!r} of JSON lines"
        raise InputError(text, file=file.name, path="workload.trace.hash_tokens", value=hash_tokens)
    if hashed and each is None:
        raise InputError("needs workload.trace.hash_tokens", file=file.name, path=f"column {HASHES!r}")
    lists = [HASHES] if hashed else []
    try:
        table = parse(file, numbers, texts, lists)
    except InputError as error:
        if stated or f"column {names.arrival!r}" not in str(error):
            raise
        raise error.advised(f"or {_STATE_UNIT}") from None
    if table.num_rows == 0:
        raise InputError("has a header but no rows", file=file.name)

    try:
        arrival = _arrivals(file, table, names.arrival, of_arrivals, stated=stated)
    except InputError as error:
        if file.json_lines and b'"delay"' in content:
            raise error.advised("rows with delay in its place are later turns of a session: leave them out") from None
        raise
    prompt_values = numbers_of(file, table, names.prompt_tokens, "must be a whole number >= 0")
    prompt = tokens_of(file, prompt_values, names.prompt_tokens, 0)
    output_values = numbers_of(file, table, names.output_tokens, "must be a whole number >= 1")
    output = tokens_of(file, output_values, names.output_tokens, 0 if kind == "burstgpt" else 1)
    require_within_limit(file, prompt, output)
    predicted: FloatArray | None = None
    if predicting is not None:
        predicted = numbers_of(file, table, predicting, "must be a number >= 0")
        bad = np.flatnonzero(predicted < 0)
        if bad.size:
            raise InputError("must be >= 0", file=file.name, path=f"row {bad[0] + 1}, column {predicting!r}")

    priority = None if ranking is None else _priorities(file, table, ranking)
    hashed_content = _content(file, table, prompt, each) if hashed and each is not None else None
    disorder = np.flatnonzero(np.diff(arrival) < 0)
    if disorder.size and not sort:
        raise InputError(
            "earlier than the row before it: rows must be in order of arrival; workload.trace.sort = true sorts them",
            file=file.name,
            path=f"row {disorder[0] + 2}, column {names.arrival!r}",
        )
    order = np.argsort(arrival, kind="stable") if disorder.size else np.arange(arrival.size)
    since = arrival[order] - arrival[order[0]]
    chosen.begin(arrival.size)
    for column, value in filters.items():
        if value is not None:
            import pyarrow.compute as pc

            chosen.keep(f"other {column.lower()}", pc.equal(table.column(column), value).to_numpy()[order])
    chosen.keep("failed (0 response tokens)", output[order] > 0)
    if drop_empty_prompts:
        chosen.keep("without a prompt (0 tokens)", prompt[order] > 0)
    rows = order[chosen.rows(since)]
    images = np.zeros(0, np.int64)
    if pictured:
        images = tokens_of(file, numbers_of(file, table, _IMAGES, "must be a whole number >= 0"), _IMAGES, 0)[rows]
    return RecordedTrace(
        arrival[rows] - arrival[rows[0]],
        prompt[rows],
        output[rows],
        None if predicted is None else predicted[rows],
        file.sha256,
        arrival.size,
        arrival.size - rows.size,
        chosen.dropped,
        int(disorder.size),
        tuple(column for column in file.columns if column not in (*used, *lists)),
        "" if stated or of_arrivals == "date" or names.arrival == _FORMATS["csv"].arrival else of_arrivals,
        None if hashed_content is None else parts_of(hashed_content, rows),
        None if priority is None else priority[rows],
        int(images.sum()),
        int(np.count_nonzero(images)),
    )


class _Chosen:
    """Which rows of a file are kept, and why the others are not."""

    def __init__(self, name: str, start_s: float, stop_s: float | None, limit: int | None) -> None:
        """`start_s <= t < stop_s` keeps a window, `limit` the first rows of what is left."""
        self.name, self.limit = name, limit
        self.start_s, self.stop_s = start_s, np.inf if stop_s is None else stop_s
        self.dropped: dict[str, int] = {}

    def begin(self, rows: int, dropped: Mapping[str, int] | None = None) -> None:
        """Keep all rows, beside those that were `dropped` before."""
        self.kept = np.ones(rows, np.bool_)
        self.dropped.update(dropped or {})

    def keep(self, reason: str, wanted: NDArray[np.bool_]) -> None:
        """Keep the rows that are wanted, and count the others."""
        lost = int(np.count_nonzero(self.kept & ~wanted))
        if lost:
            self.dropped[reason] = lost
        np.logical_and(self.kept, wanted, out=self.kept)

    def rows(self, since_s: FloatArray) -> IntArray:
        """Return the rows in the window, of all that were kept; raises InputError where none is left."""
        self.keep("outside the window", (since_s >= self.start_s) & (since_s < self.stop_s))
        if self.limit is not None:
            self.keep("past the row limit", np.cumsum(self.kept) <= self.limit)
        rows = np.flatnonzero(self.kept)
        if rows.size == 0:
            why = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
            raise InputError(f"no rows left of {self.kept.size}: {why}", file=self.name)
        return rows


def _of_log(log: Arrivals, sha256: str, chosen: _Chosen) -> RecordedTrace:
    """Return the requests of a log as a trace; they have prompts of 1 token at least."""
    left_out = {reason.replace("_", "-"): count for reason, count in log.left_out.items()}
    chosen.begin(log.arrival_s.size, left_out)
    rows = chosen.rows(log.arrival_s)
    dropped = sum(chosen.dropped.values())
    return RecordedTrace(
        log.arrival_s[rows] - log.arrival_s[rows[0]],
        log.prompt_tokens[rows],
        log.output_tokens[rows],
        None,
        sha256,
        rows.size + dropped,
        dropped,
        chosen.dropped,
    )
