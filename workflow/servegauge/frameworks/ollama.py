"""Ollama: `ollama serve`. The model must have been made from its GGUF file before, under the model's own name:
`OLLAMA_MODELS=<folder> ollama create <name> -f Modelfile`; the platform's or study's environment names the folder."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from servegauge.contract.spec import Launch
from servegauge.frameworks.base import Client, Context, Evidence, Framework, Reset

KV_DTYPES = {"auto": "f16", "fp16": "f16", "q8_0": "q8_0", "q4_0": "q4_0"}


class Ollama(Framework):
    name = "ollama"
    title = "Ollama"
    source = "Ollama 0.12, envconfig/config.go and docs/api.md, read"
    exercised = "not exercised"
    weights = "gguf"
    needs_gpu = False
    ready_path = "/api/version"
    metrics_path = None
    version_argv = ("ollama", "--version")
    supported: ClassVar = {
        "context_tokens": "OLLAMA_CONTEXT_LENGTH",
        "kv_cache_dtype": "OLLAMA_KV_CACHE_TYPE",
        "prefix_cache": "always on",
        "chunked_prefill": "always on",
        "max_batch": "OLLAMA_NUM_PARALLEL",
    }
    choices: ClassVar = {
        "kv_cache_dtype": KV_DTYPES,
        "prefix_cache": {"True": ""},
        "chunked_prefill": {"True": ""},
    }
    differences: ClassVar = {
        "prefix_cache": "cannot be switched off; it is emptied by unloading the model, which the warm-up loads again",
        "max_batch": "slots, each with its own KV cache of the whole context; further requests wait",
        "kv_cache_dtype": "auto is f16",
        "requests": "it stops at the end token, ignore_eos is not known: outputs can be shorter than asked",
        "api_key": "it has none; it listens on the loopback only",
    }
    ignore_eos: ClassVar = {"ignore_eos": None}
    fair_defaults: ClassVar = {"prefix_cache": True, "chunked_prefill": True, "kv_cache_dtype": "auto", "max_batch": 8}

    def argv(self, ctx: Context) -> list[str]:
        return [*self.program(ctx, "ollama"), "serve", *ctx.launch.extra_args]

    def environment(self, ctx: Context) -> dict[str, str]:
        options = ctx.launch.options
        variables = {
            "OLLAMA_NUM_PARALLEL": str(options.get("max_batch", 8)),
            "OLLAMA_KV_CACHE_TYPE": KV_DTYPES[options.get("kv_cache_dtype", "auto")],
            "OLLAMA_FLASH_ATTENTION": "1",
            "OLLAMA_MAX_LOADED_MODELS": "1",
            "OLLAMA_MAX_QUEUE": "100000",
            "OLLAMA_KEEP_ALIVE": "-1",
            "OLLAMA_NOPRUNE": "1",
        }
        if context := options.get("context_tokens"):
            variables["OLLAMA_CONTEXT_LENGTH"] = str(context)
        return {**self.preferred(ctx.launch, variables), "OLLAMA_HOST": f"{ctx.host}:{ctx.port}"}

    def reset_cache(self, client: Client, launch: Launch) -> Reset:
        asked = client.post("/api/generate", {"model": launch.model["name"], "keep_alive": 0})
        loaded: Any = None
        for _ in range(100 if asked.ok else 0):  # unloading takes a moment
            loaded = client.get("/api/ps").fields.get("models")
            if loaded == []:
                break
            time.sleep(0.1)
        return Reset(
            loaded == [], "unload: POST /api/generate with keep_alive 0, then GET /api/ps", f"loaded: {loaded}"
        )

    def evidence(self, client: Client, log: str) -> Evidence:
        version, running = client.get("/api/version"), client.get("/api/ps")
        return Evidence(
            version=version.fields.get("version"),
            raw={"/api/ps": running.text, "/api/tags": client.get("/api/tags").text},
        )
