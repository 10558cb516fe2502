"""Step times out of NVIDIA's tables of operators."""

import json
import socket
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from batchcube.calibration import hardware
from batchcube.calibration.hardware import Deployment, Memory, Tables, gpus, models
from batchcube.calibration.models import read_model
from batchcube.errors import InputError

LLAMA = "meta-llama/Llama-3.1-8B"

pytestmark = pytest.mark.skipif(not hardware.is_installed(), reason="needs the extra hardware")


@pytest.fixture(scope="module")
def llama() -> Tables:
    return Tables(Deployment(LLAMA, "h100_sxm"))


def test_common_gpus_and_models_are_there() -> None:
    assert {"a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm", "l40s", "rtx_pro_6000_server"} <= set(gpus())
    assert all("vllm" in gpus()[gpu] for gpu in ("a100_sxm", "h100_sxm", "b200_sxm"))
    assert {"Qwen/Qwen3-0.6B", "openai/gpt-oss-120b", "deepseek-ai/DeepSeek-V3"} <= set(models())


@pytest.mark.parametrize("name", ["llama-3.1-8b", "Llama-3.1-8B-Instruct", "somebody/Meta-Llama-3.1-8B"])
def test_a_model_is_found_whoever_published_it_and_whatever_it_was_trained_for(name: str, llama: Tables) -> None:
    assert Tables(Deployment(name, "h100_sxm")).model == llama.model == "meta-llama/Meta-Llama-3.1-8B"


def test_a_configuration_of_ones_own_is_read_and_nothing_is_downloaded(
    tmp_path: Path, llama: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object) -> NoReturn:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "socket", offline)
    shape = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 16,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "torch_dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps(shape))
    for model in (tmp_path, tmp_path / "config.json"):
        half = Tables(Deployment(str(model), "h100_sxm"))
        # Half the layers, and the same embeddings.
        assert 0.5 < half.decode_s(8, 512) / llama.decode_s(8, 512) < 0.6
        assert half.name == tmp_path.name


def test_a_step_takes_at_least_as_long_as_its_weights_are_read(llama: Tables) -> None:
    weights = llama.memory(0.92, 1024, 8192, 16).weight_bytes
    assert weights == pytest.approx(16.06e9, rel=0.001)
    # 3.35 TB/s; twice that is no engine's.
    assert weights / 3.35e12 < llama.decode_s(1, 128) < 2 * weights / 3.35e12
    # 989 TFLOP/s at most.
    assert 2 * 8.0e9 * 8192 / 989e12 < llama.prefill_s(8192) < 4 * 8.0e9 * 8192 / 989e12
    four = Tables(Deployment(LLAMA, "h100_sxm", tensor_parallel=4))
    assert llama.decode_s(1, 128) / 4 < four.decode_s(1, 128) < llama.decode_s(1, 128) / 1.5


def test_mixed_steps_are_composed_as_the_package_does(llama: Tables) -> None:
    from aiconfigurator_core.sdk.engine import EngineHandle

    engine = EngineHandle.compile("meta-llama/Meta-Llama-3.1-8B", "h100_sxm", "vllm")
    for tokens, decodes in ((16, 1), (512, 32), (2048, 256)):
        # Its decodes have the prompt of the prefill, and two tokens.
        whole = engine.mixed_step_latency(tokens, decodes, tokens, 2) / 1e3
        assert llama.mixed_s(tokens, 0, decodes, tokens + 2) == pytest.approx(whole, rel=1e-9)


def test_what_is_kept_fits_into_the_part_of_memory(llama: Tables) -> None:
    for part in (0.5, 0.92):
        memory = llama.memory(part, 1024, 8192, 16)
        assert memory.kv_bytes_per_token == 131_072
        assert memory.capacity_tokens % 16 == 0
        held = memory.weight_bytes + memory.capacity_tokens * memory.kv_bytes_per_token
        assert 0.9 * part * llama.gpu_bytes < held + 4e9 < part * llama.gpu_bytes


