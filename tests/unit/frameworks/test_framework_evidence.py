"""What frameworks read from logs and answers that this machine's servers do not give: GPU starts, larger engines."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest

from servegauge.contract.spec import Launch, Layout
from servegauge.frameworks import base, framework
from servegauge.frameworks.base import Reply
from servegauge.frameworks.log_parsing import key_values, labels_of, seconds
from servegauge.frameworks.reported_config import evidence_flags
from tests.framework_launches import PLATFORM, context, fair

VLLM_LOG = """\
(APIServer pid=1) INFO 11-21 10:59:58 [api_utils.py:347]  ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.33.0
(EngineCore pid=2) INFO 11-21 11:00:08 [core.py:133] Initializing a V1 LLM engine (v0.33.0) with config: \
model='/models/m', dtype=torch.bfloat16, max_seq_len=4096, tensor_parallel_size=2, pipeline_parallel_size=1, \
data_parallel_size=1, quantization=fp8, enforce_eager=False, kv_cache_dtype=fp8, seed=7, enable_chunked_prefill=True
(APIServer pid=1) INFO 11-21 10:59:59 [api_utils.py:286] non-default args: {'model_tag': '/models/m', \
'max_num_seqs': 64, 'max_num_batched_tokens': 4096, 'gpu_memory_utilization': 0.85}
(APIServer pid=1) INFO 11-21 11:00:00 [scheduler.py:308] Chunked prefill is enabled with max_num_batched_tokens=8192.
(APIServer pid=1) INFO 11-21 11:00:00 [vllm.py:778] Asynchronous scheduling is enabled.
(Worker pid=3) INFO 11-21 11:00:15 [cuda.py:507] Using FLASH_ATTN attention backend out of potential backends: \
['FLASH_ATTN', 'FLASHINFER', 'TRITON_ATTN'].
(Worker pid=3) INFO 11-21 11:00:15 [flash_attn.py:1118] Using FlashAttention version 3
(Worker pid=3) INFO 11-21 11:00:20 [default_loader.py:501] Loading weights took 11.25 seconds
(Worker pid=3) INFO 11-21 11:00:50 [monitor.py:53] torch.compile took 29.50 s in total
(Worker pid=3) INFO 11-21 11:01:04 [gpu_model_runner.py:6517] Graph capturing finished in 14 secs, took 0.61 GiB
(EngineCore pid=2) INFO 11-21 11:01:06 [core.py:402] init engine (profile, create kv cache, warmup model) took 46.01 s
"""
VLLM_METRICS = """\
vllm:cache_config_info{block_size="16",enable_prefix_caching="True",gpu_memory_utilization="0.85",\
num_gpu_blocks="27532"} 1.0
"""
SGLANG = {
    "version": "0.5.23", "context_length": 4096, "kv_cache_dtype": "fp8_e4m3", "quantization": None, "dtype": "auto",
    "max_running_requests": 64, "page_size": 16, "mem_fraction_static": 0.85, "random_seed": 7, "tp_size": 2,
    "pp_size": 1, "dp_size": 1, "ep_size": 1, "disable_radix_cache": False, "chunked_prefill_size": 4096,
    "max_prefill_tokens": 8192, "max_total_num_tokens": 1_600_000, "api_key": "sesame-4711", "admin_api_key": None,
    "launch_command": "--api-key sesame-4711 --model-path /models/m --port 8000",
    "startup_time": {
        "load_weight": 11.5, "kv_cache_allocation": 0.5, "scheduler_e2e": 40.0, "tokenizer_e2e": 52.0,
        "cuda_graph": {"prefill": 1.5, "decode": 12.5, "target_verify": 0.0},
    },
    "internal_states": [
        {
            "api_key": "sesame-4711", "nested": [{"server_args": "{'api_key': 'sesame-4711', 'port': 1}"}],
            "effective_max_running_requests_per_dp": 48, "decode_cuda_graph_bs": [1, 2, 4],
        }
    ],
}  # fmt: skip
SGLANG_LOG = """\
[2026-11-21 11:00:20] Load weight end. elapsed=11.20 s, type=LlamaForCausalLM, avail mem=60.1 GB, mem usage=15.0 GB.
[2026-11-21 11:00:40] Capture decode CUDA graph end. elapsed=14.50 s, mem usage=0.60 GB, avail mem=9.1 GB.
"""


class Answers:
    """A server that answers these paths, and 404 to all others."""

    def __init__(self, **texts: str) -> None:
        self.texts = {f"/{name}": text for name, text in texts.items()}

    def get(self, path: str, timeout_s: float = 10.0) -> Reply:
        return Reply(200, self.texts[path]) if path in self.texts else Reply(404, "")

    def post(self, path: str, body: object = None, timeout_s: float = 30.0) -> Reply:
        return self.get(path)


class Says(Answers):
    """A server that answers with these statuses, one after the other where there are several."""

    def __init__(self, statuses: dict[str, int | list[int]]) -> None:
        self.statuses = statuses

    def get(self, path: str, timeout_s: float = 10.0) -> Reply:
        status = self.statuses.get(path, 404)
        status = status.pop(0) if isinstance(status, list) else status
        return Reply(status, "Cache flushed." if status == 200 else "Flush cache failed.")


def test_vllm_on_a_gpu() -> None:
    client = Answers(version='{"version": "0.33.0"}', metrics=VLLM_METRICS)
    evidence = framework("vllm").evidence(client, VLLM_LOG)
    assert evidence.version == "0.33.0"
    assert evidence.effective == {
        "context_tokens": 4096, "kv_cache_dtype": "fp8", "quantization": "fp8", "dtype": "bfloat16", "graphs": True,
        "prefix_cache": True, "chunked_prefill": True, "seed": 7, "tp": 2, "pp": 1, "dp": 1,
        "max_batch": 64, "max_batched_tokens": 8192, "memory_fraction": 0.85,
        "attention_backend": "FLASH_ATTN 3", "scheduling": "async",
    }  # fmt: skip
    asked = fair(framework("vllm"), max_batched_tokens=4096)
    flags = [flag["detail"] for flag in evidence_flags(asked, evidence)]
    assert any("max_batched_tokens: asked for 4096" in one for one in flags), (
        "what the scheduler has, not what was given"
    )
    assert not any("attention" in one or "scheduling" in one for one in flags), "its own choice"
    assert evidence.startup_s == {"process": 10.0, "weights": 11.25, "compile": 29.5, "graphs": 14.0, "engine": 46.01}
    assert (evidence.kv_blocks, evidence.kv_block_tokens) == (27532, 16)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("WARNING [vllm.py] Async scheduling will be disabled because it is not supported with the `ray` distributed "
         "executor backend. ", "scheduling", "sync"),
        ("WARNING [vllm.py] Async scheduling is disabled because the V1 model runner does not support it with pipeline "
         "parallelism.", "scheduling", "sync"),
        ("INFO [cuda.py:446] Using FLASHINFER backend.", "attention_backend", "FLASHINFER"),
        ("INFO [rocm.py:850] Using ROCM_ATTN backend out of potential backends: ['ROCM_ATTN'].",
         "attention_backend", "ROCM_ATTN"),
        ("INFO [cuda.py] Using backend FLASH_ATTN for vit attention", "attention_backend", None),
        ("", "scheduling", None),
    ],
)  # fmt: skip
def test_what_vllm_says_of_its_own_choices(line: str, name: str, value: str | None) -> None:
    assert framework("vllm").evidence(Answers(), line).effective.get(name) == value


def test_the_start_on_an_h100_tells_its_memory_share() -> None:
    """`cache_config_info` and the line of its configuration as vLLM 0.26 gave them (tests/samples/gpu-h100-aa)."""
    metrics = 'vllm:cache_config_info{block_size="16",gpu_memory_utilization="0.85",num_gpu_blocks="24028"} 1.0\n'
    line = (
        "INFO 11-26 12:00:58 [core.py:116] Initializing a V1 LLM engine (v0.26.0) with config: device_config={}, seed=0"
    )
    for device, share in (("cuda", 0.85), ("cpu", None)):
        evidence = framework("vllm").evidence(Answers(metrics=metrics), line.format(device))
        assert evidence.effective.get("memory_fraction") == share
        assert (evidence.kv_blocks, evidence.kv_block_tokens) == (24028, 16)


@pytest.mark.parametrize(
    ("said", "backend"),
    [
        ({"attention_backend": "fa3"}, "fa3"),
        ({"attention_backend": "fa3", "decode_attention_backend": "flashinfer"}, "fa3 / flashinfer"),
        ({"prefill_attention_backend": "fa4", "decode_attention_backend": "fa4"}, "fa4"),
        ({"prefill_attention_backend": "fa4"}, None),
    ],
)
def test_what_sglang_says_of_its_own_choices(said: dict, backend: str | None) -> None:
    for disabled, scheduling in ((True, "sync"), (False, "async")):
        reply = json.dumps({**said, "disable_overlap_schedule": disabled})
        effective = framework("sglang").evidence(Answers(server_info=reply), "").effective
        assert (effective.get("attention_backend"), effective["scheduling"]) == (backend, scheduling)


def test_llamacpp_says_whether_flash_attention_is_on() -> None:
    for line, said in (
        ("llama_context: flash_attn    = auto\nllama_context: Flash Attention was auto, set to enabled", "enabled"),
        ("llama_context: flash_attn    = disabled", "disabled"),
    ):
        effective = framework("llamacpp").evidence(Answers(), line).effective
        assert effective["attention_backend"] == f"flash attention {said}"
    assert "attention_backend" not in framework("llamacpp").evidence(Answers(), "").effective


def test_sglang() -> None:
    evidence = framework("sglang").evidence(Answers(server_info=json.dumps(SGLANG)), SGLANG_LOG)
    assert evidence.version == "0.5.23"
    assert evidence.effective["context_tokens"] == 4096
    assert evidence.effective["prefix_cache"] is True
    assert evidence.effective["chunked_prefill"] is True
    assert (evidence.kv_blocks, evidence.kv_block_tokens) == (100_000, 16)
    assert evidence.effective["max_batched_tokens"] == 8192
    assert evidence.effective["max_batch"] == 48, "what its memory allows, not the 64 that it was asked for"
    assert evidence.effective["graphs"] is True
    assert evidence.startup_s == {
        "weights": 11.5, "kv_cache": 0.5, "graphs": 14.0, "engine": 40.0, "tokenizer": 52.0,
    }  # fmt: skip
    assert "sesame" not in str(evidence)
    assert "--model-path /models/m --port 8000" in str(evidence), "only the key is taken out"


def test_sglang_of_a_version_without_start_up_times_has_them_in_its_log() -> None:
    older = {name: value for name, value in SGLANG.items() if name not in ("startup_time", "internal_states")}
    evidence = framework("sglang").evidence(Answers(server_info=json.dumps(older)), SGLANG_LOG)
    assert evidence.startup_s == {"weights": 11.2, "graphs": 14.5}
    assert "graphs" not in evidence.effective, "it does not say"
    assert evidence.effective["max_batch"] == 64


@pytest.mark.parametrize(
    ("captured", "graphs"), [([[1, 2]], True), ([[]], False), ([[1, 2], []], False), ([[1], [1]], True)]
)
def test_sglang_graphs_that_were_asked_for_but_not_captured_are_a_difference(captured: list, graphs: bool) -> None:
    """On a CPU, with a model that has none, or on one rank of several: every step is eager there."""
    states = [{"decode_cuda_graph_bs": sizes} for sizes in captured]
    said = json.dumps({**SGLANG, "cuda_graph_backend_decode": "full", "internal_states": states})
    evidence = framework("sglang").evidence(Answers(server_info=said), "")
    assert evidence.effective["graphs"] is graphs
    flags = evidence_flags(fair(framework("sglang"), graphs=True), evidence)
    assert any(flag["detail"].startswith("graphs: asked for True") for flag in flags) is not graphs


def test_sglang_on_a_cpu_takes_what_it_is_given_and_no_more() -> None:
    one = framework("sglang")
    placed = {"name": "a-cpu", "placement": {"server_cpus": [2, 3, 4, 5]}}
    launch = dataclasses.replace(
        fair(one, max_batch=4, context_tokens=1000, block_tokens=16, threads=2), platform=placed
    )
    argv, variables = one.argv(context(launch)), one.environment(context(launch))
    assert argv[argv.index("--max-total-tokens") + 1] == "4032", "4 requests of 63 pages of 16 tokens"
    assert argv[argv.index("--device") + 1] == "cpu"
    assert variables["SGLANG_USE_CPU_ENGINE"] == "1"
    assert variables["OMP_NUM_THREADS"] == "2"
    assert variables["SGLANG_CPU_OMP_THREADS_BIND"] == "2,3"
    two = dataclasses.replace(launch, layout=Layout(tp=2))
    assert one.environment(context(two))["SGLANG_CPU_OMP_THREADS_BIND"] == "2,3|4,5"
    on_gpu = fair(one)
    assert not {"--max-total-tokens", "--device"} & set(one.argv(context(on_gpu)))
    assert not {"SGLANG_USE_CPU_ENGINE", "OMP_NUM_THREADS"} & set(one.environment(context(on_gpu)))


TRACE = {"cell": "c", "steps": 48, "after_s": 2, "most_s": 10}
A_CPU = {"name": "a-cpu"}


def traced(name: str, profiler: str, **fields: object) -> Launch:
    """A launch of framework `name` that asks for a trace."""
    return dataclasses.replace(fair(framework(name)), trace={**TRACE, "profiler": profiler}, **fields)


@pytest.mark.parametrize(
    ("profiler", "platform", "activities"),
    [
        (None, None, ["CUDA_PROFILER"]),
        (None, A_CPU, ["CPU"]),
        ("torch", None, ["CPU", "GPU"]),
        ("torch", A_CPU, ["CPU"]),
        ("nsys", None, ["CUDA_PROFILER"]),
    ],
)
def test_sglang_is_profiled_with_what_its_device_has(profiler: str | None, platform: dict, activities: list) -> None:
    """CUDA's profiler ends a server on a CPU. A trace bounds the steps; stacks cost time, and nothing reads them."""

    class Asked(Answers):
        def post(self, path: str, body: object = None, timeout_s: float = 30.0) -> Reply:
            asked.append((path, body))
            return Reply(200, "")

    asked: list[object] = []
    launch = traced("sglang", profiler) if profiler else fair(framework("sglang"))
    launch = dataclasses.replace(launch, platform=platform) if platform else launch
    framework("sglang").start_profile(Asked(), launch)
    bound = {"num_steps": 48, "with_stack": False, "record_shapes": False} if profiler else {}
    assert asked == [("/start_profile", {"activities": activities, **bound})]


