"""Traces in the dataset and on the page: measured ones with their tables, failed ones with their reason."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from servegauge.base.files import read_json, sha256, write_json
from servegauge.contract import tables
from servegauge.contract.records.base import plain
from servegauge.contract.records.specs import CellSpec, LaunchSpec
from servegauge.contract.spec import Cell, Load
from servegauge.contract.trace_tables import IN_DATASET, TRACE_TABLES
from servegauge.dataset import merge, trace_parts
from servegauge.dataset.study_view import Study
from servegauge.report import limits, page
from tests import synthetic, trace_results
from tests.parquet_files import check_file

PHASES = ("prefill", "mixed", "decode", "sampling")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two platforms; the same cell traced on both (the other's norm kernels take twice as long), a third
    that failed."""
    root = tmp_path_factory.mktemp("traced")
    synthetic.make_results(root, requests=20)
    results = root / "results"
    merge.merge(results)
    cells = {
        (row["platform"], row["prompts"]): row
        for row in merge.read(results, "cells").to_pylist()
        if row["repeat"] == 1 and row["concurrency"] == 1
    }
    h100 = trace_results.h100()
    tpot = 2 * cells["own-cpu", "short"]["tpot_p50_s"]
    trace_results.write_trace(results, "t-own", cells["own-cpu", "short"], h100, tpot_p50_s=tpot)
    slow = trace_results.slower(h100, "norm", 2)
    trace_results.write_trace(results, "t-shared", cells["shared-cpu", "short"], slow)
    said = {"status": "failed", "reason": "the profiler <did not> end within 60 s"}
    trace_results.write_trace(results, "t-failed", cells["shared-cpu", "long"], None, **said)
    return root


@pytest.fixture
def results(template: Path, tmp_path: Path) -> Path:
    shutil.copytree(template, tmp_path / "here")
    return tmp_path / "here/results"


def rows(results: Path) -> dict[str, dict]:
    return {row["trace"]: row for row in merge.read(results, "traces").to_pylist()}


def test_every_trace_is_a_row_and_a_failed_one_says_why(results: Path) -> None:
    merged = merge.merge(results)
    assert merged.warnings == []
    check_file(results / "dataset/traces.parquet", tables.TRACED)
    found = rows(results)
    assert {name: row["status"] for name, row in found.items()} == {
        "t-own": "ok",
        "t-shared": "ok",
        "t-failed": "failed",
    }
    assert found["t-failed"]["reason"] == "the profiler <did not> end within 60 s"
    assert found["t-own"]["launch"].endswith("-traced")
    assert merged.statuses == {"ok": 23, "failed": 1, "skipped": 1}  # a trace is no cell


def test_the_tables_of_a_trace_are_its_own_files_under_its_name(results: Path) -> None:
    merge.merge(results)
    for (file, asked), (table, schema) in zip(trace_results.h100().items(), IN_DATASET.items(), strict=True):
        assert sorted(path.stem for path in (results / "dataset" / table).iterdir()) == ["t-own", "t-shared"]
        path = trace_parts.part_path(results / "dataset", table, "t-own")
        check_file(path, schema)
        found = pq.read_table(path)
        assert set(found["trace"].to_pylist()) <= {"t-own"}
        left_out = [name for name in found.column_names if name in ("trace", "overhead_ratio")]
        assert found.drop_columns(left_out).to_pylist() == asked.drop_columns(left_out).to_pylist(), file


def test_the_profilers_cost_is_traced_over_timed_and_null_where_unknown(results: Path) -> None:
    merge.merge(results)
    folder = results / "dataset/trace_captures"
    assert pq.read_table(folder / "t-own.parquet")["overhead_ratio"].to_pylist() == [pytest.approx(2)]
    assert pq.read_table(folder / "t-shared.parquet")["overhead_ratio"].to_pylist() == [None]


def test_what_profiling_cost_follows_the_timed_cell(results: Path) -> None:
    """It may be measured after its trace was merged, or again."""
    traced = read_json(results / "traces/t-own/trace.json")
    file = results / "dataset/trace_captures/t-own.parquet"
    for timed_s, ratio in ((None, None), (traced["tpot_p50_s"] / 3, 3.0), (traced["tpot_p50_s"], 1.0)):
        trace_parts.merge_traces(results, results / "dataset", {traced["cell"]: timed_s})
        assert pq.read_table(file)["overhead_ratio"].to_pylist() == [pytest.approx(ratio) if ratio else None]


def test_parts_are_made_again_only_where_a_trace_changed_and_go_with_it(results: Path) -> None:
    merge.merge(results)
    parts = {path: path.stat().st_mtime_ns for path in (results / "dataset").glob("trace_*/*.parquet")}
    assert len(parts) == 2 * len(TRACE_TABLES)
    record = read_json(results / "traces/t-own/trace.json")
    write_json(results / "traces/t-own/trace.json", {**record, "tpot_p50_s": None})
    shutil.rmtree(results / "traces/t-shared")
    merge.merge(results)
    left = {path: path.stat().st_mtime_ns for path in (results / "dataset").glob("trace_*/*.parquet")}
    assert {path.stem for path in left} == {"t-own"}
    assert all(parts[path] != stamp for path, stamp in left.items())
    merge.merge(results)
    assert {path: path.stat().st_mtime_ns for path in left} == left


