"""What a model's configuration says: parameters, bytes of weights, of KV cache per token (docs/model.md, section 6)."""

import re
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
    "qwen3-8b": {
        "num_hidden_layers": 36,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 12288,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
        "max_position_embeddings": 40960,
    },
    "qwen3-32b": {
        "num_hidden_layers": 64,
        "hidden_size": 5120,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 25600,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
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

COUNTED: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
    },
    "llama-3.1-70b": {
        "num_hidden_layers": 80,
        "hidden_size": 8192,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "intermediate_size": 28672,
        "vocab_size": 128256,
    },
    "llama-3.1-405b": {
        "num_hidden_layers": 126,
        "hidden_size": 16384,
        "num_attention_heads": 128,
        "num_key_value_heads": 8,
        "intermediate_size": 53248,
        "vocab_size": 128256,
    },
    "qwen3-30b-a3b": {
        "num_hidden_layers": 48,
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 6144,
        "num_experts": 128,
        "moe_intermediate_size": 768,
        "vocab_size": 151936,
    },
    "gpt-oss-20b": {
        "num_hidden_layers": 24,
        "hidden_size": 2880,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 2880,
        "num_local_experts": 32,
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 12,
        "vocab_size": 201088,
        "quantization_config": {"quant_method": "mxfp4"},
    },
    "gpt-oss-120b": {
        "num_hidden_layers": 36,
        "hidden_size": 2880,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 2880,
        "num_local_experts": 128,
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 18,
        "vocab_size": 201088,
        "quantization_config": {"quant_method": "mxfp4"},
    },
    "deepseek-v3": {
        "num_hidden_layers": 61,
        "hidden_size": 7168,
        "num_attention_heads": 128,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "intermediate_size": 18432,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "moe_intermediate_size": 2048,
        "first_k_dense_replace": 3,
        "vocab_size": 129280,
        "quantization_config": {"quant_method": "fp8"},
    },
}
"""What further models are made of, for what they keep in memory; no engine is started from it."""

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
BYTES_OF = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1, "int8": 1}
# Bytes of a weight: those of all matrices but the embeddings, and those of experts alone, four bits and a scale of
# eight for each 32 of them.
_QUANTIZED = {"fp8": 1.0}
_QUANTIZED_EXPERTS = {"fp8": 1.0, "mxfp4": 4.25 / 8}
# What configurations call layers without attention or experts, or with others than these; a 1 of them is every layer.
_OTHER_LAYERS = re.compile(
    r"full_attention_interval|attention_chunk_size|interleave_moe_layer_step|intermediate_size_mlp|moe_num_experts"
    r"|layers_block_type|attn_type_list|(attn_layer|expert_layer|hybrid|linear|mamba|ssm)_\w+"
)


class Latent(NamedTuple):
    """Multi-head latent attention: of a token it keeps one vector of `rank`, and one of `rope` for its position."""

    query_rank: int
    """0: queries are not compressed."""
    rank: int
    rope: int
    key: int
    """Of a head, without its part for positions."""
    value: int


