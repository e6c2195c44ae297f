"""Does a model fit? Weights and KV cache from the model's own config.json (read by model_shape.py).

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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError
from servegauge.contract.spec import Launch
from servegauge.frameworks import framework
from servegauge.inputs.model_shape import bytes_of, cache_value_bytes, from_config
from servegauge.inputs.models import gguf_file, source_folder

MEMORY_FRACTION = 0.9  # of a GPU that a server takes, where neither the study nor config.yaml says

UNKNOWN = (
    "parameters", "expert_parameters", "weight_bytes", "gguf_bytes", "kv", "kv_heads", "heads", "experts", "how",
    "reason",
)  # fmt: skip

Shape = Mapping[str, Any]


def shape(root: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """What the planner knows of a model's size; each value is null where it cannot be told, `reason` says why.

    `parameters`, `expert_parameters` (the part of them in routed experts), `weight_bytes`, `gguf_bytes`, `dtype`,
    `kv` (a list of {layers, values, window}: numbers per token and layer), `kv_heads` (null for a latent cache),
    `heads`, `experts` (0 for a dense model), `how` (where the figures come from), `reason`.
    """
    known: dict[str, Any] = dict.fromkeys(UNKNOWN)
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
    except (ValueError, TypeError) as error:
        known["reason"] = f"{_short(config, root)} is not understood: {error}"
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
        known["weight_bytes"] = int(known["parameters"] * bytes_of(known["dtype"]))
    return known


def of_config(config: Mapping[str, Any], dtype: str | None = None) -> dict[str, Any]:
    """`parameters`, `expert_parameters`, `kv`, `kv_heads`, `heads`, `experts`, `dtype` of a config.json's contents.

    UnknownShape where it lacks what every transformer has.
    """
    found = from_config(config)
    return {
        "parameters": found.parameters,
        "expert_parameters": found.expert_parameters,
        "kv": [asdict(group) for group in found.cache],
        "kv_heads": None if found.latent else found.kv_heads,
        "heads": found.heads,
        "experts": found.experts,
        "dtype": dtype or found.dtype,
    }


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
    # The cache of a model with 8-bit weights has 16 bits unless it is asked for fewer.
    each = max(2.0, bytes_of(known.get("dtype"))) if kv_dtype in (None, "auto") else cache_value_bytes(kv_dtype)
    held = (group["layers"] * group["values"] * min(tokens, group["window"] or tokens) for group in known["kv"])
    return sum(held) * each


def weight_bytes(launch: Launch, known: Shape) -> float | None:
    """Bytes of the weights as this launch loads them, over all GPUs of one instance without replication."""
    if framework(launch.framework).weights == "gguf":
        return known.get("gguf_bytes")
    kind, parameters = launch.options.get("quantization"), known.get("parameters")
    if kind == "fp8" and parameters and bytes_of(known.get("dtype")) > 1:
        return float(parameters)
    dtype = launch.options.get("dtype")
    if dtype not in (None, "auto") and parameters and kind in (None, "none"):
        return parameters * bytes_of(dtype)
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
