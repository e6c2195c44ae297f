"""llama.cpp's `llama-server`, or the same server from the xllamacpp wheel where a site has no such program."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from servegauge.contract.spec import Launch
from servegauge.frameworks.base import Client, Context, Evidence, Framework, Reset

DOOR = Path(__file__).parents[1] / "inputs" / "engines" / "llamacpp_server.py"
KV_DTYPES = {"auto": "f16", "fp16": "f16", "float16": "f16", "fp32": "f32", "float32": "f32", "bfloat16": "bf16"}
KV_OWN = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
SPECULATIVE = {"ngram": "ngram-simple", "draft": "draft-simple", "eagle3": "draft-eagle3"}
# Each open connection takes a thread of llama.cpp's HTTP server for as long as it is open, idle or not. With its
# default of a handful, connections that a client holds ready keep requests waiting until they time out.
HTTP_THREADS = 256
PROBE = "The quick brown fox jumps over the lazy dog and runs away."


class LlamaCpp(Framework):
    name: ClassVar[str] = "llamacpp"
    api_key: ClassVar[str] = "environment"
    title: ClassVar[str] = "llama.cpp"
    source: ClassVar[str] = "tools/server/README.md of llama.cpp, November 2026; xllamacpp 2026.10.11549"
    exercised: ClassVar[str] = "real server, CPU"
    weights: ClassVar[str] = "gguf"
    needs_gpu: ClassVar[bool] = False
    version_argv: ClassVar[Sequence[str]] = ("{python}", str(DOOR), "--version")
    supported: ClassVar[Mapping[str, str]] = {
        "context_tokens": "-c",
        "kv_cache_dtype": "-ctk -ctv",
        "prefix_cache": "--cache-prompt --cache-ram",
        "chunked_prefill": "always on (-b)",
        "max_batch": "-np",
        "max_batched_tokens": "-b -ub",
        "graphs": "GGML_CUDA_DISABLE_GRAPHS",
        "speculative": "--spec-type",
        "lora": "--lora",
        "seed": "-s",
        "threads": "-t -tb",
    }
    choices: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "kv_cache_dtype": KV_DTYPES | {name: name for name in KV_OWN},
        "chunked_prefill": {"True": ""},
    }
    layout: ClassVar[Mapping[str, str]] = {"tp": "-sm row -ts", "pp": "-sm layer -ts"}
    differences: ClassVar[Mapping[str, str]] = {
        "max_batch": "slots, each with its own KV cache of the whole context, taken when the server starts; further "
        "requests wait. `-c` is slots times context_tokens.",
        "prefix_cache": "each slot keeps its last prompt; a request goes to the slot whose prompt is most like its "
        "own. The cache in main memory (--cache-ram) is always off. Off is also asked in every request (cache_prompt).",
        "chunked_prefill": "cannot be switched off: prompts are always cut into pieces of max_batched_tokens.",
        "max_batched_tokens": "both the logical (-b) and the physical (-ub) batch.",
        "kv_cache_dtype": "auto is f16; fp8 does not exist, q8_0 is the nearest.",
        "lora": "GGUF adapter files; every request uses all of them.",
    }
    log_causes: ClassVar[Sequence[str]] = (r"error loading model(?! hyperparameters: key)", r"failed to (?:load|open) ")
    log_follows: ClassVar[Sequence[str]] = (r"exiting due to model loading error", r"failed to load model")
    metrics: ClassVar[Mapping[str, Sequence[str]]] = {
        "requests_running": ("llamacpp:requests_processing",),
        "requests_waiting": ("llamacpp:requests_deferred",),
        "cache_hit_tokens": ("llamacpp:prompt_tokens_cached_total",),
        # prompt_tokens_total counts the computed ones only.
        "cache_query_tokens": ("llamacpp:prompt_tokens_total", "llamacpp:prompt_tokens_cached_total"),
        "prompt_tokens": ("llamacpp:prompt_tokens_total", "llamacpp:prompt_tokens_cached_total"),
        "output_tokens": ("llamacpp:tokens_predicted_total",),
    }
    fair_defaults: ClassVar[Mapping[str, Any]] = {
        "prefix_cache": False,
        "chunked_prefill": True,
        "kv_cache_dtype": "auto",
        "max_batch": 8,
        "max_batched_tokens": 512,
        "graphs": True,
    }

    def argv(self, ctx: Context) -> list[str]:
        slots, context = _option(ctx, "max_batch"), ctx.option("context_tokens") or 0
        batch, dtype = str(_option(ctx, "max_batched_tokens")), _kv_dtype(_option(ctx, "kv_cache_dtype"))
        reuse = _option(ctx, "prefix_cache")
        slots_folder = ["--slot-save-path", str(ctx.work)] if reuse else []  # without it slots cannot be erased
        # The image's program, or the wheel's server under our interpreter, where the site has none of its own.
        program = ["llama-server"] if self.here(ctx.launch).get("container") else [ctx.python, str(DOOR)]
        seed, adapters = ctx.option("seed"), (ctx.option("lora") or {}).values()
        return [
            *self.program(ctx, *program), "-m", ctx.model_path, "-a", ctx.served_name,
            "--host", ctx.host, "--port", str(ctx.port),
            "-c", str(slots * context), "-np", str(slots), "--no-kv-unified", "-b", batch, "-ub", batch,
            "-ctk", dtype, "-ctv", dtype, "-fa", "auto", "-fit", "off", "--no-context-shift",
            "--cache-prompt" if reuse else "--no-cache-prompt", "--cache-ram", "0", *slots_folder,
            "--metrics", "--slots", "--no-webui", "--threads-http", str(HTTP_THREADS), *_threads(ctx), *_gpus(ctx),
            *([] if seed is None else ["-s", str(seed)]), *(["--lora", ",".join(adapters)] if adapters else []),
            *_speculative(ctx), *ctx.launch.extra_args,
        ]  # fmt: skip

    def environment(self, ctx: Context) -> dict[str, str]:
        variables = {"LLAMA_API_KEY": ctx.api_key} if ctx.api_key else {}
        if ctx.option("graphs") is False:
            variables["GGML_CUDA_DISABLE_GRAPHS"] = "1"
        if not self.on_cpu(ctx.launch):  # what the driver compiles for a GPU that the build does not know
            name = "CUDA_CACHE_PATH"
            variables |= self.preferred(ctx.launch, {name: self.compile_caches(ctx)[name]})
        return variables

    def unsupported(self, launch: Launch) -> str | None:
        layout, options = launch.layout, launch.options
        if not launch.model.get("gguf"):
            return f"model {launch.model.get('name')} has no GGUF file (`gguf:` in its file)"
        if not options.get("context_tokens"):
            return "llama.cpp needs context_tokens, in the model's file or the study: each slot reserves that much"
        if layout.tp > 1 and layout.pp > 1:
            return "llama.cpp splits a model by rows (tp) or by layers (pp), not both"
        if layout.dp > 1 or layout.ep > 1:
            return "llama.cpp has no data or expert parallelism; use instances"
        if layout.gpus_per_instance > max(1, launch.platform.get("gpus_per_node") or 0):
            return "one llama.cpp server runs on one node and its GPUs"
        if options.get("chunked_prefill") is False:
            return "llama.cpp always splits prefills"
        dtype = options.get("kv_cache_dtype", "auto")
        if _kv_dtype(dtype) not in KV_OWN:
            return f"llama.cpp has no KV cache of type {dtype} (it has: auto, fp16, {', '.join(KV_OWN)})"
        method = (options.get("speculative") or {}).get("method", "ngram")
        if method not in SPECULATIVE:
            return f"llama.cpp's file knows no speculative method {method} (it knows: {', '.join(SPECULATIVE)})"
        return super().unsupported(launch)

    def request_extras(self, launch: Launch) -> dict[str, Any]:
        return {"cache_prompt": bool(launch.options.get("prefix_cache", False))}

    def reset_cache(self, client: Client, launch: Launch) -> Reset:
        """Off: the same prompt twice must not find itself. On: every slot must answer how many tokens it forgot."""
        if not launch.options.get("prefix_cache", False):
            body = {"prompt": PROBE, "n_predict": 1, "cache_prompt": False}
            replies = [client.post("/completion", body) for _ in range(2)]
            found = [((reply.json() or {}).get("timings") or {}).get("cache_n") for reply in replies]
            how = "prefix cache off; the same prompt sent twice"
            return Reset(
                found == [0, 0], how, f"cached tokens: {found}" if None not in found else replies[-1].text[:300]
            )
        slots = client.get("/slots").json()
        how, answers = "POST /slots/<id>?action=erase for each slot", []
        for slot in [one for one in slots if isinstance(one, dict)] if isinstance(slots, list) else []:
            reply = client.post(f"/slots/{slot.get('id')}?action=erase", {})
            said = reply.json() if reply.ok else None
            if not isinstance(said, dict) or said.get("id_slot") != slot.get("id") or "n_erased" not in said:
                return Reset(False, how, f"slot {slot.get('id')}: HTTP {reply.status} {reply.text[:300]}")
            answers.append(str(said["n_erased"]))
        return Reset(bool(answers), how, f"tokens erased: {', '.join(answers)}" if answers else "no slots were listed")

    def evidence(self, client: Client, log: str) -> Evidence:
        props, slots = client.get("/props").fields, client.get("/slots").json()
        slots = [slot for slot in slots if isinstance(slot, dict)] if isinstance(slots, list) else []
        contexts = {slot.get("n_ctx") for slot in slots}
        line = re.search(r"^version: (.+)$", log, re.MULTILINE)
        held = re.search(r"^parameters: (\{.*\})$", log, re.MULTILINE)  # of the wheel's command line
        params = json.loads(held.group(1)) if held else {}
        # The program says these from -lv 4 on.
        cells = re.search(r"llama_kv_cache: size = .*?\(\s*(\d+) cells.*?(\d+)/\d+ seqs\), K \((\w+)\)", log)
        threads, batch = re.search(r"n_threads = (\d+)", log), re.search(r"n_batch\s+= (\d+)", log)
        attention = re.search(r"Flash Attention was auto, set to (\w+)|flash_attn\s+= (enabled|disabled)", log)
        effective = {
            "attention_backend": f"flash attention {attention[1] or attention[2]}" if attention else None,
            "context_tokens": contexts.pop() if len(contexts) == 1 else None,
            "max_batch": props.get("total_slots"),
            "max_batched_tokens": int(batch.group(1)) if batch else params.get("n_batch"),
            "kv_cache_dtype": cells.group(3) if cells else params.get("cache_type_k"),
            "prefix_cache": params.get("cache_prompt"),
            "threads": int(threads.group(1)) if threads else params.get("n_threads"),
        }
        return Evidence(
            version=line.group(1) if line else props.get("build_info"),
            effective=effective,
            kv_blocks=int(cells.group(1)) * int(cells.group(2)) if cells else None,
            kv_block_tokens=1 if cells else None,
            startup_s=_startup_s(log),
            raw={"props": props, "slots": slots},
        )


def _option(ctx: Context, name: str) -> Any:
    return ctx.option(name, LlamaCpp.fair_defaults[name])


def _kv_dtype(name: str) -> str:
    return KV_DTYPES.get(name, name)


def _threads(ctx: Context) -> list[str]:
    """`threads`, else one for each CPU that the platform gives the server, else llama.cpp's own choice."""
    threads = ctx.option("threads") or len(ctx.launch.placement.server_cpus)
    return ["-t", str(threads), "-tb", str(threads)] if threads else []


