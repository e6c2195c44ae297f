"""A run of `servegauge load` in numbers: the columns that a cell would have, its flags, and a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from servegauge.base.text import aligned
from servegauge.contract import metric_registry, metrics
from servegauge.contract.flags import cell_flags
from servegauge.contract.metric import LOAD
from servegauge.contract.records import base as records
from servegauge.contract.spec import Cell, Load, Workload
from servegauge.instrument.coordinator import LoadResult

IN_HEAD = ("achieved_rps", "output_tokens_per_s")  # beside what was offered and what was sent

FAILED = "failed"  # in place of a quantile that is among the requests that failed


def summarise(
    path: Path, load: Load, result: LoadResult, notes: Sequence[str], thresholds: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The columns of a cell for this run, its flags, and what the generator says of itself."""
    requests = metrics.derive(pq.read_table(path))
    window = requests.filter(metrics.in_window(requests))
    cell = Cell("", "", {"name": "load"}, load, Workload({"name": "load"}, {"name": "load"}, {}), load.protocol)
    sources = {source for source in window["tokens_source"].to_pylist() if source}
    if "chunks" in sources:
        notes = [*notes, "the server reports no usage: output tokens are counted as chunks; give --tokenizer to count"]
    failures: dict[str, str] = {}
    for status, error in zip(window["status"].to_pylist(), window["error"].to_pylist(), strict=True):
        if status != "ok":
            failures.setdefault(status, error or "")
    record = {"instrument": result.instrument, "window": records.plain(result.window)}
    return {
        "out": str(path),
        "stopped": result.stopped,
        "statuses": result.counts,
        "first_errors": failures,
        **metrics.summarise(requests, result.window.duration_s, load.loop),
        "instrument": result.instrument,
        "flags": cell_flags(requests, cell, record, thresholds),
        "notes": list(notes),
    }


def latency_table(summary: Mapping[str, Any]) -> list[str]:
    """Mean and quantiles of every distribution as lines for people; times in ms."""
    rows: list[tuple[str, ...]] = [("", "mean", "p50", "p90", "p99", "95 % interval of p99")]
    for metric in metric_registry.distributions():
        scale, unit = (1e3, "ms") if metric.unit == "s" else (1.0, metric.unit)
        values = [
            FAILED
            if f"{metric.name}_{name}" in summary["censored"]
            else _scaled(summary.get(metric.column_of(name)), scale)
            for name in ("mean", "p50", "p90", "p99", "p99_low", "p99_high")
        ]
        rows.append((f"{metric.name}, {unit}", *values[:4], f"{values[4]} to {values[5]}"))
    return aligned(rows)


def as_text(summary: Mapping[str, Any]) -> str:
    """The summary as a table for people; latencies in ms."""
    lines = latency_table(summary)
    counts = ", ".join(f"{count} {status}" for status, count in sorted(summary["statuses"].items())) or "none"
    head = [
        f"requests      {counts}, in {_number(summary['window_s'])} s",
        f"rate          {_number(summary['offered_rps'])} offered, {_number(summary['achieved_rps'])} answered /s",
        f"tokens        {_number(summary['input_tokens_per_s'])} in, {_number(summary['output_tokens_per_s'])} out /s; "
        f"{_number(summary['prompt_tokens_mean'])} in, {_number(summary['output_tokens_mean'])} out a request",
        "",
    ]
    instrument = summary["instrument"]
    head[-1:-1] = [
        f"{one.title:<13} {_number(summary[one.column])} {one.unit}"
        for one in metric_registry.shown(LOAD)
        if one.family is None and one.name not in IN_HEAD
    ]
    tail = ["", f"generator     {instrument['cpu_s']:.2f} s of CPU, {instrument['workers']} process(es)"]
    tail += [f"failed        {status}: {error}" for status, error in summary["first_errors"].items()]
    tail += [f"flag          {flag['flag']}: {flag['detail']}" for flag in summary["flags"]]
    tail += [f"note          {note}" for note in summary["notes"]]
    if summary["stopped"]:
        tail.append("stopped       before the end; what was measured is kept")
    return "\n".join([*head, *lines, *tail, f"written       {summary['out']}"])


def _scaled(value: float | None, scale: float) -> str:
    return "-" if value is None else f"{value * scale:.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}".rstrip("0").rstrip(".")
