"""Recorded traces: read in the layouts that are published and in one's own, and refused for what is wrong in them."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from batchcube.calibration.logs import Arrivals, RecordedFormat, read_arrivals
from batchcube.engine.continuous import Content
from batchcube.engine.continuous.model import LOWEST_PRIORITY, parts_of
from batchcube.engine.ticks import LATEST, TICKS_PER_S
from batchcube.errors import InputError, found_in

from .rows import (
    MOST_TOKENS,
    File,
    lacks,
    numbers_of,
    parse,
    predictions_of,
    read_unpacked,
    require_within_limit,
    rows_of,
    tokens_of,
)
from .settings import Count, FloatArray, IntArray, Seconds, SecondsOrZero, Settings

if TYPE_CHECKING:
    import pyarrow as pa

TraceFormat = Literal["auto", "csv", "azure", "burstgpt", "bailian", "mooncake", RecordedFormat]
TimeUnit = Literal["auto", "s", "ms", "us", "ns", "date"]
Resampling = Literal["none", "parts", "circular", "blocks"]

LATEST_S = LATEST / TICKS_PER_S
"""Latest arrival, seconds: what the engine can hold."""
PLAUSIBLE_PER_S = (0.01, 200.0)
"""Least and largest mean rate that a recorded trace is believed to have while nobody states the unit of its times.

Public traces have 0.1 to 100 requests/s, a thousandth or a thousandfold of most of which is outside.
"""
_PER_S = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


class TraceColumns(Settings):
    """Columns of a recorded trace, where they are not those of its format."""

    arrival: str | None = Field(default=None, min_length=1, description="column of the arrival times")
    prompt_tokens: str | None = Field(default=None, min_length=1, description="column of the prompts' tokens")
    output_tokens: str | None = Field(default=None, min_length=1, description="column of the outputs' tokens")
    predicted_tokens: str | None = Field(
        default=None,
        min_length=1,
        description="column of a real predictor's lengths or classes",
    )
    priority: str | None = Field(
        default=None,
        min_length=1,
        description='column of priorities, smaller first (server.replica.scheduling_policy = "priority")',
    )

    def named(self) -> dict[str, str]:
        """Return the columns that are given."""
        return {part: column for part, column in self if column is not None}


class TraceSettings(Settings):
    """A recorded trace: where it is, which rows count, how it is scaled and resampled between replications."""

    path: str = Field(min_length=1, description='trace file, relative to the specification, or "dataset:NAME"')
    format: TraceFormat = Field(
        default="auto", description="layout of the file, or the tool that wrote a log; auto: by its content"
    )
    unit: TimeUnit = Field(
        default="auto",
        description="unit of the arrival times, or date: written dates; auto: that of the format, if it is plausible",
    )
    hash_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] | None = Field(
        default=None, description="tokens of a block of hash_ids, for prefix caching; mooncake: 512, bailian: 16"
    )
    columns: TraceColumns = Field(default=TraceColumns(), description="columns that are not those of the format")
    sort: bool = Field(default=False, description="put the rows in order of arrival; they must be otherwise")
    drop_empty_prompts: bool = Field(default=False, description="leave out requests with 0 prompt tokens")
    model: str | None = Field(default=None, min_length=1, description="keep the rows of this model (burstgpt)")
    log_type: str | None = Field(default=None, min_length=1, description="keep the rows of this log type (burstgpt)")
    start_s: SecondsOrZero = Field(
        default=0.0, description="leave out what arrives earlier, seconds from the first row"
    )
    stop_s: Seconds | None = Field(default=None, description="leave out what arrives from here on")
    limit: Count | None = Field(default=None, description="keep the first rows of what is left")
    rate_scale: float = Field(default=1.0, gt=0, le=1e6, description="arrival times are divided by this")
    resample: Resampling = Field(
        default="none",
        description="how replications differ: not at all, as successive parts, by a circular start, by blocks drawn at "
        "random",
    )
    block_requests: Count | None = Field(
        default=None, description="length of a block (resample = blocks); root of the trace's length when left out"
    )


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


class _Columns(NamedTuple):
    """Which columns of a file are read, and as what."""

    kind: str
    """Name of the layout."""
    arrival: str
    unit: str
    is_stated: bool
    """Whether the unit is the user's word."""
    prompt_tokens: str
    output_tokens: str
    predicted: str | None
    priority: str | None
    images: str | None
    filters: dict[str, str]
    """What columns of text must say, for a row to be kept."""
    hash_tokens: int | None
    """Tokens of a block of `HASHES`; None where they are not read."""

    @property
    def texts(self) -> list[str]:
        return [*self.filters, *([self.arrival] if self.unit == "date" else [])]

    @property
    def numbers(self) -> list[str]:
        others = (None if self.unit == "date" else self.arrival, self.predicted, self.priority, self.images)
        return [self.prompt_tokens, self.output_tokens, *(column for column in others if column is not None)]

    @property
    def lists(self) -> list[str]:
        return [] if self.hash_tokens is None else [HASHES]

    @property
    def assumed_unit(self) -> str:
        plain = self.unit == "date" or self.arrival == _FORMATS["csv"].arrival
        return "" if self.is_stated or plain else self.unit


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


