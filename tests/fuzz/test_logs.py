"""Request logs, mutated: read, replayed and judged, or refused in one line."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchcube.calibration.coefficients import LoggedReplica
from batchcube.errors import InputError
from batchcube.sweeps.calibrate.validate import validate
from batchcube.sweeps.spec.service import load
from helpers.mutation import limited, mutants, mutate_bytes, mutate_tree

SETTINGS = LoggedReplica(most_running=8, token_budget=512, capacity_tokens=100_000)
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
            validate(path, load("qwen3-0.6b-cpu-vllm"), SETTINGS)
    except InputError:
        pass


@pytest.mark.slow
def test_mutated_logs_are_judged_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(_text(good()))
    validate(path, load("qwen3-0.6b-cpu-vllm"), SETTINGS)  # compiles, without a limit
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for wrong in mutants(good(), mutate_tree, 1):
            judge(path, _text(wrong))
        for wrong_bytes in mutants(_text(good()), mutate_bytes, 2):
            judge(path, wrong_bytes)


def _text(rows: Any) -> bytes:
    lines = rows if isinstance(rows, list) else [rows]
    return "".join(f"{json.dumps(row)}\n" for row in lines).encode()
