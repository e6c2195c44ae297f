"""The table that explains a result: time of prefill, mixed, decode and sampling, on the CPU and on the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyarrow as pa

from servegauge.base.text import aligned, share_text

WAITS_BELOW = 0.5
"""The GPU is busy less than this share of a step: something else decides how long the step takes."""
CAUSES = {
    "host": ("host_late", "launch_call"),
    "synchronisation": ("synchronisation",),
    "device": ("device",),
    "unattributed": ("unattributed",),
}
WAITS_FOR = {
    "host": "the CPU",
    "synchronisation": "synchronisation of CPU and GPU",
    "device": "work that was called for and had not started (dependencies, graph launches)",
}

ORDER = ("prefill", "mixed", "decode", "sampling")

COLUMNS = (
    "trace", "phase", "steps", "context_tokens", "generation_tokens", "step_ns", "cpu_ns", "gpu_busy_ns", "gpu_share",
    "kernels", "launches", "graph_launches", "idle_host_share", "idle_synchronisation_share", "idle_device_share",
    "idle_unattributed_share",
)  # fmt: skip
"""Columns of phases.csv: means over whole steps (not cut by the capture) and ranks; gpu_share is sum of busy / sum of
steps, idle_*_share the cause's part of the device's idle time before operations of the phase."""


def phases(tables: Mapping[str, pa.Table]) -> list[dict[str, Any]]:
    """One row per trace and phase, with COLUMNS. `sampling` is a part of the others' steps, not beside them."""
    steps = tables["steps"].to_pandas()
    gaps = tables["gaps"].to_pandas()
    out: list[dict[str, Any]] = []
    for trace, all_steps in steps.groupby("trace", observed=True, sort=True):
        named = whole(all_steps[all_steps["phase"].isin(ORDER)])
        for phase in ORDER[:3]:
            some = named[named["phase"] == phase]
            if len(some):
                idle = gaps[(gaps["trace"] == trace) & (gaps["phase"] == phase)]
                out.append({"trace": trace, "phase": phase} | _row(some) | _idle(idle))
        if len(named) and named["sampling_cpu_ns"].notna().any():
            out.append({"trace": trace, "phase": "sampling"} | _sampling(named))
    return out


def whole(steps: pd.DataFrame) -> pd.DataFrame:
    """Without the steps that the capture cut, in each phase that has others: a part of a step is no step's time."""
    whole = steps[~steps["cut"]]
    return pd.concat([whole, steps[steps["cut"] & ~steps["phase"].isin(whole["phase"])]])


def _row(steps: pd.DataFrame) -> dict[str, Any]:
    period = steps["end_ns"] - steps["start_ns"]
    busy = steps["gpu_busy_ns"]
    known = bool(busy.notna().all())
    return {
        "steps": len(steps),
        "context_tokens": _sum(steps["context_tokens"]),
        "generation_tokens": _sum(steps["generation_tokens"]),
        "step_ns": float(period.mean()),
        "cpu_ns": _mean(steps["cpu_ns"]),
        "gpu_busy_ns": _mean(busy),
        "gpu_share": float(busy.sum() / period.sum()) if known and period.sum() else None,
        **{name: _mean(steps[name]) for name in ("kernels", "launches", "graph_launches")},
    }


def _sampling(steps: pd.DataFrame) -> dict[str, Any]:
    period, busy = steps["end_ns"] - steps["start_ns"], steps["sampling_gpu_ns"]
    nothing = dict.fromkeys(COLUMNS[3:])
    return nothing | {
        "steps": len(steps),
        "step_ns": float(period.mean()),
        "cpu_ns": _mean(steps["sampling_cpu_ns"]),
        "gpu_busy_ns": _mean(busy),
        "gpu_share": float(busy.sum() / period.sum()) if busy.notna().all() and period.sum() else None,
    }


def _mean(values: pd.Series) -> float | None:
    return float(values.mean()) if len(values) and values.notna().all() else None


def _sum(values: pd.Series) -> int | None:
    return int(values.sum()) if len(values) and values.notna().all() else None


def _idle(gaps: pd.DataFrame) -> dict[str, float | None]:
    total = gaps["total_ns"].sum()
    return {
        f"idle_{name}_share": float(gaps.loc[gaps["cause"].isin(causes), "total_ns"].sum() / total) if total else None
        for name, causes in CAUSES.items()
    }


def text(rows: list[dict[str, Any]]) -> str:
    """The rows of one trace as a table for the terminal; a dash where undefined."""
    heads = ("phase", "steps", "tokens", "step ms", "CPU ms", "GPU busy ms", "GPU busy", "kernels", "launches")
    lines = [heads]
    for row in rows:
        tokens = [row[name] for name in ("context_tokens", "generation_tokens")]
        lines.append(
            (
                row["phase"],
                str(row["steps"]),
                "–" if None in tokens else f"{sum(tokens):,}",
                *(_ms(row[name]) for name in ("step_ns", "cpu_ns", "gpu_busy_ns")),
                share_text(row["gpu_share"]),
                *("–" if row[name] is None else f"{row[name]:.0f}" for name in ("kernels", "launches")),
            )
        )
    return "\n".join(aligned(lines))


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value / 1e6:.3f}"


def sentences(rows: list[dict[str, Any]]) -> list[str]:
    """What the rows say in words: which phases wait, and for what."""
    out = []
    for row in rows:
        share = row["gpu_share"]
        idle = {name: row[f"idle_{name}_share"] for name in CAUSES}
        if row["phase"] == "sampling" or share is None or share >= WAITS_BELOW or None in idle.values():
            continue
        cause = max(idle, key=lambda name: idle[name])
        if cause in WAITS_FOR:
            sentence = f"{row['phase']} waits for {WAITS_FOR[cause]}: GPU busy {100 * share:.0f} % of a step"
            out.append(f"{sentence} ({100 * idle[cause]:.0f} % of its idle time)")
    return out
