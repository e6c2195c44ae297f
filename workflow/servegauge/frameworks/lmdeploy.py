"""LMDeploy: `lmdeploy serve api_server` with its PyTorch engine."""

from __future__ import annotations

from typing import ClassVar

from servegauge.frameworks.base import FAIR_DEFAULTS, Context, Framework


class LmDeploy(Framework):
    name = "lmdeploy"
    title = "LMDeploy"
    fraction_of_free = True
    source = "LMDeploy 0.18.0, its own argument parser"
    exercised = "own parser"
    version_argv = ("{python}", "-c", "import importlib.metadata as m; print(m.version('lmdeploy'))")
    adapter_field = "model"
    supported: ClassVar = {
        "context_tokens": "--session-len",
        "kv_cache_dtype": "--quant-policy",
        "quantization": "--model-format",
        "prefix_cache": "--enable-prefix-caching /",
        "chunked_prefill": "always on",
        "max_batch": "--max-batch-size",
        "max_batched_tokens": "--max-prefill-token-num",
        "block_tokens": "--cache-block-seq-len",
        "memory_fraction": "--cache-max-entry-count",
        "dtype": "--dtype",
        "lora": "--adapters",
        "graphs": "/ --eager-mode",
    }
    choices: ClassVar = {
        "kv_cache_dtype": {"auto": "0", "int4": "4", "int8": "8", "fp8": "fp8", "fp8_e5m2": "fp8_e5m2"},
        "quantization": {"none": "", "fp8": "fp8", "awq": "awq", "gptq": "gptq"},
        "chunked_prefill": {"True": ""},
        "dtype": {name: name for name in ("auto", "float16", "bfloat16")},
    }
    layout: ClassVar = {"tp": "--tp", "dp": "--dp", "ep": "--ep"}
    differences: ClassVar = {
        "memory_fraction": "KV cache only, of the memory that is free once the weights are loaded",
        "max_batched_tokens": "tokens of a prefill step; decode tokens come on top",
        "prefix_cache": "on, it cannot be emptied: its cells are flagged",
        "graphs": "the PyTorch engine only, which these files use because it has most of the options",
        "api_key": "argv is the only way, so there is none; it listens on the loopback only",
    }
    metrics: ClassVar = {
        "requests_running": ["lmdeploy:num_requests_running"],
        "requests_waiting": ["lmdeploy:num_requests_waiting"],
        "kv_usage": ["lmdeploy:gpu_cache_usage_perc"],
        "cache_hit_tokens": ["lmdeploy:cached_tokens_total"],
        "cache_query_tokens": ["lmdeploy:prompt_tokens_total"],
        "prompt_tokens": ["lmdeploy:prompt_tokens_total"],
        "output_tokens": ["lmdeploy:generation_tokens_total"],
        "requests_finished": ["lmdeploy:request_success_total"],
        "ttft_sum_s": ["lmdeploy:time_to_first_token_seconds_sum"],
        "ttft_count": ["lmdeploy:time_to_first_token_seconds_count"],
    }
    fair_defaults = FAIR_DEFAULTS

    def argv(self, ctx: Context) -> list[str]:
        lora = ctx.launch.options.get("lora") or {}
        own = {"lora": ["--adapters", *(f"{name}={path}" for name, path in lora.items())]} if lora else {}
        argv = [*self.program(ctx, ctx.python, "-m", "lmdeploy"), "serve", "api_server", ctx.model_path]
        argv += ["--backend", "pytorch", "--server-name", ctx.host, "--server-port", str(ctx.port)]
        argv += ["--model-name", ctx.served_name, *self.layout_argv(ctx.launch)]
        return [*argv, *self.option_argv(ctx.launch, own), *ctx.launch.extra_args]

    def environment(self, ctx: Context) -> dict[str, str]:
        return self.preferred(ctx.launch, self.compile_caches(ctx))
