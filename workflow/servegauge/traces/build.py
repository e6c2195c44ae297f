"""From a profiler's file to the tables of a trace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from servegauge.base.errors import UserError
from servegauge.contract import columns
from servegauge.contract.trace_tables import TRACE_TABLES
from servegauge.traces import clock as clocks
from servegauge.traces import readers
from servegauge.traces import requests as joining
from servegauge.traces.activity import collective_rows, copy_rows, kernel_rows, launch_rows
from servegauge.traces.capture import Capture, merged
from servegauge.traces.gaps import gap_rows
from servegauge.traces.request_ttft import request_ttft_rows
from servegauge.traces.step_rows import step_rows, trace_rows
from servegauge.traces.view import view

UNEXPECTED = (ValueError, LookupError, ArithmeticError)
"""What a check of a trace's sums raises, and a reader that meets what no capture should hold."""
SUFFIXES = (".gz", ".sqlite", ".nsys-rep", ".json", ".trace", ".pt")


def of_files(trace: str, captures: Sequence[Path], window: Path | None = None) -> dict[str, pa.Table]:
    """Every table of the capture in these files, with the requests in `window`; UserError where one cannot be read."""
    requests = joining.read(window) if window else None
    try:
        return tables(trace, read(captures), requests)
    except UNEXPECTED as error:
        raise UserError(
            f"{', '.join(path.name for path in captures)}: what it holds contradicts itself "
            f"({type(error).__name__}: {error}); trace again, and report it if it happens twice"
        ) from error


def read(paths: Sequence[Path]) -> Capture:
    """The capture in one file, or in the files of several ranks: of one profiler, on one clock."""
    whole = [path.resolve() for path in paths]
    if twice := sorted({str(path) for path, one in zip(paths, whole, strict=True) if whole.count(one) > 1}):
        raise UserError(f"{', '.join(twice)}: given twice; give the file of each rank once")
    captures = [readers.read(path) for path in paths]
    for capture in captures:
        if not (len(capture.operations) or len(capture.calls) or len(capture.ranges)):
            raise UserError(
                f"{capture.file}: no GPU work, no API calls and no labels of steps: the profiler recorded nothing of a "
                "server; was it on while the server worked?"
            )
    if len({capture.profiler for capture in captures}) > 1:
        kinds = ", ".join(f"{capture.file}: {capture.profiler}" for capture in captures)
        raise UserError(f"the files are of different profilers ({kinds}); give those of one capture")
    if len(captures) > 1 and (without := [c.file for c in captures if c.epoch_zero_ns is None]):
        raise UserError(f"{', '.join(without)}: no Unix time of its zero, so ranks cannot be laid beside each other")
    return merged(captures)


def name_of(path: Path) -> str:
    """A capture's name from its file's: without the suffixes of profilers."""
    name = path.name
    while (stem := next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), "")) not in ("", name):
        name = stem
    return name


def tables(trace: str, capture: Capture, requests: joining.Requests | None = None) -> dict[str, pa.Table]:
    """Every table of TRACE_TABLES, conforming to its schema."""
    seen = view(trace, capture)
    shift, clock = clocks.join(capture, requests.clock if requests else None)
    steps = step_rows(seen, shift)
    joined = requests if clock["clock_source"] != clocks.NOTHING else None
    if joined is not None and len(joined.sent) and (apart := _apart(steps, joined)):
        clock = {**clock, "reasons": [*clock["reasons"], apart]}
    rows = {
        "traces": trace_rows(seen, clock),
        "steps": steps,
        "kernels": kernel_rows(seen),
        "copies": copy_rows(seen),
        "collectives": collective_rows(seen),
        "gaps": gap_rows(seen),
        "launches": launch_rows(seen),
        "request_steps": joining.request_step_rows(seen, steps, joined) if joined is not None else [],
        "request_ttft": request_ttft_rows(seen, shift, joined, clock["clock_error_ns"]) if joined is not None else [],
    }
    return {name: columns.from_rows(rows[name], schema) for name, schema in TRACE_TABLES.items()}


def _apart(steps: list[dict[str, Any]], requests: joining.Requests) -> str | None:
    """What to report where no request was under way during any step."""
    if not steps:
        return None
    begin, end = min(row["start_ns"] for row in steps), max(row["end_ns"] for row in steps)
    if ((requests.sent <= end) & (requests.end >= begin)).any():
        return None
    late = int(requests.sent.min()) - end
    far = (
        f"{late / 1e9:,.1f} s after its end"
        if late > 0
        else f"{(begin - int(requests.end.max())) / 1e9:,.1f} s before it"
    )
    return f"no request was under way during the capture, the nearest {far}: are they those of the traced window?"


def write(found: dict[str, pa.Table], folder: Path) -> list[Path]:
    """Write each table to `<folder>/<table>.parquet`, whole or not at all."""
    paths = {name: folder / f"{name}.parquet" for name in found}
    for name, table in found.items():
        columns.write(table, paths[name])
    return list(paths.values())
