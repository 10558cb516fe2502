"""Coefficients files, mutated: read, shown, drawn and turned into the laws of a sweep, or refused in one line."""

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from batchcube.calibration.coefficients import locate
from batchcube.engine.policies.service import longest_service
from batchcube.errors import InputError
from batchcube.sweeps.calibrate.report import print_coefficients
from batchcube.sweeps.calibrate.server import server_of, server_settings
from batchcube.sweeps.spec import service as coefficients
from batchcube.sweeps.spec.service import Asked
from batchcube.sweeps.spec.settings import CoefficientsLaw
from helpers.mutation import limited, mutants, mutate_bytes, mutate_tree

ASKED = Asked(largest_batch=64, mean_prompt_tokens=100.0, longest_output_tokens=500.0)


def good() -> dict[str, Any]:
    """Return the content of a file that has every part."""
    content: dict[str, Any] = json.loads(locate("qwen3-0.6b-cpu-vllm").read_bytes())
    content["replica"] = {"most_running": 8, "token_budget": 512, "capacity_tokens": 10_000}
    content["log"] = {"requests": 60, "fitted_to": 40, "rms": {"ttft_s": 0.1}, "unsure": ["c4_s_per_prefill_attention"]}
    return content


def use(path: Path, data: bytes) -> None:
    """Do with a file all that commands and sweeps do; it may be refused in one line, at any of it."""
    path.write_bytes(data)
    name = str(path)
    rng = np.random.default_rng(1)
    with limited():
        try:
            known = coefficients.load(name)
        except InputError as error:
            _refused(error)
            return
        shown = io.StringIO()
        print_coefficients(known, Console(file=shown, width=140), name)
        assert "\x1b" not in shown.getvalue()
        shown.getvalue().encode()
        batches = CoefficientsLaw(coefficients=name)
        table = CoefficientsLaw(coefficients=name, h="table")
        for step in (
            lambda: longest_service(coefficients.build(batches, 64), 10_000),
            lambda: longest_service(coefficients.build(batches, 64, rng), 10_000),
            lambda: longest_service(coefficients.build(table, 64), 10_000),
            lambda: coefficients.steps_of(batches),
            lambda: coefficients.drawn_steps(batches, rng),
            lambda: coefficients.notes_on(batches, ASKED),
            lambda: coefficients.notes_on_steps(batches, ASKED),
            lambda: coefficients.record([batches, table]),
            lambda: coefficients.record([batches], steps=True),
            lambda: server_of(server_settings(known, {})),
        ):
            try:
                step()
            except InputError as error:
                _refused(error)


def _refused(error: InputError) -> None:
    assert str(error).isprintable()


@pytest.mark.slow
def test_mutated_coefficients_are_used_or_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for wrong in mutants(good(), mutate_tree, 1):
            use(tmp_path / "c.json", json.dumps(wrong).encode())
        for wrong_bytes in mutants(json.dumps(good()).encode(), mutate_bytes, 2):
            use(tmp_path / "c.json", wrong_bytes)
