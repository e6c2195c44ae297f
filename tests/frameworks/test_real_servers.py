"""Every server that runs on this machine through one contract, with the same random weights.

Start, ready, stream, metrics, key, reset, evidence, profile, stop, nothing left running, no key in the log; and the
same first tokens from all.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from servegauge.contract import speculation
from servegauge.contract.spec import Launch, Load
from servegauge.frameworks import base, framework, frameworks
from servegauge.frameworks.base import Context, Reset
from servegauge.frameworks.reported_config import evidence_flags
from servegauge.inputs.environments import framework_environment
from servegauge.instrument.coordinator import run_load
from servegauge.instrument.job import LoadJob
from servegauge.launch import server
from servegauge.launch.recorder import Recording
from servegauge.launch.recorders.scrape import Scraper, snapshot
from servegauge.launch.recorders.torch_profiler import TorchProfiler
from servegauge.traces import build
from servegauge.workloads import tokenizer
from tests.frameworks.framework_environments import REQUIRED, ROOT, environment

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(600)]
PLATFORM = {"name": "here", "gpus_per_node": 0}
SERVERS = sorted(
    one.name
    for one in frameworks().values()
    if "real server" in one.exercised and not one.needs_gpu and framework_environment(one.name, PLATFORM, ROOT)
)
ASKED = {
    "context_tokens": 1024, "max_batch": 4, "max_batched_tokens": 1024, "graphs": False, "threads": 1, "seed": 0,
    "prefix_cache": True, "dtype": "float16",
}  # fmt: skip
# Started as for a trace: what else such a server does is the same.
TRACED = ("sglang", "vllm")
TRACE = {"cell": "c", "profiler": "torch", "steps": 12, "after_s": 0.0, "most_s": 60}
# Variables that make a server do what it does rarely, so that what counts it can be seen: SGLang retracts requests.
RARE_EVENTS = {"sglang": {"SGLANG_TEST_RETRACT": "1"}}
PROMPT = "Hello there my friend, how are you today? Tell me something about the weather and the sea. " * 8
TOKENS = 16
LONG = (100, 700)  # tokens of an answer that takes a slow and a fast server a few seconds
said: dict[str, str] = {}  # framework -> its greedy text


class Running:
    """A server of this test run, and how to ask it."""

    def __init__(self, name: str, model: Path, work: Path) -> None:
        self.framework = framework(name)
        needs = framework_environment(name, PLATFORM, ROOT)
        python = environment(needs) if needs else "python3"
        weights = model if self.framework.weights == "hf" else model.with_suffix(".gguf")
        spec = {"name": model.name, "source": str(model), "gguf": str(model) + ".gguf", "context_tokens": 1024}
        wanted = {**self.framework.fair_defaults, **ASKED}
        having = {key: value for key, value in wanted.items() if key in self.framework.supported}
        for key, words in self.framework.choices.items():
            if key in having and str(having[key]) not in words:
                having[key] = self.framework.fair_defaults[key]
        self.launch = Launch(name, spec, PLATFORM, options=having, trace=TRACE if name in TRACED else None)
        if weights.suffix == ".gguf":
            weights = Path(str(model) + ".gguf")
        self.context = Context(
            self.launch, str(weights), server.free_port(), served_name=model.name, python=python, work=work,
            api_key=server.new_api_key(), profile=True,
        )  # fmt: skip
        self.log = work / "server.log"
        around = {**os.environ, "HF_HUB_OFFLINE": "1", **RARE_EVENTS.get(name, {})}
        self.server = server.start(self.framework, self.context, self.log, base_env=around)
        self.first_reset: Reset | None = None

    @property
    def model(self) -> str:
        return self.context.model_path if self.framework.model_is_path else self.context.served_name

    def extras(self) -> dict[str, Any]:
        return {**self.framework.request_extras(self.launch), **self.framework.ignore_eos}

    def complete(self, prompt: str, tokens: int = TOKENS) -> dict[str, Any]:
        body = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0.0, "ignore_eos": True}
        sent = {name: value for name, value in {**body, **self.extras()}.items() if value is not None}
        reply = self.server.client.post("/v1/completions", sent, timeout_s=120)
        assert reply.ok, f"{reply.status} {reply.text}"
        return reply.json()

    def page(self) -> str:
        assert self.framework.metrics_path
        return self.server.client.get(self.framework.metrics_path).text

    def metrics(self) -> dict[str, float]:
        return snapshot(self.page(), self.framework.metrics)


@pytest.fixture(scope="module", params=SERVERS)
def running(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    one = Running(request.param, tiny_model, tmp_path_factory.mktemp(request.param))
    try:
        one.server.wait_ready(300)
        one.first_reset = one.framework.reset_cache(one.server.client, one.launch)
        yield one
    finally:
        one.server.stop()


def test_the_launch_could_be_planned(running: Running) -> None:
    assert running.framework.unsupported(running.launch) is None


def test_it_was_ready_and_says_so(running: Running) -> None:
    assert running.server.alive()
    assert running.server.ready_s
    assert running.first_reset, "SGLang refuses for a moment, while its own warm-up request runs"
    assert running.first_reset.ok, running.first_reset
    print(f"{running.framework.name}: ready after {running.server.ready_s:.1f} s")


def test_no_process_shows_the_key(running: Running) -> None:
    family = psutil.Process(running.server.process.pid).children(recursive=True)
    assert family
    for process in family:
        assert running.context.api_key not in " ".join(process.cmdline())


def test_requests_without_the_key_are_refused(running: Running) -> None:
    if running.framework.api_key == "none":
        pytest.skip(f"{running.framework.title} has no key")
    stranger = server.HttpClient(running.server.base_url)
    assert stranger.post("/v1/completions", {"model": running.model, "prompt": "x", "max_tokens": 1}).status == 401


def test_it_completes_greedily(running: Running) -> None:
    answer = running.complete(PROMPT)
    assert answer["usage"]["completion_tokens"] == TOKENS, "the end token must be ignored"
    print(f"{running.framework.name}: {answer['choices'][0]['text']!r}")
    said[running.framework.name] = answer["choices"][0]["text"].strip()
    assert said[running.framework.name]
    assert running.complete(PROMPT)["choices"][0]["text"].strip() == said[running.framework.name]


def test_it_leaves_memory_for_others(running: Running) -> None:
    """A KV cache sized by what the machine has free would take most of it, and minutes to do so."""
    running.complete(PROMPT)
    family = psutil.Process(running.server.process.pid).children(recursive=True)
    assert sum(process.memory_info().rss for process in family) < 6 * 2**30


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_the_load_generator_understands_its_stream(running: Running, endpoint: str, tmp_path: Path) -> None:
    if endpoint not in running.framework.endpoints:
        pytest.skip(f"{running.framework.title} has no {endpoint}")
    count, tokens = 4, 4 * TOKENS  # long enough to be sent in several pieces by a server that shares its CPU
    columns = {
        "request": pa.array(range(count), pa.int32()),
        "phase": pa.array(["window"] * count),
        "scheduled_s": pa.array([None] * count, pa.float64()),
        "prompt": pa.array([f"Number {index} says: what is it about?" for index in range(count)]),
        "messages": pa.array([None] * count, pa.string()),
        "prompt_tokens": pa.array([12] * count, pa.int32()),
        "output_tokens": pa.array([tokens] * count, pa.int32()),
    }
    pq.write_table(pa.table(columns), tmp_path / "workload.parquet")
    job = LoadJob(
        base_urls=[running.server.base_url], workload=str(tmp_path / "workload.parquet"), out=str(tmp_path / "out"),
        model=running.model, load=Load(concurrency=2, endpoint=endpoint, timeout_s=120), phase="window",
        extra_body=running.extras(), api_key=running.context.api_key,
        tokenizer=running.launch.model["source"],
    )  # fmt: skip
    rows = pq.read_table(run_load(job).requests).to_pylist()
    assert [row["error"] for row in rows] == [None] * count
    assert [row["status"] for row in rows] == ["ok"] * count
    assert [row["output_tokens"] for row in rows] == [tokens] * count
    # A busy engine may send a short answer in one piece, which has no first token of its own.
    in_pieces = [row for row in rows if row["first_token_ns"] is not None]
    assert in_pieces
    assert all(row["sent_ns"] < row["first_token_ns"] <= row["last_ns"] <= row["end_ns"] for row in in_pieces)
    assert all(len(row["chunk_ns"]) > 1 for row in rows), "it streams"


def test_its_metrics_come_under_common_names(running: Running, tmp_path: Path) -> None:
    if not running.framework.metrics_path:
        pytest.skip(f"{running.framework.title} has no metrics")
    before = running.metrics()
    url = running.server.base_url + running.framework.metrics_path
    scraper = Scraper()
    scraper.scrape([url], running.context.api_key, running.framework.metrics, 10.0, tmp_path / "metrics.parquet")
    running.complete("Something that was not asked before, to be counted.")
    time.sleep(0.5)
    out = scraper.stop()
    assert out, scraper.report
    assert scraper.report["instances"][0]["errors"] == 0
    after = running.metrics()
    assert after["output_tokens"] - before["output_tokens"] == TOKENS
    assert after["prompt_tokens"] > before["prompt_tokens"]
    table = pq.read_table(out)
    found, known = set(table["metric"].to_pylist()) - {None}, set(running.framework.metrics)
    assert found <= known
    # This server does not speculate, and need not say how it would.
    speculative = {speculation.STEPS, speculation.ACCEPTED, speculation.AVERAGE}
    assert known - found <= speculative
    # Counters that are absent until their first event are 0 in the table: that the names are right, the page must say.
    names = {line.partition("{")[0].partition(" ")[0] for line in running.page().splitlines()}
    mapped = {raw for name, raws in running.framework.metrics.items() if name not in speculative for raw in raws}
    assert mapped <= names, "every name in the file's mapping is one that the server has"


def test_a_reset_empties_the_prefix_cache(running: Running) -> None:
    """Proven by the hit counter: the same prompt is found in the cache before the reset, and not after it."""
    name = running.framework.name
    if not running.launch.options.get("prefix_cache"):
        assert running.framework.reset_cache(running.server.client, running.launch).ok
        if "cache_hit_tokens" in running.framework.metrics:
            assert running.metrics()["cache_hit_tokens"] == 0
        return
    running.complete(PROMPT)
    first = running.metrics()["cache_hit_tokens"]
    running.complete(PROMPT)
    warm = running.metrics()["cache_hit_tokens"]
    assert warm > first, f"{name}: the prefix cache is on, the same prompt must be found in it"
    reset = running.framework.reset_cache(running.server.client, running.launch)
    assert reset.ok, reset
    running.complete(PROMPT)
    assert running.metrics()["cache_hit_tokens"] == warm, f"{name} said {reset.answer!r} and still had the prompt"


def test_of_a_cold_cache_no_more_is_found_than_every_prompt_begins_with(running: Running) -> None:
    """What a cell with a cold cache is not called warm for: the first prompt leaves `<s>` to the second."""
    assert running.framework.reset_cache(running.server.client, running.launch).ok
    opening = tokenizer.load(Path(running.launch.model["source"])).opening(chat=False)
    assert opening == 1
    for prompt in ("apple trees in the garden", "Zebra crossings of the town"):
        usage = running.complete(prompt)["usage"]
        assert ((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0) <= opening


def test_a_reset_waits_for_a_request_that_still_runs(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one whose client has left. A server that would refuse meanwhile is asked again until it is done."""
    if not running.launch.options.get("prefix_cache"):
        pytest.skip(f"{running.framework.title} has its prefix cache off")

    def reset() -> Reset:
        return running.framework.reset_cache(running.server.client, running.launch)

    began = time.monotonic()
    running.complete(PROMPT)
    tokens = min(max(int(4.0 * TOKENS / (time.monotonic() - began)), LONG[0]), LONG[1])
    with ThreadPoolExecutor(1) as beside:
        answer = beside.submit(running.complete, PROMPT, tokens)
        time.sleep(0.3)
        assert not answer.done(), "it still runs"
        with monkeypatch.context() as once:
            once.setattr(base, "RESET_TRIES", 1)
            print(f"{running.framework.name}: asked once while a request runs: {reset()}")
        assert reset().ok
        assert answer.result()["usage"]["completion_tokens"] == tokens
    assert reset().ok
    before = running.metrics()["cache_hit_tokens"]
    running.complete(PROMPT)
    assert running.metrics()["cache_hit_tokens"] == before