def _gpus(ctx: Context) -> list[str]:
    """All layers on the GPUs where there are some; split by rows for tp, by layers for pp."""
    if not ctx.gpus:
        return ["-ngl", "0"]
    count = len(ctx.gpus)
    mode = "none" if count == 1 else "row" if ctx.launch.layout.tp > 1 else "layer"
    return ["-ngl", "all", "-sm", mode, *(["-ts", ",".join(["1"] * count)] if count > 1 else [])]


def _speculative(ctx: Context) -> list[str]:
    how = ctx.option("speculative")
    if not how:
        return []
    size = str(how.get("tokens", 3))
    if how["method"] == "ngram":
        return ["--spec-type", SPECULATIVE["ngram"], "--spec-ngram-simple-size-m", size]
    return ["--spec-type", SPECULATIVE[how["method"]], "-md", how["model"], "--spec-draft-n-max", size]


def _startup_s(log: str) -> dict[str, float]:
    """Parts of the start from the log's own clock (minutes.seconds.milliseconds.microseconds)."""

    def at(words: str) -> float | None:
        found = re.search(rf"^(\d+)\.(\d+)\.(\d+)\.(\d+) .*{words}", log, re.MULTILINE)
        if not found:
            return None
        minutes, seconds, milli, micro = map(int, found.groups())
        return round(60 * minutes + seconds + milli / 1e3 + micro / 1e6, 6)

    begin, end = at("loading model"), at("model loaded")
    return {"weights": round(end - begin, 6)} if begin is not None and end is not None else {}
