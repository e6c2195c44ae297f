"""DeepSpeed-MII (FastGen): its OpenAI-compatible server."""

from __future__ import annotations

from typing import ClassVar

from servegauge.frameworks.base import Context, Framework


class Mii(Framework):
    name = "mii"
    title = "DeepSpeed-MII"
    source = "DeepSpeed-MII 0.3.3, mii/entrypoints/openai_api_server.py, its own argument parser"
    exercised = "own parser"
    metrics_path = None
    model_is_path = True
    version_argv = ("{python}", "-c", "import importlib.metadata as m; print(m.version('deepspeed-mii'))")
    supported: ClassVar = {
        "context_tokens": "--max_length",
        "kv_cache_dtype": "the weights' own, no option",
        "quantization": "no option",
        "prefix_cache": "has none",
        "chunked_prefill": "always on (dynamic SplitFuse)",
        "dtype": "the weights' own, no option",
        "graphs": "no option",
    }
    choices: ClassVar = {
        "kv_cache_dtype": {"auto": ""},
        "quantization": {"none": ""},
        "prefix_cache": {"False": ""},
        "chunked_prefill": {"True": ""},
        "dtype": {"auto": ""},
        "graphs": {"False": ""},
    }
    layout: ClassVar = {"tp": "--tensor-parallel", "dp": "--replica-num"}
    differences: ClassVar = {
        "graphs": "it has none",
        "requests": "it stops at the end token, ignore_eos is not known: outputs can be shorter than asked",
        "api_key": "argv is the only way, so there is none; it listens on the loopback only",
    }
    ignore_eos: ClassVar = {"ignore_eos": None}
    fair_defaults: ClassVar = {
        "prefix_cache": False, "chunked_prefill": True, "kv_cache_dtype": "auto", "dtype": "auto",
        "quantization": "none", "graphs": False,
    }  # fmt: skip

    def argv(self, ctx: Context) -> list[str]:
        argv = [*self.program(ctx, ctx.python, "-m", "mii.entrypoints.openai_api_server"), "--model", ctx.model_path]
        argv += ["--deployment-name", f"servegauge-{ctx.port}", "--host", ctx.host, "--port", str(ctx.port)]
        return [*argv, *self.layout_argv(ctx.launch), *self.option_argv(ctx.launch), *ctx.launch.extra_args]
