"""TGI, Hugging Face's text-generation-inference (in maintenance mode): `text-generation-launcher`."""

from __future__ import annotations

from typing import ClassVar

from servegauge.contract.spec import Launch
from servegauge.frameworks.base import FAIR_DEFAULTS, Client, Context, Evidence, Framework


class Tgi(Framework):
    name = "tgi"
    title = "TGI"
    source = "text-generation-inference 3, docs/source/reference/launcher.md and launcher/src/main.rs, read"
    exercised = "not exercised"
    api_key = "environment"
    version_argv = ("text-generation-launcher", "--version")
    adapter_field = "model"
    supported: ClassVar = {
        "context_tokens": "--max-total-tokens --max-input-tokens",
        "kv_cache_dtype": "--kv-cache-dtype",
        "quantization": "--quantize",
        "prefix_cache": "PREFIX_CACHING",
        "chunked_prefill": "PREFILL_CHUNKING",
        "max_batch": "--max-batch-size",
        "max_batched_tokens": "--max-batch-prefill-tokens",
        "memory_fraction": "--cuda-memory-fraction",
        "dtype": "--dtype",
        "graphs": "/ --cuda-graphs 0",
        "speculative": "--speculate",
        "lora": "--lora-adapters",
    }
    choices: ClassVar = {
        "kv_cache_dtype": {"auto": "", "fp8": "fp8_e4m3fn", "fp8_e4m3": "fp8_e4m3fn", "fp8_e5m2": "fp8_e5m2"},
        "quantization": {"none": "", "fp8": "fp8", "awq": "awq", "gptq": "gptq"},
        "dtype": {"auto": "", "float16": "float16", "bfloat16": "bfloat16"},
    }
    layout: ClassVar = {"tp": "--num-shard"}
    differences: ClassVar = {
        "max_batch": "only where batches are padded; else the KV cache is the limit",
        "max_batched_tokens": "tokens of a prefill step",
        "speculative": "n-gram, or the model's own Medusa heads",
        "prefix_cache": "on, it cannot be emptied: its cells are flagged",
        "requests": "it stops at the end token, ignore_eos is not known: outputs can be shorter than asked",
    }
    metrics: ClassVar = {
        "requests_running": ["tgi_batch_current_size"],
        "requests_waiting": ["tgi_queue_size"],
        "prompt_tokens": ["tgi_request_input_length_sum"],
        "output_tokens": ["tgi_request_generated_tokens_sum"],
        "requests_finished": ["tgi_request_success"],
    }
    ignore_eos: ClassVar = {"ignore_eos": None}
    fair_defaults: ClassVar = {name: value for name, value in FAIR_DEFAULTS.items() if name != "seed"}

    def argv(self, ctx: Context) -> list[str]:
        options, own = ctx.launch.options, {}
        if context := options.get("context_tokens"):
            # A prompt may be all but one token long, as with the other servers.
            own["context_tokens"] = ["--max-total-tokens", str(context), "--max-input-tokens", str(context - 1)]
        if speculative := options.get("speculative"):
            own["speculative"] = ["--speculate", str(speculative["tokens"])]
        if lora := options.get("lora"):
            own["lora"] = ["--lora-adapters", ",".join(f"{name}={path}" for name, path in lora.items())]
        argv = [*self.program(ctx, "text-generation-launcher"), "--model-id", ctx.model_path, "--hostname", ctx.host]
        argv += ["--port", str(ctx.port), "--max-concurrent-requests", "100000", "--usage-stats", "off"]
        argv += ["--shard-uds-path", str(ctx.work / "shard"), "--disable-grammar-support"]
        return [*argv, *self.layout_argv(ctx.launch), *self.option_argv(ctx.launch, own), *ctx.launch.extra_args]

    def environment(self, ctx: Context) -> dict[str, str]:
        options = ctx.launch.options
        variables = {
            "PREFIX_CACHING": "true" if options.get("prefix_cache") else "false",
            "PREFILL_CHUNKING": "true" if options.get("chunked_prefill", True) else "false",
        }
        key = {"API_KEY": ctx.api_key} if ctx.api_key else {}
        return {**self.preferred(ctx.launch, variables), **key}

    def unsupported(self, launch: Launch) -> str | None:
        method = (launch.options.get("speculative") or {}).get("method", "ngram")
        if method != "ngram":
            return f"TGI has no speculative decoding by {method}, only ngram"
        return super().unsupported(launch)

    def evidence(self, client: Client, log: str) -> Evidence:
        said = client.get("/info").fields
        effective = {"context_tokens": said.get("max_total_tokens"), "dtype": said.get("model_dtype")}
        return Evidence(
            version=said.get("version"),
            effective={
                name: str(value).removeprefix("torch.") for name, value in effective.items() if value is not None
            },
            raw={"/info": said},
        )
