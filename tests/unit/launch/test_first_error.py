"""Logs of servers that died, in the form that each of them prints, and the line that says why."""

from __future__ import annotations

import pytest

from servegauge.frameworks import frameworks
from servegauge.launch.first_error import first_error, of_lines

VLLM = """\
(APIServer pid=701) INFO 11-26 12:00:01 [api_server.py:1839] vLLM API server version 0.26.0
WARNING 11-26 12:00:02 [interface.py:171] Failed to import: ImportError("libcuda.so.1: cannot open shared object")
(EngineCore_DP0 pid=730) INFO 11-26 12:00:20 [core.py:77] Initializing a V1 LLM engine
(EngineCore_DP0 pid=730) ERROR 11-26 12:00:31 [core.py:708] EngineCore failed to start.
(EngineCore_DP0 pid=730) ERROR 11-26 12:00:31 [core.py:708] Traceback (most recent call last):
(EngineCore_DP0 pid=730) ERROR 11-26 12:00:31 [core.py:708]   File "/env/vllm/v1/engine/core.py", line 699, in run
(EngineCore_DP0 pid=730) ERROR 11-26 12:00:31 [core.py:708]     raise ImportError(name)
(EngineCore_DP0 pid=730) ERROR 11-26 12:00:31 [core.py:708] ModuleNotFoundError: No module named 'flashinfer'
(EngineCore_DP0 pid=730) Process EngineCore_DP0:
(EngineCore_DP0 pid=730) Traceback (most recent call last):
(EngineCore_DP0 pid=730)   File "/usr/lib/python3.11/multiprocessing/process.py", line 314, in _bootstrap
(EngineCore_DP0 pid=730) ModuleNotFoundError: No module named 'flashinfer'
(APIServer pid=701) Traceback (most recent call last):
(APIServer pid=701)   File "/env/bin/vllm", line 8, in <module>
(APIServer pid=701) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
VLLM_WORKER = """\
(Worker_TP1 pid=800) ERROR 11-26 12:00:30 [executor.py:597] WorkerProc failed to start.
(Worker_TP1 pid=800) ERROR 11-26 12:00:30 [executor.py:597] Traceback (most recent call last):
(Worker_TP1 pid=800) ERROR 11-26 12:00:30 [executor.py:597]   File "/env/torch/cuda.py", line 1, in f
(Worker_TP1 pid=800) ERROR 11-26 12:00:30 [executor.py:597] torch.OutOfMemoryError: CUDA out of memory. Tried 2.00 GiB.
(EngineCore_DP0 pid=730) ERROR 11-26 12:00:31 [core.py:708] Traceback (most recent call last):
(EngineCore_DP0 pid=730) ERROR 11-26 12:00:31 [core.py:708] Exception: WorkerProc initialization failed due to an error.
(APIServer pid=701) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
SGLANG = """\
[2026-11-26 12:00:01] server_args=ServerArgs(model_path='/models/m', api_key=None)
[2026-11-26 12:00:20 TP0] Scheduler hit an exception: Traceback (most recent call last):
  File "/env/sglang/srt/managers/scheduler.py", line 2700, in run_scheduler_process
    scheduler = Scheduler(server_args)
ValueError: Unsupported architectures: NovelForCausalLM

[2026-11-26 12:00:20] Received sigquit from a child process. It usually means the child failed.
Killed
"""
LLAMACPP = """\
build: 7000 (abcdef) with cc for x86_64-linux-gnu
warning: no usable GPU found, --gpu-layers option will be ignored
srv    load_model: loading model '/models/m.gguf'
gguf_init_from_file: failed to open GGUF file '/models/m.gguf'
llama_model_load: error loading model: llama_model_loader: failed to load model from /models/m.gguf
llama_model_load_from_file_impl: failed to load model
common_init_from_params: failed to load model '/models/m.gguf'
main: exiting due to model loading error
"""
PYDANTIC = """\
(APIServer pid=5) Traceback (most recent call last):
(APIServer pid=5)   File "/env/vllm/config.py", line 1, in __init__
(APIServer pid=5) pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
(APIServer pid=5)   Value error, User-specified max_model_len (99999) is greater than the derived max_model_len (2048).
(APIServer pid=5)     For further information visit https://errors.pydantic.dev/2.12/v/value_error
"""
RANKS = """\
[rank0]: Traceback (most recent call last):
[rank0]:   File "serve.py", line 3, in <module>
[rank0]: torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error
E1126 12:00:00.123456 23456 api.py:882] failed (exitcode: 1) local_rank: 0 (pid: 7) of binary: python
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
"""

LOGS = {
    "an engine's import": ("vllm", VLLM, "ModuleNotFoundError: No module named 'flashinfer'"),
    "a worker out of memory": (
        "vllm", VLLM_WORKER, "torch.OutOfMemoryError: CUDA out of memory. Tried 2.00 GiB.",
    ),
    "a scheduler": ("sglang", SGLANG, "ValueError: Unsupported architectures: NovelForCausalLM"),
    "a file that is not there": (
        "llamacpp", LLAMACPP, "gguf_init_from_file: failed to open GGUF file '/models/m.gguf'",
    ),
    "an option of a wrong value": (
        "vllm", PYDANTIC,
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig Value error, User-specified "
        "max_model_len (99999) is greater than the derived max_model_len (2048).",
    ),
    "a rank": (
        "vllm", RANKS,
        "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error",
    ),
    "an argument": (
        "vllm", "usage: vllm serve [-h]\nvllm: error: unrecognized arguments: --fast\n",
        "vllm: error: unrecognized arguments: --fast",
    ),
    "a library": (
        "tgi",
        "INFO starting\nserver: error while loading shared libraries: libnuma.so.1: cannot open shared object file",
        "server: error while loading shared libraries: libnuma.so.1: cannot open shared object file",
    ),
    "a crash": (
        "tgi",
        "2026-11-26T12:00:00Z INFO started\nthread 'main' panicked at src/main.rs:9:\nno GPU\nAborted (core dumped)",
        "thread 'main' panicked at src/main.rs:9: no GPU",
    ),
    "only what follows": ("vllm", "RuntimeError: Engine core initialization failed. See root cause above.", None),
}  # fmt: skip


@pytest.mark.parametrize("name", LOGS)
def test_the_first_error_of_the_deepest_process_is_found(name):
    family, log, wanted = LOGS[name]
    one = frameworks()[family]
    found = of_lines(log.splitlines(), one.log_causes, one.log_follows)
    assert found == (wanted or log.strip())


@pytest.mark.parametrize(
    "log",
    [
        "",
        "INFO: Uvicorn running on http://127.0.0.1:8000\nINFO 12:00:00 no error was found",
        "WARNING 11-26 12:00:00 [x.py:1] Traceback (most recent call last):\n"
        "WARNING 11-26 12:00:00 [x.py:1] ImportError: no such module, falling back",
    ],
)
def test_a_log_without_an_error_has_none(log):
    assert of_lines(log.splitlines()) is None


def test_only_this_starts_part_of_a_log_counts(tmp_path):
    log = tmp_path / "server.log"
    log.write_text("ERROR: of the start before\n")
    begin = log.stat().st_size
    log.write_text(log.read_text() + "loading\nERROR: of this start\n")
    assert first_error(log, begin=begin) == "of this start"
    assert first_error(tmp_path / "none.log") is None


def test_a_long_line_is_cut_between_words():
    found = of_lines(["ERROR: " + "word " * 78 + "sk-" + "s" * 40 + " end"])
    assert found.endswith("word ...")
    assert "sk-" not in found, "half a secret is not recognised as one"
