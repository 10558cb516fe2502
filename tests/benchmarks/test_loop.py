"""The command that closes the loop: what it asks of the loop, and what it prints."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import loop
from closing_loop.continuous import GRID, KV_BLOCKS, LONGEST, MOST_RUNNING, TOKEN_BUDGET
from closing_loop.static import Comparison
from helpers.servers import Server


def test_the_loop_is_closed_and_its_errors_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}

    def make(model: str, **options: Any) -> SimpleNamespace:
        asked["model"], asked["wall_clock"] = model, options["wall_clock"]
        return SimpleNamespace(vocabulary=500, generate=lambda prompts, tokens: [0.1] * tokens)

    def close(engine: Any, generate: Any, vocabulary: int, to: Path, **options: Any) -> pd.DataFrame:
        asked.update(options, vocabulary=vocabulary)
        assert generate(None, 3) == engine.generate(None, 3)
        assert to.is_dir()
        rows = [
            (run, "steady", mode, "linear", "latency_mean_s", 2.0, 2.0 * (1 + error), error)
            for mode, errors in (("multi_bin_only", (0.01, -0.03)), ("dynamic_only", (0.1, 0.2)))
            for run, error in enumerate(errors)
        ]
        return pd.DataFrame(rows, columns=[*Comparison._fields, "error"])

    monkeypatch.setattr("batchcube.calibration.measuring.transformers_engine.TransformersEngine", make)
    monkeypatch.setattr("closing_loop.static.close_loop", close)
    folder = tmp_path / "new" / "loop"
    loop.main(["-o", str(folder), "--runs", "2", "--requests", "40", "--seed", "4", "-q"])
    assert asked == {
        "model": "qwen3-tiny",
        "wall_clock": True,
        "vocabulary": 500,
        "requests": 40,
        "runs": 2,
        "seed": 4,
        "quiet": True,
    }
    out = capsys.readouterr().out
    rows = [" ".join(line.replace("│", " ").split()) for line in out.splitlines() if "latency_mean_s" in line]
    assert rows == [
        "steady multi_bin_only linear latency_mean_s 2 1.98 -1.0 % +1.0, -3.0 %",
        "steady dynamic_only linear latency_mean_s 2 2.3 +15.0 % +10.0, +20.0 %",
    ]
    assert out.endswith("new/loop: measurement.nc, coefficients.json, requests.csv, comparison.csv\n")


def test_the_loop_of_a_server_writes_all_that_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}

    def make(model: str, cells: Any, **options: Any) -> Server:
        asked.update(options, model=model, cells=list(cells))
        return Server()

    monkeypatch.setattr("batchcube.calibration.measuring.vllm_engine.VllmEngine", make)
    loop.main(["--engine", "vllm", "-o", str(tmp_path), "--requests", "60", "--seed", "3", "-q"])
    assert asked["model"] == "qwen3-tiny"
    assert asked["cells"] == list(GRID.cells())
    assert asked["limits"] == (MOST_RUNNING, TOKEN_BUDGET, KV_BLOCKS, LONGEST)
    assert asked["wall_clock"]
    assert {file.name for file in tmp_path.iterdir()} >= set(loop.FILES["vllm"])
    assert "tpot" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("engine", "there"),
    [("transformers", "requests.csv"), ("transformers", "measurement.nc"), ("vllm", "log.jsonl")],
)
def test_the_loop_writes_over_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], engine: str, there: str
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(loop, "static_loop", lambda _: begun.append("transformers"))
    monkeypatch.setattr(loop, "vllm_loop", lambda _: begun.append("vllm"))
    command = ["--engine", engine, "-o", str(tmp_path)]
    (tmp_path / "notes.txt").touch()
    loop.main(command)
    (tmp_path / there).touch()
    with pytest.raises(SystemExit, match="2"):
        loop.main(command)
    assert f"{there}: is there already; choose another output, or --overwrite" in capsys.readouterr().err
    assert begun == [engine]
    loop.main([*command, "--overwrite"])
    assert begun == [engine] * 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-o", "FILE"], "File exists"),
        (["--engine", "x"], "--engine: invalid choice: 'x'"),
        (["--requests", "39"], "--requests 39: must be 40 at least"),
        (["--runs", "0"], "--runs 0: must be 1 at least"),
    ],
)
def test_a_mistake_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    (tmp_path / "FILE").touch()
    with pytest.raises(SystemExit, match="2"):
        loop.main([str(tmp_path / a) if a == "FILE" else a for a in arguments])
    assert told in capsys.readouterr().err
