"""Recorded traces, mutated: read, counted and in order, or refused in one line."""

import csv
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchcube.errors import InputError
from batchcube.sweeps.cli.main import main
from batchcube.sweeps.workloads.rows import read_columns, read_lengths
from batchcube.sweeps.workloads.traces import LATEST_S, TraceSettings, read_trace
from helpers.mutation import limited, mutants, mutate_bytes, mutate_tree

CSV: tuple[list[list[Any]], ...] = (
    [["arrival_s", "prompt_tokens", "output_tokens", "predicted_tokens"]]
    + [[0.5 * n, 10 + n, 1 + n, n] for n in range(8)],
    [["TIMESTAMP", "NumImages", "ContextTokens", "GeneratedTokens"]]
    + [[f"2023-11-16 18:15:{10 + n}.6805900", 0, 374, 44] for n in range(8)],
    [["Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type"]]
    + [[5 * n, "GPT-4", 472, n, 490, "API log"] for n in range(8)],
)
JSON_LINES: tuple[list[Any], ...] = (
    [{"timestamp": 3000 * n, "input_length": 10, "output_length": 5, "hash_ids": [0, n]} for n in range(8)],
    [{"chat_id": n, "timestamp": 61.114 * n, "input_length": 10, "output_length": 5, "turn": 1} for n in range(8)],
)
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"unit": "s"},
    {"unit": "ns", "sort": True},
    {"unit": "date"},
    {"sort": True, "drop_empty_prompts": True},
    {"format": "csv", "columns": {"arrival": "timestamp", "prompt_tokens": "input_length"}},
    {"start_s": 1.0, "stop_s": 20.0, "limit": 3, "sort": True},
    {"format": "burstgpt", "model": "GPT-4", "log_type": "API log"},
)
SPECIFICATION = """
workload.trace.path = "trace"
policy = {mode = "continuous", largest_batch = 4}
server.service = {law = "steps", c0_s = 0.01}
server.replica = {kv_capacity_tokens = 1000}
"""


def as_text(table: list[Any]) -> bytes:
    """Return rows as CSV, or records as JSON lines."""
    if not isinstance(table[0], list):
        return "".join(json.dumps(record) + "\n" for record in table).encode()
    text = io.StringIO()
    csv.writer(text).writerows(row if isinstance(row, list) else [row] for row in table)
    return text.getvalue().encode(errors="replace")


def packed() -> tuple[bytes, ...]:
    """Return good files of every layout, plain and packed."""
    plain = [as_text(table) for table in (*CSV, *JSON_LINES)]
    return (*plain, *map(gzip.compress, plain), *(pa.compress(text, "zstd", asbytes=True) for text in plain))


def read(folder: Path, content: bytes, number: int, capsys: pytest.CaptureFixture[str]) -> bool:
    """Read a file in every way; say whether it was accepted as a trace."""
    file = folder / "trace"
    file.write_bytes(content)
    accepted = False
    with limited():
        for options in (OPTIONS[0], OPTIONS[number % len(OPTIONS)]):
            try:
                trace = read_trace(TraceSettings.model_validate({"path": str(file), **options}))
            except InputError as error:
                _refused(error)
                continue
            accepted = True
            assert trace.rows_read == trace.arrival_s.size + trace.rows_dropped
            assert trace.rows_dropped == sum(trace.dropped_reasons.values())
            assert trace.arrival_s[0] == 0.0
            assert trace.arrival_s[-1] <= LATEST_S
            assert (np.diff(trace.arrival_s) >= 0.0).all()
            assert trace.output_tokens.min() >= 1
        for reader in (
            lambda: read_columns(file, ["output_tokens"]),
            lambda: read_columns(file, ["Request tokens"], {"Model": "GPT-4"}),
            lambda: read_lengths(file, "output_length", "input_length"),
            lambda: read_lengths(file, "output_tokens", None, "predicted_tokens", unit="seconds"),
        ):
            try:
                reader()
            except InputError as error:
                _refused(error)
        if number % 10 == 0:
            with pytest.raises(SystemExit) as left:
                main(["check", str(folder / "sweep.toml")])
            assert left.value.code in (0, 2)
            assert len(capsys.readouterr().err.splitlines()) == (left.value.code == 2)
    return accepted


def _refused(error: InputError) -> None:
    assert str(error).isprintable()


def _all(folder: Path, goods: tuple[Any, ...], mutate: Any, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "sweep.toml").write_text(SPECIFICATION)

    def one(chance: random.Random, wrong: Any) -> Any:
        return mutate(chance, chance.choice(wrong) if isinstance(wrong, tuple) else wrong)

    accepted = 0
    for number, wrong in enumerate(mutants(goods, one, seed)):
        content = wrong if isinstance(wrong, bytes) else as_text(wrong) if isinstance(wrong, list) and wrong else b""
        try:
            accepted += read(folder, content, number, capsys)
        except BaseException as error:
            error.add_note(f"mutant {number}:\n{content[:5000]!r}")
            raise
    assert accepted > 0


@pytest.mark.slow
def test_mutated_files_are_read_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _all(tmp_path, packed(), mutate_bytes, 1, capsys)


@pytest.mark.slow
def test_mutated_rows_are_read_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _all(tmp_path, (*CSV, *JSON_LINES), mutate_tree, 2, capsys)
