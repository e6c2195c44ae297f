"""What a traced cell left: `trace.json`, written last, which vouches for every file beside it."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from servegauge.contract.records.base import Record
from servegauge.contract.records.cell import FileHash


class TraceRecord(Record, frozen=True, kw_only=True):
    """A trace, or one that failed. Its launch is its own: no latency of it is one of the timed cell's.

    `captures` are those of its files that the profiler wrote, one a rank; without them its tables lie beside it.
    `cell` is the timed cell whose load was replayed under the profiler, null for a capture without one. `tpot_p50_s` is
    the median TPOT under the profiler, from which the profiler's cost is said.
    """

    WHAT: ClassVar[str] = "the record of a trace"
    REMEDY: ClassVar[str] = "Remove the folder {folder} and give the same command again: the cell is traced again."

    trace: str
    cell: str | None = None
    launch: str | None = None
    attempt: int = 0
    study: str = ""
    platform: str
    condition: str = ""
    profiler: Literal["nsys", "torch"]
    status: Literal["ok", "failed"] = "ok"
    reason: str | None = None
    started_utc: str | None = None
    finished_utc: str | None = None
    tpot_p50_s: float | None = None
    captures: tuple[str, ...] = ()
    files: dict[str, FileHash] = msgspec.field(default_factory=dict)
