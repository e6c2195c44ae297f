"""The requests beside a capture: whose clock is whose, and which steps overlap which request.

Requests are on CLOCK_MONOTONIC, 0 at the start of their window; what joins them to Unix time is `clock` as the load
generator writes it: `window_start_ns` (monotonic) and `epoch_offset_start_ns`, `epoch_offset_end_ns` (Unix - monotonic
time, before and after). A marker range named `servegauge:clock:<CLOCK_MONOTONIC in ns>` measures the join directly.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from servegauge.base.errors import UserError
from servegauge.traces import labels
from servegauge.traces.activity import phase_name
from servegauge.traces.capture import Capture
from servegauge.traces.view import PHASES, View

_COLUMNS = ("request", "sent_ns", "last_ns", "end_ns")


@dataclass(frozen=True)
class Requests:
    """Requests of a window: int64 ns on their own clock, and what is known of that clock."""

    request: np.ndarray
    sent: np.ndarray
    end: np.ndarray
    window_start_ns: int | None  # CLOCK_MONOTONIC at their 0
    epoch_offset_ns: int | None  # Unix - CLOCK_MONOTONIC


def read(path: Path) -> Requests:
    """Requests of a file that the load generator wrote, or of a part of the dataset's requests."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give what `servegauge load --out` wrote") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: no Parquet file of requests: {error}") from error
    if missing := [name for name in _COLUMNS if name not in table.column_names]:
        raise UserError(f"{path}: no requests: column {', '.join(missing)} is absent; see docs/data-dictionary.md")
    if "cell" in table.column_names and len(table["cell"].unique()) > 1:
        raise UserError(
            f"{path}: requests of {len(table['cell'].unique())} cells; give those of one, each has its clock"
        )
    end = [last if last is not None else ended for last, ended in zip(*_lists(table, "last_ns", "end_ns"), strict=True)]
    rows = [
        (number, sent, ended)
        for number, sent, ended, phase in zip(*_lists(table, "request", "sent_ns"), end, _phase(table), strict=True)
        if sent is not None and ended is not None and phase == "window"
    ]
    values = np.array(rows, dtype=np.int64).reshape(-1, 3)
    clock = _clock(path, table)
    return Requests(values[:, 0], values[:, 1], values[:, 2], *clock)


def _lists(table: pa.Table, *columns: str) -> list[list]:
    return [table[name].to_pylist() for name in columns]


def _phase(table: pa.Table) -> list[str]:
    return table["phase"].to_pylist() if "phase" in table.column_names else ["window"] * table.num_rows


def _clock(path: Path, table: pa.Table) -> tuple[int | None, int | None]:
    """Start of the window on CLOCK_MONOTONIC, and Unix - monotonic time: from the footer, or the record beside it."""
    metadata = table.schema.metadata or {}
    found: Any = None
    if b"clock" in metadata:
        found = _json(metadata[b"clock"].decode("utf-8", "replace"), f"{path}: metadata `clock`")
    elif beside := next((one for one in map(path.with_name, ("cell.json", "trace.json")) if one.is_file()), None):
        found = (_json(beside.read_text(encoding="utf-8"), str(beside)) or {}).get("clock")
    if not isinstance(found, dict):
        return None, None
    start, offset = found.get("window_start_ns"), found.get("epoch_offset_start_ns")
    return start if isinstance(start, int) else None, offset if isinstance(offset, int) else None


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: no JSON: {error}") from error


def join(capture: Capture, requests: Requests | None) -> tuple[int, dict[str, Any]]:
    """What to add to a time of the capture, and the clock's columns of TRACES with `reasons`."""
    none: dict[str, Any] = {"clock_source": "none", "clock_error_ns": None, "reasons": []}
    none["epoch_offset_ns"] = capture.epoch_zero_ns
    if requests is None:
        return 0, none
    differences = _markers(capture)
    if len(differences) and requests.window_start_ns is not None:
        # A marker begins after its stamp was taken, so the smallest difference is the nearest to the truth.
        offset = int(differences.min())
        shift = -offset - requests.window_start_ns
        epoch = None if requests.epoch_offset_ns is None else requests.window_start_ns + requests.epoch_offset_ns
        error = int(differences.max()) - offset if len(differences) > 1 else None
        reasons = [] if error is not None else ["clock error not measured: a single marker"]
        return shift, none | {
            "clock_source": "marker",
            "clock_error_ns": error,
            "epoch_offset_ns": epoch,
            "reasons": reasons,
        }
    start, to_epoch = requests.window_start_ns, requests.epoch_offset_ns
    if capture.epoch_zero_ns is not None and start is not None and to_epoch is not None:
        zero = start + to_epoch
        return capture.epoch_zero_ns - zero, none | {
            "clock_source": "epoch",
            "epoch_offset_ns": zero,
            "reasons": ["clock error not measured: joined by Unix time, the capture has no marker range"],
        }
    lacking = "the requests say nothing of their clock (metadata `clock`, or cell.json beside them)"
    if requests.window_start_ns is not None:
        lacking = "the capture has neither a marker range nor the Unix time of its zero"
    return 0, none | {"reasons": [f"not joined with the requests: {lacking}"]}


def _markers(capture: Capture) -> np.ndarray:
    """Time of the capture minus CLOCK_MONOTONIC, at each marker range."""
    ranges = capture.ranges
    found = [
        int(start) - stamp
        for start, name in zip(ranges.start, ranges.name, strict=True)
        if (stamp := labels.clock_marker(capture.names[name])) is not None
    ]
    return np.array(found, dtype=np.int64)


def request_step_rows(view: View, steps: list[dict[str, Any]], requests: Requests) -> list[dict[str, Any]]:
    """Rows of REQUEST_STEPS from rows of STEPS on the requests' clock. Idle steps hold no request."""
    out = []
    for rank in sorted(set(view.ranks.values())):
        rows = {row["step"]: row for row in steps if row["rank"] == rank and row["phase"] != "idle"}
        numbers = np.array(sorted(rows), dtype=np.int64)
        if not len(numbers):
            continue
        start = np.array([rows[n]["start_ns"] for n in numbers.tolist()], dtype=np.int64)
        end = np.array([rows[n]["end_ns"] for n in numbers.tolist()], dtype=np.int64)
        phase = np.array([PHASES.index(p) if (p := rows[n]["phase"]) else -1 for n in numbers.tolist()])
        for number, sent, ended in zip(requests.request, requests.sent, requests.end, strict=True):
            overlap = np.minimum(end, ended) - np.maximum(start, sent)
            inside = np.nonzero(overlap > 0)[0]
            prefill = inside[(phase[inside] == 0) | (phase[inside] == 1)]
            begun = start[prefill][start[prefill] >= sent]
            decode = int(((phase[inside] == 2) | (phase[inside] == 1)).sum())
            out += [
                {
                    "trace": view.trace,
                    "rank": rank,
                    "request": int(number),
                    "step": int(numbers[index]),
                    "phase": phase_name(int(phase[index])),
                    "membership": "time",
                    "overlap_ns": int(overlap[index]),
                    "queue_ns": int(begun.min() - sent) if len(begun) else None,
                    "prefill_steps": len(prefill),
                    "decode_steps": decode,
                }
                for index in inside
            ]
    return out
