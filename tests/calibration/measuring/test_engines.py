"""Real engines on a tiny shape: what is served is what was asked for. Skipped without their packages."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from batchcube.calibration.measuring.bench import Cell, CellTooLargeError, Engine, Grid, measure, warm_up
from batchcube.calibration.measuring.clock import PROCESS, WALL
from batchcube.calibration.measuring.transformers_engine import TransformersEngine, fill
from batchcube.calibration.measuring.vllm_engine import GPU_BUDGET, VllmEngine, prepare
from batchcube.calibration.models import SHAPES, configuration, read_model

TINY = "qwen3-tiny"
GRID = Grid((1, 3), (4, 16), (2, 5), 2, 1)

# What the engines' own packages warn of is their business.
pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning"),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_no_weights_of_its_own(shape: str) -> None:
    for build in (lambda: TransformersEngine(shape), lambda: VllmEngine(shape, GRID.cells())):
        with pytest.raises(ValueError, match=f"`model` {shape}: is a shape without weights: add `dummy_weights`"):
            build()


def test_engines_refuse_numbers_that_they_do_not_compute_with() -> None:
    for build in (
        lambda: TransformersEngine(TINY, dummy_weights=True, dtype="fp8"),
        lambda: VllmEngine(TINY, GRID.cells(), dummy_weights=True, dtype="fp8"),
    ):
        with pytest.raises(ValueError, match=r"^`dtype` fp8: must be one of float32, bfloat16, float16$"):
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


def test_a_cache_of_fixed_size_goes_on_where_the_growing_one_was(transformers_engine: TransformersEngine) -> None:
    """A GPU decodes over the one what it prefilled into the other."""
    import torch

    engine, prompts = transformers_engine, np.random.default_rng(5).integers(2, 4096, (3, 7))
    with torch.inference_mode():
        cache = engine._growing(config=engine._model.config)
        tokens = engine._step(torch.from_numpy(prompts), cache)
        fixed = engine._fixed(config=engine._model.config, max_cache_len=12)
        fill(fixed, cache)
        engine._step(tokens + 1, fixed)
        fixed.reset()
        fill(fixed, cache)
        over_fixed = over_growing = tokens
        for _ in range(4):
            over_fixed, over_growing = engine._step(over_fixed, fixed), engine._step(over_growing, cache)
            assert over_fixed.tolist() == over_growing.tolist()


def test_transformers_reads_a_folder_and_refuses_what_is_none(
    transformers_engine: TransformersEngine, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(configuration(TINY, "float32")))
    engine = TransformersEngine(str(tmp_path), dummy_weights=True, dtype="float32", threads=2)
    assert engine._sizes is not None
    assert transformers_engine._sizes is not None
    assert engine._sizes[1:] == transformers_engine._sizes[1:]
    assert engine.clock == WALL
    assert engine.run(Cell(2, 4, 3)).step_s.shape == (3,)
    assert TransformersEngine(TINY, dummy_weights=True, wall_clock=True).clock == WALL
    with pytest.raises(ValueError, match=f"`model` {tmp_path / 'gone'}: ") as caught:
        TransformersEngine(str(tmp_path / "gone"))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="`device` tpu: must be cpu or cuda"):
        TransformersEngine(TINY, dummy_weights=True, device="tpu")


def test_transformers_measures_a_mixture_of_experts_whose_size_it_does_not_know(tmp_path: Path) -> None:
    for package in ("torch", "transformers"):
        pytest.importorskip(package)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "decoder_sparse_step": 2}
    mixture = configuration(TINY, "float32") | experts | {"model_type": "qwen3_moe"}
    (tmp_path / "config.json").write_text(json.dumps(mixture | {"architectures": ["Qwen3MoeForCausalLM"]}))
    engine = TransformersEngine(str(tmp_path), dummy_weights=True, dtype="float32")
    said = engine.describe()
    assert (said["model"], said["dtype"]) == (str(tmp_path), "float32")
    assert not {"kv_bytes_per_token", "model_bytes"} & set(said)
    assert engine.refusal(Cell(2, 4, 3)) == ""
    assert engine.run(Cell(2, 4, 3)).step_s.shape == (3,)


# What vLLM is asked for, without it.


class Stand:
    """Stands for torch and vLLM: with or without a GPU, and with the options that vLLM was given."""

    def __init__(self, config: dict[str, Any], *, gpu: bool) -> None:
        self.threads: list[int] = []
        self.options: dict[str, Any] = {}
        properties = SimpleNamespace(name="Big GPU", total_memory=8 * 10**10)
        cuda = SimpleNamespace(is_available=lambda: gpu, get_device_properties=lambda number: properties)
        self.torch = SimpleNamespace(cuda=cuda, set_num_threads=self.threads.append, version=SimpleNamespace(cuda="13"))
        settings = SimpleNamespace(
            model_config=SimpleNamespace(
                hf_config=SimpleNamespace(to_dict=lambda: config), get_vocab_size=lambda: config["vocab_size"]
            ),
            cache_config=SimpleNamespace(block_size=16, num_gpu_blocks=10**6),
        )
        self.llm = SimpleNamespace(llm_engine=SimpleNamespace(vllm_config=settings))
        self.vllm = SimpleNamespace(LLM=self.load, SamplingParams=None)

    def load(self, **options: Any) -> Any:
        self.options = options
        return self.llm


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a stand in place of torch and vLLM; what they would read of the environment is forgotten."""

    def put(config: dict[str, Any] | None = None, *, gpu: bool = False) -> Stand:
        made = Stand(configuration(TINY) if config is None else config, gpu=gpu)
        monkeypatch.setitem(sys.modules, "torch", made.torch)
        monkeypatch.setitem(sys.modules, "vllm", made.vllm)
        return made

    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.0")
    return put