class Experts(NamedTuple):
    """The feed-forward part of a mixture of experts."""

    number: int
    intermediate: int
    shared: int
    """Experts beside them that every token uses."""
    dense_layers: int
    """Layers without experts."""


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
    windowed_layers: int = 0
    """Layers that keep no more than the last `window` tokens of a request."""
    window: int = 0
    experts: Experts | None = None
    latent: Latent | None = None
    quantization: str | None = None

    @property
    def numbers(self) -> str:
        """What weights and cache are kept in."""
        if self.quantization is None:
            return self.dtype
        part = "matrices" if self.quantization in _QUANTIZED else "experts"
        return f"{self.dtype}, {part} in {self.quantization}"

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one token keeps in the KV cache for good: in every layer that has no window.

        Of a key and a value for every KV head, or of the vectors of latent attention.
        """
        return (self.layers - self.windowed_layers) * self._kv_numbers * BYTES_OF[self.dtype]

    @property
    def window_bytes(self) -> int:
        """Bytes that the layers with a window keep of a request that fills it."""
        return self.windowed_layers * self.window * self._kv_numbers * BYTES_OF[self.dtype]

    @property
    def _kv_numbers(self) -> int:
        """Numbers of one token in one layer's cache."""
        return 2 * self.kv_heads * self.head_size if self.latent is None else self.latent.rank + self.latent.rope

    @property
    def parameters(self) -> int:
        """Parameters: gated feed-forward layers, norms of queries and keys as Qwen3 has, no biases."""
        return self._embeddings + self._matrices + self._expert_matrices + self._norms

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights: M_model (docs/model.md, section 6)."""
        width = BYTES_OF[self.dtype]
        matrices = self._matrices * _QUANTIZED.get(self.quantization or "", width)
        experts = self._expert_matrices * _QUANTIZED_EXPERTS.get(self.quantization or "", width)
        return round((self._embeddings + self._norms) * width + matrices + experts)

    @property
    def _embeddings(self) -> int:
        return self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)

    @property
    def _norms(self) -> int:
        of_attention = 2 * self.head_size if self.latent is None else self.latent.query_rank + self.latent.rank
        return self.layers * (2 * self.hidden + of_attention) + self.hidden

    @property
    def _matrices(self) -> int:
        """Weights of attention, of dense feed-forward layers, and of what chooses among experts."""
        each = self.hidden * self.head_size * (2 * self.query_heads + 2 * self.kv_heads)
        if self.latent is not None:
            query_rank, rank, rope, key, value = self.latent
            queries = self.query_heads * (key + rope)
            each = query_rank * (self.hidden + queries) if query_rank else self.hidden * queries
            each += self.hidden * (rank + rope) + self.query_heads * (rank * (key + value) + value * self.hidden)
        dense = self.layers if self.experts is None else self.experts.dense_layers
        routed = 0 if self.experts is None else (self.layers - dense) * self.hidden * self.experts.number
        return self.layers * each + dense * 3 * self.hidden * self.intermediate + routed

    @property
    def _expert_matrices(self) -> int:
        if self.experts is None:
            return 0
        each = 3 * self.hidden * self.experts.intermediate
        return (self.layers - self.experts.dense_layers) * (self.experts.number + self.experts.shared) * each

    def capacity_tokens(self, memory_bytes: float) -> float:
        """Return η, the tokens whose KV cache fits beside the weights into `memory_bytes`, M_max."""
        return (memory_bytes - self.weight_bytes) / self.kv_bytes_per_token


def configuration(name: str, dtype: str = "bfloat16") -> dict[str, Any]:
    """Return the configuration of a shape in `SHAPES` as a `config.json` holds it."""
    return {**_QWEN3, **SHAPES[name], "dtype": dtype, "torch_dtype": dtype}


def read_model(name: str, dtype: str = "bfloat16") -> Model:
    """Read a model's numbers: one of `SHAPES` or `COUNTED`, or a folder with a `config.json`.

    Raises InputError, one line, for a folder without one, for a file that is no configuration or lacks a number, for a
    dtype whose size is not known, and for what `model_of` does not know.
    """
    if dtype not in BYTES_OF:
        raise InputError(f"must be one of {', '.join(BYTES_OF)}", path="`dtype`", value=dtype)
    known = SHAPES | COUNTED
    if name in known:
        return model_of(name, known[name], dtype)
    file = Path(name) / "config.json"
    try:
        text = read_file(file)
    except InputError as error:
        raise error.advised(f"a model is a folder with a config.json, or one of {', '.join(known)}") from None
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

    Raises InputError for a number that is missing, for weights in other numbers than `dtype`, fp8 or, of experts,
    mxfp4, for experts in some layers only, unless these are all but the first, and for layers with neither attention
    to all tokens nor to a window.
    """
    for key, value in found.items():
        if _OTHER_LAYERS.fullmatch(key) and value not in (None, 0, 1, [], {}):
            raise InputError("layers of such a kind are not known", path=key, value=repr(value))

    def number(key: str, default: int | None = None) -> int:
        value = found.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError("must be a whole number >= 1", path=key, value=repr(value))
        return value

    def optional(*keys: str) -> int:
        return next((number(key) for key in keys if found.get(key)), 0)

    heads, hidden, layers = number("num_attention_heads"), number("hidden_size"), number("num_hidden_layers")
    quantized = found.get("quantization_config") or {}
    method = quantized.get("quant_method") if isinstance(quantized, Mapping) else quantized
    if method is not None and method not in _QUANTIZED_EXPERTS:
        known = " or ".join(_QUANTIZED_EXPERTS)
        raise InputError(f"only {known} is known", path="quantization_config.quant_method", value=repr(method))
    latent = None
    if optional("kv_lora_rank"):
        latent = Latent(
            optional("q_lora_rank"),
            number("kv_lora_rank"),
            number("qk_rope_head_dim"),
            number("qk_nope_head_dim"),
            number("v_head_dim"),
        )
    experts = None
    count = optional("num_experts", "num_local_experts", "n_routed_experts")
    if count:
        for key, usual in (("decoder_sparse_step", 1), ("moe_layer_freq", 1), ("mlp_only_layers", [])):
            if found.get(key) not in (None, usual):
                raise InputError(
                    "experts must be in every layer but the first few, first_k_dense_replace",
                    path=key,
                    value=repr(found[key]),
                )
        width = number("moe_intermediate_size", found.get("intermediate_size"))
        experts = Experts(count, width, optional("n_shared_experts"), optional("first_k_dense_replace"))
        if found.get("shared_expert_intermediate_size"):
            experts = experts._replace(shared=number("shared_expert_intermediate_size") // width)
    windowed = _windowed(found, layers, optional("sliding_window"), optional("max_position_embeddings"))
    return Model(
        name,
        layers,
        hidden,
        heads,
        number("num_key_value_heads", heads),
        number("head_dim", max(hidden // heads, 1)),
        number("intermediate_size"),
        number("vocab_size"),
        bool(found.get("tie_word_embeddings", False)),
        dtype,
        windowed,
        number("sliding_window") if windowed else 0,
        experts,
        latent,
        method,
    )


def _windowed(found: Mapping[str, Any], layers: int, window: int, longest: int) -> int:
    """Return how many layers have a window, which must be fewer than all.

    Raises InputError where a model has layers of other kinds, or does not say which have the window.
    """
    kinds, period = found.get("layer_types"), found.get("sliding_window_pattern")
    if isinstance(kinds, list):
        for kind in kinds:
            if kind not in ("full_attention", "sliding_attention"):
                raise InputError("layers of such a kind are not known", path="layer_types", value=repr(kind))
        windowed = kinds.count("sliding_attention")
    elif isinstance(period, int) and period > 0:
        windowed = layers - layers // period
    else:
        is_off = found.get("use_sliding_window") is False or 0 < longest <= window
        windowed = layers if window and not is_off else 0
    if windowed >= layers:
        raise InputError("must be of some layers, as layer_types says", path="sliding_window", value=str(window))
    return windowed
