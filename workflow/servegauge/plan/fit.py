"""Does a model fit, and how many of its requests? Weights and KV cache from its config.json (inputs.model_shape).

    weights   = bytes of the tensors (safetensors headers or index, or the GGUF file's size where the framework loads
                that), else what config.json says of parameters, data type and quantization
    KV cache  = sum over attention layers of  values x min(tokens, window) x bytes of the cache's data type
                values = 2 x KV heads x head size (keys and values), or with latent attention (MLA) the size of the
                latent and of the rotary part, once; window only for sliding and chunked attention; layers without a
                growing cache (linear attention, state space) count nothing
    per GPU   = weights / (tp x pp), experts / (ep x pp) where experts are spread
                + KV cache / pp / min(tp, KV heads); a latent cannot be split by tp

A launch is left out of a study for the weakest question alone: do the weights and the cache of *one* request of
`context_tokens` fit into the share of memory that the server may take? Activations and buffers come on top, so "fits"
is no promise, but "does not fit" is one. How many requests fit at once is given beside it, at most: a cell that will
hold more makes the others wait, or makes the engine preempt. What is unknown is None with the reason, and never a
reason to skip.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError
from servegauge.base.files import parse_json
from servegauge.contract.config_types import Length, Model, Prompts
from servegauge.contract.spec import Launch, Load
from servegauge.frameworks import framework
from servegauge.inputs.config_json import UnknownShape
from servegauge.inputs.kv_cache import bytes_of, cache_value_bytes
from servegauge.inputs.model_shape import from_config
from servegauge.inputs.models import gguf_file, source_folder
from servegauge.inputs.weight_files import gguf_bytes, stored_tensors
from servegauge.inputs.weights import cache_dtype_of, quantized_as, stored_bytes
from servegauge.workloads.recordings import kinds

MEMORY_FRACTION = 0.9  # of a GPU that a server takes, where neither the study nor config.yaml says
# Makers count a GPU's memory in 2^30 bytes: an H100 "of 80 GB" has 81559 MiB
GPU_GB = 2.0**30

UNKNOWN = (
    "parameters", "expert_parameters", "expert_share", "weight_bytes", "wide_bytes", "gguf_bytes", "kv", "kv_heads",
    "heads", "layers", "experts", "quantized", "kv_dtype", "how", "reason",
)  # fmt: skip

# Arguments handed through to a server that change what its GPUs hold: parts of the weights or of the cache elsewhere,
# another data type, another model
MOVING = re.compile(
    r"offload|gpu-layers|cpu-moe|override-tensor|quantiz|kv-cache-dtype|cache-type|context-parallel|hf-overrides|"
    r"^-(ngl|cmoe|ncmoe|ot|ctk|ctv|dcp|q)$"
)

Shape = Mapping[str, Any]


def shape(root: Path, model: Model) -> dict[str, Any]:
    """What the planner knows of a model's size; each value is None where it is unknown, `reason` says why.

    `parameters`, `expert_parameters` and `expert_share` (the part of the weights in routed experts, in numbers and as a
    share of the bytes), `weight_bytes`, `wide_bytes` (of them in 32-bit floats), `gguf_bytes`, `dtype`, `kv` (a list of
    {layers, values, window, value_bytes}: numbers per token and layer), `kv_heads` (None for a latent cache), `heads`,
    `layers`, `experts` (0 for a dense model), `quantized` (how the stored weights are), `kv_dtype` (of the cache where
    the weights came with scales for it: engines use them unless they are told otherwise), `how` (where the figures come
    from), `reason`.
    """
    known: dict[str, Any] = dict.fromkeys(UNKNOWN)
    known["dtype"] = model.get("dtype")
    try:
        folder = root / source_folder(model)
        known["gguf_bytes"] = gguf_bytes(root / gguf_file(model)) if model.get("gguf") else None
    except UserError as error:  # a variable in the path that is not set here
        return {**known, "reason": str(error)}
    config = folder / "config.json"
    try:
        known.update(of_config(_read_config(folder), model.get("dtype")))
        known["how"] = "config.json"
    except OSError:
        known["reason"] = f"{_short(config, root)} is not on this machine"
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        known["reason"] = f"{_short(config, root)} is not understood: {error}"
    stored = stored_tensors(folder, known["layers"])
    if stored is not None:
        known["weight_bytes"], known["wide_bytes"] = stored
        known["how"] = "config.json, safetensors"
    if model.get("shape"):
        _fill(known, model["shape"])
    return known


def _fill(known: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Put in what the model's file says where its config.json and its tensors do not tell."""
    no_weights, no_cache = known["weight_bytes"] is None, known["kv"] is None
    if no_cache and "kv_values_per_token" in given:
        known["kv"] = [{"layers": 1, "values": given["kv_values_per_token"], "window": None}]
        known.update({name: given.get(name) for name in ("heads", "kv_heads")})
    if no_weights:
        known["parameters"] = known["parameters"] or given.get("parameters")
        known["weight_bytes"] = given.get("weight_bytes")
        if known["weight_bytes"] is None and known["parameters"] is not None and not known["quantized"]:
            known["weight_bytes"] = int(known["parameters"] * bytes_of(known["dtype"]))
    if no_weights or no_cache:
        known["how"] = "the model's file"
    if known["weight_bytes"] is not None and known["kv"] is not None:
        known["reason"] = None