def vllm_profiler(launch: Launch) -> dict | None:
    argv = framework("vllm").argv(context(launch, profile=True))
    return json.loads(argv[argv.index("--profiler-config") + 1]) if "--profiler-config" in argv else None


def test_vllm_is_profiled_with_what_its_platform_has() -> None:
    launch = fair(framework("vllm"))
    assert vllm_profiler(launch) == {"profiler": "cuda"}
    on_cpu = vllm_profiler(dataclasses.replace(launch, platform=A_CPU))
    assert on_cpu == {"profiler": "torch", "torch_profiler_dir": "/private/instance-0/profile"}


def test_vllm_is_traced_with_the_profiler_and_the_steps_that_are_asked_for() -> None:
    config = vllm_profiler(traced("vllm", "torch"))
    assert config is not None
    assert (config["profiler"], config["max_iterations"]) == ("torch", 48)
    assert config["torch_profiler_dir"] == "/private/instance-0/profile"
    config = vllm_profiler(traced("vllm", "nsys"))
    assert config is not None
    assert (config["profiler"], config["max_iterations"]) == ("cuda", 48)
    assert "torch_profiler_dir" not in config, "vLLM refuses it"
    assert vllm_profiler(traced("vllm", "nsys", platform=A_CPU)) is None, "CUDA's profiler is not on a CPU"


