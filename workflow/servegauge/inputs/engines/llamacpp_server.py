"""llama.cpp's own HTTP server from the `xllamacpp` wheel, started with the flags of the `llama-server` program.

The wheel holds llama.cpp's server as a library without its command line. This file gives it one, so that the argv
which `frameworks/llamacpp.py` makes is the same here and for a `llama-server` on a cluster. It takes the flags that
matter for measuring and refuses all others by name; nothing is guessed. The server runs in this process on its own
threads; this thread waits for SIGTERM or SIGINT, then destroys it. The API key comes from the variable LLAMA_API_KEY or
from `--api-key-file`, as with the program. Run by the interpreter of the environment `llamacpp`, as a file.

Flags as of llama.cpp's tools/server/README.md in November 2026.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import xllamacpp

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
SPLIT_MODES = ("none", "layer", "row", "tensor")
SPECULATIVE = ("none", "draft-simple", "draft-eagle3", "ngram-simple")
ALL_LAYERS = -2  # what the program makes of `-ngl all`; -1 is auto

Params = Any  # xllamacpp.CommonParams: a compiled class without type information


def parser() -> argparse.ArgumentParser:
    """The command line. Attribute names are llama.cpp's long flags with underscores."""
    flags = argparse.ArgumentParser(prog="llamacpp_server", description=__doc__, allow_abbrev=False)
    add, switch = flags.add_argument, argparse.BooleanOptionalAction
    add("--version", action="store_true", help="show the versions and leave")
    add("-m", "--model", help="GGUF file")
    add("-a", "--alias", default="", help="the model's name in requests and answers")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8080)
    add("--api-key-file", type=Path)
    add("-c", "--ctx-size", type=int, default=0, help="tokens of context of all slots together")
    add("-np", "--parallel", type=int, default=1, help="slots")
    add("-kvu", "--kv-unified", action="store_true")
    add("-no-kvu", "--no-kv-unified", dest="kv_unified", action="store_false")
    add("-b", "--batch-size", type=int, default=2048)
    add("-ub", "--ubatch-size", type=int, default=512)
    add("-ctk", "--cache-type-k", choices=KV_TYPES, default="f16")
    add("-ctv", "--cache-type-v", choices=KV_TYPES, default="f16")
    add("-fa", "--flash-attn", choices=("on", "off", "auto"), default="auto")
    add("-t", "--threads", type=int, default=-1)
    add("-tb", "--threads-batch", type=int, default=None)
    add("--threads-http", type=int, default=-1)
    add("-ngl", "--gpu-layers", "--n-gpu-layers", default="auto", help="a number, auto or all")
    add("-sm", "--split-mode", choices=SPLIT_MODES, default="layer")
    add("-ts", "--tensor-split", default="")
    add("-mg", "--main-gpu", type=int, default=0)
    add("-fit", "--fit", choices=("on", "off"), default="on")
    add("--cache-prompt", action=switch, default=True)
    add("-cram", "--cache-ram", type=int, default=8192, help="MiB of memory for prompts of idle slots")
    add("-ctxcp", "--ctx-checkpoints", type=int, default=32)
    add("--slot-save-path", default="")
    add("-cb", "--cont-batching", action="store_true", default=True)
    add("-nocb", "--no-cont-batching", dest="cont_batching", action="store_false")
    add("--context-shift", action=switch, default=False)
    add("--warmup", action=switch, default=True)
    add("--metrics", action="store_true")
    add("--props", action="store_true")
    add("--slots", action=switch, default=True)
    add("--ui", "--webui", action=switch, default=True)
    add("-s", "--seed", type=int, default=-1)
    add("-lv", "--verbosity", "--log-verbosity", type=int, default=3)
    add("--lora", default="", help="adapter files, separated by commas")
    add("--spec-type", choices=SPECULATIVE, default="none")
    add("-md", "--spec-draft-model", "--model-draft", default="")
    add("--spec-draft-n-max", type=int, default=3)
    add("--spec-ngram-simple-size-m", type=int, default=48)
    return flags