def _read_config(folder: Path) -> dict[str, Any]:
    """config.json, with the quantization that NVIDIA's ModelOpt wrote beside it rather than into it."""
    config: dict[str, Any] = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    beside = folder / "hf_quant_config.json"
    if isinstance(config, dict) and beside.is_file():
        about = parse_json(beside.read_text(encoding="utf-8")).get("quantization") or {}
        config["quantization_config"] = {"quant_method": "modelopt", **about, **(quantized_as(config) or {})}
    return config


def of_config(config: Mapping[str, Any], dtype: str | None = None) -> dict[str, Any]:
    """What `shape` gives, as far as a config.json's contents tell it; `dtype` replaces the file's.

    UnknownShape where it lacks what every model has.
    """
    found = from_config(config)
    quantization = quantized_as(config)
    reasons = [found.unknown_weights, found.unknown_cache]
    weights: tuple[int, int] | None = None
    try:
        weights = stored_bytes(found if dtype is None else replace(found, dtype=dtype), quantization)
    except UnknownShape as error:
        reasons[0] = str(error)
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:  # the cache is known still
        reasons[0] = f"quantization_config holds a value of another kind than known: {error}"
    return {
        "parameters": found.parameters,
        "expert_parameters": found.expert_parameters,
        "expert_share": weights[1] / weights[0] if weights else None,
        "weight_bytes": weights[0] if weights else None,
        "kv": None if found.unknown_cache else [asdict(group) for group in found.cache],
        "kv_heads": None if found.latent else found.kv_heads,
        "heads": found.heads or None,
        "layers": found.layers,
        "experts": found.experts,
        "kv_dtype": cache_dtype_of(quantization),
        "quantized": str(quantization.get("quant_method") or quantization.get("quant_algo") or "yes")
        if quantization
        else None,
        "dtype": dtype or found.dtype,
        "reason": "; ".join(reason for reason in reasons if reason) or None,
    }


def kv_bytes(known: Shape, tokens: int, kv_dtype: str | None = None) -> float | None:
    """Bytes of the KV cache of one sequence of `tokens`, over all GPUs; None where the shape is not known."""
    if known.get("kv") is None:
        return None
    # The cache of a model with 8-bit weights has 16 bits unless it is asked for fewer.
    each = max(2.0, bytes_of(known.get("dtype"))) if kv_dtype in (None, "auto") else cache_value_bytes(kv_dtype)
    return sum(
        group["layers"] * group["values"] * min(tokens, group["window"] or tokens) * (group.get("value_bytes") or each)
        for group in known["kv"]
    )