def test_what_can_be_traced_with_what() -> None:
    for name in ("vllm", "sglang", "transformers"):
        assert [framework(name).untraceable(traced(name, one)) for one in ("torch", "nsys")] == [None, None]
        on_cpu = traced(name, "nsys", platform=A_CPU)
        assert (framework(name).marks_range(traced(name, "nsys")), framework(name).marks_range(on_cpu)) == (True, False)
    assert framework("llamacpp").untraceable(traced("llamacpp", "nsys")) is None
    assert not framework("llamacpp").marks_range(traced("llamacpp", "nsys"))
    said = framework("llamacpp").untraceable(traced("llamacpp", "torch"))
    assert said == "llama.cpp cannot be traced with torch here (it has: nsys)"
    assert "(it has: none)" in framework("external").untraceable(traced("external", "nsys"))


def test_what_cannot_be_traced_is_said_before_a_job_is_spent() -> None:
    platform = fair(framework("vllm")).platform
    for how, profiler, said in (
        ({"container": "/images/vllm.sif"}, "nsys", "cannot inside a container"),
        ({"container": "/images/vllm.sif"}, "torch", None),
        ({"executable": "/opt/transformers"}, "torch", "`executable` starts it without"),
        ({"executable": "/opt/transformers"}, "nsys", None),
    ):
        name = "transformers" if "executable" in how else "vllm"
        launch = traced(name, profiler, platform={**platform, "frameworks": {name: how}})
        found = framework(name).untraceable(launch)
        assert found is None if said is None else said in (found or "")
        assert framework("transformers").marks_range(launch) is ("executable" not in how)
    amd = {**platform, "gpu": {"vendor": "amd"}}
    assert "AMD" in (framework("vllm").untraceable(traced("vllm", "nsys", platform=amd)) or "")
    assert framework("vllm").untraceable(traced("vllm", "torch", platform=amd)) is None
    wide = traced("vllm", "torch", platform={**platform, "gpus_per_node": 4}, layout=Layout(tp=8))
    assert "spans nodes" in framework("vllm").untraceable(wide)


