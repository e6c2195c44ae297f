"""Captures whose truth is known: every table, exact, from every format."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from servegauge.contract.trace_tables import TRACE_TABLES
from servegauge.traces import build, phases
from tests.unit.traces import made_up_captures as made_up

FORMATS = (*made_up.GENERATIONS, "chrome")
ZERO = {"chrome": 900_000}  # a Chrome trace's zero is its first event


def read(folder: Path, form: str, graph: str = "node", without: tuple[str, ...] = (), ranks=None) -> dict[str, list]:
    ranks = ranks or made_up.ranks(graph)
    if form == "chrome":
        paths = made_up.write_chrome(folder, ranks)
    else:
        paths = [made_up.write_nsys(folder / "made.sqlite", ranks, form, without)]
    tables = build.tables("made", build.read(paths))
    assert {name: table.schema for name, table in tables.items()} == TRACE_TABLES
    return {name: table.to_pylist() for name, table in tables.items()}


def pick(rows: list[dict], *columns: str, **where) -> list[tuple]:
    return [tuple(row[c] for c in columns) for row in rows if all(row[k] == v for k, v in where.items())]


@pytest.mark.parametrize("form", FORMATS)
def test_steps_hold_what_their_host_called_for_whenever_it_ran(tmp_path: Path, form: str) -> None:
    steps = read(tmp_path, form)["steps"]
    zero = ZERO.get(form, 0)
    spans = ("span_ns", "gpu_busy_ns", "compute_ns", "comm_exposed_ns", "memcpy_exposed_ns", "idle_ns")
    for rank in (0, 1):
        late = rank * made_up.SKEW_NS - zero
        own = [row for row in steps if row["rank"] == rank]
        assert [row["device"] for row in own] == [rank] * 5
        assert pick(own, "step", "phase") == list(enumerate(("prefill", "mixed", "decode", "idle", "decode")))
        counts = ("context_requests", "context_tokens", "generation_requests", "generation_tokens")
        assert pick(own, *counts)[:3] == [(1, 100, 0, 0), (1, 50, 1, 1), (0, 0, 2, 2)]
        starts, ends = (1_000_000, 1_500_000, 1_900_000, 2_150_000), (1_500_000, 1_900_000, 2_150_000, 2_300_000)
        assert pick(own, "start_ns", "end_ns")[:4] == [(s + late, e + late) for s, e in zip(starts, ends, strict=True)]
        assert [row["cpu_ns"] for row in own[:4]] == [400_000, 300_000, 200_000, 10_000]
        assert pick(own, *spans)[:3] == [
            (420_000, 250_000, 110_000, 80_000, 60_000, 170_000),
            (420_000, 140_000, 140_000, 0, 0, 280_000),
            (115_000, 35_000, 30_000, 0, 5_000, 80_000),
        ]
        assert pick(own, "gpu_start_ns", "gpu_end_ns")[:2] == [
            (1_020_000 + late, 1_440_000 + late),
            (1_530_000 + late, 1_950_000 + late),
        ]
        assert pick(own, "sampling_cpu_ns", "sampling_gpu_ns")[:4] == [(25_000, 10_000), (0, 0), (0, 0), (0, 0)]
        assert pick(own, "kernels", "launches", "graph_launches")[:4] == [(3, 3, 0), (4, 2, 1), (1, 1, 0), (0, 0, 0)]
        # A step without GPU work has no span; a step without tokens is not decode.
        assert pick(own, "gpu_busy_ns", "span_ns", "idle_ns", "gpu_start_ns", phase="idle") == [(0, None, None, None)]


@pytest.mark.parametrize("form", made_up.GENERATIONS)
def test_a_label_that_the_capture_cuts_off_has_no_duration(tmp_path: Path, form: str) -> None:
    last = read(tmp_path, form)["steps"][4]
    assert (last["cut"], last["cpu_ns"], last["kernels"], last["gpu_busy_ns"]) == (True, None, 1, 20_000)


def test_a_step_that_was_cut_is_in_no_mean_unless_there_is_no_other(tmp_path: Path) -> None:
    made = made_up.ranks(count=1)
    paths = [made_up.write_nsys(tmp_path / "made.sqlite", made)]
    rows = {row["phase"]: row for row in phases.phases(build.tables("made", build.read(paths)))}
    assert (rows["decode"]["steps"], rows["decode"]["cpu_ns"], rows["decode"]["gpu_busy_ns"]) == (1, 200_000, 35_000)
    assert rows["sampling"]["steps"] == 3
    made[0].ranges[1] = made_up.replace(made[0].ranges[1], start=-1)  # the mixed step, the only one
    made[0].ranges[0] = made_up.replace(made[0].ranges[0], start=-2, end=-1)
    paths = [made_up.write_nsys(tmp_path / "again.sqlite", made)]
    rows = {row["phase"]: row for row in phases.phases(build.tables("made", build.read(paths)))}
    assert (rows["mixed"]["steps"], rows["mixed"]["cpu_ns"]) == (1, None)


@pytest.mark.parametrize("form", FORMATS)
def test_the_device_as_a_whole(tmp_path: Path, form: str) -> None:
    traces = read(tmp_path, form)["traces"]
    assert [(row["rank"], row["device"], row["ranks"], row["steps"]) for row in traces] == [(0, 0, 2, 5), (1, 1, 2, 5)]
    for row in traces:
        assert (row["kernels"], row["kernels_attributed"], row["attributed_share"]) == (11, 9, 9 / 11)
        assert (row["span_ns"], row["gpu_busy_ns"], row["idle_ns"]) == (1_390_000, 510_000, 880_000)
        assert (row["compute_ns"], row["comm_exposed_ns"], row["memcpy_exposed_ns"]) == (365_000, 80_000, 65_000)
        assert (row["graph_mode"], row["phase_source"], row["reason"]) == ("node", "annotated", None)


@pytest.mark.parametrize("form", FORMATS)
def test_idle_time_by_cause(tmp_path: Path, form: str) -> None:
    gaps = read(tmp_path, form)["gaps"]
    for rank in (0, 1):
        found = {(row["phase"], row["cause"]): (row["calls"], row["total_ns"]) for row in gaps if row["rank"] == rank}
        assert found == {
            ("prefill", "host_late"): (2, 165_000),
            ("prefill", "launch_call"): (2, 10_000),
            ("prefill", "device"): (2, 10_000),
            ("mixed", "host_late"): (2, 220_000),
            ("mixed", "launch_call"): (2, 15_000),
            ("mixed", "device"): (2, 135_000),
            ("decode", "host_late"): (2, 115_000),
            ("decode", "synchronisation"): (1, 55_000),
            ("decode", "launch_call"): (2, 6_000),
            ("decode", "device"): (3, 24_000),
            (None, "unattributed"): (1, 125_000),
        }
        assert sum(total for _, total in found.values()) == 880_000


@pytest.mark.parametrize("form", FORMATS)
def test_kernels_copies_collectives_and_launches(tmp_path: Path, form: str) -> None:
    tables = read(tmp_path, form)
    kernels = [row for row in tables["kernels"] if row["rank"] == 1]
    found = {
        (row["phase"], row["part"], row["kernel"]): (row["kind"], row["calls"], row["total_ns"]) for row in kernels
    }
    assert found == {
        ("prefill", "forward", made_up.GEMM): ("gemm", 1, 100_000),
        ("prefill", "forward", made_up.REDUCE): ("collective", 1, 100_000),
        ("prefill", "sampling", made_up.ARGMAX): ("sampling", 1, 10_000),
        ("mixed", "forward", made_up.GEMM): ("gemm", 1, 30_000),
        ("mixed", "forward", made_up.NORM): ("norm", 1, 40_000),
        ("mixed", "forward", made_up.FLASH): ("attention", 1, 50_000),
        ("mixed", "forward", made_up.ROPE): ("rope", 1, 30_000),
        ("decode", "forward", made_up.FLASH): ("attention", 2, 50_000),
        (None, None, made_up.GEMM): ("gemm", 2, 65_000),
    }
    flash = next(row for row in kernels if row["phase"] == "decode")
    assert (flash["p50_ns"], flash["p99_ns"], flash["share"]) == (25_000, 29_900, 1.0)
    assert (flash["grid"], flash["block"], flash["registers"]) == ("8x4x1", "128x1x1", 64)
    of_prefill = [row["share"] for row in kernels if row["phase"] == "prefill"]
    assert of_prefill == [100 / 210, 100 / 210, 10 / 210]

    copies = pick(tables["copies"], "phase", "direction", "memory", "calls", "bytes", "total_ns", "gb_s", rank=0)
    assert sorted(copies) == [
        ("decode", "DtoH", "pageable", 1, 16, 5_000, 16 / 5_000),
        ("prefill", "HtoD", "pinned", 1, 8_000, 80_000, 0.1),
    ]
    size = 1_000 if form == "chrome" else None  # nsys does not say what a collective carried
    columns = ("phase", "kind", "calls", "bytes", "total_ns", "exposed_ns", "skew_p50_ns", "skew_max_ns")
    expected = [("prefill", "all_reduce", 1, size, 100_000, 80_000, made_up.SKEW_NS, made_up.SKEW_NS)]
    assert pick(tables["collectives"], *columns, rank=0) == expected
    assert pick(tables["collectives"], *columns, rank=1) == expected

    launches = {(row["phase"], row["call"]): row for row in tables["launches"] if row["rank"] == 0}
    graph = launches["mixed", "cudaGraphLaunch"]
    assert (graph["calls"], graph["api_p50_ns"], graph["queue_p50_ns"]) == (1, 10_000, 20_000)
    assert launches["prefill", "cuLaunchKernel"]["queue_p50_ns"] == 10_000
    assert launches["decode", "cudaStreamSynchronize"]["total_ns"] == 55_000
    assert launches["decode", "cudaStreamSynchronize"]["queue_p50_ns"] is None


@pytest.mark.parametrize("form", ["3.0.0", "3.20.3"])
def test_a_graph_that_is_one_row_is_one_launch_and_one_kernel(tmp_path: Path, form: str) -> None:
    tables = read(tmp_path, form, graph="graph")
    step = tables["steps"][1]
    assert (step["kernels"], step["launches"], step["graph_launches"], step["gpu_busy_ns"]) == (2, 2, 1, 140_000)
    assert tables["traces"][0]["graph_mode"] == "graph"
    assert ("CUDA graph 12", 1, 110_000) in pick(tables["kernels"], "kernel", "calls", "total_ns", phase="mixed")


def test_without_labels_and_without_sampling_nothing_is_guessed(tmp_path: Path) -> None:
    tables = read(tmp_path, "3.20.3", without=("NVTX_EVENTS",))
    row = tables["traces"][0]
    assert (row["phase_source"], row["steps"], row["attributed_share"]) == ("none", 0, 0.0)
    assert "NVTX_EVENTS" in row["reason"]
    assert "no phases" in row["reason"]
    assert tables["steps"] == []
    assert {kernel["phase"] for kernel in tables["kernels"]} == {None}
    assert sum(gap["total_ns"] for gap in tables["gaps"] if gap["rank"] == 0) == 880_000


def test_without_calls_no_kernel_is_given_to_a_step(tmp_path: Path) -> None:
    tables = read(tmp_path, "3.20.3", without=("CUPTI_ACTIVITY_KIND_RUNTIME",))
    row = tables["traces"][0]
    assert "CUPTI_ACTIVITY_KIND_RUNTIME" in row["reason"]
    assert "0 of 11 kernels" in row["reason"]
    assert row["gpu_busy_ns"] == 510_000
    assert {step["phase"] for step in tables["steps"]} == {None}
    assert {step["launches"] for step in tables["steps"]} == {None}
    assert {(gap["phase"], gap["cause"]) for gap in tables["gaps"]} == {(None, "unattributed")}
    assert tables["launches"] == []


def test_without_gpu_work_the_host_still_has_its_steps(tmp_path: Path) -> None:
    gpu = tuple(f"CUPTI_ACTIVITY_KIND_{name}" for name in ("KERNEL", "MEMCPY"))
    tables = read(tmp_path, "3.20.3", without=gpu)
    step = tables["steps"][0]
    assert (step["phase"], step["cpu_ns"], step["device"]) == ("prefill", 400_000, None)
    assert (step["gpu_busy_ns"], step["kernels"]) == (None, None)
    assert "no GPU work" in tables["traces"][0]["reason"]


def test_of_a_process_without_cuda_its_calls_to_the_system_are_counted_by_phase(tmp_path: Path) -> None:
    """They start nothing: no step ends with one, and none of them is sampling, however late it comes."""
    made = made_up.ranks(count=1)
    step, after = made[0].ranges[0], made[0].ranges[0].end + 1_000
    path = made_up.write_nsys(tmp_path / "made.sqlite", [replace(made[0], ops=[], calls=[])])
    bare = build.tables("x", build.read([path]), None)
    thread = (1 << 48) | (made[0].pid << 24) | (made[0].pid + step.thread)
    with closing(sqlite3.connect(path)) as database:
        database.execute('CREATE TABLE OSRT_API (start INT, "end" INT, globalTid INT, nameId INT)')
        database.execute("INSERT INTO StringIds VALUES (7001, 'poll')")
        for start, end in (
            (step.start + 10, step.start + 310),
            (step.start + 400, step.start + 500),
            (after, after + 9),
        ):
            database.execute("INSERT INTO OSRT_API VALUES (?, ?, ?, 7001)", (start, end, thread))
        database.commit()
    found = build.tables("x", build.read([path]), None)
    assert found["steps"] == bare["steps"]
    assert found["traces"] == bare["traces"]
    (row,) = [row for row in found["launches"].to_pylist() if row["phase"] is not None]
    assert (row["call"], row["calls"], row["total_ns"]) == ("poll", 3, 409)
    assert (row["device"], row["queue_p50_ns"]) == (None, None)


def test_without_copies_there_were_none(tmp_path: Path) -> None:
    tables = read(tmp_path, "3.20.3", without=("CUPTI_ACTIVITY_KIND_MEMCPY",))
    assert tables["copies"] == []
    assert tables["traces"][0]["memcpy_exposed_ns"] == 0


def test_below_70_percent_phases_are_null_with_the_reason(tmp_path: Path) -> None:
    ranks = made_up.ranks()
    more = [made_up.Op("kernel", 3_000_000 + n, 3_000_001 + n, 5_000 + n, made_up.GEMM) for n in range(5)]
    ranks[0].ops += more
    tables = read(tmp_path, "3.20.3", ranks=ranks)
    first, second = tables["traces"]
    assert first["attributed_share"] == 9 / 16
    assert "9 of 16 kernels (56%)" in first["reason"]
    for name in ("steps", "kernels", "copies", "collectives", "gaps", "launches"):
        assert {row["phase"] for row in tables[name] if row["rank"] == 0} == {None}, name
        assert {row["phase"] for row in tables[name] if row["rank"] == 1} != {None}, name
    assert second["reason"] is None


def test_two_labels_around_one_step_are_one_step(tmp_path: Path) -> None:
    ranks = made_up.ranks(count=1)
    ranks[0].ranges.append(made_up.Range(1_005_000, 1_390_000, "step[EXTEND bs=1 toks=100]"))
    assert len(read(tmp_path, "3.20.3", ranks=ranks)["steps"]) == 5


def test_a_pause_of_the_host_is_no_part_of_a_step(tmp_path: Path) -> None:
    """Between the bursts nothing is asked of the engine: neither the step before nor its device waits for the CPU."""
    first = made_up.rank()
    first.ranges.pop()
    burst = first.later(1_000_000_000, first.pid, 0)
    for name in ("ops", "calls"):
        rows = getattr(burst, name)
        rows[:] = [made_up.replace(row, correlation=row.correlation + 2_000) for row in rows if row.correlation != 10]
        getattr(first, name).extend(rows)
    first.ranges += burst.ranges
    tables = read(tmp_path, "3.20.3", ranks=[first])
    assert len(tables["steps"]) == 8
    last = tables["steps"][3]
    assert (last["phase"], last["end_ns"]) == ("idle", 2_312_000 + 28_000)
    gaps = {(row["phase"], row["cause"]): row["total_ns"] for row in tables["gaps"]}
    assert gaps["prefill", "host_late"] < 1_000_000
    assert gaps[None, "host_late"] > 990_000_000
    assert sum(gaps.values()) == tables["traces"][0]["idle_ns"]


def test_sampling_in_a_range_of_its_own_inside_the_label(tmp_path: Path) -> None:
    ranks = made_up.ranks(count=1)
    ranks[0].ranges.append(made_up.Range(1_905_000, 1_920_000, "gpu_model_runner: sample"))
    tables = read(tmp_path, "3.20.3", ranks=ranks)
    step = tables["steps"][2]
    assert (step["sampling_cpu_ns"], step["sampling_gpu_ns"]) == (15_000, 30_000)
    assert pick(tables["kernels"], "kernel", phase="decode", part="sampling") == [(made_up.FLASH,)]


def test_two_threads_of_one_process_that_label_steps_keep_their_calls_apart(tmp_path: Path) -> None:
    one = made_up.Rank(1000, 0)
    for thread, at in ((0, 0), (1, 50_000)):
        one.ranges.append(made_up.Range(at, at + 100_000, f"step[DECODE bs={thread + 1}]", thread))
        one.calls.append(made_up.Call(at + 60_000, at + 61_000, thread + 1, "cudaLaunchKernel", thread))
        one.ops.append(made_up.Op("kernel", at + 70_000, at + 80_000, thread + 1, made_up.FLASH))
    tables = read(tmp_path, "3.20.3", ranks=[one])
    assert pick(tables["steps"], "generation_requests", "kernels") == [(1, 1), (2, 1)]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = made_up.write_nsys(tmp_path / "made.sqlite", made_up.ranks())
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE CUPTI_ACTIVITY_KIND_KERNEL RENAME COLUMN deviceId TO gpu")
    with pytest.raises(build.UserError, match=r"CUPTI_ACTIVITY_KIND_KERNEL of schema 3.20.3 has no column deviceId"):
        build.read([path])
