"""llama.cpp's file: what it asks, what it refuses, and the real server behind it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from servegauge.contract.spec import Launch, Layout
from servegauge.frameworks import framework
from servegauge.frameworks.base import Context, Reply
from servegauge.frameworks.llamacpp import DOOR, LlamaCpp
from servegauge.frameworks.reported_config import evidence_flags
from servegauge.launch import server
from servegauge.launch.recorders import scrape
from servegauge.plan import config
from servegauge.workloads import tokenizer
from servegauge.workloads.prompts import draw_prompts

MODEL = {"name": "tiny", "source": "m", "gguf": "m.gguf", "context_tokens": 512}
CPU = {"name": "cpu", "placement": {"server_cpus": [0], "load_cpus": [0]}}
GPUS = {"name": "gpu", "gpus_per_node": 4, "frameworks": {"llamacpp": {"executable": "llama-server"}}}
GOLDEN = Path(__file__).parents[2] / "golden"


def launch(platform: dict[str, Any] = CPU, layout: Layout | None = None, **options: Any) -> Launch:
    return Launch("llamacpp", MODEL, platform, layout or Layout(), {"context_tokens": 512, **options})


def context(of: Launch, **fields: Any) -> Context:
    return Context(of, model_path="/models/m.gguf", port=8123, api_key="s3cret", python="/env/python", **fields)


ARGV = {
    "cpu": context(launch()),
    "prefix-cache": context(launch(prefix_cache=True, max_batch=2, threads=3), work=Path("/work")),
    "gpu-tp2": context(launch(GPUS, Layout(tp=2), kv_cache_dtype="q8_0", seed=7), gpus=("0", "1")),
    "gpu-pp2-draft": context(
        launch(GPUS, Layout(pp=2), speculative={"method": "draft", "tokens": 4, "model": "/d.gguf"}), gpus=("0", "1")
    ),
    "container-ngram-lora": context(
        launch({"name": "c", "frameworks": {"llamacpp": {"container": "x.sif"}}}, lora={"a": "/a.gguf"},
               speculative={"method": "ngram"}, graphs=False)
    ),
}  # fmt: skip


def test_argv_is_the_recorded_one(golden: Callable[[Path, str], None]) -> None:
    argv = {
        case: [part.replace(str(DOOR), "llamacpp_server.py") for part in LlamaCpp().argv(context)]
        for case, context in ARGV.items()
    }
    golden(GOLDEN / "llamacpp_argv.json", json.dumps(argv, indent=1) + "\n")


@pytest.mark.parametrize("case", ARGV)
def test_every_flag_is_one_that_llama_server_has(case: str) -> None:
    known = set((GOLDEN / "llama_server_flags.txt").read_text().split())
    used = {part for part in LlamaCpp().argv(ARGV[case])[1:] if part.startswith("-") and not part[1:2].isdigit()}
    assert used <= known


@pytest.mark.parametrize("case", ARGV)
def test_the_wheels_door_takes_every_argv(case: str, llamacpp_python: str) -> None:
    argv = LlamaCpp().argv(ARGV[case])
    flags = argv[argv.index("-m") :]
    checked = subprocess.run([llamacpp_python, str(DOOR), "--version", *flags], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("version: xllamacpp ")


def test_the_key_is_in_the_environment_and_never_in_argv() -> None:
    assert LlamaCpp().environment(ARGV["cpu"]) == {"LLAMA_API_KEY": "s3cret"}
    assert not any("s3cret" in part for case in ARGV.values() for part in LlamaCpp().argv(case))


def test_eager_is_asked_by_the_environment() -> None:
    assert LlamaCpp().environment(ARGV["container-ngram-lora"])["GGML_CUDA_DISABLE_GRAPHS"] == "1"


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (launch(kv_cache_dtype="fp8"), "KV cache of type fp8"),
        (launch(chunked_prefill=False), "always splits"),
        (launch(block_tokens=16), "no option for block_tokens"),
        (launch(speculative={"method": "medusa"}), "medusa"),
        (launch(GPUS, Layout(tp=2, pp=2)), "not both"),
        (launch(GPUS, Layout(tp=8)), "one node"),
        (launch(GPUS, Layout(dp=2)), "use instances"),
        (replace(launch(), model={"name": "x", "source": "x"}), "no GGUF"),
        (replace(launch(), options={}), "context_tokens"),
    ],
)
def test_what_cannot_work_is_known_before(what: Launch, reason: str) -> None:
    assert reason in (LlamaCpp().unsupported(what) or "")


def test_the_defaults_are_supported() -> None:
    assert LlamaCpp().unsupported(launch(**LlamaCpp.fair_defaults)) is None


class FakeClient:
    """Answers by path; `replies` maps it to the bodies in order."""

    def __init__(self, replies: dict[str, list[Reply]]) -> None:
        self.replies = replies

    def get(self, path: str, timeout_s: float = 10.0) -> Reply:
        return self.replies[path].pop(0)

    def post(self, path: str, body: Any = None, timeout_s: float = 30.0) -> Reply:
        return self.replies[path].pop(0)


def slot_list(*ids: int) -> Reply:
    return Reply(200, json.dumps([{"id": number, "n_ctx": 512} for number in ids]))


@pytest.mark.parametrize(
    ("answer", "ok"),
    [
        (Reply(200, '{"id_slot": 0, "n_erased": 12}'), True),
        (Reply(200, '{"success": false}'), False),
        (Reply(200, '{"id_slot": 1, "n_erased": 12}'), False),
        (Reply(501, '{"error": {"message": "not supported"}}'), False),
        (Reply(200, "not json"), False),
    ],
)
def test_a_reset_is_judged_by_its_body(answer: Reply, ok: bool) -> None:
    client = FakeClient({"/slots": [slot_list(0)], "/slots/0?action=erase": [answer]})
    assert LlamaCpp().reset_cache(client, launch(prefix_cache=True)).ok is ok


@pytest.mark.parametrize(("cached", "ok"), [((0, 0), True), ((0, 9), False), ((None, None), False)])
def test_a_cache_that_is_off_is_proven_off(cached: tuple[Any, Any], ok: bool) -> None:
    replies = [Reply(200, json.dumps({"timings": {"cache_n": count}} if count is not None else {})) for count in cached]
    assert LlamaCpp().reset_cache(FakeClient({"/completion": replies}), launch()).ok is ok


def test_no_slots_is_no_reset() -> None:
    client = FakeClient({"/slots": [Reply(403, "forbidden")]})
    assert not LlamaCpp().reset_cache(client, launch(prefix_cache=True)).ok


def test_evidence_of_a_silent_server_is_null() -> None:
    silent = Reply(0, "ConnectionRefusedError")
    evidence = LlamaCpp().evidence(FakeClient({"/props": [silent], "/slots": [silent]}), "")
    assert evidence.version is None
    assert evidence.effective == {}
    assert evidence.kv_blocks is None


VERBOSE_LOG = """0.00.004.674 I srv          init: loading model
0.00.090.691 I llama_kv_cache: size =    6.12 MiB (  1024 cells,   4 layers,  4/4 seqs), K (q8_0):    2.12 MiB, V ...
0.00.091.793 I cmn          init: llama threadpool init, n_threads = 3
0.01.004.674 I srv          init: model loaded
"""


def test_evidence_is_read_from_a_verbose_log() -> None:
    evidence = LlamaCpp().evidence(
        FakeClient(
            {"/props": [Reply(200, '{"total_slots": 4, "build_info": "b9000-abc"}')], "/slots": [slot_list(0, 1)]}
        ),
        VERBOSE_LOG,
    )
    assert evidence.version == "b9000-abc"
    assert evidence.effective == {"context_tokens": 512, "max_batch": 4, "kv_cache_dtype": "q8_0", "threads": 3}
    assert (evidence.kv_blocks, evidence.kv_block_tokens) == (4096, 1)
    assert evidence.startup_s == {"weights": 1.0}


# -- the real server ---------------------------------------------------------


@pytest.fixture
def start(tmp_path: Path, tiny_model: Path, llamacpp_python: str) -> Callable[[Launch], Any]:
    """Start the real server of a launch; it is stopped when the block ends."""

    @contextmanager
    def started(of: Launch) -> Iterator[server.Server]:
        where = Context(
            of, str(tiny_model.with_suffix(".gguf")), server.free_port(), api_key="k3y", python=llamacpp_python,
            work=tmp_path, served_name="tiny",
        )  # fmt: skip
        running = server.start(framework("llamacpp"), where, tmp_path / "server.log", cpus=[0])
        try:
            running.wait_ready(60)
            yield running
        finally:
            running.stop()

    return started


def complete(running: server.Server, prompt: str, extras: dict[str, Any], tokens: int = 8) -> dict[str, Any]:
    body = {"model": "tiny", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **extras}
    reply = running.client.post("/v1/completions", body)
    assert reply.ok, reply.text
    return reply.json()


PROMPT = "a prompt that is long enough to be found again in a cache, if there is one that keeps it"


def test_the_real_server_without_prefix_cache(start: Callable[[Launch], Any]) -> None:
    what = launch(**LlamaCpp.fair_defaults)
    with start(what) as running:
        assert running.framework.reset_cache(running.client, what).ok
        extras = running.framework.request_extras(what)
        answers = [complete(running, PROMPT, extras) for _ in range(2)]
        assert [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers] == [0, 0]
        assert answers[0]["usage"]["completion_tokens"] == 8
        assert answers[0]["choices"][0]["text"] == answers[1]["choices"][0]["text"]

        evidence = running.framework.evidence(running.client, running.log.read_text())
        assert evidence.version is not None
        assert evidence.version.startswith("xllamacpp 2")
        assert evidence.effective == {
            "context_tokens": 512, "max_batch": 8, "max_batched_tokens": 512, "kv_cache_dtype": "f16",
            "prefix_cache": False, "threads": 1,
        }  # fmt: skip
        assert evidence_flags(what, evidence) == []
        assert 0 < evidence.startup_s["weights"] < 30
        assert evidence.raw["props"]["model_alias"] == "tiny"

        text = running.client.get(running.framework.metrics_path).text
        values = scrape.snapshot(text, running.framework.metrics)
        assert set(values) == set(LlamaCpp.metrics)
        assert values["output_tokens"] == 18  # two answers of 8, two probes of 1
        assert values["cache_hit_tokens"] == 0
        # Nobody without the key gets in.
        assert server.HttpClient(running.base_url).get("/slots").status == 401
    assert not running.alive()
    assert "stopping: SIGTERM" in running.log.read_text()


def test_the_real_server_with_prefix_cache_forgets_when_asked(start: Callable[[Launch], Any]) -> None:
    what = launch(prefix_cache=True, max_batch=2)
    with start(what) as running:
        extras = running.framework.request_extras(what)

        def cached() -> int:
            return complete(running, PROMPT, extras)["usage"]["prompt_tokens_details"]["cached_tokens"]

        assert (cached(), cached() > 10) == (0, True)
        reset = running.framework.reset_cache(running.client, what)
        assert reset.ok, reset
        assert cached() == 0
        values = scrape.snapshot(running.client.get(running.framework.metrics_path).text, running.framework.metrics)
        assert values["cache_hit_tokens"] > 10
        assert values["cache_query_tokens"] == values["prompt_tokens"] > 2 * values["cache_hit_tokens"]


def test_the_context_is_each_slots_own(start: Callable[[Launch], Any]) -> None:
    what = launch(max_batch=3, context_tokens=256)
    with start(what) as running:
        complete(running, "x " * 120, {}, tokens=100)  # would not fit in a third of 256
        slots = running.client.get("/slots").json()
        assert [slot["n_ctx"] for slot in slots] == [256, 256, 256]


@pytest.mark.parametrize("prompts", ["chat-short", "doc-long", "sharegpt-sample"])
def test_the_server_counts_the_tokens_that_a_workload_says(
    prompts: str, start: Callable[[Launch], Any], tiny_model: Path, repository: Path
) -> None:
    spec = config.load_prompts(repository, prompts)
    drawn = draw_prompts(spec, tokenizer.load(tiny_model), 12, 5, root=repository).prompts
    what = launch(**LlamaCpp.fair_defaults)
    with start(what) as running:
        extras = running.framework.request_extras(what)
        usage = [complete(running, prompt.text, extras, prompt.output_tokens)["usage"] for prompt in drawn]
    assert [one["prompt_tokens"] for one in usage] == [prompt.prompt_tokens for prompt in drawn]
    assert [one["completion_tokens"] for one in usage] == [prompt.output_tokens for prompt in drawn]


def test_the_server_counts_chat_messages_as_we_do(start: Callable[[Launch], Any], tiny_model: Path) -> None:
    messages = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "good morning"}]
    with start(launch()) as running:
        body = {"model": "tiny", "messages": [*messages, messages[0]], "max_tokens": 2, "ignore_eos": True}
        usage = running.client.post("/v1/chat/completions", body).json()["usage"]
    assert usage["prompt_tokens"] == tokenizer.load(tiny_model).chat([*messages, messages[0]])[1]


def test_a_model_that_does_not_load_is_a_message(tmp_path: Path, llamacpp_python: str) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but not really")
    command = [llamacpp_python, str(DOOR), "-m", str(tmp_path / "broken.gguf"), "--port", str(server.free_port())]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "error: llama.cpp did not start" in ended.stderr


def test_an_unknown_flag_is_refused(llamacpp_python: str) -> None:
    ended = subprocess.run([llamacpp_python, str(DOOR), "-m", "x", "--rope-scale", "2"], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "--rope-scale" in ended.stderr


def test_ctrl_c_stops_it_too(tmp_path: Path, tiny_model: Path, llamacpp_python: str) -> None:
    port = str(server.free_port())
    command = [llamacpp_python, str(DOOR), "-m", str(tiny_model.with_suffix(".gguf")), "--port", port, "-c", "128"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "LLAMA_API_KEY": "k"})
    client = server.HttpClient(f"http://127.0.0.1:{port}")
    for _ in range(200):
        if client.get("/health").ok:
            break
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