def test_its_profiler_takes_the_steps_that_were_asked_for(running: Running, tmp_path: Path) -> None:
    """As a trace is taken. Afterwards the server answers as before: CUDA's profiler would end one on a CPU."""
    if running.launch.trace is None:
        pytest.skip(f"{running.framework.title} has no profiler of its own")
    live: Any = SimpleNamespace(
        launch=running.launch, framework=running.framework, servers=[running.server], platform=PLATFORM,
        without_secrets=str,
    )  # fmt: skip
    recording = Recording({"torch_profiler": TorchProfiler}, live, tmp_path)
    recording.window_begins()
    end = time.monotonic() + 60
    while not list((running.context.work / base.PROFILE).rglob("*.json.gz")) and time.monotonic() < end:
        running.complete("Something to be profiled.")
    recording.stop(0)
    said_of_it = recording.report["torch_profiler"]
    assert said_of_it.get("captures") == ["capture-0.json.gz"], said_of_it
    steps = build.tables("one", build.read([tmp_path / "capture-0.json.gz"]), None)["steps"].to_pylist()
    assert len(steps) == TRACE["steps"]
    assert {step["phase"] for step in steps} <= {"prefill", "decode"}
    assert all(step["generation_tokens"] == 1 for step in steps if step["phase"] == "decode")
    assert running.server.alive()
    assert running.complete(PROMPT)["choices"][0]["text"].strip() == said[running.framework.name]


