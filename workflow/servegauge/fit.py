"""Does a model fit? Weights and KV cache from the model's own config.json, by a formula that a person can follow.

    weights   = bytes of the tensors (safetensors headers or index, or the GGUF file's size where the framework loads
                that), else parameters x bytes of the data type
    KV cache  = sum over attention layers of  values x min(tokens, window) x bytes of the cache's data type
                values = 2 x KV heads x head size (keys and values), or with latent attention (MLA) the size of the
                latent and of the rotary part, once; window only for sliding attention; layers without a growing
                cache (linear attention, state space) count nothing
    per GPU   = weights / (tp x pp), experts / (ep x pp) where experts are spread
                + KV cache / pp / min(tp, KV heads); a latent cannot be split by tp

The question answered is the weakest one: do the weights and the cache of *one* request of `context_tokens` fit into the
share of memory that the server may take? Activations and buffers come on top, so "fits" is no promise, but "does not
fit" is one. What cannot be told is null with the reason, and never a reason to skip.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servegauge.errors import UserError
from servegauge.frameworks import framework
from servegauge.models import gguf_file, source_folder
from servegauge.spec import Launch

BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "float8": 1.0, "float8_e4m3fn": 1.0, "fp8": 1.0}
MEMORY_FRACTION = 0.9  # of a GPU that a server takes, where neither the study nor config.yaml says
# Per value of the cache; the block formats of GGML hold 32 values and their scales.
KV_BYTES = {"fp32": 4.0, "f32": 4.0, "fp16": 2.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32,
            "q5_0": 22 / 32, "q4_1": 20 / 32, "q4_0": 18 / 32, "int8": 1.0, "int4": 0.5}  # fmt: skip
# Families whose layers are the ones of `_parameters`: gated MLPs, grouped-query or latent attention.
GATED = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3",
         "phi3", "gemma", "gemma2", "gemma3_text", "olmo2", "granite")  # fmt: skip

Shape = Mapping[str, Any]


def shape(root: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """What the planner knows of a model's size; each value is null where it cannot be told, `reason` says why.

    `parameters`, `expert_parameters` (the part of them in routed experts), `weight_bytes`, `gguf_bytes`, `dtype`,
    `kv` (a list of {layers, values, window}: numbers per token and layer), `kv_heads` (null for a latent cache),
    `experts` (0 for a dense model), `how` (where the figures come from), `reason`.
    """
    known: dict[str, Any] = dict.fromkeys(
        ("parameters", "expert_parameters", "weight_bytes", "gguf_bytes", "kv", "kv_heads", "experts", "how", "reason")
    )
    known["dtype"] = model.get("dtype")
    try:
        folder = root / source_folder(model)
        gguf = root / gguf_file(model) if model.get("gguf") else None
    except UserError as error:  # a variable in the path that is not set here
        return {**known, "reason": str(error)}
    if gguf is not None and gguf.is_file():
        known["gguf_bytes"] = gguf.stat().st_size
    config = folder / "config.json"
    try:
        known.update(of_config(json.loads(config.read_text(encoding="utf-8")), model.get("dtype")))
        known["how"] = "config.json"
    except OSError:
        known["reason"] = f"{_short(config, root)} is not on this machine"
    except (ValueError, TypeError, KeyError) as error:
        known["reason"] = f"{_short(config, root)} is not understood ({error!r})"
    stored = tensor_bytes(folder)
    if stored is not None:
        known["weight_bytes"], known["how"] = stored, "config.json, safetensors"
    if "shape" in model and known["kv"] is None:
        given = model["shape"]
        known["parameters"] = given.get("parameters")
        if "kv_values_per_token" in given:
            known["kv"] = [{"layers": 1, "values": given["kv_values_per_token"], "window": None}]
        known["how"], known["reason"] = "the model's file", None
    if known["weight_bytes"] is None and known["parameters"] is not None:
        known["weight_bytes"] = int(known["parameters"] * BYTES.get(known["dtype"] or "bfloat16", 2.0))
    return known


def of_config(config: Mapping[str, Any], dtype: str | None = None) -> dict[str, Any]:
    """`parameters`, `expert_parameters`, `kv`, `kv_heads`, `experts`, `dtype` of a config.json's contents.

    Raises KeyError where it lacks what every transformer has.
    """
    text = config.get("text_config", config)  # of a multimodal model, the language part
    heads = text.get("num_attention_heads")
    experts = text.get("num_local_experts") or text.get("num_experts") or text.get("n_routed_experts") or 0
    total, routed = _parameters(text, experts)
    latent = text.get("kv_lora_rank")
    return {
        "parameters": total,
        "expert_parameters": routed,
        "kv": _kv_layers(text),
        "kv_heads": None if latent else text.get("num_key_value_heads") or heads,
        "experts": experts,
        "dtype": dtype or text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype"),
    }


def _head_size(text: Mapping[str, Any]) -> int:
    return text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]


def _kv_layers(text: Mapping[str, Any]) -> list[dict[str, Any]]:
    layers = text["num_hidden_layers"]
    if text.get("kv_lora_rank"):
        values = text["kv_lora_rank"] + text["qk_rope_head_dim"]
    else:
        values = 2 * (text.get("num_key_value_heads") or text["num_attention_heads"]) * _head_size(text)
    kinds = text.get("layer_types") or ["full_attention"] * layers
    full = sum(kind in ("full_attention", "attention") for kind in kinds)
    sliding = sum(kind == "sliding_attention" for kind in kinds)
    if "layer_types" not in text and text.get("sliding_window") and text.get("use_sliding_window", True):
        full, sliding = (0, layers) if "sliding_window_pattern" not in text else _pattern(text, layers)
    groups = [{"layers": full, "values": values, "window": None}]
    groups.append({"layers": sliding, "values": values, "window": text.get("sliding_window")})
    return [group for group in groups if group["layers"]]


def _pattern(text: Mapping[str, Any], layers: int) -> tuple[int, int]:
    full = layers // text["sliding_window_pattern"]
    return full, layers - full


def _parameters(text: Mapping[str, Any], experts: int) -> tuple[int | None, int | None]:
    """Number of weights, and of those in routed experts; null for families that are built otherwise."""
    if text.get("model_type") not in GATED:
        return None, None
    hidden, layers, heads = text["hidden_size"], text["num_hidden_layers"], text["num_attention_heads"]
    size = _head_size(text)
    kv_heads = text.get("num_key_value_heads") or heads
    if text.get("kv_lora_rank"):
        rank, rope, nope = text["kv_lora_rank"], text["qk_rope_head_dim"], text["qk_nope_head_dim"]
        value = text["v_head_dim"]
        query_rank = text.get("q_lora_rank")
        queries = heads * (nope + rope)
        attention = hidden * query_rank + query_rank * (queries + 1) if query_rank else hidden * queries
        attention += hidden * (rank + rope) + rank + rank * heads * (nope + value) + heads * value * hidden
    else:
        attention = hidden * size * (heads + 2 * kv_heads) + heads * size * hidden
        attention += 2 * size if text["model_type"] in ("qwen3", "qwen3_moe") else 0  # norms of queries and keys
        attention += size * (heads + 2 * kv_heads) if text["model_type"] in ("qwen2", "qwen2_moe") else 0  # biases
    dense = 3 * hidden * text["intermediate_size"]
    sparse_layers = _sparse_layers(text, layers) if experts else 0
    expert = 3 * hidden * (text.get("moe_intermediate_size") or text["intermediate_size"])
    routed = sparse_layers * experts * expert
    shared = expert * (text.get("n_shared_experts") or 0) + 3 * hidden * text.get("shared_expert_intermediate_size", 0)
    shared += hidden if text.get("shared_expert_intermediate_size") else 0  # its gate
    norms = (4 if text["model_type"].startswith("gemma") and text["model_type"] != "gemma" else 2) * hidden
    correction = experts if text["model_type"] == "deepseek_v3" else 0  # bias of its router
    body = (
        layers * (attention + norms)
        + (layers - sparse_layers) * dense
        + sparse_layers * (shared + hidden * experts + correction)
    )
    ends = text["vocab_size"] * hidden * (1 if text.get("tie_word_embeddings") else 2) + hidden
    return body + routed + ends, routed


def _sparse_layers(text: Mapping[str, Any], layers: int) -> int:
    dense_first, step = text.get("first_k_dense_replace", 0), text.get("decoder_sparse_step") or 1
    never = set(text.get("mlp_only_layers") or ())
    return sum(layer >= dense_first and (layer + 1) % step == 0 and layer not in never for layer in range(layers))


def tensor_bytes(folder: Path) -> int | None:
    """Bytes of a safetensors model's tensors, from its index or its files' headers; null where there are none."""
    index = folder / "model.safetensors.index.json"
    try:
        if index.is_file():
            return int(json.loads(index.read_text(encoding="utf-8"))["metadata"]["total_size"])
        sizes = [_header_bytes(path) for path in sorted(folder.glob("*.safetensors"))]
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None
    return sum(sizes) if sizes else None


def _header_bytes(path: Path) -> int:
    """Bytes of the tensors of one safetensors file: 8 bytes length, then a JSON header with offsets."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > 1 << 28:
            raise ValueError(f"{path}: a header of {length} bytes")
        header = json.loads(file.read(length))
    return max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)


