"""Studies with `trace:`: transformers under PyTorch's profiler from its file to the page, and Debian's nsys.

`get-nsys.sh` fetches nsys; with SERVEGAUGE_REQUIRE_NSYS=1 a machine that has none fails.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from servegauge.base.files import read_json
from servegauge.contract.records.base import read
from servegauge.contract.records.trace import TraceRecord
from servegauge.dataset.trace_parts import merge_traces
from servegauge.traces.request_ttft import PARTS
from tests.frameworks.framework_environments import ROOT, environment
from tests.pretend.tree import Copy

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(900)]
STEPS = 24
FETCHED = ROOT / ".cache/nsys/root/usr/bin/nsys"
STUDY = {
    "question": "Where does a step go on a CPU?",
    "matrix": {
        "model": "tiny", "framework": "transformers", "platform": "own-cpu", "prompts": "chat-short", "concurrency": 2,
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


class Tree(Copy):
    """A copy of the repository in which the study runs."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.study("traced", STUDY)

    def study(self, name: str, spec: dict) -> None:
        self.write(f"config/studies/{name}.yaml", spec)

    def run(self, *targets: str, study: str = "traced", **variables: str) -> str:
        argv = self.argv("--config", f"study={study}", *(["--", *targets] if targets else []))
        done = subprocess.run(
            argv, cwd=self.root, env={**self.environment, **self.own_lock, **variables}, text=True, timeout=600,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def stamps(self) -> dict[str, int]:
        files = [*self.results.glob("traces/*/*"), *self.results.glob("cells/*/*")]
        return {str(path): path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    environment("transformers")
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


def nsys() -> str:
    """The program, which make test-frameworks fetches."""
    program = next((str(one) for one in (FETCHED, *filter(None, [shutil.which("nsys")])) if Path(one).exists()), None)
    if program is None:
        say = pytest.fail if os.environ.get("SERVEGAUGE_REQUIRE_NSYS") == "1" else pytest.skip
        say("there is no nsys: tests/frameworks/get-nsys.sh")
    return str(program)


def test_nsys_records_servers_with_and_without_labels(tree: Tree) -> None:
    """llama.cpp: its calls to the operating system. transformers: those, and a label of NVTX around each step."""
    program = nsys()
    environment("llamacpp")
    how = {"profiler": "nsys", "after_s": 0.2, "most_s": 1}
    matrix = {**STUDY["matrix"], "framework": ["llamacpp", "transformers"]}
    tree.study("recorded", {**STUDY, "matrix": matrix, "trace": how, "load": {**STUDY["load"], "requests": 24}})
    tree.run("traces", study="recorded", SERVEGAUGE_NSYS=program, SECRET_TOKEN="sesame-" * 3)
    found = merge_traces(tree.results, tree.root / "own-dataset", {})
    recorded = {row["trace"].split("-")[0]: row for row in found.rows if row["profiler"] == "nsys"}
    assert {name: (row["status"], row["reason"]) for name, row in recorded.items()} == dict.fromkeys(
        ("llamacpp", "transformers"), ("ok", None)
    )
    for row in recorded.values():
        (file,) = (tree.results / "traces" / row["trace"]).glob("*.sqlite.gz")
        content = gzip.decompress(file.read_bytes())
        assert content.count(b"OSRT_API") > 0
        assert b"sesame" not in content, "the environment stays out"
        assert b"SERVEGAUGE_SERVER" not in content
    parts = {name: tree.root / "own-dataset/{}" / f"{row['trace']}.parquet" for name, row in recorded.items()}
    steps = pq.read_table(str(parts["transformers"]).format("trace_steps")).to_pylist()
    assert len(steps) > 5
    assert {step["phase"] for step in steps} & {"decode", "mixed"}
    (capture,) = pq.read_table(str(parts["transformers"]).format("trace_captures")).to_pylist()
    assert (capture["profiler"], capture["phase_source"], capture["clock_source"]) == ("nsys", "annotated", "epoch")
    joined = pq.read_table(str(parts["transformers"]).format("trace_request_steps"))
    assert joined.num_rows > 0