def test_its_evidence_is_what_was_asked(running: Running) -> None:
    evidence = running.framework.evidence(running.server.client, running.log.read_text(errors="replace"))
    json.dumps(dataclasses.asdict(evidence), allow_nan=False)
    assert running.context.api_key not in json.dumps(dataclasses.asdict(evidence))
    assert evidence.version
    flags = evidence_flags(running.launch, evidence)
    assert flags == []
    assert evidence.effective.get("context_tokens") or evidence.raw
    assert all(seconds >= 0 for seconds in evidence.startup_s.values())
    print(running.framework.name, evidence.version, evidence.effective, evidence.startup_s, evidence.kv_blocks)


def test_a_difference_would_be_flagged(running: Running) -> None:
    evidence = running.framework.evidence(running.server.client, running.log.read_text(errors="replace"))
    if "context_tokens" not in evidence.effective:
        pytest.skip(f"{running.framework.title} does not say its context")
    asked = dataclasses.replace(running.launch, options={**running.launch.options, "context_tokens": 77})
    assert any("context_tokens" in flag["detail"] for flag in evidence_flags(asked, evidence))


def test_nothing_is_left_running(running: Running) -> None:
    """The last test of each server: stop it and look for every process that it had."""
    family = psutil.Process(running.server.process.pid).children(recursive=True)
    assert family
    began = time.monotonic()
    running.server.stop()
    took = time.monotonic() - began
    print(f"{running.framework.name}: {running.server.how_it_ended()} after {took:.1f} s")
    assert running.server.how_it_ended() == "exit status 0" or "SIGTERM" in running.server.how_it_ended()
    left = [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert left == []
    assert running.server.client.get(running.framework.ready_path).status == 0, "its port is closed"
    assert running.context.api_key not in running.log.read_text(errors="replace"), "its log is kept"


def test_all_engines_say_the_same() -> None:
    """The gate for comparisons: the same weights, prompt and greedy settings give the same first tokens."""
    if len(said) < 2 and not REQUIRED:
        pytest.skip("fewer than two engines ran")
    assert set(said) == set(SERVERS)
    assert len(set(said.values())) == 1, said


def test_a_server_that_runs_already(tiny_model: Path, tmp_path: Path) -> None:
    """`external`: only a placeholder is launched; requests go to the address in the platform's file."""
    there = Running("paced", tiny_model, tmp_path)
    try:
        there.server.wait_ready(60)
        given = {"external": {"url": there.server.base_url + "/v1", "note": "a mock"}}
        external = framework("external")
        launch = Launch("external", there.launch.model, {"name": "far", "frameworks": given})
        assert external.unsupported(launch) is None
        work = tmp_path / "external"
        work.mkdir()
        context = Context(launch, "", 0, work=work, api_key=there.context.api_key)
        placeholder = server.start(external, context, work / "log")
        try:
            placeholder.wait_ready(20)
            evidence = external.evidence(placeholder.client, "")
            assert "data" in evidence.raw["/v1/models"]
            assert not external.reset_cache(placeholder.client, launch).ok, "we cannot know its cache"
        finally:
            placeholder.stop()
        assert there.server.alive(), "a server that is not ours is never stopped"
    finally:
        there.server.stop()
