"""Odd answers through a whole launch: study, order, cells and dataset, with an engine that answers as a prompt asks."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.heavy
KINDS = ("plain", "heartbeat", "document", "error", "abort", "limited", "zero", "half")


@pytest.fixture(scope="module")
def cells(project) -> dict[str, dict]:
    """The measured cell of each kind."""
    engine = project.root / "odd-engine"
    shutil.copyfile(Path(__file__).with_name("odd_engine.py"), engine)
    engine.write_text(engine.read_text().replace("/usr/bin/env python3", sys.executable, 1))
    engine.chmod(0o755)
    own = {"frameworks": {"llamacpp": {"executable": str(engine)}}}
    project.write("config/platforms/odd.yaml", {"description": "odd", "gpus_per_node": 0, **own})
    for kind in KINDS:
        lines = [json.dumps({"prompt": f"{kind} number {n}", "output_tokens": 8}) for n in range(200)]
        (project.root / f"config/prompts/{kind}.jsonl").write_text("\n".join(lines))
        own = {
            "description": kind,
            "kind": "jsonl",
            "path": f"config/prompts/{kind}.jsonl",
            "how_to_get": "it is there",
        }
        project.write(f"config/prompts/{kind}.yaml", own)
    study = {
        "question": "Are odd answers read as they are meant?",
        "matrix": {
            "model": "tiny", "framework": "llamacpp", "platform": "odd", "prompts": list(KINDS), "concurrency": [2],
            "repeat": 1,
        },
        "load": {"requests": 12, "warmup_requests": 0, "timeout_s": 5},
        "job": {"calibrate": "once"},
    }  # fmt: skip
    project.write("config/studies/odd.yaml", study)
    project.run("--config", "study=odd")
    rows = pq.read_table(project.root / "results/dataset/cells.parquet").to_pylist()
    return {row["prompts"]: row for row in rows if row["platform"] == "odd"}


def test_every_cell_was_measured(cells):
    assert {kind: row["status"] for kind, row in cells.items()} == dict.fromkeys(KINDS, "ok")


@pytest.mark.parametrize("kind", ["plain", "heartbeat", "zero", "half"])
def test_tokens_and_times_are_those_that_were_sent(cells, kind):
    row = cells[kind]
    assert row["requests_ok"] == row["requests"] == 12
    assert row["output_tokens_mean"] == 8
    assert row["ttft_p50_s"] > (0.2 if kind == "heartbeat" else 0.015)
    assert 0.004 < row["tpot_p50_s"] < 0.03
    assert "tpot_unknown" not in row["flags"]


def test_an_answer_in_one_piece_has_no_time_to_a_first_token(cells):
    row = cells["document"]
    assert (row["ttft_p50_s"], row["tpot_p50_s"], row["requests_ok"]) == (None, None, 12)
    assert "not_streamed" in row["flags"]


@pytest.mark.parametrize(("kind", "words"), [("error", "out of memory"), ("abort", "abort"), ("limited", "slow down")])
def test_failures_count_in_the_servers_words(project, cells, kind, words):
    row = cells[kind]
    assert 4 <= row["requests_ok"] <= 8
    assert "errors" in row["flags"]
    requests = pq.read_table(project.root / "results/cells" / row["cell"] / "requests.parquet").to_pylist()
    failed = [one for one in requests if one["status"] not in ("ok", "cancelled")]
    assert failed
    assert all(words in one["error"] for one in failed)
    assert {one["status"] for one in failed} == {"rate_limited" if kind == "limited" else "invalid"}
