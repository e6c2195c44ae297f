"""Traces as the report compares them: by condition and level of the compared factor, means over traces of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from servegauge.base.text import csv_text
from servegauge.contract.columns import Row
from servegauge.dataset.study_view import Study, label, level_text, without
from servegauge.traces import phases

CAUSES = ("host_late", "launch_call", "synchronisation", "device", "unattributed")
SIDES = {"CPU": "cpu_ns", "GPU": "gpu_busy_ns"}  # a process of the table -> column of `phases`
PHASES_COLUMNS = ("condition", "level", *phases.COLUMNS)
TABLE_COLUMNS = (
    "condition", "side", "level", "traces", *(f"{phase}_{what}" for phase in phases.ORDER for what in ("ms", "ratio")),
)  # fmt: skip


@dataclass(frozen=True)
class Traced:
    """One trace: its condition and level of the compared factor in words, its tables, and the row of its timed cell."""

    condition: str
    level: str
    tables: Mapping[str, pa.Table]
    cell: Row = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Condition and level in words."""
        return ", ".join(filter(None, (self.condition, self.level)))


def of_study(study: Study) -> list[Traced]:
    """The measured traces of a study, in the order of its cells."""
    factor, _ = study.factor()
    cells = {row["cell"]: row for row in study.cells}
    return [
        Traced(
            label(without(row, factor)),
            level_text(row["axes"].get(factor)) if factor in row["axes"] else str(row["platform"]),
            study.trace_tables(row["trace"]),
            cells.get(row["cell"], {}),
        )
        for row in study.traces
        if row["status"] == "ok"
    ]


def baseline_of(study: Study, traced: Sequence[Traced]) -> str | None:
    """The level that traces are compared with; None where all are of one level, or nothing is compared."""
    factor, baseline = study.factor()
    several = len({one.level for one in traced}) > 1
    return level_text(baseline) if several and factor else None


def groups(traced: Iterable[Traced]) -> dict[tuple[str, str], list[Traced]]:
    """Traces by condition and level, in their order."""
    found: dict[tuple[str, str], list[Traced]] = {}
    for one in traced:
        found.setdefault((one.condition, one.level), []).append(one)
    return found


def phase_rows(traced: Iterable[Traced]) -> list[tuple[Traced, Mapping[str, Any]]]:
    """Each trace with each row of its phase table."""
    return [(one, row) for one in traced for row in phases.phases(one.tables)]


def means(
    rows: Sequence[tuple[Traced, Row]],
) -> dict[tuple[str, str, str], dict[str, float | None]]:
    """Mean CPU and GPU time in ms of each (condition, level, phase), in the traces' order; None if one is None."""
    grouped: dict[tuple[str, str, str], list[Row]] = {}
    for one, row in rows:
        grouped.setdefault((one.condition, one.level, row["phase"]), []).append(row)
    found = {}
    for key, some in grouped.items():
        values = {name: [row[name] for row in some] for name in ("cpu_ns", "gpu_busy_ns", "step_ns")}
        found[key] = {name: None if None in some else sum(some) / len(some) / 1e6 for name, some in values.items()}
    return found


def unlike(traced: Sequence[Traced]) -> str | None:
    """Why times of these traces cannot be compared, None where they can."""
    seen = {
        column: {value for one in traced for value in one.tables["traces"][column].to_pylist()}
        for column in ("profiler", "graph_mode")
    }
    if len(seen["profiler"]) > 1:
        return "were traced by different profilers, which name kernels differently"
    if {"graph", "node"} <= seen["graph_mode"]:
        return "recorded CUDA graphs differently, as one row and by node"
    return None


def phase_table(traced: Sequence[Traced], baseline: str | None = None) -> list[dict[str, Any]]:
    """TABLE_COLUMNS: a row per condition, process (CPU, GPU) and level; ratios to `baseline` where both compare."""
    found = groups(traced)
    mean = means(phase_rows(traced))
    out = []
    for condition in dict.fromkeys(key[0] for key in found):
        base = found.get((condition, baseline)) if baseline is not None else None
        levels = [level for where, level in found if where == condition]
        for side, column in SIDES.items():
            for level in levels:
                some = found[condition, level]
                row: dict[str, Any] = {"condition": condition, "side": side, "level": level, "traces": len(some)}
                compared = base is not None and level != baseline and unlike([*base, *some]) is None
                for phase in phases.ORDER:
                    value = mean.get((condition, level, phase), {}).get(column)
                    other = mean.get((condition, str(baseline), phase), {}).get(column) if compared else None
                    row |= {f"{phase}_ms": value, f"{phase}_ratio": value / other if value and other else None}
                out.append(row)
    return out


def table_csv(traced: Sequence[Traced], baseline: str | None = None) -> str:
    """The phase table as CSV."""
    return csv_text(TABLE_COLUMNS, phase_table(traced, baseline))


def phases_csv(traced: Sequence[Traced]) -> str:
    """The phases of every trace as CSV."""
    return csv_text(
        PHASES_COLUMNS, ({"condition": one.condition, "level": one.level, **row} for one, row in phase_rows(traced))
    )


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
