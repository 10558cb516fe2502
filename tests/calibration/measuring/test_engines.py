"""Real engines on a tiny shape: what is served is what was asked for. Skipped without their packages."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchcube.calibration.measuring.bench import Cell, CellTooLargeError, Engine, Grid, measure, warm_up
from batchcube.calibration.measuring.clock import PROCESS, WALL
from batchcube.calibration.measuring.transformers_engine import TransformersEngine
from batchcube.calibration.measuring.vllm_engine import VllmEngine
from batchcube.calibration.models import SHAPES, configuration, read_model

TINY = "qwen3-tiny"
GRID = Grid((1, 3), (4, 16), (2, 5), 2, 1)

# What the engines' own packages warn of is their business.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_no_weights_of_its_own(shape: str) -> None:
    for build in (lambda: TransformersEngine(shape), lambda: VllmEngine(shape, GRID.cells())):
        with pytest.raises(ValueError, match=f"--model {shape}: is a shape without weights: add --dummy-weights"):
            build()


def check_samples(engine: Engine) -> None:
    """Serve a small grid: every token is a step of its own, and takes time."""
    assert warm_up(engine, GRID.cells()) == {}
    found = list(measure(engine, GRID, GRID.order()))
    assert len(found) == 16
    for number, _, sample in found:
        assert not isinstance(sample, CellTooLargeError)
        assert sample.step_s.shape == (GRID.cells()[number].output_tokens,)
        assert (sample.step_s >= 0).all()
        assert sample.wall_s > 0


def check_description(said: dict[str, Any], engine: str, clock: str) -> None:
    model = read_model(TINY, "float32")
    assert (said["engine"], said["model"], said["weights"]) == (engine, TINY, "random")
    assert (said["dtype"], said["device"], said["threads"], said["clock"]) == ("float32", "cpu", 1, clock)
    assert said["kv_bytes_per_token"] == model.kv_bytes_per_token
    assert said["model_bytes"] == model.weight_bytes
    assert "torch " in said["engine_versions"]
    assert all(isinstance(value, str | int | float) for value in said.values())


# Transformers


@pytest.fixture(scope="module")
def transformers_engine() -> TransformersEngine:
    for package in ("torch", "transformers"):
        pytest.importorskip(package)
    return TransformersEngine(TINY, dummy_weights=True, dtype="float32")


def test_transformers_times_every_step(transformers_engine: TransformersEngine) -> None:
    check_samples(transformers_engine)
    check_description(transformers_engine.describe(), "transformers", PROCESS)


def test_transformers_has_as_many_positions_as_its_model(transformers_engine: TransformersEngine) -> None:
    assert transformers_engine.refusal(Cell(1, 8000, 192)) == ""
    assert transformers_engine.refusal(Cell(1, 8000, 193)) == "8193 tokens, the model has 8192 positions"


def test_transformers_decodes_what_its_own_generate_does(transformers_engine: TransformersEngine) -> None:
    import torch

    steps: list[list[int]] = []
    one_step = transformers_engine._step

    def spy(tokens: Any, cache: Any) -> Any:
        found = one_step(tokens, cache)
        steps.append(found.ravel().tolist())
        return found

    prompts = np.random.default_rng(3).integers(2, 4096, (3, 7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers_engine, "_step", spy)
        step_s = transformers_engine.generate(prompts, 6)
    assert len(step_s) == len(steps) == 6
    whole = transformers_engine._model.generate(
        torch.from_numpy(prompts),
        attention_mask=torch.ones(3, 7, dtype=torch.long),
        do_sample=False,
        max_new_tokens=6,
        min_new_tokens=6,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert np.array(steps).T.tolist() == whole[:, 7:].tolist()


def test_transformers_reads_a_folder_and_refuses_what_is_none(
    transformers_engine: TransformersEngine, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(configuration(TINY, "float32")))
    engine = TransformersEngine(str(tmp_path), dummy_weights=True, dtype="float32", threads=2)
    assert engine.model[1:] == transformers_engine.model[1:]
    assert engine.clock == WALL
    assert engine.run(Cell(2, 4, 3)).step_s.shape == (3,)
    assert TransformersEngine(TINY, dummy_weights=True, wall_clock=True).clock == WALL
    with pytest.raises(ValueError, match=f"--model {tmp_path / 'gone'}: ") as caught:
        TransformersEngine(str(tmp_path / "gone"))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="--device tpu: must be cpu or cuda"):
        TransformersEngine(TINY, dummy_weights=True, device="tpu")


# vLLM, in a process of its own: it leaves threads and distributed groups behind, and reads its settings once.


VLLM = """
import json, os, sys
from batchcube.calibration.measuring.bench import Cell, CellTooLargeError, Grid, measure, warm_up
from batchcube.calibration.measuring.vllm_engine import VllmEngine

grid = Grid((1, 3), (4, 16), (2, 5), 2, 1)
engine = VllmEngine("qwen3-tiny", grid.cells(), dummy_weights=True, dtype="float32", kv_cache_gib=1)
warm = warm_up(engine, grid.cells())
samples = [(number, sample.step_s.tolist(), sample.wall_s) for number, _, sample in measure(engine, grid, grid.order())]
room = engine.capacity_tokens
said = {
    "description": engine.describe(),
    "warm": warm,
    "samples": samples,
    "room": room,
    "refusals": [engine.refusal(Cell(1, room - 1, 1)), engine.refusal(Cell(1, room, 1))],
    "unfinished": engine._llm.llm_engine.has_unfinished_requests(),
}
print("SAID " + json.dumps(said), flush=True)
os._exit(0)
"""


def test_vllm_times_every_step() -> None:
    pytest.importorskip("vllm")
    import torch

    if torch.cuda.is_available():
        pytest.skip("tests vLLM on a CPU only")
    done = subprocess.run([sys.executable, "-c", VLLM], capture_output=True, text=True, timeout=600, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("SAID ")]
    assert len(lines) == 1, done.stderr[-2000:]
    said = json.loads(lines[0].removeprefix("SAID "))
    check_description(said["description"], "vllm", PROCESS)
    assert said["description"]["kv_capacity_tokens"] == said["room"] > 0
    assert said["warm"] == {}
    assert len(said["samples"]) == 16
    for number, step_s, wall_s in said["samples"]:
        assert len(step_s) == GRID.cells()[number].output_tokens
        assert min(step_s) >= 0
        assert wall_s > 0
    fits, exceeds = said["refusals"]
    assert fits == ""
    assert exceeds == f"{said['room'] + 1} tokens of KV cache, the engine has room for {said['room']}"
    assert not said["unfinished"]
