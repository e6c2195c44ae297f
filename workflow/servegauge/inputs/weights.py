"""Bytes of a model's weights as its config.json says they are stored, quantized ones included.

Computed for planning, where the files are not at hand; the bytes of files that are there count instead. A linear layer
of n numbers quantized to b bits takes n x (b + overhead) / 8 bytes; the overhead is the scales and zero points of its
groups. Embedding, norms and what the file leaves out of the quantization keep the model's own data type. A way of
quantizing that is not known here gives None with the reason, so that nothing is skipped for it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from servegauge.inputs.config_json import UnknownShape
from servegauge.inputs.kv_cache import bytes_of
from servegauge.inputs.model_shape import Matrix, ModelShape

# What a layer's matrices are called in published checkpoints, for the lists of what is not quantized
MODULES = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj"),
    "attention_out": ("self_attn.o_proj",),
    "kv_down": ("self_attn.kv_a_proj_with_mqa",),
    "kv_up": ("self_attn.kv_b_proj",),
    "q_down": ("self_attn.q_a_proj",),
    "q_up": ("self_attn.q_b_proj", "self_attn.q_proj"),
    "index_q": ("self_attn.indexer.wq_b",),
    "index_k": ("self_attn.indexer.wk",),
    "linear_in": ("linear_attn.in_proj_qkvz", "linear_attn.in_proj_qkv"),
    "linear_out": ("linear_attn.out_proj",),
    "ffn_up_gate": ("mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj"),
    "ffn_up": ("mlp.up_proj", "mlp.c_fc"),
    "ffn_down": ("mlp.down_proj", "mlp.c_proj"),
    "router": ("mlp.gate", "mlp.router", "block_sparse_moe.gate", "feed_forward.router"),
    "expert_up_gate": (
        "mlp.experts.0.gate_proj", "mlp.experts.0.up_proj", "block_sparse_moe.experts.0.w1",
        "feed_forward.experts.gate_up_proj", "feed_forward.experts.0.gate_proj",
    ),
    "expert_down": (
        "mlp.experts.0.down_proj", "block_sparse_moe.experts.0.w2", "feed_forward.experts.down_proj",
        "feed_forward.experts.0.down_proj",
    ),
    "shared_up_gate": (
        "mlp.shared_experts.gate_proj", "mlp.shared_expert.gate_proj", "feed_forward.shared_expert.gate_proj",
    ),
    "shared_down": (
        "mlp.shared_experts.down_proj", "mlp.shared_expert.down_proj", "feed_forward.shared_expert.down_proj",
    ),
}  # fmt: skip
# Bits a number with the scales of its group, where the method itself fixes them:
#   mxfp4: 4 and an 8-bit exponent for each 32; nvfp4: 4 and an fp8 scale for each 16; nf4, fp4: 4 and a 32-bit scale
#   for each 64 (about 8 bits where the scales are quantized, too)
FIXED = {
    "mxfp4": 4 + 8 / 32, "nvfp4": 4 + 8 / 16, "nf4": 4 + 32 / 64, "fp4": 4 + 32 / 64, "int8": 8.0, "fp8": 8.0,
    "w8a8_int8": 8.0, "w8a8_fp8": 8.0, "blockwise_int8": 8.0,
}  # fmt: skip
GROUPED = (
    "awq",
    "gptq",
    "gptq_marlin",
    "awq_marlin",
    "auto-round",
    "auto_round",
    "intel/auto-round",
    "moe_wna16",
    "marlin",
)


def stored_bytes(shape: ModelShape, quantization: Mapping[str, Any] | None) -> tuple[int, int]:
    """(bytes of all weights, of those in routed experts). UnknownShape where they are unknown, with the reason."""
    if shape.parameters is None:
        raise UnknownShape(shape.unknown_weights or "the weights are not known")
    whole = bytes_of(shape.dtype)
    if not quantization:
        return int(shape.parameters * whole), int((shape.expert_parameters or 0) * whole)
    if str(_inside(quantization, "sparsity_config", "format") or "dense") != "dense":
        raise UnknownShape("the weights are stored sparse, and their bytes are not known here")
    bits, whole = _bits(quantization), max(2.0, whole)  # `dtype: float8` names the quantized ones
    kept = _sorted_out(_kept(quantization))
    # The head is left as it is unless the file says otherwise, and routers always; MXFP4 is for experts alone.
    left = {"router", "index_weights", "linear_convolution"}
    if quantization.get("lm_head") is not True:
        left.add("output_head")
    only_experts = str(quantization.get("quant_method")).lower() == "mxfp4"
    total = experts = 0.0
    for matrix in shape.stored_matrices():
        plain = matrix.name in left or (only_experts and matrix.experts == 1) or _is_kept(matrix, kept, shape)
        size = matrix.weights * (whole if plain else bits / 8)
        total += size
        experts += size if matrix.experts > 1 else 0
    embedding = 0 if shape.tied else shape.vocab * shape.hidden
    return int(total + (embedding + shape.small_weights) * whole), int(experts)


def quantized_as(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The quantization that a config.json describes, of the model or of its language part; None where none."""
    mlx = config.get("quantization")
    if isinstance(mlx, dict):  # MLX writes it a second time as quantization_config, without a method
        return {"quant_method": "mlx", **mlx}
    parts = [config, *(value for key, value in config.items() if key.endswith("_config") and isinstance(value, dict))]
    for part in parts:
        for key in ("quantization_config", "compression_config"):
            if isinstance(part.get(key), dict) and part[key]:
                return part[key]
    return None