def test_each_stage_of_a_pipeline_keeps_the_cache_of_its_layers_alone() -> None:
    model = read_model("llama-3.1-70b")

    def memory(stages: int) -> Memory:
        return Tables(Deployment("Llama-3.1-70B", "h200_sxm", tensor_parallel=2, pipeline_parallel=stages)).memory(
            0.92, 1024, 8192, 16
        )

    one, two, three = (memory(stages) for stages in (1, 2, 3))
    assert one.kv_bytes_per_token == model.kv_bytes_per_token // 2
    # 80 layers: 40 in each of two stages, 27 in the fullest of three.
    assert two.kv_bytes_per_token == model.kv_bytes_per_token // 2 * 40 // 80
    assert three.kv_bytes_per_token == model.kv_bytes_per_token // 2 * 27 // 80
    assert three.weight_bytes == pytest.approx(model.weight_bytes / 2 * 27 / 80, rel=1e-3)
    # What weights leave free is for the cache, that of a stage as large for each of its layers' tokens.
    for stages in (two, three):
        freed = one.weight_bytes - stages.weight_bytes
        room = one.capacity_tokens * one.kv_bytes_per_token + freed
        assert stages.capacity_tokens * stages.kv_bytes_per_token == pytest.approx(room, rel=0.02)


def test_steps_that_cannot_occur_are_not_asked_for(llama: Tables) -> None:
    steps = llama.steps(most_running=100, token_budget=1000, capacity_tokens=20_000)
    assert (steps.decodes.max(), steps.prefill_tokens.max()) == (100, 1000)
    assert steps.kv_tokens.max() <= 20_000
    mixed = steps.only("mixed")
    assert (steps.prefill_tokens + steps.decodes)[mixed].max() <= 1000
    assert sum(steps.only(kind).sum() for kind in ("decode", "prefill", "mixed")) == steps.seconds.size
    beyond = llama.steps(most_running=5000, token_budget=10**6, capacity_tokens=10**7)
    assert (beyond.decodes.max(), beyond.prefill_tokens.max()) == (1024, 16384)
    law = steps.law()
    np.testing.assert_array_equal(law.requests, [0, 1, 2, 4, 8, 16, 32, 64, 96, 100])
    assert law.tokens[-1] == 1000


def test_the_law_follows_the_tables(llama: Tables) -> None:
    steps = llama.steps(1024, 8192, 446_096)
    error = steps.law().seconds(*steps[:4]) / steps.seconds - 1
    for kind in ("decode", "prefill", "mixed"):
        assert np.sqrt(np.mean(error[steps.only(kind)] ** 2)) < 0.021
    assert np.abs(error).max() < 0.08


def test_experts_are_split_or_spread() -> None:
    split = Tables(Deployment("Qwen3-30B-A3B", "h100_sxm", tensor_parallel=2))
    spread = Tables(Deployment("Qwen3-30B-A3B", "h100_sxm", tensor_parallel=2, expert_parallel=True))
    replicas = Tables(Deployment("Qwen3-30B-A3B", "h100_sxm", data_parallel=2, expert_parallel=True))
    times = [tables.decode_s(8, 512) for tables in (split, spread, replicas)]
    assert len(set(times)) == 3
    assert 0 < split.sources()["decode"] <= 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"model": "Llama-3.1-9B"},
            r"^`model` Llama-3.1-9B: is none of the \d+ models .* did you mean meta-llama/",
        ),
        ({"gpu": "h100"}, r"^`gpu` h100: must be one of a100_sxm, .*; did you mean h100_sxm\?$"),
        ({"engine": "vlm"}, r"^`engine` vlm: must be one of vllm, sglang, trtllm; did you mean vllm"),
        ({"quantization": "fp4"}, r"^`quantization` fp4: must be one of bfloat16, .*; did you mean "),
        ({"kv_cache_dtype": "fp4"}, r"^`kv_cache_dtype` fp4: must be one of bfloat16, int8, fp8; did you mean fp8\?$"),
        (
            {"tensor_parallel": 3},
            r"^meta-llama/Llama-3.1-8B on h100_sxm with vllm: the tables refuse it: num_heads 32 ",
        ),
        ({"expert_parallel": True}, r"^`expert_parallel`: Meta-Llama-3.1-8B has no experts"),
        ({"data_parallel": 2}, r"^`data_parallel`: Meta-Llama-3.1-8B has no experts"),
    ],
)
def test_what_is_not_known_is_one_line(given: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        Tables(Deployment(LLAMA, "h100_sxm")._replace(**given))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_what_nobody_measured_and_what_does_not_fit_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^gpt-oss-20b on a100_sxm with vllm: the tables refuse it: .* data missing"):
        Tables(Deployment("gpt-oss-20b", "a100_sxm")).decode_s(1, 128)
    with pytest.raises(InputError, match=r"no KV budget.*; `tensor_parallel` spreads a model over more GPUs"):
        Tables(Deployment("Llama-3.1-70B", "h100_sxm")).memory(0.92, 1024, 8192, 16)