def _arrivals(file: File, table: "pa.Table", columns: _Columns) -> FloatArray:
    """Return arrival times (row,) in seconds, from the first where they are dates, checked to be >= 0.

    Raises InputError for times that are hardly in their unit although nobody has stated it.
    """
    column, unit, stated = columns.arrival, columns.unit, columns.is_stated
    if unit == "date":
        return _dates(file, table, column)
    try:
        written = numbers_of(file, table, column, f"must be a number of {unit}")
    except InputError as error:
        if file.json_lines and b'"delay"' in file.content:
            raise error.advised("rows with delay in its place are later turns of a session: leave them out") from None
        raise
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


def _columns_wanted(file: File, settings: TraceSettings, *, hashes: bool, priorities: bool) -> _Columns:
    """Return which columns are read; raises InputError where they are not those of a layout, or one is named twice."""
    mapped = settings.columns.named()
    kind, names = _detect(file, settings.format, mapped)
    if file.json_lines and kind in ("azure", "burstgpt"):
        raise InputError(f"holds JSON lines, but format = {kind!r} is a CSV file", file=file.name)
    filters = {"Model": settings.model, "Log Type": settings.log_type}
    columns = _Columns(
        kind,
        names.arrival,
        names.unit if settings.unit == "auto" else settings.unit,
        settings.unit != "auto",
        names.prompt_tokens,
        names.output_tokens,
        mapped.get(_PREDICTED, _PREDICTED if kind == "csv" and _PREDICTED in file.columns else None),
        mapped.get(_PRIORITY, _PRIORITY if _PRIORITY in file.columns else None) if priorities else None,
        _IMAGES if kind == "azure" and _IMAGES in file.columns else None,
        {column: wanted for column, wanted in filters.items() if wanted is not None},
        _hash_tokens(file, settings.hash_tokens, names.hash_tokens) if hashes else None,
    )
    if columns.filters and kind != "burstgpt":
        raise InputError(f"filters on model and log_type need format = 'burstgpt', not {kind!r}", file=file.name)
    used = [*columns.numbers, *columns.texts]
    if len(set(used)) < len(used):
        raise InputError(f"one column is named twice: {', '.join(map(repr, used))}", file=file.name)
    return columns


def _hash_tokens(file: File, stated: int | None, own: int | None) -> int | None:
    """Return the tokens of a block of hashes, `own` ones of the layout; None where a file has no hashes."""
    if HASHES not in file.columns or not file.json_lines:
        if stated is not None:
            text = f"there is no column {HASHES!r} of JSON lines"
            raise InputError(text, file=file.name, path="workload.trace.hash_tokens", value=stated)
        return None
    if stated is None and own is None:
        raise InputError("needs workload.trace.hash_tokens", file=file.name, path=f"column {HASHES!r}")
    return stated or own


def _parsed(file: File, columns: _Columns) -> "pa.Table":
    try:
        return parse(file, columns.numbers, columns.texts, columns.lists)
    except InputError as error:
        if columns.is_stated or f"column {columns.arrival!r}" not in str(error):
            raise
        raise error.advised(f"or {_STATE_UNIT}") from None