def kv_bytes(known: Shape, tokens: int, kv_dtype: str | None = None) -> float | None:
    """Bytes of the KV cache of one sequence of `tokens`, over all GPUs; null where the shape is not known."""
    if known.get("kv") is None:
        return None
    if kv_dtype in (None, "auto"):
        each = BYTES.get(known.get("dtype") or "bfloat16", 2.0)
        each = max(each, 2.0) if known.get("dtype", "") in ("float8", "float8_e4m3fn", "fp8") else each
    else:
        each = 1.0 if kv_dtype.startswith("fp8") else KV_BYTES.get(kv_dtype, 2.0)
    held = (group["layers"] * group["values"] * min(tokens, group["window"] or tokens) for group in known["kv"])
    return sum(held) * each


def weight_bytes(launch: Launch, known: Shape) -> float | None:
    """Bytes of the weights as this launch loads them, over all GPUs of one instance without replication."""
    if framework(launch.framework).weights == "gguf":
        return known.get("gguf_bytes")
    kind, parameters = launch.options.get("quantization"), known.get("parameters")
    if kind == "fp8" and parameters and known.get("dtype") not in ("float8", "float8_e4m3fn", "fp8"):
        return float(parameters)
    dtype = launch.options.get("dtype")
    if dtype in BYTES and parameters and kind in (None, "none"):
        return parameters * BYTES[dtype]
    return known.get("weight_bytes")


