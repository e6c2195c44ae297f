"""AIPerf's `profile_export.jsonl`: one JSON object per request, latencies in ms, moments in Unix nanoseconds.

Source of the format: ai-dynamo/aiperf, src/aiperf/common/models/record_models.py (Apache-2.0), versions of 2025. What
AIPerf does not keep is null: the moment when a request was due (older versions), what was asked for, connections,
texts.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from servegauge.base.errors import UserError
from servegauge.base.files import parse_json
from servegauge.exchange.formats import Importer, imported

PHASES = {"profiling": "window", "warmup": "warmup"}
UNITS_NS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "sec": 1e9, "s": 1e9}
CANCELLED = 499


class AIPerf(Importer):
    name = "aiperf"
    reads = "profile_export.jsonl of AIPerf: requests with first token, gaps between chunks and token counts"

    def recognises(self, path: Path) -> bool:
        try:
            with path.open(encoding="utf-8") as file:
                first = parse_json(file.readline())
            return {"metadata", "metrics"} <= first.keys() and _phase(first["metadata"]) is not None
        except (OSError, ValueError, AttributeError, TypeError):
            return False

    def requests(self, path: Path) -> tuple[pa.Table, Sequence[str]]:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            expected = "expected AIPerf's profile_export.jsonl, one JSON object a line"
            raise UserError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); {expected}") from None
        records = [_read(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
        if not records:
            raise UserError(f"{path}: holds no request; expected AIPerf's profile_export.jsonl, one JSON object a line")
        records.sort(key=lambda one: _start(one["metadata"]))
        window = [one for one in records if _phase(one["metadata"]) == "profiling"] or records
        zero = _start(window[0]["metadata"])
        workers = {name: index for index, name in enumerate(dict.fromkeys(_worker(one) for one in records))}
        counts: dict[str, itertools.count[int]] = {}
        rows = []
        for one in records:
            row = _row(one, zero)
            number = next(counts.setdefault(row["phase"], itertools.count()))
            rows.append({**row, "request": number, "worker": workers[_worker(one)]})
        notes = ["tokens are as AIPerf counted them; what was asked for, connections and texts are not in its file"]
        if any(row["scheduled_ns"] is None for row in rows):
            notes.append("the file does not say when requests were due: lateness and latencies from schedule are null")
        if untold := sum(row["chunk_tokens"] is None for row in rows if row["status"] == "ok"):
            notes.append(f"{untold} answers have another number of chunks than of tokens: their TPOT is unknown")
        return imported(rows), notes


def _read(path: Path, number: int, line: str) -> dict[str, Any]:
    """One line's object; UserError where it is none."""
    try:
        one: dict[str, Any] = parse_json(line)
        phase = _phase(one["metadata"])
        _start(one["metadata"])
        found = {name: one["metrics"][name] for name in one["metrics"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}:{number}: is no record of AIPerf ({type(error).__name__}: {error}); expected an object with "
            "metadata (benchmark_phase, request_start_ns, or their older names) and metrics, as in profile_export.jsonl"
        ) from error
    if phase not in PHASES:
        raise UserError(f"{path}:{number}: the phase is {phase!r}; there are {', '.join(PHASES)}")
    for name, metric in found.items():
        if not isinstance(metric, Mapping) or "value" not in metric:
            raise UserError(f"{path}:{number}: the metric {name!r} has no value; expected {{value, unit}}")
    return one


def _phase(metadata: Mapping[str, Any]) -> str | None:
    """The phase of the run; the name of the field changed between versions."""
    return metadata.get("benchmark_phase") or metadata.get("credit_phase")


def _start(metadata: Mapping[str, Any]) -> int:
    """When the request was sent, Unix nanoseconds; the name of the field changed, too."""
    return int(metadata["request_start_ns"] if "request_start_ns" in metadata else metadata["timestamp_ns"])


def _worker(one: Mapping[str, Any]) -> str:
    return str(one["metadata"].get("worker_id", ""))


def _row(one: Mapping[str, Any], zero: int) -> dict[str, Any]:
    metadata, metrics = one["metadata"], one["metrics"]

    def value(*names: str) -> Any:
        return next((metrics[name]["value"] for name in names if name in metrics), None)

    def nanoseconds(*names: str) -> Any:
        """A duration, or several, in ns."""
        for name in names:
            if name in metrics:
                found, factor = metrics[name]["value"], UNITS_NS[metrics[name]["unit"]]
                return [each * factor for each in found] if isinstance(found, list) else found * factor
        return None

    sent = _start(metadata) - zero
    ttft, took = nanoseconds("time_to_first_token", "ttft"), nanoseconds("request_latency")
    gaps = nanoseconds("inter_chunk_latency") or []
    chunks = [] if ttft is None else [sent + round(ttft + each) for each in itertools.accumulate([0, *gaps])]
    due = metadata.get("credit_issued_ns")
    output = value("output_sequence_length", "output_token_count")
    return {
        "cell": "aiperf",
        "launch": "aiperf",
        "phase": PHASES[str(_phase(metadata))],
        "scheduled_ns": None if due is None else int(due) - zero,
        "sent_ns": sent,
        "first_token_ns": chunks[0] if chunks else None,
        "last_ns": chunks[-1] if chunks else None,
        "end_ns": None if took is None else sent + round(took),
        "chunk_ns": chunks,
        # As many chunks as tokens: one in each. Otherwise it is unknown.
        "chunk_tokens": [1] * len(chunks) if output is not None and len(chunks) == int(output) else None,
        **_status(one),
        "prompt_tokens": value("input_sequence_length"),
        "output_tokens": None if output is None else int(output),
        "tokens_source": "tokenizer" if output is not None else None,
    }


def _status(one: Mapping[str, Any]) -> dict[str, Any]:
    """Status, HTTP status and words of an error, in our terms."""
    error = one.get("error")
    if not error:
        return {"status": "ok"}
    code, kind, message = error.get("code"), str(error.get("type") or ""), str(error.get("message") or "")
    status = "connection_error"
    if code == CANCELLED or "Cancel" in kind or one["metadata"].get("was_cancelled"):
        status = "cancelled"
    elif "Timeout" in kind:
        status = "timeout"
    elif isinstance(code, int) and 400 <= code < 600:
        status = "http_error"
    return {
        "status": status,
        "http_status": code if status == "http_error" else None,
        "error": ": ".join(filter(None, (kind, message))),
    }
