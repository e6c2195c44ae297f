"""Probes that need torch, on the CPU, in the environment of envs/probes: build it with `make test-frameworks`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from servegauge.base.files import read_json
from servegauge.contract.records.order import JobContext, Node
from servegauge.probes.harness import run as runner
from servegauge.submit.probe_order import make_order
from tests.frameworks.framework_environments import environment

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.frameworks
TINY = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 256, "torch_dtype": "bfloat16",
}  # fmt: skip


def rows_of(name: str, tmp_path: Path) -> list[dict]:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    written = runner.run_platform(
        {"name": "here"}, [name], tmp_path / "out", size="test", facts={},
        models=[{"name": "tiny", "source": str(tmp_path), "tp": [1, 3]}],
        python=environment("probes"),
    )  # fmt: skip
    document = read_json(written[name])
    assert document["software"]["torch"].startswith("2.")
    assert [row["reason"] for row in document["rows"] if row["status"] == "failed"] == []
    return document["rows"]


def test_gemm_in_every_data_type_of_a_cpu(tmp_path):
    rows = rows_of("gemm", tmp_path)
    assert {(row["variant"]["dtype"], row["variant"]["operation"]) for row in rows} == {
        (dtype, operation)
        for dtype in ("fp32", "bf16", "fp16")
        for operation in ("gemm", "gemv", "gemm peak", "gemv peak")
    }
    assert all(row["detail"]["verified"] for row in rows if row["status"] == "ok")
    assert {row["status"] for row in rows if "peak" not in row["variant"]["operation"]} == {"ok"}
    assert {row["variant"]["backend"] for row in rows} == {"torch"}


def test_the_models_products_in_its_own_data_type_and_a_split_that_does_not_divide(tmp_path):
    rows = rows_of("model_gemm", tmp_path)
    good = [row for row in rows if row["status"] == "ok"]
    assert {row["variant"]["dtype"] for row in good} == {"bf16"}
    assert {row["variant"]["operation"] for row in good} == {
        "qkv", "attention_out", "ffn_up_gate", "ffn_down", "output_head",
    }  # fmt: skip
    metrics = {"tflops", "bandwidth_gb_s", "time_us", "gemv_rows"}
    assert {row["metric"] for row in good} == metrics, "a test's sizes have no peak"
    without = ("peak_percent", "ridge_rows")
    (refused,) = (row for row in rows if row["status"] == "skipped" and row["metric"] not in without)
    assert refused["variant"]["tp"] == 3
    assert "cannot be split over 3 GPUs" in refused["reason"]


def test_attention_is_checked_and_measured_paged_and_whole(tmp_path):
    rows = rows_of("attention", tmp_path)
    assert {(row["variant"]["operation"], row["metric"]) for row in rows} == {
        ("decode", "time_us"), ("decode", "bandwidth_gb_s"), ("prefill", "time_us"), ("prefill", "tflops"),
        ("decode, contiguous", "time_us"), ("decode, contiguous", "bandwidth_gb_s"),
    }  # fmt: skip
    assert {row["variant"].get("block_tokens") for row in rows} == {4, 16, None}
    assert all(row["detail"]["error"] < 0.02 for row in rows)


def test_collectives_of_two_ranks_with_exact_sums(tmp_path):
    rows = rows_of("collectives", tmp_path)
    by = {(row["variant"]["operation"], row["variant"]["size_bytes"], row["metric"]): row for row in rows}
    assert {operation for operation, _, _ in by} == {
        "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv",
    }  # fmt: skip
    for operation, factor in (("all_reduce", 1.0), ("all_gather", 0.5), ("send_recv", 1.0)):
        time, algbw, busbw = (by[operation, 16384, metric] for metric in ("time_us", "algbw_gb_s", "busbw_gb_s"))
        assert busbw["samples"] == pytest.approx([one * factor for one in algbw["samples"]])
        assert algbw["samples"] == pytest.approx([16384 / one / 1e3 for one in time["samples"]])
        assert busbw["detail"]["verified"] is True


def inside(code: str) -> str:
    """What `code` prints in the environment of envs/probes."""
    done = subprocess.run(
        [environment("probes"), "-c", code],
        env=runner.child_environment({}), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wrong_attention_and_a_wrong_sum_are_found():
    said = inside("""
import dataclasses
from servegauge.probes.suite import attention
from servegauge.probes.suite import collectives
from servegauge.probes.harness.base import Context, Wrong, run
from servegauge.probes.harness.numeric import TorchBackend
paged = attention._paged(TorchBackend(), (4, 2, 16), 2, 32, 4)
expected = attention.reference(paged)
attention._check(attention._torch(paged)(0), expected)
shuffled = dataclasses.replace(paged, tables=[paged.tables[0].flip(0)])
try:
    attention._check(attention._torch(shuffled)(0), expected)
except Wrong as wrong:
    print("attention", wrong)
collectives.run_ranks = lambda spec, *_: [
    {"operation": o, "size_bytes": s, "wrong": 5}
    for o in spec["operations"] for s in spec["sizes"]
]
print({(row.status, row.reason) for row in run(collectives.Collectives(), Context({"name": "x"}, size="test"))})
""")
    assert "attention off by" in said
    assert "('failed', '5 elements of all_reduce over 1024 bytes are wrong')" in said
    assert "'ok'" not in said


def test_a_rank_that_dies_is_a_failed_row_with_its_words(tmp_path):
    said = inside("""
import os
from servegauge.probes.suite import collectives
from servegauge.probes.harness.base import Context, run
os.environ["GLOO_SOCKET_IFNAME"] = "no-such-interface"
whole = collectives.specification
collectives.specification = lambda *given: {**whole(*given), "host": "localhost"}
for row in run(collectives.Collectives(), Context({"name": "x"}, size="test")):
    print(row.status, row.reason)
""")
    assert "failed" in said
    assert "of 2 ended with status" in said
    assert "ok" not in said.split()


def test_two_nodes_find_each_other_and_measure_together(tmp_path):
    """Two tasks of one job, both on this machine: what Slurm starts on two nodes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    out = tmp_path / "out"
    tasks = []
    for rank in (0, 1):
        order = make_order(
            {"name": "pair"}, "network,collectives", out, ROOT, size="quick", python=str(environment("probes"))
        )
        order.asked["probes"]["size"] = "test"
        job = JobContext(node=Node(rank=rank, nodes=2, head="127.0.0.1", head_port=port))
        code = (
            "import msgspec, sys; from servegauge.contract.records.order import *;"
            "from servegauge.probes.harness.run import run_order;"
            "order = msgspec.json.decode(sys.argv[1], type=Order);"
            "job = msgspec.json.decode(sys.argv[2], type=JobContext);"
            "outcome = run_order(order, job); print(outcome and outcome.status)"
        )
        words = [msgspec.json.encode(one).decode() for one in (order, job)]
        tasks.append(
            subprocess.Popen([sys.executable, "-c", code, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        )
    assert [task.communicate(timeout=120)[0].strip() for task in tasks] == ["ok", "None"]
    collectives = read_json(out / "collectives.json")["rows"]
    assert {(row["variant"]["ranks"], row["variant"]["nodes"], row["status"]) for row in collectives} == {(4, 2, "ok")}
    network = read_json(out / "network.json")["rows"]
    assert {row["variant"]["path"] for row in network if row["status"] == "ok"} == {"loopback", "node-to-node"}
    assert list(out.glob(".node-*")) == []
