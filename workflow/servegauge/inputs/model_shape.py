"""A transformer's shape from its config.json: what it weighs, what it caches, which matrices a token goes through.

The one reading of config.json in the project: the plan asks whether a model fits, the probes ask for its GEMM shapes,
the roofline for operations and bytes. Formulas: docs/roofline.md. Read for decoders with gated MLPs and grouped-query
or latent attention, dense or mixture of experts (families.py); others give their cache (kv_cache.py), and None for the
rest with the reason. Of a multimodal model it is the language part: images have towers of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from servegauge.base.files import parse_json
from servegauge.inputs.class_defaults import DEFAULTS
from servegauge.inputs.config_json import Config, UnknownShape
from servegauge.inputs.families import FAMILIES, Family, tied_by_class
from servegauge.inputs.kv_cache import (
    CacheGroup,
    bytes_of,
    cache_groups,
    cache_value_bytes,
    head_size,
    kv_heads,
    layer_count,
)

T = TypeVar("T")

__all__ = ["CacheGroup", "Matrix", "ModelShape", "UnknownShape", "bytes_of", "from_config", "read_shape"]


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
    gated: bool = True
    cache: tuple[CacheGroup, ...] = ()
    small_weights: int = 0  # norms, biases and gates: in the parameters, in no matrix product worth counting
    attention_layers: int = 0  # the others have the matrices `linear` in place of attention
    linear: tuple[Matrix, ...] = ()
    gated_attention: bool = False
    index_heads: int = 0  # of sparse attention, in `index_layers`
    index_dim: int = 0
    index_layers: int = 0
    unknown_weights: str | None = None  # why weights and operations cannot be counted
    unknown_operations: str | None = None  # why operations cannot, where weights can
    unknown_cache: str | None = None  # why the cache is unknown; `cache` is empty then
    whole: bool = True  # false: the language part of a larger model

    @property
    def known(self) -> bool:
        """True where weights, operations and cache can be counted."""
        return not (self.unknown_weights or self.unknown_operations or self.unknown_cache)

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
        if self.unknown_weights or self.unknown_operations:
            raise UnknownShape(self.unknown_weights or self.unknown_operations or "")
        return self.stored_matrices(tp)

    def stored_matrices(self, tp: int = 1) -> list[Matrix]:
        """As `matrices`, also of a model whose operations are not only these."""
        if self.unknown_weights:
            raise UnknownShape(self.unknown_weights)
        for name, size in (("attention heads", self.heads), ("FFN width", self.ffn), ("vocabulary", self.vocab)):
            if size % tp:
                raise UnknownShape(f"{size} ({name}) cannot be split over {tp} GPUs")
        if self.expert_ffn % tp or self.shared_ffn % tp:
            raise UnknownShape(f"an expert's width of {self.expert_ffn} cannot be split over {tp} GPUs")
        heads = self.heads // tp
        found = self._latent_attention(heads) if self.latent else self._grouped_attention(heads, tp)
        if self.dense_layers:
            wide = 2 * self.ffn if self.gated else self.ffn
            found.append(Matrix("ffn_up_gate" if self.gated else "ffn_up", self.hidden, wide // tp, self.dense_layers))
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
        kv_heads, queries = max(1, self.kv_heads // tp), 2 * heads if self.gated_attention else heads
        if self.kv_heads % tp and tp % self.kv_heads:
            raise UnknownShape(f"{self.kv_heads} KV heads cannot be split over {tp} GPUs")
        return [
            Matrix("qkv", self.hidden, (queries + 2 * kv_heads) * self.head_dim, self.attention_layers),
            Matrix("attention_out", heads * self.head_dim, self.hidden, self.attention_layers),
            *self.linear,
        ]

    def _latent_attention(self, heads: int) -> list[Matrix]:
        queries = heads * (self.nope_dim + self.rope_dim)
        found = [Matrix("kv_down", self.hidden, self.kv_lora_rank + self.rope_dim, self.layers)]
        if self.q_lora_rank:
            found.append(Matrix("q_down", self.hidden, self.q_lora_rank, self.layers))
        found.append(Matrix("q_up", self.q_lora_rank or self.hidden, queries, self.layers))
        found.append(Matrix("kv_up", self.kv_lora_rank, heads * (self.nope_dim + self.value_dim), self.layers))
        found.append(Matrix("attention_out", heads * self.value_dim, self.hidden, self.layers))
        if self.index_layers:
            queries, layers = self.index_heads * self.index_dim, self.index_layers
            found.append(Matrix("index_q", self.q_lora_rank or self.hidden, queries, layers))
            found.append(Matrix("index_k", self.hidden, self.index_dim, layers))
            found.append(Matrix("index_weights", self.hidden, self.index_heads, layers))
        return found

    @cached_property
    def parameters(self) -> int | None:
        """All weights; None where they are not known (`unknown_weights`)."""
        if self.unknown_weights:
            return None
        matrices = sum(matrix.weights for matrix in self.stored_matrices())
        embedding = 0 if self.tied else self.vocab * self.hidden  # tied: the output head is the embedding
        return matrices + embedding + self.small_weights

    @cached_property
    def expert_parameters(self) -> int | None:
        """Weights in routed experts; None where they are not known."""
        if self.unknown_weights:
            return None
        return sum(matrix.weights for matrix in self.stored_matrices() if matrix.experts > 1)

    def kv_bytes(self, tokens: float = 1, dtype: str | None = None) -> float | None:
        """Bytes of the cache of one sequence of `tokens`; `dtype` of the cache, else the model's (16 bit for fp8).

        None where the cache is not known (`unknown_cache`).
        """
        if self.unknown_cache:
            return None
        each = cache_value_bytes(dtype) if dtype else max(2.0, bytes_of(self.dtype))
        return sum(
            group.layers * group.values * min(tokens, group.window or tokens) * (group.value_bytes or each)
            for group in self.cache
        )


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in `folder`. OSError where it has no config.json, UnknownShape where that is odd."""
    return from_config(parse_json((folder / "config.json").read_text(encoding="utf-8")))


