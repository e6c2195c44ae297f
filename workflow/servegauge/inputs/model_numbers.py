"""Numbers of a model that follow from its shape alone, to be held against what is written about it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from servegauge.contract.config_types import Model
from servegauge.inputs.config_json import UnknownShape
from servegauge.inputs.kv_cache import bytes_of
from servegauge.inputs.model_shape import from_config
from servegauge.inputs.weights import quantized_as, stored_bytes

MODEL_NUMBERS = {"parameters": "", "weight_bytes": "bytes", "kv_bytes_per_token": "bytes", "heads_per_kv_head": ""}
"""Name -> unit. The cache is one of 16 bit numbers, whatever the weights are, because that is how it is published."""

CACHE_BYTES = 2


def model_number(file: Model, config: Mapping[str, Any] | None, name: str) -> float | None:
    """One of MODEL_NUMBERS from a model's config.json or, without it, from `shape` in its file; None where unknown.

    `file`: the model's file as `load_model` gives it. `weight_bytes` are those that the file gives, else of the file's
    data type, else of the config's, quantized as the config says.
    """
    dtype = file.get("dtype")
    if config is None:
        known: dict[str, Any] = {**(file.get("shape") or {})}
        parameters, values = known.get("parameters"), known.get("kv_values_per_token")
        weights = known.get("weight_bytes") or (parameters * bytes_of(dtype) if parameters and dtype else None)
        known.update(weight_bytes=weights, kv_bytes_per_token=None if values is None else values * CACHE_BYTES)
    else:
        try:
            known = _of_config(config, dtype)
        except (UnknownShape, ValueError, TypeError):
            return None
    if name == "heads_per_kv_head":
        heads, kv_heads = known.get("heads"), known.get("kv_heads")
        return heads / kv_heads if heads and kv_heads else None
    return known.get(name)


def _of_config(config: Mapping[str, Any], dtype: str | None) -> dict[str, Any]:
    shape = from_config(config)
    known = {
        "parameters": shape.parameters,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "kv_bytes_per_token": shape.kv_bytes(1, "bfloat16"),
        "weight_bytes": None,
    }
    if dtype or shape.dtype:
        # Weights that are stored in a way that is not known stay None.
        with suppress(UnknownShape, ValueError, TypeError, AttributeError, LookupError):
            known["weight_bytes"] = stored_bytes(replace(shape, dtype=dtype or shape.dtype), quantized_as(config))[0]
    return known
