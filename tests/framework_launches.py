"""Launches that every framework is tried with: one with every option that it has, and the one that a study makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from servegauge.contract.spec import Launch, Layout
from servegauge.frameworks import frameworks
from servegauge.frameworks.base import Context, Framework

KEY = "sesame-open-4711"
MODEL = {"name": "a-model", "source": "models/a-model", "gguf": "models/a-model.gguf", "context_tokens": 8192}
PLATFORM = {
    "name": "a-platform",
    "gpus_per_node": 8,
    "frameworks": {"external": {"url": "http://127.0.0.1:4711/v1", "note": "a server"}},
}
FULL: dict[str, Any] = {
    "context_tokens": 4096,
    "kv_cache_dtype": "fp8",
    "quantization": "fp8",
    "prefix_cache": True,
    "chunked_prefill": True,
    "max_batch": 64,
    "max_batched_tokens": 4096,
    "block_tokens": 32,
    "memory_fraction": 0.85,
    "dtype": "bfloat16",
    "graphs": True,
    "speculative": {"method": "ngram", "tokens": 4},
    "lora": {"adapter": "/lora/adapter"},
    "dummy_weights": True,
    "seed": 7,
    "threads": 4,
    "async_scheduling": False,
    "multimodal_limits": {"image": 2},
}


def options(framework: Framework, wanted: dict[str, Any]) -> dict[str, Any]:
    """`wanted` as far as the framework has it; where it lacks a value, its own first choice."""
    having = {name: value for name, value in wanted.items() if name in framework.supported}
    for name, value in having.items():
        if name in framework.choices and str(value) not in framework.choices[name]:
            first = next(iter(framework.choices[name]))
            having[name] = {"True": True, "False": False}.get(first, first)
    return having


def layout(framework: Framework, size: int = 2) -> Layout:
    """`size` in every direction that the framework can be spread in, alone where it can do one at a time."""
    sizes = {name: size for name in ("tp", "pp", "dp") if name in framework.layout}
    if "ep" in framework.layout:
        sizes["ep"] = sizes.get("tp", 1) * sizes.get("dp", 1)
    spread = Layout(**sizes)
    tried = Launch(framework.name, MODEL, PLATFORM, spread, options=full(framework).options)
    return spread if framework.unsupported(tried) is None else Layout(tp=sizes.get("tp", 1))


def full(framework: Framework, spread: Layout | None = None) -> Launch:
    """A launch with every option that the framework has."""
    return Launch(framework.name, MODEL, PLATFORM, spread or Layout(), options=options(framework, FULL))


def fair(framework: Framework, **changes: Any) -> Launch:
    """The launch that a study makes which names no options."""
    named = {"context_tokens": MODEL["context_tokens"], **framework.fair_defaults, **changes}
    having = {name: value for name, value in named.items() if name in framework.supported}
    return Launch(framework.name, MODEL, PLATFORM, options=having)


def context(launch: Launch, work: Path = Path("/private/instance-0"), **fields: Any) -> Context:
    """Where an instance of `launch` would listen; no such place is touched."""
    weights = MODEL["gguf"] if frameworks()[launch.framework].weights == "gguf" else MODEL["source"]
    settled = {"port": 8000, "served_name": "a-model", "api_key": KEY, "python": "/env/bin/python", "work": work}
    return Context(launch, f"/{weights}", **{**settled, **fields})