def from_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a config.json's contents describe; UnknownShape where it lacks what every model has.

    What follows from a part that is absent or not understood is None with the reason: `unknown_weights`,
    `unknown_cache`.
    """
    read = Config(config, DEFAULTS)
    layers, hidden = layer_count(read), read.need("hidden")
    cache, unknown_cache = _told(lambda: cache_groups(read))
    heads = read.size("heads") or 0
    sizes, unknown_weights = _told(lambda: _sizes(read, layers, cache))
    dtype = read.text.get("dtype") or read.text.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype")
    tied = read.either("tie_word_embeddings")
    found = {
        "family": read.family,
        "layers": layers,
        "hidden": hidden,
        "heads": heads,
        "kv_heads": (_told(lambda: kv_heads(read))[0] or 0) if heads else 0,
        "head_dim": head_size(read) if heads else 0,
        "ffn": read.size("ffn") or 0,
        "vocab": read.size("vocab") or 0,
        "dtype": dtype if isinstance(dtype, str) else None,
        "tied": tied_by_class(read.family) if tied is None else bool(tied),
        "kv_lora_rank": _number(read.get("kv_lora_rank")),
        "rope_dim": _number(read.get("qk_rope_head_dim")) if read.get("kv_lora_rank") else 0,
        "cache": cache or (),
        "unknown_cache": unknown_cache,
        "unknown_weights": unknown_weights,
        "whole": not read.nested and "vision_config" not in config and "audio_config" not in config,
        **(sizes or {"experts": _told(lambda: _experts(read))[0]}),
    }
    return ModelShape(**found)


def _told(read: Callable[[], T]) -> tuple[T | None, str | None]:
    """(what a part of the file tells, None), or (None, why not): files hold all kinds of values under known names."""
    try:
        return read(), None
    except UnknownShape as error:
        return None, str(error)
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        return None, f"a value of another kind than known: {error}"


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _sizes(read: Config, layers: int, cache: tuple[CacheGroup, ...] | None) -> dict[str, Any]:
    """What weights and operations need beyond the sizes that every model has; UnknownShape where it is not known."""
    family = FAMILIES.get(read.family)
    if family is None:
        raise UnknownShape(f"the layers of {read.family!r} are not known here")
    if read.varies or "block_configs" in read or read.get("is_encoder_decoder") or read.get("num_kv_shared_layers"):
        raise UnknownShape(f"the layers of this {read.family!r} are not all alike")
    ffn = read.size("ffn") or read.size("expert_ffn") or read.need("ffn")  # none where all layers have experts
    vocab, experts = read.need("vocab"), _experts(read) or 0
    latent = bool(read.get("kv_lora_rank"))
    for key in ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim") if latent else ():
        if not isinstance(read.get(key), int):
            raise UnknownShape(f"config.json has no {key!r}")
    if (latent and read.get("attention_bias")) or (experts and family.mlp_bias_key and read.get(family.mlp_bias_key)):
        raise UnknownShape("biases of latent attention or of experts, which are not described here")
    expert_ffn = (read.size("expert_ffn") or ffn) if experts else 0
    shared = expert_ffn * (read.size("experts_shared") or 0) + (read.get("shared_expert_intermediate_size") or 0)
    if read.family == "llama4_text":  # the widths of its dense layers and of its experts have names of their own
        shared, ffn = expert_ffn, read.get("intermediate_size_mlp", ffn)
    shape: dict[str, Any] = {
        "ffn": ffn,
        "vocab": vocab,
        "experts": experts,
        "experts_per_token": (read.size("experts_used") or 1) if experts else 0,
        "expert_ffn": expert_ffn,
        "shared_ffn": shared if experts else 0,
        "sparse_layers": _sparse_layers(read, layers) if experts else 0,
        "q_lora_rank": (read.get("q_lora_rank") or 0) if latent else 0,
        "nope_dim": read.get("qk_nope_head_dim") if latent else 0,
        "value_dim": read.get("v_head_dim") if latent else 0,
        "gated": family.gated,
        "gated_attention": family.gated_attention,
    }
    shape["attention_layers"] = layers
    if family.operations:
        if cache is None:
            raise UnknownShape("which layers have attention, or an index of their own, is not known")
        index = read.get("index_head_dim") if latent else 0
        shape |= {
            "attention_layers": cache[0].layers,
            "index_heads": read.get("index_n_heads") if index else 0,
            "index_dim": index or 0,
            "index_layers": cache[-1].layers if index else 0,
        }
    shape["small_weights"] = _small_weights(read, family, layers, shape)
    strange = [name for name, value in shape.items() if not isinstance(value, int) or value < 0]
    if strange:
        raise UnknownShape(f"config.json's sizes give no {strange[0]}")
    if family.operations:
        shape["unknown_operations"] = f"operations of {read.family!r} are not known here: {family.operations}"
    shape["linear"] = _linear(read, layers - shape["attention_layers"])
    return shape


def _linear(read: Config, layers: int) -> tuple[Matrix, ...]:
    """Matrices of layers with linear attention (Gated DeltaNet: Qwen3-Next, Qwen3.5)."""
    if not layers:
        return ()
    keys = read.get("linear_num_key_heads") * read.get("linear_key_head_dim")
    heads, hidden = read.get("linear_num_value_heads"), read.need("hidden")
    values = heads * read.get("linear_value_head_dim")
    return (
        Matrix("linear_in", hidden, 2 * keys + 2 * values + 2 * heads, layers),
        Matrix("linear_out", values, hidden, layers),
        Matrix("linear_convolution", 2 * keys + values, read.get("linear_conv_kernel_dim"), layers),
    )


def _experts(read: Config) -> int | None:
    """Routed experts of a sparse layer; 0 for a dense model, None where the file names experts in another way."""
    found = read.size("experts")
    if found is None and any("expert" in key or key.startswith("moe") for key in read.text if read.text[key]):
        return None
    inner = read.get("ffn_config")
    if isinstance(inner, Mapping) and inner.get("moe_num_experts"):
        return inner["moe_num_experts"]
    return found or 0


def _sparse_layers(read: Config, layers: int) -> int:
    """Layers with experts."""
    chosen = read.get("moe_layers")
    if isinstance(chosen, list):
        return len(chosen)
    for key, word in (("mlp_layer_types", "sparse"), ("is_moe_layer", True)):
        if isinstance(read.get(key), list):
            return sum(kind == word for kind in read.get(key)[:layers])
    dense_first = read.size("dense_first") or 0
    step = read.get("decoder_sparse_step") or read.get("interleave_moe_layer_step") or 1
    never = set(read.get("mlp_only_layers") or ())
    return sum(layer >= dense_first and (layer + 1) % step == 0 and layer not in never for layer in range(layers))


def _small_weights(read: Config, family: Family, layers: int, sizes: Mapping[str, Any]) -> int:
    """Norms, biases, gates of shared experts and routers' corrections, over all layers."""
    hidden, heads, kv, size = read.need("hidden"), read.need("heads"), kv_heads(read), head_size(read)
    norm = hidden * family.norm_values
    layer, attention, sparse, attending = family.norms * norm, 0, 0, sizes["attention_layers"]
    if read.get("kv_lora_rank"):
        attention += read.get("kv_lora_rank") + sizes["q_lora_rank"]
    elif family.head_norms and (family.head_norms_key is None or read.get(family.head_norms_key)):
        attention += 2 * size if family.head_norms == "head" else (heads + kv) * size
    elif read.family in ("cohere", "cohere2") and read.get("use_qk_norm"):
        attention += (heads + kv) * size
    bias = _biased(read, family)
    attention += (heads + 2 * kv) * size if "qkv" in bias else 0
    attention += hidden if bias.endswith("o") else 0
    if family.sinks:
        attention += heads
    dense = layers - sizes["sparse_layers"]
    if read.get(family.mlp_bias_key, family.mlp_bias) if family.mlp_bias_key else family.mlp_bias:
        layer += (sizes["ffn"] * (2 if family.gated else 1) + hidden) if dense else 0
    if sizes["experts"]:
        sparse += hidden if read.get("shared_expert_intermediate_size") else 0
        sparse += sizes["experts"] if family.router_correction else 0
        if family.expert_bias:
            sparse += sizes["experts"] * (2 * sizes["expert_ffn"] + hidden + 1)
    layer += family.activation_values
    norm += sizes["vocab"] if read.get("lm_head_bias") else 0
    found = layers * layer + attending * attention + sizes["sparse_layers"] * sparse + norm
    if attending < layers:  # decays and a norm of linear attention
        found += (layers - attending) * (2 * read.get("linear_num_value_heads") + read.get("linear_value_head_dim"))
    return found + sizes.get("index_layers", 0) * 2 * sizes.get("index_dim", 0)


def _biased(read: Config, family: Family) -> str:
    """Which projections of the attention have a bias: `qkvo`, `qkv`, or an empty text."""
    if family.bias_key is None or family.bias_key not in read:
        found = family.bias
    else:
        found = family.bias_of if read.get(family.bias_key) else ""
    if read.get({"seed_oss": "attention_out_bias", "internlm3": "bias"}.get(read.family, "")):
        found += "o"
    return found
