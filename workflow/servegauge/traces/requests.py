"""The requests beside a capture, and which steps overlap which request.

Requests are on CLOCK_MONOTONIC, 0 at the start of their window; `clock` joins them to a capture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from servegauge.base.errors import UserError
from servegauge.base.files import parse_json
from servegauge.contract.columns import Row
from servegauge.traces.activity import phase_name
from servegauge.traces.clock import Clock
from servegauge.traces.view import PHASES, View

_COLUMNS = ("request", "sent_ns", "last_ns", "end_ns")
_OPTIONAL = ("first_byte_ns", "first_token_ns", "prompt_tokens", "cached_tokens")
_RECORDS = ("cell.json", "trace.json")  # beside the requests: they say what the stamps' clock was
FIRST_INSTANCE = 0  # a launch traces its first one


@dataclass(frozen=True)
class Sent:
    """A request on its way to the traced server, of whatever phase; ns on the requests' clock, None where not known."""

    request: int
    counted: bool  # of the window
    sent: int
    first_byte: int | None = None
    first_token: int | None = None
    tokens: int | None = None  # of its prompt, that a prefix cache did not have


@dataclass(frozen=True)
class Requests:
    """Requests of a window: int64 ns on their own clock; everything that was sent meanwhile; what the clock is."""

    request: np.ndarray
    sent: np.ndarray
    end: np.ndarray
    traffic: tuple[Sent, ...]  # by time of sending
    clock: Clock


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
    numbers = [name for name in (*_COLUMNS, *_OPTIONAL, "instance") if name in table.column_names]
    if wrong := [name for name in numbers if not _is_whole(table.schema.field(name).type)]:
        raise UserError(f"{path}: no requests: column {', '.join(wrong)} holds no whole numbers")
    if "instance" in table.column_names:
        table = table.filter(pc.equal(table["instance"], FIRST_INSTANCE))
    names = [name for name in (*_COLUMNS, *_OPTIONAL, "phase") if name in table.column_names]
    rows = [row for row in table.select(names).to_pylist() if row["sent_ns"] is not None]
    ends = [row["end_ns"] if row["last_ns"] is None else row["last_ns"] for row in rows]
    window = [
        (row["request"], row["sent_ns"], end)
        for row, end in zip(rows, ends, strict=True)
        if end is not None and _in_window(row)
    ]
    values = np.array(window, dtype=np.int64).reshape(-1, 3)
    traffic = sorted(map(_sent, rows), key=lambda one: one.sent)
    return Requests(values[:, 0], values[:, 1], values[:, 2], tuple(traffic), _clock(path, table))


def _is_whole(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_null(kind)


def _in_window(row: Row) -> bool:
    return row.get("phase", "window") == "window"


def _sent(row: Row) -> Sent:
    tokens = row.get("prompt_tokens")
    new = None if tokens is None else tokens - (row.get("cached_tokens") or 0)
    stamps = (row["sent_ns"], row.get("first_byte_ns"), row.get("first_token_ns"))
    return Sent(row["request"], _in_window(row), *stamps, new)


def _clock(path: Path, table: pa.Table) -> Clock:
    """The clock as the footer says it, else the record beside it; the stamps around a profiler from that record."""
    metadata = table.schema.metadata or {}
    beside = next((one for one in map(path.with_name, _RECORDS) if one.is_file()), None)
    record = _json(beside.read_text(encoding="utf-8", errors="replace"), str(beside)) if beside else None
    record = record if isinstance(record, dict) else {}
    stamps = record.get("clock")
    if b"clock" in metadata:
        stamps = _json(metadata[b"clock"].decode("utf-8", "replace"), f"{path}: metadata `clock`")
    return Clock.of(stamps, record.get("recorders"))


def _json(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{where}: no JSON: {error}") from error


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