def _cut(folder: Path) -> None:
    data = (folder / "steps.parquet").read_bytes()
    (folder / "steps.parquet").write_bytes(data[:-20])


def _change(folder: Path) -> None:
    data = bytearray((folder / "steps.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "steps.parquet").write_bytes(bytes(data))


def _said(**fields: object):
    def change(folder: Path) -> None:
        write_json(folder / "trace.json", {**read_json(folder / "trace.json"), **fields})

    return change


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_cut, "steps.parquet has"),
        (_change, "does not have the SHA-256"),
        (lambda folder: (folder / "gaps.parquet").unlink(), "gaps.parquet is gone"),
        (lambda folder: (folder / "trace.json").unlink(), "it has no trace.json"),
        (lambda folder: (folder / "trace.json").write_text("[]"), "trace.json is not readable"),
        (_said(trace="another"), "of another trace"),
        (_said(files={}), "trace.json names no traces.parquet"),
    ],
)
def test_a_corrupt_trace_is_set_aside_whole_with_its_reason(results: Path, damage, reason: str) -> None:
    damage(results / "traces/t-own")
    merged = merge.merge(results)
    assert reason in merged.corrupt["t-own"]
    assert "t-own" not in rows(results)
    assert not (results / "traces/t-own").exists()
    assert reason in read_json(results / "corrupt/t-own-0/corrupt.json")["reason"]
    assert not list((results / "dataset").glob("trace_*/t-own.parquet"))
    assert merge.merge(results).corrupt == {}


def test_a_trace_of_a_newer_version_stays_where_it_is(results: Path) -> None:
    record = results / "traces/t-own/trace.json"
    write_json(record, {**read_json(record), "version": 99})
    merged = merge.merge(results)
    assert (merged.corrupt, record.exists()) == ({}, True)
    assert any(f"{record} is not the record of a trace: it has version 99" in said for said in merged.warnings)


def test_what_is_being_written_is_no_trace_yet(results: Path) -> None:
    (results / "traces/.t-new.tmp").mkdir()
    (results / "traces/t-empty").mkdir()
    merged = merge.merge(results)
    assert (merged.corrupt, set(rows(results))) == ({}, {"t-own", "t-shared", "t-failed"})


def test_the_page_says_that_decode_waits_for_the_cpu(results: Path, only_figures) -> None:
    only_figures("trace-")
    merge.merge(results)
    out = results / "report/demo.html"
    page.render(results, "demo", out)
    text = out.read_text(encoding="utf-8")
    section = text.partition('<section id="traces">')[2].partition("</section>")[0]
    said = "prompts short" if "prompts short" in section else "short"
    assert f"{said}, concurrency 1, own-cpu: decode waits for the CPU: GPU busy 33 % of a step" in section
    of_steps = limits._traced(Study(results, "demo"))  # what the limits of a platform with GPUs are told from
    assert {round(shares["step_busy"], 3) for shares in of_steps.values()} == {0.327}
    assert '<figure id="figure-trace-phases">' in section
    assert '<figure id="figure-trace-idle">' in section
    assert "the profiler &lt;did not&gt; end within 60 s" in section
    kernels = section.partition("Kernels whose time differs most")[2]
    assert kernels.count(">2.00<") >= 1
    assert set(re.findall(r"<td>(\w+)</td><td class=\"n\">", kernels.partition("</table>")[0])) >= {"norm"}
    found = list(csv.DictReader(io.StringIO((results / "report/demo/phases.csv").read_text())))
    assert [(row["level"], row["phase"]) for row in found] == [
        (p, q) for p in ("own-cpu", "shared-cpu") for q in PHASES
    ]
    assert float(found[2]["gpu_share"]) == pytest.approx(0.3275, abs=5e-4)
    names = {path.name for path in (results / "report/demo").glob("trace-*.svg")}
    assert names == {"trace-phases.svg", "trace-ttft.svg", "trace-idle.svg"}
    table = list(csv.DictReader(io.StringIO((results / "report/demo/phase-table.csv").read_text())))
    assert [(row["side"], row["level"]) for row in table] == [
        (s, p) for s in ("CPU", "GPU") for p in ("own-cpu", "shared-cpu")
    ]
    assert (table[1]["decode_ratio"], table[0]["decode_ratio"]) == ("1.0", "")


def test_a_study_that_traced_nothing_has_no_section(results: Path, no_figures) -> None:
    shutil.rmtree(results / "traces")
    merge.merge(results)
    page.render(results, "demo", results / "report/demo.html")
    text = (results / "report/demo.html").read_text(encoding="utf-8")
    assert 'href="#traces"' not in text
    assert 'id="traces"' not in text
    for name in ("phases.csv", "phase-table.csv"):  # outputs of the rule, whatever was traced
        assert len((results / "report/demo" / name).read_text().splitlines()) == 1