def weight_bytes(launch: Launch, known: Shape) -> float | None:
    """Bytes of the weights as this launch loads them, over all GPUs of one instance without replication.

    The least that they can take where engines differ; None where it is unknown.
    """
    if framework(launch.framework).weights == "gguf":
        return known.get("gguf_bytes")
    if known.get("quantized"):
        return known.get("weight_bytes")
    kind, parameters = launch.options.get("quantization"), known.get("parameters")
    if kind == "fp8" and parameters and bytes_of(known.get("dtype")) > 1:
        return float(parameters)
    if kind not in (None, "none", "fp8"):  # quantized, although config.json knows nothing of it
        return None
    dtype = launch.options.get("dtype")
    if dtype not in (None, "auto"):
        return parameters * bytes_of(dtype) if parameters else known.get("weight_bytes")
    stored, wide = known.get("weight_bytes"), known.get("wide_bytes")
    if stored is None:
        return None
    if wide is None:
        wide = stored if bytes_of(known.get("dtype")) > 2 else 0
    return stored - wide / 2  # Most engines load what is stored in 32 bits in 16.


def cache_dtype(launch: Launch, known: Shape) -> str | None:
    """The data type that this launch's KV cache has; None: the model's own."""
    told = launch.options.get("kv_cache_dtype")
    names = (told,) if known.get("kv_dtype") else (told, launch.options.get("dtype"))
    for name in names:
        if name not in (None, "auto"):
            return str(name)
    return known.get("kv_dtype") or ("bfloat16" if bytes_of(known.get("dtype")) > 2 else None)


def per_device(launch: Launch, known: Shape, tokens: int | None = None) -> tuple[float, float] | None:
    """Bytes of weights and of one request's KV cache on each GPU (or in main memory); None where it is unknown.

    It is unknown, too, where the study hands arguments through that change it (MOVING).

    A request of `tokens`, or of the server's `context_tokens`.
    """
    weights, tokens = weight_bytes(launch, known), tokens or launch.options.get("context_tokens")
    cache = kv_bytes(known, tokens, cache_dtype(launch, known)) if tokens else None
    moved = any(MOVING.search(word.replace("_", "-")) for word in launch.extra_args)
    if weights is None or cache is None or moved:
        return None
    layout = launch.layout
    share = known.get("expert_share")
    if share is None:
        # Not known of which experts: at best all of it is spread.
        share = (known.get("expert_parameters") or 0) / known["parameters"] if known.get("parameters") else 1.0
        share = 0.0 if known.get("experts") == 0 else share
    spread = max(layout.ep, layout.tp)
    on_each = weights * ((1 - share) / layout.tp + share / spread) / layout.pp
    return on_each, cache / layout.pp / min(layout.tp, known.get("kv_heads") or 1)


@dataclass(frozen=True)
class Room:
    """Where one server's weights and cache must fit. `place`: `on each GPU` or `in main memory`.

    `bytes` there are, of which a server takes the share `fraction`: of all, or with `of_free` of what the weights
    leave. `copies`: parts of one server that share the room; `servers`: servers of the launch, each with such a room.
    """

    bytes: float
    fraction: float
    of_free: bool
    place: str
    copies: int
    servers: int

    def for_cache(self, weights: float) -> float:
        """Bytes that `weights` (of one part) leave for the KV cache; below 0 where they do not fit themselves."""
        all_parts = weights * self.copies
        return (self.bytes - all_parts) * self.fraction if self.of_free else self.bytes * self.fraction - all_parts


def room(launch: Launch, default_fraction: float = MEMORY_FRACTION) -> Room | None:
    """What one server of this launch may take; None where the platform does not say its memory."""
    platform, layout, adapter = launch.platform, launch.layout, framework(launch.framework)
    here = platform.get("frameworks", {}).get(launch.framework, {})
    on_gpu = bool(platform.get("gpus_per_node")) and here.get("device") != "cpu"
    have = platform.get("gpu", {}).get("memory_gb") if on_gpu else platform.get("memory_gb")
    if have is None:
        return None
    shared = layout.instances if layout.share_gpu or not on_gpu else 1
    if not on_gpu:  # main memory holds every part
        return Room(have * 1e9 / shared, 1.0, False, "in main memory", layout.tp * layout.pp, layout.instances)
    # A server without an option for the share takes what it needs.
    fraction = launch.options.get("memory_fraction", default_fraction if "memory_fraction" in adapter.supported else 1)
    return Room(have * GPU_GB / shared, fraction, adapter.fraction_of_free, "on each GPU", 1, layout.instances)


