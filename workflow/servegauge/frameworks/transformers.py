"""transformers serve: Hugging Face's own server, with continuous batching, on GPUs and CPUs."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, ClassVar

from servegauge.contract.spec import Launch
from servegauge.frameworks.base import FAIR_DEFAULTS, PROFILE, Client, Context, Evidence, Framework, Reply
from servegauge.frameworks.log_parsing import key_values

# The command line has no words for two fields of its own configuration class, so the class is given their values here;
# and nothing tells the others, so what was made of them is printed.
START = (
    "import functools, transformers; from transformers.cli.transformers import app; "
    "config = functools.partial(transformers.ContinuousBatchingConfig, "
    "allow_block_sharing=False, max_requests_per_batch={}); "
    "transformers.ContinuousBatchingConfig = lambda **given: (made := config(**given), print(made, flush=True))[0]; "
    "app()"
)
# neutral name -> fields of that class, of which one is there; what is None there is decided with the first request
BATCHING = {
    "max_batch": ("max_requests_per_batch",), "max_batched_tokens": ("max_batch_tokens",),
    "block_tokens": ("page_size", "block_size"), "memory_fraction": ("max_memory_percent",),
    "graphs": ("use_cuda_graph",), "prefix_cache": ("allow_block_sharing",), "scheduling": ("use_async_batching",),
}  # fmt: skip
WORDS = {"True": True, "False": False}


PROFILED = Path(__file__).parents[1] / "inputs" / "engines" / "transformers_profiled.py"


class Transformers(Framework):
    name = "transformers"
    title = "transformers serve"
    fraction_of_free = True
    source = "transformers 5.23.0, `transformers serve --help` and generation/configuration_utils.py"
    exercised = "real server, CPU"
    needs_gpu = False
    metrics_path = None
    profilers = ("torch", "nsys")
    model_is_path = True
    version_argv = ("{python}", "-c", "import importlib.metadata as m; print(m.version('transformers'))")
    supported: ClassVar = {
        "context_tokens": "the model's own, no option",
        "kv_cache_dtype": "the weights' own, no option",
        "quantization": "as the model's folder says, no option",
        "prefix_cache": "ContinuousBatchingConfig(allow_block_sharing=False)",
        "chunked_prefill": "always on",
        "max_batch": "ContinuousBatchingConfig(max_requests_per_batch)",
        "max_batched_tokens": "--cb-max-batch-tokens",
        "block_tokens": "--cb-block-size",
        "memory_fraction": "--cb-max-memory-percent",
        "dtype": "--dtype",
        "graphs": "--cb-use-cuda-graph / --no-cb-use-cuda-graph",
        "seed": "--default-seed",
        "threads": "OMP_NUM_THREADS",
    }
    choices: ClassVar = {
        "kv_cache_dtype": {"auto": ""},
        "quantization": {"none": ""},
        "prefix_cache": {"False": ""},  # on would be possible, but it cannot be emptied and does not count its hits
        "chunked_prefill": {"True": ""},
        "dtype": {name: name for name in ("auto", "float16", "bfloat16", "float32")},
    }
    differences: ClassVar = {
        "context_tokens": "not a limit here: the model's own context holds, and must be at least this",
        "memory_fraction": "KV cache only, of the memory that is free once the weights are loaded; on a CPU it holds "
        "max_batch requests of context_tokens instead, else it would take that share of the whole machine",
        "max_batched_tokens": "also bounds the KV cache that is read in one step",
        "graphs": "only on a GPU",
        "threads": "only on a CPU",
        "requests": "the space before an answer's first word is left out, so its text is not byte for byte the others'",
        "api_key": "it has none; it listens on the loopback only",
    }
    # No field says "go on", so an end token that no model has is named.
    ignore_eos: ClassVar = {"ignore_eos": None, "generation_config": json.dumps({"eos_token_id": -1})}
    fair_defaults = FAIR_DEFAULTS

    def argv(self, ctx: Context) -> list[str]:
        argv = [*self.program(ctx, ctx.python, *self._start(ctx)), "serve", ctx.model_path, "--continuous-batching"]
        argv += ["--host", ctx.host, "--port", str(ctx.port), "--log-level", "info"]
        own: dict[str, list[str]] = {}
        if self.on_cpu(ctx.launch):
            argv += ["--device", "cpu"]
            options = {**FAIR_DEFAULTS, "context_tokens": 2048, "block_tokens": 256, **ctx.launch.options}
            blocks = options["max_batch"] * math.ceil(options["context_tokens"] / options["block_tokens"])
            own["memory_fraction"] = ["--cb-num-blocks", str(blocks)]
            own["block_tokens"] = ["--cb-block-size", str(options["block_tokens"])]
        else:
            argv += ["--device", "cuda:0"]
        return [*argv, *self.option_argv(ctx.launch, own), *ctx.launch.extra_args]

    def _start(self, ctx: Context) -> list[str]:
        """What Python runs: its own command, for a trace with a profiler in it, which it has none of."""
        most = ctx.launch.options.get("max_batch", FAIR_DEFAULTS["max_batch"])
        if trace := ctx.launch.trace:
            options = {"profiler": trace["profiler"], "steps": trace["steps"], "max_batch": most}
            return [str(PROFILED), json.dumps(options | {"folder": str(ctx.work / PROFILE)})]
        return ["-c", START.format(most)]

    def environment(self, ctx: Context) -> dict[str, str]:
        variables = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **self.compile_caches(ctx)}
        if self.on_cpu(ctx.launch):
            variables |= {"OMP_NUM_THREADS": str(ctx.launch.options.get("threads", 1))}
        return self.preferred(ctx.launch, variables)

    def unsupported(self, launch: Launch) -> str | None:
        asked, own = launch.options.get("context_tokens"), launch.model.get("context_tokens")
        if asked and own and asked > own:
            return f"transformers serve has the model's own context of {own} tokens, not {asked}"
        return super().unsupported(launch)

    def untraceable(self, launch: Launch) -> str | None:
        if (launch.trace or {}).get("profiler") == "torch" and self.here(launch).get("executable"):
            return "the profiler of transformers serve is ours, and the platform's `executable` starts it without"
        return super().untraceable(launch)

    def marks_range(self, launch: Launch) -> bool:
        return super().marks_range(launch) and not self.here(launch).get("executable")

    def start_profile(self, client: Client, launch: Launch) -> Reply | None:
        """Only a traced launch has it."""
        return client.post("/start_profile", timeout_s=90.0) if launch.trace else None

    def stop_profile(self, client: Client, launch: Launch) -> Reply | None:
        return super().stop_profile(client, launch) if launch.trace else None

    def evidence(self, client: Client, log: str) -> Evidence:
        def said(name: str) -> str | None:
            found = re.search(rf'^ +"{name}": "?([^",]+)"?,?$', log, re.MULTILINE)
            return found[1] if found else None

        # The context is the model's, whatever was asked (see `differences`): no difference of this launch.
        raw = {name: said(name) for name in ("max_position_embeddings", "model_type", "use_cache")}
        printed = re.search(r"^ContinuousBatchingConfig\((.*)\)$", log, re.MULTILINE)
        batching = key_values(printed[1]) if printed else {}
        effective: dict[str, Any] = {"dtype": said("dtype")}
        for name, fields in BATCHING.items():
            word = next((batching[field] for field in fields if batching.get(field, "None") != "None"), None)
            if word is not None:
                effective[name] = WORDS[word] if word in WORDS else float(word) if "." in word else int(word)
        if "scheduling" in effective:
            effective["scheduling"] = "async" if effective["scheduling"] else "sync"
        return Evidence(
            version=said("transformers_version"),
            effective=effective,
            raw={**raw, "/health": client.get("/health").text},
        )
