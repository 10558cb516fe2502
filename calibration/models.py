"""What a model's configuration says: parameters, bytes of weights, of KV cache per token (docs/model.md, section 6)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from batchcube.documents import parse_json, read_file
from batchcube.errors import InputError, found_in

# Shapes only: with random weights a model computes nonsense in the same time.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": {
        "num_hidden_layers": 28,
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "max_position_embeddings": 40960,
    },
    "qwen3-tiny": {
        "num_hidden_layers": 2,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 512,
        "vocab_size": 4096,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
    },
}
"""Configurations that need no file; `qwen3-tiny` is nobody's model, it makes a quick test of an engine."""

_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "use_cache": True,
    "eos_token_id": 1,
    "bos_token_id": 0,
}
# What only mixtures of experts and multi-head latent attention have.
_OTHER_FORMULAS = ("num_experts", "num_local_experts", "n_routed_experts", "kv_lora_rank")
BYTES_OF = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1, "int8": 1}


class Model(NamedTuple):
    """The numbers of a decoder-only transformer that decide what it keeps in memory."""

    name: str
    layers: int
    hidden: int
    query_heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied_embeddings: bool
    dtype: str

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one token keeps in the KV cache: a key and a value for every layer and KV head."""
        return 2 * self.layers * self.kv_heads * self.head_size * BYTES_OF[self.dtype]

    @property
    def parameters(self) -> int:
        """Parameters of a dense decoder with gated feed-forward layers and norms of queries and keys (Qwen3)."""
        attention = self.hidden * self.head_size * (2 * self.query_heads + 2 * self.kv_heads)
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden + 2 * self.head_size
        embeddings = self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)
        return self.layers * layer + embeddings + self.hidden

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights: M_model (docs/model.md, section 6)."""
        return self.parameters * BYTES_OF[self.dtype]

    def capacity_tokens(self, memory_bytes: float) -> float:
        """Return η, the tokens whose KV cache fits beside the weights into `memory_bytes`, M_max."""
        return (memory_bytes - self.weight_bytes) / self.kv_bytes_per_token


def configuration(name: str, dtype: str = "bfloat16") -> dict[str, Any]:
    """Return the configuration of a shape in `SHAPES` as a `config.json` holds it."""
    return {**_QWEN3, **SHAPES[name], "dtype": dtype, "torch_dtype": dtype}


def read_model(name: str, dtype: str = "bfloat16") -> Model:
    """Read a model's numbers: one of `SHAPES`, or a folder with a `config.json`.

    Raises InputError, one line, for a folder without one, for a file that is no configuration or lacks a number, for a
    dtype whose size is not known, and for what `model_of` does not know.
    """
    if dtype not in BYTES_OF:
        raise InputError(f"must be one of {', '.join(BYTES_OF)}", path="dtype", value=repr(dtype))
    if name in SHAPES:
        return model_of(name, configuration(name, dtype), dtype)
    file = Path(name) / "config.json"
    try:
        text = read_file(file)
    except InputError as error:
        raise error.advised(f"a model is a folder with a config.json, or one of {', '.join(SHAPES)}") from None
    with found_in(file=file):
        content = parse_json(text)
        if not isinstance(content, dict):
            raise InputError("is no table of settings")
        return model_of(Path(name).name, content, dtype)


def sizes_of(name: str, found: Mapping[str, Any], dtype: str) -> Model | None:
    """Return the numbers in a configuration, None where `model_of` refuses it: an engine may run it nevertheless."""
    try:
        return model_of(name, found, dtype)
    except InputError:
        return None


def model_of(name: str, found: Mapping[str, Any], dtype: str) -> Model:
    """Return the numbers in a configuration.

    Raises InputError for a number that is missing, and for mixtures of experts and latent attention, whose weights and
    KV cache follow other formulas than those of `Model`.
    """
    for key in _OTHER_FORMULAS:
        if found.get(key):
            raise InputError(
                "only dense models with a key and a value for each KV head are known",
                path=key,
                value=repr(found[key]),
            )

    def number(key: str, default: int | None = None) -> int:
        value = found.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError("must be a whole number >= 1", path=key, value=repr(value))
        return value

    heads = number("num_attention_heads")
    hidden = number("hidden_size")
    return Model(
        name,
        number("num_hidden_layers"),
        hidden,
        heads,
        number("num_key_value_heads", heads),
        number("head_dim", max(hidden // heads, 1)),
        number("intermediate_size"),
        number("vocab_size"),
        bool(found.get("tie_word_embeddings", False)),
        dtype,
    )
