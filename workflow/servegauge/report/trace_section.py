"""The report's section about traces: phases on CPU and GPU, idle time by cause, kernels whose time differs most.

`trace_section` is a pure function of trace tables (`contract.trace_tables`); `study_traces` takes them from a dataset.
What is compared is the mean over the traces of one condition and level, per engine step.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from servegauge.dataset.study_view import Study, label, level_text
from servegauge.report import figure_style
from servegauge.report.figure_style import Drawn
from servegauge.traces import phases

PANEL_IN = (3.6, 2.4)  # width, height of one panel, inches
COLUMNS = 2
MOST_KERNELS = 10
CAUSES = ("host_late", "launch_call", "synchronisation", "device", "unattributed")
CAUSE_TEXTS = {
    "host_late": "host late",
    "launch_call": "launch call",
    "synchronisation": "synchronisation",
    "device": "called for, not started",
    "unattributed": "no call known",
}
PHASE_CAPTION = (
    "Mean time of an engine step by phase: filled bars the CPU (the labelled forward pass; of sampling what follows "
    "it), open bars the union of the step's GPU operations. Sampling is a part of the steps beside it. Traced runs: "
    "profiling slows the CPU."
)
IDLE_CAPTION = (
    "Mean time of an engine step: GPU busy, then the device's idle time before the step's operations by cause. Host "
    "late: the next operation had not been called for; launch call: inside the call; synchronisation: the host waited "
    "for the GPU."
)
CSV_COLUMNS = ("condition", "level", *phases.COLUMNS)


@dataclass(frozen=True)
class Traced:
    """One trace: its condition and level of the compared factor in words, and its tables."""

    condition: str
    level: str
    tables: Mapping[str, pa.Table]


@dataclass(frozen=True)
class KernelDifference:
    """A kernel's mean time per step of a phase, in ns: on the baseline and on a level; None where it did not run."""

    condition: str
    level: str
    phase: str
    kernel: str
    kind: str
    baseline_ns: float | None
    level_ns: float | None

    @property
    def ratio(self) -> float | None:
        return self.level_ns / self.baseline_ns if self.level_ns and self.baseline_ns else None

    @property
    def difference_ns(self) -> float:
        return (self.level_ns or 0.0) - (self.baseline_ns or 0.0)


@dataclass
class TraceSection:
    """Empty where nothing was traced."""

    figures: list[Drawn] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    kernels: list[KernelDifference] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    phases_csv: str = ""
    not_traced: list[dict[str, Any]] = field(default_factory=list)  # rows of `traces` that failed

    def __bool__(self) -> bool:
        return bool(self.figures or self.reasons or self.not_traced)


def study_traces(study: Study) -> TraceSection:
    """The section of a study's traces; empty where none was asked for."""
    factor, baseline = study.factor()
    traced = [
        Traced(
            label({axis: value for axis, value in row["axes"].items() if axis != factor}),
            level_text(row["axes"].get(factor)) if factor in row["axes"] else str(row["platform"]),
            study.trace_tables(row["trace"]),
        )
        for row in study.traces
        if row["status"] == "ok"
    ]
    several = len({one.level for one in traced}) > 1
    section = trace_section(traced, level_text(baseline) if several and factor else None)
    section.not_traced = [row for row in study.traces if row["status"] != "ok"]
    return section


def trace_section(traced: Sequence[Traced], baseline: str | None = None) -> TraceSection:
    """The section of these traces; `baseline` is the level that kernels are compared with, None for no comparison.

    Kernels of traces by different profilers, or with graphs as one row and by node, differ by how they were recorded:
    they are not compared, and `reasons` says so.
    """
    if not traced:
        return TraceSection()
    rows = [(one, row) for one in traced for row in phases.phases(one.tables)]
    means = _means(rows)
    section = TraceSection(
        figures=[_phase_figure(means), _idle_figure(traced, means)] if means else [],
        sentences=[
            f"{one.condition}, {one.level}: {said}" if one.condition else f"{one.level}: {said}"
            for one in traced
            for said in phases.sentences(phases.phases(one.tables))
        ],
        reasons=_reasons(traced),
        phases_csv=_csv(rows),
    )
    if baseline is not None:
        section.kernels, unlike = kernel_differences(traced, baseline)
        section.reasons += unlike
    return section


