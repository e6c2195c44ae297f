"""The mean request's TTFT in parts, of one or several traces: parts that add up to the mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from servegauge.traces.request_ttft import PARTS

WORDS = {
    "client_ns": "client", "queue_ns": "queue", "cpu_ns": "CPU", "launch_gap_ns": "launch gap", "kernels_ns": "kernels",
    "sampling_ns": "sampling", "unattributed_ns": "no call known", "return_ns": "return",
}  # fmt: skip


@dataclass(frozen=True)
class Mean:
    """Means in ns over requests and ranks; a part is None where it is unknown for one of them."""

    ttft_ns: float
    parts: Mapping[str, float | None]
    requests: int


def mean(tables: Sequence[pa.Table]) -> Mean | None:
    """Over the rows of all `tables` (REQUEST_TTFT); None where not one has parts."""
    known = [row for row in _rows(tables) if row["return_ns"] is not None]
    if not known:
        return None
    count = len(known)
    parts: dict[str, float | None] = {}
    for name in PARTS:
        values = [row[name] for row in known]
        parts[name] = None if None in values else sum(values) / count
    whole = sum(row["ttft_ns"] for row in known) / count
    if parts["client_ns"] is None:  # where one answer has no head of its own, all count it as queue
        parts["queue_ns"] = sum((row["client_ns"] or 0) + row["queue_ns"] for row in known) / count
    rest = whole - sum(value or 0 for value in parts.values())
    if abs(rest) > 0.5:  # what one rank or trace can tell and another cannot
        parts["unattributed_ns"] = (parts["unattributed_ns"] or 0) + rest
    return Mean(whole, parts, len({(row["trace"], row["request"]) for row in known}))


def _rows(tables: Sequence[pa.Table]) -> list[dict[str, Any]]:
    return [row for table in tables for row in table.to_pylist()]


def sentences(tables: Sequence[pa.Table]) -> list[str]:
    """`time to first token of 6 requests, 73.2 ms on average: client 4.1 ms, queue 21.8 ms, ...`, and what is null."""
    texts = []
    if found := mean(tables):
        parts = [f"{WORDS[name]} {value / 1e6:.2f} ms" for name, value in found.parts.items() if value]
        whole = f"{found.ttft_ns / 1e6:.2f} ms on average"
        texts.append(f"time to first token of {_requests(found.requests)}, {whole}: {', '.join(parts)}")
    reasons = Counter(
        reason for _, _, reason in {(r["trace"], r["request"], r["reason"]) for r in _rows(tables)} if reason
    )
    return texts + [f"time to first token of {_requests(count)}: {reason}" for reason, count in sorted(reasons.items())]


def _requests(count: int) -> str:
    return f"{count} request{'s' * (count != 1)}"