def too_large(launch: Launch, known: Shape, default_fraction: float = MEMORY_FRACTION) -> str | None:
    """Why the model cannot fit on the launch's platform; None where it fits or where it is unknown."""
    needed, where = per_device(launch, known), room(launch, default_fraction)
    if needed is None or where is None:
        return None
    weights, cache = (part * where.copies for part in needed)
    if cache <= where.for_cache(needed[0]):
        return None
    tokens = launch.options["context_tokens"]
    has = where.bytes * (1 if where.of_free else where.fraction)
    return (
        f"the model {launch.model['name']} does not fit: weights {weights / 1e9:.1f} GB and the KV cache of one "
        f"request of {tokens} tokens {cache / 1e9:.1f} GB {where.place}, the platform {launch.platform['name']} has "
        f"room for {has / 1e9:.1f} GB"
    )


def requests_that_fit(
    launch: Launch, known: Shape, tokens: int | None = None, default_fraction: float = MEMORY_FRACTION
) -> int | None:
    """Most requests of `tokens` (or of `context_tokens`) whose KV cache all servers of the launch hold at once.

    None where it is unknown, and for a model whose cache does not grow. Engines keep fewer: activations, graphs and
    half-filled blocks take a part of the room.
    """
    needed, where = per_device(launch, known, tokens), room(launch, default_fraction)
    if needed is None or where is None or not needed[1]:
        return None
    each = int(where.for_cache(needed[0]) // (needed[1] * where.copies))
    return max(0, each) * launch.layout.dp * where.servers


def held_at_once(launch: Launch, load: Load) -> int | None:
    """Requests that a cell under this load has on the servers at once, at most; None where only a run can tell.

    A closed loop holds its concurrency, a burst its size; at a rate it depends on how long each takes.
    """
    if load.concurrency is not None:
        most: int | None = load.concurrency
    else:
        most = load.arrival.get("size") if load.arrival.get("process") == "burst" else load.max_in_flight
    batch = launch.options.get("max_batch")
    limits = [most, load.requests, batch and batch * launch.layout.instances * launch.layout.dp]
    return min(limit for limit in limits if limit) if most else None


def longest_request(prompts: Prompts, load: Load) -> int | None:
    """Most tokens of one request of a prompt set; None where it has no limit or is known only from the data."""
    limit = (prompts.get("filters") or {}).get("max_total_tokens")
    if prompts.get("kind") in ("conversations", *kinds()) and limit:
        return int(limit)
    each = [load.input_tokens or prompts.get("input_tokens"), load.output_tokens or prompts.get("output_tokens")]
    turns = _most(prompts["turns"]) if "turns" in prompts else 1
    parts = [_most(length) for length in each]
    if turns is None or None in parts:
        return None
    prefix = prompts["prefix"]["tokens"] if "prefix" in prompts else 0
    return prefix + turns * sum(part or 0 for part in parts)


def _most(length: Length | None) -> int | None:
    """The largest number that a length can be; None where it has no limit."""
    if isinstance(length, Mapping):
        return length.get("max") or length.get("value") or max(length.get("values", [0])) or None
    return length or None


def shortage(
    launch: Launch, known: Shape, prompts: Prompts, load: Load, default_fraction: float = MEMORY_FRACTION
) -> str | None:
    """What to know of a cell whose requests do not all fit at once; None where they do or it is unknown."""
    held, tokens = held_at_once(launch, load), longest_request(prompts, load)
    fit = requests_that_fit(launch, known, tokens, default_fraction) if held else None
    if held is None or fit is None or held <= fit:
        return None
    tokens = tokens or launch.options["context_tokens"]
    return (
        f"{launch.framework} {launch.model['name']} {launch.layout.words()} on {launch.platform['name']}: the KV cache "
        f"has room for at most {fit} requests of {tokens} tokens, {prompts['name']} {load.words()} holds {held}: the "
        "others wait or are preempted"
    )


def _short(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