def parameters(arguments: argparse.Namespace) -> Params:
    """llama.cpp's own parameters for `arguments`; ValueError for a value that it does not have."""
    given = arguments
    params = xllamacpp.CommonParams()
    params.model.path = given.model
    params.model_alias = {given.alias} if given.alias else set()
    params.port = given.port
    if hasattr(params, "hostnames"):
        params.hostnames = [given.host]
    else:  # xllamacpp before 2026.10
        params.hostname = given.host
    params.n_ctx, params.n_parallel, params.kv_unified = given.ctx_size, given.parallel, given.kv_unified
    params.n_batch, params.n_ubatch = given.batch_size, given.ubatch_size
    params.cache_type_k = _enum(xllamacpp.ggml_type, "GGML_TYPE_", given.cache_type_k)
    params.cache_type_v = _enum(xllamacpp.ggml_type, "GGML_TYPE_", given.cache_type_v)
    attention = {"on": "enabled", "off": "disabled", "auto": "auto"}[given.flash_attn]
    params.flash_attn_type = _enum(xllamacpp.llama_flash_attn_type, "LLAMA_FLASH_ATTN_TYPE_", attention)
    # Without a number llama.cpp counts the machine's cores, also where this process may use only some of them.
    threads = given.threads if given.threads > 0 else len(os.sched_getaffinity(0))
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = given.threads_batch or threads
    params.n_threads_http = given.threads_http
    params.n_gpu_layers = {"auto": -1, "all": ALL_LAYERS}.get(given.gpu_layers) or int(given.gpu_layers)
    params.split_mode = _enum(xllamacpp.llama_split_mode, "LLAMA_SPLIT_MODE_", given.split_mode)
    params.main_gpu = given.main_gpu
    if given.tensor_split:
        shares = [float(share) for share in given.tensor_split.split(",")]
        params.tensor_split = shares + [0.0] * (len(params.tensor_split) - len(shares))
    params.fit_params = given.fit == "on"
    params.cache_prompt, params.cache_ram_mib = given.cache_prompt, given.cache_ram
    params.n_ctx_checkpoints = given.ctx_checkpoints
    params.slot_save_path = os.path.join(given.slot_save_path, "") if given.slot_save_path else ""
    params.cont_batching, params.ctx_shift, params.warmup = given.cont_batching, given.context_shift, given.warmup
    params.endpoint_metrics, params.endpoint_props, params.endpoint_slots = given.metrics, given.props, given.slots
    params.ui = given.ui
    params.verbosity = given.verbosity
    if given.seed >= 0:
        params.sampling.seed = given.seed
    params.lora_adapters = [_adapter(path) for path in given.lora.split(",") if path]
    _speculative(params, given)
    params.api_keys = _api_keys(given.api_key_file)
    return params


def _enum(kind: Any, prefix: str, name: str) -> Any:
    return getattr(kind, prefix + name.upper())


def _adapter(path: str) -> Any:
    adapter = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = path, 1.0
    return adapter


def _speculative(params: Params, given: argparse.Namespace) -> None:
    if given.spec_type == "none":
        return
    kind = "COMMON_SPECULATIVE_TYPE_" + given.spec_type.upper().replace("-", "_")
    params.speculative.types = [getattr(xllamacpp.common_speculative_type, kind)]
    params.speculative.draft.mparams.path = given.spec_draft_model
    params.speculative.draft.n_max = given.spec_draft_n_max
    params.speculative.ngram_simple.size_m = given.spec_ngram_simple_size_m


def _api_keys(file: Path | None) -> list[str]:
    keys = [key for key in os.environ.pop("LLAMA_API_KEY", "").split(",") if key]
    if file:
        lines = file.read_text(encoding="utf-8").splitlines()
        keys += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return keys


def said(params: Params) -> dict[str, Any]:
    """What llama.cpp's parameters hold now, read back: its log says these only at a level that slows requests."""
    threads = params.cpuparams.n_threads
    kinds = [kind.name.removeprefix("GGML_TYPE_").lower() for kind in (params.cache_type_k, params.cache_type_v)]
    return {"n_batch": params.n_batch, "n_threads": threads, "cache_type_k": kinds[0], "cache_type_v": kinds[1],
            "cache_prompt": params.cache_prompt, "cache_ram_mib": params.cache_ram_mib}  # fmt: skip


def version() -> str:
    """The wheel's version, and the build of llama.cpp in it as far as it says."""
    build = xllamacpp.BUILD_INFO
    wheel = importlib.metadata.version("xllamacpp")
    return f"xllamacpp {wheel} (llama.cpp build {build['build_number']}, commit {build['commit']}, {build['compiler']})"


def main() -> int:
    arguments = parser().parse_args()
    print(f"version: {version()}", flush=True)
    if arguments.version:
        return 0
    if not arguments.model:
        parser().error("-m is needed: a GGUF file")
    # Blocked here and so in every thread that llama.cpp starts; sigwait below is the only one that takes them.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        params = parameters(arguments)
        print(f"parameters: {json.dumps(said(params))}", flush=True)
        server = xllamacpp.Server(params)
    except (RuntimeError, ValueError, OSError) as error:
        print(f"error: llama.cpp did not start: {error}", file=sys.stderr, flush=True)
        return 1
    print(f"listening on {server.listening_address}", flush=True)
    received = signal.sigwait(signals)
    print(f"stopping: {signal.Signals(received).name}", flush=True)
    del server
    return 0


if __name__ == "__main__":
    sys.exit(main())