def test_a_dataset_of_before_there_were_traces_is_still_shown(results: Path) -> None:
    merge.merge(results)
    (results / "dataset/traces.parquet").unlink()
    assert Study(results, "demo").traces == []


def test_a_trace_of_another_studys_cell_is_not_this_ones(results: Path) -> None:
    record = json.loads((results / "traces/t-own/trace.json").read_text())
    write_json(results / "traces/t-own/trace.json", {**record, "cell": "another"})
    merge.merge(results)
    assert {row["trace"] for row in Study(results, "demo").traces} == {"t-shared", "t-failed"}


def from_capture(results: Path, data: bytes, name: str = "capture-0.sqlite.gz") -> Path:
    """t-own as a launch leaves it: the profiler's own file instead of tables."""
    folder = results / "traces/t-own"
    for path in folder.glob("*.parquet"):
        path.unlink()
    (folder / name).write_bytes(data)
    said = {name: {"sha256": sha256(folder / name), "bytes": len(data)}}
    write_json(folder / "trace.json", {**read_json(folder / "trace.json"), "captures": [name], "files": said})
    return folder / name


def test_what_a_launch_leaves_is_read_at_the_merge(results: Path) -> None:
    from_capture(results, trace_results.H100.read_bytes())
    assert merge.merge(results).corrupt == {}
    found = pq.read_table(results / "dataset/trace_steps/t-own.parquet")
    assert found.drop_columns(["trace"]).equals(trace_results.h100()["steps"].drop_columns(["trace"]))
    assert set(found["trace"].to_pylist()) == {"t-own"}


def test_a_capture_that_changed_is_corrupt_and_one_that_cannot_be_read_is_a_failed_row(results: Path) -> None:
    from_capture(results, b'{"traceEvents": []}', "capture-0.json")
    assert merge.merge(results).corrupt == {}
    row = rows(results)["t-own"]
    assert row["status"] == "failed"
    assert row["reason"].startswith("its capture was not read: capture-0.json")
    (results / "traces/t-own/capture-0.json").write_bytes(b'{"traceEvents": [ ')
    assert "capture-0.json has 18 bytes, 19 were written" in merge.merge(results).corrupt["t-own"]


def test_a_capture_that_contradicts_itself_is_a_failed_row_and_the_others_are_merged(results: Path) -> None:
    label, gap_us = "execute_context_1(64)_generation_0(0)", 1e14  # steps years apart
    events = []
    for number in range(20):
        joined = {"ts": number * gap_us, "args": {"correlation": number + 1, "device": 0, "stream": 7}}
        for kind, name in (("user_annotation", label), ("cuda_runtime", "cudaLaunchKernel"), ("kernel", "k")):
            events.append({"ph": "X", "cat": kind, "name": name, "dur": 10.0, "pid": 1, "tid": 1, **joined})
    from_capture(results, json.dumps({"traceEvents": events}).encode(), "capture-0.json")
    assert merge.merge(results).corrupt == {}
    found = rows(results)
    assert found["t-own"]["status"] == "failed"
    assert "capture-0.json: what it holds contradicts itself (ValueError: " in found["t-own"]["reason"]
    assert found["t-shared"]["status"] == "ok"
    assert [path.stem for path in (results / "dataset/trace_steps").glob("*")] == ["t-shared"]


def test_a_planned_trace_is_a_row_whatever_became_of_it(results: Path) -> None:
    plan = read_json(results / "plan/demo.json")
    trace_launches, traces = [], []
    for cell in plan["cells"][:3]:
        timed = next(msgspec.convert(one, LaunchSpec).launch for one in plan["launches"] if one["id"] == cell["launch"])
        launch = replace(timed, trace={"cell": cell["id"], "profiler": "torch", "steps": 4})
        trace_launches.append(launch.to_dict())
        one = Cell.of(launch, cell["prompts"], Load(**cell["load"]))
        traces.append(plain(CellSpec.of(one)))
    traces[2]["skipped"] = "it cannot be traced"
    write_json(results / "plan/demo.json", {**plan, "trace_launches": trace_launches, "traces": traces})
    failed = traces[0]["id"]
    outcome = {"launch": trace_launches[0]["id"], "attempt": 0, "study": "demo", "status": "ok", "reason": None}
    outcome["cells"] = {failed: {"status": "failed", "reason": "the profiler wrote no trace"}}
    write_json(results / "launches" / trace_launches[0]["id"] / "attempt-0.json", outcome)
    before = {row["launch"] for row in merge.read(results, "launches").to_pylist()}
    merge.merge(results)
    found = [rows(results)[trace["id"]] for trace in traces]
    assert [row["status"] for row in found] == ["failed", "planned", "skipped"]
    assert [row["reason"] for row in found] == ["the profiler wrote no trace", None, "it cannot be traced"]
    assert [row["cell"] for row in found] == [cell["id"] for cell in plan["cells"][:3]]
    assert (found[0]["platform"], found[0]["condition"]) == ("own-cpu", "short, rate2")
    assert {row["launch"] for row in merge.read(results, "launches").to_pylist()} == before  # timed ones alone
    assert {row["trace"] for row in Study(results, "demo").traces} >= {trace["id"] for trace in traces}