def cache_dtype_of(quantization: Mapping[str, Any] | None) -> str | None:
    """Data type of the KV cache that comes with the quantized weights (its scales are stored); None where none does."""
    about = quantization or {}
    scheme: Any = about.get("kv_cache_scheme") or about.get("kv_cache_quant_algo")
    scheme = scheme or _inside(about, "quantization", "kv_cache_quant_algo")
    if isinstance(scheme, Mapping):
        return {"8": "fp8", "4": "nvfp4"}.get(str(scheme.get("num_bits")))
    if isinstance(scheme, str) and scheme.lower() in ("fp8", "int8", "nvfp4"):
        return scheme.lower()
    return "fp8" if about.get("kv_cache_quant_config") or about.get("kv_cache_group") else None  # Quark


def _bits(quantization: Mapping[str, Any]) -> float:
    """Bits for one number of a quantized layer, scales included."""
    method = str(quantization.get("quant_method") or quantization.get("quant_algo") or "").lower()
    if method in ("", "none"):
        if "bits" not in quantization:
            raise UnknownShape("quantization_config names no quant_method")
        method = "gptq"
    if method in GROUPED:
        bits = quantization.get("bits") or quantization.get("w_bit")
        _same_width(quantization, bits)
        return _grouped(bits, quantization)
    if method == "bitsandbytes":
        if quantization.get("load_in_4bit") or quantization.get("_load_in_4bit"):
            kind = quantization.get("bnb_4bit_quant_type", "fp4")
            twice = quantization.get("bnb_4bit_use_double_quant")
            return 4 + 8 / 64 + 32 / (64 * 256) if twice else FIXED.get(kind, FIXED["fp4"])
        return 8.0
    if method in ("fp8", "fbgemm_fp8", "finegrained_fp8"):
        block = quantization.get("weight_block_size")
        return 8 + (32 / (block[0] * block[1]) if isinstance(block, list) and len(block) == 2 else 0)
    if method == "compressed-tensors":
        return _compressed(quantization)
    if method == "quark":
        return _quark(quantization)
    if method.startswith("modelopt"):
        algorithm = str(quantization.get("quant_algo") or _inside(quantization, "quantization", "quant_algo")).lower()
        known = {
            "fp8": 8.0, "fp8_per_channel_per_token": 8.0, "fp8_pb_wo": 8 + 32 / 128**2, "mxfp8": 8 + 8 / 32,
            "nvfp4": FIXED["nvfp4"], "w4a16_nvfp4": FIXED["nvfp4"],
        }  # fmt: skip
        if algorithm in known:
            return known[algorithm]
        raise UnknownShape(f"quantized by modelopt as {algorithm!r}, whose bytes are not known here")
    if method in FIXED:
        return FIXED[method]
    if method in ("exl2", "exl3") and isinstance(quantization.get("bits"), int | float):
        return float(quantization["bits"])
    if method == "hqq" and isinstance(_inside(quantization, "quant_config", "weight_quant_params"), Mapping):
        return _grouped(
            quantization["quant_config"]["weight_quant_params"].get("nbits"),
            quantization["quant_config"]["weight_quant_params"],
        )
    raise UnknownShape(f"quantized by {method!r}, whose bytes are not known here")


def _grouped(bits: Any, about: Mapping[str, Any]) -> float:
    """`bits`, and for each group a 16-bit scale and a zero point as wide as a number."""
    if not isinstance(bits, int | float) or not 1 <= bits <= 16:
        raise UnknownShape(f"quantization_config has no bits that are understood: {bits!r}")
    group = about.get("group_size") or about.get("q_group_size") or 128
    return bits + ((16 + bits) / group if group > 0 else 0)  # -1: one group for a column