def _reasons(traced: Sequence[Traced]) -> list[str]:
    said = []
    for one in traced:
        for row in one.tables["traces"].to_pylist():
            if row["reason"]:
                said.append(f"{row['trace']}, rank {row['rank']}: {row['reason']}")
    return list(dict.fromkeys(said))


def _csv(rows: Iterable[tuple[Traced, Mapping[str, Any]]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({"condition": one.condition, "level": one.level, **row} for one, row in rows)
    return out.getvalue()


def _means(rows: Sequence[tuple[Traced, Mapping[str, Any]]]) -> dict[tuple[str, str, str], dict[str, float | None]]:
    """Mean CPU and GPU time in ms of each (condition, level, phase), in the traces' order; None if one is None."""
    grouped: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for one, row in rows:
        grouped.setdefault((one.condition, one.level, row["phase"]), []).append(row)
    means = {}
    for key, found in grouped.items():
        values = {name: [row[name] for row in found] for name in ("cpu_ns", "gpu_busy_ns", "step_ns")}
        means[key] = {name: None if None in some else sum(some) / len(some) / 1e6 for name, some in values.items()}
    return means


def _panels(count: int, per_panel: int) -> tuple[Canvas, list[Axes]]:
    columns = min(COLUMNS, count)
    lines = -(-count // columns)
    width = max(PANEL_IN[0], 0.5 * per_panel)
    canvas = Canvas(figsize=(width * columns, PANEL_IN[1] * lines + 0.5), layout="constrained")
    axes = list(canvas.subplots(lines, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.set_visible(False)
    return canvas, axes[:count]


def _phase_figure(means: Mapping[tuple[str, str, str], Mapping[str, float | None]]) -> Drawn:
    """Bars of each phase: CPU beside GPU, level beside level, a panel for each condition."""
    conditions = list(dict.fromkeys(key[0] for key in means))
    levels = list(dict.fromkeys(key[1] for key in means))
    shown = [phase for phase in phases.ORDER if any(key[2] == phase for key in means)]
    with mpl.rc_context(figure_style.STYLE):
        canvas, axes = _panels(len(conditions), len(shown) * len(levels))
        width = 0.8 / (2 * len(levels))
        for condition, one in zip(conditions, axes, strict=True):
            for index, level in enumerate(levels):
                colour = figure_style.SERIES[index % len(figure_style.SERIES)]
                for kind, name in enumerate(("cpu_ns", "gpu_busy_ns")):
                    heights = [means.get((condition, level, phase), {}).get(name) for phase in shown]
                    at = np.arange(len(shown)) - 0.4 + width * (2 * index + kind + 0.5)
                    fill: dict[str, Any] = (
                        {"color": colour} if kind == 0 else {"facecolor": "none", "edgecolor": colour}
                    )
                    one.bar(
                        at,
                        [np.nan if height is None else height for height in heights],
                        width * 0.9,
                        linewidth=1.2,
                        label=f"{level}, {'CPU' if kind == 0 else 'GPU busy'}",
                        **fill,
                    )
            one.set_xticks(np.arange(len(shown)), shown)
            one.grid(axis="x", visible=False)
            one.set_title(condition, loc="left")
        canvas.supylabel("ms a step", fontsize=9)
        figure_style.legend(canvas, axes[0], 4)
        return figure_style.finish(canvas, "trace_phases", "Phases on CPU and GPU", PHASE_CAPTION)


def idle_parts(tables: Mapping[str, pa.Table], phase: str) -> dict[str, float] | None:
    """GPU busy and idle time by cause in ms per step of a phase; None where the trace has no such step."""
    steps = tables["steps"].to_pandas()
    own = steps[steps["phase"] == phase]
    if not len(own) or own["gpu_busy_ns"].isna().any():
        return None
    gaps = tables["gaps"].to_pandas()
    gaps = gaps[gaps["phase"] == phase]
    parts = {"busy": own["gpu_busy_ns"].sum()}
    parts |= {cause: gaps.loc[gaps["cause"] == cause, "total_ns"].sum() for cause in CAUSES}
    return {name: float(value) / len(own) / 1e6 for name, value in parts.items()}


def _idle_figure(traced: Sequence[Traced], means: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> Drawn:
    """One bar for each condition, phase and level: busy, then idle by cause."""
    bars: list[tuple[str, dict[str, float]]] = []
    for condition, level, phase in means:
        if phase == "sampling":
            continue
        some = [idle_parts(one.tables, phase) for one in traced if (one.condition, one.level) == (condition, level)]
        known = [parts for parts in some if parts]
        if known:
            name = ", ".join(filter(None, (condition, level, phase)))
            bars.append((name, {key: sum(parts[key] for parts in known) / len(known) for key in known[0]}))
    title = "Idle time of the GPU by cause"
    with mpl.rc_context(figure_style.STYLE):
        if not bars:
            return figure_style.nothing("trace_idle", title, "no trace has GPU work in its steps")
        canvas = Canvas(figsize=(7.0, 0.32 * len(bars) + 1.0), layout="constrained")
        axes = canvas.subplots()
        at = np.arange(len(bars))[::-1]
        left = np.zeros(len(bars))
        colours = [figure_style.INK, *figure_style.SERIES]
        for index, name in enumerate(("busy", *CAUSES)):
            values = np.array([parts[name] for _, parts in bars])
            if values.any():
                said = "GPU busy" if name == "busy" else CAUSE_TEXTS[name]
                axes.barh(at, values, 0.7, left=left, color=colours[index], label=said)
            left += values
        axes.set_yticks(at, [name for name, _ in bars])
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("ms a step")
        figure_style.legend(canvas, axes, 3)
        return figure_style.finish(canvas, "trace_idle", title, IDLE_CAPTION)


def kernel_differences(traced: Sequence[Traced], baseline: str) -> tuple[list[KernelDifference], list[str]]:
    """The kernels whose time per step differs most from the baseline's, largest first; and what cannot be compared."""
    found: list[KernelDifference] = []
    unlike: list[str] = []
    for condition in dict.fromkeys(one.condition for one in traced):
        here = [one for one in traced if one.condition == condition]
        base = [one for one in here if one.level == baseline]
        for level in dict.fromkeys(one.level for one in here if one.level != baseline):
            other = [one for one in here if one.level == level]
            if not base:
                unlike.append(f"{condition or level}: no trace of the baseline {baseline}, kernels are not compared")
                continue
            if why := _unlike([*base, *other]):
                unlike.append(f"{condition or level}: {baseline} and {level} {why}; kernels are not compared")
                continue
            found += _differences(condition, level, _per_step(base), _per_step(other))
    found.sort(key=lambda one: (-abs(one.difference_ns), one.kernel))
    return found[:MOST_KERNELS], unlike


def _unlike(traced: Sequence[Traced]) -> str | None:
    """Why kernels of these traces cannot be compared by name, None where they can."""
    seen = {
        column: {value for one in traced for value in one.tables["traces"][column].to_pylist()}
        for column in ("profiler", "graph_mode")
    }
    if len(seen["profiler"]) > 1:
        return "were traced by different profilers, which name kernels differently"
    if {"graph", "node"} <= seen["graph_mode"]:
        return "recorded CUDA graphs differently, as one row and by node"
    return None


def _per_step(traced: Sequence[Traced]) -> dict[tuple[str, str], tuple[float, str]]:
    """(phase, kernel) -> mean ns per step of the phase and rank, and the kernel's kind."""
    tables: list[pd.DataFrame] = []
    counts: dict[str, int] = {}
    for one in traced:
        steps = one.tables["steps"].to_pandas()
        for phase, count in steps["phase"].value_counts().items():
            counts[str(phase)] = counts.get(str(phase), 0) + int(count)
        tables.append(one.tables["kernels"].to_pandas())
    kernels = pd.concat(tables).dropna(subset=["phase"])
    out = {}
    for (phase, kernel), some in kernels.groupby(["phase", "kernel"], observed=True):
        out[str(phase), str(kernel)] = (float(some["total_ns"].sum()) / counts[str(phase)], str(some["kind"].iloc[0]))
    return out


def _differences(
    condition: str,
    level: str,
    base: Mapping[tuple[str, str], tuple[float, str]],
    other: Mapping[tuple[str, str], tuple[float, str]],
) -> list[KernelDifference]:
    phases_of_both = {phase for phase, _ in base} & {phase for phase, _ in other}
    return [
        KernelDifference(
            condition=condition,
            level=level,
            phase=phase,
            kernel=kernel,
            kind=(other.get((phase, kernel)) or base[phase, kernel])[1],
            baseline_ns=base[phase, kernel][0] if (phase, kernel) in base else None,
            level_ns=other[phase, kernel][0] if (phase, kernel) in other else None,
        )
        for phase, kernel in sorted({*base, *other})
        if phase in phases_of_both
    ]
