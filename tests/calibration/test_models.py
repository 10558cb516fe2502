"""What a model's configuration says of its size."""

import json
from pathlib import Path
from typing import Any

import pytest

from batchcube.calibration.models import COUNTED, SHAPES, configuration, read_model, sizes_of

LLAMA = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}


def folder(path: Path, content: Any) -> str:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (path / "config.json").write_bytes(text)
    return str(path)


def test_qwen3_has_the_size_that_it_is_published_with() -> None:
    model = read_model("qwen3-0.6b")
    assert model.parameters == 596_049_920
    assert model.kv_bytes_per_token == 114_688
    assert model.weight_bytes == 2 * 596_049_920
    assert model.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 4), ("float16", 2), ("bfloat16", 2), ("fp8", 1), ("float64", 8)]
)
def test_bytes_follow_the_dtype(dtype: str, size: int) -> None:
    model = read_model("qwen3-0.6b", dtype)
    assert model.kv_bytes_per_token == 57_344 * size
    assert model.weight_bytes == 596_049_920 * size


def test_what_fits_beside_the_weights_is_the_capacity() -> None:
    model = read_model("qwen3-0.6b")
    assert model.capacity_tokens(model.weight_bytes + 1000 * 114_688) == 1000
    assert model.capacity_tokens(model.weight_bytes - 114_688) == -1


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_written_as_a_configuration_reads_the_same(tmp_path: Path, name: str) -> None:
    assert read_model(folder(tmp_path, configuration(name)))[1:] == read_model(name)[1:]


# What their makers or their checkpoints state: parameters, and bytes of KV cache per token.
PUBLISHED = {
    "qwen3-8b": (8_190_735_360, 147_456),
    "qwen3-32b": (32_762_123_264, 262_144),
    "qwen3-30b-a3b": (30_532_122_624, 98_304),
    "llama-3.1-8b": (8_030_261_248, 131_072),
    "llama-3.1-70b": (70_553_706_496, 327_680),
    "llama-3.1-405b": (405_853_388_800, 516_096),
    "gpt-oss-20b": (20_914_757_184, 24_576),
    "gpt-oss-120b": (116_829_156_672, 36_864),
    "deepseek-v3": (671_026_419_200, 70_272),
}


@pytest.mark.parametrize("name", COUNTED)
def test_common_models_have_the_sizes_that_they_are_published_with(tmp_path: Path, name: str) -> None:
    parameters, token = PUBLISHED[name]
    model = read_model(name)
    # Biases are left out, and norms of heads counted where there are none.
    assert model.parameters == pytest.approx(parameters, rel=5e-4)
    assert model.kv_bytes_per_token == token
    assert read_model(folder(tmp_path, COUNTED[name]))[1:] == model[1:]


@pytest.mark.parametrize("name", ["qwen3-8b", "qwen3-32b", "qwen3-30b-a3b"])
def test_without_biases_not_a_parameter_is_missed(name: str) -> None:
    assert read_model(name).parameters == PUBLISHED[name][0]


def test_quantized_weights_are_as_large_as_their_checkpoints() -> None:
    # Safetensors of the hub: 65.3 GB (gpt-oss-120b), 13.8 GB (gpt-oss-20b), 688.6 GB (DeepSeek-V3 with 14 B of MTP).
    assert read_model("gpt-oss-120b").weight_bytes == pytest.approx(65.2e9, rel=0.01)
    assert read_model("gpt-oss-20b").weight_bytes == pytest.approx(13.8e9, rel=0.01)
    assert read_model("deepseek-v3").weight_bytes == pytest.approx(673e9, rel=0.01)
    assert read_model("qwen3-30b-a3b").weight_bytes == 2 * 30_532_122_624


def test_a_window_keeps_a_fixed_number_of_tokens() -> None:
    model = read_model("gpt-oss-20b")
    assert (model.windowed_layers, model.window) == (12, 128)
    assert model.window_bytes == 12 * 128 * 2 * 8 * 64 * 2
    assert read_model("llama-3.1-8b").window_bytes == 0


def test_a_folder_is_read_with_the_usual_defaults(tmp_path: Path) -> None:
    model = read_model(folder(tmp_path, LLAMA))
    assert model.name == tmp_path.name
    assert model.head_size == 4096 // 32
    assert not model.tied_embeddings
    assert model.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2
    old = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"} | {"head_dim": None}
    assert read_model(folder(tmp_path, old)).kv_heads == 32
    assert read_model(folder(tmp_path, old)).head_size == 128


