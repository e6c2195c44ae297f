"""A transformer's shape from its config.json: what it weighs, what it caches, which matrices a token goes through.

The one reading of config.json in the project: the plan asks whether a model fits, the probes ask for its GEMM shapes,
the roofline for operations and bytes. Formulas: docs/roofline.md. Read for decoders with gated MLPs and grouped-query
or latent attention, dense or mixture of experts (FAMILIES); other families give their cache, and null for the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

# model_type of config.json whose layers are the ones described here
FAMILIES = (
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3", "phi3",
    "gemma", "gemma2", "gemma3_text", "olmo2", "granite",
)  # fmt: skip
DTYPE_BYTES = {
    "float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "float8": 1.0, "float8_e4m3fn": 1.0, "fp8": 1.0, "fp32": 4.0,
    "fp16": 2.0, "bf16": 2.0,
}  # fmt: skip


class UnknownShape(ValueError):
    """The config lacks what is asked for; the text says what."""


@dataclass(frozen=True)
class CacheGroup:
    """Layers with the same KV cache: `values` numbers per token and layer, kept for `window` tokens (null: all)."""

    layers: int
    values: int
    window: int | None = None


@dataclass(frozen=True)
class Matrix:
    """One weight matrix of a layer: a token's row of `k` numbers becomes one of `n`. On one of `tp` GPUs.

    `layers` have it. Of `experts` such matrices a token uses `used` (both 1 for a dense layer).
    """

    name: str
    k: int
    n: int
    layers: int
    experts: int = 1
    used: int = 1

    @property
    def weights(self) -> int:
        """Numbers in all layers and experts."""
        return self.k * self.n * self.layers * self.experts

    @property
    def weights_used(self) -> int:
        """Numbers that one token is multiplied with."""
        return self.k * self.n * self.layers * self.used


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder, in numbers (not bytes) unless the name says so."""

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    dtype: str | None
    tied: bool = False
    experts: int = 0
    experts_per_token: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    sparse_layers: int = 0
    kv_lora_rank: int = 0
    q_lora_rank: int = 0
    rope_dim: int = 0
    nope_dim: int = 0
    value_dim: int = 0
    cache: tuple[CacheGroup, ...] = ()
    small_weights: int = 0  # norms, biases and gates: in the parameters, in no matrix product worth counting

    @property
    def known(self) -> bool:
        """True where layers are built as FAMILIES are, so that weights and operations can be counted."""
        return self.family in FAMILIES

    @property
    def latent(self) -> bool:
        """True with multi-head latent attention (MLA): one compressed vector per token and layer is cached."""
        return self.kv_lora_rank > 0

    @property
    def dense_layers(self) -> int:
        return self.layers - self.sparse_layers

    def matrices(self, tp: int = 1) -> list[Matrix]:
        """Every matrix product of a forward pass as one of `tp` GPUs sees it; the last one is the output head.

        Columns of the first and rows of the second of each pair are split (Megatron's layout); KV heads are repeated
        where there are fewer than GPUs; the latent projections are not split. UnknownShape where it does not divide.
        """
        self._need_known()
        for name, size in (("attention heads", self.heads), ("FFN width", self.ffn), ("vocabulary", self.vocab)):
            if size % tp:
                raise UnknownShape(f"{size} ({name}) cannot be split over {tp} GPUs")
        if self.expert_ffn % tp or self.shared_ffn % tp:
            raise UnknownShape(f"an expert's width of {self.expert_ffn} cannot be split over {tp} GPUs")
        heads = self.heads // tp
        found = self._latent_attention(heads) if self.latent else self._grouped_attention(heads, tp)
        if self.dense_layers:
            found.append(Matrix("ffn_up_gate", self.hidden, 2 * self.ffn // tp, self.dense_layers))
            found.append(Matrix("ffn_down", self.ffn // tp, self.hidden, self.dense_layers))
        if self.sparse_layers:
            many, used, width = self.experts, self.experts_per_token, self.expert_ffn // tp
            found.append(Matrix("router", self.hidden, self.experts, self.sparse_layers))
            found.append(Matrix("expert_up_gate", self.hidden, 2 * width, self.sparse_layers, many, used))
            found.append(Matrix("expert_down", width, self.hidden, self.sparse_layers, many, used))
            if self.shared_ffn:
                found.append(Matrix("shared_up_gate", self.hidden, 2 * self.shared_ffn // tp, self.sparse_layers))
                found.append(Matrix("shared_down", self.shared_ffn // tp, self.hidden, self.sparse_layers))
        return [*found, Matrix("output_head", self.hidden, self.vocab // tp, 1)]

    def _grouped_attention(self, heads: int, tp: int) -> list[Matrix]:
        kv_heads = max(1, self.kv_heads // tp)
        if self.kv_heads % tp and tp % self.kv_heads:
            raise UnknownShape(f"{self.kv_heads} KV heads cannot be split over {tp} GPUs")
        return [
            Matrix("qkv", self.hidden, (heads + 2 * kv_heads) * self.head_dim, self.layers),
            Matrix("attention_out", heads * self.head_dim, self.hidden, self.layers),
        ]

    def _latent_attention(self, heads: int) -> list[Matrix]:
        queries = heads * (self.nope_dim + self.rope_dim)
        found = [Matrix("kv_down", self.hidden, self.kv_lora_rank + self.rope_dim, self.layers)]
        if self.q_lora_rank:
            found.append(Matrix("q_down", self.hidden, self.q_lora_rank, self.layers))
        found.append(Matrix("q_up", self.q_lora_rank or self.hidden, queries, self.layers))
        found.append(Matrix("kv_up", self.kv_lora_rank, heads * (self.nope_dim + self.value_dim), self.layers))
        found.append(Matrix("attention_out", heads * self.value_dim, self.hidden, self.layers))
        return found

    @cached_property
    def parameters(self) -> int | None:
        """All weights; null for families that are not known."""
        if not self.known:
            return None
        matrices = sum(matrix.weights for matrix in self.matrices())
        embedding = 0 if self.tied else self.vocab * self.hidden  # tied: the output head is the embedding
        return matrices + embedding + self.small_weights

    @cached_property
    def expert_parameters(self) -> int | None:
        """Weights in routed experts; null for families that are not known."""
        if not self.known:
            return None
        return sum(matrix.weights for matrix in self.matrices() if matrix.experts > 1)

    @cached_property
    def active_parameters(self) -> int | None:
        """Weights that one token uses, the embedding's table included as model cards do; null if not known."""
        if self.parameters is None or self.expert_parameters is None:
            return None
        used = sum(matrix.weights_used for matrix in self.matrices() if matrix.experts > 1)
        return self.parameters - self.expert_parameters + used

    def kv_values(self, tokens: int = 1) -> int:
        """Numbers cached for one sequence of `tokens`, all layers: 2 x KV heads x head size each, or MLA's latent."""
        return sum(group.layers * group.values * min(tokens, group.window or tokens) for group in self.cache)

    def kv_bytes(self, tokens: int = 1, dtype: str | None = None) -> float:
        """Bytes of the cache of one sequence of `tokens`; `dtype` of the cache, else the model's (16 bit for fp8)."""
        return self.kv_values(tokens) * (cache_value_bytes(dtype) if dtype else max(2.0, bytes_of(self.dtype)))

    def _need_known(self) -> None:
        if not self.known:
            raise UnknownShape(f"the layers of {self.family!r} are not known here; known: {', '.join(FAMILIES)}")


def bytes_of(dtype: str | None) -> float:
    """Bytes of one number of a data type as config.json or a study spells it; 16 bit where it is not said."""
    return DTYPE_BYTES.get((dtype or "bfloat16").removeprefix("torch."), 2.0)


def cache_value_bytes(dtype: str) -> float:
    """Bytes of one number in a KV cache, whose names are the engines' (fp8_e5m2, q8_0, ...)."""
    # GGML's block formats hold 32 values and their scales.
    blocks = {"q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32, "q4_0": 18 / 32}
    plain = {"f32": 4.0, "f16": 2.0, "int8": 1.0, "int4": 0.5}
    return 1.0 if dtype.startswith("fp8") else {**DTYPE_BYTES, **plain, **blocks}.get(dtype, 2.0)


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in `folder`. OSError where it has no config.json, UnknownShape where that is odd."""
    return from_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def from_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a config.json's contents describe; UnknownShape where it lacks what every transformer has."""
    text = config.get("text_config", config)  # of a multimodal model, the language part
    try:
        return _from_text(text, config)
    except KeyError as error:
        raise UnknownShape(f"config.json has no {error.args[0]!r}") from error


def _from_text(text: Mapping[str, Any], config: Mapping[str, Any]) -> ModelShape:
    family, layers, heads = text.get("model_type", ""), text["num_hidden_layers"], text["num_attention_heads"]
    experts = text.get("num_local_experts") or text.get("num_experts") or text.get("n_routed_experts") or 0
    expert_ffn = (text.get("moe_intermediate_size") or text["intermediate_size"]) if experts else 0
    shared = expert_ffn * (text.get("n_shared_experts") or 0) + (text.get("shared_expert_intermediate_size") or 0)
    latent = text.get("kv_lora_rank") or 0
    shape = {
        "family": family,
        "layers": layers,
        "hidden": text["hidden_size"],
        "heads": heads,
        "kv_heads": text.get("num_key_value_heads") or heads,
        "head_dim": text.get("head_dim") or text["hidden_size"] // heads,
        "ffn": text["intermediate_size"],
        "vocab": text["vocab_size"],
        "dtype": text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype"),
        "tied": bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        "experts": experts,
        "experts_per_token": (text.get("num_experts_per_tok") or 1) if experts else 0,
        "expert_ffn": expert_ffn,
        "shared_ffn": shared if experts else 0,
        "sparse_layers": _sparse_layers(text, layers) if experts else 0,
        "kv_lora_rank": latent,
        "q_lora_rank": (text.get("q_lora_rank") or 0) if latent else 0,
        "rope_dim": text["qk_rope_head_dim"] if latent else 0,
        "nope_dim": text["qk_nope_head_dim"] if latent else 0,
        "value_dim": text["v_head_dim"] if latent else 0,
    }
    plain = ModelShape(**shape)
    return ModelShape(**shape, cache=_cache(text, plain), small_weights=_small_weights(text, plain))


def _cache(text: Mapping[str, Any], shape: ModelShape) -> tuple[CacheGroup, ...]:
    values = shape.kv_lora_rank + shape.rope_dim if shape.latent else 2 * shape.kv_heads * shape.head_dim
    kinds = text.get("layer_types") or ["full_attention"] * shape.layers
    full = sum(kind in ("full_attention", "attention") for kind in kinds)
    sliding = sum(kind == "sliding_attention" for kind in kinds)
    if "layer_types" not in text and text.get("sliding_window") and text.get("use_sliding_window", True):
        pattern = text.get("sliding_window_pattern")
        full = shape.layers // pattern if pattern else 0
        sliding = shape.layers - full
    groups = (CacheGroup(full, values), CacheGroup(sliding, values, text.get("sliding_window")))
    return tuple(group for group in groups if group.layers)


def _sparse_layers(text: Mapping[str, Any], layers: int) -> int:
    dense_first, step = text.get("first_k_dense_replace", 0), text.get("decoder_sparse_step") or 1
    never = set(text.get("mlp_only_layers") or ())
    return sum(layer >= dense_first and (layer + 1) % step == 0 and layer not in never for layer in range(layers))


def _small_weights(text: Mapping[str, Any], shape: ModelShape) -> int:
    """Norms, biases, gates of shared experts and routers' corrections, over all layers."""
    family, size = shape.family, shape.head_dim
    layer = (4 if family in ("gemma2", "gemma3_text") else 2) * shape.hidden
    if shape.latent:
        layer += shape.kv_lora_rank + shape.q_lora_rank
    elif family in ("qwen3", "qwen3_moe", "gemma3_text"):
        layer += 2 * size  # norms of queries and keys
    elif family in ("qwen2", "qwen2_moe"):
        layer += size * (shape.heads + 2 * shape.kv_heads)  # biases
    sparse = shape.hidden if text.get("shared_expert_intermediate_size") else 0
    sparse += shape.experts if family == "deepseek_v3" else 0
    return shape.layers * layer + shape.sparse_layers * sparse + shape.hidden
