"""Captures of real servers: vLLM on an H100 against its oracle, SGLang and vLLM on MI300X against TraceLens' tables."""

from __future__ import annotations

import csv
import gzip
import json
import sqlite3
from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from servegauge.traces import build, phases

CAPTURES = Path(__file__).parent / "captures"
H100 = {"nsys": "vllm_h100_eager.sqlite.gz", "torch": "torch_vllm_h100_eager.json.gz"}
TRACELENS = ("sglang_decode", "vllm_decode_full", "vllm_prefilldecode_piecewise")


@cache
def tables(name: str) -> dict:
    path = CAPTURES / name
    return build.tables(build.name_of(path), build.read([path]))


def oracle(profiler: str) -> tuple[list[dict], dict]:
    with (CAPTURES / f"steps_{profiler}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads((CAPTURES / f"steps_{profiler}.json").read_text())


@pytest.mark.parametrize("profiler", H100)
def test_every_step_is_the_oracles(profiler: str) -> None:
    # torch writes a time and a duration, each rounded to 1 ns; the oracle rounds them otherwise than we do.
    slack = 0 if profiler == "nsys" else 600
    steps = tables(H100[profiler])["steps"].to_pylist()
    rows, _ = oracle(profiler)
    assert len(steps) == len(rows) == 30
    for step, row in zip(steps, rows, strict=True):
        assert step["phase"] == row["phase"].replace("empty", "idle")
        for name in ("context_requests", "context_tokens", "generation_requests", "generation_tokens", "kernels"):
            assert step[name] == int(row[name]), name
        assert step["launches"] == int(row["launch_calls"])
        pairs = {
            "start_ns": "start_ns", "cpu_ns": "forward_cpu_ns", "gpu_start_ns": "gpu_first_ns",
            "gpu_end_ns": "gpu_last_ns", "span_ns": "gpu_span_ns", "gpu_busy_ns": "gpu_busy_ns",
            "idle_ns": "gpu_idle_in_span_ns", "sampling_gpu_ns": "gpu_after_busy_ns",
        }  # fmt: skip
        for ours, theirs in pairs.items():
            if row[theirs] != "" and step[ours] is not None:
                assert abs(step[ours] - int(row[theirs])) <= slack, (step["step"], ours)
        if row["kernels"] != "0":
            assert None not in [step[ours] for ours in pairs]
        if step["step"] < 29:
            assert abs(step["end_ns"] - step["start_ns"] - int(row["period_ns"])) <= slack


@pytest.mark.parametrize("profiler", H100)
def test_the_totals_are_the_oracles(profiler: str) -> None:
    _, found = oracle(profiler)
    total = found["total"]
    trace = tables(H100[profiler])["traces"].to_pylist()[0]
    kernels = tables(H100[profiler])["kernels"].to_pandas()
    copies = tables(H100[profiler])["copies"].to_pandas()
    assert trace["kernels"] == trace["kernels_attributed"] == kernels["calls"].sum() == total["kernels"]
    assert trace["gpu_busy_ns"] == pytest.approx(total["gpu_busy_union_ns"], rel=1e-6)
    assert kernels["total_ns"].sum() == pytest.approx(total["kernel_sum_ns"], rel=1e-6)
    memcpy = copies[copies["direction"] != "memset"]
    assert (memcpy["calls"].sum(), memcpy["bytes"].sum()) == (total["memcpy"], total["memcpy_bytes"])
    assert memcpy["total_ns"].sum() == pytest.approx(total["memcpy_sum_ns"], rel=1e-3)
    assert copies[copies["direction"] == "memset"]["calls"].sum() == total["memset"]
    by_direction = memcpy.groupby("direction", observed=True)["bytes"].sum()
    assert (by_direction["HtoD"], by_direction["DtoH"]) == (13_648, 864)
    gaps = tables(H100[profiler])["gaps"].to_pandas()
    assert gaps["total_ns"].sum() == trace["idle_ns"]


@pytest.mark.parametrize("profiler", H100)
def test_the_phase_table_is_the_oracles(profiler: str) -> None:
    _, found = oracle(profiler)
    rows = {row["phase"]: row for row in phases.phases(tables(H100[profiler]))}
    assert list(rows) == ["prefill", "mixed", "decode", "sampling"]
    for phase, sums in found["by_phase"].items():
        if phase == "empty":
            continue
        row, count = rows[phase], sums["steps"]
        assert row["steps"] == count
        assert row["cpu_ns"] == pytest.approx(sums["forward_cpu_ns"] / count, rel=1e-3)
        assert row["step_ns"] == pytest.approx(sums["period_ns"] / count, rel=1e-3)
        assert row["gpu_busy_ns"] == pytest.approx(sums["gpu_busy_ns"] / count, rel=1e-3)
        assert row["gpu_share"] == pytest.approx(sums["gpu_busy_ns"] / sums["period_ns"], rel=1e-3)
        assert row["kernels"] == pytest.approx(sums["kernels"] / count)


def test_it_is_said_that_decode_waits_for_the_cpu() -> None:
    said = phases.sentences(phases.phases(tables(H100["nsys"])))
    assert [text.split(" (")[0] for text in said] == [
        "prefill waits for the CPU: GPU busy 29 % of a step",
        "decode waits for the CPU: GPU busy 33 % of a step",
    ]


def test_launches_are_counted_by_call() -> None:
    launches = tables(H100["nsys"])["launches"].to_pandas()
    calls = launches.groupby("call", observed=True)["calls"].sum()
    assert (calls["cudaLaunchKernel"], calls["cuLaunchKernelEx"], calls["cudaLaunchKernelExC"]) == (8_736, 3_974, 1_584)


def test_gpu_time_is_the_same_under_both_profilers_and_cpu_time_is_not() -> None:
    nsys, torch = ({row["phase"]: row for row in phases.phases(tables(name))} for name in H100.values())
    for phase in ("prefill", "mixed", "decode"):
        assert torch[phase]["gpu_busy_ns"] == pytest.approx(nsys[phase]["gpu_busy_ns"], rel=0.005)
        assert torch[phase]["cpu_ns"] > 1.3 * nsys[phase]["cpu_ns"]


def test_without_its_labels_the_same_capture_has_the_same_phases(tmp_path: Path) -> None:
    path = tmp_path / "unlabelled.sqlite"
    path.write_bytes(gzip.decompress((CAPTURES / H100["nsys"]).read_bytes()))
    with sqlite3.connect(path) as db:
        db.execute("DELETE FROM NVTX_EVENTS")
    db.close()
    found = build.tables("unlabelled", build.read([path]))
    assert found["traces"]["phase_source"].to_pylist() == ["inferred"]
    assert "inferred" in found["traces"]["reason"].to_pylist()[0]
    steps, truth = found["steps"].to_pandas(), tables(H100["nsys"])["steps"].to_pandas()
    assert len(steps) == 26
    assert steps["label"].isna().all()
    counts = steps["phase"].value_counts()
    assert counts["prefill"] == 4  # two of them mixed, which cannot be told
    assert counts["decode"] in (21, 22)
    busy = pd.Series({name: group["gpu_busy_ns"].mean() for name, group in steps.groupby("phase", observed=True)})
    assert busy["decode"] == pytest.approx(truth[truth["phase"] == "decode"]["gpu_busy_ns"].mean(), rel=0.01)


@pytest.mark.parametrize("name", TRACELENS)
def test_tracelens_published_timelines(name: str) -> None:
    with (CAPTURES / "tracelens" / f"{name}.gpu_timeline.csv").open(newline="") as file:
        published = {row["type"]: float(row["time ms"]) * 1e6 for row in csv.DictReader(file)}
    row = tables(f"tracelens/{name}.json.gz")["traces"].to_pylist()[0]
    pairs = {
        "computation_time": "compute_ns", "exposed_comm_time": "comm_exposed_ns", "busy_time": "gpu_busy_ns",
        "exposed_memcpy_time": "memcpy_exposed_ns", "idle_time": "idle_ns", "total_time": "span_ns",
    }  # fmt: skip
    for theirs, ours in pairs.items():
        assert row[ours] == pytest.approx(published[theirs], rel=1e-3), theirs


def test_labels_and_graphs_of_other_servers() -> None:
    columns = ("phase", "context_requests", "context_tokens", "generation_requests", "generation_tokens")
    found = {
        name: [
            tuple(row[c] for c in (*columns, "graph_launches"))
            for row in tables(f"tracelens/{name}.json.gz")["steps"].to_pylist()
        ]
        for name in TRACELENS
    }
    assert found == {
        "sglang_decode": [("decode", 0, 0, 32, 32, 1)],
        "vllm_decode_full": [("decode", 0, 0, 32, 32, 1)],
        "vllm_prefilldecode_piecewise": [("mixed", 9, 8155, 37, 37, 25)],
    }
    assert {tables(f"tracelens/{name}.json.gz")["traces"]["graph_mode"].to_pylist()[0] for name in TRACELENS} == {
        "node"
    }
