"""Numbers of a model that follow from its shape alone, to be held against what is written about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from servegauge.contract.config_types import Model
from servegauge.inputs.config_json import UnknownShape
from servegauge.inputs.kv_cache import bytes_of
from servegauge.inputs.model_shape import from_config

MODEL_NUMBERS = {"parameters": "", "weight_bytes": "bytes", "kv_bytes_per_token": "bytes", "heads_per_kv_head": ""}
"""Name -> unit. The cache is one of 16 bit numbers, whatever the weights are, because that is how it is published."""

CACHE_BYTES = 2


def model_number(file: Model, config: Mapping[str, Any] | None, name: str) -> float | None:
    """One of MODEL_NUMBERS from a model's config.json or, without it, from `shape` in its file; None where unknown.

    `file`: the model's file as `load_model` gives it. `weight_bytes` are those that the file gives, else of the file's
    data type, else of the config's.
    """
    known: dict[str, Any] = {**(file.get("shape") or {})}
    dtype = file.get("dtype")
    if config is not None:
        try:
            shape = from_config(config)
        except (UnknownShape, ValueError, TypeError):
            return None
        dtype = dtype or shape.dtype
        known = {"parameters": shape.parameters, "heads": shape.heads, "kv_heads": shape.kv_heads}
        if not shape.unknown_cache:
            known["kv_values_per_token"] = sum(group.layers * group.values for group in shape.cache)
    parameters, values = known.get("parameters"), known.get("kv_values_per_token")
    heads, kv_heads = known.get("heads"), known.get("kv_heads")
    if name == "parameters":
        return parameters
    if name == "weight_bytes":
        return known.get("weight_bytes") or (parameters * bytes_of(dtype) if parameters and dtype else None)
    if name == "kv_bytes_per_token":
        return None if values is None else values * CACHE_BYTES
    return heads / kv_heads if heads and kv_heads else None
