"""Specifications, mutated: checked, with what theory says about them, or refused in lines of plain text."""

import json
import random
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchcube.errors import InputError
from batchcube.sweeps import presets
from batchcube.sweeps.cli import run
from batchcube.sweeps.cli.main import main
from batchcube.sweeps.run import samples
from batchcube.sweeps.run.preparing import prepare, theory_of
from batchcube.sweeps.spec.document import Sweep
from helpers.mutation import limited, mutants, mutate_bytes, mutate_tree

TRACE = "arrival_s,prompt_tokens,output_tokens,predicted_tokens\n" + "".join(f"{n},{n + 5},9,{n}\n" for n in range(40))
RECORDED = {
    "workload": {
        "trace": {
            "path": "trace.csv",
            "format": "csv",
            "unit": "s",
            "columns": {"arrival": "arrival_s"},
            "sort": True,
            "drop_empty_prompts": True,
            "start_s": 1.0,
            "stop_s": 30.0,
            "limit": 20,
            "rate_scale": 2.0,
            "resample": "blocks",
            "block_requests": 5,
        },
        "predictor": {"kind": "column"},
        "requests": 10,
    },
    "policy": {"mode": "multi_bin_dynamic", "bins": 2, "largest_batch": 4, "memory": {"capacity_tokens": 400}},
    "server": {"service": {"law": "linear", "a1_s_per_token": 0.03, "gamma": 0.007}},
}


def documents() -> tuple[dict[str, Any], ...]:
    """Return the tables of every preset, made small, and those of a recorded trace."""
    found = [tomllib.loads(presets.read(name).decode()) for name in presets.names()]
    for document in found:
        document["workload"]["requests"] = 50
        document["replications"] = 2
        for axis in document.get("axes", {}).values():
            axis.update({"values": axis["values"][:2]} if "values" in axis else {})
            axis.update({"points": dict(list(axis["points"].items())[:2])} if "points" in axis else {})
            if "step" in axis:
                axis["stop"] = axis["start"] + axis["step"]
    return (*found, RECORDED)


def toml(value: Any) -> str:
    """Return a value as TOML on one line; what TOML has no word for becomes empty text."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps("" if value is None else value, ensure_ascii=False)


def text_of(document: dict[str, Any]) -> str:
    """Return tables as TOML, one line for each of them."""
    return "".join(f"{json.dumps(str(key))} = {toml(value)}\n" for key, value in document.items())


def check(file: Path, number: int, capsys: pytest.CaptureFixture[str]) -> bool:
    """Check a specification, every 20th on the command line, and ask theory; say whether it was accepted."""
    refused = ""
    with limited():
        if number % 20 == 0:
            with pytest.raises(SystemExit) as left:
                main(["check", str(file)])
            assert left.value.code in (0, 2)
            refused = capsys.readouterr().err
            assert bool(refused) == (left.value.code == 2)
            assert all(line.startswith("batchcube: ") for line in refused.splitlines())
        else:
            try:
                # What the command does; to build the command takes ten times as long.
                run.check(str(file))
            except InputError as error:
                refused = _refused(error)
        if not refused:
            theory = theory_of(prepare(Sweep.from_toml(file)))
            assert not np.isinf(theory).any()
    lines = refused.splitlines()
    assert len(lines) < 200
    assert all(line.isprintable() for line in lines)
    return not refused


def _refused(error: InputError) -> str:
    return str(error)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Drawing the samples of bins would take most of the time.
    whole = samples.Sampler.sample

    def small(sampler: Any, workload: Any, policy: Any, trace: Any) -> Any:
        edges = policy.edges.model_copy(update={"sample_size": min(policy.edges.sample_size, 500)})
        return whole(sampler, workload, policy.model_copy(update={"edges": edges}), trace)

    monkeypatch.setattr(samples.Sampler, "sample", small)
    (tmp_path / "trace.csv").write_text(TRACE)
    return tmp_path / "sweep.toml"


@pytest.mark.slow
def test_mutated_tables_are_checked_or_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def mutate(chance: random.Random, tree: Any) -> Any:
        return mutate_tree(chance, chance.choice(tree) if isinstance(tree, tuple) else tree)

    accepted = 0
    for number, wrong in enumerate(mutants(documents(), mutate, 1)):
        tables = wrong if isinstance(wrong, dict) else {"x": wrong}
        file.write_text(text_of(tables))
        try:
            accepted += check(file, number, capsys)
        except BaseException as error:
            error.add_note(f"mutant {number}:\n{file.read_text()[:20_000]}")
            raise
    assert accepted > 0


@pytest.mark.slow
def test_mutated_text_is_checked_or_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def mutate(chance: random.Random, text: Any) -> Any:
        return mutate_bytes(chance, chance.choice(text) if isinstance(text, tuple) else text)

    accepted = 0
    goods = tuple(text_of(document).encode() for document in documents())
    goods += tuple(presets.read(name) for name in ("multi-bin-fig4", "which-hardware"))
    for number, wrong in enumerate(mutants(goods, mutate, 2)):
        file.write_bytes(wrong)
        try:
            accepted += check(file, number, capsys)
        except BaseException as error:
            error.add_note(f"mutant {number}:\n{wrong[:20_000]!r}")
            raise
    assert accepted > 0
