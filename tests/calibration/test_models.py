"""What a model's configuration says of its size."""

import json
from pathlib import Path
from typing import Any

import pytest

from batchcube.calibration.models import SHAPES, configuration, read_model, sizes_of

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


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts", "n_routed_experts", "kv_lora_rank"])
def test_what_follows_other_formulas_is_refused_by_its_key(tmp_path: Path, key: str) -> None:
    other = LLAMA | {key: 8}
    with pytest.raises(ValueError, match=rf"config\.json: {key} = 8: only dense models with a key and a value "):
        read_model(folder(tmp_path, other))
    assert sizes_of("other", other, "bfloat16") is None
    # Configurations of dense models may have it too, as nothing.
    for nothing in (None, 0):
        assert read_model(folder(tmp_path, LLAMA | {key: nothing})) == read_model(folder(tmp_path, LLAMA))
    assert sizes_of(tmp_path.name, LLAMA, "float16") == read_model(folder(tmp_path, LLAMA), "float16")


def test_what_is_no_model_and_no_dtype_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"config\.json: cannot be read: No such file .*or one of qwen3-0\.6b, qwen3-tiny"
    ):
        read_model(str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="dtype = 'int3': must be one of float64, float32, bfloat16"):
        read_model("qwen3-0.6b", "int3")