def _same_width(quantization: Mapping[str, Any], usual: Any) -> None:
    """UnknownShape where GPTQModel's rules or AutoRound's list give some layers other bits; 16 is not quantized."""
    rules = {**(quantization.get("dynamic") or {}), **(quantization.get("extra_config") or {})}
    for name, rule in rules.items():
        bits = rule.get("bits", quantization.get("bits")) if isinstance(rule, Mapping) else None
        wide = isinstance(bits, int) and bits >= 16
        if not name.startswith("-:") and bits != quantization.get("bits") and not wide:
            raise UnknownShape("quantization_config gives its layers different bits")


def _quark(quantization: Mapping[str, Any]) -> float:
    """AMD Quark: one way for all layers, or unknown."""
    weight = _inside(quantization, "global_quant_config", "weight")
    if quantization.get("layer_quant_config") or quantization.get("layer_type_quant_config"):
        raise UnknownShape("quantization_config gives its layers different bits")
    kind = str(weight.get("dtype")).lower() if isinstance(weight, Mapping) else "nothing"
    known = {"fp8_e4m3": 8.0, "int8": 8.0, "uint4": 4.0, "int4": 4.0, "fp4": 4.0}
    if kind not in known:
        raise UnknownShape(f"quantized by quark as {kind!r}, whose bytes are not known here")
    group = weight.get("group_size")
    scale = 8 if "e8m0" in str(weight.get("scale_format")) else 16
    return known[kind] + (scale / group if isinstance(group, int) and group > 0 else 0)


def _compressed(quantization: Mapping[str, Any]) -> float:
    widths = []
    for group in (quantization.get("config_groups") or {}).values():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(weights, Mapping) or not isinstance(weights.get("num_bits"), int):
            raise UnknownShape("quantization_config.config_groups without the bits of weights")
        size, bits = weights.get("group_size"), weights["num_bits"]
        packed = str(group.get("format") or quantization.get("format") or "")
        scale = 8 if "nvfp4" in packed or "mxfp4" in packed else 16
        widths.append(bits + (scale / size if isinstance(size, int) and size > 0 else 0))
    if not widths:
        raise UnknownShape("quantization_config has no config_groups")
    if len(set(widths)) > 1:
        raise UnknownShape("quantization_config gives its layers different bits")
    return widths[0]


def _inside(data: Mapping[str, Any], *keys: str) -> Any:
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None  # type: ignore[assignment]
    return data


def _kept(quantization: Mapping[str, Any]) -> Iterable[str]:
    """Names and patterns of what is not quantized."""
    lists = (
        *("ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules", "exclude"),
        "llm_int8_skip_modules",
    )
    for key in lists:
        yield from (str(name) for name in quantization.get(key) or ())
    yield from (f"re:{name[2:]}" for name in quantization.get("dynamic") or () if name.startswith("-:"))
    for name, rule in (quantization.get("extra_config") or {}).items():
        if isinstance(rule, Mapping) and isinstance(rule.get("bits"), int) and rule["bits"] >= 16:
            yield str(name)


def _is_kept(matrix: Matrix, kept: tuple[frozenset[str], tuple[re.Pattern[str], ...]], shape: ModelShape) -> bool:
    """Whether all layers of a matrix are left out; one that is left out in some layers counts as quantized."""
    names, patterns = kept
    if not names and not patterns:
        return False
    return any(
        sum(_named(f"model.layers.{layer}.{name}", names, patterns) for layer in range(shape.layers)) >= matrix.layers
        for name in MODULES.get(matrix.name, ())
    )


def _named(module: str, names: frozenset[str], patterns: tuple[re.Pattern[str], ...]) -> bool:
    parts = module.split(".")
    ends = range(1, len(parts) + 1)  # lists have thousands of names: they are looked up, not searched
    return any(".".join(parts[start:end]) in names for end in ends for start in range(end)) or any(
        pattern.match(module) for pattern in patterns
    )


def _sorted_out(kept: Iterable[str]) -> tuple[frozenset[str], tuple[re.Pattern[str], ...]]:
    """Names of modules, and patterns: those with stars, and expressions after `re:` that are some.

    A multimodal model's names have a part `language_model` more than the modules here.
    """
    names, patterns = set(), []
    for given in kept:
        name = re.sub(r"language_model(\\)?\.", "", given).replace("model.model.", "model.")
        if not name.startswith("re:") and "*" not in name:
            names.add(name)
            continue
        text = name[3:] if name.startswith("re:") else rf"(?:.*\.)?(?:{fnmatch.translate(f'{name}*')})"
        with suppress(re.error):
            patterns.append(re.compile(text))
    return frozenset(names), tuple(patterns)