def test_transformers_is_started_with_a_profiler_only_for_a_trace() -> None:
    one = framework("transformers")
    plain, launch = context(fair(one)), traced("transformers", "torch")
    assert one.argv(plain)[1] == "-c"
    assert one.start_profile(Answers(), plain.launch) is None
    argv = one.argv(context(launch, profile=True))
    assert argv[1].endswith("transformers_profiled.py")
    asked = json.loads(argv[2])
    assert asked == {"profiler": "torch", "steps": 48, "max_batch": 256, "folder": "/private/instance-0/profile"}
    assert argv[3:] == one.argv(plain)[3:]


def test_sglang_is_ready_when_it_says_so_and_older_ones_when_they_compute() -> None:
    one = framework("sglang")
    assert one.ready(Answers(ready="", health=""))
    assert one.ready(Answers(health="")), "no /ready: 404"
    assert not one.ready(Says({"/ready": 503, "/health": 200}))
    assert not one.ready(Says({"/ready": 404, "/health": 503}))


@pytest.mark.parametrize(
    ("name", "path", "text", "worked"),
    [
        ("vllm", "reset_prefix_cache", '{"success":true}', True),
        ("vllm", "reset_prefix_cache", '{"success":false}', False),
        ("vllm", "reset_prefix_cache", "", True),
        ("sglang", "flush_cache", "Cache flushed.\nPlease check backend logs for more details.", True),
        ("sglang", "flush_cache", "Flush cache failed.", False),
    ],
)
def test_a_reset_is_decided_by_the_body(
    name: str, path: str, text: str, worked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # a refused one is asked for again, for half a minute
    launch = fair(framework(name), prefix_cache=True)
    assert framework(name).reset_cache(Answers(**{path: text}), launch).ok is worked


def test_a_refused_reset_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """SGLang answers 400 while a request runs, such as one whose client has left."""
    paused: list[float] = []
    monkeypatch.setattr(time, "sleep", paused.append)
    launch = fair(framework("sglang"), prefix_cache=True)
    refused = Says({"/flush_cache": [400, 503, 200]})
    assert framework("sglang").reset_cache(refused, launch).ok
    assert len(paused) == 2
    for never, tries in ((400, base.RESET_TRIES), (404, 1), (500, 1)):
        statuses = [never] * 1000
        reset = framework("sglang").reset_cache(Says({"/flush_cache": statuses}), launch)
        assert not reset.ok
        assert str(never) in reset.answer
        assert 1000 - len(statuses) == tries, "what will not pass is not asked for again"


def test_sglang_instances_that_share_a_gpu_each_take_their_part_of_what_is_left() -> None:
    """Of a GPU with 100 parts each of three gets 30: 0.3 of 100, 0.3 / 0.7 of 70, 0.3 / 0.4 of 40."""
    launch = dataclasses.replace(
        fair(framework("sglang"), memory_fraction=0.9), layout=Layout(instances=3, share_gpu=True)
    )
    free, taken = 100.0, []
    for instance in range(3):
        argv = framework("sglang").argv(context(launch, instance=instance))
        taken.append(free * float(argv[argv.index("--mem-fraction-static") + 1]))
        free -= taken[-1]
    assert taken == pytest.approx([30.0, 30.0, 30.0], rel=1e-4)


def test_readers() -> None:
    assert key_values("a=1, b='x y', a=2, c=torch.float16)") == {"a": "1", "b": "x y", "c": "torch.float16"}
    assert labels_of('m{a="1",b="q\\"r"} 1.0\n', "m") == {"a": "1", "b": 'q\\"r'}
    assert labels_of("nothing", "m") == {}
    stamp, form = r"\[([\d :-]+)\]", "%m-%d %H:%M:%S"
    assert seconds("[11-21 23:59:50] one\n[11-21 23:59:58] two", stamp, form, "one", "two") == 8.0
    assert seconds("[11-21 23:59:50] one", stamp, form, "one", "two") is None


@pytest.mark.parametrize("name", ["vllm", "sglang", "lmdeploy", "transformers", "llamacpp"])
def test_what_is_compiled_stays_in_the_launchs_cache_unless_the_site_says_where(name: str) -> None:
    one, cache = framework(name), Path("/fast/cache")
    variables = one.environment(context(fair(one), cache=cache))
    assert variables["CUDA_CACHE_PATH"] == "/fast/cache/cuda"
    kept = {word for word in variables.values() if word.startswith("/fast/cache/")}
    assert len(kept) == sum(word.startswith("/fast/cache") for word in variables.values()), "a folder each"
    site = dataclasses.replace(fair(one), platform={**PLATFORM, "environment": {"CUDA_CACHE_PATH": "/site"}})
    assert one.environment(context(site, cache=cache))["CUDA_CACHE_PATH"] == "/site"


TRANSFORMERS_LOG = """\
  "dtype": "bfloat16",
  "transformers_version": "5.19.0",
ContinuousBatchingConfig(page_size=32, num_blocks=10, max_batch_tokens=512, max_memory_percent=0.9, \
max_requests_per_batch=64, max_blocks_per_request=None, allow_block_sharing=False, use_async_batching=None, \
use_cuda_graph=False, scheduler_type='fifo', block_size=32)
"""


def test_transformers_tells_what_its_batching_was_made_of() -> None:
    """The line that `argv` has it print; as transformers 5.19 prints it."""
    one = framework("transformers")
    assert "print(made, flush=True)" in one.argv(context(fair(one)))[2]
    told = one.evidence(Answers(), TRANSFORMERS_LOG)
    assert told.version == "5.19.0"
    assert told.effective == {
        "dtype": "bfloat16", "max_batch": 64, "max_batched_tokens": 512, "block_tokens": 32, "memory_fraction": 0.9,
        "graphs": False, "prefix_cache": False,
    }  # fmt: skip
    newer = TRANSFORMERS_LOG.replace("use_async_batching=None", "use_async_batching=True").replace(
        "=False, s", "=None, s"
    )
    effective = one.evidence(Answers(), newer).effective
    assert (effective["scheduling"], "graphs" in effective) == ("async", False)
    assert one.evidence(Answers(), "").effective == {}


def test_transformers_on_a_cpu_sizes_its_cache_by_what_is_asked() -> None:
    """Without a number of blocks it takes memory_fraction of the machine's free memory."""
    one = framework("transformers")
    launch = dataclasses.replace(fair(one, max_batch=4, context_tokens=1000), platform={"name": "a-cpu"})
    argv = one.argv(context(launch))
    assert argv[argv.index("--cb-num-blocks") + 1] == "16", "4 requests of 4 blocks of 256 tokens"
    assert argv[argv.index("--cb-block-size") + 1] == "256"
    assert "--cb-max-memory-percent" not in argv
    assert "--cb-num-blocks" not in one.argv(context(fair(one))), "on a GPU memory_fraction decides"


@pytest.mark.parametrize(("method", "kind"), [("ngram", "NGram"), ("draft", "Draft_Target"), ("eagle3", "Eagle")])
def test_tensorrt_llm_calls_its_ways_to_speculate_by_its_own_names(method: str, kind: str) -> None:
    speculative = {"method": method, "tokens": 3, "model": "/models/draft"}
    config = framework("tensorrt_llm").config(fair(framework("tensorrt_llm"), speculative=speculative))
    assert config["speculative_config"] == {
        "decoding_type": kind, "max_draft_len": 3, "speculative_model_dir": "/models/draft",
    }  # fmt: skip
