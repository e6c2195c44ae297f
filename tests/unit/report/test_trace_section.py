"""The report's section about traces, from captures whose truth is known."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest

from servegauge.report.figure import Material
from servegauge.report.figure_style import STYLE
from servegauge.report.figures import figures
from servegauge.report.platform_section import PlatformSection
from servegauge.report.plots.series import Series
from servegauge.report.trace_section import trace_section
from servegauge.report.traced import TABLE_COLUMNS, Traced, idle_parts, phases_csv, table_csv
from servegauge.traces import build
from tests import trace_results
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


def drawn(name: str, traced: list[Traced]) -> str:
    """The SVG of a figure of the section."""
    figure = figures()[f"trace-{name}"]
    with mpl.rc_context(STYLE):
        return figure.draw(Material(None, None, PlatformSection(), Series(None, [None]), traced), figure).svg


def test_phases_as_one_figure_and_one_csv(tmp_path: Path) -> None:
    conditions = ("short", "long")
    some = [traced(tmp_path, level, condition=c) for c in conditions for level in ("bare", "vm")]
    svg = drawn("phases", some)
    for word in ("short", "long", "bare, CPU", "vm, GPU busy", "sampling", "ms a step"):
        assert word in svg, word
    rows = list(csv.DictReader(io.StringIO(phases_csv(some))))
    assert [(row["condition"], row["level"], row["phase"]) for row in rows] == [
        (c, level, phase)
        for c in conditions
        for level in ("bare", "vm")
        for phase in ("prefill", "mixed", "decode", "sampling")
    ]
    assert (rows[0]["cpu_ns"], rows[0]["gpu_busy_ns"], rows[0]["step_ns"]) == ("400000.0", "250000.0", "500000.0")


def test_the_table_is_prompt_times_process_times_platform(tmp_path: Path) -> None:
    """prefill, sampling and decode on CPU and GPU of each platform, a short and a long prompt: one row each."""
    slow = [made_up.rank()]
    slow[0].ranges[0] = replace(slow[0].ranges[0], end=1_420_000 - 1)  # the label of step 0, 400 us before
    slow[0].ops[1] = replace(slow[0].ops[1], end=1_145_000)  # hidden behind the all-reduce
    some = [
        traced(tmp_path, level, slow if level == "vm" else None, condition=c)
        for c in ("short", "long")
        for level in ("bare", "vm")
    ]
    rows = list(csv.DictReader(io.StringIO(table_csv(some, "bare"))))
    assert list(rows[0]) == list(TABLE_COLUMNS)
    assert [(row["condition"], row["side"], row["level"], row["traces"]) for row in rows] == [
        (c, side, level, "1") for c in ("short", "long") for side in ("CPU", "GPU") for level in ("bare", "vm")
    ]
    (bare_cpu, vm_cpu, bare_gpu, vm_gpu) = rows[:4]
    assert (bare_cpu["prefill_ms"], vm_cpu["prefill_ms"]) == ("0.4", "0.419999")
    assert (bare_cpu["prefill_ratio"], float(vm_cpu["prefill_ratio"])) == ("", pytest.approx(0.419999 / 0.4))
    assert (bare_gpu["prefill_ms"], vm_gpu["prefill_ms"], vm_gpu["prefill_ratio"]) == ("0.25", "0.25", "1.0")
    assert (float(bare_gpu["sampling_ms"]), bare_gpu["mixed_ms"]) == (pytest.approx(0.01 / 3), "0.14")
    # Repeats are averaged; what was recorded differently has no ratio.
    more = [*some, Traced("short", "bare", some[1].tables)]
    assert table_csv(more, None).splitlines()[1].split(",")[:5] == ["short", "CPU", "bare", "2", "0.4099995"]
    (tmp_path / "torch").mkdir()
    torch = traced(tmp_path / "torch", "vm", chrome=True)
    apart = list(csv.DictReader(io.StringIO(table_csv([some[0], torch], "bare"))))
    assert {row["prefill_ratio"] for row in apart} == {""}


def test_the_way_to_a_first_token_is_drawn_level_beside_level() -> None:
    joined = trace_results.h100_joined()
    untold = {**joined, "request_ttft": joined["request_ttft"].slice(0, 0)}
    svg = drawn("ttft", [Traced("short", "bare", joined), Traced("short", "vm", joined), Traced("long", "vm", untold)])
    words = ("bare", "vm", "client", "queue", "CPU", "launch gap", "kernels", "sampling", "return", "TTFT", ">73.4<")
    for word in words:
        assert word in svg, word
    assert "long" not in svg
    assert "no trace tells the parts" in drawn("ttft", [Traced("long", "vm", untold)])
    assert "nothing was traced" in drawn("ttft", [])
    said = trace_section([Traced("short", "bare", joined)])
    assert any("short, bare: time to first token of 6 requests, 73.40 ms on average" in one for one in said.sentences)


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
    assert "host late" in drawn("idle", [one])


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
    one = Traced("", "bare", build.tables("made", build.read([path])))
    section = trace_section([one])
    assert "no trace tells the phases" in drawn("phases", [one])
    assert section.table == []
    assert "no phases" in section.reasons[0]
    assert section
