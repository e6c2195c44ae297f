"""TensorRT-LLM: `trtllm-serve` with its PyTorch backend; what has no flag goes into a configuration file."""

from __future__ import annotations

from typing import Any, ClassVar

import yaml

from servegauge.contract.spec import Launch
from servegauge.frameworks.base import FAIR_DEFAULTS, Client, Context, Evidence, Framework

CONFIG = "trtllm.yaml"


class TensorRtLlm(Framework):
    name = "tensorrt_llm"
    title = "TensorRT-LLM"
    fraction_of_free = True
    source = (
        "TensorRT-LLM 1.2, tensorrt_llm/commands/serve.py, llmapi/llm_args.py (newest) and metrics/collector.py, read"
    )
    exercised = "not exercised"
    metrics_path = "/prometheus/metrics"
    version_argv = ("{python}", "-c", "import importlib.metadata as m; print(m.version('tensorrt_llm'))")
    supported: ClassVar = {
        "context_tokens": "--max_seq_len",
        "kv_cache_dtype": "YAML kv_cache_config.dtype",
        "quantization": "as the model's folder says, no option",
        "prefix_cache": "YAML kv_cache_config.enable_block_reuse",
        "chunked_prefill": "--enable_chunked_prefill /",
        "max_batch": "--max_batch_size",
        "max_batched_tokens": "--max_num_tokens",
        "block_tokens": "YAML kv_cache_config.tokens_per_block",
        "memory_fraction": "YAML kv_cache_config.free_gpu_memory_fraction",
        "dtype": "YAML dtype",
        "graphs": "YAML cuda_graph_config",
        "async_scheduling": "YAML disable_overlap_scheduler",
        "speculative": "YAML speculative_config",
        "dummy_weights": "YAML load_format",
    }
    choices: ClassVar = {
        "kv_cache_dtype": {"auto": "auto", "fp8": "fp8"},
        "quantization": {"none": ""},
        "dtype": {name: name for name in ("auto", "float16", "bfloat16", "float32")},
    }
    layout: ClassVar = {"tp": "--tp_size", "pp": "--pp_size", "ep": "--ep_size"}
    differences: ClassVar = {
        "memory_fraction": "KV cache only, of the memory that is free once the weights are loaded",
        "quantization": "a checkpoint that is quantised already (hf_quant_config.json) is taken as it is",
        "prefix_cache": "on, it cannot be emptied: its cells are flagged",
        "api_key": "it has none; it listens on the loopback only",
    }
    metrics: ClassVar = {
        "requests_running": ["trtllm_num_requests_running"],
        "requests_waiting": ["trtllm_num_requests_waiting"],
        "kv_usage": ["trtllm_kv_cache_utilization"],
        "cache_hit_share": ["trtllm_kv_cache_hit_rate"],
        "prompt_tokens": ["trtllm_prompt_tokens_total"],
        "output_tokens": ["trtllm_generation_tokens_total"],
        "requests_finished": ["trtllm_request_success_total"],
        "ttft_sum_s": ["trtllm_time_to_first_token_seconds_sum"],
        "ttft_count": ["trtllm_time_to_first_token_seconds_count"],
    }
    fair_defaults: ClassVar = {name: value for name, value in FAIR_DEFAULTS.items() if name != "seed"}

    def argv(self, ctx: Context) -> list[str]:
        argv = [*self.program(ctx, "trtllm-serve"), "serve", ctx.model_path, "--backend", "pytorch"]
        argv += ["--host", ctx.host, "--port", str(ctx.port), "--config", str(ctx.work / CONFIG)]
        return [*argv, *self.layout_argv(ctx.launch), *self.option_argv(ctx.launch), *ctx.launch.extra_args]

    def files(self, ctx: Context) -> dict[str, str]:
        return {CONFIG: yaml.safe_dump(self.config(ctx.launch), sort_keys=True)}

    def config(self, launch: Launch) -> dict[str, Any]:
        """The configuration file's content."""
        options = self.options(launch)
        cache = {
            "enable_block_reuse": options.get("prefix_cache", False),
            "dtype": options.get("kv_cache_dtype"),
            "tokens_per_block": options.get("block_tokens"),
            "free_gpu_memory_fraction": options.get("memory_fraction"),
        }
        config: dict[str, Any] = {
            "kv_cache_config": {name: value for name, value in cache.items() if value is not None},
            "enable_iter_perf_stats": True,  # without these two there are no metrics
            "return_perf_metrics": True,
            "cuda_graph_config": {"enable_padding": True} if options.get("graphs", True) else None,
        }
        config |= {"dtype": options["dtype"]} if "dtype" in options else {}
        if "async_scheduling" in options:
            config["disable_overlap_scheduler"] = not options["async_scheduling"]
        config |= {"load_format": "dummy"} if options.get("dummy_weights") else {}
        if speculative := options.get("speculative"):
            kind = {"ngram": "NGram", "draft": "Draft_Target", "eagle3": "Eagle"}[speculative["method"]]
            config["speculative_config"] = {"decoding_type": kind, "max_draft_len": speculative["tokens"]}
            if model := speculative.get("model"):
                config["speculative_config"]["speculative_model_dir"] = model
        return config

    def evidence(self, client: Client, log: str) -> Evidence:
        return Evidence(
            version=client.get("/version").fields.get("version"), raw={"/v1/models": client.get("/v1/models").text}
        )