def per_device(launch: Launch, known: Shape) -> tuple[float, float] | None:
    """Bytes of weights and of one request's KV cache on each GPU (or in main memory); null where it cannot be told."""
    weights, tokens = weight_bytes(launch, known), launch.options.get("context_tokens")
    cache = kv_bytes(known, tokens, launch.options.get("kv_cache_dtype")) if tokens else None
    if weights is None or cache is None:
        return None
    layout = launch.layout
    share = (known.get("expert_parameters") or 0) / known["parameters"] if known.get("parameters") else 0.0
    spread = max(layout.ep, layout.tp)
    on_each = weights * ((1 - share) / layout.tp + share / spread) / layout.pp
    return on_each, cache / layout.pp / min(layout.tp, known.get("kv_heads") or 1)


def too_large(launch: Launch, known: Shape, default_fraction: float = MEMORY_FRACTION) -> str | None:
    """Why the model cannot fit on the launch's platform; null where it fits or where nobody can tell."""
    platform = launch.platform
    here = platform.get("frameworks", {}).get(launch.framework, {})
    on_gpu = bool(platform.get("gpus_per_node")) and here.get("device") != "cpu"
    have = platform.get("gpu", {}).get("memory_gb") if on_gpu else platform.get("memory_gb")
    needed = per_device(launch, known)
    if needed is None or have is None:
        return None
    fraction = launch.options.get("memory_fraction", default_fraction) if on_gpu else 1.0
    servers = launch.layout.instances if launch.layout.share_gpu or not on_gpu else 1
    copies = 1 if on_gpu else launch.layout.tp * launch.layout.pp  # main memory holds every part
    room = have * fraction / servers
    weights, cache = (part * copies / 1e9 for part in needed)
    if weights + cache <= room:
        return None
    where = "on each GPU" if on_gpu else "in main memory"
    tokens = launch.options["context_tokens"]
    return (
        f"the model {launch.model['name']} does not fit: weights {weights:.1f} GB and the KV cache of one request of "
        f"{tokens} tokens {cache:.1f} GB {where}, the platform {platform['name']} has room for {room:.1f} GB"
    )


def _short(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
