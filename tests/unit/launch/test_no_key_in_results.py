"""No file that a launch leaves in results holds its API key: looked for by its value, in every spelling, everywhere."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from servegauge.base import redact, supervisor
from servegauge.base.files import read_json
from servegauge.contract.records.base import write
from servegauge.contract.records.calibration import Calibration, Limits
from servegauge.contract.records.order import JobContext
from servegauge.dataset.merge import merge
from servegauge.frameworks.base import Evidence
from servegauge.frameworks.paced import Paced
from servegauge.launch import node_calibration, run, server
from servegauge.plan.config import load_study
from servegauge.plan.expand import expand
from servegauge.submit.attempts import Run
from servegauge.submit.job_outcome import seal_logs
from servegauge.submit.orders import make_order, read_plan
from servegauge.workloads.compile import compile_plan
from tests.pretend.clone import Clone

KEY = "sesame-open/4711+xyz"
TOKEN = "another-secret-of-the-site"  # in the job's environment
FORBIDDEN = [*redact.spellings([KEY]), *redact.spellings([TOKEN])]  # as they are, in URLs, base64, ...
CALIBRATION = Calibration(limits=Limits(rate_rps=100.0, streams=100))
# Prints what servers print, answers as the paced server does, and dies with its options on its lips.
LEAK = """
import base64, os, signal, subprocess, sys, urllib.parse
key = os.environ["PACED_API_KEY"]
def leak(what):
    print(f"{what} server_args={{'api_key': '{key}', 'port': 1}} HUB={os.environ['SITE_TOKEN']}", flush=True)
    print("GET /?k=" + urllib.parse.quote(key, safe=""), base64.b64encode(key.encode()).decode(), flush=True)
    print(repr(sys.argv + ["--api-key", key]), f"plainly {key} in a sentence", flush=True)
leak("start")
server = subprocess.Popen(sys.argv[1:])
def die(*_):
    server.kill()
    leak("fatal")
    os._exit(3)
signal.signal(signal.SIGUSR1, die)
signal.signal(signal.SIGTERM, lambda *_: (server.kill(), os._exit(0)))
server.wait()
"""


class Leaky(Paced):
    """The paced server's framework, careless wherever one can be; `resets` counts the cells."""

    def __init__(self) -> None:
        self.resets = 0

    def argv(self, ctx):
        return [sys.executable, "-c", LEAK, *super().argv(ctx)]

    def reset_cache(self, client, launch):
        self.resets += 1
        if self.resets == 2:
            raise ValueError(f"the server said {{'api_key': '{KEY}'}} and {KEY}")
        if self.resets == 3:
            for process in supervisor.descendants(os.getpid()):
                words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
                if words[1:3] == [b"-c", LEAK.encode()]:
                    os.kill(process, signal.SIGUSR1)
            time.sleep(0.5)
        return super().reset_cache(client, launch)

    def evidence(self, client, log):
        states = [{"api_key": KEY, "nested": [{"launch_command": f"serve --api-key {KEY} --port 1"}]}]
        return Evidence(version="1", raw={"/server_info": {"internal_states": states, "log": log}})


def texts(path: Path) -> str:
    """All that stands in a file; of a table every value, since its bytes are compressed."""
    if path.suffix == ".parquet":
        return repr(pq.ParquetFile(path).read().to_pylist()) + str(pq.read_schema(path).metadata)
    return path.read_bytes().decode("utf-8", "replace")


@pytest.fixture(scope="module")
def results(tmp_path_factory, tiny_model) -> Iterator[Path]:
    """Results of a launch of three cells: one is measured, one fails by an error of ours, in one the server dies."""
    tmp_path = tmp_path_factory.mktemp("launch")
    clone = Clone(tmp_path / "clone", tmp_path)
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield measured(clone, monkeypatch)


def measured(clone: Clone, monkeypatch: pytest.MonkeyPatch) -> Path:
    (clone.results / "calibrations").unlink()
    clone.study(matrix={"prefix_cache": [True]})
    monkeypatch.setenv("SITE_TOKEN", TOKEN)
    monkeypatch.setattr(server, "new_api_key", lambda: KEY)
    leaky = Leaky()
    monkeypatch.setattr(run, "framework", lambda name: leaky)
    monkeypatch.setattr(node_calibration.calibrate, "calibrate", lambda *_, **__: CALIBRATION)
    monkeypatch.chdir(clone.root)
    plan = expand(load_study(clone.root, "faults"))
    write(clone.results / "plan" / "faults.json", plan)
    file = clone.results / "plan" / "faults.json"
    compile_plan(file, clone.results / "workloads" / "faults.json", clone.results, clone.root)
    order = make_order(read_plan(file), plan.launches[0].id, 0, Path("results"), clone.root)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        outcome = run.run_launch(order, JobContext())
    assert "ValueError: the server said" in said.getvalue(), "with its traceback"
    assert not [one for one in FORBIDDEN if one in said.getvalue()], "what a job prints is kept, too"
    assert outcome is not None
    assert sorted(cell.status for cell in outcome.cells.values()) == ["failed", "failed", "ok"], outcome
    reasons = " ".join(str(cell.reason) for cell in outcome.cells.values())
    assert "a defect of the pipeline: ValueError: the server said" in reasons
    assert "server died" in reasons
    assert "fatal server_args={" in reasons, "its last words are kept"
    Run(file, plan.launches[0].id, "local", Path("results"), "x:y")._write(0, outcome)
    merge(Path("results"))
    return clone.results


def test_no_file_holds_the_key(results: Path) -> None:
    files = [path for path in results.rglob("*") if path.is_file()]
    found = {path.suffix for path in files}
    assert {".json", ".log", ".parquet"} <= found
    logs = "".join(texts(path) for path in results.glob("launches/*/attempt-0/server-*.log"))
    assert logs.count("start server_args=") == 2, "both starts of the server, sealed"
    assert "in a sentence" in logs
    holding = {str(path.relative_to(results)) for path in files if any(one in texts(path) for one in FORBIDDEN)}
    assert holding == set()


def test_a_cell_with_a_prefix_cache_says_what_every_prompt_begins_with(results: Path) -> None:
    (cell,) = results.glob("cells/*/cell.json")
    assert read_json(cell)["prompt_opening_tokens"] > 0
    assert "cache_warm" not in [flag["flag"] for flag in read_json(cell)["flags"]]


def test_what_a_killed_job_left_is_sealed_when_its_end_is_written(tmp_path: Path, monkeypatch) -> None:
    """Nobody knows the key any more, but what has a key's name or shape is taken out."""
    monkeypatch.setenv("SITE_TOKEN", TOKEN)
    folder = tmp_path / "results" / "launches" / "x" / "attempt-0"
    (folder / "job-1a2b").mkdir(parents=True)
    for name in ("server-0.log", "job-1a2b/inline_0_log.out", "job-1a2b/17_0_log.err"):
        (folder / name).write_text(f"server_args={{'api_key': '{KEY}', 'port': 1}} {TOKEN} Bearer {KEY}\n")
    seal_logs(folder)
    logs = [path for path in folder.rglob("*") if path.is_file()]
    assert len(logs) == 3
    for path in logs:
        assert not [one for one in (KEY, TOKEN) if one in path.read_text()], path.name
    assert "'port': 1" in (folder / "server-0.log").read_text()