@pytest.mark.parametrize("already", [None, "7"])
def test_threads_are_those_asked_for_whatever_is_set(stand: Any, already: str | None) -> None:
    stood = stand()
    os.environ.pop("OMP_NUM_THREADS", None)
    if already is not None:
        os.environ["OMP_NUM_THREADS"] = already
    assert prepare(3) is False
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert stood.threads == [3]


def test_the_hub_is_left_alone_only_when_nothing_is_on_it(stand: Any, tmp_path: Path) -> None:
    stand()
    os.environ.pop("HF_HUB_OFFLINE", None)
    VllmEngine("somebody/a-model", GRID.cells(), dummy_weights=True)
    assert "HF_HUB_OFFLINE" not in os.environ
    for model in (TINY, str(tmp_path)):
        VllmEngine(model, GRID.cells(), dummy_weights=True)
        assert os.environ.pop("HF_HUB_OFFLINE") == "1"
    VllmEngine(str(tmp_path), GRID.cells())
    assert "HF_HUB_OFFLINE" not in os.environ


def test_on_a_gpu_a_step_holds_so_many_tokens_at_most(stand: Any) -> None:
    cells = [Cell(b, p, 16) for b in (1, 128, 256) for p in (1024, 4096)]
    stood = stand(gpu=True)
    engine = VllmEngine(TINY, cells, dummy_weights=True)
    assert stood.options["max_num_batched_tokens"] == GPU_BUDGET == 131072
    assert engine.refusal(Cell(128, 1024, 16)) == ""
    assert engine.refusal(Cell(128, 4096, 16)) == "a prefill of 524288 tokens, a step of the engine holds 131072"
    # A single prompt is let in however long it is, and a CPU makes no buffers ahead.
    VllmEngine(TINY, [Cell(1, 200_000, 16)], dummy_weights=True)
    assert stood.options["max_num_batched_tokens"] == 200_016
    stood = stand()
    VllmEngine(TINY, cells, dummy_weights=True)
    assert stood.options["max_num_batched_tokens"] == 256 * 4096


def test_the_size_of_the_cache_is_asked_for_on_a_cpu_only(stand: Any) -> None:
    stand(gpu=True)
    with pytest.raises(ValueError, match=r"^`kv_cache_gib` 4: is for a CPU; on a GPU the cache takes what is free$"):
        VllmEngine(TINY, GRID.cells(), dummy_weights=True, kv_cache_gib=4)
    stand()
    VllmEngine(TINY, GRID.cells(), dummy_weights=True, kv_cache_gib=4)
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "4"


@pytest.mark.parametrize("other", [{"num_experts": 8, "decoder_sparse_step": 2}, {"kv_lora_rank": 8}])
def test_vllm_measures_models_whose_size_is_not_known(stand: Any, other: dict[str, Any]) -> None:
    stand()
    dense = VllmEngine("somebody/dense", GRID.cells()).describe()
    stand(configuration(TINY) | other)
    said = VllmEngine("somebody/other", GRID.cells()).describe()
    assert set(dense) - set(said) == {"kv_bytes_per_token", "model_bytes"}
    assert set(said) <= set(dense)
    # One of 10^6 blocks is never used.
    assert (said["model"], said["dtype"], said["kv_capacity_tokens"]) == ("somebody/other", "bfloat16", 16 * 999_999)


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
    "refusals": [engine.refusal(Cell(1, 1, room - 1)), engine.refusal(Cell(1, 1, room))],
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
