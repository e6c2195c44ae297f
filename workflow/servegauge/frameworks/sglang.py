"""SGLang: `python -m sglang.launch_server`, on GPUs and, with SGLANG_USE_CPU_ENGINE, on CPUs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from servegauge.contract.spec import Launch
from servegauge.frameworks.base import FAIR_DEFAULTS, PROFILE, Client, Context, Evidence, Framework, Reply, Reset

SPECULATIVE = {"ngram": "NGRAM", "draft": "STANDALONE", "eagle3": "EAGLE3"}
CONFIG = "sglang.yaml"
# neutral name -> where /server_info has it
REPORTED = {
    "context_tokens": "context_length", "kv_cache_dtype": "kv_cache_dtype", "quantization": "quantization",
    "max_batch": "max_running_requests", "max_batched_tokens": "max_prefill_tokens", "block_tokens": "page_size",
    "memory_fraction": "mem_fraction_static", "dtype": "dtype", "seed": "random_seed", "tp": "tp_size",
    "pp": "pp_size", "dp": "dp_size", "ep": "ep_size",
}  # fmt: skip
# part of the start -> where `startup_time` of /server_info has it
STARTUP = {
    "weights": "load_weight", "kv_cache": "kv_cache_allocation", "graphs": "cuda_graph", "engine": "scheduler_e2e",
    "tokenizer": "tokenizer_e2e",
}  # fmt: skip
# the same from the log, for versions that have no `startup_time`
STARTUP_LOG = {
    "weights": r"Load weight end\. elapsed=([\d.]+) s",
    "graphs": r"Capture decode CUDA graph end\. elapsed=([\d.]+) s",
}


class Sglang(Framework):
    name = "sglang"
    title = "SGLang"
    source = "SGLang 0.5.23, its own argument parser, srt/entrypoints/http_server.py and observability/"
    exercised = "real server, CPU (its GPU kernels stubbed: envs/sglang-cpu.stubs.py); own parser"
    needs_gpu = False
    api_key = "private file"
    profilers = ("torch", "nsys")
    version_argv = ("{python}", "-c", "import importlib.metadata as m; print(m.version('sglang'))")
    adapter_field = "lora_path"
    supported: ClassVar = {
        "context_tokens": "--context-length",
        "kv_cache_dtype": "--kv-cache-dtype",
        "quantization": "--quantization",
        "prefix_cache": "/ --disable-radix-cache",
        "chunked_prefill": "--chunked-prefill-size (-1: off)",
        "max_batch": "--max-running-requests",
        "max_batched_tokens": "--max-prefill-tokens --chunked-prefill-size",
        "block_tokens": "--page-size",
        "memory_fraction": "--mem-fraction-static",
        "dtype": "--dtype",
        "graphs": "--cuda-graph-backend-decode full / "
        "--cuda-graph-backend-decode disabled --cuda-graph-backend-prefill disabled",
        "async_scheduling": "/ --disable-overlap-schedule",
        "speculative": "--speculative-algorithm --speculative-num-draft-tokens --speculative-draft-model-path",
        "lora": "--enable-lora --lora-paths",
        "dummy_weights": "--load-format dummy /",
        "seed": "--random-seed",
        "threads": "OMP_NUM_THREADS",
        "multimodal_limits": "--limit-mm-data-per-request",
    }
    choices: ClassVar = {
        "kv_cache_dtype": {
            "auto": "auto", "bf16": "bf16", "fp8": "fp8_e4m3", "fp8_e4m3": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2",
        },
        "quantization": {"none": "", "fp8": "fp8", "awq": "awq", "gptq": "gptq"},
        "dtype": {name: name for name in ("auto", "float16", "bfloat16", "float32")},
    }  # fmt: skip
    layout: ClassVar = {
        "tp": "--tp-size",
        "pp": "--pp-size",
        "dp": "--dp-size",
        "ep": "--ep-size",
        "nodes": "--nnodes --node-rank --dist-init-addr",
    }
    differences: ClassVar = {
        "memory_fraction": "weights and KV cache only, of the memory that is free when the server starts; instances "
        "that share a GPU start one after the other and get correspondingly more of what is left; on a CPU the KV "
        "cache also holds no more than max_batch requests of context_tokens (--max-total-tokens)",
        "graphs": "decode graphs; prefill graphs are SGLang's own choice while graphs are on; a CPU has none, so on is "
        "a difference there",
        "threads": "only on a CPU",
        "max_batched_tokens": "tokens of a prefill step; decode tokens come on top",
    }
    log_follows: ClassVar = (r"Received sigquit from a child process",)
    metrics: ClassVar = {
        "requests_running": ["sglang:num_running_reqs"],
        "requests_waiting": ["sglang:num_queue_reqs"],
        "kv_usage": ["sglang:token_usage"],
        "cache_hit_tokens": ["sglang:cached_tokens_total"],
        "cache_query_tokens": ["sglang:prompt_tokens_total"],
        "preemptions": ["sglang:num_retracted_requests_total"],
        "prompt_tokens": ["sglang:prompt_tokens_total"],
        "output_tokens": ["sglang:generation_tokens_total"],
        "requests_finished": ["sglang:num_requests_total"],
        "acceptance_length": ["sglang:spec_accept_length"],
        "ttft_sum_s": ["sglang:time_to_first_token_seconds_sum"],
        "ttft_count": ["sglang:time_to_first_token_seconds_count"],
    }
    fair_defaults = FAIR_DEFAULTS

    def options(self, launch: Launch, instance: int = 0) -> dict[str, Any]:
        options = super().options(launch)
        if launch.layout.share_gpu and (share := options.get("memory_fraction")) is not None:
            options["memory_fraction"] = round(share / (1 - instance * share), 6)
        return options

    def argv(self, ctx: Context) -> list[str]:
        options = self.options(ctx.launch, ctx.instance)
        tokens, own = options.get("max_batched_tokens"), {}
        if tokens:
            own["max_batched_tokens"] = ["--max-prefill-tokens", str(tokens)]
        if "chunked_prefill" in options:
            chunk = str(tokens or 8192) if options["chunked_prefill"] else "-1"
            own["chunked_prefill"] = ["--chunked-prefill-size", chunk]
        if "memory_fraction" in options:
            own["memory_fraction"] = ["--mem-fraction-static", str(options["memory_fraction"])]
        if self.on_cpu(ctx.launch) and (bound := _most_tokens(options)):
            # Else the KV cache would take memory_fraction of the whole machine's memory, and seconds to clear it.
            own["memory_fraction"] = [*own.get("memory_fraction", []), "--max-total-tokens", str(bound)]
        if speculative := options.get("speculative"):
            own["speculative"] = ["--speculative-algorithm", SPECULATIVE[speculative["method"]]]
            own["speculative"] += ["--speculative-num-draft-tokens", str(speculative["tokens"])]
            if model := speculative.get("model"):
                own["speculative"] += ["--speculative-draft-model-path", model]
        if lora := options.get("lora"):
            own["lora"] = ["--enable-lora", "--lora-paths", *(f"{name}={path}" for name, path in lora.items())]
        argv = [*self.program(ctx, ctx.python, "-m", "sglang.launch_server"), "--model-path", ctx.model_path]
        argv += ["--config", str(ctx.work / CONFIG)] if ctx.api_key else []
        argv += ["--host", ctx.host, "--port", str(ctx.port), "--served-model-name", ctx.served_name]
        # Sampling defaults in the model's folder would change what a request asks for.
        argv += ["--sampling-defaults", "openai", "--enable-metrics", "--enable-cache-report"]
        argv += ["--log-level-http", "warning", *self.layout_argv(ctx.launch)]
        argv += ["--device", "cpu"] if self.on_cpu(ctx.launch) else []
        if ctx.nodes > 1:
            argv += ["--nnodes", str(ctx.nodes), "--node-rank", str(ctx.node_rank)]
            argv += ["--dist-init-addr", f"{ctx.head_address}:{ctx.head_port}"]
        return [*argv, *self.option_argv(ctx.launch, own), *ctx.launch.extra_args]

    def files(self, ctx: Context) -> dict[str, str]:
        return {CONFIG: f"api-key: {json.dumps(ctx.api_key)}\n"} if ctx.api_key else {}

    def environment(self, ctx: Context) -> dict[str, str]:
        variables = {"SGLANG_CACHE_DIR": str(ctx.cache / "sglang"), **self.compile_caches(ctx)}
        if self.on_cpu(ctx.launch):
            variables |= {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": str(ctx.option("threads", 1))}
            variables |= _bound_threads(ctx.launch)
        if ctx.profile:
            variables["SGLANG_TORCH_PROFILER_DIR"] = str(ctx.work / PROFILE)
        return self.preferred(ctx.launch, variables)

    def ready(self, client: Client) -> bool:
        """`/ready` only reads a state; `/health`, for versions without it, computes a token and takes a second."""
        reply = client.get("/ready")
        return (client.get("/health") if reply.status == 404 else reply).ok

    def reset_cache(self, client: Client, launch: Launch) -> Reset:
        """A flush is refused (400) while a request runs, so one that its client has left is waited for."""
        if not launch.options.get("prefix_cache"):
            return Reset(True, "cache off", "--disable-radix-cache")
        return self.retried_reset(lambda: self._flush(client), retry=(400, 503))

    def _flush(self, client: Client) -> tuple[Reset, int]:
        reply = client.post("/flush_cache")
        done = reply.ok and reply.text.startswith("Cache flushed")
        return Reset(done, "POST /flush_cache", f"{reply.status} {reply.text}"), reply.status

    def evidence(self, client: Client, log: str) -> Evidence:
        said = client.get("/server_info").fields
        states = [one for one in said.get("internal_states") or () if isinstance(one, dict)]
        effective: dict[str, Any] = {name: said.get(key) for name, key in REPORTED.items()}
        if "disable_radix_cache" in said:
            effective["prefix_cache"] = not said["disable_radix_cache"]
        if said.get("chunked_prefill_size") is not None:
            effective["chunked_prefill"] = said["chunked_prefill_size"] > 0
        # Of a prefill that has kernels of its own; else one backend does both.
        parts = [
            said.get(f"{part}_attention_backend") or said.get("attention_backend") for part in ("prefill", "decode")
        ]
        if all(parts):
            effective["attention_backend"] = " / ".join(dict.fromkeys(map(str, parts)))
        if "disable_overlap_schedule" in said:
            effective["scheduling"] = "sync" if said["disable_overlap_schedule"] else "async"
        # The batch sizes whose graphs were captured, of each data parallel rank: none, and every step is eager.
        captured = [state["decode_cuda_graph_bs"] for state in states if "decode_cuda_graph_bs" in state]
        if captured:
            effective["graphs"] = all(captured)
        if len(states) == 1 and states[0].get("effective_max_running_requests_per_dp"):
            effective["max_batch"] = states[0]["effective_max_running_requests_per_dp"]
        tokens, page = said.get("max_total_num_tokens"), said.get("page_size")
        return Evidence(
            version=said.get("version"),
            effective=effective,
            kv_blocks=tokens // page if tokens and page else None,
            kv_block_tokens=page,
            startup_s=_startup_s(said.get("startup_time"), log),
            raw={"/server_info": said},
        )

    def start_profile(self, client: Client, launch: Launch) -> Reply:
        """For a trace as many steps as it asks for, without stacks; else CUDA's own profiler, where there is a GPU.

        CUDA's is what nsys listens to; without a GPU it would end the server.
        """
        trace = launch.trace or {}
        if self.on_cpu(launch):
            activities = ["CPU"]
        else:
            activities = ["CPU", "GPU"] if trace.get("profiler") == "torch" else ["CUDA_PROFILER"]
        bound = {"num_steps": trace["steps"], "with_stack": False, "record_shapes": False} if trace else {}
        return client.post("/start_profile", {"activities": activities, **bound})


def _most_tokens(options: Mapping[str, Any]) -> int | None:
    """Tokens of `max_batch` requests of `context_tokens` each, in whole pages; None where one is not known."""
    context, batch, page = options.get("context_tokens"), options.get("max_batch"), options.get("block_tokens") or 1
    return batch * math.ceil(context / page) * page if context and batch else None


def _bound_threads(launch: Launch) -> dict[str, str]:
    """Which CPUs each rank's threads are bound to, of those that the placement gives: SGLang takes all by itself."""
    cpus = launch.placement.server_cpus
    ranks = launch.layout.tp * launch.layout.pp * launch.layout.dp
    each = launch.options.get("threads") or len(cpus) // ranks
    if not each or len(cpus) < each * ranks:
        return {}
    groups = [cpus[rank * each : (rank + 1) * each] for rank in range(ranks)]
    return {"SGLANG_CPU_OMP_THREADS_BIND": "|".join(",".join(map(str, group)) for group in groups)}


def _startup_s(said: Any, log: str) -> dict[str, float]:
    """Seconds of each part of the start; what the server says of itself wins over its log."""
    found = {part: float(at[1]) for part, text in STARTUP_LOG.items() if (at := re.search(text, log))}
    for part, name in STARTUP.items():
        value = said.get(name) if isinstance(said, dict) else None
        if isinstance(value, dict):  # the graphs of each phase; none were captured where all are 0
            value = math.fsum(value.values()) or None
        if isinstance(value, int | float):
            found[part] = float(value)
    return found
