"""The report's section about traces, from captures whose truth is known."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from servegauge.report.trace_section import Traced, idle_parts, trace_section
from servegauge.traces import build
from tests.unit.traces import made_up_captures as made_up


def traced(folder: Path, level: str, ranks=None, condition: str = "short", chrome: bool = False) -> Traced:
    ranks = ranks or made_up.ranks(count=1)
    place = folder / f"{condition}-{level}"
    place.mkdir()
    paths = made_up.write_chrome(place, ranks) if chrome else [made_up.write_nsys(place / "made.sqlite", ranks)]
    return Traced(condition, level, build.tables(f"{condition}-{level}", build.read(paths)))


def slower() -> list[made_up.Rank]:
    """The same work; the rotary embedding of step 1 lasts 25 us longer, and the GEMM of step 0 has another name."""
    one = made_up.rank()
    one.ops = [
        replace(op, end=op.end + 5_000) if op.name == made_up.ROPE else replace(op, name=f"{op.name}_other")
        if op.correlation == 1 and op.kind == "kernel" else op
        for op in one.ops
    ]  # fmt: skip
    return [one]


def test_nothing_traced_is_no_section() -> None:
    assert not trace_section([])


def test_phases_as_one_figure_and_one_csv(tmp_path: Path) -> None:
    conditions = ("short", "long")
    some = [traced(tmp_path, level, condition=c) for c in conditions for level in ("bare", "vm")]
    section = trace_section(some, "bare")
    assert [figure.name for figure in section.figures] == ["trace_phases", "trace_idle"]
    for word in ("short", "long", "bare, CPU", "vm, GPU busy", "sampling", "ms a step"):
        assert word in section.figures[0].svg, word
    rows = list(csv.DictReader(io.StringIO(section.phases_csv)))
    assert [(row["condition"], row["level"], row["phase"]) for row in rows] == [
        (c, level, phase)
        for c in conditions
        for level in ("bare", "vm")
        for phase in ("prefill", "mixed", "decode", "sampling")
    ]
    assert (rows[0]["cpu_ns"], rows[0]["gpu_busy_ns"], rows[0]["step_ns"]) == ("400000.0", "250000.0", "500000.0")


def test_idle_time_by_cause_is_that_of_the_gaps(tmp_path: Path) -> None:
    one = traced(tmp_path, "bare")
    parts = idle_parts(one.tables, "mixed")
    assert parts == pytest.approx(
        {
            "busy": 0.14,
            "host_late": 0.22,
            "launch_call": 0.015,
            "synchronisation": 0,
            "device": 0.135,
            "unattributed": 0,
        }
    )
    assert idle_parts(one.tables, "nothing") is None
    assert "host late" in trace_section([one]).figures[1].svg


def test_kernels_that_differ_most_come_first(tmp_path: Path) -> None:
    section = trace_section([traced(tmp_path, "bare"), traced(tmp_path, "vm", slower())], "bare")
    first = section.kernels[:3]
    found = {(one.phase, one.kernel): (one.baseline_ns, one.level_ns, one.ratio) for one in first}
    assert found == {
        ("prefill", made_up.GEMM): (100_000, None, None),
        ("prefill", f"{made_up.GEMM}_other"): (None, 100_000, None),
        ("mixed", made_up.ROPE): (30_000, 35_000, 35 / 30),
    }
    assert first[2].difference_ns == 5_000
    assert trace_section([traced(tmp_path, "x")], None).kernels == []


def test_what_was_recorded_differently_is_not_compared(tmp_path: Path) -> None:
    nodes = traced(tmp_path, "bare")
    whole = traced(tmp_path, "vm", made_up.ranks("graph", 1))
    section = trace_section([nodes, whole], "bare")
    assert section.kernels == []
    assert any("recorded CUDA graphs differently" in reason for reason in section.reasons)
    torch = traced(tmp_path, "torch", chrome=True)
    assert any("different profilers" in reason for reason in trace_section([nodes, torch], "bare").reasons)
    assert any("no trace of the baseline" in reason for reason in trace_section([nodes], "absent").reasons)


def test_what_a_trace_cannot_answer_is_said(tmp_path: Path) -> None:
    path = made_up.write_nsys(tmp_path / "made.sqlite", made_up.ranks(count=1), without=("NVTX_EVENTS",))
    section = trace_section([Traced("", "bare", build.tables("made", build.read([path])))])
    assert section.figures == []
    assert "no phases" in section.reasons[0]
    assert section
