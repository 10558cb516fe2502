"""Request logs of every format, mutated: read, replayed and judged, or refused in one line."""

import gzip
import json
import random
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest

from batchcube.calibration.coefficients import LoggedServer
from batchcube.calibration.logs import LogFormat, Reading, read_log
from batchcube.errors import InputError
from batchcube.sweeps.calibrate.validate import validate
from batchcube.sweeps.spec.service import load
from batchcube.sweeps.workloads.traces import TraceSettings, read_trace
from helpers.logs import FORMATS, some
from helpers.mutation import limited, mutants, mutate_bytes, mutate_tree

SETTINGS = LoggedServer(most_running=8, token_budget=512, capacity_tokens=100_000)
ROWS = 12


def good() -> list[dict[str, Any]]:
    """Return the rows of a log."""
    rng = np.random.default_rng(2)
    rows = []
    for queued in (100.0 + np.cumsum(rng.exponential(0.2, ROWS))).tolist():
        row = {"input_toks": int(rng.integers(20, 500)), "output_toks": int(rng.integers(1, 60)), "queued_ts": queued}
        rows.append(row | {"scheduled_ts": queued + 0.01, "first_token_ts": queued + 0.1, "last_token_ts": queued + 2})
    return rows


def judge(path: Path, data: bytes) -> None:
    """Validate a log; it may be refused in one line."""
    path.write_bytes(data)
    try:
        with limited():
            validate(read_log(path), path, load("qwen3-0.6b-cpu-vllm"), SETTINGS)
    except InputError:
        pass


@pytest.mark.slow
def test_mutated_logs_are_judged_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(_text(good()))
    validate(read_log(path), path, load("qwen3-0.6b-cpu-vllm"), SETTINGS)  # compiles, without a limit
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for wrong in mutants(good(), mutate_tree, 1):
            judge(path, _text(wrong))
        for wrong_bytes in mutants(_text(good()), mutate_bytes, 2):
            judge(path, wrong_bytes)


def _text(rows: Any) -> bytes:
    lines = rows if isinstance(rows, list) else [rows]
    return "".join(f"{json.dumps(row)}\n" for row in lines).encode()


# Every format ---------------------------------------------------------------------------------------------------------

HOW = (
    Reading(),
    Reading(concurrency=1),
    Reading(concurrency=3),
    Reading(columns={"arrival": "launch_time:ms", "e2e": "generation_time", "output_tokens": "generation_tokens"}),
    *(Reading(name, None, None) for name in get_args(LogFormat)),
)


def read(path: Path, data: bytes, number: int) -> bool:
    """Read a file as a log and as a workload; say whether it was accepted."""
    path.write_bytes(data)
    accepted = 0
    with limited():
        for how in (HOW[0], HOW[number % len(HOW)]):
            try:
                log = read_log(path, how)
            except InputError as error:
                _refused(error)
                continue
            accepted += 1
            assert log.came_s[0] == 0.0
            assert (np.diff(log.queued_s) >= 0).all()
            assert (log.queued_s <= log.first_token_s + 1e-5).all()
            assert (log.first_token_s <= log.last_token_s + 1e-5).all()
            assert min(log.prompt_tokens.min(), log.output_tokens.min()) >= 1
            assert all(line.isprintable() for line in log.remarks())
        try:
            trace = read_trace(TraceSettings(path=str(path)))
        except InputError as error:
            _refused(error)
        else:
            assert trace.rows_read == trace.arrival_s.size + trace.rows_dropped
    return accepted > 0


def _mutated(path: Path, goods: list[Any], mutate: Any, text_of: Any, seed: int) -> None:
    def one(chance: random.Random, wrong: Any) -> Any:
        return mutate(chance, chance.choice(wrong) if wrong is goods or isinstance(wrong, list) else wrong)

    accepted = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, wrong in enumerate(mutants(goods, one, seed)):
            content = text_of(wrong)
            try:
                accepted += read(path, content, number)
            except BaseException as error:
                error.add_note(f"mutant {number}:\n{content[:5000]!r}")
                raise
    assert accepted > 0


@pytest.mark.slow
def test_mutated_files_of_every_format_are_read_or_refused(tmp_path: Path) -> None:
    plain = [written.write(some(4)) for written in FORMATS.values()]
    packed = [
        pack(text) for text in plain for pack in (gzip.compress, lambda text: pa.compress(text, "zstd", asbytes=True))
    ]
    _mutated(tmp_path / "log", [*plain, *packed], mutate_bytes, bytes, 3)


@pytest.mark.slow
def test_mutated_values_of_every_format_are_read_or_refused(tmp_path: Path) -> None:
    goods = []
    for written in FORMATS.values():
        with suppress(ValueError):  # tables are no JSON
            goods.append({"values": [json.loads(line) for line in joined(written.write(some(4))).splitlines()]})

    def text_of(wrong: Any) -> bytes:
        values = wrong.get("values", wrong) if isinstance(wrong, dict) else wrong
        return _text(values)

    _mutated(tmp_path / "log", goods, mutate_tree, text_of, 4)


def joined(content: bytes) -> bytes:
    """Return JSON of several lines on one, and JSON lines as they are."""
    try:
        return json.dumps(json.loads(content)).encode()
    except ValueError:
        return content


def _refused(error: InputError) -> None:
    assert str(error).isprintable()