def test_tied_embeddings_are_counted_once(tmp_path: Path) -> None:
    apart = read_model(folder(tmp_path, LLAMA))
    tied = read_model(folder(tmp_path, LLAMA | {"tie_word_embeddings": True}))
    assert apart.parameters - tied.parameters == 128256 * 4096


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "config.json: is not JSON"),
        (b"\xff\xfe", "config.json: is not JSON"),
        ([1, 2], "config.json: is no table of settings"),
        ({}, "config.json: num_attention_heads = None: must be a whole number >= 1"),
        (LLAMA | {"vocab_size": "many"}, "config.json: vocab_size = 'many': must be a whole number >= 1"),
        (LLAMA | {"hidden_size": 4096.5}, "config.json: hidden_size = 4096.5: must be"),
        (LLAMA | {"num_hidden_layers": 0}, "config.json: num_hidden_layers = 0: must be"),
        (LLAMA | {"num_key_value_heads": True}, "config.json: num_key_value_heads = True: must be"),
    ],
)
def test_a_bad_configuration_is_one_clear_line(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is what is tested
        read_model(folder(tmp_path, content))
    assert str(caught.value).startswith(str(tmp_path / says))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("decoder_sparse_step", 2, "experts must be in every layer but the first few"),
        ("mlp_only_layers", [3], "experts must be in every layer but the first few"),
        ("quantization_config", {"quant_method": "awq"}, "only fp8 or mxfp4 is known"),
        ("kv_lora_rank", 512, "must be a whole number >= 1"),
        ("num_experts", "many", "must be a whole number >= 1"),
    ],
)
def test_what_follows_other_formulas_is_refused_by_its_key(tmp_path: Path, key: str, value: Any, says: str) -> None:
    other = LLAMA | {"num_experts": 8, key: value}
    with pytest.raises(ValueError, match=rf"config\.json: .* = .*: {says}"):
        read_model(folder(tmp_path, other))
    assert sizes_of("other", other, "bfloat16") is None


@pytest.mark.parametrize(
    ("key", "value", "usual"),
    [
        ("full_attention_interval", 4, 1),
        ("linear_num_value_heads", 32, None),
        ("attn_layer_period", 8, 1),
        ("expert_layer_offset", 2, 1),
        ("mamba_d_state", 16, 0),
        ("hybrid_override_pattern", "M-M*", None),
        ("interleave_moe_layer_step", 2, 1),
        ("attention_chunk_size", 8192, None),
        ("moe_num_experts", 64, 0),
        ("layer_types", ["full_attention", "conv"] * 16, ["full_attention"] * 32),
        ("layer_types", ["sliding_attention"] * 32, None),
        ("sliding_window", 4096, None),
    ],
)
def test_layers_that_are_not_understood_are_refused(tmp_path: Path, key: str, value: Any, usual: Any) -> None:
    assert read_model(folder(tmp_path, LLAMA | {key: usual})).kv_bytes_per_token == 131_072
    known = "layers of such a kind are not known|must be of some layers, as layer_types says"
    with pytest.raises(ValueError, match=rf"config\.json: ({key}|sliding_window) = .*: ({known})$"):
        read_model(folder(tmp_path, LLAMA | {key: value}))


def test_layers_with_a_window_may_be_told_by_a_pattern(tmp_path: Path) -> None:
    # Gemma 3 1B: every sixth of 26 layers keeps all tokens.
    gemma = {
        "num_hidden_layers": 26,
        "hidden_size": 1152,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "intermediate_size": 6912,
        "vocab_size": 262144,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
    }
    model = read_model(folder(tmp_path, gemma))
    assert (model.windowed_layers, model.kv_bytes_per_token) == (22, 4 * 2 * 256 * 2)
    assert model.window_bytes == 22 * 512 * 2 * 256 * 2


@pytest.mark.parametrize(
    "said",
    [
        {"sliding_window": 4096, "use_sliding_window": False},
        {"sliding_window": 262144, "max_position_embeddings": 131072},
    ],
)
def test_a_window_that_is_off_or_longer_than_any_request_is_none(tmp_path: Path, said: dict[str, Any]) -> None:
    assert read_model(folder(tmp_path, LLAMA | said)) == read_model(folder(tmp_path, LLAMA))


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts", "n_routed_experts", "kv_lora_rank"])
def test_configurations_of_dense_models_may_have_it_as_nothing(tmp_path: Path, key: str) -> None:
    for nothing in (None, 0):
        assert read_model(folder(tmp_path, LLAMA | {key: nothing})) == read_model(folder(tmp_path, LLAMA))
    assert sizes_of(tmp_path.name, LLAMA, "float16") == read_model(folder(tmp_path, LLAMA), "float16")


def test_what_is_no_model_and_no_dtype_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"config\.json: cannot be read: No such file .*or one of qwen3-0\.6b, qwen3-8b, "
    ):
        read_model(str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="`dtype` int3: must be one of float64, float32, bfloat16"):
        read_model("qwen3-0.6b", "int3")