def read_trace(settings: TraceSettings, *, hashes: bool = False, priorities: bool = False) -> RecordedTrace:
    """Read a recorded trace (BurstGPT, Azure or plain CSV, Mooncake or Bailian JSON lines), or the log of a server.

    Either may be packed with gzip or zstd. What a log leaves out is dropped, and its requests are put in order. With
    `hashes` the column `HASHES` is read too, where there is one; with `priorities` that of priorities, likewise.
    Failures of BurstGPT (0 response tokens) are dropped. Everything dropped is counted: rows_read = requests +
    rows_dropped. Arrivals start at 0, and are neither scaled nor resampled. Raises InputError, naming the file and the
    row, for anything that is wrong in it, and where no row is left.
    """
    name, content, sha256 = read_unpacked(settings.path)
    with found_in(file=name):
        logged = _logged(content, settings)
    if logged is not None:
        return _of_log(logged, sha256, name, settings)
    file = rows_of(name, content, sha256)
    columns = _columns_wanted(file, settings, hashes=hashes, priorities=priorities)
    table = _parsed(file, columns)
    arrival = _arrivals(file, table, columns)
    prompt = tokens_of(file, table, columns.prompt_tokens, 0)
    output = tokens_of(file, table, columns.output_tokens, 0 if columns.kind == "burstgpt" else 1)
    require_within_limit(file, prompt, output)
    predicted = None if columns.predicted is None else predictions_of(file, table, columns.predicted)
    priority = None if columns.priority is None else _priorities(file, table, columns.priority)
    each = columns.hash_tokens
    blocks = None if each is None else _content(file, table, prompt, each)
    images = None if columns.images is None else tokens_of(file, table, columns.images, 0)
    out_of_order = np.flatnonzero(np.diff(arrival) < 0)
    if out_of_order.size and not settings.sort:
        raise InputError(
            "earlier than the row before it: rows must be in order of arrival; workload.trace.sort = true sorts them",
            file=file.name,
            path=f"row {out_of_order[0] + 2}, column {columns.arrival!r}",
        )
    chosen = _Chosen(name, settings, arrival.size)
    for column, wanted in columns.filters.items():
        import pyarrow.compute as pc

        chosen.keep(f"other {column.lower()}", pc.equal(table.column(column), wanted).to_numpy())
    chosen.keep("failed (0 response tokens)", output > 0)
    if settings.drop_empty_prompts:
        chosen.keep("without a prompt (0 tokens)", prompt > 0)
    rows = chosen.rows(arrival)
    shown = np.zeros(0, np.int64) if images is None else images[rows]
    return RecordedTrace(
        arrival[rows] - arrival[rows[0]],
        prompt[rows],
        output[rows],
        None if predicted is None else predicted[rows],
        sha256,
        arrival.size,
        arrival.size - rows.size,
        chosen.dropped,
        int(out_of_order.size),
        tuple(column for column in file.columns if column not in (*columns.numbers, *columns.texts, *columns.lists)),
        columns.assumed_unit,
        None if blocks is None else parts_of(blocks, rows),
        None if priority is None else priority[rows],
        int(shown.sum()),
        int(np.count_nonzero(shown)),
    )


def _logged(content: bytes, settings: TraceSettings) -> Arrivals | None:
    """Return the requests of a log; None for a file of rows."""
    own = "columns" if settings.columns.named() else "unit" if settings.unit != "auto" else ""
    if settings.format in _LOGGED and own:
        raise InputError(f"workload.trace.{own} is for other formats: logs of {settings.format} have their own")
    logged = None
    if settings.format in _LOGGED:
        logged = read_arrivals(content, cast("RecordedFormat", settings.format))
    elif settings.format == "auto" and not own:
        logged = read_arrivals(content)
    if logged is not None and (settings.model is not None or settings.log_type is not None):
        raise InputError("filters on model and log_type need format = 'burstgpt', and it is a log")
    return logged


class _Chosen:
    """Which rows of a file are kept, and why the others are not."""

    def __init__(self, name: str, settings: TraceSettings, rows: int) -> None:
        self.name, self.settings = name, settings
        self.kept = np.ones(rows, np.bool_)
        self.dropped: dict[str, int] = {}

    def keep(self, reason: str, wanted: NDArray[np.bool_]) -> None:
        """Keep the rows that are wanted, and count the others."""
        lost = int(np.count_nonzero(self.kept & ~wanted))
        if lost:
            self.dropped[reason] = lost
        np.logical_and(self.kept, wanted, out=self.kept)

    def rows(self, arrival_s: FloatArray) -> IntArray:
        """Return the rows in the window, of all that were kept, in order of arrival; InputError where none is left."""
        start_s, stop_s, limit = self.settings.start_s, self.settings.stop_s, self.settings.limit
        since_s = arrival_s - arrival_s.min()
        self.keep("outside the window", (since_s >= start_s) & (since_s < (np.inf if stop_s is None else stop_s)))
        order = np.argsort(arrival_s, kind="stable")
        if limit is not None:
            first = np.zeros_like(self.kept)
            first[order[self.kept[order]][:limit]] = True
            self.keep("past the row limit", first)
        rows = order[self.kept[order]]
        if rows.size == 0:
            why = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
            raise InputError(f"no rows left of {self.kept.size}: {why}", file=self.name)
        return rows


def _of_log(log: Arrivals, sha256: str, name: str, settings: TraceSettings) -> RecordedTrace:
    """Return the requests of a log as a trace; they have prompts of 1 token at least."""
    chosen = _Chosen(name, settings, log.arrival_s.size)
    chosen.dropped.update({reason.replace("_", "-"): count for reason, count in log.left_out.items()})
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
