"""A small repository to plan in: config files of our own and two frameworks that need neither engine nor GPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

import servegauge.frameworks
import servegauge.plan.config
import servegauge.plan.mistakes
from servegauge.frameworks.base import Framework

REPOSITORY = Path(__file__).parents[2]

LLAMA = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "torch_dtype": "float16",
}


class Fast(Framework):
    """Has many options and every layout, and needs a GPU."""

    name = "fast"
    title = "Fast"
    supported: ClassVar[Mapping[str, str]] = {
        "context_tokens": "--context",
        "prefix_cache": "--prefix-cache",
        "kv_cache_dtype": "--kv",
        "memory_fraction": "--memory",
        "quantization": "--quantization",
        "dtype": "--dtype",
    }
    layout: ClassVar[Mapping[str, str]] = {"tp": "--tp", "pp": "--pp", "dp": "--dp", "ep": "--ep"}
    differences: ClassVar[Mapping[str, str]] = {"memory_fraction": "counts activations too"}


class Plain(Framework):
    """Has few options, needs no GPU, only one server process."""

    name = "plain"
    title = "Plain"
    needs_gpu = False
    endpoints = ("completions",)
    supported: ClassVar[Mapping[str, str]] = {"context_tokens": "-c", "prefix_cache": "--cache"}


STUDY: dict[str, Any] = {
    "question": "Which is faster?",
    "matrix": {
        "model": "small",
        "framework": "plain",
        "platform": ["metal", "virtual"],
        "prompts": ["chat"],
        "rate": [1, 2.5],
        "repeat": 2,
    },
    "load": {"duration_s": 10, "seed": 7},
}

FILES: dict[str, Any] = {
    "config/config.yaml": {"study": "x"},
    "config/platforms/metal.yaml": {
        "description": "bare metal",
        "gpus_per_node": 4,
        "gpu": {"memory_gb": 80},
        "memory_gb": 500,
        "slurm": {"partition": "gpu", "time_min": 120},
    },
    "config/platforms/virtual.yaml": {
        "description": "virtual machine",
        "gpus_per_node": 2,
        "gpu": {"memory_gb": 40},
        "slurm": {"partition": "vgpu", "exclusive": True},
    },
    "config/platforms/cpu.yaml": {"description": "no GPU", "placement": {"server_cpus": "1-3,8", "load_cpus": [0]}},
    "config/models/small.yaml": {
        "description": "a small model",
        "source": "models/small",
        "context_tokens": 2048,
        "dtype": "float16",
    },
    "config/models/large.yaml": {"description": "70 B", "source": "models/large", "context_tokens": 4096},
    "config/prompts/chat.yaml": {
        "description": "short",
        "kind": "synthetic",
        "input_tokens": 100,
        "output_tokens": {"distribution": "uniform", "min": 10, "max": 50},
    },
    "config/prompts/book.yaml": {
        "description": "long",
        "kind": "synthetic",
        "input_tokens": {"distribution": "normal", "mean": 3000, "std": 10, "max": 3500},
        "output_tokens": 100,
    },
}


class Tree:
    """The repository under a temporary folder; `study` writes a study file, as a mapping or as text."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, content in FILES.items():
            self.write(name, content)
        self.write("models/large/config.json", LLAMA)

    def write(self, name: str, content: Any) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        else:
            path.write_text(json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content, sort_keys=False))
        return path

    def study(self, content: Any = None, name: str = "x", **parts: Any) -> dict[str, Any]:
        """Write and load config/studies/<name>.yaml: STUDY with keys of `parts` (matrix=..., load=...) laid over it."""
        if content is None:
            content = {
                **STUDY,
                **{
                    key: {**STUDY.get(key, {}), **part} if isinstance(part, dict) else part
                    for key, part in parts.items()
                },
            }
        self.write(f"config/studies/{name}.yaml", content)
        return servegauge.plan.config.load_study(self.root, name)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A `Tree` in which the frameworks are `plain` and `fast`."""
    known = {"fast": Fast(), "plain": Plain()}
    monkeypatch.setattr(servegauge.frameworks, "frameworks", lambda: known)
    monkeypatch.setattr(servegauge.plan.mistakes, "frameworks", lambda: known)
    return Tree(tmp_path)


def copy_config(root: Path) -> None:
    """The repository's own config/ under `root`."""
    shutil.copytree(REPOSITORY / "config", root / "config")
