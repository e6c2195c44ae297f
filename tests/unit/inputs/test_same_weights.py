"""The folder and the GGUF file of the tiny model are one model: llama.cpp answers what the folder's weights say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from servegauge.contract.spec import Launch
from servegauge.frameworks import framework
from servegauge.frameworks.base import Context
from servegauge.launch import server
from servegauge.workloads import tokenizer

PROMPT = "the quick brown fox jumps over the lazy dog"


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Tensors as float32: eight bytes of header length, the header as JSON, then the bytes."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    return {
        name: np.frombuffer(data[start + about["data_offsets"][0] : start + about["data_offsets"][1]], np.float16)
        .reshape(about["shape"])
        .astype(np.float32)
        for name, about in header.items()
        if name != "__metadata__"
    }


def logits(weights: dict[str, np.ndarray], config: dict[str, Any], ids: list[int]) -> np.ndarray:
    """A Llama's forward pass in float32: the logits after the last of `ids`, [vocabulary]."""
    heads, kv_heads, size = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    count = len(ids)
    angles = np.arange(count)[:, None] / config["rope_theta"] ** (np.arange(0, size, 2) / size)[None, :]
    cos, sin = np.cos(np.tile(angles, 2)), np.sin(np.tile(angles, 2))  # [count, size]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * weights[f"{name}.weight"]

    def turned(x: np.ndarray) -> np.ndarray:  # [heads, count, size]; the two halves of a head are rotated
        half = size // 2
        return x * cos + np.concatenate([-x[..., half:], x[..., :half]], -1) * sin

    x = weights["model.embed_tokens.weight"][ids]
    mask = np.triu(np.full((count, count), -np.inf), 1)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        h = norm(x, f"{at}.input_layernorm")

        def project(part: str, many: int, h: np.ndarray = h, at: str = at) -> np.ndarray:
            return (h @ weights[f"{at}.self_attn.{part}_proj.weight"].T).reshape(count, many, size).swapaxes(0, 1)

        q, k, v = turned(project("q", heads)), turned(project("k", kv_heads)), project("v", kv_heads)
        k, v = (np.repeat(part, heads // kv_heads, axis=0) for part in (k, v))
        scores = q @ k.swapaxes(1, 2) / np.sqrt(size) + mask
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (shares / shares.sum(-1, keepdims=True)) @ v
        x = x + mixed.swapaxes(0, 1).reshape(count, heads * size) @ weights[f"{at}.self_attn.o_proj.weight"].T
        h = norm(x, f"{at}.post_attention_layernorm")
        gate, up = (h @ weights[f"{at}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ weights[f"{at}.mlp.down_proj.weight"].T
    return norm(x[-1], "model.norm") @ weights["lm_head.weight"].T


def test_llama_cpp_gives_the_folders_greedy_tokens(tiny_model: Path, llamacpp_python: str, tmp_path: Path) -> None:
    weights = read_safetensors(tiny_model / "model.safetensors")
    config = json.loads((tiny_model / "config.json").read_text())
    ids = tokenizer.load(tiny_model)._tokenizer.encode(PROMPT).ids
    expected: list[int] = []
    for _ in range(8):
        values = logits(weights, config, [*ids, *expected])
        values[config["eos_token_id"]] = -np.inf  # ignore_eos
        expected.append(int(values.argmax()))

    launch = Launch("llamacpp", {"name": "tiny", "gguf": "x"}, {"name": "p"}, options={"context_tokens": 128})
    weights_file = str(tiny_model.with_suffix(".gguf"))
    context = Context(launch, weights_file, server.free_port(), python=llamacpp_python, work=tmp_path)
    running = server.start(framework("llamacpp"), context, tmp_path / "log", cpus=[0])
    try:
        running.wait_ready(60)
        body = {"prompt": PROMPT, "n_predict": 8, "temperature": 0, "ignore_eos": True, "return_tokens": True}
        answer = running.client.post("/completion", body).json()
    finally:
        running.stop()
    assert answer["tokens_evaluated"] == len(ids)
    assert answer["tokens"] == expected
